//! One worker's share of the service map: edges named once, then counted without allocation or locks.

use std::{hash::BuildHasher, hash::Hasher, sync::Arc};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::{Closing, Connections, Route, Routes, SideCounts, Workloads, side::Words};
use crate::model::{Exchange, Party, Protocol, Side, Workload, WorkloadKind};

/// The name of whatever was folded because a bound was reached.
pub const OTHER: &str = "other";
/// Operations and statuses are short words; longer ones are cut here, at a character.
const MAX_WORD: usize = 64;
/// Statements and paths in the resource table are cut here.
const MAX_RESOURCE: usize = 256;

/// What makes two exchanges belong to the same edge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EdgeKey {
    pub client: Party,
    pub server: Party,
    pub protocol: Protocol,
}

/// An edge of the [`ServiceMap`] that gave it out; valid for that map's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeId(u32);

/// A template of the paths of an edge's server, given out by [`ServiceMap::record`].
#[derive(Clone, Copy, Debug)]
pub struct PathRoute {
    /// `None` beyond [`Limits::routed`].
    server: Option<u32>,
    route: Option<Route>,
}

impl PathRoute {
    fn text(self, routes: &[Routes]) -> &str {
        let routes = self.server.and_then(|server| routes.get(server as usize));
        routes.zip(self.route).map_or(OTHER, |(routes, route)| routes.text(route))
    }
}

/// Bounds of the map's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Edges of one shard; more are folded into one edge "other" per protocol.
    pub edges: usize,
    /// Series per side of an edge, at most 250. A third of them is kept for what comes when the others are taken: those have the route
    /// "other". More are folded into the pair "other", "other".
    pub series: usize,
    /// Servers whose paths are made into templates; the paths of others have the route "other".
    pub routed: usize,
    /// Entries of the resource table per side of an edge, at most 255; 0 keeps none.
    pub resources: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { edges: 10_000, series: 96, routed: 256, resources: 16 }
    }
}

/// The sides of one edge, by [`Side::index`]; `None` where nothing was seen.
pub type Sides = [Option<Box<SideCounts>>; 3];

/// A plain copy of a [`ServiceMap`], for [`super::Snapshot::merge`].
#[derive(Clone, Debug)]
pub struct Shard {
    pub edges: Vec<(Arc<EdgeKey>, Sides)>,
    pub workloads: Workloads,
    /// How often an edge could not be given its own place.
    pub folded: u64,
    pub limits: Limits,
}

/// The edges that one worker counts.
#[derive(Debug)]
pub struct ServiceMap {
    limits: Limits,
    ids: HashMap<Arc<EdgeKey>, EdgeId>,
    edges: Vec<(Arc<EdgeKey>, Sides)>,
    /// By edge: the place of its server in `routes`.
    routed: Vec<Option<u32>>,
    servers: HashMap<Party, u32>,
    routes: Vec<Routes>,
    workloads: Workloads,
    folded: u64,
    resource_hash: RandomState,
}

impl ServiceMap {
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { resources: limits.resources.min(255), series: limits.series.min(250), ..limits };
        Self {
            limits,
            ids: HashMap::new(),
            edges: Vec::new(),
            routed: Vec::new(),
            servers: HashMap::new(),
            routes: Vec::new(),
            workloads: Workloads::default(),
            folded: 0,
            resource_hash: RandomState::default(),
        }
    }

    /// The edge of this key; beyond the limit that of "other" in the same protocol. Look it up once a connection, not once an exchange.
    pub fn intern(&mut self, key: &EdgeKey) -> EdgeId {
        if let Some(id) = self.ids.get(key) {
            return *id;
        }
        if self.edges.len() < self.limits.edges {
            return self.add(key.clone());
        }
        self.folded += 1;
        let other = EdgeKey { client: other(), server: other(), protocol: key.protocol };
        match self.ids.get(&other) {
            Some(id) => *id,
            None => self.add(other),
        }
    }

    /// Counts one exchange that `side` saw. Does not allocate but for what was never seen before. The template of the exchange's path is
    /// learned, counted under, and given back for [`ServiceMap::route_text`]; `None` where the resource is no path.
    #[inline]
    pub fn record(&mut self, edge: EdgeId, side: Side, exchange: &Exchange<'_>) -> Option<PathRoute> {
        let found = self.edges.get_mut(edge.0 as usize);
        debug_assert!(found.is_some(), "an edge of another map");
        let (_, sides) = found?;
        let counts = &mut **sides[side.index()].get_or_insert_default();
        let route = has_path(exchange).then(|| {
            let server = self.routed.get(edge.0 as usize).copied().flatten();
            let route = server.and_then(|server| self.routes.get_mut(server as usize)).map(|routes| routes.route(exchange.resource));
            PathRoute { server, route }
        });
        let template = route.map_or("", |route| route.text(&self.routes));
        let limits = &self.limits;
        let duration_ns = exchange.end_ns.saturating_sub(exchange.start_ns);
        let (operation, status) = (cut(exchange.operation, MAX_WORD), cut(exchange.status, MAX_WORD));
        let series = counts.series(limits.series, &Words { operation, status, route: template, error: exchange.error });
        series.requests += 1;
        if exchange.first_byte_ns.is_some() {
            series.durations.record(duration_ns);
        }
        if limits.resources > 0 {
            let resource = cut(if template.is_empty() { exchange.resource } else { template }, MAX_RESOURCE);
            let mut hasher = self.resource_hash.build_hasher();
            hasher.write(operation.as_bytes());
            hasher.write(resource.as_bytes());
            counts.resources.record(limits.resources, hasher.finish(), operation, resource, duration_ns, exchange.error);
        }
        route
    }

    /// A template as it is shown.
    pub fn route_text(&self, route: PathRoute) -> &str {
        route.text(&self.routes)
    }

    pub fn opened(&mut self, edge: EdgeId, side: Side) {
        self.count(edge, side, |connections| connections.opened += 1);
    }

    pub fn closed(&mut self, edge: EdgeId, side: Side, closing: &Closing) {
        self.bytes(edge, side, closing.bytes_sent, closing.bytes_received);
        self.retransmits(edge, side, closing.retransmits);
        self.srtt(edge, side, closing.srtt_us);
        self.count(edge, side, |connections| connections.closed += 1);
    }

    /// A connection that never came to be; `error` is the kernel's number.
    pub fn failed(&mut self, edge: EdgeId, side: Side, error: u32) {
        self.count(edge, side, |connections| connections.fail(error, 1));
    }

    /// A call to a Service that had no ready endpoint came to nothing.
    pub fn unserved(&mut self, edge: EdgeId, side: Side) {
        if let Some(counts) = self.side(edge, side) {
            counts.unserved_calls += 1;
        }
    }

    /// Somebody was at an end of a connection, with all that is known of which pod of its workload it is.
    pub fn meet(&mut self, party: &Party, now_ns: u64) {
        self.workloads.meet(party, now_ns);
    }

    /// Bytes that the watched socket has moved since it was last told; frames seen on the way count as the client's.
    pub fn bytes(&mut self, edge: EdgeId, side: Side, sent: u64, received: u64) {
        let (request, response) = if side == Side::Server { (received, sent) } else { (sent, received) };
        self.count(edge, side, |connections| {
            connections.bytes_sent = connections.bytes_sent.saturating_add(request);
            connections.bytes_received = connections.bytes_received.saturating_add(response);
        });
    }

    /// Segments that the watched socket has sent again since it was last told.
    pub fn retransmits(&mut self, edge: EdgeId, side: Side, more: u32) {
        self.count(edge, side, |connections| connections.retransmits += u64::from(more));
    }

    /// A sample of the smoothed round-trip time; 0 is "not measured" and is passed over.
    pub fn srtt(&mut self, edge: EdgeId, side: Side, srtt_us: u32) {
        if srtt_us > 0 {
            self.count(edge, side, |connections| connections.srtt.record(u64::from(srtt_us) * 1_000));
        }
    }

    pub fn len(&self) -> usize {
        self.edges.len()
    }

    pub fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    /// A copy of all counts: some kilobytes an edge, so for every second, not for every event.
    pub fn shard(&self) -> Shard {
        Shard { edges: self.edges.clone(), workloads: self.workloads.clone(), folded: self.folded, limits: self.limits }
    }

    fn add(&mut self, key: EdgeKey) -> EdgeId {
        let id = EdgeId(self.edges.len() as u32);
        let key = Arc::new(key);
        let server = self.server(&key.server);
        self.routed.push(server);
        self.ids.insert(Arc::clone(&key), id);
        self.edges.push((key, Sides::default()));
        id
    }

    /// The place of a server in `routes`, if there is room.
    fn server(&mut self, server: &Party) -> Option<u32> {
        if let Some(known) = self.servers.get(server) {
            return Some(*known);
        }
        (self.routes.len() < self.limits.routed).then(|| {
            let place = self.routes.len() as u32;
            self.routes.push(Routes::default());
            self.servers.insert(server.clone(), place);
            place
        })
    }

    #[inline]
    fn side(&mut self, edge: EdgeId, side: Side) -> Option<&mut SideCounts> {
        let found = self.edges.get_mut(edge.0 as usize);
        debug_assert!(found.is_some(), "an edge of another map");
        found.map(|(_, sides)| &mut **sides[side.index()].get_or_insert_default())
    }

    fn count(&mut self, edge: EdgeId, side: Side, change: impl FnOnce(&mut Connections)) {
        if let Some(counts) = self.side(edge, side) {
            change(&mut counts.connections);
        }
    }
}

/// Everything beyond a bound.
fn other() -> Party {
    Party::new(Workload::new(WorkloadKind::Other, OTHER))
}

/// CONNECT and `OPTIONS *` have no path.
#[inline]
fn has_path(exchange: &Exchange<'_>) -> bool {
    matches!(exchange.protocol, Protocol::Http | Protocol::Http2 | Protocol::Websocket) && exchange.resource.starts_with('/')
}

/// The front of `text`, at most `limit` bytes, ending at a character.
#[inline]
fn cut(text: &str, limit: usize) -> &str {
    if text.len() <= limit { text } else { &text[..text.floor_char_boundary(limit)] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service_map::fixtures::{exchange, key};

    #[test]
    fn the_same_key_is_the_same_edge() {
        let mut map = ServiceMap::new(Limits::default());
        let a = map.intern(&key("curl", "nginx"));
        let b = map.intern(&key("curl", "other-nginx"));
        assert_eq!(map.intern(&key("curl", "nginx")), a);
        assert_ne!(a, b);
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn edges_beyond_the_limit_share_one_and_are_counted() {
        let mut map = ServiceMap::new(Limits { edges: 2, ..Limits::default() });
        let known = map.intern(&key("a", "nginx"));
        map.intern(&key("b", "nginx"));
        let (c, d) = (map.intern(&key("c", "nginx")), map.intern(&key("d", "nginx")));
        assert_eq!(c, d);
        assert_eq!(map.intern(&key("a", "nginx")), known);
        let shard = map.shard();
        assert_eq!((shard.edges.len(), shard.folded), (3, 2));
        assert_eq!(&*shard.edges[2].0.client.workload.name, OTHER);
        assert_eq!(shard.edges[2].0.protocol, Protocol::Http);
    }

    #[test]
    fn operations_beyond_the_limit_share_one_series_per_outcome() {
        let mut map = ServiceMap::new(Limits { series: 2, ..Limits::default() });
        let edge = map.intern(&key("curl", "nginx"));
        for (operation, error) in [("GET", false), ("PUT", false), ("A", false), ("B", false), ("C", true), ("GET", false)] {
            map.record(edge, Side::Client, &Exchange { operation, error, ..exchange(1_000) });
        }
        let shard = map.shard();
        let counts = shard.edges[0].1[Side::Client.index()].as_ref().unwrap();
        let series: Vec<_> = counts.series.iter().map(|series| (&*series.operation, series.error, series.requests)).collect();
        assert_eq!(series, [("GET", false, 2), ("PUT", false, 1), (OTHER, false, 2), (OTHER, true, 1)]);
        assert_eq!((counts.requests(), counts.errors()), (6, 1));
    }

    #[test]
    fn long_words_are_cut_at_a_character_and_found_again() {
        let mut map = ServiceMap::new(Limits::default());
        let edge = map.intern(&key("curl", "nginx"));
        let long = format!("x{}", "é".repeat(200));
        for _ in 0..3 {
            map.record(edge, Side::Client, &Exchange { operation: &long, resource: &long, ..exchange(1_000) });
        }
        let shard = map.shard();
        let counts = shard.edges[0].1[Side::Client.index()].as_ref().unwrap();
        assert_eq!((counts.series.len(), counts.series[0].operation.len()), (1, 63));
        assert_eq!((counts.resources.entries().len(), counts.resources.entries()[0].resource.len()), (1, 255));
    }

    #[test]
    fn unanswered_requests_count_but_have_no_duration() {
        let mut map = ServiceMap::new(Limits::default());
        let edge = map.intern(&key("curl", "nginx"));
        map.record(edge, Side::Client, &Exchange { first_byte_ns: None, ..exchange(1_000) });
        let shard = map.shard();
        let counts = shard.edges[0].1[Side::Client.index()].as_ref().unwrap();
        assert_eq!((counts.requests(), counts.durations().count()), (1, 0));
    }

    #[test]
    fn bytes_flow_from_client_to_server_whoever_counts() {
        let mut map = ServiceMap::new(Limits::default());
        let edge = map.intern(&key("curl", "nginx"));
        map.bytes(edge, Side::Client, 10, 500);
        map.closed(edge, Side::Server, &Closing { bytes_sent: 500, bytes_received: 10, retransmits: 2, srtt_us: 40 });
        let shard = map.shard();
        for side in [Side::Client, Side::Server] {
            let connections = &shard.edges[0].1[side.index()].as_ref().unwrap().connections;
            assert_eq!((connections.bytes_sent, connections.bytes_received), (10, 500), "{side:?}");
        }
        let server = &shard.edges[0].1[Side::Server.index()].as_ref().unwrap().connections;
        assert_eq!((server.closed, server.retransmits, server.srtt.max_ns()), (1, 2, Some(40_000)));
    }
}
