//! The recording format, `.rrec`: what the kernel reported, byte for byte, and what was learnt beside it, so that a replay is exact.
//!
//! `docs/recording-format.md` describes the file. Knows nothing of what the events mean: it walks their lengths only.
#![deny(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used)]

mod crc32;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::model::{Endpoint, Process, Remote, Translation};

pub use reader::{Ending, Reader, read_header};
pub use writer::Writer;

/// Begins every recording: no text, and damaged by a transfer as text.
pub const MAGIC: [u8; 8] = *b"RREC\r\n\x1a\n";
/// The version written; others are refused.
pub const VERSION: u32 = 1;
/// A chunk with a longer payload is corrupt.
pub const MAX_CHUNK: u32 = 16 << 20;
/// The same for chunks of MessagePack: decoded they are many times larger.
pub const MAX_MAP_CHUNK: u32 = 1 << 20;

/// MAGIC and VERSION.
const FILE_HEADER_LEN: u64 = 12;
/// kind u32, length u32, sequence u64, checksum of these 16 bytes u32, checksum of the payload u32.
const CHUNK_HEADER_LEN: usize = 24;
/// An event record begins with `struct event_header`.
const EVENT_HEADER_LEN: usize = 32;

const KIND_HEADER: u32 = 1;
const KIND_EVENTS: u32 = 2;
const KIND_FACT: u32 = 3;
const KIND_LOSSES: u32 = 4;
const KIND_END: u32 = 5;

/// Where and how the recording was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub hostname: String,
    pub kernel_release: String,
    pub agent_version: String,
    /// Wall clock at the begin.
    pub start_unix_ns: u64,
    /// What to add to an event's time (CLOCK_MONOTONIC) to get nanoseconds since 1970.
    pub monotonic_to_unix_ns: i64,
    /// Settings that a replay must have too.
    pub settings: BTreeMap<String, serde_json::Value>,
}

/// The header as it is in the file.
#[derive(Serialize, Deserialize)]
struct HeaderChunk {
    /// Of the event records: "little" or "big".
    byte_order: String,
    #[serde(flatten)]
    header: Header,
}

const BYTE_ORDER: &str = if cfg!(target_endian = "little") { "little" } else { "big" };

/// What was learnt beside the events, and holds from number `sequence` on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FactMap", into = "FactMap")]
pub struct Fact {
    pub sequence: u64,
    pub known: Known,
}

/// A fact as it is in the file. Not an enum that is flattened into the map: reading such a one reserves memory for as many members as a
/// damaged length says.
#[derive(Serialize, Deserialize)]
struct FactMap {
    sequence: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    process: Option<Arc<Process>>,
    /// Of `process`.
    #[serde(default)]
    renamed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remote: Option<(Endpoint, Option<Arc<Remote>>)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    translated: Option<(u64, Translation)>,
}

impl From<Fact> for FactMap {
    fn from(Fact { sequence, known }: Fact) -> Self {
        let map = Self { sequence, process: None, renamed: false, remote: None, translated: None };
        match known {
            Known::Process(process) => Self { process: Some(process), ..map },
            Known::Renamed(process) => Self { process: Some(process), renamed: true, ..map },
            Known::Remote(end, remote) => Self { remote: Some((end, remote)), ..map },
            Known::Translated(id, translation) => Self { translated: Some((id, translation)), ..map },
        }
    }
}

impl TryFrom<FactMap> for Fact {
    type Error = &'static str;

    fn try_from(map: FactMap) -> Result<Self, Self::Error> {
        let sequence = map.sequence;
        let known = match map {
            FactMap { process: Some(process), renamed: false, .. } => Known::Process(process),
            FactMap { process: Some(process), .. } => Known::Renamed(process),
            FactMap { remote: Some((end, remote)), .. } => Known::Remote(end, remote),
            FactMap { translated: Some((id, translation)), .. } => Known::Translated(id, translation),
            _ => return Err("a fact about nothing"),
        };
        Ok(Self { sequence, known })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// What its pid stands for.
    Process(Arc<Process>),
    /// The process was known before and is known better now (its container got a name): connections it had already show it too.
    Renamed(Arc<Process>),
    /// What the cluster says of an end; a client's end has port 0.
    Remote(Endpoint, Option<Arc<Remote>>),
    /// The ends of a connection as its server has them, by the connection's id.
    Translated(u64, Translation),
}

/// Written last, when the recording was ended in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub elapsed_ns: u64,
    /// Events in the file.
    pub events: u64,
    /// All that was lost, by reason, from begin to end.
    pub losses: BTreeMap<String, u64>,
}

/// A part of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Whole event records, one behind the other; [`records`] walks them. `sequence` is the number of the first.
    Events {
        sequence: u64,
        bytes: Vec<u8>,
    },
    Fact(Fact),
    /// What was lost since the begin, by reason, as known before event `sequence`.
    Losses {
        sequence: u64,
        losses: BTreeMap<String, u64>,
    },
    End(End),
}

/// The event records in `bytes`; an item is `None`, and the last, where a length is impossible.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = rest
            .first_chunk()
            .map(|length| u32::from_ne_bytes(*length) as usize)
            .filter(|&length| length >= EVENT_HEADER_LEN)
            .and_then(|length| rest.split_at_checked(length));
        rest = record.map_or(&[], |(_, behind)| behind);
        Some(record.map(|(record, _)| record))
    })
}

/// Number of records in `bytes`, if all are whole.
fn count_records(bytes: &[u8]) -> Option<u64> {
    records(bytes).try_fold(0, |count, record| record.map(|_| count + 1))
}
