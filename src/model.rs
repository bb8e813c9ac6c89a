//! The words everyone speaks: connections, endpoints, processes, protocols and exchanges.
//! Knows nothing of where they come from or where they go.

mod identity;

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize, Serializer};

pub use identity::{Compose, Container, Instance, Label, Party, Pod, Process, Remote, ServiceName, Translation, Workload, WorkloadKind};

/// Names a connection (more exactly: one watched socket of it) for the life of the agent.
///
/// The low byte is a hash of the client's port (UDP: of the server's) and so the same seen from either end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// The low byte: what has the same is of the same worker, however many there are.
    pub fn group(self) -> u8 {
        self.0 as u8
    }

    /// Which of `workers` owns this connection; both sockets of a same-host connection have the same owner.
    pub fn worker(self, workers: usize) -> usize {
        (self.0 & 0xff) as usize % workers.max(1)
    }

    /// The low byte of an id, made of the port that both ends know: the server's may be rewritten on the way.
    pub fn port_hash(port: u16) -> u8 {
        (port ^ (port >> 8)) as u8
    }
}

/// Which way bytes went, seen from the watched socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Sent,
    Received,
}

/// Which way bytes went, seen from the conversation: requests flow from client to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flow {
    Request,
    Response,
}

impl Flow {
    pub fn index(self) -> usize {
        self as usize
    }

    pub fn opposite(self) -> Self {
        match self {
            Flow::Request => Flow::Response,
            Flow::Response => Flow::Request,
        }
    }
}

/// What the watched socket is in its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Unknown,
    Client,
    Server,
}

impl Role {
    /// The flow of bytes that moved in `direction`; `None` while the role is unknown.
    pub fn flow(self, direction: Direction) -> Option<Flow> {
        match (self, direction) {
            (Role::Client, Direction::Sent) | (Role::Server, Direction::Received) => Some(Flow::Request),
            (Role::Client, Direction::Received) | (Role::Server, Direction::Sent) => Some(Flow::Response),
            (Role::Unknown, _) => None,
        }
    }
}

/// Whose socket was watched when an exchange was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Client,
    Server,
    /// Neither: frames seen on the way.
    Unknown,
}

impl Side {
    pub const ALL: [Side; 3] = [Side::Client, Side::Server, Side::Unknown];

    pub fn name(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Server => "server",
            Side::Unknown => "unknown",
        }
    }

    pub fn index(self) -> usize {
        self as usize
    }
}

/// Application protocols, named as in the JSON output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Http,
    Http2,
    Grpc,
    Websocket,
    Postgresql,
    Mysql,
    Redis,
    Amqp,
    Dns,
    /// Encrypted: only bytes and connection metrics are known.
    Tls,
    /// Nothing that a parser claims.
    Unknown,
}

impl Protocol {
    pub const ALL: [Protocol; 11] = [
        Protocol::Http,
        Protocol::Http2,
        Protocol::Grpc,
        Protocol::Websocket,
        Protocol::Postgresql,
        Protocol::Mysql,
        Protocol::Redis,
        Protocol::Amqp,
        Protocol::Dns,
        Protocol::Tls,
        Protocol::Unknown,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Http2 => "http2",
            Protocol::Grpc => "grpc",
            Protocol::Websocket => "websocket",
            Protocol::Postgresql => "postgresql",
            Protocol::Mysql => "mysql",
            Protocol::Redis => "redis",
            Protocol::Amqp => "amqp",
            Protocol::Dns => "dns",
            Protocol::Tls => "tls",
            Protocol::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A set of protocols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocols(u16);

impl Protocols {
    pub const NONE: Protocols = Protocols(0);
    pub const ALL: Protocols = Protocols((1 << Protocol::ALL.len()) - 1);

    pub fn contains(self, protocol: Protocol) -> bool {
        self.0 & (1 << protocol as u16) != 0
    }
}

impl FromIterator<Protocol> for Protocols {
    fn from_iter<I: IntoIterator<Item = Protocol>>(protocols: I) -> Self {
        Self(protocols.into_iter().fold(0, |set, protocol| set | 1 << protocol as u16))
    }
}

/// What an exchange must be read with care for; a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// The connection is older than the agent.
    pub const ADOPTED: Flags = Flags(1);
    /// A part of the request or response that belongs in the exchange was not captured.
    pub const TRUNCATED: Flags = Flags(2);
    /// The connection ended, or the protocol moved on, before a response was seen.
    pub const UNANSWERED: Flags = Flags(4);
    /// Bytes were missed while the exchange was under way.
    pub const GAP: Flags = Flags(8);

    const NAMES: [(Flags, &'static str); 4] =
        [(Flags::ADOPTED, "adopted"), (Flags::TRUNCATED, "truncated"), (Flags::UNANSWERED, "unanswered"), (Flags::GAP, "gap")];

    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn insert(&mut self, other: Flags) {
        self.0 |= other.0;
    }

    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| name)
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// The value of an exchange's attribute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Text(&'a str),
    Int(i64),
    Bool(bool),
}

/// One request and its answer as a parser understood them; borrowed from the parser for the length of a call.
///
/// Times are of the same clock as the events (CLOCK_MONOTONIC nanoseconds for live capture).
#[derive(Clone, Debug)]
pub struct Exchange<'a> {
    pub protocol: Protocol,
    /// First byte of the request.
    pub start_ns: u64,
    /// First byte of the response; `None` where there was no response.
    pub first_byte_ns: Option<u64>,
    /// Last byte of the response; when unanswered, the time at which that was known.
    pub end_ns: u64,
    /// GET, SELECT …
    pub operation: &'a str,
    /// Path without query string, normalised SQL …
    pub resource: &'a str,
    /// As the protocol writes it ("200", "42P01"); empty where there is none.
    pub status: &'a str,
    pub error: bool,
    /// Bytes on the wire of all messages of the request, captured or not.
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub flags: Flags,
    /// OpenTelemetry semantic-convention names.
    pub attributes: &'a [(&'static str, Value<'a>)],
}

/// One end of a connection: a network address and a transport port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Endpoint {
    /// IPv4-mapped addresses are held as IPv4.
    pub address: IpAddr,
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// What the kernel should capture of a connection: a prefix of each call, from a stream position on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Stream positions from which on each direction is of interest; `u64::MAX`: not any more.
    pub from_received: u64,
    pub from_sent: u64,
    /// Bytes of each call; 0: the default.
    pub limit: u32,
}

impl Wish {
    /// Bytes and calls are counted, nothing is captured.
    pub const NOTHING: Wish = Wish { from_received: u64::MAX, from_sent: u64::MAX, limit: 0 };
}
