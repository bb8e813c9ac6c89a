//! The watched clients: wrk for as much as the machine can do, and our own client for a constant rate.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

const REQUEST: &[u8] = b"GET /a/path?with=query HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";

/// As many requests as possible.
#[derive(Clone, Copy, Debug)]
pub struct Saturated {
    pub requests: u64,
    pub requests_per_s: f64,
}

/// wrk with one thread a processor over 64 connections, for whole seconds.
pub fn saturate(address: SocketAddr, duration_s: u64) -> Result<Saturated> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let arguments = [format!("-t{threads}"), "-c64".to_owned(), format!("-d{duration_s}s"), format!("http://{address}/")];
    let output = Command::new("wrk").args(&arguments).output().context("running wrk: is it installed?")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let unexpected = || format!("unexpected output of wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        bail!(unexpected());
    }
    // "  359283 requests in 3.00s, 66.82MB read" and "Requests/sec: 119752.30"
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok()).with_context(unexpected)?;
    let per_s = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok()).with_context(unexpected)?;
    Ok(Saturated { requests, requests_per_s: per_s })
}

/// Requests at fixed times, whether or not the answers keep up.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    pub address: SocketAddr,
    pub requests_per_s: u32,
    /// Each with its own connections, which it uses in turn, one request at a time.
    pub threads: u32,
    pub connections_per_thread: u32,
    pub duration: Duration,
}

impl Constant {
    /// Opens all connections, then sends; `begun` is called between the two. Returns every request's latency in nanoseconds, sorted:
    /// from the time it was due (so a stall counts for all that it delays) to the last byte of the answer.
    pub fn run(&self, begun: impl FnOnce()) -> Result<Vec<u64>> {
        let connected = Barrier::new(self.threads as usize + 1);
        let mut latencies = thread::scope(|scope| -> Result<Vec<u64>> {
            let mut clients = Vec::new();
            for index in 0..self.threads {
                let connected = &connected;
                let client = thread::Builder::new().name(format!("client-{index}")).stack_size(128 << 10);
                clients.push(client.spawn_scoped(scope, move || self.client(index, connected))?);
            }
            connected.wait();
            begun();
            let mut all = Vec::new();
            for client in clients {
                all.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
            }
            Ok(all)
        })?;
        latencies.sort_unstable();
        Ok(latencies)
    }

    fn client(&self, index: u32, connected: &Barrier) -> Result<Vec<u64>> {
        // The default lets the kernel be 50 µs late, which would drown what is looked for.
        nix::sys::prctl::set_timerslack(1).context("setting the timer slack")?;
        let opened: Result<Vec<Connection>> = (0..self.connections_per_thread).map(|_| Connection::open(self.address)).collect();
        // Before the error is looked at: the others wait for everyone.
        connected.wait();
        let mut connections = opened?;
        let interval = Duration::from_secs(1) * self.threads / self.requests_per_s;
        let first = Instant::now() + interval * index / self.threads;
        let count = self.duration.as_nanos() / interval.as_nanos();
        let mut latencies = Vec::with_capacity(count as usize);
        for (turn, due) in (0..count as u32).map(|turn| (turn, first + interval * turn)) {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            connections[(turn % self.connections_per_thread) as usize].exchange()?;
            latencies.push(due.elapsed().as_nanos() as u64);
        }
        Ok(latencies)
    }
}

struct Connection {
    stream: TcpStream,
    /// Every answer has the length of the first.
    answer_len: usize,
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut connection = Self { stream, answer_len: 0 };
        connection.stream.write_all(REQUEST).context("sending the first request")?;
        let mut answer = Vec::new();
        let mut chunk = [0; 1024];
        while !is_complete(&answer) {
            let len = connection.stream.read(&mut chunk).context("reading the first answer")?;
            if len == 0 {
                bail!("closed by the server");
            }
            answer.extend_from_slice(&chunk[..len]);
        }
        connection.answer_len = answer.len();
        Ok(connection)
    }

    fn exchange(&mut self) -> Result<()> {
        self.stream.write_all(REQUEST).context("sending a request")?;
        let mut answer = [0; 1024];
        self.stream.read_exact(&mut answer[..self.answer_len]).context("reading an answer")
    }
}

/// Head and as many bytes of body as the head says.
fn is_complete(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
    length == Some(body.len())
}
