//! Conversations recorded from PostgreSQL 15 with its own clients and psycopg2, beside what must come out of them.

use super::{ADOPT, OPEN, play};
use crate::protocols::testing::{
    OwnedExchange,
    golden::{self, Call},
};

const DIRECTORY: &str = "postgresql";

pub fn calls(name: &str) -> Vec<Call> {
    golden::calls(DIRECTORY, name)
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

#[test]
fn recorded_conversations_give_the_expected_exchanges() {
    for name in NAMES {
        let seen = play(OPEN, &calls(name));
        assert_eq!(seen.losses, [], "{name}");
        let lines = golden::assert_gives(DIRECTORY, name, &seen.exchanges);
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
