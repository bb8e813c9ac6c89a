//! Who talks to whom, how often, how fast and with what errors: the edges between workloads and their histograms.
//! A worker owns its own [`ServiceMap`]; [`Snapshot`] joins those of all workers into one immutable value.
//! Knows nothing of clocks, threads, or of where the numbers go.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod edges;
pub mod histogram;
pub mod resources;
pub mod routes;
pub mod services;
pub mod side;
pub mod snapshot;
pub mod traffic;
pub mod workloads;

pub use edges::{EdgeId, EdgeKey, Limits, PathRoute, ServiceMap, Shard};
pub use histogram::Histogram;
pub use resources::{Resource, Resources};
pub use routes::{Route, Routes};
pub use services::{ServiceState, ServiceWatch, UnservedService};
pub use side::{Closing, Connections, Series, SideCounts};
pub use snapshot::{Edge, IdleService, Listener, Snapshot, idle};
pub use traffic::{Reach, Traffic};
pub use workloads::{Met, Workloads};

#[cfg(test)]
pub(crate) mod fixtures;
