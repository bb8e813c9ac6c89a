//! Whatever happens to a stream on its way here, no wrong exchange comes out.

use proptest::prelude::*;

use super::*;
use crate::protocols::testing::{golden::Call, proof};

/// Queries with their answers, in an order of their own; few numbers and names, so that they are used again and again.
fn talk() -> impl Strategy<Value = Vec<Call>> {
    let one = (0_u16..3, 0_usize..3, prop_oneof![Just(A), Just(AAAA), Just(TXT)], 0_u16..6, 0_usize..40, 0_u8..4);
    prop::collection::vec(one, 1..12).prop_map(|talks| {
        let mut calls: Vec<Call> = Vec::new();
        // Answers that are still to be given: those of one number and name are given in the order of their queries.
        let mut waiting: Vec<(u16, String, u16, Vec<u8>)> = Vec::new();
        for (id, text, kind, rcode, size, answered) in talks {
            let text = format!("name{text}.test");
            // A client does not use a number again before its answer.
            let same = |waiting: &(u16, String, u16, Vec<u8>)| (waiting.0, &waiting.1, waiting.2) == (id, &text, kind);
            if !waiting.iter().any(same) {
                calls.push((Flow::Request, query(id, &text, kind).framed()));
                let answer = reply(id, &text, kind, rcode).answer(TXT, 1, &vec![0; size]);
                waiting.push((id, text.clone(), kind, answer.framed()));
            }
            for _ in 0..answered {
                if !waiting.is_empty() {
                    let index = size % waiting.len();
                    calls.push((Flow::Response, waiting.remove(index).3));
                }
            }
        }
        calls.extend(waiting.into_iter().map(|(.., answer)| (Flow::Response, answer)));
        calls
    })
}

/// Sizes tell one answer of a question from the other.
fn says(exchange: &OwnedExchange) -> String {
    format!("{} {} {} {:?}", exchange.summary(), exchange.request_bytes, exchange.response_bytes, exchange.error)
}

/// Something was asked that was asked in truth, and its answer was not seen.
fn admits(exchange: &OwnedExchange, truth: &[OwnedExchange]) -> bool {
    exchange.status.is_empty()
        && exchange.error
        && truth.iter().any(|one| {
            (&one.operation, &one.resource, one.request_bytes) == (&exchange.operation, &exchange.resource, exchange.request_bytes)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cuts_change_nothing(calls in talk(), mishap in proof::Mishap::cuts()) {
        let whole = proof::Mishap::default().play(STREAM.parser, &calls).unwrap();
        let cut = mishap.play(STREAM.parser, &calls).unwrap();
        let said = |seen: &Collected| seen.exchanges.iter().map(says).collect::<Vec<_>>();
        prop_assert_eq!(said(&whole), said(&cut));
        prop_assert_eq!(cut.losses, []);
    }

    #[test]
    fn no_mishap_makes_a_wrong_exchange(calls in talk(), mishap in proof::Mishap::any()) {
        proof::assert_never_wrong(STREAM.parser, &calls, &mishap, says, admits);
    }

    #[test]
    fn no_bytes_make_it_panic(messages in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..80)), 0..20)) {
        let mut socket = Socket::new();
        for (request, bytes) in &messages {
            socket.pass(if *request { Flow::Request } else { Flow::Response }, bytes);
        }
        socket.close();
    }

    #[test]
    fn no_damage_makes_it_panic(position in any::<prop::sample::Index>(), byte in any::<u8>(), rcode in 0_u16..16) {
        let answer = reply(7, "www.a.test", A, rcode)
            .answer(CNAME, 5, b"\x01b\xc0\x10")
            .record(1, &[0xc0, 0x28], A, 5, &[1; 4])
            .answer(SRV, 1, &[&[0; 6][..], &POINTER].concat())
            .record(3, &[0], OPT, 0, &[]);
        let mut damaged = answer.bytes.clone();
        damaged[position.index(answer.bytes.len())] = byte;
        let mut socket = Socket::new();
        socket.ask(&query(7, "www.a.test", A)).pass(Flow::Response, &damaged).close();
        prop_assert_eq!(socket.seen.exchanges.len(), 1);
    }
}
