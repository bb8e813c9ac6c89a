//! The texts of a connection: prepared statements by their numbers, and buffers to use again.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::protocols::sql::{Dialect, Text};

/// Prepared statements remembered for a connection.
const STATEMENTS_LIMIT: usize = 1024;
/// Bytes of their texts remembered.
const TEXTS_LIMIT: usize = 2 * 1024 * 1024;
/// Buffers kept for use again.
const SPARE_LIMIT: usize = 8;
/// Longest text kept as it was, when the user asked for that.
const RAW_LIMIT: usize = 4096;

/// A text fit to be shown, and the text as it was where the user wants it.
#[derive(Clone, Debug, Default)]
pub struct Statement {
    pub text: Text,
    raw: String,
}

impl Statement {
    pub fn named(name: &[u8]) -> Self {
        let shown: String = String::from_utf8_lossy(name).chars().filter(|c| !c.is_control()).take(128).collect();
        Self { text: Text::placeholder(shown), raw: String::new() }
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        self.text.size() + self.raw.len()
    }

    /// One of its statements as it was sent; empty where the user did not ask for it or it holds a credential.
    pub fn raw(&self, index: usize) -> &str {
        self.text.source(index).and_then(|range| self.raw.get(range)).map_or("", str::trim)
    }

    fn set(&mut self, sql: &[u8], cut: bool, escapes: Option<bool>, raw: bool) {
        self.text.set(sql, cut, Dialect::Mysql { escapes });
        self.raw.clear();
        if raw && !holds_credential(sql) {
            // What does not fit or is not UTF-8 is left to the normalised form.
            self.raw.push_str(std::str::from_utf8(sql).ok().filter(|sql| sql.len() <= RAW_LIMIT).unwrap_or_default());
        }
    }
}

/// IDENTIFIED BY, PASSWORD(), MASTER_PASSWORD and the like.
fn holds_credential(sql: &[u8]) -> bool {
    let holds = |word: &[u8]| sql.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
    holds(b"IDENTIFIED") || holds(b"PASSWORD")
}

#[derive(Debug, Default)]
struct Entry {
    statement: Option<Arc<Statement>>,
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
    last: Option<Arc<Statement>>,
    spare: Vec<Arc<Statement>>,
}

impl Statements {
    /// `raw`: the user wants statements as they are.
    pub fn new(raw: bool) -> Self {
        Self { raw, ..Self::default() }
    }

    /// The normalised form of a text, in a buffer used before where there is one.
    pub fn text(&mut self, sql: &[u8], cut: bool) -> Arc<Statement> {
        let mut shared = self.spare.pop().unwrap_or_default();
        match Arc::get_mut(&mut shared) {
            Some(statement) => statement.set(sql, cut, self.escapes, self.raw),
            None => {
                let mut statement = Statement::default();
                statement.set(sql, cut, self.escapes, self.raw);
                shared = Arc::new(statement);
            }
        }
        shared
    }

    /// Keeps a buffer for the next text.
    pub fn recycle(&mut self, statement: Option<Arc<Statement>>) {
        if let Some(mut statement) = statement
            && self.spare.len() < SPARE_LIMIT
            && Arc::get_mut(&mut statement).is_some()
        {
            self.spare.push(statement);
        }
    }

    pub fn get(&self, id: u32) -> Option<Arc<Statement>> {
        self.prepared.get(&id).and_then(|entry| entry.statement.as_ref()).map(Arc::clone)
    }

    pub fn last(&self) -> Option<Arc<Statement>> {
        self.last.as_ref().map(Arc::clone)
    }

    /// A statement was prepared; without `id` the server refused it.
    pub fn add(&mut self, id: Option<u32>, statement: Option<Arc<Statement>>) {
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
