//! Which response answers which request: in order, one for one (RFC 9112 section 9.3), as long as nothing was missed.
//!
//! After bytes were missed the number of open requests is not known. The order is believed again only after a trial: rounds of one request,
//! one response and the next request, which are held back until all of them fitted. What does not fit is counted and thrown away.

use std::collections::VecDeque;

use super::{
    entry::{Entry, Kind, Shown},
    head::{RequestHead, ResponseHead},
};
use crate::{
    model::{Flags, Flow},
    protocols::{At, Loss, Sink, grpc::web::Web},
};

/// Open requests kept per connection.
pub const MAX_PENDING: usize = 1024;

/// Rounds that must fit before the order is believed again.
const TRIAL_ROUNDS: u8 = 2;

/// A response can be reported before its request by so much: two threads, one of them held up between the socket and its return.
const RACE_NS: u64 = 1_000_000_000;

/// Entries kept for coming requests, and how large the text of each may stay.
const MAX_SPARE: usize = 64;
const SPARE_CAPACITY: usize = 1024;

/// How far the order of requests and responses is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Every message since the connection opened was seen.
    Sure,
    /// Adopted, and nothing speaks against there having been no open request at that moment.
    Assumed,
    /// Messages were missed; so many rounds have fitted since.
    Trial(u8),
}

pub struct Pairing {
    /// Query strings are kept.
    queries: bool,
    /// The first `asked` have a request head, the first `answered` a final response head.
    entries: VecDeque<Box<Entry>>,
    asked: usize,
    answered: usize,
    /// The last asked entry's request is under way; otherwise what flows is of no entry.
    asking: bool,
    /// The last answered entry's response is under way.
    answering: bool,
    /// Responses still to come for requests that were given up.
    forgotten: u64,
    trust: Trust,
    adopted: bool,
    asked_before: bool,
    /// Boxed like `entries`: an entry is filled where it lies, and never moved.
    #[allow(clippy::vec_box, reason = "moving an entry costs more than parsing a header line")]
    spare: Vec<Box<Entry>>,
}

impl Pairing {
    /// `queries`: query strings may be shown.
    pub fn new(adopted: bool, queries: bool) -> Self {
        Self {
            queries,
            entries: VecDeque::new(),
            asked: 0,
            answered: 0,
            asking: false,
            answering: false,
            forgotten: 0,
            trust: if adopted { Trust::Assumed } else { Trust::Sure },
            adopted,
            asked_before: false,
            spare: Vec::new(),
        }
    }

    /// What the next bytes of the response flow answer, or the response under way answers; `None` while its request is not known.
    pub fn kind_of_response(&self) -> Option<Kind> {
        let index = if self.answering { self.answered.checked_sub(1)? } else { self.answered };
        if self.forgotten > 0 || index >= self.asked {
            return None;
        }
        self.entries.get(index).map(|entry| entry.kind)
    }

    /// The request that was asked last; `None` when it is answered and gone.
    pub fn last_asked(&self) -> Option<Kind> {
        self.entries.get(self.asked.checked_sub(1)?).map(|entry| entry.kind)
    }

    /// A final response to the request under way has begun.
    pub fn asked_is_answered(&self) -> bool {
        !self.asking || self.answered >= self.asked
    }

    /// A response was seen whose request is still to come.
    pub fn awaits_request(&self) -> bool {
        self.asked < self.answered
    }

    /// The request of the response under way was seen.
    pub fn response_is_known(&self) -> bool {
        self.answering && self.answered <= self.asked
    }

    /// The response under way turns out to answer HEAD.
    pub fn response_is_bodiless(&self) -> bool {
        self.answering && self.kind_of_response() == Some(Kind::Head)
    }

    /// The response under way turns out to open a tunnel.
    pub fn response_opens_tunnel(&self) -> bool {
        self.answered.checked_sub(1).and_then(|index| self.entries.get(index)).is_some_and(|entry| self.answering && entry.opens_tunnel())
    }

    /// The request of the response under way, when it is whole and no other is open: what this response ends HTTP for.
    pub fn upgraded(&self) -> Option<&Entry> {
        let alone = self.answering && self.forgotten == 0 && self.entries.len() == 1 && self.asked == self.answered;
        self.entries.front().map(|entry| &**entry).filter(|entry| alone && entry.request_done && !entry.held)
    }

    /// The request of the response under way is answered by another protocol, which reports it.
    pub fn hand_over(&mut self) {
        self.entries.clear();
        (self.asked, self.answered, self.answering) = (0, 0, false);
    }

    /// Requests without a final response.
    pub fn has_open_requests(&self) -> bool {
        self.asked > self.answered
    }

    /// A request head of `length` bytes.
    pub fn request_head(&mut self, head: &RequestHead<'_>, length: usize, at: At, response: ResponseFlow, out: &mut dyn Sink) {
        self.asking = false;
        let first = !self.asked_before;
        self.asked_before = true;
        if response == ResponseFlow::Lost {
            self.end_broken(out);
        }
        if self.asked < self.answered {
            let late = self.entries.get(self.asked).is_some_and(|entry| at.first_ns > entry.first_byte_ns.saturating_add(RACE_NS));
            if late {
                // Not a race: that response was nobody's, or the order is not what it seems.
                self.drop_from(self.asked, Some(Loss::ParseGap), out);
                self.trust = Trust::Trial(0);
            } else {
                if let Some(entry) = self.entries.get_mut(self.asked) {
                    entry.ask(head, length, at.first_ns, Shown { attributes: out.wants_attributes(), query: self.queries });
                    self.asked += 1;
                    self.asking = true;
                }
                return;
            }
        }
        match self.trust {
            Trust::Sure | Trust::Assumed => {
                let doubtful = self.trust == Trust::Assumed || response == ResponseFlow::Lost;
                if doubtful && self.has_open_requests() {
                    // Two open requests, and the next response may be of neither.
                    self.drop_from(self.answered, Some(Loss::ParseGap), out);
                    self.trust = Trust::Trial(0);
                    out.lost(Loss::ParseGap);
                    return;
                }
                if self.trust == Trust::Assumed && !first {
                    self.trust = Trust::Sure;
                }
                self.push(head, length, at, false, out);
            }
            Trust::Trial(rounds) => self.try_request(rounds, head, length, at, response, out),
        }
    }

    fn try_request(&mut self, rounds: u8, head: &RequestHead<'_>, length: usize, at: At, response: ResponseFlow, out: &mut dyn Sink) {
        let fits = !self.has_open_requests() && !self.answering && response != ResponseFlow::Busy;
        if !fits {
            self.fail_trial(out);
            out.lost(Loss::ParseGap);
            return;
        }
        let rounds = if self.entries.back().is_some_and(|entry| entry.held) { rounds + 1 } else { 0 };
        if rounds < TRIAL_ROUNDS {
            self.trust = Trust::Trial(rounds);
            self.push(head, length, at, true, out);
            return;
        }
        self.trust = Trust::Sure;
        for entry in &mut self.entries {
            entry.held = false;
        }
        self.emit_done(out);
        self.push(head, length, at, false, out);
    }

    /// What was on trial is thrown away; what was asked before the gap stays.
    fn fail_trial(&mut self, out: &mut dyn Sink) {
        let sure = self.entries.iter().take_while(|entry| !entry.held).count();
        self.drop_from(sure, Some(Loss::ParseGap), out);
        self.trust = Trust::Trial(0);
    }

    fn push(&mut self, head: &RequestHead<'_>, length: usize, at: At, held: bool, out: &mut dyn Sink) {
        if self.entries.len() >= MAX_PENDING {
            out.lost(Loss::PendingFull);
            if self.answered == 0 {
                self.entries.pop_front();
                self.asked = self.asked.saturating_sub(1);
                self.forgotten += 1;
            } else {
                self.drop_from(self.answered, Some(Loss::PendingFull), out);
                self.trust = Trust::Trial(0);
                return;
            }
        }
        let mut entry = self.fresh();
        entry.held = held;
        entry.ask(head, length, at.first_ns, Shown { attributes: out.wants_attributes(), query: self.queries });
        self.entries.push_back(entry);
        self.asked += 1;
        self.asking = true;
    }

    fn asking_entry(&mut self) -> Option<&mut Entry> {
        if self.asking { self.entries.get_mut(self.asked.checked_sub(1)?).map(|entry| &mut **entry) } else { None }
    }

    fn answering_entry(&mut self) -> Option<&mut Entry> {
        if self.answering { self.entries.get_mut(self.answered.checked_sub(1)?).map(|entry| &mut **entry) } else { None }
    }

    /// The request that just began is a call of gRPC-Web, of which `bytes` are the head.
    pub fn begin_call(&mut self, head: &RequestHead<'_>, bytes: &[u8], at: At, raw: bool, out: &mut dyn Sink) {
        if let Some(entry) = self.asking_entry() {
            entry.begin_call(head, bytes, at, raw, out.wants_attributes());
        }
    }

    /// The call of gRPC-Web of which the message under way is one half.
    pub fn call(&mut self, flow: Flow) -> Option<&mut Web> {
        match flow {
            Flow::Request => self.asking_entry()?.call(),
            Flow::Response => self.answering_entry()?.call(),
        }
    }

    /// Bytes of the request under way, of which `body` are content.
    pub fn request_bytes(&mut self, wire: u64, body: u64) {
        if let Some(entry) = self.asking_entry() {
            entry.request_bytes = entry.request_bytes.saturating_add(wire);
            entry.request_body = entry.request_body.saturating_add(body);
        }
    }

    pub fn request_end(&mut self, out: &mut dyn Sink) {
        if let Some(entry) = self.asking_entry() {
            entry.request_done = true;
        }
        self.asking = false;
        self.emit_done(out);
    }

    /// An interim response (RFC 9110 section 15.2) of so many bytes.
    pub fn interim(&mut self, length: usize) {
        if self.forgotten == 0
            && let Some(entry) = self.entries.get_mut(self.answered)
        {
            entry.response_bytes = entry.response_bytes.saturating_add(length as u64);
        }
    }

    /// A final response head.
    pub fn response_head(&mut self, head: ResponseHead, length: usize, at: At, out: &mut dyn Sink) {
        self.end_broken(out);
        self.answering = false;
        if self.forgotten > 0 {
            self.forgotten -= 1;
            return;
        }
        if !self.has_open_requests() {
            match self.trust {
                // It answers a request from before.
                Trust::Assumed if !self.asked_before => return,
                // One more response than requests.
                Trust::Trial(_) => return self.fail_trial(out),
                Trust::Sure | Trust::Assumed => {}
            }
            if self.entries.len() >= MAX_PENDING {
                out.lost(Loss::PendingFull);
                self.drop_from(self.asked, Some(Loss::PendingFull), out);
                self.trust = Trust::Trial(0);
                return;
            }
            let entry = self.fresh();
            self.entries.push_back(entry);
        }
        if let Some(entry) = self.entries.get_mut(self.answered) {
            entry.answer(head.status, length, at);
            self.answered += 1;
            self.answering = true;
        }
    }

    /// Bytes of the response under way, of which `body` are content.
    pub fn response_bytes(&mut self, wire: u64, body: u64, at_ns: u64) {
        if let Some(entry) = self.answering_entry() {
            entry.response_bytes = entry.response_bytes.saturating_add(wire);
            entry.response_body = entry.response_body.saturating_add(body);
            entry.end_ns = at_ns;
        }
    }

    /// The response under way is whole. `at_ns`: its last byte; `None` when that is known already.
    pub fn response_end(&mut self, at_ns: Option<u64>, out: &mut dyn Sink) {
        if let Some(entry) = self.answering_entry() {
            entry.response_done = true;
            entry.end_ns = at_ns.unwrap_or(entry.end_ns);
        }
        self.answering = false;
        self.emit_done(out);
    }

    /// Bytes of the request flow were missed: requests may be among them. `response_lost`: responses may have been missed, too, and then
    /// the next one can be of any request.
    pub fn request_gap(&mut self, response_lost: bool, out: &mut dyn Sink) {
        if response_lost {
            self.end_broken(out);
            self.drop_from(self.answered, Some(Loss::ParseGap), out);
        }
        let inside = self.asking;
        for entry in self.entries.iter_mut().skip(self.answered) {
            entry.flags.insert(Flags::GAP);
        }
        if let Some(entry) = self.asking_entry() {
            entry.flags.insert(Flags::GAP | Flags::TRUNCATED);
            entry.request_done = true;
        }
        self.asking = false;
        if self.asked < self.answered {
            self.drop_from(self.asked, Some(Loss::ParseGap), out);
        }
        match self.trust {
            Trust::Trial(_) if inside => {}
            Trust::Trial(_) => self.fail_trial(out),
            Trust::Sure | Trust::Assumed => self.trust = Trust::Trial(0),
        }
        self.emit_done(out);
    }

    /// Bytes of the response flow were missed: unless a response was under way and no other was due, whole responses may be among them.
    pub fn response_gap(&mut self, lost: u64, at_ns: u64, out: &mut dyn Sink) {
        let inside = self.answering;
        if let Some(entry) = self.answering_entry() {
            entry.flags.insert(Flags::GAP | Flags::TRUNCATED);
            entry.broken = true;
        }
        self.response_passed(lost, at_ns);
        let certain = (inside && !self.has_open_requests()) || (self.trust == Trust::Assumed && !self.asked_before);
        self.answering = false;
        if certain {
            return;
        }
        self.drop_from(self.answered, Some(Loss::ParseGap), out);
        match self.trust {
            Trust::Trial(_) => self.fail_trial(out),
            Trust::Sure | Trust::Assumed => self.trust = Trust::Trial(0),
        }
        self.forgotten = 0;
    }

    /// Bytes of the response flow went by whose place is not known: they belong to the broken response, if there is one.
    pub fn response_passed(&mut self, bytes: u64, at_ns: u64) {
        if let Some(entry) = self.answered.checked_sub(1).and_then(|index| self.entries.get_mut(index))
            && entry.broken
        {
            entry.response_bytes = entry.response_bytes.saturating_add(bytes);
            entry.end_ns = at_ns;
        }
    }

    /// Nothing more can belong to the response that lost its framing.
    fn end_broken(&mut self, out: &mut dyn Sink) {
        if let Some(entry) = self.answered.checked_sub(1).and_then(|index| self.entries.get_mut(index))
            && entry.broken
        {
            entry.broken = false;
            entry.response_done = true;
            entry.request_done |= entry.asked;
            self.emit_done(out);
        }
    }

    /// The conversation is over: the connection closed (`closed`), or what follows is another protocol's.
    pub fn end(&mut self, at_ns: u64, closed: bool, out: &mut dyn Sink) {
        while let Some(mut entry) = self.entries.pop_front() {
            let answered = self.answered > 0;
            self.answered = self.answered.saturating_sub(1);
            self.asked = self.asked.saturating_sub(1);
            if entry.held {
                out.lost(Loss::ParseGap);
            } else if entry.asked {
                if !answered {
                    entry.flags.insert(Flags::UNANSWERED);
                    entry.end_ns = at_ns;
                } else if closed && !(entry.request_done && entry.response_done) {
                    entry.flags.insert(Flags::TRUNCATED);
                }
                entry.emit(self.adopted, out);
            } else if !entry.unasked() {
                out.lost(Loss::ParseGap);
            }
        }
        self.asking = false;
        self.answering = false;
    }

    fn emit_done(&mut self, out: &mut dyn Sink) {
        while let Some(entry) = self.entries.front_mut()
            && entry.request_done
            && entry.response_done
            && !entry.held
        {
            entry.emit(self.adopted, out);
            self.asked = self.asked.saturating_sub(1);
            self.answered = self.answered.saturating_sub(1);
            if let Some(entry) = self.entries.pop_front() {
                self.recycle(entry);
            }
        }
        // What a burst needed is given back.
        if self.entries.is_empty() && self.entries.capacity() > MAX_SPARE {
            self.entries = VecDeque::new();
        }
    }

    fn drop_from(&mut self, index: usize, loss: Option<Loss>, out: &mut dyn Sink) {
        if index >= self.entries.len() {
            return;
        }
        self.asking &= self.asked <= index;
        self.answering &= self.answered <= index;
        self.asked = self.asked.min(index);
        self.answered = self.answered.min(index);
        while self.entries.len() > index {
            if let Some(loss) = loss {
                out.lost(loss);
            }
            if let Some(entry) = self.entries.pop_back() {
                self.recycle(entry);
            }
        }
    }

    fn fresh(&mut self) -> Box<Entry> {
        self.spare.pop().unwrap_or_else(|| Box::new(Entry::new()))
    }

    fn recycle(&mut self, mut entry: Box<Entry>) {
        if self.spare.len() < MAX_SPARE && entry.text_capacity() <= SPARE_CAPACITY {
            entry.clear();
            self.spare.push(entry);
        }
    }
}

/// Where the response flow stands when a request comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFlow {
    /// Between messages.
    Idle,
    /// Inside a message.
    Busy,
    /// Not known.
    Lost,
}
