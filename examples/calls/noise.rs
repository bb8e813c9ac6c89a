//! Random bytes over every system call, in both directions, with the begin of something real now and then.

use std::net::{TcpListener, TcpStream};

use anyhow::Result;
use nix::sys::socket::{Shutdown, shutdown};
use serde_json::json;

use crate::{
    channel::Channel,
    ways::{Manner, WAYS},
};

/// What a detector likes to see; noise follows.
const BAITS: &[&[u8]] = &[
    b"",
    b"GET / HTTP/1.1\r\nHost: ",
    b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"HTTP/1.1 -1 \r\n\r\n",
    b"\0\0\0\x08\x04\xd2\x16\x2f",
    b"\0\0\0\x54\0\x03\0\0user\0postgres\0",
    b"Q\0\0\0\x04",
    b"P\x7f\xff\xff\xffSELECT",
    b"\x16\x03\x01\x02\0\x01",
];

pub fn make(seed: u64, connections: u64) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    println!("{}", json!({ "listening": address.port() }));
    let ways: Vec<_> = WAYS.iter().filter(|way| matches!(way.manner, Manner::Plain | Manner::Split | Manner::Iovecs)).collect();
    let mut random = seed | 1;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut bytes_sent = 0;
    for connection in 0..connections {
        let way = *ways[connection as usize % ways.len()];
        let client = TcpStream::connect(address)?;
        let (server, _) = listener.accept()?;
        let closing = [client.try_clone()?, server.try_clone()?];
        let mut ends = [Channel::new(client.into(), way)?, Channel::new(server.into(), way)?];
        for _ in 0..10 {
            let from = (next() % 2) as usize;
            let mut bytes = BAITS[next() as usize % BAITS.len()].to_vec();
            // Fits into the socket's buffer: this program reads only after it has sent.
            bytes.extend((0..next() % 4000).map(|_| (next() >> 24) as u8));
            bytes.push(b'\n');
            ends[from].send_bytes(&bytes)?;
            bytes_sent += bytes.len();
            let mut left = bytes.len();
            let mut chunk = [0; 8192];
            while left > 0 {
                left -= ends[1 - from].receive_once(&mut chunk)?;
            }
        }
        for end in &closing {
            use std::os::fd::AsRawFd;
            shutdown(end.as_raw_fd(), Shutdown::Both).ok();
        }
    }
    println!("{}", json!({ "connections": connections, "bytes": bytes_sent }));
    Ok(())
}
