use proptest::prelude::*;

use super::{DEFINITION, likeness};
use crate::{
    model::Flow,
    protocols::{
        Capture, Likeness,
        testing::{Conversation, golden},
    },
};

/// A vector with its length in two bytes.
fn vector(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(data)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(0, &vector(&[&[0][..], &vector(name)].concat()))
}

fn alpn(names: &[&[u8]]) -> Vec<u8> {
    extension(16, &vector(&names.iter().flat_map(|name| [&[name.len() as u8][..], name].concat()).collect::<Vec<_>>()))
}

/// The handshake message.
fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = b"\x03\x03secret-random-secret-random-secr\x20secret-session-secret-session-se".to_vec();
    body.extend(vector(b"\x13\x01\x13\x02"));
    body.extend(b"\x01\0");
    body.extend(vector(&extensions.concat()));
    let length = (body.len() as u32).to_be_bytes();
    [&[1, length[1], length[2], length[3]][..], &body].concat()
}

/// In records of so many bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|piece| [&[22, 3, 1][..], &vector(piece)].concat()).collect()
}

fn usual() -> Vec<u8> {
    hello(&[extension(0x0a0a, b"\0"), server_name(b"Shop.test"), alpn(&[b"h2", b"http/1.1"]), extension(51, &[7; 1700])])
}

/// A ServerHello that says little.
fn server_hello() -> Vec<u8> {
    let mut message = vec![2, 0, 0, 38, 3, 3];
    message.extend([9; 32]);
    message.extend([0, 0x13, 1, 0]);
    records(&message, 100)
}

fn told(talk: &Conversation) -> (Vec<&str>, Vec<&str>) {
    (talk.seen.server_names.iter().map(String::as_str).collect(), talk.seen.alpn.iter().map(String::as_str).collect())
}

#[test]
fn a_hello_names_the_server_and_the_protocols_on_offer() {
    let mut talk = Conversation::opened(DEFINITION.parser);
    talk.request(records(&usual(), 1 << 14)).response(server_hello()).request(b"\x17\x03\x03\0\x05hello").close();
    assert_eq!(told(&talk), (vec!["shop.test"], vec!["h2,http/1.1"]));
    assert_eq!(talk.seen.captures[0], Capture::Lengths);
    assert_eq!((talk.seen.exchanges.len(), talk.seen.losses.len()), (0, 0));
    assert_eq!(talk.skips_until(Flow::Request), u64::MAX);
    assert!(!format!("{:?}", talk.seen).contains("secret"));
}

#[test]
fn it_may_come_in_many_calls_and_many_records() {
    for size in [1 << 14, 1000, 100, 40] {
        let bytes = records(&usual(), size);
        for calls in [1, 7, 500, 1400] {
            let mut talk = Conversation::opened(DEFINITION.parser);
            for piece in bytes.chunks(calls) {
                assert_eq!(talk.seen.captures, [], "nothing is given up while it comes");
                talk.request(piece);
            }
            assert_eq!(told(&talk), (vec!["shop.test"], vec!["h2,http/1.1"]), "records of {size}, calls of {calls}");
            assert_eq!(talk.seen.captures, [Capture::Lengths]);
        }
    }
}

#[test]
fn an_answer_reported_before_the_rest_of_the_hello_does_not_end_it() {
    let bytes = records(&usual(), 1 << 14);
    let mut talk = Conversation::opened(DEFINITION.parser);
    talk.request(&bytes[..500]).response(server_hello()).request(&bytes[500..]);
    assert_eq!(told(&talk).0, ["shop.test"]);
    let mut talk = Conversation::opened(DEFINITION.parser);
    talk.request(&bytes[..500]);
    for _ in 0..5 {
        talk.response(server_hello());
    }
    assert_eq!(talk.seen.captures, [Capture::Lengths], "it is not waited for without end");
}

#[test]
fn only_names_of_hosts_are_told() {
    let longest = [&[b'a'; 63][..], b".", &[b'b'; 63], b".", &[b'c'; 63], b".", &[b'd'; 61]].concat();
    for (name, said) in [
        (&b"a.test."[..], Some("a.test")),
        (b"_dc.XN--bcher-kva.test", Some("_dc.xn--bcher-kva.test")),
        (&longest, Some(std::str::from_utf8(&longest).unwrap())),
        (&[&longest[..], b"d"].concat(), None),
        (b"", None),
        (b".", None),
        (b"a..test", None),
        (b"192.0.2.1", None),
        (b"2001:db8::1", None),
        (b"a b.test", None),
        (b"a\0.test", None),
        (b"a\".test", None),
        (b"b\xc3\xbccher.test", None),
        (&[b'a'; 64], None),
    ] {
        let mut talk = Conversation::opened(DEFINITION.parser);
        talk.request(records(&hello(&[server_name(name)]), 1 << 14));
        assert_eq!(told(&talk).0, Vec::from_iter(said), "{}", String::from_utf8_lossy(name));
        assert_eq!(talk.seen.captures, [Capture::Lengths]);
    }
}

#[test]
fn reserved_and_odd_protocols_are_left_out() {
    let mut talk = Conversation::opened(DEFINITION.parser);
    let long = [b'x'; 120];
    talk.request(records(&hello(&[alpn(&[b"\x0a\x0a", b"h2", b"a,b", b"", b"acme-tls/1", &long, b"postgresql"])]), 1 << 14));
    assert_eq!(told(&talk), (vec![], vec!["h2,acme-tls/1,postgresql"]));
}

#[test]
fn a_hello_without_extensions_or_with_broken_ones_tells_nothing() {
    let mut plain = hello(&[]);
    plain.truncate(plain.len() - 2);
    plain[3] -= 2;
    for message in [plain, hello(&[]), hello(&[extension(0, b"\0\x09\0\0\x20a.test")]), hello(&[vec![0, 0, 0xff, 0xff, 0]])] {
        let mut talk = Conversation::opened(DEFINITION.parser);
        talk.request(records(&message, 1 << 14));
        assert_eq!((told(&talk), &talk.seen.captures[..]), ((vec![], vec![]), &[Capture::Lengths][..]));
    }
}

#[test]
fn a_hello_with_a_hole_is_left_alone() {
    let bytes = records(&usual(), 1 << 14);
    let mut talk = Conversation::opened(DEFINITION.parser);
    talk.cut_call(Flow::Request, &bytes[..500], bytes.len() as u64).response(server_hello());
    assert_eq!((told(&talk), talk.seen.captures[0]), ((vec![], vec![]), Capture::Lengths));
}

#[test]
fn hellos_of_real_clients_are_read() {
    for (name, server, protocols) in [
        ("s_client", "shop.test", "h2,http/1.1"),
        ("curl", "shop.test", "h2,http/1.1"),
        ("python", "shop.test", ""),
        ("s_client_without_name", "", ""),
        ("s_client_tls12", "shop.test", ""),
    ] {
        let mut talk = Conversation::opened(DEFINITION.parser);
        let calls = golden::calls("tls", name);
        let (flow, bytes) = &calls[0];
        assert_eq!((*flow, likeness(*flow, bytes)), (Flow::Request, Likeness::Certain), "{name}");
        assert!(calls.iter().any(|(flow, bytes)| *flow == Flow::Response && likeness(*flow, bytes) == Likeness::Certain), "{name}");
        for (flow, bytes) in &calls {
            talk.call(*flow, bytes);
        }
        assert_eq!(told(&talk).0.concat(), server, "{name}");
        assert_eq!(told(&talk).1.concat(), protocols, "{name}");
        assert_eq!((talk.refused(), talk.seen.losses.len()), (false, 0), "{name}");
    }
}

#[test]
fn only_a_hello_is_taken_for_one() {
    let bytes = records(&usual(), 1 << 14);
    for length in 0..=bytes.len() {
        let expected = if length < 11 { Likeness::Undecided } else { Likeness::Certain };
        assert_eq!(likeness(Flow::Request, &bytes[..length]), expected, "{length}");
    }
    assert_eq!(likeness(Flow::Response, &bytes), Likeness::No);
    assert_eq!(likeness(Flow::Response, &server_hello()), Likeness::Certain);
    // Each byte of what is looked at matters: type, versions, lengths.
    for (position, wrong) in [(0, 23), (1, 2), (2, 5), (3, 0xff), (5, 2), (6, 1), (9, 2), (10, 9)] {
        let mut bytes = bytes.clone();
        bytes[position] = wrong;
        assert_eq!(likeness(Flow::Request, &bytes), Likeness::No, "byte {position}");
    }
    for other in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-OpenSSH\r\n", &[0; 40], &[0xff; 40], &[22; 40], b"\x16\x03\x01\0\x05hello"] {
        assert_eq!(likeness(Flow::Request, other), Likeness::No);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_tells_no_odd_name(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), size in 1_usize..400) {
        let mut message = usual();
        for (position, byte) in changes {
            let position = position.index(message.len());
            message[position] = byte;
        }
        let mut talk = Conversation::opened(DEFINITION.parser);
        for piece in records(&message, size.max(32)).chunks(size) {
            talk.request(piece);
        }
        talk.close();
        for name in &talk.seen.server_names {
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte)), "{}", name);
        }
    }

    #[test]
    fn random_bytes_are_not_taken_for_it(bytes in prop::collection::vec(any::<u8>(), 11..200)) {
        prop_assert_eq!(likeness(Flow::Request, &bytes), Likeness::No);
        prop_assert_eq!(likeness(Flow::Response, &bytes), Likeness::No);
    }
}
