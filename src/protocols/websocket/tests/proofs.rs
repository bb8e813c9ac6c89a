use proptest::prelude::*;

use super::{AGREED, ASKED, close, counts, frame, parser};
use crate::{
    model::Flow,
    protocols::testing::{
        Conversation, OwnedExchange,
        golden::Call,
        proof::{Mishap, assert_never_wrong},
    },
};

/// Frames of both sides by kind and length, and the code at the end, if any.
fn conversation() -> impl Strategy<Value = Vec<Call>> {
    let firsts = prop::sample::select(vec![0x81_u8, 0x82, 0xc1, 0x01, 0x00, 0x80, 0x89, 0x8a]);
    let frames = prop::collection::vec((any::<bool>(), firsts, 0_usize..300), 0..30);
    (frames, prop::option::of(1000_u16..1015)).prop_map(|(frames, end)| {
        let mut calls = vec![(Flow::Request, ASKED.into()), (Flow::Response, AGREED.into())];
        for (asks, first, length) in frames {
            let flow = if asks { Flow::Request } else { Flow::Response };
            calls.push((flow, frame(flow, first, &vec![b'x'; if first >= 0x89 { length % 126 } else { length }])));
        }
        if let Some(code) = end {
            calls.push((Flow::Request, close(Flow::Request, code)));
            calls.push((Flow::Response, close(Flow::Response, code)));
        }
        calls
    })
}

const KINDS: [&str; 7] = ["text_messages", "binary_messages", "pings", "pongs", "continuation_frames", "frames", "payload_bytes"];

/// All but times.
fn says(exchange: &OwnedExchange) -> String {
    let counted = KINDS.map(|kind| counts(exchange, kind));
    format!("{} {} {counted:?} {} {}", exchange.summary(), exchange.error, exchange.request_bytes, exchange.response_bytes)
}

/// What is shown of a torn connection is shown for the side that was seen whole, or up to where nothing more was seen.
fn admits(exchange: &OwnedExchange, truth: &[OwnedExchange]) -> bool {
    truth.iter().any(|whole| {
        exchange.operation == whole.operation
            && exchange.resource == whole.resource
            && (exchange.status == whole.status || exchange.status.is_empty() || exchange.status == "1006")
            && KINDS.iter().all(|kind| {
                let ((sent, received), (all_sent, all_received)) = (counts(exchange, kind), counts(whole, kind));
                (sent.is_none() || sent <= all_sent) && (received.is_none() || received <= all_received)
            })
    })
}

proptest! {
    #[test]
    fn cuts_change_nothing(calls in conversation(), mishap in Mishap::cuts()) {
        let whole = Mishap::default().play(parser, &calls).unwrap();
        let cut = mishap.play(parser, &calls).unwrap();
        let said = |seen: &[OwnedExchange]| seen.iter().map(says).collect::<Vec<_>>();
        prop_assert_eq!(whole.exchanges.len(), 2);
        prop_assert_eq!(said(&whole.exchanges), said(&cut.exchanges));
        prop_assert!(cut.losses.is_empty());
    }

    #[test]
    fn no_mishap_makes_a_wrong_exchange(calls in conversation(), mishap in Mishap::any()) {
        assert_never_wrong(parser, &calls, &mishap, says, admits);
    }

    #[test]
    fn any_bytes_behind_an_upgrade_are_taken(
        calls in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 1..40)), 0..30),
    ) {
        let mut talk = Conversation::opened(parser);
        talk.request(ASKED).response(AGREED);
        for (asks, bytes) in calls {
            talk.call(if asks { Flow::Request } else { Flow::Response }, bytes);
        }
        talk.close();
        prop_assert!(!talk.refused());
        prop_assert_eq!(talk.seen.exchanges.len(), 2);
    }
}
