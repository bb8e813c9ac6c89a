//! Content that is looked at: the bodies of gRPC-Web, in pieces as they come.

use super::{Http1, Place, head};
use crate::{
    model::Flow,
    protocols::{At, Sink, Step},
};

impl Http1 {
    /// The response to a call of gRPC-Web has begun; whether its body is to be read.
    pub(super) fn call_response(&mut self, status: u16, bytes: &[u8], at: At) -> bool {
        let (encoding, head) = head::grpc_response(status, bytes);
        self.pairing.call(Flow::Response).is_some_and(|call| call.response_headers(encoding, &head, at))
    }

    /// Content that is looked at.
    pub(super) fn content(&mut self, flow: Flow, left: u64, chunk: bool, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        let Some(call) = self.pairing.call(flow) else {
            self.lane(flow).place = Place::ContentPassed { passed: left, left, chunk };
            return Step::Skip { head: 0, body: left };
        };
        let content = bytes.get(..left.min(bytes.len() as u64) as usize).unwrap_or(bytes);
        call.data(flow, content, at);
        // What is left of a large message need not be captured.
        let passed = call.passable(flow).min(left - content.len() as u64);
        self.content_done(flow, content.len() as u64, left, chunk, at.last_ns, out);
        match self.place(flow) {
            Place::Content { left, chunk } if passed > 0 => {
                self.lane(flow).place = Place::ContentPassed { passed, left, chunk };
                Step::Skip { head: content.len(), body: passed }
            }
            _ => Step::Consumed(content.len()),
        }
    }

    /// `done` bytes of the content that is looked at went by.
    fn content_done(&mut self, flow: Flow, done: u64, left: u64, chunk: bool, at_ns: u64, out: &mut dyn Sink) {
        self.message_bytes(flow, done, done, at_ns);
        let left = left.saturating_sub(done);
        match (left, chunk) {
            (0, false) => self.end_message(flow, at_ns, out),
            // The line break behind the chunk's data.
            (0, true) => self.lane(flow).place = Place::ChunkData(0),
            _ => self.lane(flow).place = Place::Content { left, chunk },
        }
    }

    /// `passed` bytes of content went by unseen.
    pub(super) fn content_passed(&mut self, flow: Flow, passed: u64, left: u64, chunk: bool, at_ns: u64, out: &mut dyn Sink) {
        if let Some(call) = self.pairing.call(flow) {
            call.missing(flow, passed, at_ns);
        }
        self.content_done(flow, passed, left, chunk, at_ns, out);
    }
}
