//! The perf buffers of a map, one for each CPU: what a kernel without the ring buffer has.
//!
//! libbpf-rs has them too, but wakes the reader with each record, which costs more than all else about it: in a virtual machine a
//! record took 6.4 µs so and takes 0.75 µs when every 256th wakes.
#![allow(unsafe_code, reason = "libbpf's option for the wake-ups has no safe wrapper")]

use std::{
    ffi::{c_int, c_void},
    io,
    os::fd::{AsFd, AsRawFd},
    ptr::{self, NonNull},
    slice,
    time::Duration,
};

use anyhow::{Context, Result};
use libbpf_rs::{MapHandle, libbpf_sys};

/// Who gets the records of a call; it is told with each.
type Each<'a> = &'a mut dyn FnMut(&[u8]);

/// The reading end, for one thread at a time.
pub struct PerfBuffers {
    buffers: NonNull<libbpf_sys::perf_buffer>,
    /// Where the callback finds the [`Each`] of the call under way; null between calls. Boxed, because C keeps its address.
    each: Box<*mut c_void>,
}

// SAFETY: libbpf ties buffers to no thread, nobody else has these, and the pointer in the box is null whenever they change hands.
unsafe impl Send for PerfBuffers {}

impl PerfBuffers {
    /// From here on records find room: to be called before anything is attached that writes them, since what comes before is lost.
    ///
    /// `pages` of each CPU's buffer, a power of two; a sleeping reader is woken when a CPU has written so many records. What finds no room
    /// is told to whoever writes, not here.
    pub fn new(map: &MapHandle, pages: usize, wake_after: u32) -> Result<Self> {
        let mut each: Box<*mut c_void> = Box::new(ptr::null_mut());
        let options = libbpf_sys::perf_buffer_opts {
            sz: size_of::<libbpf_sys::perf_buffer_opts>() as libbpf_sys::size_t,
            sample_period: wake_after,
            ..Default::default()
        };
        // SAFETY: the map's descriptor and the options live through the call, which copies them; the callback's context is the box, which
        // lives as long as the buffers and does not move.
        let buffers = unsafe {
            libbpf_sys::perf_buffer__new(
                map.as_fd().as_raw_fd(),
                pages as libbpf_sys::size_t,
                Some(hand_over),
                None,
                (&raw mut *each).cast(),
                &raw const options,
            )
        };
        let buffers = NonNull::new(buffers).ok_or_else(io::Error::last_os_error).context("mapping the perf buffers")?;
        Ok(Self { buffers, each })
    }

    /// Hands over all that is there, each record once, CPU by CPU; a few bytes of padding may stand behind it. `each` must not panic: it is
    /// called from C, where a panic ends the process.
    pub fn consume(&mut self, each: Each<'_>) -> Result<()> {
        // SAFETY: the pointer is that of the constructor and was not freed.
        let code = self.lend(each, |buffers| unsafe { libbpf_sys::perf_buffer__consume(buffers) });
        if code < 0 { Err(io::Error::from_raw_os_error(-code)).context("reading the perf buffers") } else { Ok(()) }
    }

    /// Waits until it is woken, at most so long, and hands over what woke it, as above.
    pub fn wait(&mut self, time: Duration, each: Each<'_>) -> Result<()> {
        let milliseconds = c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: as above.
        let code = self.lend(each, |buffers| unsafe { libbpf_sys::perf_buffer__poll(buffers, milliseconds) });
        let error = io::Error::from_raw_os_error(code.min(0).wrapping_neg());
        if code < 0 && error.kind() != io::ErrorKind::Interrupted { Err(error).context("waiting for records") } else { Ok(()) }
    }

    fn lend(&mut self, mut each: Each<'_>, call: impl FnOnce(*mut libbpf_sys::perf_buffer) -> c_int) -> c_int {
        *self.each = (&raw mut each).cast();
        let code = call(self.buffers.as_ptr());
        *self.each = ptr::null_mut();
        code
    }
}

impl Drop for PerfBuffers {
    fn drop(&mut self) {
        // SAFETY: the pointer is that of the constructor, and this is the only place that frees it.
        unsafe { libbpf_sys::perf_buffer__free(self.buffers.as_ptr()) };
    }
}

unsafe extern "C" fn hand_over(context: *mut c_void, _cpu: c_int, data: *mut c_void, size: u32) {
    // SAFETY: the context is the box of the constructor, and what it points to was lent by the call of this thread that leads here; libbpf
    // lends as many bytes as it says until this returns.
    let (each, record) = unsafe { (&mut **context.cast::<*mut Each<'_>>(), slice::from_raw_parts(data.cast::<u8>(), size as usize)) };
    each(record);
}
