//! Asks for every path of every way and says how long it took.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Mutex,
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    between,
    channel::Channel,
    ways::{Manner, WAYS, Way, body, delay_ms, status_of},
};

/// A request on its way.
#[derive(Clone, Copy)]
struct Asked {
    /// Before the first call that sends it.
    begin: Instant,
    begin_unix_ns: u64,
    /// After that call.
    first_sent: Instant,
}

pub fn ask(address: SocketAddr, family: &str) -> Result<()> {
    for way in WAYS {
        let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        let lines = converse(Channel::new(stream.into(), *way)?, way, family).with_context(|| format!("the way {}", way.name))?;
        for line in lines {
            println!("{line}");
        }
    }
    Ok(())
}

fn converse(mut channel: Channel, way: &Way, family: &str) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    match way.manner {
        Manner::Pipelined => {
            let heads: String = (0..way.requests).map(|number| head(way, family, number)).collect();
            let (begin, begin_unix_ns) = (Instant::now(), unix_ns());
            let first_sent = channel.send(&heads, &[])?;
            for number in 0..way.requests {
                lines.push(answer(&mut channel, way, family, number, Asked { begin, begin_unix_ns, first_sent })?);
            }
        }
        Manner::Threads => {
            let (mut sending, mut receiving) = channel.split()?;
            let asked: Mutex<Vec<Asked>> = Mutex::default();
            lines = thread::scope(|scope| {
                let writer = || -> Result<()> {
                    for number in 0..way.requests {
                        let (begin, begin_unix_ns) = (Instant::now(), unix_ns());
                        // Until the call is over its end is not known: the reader corrects it below if the answer is faster.
                        lock(&asked).push(Asked { begin, begin_unix_ns, first_sent: begin });
                        let first_sent = sending.send(&head(way, family, number), &body(way.request_body(number)))?;
                        lock(&asked)[number as usize].first_sent = first_sent;
                    }
                    Ok(())
                };
                let writer = thread::Builder::new().name("calls-writer".into()).spawn_scoped(scope, writer)?;
                let reader = || -> Result<Vec<(Instant, u16)>> { (0..way.requests).map(|_| receive(&mut receiving)).collect() };
                let reader = thread::Builder::new().name("calls-reader".into()).spawn_scoped(scope, reader)?;
                writer.join().expect("the writer panicked")?;
                let ends = reader.join().expect("the reader panicked")?;
                let asked = lock(&asked);
                let line =
                    |(number, (end, status)): (usize, (Instant, u16))| report(way, family, number as u64, asked[number], end, status);
                ends.into_iter().enumerate().map(line).collect::<Result<Vec<Value>>>()
            })?;
        }
        _ => {
            for number in 0..way.requests {
                let (begin, begin_unix_ns) = (Instant::now(), unix_ns());
                let first_sent = channel.send(&head(way, family, number), &body(way.request_body(number)))?;
                lines.push(answer(&mut channel, way, family, number, Asked { begin, begin_unix_ns, first_sent })?);
            }
        }
    }
    Ok(lines)
}

fn head(way: &Way, family: &str, number: u64) -> String {
    let path = way.path(family, number);
    match way.request_body(number) {
        0 => format!("GET {path} HTTP/1.1\r\nHost: calls.test\r\n\r\n"),
        length => format!("POST {path} HTTP/1.1\r\nHost: calls.test\r\nContent-Length: {length}\r\n\r\n"),
    }
}

fn answer(channel: &mut Channel, way: &Way, family: &str, number: u64, asked: Asked) -> Result<Value> {
    let (end, status) = receive(channel)?;
    report(way, family, number, asked, end, status)
}

/// When the answer was whole, and its status.
fn receive(channel: &mut Channel) -> Result<(Instant, u16)> {
    let head = channel.head()?.context("the server closed the connection instead of answering")?;
    channel.skip_body(head.body_length()?)?;
    Ok((Instant::now(), head.word(1)?.parse().context("parse a status")?))
}

fn report(way: &Way, family: &str, number: u64, asked: Asked, end: Instant, status: u16) -> Result<Value> {
    let path = way.path(family, number);
    if status != status_of(number) {
        bail!("{path} was answered {status}");
    }
    Ok(json!({
        "path": path,
        "way": way.name,
        "number": number,
        "method": if way.request_body(number) == 0 { "GET" } else { "POST" },
        "status": status,
        "pid": std::process::id(),
        "begin_unix_nano": asked.begin_unix_ns,
        "send_ns": between(asked.begin, asked.first_sent),
        "within_ns": between(asked.begin, end),
        "delay_ns": delay_ms(way, number) * 1_000_000,
        "request_body": way.request_body(number),
        "response_body": way.response_body(number),
    }))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
