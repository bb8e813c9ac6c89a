//! RabbitMQ under pika and librabbitmq's tools: exchanges are what these clients know that they did.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::{
    agent::Agent,
    capture::{Capture, assert_same_exchanges},
    exchange::{Exchange, Report},
    machine,
    process::{Process, run, run_within},
    rabbitmq::RabbitMq,
};

const SCRIPT: &str = include_str!("amqp.py");

/// How often each (operation, resource, status, error) came to be.
type Counts = BTreeMap<(String, String, String, bool), u64>;

/// What a client says that it did, and how long that took.
#[derive(Default)]
struct Known {
    counts: Counts,
    times: BTreeMap<String, u64>,
}

impl Known {
    fn read(&mut self, text: &str) {
        for line in text.lines() {
            match line.split('|').collect::<Vec<_>>()[..] {
                ["time", name, duration] => drop(self.times.insert(name.to_owned(), duration.parse().expect("nanoseconds"))),
                [operation, resource, status, error, count] => {
                    self.know(operation, resource, status, error == "true", count.parse().expect("a number"));
                }
                _ => panic!("an unknown line: {line}"),
            }
        }
    }

    fn know(&mut self, operation: &str, resource: &str, status: &str, error: bool, count: u64) {
        *self.counts.entry((operation.into(), resource.into(), status.into(), error)).or_default() += count;
    }

    /// A tool's connection, and what it did on its channel.
    fn tool(&mut self, operation: &str, resource: &str, status: &str) {
        self.know("connection.open", "/", "ok", false, 1);
        self.know("channel.open", "", "ok", false, 1);
        self.know(operation, resource, status, status == "404", 1);
        if status != "404" {
            self.know("channel.close", "", "ok", false, 1);
            self.know("connection.close", "/", "ok", false, 1);
        }
    }
}

fn counts(exchanges: &[&Exchange]) -> Counts {
    let mut counts = Counts::new();
    for exchange in exchanges {
        assert_eq!(exchange.protocol, "amqp", "{exchange:?}");
        *counts.entry((exchange.operation.clone(), exchange.resource.clone(), exchange.status.clone(), exchange.error)).or_default() += 1;
    }
    counts
}

#[track_caller]
fn assert_known(exchanges: &[&Exchange], known: &Counts, what: &str) {
    let seen = counts(exchanges);
    let keys = known.keys().chain(seen.keys()).filter(|key| known.get(*key) != seen.get(*key));
    let differing: BTreeMap<_, _> = keys.map(|key| (key, (known.get(key), seen.get(key)))).collect();
    assert!(differing.is_empty(), "{what}: (known to the clients, seen) {differing:#?}");
}

fn python(rabbitmq: &RabbitMq, what: &str) -> Command {
    // Debian's interpreter: that is where Debian's pika is.
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", SCRIPT, &rabbitmq.port.to_string(), what]);
    python
}

/// librabbitmq's tools, one connection each.
fn tools(rabbitmq: &RabbitMq, known: &mut Known) {
    let tool = |name: &str, arguments: &[&str]| run(rabbitmq.tool(name, "guest").args(arguments).stdin(Stdio::null())).stdout;
    tool("amqp-declare-queue", &["-q", "truth.tools"]);
    known.tool("queue.declare", "truth.tools", "ok");
    for _ in 0..10 {
        tool("amqp-publish", &["-r", "truth.tools", "-b", "secret-body"]);
        known.tool("basic.publish", "amq.default/truth.tools", "");
    }
    assert_eq!(tool("amqp-get", &["-q", "truth.tools"]), "secret-body");
    known.tool("basic.get", "truth.tools", "ok");
    assert_eq!(tool("amqp-consume", &["-q", "truth.tools", "-c", "9", "cat"]), "secret-body".repeat(9));
    known.tool("basic.consume", "truth.tools", "ok");
    known.know("basic.qos", "", "ok", false, 1);
    known.know("basic.deliver", "amq.default/truth.tools", "ack", false, 9);
    tool("amqp-delete-queue", &["-q", "truth.tools"]);
    known.tool("queue.delete", "truth.tools", "ok");
    let patience = Duration::from_secs(10);
    let missing = run_within(rabbitmq.tool("amqp-get", "guest").args(["-q", "truth.tools"]), patience);
    assert!(missing.stderr.contains("404"), "{}", missing.stderr);
    known.tool("basic.get", "truth.tools", "404");
    let stranger = run_within(rabbitmq.tool("amqp-get", "secret-password").args(["-q", "truth.tools"]), patience);
    assert!(stranger.stderr.contains("403"), "{}", stranger.stderr);
    known.know("connection.start-ok", "", "403", true, 1);
}

fn named<'a>(exchanges: &[&'a Exchange], operation: &str, resource: &str) -> Vec<&'a Exchange> {
    exchanges.iter().copied().filter(|one| one.operation == operation && one.resource == resource).collect()
}

/// What was done by hand of a clock.
fn assert_durations(exchanges: &[&Exchange], known: &Known, side: &str) {
    let confirmed: u64 = named(exchanges, "basic.publish", "truth.topic/app.info").iter().map(|one| one.duration_ns).sum();
    assert!(confirmed > 0 && confirmed <= known.times["confirmed"], "{side}: {confirmed} ns in {} ns", known.times["confirmed"]);
    let held = named(exchanges, "basic.deliver", "truth.topic/app.info");
    let first = held.iter().min_by_key(|one| one.start_unix_nano).expect("a delivery");
    assert!(first.duration_ns >= 50_000_000, "{side}: it was held for 50 ms: {first:?}");
    // The message waits in the client's buffers beforehand, and the acknowledgement may wait in the server's behind.
    assert!(first.duration_ns <= known.times["held"] + 1_000_000_000, "{side}: {first:?}");
}

fn assert_attributes(exchanges: &[&Exchange], side: &str) {
    let text = |exchange: &Exchange, name: &str| exchange.attributes.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    for (index, exchange) in named(exchanges, "basic.publish", "truth.topic/app.info").into_iter().enumerate() {
        assert_eq!(text(exchange, "messaging.system").as_deref(), Some("rabbitmq"), "{side}");
        assert_eq!(text(exchange, "messaging.destination.name").as_deref(), Some("truth.topic:app.info"), "{side}");
        assert_eq!(exchange.attributes["messaging.rabbitmq.message.delivery_tag"], index as u64 + 1, "{side}");
        let size = format!("secret-body {index}").len();
        assert_eq!(exchange.attributes["messaging.message.body.size"], size, "{side}");
    }
    for exchange in exchanges.iter().filter(|one| one.operation == "basic.deliver" && one.resource.starts_with("truth.topic/")) {
        assert_eq!(text(exchange, "messaging.destination.subscription.name").as_deref(), Some("truth.work"), "{side}");
    }
    let large = named(exchanges, "basic.publish", "truth.topic/other");
    assert!(large.iter().any(|one| one.request_bytes > 100_000 && one.request_bytes < 100_200), "{side}: {large:?}");
}

fn assert_no_secrets(report: &Report) {
    let all = format!("{:?}", report.exchanges);
    assert!(!all.contains("secret"), "a secret came out");
}

#[test]
fn exchanges_are_what_the_clients_of_rabbitmq_know_that_they_did() {
    let _machine = machine();
    let rabbitmq = RabbitMq::start();
    let capture = Capture::start(rabbitmq.port);
    let agent = Agent::start(&["--port", &rabbitmq.port.to_string()]);
    let mut known = Known::default();
    known.read(&run(&mut python(&rabbitmq, "confirms,consumes,fails")).stdout);
    tools(&rabbitmq, &mut known);
    let report = agent.finish();
    let replayed = capture.replay();

    report.summary().assert_nothing_lost();
    for side in ["client", "server"] {
        let exchanges = report.of(rabbitmq.port, side);
        assert_known(&exchanges, &known.counts, side);
        assert_durations(&exchanges, &known, side);
        assert_attributes(&exchanges, side);
    }
    for exchange in report.of(rabbitmq.port, "client") {
        assert!(exchange.comm().starts_with("amqp-") || exchange.comm() == "python3", "{exchange:?}");
    }
    assert_same_exchanges(&report.of(rabbitmq.port, "client"), &replayed.of(rabbitmq.port, "unknown"));
    assert_no_secrets(&report);
    assert_no_secrets(&replayed);

    a_connection_older_than_the_agent_is_counted_from_there_on(&rabbitmq);
}

/// A part of the test above, because the server takes longer to start than the test.
fn a_connection_older_than_the_agent_is_counted_from_there_on(rabbitmq: &RabbitMq) {
    let mut client = Process::spawn(python(rabbitmq, "late").stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut stdout = BufReader::new(client.stdout());
    let mut line = String::new();
    stdout.read_line(&mut line).expect("read the client's words");
    assert_eq!(line, "ready\n");
    let agent = Agent::start(&["--port", &rabbitmq.port.to_string()]);
    client.stdin().write_all(b"go on\n").expect("let the client go on");
    let mut text = String::new();
    stdout.read_to_string(&mut text).expect("read the client's words");
    assert!(client.wait(Duration::from_secs(20)).success(), "{text}");
    let report = agent.finish();

    let mut known = Known::default();
    known.read(&text);
    report.summary().assert_nothing_lost();
    for side in ["client", "server"] {
        let exchanges = report.of(rabbitmq.port, side);
        assert_known(&exchanges, &known.counts, side);
        assert!(exchanges.iter().all(|one| one.flags == ["adopted"]), "{side}");
    }
}
