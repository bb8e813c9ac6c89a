//! What work is here: loads from memory of the instrumented code, and processor time for what is not instrumented, such as a search of the
//! standard library.
#![allow(unsafe_code, reason = "the compiler calls these by name")]

use std::sync::atomic::{AtomicU64, Ordering};

use nix::{
    sys::time::TimeValLike,
    time::{ClockId, clock_gettime},
};

/// Steps for each byte or call of an input. What is read once and compared takes some dozens; a search from the begin at each call takes
/// thousands, once messages are long.
pub const MOST_A_BYTE: u64 = 500;
/// Steps for any input, however short: a parser's tables are made once a connection.
pub const MOST_AT_ALL: u64 = 4_000_000;
/// So long counts as a step: nothing that is linear takes a hundred times as long, on any machine.
const STEP_NS: u64 = 10;

static LOADS: AtomicU64 = AtomicU64::new(0);

/// Steps so far.
pub fn work() -> u64 {
    let time_ns = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, |time| time.num_nanoseconds() as u64);
    LOADS.load(Ordering::Relaxed) + time_ns / STEP_NS
}

fn count() {
    // One thread runs the targets: an addition that is not atomic is enough, and far cheaper.
    LOADS.store(LOADS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

macro_rules! loads {
    ($($name:ident)*) => {
        $(
            // SAFETY: the name is the sanitizer's own; nothing else defines it.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name(_address: *const u8) {
                count();
            }
        )*
    };
}

loads! { __sanitizer_cov_load1 __sanitizer_cov_load2 __sanitizer_cov_load4 __sanitizer_cov_load8 __sanitizer_cov_load16 }
