//! What one side saw of an edge: exchanges by operation, status and route, and the life of connections.

use super::{
    Histogram, Resources,
    edges::{Limits, OTHER},
};

/// Direct-mapped positions of series; a power of two.
const FOUND: usize = 64;
/// Different connect errors kept per side; an edge has a handful.
const MAX_ERRORS: usize = 16;

/// All exchanges of one operation that ended the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    pub operation: Box<str>,
    pub status: Box<str>,
    /// The template of the path, where the protocol has paths; else empty.
    pub route: Box<str>,
    pub error: bool,
    pub requests: u64,
    /// Of the answered requests, from the first byte of the request to the last of the response.
    pub durations: Histogram,
}

impl Series {
    #[inline]
    fn is(&self, words: &Words<'_>) -> bool {
        self.error == words.error
            && same(&self.status, words.status)
            && same(&self.operation, words.operation)
            && same(&self.route, words.route)
    }
}

/// What tells series apart.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    pub operation: &'a str,
    pub status: &'a str,
    pub route: &'a str,
    pub error: bool,
}

/// Equality that leaves empty texts alone: the C library compares them with a masked read, and where an empty box points the processor
/// takes a fault to find out that nothing is to be read, at 80 ns each.
#[inline]
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && (a.is_empty() || a == b)
}

impl Words<'_> {
    /// A slot of [`SideCounts::found`]: from lengths, ends and middles, which tell methods, verbs, status codes and SQLSTATEs apart.
    #[inline]
    fn slot(&self) -> usize {
        let mut hash = 0u64;
        let mut mix = |word: &[u8]| {
            let at = |position: usize| u64::from(word.get(position).copied().unwrap_or(0));
            let word_bits = word.len() as u64 | at(0) << 8 | at(word.len() / 2) << 16 | at(word.len().wrapping_sub(1)) << 24;
            hash = (hash ^ word_bits).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        };
        mix(self.operation.as_bytes());
        mix(self.status.as_bytes());
        if !self.route.is_empty() {
            mix(self.route.as_bytes());
        }
        (hash >> 58) as usize % FOUND
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
    pub(super) fn fail(&mut self, error: u32, times: u64) {
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
        self.bytes_sent = self.bytes_sent.saturating_add(other.bytes_sent);
        self.bytes_received = self.bytes_received.saturating_add(other.bytes_received);
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
    /// Connections that failed, and requests without an answer, while the Service that was called had no ready endpoint.
    pub unserved_calls: u64,
    /// Where series were found by a cheap hash of their words: a mix of operations is then as quick as one alone.
    found: [u8; FOUND],
}

impl Default for SideCounts {
    fn default() -> Self {
        let (connections, resources) = (Connections::default(), Resources::default());
        Self { series: Vec::new(), connections, resources, unserved_calls: 0, found: [0; FOUND] }
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

    /// The series of these words; new if there is room, else an overflow series.
    #[inline]
    pub(super) fn series(&mut self, limit: usize, words: &Words<'_>) -> &mut Series {
        let slot = words.slot();
        let mut position = usize::from(self.found[slot]);
        if !self.series.get(position).is_some_and(|series| series.is(words)) {
            position = self.find(limit, words);
            self.found[slot] = position as u8;
        }
        &mut self.series[position]
    }

    #[inline(never)]
    fn find(&mut self, limit: usize, words: &Words<'_>) -> usize {
        let position = |series: &[Series], words: &Words<'_>| series.iter().position(|series| series.is(words));
        if let Some(position) = position(&self.series, words) {
            return position;
        }
        // Two places beyond the limit are for the overflow series, one for errors and one for the rest.
        let unrouted = Words { route: if words.route.is_empty() { "" } else { OTHER }, ..*words };
        let words = match self.series.len() {
            length if length < limit - limit / 3 => words,
            length if length < limit || position(&self.series, &unrouted).is_some() => &unrouted,
            _ => &Words { operation: OTHER, status: OTHER, ..unrouted },
        };
        position(&self.series, words).unwrap_or_else(|| {
            let Words { operation, status, route, error } = *words;
            let (operation, status, route) = (operation.into(), status.into(), route.into());
            self.series.push(Series { operation, status, route, error, requests: 0, durations: Histogram::default() });
            self.series.len() - 1
        })
    }

    pub(super) fn merge(&mut self, limits: &Limits, other: &SideCounts) {
        for series in &other.series {
            let Series { operation, status, route, error, .. } = series;
            let own = self.series(limits.series, &Words { operation, status, route, error: *error });
            own.requests += series.requests;
            own.durations.merge(&series.durations);
        }
        self.connections.merge(&other.connections);
        self.unserved_calls += other.unserved_calls;
        self.resources.merge(limits.resources, &other.resources);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
