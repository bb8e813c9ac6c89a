//! Conversations recorded from RabbitMQ 3.10 with pika and librabbitmq, beside what must come out of them.

use super::play;
use crate::protocols::testing::golden::{self, Call};

const DIRECTORY: &str = "amqp";

pub const NAMES: [&str; 16] = [
    "bench_confirms",
    "bench_deliveries",
    "pika_confirms",
    "pika_consume",
    "pika_errors",
    "pika_windows",
    "pika_wrong_password",
    "pika_wrong_vhost",
    "librabbitmq_declare",
    "librabbitmq_publish",
    "librabbitmq_publish_persistent",
    "librabbitmq_get",
    "librabbitmq_get_missing",
    "librabbitmq_consume",
    "librabbitmq_delete",
    "librabbitmq_wrong_password",
];

pub fn calls(name: &str) -> Vec<Call> {
    golden::calls(DIRECTORY, name)
}

#[test]
fn recorded_conversations_give_the_expected_exchanges() {
    for name in NAMES {
        let seen = play(false, &calls(name));
        assert_eq!(seen.losses, [], "{name}");
        let lines = golden::assert_gives(DIRECTORY, name, &seen.exchanges);
        assert!(!lines.contains("hunter2"), "{name}: a secret came out");
    }
}

#[test]
fn a_connection_adopted_anywhere_in_a_recorded_conversation_gives_the_same_exchanges_from_there_on() {
    for name in NAMES {
        let calls = calls(name);
        let whole = play(false, &calls).exchanges;
        for begin in 1..calls.len() {
            let late = play(true, &calls[begin..]).exchanges;
            let shift = begin as u64 * 1000;
            for exchange in &late {
                let same = |operation: &str, status: &str| {
                    whole.iter().any(|full| {
                        full.operation == operation
                            && full.status == status
                            && full.start_ns <= exchange.start_ns + shift
                            && (full.resource == exchange.resource || exchange.resource.is_empty())
                    })
                };
                let (operation, status) = (exchange.operation.as_str(), exchange.status.as_str());
                // Whether a confirm was due is not known, nor which call a close answers where that was before.
                let unknown = status.is_empty() && ["ack", "nack", "312", "404"].iter().any(|status| same(operation, status));
                let cause = operation.ends_with(".close") && whole.iter().any(|full| full.error && full.status == status);
                assert!(same(operation, status) || unknown || cause, "{name} from call {begin}: {exchange:?}");
            }
            // All but the confirms that are needed to learn their numbers.
            let complete = whole.iter().filter(|full| full.start_ns > shift + 2000 && full.operation != "basic.publish").count();
            assert!(late.len() >= complete, "{name} from call {begin}: {} of {complete}", late.len());
        }
    }
}
