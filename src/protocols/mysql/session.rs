//! What was asked and what was answered, in the order in which both were sent: the pairing.
//!
//! Commands and results arrive here decoded. Knows nothing of framing.

use std::{collections::VecDeque, sync::Arc};

use super::{
    answer::{Answer, End},
    commands::{Command, LAST_PREPARED, Shape},
    packets::{MORE_RESULTS, NO_BACKSLASH_ESCAPES},
    record::{Connection, Finished, Identity, Outcome},
    statements::Statements,
};
use crate::{
    model::{Flags, Protocol},
    protocols::{Loss, Opening, Sink, sql::QueryText},
};

/// Open commands kept for a connection.
const PENDING_LIMIT: usize = 16_384;
/// Bytes of statement text kept for open commands.
const PENDING_TEXT_LIMIT: usize = 2 * 1024 * 1024;
/// Round trips that must go by as those of a client that waits, before an exchange of a connection joined late is told at once.
const CONFIRMATIONS: u8 = 8;
/// Results kept until they are confirmed.
const UNCONFIRMED_LIMIT: usize = 1024;

/// More missing bytes than any answer has: the position is wrong, and so would the answer's length be.
const LOST_MAX: u64 = 1 << 40;

const UNKNOWN_STATEMENT: &str = "<prepared statement, text unknown>";
const BEYOND_TEXT: &str = "<statement beyond the captured text>";

/// A command of which the answer is expected.
#[derive(Clone, Debug)]
pub struct Request {
    pub command: Command,
    pub start_ns: u64,
    /// When its last byte was seen: the same for all that came with one call.
    pub call_ns: u64,
    pub bytes: u64,
    /// Number of its last packet; the answer goes on from there.
    pub sequence: u8,
    pub statement: u32,
    pub text: Option<Arc<QueryText>>,
    /// Who the connection belongs to once the server agrees.
    pub identity: Option<Box<Identity>>,
    pub flags: Flags,
}

/// How far the answer to the oldest command has come.
#[derive(Clone, Debug, Default)]
struct Progress {
    first_ns: Option<u64>,
    last_ns: u64,
    bytes: u64,
    /// Rows of results that belong together.
    rows: Option<u64>,
    /// Statements that are done.
    index: usize,
    flags: Flags,
}

pub struct Session {
    pub connection: Connection,
    pub statements: Statements,
    /// What the oldest command was answered so far.
    pub answer: Answer,
    /// An EOF follows definitions, if that is known.
    pub eofs: Option<bool>,
    /// Commands and answers correspond; else both are passed over until they do again.
    paired: bool,
    /// The correspondence rests on the client's habit of waiting for its answer, not on having seen everything: so many round trips are
    /// still to confirm it.
    assumed: u8,
    /// The client was seen to send before it had its answer: after a loss nothing tells which answer is whose.
    ahead: bool,
    /// It looks so, but an answer may as well be missing: what the server sends next tells.
    suspected: bool,
    /// Answers to come, as far as is known, while unpaired.
    stale: u32,
    last_call_ns: u64,
    anew: bool,
    restarted: bool,
    pending: VecDeque<Request>,
    pending_text: usize,
    progress: Progress,
    /// Results that are told once the client's next command confirms them.
    unconfirmed: Vec<Finished>,
    /// Flags of the last of them once its EOF is seen.
    last_flags: Flags,
}

impl Session {
    pub fn new(opening: Opening) -> Self {
        Self {
            connection: Connection { adopted: opening.adopted, ..Connection::default() },
            statements: Statements::new(opening.shows(Protocol::Mysql)),
            answer: Answer::default(),
            eofs: None,
            paired: !opening.adopted,
            assumed: 0,
            ahead: false,
            suspected: false,
            stale: 0,
            last_call_ns: u64::MAX,
            anew: false,
            restarted: false,
            pending: VecDeque::new(),
            pending_text: 0,
            progress: Progress::default(),
            unconfirmed: Vec::new(),
            last_flags: Flags::default(),
        }
    }

    /// Correspondence is certain: an answer without a command is one that was reported before it.
    pub fn certain(&self) -> bool {
        self.paired && self.assumed == 0
    }

    /// The correspondence began anew with the last command.
    pub fn take_anew(&mut self) -> bool {
        std::mem::take(&mut self.anew)
    }

    /// As [`Session::take_anew`]; and the server's next call begins with a packet.
    pub fn take_restarted(&mut self) -> bool {
        std::mem::take(&mut self.restarted)
    }

    /// What the oldest command's answer looks like, and after which number it begins.
    pub fn front(&self) -> Option<(Shape, u8)> {
        self.pending.front().map(|request| (request.command.shape(), request.sequence))
    }

    /// A command of the client.
    pub fn ask(&mut self, mut request: Request, out: &mut dyn Sink) {
        match request.command {
            Command::LongData => return self.statements.add_long_data(request.statement, request.bytes),
            Command::Close => return self.statements.remove(request.statement),
            Command::Quit => return,
            _ => {}
        }
        let same_call = std::mem::replace(&mut self.last_call_ns, request.call_ns) == request.call_ns;
        if !self.paired {
            if self.ahead || self.suspected || self.stale > 0 || same_call {
                self.stale = self.stale.saturating_add(1);
                out.lost(Loss::ParseGap);
                return self.statements.recycle(request.text);
            }
            self.restart();
        } else if self.pending.is_empty() {
            self.confirm(out);
        } else if !same_call && !self.executes_the_last(&request) {
            if self.torn() {
                // A client that waits goes on: that answer is over, and its end was missed.
                self.tell(out);
                self.finish_torn(out);
                self.restart();
            } else if self.assumed > 0 {
                self.unpair(Loss::ParseGap, out);
                self.stale = 2;
                out.lost(Loss::ParseGap);
                return self.statements.recycle(request.text);
            } else {
                self.suspected = !self.ahead;
            }
        }
        match request.command {
            Command::Execute | Command::Bulk | Command::Fetch | Command::ResetStatement if request.statement != LAST_PREPARED => {
                request.text = self.statements.get(request.statement);
                if request.command != Command::Fetch {
                    request.bytes += self.statements.take_long_data(request.statement);
                }
            }
            _ => {}
        }
        self.pending_text += request.text.as_ref().map_or(0, |text| text.size());
        if self.pending.is_empty() {
            self.answer = Answer::begin(self.eofs);
        }
        self.pending.push_back(request);
        if self.pending.len() > PENDING_LIMIT || self.pending_text > PENDING_TEXT_LIMIT {
            self.unpair(Loss::PendingFull, out);
        }
    }

    /// A statement is prepared and executed before its number is known: one round trip.
    fn executes_the_last(&self, request: &Request) -> bool {
        let prepares = self.pending.back().is_some_and(|last| last.command == Command::Prepare);
        prepares && matches!(request.command, Command::Execute | Command::Bulk) && request.statement == LAST_PREPARED
    }

    /// More bytes of the newest command; `sequence` is the number of the packet with them.
    pub fn more(&mut self, bytes: u64, sequence: u8) {
        if let Some(last) = self.pending.back_mut() {
            last.bytes += bytes;
            last.sequence = sequence;
        }
    }

    /// Bytes of a file or of a proof that the client adds to the oldest command.
    pub fn add(&mut self, bytes: u64) {
        if let Some(first) = self.pending.front_mut() {
            first.bytes += bytes;
        }
    }

    fn restart(&mut self) {
        self.clear();
        self.paired = true;
        self.assumed = CONFIRMATIONS;
        self.restarted = true;
        self.anew = true;
    }

    fn clear(&mut self) {
        self.pending.clear();
        self.pending_text = 0;
        self.progress = Progress::default();
        self.stale = 0;
        self.suspected = false;
    }

    /// The client goes on after its answer, as one does that waits.
    fn confirm(&mut self, out: &mut dyn Sink) {
        if self.assumed > 0 && !self.unconfirmed.is_empty() {
            self.assumed -= 1;
            self.tell(out);
        }
    }

    fn tell(&mut self, out: &mut dyn Sink) {
        for finished in self.unconfirmed.drain(..) {
            finished.write(&self.connection, out);
        }
    }

    /// What is open or unconfirmed is counted as lost.
    fn give_up(&mut self, loss: Loss, out: &mut dyn Sink) {
        let lost = self.pending.len() + self.unconfirmed.len();
        (0..lost.max(1)).for_each(|_| out.lost(loss));
        self.unconfirmed.clear();
        self.clear();
    }

    /// Commands and answers no longer correspond.
    pub fn unpair(&mut self, loss: Loss, out: &mut dyn Sink) {
        if self.paired {
            self.give_up(loss, out);
            self.paired = false;
            self.restarted = false;
        }
    }

    /// Bytes of the client were missed. Returns whether what is asked stays known.
    pub fn gap_in_requests(&mut self, lost: u64, at_ns: u64, file: bool, out: &mut dyn Sink) -> bool {
        if self.paired && file && self.pending.len() == 1 && lost < LOST_MAX {
            self.add(lost);
            self.progress.flags.insert(Flags::GAP);
            return true;
        }
        if self.paired {
            // A client that waits sends nothing while an answer is open, unless that answer is missing, too. More of the same call is no sign.
            let open = !self.pending.is_empty();
            if !open {
                self.tell(out);
            }
            self.unpair(Loss::ParseGap, out);
            self.suspected = open && at_ns != self.last_call_ns;
        }
        false
    }

    /// Bytes of the server were missed. Returns whether they belong to the only answer that can be under way.
    pub fn gap_in_responses(&mut self, lost: u64, at_ns: u64, out: &mut dyn Sink) -> bool {
        // A missing answer explains why the client went on.
        self.suspected = false;
        self.stale = 0;
        if !self.paired {
            return false;
        }
        let statements = match self.pending.front() {
            Some(Request { command: Command::Query, text: Some(text), .. }) => text.count().saturating_sub(self.progress.index),
            _ => 1,
        };
        if self.pending.len() == 1 && !self.ahead && statements == 1 && lost < LOST_MAX {
            self.progress.flags.insert(Flags::GAP);
            self.count((at_ns, at_ns), lost);
            return true;
        }
        self.unpair(Loss::ParseGap, out);
        false
    }

    /// Bytes of the only answer under way were missed, its end perhaps with them.
    fn torn(&self) -> bool {
        self.progress.flags.contains(Flags::GAP) && !self.ahead && self.pending.len() == 1
    }

    /// Tells the command whose answer's end was missed: it was answered, nobody knows how.
    fn finish_torn(&mut self, out: &mut dyn Sink) {
        if let Some(request) = self.pending.pop_front() {
            let progress = std::mem::take(&mut self.progress);
            let mut finished = self.finished(&request, progress.index, &progress, Outcome::Unanswered, progress.last_ns);
            finished.flags.insert(Flags::TRUNCATED);
            finished.write(&self.connection, out);
        }
    }

    /// The server began an answer while unpaired.
    pub fn stale_answer(&mut self) {
        if !self.paired {
            self.ahead |= std::mem::take(&mut self.suspected);
            self.stale = self.stale.saturating_sub(1);
        }
    }

    /// The server began to answer the oldest command.
    pub fn answer_begins(&mut self) {
        if self.pending.len() > 1 {
            self.ahead |= std::mem::take(&mut self.suspected);
        }
    }

    /// The client was let in: nothing was asked before, whenever it was joined.
    pub fn welcome(&mut self) {
        self.clear();
        self.unconfirmed.clear();
        self.paired = true;
        self.assumed = 0;
    }

    /// A packet of the answer to the oldest command.
    pub fn count(&mut self, (first_ns, last_ns): (u64, u64), bytes: u64) {
        self.progress.first_ns.get_or_insert(first_ns);
        self.progress.last_ns = last_ns;
        self.progress.bytes = self.progress.bytes.saturating_add(bytes);
    }

    /// An EOF behind definitions of which it was not known that it would come.
    pub fn late_eof(&mut self, bytes: u64, end_ns: u64) {
        self.eofs = Some(true);
        if let Some(last) = self.unconfirmed.last_mut() {
            last.response_bytes += bytes;
            last.end_ns = end_ns;
            last.flags = self.last_flags;
        }
    }

    /// A result of the oldest command is over. Returns whether it was the last one.
    pub fn result(&mut self, end: End, end_ns: u64, out: &mut dyn Sink) -> bool {
        let rows = self.answer.rows;
        self.eofs = self.answer.eofs().or(self.eofs);
        let status = match end {
            End::Done(success) | End::Rows(success) => Some(success.status),
            End::Error(_) | End::Prepared => None,
        };
        let more = status.is_some_and(|status| status & MORE_RESULTS != 0);
        if let Some(status) = status.filter(|status| *status != 0) {
            self.statements.escapes = Some(status & NO_BACKSLASH_ESCAPES == 0);
        }
        if let End::Rows(_) = end {
            self.progress.rows = Some(self.progress.rows.unwrap_or_default() + rows);
        }
        self.answer.next();
        if more && self.goes_on(end) {
            return false;
        }
        let Some(mut request) = self.pending.pop_front() else { return true };
        self.finish(&request, end, end_ns, out);
        if more {
            // The bytes of the command are counted once, with its first statement.
            request.bytes = 0;
            self.pending.push_front(request);
            return false;
        }
        self.pending_text = self.pending_text.saturating_sub(request.text.as_ref().map_or(0, |text| text.size()));
        self.effect(&request, end);
        self.statements.recycle(request.text);
        self.progress = Progress::default();
        self.answer = Answer::begin(self.eofs);
        true
    }

    /// A result with others behind it is not the end of its statement: CALL ends with OK, behind the results of its procedure.
    fn goes_on(&self, end: End) -> bool {
        let Some(request) = self.pending.front() else { return false };
        if request.command != Command::Query {
            return true;
        }
        let Some(statement) = &request.text else { return true };
        let last = self.progress.index + 1 == statement.count();
        match statement.get(self.progress.index) {
            Some(one) if one.operation == "CALL" => !matches!(end, End::Done(_)),
            // Whatever is executed may be a CALL or a block of statements.
            Some(one) => {
                let compound =
                    matches!(one.operation, "EXECUTE" | "BEGIN" | "IF" | "CASE" | "LOOP" | "WHILE" | "REPEAT" | "FOR" | "DECLARE");
                last && compound && !one.truncated
            }
            None => false,
        }
    }

    fn finish(&mut self, request: &Request, end: End, end_ns: u64, out: &mut dyn Sink) {
        let index = self.progress.index;
        let next = Progress { index: index + 1, flags: self.progress.flags, ..Progress::default() };
        let progress = std::mem::replace(&mut self.progress, next);
        let outcome = match end {
            End::Error(error) => Outcome::Failure(error),
            _ => Outcome::Success,
        };
        let mut finished = self.finished(request, index, &progress, outcome, end_ns);
        match end {
            End::Rows(_) if !progress.flags.contains(Flags::GAP) => finished.returned = progress.rows,
            // Perhaps an EOF follows, and perhaps it is missed.
            End::Prepared if self.eofs.is_none() && self.answer.prepared.is_some_and(|one| one.parameters.max(one.columns) > 0) => {
                self.last_flags = finished.flags;
                finished.flags.insert(Flags::TRUNCATED);
            }
            End::Done(success) => {
                finished.returned = progress.rows.filter(|_| !progress.flags.contains(Flags::GAP));
                let changes = matches!(finished.operation, "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD");
                finished.affected = (changes || success.affected > 0).then_some(success.affected);
            }
            _ => {}
        }
        if self.assumed == 0 {
            finished.write(&self.connection, out);
            return self.statements.recycle(finished.statement);
        }
        if self.unconfirmed.len() >= UNCONFIRMED_LIMIT {
            self.tell(out);
        }
        self.unconfirmed.push(finished);
    }

    fn finished(&self, request: &Request, index: usize, progress: &Progress, outcome: Outcome, end_ns: u64) -> Finished {
        let command = request.command;
        let (statement, index) = match command {
            Command::Query => (request.text.clone(), index),
            _ if command.names_statement() && request.statement == LAST_PREPARED => (self.statements.last(), 0),
            _ => (request.text.clone(), 0),
        };
        let verb = statement.as_ref().and_then(|statement| statement.get(index)).map_or("", |one| one.operation);
        let empty = statement.as_ref().is_some_and(|statement| statement.count() == 0);
        let (operation, unknown) = match command {
            Command::Query if empty => ("EMPTY", ""),
            Command::Query => (verb, BEYOND_TEXT),
            Command::Execute | Command::Bulk => (verb, UNKNOWN_STATEMENT),
            Command::Prepare | Command::Fetch | Command::ResetStatement => ("", UNKNOWN_STATEMENT),
            _ => ("", ""),
        };
        Finished {
            start_ns: request.start_ns,
            first_ns: progress.first_ns,
            end_ns,
            operation: if operation.is_empty() { command.operation() } else { operation },
            statement,
            index,
            unknown,
            outcome,
            request_bytes: request.bytes,
            response_bytes: progress.bytes,
            returned: None,
            affected: None,
            flags: request.flags | progress.flags,
        }
    }

    /// What a command that was answered changes.
    fn effect(&mut self, request: &Request, end: End) {
        let failed = matches!(end, End::Error(_));
        match request.command {
            Command::Prepare => {
                let id = self.answer.prepared.filter(|_| !failed).map(|prepared| prepared.statement);
                self.statements.add(id, request.text.clone());
            }
            _ if failed => {}
            Command::ChangeUser => {
                if let Some(identity) = &request.identity {
                    self.connection.identity = Identity::clone(identity);
                }
                self.statements.clear();
            }
            Command::ResetConnection => self.statements.clear(),
            Command::InitDb => self.use_database(request.text.as_deref().and_then(|name| name.get(0)).map(|name| name.text)),
            Command::Query => {
                let count = request.text.as_ref().map_or(0, |text| text.count());
                let one = |index| request.text.as_ref().and_then(|text| text.get(index));
                let used = (0..count).filter_map(one).rfind(|one| one.operation == "USE");
                if let Some(used) = used {
                    self.use_database(used.text.get(4..).map(|name| name.trim_matches('`')));
                }
            }
            _ => {}
        }
    }

    fn use_database(&mut self, name: Option<&str>) {
        if let Some(name) = name {
            name.clone_into(&mut self.connection.identity.database);
        }
    }

    /// The oldest command's answer is a stream that is not followed: told as it begins.
    pub fn stream_begins(&mut self, end_ns: u64, out: &mut dyn Sink) {
        if let Some(request) = self.pending.pop_front() {
            self.finish(&request, End::Prepared, end_ns, out);
        }
        self.tell(out);
        self.clear();
        self.paired = false;
    }

    /// The connection is over: commands without an answer are told.
    pub fn close(&mut self, at_ns: u64, out: &mut dyn Sink) {
        self.tell(out);
        if !self.paired {
            return;
        }
        if self.torn() && self.progress.bytes > 0 {
            self.finish_torn(out);
        }
        while let Some(request) = self.pending.pop_front() {
            let progress = std::mem::take(&mut self.progress);
            let mut finished = self.finished(&request, progress.index, &progress, Outcome::Unanswered, at_ns);
            finished.flags.insert(Flags::UNANSWERED);
            finished.write(&self.connection, out);
        }
    }
}
