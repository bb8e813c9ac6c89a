//! What statements and portals are called, and their texts.

use std::{
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::protocols::sql::{Dialect, QueryText};

/// Prepared statements and portals remembered for a connection.
const NAMES_LIMIT: usize = 1024;
/// Texts kept for use again.
const SPARE_LIMIT: usize = 4;

/// A name of a statement or portal, hashed; the unnamed one is 0.
pub type Name = u64;

pub fn name(bytes: &[u8]) -> Name {
    if bytes.is_empty() {
        return 0;
    }
    let mut hasher = FixedState::default().build_hasher();
    hasher.write(bytes);
    hasher.finish().max(1)
}

#[derive(Clone, Debug)]
pub struct Portal {
    pub text: Arc<QueryText>,
    pub suspended: bool,
}

/// The names of one connection.
#[derive(Default)]
pub struct Names {
    /// The user wants statements as they are.
    raw: bool,
    statements: HashMap<Name, Arc<QueryText>, FixedState>,
    portals: HashMap<Name, Portal, FixedState>,
    /// Stand-ins for statements whose text was never seen.
    unknown: HashMap<Name, Arc<QueryText>, FixedState>,
    spare: Vec<Arc<QueryText>>,
}

impl Names {
    /// `raw`: the user wants statements as they are.
    pub fn new(raw: bool) -> Self {
        Self { raw, ..Self::default() }
    }

    /// The normalised form of a statement's text, in a buffer used before where there is one.
    pub fn text(&mut self, sql: &[u8], cut: bool, escapes: bool) -> Arc<QueryText> {
        let mut shared = self.spare.pop().unwrap_or_default();
        match Arc::get_mut(&mut shared) {
            Some(text) => text.set(sql, cut, Dialect::Postgresql { escapes }, self.raw),
            None => {
                let mut text = QueryText::default();
                text.set(sql, cut, Dialect::Postgresql { escapes }, self.raw);
                shared = Arc::new(text);
            }
        }
        shared
    }

    /// Keeps a text's buffer for the next one.
    pub fn recycle(&mut self, text: Option<Arc<QueryText>>) {
        if let Some(mut text) = text
            && self.spare.len() < SPARE_LIMIT
            && Arc::get_mut(&mut text).is_some()
        {
            self.spare.push(text);
        }
    }

    /// Keeps a name by which a statement or portal without known text can be shown.
    pub fn mention(&mut self, kind: &str, bytes: &[u8], coming: impl Fn(Name) -> bool) {
        let key = name(bytes);
        let known = match kind {
            "portal" => self.portals.contains_key(&key),
            _ => self.statements.contains_key(&key),
        };
        if key == 0 || known || self.unknown.contains_key(&key) || coming(key) {
            return;
        }
        let shown: String = String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(64).collect();
        make_room(&mut self.unknown);
        self.unknown.insert(key, Arc::new(QueryText::placeholder(format!("<{kind} {shown}, text unknown>"))));
    }

    fn unknown_text(&self, key: Name) -> Arc<QueryText> {
        match self.unknown.get(&key) {
            Some(text) => Arc::clone(text),
            None => Arc::new(QueryText::placeholder("<unnamed statement, text unknown>".to_owned())),
        }
    }

    pub fn statement_text(&self, key: Name) -> Arc<QueryText> {
        self.statements.get(&key).map_or_else(|| self.unknown_text(key), Arc::clone)
    }

    pub fn portal_text(&self, key: Name) -> Arc<QueryText> {
        self.portals.get(&key).map_or_else(|| self.unknown_text(key), |portal| Arc::clone(&portal.text))
    }

    pub fn add_statement(&mut self, key: Name, text: Arc<QueryText>) {
        make_room(&mut self.statements);
        let old = self.statements.insert(key, text);
        self.recycle(old);
    }

    pub fn add_portal(&mut self, key: Name, statement: Name) {
        let text = self.statement_text(statement);
        make_room(&mut self.portals);
        let old = self.portals.insert(key, Portal { text, suspended: false });
        self.recycle(old.map(|portal| portal.text));
    }

    pub fn remove_statement(&mut self, key: Name) {
        let text = self.statements.remove(&key);
        self.recycle(text);
    }

    pub fn remove_portal(&mut self, key: Name) {
        let text = self.portals.remove(&key).map(|portal| portal.text);
        self.recycle(text);
    }

    pub fn portal_mut(&mut self, key: Name) -> Option<&mut Portal> {
        self.portals.get_mut(&key)
    }
}

/// Forgets an entry when there are too many; which one does not matter.
fn make_room<T>(names: &mut HashMap<Name, T, FixedState>) {
    if names.len() >= NAMES_LIMIT
        && let Some(&key) = names.keys().next()
    {
        names.remove(&key);
    }
}
