//! A small world for the tests of this room: curl asks nginx, nginx asks postgres, backup fails to connect.

use std::sync::Arc;

use super::{MapFill, ProgramCost, Published, SelfMetrics};
use crate::{
    model::{Exchange, Instance, Party, Protocol, Side, Workload},
    service_map::{
        EdgeKey, IdleService, Limits, ServiceMap, Snapshot,
        fixtures::{exchange, key, party},
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
        ready: true,
        host: "ship".into(),
        hooks: "socket".into(),
        uptime_ns: rounds * 1_000_000_000,
    }
}
