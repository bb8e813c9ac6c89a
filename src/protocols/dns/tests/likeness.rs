//! What is taken for DNS, and what is not.

use proptest::prelude::*;

use super::*;
use crate::protocols::{Likeness, Likeness::*};

fn datagram(flow: Flow, bytes: &[u8]) -> Likeness {
    (DATAGRAMS.likeness)(flow, bytes)
}

fn stream(flow: Flow, bytes: &[u8]) -> Likeness {
    (STREAM.likeness)(flow, bytes)
}

#[test]
fn a_plain_query_in_a_datagram_is_unmistakable() {
    assert_eq!(datagram(Flow::Request, &query(7, "a.test", A).bytes), Certain);
    let iterative = Message::new(7, 0).question("a.test", A);
    assert_eq!(datagram(Flow::Request, &iterative.bytes), Likely);
    assert_eq!(datagram(Flow::Request, &iterative.record(3, &[0], OPT, 0, &[]).bytes), Certain);
    assert_eq!(datagram(Flow::Request, &query(7, "a.test", 4711).bytes), Likely);
    assert_eq!(datagram(Flow::Response, &query(7, "a.test", A).bytes), No);
    assert_eq!(datagram(Flow::Response, &reply(7, "a.test", A, NXDOMAIN).bytes), Likely);
}

#[test]
fn a_query_in_a_stream_needs_its_answer() {
    let framed = query(7, "a.test", A).framed();
    assert_eq!(stream(Flow::Request, &framed), Likely);
    for length in 0..framed.len() {
        assert_eq!(stream(Flow::Request, &framed[..length]), Undecided, "{length}");
    }
    let answer = reply(7, "a.test", A, NOERROR).answer(A, 1, &[1; 4]).framed();
    assert_eq!(stream(Flow::Response, &answer), Likely);
    assert_eq!(stream(Flow::Request, &answer), No);
    assert_eq!(stream(Flow::Request, &[framed.clone(), framed].concat()), Likely, "one of two");
}

#[test]
fn a_byte_more_or_less_is_no_message() {
    let bytes = query(7, "a.test", A).bytes;
    for length in 0..bytes.len() {
        assert_eq!(datagram(Flow::Request, &bytes[..length]), No, "{length}");
    }
    assert_eq!(datagram(Flow::Request, &[&bytes[..], &[0]].concat()), No);
    let mut framed = query(7, "a.test", A).framed();
    framed[1] += 1;
    framed.push(0);
    assert_eq!(stream(Flow::Request, &framed), No);
}

#[test]
fn multicast_names_and_netbios_are_not_taken_for_it_unanswered() {
    // RFC 6762: the number 0 and no wish for recursion; unicast wished for in the class; answers without a question.
    assert_eq!(datagram(Flow::Request, &Message::new(0, 0).question("printer.local", A).bytes), Likely);
    let mut unicast = Message::new(0, 0).question("printer.local", A);
    let class = unicast.bytes.len() - 2;
    unicast.bytes[class] = 0x80;
    assert_eq!(datagram(Flow::Request, &unicast.bytes), No);
    let announced = Message::new(0, 0x8400).record(1, &name("printer.local"), A, 120, &[192, 0, 2, 9]);
    assert_eq!(datagram(Flow::Response, &announced.bytes), No);
    // LLMNR: as DNS writes it, without the wish for recursion.
    assert_eq!(datagram(Flow::Request, &Message::new(7, 0).question("host", A).bytes), Likely);
    // NetBIOS: a query for a name, and for a node's status.
    for kind in [32, 33] {
        let asked = Message::new(7, 0x0110).question("CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", kind);
        assert_eq!(datagram(Flow::Request, &asked.bytes), No);
    }
}

#[test]
fn other_protocols_are_not_taken_for_it() {
    let others: [&[u8]; 10] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03abcdefghijklmnopqrstuvwxyz",
        b"\0\0\0\x08\x04\xd2\x16/",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"*1\r\n$4\r\nPING\r\n",
        b"AMQP\0\0\x09\x01",
        &[0; 64],
        &[0xff; 64],
        b"Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod",
    ];
    for bytes in others {
        for flow in [Flow::Request, Flow::Response] {
            assert_eq!(datagram(flow, bytes), No, "{}", String::from_utf8_lossy(bytes));
            assert!(stream(flow, bytes) < Likely, "{}", String::from_utf8_lossy(bytes));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_not_taken_for_it(bytes in prop::collection::vec(any::<u8>(), 0..600), flow in any::<bool>()) {
        let flow = if flow { Flow::Request } else { Flow::Response };
        prop_assert_eq!(datagram(flow, &bytes), No);
        prop_assert!(stream(flow, &bytes) < Likely);
    }
}
