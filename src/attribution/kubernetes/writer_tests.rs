//! Objects as the API tells them go in, answers come out.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::*;
use crate::{
    attribution::kubernetes::{
        objects::{ServiceObject, SliceObject},
        store::ServiceState,
    },
    model::{Endpoint, Remote},
};

const SECOND: u64 = 1_000_000_000;
/// 2026-01-01T00:00:00Z.
const BOOT_UNIX_NS: u64 = 1_767_225_600 * SECOND;

struct Bed {
    cluster: Arc<Cluster>,
    writer: Writer,
}

fn bed() -> Bed {
    bed_with(&Options { labels: vec!["app.kubernetes.io/*".into(), "team".into()], node_name: Some("node1".into()), ..Options::default() })
}

fn bed_with(options: &Options) -> Bed {
    let cluster = Arc::new(Cluster::default());
    Bed { writer: Writer::new(Arc::clone(&cluster), options), cluster }
}

/// So many seconds after the boot.
fn at(second: u64) -> Moment {
    Moment { mono_ns: second * SECOND, unix_ns: BOOT_UNIX_NS + second * SECOND }
}

fn timestamp(second: u64) -> String {
    k8s_openapi::jiff::Timestamp::from_second((BOOT_UNIX_NS / SECOND + second) as i64).unwrap().to_string()
}

fn uid(number: u64) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}

fn pod(number: u64, name: &str, address: &str, start_s: u64) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": uid(number), "creationTimestamp": timestamp(start_s)},
        "spec": {"nodeName": "node2", "containers": [{"name": "main", "image": "registry/web:1"}]},
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "hostIP": "192.168.0.2", "startTime": timestamp(start_s),
            "containerStatuses": [{
                "name": "main", "image": "sha256:00", "containerID": format!("containerd://{number:032x}{number:032x}"),
                "state": {"running": {"startedAt": timestamp(start_s + 1)}},
            }],
        },
    })
}

fn owned(mut object: Value, kind: &str, name: &str, owner: u64) -> Value {
    object["metadata"]["ownerReferences"] = json!([{"kind": kind, "name": name, "uid": uid(owner), "controller": true}]);
    object
}

fn service(number: u64, name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": uid(number), "creationTimestamp": timestamp(10)}, "spec": spec})
}

fn slice(number: u64, service: &str, endpoints: Value, port: u16) -> Value {
    json!({
        "metadata": {"name": format!("{service}-x"), "namespace": "shop", "uid": uid(number), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": port, "protocol": "TCP"}],
    })
}

fn endpoint(address: &str, pod: u64, ready: bool) -> Value {
    json!({
        "addresses": [address], "conditions": {"ready": ready}, "nodeName": "node1",
        "targetRef": {"kind": "Pod", "name": "any", "namespace": "shop", "uid": uid(pod)},
    })
}

impl Bed {
    fn pod(&mut self, object: Value, now: Moment) {
        let object: PodObject = serde_json::from_value(object).unwrap();
        assert!(self.writer.put_pod(&object, now));
        self.writer.settle(now);
    }

    fn gone(&mut self, number: u64, now: Moment) {
        self.writer.remove_pod(uid_key(&uid(number)).unwrap(), now);
        self.writer.settle(now);
    }

    fn service(&mut self, object: Value) {
        let object: ServiceObject = serde_json::from_value(object).unwrap();
        assert!(self.writer.put_service(&object, at(20)));
        self.writer.settle(at(20));
    }

    fn slice(&mut self, object: Value) {
        let object: SliceObject = serde_json::from_value(object).unwrap();
        assert!(self.writer.put_slice(&object));
        self.writer.settle(at(20));
    }

    fn node(&mut self, number: u64, name: &str, address: &str) {
        let object = json!({
            "metadata": {"name": name, "uid": uid(number), "creationTimestamp": timestamp(1)},
            "status": {"addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]},
        });
        assert!(self.writer.put_node(&serde_json::from_value(object).unwrap(), at(20)));
        self.writer.settle(at(20));
    }

    fn owner(&mut self, kind: Kind, object: Value) {
        assert!(self.writer.put_owner(kind, &serde_json::from_value(object).unwrap()));
        self.writer.settle(at(20));
    }

    fn remote(&self, address: &str, port: u16, second: u64) -> Option<Remote> {
        self.remote_at(address, port, second * SECOND)
    }

    fn remote_at(&self, address: &str, port: u16, time_ns: u64) -> Option<Remote> {
        let address: IpAddr = address.parse().unwrap();
        self.cluster.remote(Endpoint { address, port }, false, time_ns).map(|remote| Remote::clone(&remote))
    }

    /// Name of the pod that had the address.
    fn holder(&self, address: &str, second: u64) -> Option<String> {
        Some(self.remote(address, 0, second)?.pod?.name.to_string())
    }

    fn workload_of(&self, number: u64) -> (WorkloadKind, String) {
        let workload = self.cluster.pod(&uid(number)).unwrap().workload.clone();
        assert_eq!(workload.namespace.as_deref(), Some("shop"));
        (workload.kind, workload.name.to_string())
    }
}

fn called(remote: Option<Remote>) -> Option<(WorkloadKind, String, Option<String>, bool)> {
    let remote = remote?;
    Some((remote.workload.kind, remote.workload.name.to_string(), remote.service.map(|name| name.to_string()), remote.is_virtual))
}

#[test]
fn a_pod_is_known_by_its_uid_and_its_containers_by_their_ids() {
    let mut bed = bed();
    let mut object = pod(1, "web-1", "10.0.0.1", 5);
    object["spec"]["initContainers"] = json!([{"name": "prepare", "image": "registry/prepare:2"}]);
    object["status"]["initContainerStatuses"] = json!([
        {"name": "prepare", "image": "x", "containerID": format!("docker://{0:032x}{0:032x}", 77), "state": {"terminated": {"startedAt": timestamp(5)}}},
    ]);
    object["status"]["containerStatuses"][0]["lastState"] = json!({"terminated": {"containerID": format!("cri-o://{0:032x}{0:032x}", 78)}});
    bed.pod(object, at(20));
    let known = bed.cluster.pod(&uid(1)).unwrap();
    assert_eq!((&*known.name, &*known.namespace, known.node.as_deref()), ("web-1", "shop", Some("node2")));
    let container = |id: u64| {
        let container = bed.cluster.container(&uid(1), &format!("{id:032x}{id:032x}"))?;
        Some((container.name.clone(), container.image.clone().unwrap()))
    };
    assert_eq!(container(1), Some(("main".into(), "registry/web:1".into())));
    assert_eq!(container(77), Some(("prepare".into(), "registry/prepare:2".into())));
    assert_eq!(container(78), Some(("main".into(), "registry/web:1".into())));
    assert_eq!(container(79), None);
    assert_eq!(bed.cluster.pod(&uid(2)), None);
    assert_eq!(bed.cluster.pod("no uid"), None);
}

#[test]
fn a_static_pod_is_known_by_the_uid_of_its_kubelet_and_keeps_its_own_name() {
    let mut bed = bed();
    let mut object = owned(pod(1, "etcd-node1", "192.168.0.1", 5), "Node", "node1", 99);
    object["metadata"]["annotations"] = json!({"kubernetes.io/config.hash": "0123456789abcdef0123456789abcdef"});
    object["spec"]["hostNetwork"] = json!(true);
    bed.pod(object, at(20));
    let pod = bed.cluster.pod("0123456789abcdef0123456789abcdef").unwrap();
    assert_eq!((pod.workload.kind, &*pod.workload.name), (WorkloadKind::Pod, "etcd-node1"));
    assert!(bed.cluster.container("0123456789abcdef0123456789abcdef", &format!("{0:032x}{0:032x}", 1)).is_some());
    bed.gone(1, at(30));
    bed.writer.settle(at(300));
    assert_eq!(bed.cluster.pod("0123456789abcdef0123456789abcdef"), None);
}

#[test]
fn owners_are_followed_to_the_end_of_their_chain() {
    let mut bed = bed();
    bed.owner(
        Kind::ReplicaSets,
        owned(json!({"metadata": {"name": "web-5d", "namespace": "shop", "uid": uid(100)}}), "Deployment", "web", 101),
    );
    bed.owner(Kind::Jobs, owned(json!({"metadata": {"name": "report-1", "namespace": "shop", "uid": uid(102)}}), "CronJob", "report", 103));
    bed.owner(Kind::Jobs, json!({"metadata": {"name": "migrate", "namespace": "shop", "uid": uid(104)}}));
    for (number, kind, name, owner) in [
        (1, "ReplicaSet", "web-5d", 100),
        (2, "Job", "report-1", 102),
        (3, "Job", "migrate", 104),
        (4, "StatefulSet", "database", 105),
        (5, "DaemonSet", "collector", 106),
        (6, "Rollout", "canary", 107),
    ] {
        bed.pod(owned(pod(number, "any", "10.0.0.1", 5), kind, name, owner), at(20));
    }
    bed.pod(pod(7, "lonely", "10.0.0.1", 5), at(20));
    let workloads: Vec<_> = (1..=7).map(|number| bed.workload_of(number)).collect();
    let expected = [
        (WorkloadKind::Deployment, "web"),
        (WorkloadKind::CronJob, "report"),
        (WorkloadKind::Job, "migrate"),
        (WorkloadKind::StatefulSet, "database"),
        (WorkloadKind::DaemonSet, "collector"),
        (WorkloadKind::Controller, "canary"),
        (WorkloadKind::Pod, "lonely"),
    ];
    assert_eq!(workloads, expected.map(|(kind, name)| (kind, name.to_owned())));
}

#[test]
fn an_owner_that_comes_late_is_inferred_from_the_hash_or_waited_for() {
    let mut bed = bed();
    let mut hashed = owned(pod(1, "web-5d-x", "10.0.0.1", 5), "ReplicaSet", "web-5d", 100);
    hashed["metadata"]["labels"] = json!({"pod-template-hash": "5d"});
    bed.pod(hashed, at(20));
    bed.pod(owned(pod(2, "canary-77-x", "10.0.0.2", 5), "ReplicaSet", "canary-77", 101), at(20));
    assert_eq!(bed.workload_of(1), (WorkloadKind::Deployment, "web".into()));
    assert_eq!(bed.workload_of(2), (WorkloadKind::ReplicaSet, "canary-77".into()));
    let generation = bed.cluster.generation();
    bed.owner(
        Kind::ReplicaSets,
        owned(json!({"metadata": {"name": "canary-77", "namespace": "shop", "uid": uid(101)}}), "Rollout", "canary", 102),
    );
    assert_eq!(bed.workload_of(2), (WorkloadKind::Controller, "canary".into()));
    assert_eq!(bed.remote("10.0.0.2", 0, 20).unwrap().workload.kind, WorkloadKind::Controller);
    assert!(bed.cluster.generation() > generation);
}

#[test]
fn only_allowed_labels_are_shown_and_helm_is_recognised() {
    let mut bed = bed();
    let mut object = pod(1, "web-1", "10.0.0.1", 5);
    object["metadata"]["labels"] = json!({
        "app.kubernetes.io/instance": "summer", "app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "shop-1.2.3", "secret": "x",
    });
    object["metadata"]["annotations"] = json!({"team": "blue", "other": "y"});
    bed.pod(object, at(20));
    let known = bed.cluster.pod(&uid(1)).unwrap();
    let shown: Vec<_> = known.labels.iter().map(|(key, value)| (&**key, &**value)).collect();
    assert_eq!(shown, [("app.kubernetes.io/instance", "summer"), ("app.kubernetes.io/managed-by", "Helm"), ("team", "blue")]);
    assert_eq!((known.release.as_deref(), known.chart.as_deref()), (Some("summer"), Some("shop-1.2.3")));
    let mut object = pod(2, "old", "10.0.0.2", 5);
    object["metadata"]["labels"] = json!({"heritage": "Tiller", "release": "winter", "chart": "redis-3"});
    bed.pod(object, at(20));
    let known = bed.cluster.pod(&uid(2)).unwrap();
    assert_eq!((known.release.as_deref(), known.chart.as_deref()), (Some("winter"), Some("redis-3")));
    let mut object = pod(3, "plain", "10.0.0.3", 5);
    object["metadata"]["labels"] = json!({"app.kubernetes.io/instance": "summer", "release": "stable", "chart": "of the moon"});
    bed.pod(object, at(20));
    assert_eq!(bed.cluster.pod(&uid(3)).unwrap().release, None);
}

#[test]
fn an_address_belongs_to_its_pod_from_its_start_to_its_end() {
    let mut bed = bed();
    bed.pod(pod(1, "first", "10.0.0.1", 10), at(13));
    assert_eq!(bed.holder("10.0.0.1", 8), None);
    assert_eq!(bed.holder("10.0.0.1", 12), Some("first".into()));
    assert_eq!(bed.holder("10.0.0.1", 500), Some("first".into()));
    bed.gone(1, at(50));
    assert_eq!(bed.holder("10.0.0.1", 40), Some("first".into()));
    assert_eq!(bed.holder("10.0.0.1", 51), None);
}

#[test]
fn a_reused_address_is_resolved_as_of_the_time() {
    let mut bed = bed();
    bed.pod(pod(1, "first", "10.0.0.1", 10), at(13));
    // The second is told of before the first's end.
    bed.pod(pod(2, "second", "10.0.0.1", 60), at(63));
    bed.gone(1, at(64));
    assert_eq!(bed.holder("10.0.0.1", 30), Some("first".into()));
    assert_eq!(bed.holder("10.0.0.1", 58), Some("first".into()));
    assert_eq!(bed.holder("10.0.0.1", 61), None, "either may have had it");
    assert_eq!(bed.holder("10.0.0.1", 63), Some("second".into()));
    assert_eq!(bed.holder("10.0.0.1", 500), Some("second".into()));
    bed.writer.settle(at(400));
    assert_eq!(bed.holder("10.0.0.1", 30), None, "forgotten");
    assert_eq!(bed.holder("10.0.0.1", 61), None, "what is forgotten makes nothing certain");
    assert_eq!(bed.holder("10.0.0.1", 65), Some("second".into()));
}

#[test]
fn pods_that_have_ended_or_use_the_network_of_their_node_hold_no_address() {
    let mut bed = bed();
    let mut host = pod(1, "host", "192.168.0.2", 10);
    host["spec"]["hostNetwork"] = json!(true);
    bed.pod(host, at(13));
    assert_eq!(bed.remote("192.168.0.2", 80, 20), None);
    bed.pod(pod(2, "job", "10.0.0.2", 10), at(13));
    let mut over = pod(2, "job", "10.0.0.2", 10);
    over["status"]["phase"] = json!("Succeeded");
    bed.pod(over, at(30));
    assert_eq!(bed.holder("10.0.0.2", 20), Some("job".into()));
    assert_eq!(bed.holder("10.0.0.2", 31), None);
    bed.pod(pod(3, "ending", "10.0.0.3", 10), at(13));
    let mut ending = pod(3, "ending", "10.0.0.3", 10);
    ending["metadata"]["deletionTimestamp"] = json!(timestamp(60));
    bed.pod(ending.clone(), at(30));
    assert_eq!(bed.holder("10.0.0.3", 31), Some("ending".into()));
    ending["status"]["containerStatuses"][0]["state"] = json!({"terminated": {"startedAt": timestamp(11)}});
    bed.pod(ending, at(32));
    assert_eq!(bed.holder("10.0.0.3", 33), None);
}

#[test]
fn a_pod_that_moves_to_another_address_leaves_the_old_one() {
    let mut bed = bed();
    bed.pod(pod(1, "web", "10.0.0.1", 10), at(13));
    bed.pod(pod(1, "web", "10.0.0.9", 10), at(100));
    assert_eq!(bed.holder("10.0.0.1", 50), Some("web".into()));
    assert_eq!(bed.holder("10.0.0.1", 101), None);
    assert_eq!(bed.holder("10.0.0.9", 101), Some("web".into()));
}

#[test]
fn a_service_is_known_by_its_addresses_and_named_by_what_stands_behind_it() {
    let mut bed = bed();
    bed.writer.know_all_slices();
    bed.service(service(
        50,
        "web",
        json!({
            "type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "externalIPs": ["203.0.113.7"],
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}],
        }),
    ));
    bed.node(200, "node1", "192.168.0.1");
    let service = || Some((WorkloadKind::Service, "web".to_owned(), Some("web".to_owned()), true));
    assert_eq!(called(bed.remote("10.96.0.1", 80, 20)), service());
    assert_eq!(called(bed.remote("fd00::1", 80, 20)), service());
    assert_eq!(called(bed.remote("203.0.113.7", 80, 20)), service());
    assert_eq!(called(bed.remote("192.168.0.1", 30080, 20)), service());
    assert_eq!(called(bed.remote("192.168.0.1", 22, 20)), Some((WorkloadKind::Node, "node1".into(), None, false)));
    assert_eq!(called(bed.remote("203.0.113.7", 81, 20)), None, "others may have the address, too");
    assert_eq!(called(bed.remote("10.96.0.1", 81, 20)), service());
    assert_eq!(called(bed.remote("10.96.0.1", 80, 5)), None, "it was not yet made");
    assert!(bed.remote("10.96.0.1", 80, 20).unwrap().is_unserved);

    bed.slice(slice(60, "web", json!([endpoint("10.0.0.1", 1, true), endpoint("10.0.0.2", 2, false)]), 8080));
    assert_eq!(called(bed.remote("10.96.0.1", 80, 20)), service(), "its pods are not known yet");
    assert!(!bed.remote("10.96.0.1", 80, 20).unwrap().is_unserved);
    bed.pod(owned(pod(1, "web-1", "10.0.0.1", 5), "StatefulSet", "frontend", 100), at(20));
    bed.pod(owned(pod(2, "web-2", "10.0.0.2", 5), "StatefulSet", "other", 101), at(20));
    let frontend = Some((WorkloadKind::StatefulSet, "frontend".to_owned(), Some("web".to_owned()), true));
    assert_eq!(called(bed.remote("10.96.0.1", 80, 20)), frontend);
    bed.slice(slice(60, "web", json!([endpoint("10.0.0.1", 1, true), endpoint("10.0.0.2", 2, true)]), 8080));
    assert_eq!(called(bed.remote("10.96.0.1", 80, 20)), service(), "two workloads answer");

    let direct = |port| called(bed.remote("10.0.0.1", port, 20));
    assert_eq!(direct(8080), Some((WorkloadKind::StatefulSet, "frontend".into(), Some("web".into()), false)));
    assert_eq!(direct(8081), Some((WorkloadKind::StatefulSet, "frontend".into(), None, false)));
    assert_eq!(direct(0), Some((WorkloadKind::StatefulSet, "frontend".into(), None, false)));

    bed.writer.remove_service(uid_key(&uid(50)).unwrap());
    bed.writer.remove_slice(uid_key(&uid(60)).unwrap());
    bed.writer.settle(at(20));
    assert_eq!(called(bed.remote("10.96.0.1", 80, 20)), None);
    assert_eq!(called(bed.remote("192.168.0.1", 30080, 20)), Some((WorkloadKind::Node, "node1".into(), None, false)));
    assert_eq!(called(bed.remote("10.0.0.1", 8080, 20)), Some((WorkloadKind::StatefulSet, "frontend".into(), None, false)));
    assert_eq!(bed.cluster.services(), []);
}

#[test]
fn of_several_services_of_a_pod_the_only_one_with_an_address_is_named() {
    let mut bed = bed();
    bed.pod(pod(1, "database-0", "10.0.0.1", 5), at(20));
    for (number, name, address) in [(50, "database", "10.96.0.1"), (51, "database-headless", "None")] {
        bed.service(service(number, name, json!({"clusterIP": address, "ports": [{"port": 5432}]})));
        bed.slice(slice(number + 10, name, json!([endpoint("10.0.0.1", 1, true)]), 5432));
    }
    let named = |bed: &Bed| called(bed.remote("10.0.0.1", 5432, 20)).unwrap().2;
    assert_eq!(named(&bed), Some("database".into()));
    bed.service(service(52, "read-only", json!({"clusterIP": "10.96.0.2", "ports": [{"port": 5432}]})));
    bed.slice(slice(62, "read-only", json!([endpoint("10.0.0.1", 1, true)]), 5432));
    assert_eq!(named(&bed), None);
    for number in [60, 62] {
        bed.writer.remove_slice(uid_key(&uid(number)).unwrap());
    }
    bed.writer.settle(at(20));
    assert_eq!(named(&bed), Some("database-headless".into()));
}

#[test]
fn an_endpoint_of_another_pod_does_not_name_the_pod_that_has_its_address() {
    let mut bed = bed();
    bed.service(service(50, "web", json!({"clusterIP": "None", "ports": [{"port": 80}]})));
    bed.slice(slice(60, "web", json!([endpoint("10.0.0.1", 1, true)]), 80));
    bed.pod(pod(2, "heir", "10.0.0.1", 5), at(20));
    assert_eq!(called(bed.remote("10.0.0.1", 80, 20)), Some((WorkloadKind::Pod, "heir".into(), None, false)));
}

#[test]
fn the_api_server_is_the_service_kubernetes_by_all_of_its_addresses() {
    let mut bed = bed();
    bed.node(200, "node1", "192.168.0.1");
    let mut own = service(50, "kubernetes", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 443}]}));
    own["metadata"]["namespace"] = json!("default");
    let mut endpoints = slice(60, "kubernetes", json!([{"addresses": ["192.168.0.1"], "conditions": {"ready": true}}]), 6443);
    endpoints["metadata"]["namespace"] = json!("default");
    bed.service(own);
    bed.slice(endpoints);
    let expected = |is_virtual| Some((WorkloadKind::Service, "kubernetes".to_owned(), Some("kubernetes".to_owned()), is_virtual));
    assert_eq!(called(bed.remote("10.96.0.1", 443, 20)), expected(true));
    assert_eq!(called(bed.remote("192.168.0.1", 6443, 20)), expected(false));
    assert_eq!(bed.remote("192.168.0.1", 6443, 20).unwrap().workload.namespace.as_deref(), Some("default"));
    assert_eq!(called(bed.remote("192.168.0.1", 0, 20)).unwrap().0, WorkloadKind::Node);
}

#[test]
fn a_service_that_renames_a_host_is_nothing_and_the_others_are_told_of() {
    let mut bed = bed();
    bed.writer.know_all_slices();
    bed.service(service(50, "outside", json!({"type": "ExternalName", "externalName": "example.com"})));
    bed.service(service(51, "web", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]})));
    bed.service(service(52, "empty", json!({"clusterIP": "None", "ports": [{"port": 80}]})));
    bed.slice(slice(60, "web", json!([endpoint("10.0.0.1", 1, true)]), 80));
    let state = |name: &str, is_headless, is_local, is_unserved| ServiceState {
        namespace: "shop".into(),
        name: name.into(),
        is_headless,
        is_local,
        is_unserved,
    };
    assert_eq!(bed.cluster.services(), [state("empty", true, false, true), state("web", false, true, false)]);
}

#[test]
fn a_cluster_address_that_is_given_on_names_nobody_wrongly() {
    let mut bed = bed();
    let made = |number, name: &str, second| {
        let mut object = service(number, name, json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}));
        object["metadata"]["creationTimestamp"] = json!(timestamp(second));
        object
    };
    bed.service(made(50, "old", 10));
    bed.service(made(51, "new", 15));
    let named = |bed: &Bed, second| called(bed.remote("10.96.0.1", 80, second)).map(|(_, name, ..)| name);
    assert_eq!(named(&bed, 12), Some("old".into()));
    assert_eq!(named(&bed, 15), None);
    assert_eq!(named(&bed, 18), Some("new".into()));
    bed.writer.remove_service(uid_key(&uid(50)).unwrap());
    bed.writer.settle(at(20));
    assert_eq!(named(&bed, 12), None);
    assert_eq!(named(&bed, 18), Some("new".into()));
}

#[test]
fn what_a_list_no_longer_has_is_removed() {
    let mut bed = bed();
    bed.pod(pod(1, "stays", "10.0.0.1", 5), at(10));
    bed.pod(pod(2, "went", "10.0.0.2", 5), at(10));
    bed.node(200, "node1", "192.168.0.1");
    let listed = HashSet::from([uid_key(&uid(1)).unwrap()]);
    bed.writer.retain(Kind::Pods, &listed, at(30));
    bed.writer.retain(Kind::Nodes, &HashSet::new(), at(30));
    bed.writer.settle(at(30));
    assert_eq!(bed.holder("10.0.0.1", 31), Some("stays".into()));
    assert_eq!(bed.holder("10.0.0.2", 31), None);
    assert_eq!(bed.holder("10.0.0.2", 20), Some("went".into()));
    assert_eq!(bed.remote("192.168.0.1", 0, 31), None);
    assert!(bed.cluster.pod(&uid(2)).is_some(), "its processes may still be asked for");
    bed.writer.settle(at(200));
    assert!(bed.cluster.pod(&uid(2)).is_none());
    let objects: Vec<_> = bed.cluster.health().iter().map(|kind| kind.objects).collect();
    assert_eq!(objects, [1, 0, 0, 0, 0, 0]);
}

#[path = "history_tests.rs"]
mod history;
