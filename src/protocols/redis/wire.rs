//! The smallest parts of RESP: a line that carries a number, and text up to the end of its line.

/// A type byte, a number and a line break; longer than that no such line is.
const NUMBER_LINE_MAX: usize = 24;

/// What stands at the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<T> {
    /// The value, and the bytes of the line with its break.
    Whole(T, usize),
    Partial,
    Bad,
}

/// A number behind a type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    Is(u64),
    /// -1: there is no value.
    Null,
    /// `?`: parts follow until their end is said.
    Streamed,
}

/// Reads the number behind the type byte at the front.
pub fn number(bytes: &[u8]) -> Line<Number> {
    let mut value = 0_u64;
    let mut digits = bytes.iter().enumerate().skip(1);
    for (at, &byte) in digits.by_ref() {
        match byte {
            b'0'..=b'9' if at < NUMBER_LINE_MAX => value = value.saturating_mul(10).saturating_add(u64::from(byte - b'0')),
            b'\r' if at > 1 => {
                return match bytes.get(at + 1) {
                    Some(b'\n') => Line::Whole(Number::Is(value), at + 2),
                    Some(_) => Line::Bad,
                    None => Line::Partial,
                };
            }
            b'-' if at == 1 => return literal(bytes, b"-1\r\n", Number::Null),
            b'?' if at == 1 => return literal(bytes, b"?\r\n", Number::Streamed),
            _ => return Line::Bad,
        }
    }
    Line::Partial
}

/// `text` behind the type byte means `value`.
fn literal(bytes: &[u8], text: &[u8], value: Number) -> Line<Number> {
    let behind = bytes.get(1..).unwrap_or_default();
    if behind.starts_with(text) {
        Line::Whole(value, 1 + text.len())
    } else if text.starts_with(behind) {
        Line::Partial
    } else {
        Line::Bad
    }
}

/// The text behind the type byte, up to its line break, when that comes within `most` bytes.
pub fn text(bytes: &[u8], most: usize) -> Option<(&[u8], usize)> {
    let within = bytes.get(..most).unwrap_or(bytes);
    let end = within.iter().position(|&byte| byte == b'\n')?;
    let line = bytes.get(1..end).unwrap_or_default();
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

/// A short text that is kept by value.
#[derive(Clone, Copy)]
pub struct Word<const N: usize> {
    bytes: [u8; N],
    length: u8,
}

impl<const N: usize> Default for Word<N> {
    fn default() -> Self {
        Self { bytes: [0; N], length: 0 }
    }
}

impl<const N: usize> Word<N> {
    /// Empty when it does not fit.
    pub fn of(text: &[u8]) -> Self {
        let mut word = Self::default();
        if let Some(place) = word.bytes.get_mut(..text.len()) {
            place.copy_from_slice(text);
            word.length = text.len() as u8;
        }
        word
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(self.bytes()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_to_their_line_break() {
        assert_eq!(number(b"$12\r\nabc"), Line::Whole(Number::Is(12), 5));
        assert_eq!(number(b"$-1\r\n"), Line::Whole(Number::Null, 5));
        assert_eq!(number(b"*?\r\n"), Line::Whole(Number::Streamed, 4));
        for partial in [&b"$"[..], b"$1", b"$1\r", b"$-", b"$-1", b"$-1\r", b"*?", b"*?\r"] {
            assert_eq!(number(partial), Line::Partial, "{partial:?}");
        }
        for bad in [&b"$\r\n"[..], b"$1\n", b"$1\rx", b"$-2\r\n", b"$ 1\r\n", b"$1?\r\n", b"$1111111111111111111111111"] {
            assert_eq!(number(bad), Line::Bad, "{bad:?}");
        }
    }

    #[test]
    fn texts_end_at_their_line_break() {
        assert_eq!(text(b"+OK\r\n+", 64), Some((&b"OK"[..], 5)));
        assert_eq!(text(b"+OK", 64), None);
        assert_eq!(text(b"+OKOKOK\r\n", 4), None);
        assert_eq!(Word::<4>::of(b"abc").text(), "abc");
        assert_eq!(Word::<4>::of(b"abcde").text(), "");
    }
}
