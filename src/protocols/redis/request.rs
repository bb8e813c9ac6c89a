//! A command while its words come in: what it is called, which of its words are keys, and the shape that may be shown of it.

use super::{
    lookup::{Id, Keys, Kind, NAME_MAX},
    pattern::{PREFIX_MAX, Prefix, prefix},
};
use crate::model::Flags;

/// Of a key that the user wants to see, so many bytes are read.
const RAW_KEY_MAX: usize = 128;
/// All of a shape with keys as they are.
const RAW_TEXT_MAX: usize = 256;
/// A count of keys up to which it is shown.
const SHOWN_COUNT_MAX: u64 = 16;

/// What may be shown of a command's words.
#[derive(Clone, Copy, Default)]
pub struct Shape {
    /// A key was there, its prefix is this.
    pub prefix: Prefix,
    marks: u8,
    /// For a script: how many keys it was given.
    count: u8,
}

impl Shape {
    const KEY: u8 = 1;
    const VALUE: u8 = 2;
    /// The first value stands before the first key.
    const VALUE_FIRST: u8 = 4;
    const MORE: u8 = 8;
    const COUNTED: u8 = 16;

    fn has(self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    fn key(&mut self, begin: &[u8]) {
        if self.has(Self::KEY) {
            self.marks |= Self::MORE;
        } else {
            self.marks |= Self::KEY;
            self.prefix = prefix(begin);
        }
    }

    fn value(&mut self) {
        self.marks |= match (self.has(Self::VALUE), self.has(Self::KEY)) {
            (true, _) => Self::MORE,
            (false, true) => Self::VALUE,
            (false, false) => Self::VALUE | Self::VALUE_FIRST,
        };
    }

    /// Writes "HGET user:? ?": the name, the first key and the first value in their order, and `…` for all others.
    pub fn write(&self, id: Id, to: &mut String) {
        let command = id.command();
        to.push_str(command.name);
        if command.kind == Kind::Script {
            to.push_str(" script ");
            match (self.has(Self::COUNTED), self.count) {
                (true, count @ 0..10) => to.push(char::from(b'0' + count)),
                (true, count) => to.extend(['1', char::from(b'0' + count % 10)]),
                (false, _) => to.push('?'),
            }
        }
        if self.has(Self::VALUE_FIRST) {
            to.push_str(" ?");
        }
        if self.has(Self::KEY) {
            to.push(' ');
            if !self.prefix.bytes().is_empty() {
                to.push_str(self.prefix.text());
                to.push(':');
            }
            to.push('?');
        }
        if self.has(Self::VALUE) && !self.has(Self::VALUE_FIRST) {
            to.push_str(" ?");
        }
        if self.has(Self::MORE) {
            to.push_str(" …");
        }
    }
}

/// Whether the server answers, as CLIENT REPLY says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replies {
    #[default]
    On,
    Off,
    /// Not to this and the next command.
    Skip,
}

/// A command of which all words came.
#[derive(Clone, Copy)]
pub struct Request {
    /// Its first byte.
    pub start_ns: u64,
    /// On the wire.
    pub bytes: u64,
    pub id: Id,
    pub shape: Shape,
    pub flags: Flags,
    /// Inside of MULTI: queued, not executed.
    pub queued: bool,
    /// Subscriptions: how many answers there will be, 0 where that is not known. SELECT: the number of the database.
    pub number: u32,
}

/// A command of which words may still come.
#[derive(Default)]
pub struct Asking {
    pub start_ns: u64,
    pub bytes: u64,
    /// How many words there are, and which comes next.
    words: u64,
    index: u64,
    id: Id,
    shape: Shape,
    number: u32,
    /// Behind the words that count or announce keys: the first and the last word that is a key.
    keys: Option<(u64, u64)>,
    pub replies: Option<Replies>,
    /// REPLCONF ACK: a replica speaks to its master.
    pub acknowledges: bool,
    /// The shape with keys as they are, where the user wants that.
    raw: Option<String>,
}

impl Asking {
    pub fn new(raw: bool) -> Self {
        Self { raw: raw.then(String::new), ..Self::default() }
    }

    /// A command of so many words begins.
    pub fn begin(&mut self, words: u64, start_ns: u64, bytes: u64) {
        let mut raw = self.raw.take();
        if let Some(text) = &mut raw {
            text.clear();
        }
        *self = Self { start_ns, bytes, words, raw, ..Self::default() };
    }

    pub fn is_whole(&self) -> bool {
        self.index >= self.words
    }

    /// What it is called is known, and what it does.
    pub fn is_named(&self) -> bool {
        self.index > u64::from(self.id.command().container) && self.id.command().kind != Kind::ClientReply
    }

    pub fn is_known(&self) -> bool {
        self.id != Id::OTHER
    }

    /// Its keys as they are; `None` where they stay out.
    pub fn raw(&self) -> Option<&str> {
        self.raw.as_deref()
    }

    /// How many bytes of the next word are wanted.
    pub fn needs(&self) -> usize {
        let command = self.id.command();
        match (self.index, command.kind, command.keys) {
            (0, ..) => NAME_MAX + 1,
            (1, ..) if command.container => NAME_MAX + 1,
            (1, Kind::Select | Kind::Replconf, _) | (2, Kind::ClientReply, _) => 8,
            (index, _, Keys::Counted { by }) if index == u64::from(by) => 12,
            (_, _, Keys::BehindStreams) if self.keys.is_none() => 8,
            _ if !self.next_is_key() => 0,
            _ if self.raw.is_some() => RAW_KEY_MAX,
            _ => PREFIX_MAX + 1,
        }
    }

    fn next_is_key(&self) -> bool {
        match self.id.command().keys {
            Keys::None => false,
            Keys::At { first, last, step } => {
                let last =
                    if last < 0 { self.words.saturating_sub(u64::from(last.unsigned_abs())) } else { u64::from(last.unsigned_abs()) };
                let first = u64::from(first);
                (first..=last).contains(&self.index) && (self.index - first).is_multiple_of(u64::from(step.max(1)))
            }
            _ => self.keys.is_some_and(|(first, last)| (first..=last).contains(&self.index)),
        }
    }

    /// The next word is `length` bytes long and begins like this: [`Asking::needs`] bytes of it, or all.
    pub fn word(&mut self, begin: &[u8], length: u64) {
        let whole = if begin.len() as u64 == length { begin } else { b"" };
        let index = self.index;
        let command = self.id.command();
        self.index += 1;
        match (index, command.kind, command.keys) {
            (0, ..) => {
                self.id = Id::named(whole).unwrap_or_default();
                self.tell(None);
                return;
            }
            (1, ..) if command.container => {
                if let Some(id) = self.id.named_within(whole) {
                    self.id = id;
                    if let Some(raw) = &mut self.raw {
                        raw.clear();
                    }
                    self.tell(None);
                    return;
                }
            }
            (1, Kind::Select, _) => self.number = decimal(whole).and_then(|number| number.try_into().ok()).unwrap_or(u32::MAX),
            (1, Kind::Replconf, _) => self.acknowledges = whole.eq_ignore_ascii_case(b"ack"),
            (2, Kind::ClientReply, _) => {
                self.replies = [(&b"on"[..], Replies::On), (b"off", Replies::Off), (b"skip", Replies::Skip)]
                    .into_iter()
                    .find_map(|(name, replies)| name.eq_ignore_ascii_case(whole).then_some(replies));
            }
            (_, _, Keys::Counted { by }) if index == u64::from(by) => {
                let count = decimal(whole);
                self.keys = count.map(|count| (index + 1, index.saturating_add(count)));
                if command.kind == Kind::Script {
                    if let Some(count) = count.filter(|count| *count <= SHOWN_COUNT_MAX) {
                        self.shape.count = count as u8;
                        self.shape.marks |= Shape::COUNTED;
                    }
                    return;
                }
            }
            // The text or the hash of a script, or the name of a function.
            (1, Kind::Script, _) => return,
            (_, _, Keys::BehindStreams) if self.keys.is_none() && whole.eq_ignore_ascii_case(b"streams") => {
                self.keys = Some((index + 1, index + self.words.saturating_sub(index + 1) / 2));
            }
            _ => {
                self.index = index;
                let key = self.next_is_key();
                self.index = index + 1;
                if key {
                    self.shape.key(begin.get(..PREFIX_MAX + 1).unwrap_or(begin));
                    self.tell(Some((begin, whole.is_empty() && length > 0)));
                    return;
                }
            }
        }
        self.shape.value();
        if let Some(raw) = self.raw.as_mut().filter(|raw| !raw.ends_with(" ?") && raw.len() < RAW_TEXT_MAX) {
            raw.push_str(" ?");
        }
    }

    /// Adds the name, or a key as it is, to the text for users who want keys.
    fn tell(&mut self, key: Option<(&[u8], bool)>) {
        let Some(raw) = &mut self.raw else { return };
        match key {
            None => raw.push_str(self.id.command().name),
            Some(_) if raw.len() >= RAW_TEXT_MAX => {}
            Some((key, cut)) => {
                raw.push(' ');
                raw.extend(key.escape_ascii().map(char::from));
                if cut {
                    raw.push('…');
                }
            }
        }
    }

    /// The command, as far as it came.
    pub fn request(&self) -> Request {
        let mut number = self.number;
        if matches!(self.id.command().kind, Kind::Subscribe | Kind::Unsubscribe) {
            number = u32::try_from(self.words.saturating_sub(1)).unwrap_or(u32::MAX);
        }
        let Self { start_ns, bytes, id, shape, .. } = *self;
        Request { start_ns, bytes, id, shape, flags: Flags::default(), queued: false, number }
    }

    pub fn kind(&self) -> Kind {
        self.id.command().kind
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The words of an inline command: split at blanks, quoted or not. `None` when a quote is not closed.
pub fn inline_words(line: &[u8]) -> Option<impl Iterator<Item = &[u8]> + Clone> {
    let balanced = InlineWords { rest: line, broken: false }.fold(true, |_, word| word.is_some());
    balanced.then(|| InlineWords { rest: line, broken: false }.flatten())
}

#[derive(Clone)]
struct InlineWords<'a> {
    rest: &'a [u8],
    broken: bool,
}

impl<'a> Iterator for InlineWords<'a> {
    /// `None` for one whose quote is not closed: the last.
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.trim_ascii_start();
        let quote = *rest.first()?;
        if self.broken {
            return None;
        }
        if !matches!(quote, b'"' | b'\'') {
            let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
            let (word, behind) = rest.split_at_checked(end)?;
            self.rest = behind;
            return Some(Some(word));
        }
        let mut escaped = false;
        let end = rest.iter().skip(1).position(|&byte| {
            let ends = byte == quote && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let Some(end) = end else {
            self.broken = true;
            return Some(None);
        };
        self.rest = rest.get(end + 2..).unwrap_or_default();
        Some(rest.get(1..=end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape_of(line: &str, raw: bool) -> String {
        let mut asking = Asking::new(raw);
        let words: Vec<&[u8]> = inline_words(line.as_bytes()).unwrap().collect();
        asking.begin(words.len() as u64, 0, 0);
        for word in words {
            asking.word(&word[..word.len().min(asking.needs())], word.len() as u64);
        }
        assert!(asking.is_whole());
        let mut text = String::new();
        match asking.raw() {
            Some(raw) => text.push_str(raw),
            None => asking.request().shape.write(asking.id, &mut text),
        }
        text
    }

    #[test]
    fn shapes_have_the_first_key_and_the_first_value() {
        for (line, shape, raw) in [
            ("ping", "PING", "PING"),
            ("get user:1", "GET user:?", "GET user:1"),
            ("GET 4711", "GET ?", "GET 4711"),
            ("SET user:1 hunter2", "SET user:? ?", "SET user:1 ?"),
            ("SET user:1 hunter2 EX 10", "SET user:? ? …", "SET user:1 ?"),
            ("MSET user:1 a cart:2 b", "MSET user:? ? …", "MSET user:1 ? cart:2 ?"),
            ("MGET user:1 user:2", "MGET user:? …", "MGET user:1 user:2"),
            ("OBJECT ENCODING user:1", "OBJECT ENCODING user:?", "OBJECT ENCODING user:1"),
            ("config get save", "CONFIG GET ?", "CONFIG GET ?"),
            ("config hunter2 save", "CONFIG ? …", "CONFIG ?"),
            ("FOO hunter2", "OTHER ?", "OTHER ?"),
            ("EVAL 'return hunter2' 2 user:1 cart:2 hunter2", "EVAL script 2 user:? ? …", "EVAL user:1 cart:2 ?"),
            ("EVALSHA abc 0", "EVALSHA script 0", "EVALSHA"),
            ("EVAL x 12 a", "EVAL script 12 ?", "EVAL a"),
            ("EVAL x 99 a", "EVAL script ? ?", "EVAL a"),
            ("ZUNION 2 board:1 board:2 WEIGHTS 1 2", "ZUNION ? board:? …", "ZUNION ? board:1 board:2 ?"),
            ("XREAD COUNT 2 STREAMS log:a log:b 0 0", "XREAD ? log:? …", "XREAD ? log:a log:b ?"),
            ("BITOP AND dest:a src:b", "BITOP ? dest:? …", "BITOP ? dest:a src:b"),
            ("AUTH alice hunter2", "AUTH ? …", "AUTH ?"),
            ("HELLO 3 AUTH alice hunter2", "HELLO ? …", "HELLO ?"),
            ("MIGRATE host 6379 user:1 0 5000 AUTH hunter2", "MIGRATE ? user:? …", "MIGRATE ? user:1 ?"),
            ("XGROUP CREATE log:a group $", "XGROUP CREATE log:? ? …", "XGROUP CREATE log:a ?"),
            ("SUBSCRIBE news:1 news:2", "SUBSCRIBE ? …", "SUBSCRIBE ?"),
            ("SET \"a key\" 'a \\' value'", "SET ? ?", "SET a key ?"),
        ] {
            assert_eq!(shape_of(line, false), shape, "{line}");
            assert_eq!(shape_of(line, true), raw, "{line}");
        }
        assert!(inline_words(b"SET a 'b").is_none());
    }
}
