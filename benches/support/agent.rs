//! The agent as a process of its own: start it, wait until it watches, read what it costs, stop it and read its summary.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, Sender};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How an agent is started.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    pub program: &'a Path,
    /// Flags of `remora run`, without `--listen`.
    pub flags: &'a [&'a str],
    /// Keeps the agent off the processor on which something is timed.
    pub processor: Option<usize>,
}

/// What the agent's standard output says of itself; everything else is read and dropped.
#[derive(Debug)]
pub enum Report {
    Ready(Instant),
    FirstExchange(Instant),
    Summary(Value),
}

/// A running agent. Dropping it kills it.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    pub started: Instant,
    address: SocketAddr,
    reports: Receiver<Report>,
    reader: Option<JoinHandle<()>>,
    errors: PathBuf,
}

/// What an agent counted, when it stopped.
#[derive(Debug, Default)]
pub struct Summary {
    pub exchanges: u64,
    /// Reason → count.
    pub lost: BTreeMap<String, u64>,
}

impl Summary {
    pub fn lost_in_all(&self) -> u64 {
        self.lost.values().sum()
    }
}

impl Agent {
    /// Starts `remora run` and waits until it is ready.
    pub fn start(start: &Start<'_>) -> Result<Self> {
        let agent = Self::spawn(start)?;
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// Starts `remora run` and returns at once.
    pub fn spawn(start: &Start<'_>) -> Result<Self> {
        let address = free_address()?;
        let errors = Path::new(env!("CARGO_TARGET_TMPDIR")).join("agent.stderr");
        let stderr = File::create(&errors).with_context(|| format!("creating {}", errors.display()))?;
        let mut command = match start.processor {
            Some(processor) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(processor.to_string()).arg(start.program);
                command
            }
            None => Command::new(start.program),
        };
        command.arg("run").args(start.flags).args(["--listen", &address.to_string()]);
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("starting {}", start.program.display()))?;
        let output = child.stdout.take().context("an agent without standard output")?;
        let (sender, reports) = crossbeam_channel::bounded(16);
        let reader = thread::Builder::new().name("agent-output".to_owned()).spawn(move || forward_reports(output, &sender))?;
        Ok(Self { child, started, address, reports, reader: Some(reader), errors })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks `/readyz` until it says yes.
    pub fn wait_until_ready(&self) -> Result<()> {
        loop {
            if matches!(http_get(self.address, "/readyz"), Ok((200, _))) {
                return Ok(());
            }
            if self.started.elapsed() > START_LIMIT {
                bail!("not ready in {START_LIMIT:?}: {}", self.last_words());
            }
            if !Path::new(&format!("/proc/{}/exe", self.pid())).exists() {
                bail!("ended at once: {}", self.last_words());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The next report, or an error when none comes in time.
    pub fn report(&self) -> Result<Report> {
        self.reports.recv_timeout(START_LIMIT).with_context(|| format!("no report: {}", self.last_words()))
    }

    /// Time its threads were on a processor, user and system, of those that live (kernel: Documentation/scheduler/sched-stats.rst).
    pub fn processor_time(&self) -> Result<Duration> {
        let folder = format!("/proc/{}/task", self.pid());
        let mut total_ns = 0;
        for task in fs::read_dir(&folder).with_context(|| format!("reading {folder}"))? {
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            let on_processor_ns: u64 = text.split(' ').next().and_then(|word| word.parse().ok()).context("unexpected schedstat")?;
            total_ns += on_processor_ns;
        }
        Ok(Duration::from_nanos(total_ns))
    }

    /// Resident memory now, in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).with_context(|| format!("no VmRSS in {path}"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("understanding VmRSS {line:?}"))?;
        Ok(kib << 10)
    }

    /// Ends it as a user would, and returns what it counted: from the summary on its output, else from its metrics.
    pub fn stop(mut self) -> Result<Summary> {
        let metrics = http_get(self.address, "/metrics").map(|(_, text)| text).unwrap_or_default();
        let pid = Pid::from_raw(i32::try_from(self.pid()).context("a process id beyond 31 bits")?);
        kill(pid, Signal::SIGTERM).context("stopping the agent")?;
        let deadline = Instant::now() + STOP_LIMIT;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("still running {STOP_LIMIT:?} after SIGTERM");
            }
            thread::sleep(Duration::from_millis(2));
        }
        if let Some(reader) = self.reader.take() {
            reader.join().map_err(|_| anyhow::anyhow!("the reader of the agent's output panicked"))?;
        }
        let summary = self.reports.try_iter().find_map(|report| match report {
            Report::Summary(summary) => Some(summary),
            Report::Ready(_) | Report::FirstExchange(_) => None,
        });
        Ok(summary.map_or_else(|| summary_of_metrics(&metrics), |summary| summary_of_json(&summary)))
    }

    /// The end of its log, for error messages.
    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.errors).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].join(" / ")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Already ended after `stop`; then both fail and nothing is left to do.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn forward_reports(output: ChildStdout, reports: &Sender<Report>) {
    let mut seen_exchange = false;
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let now = Instant::now();
        if seen_exchange && line.contains(r#""type":"exchange""#) {
            continue;
        }
        let Ok(object) = serde_json::from_str::<Value>(&line) else { continue };
        let report = match object.get("type").and_then(Value::as_str) {
            Some("ready") => Report::Ready(now),
            Some("exchange") => {
                seen_exchange = true;
                Report::FirstExchange(now)
            }
            Some("summary") => Report::Summary(object),
            _ => continue,
        };
        if reports.send(report).is_err() {
            return;
        }
    }
}

fn summary_of_json(summary: &Value) -> Summary {
    let lost = summary.get("lost").and_then(Value::as_object).into_iter().flatten();
    Summary {
        exchanges: summary.get("exchanges").and_then(Value::as_u64).unwrap_or(0),
        lost: lost.map(|(reason, count)| (reason.clone(), count.as_u64().unwrap_or(0))).filter(|(_, count)| *count > 0).collect(),
    }
}

/// Counters whose name speaks of loss or of exchanges: `remora_self_…lost…_total{reason="…"} 3`.
fn summary_of_metrics(text: &str) -> Summary {
    let mut summary = Summary::default();
    for line in text.lines().filter(|line| line.starts_with("remora_self_")) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        if series.contains("lost") && value > 0.0 {
            *summary.lost.entry(series.trim_start_matches("remora_self_").to_owned()).or_default() += value as u64;
        } else if series.starts_with("remora_self_exchanges_total") {
            summary.exchanges += value as u64;
        }
    }
    summary
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    listener.local_addr().context("asking for the free port")
}

/// One request, one answer, status and body.
pub fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").context("sending a request")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading the answer")?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).context("an answer without a status")?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}
