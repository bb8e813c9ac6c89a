//! nginx under load: every request is seen once from each side.

use std::{collections::BTreeMap, process::Command};

use crate::support::{
    agent::Agent,
    capture::{Capture, assert_same_exchanges},
    exchange::count_by,
    machine,
    nginx::{Nginx, statuses},
    process::{Ended, run},
    program,
};

pub fn load(nginx: &Nginx, requests: u64, connections: u64, rate: u64) -> Ended {
    let mut load = Command::new(program("load"));
    load.args(["http", "--address", &nginx.address().to_string(), "--requests", &requests.to_string()]);
    run(load.args(["--connections", &connections.to_string(), "--rate", &rate.to_string()]))
}

#[test]
fn a_hundred_thousand_requests_are_seen_once_from_each_side() {
    let _machine = machine();
    let nginx = Nginx::start();
    let (port, master) = (nginx.port, nginx.pid());
    let agent = Agent::start(&[]);
    // Every exchange becomes a line that this test must read beside all else; the highest rate is the next test's.
    let load = load(&nginx, 100_000, 32, 25_000);
    let report = agent.finish();
    let log = nginx.stop();

    let expected = statuses(&log);
    assert_eq!(log.len(), 100_000);
    assert_eq!(expected, BTreeMap::from([("200".into(), 98_500), ("404".into(), 1_000), ("503".into(), 500)]));
    let mut paths: BTreeMap<&str, u64> = BTreeMap::new();
    for line in &log {
        *paths.entry(&line.path).or_insert(0) += 1;
    }
    report.summary().assert_nothing_lost();
    for (side, comm) in [("client", "load"), ("server", "nginx")] {
        let exchanges = report.of(port, side);
        assert_eq!(exchanges.len(), 100_000, "{side} side");
        assert_eq!(count_by(&exchanges, |exchange| exchange.status.clone()), expected, "{side} side");
        assert_eq!(count_by(&exchanges, |exchange| exchange.resource.as_str()), paths, "{side} side");
        for exchange in exchanges {
            assert_eq!((exchange.protocol.as_str(), exchange.operation.as_str()), ("http", "GET"), "{exchange:?}");
            assert_eq!(exchange.comm(), comm, "{exchange:?}");
            assert_eq!(exchange.pid() == load.pid, side == "client", "{exchange:?}");
            assert_ne!(exchange.pid(), master, "the workers answer: {exchange:?}");
            assert_eq!((exchange.client.name.as_deref(), exchange.server.name.as_deref()), (Some("load"), Some("nginx")), "{exchange:?}");
            assert_eq!((exchange.client.address.as_str(), exchange.server.address.as_str()), ("127.0.0.1", "127.0.0.1"), "{exchange:?}");
            assert_eq!(exchange.flags, [] as [&str; 0], "{exchange:?}");
            match exchange.status.as_str() {
                "200" => assert!(!exchange.error, "{exchange:?}"),
                "503" => assert!(exchange.error, "{exchange:?}"),
                _ => {}
            }
        }
    }
    let edge = report.summary().edge("load", "nginx", "http");
    assert_eq!(edge.requests, 100_000, "an exchange seen from both sides is one request of the edge");
    assert!(edge.p50_ns.is_some() && edge.p50_ns <= edge.p95_ns && edge.p95_ns <= edge.p99_ns, "{edge:?}");
    assert_eq!(report.summary().edges.iter().filter(|edge| edge.client() == "load").count(), 1);
}

#[test]
fn at_the_highest_rate_every_request_is_captured_or_counted_as_lost_and_none_is_lost() {
    let _machine = machine();
    let nginx = Nginx::start();
    let agent = Agent::start_as(&["run", "--output", "none"], &[]);
    run(Command::new("wrk").args(["-t2", "-c64", "-d10s", &format!("http://127.0.0.1:{}/", nginx.port)]));
    let captured = agent.settled_requests(|edge| (edge.client(), edge.server()) == ("wrk", "nginx"));
    let metrics = agent.metrics();
    agent.finish();
    let logged = nginx.stop().len() as u64;

    let lost = metrics.sum("remora_self_lost_total", &[]) as u64;
    assert!(logged > 50_000, "wrk made {logged} requests in 10 s: too few to show anything");
    assert!(captured <= logged, "{captured} captured of {logged}");
    assert!(captured + lost >= logged, "{captured} captured and {lost} counted as lost, of {logged}");
    assert_eq!((captured, lost), (logged, 0), "with default settings nothing is lost: {:?}", metrics.with_prefix("remora_self_lost"));
}

#[test]
fn a_capture_file_of_the_same_traffic_gives_the_same_exchanges() {
    let _machine = machine();
    let nginx = Nginx::start();
    let port = nginx.port;
    let capture = Capture::start(port);
    let agent = Agent::start(&[]);
    load(&nginx, 2_000, 8, 2_000);
    let report = agent.finish();
    let replayed = capture.replay();
    nginx.stop();
    let live = report.of(port, "client");
    assert_eq!(live.len(), 2_000);
    assert_same_exchanges(&live, &replayed.of(port, "unknown"));
}
