//! The client/server protocol of MySQL and MariaDB (MySQL source documentation, "Client/Server Protocol"; MariaDB knowledge base, "Client/Server
//! Protocol"): finds packets in both flows and hands them to the session, which pairs them. `docs/protocols/mysql.md` says what comes out.
#![deny(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used)]

mod answer;
mod commands;
mod handshake;
mod lane;
mod likeness;
mod login;
mod packets;
mod record;
mod session;
mod statements;
#[cfg(test)]
mod tests;

use answer::{End, Part, Place};
use commands::{Command, LAST_PREPARED, Shape, query_text};
use lane::{Early, Lane};
use login::{Login, Stage};
use packets::{HEADER, Head, LARGEST, LittleEndian};
use record::Identity;
use session::{Request, Session};

use super::{At, Capture, Definition, Likeness, Loss, Opening, Parser, Sink, Step, reader::Reader};
use crate::model::{Flags, Flow, Protocol};

pub const DEFINITION: Definition = Definition::stream(Protocol::Mysql, likeness, |opening| Box::new(Mysql::new(opening)));

fn likeness(flow: Flow, bytes: &[u8]) -> Likeness {
    match flow {
        Flow::Request => likeness::request(bytes),
        Flow::Response => likeness::response(bytes),
    }
}

/// Refused packets in a row without an answer between after which a connection is not taken for MySQL any more.
const VIOLATIONS_LIMIT: u32 = 8;

/// What became of a packet.
enum Taken {
    /// It is done with, what was not captured of it included.
    Done,
    NeedMore,
    /// It cannot be one.
    Refused,
    /// Nothing that follows in either flow is of interest.
    Over,
}

struct Mysql {
    stage: Stage,
    login: Login,
    client: Lane,
    server: Lane,
    /// Number that the server's next packet has, while an answer is under way.
    next_sequence: Option<u8>,
    /// The server wants a file, and the client has not sent all of it.
    file: bool,
    /// Bytes of that file were missed: its end was perhaps not seen.
    file_torn: bool,
    /// The last thing that was answered may be followed by an EOF: its number.
    late_eof: Option<u8>,
    /// Bytes of the answer under way were missed: its end is searched for where it has one that can be told.
    torn: bool,
    early: Early,
    /// The client's texts have attributes before them, if that is known.
    attributes: Option<bool>,
    wished: bool,
    violations: u32,
    session: Session,
}

impl Mysql {
    fn new(opening: Opening) -> Self {
        let lane = || Lane::new(opening.adopted);
        Self {
            stage: if opening.adopted { Stage::Commands } else { Stage::Greeting },
            login: Login::default(),
            client: lane(),
            server: lane(),
            next_sequence: None,
            file: false,
            file_torn: false,
            late_eof: None,
            torn: false,
            early: Early::default(),
            attributes: None,
            wished: false,
            violations: 0,
            session: Session::new(opening),
        }
    }

    /// The rest of both flows is of no interest.
    fn finish(&mut self, out: &mut dyn Sink) {
        self.stage = Stage::Over;
        out.capture(Capture::Lengths);
    }

    fn violation(&mut self, length: usize, out: &mut dyn Sink) -> Step {
        self.violations += 1;
        self.session.unpair(Loss::ParseGap, out);
        self.forget_answer();
        if self.violations > VIOLATIONS_LIMIT { Step::NotMine } else { Step::Consumed(length) }
    }

    fn forget_answer(&mut self) {
        self.next_sequence = None;
        (self.file, self.file_torn) = (false, false);
        self.late_eof = None;
        self.torn = false;
        self.early.clear();
    }

    fn requests(&mut self, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if self.client.lost {
            let begins = match packets::head(bytes) {
                None if at.call_start => return Step::NeedMore,
                Some(_) if self.file_torn => Likeness::No,
                Some(head) if at.call_start && head.sequence == 0 => likeness::command(head, bytes),
                Some(head) if at.call_start && head.sequence == 1 && self.login.greeted() => likeness::request(bytes),
                _ => Likeness::No,
            };
            match begins {
                Likeness::No => {
                    if self.file_torn {
                        self.session.add(bytes.len() as u64);
                    } else {
                        // Whatever it asks, its answer is not that of a later command.
                        self.session.unpair(Loss::ParseGap, out);
                    }
                    return Step::Consumed(bytes.len());
                }
                Likeness::Undecided => return Step::NeedMore,
                Likeness::Likely | Likeness::Certain => self.client.lost = false,
            }
        }
        let mut position = 0;
        loop {
            let rest = bytes.get(position..).unwrap_or_default();
            let Some(head) = packets::head(rest) else {
                if position > 0 {
                    return Step::Consumed(position);
                }
                self.client.under_way = None;
                return Step::NeedMore;
            };
            let start_ns = if position == 0 { at.first_ns } else { at.last_ns };
            match self.request_packet(head, rest, (start_ns, at.last_ns), out) {
                Taken::Done => {}
                Taken::NeedMore if position > 0 => return Step::Consumed(position),
                Taken::NeedMore => return self.client.wait(head, rest),
                Taken::Refused => {
                    self.client.lose();
                    return self.violation(bytes.len(), out);
                }
                Taken::Over => return Step::Skip { head: bytes.len(), body: u64::MAX },
            }
            self.client.done(head);
            let total = HEADER + head.length;
            if total > rest.len() {
                return Step::Skip { head: bytes.len(), body: (total - rest.len()) as u64 };
            }
            position += total;
            if position >= bytes.len() {
                return Step::Consumed(position);
            }
        }
    }

    fn request_packet(&mut self, head: Head, rest: &[u8], seen_ns: (u64, u64), out: &mut dyn Sink) -> Taken {
        let total = (HEADER + head.length) as u64;
        let body = rest.get(HEADER..rest.len().min(HEADER + head.length)).unwrap_or_default();
        if self.stage != Stage::Commands && (head.sequence > 0 || self.stage == Stage::Greeting) {
            return self.login_packet(head, body, seen_ns.0, out);
        }
        if self.client.continues {
            self.session.more(total, head.sequence);
            return Taken::Done;
        }
        if self.file {
            self.session.add(total);
            self.next_sequence = Some(head.sequence.wrapping_add(1));
            self.file = head.length > 0;
            return Taken::Done;
        }
        if head.sequence > 0 {
            // Proofs of who the client is, asked for in answer to COM_CHANGE_USER.
            return match self.session.front() {
                Some((Shape::Login, _)) => {
                    self.session.add(total);
                    self.next_sequence = Some(head.sequence.wrapping_add(1));
                    Taken::Done
                }
                _ => Taken::Refused,
            };
        }
        let Some(&byte) = body.first() else { return if head.length == 0 { Taken::Refused } else { Taken::NeedMore } };
        let Some(command) = Command::of(byte).filter(|command| command.fits(head.length)) else { return Taken::Refused };
        // No more than that, so that calls may be cut anywhere without a difference.
        let Some(body) = body.get(..command.needs(head.length)) else { return Taken::NeedMore };
        // A client that sends commands was let in.
        self.stage = Stage::Commands;
        self.command(command, head, body, seen_ns, Flags::default(), out);
        Taken::Done
    }

    /// A command; `body` is as much of its payload as is needed or was captured.
    fn command(&mut self, command: Command, head: Head, body: &[u8], (start_ns, call_ns): (u64, u64), flags: Flags, out: &mut dyn Sink) {
        let cut = body.len() < head.length;
        let body = body.get(1..).unwrap_or_default();
        let mut request = Request {
            command,
            start_ns,
            call_ns,
            bytes: (HEADER + head.length) as u64,
            sequence: head.sequence,
            statement: LAST_PREPARED,
            text: None,
            identity: None,
            flags,
        };
        match command {
            Command::Query => request.text = query_text(body, self.attributes).map(|text| self.session.statements.text(text, cut)),
            Command::Prepare => request.text = Some(self.session.statements.text(body, cut)),
            Command::InitDb | Command::CreateDb | Command::DropDb => request.text = Some(statements::named(body).into()),
            Command::FieldList => {
                let table = body.split(|&byte| byte == 0).next().unwrap_or_default();
                request.text = Some(statements::named(table).into());
            }
            Command::ChangeUser => {
                let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
                request.identity = handshake::change_user(body)
                    .map(|(user, database)| Identity { user: text(user), database: text(database) })
                    .map(Box::new);
            }
            _ if command.names_statement() => request.statement = Reader::new(body).le32().unwrap_or(LAST_PREPARED),
            _ => {}
        }
        let certain = self.session.certain();
        self.session.ask(request, out);
        self.late_eof = None;
        if self.session.take_anew() {
            self.forget_answer();
        }
        if certain && !self.early.is_empty() {
            self.replay(out);
        }
    }

    /// The answer was reported before its command.
    fn replay(&mut self, out: &mut dyn Sink) {
        let (bytes, at) = self.early.take();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match self.responses(rest, at, out) {
                Step::Consumed(count) => rest = rest.get(count.max(1)..).unwrap_or_default(),
                _ => {
                    self.session.unpair(Loss::ParseGap, out);
                    self.server.lose();
                    return;
                }
            }
        }
    }

    fn responses(&mut self, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if self.server.lost && !self.find_answer(bytes, at, out) {
            // The header of a greeting can come alone.
            let greets = at.call_start && bytes.len() <= HEADER && bytes.get(3).is_none_or(|&sequence| sequence == 0);
            return if greets && !self.torn { Step::NeedMore } else { Step::Consumed(bytes.len()) };
        }
        let mut position = 0;
        loop {
            let rest = bytes.get(position..).unwrap_or_default();
            let short = if position > 0 { Step::Consumed(position) } else { Step::NeedMore };
            let Some(head) = packets::head(rest) else { return short };
            let first_ns = if position == 0 { at.first_ns } else { at.last_ns };
            let taken = match self.stage {
                Stage::Greeting | Stage::Answer | Stage::Proof => self.greeting_packet(head, rest, (first_ns, at.last_ns), out),
                _ => match self.session.front() {
                    None if self.unasked(head, rest, at.last_ns) => Taken::Done,
                    None => return self.unpaired_answer(rest, position, At { first_ns, ..at }, out),
                    Some((shape, asked)) => self.answer_packet((shape, asked), head, rest, (first_ns, at.last_ns), out),
                },
            };
            match taken {
                Taken::Done => {}
                Taken::NeedMore => return short,
                Taken::Refused if matches!(self.stage, Stage::Greeting) => return Step::NotMine,
                Taken::Refused => {
                    self.server.lose();
                    return self.violation(bytes.len(), out);
                }
                Taken::Over => return Step::Skip { head: bytes.len(), body: u64::MAX },
            }
            self.server.continues = head.length == LARGEST;
            let total = HEADER + head.length;
            if total > rest.len() {
                return Step::Skip { head: bytes.len(), body: (total - rest.len()) as u64 };
            }
            position += total;
            if position >= bytes.len() {
                return Step::Consumed(position);
            }
        }
    }

    /// The server's framing is lost: whether the bytes begin with a packet after all.
    fn find_answer(&mut self, bytes: &[u8], at: At, out: &mut dyn Sink) -> bool {
        if self.session.take_restarted() && at.call_start {
            self.server.lost = false;
            return true;
        }
        if self.torn {
            self.session.count((at.first_ns, at.last_ns), bytes.len() as u64);
            if let Some(success) = lane::rows_end(bytes).filter(|_| self.session.answer.place == Place::Rows) {
                self.torn = false;
                self.server.lost = false;
                self.next_sequence = None;
                // All of these bytes are accounted for; the next ones begin with a packet.
                self.session.result(End::Rows(success), at.last_ns, out);
            }
            return false;
        }
        if self.login.begins(bytes, at) {
            self.stage = Stage::Greeting;
            self.server.lost = false;
            return true;
        }
        if at.call_start && packets::head(bytes).is_some_and(|head| head.sequence == 1) {
            self.session.stale_answer();
        }
        false
    }

    /// A packet that answers nothing: an EOF behind definitions, or the server's farewell.
    fn unasked(&mut self, head: Head, rest: &[u8], now_ns: u64) -> bool {
        let first = rest.get(HEADER).copied();
        if self.late_eof == Some(head.sequence) && head.length == 5 && first == Some(0xfe) {
            self.late_eof = None;
            self.session.late_eof((HEADER + head.length) as u64, now_ns);
            return true;
        }
        // Shutting down or tired of waiting, the server says so unasked.
        head.sequence == 0 && head.length < 1024 && first == Some(0xff)
    }

    /// Bytes of an answer whose command is not known.
    fn unpaired_answer(&mut self, rest: &[u8], position: usize, at: At, out: &mut dyn Sink) -> Step {
        let head = packets::head(rest).unwrap_or(Head { length: 0, sequence: 0 });
        if rest.len() == HEADER && (self.late_eof == Some(head.sequence) || head.sequence == 0) {
            return if position > 0 { Step::Consumed(position) } else { Step::NeedMore };
        }
        let begins = !self.early.is_empty() || head.sequence > 0;
        if self.session.certain() && begins && self.early.hold(rest, at) {
            return Step::Consumed(position + rest.len());
        }
        self.early.clear();
        self.session.unpair(Loss::ParseGap, out);
        self.server.lose();
        if head.sequence == 1 {
            self.session.stale_answer();
        }
        Step::Consumed(position + rest.len())
    }

    fn answer_packet(&mut self, asked: (Shape, u8), head: Head, rest: &[u8], seen_ns: (u64, u64), out: &mut dyn Sink) -> Taken {
        let (shape, asked) = asked;
        let total = (HEADER + head.length) as u64;
        let expected = self.next_sequence.unwrap_or(asked.wrapping_add(1));
        if head.sequence != expected && !self.file_torn {
            return Taken::Refused;
        }
        if self.server.continues {
            self.session.count(seen_ns, total);
            self.next_sequence = Some(expected.wrapping_add(1));
            return Taken::Done;
        }
        let Some(&first) = rest.get(HEADER) else {
            if head.length == 0 {
                return Taken::Refused;
            }
            return Taken::NeedMore;
        };
        let needs = self.session.answer.needs(head.length, first);
        let Some(body) = rest.get(HEADER..HEADER + needs) else { return Taken::NeedMore };
        if self.session.answer.place == Place::First && self.next_sequence.is_none() {
            self.session.answer_begins();
        }
        if self.file && first != 0xff {
            // An answer before the end of the file was seen.
            return Taken::Refused;
        }
        self.next_sequence = Some(head.sequence.wrapping_add(1));
        match self.session.answer.take(shape, head.length, body) {
            Part::Inside => self.session.count(seen_ns, total),
            Part::End(end) => {
                self.session.count(seen_ns, total);
                self.ended(end, head, seen_ns.1, out);
            }
            Part::File => {
                self.session.count(seen_ns, total);
                self.file = true;
            }
            Part::Stream => {
                self.session.count(seen_ns, total);
                self.session.stream_begins(seen_ns.1, out);
                self.finish(out);
                return Taken::Over;
            }
            Part::Wrong => return Taken::Refused,
        }
        Taken::Done
    }

    fn ended(&mut self, end: End, head: Head, end_ns: u64, out: &mut dyn Sink) {
        self.violations = 0;
        (self.file, self.file_torn) = (false, false);
        if self.session.result(end, end_ns, out) {
            self.next_sequence = None;
            self.late_eof = (end == End::Prepared).then_some(head.sequence.wrapping_add(1));
        }
    }

    /// Bytes are missing and the command under way covers them: it is understood from what was seen of it.
    fn bridge(&mut self, lost: u64, at_ns: u64, out: &mut dyn Sink) -> bool {
        let Some((head, partial)) = self.client.take_partial() else { return false };
        let total = (HEADER + head.length) as u64;
        let body = partial.get(HEADER..).unwrap_or_default();
        let command = body.first().copied().and_then(Command::of);
        let Some(command) = command.filter(|_| lost <= total && self.stage == Stage::Commands && !self.client.lost) else { return false };
        if !matches!(command, Command::Query | Command::Prepare) {
            return false;
        }
        self.command(command, head, body, (at_ns, at_ns), Flags::TRUNCATED, out);
        self.client.done(head);
        self.client.pass = total - lost;
        true
    }
}

impl Parser for Mysql {
    fn parse(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if self.stage == Stage::Over {
            return Step::Skip { head: bytes.len(), body: u64::MAX };
        }
        if !self.wished {
            self.wished = true;
            out.capture(Capture::Full);
        }
        match flow {
            Flow::Request => match std::mem::take(&mut self.client.pass) {
                0 => self.requests(bytes, at, out),
                body => Step::Skip { head: 0, body },
            },
            Flow::Response => self.responses(bytes, at, out),
        }
    }

    fn skipped(&mut self, _flow: Flow, _at_ns: u64, _out: &mut dyn Sink) {}

    fn gap(&mut self, flow: Flow, lost: u64, at_ns: u64, out: &mut dyn Sink) {
        if self.stage == Stage::Over || (flow == Flow::Request && self.bridge(lost, at_ns, out)) {
            return;
        }
        self.early.clear();
        self.stage = Stage::Commands;
        match flow {
            Flow::Request => {
                self.client.lose();
                self.file_torn = self.session.gap_in_requests(lost, at_ns, self.file, out);
                self.file = false;
                if !self.file_torn {
                    self.forget_answer();
                }
            }
            Flow::Response => {
                self.server.lose();
                self.late_eof = None;
                self.torn = self.session.gap_in_responses(lost, at_ns, out);
                if !self.torn {
                    self.forget_answer();
                }
                self.session.take_restarted();
            }
        }
    }

    fn close(&mut self, at_ns: u64, out: &mut dyn Sink) {
        if self.stage != Stage::Over {
            self.session.close(at_ns, out);
        }
    }
}
