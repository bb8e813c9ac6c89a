//! How an exchange of this protocol is filled in.

use smallvec::SmallVec;

use super::route::{Route, Routes};
use crate::{
    model::{Exchange, Flags, Protocol, Value},
    protocols::Sink,
};

/// When a frame was seen, and its bytes on the wire.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub first_ns: u64,
    pub last_ns: u64,
    pub bytes: u64,
}

/// An exchange as this protocol fills it in.
#[derive(Default)]
pub struct Record<'a> {
    pub start_ns: u64,
    pub first_ns: Option<u64>,
    pub end_ns: u64,
    pub operation: &'static str,
    pub resource: &'a str,
    pub status: &'a str,
    pub error: bool,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub flags: Flags,
    pub message: Option<Described<'a>>,
}

/// What is told of a message in attributes.
pub struct Described<'a> {
    /// OpenTelemetry's kind of the operation.
    pub kind: &'static str,
    pub route: &'a Route,
    pub queue: Option<&'a Route>,
    pub tag: Option<u64>,
    pub body: Option<u64>,
    pub redelivered: bool,
}

/// What all parts of a connection share.
pub struct Shared {
    pub routes: Routes,
    pub adopted: bool,
    /// Everything since the connection's begin was seen: an answer without a question was reported too early.
    pub exact: bool,
    /// What waits for an answer on all channels together, in bytes.
    pub held_bytes: usize,
    /// Open questions, known consumers, and what was reported too early, on all channels together.
    pub questions: Allowance,
    pub consumers: Allowance,
    pub early: Allowance,
    destination: String,
}

/// How many more of a kind may be kept. Channels are many, so a bound for each of them would be none for a connection.
pub struct Allowance(usize);

/// Of each kind.
const ALLOWED: usize = 1024;

impl Allowance {
    /// Room for one more; false where there is none.
    pub fn take(&mut self) -> bool {
        let taken = self.0.checked_sub(1);
        self.0 = taken.unwrap_or(0);
        taken.is_some()
    }

    /// So many are kept no more.
    pub fn give_back(&mut self, count: usize) {
        self.0 += count;
    }
}

impl Shared {
    pub fn new(adopted: bool, raw: bool) -> Self {
        Self {
            routes: Routes::new(raw),
            adopted,
            exact: !adopted,
            held_bytes: 0,
            questions: Allowance(ALLOWED),
            consumers: Allowance(ALLOWED),
            early: Allowance(ALLOWED),
            destination: String::new(),
        }
    }

    pub fn write(&mut self, record: Record<'_>, out: &mut dyn Sink) {
        let mut flags = record.flags;
        if self.adopted {
            flags.insert(Flags::ADOPTED);
        }
        let mut attributes = SmallVec::<[(&'static str, Value<'_>); 9]>::new();
        if out.wants_attributes() {
            attributes.push(("messaging.system", Value::Text("rabbitmq")));
            attributes.push(("messaging.operation.name", Value::Text(record.operation)));
            if let Some(message) = &record.message {
                message.route.destination(message.queue, &mut self.destination);
                attributes.push(("messaging.operation.type", Value::Text(message.kind)));
                attributes.push(("messaging.destination.name", Value::Text(&self.destination)));
                let texts = [
                    ("messaging.rabbitmq.destination.routing_key", message.route.routing_key()),
                    ("messaging.destination.subscription.name", message.queue.map_or("", Route::text)),
                ];
                attributes.extend(texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name, Value::Text(text))));
                let count = |count: u64| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
                attributes.extend(message.tag.map(|tag| ("messaging.rabbitmq.message.delivery_tag", count(tag))));
                attributes.extend(message.body.map(|size| ("messaging.message.body.size", count(size))));
                if message.redelivered {
                    attributes.push(("messaging.rabbitmq.message.redelivered", Value::Bool(true)));
                }
            }
            if record.error && !record.status.is_empty() {
                attributes.push(("error.type", Value::Text(record.status)));
            }
        }
        out.exchange(&Exchange {
            protocol: Protocol::Amqp,
            start_ns: record.start_ns,
            first_byte_ns: record.first_ns,
            end_ns: record.end_ns,
            operation: record.operation,
            resource: record.resource,
            status: record.status,
            error: record.error,
            request_bytes: record.request_bytes,
            response_bytes: record.response_bytes,
            flags,
            attributes: &attributes,
        });
    }
}

/// A reply code as text.
pub struct Code {
    digits: [u8; 5],
    length: usize,
}

impl Code {
    pub fn new(code: u16) -> Self {
        let (mut digits, mut rest, mut length) = ([b'0'; 5], code, 0);
        for place in digits.iter_mut().rev() {
            *place = b'0' + (rest % 10) as u8;
            rest /= 10;
            length += 1;
            if rest == 0 {
                break;
            }
        }
        Self { digits, length }
    }

    pub fn text(&self) -> &str {
        self.digits.get(self.digits.len() - self.length..).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default()
    }
}

/// Replies below this are no complaints: 200 is success (section 1.2).
pub const FIRST_ERROR: u16 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_written_in_decimal() {
        for code in [0, 7, 200, 312, 404, 65_535] {
            assert_eq!(Code::new(code).text(), code.to_string());
        }
    }
}
