//! The sources without a kernel: recordings and capture files, in full and in order, as fast as they can be read.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result};

use super::{
    losses::{Losses, Reason},
    router::Router,
};
use crate::{
    event::{self, Body, Event},
    model::ConnectionId,
    packet,
    record::{self, Chunk, End, Ending, Header},
};

/// Between two ticks of a capture file.
const TICK_NS: u64 = 1_000_000_000;

/// The key of a recording's settings that says so.
pub const FRAMES: &str = "frames";

/// The two kinds of file, by their first bytes.
pub enum Input {
    Recording { file: File, header: Box<Header> },
    Capture(File),
}

impl Input {
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let mut magic = [0; record::MAGIC.len()];
        let read = file.read(&mut magic).with_context(|| format!("reading {}", path.display()))?;
        file.seek(SeekFrom::Start(0)).with_context(|| format!("rewinding {}", path.display()))?;
        if magic[..read] != record::MAGIC[..] {
            return Ok(Self::Capture(file));
        }
        let header = record::read_header(BufReader::new(&file)).with_context(|| format!("reading {}", path.display()))?;
        file.seek(SeekFrom::Start(0)).with_context(|| format!("rewinding {}", path.display()))?;
        Ok(Self::Recording { file, header: Box::new(header) })
    }

    /// From the clock of the events to nanoseconds since 1970.
    pub fn unix_offset_ns(&self) -> i64 {
        match self {
            Self::Recording { header, .. } => header.monotonic_to_unix_ns,
            Self::Capture(_) => 0,
        }
    }

    /// What it holds was seen from outside: a capture file, or a recording of frames.
    pub fn is_of_frames(&self) -> bool {
        match self {
            Self::Recording { header, .. } => header.settings.get(FRAMES).is_some_and(|frames| frames == true),
            Self::Capture(_) => true,
        }
    }
}

/// What the file itself says of its end.
#[derive(Debug, Default)]
pub struct Tail {
    pub elapsed_ns: u64,
    /// Losses of the recorded run.
    pub lost: BTreeMap<String, u64>,
}

/// Hands every event to the router; the error of a damaged file comes after everything before the damage was handed on.
pub fn run(input: Input, mut router: Router, losses: &Losses) -> Result<Tail> {
    let result = match input {
        Input::Recording { file, .. } => recording(file, &mut router),
        Input::Capture(file) => capture(file, &mut router, losses),
    };
    router.end();
    result
}

fn recording(mut file: File, router: &mut Router) -> Result<Tail> {
    // First the facts alone: each holds from an event on that stands before it in the file.
    let mut facts = BTreeMap::<u64, Vec<_>>::new();
    for chunk in record::Reader::new(BufReader::new(&file))? {
        // A damaged file is reported by the second reading, when its events are out.
        let Ok(chunk) = chunk else { break };
        if let Chunk::Fact(fact) = chunk {
            facts.entry(fact.sequence).or_default().push(Arc::new(fact));
        }
    }
    file.seek(SeekFrom::Start(0)).context("rewinding the recording")?;
    let mut reader = record::Reader::new(BufReader::with_capacity(1 << 20, &file))?;
    let mut tail = Tail::default();
    for chunk in reader.by_ref() {
        match chunk? {
            Chunk::Events { bytes, .. } => {
                for event in record::records(&bytes) {
                    let event = event.context("a record of impossible length inside a sound chunk")?;
                    while let Some(entry) = facts.first_entry().filter(|entry| *entry.key() <= router.sequence()) {
                        entry.remove().iter().for_each(|fact| router.fact(fact, event));
                    }
                    router.record(event);
                }
            }
            Chunk::End(End { elapsed_ns, losses, .. }) => tail = Tail { elapsed_ns, lost: losses },
            Chunk::Fact(_) | Chunk::Losses { .. } => {}
        }
    }
    if let Ending::Cut { offset, cut_bytes } = reader.ending() {
        tracing::warn!("the recording was not ended in order: it stops at byte {offset} ({cut_bytes} bytes behind are not whole)");
    }
    Ok(tail)
}

fn capture(file: File, router: &mut Router, losses: &Losses) -> Result<Tail> {
    // Nobody ticks in a file: time goes on with its frames.
    let mut next_tick_ns = 0;
    let summary = packet::read_capture(BufReader::new(file), &mut |event| {
        let time_ns = event.header.time_ns;
        if time_ns >= next_tick_ns {
            next_tick_ns = time_ns.saturating_add(TICK_NS);
            let header = event::Header { time_ns, connection: ConnectionId(0), pid: 0, tid: 0 };
            router.event(&Event { header, body: Body::Tick });
        }
        router.event(&event);
    })?;
    let lost: u64 = summary.losses.iter().map(|(_, count)| count).sum();
    losses.add(Reason::Capture, lost);
    for (loss, count) in summary.losses.iter().filter(|(_, count)| *count > 0) {
        tracing::info!("{}: {count}", loss.name());
    }
    Ok(Tail { elapsed_ns: summary.last_ns.saturating_sub(summary.first_ns), lost: BTreeMap::new() })
}
