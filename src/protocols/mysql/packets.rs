//! What packets are made of: MySQL source documentation, "Protocol Basics"; MariaDB knowledge base, "0 - Packet", "4 - Server Response Packets".
//!
//! Knows nothing of who asked what.

use crate::protocols::reader::Reader;

/// Length (three bytes, low byte first) and sequence number.
pub const HEADER: usize = 4;
/// Length of a packet that goes on in the next one.
pub const LARGEST: usize = 0xff_ff_ff;

/// More results follow this one.
pub const MORE_RESULTS: u16 = 0x0008;
/// The rows wait at the server for COM_STMT_FETCH.
pub const CURSOR_EXISTS: u16 = 0x0040;
/// Backslashes do not escape in literals.
pub const NO_BACKSLASH_ESCAPES: u16 = 0x0200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Of the payload behind the header, in bytes.
    pub length: usize,
    pub sequence: u8,
}

/// `None`: the header is not whole.
pub fn head(bytes: &[u8]) -> Option<Head> {
    match *bytes {
        [low, middle, high, sequence, ..] => Some(Head { length: u32::from_le_bytes([low, middle, high, 0]) as usize, sequence }),
        _ => None,
    }
}

/// Numbers with the low byte first, and the lengths that the protocol writes in one to nine bytes.
pub trait LittleEndian<'a> {
    fn le16(&mut self) -> Option<u16>;
    fn le32(&mut self) -> Option<u32>;
    /// `int<lenenc>`.
    fn length(&mut self) -> Option<u64>;
    /// `string<lenenc>`.
    fn string(&mut self) -> Option<&'a [u8]>;
}

impl<'a> LittleEndian<'a> for Reader<'a> {
    fn le16(&mut self) -> Option<u16> {
        self.u16().map(u16::swap_bytes)
    }

    fn le32(&mut self) -> Option<u32> {
        self.u32().map(u32::swap_bytes)
    }

    fn length(&mut self) -> Option<u64> {
        match self.u8()? {
            small @ 0..=0xfa => Some(u64::from(small)),
            0xfc => self.le16().map(u64::from),
            0xfd => match *self.take(3)? {
                [low, middle, high] => Some(u64::from(u32::from_le_bytes([low, middle, high, 0]))),
                _ => None,
            },
            0xfe => self.u64().map(u64::swap_bytes),
            // NULL, or the begin of an error.
            _ => None,
        }
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.length()?).ok()?;
        self.take(length)
    }
}

/// What OK and EOF packets say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Success {
    pub affected: u64,
    pub status: u16,
}

/// An OK packet, or an EOF packet in the form of one (CLIENT_DEPRECATE_EOF). Servers before 4.1 leave the status out.
pub fn ok(body: &[u8]) -> Option<Success> {
    let mut reader = Reader::new(body.get(1..)?);
    let affected = reader.length()?;
    reader.length()?;
    Some(Success { affected, status: reader.le16().unwrap_or_default() })
}

/// A packet that ends rows or definitions: an EOF packet (five bytes; one before 4.1), or an OK packet that stands for it.
pub fn eof(body: &[u8]) -> Option<Success> {
    match *body {
        [0xfe] => Some(Success::default()),
        [0xfe, _, _, low, high] => Some(Success { affected: 0, status: u16::from_le_bytes([low, high]) }),
        [0xfe, _, _, _, _, _, _, ..] => ok(body),
        _ => None,
    }
}

/// What is shown of an ERR packet; its message is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    pub code: u16,
    /// Zeros where the server sent none.
    pub sqlstate: [u8; 5],
}

pub fn error(body: &[u8]) -> Option<ServerError> {
    match *body {
        [0xff, low, high, b'#', a, b, c, d, e, ..] => {
            let sqlstate = [a, b, c, d, e];
            let sqlstate = if sqlstate.iter().all(u8::is_ascii_alphanumeric) { sqlstate } else { [0; 5] };
            Some(ServerError { code: u16::from_le_bytes([low, high]), sqlstate })
        }
        [0xff, low, high, ..] => Some(ServerError { code: u16::from_le_bytes([low, high]), sqlstate: [0; 5] }),
        _ => None,
    }
}

/// Code of an ERR packet that reports progress and is followed by the answer (MariaDB knowledge base, "ERR_Packet").
pub const PROGRESS: u16 = 0xffff;

/// The first packet of a result with rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    pub count: u64,
    /// Their definitions follow.
    pub defined: bool,
}

/// The number of columns. MySQL writes a byte before it when metadata are optional (CLIENT_OPTIONAL_RESULTSET_METADATA), MariaDB one behind
/// it when metadata are cached (MARIADB_CLIENT_CACHE_METADATA): 0, none follow, or 1. A count is never 0, so all of these can be told apart
/// without knowing what was agreed.
pub fn columns(body: &[u8]) -> Option<Columns> {
    let (count, defined) = match *body {
        [count @ 1..=0xfa] => (u64::from(count), true),
        [0, count @ 1..=0xfa] | [count @ 1..=0xfa, 0] => (u64::from(count), false),
        [1, count @ 1..=0xfa] | [count @ 2..=0xfa, 1] => (u64::from(count), true),
        [0xfc, low, high] => (u64::from(u16::from_le_bytes([low, high])), true),
        [flag @ 0..=1, 0xfc, low, high] | [0xfc, low, high, flag @ 0..=1] => (u64::from(u16::from_le_bytes([low, high])), flag == 1),
        _ => return None,
    };
    // A table has at most 4096 columns; a select list is bounded by its 16 bits.
    (count > 0).then_some(Columns { count, defined })
}

/// The answer to COM_STMT_PREPARE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    pub statement: u32,
    pub columns: u16,
    pub parameters: u16,
    pub defined: bool,
}

pub fn prepared(body: &[u8]) -> Option<Prepared> {
    let mut reader = Reader::new(body);
    if reader.u8()? != 0 {
        return None;
    }
    let statement = reader.le32()?;
    let (columns, parameters) = (reader.le16()?, reader.le16()?);
    if reader.u8()? != 0 {
        return None;
    }
    reader.le16();
    Some(Prepared { statement, columns, parameters, defined: reader.u8() != Some(0) })
}
