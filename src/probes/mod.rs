//! What the kernel offers, what is loaded into it, and what comes out. With `skel`, the only room that speaks to BPF.

pub mod clock;
pub mod elements;
pub mod features;
pub mod health;
pub mod hooks;
pub mod load;
pub mod locked_memory;
mod order;
pub mod packet;
mod perf;
pub mod perf_buffer;
pub mod privileges;
pub mod programs;
mod questions;
mod readings;
pub mod table;
pub mod transport;
pub mod verdicts;
