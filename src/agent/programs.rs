//! What is loaded into the kernel, of whichever family: for who counts it, shows it and takes it away.

use std::fmt;

use anyhow::Result;

use crate::probes::{
    health::Health,
    load::{Probes, RunTime},
    packet::PacketProbes,
    table::Tally,
};

pub enum Programs {
    /// Hooks in the host's sockets.
    Sockets(Box<Probes>),
    /// Filters of frames.
    Frames(Box<PacketProbes>),
}

impl fmt::Display for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sockets(probes) => write!(f, "{} programs, records by {}", probes.flavour(), probes.transport().name()),
            Self::Frames(probes) => write!(f, "filters of frames, records by {}", probes.transport().name()),
        }
    }
}

impl Programs {
    /// What became of each.
    pub fn health(&self) -> Vec<(String, Health)> {
        match self {
            Self::Sockets(probes) => probes.health().to_vec(),
            Self::Frames(probes) => probes.health().to_vec(),
        }
    }

    pub fn run_times(&self) -> Vec<RunTime> {
        match self {
            Self::Sockets(probes) => probes.run_times(),
            Self::Frames(probes) => probes.run_times(),
        }
    }

    pub fn tally(&self) -> Result<Tally> {
        match self {
            Self::Sockets(probes) => probes.tallies()?.read(),
            Self::Frames(probes) => probes.tally(),
        }
    }

    /// From here on nothing is captured; the frames' source closes its sockets by itself when it is told to stop.
    pub fn detach(&mut self) {
        if let Self::Sockets(probes) = self {
            probes.detach();
        }
    }
}
