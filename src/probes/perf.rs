//! The perf buffer, for kernels without ring buffers: one for each CPU. Their records are put into the order of their times, as far as
//! that can be known: what a CPU has begun to write when it is read comes a round later. What is left of disorder the positions of the
//! streams mend.
#![allow(unsafe_code, reason = "libbpf-rs wakes the reader for each record; libbpf itself can be told not to")]

use std::{
    ffi::{c_int, c_void},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use libbpf_rs::{MapHandle, libbpf_sys};
use nix::{
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags},
    time::{ClockId, clock_gettime},
};

use super::transport::{Sleep, wait};
use crate::event;

/// From the kernel's include/uapi/linux/perf_event.h.
const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_BPF_OUTPUT: u64 = 10;
const PERF_SAMPLE_RAW: u64 = 1 << 10;
const PERF_RECORD_SAMPLE: u32 = 9;
/// struct perf_event_header and the length of the raw sample behind it.
const SAMPLE_HEADER: usize = 12;
/// Nobody wakes the reader for a first record: so long it may wait.
const IDLE: Duration = Duration::from_millis(40);

type OnRecord<'a> = Box<dyn FnMut(&[u8]) + 'a>;

/// The buffers of all CPUs. Made before the first program runs: until then there is nothing to write to.
pub struct PerfBuffers {
    buffers: NonNull<libbpf_sys::perf_buffer>,
    /// What libbpf hands records to; at a fixed place, because it keeps the address.
    gathered: Box<Gathered>,
}

// SAFETY: nothing in it belongs to the thread that made it, and it is not shared.
unsafe impl Send for PerfBuffers {}

/// The consuming end of all buffers.
pub struct PerfReader<'a> {
    perf: &'a mut PerfBuffers,
    epoll: Epoll,
    on_record: OnRecord<'a>,
    /// When the last round began. Each CPU's records of before then are read by now.
    horizon_ns: u64,
}

/// Records that were read and not yet handed on.
#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    records: Vec<Gathering>,
}

/// The time of a record, and its place in the bytes.
type Gathering = (u64, std::ops::Range<usize>);

impl PerfBuffers {
    /// `buffer_bytes`: of one CPU; a power of two.
    pub(super) fn new(map: &MapHandle, buffer_bytes: u32) -> Result<Self> {
        let page_size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as usize;
        let pages = (buffer_bytes as usize / page_size).max(1);
        let mut gathered = Box::<Gathered>::default();
        // SAFETY: plain numbers, of which none is the value of every one that is not set here.
        let mut attributes: libbpf_sys::perf_event_attr = unsafe { std::mem::zeroed() };
        attributes.type_ = PERF_TYPE_SOFTWARE;
        attributes.size = size_of::<libbpf_sys::perf_event_attr>() as u32;
        attributes.config = PERF_COUNT_SW_BPF_OUTPUT;
        attributes.sample_type = PERF_SAMPLE_RAW;
        attributes.__bindgen_anon_1.sample_period = 1;
        attributes.set_watermark(1);
        attributes.__bindgen_anon_2.wakeup_watermark = buffer_bytes / 8;
        // SAFETY: the map's descriptor is open; the attributes are read during the call; `gathered` is boxed and outlives the buffers,
        // which are freed when `Self` is dropped.
        let buffers = unsafe {
            libbpf_sys::perf_buffer__new_raw(
                map.as_fd().as_raw_fd(),
                pages as libbpf_sys::size_t,
                &raw mut attributes,
                Some(take_sample),
                (&raw mut *gathered).cast(),
                ptr::null(),
            )
        };
        let Some(buffers) = NonNull::new(buffers) else {
            return Err(std::io::Error::last_os_error()).context("making the perf buffers");
        };
        Ok(Self { buffers, gathered })
    }
}

impl<'a> PerfReader<'a> {
    pub(super) fn new(perf: &'a mut PerfBuffers, on_record: impl FnMut(&[u8]) + 'a) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("making an epoll instance")?;
        // SAFETY: the descriptor belongs to the buffers, which outlive the epoll instance.
        let wakes = unsafe { BorrowedFd::borrow_raw(libbpf_sys::perf_buffer__epoll_fd(perf.buffers.as_ptr())) };
        epoll.add(wakes, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0)).context("watching the perf buffers")?;
        Ok(Self { perf, epoll, on_record: Box::new(on_record), horizon_ns: now_ns() })
    }

    /// Hands on what is older than the begin of the round before; as many as were read, and what is still held.
    pub(super) fn consume(&mut self) -> Result<usize> {
        let begin_ns = now_ns();
        // SAFETY: the buffers are alive, and no reference to `gathered` is.
        let failed = unsafe { libbpf_sys::perf_buffer__consume(self.perf.buffers.as_ptr()) };
        if failed < 0 {
            bail!("reading the perf buffers: {}", std::io::Error::from_raw_os_error(-failed));
        }
        let Gathered { bytes, records } = &mut *self.perf.gathered;
        let count = records.len();
        records.sort_by_key(|(time_ns, _)| *time_ns);
        let due = records.partition_point(|(time_ns, _)| *time_ns < self.horizon_ns);
        for (_, place) in records.drain(..due) {
            (self.on_record)(&bytes[place]);
        }
        if records.is_empty() {
            bytes.clear();
        } else {
            // What is held moves to the begin.
            let mut kept = Vec::with_capacity(bytes.len().min(1 << 20));
            for (_, place) in records.iter_mut() {
                let start = kept.len();
                kept.extend_from_slice(&bytes[place.clone()]);
                *place = start..kept.len();
            }
            *bytes = kept;
        }
        self.horizon_ns = begin_ns;
        Ok(count)
    }

    pub(super) fn sleep(&mut self, sleep: Sleep) -> Result<()> {
        let (Sleep::Moment(time) | Sleep::UntilEvent(time)) = sleep;
        wait(&self.epoll, time.min(IDLE)).map(drop)
    }
}

impl Drop for PerfBuffers {
    fn drop(&mut self) {
        // SAFETY: made by perf_buffer__new_raw, and freed once.
        unsafe { libbpf_sys::perf_buffer__free(self.buffers.as_ptr()) }
    }
}

/// `perf_buffer_event_fn`: a sample is copied, anything else (the count of what found no room, which the programs count as well) passed over.
unsafe extern "C" fn take_sample(
    gathered: *mut c_void,
    _cpu: c_int,
    header: *mut libbpf_sys::perf_event_header,
) -> libbpf_sys::bpf_perf_event_ret {
    // SAFETY: libbpf hands over what `PerfBuffers::new` gave it, while only `consume` runs, and a whole event of header.size bytes.
    let (gathered, header_type, event) = unsafe {
        let gathered = &mut *gathered.cast::<Gathered>();
        (gathered, (*header).type_, std::slice::from_raw_parts(header.cast::<u8>(), usize::from((*header).size)))
    };
    if header_type == PERF_RECORD_SAMPLE
        && let Some(sample) = event.get(SAMPLE_HEADER..)
        && let Some(length) = event::record_len(sample)
    {
        let time_ns = event::record_time_ns(sample).unwrap_or(0);
        let start = gathered.bytes.len();
        gathered.bytes.extend_from_slice(&sample[..length]);
        gathered.records.push((time_ns, start..gathered.bytes.len()));
    }
    libbpf_sys::LIBBPF_PERF_EVENT_CONT
}

/// CLOCK_MONOTONIC, as the records have it.
fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
