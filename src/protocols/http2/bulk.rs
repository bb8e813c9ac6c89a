//! Bodies of which the kernel does not carry all: a call of more bytes than a record holds may have frames in its unseen part.
//!
//! While a single stream has anything to say in a flow, what is unseen there can only be the frames of its body, as long as that body goes
//! on behind the hole or the hole is as long as what is left of it. Then no header block was missed, and nothing need be forgotten.

use super::{
    Http2, MAX_UNSURE, Place, Taken,
    frame::{self, Chain, END_STREAM, HEAD, Kind},
};
use crate::{
    model::Flow,
    protocols::{At, Sink},
};

/// The body that is under way in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bulk {
    pub stream: u32,
    /// Content of its longest frame so far: most are of that length.
    length: u32,
    /// Bytes since the last frame that was seen.
    unseen: u64,
    /// Only frames of this body can be among them: more is announced than they are, and no other stream had anything to say.
    pure: bool,
}

/// Content of a long frame.
const LONG: u32 = 4096;

impl Bulk {
    /// A frame of a body; `before` is what came before it in its flow.
    pub fn seen(before: Option<Self>, stream: u32, length: u32) -> Self {
        let longest = before.filter(|before| before.stream == stream).map_or(0, |before| before.length);
        Self { stream, length: length.max(longest), unseen: 0, pure: true }
    }

    /// Nothing else can be in a hole of this flow; `only`: the stream of which alone more is to come. Among long frames
    /// anything else, be it a client's new request or a WINDOW_UPDATE, would put the next one out of step.
    pub fn is_alone(&self, only: Option<u32>) -> bool {
        only == Some(self.stream) && self.length >= LONG
    }

    /// With more bytes unseen.
    pub fn and(self, lost: u64) -> Self {
        Self { unseen: self.unseen.saturating_add(lost), ..self }
    }

    fn frame(&self) -> u64 {
        HEAD as u64 + u64::from(self.length)
    }

    /// Content of the unseen bytes if all but the last frame are of the usual length.
    fn content(&self, wire: u64) -> u64 {
        wire.saturating_sub(wire.div_ceil(self.frame()).saturating_mul(HEAD as u64))
    }

    /// The head of a frame that goes on with this body.
    fn goes_on_with(&self, head: &frame::Head) -> bool {
        let known = head.kind == Kind::Data && head.stream == self.stream && head.flags & !END_STREAM == 0;
        known && head.length <= self.length
    }
}

impl Http2 {
    /// Bytes of `bulk` were not seen, up to the end of a call. That may be all that was left of the body.
    pub(super) fn unseen(&mut self, flow: Flow, bulk: Bulk, at: At, out: &mut dyn Sink) {
        let remaining = self.session.remaining(flow, bulk.stream);
        let only = self.session.only_unfinished(flow) == Some(bulk.stream);
        let pure = bulk.pure && only && flow == Flow::Response && remaining.is_some_and(|remaining| remaining > bulk.unseen);
        self.lane(flow).place = Place::Unseen(Bulk { pure, ..bulk });
        let Some(remaining) = remaining.filter(|_| bulk.length > 0) else { return };
        let wire = remaining.saturating_add(remaining.div_ceil(bulk.length.into()).saturating_mul(HEAD as u64));
        // The end of the stream may be a frame of its own, without content.
        let whole = bulk.unseen == wire || bulk.unseen == wire.saturating_add(HEAD as u64);
        if whole && only {
            self.lane(flow).place = Place::Frame;
            self.lane(flow).body = None;
            self.session.data(flow, bulk.stream, bulk.unseen, remaining, at);
            self.session.end(flow, bulk.stream, at.last_ns, out);
        }
    }

    /// Looks for the frame by which a body goes on behind a hole.
    pub(super) fn look_for_body(&mut self, flow: Flow, bulk: Bulk, bytes: &[u8], at: At, out: &mut dyn Sink) -> Taken {
        if bulk.pure && at.call_start && self.session.only_unfinished(flow) != Some(bulk.stream) {
            // It was reset, and the other side went on for a while.
            match frame::chain(flow, bytes, self.session.last_stream()).0 {
                Chain::Sure => return self.body_goes_on(flow, bulk, 0, at),
                Chain::Unsure if bytes.len() < MAX_UNSURE => return Taken::NeedMore,
                Chain::Unsure | Chain::Broken => {}
            }
        }
        if self.session.only_unfinished(flow) != Some(bulk.stream) || bulk.length == 0 {
            return self.body_is_lost(flow, bytes, at, out);
        }
        // Where a call begins a frame may, too. In the request flow that is no proof: a new request can be in the hole.
        if at.call_start && flow == Flow::Response {
            match frame::Head::read(bytes) {
                None => return Taken::NeedMore,
                Some(head) if bulk.goes_on_with(&head) => return self.body_goes_on(flow, bulk, 0, at),
                Some(_) => {}
            }
        }
        let into_frame = bulk.unseen % bulk.frame();
        let until_next = if into_frame == 0 { 0 } else { bulk.frame() - into_frame };
        let Some(next) = bytes.get(until_next as usize..).filter(|next| !next.is_empty()) else {
            self.unseen(flow, bulk.and(bytes.len() as u64), at, out);
            return Taken::Bytes(bytes.len());
        };
        match frame::Head::read(next) {
            None => Taken::NeedMore,
            Some(head) if bulk.goes_on_with(&head) => self.body_goes_on(flow, bulk, until_next as usize, at),
            Some(_) => self.body_is_lost(flow, bytes, at, out),
        }
    }

    /// The next frame is behind `skipped` bytes.
    fn body_goes_on(&mut self, flow: Flow, bulk: Bulk, skipped: usize, at: At) -> Taken {
        let wire = bulk.unseen.saturating_add(skipped as u64);
        let exact = wire.is_multiple_of(bulk.frame());
        self.session.unseen_data(flow, bulk.stream, wire, bulk.content(wire), exact, at);
        self.lane(flow).place = Place::Frame;
        self.lane(flow).body = Some(Bulk { unseen: 0, pure: true, ..bulk });
        Taken::Bytes(skipped)
    }

    /// Something else is behind the hole: header blocks may have been in it.
    fn body_is_lost(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Taken {
        self.lose(flow, out);
        if at.call_start {
            // Looked at once more, as bytes of an unknown place.
            return Taken::Again;
        }
        Taken::Bytes(bytes.len())
    }
}
