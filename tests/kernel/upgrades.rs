//! HTTP/2 that begins as HTTP/1.1: the request that asked for it is reported once, as what answered it.

use std::process::{Command, Stdio};

use crate::support::{
    agent::Agent,
    capture::{Capture, assert_same_exchanges},
    free_port, machine,
    process::{Process, run},
};

#[test]
fn the_request_that_asked_for_http2_is_its_first() {
    const ROUNDS: usize = 20;
    let _machine = machine();
    let directory = tempfile::TempDir::with_prefix("remora-upgrade-").expect("make a directory");
    std::fs::write(directory.path().join("page"), "x".repeat(2000)).expect("write a page");
    let port = free_port();
    let caddyfile = directory.path().join("Caddyfile");
    let (root, origin) = (directory.path().display(), format!("http://127.0.0.1:{port}"));
    let settings = "admin off\nauto_https off\nservers {\nprotocols h1 h2c\n}";
    std::fs::write(&caddyfile, format!("{{\n{settings}\n}}\n{origin} {{\nroot * {root}\nfile_server\n}}\n"))
        .expect("write Caddy's settings");
    let mut caddy = Command::new("caddy");
    caddy.args(["run", "--adapter", "caddyfile", "--config"]).arg(&caddyfile);
    caddy.env("HOME", directory.path()).env("XDG_CONFIG_HOME", directory.path()).env("XDG_DATA_HOME", directory.path());
    let mut server = Process::spawn(caddy.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
    server.listens(([127, 0, 0, 1], port).into());
    let agent = Agent::start(&["--port", &port.to_string()]);
    let capture = Capture::start(port);
    let url = |path: &str| format!("http://127.0.0.1:{port}/{path}?token=secret");
    for _ in 0..ROUNDS {
        // Two requests on one connection: the first by upgrade, the second on it.
        run(Command::new("curl").args(["-s", "--http2", "-o", "/dev/null", &url("page"), "-o", "/dev/null", &url("nothing")]));
        run(Command::new("nghttp").args(["-u", "-n", &url("page")]));
    }
    let replayed = capture.replay();
    let report = agent.finish();

    report.summary().assert_nothing_lost();
    for side in ["client", "server"] {
        let mut seen: Vec<_> = report
            .of(port, side)
            .iter()
            .map(|exchange| format!("{} {} {} {}", exchange.protocol, exchange.operation, exchange.resource, exchange.status))
            .collect();
        seen.sort_unstable();
        let expected = [vec!["http2 GET /nothing 404"; ROUNDS], vec!["http2 GET /page 200"; 2 * ROUNDS]].concat();
        assert_eq!(seen, expected, "{side} side");
    }
    assert!(report.exchanges.iter().all(|exchange| !format!("{exchange:?}").contains("secret")));
    replayed.summary().assert_nothing_lost();
    assert_same_exchanges(&report.of(port, "client"), &replayed.of(port, "unknown"));
}
