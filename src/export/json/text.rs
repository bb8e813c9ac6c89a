//! The grammar of JSON (RFC 8259): strings, integers and objects, appended to a buffer.

/// An object being written; [`Object::end`] or [`Object::end_line`] closes it.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    /// What comes before the next key.
    separator: u8,
}

impl<'a> Object<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, separator: b'{' }
    }

    /// An object whose first member is its type.
    pub(super) fn line(out: &'a mut Vec<u8>, kind: &str) -> Self {
        let mut object = Self::new(out);
        object.plain("type", kind);
        object
    }

    /// Writes a key, which must be a word that needs no escapes; its value must be appended to what is returned.
    #[inline]
    pub(super) fn key(&mut self, name: &str) -> &mut Vec<u8> {
        debug_assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\'), "{name}");
        // One check of the room for the whole key instead of one for each of its parts.
        self.out.reserve(name.len() + 4);
        self.out.push(self.separator);
        self.separator = b',';
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        number(self.key(name), value);
    }

    pub(super) fn signed(&mut self, name: &str, value: i64) {
        let out = self.key(name);
        if value < 0 {
            out.push(b'-');
        }
        number(out, value.unsigned_abs());
    }

    pub(super) fn optional_number(&mut self, name: &str, value: Option<u64>) {
        match value {
            Some(value) => self.number(name, value),
            None => self.key(name).extend_from_slice(b"null"),
        }
    }

    pub(super) fn string(&mut self, name: &str, value: &str) {
        string(self.key(name), value);
    }

    pub(super) fn optional_string(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.string(name, value),
            None => self.key(name).extend_from_slice(b"null"),
        }
    }

    /// A string under a key that is somebody else's word.
    pub(super) fn label(&mut self, name: &str, value: &str) {
        self.out.push(self.separator);
        self.separator = b',';
        string(self.out, name);
        self.out.push(b':');
        string(self.out, value);
    }

    /// A string that needs no escapes: one of our own words.
    pub(super) fn plain(&mut self, name: &str, value: &str) {
        let out = self.key(name);
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    }

    pub(super) fn boolean(&mut self, name: &str, value: bool) {
        self.key(name).extend_from_slice(if value { b"true" } else { b"false" });
    }

    pub(super) fn end(self) {
        if self.separator == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }

    pub(super) fn end_line(self) {
        self.out.push(b'}');
        self.out.push(b'\n');
    }
}

/// "00" to "99": two digits for one division.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut value = 0;
    while value < 100 {
        pairs[value] = [b'0' + (value / 10) as u8, b'0' + (value % 10) as u8];
        value += 1;
    }
    pairs
};

pub(super) fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    while value >= 10 {
        start -= 2;
        digits[start..start + 2].copy_from_slice(&PAIRS[(value % 100) as usize]);
        value /= 100;
    }
    if value > 0 || start == digits.len() {
        start -= 1;
        digits[start] = b'0' + value as u8;
    }
    out.extend_from_slice(&digits[start..]);
}

/// RFC 8259 section 7: only the quotation mark, the backslash and control characters must be escaped.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(position) = first_escaped(rest) {
        out.extend_from_slice(&rest[..position]);
        let escaped = rest[position];
        match escaped {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(control >> 4)], HEX[usize::from(control & 0xf)]]);
            }
        }
        rest = &rest[position + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Looks at whole blocks without branches first, which the compiler turns into vector instructions.
fn first_escaped(bytes: &[u8]) -> Option<usize> {
    let escaped = |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\');
    let (blocks, _) = bytes.as_chunks::<16>();
    let clean = blocks.iter().take_while(|block| !block.iter().fold(false, |any, &byte| any | escaped(byte))).count() * 16;
    bytes[clean..].iter().position(|&byte| escaped(byte)).map(|position| clean + position)
}
