//! Bulk transfers that no parser is for: a few events each, and no exchange made up.

use std::{
    io::{BufReader, Read},
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::support::{
    agent::Agent,
    free_port, machine,
    process::{Process, listening_port, run},
    program, until,
};

const TLS_BYTES: u64 = 2 << 30;
/// As a copy over a network would come: 256 MiB a second, 32 KiB a call.
const PLAIN_BYTES: u64 = 1 << 30;
const PLAIN_RATE: u64 = 256 << 20;
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn two_gibibytes_over_tls_and_a_random_stream_beside_it_make_few_events_and_no_exchange() {
    let _machine = machine();
    let directory = TempDir::with_prefix("remora-tls-").expect("make a directory");
    let (key, certificate) = (directory.path().join("key.pem"), directory.path().join("certificate.pem"));
    let mut request = Command::new("openssl");
    request
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"])
        .arg(&key)
        .arg("-out");
    run(request.arg(&certificate));
    let tls_port = free_port();

    let load = program("load");
    let mut sink = Process::spawn(Command::new(&load).args(["sink", "--address", "127.0.0.1:0"]).stdout(Stdio::piped()));
    let mut sink_lines = BufReader::new(sink.stdout());
    let plain_port = listening_port(&mut sink_lines);
    // Only these ports: asking the agent how it does makes events too.
    let agent = Agent::start(&["--port", &format!("{tls_port},{plain_port}")]);

    let mut server = Command::new("openssl");
    server.args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{tls_port}"), "-naccept", "1", "-key"]).arg(&key).arg("-cert");
    // What the server reads here it sends to its client.
    let mut server = Process::spawn(server.arg(&certificate).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()));
    listens_without_connecting(tls_port);
    let mut client = Command::new("openssl");
    client.args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{tls_port}")]);
    let mut client = Process::spawn(client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut received = client.stdout();
    let receive = std::thread::Builder::new().name("tls-client".into());
    let receive = receive.spawn(move || std::io::copy(&mut (&mut received).take(TLS_BYTES), &mut std::io::sink())).expect("start a thread");
    let mut into_server = server.stdin();
    let send = std::thread::Builder::new().name("tls-server".into());
    let send = send.spawn(move || std::io::copy(&mut std::io::repeat(0).take(TLS_BYTES), &mut into_server)).expect("start a thread");
    let mut stream = Command::new(&load);
    stream.args(["stream", "--address", &format!("127.0.0.1:{plain_port}"), "--bytes", &PLAIN_BYTES.to_string()]);
    stream.args(["--rate", &PLAIN_RATE.to_string()]);
    let mut stream = Process::spawn(stream.stdout(Stdio::null()));

    // "After the first second" is what is asked for: a time, not an event.
    std::thread::sleep(Duration::from_secs(1));
    assert!(!stream.has_ended(), "the transfers must outlive their first second");
    let data_events = |agent: &Agent| agent.metrics().get("remora_self_events_total", &["kind=\"data\""]) as u64;
    // Metrics show the last snapshot: the first calls are in it a moment later.
    let after_a_second =
        until("the first calls in the metrics", Duration::from_secs(5), || Some(data_events(&agent)).filter(|count| *count > 0));
    assert!(stream.wait(PATIENCE).success());
    let mut rest = String::new();
    sink_lines.read_to_string(&mut rest).expect("read the sink's end");
    assert_eq!(rest.trim(), format!("{{\"bytes\":{PLAIN_BYTES}}}"));
    assert_eq!(receive.join().expect("the receiver").expect("read from s_client"), TLS_BYTES);
    assert_eq!(send.join().expect("the sender").expect("write to s_server"), TLS_BYTES);
    let at_the_end = data_events(&agent);
    drop((client, server));
    let report = agent.finish();

    report.summary().assert_nothing_lost();
    // Two transfers, each seen from both of its ends.
    let events = at_the_end - after_a_second;
    assert!(events < 2 * 100, "{events} events after the first second");
    let false_exchanges: Vec<_> =
        report.exchanges.iter().filter(|exchange| [tls_port, plain_port].contains(&exchange.server.port)).collect();
    assert!(false_exchanges.is_empty(), "{} exchanges made up, such as {:?}", false_exchanges.len(), false_exchanges[0]);
    for (port, bytes) in [(tls_port, TLS_BYTES), (plain_port, PLAIN_BYTES)] {
        let moved = report.connections.iter().filter(|connection| connection.server.port == port && connection.role == "client");
        let moved: u64 = moved.map(|connection| connection.bytes_sent.max(connection.bytes_received)).sum();
        assert!(moved >= bytes, "the connection to {port} moved {moved} bytes");
    }
}

/// Connecting would be the one connection that s_server accepts: the kernel's table is asked.
fn listens_without_connecting(port: u16) {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let wanted = format!(":{port:04X} 00000000:0000 0A");
    until(&format!("openssl to listen on {address}"), Duration::from_secs(10), || {
        std::fs::read_to_string("/proc/net/tcp").ok().filter(|table| table.contains(&wanted))
    });
}
