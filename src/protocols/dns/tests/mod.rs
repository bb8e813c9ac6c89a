//! What DNS parsers are told, and what must come out.

mod conversations;
mod datagrams;
mod golden;
mod likeness;
mod oracle;
mod proof;

use super::{DATAGRAMS, STREAM};
use crate::{
    model::{Endpoint, Flow},
    protocols::{
        At, Opening, Parser, Step, Transport,
        testing::{Collected, OwnedExchange},
    },
};

const A: u16 = 1;
const CNAME: u16 = 5;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const OPT: u16 = 41;

/// A message under construction.
#[derive(Clone)]
struct Message {
    bytes: Vec<u8>,
}

/// A name without pointers.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

impl Message {
    fn new(id: u16, bits: u16) -> Self {
        let mut bytes = vec![0; 12];
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        bytes[2..4].copy_from_slice(&bits.to_be_bytes());
        Self { bytes }
    }

    fn count(&mut self, section: usize) {
        self.bytes[5 + 2 * section] += 1;
    }

    fn question(mut self, text: &str, kind: u16) -> Self {
        self.count(0);
        self.bytes.extend(name(text));
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend(1_u16.to_be_bytes());
        self
    }

    /// A record of section 1 to 3.
    fn record(mut self, section: usize, owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Self {
        self.count(section);
        self.bytes.extend(owner);
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend(if kind == OPT { 1232_u16 } else { 1 }.to_be_bytes());
        self.bytes.extend(ttl.to_be_bytes());
        self.bytes.extend((data.len() as u16).to_be_bytes());
        self.bytes.extend(data);
        self
    }

    /// An answer record of the name that was asked for.
    fn answer(self, kind: u16, ttl: u32, data: &[u8]) -> Self {
        self.record(1, &POINTER, kind, ttl, data)
    }

    /// As in a stream.
    fn framed(&self) -> Vec<u8> {
        let mut bytes = (self.bytes.len() as u16).to_be_bytes().to_vec();
        bytes.extend(&self.bytes);
        bytes
    }
}

/// To the name of the question.
const POINTER: [u8; 2] = [0xc0, 12];

const NOERROR: u16 = 0;
const NXDOMAIN: u16 = 3;

/// A stub resolver's query.
fn query(id: u16, text: &str, kind: u16) -> Message {
    Message::new(id, 0x0100).question(text, kind)
}

/// The begin of its answer.
fn reply(id: u16, text: &str, kind: u16, rcode: u16) -> Message {
    Message::new(id, 0x8180 | rcode).question(text, kind)
}

/// A socket of datagrams.
struct Socket {
    parser: Box<dyn Parser>,
    now_ns: u64,
    remote: Option<Endpoint>,
    refused: bool,
    seen: Collected,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Socket {
    fn new() -> Self {
        let parser = (DATAGRAMS.parser)(Opening { transport: Transport::Datagrams, ..Opening::default() });
        Self { parser, now_ns: 0, remote: None, refused: false, seen: Collected::default() }
    }

    /// The next datagram passes then; later ones follow by a microsecond each.
    fn at(&mut self, now_ns: u64) -> &mut Self {
        self.now_ns = now_ns - 1000;
        self
    }

    /// The port of the other end of the next datagrams; 0: it is not known.
    fn with(&mut self, port: u16) -> &mut Self {
        let address = std::net::IpAddr::from([192, 0, 2, 1]);
        self.remote = (port > 0).then_some(Endpoint { address, port });
        self
    }

    fn pass(&mut self, flow: Flow, bytes: &[u8]) -> &mut Self {
        self.now_ns += 1000;
        let at = At { first_ns: self.now_ns, last_ns: self.now_ns, call_start: true };
        self.refused |= self.parser.datagram(flow, bytes, at, self.remote, &mut self.seen) == Step::NotMine;
        self
    }

    fn ask(&mut self, message: &Message) -> &mut Self {
        self.pass(Flow::Request, &message.bytes)
    }

    fn tell(&mut self, message: &Message) -> &mut Self {
        self.pass(Flow::Response, &message.bytes)
    }

    fn tick(&mut self, now_ns: u64) -> &mut Self {
        self.parser.tick(now_ns, &mut self.seen);
        self
    }

    fn close(&mut self) -> &mut Self {
        self.now_ns += 1000;
        self.parser.close(self.now_ns, &mut self.seen);
        self
    }

    fn summaries(&self) -> Vec<String> {
        self.seen.exchanges.iter().map(OwnedExchange::summary).collect()
    }
}
