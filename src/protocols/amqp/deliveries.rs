//! Messages that the server handed to one channel's consumers, and what these did with them.

use std::sync::Arc;

use super::{
    publishes::{DOUBT_NS, DOUBTS_MAX},
    record::Shared,
    route::Route,
    waiting::{Early, Message, Settlement, Travel, Waiting},
};
use crate::{model::Flags, protocols::Sink};

#[derive(Debug)]
struct Consumer {
    tag: Box<[u8]>,
    queue: Arc<Route>,
    no_ack: bool,
}

/// Whether a message must be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Yes,
    No,
    Unknown,
}

#[derive(Debug, Default)]
pub struct Deliveries {
    waiting: Waiting,
    consumers: Vec<Consumer>,
    /// The last tag that was seen.
    newest: u64,
    early: Early,
    /// Nothing was acknowledged for long enough: consumers that were not seen to begin are thought to need it not.
    seem_unacknowledged: bool,
}

impl Deliveries {
    pub fn consume(&mut self, tag: &[u8], queue: Arc<Route>, no_ack: bool, shared: &mut Shared) {
        if tag.is_empty() {
            return;
        }
        if let Some(known) = self.consumers.iter_mut().find(|consumer| *consumer.tag == *tag) {
            (known.queue, known.no_ack) = (queue, no_ack);
            return;
        }
        // Deliveries to those beyond the bound are as to one that was not seen to begin.
        if shared.consumers.take() {
            self.consumers.push(Consumer { tag: tag.into(), queue, no_ack });
        }
    }

    pub fn queue(&self, tag: &[u8]) -> Option<&Arc<Route>> {
        self.consumers.iter().find(|consumer| *consumer.tag == *tag).map(|consumer| &consumer.queue)
    }

    pub fn cancel(&mut self, tag: &[u8], shared: &mut Shared) {
        let before = self.consumers.len();
        self.consumers.retain(|consumer| *consumer.tag != *tag);
        shared.consumers.give_back(before - self.consumers.len());
    }

    fn cancel_all(&mut self, shared: &mut Shared) {
        shared.consumers.give_back(std::mem::take(&mut self.consumers).len());
    }

    /// What is known of the consumer that a message is for.
    pub fn consumer(&self, tag: &[u8]) -> (Option<Arc<Route>>, Due) {
        match self.consumers.iter().find(|consumer| *consumer.tag == *tag) {
            Some(consumer) => (Some(Arc::clone(&consumer.queue)), if consumer.no_ack { Due::No } else { Due::Yes }),
            None => (None, Due::Unknown),
        }
    }

    /// A message came in whole.
    pub fn deliver(&mut self, mut message: Message, due: Due, shared: &mut Shared, out: &mut dyn Sink) {
        if message.tag <= self.newest {
            // Tags only grow: another channel has this number now, and nobody said so.
            self.forget(shared, out);
        }
        self.newest = message.tag;
        if due == Due::No || (due == Due::Unknown && self.seem_unacknowledged) {
            // Of one that was asked for its basic.get told all.
            if message.travel == Travel::Deliver {
                message.sent(Flags::default(), shared, out);
            }
            return;
        }
        if let Some(settlement) = self.early.take(message.tag, shared) {
            return message.settled(&settlement, shared, out);
        }
        message.doubtful = due == Due::Unknown;
        let now = message.sent_ns;
        self.waiting.push(message, shared, out);
        if due == Due::Unknown {
            self.doubt(now, shared, out);
        }
    }

    /// Consumers that acknowledge nothing for long are taken for those that need not.
    fn doubt(&mut self, now: u64, shared: &mut Shared, out: &mut dyn Sink) {
        let since = self.waiting.oldest().map_or(now, |oldest| oldest.sent_ns);
        if self.waiting.open() <= DOUBTS_MAX && now.saturating_sub(since) <= DOUBT_NS {
            return;
        }
        if self.waiting.oldest().is_some_and(|oldest| !oldest.doubtful) {
            return;
        }
        self.seem_unacknowledged = true;
        while self.waiting.oldest().is_some_and(|oldest| oldest.doubtful) {
            if let Some(message) = self.waiting.take_oldest(shared) {
                message.unsettled(now, shared, out);
            }
        }
    }

    /// The client acknowledged, rejected or gave back.
    pub fn settle(&mut self, settlement: Settlement, shared: &mut Shared, out: &mut dyn Sink) {
        self.seem_unacknowledged = false;
        if settlement.multiple {
            while let Some(message) = self.waiting.take_through(settlement.through(), shared) {
                message.settled(&settlement, shared, out);
            }
        } else if let Some(message) = self.waiting.take(settlement.tag, shared) {
            message.settled(&settlement, shared, out);
        }
        if settlement.tag > self.newest {
            self.early.put(settlement, shared);
        }
    }

    /// Acknowledgements were missed, or the begin of a consumer: who must acknowledge what is open again.
    pub fn gap_in_requests(&mut self, shared: &mut Shared, out: &mut dyn Sink) {
        self.waiting.give_up(shared, out);
        self.early.clear(shared);
        self.cancel_all(shared);
        self.seem_unacknowledged = false;
    }

    fn forget(&mut self, shared: &mut Shared, out: &mut dyn Sink) {
        self.waiting.give_up(shared, out);
        self.early.clear(shared);
        self.newest = 0;
    }

    /// The channel is over.
    pub fn close(&mut self, at_ns: u64, shared: &mut Shared, out: &mut dyn Sink) {
        self.waiting.unsettled(at_ns, shared, out);
        self.early.clear(shared);
        self.cancel_all(shared);
    }
}
