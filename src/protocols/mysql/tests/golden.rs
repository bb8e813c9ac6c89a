//! Conversations recorded from MariaDB 10.11 and MySQL 9.7 with their own clients, MariaDB Connector/C and PyMySQL, beside what must come out.

use proptest::prelude::*;

use super::*;
use crate::{
    model::Flags,
    protocols::{
        Capture,
        testing::{
            OwnedExchange, golden,
            proof::{Mishap, assert_never_wrong},
        },
    },
};

const DIRECTORY: &str = "mysql";

/// In the clear from begin to end.
const NAMES: [&str; 8] =
    ["mariadb_pymysql", "mysql_pymysql", "mysql_rsa", "mysql_cli", "mariadb_cli", "mariadb_denied", "mariadb_prepared", "mysql_prepared"];
/// Encrypted or compressed.
const CLOSED: [&str; 3] = ["mysql_tls", "mysql_zstd", "mariadb_zlib"];

fn calls(name: &str) -> Vec<Call> {
    golden::calls(DIRECTORY, name)
}

#[test]
fn recorded_conversations_give_the_expected_exchanges() {
    for name in NAMES {
        let seen = play(OPEN, &calls(name));
        assert_eq!(seen.losses, [], "{name}");
        let lines = golden::assert_gives(DIRECTORY, name, &seen.exchanges);
        assert!(!lines.contains("hunter2"), "{name}: a secret came out");
    }
}

#[test]
fn recorded_conversations_that_are_closed_to_us_are_left_alone() {
    for name in CLOSED {
        let seen = play(OPEN, &calls(name));
        assert_eq!((seen.exchanges.as_slice(), seen.captures.as_slice()), (&[][..], &[Capture::Full, Capture::Lengths][..]), "{name}");
        assert_eq!(seen.losses, [], "{name}");
    }
}

/// All that an exchange claims but the time.
fn says(one: &OwnedExchange) -> String {
    let counts = ["db.response.returned_rows", "db.response.affected_rows"].map(|name| one.int(name));
    let OwnedExchange { operation, resource, status, error, request_bytes, response_bytes, .. } = one;
    format!("{operation} {resource} {status} {error} {request_bytes} {response_bytes} {counts:?}")
}

/// What was cut, torn or not answered may know less, and still nothing else: a text that is the begin of a true one or was prepared unseen,
/// a status that is absent.
fn admits(one: &OwnedExchange, truth: &[OwnedExchange]) -> bool {
    truth.iter().any(|full| {
        let cut = one.flags.contains(Flags::TRUNCATED) || one.flags.contains(Flags::UNANSWERED) || one.flags.contains(Flags::GAP);
        let text = full.resource.starts_with(&one.resource)
            || (one.flags.contains(Flags::TRUNCATED) && prefix(&one.resource, &full.resource))
            || one.resource.starts_with('<');
        let operation =
            one.operation == full.operation || one.resource.starts_with('<') || matches!(one.operation.as_str(), "OTHER" | "EXECUTE");
        cut && text && operation && (one.status == full.status || one.status.is_empty())
    })
}

/// A cut literal is a `?` that a folded list or the rest of a statement follows.
fn prefix(cut: &str, full: &str) -> bool {
    let common = cut.bytes().zip(full.bytes()).take_while(|(a, b)| a == b).count();
    cut.len() - common <= 2
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
                let same = whole.iter().any(|full| {
                    full.start_ns == exchange.start_ns + shift
                        && full.end_ns == exchange.end_ns + shift
                        && (full.status == exchange.status && full.response_bytes == exchange.response_bytes)
                        // Only what was in memory of the server alone may differ: texts that were prepared earlier.
                        && (full.resource == exchange.resource || exchange.resource.contains("text unknown"))
                });
                assert!(same, "{name} from call {begin}: {exchange:?}");
            }
            // Of the first call, a text without a known verb is no evidence.
            let complete = whole.iter().filter(|full| full.start_ns > shift + 1000 && full.operation != "STARTUP").count();
            assert!(late.len() + 2 >= complete, "{name} from call {begin}: {} of {complete}", late.len());
        }
    }
}

proptest! {
    #[test]
    fn cuts_change_nothing(name in prop::sample::select(NAMES.to_vec()), cuts in Mishap::cuts()) {
        let calls = calls(name);
        let whole: Vec<String> = play(OPEN, &calls).exchanges.iter().map(says).collect();
        let cut = cuts.play(DEFINITION.parser, &calls).expect("still taken for MySQL");
        prop_assert_eq!(cut.losses, []);
        prop_assert_eq!(cut.exchanges.iter().map(says).collect::<Vec<_>>(), whole);
    }

    #[test]
    fn no_mishap_makes_a_wrong_exchange(name in prop::sample::select(NAMES.to_vec()), mishap in Mishap::any()) {
        assert_never_wrong(DEFINITION.parser, &calls(name), &mishap, says, admits);
    }
}
