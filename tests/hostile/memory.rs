//! Counts what this process has allocated: that is exact, where its resident memory is not.
#![allow(unsafe_code, reason = "an allocator that counts can only be written so; it hands everything to the system's")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

struct Counting;

/// Bytes allocated and not given back, and the most of them since [`Peak::begin`].
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator with the arguments that came; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the pointer came from `alloc` above, and so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What is allocated now.
pub fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// The most that was allocated at once since a moment, beyond what was allocated then.
/// Tests of this file share the process: `make test` runs them one after the other.
pub struct Peak(usize);

impl Peak {
    pub fn begin() -> Self {
        let live = live();
        PEAK.store(live, Ordering::Relaxed);
        Self(live)
    }

    pub fn bytes(&self) -> usize {
        PEAK.load(Ordering::Relaxed).saturating_sub(self.0)
    }
}
