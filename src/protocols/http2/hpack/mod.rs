//! HPACK (RFC 7541): header blocks to fields, also for one who joins late.
//!
//! A reference to an entry that was never seen yields a field of unknown name, and decoding goes on. After a block that was missed or
//! cut, [`Decoder::forget`] makes all earlier entries unknown: nothing wrong is ever said.

mod huffman;
mod names;
mod table;
#[cfg(test)]
mod tests;

pub use names::Name;
use names::{STATIC_LENGTH, static_entry};
use table::{Found, Table};

/// Longest value that is looked at, in bytes; of a longer one the begin is.
pub const MAX_VALUE: usize = 1024;

/// Takes the fields of a block, in order.
pub trait Fields {
    /// `whole`: `value` is not the begin of a longer one. It is empty for [`Name::Unknown`] and [`Name::Other`].
    fn field(&mut self, name: Name, value: &[u8], whole: bool);
}

/// The bytes are not a header block, or of another history than the one seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A string as it is on the wire.
#[derive(Clone, Copy)]
struct Text<'a> {
    bytes: &'a [u8],
    huffman: bool,
}

impl<'a> Text<'a> {
    /// Its first [`MAX_VALUE`] bytes and whether that is all, decoded into `scratch` where it must be.
    fn value<'b>(self, scratch: &'b mut Vec<u8>) -> Result<(&'b [u8], bool), Malformed>
    where
        'a: 'b,
    {
        if !self.huffman {
            return Ok((self.bytes.get(..MAX_VALUE).unwrap_or(self.bytes), self.bytes.len() <= MAX_VALUE));
        }
        scratch.clear();
        let whole = huffman::decode(self.bytes, MAX_VALUE, scratch).map_err(|huffman::Malformed| Malformed)?;
        Ok((scratch, whole))
    }

    fn name(self, scratch: &mut Vec<u8>) -> Result<Name, Malformed> {
        if !self.huffman {
            return Ok(Name::of(self.bytes));
        }
        // No byte takes fewer than five bits.
        if self.bytes.len() > Name::LONGEST {
            return Ok(Name::Other);
        }
        scratch.clear();
        huffman::decode(self.bytes, Name::LONGEST + 1, scratch).map_err(|huffman::Malformed| Malformed)?;
        Ok(Name::of(scratch))
    }
}

/// How a field is written (RFC 7541 section 6).
enum Representation<'a> {
    Indexed(u32),
    Literal {
        /// Index of the name, or the name.
        name: Result<u32, Text<'a>>,
        value: Text<'a>,
        /// It is inserted into the dynamic table.
        kept: bool,
    },
    Size(u32),
}

/// Reads a block field by field; knows nothing of tables.
struct Block<'a> {
    rest: &'a [u8],
}

impl<'a> Block<'a> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&byte, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(byte)
    }

    /// An integer (RFC 7541 section 5.1) of which `first` holds the first `bits` bits.
    fn integer(&mut self, first: u8, bits: u32) -> Result<u32, Malformed> {
        let mask = (1_u32 << bits) - 1;
        let mut value = u32::from(first) & mask;
        if value < mask {
            return Ok(value);
        }
        // Five bytes hold any number that makes sense here.
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            let part = u32::from(byte & 0x7f);
            let part = part.checked_shl(shift).filter(|shifted| shifted >> shift == part).ok_or(Malformed)?;
            value = value.checked_add(part).ok_or(Malformed)?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn text(&mut self) -> Result<Text<'a>, Malformed> {
        let first = self.byte()?;
        let length = self.integer(first, 7)?;
        let (bytes, rest) = self.rest.split_at_checked(length as usize).ok_or(Malformed)?;
        self.rest = rest;
        Ok(Text { bytes, huffman: first & 0x80 != 0 })
    }

    fn literal(&mut self, first: u8, bits: u32, kept: bool) -> Result<Representation<'a>, Malformed> {
        let name = match self.integer(first, bits)? {
            0 => Err(self.text()?),
            index => Ok(index),
        };
        Ok(Representation::Literal { name, value: self.text()?, kept })
    }

    fn next(&mut self) -> Result<Option<Representation<'a>>, Malformed> {
        let Some((&first, rest)) = self.rest.split_first() else { return Ok(None) };
        self.rest = rest;
        let representation = match first {
            0x80.. => match self.integer(first, 7)? {
                0 => return Err(Malformed),
                index => Representation::Indexed(index),
            },
            0x40.. => self.literal(first, 6, true)?,
            0x20.. => Representation::Size(self.integer(first, 5)?),
            _ => self.literal(first, 4, false)?,
        };
        Ok(Some(representation))
    }
}

/// One direction's decoder.
pub struct Decoder {
    table: Table,
    scratch: Vec<u8>,
}

impl Decoder {
    /// `complete`: every block since the connection's begin will be seen.
    pub fn new(complete: bool) -> Self {
        Self { table: Table::new(complete), scratch: Vec::new() }
    }

    /// A block was missed or could not be read.
    pub fn forget(&mut self) {
        self.table.forget();
    }

    /// The SETTINGS_HEADER_TABLE_SIZE of the side that decodes.
    pub fn allow(&mut self, size: u32) {
        self.table.allow(size);
    }

    /// Reads a whole block. After an error the decoder must [`Decoder::forget`].
    pub fn decode(&mut self, block: &[u8], fields: &mut impl Fields) -> Result<(), Malformed> {
        let mut block = Block { rest: block };
        while let Some(representation) = block.next()? {
            match representation {
                Representation::Size(size) => self.table.resize(size),
                Representation::Indexed(index) if index <= STATIC_LENGTH => {
                    let (name, value) = static_entry(index);
                    fields.field(name, value, true);
                }
                Representation::Indexed(index) => match self.table.get((index - STATIC_LENGTH - 1) as usize) {
                    Found::Entry { name, value, whole } => fields.field(name, value, whole),
                    Found::Unknown => fields.field(Name::Unknown, b"", false),
                    Found::Nothing => return Err(Malformed),
                },
                Representation::Literal { name, value, kept } => self.literal(name, value, kept, fields)?,
            }
        }
        Ok(())
    }

    fn literal(&mut self, name: Result<u32, Text<'_>>, value: Text<'_>, kept: bool, fields: &mut impl Fields) -> Result<(), Malformed> {
        let name = match name {
            Ok(index) if index <= STATIC_LENGTH => static_entry(index).0,
            Ok(index) => match self.table.get((index - STATIC_LENGTH - 1) as usize) {
                Found::Entry { name, .. } => name,
                Found::Unknown => Name::Unknown,
                Found::Nothing => return Err(Malformed),
            },
            Err(text) => text.name(&mut self.scratch)?,
        };
        let (value, whole) = if name.is_read() { value.value(&mut self.scratch)? } else { (&[][..], true) };
        fields.field(name, value, whole);
        if kept {
            self.table.insert(name, value, whole);
        }
        Ok(())
    }
}

/// What the fields of a block show of the block's sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A pseudo-field of requests.
    Request,
    /// `:status`.
    Response,
    /// A trailer, or not to be known without the table.
    Other,
}

/// Reads a block without a table: whose it is, when it can be a header block at all.
pub fn judge(block: &[u8]) -> Result<Opening, Malformed> {
    let mut block = Block { rest: block };
    let (mut opening, mut fields) = (Opening::Other, 0);
    let mut scratch = Vec::new();
    while let Some(representation) = block.next()? {
        let name = match representation {
            Representation::Size(_) if fields > 0 => return Err(Malformed),
            Representation::Size(_) => continue,
            Representation::Indexed(index) | Representation::Literal { name: Ok(index), .. } if index <= STATIC_LENGTH => {
                static_entry(index).0
            }
            Representation::Indexed(_) | Representation::Literal { name: Ok(_), .. } => Name::Unknown,
            Representation::Literal { name: Err(text), .. } => text.name(&mut scratch)?,
        };
        if let Representation::Literal { value, .. } = representation {
            value.value(&mut scratch)?;
        }
        fields += 1;
        let told = match name {
            Name::Method | Name::Path | Name::Authority | Name::Scheme | Name::Protocol => Opening::Request,
            Name::Status => Opening::Response,
            _ => continue,
        };
        if opening != Opening::Other && opening != told {
            return Err(Malformed);
        }
        opening = told;
    }
    if fields > 0 { Ok(opening) } else { Err(Malformed) }
}
