//! PostgreSQL's frontend/backend protocol, version 3 (manual, chapter 55): finds messages in both flows and hands them to the session,
//! which pairs them. `docs/protocols/postgresql.md` says what comes out.
#![deny(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used)]

mod messages;
mod names;
mod record;
mod session;
#[cfg(test)]
mod tests;

use messages::{HEADER, Head, ServerError, Startup, Tag};
use session::{Asked, Reply, Request, Session};

use super::{At, Capture, Definition, Likeness, Loss, Opening, Parser, Sink, Step, reader::Reader};
use crate::model::{Flags, Flow, Protocol};

pub const DEFINITION: Definition = Definition::stream(Protocol::Postgresql, likeness, |opening| Box::new(Postgresql::new(opening)));

fn likeness(flow: Flow, bytes: &[u8]) -> Likeness {
    match flow {
        Flow::Request => messages::request_likeness(bytes),
        Flow::Response => messages::response_likeness(bytes),
    }
}

/// Where the conversation stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing but requests for encryption was sent.
    Startup,
    Messages,
    /// Encrypted, replicating or cancelled: nothing that follows is of interest.
    Over,
}

/// What is known of one flow's framing.
#[derive(Default)]
struct Lane {
    /// Where messages begin is not known.
    lost: bool,
    /// Type and length of the message that has begun and is not whole.
    under_way: Option<(u8, u64)>,
    /// As much of it as was seen, for messages whose begin is of use alone.
    partial: Vec<u8>,
    /// Bytes left of a message whose middle was missed.
    pass: u64,
}

impl Lane {
    /// Notes that more of the message at the front is needed.
    fn wait(&mut self, kind: u8, total: u64, bytes: &[u8]) -> Step {
        self.under_way = Some((kind, total));
        if matches!(kind, b'Q' | b'P' | b'C' | b'E') {
            self.partial.extend_from_slice(bytes.get(self.partial.len()..).unwrap_or_default());
        }
        Step::NeedMore
    }

    fn done(&mut self) {
        self.under_way = None;
        if self.partial.capacity() > 0 {
            self.partial = Vec::new();
        }
    }
}

/// Refused messages in a row without an exchange between after which a connection is not taken for PostgreSQL any more.
const VIOLATIONS_LIMIT: u32 = 8;

struct Postgresql {
    stage: Stage,
    /// A request for encryption waits for its answer.
    encryption_asked: bool,
    /// The server's answer to it, when that was reported first.
    encryption_answer: Option<u8>,
    client: Lane,
    server: Lane,
    /// The end of a large answer is searched for.
    searching: bool,
    /// Backslashes escape in plain literals: the server reported `standard_conforming_strings` as off.
    escapes: bool,
    wished: bool,
    violations: u32,
    session: Session,
}

impl Postgresql {
    fn new(opening: Opening) -> Self {
        let lost = || Lane { lost: opening.adopted, ..Lane::default() };
        Self {
            stage: if opening.adopted { Stage::Messages } else { Stage::Startup },
            encryption_asked: false,
            encryption_answer: None,
            client: lost(),
            server: lost(),
            searching: false,
            escapes: false,
            wished: false,
            violations: 0,
            session: Session::new(opening.adopted, opening.shows(Protocol::Postgresql)),
        }
    }

    /// The rest of both flows is of no interest.
    fn finish(&mut self, out: &mut dyn Sink) {
        self.stage = Stage::Over;
        out.capture(Capture::Lengths);
    }

    fn violation(&mut self, out: &mut dyn Sink) -> bool {
        self.violations += 1;
        self.session.unpair(out, Loss::ParseGap);
        self.violations > VIOLATIONS_LIMIT
    }

    fn requests(&mut self, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if self.stage == Stage::Startup {
            return self.startup(bytes, at, out);
        }
        if self.client.lost {
            if !(at.call_start && self.session.may_start() && messages::begins_round_trip(bytes, self.session.ready())) {
                return match messages::startup(bytes) {
                    // An adopted connection may have been seen from its first byte all the same.
                    Ok(_) if at.call_start && !self.session.paired() => self.startup(bytes, at, out),
                    _ => Step::Consumed(bytes.len()),
                };
            }
            self.client.lost = false;
        }
        let mut position = 0;
        loop {
            let rest = bytes.get(position..).unwrap_or_default();
            let start_ns = if position == 0 { at.first_ns } else { at.last_ns };
            let (kind, total) = match messages::request_head(rest) {
                Head::Message { kind, total } => (kind, total),
                Head::Short if position > 0 => return Step::Consumed(position),
                Head::Short => {
                    self.client.under_way = None;
                    return Step::NeedMore;
                }
                Head::Bad => {
                    self.client.lost = true;
                    self.session.gap_in_requests(0, out);
                    return if self.violation(out) { Step::NotMine } else { Step::Consumed(bytes.len()) };
                }
            };
            let whole = usize::try_from(total).unwrap_or(usize::MAX);
            if rest.len() < whole.min(messages::request_needs(kind)) {
                return if position > 0 { Step::Consumed(position) } else { self.client.wait(kind, total, rest) };
            }
            let body = rest.get(HEADER..whole.min(rest.len())).unwrap_or_default();
            if !self.request(kind, total, body, (start_ns, at.last_ns), out) {
                self.client.lost = true;
                self.session.gap_in_requests(0, out);
                return if self.violation(out) { Step::NotMine } else { Step::Consumed(bytes.len()) };
            }
            self.client.done();
            if whole > rest.len() {
                return Step::Skip { head: bytes.len(), body: total - rest.len() as u64 };
            }
            position += whole;
            if position >= bytes.len() {
                return Step::Consumed(position);
            }
        }
    }

    fn startup(&mut self, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if self.encryption_asked && bytes.first() == Some(&0x16) {
            // A TLS record: the server's S was not reported yet.
            self.finish(out);
            return Step::Skip { head: bytes.len(), body: u64::MAX };
        }
        let (packet, length) = match messages::startup(bytes) {
            Ok(packet) => packet,
            Err(true) => return Step::NeedMore,
            Err(false) => return Step::NotMine,
        };
        match packet {
            Startup::Encryption => {
                self.stage = Stage::Startup;
                match self.encryption_answer.take() {
                    Some(b'S' | b'G') => self.finish(out),
                    Some(_) => {}
                    None => self.encryption_asked = true,
                }
            }
            Startup::Cancel => {
                self.session.cancelled(at.first_ns, at.last_ns, length as u64, out);
                self.finish(out);
            }
            Startup::Start(body) => {
                let (mut user, mut database) = (&b""[..], &b""[..]);
                for (name, value) in messages::parameters(body) {
                    match name {
                        b"user" => user = value,
                        b"database" => database = value,
                        _ => {}
                    }
                }
                self.session.identify(user, database);
                self.encryption_asked = false;
                self.stage = Stage::Messages;
                self.client.lost = false;
                self.server.lost = false;
                let request = self.new_request(Asked::Startup, (at.first_ns, at.last_ns), length as u64);
                self.session.ask(request, out);
            }
        }
        Step::Consumed(length)
    }

    fn new_request(&self, asked: Asked, (start_ns, call_ns): (u64, u64), bytes: u64) -> Request {
        Request { asked, start_ns, call_ns, bytes, statement: 0, portal: 0, text: None, flags: Flags::default() }
    }

    /// A message of the client; `body` is as much of it as is needed. `false`: it cannot be one.
    fn request(&mut self, kind: u8, total: u64, body: &[u8], seen_ns: (u64, u64), out: &mut dyn Sink) -> bool {
        let cut = (body.len() + HEADER) as u64 != total;
        let mut reader = Reader::new(body);
        let mut request = self.new_request(Asked::Sync, seen_ns, total);
        match kind {
            b'Q' => {
                request.asked = Asked::Query;
                request.text = Some(self.session.text(before_nul(body), cut, self.escapes));
            }
            b'P' => {
                let Some(name) = reader.text() else { return false };
                request.asked = Asked::Parse;
                request.statement = names::name(name);
                let cut = cut && !reader.rest().contains(&0);
                request.text = Some(self.session.text(up_to_nul(reader.rest()), cut, self.escapes));
            }
            b'B' => {
                let (Some(portal), Some(statement)) = (reader.text(), reader.text()) else { return false };
                request.asked = Asked::Bind;
                request.portal = names::name(portal);
                request.statement = names::name(statement);
                self.session.mention("statement", statement);
            }
            b'D' | b'C' => {
                let (Some(what), Some(name)) = (reader.u8(), reader.text()) else { return false };
                let (statement, portal) = match kind {
                    b'D' => (Asked::DescribeStatement, Asked::DescribePortal),
                    _ => (Asked::CloseStatement, Asked::ClosePortal),
                };
                match what {
                    b'S' => {
                        request.asked = statement;
                        request.statement = names::name(name);
                    }
                    b'P' => {
                        request.asked = portal;
                        request.portal = names::name(name);
                    }
                    _ => return false,
                }
            }
            b'E' => {
                let Some(portal) = reader.text() else { return false };
                request.asked = Asked::Execute;
                request.portal = names::name(portal);
                self.session.mention("portal", portal);
            }
            b'S' => {}
            b'F' => request.asked = Asked::Function,
            b'd' | b'c' | b'f' => {
                self.session.copy_data(total);
                return true;
            }
            // Flush asks for nothing; a password is none of our business; Terminate is followed by the close.
            _ => return true,
        }
        self.session.ask(request, out);
        true
    }

    fn responses(&mut self, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if self.stage == Stage::Startup
            && let [answer @ (b'S' | b'N' | b'G'), rest @ ..] = bytes
            && (self.encryption_asked || rest.is_empty())
        {
            if self.encryption_asked {
                self.encryption_asked = false;
                if *answer != b'N' {
                    self.finish(out);
                    return Step::Skip { head: bytes.len(), body: u64::MAX };
                }
            } else {
                self.encryption_answer = Some(*answer);
            }
            return Step::Consumed(1);
        }
        if self.server.lost && !self.find_message(bytes, at, out) {
            return Step::Consumed(bytes.len());
        }
        let mut position = 0;
        loop {
            let rest = bytes.get(position..).unwrap_or_default();
            let first_ns = if position == 0 { at.first_ns } else { at.last_ns };
            let (kind, total) = match messages::response_head(rest) {
                Head::Message { kind, total } => (kind, total),
                Head::Short if position > 0 => return Step::Consumed(position),
                Head::Short => {
                    self.server.under_way = None;
                    return Step::NeedMore;
                }
                Head::Bad => {
                    self.server.lost = true;
                    self.searching = false;
                    return if self.violation(out) { Step::NotMine } else { Step::Consumed(bytes.len()) };
                }
            };
            let whole = usize::try_from(total).unwrap_or(usize::MAX);
            if rest.len() < whole.min(messages::response_needs(kind)) {
                return if position > 0 { Step::Consumed(position) } else { self.server.wait(kind, total, rest) };
            }
            let body = rest.get(HEADER..whole.min(rest.len())).unwrap_or_default();
            self.response(kind, total, body, (first_ns, at.last_ns), Flags::default(), out);
            self.server.done();
            if self.stage == Stage::Over {
                return Step::Skip { head: bytes.len(), body: u64::MAX };
            }
            if whole > rest.len() {
                return Step::Skip { head: bytes.len(), body: total - rest.len() as u64 };
            }
            position += whole;
            if position >= bytes.len() {
                return Step::Consumed(position);
            }
        }
    }

    /// The server's framing is lost: whether the bytes begin with a message after all. Bytes that end an answer are told to the session.
    fn find_message(&mut self, bytes: &[u8], at: At, out: &mut dyn Sink) -> bool {
        if self.session.take_restarted() {
            self.searching = false;
            self.server.lost = !at.call_start;
            return at.call_start;
        }
        let Some(ready) = messages::ready_at_end(bytes) else {
            self.session.unread(bytes.len() as u64);
            return false;
        };
        if self.searching {
            match messages::completion_before(bytes, ready) {
                Some(begin) => {
                    self.session.unread(begin as u64);
                    let message = bytes.get(begin..ready).unwrap_or_default();
                    let (kind, body) = (message.first().copied().unwrap_or(0), message.get(HEADER..).unwrap_or_default());
                    self.response(kind, message.len() as u64, body, (at.last_ns, at.last_ns), Flags::default(), out);
                }
                None => self.session.unpair(out, Loss::ParseGap),
            }
        }
        self.searching = false;
        self.server.lost = false;
        self.response(b'Z', 6, bytes.get(ready + HEADER..).unwrap_or_default(), (at.last_ns, at.last_ns), Flags::default(), out);
        // All of these bytes are accounted for; the next ones begin with a message.
        false
    }

    fn response(&mut self, kind: u8, total: u64, body: &[u8], (first_ns, end_ns): (u64, u64), flags: Flags, out: &mut dyn Sink) {
        let mut reply = Reply { kind, first_ns, end_ns, bytes: total, tag: Tag::default(), error: ServerError::default(), flags };
        match kind {
            b'C' => {
                reply.tag = messages::tag(body);
                self.violations = 0;
            }
            b'E' => reply.error = messages::server_error(body),
            b'S' => {
                if let Some(value) = body.strip_prefix(b"standard_conforming_strings\0") {
                    self.escapes = value.starts_with(b"off");
                }
            }
            // Notifications are nobody's answer.
            b'A' => return,
            _ => {}
        }
        self.session.answer(&reply, out);
        if kind == b'W' {
            // Replication streams both ways until the connection closes.
            self.session.unpair_quietly();
            self.finish(out);
        }
    }

    /// Bytes are missing and the message under way covers them: it is understood from what was seen of it.
    fn bridge(&mut self, flow: Flow, lost: u64, at_ns: u64, out: &mut dyn Sink) -> bool {
        let lane = match flow {
            Flow::Request => &mut self.client,
            Flow::Response => &mut self.server,
        };
        let Some((kind, total)) = lane.under_way.take().filter(|(_, total)| !lane.lost && lost <= *total) else { return false };
        let partial = std::mem::take(&mut lane.partial);
        let body = partial.get(HEADER..).unwrap_or_default();
        let understood = match (flow, kind) {
            (Flow::Request, b'Q' | b'P') => self.request(kind, total, body, (at_ns, at_ns), out),
            (Flow::Request, _) => false,
            (Flow::Response, b'C' | b'E') => {
                self.response(kind, total, body, (at_ns, at_ns), Flags::TRUNCATED, out);
                true
            }
            (Flow::Response, _) => false,
        };
        if understood {
            match flow {
                Flow::Request => self.client.pass = total - lost,
                Flow::Response => self.server.pass = total - lost,
            }
        }
        understood
    }
}

/// A text up to its NUL, or all of it when that is missing.
fn before_nul(bytes: &[u8]) -> &[u8] {
    match bytes.split_last() {
        Some((0, text)) => text,
        _ => up_to_nul(bytes),
    }
}

/// The same of a text behind whose NUL there is more: types of parameters.
fn up_to_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

impl Parser for Postgresql {
    fn parse(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if self.stage == Stage::Over {
            return Step::Skip { head: bytes.len(), body: u64::MAX };
        }
        if !self.wished {
            self.wished = true;
            out.capture(Capture::Full);
        }
        let lane = match flow {
            Flow::Request => &mut self.client,
            Flow::Response => &mut self.server,
        };
        match std::mem::take(&mut lane.pass) {
            0 => {}
            body => return Step::Skip { head: 0, body },
        }
        match flow {
            Flow::Request => self.requests(bytes, at, out),
            Flow::Response => self.responses(bytes, at, out),
        }
    }

    fn skipped(&mut self, _flow: Flow, _at_ns: u64, _out: &mut dyn Sink) {}

    fn gap(&mut self, flow: Flow, lost: u64, at_ns: u64, out: &mut dyn Sink) {
        if self.stage == Stage::Over || self.bridge(flow, lost, at_ns, out) {
            return;
        }
        self.stage = Stage::Messages;
        match flow {
            Flow::Request => {
                self.client = Lane { lost: true, ..Lane::default() };
                self.session.gap_in_requests(lost, out);
            }
            Flow::Response => {
                let again = self.server.lost;
                self.server = Lane { lost: true, ..Lane::default() };
                self.session.take_restarted();
                if again && !self.searching && !self.session.paired() {
                    return;
                }
                self.searching = self.session.gap_in_responses(lost, out);
            }
        }
    }

    fn close(&mut self, at_ns: u64, out: &mut dyn Sink) {
        if self.stage != Stage::Over {
            self.session.close(at_ns, out);
        }
    }
}
