//! A TLS server that ends its own encryption, and its certificate.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::{
    free_port,
    process::{Process, run},
    until,
};

/// What the certificate is for.
pub const SERVER_NAME: &str = "shop.test";

/// `openssl s_server`, answering every request with a page.
pub struct TlsServer {
    _process: Process,
    directory: TempDir,
    pub address: SocketAddr,
}

impl TlsServer {
    /// Listens on the address in the place where `openssl` is started by `command`.
    pub fn start(address: &str, mut command: Command) -> Self {
        let directory = TempDir::with_prefix("remora-tls-").expect("make a directory");
        let (key, certificate) = (directory.path().join("key.pem"), directory.path().join("certificate.pem"));
        let mut request = Command::new("openssl");
        request.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
        request.args(["-subj", &format!("/CN={SERVER_NAME}"), "-addext", &format!("subjectAltName=DNS:{SERVER_NAME}")]);
        run(request.arg("-keyout").arg(&key).arg("-out").arg(&certificate));
        let address: SocketAddr = format!("{address}:{}", free_port()).parse().expect("an address");
        command.args(["s_server", "-www", "-alpn", "http/1.1", "-accept", &address.to_string()]);
        command.arg("-key").arg(&key).arg("-cert").arg(&certificate);
        let log = directory.path().join("log");
        let out = std::fs::File::create(&log).expect("make the server's log");
        // It reads commands; an end of them would be its own.
        let process = Process::spawn(command.stdin(Stdio::piped()).stdout(out).stderr(Stdio::null()));
        let listens = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("ACCEPT")).then_some(());
        until("openssl to listen", Duration::from_secs(10), listens);
        Self { _process: process, directory, address }
    }

    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }
}
