//! TLS as ciphertext: a server that only its address is known of is named by its clients' hellos.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::{
    agent::Agent,
    capture::Capture,
    exchange::{Connection, Report},
    machine,
    netns::Namespace,
    process::Process,
    tls::{SERVER_NAME, TlsServer},
    until,
};

const PYTHON: &str = r#"
import socket, ssl, sys
address, port, certificate, name = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
context = ssl.create_default_context(cafile=certificate)
with context.wrap_socket(socket.create_connection((address, port)), server_hostname=name) as connection:
    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    while connection.recv(4096):
        pass
"#;

/// A client that waits for a line before it begins: until then its pid can be told to the agent.
struct Client {
    process: Process,
}

impl Client {
    /// `place` starts a program where it reaches the server.
    fn waiting(place: impl Fn(&str) -> Command, arguments: &[&str]) -> Self {
        let mut command = place("sh");
        command.args(["-c", "read -r line; exec \"$@\"", "sh"]).args(arguments);
        Self { process: Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null())) }
    }

    fn talk(mut self) {
        let mut stdin = self.process.stdin();
        stdin.write_all(b"go\nGET / HTTP/1.0\r\n\r\n").expect("tell the client to go");
        let status = self.process.wait(Duration::from_secs(10));
        assert!(status.success(), "{status}");
        drop(stdin);
    }
}

/// Three clients that name the server, and, the second, one that does not.
fn clients(server: &TlsServer, place: impl Fn(&str) -> Command) -> Vec<Client> {
    let (address, port) = (server.address.ip().to_string(), server.address.port().to_string());
    let (both, certificate) = (server.address.to_string(), server.certificate().display().to_string());
    let (resolve, url) = (format!("{SERVER_NAME}:{port}:{address}"), format!("https://{SERVER_NAME}:{port}/?token=hunter2"));
    let s_client = ["openssl", "s_client", "-connect", &both, "-ign_eof"];
    let client = |arguments: &[&str]| Client::waiting(&place, arguments);
    vec![
        client(&[&s_client[..], &["-servername", SERVER_NAME]].concat()),
        client(&[&s_client[..], &["-noservername"]].concat()),
        client(&["curl", "-sS", "-m", "10", "--noproxy", "*", "--cacert", &certificate, "--resolve", &resolve, &url]),
        client(&["python3", "-c", PYTHON, &address, &port, &certificate, SERVER_NAME]),
    ]
}

fn connections<'a>(report: &'a Report, server: &TlsServer) -> Vec<&'a Connection> {
    report.connections.iter().filter(|connection| connection.server.port == server.address.port()).collect()
}

#[track_caller]
fn assert_named(report: &Report, server: &TlsServer) {
    let address = server.address.ip().to_string();
    let connections = connections(report, server);
    let names: Vec<_> = connections.iter().map(|one| (one.server.kind.as_deref(), one.server.name.as_deref())).collect();
    let (domain, unnamed) = ((Some("domain"), Some(SERVER_NAME)), (Some("address"), Some(address.as_str())));
    assert_eq!(names, [domain, unnamed, domain, domain]);
    for connection in &connections {
        assert_eq!(connection.server.address, address);
        assert!(connection.bytes_sent > 200 && connection.bytes_received > 1000, "{connection:?}");
    }
    let bytes = |count: fn(&Connection) -> u64| [0, 2, 3].map(|index| count(connections[index])).iter().sum::<u64>();
    let edges: Vec<_> = report.summary().edges.iter().filter(|edge| edge.server() == SERVER_NAME).collect();
    assert!(!edges.is_empty() && edges.iter().all(|edge| edge.protocol == "tls" && edge.requests == 0), "{edges:?}");
    assert_eq!(edges.iter().map(|edge| edge.bytes_sent).sum::<u64>(), bytes(|one| one.bytes_sent));
    assert_eq!(edges.iter().map(|edge| edge.bytes_received).sum::<u64>(), bytes(|one| one.bytes_received));
    report.summary().assert_nothing_lost();
}

#[test]
fn a_server_elsewhere_is_named_by_its_clients() {
    let _machine = machine();
    let (left, right) = (Namespace::new("left"), Namespace::new("right"));
    Namespace::join((&left, "10.131.9.1/24"), (&right, "10.131.9.2/24"));
    let server = TlsServer::start("10.131.9.2", right.command("openssl"));
    // The server's own sockets are not watched: it could as well be on another host.
    let clients = clients(&server, |program| left.command(program));
    let pids: Vec<String> = clients.iter().map(|client| client.process.pid().to_string()).collect();
    let agent = Agent::start(&["--pid", &pids.join(",")]);
    clients.into_iter().for_each(Client::talk);
    agent.wait_for("the connections", |report| connections(report, &server).len() == 4);
    let label = format!("server=\"{SERVER_NAME}\"");
    let opened = || agent.metrics().sum("remora_tcp_connections_opened_total", &[&label]);
    until("three connections in the metrics", Duration::from_secs(5), || (opened() == 3.0).then_some(()));
    let stopped = agent.stop();
    assert!(stopped.status.success());

    assert_named(&stopped.report, &server);
    let clients: Vec<&str> = connections(&stopped.report, &server).iter().filter_map(|one| one.client.name.as_deref()).collect();
    assert_eq!(clients, ["openssl", "openssl", "curl", "python3"]);
    assert!(!String::from_utf8_lossy(&stopped.stdout).contains("hunter2"));
}

#[test]
fn a_server_of_this_host_is_its_process_and_a_capture_file_names_it() {
    let _machine = machine();
    let server = TlsServer::start("127.0.0.1", Command::new("openssl"));
    let agent = Agent::start(&[]);
    let capture = Capture::start(server.address.port());
    clients(&server, |program| Command::new(program)).into_iter().for_each(Client::talk);
    let replayed = capture.replay();
    let report = agent.finish();

    report.summary().assert_nothing_lost();
    let seen = connections(&report, &server);
    assert!(seen.len() >= 8, "both ends of four: {}", seen.len());
    assert!(seen.iter().all(|one| one.server.name.as_deref() == Some("openssl")), "{seen:?}");
    assert_named(&replayed, &server);
}
