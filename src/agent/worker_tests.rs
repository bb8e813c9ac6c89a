use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use super::*;
use crate::{
    agent::{names::Source, peers::ENDED_MAX},
    attribution::Listeners,
    event::{Text, Tuple},
    model::{Endpoint, Exchange, Flags, Side},
    protocols::Sink,
    record::Known,
};

const CLIENT: Endpoint = Endpoint { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 40_000 };
const SERVER: Endpoint = Endpoint { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 80 };
const NETNS: u32 = 7;

fn process(pid: u32, comm: &str) -> Arc<Process> {
    Arc::new(Process { pid, comm: comm.to_owned(), ..Process::default() })
}

pub(super) fn worker() -> Worker {
    let options = Options {
        worker: 0,
        workers: 1,
        frames: false,
        sides: Sides::Both,
        scope: Scope::default(),
        detail: Detail::Workload,
        lines: true,
        raw: Protocols::default(),
        unix_offset_ns: 0,
        connections: 8,
    };
    let names = Names::new(Source::Recording(Box::default()), Listeners::new(Path::new("/nonexistent")), None);
    let mut worker = Worker::new(options, names, Arc::default());
    for known in [process(10, "asker"), process(20, "teller")] {
        worker.around.names.learn(&Known::Process(known));
    }
    worker
}

pub(super) fn feed(worker: &mut Worker, id: u64, pid: u32, body: Body<'_>) {
    let header = Header { time_ns: 1, connection: ConnectionId(id), pid, tid: pid };
    worker.event(&Event { header, body }, &mut |_, _| {});
}

pub(super) fn open(worker: &mut Worker, id: u64, pid: u32, [local, remote]: [Endpoint; 2], role: Role) {
    let tuple = Tuple { local, remote, netns: NETNS };
    let body = Body::Open { tuple, cgroup_id: 5, start_ns: 1, connect_ns: 0, role, adopted: false, comm: Text::new("comm") };
    feed(worker, id, pid, body);
}

/// An exchange as the server's socket sees it, the `number`th.
pub(super) fn serve(worker: &mut Worker, id: u64, number: u64) {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for (direction, payload) in [(Direction::Received, REQUEST), (Direction::Sent, ANSWER)] {
        let offset = number * payload.len() as u64;
        feed(worker, id, 20, Body::Data { direction, offset, size: payload.len() as u32, unread: false, payload });
    }
}

pub(super) fn close(worker: &mut Worker, id: u64, pid: u32) {
    let body = Body::Close {
        start_ns: 1,
        connect_ns: 0,
        totals: Totals::default(),
        calls_sent: 0,
        calls_received: 0,
        error: 0,
        reason: CloseReason::Local,
    };
    feed(worker, id, pid, body);
}

fn exchange(protocol: Protocol) -> Exchange<'static> {
    Exchange {
        protocol,
        start_ns: 1,
        first_byte_ns: Some(2),
        end_ns: 2,
        operation: "SayHello",
        resource: "/greeter",
        status: "0",
        error: false,
        request_bytes: 1,
        response_bytes: 1,
        flags: Flags::default(),
        attributes: &[],
    }
}

pub(super) fn lines(worker: &mut Worker) -> Vec<String> {
    let text = std::mem::take(&mut worker.around.lines.text);
    String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_peer_that_closed_first_keeps_its_name() {
    let mut worker = worker();
    open(&mut worker, 256, 10, [CLIENT, SERVER], Role::Client);
    open(&mut worker, 512, 20, [SERVER, CLIENT], Role::Server);
    serve(&mut worker, 512, 0);
    close(&mut worker, 256, 10);
    lines(&mut worker);
    // Somebody else gets a better name: all connections look for their ends again.
    worker.refresh(&process(30, "other"));
    serve(&mut worker, 512, 1);
    close(&mut worker, 512, 20);
    let lines = lines(&mut worker);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in lines {
        assert!(line.contains("\"asker\"") && line.contains("\"teller\""), "{line}");
    }
}

#[test]
fn the_bytes_of_a_connection_go_to_the_edge_of_its_exchanges() {
    let mut worker = worker();
    open(&mut worker, 512, 20, [SERVER, CLIENT], Role::Server);
    // The connection is named, by another protocol than its exchanges have.
    serve(&mut worker, 512, 0);
    let entry = worker.connections.get_mut(&ConnectionId(512)).unwrap();
    Out { about: &mut entry.about, around: &mut worker.around }.exchange(&exchange(Protocol::Grpc));
    let totals = Totals { bytes_sent: 70, bytes_received: 50, retransmits: 0, srtt_us: 0 };
    feed(&mut worker, 512, 20, Body::Counters(totals));
    close(&mut worker, 512, 20);
    let shard = worker.report(true).shard;
    let counts: Vec<_> = shard
        .edges
        .iter()
        .map(|(key, sides)| {
            let side = sides[Side::Server.index()].as_ref().unwrap();
            (key.protocol, side.requests(), side.connections.bytes_received, side.connections.closed)
        })
        .collect();
    assert_eq!(counts, [(Protocol::Http, 1, 0, 0), (Protocol::Grpc, 1, 70, 1)]);
}

#[test]
fn a_client_that_is_gone_before_the_server_is_seen_is_named() {
    let mut worker = worker();
    open(&mut worker, 256, 10, [CLIENT, SERVER], Role::Client);
    close(&mut worker, 256, 10);
    open(&mut worker, 512, 20, [SERVER, CLIENT], Role::Server);
    serve(&mut worker, 512, 0);
    let lines = lines(&mut worker);
    assert!(lines.last().is_some_and(|line| line.contains("\"asker\"")), "{lines:?}");
}

#[test]
fn closed_peers_are_forgotten_in_the_end() {
    let mut worker = worker();
    for number in 0..3 * ENDED_MAX as u64 {
        let client = Endpoint { port: number as u16, ..CLIENT };
        open(&mut worker, number << 8, 10, [client, SERVER], Role::Client);
        close(&mut worker, number << 8, 10);
    }
    assert_eq!((worker.connections.len(), worker.around.peers.len()), (0, ENDED_MAX));
}

#[test]
fn a_second_announcement_does_not_begin_the_conversation_again() {
    let mut worker = worker();
    open(&mut worker, 512, 20, [SERVER, CLIENT], Role::Server);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    feed(&mut worker, 512, 20, Body::Data { direction: Direction::Received, offset: 0, size: 26, unread: false, payload: request });
    open(&mut worker, 512, 20, [SERVER, CLIENT], Role::Server);
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    feed(&mut worker, 512, 20, Body::Data { direction: Direction::Sent, offset: 0, size: 38, unread: false, payload: answer });
    assert_eq!(lines(&mut worker).len(), 1);
}

#[test]
fn services_that_come_and_go_are_forgotten() {
    let mut worker = worker();
    for port in 1000..2000 {
        let local = Endpoint { port, ..SERVER };
        for closed in [false, true] {
            feed(&mut worker, 0, 20, Body::Listen { local, netns: NETNS, cgroup_id: 0, comm: Text::new("teller"), closed });
        }
    }
    assert_eq!(worker.around.listeners.len(), 0);
    // One of two sockets of a port remains.
    for closed in [false, false, true] {
        feed(&mut worker, 0, 20, Body::Listen { local: SERVER, netns: NETNS, cgroup_id: 0, comm: Text::new("teller"), closed });
    }
    assert_eq!(worker.around.listeners.len(), 1);
}

#[test]
fn impossible_positions_do_no_harm() {
    let mut worker = worker();
    open(&mut worker, 512, 20, [SERVER, CLIENT], Role::Server);
    serve(&mut worker, 512, 0);
    for (offset, size) in [(u64::MAX - 1, 26), (u64::MAX, u32::MAX), (0, 26), (1 << 63, u32::MAX)] {
        let payload = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        feed(&mut worker, 512, 20, Body::Data { direction: Direction::Received, offset, size, unread: false, payload });
    }
    close(&mut worker, 512, 20);
    let mut fresh = self::worker();
    open(&mut fresh, 512, 20, [SERVER, CLIENT], Role::Server);
    let payload = b"GET";
    feed(&mut fresh, 512, 20, Body::Data { direction: Direction::Received, offset: u64::MAX, size: 26, unread: false, payload });
}

mod datagrams {
    use super::*;

    const ANY: Endpoint = Endpoint { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 53 };
    const ASKER: Endpoint = Endpoint { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 5000 };
    const TELLER: Endpoint = Endpoint { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 53 };
    const SECOND: u64 = 1_000_000_000;

    fn feed_at(worker: &mut Worker, id: u64, pid: u32, time_ns: u64, body: Body<'_>) {
        let header = Header { time_ns, connection: ConnectionId(id), pid, tid: pid };
        worker.event(&Event { header, body }, &mut |_, _| {});
    }

    fn meet(worker: &mut Worker, id: u64, pid: u32, [local, remote]: [Endpoint; 2], role: Role) {
        let tuple = Tuple { local, remote, netns: NETNS };
        feed_at(worker, id, pid, 1, Body::UdpOpen { tuple, cgroup_id: 0, start_ns: 1, role, comm: Text::new("comm") });
    }

    fn say(worker: &mut Worker, id: u64, pid: u32, direction: Direction, number: u64, answer: bool, remote: Option<Endpoint>) {
        say_at(worker, 2, id, pid, (direction, number, answer), remote);
    }

    fn say_at(
        worker: &mut Worker,
        time_ns: u64,
        id: u64,
        pid: u32,
        (direction, number, answer): (Direction, u64, bool),
        remote: Option<Endpoint>,
    ) {
        let flags: [u8; 2] = if answer { [0x81, 0x80] } else { [1, 0] };
        let payload = [&[0, 7][..], &flags, &[0, 1, 0, 0, 0, 0, 0, 0], b"\x04shop\x04test\0", &[0, 1, 0, 1]].concat();
        let size = payload.len() as u32;
        feed_at(worker, id, pid, time_ns, Body::Datagram { direction, number, size, unread: false, remote, payload: &payload });
    }

    fn tick(worker: &mut Worker, time_ns: u64) {
        feed_at(worker, 0, 0, time_ns, Body::Tick);
    }

    /// A server that is bound to every address, asked and answering before the asker's own call is over.
    fn serve_early(worker: &mut Worker, time_ns: u64) {
        let nobody = Endpoint { address: ANY.address, port: 0 };
        meet(worker, 512, 20, [ANY, nobody], Role::Server);
        say_at(worker, time_ns, 512, 20, (Direction::Received, 0, false), None);
        say_at(worker, time_ns, 512, 20, (Direction::Sent, 0, true), Some(ASKER));
    }

    #[test]
    fn a_server_that_is_faster_than_its_askers_call_waits_for_the_askers_name() {
        let mut worker = worker();
        serve_early(&mut worker, 2);
        assert_eq!(lines(&mut worker).len(), 0);
        meet(&mut worker, 256, 10, [ASKER, TELLER], Role::Client);
        let lines = lines(&mut worker);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("\"asker\"") && lines[0].contains("\"teller\"") && !lines[0].contains("0.0.0.0"), "{lines:?}");
    }

    #[test]
    fn it_does_not_wait_for_long() {
        let mut worker = worker();
        // A first tick tells the time; the next one comes at the end of a second.
        tick(&mut worker, SECOND);
        serve_early(&mut worker, 2 * SECOND - 10);
        tick(&mut worker, 2 * SECOND);
        assert_eq!(lines(&mut worker).len(), 0, "the call may be over in a moment");
        tick(&mut worker, 3 * SECOND);
        let lines = lines(&mut worker);
        assert!(lines.len() == 1 && lines[0].contains("\"port\":5000"), "{lines:?}");
    }

    #[test]
    fn what_still_waits_at_the_end_is_told() {
        let mut worker = worker();
        serve_early(&mut worker, 2);
        assert!(!worker.handle(&Message::End, &mut |_, _| (), &mut |_| ()));
        let lines = lines(&mut worker);
        assert!(lines.len() == 1 && lines[0].contains("\"port\":5000"), "{lines:?}");
    }

    #[test]
    fn a_silent_socket_is_forgotten_and_what_it_waits_for_is_told_before() {
        let mut worker = worker();
        meet(&mut worker, 256, 10, [ASKER, TELLER], Role::Client);
        say(&mut worker, 256, 10, Direction::Sent, 0, false, Some(TELLER));
        // No tick came for long.
        tick(&mut worker, 26 * SECOND);
        let lines = lines(&mut worker);
        assert!(lines.len() == 1 && lines[0].contains("unanswered"), "{lines:?}");
        assert_eq!(worker.sockets.len(), 0);
        say(&mut worker, 256, 10, Direction::Received, 0, true, Some(TELLER));
        assert_eq!(worker.around.losses.all(&Default::default())["connection_unknown"], 1);
    }

    #[test]
    fn sockets_and_connections_share_one_bound() {
        let mut worker = worker();
        for number in 0..20_u16 {
            let local = Endpoint { port: 6000 + number, ..ASKER };
            meet(&mut worker, u64::from(number) << 8, 10, [local, TELLER], Role::Client);
            open(&mut worker, (100 + u64::from(number)) << 8, 10, [local, SERVER], Role::Client);
        }
        assert_eq!(worker.sockets.len() + worker.connections.len(), 8);
        assert_eq!(worker.around.losses.all(&Default::default())["table_full"], 32);
    }

    #[test]
    fn datagrams_open_and_close_nothing() {
        let mut worker = worker();
        meet(&mut worker, 256, 10, [ASKER, TELLER], Role::Client);
        say(&mut worker, 256, 10, Direction::Sent, 0, false, Some(TELLER));
        say(&mut worker, 256, 10, Direction::Received, 0, true, None);
        feed(&mut worker, 0, 0, Body::Sweep { since_ns: u64::MAX });
        assert_eq!(worker.sockets.len(), 1, "no look at the kernel's connections names it");
        tick(&mut worker, 60 * SECOND);
        let shard = worker.report(true).shard;
        let counts = shard.edges[0].1[Side::Client.index()].as_ref().unwrap();
        assert_eq!((counts.requests(), counts.connections.opened, counts.connections.closed), (1, 0, 0));
    }
}
