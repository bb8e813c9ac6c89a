//! A PostgreSQL server of our own with pg_stat_statements, and what that counted.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{sys::signal::Signal, unistd::User};
use tempfile::TempDir;

use super::{
    free_port,
    process::{Process, run},
};

/// Where the work is done; asking for statistics happens in the database `postgres`.
pub const DATABASE: &str = "work";

pub struct Postgres {
    process: Process,
    directory: TempDir,
    pub port: u16,
}

impl Postgres {
    pub fn start() -> Self {
        let directory = TempDir::with_prefix("remora-postgres-").expect("make a directory");
        let user = User::from_name("postgres").expect("read the users").expect("the user postgres of Debian's postgresql");
        nix::unistd::chown(directory.path(), Some(user.uid), Some(user.gid)).expect("give the directory to postgres");
        let data = directory.path().join("data");
        let initdb = ["--auth=trust", "--username=postgres", "--no-sync", "--no-locale", "--encoding=UTF8", "-D"];
        run(as_postgres("initdb").args(initdb).arg(&data));

        let port = free_port();
        let mut server = as_postgres("postgres");
        server.arg("-D").arg(&data);
        for setting in [
            &format!("port={port}"),
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "autovacuum=off",
            "max_connections=300",
            "shared_preload_libraries=pg_stat_statements",
            "pg_stat_statements.max=10000",
            "pg_stat_statements.track=top",
            "log_destination=stderr",
        ] {
            server.args(["-c", setting]);
        }
        let log = std::fs::File::create(directory.path().join("log")).expect("make the server's log");
        let mut process = Process::spawn(server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log));
        process.listens(SocketAddr::from(([127, 0, 0, 1], port)));
        let postgres = Self { process, directory, port };
        super::until("PostgreSQL to accept", std::time::Duration::from_secs(20), || postgres.connect("postgres").ok());
        postgres.psql("postgres", &format!("CREATE EXTENSION pg_stat_statements; CREATE DATABASE {DATABASE}"));
        postgres
    }

    pub fn connect(&self, database: &str) -> Result<postgres::Client, postgres::Error> {
        let mut settings = postgres::Config::new();
        settings.host("127.0.0.1").port(self.port).user("postgres").dbname(database).connect(postgres::NoTls)
    }

    /// A client program pointed at this server and at the database of the work.
    pub fn client(&self, name: &str) -> Command {
        let path = ["/usr/bin", "/usr/local/bin"].map(|directory| Path::new(directory).join(name)).into_iter().find(|path| path.exists());
        let mut command = Command::new(path.unwrap_or_else(|| tool(name)));
        self.environment(&mut command);
        command
    }

    pub fn environment(&self, command: &mut Command) {
        command.env("PGHOST", "127.0.0.1").env("PGPORT", self.port.to_string()).env("PGUSER", "postgres").env("PGDATABASE", DATABASE);
        command.env("PGOPTIONS", "").env("PGSSLMODE", "disable").stdin(Stdio::null());
    }

    /// Runs statements in one session each and returns what psql printed.
    pub fn psql(&self, database: &str, statements: &str) -> String {
        let mut psql = self.client("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        for statement in statements.split(';') {
            psql.args(["-c", statement]);
        }
        run(psql.env("PGDATABASE", database)).stdout
    }

    /// A place for files that the server and its clients can read.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn forget_statistics(&self) {
        self.psql("postgres", "SELECT pg_stat_statements_reset()");
    }

    /// Calls by normalised statement in the database of the work.
    pub fn statistics(&self) -> BTreeMap<String, u64> {
        let mut client = self.connect("postgres").expect("connect to PostgreSQL");
        let query = "SELECT s.query, s.calls FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = $1";
        let mut counts = BTreeMap::new();
        for row in client.query(query, &[&DATABASE]).expect("read pg_stat_statements") {
            let calls: i64 = row.get(1);
            *counts.entry(canonical(row.get(0))).or_insert(0) += calls as u64;
        }
        counts
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if !self.process.has_ended() {
            // Fast shutdown: sessions are ended, nothing is waited for.
            self.process.signal(Signal::SIGINT);
            self.process.wait(std::time::Duration::from_secs(20));
        }
    }
}

/// A server program of the newest PostgreSQL here.
fn tool(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("Debian's postgresql under /usr/lib/postgresql");
    let path = |version: std::io::Result<std::fs::DirEntry>| version.expect("read a directory").path().join("bin").join(name);
    versions.map(path).filter(|path| path.exists()).max().unwrap_or_else(|| panic!("no {name} under /usr/lib/postgresql"))
}

/// PostgreSQL refuses to run as root. `setpriv` becomes the program, so the pid is the server's own.
fn as_postgres(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(tool(name)).current_dir("/");
    command
}

/// What two normalisers of the same statement have in common: parameters and literals are `?`, their sign, blanks and case are gone, and a list
/// of them is one. pg_stat_statements leaves literals in utility statements and after GROUP BY.
pub fn canonical(statement: &str) -> String {
    let mut text = String::with_capacity(statement.len());
    let mut characters = statement.trim().trim_end_matches(';').chars().peekable();
    let mut in_word = false;
    while let Some(character) = characters.next() {
        match character {
            '$' | '0'..='9' if !in_word => {
                while characters.next_if(|next| next.is_ascii_digit() || *next == '.').is_some() {}
                text.push('?');
            }
            '\'' => {
                while characters.next().is_some_and(|next| next != '\'') {}
                text.push('?');
            }
            blank if blank.is_whitespace() => {}
            other => text.extend(other.to_lowercase()),
        }
        in_word = character.is_alphanumeric() || character == '_';
    }
    text = text.replace("-?", "?");
    while text.contains("?,?") {
        text = text.replace("?,?", "?");
    }
    text
}
