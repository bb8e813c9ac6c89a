//! Builders of packets, and what comes out of whole conversations.

mod conversations;
mod golden;
mod joining;
mod likeness;

use super::DEFINITION;
use crate::protocols::{
    Opening,
    testing::{Collected, Conversation, golden::Call},
};

pub use crate::protocols::testing::{ADOPT, OPEN};

pub fn conversation(opening: Opening) -> Conversation {
    Conversation::new((DEFINITION.parser)(opening), 0)
}

pub fn play(opening: Opening, calls: &[Call]) -> Collected {
    conversation(opening).play(calls)
}

pub fn packet(sequence: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes[3] = sequence;
    bytes.extend_from_slice(body);
    bytes
}

pub fn command(byte: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    packet(0, [&[byte], body.as_ref()].concat())
}

pub fn query(sql: &str) -> Vec<u8> {
    command(3, sql)
}

pub fn prepare(sql: &str) -> Vec<u8> {
    command(0x16, sql)
}

pub fn execute(id: u32) -> Vec<u8> {
    command(0x17, [&id.to_le_bytes()[..], &[0, 1, 0, 0, 0]].concat())
}

pub const AUTOCOMMIT: u16 = 2;
pub const MORE: u16 = 10;

pub fn ok(sequence: u8, affected: u8, status: u16) -> Vec<u8> {
    packet(sequence, [&[0, affected, 0][..], &status.to_le_bytes(), &[0, 0]].concat())
}

pub fn error(sequence: u8, code: u16, state: &str) -> Vec<u8> {
    packet(sequence, [&[0xff][..], &code.to_le_bytes(), b"#", state.as_bytes(), b"said hunter2"].concat())
}

pub fn eof(sequence: u8, status: u16) -> Vec<u8> {
    packet(sequence, [&[0xfe, 0, 0][..], &status.to_le_bytes()].concat())
}

/// An OK packet in the place of an EOF.
pub fn new_eof(sequence: u8, status: u16) -> Vec<u8> {
    packet(sequence, [&[0xfe, 0, 0][..], &status.to_le_bytes(), &[0, 0]].concat())
}

pub fn definition(sequence: u8) -> Vec<u8> {
    packet(sequence, b"\x03def\x04shop\x01t\x01t\x01a\x01a\x0c\x3f\0\x0b\0\0\0\x03\0\0\0\0\0")
}

pub fn row(sequence: u8, text: &str) -> Vec<u8> {
    packet(sequence, [&[text.len() as u8], text.as_bytes()].concat())
}

/// One column and so many rows; `old`: with EOF packets. Numbers go on from `sequence`.
pub fn rows_from(sequence: u8, rows: usize, old: bool, status: u16) -> Vec<u8> {
    let mut next = sequence;
    let mut number = || {
        next = next.wrapping_add(1);
        next.wrapping_sub(1)
    };
    let mut bytes = packet(number(), [1]);
    bytes.extend(definition(number()));
    if old {
        bytes.extend(eof(number(), status));
    }
    for index in 0..rows {
        bytes.extend(row(number(), &format!("hunter2 {index}")));
    }
    bytes.extend(if old { eof(number(), status) } else { new_eof(number(), status) });
    bytes
}

pub fn rows(rows: usize, old: bool) -> Vec<u8> {
    rows_from(1, rows, old, AUTOCOMMIT)
}

/// An answer to COM_STMT_PREPARE with so many parameters and columns.
pub fn prepared(id: u8, parameters: u8, columns: u8, old: bool) -> Vec<u8> {
    let mut bytes = packet(1, [0, id, 0, 0, 0, columns, 0, parameters, 0, 0, 0, 0]);
    let mut sequence = 2;
    for count in [parameters, columns] {
        for _ in 0..count {
            bytes.extend(definition(sequence));
            sequence += 1;
        }
        if old && count > 0 {
            bytes.extend(eof(sequence, AUTOCOMMIT));
            sequence += 1;
        }
    }
    bytes
}

pub const PLAIN: u32 = 0x0000_a20d | 1 << 19;
pub const DEPRECATE_EOF: u32 = 1 << 24;

pub fn greeting(version: &str, capabilities: u32) -> Vec<u8> {
    let capability = capabilities.to_le_bytes();
    let mut body = [&[10], version.as_bytes(), b"\0\x08\0\0\0saltsalt\0"].concat();
    body.extend([capability[0], capability[1], 45, 2, 0, capability[2], capability[3], 21]);
    body.extend([0; 10]);
    body.extend(b"saltsaltsalt\0mysql_native_password\0");
    packet(0, body)
}

pub fn login(capabilities: u32) -> Vec<u8> {
    let mut body = capabilities.to_le_bytes().to_vec();
    body.extend([0, 0, 0, 1, 45]);
    body.extend([0; 23]);
    body.extend(b"alice\0\x07hunter2shop\0mysql_native_password\0");
    packet(1, body)
}

/// A connection on which nothing was asked yet.
pub fn opened() -> Conversation {
    let mut talk = conversation(OPEN);
    talk.response(greeting("8.0.36", PLAIN)).request(login(PLAIN)).response(ok(2, 0, AUTOCOMMIT));
    talk
}

pub fn told(talk: &mut Conversation) -> Vec<String> {
    assert!(!talk.refused());
    talk.close();
    assert!(!format!("{:?}", talk.seen.exchanges).contains("hunter2"), "a secret came out");
    talk.summaries()
}
