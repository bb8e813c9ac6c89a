//! The pass over a text. Lexical rules: PostgreSQL manual, section 4.1; MySQL reference manual, chapter "Language Structure".

mod quotes;

use std::ops::Range;

use smallvec::SmallVec;

use super::{
    Dialect, STATEMENT_LIMIT, STATEMENTS_LIMIT, Statement, TEXT_LIMIT,
    words::{continues_word, is_boolean, mysql_operation, operation, precedes_value, starts_word},
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

/// How far a statement that makes a stored program was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    No,
    /// The word that says what it makes was the last one.
    Named,
    Begun,
}

pub struct Normaliser<'a> {
    input: &'a [u8],
    position: usize,
    output: Vec<u8>,
    statements: SmallVec<[Statement; 1]>,
    cut: bool,
    mysql: bool,
    /// A backslash escapes in plain literals; `None`: not known.
    escapes: Option<bool>,
    /// Where the current statement begins in the output.
    begin: usize,
    /// Where it begins in the input.
    source: usize,
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
    program: Program,
    /// The statement has a body of statements: all of the text belongs to it.
    whole: bool,
    /// Inside `/*! */`, which MySQL executes.
    hint: bool,
    full: bool,
}

impl<'a> Normaliser<'a> {
    pub fn new(input: &'a [u8], output: Vec<u8>, statements: SmallVec<[Statement; 1]>, cut: bool, dialect: Dialect) -> Self {
        let (mysql, escapes) = match dialect {
            Dialect::Postgresql { escapes } => (false, Some(escapes)),
            Dialect::Mysql { escapes } => (true, escapes),
        };
        Self {
            input,
            position: 0,
            output,
            statements,
            cut,
            mysql,
            escapes,
            begin: 0,
            source: 0,
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
            program: Program::No,
            whole: false,
            hint: false,
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
                b'-' if self.peek(1) == b'-' && (!self.mysql || self.peek(2) <= b' ') => self.line_comment(),
                b'#' if self.mysql => self.line_comment(),
                b'/' if self.peek(1) == b'*' => self.block_comment(),
                b'*' if self.hint && self.peek(1) == b'/' => {
                    self.position += 2;
                    self.hint = false;
                    self.space = true;
                }
                b'\'' => self.string(byte),
                b'"' if self.mysql => self.string(byte),
                b'"' => self.identifier(self.position, byte),
                b'`' if self.mysql => self.identifier(self.position, byte),
                b'?' if self.mysql => {
                    self.position += 1;
                    self.literal();
                }
                b'$' if self.mysql => self.word(),
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
                b';' if self.depth == 0 && self.blocks == 0 && !self.whole => {
                    self.finish(false);
                    self.position += 1;
                    self.source = self.position;
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
            (b"e" | b"E", b'\'', _) if !self.mysql => {
                self.position += 1;
                self.quoted(b'\'', Some(true));
                return self.literal();
            }
            (b"b" | b"B" | b"x" | b"X" | b"n" | b"N", b'\'', _) => return self.string(b'\''),
            // A character set before its literal.
            ([b'_', ..], quote @ (b'\'' | b'"'), _) if self.mysql => return self.string(quote),
            (b"u" | b"U", b'&', b'\'') if !self.mysql => {
                self.position += 1;
                return self.string(b'\'');
            }
            (b"u" | b"U", b'&', b'"') if !self.mysql => {
                self.position += 1;
                return self.identifier(begin, b'"');
            }
            _ if is_boolean(word) && !self.tests_truth() => return self.literal(),
            _ => {}
        }
        self.words += 1;
        if self.words == 1 || self.with || self.creates || (self.mysql && self.words == 2) {
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
            self.operation = if self.mysql { mysql_operation(upper) } else { operation(upper) };
            self.with = upper == b"WITH";
            self.creates = upper == b"CREATE" || (self.mysql && upper == b"ALTER");
            // Compound statements outside of stored programs (MariaDB knowledge base, "Using Compound Statements Outside of Stored Programs").
            self.whole = self.mysql && matches!(upper, b"IF" | b"CASE" | b"LOOP" | b"WHILE" | b"REPEAT" | b"FOR" | b"DECLARE");
        } else if self.mysql && self.words == 2 && self.operation == "BEGIN" {
            self.whole = upper == b"NOT";
        } else if self.mysql && self.creates {
            self.note_program(upper);
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

    /// CREATE PROCEDURE and the like: from its body's first block on everything belongs to the statement.
    fn note_program(&mut self, upper: &[u8]) {
        match upper {
            b"PROCEDURE" | b"FUNCTION" | b"TRIGGER" | b"EVENT" | b"PACKAGE" => self.program = Program::Named,
            // CREATE PROCEDURE IF NOT EXISTS.
            b"IF" if self.program == Program::Named => {}
            b"BEGIN" | b"IF" | b"CASE" | b"LOOP" | b"WHILE" | b"REPEAT" => self.whole = self.program != Program::No,
            _ if self.program == Program::Named => self.program = Program::Begun,
            _ => {}
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
            let statement = Statement {
                operation: self.operation,
                range: self.begin..end,
                source: self.source..self.position,
                truncated: cut || self.full,
            };
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
        self.program = Program::No;
        self.whole = false;
        self.full = false;
    }
}
