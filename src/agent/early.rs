//! Exchanges that came before it was known who was at their other end: a server can answer a datagram before the call that sent it is over,
//! and so before its sender is met.

use crate::model::{ConnectionId, Endpoint, Exchange, Flags, Protocol, Value};

/// So many wait; others go without.
const EARLY_MAX: usize = 1024;

/// One waits for so long, and then until the next tick: the sender's own call may still be on its way out of the kernel.
pub const WAIT_NS: u64 = 500_000_000;

/// Exchanges of UDP sockets, in the order in which they came.
#[derive(Default)]
pub struct Early(Vec<Held>);

/// An exchange of the socket `id` with `remote`.
pub struct Held {
    pub id: ConnectionId,
    pub remote: Endpoint,
    protocol: Protocol,
    start_ns: u64,
    first_byte_ns: Option<u64>,
    end_ns: u64,
    operation: Box<str>,
    resource: Box<str>,
    status: Box<str>,
    error: bool,
    request_bytes: u64,
    response_bytes: u64,
    flags: Flags,
    attributes: Vec<(&'static str, Owned)>,
}

enum Owned {
    Text(Box<str>),
    Int(i64),
    Bool(bool),
}

impl Early {
    /// Keeps an exchange; false when there is no room.
    pub fn hold(&mut self, id: ConnectionId, remote: Endpoint, exchange: &Exchange<'_>) -> bool {
        if self.0.len() >= EARLY_MAX {
            return false;
        }
        let attributes = exchange.attributes.iter().map(|(name, value)| {
            let value = match *value {
                Value::Text(text) => Owned::Text(text.into()),
                Value::Int(int) => Owned::Int(int),
                Value::Bool(bool) => Owned::Bool(bool),
            };
            (*name, value)
        });
        self.0.push(Held {
            id,
            remote,
            protocol: exchange.protocol,
            start_ns: exchange.start_ns,
            first_byte_ns: exchange.first_byte_ns,
            end_ns: exchange.end_ns,
            operation: exchange.operation.into(),
            resource: exchange.resource.into(),
            status: exchange.status.into(),
            error: exchange.error,
            request_bytes: exchange.request_bytes,
            response_bytes: exchange.response_bytes,
            flags: exchange.flags,
            attributes: attributes.collect(),
        });
        true
    }

    /// Takes those for which `due` holds, in their order.
    pub fn take(&mut self, due: impl Fn(&Held) -> bool) -> Vec<Held> {
        if !self.0.iter().any(&due) {
            return Vec::new();
        }
        let (taken, left) = self.0.drain(..).partition(|held| due(held));
        self.0 = left;
        taken
    }
}

impl Held {
    /// It has waited for long enough.
    pub fn is_due(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.end_ns) >= WAIT_NS
    }

    /// Lends the exchange.
    pub fn with(&self, then: impl FnOnce(&Exchange<'_>)) {
        let attributes: Vec<(&'static str, Value<'_>)> = self
            .attributes
            .iter()
            .map(|(name, value)| {
                let value = match value {
                    Owned::Text(text) => Value::Text(text),
                    Owned::Int(int) => Value::Int(*int),
                    Owned::Bool(bool) => Value::Bool(*bool),
                };
                (*name, value)
            })
            .collect();
        then(&Exchange {
            protocol: self.protocol,
            start_ns: self.start_ns,
            first_byte_ns: self.first_byte_ns,
            end_ns: self.end_ns,
            operation: &self.operation,
            resource: &self.resource,
            status: &self.status,
            error: self.error,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            flags: self.flags,
            attributes: &attributes,
        });
    }
}
