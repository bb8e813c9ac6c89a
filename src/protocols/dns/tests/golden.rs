//! Conversations recorded from unbound with dig and dnspython, beside what must come out of them.

use super::*;
use crate::protocols::testing::{
    Conversation,
    golden::{assert_gives, calls},
};

pub const NAMES: [&str; 4] = ["dig", "dig_badvers", "dnspython_pipelined", "dnspython_unanswered"];

#[test]
fn recorded_conversations_give_the_expected_exchanges() {
    for name in NAMES {
        let mut talk = Conversation::opened(STREAM.parser);
        let mut first = [Vec::new(), Vec::new()];
        for (flow, bytes) in calls("dns", name) {
            if first[flow.index()].len() < 2000 {
                first[flow.index()].extend_from_slice(&bytes);
            }
            talk.call(flow, bytes);
        }
        for flow in [Flow::Request, Flow::Response] {
            assert_eq!((STREAM.likeness)(flow, &first[flow.index()]), crate::protocols::Likeness::Likely, "{name}");
        }
        talk.close();
        assert_eq!(talk.seen.losses, [], "{name}");
        let lines = assert_gives("dns", name, &talk.seen.exchanges);
        assert!(!lines.contains("hunter2"), "{name}: a secret came out");
    }
}

#[test]
fn a_connection_adopted_anywhere_in_a_recorded_conversation_gives_no_wrong_exchange() {
    for name in NAMES {
        let calls = calls("dns", name);
        let play = |mut talk: Conversation, from: usize| {
            for (flow, bytes) in &calls[from..] {
                talk.call(*flow, bytes);
            }
            talk.close();
            std::mem::take(&mut talk.seen).exchanges
        };
        let whole = play(Conversation::opened(STREAM.parser), 0);
        for begin in 1..calls.len() {
            let late = play(Conversation::adopted(STREAM.parser, 0), begin);
            let shift = begin as u64 * Conversation::STEP_NS;
            for exchange in &late {
                let same = |full: &&OwnedExchange| full.summary() == exchange.summary() && full.start_ns == exchange.start_ns + shift;
                assert!(whole.iter().any(|full| same(&full)), "{name} from call {begin}: {exchange:?}");
            }
            let complete = whole.iter().filter(|full| full.start_ns > shift + 2 * Conversation::STEP_NS).count();
            // Amid bytes that come one by one, the next message's begin is passed over with what was taken for one before it.
            assert!(late.len() + 1 >= complete, "{name} from call {begin}: {} of {complete}", late.len());
        }
    }
}
