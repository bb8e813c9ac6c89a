//! Streams.

use super::*;
use crate::{
    model::Flags,
    protocols::{Loss, testing::Conversation},
};

fn opened() -> Conversation {
    Conversation::opened(STREAM.parser)
}

#[test]
fn pipelined_queries_are_answered_in_any_order() {
    let mut talk = opened();
    let asked: Vec<u8> = (1..=4).flat_map(|id| query(id, &format!("name{id}.test"), A).framed()).collect();
    talk.request(asked);
    for id in [3, 1, 4, 2] {
        talk.response(reply(id, &format!("name{id}.test"), A, NOERROR).answer(A, 1, &[192, 0, 2, 1]).framed());
    }
    assert_eq!(talk.summaries(), [3, 1, 4, 2].map(|id| format!("A name{id}.test NOERROR")));
    let exchange = &talk.seen.exchanges[0];
    assert_eq!((exchange.request_bytes, exchange.response_bytes), (30, 46), "with the two bytes of the length");
    assert_eq!(exchange.text("network.transport"), Some("tcp"));
    assert_eq!(talk.seen.resolved.len(), 4);
}

#[test]
fn a_message_may_come_byte_by_byte() {
    let mut talk = opened();
    for byte in query(1, "a.test", A).framed() {
        talk.request([byte]);
    }
    for byte in reply(1, "a.test", A, NXDOMAIN).framed() {
        talk.response([byte]);
    }
    assert_eq!(talk.summaries(), ["A a.test NXDOMAIN"]);
    let exchange = &talk.seen.exchanges[0];
    assert_eq!((exchange.start_ns, exchange.first_byte_ns, exchange.end_ns), (1000, Some(27_000), 52_000));
}

#[test]
fn a_gap_leaves_what_is_certain() {
    let mut talk = opened();
    talk.request(query(1, "a.test", A).framed()).request(query(2, "b.test", A).framed());
    let first = reply(1, "a.test", A, NOERROR).framed();
    talk.lost_call(Flow::Response, first.len() as u64).response(reply(2, "b.test", A, NOERROR).framed()).close();
    assert_eq!(talk.summaries(), ["A b.test NOERROR"]);
    assert_eq!(talk.seen.losses, [Loss::ParseGap; 2], "the gap, and the query that was perhaps answered in it");
}

#[test]
fn an_answer_to_a_missed_query_is_left_out() {
    let mut talk = opened();
    let asked = query(1, "a.test", A).framed();
    let answer = reply(1, "a.test", A, NOERROR).framed();
    talk.lost_call(Flow::Request, asked.len() as u64).response(&answer);
    // The number and the name are used again: the answer of before is not taken for its.
    talk.request(&asked).response(&answer).close();
    assert_eq!(talk.summaries(), ["A a.test NOERROR"]);
    assert_eq!(talk.seen.exchanges[0].start_ns, 3000);
}

#[test]
fn joins_in_the_middle_at_a_calls_begin() {
    let mut talk = Conversation::adopted(STREAM.parser, 0);
    let asked = query(1, "a.test", A).framed();
    talk.response(reply(9, "old.test", A, NOERROR).framed()).request(&asked[10..]).request(&asked);
    talk.response(reply(1, "a.test", A, NOERROR).framed());
    assert_eq!(talk.summaries(), ["A a.test NOERROR"]);
    assert_eq!(talk.seen.exchanges[0].flags, Flags::ADOPTED);
}

#[test]
fn a_long_answer_is_looked_at_in_part() {
    let mut talk = opened();
    let mut answer = reply(1, "a.test", TXT, NOERROR).answer(A, 1, &[192, 0, 2, 1]);
    for _ in 0..100 {
        answer = answer.answer(TXT, 1, &[b'x'; 600]);
    }
    let framed = answer.framed();
    talk.request(query(1, "a.test", TXT).framed()).cut_call(Flow::Response, &framed[..32_768], framed.len() as u64);
    talk.request(query(2, "b.test", A).framed()).response(reply(2, "b.test", A, NOERROR).framed()).close();
    assert_eq!(talk.summaries(), ["TXT a.test NOERROR", "A b.test NOERROR"]);
    let exchange = &talk.seen.exchanges[0];
    assert_eq!((exchange.response_bytes, exchange.flags), (framed.len() as u64, Flags::TRUNCATED));
    assert_eq!(exchange.text("dns.answers"), Some("192.0.2.1"));
    assert_eq!(talk.seen.losses, []);
}

/// RFC 1035 section 3.3.13.
fn soa(serial: u32) -> Vec<u8> {
    [&[0, 0][..], &serial.to_be_bytes(), &[0; 16]].concat()
}

#[test]
fn a_zone_transfer_is_one_exchange_of_many_messages() {
    const SOA: u16 = 6;
    let mut talk = opened();
    talk.request(query(1, "zone.test", 252).framed());
    talk.response(reply(1, "zone.test", 252, NOERROR).answer(SOA, 1, &soa(7)).answer(A, 1, &[1; 4]).framed());
    talk.response(reply(1, "zone.test", 252, NOERROR).answer(A, 1, &[2; 4]).framed());
    assert_eq!(talk.seen.exchanges, []);
    talk.response(reply(1, "zone.test", 252, NOERROR).answer(A, 1, &[3; 4]).answer(SOA, 1, &soa(7)).framed());
    assert_eq!(talk.summaries(), ["AXFR zone.test NOERROR"]);
    let exchange = &talk.seen.exchanges[0];
    assert_eq!((exchange.first_byte_ns, exchange.end_ns, exchange.int("dns.answers_count")), (Some(2000), 4000, Some(5)));
    assert_eq!(exchange.text("dns.answers"), None);
    // Differences, the newest version, a refusal.
    talk.request(query(2, "zone.test", 251).framed());
    let differences = reply(2, "zone.test", 251, NOERROR).answer(SOA, 1, &soa(7)).answer(SOA, 1, &soa(6)).answer(A, 1, &[1; 4]);
    talk.response(differences.answer(SOA, 1, &soa(7)).answer(A, 1, &[2; 4]).answer(SOA, 1, &soa(7)).framed());
    talk.request(query(3, "zone.test", 251).framed()).response(reply(3, "zone.test", 251, NOERROR).answer(SOA, 1, &soa(7)).framed());
    talk.request(query(4, "zone.test", 252).framed()).response(reply(4, "zone.test", 252, 9).framed());
    // One that breaks off.
    talk.request(query(5, "zone.test", 252).framed()).response(reply(5, "zone.test", 252, NOERROR).answer(SOA, 1, &soa(7)).framed());
    talk.close();
    let expected = ["AXFR zone.test NOERROR", "IXFR zone.test NOERROR", "IXFR zone.test NOERROR", "AXFR zone.test NOTAUTH"];
    assert_eq!(talk.summaries()[..4], expected);
    assert_eq!(talk.seen.exchanges[4].flags, Flags::TRUNCATED);
}

#[test]
fn stateful_operations_are_left_out() {
    let mut talk = opened();
    let keepalive = |id, bits| {
        let mut message = Message::new(id, bits);
        message.bytes.extend(b"\0\x01\0\x08\0\0\x3a\x98\0\0\x3a\x98");
        message.framed()
    };
    talk.request(keepalive(1, 0x3000)).response(keepalive(1, 0xb000)).response(keepalive(0, 0x3000 | 0x8000));
    talk.request(query(2, "a.test", A).framed()).response(reply(2, "a.test", A, NOERROR).framed()).close();
    assert_eq!(talk.summaries(), ["A a.test NOERROR"]);
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn an_unanswered_query_ends_with_the_connection() {
    let mut talk = opened();
    talk.request(query(1, "a.test", A).framed()).close();
    assert_eq!(talk.seen.exchanges[0].flags, Flags::UNANSWERED);
    assert!(talk.seen.exchanges[0].error);
}
