//! Remora: what the kernel sees of a host's traffic, turned into a service map, golden signals and traces.
//!
//! The modules in the order of the data; `docs/architecture.md` draws the arrows and `tests/architecture.rs` holds them.

pub mod attribution;
pub mod cli;
pub mod config;
pub mod packet;
pub mod record;

pub mod connection;
pub mod doctor;
pub mod event;
pub mod export;
pub mod model;
pub mod probes;
pub mod protocols;
pub mod skel;
pub mod telemetry;
pub mod service_map;
pub mod packet;
pub mod protocols;
pub mod record;
