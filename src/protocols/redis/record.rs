//! How an exchange of this protocol is filled in, and what must be remembered for it from one to the next.

use smallvec::SmallVec;

use super::{lookup::Kind, reply::Reply, request::Request};
use crate::{
    model::{Exchange, Flags, Protocol, Value},
    protocols::Sink,
};

/// Puts exchanges out.
pub struct Records {
    adopted: bool,
    /// The selected database in digits; empty where it is not known.
    namespace: String,
    /// A SELECT inside of MULTI takes effect with its EXEC.
    queued_namespace: Option<u32>,
    /// Holds the resource of the exchange that goes out.
    resource: String,
}

impl Records {
    pub fn new(adopted: bool) -> Self {
        let namespace = if adopted { String::new() } else { "0".to_owned() };
        Self { adopted, namespace, queued_namespace: None, resource: String::new() }
    }

    fn select(&mut self, number: u32) {
        self.namespace.clear();
        if number != u32::MAX {
            self.namespace.push_str(&number.to_string());
        }
    }

    /// Emits the exchange; with a reply of which nothing came, it is unanswered. `raw`: the keys as they are.
    pub fn write(&mut self, request: &Request, reply: &Reply, flags: Flags, raw: Option<&str>, out: &mut dyn Sink) {
        let mut flags = request.flags | flags;
        if self.adopted {
            flags.insert(Flags::ADOPTED);
        }
        let mut resource = std::mem::take(&mut self.resource);
        resource.clear();
        match raw {
            Some(raw) => resource.push_str(raw),
            None => request.shape.write(request.id, &mut resource),
        }
        let operation = request.id.command().name;
        let status = reply.word.text();
        let mut attributes = SmallVec::<[(&'static str, Value<'_>); 6]>::new();
        if out.wants_attributes() {
            attributes.push(("db.system.name", Value::Text("redis")));
            attributes.push(("db.operation.name", Value::Text(operation)));
            attributes.push(("db.query.text", Value::Text(&resource)));
            if !self.namespace.is_empty() {
                attributes.push(("db.namespace", Value::Text(&self.namespace)));
            }
            if reply.error && !status.is_empty() {
                attributes.push(("db.response.status_code", Value::Text(status)));
                attributes.push(("error.type", Value::Text(status)));
            }
        }
        out.exchange(&Exchange {
            protocol: Protocol::Redis,
            start_ns: request.start_ns,
            first_byte_ns: (reply.bytes > 0).then_some(reply.first_ns),
            end_ns: reply.end_ns,
            operation,
            resource: &resource,
            status,
            error: reply.error,
            request_bytes: request.bytes,
            response_bytes: reply.bytes,
            flags,
            attributes: &attributes,
        });
        drop(attributes);
        self.resource = resource;
        self.learn(request, reply);
    }

    /// What the answered command changes for the next ones.
    fn learn(&mut self, request: &Request, reply: &Reply) {
        if reply.error || reply.bytes == 0 {
            return;
        }
        match request.id.command().kind {
            Kind::Select if reply.word.text() == "QUEUED" => self.queued_namespace = Some(request.number),
            Kind::Select => self.select(request.number),
            Kind::EndMulti => {
                if let Some(number) = self.queued_namespace.take().filter(|_| reply.kind == b'*') {
                    self.select(number);
                }
            }
            Kind::Reset => self.select(0),
            _ => {}
        }
    }
}
