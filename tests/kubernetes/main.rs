//! Remora in a real Kubernetes cluster. Needs root; `make test-kubernetes` makes what the cluster is made of.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cluster;
mod lines;
mod shop;
