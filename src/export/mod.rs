//! The ways out: JSON lines, OpenMetrics, the live table and HTTP. Each sees published values, never events,
//! so a slow reader cannot slow a worker. Knows nothing of how the values came to be.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{borrow::Cow, sync::Arc};

use crate::service_map::Snapshot;

pub mod http;
pub mod json;
pub mod prometheus;
pub mod status;
pub mod terminal;

pub use status::{ClusterHealth, ConntrackHealth, EngineHealth, KindHealth, ProgramHealth, Surroundings, WatchState};

/// What the agent shows of itself and of what it saw; made about once a second and shared as an `Arc`.
#[derive(Clone, Debug, Default)]
pub struct Published {
    pub snapshot: Arc<Snapshot>,
    pub self_metrics: SelfMetrics,
    pub surroundings: Surroundings,
    /// Hooks are attached: what happens now is seen.
    pub ready: bool,
    pub host: String,
    /// The hook family in use.
    pub hooks: String,
    /// Since the agent started.
    pub uptime_ns: u64,
}

impl Published {
    pub fn events(&self) -> u64 {
        self.self_metrics.events.iter().map(|(_, count)| count).sum()
    }

    pub fn lost(&self) -> u64 {
        self.self_metrics.lost.iter().map(|(_, count)| count).sum()
    }
}

/// Names in here are labels: few, and fixed for the life of the agent.
pub type Name = Cow<'static, str>;

/// The agent's own counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct SelfMetrics {
    /// Events that reached user space, by kind.
    pub events: Vec<(Name, u64)>,
    /// Losses by reason; every reason, zeros included.
    pub lost: Vec<(Name, u64)>,
    /// Entries waiting in each queue.
    pub queue_depths: Vec<(Name, u64)>,
    pub maps: Vec<MapFill>,
    pub programs: Vec<ProgramCost>,
    pub resident_bytes: u64,
    /// User and system time of the agent's process.
    pub cpu_seconds: f64,
}

/// How full a kernel map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFill {
    pub name: Name,
    pub entries: u64,
    pub capacity: u64,
}

/// What the kernel says a BPF program has cost (`kernel.bpf_stats_enabled`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    pub name: Name,
    pub run_time_ns: u64,
    pub run_count: u64,
}

/// The symbol of a connect error, for labels and lines; numbers that a TCP connect does not give are "other".
/// (errno(3), the values of `asm-generic/errno.h`.)
pub fn error_name(number: u32) -> &'static str {
    match number {
        1 => "EPERM",
        4 => "EINTR",
        13 => "EACCES",
        22 => "EINVAL",
        32 => "EPIPE",
        99 => "EADDRNOTAVAIL",
        100 => "ENETDOWN",
        101 => "ENETUNREACH",
        103 => "ECONNABORTED",
        104 => "ECONNRESET",
        105 => "ENOBUFS",
        110 => "ETIMEDOUT",
        111 => "ECONNREFUSED",
        112 => "EHOSTDOWN",
        113 => "EHOSTUNREACH",
        125 => "ECANCELED",
        _ => "other",
    }
}

#[cfg(test)]
mod fixtures;
