//! nginx with a configuration of our own, and its access log.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{free_port, process::Process};

/// Answers 404 below `/missing`, 503 below `/busy`, files below `/files`, else 200 with a constant; on 127.0.0.1 to 127.0.0.4 and [::1].
pub struct Nginx {
    process: Process,
    directory: TempDir,
    pub port: u16,
}

/// A line of the access log.
#[derive(Clone, Debug)]
pub struct Logged {
    pub method: String,
    pub path: String,
    pub status: String,
}

impl Nginx {
    pub fn start() -> Self {
        Self::start_with(&["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "[::1]"], Command::new("nginx"))
    }

    /// Speaks HTTP/2 to clients that know it does, and HTTP/1 to nobody.
    pub fn start_http2() -> Self {
        Self::start_listening(&["127.0.0.1"], "http2", Command::new("nginx"))
    }

    /// `command` starts nginx; a namespace or a cgroup may come before it.
    pub fn start_with(addresses: &[&str], command: Command) -> Self {
        Self::start_listening(addresses, "", command)
    }

    fn start_listening(addresses: &[&str], protocol: &str, mut command: Command) -> Self {
        let directory = TempDir::with_prefix("remora-nginx-").expect("make a directory");
        let port = free_port();
        let root = directory.path().display();
        let listen: String = addresses.iter().map(|address| format!("listen {address}:{port} {protocol} backlog=4096;\n")).collect();
        let configuration = format!(
            "daemon off; user root; worker_processes 2; worker_rlimit_nofile 16384; pid {root}/pid; error_log {root}/error.log;
            events {{ worker_connections 8192; }}
            http {{
              log_format counted '$request_method $request_uri $status';
              access_log {root}/access.log counted buffer=256k;
              client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
              uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
              keepalive_requests 1000000000; keepalive_timeout 300s;
              server {{
                {listen}
                location / {{ return 200 'constant\n'; }}
                location /missing {{ return 404 'missing\n'; }}
                location /busy {{ return 503 'busy\n'; }}
                location /files {{ sendfile on; root {root}; }}
              }}
            }}"
        );
        let path = directory.path().join("nginx.conf");
        std::fs::write(&path, configuration).expect("write nginx.conf");
        let stdin = std::process::Stdio::null();
        let error_log = directory.path().join("error.log");
        let process = Process::spawn(command.arg("-e").arg(error_log).arg("-c").arg(&path).stdin(stdin));
        let mut nginx = Self { process, directory, port };
        nginx.wait_until_it_serves();
        nginx
    }

    /// The pid file appears when the sockets listen; a request would be counted.
    fn wait_until_it_serves(&mut self) {
        let path = self.directory.path().join("pid");
        super::until("nginx to serve", Duration::from_secs(10), || {
            if self.process.has_ended() {
                let log = std::fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default();
                panic!("nginx did not start:\n{log}");
            }
            std::fs::read_to_string(&path).ok().filter(|text| !text.trim().is_empty())
        });
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Of the master; workers answer.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where `/files` are.
    pub fn files(&self) -> PathBuf {
        let files = self.directory.path().join("files");
        std::fs::create_dir_all(&files).expect("make a directory");
        files
    }

    /// Ends nginx in an orderly way, which writes out the rest of the log, and reads it.
    pub fn stop(mut self) -> Vec<Logged> {
        self.process.signal(Signal::SIGQUIT);
        self.process.wait(Duration::from_secs(20));
        let log = std::fs::read_to_string(self.directory.path().join("access.log")).expect("read the access log");
        let logged = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            let mut next = || words.next().unwrap_or_else(|| panic!("a short line in the access log: {line:?}"));
            Logged { method: next(), path: next(), status: next() }
        };
        log.lines().map(logged).collect()
    }
}

pub fn statuses(log: &[Logged]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in log {
        *counts.entry(line.status.clone()).or_insert(0) += 1;
    }
    counts
}
