//! The agent with the service account and the role of the manifests, and with each verb of that role taken away: what is missing is
//! told by name, the rest goes on, and what is given back is used without a restart.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use kube::Client;
use remora::attribution::kubernetes::{Kind, Verb};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{
    bystander::Bystander,
    cluster::{output, root, until},
    proxy::Proxy,
    server::{Server, ask},
};

const ACCOUNT: &str = "system:serviceaccount:remora:remora";
const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/remora";
const POD: &str = "10.10.0.1";
const JOB_POD: &str = "10.10.0.2";
const NODE: &str = "192.168.7.1";
const PATIENCE: Duration = Duration::from_secs(20);

/// An API server, and the requests of its administrator.
struct Bed {
    server: Server,
    handle: Handle,
    client: Client,
    /// ClusterIP of the Service.
    service: String,
}

/// `remora agent`; ends with the value.
struct Agent {
    child: Child,
    url: String,
    log: PathBuf,
}

#[test]
fn the_role_is_enough_and_every_verb_of_it_is_missed_by_name() {
    let bed = Bed::start();
    let kubeconfig = bed.account(bed.server.port);
    bed.may_do_what_is_watched();

    // Without a cut a watch is not asked for again.
    let proxy = bed.handle.block_on(Proxy::start(bed.server.port));
    let agent = Agent::start(&bed.account(proxy.port), "whole");
    agent.until_only(&[]);
    assert!(!agent.log().contains("WARN"), "{}", agent.log());
    bed.knows(&kubeconfig, None);
    assert_eq!(doctor(&kubeconfig), [""; 0]);

    let began = Instant::now();
    for (kind, verb) in Kind::ALL.into_iter().flat_map(|kind| Verb::ALL.map(|verb| (kind, verb))) {
        bed.grant_all_but(|own, asked| own == kind && asked == verb);
        let began = Instant::now();
        let fresh = Agent::start(&kubeconfig, &format!("without-{}-{}", verb.name(), kind.name()));
        let sentence = fresh.until_only(&[kind]);
        for part in [verb.name(), &kind.full_name(), &format!("{} resource \"{}\"", verb.name(), kind.name()), "grant list and watch"] {
            assert!(sentence.contains(part), "{part} is not in {sentence}");
        }
        let warning = format!("the cluster role lacks {} on {}, which costs {}", verb.name(), kind.full_name(), kind.use_of());
        assert_eq!(fresh.log().matches("WARN").count(), 1, "{}", fresh.log());
        assert!(fresh.log().contains(&warning), "{}", fresh.log());
        bed.knows(&kubeconfig, Some(kind));
        let lacking = format!("{}: the role lacks {} on {}", kind.name(), verb.name(), kind.full_name());
        assert_eq!(doctor(&kubeconfig), [lacking]);
        let told = began.elapsed();
        bed.grant_all_but(|_, _| false);
        let began = Instant::now();
        fresh.until_only(&[]);
        assert!(fresh.log().contains(&format!("the API server tells of {} now", kind.full_name())), "{}", fresh.log());
        println!(
            "without {} on {}: {sentence} (told and checked in {told:.1?}, synced {:.1?} after it was granted)",
            verb.name(),
            kind.full_name(),
            began.elapsed()
        );
    }
    println!("twelve verbs in {:.1?}", began.elapsed());

    agent.until_only(&[]);
    bed.grant_all_but(|_, verb| verb == Verb::Watch);
    proxy.cut(false);
    agent.until_only(&Kind::ALL);
    assert!(agent.status()["kubernetes"]["kinds"].as_array().unwrap().iter().all(|kind| kind["objects"].as_u64() > Some(0)));
    bed.grant_all_but(|_, _| false);
    agent.until_only(&[]);
    println!("of a running agent: {}", agent.log());
}

/// What the doctor says is wrong with the cluster.
fn doctor(kubeconfig: &Path) -> Vec<String> {
    let report = program().args(["doctor", "--json", "--kubeconfig"]).arg(kubeconfig).output().unwrap();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let findings: Vec<_> = report["findings"].as_array().unwrap().iter().filter(|finding| finding["topic"] == "Kubernetes").collect();
    assert_eq!(findings.len(), 1 + Kind::ALL.len(), "{findings:#?}");
    let wrong = findings.into_iter().filter(|finding| finding["state"] != "ok");
    wrong.map(|finding| format!("{}: {}", finding["name"].as_str().unwrap(), finding["found"].as_str().unwrap())).collect()
}

/// The built program, whatever is set around this test.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    for (variable, _) in std::env::vars_os().filter(|(variable, _)| variable.to_string_lossy().starts_with("REMORA_")) {
        command.env_remove(variable);
    }
    command
}

impl Bed {
    fn start() -> Self {
        let server = Server::start("rbac");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        let client = handle.block_on(server.client());
        let mut bed = Self { server, handle, client, service: String::new() };
        let manifests = std::fs::read_to_string(root().join("deploy/kubernetes/remora.yaml")).unwrap();
        let wanted = ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"];
        let is_wanted = |part: &&str| wanted.iter().any(|kind| part.lines().any(|line| line == format!("kind: {kind}")));
        let objects: Vec<_> = manifests.split("\n---\n").filter(is_wanted).collect();
        let file = bed.server.file("account.yaml", &objects.join("\n---\n"));
        println!("{}", bed.kubectl(&["apply", "-f", file.to_str().unwrap()]));
        bed.populate();
        bed
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        self.handle.block_on(ask(&self.client, method, path, body))
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        output(Command::new(&self.server.kubectl).env("KUBECONFIG", &self.server.kubeconfig).args(arguments))
    }

    /// Something of each kind.
    fn populate(&mut self) {
        self.ask("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "shop"}}));
        self.ask("POST", "/api/v1/nodes", &json!({"metadata": {"name": "node-1"}}));
        let addresses = json!({"status": {"addresses": [{"type": "InternalIP", "address": NODE}]}});
        self.ask("PATCH", "/api/v1/nodes/node-1/status", &addresses);
        let owner = |version: &str, kind: &str, name: &str, uid: &Value| {
            let owner = json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true});
            json!([owner])
        };
        let containers = json!([{"name": "main", "image": "registry/web:1"}]);
        let labels = json!({"app": "web", "pod-template-hash": "5d"});
        let set = json!({
            "metadata": {"name": "web-5d", "labels": labels, "ownerReferences": owner("apps/v1", "Deployment", "web", &json!("x"))},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}},
        });
        let set = self.ask("POST", "/apis/apps/v1/namespaces/shop/replicasets", &set);
        let job = json!({
            "metadata": {"name": "report-1", "ownerReferences": owner("batch/v1beta1", "CronJob", "report", &json!("y"))},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": containers}}},
        });
        let job = self.ask("POST", "/apis/batch/v1/namespaces/shop/jobs", &job);
        let pod = |name: &str, labels: Value, owner: Value, address: &str| {
            let spec = json!({"nodeName": "node-1", "containers": containers});
            let made = json!({"metadata": {"name": name, "labels": labels, "ownerReferences": owner}, "spec": spec});
            let made = self.ask("POST", "/api/v1/namespaces/shop/pods", &made);
            let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "hostIP": NODE}});
            self.ask("PATCH", &format!("/api/v1/namespaces/shop/pods/{name}/status"), &status);
            made["metadata"]["uid"].clone()
        };
        let web = pod("web-5d-1", labels, owner("apps/v1", "ReplicaSet", "web-5d", &set["metadata"]["uid"]), POD);
        pod("report-1-x", json!({}), owner("batch/v1", "Job", "report-1", &job["metadata"]["uid"]), JOB_POD);
        let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80, "targetPort": 8080}]}});
        let service = self.ask("POST", "/api/v1/namespaces/shop/services", &service);
        self.service = service["spec"]["clusterIP"].as_str().unwrap().to_owned();
        let target = json!({"kind": "Pod", "name": "web-5d-1", "namespace": "shop", "uid": web});
        let slice = json!({
            "metadata": {"name": "web-x", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": [POD], "conditions": {"ready": true}, "targetRef": target}],
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        });
        self.ask("POST", "/apis/discovery.k8s.io/v1beta1/namespaces/shop/endpointslices", &slice);
    }

    /// A kubeconfig with a token of the account, for the API server at a port.
    fn account(&self, port: u16) -> PathBuf {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
        let answer = self.ask("POST", "/api/v1/namespaces/remora/serviceaccounts/remora/token", &request);
        let admin = std::fs::read_to_string(&self.server.kubeconfig).unwrap();
        let authority = admin.lines().find_map(|line| line.trim().strip_prefix("certificate-authority-data: ")).unwrap();
        let server = json!({"server": format!("https://127.0.0.1:{port}"), "certificate-authority-data": authority});
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": "remora", "user": {"token": answer["status"]["token"]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "remora"}}],
        });
        self.server.file(&format!("account-{port}.kubeconfig"), &config.to_string())
    }

    /// What kubectl lists is what the watch asks for, and what everybody may.
    fn may_do_what_is_watched(&self) {
        let list = self.kubectl(&["auth", "can-i", "--list", &format!("--as={ACCOUNT}")]);
        println!("kubectl auth can-i --list --as={ACCOUNT}\n{list}");
        let of_resources = |line: &&str| !line.starts_with(' ') && !line.starts_with("selfsubject");
        let granted: BTreeSet<_> = list
            .lines()
            .skip(1)
            .filter(of_resources)
            .map(|line| (line.split_whitespace().next().unwrap().to_owned(), line.rsplit_once("   ").unwrap().1.trim().to_owned()))
            .collect();
        assert_eq!(granted, Kind::ALL.iter().map(|kind| (kind.full_name(), "[list watch]".to_owned())).collect());
    }

    /// Replaces the rules of the role, and waits until the API server goes by them.
    fn grant_all_but(&self, is_lacking: impl Fn(Kind, Verb) -> bool) {
        let all = || Kind::ALL.into_iter().flat_map(|kind| Verb::ALL.map(|verb| (kind, verb)));
        let rules: Vec<_> = all()
            .filter(|(kind, verb)| !is_lacking(*kind, *verb))
            .map(|(kind, verb)| json!({"apiGroups": [kind.group()], "resources": [kind.name()], "verbs": [verb.name()]}))
            .collect();
        self.ask("PATCH", ROLE, &json!({"rules": rules}));
        for (kind, verb) in all() {
            let attributes = json!({"verb": verb.name(), "group": kind.group(), "resource": kind.name()});
            let review = json!({"spec": {"user": ACCOUNT, "resourceAttributes": attributes}});
            until("the role is in force", PATIENCE, || {
                let answer = self.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", &review);
                (answer["status"]["allowed"].as_bool() == Some(!is_lacking(kind, verb))).then_some(())
            });
        }
    }

    /// What is named where all is known but one kind.
    fn knows(&self, kubeconfig: &Path, missing: Option<Kind>) {
        let mut bystander = Bystander::start(kubeconfig);
        bystander.watch();
        until("the others are synced", PATIENCE, || {
            let is_right = |kind: &Kind, state: &str| state == if Some(*kind) == missing { "forbidden" } else { "synced" };
            bystander.health().iter().zip(&Kind::ALL).all(|(line, kind)| is_right(kind, &line.state)).then_some(())
        });
        let lacks = |kind| missing == Some(kind);
        let pod = (!lacks(Kind::Pods)).then_some("web-5d-1 deployment/web");
        assert_eq!(bystander.who(POD, 8080).as_deref(), pod, "without {missing:?}");
        let owner = if lacks(Kind::Jobs) { "report-1-x job/report-1" } else { "report-1-x cronjob/report" };
        assert_eq!(bystander.who(JOB_POD, 0).as_deref(), (!lacks(Kind::Pods)).then_some(owner), "without {missing:?}");
        let service = match missing {
            Some(Kind::Services) => None,
            Some(Kind::Pods | Kind::EndpointSlices) => Some("service/web"),
            _ => Some("deployment/web"),
        };
        assert_eq!(bystander.who(&self.service, 80).as_deref(), service, "without {missing:?}");
        assert_eq!(bystander.who(NODE, 0).as_deref(), (!lacks(Kind::Nodes)).then_some("node/node-1"), "without {missing:?}");
    }
}

impl Agent {
    fn start(kubeconfig: &Path, name: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = kubeconfig.with_file_name(format!("agent-{name}.log"));
        // Whom it watches does not matter here, and other programs of this machine are none of this test's affair.
        let arguments = "agent --port 1 --snapshot-interval 100ms --kubernetes on --node-name node-1 --listen";
        let arguments = arguments.split(' ').map(str::to_owned).chain([format!("127.0.0.1:{port}")]);
        let stderr = std::fs::File::create(&log).unwrap();
        let child = program().args(arguments).arg("--kubeconfig").arg(kubeconfig).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let mut agent = Self { child, url: format!("http://127.0.0.1:{port}/api/v1/status"), log };
        until("the agent answers", PATIENCE, || {
            assert_eq!(agent.child.try_wait().unwrap(), None, "{}", agent.log());
            agent.try_status()
        });
        agent
    }

    fn try_status(&self) -> Option<Value> {
        let output = Command::new("curl").args(["--silent", "--fail", "--noproxy", "*", &self.url]).output().unwrap();
        serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())
    }

    fn status(&self) -> Value {
        self.try_status().expect("the agent goes on")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until these kinds and no others are refused, and the rest is synced; what is said of it.
    fn until_only(&self, refused: &[Kind]) -> String {
        let wanted = |kind: &Kind| if refused.contains(kind) { "refused" } else { "synced" };
        let wanted: Vec<_> = Kind::ALL.iter().map(|kind| format!("{} {}", kind.name(), wanted(kind))).collect();
        let begin = Instant::now();
        loop {
            let status = self.status();
            let kinds = status["kubernetes"]["kinds"].as_array().cloned().unwrap_or_default();
            let seen: Vec<_> =
                kinds.iter().map(|kind| format!("{} {}", kind["kind"].as_str().unwrap(), kind["state"].as_str().unwrap())).collect();
            if seen == wanted {
                let sentences: Vec<_> = status["degraded"].as_array().unwrap().iter().map(|sentence| sentence.as_str().unwrap()).collect();
                let of_cluster = |sentence: &&str| ["may not read", "API server", "cluster's"].iter().any(|words| sentence.contains(words));
                let sentences: Vec<_> = sentences.into_iter().filter(of_cluster).collect();
                assert_eq!(sentences.len(), refused.len(), "{sentences:?}");
                return sentences.join("\n");
            }
            assert!(begin.elapsed() < PATIENCE, "{status:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
