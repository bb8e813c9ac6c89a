//! WebSocket (RFC 6455): what follows a 101 of HTTP/1 that agreed on it. Frames and messages are counted, payloads passed over.
//!
//! One exchange a connection, from the 101 to its end. It is an error when its close code is any but 1000, 1001 and 1005 (no code given);
//! an end without a close frame is 1006, and one that not both sides announced is flagged `unanswered`. A connection that is joined later
//! than its upgrade cannot be told from other traffic: there is no detection here, only [`upgraded`].
#![deny(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used))]

mod frame;
mod record;
#[cfg(test)]
mod tests;

use self::{
    frame::{Head, Kind, Read},
    record::{Counts, End, Record},
};
use crate::{
    model::{Flags, Flow},
    protocols::{At, Capture, Loss, Parser, Sink, Step},
};

/// The request of HTTP that opened the connection.
#[derive(Clone, Debug, Default)]
pub struct Upgraded {
    /// Without query.
    pub path: String,
    pub host: String,
    pub port: Option<u16>,
    pub user_agent: String,
    pub traceparent: String,
    /// When the server agreed.
    pub start_ns: u64,
    /// What the exchange must say because of what was before.
    pub flags: Flags,
}

/// The parser for what follows the upgrade in both flows.
pub fn upgraded(upgraded: Upgraded) -> Box<dyn Parser> {
    Box::new(Websocket { upgraded, lanes: Default::default(), first_byte_ns: None, last_ns: 0, closed: None, over: false })
}

/// What the next bytes of a flow are.
#[derive(Clone, Copy, Debug, Default)]
enum Place {
    #[default]
    Frame,
    /// A payload that is passed over.
    Payload(Head),
    /// Not known.
    Lost,
    /// Nothing comes behind a close frame.
    Closed,
}

#[derive(Default)]
struct Lane {
    place: Place,
    counts: Counts,
}

struct Websocket {
    upgraded: Upgraded,
    lanes: [Lane; 2],
    first_byte_ns: Option<u64>,
    /// The last frame of either flow.
    last_ns: u64,
    /// The first close frame: whose, and its code.
    closed: Option<(Flow, Option<u16>)>,
    /// The exchange is out.
    over: bool,
}

impl Websocket {
    fn lane(&mut self, flow: Flow) -> &mut Lane {
        let [request, response] = &mut self.lanes;
        match flow {
            Flow::Request => request,
            Flow::Response => response,
        }
    }

    /// Counts the frames in `bytes`, as far as they are whole.
    fn frames(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let head = match frame::read(rest) {
                Read::Whole(head) if rest.len() >= head.needed() => head,
                Read::Whole(_) | Read::Partial if done > 0 => return Step::Consumed(done),
                Read::Whole(_) | Read::Partial => return Step::NeedMore,
                Read::Malformed => {
                    self.lose(flow, out);
                    self.lane(flow).counts.bytes += rest.len() as u64;
                    return Step::Consumed(bytes.len());
                }
            };
            self.lane(flow).counts.bytes += head.size as u64;
            if head.kind == Kind::Close {
                self.close_frame(flow, head.close_code(rest));
            }
            let behind = (rest.len() - head.size) as u64;
            if head.payload > behind {
                self.lane(flow).place = Place::Payload(head);
                return Step::Skip { head: done + head.size, body: head.payload };
            }
            self.end_frame(flow, &head, at.last_ns, out);
            done += head.size + head.payload as usize;
            if matches!(self.lane(flow).place, Place::Closed) {
                break;
            }
        }
        Step::Consumed(done)
    }

    fn close_frame(&mut self, flow: Flow, code: Option<u16>) {
        self.closed.get_or_insert((flow, code));
    }

    fn end_frame(&mut self, flow: Flow, head: &Head, at_ns: u64, out: &mut dyn Sink) {
        let lane = self.lane(flow);
        lane.counts.frame(head);
        lane.counts.bytes = lane.counts.bytes.saturating_add(head.payload);
        lane.place = if head.kind == Kind::Close { Place::Closed } else { Place::Frame };
        self.last_ns = self.last_ns.max(at_ns);
        if self.agreed() {
            out.capture(Capture::Lengths);
            self.end(self.last_ns, out);
        }
    }

    /// Both sides sent a close frame.
    fn agreed(&self) -> bool {
        self.lanes.iter().all(|lane| matches!(lane.place, Place::Closed))
    }

    /// Where frames begin is no longer known.
    fn lose(&mut self, flow: Flow, out: &mut dyn Sink) {
        out.lost(Loss::ParseGap);
        let lane = self.lane(flow);
        lane.place = Place::Lost;
        lane.counts.missed = true;
    }

    /// A close frame that is a whole call is believed wherever it comes: nothing else is likely to look like one.
    fn lost(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if at.call_start
            && let Read::Whole(head) = frame::read(bytes)
            && head.kind == Kind::Close
            && head.suits(flow)
            && (head.size as u64).saturating_add(head.payload) == bytes.len() as u64
            && let Some(code @ 1000..=4999) = head.close_code(bytes)
        {
            self.lane(flow).counts.bytes += head.size as u64;
            self.close_frame(flow, Some(code));
            self.end_frame(flow, &head, at.last_ns, out);
        } else {
            self.lane(flow).counts.bytes += bytes.len() as u64;
        }
        Step::Consumed(bytes.len())
    }

    fn end(&mut self, end_ns: u64, out: &mut dyn Sink) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let [Lane { counts: client, .. }, Lane { counts: server, .. }] = &self.lanes;
        let end = match self.closed {
            Some((by, code)) => End::Closed(by, code),
            None if client.missed || server.missed => End::Unknown,
            None => End::Cut,
        };
        let first_byte_ns = self.first_byte_ns;
        Record { upgraded: &self.upgraded, client, server, first_byte_ns, end_ns, end, agreed: self.agreed() }.write(out);
    }
}

impl Parser for Websocket {
    fn parse(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if flow == Flow::Response {
            self.first_byte_ns.get_or_insert(at.first_ns);
        }
        match self.lane(flow).place {
            Place::Frame => self.frames(flow, bytes, at, out),
            Place::Lost => self.lost(flow, bytes, at, out),
            // Payloads are skipped, so these bytes are not asked for.
            Place::Payload(_) | Place::Closed => Step::Skip { head: 0, body: u64::MAX },
        }
    }

    fn skipped(&mut self, flow: Flow, at_ns: u64, out: &mut dyn Sink) {
        if let Place::Payload(head) = self.lane(flow).place {
            self.end_frame(flow, &head, at_ns, out);
        }
    }

    fn gap(&mut self, flow: Flow, lost: u64, _at_ns: u64, out: &mut dyn Sink) {
        match self.lane(flow).place {
            Place::Closed => return,
            Place::Lost => {}
            Place::Frame | Place::Payload(_) => self.lose(flow, out),
        }
        let bytes = &mut self.lane(flow).counts.bytes;
        *bytes = bytes.saturating_add(lost);
    }

    fn close(&mut self, at_ns: u64, out: &mut dyn Sink) {
        self.end(at_ns, out);
    }
}
