//! A small world for the tests of this room: curl asks nginx, nginx asks postgres, backup fails to connect.

use std::sync::Arc;

use super::{ClusterHealth, ConntrackHealth, KindHealth, MapFill, ProgramCost, Published, SelfMetrics, Surroundings, WatchState};
use crate::{
    model::{Exchange, Instance, Party, Protocol, ServiceName, Side, Workload, WorkloadKind},
    service_map::{
        EdgeKey, IdleService, Limits, ServiceMap, ServiceState, ServiceWatch, Snapshot,
        fixtures::{exchange, key, party, pod_party},
    },
};

/// After `rounds` rounds, one a second: each has 8 requests from curl to nginx, one of them an error, and 2 statements.
pub(super) fn published(rounds: u64) -> Published {
    let mut map = ServiceMap::new(Limits::default());
    let front = map.intern(&key("curl", "nginx"));
    let container = Instance { container_id: Some("0123456789abcdef".into()), ..Instance::default() };
    let database = Party { instance: Some(Arc::new(container)), port: Some(5432), ..party("postgres") };
    let back = map.intern(&EdgeKey { client: party("nginx"), server: database, protocol: Protocol::Postgresql });
    let nowhere = Workload::of_address([10, 1, 2, 3].into());
    let nowhere = Party { address: Some([10, 1, 2, 3].into()), port: Some(22), ..Party::new(nowhere) };
    let lost = map.intern(&EdgeKey { client: party("backup"), server: nowhere, protocol: Protocol::Unknown });
    for _ in 0..rounds {
        for side in [Side::Client, Side::Server] {
            for n in 1..=7 {
                map.record(front, side, &Exchange { resource: "/cart", ..exchange(n * 1_000_000) });
            }
            map.record(front, side, &Exchange { status: "503", error: true, resource: "/slow", ..exchange(900_000_000) });
        }
        let select =
            Exchange { protocol: Protocol::Postgresql, operation: "SELECT", resource: "SELECT ?", status: "", ..exchange(300_000) };
        map.record(back, Side::Client, &select);
        map.record(back, Side::Client, &Exchange { status: "42P01", error: true, ..select });
        map.opened(front, Side::Client);
        map.bytes(front, Side::Client, 800, 8_000);
        map.srtt(front, Side::Client, 250);
        map.retransmits(front, Side::Server, 1);
        map.failed(lost, Side::Client, 111);
    }
    let idle = vec![IdleService { server: Party { port: Some(9000), ..party("php") }, idle_ns: 60_000_000_000 }];
    Published {
        snapshot: Arc::new(Snapshot::merge(rounds * 1_000_000_000, [map.shard()], idle)),
        self_metrics: SelfMetrics {
            events: vec![("data".into(), rounds * 100), ("open".into(), rounds)],
            lost: vec![("ring_full".into(), 0), ("parse_gap".into(), 2)],
            queue_depths: vec![("worker-0".into(), 3)],
            maps: vec![MapFill { name: "conns".into(), entries: 5, capacity: 1_000 }],
            programs: vec![ProgramCost { name: "on_send".into(), run_time_ns: 400_000, run_count: 1_000 }],
            resident_bytes: 20_000_000,
            cpu_seconds: 1.5,
        },
        surroundings: Surroundings::default(),
        ready: true,
        host: "ship".into(),
        hooks: "socket".into(),
        uptime_ns: rounds * 1_000_000_000,
    }
}

/// A copy of 40 objects whose last word is three minutes old.
pub(super) fn kind_health(kind: &'static str, state: WatchState) -> KindHealth {
    KindHealth { kind: kind.into(), state, objects: 40, events: 7, relists: 2, silence_ns: 180_000_000_000, error: None }
}

/// One of a workload's pods, as edges have it with `--detail pod`.
pub(super) fn pod(namespace: &str, workload: &str, pod: &str) -> Party {
    let labels = [("app.kubernetes.io/part-of".into(), "shop".into()), ("pod".into(), pod.into())];
    let instance = Instance { pod: Some(pod.into()), node: Some("node-1".into()), labels: labels.into(), ..Instance::default() };
    Party {
        release: Some("shop".into()),
        chart: Some("shop-1.2".into()),
        instance: Some(Arc::new(instance)),
        ..pod_party(namespace, workload)
    }
}

/// What edges have of it by default.
pub(super) fn lasting(party: &Party) -> Party {
    Party { address: None, instance: None, ..party.clone() }
}

/// A cluster: web in the namespace shop asks cart by its Service, cart asks postgres in data, web asks a name outside, and calls a
/// Service that nobody serves. Edges tell pods apart if `per_pod`.
pub(super) fn cluster(per_pod: bool) -> Published {
    let mut map = ServiceMap::new(Limits::default());
    let (web, cart, postgres) = (pod("shop", "web", "web-5f-a"), pod("shop", "cart", "cart-77-b"), pod("data", "postgres", "postgres-0"));
    let seen = |party: &Party| if per_pod { party.clone() } else { lasting(party) };
    for party in [&web, &cart, &postgres, &pod("shop", "web", "web-5f-c")] {
        map.meet(party, 1);
    }
    let called = |party: &Party, service: &str, port| Party { service: Some(service.into()), port: Some(port), ..seen(party) };
    let gone = Workload { namespace: Some("shop".into()), ..Workload::new(WorkloadKind::Service, "gone") };
    let pay = Party { port: Some(443), ..Party::new(Workload::of_domain("api.pay.test".into())) };
    let edges = [
        (seen(&web), called(&cart, "cart-api", 8080), Protocol::Http),
        (seen(&cart), called(&postgres, "db", 5432), Protocol::Postgresql),
        (seen(&web), pay, Protocol::Tls),
        (seen(&web), Party { port: Some(80), ..Party::new(gone) }, Protocol::Unknown),
    ];
    let ids = edges.map(|(client, server, protocol)| (map.intern(&EdgeKey { client, server, protocol }), protocol));
    for (edge, protocol) in &ids[..2] {
        map.record(*edge, Side::Client, &Exchange { protocol: *protocol, resource: "/cart", ..exchange(1_000_000) });
        map.bytes(*edge, Side::Client, 100, 1_000);
    }
    map.bytes(ids[2].0, Side::Client, 50, 500);
    map.failed(ids[3].0, Side::Client, 111);
    map.unserved(ids[3].0, Side::Client);

    let mut snapshot = Snapshot::merge(400_000_000_000, [map.shard()], Vec::new());
    let state = |name: &str, is_here, is_unserved| ServiceState {
        name: ServiceName { namespace: "shop".into(), name: name.into() },
        is_here,
        is_unserved,
    };
    let states = [state("cart-api", true, false), state("legacy", true, false), state("gone", false, true)];
    let mut watch = ServiceWatch::default();
    watch.idle(&states, &[], 0, 1);
    snapshot.idle = watch.idle(&states, &snapshot.edges, 400_000_000_000, 300_000_000_000);
    snapshot.unserved = watch.unserved(&states, &snapshot.edges, 400_000_000_000);
    let kinds = vec![kind_health("pods", WatchState::Stale), kind_health("services", WatchState::Synced)];
    let surroundings = Surroundings {
        kubernetes: Some(ClusterHealth { server: "https://10.96.0.1:443".to_owned(), kinds }),
        conntrack: Some(ConntrackHealth { asked: 10, found: 7, failed: 1, error: None }),
        ..Surroundings::default()
    };
    Published { snapshot: Arc::new(snapshot), surroundings, ready: true, host: "node-1".into(), ..Published::default() }
}
