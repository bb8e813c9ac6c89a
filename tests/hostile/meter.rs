//! Processor time of this thread: what work is where the compiler does not count it. Wide enough for a debug build on a busy machine; the
//! fuzzer's own bounds, in loads from memory, are narrow (`fuzz/src/meter.rs`).

use nix::{
    sys::time::TimeValLike,
    time::{ClockId, clock_gettime},
};

/// Nanoseconds for each byte or call of an input.
pub const MOST_A_BYTE: u64 = 20_000;
/// Nanoseconds for any input, however short.
pub const MOST_AT_ALL: u64 = 2_000_000_000;

/// Nanoseconds so far.
pub fn work() -> u64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, |time| time.num_nanoseconds() as u64)
}
