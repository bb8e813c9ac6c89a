//! What ends are called that the cluster names.

use std::net::{IpAddr, Ipv4Addr};

use super::{tests::*, *};
use crate::{
    config::Detail,
    model::{Endpoint, Pod, Remote, Translation, Workload, WorkloadKind},
    record::Known,
};

const fn end(last: u8, port: u16) -> Endpoint {
    Endpoint { address: IpAddr::V4(Ipv4Addr::new(10, 1, 0, last)), port }
}

const CLIENT: Endpoint = end(5, 40_000);
const POD: Endpoint = end(9, 8080);
const SERVICE: Endpoint = Endpoint { address: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), port: 80 };

fn workload(kind: WorkloadKind, name: &str) -> Workload {
    Workload { namespace: Some("shop".into()), ..Workload::new(kind, name) }
}

fn pod(name: &str) -> Arc<Pod> {
    Arc::new(Pod {
        name: name.into(),
        namespace: "shop".into(),
        node: Some("node-1".into()),
        workload: workload(WorkloadKind::Deployment, "cart"),
        release: Some("spring".into()),
        chart: None,
        labels: Box::default(),
    })
}

fn remote(workload: Workload) -> Remote {
    Remote { workload, service: None, pod: None, is_virtual: false, is_unserved: false }
}

/// A Service's address, and who answers there.
fn learn_service(worker: &mut Worker) {
    let service = remote(workload(WorkloadKind::Service, "cart"));
    learn_end(worker, SERVICE, Remote { service: Some("cart".into()), is_virtual: true, ..service });
}

fn learn_pod(worker: &mut Worker, end: Endpoint, name: &str) {
    let named = Remote { pod: Some(pod(name)), service: Some("cart".into()), ..remote(workload(WorkloadKind::Deployment, "cart")) };
    learn_end(worker, end, named);
}

fn learn_end(worker: &mut Worker, end: Endpoint, remote: Remote) {
    learn(worker, Known::Remote(end, Some(Arc::new(remote))));
}

fn learn(worker: &mut Worker, known: Known) {
    let fact = Arc::new(crate::record::Fact { sequence: 0, known });
    worker.handle(&Message::Fact(fact), &mut |_, _| {}, &mut |_| {});
}

/// Pid 20 is a process of this pod.
fn learn_process(worker: &mut Worker, name: &str) {
    let container = crate::model::Container { id: "c0ffee".into(), pod_uid: Some("uid".into()), ..Default::default() };
    let process = Process { pid: 20, comm: "server".into(), container: Some(container), pod: Some(pod(name)), ..Process::default() };
    learn(worker, Known::Process(Arc::new(process)));
}

fn ask(worker: &mut Worker, id: u64, number: u64) {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for (direction, payload) in [(Direction::Sent, REQUEST), (Direction::Received, ANSWER)] {
        let offset = number * payload.len() as u64;
        feed(worker, id, 10, Body::Data { direction, offset, size: payload.len() as u32, unread: false, payload });
    }
}

/// The server of the last line, its members in this order.
fn server(worker: &mut Worker, members: &[&str]) -> Vec<String> {
    let lines = lines(worker);
    let line: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    members.iter().map(|member| line["server"][member].as_str().unwrap_or_default().to_owned()).collect()
}

fn edges(worker: &Worker) -> Vec<(String, Option<String>, u64)> {
    let edges = worker.around.map.shard().edges;
    let requests = |sides: &crate::service_map::edges::Sides| sides.iter().flatten().map(|side| side.requests()).sum();
    edges
        .iter()
        .map(|(key, sides)| (key.server.workload.name.to_string(), key.server.service.as_deref().map(str::to_owned), requests(sides)))
        .collect()
}

#[test]
fn a_service_without_connection_tracking_is_called_by_its_own_name() {
    let mut worker = worker();
    learn_service(&mut worker);
    open(&mut worker, 256, 10, [CLIENT, SERVICE], Role::Client);
    ask(&mut worker, 256, 0);
    assert_eq!(
        server(&mut worker, &["kind", "namespace", "name", "service", "address", "pod"]),
        ["service", "shop", "cart", "cart", "10.96.0.10", ""]
    );
}

#[test]
fn behind_a_service_the_pod_that_answers_is_named() {
    let mut worker = worker();
    learn_service(&mut worker);
    learn_pod(&mut worker, POD, "cart-1");
    learn(&mut worker, Known::Translated(256, Translation { client: CLIENT, server: POD }));
    open(&mut worker, 256, 10, [CLIENT, SERVICE], Role::Client);
    ask(&mut worker, 256, 0);
    let members = ["kind", "namespace", "name", "service", "pod", "node", "release"];
    assert_eq!(server(&mut worker, &members), ["deployment", "shop", "cart", "cart", "cart-1", "node-1", "spring"]);
}

#[test]
fn both_ends_of_a_rewritten_connection_are_one_edge() {
    let mut worker = worker();
    learn_service(&mut worker);
    learn_process(&mut worker, "cart-1");
    learn(&mut worker, Known::Translated(256, Translation { client: CLIENT, server: POD }));
    open(&mut worker, 256, 10, [CLIENT, SERVICE], Role::Client);
    open(&mut worker, 512, 20, [POD, CLIENT], Role::Server);
    ask(&mut worker, 256, 0);
    serve(&mut worker, 512, 0);
    for line in lines(&mut worker) {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&line["client"]["name"], &line["server"]["pod"], &line["server"]["service"]),
            (&"asker".into(), &"cart-1".into(), &"cart".into())
        );
        assert!(line["peer_connection_id"].is_u64(), "{line}");
    }
    assert_eq!(edges(&worker).len(), 1, "{:?}", edges(&worker));
    assert_eq!(worker.around.map.shard().edges[0].0.server.port, Some(8080), "the port of the socket that answers");
}

#[test]
fn pods_of_a_workload_share_an_edge_unless_each_is_wanted() {
    for (detail, expected) in [(Detail::Workload, 1), (Detail::Pod, 3)] {
        let mut worker = worker();
        worker.around.options.detail = detail;
        for number in 0..3 {
            let end = end(20 + number, 8080);
            learn_pod(&mut worker, end, &format!("cart-{number}"));
            let id = 256 * (u64::from(number) + 1);
            open(&mut worker, id, 10, [Endpoint { port: 1000 + u16::from(number), ..CLIENT }, end], Role::Client);
            ask(&mut worker, id, 0);
        }
        assert_eq!(edges(&worker).len(), expected, "{detail:?}: {:?}", edges(&worker));
    }
}

#[test]
fn a_pod_that_is_met_before_its_name_is_named_when_it_comes() {
    let mut worker = worker();
    open(&mut worker, 256, 10, [CLIENT, POD], Role::Client);
    ask(&mut worker, 256, 0);
    assert_eq!(server(&mut worker, &["kind", "name"]), ["domain", "a"], "what the client calls it");
    learn_pod(&mut worker, POD, "cart-1");
    ask(&mut worker, 256, 1);
    assert_eq!(server(&mut worker, &["kind", "name", "pod"]), ["deployment", "cart", "cart-1"]);
}

#[test]
fn an_address_that_passed_on_does_not_rename_the_connections_of_its_first_owner() {
    let mut worker = worker();
    learn_pod(&mut worker, POD, "cart-1");
    open(&mut worker, 256, 10, [CLIENT, POD], Role::Client);
    ask(&mut worker, 256, 0);
    close(&mut worker, 256, 10);
    assert_eq!(server(&mut worker, &["pod"]), ["cart-1"]);
    learn_pod(&mut worker, POD, "cart-2");
    open(&mut worker, 512, 10, [Endpoint { port: 2, ..CLIENT }, POD], Role::Client);
    ask(&mut worker, 512, 0);
    assert_eq!(server(&mut worker, &["pod"]), ["cart-2"]);
}

#[test]
fn the_address_of_a_clouds_metadata_has_a_name() {
    let mut worker = worker();
    let metadata = Endpoint { address: IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), port: 80 };
    open(&mut worker, 256, 10, [CLIENT, metadata], Role::Client);
    ask(&mut worker, 256, 0);
    assert_eq!(server(&mut worker, &["kind", "name"]), ["domain", "instance-metadata"]);
}

#[test]
fn a_client_that_comes_by_an_address_of_this_host_is_called_by_its_own() {
    let mut worker = worker();
    learn_process(&mut worker, "cart-1");
    let bridge = end(1, 61_000);
    learn_pod(&mut worker, Endpoint { port: 0, ..CLIENT }, "visitor-1");
    learn(&mut worker, Known::Translated(512, Translation { client: CLIENT, server: POD }));
    open(&mut worker, 512, 20, [POD, bridge], Role::Server);
    serve(&mut worker, 512, 0);
    let line: serde_json::Value = serde_json::from_str(lines(&mut worker).last().unwrap()).unwrap();
    assert_eq!((&line["client"]["pod"], &line["server"]["pod"]), (&"visitor-1".into(), &"cart-1".into()), "{line}");
}

#[test]
fn pods_of_other_namespaces_are_left_out_and_still_name_their_peers() {
    let config = |only: &str, never: &str| {
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        crate::config::Config { namespace: names(only), exclude_namespace: names(never), ..Default::default() }
    };
    // Pid 20 is of a pod of `shop`, pid 10 of none.
    for (only, never, asker, teller) in [("", "", 1, 1), ("shop", "", 0, 1), ("bank", "", 0, 0), ("", "shop", 1, 0), ("", "bank", 1, 1)] {
        let mut worker = worker();
        worker.around.options.scope = Scope::new(&config(only, never));
        learn_process(&mut worker, "cart-1");
        open(&mut worker, 256, 10, [CLIENT, POD], Role::Client);
        open(&mut worker, 512, 20, [POD, CLIENT], Role::Server);
        ask(&mut worker, 256, 0);
        serve(&mut worker, 512, 0);
        close(&mut worker, 256, 10);
        close(&mut worker, 512, 20);
        let lines = lines(&mut worker);
        let of = |side: &str| lines.iter().filter(|line| line.contains(&format!("\"side\":\"{side}\""))).count();
        assert_eq!((of("client"), of("server")), (asker, teller), "only {only:?}, never {never:?}");
        assert_eq!(lines.len(), 2 * (asker + teller), "an exchange and a connection each: {lines:?}");
        assert!(lines.iter().all(|line| line.contains("cart-1")), "{lines:?}");
        assert_eq!(worker.left_out().is_empty(), teller == 1, "only {only:?}, never {never:?}");
    }
}

#[test]
fn a_control_group_is_told_to_the_kernel_once_and_forgotten_with_its_end() {
    let mut worker = worker();
    let named = crate::config::Config { exclude_namespace: vec!["shop".to_owned()], ..Default::default() };
    worker.around.options.scope = Scope::new(&named);
    learn_process(&mut worker, "cart-1");
    let fork = |worker: &mut Worker, id, cgroup_id| {
        let tuple = crate::event::Tuple { local: POD, remote: Endpoint { port: id as u16, ..CLIENT }, netns: 7 };
        let comm = crate::event::Text::new("server");
        let body = Body::Open { tuple, cgroup_id, start_ns: 1, connect_ns: 0, role: Role::Server, adopted: false, comm };
        feed(worker, id, 20, body);
    };
    fork(&mut worker, 256, 77);
    fork(&mut worker, 512, 77);
    assert_eq!(worker.left_out(), [Leave::Out(77)]);
    feed(&mut worker, 0, 0, Body::Cgroup { id: 77, path: b"/docker/x", removed: true });
    assert_eq!(worker.left_out(), [Leave::Forget(77)]);
}
