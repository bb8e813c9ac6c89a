//! Who stands behind a socket: processes, the containers they run in, and who listens where.
//! Knows nothing of traffic; it is asked with the pids, cgroup ids and addresses that events carry.

pub mod cgroup;
pub mod container;
pub mod process;
