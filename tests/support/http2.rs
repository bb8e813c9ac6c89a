//! Servers and clients of HTTP/2 in clear text: nghttpd with its files, and the peers of `http2.py`.

use std::{
    io::BufReader,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde::Deserialize;
use tempfile::TempDir;

use super::{
    exchange::Exchange,
    free_port,
    process::{Process, listening_port, run_within},
};

const PEERS: &str = include_str!("http2.py");

/// Bytes of `/large`.
pub const LARGE: usize = 300_000;

/// nghttp2's server: `/small`, `/large` and `/old` are there, anything else is 404.
pub struct Nghttpd {
    _process: Process,
    _directory: TempDir,
    pub port: u16,
}

impl Nghttpd {
    pub fn start() -> Self {
        let directory = TempDir::with_prefix("remora-nghttpd-").expect("make a directory");
        for (name, length) in [("small", 10), ("old", 20), ("large", LARGE)] {
            std::fs::write(directory.path().join(name), "x".repeat(length)).expect("write a file to serve");
        }
        let port = free_port();
        let mut nghttpd = Command::new("nghttpd");
        nghttpd.args(["--no-tls", "--address=127.0.0.1", "--htdocs"]).arg(directory.path()).arg(port.to_string());
        let mut process = Process::spawn(nghttpd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
        process.listens(SocketAddr::from(([127, 0, 0, 1], port)));
        Self { _process: process, _directory: directory, port }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

/// The server of `http2.py`, which does what paths ask of it.
pub struct Strange {
    _process: Process,
    pub port: u16,
}

impl Strange {
    pub fn start() -> Self {
        let mut process = Process::spawn(peer(&["serve"]).stdin(Stdio::null()).stdout(Stdio::piped()));
        let port = listening_port(&mut BufReader::new(process.stdout()));
        Self { _process: process, port }
    }
}

/// Debian's interpreter: that is where Debian's h2 is.
pub fn peer(arguments: &[&str]) -> Command {
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-u", "-c", PEERS]).args(arguments);
    python
}

/// An exchange as its client saw it; times of the real clock.
#[derive(Clone, Debug, Deserialize)]
pub struct Told {
    pub method: String,
    pub path: String,
    pub status: String,
    pub begin: u64,
    pub end: u64,
}

impl Told {
    pub fn read(line: &str) -> Self {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }

    /// "GET /a 200", without the query.
    pub fn summary(&self) -> String {
        format!("{} {} {}", self.method, self.path.split('?').next().unwrap_or_default(), self.status)
    }
}

/// Runs a client of `http2.py` to its end.
pub fn client(arguments: &[&str]) -> Vec<Told> {
    let ended = run_within(peer(arguments).stdin(Stdio::null()), Duration::from_secs(20));
    assert!(ended.status.success(), "{arguments:?}\n{}", ended.stderr);
    ended.stdout.lines().map(Told::read).collect()
}

/// One curl after the other; what each printed: version and status.
pub fn curl(urls: &[String]) -> Vec<String> {
    // Debian's curl 7.88 cannot use a connection of prior knowledge twice.
    let print = |url: &String| {
        let mut curl = Command::new("curl");
        curl.args(["--http2-prior-knowledge", "--silent", "--show-error", "--write-out", "%{http_version} %{http_code}"]);
        let ended = run_within(curl.arg(url).args(["--output", "/dev/null"]), Duration::from_secs(20));
        assert!(ended.status.success(), "{}", ended.stderr);
        ended.stdout
    };
    urls.iter().map(print).collect()
}

/// h2load with the URLs of a file in turn.
pub fn h2load(urls: &[String], requests: u64, connections: u64, streams: u64, directory: &Path) -> String {
    let list = directory.join("urls");
    std::fs::write(&list, urls.join("\n")).expect("write the list of URLs");
    let mut h2load = Command::new("h2load");
    h2load.args(["-n", &requests.to_string(), "-c", &connections.to_string(), "-m", &streams.to_string(), "-i"]).arg(&list);
    let ended = run_within(&mut h2load, Duration::from_secs(60));
    assert!(ended.status.success(), "{}", ended.stderr);
    ended.stdout
}

/// "GET /a 200" of each, in order of the alphabet.
pub fn summaries(exchanges: &[&Exchange]) -> Vec<String> {
    let mut summaries: Vec<_> = exchanges.iter().map(|one| format!("{} {} {}", one.operation, one.resource, one.status)).collect();
    summaries.sort();
    summaries
}
