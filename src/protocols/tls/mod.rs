//! TLS seen as ciphertext: recognised by its handshake (RFC 8446, 5.1 and 4.1), named by its ClientHello, and left alone from there on.
//! `docs/protocols/tls.md` says what comes out.
#![deny(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used)]

mod hello;
#[cfg(test)]
mod tests;

use hello::{CLIENT_HELLO, Read, SERVER_HELLO};

use super::{At, Capture, Definition, Likeness, Opening, Parser, Sink, Step};
use crate::model::{Flow, Protocol};

pub const DEFINITION: Definition = Definition::stream(Protocol::Tls, likeness, |_: Opening| Box::<Ciphertext>::default());

/// Calls of the server that are waited through for the rest of the client's hello: threads may report theirs late.
const ANSWERS_MAX: u8 = 4;

/// Record header {type, version 3.x, length}, and behind it type, length and version of a hello.
fn likeness(flow: Flow, bytes: &[u8]) -> Likeness {
    let kind = match flow {
        Flow::Request => CLIENT_HELLO,
        Flow::Response => SERVER_HELLO,
    };
    match hello::begins(kind, bytes) {
        Read::Done(()) => Likeness::Certain,
        Read::NeedMore => Likeness::Undecided,
        Read::Bad => Likeness::No,
    }
}

#[derive(Default)]
struct Ciphertext {
    /// The client's hello was read, or will not be.
    greeted: bool,
    answers: u8,
}

impl Ciphertext {
    fn finish(&mut self, out: &mut dyn Sink) {
        self.greeted = true;
        out.capture(Capture::Lengths);
    }
}

impl Parser for Ciphertext {
    fn parse(&mut self, flow: Flow, bytes: &[u8], _: At, out: &mut dyn Sink) -> Step {
        if !self.greeted {
            if flow == Flow::Response {
                self.answers += 1;
                if self.answers <= ANSWERS_MAX {
                    return Step::Consumed(bytes.len());
                }
            } else {
                match hello::read(bytes) {
                    Read::NeedMore => return Step::NeedMore,
                    Read::Done(hello) => {
                        if !hello.server_name.is_empty() {
                            out.server_name(&hello.server_name);
                        }
                        if !hello.protocols.is_empty() {
                            out.alpn(&hello.protocols);
                        }
                    }
                    Read::Bad => {}
                }
            }
        }
        self.finish(out);
        Step::Skip { head: bytes.len(), body: u64::MAX }
    }

    fn skipped(&mut self, _: Flow, _: u64, _: &mut dyn Sink) {}

    /// A hello with a hole is not read.
    fn gap(&mut self, flow: Flow, _: u64, _: u64, out: &mut dyn Sink) {
        if flow == Flow::Request && !self.greeted {
            self.finish(out);
        }
    }

    fn close(&mut self, _: u64, _: &mut dyn Sink) {}
}
