//! An API server with etcd, and objects in it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use futures_util::{StreamExt, stream};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

/// Ends with the value.
pub struct Server {
    state: PathBuf,
    pub kubeconfig: PathBuf,
    pub kubectl: PathBuf,
    /// Port on loopback.
    pub port: u16,
}

impl Server {
    pub fn start(name: &str) -> Self {
        let state = PathBuf::from(format!("/tmp/remora-{name}-{}", std::process::id()));
        let out = cluster(&["up", "--api-only"], &state);
        let setting =
            |key: &str| out.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key} in {out}")).to_owned();
        let kubeconfig = setting("KUBECONFIG=").into();
        let kubectl = setting("KUBECTL=").into();
        let port = setting("API_SERVER=").rsplit(':').next().unwrap().parse().unwrap();
        Self { state, kubeconfig, kubectl, port }
    }

    pub fn stop(&self, component: &str) {
        cluster(&["stop", component], &self.state);
    }

    pub fn resume(&self, component: &str) {
        cluster(&["start", component], &self.state);
    }

    /// A kubeconfig that leads to another port of loopback.
    pub fn kubeconfig_at(&self, port: u16) -> PathBuf {
        let text = std::fs::read_to_string(&self.kubeconfig).unwrap();
        self.file(&format!("{port}.kubeconfig"), &text.replace(&format!(":{}", self.port), &format!(":{port}")))
    }

    /// A file that goes with the server.
    pub fn file(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.state.join(name);
        std::fs::write(&path, contents).unwrap();
        path
    }

    pub async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).unwrap();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        config.proxy_url = None;
        Client::try_from(config).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new(script()).arg("down").arg(&self.state).output();
    }
}

fn script() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/cluster.sh");
    std::env::var_os("REMORA_TEST_CLUSTER").map_or(own, PathBuf::from)
}

fn cluster(arguments: &[&str], state: &Path) -> String {
    let out = Command::new(script()).args(arguments).arg(state).output().unwrap();
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "cluster.sh {arguments:?}: {error}");
    String::from_utf8(out.stdout).unwrap()
}

/// One request; the object that is answered.
pub async fn ask(client: &Client, method: &str, path: &str, body: &Value) -> Value {
    let kind = if method == "PATCH" { "application/strategic-merge-patch+json" } else { "application/json" };
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.body(if body.is_null() { Vec::new() } else { body.to_string().into_bytes() }).unwrap();
    client.request(request).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// All of them, some at a time, in no order; the answers in order.
pub async fn ask_all(client: &Client, method: &str, requests: Vec<(String, Value)>) -> Vec<Value> {
    let one = |(path, body): (String, Value)| async move { ask(client, method, &path, &body).await };
    stream::iter(requests).map(one).buffered(24).collect().await
}
