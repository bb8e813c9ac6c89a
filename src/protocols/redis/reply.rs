//! A reply while its bytes come in: walked value by value, without recursion and without looking at a byte twice.
//!
//! How deep values are nested need not be known: it is enough to count those that are still to come. Only aggregates whose length is not
//! said before (RESP3, "streamed data types") are kept on a stack.

use super::{
    lookup::{Answers, MANY, NULL, NUMBER, OTHER, STRING, TEXT},
    wire::{Line, Number, Word, number, text},
};

/// Of a line of text so much is looked at; the rest is passed over.
const TEXT_MAX: usize = 256;
/// The longest code of an error that is believed to be one.
const CODE_MAX: usize = 24;
/// The longest name of a push that is of interest.
const NAME_MAX: usize = 16;
/// Aggregates of unknown length inside of each other.
const STREAMED_MAX: usize = 8;
/// No reply has more values, and none of them is longer.
const SIZE_MAX: u64 = 1 << 40;

/// Words of success that the server writes; any other text is a value.
const STATUSES: [&[u8]; 7] = [b"OK", b"QUEUED", b"PONG", b"RESET", b"CONTINUE", b"FULLRESYNC", b"NOKEY"];

/// A reply, as far as it came.
#[derive(Clone, Copy, Default)]
pub struct Reply {
    pub first_ns: u64,
    pub end_ns: u64,
    /// On the wire.
    pub bytes: u64,
    /// Type byte of the value that answers; 0 while it is not known. Attributes before it are not it.
    pub kind: u8,
    pub answers: Answers,
    pub error: bool,
    /// The error's code, or the word of success.
    pub word: Word<CODE_MAX>,
    /// The first of the values in it, where that is short: what names a push.
    pub name: Word<NAME_MAX>,
    /// How many values are in it.
    pub count: u64,
    /// The last number in it.
    pub number: u64,
    /// A line as MONITOR writes it.
    pub monitored: bool,
}

/// What was done with the bytes at the front.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// So many are done with.
    Bytes(usize),
    /// So many are done with, and of a value `behind` are still to come.
    Value {
        here: usize,
        behind: u64,
    },
    More,
    Malformed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Inside {
    /// A type byte comes next.
    #[default]
    Nothing,
    /// A line whose end is still to come.
    Line,
    /// A string that is passed over by length.
    Value,
    /// A string in parts, `;` before each.
    Parts,
    /// A part of such a string that is passed over.
    Part,
}

#[derive(Default)]
pub struct Cursor {
    pub reply: Reply,
    /// Values still to come at all levels.
    left: u64,
    streamed: [u64; STREAMED_MAX],
    depth: usize,
    inside: Inside,
    /// The next value is the first of the aggregate that answers.
    names: bool,
}

impl Cursor {
    pub fn begin(&mut self, first_ns: u64) {
        self.reply = Reply { first_ns, ..Reply::default() };
        (self.left, self.depth, self.inside, self.names) = (1, 0, Inside::Nothing, false);
    }

    /// A reply has begun and is not whole.
    pub fn is_under_way(&self) -> bool {
        self.left > 0 || self.depth > 0
    }

    /// The rest of a value went by.
    pub fn value_passed(&mut self) {
        match std::mem::take(&mut self.inside) {
            Inside::Part => self.inside = Inside::Parts,
            _ => self.value_ends(),
        }
    }

    /// Gives up what is under way.
    pub fn forget(&mut self) {
        (self.left, self.depth) = (0, 0);
    }

    fn value_ends(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// Takes the next part of a reply from the front of `bytes`, which are not empty.
    pub fn take(&mut self, bytes: &[u8]) -> Taken {
        let taken = match self.inside {
            Inside::Nothing => self.value(bytes),
            Inside::Parts => self.part(bytes),
            _ => self.line(bytes),
        };
        match taken {
            Taken::Bytes(here) => self.reply.bytes += here as u64,
            Taken::Value { here, behind } => self.reply.bytes += here as u64 + behind,
            Taken::More | Taken::Malformed => {}
        }
        taken
    }

    fn line(&mut self, bytes: &[u8]) -> Taken {
        match bytes.iter().position(|&byte| byte == b'\n') {
            Some(end) => {
                self.inside = Inside::Nothing;
                self.value_ends();
                Taken::Bytes(end + 1)
            }
            None => Taken::Bytes(bytes.len()),
        }
    }

    fn value(&mut self, bytes: &[u8]) -> Taken {
        let Some(&kind) = bytes.first() else { return Taken::More };
        let answers = self.reply.kind == 0 && self.left == 1 && self.depth == 0;
        match kind {
            b'+' | b'-' | b':' | b'#' | b',' | b'(' | b'_' => self.text(kind, answers, bytes),
            b'$' | b'=' | b'!' => self.string(kind, answers, bytes),
            b'*' | b'~' | b'>' | b'%' | b'|' => self.aggregate(kind, answers, bytes),
            b'.' => match bytes {
                [_, b'\r', b'\n', ..] if self.depth > 0 => {
                    self.depth -= 1;
                    self.left = self.streamed.get(self.depth).copied().unwrap_or(0);
                    Taken::Bytes(3)
                }
                [_] | [_, b'\r'] if self.depth > 0 => Taken::More,
                _ => Taken::Malformed,
            },
            _ => Taken::Malformed,
        }
    }

    /// A value that is a line.
    fn text(&mut self, kind: u8, answers: bool, bytes: &[u8]) -> Taken {
        let (line, here) = match text(bytes, TEXT_MAX) {
            Some((line, here)) => (line, Some(here)),
            None if bytes.len() < TEXT_MAX => return Taken::More,
            None => (bytes.get(1..TEXT_MAX).unwrap_or_default(), None),
        };
        let well_formed = match kind {
            b':' => match self.integer(line) {
                Some(()) => true,
                None => false,
            },
            b'_' => line.is_empty(),
            b'#' => matches!(line, b"t" | b"f"),
            b'(' => line.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+')),
            b',' => line.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')),
            _ => true,
        };
        if !well_formed {
            return Taken::Malformed;
        }
        if answers {
            self.reply.kind = kind;
            self.reply.answers = match kind {
                b'+' => TEXT,
                b'-' => 0,
                b':' | b'#' => NUMBER,
                b'_' => NULL,
                _ => OTHER,
            };
            match kind {
                b'+' => {
                    self.reply.monitored = is_monitored(line);
                    self.status(line);
                }
                b'-' => self.error(line),
                _ => {}
            }
        } else if std::mem::take(&mut self.names) && here.is_some() && kind == b'+' {
            self.reply.name = Word::of(line);
        }
        match here {
            Some(here) => {
                self.value_ends();
                Taken::Bytes(here)
            }
            None => {
                self.inside = Inside::Line;
                Taken::Bytes(line.len() + 1)
            }
        }
    }

    fn integer(&mut self, line: &[u8]) -> Option<()> {
        let digits = line.strip_prefix(b"-").or(line.strip_prefix(b"+")).unwrap_or(line);
        if digits.is_empty() || digits.len() > 20 {
            return None;
        }
        self.reply.number = 0;
        for &digit in digits {
            if !digit.is_ascii_digit() {
                return None;
            }
            self.reply.number = self.reply.number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        }
        Some(())
    }

    fn status(&mut self, line: &[u8]) {
        // Behind FULLRESYNC and CONTINUE more is written.
        let word = line.split(|&byte| byte == b' ').next().unwrap_or_default();
        let alone = word.len() == line.len() || matches!(word, b"FULLRESYNC" | b"CONTINUE");
        if alone && STATUSES.contains(&word) {
            self.reply.word = Word::of(word);
        }
    }

    fn error(&mut self, line: &[u8]) {
        self.reply.error = true;
        let code = line.split(|&byte| byte == b' ').next().unwrap_or_default();
        // A script may answer with any text: only what looks like a code is taken for one.
        if code.first().is_some_and(u8::is_ascii_uppercase)
            && code.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_')
        {
            self.reply.word = Word::of(code);
        }
    }

    /// A string of which the length is said before.
    fn string(&mut self, kind: u8, answers: bool, bytes: &[u8]) -> Taken {
        let (length, head) = match number(bytes) {
            Line::Whole(Number::Is(length), head) if length <= SIZE_MAX => (length, head),
            Line::Whole(Number::Null, head) if kind == b'$' => {
                if answers {
                    (self.reply.kind, self.reply.answers) = (kind, NULL);
                }
                self.names = false;
                self.value_ends();
                return Taken::Bytes(head);
            }
            Line::Whole(Number::Streamed, head) if kind == b'$' => {
                if answers {
                    (self.reply.kind, self.reply.answers) = (kind, STRING);
                }
                self.names = false;
                self.inside = Inside::Parts;
                return Taken::Bytes(head);
            }
            Line::Whole(..) | Line::Bad => return Taken::Malformed,
            Line::Partial => return Taken::More,
        };
        let wanted = match (answers, kind) {
            (true, b'!') => CODE_MAX as u64 + 1,
            _ if self.names => NAME_MAX as u64,
            _ => 0,
        };
        let behind = bytes.get(head..).unwrap_or_default();
        let begin = wanted.min(length) as usize;
        let Some(begin) = behind.get(..begin) else { return Taken::More };
        if answers {
            (self.reply.kind, self.reply.answers) = (kind, STRING);
            if kind == b'!' {
                self.reply.answers = 0;
                self.error(begin);
            }
        } else if std::mem::take(&mut self.names) && length <= NAME_MAX as u64 {
            self.reply.name = Word::of(begin);
        }
        self.body(Inside::Value, length, head, bytes)
    }

    /// `length` bytes and a line break follow `head` bytes.
    fn body(&mut self, inside: Inside, length: u64, head: usize, bytes: &[u8]) -> Taken {
        let here = bytes.len() as u64;
        let total = length.saturating_add(head as u64 + 2);
        self.inside = inside;
        if here < total {
            return Taken::Value { here: bytes.len(), behind: total - here };
        }
        let total = total as usize;
        if bytes.get(total - 2..total) != Some(b"\r\n") {
            return Taken::Malformed;
        }
        self.value_passed();
        Taken::Bytes(total)
    }

    /// A part of a string whose length is not said before; an empty one is the last.
    fn part(&mut self, bytes: &[u8]) -> Taken {
        if bytes.first() != Some(&b';') {
            return Taken::Malformed;
        }
        match number(bytes) {
            Line::Whole(Number::Is(0), head) => {
                self.inside = Inside::Nothing;
                self.value_ends();
                Taken::Bytes(head)
            }
            Line::Whole(Number::Is(length), head) if length <= SIZE_MAX => self.body(Inside::Part, length, head, bytes),
            Line::Partial => Taken::More,
            _ => Taken::Malformed,
        }
    }

    fn aggregate(&mut self, kind: u8, answers: bool, bytes: &[u8]) -> Taken {
        let (count, head) = match number(bytes) {
            Line::Whole(count, head) => (count, head),
            Line::Partial => return Taken::More,
            Line::Bad => return Taken::Malformed,
        };
        let attributes = kind == b'|';
        self.names = false;
        if answers && !attributes {
            self.reply.kind = kind;
            self.reply.answers = if count == Number::Null { NULL } else { MANY };
        }
        match count {
            Number::Is(count) => {
                let values = if matches!(kind, b'%' | b'|') { count.saturating_mul(2) } else { count };
                if answers && !attributes {
                    self.reply.count = values;
                    self.names = matches!(kind, b'*' | b'>') && values > 0;
                }
                if !attributes {
                    self.value_ends();
                }
                self.left = self.left.saturating_add(values);
                if values > SIZE_MAX {
                    return Taken::Malformed;
                }
            }
            Number::Null if kind == b'*' => self.value_ends(),
            Number::Streamed if !attributes => {
                self.value_ends();
                let Some(level) = self.streamed.get_mut(self.depth) else { return Taken::Malformed };
                *level = self.left;
                self.depth += 1;
                // Its end is said, not counted.
                self.left = u64::MAX / 2;
            }
            _ => return Taken::Malformed,
        }
        Taken::Bytes(head)
    }
}

/// `1339518083.107412 [0 127.0.0.1:60866] "keys" "*"`: what MONITOR writes, and nothing else.
fn is_monitored(line: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let seconds = digits(line);
    let behind = line.get(seconds..).unwrap_or_default();
    seconds > 0 && behind.strip_prefix(b".").is_some_and(|rest| rest.get(digits(rest)..).unwrap_or_default().starts_with(b" ["))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the bytes are one whole reply, read in pieces of `size`.
    fn is_one(bytes: &[u8], size: usize) -> Option<Reply> {
        let mut cursor = Cursor::default();
        cursor.begin(0);
        let (mut at, mut seen, mut passed) = (0, 0, 0);
        while at < bytes.len() {
            if !cursor.is_under_way() {
                return None;
            }
            match cursor.take(&bytes[at..seen]) {
                Taken::Bytes(count) => at += count,
                Taken::Value { here, behind } => {
                    at += here + behind as usize;
                    passed += 1;
                    if at > bytes.len() {
                        return None;
                    }
                    cursor.value_passed();
                    seen = at;
                }
                Taken::More => {}
                Taken::Malformed => return None,
            }
            if at >= seen || seen < bytes.len() {
                seen = (seen + size).min(bytes.len());
            }
        }
        assert!(size > 1 || passed > 0 || !bytes.starts_with(b"$9"));
        (!cursor.is_under_way()).then_some(cursor.reply)
    }

    #[test]
    fn every_type_is_walked_in_pieces_of_any_size() {
        let replies: [&[u8]; 28] = [
            b"+OK\r\n",
            b"-ERR no\r\n",
            b":-17\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"$0\r\n\r\n",
            b"$9\r\nabc\r\ndefg\r\n",
            b"*0\r\n",
            b"*3\r\n:1\r\n*2\r\n$1\r\na\r\n*0\r\n*1\r\n*1\r\n*1\r\n+x\r\n",
            b"_\r\n",
            b"#t\r\n",
            b",1.5e10\r\n",
            b",-inf\r\n",
            b"(3492890328409238509324850943850943825024385\r\n",
            b"!21\r\nSYNTAX invalid syntax\r\n",
            b"=15\r\ntxt:Some string\r\n",
            b"%2\r\n+a\r\n:1\r\n+b\r\n%1\r\n+c\r\n_\r\n",
            b"~2\r\n+a\r\n#f\r\n",
            b">3\r\n$7\r\nmessage\r\n+a\r\n$1\r\nb\r\n",
            b"|1\r\n+ttl\r\n:3600\r\n$1\r\na\r\n",
            b"*2\r\n|1\r\n+a\r\n*2\r\n:1\r\n:2\r\n:3\r\n:4\r\n",
            b"*?\r\n:1\r\n:2\r\n.\r\n",
            b"*?\r\n*?\r\n:1\r\n.\r\n%?\r\n+a\r\n:1\r\n.\r\n.\r\n",
            b"*2\r\n*?\r\n:1\r\n*1\r\n:3\r\n.\r\n:2\r\n",
            b"$?\r\n;4\r\nHell\r\n;5\r\no wor\r\n;1\r\nd\r\n;0\r\n",
            b"*1\r\n$?\r\n;0\r\n",
            b"*1\r\n$-1\r\n",
            b"%0\r\n",
        ];
        for reply in replies {
            for size in 1..=reply.len() {
                assert_eq!(
                    is_one(reply, size).map(|reply| reply.bytes),
                    Some(reply.len() as u64),
                    "{:?}",
                    reply.escape_ascii().to_string()
                );
            }
            assert!(is_one(&[reply, b"+"].concat(), reply.len()).is_none());
        }
        for bad in [&b"x\r\n"[..], b":a\r\n", b"#x\r\n", b".\r\n", b"$1\r\nabc", b"*-2\r\n", b"_x\r\n", b"$?\r\n+a\r\n", b",\x01\r\n"] {
            assert!(is_one(bad, bad.len()).is_none(), "{bad:?}");
        }
        let deep = [b"*?\r\n".repeat(9), b".\r\n".repeat(9)].concat();
        assert!(is_one(&deep, deep.len()).is_none(), "too deep");
        let nested = [b"*1\r\n".repeat(100_000), b":1\r\n".to_vec()].concat();
        assert!(is_one(&nested, nested.len()).is_some(), "counted levels cost nothing");
    }

    #[test]
    fn statuses_are_words_of_the_server_only() {
        for (reply, word, error) in [
            ("+OK\r\n", "OK", false),
            ("+hunter2\r\n", "", false),
            ("+OK hunter2\r\n", "", false),
            ("+FULLRESYNC abc 1\r\n", "FULLRESYNC", false),
            ("-WRONGTYPE Operation\r\n", "WRONGTYPE", true),
            ("-hunter2 said\r\n", "", true),
            ("-MOVED 3999 127.0.0.1:6381\r\n", "MOVED", true),
            ("!21\r\nSYNTAX invalid syntax\r\n", "SYNTAX", true),
            ("|1\r\n+OK\r\n-ERR\r\n-NOAUTH no\r\n", "NOAUTH", true),
            ("*1\r\n-ERR inside\r\n", "", false),
        ] {
            let seen = is_one(reply.as_bytes(), reply.len()).unwrap();
            assert_eq!((seen.word.text(), seen.error), (word, error), "{reply:?}");
        }
    }

    #[test]
    fn lines_of_monitor_are_told_from_statuses() {
        assert!(is_monitored(b"1339518083.107412 [0 127.0.0.1:60866] \"keys\" \"*\""));
        assert!(!is_monitored(b"OK") && !is_monitored(b"1.5") && !is_monitored(b".5 [") && !is_monitored(b"1339518083 [0"));
    }
}
