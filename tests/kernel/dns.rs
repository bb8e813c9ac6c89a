//! DNS over TCP under dig and dnspython: every look-up is seen once on either side, with the code that its asker got.

use std::{collections::BTreeMap, process::Command};

use crate::support::{
    agent::Agent,
    capture::{Capture, assert_same_exchanges},
    dns::{BROKEN, MISSING, REFUSED, SILENT, Unbound, ZONE_NAME},
    exchange::{Exchange, Report, count_by},
    machine,
    process::{Ended, run},
};

/// Name, type and code.
fn said(exchange: &Exchange) -> (String, String, String) {
    (exchange.resource.clone(), exchange.operation.clone(), exchange.status.clone())
}

/// Every exchange of the port and side, held to what the asker knows. A text of the zone is nowhere.
#[track_caller]
fn assert_seen(report: &Report, port: u16, expected: &BTreeMap<(String, String, String), u64>) {
    for side in ["client", "server"] {
        let exchanges = report.of(port, side);
        assert_eq!(&count_by(&exchanges, said), expected, "{side}");
        for exchange in exchanges {
            assert_eq!(exchange.protocol, "dns");
            assert_eq!(exchange.error, exchange.status != "NOERROR", "{exchange:?}");
            assert_eq!(exchange.attributes["network.transport"], "tcp");
            assert!(!format!("{exchange:?}").contains("hunter2"), "{exchange:?}");
        }
    }
}

#[test]
fn dig_over_tcp_is_seen_with_its_codes() {
    let _machine = machine();
    let unbound = Unbound::start();
    let web = format!("web.{ZONE_NAME}");
    let service = format!("_http._tcp.{ZONE_NAME}");
    let alias = format!("shop.{ZONE_NAME}");
    let questions = [
        (web.as_str(), "A", "NOERROR"),
        (&web, "AAAA", "NOERROR"),
        (&alias, "A", "NOERROR"),
        (&service, "SRV", "NOERROR"),
        (ZONE_NAME, "MX", "NOERROR"),
        (ZONE_NAME, "TXT", "NOERROR"),
        (ZONE_NAME, "SOA", "NOERROR"),
        (&web, "HTTPS", "NOERROR"),
        (&web, "TYPE65280", "NOERROR"),
        (MISSING, "A", "NXDOMAIN"),
        (REFUSED, "A", "REFUSED"),
        (BROKEN, "AAAA", "SERVFAIL"),
    ];
    let agent = Agent::start(&[]);
    let capture = Capture::start(unbound.port);
    let mut dig = unbound.dig(&["+tcp", "+noall", "+comments"]);
    for (name, kind, _) in questions {
        dig.args([name, "-t", kind]);
    }
    let ended = run(&mut dig);
    // One more, on a connection with another.
    run(&mut unbound.dig(&["+tcp", "+keepopen", "+noall", &web, "A", &web, "AAAA"]));
    let replayed = capture.replay();
    let report = agent.finish();

    let codes: Vec<&str> = ended.stdout.split("status: ").skip(1).filter_map(|text| text.split(',').next()).collect();
    assert_eq!(codes, questions.map(|(.., code)| code), "dig itself was told so");
    let mut expected = BTreeMap::new();
    for (name, kind, code) in questions.into_iter().chain([(web.as_str(), "A", "NOERROR"), (&web, "AAAA", "NOERROR")]) {
        *expected.entry((name.to_owned(), kind.to_owned(), code.to_owned())).or_insert(0) += 1;
    }
    report.summary().assert_nothing_lost();
    assert_seen(&report, unbound.port, &expected);
    let client = report.of(unbound.port, "client");
    assert!(
        client.iter().all(|exchange| exchange.pid() == ended.pid || exchange.comm() == "dig" || exchange.comm().starts_with("isc-net"))
    );
    assert!(report.of(unbound.port, "server").iter().all(|exchange| exchange.pid() == unbound.pid()));
    let followed = client.iter().find(|exchange| exchange.resource == alias).expect("the alias");
    let mut answers: Vec<&str> = followed.attributes["dns.answers"].as_str().expect("a text").split(',').collect();
    answers[2..].sort_unstable();
    assert_eq!(answers, [&format!("www.{ZONE_NAME}"), web.as_str(), "192.0.2.10", "192.0.2.11"]);
    assert_same_exchanges(&client, &replayed.of(unbound.port, "unknown"));
}

/// Asks as its arguments say (port, zone, silent name), writes what it was told, one JSON object a line.
const PYTHON: &str = r#"
import json, socket, struct, sys, time
import dns.message, dns.rcode
port, zone, silent = int(sys.argv[1]), sys.argv[2], sys.argv[3]

def read(connection, count):
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            return None
        data += piece
    return data

def receive(connection):
    prefix = read(connection, 2)
    return prefix and dns.message.from_wire(read(connection, struct.unpack("!H", prefix)[0]))

def told(query, answer, begin):
    question = query.question[0]
    code = "" if answer is None else dns.rcode.to_text(answer.rcode())
    print(json.dumps({"name": question.name.to_text(True).lower(), "type": question.rdtype.name, "code": code,
                      "took_ns": time.monotonic_ns() - begin}))

def wire(query):
    data = query.to_wire()
    return struct.pack("!H", len(data)) + data

# All in one send; the answers in whatever order they come.
kinds = ["A", "AAAA", "MX", "TXT", "SRV", "CNAME"]
queries = {}
for number in range(60):
    name = ["web", "WWW", "missing%d" % number, "mail"][number % 4] + "." + zone
    queries[number + 1] = dns.message.make_query(name, kinds[number % 6], id=number + 1)
connection = socket.create_connection(("127.0.0.1", port))
begin = time.monotonic_ns()
connection.sendall(b"".join(wire(query) for query in queries.values()))
for _ in range(len(queries)):
    answer = receive(connection)
    told(queries.pop(answer.id), answer, begin)
# Byte by byte, one after the other, on the same connection, with the same number.
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for number in range(5):
    query = dns.message.make_query("web." + zone, "A", id=77)
    begin = time.monotonic_ns()
    for byte in wire(query):
        connection.send(bytes([byte]))
    told(query, receive(connection), begin)
connection.close()
# The last one is not answered: the server closes.
connection = socket.create_connection(("127.0.0.1", port))
for name in ["web." + zone, silent]:
    query = dns.message.make_query(name, "A", id=5)
    begin = time.monotonic_ns()
    connection.sendall(wire(query))
    told(query, receive(connection), begin)
connection.close()
"#;

fn known(ended: &Ended) -> BTreeMap<(String, String, String), u64> {
    let mut counts = BTreeMap::new();
    for line in ended.json() {
        let text = |key: &str| line[key].as_str().expect("a text").to_owned();
        *counts.entry((text("name"), text("type"), text("code"))).or_insert(0) += 1;
    }
    counts
}

#[test]
fn dnspython_pipelines_and_reuses_numbers_and_each_look_up_is_seen_once() {
    let _machine = machine();
    let unbound = Unbound::start();
    let agent = Agent::start(&[]);
    let capture = Capture::start(unbound.port);
    // Debian's interpreter: that is where Debian's library is.
    let ended = run(Command::new("/usr/bin/python3").args(["-c", PYTHON, &unbound.port.to_string(), ZONE_NAME, SILENT]));
    let replayed = capture.replay();
    let report = agent.finish();

    let expected = known(&ended);
    assert_eq!(expected.values().sum::<u64>(), 67);
    assert_eq!(expected[&(SILENT.to_owned(), "A".to_owned(), String::new())], 1, "the last one was not answered");
    assert!(expected.keys().filter(|(.., code)| code == "NXDOMAIN").count() == 15, "{expected:?}");
    report.summary().assert_nothing_lost();
    assert_seen(&report, unbound.port, &expected);
    for side in ["client", "server"] {
        for exchange in report.of(unbound.port, side) {
            let unanswered = exchange.resource == SILENT;
            assert_eq!(exchange.flags, if unanswered { vec!["unanswered"] } else { vec![] }, "{exchange:?}");
        }
    }
    // In turn, so that each duration lies within what its asker measured.
    let line = ended.json();
    let of_web = |exchange: &&&Exchange| exchange.operation == "A" && exchange.resource == format!("web.{ZONE_NAME}");
    let client = report.of(unbound.port, "client");
    let took: Vec<u64> = client.iter().filter(of_web).rev().take(5).map(|exchange| exchange.duration_ns).collect();
    let measured: Vec<u64> = line[60..65].iter().rev().map(|line| line["took_ns"].as_u64().expect("a number")).collect();
    let last_one = client.iter().rfind(of_web).expect("asked on the second connection");
    assert!(last_one.duration_ns <= line[65]["took_ns"].as_u64().expect("a number"));
    for (took, measured) in took[1..].iter().zip(&measured) {
        assert!(took <= measured, "{took} ns, {measured} ns by the asker");
    }
    assert_same_exchanges(&client, &replayed.of(unbound.port, "unknown"));
}
