//! The dynamic table (RFC 7541 section 2.3.2), as far as somebody reads it.
//!
//! Entries are counted from the newest, so one that joins late is right about all that was inserted since. What an encoder has evicted it
//! never refers to again: keeping an entry longer than it does is harmless, and no lengths of values that nobody reads need be known.

use std::collections::VecDeque;

use super::Name;

/// What a name or value costs beyond its bytes in the encoder's account (RFC 7541 section 4.1): no table has more entries than its
/// size divided by this.
const ENTRY_OVERHEAD: usize = 32;
/// The size of a table until something else is said (RFC 9113 section 6.5.2).
const INITIAL_SIZE: u32 = 4096;
/// Larger tables are kept up to here; references to what is older are unknown fields.
const MAX_SIZE: u32 = 64 * 1024;
/// So large is the table of an encoder that is joined late taken to be, at least.
const ASSUMED_SIZE: u32 = 16 * 1024;

#[derive(Clone, Copy)]
struct Entry {
    name: Name,
    /// The value is all there; a longer one is kept up to a bound.
    whole: bool,
    length: u16,
    /// Position of the value in all that was ever kept, modulo 2³².
    begin: u32,
}

pub struct Table {
    /// The oldest first.
    entries: VecDeque<Entry>,
    /// Values, the oldest first; some before them are of entries that are gone.
    values: Vec<u8>,
    /// Position of the first byte of `values`.
    begin: u32,
    /// What the encoder said last, and what its peer allows.
    said: u32,
    allowed: u32,
    /// Nothing was ever missed: all that the encoder may refer to is here.
    complete: bool,
}

/// What an index refers to.
pub enum Found<'a> {
    Entry {
        name: Name,
        value: &'a [u8],
        whole: bool,
    },
    /// Inserted before this table was begun, or missed since.
    Unknown,
    /// There is no such entry.
    Nothing,
}

impl Table {
    /// `complete`: the encoder's table is empty, too.
    pub fn new(complete: bool) -> Self {
        Self { entries: VecDeque::new(), values: Vec::new(), begin: 0, said: INITIAL_SIZE, allowed: INITIAL_SIZE, complete }
    }

    /// A header block was missed: nothing is known of the entries any more.
    pub fn forget(&mut self) {
        self.clear();
        self.complete = false;
    }

    /// Bytes worth keeping.
    fn size(&self) -> usize {
        // What an encoder said before it was watched is not known.
        let least = if self.complete { 0 } else { ASSUMED_SIZE };
        self.said.max(self.allowed).max(least).min(MAX_SIZE) as usize
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE. The encoder must repeat what it uses of that, but more kept than it does is harmless.
    pub fn allow(&mut self, size: u32) {
        self.allowed = self.allowed.max(size);
    }

    /// A dynamic table size update (RFC 7541 section 6.3).
    pub fn resize(&mut self, size: u32) {
        self.said = size;
        if size == 0 {
            // From here on the table is known again, whatever was missed.
            self.clear();
            self.complete = true;
            return;
        }
        self.evict(size as usize / ENTRY_OVERHEAD);
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.begin = self.begin.wrapping_add(self.values.len() as u32);
        self.values.clear();
    }

    fn evict(&mut self, keep: usize) {
        while self.entries.len() > keep {
            self.entries.pop_front();
        }
    }

    /// `value`: up to a bound; empty where nobody reads it.
    pub fn insert(&mut self, name: Name, value: &[u8], whole: bool) {
        let size = self.size();
        self.evict((size / ENTRY_OVERHEAD).saturating_sub(1));
        self.make_room(value.len(), size);
        let begin = self.begin.wrapping_add(self.values.len() as u32);
        self.values.extend_from_slice(value);
        self.entries.push_back(Entry { name, whole, length: u16::try_from(value.len()).unwrap_or(u16::MAX), begin });
    }

    /// Keeps at most `size` bytes of values, and moves them to the front no more often than once for so many bytes.
    fn make_room(&mut self, length: usize, size: usize) {
        let live = |table: &Self| match table.entries.front() {
            Some(oldest) => table.values.len().saturating_sub(oldest.begin.wrapping_sub(table.begin) as usize),
            None => 0,
        };
        while live(self) + length > size.max(length) {
            self.entries.pop_front();
        }
        if self.values.len() + length > 2 * size {
            let gone = self.values.len() - live(self);
            self.values.copy_within(gone.., 0);
            self.values.truncate(self.values.len() - gone);
            self.begin = self.begin.wrapping_add(gone as u32);
        }
    }

    /// `age`: 0 for the newest.
    pub fn get(&self, age: usize) -> Found<'_> {
        let entry = self.entries.len().checked_sub(age + 1).and_then(|index| self.entries.get(index));
        let Some(entry) = entry else { return if self.reaches_back() { Found::Nothing } else { Found::Unknown } };
        let begin = entry.begin.wrapping_sub(self.begin) as usize;
        let value = self.values.get(begin..begin + usize::from(entry.length)).unwrap_or_default();
        Found::Entry { name: entry.name, value, whole: entry.whole }
    }

    /// The encoder has no older entries than this table.
    fn reaches_back(&self) -> bool {
        self.complete && self.said.max(self.allowed) <= MAX_SIZE
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes held.
    #[cfg(test)]
    pub fn memory(&self) -> usize {
        self.values.capacity() + self.entries.capacity() * size_of::<Entry>()
    }
}
