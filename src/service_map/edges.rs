//! One worker's share of the service map: edges named once, then counted without allocation or locks.

use std::{hash::BuildHasher, hash::Hasher, net::IpAddr, sync::Arc};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::{Histogram, Resources};
use crate::model::{Exchange, Protocol, Side, Workload, WorkloadKind};

/// The name of whatever was folded because a bound was reached.
pub const OTHER: &str = "other";
/// Operations and statuses are short words; longer ones are cut here, at a character.
const MAX_WORD: usize = 64;
/// Statements and paths in the resource table are cut here.
const MAX_RESOURCE: usize = 256;
/// Direct-mapped positions of series; a power of two.
const FOUND: usize = 64;
/// Different connect errors kept per side; an edge has a handful.
const MAX_ERRORS: usize = 16;

/// One end of an edge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Party {
    pub workload: Workload,
    pub address: Option<IpAddr>,
    /// Servers only: a client's port changes with every connection.
    pub port: Option<u16>,
    pub container_id: Option<Arc<str>>,
}

impl Party {
    /// Everything beyond a bound.
    pub fn other() -> Self {
        Self { workload: Workload { name: OTHER.into(), kind: WorkloadKind::Other }, address: None, port: None, container_id: None }
    }
}

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

/// Bounds of the map's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Edges of one shard; more are folded into one edge "other" per protocol.
    pub edges: usize,
    /// Pairs of operation and status per side of an edge, at most 250; more are folded into the pair "other", "other".
    pub series: usize,
    /// Entries of the resource table per side of an edge, at most 255; 0 keeps none.
    pub resources: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { edges: 10_000, series: 32, resources: 16 }
    }
}

/// All exchanges of one operation that ended the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    pub operation: Box<str>,
    pub status: Box<str>,
    pub error: bool,
    pub requests: u64,
    /// Of the answered requests, from the first byte of the request to the last of the response.
    pub durations: Histogram,
}

impl Series {
    #[inline]
    fn is(&self, operation: &str, status: &str, error: bool) -> bool {
        self.error == error && *self.status == *status && *self.operation == *operation
    }
}

/// What happened to connections, as one side's sockets saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    pub opened: u64,
    pub closed: u64,
    /// (error number, how often), ascending; number 0 counts those beyond a bound of different errors.
    pub failed: Vec<(u32, u64)>,
    /// From client to server, whichever side counted.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub retransmits: u64,
    /// Samples of the smoothed round-trip time.
    pub srtt: Histogram,
}

impl Connections {
    fn fail(&mut self, error: u32, times: u64) {
        let known = self.failed.binary_search_by_key(&error, |(error, _)| *error);
        match known {
            Ok(position) => self.failed[position].1 += times,
            Err(_) if self.failed.len() >= MAX_ERRORS && error != 0 => self.fail(0, times),
            Err(position) => self.failed.insert(position, (error, times)),
        }
    }

    fn merge(&mut self, other: &Connections) {
        self.opened += other.opened;
        self.closed += other.closed;
        other.failed.iter().for_each(|(error, times)| self.fail(*error, *times));
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.retransmits += other.retransmits;
        self.srtt.merge(&other.srtt);
    }
}

/// What is left to tell when a connection closes: only what [`ServiceMap::bytes`] and [`ServiceMap::retransmits`] have not been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closing {
    /// Of the watched socket.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub retransmits: u32,
    /// 0 where it was never measured.
    pub srtt_us: u32,
}

/// All that one side saw of an edge.
#[derive(Clone, Debug)]
pub struct SideCounts {
    pub series: Vec<Series>,
    pub connections: Connections,
    pub resources: Resources,
    /// Where series were found by a cheap hash of their words: a mix of operations is then as quick as one alone.
    found: [u8; FOUND],
}

impl Default for SideCounts {
    fn default() -> Self {
        Self { series: Vec::new(), connections: Connections::default(), resources: Resources::default(), found: [0; FOUND] }
    }
}

impl SideCounts {
    pub fn requests(&self) -> u64 {
        self.series.iter().map(|series| series.requests).sum()
    }

    pub fn errors(&self) -> u64 {
        self.series.iter().filter(|series| series.error).map(|series| series.requests).sum()
    }

    pub fn durations(&self) -> Histogram {
        let mut all = Histogram::default();
        self.series.iter().for_each(|series| all.merge(&series.durations));
        all
    }

    /// The series of these words; new if there is room, else the overflow series.
    #[inline]
    fn series(&mut self, limit: usize, operation: &str, status: &str, error: bool) -> &mut Series {
        let (operation, status) = (cut(operation, MAX_WORD), cut(status, MAX_WORD));
        let slot = word_hash(operation, status);
        let mut position = usize::from(self.found[slot]);
        if !self.series.get(position).is_some_and(|series| series.is(operation, status, error)) {
            position = self.find(limit, operation, status, error);
            self.found[slot] = position as u8;
        }
        &mut self.series[position]
    }

    #[inline(never)]
    fn find(&mut self, limit: usize, operation: &str, status: &str, error: bool) -> usize {
        if let Some(position) = self.series.iter().position(|series| series.is(operation, status, error)) {
            return position;
        }
        // Two places beyond the limit are for the overflow series, one for errors and one for the rest.
        let (operation, status) = if self.series.len() < limit { (operation, status) } else { (OTHER, OTHER) };
        self.series.iter().position(|series| series.is(operation, status, error)).unwrap_or_else(|| {
            let new = Series { operation: operation.into(), status: status.into(), error, requests: 0, durations: Histogram::default() };
            self.series.push(new);
            self.series.len() - 1
        })
    }

    pub(super) fn merge(&mut self, limits: &Limits, other: &SideCounts) {
        for series in &other.series {
            let own = self.series(limits.series, &series.operation, &series.status, series.error);
            own.requests += series.requests;
            own.durations.merge(&series.durations);
        }
        self.connections.merge(&other.connections);
        self.resources.merge(limits.resources, &other.resources);
    }
}

/// The sides of one edge, by [`Side::index`]; `None` where nothing was seen.
pub type Sides = [Option<Box<SideCounts>>; 3];

/// A plain copy of a [`ServiceMap`], for [`super::Snapshot::merge`].
#[derive(Clone, Debug)]
pub struct Shard {
    pub edges: Vec<(Arc<EdgeKey>, Sides)>,
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
    folded: u64,
    resource_hash: RandomState,
}

impl ServiceMap {
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { resources: limits.resources.min(255), series: limits.series.min(250), ..limits };
        Self { limits, ids: HashMap::new(), edges: Vec::new(), folded: 0, resource_hash: RandomState::default() }
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
        let other = EdgeKey { client: Party::other(), server: Party::other(), protocol: key.protocol };
        match self.ids.get(&other) {
            Some(id) => *id,
            None => self.add(other),
        }
    }

    /// Counts one exchange that `side` saw. Does not allocate but for what was never seen before.
    #[inline]
    pub fn record(&mut self, edge: EdgeId, side: Side, exchange: &Exchange<'_>) {
        let limits = self.limits;
        let hash = if limits.resources > 0 { self.hash(exchange) } else { 0 };
        let Some(counts) = self.side(edge, side) else { return };
        let duration_ns = exchange.end_ns.saturating_sub(exchange.start_ns);
        let series = counts.series(limits.series, exchange.operation, exchange.status, exchange.error);
        series.requests += 1;
        if exchange.first_byte_ns.is_some() {
            series.durations.record(duration_ns);
        }
        if limits.resources > 0 {
            let (operation, resource) = (cut(exchange.operation, MAX_WORD), cut(exchange.resource, MAX_RESOURCE));
            counts.resources.record(limits.resources, hash, operation, resource, duration_ns, exchange.error);
        }
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

    /// Bytes that the watched socket has moved since it was last told; frames seen on the way count as the client's.
    pub fn bytes(&mut self, edge: EdgeId, side: Side, sent: u64, received: u64) {
        let (request, response) = if side == Side::Server { (received, sent) } else { (sent, received) };
        self.count(edge, side, |connections| {
            connections.bytes_sent += request;
            connections.bytes_received += response;
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
        Shard { edges: self.edges.clone(), folded: self.folded, limits: self.limits }
    }

    fn add(&mut self, key: EdgeKey) -> EdgeId {
        let id = EdgeId(self.edges.len() as u32);
        let key = Arc::new(key);
        self.ids.insert(Arc::clone(&key), id);
        self.edges.push((key, Sides::default()));
        id
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

    #[inline]
    fn hash(&self, exchange: &Exchange<'_>) -> u64 {
        let mut hasher = self.resource_hash.build_hasher();
        hasher.write(cut(exchange.operation, MAX_WORD).as_bytes());
        hasher.write(cut(exchange.resource, MAX_RESOURCE).as_bytes());
        hasher.finish()
    }
}

/// A slot of [`SideCounts::found`]: from lengths, ends and middles, which tell methods, verbs, status codes and SQLSTATEs apart.
#[inline]
fn word_hash(operation: &str, status: &str) -> usize {
    let mut hash = 0u64;
    for word in [operation.as_bytes(), status.as_bytes()] {
        let at = |position: usize| u64::from(word.get(position).copied().unwrap_or(0));
        let word_bits = word.len() as u64 | at(0) << 8 | at(word.len() / 2) << 16 | at(word.len().wrapping_sub(1)) << 24;
        hash = (hash ^ word_bits).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    (hash >> 58) as usize % FOUND
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

    #[test]
    fn connect_errors_are_counted_by_number_within_a_bound() {
        let mut connections = Connections::default();
        for error in [111, 110, 111] {
            connections.fail(error, 1);
        }
        assert_eq!(connections.failed, [(110, 1), (111, 2)]);
        (1..100).for_each(|error| connections.fail(error, 1));
        assert_eq!(connections.failed.iter().map(|(_, times)| times).sum::<u64>(), 102);
        assert!(connections.failed.len() <= MAX_ERRORS + 1);
    }
}
