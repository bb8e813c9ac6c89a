//! A DNS message on the wire (RFC 1035 section 4.1, RFC 6891 section 6.1): header, names, questions, records.
//!
//! Reads where it is asked to and no further. Names may be compressed: a pointer is followed to earlier bytes only, so no name is endless.

use std::{fmt::Write, net::IpAddr};

use super::names::{CLASS_ANY, CLASS_NONE};

/// Bytes of the header.
pub const HEADER: usize = 12;

/// RFC 1035 section 2.3.4: a name's labels with their lengths.
const NAME_MAX: usize = 255;
/// A name of that length has no more labels, so no more pointers are of any use.
const POINTERS_MAX: u8 = 127;
/// Type, class, TTL and length of a record behind its owner's name.
const RECORD_FIXED: usize = 10;
/// Where the first question's name begins.
pub const QUESTION: usize = HEADER;

pub const QUERY: u8 = 0;
pub const NOTIFY: u8 = 4;
pub const UPDATE: u8 = 5;
/// Stateful operations (RFC 8490) are not of questions and answers.
pub const DSO: u8 = 6;

pub const A: u16 = 1;
pub const NS: u16 = 2;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const PTR: u16 = 12;
pub const MX: u16 = 15;
pub const AAAA: u16 = 28;
pub const NIMLOC: u16 = 32;
pub const SRV: u16 = 33;
pub const OPT: u16 = 41;
pub const IXFR: u16 = 251;
pub const AXFR: u16 = 252;
pub const ANY: u16 = 255;

pub const INTERNET: u16 = 1;

/// Why something cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes end before it does.
    Cut,
    /// It cannot be of a DNS message.
    Bad,
}

fn byte(message: &[u8], at: usize) -> Result<u8, Fault> {
    message.get(at).copied().ok_or(Fault::Cut)
}

fn u16_at(message: &[u8], at: usize) -> Result<u16, Fault> {
    let bytes = message.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Fault::Cut)?;
    Ok(u16::from_be_bytes(*bytes))
}

fn u32_at(message: &[u8], at: usize) -> Result<u32, Fault> {
    let bytes = message.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Fault::Cut)?;
    Ok(u32::from_be_bytes(*bytes))
}

/// RFC 1035 section 4.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub id: u16,
    bits: u16,
    pub questions: u16,
    pub answers: u16,
    pub authorities: u16,
    pub additionals: u16,
}

impl Head {
    pub fn read(message: &[u8]) -> Result<Self, Fault> {
        let field = |index: usize| u16_at(message, 2 * index);
        Ok(Self {
            id: field(0)?,
            bits: field(1)?,
            questions: field(2)?,
            answers: field(3)?,
            authorities: field(4)?,
            additionals: field(5)?,
        })
    }

    /// Number and bits alone: the counts did not come yet.
    pub fn bits_of(message: &[u8]) -> Option<Self> {
        let (id, bits) = (u16_at(message, 0).ok()?, u16_at(message, 2).ok()?);
        Some(Self { id, bits, questions: 0, answers: 0, authorities: 0, additionals: 0 })
    }

    pub fn is_response(&self) -> bool {
        self.bits & 0x8000 != 0
    }

    pub fn opcode(&self) -> u8 {
        (self.bits >> 11) as u8 & 15
    }

    /// The answer did not fit into a datagram: it is asked for again over TCP.
    pub fn truncated(&self) -> bool {
        self.bits & 0x0200 != 0
    }

    pub fn recursion_desired(&self) -> bool {
        self.bits & 0x0100 != 0
    }

    pub fn recursion_available(&self) -> bool {
        self.bits & 0x0080 != 0
    }

    /// The one bit that is always zero.
    pub fn reserved(&self) -> bool {
        self.bits & 0x0040 != 0
    }

    /// The lower four bits of it; the others are in the OPT record.
    pub fn rcode(&self) -> u16 {
        self.bits & 15
    }

    pub fn records(&self) -> usize {
        usize::from(self.answers) + usize::from(self.authorities) + usize::from(self.additionals)
    }
}

/// The labels of a name, pointers followed.
struct Labels<'a> {
    message: &'a [u8],
    at: usize,
    /// Where this run of labels began: a pointer leads to before it.
    run: usize,
    octets: usize,
    pointers: u8,
}

impl<'a> Labels<'a> {
    fn new(message: &'a [u8], at: usize) -> Self {
        Self { message, at, run: at, octets: 0, pointers: 0 }
    }

    /// The next label; `None` at the root.
    fn next(&mut self) -> Result<Option<&'a [u8]>, Fault> {
        loop {
            let length = byte(self.message, self.at)?;
            match length >> 6 {
                0 => {
                    let begin = self.at + 1;
                    let end = begin + usize::from(length);
                    self.octets += end - self.at;
                    if self.octets > NAME_MAX {
                        return Err(Fault::Bad);
                    }
                    let label = self.message.get(begin..end).ok_or(Fault::Cut)?;
                    if length == 0 {
                        return Ok(None);
                    }
                    self.at = end;
                    return Ok(Some(label));
                }
                3 => {
                    let target = usize::from(u16_at(self.message, self.at)? & 0x3fff);
                    self.pointers += 1;
                    if target < HEADER || target >= self.run || self.pointers > POINTERS_MAX {
                        return Err(Fault::Bad);
                    }
                    (self.at, self.run) = (target, target);
                }
                _ => return Err(Fault::Bad),
            }
        }
    }
}

/// The position behind the name at `at`; where its pointers lead is not looked at.
pub fn skip_name(message: &[u8], mut at: usize) -> Result<usize, Fault> {
    let begin = at;
    loop {
        let length = byte(message, at)?;
        match length >> 6 {
            0 => at += 1 + usize::from(length),
            3 => return byte(message, at + 1).map(|_| at + 2),
            _ => return Err(Fault::Bad),
        }
        if at - begin > NAME_MAX {
            return Err(Fault::Bad);
        }
        if length == 0 {
            return Ok(at);
        }
    }
}

/// Appends the name at `at` as text: lower case, without the dot of the root behind it; the root alone is `.`. What is not printable
/// is written `\DDD`, dots and backslashes inside a label with a backslash (RFC 4343 section 2.1).
pub fn write_name(message: &[u8], at: usize, text: &mut String) -> Result<(), Fault> {
    let mut labels = Labels::new(message, at);
    let mut first = true;
    while let Some(label) = labels.next()? {
        if !first {
            text.push('.');
        }
        first = false;
        for &byte in label {
            match byte {
                b'.' | b'\\' => text.extend(['\\', char::from(byte)]),
                b'!'..=b'~' => text.push(char::from(byte.to_ascii_lowercase())),
                // Writing into a string cannot fail.
                _ => drop(write!(text, "\\{byte:03}")),
            }
        }
    }
    if first {
        text.push('.');
    }
    Ok(())
}

/// Whether a name can be read to its end. (That of the first question has nothing before it that it could point to.)
pub fn is_name(message: &[u8], at: usize) -> bool {
    let mut labels = Labels::new(message, at);
    loop {
        match labels.next() {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Whether both names are the same but for their case.
pub fn same_name(message: &[u8], left: usize, right: usize) -> Result<bool, Fault> {
    if left == right {
        return Ok(true);
    }
    let (mut left, mut right) = (Labels::new(message, left), Labels::new(message, right));
    loop {
        match (left.next()?, right.next()?) {
            (None, None) => return Ok(true),
            (Some(left), Some(right)) if left.eq_ignore_ascii_case(right) => {}
            _ => return Ok(false),
        }
    }
}

/// Where a name that may be a pointer alone leads to: most owners are a pointer to the question.
fn target(message: &[u8], at: usize) -> usize {
    match u16_at(message, at) {
        Ok(pointer) if pointer >> 14 == 3 && usize::from(pointer & 0x3fff) < at => usize::from(pointer & 0x3fff),
        _ => at,
    }
}

/// RFC 1035 section 4.1.2; the zone of an update (RFC 2136 section 2.3) has the same form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub kind: u16,
    pub class: u16,
}

impl Question {
    /// The question whose name is at `at`, and the position behind it.
    pub fn read(message: &[u8], at: usize) -> Result<(Self, usize), Fault> {
        let behind = skip_name(message, at)?;
        Ok((Self { kind: u16_at(message, behind)?, class: u16_at(message, behind + 2)? }, behind + 4))
    }

    pub fn is_transfer(&self) -> bool {
        matches!(self.kind, AXFR | IXFR)
    }
}

/// RFC 1035 section 4.1.3.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Where its name is.
    pub owner: usize,
    pub kind: u16,
    pub class: u16,
    pub ttl: u32,
    /// Where its data begins and ends.
    pub data: usize,
    pub end: usize,
}

impl Record {
    pub fn read(message: &[u8], at: usize) -> Result<Self, Fault> {
        let fixed = skip_name(message, at)?;
        let data = fixed + RECORD_FIXED;
        let end = data + usize::from(u16_at(message, fixed + 8)?);
        if end > message.len() {
            return Err(Fault::Cut);
        }
        Ok(Self {
            owner: target(message, at),
            kind: u16_at(message, fixed)?,
            class: u16_at(message, fixed + 2)?,
            ttl: u32_at(message, fixed + 4)?,
            data,
            end,
        })
    }

    /// The address of an A or AAAA record.
    pub fn address(&self, message: &[u8]) -> Option<IpAddr> {
        let data = message.get(self.data..self.end)?;
        match self.kind {
            A => Some(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
            AAAA => Some(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
            _ => None,
        }
    }

    /// The place of the name that the record points to.
    pub fn target(&self) -> Option<usize> {
        match self.kind {
            CNAME | NS | PTR => Some(self.data),
            MX => Some(self.data + 2),
            SRV => Some(self.data + 6),
            _ => None,
        }
    }

    /// The port of an SRV record.
    pub fn port(&self, message: &[u8]) -> Option<u16> {
        u16_at(message, self.data + 4).ok().filter(|_| self.kind == SRV)
    }

    /// The serial number of a SOA record (RFC 1035 section 3.3.13).
    pub fn serial(&self, message: &[u8]) -> Option<u32> {
        let behind = skip_name(message, self.data).and_then(|at| skip_name(message, at)).ok()?;
        u32_at(message, behind).ok().filter(|_| self.kind == SOA)
    }
}

/// The records behind the questions, in order; ends with the first that cannot be read.
pub struct Records<'a> {
    message: &'a [u8],
    at: usize,
    left: usize,
    /// Why it ended before the last record.
    pub fault: Option<Fault>,
}

impl<'a> Records<'a> {
    /// `at` is the position behind the last question.
    pub fn new(message: &'a [u8], at: usize, count: usize) -> Self {
        Self { message, at, left: count, fault: None }
    }

    /// The position behind the last record read.
    pub fn position(&self) -> usize {
        self.at
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        self.left = self.left.checked_sub(1)?;
        match Record::read(self.message, self.at) {
            Ok(record) => {
                self.at = record.end;
                Some(record)
            }
            Err(fault) => {
                self.fault = Some(fault);
                self.left = 0;
                None
            }
        }
    }
}

/// Whether a question's class is one that is asked for.
pub fn is_asked_class(class: u16) -> bool {
    matches!(class, INTERNET | 3 | 4 | CLASS_NONE | CLASS_ANY)
}
