//! What was asked and what was answered, in the server's order: the pairing.
//!
//! Both flows arrive here as decoded messages. Knows nothing of framing.

use std::{collections::VecDeque, sync::Arc};

use super::{
    messages::{ServerError, Tag},
    names::{Name, Names},
    record::{Identity, Record, truncation},
};
use crate::{
    model::Flags,
    protocols::{Loss, Sink, sql::QueryText},
};

/// Open requests kept for a connection; a pipeline of that many messages is beyond what drivers send.
const PENDING_LIMIT: usize = 65_536;
/// Bytes of statement text kept for open requests.
const PENDING_TEXT_LIMIT: usize = 4 * 1024 * 1024;
/// Answers kept whose requests are not known yet.
const HELD_LIMIT: usize = 4096;
/// The class "successful completion" of the manual's appendix A.
const SUCCESS: &str = "00000";

/// What the client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Startup,
    Query,
    Parse,
    Bind,
    DescribeStatement,
    DescribePortal,
    CloseStatement,
    ClosePortal,
    Execute,
    Sync,
    Function,
}

/// A request of which the answer is expected.
#[derive(Clone, Debug)]
pub struct Request {
    pub asked: Asked,
    pub start_ns: u64,
    /// When its last byte was seen: the same for all that came with one call.
    pub call_ns: u64,
    pub bytes: u64,
    pub statement: Name,
    pub portal: Name,
    pub text: Option<Arc<QueryText>>,
    pub flags: Flags,
}

/// A message of the server that answers.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// Type byte on the wire.
    pub kind: u8,
    pub first_ns: u64,
    pub end_ns: u64,
    pub bytes: u64,
    pub tag: Tag,
    pub error: ServerError,
    pub flags: Flags,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Copying {
    #[default]
    No,
    In,
    Out,
}

/// How far the answer to the oldest request has come.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    first_ns: Option<u64>,
    bytes: u64,
    rows: u64,
    copying: Copying,
    /// Statements of a Query that are done.
    statements: usize,
    flags: Flags,
}

/// Messages of a round trip that were answered and wait for the Execute which they prepare.
#[derive(Clone, Debug, Default)]
struct Prepared {
    start_ns: Option<u64>,
    first_ns: Option<u64>,
    end_ns: u64,
    request_bytes: u64,
    response_bytes: u64,
    text: Option<Arc<QueryText>>,
    statement: Name,
    flags: Flags,
}

#[derive(Default)]
pub struct Session {
    identity: Identity,
    /// A connection whose beginning was not seen.
    adopted: bool,
    names: Names,
    /// Requests and answers correspond; else both are passed over until they do again.
    paired: bool,
    /// `paired` rests on the client's habit of waiting for its answer, not on having seen everything.
    assumed: bool,
    /// The next round trip of a client that waits can be the beginning.
    may_start: bool,
    /// A ReadyForQuery was the last that was heard: whatever the client sends begins a round trip.
    ready: bool,
    /// The client was seen to send before it had its answer.
    pipelined: bool,
    /// The call with the last request.
    last_call_ns: u64,
    /// It looks so, but an answer may as well be missing.
    suspected: bool,
    /// Round trips without their ReadyForQuery: exact while paired, else at most so many, and only if `counted`.
    outstanding: u32,
    counted: bool,
    /// Inside a round trip of the extended protocol.
    trip_open: bool,
    /// An error was answered: the server ignores everything up to the next Sync.
    skips_to_sync: bool,
    /// A COPY from the client goes on though bytes of it were missed.
    copy_gap: bool,
    /// `paired` began anew: the server's next call begins with a message.
    restarted: bool,
    pending: VecDeque<Request>,
    pending_text: usize,
    held: VecDeque<Reply>,
    progress: Progress,
    prepared: Prepared,
}

impl Session {
    /// `raw`: the user wants statements as they are.
    pub fn new(adopted: bool, raw: bool) -> Self {
        Self { names: Names::new(raw), adopted, paired: !adopted, assumed: adopted, may_start: true, counted: true, ..Self::default() }
    }

    pub fn paired(&self) -> bool {
        self.paired
    }

    /// A client that waits for its answers is between two round trips, as far as is known.
    pub fn may_start(&self) -> bool {
        if self.pipelined { self.counted && self.outstanding == 0 } else { self.may_start }
    }

    /// See [`Session::may_start`]; and it is known that the client is not inside a round trip.
    pub fn ready(&self) -> bool {
        self.ready
    }

    pub fn take_restarted(&mut self) -> bool {
        std::mem::take(&mut self.restarted)
    }

    pub fn identify(&mut self, user: &[u8], database: &[u8]) {
        self.identity.user = String::from_utf8_lossy(user).into_owned();
        let database = if database.is_empty() { user } else { database };
        self.identity.database = String::from_utf8_lossy(database).into_owned();
    }

    /// See [`Names::text`].
    pub fn text(&mut self, sql: &[u8], cut: bool, escapes: bool) -> Arc<QueryText> {
        self.names.text(sql, cut, escapes)
    }

    /// Keeps a name by which a statement or portal without known text can be shown.
    pub fn mention(&mut self, kind: &str, bytes: &[u8]) {
        let pending = &self.pending;
        self.names.mention(kind, bytes, |key| {
            pending.iter().any(|request| match kind {
                "portal" => request.asked == Asked::Bind && request.portal == key,
                _ => request.asked == Asked::Parse && request.statement == key,
            })
        });
    }

    /// A request of the client.
    pub fn ask(&mut self, request: Request, out: &mut dyn Sink) {
        let asked = request.asked;
        let begins = !self.trip_open && asked != Asked::Sync;
        // Round trips sent with one call are no sign of a client that does not wait: it waits for all of them.
        let same_call = std::mem::replace(&mut self.last_call_ns, request.call_ns) == request.call_ns;
        let ends = matches!(asked, Asked::Query | Asked::Function | Asked::Sync | Asked::Startup);
        self.trip_open = !ends;
        if begins {
            // Bytes of an answer were lost and a waiting client goes on: that answer is over.
            let over = self.paired && self.progress.flags.contains(Flags::GAP) && !self.pipelined && !same_call;
            if (!self.paired && self.may_start()) || over {
                if over {
                    self.drop_pending(out, Loss::ParseGap);
                }
                self.restart();
            } else if self.paired && self.outstanding > 0 && !self.skips_to_sync && !same_call {
                // The client does not wait, or the event with the answer is missing: what the server sends next tells.
                self.suspected = !self.pipelined;
                if self.assumed && self.suspected {
                    self.unpair(out, Loss::ParseGap);
                }
            }
        }
        if self.paired && self.skips_to_sync && asked != Asked::Sync {
            self.names.recycle(request.text);
            return;
        }
        if ends {
            self.outstanding = self.outstanding.saturating_add(1);
        }
        if !self.paired {
            for _ in 0..statements(&request) {
                out.lost(Loss::ParseGap);
            }
            self.names.recycle(request.text);
            return;
        }
        self.skips_to_sync &= asked != Asked::Sync;
        self.pending_text += request.text.as_ref().map_or(0, |text| text.size());
        self.pending.push_back(request);
        while !self.held.is_empty() && !self.pending.is_empty() {
            if let Some(reply) = self.held.pop_front() {
                self.pair(&reply, out);
            }
        }
        if self.pending.len() > PENDING_LIMIT || self.pending_text > PENDING_TEXT_LIMIT {
            self.unpair(out, Loss::PendingFull);
        }
    }

    /// Bytes of the client that belong to a COPY under way.
    pub fn copy_data(&mut self, bytes: u64) {
        // The client has seen the server ask for data, so the server reads over any Sync sent before (manual 55.2.6).
        while self.pending.len() > 1 && self.pending.back().is_some_and(|last| last.asked == Asked::Sync) {
            self.pending.pop_back();
            self.outstanding = self.outstanding.saturating_sub(1);
            self.trip_open = true;
        }
        if let Some(first) = self.pending.front_mut()
            && matches!(first.asked, Asked::Query | Asked::Execute)
        {
            first.bytes += bytes;
        }
    }

    fn restart(&mut self) {
        self.clear();
        self.paired = true;
        self.assumed = !self.pipelined;
        self.counted = true;
        self.restarted = true;
    }

    fn clear(&mut self) {
        self.pending.clear();
        self.pending_text = 0;
        self.held.clear();
        self.progress = Progress::default();
        self.prepared = Prepared::default();
        self.outstanding = 0;
        self.skips_to_sync = false;
        self.copy_gap = false;
    }

    /// Bytes of the client were missed. Returns whether a COPY goes on in spite of it.
    pub fn gap_in_requests(&mut self, lost: u64, out: &mut dyn Sink) -> bool {
        if self.paired && self.progress.copying == Copying::In && !self.pipelined {
            self.copy_data(lost);
            self.progress.flags.insert(Flags::GAP);
            self.copy_gap = true;
            return true;
        }
        if self.paired && self.outstanding > 0 && !self.trip_open {
            self.pipelined = true;
        }
        self.unpair(out, Loss::ParseGap);
        self.may_start = false;
        self.ready = false;
        self.counted = false;
        self.trip_open = false;
        false
    }

    /// Bytes of the server were missed. Returns whether the end of the answer under way may be searched for.
    pub fn gap_in_responses(&mut self, lost: u64, out: &mut dyn Sink) -> bool {
        let single = match self.pending.front() {
            Some(Request { asked: Asked::Query, text, .. }) => {
                self.pending.len() == 1 && text.as_ref().is_some_and(|text| text.count() == 1)
            }
            Some(Request { asked: Asked::Execute, .. }) => self.pending.iter().skip(1).all(|behind| behind.asked == Asked::Sync),
            _ => false,
        };
        if self.paired && !self.pipelined && single && self.outstanding <= 1 && self.held.is_empty() {
            self.progress.flags.insert(Flags::GAP);
            self.progress.bytes += lost;
            return true;
        }
        let outstanding = self.outstanding;
        self.unpair(out, Loss::ParseGap);
        self.outstanding = outstanding;
        // With an answer missing, the newest round trip is still under way.
        let missing = std::mem::take(&mut self.suspected);
        if self.counted {
            self.may_start = !missing;
        }
        false
    }

    /// Nothing that follows is paired, and nothing was lost by that.
    pub fn unpair_quietly(&mut self) {
        self.clear();
        self.paired = false;
    }

    /// Bytes of an answer that are passed over unread while its end is searched for.
    pub fn unread(&mut self, bytes: u64) {
        self.progress.bytes += bytes;
    }

    fn drop_pending(&mut self, out: &mut dyn Sink, loss: Loss) {
        let lost: usize = self.pending.iter().map(statements).sum();
        for _ in 0..lost.max(1) {
            out.lost(loss);
        }
        self.clear();
    }

    /// Requests and answers no longer correspond.
    pub fn unpair(&mut self, out: &mut dyn Sink, loss: Loss) {
        let outstanding = self.outstanding;
        self.drop_pending(out, loss);
        self.outstanding = outstanding;
        self.paired = false;
        // Of a client that waits, the trip under way is lost; the one behind it is whole.
        self.may_start = outstanding == 0;
    }

    /// A round trip ended while requests and answers do not correspond.
    fn idle(&mut self) {
        self.confirm();
        // An answer to a request that was never seen: there are more requests under way than were counted.
        self.pipelined |= self.outstanding == 0 && self.counted && self.assumed && !self.adopted;
        self.outstanding = self.outstanding.saturating_sub(1);
        self.may_start = true;
        self.ready = true;
    }

    /// A ReadyForQuery came: if the client sent another round trip before it, that was no missing answer.
    fn confirm(&mut self) {
        self.pipelined |= std::mem::take(&mut self.suspected) && self.outstanding > 1;
    }

    /// A message of the server.
    pub fn answer(&mut self, reply: &Reply, out: &mut dyn Sink) {
        if !self.paired {
            if reply.kind == b'Z' {
                self.idle();
            }
            return;
        }
        if self.pending.is_empty() || !self.held.is_empty() {
            if self.copy_gap && reply.kind == b'Z' {
                self.clear();
                self.paired = false;
                self.may_start = true;
                return;
            }
            return self.hold(reply, out);
        }
        self.pair(reply, out);
        if self.copy_gap && reply.kind == b'Z' {
            self.clear();
            self.paired = false;
            self.may_start = true;
        }
    }

    /// Keeps an answer whose request was not reported yet.
    fn hold(&mut self, reply: &Reply, out: &mut dyn Sink) {
        if matches!(reply.kind, b'N' | b'S') {
            return;
        }
        if self.assumed && reply.kind != b'E' {
            self.unpair(out, Loss::ParseGap);
            self.may_start = reply.kind == b'Z';
            return;
        }
        if reply.kind != b'E' {
            self.pipelined = true;
        }
        if let Some(last) = self.held.back_mut()
            && matches!(reply.kind, b'D' | b'd')
            && last.kind == reply.kind
        {
            last.bytes += reply.bytes;
            last.end_ns = reply.end_ns;
            last.tag.rows = Some(last.tag.rows.unwrap_or(1) + 1);
        } else {
            self.held.push_back(*reply);
        }
        if self.held.len() > HELD_LIMIT {
            self.unpair(out, Loss::PendingFull);
        }
    }

    /// Matches an answer with the oldest request.
    fn pair(&mut self, reply: &Reply, out: &mut dyn Sink) {
        let Some(asked) = self.pending.front().map(|request| request.asked) else { return };
        if !matches!((asked, reply.kind), (Asked::Sync, _) | (_, b'Z')) {
            self.progress.first_ns.get_or_insert(reply.first_ns);
            self.progress.bytes += reply.bytes;
        }
        use Asked::*;
        match (asked, reply.kind) {
            (_, b'N' | b'S') => {}
            (Query | Execute, b'D' | b'd') => self.progress.rows += reply.tag.rows.unwrap_or(1),
            (Query | Execute, b'G') => {
                self.progress.copying = Copying::In;
            }
            (Query | Execute, b'H') => self.progress.copying = Copying::Out,
            (Query, b'T') | (Query | Execute, b'c') | (DescribeStatement, b't') | (Startup, b'R' | b'K' | b'v') => {}
            (Query, b'C' | b'I' | b'W') => self.query_statement(reply, out),
            (Query, b'E') => self.query_statement(reply, out),
            (Function, b'V') => self.function(reply, out),
            (Function | Startup, b'E') => self.function(reply, out),
            (Query | Function | Startup | Sync, b'Z') => self.round_trip_ends(out),
            (Parse, b'1') => self.parsed(reply, out),
            (Bind, b'2') => self.bound(reply, out),
            (DescribeStatement | DescribePortal, b'T' | b'n') => self.described(reply),
            (CloseStatement | ClosePortal, b'3') => self.closed(),
            (Execute, b'C' | b'I' | b's' | b'W') => self.executed(reply, out),
            (Sync, b'E') => {
                let text = QueryText::placeholder("<end of an implicit transaction>".to_owned());
                self.progress = Progress { first_ns: Some(reply.first_ns), bytes: reply.bytes, ..Progress::default() };
                if let Some(request) = self.pending.front().cloned() {
                    self.flush_prepared(out);
                    self.emit(&request, &Arc::new(text), 0, "COMMIT", reply, out);
                }
            }
            (Parse | Bind | DescribeStatement | DescribePortal | CloseStatement | ClosePortal | Execute, b'E') => self.failed(reply, out),
            _ => self.unpair(out, Loss::ParseGap),
        }
    }

    fn query_statement(&mut self, reply: &Reply, out: &mut dyn Sink) {
        let Some(mut request) = self.pending.pop_front() else { return };
        let index = self.progress.statements;
        if index > 0 {
            // The request's bytes are counted once, with its first statement.
            request.bytes = 0;
        }
        let operation = if reply.kind == b'I' { "EMPTY" } else { "" };
        let text = request.text.clone().unwrap_or_default();
        self.emit(&request, &text, index, operation, reply, out);
        drop(text);
        self.progress.statements = index + 1;
        self.pending.push_front(request);
    }

    fn function(&mut self, reply: &Reply, out: &mut dyn Sink) {
        let Some(request) = self.pending.front().cloned() else { return };
        let (operation, text) = if request.asked == Asked::Startup { ("STARTUP", "<start-up>") } else { ("CALL", "<function call>") };
        self.emit(&request, &Arc::new(QueryText::placeholder(text.to_owned())), 0, operation, reply, out);
    }

    fn round_trip_ends(&mut self, out: &mut dyn Sink) {
        self.flush_prepared(out);
        self.confirm();
        self.prepared = Prepared::default();
        self.progress = Progress::default();
        self.outstanding = self.outstanding.saturating_sub(1);
        if let Some(request) = self.pending.pop_front() {
            self.forget(request);
        }
    }

    fn forget(&mut self, request: Request) {
        self.pending_text = self.pending_text.saturating_sub(request.text.as_ref().map_or(0, |text| text.size()));
        self.names.recycle(request.text);
    }

    /// Adds the oldest request, just answered, to what waits for an Execute.
    fn prepare(&mut self, reply: &Reply) -> Option<Request> {
        let request = self.pending.pop_front()?;
        self.pending_text = self.pending_text.saturating_sub(request.text.as_ref().map_or(0, |text| text.size()));
        let progress = std::mem::take(&mut self.progress);
        let prepared = &mut self.prepared;
        prepared.start_ns.get_or_insert(request.start_ns);
        prepared.first_ns = prepared.first_ns.or(progress.first_ns);
        prepared.end_ns = reply.end_ns;
        prepared.request_bytes += request.bytes;
        prepared.response_bytes += progress.bytes;
        prepared.flags = prepared.flags | request.flags;
        Some(request)
    }

    fn parsed(&mut self, reply: &Reply, out: &mut dyn Sink) {
        self.flush_prepared(out);
        let Some(request) = self.prepare(reply) else { return };
        let Some(text) = request.text else { return };
        self.prepared.text = Some(Arc::clone(&text));
        self.prepared.statement = request.statement;
        self.names.add_statement(request.statement, text);
    }

    fn bound(&mut self, reply: &Reply, out: &mut dyn Sink) {
        let other = |request: &Request| request.statement != self.prepared.statement;
        if self.prepared.text.is_some() && self.pending.front().is_some_and(other) {
            self.flush_prepared(out);
        }
        let Some(request) = self.prepare(reply) else { return };
        self.names.add_portal(request.portal, request.statement);
    }

    fn described(&mut self, reply: &Reply) {
        self.prepare(reply);
    }

    fn closed(&mut self) {
        self.progress = Progress::default();
        let Some(request) = self.pending.pop_front() else { return };
        match request.asked {
            Asked::CloseStatement => self.names.remove_statement(request.statement),
            _ => self.names.remove_portal(request.portal),
        }
    }

    fn executed(&mut self, reply: &Reply, out: &mut dyn Sink) {
        let Some(request) = self.pending.pop_front() else { return };
        let text = self.names.portal_text(request.portal);
        let mut operation = if reply.kind == b'I' { "EMPTY" } else { "" };
        if let Some(portal) = self.names.portal_mut(request.portal) {
            // The statement was counted with its first rows.
            if std::mem::replace(&mut portal.suspended, reply.kind == b's') {
                operation = "FETCH";
            }
        }
        self.emit(&request, &text, 0, operation, reply, out);
    }

    /// An error in a round trip of the extended protocol: the server ignores what was sent behind it up to the Sync.
    fn failed(&mut self, reply: &Reply, out: &mut dyn Sink) {
        let Some(request) = self.pending.pop_front() else { return };
        self.pending_text = self.pending_text.saturating_sub(request.text.as_ref().map_or(0, |text| text.size()));
        let (text, operation) = match request.asked {
            Asked::Parse => (request.text.clone().unwrap_or_default(), ""),
            Asked::CloseStatement | Asked::ClosePortal => (Arc::new(QueryText::placeholder("<close>".to_owned())), "CLOSE"),
            Asked::Execute | Asked::DescribePortal => (self.names.portal_text(request.portal), ""),
            _ => (self.names.statement_text(request.statement), ""),
        };
        if request.asked == Asked::Parse || (request.statement != self.prepared.statement && request.asked != Asked::Execute) {
            self.flush_prepared(out);
        }
        self.emit(&request, &text, 0, operation, reply, out);
        drop(text);
        self.names.recycle(request.text);
        while let Some(ignored) = self.pending.front() {
            match ignored.asked {
                Asked::Sync => return,
                Asked::Query | Asked::Function => self.outstanding = self.outstanding.saturating_sub(1),
                _ => {}
            }
            if let Some(ignored) = self.pending.pop_front() {
                self.forget(ignored);
            }
        }
        self.skips_to_sync = true;
    }

    /// A statement that was parsed and not executed in its round trip is an exchange of its own.
    fn flush_prepared(&mut self, out: &mut dyn Sink) {
        if self.prepared.text.is_none() {
            return;
        }
        let prepared = std::mem::take(&mut self.prepared);
        let Some(text) = &prepared.text else { return };
        let statement = text.get(0);
        let record = Record {
            start_ns: prepared.start_ns.unwrap_or(prepared.end_ns),
            first_ns: prepared.first_ns,
            end_ns: prepared.end_ns,
            operation: "PREPARE",
            resource: statement.map_or("", |statement| statement.text),
            raw: text.raw(0),
            status: SUCCESS,
            error: false,
            request_bytes: prepared.request_bytes,
            response_bytes: prepared.response_bytes,
            returned: None,
            affected: None,
            flags: prepared.flags | truncation(statement.is_some_and(|statement| statement.truncated)),
        };
        record.write(&self.identity, self.adopted, out);
    }

    /// One statement is done; what was prepared for it is a part of its exchange. Progress begins anew.
    fn emit(&mut self, request: &Request, text: &Arc<QueryText>, index: usize, operation: &'static str, reply: &Reply, out: &mut dyn Sink) {
        let progress = std::mem::take(&mut self.progress);
        let prepared = std::mem::take(&mut self.prepared);
        let statement = text.get(index);
        let error = reply.kind == b'E';
        let operation =
            [operation, statement.map_or("", |statement| statement.operation), reply.tag.verb].into_iter().find(|name| !name.is_empty());
        let returns = matches!(reply.tag.verb, "SELECT" | "FETCH")
            && (progress.rows > 0 || reply.tag.rows == Some(0) || progress.flags.contains(Flags::GAP));
        let (mut returned, mut affected) = (None, None);
        match (reply.kind, reply.tag.rows) {
            (b'C', Some(rows)) if returns || progress.copying == Copying::Out => returned = Some(rows),
            (b'C', Some(rows)) => {
                affected = Some(rows);
                returned = (progress.rows > 0).then_some(progress.rows);
            }
            (b'C' | b's', None) if progress.rows > 0 => returned = Some(progress.rows),
            _ => {}
        }
        let unknown_resource = if request.asked == Asked::Query && text.count() > 0 { "<statement beyond the captured text>" } else { "" };
        let status = if error { std::str::from_utf8(&reply.error.sqlstate).unwrap_or("").trim_end_matches('\0') } else { SUCCESS };
        let status = if reply.kind == 0 { "" } else { status };
        let mut flags = request.flags | prepared.flags | progress.flags | reply.flags;
        flags.insert(truncation(statement.is_some_and(|statement| statement.truncated)));
        let record = Record {
            start_ns: prepared.start_ns.unwrap_or(request.start_ns),
            first_ns: prepared.first_ns.or(progress.first_ns),
            end_ns: reply.end_ns,
            operation: operation.unwrap_or("OTHER"),
            resource: statement.map_or(unknown_resource, |statement| statement.text),
            raw: text.raw(index),
            status,
            error,
            request_bytes: prepared.request_bytes + request.bytes,
            response_bytes: prepared.response_bytes + progress.bytes,
            returned,
            affected,
            flags,
        };
        record.write(&self.identity, self.adopted, out);
        self.names.recycle(prepared.text);
    }

    /// A CancelRequest, which has a connection of its own and no answer.
    pub fn cancelled(&mut self, start_ns: u64, end_ns: u64, bytes: u64, out: &mut dyn Sink) {
        self.paired = false;
        let record = Record { start_ns, end_ns, operation: "CANCEL", request_bytes: bytes, ..Record::default() };
        record.write(&self.identity, self.adopted, out);
    }

    /// The connection is over: statements without an answer are told.
    pub fn close(&mut self, at_ns: u64, out: &mut dyn Sink) {
        if !self.paired {
            return;
        }
        let reply = Reply {
            kind: 0,
            first_ns: at_ns,
            end_ns: at_ns,
            bytes: 0,
            tag: Tag::default(),
            error: ServerError::default(),
            flags: Flags::UNANSWERED,
        };
        while let Some(request) = self.pending.pop_front() {
            let (text, first) = match request.asked {
                Asked::Query => (request.text.clone().unwrap_or_default(), self.progress.statements),
                Asked::Execute => (self.names.portal_text(request.portal), 0),
                _ => continue,
            };
            let flags = self.progress.flags;
            for index in first..text.count().max(1) {
                self.emit(&request, &text, index, "", &reply, out);
            }
            self.progress = Progress { flags, ..Progress::default() };
        }
        self.flush_prepared(out);
        self.clear();
    }
}

/// How many exchanges a request makes if all goes well.
fn statements(request: &Request) -> usize {
    match request.asked {
        Asked::Query => request.text.as_ref().map_or(1, |text| text.count().max(1)),
        Asked::Execute | Asked::Function => 1,
        _ => 0,
    }
}
