//! The texts of a connection: prepared statements by their numbers, and buffers to use again.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::protocols::sql::{Dialect, QueryText};

/// Prepared statements remembered for a connection.
const STATEMENTS_LIMIT: usize = 1024;
/// Bytes of their texts remembered.
const TEXTS_LIMIT: usize = 2 * 1024 * 1024;
/// Buffers kept for use again.
const SPARE_LIMIT: usize = 8;

/// A name that a command carries in place of a statement.
pub fn named(name: &[u8]) -> QueryText {
    QueryText::placeholder(String::from_utf8_lossy(name).chars().filter(|c| !c.is_control()).take(128).collect())
}

#[derive(Debug, Default)]
struct Entry {
    statement: Option<Arc<QueryText>>,
    /// Bytes of COM_STMT_SEND_LONG_DATA, which belong to the next execution.
    long_bytes: u64,
}

#[derive(Default)]
pub struct Statements {
    raw: bool,
    /// Whether a backslash escapes in literals; learned from the status in the server's answers.
    pub escapes: Option<bool>,
    prepared: HashMap<u32, Entry, FixedState>,
    /// Bytes of the texts of `prepared`.
    held: usize,
    /// What was prepared last: a client may execute it before it knows its number.
    last: Option<Arc<QueryText>>,
    spare: Vec<Arc<QueryText>>,
}

impl Statements {
    /// `raw`: the user wants statements as they are.
    pub fn new(raw: bool) -> Self {
        Self { raw, ..Self::default() }
    }

    /// The normalised form of a text, in a buffer used before where there is one.
    pub fn text(&mut self, sql: &[u8], cut: bool) -> Arc<QueryText> {
        let dialect = Dialect::Mysql { escapes: self.escapes };
        let mut shared = self.spare.pop().unwrap_or_default();
        match Arc::get_mut(&mut shared) {
            Some(statement) => statement.set(sql, cut, dialect, self.raw),
            None => {
                let mut statement = QueryText::default();
                statement.set(sql, cut, dialect, self.raw);
                shared = Arc::new(statement);
            }
        }
        shared
    }

    /// Keeps a buffer for the next text.
    pub fn recycle(&mut self, statement: Option<Arc<QueryText>>) {
        if let Some(mut statement) = statement
            && self.spare.len() < SPARE_LIMIT
            && Arc::get_mut(&mut statement).is_some()
        {
            self.spare.push(statement);
        }
    }

    pub fn get(&self, id: u32) -> Option<Arc<QueryText>> {
        self.prepared.get(&id).and_then(|entry| entry.statement.as_ref()).map(Arc::clone)
    }

    pub fn last(&self) -> Option<Arc<QueryText>> {
        self.last.as_ref().map(Arc::clone)
    }

    /// A statement was prepared; without `id` the server refused it.
    pub fn add(&mut self, id: Option<u32>, statement: Option<Arc<QueryText>>) {
        if let Some(id) = id {
            self.remove(id);
            self.make_room();
            self.held += statement.as_ref().map_or(0, |statement| statement.size());
            self.prepared.insert(id, Entry { statement: statement.clone(), long_bytes: 0 });
        }
        let old = std::mem::replace(&mut self.last, statement);
        self.recycle(old);
    }

    pub fn remove(&mut self, id: u32) {
        let old = self.prepared.remove(&id).and_then(|entry| entry.statement);
        self.held = self.held.saturating_sub(old.as_ref().map_or(0, |statement| statement.size()));
        self.recycle(old);
    }

    pub fn clear(&mut self) {
        self.prepared.clear();
        self.held = 0;
        self.last = None;
    }

    pub fn add_long_data(&mut self, id: u32, bytes: u64) {
        if !self.prepared.contains_key(&id) {
            self.make_room();
        }
        self.prepared.entry(id).or_default().long_bytes += bytes;
    }

    pub fn take_long_data(&mut self, id: u32) -> u64 {
        self.prepared.get_mut(&id).map_or(0, |entry| std::mem::take(&mut entry.long_bytes))
    }

    /// Forgets statements when there are too many; which ones does not matter.
    fn make_room(&mut self) {
        while (self.prepared.len() >= STATEMENTS_LIMIT || self.held > TEXTS_LIMIT)
            && let Some(&id) = self.prepared.keys().next()
        {
            self.remove(id);
        }
    }
}
