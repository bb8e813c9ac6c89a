//! Frames of a running host: several interfaces, several processors, counters of connections that live long.

use super::{ACK, FIN, MILLISECOND, RST, SYN, Wire, head, line};
use crate::packet::{FrameHead, Limits, LinkType, Loss, Reassembler};

/// Of a running host: an acknowledged hole is waited for.
fn live() -> Wire {
    Wire::with(Limits { acked_hole_wait_ns: 50 * MILLISECOND, ..Limits::default() })
}

/// The frame at an interface, in the same millisecond as the last.
fn seen_at(wire: &mut Wire, interface: u32, frame: &[u8]) {
    let lines = &mut wire.lines;
    let head = FrameHead { interface, ..head(LinkType::Ethernet, wire.time_ns, frame.len()) };
    wire.reassembler.frame(head, frame, &mut |event| lines.push(line(&event)));
}

#[test]
fn what_passes_two_interfaces_was_sent_once() {
    let mut wire = live();
    for (from_client, flags, sequence, acknowledgment, payload) in [
        (true, SYN, 100, 0, &b""[..]),
        (false, SYN | ACK, 500, 101, b""),
        (true, ACK, 101, 501, b""),
        (true, ACK, 101, 501, b"ask"),
        (false, ACK, 501, 104, b"answer"),
        (true, FIN | ACK, 104, 507, b""),
        (false, FIN | ACK, 507, 105, b""),
        (true, ACK, 105, 508, b""),
    ] {
        wire.time_ns += MILLISECOND;
        let frame = wire.build(from_client, flags, sequence, acknowledgment, payload);
        [3, 4].into_iter().for_each(|interface| seen_at(&mut wire, interface, &frame));
    }
    let lines = wire.take();
    assert_eq!(lines[1..3], ["1 sent 0+3 ask", "1 received 0+6 answer"]);
    assert_eq!(lines[3..], ["1 close Local sent=3/1 received=6/1 retransmits=0 error=0"]);
    assert_eq!(wire.losses(), "packet_duplicate_frame=2");
}

#[test]
fn what_is_sent_again_at_the_same_interface_counts_at_each_part_of_a_connection() {
    let mut wire = live();
    wire.client(SYN, 100, 0, b"");
    wire.client(SYN, 100, 0, b"");
    wire.server(SYN | ACK, 500, 101, b"");
    wire.server(SYN | ACK, 500, 101, b"");
    wire.client(ACK, 101, 501, b"ask");
    wire.client(ACK, 101, 501, b"ask");
    wire.client(FIN | ACK, 104, 501, b"");
    wire.client(FIN | ACK, 104, 501, b"");
    wire.server(RST | ACK, 501, 105, b"");
    assert_eq!(wire.take()[2..], ["1 close Reset sent=3/1 received=0/0 retransmits=4 error=104"]);
}

#[test]
fn a_syn_that_was_overtaken_by_its_answer_is_none_sent_again() {
    let mut wire = live();
    wire.server(SYN | ACK, 500, 101, b"");
    wire.client(SYN, 100, 0, b"");
    wire.client(ACK, 101, 501, b"x");
    wire.client(RST | ACK, 102, 501, b"");
    let lines = wire.take();
    assert_eq!(lines.last().unwrap(), "1 close Abort sent=1/1 received=0/0 retransmits=0 error=0");
}

#[test]
fn bytes_that_their_acknowledgment_overtook_are_waited_for() {
    let mut wire = live();
    wire.handshake();
    wire.client(ACK, 104, 501, b"def");
    wire.server(ACK, 501, 107, b"");
    assert!(wire.take().is_empty(), "the first three bytes may be on their way through another processor");
    wire.client(ACK, 101, 501, b"abc");
    assert_eq!(wire.take(), ["1 sent 0+3 abc", "1 sent 3+3 def"]);
    // And an end before its bytes.
    wire.client(FIN | ACK, 110, 501, b"");
    wire.server(FIN | ACK, 501, 111, b"");
    wire.client(ACK, 111, 502, b"");
    wire.client(ACK, 107, 501, b"ghi");
    wire.client(ACK, 111, 502, b"");
    assert_eq!(wire.take(), ["1 sent 6+3 ghi", "1 close Local sent=9/3 received=0/0 retransmits=0 error=0"]);
    assert_eq!(wire.losses(), "");
}

#[test]
fn what_never_comes_is_given_up_when_time_passes() {
    let mut wire = live();
    wire.handshake();
    wire.client(ACK, 104, 501, b"def");
    wire.client(FIN | ACK, 107, 501, b"");
    wire.server(FIN | ACK, 501, 108, b"");
    wire.client(ACK, 108, 502, b"");
    assert!(wire.take().is_empty());
    let (lines, later_ns) = (&mut wire.lines, wire.time_ns + 200 * MILLISECOND);
    wire.reassembler.tick(later_ns, &mut |event| lines.push(line(&event)));
    assert_eq!(wire.take(), ["1 sent 3+3 def", "1 close Local sent=6/1 received=0/0 retransmits=0 error=0"]);
    assert_eq!(wire.lost(Loss::HoleBytes), 3);
}

#[test]
fn what_fills_a_hole_was_sent_again_after_a_round_trip_and_overtaken_before() {
    for (pause_ms, retransmits) in [(0, 0), (5, 1)] {
        let mut wire = live();
        // A round trip of two milliseconds.
        wire.handshake();
        wire.client(ACK, 104, 501, b"def");
        wire.time_ns += pause_ms * MILLISECOND;
        wire.client(ACK, 101, 501, b"abc");
        wire.client(RST | ACK, 107, 501, b"");
        let close = format!("1 close Abort sent=6/2 received=0/0 retransmits={retransmits} error=0");
        assert_eq!(wire.take().last(), Some(&close), "{pause_ms} ms");
    }
}

#[test]
fn the_counters_of_open_connections_are_told_when_they_moved() {
    let mut wire = live();
    let told = |wire: &mut Wire, of_all: bool| {
        let mut told = Vec::new();
        wire.reassembler.counters(wire.time_ns, of_all, &mut |event| match event.body {
            crate::event::Body::Counters(totals) => told.push((event.header.connection.0 >> 8, totals)),
            ref other => panic!("{other:?}"),
        });
        told
    };
    wire.handshake();
    let (_, totals) = told(&mut wire, false)[0];
    // There and back a millisecond each, as seen from the middle.
    assert_eq!((totals.bytes_sent, totals.srtt_us), (0, 2_000));
    assert!(told(&mut wire, false).is_empty(), "nothing moved");
    assert_eq!(told(&mut wire, true).len(), 1);
    wire.client(ACK, 101, 501, b"ask");
    wire.server(ACK, 501, 104, b"answer");
    let news = told(&mut wire, false);
    assert_eq!(news.len(), 1);
    assert_eq!((news[0].0, news[0].1.bytes_sent, news[0].1.bytes_received, news[0].1.retransmits), (1, 3, 6, 0));
}

#[test]
fn ports_that_are_not_wanted_are_no_connections() {
    let wanted = |ports: &[u16]| {
        let mut wire = live();
        wire.reassembler = Reassembler::new(Limits::default()).only_ports(ports);
        wire.handshake();
        wire.client(ACK, 101, 501, b"ask");
        (wire.take().len(), wire.reassembler.others(), wire.losses())
    };
    assert_eq!(wanted(&[]), (1, 0, String::new()));
    assert_eq!(wanted(&[9, 80]), (1, 0, String::new()));
    assert_eq!(wanted(&[4000]), (1, 0, String::new()));
    assert_eq!(wanted(&[9]), (0, 4, String::new()));
}
