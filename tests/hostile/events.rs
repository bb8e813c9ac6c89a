//! Event records, one of each kind and the data of whole conversations, to begin from.

use std::net::IpAddr;

use remora::{
    event::{Body, CloseReason, Event, Header, Text, Totals, Tuple},
    model::{ConnectionId, Direction, Endpoint, Flow, Role},
};

use crate::conversations::{CONVERSATIONS, Conversation};

fn header(connection: u64, time_ns: u64) -> Header {
    Header { time_ns, connection: ConnectionId(connection), pid: 42, tid: 43 }
}

fn encoded(connection: u64, time_ns: u64, body: Body<'_>) -> Vec<u8> {
    let mut record = Vec::new();
    Event { header: header(connection, time_ns), body }.encode(&mut record);
    record
}

pub fn open(connection: u64, time_ns: u64) -> Vec<u8> {
    let end = |port| Endpoint { address: IpAddr::from([10, 0, 0, 7]), port };
    let tuple = Tuple { local: end(40_000 + (connection % 20_000) as u16), remote: end(80), netns: 1 };
    let (start_ns, connect_ns, role, comm) = (time_ns, 5_000, Role::Client, Text::new("client"));
    encoded(
        connection,
        time_ns,
        Body::Open { tuple, cgroup_id: 7, start_ns, connect_ns, role, adopted: connection.is_multiple_of(5), comm },
    )
}

pub fn data(connection: u64, time_ns: u64, flow: Flow, offset: u64, payload: &[u8]) -> Vec<u8> {
    let direction = if flow == Flow::Request { Direction::Sent } else { Direction::Received };
    encoded(connection, time_ns, Body::Data { direction, offset, size: payload.len() as u32, unread: false, payload })
}

pub fn close(connection: u64, time_ns: u64) -> Vec<u8> {
    let totals = Totals { bytes_sent: 100, bytes_received: 1000, retransmits: 1, srtt_us: 50 };
    let (calls_sent, calls_received, error, reason) = (2, 3, 0, CloseReason::Remote);
    encoded(connection, time_ns, Body::Close { start_ns: 1, connect_ns: 2, totals, calls_sent, calls_received, error, reason })
}

/// A conversation from open to close, as the kernel would report the client's socket.
pub fn conversation(conversation: Conversation, connection: u64, time_ns: u64) -> Vec<Vec<u8>> {
    let mut records = vec![open(connection, time_ns)];
    let mut offsets = [0; 2];
    for (flow, message) in conversation {
        let offset = &mut offsets[flow.index()];
        records.push(data(connection, time_ns, *flow, *offset, message));
        *offset += message.len() as u64;
    }
    records.push(close(connection, time_ns));
    records
}

/// What else there is of a connection and around it.
pub fn others(connection: u64, time_ns: u64) -> Vec<Vec<u8>> {
    let local = Endpoint { address: IpAddr::from([0, 0, 0, 0]), port: 80 };
    let remote = Endpoint { address: IpAddr::from([10, 0, 0, 9]), port: 5432 };
    let tuple = Tuple { local, remote, netns: 1 };
    let comm = Text::new("server");
    let totals = Totals { bytes_sent: 1, bytes_received: 2, retransmits: 0, srtt_us: 9 };
    [
        Body::Owner { cgroup_id: 8, comm },
        Body::Fail { tuple, cgroup_id: 8, elapsed_ns: 1_000, error: 111, comm },
        Body::Listen { local, netns: 1, cgroup_id: 8, comm, closed: false },
        Body::Exec { cgroup_id: 8, comm, filename: b"/usr/sbin/server", argv0: b"server: worker" },
        Body::Exit,
        Body::Fork { child: 44 },
        Body::Cgroup { id: 8, path: b"/docker/abc", removed: false },
        Body::Cgroup { id: 8, path: b"", removed: true },
        Body::Counters(totals),
        Body::Tick,
        Body::Sweep { since_ns: 1 },
        Body::UdpOpen { tuple, cgroup_id: 8, start_ns: 1, role: Role::Client, comm },
        Body::Datagram { direction: Direction::Received, number: 3, size: 9, unread: false, remote: Some(remote), payload: b"datagram" },
        Body::Datagram { direction: Direction::Sent, number: 0, size: 9, unread: true, remote: None, payload: b"" },
    ]
    .map(|body| encoded(connection, time_ns, body))
    .to_vec()
}

/// One record of each kind, and of each conversation its first data.
pub fn samples() -> Vec<Vec<u8>> {
    let mut samples = others(9, 1_000);
    samples.extend([open(9, 1_000), close(9, 2_000)]);
    samples.extend(CONVERSATIONS.iter().map(|conversation| data(9, 1_500, conversation[0].0, 0, conversation[0].1)));
    samples
}
