//! How an exchange of this protocol is filled in.

use smallvec::SmallVec;

use crate::{
    model::{Exchange, Flags, Protocol, Value},
    protocols::Sink,
};

/// Who the connection belongs to; empty where its start-up was not seen.
#[derive(Default)]
pub struct Identity {
    pub user: String,
    pub database: String,
}

/// An exchange as this protocol fills it in.
#[derive(Default)]
pub struct Record<'a> {
    pub start_ns: u64,
    pub first_ns: Option<u64>,
    pub end_ns: u64,
    pub operation: &'a str,
    pub resource: &'a str,
    /// The statement as it was sent, where the user wants it.
    pub raw: &'a str,
    pub status: &'a str,
    pub error: bool,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub returned: Option<u64>,
    pub affected: Option<u64>,
    pub flags: Flags,
}

impl Record<'_> {
    pub fn write(self, identity: &Identity, adopted: bool, out: &mut dyn Sink) {
        let mut flags = self.flags;
        if adopted {
            flags.insert(Flags::ADOPTED);
        }
        let count = |count: u64| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
        let texts = [
            ("db.system.name", "postgresql"),
            ("db.operation.name", self.operation),
            ("db.query.text", self.raw),
            ("db.response.status_code", self.status),
            ("db.namespace", identity.database.as_str()),
            ("db.user", identity.user.as_str()),
        ];
        let mut attributes = SmallVec::<[(&'static str, Value<'_>); 8]>::new();
        attributes.extend(texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name, Value::Text(text))));
        attributes.extend(self.returned.map(|rows| ("db.response.returned_rows", count(rows))));
        attributes.extend(self.affected.map(|rows| ("db.response.affected_rows", count(rows))));
        out.exchange(&Exchange {
            protocol: Protocol::Postgresql,
            start_ns: self.start_ns,
            first_byte_ns: self.first_ns,
            end_ns: self.end_ns,
            operation: self.operation,
            resource: self.resource,
            status: self.status,
            error: self.error,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            flags,
            attributes: &attributes,
        });
    }
}

pub fn truncation(truncated: bool) -> Flags {
    if truncated { Flags::TRUNCATED } else { Flags::default() }
}
