//! Reads the ring: sleeps without being woken for each record, and hands records over by reference.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use anyhow::{Context, Result};
use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use super::load::Wake;

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
                on_record(record);
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

    /// Hands over what is in the ring; the number of records.
    pub fn consume(&self) -> Result<usize> {
        let count = self.ring.consume_raw();
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
                // What came before the kernel saw the request would not wake us.
                if self.consume()? > 0 {
                    self.wake.never();
                    return Ok(());
                }
                time
            }
        };
        let timeout = EpollTimeout::try_from(timeout).unwrap_or(EpollTimeout::from(1000u16));
        let outcome = self.epoll.wait(&mut [EpollEvent::empty()], timeout);
        self.wake.never();
        match outcome {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("waiting for events"),
        }
    }
}
