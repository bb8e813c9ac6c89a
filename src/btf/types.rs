//! What is in the bytes of a BTF, and whether they may go to libbpf: every length, offset, type and string is checked first.
//! The format is that of Documentation/bpf/btf.rst. Knows nothing of archives.

use super::BTF_BYTES_MAX;

/// A header without extensions; `hdr_len` says how long it really is.
const HEADER_BYTES: usize = 24;
const MAGIC: u16 = 0xeb9f;
/// Types nested by value deeper than this are refused: libbpf follows unnamed members by recursion. Kernels nest 20 to 33 deep.
const NESTING_MAX: u8 = 128;

/// Members of `struct pt_regs` that tell whose it is; the segments of 32-bit x86 come before what it shares with its successor.
const REGISTERS: [(&str, &str); 6] =
    [("ds", "i386"), ("orig_ax", "x86_64"), ("di", "x86_64"), ("r10", "x86_64"), ("regs", "arm64"), ("orig_x0", "arm64")];

/// Why bytes are not the BTF that is needed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{0}, not BTF")]
    Other(&'static str),
    #[error("larger than the {} MiB that a BTF may have", BTF_BYTES_MAX >> 20)]
    Large,
    #[error("truncated: {what} ends at byte {needed} of {have}")]
    Truncated { what: &'static str, needed: u64, have: usize },
    #[error("of the other byte order (big-endian)")]
    ByteOrder,
    #[error("of BTF version {0}, which is not known")]
    Version(u8),
    #[error("corrupt: {0}")]
    Corrupt(&'static str),
    #[error("corrupt: type {id}: {why}")]
    Type { id: u32, why: &'static str },
    #[error("of a module (split BTF), not of a kernel: its types are only complete with those of the kernel that it belongs to")]
    Module,
    #[error("not of a kernel: neither task_struct nor sock is in it")]
    NotKernel,
    #[error("of a kernel for {found}, not for {wanted}")]
    Foreign { found: &'static str, wanted: String },
}

/// What a valid BTF of a kernel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    pub types: u32,
    /// `x86_64` or `arm64`, told by the registers in `struct pt_regs`; minimised BTF may be without.
    pub architecture: Option<&'static str>,
}

/// Checks that the bytes are whole and sound, are of a kernel, and of that architecture where one is given.
///
/// # Errors
/// The first [`Fault`] found.
pub fn check(bytes: &[u8], architecture: Option<&str>) -> Result<Contents, Fault> {
    let btf = Btf::parse(bytes)?;
    btf.check_nesting()?;
    let contents = btf.contents()?;
    match (contents.architecture, architecture) {
        (Some(found), Some(wanted)) if found != wanted => Err(Fault::Foreign { found, wanted: wanted.to_owned() }),
        _ => Ok(contents),
    }
}

/// The kinds of `struct btf_type`, by their numbers.
mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FWD: u32 = 7;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const FLOAT: u32 = 16;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// One `struct btf_type` with what trails it.
#[derive(Clone, Copy)]
struct Type<'a> {
    name_offset: u32,
    kind: u32,
    /// `size` or `type`, by kind.
    size_or_type: u32,
    trailing: &'a [u8],
}

/// Sections that were found in their places, and where each type begins.
struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Of type 1, 2, …; type 0 is void and is not written down.
    starts: Vec<u32>,
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let (types, strings) = sections(bytes)?;
        let mut starts = Vec::new();
        let mut at = 0;
        while at < types.len() {
            let id = starts.len() as u32 + 1;
            let Some((_, length)) = read_type(types, at).map_err(|why| Fault::Type { id, why })? else {
                return Err(Fault::Type { id, why: "its end is missing" });
            };
            starts.push(at as u32);
            at += length;
        }
        let btf = Self { types, strings, starts };
        btf.check_references()?;
        Ok(btf)
    }

    fn get(&self, id: u32) -> Option<Type<'a>> {
        let start = *self.starts.get((id as usize).checked_sub(1)?)?;
        read_type(self.types, start as usize).ok().flatten().map(|(found, _)| found)
    }

    fn all(&self) -> impl Iterator<Item = (u32, Type<'a>)> {
        (1..=self.starts.len() as u32).filter_map(|id| Some((id, self.get(id)?)))
    }

    /// Every type and every string that is named must be there.
    fn check_references(&self) -> Result<(), Fault> {
        let is_name = |offset: u32| (offset as usize) < self.strings.len();
        for (id, found) in self.all() {
            if !is_name(found.name_offset) || !name_offsets(&found).all(is_name) {
                return Err(Fault::Type { id, why: "its name is outside of the strings" });
            }
            if references(&found).any(|other| other as usize > self.starts.len()) {
                return Err(Fault::Type { id, why: "it refers to a type that is not there" });
            }
        }
        Ok(())
    }

    /// No type may contain itself: whoever follows typedefs, arrays or members would never end.
    fn check_nesting(&self) -> Result<(), Fault> {
        const NEW: u8 = 0;
        const OPEN: u8 = u8::MAX;
        // How deep each type is nested, once known.
        let mut depth = vec![NEW; self.starts.len() + 1];
        let mut path: Vec<(u32, usize)> = Vec::new();
        for root in 1..=self.starts.len() as u32 {
            if depth[root as usize] == NEW {
                depth[root as usize] = OPEN;
                path.push((root, 0));
            }
            while let Some((id, next)) = path.last_mut() {
                let id = *id;
                let Some(found) = self.get(id) else { return Err(Fault::Type { id, why: "it cannot be read again" }) };
                let Some(inner) = contained(&found, *next) else {
                    let deepest = (0..*next).filter_map(|place| contained(&found, place)).map(|inner| depth[inner as usize]).max();
                    depth[id as usize] = 1 + deepest.unwrap_or(0);
                    path.pop();
                    if depth[id as usize] > NESTING_MAX {
                        return Err(Fault::Type { id, why: "it is nested too deep" });
                    }
                    continue;
                };
                *next += 1;
                match depth[inner as usize] {
                    OPEN => return Err(Fault::Type { id, why: "it contains itself" }),
                    NEW if inner != 0 => {
                        if path.len() >= NESTING_MAX as usize {
                            return Err(Fault::Type { id, why: "it is nested too deep" });
                        }
                        depth[inner as usize] = OPEN;
                        path.push((inner, 0));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn contents(&self) -> Result<Contents, Fault> {
        let (mut is_kernel, mut architecture) = (false, None);
        for (_, found) in self.all().filter(|(_, found)| found.kind == kind::STRUCT) {
            match self.name(found.name_offset) {
                b"task_struct" | b"sock" => is_kernel = true,
                b"pt_regs" => {
                    let has = |register: &str| name_offsets(&found).any(|offset| self.name(offset) == register.as_bytes());
                    architecture = REGISTERS.iter().find(|(register, _)| has(register)).map(|(_, of)| *of).or(architecture);
                }
                b"user_pt_regs" => architecture = Some("arm64"),
                _ => {}
            }
        }
        if !is_kernel {
            return Err(Fault::NotKernel);
        }
        Ok(Contents { types: self.starts.len() as u32, architecture })
    }

    /// The string at an offset that was checked.
    fn name(&self, offset: u32) -> &'a [u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

/// The types and the strings, as the header says.
fn sections(bytes: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    if bytes.len() > BTF_BYTES_MAX {
        return Err(Fault::Large);
    }
    match bytes {
        [] => return Err(Fault::Other("an empty file")),
        [0x7f, b'E', b'L', b'F', ..] => {
            return Err(Fault::Other("an ELF file (take its types out by pahole --btf_encode_detached=FILE, or by btfhub/minimise.sh)"));
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Err(Fault::Other("a file compressed by xz")),
        [0x1f, 0x8b, ..] => return Err(Fault::Other("a file compressed by gzip")),
        [0xeb, 0x9f, ..] => return Err(Fault::ByteOrder),
        [low, high, ..] if u16::from_le_bytes([*low, *high]) != MAGIC => return Err(Fault::Other("a file of another kind")),
        _ => {}
    }
    let truncated = |what, needed| Fault::Truncated { what, needed, have: bytes.len() };
    let word = |at: usize| word(bytes, at).ok_or(truncated("the header", HEADER_BYTES as u64));
    let version = *bytes.get(2).ok_or(truncated("the header", HEADER_BYTES as u64))?;
    let header = word(4)? as usize;
    let [type_offset, type_bytes, string_offset, string_bytes] = [word(8)?, word(12)?, word(16)?, word(20)?].map(u64::from);
    if version != 1 {
        return Err(Fault::Version(version));
    }
    if header < HEADER_BYTES {
        return Err(Fault::Corrupt("the header is shorter than a header"));
    }
    let Some(body) = bytes.get(header..) else { return Err(truncated("the header", header as u64)) };
    if !type_offset.is_multiple_of(4) || !type_bytes.is_multiple_of(4) {
        return Err(Fault::Corrupt("the types are not aligned"));
    }
    if type_offset + type_bytes > string_offset {
        return Err(Fault::Corrupt("the types reach into the strings"));
    }
    let section = |what, offset: u64, length: u64| {
        body.get(offset as usize..(offset + length) as usize).ok_or(truncated(what, header as u64 + offset + length))
    };
    let types = section("the section of types", type_offset, type_bytes)?;
    let strings = section("the section of strings", string_offset, string_bytes)?;
    match (strings.first(), strings.last()) {
        // The strings of a kernel begin with the empty one; those of a module go on where the kernel's end.
        (None, _) if !types.is_empty() => Err(Fault::Module),
        (Some(first), Some(0)) if *first != 0 => Err(Fault::Module),
        (Some(0), Some(0)) => Ok((types, strings)),
        _ => Err(Fault::Corrupt("the strings do not begin and end with a zero")),
    }
}

/// The type at a place and its whole length; `None` where it reaches beyond the section.
fn read_type(types: &[u8], at: usize) -> Result<Option<(Type<'_>, usize)>, &'static str> {
    let (Some(name_offset), Some(info), Some(size_or_type)) = (word(types, at), word(types, at + 4), word(types, at + 8)) else {
        return Ok(None);
    };
    let (kind, count) = ((info >> 24) & 0x1f, info as usize & 0xffff);
    let trailing = match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
        kind::ENUM | kind::FUNC_PROTO => 8 * count,
        kind::PTR
        | kind::FWD
        | kind::TYPEDEF
        | kind::VOLATILE
        | kind::CONST
        | kind::RESTRICT
        | kind::FUNC
        | kind::FLOAT
        | kind::TYPE_TAG => 0,
        _ => return Err("its kind is not known"),
    };
    let Some(trailing) = types.get(at + 12..at + 12 + trailing) else { return Ok(None) };
    Ok(Some((Type { name_offset, kind, size_or_type, trailing }, 12 + trailing.len())))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// The words at one place of each entry of so many bytes.
fn column(bytes: &[u8], entry: usize, place: usize) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(entry).filter_map(move |entry| word(entry, place))
}

/// Offsets of the names of members, values and parameters.
fn name_offsets(found: &Type<'_>) -> impl Iterator<Item = u32> {
    let (entry, trailing) = match found.kind {
        kind::STRUCT | kind::UNION | kind::ENUM64 => (12, found.trailing),
        kind::ENUM | kind::FUNC_PROTO => (8, found.trailing),
        _ => (12, &[] as &[u8]),
    };
    column(trailing, entry, 0)
}

/// Every type that is named.
fn references(found: &Type<'_>) -> impl Iterator<Item = u32> {
    let own = match found.kind {
        kind::PTR
        | kind::TYPEDEF
        | kind::VOLATILE
        | kind::CONST
        | kind::RESTRICT
        | kind::FUNC
        | kind::FUNC_PROTO
        | kind::VAR
        | kind::DECL_TAG
        | kind::TYPE_TAG => Some(found.size_or_type),
        _ => None,
    };
    // Entry, place of the type in it, bytes.
    let (entry, place, trailing) = match found.kind {
        kind::ARRAY => (4, 0, found.trailing.get(..8).unwrap_or_default()),
        kind::STRUCT | kind::UNION => (12, 4, found.trailing),
        kind::FUNC_PROTO => (8, 4, found.trailing),
        kind::DATASEC => (12, 0, found.trailing),
        _ => (4, 0, &[] as &[u8]),
    };
    own.into_iter().chain(column(trailing, entry, place))
}

/// The n-th type that is part of this one, as opposed to pointed at.
fn contained(found: &Type<'_>, n: usize) -> Option<u32> {
    match found.kind {
        kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG | kind::VAR => {
            (n == 0).then_some(found.size_or_type)
        }
        kind::ARRAY => {
            if n == 0 {
                word(found.trailing, 0)
            } else {
                None
            }
        }
        kind::STRUCT | kind::UNION => word(found.trailing, n.checked_mul(12)?.checked_add(4)?),
        _ => None,
    }
}

#[cfg(test)]
#[path = "types_tests.rs"]
mod tests;
