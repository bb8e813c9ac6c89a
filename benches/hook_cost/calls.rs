//! The system calls that are timed: sends and receives of 100 bytes on a loopback TCP connection, calls of the same numbers on other
//! files, and a call that no hook is interested in.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Instant,
};

use anyhow::{Context, Result};
use nix::unistd::{getppid, read, write};

use super::support::statistics::Spread;

/// A small request or answer.
const MESSAGE_LEN: usize = 100;

/// Nanoseconds for one call of each kind.
#[derive(Clone, Copy, Debug)]
pub struct PerCall {
    /// `getppid`: interesting to nobody.
    pub other: f64,
    /// `write` to /dev/null: the number of a send, not a socket.
    pub write_file: f64,
    /// `read` of /dev/zero: the number of a receive, not a socket.
    pub read_file: f64,
    /// Mean of `write` to a TCP socket and `read` of its peer.
    pub socket: f64,
}

/// The open files that are called upon.
#[derive(Debug)]
pub struct Calls {
    null: File,
    zero: File,
    client: TcpStream,
    server: TcpStream,
    /// Calls of each kind in one batch; figures are medians over batches.
    batch_len: u32,
    batches: usize,
}

impl Calls {
    pub fn open(batch_len: u32, batches: usize) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening on loopback")?;
        let client = TcpStream::connect(listener.local_addr()?).context("connecting to loopback")?;
        let (server, _) = listener.accept().context("accepting from loopback")?;
        client.set_nodelay(true)?;
        let null = File::options().write(true).open("/dev/null").context("opening /dev/null")?;
        let zero = File::open("/dev/zero").context("opening /dev/zero")?;
        Ok(Self { null, zero, client, server, batch_len, batches })
    }

    /// Times every kind in turn, batch by batch; `between` runs untimed after each batch.
    pub fn time(&self, mut between: impl FnMut()) -> Result<PerCall> {
        let (mut other, mut write_file, mut read_file, mut socket) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        // The first batch warms caches and, with an agent, makes it know the connection.
        for batch in 0..=self.batches {
            let figures = [
                self.batch(|| {
                    getppid();
                    Ok(())
                })?,
                self.batch(|| self.write_file())?,
                self.batch(|| self.read_file())?,
                self.batch(|| self.round_trip())? / 2.0,
            ];
            between();
            if batch > 0 {
                other.push(figures[0]);
                write_file.push(figures[1]);
                read_file.push(figures[2]);
                socket.push(figures[3]);
            }
        }
        let median = |figures: Vec<f64>| Spread::of(figures).median;
        Ok(PerCall { other: median(other), write_file: median(write_file), read_file: median(read_file), socket: median(socket) })
    }

    /// Only sends and receives; returns how many calls that were.
    pub fn sockets_only(&self, mut between: impl FnMut()) -> Result<u64> {
        for _ in 0..self.batches {
            self.batch(|| self.round_trip())?;
            between();
        }
        Ok(self.batches as u64 * u64::from(self.batch_len) * 2)
    }

    fn batch(&self, call: impl Fn() -> nix::Result<()>) -> Result<f64> {
        let begin = Instant::now();
        for _ in 0..self.batch_len {
            call()?;
        }
        Ok(begin.elapsed().as_nanos() as f64 / f64::from(self.batch_len))
    }

    fn write_file(&self) -> nix::Result<()> {
        write(&self.null, &[b'x'; MESSAGE_LEN]).map(drop)
    }

    fn read_file(&self) -> nix::Result<()> {
        read(&self.zero, &mut [0; MESSAGE_LEN]).map(drop)
    }

    /// `write` and `read`, not `send` and `recv` as the standard library does on sockets: those are the numbers the files use too.
    fn round_trip(&self) -> nix::Result<()> {
        write(&self.client, &[b'x'; MESSAGE_LEN])?;
        read(&self.server, &mut [0; MESSAGE_LEN]).map(drop)
    }
}
