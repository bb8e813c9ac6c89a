//! Queries that wait for their answer: found by number and question, kept in the order in which they were last asked, bounded.

use super::message::{Question, SOA};
use crate::model::Endpoint;

/// Queries waiting at once on one connection; more make the one that waits longest give way.
pub const PENDING_MAX: usize = 2048;

/// A name's buffer larger than this is not kept for the next query.
const NAME_CAPACITY: usize = 256;

const BUCKETS: usize = 256;
/// No slot.
const NONE: u16 = u16::MAX;

/// What an answer repeats of its query.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    pub id: u16,
    pub opcode: u8,
    pub question: Question,
    pub name: &'a str,
    /// Of a datagram, where that is known.
    pub remote: Option<Endpoint>,
}

/// A query as it was asked.
#[derive(Debug)]
pub struct Query {
    pub id: u16,
    pub opcode: u8,
    pub question: Question,
    pub questions: u16,
    /// Of the first question; empty where there is none.
    pub name: String,
    pub start_ns: u64,
    /// When it was asked last, or when the last part of its answer came.
    pub asked_ns: u64,
    pub bytes: u64,
    /// How often the same was asked again.
    pub resends: u32,
    /// Bytes were missed that may have been its answer.
    pub doubtful: bool,
    pub remote: Option<Endpoint>,
    pub transfer: Transfer,
}

/// A zone transfer's answer comes in several messages (RFC 5936 section 2.2, RFC 1995 section 4).
#[derive(Clone, Copy, Debug, Default)]
pub struct Transfer {
    pub first_ns: Option<u64>,
    pub last_ns: u64,
    pub bytes: u64,
    pub records: u64,
    serial: Option<u32>,
    /// The zone's own SOA was seen so often.
    ends: u8,
    /// Differences of versions follow, and not the zone.
    incremental: bool,
}

impl Transfer {
    /// Takes an answer record; `serial` is that of a SOA.
    pub fn record(&mut self, kind: u16, serial: Option<u32>) {
        self.records += 1;
        if kind != SOA {
            return;
        }
        if self.serial.is_none() {
            self.serial = serial;
        }
        if self.serial == serial {
            self.ends = self.ends.saturating_add(1);
        } else if self.records == 2 {
            self.incremental = true;
        }
    }

    /// The SOA that the answer began with came again: as its end.
    pub fn is_over(&self) -> bool {
        self.ends >= if self.incremental { 3 } else { 2 }
    }
}

#[derive(Debug)]
struct Slot {
    query: Query,
    /// The next one of the same bucket, or of the free ones.
    chain: u16,
    older: u16,
    newer: u16,
}

#[derive(Debug)]
pub struct Pending {
    /// At most [`PENDING_MAX`]; grows with what waits at once.
    slots: Vec<Slot>,
    /// By the low byte of the number: the first of the slots with it.
    buckets: Box<[u16; BUCKETS]>,
    free: u16,
    oldest: u16,
    newest: u16,
    count: usize,
}

impl Default for Pending {
    fn default() -> Self {
        Self { slots: Vec::new(), buckets: Box::new([NONE; BUCKETS]), free: NONE, oldest: NONE, newest: NONE, count: 0 }
    }
}

/// A waiting query of a [`Pending`]; valid until that is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u16);

impl Pending {
    pub fn is_full(&self) -> bool {
        self.count >= PENDING_MAX
    }

    fn slot(&mut self, index: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(index))
    }

    pub fn get_mut(&mut self, place: Place) -> Option<&mut Query> {
        self.slot(place.0).map(|slot| &mut slot.query)
    }

    /// All of a number, in no order.
    fn of(&self, id: u16) -> impl Iterator<Item = (Place, &Query)> {
        let mut next = self.buckets.get(usize::from(id) % BUCKETS).copied().unwrap_or(NONE);
        let slots = std::iter::from_fn(move || {
            let slot = self.slots.get(usize::from(next))?;
            let place = Place(std::mem::replace(&mut next, slot.chain));
            Some((place, &slot.query))
        });
        // A chain is never longer than what waits.
        slots.take(PENDING_MAX).filter(move |(_, query)| query.id == id)
    }

    /// The query with this number and question that was asked first, and how many there are. Those of other ends are left out, where ends
    /// are known.
    pub fn find(&self, key: &Key<'_>) -> Option<(Place, usize)> {
        let apart = |query: &Query| query.remote.zip(key.remote).is_some_and(|(left, right)| left != right);
        let same = |query: &Query| query.opcode == key.opcode && query.question == key.question && query.name == key.name && !apart(query);
        let mut found = self.of(key.id).filter(|(_, query)| same(query));
        let (mut first, mut count) = (found.next()?, 1);
        for other in found {
            count += 1;
            if other.1.start_ns < first.1.start_ns {
                first = other;
            }
        }
        Some((first.0, count))
    }

    /// The only query with this number: an answer may come without its question.
    pub fn find_only(&self, id: u16, opcode: u8) -> Option<Place> {
        let mut found = self.of(id);
        let (place, query) = found.next()?;
        (query.opcode == opcode && found.next().is_none()).then_some(place)
    }

    /// Takes the query; there must be room.
    pub fn insert(&mut self, key: &Key<'_>, questions: u16, start_ns: u64, bytes: u64) {
        let index = match self.slots.get(usize::from(self.free)) {
            Some(slot) => std::mem::replace(&mut self.free, slot.chain),
            None => {
                let query = Query {
                    id: 0,
                    opcode: 0,
                    question: key.question,
                    questions: 0,
                    name: String::new(),
                    start_ns: 0,
                    asked_ns: 0,
                    bytes: 0,
                    resends: 0,
                    doubtful: false,
                    remote: None,
                    transfer: Transfer::default(),
                };
                self.slots.push(Slot { query, chain: NONE, older: NONE, newer: NONE });
                (self.slots.len() - 1) as u16
            }
        };
        let Some(bucket) = self.buckets.get_mut(usize::from(key.id) % BUCKETS) else { return };
        let Some(slot) = self.slots.get_mut(usize::from(index)) else { return };
        slot.chain = std::mem::replace(bucket, index);
        let query = &mut slot.query;
        query.name.clear();
        query.name.push_str(key.name);
        (query.id, query.opcode, query.question, query.questions) = (key.id, key.opcode, key.question, questions);
        (query.start_ns, query.asked_ns, query.bytes) = (start_ns, start_ns, bytes);
        (query.resends, query.doubtful, query.remote, query.transfer) = (0, false, key.remote, Transfer::default());
        self.count += 1;
        self.append(index);
    }

    /// The query was asked again, or a part of its answer came: it may wait anew.
    pub fn renew(&mut self, place: Place, at_ns: u64) {
        self.unlink(place.0);
        self.append(place.0);
        if let Some(query) = self.get_mut(place) {
            query.asked_ns = query.asked_ns.max(at_ns);
        }
    }

    /// The query that waits longest.
    pub fn oldest(&self) -> Option<(Place, &Query)> {
        self.slots.get(usize::from(self.oldest)).map(|slot| (Place(self.oldest), &slot.query))
    }

    /// Waits no longer. What is returned is kept until the next query comes.
    pub fn remove(&mut self, place: Place) -> Option<&mut Query> {
        let index = place.0;
        let id = self.slot(index)?.query.id;
        let bucket = usize::from(id) % BUCKETS;
        let chain = self.slot(index)?.chain;
        let mut before = NONE;
        let mut next = self.buckets.get(bucket).copied()?;
        while next != index {
            before = next;
            next = self.slot(next)?.chain;
        }
        match self.slot(before) {
            Some(slot) => slot.chain = chain,
            None => *self.buckets.get_mut(bucket)? = chain,
        }
        self.unlink(index);
        self.count -= 1;
        let free = std::mem::replace(&mut self.free, index);
        let slot = self.slot(index)?;
        slot.chain = free;
        Some(&mut slot.query)
    }

    /// What may have been answered unseen.
    pub fn doubt(&mut self) {
        let mut next = self.oldest;
        while let Some(slot) = self.slot(next) {
            slot.query.doubtful = true;
            next = slot.newer;
        }
    }

    fn append(&mut self, index: u16) {
        let older = std::mem::replace(&mut self.newest, index);
        if let Some(slot) = self.slot(index) {
            (slot.older, slot.newer) = (older, NONE);
        }
        match self.slot(older) {
            Some(slot) => slot.newer = index,
            None => self.oldest = index,
        }
    }

    fn unlink(&mut self, index: u16) {
        let Some(&mut Slot { older, newer, .. }) = self.slot(index) else { return };
        match self.slot(older) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
        match self.slot(newer) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
    }
}

impl Query {
    /// Gives back what a long name took.
    pub fn trim(&mut self) {
        if self.name.capacity() > NAME_CAPACITY {
            self.name = String::new();
        }
    }
}
