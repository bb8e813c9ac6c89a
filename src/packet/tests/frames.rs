//! Link headers, VLANs, IPv6 extension headers and fragments.

use etherparse::PacketBuilder;

use super::{ACK, SECOND, SYN, Wire, ethernet, tcp_header};
use crate::packet::{Limits, LinkType, Loss};

const OPEN: &str = "1 open unknown 10.0.0.1:4000 > 10.0.0.2:80 adopted connect=0";

pub fn packet(payload: &[u8]) -> Vec<u8> {
    ethernet(true, 4000, ACK, 1, 1, payload)[14..].to_vec()
}

fn seen(link: LinkType, header: &[u8], packet: &[u8]) -> Vec<String> {
    let mut wire = Wire::new();
    wire.frame(link, &[header, packet].concat());
    wire.take()
}

#[test]
fn reads_every_link_type() {
    let expected = [OPEN, "1 sent 0+2 hi"];
    let packet = packet(b"hi");
    let ethernet_header = [&[0; 12][..], &[8, 0]].concat();
    let cooked_v1 = [&[0; 14][..], &[8, 0]].concat();
    let cooked_v2 = [&[8, 0][..], &[0; 18]].concat();
    assert_eq!(seen(LinkType::Ethernet, &ethernet_header, &packet), expected);
    assert_eq!(seen(LinkType::LinuxSll, &cooked_v1, &packet), expected);
    assert_eq!(seen(LinkType::LinuxSll2, &cooked_v2, &packet), expected);
    assert_eq!(seen(LinkType::Raw, &[], &packet), expected);
    assert_eq!(seen(LinkType::Ipv4, &[], &packet), expected);
    assert_eq!(seen(LinkType::Null, &[2, 0, 0, 0], &packet), expected);
    assert_eq!(seen(LinkType::Null, &[0, 0, 0, 2], &packet), expected);
    assert_eq!(seen(LinkType::Loop, &[0, 0, 0, 2], &packet), expected);
}

#[test]
fn passes_over_vlan_tags() {
    let packet = packet(b"hi");
    let single = [&[0; 12][..], &[0x81, 0, 0, 7, 8, 0]].concat();
    let double = [&[0; 12][..], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 7, 8, 0]].concat();
    let cooked = [&[0; 14][..], &[0x81, 0, 0, 7, 8, 0]].concat();
    let endless = [&[0; 12][..], &[0x81, 0, 0, 7].repeat(50), &[8, 0]].concat();
    for (link, header) in [(LinkType::Ethernet, &single), (LinkType::Ethernet, &double), (LinkType::LinuxSll, &cooked)] {
        assert_eq!(seen(link, header, &packet), [OPEN, "1 sent 0+2 hi"]);
    }
    assert!(seen(LinkType::Ethernet, &endless, &packet).is_empty());
}

#[test]
fn leaves_out_the_padding_of_short_frames() {
    let mut wire = Wire::new();
    wire.handshake();
    let mut frame = wire.build(true, ACK, 101, 501, b"x");
    frame.resize(60, 0xee);
    wire.frame(LinkType::Ethernet, &frame);
    let mut frame = wire.build(true, ACK, 102, 501, b"");
    frame.resize(60, 0xee);
    wire.frame(LinkType::Ethernet, &frame);
    assert_eq!(wire.take(), ["1 sent 0+1 x"]);
}

#[test]
fn counts_what_is_neither_tcp_nor_udp_apart_from_what_is_broken() {
    let mut wire = Wire::new();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .icmpv4_echo_request(1, 2)
        .write(&mut frame, b"icmp")
        .unwrap();
    wire.frame(LinkType::Ethernet, &frame);
    wire.frame(LinkType::Ethernet, &[&[0; 12][..], &[8, 6], &[0; 28]].concat());
    assert_eq!((wire.reassembler.others(), wire.losses().as_str()), (2, ""));
    let mut bad = ethernet(true, 4000, ACK, 1, 1, b"x");
    bad[14 + 20 + 12] = 0x40;
    wire.frame(LinkType::Ethernet, &bad);
    wire.frame(LinkType::Ethernet, &frame[..20]);
    wire.cut_frame(&ethernet(true, 4000, ACK, 1, 1, b"x"), 40);
    assert_eq!(wire.losses(), "packet_malformed=2 packet_cut=1");
}

#[test]
fn a_frame_cut_by_the_capture_keeps_its_place_in_the_stream() {
    let mut wire = Wire::new();
    wire.handshake();
    let frame = wire.build(true, ACK, 101, 501, b"0123456789");
    wire.cut_frame(&frame, frame.len() - 6);
    wire.client(ACK, 111, 501, b"next");
    assert_eq!(wire.take(), ["1 sent 0+10 captured=4 0123", "1 sent 10+4 next"]);
    assert_eq!(wire.losses(), "packet_snapped_bytes=6");
}

#[test]
fn takes_the_length_of_an_offloaded_packet_from_its_frame() {
    let mut wire = Wire::new();
    wire.handshake();
    let mut frame = wire.build(true, ACK, 101, 501, b"abc");
    frame[16..18].fill(0);
    wire.frame(LinkType::Ethernet, &frame);
    assert_eq!(wire.take(), ["1 sent 0+3 abc"]);
}

/// Cuts an IPv4 packet without options into fragments of `size` bytes.
pub fn ipv4_fragments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (header, body) = packet.split_at(20);
    let pieces: Vec<&[u8]> = body.chunks(size).collect();
    let last = pieces.len() - 1;
    pieces
        .iter()
        .enumerate()
        .map(|(n, piece)| {
            let mut fragment = header.to_vec();
            fragment[2..4].copy_from_slice(&(20 + piece.len() as u16).to_be_bytes());
            fragment[4..6].copy_from_slice(&9_u16.to_be_bytes());
            let place = (n * size / 8) as u16 | if n < last { 0x2000 } else { 0 };
            fragment[6..8].copy_from_slice(&place.to_be_bytes());
            fragment.extend_from_slice(piece);
            fragment
        })
        .collect()
}

#[test]
fn joins_ipv4_fragments_in_any_order() {
    let whole = packet(b"a payload that needs several fragments");
    let mut fragments = ipv4_fragments(&whole, 16);
    assert_eq!(fragments.len(), 4);
    for _ in 0..fragments.len() {
        fragments.rotate_left(1);
        let mut wire = Wire::new();
        for fragment in &fragments {
            assert!(wire.take().is_empty());
            wire.frame(LinkType::Raw, fragment);
            wire.frame(LinkType::Raw, &fragments[0]);
        }
        assert_eq!(wire.take(), [OPEN, "1 sent 0+38 a payload that needs several fragments"]);
    }
}

#[test]
fn discards_datagrams_whose_fragments_overlap() {
    let fragments = ipv4_fragments(&packet(&[b'x'; 60]), 16);
    let mut overlapping = fragments[1].clone();
    overlapping[6..8].copy_from_slice(&(0x2000_u16 | 1).to_be_bytes());
    let mut wire = Wire::new();
    for fragment in [&fragments[0], &overlapping, &fragments[1], &fragments[2], &fragments[3], &fragments[4]] {
        wire.frame(LinkType::Raw, fragment);
    }
    wire.finish();
    assert!(wire.take().is_empty());
    assert_eq!(wire.losses(), "packet_fragment=6");
}

#[test]
fn gives_up_incomplete_datagrams_by_time_and_by_number() {
    let mut wire = Wire::with(Limits { datagrams: 8, ..Limits::default() });
    let fragments = ipv4_fragments(&packet(&[b'x'; 60]), 16);
    wire.frame(LinkType::Raw, &fragments[0]);
    wire.time_ns += 31 * SECOND;
    for fragment in &fragments[1..] {
        wire.frame(LinkType::Raw, fragment);
    }
    assert_eq!(wire.lost(Loss::Fragment), 1);
    for id in 100..200_u16 {
        let mut fragment = fragments[0].clone();
        fragment[4..6].copy_from_slice(&id.to_be_bytes());
        wire.frame(LinkType::Raw, &fragment);
    }
    assert_eq!(wire.lost(Loss::Fragment), 1 + 4 + 92);
    wire.finish();
    assert_eq!(wire.lost(Loss::Fragment), 1 + 4 + 100, "every fragment is accounted for");
}

fn ipv6(next_header: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend_from_slice(&(body.len() as u16).to_be_bytes());
    packet.extend_from_slice(&[next_header, 64]);
    packet.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend_from_slice(body);
    packet
}

fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut segment = tcp_header(true, 4000, ACK, 1, 1).to_bytes().to_vec();
    segment.extend_from_slice(payload);
    segment
}

const OPEN_V6: &str = "1 open unknown [fd00::1]:4000 > [fd00::2]:80 adopted connect=0";

#[test]
fn walks_ipv6_extension_headers() {
    let expected = [OPEN_V6, "1 sent 0+2 v6"];
    let tcp = tcp(b"v6");
    assert_eq!(seen(LinkType::Raw, &[], &ipv6(6, &tcp)), expected);
    assert_eq!(seen(LinkType::Ipv6, &[], &ipv6(6, &tcp)), expected);
    let hop_by_hop_routing_destination = [&[43, 0, 0, 0, 0, 0, 0, 0][..], &[60, 1], &[0; 14], &[6, 0, 0, 0, 0, 0, 0, 0], &tcp].concat();
    assert_eq!(seen(LinkType::Raw, &[], &ipv6(0, &hop_by_hop_routing_destination)), expected);
    let authentication = [&[6, 4][..], &[0; 22], &tcp].concat();
    assert_eq!(seen(LinkType::Raw, &[], &ipv6(51, &authentication)), expected);
    let atomic_fragment = [&[6, 0, 0, 0, 1, 2, 3, 4][..], &tcp].concat();
    assert_eq!(seen(LinkType::Raw, &[], &ipv6(44, &atomic_fragment)), expected);
    let mut wire = Wire::new();
    wire.frame(LinkType::Raw, &ipv6(60, &[60, 0, 0, 0, 0, 0, 0, 0].repeat(40)));
    assert_eq!(wire.losses(), "packet_malformed=1");
}

#[test]
fn joins_ipv6_fragments() {
    let body = [&[6, 0, 0, 0, 0, 0, 0, 0][..], &tcp(b"across two fragments")].concat();
    let (first, second) = body.split_at(32);
    let mut wire = Wire::new();
    wire.frame(LinkType::Raw, &ipv6(44, &[&[60, 0, 0, 32, 0, 0, 0, 5][..], second].concat()));
    wire.frame(LinkType::Raw, &ipv6(44, &[&[60, 0, 0, 1, 0, 0, 0, 5][..], first].concat()));
    assert_eq!(wire.take(), [OPEN_V6, "1 sent 0+20 across two fragments"]);
}

#[test]
fn holds_mapped_addresses_as_ipv4() {
    let mut packet = ipv6(6, &tcp(b"x"));
    packet[8..24].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);
    packet[24..40].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2]);
    assert_eq!(seen(LinkType::Raw, &[], &packet)[0], OPEN);
}

#[test]
fn link_types_are_read_by_their_number() {
    assert_eq!(LinkType::from_number(276), Some(LinkType::LinuxSll2));
    assert_eq!(LinkType::from_number(147), None);
    let mut wire = Wire::new();
    wire.client(SYN, 1, 0, b"");
    assert_eq!(wire.reassembler.segments(), 1);
}
