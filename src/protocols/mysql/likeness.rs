//! How much bytes look like the protocol. Lengths are short and text is free, so each packet must be right in every place that is fixed.

use super::{
    commands::{self, Command},
    handshake,
    packets::{self, HEADER, Head, LittleEndian},
};
use crate::protocols::{Likeness, reader::Reader, sql};

/// More than a greeting, a login or a short answer has.
const SHORT: usize = 4096;

/// The client's first bytes, or those of a call of its.
pub fn request(bytes: &[u8]) -> Likeness {
    let Some(head) = packets::head(bytes) else { return partial(bytes) };
    match head.sequence {
        0 => command(head, bytes),
        1 if (4..=SHORT).contains(&head.length) => match payload(head, bytes) {
            Some((body, [])) if handshake::login(body, true).is_some() => Likeness::Likely,
            Some(_) => Likeness::No,
            None => Likeness::Undecided,
        },
        _ => Likeness::No,
    }
}

/// The server's first bytes, or those of a call of its.
pub fn response(bytes: &[u8]) -> Likeness {
    let Some(head) = packets::head(bytes) else { return partial(bytes) };
    match head.sequence {
        0 if (9..=SHORT).contains(&head.length) => {
            if !matches!(bytes.get(HEADER), None | Some(10 | 0xff)) {
                return Likeness::No;
            }
            match payload(head, bytes) {
                Some((body, [])) if handshake::greeting(body).is_some() || handshake::turns_away(body) => Likeness::Certain,
                Some(_) => Likeness::No,
                None => Likeness::Undecided,
            }
        }
        1 => answer(head, bytes),
        _ => Likeness::No,
    }
}

/// A header that is not whole: nothing is longer than a detector waits for but a statement.
fn partial(bytes: &[u8]) -> Likeness {
    if bytes.len() == 3 && bytes.iter().all(|&byte| byte == 0) { Likeness::No } else { Likeness::Undecided }
}

/// The payload, if it is whole, and what follows it.
fn payload(head: Head, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    bytes.get(HEADER..)?.split_at_checked(head.length)
}

/// What follows a packet is nothing, or a packet with that number (as far as it is there).
fn followed(rest: &[u8], sequence: u8) -> bool {
    packets::head(rest).is_none_or(|head| head.sequence == sequence && head.length > 0)
}

/// Whether bytes at the begin of a call can be a command: not the middle of something, as far as can be told.
pub fn command(head: Head, bytes: &[u8]) -> Likeness {
    let Some(&byte) = bytes.get(HEADER) else {
        return if head.length > 0 { Likeness::Undecided } else { Likeness::No };
    };
    let Some(command) = Command::of(byte).filter(|command| command.fits(head.length)) else { return Likeness::No };
    let whole = payload(head, bytes);
    if whole.is_some_and(|(_, rest)| !followed(rest, 0)) {
        return Likeness::No;
    }
    let body = bytes.get(HEADER + 1..bytes.len().min(HEADER + head.length)).unwrap_or_default();
    match (command, whole) {
        (Command::Query, _) => match commands::query_text(body, None) {
            Some(text) => statement(text, whole.is_some()),
            None => {
                if whole.is_some() {
                    Likeness::No
                } else {
                    Likeness::Undecided
                }
            }
        },
        (Command::Prepare, _) => statement(body, whole.is_some()),
        (Command::InitDb | Command::CreateDb | Command::DropDb, Some((name, _))) => {
            if name.iter().skip(1).all(|byte| *byte > b' ' && *byte != 0x7f) { Likeness::Likely } else { Likeness::No }
        }
        // So short that only an answer that fits makes it more than chance.
        (_, Some(_)) => Likeness::Likely,
        // The number of a statement, flags, and that it is executed once.
        (Command::Execute, None) if matches!(body, [_, _, _, _, _, 1, 0, 0, 0, ..]) => Likeness::Likely,
        (_, None) if head.length > SHORT => Likeness::No,
        (_, None) => Likeness::Undecided,
    }
}

/// A text that begins with a verb of SQL.
fn statement(text: &[u8], whole: bool) -> Likeness {
    let mut rest = text;
    loop {
        rest = rest.trim_ascii_start();
        rest = match rest {
            [b'(', rest @ ..] => rest,
            // What a comment says is no evidence, and neither is that a text begins with one; most that do are of a few forms.
            [b'/', b'*', b'!', rest @ ..] => rest.trim_ascii_start().trim_prefix_digits(),
            [b'/', b'*', comment @ ..] => match comment.windows(2).position(|pair| pair == b"*/") {
                Some(end) => comment.get(end + 2..).unwrap_or_default(),
                None => return if whole { Likeness::No } else { Likeness::Undecided },
            },
            _ => break,
        };
    }
    let length = rest.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(rest.len());
    let word = rest.get(..length).unwrap_or_default();
    if length == rest.len() && !whole && length < 12 {
        return Likeness::Undecided;
    }
    let mut upper = [0; 12];
    let Some(upper) = upper.get_mut(..length) else { return Likeness::No };
    upper.copy_from_slice(word);
    upper.make_ascii_uppercase();
    if sql::mysql_operation(upper).is_empty() { Likeness::No } else { Likeness::Likely }
}

trait TrimDigits {
    fn trim_prefix_digits(&self) -> &Self;
}

impl TrimDigits for [u8] {
    fn trim_prefix_digits(&self) -> &Self {
        self.get(self.iter().take_while(|byte| byte.is_ascii_digit()).count()..).unwrap_or_default()
    }
}

/// Whether bytes at the begin of a call can be the answer to a command.
pub fn answer(head: Head, bytes: &[u8]) -> Likeness {
    let whole = payload(head, bytes);
    let Some(&first) = bytes.get(HEADER) else {
        return if (1..=SHORT).contains(&head.length) { Likeness::Undecided } else { Likeness::No };
    };
    let Some((body, rest)) = whole else {
        return if head.length <= SHORT && matches!(first, 0 | 0xff) { Likeness::Undecided } else { Likeness::No };
    };
    let likely = match first {
        0xff => failure(body) && followed(rest, 1),
        0xfb => body.len() > 1 && printable(body.get(1..).unwrap_or_default()) && rest.is_empty(),
        0 if body.len() > 4 => {
            let prepared = packets::prepared(body).is_some_and(|one| {
                let defined = one.defined && one.columns.max(one.parameters) > 0;
                matches!(body.len(), 12 | 13) && if defined { definition(rest) } else { followed(rest, 1) }
            });
            prepared || (success(body) && followed(rest, 1))
        }
        0xfe => body.len() == 5 && success(body) && rest.is_empty(),
        _ => {
            if packets::columns(body).is_none() {
                return Likeness::No;
            }
            if rest.len() < HEADER + 4 {
                // The definitions of the columns come with the next call.
                return if followed(rest, 2) { Likeness::Undecided } else { Likeness::No };
            }
            definition(rest)
        }
    };
    if likely { Likeness::Likely } else { Likeness::No }
}

/// The definition of a column begins with the catalog, which is always "def".
fn definition(rest: &[u8]) -> bool {
    matches!(rest, [_, _, _, 2, 3, b'd', b'e', b'f', ..])
}

fn failure(body: &[u8]) -> bool {
    let known = packets::error(body).is_some_and(|error| (1000..=5000).contains(&error.code) && error.sqlstate != [0; 5]);
    known && printable(body.get(9..).unwrap_or_default())
}

/// An OK packet, right in every place, or an old EOF packet.
fn success(body: &[u8]) -> bool {
    // Of the sixteen bits of the status one is not used by any server; a transaction that is open and read-only has more than autocommit.
    const UNUSED: u16 = 0x0004;
    const WARNINGS_MAX: u16 = 0x1000;
    let mut reader = Reader::new(body);
    let counts = match reader.u8() {
        Some(0) => reader.length().is_some() && reader.length().is_some(),
        _ => {
            let warnings = reader.le16();
            return warnings.is_some_and(|warnings| warnings < WARNINGS_MAX) && reader.le16().is_some_and(|status| status & UNUSED == 0);
        }
    };
    let status = reader.le16().is_some_and(|status| status & UNUSED == 0);
    let warnings = reader.le16().is_some_and(|warnings| warnings < WARNINGS_MAX);
    counts && status && warnings && (reader.rest().is_empty() || reader.string().is_some())
}

fn printable(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| !text.chars().any(|character| character.is_control() && !character.is_whitespace()))
}
