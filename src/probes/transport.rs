//! Reads the ring: sleeps without being woken for each record, and hands records over by reference.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use anyhow::{Context, Result};
/// The ring, as it is handed from the loader to the reader.
pub use libbpf_rs::MapHandle;
use libbpf_rs::{RingBuffer, RingBufferBuilder};
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use super::load::Wake;
use crate::event;

/// So many records at a time: under a load that never lets the ring run empty the reader has other things to do, too.
pub const ROUND: usize = 16_384;
/// A record that was begun before the reader asked to be woken is there by then.
const SETTLING: Duration = Duration::from_millis(10);

/// The consuming end of the ring. Lives in the thread that made it.
pub struct Reader<'a> {
    ring: RingBuffer<'a>,
    epoll: Epoll,
    wake: Wake,
}

/// How long the reader may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Events are coming: let a batch gather, but wake if the ring fills up.
    Moment(Duration),
    /// Nothing happened of late: wake with the first event, at the latest after this time.
    UntilEvent(Duration),
}

impl<'a> Reader<'a> {
    /// `on_record` gets each record once, in ring order. It must not panic: it is called from C, where a panic ends the process.
    pub fn new(events: &'a MapHandle, wake: Wake, mut on_record: impl FnMut(&[u8]) + 'a) -> Result<Self> {
        let mut builder = RingBufferBuilder::new();
        builder
            .add(events, move |record| {
                // A record may be shorter than what was reserved for it.
                on_record(event::record_len(record).map_or(record, |length| &record[..length]));
                0
            })
            .context("adding the ring buffer")?;
        let ring = builder.build().context("mapping the ring buffer")?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("making an epoll instance")?;
        // SAFETY: the descriptor belongs to `events`, which outlives the epoll instance.
        #[allow(unsafe_code, reason = "borrowing the map's descriptor")]
        let fd = unsafe { BorrowedFd::borrow_raw(events.as_fd().as_raw_fd()) };
        // Edge-triggered: the ring is readable whenever it holds anything, but only a wake-up that was asked for ends a sleep.
        epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0)).context("watching the ring buffer")?;
        Ok(Self { ring, epoll, wake })
    }

    /// Hands over what is in the ring, [`ROUND`] records at most; their number.
    pub fn consume(&self) -> Result<usize> {
        let count = self.ring.consume_raw_n(ROUND);
        usize::try_from(count).map_err(|_| anyhow::anyhow!("reading the ring buffer: {}", std::io::Error::from_raw_os_error(-count)))
    }

    pub fn sleep(&self, sleep: Sleep) -> Result<()> {
        let timeout = match sleep {
            Sleep::Moment(time) => {
                self.wake.on_bytes();
                time
            }
            Sleep::UntilEvent(time) => {
                self.wake.on_first();
                // The kernel looks at the request first and writes its record then: what came in between does not wake us.
                if self.consume()? > 0 || self.wait(SETTLING.min(time))? || self.consume()? > 0 {
                    self.wake.never();
                    return Ok(());
                }
                time.saturating_sub(SETTLING)
            }
        };
        let outcome = self.wait(timeout);
        self.wake.never();
        outcome.map(drop)
    }

    /// Whether a wake-up came.
    fn wait(&self, time: Duration) -> Result<bool> {
        let timeout = EpollTimeout::try_from(time).unwrap_or(EpollTimeout::from(1000u16));
        match self.epoll.wait(&mut [EpollEvent::empty()], timeout) {
            Ok(count) => Ok(count > 0),
            Err(Errno::EINTR) => Ok(true),
            Err(error) => Err(error).context("waiting for events"),
        }
    }
}
