//! One request and its response while they are open, and the exchange that they become.

use smallvec::SmallVec;

use super::head::{self, KNOWN_METHODS, MAX_METHOD, RequestHead, Upgrade};
use crate::{
    model::{Exchange, Flags, Protocol, Value},
    protocols::{
        At, Opening, Parser, Sink,
        grpc::{Carried, web::Web},
        http2, websocket,
    },
};

/// What must be known of a request to frame its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// The response has no body, whatever its head says.
    Head,
    /// A 2xx response ends HTTP on this connection.
    Connect,
    /// The client offered another protocol.
    Upgrade(Upgrade),
    /// A call of gRPC-Web: its bodies are read.
    GrpcWeb,
}

/// Longest texts kept, in bytes: a thousand open requests must stay small.
const MAX_PATH: usize = 1024;
const MAX_QUERY: usize = MAX_PATH;
const MAX_HOST: usize = 255;
const MAX_AGENT: usize = 256;
const MAX_TRACEPARENT: usize = 128;

/// What of a request's head is kept besides method and path.
#[derive(Clone, Copy)]
pub struct Shown {
    /// What only attributes show.
    pub attributes: bool,
    /// The query string, which is shown as an attribute.
    pub query: bool,
}

pub struct Entry {
    /// Method, path, host, user agent, traceparent and query, one after the other; `ends` are their ends. Without attributes only the first
    /// two, and the query only where the user wants it.
    text: String,
    ends: [u16; 6],
    port: Option<u16>,
    minor: u8,
    pub kind: Kind,
    start_ns: u64,
    pub first_byte_ns: u64,
    pub end_ns: u64,
    /// On the wire: heads, bodies, chunk framing.
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// Content only.
    pub request_body: u64,
    pub response_body: u64,
    status: Option<u16>,
    pub flags: Flags,
    /// The request head was seen.
    pub asked: bool,
    pub request_done: bool,
    pub response_done: bool,
    /// The response lost its framing: it ends where something else begins.
    pub broken: bool,
    /// On trial: must not leave yet.
    pub held: bool,
    /// What becomes of the exchange when it is of [`Kind::GrpcWeb`]; otherwise kept for the next one that is.
    web: Option<Box<Web>>,
}

impl Entry {
    pub fn new() -> Self {
        Self {
            text: String::new(),
            ends: [0; 6],
            port: None,
            minor: 1,
            kind: Kind::Plain,
            start_ns: 0,
            first_byte_ns: 0,
            end_ns: 0,
            request_bytes: 0,
            response_bytes: 0,
            request_body: 0,
            response_body: 0,
            status: None,
            flags: Flags::default(),
            asked: false,
            request_done: false,
            response_done: false,
            broken: false,
            held: false,
            web: None,
        }
    }

    /// As new, but for the memory of its text.
    pub fn clear(&mut self) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let web = self.web.take();
        *self = Self { text, web, ..Self::new() };
    }

    pub fn text_capacity(&self) -> usize {
        self.text.capacity()
    }

    /// Takes the request's head in.
    pub fn ask(&mut self, head: &RequestHead<'_>, length: usize, start_ns: u64, shown: Shown) {
        let target = head::target(head.method, head.target);
        if target.path.len() > MAX_PATH {
            self.flags.insert(Flags::TRUNCATED);
        }
        let method = head.method.get(..MAX_METHOD).unwrap_or(head.method);
        let path = target.path.get(..MAX_PATH).unwrap_or(target.path);
        if shown.attributes {
            // The target's authority overrides Host (RFC 9112 section 3.2.2).
            let (host, port) = head::host_and_port(target.authority.or(head.host).unwrap_or_default());
            let agent = head.user_agent.unwrap_or_default();
            let traceparent = head.traceparent.filter(|value| value.len() <= MAX_TRACEPARENT).unwrap_or_default();
            let (host, agent) = (host.get(..MAX_HOST).unwrap_or(host), agent.get(..MAX_AGENT).unwrap_or(agent));
            let query = if shown.query { target.query } else { b"" };
            self.keep([method, path, host, agent, traceparent, query.get(..MAX_QUERY).unwrap_or(query)]);
            self.port = port;
        } else {
            self.keep([method, path]);
        }
        self.kind = match head.method {
            b"HEAD" => Kind::Head,
            b"CONNECT" => Kind::Connect,
            method => match head.upgrade {
                Some(upgrade) => Kind::Upgrade(upgrade),
                None if method == b"POST" && head.grpc_web.is_some() => Kind::GrpcWeb,
                None => Kind::Plain,
            },
        };
        self.minor = head.minor;
        self.start_ns = start_ns;
        self.request_bytes = length as u64;
        self.asked = true;
    }

    fn keep<const N: usize>(&mut self, parts: [&[u8]; N]) {
        let mut bytes = std::mem::take(&mut self.text).into_bytes();
        for (part, end) in parts.into_iter().zip(&mut self.ends) {
            bytes.extend_from_slice(part);
            *end = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        }
        // One check for all; a character cannot begin in one part and end in the next unless one of them is not UTF-8.
        match String::from_utf8(bytes) {
            Ok(text) if self.ends.iter().take(N).all(|&end| text.is_char_boundary(usize::from(end))) => self.text = text,
            _ => {
                for (part, end) in parts.into_iter().zip(&mut self.ends) {
                    self.text.push_str(&String::from_utf8_lossy(part));
                    *end = u16::try_from(self.text.len()).unwrap_or(u16::MAX);
                }
            }
        }
    }

    /// Takes the final response's head in.
    pub fn answer(&mut self, status: u16, length: usize, at: At) {
        self.status = Some(status);
        self.first_byte_ns = at.first_ns;
        self.end_ns = at.last_ns;
        self.response_bytes = self.response_bytes.saturating_add(length as u64);
    }

    /// HTTP is over with this response: 101, or 2xx to CONNECT.
    pub fn switches(kind: Option<Kind>, status: u16) -> bool {
        status == 101 || (kind == Some(Kind::Connect) && (200..300).contains(&status))
    }

    /// Request and response together ended HTTP, which only the pair can tell.
    pub fn opens_tunnel(&self) -> bool {
        self.status.is_some_and(|status| Self::switches(Some(self.kind), status))
    }

    /// A response that servers send without a request: 408 before they close an idle connection (RFC 9110 section 15.5.9).
    pub fn unasked(&self) -> bool {
        self.status.is_none_or(|status| status == 408)
    }

    /// The side is not known here: a 4xx is the client's error and an answer of a healthy server, so only 5xx count.
    fn failed(&self) -> bool {
        self.status.is_some_and(|status| status >= 500)
    }

    /// The WebSocket that this request opened.
    pub fn websocket(&self, adopted: bool) -> websocket::Upgraded {
        websocket::Upgraded {
            path: self.text(1).to_owned(),
            host: self.text(2).to_owned(),
            port: self.port,
            user_agent: self.text(3).to_owned(),
            traceparent: self.text(4).to_owned(),
            start_ns: self.end_ns,
            flags: if adopted { Flags::ADOPTED } else { Flags::default() },
        }
    }

    /// The parser that answers this request by HTTP/2, as its first stream.
    pub fn http2(&self, opening: Opening) -> Box<dyn Parser> {
        let (host, user_agent, traceparent) = (self.text(2), self.text(3), self.text(4));
        let authority = match self.port {
            Some(port) if host.contains(':') => format!("[{host}]:{port}"),
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let path = match self.text(5) {
            "" => self.text(1).to_owned(),
            query => format!("{}?{query}", self.text(1)),
        };
        let sent = |text| Some(str::as_bytes(text)).filter(|text| !text.is_empty());
        let request = http2::UpgradedRequest {
            method: self.text(0).as_bytes(),
            path: path.as_bytes(),
            authority: sent(&authority),
            user_agent: sent(user_agent),
            traceparent: sent(traceparent),
            start_ns: self.start_ns,
            request_bytes: self.request_bytes,
            request_body: self.request_body,
        };
        http2::upgraded(opening, request)
    }

    /// The call of gRPC-Web that this is; `None` when it is plain HTTP.
    pub fn call(&mut self) -> Option<&mut Web> {
        if self.kind == Kind::GrpcWeb { self.web.as_deref_mut() } else { None }
    }

    /// A call of gRPC-Web begins with this request, of which `bytes` are the head.
    pub fn begin_call(&mut self, head: &RequestHead<'_>, bytes: &[u8], at: At, raw: bool, attributes: bool) {
        let Some(encoding) = head.grpc_web else { return };
        let web = self.web.get_or_insert_with(|| Box::new(Web::new(raw)));
        web.clear();
        web.request_headers(encoding, &head::grpc_request(head, bytes), at, attributes);
        if let Some(status) = self.status {
            // The response was reported first, and read as one of HTTP.
            let at = At { first_ns: self.first_byte_ns, last_ns: self.end_ns, call_start: false };
            web.response_headers(None, &crate::protocols::grpc::ResponseHeaders { http_status: Some(status), ..Default::default() }, at);
            web.response_end(true, at);
        }
    }

    /// Emits the exchange as a call of gRPC-Web.
    fn emit_call(&mut self, flags: Flags, out: &mut dyn Sink) {
        let at = At { first_ns: self.first_byte_ns, last_ns: self.end_ns, call_start: false };
        let carried = Carried {
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            flags,
            version: if self.minor == 0 { "1.0" } else { "1.1" },
        };
        let (answered, done, cut) = (self.status.is_some(), self.response_done, flags.contains(Flags::GAP));
        let Some(web) = self.call() else { return };
        if answered && (done || cut) {
            web.response_end(cut, at);
        } else {
            web.connection_end(at.last_ns);
        }
        web.emit(&carried, out);
    }

    fn text(&self, index: usize) -> &str {
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(index).copied().unwrap_or(0);
        self.text.get(usize::from(start)..usize::from(end)).unwrap_or_default()
    }

    pub fn emit(&mut self, adopted: bool, out: &mut dyn Sink) {
        if self.kind == Kind::GrpcWeb {
            return self.emit_call(if adopted { self.flags | Flags::ADOPTED } else { self.flags }, out);
        }
        let (method, path) = (self.text(0), self.text(1));
        let digits = self.status.map(|status| [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8));
        let status = digits.as_ref().and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default();
        let mut attributes: SmallVec<[(&'static str, Value<'_>); 13]> = SmallVec::new();
        if out.wants_attributes() {
            self.attributes(status, &mut attributes);
        }
        let first_byte_ns = self.status.map(|_| self.first_byte_ns);
        // With two threads on one socket the response can carry the earlier time.
        let start_ns = first_byte_ns.map_or(self.start_ns, |first| first.min(self.start_ns));
        let flags = if adopted { self.flags | Flags::ADOPTED } else { self.flags };
        out.exchange(&Exchange {
            protocol: Protocol::Http,
            start_ns,
            first_byte_ns,
            end_ns: self.end_ns.max(start_ns),
            operation: method,
            resource: path,
            status,
            error: self.failed() || self.status.is_none(),
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            flags,
            attributes: &attributes,
        });
    }

    /// `status` as text.
    fn attributes<'a>(&'a self, status: &'a str, attributes: &mut SmallVec<[(&'static str, Value<'a>); 13]>) {
        let (method, path, host, agent, traceparent) = (self.text(0), self.text(1), self.text(2), self.text(3), self.text(4));
        if KNOWN_METHODS.contains(&method) {
            attributes.push(("http.request.method", Value::Text(method)));
        } else {
            attributes.push(("http.request.method", Value::Text("_OTHER")));
            attributes.push(("http.request.method_original", Value::Text(method)));
        }
        attributes.push(("url.path", Value::Text(path)));
        let query = self.text(5);
        if !query.is_empty() {
            attributes.push(("url.query", Value::Text(query)));
        }
        attributes.push(("network.protocol.version", Value::Text(if self.minor == 0 { "1.0" } else { "1.1" })));
        if let Some(status) = self.status {
            attributes.push(("http.response.status_code", Value::Int(i64::from(status))));
        }
        if self.failed() {
            attributes.push(("error.type", Value::Text(status)));
        }
        if !host.is_empty() {
            attributes.push(("server.address", Value::Text(host)));
        }
        if let Some(port) = self.port {
            attributes.push(("server.port", Value::Int(i64::from(port))));
        }
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
        if !traceparent.is_empty() {
            attributes.push(("traceparent", Value::Text(traceparent)));
        }
    }
}
