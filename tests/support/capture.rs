//! The same traffic as a capture file: tcpdump beside the agent, and its file through `remora replay`.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::UdpSocket,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{
    agent::remora,
    exchange::{Exchange, Report},
    process::{Process, run},
    until,
};

/// tcpdump on loopback, for one port.
pub struct Capture {
    process: Process,
    directory: TempDir,
    /// Sends the last packet, to itself: the port that is captured may be one of datagrams.
    marker: UdpSocket,
}

/// Sent as the last packet: tcpdump is behind by up to a second, and drops what it has not read when it is stopped.
const LAST: &[u8] = b"the last packet of this capture";

/// Starts tcpdump and waits until it captures.
pub fn listening(mut tcpdump: Command) -> Process {
    let mut process = Process::spawn(tcpdump.stdout(Stdio::null()).stderr(Stdio::piped()));
    let mut stderr = BufReader::new(process.stderr());
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        assert!(stderr.read_line(&mut line).expect("read tcpdump's words") > 0, "tcpdump ended before it listened");
    }
    // tcpdump writes little more; a closed pipe would end it with its last words.
    std::thread::Builder::new()
        .name("tcpdump-stderr".into())
        .spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()))
        .expect("start a thread");
    process
}

impl Capture {
    /// Captures all that comes after this call.
    pub fn start(port: u16) -> Self {
        let directory = TempDir::with_prefix("remora-capture-").expect("make a directory");
        let file = directory.path().join("capture.pcap");
        let marker = UdpSocket::bind("127.0.0.1:0").expect("bind a socket");
        let mut tcpdump = Command::new("tcpdump");
        tcpdump
            .args(["-i", "lo", "-s", "0", "-B", "65536", "-U", "-Z", "root", "-w"])
            .arg(&file)
            .arg(format!("port {port} or port {}", port_of(&marker)));
        let process = listening(tcpdump);
        Self { process, directory, marker }
    }

    /// Ends the capture and replays it.
    pub fn replay(mut self) -> Report {
        let file: PathBuf = self.directory.path().join("capture.pcap");
        self.marker.send_to(LAST, ("127.0.0.1", port_of(&self.marker))).expect("send a packet");
        let is_written = || fs::read(&file).expect("read the capture").windows(LAST.len()).rev().any(|bytes| bytes == LAST);
        until("tcpdump to write the last packet", Duration::from_secs(10), || is_written().then_some(()));
        self.process.signal(Signal::SIGINT);
        self.process.wait(Duration::from_secs(10));
        Report::read(&run(remora().arg("replay").arg(&file).args(["--output", "json"])).stdout)
    }
}

fn port_of(socket: &UdpSocket) -> u16 {
    socket.local_addr().expect("address of a bound socket").port()
}

/// Holds the exchanges of a capture file to those that one side saw live: the same operations, resources, statuses and errors, as often.
#[track_caller]
pub fn assert_same_exchanges(live: &[&Exchange], replayed: &[&Exchange]) {
    let count = |exchanges: &[&Exchange]| {
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for exchange in exchanges {
            let Exchange { protocol, operation, resource, status, error, .. } = exchange;
            *counts.entry(format!("{protocol} {operation} {resource:?} {status:?} {error}")).or_default() += 1;
        }
        counts
    };
    let (live, replayed) = (count(live), count(replayed));
    let differences: Vec<_> = live
        .keys()
        .chain(replayed.keys())
        .filter(|key| live.get(*key) != replayed.get(*key))
        .map(|key| format!("{key}: {:?} live, {:?} replayed", live.get(key), replayed.get(key)))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
