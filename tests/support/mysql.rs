//! A MariaDB server of our own, and what it counted.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{
    free_port,
    process::{Process, run},
    until,
};

/// Where the work is done, and by whom.
pub const DATABASE: &str = "work";
pub const USER: &str = "remora";
pub const PASSWORD: &str = "hunter2";

pub struct MariaDb {
    process: Process,
    directory: TempDir,
    pub port: u16,
}

impl MariaDb {
    pub fn start() -> Self {
        let directory = TempDir::with_prefix("remora-mariadb-").expect("make a directory");
        let data = directory.path().join("data");
        let datadir = format!("--datadir={}", data.display());
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal", "--skip-test-db", &datadir]);
        run(install.stdin(Stdio::null()));

        let port = free_port();
        let socket = directory.path().join("socket");
        let log = std::fs::File::create(directory.path().join("log")).expect("make the server's log");
        let mut server = Command::new("/usr/sbin/mariadbd");
        server.args(["--no-defaults", "--user=root", &datadir, &format!("--socket={}", socket.display()), &format!("--port={port}")]);
        server.args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--local-infile=1", "--max-allowed-packet=64M"]);
        server.args(["--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync"]);
        let mut process = Process::spawn(server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log));
        process.listens(SocketAddr::from(([127, 0, 0, 1], port)));
        let server = Self { process, directory, port };
        let root = || {
            let mut root = Command::new("mariadb");
            root.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names", &format!("--socket={}", socket.display())]);
            root.stdin(Stdio::null());
            root
        };
        until("MariaDB to accept", Duration::from_secs(20), || {
            root().args(["-e", "SELECT 1"]).stderr(Stdio::null()).output().is_ok_and(|output| output.status.success()).then_some(())
        });
        run(root().arg("-e").arg(format!(
            "CREATE DATABASE {DATABASE}; CREATE USER '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO '{USER}'@'127.0.0.1'"
        )));
        server
    }

    /// The server's own command-line client, pointed at the database of the work by TCP.
    pub fn client(&self) -> Command {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "--host=127.0.0.1", "--batch", "--skip-column-names", "--local-infile=1"]);
        client.args([&format!("--port={}", self.port), &format!("--user={USER}"), &format!("--password={PASSWORD}"), DATABASE]);
        client.stdin(Stdio::null());
        client
    }

    /// Debian's interpreter, where Debian's drivers are, running a program that finds server and login in its arguments.
    pub fn python(&self, program: &str) -> Command {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", program, &self.port.to_string(), USER, PASSWORD, DATABASE]).arg(self.directory.path());
        python.stdin(Stdio::null());
        python
    }

    /// Runs statements and returns what the client printed.
    pub fn run(&self, statements: &str) -> String {
        run(self.client().args(["-e", statements])).stdout
    }

    /// The server's counters of commands (`Com_select` is "select"), and of the statements it was sent ("Questions").
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let text = self.run("SHOW GLOBAL STATUS WHERE Variable_name LIKE 'Com\\_%' OR Variable_name = 'Questions'");
        let counter = |line: &str| {
            let (name, value) = line.split_once('\t').expect("a name and a value");
            (name.trim_start_matches("Com_").to_owned(), value.parse().expect("a number"))
        };
        text.lines().map(counter).collect()
    }

    /// A place for files that the server and its clients can read.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        if !self.process.has_ended() {
            self.process.signal(Signal::SIGTERM);
            self.process.wait(Duration::from_secs(20));
        }
    }
}
