//! Who talks to whom, how often, how fast and with what errors: the edges between workloads and their histograms.
//! A worker owns its own [`ServiceMap`]; [`Snapshot`] joins those of all workers into one immutable value.
//! Knows nothing of clocks, threads, or of where the numbers go.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod edges;
pub mod histogram;
pub mod resources;
pub mod snapshot;

pub use edges::{Closing, Connections, EdgeId, EdgeKey, Limits, Party, Series, ServiceMap, Shard, SideCounts};
pub use histogram::Histogram;
pub use resources::{Resource, Resources};
pub use snapshot::{Edge, IdleService, Listener, Snapshot, idle};

#[cfg(test)]
pub(crate) mod fixtures;
