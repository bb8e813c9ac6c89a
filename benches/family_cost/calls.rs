//! The calls that are timed, in a process of their own: of the process that loads the programs nothing is reported.
//!
//! It is told by lines on its standard input: `KIND SAMPLES` opens the files of a kind and answers `open` when one exchange has gone
//! through them; `go` times the calls and answers with the nanoseconds of one send and one receive, and how many of each there were.

use std::{
    fmt,
    fs::File,
    io::{BufRead, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixStream},
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, getppid, read, write},
};

use super::support::statistics::Spread;

/// A small request or answer.
const MESSAGE_LEN: usize = 100;
/// Sends and then as many receives, which make one sample: enough that the three readings of the clock weigh little, so few that no buffer
/// and no window is ever full, and that most samples are not interrupted on a machine with other work.
const BURST: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `getppid`: interesting to nobody.
    Other,
    /// /dev/null and /dev/zero: the numbers of sends and receives, no sockets.
    Device,
    Unix,
    Udp,
    Tcp,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Other => "other",
            Kind::Device => "device",
            Kind::Unix => "unix",
            Kind::Udp => "udp",
            Kind::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let kinds = [Kind::Other, Kind::Device, Kind::Unix, Kind::Udp, Kind::Tcp];
        kinds.into_iter().find(|kind| kind.name() == name).with_context(|| format!("no calls are called {name:?}"))
    }
}

/// Nanoseconds of one call, medians over samples.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub send: f64,
    pub receive: f64,
    /// Sends and receives together that were made, those that only warm up included.
    pub calls: u64,
}

impl Times {
    pub fn mean(&self) -> f64 {
        (self.send + self.receive) / 2.0
    }
}

impl fmt::Display for Times {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {}", self.send, self.receive, self.calls)
    }
}

impl FromStr for Times {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let [send, receive, calls] = line.split_whitespace().collect::<Vec<_>>()[..] else { bail!("not three figures: {line:?}") };
        Ok(Self { send: send.parse()?, receive: receive.parse()?, calls: calls.parse()? })
    }
}

/// The life of the process of calls: until its input ends.
pub fn serve(processor: usize) -> Result<()> {
    let mut here = CpuSet::new();
    here.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &here).context("staying on one processor")?;
    // A second thread, as servers have: with a descriptor table of its own alone, the kernel looks descriptors up faster.
    thread::Builder::new()
        .name("second".to_owned())
        .spawn(|| {
            loop {
                thread::sleep(Duration::from_secs(3600));
            }
        })
        .context("starting a second thread")?;
    let mut lines = std::io::stdin().lock().lines();
    let mut answers = std::io::stdout().lock();
    while let Some(line) = lines.next() {
        let line = line.context("reading a command")?;
        let (kind, samples) = line.split_once(' ').with_context(|| format!("no command: {line:?}"))?;
        let calls = Calls::open(kind.parse()?)?;
        calls.send()?;
        calls.receive()?;
        writeln!(answers, "open")?;
        answers.flush()?;
        ensure!(lines.next().transpose()?.as_deref() == Some("go"), "expected go");
        writeln!(answers, "{}", calls.time(samples.parse()?)?)?;
        answers.flush()?;
    }
    Ok(())
}

/// The open files that are called upon; none for [`Kind::Other`].
struct Calls(Option<(OwnedFd, OwnedFd)>);

impl Calls {
    fn open(kind: Kind) -> Result<Self> {
        Ok(Self(match kind {
            Kind::Other => None,
            Kind::Device => {
                let null = File::options().write(true).open("/dev/null").context("opening /dev/null")?;
                Some((null.into(), File::open("/dev/zero").context("opening /dev/zero")?.into()))
            }
            Kind::Unix => {
                let (out, back) = UnixStream::pair().context("making a pair of sockets")?;
                Some((out.into(), back.into()))
            }
            Kind::Udp => {
                let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("making a UDP socket on loopback");
                let (out, back) = (bind()?, bind()?);
                out.connect(back.local_addr()?)?;
                back.connect(out.local_addr()?)?;
                Some((out.into(), back.into()))
            }
            Kind::Tcp => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening on loopback")?;
                let out = TcpStream::connect(listener.local_addr()?).context("connecting to loopback")?;
                let (back, _) = listener.accept().context("accepting from loopback")?;
                out.set_nodelay(true)?;
                Some((out.into(), back.into()))
            }
        }))
    }

    /// `write` and `read`, not `send` and `recv`: on all files the same numbers.
    fn send(&self) -> nix::Result<()> {
        let Some((out, _)) = &self.0 else {
            getppid();
            return Ok(());
        };
        let mut message = [b' '; MESSAGE_LEN];
        message[..16].copy_from_slice(b"GET / HTTP/1.1\r\n");
        write(out, &message).map(drop)
    }

    fn receive(&self) -> nix::Result<()> {
        let Some((_, back)) = &self.0 else {
            getppid();
            return Ok(());
        };
        read(back, &mut [0; MESSAGE_LEN]).map(drop)
    }

    fn time(&self, samples: usize) -> Result<Times> {
        let (mut sends, mut receives) = (Vec::new(), Vec::new());
        // The first samples warm caches up.
        let warm_up = samples / 8 + 1;
        for sample in 0..samples + warm_up {
            let begin = Instant::now();
            for _ in 0..BURST {
                self.send()?;
            }
            let middle = Instant::now();
            for _ in 0..BURST {
                self.receive()?;
            }
            let (sent, received) = (middle - begin, middle.elapsed());
            if sample >= warm_up {
                sends.push(sent.as_nanos() as f64 / f64::from(BURST));
                receives.push(received.as_nanos() as f64 / f64::from(BURST));
            }
        }
        let calls = (samples + warm_up) as u64 * u64::from(BURST) * 2;
        Ok(Times { send: Spread::of(sends).median, receive: Spread::of(receives).median, calls })
    }
}
