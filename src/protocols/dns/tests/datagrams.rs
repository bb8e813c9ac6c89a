//! One socket of datagrams.

use super::*;
use crate::{
    model::Flags,
    protocols::{Loss, dns::pending::PENDING_MAX},
};

fn addresses(seen: &Collected) -> Vec<String> {
    seen.resolved.iter().map(|(name, address, ttl_s)| format!("{name} {address} {ttl_s}")).collect()
}

#[test]
fn an_answer_finds_its_query() {
    let mut socket = Socket::new();
    socket.ask(&query(7, "Web.Shop.TEST", A));
    socket.at(3_000_000).tell(&reply(7, "web.shop.test", A, NOERROR).answer(A, 300, &[192, 0, 2, 10]).answer(A, 200, &[192, 0, 2, 11]));
    assert_eq!(socket.summaries(), ["A web.shop.test NOERROR"]);
    let exchange = &socket.seen.exchanges[0];
    assert_eq!((exchange.start_ns, exchange.first_byte_ns, exchange.end_ns), (1000, Some(3_000_000), 3_000_000));
    assert_eq!((exchange.request_bytes, exchange.response_bytes, exchange.error), (31, 63, false));
    assert_eq!(exchange.flags, Flags::default());
    assert_eq!(exchange.text("dns.question.name"), Some("web.shop.test"));
    assert_eq!(exchange.text("dns.question.type"), Some("A"));
    assert_eq!(exchange.text("dns.answers"), Some("192.0.2.10,192.0.2.11"));
    assert_eq!(exchange.int("dns.answers_count"), Some(2));
    assert_eq!(exchange.text("network.transport"), Some("udp"));
    assert_eq!(exchange.attributes.len(), 5, "{exchange:?}");
    assert_eq!(addresses(&socket.seen), ["web.shop.test 192.0.2.10 300", "web.shop.test 192.0.2.11 200"]);
}

#[test]
fn both_families_are_asked_for_at_once() {
    let mut socket = Socket::new();
    socket.ask(&query(7, "a.test", A)).ask(&query(8, "a.test", AAAA));
    socket.tell(&reply(8, "a.test", AAAA, NOERROR).answer(AAAA, 9, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]));
    socket.tell(&reply(7, "a.test", A, NXDOMAIN));
    assert_eq!(socket.summaries(), ["AAAA a.test NOERROR", "A a.test NXDOMAIN"]);
    assert_eq!(socket.seen.exchanges.iter().map(|exchange| exchange.error).collect::<Vec<_>>(), [false, true]);
    assert_eq!(addresses(&socket.seen), ["a.test 2001:db8::1 9"]);
}

#[test]
fn a_query_asked_again_keeps_its_first_start() {
    let mut socket = Socket::new();
    let asked = query(7, "a.test", A);
    socket.at(1_000_000).ask(&asked).at(SECOND_NS).ask(&asked).at(2 * SECOND_NS).ask(&asked);
    let answer = reply(7, "a.test", A, NOERROR);
    // All three are answered.
    socket.at(3 * SECOND_NS).tell(&answer).tell(&answer).tell(&answer).close();
    assert_eq!(socket.summaries(), ["A a.test NOERROR"]);
    let exchange = &socket.seen.exchanges[0];
    assert_eq!((exchange.start_ns, exchange.int("dns.request.resend_count")), (1_000_000, Some(2)));
    assert_eq!(exchange.request_bytes, 3 * asked.bytes.len() as u64);
    assert_eq!(socket.seen.losses, []);
}

#[test]
fn no_answer_within_five_seconds_is_an_error_and_a_late_one_is_left_out() {
    let mut socket = Socket::new();
    socket.at(SECOND_NS).ask(&query(7, "a.test", A)).tick(5 * SECOND_NS);
    assert_eq!(socket.seen.exchanges, []);
    socket.tick(7 * SECOND_NS);
    assert_eq!(socket.summaries(), ["A a.test "]);
    let exchange = &socket.seen.exchanges[0];
    assert_eq!((exchange.error, exchange.flags, exchange.end_ns), (true, Flags::UNANSWERED, 6 * SECOND_NS));
    assert_eq!(exchange.int("dns.answers_count"), None);
    socket.at(8 * SECOND_NS).tell(&reply(7, "a.test", A, NOERROR).answer(A, 1, &[1; 4])).close();
    assert_eq!((socket.seen.exchanges.len(), socket.seen.losses.len(), socket.seen.resolved.len()), (1, 0, 0));
}

#[test]
fn a_late_answer_is_late_whether_or_not_the_time_was_told() {
    let mut socket = Socket::new();
    socket.at(SECOND_NS).ask(&query(7, "a.test", A));
    socket.at(6 * SECOND_NS).tell(&reply(7, "a.test", A, NOERROR));
    assert_eq!(socket.summaries(), ["A a.test "]);
    assert_eq!(socket.seen.exchanges[0].end_ns, 6 * SECOND_NS);
}

#[test]
fn a_socket_that_closes_leaves_its_queries_unanswered() {
    let mut socket = Socket::new();
    socket.ask(&query(7, "a.test", A)).close();
    let exchange = &socket.seen.exchanges[0];
    assert_eq!((exchange.flags, exchange.error, exchange.end_ns), (Flags::UNANSWERED, true, 2000));
}

#[test]
fn numbers_are_used_again_and_by_other_clients() {
    let mut socket = Socket::new();
    for text in ["a.test", "b.test"] {
        socket.ask(&query(7, text, A)).tell(&reply(7, text, A, NOERROR));
    }
    socket.ask(&query(7, "a.test", A)).ask(&query(7, "b.test", A)).ask(&query(7, "a.test", AAAA));
    for (text, kind) in [("a.test", AAAA), ("b.test", A), ("a.test", A)] {
        socket.tell(&reply(7, text, kind, NOERROR));
    }
    let expected = ["A a.test", "A b.test", "AAAA a.test", "A b.test", "A a.test"].map(|text| text.to_owned() + " NOERROR");
    assert_eq!(socket.summaries(), expected);
}

#[test]
fn clients_that_ask_the_same_with_the_same_number_are_told_apart_by_their_ends() {
    let mut socket = Socket::new();
    socket.with(1).at(1000).ask(&query(7, "a.test", A)).with(2).at(2000).ask(&query(7, "a.test", A));
    socket.with(2).at(3000).tell(&reply(7, "a.test", A, NOERROR)).with(1).at(4000).tell(&reply(7, "a.test", A, NXDOMAIN));
    assert_eq!(socket.summaries(), ["A a.test NOERROR", "A a.test NXDOMAIN"]);
    assert_eq!(socket.seen.exchanges.iter().map(|exchange| exchange.start_ns).collect::<Vec<_>>(), [2000, 1000]);
}

#[test]
fn an_answer_to_another_question_is_none() {
    let mut socket = Socket::new();
    socket.ask(&query(7, "a.test", A)).tell(&reply(7, "b.test", A, NOERROR)).tell(&reply(7, "a.test", TXT, NOERROR));
    socket.tell(&reply(8, "a.test", A, NOERROR)).close();
    assert_eq!(socket.summaries(), ["A a.test "]);
}

#[test]
fn an_answer_without_its_question_is_taken_where_the_number_is_clear() {
    let mut socket = Socket::new();
    socket.ask(&query(7, "a.test", A)).tell(&Message::new(7, 0x8181));
    assert_eq!(socket.summaries(), ["A a.test FORMERR"]);
    socket.ask(&query(7, "a.test", A)).ask(&query(7, "b.test", A)).tell(&Message::new(7, 0x8181)).close();
    assert_eq!(socket.summaries()[1..], ["A a.test ", "A b.test "]);
}

#[test]
fn an_answer_reported_before_its_query_is_kept_for_a_moment() {
    let mut socket = Socket::new();
    socket.at(1000).tell(&reply(7, "a.test", A, NOERROR)).at(5000).ask(&query(7, "a.test", A)).close();
    assert_eq!(socket.summaries(), ["A a.test NOERROR"]);
    assert_eq!((socket.seen.exchanges[0].start_ns, socket.seen.exchanges[0].end_ns), (1000, 1000));
    let mut socket = Socket::new();
    socket.at(1000).tell(&reply(7, "a.test", A, NOERROR)).at(SECOND_NS).ask(&query(7, "a.test", A)).close();
    assert_eq!(socket.summaries(), ["A a.test "]);
}

#[test]
fn codes_have_their_names_and_upper_bits() {
    let mut socket = Socket::new();
    for (rcode, extended) in [(2, 0), (5, 0), (0, 1), (7, 1), (12, 0)] {
        let answer = Message::new(7, 0x8180 | rcode).question("a.test", A).record(3, &[0], OPT, extended << 24, &[]);
        socket.ask(&query(7, "a.test", A)).tell(&answer);
    }
    let expected = ["SERVFAIL", "REFUSED", "BADVERS", "BADCOOKIE", "RCODE12"].map(|code| format!("A a.test {code}"));
    assert_eq!(socket.summaries(), expected);
    assert!(socket.seen.exchanges.iter().all(|exchange| exchange.error));
}

#[test]
fn other_operations_have_their_names() {
    let mut socket = Socket::new();
    socket.ask(&Message::new(1, 0x2400).question("zone.test", 6)).tell(&Message::new(1, 0xa400).question("zone.test", 6));
    let update = Message::new(2, 0x2800).question("zone.test", 6).record(2, &name("secret.zone.test"), TXT, 60, b"\x07hunter2");
    socket.ask(&update).tell(&Message::new(2, 0xa809));
    assert_eq!(socket.summaries(), ["NOTIFY zone.test NOERROR", "UPDATE zone.test NOTAUTH"]);
    assert_eq!(socket.seen.exchanges[1].text("dns.op_code"), Some("UPDATE"));
    assert_eq!(socket.seen.exchanges[1].text("dns.question.type"), Some("SOA"));
}

#[test]
fn every_type_and_class_has_a_name() {
    let mut socket = Socket::new();
    let mut chaos = query(7, "version.bind", TXT);
    let class = chaos.bytes.len() - 1;
    chaos.bytes[class] = 3;
    let mut answer = chaos.clone();
    answer.bytes[2] = 0x84;
    socket.ask(&chaos).tell(&answer);
    socket.ask(&query(8, "a.test", 65_280)).tell(&reply(8, "a.test", 65_280, NOERROR));
    assert_eq!(socket.summaries(), ["TXT version.bind NOERROR", "TYPE65280 a.test NOERROR"]);
    assert_eq!(socket.seen.exchanges[0].text("dns.question.class"), Some("CH"));
}

#[test]
fn several_questions_are_counted_and_the_first_is_shown() {
    let mut socket = Socket::new();
    socket.ask(&query(7, "a.test", A).question("b.test", A));
    socket.tell(&reply(7, "a.test", A, NOERROR).question("b.test", A).answer(A, 5, &[192, 0, 2, 1]));
    assert_eq!(socket.summaries(), ["A a.test NOERROR"]);
    assert_eq!(socket.seen.exchanges[0].int("dns.question.count"), Some(2));
    assert_eq!(socket.seen.exchanges[0].text("dns.answers"), Some("192.0.2.1"));
}

#[test]
fn addresses_belong_to_the_name_asked_for_behind_its_aliases() {
    let mut socket = Socket::new();
    let alias = |owner: &str, target: &str, message: Message| message.record(1, &name(owner), CNAME, 30, &name(target));
    let mut answer = reply(7, "www.test", A, NOERROR);
    // The chain is told backwards, and addresses of others are among it.
    answer = answer.record(1, &name("other.test"), A, 300, &[192, 0, 2, 66]);
    answer = alias("MIDDLE.test", "web.test", answer);
    answer = alias("www.test", "middle.test", answer);
    answer = answer.record(1, &name("web.test"), A, 300, &[192, 0, 2, 10]);
    socket.ask(&query(7, "www.test", A)).tell(&answer);
    assert_eq!(addresses(&socket.seen), ["www.test 192.0.2.10 30"]);
    assert_eq!(socket.seen.exchanges[0].text("dns.answers"), Some("192.0.2.66,web.test,middle.test,192.0.2.10"));
}

#[test]
fn aliases_in_a_circle_and_pointers_to_themselves_end() {
    let mut socket = Socket::new();
    let circle = reply(7, "a.test", A, NOERROR).answer(CNAME, 1, &name("b.test")).record(1, &name("b.test"), CNAME, 1, &POINTER);
    socket.ask(&query(7, "a.test", A)).tell(&circle);
    assert_eq!(socket.summaries(), ["A a.test NOERROR"]);
    // A name that points to itself, and two that point to each other.
    let mut looped = Message::new(8, 0x0100);
    looped.bytes[5] = 1;
    looped.bytes.extend([0xc0, 12, 0, 1, 0, 1]);
    socket.ask(&looped);
    let pointer = (circle.bytes.len() - 2) as u8;
    let deep = reply(9, "a.test", A, NOERROR).record(1, &[0xc0, pointer], A, 1, &[1; 4]);
    socket.ask(&query(9, "a.test", A)).tell(&deep);
    assert_eq!(socket.seen.losses, [Loss::ParseGap], "a question that cannot be read");
    assert_eq!(socket.seen.resolved, []);
}

#[test]
fn texts_keys_client_subnets_and_cookies_stay_on_the_wire() {
    let mut socket = Socket::new();
    // RFC 7871 and RFC 7873.
    let options = b"\0\x08\0\x0b\0\x01\x20\0hunter2\0\x0a\0\x08hunter2!";
    let asked = query(7, "a.test", TXT).record(3, &[0], OPT, 0, options);
    let answer = reply(7, "a.test", TXT, NOERROR)
        .answer(TXT, 1, b"\x07hunter2")
        .answer(48, 1, b"\x01\x01\x03\x08hunter2")
        .answer(SRV, 1, &[&[0, 1, 0, 2, 31, 144][..], &name("web.test")].concat())
        .record(2, &name("ns.test"), TXT, 1, b"\x07hunter2")
        .record(3, &[0], OPT, 0, options);
    socket.ask(&asked).tell(&answer);
    socket.ask(&asked).close();
    assert_eq!(socket.seen.exchanges.len(), 2);
    assert_eq!(socket.seen.exchanges[0].text("dns.answers"), Some("web.test:8080"));
    assert!(!format!("{:?}", socket.seen).contains("hunter2"));
}

#[test]
fn odd_names_are_written_safely() {
    let mut socket = Socket::new();
    let mut asked = Message::new(7, 0x0100);
    asked.bytes[5] = 1;
    asked.bytes.extend(b"\x07a.b\\\"\x00\xff\x0exn--bcher-kva8\x04test\0\0\x01\0\x01");
    let asked = asked;
    let mut answer = asked.clone();
    answer.bytes[2] = 0x81;
    socket.ask(&asked).tell(&answer);
    let mut root = query(8, ".", 2);
    socket.ask(&root);
    root.bytes[2] = 0x81;
    socket.tell(&root);
    assert_eq!(socket.seen.exchanges[0].resource, "a\\.b\\\\\"\\000\\255.xn--bcher-kva8.test");
    assert_eq!(socket.summaries()[1], "NS . NOERROR");
}

#[test]
fn a_name_of_255_bytes_is_read_and_a_longer_one_is_not() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
    let mut socket = Socket::new();
    socket.ask(&query(7, &longest, A)).tell(&reply(7, &longest, A, NOERROR));
    assert_eq!(socket.seen.exchanges[0].resource, longest);
    socket.ask(&query(7, &format!("{longest}b"), A)).close();
    assert_eq!((socket.seen.exchanges.len(), socket.seen.losses.len()), (1, 1));
}

#[test]
fn cut_datagrams_are_used_as_far_as_they_go() {
    let asked = query(7, "a.test", A);
    let answer = reply(7, "a.test", A, NOERROR).answer(A, 1, &[192, 0, 2, 1]).answer(A, 1, &[192, 0, 2, 2]).record(3, &[0], OPT, 0, &[]);
    for length in 0..answer.bytes.len() {
        let mut socket = Socket::new();
        socket.ask(&asked).pass(Flow::Response, &answer.bytes[..length]).close();
        let exchange = &socket.seen.exchanges[0];
        if length < asked.bytes.len() {
            assert_eq!((exchange.flags, socket.seen.losses.len()), (Flags::UNANSWERED, 1), "{length}");
        } else {
            assert_eq!((exchange.flags, exchange.status.as_str()), (Flags::TRUNCATED, "NOERROR"), "{length}");
        }
    }
    for length in 0..asked.bytes.len() {
        let mut socket = Socket::new();
        socket.pass(Flow::Request, &asked.bytes[..length]).tell(&answer).close();
        assert_eq!((socket.seen.exchanges.len(), socket.seen.losses.len()), (0, 1), "{length}");
    }
}

#[test]
fn an_answer_that_did_not_fit_says_so() {
    let mut socket = Socket::new();
    let mut answer = reply(7, "a.test", TXT, NOERROR);
    answer.bytes[2] |= 2;
    socket.ask(&query(7, "a.test", TXT)).tell(&answer);
    assert_eq!(socket.seen.exchanges[0].attribute("dns.response.truncated"), Some(&crate::protocols::testing::OwnedValue::Bool(true)));
}

#[test]
fn what_waits_is_bounded() {
    let mut socket = Socket::new();
    let count = PENDING_MAX as u16 + 10;
    for id in 0..count {
        socket.ask(&query(id, "a.test", A));
    }
    assert_eq!(socket.seen.losses, [Loss::PendingFull; 10]);
    for id in 0..count {
        socket.tell(&reply(id, "a.test", A, NOERROR));
    }
    assert_eq!(socket.seen.exchanges.len(), PENDING_MAX);
    assert_eq!(socket.seen.exchanges[0].start_ns, 11_000, "the oldest gave way");
    // All places are free again.
    for id in 0..count {
        socket.ask(&query(id, "b.test", A)).tell(&reply(id, "b.test", A, NOERROR));
    }
    assert_eq!(socket.seen.exchanges.len(), PENDING_MAX + usize::from(count));
}

#[test]
fn garbage_is_counted_and_in_the_end_refused() {
    let mut socket = Socket::new();
    socket.ask(&query(7, "a.test", A));
    for _ in 0..8 {
        socket.pass(Flow::Request, b"not a message at all");
        assert!(!socket.refused);
    }
    socket.pass(Flow::Request, b"not a message at all");
    assert!(socket.refused);
}

#[test]
fn a_query_that_was_perhaps_answered_unseen_is_neither_silence_nor_a_longer_one() {
    let mut socket = Socket::new();
    let asked = query(7, "a.test", A);
    socket.ask(&asked).ask(&query(8, "b.test", A));
    socket.parser.gap(Flow::Response, 1, 2000, &mut socket.seen);
    socket.at(SECOND_NS).ask(&asked).tell(&reply(7, "a.test", A, NOERROR)).close();
    assert_eq!(socket.summaries(), ["A a.test NOERROR"]);
    assert_eq!((socket.seen.exchanges[0].start_ns, socket.seen.exchanges[0].int("dns.request.resend_count")), (SECOND_NS, None));
    assert_eq!(socket.seen.losses, [Loss::ParseGap; 3], "the gap, and two queries");
}
