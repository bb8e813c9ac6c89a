//! What goes into a recording, in the order in which it was seen.

use std::{collections::BTreeMap, fs::File, io::BufWriter};

use anyhow::Result;
use crossbeam_channel::Receiver;

use crate::record::{Fact, Writer};

/// A piece of a recording under way.
pub enum Taped {
    /// Consecutive event records; `sequence` is the number of the first.
    Events {
        sequence: u64,
        bytes: Vec<u8>,
    },
    /// Rare, and large beside the others.
    Fact(Box<Fact>),
    End {
        elapsed_ns: u64,
        lost: BTreeMap<String, u64>,
    },
}

/// Writes pieces until the end, or until nobody sends any more.
pub fn write(mut writer: Writer<BufWriter<File>>, pieces: &Receiver<Taped>) -> Result<()> {
    for piece in pieces {
        match piece {
            Taped::Events { sequence, bytes } => writer.events(sequence, &bytes)?,
            Taped::Fact(fact) => writer.fact(&fact)?,
            Taped::End { elapsed_ns, lost } => {
                writer.finish(elapsed_ns, &lost)?;
                return Ok(());
            }
        }
    }
    writer.flush()
}
