//! What is known of one connection or UDP socket beside its bytes.

use std::sync::Arc;

use super::{peers::Socket, remotes::Dialled};
use crate::{
    event::{Totals, Tuple},
    model::{ConnectionId, Endpoint, Party, Process, Protocol, Role, Side, Translation},
    service_map::EdgeId,
};

/// Who speaks, and what was counted.
pub struct About {
    pub id: ConnectionId,
    pub tuple: Tuple,
    pub role: Role,
    pub adopted: bool,
    /// A socket of UDP, whose tuple is that of the exchange at hand.
    pub is_udp: bool,
    /// False for an attempt that failed.
    pub established: bool,
    /// When it was established; for one that was adopted, when it was met.
    pub start_ns: u64,
    pub connect_ns: u64,
    /// Time of the last event that named the connection.
    pub seen_ns: u64,
    pub process: Option<Arc<Process>>,
    pub edge: Option<Edge>,
    /// Protocol of the last exchange: it need not be the connection's own (gRPC is spoken on HTTP/2).
    pub spoken: Option<Protocol>,
    /// How often the peer was looked for.
    pub tries: u8,
    pub counted: Totals,
    /// Where a client's connection leads; `None` where that is the remote address itself.
    pub dialled: Option<Box<Dialled>>,
    /// What DNS called the remote address.
    pub domain: Option<Arc<str>>,
    /// What the client's hello of TLS named, or its first request of HTTP.
    pub hello: Option<Box<Hello>>,
}

#[derive(Default)]
pub struct Hello {
    pub server_name: Option<Arc<str>>,
    /// Of a client's connection only.
    pub host: Option<Arc<str>>,
    pub alpn: Option<Box<str>>,
}

pub struct Edge {
    pub id: EdgeId,
    pub protocol: Protocol,
    pub client: Party,
    pub server: Party,
    pub peer: Option<ConnectionId>,
    /// The client only asks whether the server is alive.
    pub is_probe: bool,
    /// Both ends are known as well as they will ever be.
    pub settled: bool,
}

impl About {
    pub fn new(
        id: ConnectionId,
        tuple: Tuple,
        role: Role,
        adopted: bool,
        start_ns: u64,
        connect_ns: u64,
        process: Option<Arc<Process>>,
    ) -> Self {
        Self {
            id,
            tuple,
            role,
            adopted,
            is_udp: false,
            established: true,
            start_ns,
            connect_ns,
            seen_ns: start_ns,
            process,
            edge: None,
            spoken: None,
            tries: 0,
            counted: Totals::default(),
            dialled: None,
            domain: None,
            hello: None,
        }
    }

    /// An end is known better than before, or will be: both are looked for again.
    pub fn unsettle(&mut self) {
        self.tries = 0;
        if let Some(edge) = &mut self.edge {
            edge.settled = false;
        }
    }

    /// The next exchange is between these.
    pub fn turn_to(&mut self, tuple: Tuple) {
        if self.tuple != tuple {
            self.tuple = tuple;
            self.edge = None;
            self.dialled = None;
            self.tries = 0;
        }
    }

    /// What the client calls the server.
    pub fn domain(&self) -> Option<&Arc<str>> {
        let hello = self.hello.as_ref();
        let by_itself = || {
            let host = || hello.and_then(|hello| hello.host.as_ref());
            self.domain.as_ref().or_else(host).filter(|_| !self.is_server())
        };
        hello.and_then(|hello| hello.server_name.as_ref()).or_else(by_itself)
    }

    pub fn is_server(&self) -> bool {
        self.role == Role::Server
    }

    pub fn side(&self, frames: bool) -> Side {
        match self.role {
            _ if frames => Side::Unknown,
            Role::Client => Side::Client,
            Role::Server => Side::Server,
            Role::Unknown => Side::Unknown,
        }
    }

    pub fn client_end(&self) -> Endpoint {
        if self.is_server() { self.tuple.remote } else { self.tuple.local }
    }

    pub fn server_end(&self) -> Endpoint {
        if self.is_server() { self.tuple.local } else { self.tuple.remote }
    }

    /// Both ends as the server's socket has them, where this end of the connection has others.
    pub fn network(&self) -> Option<Translation> {
        let shown = Translation { client: self.client_end(), server: self.server_end() };
        self.rewritten().filter(|translation| *translation != shown)
    }

    /// A client's connection to a Service that had no ready endpoint when it was dialled.
    pub fn is_unserved(&self) -> bool {
        self.dialled.as_ref().is_some_and(|dialled| dialled.is_unserved)
    }

    /// What its socket can be found by: its own ends, and those that its peer has.
    pub fn sockets(&self) -> impl Iterator<Item = Socket> + use<> {
        let own = Socket::of(&self.tuple);
        let rewritten = self.rewritten().map(|Translation { client, server }| Socket { local: client, remote: server, netns: 0 });
        std::iter::once(own).chain(rewritten)
    }

    pub fn growth(&mut self, totals: &Totals) -> Totals {
        let before = std::mem::replace(&mut self.counted, *totals);
        Totals {
            bytes_sent: totals.bytes_sent.saturating_sub(before.bytes_sent),
            bytes_received: totals.bytes_received.saturating_sub(before.bytes_received),
            retransmits: totals.retransmits.saturating_sub(before.retransmits),
            srtt_us: totals.srtt_us,
        }
    }
}
