//! TLS seen as ciphertext: recognised by its handshake (RFC 8446, 5.1 and 4.1), and left alone from there on.

use super::{At, Capture, Definition, Likeness, Opening, Parser, Sink, Step};
use crate::model::{Flow, Protocol};

pub const DEFINITION: Definition = Definition::stream(Protocol::Tls, likeness, |_: Opening| Box::new(Ciphertext));

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// Record header {type, version 3.x, length} and the handshake type behind it.
fn likeness(flow: Flow, bytes: &[u8]) -> Likeness {
    let hello = match flow {
        Flow::Request => CLIENT_HELLO,
        Flow::Response => SERVER_HELLO,
    };
    match bytes {
        [HANDSHAKE, 3, 0..=4, _, _, kind, 0, ..] if *kind == hello => Likeness::Certain,
        [HANDSHAKE] | [HANDSHAKE, 3] | [HANDSHAKE, 3, 0..=4] | [HANDSHAKE, 3, 0..=4, _] | [HANDSHAKE, 3, 0..=4, _, _] => {
            Likeness::Undecided
        }
        [HANDSHAKE, 3, 0..=4, _, _, kind] if *kind == hello => Likeness::Undecided,
        _ => Likeness::No,
    }
}

struct Ciphertext;

impl Parser for Ciphertext {
    fn parse(&mut self, _: Flow, bytes: &[u8], _: At, out: &mut dyn Sink) -> Step {
        out.capture(Capture::Lengths);
        Step::Skip { head: bytes.len(), body: u64::MAX }
    }

    fn skipped(&mut self, _: Flow, _: u64, _: &mut dyn Sink) {}

    fn gap(&mut self, _: Flow, _: u64, _: u64, _: &mut dyn Sink) {}

    fn close(&mut self, _: u64, _: &mut dyn Sink) {}
}
