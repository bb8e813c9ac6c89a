//! How an exchange of this protocol is filled in.

use std::sync::Arc;

use smallvec::SmallVec;

use super::packets::ServerError;
use crate::{
    model::{Exchange, Flags, Protocol, Value},
    protocols::{Sink, sql::QueryText},
};

/// Who the connection belongs to; empty where its beginning was not seen.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    pub user: String,
    pub database: String,
}

/// How a result ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure(ServerError),
    /// The connection closed first.
    #[default]
    Unanswered,
}

/// A result that is over, and what was asked for it.
#[derive(Clone, Debug, Default)]
pub struct Finished {
    pub start_ns: u64,
    pub first_ns: Option<u64>,
    pub end_ns: u64,
    pub operation: &'static str,
    pub statement: Option<Arc<QueryText>>,
    /// Which of its statements.
    pub index: usize,
    /// Shown where there is no such statement.
    pub unknown: &'static str,
    pub outcome: Outcome,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub returned: Option<u64>,
    pub affected: Option<u64>,
    pub flags: Flags,
}

/// What is the same for all exchanges of a connection.
#[derive(Default)]
pub struct Connection {
    pub identity: Identity,
    pub mariadb: bool,
    pub adopted: bool,
}

impl Finished {
    pub fn write(&self, connection: &Connection, out: &mut dyn Sink) {
        let statement = self.statement.as_deref();
        let normalised = statement.and_then(|statement| statement.get(self.index)).filter(|normalised| !normalised.text.is_empty());
        let resource = normalised.map_or(self.unknown, |normalised| normalised.text);
        let mut flags = self.flags;
        if connection.adopted {
            flags.insert(Flags::ADOPTED);
        }
        // A text that was not seen is one that was cut to nothing.
        if normalised.map_or(!self.unknown.is_empty(), |normalised| normalised.truncated) {
            flags.insert(Flags::TRUNCATED);
        }
        let (mut digits, error) = ([0; 5], matches!(self.outcome, Outcome::Failure(_)));
        let (status, sqlstate) = match &self.outcome {
            Outcome::Success => ("0", ""),
            Outcome::Failure(error) => (decimal(error.code, &mut digits), std::str::from_utf8(&error.sqlstate).unwrap_or_default()),
            Outcome::Unanswered => ("", ""),
        };
        let mut attributes = SmallVec::<[(&'static str, Value<'_>); 9]>::new();
        if out.wants_attributes() {
            let raw = statement.map(|statement| statement.raw(self.index)).filter(|raw| !raw.is_empty());
            let texts = [
                ("db.system.name", if connection.mariadb { "mariadb" } else { "mysql" }),
                ("db.operation.name", self.operation),
                ("db.query.text", if self.unknown.is_empty() { "" } else { raw.unwrap_or(resource) }),
                ("db.response.status_code", status),
                ("db.response.sqlstate", sqlstate.trim_end_matches('\0')),
                ("db.namespace", connection.identity.database.as_str()),
                ("db.user", connection.identity.user.as_str()),
            ];
            attributes.extend(texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name, Value::Text(text))));
            let count = |count: u64| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
            attributes.extend(self.returned.map(|rows| ("db.response.returned_rows", count(rows))));
            attributes.extend(self.affected.map(|rows| ("db.response.affected_rows", count(rows))));
        }
        out.exchange(&Exchange {
            protocol: Protocol::Mysql,
            start_ns: self.start_ns,
            first_byte_ns: self.first_ns,
            end_ns: self.end_ns,
            operation: self.operation,
            resource,
            status,
            error,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            flags,
            attributes: &attributes,
        });
    }
}

/// A number as text, without asking for memory.
fn decimal(mut number: u16, digits: &mut [u8; 5]) -> &str {
    let mut begin = digits.len();
    for (index, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + (number % 10) as u8;
        begin = index;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    digits.get(begin..).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default()
}
