//! The ClientHello (RFC 8446 section 4.1.2) in its records (section 5.1): the name of the server (RFC 6066 section 3) and the application
//! protocols on offer (RFC 7301 section 3.1). Nothing else of it is looked at.

use std::net::IpAddr;

use crate::protocols::reader::Reader;

pub const HANDSHAKE: u8 = 22;
pub const CLIENT_HELLO: u8 = 1;
pub const SERVER_HELLO: u8 = 2;

/// Content type, version and length.
const RECORD_HEADER: usize = 5;
/// RFC 8446 section 5.1: no plaintext is longer.
const RECORD_MAX: usize = 1 << 14;
/// Records that one hello may come in: more are somebody's game.
const RECORDS_MAX: usize = 64;
/// Handshake type and length.
const MESSAGE_HEADER: usize = 4;
/// A hello with post-quantum key shares has some 2 KB, and one with a session ticket and padding some more.
const HELLO_MAX: usize = 16 * 1024;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;

/// RFC 1035 section 2.3.4, as text.
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;
/// Bytes of the list of application protocols.
const PROTOCOLS_MAX: usize = 128;

/// What became of the attempt to read something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read<T> {
    Done(T),
    NeedMore,
    /// It cannot be one.
    Bad,
}

/// The first bytes of a handshake message of `kind`: those that are there of its type, its length and the version, records joined.
pub fn begins(kind: u8, bytes: &[u8]) -> Read<()> {
    let mut records = Records::new(bytes);
    let mut head = Vec::new();
    while head.len() < MESSAGE_HEADER + 2 {
        match records.next() {
            Read::Done(piece) => head.extend(piece.iter().take(MESSAGE_HEADER + 2)),
            Read::NeedMore => return if possible(kind, &head) { Read::NeedMore } else { Read::Bad },
            Read::Bad => return Read::Bad,
        }
    }
    if possible(kind, &head) { Read::Done(()) } else { Read::Bad }
}

/// Whether a message may begin so: as far as it goes.
fn possible(kind: u8, head: &[u8]) -> bool {
    let at = |index: usize| head.get(index).copied();
    let length = match (at(1), at(2), at(3)) {
        (Some(high), Some(middle), Some(low)) => Some(u32::from_be_bytes([0, high, middle, low])),
        _ => None,
    };
    // Version and random, an empty session, one cipher, one compression.
    at(0).is_none_or(|first| first == kind)
        && length.is_none_or(|length| (38..=HELLO_MAX as u32).contains(&length))
        && at(4).is_none_or(|major| major == 3)
        && at(5).is_none_or(|minor| minor <= 4)
}

/// What a hello tells. Both are texts of checked characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Lower case; empty where none was sent, or none that could be a host's.
    pub server_name: String,
    /// "h2,http/1.1", in the client's order.
    pub protocols: String,
}

/// Reads the hello that the bytes begin with.
pub fn read(bytes: &[u8]) -> Read<Hello> {
    let mut records = Records::new(bytes);
    let mut joined = Vec::new();
    loop {
        let piece = match records.next() {
            Read::Done(piece) => piece,
            Read::NeedMore => return Read::NeedMore,
            Read::Bad => return Read::Bad,
        };
        // A record that holds all of it is read where it lies.
        let message = if joined.is_empty() {
            piece
        } else {
            joined.extend_from_slice(piece);
            &joined
        };
        if message.len() >= MESSAGE_HEADER {
            let [_, high, middle, low] = *message.first_chunk().unwrap_or(&[0; MESSAGE_HEADER]);
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            if !possible(CLIENT_HELLO, message) {
                return Read::Bad;
            }
            if let Some(body) = message.get(MESSAGE_HEADER..MESSAGE_HEADER + length) {
                return fields(body).map_or(Read::Bad, Read::Done);
            }
        }
        if !records.whole {
            return Read::NeedMore;
        }
        if joined.is_empty() {
            joined.extend_from_slice(piece);
        }
    }
}

/// The fragments of the handshake records that the bytes begin with.
struct Records<'a> {
    rest: &'a [u8],
    count: usize,
    /// The last one was there to its end.
    whole: bool,
}

impl<'a> Records<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, count: 0, whole: true }
    }

    fn next(&mut self) -> Read<&'a [u8]> {
        let minor_ok = |minor: u8| minor <= 4;
        match self.rest {
            [HANDSHAKE, 3, minor, high, low, rest @ ..] if minor_ok(*minor) => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                self.count += 1;
                if length == 0 || length > RECORD_MAX || self.count > RECORDS_MAX {
                    return Read::Bad;
                }
                let (fragment, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
                self.whole = fragment.len() == length;
                self.rest = behind;
                if fragment.is_empty() { Read::NeedMore } else { Read::Done(fragment) }
            }
            [] | [HANDSHAKE] | [HANDSHAKE, 3] => Read::NeedMore,
            [HANDSHAKE, 3, minor, ..] if minor_ok(*minor) && self.rest.len() < RECORD_HEADER => Read::NeedMore,
            _ => Read::Bad,
        }
    }
}

/// Bytes behind a length of two.
fn vector<'a>(reader: &mut Reader<'a>) -> Option<Reader<'a>> {
    let length = reader.u16()?;
    reader.take(length.into()).map(Reader::new)
}

fn fields(body: &[u8]) -> Option<Hello> {
    let mut reader = Reader::new(body);
    // Version, random, session, cipher suites, compression methods.
    reader.take(2 + 32)?;
    let session = reader.u8().filter(|length| *length <= 32)?;
    reader.take(session.into())?;
    vector(&mut reader).filter(|suites| !suites.rest().is_empty() && suites.rest().len() % 2 == 0)?;
    let compressions = reader.u8().filter(|length| *length > 0)?;
    reader.take(compressions.into())?;
    let mut hello = Hello::default();
    if reader.rest().is_empty() {
        return Some(hello);
    }
    let mut extensions = vector(&mut reader)?;
    while !extensions.rest().is_empty() {
        let kind = extensions.u16()?;
        let data = vector(&mut extensions)?;
        match kind {
            SERVER_NAME => hello.server_name = server_name(data).unwrap_or_default(),
            ALPN => hello.protocols = protocols(data).unwrap_or_default(),
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(mut extension: Reader<'_>) -> Option<String> {
    let mut list = vector(&mut extension)?;
    let kind = list.u8()?;
    let name = vector(&mut list)?.rest();
    let name = std::str::from_utf8(name).ok()?;
    let name = name.strip_suffix('.').unwrap_or(name);
    (kind == HOST_NAME && is_host_name(name)).then(|| name.to_ascii_lowercase())
}

/// Letters, digits, hyphens and underscores in labels, and no address (RFC 6066 section 3 forbids it).
fn is_host_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| (1..=LABEL_MAX).contains(&label.len()) && label.bytes().all(letter);
    name.len() <= NAME_MAX && name.split('.').all(label) && name.parse::<IpAddr>().is_err()
}

fn protocols(mut extension: Reader<'_>) -> Option<String> {
    let mut list = vector(&mut extension)?;
    let mut text = String::new();
    while let Some(length) = list.u8() {
        let name = list.take(length.into())?;
        // Reserved names (RFC 8701) are not of these characters, and are left out.
        let word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'/' | b'_' | b'+');
        let fits = text.len() + name.len() < PROTOCOLS_MAX;
        if let Ok(name) = std::str::from_utf8(name)
            && !name.is_empty()
            && name.as_bytes().iter().all(word)
            && fits
        {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(name);
        }
    }
    Some(text)
}
