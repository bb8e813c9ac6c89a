//! Frames (RFC 9113 section 4.1): their heads, and whether bytes of an unknown place are a chain of them.

use super::hpack;
use crate::{
    model::Flow,
    protocols::{Likeness, reader::Reader},
};

/// What a client says first (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
pub const HEAD: usize = 9;

pub const END_STREAM: u8 = 0x1;
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Data,
    Headers,
    Priority,
    RstStream,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// Of an extension: passed over.
    Other(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Of the payload.
    pub length: u32,
    pub kind: Kind,
    pub flags: u8,
    pub stream: u32,
    /// The bit before the stream's number, which must not be set by a sender.
    reserved: bool,
}

impl Head {
    /// The head at the front; `None` when it is not whole.
    #[inline]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let &[l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes.first_chunk::<HEAD>()?;
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Headers,
            2 => Kind::Priority,
            3 => Kind::RstStream,
            4 => Kind::Settings,
            5 => Kind::PushPromise,
            6 => Kind::Ping,
            7 => Kind::GoAway,
            8 => Kind::WindowUpdate,
            9 => Kind::Continuation,
            other => Kind::Other(other),
        };
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        Some(Self { length: u32::from_be_bytes([0, l0, l1, l2]), kind, flags, stream, reserved: s0 & 0x80 != 0 })
    }

    /// The whole frame.
    pub fn wire(&self) -> u64 {
        HEAD as u64 + u64::from(self.length)
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub fn is_padded(&self) -> bool {
        self.has(PADDED) && matches!(self.kind, Kind::Data | Kind::Headers | Kind::PushPromise)
    }

    /// What every receiver demands: stream numbers and lengths that fit the kind.
    pub fn is_valid(&self) -> bool {
        let on_stream = self.stream != 0;
        match self.kind {
            Kind::Data | Kind::Headers | Kind::Continuation => on_stream,
            Kind::PushPromise => on_stream && self.length >= 4,
            Kind::Priority => on_stream && self.length == 5,
            Kind::RstStream => on_stream && self.length == 4,
            Kind::Settings if self.has(ACK) => !on_stream && self.length == 0,
            Kind::Settings => !on_stream && self.length.is_multiple_of(6),
            Kind::Ping => !on_stream && self.length == 8,
            Kind::GoAway => !on_stream && self.length >= 8,
            Kind::WindowUpdate => self.length == 4,
            Kind::Other(_) => true,
        }
    }

    /// As a sender writes it that does nothing unusual: what is asked of bytes of an unknown place.
    fn is_usual(&self, flow: Flow, last_stream: Option<u32>) -> bool {
        let flags = match self.kind {
            Kind::Data => END_STREAM | PADDED,
            Kind::Headers => END_STREAM | END_HEADERS | PADDED | PRIORITY,
            Kind::PushPromise => END_HEADERS | PADDED,
            Kind::Settings | Kind::Ping => ACK,
            Kind::Continuation => END_HEADERS,
            Kind::Priority | Kind::RstStream | Kind::GoAway | Kind::WindowUpdate => 0,
            // ALTSVC, ORIGIN and PRIORITY_UPDATE (RFC 7838, 8336, 9218) have none.
            Kind::Other(0x0a | 0x0c | 0x10) => 0,
            Kind::Other(_) => return false,
        };
        let from_peer = match (flow, self.kind) {
            (Flow::Request, Kind::PushPromise) => false,
            (Flow::Request, Kind::Data | Kind::Headers | Kind::Continuation) => self.stream % 2 == 1,
            _ => true,
        };
        let near = last_stream.is_none_or(|last| self.stream <= last.saturating_add(FAR_STREAMS));
        self.is_valid() && !self.reserved && self.flags & !flags == 0 && self.length <= USUAL_LENGTH && from_peer && near
    }

    /// The header block's part in a frame's payload, without padding, priority and promised stream.
    pub fn fragment<'a>(&self, payload: &'a [u8]) -> Option<&'a [u8]> {
        let mut reader = Reader::new(payload);
        let padding = if self.is_padded() { usize::from(reader.u8()?) } else { 0 };
        match self.kind {
            Kind::Headers if self.has(PRIORITY) => drop(reader.take(5)?),
            Kind::PushPromise => drop(reader.take(4)?),
            _ => {}
        }
        let rest = reader.rest();
        rest.get(..rest.len().checked_sub(padding)?)
    }

    /// The stream that a PUSH_PROMISE promises.
    pub fn promised(&self, payload: &[u8]) -> Option<u32> {
        let mut reader = Reader::new(payload);
        if self.is_padded() {
            reader.u8()?;
        }
        reader.u32().map(|stream| stream & 0x7fff_ffff).filter(|stream| *stream != 0)
    }
}

/// SETTINGS_MAX_FRAME_SIZE begins with this, and hardly anybody sends longer frames.
const USUAL_LENGTH: u32 = 16_384;
/// So far beyond the last stream seen a new one may be, in stream numbers, after a gap.
const FAR_STREAMS: u32 = 100_000;

/// What bytes from the begin of a call on are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// Frames.
    Sure,
    /// Frames so far; too few to tell.
    Unsure,
    Broken,
}

/// Who wrote a chain, as its header blocks tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    Unknown,
    /// The one of the flow asked for.
    Expected,
    Other,
}

/// Follows frame heads from the front of `bytes` to their end, or [`LOOKED_AT`] of them. A chain is sure when it ends where the bytes do,
/// or has a third head. `last_stream`: the highest stream number known.
pub fn chain(flow: Flow, bytes: &[u8], last_stream: Option<u32>) -> (Chain, Writer) {
    let mut writer = Writer::Unknown;
    let mut rest = bytes;
    for count in 0..LOOKED_AT {
        let Some(head) = Head::read(rest) else {
            if !could_begin(flow, rest, last_stream) {
                return (Chain::Broken, writer);
            }
            let sure = (rest.is_empty() && count > 0) || count > 2;
            return (if sure { Chain::Sure } else { Chain::Unsure }, writer);
        };
        if !head.is_usual(flow, last_stream) {
            return (Chain::Broken, writer);
        }
        let Some(payload) = rest.get(HEAD..HEAD + head.length as usize) else {
            return (if count >= 2 { Chain::Sure } else { Chain::Unsure }, writer);
        };
        let opening = match head.kind {
            Kind::Headers | Kind::PushPromise => match head.fragment(payload) {
                None => return (Chain::Broken, writer),
                Some(block) if head.has(END_HEADERS) => hpack::judge(block),
                Some(_) => Ok(hpack::Opening::Other),
            },
            _ => Ok(hpack::Opening::Other),
        };
        let by = match (opening, head.kind, flow) {
            (Err(hpack::Malformed), ..) => return (Chain::Broken, writer),
            // A promise holds the fields of a request.
            (Ok(_), Kind::PushPromise, _) => Writer::Expected,
            (Ok(hpack::Opening::Request), _, Flow::Request) | (Ok(hpack::Opening::Response), _, Flow::Response) => Writer::Expected,
            (Ok(hpack::Opening::Other), ..) => Writer::Unknown,
            _ => Writer::Other,
        };
        match by {
            Writer::Other => return (Chain::Broken, Writer::Other),
            Writer::Expected => writer = Writer::Expected,
            Writer::Unknown => {}
        }
        rest = rest.get(HEAD + head.length as usize..).unwrap_or_default();
    }
    (Chain::Sure, writer)
}

/// Whether these first bytes of a head, fewer than all, can still become a usual one.
fn could_begin(flow: Flow, bytes: &[u8], last_stream: Option<u32>) -> bool {
    let length = bytes.iter().chain(&[0; 3]).take(3).fold(0, |length, byte| length << 8 | u32::from(*byte));
    if bytes.len() < 5 {
        return length <= USUAL_LENGTH;
    }
    // What is missing is the end of the stream's number.
    [0, 1].into_iter().any(|end| {
        let mut whole = [0; HEAD];
        for (place, byte) in whole.iter_mut().zip(bytes) {
            *place = *byte;
        }
        if let Some(last) = whole.last_mut() {
            *last = end;
        }
        Head::read(&whole).is_some_and(|head| head.is_usual(flow, last_stream))
    })
}

/// Heads followed before a chain is believed in any case.
const LOOKED_AT: usize = 64;

/// See [`crate::protocols::Definition::likeness`]. Without the preface both flows must show whose they are by a header block: two flows of
/// frames look the same from either end.
pub fn likeness(flow: Flow, bytes: &[u8]) -> Likeness {
    let preface = bytes.get(..PREFACE.len()).unwrap_or(bytes);
    if flow == Flow::Request && PREFACE.starts_with(preface) {
        return if preface.len() == PREFACE.len() { Likeness::Certain } else { Likeness::Undecided };
    }
    match chain(flow, bytes, None) {
        (Chain::Broken, _) => Likeness::No,
        (Chain::Sure, Writer::Expected) => Likeness::Likely,
        _ => Likeness::Undecided,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_head() {
        let head = Head::read(&[0, 1, 2, 1, 0x2d, 0x80, 0, 0, 3, 99]).unwrap();
        assert_eq!((head.length, head.kind, head.stream, head.reserved), (258, Kind::Headers, 3, true));
        assert!(head.has(END_STREAM) && head.has(END_HEADERS) && head.is_padded());
        assert_eq!(head.wire(), 267);
        assert_eq!(Head::read(&[0; 8]), None);
    }

    #[test]
    fn takes_padding_and_priority_off_a_header_block() {
        let head = Head::read(&[0, 0, 10, 1, 0x28, 0, 0, 0, 1]).unwrap();
        assert_eq!(head.fragment(&[2, 0, 0, 0, 0, 15, b'a', b'b', 0, 0]), Some(&b"ab"[..]));
        assert_eq!(head.fragment(&[5, 0, 0, 0, 0, 15, b'a', b'b', 0, 0]), None, "more padding than there is");
        let promise = Head::read(&[0, 0, 6, 5, 0x4, 0, 0, 0, 1]).unwrap();
        assert_eq!(promise.promised(&[0, 0, 0, 2, b'a', b'b']), Some(2));
        assert_eq!(promise.fragment(&[0, 0, 0, 2, b'a', b'b']), Some(&b"ab"[..]));
    }

    #[test]
    fn the_preface_is_unmistakable_and_anything_else_is_not() {
        assert_eq!(likeness(Flow::Request, PREFACE), Likeness::Certain);
        assert_eq!(likeness(Flow::Request, &PREFACE[..20]), Likeness::Undecided);
        assert_eq!(likeness(Flow::Response, PREFACE), Likeness::No);
        for other in
            [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01\x02\0\x01\0\0\0", &[0; 40], b"SSH-2.0-OpenSSH_9.6\r\n", b"\0\0\0\x08\x04\xd2\x16/"]
        {
            for flow in [Flow::Request, Flow::Response] {
                assert_eq!(likeness(flow, other), Likeness::No, "{other:?}");
            }
        }
    }

    #[test]
    fn frames_of_a_running_connection_are_likely_when_a_header_block_shows_their_sender() {
        let request = b"\0\0\x03\x01\x05\0\0\0\x0b\x82\x86\x84";
        let response = b"\0\0\x01\x01\x04\0\0\0\x0b\x88\0\0\x02\0\x01\0\0\0\x0bok";
        assert_eq!(likeness(Flow::Request, request), Likeness::Likely);
        assert_eq!(likeness(Flow::Response, response), Likeness::Likely);
        assert_eq!(likeness(Flow::Response, request), Likeness::No);
        assert_eq!(likeness(Flow::Request, response), Likeness::No);
        // Path and authority from the table, which nobody who joins late knows.
        let known_later = b"\0\0\x04\x01\x05\0\0\0\x0b\xc3\xc2\x83\x86";
        assert_eq!(likeness(Flow::Request, known_later), Likeness::Likely);
        assert_eq!(likeness(Flow::Response, known_later), Likeness::No);
        let ping = b"\0\0\x08\x06\0\0\0\0\0abcdefgh";
        assert_eq!(likeness(Flow::Request, ping), Likeness::Undecided, "could be of either");
    }
}
