//! One call from its request headers to its trailers, and the exchange that it becomes.

use smallvec::SmallVec;

use super::{messages::Messages, status};
use crate::{
    model::{Exchange, Flags, Flow, Protocol, Value},
    protocols::{At, Sink},
};

/// Longest texts kept, in bytes.
const MAX_PATH: usize = 1024;
const MAX_AUTHORITY: usize = 262;
const MAX_AGENT: usize = 256;
const MAX_TRACEPARENT: usize = 128;
const MAX_MESSAGE: usize = 1024;

/// Text memory that a cleared call keeps for the next one.
const KEPT_CAPACITY: usize = 2048;

/// The fields of a request's head that a call is told from. `None`: not sent, or not known.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestHeaders<'a> {
    /// `:path`, the request target.
    pub path: Option<&'a [u8]>,
    /// `:authority`, or Host.
    pub authority: Option<&'a [u8]>,
    pub user_agent: Option<&'a [u8]>,
    /// grpc-timeout
    pub timeout: Option<&'a [u8]>,
    pub traceparent: Option<&'a [u8]>,
}

/// The fields of a response's head or trailers that a call is told from. `None`: not sent, or not known.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseHeaders<'a> {
    /// `:status`; not in trailers.
    pub http_status: Option<u16>,
    /// grpc-status
    pub status: Option<&'a [u8]>,
    /// grpc-message
    pub message: Option<&'a [u8]>,
    /// Fields were there that could not be read: what is `None` may have been sent.
    pub incomplete: bool,
}

/// What only the carrier of a call knows of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried {
    /// On the wire: whatever belongs to the call and to no other.
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub flags: Flags,
    /// Version of HTTP: "2", "1.1".
    pub version: &'static str,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// Told by grpc-status, or by what stands for it.
    Status(u32),
    /// It ended, but the field that says how could not be read.
    Unreadable,
}

/// The texts of a call, in the order in which they are kept.
#[derive(Clone, Copy)]
enum Text {
    Path,
    Authority,
    Agent,
    Timeout,
    Traceparent,
    /// What the trailers say in words; kept only where the user asked for it.
    Message,
}

const TEXTS: usize = Text::Message as usize + 1;

/// The state of one call; [`Call::clear`] makes it ready for the next without giving back its memory (at most 2 KiB of text).
#[derive(Debug, Default)]
pub struct Call {
    /// What the client wrote in words may leave.
    raw: bool,
    text: String,
    ends: [u16; TEXTS],
    timeout_ns: Option<u64>,
    asked: bool,
    start_ns: u64,
    first_byte_ns: Option<u64>,
    end_ns: u64,
    http_status: Option<u16>,
    end: End,
    flags: Flags,
    request: Messages,
    response: Messages,
}

impl Call {
    /// `raw`: the user wants texts as they are ([`crate::protocols::Opening::raw`]).
    pub fn new(raw: bool) -> Self {
        Self { raw, ..Self::default() }
    }

    /// As new, but for the memory of its texts.
    pub fn clear(&mut self) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        if text.capacity() > KEPT_CAPACITY {
            text = String::new();
        }
        *self = Self { raw: self.raw, text, ..Self::default() };
    }

    /// The request's head. `attributes`: keep what only they show.
    pub fn request_headers(&mut self, head: &RequestHeaders<'_>, at: At, attributes: bool) {
        self.asked = true;
        self.start_ns = at.first_ns;
        let path = head.path.unwrap_or_default();
        // No values are in a path of gRPC, but nobody keeps a client from sending a query.
        let path = path.split(|&byte| byte == b'?').next().unwrap_or_default();
        if path.len() > MAX_PATH || head.path.is_none() {
            self.flags.insert(Flags::TRUNCATED);
        }
        self.timeout_ns = head.timeout.and_then(status::timeout_ns);
        // Texts are kept in order, and with two threads on one socket the trailers can be reported first.
        let message = self.text(Text::Message).to_owned();
        self.text.clear();
        self.keep(Text::Path, path, MAX_PATH);
        if attributes {
            self.keep(Text::Authority, head.authority.unwrap_or_default(), MAX_AUTHORITY);
            self.keep(Text::Agent, head.user_agent.unwrap_or_default(), MAX_AGENT);
            let timeout = head.timeout.filter(|_| self.timeout_ns.is_some());
            self.keep(Text::Timeout, timeout.unwrap_or_default(), 9);
            let traceparent = head.traceparent.filter(|value| value.len() <= MAX_TRACEPARENT);
            self.keep(Text::Traceparent, traceparent.unwrap_or_default(), MAX_TRACEPARENT);
        }
        if !message.is_empty() {
            self.keep(Text::Message, message.as_bytes(), MAX_MESSAGE);
        }
    }

    /// Payload of either flow as it comes, without the carrier's framing.
    #[inline]
    pub fn data(&mut self, flow: Flow, bytes: &[u8], at: At) {
        self.answered(flow, at.first_ns);
        self.messages_mut(flow).take(bytes, at);
    }

    /// As [`Call::data`], up to a frame of trailers: what is behind that frame's prefix.
    pub(super) fn frames<'a>(&mut self, flow: Flow, bytes: &'a [u8], at: At) -> &'a [u8] {
        self.answered(flow, at.first_ns);
        self.messages_mut(flow).take_frames(bytes, at)
    }

    /// Length of the response's frame of trailers, once it has begun, and whether it is compressed.
    pub(super) fn trailers_frame(&self) -> Option<(u64, bool)> {
        self.response.trailers()
    }

    /// So many bytes of payload went by without being seen: not captured, or of no interest (see [`Call::passable`]).
    pub fn missing(&mut self, flow: Flow, length: u64, at_ns: u64) {
        self.answered(flow, at_ns);
        self.messages_mut(flow).miss(length, at_ns);
    }

    /// So many bytes of payload need not be seen; told as [`Call::missing`] they change nothing.
    pub fn passable(&self, flow: Flow) -> u64 {
        self.messages(flow).passable()
    }

    /// The final response's head (no 1xx). One with a grpc-status is the whole response ("Trailers-Only").
    pub fn response_headers(&mut self, head: &ResponseHeaders<'_>, at: At) {
        self.answered(Flow::Response, at.first_ns);
        self.http_status = head.http_status;
        if head.status.is_some() {
            self.trailers(head, at);
        }
    }

    /// The response's trailers, or a head that ends the response: the call is over. Without a grpc-status the status is what a client makes
    /// of the HTTP status.
    pub fn trailers(&mut self, head: &ResponseHeaders<'_>, at: At) {
        self.answered(Flow::Response, at.first_ns);
        if self.end != End::Open {
            return;
        }
        self.end = match head.status {
            Some(value) => End::Status(status::of_field(value)),
            None if head.incomplete => End::Unreadable,
            None => End::Status(status::of_http(self.http_status.unwrap_or(200))),
        };
        self.end_ns = at.last_ns;
        if self.raw
            && let Some(message) = head.message
        {
            self.keep_message(message);
        }
    }

    /// The response ended without trailers (a last DATA frame, the end of a body).
    pub fn response_end(&mut self, at: At) {
        self.trailers(&ResponseHeaders::default(), at);
    }

    /// The stream was reset by the side whose flow `by` is, with an error code of HTTP/2. After trailers that changes nothing.
    pub fn reset(&mut self, by: Flow, code: u32, at_ns: u64) {
        if self.end != End::Open {
            return;
        }
        let code = status::of_reset(code);
        let elapsed_ns = at_ns.saturating_sub(self.start_ns);
        let late = self.asked && self.timeout_ns.is_some_and(|timeout_ns| status::is_deadline(elapsed_ns, timeout_ns));
        // Either side gives a call up when its time is over, and says no more of it than CANCEL.
        self.end = End::Status(if late && code == status::CANCELLED { status::DEADLINE_EXCEEDED } else { code });
        self.end_ns = at_ns;
        if by == Flow::Response {
            self.answered(Flow::Response, at_ns);
        }
    }

    /// The connection ended, or the server said that it will not look at this call (GOAWAY): to its client it is unavailable.
    pub fn connection_end(&mut self, at_ns: u64) {
        if self.end == End::Open {
            self.end = End::Status(status::UNAVAILABLE);
            self.end_ns = at_ns;
            self.flags.insert(if self.first_byte_ns.is_some() { Flags::TRUNCATED } else { Flags::UNANSWERED });
        }
    }

    /// The request's head was seen.
    pub fn is_asked(&self) -> bool {
        self.asked
    }

    /// How the call ended is known; further messages of the request are of no effect.
    pub fn is_over(&self) -> bool {
        self.end != End::Open
    }

    fn messages(&self, flow: Flow) -> &Messages {
        match flow {
            Flow::Request => &self.request,
            Flow::Response => &self.response,
        }
    }

    fn messages_mut(&mut self, flow: Flow) -> &mut Messages {
        match flow {
            Flow::Request => &mut self.request,
            Flow::Response => &mut self.response,
        }
    }

    fn answered(&mut self, flow: Flow, at_ns: u64) {
        if flow == Flow::Response {
            self.first_byte_ns.get_or_insert(at_ns);
        }
    }

    /// Texts are kept in the order of [`Text`]; those left out are empty.
    fn keep(&mut self, text: Text, value: &[u8], most: usize) {
        self.text.push_str(&String::from_utf8_lossy(value.get(..most).unwrap_or(value)));
        let end = u16::try_from(self.text.len()).unwrap_or(u16::MAX);
        for kept in self.ends.iter_mut().skip(text as usize) {
            *kept = end;
        }
    }

    /// Percent-encoded as the specification has it; what is encoded wrongly stays as it is.
    fn keep_message(&mut self, message: &[u8]) {
        let mut decoded = Vec::with_capacity(message.len().min(MAX_MESSAGE));
        let mut rest = message;
        while let Some((&byte, after)) = rest.split_first()
            && decoded.len() < MAX_MESSAGE
        {
            let digit = |index: usize| after.get(index).and_then(|&byte| char::from(byte).to_digit(16));
            match (byte, digit(0), digit(1)) {
                (b'%', Some(high), Some(low)) => {
                    decoded.push((high * 16 + low) as u8);
                    rest = after.get(2..).unwrap_or_default();
                }
                _ => {
                    decoded.push(byte);
                    rest = after;
                }
            }
        }
        self.keep(Text::Message, &decoded, MAX_MESSAGE);
    }

    fn text(&self, text: Text) -> &str {
        let start = (text as usize).checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(text as usize).copied().unwrap_or(0);
        self.text.get(usize::from(start)..usize::from(end)).unwrap_or_default()
    }

    /// `/package.Service/Method`
    pub fn path(&self) -> &str {
        self.text(Text::Path)
    }

    /// The exchange. A call of which no end was told is reported as it stands, without status.
    pub fn emit(&self, carried: &Carried, out: &mut dyn Sink) {
        let path = self.path();
        let (service, method) = path.rsplit_once('/').unwrap_or(("", path));
        let service = service.strip_prefix('/').unwrap_or(service);
        let code = match self.end {
            End::Status(code) => Some(code),
            End::Open | End::Unreadable => None,
        };
        let mut digits = [0; 10];
        let status = code.map_or("", |code| decimal(code, &mut digits));
        let counted = self.request.count().is_some() && self.response.count().is_some();
        let mut flags = self.flags | carried.flags;
        if !counted || self.end == End::Unreadable {
            flags.insert(Flags::TRUNCATED);
        }
        let mut attributes: SmallVec<[(&'static str, Value<'_>); 20]> = SmallVec::new();
        if out.wants_attributes() {
            attributes.push(("rpc.system", Value::Text("grpc")));
            let texts = [
                ("rpc.service", service),
                ("rpc.method", method),
                ("network.protocol.version", carried.version),
                ("user_agent.original", self.text(Text::Agent)),
                ("grpc.timeout", self.text(Text::Timeout)),
                ("grpc.message", self.text(Text::Message)),
                ("traceparent", self.text(Text::Traceparent)),
            ];
            attributes.extend(texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name, Value::Text(text))));
            if let Some(code) = code {
                attributes.push(("rpc.grpc.status_code", Value::Int(i64::from(code))));
                if code != 0 {
                    attributes.push(("error.type", Value::Text(status)));
                }
            }
            self.counts(&mut attributes);
            let (host, port) = host_and_port(self.text(Text::Authority));
            if !host.is_empty() {
                attributes.push(("server.address", Value::Text(host)));
            }
            if let Some(port) = port {
                attributes.push(("server.port", Value::Int(i64::from(port))));
            }
        }
        // With two threads on one socket the response can carry the earlier time.
        let start_ns = self.first_byte_ns.map_or(self.start_ns, |first_ns| first_ns.min(self.start_ns));
        out.exchange(&Exchange {
            protocol: Protocol::Grpc,
            start_ns,
            first_byte_ns: self.first_byte_ns,
            end_ns: self.end_ns.max(self.first_byte_ns.unwrap_or(0)).max(start_ns),
            operation: method,
            resource: path,
            status,
            // A call whose status could not be read is not called a failure.
            error: code.is_some_and(|code| code != 0) || flags.contains(Flags::UNANSWERED),
            request_bytes: carried.request_bytes,
            response_bytes: carried.response_bytes,
            flags,
            attributes: &attributes,
        });
    }

    fn counts<'a>(&'a self, attributes: &mut SmallVec<[(&'static str, Value<'a>); 20]>) {
        let int = |number: u64| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
        let (sent, received) = (self.request.count(), self.response.count());
        if let Some(count) = sent {
            attributes.push(("rpc.request.message_count", int(count)));
        }
        if let Some(count) = received {
            attributes.push(("rpc.response.message_count", int(count)));
        }
        if let (Some(sent), Some(received)) = (sent, received) {
            attributes.push(("rpc.grpc.kind", Value::Text(kind(sent, received))));
        }
        if let Some(first_ns) = self.response.first_whole_ns() {
            attributes.push(("rpc.response.time_to_first_message_ns", int(first_ns.saturating_sub(self.start_ns))));
        }
        if self.request.compressed() {
            attributes.push(("rpc.request.compressed", Value::Bool(true)));
        }
        if self.response.compressed() {
            attributes.push(("rpc.response.compressed", Value::Bool(true)));
        }
        if let Some(status) = self.http_status
            && status != 200
        {
            attributes.push(("http.response.status_code", Value::Int(i64::from(status))));
        }
    }
}

/// As far as counts tell: a stream of one message looks like a unary call.
fn kind(sent: u64, received: u64) -> &'static str {
    match (sent > 1, received > 1) {
        (false, false) => "unary",
        (true, false) => "client_streaming",
        (false, true) => "server_streaming",
        (true, true) => "bidi",
    }
}

fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &str {
    let mut begin = digits.len();
    for (index, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        begin = index;
        if number == 0 {
            break;
        }
    }
    digits.get(begin..).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default()
}

/// Splits `user@host:port` (the user goes, and the brackets of an IPv6 address).
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if let Some((host, after)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, after.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (authority, None),
    }
}
