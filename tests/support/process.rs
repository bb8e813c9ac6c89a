//! Children that end with the test that started them.

use std::{
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpStream},
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;

use super::until;

const PATIENCE: Duration = Duration::from_secs(10);

/// A child; dropping it stops it.
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        let name = format!("{command:?}");
        let child = command.spawn().unwrap_or_else(|error| panic!("start {name}: {error}"));
        Self { name, child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(self.pid() as i32), signal)
            .unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.name));
    }

    pub fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("stdout was piped and is taken once")
    }

    pub fn stderr(&mut self) -> std::process::ChildStderr {
        self.child.stderr.take().expect("stderr was piped and is taken once")
    }

    pub fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().expect("stdin was piped and is taken once")
    }

    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("wait for a child").is_some()
    }

    /// Waits for the end, at most `patience`.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        until(&what, patience, || self.child.try_wait().expect("wait for a child"))
    }

    /// Waits until something listens there; the child must live to that point.
    pub fn listens(&mut self, address: SocketAddr) {
        let what = format!("{} to listen on {address}", self.name);
        until(&what, PATIENCE, || {
            assert!(!self.has_ended(), "ended before it listened: {}", self.name);
            TcpStream::connect(address).ok()
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let pid = Pid::from_raw(self.child.id() as i32);
            // The child is ours and not yet waited for, so the pid is still its own.
            nix::sys::signal::kill(pid, Signal::SIGTERM).ok();
            for _ in 0..200 {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// A finished program and what it wrote.
pub struct Ended {
    pub pid: u32,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The JSON objects it wrote, one a line.
    pub fn json(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        self.stdout.lines().map(parse).collect()
    }

    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by signal {:?}", self.status.signal()))
    }
}

/// Runs to the end, at most `patience`; how it ended is for the caller to judge.
pub fn run_within(command: &mut Command, patience: Duration) -> Ended {
    let mut process = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let pid = process.pid();
    let stdout = read_all(process.stdout());
    let stderr = read_all(process.stderr());
    let status = process.wait(patience);
    Ended { pid, status, stdout: stdout.join().expect("read stdout"), stderr: stderr.join().expect("read stderr") }
}

/// Runs to a good end.
pub fn run(command: &mut Command) -> Ended {
    let ended = run_within(command, Duration::from_secs(120));
    assert!(ended.status.success(), "{command:?} ended with {}\n{}\n{}", ended.status, ended.stdout, ended.stderr);
    ended
}

/// Reads a pipe to its end beside the test, so that the child never waits for us.
pub fn read_all(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    let builder = std::thread::Builder::new().name("pipe".into());
    let read = move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("read a pipe");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    builder.spawn(read).expect("start a thread")
}

/// The first line of a program of ours that serves: `{"listening": PORT}`.
pub fn listening_port(stdout: &mut BufReader<ChildStdout>) -> u16 {
    let mut line = String::new();
    stdout.read_line(&mut line).expect("read the first line");
    let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
    value["listening"].as_u64().expect("a port") as u16
}
