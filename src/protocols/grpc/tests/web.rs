//! gRPC-Web through the parser of HTTP/1 that carries it.

use proptest::prelude::*;

use super::super::web::{Encoding, encoding};
use crate::{
    model::{Flags, Flow, Protocol, Protocols},
    protocols::{
        DEFINITIONS, Loss, Opening, Parser,
        testing::{
            Conversation, OwnedExchange,
            golden::Call,
            proof::{Mishap, assert_never_wrong},
        },
    },
};

fn parser(opening: Opening) -> Box<dyn Parser> {
    let http = DEFINITIONS.iter().find(|definition| definition.protocol == Protocol::Http).unwrap();
    (http.parser)(opening)
}

fn raw(opening: Opening) -> Box<dyn Parser> {
    parser(Opening { raw: Protocols::from_iter([Protocol::Grpc]), ..opening })
}

fn opened() -> Conversation {
    Conversation::opened(parser)
}

fn frame(flag: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![flag];
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn trailers(status: u32) -> Vec<u8> {
    frame(0x80, format!("grpc-status: {status}\r\ngrpc-message:%73ecret\r\nx: y\r\n").as_bytes())
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = group.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        (0..4).map(|index| if index > group.len() { b'=' } else { LETTERS[(bits >> (18 - 6 * index)) as usize & 63] }).collect::<Vec<_>>()
    };
    bytes.chunks(3).flat_map(group).collect()
}

fn head(path: &str, kind: &str, framing: &str) -> Vec<u8> {
    format!(
        "POST {path}?token=secret HTTP/1.1\r\nHost: shop:8080\r\nUser-Agent: grpc-web/1\r\nGrpc-Timeout: 2S\r\nX-Grpc-Web: 1\r\n\
         Content-Type: application/grpc-web{kind}\r\n{framing}\r\n\r\n"
    )
    .into_bytes()
}

fn request(path: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    [head(path, kind, &format!("Content-Length: {}", body.len())), body.to_vec()].concat()
}

fn chunked(kind: &str, pieces: &[&[u8]]) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web{kind}\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for piece in pieces.iter().filter(|piece| !piece.is_empty()).chain([&&b""[..]]) {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn sized(kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web{kind}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.into_bytes(), body.to_vec()].concat()
}

fn counts(exchange: &OwnedExchange) -> (Option<i64>, Option<i64>) {
    (exchange.int("rpc.request.message_count"), exchange.int("rpc.response.message_count"))
}

#[test]
fn knows_its_content_types() {
    for (text, expected) in [
        ("application/grpc-web", Some(Encoding::Binary)),
        ("application/grpc-web+proto", Some(Encoding::Binary)),
        ("Application/grpc-web-text; charset=utf-8", Some(Encoding::Text)),
        ("application/grpc-web-text+proto", Some(Encoding::Text)),
        ("application/grpc-web-texts", None),
        ("application/grpc-webs", None),
        ("application/grpc", None),
        ("application/json", None),
    ] {
        assert_eq!(encoding(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn reads_a_call_of_each_encoding() {
    let message = frame(0, b"hello");
    let whole = [message.clone(), frame(0, b"a"), trailers(5)];
    for (kind, encode) in [("+proto", (|bytes| bytes.to_vec()) as fn(&[u8]) -> Vec<u8>), ("-text", base64)] {
        let pieces: Vec<_> = whole.iter().map(|piece| encode(piece)).collect();
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let asked = request("/shop.Basket/List", kind, &encode(&message));
        for answer in [chunked(kind, &pieces), sized(kind, &encode(&whole.concat()))] {
            let mut talk = opened();
            talk.at(10_000).request(&asked).at(50_000).response(&answer);
            let exchange = &talk.seen.exchanges[0];
            assert_eq!(exchange.summary(), "List /shop.Basket/List 5");
            assert_eq!((exchange.start_ns, exchange.first_byte_ns, exchange.end_ns), (10_000, Some(50_000), 50_000));
            assert_eq!((exchange.request_bytes, exchange.response_bytes), (asked.len() as u64, answer.len() as u64));
            assert_eq!((exchange.error, exchange.flags, counts(exchange)), (true, Flags::default(), (Some(1), Some(2))));
            assert_eq!((exchange.text("rpc.system"), exchange.text("rpc.grpc.kind")), (Some("grpc"), Some("server_streaming")));
            assert_eq!((exchange.text("server.address"), exchange.int("server.port")), (Some("shop"), Some(8080)));
            assert_eq!((exchange.text("user_agent.original"), exchange.text("grpc.timeout")), (Some("grpc-web/1"), Some("2S")));
            assert_eq!(exchange.text("network.protocol.version"), Some("1.1"));
            assert!(!format!("{exchange:?}").contains("secret"));
        }
    }
}

#[test]
fn a_trailers_frame_shows_its_message_to_who_asked_for_values() {
    let mut talk = Conversation::opened(raw);
    talk.request(request("/a/B", "", &frame(0, b""))).response(sized("", &trailers(7)));
    assert_eq!(talk.seen.exchanges[0].text("grpc.message"), Some("secret"));
}

#[test]
fn calls_and_plain_requests_take_turns() {
    let mut talk = opened();
    for round in 0..3 {
        talk.request(request("/a/B", "", &frame(0, b"x"))).response(sized("", &[frame(0, b"y"), trailers(round)].concat()));
        talk.request("POST /a HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
        talk.response("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    }
    assert_eq!(talk.summaries(), ["B /a/B 0", "POST /a 200", "B /a/B 1", "POST /a 200", "B /a/B 2", "POST /a 200"]);
    assert_eq!(talk.seen.exchanges[1].attribute("rpc.system"), None);
    assert!(talk.seen.losses.is_empty());
}

#[test]
fn a_head_may_be_the_whole_answer() {
    let mut talk = opened();
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web\r\ngrpc-status: 12\r\ngrpc-message: secret\r\nContent-Length: 0\r\n\r\n";
    talk.request(request("/a/B", "", &frame(0, b"x"))).response(head);
    talk.request(request("/a/C", "", &frame(0, b"x")))
        .response("HTTP/1.1 503 No\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\nno!");
    talk.request(request("/a/D", "", &frame(0, b"x"))).response("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\x00\x00 pages!");
    assert_eq!(talk.summaries(), ["B /a/B 12", "C /a/C 14", "D /a/D 2"]);
    assert_eq!(talk.seen.exchanges[1].int("http.response.status_code"), Some(503));
    assert!(!format!("{:?}", talk.seen).contains("secret"));
}

#[test]
fn a_body_without_length_ends_with_the_connection() {
    let mut talk = opened();
    talk.request(request("/a/B", "", &frame(0, b"x"))).response("HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web\r\n\r\n");
    talk.response(frame(0, b"one")).response(frame(0, b"two")).response(trailers(0)).close();
    assert_eq!((talk.summaries(), counts(&talk.seen.exchanges[0])), (vec!["B /a/B 0".to_owned()], (Some(1), Some(2))));
    assert_eq!(talk.seen.exchanges[0].flags, Flags::default());
}

#[test]
fn a_connection_that_ends_leaves_a_call_unavailable() {
    let mut talk = opened();
    talk.request(request("/a/B", "", &frame(0, b"x"))).close();
    assert_eq!((talk.summaries()[0].as_str(), talk.seen.exchanges[0].flags), ("B /a/B 14", Flags::UNANSWERED));
    let mut talk = opened();
    talk.request(request("/a/B", "", &frame(0, b"x"))).response(&chunked("", &[&frame(0, b"y")])[..97]).close();
    assert_eq!((talk.summaries()[0].as_str(), talk.seen.exchanges[0].flags), ("B /a/B 14", Flags::TRUNCATED));
}

#[test]
fn large_messages_are_passed_over() {
    let mut talk = opened();
    let body = [frame(0, &vec![7; 1_000_000]), frame(0, b"x")].concat();
    let head = head("/a/Put", "", &format!("Content-Length: {}", body.len()));
    talk.request(&head).cut_call(Flow::Request, &body[..1000], 500_000);
    assert_eq!(talk.skips_until(Flow::Request), head.len() as u64 + 1_000_005);
    talk.cut_call(Flow::Request, b"", 500_005).request(&body[1_000_005..]).response(sized("", &trailers(0)));
    let exchange = &talk.seen.exchanges[0];
    assert_eq!((exchange.summary().as_str(), counts(exchange), exchange.flags), ("Put /a/Put 0", (Some(2), Some(0)), Flags::default()));
    assert_eq!(exchange.request_bytes, (head.len() + body.len()) as u64);
    assert!(talk.seen.losses.is_empty());
}

#[test]
fn counts_go_where_a_hole_hides_prefixes_and_the_next_call_is_whole() {
    let body = [frame(0, b"one"), frame(0, b"two"), frame(0, b"three")].concat();
    let head = head("/a/Put", "", &format!("Content-Length: {}", body.len()));
    let mut talk = opened();
    talk.request(&head).request(&body[..6]).lost_call(Flow::Request, 8).request(&body[14..]).response(sized("", &trailers(0)));
    talk.request(request("/a/B", "", &frame(0, b"x"))).response(sized("", &trailers(0)));
    assert_eq!(talk.summaries(), ["Put /a/Put 0", "B /a/B 0"]);
    assert_eq!((counts(&talk.seen.exchanges[0]), talk.seen.exchanges[0].flags), ((None, Some(0)), Flags::TRUNCATED));
    assert_eq!(counts(&talk.seen.exchanges[1]), (Some(1), Some(0)));
    assert!(talk.seen.losses.is_empty());
}

#[test]
fn a_status_that_was_missed_is_no_failure() {
    for kind in ["", "-text"] {
        let body = [frame(0, b"one"), trailers(0)].concat();
        let body = if kind.is_empty() { body } else { base64(&body) };
        let answer = sized(kind, &body);
        let mut talk = opened();
        let captured = answer.len() - body.len() + 12;
        talk.request(request("/a/B", kind, b"")).cut_call(Flow::Response, &answer[..captured], answer.len() as u64);
        talk.request(request("/a/C", kind, b"")).response(&answer);
        assert_eq!(talk.summaries(), ["B /a/B ", "C /a/C 0"], "{kind}");
        assert_eq!((talk.seen.exchanges[0].error, talk.seen.exchanges[0].flags), (false, Flags::TRUNCATED));
    }
}

#[test]
fn answers_reported_first_are_of_unknown_status() {
    let mut talk = opened();
    talk.response(sized("", &[frame(0, b"y"), trailers(5)].concat())).request(request("/a/B", "", &frame(0, b"x")));
    talk.request(request("/a/C", "", &frame(0, b"x"))).response(sized("", &trailers(5)));
    assert_eq!(talk.summaries(), ["B /a/B ", "C /a/C 5"]);
    assert_eq!(talk.seen.exchanges[0].flags, Flags::TRUNCATED);
}

#[test]
fn a_gap_breaks_a_call_as_it_breaks_a_request() {
    let mut talk = opened();
    talk.request(request("/a/B", "", &frame(0, b"x"))).response(&chunked("", &[&frame(0, b"y")])[..90]).lost_call(Flow::Response, 100);
    talk.response("0\r\n\r\n").request(request("/a/C", "", &frame(0, b"x"))).response(sized("", &trailers(5)));
    assert_eq!(talk.summaries(), ["B /a/B ", "C /a/C 5"]);
    assert!(talk.seen.exchanges[0].flags.contains(Flags::GAP));
    assert_eq!(talk.seen.losses, [Loss::ParseGap]);
}

/// Calls of all shapes, one after the other; the path names each.
fn calls(shapes: &[(u8, u8)]) -> Vec<Call> {
    let mut calls = Vec::new();
    for (number, &(shape, messages)) in shapes.iter().enumerate() {
        let path = format!("/s/M{number}");
        let frames: Vec<_> = (0..messages).map(|length| frame(length & 1, &vec![b'x'; usize::from(length) * 7])).collect();
        let (kind, answer) = match shape {
            0 => ("", sized("", &[frames.concat(), trailers(number as u32)].concat())),
            1 => ("-text", sized("-text", &base64(&[frames.concat(), trailers(number as u32)].concat()))),
            2 => ("", chunked("", &[&frames.concat(), &trailers(number as u32)])),
            3 => ("-text", chunked("-text", &[&base64(&frames.concat()), &base64(&trailers(number as u32))])),
            _ => ("+proto", format!("HTTP/1.1 200 OK\r\ngrpc-status: {number}\r\nContent-Length: 0\r\n\r\n").into_bytes()),
        };
        let body = if kind == "-text" { base64(&frames.concat()) } else { frames.concat() };
        calls.push((Flow::Request, request(&path, kind, &body)));
        calls.push((Flow::Response, answer));
    }
    calls.retain(|(_, bytes)| !bytes.is_empty());
    calls
}

/// All but times.
fn says(exchange: &OwnedExchange) -> String {
    let counts = counts(exchange);
    format!("{} {counts:?} {} {} {}", exchange.summary(), exchange.error, exchange.request_bytes, exchange.response_bytes)
}

/// What a cut call still says must be true of the call that it names.
fn admits(exchange: &OwnedExchange, truth: &[OwnedExchange]) -> bool {
    truth.iter().any(|whole| {
        let (sent, received) = counts(exchange);
        let (all_sent, all_received) = counts(whole);
        exchange.resource == whole.resource
            // A connection that was joined late ends for its client where the recording ends.
            && (exchange.status.is_empty() || exchange.status == whole.status || exchange.status == "14")
            && sent.is_none_or(|sent| Some(sent) <= all_sent)
            && received.is_none_or(|received| Some(received) <= all_received)
    })
}

proptest! {
    #[test]
    fn cuts_change_nothing(shapes in prop::collection::vec((0_u8..5, 0_u8..4), 1..5), mishap in Mishap::cuts()) {
        let calls = calls(&shapes);
        let whole = Mishap::default().play(parser, &calls).unwrap();
        let cut = mishap.play(parser, &calls).unwrap();
        prop_assert_eq!(whole.exchanges.len(), shapes.len());
        let said = |seen: &[OwnedExchange]| seen.iter().map(says).collect::<Vec<_>>();
        prop_assert_eq!(said(&whole.exchanges), said(&cut.exchanges));
        for (exchange, (_, messages)) in whole.exchanges.iter().zip(&shapes) {
            prop_assert_eq!(counts(exchange).0, Some(i64::from(*messages)));
        }
        prop_assert!(cut.losses.is_empty());
    }

    #[test]
    fn no_mishap_makes_a_wrong_call(shapes in prop::collection::vec((0_u8..5, 0_u8..4), 1..5), mishap in Mishap::any()) {
        assert_never_wrong(parser, &calls(&shapes), &mishap, says, admits);
    }
}
