//! DNS (RFC 1035, RFC 2181, RFC 6891) in datagrams and over TCP (RFC 7766): finds messages, and pairs answers with queries by number and
//! question.
//! `docs/protocols/dns.md` says what comes out.
#![deny(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used)]

mod answer;
mod likeness;
mod message;
mod names;
mod pending;
mod record;
#[cfg(test)]
mod tests;

use answer::Answer;
use message::{DSO, HEADER, Head, QUESTION, Question};
use pending::{Key, Pending, Place};
use record::{About, Outcome};

use super::{At, Definition, Likeness, Loss, Opening, Parser, Sink, Step, Transport};
use crate::model::{Endpoint, Flags, Flow, Protocol};

/// In datagrams and in a stream it begins differently: two definitions of one parser.
pub const DATAGRAMS: Definition = Definition {
    protocol: Protocol::Dns,
    transports: &[Transport::Datagrams],
    waits: true,
    likeness: likeness::datagram,
    parser: |opening| Box::new(Dns::new(opening)),
};

pub const STREAM: Definition = Definition { transports: &[Transport::Stream], likeness: likeness::stream, ..DATAGRAMS };

/// So long an answer is waited for. The resolver of the C library asks again, or gives up, after as long.
pub const PATIENCE_NS: u64 = 5_000_000_000;

/// Of a longer message only so much is looked at.
const LOOKED_AT: usize = 16 * 1024;

/// An answer can be reported before its query by so much: two threads use one socket, one of them was held up between the socket and its
/// return.
const RACE_NS: u64 = 1_000_000;
/// Answers that came so early and are kept, and how long they may be.
const EARLY_MAX: usize = 4;
const EARLY_BYTES: usize = 4096;

/// Impossible messages in a row after which a connection is not taken for DNS any more.
const VIOLATIONS_MAX: u32 = 8;

/// A message as it came.
#[derive(Clone, Copy)]
struct Arrival<'a> {
    message: &'a [u8],
    /// Of the message; longer than what is there where it was cut.
    length: usize,
    /// On the wire.
    bytes: u64,
    first_ns: u64,
    last_ns: u64,
    /// The other end of a datagram, where that is known.
    remote: Option<Endpoint>,
}

/// An answer without a query, so far.
struct Early {
    message: Vec<u8>,
    length: usize,
    bytes: u64,
    first_ns: u64,
    last_ns: u64,
    remote: Option<Endpoint>,
}

struct Dns {
    about: About,
    /// By flow: where messages begin is not known.
    lost: [bool; 2],
    /// All queries were seen: what answers none answers one that is still to come.
    complete: bool,
    pending: Pending,
    early: Vec<Early>,
    violations: u32,
    /// The name under question, and the list of an answer.
    name: String,
    list: String,
}

impl Dns {
    fn new(opening: Opening) -> Self {
        Self {
            about: About::new(opening.transport, opening.adopted),
            lost: [opening.adopted; 2],
            complete: !opening.adopted,
            pending: Pending::default(),
            early: Vec::new(),
            violations: 0,
            name: String::new(),
            list: String::new(),
        }
    }

    /// A message that cannot be one; true when there were too many of them.
    fn violation(&mut self, flow: Flow, out: &mut dyn Sink) -> bool {
        self.missed(flow);
        out.lost(Loss::ParseGap);
        self.violations += 1;
        self.violations > VIOLATIONS_MAX
    }

    /// A message or more of the flow was not understood.
    fn missed(&mut self, flow: Flow) {
        match flow {
            Flow::Request => {
                self.complete = false;
                self.early.clear();
            }
            // Answers over UDP are lost in the network, too; whether one was missed here is not known.
            Flow::Response if self.about.transport == Transport::Stream => self.pending.doubt(),
            Flow::Response => {}
        }
    }

    fn stream(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if self.lost.get(flow.index()) == Some(&true) {
            if !at.call_start {
                return Step::Consumed(bytes.len());
            }
            match likeness::stream(flow, bytes) {
                Likeness::No => return Step::Consumed(bytes.len()),
                Likeness::Undecided => return Step::NeedMore,
                _ => self.set_lost(flow, false),
            }
        }
        let Some((prefix, rest)) = bytes.split_first_chunk::<2>() else { return Step::NeedMore };
        let length = usize::from(u16::from_be_bytes(*prefix));
        if length < HEADER {
            self.set_lost(flow, true);
            return if self.violation(flow, out) { Step::NotMine } else { Step::Consumed(bytes.len()) };
        }
        let needed = length.min(LOOKED_AT);
        let Some(message) = rest.get(..needed) else { return Step::NeedMore };
        let arrival = Arrival { message, length, bytes: length as u64 + 2, first_ns: at.first_ns, last_ns: at.last_ns, remote: None };
        if self.message(flow, arrival, out) && self.violations > VIOLATIONS_MAX {
            return Step::NotMine;
        }
        if length > needed { Step::Skip { head: needed + 2, body: (length - needed) as u64 } } else { Step::Consumed(length + 2) }
    }

    fn set_lost(&mut self, flow: Flow, lost: bool) {
        if let Some(lane) = self.lost.get_mut(flow.index()) {
            *lane = lost;
        }
    }

    /// Takes a message; true when it was none.
    fn message(&mut self, flow: Flow, arrival: Arrival<'_>, out: &mut dyn Sink) -> bool {
        self.expire(arrival.first_ns, out);
        let understood = match Head::read(arrival.message) {
            Ok(head) if head.is_response() != (flow == Flow::Response) => {
                // A socket of datagrams may ask and answer; in a stream the client asks.
                self.about.transport == Transport::Datagrams
            }
            Ok(head) if head.opcode() == DSO => true,
            Ok(head) if flow == Flow::Request => self.query(head, arrival, out),
            Ok(head) => self.answer(head, arrival, true, out),
            Err(_) => false,
        };
        if understood {
            self.violations = 0;
        } else {
            self.violation(flow, out);
        }
        !understood
    }

    /// The first question, its name in `self.name`; `None` when it cannot be read.
    fn question(&mut self, message: &[u8], head: &Head) -> Option<Question> {
        self.name.clear();
        if head.questions == 0 {
            return Some(Question { kind: 0, class: 0 });
        }
        let (question, _) = Question::read(message, QUESTION).ok()?;
        message::write_name(message, QUESTION, &mut self.name).ok()?;
        Some(question)
    }

    fn query(&mut self, head: Head, arrival: Arrival<'_>, out: &mut dyn Sink) -> bool {
        let Some(question) = self.question(arrival.message, &head) else { return false };
        let Arrival { first_ns, bytes, remote, .. } = arrival;
        let key = Key { id: head.id, opcode: head.opcode(), question, name: &self.name, remote };
        // Nothing is sent twice in a stream: the same number there is another query.
        if self.about.transport == Transport::Datagrams
            && let Some((place, _)) = self.pending.find(&key)
            && let Some(query) = self.pending.get_mut(place)
            && query.transfer.first_ns.is_none()
        {
            if !query.doubtful {
                query.resends += 1;
                query.bytes += bytes;
                self.pending.renew(place, first_ns);
                return true;
            }
            // Perhaps answered unseen: then this is another query.
            self.pending.remove(place);
            out.lost(Loss::ParseGap);
        }
        if self.pending.is_full()
            && let Some((oldest, _)) = self.pending.oldest()
        {
            self.pending.remove(oldest);
            out.lost(Loss::PendingFull);
        }
        let key = Key { id: head.id, opcode: head.opcode(), question, name: &self.name, remote };
        self.pending.insert(&key, head.questions, first_ns, bytes);
        if !self.early.is_empty() {
            self.answer_early(head.id, first_ns, out);
        }
        true
    }

    /// Whether the answer to the query just taken came before it.
    fn answer_early(&mut self, id: u16, now_ns: u64, out: &mut dyn Sink) {
        self.early.retain(|early| early.last_ns.saturating_add(RACE_NS) >= now_ns);
        let heads = self.early.iter().map(|early| Head::read(&early.message).ok());
        let Some((index, head)) = heads.enumerate().find_map(|(index, head)| Some((index, head.filter(|head| head.id == id)?))) else {
            return;
        };
        let Early { message, length, bytes, first_ns, last_ns, remote } = self.early.swap_remove(index);
        self.answer(head, Arrival { message: &message, length, bytes, first_ns, last_ns, remote }, false, out);
    }

    fn answer(&mut self, head: Head, arrival: Arrival<'_>, keep: bool, out: &mut dyn Sink) -> bool {
        let Some(question) = self.question(arrival.message, &head) else { return false };
        let Some(answer) = Answer::read(arrival.message, head, arrival.length) else { return false };
        let (id, opcode, remote) = (head.id, head.opcode(), arrival.remote);
        let key = Key { id, opcode, question, name: &self.name, remote };
        let found = match head.questions {
            0 => self.pending.find_only(id, opcode).map(|place| (place, 1)),
            _ => self.pending.find(&key),
        };
        match found {
            Some((place, count)) => self.paired(place, count, &answer, &arrival, out),
            None if keep && self.complete && arrival.message.len() <= EARLY_BYTES => self.keep(&arrival),
            // Of a query that was not seen, or that was given up.
            None => {}
        }
        true
    }

    fn keep(&mut self, arrival: &Arrival<'_>) {
        let Arrival { length, bytes, first_ns, last_ns, remote, .. } = *arrival;
        let mut early = if self.early.len() < EARLY_MAX {
            Early { message: Vec::new(), length, bytes, first_ns, last_ns, remote }
        } else {
            Early { length, bytes, first_ns, last_ns, remote, ..self.early.remove(0) }
        };
        early.message.clear();
        early.message.extend_from_slice(arrival.message);
        self.early.push(early);
    }

    fn paired(&mut self, place: Place, count: usize, answer: &Answer<'_>, arrival: &Arrival<'_>, out: &mut dyn Sink) {
        let Arrival { bytes, first_ns, last_ns, .. } = *arrival;
        let Some(query) = self.pending.get_mut(place) else { return };
        if query.doubtful && count > 1 {
            // Two asked the same, and one of them may have been answered unseen: which one this is for cannot be told.
            self.pending.remove(place);
            out.lost(Loss::ParseGap);
            return;
        }
        let mut outcome = Outcome {
            first_ns: Some(first_ns),
            end_ns: last_ns,
            rcode: Some(answer.rcode),
            bytes,
            records: answer.head.answers.into(),
            truncated: answer.head.truncated(),
            ..Outcome::default()
        };
        if query.question.is_transfer() && answer.rcode == 0 && self.about.transport == Transport::Stream {
            let transfer = &mut query.transfer;
            let begin = transfer.first_ns.is_none();
            transfer.first_ns.get_or_insert(first_ns);
            (transfer.last_ns, transfer.bytes) = (last_ns, transfer.bytes + bytes);
            let before = transfer.records;
            answer.answers().for_each(|record| transfer.record(record.kind, record.serial(answer.message)));
            transfer.records = before + u64::from(answer.head.answers);
            // One record alone says that the asker has the newest version.
            let newest = begin && answer.head.answers == 1 && query.question.kind == message::IXFR;
            if !transfer.is_over() && !newest {
                self.pending.renew(place, last_ns);
                return;
            }
            (outcome.first_ns, outcome.bytes, outcome.records) = (transfer.first_ns, transfer.bytes, transfer.records);
        } else if answer.cut {
            outcome.flags.insert(Flags::TRUNCATED);
        }
        let Some(query) = self.pending.remove(place) else { return };
        query.remote = query.remote.or(arrival.remote);
        // An answer that was reported first did not come before it was asked for.
        query.start_ns = query.start_ns.min(first_ns);
        if out.wants_attributes() && !query.question.is_transfer() {
            answer.list(&mut self.list);
            outcome.answers = &self.list;
        }
        answer.resolve(&query.name, query.question, out);
        self.about.emit(query, &outcome, out);
        query.trim();
    }

    /// Ends the queries that waited too long.
    fn expire(&mut self, now_ns: u64, out: &mut dyn Sink) {
        while let Some((place, query)) = self.pending.oldest() {
            let due_ns = query.asked_ns.saturating_add(PATIENCE_NS);
            if now_ns < due_ns {
                return;
            }
            self.give_up(place, due_ns, out);
        }
    }

    /// A query that will not be answered any more.
    fn give_up(&mut self, place: Place, at_ns: u64, out: &mut dyn Sink) {
        let Some(query) = self.pending.remove(place) else { return };
        if let Some(first_ns) = query.transfer.first_ns {
            let transfer = query.transfer;
            // Its end was not recognised; what came is certain.
            let outcome = Outcome {
                first_ns: Some(first_ns),
                end_ns: transfer.last_ns,
                rcode: Some(0),
                bytes: transfer.bytes,
                records: transfer.records,
                flags: if query.doubtful { Flags::TRUNCATED | Flags::GAP } else { Flags::TRUNCATED },
                ..Outcome::default()
            };
            self.about.emit(query, &outcome, out);
        } else if query.doubtful {
            out.lost(Loss::ParseGap);
        } else {
            let outcome = Outcome { end_ns: at_ns.max(query.start_ns), flags: Flags::UNANSWERED, ..Outcome::default() };
            self.about.emit(query, &outcome, out);
        }
        query.trim();
    }
}

impl Parser for Dns {
    fn parse(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        match self.about.transport {
            Transport::Stream => self.stream(flow, bytes, at, out),
            Transport::Datagrams => self.datagram(flow, bytes, at, None, out),
        }
    }

    fn datagram(&mut self, flow: Flow, bytes: &[u8], at: At, remote: Option<Endpoint>, out: &mut dyn Sink) -> Step {
        let (first_ns, last_ns) = (at.first_ns, at.last_ns);
        let arrival = Arrival { message: bytes, length: bytes.len(), bytes: bytes.len() as u64, first_ns, last_ns, remote };
        let refused = self.message(flow, arrival, out) && self.violations > VIOLATIONS_MAX;
        if refused { Step::NotMine } else { Step::Consumed(bytes.len()) }
    }

    /// The rest of a long message went by.
    fn skipped(&mut self, _: Flow, _: u64, _: &mut dyn Sink) {}

    fn gap(&mut self, flow: Flow, _: u64, _: u64, out: &mut dyn Sink) {
        self.set_lost(flow, true);
        self.missed(flow);
        if flow == Flow::Response {
            // Missed here for sure, in datagrams too.
            self.pending.doubt();
        }
        out.lost(Loss::ParseGap);
    }

    fn close(&mut self, at_ns: u64, out: &mut dyn Sink) {
        self.expire(at_ns, out);
        while let Some((place, _)) = self.pending.oldest() {
            self.give_up(place, at_ns, out);
        }
    }

    fn tick(&mut self, now_ns: u64, out: &mut dyn Sink) {
        self.expire(now_ns, out);
    }
}
