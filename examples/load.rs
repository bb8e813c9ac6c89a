//! The clients that the kernel tests count against: each does an exact amount of work and prints what it did as JSON.
//! A process of its own, so that the agent has somebody to name. Plain blocking sockets and no runtime: nothing happens that is not asked for.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::json;

#[derive(Parser)]
enum Command {
    /// So many GET requests over keep-alive connections: 1 % for /missing/N, 0.5 % for /busy/N, the others for /item/N, each N once.
    Http {
        #[arg(long)]
        address: SocketAddr,
        #[arg(long)]
        requests: u64,
        #[arg(long, default_value_t = 1)]
        connections: u64,
        /// In all, requests a second; 0: as fast as it goes.
        #[arg(long, default_value_t = 0)]
        rate: u64,
    },
    /// Keep-alive connections that ask for /numbered/CONNECTION/N in turn until stdin ends, then one line for every request.
    Numbered {
        #[arg(long)]
        address: SocketAddr,
        #[arg(long)]
        connections: u64,
    },
    /// Opens, asks once, reads to the end and closes, at a fixed rate over all addresses in turn.
    Churn {
        #[arg(long, required = true)]
        address: Vec<SocketAddr>,
        #[arg(long)]
        rate: u64,
        #[arg(long)]
        connections: u64,
    },
    /// Connects, reads to the end, and says how each attempt ended.
    Connect {
        #[arg(long)]
        address: SocketAddr,
        #[arg(long, default_value_t = 1)]
        count: u64,
    },
    /// Accepts one connection, reads it to its end.
    Sink {
        #[arg(long)]
        address: SocketAddr,
    },
    /// Sends random bytes in calls of at most 32 KiB and closes.
    Stream {
        #[arg(long)]
        address: SocketAddr,
        #[arg(long)]
        bytes: u64,
        /// Bytes a second; 0: as fast as it goes.
        #[arg(long, default_value_t = 0)]
        rate: u64,
    },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Http { address, requests, connections, rate } => http(address, requests, connections, rate),
        Command::Numbered { address, connections } => numbered(address, connections),
        Command::Churn { address, rate, connections } => churn(&address, rate, connections),
        Command::Connect { address, count } => connect(address, count),
        Command::Sink { address } => sink(address),
        Command::Stream { address, bytes, rate } => stream(address, bytes, rate),
    }
}

fn http(address: SocketAddr, requests: u64, connections: u64, rate: u64) -> Result<()> {
    let begin = Instant::now();
    let parts: Vec<Result<BTreeMap<u16, u64>>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|connection| {
                scope.spawn(move || {
                    let mut statuses = BTreeMap::new();
                    let mut http = Http::connect(address)?;
                    for number in (connection..requests).step_by(connections as usize) {
                        // Without a rate every request is due at once.
                        wait_until(begin + due(number, rate));
                        let status = http.get(&path_of(number))?;
                        *statuses.entry(status).or_insert(0) += 1;
                    }
                    Ok(statuses)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a client thread panicked")).collect()
    });
    let mut statuses = BTreeMap::new();
    for part in parts {
        for (status, count) in part? {
            *statuses.entry(status).or_insert(0) += count;
        }
    }
    let elapsed_ns = begin.elapsed().as_nanos() as u64;
    println!("{}", json!({ "requests": statuses.values().sum::<u64>(), "statuses": statuses, "elapsed_ns": elapsed_ns }));
    Ok(())
}

fn path_of(number: u64) -> String {
    if number % 100 == 17 {
        format!("/missing/{number}")
    } else if number % 200 == 42 {
        format!("/busy/{number}")
    } else {
        format!("/item/{number}")
    }
}

/// A keep-alive connection to a server that always says Content-Length.
struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Http {
    fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 << 10) })
    }

    /// The status of the answer; its body is read whole.
    fn get(&mut self, path: &str) -> Result<u16> {
        self.stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: load.test\r\nUser-Agent: load\r\n\r\n").as_bytes())?;
        self.buffer.clear();
        let mut chunk = [0; 16 << 10];
        loop {
            let count = self.stream.read(&mut chunk)?;
            if count == 0 {
                bail!("the server closed the connection instead of answering {path}");
            }
            self.buffer.extend_from_slice(&chunk[..count]);
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut response = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(head) = response.parse(&self.buffer).context("parse the answer")? {
                let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
                let length: usize = std::str::from_utf8(length.context("an answer without Content-Length")?.value)?.parse()?;
                let status = response.code.context("an answer without status")?;
                match self.buffer.len().cmp(&(head + length)) {
                    std::cmp::Ordering::Less => {}
                    std::cmp::Ordering::Equal => return Ok(status),
                    std::cmp::Ordering::Greater => bail!("the server sent more than it was asked for"),
                }
            }
        }
    }
}

const NUMBERED_THREADS: u64 = 8;

fn numbered(address: SocketAddr, connections: u64) -> Result<()> {
    let stopped = AtomicBool::new(false);
    let parts: Vec<Result<Vec<String>>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..NUMBERED_THREADS)
            .map(|first| {
                let stopped = &stopped;
                scope.spawn(move || {
                    let mut open = Vec::new();
                    for connection in (first..connections).step_by(NUMBERED_THREADS as usize) {
                        open.push((connection, Http::connect(address)?));
                    }
                    let mut lines = Vec::new();
                    let mut number = 0;
                    while !stopped.load(Ordering::Relaxed) {
                        for (connection, http) in &mut open {
                            let path = format!("/numbered/{connection}/{number}");
                            let start = unix_ns();
                            let status = http.get(&path)?;
                            lines.push(json!({ "path": path, "start_unix_nano": start, "status": status }).to_string());
                        }
                        number += 1;
                        // A few thousand requests a second: what is asked is where the agent comes in, not how fast it is.
                        thread::sleep(Duration::from_millis(20));
                    }
                    Ok(lines)
                })
            })
            .collect();
        let ended = std::io::stdin().read_to_end(&mut Vec::new());
        stopped.store(true, Ordering::Relaxed);
        let parts = threads.into_iter().map(|thread| thread.join().expect("a client thread panicked")).collect();
        ended.map(|_| parts)
    })?;
    let mut out = std::io::stdout().lock();
    for part in parts {
        for line in part? {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

const CHURN_THREADS: u64 = 4;

fn churn(addresses: &[SocketAddr], rate: u64, connections: u64) -> Result<()> {
    let begin = Instant::now();
    let done: Vec<Result<u64>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..CHURN_THREADS)
            .map(|first| {
                scope.spawn(move || {
                    let mut done = 0;
                    for number in (first..connections).step_by(CHURN_THREADS as usize) {
                        wait_until(begin + due(number, rate));
                        let address = addresses[number as usize % addresses.len()];
                        let mut stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
                        let request = format!("GET /churn/{number} HTTP/1.1\r\nHost: load.test\r\nConnection: close\r\n\r\n");
                        stream.write_all(request.as_bytes())?;
                        let mut answer = Vec::new();
                        stream.read_to_end(&mut answer)?;
                        if !answer.starts_with(b"HTTP/1.1 200") {
                            bail!("/churn/{number} was answered {:?}", String::from_utf8_lossy(&answer));
                        }
                        done += 1;
                    }
                    Ok(done)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a client thread panicked")).collect()
    });
    let mut sum = 0;
    for count in done {
        sum += count?;
    }
    println!("{}", json!({ "connections": sum, "elapsed_ns": begin.elapsed().as_nanos() as u64 }));
    Ok(())
}

fn connect(address: SocketAddr, count: u64) -> Result<()> {
    for _ in 0..count {
        let begin = Instant::now();
        let ended = TcpStream::connect(address).and_then(|mut stream| stream.read_to_end(&mut Vec::new()));
        let errno = ended.err().and_then(|error| error.raw_os_error()).unwrap_or(0);
        println!("{}", json!({ "errno": errno, "elapsed_ns": begin.elapsed().as_nanos() as u64 }));
    }
    Ok(())
}

fn sink(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    println!("{}", json!({ "listening": listener.local_addr()?.port() }));
    let (mut stream, _) = listener.accept()?;
    let mut chunk = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match stream.read(&mut chunk)? {
            0 => break,
            count => bytes += count as u64,
        }
    }
    println!("{}", json!({ "bytes": bytes }));
    Ok(())
}

fn stream(address: SocketAddr, bytes: u64, rate: u64) -> Result<()> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let block: Vec<u8> = std::iter::repeat_with(|| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_ne_bytes()
    })
    .take(8 << 10)
    .flatten()
    .collect();
    let mut sent = 0;
    while sent < bytes {
        // Another start in the block each time, so that no two calls begin alike.
        let from = (sent as usize / 7) % (block.len() / 2);
        let count = (bytes - sent).min(32 << 10).min((block.len() - from) as u64) as usize;
        wait_until(begin + due(sent / 1024, rate / 1024));
        stream.write_all(&block[from..from + count])?;
        sent += count as u64;
    }
    println!("{}", json!({ "bytes": bytes }));
    Ok(())
}

/// When the thing of this number is due at so many a second; at once for 0 a second.
fn due(number: u64, rate: u64) -> Duration {
    Duration::from_nanos((number * 1_000_000_000).checked_div(rate).unwrap_or(0))
}

fn wait_until(time: Instant) {
    let now = Instant::now();
    if time > now {
        thread::sleep(time - now);
    }
}

fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
