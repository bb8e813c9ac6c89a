//! What is taken for MySQL, and above all what is not.

use proptest::prelude::*;

use super::*;
use crate::{model::Flow, protocols::Likeness};

fn likeness(flow: Flow, bytes: &[u8]) -> Likeness {
    (DEFINITION.likeness)(flow, bytes)
}

#[test]
fn a_greeting_is_unmistakable_and_its_begin_is_not() {
    let greetings = [
        greeting("8.0.36", PLAIN),
        greeting("5.5.5-10.11.6-MariaDB-1:10.11.6+maria~deb12", PLAIN),
        packet(0, b"\xff\x6a\x04Host '10.0.0.1' is not allowed to connect to this MySQL server"),
    ];
    for greeting in &greetings {
        assert_eq!(likeness(Flow::Response, greeting), Likeness::Certain);
        for cut in 1..greeting.len() {
            assert_eq!(likeness(Flow::Response, &greeting[..cut]), Likeness::Undecided, "{cut}");
        }
        assert_eq!(likeness(Flow::Response, &[greeting.as_slice(), b"x"].concat()), Likeness::No);
    }
    assert_eq!(likeness(Flow::Request, &login(PLAIN)), Likeness::Likely);
}

#[test]
fn commands_and_answers_of_a_running_conversation_are_likely() {
    for bytes in [
        query("select 1"),
        query("  /* note */ (SELECT 1)"),
        query("/*!40101 SET NAMES utf8 */"),
        command(3, b"\0\x01COMMIT"),
        prepare("UPDATE t SET a = ?"),
        execute(3),
        [execute(3), query("COMMIT")].concat(),
        command(0x19, [1, 0, 0, 0]),
        command(0x0e, ""),
        query(&format!("INSERT INTO t VALUES ({})", "1, ".repeat(20_000)))[..1000].to_vec(),
    ] {
        assert_eq!(likeness(Flow::Request, &bytes), Likeness::Likely, "{}", bytes.escape_ascii());
    }
    for bytes in [
        ok(1, 0, AUTOCOMMIT),
        packet(1, b"\0\x02\0\x01\0\0\0\x26Records: 2  Duplicates: 0  Warnings: 0"),
        error(1, 1064, "42000"),
        rows(3, true),
        rows(3, false),
        prepared(1, 2, 3, true),
        prepared(1, 0, 0, false),
        eof(1, AUTOCOMMIT),
    ] {
        assert_eq!(likeness(Flow::Response, &bytes), Likeness::Likely, "{}", bytes.escape_ascii());
        // One half of a conversation is not the other.
        assert_eq!(likeness(Flow::Request, &bytes), Likeness::No, "{}", bytes.escape_ascii());
    }
}

#[test]
fn others_are_not_taken_for_it() {
    let others: [&[u8]; 20] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64",
        b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x04\0\0\xff\xff\0\x01\0\0\x10\0",
        b"\0\0\x05\0\x01\0\0\0\x01hello",
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"+OK\r\n",
        b"AMQP\0\0\x09\x01",
        b"\x01\0\0\0\0\0\x05\0\x0a\0\x0a\0\xce",
        b"\0\0\0\x08\x04\xd2\x16/",
        b"Q\0\0\0\x0dSELECT 1\0",
        b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03abcdefghijklmnopqrstuvwxyz",
        b"\x17\x03\x03\0\x17abcdefghijklmnopqrstuvw",
        b"\0\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01",
        b"\x3a\0\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0\0\0\0\0admin.$cmd\0",
        b"\0\0\0\x1a\0\x12\0\x03\0\0\0\x07\0\x08producer\0\0\0",
        b"220 mail.test ESMTP Postfix\r\n",
        &[0; 64],
    ];
    for bytes in others {
        for flow in [Flow::Request, Flow::Response] {
            assert!(likeness(flow, bytes) <= Likeness::Undecided, "{flow:?} {}", bytes.escape_ascii());
        }
        assert!(
            likeness(Flow::Request, bytes) == Likeness::No || likeness(Flow::Response, bytes) == Likeness::No,
            "{} could be either",
            bytes.escape_ascii()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_bytes_are_not_taken_for_it(bytes in prop::collection::vec(any::<u8>(), 5..200)) {
        for flow in [Flow::Request, Flow::Response] {
            prop_assert!(likeness(flow, &bytes) <= Likeness::Undecided, "{:?}", flow);
        }
    }

    #[test]
    fn text_is_not_taken_for_it(text in "[ -~\r\n]{5,200}") {
        for flow in [Flow::Request, Flow::Response] {
            prop_assert_eq!(likeness(flow, text.as_bytes()), Likeness::No);
        }
    }
}
