//! gRPC between two implementations: every call with the status and the messages that its client knows.

use std::{collections::BTreeMap, process::Command};

use crate::support::{
    agent::Agent,
    capture::{Capture, assert_same_exchanges},
    exchange::Exchange,
    grpc::{CALLS, Language, Server, WEB_CALLS, WEB_PLAIN, talk, talk_web},
    machine,
    process::run,
};

const MS: u64 = 1_000_000;

/// Method, status, messages sent and received, as they were seen.
fn counted<'a>(exchanges: &[&'a Exchange]) -> BTreeMap<(&'a str, &'a str, u64, u64), u64> {
    let mut counts = BTreeMap::new();
    for exchange in exchanges {
        let messages = |side: &str| exchange.attributes.get(&format!("rpc.{side}.message_count")).and_then(|count| count.as_u64());
        let (sent, received) = (messages("request").unwrap_or(u64::MAX), messages("response").unwrap_or(u64::MAX));
        *counts.entry((exchange.operation.as_str(), exchange.status.as_str(), sent, received)).or_insert(0) += 1;
    }
    counts
}

fn compare(client: Language, server: Language) {
    let _machine = machine();
    let peer = Server::start(server);
    let agent = Agent::start(&["--port", &peer.port.to_string()]);
    let capture = Capture::start(peer.port);
    talk(client, peer.port);
    let replayed = capture.replay();
    let report = agent.finish();

    let what = format!("{client:?} → {server:?}");
    let expected: BTreeMap<_, _> =
        CALLS.iter().map(|(method, status, sent, received, calls)| ((*method, *status, *sent, *received), *calls)).collect();
    report.summary().assert_nothing_lost();
    for side in ["client", "server"] {
        let exchanges = report.of(peer.port, side);
        assert_eq!(counted(&exchanges), expected, "{what}, {side} side");
        for exchange in exchanges {
            assert_eq!(exchange.protocol, "grpc", "{exchange:?}");
            assert_eq!(exchange.resource, format!("/remora.test.Echo/{}", exchange.operation), "{exchange:?}");
            assert_eq!(exchange.error, exchange.status != "0", "{exchange:?}");
            assert_eq!(exchange.attributes["rpc.service"], "remora.test.Echo", "{exchange:?}");
            assert_eq!(exchange.attributes["server.port"], peer.port, "{exchange:?}");
            assert!(!format!("{exchange:?}").contains("secret"), "{exchange:?}");
            // A deadline is never early, and nothing here takes long.
            let least = match (exchange.operation.as_str(), exchange.status.as_str()) {
                ("Slow", "4") => 190 * MS,
                ("Watch", "4") => 290 * MS,
                _ => 0,
            };
            assert!((least..5_000 * MS).contains(&exchange.duration_ns), "{what}, {side} side: {exchange:?}");
        }
    }
    replayed.summary().assert_nothing_lost();
    assert_same_exchanges(&report.of(peer.port, "client"), &replayed.of(peer.port, "unknown"));
}

#[test]
fn calls_between_python_and_python_are_counted() {
    compare(Language::Python, Language::Python);
}

#[test]
fn calls_between_go_and_go_are_counted() {
    compare(Language::Go, Language::Go);
}

#[test]
fn calls_of_python_to_go_are_counted() {
    compare(Language::Python, Language::Go);
}

#[test]
fn calls_of_go_to_python_are_counted() {
    compare(Language::Go, Language::Python);
}

#[test]
fn calls_of_grpc_web_are_counted() {
    // One message of three bytes.
    const MESSAGE: &[u8] = b"\0\0\0\0\x03abc";
    const BY_CURL: usize = 10;
    let _machine = machine();
    let peer = Server::web();
    let directory = tempfile::TempDir::with_prefix("remora-grpc-web-").expect("make a directory");
    let body = directory.path().join("body");
    std::fs::write(&body, MESSAGE).expect("write a message");
    let agent = Agent::start(&["--port", &peer.port.to_string()]);
    let capture = Capture::start(peer.port);
    talk_web(peer.port);
    for round in 0..BY_CURL {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-H", "Content-Type: application/grpc-web+proto", "--data-binary"]);
        if round % 2 == 1 {
            curl.args([&format!("@{}", body.display()), "-H", "Transfer-Encoding: chunked"]);
        } else {
            curl.arg(format!("@{}", body.display()));
        }
        run(curl.arg(format!("http://127.0.0.1:{}/remora.test.Web/Say?token=secret", peer.port)));
    }
    let replayed = capture.replay();
    let report = agent.finish();

    let mut expected: BTreeMap<_, _> =
        WEB_CALLS.iter().map(|(method, status, sent, received, calls)| ((*method, *status, *sent, *received), *calls)).collect();
    *expected.get_mut(&("Say", "0", 1, 1)).expect("single messages are sent") += BY_CURL as u64;
    report.summary().assert_nothing_lost();
    for side in ["client", "server"] {
        let (calls, plain): (Vec<&Exchange>, Vec<&Exchange>) =
            report.of(peer.port, side).into_iter().partition(|exchange| exchange.protocol == "grpc");
        assert_eq!(counted(&calls), expected, "{side} side");
        assert_eq!(plain.len(), WEB_PLAIN, "{side} side");
        assert!(plain.iter().all(|exchange| exchange.protocol == "http" && exchange.resource == "/remora.test.Web/Plain"), "{plain:?}");
        for exchange in calls {
            assert_eq!(exchange.resource, format!("/remora.test.Web/{}", exchange.operation), "{exchange:?}");
            assert_eq!((exchange.error, exchange.flags.len()), (exchange.status != "0", 0), "{side} side: {exchange:?}");
            assert!(!format!("{exchange:?}").contains("secret"), "{exchange:?}");
            let least = if exchange.operation == "Slow" { 150 * MS } else { 0 };
            assert!((least..5_000 * MS).contains(&exchange.duration_ns), "{side} side: {exchange:?}");
        }
    }
    replayed.summary().assert_nothing_lost();
    assert_same_exchanges(&report.of(peer.port, "client"), &replayed.of(peer.port, "unknown"));
}
