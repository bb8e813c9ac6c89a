//! Who stands behind a socket: processes, the containers they run in, and who listens where.
//! Knows nothing of traffic; it is asked with the pids, cgroup ids and addresses that events carry.
//!
//! Everything here is synchronous and has one owner, but for [`container::watch`] and [`kubernetes::watch`], which run on tokio and
//! share what they know by snapshots. Whoever owns [`Processes`] and [`Listeners`] feeds them the kernel's events in their order.

pub mod cgroup;
pub mod cgroup_paths;
pub mod conntrack;
pub mod container;
pub mod kubernetes;
pub mod listeners;
mod pauses;
pub mod process;
pub mod resolved;
pub mod sockets;

pub use cgroup_paths::CgroupPaths;
pub use conntrack::Conntrack;
pub use container::ContainerNames;
pub use kubernetes::Cluster;
pub use listeners::Listeners;
pub use process::Processes;
pub use resolved::{Domains, Resolved};
