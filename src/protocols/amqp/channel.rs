//! One channel: its open calls, the contents under way in both flows, its publishes and deliveries.

use std::sync::Arc;

use super::{
    calls::{Answer, Call, Calls},
    deliveries::{Deliveries, Due},
    methods::{Arguments, Id, Spec},
    publishes::Publishes,
    record::{Code, Record, Seen, Shared},
    route::Route,
    waiting::{Message, Settlement, Travel},
};
use crate::{
    model::Flow,
    protocols::{Loss, Sink},
};

/// A queue that is declared without a name, as [`super::route`] shows the name that it gets.
const NAMED_BY_THE_SERVER: &[u8] = b"amq.gen-*";

/// A message whose content is not whole.
#[derive(Debug)]
struct Content {
    message: Message,
    /// The method that began it, for answers.
    spec: &'static Spec,
    due: Due,
    first_ns: u64,
    /// Bytes of the body to come; `None` until its header.
    left: Option<u64>,
    /// All deliveries were settled while this one was under way: whether it was among them is not known.
    settled_perhaps: bool,
}

#[derive(Debug)]
pub struct Channel {
    pub calls: Calls,
    pub publishes: Publishes,
    pub deliveries: Deliveries,
    /// By flow.
    contents: [Option<Content>; 2],
    /// The queue that was declared last: what an empty name means.
    declared: Option<Arc<Route>>,
    /// The server closed it: what the client still sends is discarded.
    closing: bool,
}

impl Channel {
    /// `opened`: its begin was seen.
    pub fn new(opened: bool) -> Self {
        Self {
            calls: Calls::default(),
            publishes: Publishes::new(opened),
            deliveries: Deliveries::default(),
            contents: [None, None],
            declared: None,
            closing: false,
        }
    }

    /// Begins anew under the same number.
    pub fn open(&mut self, at_ns: u64, shared: &mut Shared, out: &mut dyn Sink) {
        self.end(at_ns, shared, out);
        let calls = std::mem::take(&mut self.calls).reopened();
        *self = Self { calls, ..Self::new(true) };
    }

    /// A name where one may be left out.
    fn queue(&self, name: &[u8], shared: &mut Shared) -> Arc<Route> {
        match &self.declared {
            Some(declared) if name.is_empty() => Arc::clone(declared),
            _ => shared.routes.name(name),
        }
    }

    /// What a question is about.
    fn about(&mut self, spec: &Spec, arguments: &Arguments<'_>, shared: &mut Shared) -> Arc<Route> {
        let [first, second, _] = arguments.texts;
        match spec.id {
            Id::EXCHANGE_BIND | Id::EXCHANGE_UNBIND => shared.routes.binding(second, first),
            Id::QUEUE_BIND | Id::QUEUE_UNBIND => {
                let queue = self.queue(first, shared);
                shared.routes.binding(second, queue.text().as_bytes())
            }
            Id::QUEUE_DECLARE => {
                if first.is_empty() {
                    self.declared = None;
                    return shared.routes.name(NAMED_BY_THE_SERVER);
                }
                let queue = shared.routes.name(first);
                self.declared = Some(Arc::clone(&queue));
                queue
            }
            Id::CANCEL => self.deliveries.queue(first).cloned().unwrap_or_else(|| shared.routes.none()),
            Id(50, _) | Id::CONSUME | Id::GET => self.queue(first, shared),
            Id(40, _) => shared.routes.name(first),
            _ => shared.routes.none(),
        }
    }

    /// A method of the client that is answered, or would be.
    pub fn ask(&mut self, spec: &'static Spec, arguments: &Arguments<'_>, seen: Seen, shared: &mut Shared, out: &mut dyn Sink) {
        let about = self.about(spec, arguments, shared);
        let no_ack = match spec.id {
            Id::CONSUME => arguments.bits & 2 != 0,
            Id::GET => arguments.bits & 1 != 0,
            _ => false,
        };
        match spec.id {
            Id::CONSUME => {
                let [_, tag, _] = arguments.texts;
                self.deliveries.consume(tag, Arc::clone(&about), no_ack, shared);
            }
            Id::CONFIRM_SELECT => self.publishes.select(shared, out),
            _ => {}
        }
        let call = Call { spec, about, seen, no_ack };
        if spec.wants_no_answer(arguments) {
            call.sent(shared, out);
            if spec.id == Id::CANCEL {
                let [tag, ..] = arguments.texts;
                self.deliveries.cancel(tag, shared);
            }
        } else if self.closing && spec.id != Id::CHANNEL_CLOSE {
            call.unanswered(seen.last_ns, shared, out);
        } else {
            self.calls.ask(call, shared, out);
        }
    }

    /// The server's answer, whole.
    pub fn answer(&mut self, spec: &'static Spec, arguments: &Arguments<'_>, seen: Seen, shared: &mut Shared, out: &mut dyn Sink) {
        let call = self.calls.answer(Answer { spec, seen }, None, shared, out);
        let [text, ..] = arguments.texts;
        match (spec.id, call) {
            (Id::CONSUME_OK, Some(call)) => self.deliveries.consume(text, call.about, call.no_ack, shared),
            (Id::CANCEL_OK, _) => self.deliveries.cancel(text, shared),
            (Id::QUEUE_DECLARE_OK, _) if self.declared.is_none() => self.declared = Some(shared.routes.name(text)),
            (Id::RECOVER_OK, Some(_)) => self.recover(seen, shared, out),
            _ => {}
        }
    }

    /// The client settled deliveries.
    pub fn settle(&mut self, settlement: Settlement, shared: &mut Shared, out: &mut dyn Sink) {
        let [_, response] = &mut self.contents;
        if let Some(content) = response
            && settlement.tag == 0
        {
            content.settled_perhaps = true;
        }
        self.deliveries.settle(settlement, shared, out);
    }

    /// Everything open was given back to the server.
    pub fn recover(&mut self, seen: Seen, shared: &mut Shared, out: &mut dyn Sink) {
        let seen = Seen { bytes: 0, ..seen };
        self.settle(Settlement { tag: 0, multiple: true, how: "recover", seen }, shared, out);
    }

    /// A method that a content follows.
    pub fn begin(&mut self, spec: &'static Spec, arguments: &Arguments<'_>, seen: Seen, shared: &mut Shared) {
        let ([one, two, three], [first, ..], bits) = (arguments.texts, arguments.numbers, arguments.bits);
        let (mut queue, mut due) = (None, Due::No);
        let (travel, exchange, key) = match spec.id {
            Id::PUBLISH => (Travel::Publish, one, two),
            Id::RETURN => (Travel::Return, two, three),
            Id::DELIVER => {
                (queue, due) = self.deliveries.consumer(one);
                (Travel::Deliver, two, three)
            }
            _ => (Travel::Got, one, two),
        };
        let message = Message {
            travel,
            route: shared.routes.message(exchange, key),
            queue,
            tag: if matches!(travel, Travel::Deliver | Travel::Got) { first } else { 0 },
            start_ns: seen.first_ns,
            sent_ns: 0,
            bytes: seen.bytes,
            body: 0,
            answer_bytes: 0,
            returned: if travel == Travel::Return { first.try_into().unwrap_or(u16::MAX) } else { 0 },
            mandatory: travel == Travel::Publish && bits & 3 != 0,
            redelivered: matches!(travel, Travel::Deliver | Travel::Got) && bits & 1 != 0,
            doubtful: false,
        };
        let flow = if travel == Travel::Publish { Flow::Request } else { Flow::Response };
        if let Some(place) = self.contents.get_mut(flow.index()) {
            *place = Some(Content { message, spec, due, first_ns: seen.first_ns, left: None, settled_perhaps: false });
        }
    }

    /// A method, or the end of the channel, in the middle of a content: it will not be whole. Whether the server counted it is not known.
    pub fn abandon(&mut self, flow: Flow, shared: &mut Shared, out: &mut dyn Sink) {
        let Some(content) = self.contents.get_mut(flow.index()).and_then(Option::take) else { return };
        out.lost(Loss::ParseGap);
        if content.message.travel == Travel::Publish {
            self.publishes.gap_in_requests(shared, out);
        }
    }

    /// A content's header; false: none can come here.
    pub fn header(&mut self, flow: Flow, body: u64, seen: Seen, shared: &mut Shared, out: &mut dyn Sink) -> bool {
        let Some(Some(content)) = self.contents.get_mut(flow.index()) else { return true };
        if content.left.is_some() {
            self.abandon(flow, shared, out);
            return false;
        }
        content.left = Some(body);
        content.message.body = body;
        content.message.bytes += seen.bytes;
        if body == 0 {
            self.complete(flow, seen.last_ns, shared, out);
        }
        true
    }

    /// A piece of a body; false: it cannot be.
    pub fn body(&mut self, flow: Flow, length: u64, seen: Seen, shared: &mut Shared, out: &mut dyn Sink) -> bool {
        let Some(Some(content)) = self.contents.get_mut(flow.index()) else { return true };
        let Some(left) = content.left.and_then(|left| left.checked_sub(length)) else {
            self.abandon(flow, shared, out);
            return false;
        };
        content.left = Some(left);
        content.message.bytes += seen.bytes;
        if left == 0 {
            self.complete(flow, seen.last_ns, shared, out);
        }
        true
    }

    fn complete(&mut self, flow: Flow, at_ns: u64, shared: &mut Shared, out: &mut dyn Sink) {
        let Some(Content { mut message, spec, mut due, first_ns, settled_perhaps, .. }) =
            self.contents.get_mut(flow.index()).and_then(Option::take)
        else {
            return;
        };
        message.sent_ns = at_ns;
        match message.travel {
            Travel::Publish => self.publishes.publish(message, self.closing, shared, out),
            Travel::Return => {
                let [request, _] = &mut self.contents;
                let under_way = request.as_mut().filter(|content| content.left.is_some()).map(|content| &mut content.message);
                self.publishes.returned(message, under_way, shared, out);
            }
            Travel::Deliver if settled_perhaps && due != Due::No => out.lost(Loss::ParseGap),
            Travel::Deliver => self.deliveries.deliver(message, due, shared, out),
            Travel::Got => {
                let seen = Seen { first_ns, last_ns: at_ns, bytes: message.bytes };
                message.queue = self.calls.oldest().filter(|call| call.spec.id == Id::GET).map(|call| Arc::clone(&call.about));
                let described = message.described("receive");
                due = match self.calls.answer(Answer { spec, seen }, Some(described), shared, out) {
                    Some(call) if call.no_ack => Due::No,
                    Some(_) => Due::Yes,
                    None => Due::Unknown,
                };
                if settled_perhaps && due != Due::No {
                    return out.lost(Loss::ParseGap);
                }
                self.deliveries.deliver(message, due, shared, out);
            }
        }
    }

    /// The server closed the channel: the reply code goes to what caused it, the rest stays without answer.
    pub fn refuse(&mut self, code: u16, cause: Id, seen: Seen, shared: &mut Shared, out: &mut dyn Sink) {
        if !self.blame(code, cause, seen, shared, out) {
            closed_by_server("channel.close", code, cause, seen, shared, out);
        }
        self.closing = true;
        self.calls.close(seen.last_ns, shared, out);
        self.publishes.close(seen.last_ns, shared, out);
        self.deliveries.close(seen.last_ns, shared, out);
        self.abandon(Flow::Response, shared, out);
    }

    /// Gives a reply code to the call or publish that caused it; false where that cannot be told.
    pub fn blame(&mut self, code: u16, cause: Id, seen: Seen, shared: &mut Shared, out: &mut dyn Sink) -> bool {
        let status = Code::new(code);
        if cause == Id::PUBLISH {
            return self.publishes.refuse(status.text(), seen, shared, out);
        }
        if !self.asks(cause) {
            return false;
        }
        let call = self.calls.take_oldest(shared);
        call.inspect(|call| call.refused(status.text(), seen, shared, out)).is_some()
    }

    /// The oldest open call is such a one: calls are answered in order.
    pub fn asks(&self, cause: Id) -> bool {
        self.calls.oldest().is_some_and(|call| call.spec.id == cause)
    }

    /// The server cancelled a consumer, because its queue is gone (consumer cancel notification).
    pub fn cancelled(&mut self, tag: &[u8], seen: Seen, shared: &mut Shared, out: &mut dyn Sink) {
        let queue = self.deliveries.queue(tag).cloned().unwrap_or_else(|| shared.routes.none());
        self.deliveries.cancel(tag, shared);
        let record = Record {
            start_ns: seen.first_ns,
            end_ns: seen.last_ns,
            operation: "basic.cancel",
            resource: queue.text(),
            status: "cancel",
            error: true,
            response_bytes: seen.bytes,
            ..Record::default()
        };
        shared.write(record, out);
    }

    /// Whether the client's close waits for its answer.
    pub fn asks_to_close(&self) -> bool {
        self.calls.is_open(Id::CHANNEL_CLOSE)
    }

    pub fn gap(&mut self, flow: Flow, shared: &mut Shared, out: &mut dyn Sink) {
        self.abandon(flow, shared, out);
        self.calls.gap(shared, out);
        match flow {
            Flow::Request => {
                self.publishes.gap_in_requests(shared, out);
                self.deliveries.gap_in_requests(shared, out);
                self.declared = None;
                self.closing = false;
            }
            Flow::Response => self.publishes.gap_in_responses(shared, out),
        }
    }

    /// The channel is over: what is open stays without answer.
    pub fn end(&mut self, at_ns: u64, shared: &mut Shared, out: &mut dyn Sink) {
        self.calls.end(at_ns, shared, out);
        self.publishes.close(at_ns, shared, out);
        self.deliveries.close(at_ns, shared, out);
        self.abandon(Flow::Request, shared, out);
        self.abandon(Flow::Response, shared, out);
    }
}

/// A close of the server that no open call or publish explains; its resource is the method that caused it.
pub fn closed_by_server(operation: &'static str, code: u16, cause: Id, seen: Seen, shared: &mut Shared, out: &mut dyn Sink) {
    let status = Code::new(code);
    let record = Record {
        start_ns: seen.first_ns,
        end_ns: seen.last_ns,
        operation,
        resource: super::methods::spec(cause).map_or("", |spec| spec.name),
        status: status.text(),
        error: code >= super::record::FIRST_ERROR,
        response_bytes: seen.bytes,
        ..Record::default()
    };
    shared.write(record, out);
}
