//! Event records as the kernel makes them when it watches both ends of 32 connections on one host.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use anyhow::{Context, Result};
use remora::{
    event::{Body, CloseReason, Event, Header, Text, Totals, Tuple},
    model::{ConnectionId, Direction, Endpoint, Flow, Role},
};

use crate::transcript::Transcript;

const CONNECTIONS: usize = 32;

/// What wrk sends.
const HTTP_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
/// What nginx answers when it is configured to return a constant.
const HTTP_RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 01 Nov 2025 12:00:00 GMT\r\nContent-Type: text/plain\r\n\
Content-Length: 3\r\nConnection: keep-alive\r\n\r\nok\n";

/// The bytes of one call and which way they went.
pub type Call = (Flow, Vec<u8>);

/// What every connection says, one after the other.
pub struct Talk<'a> {
    /// Said once.
    pub start: &'a [Call],
    pub start_exchanges: usize,
    /// Said over and over; the number of times that it was said before comes in.
    pub turn: &'a dyn Fn(usize) -> Vec<Call>,
    pub exchanges_a_turn: usize,
    pub turns: usize,
}

/// A whole run: connections are opened, talk in turn, and are closed.
pub struct Recording {
    pub name: String,
    pub records: Vec<u8>,
    /// Exchanges in it, those of both sides counted.
    pub exchanges: u64,
    clock_ns: u64,
}

/// One connection and how far its two flows have come.
struct Socket {
    client_port: u16,
    server_port: u16,
    /// By flow.
    positions: [u64; 2],
    number: u64,
}

impl Recording {
    /// `requests` in all, one at a time on each connection.
    #[allow(dead_code, reason = "the bench of the protocols has recordings only")]
    pub fn http(requests: usize) -> Self {
        let turn = |_| vec![(Flow::Request, HTTP_REQUEST.to_vec()), (Flow::Response, HTTP_RESPONSE.to_vec())];
        let talk = Talk { start: &[], start_exchanges: 0, turn: &turn, exchanges_a_turn: 1, turns: requests / CONNECTIONS };
        Self::make("HTTP".to_owned(), 8080, &talk)
    }

    /// The statements of `tests/data/postgresql/pgbench_simple.txt` over and over, `requests` in all.
    #[allow(dead_code, reason = "the bench of the protocols finds what repeats by itself")]
    pub fn postgresql(requests: usize) -> Result<Self> {
        let calls = Transcript::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/postgresql/pgbench_simple.txt"))?.calls;
        // Statements are what begins with Q; everything before the first of them is the start, and Terminate comes last.
        let is_query = |(flow, bytes): &Call| *flow == Flow::Request && bytes.first() == Some(&b'Q');
        let begin = calls.iter().position(is_query).context("no statement")?;
        let end = calls.iter().rposition(|(flow, _)| *flow == Flow::Response).context("no answer")? + 1;
        let statements = calls[begin..end].iter().filter(|call| is_query(call)).count();
        let turn = |_| calls[begin..end].to_vec();
        let talk = Talk {
            start: &calls[..begin],
            start_exchanges: 0,
            turn: &turn,
            exchanges_a_turn: statements,
            turns: requests / CONNECTIONS / statements,
        };
        Ok(Self::make("PostgreSQL".to_owned(), 5432, &talk))
    }

    pub fn make(name: String, server_port: u16, talk: &Talk<'_>) -> Self {
        let exchanges = (2 * CONNECTIONS * (talk.start_exchanges + talk.turns * talk.exchanges_a_turn)) as u64;
        let mut recording = Self { name, records: Vec::new(), exchanges, clock_ns: 1_000_000_000 };
        let mut sockets: Vec<Socket> = (0..CONNECTIONS)
            .map(|number| Socket { client_port: 40_000 + number as u16, server_port, positions: [0; 2], number: number as u64 + 1 })
            .collect();
        for socket in &mut sockets {
            recording.open(socket);
            talk.start.iter().for_each(|call| recording.call(socket, call));
        }
        // In turn, call by call: what one processor sees of many connections.
        for turn in 0..talk.turns {
            for call in &(talk.turn)(turn) {
                sockets.iter_mut().for_each(|socket| recording.call(socket, call));
            }
        }
        sockets.iter().for_each(|socket| recording.close(socket));
        recording
    }

    fn put(&mut self, socket: &Socket, role: Role, body: Body<'_>) {
        self.clock_ns += 500;
        let (server, pid) = (u64::from(role == Role::Server), if role == Role::Server { 200 } else { 100 });
        let hash = u64::from(ConnectionId::port_hash(socket.client_port));
        let connection = ConnectionId((socket.number * 2 + server) << 8 | hash);
        Event { header: Header { time_ns: self.clock_ns, connection, pid, tid: pid }, body }.encode(&mut self.records);
    }

    fn open(&mut self, socket: &Socket) {
        let end = |port| Endpoint { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port };
        let (client, server) = (end(socket.client_port), end(socket.server_port));
        for (role, local, remote, comm) in [(Role::Client, client, server, "load"), (Role::Server, server, client, "server")] {
            let tuple = Tuple { local, remote, netns: 1 };
            let body = Body::Open {
                tuple,
                cgroup_id: 1,
                start_ns: self.clock_ns,
                connect_ns: 20_000,
                role,
                adopted: false,
                comm: Text::new(comm),
            };
            self.put(socket, role, body);
        }
    }

    fn call(&mut self, socket: &mut Socket, (flow, bytes): &Call) {
        let offset = socket.positions[flow.index()];
        socket.positions[flow.index()] += bytes.len() as u64;
        let (sender, receiver) = if *flow == Flow::Request { (Role::Client, Role::Server) } else { (Role::Server, Role::Client) };
        for (role, direction) in [(sender, Direction::Sent), (receiver, Direction::Received)] {
            self.put(socket, role, Body::Data { direction, offset, size: bytes.len() as u32, unread: false, payload: bytes });
        }
    }

    fn close(&mut self, socket: &Socket) {
        let [from_client, from_server] = socket.positions;
        for (role, bytes_sent, bytes_received) in [(Role::Client, from_client, from_server), (Role::Server, from_server, from_client)] {
            let totals = Totals { bytes_sent, bytes_received, retransmits: 0, srtt_us: 20 };
            let body = Body::Close {
                start_ns: 1_000_000_000,
                connect_ns: 20_000,
                totals,
                calls_sent: 0,
                calls_received: 0,
                error: 0,
                reason: CloseReason::Local,
            };
            self.put(socket, role, body);
        }
    }
}
