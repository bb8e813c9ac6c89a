//! Messages that wait for their settlement, in the order of their delivery tags.

use std::{collections::VecDeque, sync::Arc};

use super::{
    record::{Code, Described, Record, Seen, Shared},
    route::Route,
};
use crate::{
    model::Flags,
    protocols::{Loss, Sink},
};

/// What may wait on one connection, all channels together: 192 bytes and its names a message, so about 14,000 messages.
pub const HELD_BYTES_MAX: usize = 3 << 20;
/// A place of a queue that doubles when it grows, and the allocation of the names.
const SLOT_BYTES: usize = 192;

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Travel {
    Publish,
    Deliver,
    /// The answer to basic.get, which has an exchange of its own.
    Got,
    Return,
}

#[derive(Debug)]
pub struct Message {
    pub travel: Travel,
    pub route: Arc<Route>,
    pub queue: Option<Arc<Route>>,
    pub tag: u64,
    /// First byte of its method.
    pub start_ns: u64,
    /// Last byte of its content.
    pub sent_ns: u64,
    /// Of method, header and body, frames included.
    pub bytes: u64,
    pub body: u64,
    pub answer_bytes: u64,
    /// The reply code of a return; 0: it did not come back.
    pub returned: u16,
    /// Must come back where nobody takes it: the bits mandatory and immediate.
    pub mandatory: bool,
    pub redelivered: bool,
    /// Whether a settlement is due is not known.
    pub doubtful: bool,
}

/// How a message was settled, and by what frame.
#[derive(Clone, Copy, Debug)]
pub struct Settlement {
    pub tag: u64,
    /// All up to the tag; all there are where it is 0.
    pub multiple: bool,
    /// "ack", "nack", "reject", "recover".
    pub how: &'static str,
    pub seen: Seen,
}

impl Settlement {
    pub fn through(&self) -> u64 {
        if self.tag == 0 { u64::MAX } else { self.tag }
    }

    pub fn covers(&self, tag: u64) -> bool {
        tag == self.tag || (self.multiple && tag <= self.through())
    }
}

impl Message {
    /// What attributes tell of it; `kind` is OpenTelemetry's word for the operation.
    pub fn described(&self, kind: &'static str) -> Described<'_> {
        Described {
            kind,
            route: &self.route,
            queue: self.queue.as_deref(),
            tag: (self.tag > 0).then_some(self.tag),
            body: Some(self.body),
            redelivered: self.redelivered,
        }
    }

    /// Whether `returned` can be this publish coming back: it carries no tag, but the same names, and as many bytes.
    pub fn comes_back_as(&self, returned: &Message) -> bool {
        self.mandatory && self.returned == 0 && self.body == returned.body && self.route == returned.route
    }

    pub fn come_back(&mut self, returned: &Message) {
        self.returned = returned.returned;
        self.answer_bytes += returned.bytes;
    }

    fn record(&self) -> Record<'_> {
        let (operation, kind) = match self.travel {
            Travel::Publish => ("basic.publish", "send"),
            Travel::Deliver => ("basic.deliver", "process"),
            Travel::Got => ("basic.get-ok", "process"),
            Travel::Return => ("basic.return", "send"),
        };
        Record {
            start_ns: self.start_ns,
            end_ns: self.sent_ns,
            operation,
            resource: self.route.text(),
            request_bytes: self.bytes,
            response_bytes: self.answer_bytes,
            message: Some(self.described(kind)),
            ..Record::default()
        }
    }

    /// Nothing answers it: it ends with its last byte.
    pub fn sent(&self, flags: Flags, shared: &mut Shared, out: &mut dyn Sink) {
        self.ended("", false, flags, shared, out);
    }

    /// It ends with its last byte, with this status.
    pub fn ended(&self, status: &str, error: bool, flags: Flags, shared: &mut Shared, out: &mut dyn Sink) {
        shared.write(Record { status, error, flags, ..self.record() }, out);
    }

    pub fn settled(&self, settlement: &Settlement, shared: &mut Shared, out: &mut dyn Sink) {
        let code = Code::new(self.returned);
        let (status, error) = match settlement.how {
            "nack" | "reject" => (settlement.how, true),
            _ if self.returned > 0 => (code.text(), true),
            how => (how, false),
        };
        // A settlement of many is counted with the last of them.
        let own = if settlement.tag == self.tag { settlement.seen.bytes } else { 0 };
        // Among those that were settled together one may have needed no settlement.
        let flags = if self.doubtful && settlement.tag != self.tag { Flags::GAP } else { Flags::default() };
        let record = self.record();
        let record = Record {
            flags,
            first_ns: Some(settlement.seen.first_ns),
            end_ns: settlement.seen.last_ns,
            status,
            error,
            response_bytes: record.response_bytes + own,
            ..record
        };
        shared.write(record, out);
    }

    /// The server closed its channel because of it.
    pub fn refused(&self, status: &str, seen: Seen, shared: &mut Shared, out: &mut dyn Sink) {
        let record = self.record();
        let record = Record {
            first_ns: Some(seen.first_ns),
            end_ns: seen.last_ns,
            status,
            error: true,
            response_bytes: record.response_bytes + seen.bytes,
            ..record
        };
        shared.write(record, out);
    }

    /// Its channel ended before it was settled.
    pub fn unsettled(&self, at_ns: u64, shared: &mut Shared, out: &mut dyn Sink) {
        let code = Code::new(self.returned);
        let status = if self.returned > 0 { code.text() } else { "" };
        if self.doubtful {
            return match self.travel {
                // Whether there was anything to tell beyond its basic.get is not known.
                Travel::Got => out.lost(Loss::ParseGap),
                _ => self.ended(status, self.returned > 0, Flags::GAP, shared, out),
            };
        }
        // A message that a consumer had not come to is no failure; one whose publisher never heard of it is.
        let error = self.travel == Travel::Publish;
        shared.write(Record { end_ns: at_ns, status, error, flags: Flags::UNANSWERED, ..self.record() }, out);
    }

    fn text_bytes(&self) -> usize {
        self.route.text().len()
    }
}

#[derive(Debug)]
struct Slot {
    tag: u64,
    /// `None` once it was settled out of order.
    message: Option<Message>,
}

/// Open messages of one channel, by ascending tag.
#[derive(Debug, Default)]
pub struct Waiting {
    slots: VecDeque<Slot>,
    open: usize,
}

/// A drained queue gives back what exceeds this many places.
const KEPT_PLACES: usize = 4;

impl Waiting {
    /// Messages that are not settled.
    pub fn open(&self) -> usize {
        self.open
    }

    pub fn oldest(&self) -> Option<&Message> {
        self.slots.iter().find_map(|slot| slot.message.as_ref())
    }

    /// Adds a message behind the others. Where there is no room the oldest of its channel are given up, or itself.
    pub fn push(&mut self, message: Message, shared: &mut Shared, out: &mut dyn Sink) {
        let bytes = SLOT_BYTES + message.text_bytes();
        while shared.held_bytes + bytes > HELD_BYTES_MAX {
            match self.pop(shared) {
                Some(Some(_)) => out.lost(Loss::PendingFull),
                Some(None) => {}
                None => return out.lost(Loss::PendingFull),
            }
        }
        shared.held_bytes += bytes;
        self.open += 1;
        self.slots.push_back(Slot { tag: message.tag, message: Some(message) });
    }

    fn pop(&mut self, shared: &mut Shared) -> Option<Option<Message>> {
        let slot = self.slots.pop_front()?;
        shared.held_bytes = shared.held_bytes.saturating_sub(SLOT_BYTES + slot.message.as_ref().map_or(0, Message::text_bytes));
        self.open -= usize::from(slot.message.is_some());
        if self.slots.is_empty() && self.slots.capacity() > KEPT_PLACES {
            self.slots.shrink_to(KEPT_PLACES);
        }
        Some(slot.message)
    }

    /// The message of this tag.
    pub fn take(&mut self, tag: u64, shared: &mut Shared) -> Option<Message> {
        if self.slots.front()?.tag == tag {
            let message = self.pop(shared)?;
            while self.slots.front().is_some_and(|slot| slot.message.is_none()) {
                self.pop(shared);
            }
            return message;
        }
        let place = self.slots.binary_search_by_key(&tag, |slot| slot.tag).ok()?;
        let message = self.slots.get_mut(place)?.message.take()?;
        shared.held_bytes = shared.held_bytes.saturating_sub(message.text_bytes());
        self.open -= 1;
        Some(message)
    }

    /// The oldest message up to this tag; called again for the next one.
    pub fn take_through(&mut self, tag: u64, shared: &mut Shared) -> Option<Message> {
        while self.slots.front()?.tag <= tag {
            if let Some(message) = self.pop(shared)? {
                return Some(message);
            }
        }
        None
    }

    /// The oldest message of all.
    pub fn take_oldest(&mut self, shared: &mut Shared) -> Option<Message> {
        self.take_through(u64::MAX, shared)
    }

    pub fn find(&mut self, wanted: impl Fn(&Message) -> bool) -> Option<&mut Message> {
        self.slots.iter_mut().filter_map(|slot| slot.message.as_mut()).find(|message| wanted(message))
    }

    /// What becomes of these can no longer be known.
    pub fn give_up(&mut self, shared: &mut Shared, out: &mut dyn Sink) {
        while self.take_oldest(shared).is_some() {
            out.lost(Loss::ParseGap);
        }
    }

    pub fn unsettled(&mut self, at_ns: u64, shared: &mut Shared, out: &mut dyn Sink) {
        while let Some(message) = self.take_oldest(shared) {
            message.unsettled(at_ns, shared, out);
        }
    }
}

/// Settlements that were reported before what they settle.
#[derive(Debug, Default)]
pub struct Early(Vec<Settlement>);

/// More than that are not reported out of order; the oldest is then of something that was not seen.
const EARLY_MAX: usize = 256;

impl Early {
    pub fn is_full(&self) -> bool {
        self.0.len() >= EARLY_MAX
    }

    pub fn put(&mut self, settlement: Settlement, shared: &mut Shared) {
        if self.is_full() {
            self.0.remove(0);
            shared.early.give_back(1);
        }
        if shared.early.take() {
            self.0.push(settlement);
        }
    }

    /// The settlement of this tag; those that can only be of older ones are forgotten.
    pub fn take(&mut self, tag: u64, shared: &mut Shared) -> Option<Settlement> {
        if self.0.is_empty() {
            return None;
        }
        let found = self.0.iter().copied().find(|settlement| settlement.covers(tag));
        let before = self.0.len();
        self.0.retain(|settlement| settlement.tag > tag);
        shared.early.give_back(before - self.0.len());
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        found
    }

    pub fn clear(&mut self, shared: &mut Shared) {
        shared.early.give_back(std::mem::take(&mut self.0).len());
    }
}
