//! Recorded conversations of real programs beside what must come out of them.
//!
//! `tests/data/PROTOCOL/NAME.txt`: one call a line, `>` from the client, `<` from the server, other than printable ASCII bytes and the
//! backslash as `\\xNN` (`\\\\` is a backslash). `NAME.json` holds the exchanges, one a line; `UPDATE_GOLDEN=1` writes it anew.
//! `cargo run --example transcript -- RECORDING PORT` makes such texts.

use std::{fs, path::PathBuf};

use super::{OwnedExchange, OwnedValue};
use crate::model::Flow;

/// The bytes of one call and which way they went.
pub type Call = (Flow, Vec<u8>);

fn path(protocol: &str, name: &str, extension: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/{protocol}/{name}.{extension}"))
}

/// The calls of `tests/data/PROTOCOL/NAME.txt`.
pub fn calls(protocol: &str, name: &str) -> Vec<Call> {
    let path = path(protocol, name, "txt");
    parse_calls(&fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// The calls of a text of that form.
pub fn parse_calls(text: &str) -> Vec<Call> {
    let call = |line: &str| {
        let flow = if line.starts_with('>') { Flow::Request } else { Flow::Response };
        (flow, unescape(line.get(2..).unwrap_or_default()))
    };
    text.lines().map(call).collect()
}

/// Compares with `tests/data/PROTOCOL/NAME.json`, or writes it; what was compared, to look for secrets in.
#[track_caller]
pub fn assert_gives(protocol: &str, name: &str, exchanges: &[OwnedExchange]) -> String {
    let lines: String = exchanges.iter().map(|exchange| json(exchange) + "\n").collect();
    let path = path(protocol, name, "json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &lines).unwrap();
    }
    assert_eq!(lines, fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
    lines
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match (byte, rest.first()) {
            (b'\\', Some(b'x')) => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&rest[1..3]).unwrap(), 16).unwrap());
                rest = &rest[3..];
            }
            (b'\\', Some(_)) => {
                bytes.push(rest[0]);
                rest = &rest[1..];
            }
            _ => bytes.push(byte),
        }
    }
    bytes
}

fn json(exchange: &OwnedExchange) -> String {
    let attributes: serde_json::Map<String, serde_json::Value> = exchange
        .attributes
        .iter()
        .map(|(name, value)| {
            let value = match value {
                OwnedValue::Text(text) => text.as_str().into(),
                OwnedValue::Int(int) => (*int).into(),
                OwnedValue::Bool(bool) => (*bool).into(),
            };
            ((*name).to_owned(), value)
        })
        .collect();
    serde_json::json!({
        "start_ns": exchange.start_ns, "first_byte_ns": exchange.first_byte_ns, "end_ns": exchange.end_ns,
        "operation": exchange.operation, "resource": exchange.resource, "status": exchange.status, "error": exchange.error,
        "request_bytes": exchange.request_bytes, "response_bytes": exchange.response_bytes,
        "flags": exchange.flags.names().collect::<Vec<_>>(), "attributes": attributes,
    })
    .to_string()
}
