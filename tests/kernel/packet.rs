//! The hook family `packet`: frames of interfaces in network namespaces of our own, counted for equality.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::Stdio,
    time::Duration,
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::signal::Signal,
    unistd::Pid,
};
use remora::{
    event::{Body, Event},
    record::{Chunk, Reader, records},
};
use tempfile::TempDir;

use crate::{
    recording::{after_ready, assert_same},
    support::{
        agent::{Agent, remora},
        capture::{assert_same_exchanges, listening},
        dns::{Unbound, ZONE_NAME},
        exchange::{Exchange, Report},
        free_port,
        http::{self, Metrics},
        machine,
        netns::Namespace,
        nginx::Nginx,
        process::{Process, run, run_within},
        program, until,
    },
};

/// Sent as the last packet of a capture.
const LAST: &[u8] = b"the last packet of this capture";
const TRANSPORTS: [&str; 2] = ["ring", "perf"];
const LEFT: [&str; 2] = ["10.131.40.2", "fd00:131:40::2"];
const RIGHT: [&str; 2] = ["10.131.40.3", "fd00:131:40::3"];

/// Two namespaces joined by a bridge in a third, which is where the agent is: it has no address there, and no process of theirs.
struct Bridged {
    left: Namespace,
    right: Namespace,
    middle: Namespace,
}

impl Bridged {
    fn new() -> Self {
        let bridged = Self { left: Namespace::new("left"), right: Namespace::new("right"), middle: Namespace::new("middle") };
        let middle = &bridged.middle;
        middle.ip(&["link", "add", "br0", "type", "bridge"]);
        middle.ip(&["link", "set", "br0", "up"]);
        for (namespace, port, addresses) in [(&bridged.left, "left", LEFT), (&bridged.right, "right", RIGHT)] {
            middle.ip(&["link", "add", port, "type", "veth", "peer", "name", "veth0", "netns", &namespace.name]);
            middle.ip(&["link", "set", port, "master", "br0", "up"]);
            namespace.ip(&["link", "set", "veth0", "up"]);
            namespace.ip(&["address", "add", &format!("{}/24", addresses[0]), "dev", "veth0"]);
            namespace.ip(&["address", "add", &format!("{}/64", addresses[1]), "dev", "veth0", "nodad"]);
        }
        bridged
    }
}

/// The agent in a namespace, with the hooks packet.
fn watch(namespace: &Namespace, interfaces: &str, extra: &[&str]) -> Agent {
    watch_as(namespace, &["run", "--output", "json"], interfaces, extra)
}

fn watch_as(namespace: &Namespace, command: &[&str], interfaces: &str, extra: &[&str]) -> Agent {
    let mut agent = namespace.command(remora().get_program());
    agent.args(command).args(["--hooks", "packet", "--interface", interfaces]).args(extra).stdin(Stdio::null());
    Agent::start_by(agent, SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())), true)
}

fn metrics(namespace: &Namespace, agent: &Agent) -> Metrics {
    let response = namespace.inside(|| http::get(agent.listen, "/metrics")).expect("GET /metrics");
    Metrics::parse(&response.body)
}

/// An address as a URL has it.
fn host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

fn load(from: &Namespace, address: &str, port: u16, requests: u64) {
    let mut load = from.command(program("load"));
    let target = format!("{}:{port}", host(address));
    let load = run(load.args(["http", "--address", &target, "--connections", "4", "--requests", &requests.to_string()]));
    assert_eq!(load.json()[0]["requests"], requests);
}

fn of_port(report: &Report, port: u16) -> Vec<&Exchange> {
    report.exchanges.iter().filter(|exchange| exchange.server.port == port).collect()
}

#[track_caller]
fn assert_seen_from_outside(exchanges: &[&Exchange], ends: [&str; 2]) {
    for exchange in exchanges {
        assert_eq!(
            (exchange.side.as_str(), exchange.process.is_none(), exchange.peer_connection_id),
            ("unknown", true, None),
            "{exchange:?}"
        );
        assert_eq!([exchange.client.address.as_str(), exchange.server.address.as_str()], ends, "{exchange:?}");
        assert_eq!(exchange.flags, [""; 0], "{exchange:?}");
    }
}

fn dig(from: &Namespace, server: &str) {
    run(from.command("dig").args(["-r", &format!("@{server}"), "+tries=1", ZONE_NAME, "SOA"]));
}

fn a_bridge_shows_what_it_passes_on(transport: &str) {
    const REQUESTS: [u64; 2] = [2_000, 500];
    const LOOK_UPS: usize = 20;
    let _machine = machine();
    let bridged = Bridged::new();
    let nginx = Nginx::start_with(&[RIGHT[0], &host(RIGHT[1])], bridged.right.command("nginx"));
    let unbound = Unbound::start_in(&bridged.right);
    let directory = TempDir::with_prefix("remora-packet-").expect("make a directory");
    let file = directory.path().join("bridge.pcap");
    let agent = watch(&bridged.middle, "br0", &["--transport", transport]);
    let mut tcpdump = tcpdump(&bridged.middle, &file);
    for (address, requests) in RIGHT.into_iter().zip(REQUESTS) {
        load(&bridged.left, address, nginx.port, requests);
    }
    for _ in 0..LOOK_UPS {
        dig(&bridged.left, RIGHT[0]);
    }
    let port = nginx.port;
    let all = |report: &Report| of_port(report, port).len() as u64 >= REQUESTS.iter().sum() && of_port(report, 53).len() >= LOOK_UPS;
    agent.wait_for("all exchanges", all);
    let report = agent.finish();
    // tcpdump drops what it has not read when it is stopped.
    let marker = bridged.left.inside(|| UdpSocket::bind((LEFT[0], 0))).expect("bind");
    marker.send_to(LAST, (RIGHT[0], 9)).expect("send");
    let is_written = || fs::read(&file).expect("read the capture").windows(LAST.len()).rev().any(|bytes| bytes == LAST);
    until("tcpdump to write the last packet", Duration::from_secs(10), || is_written().then_some(()));
    tcpdump.signal(Signal::SIGINT);
    tcpdump.wait(Duration::from_secs(10));

    report.summary().assert_nothing_lost();
    let seen = of_port(&report, port);
    assert_eq!(seen.len() as u64, REQUESTS.iter().sum::<u64>());
    for (place, requests) in REQUESTS.into_iter().enumerate() {
        let of_family: Vec<_> = seen.iter().copied().filter(|exchange| exchange.server.address == RIGHT[place]).collect();
        assert_eq!(of_family.len() as u64, requests);
        assert_seen_from_outside(&of_family, [LEFT[place], RIGHT[place]]);
    }
    let names = of_port(&report, 53);
    assert_eq!(names.len(), LOOK_UPS);
    assert_seen_from_outside(&names, [LEFT[0], RIGHT[0]]);
    assert!(names.iter().all(|exchange| exchange.protocol == "dns" && exchange.resource == ZONE_NAME && exchange.status == "NOERROR"));
    let connections: Vec<_> = report.connections.iter().filter(|connection| connection.server.port == port).collect();
    assert_eq!(connections.len(), 8, "four of each family");
    for connection in connections {
        assert_eq!((connection.role.as_str(), connection.retransmits, &connection.error), ("client", 0, &None), "{connection:?}");
        let (connect_ns, srtt_us) = (connection.connect_ns.expect("a handshake"), connection.srtt_us.expect("a round trip"));
        assert!((1..1_000_000_000).contains(&connect_ns) && (1..1_000_000).contains(&srtt_us), "{connection:?}");
        assert!(connection.bytes_sent > 0 && connection.bytes_received > connection.bytes_sent, "{connection:?}");
    }
    let replayed = Report::read(&run(remora().arg("replay").arg(&file).args(["--output", "json"])).stdout);
    assert_same_exchanges(&seen, &of_port(&replayed, port));
    assert_same_exchanges(&names, &of_port(&replayed, 53));
    nginx.stop();
    drop(unbound);
}

fn tcpdump(namespace: &Namespace, file: &Path) -> Process {
    let mut tcpdump = namespace.command("tcpdump");
    tcpdump.args(["-i", "br0", "-s", "0", "-B", "65536", "--immediate-mode", "-U", "-Z", "root", "-w"]).arg(file);
    listening(tcpdump)
}

#[test]
fn a_bridge_shows_what_it_passes_on_by_ring() {
    a_bridge_shows_what_it_passes_on("ring");
}

#[test]
fn a_bridge_shows_what_it_passes_on_by_perf() {
    a_bridge_shows_what_it_passes_on("perf");
}

#[test]
fn loopback_shows_each_frame_once() {
    const REQUESTS: u64 = 1_000;
    let _machine = machine();
    let alone = Namespace::new("alone");
    let nginx = Nginx::start_with(&["127.0.0.1", "[::1]"], alone.command("nginx"));
    for transport in TRANSPORTS {
        let agent = watch(&alone, "lo", &["--transport", transport]);
        load(&alone, "127.0.0.1", nginx.port, REQUESTS);
        load(&alone, "::1", nginx.port, REQUESTS);
        let port = nginx.port;
        agent.wait_for("all exchanges", |report| of_port(report, port).len() as u64 >= 2 * REQUESTS);
        // The agent's own frames pass here, too.
        assert!(metrics(&alone, &agent).sum("remora_self_events_total", &["kind=\"tick\""]) > 0.0);
        let own = agent.listen.port();
        let report = agent.finish();
        report.summary().assert_nothing_lost();
        assert_eq!(of_port(&report, port).len() as u64, 2 * REQUESTS, "{transport}");
        assert!(report.connections.iter().all(|connection| connection.retransmits == 0), "{transport}: {:#?}", report.connections);
        assert!(of_port(&report, own).is_empty(), "{transport}: the agent watches itself");
    }
    nginx.stop();
}

#[test]
fn two_interfaces_that_show_the_same_frames_show_them_once() {
    const REQUESTS: u64 = 500;
    let _machine = machine();
    let bridged = Bridged::new();
    let nginx = Nginx::start_with(&[RIGHT[0], &host(RIGHT[1])], bridged.right.command("nginx"));
    let unbound = Unbound::start_in(&bridged.right);
    for transport in TRANSPORTS {
        let agent = watch(&bridged.middle, "br0,left,right", &["--transport", transport]);
        RIGHT.into_iter().for_each(|address| load(&bridged.left, address, nginx.port, REQUESTS));
        dig(&bridged.left, RIGHT[0]);
        let port = nginx.port;
        agent.wait_for("all", |report| of_port(report, port).len() as u64 >= 2 * REQUESTS && !of_port(report, 53).is_empty());
        let report = agent.finish();
        report.summary().assert_nothing_lost();
        assert_eq!((of_port(&report, port).len() as u64, of_port(&report, 53).len()), (2 * REQUESTS, 1), "{transport}");
        assert!(report.connections.iter().all(|connection| connection.retransmits == 0), "{transport}: {:#?}", report.connections);
    }
    nginx.stop();
    drop(unbound);
}

#[test]
fn only_the_ports_and_addresses_that_were_asked_for_are_seen() {
    const REQUESTS: u64 = 100;
    let _machine = machine();
    let bridged = Bridged::new();
    for address in ["10.131.40.8/24", "10.131.40.9/24"] {
        bridged.right.ip(&["address", "add", address, "dev", "veth0"]);
    }
    let listen = [RIGHT[0], "10.131.40.8", "10.131.40.9", &host(RIGHT[1])];
    let [wanted, other] = [(); 2].map(|()| Nginx::start_with(&listen, bridged.right.command("nginx")));
    let everything = |agent: Agent, expected: &[(&str, u16)]| {
        for address in [RIGHT[0], "10.131.40.8", "10.131.40.9", RIGHT[1]] {
            for nginx in [&wanted, &other] {
                load(&bridged.left, address, nginx.port, REQUESTS);
            }
        }
        let count = expected.len() as u64 * REQUESTS;
        agent.wait_for("all exchanges", |report| report.exchanges.len() as u64 >= count);
        let report = agent.finish();
        report.summary().assert_nothing_lost();
        let mut seen = BTreeMap::new();
        for exchange in &report.exchanges {
            *seen.entry((exchange.server.address.as_str(), exchange.server.port)).or_insert(0) += 1;
        }
        assert_eq!(seen, expected.iter().map(|end| (*end, REQUESTS)).collect());
        let ends: Vec<_> = report.connections.iter().map(|end| (end.server.address.as_str(), end.server.port)).collect();
        assert!(ends.iter().all(|end| expected.contains(end)), "{ends:?}");
    };
    for transport in TRANSPORTS {
        let watched = |extra: &[&str]| watch(&bridged.middle, "br0", &[&["--transport", transport], extra].concat());
        let port = wanted.port.to_string();
        let at_port = [RIGHT[0], "10.131.40.8", "10.131.40.9", RIGHT[1]].map(|address| (address, wanted.port));
        everything(watched(&["--port", &port]), &at_port);
        let both = |address| [(address, wanted.port), (address, other.port)];
        // 10.131.40.8 and 10.131.40.9, and the whole of the other family.
        let networks = "10.131.40.8/31,fd00:131:40::/48";
        everything(watched(&["--address", networks]), &[both("10.131.40.8"), both("10.131.40.9"), both(RIGHT[1])].concat());
        everything(watched(&["--address", "10.131.40.9", "--port", &port]), &[("10.131.40.9", wanted.port)]);
    }
    wanted.stop();
    other.stop();
}

#[test]
fn no_more_of_a_payload_is_captured_than_the_settings_say() {
    const CAPTURED: usize = 64;
    let _machine = machine();
    let bridged = Bridged::new();
    let directory = TempDir::with_prefix("remora-packet-").expect("make a directory");
    let question: Vec<u8> = (0..5_000_u32).map(|place| (place % 251) as u8).collect();
    for transport in TRANSPORTS {
        let recording = directory.path().join(format!("{transport}.rrec"));
        let file = recording.to_str().expect("a path of characters");
        let extra = ["--transport", transport, "--capture-bytes", "64"];
        let agent = watch_as(&bridged.middle, &["record", file, "--output", "json"], "br0", &extra);
        let listener = bridged.right.inside(|| TcpListener::bind((RIGHT[0], 0))).expect("listen");
        let address = listener.local_addr().expect("an address");
        let mut client = bridged.left.inside(|| TcpStream::connect(address)).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        client.write_all(&question).expect("ask");
        let mut heard = vec![0; question.len()];
        server.read_exact(&mut heard).expect("hear");
        drop((client, server));
        agent.wait_for("the connection to close", |report| !report.connections.is_empty());
        let report = agent.finish();
        report.summary().assert_nothing_lost();
        assert_eq!(report.connections[0].bytes_sent, question.len() as u64);

        let mut total = 0;
        for chunk in Reader::new(fs::File::open(&recording).expect("open")).expect("a recording") {
            let Chunk::Events { bytes, .. } = chunk.expect("a chunk") else { continue };
            for record in records(&bytes) {
                let event = Event::decode(record.expect("a record")).expect("an event");
                if let Body::Data { offset, size, payload, .. } = event.body {
                    let (start, size) = (offset as usize, size as usize);
                    assert_eq!(payload, &question[start..start + size.min(CAPTURED)], "{transport} at {offset}");
                    total += size;
                }
            }
        }
        assert_eq!(total, question.len(), "{transport}");
    }
}

#[test]
fn a_flood_is_captured_or_counted_as_lost() {
    const FLOOD: u64 = 200_000;
    let _machine = machine();
    let alone = Namespace::new("alone");
    let sink = alone.inside(|| UdpSocket::bind("127.0.0.1:0")).expect("bind");
    let source = alone.inside(|| UdpSocket::bind("127.0.0.1:0")).expect("bind");
    let address = sink.local_addr().expect("an address");
    for transport in TRANSPORTS {
        let agent = watch(&alone, "lo", &["--transport", transport, "--port", &address.port().to_string(), "--ring-bytes", "64KiB"]);
        for number in 0..FLOOD {
            let mut datagram = [0; 200];
            datagram[..8].copy_from_slice(&number.to_ne_bytes());
            source.send_to(&datagram, address).expect("send");
        }
        let count = || {
            let metrics = metrics(&alone, &agent);
            let captured = metrics.get("remora_self_events_total", &["kind=\"datagram\""]) as u64;
            (captured, metrics.get("remora_self_lost_total", &["reason=\"ring_full\""]) as u64)
        };
        let (captured, lost) = until("all that was sent to be accounted for", Duration::from_secs(20), || {
            let (captured, lost) = count();
            (captured + lost >= FLOOD).then_some((captured, lost))
        });
        println!("{transport}: {captured} captured, {lost} lost");
        assert_eq!(captured + lost, FLOOD, "{transport}");
        assert!(lost > 0, "{transport}: the buffer was never full, so nothing was shown");
        let report = agent.finish();
        assert_eq!(report.summary().lost["ring_full"], lost, "{transport}");
    }
}

/// Segments that a namespace has sent again so far.
fn retransmitted(namespace: &Namespace) -> u64 {
    let table = run(namespace.command("cat").arg("/proc/net/snmp")).stdout;
    let mut lines = table.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let place = names.split(' ').position(|name| name == "RetransSegs").expect("a column");
    values.split(' ').nth(place).expect("a value").parse().expect("a number")
}

/// Two namespaces with a router between them, which loses every so many packets from left to right behind its first interface.
struct Routed {
    left: Namespace,
    right: Namespace,
    router: Namespace,
}

impl Routed {
    fn new(every: u32) -> Self {
        let routed = Self { left: Namespace::new("left"), right: Namespace::new("right"), router: Namespace::new("router") };
        for (namespace, device, net) in [(&routed.left, "left", 41), (&routed.right, "right", 42)] {
            routed.router.ip(&["link", "add", device, "type", "veth", "peer", "name", "veth0", "netns", &namespace.name]);
            routed.router.ip(&["address", "add", &format!("10.131.{net}.1/24"), "dev", device]);
            routed.router.ip(&["link", "set", device, "up"]);
            namespace.ip(&["address", "add", &format!("10.131.{net}.2/24"), "dev", "veth0"]);
            namespace.ip(&["link", "set", "veth0", "up"]);
            namespace.ip(&["route", "add", "default", "via", &format!("10.131.{net}.1")]);
            // Frames as long as segments: the kernel counts these.
            run(namespace.command("ethtool").args(["-K", "veth0", "tso", "off", "gso", "off", "gro", "off"]));
        }
        routed.router.set("net.ipv4.ip_forward", "1");
        let every = every.to_string();
        let drop = ["-A", "FORWARD", "-i", "left", "-p", "tcp", "-m", "length", "--length", "100:", "-m", "statistic", "--mode", "nth"];
        run(routed.router.command("iptables").args(drop).args(["--every", &every, "--packet", "3", "-j", "DROP"]));
        routed
    }
}

/// Both ends stay on one processor: what two of them pass on at once overtakes, and an interface cannot tell that from what is sent again.
fn upload(routed: &Routed, address: SocketAddr, bytes: usize) {
    let listener = routed.right.inside(|| TcpListener::bind(address)).expect("listen");
    let mut client = routed.left.inside(|| TcpStream::connect(address)).expect("connect");
    let (mut server, _) = listener.accept().expect("accept");
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            stay_on_one_processor();
            std::io::copy(&mut server, &mut std::io::sink()).expect("read")
        });
        scope.spawn(move || {
            stay_on_one_processor();
            client.write_all(&vec![7; bytes]).expect("write");
            client.shutdown(std::net::Shutdown::Write).expect("end");
        });
        assert_eq!(reader.join().expect("the reader") as usize, bytes);
    });
}

/// Of the calling thread.
fn stay_on_one_processor() {
    let mut first = CpuSet::new();
    first.set(0).expect("a processor");
    sched_setaffinity(Pid::from_raw(0), &first).expect("staying on a processor");
}

#[test]
fn retransmissions_are_those_that_the_sender_counts() {
    const BYTES: usize = 4 << 20;
    let _machine = machine();
    let routed = Routed::new(50);
    let address = SocketAddr::from(([10, 131, 42, 2], 18_042));
    for transport in TRANSPORTS {
        // Before the loss each segment passes as often as it is sent.
        let agent = watch(&routed.router, "left", &["--transport", transport]);
        let before = retransmitted(&routed.left);
        upload(&routed, address, BYTES);
        agent.wait_for("the connection to close", |report| !report.connections.is_empty());
        let (report, sent_again) = (agent.finish(), retransmitted(&routed.left) - before);
        report.summary().assert_nothing_lost();
        let connection = &report.connections[0];
        println!("{transport}: {sent_again} sent again, {} seen", connection.retransmits);
        assert!(sent_again > 0, "nothing was lost on the way: this test shows nothing");
        assert_eq!((connection.retransmits, connection.bytes_sent), (sent_again, BYTES as u64), "{transport}: {connection:?}");
    }
}

#[test]
fn retransmissions_of_what_was_lost_before_the_interface_show_by_their_holes() {
    const BYTES: usize = 4 << 20;
    let _machine = machine();
    let routed = Routed::new(50);
    let agent = watch(&routed.router, "right", &[]);
    let before = retransmitted(&routed.left);
    upload(&routed, SocketAddr::from(([10, 131, 42, 2], 18_043)), BYTES);
    agent.wait_for("the connection to close", |report| !report.connections.is_empty());
    let (report, sent_again) = (agent.finish(), retransmitted(&routed.left) - before);
    report.summary().assert_nothing_lost();
    let connection = &report.connections[0];
    println!("{sent_again} sent again, {} seen", connection.retransmits);
    assert_eq!(connection.bytes_sent, BYTES as u64);
    // One that is lost twice is seen once, and one at the very end leaves no hole.
    assert!(connection.retransmits > 0 && connection.retransmits <= sent_again, "{connection:?}");
    assert!(connection.retransmits * 10 >= sent_again * 7, "{} of {sent_again}", connection.retransmits);
}

#[test]
fn a_recording_of_frames_and_its_replays_are_the_same_byte_for_byte() {
    let _machine = machine();
    let bridged = Bridged::new();
    let nginx = Nginx::start_with(&[RIGHT[0]], bridged.right.command("nginx"));
    let directory = TempDir::with_prefix("remora-packet-").expect("make a directory");
    let recording = directory.path().join("run.rrec");
    let file = recording.to_str().expect("a path of characters");
    let agent = watch_as(&bridged.middle, &["record", file, "--output", "json"], "br0", &[]);
    load(&bridged.left, RIGHT[0], nginx.port, 500);
    let port = nginx.port;
    agent.wait_for("all exchanges", |report| of_port(report, port).len() >= 500);
    let stopped = agent.stop();
    assert!(stopped.status.success(), "{}", stopped.stderr);
    let live = after_ready(&stopped.stdout);
    let replay = run(remora().args(["replay", file, "--output", "json"])).stdout;
    assert_same("the live run and its replay", &live, &after_ready(replay.as_bytes()));
    assert_eq!(of_port(&stopped.report, port).len(), 500);
    nginx.stop();
}

#[test]
fn an_interface_that_goes_away_is_watched_again_when_it_is_back() {
    let _machine = machine();
    let (left, right) = (Namespace::new("left"), Namespace::new("right"));
    let join = || {
        right.ip(&["link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", &left.name]);
        for (namespace, address) in [(&left, LEFT[0]), (&right, RIGHT[0])] {
            namespace.ip(&["address", "add", &format!("{address}/24"), "dev", "veth0"]);
            namespace.ip(&["link", "set", "veth0", "up"]);
        }
    };
    join();
    let nginx = Nginx::start_with(&["0.0.0.0"], right.command("nginx"));
    let port = nginx.port;
    let agent = watch(&right, "lo,veth0", &[]);
    let status = || right.inside(|| http::get(agent.listen, "/api/v1/status")).expect("GET the status").body;
    load(&left, RIGHT[0], port, 10);
    agent.wait_for("the first exchanges", |report| of_port(report, port).len() >= 10);
    right.ip(&["link", "delete", "veth0"]);
    until("the agent to notice", Duration::from_secs(10), || status().contains("the interface is gone").then_some(()));
    // The others are watched on.
    load(&right, "127.0.0.1", port, 10);
    agent.wait_for("those of the other interface", |report| of_port(report, port).len() >= 20);
    join();
    until("the agent to find it", Duration::from_secs(10), || (!status().contains("the interface is gone")).then_some(()));
    load(&left, RIGHT[0], port, 10);
    agent.wait_for("those after its return", |report| of_port(report, port).len() >= 30);
    let stopped = agent.stop();
    assert!(stopped.status.success(), "{}", stopped.stderr);
    assert_eq!(of_port(&stopped.report, port).len(), 30);
    stopped.report.summary().assert_nothing_lost();
    for word in ["veth0 is gone", "veth0 is back"] {
        assert!(stopped.stderr.contains(word), "{word} is not in\n{}", stopped.stderr);
    }
    nginx.stop();
}

#[test]
fn an_interface_that_is_not_there_is_named_with_those_that_are() {
    let _machine = machine();
    let refused = |arguments: &[&str]| {
        let ended = run_within(remora().arg("run").args(["--listen", "none"]).args(arguments), Duration::from_secs(20));
        (ended.code(), ended.stderr)
    };
    let (code, text) = refused(&["--hooks", "packet", "--interface", "nowhere0"]);
    assert!(code == 3 && text.contains("there is no network interface nowhere0 here; there are lo"), "{code}: {text}");
    let (code, text) = refused(&["--hooks", "packet"]);
    assert!(code == 2 && text.contains("--interface"), "{code}: {text}");
    let (code, text) = refused(&["--interface", "lo"]);
    assert!(code == 2 && text.contains("--hooks packet"), "{code}: {text}");
}

#[test]
fn frames_need_the_right_to_load_and_the_right_to_see_them_and_no_other() {
    let _machine = machine();
    let alone = Namespace::new("alone");
    let doctor = |capabilities: &str| {
        let mut setpriv = alone.command("setpriv");
        setpriv.arg(format!("--bounding-set={capabilities}"));
        setpriv.arg(remora().get_program()).args(["doctor", "--json", "--kubernetes", "off", "--hooks", "packet", "--interface", "lo"]);
        let ended = run_within(&mut setpriv, Duration::from_secs(20));
        let report: serde_json::Value = serde_json::from_str(&ended.stdout).expect("a report");
        (ended.code(), report["reason"].as_str().expect("a reason").to_owned())
    };
    let (code, reason) = doctor("-all,+bpf,+net_raw");
    assert_eq!(code, 0, "{reason}");
    let (code, reason) = doctor("-all,+bpf");
    assert!(code == 3 && reason.contains("CAP_NET_RAW"), "{code}: {reason}");
    let (code, reason) = doctor("-all,+net_raw");
    assert!(code == 3 && reason.contains("CAP_BPF"), "{code}: {reason}");
}
