//! Conversations, recorded and made up, and what becomes of them.

mod conversations;
mod golden;

use super::parser;
use crate::protocols::testing::Conversation;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITY: u8 = 0x20;

pub const CANCEL: [u8; 4] = [0, 0, 0, 8];

pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Fields that no table takes in; the number of a static entry stands for itself.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(0x00, name, value)).collect()
}

/// Fields that the dynamic table takes in.
pub fn kept(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(0x40, name, value)).collect()
}

fn literal(first: u8, name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let mut bytes = match text.len() {
            short @ ..127 => vec![short as u8],
            long => {
                let rest = long - 127;
                assert!(rest < 128 * 128);
                vec![127, (rest % 128) as u8 | 0x80, (rest / 128) as u8]
            }
        };
        bytes.extend(text.as_bytes());
        bytes
    };
    [vec![first], text(name), text(value)].concat()
}

/// A request without a body.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, request_fields("GET", path))
}

pub fn request_fields(method: &str, path: &str) -> Vec<u8> {
    fields(&[(":method", method), (":scheme", "http"), (":path", path), (":authority", "shop:8080")])
}

/// A response without a body.
pub fn answer(stream: u32, status: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, fields(&[(":status", status)]))
}

pub fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, [])
}

/// A connection on which both sides have said their settings.
pub fn opened() -> Conversation {
    let mut talk = Conversation::opened(parser);
    talk.request([super::PREFACE.as_slice(), &settings()].concat()).response(settings());
    talk
}
