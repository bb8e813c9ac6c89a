//! Published messages of one channel and their confirms (RabbitMQ manual, "Publisher Confirms").

use super::{
    record::{Code, Seen, Shared},
    waiting::{Early, Message, Settlement, Waiting},
};
use crate::{
    model::Flags,
    protocols::{Loss, Sink},
};

/// Messages of which it is not known whether an answer is due are held until so many wait, or the oldest for so long.
pub const DOUBTS_MAX: usize = 512;
pub const DOUBT_NS: u64 = 10_000_000_000;

/// Whether publishes are confirmed, and what is known of their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The channel's begin was seen, and no confirm.select.
    Off,
    /// None was confirmed for long enough.
    SeemsOff,
    /// The channel's begin was not seen.
    Unknown,
    /// Confirms come: their tags tell how many were published before what was seen.
    Learning(Learning),
    /// `exact`: confirm.select was seen, and everything since.
    On { exact: bool },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Learning {
    /// Messages seen since nothing was known.
    published: u64,
    /// At least so many were published before those.
    before: u64,
    newest: u64,
    newest_ns: u64,
    /// Confirms came since the last publish.
    confirmed: bool,
    /// So often all that was published was confirmed when the next one was published.
    turns: u32,
    /// The publisher does not wait for all confirms.
    ahead: bool,
}

/// A publisher that was never seen at rest would be numbered wrongly: that it waits for its confirms must show so often, and so often
/// where it was seen to send before all were there.
const TURNS: u32 = 8;
const TURNS_AHEAD: u32 = 32;
/// Or no confirm is under way any more after so long.
const REST_NS: u64 = 1_000_000_000;

impl Learning {
    fn confirm(&mut self, tag: u64, at_ns: u64) {
        self.newest = self.newest.max(tag);
        self.newest_ns = at_ns;
        self.confirmed = true;
        let before = tag.saturating_sub(self.published);
        if before > self.before {
            self.before = before;
            self.turns = 0;
        }
    }

    /// Before the next message: whether the number of those before is known now.
    fn turn(&mut self, at_ns: u64) -> bool {
        if !std::mem::take(&mut self.confirmed) {
            return false;
        }
        if self.newest != self.before.saturating_add(self.published) {
            self.ahead = true;
            return false;
        }
        self.turns += 1;
        let needed = if self.ahead { TURNS_AHEAD } else { TURNS };
        self.turns >= needed || at_ns.saturating_sub(self.newest_ns) >= REST_NS
    }
}

#[derive(Debug)]
pub struct Publishes {
    mode: Mode,
    /// Tag of the next message, where that is known; else a number.
    next: u64,
    waiting: Waiting,
    early: Early,
    early_returns: Vec<Message>,
}

/// More messages than that do not come back before their publish is reported.
const EARLY_RETURNS_MAX: usize = 8;

impl Publishes {
    /// `opened`: the channel's begin was seen.
    pub fn new(opened: bool) -> Self {
        Self {
            mode: if opened { Mode::Off } else { Mode::Unknown },
            next: 1,
            waiting: Waiting::default(),
            early: Early::default(),
            early_returns: Vec::new(),
        }
    }

    /// confirm.select was seen.
    pub fn select(&mut self, shared: &mut Shared, out: &mut dyn Sink) {
        if matches!(self.mode, Mode::On { .. } | Mode::Learning(_)) {
            return;
        }
        self.send_doubtful(shared, out);
        // A second one changes nothing, and the first may not have been seen.
        self.mode = Mode::On { exact: self.mode == Mode::Off };
        self.next = 1;
    }

    /// A message went out whole.
    pub fn publish(&mut self, mut message: Message, closing: bool, shared: &mut Shared, out: &mut dyn Sink) {
        if let Some(place) = self.early_returns.iter().position(|returned| message.comes_back_as(returned)) {
            message.come_back(&self.early_returns.remove(place));
        }
        if let Mode::Learning(learning) = &mut self.mode
            && learning.turn(message.start_ns)
        {
            let before = learning.before;
            self.learnt(before, shared, out);
        }
        match &mut self.mode {
            Mode::Off | Mode::SeemsOff => message.sent(Flags::default(), shared, out),
            Mode::Unknown => {
                let now = message.sent_ns;
                self.hold(message, shared, out);
                let since = self.waiting.oldest().map_or(now, |oldest| oldest.sent_ns);
                if self.waiting.open() > DOUBTS_MAX || now.saturating_sub(since) > DOUBT_NS {
                    self.send_doubtful(shared, out);
                    self.mode = Mode::SeemsOff;
                    self.next = 1;
                }
            }
            Mode::Learning(learning) => {
                learning.published = learning.published.saturating_add(1);
                self.next = learning.published;
                self.hold(message, shared, out);
                if self.waiting.open() > DOUBTS_MAX {
                    self.waiting.give_up(shared, out);
                }
            }
            Mode::On { .. } => {
                message.tag = self.next;
                self.next = self.next.saturating_add(1);
                match self.early.take(message.tag, shared) {
                    Some(settlement) => message.settled(&settlement, shared, out),
                    None if closing => message.unsettled(message.sent_ns, shared, out),
                    None => self.waiting.push(message, shared, out),
                }
            }
        }
    }

    /// Keeps a message whose tag is not known under the number of its turn.
    fn hold(&mut self, mut message: Message, shared: &mut Shared, out: &mut dyn Sink) {
        message.tag = self.next;
        message.doubtful = true;
        self.next = self.next.saturating_add(1);
        self.waiting.push(message, shared, out);
    }

    /// So many messages were published before those that are held: now their tags are known, and which of the confirms were theirs.
    fn learnt(&mut self, before: u64, shared: &mut Shared, out: &mut dyn Sink) {
        let mut held = std::mem::take(&mut self.waiting);
        while let Some(mut message) = held.take_oldest(shared) {
            message.tag = message.tag.saturating_add(before);
            message.doubtful = false;
            match self.early.take(message.tag, shared) {
                Some(settlement) => message.settled(&settlement, shared, out),
                None => self.waiting.push(message, shared, out),
            }
        }
        self.next = self.next.saturating_add(before);
        self.early.clear(shared);
        self.mode = Mode::On { exact: false };
    }

    /// Those of which it was never known whether a confirm was due.
    fn send_doubtful(&mut self, shared: &mut Shared, out: &mut dyn Sink) {
        while let Some(mut message) = self.waiting.take_oldest(shared) {
            message.tag = 0;
            message.unsettled(message.sent_ns, shared, out);
        }
    }

    /// The server confirmed.
    pub fn confirm(&mut self, settlement: Settlement, shared: &mut Shared, out: &mut dyn Sink) {
        match &mut self.mode {
            Mode::Off | Mode::SeemsOff | Mode::Unknown => self.learn(false, settlement, shared),
            Mode::Learning(learning) => {
                learning.confirm(settlement.tag, settlement.seen.last_ns);
                if self.early.is_full() {
                    self.waiting.give_up(shared, out);
                    self.early.clear(shared);
                }
                self.early.put(settlement, shared);
            }
            Mode::On { exact } => {
                if settlement.tag >= self.next && !*exact {
                    // More was confirmed than was counted: the publisher was ahead when it was thought to be at rest.
                    self.waiting.give_up(shared, out);
                    self.next = 1;
                    return self.learn(true, settlement, shared);
                }
                if settlement.multiple {
                    while let Some(message) = self.waiting.take_through(settlement.through(), shared) {
                        message.settled(&settlement, shared, out);
                    }
                } else if let Some(message) = self.waiting.take(settlement.tag, shared) {
                    message.settled(&settlement, shared, out);
                }
                if settlement.tag >= self.next {
                    self.early.put(settlement, shared);
                }
            }
        }
    }

    fn learn(&mut self, ahead: bool, settlement: Settlement, shared: &mut Shared) {
        let mut learning = Learning { published: self.next.saturating_sub(1), ahead, ..Learning::default() };
        learning.confirm(settlement.tag, settlement.seen.last_ns);
        self.mode = Mode::Learning(learning);
        self.early.clear(shared);
        self.early.put(settlement, shared);
    }

    /// A message came back. Returns come in the order of what they return, before its confirm; `under_way`: a publish that is not whole yet.
    pub fn returned(&mut self, returned: Message, under_way: Option<&mut Message>, shared: &mut Shared, out: &mut dyn Sink) {
        if matches!(self.mode, Mode::Off | Mode::SeemsOff) {
            return returned.ended(Code::new(returned.returned).text(), true, Flags::default(), shared, out);
        }
        let waiting = self.waiting.find(|message| message.comes_back_as(&returned));
        match waiting.or(under_way.filter(|message| message.comes_back_as(&returned))) {
            Some(message) => message.come_back(&returned),
            // Reported before its publish.
            None if shared.exact && self.early_returns.len() < EARLY_RETURNS_MAX => self.early_returns.push(returned),
            None => out.lost(Loss::ParseGap),
        }
    }

    /// Messages that wait for a confirm which is certainly due.
    pub fn due(&self) -> usize {
        if matches!(self.mode, Mode::On { .. }) { self.waiting.open() } else { 0 }
    }

    /// The server closed the channel because of a publish; false where it cannot be told which one.
    pub fn refuse(&mut self, status: &str, seen: Seen, shared: &mut Shared, out: &mut dyn Sink) -> bool {
        if self.due() != 1 {
            return false;
        }
        let refused = self.waiting.take_oldest(shared);
        refused.inspect(|message| message.refused(status, seen, shared, out)).is_some()
    }

    /// Messages of the client were missed: their number is not known, nor what else was said.
    pub fn gap_in_requests(&mut self, shared: &mut Shared, out: &mut dyn Sink) {
        self.waiting.give_up(shared, out);
        self.early.clear(shared);
        self.early_returns.clear();
        self.mode = Mode::Unknown;
        self.next = 1;
    }

    /// Confirms were missed: what they confirmed would wait for ever.
    pub fn gap_in_responses(&mut self, shared: &mut Shared, out: &mut dyn Sink) {
        self.waiting.give_up(shared, out);
        self.early.clear(shared);
        self.early_returns.clear();
    }

    /// The channel is over.
    pub fn close(&mut self, at_ns: u64, shared: &mut Shared, out: &mut dyn Sink) {
        if matches!(self.mode, Mode::Unknown | Mode::Learning(_)) {
            self.send_doubtful(shared, out);
        }
        self.waiting.unsettled(at_ns, shared, out);
        self.early.clear(shared);
        self.early_returns.clear();
    }
}
