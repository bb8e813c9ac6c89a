//! SQL as it may be shown: one pass over a query's text that splits it into statements, replaces every literal and parameter by `?`, folds
//! lists and white space, and drops comments. Shared by the protocols that carry SQL.
//!
//! Knows nothing of grammar: text that is cut or wrong is normalised as well, and no part of a literal gets through.
#![deny(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used))]

mod normaliser;
mod query_text;
#[cfg(test)]
mod tests;
mod words;

use std::ops::Range;

use normaliser::Normaliser;
pub use query_text::QueryText;
use smallvec::SmallVec;
pub use words::{mysql_operation, operation};

/// Longest text kept of one statement, in bytes.
const STATEMENT_LIMIT: usize = 4096;
/// Longest text kept of all statements of one message, in bytes.
const TEXT_LIMIT: usize = 4 * STATEMENT_LIMIT;
/// Most statements told apart in one message; the others are still counted by the server's answers.
const STATEMENTS_LIMIT: usize = 1024;
/// A recycled text gives larger buffers back.
const KEPT_CAPACITY: usize = 1024;

/// Whose SQL it is: what quotes, escapes and comments look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `escapes`: a backslash escapes in plain literals too (`standard_conforming_strings` is off).
    Postgresql { escapes: bool },
    /// `escapes`: a backslash escapes (it does unless the SQL mode has NO_BACKSLASH_ESCAPES); `None`: not known, and a text on which the two
    /// differ is cut where they do.
    Mysql { escapes: Option<bool> },
}

/// The normalised statements of one message.
#[derive(Clone, Debug, Default)]
pub struct Text {
    text: String,
    statements: SmallVec<[Statement; 1]>,
}

#[derive(Clone, Debug)]
struct Statement {
    operation: &'static str,
    range: Range<usize>,
    /// Where it was in the text that was normalised.
    source: Range<usize>,
    truncated: bool,
}

/// One statement of a [`Text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Normalised<'a> {
    /// The verb; empty where the text does not begin with a known one.
    pub operation: &'static str,
    pub text: &'a str,
    /// The text goes on behind what is kept.
    pub truncated: bool,
}

impl Text {
    /// A text that stands for one that is not known.
    pub fn placeholder(text: String) -> Self {
        let statement = Statement { operation: "", range: 0..text.len(), source: 0..0, truncated: false };
        Self { text, statements: SmallVec::from_iter([statement]) }
    }

    /// How many statements the text holds; empty ones do not count.
    pub fn count(&self) -> usize {
        self.statements.len()
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    pub fn get(&self, index: usize) -> Option<Normalised<'_>> {
        let statement = self.statements.get(index)?;
        let text = self.text.get(statement.range.clone())?;
        Some(Normalised { operation: statement.operation, text, truncated: statement.truncated })
    }

    /// Where a statement was in the text that [`Text::set`] was given.
    pub fn source(&self, index: usize) -> Option<Range<usize>> {
        self.statements.get(index).map(|statement| statement.source.clone())
    }

    /// Replaces the content by the normalised form of `sql`; `cut` says that the text goes on behind it.
    pub fn set(&mut self, sql: &[u8], cut: bool, dialect: Dialect) {
        self.statements.clear();
        let mut output = std::mem::take(&mut self.text).into_bytes();
        output.clear();
        output.shrink_to(KEPT_CAPACITY);
        let mut normaliser = Normaliser::new(sql, output, std::mem::take(&mut self.statements), cut, dialect);
        normaliser.run();
        let (output, statements) = normaliser.into_parts();
        self.statements = statements;
        self.text = String::from_utf8(output).unwrap_or_else(|error| self.replace_invalid(error.as_bytes()));
    }

    /// Text of another encoding than UTF-8: what is not ASCII becomes one `?` a byte, so that positions stay.
    fn replace_invalid(&self, bytes: &[u8]) -> String {
        bytes.iter().map(|&byte| if byte.is_ascii() { char::from(byte) } else { '?' }).collect()
    }
}
