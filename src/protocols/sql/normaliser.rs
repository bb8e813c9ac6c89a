//! The pass over a text. Lexical rules: PostgreSQL manual, section 4.1.

use std::ops::Range;

use smallvec::SmallVec;

use super::{
    STATEMENT_LIMIT, STATEMENTS_LIMIT, Statement, TEXT_LIMIT,
    words::{continues_word, is_boolean, operation, precedes_value, starts_word},
};

/// What matters of a token for the one behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Start,
    Word,
    Literal,
    Comma,
    Open,
    Close,
    Operator,
}

pub struct Normaliser<'a> {
    input: &'a [u8],
    position: usize,
    output: Vec<u8>,
    statements: SmallVec<[Statement; 1]>,
    cut: bool,
    escapes: bool,
    /// Where the current statement begins in the output.
    begin: usize,
    operation: &'static str,
    /// The statement began with WITH: its verb is still to come.
    with: bool,
    words: u32,
    /// The last word, for the rare case that it matters which one it was.
    word: Range<usize>,
    space: bool,
    previous: Token,
    before: Token,
    /// Where the output stood behind the last literal: lists are folded to there.
    literal_end: usize,
    depth: u32,
    /// Depth of the VALUES whose rows are being read, and how many were.
    values: Option<u32>,
    rows: u32,
    /// Inside a further row of VALUES: nothing is written.
    muted: bool,
    /// CREATE: a body BEGIN ATOMIC … END may hold semicolons.
    creates: bool,
    after_begin: bool,
    blocks: u32,
    full: bool,
}

impl<'a> Normaliser<'a> {
    pub fn new(input: &'a [u8], output: Vec<u8>, statements: SmallVec<[Statement; 1]>, cut: bool, escapes: bool) -> Self {
        Self {
            input,
            position: 0,
            output,
            statements,
            cut,
            escapes,
            begin: 0,
            operation: "",
            with: false,
            words: 0,
            word: 0..0,
            space: false,
            previous: Token::Start,
            before: Token::Start,
            literal_end: 0,
            depth: 0,
            values: None,
            rows: 0,
            muted: false,
            creates: false,
            after_begin: false,
            blocks: 0,
            full: false,
        }
    }

    /// The normalised text and where its statements are.
    pub fn into_parts(self) -> (Vec<u8>, SmallVec<[Statement; 1]>) {
        (self.output, self.statements)
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.input.get(self.position + ahead).copied().unwrap_or(0)
    }

    fn rest(&self) -> &'a [u8] {
        self.input.get(self.position..).unwrap_or_default()
    }

    pub fn run(&mut self) {
        while let Some(&byte) = self.input.get(self.position) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => {
                    self.position += 1;
                    self.space = true;
                }
                b'-' if self.peek(1) == b'-' => self.line_comment(),
                b'/' if self.peek(1) == b'*' => self.block_comment(),
                b'\'' => {
                    self.position += 1;
                    self.quoted(b'\'', self.escapes);
                    self.literal();
                }
                b'"' => self.identifier(self.position),
                b'$' => self.dollar(),
                b'0'..=b'9' => self.number(),
                b'.' if self.peek(1).is_ascii_digit() => self.number(),
                b'-' | b'+' if self.signs() => self.position += 1,
                b',' => {
                    self.position += 1;
                    self.comma();
                }
                b'(' | b'[' => {
                    self.position += 1;
                    self.open(byte);
                }
                b')' | b']' => {
                    self.position += 1;
                    self.close(byte);
                }
                b';' if self.depth == 0 && self.blocks == 0 => {
                    self.position += 1;
                    self.finish(false);
                }
                byte if starts_word(byte) => self.word(),
                // NUL ends a text on the wire; other control characters are no SQL.
                0..=0x1f | 0x7f => self.position += 1,
                _ => {
                    self.position += 1;
                    self.write(&[byte], Token::Operator);
                }
            }
        }
        self.finish(self.cut);
    }

    fn line_comment(&mut self) {
        let rest = self.rest();
        self.position += rest.iter().position(|&byte| byte == b'\n' || byte == b'\r').unwrap_or(rest.len());
        self.space = true;
    }

    fn block_comment(&mut self) {
        let mut depth = 0u32;
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.position += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.position += 2;
                    if depth == 0 {
                        break;
                    }
                }
                _ if self.position >= self.input.len() => break,
                _ => self.position += 1,
            }
        }
        self.space = true;
    }

    /// Passes over what is left of a quoted text, its closing quote included; `false` when that is missing.
    fn quoted(&mut self, quote: u8, escapes: bool) -> bool {
        loop {
            let rest = self.rest();
            let Some(index) = rest.iter().position(|&byte| byte == quote || (escapes && byte == b'\\')) else {
                self.position = self.input.len();
                return false;
            };
            self.position += index + 1;
            if rest.get(index) == Some(&b'\\') {
                self.position = (self.position + 1).min(self.input.len());
            } else if self.peek(0) == quote {
                self.position += 1;
            } else {
                return true;
            }
        }
    }

    /// A quoted identifier whose text begins at `begin` (with its `U&`, if any); one that is cut is left out.
    fn identifier(&mut self, begin: usize) {
        self.position += 1;
        if self.quoted(b'"', false) {
            let input = self.input;
            self.word = 0..0;
            self.write(input.get(begin..self.position).unwrap_or_default(), Token::Word);
        }
    }

    /// `$1`, or `$tag$ … $tag$`.
    fn dollar(&mut self) {
        if self.peek(1).is_ascii_digit() {
            self.position += 1;
            let rest = self.rest();
            self.position += rest.iter().position(|&byte| !continues_word(byte)).unwrap_or(rest.len());
            return self.literal();
        }
        let rest = self.rest();
        let tag = rest.get(1..).unwrap_or_default();
        let length = tag.iter().position(|&byte| byte == b'$' || !continues_word(byte)).unwrap_or(tag.len());
        if tag.get(length) != Some(&b'$') {
            // No quote begins here, unless the text is cut inside of its tag: nothing of it is shown either way.
            self.position += 1 + length;
            return self.literal();
        }
        let delimiter = rest.get(..length + 2).unwrap_or_default();
        self.position += delimiter.len();
        loop {
            let rest = self.rest();
            let Some(index) = rest.iter().position(|&byte| byte == b'$') else {
                self.position = self.input.len();
                break;
            };
            self.position += index;
            if self.rest().starts_with(delimiter) {
                self.position += delimiter.len();
                break;
            }
            self.position += 1;
        }
        self.literal();
    }

    /// Decimal, hexadecimal, octal, binary, with point and exponent; letters that touch it are taken as a part of it.
    fn number(&mut self) {
        let decimal = !(self.peek(0) == b'0' && matches!(self.peek(1), b'x' | b'X' | b'o' | b'O' | b'b' | b'B'));
        loop {
            match self.peek(0) {
                b'e' | b'E' if decimal && matches!(self.peek(1), b'+' | b'-') && self.peek(2).is_ascii_digit() => self.position += 2,
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'.' => self.position += 1,
                _ => break,
            }
        }
        self.literal();
    }

    /// The `+` or `-` here is a number's sign.
    fn signs(&self) -> bool {
        let digits = self.peek(1).is_ascii_digit() || (self.peek(1) == b'.' && self.peek(2).is_ascii_digit());
        digits
            && match self.previous {
                Token::Start | Token::Comma | Token::Open | Token::Operator => true,
                Token::Word => precedes_value(self.input.get(self.word.clone()).unwrap_or_default()),
                Token::Literal | Token::Close => false,
            }
    }

    fn word(&mut self) {
        let begin = self.position;
        let rest = self.rest();
        let length = rest.iter().position(|&byte| !continues_word(byte)).unwrap_or(rest.len());
        self.position += length;
        let word = rest.get(..length).unwrap_or_default();
        match (word, self.peek(0), self.peek(1)) {
            (b"e" | b"E", b'\'', _) => {
                self.position += 1;
                self.quoted(b'\'', true);
                return self.literal();
            }
            (b"b" | b"B" | b"x" | b"X" | b"n" | b"N", b'\'', _) => {
                self.position += 1;
                self.quoted(b'\'', self.escapes);
                return self.literal();
            }
            (b"u" | b"U", b'&', b'\'') => {
                self.position += 2;
                self.quoted(b'\'', self.escapes);
                return self.literal();
            }
            (b"u" | b"U", b'&', b'"') => {
                self.position += 1;
                return self.identifier(begin);
            }
            _ if is_boolean(word) && !self.tests_truth() => return self.literal(),
            _ => {}
        }
        self.words += 1;
        if self.words == 1 || self.with || self.creates {
            self.note(word);
        }
        self.word = begin..self.position;
        self.write(word, Token::Word);
        if word.len() == 6 && word.eq_ignore_ascii_case(b"VALUES") && !self.muted {
            self.values = Some(self.depth);
            self.rows = 0;
        }
    }

    /// The word before makes `TRUE` or `FALSE` a test (`IS TRUE`, `IS NOT FALSE`), not a value.
    fn tests_truth(&self) -> bool {
        let before = self.input.get(self.word.clone()).unwrap_or_default();
        self.previous == Token::Word && (before.eq_ignore_ascii_case(b"IS") || before.eq_ignore_ascii_case(b"NOT"))
    }

    /// What a word says about its statement: the verb, and whether it goes on behind a semicolon.
    fn note(&mut self, word: &[u8]) {
        let mut upper = [0u8; 24];
        let Some(upper) = upper.get_mut(..word.len()) else { return };
        upper.copy_from_slice(word);
        upper.make_ascii_uppercase();
        let upper = &*upper;
        if self.words == 1 {
            self.operation = operation(upper);
            self.with = upper == b"WITH";
            self.creates = upper == b"CREATE";
        } else if self.with && self.depth == 0 && matches!(upper, b"SELECT" | b"INSERT" | b"UPDATE" | b"DELETE" | b"MERGE" | b"VALUES") {
            self.operation = operation(upper);
            self.with = false;
        } else if self.creates {
            match upper {
                b"ATOMIC" if self.after_begin => self.blocks += 1,
                b"CASE" if self.blocks > 0 => self.blocks += 1,
                b"END" => self.blocks = self.blocks.saturating_sub(1),
                _ => {}
            }
            self.after_begin = upper == b"BEGIN";
        }
    }

    fn literal(&mut self) {
        if self.muted {
            return;
        }
        // Literals that touch or follow each other are one (manual 4.1.2.1); those behind a comma fold into the list.
        if self.previous == Token::Comma && self.before == Token::Literal {
            self.output.truncate(self.literal_end);
            self.previous = Token::Literal;
        } else if self.previous != Token::Literal {
            self.write(b"?", Token::Literal);
            self.literal_end = self.output.len();
        }
        self.space = false;
    }

    fn comma(&mut self) {
        if self.values == Some(self.depth) && self.rows > 0 {
            // Between two rows of VALUES.
            self.space = false;
            return;
        }
        self.write(b",", Token::Comma);
    }

    fn open(&mut self, byte: u8) {
        if self.values == Some(self.depth) && byte == b'(' && !self.muted {
            self.rows += 1;
            self.muted = self.rows > 1;
        }
        let values = self.values;
        self.write(&[byte], Token::Open);
        self.values = values;
        self.depth += 1;
    }

    fn close(&mut self, byte: u8) {
        let ends_row = self.muted && self.depth > 0 && self.values == Some(self.depth - 1);
        self.depth = self.depth.saturating_sub(1);
        if ends_row {
            self.muted = false;
            self.space = false;
            return;
        }
        if self.values.is_some_and(|depth| depth > self.depth) {
            self.values = None;
        }
        let values = self.values;
        self.write(&[byte], Token::Close);
        self.values = values;
    }

    fn write(&mut self, bytes: &[u8], token: Token) {
        if self.muted {
            return;
        }
        if self.values == Some(self.depth) {
            self.values = None;
        }
        let tight = match token {
            Token::Comma | Token::Close => true,
            _ => matches!(self.previous, Token::Start | Token::Open),
        };
        let spaced = !tight && (self.space || self.previous == Token::Comma);
        self.space = false;
        self.before = self.previous;
        self.previous = token;
        let room = (STATEMENT_LIMIT + self.begin).min(TEXT_LIMIT).saturating_sub(self.output.len());
        if self.full || bytes.len() + usize::from(spaced) > room {
            self.full = true;
            return;
        }
        if spaced {
            self.output.push(b' ');
        }
        self.output.extend_from_slice(bytes);
    }

    /// Ends a statement; one without words or signs does not count.
    fn finish(&mut self, cut: bool) {
        let end = self.output.len();
        let some = self.previous != Token::Start || self.full || (cut && self.statements.is_empty());
        if some && self.statements.len() < STATEMENTS_LIMIT {
            let statement = Statement { operation: self.operation, range: self.begin..end, truncated: cut || self.full };
            self.statements.push(statement);
        }
        self.begin = end;
        self.literal_end = end;
        self.operation = "";
        self.with = false;
        self.words = 0;
        self.space = false;
        self.previous = Token::Start;
        self.before = Token::Start;
        self.depth = 0;
        self.values = None;
        self.rows = 0;
        self.muted = false;
        self.creates = false;
        self.after_begin = false;
        self.blocks = 0;
        self.full = false;
    }
}
