//! TCP: order, duplicates, holes, begin and end.

use proptest::prelude::*;

use super::{ACK, Dice, FIN, MILLISECOND, RST, SECOND, SYN, Wire, head, tcp_header};
use crate::packet::{Limits, LinkType, Loss};

#[test]
fn reports_a_connection_from_its_handshake_to_its_last_fin() {
    let mut wire = Wire::new();
    wire.client(SYN, 100, 0, b"");
    assert!(wire.take().is_empty(), "an unanswered SYN is no connection");
    wire.server(SYN | ACK, 500, 101, b"");
    wire.client(ACK, 101, 501, b"");
    wire.client(ACK, 101, 501, b"hello");
    wire.server(ACK, 501, 106, b"world!");
    wire.client(FIN | ACK, 106, 507, b"");
    wire.server(FIN | ACK, 507, 107, b"");
    wire.client(ACK, 107, 508, b"");
    assert_eq!(
        wire.take(),
        [
            "1 open client 10.0.0.1:4000 > 10.0.0.2:80 connect=1000000",
            "1 sent 0+5 hello",
            "1 received 0+6 world!",
            "1 close Local sent=5/1 received=6/1 retransmits=0 error=0",
        ]
    );
    assert_eq!(wire.losses(), "");
}

#[test]
fn says_remote_when_the_server_closed_first_even_with_its_last_bytes() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.server(FIN | ACK, 501, 101, b"bye");
    wire.client(FIN | ACK, 101, 505, b"");
    assert_eq!(wire.take(), ["1 received 0+3 bye", "1 close Remote sent=0/0 received=3/1 retransmits=0 error=0"]);
}

#[test]
fn takes_the_client_from_a_syn_ack_alone() {
    let mut wire = Wire::new();
    wire.server(SYN | ACK, 500, 101, b"");
    wire.client(ACK, 101, 501, b"x");
    assert_eq!(wire.take(), ["1 open client 10.0.0.1:4000 > 10.0.0.2:80 connect=0", "1 sent 0+1 x"]);
}

#[test]
fn opens_when_only_the_syn_ack_was_missed() {
    let mut wire = Wire::new();
    wire.client(SYN, 100, 0, b"");
    wire.client(ACK, 101, 501, b"");
    wire.client(ACK, 101, 501, b"ask");
    wire.server(ACK, 501, 104, b"answer");
    assert_eq!(wire.take(), ["1 open client 10.0.0.1:4000 > 10.0.0.2:80 connect=0", "1 sent 0+3 ask", "1 received 0+6 answer"]);
}

#[test]
fn adopts_a_connection_whose_begin_was_not_seen_at_its_first_bytes() {
    let mut wire = Wire::new();
    wire.client(ACK, 7000, 9000, b"");
    assert!(wire.take().is_empty(), "this may be the last acknowledgment of a connection long closed");
    wire.server(ACK, 9000, 7000, b"abc");
    wire.client(ACK, 7000, 9003, b"de");
    wire.server(ACK, 9003, 7002, b"f");
    assert_eq!(
        wire.take(),
        ["1 open unknown 10.0.0.2:80 > 10.0.0.1:4000 adopted connect=0", "1 sent 0+3 abc", "1 received 0+2 de", "1 sent 3+1 f"]
    );
}

#[test]
fn counts_bytes_from_before_the_first_of_an_adopted_connection() {
    let mut wire = Wire::new();
    wire.client(ACK, 7000, 1, b"second");
    wire.client(ACK, 6995, 1, b"first");
    wire.client(ACK, 6998, 1, b"..seconds");
    assert_eq!(wire.take()[1..], ["1 sent 0+6 second", "1 sent 6+1 s"]);
    assert_eq!(wire.lost(Loss::BeforeStart), 2);
}

#[test]
fn brings_segments_into_order() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.client(ACK, 107, 501, b"ghi");
    wire.client(ACK, 104, 501, b"def");
    assert!(wire.take().is_empty());
    wire.client(ACK, 101, 501, b"abc");
    assert_eq!(wire.take(), ["1 sent 0+3 abc", "1 sent 3+3 def", "1 sent 6+3 ghi"]);
    assert_eq!(wire.reassembler.pending_bytes(), 0);
}

#[test]
fn passes_over_retransmissions_and_counts_them() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.client(ACK, 101, 501, b"abc");
    wire.client(ACK, 101, 501, b"abc");
    wire.client(ACK, 101, 501, b"abcdef");
    wire.client(RST | ACK, 107, 501, b"");
    assert_eq!(wire.take(), ["1 sent 0+3 abc", "1 sent 3+3 def", "1 close Abort sent=6/2 received=0/0 retransmits=2 error=0"]);
}

#[test]
fn keeps_the_first_bytes_where_segments_overlap() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.client(ACK, 105, 501, b"EFGH");
    wire.client(ACK, 103, 501, b"cdefghij");
    wire.client(ACK, 101, 501, b"abXXXX");
    assert_eq!(wire.take(), ["1 sent 0+2 ab", "1 sent 2+2 cd", "1 sent 4+4 EFGH", "1 sent 8+2 ij"]);
}

#[test]
fn gives_a_hole_up_when_the_receiver_has_its_bytes() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.client(ACK, 101, 501, b"abc");
    wire.client(ACK, 108, 501, b"hij");
    wire.server(ACK, 501, 104, b"");
    assert_eq!(wire.take(), ["1 sent 0+3 abc"], "the receiver waits too");
    wire.server(ACK, 501, 111, b"ok");
    assert_eq!(wire.take(), ["1 sent 7+3 hij", "1 received 0+2 ok"]);
    assert_eq!(wire.losses(), "packet_hole_bytes=4");
    wire.client(ACK, 104, 503, b"defg");
    assert_eq!(wire.losses(), "packet_late=1 packet_hole_bytes=4");
}

#[test]
fn does_not_wait_for_bytes_that_were_acknowledged_before_the_next_came() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.server(ACK, 501, 104, b"");
    wire.client(ACK, 104, 501, b"def");
    assert_eq!(wire.take(), ["1 sent 3+3 def"]);
}

#[test]
fn gives_a_hole_up_when_too_much_is_behind_it() {
    let mut wire = Wire::with(Limits { pending_segments_per_direction: 4, ..Limits::default() });
    wire.handshake();
    for n in 0..5 {
        wire.client(ACK, 110 + 2 * n, 501, b"x");
    }
    assert_eq!(wire.take(), ["1 sent 9+1 x"]);
    wire.finish();
    assert_eq!(wire.take(), ["1 sent 11+1 x", "1 sent 13+1 x", "1 sent 15+1 x", "1 sent 17+1 x"]);
    let mut wire = Wire::with(Limits { pending_bytes_per_direction: 4000, ..Limits::default() });
    wire.handshake();
    for n in 0..4 {
        wire.client(ACK, 1101 + 1000 * n, 501, &[b'x'; 1000]);
    }
    assert_eq!(wire.take().len(), 4, "all behind the first hole");
    assert_eq!(wire.lost(Loss::HoleBytes), 1000);
}

#[test]
fn gives_a_hole_up_after_a_while() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.client(ACK, 104, 501, b"def");
    wire.time_ns += 9 * SECOND;
    wire.client(ACK, 107, 501, b"ghi");
    assert!(wire.take().is_empty());
    wire.time_ns += SECOND;
    wire.client(ACK, 110, 501, b"");
    assert_eq!(wire.take(), ["1 sent 3+3 def", "1 sent 6+3 ghi"]);
}

#[test]
fn bounds_what_all_connections_together_hold() {
    let mut wire = Wire::with(Limits { pending_bytes: 10_000, ..Limits::default() });
    for port in 5000..5100 {
        wire.client_port = port;
        wire.handshake();
        wire.client(ACK, 201, 501, &[0; 1000]);
        assert!(wire.reassembler.pending_bytes() <= 10_000);
    }
    assert!(wire.lost(Loss::HoleBytes) > 0);
}

#[test]
fn follows_sequence_numbers_round_their_end() {
    let mut wire = Wire::new();
    let isn = u32::MAX - 4;
    wire.client(SYN, isn, 0, b"");
    wire.server(SYN | ACK, u32::MAX, isn.wrapping_add(1), b"");
    wire.client(ACK, 2, 0, b"ghi");
    wire.client(ACK, isn.wrapping_add(1), 0, b"abcdef");
    wire.server(ACK, 0, 5, b"x");
    assert_eq!(wire.take()[1..], ["1 sent 0+6 abcdef", "1 sent 6+3 ghi", "1 received 0+1 x"]);
}

#[test]
fn passes_over_keep_alive_probes_with_and_without_garbage() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.client(ACK, 101, 501, b"abc");
    wire.client(ACK, 103, 501, b"");
    wire.client(ACK, 103, 501, b"\0");
    wire.client(RST, 104, 0, b"");
    assert_eq!(wire.take(), ["1 sent 0+3 abc", "1 close Abort sent=3/1 received=0/0 retransmits=0 error=0"]);
}

#[test]
fn tells_resets_of_the_two_ends_apart() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.client(ACK, 104, 501, b"pending");
    wire.server(RST | ACK, 501, 104, b"");
    assert_eq!(wire.take(), ["1 sent 3+7 pending", "1 close Reset sent=10/1 received=0/0 retransmits=0 error=104"]);
    wire.server(RST | ACK, 501, 104, b"");
    wire.client(ACK, 111, 501, b"");
    assert!(wire.take().is_empty(), "stray segments open nothing");
    wire.client(ACK, 111, 501, b"still here");
    assert_eq!(wire.take()[0], "2 open unknown 10.0.0.1:4000 > 10.0.0.2:80 adopted connect=0", "a reset that nobody heeded");
}

#[test]
fn leaves_out_a_reset_from_far_away() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.server(RST, 501 + (1 << 30) + 1, 0, b"");
    wire.client(ACK, 101 + (1 << 30) + 1, 501, b"far");
    assert!(wire.take().is_empty());
    assert_eq!(wire.losses(), "packet_out_of_window=1");
}

#[test]
fn reports_refused_and_unanswered_connections_as_failed() {
    let mut wire = Wire::new();
    wire.client(SYN, 100, 0, b"");
    wire.server(RST | ACK, 0, 101, b"");
    assert_eq!(wire.take(), ["1 fail 10.0.0.1:4000 > 10.0.0.2:80 error=111 elapsed=1000000"]);
    wire.client(SYN, 900, 0, b"");
    wire.client_port = 4001;
    wire.time_ns += 100 * SECOND;
    wire.client(SYN, 1, 0, b"");
    assert_eq!(wire.take(), ["2 fail 10.0.0.1:4000 > 10.0.0.2:80 error=110 elapsed=100001000000"]);
}

#[test]
fn a_new_syn_on_the_same_ports_closes_the_former_connection() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.client(ACK, 101, 501, b"one");
    wire.client(SYN, 100, 0, b"");
    assert_eq!(wire.take(), ["1 sent 0+3 one"], "the same SYN again");
    wire.client(SYN, 70_000, 0, b"");
    wire.server(SYN | ACK, 80_000, 70_001, b"");
    wire.client(ACK, 70_001, 80_001, b"two");
    assert_eq!(
        wire.take(),
        [
            "1 close Unknown sent=3/1 received=0/0 retransmits=1 error=0",
            "2 open client 10.0.0.1:4000 > 10.0.0.2:80 connect=1000000",
            "2 sent 0+3 two"
        ]
    );
}

#[test]
fn the_same_ports_are_free_again_after_a_close() {
    let mut wire = Wire::new();
    for n in 1..=3_u32 {
        let base = n * 10_000;
        wire.client(SYN, base, 0, b"");
        wire.server(SYN | ACK, base, base + 1, b"");
        wire.client(FIN | ACK, base + 1, base + 1, b"x");
        wire.server(FIN | ACK, base + 1, base + 3, b"");
        wire.client(ACK, base + 3, base + 2, b"");
        assert_eq!(wire.take().len(), 3);
    }
    assert_eq!(wire.reassembler.connections(), 1);
}

#[test]
fn waits_for_bytes_in_front_of_a_fin() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.server(FIN | ACK, 501, 101, b"");
    wire.client(FIN | ACK, 104, 502, b"def");
    assert!(wire.take().is_empty());
    wire.client(ACK, 101, 502, b"abc");
    assert_eq!(wire.take(), ["1 sent 0+3 abc", "1 sent 3+3 def", "1 close Remote sent=6/2 received=0/0 retransmits=0 error=0"]);
}

#[test]
fn closes_when_a_fin_is_acknowledged_whose_last_bytes_were_not_captured() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.server(FIN | ACK, 601, 101, b"");
    wire.client(FIN | ACK, 101, 601, b"");
    assert!(wire.take().is_empty(), "the client waits for the bytes in front of the FIN");
    wire.client(ACK, 102, 602, b"");
    assert_eq!(wire.take(), ["1 close Remote sent=0/0 received=100/0 retransmits=0 error=0"]);
    assert_eq!(wire.losses(), "packet_hole_bytes=100");
}

#[test]
fn closes_silent_connections_in_capture_time_and_keeps_the_table_bounded() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.time_ns += 3600 * SECOND;
    wire.client_port = 4001;
    wire.client(SYN, 1, 0, b"");
    assert_eq!(wire.take(), ["1 close Unknown sent=0/0 received=0/0 retransmits=0 error=0"]);
    let mut wire = Wire::with(Limits { connections: 32, ..Limits::default() });
    for port in 1000..2000 {
        wire.client_port = port;
        wire.handshake();
        assert!(wire.reassembler.connections() <= 32);
    }
    assert_eq!(wire.lost(Loss::ConnectionTable) + wire.reassembler.connections() as u64, 1000);
}

#[test]
fn leaves_connections_open_at_the_end_of_the_capture() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.client(ACK, 104, 501, b"def");
    wire.finish();
    assert_eq!(wire.take(), ["1 sent 3+3 def"]);
}

#[test]
fn delivers_the_bytes_of_a_syn_once_the_server_answered() {
    let mut wire = Wire::new();
    wire.client(SYN, 100, 0, b"early");
    assert!(wire.take().is_empty());
    wire.server(SYN | ACK, 500, 106, b"");
    wire.client(ACK, 106, 501, b"later");
    assert_eq!(wire.take()[1..], ["1 sent 0+5 early", "1 sent 5+5 later"]);
}

#[test]
fn tells_a_frame_captured_twice_from_a_retransmission() {
    let mut wire = Wire::new();
    wire.handshake();
    let mut frame = Vec::new();
    let mut ip = etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::TCP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
    ip.identification = 77;
    let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ip(etherparse::IpHeaders::Ipv4(ip, Default::default()));
    builder.tcp_header(tcp_header(true, 4000, ACK, 101, 501)).write(&mut frame, b"once").unwrap();
    wire.frame(LinkType::Ethernet, &frame);
    wire.frame(LinkType::Ethernet, &frame);
    wire.client(RST, 105, 0, b"");
    assert_eq!(wire.take(), ["1 sent 0+4 once", "1 close Abort sent=4/1 received=0/0 retransmits=0 error=0"]);
    assert_eq!(wire.losses(), "packet_duplicate_frame=1");
}

#[test]
fn bytes_are_never_dated_before_those_in_front_of_them() {
    let mut wire = Wire::new();
    wire.handshake();
    let begin = wire.time_ns;
    let mut times = Vec::new();
    for (sequence, payload) in [(104, b"def"), (101, b"abc")] {
        let frame = wire.build(true, ACK, sequence, 501, payload);
        wire.time_ns += MILLISECOND;
        wire.reassembler.frame(head(LinkType::Ethernet, wire.time_ns, frame.len()), &frame, &mut |event| {
            times.push(event.header.time_ns - begin);
        });
    }
    assert_eq!(times, [2 * MILLISECOND, 2 * MILLISECOND]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// However a stream is cut, shuffled and repeated: what comes out is the stream, each byte once, in order.
    #[test]
    fn reassembles_any_segmentation(
        stream in proptest::collection::vec(any::<u8>(), 1..400),
        isn in any::<u32>(),
        seed in 1_u64..,
    ) {
        let mut dice = Dice(seed);
        let mut segments = Vec::new();
        let mut at = 0;
        while at < stream.len() {
            let end = stream.len().min(at + 1 + dice.roll(40));
            // Some reach back over what went before.
            segments.push((at - dice.roll(at + 1).min(20), end));
            if dice.roll(4) == 0 {
                segments.push((at, end));
            }
            at = end;
        }
        for n in (1..segments.len()).rev() {
            segments.swap(n, dice.roll(n + 1));
        }
        let mut wire = Wire::new();
        wire.client(SYN, isn, 0, b"");
        wire.server(SYN | ACK, 500, isn.wrapping_add(1), b"");
        let mut seen = Vec::new();
        for (start, end) in segments {
            let frame = wire.build(true, ACK, isn.wrapping_add(1 + start as u32), 501, &stream[start..end]);
            wire.time_ns += 1;
            wire.reassembler.frame(head(LinkType::Ethernet, wire.time_ns, frame.len()), &frame, &mut |event| {
                if let crate::event::Body::Data { offset, payload, size, .. } = event.body {
                    assert_eq!((offset as usize, size as usize), (seen.len(), payload.len()));
                    seen.extend_from_slice(payload);
                }
            });
        }
        prop_assert_eq!(&seen, &stream);
        prop_assert_eq!(wire.lost(Loss::HoleBytes), 0);
        prop_assert_eq!(wire.reassembler.pending_bytes(), 0);
    }

    /// Whatever is lost, late or repeated: pieces come in order and never overlap, hold the bytes of their place, and with the holes they
    /// make up the stream.
    #[test]
    fn accounts_for_every_byte_of_a_lossy_capture(
        stream in proptest::collection::vec(any::<u8>(), 100..2000),
        isn in any::<u32>(),
        seed in 1_u64..,
    ) {
        let mut dice = Dice(seed);
        let mut wire = Wire::with(Limits { pending_segments_per_direction: 6, ..Limits::default() });
        wire.client(SYN, isn, 0, b"");
        wire.server(SYN | ACK, 500, isn.wrapping_add(1), b"");
        let first = isn.wrapping_add(1);
        let (mut expected_at, mut delivered, mut total) = (0, 0, None);
        let mut at = 0;
        for _ in 0..200 {
            if total.is_some() {
                break;
            }
            let start = if dice.roll(3) == 0 { dice.roll(stream.len() - 1) } else { at };
            let end = stream.len().min(start + 1 + dice.roll(60));
            let frame = match dice.roll(5) {
                0 => wire.build(false, ACK, 501, first.wrapping_add(dice.roll(at + 1) as u32), b""),
                _ if start < stream.len() => wire.build(true, ACK, first.wrapping_add(start as u32), 501, &stream[start..end]),
                _ => wire.build(true, RST, first.wrapping_add(stream.len() as u32), 0, b""),
            };
            at = at.max(end);
            if dice.roll(4) == 0 {
                continue;
            }
            wire.time_ns += MILLISECOND;
            wire.reassembler.frame(head(LinkType::Ethernet, wire.time_ns, frame.len()), &frame, &mut |event| match event.body {
                crate::event::Body::Data { offset, payload, .. } => {
                    assert!(offset >= expected_at, "pieces overlap");
                    assert_eq!(payload, &stream[offset as usize..offset as usize + payload.len()]);
                    expected_at = offset + payload.len() as u64;
                    delivered += payload.len() as u64;
                }
                crate::event::Body::Close { totals, .. } => total = Some(totals.bytes_sent),
                _ => {}
            });
        }
        wire.finish();
        if let Some(total) = total {
            prop_assert_eq!(delivered + wire.lost(Loss::HoleBytes), total);
        }
        prop_assert_eq!(wire.reassembler.pending_bytes(), 0);
    }
}
