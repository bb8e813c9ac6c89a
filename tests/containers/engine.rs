//! Docker as a user calls it, on the engine of `DOCKER_HOST`. What is made here is gone with its value.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use crate::support::{
    agent::Agent,
    free_port,
    process::{Ended, run_within},
};

/// An image may have to be built first.
const PATIENCE: Duration = Duration::from_secs(300);

pub fn docker(words: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(words).stdin(Stdio::null());
    command
}

/// Runs to a good end, and gives what it wrote.
#[track_caller]
pub fn done(mut command: Command) -> String {
    let ended = run_within(&mut command, PATIENCE);
    assert!(ended.status.success(), "{command:?} ended with {}:\n{}{}", ended.status, ended.stdout, ended.stderr);
    ended.stdout.trim_end().to_owned()
}

pub fn inspect(name: &str, format: &str) -> String {
    done(docker(&["inspect", "--format", format, name]))
}

/// The image under test: `REMORA_IMAGE`, else that of `make image`.
pub fn image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let image = std::env::var("REMORA_IMAGE").unwrap_or_else(|_| concat!("remora:", env!("CARGO_PKG_VERSION")).to_owned());
        let found = run_within(&mut docker(&["image", "inspect", &image]), PATIENCE);
        assert!(found.status.success(), "no image {image}: `make test-containers` starts an engine and makes it\n{}", found.stderr);
        image
    })
}

/// Builds what is watched: `remora-test-web:1` and `remora-test-visitor:1`.
pub fn build_shop() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        for name in ["web", "visitor"] {
            done(docker(&["build", "--quiet", "--target", name, "--tag", &format!("remora-test-{name}:1"), folder()]));
        }
    });
}

fn folder() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/containers")
}

/// The engine's socket on this machine.
fn socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    host.strip_prefix("unix://").unwrap_or_else(|| panic!("DOCKER_HOST={host}: not on this machine")).into()
}

/// What the agent is given of the machine, as words of `docker run`.
#[derive(Clone, Debug)]
pub struct Grants {
    pub privileges: Vec<String>,
    pub pid: bool,
    pub network: bool,
    pub cgroups: bool,
    pub socket: bool,
}

impl Grants {
    pub fn privileged() -> Self {
        Self { privileges: vec!["--privileged".to_owned()], pid: true, network: true, cgroups: true, socket: true }
    }

    /// No capabilities but these, on a file system that cannot be written.
    pub fn capabilities(names: &[&str]) -> Self {
        const FIXED: [&str; 5] = [
            "--cap-drop=ALL",
            "--read-only",
            "--security-opt=no-new-privileges",
            "--security-opt=seccomp=unconfined",
            "--security-opt=apparmor=unconfined",
        ];
        let mut privileges = FIXED.map(str::to_owned).to_vec();
        privileges.extend(names.iter().map(|name| format!("--cap-add={name}")));
        Self { privileges, ..Self::privileged() }
    }

    fn words(&self) -> Vec<String> {
        let mut words = self.privileges.clone();
        let mut add = |given: bool, word: &str| {
            if given {
                words.push(word.to_owned());
            }
        };
        add(true, "--cgroupns=host");
        add(self.pid, "--pid=host");
        add(self.network, "--network=host");
        add(self.cgroups, "--volume=/sys/fs/cgroup:/sys/fs/cgroup:ro");
        add(self.socket, &format!("--volume={}:/var/run/docker.sock:ro", socket().display()));
        words
    }
}

/// The exact list, in the words of this engine: those that are older than CAP_BPF have CAP_SYS_ADMIN for it.
pub fn exact() -> &'static [&'static str] {
    static EXACT: OnceLock<&[&str]> = OnceLock::new();
    EXACT.get_or_init(|| {
        let made = run_within(&mut docker(&["create", "--cap-add=BPF", image()]), PATIENCE);
        if made.status.success() {
            done(docker(&["rm", made.stdout.trim()]));
            return &["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "NET_ADMIN"];
        }
        assert!(made.stderr.contains("BPF"), "{}", made.stderr);
        &["SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH", "NET_ADMIN"]
    })
}

/// `remora` in a container, to its end.
pub fn run(grants: &Grants, words: &[&str]) -> Ended {
    run_within(docker(&["run", "--rm"]).args(grants.words()).arg(image()).args(words), PATIENCE)
}

/// `remora run --output json` in a container, and ready. Its network must be the host's. What else goes on here is none of the
/// test's business, so the agent is told the server's port.
pub fn watch(grants: &Grants, name: &str, port: u16) -> Agent {
    let mut command = docker(&["run", "--rm", "--name", name]);
    command.args(grants.words()).arg(image()).args(["run", "--output", "json", "--port", &port.to_string()]);
    Agent::start_by(command, ([127, 0, 0, 1], free_port()).into(), true)
}

/// The services of `shop.yaml` as a compose project.
pub struct Shop {
    project: String,
}

impl Shop {
    /// With its server up, which listens.
    pub fn open(project: &str) -> Self {
        build_shop();
        let shop = Self { project: project.to_owned() };
        shop.close();
        done(shop.compose(&["up", "--detach", "web"]));
        let probe = "until curl --silent --output /dev/null http://web:7180/ready; do sleep 0.1; done";
        done(docker(&["run", "--rm", "--network", &shop.network(), "remora-test-visitor:1", "timeout", "20", "sh", "-c", probe]));
        shop
    }

    fn compose(&self, words: &[&str]) -> Command {
        // A plugin of the client nowadays, a program of its own before.
        static PLUGIN: OnceLock<bool> = OnceLock::new();
        let plugin = *PLUGIN.get_or_init(|| run_within(&mut docker(&["compose", "version"]), PATIENCE).status.success());
        let mut command = if plugin { docker(&["compose"]) } else { Command::new("docker-compose") };
        let file = Path::new(folder()).join("shop.yaml");
        command.arg("--project-name").arg(&self.project).arg("--file").arg(file).args(words).stdin(Stdio::null());
        command
    }

    pub fn network(&self) -> String {
        format!("{}_default", self.project)
    }

    /// Starts a service, and waits for its container's end.
    pub fn complete(&self, service: &str) {
        done(self.compose(&["up", "--detach", "--no-deps", service]));
        assert_eq!(done(docker(&["wait", &self.container(service)])), "0", "{service}: {}", self.log(service));
    }

    /// Full id of the service's container.
    pub fn container(&self, service: &str) -> String {
        done(self.compose(&["ps", "--quiet", "--all", service]))
    }

    pub fn log(&self, service: &str) -> String {
        let ended = run_within(&mut docker(&["logs", &self.container(service)]), PATIENCE);
        ended.stdout + &ended.stderr
    }

    fn close(&self) {
        run_within(&mut self.compose(&["down", "--timeout", "1"]), PATIENCE);
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.close();
    }
}
