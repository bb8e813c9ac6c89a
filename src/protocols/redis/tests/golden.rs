//! Conversations recorded from Redis 7.0 with its own tools, a Python library and by hand, beside what must come out of them.

use proptest::prelude::*;

use super::{adopted, opened};
use crate::protocols::{
    redis::{
        DEFINITION,
        tests::doubt::{admits, says},
    },
    testing::{
        golden,
        proof::{Mishap, assert_never_wrong},
    },
};

const DIRECTORY: &str = "redis";

const NAMES: [&str; 7] = ["python", "subscriber", "resp3", "typed", "replication", "benchmark", "cli_resp3"];

#[test]
fn recorded_conversations_give_the_expected_exchanges() {
    for name in NAMES {
        let mut talk = opened();
        for (flow, bytes) in golden::calls(DIRECTORY, name) {
            talk.call(flow, bytes);
        }
        assert!(!talk.close().refused(), "{name}");
        assert_eq!(talk.seen.losses, [], "{name}");
        let lines = golden::assert_gives(DIRECTORY, name, &talk.seen.exchanges);
        assert!(!lines.contains("hunter2") && !lines.contains("hun ter2"), "{name}: a secret came out");
    }
}

#[test]
fn a_connection_adopted_anywhere_in_a_recorded_conversation_gives_true_exchanges_only() {
    for name in NAMES {
        let calls = golden::calls(DIRECTORY, name);
        let whole = Mishap::default().play(DEFINITION.parser, &calls).expect("it is Redis").exchanges;
        let mut found = 0;
        for begin in 1..calls.len() {
            let mut talk = adopted();
            calls[begin..].iter().for_each(|(flow, bytes)| {
                talk.call(*flow, bytes);
            });
            // Long after the last answer.
            talk.at(talk.now_ns() + 1_000_000_000).close();
            let shift = begin as u64 * 1000;
            for exchange in &talk.seen.exchanges {
                let same = |full: &&_| says(full) == says(exchange) && full.start_ns == exchange.start_ns + shift;
                assert!(whole.iter().any(|full| same(&full)), "{name} from call {begin}: {exchange:?}");
                found += 1;
            }
        }
        assert!(found > whole.len() || calls.len() < 12, "{name}: {found}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 400 }))]

    #[test]
    fn no_mishap_to_a_recorded_conversation_makes_a_wrong_exchange(name in 0..NAMES.len(), mishap in Mishap::any()) {
        thread_local! {
            static RECORDED: Vec<Vec<golden::Call>> = NAMES.iter().map(|name| golden::calls(DIRECTORY, name)).collect();
        }
        RECORDED.with(|recorded| assert_never_wrong(DEFINITION.parser, &recorded[name], &mishap, says, admits));
    }

    #[test]
    fn cuts_of_a_recorded_conversation_change_nothing(name in 0..NAMES.len(), mishap in Mishap::cuts()) {
        let calls = golden::calls(DIRECTORY, NAMES[name]);
        let whole = Mishap::default().play(DEFINITION.parser, &calls).expect("it is Redis");
        let seen = mishap.play(DEFINITION.parser, &calls).expect("it is Redis");
        prop_assert_eq!(seen.losses, []);
        prop_assert_eq!(whole.exchanges.iter().map(says).collect::<Vec<_>>(), seen.exchanges.iter().map(says).collect::<Vec<_>>());
    }
}
