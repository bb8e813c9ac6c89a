//! Conversations recorded from PostgreSQL 15 with its own clients and psycopg2, beside what must come out of them.
//!
//! `tests/data/postgresql/*.txt`: one call a line, `>` from the client, `<` from the server, other than printable bytes as `\xNN`.
//! `UPDATE_GOLDEN=1` writes the `.json` files anew.

use std::{fs, path::PathBuf};

use super::{ADOPT, Call, OPEN, play};
use crate::{
    model::Flow,
    protocols::testing::{OwnedExchange, OwnedValue},
};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/postgresql")
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

pub fn calls(name: &str) -> Vec<Call> {
    let text = fs::read_to_string(directory().join(format!("{name}.txt"))).unwrap();
    parse_calls(&text)
}

pub fn parse_calls(text: &str) -> Vec<Call> {
    let call = |line: &str| {
        let flow = if line.starts_with('>') { Flow::Request } else { Flow::Response };
        (flow, unescape(&line[2..]))
    };
    text.lines().map(call).collect()
}

pub const NAMES: [&str; 13] = [
    "pgbench_simple",
    "pgbench_extended",
    "pgbench_prepared",
    "pipeline",
    "psql_errors",
    "multi",
    "multi_ok",
    "empty",
    "copy_small",
    "copy_in_small",
    "wrong_password",
    "psycopg2",
    "rust_driver",
];

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

#[test]
fn recorded_conversations_give_the_expected_exchanges() {
    for name in NAMES {
        let seen = play(OPEN, &calls(name));
        assert_eq!(seen.losses, [], "{name}");
        let lines: String = seen.exchanges.iter().map(|exchange| json(exchange) + "\n").collect();
        let path = directory().join(format!("{name}.json"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &lines).unwrap();
        }
        assert_eq!(lines, fs::read_to_string(&path).unwrap(), "{name}");
        assert!(!lines.contains("hunter2") && !lines.contains("SCRAM"), "{name}: a secret came out");
    }
}

#[test]
fn a_connection_adopted_anywhere_in_a_recorded_conversation_gives_the_same_exchanges_from_there_on() {
    for name in NAMES {
        let calls = calls(name);
        let whole = play(OPEN, &calls).exchanges;
        for begin in 1..calls.len() {
            let late = play(ADOPT, &calls[begin..]).exchanges;
            let shift = begin as u64 * 1000;
            for exchange in &late {
                // Only what was in memory of the server alone may differ: texts that were parsed earlier.
                let same = whole.iter().any(|full| {
                    full.end_ns == exchange.end_ns + shift
                        && full.start_ns <= exchange.start_ns + shift
                        && full.status == exchange.status
                        && (full.resource == exchange.resource || exchange.resource.contains("text unknown"))
                });
                assert!(same, "{name} from call {begin}: {exchange:?}");
            }
            let complete = whole.iter().filter(|full| full.start_ns > shift + 2000).count();
            assert!(late.len() >= complete, "{name} from call {begin}: {} of {complete}", late.len());
        }
    }
}

#[test]
fn statement_counts_equal_those_that_pg_stat_statements_gave() {
    // Errors are not counted there, nor preparing alone, nor further rows of a portal.
    for (name, counted) in [
        ("pgbench_simple", 35),
        ("pgbench_extended", 35),
        ("pipeline", 6),
        ("psql_errors", 13),
        ("multi", 3),
        ("multi_ok", 3),
        ("empty", 0),
        ("copy_small", 3),
        ("copy_in_small", 1),
        ("wrong_password", 0),
        ("psycopg2", 16),
        ("rust_driver", 13),
    ] {
        let exchanges = play(OPEN, &calls(name)).exchanges;
        let portal = |exchange: &OwnedExchange| exchange.operation == "FETCH" && !exchange.resource.starts_with("FETCH");
        let statements = exchanges.iter().filter(|one| !one.error && !matches!(&*one.operation, "PREPARE" | "EMPTY") && !portal(one));
        assert_eq!(statements.count(), counted, "{name}");
    }
}
