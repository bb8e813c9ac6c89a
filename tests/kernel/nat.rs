//! Connections whose ends are rewritten on their way, by rules in the host's own namespace as a container engine or kube-proxy make them:
//! the kernel's connection tracking tells who answers.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::Instant,
};

use remora::{
    attribution::{Conntrack, conntrack::ConntrackCounts},
    model::{Endpoint, Translation},
};

use crate::support::{agent::Agent, machine, netns::Namespace, nginx::Nginx, process::run, program};

/// A client and a server, each in its namespace; between them the host, whose rules are gone with this.
struct Routed {
    client: Namespace,
    server: Namespace,
    rules: Vec<Vec<String>>,
    /// Whether the host forwarded IPv6 before.
    forwarded: String,
}

const FORWARDING: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

const CLIENT: &str = "10.131.20.2";
const SERVER: [&str; 2] = ["10.131.21.2", "fd00:131:21::2"];
/// The host as the client and as the server see it.
const HOST: [&str; 2] = ["10.131.20.1", "10.131.21.1"];
/// No interface has it.
const VIRTUAL: [&str; 2] = ["10.96.131.10", "fd00:131:96::a"];

impl Routed {
    fn new() -> Self {
        let routed =
            Self { client: Namespace::new("client"), server: Namespace::new("server"), rules: Vec::new(), forwarded: String::new() };
        for (namespace, device, host, own) in [
            (&routed.client, "rmnatc", [HOST[0], "fd00:131:20::1"], [CLIENT, "fd00:131:20::2"]),
            (&routed.server, "rmnats", [HOST[1], "fd00:131:21::1"], SERVER),
        ] {
            ip(&["link", "add", device, "type", "veth", "peer", "name", "veth0", "netns", &namespace.name]);
            namespace.ip(&["link", "set", "veth0", "up"]);
            ip(&["link", "set", device, "up"]);
            for (place, prefix) in [24, 64].into_iter().enumerate() {
                let (host, own) = (format!("{}/{prefix}", host[place]), format!("{}/{prefix}", own[place]));
                // Nobody else has the address: it need not be asked for first.
                let now: &[&str] = if place == 0 { &[] } else { &["nodad"] };
                ip(&[&["address", "add", &host, "dev", device], now].concat());
                namespace.ip(&[&["address", "add", &own, "dev", "veth0"], now].concat());
            }
            namespace.ip(&["route", "add", "default", "via", host[0]]);
            namespace.ip(&["-6", "route", "add", "default", "via", host[1]]);
            run(Command::new("sysctl").args(["-q", "-w", &format!("net.ipv4.conf.{device}.forwarding=1")]));
            run(Command::new("sysctl").args(["-q", "-w", &format!("net.ipv6.conf.{device}.forwarding=1")]));
        }
        let mut routed = routed;
        // IPv6 is forwarded only where all interfaces may.
        routed.forwarded = fs::read_to_string(FORWARDING).expect("IPv6 on this host");
        fs::write(FORWARDING, "1").expect("forwarding IPv6");
        for family in [0, 1] {
            routed.rule(family, "filter", "FORWARD", &["-i", "rmnatc", "-j", "ACCEPT"]);
            routed.rule(family, "filter", "FORWARD", &["-o", "rmnatc", "-j", "ACCEPT"]);
        }
        routed
    }

    fn rule(&mut self, family: usize, table: &str, chain: &str, rest: &[&str]) {
        let program = ["iptables", "ip6tables"][family];
        let rule = |act: &str| [&[program, "-w", "10", "-t", table, act, chain], rest].concat().into_iter().map(str::to_owned).collect();
        let insert: Vec<String> = rule("-I");
        run(Command::new(&insert[0]).args(&insert[1..]));
        self.rules.push(rule("-D"));
    }

    /// What the client sends to `from` reaches the server at `port`.
    fn forward(&mut self, protocol: &str, from: SocketAddr, port: u16) {
        let family = usize::from(from.is_ipv6());
        let to = SocketAddr::new(SERVER[family].parse().expect("an address"), port).to_string();
        let (address, dialled) = (from.ip().to_string(), from.port().to_string());
        let rest = ["-i", "rmnatc", "-d", &address, "-p", protocol, "--dport", &dialled, "-j", "DNAT", "--to-destination", &to];
        self.rule(family, "nat", "PREROUTING", &rest);
    }

    /// The server sees the host in the client's place.
    fn masquerade(&mut self, protocol: &str, family: usize, port: u16) {
        let port = port.to_string();
        let rest = ["-o", "rmnats", "-d", SERVER[family], "-p", protocol, "--dport", &port, "-j", "MASQUERADE"];
        self.rule(family, "nat", "POSTROUTING", &rest);
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        for rule in self.rules.iter().rev() {
            Command::new(&rule[0]).args(&rule[1..]).status().ok();
        }
        fs::write(FORWARDING, &self.forwarded).ok();
    }
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}

fn socket(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

fn end(address: SocketAddr) -> Endpoint {
    Endpoint { address: address.ip(), port: address.port() }
}

/// The client's and the server's socket of a connection to `dialled`, which the server's `at` answers.
fn connection(routed: &Routed, is_udp: bool, dialled: SocketAddr, at: SocketAddr) -> [SocketAddr; 2] {
    if is_udp {
        let server = routed.server.inside(|| UdpSocket::bind(at).expect("bind"));
        let any: IpAddr = if dialled.is_ipv6() { "::".parse().expect("an address") } else { "0.0.0.0".parse().expect("an address") };
        let client = routed.client.inside(|| UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(dialled).map(|()| socket)));
        let client = client.expect("connect");
        client.send(b"ask").expect("ask");
        let (_, asker) = server.recv_from(&mut [0; 8]).expect("be asked");
        server.send_to(b"say", asker).expect("answer");
        client.recv(&mut [0; 8]).expect("be answered");
        return [client.local_addr().expect("an address"), asker];
    }
    let listener = routed.server.inside(|| TcpListener::bind(at).expect("listen"));
    let client = routed.client.inside(|| TcpStream::connect(dialled).expect("connect"));
    let (_server, asker) = listener.accept().expect("accept");
    [client.local_addr().expect("an address"), asker]
}

#[test]
fn both_ends_are_told_as_the_other_side_has_them() {
    let _machine = machine();
    let mut routed = Routed::new();
    let mut conntrack = Conntrack::open().expect("open");
    let (mut port, mut asked) = (18_080, 0);
    for protocol in ["tcp", "udp"] {
        let is_udp = protocol == "udp";
        for family in [0, 1] {
            for is_masqueraded in [false, true] {
                let what =
                    format!("{protocol}, IPv{}, {}", [4, 6][family], if is_masqueraded { "masqueraded" } else { "the client's own" });
                port += 1;
                let (dialled, at) = (socket(VIRTUAL[family], port - 10_000), socket(SERVER[family], port));
                routed.forward(protocol, dialled, port);
                if is_masqueraded {
                    routed.masquerade(protocol, family, port);
                }
                let [client, asker] = connection(&routed, is_udp, dialled, at);
                assert_eq!(client == asker, !is_masqueraded, "{what}");
                let behind = Translation { client: end(asker), server: end(at) };
                assert_eq!(conntrack.translate(is_udp, end(client), end(dialled)), Some(behind), "{what}");
                let origin = conntrack.origin(is_udp, end(at), end(asker));
                assert_eq!(origin, is_masqueraded.then(|| end(client)), "{what}");
                // The answers have these ends, not a connection.
                assert_eq!(conntrack.translate(is_udp, end(at), end(asker)), None, "{what}");
                assert_eq!(conntrack.translate(!is_udp, end(client), end(dialled)), None, "{what}");
                asked += 4;
            }
            // What is not rewritten is what it was.
            port += 1;
            let at = socket(SERVER[family], port);
            let [client, asker] = connection(&routed, is_udp, at, at);
            assert_eq!(client, asker);
            assert_eq!(conntrack.translate(is_udp, end(client), end(at)), None);
            assert_eq!(conntrack.origin(is_udp, end(at), end(client)), None);
            asked += 2;
        }
    }
    let ConntrackCounts { asked: counted, found, failed, took_ns } = conntrack.counts();
    // All but the look-ups of the other protocol.
    assert_eq!((counted, found, failed), (asked, asked - 8, 0));
    assert!(took_ns > 0);
    // Not an end of a connection: nothing to ask.
    let unbound = Endpoint { address: [0, 0, 0, 0].into(), port: 9 };
    assert_eq!(conntrack.translate(true, unbound, end(socket(VIRTUAL[0], 80))), None);
    assert_eq!(conntrack.translate(true, end(socket(CLIENT, 9)), end(socket(VIRTUAL[1], 80))), None);
    assert_eq!(conntrack.counts().asked, asked);
}

#[test]
fn the_hosts_own_addresses_may_be_rewritten_and_others_may_not() {
    let _machine = machine();
    let _routed = Routed::new();
    let mut conntrack = Conntrack::open().expect("open");
    let mut may = |address: &str, now_s: u64| conntrack.may_rewrite(address.parse().expect("an address"), now_s * 1_000_000_000);
    for address in [HOST[0], HOST[1], "fd00:131:20::1"] {
        assert!(may(address, 1), "{address}");
    }
    for address in [CLIENT, SERVER[0], SERVER[1], VIRTUAL[0], VIRTUAL[1], "127.0.0.1", "::1"] {
        assert!(!may(address, 1), "{address}");
    }
    ip(&["address", "add", "10.131.22.1/32", "dev", "rmnatc"]);
    assert!(!may("10.131.22.1", 2), "they are kept for a while");
    assert!(may("10.131.22.1", 7));
}

/// As an agent in a container with the host's processes but a network of its own: a shell is the first process of them, and in the
/// namespace that has the rules.
#[test]
fn the_hosts_tracking_is_asked_from_another_namespace() {
    let _machine = machine();
    let (host, elsewhere) = (Namespace::new("host"), Namespace::new("elsewhere"));
    host.ip(&["address", "add", "10.131.23.1/32", "dev", "lo"]);
    let test = std::env::current_exe().expect("path of this test");
    let ask = |setpriv: &str| {
        let inner = format!(
            "ip netns exec {} setpriv {setpriv} {} --exact --ignored --nocapture nat::asks_as_the_first_process_would; true",
            elsewhere.name,
            test.display()
        );
        let mut command = host.command("unshare");
        run(command.args(["--pid", "--fork", "--mount-proc", "sh", "-c", &inner])).stdout
    };
    let whole = ask("--bounding-set=+all");
    assert!(whole.contains("of the host: true; back: true"), "{whole}");
    let confined = ask("--bounding-set=-sys_admin");
    assert!(confined.contains("(needs CAP_SYS_ADMIN)"), "{confined}");
    let confined = ask("--bounding-set=-net_admin");
    assert!(confined.contains("(CAP_NET_ADMIN is missing)"), "{confined}");
}

#[test]
#[ignore = "run by `the_hosts_tracking_is_asked_from_another_namespace`"]
fn asks_as_the_first_process_would() {
    let own = || std::fs::read_link("/proc/thread-self/ns/net").expect("read our namespace");
    let before = own();
    match Conntrack::open() {
        Ok(mut conntrack) => {
            let is_of_the_host = conntrack.may_rewrite("10.131.23.1".parse().expect("an address"), 1);
            println!("of the host: {is_of_the_host}; back: {}", own() == before);
        }
        Err(error) => println!("{error:#}"),
    }
}

/// The figure of docs/kernels.md.
#[test]
fn a_look_up_is_cheap() {
    const LOOK_UPS: u32 = 20_000;
    let _machine = machine();
    let mut routed = Routed::new();
    let (dialled, at) = (socket(VIRTUAL[0], 9_081), socket(SERVER[0], 19_081));
    routed.forward("tcp", dialled, at.port());
    let [client, _] = connection(&routed, false, dialled, at);
    let mut conntrack = Conntrack::open().expect("open");
    let mut cost = |what: &str, remote: SocketAddr, is_known: bool| {
        let began = Instant::now();
        for _ in 0..LOOK_UPS {
            assert_eq!(conntrack.translate(false, end(client), end(remote)).is_some(), is_known);
        }
        let ns = began.elapsed().as_nanos() / u128::from(LOOK_UPS);
        println!("a look-up of {what} connection: {ns} ns");
        ns
    };
    let known_ns = cost("a known", dialled, true);
    let unknown_ns = cost("an unknown", socket(VIRTUAL[0], 1), false);
    // Two system calls, in a debug build beside other work.
    assert!(known_ns.max(unknown_ns) < 200_000, "{known_ns} ns, {unknown_ns} ns");
    let addresses = {
        let began = Instant::now();
        for second in 0..1_000 {
            conntrack.may_rewrite(at.ip(), second * 5_000_000_000);
        }
        began.elapsed().as_nanos() / 1_000
    };
    println!("listing the host's addresses: {addresses} ns");
}

/// A published port of a container engine: the server's port is the one that is dialled.
fn the_two_ends_are_one_edge(is_masqueraded: bool) {
    const REQUESTS: u64 = 500;
    let _machine = machine();
    let mut routed = Routed::new();
    let nginx = Nginx::start_with(&[SERVER[0]], routed.server.command("nginx"));
    let dialled = socket(HOST[0], nginx.port);
    routed.forward("tcp", dialled, nginx.port);
    if is_masqueraded {
        routed.masquerade("tcp", 0, nginx.port);
    }
    let agent = Agent::start(&["--workers", "1", "--port", &nginx.port.to_string()]);
    let mut load: Command = routed.client.command(program("load"));
    load.args(["http", "--address", &dialled.to_string(), "--connections", "4", "--requests", &REQUESTS.to_string()]);
    let load = run(&mut load);
    let report = agent.finish();

    report.summary().assert_nothing_lost();
    let sides = ["client", "server"].map(|side| report.of(nginx.port, side));
    for (place, side) in sides.iter().enumerate() {
        assert_eq!(side.len() as u64, REQUESTS);
        for exchange in side {
            assert_eq!((exchange.client.name.as_deref(), exchange.server.name.as_deref()), (Some("load"), Some("nginx")), "{exchange:?}");
            let peer = exchange.peer_connection_id.unwrap_or_else(|| panic!("no peer: {exchange:?}"));
            assert!(sides[1 - place].iter().any(|other| other.connection_id == peer), "{exchange:?}");
            assert_eq!(exchange.pid() == load.pid, place == 0, "{exchange:?}");
        }
    }
    assert_eq!(report.summary().edge("load", "nginx", "http").requests, REQUESTS);
    let of_load = report.summary().edges.iter().filter(|edge| edge.client() == "load" || edge.server() == "nginx").count();
    assert_eq!(of_load, 1, "{:#?}", report.summary().edges);
    nginx.stop();
}

#[test]
fn the_two_ends_of_a_published_port_are_one_edge() {
    the_two_ends_are_one_edge(false);
}

#[test]
fn the_two_ends_of_a_masqueraded_connection_are_one_edge() {
    the_two_ends_are_one_edge(true);
}
