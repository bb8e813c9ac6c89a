//! Redis' serialization protocol, versions 2 and 3 (redis.io, "Redis serialization protocol specification"): where commands and replies
//! begin and end. `docs/protocols/redis.md` says what comes out.
//!
//! A command is read in `request`, a reply in `reply`; `pairing` brings them together. Values are passed over, never looked at.
#![deny(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used))]

mod commands;
mod likeness;
mod lookup;
mod pairing;
mod pattern;
mod record;
mod reply;
mod request;
mod subscriptions;
#[cfg(test)]
mod tests;
mod wire;

use self::{
    likeness::{WORD_MAX, WORDS_MAX, begins_command, inline, likeness},
    lookup::Kind,
    pairing::{Onward, Pairing},
    reply::{Cursor, Taken},
    request::{Asking, inline_words},
    wire::{Line, Number, number},
};
use crate::{
    model::{Flags, Flow, Protocol},
    protocols::{At, Capture, Definition, Likeness, Opening, Parser, Sink, Step},
};

pub const DEFINITION: Definition = Definition::stream(Protocol::Redis, likeness, |opening| Box::new(Redis::new(opening)));

/// Malformed messages with no exchange between after which a connection is not taken for Redis any more.
const VIOLATIONS_MAX: u32 = 8;

/// What the next bytes of the client are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The begin of a command.
    Command,
    /// A word of the command under way.
    Word,
    /// The rest of a word, passed over by length.
    Rest,
    /// Not known: a command is looked for where calls begin.
    Lost,
}

struct Redis {
    place: Place,
    asking: Asking,
    /// So many bytes of an inline command were searched for their end.
    scanned: usize,
    cursor: Cursor,
    /// Where replies begin is not known.
    replies_lost: bool,
    pairing: Pairing,
    adopted: bool,
    /// A command that exists was seen: the connection speaks Redis.
    understood: bool,
    violations: u32,
    wished: bool,
    /// A stream of changes between master and replica: nothing that follows is of interest.
    over: bool,
}

impl Redis {
    fn new(opening: Opening) -> Self {
        let (adopted, raw) = (opening.adopted, opening.shows(Protocol::Redis));
        Self {
            place: if adopted { Place::Lost } else { Place::Command },
            asking: Asking::new(raw),
            scanned: 0,
            cursor: Cursor::default(),
            replies_lost: adopted,
            pairing: Pairing::new(adopted, raw),
            adopted,
            understood: false,
            violations: 0,
            wished: false,
            over: false,
        }
    }

    fn finish(&mut self, head: usize, out: &mut dyn Sink) -> Step {
        self.over = true;
        out.capture(Capture::Lengths);
        Step::Skip { head, body: u64::MAX }
    }

    /// Bytes that cannot stand here. `true`: often enough to say that this is not Redis.
    fn violation(&mut self, out: &mut dyn Sink) -> bool {
        self.violations += 1;
        self.pairing.doubt(out);
        (!self.understood && !self.adopted) || self.violations > VIOLATIONS_MAX
    }

    fn requests(&mut self, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if self.place == Place::Lost {
            if !at.call_start {
                return Step::Consumed(bytes.len());
            }
            match begins_command(bytes) {
                Some(false) => return Step::Consumed(bytes.len()),
                Some(true) => self.place = Place::Command,
                None => return Step::NeedMore,
            }
        }
        let mut position = 0;
        loop {
            let rest = bytes.get(position..).unwrap_or_default();
            if rest.is_empty() {
                return Step::Consumed(position);
            }
            let first_ns = if position == 0 { at.first_ns } else { at.last_ns };
            let step = match self.place {
                Place::Command => self.command(rest, first_ns),
                _ => self.word(rest),
            };
            match step {
                Taken::Bytes(count) => {
                    position += count;
                    if self.place == Place::Word && self.asking.is_whole() && !self.asked(out) {
                        return self.finish(bytes.len(), out);
                    }
                }
                Taken::Value { here, behind } => return Step::Skip { head: position + here, body: behind },
                Taken::More if position > 0 => return Step::Consumed(position),
                Taken::More => return Step::NeedMore,
                Taken::Malformed => {
                    self.place = Place::Lost;
                    self.scanned = 0;
                    return if self.violation(out) { Step::NotMine } else { Step::Consumed(bytes.len()) };
                }
            }
        }
    }

    /// The begin of a command at the front.
    fn command(&mut self, bytes: &[u8], first_ns: u64) -> Taken {
        match bytes.first() {
            Some(b'*') => {}
            Some(b'\r' | b'\n') => return Taken::Bytes(1),
            _ => return self.inline(bytes, first_ns),
        }
        match number(bytes) {
            Line::Whole(Number::Is(words @ 1..=WORDS_MAX), head) => {
                self.asking.begin(words, first_ns, head as u64);
                self.place = Place::Word;
                Taken::Bytes(head)
            }
            // The server takes no notice of a command without words.
            Line::Whole(Number::Is(0) | Number::Null, head) => Taken::Bytes(head),
            Line::Whole(..) | Line::Bad => Taken::Malformed,
            Line::Partial => Taken::More,
        }
    }

    /// A word of a command at the front.
    fn word(&mut self, bytes: &[u8]) -> Taken {
        if bytes.first() != Some(&b'$') {
            return Taken::Malformed;
        }
        let (length, head) = match number(bytes) {
            Line::Whole(Number::Is(length), head) if length <= WORD_MAX => (length, head),
            Line::Whole(..) | Line::Bad => return Taken::Malformed,
            Line::Partial => return Taken::More,
        };
        let total = length + head as u64 + 2;
        let wanted = (self.asking.needs() as u64).min(length) as usize;
        let Some(begin) = bytes.get(head..).and_then(|word| word.get(..wanted)) else { return Taken::More };
        if bytes.len() as u64 >= total && bytes.get(total as usize - 2..total as usize) != Some(b"\r\n") {
            return Taken::Malformed;
        }
        self.asking.word(begin, length);
        self.asking.bytes += total;
        if (bytes.len() as u64) < total {
            self.place = Place::Rest;
            return Taken::Value { here: bytes.len(), behind: total - bytes.len() as u64 };
        }
        Taken::Bytes(total as usize)
    }

    /// A command as typed: a line of words.
    fn inline(&mut self, bytes: &[u8], first_ns: u64) -> Taken {
        let scanned = std::mem::take(&mut self.scanned);
        let found = bytes.get(scanned..).and_then(|rest| rest.iter().position(|&byte| byte == b'\n'));
        if scanned == 0 && inline(bytes) == Likeness::No && !(self.understood && self.pairing.is_sure()) {
            return Taken::Malformed;
        }
        let Some(found) = found else {
            self.scanned = bytes.len();
            return Taken::More;
        };
        let length = scanned + found + 1;
        let line = bytes.get(..length).unwrap_or_default().trim_ascii();
        if line.iter().any(|byte| *byte < b' ' && *byte != b'\t') {
            return Taken::Malformed;
        }
        let Some(words) = inline_words(line) else { return Taken::Malformed };
        let count = words.clone().count() as u64;
        if count == 0 {
            return Taken::Bytes(length);
        }
        self.asking.begin(count, first_ns, length as u64);
        for word in words {
            let begin = word.get(..self.asking.needs()).unwrap_or(word);
            self.asking.word(begin, word.len() as u64);
        }
        self.place = Place::Word;
        Taken::Bytes(length)
    }

    /// All words of a command came. `false`: what follows is of no interest.
    fn asked(&mut self, out: &mut dyn Sink) -> bool {
        self.place = Place::Command;
        if self.asking.acknowledges {
            // It has no answer; that of a PSYNC before it may still come.
            return self.pairing.awaits_replication();
        }
        self.understood |= self.asking.is_known();
        self.pairing.ask(self.asking.request(), self.asking.raw(), self.asking.replies, out);
        true
    }

    fn responses(&mut self, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if self.replies_lost {
            if !at.call_start || !self.pairing.may_resume() {
                return self.pass_lost(bytes, at);
            }
            match likeness(Flow::Response, bytes) {
                Likeness::No => return self.pass_lost(bytes, at),
                // What a command begins like may be a reply all the same; the walk waits by itself for what is missing.
                Likeness::Undecided if !matches!(bytes.first(), Some(b'*' | b'$')) => return Step::NeedMore,
                _ => self.replies_lost = false,
            }
        }
        let mut position = 0;
        loop {
            let rest = bytes.get(position..).unwrap_or_default();
            if rest.is_empty() {
                return Step::Consumed(position);
            }
            if !self.cursor.is_under_way() {
                if self.pairing.awaits_replication() {
                    match rest.first() {
                        // A master that is not ready yet keeps the connection open like this.
                        Some(b'\n') => {
                            position += 1;
                            continue;
                        }
                        // SYNC is answered by the data themselves.
                        Some(b'$') => {
                            self.cursor.begin(at.first_ns);
                            let reply = reply::Reply {
                                first_ns: at.first_ns,
                                end_ns: at.last_ns,
                                kind: b'$',
                                answers: u8::MAX,
                                ..self.cursor.reply
                            };
                            self.pairing.answer(&reply::Reply { bytes: rest.len() as u64, ..reply }, out);
                            return self.finish(bytes.len(), out);
                        }
                        _ => {}
                    }
                }
                self.cursor.begin(if position == 0 { at.first_ns } else { at.last_ns });
            }
            match self.cursor.take(rest) {
                Taken::Bytes(count) => position += count,
                Taken::Value { here, behind } => return Step::Skip { head: position + here, body: behind },
                Taken::More => {
                    if self.cursor.reply.bytes == 0 {
                        self.cursor.forget();
                    }
                    return if position > 0 { Step::Consumed(position) } else { Step::NeedMore };
                }
                Taken::Malformed => {
                    self.cursor.forget();
                    self.replies_lost = true;
                    return if self.violation(out) { Step::NotMine } else { Step::Consumed(bytes.len()) };
                }
            }
            if !self.cursor.is_under_way() && self.answered(at.last_ns, out) == Onward::Replication {
                return self.finish(bytes.len(), out);
            }
        }
    }

    fn pass_lost(&mut self, bytes: &[u8], at: At) -> Step {
        self.pairing.passed(bytes.len() as u64, at.last_ns);
        Step::Consumed(bytes.len())
    }

    /// A reply is whole.
    fn answered(&mut self, at_ns: u64, out: &mut dyn Sink) -> Onward {
        self.cursor.reply.end_ns = at_ns;
        self.violations = 0;
        self.pairing.answer(&self.cursor.reply, out)
    }
}

impl Parser for Redis {
    fn parse(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if self.over {
            return Step::Skip { head: bytes.len(), body: u64::MAX };
        }
        if !self.wished {
            // Where the next command begins is known from the one before it only.
            self.wished = true;
            out.capture(Capture::Full);
        }
        match flow {
            Flow::Request => self.requests(bytes, at, out),
            Flow::Response => self.responses(bytes, at, out),
        }
    }

    fn skipped(&mut self, flow: Flow, at_ns: u64, out: &mut dyn Sink) {
        if self.over {
            return;
        }
        match flow {
            Flow::Request if self.place == Place::Rest => {
                self.place = Place::Word;
                if self.asking.is_whole() && !self.asked(out) {
                    self.finish(0, out);
                }
            }
            Flow::Response if self.cursor.is_under_way() => {
                self.cursor.value_passed();
                if !self.cursor.is_under_way() {
                    self.answered(at_ns, out);
                }
            }
            _ => {}
        }
    }

    fn gap(&mut self, flow: Flow, lost: u64, at_ns: u64, out: &mut dyn Sink) {
        if self.over {
            return;
        }
        match flow {
            Flow::Request => {
                let begun = matches!(self.place, Place::Word | Place::Rest) && self.asking.is_named() && self.asking.is_known();
                self.place = Place::Lost;
                self.scanned = 0;
                if begun && self.pairing.is_sure() && !matches!(self.asking.kind(), Kind::Replicate | Kind::Replconf) {
                    // One command is one reply, wherever it ends.
                    let mut request = self.asking.request();
                    request.flags = Flags::GAP | Flags::TRUNCATED;
                    self.pairing.ask(request, self.asking.raw(), None, out);
                }
                self.pairing.request_gap(out);
            }
            Flow::Response => {
                let reply = self.cursor.is_under_way().then_some(self.cursor.reply);
                self.cursor.forget();
                self.replies_lost = true;
                self.pairing.response_gap(reply.as_ref(), lost, at_ns, out);
            }
        }
    }

    fn close(&mut self, at_ns: u64, out: &mut dyn Sink) {
        if !self.over {
            self.pairing.close(at_ns, out);
        }
    }
}
