//! Event records as the kernel makes them when it watches both ends of 32 connections on one host.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use anyhow::{Context, Result};
use remora::{
    event::{Body, CloseReason, Event, Header, Text, Totals, Tuple},
    model::{ConnectionId, Direction, Endpoint, Role},
};

const CONNECTIONS: usize = 32;

/// What wrk sends.
const HTTP_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
/// What nginx answers when it is configured to return a constant.
const HTTP_RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 01 Nov 2025 12:00:00 GMT\r\nContent-Type: text/plain\r\n\
Content-Length: 3\r\nConnection: keep-alive\r\n\r\nok\n";

/// The bytes of one call: from the client, or to it.
#[derive(Clone)]
struct Call {
    from_client: bool,
    bytes: Vec<u8>,
}

/// A whole run: connections are opened, talk in turn, and are closed.
pub struct Recording {
    pub name: &'static str,
    pub records: Vec<u8>,
    /// Exchanges in it, those of both sides counted.
    pub exchanges: u64,
    clock_ns: u64,
}

/// One connection and how far its two flows have come.
struct Talk {
    client_port: u16,
    server_port: u16,
    /// Sent by the client, sent by the server.
    positions: [u64; 2],
    number: u64,
}

impl Recording {
    /// `requests` in all, one at a time on each connection.
    pub fn http(requests: usize) -> Self {
        let turn = [call(true, HTTP_REQUEST), call(false, HTTP_RESPONSE)];
        Self::make("HTTP", 8080, &[], &turn, requests / CONNECTIONS, 1)
    }

    /// The statements of `tests/data/postgresql/pgbench_simple.txt` over and over, `requests` in all.
    pub fn postgresql(requests: usize) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/postgresql/pgbench_simple.txt");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let calls: Vec<Call> = text.lines().map(parse_call).collect();
        // Statements are what begins with Q; everything before the first of them is the start, and Terminate comes last.
        let is_query = |call: &Call| call.from_client && call.bytes.first() == Some(&b'Q');
        let begin = calls.iter().position(is_query).context("no statement")?;
        let end = calls.iter().rposition(|call| !call.from_client).context("no answer")? + 1;
        let statements = calls[begin..end].iter().filter(|call| is_query(call)).count();
        let turns = requests / CONNECTIONS / statements;
        Ok(Self::make("PostgreSQL", 5432, &calls[..begin], &calls[begin..end], turns, statements))
    }

    fn make(name: &'static str, server_port: u16, start: &[Call], turn: &[Call], turns: usize, exchanges_a_turn: usize) -> Self {
        let exchanges = (2 * CONNECTIONS * turns * exchanges_a_turn) as u64;
        let mut recording = Self { name, records: Vec::new(), exchanges, clock_ns: 1_000_000_000 };
        let mut talks: Vec<Talk> = (0..CONNECTIONS)
            .map(|number| Talk { client_port: 40_000 + number as u16, server_port, positions: [0; 2], number: number as u64 + 1 })
            .collect();
        for talk in &mut talks {
            recording.open(talk);
            start.iter().for_each(|call| recording.call(talk, call));
        }
        // In turn, call by call: what one processor sees of many connections.
        for _ in 0..turns {
            for call in turn {
                talks.iter_mut().for_each(|talk| recording.call(talk, call));
            }
        }
        talks.iter().for_each(|talk| recording.close(talk));
        recording
    }

    fn put(&mut self, talk: &Talk, role: Role, body: Body<'_>) {
        self.clock_ns += 500;
        let (server, pid) = (u64::from(role == Role::Server), if role == Role::Server { 200 } else { 100 });
        let hash = u64::from(ConnectionId::port_hash(talk.client_port, talk.server_port));
        let connection = ConnectionId((talk.number * 2 + server) << 8 | hash);
        Event { header: Header { time_ns: self.clock_ns, connection, pid, tid: pid }, body }.encode(&mut self.records);
    }

    fn open(&mut self, talk: &Talk) {
        let end = |port| Endpoint { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port };
        let (client, server) = (end(talk.client_port), end(talk.server_port));
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
            self.put(talk, role, body);
        }
    }

    fn call(&mut self, talk: &mut Talk, call: &Call) {
        let offset = talk.positions[usize::from(!call.from_client)];
        talk.positions[usize::from(!call.from_client)] += call.bytes.len() as u64;
        let (sender, receiver) = if call.from_client { (Role::Client, Role::Server) } else { (Role::Server, Role::Client) };
        for (role, direction) in [(sender, Direction::Sent), (receiver, Direction::Received)] {
            self.put(talk, role, Body::Data { direction, offset, size: call.bytes.len() as u32, unread: false, payload: &call.bytes });
        }
    }

    fn close(&mut self, talk: &Talk) {
        let [from_client, from_server] = talk.positions;
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
            self.put(talk, role, body);
        }
    }
}

fn call(from_client: bool, bytes: &[u8]) -> Call {
    Call { from_client, bytes: bytes.to_vec() }
}

/// A line of a recorded conversation: `>` from the client or `<` from the server, then the bytes, other than printable ones as `\xNN`.
fn parse_call(line: &str) -> Call {
    let (mut bytes, mut rest) = (Vec::new(), line.get(2..).unwrap_or_default());
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let code = rest.get(at + 2..at + 4).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code.filter(|_| rest[at + 1..].starts_with('x')) {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[at + 4..];
            }
            None => {
                bytes.extend_from_slice(rest[at + 1..].get(..1).unwrap_or_default().as_bytes());
                rest = rest.get(at + 2..).unwrap_or_default();
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Call { from_client: line.starts_with('>'), bytes }
}
