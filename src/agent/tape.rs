//! What goes into a recording, in the order in which it was seen.

use std::{collections::BTreeMap, fs::File, io::BufWriter, sync::Arc};

use anyhow::Result;
use crossbeam_channel::Receiver;

use crate::{model::Process, record::Writer};

/// A piece of a recording under way.
pub enum Taped {
    /// Consecutive event records; `sequence` is the number of the first.
    Events {
        sequence: u64,
        bytes: Vec<u8>,
    },
    /// From event `sequence` on, the process's pid stands for it.
    Fact {
        sequence: u64,
        process: Arc<Process>,
    },
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
            Taped::Fact { sequence, process } => writer.fact(sequence, &process)?,
            Taped::End { elapsed_ns, lost } => {
                writer.finish(elapsed_ns, &lost)?;
                return Ok(());
            }
        }
    }
    writer.flush()
}
