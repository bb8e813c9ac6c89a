//! Methods that are answered: paired in order on their channel.

use std::{collections::VecDeque, sync::Arc};

use super::{
    methods::{Id, Spec},
    record::{Described, Record, Seen, Shared},
    route::Route,
};
use crate::{
    model::Flags,
    protocols::{Loss, Sink},
};

/// A queue without open calls gives back what exceeds this many places.
const KEPT_PLACES: usize = 4;

#[derive(Debug)]
pub struct Call {
    pub spec: &'static Spec,
    /// The queue or exchange that it is about.
    pub about: Arc<Route>,
    pub seen: Seen,
    /// basic.consume, basic.get: messages need no acknowledgement.
    pub no_ack: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub spec: &'static Spec,
    pub seen: Seen,
}

impl Call {
    /// "ok", "empty": the last word of the answer's name.
    fn answered(&self, answer: &Answer, message: Option<Described<'_>>, shared: &mut Shared, out: &mut dyn Sink) {
        let status = answer.spec.name.rsplit('-').next().unwrap_or_default();
        shared.write(Record { status, message, ..self.record(Some(answer.seen)) }, out);
    }

    fn record(&self, answer: Option<Seen>) -> Record<'_> {
        Record {
            start_ns: self.seen.first_ns,
            first_ns: answer.map(|seen| seen.first_ns),
            end_ns: answer.unwrap_or(self.seen).last_ns,
            operation: self.spec.name,
            resource: self.about.text(),
            request_bytes: self.seen.bytes,
            response_bytes: answer.map_or(0, |seen| seen.bytes),
            ..Record::default()
        }
    }

    /// No answer is due: it ends with its last byte.
    pub fn sent(&self, shared: &mut Shared, out: &mut dyn Sink) {
        shared.write(self.record(None), out);
    }

    /// The server closed the channel or the connection because of it.
    pub fn refused(&self, status: &str, seen: Seen, shared: &mut Shared, out: &mut dyn Sink) {
        shared.write(Record { status, error: true, ..self.record(Some(seen)) }, out);
    }

    pub fn unanswered(&self, at_ns: u64, shared: &mut Shared, out: &mut dyn Sink) {
        shared.write(Record { end_ns: at_ns, error: true, flags: Flags::UNANSWERED, ..self.record(None) }, out);
    }
}

/// The open calls of one channel.
#[derive(Debug, Default)]
pub struct Calls {
    open: VecDeque<Call>,
    /// Answers that were reported before their questions.
    early: VecDeque<Answer>,
    /// A question was missed while its client did not wait for answers: those that come cannot be told apart.
    lost: bool,
    /// Two questions were open at once.
    ahead: bool,
}

impl Calls {
    pub fn ask(&mut self, call: Call, shared: &mut Shared, out: &mut dyn Sink) {
        if let Some(answer) = self.early.pop_front() {
            shared.early.give_back(1);
            if call.spec.is_answered_by(answer.spec.id) {
                return call.answered(&answer, None, shared, out);
            }
            self.clear_early(shared);
        }
        self.ahead |= !self.open.is_empty();
        if self.ahead && !shared.exact {
            // Which answer is whose cannot be known of a client that had asked before it was watched.
            self.lost = true;
            out.lost(Loss::ParseGap);
            return self.give_up(shared, out);
        }
        if !shared.questions.take() {
            // Answers come in order, so those of what is open still find their questions, but the one of this would not.
            self.lost = true;
            out.lost(Loss::PendingFull);
            return self.give_up(shared, out);
        }
        self.open.push_back(call);
    }

    fn pop(&mut self, shared: &mut Shared) -> Option<Call> {
        let call = self.open.pop_front()?;
        shared.questions.give_back(1);
        if self.open.is_empty() && self.open.capacity() > KEPT_PLACES {
            self.open.shrink_to(KEPT_PLACES);
        }
        Some(call)
    }

    /// The call that an answer ends, if it is the oldest one's; `message` came with the answer.
    pub fn answer(&mut self, answer: Answer, message: Option<Described<'_>>, shared: &mut Shared, out: &mut dyn Sink) -> Option<Call> {
        if self.lost {
            return None;
        }
        match self.open.front() {
            Some(call) if call.spec.is_answered_by(answer.spec.id) => {
                let call = self.pop(shared)?;
                call.answered(&answer, message, shared, out);
                Some(call)
            }
            None if shared.exact && shared.early.take() => {
                self.early.push_back(answer);
                None
            }
            _ => None,
        }
    }

    /// The channel begins anew: of the old one nothing counts but what was reported too early.
    pub fn reopened(self) -> Self {
        Self { early: self.early, ..Self::default() }
    }

    pub fn oldest(&self) -> Option<&Call> {
        self.open.front()
    }

    pub fn take_oldest(&mut self, shared: &mut Shared) -> Option<Call> {
        self.pop(shared)
    }

    fn clear_early(&mut self, shared: &mut Shared) {
        shared.early.give_back(std::mem::take(&mut self.early).len());
    }

    pub fn is_open(&self, id: Id) -> bool {
        self.open.iter().any(|call| call.spec.id == id)
    }

    fn give_up(&mut self, shared: &mut Shared, out: &mut dyn Sink) {
        while self.pop(shared).is_some() {
            out.lost(Loss::ParseGap);
        }
        self.clear_early(shared);
    }

    /// Questions or answers were missed.
    pub fn gap(&mut self, shared: &mut Shared, out: &mut dyn Sink) {
        self.lost |= self.ahead;
        self.give_up(shared, out);
    }

    /// Nothing more is answered, but for the closing of the channel.
    pub fn close(&mut self, at_ns: u64, shared: &mut Shared, out: &mut dyn Sink) {
        for _ in 0..self.open.len() {
            match self.open.pop_front() {
                Some(call) if call.spec.id == Id::CHANNEL_CLOSE => self.open.push_back(call),
                Some(call) => {
                    shared.questions.give_back(1);
                    call.unanswered(at_ns, shared, out);
                }
                None => {}
            }
        }
    }

    /// Nothing more comes.
    pub fn end(&mut self, at_ns: u64, shared: &mut Shared, out: &mut dyn Sink) {
        while let Some(call) = self.pop(shared) {
            call.unanswered(at_ns, shared, out);
        }
    }

    /// The channel is gone.
    pub fn forget(&mut self, shared: &mut Shared) {
        self.clear_early(shared);
    }
}
