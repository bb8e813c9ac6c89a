//! Frames that this machine would not make by itself, put on one end of a cable and watched at either: tags of VLANs, extension headers,
//! fragments. The hooks are `packet`.

use std::{
    collections::BTreeSet,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use etherparse::{PacketBuilder, TcpHeader};

use crate::support::{
    agent::{Agent, remora},
    exchange::Report,
    free_port, machine,
    netns::Namespace,
    process::Process,
};

const PORT: u16 = 18_080;
const QUESTION: &[u8] = b"GET /tagged HTTP/1.1\r\nHost: left\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What stands between the addresses of a frame and its EtherType.
const TAGS: [&[u8]; 4] = [&[], &[0x81, 0, 0, 100], &[0x88, 0xa8, 0, 200, 0x81, 0, 0, 100], &[0x91, 0, 0, 200, 0x81, 0, 0x60, 100]];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Four,
    Six,
    /// With destination options and hop-by-hop options.
    SixExtended,
}

const VERSIONS: [Version; 3] = [Version::Four, Version::Six, Version::SixExtended];

/// A packet from the client or from the server of a connection.
fn packet(version: Version, from_client: bool, client_port: u16, header: impl Fn(u16, u16) -> TcpHeader, payload: &[u8]) -> Vec<u8> {
    let ends = if from_client { (client_port, PORT) } else { (PORT, client_port) };
    let header = header(ends.0, ends.1);
    let mut packet = Vec::new();
    if version == Version::Four {
        let (client, server) = ([192, 0, 2, 1], [192, 0, 2, 2]);
        let (source, destination) = if from_client { (client, server) } else { (server, client) };
        PacketBuilder::ipv4(source, destination, 64).tcp_header(header).write(&mut packet, payload).expect("write a packet");
        return packet;
    }
    let (client, server) = ("2001:db8::1".parse::<std::net::Ipv6Addr>(), "2001:db8::2".parse::<std::net::Ipv6Addr>());
    let (client, server) = (client.expect("an address").octets(), server.expect("an address").octets());
    let (source, destination) = if from_client { (client, server) } else { (server, client) };
    PacketBuilder::ipv6(source, destination, 64).tcp_header(header).write(&mut packet, payload).expect("write a packet");
    if version == Version::SixExtended {
        // Padding as options: hop-by-hop (0), then destination options (60), then TCP (6).
        let extensions = [60, 0, 1, 4, 0, 0, 0, 0, 6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        packet[6] = 0;
        let length = u16::from_be_bytes([packet[4], packet[5]]) + extensions.len() as u16;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        packet.splice(40..40, extensions);
    }
    packet
}

/// A whole connection with one exchange.
fn conversation(version: Version, client_port: u16) -> Vec<Vec<u8>> {
    let (asked, answered) = (1001 + QUESTION.len() as u32, 5001 + ANSWER.len() as u32);
    let say = |from_client: bool, flags: &str, sequence: u32, acknowledgment: u32, payload: &[u8]| {
        let header = |source, destination| {
            let mut header = TcpHeader::new(source, destination, sequence, 1000);
            header.acknowledgment_number = acknowledgment;
            (header.syn, header.ack, header.fin) = (flags.contains('S'), flags.contains('A'), flags.contains('F'));
            header
        };
        packet(version, from_client, client_port, header, payload)
    };
    vec![
        say(true, "S", 1000, 0, b""),
        say(false, "SA", 5000, 1001, b""),
        say(true, "A", 1001, 5001, b""),
        say(true, "A", 1001, 5001, QUESTION),
        say(false, "A", 5001, asked, ANSWER),
        say(true, "FA", asked, answered, b""),
        say(false, "FA", answered, asked + 1, b""),
        say(true, "A", asked + 1, answered + 1, b""),
    ]
}

fn frame(tags: &[u8], packet: &[u8]) -> Vec<u8> {
    let kind: &[u8] = if packet[0] >> 4 == 4 { &[8, 0] } else { &[0x86, 0xdd] };
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], tags, kind, packet].concat()
}

/// Puts frames on an interface as they are.
fn send(namespace: &Namespace, interface: &str, frames: impl IntoIterator<Item = Vec<u8>>) {
    let script = format!(
        "import socket, sys\ns = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\ns.bind(('{interface}', 0))\n\
         for line in sys.stdin: s.send(bytes.fromhex(line))\n"
    );
    hand_over(namespace, &script, frames);
}

/// Packets that come out of a tunnel, which has no link header.
fn send_through_tunnel(namespace: &Namespace, interface: &str, packets: impl IntoIterator<Item = Vec<u8>>) {
    // TUNSETIFF with IFF_TUN and IFF_NO_PI.
    let script = format!(
        "import fcntl, os, struct, sys\ntun = os.open('/dev/net/tun', os.O_RDWR)\n\
         fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH22x', b'{interface}', 0x1001))\n\
         for line in sys.stdin: os.write(tun, bytes.fromhex(line))\n"
    );
    hand_over(namespace, &script, packets);
}

fn hand_over(namespace: &Namespace, script: &str, frames: impl IntoIterator<Item = Vec<u8>>) {
    let mut python = Process::spawn(namespace.command("/usr/bin/python3").args(["-c", script]).stdin(Stdio::piped()));
    let mut stdin = python.stdin();
    for frame in frames {
        let line: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(stdin, "{line}").expect("hand over a frame");
    }
    drop(stdin);
    assert!(python.wait(Duration::from_secs(20)).success(), "the frames were not sent");
}

fn watch(namespace: &Namespace, interface: &str, extra: &[&str]) -> Agent {
    let mut agent = namespace.command(remora().get_program());
    agent.args(["run", "--output", "json", "--hooks", "packet", "--interface", interface]).args(extra).stdin(Stdio::null());
    Agent::start_by(agent, SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())), true)
}

/// Two ends of a cable without addresses, so that nobody answers or sends by himself.
fn cable() -> [Namespace; 2] {
    let [left, right] = ["left", "right"].map(Namespace::new);
    right.ip(&["link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", &left.name]);
    for namespace in [&left, &right] {
        namespace.set("net.ipv6.conf.veth0.disable_ipv6", "1");
        namespace.ip(&["link", "set", "veth0", "up"]);
    }
    [left, right]
}

#[test]
fn tags_and_extension_headers_are_passed_over_where_frames_are_sent_and_where_they_arrive() {
    let _machine = machine();
    let [left, right] = cable();
    let port = PORT.to_string();
    for (place, watched) in [&left, &right].into_iter().enumerate() {
        for transport in ["ring", "perf"] {
            // The filter finds ports and addresses only if it finds its way to them.
            let networks = "192.0.2.2,2001:db8::2";
            let agent = watch(watched, "veth0", &["--port", &port, "--address", networks, "--transport", transport]);
            let mut expected = BTreeSet::new();
            let mut frames = Vec::new();
            for (kind, tags) in TAGS.into_iter().enumerate() {
                for (number, version) in VERSIONS.into_iter().enumerate() {
                    let client_port = 20_000 + (kind * VERSIONS.len() + number) as u16;
                    expected.insert(client_port);
                    frames.extend(conversation(version, client_port).iter().map(|packet| frame(tags, packet)));
                }
            }
            send(&left, "veth0", frames);
            agent.wait_for("all connections", |report| report.connections.len() >= expected.len());
            let report = agent.finish();
            report.summary().assert_nothing_lost();
            let seen: Vec<_> = report.exchanges.iter().map(|exchange| exchange.client.port).collect();
            assert_eq!(seen.iter().copied().collect::<BTreeSet<_>>(), expected, "{transport}, end {place}");
            assert_eq!(seen.len(), expected.len(), "{transport}, end {place}");
            for exchange in &report.exchanges {
                assert_eq!((exchange.resource.as_str(), exchange.status.as_str()), ("/tagged", "200"), "{exchange:?}");
            }
            assert!(report.connections.iter().all(|connection| connection.retransmits == 0), "{:#?}", report.connections);
        }
    }
}

#[test]
fn a_tunnel_shows_packets_without_a_link_header() {
    let _machine = machine();
    let alone = Namespace::new("alone");
    alone.ip(&["tuntap", "add", "mode", "tun", "name", "tun0"]);
    alone.ip(&["link", "set", "tun0", "up"]);
    for transport in ["ring", "perf"] {
        let agent = watch(&alone, "tun0", &["--port", &PORT.to_string(), "--transport", transport]);
        let packets = VERSIONS.into_iter().zip(24_000..).flat_map(|(version, port)| conversation(version, port));
        send_through_tunnel(&alone, "tun0", packets);
        agent.wait_for("all connections", |report| report.connections.len() >= VERSIONS.len());
        let report = agent.finish();
        report.summary().assert_nothing_lost();
        let ports: BTreeSet<_> = report.exchanges.iter().map(|exchange| exchange.client.port).collect();
        assert_eq!((ports, report.exchanges.len()), ((24_000..24_003).collect(), 3), "{transport}");
    }
}

/// A question for the address of a name, as a datagram from `client_port`.
fn question(client_port: u16, port: u16) -> Vec<u8> {
    let message = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05whole\x04test\0\0\x01\0\x01";
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(client_port, port);
    builder.write(&mut packet, message).expect("write a packet");
    packet
}

/// Of 16 bytes each, the last first.
fn fragments(packet: &[u8], identification: u16) -> Vec<Vec<u8>> {
    const PIECE: usize = 16;
    let (header, payload) = packet.split_at(20);
    let count = payload.len().div_ceil(PIECE);
    let pieces = payload.chunks(PIECE).enumerate().map(|(place, piece)| {
        let mut header = header.to_vec();
        header[2..4].copy_from_slice(&((20 + piece.len()) as u16).to_be_bytes());
        header[4..6].copy_from_slice(&identification.to_be_bytes());
        let more = if place + 1 < count { 0x2000 } else { 0 };
        header[6..8].copy_from_slice(&(more | (place * PIECE / 8) as u16).to_be_bytes());
        [header, piece.to_vec()].concat()
    });
    pieces.rev().collect()
}

#[test]
fn fragments_are_joined_and_those_of_other_ports_are_left_out_in_silence() {
    let _machine = machine();
    let [left, right] = cable();
    for transport in ["ring", "perf"] {
        let agent = watch(&right, "veth0", &["--port", "53", "--transport", transport]);
        let wanted = (0..10).flat_map(|number| fragments(&question(21_000 + number, 53), 100 + number));
        let others = (0..10).flat_map(|number| fragments(&question(22_000 + number, 54), 200 + number));
        let frames: Vec<_> = others.chain(wanted).map(|packet| frame(&[], &packet)).collect();
        assert_eq!(frames.len(), 2 * 10 * 3);
        send(&left, "veth0", frames);
        // Nobody answers: the questions are given up at the latest at the end.
        let asked = |report: &Report| report.exchanges.iter().filter(|exchange| exchange.protocol == "dns").count();
        agent.wait_for("the questions to be given up", |report| asked(report) >= 10);
        let report = agent.finish();
        report.summary().assert_nothing_lost();
        let ports: BTreeSet<_> = report.exchanges.iter().map(|exchange| exchange.client.port).collect();
        assert_eq!((ports, report.exchanges.len()), ((21_000..21_010).collect(), 10), "{transport}");
        assert!(report.exchanges.iter().all(|exchange| exchange.resource == "whole.test"), "{:#?}", report.exchanges);
    }
}

#[test]
fn damaged_frames_are_counted_and_end_nothing() {
    let _machine = machine();
    let [left, right] = cable();
    for transport in ["ring", "perf"] {
        let agent = watch(&right, "veth0", &["--transport", transport]);
        let whole: Vec<_> = conversation(Version::SixExtended, 23_000).iter().map(|packet| frame(TAGS[2], packet)).collect();
        let mut frames = Vec::new();
        // Every length of a frame with tags and extension headers that can be sent at all.
        frames.extend((14..whole[3].len()).map(|length| whole[3][..length].to_vec()));
        // Every byte of its headers wrong.
        for place in 12..120 {
            let mut damaged = frame(TAGS[1], &conversation(Version::Four, 23_001)[3]);
            if let Some(byte) = damaged.get_mut(place) {
                *byte ^= 0xff;
                frames.push(damaged);
            }
        }
        frames.extend(conversation(Version::Six, 23_002).iter().map(|packet| frame(&[], packet)));
        send(&left, "veth0", frames);
        let is_whole = |report: &Report| report.exchanges.iter().any(|exchange| exchange.client.port == 23_002);
        agent.wait_for("the exchange behind the damaged frames", is_whole);
        let report = agent.finish();
        let lost = &report.summary().lost;
        assert!(lost["capture"] > 0 && lost["ring_full"] == 0 && lost["unread"] == 0, "{transport}: {lost:?}");
    }
}
