//! UDP in frames: the events of its conversations.

use etherparse::PacketBuilder;

use super::{MILLISECOND, SECOND, Wire, frames::ipv4_fragments};
use crate::packet::{LinkType, Loss};

/// An IPv4 packet of the client at port 4000, or of the server at port 53.
fn packet(from_client: bool, identification: u16, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = if from_client { ([10, 0, 0, 1], [10, 0, 0, 2]) } else { ([10, 0, 0, 2], [10, 0, 0, 1]) };
    let (from, to) = if from_client { (4000, 53) } else { (53, 4000) };
    let mut packet = Vec::new();
    PacketBuilder::ipv4(source, destination, 64).udp(from, to).write(&mut packet, payload).unwrap();
    packet[4..6].copy_from_slice(&identification.to_be_bytes());
    packet
}

const OPEN: &str = "1 udp client 10.0.0.1:4000 > 10.0.0.2:53";

#[test]
fn both_directions_are_one_conversation_with_numbers_of_their_own() {
    let mut wire = Wire::new();
    for (from_client, payload) in [(true, "ask"), (true, "ask more"), (false, "say"), (true, ""), (false, "bye")] {
        wire.frame(LinkType::Raw, &packet(from_client, 0, payload.as_bytes()));
    }
    let expected = [
        OPEN,
        "1 sent #0 to 10.0.0.2:53 3 ask",
        "1 sent #1 to 10.0.0.2:53 8 ask more",
        "1 received #0 from 10.0.0.2:53 3 say",
        "1 sent #2 to 10.0.0.2:53 0 ",
        "1 received #1 from 10.0.0.2:53 3 bye",
    ];
    assert_eq!(wire.take(), expected);
    assert_eq!((wire.reassembler.datagrams(), wire.reassembler.others(), wire.losses().as_str()), (5, 0, ""));
}

#[test]
fn vlan_tags_and_padding_are_passed_over() {
    let mut wire = Wire::new();
    let mut frame = [&[0; 12][..], &[0x81, 0, 0, 7, 8, 0], &packet(true, 0, b"ask")].concat();
    frame.resize(64, 0xee);
    wire.frame(LinkType::Ethernet, &frame);
    assert_eq!(wire.take(), [OPEN, "1 sent #0 to 10.0.0.2:53 3 ask"]);
}

#[test]
fn walks_ipv6_to_udp() {
    let mut wire = Wire::new();
    let mut frame = Vec::new();
    let (source, destination) = ([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(source, destination, 64).udp(4000, 53).write(&mut frame, b"ask").unwrap();
    wire.frame(LinkType::Ethernet, &frame);
    assert_eq!(wire.take(), ["1 udp client [fd00::1]:4000 > [fd00::2]:53", "1 sent #0 to [fd00::2]:53 3 ask"]);
}

#[test]
fn a_fragmented_datagram_is_one() {
    let mut wire = Wire::new();
    let mut fragments = ipv4_fragments(&packet(true, 0, b"a question that needs several fragments"), 16);
    fragments.rotate_left(1);
    for fragment in &fragments {
        wire.frame(LinkType::Raw, fragment);
    }
    assert_eq!(wire.take(), [OPEN, "1 sent #0 to 10.0.0.2:53 39 a question that needs several fragments"]);
}

#[test]
fn fragments_of_tcp_and_udp_with_one_identification_are_kept_apart() {
    let mut wire = Wire::new();
    let mut tcp = ipv4_fragments(&super::frames::packet(b"bytes of a stream"), 16);
    let udp = ipv4_fragments(&packet(true, 0, b"bytes of a datagram"), 16);
    tcp.extend(udp);
    tcp.swap(1, 2);
    for fragment in &tcp {
        wire.frame(LinkType::Raw, fragment);
    }
    let lines = wire.take();
    assert!(lines.iter().any(|line| line.ends_with("bytes of a stream")), "{lines:?}");
    assert!(lines.iter().any(|line| line.ends_with("bytes of a datagram")), "{lines:?}");
    assert_eq!(wire.losses(), "");
}

#[test]
fn what_the_capture_cut_is_known_by_its_length() {
    let mut wire = Wire::new();
    let frame = [&[0; 12][..], &[8, 0], &packet(true, 0, b"a long question")].concat();
    wire.cut_frame(&frame, 14 + 20 + 8 + 6);
    assert_eq!(wire.take(), [OPEN, "1 sent #0 to 10.0.0.2:53 15 captured=6 a long"]);
    assert_eq!(wire.lost(Loss::SnappedBytes), 9);
    wire.cut_frame(&frame, 14 + 20 + 5);
    assert_eq!((wire.take().len(), wire.lost(Loss::Cut)), (0, 1));
}

#[test]
fn a_datagram_seen_at_two_interfaces_is_counted_once() {
    let mut wire = Wire::new();
    for (from_client, identification) in [(true, 7), (true, 7), (false, 7), (true, 8), (true, 0), (true, 0)] {
        wire.frame(LinkType::Raw, &packet(from_client, identification, b"x"));
    }
    assert_eq!((wire.take().len(), wire.lost(Loss::DuplicateFrame)), (1 + 5, 1));
}

#[test]
fn impossible_lengths_are_malformed() {
    for length in [0_u16, 7, 60] {
        let mut wire = Wire::new();
        let mut packet = packet(true, 0, b"ask");
        packet[24..26].copy_from_slice(&length.to_be_bytes());
        wire.frame(LinkType::Raw, &packet);
        let expected = u64::from(length != 0);
        assert_eq!((wire.lost(Loss::Malformed), wire.take().len() as u64), (expected, 2 - 2 * expected), "{length}");
    }
}

#[test]
fn a_long_silence_begins_anew_and_is_forgotten() {
    let mut wire = Wire::new();
    wire.frame(LinkType::Raw, &packet(true, 0, b"a"));
    wire.time_ns += 19 * SECOND;
    wire.frame(LinkType::Raw, &packet(true, 0, b"b"));
    wire.time_ns += 20 * SECOND + MILLISECOND;
    wire.frame(LinkType::Raw, &packet(false, 0, b"c"));
    let lines = wire.take();
    assert_eq!(lines[2], "1 sent #1 to 10.0.0.2:53 1 b");
    assert_eq!(lines[3..], ["2 udp client 10.0.0.2:53 > 10.0.0.1:4000", "2 sent #0 to 10.0.0.1:4000 1 c"]);
    wire.time_ns += 60 * SECOND;
    wire.client(super::SYN, 1, 0, b"");
    wire.time_ns += 60 * SECOND;
    wire.client(super::SYN, 1, 0, b"");
    assert_eq!(wire.reassembler.connections(), 1, "the TCP one");
}
