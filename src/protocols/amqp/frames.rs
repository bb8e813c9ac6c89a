//! Frames (AMQP 0-9-1, section 4.2.3): {type, channel, length, payload, end octet}. Finds them, and finds their begin again once it is lost.

use super::methods::{self, Arguments, BASIC, Fit, Id, Spec};
use crate::{
    model::Flow,
    protocols::{Likeness, reader::Reader},
};

/// What a client of this version sends first (section 4.2.2).
pub const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\0\0\x09\x01";
/// Type, channel and length.
pub const HEAD: usize = 7;
pub const END: u8 = 0xce;
/// So much of a method's payload is waited for: the names in front of its tables.
pub const METHOD_NEEDS: usize = 1024;
/// So much of a content header's: class, weight and body size.
const HEADER_NEEDS: usize = 12;
/// A frame is not longer: peers agree on 128 KiB where nobody changes the default. Beyond this a length is a misreading.
const LENGTH_MAX: u32 = 256 << 20;
/// In search of a frame's begin, channels and lengths beyond these are not believed.
const PLAUSIBLE_CHANNEL: u16 = 4095;
const PLAUSIBLE_LENGTH: u32 = 16 << 20;
/// So many frames in a row are looked at.
const CHAIN: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Method,
    Header,
    Body,
    Heartbeat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub kind: Kind,
    pub channel: u16,
    pub length: u32,
}

impl Head {
    /// Bytes on the wire, the end octet included.
    pub fn total(self) -> u64 {
        HEAD as u64 + u64::from(self.length) + 1
    }

    /// How many bytes of the frame are needed to know what it says.
    pub fn needs(self) -> usize {
        let payload = self.length as usize;
        match self.kind {
            Kind::Method if payload < METHOD_NEEDS => HEAD + payload + 1,
            Kind::Method => HEAD + METHOD_NEEDS,
            Kind::Header if payload < HEADER_NEEDS => HEAD + payload + 1,
            Kind::Header => HEAD + HEADER_NEEDS,
            Kind::Body => HEAD,
            Kind::Heartbeat => HEAD + 1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Frame(Head),
    Short,
    Bad,
}

/// The head of a frame at the front.
pub fn head(bytes: &[u8]) -> Found {
    let kind = match bytes.first() {
        Some(1) => Kind::Method,
        Some(2) => Kind::Header,
        Some(3) => Kind::Body,
        Some(8) => Kind::Heartbeat,
        Some(_) => return Found::Bad,
        None => return Found::Short,
    };
    let mut reader = Reader::new(bytes.get(1..).unwrap_or_default());
    let (Some(channel), Some(length)) = (reader.u16(), reader.u32()) else { return Found::Short };
    let possible = match kind {
        Kind::Method => length >= 4,
        Kind::Header => channel > 0 && length as usize >= HEADER_NEEDS + 2,
        Kind::Body => channel > 0,
        Kind::Heartbeat => channel == 0 && length == 0,
    };
    if possible && length <= LENGTH_MAX { Found::Frame(Head { kind, channel, length }) } else { Found::Bad }
}

/// A method as far as it is seen; `payload` ends where the frame does or where the bytes do. `None`: there is no such method.
pub fn method(payload: &[u8], whole: bool) -> Option<(&'static Spec, Arguments<'_>, Fit)> {
    let mut reader = Reader::new(payload);
    let spec = methods::spec(Id(reader.u16()?, reader.u16()?))?;
    let (arguments, fit) = methods::read(spec, reader.rest(), whole)?;
    Some((spec, arguments, fit))
}

/// Body size in a content header's payload; `None`: it cannot be one.
pub fn body_size(payload: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(payload);
    let (class, weight, size) = (reader.u16()?, reader.u16()?, reader.u64()?);
    (class == BASIC && weight == 0).then_some(size)
}

/// How the front of bytes of an unknown place looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// No frame begins here.
    No,
    /// Too few bytes to tell.
    Short,
    /// A frame begins here; `content`: a message's method with its header behind it, which nobody else writes.
    Yes { content: bool },
}

/// Whether frames of this flow begin at the front: the first must be a whole method that fits, or a heartbeat, and those behind it must be
/// possible as far as they are seen.
pub fn chain(flow: Flow, bytes: &[u8]) -> Chain {
    let (mut rest, mut content, mut announced) = (bytes, false, false);
    for index in 0..CHAIN {
        match link(flow, rest) {
            Link::No => return Chain::No,
            Link::Short if index == 0 => return Chain::Short,
            Link::Short => break,
            // A body alone says too little.
            Link::Frame { kind: Kind::Body | Kind::Header, .. } if index == 0 => return Chain::No,
            Link::Frame { kind, total, announces } => {
                content |= index == 1 && announced && kind == Kind::Header;
                announced = announces;
                match rest.get(total..) {
                    Some(behind) if !behind.is_empty() => rest = behind,
                    _ => break,
                }
            }
        }
    }
    Chain::Yes { content }
}

enum Link {
    No,
    Short,
    Frame {
        kind: Kind,
        total: usize,
        /// A content must follow.
        announces: bool,
    },
}

/// One frame of a chain, held to everything that can be known of it.
fn link(flow: Flow, bytes: &[u8]) -> Link {
    let head = match head(bytes) {
        Found::Frame(head) => head,
        Found::Short => return early_doubt(bytes),
        Found::Bad => return Link::No,
    };
    if head.channel > PLAUSIBLE_CHANNEL || head.length > PLAUSIBLE_LENGTH {
        return Link::No;
    }
    let total = head.total() as usize;
    let whole = bytes.len() >= total;
    let payload = bytes.get(HEAD..bytes.len().min(total - 1)).unwrap_or_default();
    if whole && bytes.get(total - 1) != Some(&END) {
        return Link::No;
    }
    let frame = |announces| Link::Frame { kind: head.kind, total, announces };
    match head.kind {
        Kind::Heartbeat if whole => frame(false),
        Kind::Heartbeat => Link::Short,
        Kind::Body => frame(false),
        Kind::Header => match body_size(payload) {
            _ if payload.len() < HEADER_NEEDS => Link::Short,
            Some(_) => frame(false),
            None => Link::No,
        },
        Kind::Method => {
            let mut reader = Reader::new(payload);
            let (Some(class), Some(number)) = (reader.u16(), reader.u16()) else { return Link::Short };
            let Some(spec) = methods::spec(Id(class, number)).filter(|spec| spec.goes(flow, head.channel)) else { return Link::No };
            match methods::read(spec, reader.rest(), whole) {
                None => Link::No,
                Some((_, Fit::Exact)) => frame(spec.has_content()),
                Some(_) if whole => Link::No,
                // Cut off inside a long table: the names in front of it were right.
                Some(_) if payload.len() >= METHOD_NEEDS => frame(false),
                Some(_) => Link::Short,
            }
        }
    }
}

/// Less than a head: what is there must be possible.
fn early_doubt(bytes: &[u8]) -> Link {
    let mut reader = Reader::new(bytes.get(1..).unwrap_or_default());
    let channel = reader.u16().unwrap_or(0);
    let length = reader.u8().unwrap_or(0);
    if channel <= PLAUSIBLE_CHANNEL && length == 0 { Link::Short } else { Link::No }
}

/// Where frames begin again in bytes of an unknown place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    At(usize),
    /// Perhaps there: more is needed to tell.
    Perhaps(usize),
    Nowhere,
}

/// Looks for the begin of a frame: at the front where that is `likely`, and behind each end octet.
pub fn resume(flow: Flow, bytes: &[u8], likely: bool) -> Resumed {
    let mut from = 0;
    let mut candidate = likely.then_some(0);
    loop {
        if let Some(position) = candidate {
            match chain(flow, bytes.get(position..).unwrap_or_default()) {
                Chain::Yes { .. } => return Resumed::At(position),
                Chain::Short => return Resumed::Perhaps(position),
                Chain::No => {}
            }
        }
        let Some(end) = bytes.get(from..).unwrap_or_default().iter().position(|byte| *byte == END) else { return Resumed::Nowhere };
        from += end + 1;
        candidate = Some(from);
    }
}

pub fn likeness(flow: Flow, bytes: &[u8]) -> Likeness {
    if flow == Flow::Request && bytes.first() == PROTOCOL_HEADER.first() {
        return match bytes.get(..PROTOCOL_HEADER.len()) {
            Some(opening) if opening == PROTOCOL_HEADER => Likeness::Certain,
            None if PROTOCOL_HEADER.starts_with(bytes) => Likeness::Undecided,
            _ => Likeness::No,
        };
    }
    match chain(flow, bytes) {
        Chain::No => Likeness::No,
        Chain::Short => Likeness::Undecided,
        Chain::Yes { content: true } => Likeness::Certain,
        Chain::Yes { content: false } => Likeness::Likely,
    }
}

/// Whether a method's number is one that is not known here.
pub fn is_unknown_method(payload: &[u8]) -> bool {
    let mut reader = Reader::new(payload);
    match (reader.u16(), reader.u16()) {
        (Some(class), Some(number)) => methods::spec(Id(class, number)).is_none(),
        _ => false,
    }
}
