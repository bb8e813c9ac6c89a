//! From the events of a connection to exchanges: positions, gaps, naming the protocol, feeding its parser.
//! Knows nothing of processes, names or outputs.

pub mod stream;
