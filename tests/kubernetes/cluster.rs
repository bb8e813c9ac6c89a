//! The node of `cluster.sh`, and kubectl on it. One cluster serves all tests of this program; it is taken down by `make test-kubernetes`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

static TURN: Mutex<()> = Mutex::new(());

/// Where `cluster.sh` says that everything is.
pub struct Cluster {
    variables: HashMap<String, String>,
    /// The agent sees the whole node: one test at a time.
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// The node with the shop on it and no agent.
    pub fn with_shop() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        static VARIABLES: OnceLock<HashMap<String, String>> = OnceLock::new();
        let variables = VARIABLES.get_or_init(|| {
            let variables = output(script().args(["up"]));
            output(script().args(["shop"]));
            let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
            variables.lines().filter_map(pair).collect()
        });
        Self { variables: variables.clone(), _turn: turn }
    }

    pub fn variable(&self, name: &str) -> &str {
        self.variables.get(name).unwrap_or_else(|| panic!("cluster.sh tells no {name}"))
    }

    /// Runs kubectl; panics with what it said when it fails.
    pub fn kubectl(&self, arguments: &str) -> String {
        output(&mut self.kubectl_command(arguments))
    }

    /// The same, for what may fail.
    pub fn try_kubectl(&self, arguments: &str) -> Output {
        self.kubectl_command(arguments).output().unwrap()
    }

    pub fn kubectl_command(&self, arguments: &str) -> Command {
        let mut command = Command::new(self.variable("KUBECTL"));
        command.env("KUBECONFIG", self.variable("KUBECONFIG")).args(arguments.split_whitespace()).current_dir(root());
        command
    }

    pub fn docker(&self, arguments: &[&str]) -> String {
        self.try_docker(arguments).unwrap_or_else(|error| panic!("docker {arguments:?}: {error}"))
    }

    /// What it printed, or what it complained of.
    pub fn try_docker(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("docker").env("DOCKER_HOST", self.variable("DOCKER_HOST")).args(arguments).output().unwrap();
        let said = if output.status.success() { output.stdout } else { output.stderr };
        let text = String::from_utf8_lossy(&said).into_owned();
        if output.status.success() { Ok(text) } else { Err(text) }
    }

    /// GET of the agent's HTTP server.
    pub fn agent(&self, path: &str) -> String {
        let url = format!("http://{}:7117{path}", self.variable("NODE_IP"));
        output(Command::new("curl").args(["--silent", "--show-error", "--fail", &url]))
    }
}

/// `root()/tests/kubernetes/cluster.sh`.
fn script() -> Command {
    Command::new(root().join("tests/kubernetes/cluster.sh"))
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

pub fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// Waits for a condition that nothing reports by itself.
pub fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < patience, "waited {patience:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
