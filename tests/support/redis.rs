//! A Redis server of our own, and what it counted.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use super::{free_port, process::Process};

pub struct Redis {
    process: Process,
    _directory: TempDir,
    pub port: u16,
    /// Opened before the agent: what it asks is not among what the agent is held to.
    control: TcpStream,
}

/// How often a command was called, refused ones included, and how often it failed or was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    pub all: u64,
    pub failed: u64,
}

impl Redis {
    pub fn start(settings: &[&str]) -> Self {
        let directory = TempDir::with_prefix("remora-redis-").expect("make a directory");
        let port = free_port();
        let mut server = Command::new("redis-server");
        server.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no", "--dir"]);
        server.arg(directory.path()).args(settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::spawn(&mut server);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        process.listens(address);
        let control = TcpStream::connect(address).expect("connect to Redis");
        Self { process, _directory: directory, port, control }
    }

    /// One of Redis' programs, pointed at this server.
    pub fn client(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).env_remove("REDISCLI_AUTH").stdin(Stdio::null());
        command
    }

    /// Debian's Python with its Redis library; the program finds the port in `PORT`.
    pub fn python(&self, program: &str) -> Command {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", program]).env("PORT", self.port.to_string()).stdin(Stdio::null());
        python
    }

    /// Asks on the connection that is older than the agent; the text of the reply.
    pub fn ask(&mut self, line: &str) -> String {
        self.control.write_all(format!("{line}\r\n").as_bytes()).expect("write to Redis");
        let mut reply = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let length = self.control.read(&mut piece).expect("read from Redis");
            assert!(length > 0, "Redis closed the connection");
            reply.extend_from_slice(&piece[..length]);
            let text = String::from_utf8_lossy(&reply);
            let Some((head, body)) = text.split_once("\r\n") else { continue };
            match head.strip_prefix('$') {
                Some(size) if body.len() < size.parse::<usize>().expect("a length") + 2 => {}
                Some(_) => return body.trim_end().to_owned(),
                None => return head.to_owned(),
            }
        }
    }

    pub fn forget_statistics(&mut self) {
        assert_eq!(self.ask("CONFIG RESETSTAT"), "+OK");
    }

    /// By command in capitals, without what was asked here.
    pub fn statistics(&mut self) -> BTreeMap<String, Calls> {
        let mut statistics = BTreeMap::new();
        for line in self.ask("INFO commandstats").lines().filter_map(|line| line.strip_prefix("cmdstat_")) {
            let (name, figures) = line.split_once(':').expect("NAME:FIGURES");
            let figure = |wanted: &str| -> u64 {
                let found = figures.split(',').find_map(|figure| figure.strip_prefix(wanted)?.strip_prefix('='));
                found.unwrap_or_else(|| panic!("no {wanted} in {line}")).parse().expect("a number")
            };
            let rejected = figure("rejected_calls");
            let calls = Calls { all: figure("calls") + rejected, failed: figure("failed_calls") + rejected };
            statistics.insert(name.replace('|', " ").to_uppercase(), calls);
        }
        statistics.remove("CONFIG RESETSTAT");
        statistics
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if !self.process.has_ended() {
            self.process.signal(nix::sys::signal::Signal::SIGTERM);
            self.process.wait(std::time::Duration::from_secs(10));
        }
    }
}
