//! What is passed over: comments, quoted texts, numbers.

use super::{Normaliser, Token};
use crate::protocols::sql::words::continues_word;

impl Normaliser<'_> {
    pub(super) fn line_comment(&mut self) {
        let rest = self.rest();
        self.position += rest.iter().position(|&byte| byte == b'\n' || byte == b'\r').unwrap_or(rest.len());
        self.space = true;
    }

    pub(super) fn block_comment(&mut self) {
        self.space = true;
        if self.mysql && self.hint_begins() {
            return;
        }
        let nests = !self.mysql;
        let mut depth = 0u32;
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') if nests || depth == 0 => {
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
    }

    /// `/*!`, `/*!40101` or `/*M!100100`: what is inside is executed (MySQL manual, "Comments").
    pub(super) fn hint_begins(&mut self) -> bool {
        let mark = match (self.peek(2), self.peek(3)) {
            (b'!', _) => 3,
            (b'M', b'!') => 4,
            _ => return false,
        };
        self.position = (self.position + mark).min(self.input.len());
        let rest = self.rest();
        self.position += rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.hint = true;
        true
    }

    /// A plain literal, its first quote under the cursor.
    pub(super) fn string(&mut self, quote: u8) {
        self.position += 1;
        self.quoted(quote, self.escapes);
        self.literal();
    }

    /// Passes over what is left of a quoted text, its closing quote included; `false` when that is missing.
    pub(super) fn quoted(&mut self, quote: u8, escapes: Option<bool>) -> bool {
        loop {
            let rest = self.rest();
            let Some(index) = rest.iter().position(|&byte| byte == quote || (escapes != Some(false) && byte == b'\\')) else {
                self.position = self.input.len();
                return false;
            };
            self.position += index + 1;
            if rest.get(index) == Some(&b'\\') {
                if escapes.is_none() && self.peek(0) == quote {
                    // The text ends here or goes on, and nothing tells which.
                    self.position = self.input.len();
                    self.cut = true;
                    return false;
                }
                self.position = (self.position + 1).min(self.input.len());
            } else if self.peek(0) == quote {
                self.position += 1;
            } else {
                return true;
            }
        }
    }

    /// A quoted identifier whose text begins at `begin` (with its `U&`, if any); one that is cut is left out.
    pub(super) fn identifier(&mut self, begin: usize, quote: u8) {
        self.position += 1;
        if self.quoted(quote, Some(false)) {
            let input = self.input;
            self.word = 0..0;
            self.write(input.get(begin..self.position).unwrap_or_default(), Token::Word);
        }
    }

    /// `$1`, or `$tag$ … $tag$`.
    pub(super) fn dollar(&mut self) {
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
    pub(super) fn number(&mut self) {
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
}
