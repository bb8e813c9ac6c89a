//! Crafted frames, real captures and damaged ones.

mod datagrams;
mod files;
mod frames;
mod interfaces;
mod streams;

use std::fmt::Write;

use etherparse::PacketBuilder;

use super::{FrameHead, Limits, LinkType, Loss, Reassembler};
use crate::{
    event::{Body, Event},
    model::{Direction, Role},
};

pub const SYN: u8 = 2;
pub const FIN: u8 = 1;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;
pub const MILLISECOND: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;

/// A line an event: what a reader of a failed test wants to see.
pub fn line(event: &Event<'_>) -> String {
    let connection = event.header.connection.0 >> 8;
    match event.body {
        Body::Open { tuple, role, adopted, connect_ns, .. } => {
            let adopted = if adopted { " adopted" } else { "" };
            format!("{connection} open {} {} > {}{adopted} connect={connect_ns}", role_name(role), tuple.local, tuple.remote)
        }
        Body::Data { direction, offset, size, payload, .. } => {
            let direction = if direction == Direction::Sent { "sent" } else { "received" };
            let cut = if payload.len() < size as usize { format!(" captured={}", payload.len()) } else { String::new() };
            let shown = &payload[..payload.len().min(48)];
            format!("{connection} {direction} {offset}+{size}{cut} {}", shown.escape_ascii())
        }
        Body::Close { totals, reason, error, calls_sent, calls_received, .. } => format!(
            "{connection} close {reason:?} sent={}/{calls_sent} received={}/{calls_received} retransmits={} error={error}",
            totals.bytes_sent, totals.bytes_received, totals.retransmits
        ),
        Body::Fail { tuple, error, elapsed_ns, .. } => {
            format!("{connection} fail {} > {} error={error} elapsed={elapsed_ns}", tuple.local, tuple.remote)
        }
        Body::UdpOpen { tuple, role, .. } => format!("{connection} udp {} {} > {}", role_name(role), tuple.local, tuple.remote),
        Body::Datagram { direction, number, size, remote, payload, .. } => {
            let (direction, way) = if direction == Direction::Sent { ("sent", "to") } else { ("received", "from") };
            let remote = remote.map_or_else(|| "nobody".to_owned(), |remote| remote.to_string());
            let cut = if payload.len() < size as usize { format!(" captured={}", payload.len()) } else { String::new() };
            format!("{connection} {direction} #{number} {way} {remote} {size}{cut} {}", payload.escape_ascii())
        }
        ref other => panic!("frames make no {other:?}"),
    }
}

pub fn head(link: LinkType, time_ns: u64, original_len: usize) -> FrameHead {
    FrameHead { link, interface: 0, time_ns, original_len: original_len as u32 }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Client => "client",
        Role::Server => "server",
        Role::Unknown => "unknown",
    }
}

/// A client at 10.0.0.1:4000, a server at 10.0.0.2:80, and what was seen between them.
pub struct Wire {
    pub reassembler: Reassembler,
    pub lines: Vec<String>,
    pub time_ns: u64,
    pub client_port: u16,
}

impl Wire {
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        Self { reassembler: Reassembler::new(limits), lines: Vec::new(), time_ns: SECOND, client_port: 4000 }
    }

    /// A segment of the client, a millisecond after the one before.
    pub fn client(&mut self, flags: u8, sequence: u32, acknowledgment: u32, payload: &[u8]) {
        let frame = self.build(true, flags, sequence, acknowledgment, payload);
        self.frame(LinkType::Ethernet, &frame);
    }

    pub fn server(&mut self, flags: u8, sequence: u32, acknowledgment: u32, payload: &[u8]) {
        let frame = self.build(false, flags, sequence, acknowledgment, payload);
        self.frame(LinkType::Ethernet, &frame);
    }

    pub fn build(&self, from_client: bool, flags: u8, sequence: u32, acknowledgment: u32, payload: &[u8]) -> Vec<u8> {
        ethernet(from_client, self.client_port, flags, sequence, acknowledgment, payload)
    }

    pub fn frame(&mut self, link: LinkType, frame: &[u8]) {
        self.time_ns += MILLISECOND;
        let lines = &mut self.lines;
        self.reassembler.frame(head(link, self.time_ns, frame.len()), frame, &mut |event| lines.push(line(&event)));
    }

    /// A frame of which only `captured` bytes are known.
    pub fn cut_frame(&mut self, frame: &[u8], captured: usize) {
        self.time_ns += MILLISECOND;
        let lines = &mut self.lines;
        let bytes = &frame[..captured];
        self.reassembler.frame(head(LinkType::Ethernet, self.time_ns, frame.len()), bytes, &mut |event| lines.push(line(&event)));
    }

    /// The client's stream begins at 101, the server's at 501.
    pub fn handshake(&mut self) {
        self.client(SYN, 100, 0, b"");
        self.server(SYN | ACK, 500, 101, b"");
        self.client(ACK, 101, 501, b"");
        self.lines.clear();
    }

    pub fn finish(&mut self) {
        let lines = &mut self.lines;
        self.reassembler.finish(&mut |event| lines.push(line(&event)));
    }

    /// The lines since the last call.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    pub fn lost(&self, loss: Loss) -> u64 {
        self.reassembler.losses().get(loss)
    }

    pub fn losses(&self) -> String {
        let mut text = String::new();
        for (loss, count) in self.reassembler.losses().iter() {
            write!(text, "{}={count} ", loss.name()).unwrap();
        }
        text.trim_end().to_owned()
    }
}

pub fn ethernet(from_client: bool, client_port: u16, flags: u8, sequence: u32, acknowledgment: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let (source, destination) = if from_client { ([10, 0, 0, 1], [10, 0, 0, 2]) } else { ([10, 0, 0, 2], [10, 0, 0, 1]) };
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source, destination, 64);
    builder.tcp_header(tcp_header(from_client, client_port, flags, sequence, acknowledgment)).write(&mut frame, payload).unwrap();
    frame
}

pub fn tcp_header(from_client: bool, client_port: u16, flags: u8, sequence: u32, acknowledgment: u32) -> etherparse::TcpHeader {
    let (source, destination) = if from_client { (client_port, 80) } else { (80, client_port) };
    let mut header = etherparse::TcpHeader::new(source, destination, sequence, 1000);
    header.acknowledgment_number = acknowledgment;
    (header.fin, header.syn) = (flags & FIN != 0, flags & SYN != 0);
    (header.rst, header.ack) = (flags & RST != 0, flags & ACK != 0);
    header
}

/// A small deterministic source of numbers (xorshift).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as usize
    }
}
