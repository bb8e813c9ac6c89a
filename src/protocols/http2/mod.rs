//! HTTP/2 (RFC 9113): frames in both flows, and to which stream they belong.
//!
//! Heads of frames are in `frame`, header blocks in `hpack` and `head`, open streams in `streams`, what becomes an exchange in `entry`,
//! what the frames mean to the streams in `session`. Bodies are passed over, but for those of gRPC, of which messages are counted.
#![deny(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used))]

mod bulk;
mod entry;
mod frame;
mod head;
mod hpack;
mod session;
mod streams;
#[cfg(test)]
mod tests;

use self::{
    bulk::Bulk,
    frame::{Chain, END_HEADERS, END_STREAM, HEAD, Kind, PREFACE},
    session::{Block, Session},
};
use crate::{
    model::{Flow, Protocol},
    protocols::{At, Capture, Definition, Loss, MAX_BUFFERED, Opening, Parser, Sink, Step, reader::Reader},
};

pub const DEFINITION: Definition = Definition::stream(Protocol::Http2, frame::likeness, parser);

fn parser(opening: Opening) -> Box<dyn Parser> {
    Box::new(Http2::new(opening))
}

/// The request of HTTP/1.1 by which a client asked for HTTP/2 (RFC 7540 section 3.2).
#[derive(Clone, Copy, Debug, Default)]
pub struct UpgradedRequest<'a> {
    pub method: &'a [u8],
    /// The request target in origin form; a query may be there.
    pub path: &'a [u8],
    /// `Host`, or the authority of the target.
    pub authority: Option<&'a [u8]>,
    pub user_agent: Option<&'a [u8]>,
    pub traceparent: Option<&'a [u8]>,
    pub start_ns: u64,
    /// On the wire, of which `request_body` are content.
    pub request_bytes: u64,
    pub request_body: u64,
}

/// The parser for what follows a `101 Switching Protocols` to `h2c`: the client begins with the preface, the server answers `request`
/// as stream 1.
pub fn upgraded(opening: Opening, request: UpgradedRequest<'_>) -> Box<dyn Parser> {
    let mut parser = Http2::new(Opening { adopted: false, ..opening });
    parser.session.upgraded(opening.adopted, &request);
    Box::new(parser)
}

/// What the next bytes of a flow are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Preface,
    Frame,
    /// The payload of a frame that is of no interest, or what is left of it.
    Passed(u64),
    /// A body that is passed over: `wire` bytes of it are not accounted for yet, of which `body` are content.
    Data {
        stream: u32,
        wire: u64,
        body: u64,
        end: bool,
    },
    /// A body of gRPC: `body` bytes, then so much padding.
    Messages {
        stream: u32,
        body: u64,
        padding: u64,
        end: bool,
    },
    /// Not seen, but of one body: see [`bulk`].
    Unseen(Bulk),
    /// Not known: frames are looked for where calls begin.
    Lost,
}

/// A header block that goes on in CONTINUATION frames.
#[derive(Clone, Copy)]
struct Unfinished {
    block: Block,
    /// A part of it was missed, or it is too long.
    damaged: bool,
}

struct Lane {
    place: Place,
    /// The frame of which more is waited for.
    waiting: Option<frame::Head>,
    unfinished: Option<Unfinished>,
    fragments: Vec<u8>,
    /// A whole frame was seen.
    understood: bool,
    /// The body under way.
    body: Option<Bulk>,
}

/// What was done with the bytes at the front.
enum Taken {
    Bytes(usize),
    Skip {
        head: usize,
        body: u64,
    },
    NeedMore,
    NotMine,
    /// They are no frame.
    Malformed,
    /// They are of an unknown place after all.
    Again,
}

struct Http2 {
    lanes: [Lane; 2],
    session: Session,
    adopted: bool,
    /// The kernel was asked for all it can carry.
    wished: bool,
}

impl Http2 {
    fn new(opening: Opening) -> Self {
        let lane = |place| Lane { place, waiting: None, unfinished: None, fragments: Vec::new(), understood: false, body: None };
        let (request, response) = if opening.adopted { (Place::Lost, Place::Lost) } else { (Place::Preface, Place::Frame) };
        Self { lanes: [lane(request), lane(response)], session: Session::new(opening), adopted: opening.adopted, wished: false }
    }

    #[inline]
    fn lane(&mut self, flow: Flow) -> &mut Lane {
        let [request, response] = &mut self.lanes;
        match flow {
            Flow::Request => request,
            Flow::Response => response,
        }
    }

    #[inline]
    fn place(&self, flow: Flow) -> Place {
        let [request, response] = &self.lanes;
        match flow {
            Flow::Request => request.place,
            Flow::Response => response.place,
        }
    }

    /// The next bytes are of an unknown place.
    fn lose(&mut self, flow: Flow, out: &mut dyn Sink) {
        let lane = self.lane(flow);
        lane.waiting = None;
        lane.unfinished = None;
        lane.body = None;
        let lost_already = lane.place == Place::Lost;
        lane.place = Place::Lost;
        lane.understood = true;
        if !lost_already {
            out.lost(Loss::ParseGap);
        }
        self.session.lose(flow);
    }

    /// The first bytes of a client.
    fn preface(&mut self, bytes: &[u8]) -> Step {
        let begin = bytes.get(..PREFACE.len()).unwrap_or(bytes);
        if !PREFACE.starts_with(begin) {
            return Step::NotMine;
        }
        if begin.len() < PREFACE.len() {
            return Step::NeedMore;
        }
        self.lane(Flow::Request).place = Place::Frame;
        Step::Consumed(PREFACE.len())
    }

    /// Looks for frames in bytes of an unknown place.
    fn search(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if !at.call_start {
            return Step::Consumed(bytes.len());
        }
        if flow == Flow::Request && bytes.starts_with(PREFACE) {
            self.session.begin(flow);
            return self.preface(bytes);
        }
        match frame::chain(flow, bytes, self.session.last_stream()).0 {
            Chain::Sure => {
                self.lane(flow).place = Place::Frame;
                self.session.found(flow);
                self.frames(flow, bytes, at, out)
            }
            Chain::Unsure if bytes.len() < MAX_UNSURE => Step::NeedMore,
            Chain::Unsure | Chain::Broken => Step::Consumed(bytes.len()),
        }
    }

    /// As many frames as there are, if all came with one call: each begins when its call was made.
    fn frames(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        let mut done = 0;
        loop {
            let rest = bytes.get(done..).unwrap_or_default();
            if rest.is_empty() {
                return Step::Consumed(done);
            }
            match self.next(flow, rest, at, out) {
                Taken::Bytes(count) => done += count,
                Taken::Skip { head, body } => return Step::Skip { head: done + head, body },
                Taken::NeedMore if done == 0 => return Step::NeedMore,
                Taken::NeedMore => return Step::Consumed(done),
                Taken::NotMine => return Step::NotMine,
                Taken::Again => return self.search(flow, rest, at, out),
                Taken::Malformed => {
                    self.lose(flow, out);
                    return Step::Consumed(bytes.len());
                }
            }
            if at.first_ns != at.last_ns && done > 0 {
                return Step::Consumed(done);
            }
        }
    }

    #[inline]
    fn next(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Taken {
        match self.place(flow) {
            Place::Messages { stream, body, padding, end } => self.messages(flow, (stream, body, padding, end), bytes, at, out),
            Place::Passed(rest) => Taken::Skip { head: 0, body: rest },
            Place::Data { wire, .. } => Taken::Skip { head: 0, body: wire },
            Place::Unseen(bulk) => self.look_for_body(flow, bulk, bytes, at, out),
            Place::Preface | Place::Frame | Place::Lost => self.frame(flow, bytes, at, out),
        }
    }

    fn frame(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Taken {
        let adopted = self.adopted;
        let lane = self.lane(flow);
        lane.waiting = None;
        let Some(head) = frame::Head::read(bytes) else { return Taken::NeedMore };
        // Each side begins with its settings (RFC 9113 section 3.4).
        if !lane.understood && !adopted && head.kind != Kind::Settings {
            return Taken::NotMine;
        }
        let in_block = lane.unfinished.map(|unfinished| unfinished.block.carrier);
        let in_order = match head.kind {
            Kind::Continuation => in_block.is_none_or(|carrier| carrier == head.stream),
            Kind::PushPromise => in_block.is_none() && flow == Flow::Response,
            _ => in_block.is_none(),
        };
        if !head.is_valid() || !in_order {
            return Taken::Malformed;
        }
        lane.understood = true;
        match head.kind {
            Kind::Data => self.data(flow, head, bytes, at, out),
            Kind::Headers | Kind::PushPromise | Kind::Continuation => self.headers(flow, head, bytes, at, out),
            Kind::RstStream | Kind::Settings | Kind::GoAway => self.control(flow, head, bytes, at, out),
            Kind::Priority | Kind::Ping | Kind::WindowUpdate | Kind::Other(_) => self.pass(flow, head, bytes),
        }
    }

    /// A frame of no interest.
    fn pass(&mut self, flow: Flow, head: frame::Head, bytes: &[u8]) -> Taken {
        if bytes.len() as u64 >= head.wire() {
            return Taken::Bytes(head.wire() as usize);
        }
        self.lane(flow).place = Place::Passed(head.length.into());
        Taken::Skip { head: HEAD, body: head.length.into() }
    }

    fn wait(&mut self, flow: Flow, head: frame::Head) -> Taken {
        self.lane(flow).waiting = Some(head);
        Taken::NeedMore
    }

    fn data(&mut self, flow: Flow, head: frame::Head, bytes: &[u8], at: At, out: &mut dyn Sink) -> Taken {
        let mut begin = HEAD;
        let mut body = u64::from(head.length);
        let mut padding = 0;
        if head.is_padded() {
            let Some(&length) = bytes.get(HEAD) else { return self.wait(flow, head) };
            let Some(unpadded) = body.checked_sub(u64::from(length) + 1) else { return Taken::Malformed };
            (begin, body, padding) = (HEAD + 1, unpadded, u64::from(length));
        }
        let (stream, end) = (head.stream, head.has(END_STREAM));
        let bulk = Bulk::seen(self.lane(flow).body, stream, head.length);
        self.lane(flow).body = (!end).then_some(bulk);
        if self.session.is_call(stream) {
            self.session.data(flow, stream, begin as u64, 0, at);
            self.lane(flow).place = Place::Messages { stream, body, padding, end };
            if body == 0 {
                return self.messages_end(flow, begin, (stream, padding, end), at, out);
            }
            return Taken::Bytes(begin);
        }
        if bytes.len() as u64 >= head.wire() {
            self.session.data(flow, stream, head.wire(), body, at);
            if end {
                self.session.end(flow, stream, at.last_ns, out);
            }
            return Taken::Bytes(head.wire() as usize);
        }
        self.session.data(flow, stream, begin as u64, 0, at);
        let wire = body + padding;
        self.lane(flow).place = Place::Data { stream, wire, body, end };
        Taken::Skip { head: begin, body: wire }
    }

    /// Bytes of a body of gRPC.
    fn messages(
        &mut self,
        flow: Flow,
        (stream, body, padding, end): (u32, u64, u64, bool),
        bytes: &[u8],
        at: At,
        out: &mut dyn Sink,
    ) -> Taken {
        let taken = bytes.get(..body.min(bytes.len() as u64) as usize).unwrap_or(bytes);
        self.session.messages(flow, stream, taken, at);
        let body = body - taken.len() as u64;
        if body == 0 {
            return self.messages_end(flow, taken.len(), (stream, padding, end), at, out);
        }
        self.lane(flow).place = Place::Messages { stream, body, padding, end };
        Taken::Bytes(taken.len())
    }

    /// The content of a frame is over after `head` bytes; its padding is to come.
    fn messages_end(&mut self, flow: Flow, head: usize, (stream, padding, end): (u32, u64, bool), at: At, out: &mut dyn Sink) -> Taken {
        if padding > 0 {
            self.lane(flow).place = Place::Data { stream, wire: padding, body: 0, end };
            return Taken::Skip { head, body: padding };
        }
        self.lane(flow).place = Place::Frame;
        if end {
            self.session.end(flow, stream, at.last_ns, out);
        }
        Taken::Bytes(head)
    }

    /// HEADERS, PUSH_PROMISE and CONTINUATION.
    fn headers(&mut self, flow: Flow, head: frame::Head, bytes: &[u8], at: At, out: &mut dyn Sink) -> Taken {
        let fits = head.wire() <= MAX_BUFFERED as u64;
        if fits && (bytes.len() as u64) < head.wire() {
            return self.wait(flow, head);
        }
        let payload = if fits { bytes.get(HEAD..head.wire() as usize) } else { None };
        if payload.is_some_and(|payload| head.fragment(payload).is_none()) {
            return Taken::Malformed;
        }
        self.fragment(flow, head, payload, at, out);
        if fits { Taken::Bytes(head.wire() as usize) } else { self.pass(flow, head, bytes) }
    }

    /// A part of a header block; `payload` is `None` where it is not known.
    fn fragment(&mut self, flow: Flow, head: frame::Head, payload: Option<&[u8]>, at: At, out: &mut dyn Sink) {
        let fragment = payload.and_then(|payload| head.fragment(payload));
        let lane = self.lane(flow);
        let mut unfinished = match lane.unfinished.take() {
            Some(mut unfinished) => {
                unfinished.block.wire += head.wire();
                unfinished
            }
            None => {
                lane.fragments.clear();
                let stream = match head.kind {
                    Kind::PushPromise => payload.and_then(|payload| head.promised(payload)),
                    // The begin of its block was missed.
                    Kind::Continuation => None,
                    _ => Some(head.stream),
                };
                let promise = head.kind == Kind::PushPromise;
                let end = head.kind == Kind::Headers && head.has(END_STREAM);
                let block = Block { carrier: head.stream, stream, promise, end, wire: head.wire(), first_ns: at.first_ns };
                Unfinished { block, damaged: head.kind == Kind::Continuation }
            }
        };
        match fragment {
            Some(whole) if lane.fragments.is_empty() && !unfinished.damaged && head.has(END_HEADERS) => {
                self.session.block(flow, unfinished.block, Some(whole), at.last_ns, out);
                return;
            }
            Some(part) if !unfinished.damaged && lane.fragments.len() + part.len() <= MAX_BUFFERED => {
                lane.fragments.extend_from_slice(part)
            }
            _ => {
                unfinished.damaged = true;
                lane.fragments.clear();
            }
        }
        if !head.has(END_HEADERS) {
            lane.unfinished = Some(unfinished);
            return;
        }
        let fragments = std::mem::take(&mut lane.fragments);
        let whole = (!unfinished.damaged).then_some(fragments.as_slice());
        self.session.block(flow, unfinished.block, whole, at.last_ns, out);
        if fragments.capacity() <= KEPT_FRAGMENTS {
            self.lane(flow).fragments = fragments;
        }
    }

    /// RST_STREAM, SETTINGS and GOAWAY.
    fn control(&mut self, flow: Flow, head: frame::Head, bytes: &[u8], at: At, out: &mut dyn Sink) -> Taken {
        // What follows the numbers of a GOAWAY is for people.
        let needed = if head.kind == Kind::GoAway { 8 } else { head.length as usize };
        if needed > MAX_SETTINGS {
            return self.pass(flow, head, bytes);
        }
        let Some(payload) = bytes.get(HEAD..HEAD + needed) else { return self.wait(flow, head) };
        let mut reader = Reader::new(payload);
        match head.kind {
            Kind::RstStream => self.session.reset(flow, head.stream, reader.u32(), at.last_ns, out),
            Kind::GoAway => {
                if let (Some(last), Some(code)) = (reader.u32(), reader.u32()) {
                    self.session.go_away(flow, last & 0x7fff_ffff, code, at.last_ns, out);
                }
            }
            _ => {
                while let (Some(setting), Some(value)) = (reader.u16(), reader.u32()) {
                    if setting == SETTINGS_HEADER_TABLE_SIZE {
                        self.session.allow_table(flow.opposite(), value);
                    }
                }
            }
        }
        self.pass(flow, head, bytes)
    }

    /// The rest of a frame that had begun was missed. Whether the flow's frames are still found where they begin.
    fn missed_in_frame(&mut self, flow: Flow, lost: u64, at: At, out: &mut dyn Sink) -> bool {
        match (self.place(flow), self.lane(flow).waiting.take()) {
            (Place::Messages { stream, body, padding, end }, _) if lost <= body + padding => {
                self.session.missed_messages(flow, stream, lost.min(body), at.last_ns);
                let wire = body + padding - lost;
                let place = Place::Messages { stream, body: body.saturating_sub(lost), padding: padding.min(wire), end };
                self.lane(flow).place = place;
                match place {
                    Place::Messages { body: 0, padding: 0, .. } => {
                        self.lane(flow).place = Place::Frame;
                        if end {
                            self.session.end(flow, stream, at.last_ns, out);
                        }
                    }
                    Place::Messages { body: 0, padding, .. } => {
                        self.lane(flow).place = Place::Data { stream, wire: padding, body: 0, end };
                    }
                    _ => {}
                }
                true
            }
            // The frame, and then others of the same body.
            (Place::Messages { stream, body, padding, end: false }, _) => {
                let only = self.session.only_unfinished(flow);
                let Some(bulk) = self.lane(flow).body.filter(|body| body.is_alone(only)) else { return false };
                self.session.missed_messages(flow, stream, body, at.last_ns);
                self.session.data(flow, stream, padding, 0, at);
                self.unseen(flow, bulk.and(lost - body - padding), at, out);
                true
            }
            (Place::Frame, Some(head)) if lost <= head.wire() && head.kind != Kind::Data => {
                out.lost(Loss::ParseGap);
                match head.kind {
                    Kind::Headers | Kind::PushPromise | Kind::Continuation => self.fragment(flow, head, None, at, out),
                    Kind::RstStream => self.session.reset(flow, head.stream, None, at.last_ns, out),
                    _ => {}
                }
                let rest = head.wire() - lost;
                self.lane(flow).place = if rest > 0 { Place::Passed(rest) } else { Place::Frame };
                true
            }
            // What is left of a frame that was missed in part is missed, too.
            (Place::Passed(rest), _) if lost <= rest => {
                self.lane(flow).place = if lost < rest { Place::Passed(rest - lost) } else { Place::Frame };
                true
            }
            (Place::Frame, None) => {
                let only = self.session.only_unfinished(flow);
                match self.lane(flow).body.filter(|body| body.is_alone(only)) {
                    Some(body) => self.unseen(flow, body.and(lost), at, out),
                    None => return false,
                }
                true
            }
            (Place::Unseen(body), _) => {
                self.unseen(flow, body.and(lost), at, out);
                true
            }
            _ => false,
        }
    }
}

/// A chain of frames is waited for no longer than this: a frame of usual length and the begin of another.
const MAX_UNSURE: usize = 2 * 16_384;
/// Longer settings are not read. There are about ten.
const MAX_SETTINGS: usize = 16_384;
const SETTINGS_HEADER_TABLE_SIZE: u16 = 1;
/// Memory of a header block in parts that is kept for the next.
const KEPT_FRAGMENTS: usize = 4096;

impl Parser for Http2 {
    fn parse(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if !self.wished {
            self.wished = true;
            // What a lost header block said of later ones cannot be found again.
            out.capture(Capture::Full);
        }
        match self.place(flow) {
            Place::Preface => self.preface(bytes),
            Place::Lost => self.search(flow, bytes, at, out),
            _ => self.frames(flow, bytes, at, out),
        }
    }

    fn skipped(&mut self, flow: Flow, at_ns: u64, out: &mut dyn Sink) {
        let place = self.place(flow);
        if place != Place::Lost {
            self.lane(flow).place = Place::Frame;
        }
        if let Place::Data { stream, wire, body, end } = place {
            let at = At { first_ns: at_ns, last_ns: at_ns, call_start: false };
            self.session.data(flow, stream, wire, body, at);
            if end {
                self.session.end(flow, stream, at_ns, out);
            }
        }
    }

    fn gap(&mut self, flow: Flow, lost: u64, at_ns: u64, out: &mut dyn Sink) {
        let at = At { first_ns: at_ns, last_ns: at_ns, call_start: false };
        if !self.missed_in_frame(flow, lost, at, out) {
            self.lose(flow, out);
        }
    }

    fn close(&mut self, at_ns: u64, out: &mut dyn Sink) {
        self.session.close(at_ns, out);
    }
}
