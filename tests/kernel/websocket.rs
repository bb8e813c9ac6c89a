//! WebSocket between two servers and two clients: what was said is what was counted.

use crate::support::{
    agent::Agent,
    capture::{Capture, assert_same_exchanges},
    exchange::Exchange,
    machine,
    websocket::{LIBRARIES, Server, talk},
};

/// One conversation: its path, close code and who closed; then text, binary, pings, pongs, continuations and frames of either side.
type Said = (&'static str, &'static str, Option<&'static str>, [u64; 6], [u64; 6]);

/// What `websocket.py` has a client of this library say. Where nobody says that it closes, the last frame is a message.
fn said(client: &str) -> Vec<Said> {
    let echo = ("/echo", "1000", Some("client"), [50, 20, 0, 0, 0, 71], [50, 20, 0, 0, 0, 71]);
    let mut said = vec![
        echo,
        echo,
        ("/many", "1000", Some("client"), [200, 0, 0, 0, 0, 201], [200, 0, 0, 0, 0, 201]),
        ("/large", "1000", Some("client"), [0, 3, 0, 0, 0, 4], [0, 3, 0, 0, 0, 4]),
        ("/away", "1001", Some("client"), [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1]),
        ("/refused", "4001", Some("server"), [1, 0, 0, 0, 0, 2], [0, 0, 0, 0, 0, 1]),
        ("/cut", "1006", None, [1, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 1]),
    ];
    if client == "websockets" {
        said.push(("/pings", "1000", Some("client"), [0, 0, 10, 0, 0, 11], [0, 0, 0, 10, 0, 11]));
        // The library closes a message given in pieces with an empty one.
        said.push(("/fragments", "1000", Some("client"), [1, 0, 0, 0, 3, 5], [1, 0, 0, 0, 0, 2]));
    } else {
        said.push(("/pings", "1000", Some("client"), [1, 0, 10, 0, 0, 12], [1, 0, 0, 10, 0, 12]));
    }
    said.sort_unstable();
    said
}

/// The same, as it was seen.
fn seen(exchange: &Exchange) -> (&str, &str, Option<&str>, [u64; 6], [u64; 6]) {
    let counts = |side: &str| {
        ["text_messages", "binary_messages", "pings", "pongs", "continuation_frames", "frames"]
            .map(|what| exchange.attributes.get(&format!("websocket.{side}.{what}")).map_or(0, |count| count.as_u64().expect("a count")))
    };
    let closed_by = exchange.attributes.get("websocket.closed_by").and_then(|by| by.as_str());
    (&exchange.resource, &exchange.status, closed_by, counts("client"), counts("server"))
}

#[test]
fn conversations_are_counted_as_they_were_said() {
    let _machine = machine();
    for server_library in LIBRARIES {
        for client_library in LIBRARIES {
            let what = format!("{client_library} → {server_library}");
            let server = Server::start(server_library);
            let agent = Agent::start(&["--port", &server.port.to_string()]);
            let capture = Capture::start(server.port);
            talk(client_library, server.port);
            let replayed = capture.replay();
            let report = agent.finish();

            let expected = said(client_library);
            report.summary().assert_nothing_lost();
            for side in ["client", "server"] {
                let (sockets, upgrades): (Vec<&Exchange>, Vec<&Exchange>) =
                    report.of(server.port, side).into_iter().partition(|exchange| exchange.protocol == "websocket");
                let mut conversations: Vec<_> = sockets.iter().map(|exchange| seen(exchange)).collect();
                conversations.sort_unstable();
                assert_eq!(conversations, expected, "{what}, {side} side");
                assert_eq!(upgrades.len(), expected.len(), "{what}, {side} side");
                assert!(upgrades.iter().all(|upgrade| (upgrade.protocol.as_str(), upgrade.status.as_str()) == ("http", "101")), "{what}");
                for exchange in sockets {
                    assert_eq!(exchange.error, matches!(exchange.status.as_str(), "1006" | "4001"), "{exchange:?}");
                    let flags: &[&str] = if exchange.status == "1006" { &["unanswered"] } else { &[] };
                    assert_eq!(exchange.flags, flags, "{what}, {side} side: {exchange:?}");
                    assert_eq!(exchange.attributes["server.port"], server.port, "{exchange:?}");
                    assert!(!format!("{exchange:?}").contains("secret"), "{exchange:?}");
                }
            }
            replayed.summary().assert_nothing_lost();
            assert_same_exchanges(&report.of(server.port, "client"), &replayed.of(server.port, "unknown"));
        }
    }
}
