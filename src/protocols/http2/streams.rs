//! The open streams of a connection by number and by age, in memory that is used again.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::entry::Entry;

/// Open streams kept of one connection; servers allow 100 to 250 as a rule. Beyond it the oldest is given up.
pub const MAX_OPEN: usize = 1024;
/// Memory of so many streams is kept by a connection without any.
const MAX_SPARE: usize = 128;

/// A place in [`Streams::slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

#[derive(Default)]
struct Link {
    older: Option<u32>,
    newer: Option<u32>,
}

#[derive(Default)]
pub struct Streams {
    slots: Vec<(Link, Entry)>,
    free: Vec<u32>,
    numbers: HashMap<u32, u32, FixedState>,
    oldest: Option<u32>,
    newest: Option<u32>,
}

impl Streams {
    pub fn is_full(&self) -> bool {
        self.numbers.len() >= MAX_OPEN
    }

    #[inline]
    pub fn find(&self, stream: u32) -> Option<Slot> {
        self.numbers.get(&stream).copied().map(Slot)
    }

    #[inline]
    pub fn entry(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.slots.get_mut(slot.0 as usize).map(|(_, entry)| entry)
    }

    #[inline]
    pub fn get(&mut self, stream: u32) -> Option<&mut Entry> {
        self.find(stream).and_then(|slot| self.entry(slot))
    }

    /// A new stream, the newest.
    pub fn open(&mut self, stream: u32) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Default::default());
            (self.slots.len() - 1) as u32
        });
        if let Some((link, entry)) = self.slots.get_mut(slot as usize) {
            *link = Link { older: self.newest, newer: None };
            entry.stream = stream;
        }
        match self.newest.and_then(|newest| self.slots.get_mut(newest as usize)) {
            Some((link, _)) => link.newer = Some(slot),
            None => self.oldest = Some(slot),
        }
        self.newest = Some(slot);
        self.numbers.insert(stream, slot);
        Slot(slot)
    }

    /// The stream is over; its memory is cleared for another.
    pub fn remove(&mut self, slot: Slot) {
        let Some((link, entry)) = self.slots.get_mut(slot.0 as usize) else { return };
        let Link { older, newer } = std::mem::take(link);
        self.numbers.remove(&entry.stream);
        entry.clear();
        match older.and_then(|older| self.slots.get_mut(older as usize)) {
            Some((link, _)) => link.newer = newer,
            None => self.oldest = newer,
        }
        match newer.and_then(|newer| self.slots.get_mut(newer as usize)) {
            Some((link, _)) => link.older = older,
            None => self.newest = older,
        }
        self.free.push(slot.0);
        if self.numbers.is_empty() && self.slots.len() > MAX_SPARE {
            *self = Self::default();
        }
    }

    pub fn oldest(&self) -> Option<Slot> {
        self.oldest.map(Slot)
    }

    /// The next younger one.
    pub fn after(&self, slot: Slot) -> Option<Slot> {
        self.slots.get(slot.0 as usize).and_then(|(link, _)| link.newer).map(Slot)
    }

    /// All that are open, in no particular order.
    pub fn each(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.slots.iter_mut().map(|(_, entry)| entry).filter(|entry| entry.stream != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_order(streams: &Streams) -> Vec<u32> {
        let mut found = Vec::new();
        let mut next = streams.oldest();
        while let Some(slot) = next {
            found.push(streams.slots[slot.0 as usize].1.stream);
            next = streams.after(slot);
        }
        found
    }

    #[test]
    fn keeps_streams_by_number_and_age_and_uses_their_memory_again() {
        let mut streams = Streams::default();
        for stream in [1, 3, 5, 7] {
            streams.open(stream);
        }
        assert_eq!(in_order(&streams), [1, 3, 5, 7]);
        for stream in [3, 7] {
            streams.remove(streams.find(stream).unwrap());
        }
        assert_eq!(in_order(&streams), [1, 5]);
        assert!(streams.find(3).is_none());
        streams.open(9);
        streams.open(11);
        assert_eq!((in_order(&streams), streams.slots.len()), (vec![1, 5, 9, 11], 4));
        assert_eq!(streams.each().count(), 4);
        for stream in [1, 5, 9, 11] {
            streams.remove(streams.find(stream).unwrap());
        }
        assert!(in_order(&streams).is_empty());
        assert_eq!((streams.oldest, streams.newest), (None, None));
    }

    #[test]
    fn gives_back_what_a_burst_needed() {
        let mut streams = Streams::default();
        for stream in 1..=MAX_OPEN as u32 {
            streams.open(stream);
        }
        assert!(streams.is_full());
        for stream in 1..=MAX_OPEN as u32 {
            streams.remove(streams.find(stream).unwrap());
        }
        assert_eq!(streams.slots.capacity(), 0);
    }
}
