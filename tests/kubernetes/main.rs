//! Remora beside a real Kubernetes: programs of `cluster.sh`, which builds them once. Needs root; run by `make test-kubernetes`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "the rules of threads are the agent's")]

mod api;
mod bystander;
mod cluster;
mod lines;
mod proxy;
mod rbac;
mod server;
mod shop;
