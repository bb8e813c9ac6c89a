//! The agent as a child process: started with JSON lines, waited for until it is ready, stopped by SIGINT, read to its summary.

use std::{
    io::Read,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    exchange::{Edge, Report},
    free_port,
    http::{self, Metrics},
    process::{Process, read_all},
    until,
};

/// The agent under test: `REMORA_BIN`, else the one that cargo built with this test.
pub fn binary() -> PathBuf {
    std::env::var_os("REMORA_BIN").map_or_else(|| env!("CARGO_BIN_EXE_remora").into(), PathBuf::from)
}

/// `remora` with no environment of ours that could change its settings.
pub fn remora() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REMORA_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Debug builds load and drain slower, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

type Lines = Arc<(Mutex<Output>, Condvar)>;

/// What the agent wrote. Only kept as it comes in: reading it takes longer than writing it does, and a reader that falls behind is a load
/// of its own on the agent.
#[derive(Default)]
struct Output {
    stdout: Vec<u8>,
    /// So much of it is in the report.
    read: usize,
    report: Report,
}

impl Output {
    /// The report with all lines that are whole.
    fn report(&mut self) -> &Report {
        let whole = self.stdout.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1).max(self.read);
        let lines = std::str::from_utf8(&self.stdout[self.read..whole]).expect("UTF-8");
        lines.lines().for_each(|line| self.report.take(line));
        self.read = whole;
        &self.report
    }
}

pub struct Agent {
    process: Process,
    pub listen: SocketAddr,
    lines: Lines,
    reader: Option<JoinHandle<()>>,
    stderr: Option<JoinHandle<String>>,
}

/// A stopped agent.
pub struct Stopped {
    pub report: Report,
    /// Its stdout as it was.
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub status: ExitStatus,
    /// From SIGINT to the end of the process.
    pub stop_took: Duration,
}

impl Agent {
    /// `remora run --output json` with all defaults but for the port, and ready.
    pub fn start(extra: &[&str]) -> Self {
        Self::start_as(&["run", "--output", "json"], extra)
    }

    pub fn start_as(command: &[&str], extra: &[&str]) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut remora = remora();
        remora.args(command).args(extra);
        Self::start_by(remora, listen, command.contains(&"json"))
    }

    /// `command` starts the agent, in a container or as it likes. `by_line`: it writes JSON lines, and one of them says that it is ready.
    pub fn start_by(mut command: Command, listen: SocketAddr, by_line: bool) -> Self {
        command.arg("--listen").arg(listen.to_string());
        let mut process = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let lines = Lines::default();
        let reader = read_lines(process.stdout(), Arc::clone(&lines));
        let stderr = read_all(process.stderr());
        let mut agent = Self { process, listen, lines, reader: Some(reader), stderr: Some(stderr) };
        agent.wait_ready(by_line);
        agent
    }

    fn wait_ready(&mut self, by_line: bool) {
        let begin = Instant::now();
        let listen = self.listen;
        loop {
            let ready = if by_line {
                self.wait(Duration::from_millis(50), |report| report.ready.is_some())
            } else {
                std::thread::sleep(Duration::from_millis(10));
                http::get(listen, "/readyz").is_ok_and(|response| response.status == 200)
            };
            if ready {
                return;
            }
            if self.process.has_ended() {
                let stderr = self.stderr.take().map(|thread| thread.join().expect("read stderr")).unwrap_or_default();
                panic!("the agent ended before it was ready:\n{stderr}");
            }
            assert!(begin.elapsed() < PATIENCE, "the agent was not ready within {PATIENCE:?}");
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn metrics(&self) -> Metrics {
        let response = http::get(self.listen, "/metrics").expect("GET /metrics");
        assert_eq!(response.status, 200, "GET /metrics");
        Metrics::parse(&response.body)
    }

    /// Requests of the edges that `counts` chooses in the service map, once they have stopped growing: what the workload did is in it, or lost.
    pub fn settled_requests(&self, counts: impl Fn(&Edge) -> bool) -> u64 {
        #[derive(serde::Deserialize)]
        struct Map {
            edges: Vec<Edge>,
        }
        let (mut last, mut since) = (None, Instant::now());
        until("the service map to settle", PATIENCE, || {
            let response = http::get(self.listen, "/api/v1/service-map").expect("GET /api/v1/service-map");
            let map: Map = serde_json::from_str(&response.body).unwrap_or_else(|error| panic!("{error} in {}", response.body));
            let now = map.edges.iter().filter(|edge| counts(edge)).map(|edge| edge.requests).sum::<u64>();
            if last.replace(now) != Some(now) {
                since = Instant::now();
            }
            (since.elapsed() > Duration::from_millis(1500)).then_some(now)
        })
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("status of the agent");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") * 1024
    }

    /// SIGSTOP and SIGCONT: what happens in between is seen by the kernel's programs alone.
    pub fn asleep<T>(&self, act: impl FnOnce() -> T) -> T {
        self.process.signal(Signal::SIGSTOP);
        let outcome = act();
        self.process.signal(Signal::SIGCONT);
        outcome
    }

    /// Waits until what was reported so far satisfies the condition.
    #[track_caller]
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Report) -> bool) {
        assert!(self.wait(PATIENCE, condition), "waited {PATIENCE:?} in vain for {what}");
    }

    fn wait(&self, time: Duration, condition: impl Fn(&Report) -> bool) -> bool {
        let guard = self.lines.0.lock().expect("lines");
        let (_guard, timeout) = self.lines.1.wait_timeout_while(guard, time, |output| !condition(output.report())).expect("lines");
        !timeout.timed_out()
    }

    /// SIGINT, and all that was written until the end.
    pub fn stop(mut self) -> Stopped {
        let begin = Instant::now();
        self.process.signal(Signal::SIGINT);
        let status = self.process.wait(PATIENCE);
        let stop_took = begin.elapsed();
        self.reader.take().expect("stopped once").join().expect("read the lines");
        let stderr = self.stderr.take().expect("stopped once").join().expect("read stderr");
        let mut output = std::mem::take(&mut *self.lines.0.lock().expect("lines"));
        output.report();
        Stopped { report: output.report, stdout: output.stdout, stderr, status, stop_took }
    }

    /// Stops, and holds the agent to a good end.
    #[track_caller]
    pub fn finish(self) -> Report {
        let stopped = self.stop();
        assert!(stopped.status.success(), "the agent ended with {}:\n{}", stopped.status, stopped.stderr);
        stopped.report
    }

    /// SIGKILL: nothing is drained, nothing is said.
    pub fn kill(mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait(PATIENCE);
    }
}

fn read_lines(mut stdout: std::process::ChildStdout, lines: Lines) -> JoinHandle<()> {
    let read = move || {
        let mut piece = vec![0; 1 << 20];
        loop {
            let length = stdout.read(&mut piece).expect("read the agent's output");
            if length == 0 {
                break;
            }
            lines.0.lock().expect("lines").stdout.extend_from_slice(&piece[..length]);
            lines.1.notify_all();
        }
    };
    std::thread::Builder::new().name("agent-lines".into()).spawn(read).expect("start a thread")
}
