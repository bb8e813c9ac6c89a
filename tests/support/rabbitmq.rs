//! A RabbitMQ node of our own, with its own port mapper.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{free_port, process::Process, until};

/// RabbitMQ starts within seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct RabbitMq {
    /// Stopped in this order: the node needs its mapper.
    node: Process,
    _mapper: Process,
    _directory: TempDir,
    pub port: u16,
}

impl RabbitMq {
    pub fn start() -> Self {
        let directory = TempDir::with_prefix("remora-rabbitmq-").expect("make a directory");
        let place = |name: &str| directory.path().join(name);
        let [port, distribution, mapping] = [free_port(), free_port(), free_port()];

        // The node would start a mapper as a daemon that outlives it: here it finds one.
        let mut epmd = Command::new("epmd");
        epmd.args(["-address", "127.0.0.1", "-port", &mapping.to_string()]);
        let mut mapper = Process::spawn(epmd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
        mapper.listens(SocketAddr::from(([127, 0, 0, 1], mapping)));

        std::fs::write(place("plugins"), "[].\n").expect("write the list of plugins");
        let log = std::fs::File::create(place("out")).expect("make the server's log");
        // Debian's /usr/sbin/rabbitmq-server becomes another user; this is what it runs then.
        let mut server = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
        server.env("HOME", directory.path()).env("RABBITMQ_NODENAME", format!("remora-{port}@localhost"));
        server.env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1").env("RABBITMQ_NODE_PORT", port.to_string());
        server.env("RABBITMQ_DIST_PORT", distribution.to_string()).env("ERL_EPMD_PORT", mapping.to_string());
        server.env("RABBITMQ_MNESIA_BASE", place("data")).env("RABBITMQ_LOG_BASE", place("log"));
        server.env("RABBITMQ_ENABLED_PLUGINS_FILE", place("plugins")).env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        // The script becomes the node, so that the pid is the node's own.
        server.env("RUNNING_UNDER_SYSTEMD", "true").env_remove("NOTIFY_SOCKET");
        let mut node = Process::spawn(server.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log));
        until("RabbitMQ to start", PATIENCE, || {
            let said = std::fs::read_to_string(place("out")).expect("read the server's log");
            assert!(!node.has_ended(), "RabbitMQ ended before it was ready:\n{said}");
            said.contains("completed with").then_some(())
        });
        Self { node, _mapper: mapper, _directory: directory, port }
    }

    /// One of librabbitmq's command line clients, logging in.
    pub fn tool(&self, name: &str, password: &str) -> Command {
        let mut command = Command::new(name);
        command.args(["--url", &format!("amqp://guest:{password}@127.0.0.1:{}", self.port)]);
        command
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        if !self.node.has_ended() {
            // Nothing of it is kept, so there is nothing to be saved.
            self.node.signal(Signal::SIGKILL);
            self.node.wait(Duration::from_secs(10));
        }
    }
}
