//! Heads of frames (RFC 6455 section 5.2): where payloads end, what kind they are of, and the code of a close.

use crate::{model::Flow, protocols::reader::Reader};

/// What a frame carries (RFC 6455 section 11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub kind: Kind,
    /// The last of its message.
    pub fin: bool,
    pub masking_key: Option<[u8; 4]>,
    /// Bytes of payload behind the head.
    pub payload: u64,
    /// Bytes of the head.
    pub size: usize,
}

/// Bytes that may begin with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    Whole(Head),
    Partial,
    /// No frame begins like this.
    Malformed,
}

/// Longest payload of a control frame (RFC 6455 section 5.5).
const MAX_CONTROL: u64 = 125;

/// Reads the head at the begin of `bytes`. The first reserved bit is permessage-deflate's (RFC 7692); nobody has the others.
pub fn read(bytes: &[u8]) -> Read {
    let mut reader = Reader::new(bytes);
    let Some(first) = reader.u8() else { return Read::Partial };
    let kind = match first & 0x3f {
        0 => Kind::Continuation,
        1 => Kind::Text,
        2 => Kind::Binary,
        8 => Kind::Close,
        9 => Kind::Ping,
        10 => Kind::Pong,
        _ => return Read::Malformed,
    };
    let fin = first & 0x80 != 0;
    let control = matches!(kind, Kind::Close | Kind::Ping | Kind::Pong);
    let Some(second) = reader.u8() else { return Read::Partial };
    let (length, least) = match second & 0x7f {
        126 => (reader.u16().map(u64::from), 126),
        127 => (reader.u64(), 1 << 16),
        short => (Some(u64::from(short)), 0),
    };
    if control && (!fin || second & 0x7f > MAX_CONTROL as u8 || first & 0x40 != 0) {
        return Read::Malformed;
    }
    let Some(payload) = length else { return Read::Partial };
    // The shortest form is the only one, and the highest bit is not a length's.
    if payload < least || payload > i64::MAX as u64 {
        return Read::Malformed;
    }
    let masking_key = if second & 0x80 != 0 {
        let Some(&[a, b, c, d]) = reader.take(4).and_then(<[u8]>::first_chunk) else { return Read::Partial };
        Some([a, b, c, d])
    } else {
        None
    };
    Read::Whole(Head { kind, fin, masking_key, payload, size: bytes.len() - reader.rest().len() })
}

impl Head {
    /// Bytes from the head's begin that must be there before the frame can be counted.
    pub fn needed(&self) -> usize {
        if self.kind == Kind::Close { self.size + self.payload.min(2) as usize } else { self.size }
    }

    /// The code of a close frame that `bytes` begin with; `None`: it has none.
    pub fn close_code(&self, bytes: &[u8]) -> Option<u16> {
        let code = bytes.get(self.size..).and_then(<[u8]>::first_chunk).filter(|_| self.payload >= 2).map(|&code| u16::from_be_bytes(code));
        match self.masking_key {
            Some([first, second, ..]) => code.map(|code| code ^ u16::from_be_bytes([first, second])),
            None => code,
        }
    }

    /// Clients mask, servers do not (RFC 6455 section 5.1).
    pub fn suits(&self, flow: Flow) -> bool {
        self.masking_key.is_some() == (flow == Flow::Request)
    }
}
