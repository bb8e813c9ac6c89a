//! Counts what this process has allocated: that is exact, where its resident memory is not.
#![allow(unsafe_code, reason = "an allocator that counts can only be written so; it hands everything to the system's")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

struct Counting;

thread_local! {
    /// Bytes that this thread allocated and has not given back, and the most of them since [`Peak::begin`]. Every test has a thread of
    /// its own, so tests do not see each other.
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator with the arguments that came; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.get().wrapping_add(layout.size());
        LIVE.set(live);
        PEAK.set(PEAK.get().max(live));
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // What another thread allocated may be given back here.
        LIVE.set(LIVE.get().wrapping_sub(layout.size()));
        // SAFETY: the pointer came from `alloc` above, and so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What is allocated now.
pub fn live() -> usize {
    LIVE.get()
}

/// The most that was allocated at once since a moment, beyond what was allocated then.
pub struct Peak(usize);

impl Peak {
    pub fn begin() -> Self {
        let live = live();
        PEAK.set(live);
        Self(live)
    }

    pub fn bytes(&self) -> usize {
        PEAK.get().saturating_sub(self.0)
    }
}
