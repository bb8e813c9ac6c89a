//! The fields of one header block that somebody reads, kept in one piece of memory.

use std::borrow::Cow;

use super::hpack::{Fields, Name};

/// Longest text kept of a field, in bytes: a thousand open streams must stay small.
fn limit(name: Name) -> usize {
    match name {
        Name::Path | Name::GrpcMessage => 1024,
        Name::Authority | Name::Host => 262,
        Name::UserAgent => 256,
        Name::Traceparent => 128,
        Name::ContentType => 64,
        _ => 32,
    }
}

#[derive(Clone, Copy, Default)]
struct Span {
    begin: u16,
    end: u16,
    present: bool,
    whole: bool,
}

#[derive(Default)]
pub struct Head {
    text: Vec<u8>,
    spans: [Span; Name::COUNT],
    /// Names, or values of names, could not be told: a field that is absent here may have been sent.
    pub incomplete: bool,
}

impl Fields for Head {
    #[inline]
    fn field(&mut self, name: Name, value: &[u8], whole: bool) {
        if name == Name::Unknown {
            self.incomplete = true;
            return;
        }
        let Some(span) = self.spans.get_mut(name as usize).filter(|span| name.is_read() && !span.present) else { return };
        let kept = value.get(..limit(name)).unwrap_or(value);
        // Fourteen fields of a kilobyte at most.
        let begin = self.text.len() as u16;
        self.text.extend_from_slice(kept);
        *span = Span { begin, end: self.text.len() as u16, present: true, whole: whole && kept.len() == value.len() };
    }
}

impl Head {
    /// As new, but for its memory, of which at most so much is kept.
    pub fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEPT_CAPACITY);
        self.spans = Default::default();
        self.incomplete = false;
    }

    #[inline]
    pub fn get(&self, name: Name) -> Option<&[u8]> {
        let span = self.spans.get(name as usize).filter(|span| span.present)?;
        self.text.get(usize::from(span.begin)..usize::from(span.end))
    }

    /// It is there and was not cut.
    pub fn is_whole(&self, name: Name) -> bool {
        self.spans.get(name as usize).is_some_and(|span| span.present && span.whole)
    }

    /// A field as text; empty when it is absent. Bytes that are none were replaced by [`Head::make_text`].
    pub fn text(&self, name: Name) -> &str {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default()
    }

    /// Makes every field UTF-8.
    pub fn make_text(&mut self) {
        if self.text.is_ascii() {
            return;
        }
        let old = std::mem::take(&mut self.text);
        for span in self.spans.iter_mut().filter(|span| span.present) {
            let bytes = old.get(usize::from(span.begin)..usize::from(span.end)).unwrap_or_default();
            span.begin = self.text.len() as u16;
            let valid = match String::from_utf8_lossy(bytes) {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            };
            self.text.extend_from_slice(&valid);
            span.end = self.text.len() as u16;
        }
    }

    /// A pseudo-field that only requests have.
    pub fn is_request(&self) -> bool {
        [Name::Method, Name::Path, Name::Authority, Name::Scheme].into_iter().any(|name| self.get(name).is_some())
    }

    /// content-length
    pub fn length(&self) -> Option<u64> {
        let digits = self.get(Name::ContentLength).filter(|digits| !digits.is_empty())?;
        digits.iter().try_fold(0_u64, |length, byte| {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
            length.checked_mul(10)?.checked_add(digit)
        })
    }

    /// `:status`, when it is one.
    pub fn status(&self) -> Option<u16> {
        let digit = |byte: u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
        match self.get(Name::Status)? {
            &[hundreds, tens, ones] => Some(digit(hundreds)? * 100 + digit(tens)? * 10 + digit(ones)?).filter(|status| *status >= 100),
            _ => None,
        }
    }
}

/// Of a stream that is over, for the next one.
const KEPT_CAPACITY: usize = 512;
