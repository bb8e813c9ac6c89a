//! Messages on the wire: one type byte, a length that counts itself, a body (PostgreSQL manual, section 55.7).

use crate::protocols::{Likeness, reader::Reader};

/// Code of a StartupMessage: protocol 3, minor versions 0 to 2.
const PROTOCOL_3: std::ops::RangeInclusive<u32> = 196_608..=196_610;
const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
/// The server refuses longer start-up packets.
const STARTUP_LIMIT: u32 = 10_000;
/// The server refuses longer messages (1 GiB).
const MESSAGE_LIMIT: u32 = 0x3fff_ffff;
/// Type byte and length.
pub const HEADER: usize = 5;
/// How much of a query's text is read; the rest is passed over.
pub const TEXT_LIMIT: usize = 32 * 1024;
/// How much is read of messages that begin with names or fields.
const NAMES_LIMIT: usize = 2048;

/// What a message's first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Fewer than [`HEADER`] bytes.
    Short,
    /// No such message in this flow.
    Bad,
    /// Type, and length on the wire with the header.
    Message { kind: u8, total: u64 },
}

/// A message of the client.
pub fn request_head(bytes: &[u8]) -> Head {
    head(bytes, |kind, length| match kind {
        b'H' | b'S' | b'X' | b'c' => length == 4,
        b'Q' | b'f' | b'p' => length >= 5,
        b'P' => length >= 8,
        b'B' => length >= 12,
        b'C' | b'D' => length >= 6,
        b'E' => length >= 9,
        b'F' => length >= 14,
        b'd' => true,
        _ => false,
    })
}

/// A message of the server.
pub fn response_head(bytes: &[u8]) -> Head {
    head(bytes, |kind, length| match kind {
        b'1' | b'2' | b'3' | b'I' | b'c' | b'n' | b's' => length == 4,
        b'Z' => length == 5,
        b'K' => (12..=300).contains(&length),
        b'R' => (8..=65_536).contains(&length),
        b'C' => (6..=128).contains(&length),
        b'D' | b'T' | b't' => length >= 6,
        b'G' | b'H' | b'W' => length >= 7,
        b'V' => length >= 8,
        b'A' => length >= 10,
        b'E' | b'N' | b'S' | b'v' => length >= 5,
        b'd' => true,
        _ => false,
    })
}

fn head(bytes: &[u8], fits: fn(u8, u32) -> bool) -> Head {
    let Some(&[kind, a, b, c, d]) = bytes.first_chunk::<HEADER>() else {
        return match bytes.first() {
            // A wrong type byte need not wait for its length.
            Some(&kind) if !(0..13).any(|length| fits(kind, length)) => Head::Bad,
            _ => Head::Short,
        };
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    if (4..=MESSAGE_LIMIT).contains(&length) && fits(kind, length) {
        Head::Message { kind, total: u64::from(length) + 1 }
    } else {
        Head::Bad
    }
}

/// How much of a client's message must be there before it is understood.
pub fn request_needs(kind: u8) -> usize {
    match kind {
        b'Q' | b'P' => TEXT_LIMIT,
        b'B' | b'C' | b'D' | b'E' => NAMES_LIMIT,
        _ => HEADER,
    }
}

/// How much of a server's message must be there before it is understood.
pub fn response_needs(kind: u8) -> usize {
    match kind {
        b'C' | b'Z' | b'R' => 134,
        b'E' => NAMES_LIMIT,
        b'S' => 64,
        _ => HEADER,
    }
}

/// What a client opens a connection with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Startup<'a> {
    /// SSLRequest or GSSENCRequest: the server answers with one byte.
    Encryption,
    Cancel,
    /// The parameters: names and values, each ended by NUL.
    Start(&'a [u8]),
}

/// The first packet of a connection with its length; `Err(true)`: more bytes are needed, `Err(false)`: it is none.
pub fn startup(bytes: &[u8]) -> Result<(Startup<'_>, usize), bool> {
    let mut reader = Reader::new(bytes);
    let length = reader.u32().ok_or(bytes.first().is_none_or(|&byte| byte == 0))?;
    if !(8..=STARTUP_LIMIT).contains(&length) {
        return Err(false);
    }
    let code = reader.u32().ok_or(true)?;
    let body = reader.take(length as usize - 8);
    let packet = match (code, length) {
        (SSL_REQUEST | GSSENC_REQUEST, 8) => Startup::Encryption,
        (CANCEL_REQUEST, 13..=300) => Startup::Cancel,
        // The same four bytes ask a Kafka broker for metadata; there no name follows.
        (code, 9..) if PROTOCOL_3.contains(&code) && bytes.get(8).is_none_or(|&byte| begins_name(byte)) => {
            Startup::Start(body.ok_or(true)?)
        }
        _ => return Err(false),
    };
    body.ok_or(true)?;
    Ok((packet, length as usize))
}

/// Of a parameter of a StartupMessage: `user`, `_pq_.option`. The user must be named, so there is always one.
fn begins_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

/// Names and values of a StartupMessage.
pub fn parameters(body: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut reader = Reader::new(body);
    std::iter::from_fn(move || {
        let name = reader.text().filter(|name| !name.is_empty())?;
        Some((name, reader.text()?))
    })
}

/// What an ErrorResponse says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// Five characters; all NUL when that part was not captured.
    pub sqlstate: [u8; 5],
    pub fatal: bool,
}

pub fn server_error(body: &[u8]) -> ServerError {
    let mut reader = Reader::new(body);
    let mut error = ServerError::default();
    while let Some(field) = reader.u8().filter(|&field| field != 0) {
        let Some(text) = reader.text() else { break };
        match field {
            b'C' => {
                if let Ok(code) = <[u8; 5]>::try_from(text)
                    && code.iter().all(u8::is_ascii_alphanumeric)
                {
                    error.sqlstate = code;
                }
            }
            b'V' => error.fatal = matches!(text, b"FATAL" | b"PANIC"),
            _ => {}
        }
    }
    error
}

/// What a CommandComplete says: "SELECT 5", "INSERT 0 1", "CREATE TABLE".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// First word, when it is a known verb; else empty.
    pub verb: &'static str,
    pub rows: Option<u64>,
}

pub fn tag(body: &[u8]) -> Tag {
    let text = body.split(|&byte| byte == 0).next().unwrap_or_default();
    // Where the NUL was not captured the last word may go on: "SELECT 1" of "SELECT 10".
    let whole = text.len() < body.len();
    let mut words = text.split(|&byte| byte == b' ');
    let verb = words.next().map(crate::protocols::sql::operation).unwrap_or_default();
    let rows = words.next_back().filter(|_| whole).and_then(|word| {
        let digits = !word.is_empty() && word.len() < 20 && word.iter().all(u8::is_ascii_digit);
        digits.then(|| word.iter().fold(0u64, |sum, digit| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))))
    });
    Tag { verb, rows }
}

/// Where, in bytes that end with a ReadyForQuery, that message begins.
pub fn ready_at_end(bytes: &[u8]) -> Option<usize> {
    let begin = bytes.len().checked_sub(6)?;
    matches!(bytes.get(begin..)?, [b'Z', 0, 0, 0, 5, b'I' | b'T' | b'E']).then_some(begin)
}

/// The CommandComplete or ErrorResponse that ends exactly at `end`: how a statement's result is found again behind lost bytes.
pub fn completion_before(bytes: &[u8], end: usize) -> Option<usize> {
    let begins = end.saturating_sub(NAMES_LIMIT)..end.checked_sub(7)?;
    begins.rev().find(|&begin| {
        let message = bytes.get(begin..end).unwrap_or_default();
        let whole = matches!(response_head(message), Head::Message { kind: b'C' | b'E', total } if total == message.len() as u64);
        whole && plausible_response(message) == Some(true)
    })
}

/// Whether the inside of one whole message is as it must be; `None` when too little of it is there.
fn plausible_response(message: &[u8]) -> Option<bool> {
    let (&kind, body) = (message.first()?, message.get(HEADER..)?);
    Some(match kind {
        b'C' => {
            let (&last, text) = body.split_last()?;
            last == 0
                && text.first()?.is_ascii_uppercase()
                && text.iter().all(|&byte| byte.is_ascii_alphanumeric() || b" -_".contains(&byte))
        }
        b'E' | b'N' => body.first() == Some(&b'S') && body.ends_with(&[0, 0]) && server_error(body).sqlstate != [0; 5],
        b'Z' => matches!(body, [b'I' | b'T' | b'E']),
        b'S' => body.first()?.is_ascii_alphabetic() && body.last() == Some(&0),
        b'R' => matches!(body, [0, 0, 0, 0..=12, ..]),
        b'D' | b'T' => fields_fit(kind, body),
        _ => true,
    })
}

/// DataRow and RowDescription: as many columns as announced, exactly to the end.
fn fields_fit(kind: u8, body: &[u8]) -> bool {
    let mut reader = Reader::new(body);
    let columns = reader.u16().unwrap_or(u16::MAX);
    for _ in 0..columns {
        let column = match kind {
            b'T' => reader.text().and_then(|_| reader.take(18)),
            _ => reader.u32().and_then(|length| if length == u32::MAX { Some(&[][..]) } else { reader.take(length as usize) }),
        };
        if column.is_none() {
            return false;
        }
    }
    reader.rest().is_empty()
}

/// Whether the inside of one whole message of the client is as it must be.
fn plausible_request(message: &[u8]) -> bool {
    let (Some(&kind), Some(body)) = (message.first(), message.get(HEADER..)) else { return false };
    let mut reader = Reader::new(body);
    match kind {
        b'Q' => body.split_last().is_some_and(|(&last, text)| last == 0 && text_like(text)),
        b'P' => {
            let texts = reader.text().is_some_and(text_like) && reader.text().is_some_and(text_like);
            texts && reader.u16().is_some_and(|types| reader.rest().len() == 4 * usize::from(types))
        }
        b'B' => reader.text().is_some_and(text_like) && reader.text().is_some_and(text_like) && reader.rest().len() >= 6,
        b'C' | b'D' => matches!(reader.u8(), Some(b'S' | b'P')) && reader.text().is_some_and(text_like) && reader.rest().is_empty(),
        b'E' => reader.text().is_some_and(text_like) && reader.rest().len() == 4,
        b'p' | b'f' => body.last() == Some(&0),
        _ => true,
    }
}

fn text_like(text: &[u8]) -> bool {
    !text.iter().any(|&byte| byte < 0x20 && !byte.is_ascii_whitespace())
}

/// The bytes are messages of the client from the first byte on, and the first of them begins a round trip.
///
/// `ready`: the client is known to be between two; else messages that are more often found inside of one are not believed.
pub fn begins_round_trip(bytes: &[u8], ready: bool) -> bool {
    let begins = match bytes.first() {
        Some(b'Q' | b'P' | b'B' | b'F') => true,
        Some(b'C' | b'D' | b'E') => ready,
        _ => false,
    };
    begins && chain(bytes, request_head, |message| Some(plausible_request(message))).is_some()
}

/// Walks whole messages; the count of them, or `None` when one is wrong. What is cut at the end must begin as a message does.
fn chain(bytes: &[u8], head: fn(&[u8]) -> Head, plausible: fn(&[u8]) -> Option<bool>) -> Option<usize> {
    let (mut rest, mut count) = (bytes, 0);
    while !rest.is_empty() {
        match head(rest) {
            Head::Bad => return None,
            Head::Short => break,
            Head::Message { total, .. } => {
                let Some((message, behind)) = rest.split_at_checked(total as usize) else { break };
                if plausible(message) == Some(false) {
                    return None;
                }
                count += 1;
                rest = behind;
            }
        }
    }
    Some(count)
}

/// See [`crate::protocols::Definition::likeness`].
pub fn request_likeness(bytes: &[u8]) -> Likeness {
    match startup(bytes) {
        Ok(_) => return Likeness::Certain,
        Err(true) if bytes.first() == Some(&0) => {
            return match bytes.get(4..8).and_then(|code| code.first_chunk()).map(|code| u32::from_be_bytes(*code)) {
                Some(CANCEL_REQUEST) => Likeness::Certain,
                Some(code) if PROTOCOL_3.contains(&code) && bytes.len() > 8 => Likeness::Certain,
                _ => Likeness::Undecided,
            };
        }
        _ => {}
    }
    likeness(
        bytes,
        request_head,
        |message| Some(plausible_request(message)),
        |kind, message| match kind {
            // A statement that goes on behind the captured bytes: its text is all there is to judge by.
            b'Q' => message.len() >= 16 && text_like(message.get(HEADER..).unwrap_or_default()) && starts_like_sql(message.get(HEADER..)),
            b'P' => {
                let mut reader = Reader::new(message.get(HEADER..).unwrap_or_default());
                reader.text().is_some_and(text_like) && reader.rest().len() >= 8 && starts_like_sql(Some(reader.rest()))
            }
            _ => false,
        },
    )
}

fn starts_like_sql(text: Option<&[u8]>) -> bool {
    let text = text.unwrap_or_default().trim_ascii_start();
    let word = text.split(|byte| !byte.is_ascii_alphabetic()).next().unwrap_or_default();
    text.starts_with(b"--") || text.starts_with(b"/*") || !crate::protocols::sql::operation(&word.to_ascii_uppercase()).is_empty()
}

/// See [`crate::protocols::Definition::likeness`].
pub fn response_likeness(bytes: &[u8]) -> Likeness {
    if matches!(bytes, [b'N' | b'S' | b'G']) {
        return Likeness::Undecided;
    }
    // The answer N to a request for encryption may stand before the first message.
    let bytes = match bytes {
        [b'N', rest @ ..] if response_head(bytes) == Head::Bad => rest,
        _ => bytes,
    };
    likeness(bytes, response_head, plausible_response, |kind, message| kind == b'T' && first_column_fits(message))
}

/// RowDescription of which a part was captured: at most 1,664 columns, and the first is whole and ends with a format code.
fn first_column_fits(message: &[u8]) -> bool {
    let mut reader = Reader::new(message.get(1..).unwrap_or_default());
    let length = reader.u32().is_some_and(|length| length < 1 << 20);
    let columns = reader.u16().is_some_and(|columns| (1..=1664).contains(&columns));
    let name = reader.text().is_some_and(|name| !name.is_empty() && text_like(name));
    length && columns && name && reader.take(18).is_some_and(|fixed| matches!(fixed, [.., 0, 0 | 1]))
}

fn likeness(bytes: &[u8], head: fn(&[u8]) -> Head, plausible: fn(&[u8]) -> Option<bool>, cut: fn(u8, &[u8]) -> bool) -> Likeness {
    match (chain(bytes, head, plausible), head(bytes)) {
        (None, _) | (_, Head::Bad) => Likeness::No,
        (_, Head::Short) => Likeness::Undecided,
        (Some(0), Head::Message { kind, total }) => {
            if cut(kind, bytes) {
                Likeness::Likely
            } else if total > 1 << 24 {
                Likeness::No
            } else {
                Likeness::Undecided
            }
        }
        (Some(_), _) => Likeness::Likely,
    }
}
