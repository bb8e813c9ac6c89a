//! Connections to Services of a cluster: what is told of their ends on either node, and of calls that nobody serves.

use std::net::IpAddr;

use super::{tests::*, *};
use crate::{
    event::{Text, Tuple},
    model::{Endpoint, Pod, Remote, Side, Translation, Workload, WorkloadKind},
    record::Known,
    service_map::Snapshot,
};

const fn end(address: [u8; 4], port: u16) -> Endpoint {
    let [a, b, c, d] = address;
    Endpoint { address: IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d)), port }
}

const CLIENT: Endpoint = end([10, 244, 1, 5], 40_000);
/// The Service's own address, which no pod has.
const DIALLED: Endpoint = end([10, 96, 0, 7], 80);
/// As the server's socket has both ends: the client's address was rewritten on its way, too.
const NETWORK: Translation = Translation { client: end([10, 244, 1, 1], 5_555), server: end([10, 244, 2, 9], 8_080) };

fn service(is_unserved: bool) -> Remote {
    let workload = Workload { namespace: Some("shop".into()), ..Workload::new(WorkloadKind::Service, "cart") };
    Remote { workload, service: Some("cart".into()), pod: None, is_virtual: true, is_unserved }
}

fn replica(name: &str) -> Remote {
    let workload = Workload { namespace: Some("shop".into()), ..Workload::new(WorkloadKind::Deployment, "cart") };
    let pod = Pod {
        name: name.into(),
        namespace: "shop".into(),
        node: Some("node-2".into()),
        workload: workload.clone(),
        release: Some("shop".into()),
        chart: Some("shop-1.2".into()),
        labels: [("tier".into(), "back".into())].into(),
    };
    Remote { workload, service: None, pod: Some(Arc::new(pod)), is_virtual: false, is_unserved: false }
}

fn learn(worker: &mut Worker, end: Endpoint, remote: Remote) {
    worker.around.names.learn(&Known::Remote(end, Some(Arc::new(remote))));
}

fn talk(worker: &mut Worker, id: u64, pid: u32, [asked, answered]: [Direction; 2]) {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for (direction, payload) in [(asked, REQUEST), (answered, ANSWER)] {
        feed(worker, id, pid, Body::Data { direction, offset: 0, size: payload.len() as u32, unread: false, payload });
    }
}

fn parsed(worker: &mut Worker) -> Vec<serde_json::Value> {
    lines(worker).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn snapshot(worker: &mut Worker) -> Snapshot {
    Snapshot::merge(0, [worker.report(true).shard], Vec::new())
}

#[test]
fn the_lines_of_two_nodes_have_the_same_ends_of_one_connection() {
    let mut near = worker();
    learn(&mut near, DIALLED, service(false));
    learn(&mut near, NETWORK.server, replica("cart-1"));
    near.around.names.learn(&Known::Translated(256, NETWORK));
    open(&mut near, 256, 10, [CLIENT, DIALLED], Role::Client);
    talk(&mut near, 256, 10, [Direction::Sent, Direction::Received]);
    close(&mut near, 256, 10);
    let mut far = worker();
    open(&mut far, 512, 20, [NETWORK.server, NETWORK.client], Role::Server);
    talk(&mut far, 512, 20, [Direction::Received, Direction::Sent]);
    close(&mut far, 512, 20);

    let (near, far) = (parsed(&mut near), parsed(&mut far));
    assert_eq!((near.len(), far.len()), (2, 2));
    for (near, far) in near.iter().zip(&far) {
        assert_eq!((&near["server"]["address"], &near["client"]["port"]), (&"10.96.0.7".into(), &40_000.into()));
        assert_eq!(
            (&near["server"]["name"], &near["server"]["service"], &near["server"]["pod"]),
            (&"cart".into(), &"cart".into(), &"cart-1".into())
        );
        assert_eq!(far.get("network"), None, "the server's own ends are shown");
        for side in ["client", "server"] {
            for member in ["address", "port"] {
                assert_eq!(near["network"][side][member], far[side][member], "{side} {member} in\n{near}\n{far}");
            }
        }
    }
}

/// Seen from outside there is no process: both ends are who the cluster says their addresses are.
#[test]
fn both_ends_of_a_connection_of_frames_are_named_by_their_addresses() {
    let mut worker = worker();
    worker.around.options.frames = true;
    let client = Workload { namespace: Some("shop".into()), ..Workload::new(WorkloadKind::Deployment, "front") };
    learn(
        &mut worker,
        Endpoint { port: 0, ..CLIENT },
        Remote { workload: client, service: None, pod: None, is_virtual: false, is_unserved: false },
    );
    learn(&mut worker, NETWORK.server, Remote { service: Some("cart".into()), ..replica("cart-1") });
    open(&mut worker, 256, 0, [CLIENT, NETWORK.server], Role::Client);
    talk(&mut worker, 256, 0, [Direction::Sent, Direction::Received]);
    close(&mut worker, 256, 0);
    let lines = parsed(&mut worker);
    assert_eq!(lines.len(), 2);
    for line in &lines {
        let names =
            ["client", "server"].map(|end| (line[end]["name"].as_str(), line[end]["namespace"].as_str(), line[end]["pod"].as_str()));
        assert_eq!(names, [(Some("front"), Some("shop"), None), (Some("cart"), Some("shop"), Some("cart-1"))], "{line}");
        assert_eq!((&line["server"]["service"], &line["process"]), (&"cart".into(), &serde_json::Value::Null), "{line}");
    }
    assert_eq!(lines[0]["side"], "unknown");
}

#[test]
fn a_connection_that_was_not_rewritten_says_no_more_than_its_ends() {
    let mut worker = worker();
    learn(&mut worker, NETWORK.server, replica("cart-1"));
    open(&mut worker, 256, 10, [CLIENT, NETWORK.server], Role::Client);
    talk(&mut worker, 256, 10, [Direction::Sent, Direction::Received]);
    close(&mut worker, 256, 10);
    assert!(parsed(&mut worker).iter().all(|line| line.get("network").is_none()));
}

#[test]
fn calls_to_a_service_without_endpoints_are_counted_as_such() {
    for (is_unserved, expected) in [(true, 2), (false, 0)] {
        let mut worker = worker();
        learn(&mut worker, DIALLED, service(is_unserved));
        for id in [256, 512] {
            let tuple = Tuple { local: CLIENT, remote: DIALLED, netns: 7 };
            feed(&mut worker, id, 10, Body::Fail { tuple, cgroup_id: 0, elapsed_ns: 0, error: 111, comm: Text::new("comm") });
        }
        let snapshot = snapshot(&mut worker);
        let [edge] = &snapshot.edges[..] else { panic!("{:?}", snapshot.edges) };
        assert_eq!((&*edge.key.server.workload.name, edge.connections_failed, edge.unserved_calls), ("cart", 2, expected));
    }
}

#[test]
fn a_request_that_nobody_answers_was_in_vain_only_if_it_was_dialled_so() {
    for (is_unserved, expected) in [(true, 1), (false, 0)] {
        let mut worker = worker();
        learn(&mut worker, DIALLED, service(is_unserved));
        open(&mut worker, 256, 10, [CLIENT, DIALLED], Role::Client);
        let request: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        feed(
            &mut worker,
            256,
            10,
            Body::Data { direction: Direction::Sent, offset: 0, size: request.len() as u32, unread: false, payload: request },
        );
        close(&mut worker, 256, 10);
        let edge = snapshot(&mut worker).edges.remove(0);
        assert_eq!((edge.requests, edge.unserved_calls), (1, expected));
    }
}

#[test]
fn replicas_are_met_behind_the_name_of_their_workload() {
    let mut worker = worker();
    for (place, name) in [(1, "cart-1"), (2, "cart-2"), (3, "cart-2")] {
        let server = end([10, 244, 2, place], 8_080);
        learn(&mut worker, server, replica(name));
        open(&mut worker, 256 * u64::from(place), 10, [CLIENT, server], Role::Client);
        talk(&mut worker, 256 * u64::from(place), 10, [Direction::Sent, Direction::Received]);
    }
    let snapshot = snapshot(&mut worker);
    let [edge] = &snapshot.edges[..] else { panic!("{:?}", snapshot.edges) };
    assert_eq!((edge.requests, &edge.key.server.instance, edge.key.server.address), (3, &None, None));
    let met = snapshot.workloads.sorted();
    let [(workload, cart)] = &met[..] else { panic!("{met:?}") };
    assert_eq!((&*workload.name, cart.replicas_seen(), cart.chart.as_deref(), cart.labels.len()), ("cart", 2, Some("shop-1.2"), 1));
}

#[test]
fn a_probe_does_not_use_what_listens() {
    for (comm, is_used) in [("kubelet", false), ("curl", true)] {
        let mut worker = worker();
        worker.around.names.learn(&Known::Process(Arc::new(Process { pid: 30, comm: comm.to_owned(), ..Process::default() })));
        let (client, server) = (end([127, 0, 0, 1], 40_000), end([127, 0, 0, 1], 80));
        feed(&mut worker, 0, 20, Body::Listen { local: server, netns: 7, cgroup_id: 0, closed: false, comm: Text::new("teller") });
        open(&mut worker, 256, 30, [client, server], Role::Client);
        open(&mut worker, 512, 20, [server, client], Role::Server);
        talk(&mut worker, 512, 20, [Direction::Received, Direction::Sent]);
        let report = worker.report(true);
        assert_eq!(report.shard.edges[0].1[Side::Server.index()].as_ref().unwrap().requests(), 1);
        assert_eq!((report.listeners.len(), report.listeners[0].last_exchange_ns.is_some()), (1, is_used), "{comm}");
    }
}
