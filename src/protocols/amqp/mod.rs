//! AMQP 0-9-1 with RabbitMQ's extensions: finds frames in both flows and hands what they say to the session, which pairs it.
//! Exchanges go both ways: the server asks, too, when it delivers. `docs/protocols/amqp.md` says what comes out.
#![deny(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used)]

mod calls;
mod channel;
mod deliveries;
mod frames;
mod methods;
mod publishes;
mod record;
mod route;
mod session;
#[cfg(test)]
mod tests;
mod waiting;

use frames::{END, Found, HEAD, Head, Kind, METHOD_NEEDS, PROTOCOL_HEADER, Resumed};
use record::Seen;
use session::Session;

use super::{At, Capture, Definition, Loss, Opening, Parser, Sink, Step};
use crate::model::{Flow, Protocol};

pub const DEFINITION: Definition = Definition::stream(Protocol::Amqp, frames::likeness, |opening| Box::new(Amqp::new(opening)));

/// So many times frames may turn out to be none before a connection is not taken for AMQP any more.
const VIOLATIONS_LIMIT: u32 = 8;

/// What is known of one flow's framing.
#[derive(Default)]
struct Lane {
    /// Where frames begin is not known.
    lost: bool,
    /// While lost: the next byte may begin a frame.
    likely: bool,
    /// The protocol header is still to come.
    opening: bool,
    /// What the frame that is passed over says once it is whole.
    passing: Option<Passing>,
}

/// A frame of which enough was seen, but not its end.
#[derive(Clone, Copy)]
struct Passing {
    head: Head,
    /// Of a content header: the size of the body.
    body: u64,
    first_ns: u64,
}

struct Amqp {
    /// By flow.
    lanes: [Lane; 2],
    /// The client's protocol header.
    opening: Option<Seen>,
    wished: bool,
    violations: u32,
    session: Session,
}

impl Amqp {
    fn new(opening: Opening) -> Self {
        let lane = |opens| Lane { lost: opening.adopted, likely: false, opening: opens && !opening.adopted, passing: None };
        Self {
            lanes: [lane(true), lane(false)],
            opening: None,
            wished: false,
            violations: 0,
            session: Session::new(opening.adopted, opening.shows(Protocol::Amqp)),
        }
    }

    fn lane(&mut self, flow: Flow) -> &mut Lane {
        let [request, response] = &mut self.lanes;
        match flow {
            Flow::Request => request,
            Flow::Response => response,
        }
    }

    /// What stands here is no frame: the place is lost.
    fn violation(&mut self, flow: Flow, consumed: usize, out: &mut dyn Sink) -> Step {
        self.violations += 1;
        if self.violations > VIOLATIONS_LIMIT {
            return Step::NotMine;
        }
        let lane = self.lane(flow);
        (lane.lost, lane.likely) = (true, false);
        out.lost(Loss::ParseGap);
        self.session.gap(flow, out);
        Step::Consumed(consumed)
    }

    /// The client's protocol header at the front, where it may stand.
    fn open(&mut self, bytes: &[u8], at: At) -> Option<Step> {
        let opened = bytes.starts_with(PROTOCOL_HEADER);
        if !opened && !PROTOCOL_HEADER.starts_with(bytes) {
            return None;
        }
        if !opened {
            return Some(Step::NeedMore);
        }
        self.opening = Some(Seen { first_ns: at.first_ns, last_ns: at.last_ns, bytes: PROTOCOL_HEADER.len() as u64 });
        for lane in &mut self.lanes {
            *lane = Lane::default();
        }
        self.session.begin();
        Some(Step::Consumed(PROTOCOL_HEADER.len()))
    }

    /// Looks for a frame's begin; `None`: there is one at the front.
    fn resume(&mut self, flow: Flow, bytes: &[u8], at: At) -> Option<Step> {
        if flow == Flow::Request
            && at.call_start
            && self.opening.is_none()
            && let Some(step) = self.open(bytes, at)
        {
            return Some(step);
        }
        let likely = at.call_start || self.lane(flow).likely;
        let resumed = frames::resume(flow, bytes, likely);
        let lane = self.lane(flow);
        lane.likely = resumed != Resumed::Nowhere;
        match resumed {
            Resumed::At(0) => {
                (lane.lost, lane.likely) = (false, false);
                None
            }
            Resumed::Perhaps(0) => Some(Step::NeedMore),
            Resumed::At(position) | Resumed::Perhaps(position) => Some(Step::Consumed(position)),
            Resumed::Nowhere => Some(Step::Consumed(bytes.len())),
        }
    }

    /// A frame of which enough is there; `seen.last_ns` is its end's where it is whole. False: it cannot be one.
    fn frame(&mut self, flow: Flow, head: Head, bytes: &[u8], whole: bool, seen: Seen, out: &mut dyn Sink) -> bool {
        let end = if whole { head.length as usize } else { bytes.len().saturating_sub(HEAD).min(head.length as usize) };
        let payload = bytes.get(HEAD..HEAD + end).unwrap_or_default();
        match head.kind {
            Kind::Heartbeat => true,
            Kind::Method => {
                let payload = payload.get(..payload.len().min(METHOD_NEEDS)).unwrap_or_default();
                let Some((spec, arguments, _)) = frames::method(payload, payload.len() == head.length as usize) else {
                    // A method that is not known may be a later addition; one whose arguments do not fit is none.
                    return frames::is_unknown_method(payload);
                };
                if !spec.goes(flow, head.channel) {
                    return false;
                }
                self.session.method(flow, head.channel, spec, &arguments, seen, out);
                true
            }
            Kind::Header => {
                let Some(body) = frames::body_size(payload) else { return false };
                if !whole {
                    self.lane(flow).passing = Some(Passing { head, body, first_ns: seen.first_ns });
                    return true;
                }
                self.session.header(flow, head.channel, body, seen, out)
            }
            Kind::Body if whole => self.session.body(flow, head.channel, head.length.into(), seen, out),
            Kind::Body => {
                self.lane(flow).passing = Some(Passing { head, body: 0, first_ns: seen.first_ns });
                true
            }
        }
    }
}

impl Parser for Amqp {
    fn parse(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        if !std::mem::replace(&mut self.wished, true) {
            out.capture(Capture::Full);
        }
        if self.lane(flow).opening {
            return self.open(bytes, at).unwrap_or(Step::NotMine);
        }
        if self.lane(flow).lost
            && let Some(step) = self.resume(flow, bytes, at)
        {
            return step;
        }
        let mut position = 0;
        loop {
            let rest = bytes.get(position..).unwrap_or_default();
            let first_ns = if position == 0 { at.first_ns } else { at.last_ns };
            let head = match frames::head(rest) {
                Found::Frame(head) if rest.len() >= head.needs() => head,
                Found::Frame(_) | Found::Short => return if position > 0 { Step::Consumed(position) } else { Step::NeedMore },
                Found::Bad if flow == Flow::Response && rest.starts_with(b"AMQP") && self.opening.is_some() => {
                    let answer = Seen { first_ns, last_ns: at.last_ns, bytes: rest.len() as u64 };
                    if let Some(opening) = self.opening.take() {
                        self.session.other_version(opening, answer, out);
                    }
                    return Step::Skip { head: bytes.len(), body: u64::MAX };
                }
                Found::Bad => return self.violation(flow, bytes.len(), out),
            };
            let whole = rest.len() as u64 >= head.total();
            let total = usize::try_from(head.total()).unwrap_or(usize::MAX);
            if whole && rest.get(total - 1) != Some(&END) {
                return self.violation(flow, bytes.len(), out);
            }
            let seen = Seen { first_ns, last_ns: at.last_ns, bytes: head.total() };
            if !self.frame(flow, head, rest, whole, seen, out) {
                return self.violation(flow, bytes.len(), out);
            }
            if !whole {
                return Step::Skip { head: bytes.len(), body: head.total() - rest.len() as u64 };
            }
            position += total;
            if position >= bytes.len() {
                return Step::Consumed(position);
            }
        }
    }

    fn skipped(&mut self, flow: Flow, at_ns: u64, out: &mut dyn Sink) {
        let Some(Passing { head, body, first_ns }) = self.lane(flow).passing.take() else { return };
        let seen = Seen { first_ns, last_ns: at_ns, bytes: head.total() };
        let possible = match head.kind {
            Kind::Header => self.session.header(flow, head.channel, body, seen, out),
            _ => self.session.body(flow, head.channel, head.length.into(), seen, out),
        };
        if !possible {
            self.violation(flow, 0, out);
        }
    }

    fn gap(&mut self, flow: Flow, _lost: u64, _at_ns: u64, out: &mut dyn Sink) {
        let lane = self.lane(flow);
        (lane.lost, lane.likely, lane.passing) = (true, false, None);
        out.lost(Loss::ParseGap);
        self.session.gap(flow, out);
    }

    fn close(&mut self, at_ns: u64, out: &mut dyn Sink) {
        self.session.close(at_ns, out);
    }
}
