//! What servers are called of which only the address is known.

use std::net::IpAddr;

use super::{tests::*, *};
use crate::{
    event::{Text, Tuple},
    model::Endpoint,
};

const FAR: Endpoint = Endpoint { address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10)), port: 443 };
const NEAR: Endpoint = Endpoint { address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), port: 40_000 };
const RESOLVER: Endpoint = Endpoint { address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 53)), port: 53 };

#[rustfmt::skip]
const HELLO: &[u8] = b"\x16\x03\x01\x00\x53\x01\0\0\x4f\x03\x03abcdefghijklmnopqrstuvwxyz012345\0\0\x02\x13\x01\x01\0\0\x24\0\0\0\x0e\0\x0c\0\0\x09shop.test\0\x10\0\x0e\0\x0c\x08http/1.1\x02h2";
const QUERY: &[u8] = b"\0\x18\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x01\0\x01";
/// a.test is FAR.
const ANSWER: &[u8] =
    b"\0\x28\0\x07\x81\x80\0\x01\0\x01\0\0\0\0\x01a\x04test\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x0a";

fn say(worker: &mut Worker, id: u64, direction: Direction, payload: &[u8]) {
    feed(worker, id, 10, Body::Data { direction, offset: 0, size: payload.len() as u32, unread: false, payload });
}

fn ask(worker: &mut Worker) {
    open(worker, 1, 10, [NEAR, RESOLVER], Role::Client);
    say(worker, 1, Direction::Sent, QUERY);
    say(worker, 1, Direction::Received, ANSWER);
}

/// Kind and name of the server, and its address, in the last line.
fn server(worker: &mut Worker) -> [String; 3] {
    let lines = lines(worker);
    let line: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    ["kind", "name", "address"].map(|member| line["server"][member].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_far_server_is_called_what_its_client_calls_it() {
    let mut worker = worker();
    open(&mut worker, 256, 10, [NEAR, FAR], Role::Client);
    say(&mut worker, 256, Direction::Sent, HELLO);
    close(&mut worker, 256, 10);
    let line: serde_json::Value = serde_json::from_str(&lines(&mut worker)[0]).unwrap();
    assert_eq!((&line["protocol"], &line["server_name"]), (&"tls".into(), &"shop.test".into()));
    assert_eq!((&line["server"]["name"], &line["server"]["kind"]), (&"shop.test".into(), &"domain".into()));
    assert_eq!(line["alpn"], "http/1.1,h2");
    let edges = worker.around.map.shard().edges;
    assert_eq!(edges.len(), 1);
    let server = &edges[0].0.server;
    assert_eq!((&*server.workload.name, server.address, server.port), ("shop.test", None, Some(443)));
}

#[test]
fn a_process_that_is_known_keeps_its_name() {
    let mut worker = worker();
    open(&mut worker, 256, 10, [NEAR, FAR], Role::Client);
    open(&mut worker, 512, 20, [FAR, NEAR], Role::Server);
    say(&mut worker, 256, Direction::Sent, HELLO);
    close(&mut worker, 256, 10);
    assert_eq!(server(&mut worker), ["process", "teller", "192.0.2.10"]);
}

#[test]
fn a_far_server_is_called_what_dns_called_its_address() {
    let mut worker = worker();
    ask(&mut worker);
    assert_eq!(server(&mut worker), ["address", "192.0.2.53", "192.0.2.53"]);
    open(&mut worker, 256, 10, [NEAR, FAR], Role::Client);
    close(&mut worker, 256, 10);
    assert_eq!(server(&mut worker), ["domain", "a.test", "192.0.2.10"]);
    // TLS knows better.
    open(&mut worker, 512, 10, [NEAR, FAR], Role::Client);
    say(&mut worker, 512, Direction::Sent, HELLO);
    close(&mut worker, 512, 10);
    assert_eq!(server(&mut worker), ["domain", "shop.test", "192.0.2.10"]);
    // An attempt that failed, too.
    let tuple = Tuple { local: NEAR, remote: FAR, netns: 7 };
    feed(&mut worker, 768, 10, Body::Fail { tuple, cgroup_id: 0, elapsed_ns: 1, error: 111, comm: Text::new("asker") });
    assert_eq!(server(&mut worker), ["domain", "a.test", "192.0.2.10"]);
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: Cart.test:8080\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

fn fetch(worker: &mut Worker, id: u64, ends: [Endpoint; 2], request: &[u8]) {
    open(worker, id, 10, ends, Role::Client);
    say(worker, id, Direction::Sent, request);
    say(worker, id, Direction::Received, OK);
}

#[test]
fn a_far_server_is_called_by_the_host_of_the_first_request_where_nobody_knows_better() {
    let mut worker = worker();
    fetch(&mut worker, 256, [NEAR, FAR], GET);
    assert_eq!(server(&mut worker), ["domain", "cart.test", "192.0.2.10"]);
    // One connection, one name.
    let other = b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n".as_slice();
    for (direction, bytes) in [(Direction::Sent, other), (Direction::Received, OK)] {
        let offset = if direction == Direction::Sent { GET.len() } else { OK.len() } as u64;
        feed(&mut worker, 256, 10, Body::Data { direction, offset, size: bytes.len() as u32, unread: false, payload: bytes });
    }
    assert_eq!(server(&mut worker), ["domain", "cart.test", "192.0.2.10"]);
    // An address is no name.
    let port = |port| Endpoint { port, ..NEAR };
    fetch(&mut worker, 512, [port(2), FAR], b"GET / HTTP/1.1\r\nHost: 192.0.2.10\r\n\r\n");
    assert_eq!(server(&mut worker)[0], "address");
    // A proxy is not who is asked for through it.
    fetch(&mut worker, 768, [port(3), FAR], b"GET http://cart.test/ HTTP/1.1\r\nHost: cart.test\r\n\r\n");
    assert_eq!(server(&mut worker)[0], "address");
    // DNS knows better.
    ask(&mut worker);
    fetch(&mut worker, 1024, [port(4), FAR], GET);
    assert_eq!(server(&mut worker), ["domain", "a.test", "192.0.2.10"]);
}

#[test]
fn a_server_is_not_named_by_its_clients_requests() {
    let mut worker = worker();
    open(&mut worker, 256, 0, [NEAR, FAR], Role::Server);
    say(&mut worker, 256, Direction::Received, GET);
    say(&mut worker, 256, Direction::Sent, OK);
    assert_eq!(server(&mut worker), ["address", "192.0.2.1", "192.0.2.1"]);
    // Loopback is this host, whatever it is called.
    let near = |port| Endpoint { address: [127, 0, 0, 1].into(), port };
    fetch(&mut worker, 512, [near(40_000), near(80)], GET);
    assert_eq!(server(&mut worker), ["address", "127.0.0.1", "127.0.0.1"]);
}

#[test]
fn a_name_is_of_the_time_when_the_connection_opened() {
    let mut worker = worker();
    open(&mut worker, 256, 10, [NEAR, FAR], Role::Client);
    ask(&mut worker);
    close(&mut worker, 256, 10);
    assert_eq!(server(&mut worker), ["address", "192.0.2.10", "192.0.2.10"]);
    worker.around.now_ns = 120_000_000_000;
    open(&mut worker, 512, 10, [NEAR, FAR], Role::Client);
    close(&mut worker, 512, 10);
    assert_eq!(server(&mut worker)[0], "address", "the answer is no longer valid");
}

/// A look-up over UDP, of a client in the namespace or of a server.
fn look_up(worker: &mut Worker, netns: u32, role: Role) {
    let id = 256 * u64::from(netns) + 53;
    let ends = if role == Role::Client { [NEAR, RESOLVER] } else { [RESOLVER, NEAR] };
    let tuple = Tuple { local: ends[0], remote: ends[1], netns };
    feed(worker, id, 10, Body::UdpOpen { tuple, cgroup_id: 0, start_ns: 1, role, comm: Text::new("comm") });
    let directions = if role == Role::Client { [Direction::Sent, Direction::Received] } else { [Direction::Received, Direction::Sent] };
    for (direction, message) in directions.into_iter().zip([QUERY, ANSWER]) {
        // Without the length that a stream has in front.
        let payload = &message[2..];
        let size = payload.len() as u32;
        let body = Body::Datagram { direction, number: 0, size, unread: false, remote: Some(ends[1]), payload };
        feed(worker, id, 10, body);
    }
}

fn of_four(place: usize) -> Worker {
    let mut worker = worker();
    (worker.around.options.worker, worker.around.options.workers) = (place, 4);
    worker
}

#[test]
fn a_worker_learns_names_from_the_dns_of_others_and_nothing_else() {
    let (mut owner, mut other) = (of_four(1), of_four(0));
    for worker in [&mut owner, &mut other] {
        look_up(worker, 7, Role::Client);
    }
    assert_eq!(lines(&mut owner).len(), 1, "the look-up");
    assert_eq!(lines(&mut other), [""; 0]);
    assert_eq!((other.report(false).events, other.around.map.shard().edges.len()), ([0; EVENT_NAMES.len()], 0));
    assert!(other.around.losses.all(&crate::probes::table::Tally::default()).values().all(|count| *count == 0));
    for (worker, id) in [(&mut owner, 257), (&mut other, 256)] {
        open(worker, id, 10, [NEAR, FAR], Role::Client);
        close(worker, id, 10);
        assert_eq!(server(worker), ["domain", "a.test", "192.0.2.10"]);
    }
    // Sockets that were silent for long are forgotten.
    other.overheard.tick(30_000_000_000);
    feed(&mut other, 0, 0, Body::Tick);
    look_up(&mut other, 7, Role::Client);
    assert_eq!(lines(&mut other), [""; 0]);
}

#[test]
fn what_a_server_of_this_host_tells_others_names_nothing() {
    for place in [0, 1] {
        let mut worker = of_four(place);
        look_up(&mut worker, 7, Role::Server);
        let id = 256 + place as u64;
        open(&mut worker, id, 10, [NEAR, FAR], Role::Client);
        close(&mut worker, id, 10);
        assert_eq!(server(&mut worker)[0], "address", "worker {place}");
    }
}

#[test]
fn names_beyond_the_bound_are_addresses() {
    let mut worker = worker();
    for number in 0..4200_u64 {
        let id = 256 * (number + 1);
        open(&mut worker, id, 10, [Endpoint { port: number as u16, ..NEAR }, FAR], Role::Client);
        let mut hello = HELLO.to_vec();
        let place = hello.windows(9).position(|bytes| bytes == b"shop.test").unwrap();
        hello[place..place + 4].copy_from_slice(format!("{number:04}").as_bytes());
        say(&mut worker, id, Direction::Sent, &hello);
        close(&mut worker, id, 10);
        assert_eq!(server(&mut worker)[0], if number < 4096 { "domain" } else { "address" }, "{number}");
    }
}
