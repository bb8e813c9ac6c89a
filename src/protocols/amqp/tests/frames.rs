//! Telling AMQP from everything else, and finding frames again.

use super::speech::{HEARTBEAT, OPENING, content, deliver, method, publish, settle, start};
use crate::{
    model::Flow::{Request, Response},
    protocols::{
        Likeness,
        amqp::frames::{self, Chain, Resumed, chain, likeness},
    },
};

#[test]
fn the_opening_is_unmistakable_and_others_are_refused() {
    assert_eq!(likeness(Request, OPENING), Likeness::Certain);
    assert_eq!(likeness(Request, b"AMQP\0\0"), Likeness::Undecided);
    assert_eq!(likeness(Response, OPENING), Likeness::No, "only clients open");
    for other in [
        &b"AMQP\0\x01\0\0"[..],
        b"AMQP\x03\x01\0\0",
        b"AMQX",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\0\x2e\x01\0\0\x2a\x03\x03abcdefghijklmnop",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        &[0; 64],
        b"\x01\0\0\0\x01\x01\0\0\0\x01\0\0\0\x01\0\0",
        b"\x03\0\0\0\x03SELECT 1 and more text",
    ] {
        assert_eq!(likeness(Request, other), Likeness::No, "{other:?}");
        assert_eq!(likeness(Response, other), Likeness::No, "{other:?}");
    }
}

#[test]
fn frames_in_mid_stream_are_likely_and_a_message_with_its_header_is_certain() {
    assert_eq!(likeness(Response, &start()[1].1), Likeness::Likely);
    assert_eq!(likeness(Response, &settle(1, "ack", 7, false)), Likeness::Likely);
    assert_eq!(likeness(Request, HEARTBEAT), Likeness::Likely);
    let message = publish(1, "logs", "a.b", b"hello");
    assert_eq!(likeness(Request, &message), Likeness::Certain);
    assert_eq!(likeness(Response, &message), Likeness::No, "servers do not publish");
    assert_eq!(likeness(Response, &deliver(3, "c", 1, "", "q", b"hello")), Likeness::Certain);
    assert_eq!(likeness(Request, &content(1, b"hello", 9)), Likeness::No, "no place to begin");
    for length in 1..30 {
        let likeness = likeness(Request, &message[..length]);
        assert_eq!(likeness, if length < 24 { Likeness::Undecided } else { Likeness::Likely }, "{length} bytes");
    }
}

#[test]
fn a_frame_of_which_anything_is_wrong_begins_no_chain() {
    let ack = settle(1, "ack", 7, false);
    let mut changed = Vec::new();
    for (place, value) in [(0, 4), (1, 0x20), (3, 1), (6, 12), (8, 61), (10, 81), (20, 0)] {
        let mut bytes = ack.clone();
        bytes[place] = value;
        changed.push(bytes);
    }
    changed.push([ack.clone(), vec![9; 12]].concat());
    changed.push(method(0, 60, 80, &[0; 9]));
    changed.push(method(1, 10, 40, b"\x01/\0\0"));
    changed.push(method(1, 60, 80, &[0; 10]));
    for bytes in changed {
        assert_eq!(chain(Request, &bytes), Chain::No, "{bytes:?}");
    }
    assert_eq!(chain(Request, &[ack.clone(), ack].concat()), Chain::Yes { content: false });
}

#[test]
fn frames_are_found_again_behind_the_end_of_another_one() {
    let (tail, ack) = (b"the rest of a body \xce and its end \xce", settle(1, "ack", 7, false));
    let bytes = [&tail[..], &ack].concat();
    assert_eq!(frames::resume(Request, &bytes, true), Resumed::At(tail.len()));
    assert_eq!(frames::resume(Request, &bytes[..tail.len() + 9], false), Resumed::Perhaps(tail.len()));
    assert_eq!(frames::resume(Request, &ack, false), Resumed::Perhaps(ack.len()), "a call need not begin here, but the next one may");
    assert_eq!(frames::resume(Request, b"nothing of the kind", true), Resumed::Nowhere);
}
