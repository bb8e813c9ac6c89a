//! Reads the records: sleeps without being woken for each of them, and hands them over by reference. From a ring, or from a perf buffer.

use std::{num::NonZeroUsize, os::fd::AsFd, ptr::NonNull, sync::Arc, sync::atomic::AtomicU32, sync::atomic::Ordering, time::Duration};

use anyhow::{Context, Result};
use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};
use nix::{
    errno::Errno,
    libc::c_void,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        mman::{MapFlags, ProtFlags, mmap, munmap},
    },
    unistd::{SysconfVar, sysconf},
};

use super::{clock::now_ns, perf::PerfReader, perf_buffer::PerfBuffers};
use crate::{config, event, skel::types};

/// So many records at a time: under a load that never lets the ring run empty the reader has other things to do, too.
const ROUND_MAX: usize = 16_384;
/// A record that was begun before the reader asked to be woken is there by then.
const SETTLING: Duration = Duration::from_millis(10);

/// What records travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One ring of all CPUs (Linux 5.8).
    Ring,
    /// A buffer for each CPU, of so many bytes; a power of two.
    Perf { buffer_bytes: u32 },
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Transport::Ring => "ring",
            Transport::Perf { .. } => "perf",
        }
    }

    /// Whether the ring is taken, where the kernel has one.
    pub fn is_by_ring(wanted: config::Transport, has_ring: bool) -> bool {
        wanted == config::Transport::Ring || (wanted == config::Transport::Auto && has_ring)
    }

    /// `ring_bytes`: of the ring, or of all perf buffers together.
    pub fn choose(wanted: config::Transport, has_ring: bool, ring_bytes: u32) -> Self {
        if Self::is_by_ring(wanted, has_ring) {
            return Transport::Ring;
        }
        Transport::Perf { buffer_bytes: buffer_bytes(ring_bytes, libbpf_rs::num_possible_cpus().unwrap_or(1)) }
    }

    /// Opens the reading end of perf buffers: from here on records find room. `settling` as in [`Events::Perf`].
    pub(super) fn open_buffers(map: &MapHandle, buffer_bytes: u32, settling: Duration) -> Result<Events> {
        /// A CPU that has written so many records wakes the reader.
        const WAKE_AFTER: u32 = 256;
        let page_size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as usize;
        let buffers = PerfBuffers::new(map, (buffer_bytes as usize / page_size).max(1), WAKE_AFTER)?;
        Ok(Events::Perf { buffers, settling })
    }
}

/// Of one CPU's perf buffer, a power of two: its share, and room for several of the largest records.
fn buffer_bytes(ring_bytes: u32, cpus: usize) -> u32 {
    const LEAST: u32 = 128 << 10;
    (ring_bytes / (cpus.max(1) as u32).next_power_of_two()).max(LEAST)
}

/// The records' map, as it is handed from the loader to the reader.
pub enum Events {
    Ring {
        map: MapHandle,
        wake: Wake,
    },
    /// A record is there `settling` after its time at the latest.
    Perf {
        buffers: PerfBuffers,
        settling: Duration,
    },
}

/// The word by which the reader of a ring asks to be woken. See `enum wake` in `wake.h`.
#[derive(Clone, Debug)]
pub struct Wake(Arc<Word>);

#[derive(Debug)]
struct Word(NonNull<c_void>);

// SAFETY: the word is only touched as an atomic.
#[allow(unsafe_code, reason = "a word shared with the kernel")]
unsafe impl Send for Word {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "a word shared with the kernel")]
unsafe impl Sync for Word {}

impl Wake {
    /// `map` holds the word alone, and may be mapped.
    pub(super) fn map(map: &MapHandle) -> Result<Self> {
        let length = NonZeroUsize::MIN;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice, of a map of at least this length; it is unmapped with the last handle.
        #[allow(unsafe_code, reason = "a word shared with the kernel")]
        let word = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, map.as_fd(), 0) }.context("mapping the reader's word")?;
        Ok(Self(Arc::new(Word(word))))
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: the mapping is a page, lives as long as `self`, and the word at its begin is read and written as a whole by both sides.
        #[allow(unsafe_code, reason = "a word shared with the kernel")]
        unsafe {
            AtomicU32::from_ptr(self.0.0.as_ptr().cast())
        }
    }

    pub fn never(&self) {
        self.word().store(types::wake::WAKE_NEVER.0, Ordering::Relaxed);
    }

    /// Before a short sleep.
    pub fn on_bytes(&self) {
        self.word().store(types::wake::WAKE_ON_BYTES.0, Ordering::SeqCst);
    }

    /// Before a sleep that ends when something happens.
    pub fn on_first(&self) {
        self.word().store(types::wake::WAKE_ON_FIRST.0, Ordering::SeqCst);
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        // SAFETY: mapped by `Wake::map`, with this length, and nobody has the address any more.
        #[allow(unsafe_code, reason = "a word shared with the kernel")]
        let _ = unsafe { munmap(self.0, 1) };
    }
}

/// How long the reader may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Events are coming: let a batch gather, but wake if the ring fills up.
    Moment(Duration),
    /// Nothing happened of late: wake with the first event, at the latest after this time.
    UntilEvent(Duration),
}

/// What a look at the records brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// So many were read since the look before, those that ended a sleep included.
    pub records: usize,
    /// Of CLOCK_MONOTONIC: what is older was handed over, but for what is just being written. `None`: more is there than was read.
    pub until_ns: Option<u64>,
}

/// The consuming end. Lives in the thread that made it.
pub enum Reader<'a> {
    Ring(RingReader<'a>),
    Perf(PerfReader<'a>),
}

impl<'a> Reader<'a> {
    /// `on_record` gets each record once: of a ring in its order, of a perf buffer in that of their times as far as they are known. It must
    /// not panic: it is called from C, where a panic ends the process.
    pub fn new(events: &'a mut Events, on_record: impl FnMut(&[u8]) + 'a) -> Result<Self> {
        Ok(match events {
            Events::Ring { map, wake } => Self::Ring(RingReader::new(map, wake, on_record)?),
            Events::Perf { buffers, settling } => Self::Perf(PerfReader::new(buffers, *settling, on_record)),
        })
    }

    /// Hands over what is there, of a ring 16,384 records at most; the youngest out of perf buffers are held until all that are older can
    /// be expected to be there.
    pub fn consume(&mut self) -> Result<Round> {
        match self {
            Self::Ring(reader) => reader.consume(),
            Self::Perf(reader) => reader.consume(),
        }
    }

    /// The same when no more are written: holds nothing back.
    pub fn rest(&mut self) -> Result<Round> {
        match self {
            Self::Ring(reader) => reader.consume(),
            Self::Perf(reader) => reader.rest(),
        }
    }

    pub fn sleep(&mut self, sleep: Sleep) -> Result<()> {
        match self {
            Self::Ring(reader) => reader.sleep(sleep),
            Self::Perf(reader) => reader.sleep(sleep),
        }
    }
}

pub struct RingReader<'a> {
    ring: RingBuffer<'a>,
    epoll: Epoll,
    wake: &'a Wake,
    /// Records that were read around a sleep.
    unreported: usize,
}

impl<'a> RingReader<'a> {
    pub(super) fn new(events: &'a MapHandle, wake: &'a Wake, mut on_record: impl FnMut(&[u8]) + 'a) -> Result<Self> {
        let mut builder = RingBufferBuilder::new();
        builder
            .add(events, move |record| {
                on_record(record_of(record));
                0
            })
            .context("adding the ring buffer")?;
        let ring = builder.build().context("mapping the ring buffer")?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("making an epoll instance")?;
        // Edge-triggered: the ring is readable whenever it holds anything, but only a wake-up that was asked for ends a sleep.
        epoll.add(events.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0)).context("watching the ring buffer")?;
        Ok(Self { ring, epoll, wake, unreported: 0 })
    }

    pub(super) fn consume(&mut self) -> Result<Round> {
        let before_ns = now_ns();
        let records = self.read()?;
        let until_ns = (records < ROUND_MAX).then_some(before_ns);
        Ok(Round { records: records + std::mem::take(&mut self.unreported), until_ns })
    }

    fn read(&self) -> Result<usize> {
        let count = self.ring.consume_raw_n(ROUND_MAX);
        usize::try_from(count).map_err(|_| anyhow::anyhow!("reading the ring buffer: {}", std::io::Error::from_raw_os_error(-count)))
    }

    /// Whether there was anything to read.
    fn read_at_once(&mut self) -> Result<bool> {
        let records = self.read()?;
        self.unreported += records;
        Ok(records > 0)
    }

    pub(super) fn sleep(&mut self, sleep: Sleep) -> Result<()> {
        let timeout = match sleep {
            Sleep::Moment(time) => {
                self.wake.on_bytes();
                time
            }
            Sleep::UntilEvent(time) => {
                self.wake.on_first();
                // The kernel looks at the request first and writes its record then: what came in between does not wake us.
                if self.read_at_once()? || wait(&self.epoll, SETTLING.min(time))? || self.read_at_once()? {
                    self.wake.never();
                    return Ok(());
                }
                time.saturating_sub(SETTLING)
            }
        };
        let outcome = wait(&self.epoll, timeout);
        self.wake.never();
        outcome.map(drop)
    }
}

/// Without what stands behind it: more was reserved for it, or it was padded. What is no record is left as it is.
pub(super) fn record_of(sample: &[u8]) -> &[u8] {
    event::record_len(sample).map_or(sample, |length| &sample[..length])
}

/// Whether a wake-up came.
fn wait(epoll: &Epoll, time: Duration) -> Result<bool> {
    let timeout = EpollTimeout::try_from(time).unwrap_or(EpollTimeout::from(1000u16));
    match epoll.wait(&mut [EpollEvent::empty()], timeout) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(true),
        Err(error) => Err(error).context("waiting for events"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cpu_has_its_part_of_the_bytes() {
        assert_eq!(buffer_bytes(8 << 20, 2), 4 << 20);
        assert_eq!(buffer_bytes(8 << 20, 3), 2 << 20);
        assert_eq!(buffer_bytes(64 << 10, 64), 128 << 10);
    }
}
