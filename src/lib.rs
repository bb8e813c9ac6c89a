//! Remora: what the kernel sees of a host's traffic, turned into a service map, golden signals and traces.
//!
//! The modules in the order of the data; `docs/architecture.md` draws the arrows and `tests/architecture.rs` holds them.

pub mod agent;
pub mod attribution;
pub mod btf;
pub mod cli;
pub mod config;
pub mod connection;
pub mod doctor;
pub mod event;
pub mod export;
pub mod model;
pub mod packet;
pub mod probes;
pub mod protocols;
pub mod record;
pub mod service_map;
pub mod skel;
pub mod telemetry;
