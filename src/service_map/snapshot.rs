//! All workers' edges joined into one plain, sorted value that exporters share.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Histogram, Shard, SideCounts, UnservedService, Workloads,
    edges::{EdgeKey, Limits, Sides},
};
use crate::model::{Party, Protocol, Side};

/// One edge, each of its exchanges and bytes counted once.
///
/// When both ends are on this host each exchange is seen by the client's socket and by the server's. The two are kept apart in `sides`;
/// `requests`, `errors` and `durations` are those of the side that saw more requests, `bytes_*` those of the side that saw more bytes,
/// connection counts the larger of each, and a tie is the client's. (An edge of which some connections were seen by one side only and
/// others by the other only is therefore counted low.) Retransmits are summed: each socket counts only what it sent itself.
#[derive(Clone, Debug)]
pub struct Edge {
    pub key: Arc<EdgeKey>,
    /// Whose requests and durations these are.
    pub side: Side,
    pub requests: u64,
    pub errors: u64,
    pub durations: Histogram,
    /// From client to server.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub retransmits: u64,
    pub connections_opened: u64,
    pub connections_closed: u64,
    pub connections_failed: u64,
    /// [`SideCounts::unserved_calls`] of the side that saw most.
    pub unserved_calls: u64,
    pub sides: Sides,
}

impl Edge {
    /// What `side` saw, if anything.
    pub fn seen_by(&self, side: Side) -> Option<&SideCounts> {
        self.sides[side.index()].as_deref()
    }

    /// 0 without an answered request.
    pub fn quantile_ns(&self, q: f64) -> u64 {
        self.durations.quantile(q).unwrap_or(0)
    }

    fn new(key: Arc<EdgeKey>, sides: Sides) -> Self {
        let counts = |side: Side| sides[side.index()].as_deref();
        // `max_by_key` prefers the last of equals, so the order is turned round to let the client win.
        let most = |of: fn(&SideCounts) -> u64| Side::ALL.into_iter().rev().max_by_key(|side| counts(*side).map_or(0, of));
        let largest = |of: fn(&SideCounts) -> u64| Side::ALL.into_iter().filter_map(counts).map(of).max().unwrap_or(0);

        let mut side = most(SideCounts::requests).unwrap_or(Side::Client);
        if counts(side).is_none() {
            side = Side::ALL.into_iter().find(|side| counts(*side).is_some()).unwrap_or(side);
        }
        let of_requests = counts(side);
        let of_bytes = most(|counts| counts.connections.bytes_sent.saturating_add(counts.connections.bytes_received)).and_then(counts);
        Self {
            side,
            requests: of_requests.map_or(0, SideCounts::requests),
            errors: of_requests.map_or(0, SideCounts::errors),
            durations: of_requests.map(SideCounts::durations).unwrap_or_default(),
            bytes_sent: of_bytes.map_or(0, |counts| counts.connections.bytes_sent),
            bytes_received: of_bytes.map_or(0, |counts| counts.connections.bytes_received),
            retransmits: Side::ALL.into_iter().filter_map(counts).map(|counts| counts.connections.retransmits).sum(),
            connections_opened: largest(|counts| counts.connections.opened),
            connections_closed: largest(|counts| counts.connections.closed),
            connections_failed: largest(|counts| counts.connections.failed.iter().map(|(_, times)| times).sum()),
            unserved_calls: largest(|counts| counts.unserved_calls),
            key,
            sides,
        }
    }
}

/// A service that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// With the address and port it listens on.
    pub server: Party,
    /// When it was first seen listening, on the clock of the events.
    pub since_ns: u64,
    /// The end of its last exchange; `None` before the first.
    pub last_exchange_ns: Option<u64>,
}

/// A listening workload, or a Service of Kubernetes, that nobody used for a while.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdleService {
    pub server: Party,
    /// Since its last exchange, or since it was first seen.
    pub idle_ns: u64,
}

/// The services without an exchange for at least `after_ns`, sorted.
pub fn idle(listeners: impl IntoIterator<Item = Listener>, now_ns: u64, after_ns: u64) -> Vec<IdleService> {
    let idle_for = |listener: Listener| {
        let active_ns = listener.last_exchange_ns.map_or(listener.since_ns, |last_ns| last_ns.max(listener.since_ns));
        IdleService { server: listener.server, idle_ns: now_ns.saturating_sub(active_ns) }
    };
    let mut idle: Vec<_> = listeners.into_iter().map(idle_for).filter(|service| service.idle_ns >= after_ns).collect();
    idle.sort_unstable();
    idle
}

/// The service map at one moment; share it as an `Arc`.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// On the clock of the events.
    pub taken_ns: u64,
    /// Sorted by key.
    pub edges: Vec<Edge>,
    pub idle: Vec<IdleService>,
    /// Calls to Services while they had no ready endpoint, sorted.
    pub unserved: Vec<UnservedService>,
    pub workloads: Workloads,
    /// Every exchange seen, those of both sides of an edge included: as many as there are exchange lines.
    pub exchanges: u64,
    /// The same by protocol, sorted by name; only protocols that were seen.
    pub by_protocol: Vec<(Protocol, u64)>,
    /// How often an edge beyond the limit was folded into "other".
    pub folded_edges: u64,
}

impl Snapshot {
    /// Joins the shards by key; the result does not depend on their order but for the choice among equally busy resources.
    pub fn merge(taken_ns: u64, shards: impl IntoIterator<Item = Shard>, idle: Vec<IdleService>) -> Self {
        let mut joined: BTreeMap<Arc<EdgeKey>, Sides> = BTreeMap::new();
        let mut folded_edges = 0;
        let mut workloads = Workloads::default();
        for shard in shards {
            workloads.merge(shard.workloads);
            folded_edges += shard.folded;
            for (key, sides) in shard.edges {
                join(joined.entry(key).or_default(), sides, &shard.limits);
            }
        }
        let edges: Vec<_> = joined.into_iter().map(|(key, sides)| Edge::new(key, sides)).collect();
        let mut by_protocol: BTreeMap<&str, (Protocol, u64)> = BTreeMap::new();
        for edge in &edges {
            let seen: u64 = edge.sides.iter().flatten().map(|counts| counts.requests()).sum();
            if seen > 0 {
                by_protocol.entry(edge.key.protocol.name()).or_insert((edge.key.protocol, 0)).1 += seen;
            }
        }
        let by_protocol: Vec<_> = by_protocol.into_values().collect();
        let exchanges = by_protocol.iter().map(|(_, count)| count).sum();
        Self { taken_ns, edges, idle, unserved: Vec::new(), workloads, exchanges, by_protocol, folded_edges }
    }
}

fn join(into: &mut Sides, from: Sides, limits: &Limits) {
    for (into, from) in into.iter_mut().zip(from) {
        match (into, from) {
            (Some(into), Some(from)) => into.merge(limits, &from),
            (into @ None, from) => *into = from,
            (Some(_), None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Exchange,
        service_map::{
            Closing, ServiceMap,
            fixtures::{exchange, key, party},
        },
    };

    fn map(record: impl FnOnce(&mut ServiceMap, super::super::EdgeId)) -> Shard {
        let mut map = ServiceMap::new(Limits::default());
        let edge = map.intern(&key("curl", "nginx"));
        record(&mut map, edge);
        map.shard()
    }

    #[test]
    fn an_exchange_seen_by_both_sides_counts_once() {
        let shard = map(|map, edge| {
            for side in [Side::Client, Side::Server, Side::Server] {
                map.record(edge, side, &Exchange { error: side == Side::Server, ..exchange(1_000) });
            }
            map.bytes(edge, Side::Client, 30, 70);
            map.bytes(edge, Side::Server, 50, 20);
        });
        let snapshot = Snapshot::merge(7, [shard], Vec::new());
        let edge = &snapshot.edges[0];
        assert_eq!((edge.side, edge.requests, edge.errors, edge.durations.count()), (Side::Server, 2, 2, 2));
        assert_eq!((edge.bytes_sent, edge.bytes_received), (30, 70));
        assert_eq!((snapshot.exchanges, snapshot.by_protocol.as_slice()), (3, &[(Protocol::Http, 3)][..]));
        assert_eq!(edge.seen_by(Side::Client).unwrap().requests(), 1);
    }

    #[test]
    fn a_tie_is_the_clients() {
        let shard = map(|map, edge| {
            map.record(edge, Side::Server, &exchange(5_000));
            map.record(edge, Side::Client, &exchange(9_000));
        });
        let edge = &Snapshot::merge(0, [shard], Vec::new()).edges[0];
        assert_eq!((edge.side, edge.quantile_ns(0.5)), (Side::Client, 9_000));
    }

    #[test]
    fn an_edge_without_exchanges_names_the_side_that_saw_it() {
        let shard = map(|map, edge| map.failed(edge, Side::Server, 104));
        let edge = &Snapshot::merge(0, [shard], Vec::new()).edges[0];
        assert_eq!((edge.side, edge.connections_failed, edge.quantile_ns(0.5)), (Side::Server, 1, 0));
    }

    #[test]
    fn shards_join_by_key_in_any_order() {
        let shards = || {
            let first = map(|map, edge| {
                map.opened(edge, Side::Client);
                map.record(edge, Side::Client, &exchange(1_000));
                map.failed(edge, Side::Client, 111);
            });
            let second = map(|map, edge| {
                map.record(edge, Side::Client, &exchange(3_000));
                map.record(edge, Side::Client, &Exchange { status: "500", error: true, ..exchange(2_000) });
                map.failed(edge, Side::Client, 111);
                map.retransmits(edge, Side::Client, 2);
                map.closed(edge, Side::Server, &Closing { retransmits: 3, ..Closing::default() });
                let another = map.intern(&key("alpha", "nginx"));
                map.record(another, Side::Unknown, &exchange(4_000));
            });
            [first, second]
        };
        let snapshot = Snapshot::merge(0, shards(), Vec::new());
        let names: Vec<_> = snapshot.edges.iter().map(|edge| &*edge.key.client.workload.name).collect();
        assert_eq!(names, ["alpha", "curl"]);
        let edge = &snapshot.edges[1];
        assert_eq!((edge.requests, edge.errors, edge.retransmits), (3, 1, 5));
        assert_eq!((edge.connections_opened, edge.connections_closed, edge.connections_failed), (1, 1, 2));
        assert_eq!(edge.seen_by(Side::Client).unwrap().connections.failed, [(111, 2)]);

        let [first, second] = shards();
        let turned = Snapshot::merge(0, [second, first], Vec::new());
        assert_eq!((turned.edges[1].requests, &turned.edges[1].durations), (3, &edge.durations));
        assert_eq!(turned.by_protocol, snapshot.by_protocol);
    }

    #[test]
    fn a_listener_is_idle_after_the_set_time_without_an_exchange() {
        let listener = |name, since_ns, last_exchange_ns| Listener { server: party(name), since_ns, last_exchange_ns };
        let listeners =
            [listener("used", 0, Some(950)), listener("forgotten", 0, Some(800)), listener("never", 100, None), listener("new", 990, None)];
        let found: Vec<_> =
            idle(listeners, 1_000, 200).into_iter().map(|service| (service.server.workload.name.to_string(), service.idle_ns)).collect();
        assert_eq!(found, [("forgotten".into(), 200), ("never".into(), 900)]);
    }
}
