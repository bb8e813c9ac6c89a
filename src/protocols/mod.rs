//! The parsers: one room a protocol, pure, and the one list of them.
//!
//! A parser is fed both flows of one connection, in the order in which they were seen, and emits exchanges.
//! It pairs by its protocol's own rule. It knows nothing of sockets, processes, threads or clocks: time comes in with the bytes.

pub mod amqp;
pub mod dns;
pub mod grpc;
pub mod host;
pub mod http1;
pub mod http2;
pub mod mysql;
pub mod postgresql;
pub mod reader;
pub mod redis;
pub mod sql;
#[cfg(test)]
pub mod testing;
pub mod tls;
pub mod websocket;

use std::net::IpAddr;

use crate::model::{Endpoint, Exchange, Flow, Protocol, Protocols};

/// When the bytes handed to a parser were seen, in nanoseconds of the event clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The call that carried the first byte handed over.
    pub first_ns: u64,
    /// The call that carried the last byte handed over: now.
    pub last_ns: u64,
    /// The first byte handed over is also the first byte of a call: where messages usually begin, so where to look for one after a gap.
    pub call_start: bool,
}

/// What a parser did with the bytes it was handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes from the front are done with (at least one); the rest, if any, is handed over again at once.
    Consumed(usize),
    /// `head` bytes from the front are done with, and the `body` bytes that follow them on the wire are of no interest: they are passed
    /// over, captured or not, and then [`Parser::skipped`] is called. `u64::MAX`: until the connection closes.
    Skip { head: usize, body: u64 },
    /// A message has begun and is not whole: hand over the same bytes again with more behind them. The stream keeps at most
    /// [`MAX_BUFFERED`] bytes for a parser; when that is not enough, or when the missing bytes were not captured, the parser gets them
    /// taken away with [`Parser::gap`].
    NeedMore,
    /// These bytes cannot be of this protocol. The connection loses its name and is no longer parsed.
    NotMine,
}

/// How many unfinished bytes of one flow are kept for a parser.
pub const MAX_BUFFERED: usize = 64 * 1024;

/// What the kernel should capture of a connection from here on; a parser asks through [`Sink::capture`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// The largest prefix of every call that the kernel can carry: framing cannot be found again once lost.
    Full,
    /// Bytes and calls are counted, nothing is carried: the rest of the stream is of no interest (an upgraded or tunnelled connection).
    Lengths,
}

/// Why a parser could not account for bytes; each is a counter in the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// Bytes inside messages were missed: exchanges may be missing, none is made up.
    ParseGap,
    /// More requests were open than are kept per connection; the oldest was given up.
    PendingFull,
}

/// Where a parser puts what it understood.
pub trait Sink {
    fn exchange(&mut self, exchange: &Exchange<'_>);

    /// The same for datagrams, with the other end of this very exchange as [`Parser::datagram`] gave it: one socket talks to many.
    fn exchange_with(&mut self, exchange: &Exchange<'_>, _remote: Option<Endpoint>) {
        self.exchange(exchange);
    }

    /// Whether [`Exchange::attributes`] are looked at. Where they are not, a parser may leave them out, and need not keep what only they show.
    fn wants_attributes(&self) -> bool {
        true
    }

    fn capture(&mut self, wish: Capture);
    fn lost(&mut self, loss: Loss);

    /// The client named the server of this connection (TLS server name): what to call an end of which only the address is known.
    fn server_name(&mut self, _name: &str) {}

    /// The client's first request named its server by this domain (Host, `:authority`), in lower case and without a port; at most once a
    /// connection.
    fn host(&mut self, _name: &str) {}

    /// The application protocols that the client offers inside TLS, in its order: "h2,http/1.1".
    fn alpn(&mut self, _protocols: &str) {}

    /// The name `name` was answered with `address`, valid for `ttl_s` seconds.
    fn resolved(&mut self, _name: &str, _address: IpAddr, _ttl_s: u32) {}
}

/// How the bytes of a conversation travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TCP: one stream of bytes in each direction; calls cut it anywhere.
    #[default]
    Stream,
    /// UDP: each call is one message. [`Parser::datagram`] gets each once, whole or cut at its end by the capture limit, whatever it
    /// answers; there are no skips, either flow may lack messages, and a socket has many other ends. `gap` says how many datagrams are known to have
    /// been missed, some time later. `close` is called when the socket has been silent for long.
    Datagrams,
}

/// How a connection came to its parser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// The stream began before it was watched: the first bytes may be of any place in a conversation.
    pub adopted: bool,
    pub transport: Transport,
    /// The protocols of which the user wants statements, keys and query strings as they are; a set, since one protocol can be carried by
    /// another. Credentials are left out all the same.
    pub raw: Protocols,
}

impl Opening {
    /// The user wants the values of `protocol`.
    pub fn shows(&self, protocol: Protocol) -> bool {
        self.raw.contains(protocol)
    }
}

/// A protocol's state for one connection.
///
/// Order of calls: the events of a connection in the order in which the kernel reported them. With two threads on one socket a response can
/// come before the request that it answers (the receiving call returned before the sending call did): pairing must allow for it.
pub trait Parser: Send {
    /// `bytes` is never empty and starts where the last call for this flow stopped.
    fn parse(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step;

    /// A datagram on a socket of [`Transport::Datagrams`]. `remote` is its other end, where that is known: an answer's often is not, since the
    /// kernel tells the program only. What the parser keeps of it goes back with [`Sink::exchange_with`], as it came.
    fn datagram(&mut self, flow: Flow, bytes: &[u8], at: At, _remote: Option<Endpoint>, out: &mut dyn Sink) -> Step {
        self.parse(flow, bytes, at, out)
    }

    /// The last byte of a [`Step::Skip`] went by at `at_ns`. Also called at once for a skip of 0 bytes.
    fn skipped(&mut self, flow: Flow, at_ns: u64, out: &mut dyn Sink);

    /// `lost` bytes of this flow were not captured (or were taken away, see [`Step::NeedMore`]), and they are not all inside a skip.
    /// Whatever message was under way is broken; the next bytes are of an unknown place, most likely the begin of a message when
    /// [`At::call_start`] is set. A skip under way is over.
    fn gap(&mut self, flow: Flow, lost: u64, at_ns: u64, out: &mut dyn Sink);

    /// The connection closed: nothing more comes. Emits what is left (a body delimited by close, requests that stay unanswered).
    fn close(&mut self, at_ns: u64, out: &mut dyn Sink);

    /// Time goes on: called about once a second where [`Definition::waits`], so that a missing answer is noticed without further bytes.
    fn tick(&mut self, _now_ns: u64, _out: &mut dyn Sink) {}
}

/// How much the first bytes of a flow look like a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Likeness {
    /// Impossible.
    No,
    /// Too few bytes to tell.
    Undecided,
    /// Could be: the other flow must agree before the connection is named.
    Likely,
    /// Unmistakable: no other protocol begins like this.
    Certain,
}

/// A protocol as detection sees it.
pub struct Definition {
    pub protocol: Protocol,
    /// What it is looked for in.
    pub transports: &'static [Transport],
    /// Its parser wants to hear of the passing of time.
    pub waits: bool,
    /// Judges the first bytes seen of a flow (from a call's begin, but with an adopted connection of any place in the conversation).
    pub likeness: fn(Flow, &[u8]) -> Likeness,
    /// Makes the state for a connection.
    pub parser: fn(Opening) -> Box<dyn Parser>,
}

impl Definition {
    /// A protocol of TCP that answers without being reminded.
    pub const fn stream(protocol: Protocol, likeness: fn(Flow, &[u8]) -> Likeness, parser: fn(Opening) -> Box<dyn Parser>) -> Self {
        Self { protocol, transports: &[Transport::Stream], waits: false, likeness, parser }
    }
}

/// All protocols, the cheapest and surest to tell first.
#[rustfmt::skip]
pub const DEFINITIONS: &[Definition] = &[
    tls::DEFINITION,
    dns::DATAGRAMS,
    dns::STREAM,
    http1::DEFINITION,
    http2::DEFINITION,
    amqp::DEFINITION,
    postgresql::DEFINITION,
    redis::DEFINITION,
    mysql::DEFINITION,
];
