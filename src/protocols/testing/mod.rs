//! A conversation as parser tests see it: both flows of one connection, fed call by call through the real streams, and all that came out.
//! Recorded conversations are in `golden`, what no conversation may lead to is in `proof`.

pub mod golden;
pub mod proof;
mod secrets;

use std::net::IpAddr;

use crate::{
    connection::stream::{NotMine, Segment, Stream},
    model::{Exchange, Flags, Flow, Protocols, Value},
    protocols::{Capture, Loss, Opening, Parser, Sink, Transport},
};

/// An [`Exchange`] that owns its texts.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnedExchange {
    pub start_ns: u64,
    pub first_byte_ns: Option<u64>,
    pub end_ns: u64,
    pub operation: String,
    pub resource: String,
    pub status: String,
    pub error: bool,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub flags: Flags,
    pub attributes: Vec<(&'static str, OwnedValue)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum OwnedValue {
    Text(String),
    Int(i64),
    Bool(bool),
}

impl OwnedExchange {
    /// "GET /a 200": enough to tell a right pair from a wrong one.
    pub fn summary(&self) -> String {
        format!("{} {} {}", self.operation, self.resource, self.status)
    }

    pub fn attribute(&self, name: &str) -> Option<&OwnedValue> {
        self.attributes.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// A text attribute's value; `None` when absent or of another kind.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.attribute(name) {
            Some(OwnedValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// An integer attribute's value; `None` when absent or of another kind.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.attribute(name) {
            Some(OwnedValue::Int(value)) => Some(*value),
            _ => None,
        }
    }
}

impl From<&Exchange<'_>> for OwnedExchange {
    fn from(exchange: &Exchange<'_>) -> Self {
        let owned = |value: &Value<'_>| match *value {
            Value::Text(text) => OwnedValue::Text(text.to_owned()),
            Value::Int(int) => OwnedValue::Int(int),
            Value::Bool(bool) => OwnedValue::Bool(bool),
        };
        Self {
            start_ns: exchange.start_ns,
            first_byte_ns: exchange.first_byte_ns,
            end_ns: exchange.end_ns,
            operation: exchange.operation.to_owned(),
            resource: exchange.resource.to_owned(),
            status: exchange.status.to_owned(),
            error: exchange.error,
            request_bytes: exchange.request_bytes,
            response_bytes: exchange.response_bytes,
            flags: exchange.flags,
            attributes: exchange.attributes.iter().map(|(name, value)| (*name, owned(value))).collect(),
        }
    }
}

/// What a parser emitted, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Collected {
    pub exchanges: Vec<OwnedExchange>,
    pub captures: Vec<Capture>,
    pub losses: Vec<Loss>,
    pub server_names: Vec<String>,
    pub hosts: Vec<String>,
    pub alpn: Vec<String>,
    /// Name, address, seconds.
    pub resolved: Vec<(String, IpAddr, u32)>,
}

impl Sink for Collected {
    fn exchange(&mut self, exchange: &Exchange<'_>) {
        self.exchanges.push(exchange.into());
    }

    fn capture(&mut self, wish: Capture) {
        self.captures.push(wish);
    }

    fn lost(&mut self, loss: Loss) {
        self.losses.push(loss);
    }

    fn server_name(&mut self, name: &str) {
        self.server_names.push(name.to_owned());
    }

    fn host(&mut self, name: &str) {
        self.hosts.push(name.to_owned());
    }

    fn alpn(&mut self, protocols: &str) {
        self.alpn.push(protocols.to_owned());
    }

    fn resolved(&mut self, name: &str, address: IpAddr, ttl_s: u32) {
        self.resolved.push((name.to_owned(), address, ttl_s));
    }
}

/// A connection watched from its first byte, and one older than the agent.
pub const OPEN: Opening = Opening { adopted: false, transport: Transport::Stream, raw: Protocols::NONE };
pub const ADOPT: Opening = Opening { adopted: true, ..OPEN };

/// One connection. Every call advances the clock by [`Conversation::STEP_NS`] unless [`Conversation::at`] says what time it is.
pub struct Conversation {
    parser: Box<dyn Parser>,
    streams: [Stream; 2],
    /// Position of the next byte of each flow.
    offsets: [u64; 2],
    now_ns: u64,
    refused: bool,
    pub seen: Collected,
}

impl Conversation {
    pub const STEP_NS: u64 = 1_000;

    /// A connection watched from its first byte.
    pub fn opened(parser: fn(Opening) -> Box<dyn Parser>) -> Self {
        Self::new(parser(Opening::default()), 0)
    }

    /// A connection older than the agent: the first byte seen of each flow has this position.
    pub fn adopted(parser: fn(Opening) -> Box<dyn Parser>, position: u64) -> Self {
        Self::new(parser(Opening { adopted: true, ..Opening::default() }), position)
    }

    /// A connection with this parser, its first bytes at this position.
    pub fn new(parser: Box<dyn Parser>, position: u64) -> Self {
        let streams = [Stream::starting_at(position), Stream::starting_at(position)];
        Self { parser, streams, offsets: [position; 2], now_ns: 0, refused: false, seen: Collected::default() }
    }

    /// What comes out of the whole of it: these calls, and the close.
    ///
    /// # Panics
    /// When the parser refuses it.
    #[track_caller]
    pub fn play(mut self, calls: &[golden::Call]) -> Collected {
        for (flow, bytes) in calls {
            self.call(*flow, bytes);
        }
        assert!(!self.refused, "taken for another protocol");
        self.close();
        self.seen
    }

    /// The next call is made at this time; later ones follow in steps.
    pub fn at(&mut self, time_ns: u64) -> &mut Self {
        self.now_ns = time_ns.saturating_sub(Self::STEP_NS);
        self
    }

    /// The time of the last call.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// A call of the client, captured whole.
    pub fn request(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.call(Flow::Request, bytes)
    }

    /// A call of the server, captured whole.
    pub fn response(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.call(Flow::Response, bytes)
    }

    /// A call, captured whole.
    pub fn call(&mut self, flow: Flow, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.cut_call(flow, bytes.as_ref(), bytes.as_ref().len() as u64)
    }

    /// A call of `size` bytes of which only `captured` were carried.
    pub fn cut_call(&mut self, flow: Flow, captured: impl AsRef<[u8]>, size: u64) -> &mut Self {
        let offset = self.offsets[flow.index()];
        self.offsets[flow.index()] = offset + size;
        self.now_ns += Self::STEP_NS;
        if !self.refused {
            let segment = Segment { offset, size, payload: captured.as_ref(), time_ns: self.now_ns };
            let fed = self.streams[flow.index()].feed(flow, segment, self.parser.as_mut(), &mut self.seen);
            self.refused = matches!(fed, Err(NotMine));
        }
        self
    }

    /// A call whose event never arrived: the next call of the flow shows the hole.
    pub fn lost_call(&mut self, flow: Flow, size: u64) -> &mut Self {
        self.offsets[flow.index()] += size;
        self.now_ns += Self::STEP_NS;
        self
    }

    pub fn close(&mut self) -> &mut Self {
        self.now_ns += Self::STEP_NS;
        if !self.refused {
            self.parser.close(self.now_ns, &mut self.seen);
        }
        self
    }

    /// The parser said that the bytes are not of its protocol; later calls were not shown to it.
    pub fn refused(&self) -> bool {
        self.refused
    }

    /// Unfinished bytes held for a flow.
    pub fn buffered(&self, flow: Flow) -> usize {
        self.streams[flow.index()].buffered()
    }

    /// The position up to which nothing of a flow needs to be captured.
    pub fn skips_until(&self, flow: Flow) -> u64 {
        self.streams[flow.index()].skips_until()
    }

    /// "GET /a 200" of every exchange, in the order in which they came out.
    pub fn summaries(&self) -> Vec<String> {
        self.seen.exchanges.iter().map(OwnedExchange::summary).collect()
    }
}
