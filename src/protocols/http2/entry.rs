//! One stream while it is open, and the exchange that it becomes.

use smallvec::SmallVec;

use super::{head::Head, hpack::Name};
use crate::{
    model::{Exchange, Flags, Flow, Protocol, Protocols, Value},
    protocols::{At, Sink, grpc, http1::head::host_and_port},
};

/// The methods that OpenTelemetry knows; others are reported as `_OTHER` with the original beside it.
const KNOWN_METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With both its messages.
    Whole,
    /// RST_STREAM by the side whose flow this is, with this error code if it could be read.
    Reset(Flow, Option<u32>),
    /// GOAWAY: the server will not look at it.
    Refused(u32),
    /// With the connection, after this error code of a GOAWAY.
    Closed(Option<u32>),
}

/// Error codes (RFC 9113 section 7).
pub fn error_name(code: u32) -> &'static str {
    match code {
        0 => "NO_ERROR",
        1 => "PROTOCOL_ERROR",
        2 => "INTERNAL_ERROR",
        3 => "FLOW_CONTROL_ERROR",
        4 => "SETTINGS_TIMEOUT",
        5 => "STREAM_CLOSED",
        6 => "FRAME_SIZE_ERROR",
        7 => "REFUSED_STREAM",
        8 => "CANCEL",
        9 => "COMPRESSION_ERROR",
        10 => "CONNECT_ERROR",
        11 => "ENHANCE_YOUR_CALM",
        12 => "INADEQUATE_SECURITY",
        13 => "HTTP_1_1_REQUIRED",
        _ => "_OTHER",
    }
}

impl Ending {
    /// What the exchange's error is called, where the status does not say it.
    fn error(self) -> Option<&'static str> {
        match self {
            Ending::Whole | Ending::Closed(None | Some(0)) => None,
            Ending::Reset(_, code) => Some(code.map_or("_OTHER", error_name)),
            // An orderly shutdown that came before the request.
            Ending::Refused(0) => Some("GOAWAY"),
            Ending::Refused(code) | Ending::Closed(Some(code)) => Some(error_name(code)),
        }
    }
}

#[derive(Default)]
pub struct Entry {
    /// 0: nobody's.
    pub stream: u32,
    /// Fields of the request; of a call of gRPC, which keeps its own, only what was there before it was known to be one.
    pub request: Head,
    call: Option<Box<grpc::Call>>,
    /// `call` is in use.
    pub is_call: bool,
    start_ns: u64,
    first_byte_ns: u64,
    pub end_ns: u64,
    /// On the wire: frames that carry heads, bodies and trailers.
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// Content only.
    pub request_body: u64,
    pub response_body: u64,
    status: Option<u16>,
    pub flags: Flags,
    /// It may be a call of gRPC: the type of its content could not be read yet.
    undecided: bool,
    /// Its last words could not be read; of a call of gRPC they would be its status.
    unclear: bool,
    /// The request's head was seen.
    pub asked: bool,
    /// The final response has begun.
    pub answered: bool,
    pub request_done: bool,
    pub response_done: bool,
    /// By flow: the content's length as the head announces it.
    pub announced: [Option<u64>; 2],
    /// By flow: how much of the wire was content could not be seen everywhere.
    pub estimated: [bool; 2],
    /// By flow: the end of the message may have been missed.
    pub doubt: [bool; 2],
}

impl Entry {
    /// As new, but for its memory.
    pub fn clear(&mut self) {
        let mut request = std::mem::take(&mut self.request);
        request.clear();
        let call = self.call.take();
        *self = Self { request, call, ..Self::default() };
    }

    pub fn call(&mut self) -> Option<&mut grpc::Call> {
        if self.is_call { self.call.as_deref_mut() } else { None }
    }

    fn begin_call(&mut self, raw: Protocols) -> &mut grpc::Call {
        self.is_call = true;
        let call = self.call.get_or_insert_with(|| Box::new(grpc::Call::new(raw.contains(Protocol::Grpc))));
        call.clear();
        call
    }

    /// Takes the request's head in; `head` is exchanged for memory to read the next one into.
    pub fn ask(&mut self, head: &mut Head, start_ns: u64, raw: Protocols, attributes: bool) {
        self.asked = true;
        self.start_ns = start_ns;
        self.announced = [head.length(), None];
        if self.is_call || head.get(Name::ContentType).is_some_and(grpc::is_grpc) {
            self.ask_call(head, start_ns, raw, attributes);
            return;
        }
        let named = head.get(Name::Authority).or(head.get(Name::Host)).is_some();
        let unknown = head.get(Name::Method).is_none() || head.get(Name::Path).is_none() || !named;
        let connect = head.get(Name::Method) == Some(b"CONNECT");
        if head.incomplete && unknown && !(connect && named) {
            self.flags.insert(Flags::TRUNCATED);
        }
        let method = head.get(Name::Method);
        self.undecided = head.incomplete && head.get(Name::ContentType).is_none() && method.is_none_or(|method| method == b"POST");
        head.make_text();
        std::mem::swap(&mut self.request, head);
        if !connect && !self.request.is_whole(Name::Path) && !self.request.text(Name::Path).contains(['?', '#']) {
            self.flags.insert(Flags::TRUNCATED);
        }
    }

    fn ask_call(&mut self, head: &Head, start_ns: u64, raw: Protocols, attributes: bool) {
        let headers = grpc::RequestHeaders {
            path: head.get(Name::Path),
            authority: head.get(Name::Authority).or(head.get(Name::Host)),
            user_agent: head.get(Name::UserAgent),
            timeout: head.get(Name::GrpcTimeout),
            traceparent: head.get(Name::Traceparent),
        };
        // A response that came first has begun the call.
        let call = match &mut self.call {
            Some(call) if self.is_call => call,
            _ => {
                self.begin_call(raw);
                let Some(call) = &mut self.call else { return };
                call
            }
        };
        call.request_headers(&headers, At { first_ns: start_ns, last_ns: start_ns, call_start: false }, attributes);
    }

    /// Only the response tells that this is a call of gRPC: the request's fields could not all be read, or were not seen yet.
    pub fn turn_into_call(&mut self, raw: Protocols, attributes: bool, at_ns: u64) {
        if self.is_call || (self.asked && !self.request.incomplete) {
            return;
        }
        self.begin_call(raw);
        let (request_body, response_body) = (self.request_body, self.response_body);
        if self.asked {
            let head = std::mem::take(&mut self.request);
            self.ask_call(&head, self.start_ns, raw, attributes);
        }
        if let Some(call) = self.call() {
            for (flow, seen) in [(Flow::Request, request_body), (Flow::Response, response_body)] {
                if seen > 0 {
                    // Where messages began and ended in these is not known.
                    call.missing(flow, u64::MAX, at_ns);
                }
            }
        }
    }

    /// Takes a head of the response in that is not an interim one; `None`: its status could not be read.
    pub fn answer(&mut self, status: Option<u16>, first_ns: u64) {
        if !self.answered {
            self.first_byte_ns = first_ns;
        }
        self.answered = true;
        self.status = status;
        if status.is_none() {
            self.flags.insert(Flags::TRUNCATED);
        }
    }

    /// What a head or trailer of the response, the `last` or not, tells of whether this is a call of gRPC.
    pub fn judge_type(&mut self, head: &Head, last: bool) {
        if head.get(Name::ContentType).is_some() || (last && !head.incomplete) {
            self.undecided = false;
        }
        self.unclear |= last && head.incomplete;
    }

    /// Nothing true can be said: as a call of gRPC it would have another status.
    pub fn is_obscure(&self, ending: Ending) -> bool {
        self.undecided && !self.is_call && (self.unclear || ending != Ending::Whole)
    }

    /// The final response has begun, but nobody saw how.
    pub fn answer_unseen(&mut self, first_ns: u64) {
        if !self.answered {
            self.answer(None, first_ns);
        }
    }

    /// The response's status is known and final.
    pub fn has_status(&self) -> bool {
        self.status.is_some()
    }

    /// Content that is still to come in this flow.
    pub fn remaining(&self, flow: Flow) -> Option<u64> {
        let body = if flow == Flow::Request { self.request_body } else { self.response_body };
        self.announced.get(flow.index()).copied().flatten()?.checked_sub(body)
    }

    pub fn is_done(&self, flow: Flow) -> bool {
        if flow == Flow::Request { self.request_done } else { self.response_done }
    }

    /// A message whose end was seen had as much content as it announced.
    pub fn settle_lengths(&mut self) {
        for flow in [Flow::Request, Flow::Response] {
            if !self.estimated.get(flow.index()).is_some_and(|estimated| *estimated) {
                continue;
            }
            let body = match self.announced.get(flow.index()).copied().flatten() {
                Some(announced) if self.is_done(flow) => announced,
                _ => {
                    self.flags.insert(Flags::TRUNCATED);
                    0
                }
            };
            if flow == Flow::Request { self.request_body = body } else { self.response_body = body }
        }
    }

    /// The status is known, whatever else may have been missed.
    pub fn is_certain(&self) -> bool {
        match &self.call {
            Some(call) if self.is_call => call.is_over(),
            _ => self.has_status(),
        }
    }

    /// What follows a 2xx response is another protocol's (RFC 9110 section 9.3.6, RFC 8441).
    pub fn opens_tunnel(&self) -> bool {
        self.request.get(Name::Method) == Some(b"CONNECT") && self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// Tells `out` of the exchange.
    pub fn emit(&mut self, ending: Ending, adopted: bool, raw: Protocols, out: &mut dyn Sink) {
        let cut = !(self.request_done && self.response_done);
        self.settle_lengths();
        let mut flags = self.flags;
        if adopted {
            flags.insert(Flags::ADOPTED);
        }
        if self.is_call {
            if cut && ending == Ending::Whole {
                flags.insert(Flags::TRUNCATED);
            }
            let end_ns = self.end_ns;
            if let Some(call) = &mut self.call {
                match ending {
                    Ending::Whole => {}
                    Ending::Reset(by, code) => call.reset(by, code.unwrap_or(2), end_ns),
                    Ending::Refused(_) | Ending::Closed(_) => call.connection_end(end_ns),
                }
                let carried = grpc::Carried { request_bytes: self.request_bytes, response_bytes: self.response_bytes, flags, version: "2" };
                call.emit(&carried, out);
            }
            return;
        }
        if !self.answered {
            flags.insert(Flags::UNANSWERED);
        } else if matches!(ending, Ending::Closed(_)) && cut {
            flags.insert(Flags::TRUNCATED);
        }
        // A connection that ends after the answer's begin is no failure of the server's that anybody told.
        let failure = if matches!(ending, Ending::Closed(_)) && self.answered { None } else { ending.error() };
        self.exchange(flags, failure, raw, out);
    }

    fn exchange(&self, flags: Flags, failure: Option<&'static str>, raw: Protocols, out: &mut dyn Sink) {
        let digits = self.status.map(|status| [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8));
        let status = digits.as_ref().and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default();
        let failed = self.status.is_some_and(|status| status >= 500);
        let method = self.request.text(Name::Method);
        let target = self.request.text(Name::Path);
        let (path, query) = split_target(target);
        // CONNECT has an authority in place of a path (RFC 9113 section 8.5).
        let authority = self.authority();
        let resource = if method == "CONNECT" && target.is_empty() { authority } else { path };
        let mut attributes: Attributes<'_> = SmallVec::new();
        if out.wants_attributes() {
            if KNOWN_METHODS.contains(&method) {
                attributes.push(("http.request.method", Value::Text(method)));
            } else if !method.is_empty() {
                attributes.push(("http.request.method", Value::Text("_OTHER")));
                attributes.push(("http.request.method_original", Value::Text(method)));
            }
            if !resource.is_empty() {
                attributes.push(("url.path", Value::Text(resource)));
            }
            if raw.contains(Protocol::Http2) && !query.is_empty() {
                attributes.push(("url.query", Value::Text(query)));
            }
            attributes.push(("network.protocol.version", Value::Text("2")));
            if let Some(status) = self.status {
                attributes.push(("http.response.status_code", Value::Int(i64::from(status))));
            }
            if let Some(error) = failure.or(failed.then_some(status)) {
                attributes.push(("error.type", Value::Text(error)));
            }
            self.add_attributes(authority, &mut attributes);
        }
        let first_byte_ns = self.answered.then_some(self.first_byte_ns);
        // With two threads on one socket the response can carry the earlier time.
        let start_ns = first_byte_ns.map_or(self.start_ns, |first| first.min(self.start_ns));
        out.exchange(&Exchange {
            protocol: Protocol::Http2,
            start_ns,
            first_byte_ns,
            end_ns: self.end_ns.max(first_byte_ns.unwrap_or(start_ns)).max(start_ns),
            operation: method,
            resource,
            status,
            error: failed || failure.is_some() || !self.answered,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            flags,
            attributes: &attributes,
        });
    }

    /// Without user information.
    fn authority(&self) -> &str {
        let authority = self.request.text(Name::Authority);
        let authority = if authority.is_empty() { self.request.text(Name::Host) } else { authority };
        authority.rsplit_once('@').map_or(authority, |(_, host)| host)
    }

    fn add_attributes<'a>(&'a self, authority: &'a str, attributes: &mut Attributes<'a>) {
        let (host, port) = host_and_port(authority.as_bytes());
        let host = std::str::from_utf8(host).unwrap_or_default();
        if !host.is_empty() {
            attributes.push(("server.address", Value::Text(host)));
        }
        if let Some(port) = port {
            attributes.push(("server.port", Value::Int(i64::from(port))));
        }
        let agent = self.request.text(Name::UserAgent);
        if !agent.is_empty() {
            attributes.push(("user_agent.original", Value::Text(agent)));
        }
        let int = |size: u64| Value::Int(i64::try_from(size).unwrap_or(i64::MAX));
        if self.request_body > 0 {
            attributes.push(("http.request.body.size", int(self.request_body)));
        }
        if self.response_body > 0 {
            attributes.push(("http.response.body.size", int(self.response_body)));
        }
        let traceparent = self.request.text(Name::Traceparent);
        if !traceparent.is_empty() && self.request.is_whole(Name::Traceparent) {
            attributes.push(("traceparent", Value::Text(traceparent)));
        }
    }
}

type Attributes<'a> = SmallVec<[(&'static str, Value<'a>); 14]>;

/// Path and query of a `:path`; a fragment, which does not belong there, goes.
fn split_target(target: &str) -> (&str, &str) {
    let target = target.split_once('#').map_or(target, |(before, _)| before);
    target.split_once('?').unwrap_or((target, ""))
}
