//! The agent as it is deployed, beside a shop whose traffic is known operation by operation.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::{
    cluster::{Cluster, until},
    lines::{Counts, Lines, text, workload},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// The agent's DaemonSet, deleted with this.
struct Agent<'a> {
    cluster: &'a Cluster,
    applied: &'static str,
}

impl<'a> Agent<'a> {
    /// `kubectl apply` of what users apply, with its lines in the log.
    fn deploy(cluster: &'a Cluster) -> Self {
        Self::deploy_with(cluster, "REMORA_OUTPUT=json")
    }

    /// The same with these variables.
    fn deploy_with(cluster: &'a Cluster, variables: &str) -> Self {
        // Engines before Docker 23 do not know the capabilities that the plain manifest asks for.
        let create = ["create", "--cap-add=BPF", "--cap-add=PERFMON", "remora:0.1.0"];
        let applied = match cluster.try_docker(&create) {
            Ok(container) => {
                cluster.docker(&["rm", container.trim()]);
                "-f deploy/kubernetes/remora.yaml"
            }
            Err(refusal) if refusal.contains("unknown capability") => "-k deploy/kubernetes/privileged",
            Err(refusal) => panic!("make the image by `make image`: {refusal}"),
        };
        println!("applied: {applied}");
        cluster.kubectl(&format!("apply {applied}"));
        let agent = Self { cluster, applied };
        cluster.kubectl(&format!("-n remora set env daemonset/remora {variables}"));
        cluster.kubectl("-n remora rollout status daemonset/remora --timeout=60s");
        until("the agent to be ready", PATIENCE, || agent.log().contains("\"type\":\"ready\"").then_some(()));
        let is_synced = |status: &Value| {
            let kinds = status["kubernetes"]["kinds"].as_array()?;
            (!kinds.is_empty() && kinds.iter().all(|kind| kind["state"] == "synced")).then_some(())
        };
        until("the cluster to be known", PATIENCE, || is_synced(&serde_json::from_str(&cluster.agent("/api/v1/status")).unwrap()));
        agent
    }

    fn log(&self) -> String {
        self.cluster.kubectl("-n remora logs daemonset/remora --tail=-1")
    }

    fn lines(&self, since_ns: u64, until_ns: u64) -> Lines {
        Lines::of(&self.log(), since_ns, until_ns)
    }

    fn assert_nothing_lost(&self) {
        let metrics = self.cluster.agent("/metrics");
        let lost: Vec<_> = metrics.lines().filter(|line| line.starts_with("remora_self_lost_total{") && !line.ends_with(" 0")).collect();
        // Other programs of the node may be met in the middle of what they say.
        let lost: Vec<_> = lost.into_iter().filter(|line| !line.contains("parse_gap")).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.cluster.try_kubectl("-n remora logs daemonset/remora --tail=40");
            eprintln!("{}{}", String::from_utf8_lossy(&log.stdout), String::from_utf8_lossy(&log.stderr));
        }
        self.cluster.try_kubectl(&format!("delete {} --timeout=60s", self.applied));
    }
}

fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Runs the load; what it says it did.
fn load(cluster: &Cluster, command: &str) -> Value {
    serde_json::from_str(&cluster.kubectl(&format!("-n shop exec deploy/load -- {command}"))).unwrap()
}

/// What was done, by workload and operation.
fn truth(edges: &Value) -> Counts {
    let mut counts = Counts::new();
    for edge in edges.as_array().unwrap() {
        let end = |end: &str| format!("{}/{}", text(&edge[format!("{end}_namespace")]), text(&edge[end]));
        for (operation, times) in edge["by_operation"].as_object().unwrap() {
            let operation = operation.rsplit('/').next().unwrap().to_owned();
            let key = [end("client"), end("server"), text(&edge["protocol"]), operation];
            *counts.entry(key).or_default() += times.as_u64().unwrap();
        }
    }
    counts
}

/// `seen` has just what `truth` has, of the operations that `truth` names.
fn differences(truth: &Counts, seen: &Counts) -> Vec<String> {
    let keys: BTreeSet<_> = truth.keys().collect();
    let count = |counts: &Counts, key: &[String; 4]| counts.get(key).copied().unwrap_or(0);
    let mut wrong: Vec<_> = keys
        .into_iter()
        .filter(|key| count(truth, key) != count(seen, key))
        .map(|key| format!("{key:?}: {} done, {} seen", count(truth, key), count(seen, key)))
        .collect();
    // What nobody did: an operation that is known, between ends that never spoke so.
    let known: BTreeSet<_> = truth.keys().map(|[_, _, protocol, operation]| (protocol, operation)).collect();
    let of_shop = |end: &String| end.starts_with("shop/") || end.starts_with("warehouse/");
    let made_up = seen.iter().filter(|([client, server, protocol, operation], _)| {
        (of_shop(client) || of_shop(server)) && known.contains(&(protocol, operation))
    });
    wrong.extend(made_up.filter(|(key, _)| !truth.contains_key(*key)).map(|(key, times)| format!("{key:?}: never done, {times} seen")));
    wrong
}

#[test]
fn the_service_map_equals_what_the_shop_did() {
    let cluster = Cluster::with_shop();
    let agent = Agent::deploy(&cluster);
    load(&cluster, "run 20");
    let since_ns = unix_ns();
    let done = load(&cluster, "run 200");
    let job = format!("report-{since_ns}");
    cluster.kubectl(&format!("-n shop create job {job} --from=cronjob/report"));
    cluster.kubectl(&format!("-n shop wait --for=condition=complete job/{job} --timeout=60s"));
    let report: Value = serde_json::from_str(&cluster.kubectl(&format!("-n shop logs job/{job}"))).unwrap();
    let until_ns = unix_ns();

    assert_eq!(done["unexpected"], serde_json::json!([]));
    let mut truth_counts = truth(&done["edges"]);
    truth_counts.extend(truth(&report["edges"]));
    for side in ["client", "server"] {
        // The last lines are on their way.
        let wrong = || differences(&truth_counts, &agent.lines(since_ns, until_ns).counts(side));
        let mut last = Vec::new();
        for _ in 0..50 {
            last = wrong();
            if last.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        assert!(last.is_empty(), "{side} side:\n{}", last.join("\n"));
    }
    let lines = agent.lines(since_ns, until_ns);
    the_right_pods(&done, &lines);
    the_right_kinds(&lines);
    the_right_services(&lines);
    agent.assert_nothing_lost();
}

/// Both pods of a pair, count by count.
fn the_right_pods(done: &Value, lines: &Lines) {
    let mut truth: BTreeMap<[String; 3], u64> = BTreeMap::new();
    for pair in done["pods"].as_array().unwrap() {
        let key = ["client", "server", "protocol"].map(|member| text(&pair[member]));
        *truth.entry(key).or_default() += pair["operations"].as_u64().unwrap();
    }
    let seen = lines.pods("client");
    for (pair, times) in truth {
        assert_eq!(seen.get(&pair).copied().unwrap_or(0), times, "{pair:?}; seen {seen:#?}");
    }
}

/// Each workload is of the kind that it was made as.
fn the_right_kinds(lines: &Lines) {
    let kinds: BTreeMap<_, _> = [
        ("shop/storefront", "deployment"),
        ("shop/catalog", "deployment"),
        ("shop/cache", "deployment"),
        ("shop/gateway", "deployment"),
        ("shop/db", "statefulset"),
        ("shop/report", "cronjob"),
        ("warehouse/courier", "daemonset"),
        ("warehouse/stock", "deployment"),
    ]
    .into();
    let mut met = BTreeSet::new();
    for party in lines.all().iter().flat_map(|line| [&line["client"], &line["server"]]) {
        if let Some((name, kind)) = kinds.get_key_value(&*workload(party)) {
            assert_eq!(party["kind"], *kind, "{party}");
            assert_eq!(party["node"], "node-1", "{party}");
            met.insert(*name);
        }
    }
    assert_eq!(met, kinds.into_keys().collect());
}

/// The Service that was called, also where its pods are endpoints of another one too, or it has no address.
fn the_right_services(lines: &Lines) {
    for line in lines.seen_by("client") {
        let server = workload(&line["server"]);
        let expected = match &*server {
            "shop/storefront" | "shop/catalog" | "shop/cache" | "shop/db" | "shop/broker" => server.split_once('/').unwrap().1,
            // Its pods are behind `archive`, too.
            "warehouse/stock" => "stock",
            _ => continue,
        };
        assert_eq!(line["server"]["service"], expected, "{line}");
    }
    let cache = lines.seen_by("client").find(|line| workload(&line["server"]) == "shop/cache").unwrap();
    assert_eq!((&cache["server"]["release"], &cache["server"]["chart"]), (&"shop-cache".into(), &"redis-17.3.2".into()), "{cache}");
}

#[test]
fn pods_that_are_killed_and_scaled_under_load_never_lend_their_names() {
    let cluster = Cluster::with_shop();
    let agent = Agent::deploy(&cluster);
    let since_ns = unix_ns();
    let mut running = cluster.kubectl_command("-n shop exec deploy/load -- run 3000 --concurrency 8");
    let running = running.stdout(Stdio::piped()).spawn().unwrap();
    for round in 0..3 {
        cluster.kubectl("-n shop delete pod -l app=storefront --wait=false");
        cluster.kubectl(&format!("-n shop scale deployment/catalog --replicas={}", [4, 1, 3][round]));
        cluster.kubectl(&format!("-n warehouse scale deployment/stock --replicas={}", [1, 4, 2][round]));
        cluster.kubectl("-n shop rollout status deployment/catalog --timeout=60s");
        cluster.kubectl("-n warehouse rollout status deployment/stock --timeout=60s");
        cluster.kubectl("-n shop rollout status deployment/storefront --timeout=60s");
    }
    let said = running.wait_with_output().unwrap();
    let done: Value = serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let lines = agent.lines(since_ns, unix_ns());
    assert!(lines.all().len() > 3_000, "{} lines", lines.all().len());

    // Whoever answers tells its own name; requests that failed have none, so there may be more lines than answers, and never another pair.
    let truth: BTreeSet<_> =
        done["pods"].as_array().unwrap().iter().map(|pair| ["client", "server", "protocol"].map(|end| text(&pair[end]))).collect();
    let told: BTreeSet<_> = truth.iter().map(|[_, server, protocol]| (server.clone(), protocol.clone())).collect();
    let speaks: BTreeMap<_, _> =
        [("redis", "shop/cache"), ("postgresql", "shop/db"), ("amqp", "shop/broker"), ("grpc", "shop/catalog")].into();
    for line in lines.all().iter().filter(|line| workload(&line["client"]).starts_with("shop/")) {
        let (server, protocol) = (workload(&line["server"]), text(&line["protocol"]));
        if let Some(expected) = speaks.get(&*protocol) {
            assert!(server == *expected || line["server"]["kind"] == "address", "{line}");
        }
        let pod = text(&line["server"]["pod"]);
        if protocol == "grpc" && line["error"] == false {
            assert!(told.contains(&(pod.clone(), protocol.clone())), "{pod} never answered: {line}");
        }
        // A pod's name begins with its workload's.
        if let Some((_, name)) = server.split_once('/')
            && !pod.is_empty()
        {
            assert!(pod.starts_with(name), "{line}");
        }
    }
    let unnamed =
        lines.seen_by("client").filter(|line| line["server"]["kind"] == "address" && workload(&line["client"]).starts_with("shop/"));
    println!("{} lines, {} of them with an end that has no name", lines.all().len(), unnamed.count());
}

#[test]
fn only_the_pods_of_the_namespaces_that_are_asked_for_are_watched() {
    let cluster = Cluster::with_shop();
    let agent = Agent::deploy_with(&cluster, "REMORA_OUTPUT=json REMORA_NAMESPACE=warehouse");
    load(&cluster, "run 20");
    let since_ns = unix_ns();
    load(&cluster, "run 100");
    // 100 orders: the stock is asked, the courier takes and counts them.
    let told = |lines: &Lines| lines.counts("server").values().sum::<u64>() >= 100 && lines.counts("client").values().sum::<u64>() >= 200;
    let lines = until("the lines of the warehouse", PATIENCE, || Some(agent.lines(since_ns, unix_ns())).filter(told));
    for line in lines.all() {
        let own = if line["side"] == "server" { &line["server"] } else { &line["client"] };
        assert_eq!(own["namespace"], "warehouse", "{line}");
    }
    let expected: Counts = [
        (["shop/storefront", "warehouse/stock", "http", "GET"], 100),
        (["warehouse/courier", "shop/broker", "amqp", "basic.deliver"], 100),
        (["warehouse/courier", "shop/cache", "redis", "INCRBY"], 100),
    ]
    .into_iter()
    .map(|(key, times)| (key.map(str::to_owned), times))
    .collect();
    let mut seen = lines.counts("server");
    seen.extend(lines.counts("client"));
    assert_eq!(differences(&expected, &seen), Vec::<String>::new());
}

#[test]
fn deleting_what_was_applied_leaves_nothing() {
    let cluster = Cluster::with_shop();
    drop(Agent::deploy(&cluster));
    let left = cluster.kubectl("get namespaces,clusterroles,clusterrolebindings,daemonsets,priorityclasses -A -o name");
    let left: Vec<_> = left.lines().filter(|name| name.contains("remora")).collect();
    assert!(left.is_empty(), "{left:?}");
    let containers = cluster.docker(&["ps", "--all", "--filter", "label=io.kubernetes.pod.namespace=remora", "--quiet"]);
    assert_eq!(containers, "", "containers of the agent");
}
