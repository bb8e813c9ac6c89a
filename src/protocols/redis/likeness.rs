//! What the first bytes of a flow look like, and where a flow can be found again.

use super::{
    lookup::{Id, Kind, NAME_MAX},
    request::inline_words,
    wire::{Line, Number, number, text},
};
use crate::{model::Flow, protocols::Likeness};

/// More words no server takes.
pub const WORDS_MAX: u64 = 1 << 20;
/// An inline command that is longer before its end is not taken for one when nothing else is known.
const INLINE_MAX: usize = 1024;
/// A line of text that a server writes as its first is short.
const LINE_MAX: usize = 256;

pub fn likeness(flow: Flow, bytes: &[u8]) -> Likeness {
    match flow {
        Flow::Request => request(bytes),
        Flow::Response => response(bytes),
    }
}

/// `*2\r\n$3\r\nGET\r\n`: the begin of a command that exists, with as many words as it may have.
fn request(bytes: &[u8]) -> Likeness {
    if bytes.first() != Some(&b'*') {
        return inline(bytes);
    }
    match command(bytes) {
        Line::Partial => Likeness::Undecided,
        Line::Bad => Likeness::No,
        // It may ask for silence, and then the server never agrees.
        Line::Whole(id, _) if id.command().kind == Kind::ClientReply => Likeness::Certain,
        Line::Whole(..) => Likeness::Likely,
    }
}

/// The command at the front, as far as its name.
pub fn command(bytes: &[u8]) -> Line<Id> {
    let (words, head) = match number(bytes) {
        Line::Whole(Number::Is(words @ 1..=WORDS_MAX), head) => (words, head),
        Line::Whole(..) | Line::Bad => return Line::Bad,
        Line::Partial => return Line::Partial,
    };
    let (name, used) = match word(bytes.get(head..).unwrap_or_default()) {
        Line::Whole(name, used) => (name, head + used),
        Line::Partial => return Line::Partial,
        Line::Bad => return Line::Bad,
    };
    let Some(id) = Id::named(name).filter(|id| id.command().takes(words)) else { return Line::Bad };
    if words > 1 && id.command().kind == Kind::Plain && name.eq_ignore_ascii_case(b"client") {
        return match word(bytes.get(used..).unwrap_or_default()) {
            Line::Whole(name, behind) => Line::Whole(id.named_within(name).unwrap_or(id), used + behind),
            _ => Line::Whole(id, used),
        };
    }
    Line::Whole(id, used)
}

/// A word that may be a name.
fn word(bytes: &[u8]) -> Line<&[u8]> {
    if bytes.first().is_some_and(|&byte| byte != b'$') {
        return Line::Bad;
    }
    match number(bytes) {
        Line::Whole(Number::Is(length), head) if (1..=NAME_MAX as u64).contains(&length) => {
            let end = head + length as usize;
            match (bytes.get(head..end), bytes.get(end..end + 2)) {
                (Some(name), Some(b"\r\n")) => Line::Whole(name, end + 2),
                (Some(_), Some(_)) => Line::Bad,
                _ => Line::Partial,
            }
        }
        Line::Whole(..) | Line::Bad => Line::Bad,
        Line::Partial => Line::Partial,
    }
}

/// A command as typed. Words that other protocols of lines know as well say nothing: for PING the answer speaks.
fn inline(bytes: &[u8]) -> Likeness {
    let end = bytes.iter().take(INLINE_MAX).position(|&byte| byte == b'\n');
    let line = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if !line.iter().all(|byte| (b' '..=b'~').contains(byte)) || bytes.len() >= INLINE_MAX && end.is_none() {
        return Likeness::No;
    }
    let name_end = line.iter().position(|&byte| byte == b' ');
    if end.is_none() && name_end.is_none() {
        let possible = line.len() <= NAME_MAX && line.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_'));
        return if possible { Likeness::Undecided } else { Likeness::No };
    }
    let Some(id) = line.get(..name_end.unwrap_or(line.len())).and_then(Id::named) else { return Likeness::No };
    if end.is_none() {
        return Likeness::Undecided;
    }
    let words = inline_words(line).map_or(0, |words| words.count() as u64);
    match id.command().name {
        _ if !id.command().takes(words) => Likeness::No,
        "PING" | "QUIT" | "AUTH" => Likeness::Undecided,
        _ => Likeness::Likely,
    }
}

/// The first line of a reply. A command's begin is also an array: that says nothing.
fn response(bytes: &[u8]) -> Likeness {
    let Some(kind) = bytes.first() else { return Likeness::Undecided };
    match kind {
        b'+' | b'-' => match text(bytes, LINE_MAX) {
            Some((b"PONG", _)) if bytes.starts_with(b"+PONG\r\n") => Likeness::Certain,
            Some((line, used)) => judge(bytes.get(..used).is_some_and(|all| all.ends_with(b"\r\n")) && is_status(line)),
            None if bytes.len() < LINE_MAX && is_status(bytes.get(1..).unwrap_or_default()) => Likeness::Undecided,
            None => Likeness::No,
        },
        b':' => match text(bytes, 24) {
            Some((line, _)) => {
                let digits = line.strip_prefix(b"-").unwrap_or(line);
                judge(!digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
            }
            None => judge_partial(bytes, 24, |byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'\r')),
        },
        b'_' => judge_literals(bytes, &[b"_\r\n"]),
        b'#' => judge_literals(bytes, &[b"#t\r\n", b"#f\r\n"]),
        b',' | b'(' => match text(bytes, LINE_MAX) {
            Some((line, _)) => judge(line.len() > 1 && line.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'))),
            None => judge_partial(bytes, LINE_MAX, |byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'\r')),
        },
        b'*' if bytes.starts_with(MESSAGE) => Likeness::Certain,
        b'>' if bytes.get(1..).is_some_and(|rest| rest.starts_with(MESSAGE.get(1..).unwrap_or_default())) => Likeness::Certain,
        b'$' | b'*' | b'%' | b'~' | b'>' | b'=' | b'!' | b'|' => match number(bytes) {
            Line::Whole(_, used) => match bytes.get(used) {
                Some(next) if !matches!(kind, b'$' | b'=' | b'!') && !b"+-:$*_#,(=!%~|>".contains(next) => Likeness::No,
                _ if *kind == b'*' && matches!(command(bytes), Line::Whole(..)) => Likeness::Undecided,
                _ => Likeness::Likely,
            },
            Line::Partial => Likeness::Undecided,
            Line::Bad => Likeness::No,
        },
        _ => Likeness::No,
    }
}

/// What a subscriber is sent.
const MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n$";

/// "OK", or a text that no protocol of mail begins like this: theirs say more behind OK.
fn is_status(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.first().is_none_or(u8::is_ascii_alphanumeric)
        && line.iter().all(|byte| (b' '..=b'~').contains(byte) || *byte >= 0x80)
        && !line.starts_with(b"OK ")
}

fn judge(fits: bool) -> Likeness {
    if fits { Likeness::Likely } else { Likeness::No }
}

fn judge_partial(bytes: &[u8], most: usize, fits: impl Fn(&u8) -> bool) -> Likeness {
    if bytes.len() < most && bytes.iter().skip(1).all(fits) { Likeness::Undecided } else { Likeness::No }
}

fn judge_literals(bytes: &[u8], literals: &[&[u8]]) -> Likeness {
    if literals.iter().any(|literal| bytes.starts_with(literal)) {
        Likeness::Likely
    } else if literals.iter().any(|literal| literal.starts_with(bytes)) {
        Likeness::Undecided
    } else {
        Likeness::No
    }
}
