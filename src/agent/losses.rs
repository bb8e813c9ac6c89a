//! Everything that can be lost in user space, by reason. What the kernel lost is counted there and joined for display.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{probes::table::Tally, protocols::Loss};

/// A reason, and where its count stands in [`Losses`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Records that a worker's queue had no room for.
    ChannelFull,
    /// Connections beyond the worker's table.
    TableFull,
    /// Records of a connection whose open record was lost.
    ConnectionUnknown,
    /// Records that could not be decoded.
    Undecodable,
    /// Places where a parser missed bytes inside messages.
    ParseGap,
    /// Requests given up because too many waited on one connection.
    PendingFull,
    /// JSON lines that the reader of standard output did not take in time.
    OutputFull,
    /// Records that the recording's disk did not take in time.
    RecordingFull,
    /// Frames and bytes that a capture file lacks or that could not be joined.
    Capture,
}

const NAMES: [&str; 9] = [
    "channel_full",
    "table_full",
    "connection_unknown",
    "undecodable",
    "parse_gap",
    "pending_full",
    "output_full",
    "recording_full",
    "capture",
];

/// Counters shared by all threads.
#[derive(Debug, Default)]
pub struct Losses([AtomicU64; NAMES.len()]);

impl Losses {
    pub fn add(&self, reason: Reason, count: u64) {
        self.0[reason as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub fn parser(&self, loss: Loss) {
        self.add(
            match loss {
                Loss::ParseGap => Reason::ParseGap,
                Loss::PendingFull => Reason::PendingFull,
            },
            1,
        );
    }

    /// By name, zeros included, with what the kernel counted.
    pub fn all(&self, kernel: &Tally) -> BTreeMap<&'static str, u64> {
        let own = NAMES.into_iter().zip(self.0.iter().map(|count| count.load(Ordering::Relaxed)));
        let kernel = [
            ("ring_full", kernel.ring_full),
            ("connections_full", kernel.connections_full),
            ("unread", kernel.unread),
            ("program_missed", kernel.program_missed),
        ];
        own.chain(kernel).collect()
    }
}
