//! WebSocket servers and clients of two Python libraries (`websocket.py`).

use std::{
    io::BufReader,
    process::{Command, Stdio},
};

use super::process::{Process, listening_port, run};

/// Both are Debian's: python3-websockets and python3-aiohttp.
pub const LIBRARIES: [&str; 2] = ["websockets", "aiohttp"];

fn program(arguments: &[&str]) -> Command {
    let mut python = Command::new("/usr/bin/python3");
    python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/websocket.py")).args(arguments).stdin(Stdio::null());
    python
}

pub struct Server {
    _process: Process,
    pub port: u16,
}

impl Server {
    pub fn start(library: &str) -> Self {
        let mut process = Process::spawn(program(&["serve", library]).stdout(Stdio::piped()).stderr(Stdio::null()));
        let port = listening_port(&mut BufReader::new(process.stdout()));
        Self { _process: process, port }
    }
}

/// Every conversation of a client, once.
pub fn talk(library: &str, port: u16) {
    run(&mut program(&["talk", library, &port.to_string()]));
}
