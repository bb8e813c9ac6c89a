//! How an exchange of this protocol is filled in.

use smallvec::SmallVec;

use super::{
    message::{INTERNET, QUERY},
    names,
    pending::Query,
};
use crate::{
    model::{Exchange, Flags, Protocol, Value},
    protocols::{Sink, Transport},
};

/// What is the same for all exchanges of a connection.
#[derive(Debug, Default)]
pub struct About {
    pub transport: Transport,
    pub adopted: bool,
    /// Where numbers without a name are written: of the type, the operation, the class and the code.
    words: [String; 4],
}

/// How a query ended.
#[derive(Debug, Default)]
pub struct Outcome<'a> {
    pub first_ns: Option<u64>,
    pub end_ns: u64,
    /// `None` without an answer.
    pub rcode: Option<u16>,
    pub bytes: u64,
    pub records: u64,
    /// Where the answer's records lead.
    pub answers: &'a str,
    /// The answer says that it did not fit.
    pub truncated: bool,
    pub flags: Flags,
}

impl About {
    pub fn new(transport: Transport, adopted: bool) -> Self {
        Self { transport, adopted, words: Default::default() }
    }

    pub fn emit(&mut self, query: &Query, outcome: &Outcome<'_>, out: &mut dyn Sink) {
        let [kind, opcode, class, rcode] = &mut self.words;
        let kind = if query.questions > 0 { names::kind(query.question.kind, kind) } else { "" };
        let opcode = names::opcode(query.opcode, opcode);
        let operation = if query.opcode == QUERY && !kind.is_empty() { kind } else { opcode };
        let status = outcome.rcode.map_or("", |code| names::rcode(code, rcode));
        let mut flags = outcome.flags;
        if self.adopted {
            flags.insert(Flags::ADOPTED);
        }
        let mut attributes = SmallVec::<[(&'static str, Value<'_>); 10]>::new();
        if out.wants_attributes() {
            let transport = if self.transport == Transport::Datagrams { "udp" } else { "tcp" };
            let class =
                if query.questions > 0 && query.question.class != INTERNET { names::class(query.question.class, class) } else { "" };
            let texts = [
                ("dns.question.name", query.name.as_str()),
                ("dns.question.type", kind),
                ("dns.question.class", class),
                ("dns.op_code", if query.opcode == QUERY { "" } else { opcode }),
                ("dns.answers", outcome.answers),
                ("network.transport", transport),
            ];
            attributes.extend(texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name, Value::Text(text))));
            let count = |count: u64| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
            attributes.extend(outcome.rcode.map(|_| ("dns.answers_count", count(outcome.records))));
            attributes.extend((query.questions > 1).then(|| ("dns.question.count", count(query.questions.into()))));
            attributes.extend((query.resends > 0).then(|| ("dns.request.resend_count", count(query.resends.into()))));
            attributes.extend(outcome.truncated.then_some(("dns.response.truncated", Value::Bool(true))));
        }
        let exchange = Exchange {
            protocol: Protocol::Dns,
            start_ns: query.start_ns,
            first_byte_ns: outcome.first_ns,
            end_ns: outcome.end_ns,
            operation,
            resource: &query.name,
            status,
            error: outcome.rcode != Some(0),
            request_bytes: query.bytes,
            response_bytes: outcome.bytes,
            flags,
            attributes: &attributes,
        };
        match self.transport {
            Transport::Stream => out.exchange(&exchange),
            Transport::Datagrams => out.exchange_with(&exchange, query.remote),
        }
    }
}
