//! Message heads: where they end, what is in them, and how the body behind them is delimited (RFC 9112).
//!
//! One pass over the lines; only the headers that somebody reads are looked at closer. Knows nothing of connections.

use crate::{
    model::Flow,
    protocols::{
        Likeness,
        grpc::{
            RequestHeaders, ResponseHeaders,
            web::{Encoding, encoding},
        },
    },
};

/// How a message's body is delimited (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// The message ends with its head.
    Empty,
    /// So many bytes, at least one.
    Length(u64),
    Chunked,
    /// A response that ends with its connection.
    UntilClose,
    /// A request whose end no recipient can know; a server refuses it and closes.
    Invalid,
}

/// The protocol that an Upgrade field names (RFC 9110 section 7.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    Websocket,
    /// HTTP/2 without TLS (RFC 7540 section 3.2; RFC 9113 has no use for it any more, clients do).
    H2c,
    Other,
}

impl Upgrade {
    fn of(value: &[u8]) -> Self {
        let named = |name: &[u8]| value.split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(name));
        match () {
            () if named(b"websocket") => Upgrade::Websocket,
            () if named(b"h2c") => Upgrade::H2c,
            () => Upgrade::Other,
        }
    }
}

/// The parts of a request head that are of interest.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    pub method: &'a [u8],
    pub target: &'a [u8],
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor: u8,
    pub host: Option<&'a [u8]>,
    pub user_agent: Option<&'a [u8]>,
    pub traceparent: Option<&'a [u8]>,
    pub framing: Framing,
    /// `Expect: 100-continue`: the body may never be sent.
    pub expects_continue: bool,
    pub upgrade: Option<Upgrade>,
    /// The body is of gRPC-Web.
    pub grpc_web: Option<Encoding>,
}

/// The parts of a response head that are of interest.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead {
    pub status: u16,
    /// As its own headers say, but for the request's method: see [`Framing`].
    pub framing: Framing,
}

/// A head at the front of some bytes.
#[derive(Clone, Copy, Debug)]
pub enum Parsed<T> {
    /// The head, and its length with the empty line that ends it.
    Whole(T, usize),
    /// So far a head; its end is not there yet.
    Partial,
    /// Not a head.
    Malformed,
}

/// A method longer than this is not one. The longest registered one has 17 letters.
pub const MAX_METHOD: usize = 32;

/// The methods that OpenTelemetry knows; others are reported as `_OTHER` with the original beside it.
pub const KNOWN_METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

/// Bodies announced as longer than this are taken for nonsense; also keeps lengths away from the "for ever" of a skip.
const MAX_CONTENT_LENGTH: u64 = 1 << 62;

/// Position of the first `needle`. Eight bytes at a time: header lines are too short for wider vectors to pay.
#[inline]
pub fn find(needle: u8, bytes: &[u8]) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let pattern = LOW * u64::from(needle);
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let differing = u64::from_le_bytes(*word) ^ pattern;
        let equal = differing.wrapping_sub(LOW) & !differing & HIGH;
        if equal != 0 {
            return Some(index * 8 + (equal.trailing_zeros() / 8) as usize);
        }
    }
    rest.iter().position(|&byte| byte == needle).map(|position| words.len() * 8 + position)
}

/// Splits the first line off: without its LF or CRLF, and what follows it. A lone LF ends a line too (RFC 9112 section 2.2).
#[inline]
pub fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = find(b'\n', bytes)?;
    let (line, rest) = bytes.split_at_checked(end)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), rest.get(1..)?))
}

/// Whether the empty line that ends a head is in `bytes`, of which the first `scanned` were looked at before.
pub fn has_end(bytes: &[u8], scanned: usize) -> bool {
    // A line break before `scanned` can be the first half of the end.
    let mut from = scanned.saturating_sub(2);
    while let Some(found) = bytes.get(from..).and_then(|rest| find(b'\n', rest)) {
        from += found + 1;
        let rest = bytes.get(from..).unwrap_or_default();
        if rest.starts_with(b"\n") || rest.starts_with(b"\r\n") {
            return true;
        }
    }
    false
}

/// Bytes of empty lines before a message; recipients are to ignore them (RFC 9112 section 2.2).
pub fn leading_blank(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|&&byte| byte == b'\r' || byte == b'\n').count()
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a first line that has begun can still become.
fn judge_request_line(bytes: &[u8]) -> Likeness {
    // Extension methods are believed in any case once the version is there, but awaited in capitals only: too much begins with a word.
    if let Some((line, _)) = split_line(bytes) {
        return if request_line(line).is_some() { Likeness::Certain } else { Likeness::No };
    }
    let method = bytes.iter().take_while(|&&byte| byte.is_ascii_uppercase() || byte == b'-').count();
    let Some((_, after)) = bytes.split_at_checked(method) else { return Likeness::No };
    if method > MAX_METHOD || (method == 0 && !bytes.is_empty()) {
        return Likeness::No;
    }
    let Some((&space, target)) = after.split_first() else { return Likeness::Undecided };
    if space != b' ' || target.first() == Some(&b' ') {
        return Likeness::No;
    }
    let Some(target_end) = find(b' ', target) else {
        return if target.iter().any(|byte| byte.is_ascii_control() && *byte != b'\r') { Likeness::No } else { Likeness::Undecided };
    };
    let version = target.get(target_end + 1..).unwrap_or_default();
    if could_become(version, b"HTTP/1.0\r") || could_become(version, b"HTTP/1.1\r") { Likeness::Undecided } else { Likeness::No }
}

fn could_become(bytes: &[u8], whole: &[u8]) -> bool {
    whole.starts_with(bytes)
}

/// Judges the first bytes of a flow: see [`crate::protocols::Definition::likeness`].
pub fn likeness(flow: Flow, bytes: &[u8]) -> Likeness {
    let blank = leading_blank(bytes);
    let Some(bytes) = bytes.get(blank..).filter(|rest| blank <= 4 && !rest.is_empty()) else {
        return if blank <= 4 { Likeness::Undecided } else { Likeness::No };
    };
    match flow {
        // A log, too, has lines like these; what follows them there is no header.
        Flow::Request | Flow::Response if split_line(bytes).is_some_and(|(_, rest)| !may_follow(rest)) => Likeness::No,
        Flow::Request => judge_request_line(bytes),
        Flow::Response if status_line(bytes).is_some() => Likeness::Certain,
        Flow::Response => {
            let version = bytes.get(..8).unwrap_or(bytes);
            let known = could_become(version, b"HTTP/1.0") || could_become(version, b"HTTP/1.1");
            let (separator, status) = bytes.get(8..).and_then(<[u8]>::split_first).unwrap_or((&b' ', &[]));
            if known && *separator == b' ' && status.len() < 3 && status.iter().all(u8::is_ascii_digit) {
                Likeness::Undecided
            } else {
                Likeness::No
            }
        }
    }
}

/// What has come behind a first line can be a header line or the empty line.
fn may_follow(bytes: &[u8]) -> bool {
    let name = bytes.iter().take_while(|&&byte| is_token(byte)).count();
    match bytes.get(name) {
        None => true,
        Some(b':') => name > 0,
        Some(b'\r' | b'\n') => name == 0,
        Some(_) => false,
    }
}

/// Method, target and minor version.
fn request_line(line: &[u8]) -> Option<(&[u8], &[u8], u8)> {
    let method_end = find(b' ', line)?;
    let (method, rest) = line.split_at_checked(method_end)?;
    let rest = rest.get(1..)?;
    let (target, version) = rest.split_at_checked(find(b' ', rest)?)?;
    let minor = match version {
        b" HTTP/1.1" => 1,
        b" HTTP/1.0" => 0,
        _ => return None,
    };
    let method_valid = !method.is_empty() && method.len() <= MAX_METHOD && method.iter().all(|&byte| is_token(byte));
    (method_valid && !target.is_empty()).then_some((method, target, minor))
}

/// Status, from the begin of a status line: `HTTP/1.x NNN` and then a space or the line's end, if anything.
fn status_line(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let (&[hundreds, tens, ones], after) = rest.split_first_chunk::<3>()?;
    let digit = |byte: u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
    let status = digit(hundreds)? * 100 + digit(tens)? * 10 + digit(ones)?;
    (status >= 100 && matches!(after.first(), None | Some(b' ' | b'\r' | b'\n'))).then_some(status)
}

/// The value of a header line if it is of this name (given in lower case, with the colon), without the space around it.
#[inline]
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, value) = line.split_at_checked(name.len())?;
    // Most lines that begin with the same letter are told apart by where their colon is.
    if found.last() != Some(&b':') {
        return None;
    }
    found.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

/// What Content-Length and Transfer-Encoding together say.
#[derive(Clone, Copy, Default)]
struct Lengths {
    length: Option<u64>,
    length_invalid: bool,
    encoded: bool,
    chunked_last: bool,
}

impl Lengths {
    /// Equal values may be repeated, in one line or several; anything else makes the length invalid (RFC 9112 section 6.3, rule 5).
    fn content_length(&mut self, value: &[u8]) {
        for item in value.split(|&byte| byte == b',') {
            match decimal(item.trim_ascii()) {
                Some(length) if self.length.is_none_or(|known| known == length) => self.length = Some(length),
                _ => self.length_invalid = true,
            }
        }
    }

    fn transfer_encoding(&mut self, value: &[u8]) {
        self.encoded = true;
        let last = value.rsplit(|&byte| byte == b',').next().unwrap_or_default();
        self.chunked_last = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
    }

    fn framing(self, flow: Flow) -> Framing {
        let unknown = if flow == Flow::Request { Framing::Invalid } else { Framing::UntilClose };
        match self {
            // Transfer-Encoding overrides Content-Length (RFC 9112 section 6.3, rule 3).
            Lengths { encoded: true, chunked_last: true, .. } => Framing::Chunked,
            Lengths { encoded: true, .. } | Lengths { length_invalid: true, .. } => unknown,
            Lengths { length: Some(0), .. } => Framing::Empty,
            Lengths { length: Some(length), .. } => Framing::Length(length),
            Lengths { length: None, .. } if flow == Flow::Request => Framing::Empty,
            Lengths { length: None, .. } => Framing::UntilClose,
        }
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0_u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })?;
    (number <= MAX_CONTENT_LENGTH).then_some(number)
}

/// Walks over the header lines; `None` when the empty line is missing, `Some(Err)` when `strict` and a line is not a header.
fn headers<'a>(mut rest: &'a [u8], strict: bool, mut header: impl FnMut(&'a [u8])) -> Option<Result<&'a [u8], NotAHeader>> {
    loop {
        let (line, after) = split_line(rest)?;
        if line.is_empty() {
            return Some(Ok(after));
        }
        if strict && !is_header(line) {
            return Some(Err(NotAHeader));
        }
        header(line);
        rest = after;
    }
}

struct NotAHeader;

/// `name: value`, or the continuation of one (obsolete line folding, RFC 9112 section 5.2).
fn is_header(line: &[u8]) -> bool {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return true;
    }
    let name = line.iter().take_while(|&&byte| is_token(byte)).count();
    name > 0 && line.get(name) == Some(&b':')
}

/// Reads a request head. `strict`: the bytes may be of any place in a conversation, so every line must look its part.
pub fn request(bytes: &[u8], strict: bool) -> Parsed<RequestHead<'_>> {
    let Some((line, rest)) = split_line(bytes) else {
        return if judge_request_line(bytes) == Likeness::No { Parsed::Malformed } else { Parsed::Partial };
    };
    let Some((method, target, minor)) = request_line(line) else { return Parsed::Malformed };
    // "OST /a HTTP/1.1" is what a late start leaves of a POST.
    if strict && !KNOWN_METHODS.iter().any(|known| known.as_bytes() == method) {
        return Parsed::Malformed;
    }
    let mut lengths = Lengths::default();
    let (mut host, mut user_agent, mut traceparent) = (None, None, None);
    let (mut expects_continue, mut upgrade, mut grpc_web) = (false, None, None);
    let end = headers(rest, strict, |line| match line.first().map(u8::to_ascii_lowercase) {
        Some(b'h') => host = host.or_else(|| value_of(line, b"host:")),
        Some(b'u') => {
            user_agent = user_agent.or_else(|| value_of(line, b"user-agent:"));
            upgrade = upgrade.or_else(|| value_of(line, b"upgrade:").map(Upgrade::of));
        }
        Some(b't') => {
            traceparent = traceparent.or_else(|| value_of(line, b"traceparent:"));
            if let Some(value) = value_of(line, b"transfer-encoding:") {
                lengths.transfer_encoding(value);
            }
        }
        Some(b'c') => {
            if let Some(value) = value_of(line, b"content-length:") {
                lengths.content_length(value);
            } else if let Some(value) = value_of(line, b"content-type:") {
                grpc_web = encoding(value);
            }
        }
        Some(b'e') => expects_continue |= value_of(line, b"expect:").is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue")),
        _ => {}
    });
    match end {
        None => Parsed::Partial,
        Some(Err(NotAHeader)) => Parsed::Malformed,
        Some(Ok(after)) => {
            let framing = lengths.framing(Flow::Request);
            let head = RequestHead { method, target, minor, host, user_agent, traceparent, framing, expects_continue, upgrade, grpc_web };
            Parsed::Whole(head, bytes.len() - after.len())
        }
    }
}

/// Reads a response head; `strict` as with [`request`].
pub fn response(bytes: &[u8], strict: bool) -> Parsed<ResponseHead> {
    let Some((line, rest)) = split_line(bytes) else {
        return if likeness(Flow::Response, bytes) == Likeness::No { Parsed::Malformed } else { Parsed::Partial };
    };
    let Some(status) = status_line(line) else { return Parsed::Malformed };
    let mut lengths = Lengths::default();
    let end = headers(rest, strict, |line| match line.first().map(u8::to_ascii_lowercase) {
        Some(b't') => {
            if let Some(value) = value_of(line, b"transfer-encoding:") {
                lengths.transfer_encoding(value);
            }
        }
        Some(b'c') => {
            if let Some(value) = value_of(line, b"content-length:") {
                lengths.content_length(value);
            }
        }
        _ => {}
    });
    match end {
        None => Parsed::Partial,
        Some(Err(NotAHeader)) => Parsed::Malformed,
        Some(Ok(after)) => {
            // RFC 9112 section 6.3, rule 1.
            let framing = if status < 200 || status == 204 || status == 304 { Framing::Empty } else { lengths.framing(Flow::Response) };
            Parsed::Whole(ResponseHead { status, framing }, bytes.len() - after.len())
        }
    }
}

/// What gRPC-Web says in a request head that [`request`] read: a second look, for calls only.
pub fn grpc_request<'a>(head: &RequestHead<'a>, bytes: &'a [u8]) -> RequestHeaders<'a> {
    let target = target(head.method, head.target);
    let mut timeout = None;
    let (_, lines) = split_line(bytes).unwrap_or_default();
    headers(lines, false, |line| timeout = timeout.or_else(|| value_of(line, b"grpc-timeout:")));
    let authority = target.authority.or(head.host);
    RequestHeaders { path: Some(target.path), authority, user_agent: head.user_agent, timeout, traceparent: head.traceparent }
}

/// What gRPC-Web says in a response head that [`response`] read, and how its body is written.
pub fn grpc_response(status: u16, bytes: &[u8]) -> (Option<Encoding>, ResponseHeaders<'_>) {
    let mut found = ResponseHeaders { http_status: Some(status), ..ResponseHeaders::default() };
    let mut body = None;
    let (_, lines) = split_line(bytes).unwrap_or_default();
    headers(lines, false, |line| {
        found.status = found.status.or_else(|| value_of(line, b"grpc-status:"));
        found.message = found.message.or_else(|| value_of(line, b"grpc-message:"));
        body = body.or_else(|| value_of(line, b"content-type:").and_then(encoding));
    });
    (body, found)
}

/// What the server agreed to with the response head (101) that `bytes` begin with.
pub fn agreed_upgrade(bytes: &[u8]) -> Option<Upgrade> {
    let mut upgrade = None;
    let (_, lines) = split_line(bytes)?;
    headers(lines, false, |line| upgrade = upgrade.or_else(|| value_of(line, b"upgrade:").map(Upgrade::of)));
    upgrade
}

/// The size in a chunk's first line (RFC 9112 section 7.1), extensions left out. `None`: not a chunk.
pub fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (number, extension) = line.split_at_checked(digits)?;
    if digits == 0 || !matches!(extension.trim_ascii_start().first(), None | Some(b';')) {
        return None;
    }
    let size = number.iter().try_fold(0_u64, |size, &byte| {
        let digit = char::from(byte).to_digit(16)?;
        size.checked_mul(16)?.checked_add(u64::from(digit))
    })?;
    (size <= MAX_CONTENT_LENGTH).then_some(size)
}

/// A request target, split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Without query and fragment; the whole target of CONNECT and of `OPTIONS *`.
    pub path: &'a [u8],
    /// Behind the `?`, without the fragment; empty where there is none.
    pub query: &'a [u8],
    /// Of the absolute and the authority form, without user information.
    pub authority: Option<&'a [u8]>,
}

/// Splits a target of any of the four forms (RFC 9112 section 3.2).
pub fn target<'a>(method: &[u8], target: &'a [u8]) -> Target<'a> {
    let strip_query = |text: &'a [u8]| {
        let path = find(b'?', text).and_then(|end| text.get(..end)).unwrap_or(text);
        let path = find(b'#', path).and_then(|end| path.get(..end)).unwrap_or(path);
        if path.is_empty() { b"/" } else { path }
    };
    let query_of = |text: &'a [u8]| {
        let text = find(b'#', text).and_then(|end| text.get(..end)).unwrap_or(text);
        find(b'?', text).and_then(|begin| text.get(begin + 1..)).unwrap_or_default()
    };
    if method == b"CONNECT" {
        let authority = without_user(strip_query(target));
        return Target { path: authority, query: b"", authority: Some(authority) };
    }
    if matches!(target.first(), Some(b'/' | b'*')) {
        return Target { path: strip_query(target), query: query_of(target), authority: None };
    }
    let Some(scheme_end) = target.windows(3).position(|window| window == b"://") else {
        return Target { path: strip_query(target), query: query_of(target), authority: None };
    };
    // A query may hold a URL of its own.
    if find(b'?', target).is_some_and(|query| query < scheme_end) {
        return Target { path: strip_query(target), query: query_of(target), authority: None };
    }
    let rest = target.get(scheme_end + 3..).unwrap_or_default();
    let end = rest.iter().position(|&byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, b""));
    Target { path: strip_query(path), query: query_of(path), authority: Some(without_user(authority)) }
}

fn without_user(authority: &[u8]) -> &[u8] {
    authority.iter().rposition(|&byte| byte == b'@').and_then(|at| authority.get(at + 1..)).unwrap_or(authority)
}

/// Splits `host:port`; the brackets of an IPv6 address go.
pub fn host_and_port(authority: &[u8]) -> (&[u8], Option<u16>) {
    let port_of = |digits: &[u8]| decimal(digits).and_then(|port| u16::try_from(port).ok());
    if let Some(rest) = authority.strip_prefix(b"[")
        && let Some(end) = find(b']', rest)
    {
        let port = rest.get(end + 1..).and_then(|after| after.strip_prefix(b":")).and_then(port_of);
        return (rest.get(..end).unwrap_or_default(), port);
    }
    match find(b':', authority).and_then(|colon| authority.split_at_checked(colon)) {
        Some((host, port)) => (host, port.get(1..).and_then(port_of)),
        None => (authority, None),
    }
}
