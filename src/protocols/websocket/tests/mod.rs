//! WebSocket through the parser of HTTP/1 that hands its connection over.

mod golden;
mod proofs;

use crate::{
    model::{Flags, Flow, Protocol},
    protocols::{
        Capture, DEFINITIONS, Loss, Opening, Parser,
        testing::{Conversation, OwnedExchange},
    },
};

fn parser(opening: Opening) -> Box<dyn Parser> {
    let http = DEFINITIONS.iter().find(|definition| definition.protocol == Protocol::Http).unwrap();
    (http.parser)(opening)
}

const ASKED: &str = "GET /chat?token=secret HTTP/1.1\r\nHost: shop:8080\r\nUser-Agent: ws/1\r\ntraceparent: 00-ab-cd-01\r\n\
    Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: c2VjcmV0\r\nSec-WebSocket-Protocol: secret\r\n\r\n";
const AGREED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: c2VjcmV0\r\n\r\n";

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// A frame of the client (masked) or the server.
fn frame(flow: Flow, first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = if flow == Flow::Request { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(mask | short as u8),
        long @ 126..0x10000 => {
            bytes.push(mask | 126);
            bytes.extend_from_slice(&(long as u16).to_be_bytes());
        }
        long => {
            bytes.push(mask | 127);
            bytes.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    if mask == 0 {
        bytes.extend_from_slice(payload);
    } else {
        let key = [0xa1, 0x5c, 0x37, 0x99];
        bytes.extend_from_slice(&key);
        bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    }
    bytes
}

fn close(flow: Flow, code: u16) -> Vec<u8> {
    frame(flow, CLOSE, &[&code.to_be_bytes()[..], b"secret"].concat())
}

fn opened() -> Conversation {
    let mut talk = Conversation::opened(parser);
    talk.request(ASKED).response(AGREED);
    talk
}

/// Client and server, `None` where nothing is said.
fn counts(exchange: &OwnedExchange, what: &str) -> (Option<i64>, Option<i64>) {
    let of = |side: &str| {
        exchange.attributes.iter().find(|(name, _)| *name == format!("websocket.{side}.{what}")).and_then(|(name, _)| exchange.int(name))
    };
    (of("client"), of("server"))
}

fn send(talk: &mut Conversation, flow: Flow, first: u8, payload: &[u8]) {
    talk.call(flow, frame(flow, first, payload));
}

#[test]
fn counts_frames_and_messages_by_kind_and_side() {
    let mut talk = opened();
    assert_eq!(talk.summaries(), ["GET /chat 101"]);
    let start_ns = talk.now_ns();
    let (client, server) = (Flow::Request, Flow::Response);
    send(&mut talk, client, TEXT, b"secret");
    send(&mut talk, client, PING, b"secret");
    talk.at(90_000).response(frame(server, PONG, b"secret"));
    talk.request([frame(client, 0x01, b"sec"), frame(client, PING, b""), frame(client, 0x00, b"r"), frame(client, 0x80, b"et")].concat());
    send(&mut talk, server, BINARY, &[7; 300]);
    send(&mut talk, server, 0xc1, &[7; 70_000]);
    talk.response(close(server, 1001));
    talk.request(close(client, 1001));
    let exchange = &talk.seen.exchanges[1];
    assert_eq!(exchange.summary(), "websocket /chat 1001");
    assert_eq!((exchange.start_ns, exchange.first_byte_ns, exchange.end_ns), (start_ns, Some(90_000), talk.now_ns()));
    assert_eq!((exchange.error, exchange.flags), (false, Flags::default()));
    assert_eq!(counts(exchange, "text_messages"), (Some(2), Some(1)));
    assert_eq!(counts(exchange, "binary_messages"), (None, Some(1)));
    assert_eq!(counts(exchange, "pings"), (Some(2), None));
    assert_eq!(counts(exchange, "pongs"), (None, Some(1)));
    assert_eq!(counts(exchange, "continuation_frames"), (Some(2), None));
    assert_eq!(counts(exchange, "frames"), (Some(7), Some(4)));
    assert_eq!(counts(exchange, "payload_bytes"), (Some(12), Some(70_300)));
    assert_eq!((exchange.int("websocket.close_code"), exchange.text("websocket.closed_by")), (Some(1001), Some("server")));
    assert_eq!((exchange.text("server.address"), exchange.int("server.port")), (Some("shop"), Some(8080)));
    assert_eq!((exchange.text("user_agent.original"), exchange.text("traceparent")), (Some("ws/1"), Some("00-ab-cd-01")));
    assert_eq!(exchange.request_bytes, 12 + 12 - 6 + 6 + 9 + 6 + 7 + 8 + 14);
    assert_eq!(exchange.response_bytes, 8 + 304 + 70_010 + 10);
    assert_eq!(talk.seen.captures, [Capture::Full, Capture::Lengths]);
    assert!(talk.seen.losses.is_empty() && !format!("{:?}", talk.seen).contains("secret"));
}

#[test]
fn the_code_of_the_side_that_closed_first_is_the_status() {
    for (code, error) in [(1000, false), (1001, false), (1002, true), (1011, true), (3000, true), (4000, true)] {
        for by in [Flow::Request, Flow::Response] {
            let mut talk = opened();
            talk.call(by, close(by, code)).call(by.opposite(), close(by.opposite(), 1000));
            let exchange = &talk.seen.exchanges[1];
            assert_eq!((exchange.status.as_str(), exchange.error), (code.to_string().as_str(), error));
            assert_eq!(exchange.text("websocket.closed_by"), Some(if by == Flow::Request { "client" } else { "server" }));
            talk.close();
            assert_eq!(talk.seen.exchanges.len(), 2, "a connection is one exchange");
        }
    }
}

#[test]
fn a_close_without_code_and_an_end_without_close_have_codes_of_their_own() {
    let mut talk = opened();
    talk.request(frame(Flow::Request, CLOSE, b"")).close();
    assert_eq!((talk.summaries()[1].as_str(), talk.seen.exchanges[1].error), ("websocket /chat 1005", false));
    let mut talk = opened();
    send(&mut talk, Flow::Request, TEXT, b"x");
    talk.request(&frame(Flow::Request, TEXT, &[0; 100])[..50]).close();
    let exchange = &talk.seen.exchanges[1];
    assert_eq!((exchange.summary().as_str(), exchange.error, exchange.end_ns), ("websocket /chat 1006", true, talk.now_ns()));
    assert_eq!((counts(exchange, "text_messages"), exchange.first_byte_ns), ((Some(1), None), None));
    assert_eq!((exchange.text("error.type"), exchange.flags), (Some("1006"), Flags::UNANSWERED));
}

#[test]
fn what_comes_behind_a_close_frame_is_not_looked_at() {
    let mut talk = opened();
    talk.request([close(Flow::Request, 1000), b"nonsense".to_vec()].concat()).request("more").response(close(Flow::Response, 1000));
    talk.response("HTTP/1.1 200 OK\r\n\r\n").close();
    assert_eq!(talk.summaries(), ["GET /chat 101", "websocket /chat 1000"]);
    assert!(talk.seen.losses.is_empty());
}

#[test]
fn frames_may_be_in_the_call_of_the_response_or_be_reported_before_it() {
    let mut talk = Conversation::opened(parser);
    talk.request(ASKED).response([AGREED.as_bytes(), &frame(Flow::Response, TEXT, b"x")].concat());
    talk.response(close(Flow::Response, 1000)).request(close(Flow::Request, 1000));
    assert_eq!(counts(&talk.seen.exchanges[1], "text_messages"), (None, Some(1)));
    let mut talk = Conversation::opened(parser);
    talk.request(ASKED).request(frame(Flow::Request, TEXT, b"x")).response(AGREED);
    talk.request(close(Flow::Request, 1000)).response(close(Flow::Response, 1000));
    assert_eq!(counts(&talk.seen.exchanges[1], "text_messages"), (Some(1), None));
    assert!(talk.seen.losses.is_empty());
}

#[test]
fn long_payloads_are_passed_over() {
    let mut talk = opened();
    let begin = talk.skips_until(Flow::Response);
    let large = frame(Flow::Response, BINARY, &vec![0; 1_000_000]);
    talk.cut_call(Flow::Response, &large[..100], 400_000);
    assert_eq!(talk.skips_until(Flow::Response), begin + large.len() as u64);
    talk.lost_call(Flow::Response, 600_000).response([&large[1_000_000..], &close(Flow::Response, 1000)].concat());
    talk.request(close(Flow::Request, 1000));
    let exchange = &talk.seen.exchanges[1];
    assert_eq!((counts(exchange, "binary_messages"), counts(exchange, "payload_bytes")), ((None, Some(1)), (None, Some(1_000_000))));
    assert_eq!((exchange.flags, exchange.response_bytes), (Flags::default(), large.len() as u64 + 10));
    assert!(talk.seen.losses.is_empty());
}

#[test]
fn a_gap_hides_the_counts_of_its_side_but_not_the_end() {
    let mut talk = opened();
    send(&mut talk, Flow::Request, TEXT, b"x");
    send(&mut talk, Flow::Response, TEXT, b"x");
    talk.lost_call(Flow::Response, 40).response("some words").response(close(Flow::Response, 1011)).request(close(Flow::Request, 1011));
    let exchange = &talk.seen.exchanges[1];
    assert_eq!((exchange.summary().as_str(), exchange.flags), ("websocket /chat 1011", Flags::GAP | Flags::TRUNCATED));
    assert_eq!((counts(exchange, "text_messages"), counts(exchange, "frames")), ((Some(1), None), (Some(2), None)));
    assert_eq!(exchange.response_bytes, 3 + 40 + 10 + 10);
    assert_eq!(talk.seen.losses, [Loss::ParseGap]);
    let mut talk = opened();
    talk.lost_call(Flow::Request, 40).request("x").close();
    let exchange = &talk.seen.exchanges[1];
    assert_eq!((exchange.summary().as_str(), exchange.error), ("websocket /chat ", false));
}

#[test]
fn nonsense_is_no_frame() {
    for nonsense in [&b"\x83\x00"[..], b"\xb1\x00", b"\x09\x00", b"\x89\x7e\x00\x80", b"\xc9\x00", b"\x81\x7e\x00\x10", b"\x81\x7f\xff"] {
        let padded = [nonsense, &[0xff; 20]].concat();
        let mut talk = opened();
        talk.response(&padded).close();
        let exchange = &talk.seen.exchanges[1];
        assert!(exchange.flags.contains(Flags::GAP), "{nonsense:?}");
        assert_eq!((talk.seen.losses.as_slice(), talk.refused()), (&[Loss::ParseGap][..], false));
        assert_eq!(exchange.response_bytes, padded.len() as u64);
    }
}

#[test]
fn other_upgrades_and_refusals_open_no_websocket() {
    for (asked, agreed) in [
        (ASKED, AGREED.replace("WebSocket", "other")),
        (&ASKED.replace("websocket", "other"), AGREED.to_owned()),
        (ASKED, "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned()),
    ] {
        let mut talk = Conversation::opened(parser);
        talk.request(asked).response(agreed).request(frame(Flow::Request, TEXT, b"x")).close();
        assert_eq!(talk.summaries(), ["GET /chat 101"]);
        assert_eq!(talk.seen.captures, [Capture::Lengths]);
    }
    let mut talk = Conversation::opened(parser);
    talk.request(ASKED).response("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n");
    talk.request("GET /b HTTP/1.1\r\n\r\n").response("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(talk.summaries(), ["GET /chat 403", "GET /b 200"]);
}

#[test]
fn an_adopted_connection_may_be_upgraded_but_not_joined_behind_that() {
    let mut talk = Conversation::adopted(parser, 5000);
    talk.response("the end of some body").request(ASKED).response(AGREED).request(frame(Flow::Request, TEXT, b"x")).close();
    assert_eq!(talk.summaries(), ["GET /chat 101", "websocket /chat 1006"]);
    assert_eq!(talk.seen.exchanges[1].flags, Flags::ADOPTED | Flags::UNANSWERED);
    for definition in DEFINITIONS {
        for flow in [Flow::Request, Flow::Response] {
            let bytes = frame(flow, TEXT, b"hello");
            assert!((definition.likeness)(flow, &bytes) <= crate::protocols::Likeness::Undecided, "{}", definition.protocol);
        }
    }
}
