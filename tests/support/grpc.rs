//! gRPC servers and clients on C-core (`grpc_peer.py`) and in Go (`grpc_peer.go`): two implementations that share no code.

use std::{
    io::BufReader,
    path::PathBuf,
    process::{Command, Stdio},
    sync::OnceLock,
};

use super::process::{Process, listening_port, run};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Python,
    Go,
}

impl Language {
    pub const ALL: [Language; 2] = [Language::Python, Language::Go];

    fn program(self, arguments: &[&str]) -> Command {
        let mut command = match self {
            Language::Python => {
                let mut python = Command::new("/usr/bin/python3");
                python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/grpc_peer.py"));
                python
            }
            Language::Go => Command::new(go_program()),
        };
        command.args(arguments).stdin(Stdio::null());
        command
    }
}

/// The program in Go, built from Debian's packages once a run.
fn go_program() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("grpc-peer");
        let mut go = Command::new("go");
        go.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").arg("build").arg("-o").arg(&program);
        run(go.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/grpc_peer.go")));
        program
    })
}

/// The server and client of gRPC-Web (`grpc_web.py`).
fn web(arguments: &[&str]) -> Command {
    let mut python = Command::new("/usr/bin/python3");
    python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/grpc_web.py")).args(arguments).stdin(Stdio::null());
    python
}

/// Every call of gRPC-Web, as often as [`WEB_CALLS`] says.
pub fn talk_web(port: u16) {
    run(&mut web(&["talk", &port.to_string()]));
}

pub struct Server {
    _process: Process,
    pub port: u16,
}

impl Server {
    pub fn start(language: Language) -> Self {
        Self::of(language.program(&["serve"]))
    }

    pub fn web() -> Self {
        Self::of(web(&["serve"]))
    }

    fn of(mut program: Command) -> Self {
        let mut process = Process::spawn(program.stdout(Stdio::piped()).stderr(Stdio::null()));
        let port = listening_port(&mut BufReader::new(process.stdout()));
        Self { _process: process, port }
    }
}

/// Every call of a client, as often as [`CALLS`] says. The server ends with the last.
pub fn talk(language: Language, port: u16) {
    run(&mut language.program(&["talk", &port.to_string()]));
}

/// A method, its status, messages of either side, and how often the clients call it so.
pub const CALLS: [(&str, &str, u64, u64, u64); 11] = [
    ("Chat", "0", 12, 12, 5),
    ("Collect", "0", 10, 1, 5),
    ("Die", "14", 1, 0, 1),
    ("List", "0", 1, 10, 5),
    ("Nothing", "12", 1, 0, 1),
    ("Say", "0", 1, 1, 207),
    ("Say", "14", 1, 0, 2),
    ("Say", "5", 1, 0, 7),
    ("Slow", "4", 1, 0, 3),
    ("Watch", "1", 1, 1, 4),
    ("Watch", "4", 1, 1, 2),
];

/// As [`CALLS`], for gRPC-Web: in three encodings.
pub const WEB_CALLS: [(&str, &str, u64, u64, u64); 7] = [
    ("Fail", "5", 1, 0, 12),
    ("Gone", "14", 1, 0, 3),
    ("Half", "13", 1, 1, 9),
    ("List", "0", 1, 10, 15),
    ("Say", "0", 1, 1, 90),
    ("Say", "0", 2, 2, 9),
    ("Slow", "0", 1, 1, 6),
];

/// Plain requests beside them.
pub const WEB_PLAIN: usize = 15;
