//! DNS over UDP under dig, dnspython, the C library and every manner of call, with each family of hooks: every look-up is seen once on either
//! side, with the code and the other end that its asker knows. What is not DNS costs a handful of records.

use std::{
    collections::BTreeMap,
    net::UdpSocket,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    recording::{after_ready, assert_same},
    support::{
        agent::{Agent, remora},
        capture::{Capture, assert_same_exchanges},
        dns::{BROKEN, MISSING, REFUSED, Unbound, ZONE_NAME},
        exchange::{Exchange, Report, count_by},
        machine,
        netns::Namespace,
        process::{Ended, Process, run},
        until,
    },
};

/// `tests/support/resolver.py` with an action and an address.
fn resolver(action: &str, address: &str, port: u16, last: &str) -> Command {
    // Debian's interpreter: that is where Debian's library is.
    let mut python = Command::new("/usr/bin/python3");
    python.arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/resolver.py"));
    python.args([action, address, &port.to_string(), ZONE_NAME, last]).stdin(Stdio::null());
    python
}

/// Name, type and code.
type Said = (String, String, String);

fn said(exchange: &Exchange) -> Said {
    (exchange.resource.clone(), exchange.operation.clone(), exchange.status.clone())
}

/// What an asker wrote that it was told.
fn told(ended: &Ended) -> BTreeMap<Said, u64> {
    let mut counts = BTreeMap::new();
    for line in ended.json() {
        let text = |key: &str| line[key].as_str().expect("a text").to_owned();
        *counts.entry((text("name"), text("type"), text("code"))).or_insert(0) += 1;
    }
    counts
}

fn add(expected: &mut BTreeMap<Said, u64>, more: BTreeMap<Said, u64>) {
    for (said, count) in more {
        *expected.entry(said).or_default() += count;
    }
}

#[track_caller]
fn assert_side(report: &Report, port: u16, side: &str, expected: &BTreeMap<Said, u64>) {
    let exchanges = report.of(port, side);
    let found = count_by(&exchanges, said);
    let wrong: Vec<_> = expected
        .keys()
        .chain(found.keys())
        .filter(|said| expected.get(*said) != found.get(*said))
        .map(|said| format!("{said:?}: {:?} expected, {:?} seen", expected.get(said), found.get(said)))
        .collect();
    assert!(wrong.is_empty(), "{side}: {} of {} are wrong:\n{}", wrong.len(), expected.len(), wrong.join("\n"));
    for exchange in exchanges {
        assert_eq!(exchange.protocol, "dns");
        assert_eq!(exchange.error, exchange.status != "NOERROR", "{exchange:?}");
        assert_eq!(exchange.flags, [""; 0], "{exchange:?}");
        assert_eq!(exchange.attributes["network.transport"], "udp");
        assert!(!format!("{exchange:?}").contains("hunter2"), "{exchange:?}");
    }
}

fn every_call_is_seen_with(hooks: &str) {
    let _machine = machine();
    let unbound = Unbound::start();
    let agent = Agent::start(&["--hooks", hooks, "--port", &unbound.port.to_string()]);
    let mut expected = BTreeMap::new();
    let families = [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::ffff:127.0.0.1", "127.0.0.1")];
    for (address, _) in families {
        let ended = run(&mut resolver("ways", address, unbound.port, ""));
        add(&mut expected, told(&ended));
    }
    assert_eq!(expected.values().sum::<u64>(), 3 * 20);
    let asked = expected.values().sum::<u64>() as usize;
    let port = unbound.port;
    agent.wait_for("all look-ups", |report| report.of(port, "client").len() >= asked && report.of(port, "server").len() >= asked);
    let report = agent.finish();

    report.summary().assert_nothing_lost();
    for side in ["client", "server"] {
        assert_side(&report, unbound.port, side, &expected);
        let by_address = count_by(&report.of(unbound.port, side), |exchange| exchange.server.address.as_str());
        assert_eq!(by_address, BTreeMap::from([("127.0.0.1", 40), ("::1", 20)]), "{side}");
        for exchange in report.of(unbound.port, side) {
            assert_eq!(exchange.client.address, exchange.server.address, "{exchange:?}");
            assert!(exchange.client.port > 0, "{exchange:?}");
            assert_eq!(
                (exchange.client.name.as_deref(), exchange.server.name.as_deref()),
                (Some("python3"), Some("unbound")),
                "{exchange:?}"
            );
            assert_eq!(exchange.comm(), if side == "client" { "python3" } else { "unbound" });
        }
    }
    // The two sides agree on who asked.
    let ports = |side| count_by(&report.of(unbound.port, side), |exchange| exchange.client.port);
    assert_eq!(ports("client"), ports("server"));
    // One edge for each address of the server, whoever counted it.
    let edges = report
        .summary()
        .edges
        .iter()
        .filter(|edge| (edge.client(), edge.server(), edge.protocol.as_str()) == ("python3", "unbound", "dns"));
    let mut requests: Vec<u64> = edges.map(|edge| edge.requests).collect();
    requests.sort_unstable();
    assert_eq!(requests, [20, 40], "{:#?}", report.summary().edges);
}

#[test]
fn every_call_is_seen_with_the_socket_hooks() {
    every_call_is_seen_with("socket");
}

#[test]
fn every_call_is_seen_with_the_syscall_hooks() {
    every_call_is_seen_with("syscalls");
}

fn a_thousand_look_ups_are_seen_with(hooks: &str) {
    let _machine = machine();
    let unbound = Unbound::start();
    let agent = Agent::start(&["--hooks", hooks, "--port", &unbound.port.to_string()]);
    let capture = Capture::start(unbound.port);
    let web = format!("web.{ZONE_NAME}");
    let alias = format!("shop.{ZONE_NAME}");
    let questions = [(web.as_str(), "A", "NOERROR"), (&web, "AAAA", "NOERROR"), (&alias, "A", "NOERROR"), (ZONE_NAME, "MX", "NOERROR")]
        .into_iter()
        .chain([(MISSING, "A", "NXDOMAIN"), (MISSING, "AAAA", "NXDOMAIN"), (REFUSED, "A", "REFUSED"), (BROKEN, "A", "SERVFAIL")]);
    let mut dig = unbound.dig(&["+noall", "+comments"]);
    let mut expected = BTreeMap::new();
    for (name, kind, code) in questions {
        dig.args([name, "-t", kind]);
        *expected.entry((name.to_owned(), kind.to_owned(), code.to_owned())).or_insert(0) += 1;
    }
    run(&mut dig);
    let library = run(&mut resolver("library", "127.0.0.1", unbound.port, "500"));
    let burst = run(&mut resolver("burst", "127.0.0.1", unbound.port, "492"));
    add(&mut expected, told(&library));
    add(&mut expected, told(&burst));
    assert_eq!(expected.values().sum::<u64>(), 1_000);
    let replayed = capture.replay();
    // An exchange of either side is in its own family.
    let metrics = until("the metrics of all look-ups", Duration::from_secs(10), || {
        let metrics = agent.metrics();
        (metrics.sum("dns_lookup_duration_seconds_count", &[]) >= 1_000.0).then_some(metrics)
    });
    let report = agent.finish();

    report.summary().assert_nothing_lost();
    for side in ["client", "server"] {
        assert_side(&report, unbound.port, side, &expected);
    }
    let client = report.of(unbound.port, "client");
    assert_same_exchanges(&client, &replayed.of(unbound.port, "unknown"));
    // In turn, so that each duration lies within what its asker measured.
    let seen: Vec<&&Exchange> = client.iter().filter(|exchange| exchange.pid() == library.pid).collect();
    assert_eq!(seen.len(), 500);
    for (exchange, line) in seen.iter().zip(library.json()) {
        assert_eq!(exchange.resource, line["name"].as_str().expect("a name"));
        let took_ns = line["took_ns"].as_u64().expect("a number");
        assert!(exchange.duration_ns <= took_ns, "{took_ns} ns by the asker: {exchange:?}");
        assert!(exchange.request_bytes > 20 && exchange.response_bytes > exchange.request_bytes, "{exchange:?}");
    }
    let tcp = metrics.with_prefix("remora_tcp_");
    let of_dns = |series: &str| series.contains("python3") && series.contains("unbound");
    assert!(!tcp.iter().any(|(series, _)| of_dns(series)), "{tcp:?}");
}

#[test]
fn a_thousand_look_ups_are_seen_with_the_socket_hooks() {
    a_thousand_look_ups_are_seen_with("socket");
}

#[test]
fn a_thousand_look_ups_are_seen_with_the_syscall_hooks() {
    a_thousand_look_ups_are_seen_with("syscalls");
}

/// The resolver of the C library asks for A and AAAA in one sendmmsg on a connected socket; the server has one socket for all addresses.
#[test]
fn the_c_librarys_resolver_is_seen_in_its_namespace() {
    let _machine = machine();
    let namespace = Namespace::new("resolver");
    let unbound = Unbound::start_in(&namespace);
    let directory = TempDir::with_prefix("remora-resolver-").expect("make a directory");
    let settings = directory.path().join("resolv.conf");
    std::fs::write(&settings, "nameserver 127.0.0.1\n").expect("write the settings");
    for hooks in ["socket", "syscalls"] {
        let agent = Agent::start(&["--hooks", hooks, "--port", "53"]);
        let mut getent = namespace.command("unshare");
        let script = format!(
            "mount --bind {} /etc/resolv.conf && exec getent -s dns ahosts web.{ZONE_NAME} shop.{ZONE_NAME} && exit 1",
            settings.display()
        );
        getent.args(["--mount", "sh", "-c", &script]);
        let ended = run(&mut getent);
        for address in ["192.0.2.10", "192.0.2.11", "2001:db8::10"] {
            assert!(ended.stdout.contains(address), "{}", ended.stdout);
        }
        agent.wait_for("both sides", |report| report.of(53, "client").len() >= 4 && report.of(53, "server").len() >= 4);
        let mut report = agent.finish();
        report.summary().assert_nothing_lost();
        // The host may ask its own resolver meanwhile.
        report.exchanges.retain(|exchange| exchange.resource.ends_with(ZONE_NAME));
        let mut expected = BTreeMap::new();
        for name in ["web", "shop"] {
            for kind in ["A", "AAAA"] {
                expected.insert((format!("{name}.{ZONE_NAME}"), kind.to_owned(), "NOERROR".to_owned()), 1);
            }
        }
        for side in ["client", "server"] {
            assert_side(&report, 53, side, &expected);
            for exchange in report.of(53, side) {
                assert_eq!(exchange.server.address, "127.0.0.1", "{hooks} {exchange:?}");
                assert_eq!(exchange.server.name.as_deref(), Some("unbound"), "{hooks} {exchange:?}");
                assert_eq!(exchange.pid(), if side == "client" { ended.pid } else { unbound.pid() }, "{hooks} {exchange:?}");
            }
        }
    }
}

/// The answer is one worker's, the connections are everybody's.
#[test]
fn every_worker_knows_the_name_that_was_asked_for() {
    const PORTS: std::ops::Range<u16> = 8_081..8_097;
    let _machine = machine();
    let namespace = Namespace::new("asker");
    let _unbound = Unbound::start_in(&namespace);
    // Nobody listens there: a server that is no process of this host.
    for address in ["192.0.2.10/32", "192.0.2.11/32"] {
        namespace.ip(&["address", "add", address, "dev", "lo"]);
    }
    let directory = TempDir::with_prefix("remora-resolver-").expect("make a directory");
    let settings = directory.path().join("resolv.conf");
    std::fs::write(&settings, "nameserver 127.0.0.1\n").expect("write the settings");
    // What else the machine does must not count.
    let watched = PORTS.chain([53]).map(|port| port.to_string()).collect::<Vec<_>>().join(",");
    let agent = Agent::start(&["--workers", "4", "--port", &watched]);
    let mut curl = namespace.command("unshare");
    let urls: String = PORTS.map(|port| format!(" http://web.{ZONE_NAME}:{port}/")).collect();
    let script = format!("mount --bind {} /etc/resolv.conf && curl -4 --silent --max-time 5{urls}; true", settings.display());
    run(curl.args(["--mount", "sh", "-c", &script]));
    let ours = |report: &Report| -> Vec<(u16, String, Option<String>)> {
        let tried = report.connections.iter().filter(|connection| PORTS.contains(&connection.server.port) && connection.role == "client");
        tried.map(|connection| (connection.server.port, connection.server.address.clone(), connection.server.name.clone())).collect()
    };
    agent.wait_for("all attempts", |report| PORTS.clone().all(|port| ours(report).iter().any(|(tried, ..)| *tried == port)));
    let report = agent.finish();
    report.summary().assert_nothing_lost();
    for (port, address, name) in ours(&report) {
        assert!(address.starts_with("192.0.2."), "{address}");
        assert_eq!(name.as_deref(), Some(format!("web.{ZONE_NAME}").as_str()), "port {port}");
    }
    // What the other workers overheard is counted once: curl asks for each port anew.
    for side in ["client", "server"] {
        let asked = report.of(53, side).into_iter().filter(|exchange| exchange.resource == format!("web.{ZONE_NAME}")).count();
        assert_eq!(asked, PORTS.len(), "{side}");
    }
}

#[test]
fn who_gets_no_answer_is_told_of_it() {
    let _machine = machine();
    let ignores = UdpSocket::bind("127.0.0.1:0").expect("bind a socket");
    let refuses = UdpSocket::bind("127.0.0.1:0").expect("bind a socket").local_addr().expect("its address").port();
    let port = ignores.local_addr().expect("its address").port();
    let agent = Agent::start(&["--port", &port.to_string(), "--port", &refuses.to_string()]);
    run(&mut resolver("silent", "127.0.0.1", port, &refuses.to_string()));
    agent.wait_for("both to be given up", |report| report.exchanges.len() >= 2);
    let report = agent.finish();

    report.summary().assert_nothing_lost();
    assert_eq!(report.exchanges.len(), 2, "{:#?}", report.exchanges);
    for port in [port, refuses] {
        let exchanges = report.of(port, "client");
        assert_eq!(exchanges.len(), 1);
        let exchange = exchanges[0];
        assert_eq!(said(exchange), (format!("web.{ZONE_NAME}"), "A".to_owned(), String::new()));
        assert!(exchange.error && exchange.ttfb_ns.is_none(), "{exchange:?}");
        assert_eq!(exchange.flags, ["unanswered"]);
        assert_eq!((exchange.client.address.as_str(), exchange.server.address.as_str()), ("127.0.0.1", "127.0.0.1"));
        assert_eq!((exchange.comm(), exchange.response_bytes), ("python3", 0));
    }
}

/// How many datagrams reached the agent.
fn datagrams(agent: &Agent) -> u64 {
    agent.metrics().sum("remora_self_events_total", &["kind=\"datagram\""]) as u64
}

fn a_flood_is_cheap_with(hooks: &str) {
    const COUNT: usize = 50_000;
    let _machine = machine();
    let server = UdpSocket::bind("127.0.0.1:0").expect("bind a socket");
    server.set_read_timeout(Some(Duration::from_millis(300))).expect("set a time-out");
    let port = server.local_addr().expect("its address").port();
    let agent = Agent::start(&["--hooks", hooks, "--port", &port.to_string()]);
    let mut flood = resolver("flood", "127.0.0.1", port, &COUNT.to_string());
    let mut flood = Process::spawn(flood.stdout(Stdio::null()));
    let mut buffer = [0; 4096];
    let mut received = 0;
    while server.recv_from(&mut buffer).is_ok() || !flood.has_ended() {
        received += 1;
    }
    assert!(flood.wait(Duration::from_secs(60)).success());
    assert!(received > 1_000, "{received}");
    let seen = until("the flood to be looked at", Duration::from_secs(10), || Some(datagrams(&agent)).filter(|seen| *seen > 0));
    // Both sockets, each at most 16 datagrams before its verdict.
    assert!(seen <= 2 * 20, "{seen} records of {COUNT} datagrams");
    let report = agent.finish();
    report.summary().assert_nothing_lost();
    assert!(report.exchanges.is_empty() && report.connections.is_empty());
}

#[test]
fn a_flood_that_is_not_dns_is_cheap_with_the_socket_hooks() {
    a_flood_is_cheap_with("socket");
}

#[test]
fn a_flood_that_is_not_dns_is_cheap_with_the_syscall_hooks() {
    a_flood_is_cheap_with("syscalls");
}

#[test]
fn one_side_can_be_watched_alone() {
    let _machine = machine();
    let unbound = Unbound::start();
    for (watched, other) in [("client", "server"), ("server", "client")] {
        let agent = Agent::start(&["--sides", watched]);
        let ended = run(&mut resolver("library", "127.0.0.1", unbound.port, "40"));
        let port = unbound.port;
        agent.wait_for("the look-ups", |report| report.of(port, watched).len() >= 40);
        let report = agent.finish();
        assert_side(&report, unbound.port, watched, &told(&ended));
        assert_eq!(report.of(unbound.port, other).len(), 0, "{watched} alone");
        // The other side's name is known all the same.
        let exchange = report.of(unbound.port, watched)[0];
        assert_eq!((exchange.client.name.as_deref(), exchange.server.name.as_deref()), (Some("python3"), Some("unbound")), "{exchange:?}");
    }
}

#[test]
fn one_process_can_be_watched_alone() {
    let _machine = machine();
    let unbound = Unbound::start();
    let agent = Agent::start(&["--port", &unbound.port.to_string(), "--pid", &unbound.pid().to_string()]);
    let ended = run(&mut resolver("library", "127.0.0.1", unbound.port, "40"));
    let port = unbound.port;
    agent.wait_for("the look-ups", |report| report.of(port, "server").len() >= 40);
    let report = agent.finish();
    report.summary().assert_nothing_lost();
    assert_side(&report, unbound.port, "server", &told(&ended));
    assert!(report.exchanges.iter().all(|exchange| exchange.side == "server" && exchange.pid() == unbound.pid()));
}

#[test]
fn a_recording_of_datagrams_and_its_replays_are_the_same_byte_for_byte() {
    let _machine = machine();
    let directory = TempDir::with_prefix("remora-recording-").expect("make a directory");
    let recording = directory.path().join("run.rrec");
    let file = recording.to_str().expect("a path of characters");
    let unbound = Unbound::start();
    let port = unbound.port;
    let ignores = UdpSocket::bind("127.0.0.1:0").expect("bind a socket");
    let ignored = ignores.local_addr().expect("its address").port();
    let nobody = UdpSocket::bind("127.0.0.1:0").expect("bind a socket").local_addr().expect("its address").port();
    let ports = [port, ignored, nobody].map(|port| port.to_string());
    let [own, ignored_port, nobody_port] = ports.each_ref().map(String::as_str);
    let only = ["--port", own, "--port", ignored_port, "--port", nobody_port];
    let agent = Agent::start_as(&["record", file, "--output", "json"], &only);
    run(&mut resolver("silent", "127.0.0.1", ignored, &nobody.to_string()));
    run(&mut resolver("library", "127.0.0.1", port, "200"));
    run(&mut resolver("burst", "127.0.0.1", port, "200"));
    agent.wait_for("the unanswered one", |report| report.of(nobody, "client").len() == 1);
    let stopped = agent.stop();
    assert!(stopped.status.success(), "{}", stopped.stderr);
    drop(unbound);

    let live = after_ready(&stopped.stdout);
    assert_eq!(stopped.report.of(port, "server").len(), 400);
    for workers in ["1", "2"] {
        let replays = [(); 2].map(|()| run(remora().args(["replay", file, "--output", "json", "--workers", workers])).stdout);
        let [first, second] = replays.each_ref().map(|output| after_ready(output.as_bytes()));
        assert_same("two replays", &first, &second);
        assert_same("the live run and its replay", &live, &first);
    }
}
