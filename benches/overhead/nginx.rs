//! The watched server: nginx that answers every request with the same few bytes, so that there is little else to pay for than sockets.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const START_LIMIT: Duration = Duration::from_secs(10);

/// A running nginx. Dropping it ends master and workers.
#[derive(Debug)]
pub struct Nginx {
    master: Child,
    pub address: SocketAddr,
}

impl Nginx {
    /// One worker a processor, with room for `connections` open connections in all.
    pub fn start(connections: usize) -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nginx");
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let address =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).context("looking for a free port")?;
        let configuration = folder.join("nginx.conf");
        fs::write(&configuration, configuration_text(&folder, address, connections))
            .with_context(|| format!("writing {}", configuration.display()))?;
        let master = Command::new("nginx")
            .arg("-c")
            .arg(&configuration)
            .arg("-p")
            .arg(&folder)
            .stdin(Stdio::null())
            .stderr(fs::File::create(folder.join("stderr"))?)
            .spawn()
            .context("starting nginx: is it installed?")?;
        let nginx = Self { master, address };
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline {
                bail!("nginx does not listen on {address}: {}", fs::read_to_string(folder.join("stderr")).unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master has to end its workers itself, so no SIGKILL; nothing is left to do if it has gone already.
        if let Ok(pid) = i32::try_from(self.master.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        drop(self.master.wait());
    }
}

fn configuration_text(folder: &Path, address: SocketAddr, connections: usize) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
user root;
worker_processes auto;
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections {files}; }}
http {{
    access_log off;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen {address} backlog=4096;
        location / {{ default_type text/plain; return 200 'a constant answer of a few bytes\\n'; }}
    }}
}}
",
        files = connections + 512
    )
}
