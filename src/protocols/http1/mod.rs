//! HTTP/1.0 and HTTP/1.1 (RFC 9110, RFC 9112): where messages begin and end in both flows.
//!
//! Heads are in `head`, pairs in `pairing`, what becomes an exchange in `entry`. Bodies are passed over, never looked at, but for the
//! messages of gRPC-Web, which are counted.
//! An exchange is an error when its status is 500 or above, or when there was no answer: which side was watched is not known here, and a
//! 4xx is an error of the client only.
#![deny(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used))]

mod content;
mod entry;
pub(super) mod head;
mod pairing;
#[cfg(test)]
mod tests;

use self::{
    entry::{Entry, Kind},
    head::{Framing, Parsed, Upgrade},
    pairing::{Pairing, ResponseFlow},
};
use crate::{
    model::{Flow, Protocol, Protocols},
    protocols::{At, Capture, Definition, Likeness, Loss, Opening, Parser, Sink, Step, host, websocket},
};

pub const DEFINITION: Definition = Definition::stream(Protocol::Http, likeness, parser);

fn likeness(flow: Flow, bytes: &[u8]) -> Likeness {
    head::likeness(flow, bytes)
}

fn parser(opening: Opening) -> Box<dyn Parser> {
    Box::new(Http1::new(opening))
}

/// Any other target than a path is for a proxy: the server is not the one that it names (RFC 9112 section 3.2).
fn tell_host(head: &head::RequestHead<'_>, out: &mut dyn Sink) {
    let host = head.host.filter(|_| head.target.starts_with(b"/") || head.target == b"*");
    if let Some(name) = host.and_then(host::domain) {
        out.host(&name);
    }
}

/// What the next bytes of a flow are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The begin of a message.
    Head,
    /// A body, or a new head instead: the response to a request not seen yet, which may be HEAD, or a body that waits for 100 (Continue).
    Undecided(Framing),
    /// A body that is passed over.
    Body(u64),
    ChunkSize,
    /// A chunk's data that is passed over, with the line break behind it.
    ChunkData(u64),
    /// So many bytes of content that are looked at: of a body of known length, or of a chunk.
    Content {
        left: u64,
        chunk: bool,
    },
    /// Content of which the next `passed` bytes need not be looked at.
    ContentPassed {
        passed: u64,
        left: u64,
        chunk: bool,
    },
    Trailer,
    UntilClose,
    /// Not known: a message is looked for where calls begin.
    Lost,
    /// Another protocol's.
    Tunnel,
}

struct Lane {
    place: Place,
    /// So many of the bytes that will be handed over again were searched for their end.
    scanned: usize,
    /// The content of the message under way is looked at: it is of gRPC-Web.
    reads: bool,
}

struct Http1 {
    lanes: [Lane; 2],
    pairing: Pairing,
    /// A whole head was seen: the connection speaks HTTP.
    understood: bool,
    adopted: bool,
    /// A request was seen: who the server is was told, or nobody knows.
    asked: bool,
    /// What follows the requests that were seen is another protocol's.
    switched: bool,
    raw: Protocols,
    /// The parser of what follows an upgrade, when there is one: everything is handed to it.
    successor: Option<Box<dyn Parser>>,
}

impl Http1 {
    fn new(opening: Opening) -> Self {
        let Opening { adopted, raw, .. } = opening;
        let place = if adopted { Place::Lost } else { Place::Head };
        let lanes = [(); 2].map(|()| Lane { place, scanned: 0, reads: false });
        Self {
            lanes,
            pairing: Pairing::new(adopted, opening.shows(Protocol::Http)),
            understood: false,
            adopted,
            asked: false,
            switched: false,
            raw,
            successor: None,
        }
    }

    fn lane(&mut self, flow: Flow) -> &mut Lane {
        let [request, response] = &mut self.lanes;
        match flow {
            Flow::Request => request,
            Flow::Response => response,
        }
    }

    fn place(&self, flow: Flow) -> Place {
        let [request, response] = &self.lanes;
        match flow {
            Flow::Request => request.place,
            Flow::Response => response.place,
        }
    }

    /// Bytes before the next message are not one.
    fn lose(&mut self, flow: Flow, lost: u64, at_ns: u64, out: &mut dyn Sink) {
        out.lost(Loss::ParseGap);
        self.lane(flow).place = Place::Lost;
        self.lane(flow).scanned = 0;
        match flow {
            Flow::Request => {
                let response_lost = self.place(Flow::Response) == Place::Lost;
                self.pairing.request_gap(response_lost, out);
            }
            Flow::Response => self.pairing.response_gap(lost, at_ns, out),
        }
    }

    fn message_bytes(&mut self, flow: Flow, wire: u64, body: u64, at_ns: u64) {
        match flow {
            Flow::Request => self.pairing.request_bytes(wire, body),
            Flow::Response => self.pairing.response_bytes(wire, body, at_ns),
        }
    }

    fn end_message(&mut self, flow: Flow, at_ns: u64, out: &mut dyn Sink) {
        self.lane(flow).place = Place::Head;
        match flow {
            Flow::Request => self.pairing.request_end(out),
            Flow::Response => self.pairing.response_end(Some(at_ns), out),
        }
    }

    fn head(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        let lost = self.place(flow) == Place::Lost;
        if lost && !at.call_start {
            return self.pass_lost(flow, bytes, at);
        }
        if flow == Flow::Request && self.switched && !self.pairing.awaits_request() {
            self.lane(flow).place = Place::Tunnel;
            return Step::Skip { head: 0, body: u64::MAX };
        }
        if !lost {
            match head::leading_blank(bytes) {
                0 => {}
                blank => {
                    self.lane(flow).scanned = 0;
                    return Step::Consumed(blank);
                }
            }
        }
        let scanned = self.lane(flow).scanned;
        // The first bytes are judged again while they are few; after that only the end of the head is waited for.
        if scanned > JUDGED && !head::has_end(bytes, scanned) {
            self.lane(flow).scanned = bytes.len();
            return Step::NeedMore;
        }
        self.lane(flow).scanned = 0;
        match flow {
            Flow::Request => match head::request(bytes, lost) {
                Parsed::Whole(head, length) => self.request(head, length, bytes, at, out),
                Parsed::Partial => self.wait(flow, bytes),
                Parsed::Malformed => self.malformed(flow, bytes, at, out),
            },
            Flow::Response => match head::response(bytes, lost) {
                Parsed::Whole(head, length) => self.response(head, length, bytes, at, out),
                Parsed::Partial => self.wait(flow, bytes),
                Parsed::Malformed => self.malformed(flow, bytes, at, out),
            },
        }
    }

    fn wait(&mut self, flow: Flow, bytes: &[u8]) -> Step {
        self.lane(flow).scanned = bytes.len();
        Step::NeedMore
    }

    fn pass_lost(&mut self, flow: Flow, bytes: &[u8], at: At) -> Step {
        if flow == Flow::Response {
            self.pairing.response_passed(bytes.len() as u64, at.last_ns);
        }
        Step::Consumed(bytes.len())
    }

    fn malformed(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if self.place(flow) == Place::Lost {
            return self.pass_lost(flow, bytes, at);
        }
        if !self.understood && !self.adopted {
            return Step::NotMine;
        }
        // A client may speak the next protocol before the server has agreed to it.
        let asked = self.pairing.last_asked().filter(|_| flow == Flow::Request);
        let early = matches!(asked, Some(Kind::Connect | Kind::Upgrade(_)));
        if matches!(asked, Some(Kind::Upgrade(Upgrade::Websocket | Upgrade::H2c))) && bytes.len() <= MAX_EARLY {
            return Step::NeedMore;
        }
        if early {
            self.lane(flow).place = Place::Lost;
        } else {
            self.lose(flow, bytes.len() as u64, at.last_ns, out);
        }
        Step::Consumed(bytes.len())
    }

    fn request(&mut self, head: head::RequestHead<'_>, length: usize, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        self.understood = true;
        if !std::mem::replace(&mut self.asked, true) {
            tell_host(&head, out);
        }
        let response = match self.place(Flow::Response) {
            Place::Head | Place::Undecided(_) => ResponseFlow::Idle,
            Place::Lost => ResponseFlow::Lost,
            _ => ResponseFlow::Busy,
        };
        self.pairing.request_head(&head, length, at, response, out);
        self.lane(Flow::Request).reads = head.grpc_web.is_some();
        if head.grpc_web.is_some() {
            self.pairing.begin_call(&head, bytes, at, self.raw.contains(Protocol::Grpc), out);
        }
        let step = match head.framing {
            Framing::Invalid => {
                self.pairing.request_end(out);
                self.lane(Flow::Request).place = Place::Lost;
                self.pairing.request_gap(false, out);
                Step::Consumed(length)
            }
            framing if head.expects_continue && framing != Framing::Empty => {
                self.lane(Flow::Request).place = Place::Undecided(framing);
                Step::Consumed(length)
            }
            framing => self.begin_body(Flow::Request, framing, length, at.last_ns, out),
        };
        self.settle_response(at.last_ns, out);
        step
    }

    /// A request came after its response: the response's body may now be told from the next head.
    fn settle_response(&mut self, at_ns: u64, out: &mut dyn Sink) {
        if matches!(self.place(Flow::Response), Place::Undecided(_) | Place::UntilClose) && self.pairing.response_opens_tunnel() {
            self.pairing.response_end(None, out);
            self.switch(0, at_ns, out);
        } else if let Place::Undecided(_) = self.place(Flow::Response)
            && self.pairing.response_is_bodiless()
        {
            self.lane(Flow::Response).place = Place::Head;
            self.pairing.response_end(None, out);
        }
    }

    fn response(&mut self, head: head::ResponseHead, length: usize, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        self.understood = true;
        let kind = self.pairing.kind_of_response();
        if head.status < 200 && head.status != 101 {
            self.lane(Flow::Response).place = Place::Head;
            self.pairing.interim(length);
            return Step::Consumed(length);
        }
        self.pairing.response_head(head, length, at, out);
        if Entry::switches(kind, head.status) {
            if let Some(Kind::Upgrade(asked)) = kind
                && self.hand_over(asked, bytes, at, out)
            {
                return Step::Consumed(length);
            }
            self.pairing.response_end(Some(at.last_ns), out);
            return self.switch(length, at.last_ns, out);
        }
        self.lane(Flow::Response).reads = kind == Some(Kind::GrpcWeb) && self.call_response(head.status, bytes, at);
        match (kind, head.framing) {
            (Some(Kind::Head), _) => self.begin_body(Flow::Response, Framing::Empty, length, at.last_ns, out),
            (None, framing) if framing != Framing::Empty => {
                self.lane(Flow::Response).place = Place::Undecided(framing);
                Step::Consumed(length)
            }
            (_, framing) => self.begin_body(Flow::Response, framing, length, at.last_ns, out),
        }
    }

    /// The server agreed to another protocol; whether that has a parser.
    fn hand_over(&mut self, asked: Upgrade, bytes: &[u8], at: At, out: &mut dyn Sink) -> bool {
        let agreed = head::agreed_upgrade(bytes).filter(|agreed| *agreed == asked && self.place(Flow::Request) == Place::Head);
        let Some(entry) = self.pairing.upgraded() else { return false };
        match agreed {
            Some(Upgrade::Websocket) => {
                self.successor = Some(websocket::upgraded(entry.websocket(self.adopted)));
                self.pairing.response_end(Some(at.last_ns), out);
            }
            Some(Upgrade::H2c) => {
                let opening = Opening { adopted: self.adopted, raw: self.raw, ..Opening::default() };
                self.successor = Some(entry.http2(opening));
                self.pairing.hand_over();
            }
            Some(Upgrade::Other) | None => return false,
        }
        out.capture(Capture::Full);
        true
    }

    /// HTTP is over on this connection.
    fn switch(&mut self, head: usize, at_ns: u64, out: &mut dyn Sink) -> Step {
        self.switched = true;
        self.lane(Flow::Response).place = Place::Tunnel;
        if !self.pairing.awaits_request() {
            self.pairing.end(at_ns, false, out);
        }
        out.capture(Capture::Lengths);
        Step::Skip { head, body: u64::MAX }
    }

    /// The first `head` bytes are done with; the body is what follows.
    fn begin_body(&mut self, flow: Flow, framing: Framing, head: usize, at_ns: u64, out: &mut dyn Sink) -> Step {
        match framing {
            Framing::Empty | Framing::Invalid => {
                self.end_message(flow, at_ns, out);
                return Step::Consumed(head);
            }
            Framing::Length(left) if self.lane(flow).reads => self.lane(flow).place = Place::Content { left, chunk: false },
            Framing::Length(body) => {
                self.lane(flow).place = Place::Body(body);
                return Step::Skip { head, body };
            }
            Framing::Chunked => self.lane(flow).place = Place::ChunkSize,
            Framing::UntilClose => self.lane(flow).place = Place::UntilClose,
        }
        Step::Consumed(head)
    }

    /// A body follows, or it was never sent and this is the next head.
    fn undecided(&mut self, flow: Flow, framing: Framing, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        let possible = match flow {
            Flow::Request => self.pairing.asked_is_answered(),
            Flow::Response => !self.pairing.response_is_known(),
        };
        let likeness = if possible { head::likeness(flow, bytes) } else { Likeness::No };
        let whole_body = matches!(framing, Framing::Length(length) if bytes.len() as u64 >= length);
        if likeness == Likeness::Undecided && !whole_body {
            return Step::NeedMore;
        }
        let bodiless = likeness == Likeness::Certain;
        if bodiless {
            self.lane(flow).place = Place::Head;
            match flow {
                Flow::Request => self.pairing.request_end(out),
                Flow::Response => self.pairing.response_end(None, out),
            }
            return self.head(flow, bytes, at, out);
        }
        match framing {
            Framing::Length(left) if self.lane(flow).reads => {
                self.lane(flow).place = Place::Content { left, chunk: false };
                self.content(flow, left, false, bytes, at, out)
            }
            Framing::Length(body) => {
                self.lane(flow).place = Place::Body(body);
                Step::Skip { head: 0, body }
            }
            Framing::Chunked => {
                self.lane(flow).place = Place::ChunkSize;
                self.line(flow, bytes, at, out)
            }
            _ => {
                self.lane(flow).place = Place::UntilClose;
                self.message_bytes(flow, bytes.len() as u64, bytes.len() as u64, at.last_ns);
                Step::Consumed(bytes.len())
            }
        }
    }

    /// A line of chunk framing or of the trailer.
    fn line(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        let scanned = self.lane(flow).scanned;
        let Some(found) = bytes.get(scanned..).and_then(|rest| head::find(b'\n', rest)) else { return self.wait(flow, bytes) };
        let length = scanned + found + 1;
        self.lane(flow).scanned = 0;
        let line = bytes.get(..length).and_then(head::split_line).map(|(line, _)| line).unwrap_or_default();
        if self.place(flow) == Place::Trailer {
            self.message_bytes(flow, length as u64, 0, at.last_ns);
            if line.is_empty() {
                self.end_message(flow, at.last_ns, out);
            }
            return Step::Consumed(length);
        }
        match head::chunk_size(line) {
            Some(0) => {
                self.message_bytes(flow, length as u64, 0, at.last_ns);
                self.lane(flow).place = Place::Trailer;
                Step::Consumed(length)
            }
            Some(size) => {
                self.message_bytes(flow, length as u64, 0, at.last_ns);
                if self.lane(flow).reads {
                    self.lane(flow).place = Place::Content { left: size, chunk: true };
                    return Step::Consumed(length);
                }
                self.lane(flow).place = Place::ChunkData(size);
                Step::Skip { head: length, body: size + 2 }
            }
            None => {
                self.lose(flow, bytes.len() as u64, at.last_ns, out);
                Step::Consumed(bytes.len())
            }
        }
    }
}

/// A first line that has not become impossible by so many bytes is waited for.
const JUDGED: usize = 64;

/// So many bytes of the next protocol are kept until the server has agreed to it: with two threads on one socket a client's first
/// frame can be reported before the response that it follows.
const MAX_EARLY: usize = 1024;

impl Parser for Http1 {
    fn parse(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if let Some(successor) = &mut self.successor {
            return successor.parse(flow, bytes, at, out);
        }
        match self.place(flow) {
            Place::Head | Place::Lost => self.head(flow, bytes, at, out),
            Place::Undecided(framing) => self.undecided(flow, framing, bytes, at, out),
            Place::ChunkSize | Place::Trailer => self.line(flow, bytes, at, out),
            Place::UntilClose => {
                self.message_bytes(flow, bytes.len() as u64, bytes.len() as u64, at.last_ns);
                if self.lane(flow).reads
                    && let Some(call) = self.pairing.call(flow)
                {
                    call.data(flow, bytes, at);
                }
                Step::Consumed(bytes.len())
            }
            Place::Content { left, chunk } => self.content(flow, left, chunk, bytes, at, out),
            Place::ChunkData(0) => Step::Skip { head: 0, body: 2 },
            // Bodies are skipped, so these bytes are not asked for; a tunnel's come when it was found by the other flow.
            Place::Body(_) | Place::ChunkData(_) | Place::ContentPassed { .. } | Place::Tunnel => Step::Skip { head: 0, body: u64::MAX },
        }
    }

    fn skipped(&mut self, flow: Flow, at_ns: u64, out: &mut dyn Sink) {
        if let Some(successor) = &mut self.successor {
            return successor.skipped(flow, at_ns, out);
        }
        match self.place(flow) {
            Place::Body(length) => {
                self.message_bytes(flow, length, length, at_ns);
                self.end_message(flow, at_ns, out);
            }
            Place::ChunkData(size) => {
                self.message_bytes(flow, size + 2, size, at_ns);
                self.lane(flow).place = Place::ChunkSize;
            }
            Place::ContentPassed { passed, left, chunk } => self.content_passed(flow, passed, left, chunk, at_ns, out),
            _ => {}
        }
    }

    fn gap(&mut self, flow: Flow, lost: u64, at_ns: u64, out: &mut dyn Sink) {
        if let Some(successor) = &mut self.successor {
            return successor.gap(flow, lost, at_ns, out);
        }
        self.lane(flow).scanned = 0;
        match self.place(flow) {
            Place::Tunnel => {}
            Place::UntilClose => {
                self.message_bytes(flow, lost, lost, at_ns);
                if let Some(call) = self.pairing.call(flow) {
                    call.missing(flow, lost, at_ns);
                }
            }
            // The body ends where it would have ended.
            Place::Content { left, chunk } if lost <= left => self.content_passed(flow, lost, left, chunk, at_ns, out),
            Place::Lost if flow == Flow::Response => self.pairing.response_passed(lost, at_ns),
            Place::Lost => {}
            _ => self.lose(flow, lost, at_ns, out),
        }
    }

    fn close(&mut self, at_ns: u64, out: &mut dyn Sink) {
        if let Some(successor) = &mut self.successor {
            return successor.close(at_ns, out);
        }
        let [request, response] = &self.lanes;
        // A body that was announced and never begun is not missing.
        let never_sent = matches!(request.place, Place::Undecided(_));
        let ends_here = matches!(response.place, Place::UntilClose | Place::Undecided(Framing::UntilClose));
        if never_sent {
            self.pairing.request_end(out);
        }
        if ends_here {
            self.pairing.response_end(None, out);
        }
        self.pairing.end(at_ns, true, out);
    }
}
