//! Conversations recorded from curl 7.88, h2load and nghttp 1.52 and h2 4.1 for Python with nghttpd, and h2 with itself, beside what must
//! come out of them.

use proptest::prelude::*;

use super::parser;
use crate::{
    model::Flags,
    protocols::testing::{
        Collected, OwnedExchange, OwnedValue,
        golden::{self, Call},
        proof::{Mishap, assert_never_wrong},
    },
};

const DIRECTORY: &str = "http2";
const NAMES: [&str; 6] = ["curl", "h2load", "nghttp", "h2", "strange", "grpc"];

fn calls(name: &str) -> Vec<Call> {
    golden::calls(DIRECTORY, name)
}

fn played(name: &str) -> Collected {
    Mishap::default().play(parser, &calls(name)).expect("the parser takes it")
}

#[test]
fn recorded_conversations_give_the_expected_exchanges() {
    for name in NAMES {
        let seen = played(name);
        assert_eq!(seen.losses, [], "{name}");
        let lines = golden::assert_gives(DIRECTORY, name, &seen.exchanges);
        assert!(!lines.contains("hunter2"), "{name}: a secret came out");
    }
}

#[test]
fn statuses_are_counted_as_the_clients_counted_them() {
    let count = |name: &str, status: &str| played(name).exchanges.iter().filter(|one| one.status == status).count();
    for (name, status, expected) in
        [("curl", "200", 1), ("h2load", "200", 20), ("h2load", "404", 20), ("nghttp", "200", 2), ("nghttp", "404", 1), ("h2", "404", 100)]
    {
        assert_eq!(count(name, status), expected, "{name}");
    }
    assert_eq!((count("strange", "200"), count("strange", "")), (11, 2));
}

/// Everything but times and flags.
fn says(exchange: &OwnedExchange) -> String {
    let OwnedExchange { error, request_bytes, response_bytes, .. } = exchange;
    let of = |name| match exchange.attribute(name) {
        Some(OwnedValue::Text(text)) => text.clone(),
        Some(OwnedValue::Int(int)) => int.to_string(),
        _ => String::new(),
    };
    let attributes = ["server.address", "error.type", "http.request.body.size", "http.response.body.size", "rpc.response.message_count"];
    format!("{} {error} {request_bytes} {response_bytes} {}", exchange.summary(), attributes.map(of).join(" "))
}

/// What a damaged exchange still claims is true of one that was.
fn admits(exchange: &OwnedExchange, truth: &[OwnedExchange]) -> bool {
    let fits = |claim: &str, truth: &str| claim.is_empty() || claim == truth;
    truth.iter().any(|whole| {
        // The last bytes of a connection are missed without a trace: then it ended with the call open.
        let closed = exchange.flags.contains(Flags::TRUNCATED) && exchange.status == "14";
        let unanswered = closed || exchange.flags.contains(Flags::UNANSWERED);
        fits(&exchange.operation, &whole.operation)
            && fits(&exchange.resource, &whole.resource)
            && (fits(&exchange.status, &whole.status) || unanswered)
            && (exchange.error == whole.error || unanswered || exchange.status.is_empty() || exchange.flags.contains(Flags::GAP))
            && exchange.request_bytes <= whole.request_bytes
            && exchange.response_bytes <= whole.response_bytes
    })
}

proptest! {
    #[test]
    fn cuts_change_nothing(name in prop::sample::select(&NAMES), mishap in Mishap::cuts()) {
        let (whole, cut) = (played(name), mishap.play(parser, &calls(name)).unwrap());
        let all = |seen: &Collected| seen.exchanges.iter().map(says).collect::<Vec<_>>();
        prop_assert_eq!(all(&whole), all(&cut));
        prop_assert_eq!(cut.losses, []);
    }

    #[test]
    fn nothing_that_happens_to_a_conversation_makes_a_wrong_exchange(name in prop::sample::select(&NAMES), mishap in Mishap::any()) {
        // The server answers what the client has cancelled already: whoever misses the one cannot but believe the other.
        let late = |(_, bytes): &Call| bytes.windows(17).any(|window| window == b"Deadline Exceeded");
        let calls: Vec<Call> = calls(name).into_iter().filter(|call| !late(call)).collect();
        assert_never_wrong(parser, &calls, &mishap, says, admits);
    }
}
