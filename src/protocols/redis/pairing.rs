//! Which reply answers which command: in order, one for one, but for what a server sends unasked.
//!
//! Where bytes were missed, or a connection is joined in its middle, the number of open commands is not known. The order is then believed
//! only after a trial: rounds in which everything that was asked was answered, by replies that can answer it, before more was asked. What
//! was paired in a trial is held back until it has passed, and counted as lost where it fails.

use std::collections::VecDeque;

use super::{
    lookup::{Kind, NULL},
    record::Records,
    reply::Reply,
    request::{Replies, Request},
    subscriptions::Subscriptions,
};
use crate::{
    model::Flags,
    protocols::{Loss, Sink},
};

/// Open commands kept for a connection.
pub const PENDING_MAX: usize = 65_536;
/// Of their keys as they are, where the user wants those, so many bytes.
const RAW_PENDING_MAX: usize = 1 << 20;
/// Replies kept whose commands were not reported yet.
const EARLY_MAX: usize = 64;
/// A reply can be reported before its command by so much: two threads, one of them held up between the socket and its return.
const RACE_NS: u64 = 1_000_000_000;
/// Exchanges held back by a trial.
const HELD_MAX: usize = 8192;
/// What a trial needs: every answered command counts, but not more of one round than this many.
const EVIDENCE: u32 = 16;
const EVIDENCE_OF_A_ROUND: u32 = 8;
/// Where the order was known before, and is most probably known again.
const ALMOST: u32 = EVIDENCE - 1;
/// A server answers at once: when both sides were silent for so long after an answer, nothing else is open.
const PAUSE_NS: u64 = 20_000_000;

/// How far the order of commands and replies is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Every message since the connection opened was seen.
    Sure,
    /// Commands were missed behind those that are open: these are still sure.
    Draining,
    /// So much speaks for it since the last doubt, and so many commands of the round under way were answered.
    Trial { evidence: u32, round: u32 },
}

const DOUBT: Trust = Trust::Trial { evidence: 0, round: 0 };

/// What a message means for the rest of the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onward {
    Talk,
    /// What follows is a stream of changes between master and replica.
    Replication,
}

pub struct Pairing {
    open: VecDeque<Request>,
    /// The keys as they are of every open command, where the user wants them.
    raw: Option<VecDeque<Box<str>>>,
    raw_bytes: usize,
    /// Replies still to come for commands that were given up.
    forgotten: u64,
    trust: Trust,
    held: Vec<(Request, Reply, Option<Box<str>>)>,
    early: VecDeque<Reply>,
    /// The oldest open command has several replies, of which some came: together they are this.
    partial: Option<(Reply, u32)>,
    /// The rest of the oldest command's reply was missed: it is over when the next command comes.
    broken: Option<Reply>,
    subscriptions: Subscriptions,
    in_multi: bool,
    /// The client was seen to ask again before it had its answer.
    pipelines: bool,
    replies: Replies,
    /// When something was last seen of either side.
    last_ns: u64,
    records: Records,
}

impl Pairing {
    pub fn new(adopted: bool, raw: bool) -> Self {
        Self {
            open: VecDeque::new(),
            raw: raw.then(VecDeque::new),
            raw_bytes: 0,
            forgotten: 0,
            trust: if adopted { DOUBT } else { Trust::Sure },
            held: Vec::new(),
            early: VecDeque::new(),
            partial: None,
            broken: None,
            subscriptions: Subscriptions::new(!adopted),
            in_multi: false,
            pipelines: false,
            replies: Replies::On,
            last_ns: 0,
            records: Records::new(adopted),
        }
    }

    /// Every message was seen so far.
    pub fn is_sure(&self) -> bool {
        self.trust == Trust::Sure
    }

    /// Where the server's bytes are to be found again: not before the reply that broke is over.
    pub fn may_resume(&self) -> bool {
        self.broken.is_none()
    }

    /// SYNC or PSYNC waits for its answer.
    pub fn awaits_replication(&self) -> bool {
        self.open.front().is_some_and(|request| request.id.command().kind == Kind::Replicate && !request.queued)
    }

    /// A command; `raw`: its keys as they are; `replies`: what it says of answers, being CLIENT REPLY.
    pub fn ask(&mut self, mut request: Request, raw: Option<&str>, replies: Option<Replies>, out: &mut dyn Sink) {
        let pause = self.last_ns > 0 && request.start_ns.saturating_sub(self.last_ns) >= PAUSE_NS;
        self.last_ns = self.last_ns.max(request.start_ns);
        if let Some(reply) = self.broken.take() {
            self.end_broken(&reply, out);
        }
        let kind = request.id.command().kind;
        request.queued = self.in_multi && !matches!(kind, Kind::EndMulti | Kind::Reset);
        if !request.queued && self.is_silent(replies) {
            let nothing = Reply { end_ns: request.start_ns, ..Reply::default() };
            self.records.write(&request, &nothing, Flags::UNANSWERED, raw, out);
            return;
        }
        match kind {
            Kind::Multi => self.in_multi = true,
            Kind::EndMulti | Kind::Reset => self.in_multi = false,
            _ => {}
        }
        if let Some((reply, _)) = self.partial.filter(|_| self.open.front().is_some_and(|front| front.number == 0) && !self.is_sure()) {
            // How many replies there would be was not known; the client goes on, so these were all.
            self.complete(&reply, out);
        }
        match self.trust {
            Trust::Sure => {
                let late = |early: &Reply| request.start_ns > early.first_ns.saturating_add(RACE_NS);
                // The server ends subscriptions by itself, too.
                self.early.retain(|early| !(late(early) && is_confirmation(early)));
                if self.early.front().is_some_and(late) {
                    // Not a race: that reply was nobody's, or the order is not what it seems.
                    self.doubt(out);
                }
            }
            Trust::Draining if self.open.is_empty() => self.trust = DOUBT,
            Trust::Draining => return out.lost(Loss::ParseGap),
            Trust::Trial { evidence, round } if self.open.is_empty() => {
                let evidence = evidence + round.min(EVIDENCE_OF_A_ROUND);
                self.trust = Trust::Trial { evidence, round: 0 };
                if evidence >= EVIDENCE || pause {
                    self.believe(out);
                }
            }
            Trust::Trial { .. } => {}
        }
        self.pipelines |= !self.open.is_empty();
        self.push(request, raw, out);
        while !self.early.is_empty() && !self.open.is_empty() {
            if let Some(early) = self.early.pop_front() {
                self.answer(&early, out);
            }
        }
    }

    /// Whether a command gets no reply; `replies`: it is CLIENT REPLY itself.
    fn is_silent(&mut self, replies: Option<Replies>) -> bool {
        let before = self.replies;
        self.replies = match (before, replies) {
            (_, Some(replies)) => replies,
            (Replies::Skip, None) => Replies::On,
            (before, None) => before,
        };
        match replies {
            Some(replies) => replies != Replies::On,
            None => before != Replies::On,
        }
    }

    fn push(&mut self, request: Request, raw: Option<&str>, out: &mut dyn Sink) {
        if self.open.len() >= PENDING_MAX {
            out.lost(Loss::PendingFull);
            if self.is_sure() {
                self.pop();
                self.partial = None;
                self.forgotten += 1;
            } else {
                self.doubt(out);
            }
        }
        self.open.push_back(request);
        if let Some(texts) = &mut self.raw {
            let text = raw.filter(|text| self.raw_bytes + text.len() <= RAW_PENDING_MAX).unwrap_or_default();
            self.raw_bytes += text.len();
            texts.push_back(text.into());
        }
    }

    fn pop(&mut self) -> Option<(Request, Option<Box<str>>)> {
        let request = self.open.pop_front()?;
        let raw = self.raw.as_mut().and_then(VecDeque::pop_front);
        self.raw_bytes -= raw.as_ref().map_or(0, |text| text.len());
        Some((request, raw.filter(|text| !text.is_empty())))
    }

    /// A whole reply, or something that the server sends unasked.
    pub fn answer(&mut self, reply: &Reply, out: &mut dyn Sink) -> Onward {
        self.last_ns = self.last_ns.max(reply.end_ns);
        if let Some((together, _)) = self.partial
            && self.open.front().is_some_and(|front| front.number == 0)
            && !self.confirms(reply)
        {
            self.complete(&together, out);
        }
        if reply.monitored || (self.subscriptions.is_unasked(reply, self.open.front()) && !self.confirms(reply)) {
            if self.is_sure() && self.open.is_empty() && is_confirmation(reply) && self.early.len() < EARLY_MAX {
                self.early.push_back(*reply);
            }
            return Onward::Talk;
        }
        if self.forgotten > 0 {
            self.forgotten -= 1;
            return Onward::Talk;
        }
        let Some(front) = self.open.front() else {
            self.unexpected(reply, out);
            return Onward::Talk;
        };
        let kind = front.id.command().kind;
        if matches!(kind, Kind::Subscribe | Kind::Unsubscribe) && !front.queued && !reply.error {
            self.confirmed(reply, out);
            return Onward::Talk;
        }
        let queued = reply.word.text() == "QUEUED";
        if !reply.error && !queued && !front.queued && front.id.command().answers & reply.answers == 0 {
            self.doubt(out);
            return Onward::Talk;
        }
        let replicates = kind == Kind::Replicate && !front.queued && !reply.error && !queued;
        if kind == Kind::Reset && !reply.error {
            self.subscriptions.reset();
        }
        self.complete(reply, out);
        if replicates { Onward::Replication } else { Onward::Talk }
    }

    /// A reply, and nothing was asked.
    fn unexpected(&mut self, reply: &Reply, out: &mut dyn Sink) {
        match self.trust {
            Trust::Sure if self.early.len() < EARLY_MAX => self.early.push_back(*reply),
            Trust::Sure => self.doubt(out),
            Trust::Draining => {}
            // There were more open commands than were seen.
            Trust::Trial { .. } => self.fail(out),
        }
    }

    /// The reply is one of those that the oldest command, being a subscription, is answered with.
    fn confirms(&self, reply: &Reply) -> bool {
        self.open.front().is_some_and(|front| {
            let command = front.id.command();
            matches!(command.kind, Kind::Subscribe | Kind::Unsubscribe)
                && !front.queued
                && reply.count == 3
                && reply.name.bytes().eq_ignore_ascii_case(command.name.as_bytes())
        })
    }

    fn confirmed(&mut self, reply: &Reply, out: &mut dyn Sink) {
        if !self.confirms(reply) {
            return self.doubt(out);
        }
        let left = self.subscriptions.confirm(reply);
        let Some(front) = self.open.front() else { return };
        let (mut together, came) = self.partial.take().unwrap_or((Reply { bytes: 0, ..*reply }, 0));
        together.end_ns = reply.end_ns;
        together.bytes += reply.bytes;
        // Without names all subscriptions of that kind end, each with its reply.
        let whole = if front.number == 0 { left == 0 } else { came + 1 >= front.number };
        if whole {
            self.complete(&together, out);
        } else {
            self.partial = Some((together, came + 1));
        }
    }

    /// The oldest command is answered.
    fn complete(&mut self, reply: &Reply, out: &mut dyn Sink) {
        self.partial = None;
        let Some((request, raw)) = self.pop() else { return };
        match &mut self.trust {
            Trust::Sure | Trust::Draining => self.records.write(&request, reply, Flags::default(), raw.as_deref(), out),
            Trust::Trial { round, .. } => {
                *round += 1;
                if self.held.len() >= HELD_MAX {
                    self.held.drain(..).for_each(|_| out.lost(Loss::ParseGap));
                }
                self.held.push((request, *reply, raw));
            }
        }
        if self.open.is_empty() && self.open.capacity() > SPARE_MAX {
            self.open = VecDeque::new();
        }
    }

    /// The trial has passed.
    fn believe(&mut self, out: &mut dyn Sink) {
        self.trust = Trust::Sure;
        for (request, reply, raw) in std::mem::take(&mut self.held) {
            self.records.write(&request, &reply, Flags::default(), raw.as_deref(), out);
        }
    }

    /// What was paired in the trial cannot be right.
    fn fail(&mut self, out: &mut dyn Sink) {
        std::mem::take(&mut self.held).iter().for_each(|_| out.lost(Loss::ParseGap));
        self.trust = DOUBT;
    }

    /// Commands and replies no longer correspond: all that is open is given up.
    pub fn doubt(&mut self, out: &mut dyn Sink) {
        let open = self.open.len() + self.early.len();
        if open == 0 && self.held.is_empty() {
            out.lost(Loss::ParseGap);
        }
        (0..open).for_each(|_| out.lost(Loss::ParseGap));
        self.clear();
        self.fail(out);
    }

    fn clear(&mut self) {
        self.open.clear();
        self.early.clear();
        if let Some(texts) = &mut self.raw {
            texts.clear();
        }
        self.raw_bytes = 0;
        self.forgotten = 0;
        self.partial = None;
        self.broken = None;
        if self.open.capacity() > SPARE_MAX {
            self.open = VecDeque::new();
        }
    }

    /// Bytes of the client were missed, and commands in them.
    pub fn request_gap(&mut self, out: &mut dyn Sink) {
        out.lost(Loss::ParseGap);
        self.in_multi = false;
        self.replies = Replies::On;
        if let Some(reply) = self.broken.take() {
            self.end_broken(&reply, out);
        }
        match self.trust {
            Trust::Sure if self.open.is_empty() || !self.early.is_empty() => {
                if self.early.is_empty() {
                    self.trust = DOUBT;
                } else {
                    self.doubt(out);
                }
            }
            Trust::Sure => self.trust = Trust::Draining,
            Trust::Draining => {}
            Trust::Trial { .. } => {
                (0..self.open.len()).for_each(|_| out.lost(Loss::ParseGap));
                self.clear();
                self.fail(out);
            }
        }
    }

    /// Bytes of the server were missed; `reply` is as much as was seen of the one under way.
    pub fn response_gap(&mut self, reply: Option<&Reply>, lost: u64, at_ns: u64, out: &mut dyn Sink) {
        if self.broken.is_some() {
            return self.passed(lost, at_ns);
        }
        // What it is called and how it began is known of the oldest; of those behind it, nothing.
        let plain = self.open.front().is_some_and(|front| {
            front.queued || matches!(front.id.command().kind, Kind::Plain | Kind::Script | Kind::EndMulti | Kind::Multi | Kind::Select)
        });
        let unasked = |reply: &Reply| reply.kind == b'>' || reply.monitored || self.subscriptions.any();
        let trusted = match self.trust {
            Trust::Sure | Trust::Draining => true,
            Trust::Trial { evidence, round } => evidence >= ALMOST && round == 0 && self.open.len() == 1 && !self.pipelines,
        };
        let broken = reply.filter(|reply| trusted && reply.kind != 0 && plain && self.forgotten == 0 && !unasked(reply));
        let Some(reply) = broken else { return self.doubt(out) };
        let fits = self.open.front().is_some_and(|front| reply.error || front.queued || front.id.command().answers & reply.answers != 0);
        if !fits && reply.answers != NULL && reply.word.text() != "QUEUED" {
            return self.doubt(out);
        }
        let mut reply = *reply;
        reply.end_ns = at_ns;
        out.lost(Loss::ParseGap);
        if self.open.len() == 1 && self.trust != Trust::Draining {
            reply.bytes = reply.bytes.saturating_add(lost);
            self.broken = Some(reply);
        } else {
            self.end_broken(&reply, out);
        }
    }

    /// Bytes of the server that are passed over unread.
    pub fn passed(&mut self, bytes: u64, at_ns: u64) {
        self.last_ns = self.last_ns.max(at_ns);
        if let Some(reply) = &mut self.broken {
            reply.bytes = reply.bytes.saturating_add(bytes);
            reply.end_ns = at_ns;
        }
    }

    /// The oldest command's reply is over, though not all of it was seen; what else is open is given up.
    fn end_broken(&mut self, reply: &Reply, out: &mut dyn Sink) {
        if let Some((request, raw)) = self.pop() {
            self.records.write(&request, reply, Flags::GAP | Flags::TRUNCATED, raw.as_deref(), out);
        }
        (0..self.open.len()).for_each(|_| out.lost(Loss::ParseGap));
        // A client that waits for its answers has this one, and nothing else is open: one round that fits shows whether it does.
        let waits = !self.pipelines && self.trust != Trust::Draining;
        self.clear();
        self.trust = if waits { Trust::Trial { evidence: ALMOST, round: 0 } } else { DOUBT };
    }

    /// The connection is over: commands without a reply are told.
    pub fn close(&mut self, at_ns: u64, out: &mut dyn Sink) {
        if let Some(reply) = self.broken.take() {
            self.end_broken(&reply, out);
        }
        if let Some((reply, _)) = self.partial.take()
            && self.is_sure()
        {
            self.complete(&reply, out);
        }
        if let Trust::Trial { evidence, round } = self.trust {
            let fits = self.open.is_empty() && evidence + round.min(EVIDENCE_OF_A_ROUND) >= EVIDENCE;
            let paused = self.open.is_empty() && self.last_ns > 0 && at_ns.saturating_sub(self.last_ns) >= PAUSE_NS;
            if !(fits || paused) {
                (0..self.open.len()).for_each(|_| out.lost(Loss::ParseGap));
                self.clear();
                return self.fail(out);
            }
            self.believe(out);
        }
        let nothing = Reply { end_ns: at_ns, ..Reply::default() };
        while let Some((request, raw)) = self.pop() {
            self.records.write(&request, &nothing, Flags::UNANSWERED, raw.as_deref(), out);
        }
        (0..self.early.len()).for_each(|_| out.lost(Loss::ParseGap));
        self.clear();
    }
}

/// A subscription begins or ends.
fn is_confirmation(reply: &Reply) -> bool {
    reply.count == 3 && reply.name.bytes().ends_with(b"subscribe")
}

/// Room for so many open commands is kept when none is open.
const SPARE_MAX: usize = 1024;
