//! What the first bytes of a flow look like, and where a flow can be found again.

use super::{
    lookup::{Id, NAME_MAX},
    request::inline_words,
    wire::{Line, Number, number, text},
};
use crate::{model::Flow, protocols::Likeness};

/// No server takes a longer word.
pub const WORD_MAX: u64 = 1 << 40;
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

/// `*2\r\n$3\r\nGET\r\n`: the begin of a command, or what is left of one.
fn request(bytes: &[u8]) -> Likeness {
    match bytes.first() {
        Some(b'*') => {}
        Some(b'$') => return rest_of_command(bytes),
        _ => return inline(bytes),
    }
    match head(bytes) {
        Line::Partial => Likeness::Undecided,
        Line::Bad => Likeness::No,
        Line::Whole(head, _) if !head.is_valid() => Likeness::Likely,
        // A client may send much before it reads the first reply, or ask for silence.
        Line::Whole(head, used) if head.silences(bytes, used) || bytes.len() > ALONE_BYTES || commands(bytes) >= ALONE_COMMANDS => {
            Likeness::Certain
        }
        Line::Whole(..) => Likeness::Likely,
    }
}

/// So many bytes that begin as a command are one, though no reply was seen.
const ALONE_BYTES: usize = 4096;
/// So are so many commands.
const ALONE_COMMANDS: usize = 4;

/// How a command begins: how many words it has, and the first.
#[derive(Clone, Copy)]
struct Head<'a> {
    words: u64,
    name: &'a [u8],
}

impl Head<'_> {
    /// The command exists, and may have so many words.
    fn is_valid(self) -> bool {
        Id::named(self.name).is_some_and(|id| id.command().takes(self.words))
    }

    /// It is CLIENT REPLY.
    fn silences(self, bytes: &[u8], used: usize) -> bool {
        let second = bytes.get(used..).map(word);
        self.name.eq_ignore_ascii_case(b"client") && matches!(second, Some(Line::Whole(name, _)) if name.eq_ignore_ascii_case(b"reply"))
    }
}

/// The command at the front, as far as its name, and the bytes up to there.
fn head(bytes: &[u8]) -> Line<Head<'_>> {
    if bytes.first().is_some_and(|&byte| byte != b'*') {
        return Line::Bad;
    }
    let (words, used) = match number(bytes) {
        Line::Whole(Number::Is(words @ 1..=WORDS_MAX), used) => (words, used),
        Line::Whole(..) | Line::Bad => return Line::Bad,
        Line::Partial => return Line::Partial,
    };
    match word(bytes.get(used..).unwrap_or_default()) {
        Line::Whole(name, behind) if name.first().is_some_and(u8::is_ascii_alphabetic) && name.iter().all(is_name) => {
            Line::Whole(Head { words, name }, used + behind)
        }
        Line::Whole(..) | Line::Bad => Line::Bad,
        Line::Partial => Line::Partial,
    }
}

fn is_name(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// A command that exists begins here: where a flow is found again. `None`: more is needed. Typed commands are not looked for: the words of
/// any command look like one.
pub fn begins_command(bytes: &[u8]) -> Option<bool> {
    match head(bytes) {
        Line::Whole(head, _) => Some(head.is_valid()),
        Line::Partial => None,
        Line::Bad => Some(false),
    }
}

/// The words of the array at the front; `None` when something else is in it. Ends where the bytes end.
fn words(bytes: &[u8]) -> Option<usize> {
    let Line::Whole(Number::Is(mut left), mut used) = number(bytes) else { return Some(bytes.len()) };
    while left > 0 && used < bytes.len() {
        let rest = bytes.get(used..)?;
        if rest.first() != Some(&b'$') {
            return None;
        }
        match number(rest) {
            Line::Whole(Number::Is(length), head) => used = used.saturating_add(head + 2).saturating_add(length.try_into().ok()?),
            Line::Partial => return Some(bytes.len()),
            _ => return None,
        }
        left -= 1;
    }
    Some(used.min(bytes.len()))
}

/// How many whole commands that exist stand at the front, one behind the other.
fn commands(bytes: &[u8]) -> usize {
    let (mut rest, mut count) = (bytes, 0);
    while let Line::Whole(head, _) = head(rest) {
        let Some(behind) = words(rest).filter(|_| head.is_valid()).and_then(|used| rest.get(used..)) else { break };
        (rest, count) = (behind, count + 1);
    }
    count
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

/// Words of a command that was joined behind its begin, up to the next one's. A server's strings look the same: where the role is not
/// known, it takes more than this to tell who asks.
fn rest_of_command(bytes: &[u8]) -> Likeness {
    let mut rest = bytes;
    while rest.first() == Some(&b'$') {
        match number(rest) {
            Line::Whole(Number::Is(length), head) if length <= WORD_MAX => {
                let end = head.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
                match rest.get(end..) {
                    None => return Likeness::Likely,
                    Some(behind) if behind.len() < 2 && b"\r\n".starts_with(behind) => return Likeness::Likely,
                    Some(behind) => match behind.strip_prefix(b"\r\n") {
                        Some(behind) => rest = behind,
                        None => return Likeness::No,
                    },
                }
            }
            Line::Whole(..) | Line::Bad => return Likeness::No,
            Line::Partial if rest.len() == bytes.len() => return Likeness::Undecided,
            Line::Partial => return Likeness::Likely,
        }
    }
    match head(rest) {
        _ if rest.is_empty() => Likeness::Likely,
        Line::Whole(..) | Line::Partial => Likeness::Likely,
        Line::Bad => Likeness::No,
    }
}

/// A command as typed: it needs an answer, since any line of words may look like one. Words that other protocols of lines know as well
/// say nothing: for PING the answer speaks.
pub fn inline(bytes: &[u8]) -> Likeness {
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

/// An array of words that can be a command, or may become one: nothing says who sent it.
fn looks_asked(bytes: &[u8]) -> bool {
    match head(bytes) {
        Line::Whole(head, _) => head.is_valid() && words(bytes).is_some(),
        Line::Partial => true,
        Line::Bad => false,
    }
}

/// Words of which the first names a command, as they stand behind the number of a command's words.
fn looks_asked_behind(bytes: &[u8]) -> bool {
    matches!(word(bytes), Line::Whole(name, used) if Id::named(name).is_some() && bytes.get(used) == Some(&b'$'))
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
        b'*' if bytes.starts_with(MESSAGE) || confirms(bytes) => Likeness::Certain,
        b'>' if bytes.get(1..).is_some_and(|rest| rest.starts_with(MESSAGE.get(1..).unwrap_or_default())) => Likeness::Certain,
        b'$' | b'*' | b'%' | b'~' | b'>' | b'=' | b'!' | b'|' => match number(bytes) {
            Line::Whole(_, used) => match bytes.get(used) {
                Some(next) if !matches!(kind, b'$' | b'=' | b'!') && !b"+-:$*_#,(=!%~|>".contains(next) => Likeness::No,
                _ if *kind == b'*' && looks_asked(bytes) || *kind == b'$' && looks_asked_behind(bytes) => Likeness::Undecided,
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

/// `*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n`
fn confirms(bytes: &[u8]) -> bool {
    let name = bytes.strip_prefix(b"*3\r\n").map(word);
    matches!(name, Some(Line::Whole(name, _)) if name.ends_with(b"subscribe")) && words(bytes).is_none()
}

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
