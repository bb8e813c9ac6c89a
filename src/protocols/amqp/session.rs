//! One connection: its channels, its start and its end.

use std::sync::Arc;

use super::{
    channel::{Channel, closed_by_server},
    methods::{Arguments, Id, Sort, Spec},
    record::{Code, Record, Seen, Shared},
    waiting::Settlement,
};
use crate::{
    model::{Flags, Flow},
    protocols::{Loss, Sink},
};

/// So many channels of a connection are followed.
const CHANNELS_MAX: usize = 1024;

pub struct Session {
    shared: Shared,
    /// By number.
    channels: Vec<Option<Box<Channel>>>,
    open: usize,
    vhost: Vec<u8>,
    /// The client identified itself, the server has not agreed yet.
    login: Option<Seen>,
    /// The server takes no publishes for want of memory or disk.
    blocked: Option<Seen>,
}

impl Session {
    pub fn new(adopted: bool, raw: bool) -> Self {
        Self { shared: Shared::new(adopted, raw), channels: Vec::new(), open: 0, vhost: Vec::new(), login: None, blocked: None }
    }

    /// The client's opening was seen after all.
    pub fn begin(&mut self) {
        self.shared.exact = true;
    }

    /// Where its begin was not seen it is made; `None` beyond the bound.
    fn channel(&mut self, number: u16, out: &mut dyn Sink) -> Option<(&mut Channel, &mut Shared)> {
        let index = usize::from(number);
        if index >= self.channels.len() {
            self.channels.resize_with(index + 1, || None);
        }
        let place = self.channels.get_mut(index)?;
        if place.is_none() {
            if self.open >= CHANNELS_MAX {
                out.lost(Loss::PendingFull);
                return None;
            }
            self.open += 1;
            // The connection itself has no begin of its own.
            *place = Some(Box::new(Channel::new(number == 0)));
        }
        place.as_deref_mut().map(|channel| (channel, &mut self.shared))
    }

    /// Only where there is something to tell it.
    fn known(&mut self, number: u16) -> Option<(&mut Channel, &mut Shared)> {
        self.channels.get_mut(usize::from(number))?.as_deref_mut().map(|channel| (channel, &mut self.shared))
    }

    /// A method. What follows a content's method is told by `header` and `body`.
    pub fn method(&mut self, flow: Flow, number: u16, spec: &'static Spec, arguments: &Arguments<'_>, seen: Seen, out: &mut dyn Sink) {
        if number == 0 {
            return self.of_connection(flow, spec, arguments, seen, out);
        }
        let Some((channel, shared)) = self.channel(number, out) else { return };
        channel.abandon(flow, shared, out);
        let [first, ..] = arguments.numbers;
        let settlement = |how| Settlement { tag: first, multiple: arguments.bits & 1 != 0 && spec.id != Id::REJECT, how, seen };
        match (spec.id, flow) {
            (Id::PUBLISH | Id::DELIVER | Id::GET_OK | Id::RETURN, _) => channel.begin(spec, arguments, seen, shared),
            (Id::ACK, Flow::Request) => channel.settle(settlement("ack"), shared, out),
            (Id::NACK, Flow::Request) => channel.settle(settlement("nack"), shared, out),
            (Id::REJECT, _) => channel.settle(settlement("reject"), shared, out),
            (Id::RECOVER_ASYNC, _) => channel.recover(seen, shared, out),
            (Id::ACK, Flow::Response) => channel.publishes.confirm(settlement("ack"), shared, out),
            (Id::NACK, Flow::Response) => channel.publishes.confirm(settlement("nack"), shared, out),
            (Id::CHANNEL_OPEN, _) => {
                channel.open(seen.first_ns, shared, out);
                channel.ask(spec, arguments, seen, shared, out);
            }
            (Id::CHANNEL_CLOSE, Flow::Response) => {
                let [code, class, method] = arguments.numbers.map(|number| u16::try_from(number).unwrap_or(u16::MAX));
                channel.refuse(code, Id(class, method), seen, shared, out);
            }
            (Id::CHANNEL_CLOSE_OK, Flow::Request) if channel.asks_to_close() => {}
            (Id::CHANNEL_CLOSE_OK, _) => {
                if flow == Flow::Response {
                    channel.answer(spec, arguments, seen, shared, out);
                }
                self.end_channel(number, seen.last_ns, out);
            }
            (Id::CANCEL, Flow::Response) => {
                let [tag, ..] = arguments.texts;
                channel.cancelled(tag, seen, shared, out);
            }
            (Id::CANCEL | Id::CHANNEL_FLOW | Id::CHANNEL_CLOSE, Flow::Request) => channel.ask(spec, arguments, seen, shared, out),
            (Id::CANCEL_OK | Id::CHANNEL_FLOW_OK, Flow::Response) => channel.answer(spec, arguments, seen, shared, out),
            _ if spec.sort == Sort::Ask => channel.ask(spec, arguments, seen, shared, out),
            _ if spec.sort == Sort::Answer => channel.answer(spec, arguments, seen, shared, out),
            _ => {}
        }
    }

    fn end_channel(&mut self, number: u16, at_ns: u64, out: &mut dyn Sink) {
        if let Some(mut channel) = self.channels.get_mut(usize::from(number)).and_then(Option::take) {
            self.open = self.open.saturating_sub(1);
            channel.end(at_ns, &mut self.shared, out);
            channel.calls.forget(&mut self.shared);
        }
    }

    fn of_connection(&mut self, flow: Flow, spec: &'static Spec, arguments: &Arguments<'_>, seen: Seen, out: &mut dyn Sink) {
        match (spec.id, flow) {
            (Id::START_OK, _) => self.login = Some(seen),
            (Id::TUNE, _) => self.login = None,
            (Id::OPEN, _) => {
                let [vhost, ..] = arguments.texts;
                self.vhost = vhost.to_vec();
                self.ask(spec, seen, out);
            }
            (Id::UPDATE_SECRET, _) | (Id::CLOSE, Flow::Request) => self.ask(spec, seen, out),
            (Id::CLOSE, Flow::Response) => self.refuse(arguments, seen, out),
            (Id::BLOCKED, _) => self.blocked = self.blocked.or(Some(seen)),
            (Id::UNBLOCKED, _) => {
                if let Some(begin) = self.blocked.take() {
                    self.tell_blocked(begin, Some(seen), seen.last_ns, out);
                }
            }
            (Id::CLOSE_OK, Flow::Response) => self.answer(spec, arguments, seen, out),
            _ if spec.sort == Sort::Answer => self.answer(spec, arguments, seen, out),
            _ => {}
        }
    }

    fn ask(&mut self, spec: &'static Spec, seen: Seen, out: &mut dyn Sink) {
        let about = self.shared.routes.name(&self.vhost);
        if let Some((channel, shared)) = self.channel(0, out) {
            channel.calls.ask(super::calls::Call { spec, about: Arc::clone(&about), seen, no_ack: false }, shared, out);
        }
    }

    fn answer(&mut self, spec: &'static Spec, arguments: &Arguments<'_>, seen: Seen, out: &mut dyn Sink) {
        if let Some((channel, shared)) = self.channel(0, out) {
            channel.answer(spec, arguments, seen, shared, out);
        }
    }

    /// The server closed the connection: the code goes to the login, or to the one call or publish that can have caused it.
    fn refuse(&mut self, arguments: &Arguments<'_>, seen: Seen, out: &mut dyn Sink) {
        let [code, class, method] = arguments.numbers.map(|number| u16::try_from(number).unwrap_or(u16::MAX));
        let cause = Id(class, method);
        if let Some(login) = self.login.take() {
            return self.tell_login(login, Some((code, seen)), seen.last_ns, out);
        }
        let mut suspects = self.channels.iter_mut().flatten().filter(|channel| match cause {
            Id::PUBLISH => channel.publishes.due() > 0,
            _ => channel.asks(cause),
        });
        let blamed = match (suspects.next(), suspects.next()) {
            (Some(channel), None) => channel.blame(code, cause, seen, &mut self.shared, out),
            _ => false,
        };
        if !blamed {
            closed_by_server("connection.close", code, cause, seen, &mut self.shared, out);
        }
    }

    fn tell_login(&mut self, login: Seen, answer: Option<(u16, Seen)>, at_ns: u64, out: &mut dyn Sink) {
        let code = answer.map(|(code, _)| Code::new(code));
        let record = Record {
            start_ns: login.first_ns,
            first_ns: answer.map(|(_, seen)| seen.first_ns),
            end_ns: at_ns,
            operation: "connection.start-ok",
            status: code.as_ref().map_or("", Code::text),
            error: true,
            request_bytes: login.bytes,
            response_bytes: answer.map_or(0, |(_, seen)| seen.bytes),
            flags: if answer.is_some() { Flags::default() } else { Flags::UNANSWERED },
            ..Record::default()
        };
        self.shared.write(record, out);
    }

    fn tell_blocked(&mut self, begin: Seen, end: Option<Seen>, at_ns: u64, out: &mut dyn Sink) {
        let vhost = self.shared.routes.name(&self.vhost);
        let record = Record {
            start_ns: begin.first_ns,
            first_ns: end.map(|seen| seen.first_ns),
            end_ns: at_ns,
            operation: "connection.blocked",
            resource: vhost.text(),
            status: if end.is_some() { "unblocked" } else { "" },
            response_bytes: begin.bytes + end.map_or(0, |seen| seen.bytes),
            flags: if end.is_some() { Flags::default() } else { Flags::UNANSWERED },
            ..Record::default()
        };
        self.shared.write(record, out);
    }

    /// The server speaks another version of the protocol, and says which.
    pub fn other_version(&mut self, opening: Seen, answer: Seen, out: &mut dyn Sink) {
        let record = Record {
            start_ns: opening.first_ns,
            first_ns: Some(answer.first_ns),
            end_ns: answer.last_ns,
            operation: "connection.start",
            error: true,
            request_bytes: opening.bytes,
            response_bytes: answer.bytes,
            ..Record::default()
        };
        self.shared.write(record, out);
    }

    /// A content's header; false: it cannot stand there.
    pub fn header(&mut self, flow: Flow, number: u16, body: u64, seen: Seen, out: &mut dyn Sink) -> bool {
        self.known(number).is_none_or(|(channel, shared)| channel.header(flow, body, seen, shared, out))
    }

    /// A piece of a content's body; false: it cannot stand there.
    pub fn body(&mut self, flow: Flow, number: u16, length: u64, seen: Seen, out: &mut dyn Sink) -> bool {
        self.known(number).is_none_or(|(channel, shared)| channel.body(flow, length, seen, shared, out))
    }

    /// Frames of this flow were missed: of which channels is not known.
    pub fn gap(&mut self, flow: Flow, out: &mut dyn Sink) {
        self.shared.exact = false;
        self.login = None;
        self.blocked = None;
        for channel in self.channels.iter_mut().flatten() {
            channel.gap(flow, &mut self.shared, out);
        }
    }

    pub fn close(&mut self, at_ns: u64, out: &mut dyn Sink) {
        if let Some(login) = self.login.take() {
            self.tell_login(login, None, at_ns, out);
        }
        for channel in std::mem::take(&mut self.channels).into_iter().flatten() {
            let mut channel = channel;
            channel.end(at_ns, &mut self.shared, out);
        }
        self.open = 0;
        if let Some(begin) = self.blocked.take() {
            self.tell_blocked(begin, None, at_ns, out);
        }
    }
}
