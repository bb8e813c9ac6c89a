//! What a connection is subscribed to, as far as it decides which messages of the server answer nothing.

use super::{lookup::Kind, reply::Reply, request::Request};

/// Which list of the server a confirmation counts.
#[derive(Clone, Copy)]
enum List {
    Channels,
    Patterns,
    Shards,
}

#[derive(Default)]
pub struct Subscriptions {
    /// Everything since the connection opened was seen.
    known: bool,
    /// The server marks what it sends unasked (RESP3).
    marked: bool,
    channels: u64,
    patterns: u64,
    shards: u64,
}

impl Subscriptions {
    pub fn new(known: bool) -> Self {
        Self { known, ..Self::default() }
    }

    pub fn any(&self) -> bool {
        self.channels + self.patterns + self.shards > 0
    }

    /// RESET ends all.
    pub fn reset(&mut self) {
        *self = Self::new(true);
    }

    /// Takes a confirmation; how many subscriptions of its kind are left.
    pub fn confirm(&mut self, reply: &Reply) -> u64 {
        let list = match reply.name.bytes() {
            [b'p', ..] => List::Patterns,
            b"ssubscribe" | b"sunsubscribe" => List::Shards,
            _ => List::Channels,
        };
        self.marked = reply.kind == b'>';
        // Channels and patterns are counted together.
        match list {
            List::Channels => {
                self.channels = reply.number.saturating_sub(self.patterns);
                self.channels
            }
            List::Patterns => {
                self.patterns = reply.number.saturating_sub(self.channels);
                self.patterns
            }
            List::Shards => {
                self.shards = reply.number;
                self.shards
            }
        }
    }

    /// The message answers no command: RESP3 says so, RESP2 lets it be told by its name while a connection is subscribed.
    pub fn is_unasked(&self, reply: &Reply, front: Option<&Request>) -> bool {
        if reply.kind == b'>' {
            return true;
        }
        let delivers = reply.kind == b'*'
            && !self.marked
            && matches!(
                (reply.name.bytes(), reply.count),
                (b"message" | b"smessage" | b"unsubscribe" | b"sunsubscribe" | b"punsubscribe", 3) | (b"pmessage", 4)
            );
        if !delivers {
            return false;
        }
        let Some(front) = front else { return true };
        // A subscriber may ask for little else, and nothing of that is answered like this.
        self.any() || (!self.known && matches!(front.id.command().kind, Kind::Subscribe | Kind::Unsubscribe))
    }
}
