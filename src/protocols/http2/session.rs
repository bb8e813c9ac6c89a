//! What the frames of both flows mean to the streams of a connection.

use super::{
    UpgradedRequest,
    entry::{Ending, Entry},
    head::Head,
    hpack::{Decoder, Fields, Name},
    streams::{Slot, Streams},
};
use crate::{
    model::{Flags, Flow, Protocols},
    protocols::{At, Loss, Opening, Sink, grpc, host},
};

/// A header block and what its first frame says of it.
#[derive(Clone, Copy)]
pub struct Block {
    /// The stream on which its frames are sent.
    pub carrier: u32,
    /// The stream of which it speaks; `None` where that was missed.
    pub stream: Option<u32>,
    /// PUSH_PROMISE
    pub promise: bool,
    /// Nothing follows on this stream in this flow.
    pub end: bool,
    /// Its frames.
    pub wire: u64,
    pub first_ns: u64,
}

/// A stream of which nothing was seen for so long, and whose end may have been missed, is over.
const DOUBT_NS: u64 = 10_000_000_000;

pub struct Session {
    streams: Streams,
    decoders: [Decoder; 2],
    /// Memory to read the next block into.
    head: Head,
    raw: Protocols,
    adopted: bool,
    /// A request was seen: who the server is was told, or nobody knows.
    told: bool,
    /// The highest stream that the client opened.
    last_asked: u32,
    /// Since that one, nothing of the request flow was missed.
    continuous: bool,
    /// Responses that wait for their requests.
    unasked: usize,
    /// By flow: frames are not found at present.
    lost: [bool; 2],
    /// Bytes were missed.
    missed: bool,
    /// What the server's GOAWAY said: the last stream that it looks at, and why.
    gone: Option<(u32, u32)>,
}

/// A client of a proxy names another one than its server, which only CONNECT tells.
fn tell_host(head: &Head, out: &mut dyn Sink) {
    let is_connect = head.get(Name::Method) == Some(b"CONNECT");
    let host = [Name::Authority, Name::Host].into_iter().find_map(|name| head.get(name).filter(|_| head.is_whole(name)));
    if let Some(name) = host.filter(|_| !is_connect).and_then(host::domain) {
        out.host(&name);
    }
}

impl Session {
    pub fn new(opening: Opening) -> Self {
        let complete = !opening.adopted;
        Self {
            streams: Streams::default(),
            decoders: [Decoder::new(complete), Decoder::new(complete)],
            head: Head::default(),
            raw: opening.raw,
            adopted: opening.adopted,
            told: false,
            last_asked: 0,
            continuous: complete,
            unasked: 0,
            lost: [opening.adopted; 2],
            missed: opening.adopted,
            gone: None,
        }
    }

    /// Stream 1 is the request that asked for this protocol, and whole.
    pub fn upgraded(&mut self, adopted: bool, request: &UpgradedRequest<'_>) {
        self.told = true;
        self.adopted = adopted;
        let mut head = Head::default();
        head.field(Name::Method, request.method, true);
        head.field(Name::Path, request.path, true);
        let others =
            [(Name::Authority, request.authority), (Name::UserAgent, request.user_agent), (Name::Traceparent, request.traceparent)];
        for (name, value) in others {
            if let Some(value) = value {
                head.field(name, value, true);
            }
        }
        self.last_asked = 1;
        let slot = self.streams.open(1);
        if let Some(entry) = self.streams.entry(slot) {
            entry.ask(&mut head, request.start_ns, self.raw, true);
            entry.request_bytes = request.request_bytes;
            entry.request_body = request.request_body;
            entry.request_done = true;
        }
    }

    fn decoder(&mut self, flow: Flow) -> &mut Decoder {
        let [request, response] = &mut self.decoders;
        match flow {
            Flow::Request => request,
            Flow::Response => response,
        }
    }

    fn set_lost(&mut self, flow: Flow, is_lost: bool) {
        if let Some(lost) = self.lost.get_mut(flow.index()) {
            *lost = is_lost;
        }
    }

    /// The highest stream that is known to exist.
    pub fn last_stream(&self) -> Option<u32> {
        (self.last_asked > 0).then_some(self.last_asked)
    }

    /// Bytes of this flow were missed: whatever was under way in it may have ended, and header blocks may be among them.
    pub fn lose(&mut self, flow: Flow) {
        self.missed = true;
        self.set_lost(flow, true);
        self.decoder(flow).forget();
        self.continuous &= flow != Flow::Request;
        for entry in self.streams.each() {
            if !entry.response_done {
                // Of either side a reset may have been missed.
                entry.flags.insert(Flags::GAP);
            }
            if !entry.is_done(flow) {
                entry.flags.insert(Flags::GAP | Flags::TRUNCATED);
                if let Some(doubt) = entry.doubt.get_mut(flow.index()) {
                    *doubt = true;
                }
                let now_ns = entry.end_ns;
                if let Some(call) = entry.call() {
                    // Messages may be among what was missed.
                    call.missing(flow, u64::MAX, now_ns);
                }
            }
        }
    }

    /// Frames of this flow are found again.
    pub fn found(&mut self, flow: Flow) {
        self.set_lost(flow, false);
    }

    /// The conversation begins here after all.
    pub fn begin(&mut self, flow: Flow) {
        self.found(flow);
        *self.decoder(flow) = Decoder::new(true);
    }

    /// SETTINGS_HEADER_TABLE_SIZE for the blocks of this flow.
    pub fn allow_table(&mut self, flow: Flow, size: u32) {
        self.decoder(flow).allow(size);
    }

    #[inline]
    pub fn is_call(&mut self, stream: u32) -> bool {
        self.streams.get(stream).is_some_and(|entry| entry.is_call)
    }

    /// A header block, `None` where it could not be read.
    pub fn block(&mut self, flow: Flow, block: Block, bytes: Option<&[u8]>, last_ns: u64, out: &mut dyn Sink) {
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        let read = bytes.is_some_and(|bytes| self.decoder(flow).decode(bytes, &mut head).is_ok());
        if !read {
            self.decoder(flow).forget();
            head.clear();
            head.incomplete = true;
            if bytes.is_some() {
                out.lost(Loss::ParseGap);
            }
        }
        match (flow, block.promise) {
            (Flow::Response, true) => self.promise(&block, &mut head, last_ns, out),
            (Flow::Response, false) => self.response(&block, &head, last_ns, out),
            (Flow::Request, _) => self.request(&block, &mut head, last_ns, out),
        }
        self.head = head;
    }

    fn request(&mut self, block: &Block, head: &mut Head, last_ns: u64, out: &mut dyn Sink) {
        let Some(stream) = block.stream else { return };
        let found = self.streams.find(stream);
        let asked = found.and_then(|slot| self.streams.entry(slot)).is_some_and(|entry| entry.asked);
        if asked {
            // Trailers.
            if let Some(entry) = found.and_then(|slot| self.streams.entry(slot)) {
                entry.request_bytes += block.wire;
            }
        } else {
            let new = stream > self.last_asked && stream % 2 == 1;
            if !(head.is_request() || (self.continuous && new)) || !(new || found.is_some()) {
                // Trailers of something older, or of what was given up.
                if new {
                    out.lost(Loss::ParseGap);
                }
                return;
            }
            if !std::mem::replace(&mut self.told, true) {
                tell_host(head, out);
            }
            let Some(slot) = self.open_asked(found, stream, last_ns, out) else { return };
            self.ask(slot, block, head, out);
            if self.gone.is_some_and(|(last, _)| stream > last)
                && let Some((_, code)) = self.gone
            {
                self.finish(slot, Ending::Refused(code), last_ns, out);
                return;
            }
        }
        if block.end {
            self.end(Flow::Request, stream, last_ns, out);
        }
    }

    /// A place for a request's stream; `found` when its response came first.
    fn open_asked(&mut self, found: Option<Slot>, stream: u32, now_ns: u64, out: &mut dyn Sink) -> Option<Slot> {
        self.last_asked = self.last_asked.max(stream);
        self.continuous = true;
        if self.unasked > 0 {
            self.forget_unasked(stream);
        }
        if self.missed {
            self.settle_doubts(now_ns, out);
        }
        match found {
            Some(slot) => {
                self.unasked = self.unasked.saturating_sub(1);
                Some(slot)
            }
            None => Some(self.open(stream, out)),
        }
    }

    fn ask(&mut self, slot: Slot, block: &Block, head: &mut Head, out: &mut dyn Sink) {
        let [_, response_lost] = self.lost;
        let (raw, attributes) = (self.raw, out.wants_attributes());
        let Some(entry) = self.streams.entry(slot) else { return };
        entry.ask(head, block.first_ns, raw, attributes);
        entry.request_bytes += block.wire;
        entry.end_ns = entry.end_ns.max(block.first_ns);
        if response_lost && !entry.answered {
            entry.doubt = [false, true];
        }
    }

    fn open(&mut self, stream: u32, out: &mut dyn Sink) -> Slot {
        if self.streams.is_full()
            && let Some(oldest) = self.streams.oldest()
        {
            out.lost(Loss::PendingFull);
            self.remove(oldest);
        }
        self.streams.open(stream)
    }

    fn remove(&mut self, slot: Slot) {
        if self.streams.entry(slot).is_some_and(|entry| !entry.asked) {
            self.unasked = self.unasked.saturating_sub(1);
        }
        self.streams.remove(slot);
    }

    /// Requests come in the order of their streams: what is older than one and not asked yet was asked before this was watched.
    fn forget_unasked(&mut self, before: u32) {
        let mut next = self.streams.oldest();
        while let Some(slot) = next {
            next = self.streams.after(slot);
            if self.streams.entry(slot).is_some_and(|entry| !entry.asked && entry.stream < before && entry.stream % 2 == 1) {
                self.remove(slot);
            }
        }
    }

    /// Ends what nothing was heard of since a part of it may have been missed.
    fn settle_doubts(&mut self, now_ns: u64, out: &mut dyn Sink) {
        while let Some(slot) = self.streams.oldest()
            && let Some(entry) = self.streams.entry(slot)
            && entry.doubt != [false; 2]
            && now_ns.saturating_sub(entry.end_ns) > DOUBT_NS
        {
            self.give_up(slot, out);
        }
    }

    /// A stream in doubt: what is known for certain is reported, the rest counted as missed.
    fn give_up(&mut self, slot: Slot, out: &mut dyn Sink) {
        let Some(entry) = self.streams.entry(slot) else { return };
        if entry.asked && entry.is_certain() {
            entry.flags.insert(Flags::GAP | Flags::TRUNCATED);
            let end_ns = entry.end_ns;
            self.finish(slot, Ending::Whole, end_ns, out);
        } else {
            out.lost(Loss::ParseGap);
            self.remove(slot);
        }
    }

    fn promise(&mut self, block: &Block, head: &mut Head, last_ns: u64, out: &mut dyn Sink) {
        let Some(stream) = block.stream.filter(|stream| stream % 2 == 0) else { return };
        if self.streams.find(stream).is_some() {
            return;
        }
        let slot = self.open(stream, out);
        self.ask(slot, block, head, out);
        if let Some(entry) = self.streams.entry(slot) {
            entry.request_done = true;
            entry.end_ns = last_ns;
        }
    }

    fn response(&mut self, block: &Block, head: &Head, last_ns: u64, out: &mut dyn Sink) {
        let Some(stream) = block.stream else { return };
        let slot = match self.streams.find(stream) {
            Some(slot) => slot,
            // With two threads on one socket the response can be reported first.
            None if stream > self.last_asked && stream % 2 == 1 => {
                self.unasked += 1;
                self.open(stream, out)
            }
            None => return,
        };
        let (raw, attributes) = (self.raw, out.wants_attributes());
        let Some(entry) = self.streams.entry(slot) else { return };
        entry.response_bytes += block.wire;
        entry.end_ns = last_ns;
        let status = head.status();
        if status.is_some_and(|status| status < 200) && !block.end {
            return;
        }
        let told = head.get(Name::ContentType).is_some_and(grpc::is_grpc) || head.get(Name::GrpcStatus).is_some();
        if told && !entry.is_call {
            entry.turn_into_call(raw, attributes, last_ns);
        }
        entry.judge_type(head, block.end);
        // A head without status is the trailer, if the response has begun.
        let trailers = status.is_none() && entry.answered;
        if !trailers && !entry.has_status() {
            entry.answer(status, block.first_ns);
            let [_, announced] = &mut entry.announced;
            *announced = head.length();
        }
        let at = At { first_ns: block.first_ns, last_ns, call_start: false };
        if let Some(call) = entry.call() {
            let headers = grpc::ResponseHeaders {
                http_status: status,
                status: head.get(Name::GrpcStatus),
                message: head.get(Name::GrpcMessage),
                incomplete: head.incomplete,
            };
            if block.end {
                if !trailers {
                    call.response_headers(&headers, at);
                }
                call.trailers(&headers, at);
            } else if !trailers {
                call.response_headers(&headers, at);
            }
        }
        if entry.asked && entry.opens_tunnel() {
            self.finish(slot, Ending::Whole, last_ns, out);
        } else if block.end {
            self.end(Flow::Response, stream, last_ns, out);
        }
    }

    /// `wire` bytes of DATA frames, of which `body` are content.
    #[inline]
    pub fn data(&mut self, flow: Flow, stream: u32, wire: u64, body: u64, at: At) {
        let Some(entry) = self.streams.get(stream) else { return };
        match flow {
            Flow::Request => {
                entry.request_bytes += wire;
                entry.request_body += body;
            }
            Flow::Response => {
                entry.response_bytes += wire;
                entry.response_body += body;
                entry.end_ns = at.last_ns;
                entry.answer_unseen(at.first_ns);
            }
        }
    }

    /// The stream, if it is the only one of which more is to come in this flow, and nothing but its content can be.
    pub fn only_unfinished(&mut self, flow: Flow) -> Option<u32> {
        let mut unfinished = self.streams.each().filter(|entry| !entry.is_done(flow));
        let only = unfinished.next()?;
        let plain = only.asked && (flow == Flow::Request || only.has_status());
        let stream = only.stream;
        (plain && unfinished.next().is_none()).then_some(stream)
    }

    /// Content of a stream that is still to come in this flow.
    pub fn remaining(&mut self, flow: Flow, stream: u32) -> Option<u64> {
        self.streams.get(stream)?.remaining(flow)
    }

    /// As [`Session::data`], where nobody saw how many frames it was; `exact`: where these began.
    pub fn unseen_data(&mut self, flow: Flow, stream: u32, wire: u64, body: u64, exact: bool, at: At) {
        if let Some(entry) = self.streams.get(stream).filter(|_| !exact) {
            // A WINDOW_UPDATE may have been counted as if it were of the body.
            entry.flags.insert(Flags::GAP);
        }
        if self.is_call(stream) {
            self.data(flow, stream, wire - body, 0, at);
            self.missed_messages(flow, stream, body, at.last_ns);
            if let Some(call) = self.streams.get(stream).and_then(|entry| entry.call()).filter(|_| !exact) {
                call.missing(flow, u64::MAX, at.last_ns);
            }
            return;
        }
        self.data(flow, stream, wire, body, at);
        if let Some(estimated) = self.streams.get(stream).and_then(|entry| entry.estimated.get_mut(flow.index())) {
            *estimated = true;
        }
    }

    /// Content of a call of gRPC.
    #[inline]
    pub fn messages(&mut self, flow: Flow, stream: u32, bytes: &[u8], at: At) {
        let Some(entry) = self.streams.get(stream) else { return };
        Self::count_messages(entry, flow, bytes.len() as u64, at.last_ns);
        if let Some(call) = entry.call() {
            call.data(flow, bytes, at);
        }
    }

    /// As [`Session::messages`], but nobody saw them.
    pub fn missed_messages(&mut self, flow: Flow, stream: u32, length: u64, at_ns: u64) {
        let Some(entry) = self.streams.get(stream) else { return };
        Self::count_messages(entry, flow, length, at_ns);
        if let Some(call) = entry.call() {
            call.missing(flow, length, at_ns);
        }
    }

    fn count_messages(entry: &mut Entry, flow: Flow, length: u64, at_ns: u64) {
        match flow {
            Flow::Request => {
                entry.request_bytes += length;
                entry.request_body += length;
            }
            Flow::Response => {
                entry.response_bytes += length;
                entry.response_body += length;
                entry.end_ns = at_ns;
            }
        }
    }

    /// One side has said all it has to say on a stream.
    pub fn end(&mut self, flow: Flow, stream: u32, at_ns: u64, out: &mut dyn Sink) {
        let Some(slot) = self.streams.find(stream) else { return };
        let Some(entry) = self.streams.entry(slot) else { return };
        match flow {
            Flow::Request => entry.request_done = true,
            Flow::Response => {
                entry.response_done = true;
                entry.end_ns = at_ns;
                let at = At { first_ns: at_ns, last_ns: at_ns, call_start: false };
                if let Some(call) = entry.call() {
                    call.response_end(at);
                }
            }
        }
        let [request_doubt, _] = entry.doubt;
        if entry.asked && entry.response_done && (entry.request_done || request_doubt) {
            let end_ns = entry.end_ns;
            self.finish(slot, Ending::Whole, end_ns, out);
        }
    }

    /// RST_STREAM; `code` is `None` where it was missed.
    pub fn reset(&mut self, flow: Flow, stream: u32, code: Option<u32>, at_ns: u64, out: &mut dyn Sink) {
        let Some(slot) = self.streams.find(stream) else { return };
        let Some(entry) = self.streams.entry(slot) else { return };
        if !entry.asked {
            // Of before, or its request will be reported yet: then it stays without an answer.
            if !self.adopted {
                out.lost(Loss::ParseGap);
            }
            self.remove(slot);
        } else if entry.response_done {
            // The answer is whole, and the rest of the request is not wanted.
            let end_ns = entry.end_ns;
            self.finish(slot, Ending::Whole, end_ns, out);
        } else if entry.is_call && code.is_none() {
            // The status of the call is made from the code.
            out.lost(Loss::ParseGap);
            self.remove(slot);
        } else {
            if code.is_none() {
                entry.flags.insert(Flags::TRUNCATED);
            }
            self.finish(slot, Ending::Reset(flow, code), at_ns, out);
        }
    }

    /// GOAWAY: streams of the other side after `last` are not looked at.
    pub fn go_away(&mut self, flow: Flow, last: u32, code: u32, at_ns: u64, out: &mut dyn Sink) {
        if flow == Flow::Response {
            self.gone = Some((last, code));
        }
        let parity = if flow == Flow::Response { 1 } else { 0 };
        let mut next = self.streams.oldest();
        while let Some(slot) = next {
            next = self.streams.after(slot);
            let refused = |entry: &mut Entry| entry.stream > last && entry.stream % 2 == parity && entry.asked && !entry.answered;
            if self.streams.entry(slot).is_some_and(refused) {
                self.finish(slot, Ending::Refused(code), at_ns, out);
            }
        }
    }

    fn finish(&mut self, slot: Slot, ending: Ending, end_ns: u64, out: &mut dyn Sink) {
        let (adopted, raw) = (self.adopted, self.raw);
        if let Some(entry) = self.streams.entry(slot) {
            entry.end_ns = end_ns;
            if entry.is_obscure(ending) {
                out.lost(Loss::ParseGap);
                return self.remove(slot);
            }
            entry.emit(ending, adopted, raw, out);
        }
        self.remove(slot);
    }

    /// The connection is over.
    pub fn close(&mut self, at_ns: u64, out: &mut dyn Sink) {
        let code = self.gone.map(|(_, code)| code);
        while let Some(slot) = self.streams.oldest() {
            let Some(entry) = self.streams.entry(slot) else { return };
            let [_, response_doubt] = entry.doubt;
            if !entry.asked {
                if !self.adopted {
                    out.lost(Loss::ParseGap);
                }
                self.remove(slot);
            } else if response_doubt && !entry.is_certain() {
                out.lost(Loss::ParseGap);
                self.remove(slot);
            } else {
                let end_ns = if entry.answered { entry.end_ns } else { at_ns };
                self.finish(slot, Ending::Closed(code), end_ns, out);
            }
        }
    }
}
