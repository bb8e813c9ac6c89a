use proptest::prelude::*;

use super::super::{Call, Carried, RequestHeaders, ResponseHeaders, is_grpc};
use crate::{
    model::{Flags, Flow},
    protocols::{
        At,
        testing::{Collected, OwnedExchange, OwnedValue},
    },
};

const MS: u64 = 1_000_000;

fn at(time_ns: u64) -> At {
    At { first_ns: time_ns, last_ns: time_ns, call_start: false }
}

fn request() -> RequestHeaders<'static> {
    RequestHeaders {
        path: Some(b"/shop.v1.Basket/AddItem"),
        authority: Some(b"shop:50051"),
        user_agent: Some(b"grpc-go/1.38.0"),
        timeout: Some(b"500m"),
        traceparent: Some(b"00-ab-cd-01"),
    }
}

const OK: ResponseHeaders<'_> = ResponseHeaders { http_status: Some(200), status: None, message: None, incomplete: false };

fn trailers(status: &str) -> ResponseHeaders<'_> {
    ResponseHeaders { status: Some(status.as_bytes()), message: Some(b"no such%20secret"), ..ResponseHeaders::default() }
}

fn message(length: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&(length as u32).to_be_bytes());
    bytes.resize(5 + length, b'm');
    bytes
}

/// A call whose request was sent at 10 ms.
fn asked() -> Call {
    let mut call = Call::new(false);
    call.request_headers(&request(), at(10 * MS), true);
    call
}

fn emitted(call: &Call) -> OwnedExchange {
    let mut seen = Collected::default();
    let carried = Carried { request_bytes: 70, response_bytes: 80, version: "2", ..Carried::default() };
    call.emit(&carried, &mut seen);
    seen.exchanges.remove(0)
}

#[test]
fn knows_its_content_types() {
    for yes in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8", "Application/gRPC+json"] {
        assert!(is_grpc(yes.as_bytes()), "{yes}");
    }
    for no in ["application/grpc-web", "application/grpc-web+proto", "application/grpcx", "application/json", "", "application/grp"] {
        assert!(!is_grpc(no.as_bytes()), "{no}");
    }
}

#[test]
fn reports_what_a_unary_call_says() {
    let mut call = asked();
    call.data(Flow::Request, &message(7), at(11 * MS));
    call.response_headers(&OK, at(20 * MS));
    call.data(Flow::Response, &message(9), at(30 * MS));
    call.trailers(&trailers("0"), at(31 * MS));
    let exchange = emitted(&call);
    assert_eq!(exchange.summary(), "AddItem /shop.v1.Basket/AddItem 0");
    assert_eq!((exchange.start_ns, exchange.first_byte_ns, exchange.end_ns), (10 * MS, Some(20 * MS), 31 * MS));
    assert_eq!((exchange.request_bytes, exchange.response_bytes, exchange.error), (70, 80, false));
    assert_eq!(exchange.flags, Flags::default());
    for (name, text) in [
        ("rpc.system", "grpc"),
        ("rpc.service", "shop.v1.Basket"),
        ("rpc.method", "AddItem"),
        ("rpc.grpc.kind", "unary"),
        ("server.address", "shop"),
        ("user_agent.original", "grpc-go/1.38.0"),
        ("traceparent", "00-ab-cd-01"),
        ("grpc.timeout", "500m"),
        ("network.protocol.version", "2"),
    ] {
        assert_eq!(exchange.text(name), Some(text), "{name}");
    }
    for (name, number) in [
        ("rpc.grpc.status_code", 0),
        ("rpc.request.message_count", 1),
        ("rpc.response.message_count", 1),
        ("rpc.response.time_to_first_message_ns", 20 * MS as i64),
        ("server.port", 50051),
    ] {
        assert_eq!(exchange.int(name), Some(number), "{name}");
    }
    assert_eq!(exchange.attribute("error.type"), None);
}

#[test]
fn every_status_but_0_is_an_error_and_its_message_stays() {
    for status in ["1", "5", "16", "4294967"] {
        let mut call = asked();
        call.response_headers(&ResponseHeaders { http_status: Some(200), ..trailers(status) }, at(20 * MS));
        let exchange = emitted(&call);
        assert_eq!((exchange.status.as_str(), exchange.error, exchange.text("error.type")), (status, true, Some(status)));
        assert!(!format!("{exchange:?}").contains("secret"));
        assert_eq!(exchange.first_byte_ns, Some(20 * MS));
    }
}

#[test]
fn a_message_is_shown_to_who_asked_for_values() {
    let mut call = Call::new(true);
    call.trailers(&ResponseHeaders { message: Some(b"no%20such%2"), ..trailers("5") }, at(20 * MS));
    call.request_headers(&request(), at(21 * MS), true);
    let exchange = emitted(&call);
    assert_eq!(exchange.text("grpc.message"), Some("no such%2"));
    assert_eq!((exchange.resource.as_str(), exchange.text("user_agent.original")), ("/shop.v1.Basket/AddItem", Some("grpc-go/1.38.0")));
    assert_eq!((exchange.start_ns, exchange.end_ns), (20 * MS, 20 * MS));
    call.clear();
    call.request_headers(&request(), at(0), true);
    call.trailers(&ResponseHeaders { message: Some("%ff%41%".as_bytes()), ..trailers("5") }, at(20 * MS));
    assert_eq!(emitted(&call).text("grpc.message"), Some("\u{fffd}A%"));
}

#[test]
fn tells_the_kinds_apart_by_their_messages() {
    for (sent, received, kind) in [
        (0, 0, "unary"),
        (1, 1, "unary"),
        (3, 1, "client_streaming"),
        (1, 4, "server_streaming"),
        (2, 2, "bidi"),
        (3, 0, "client_streaming"),
    ] {
        let mut call = asked();
        (0..sent).for_each(|length| call.data(Flow::Request, &message(length), at(11 * MS)));
        (0..received).for_each(|length| call.data(Flow::Response, &message(length), at(12 * MS)));
        call.trailers(&trailers("0"), at(31 * MS));
        assert_eq!(emitted(&call).text("rpc.grpc.kind"), Some(kind), "{sent} {received}");
    }
}

#[test]
fn a_message_that_was_cut_off_does_not_count() {
    let mut call = asked();
    call.data(Flow::Request, &[message(3), message(9)[..8].to_vec()].concat(), at(11 * MS));
    call.reset(Flow::Request, 8, at(20 * MS).last_ns);
    assert_eq!(emitted(&call).int("rpc.request.message_count"), Some(1));
}

#[test]
fn a_cancellation_is_the_clients_or_its_deadlines() {
    for (timeout, reset_ns, status) in [
        (None, 900 * MS, "1"),
        (Some("500m"), 300 * MS, "1"),
        (Some("500m"), 440 * MS, "1"),
        (Some("500m"), 445 * MS, "4"),
        (Some("500m"), 511 * MS, "4"),
        (Some("1S"), 1001 * MS, "4"),
        (Some("1S"), 870 * MS, "1"),
        (Some("900000u"), 912 * MS, "4"),
        (Some("soon"), 912 * MS, "1"),
        (Some("123456789m"), 912 * MS, "1"),
    ] {
        for by in [Flow::Request, Flow::Response] {
            let mut call = Call::new(false);
            call.request_headers(&RequestHeaders { timeout: timeout.map(str::as_bytes), ..request() }, at(10 * MS), true);
            call.reset(by, 8, reset_ns);
            let exchange = emitted(&call);
            assert_eq!((exchange.status.as_str(), exchange.error), (status, true), "{timeout:?} {reset_ns}");
            assert_eq!((exchange.end_ns, exchange.first_byte_ns.is_some()), (reset_ns, by == Flow::Response));
        }
    }
}

#[test]
fn resets_have_the_status_of_their_code() {
    for (code, status) in [(0, "13"), (1, "13"), (2, "13"), (5, "2"), (7, "14"), (8, "1"), (11, "8"), (12, "7"), (99, "2")] {
        let mut call = asked();
        call.reset(Flow::Response, code, 20 * MS);
        assert_eq!(emitted(&call).status, status, "{code}");
    }
    let mut call = asked();
    call.trailers(&trailers("0"), at(20 * MS));
    call.reset(Flow::Response, 0, 21 * MS);
    call.connection_end(22 * MS);
    assert_eq!((emitted(&call).status.as_str(), emitted(&call).end_ns, emitted(&call).flags), ("0", 20 * MS, Flags::default()));
}

#[test]
fn a_connection_that_ends_leaves_its_calls_unavailable() {
    let mut call = asked();
    call.connection_end(20 * MS);
    let exchange = emitted(&call);
    assert_eq!((exchange.status.as_str(), exchange.error, exchange.flags), ("14", true, Flags::UNANSWERED));
    let mut call = asked();
    call.response_headers(&OK, at(15 * MS));
    call.connection_end(20 * MS);
    assert_eq!((emitted(&call).status.as_str(), emitted(&call).flags), ("14", Flags::TRUNCATED));
}

#[test]
fn a_response_without_status_is_read_as_its_client_reads_it() {
    for (http_status, status) in [(200, "2"), (404, "12"), (401, "16"), (403, "7"), (503, "14"), (429, "14"), (400, "13"), (418, "2")] {
        let mut call = asked();
        call.response_headers(&ResponseHeaders { http_status: Some(http_status), ..OK }, at(15 * MS));
        assert!(!call.is_over());
        call.response_end(at(16 * MS));
        let exchange = emitted(&call);
        assert_eq!((exchange.status.as_str(), exchange.error), (status, true));
        assert_eq!(exchange.int("http.response.status_code"), (http_status != 200).then_some(i64::from(http_status)));
    }
}

#[test]
fn a_status_that_could_not_be_read_is_no_failure() {
    let mut call = asked();
    call.response_headers(&OK, at(15 * MS));
    call.trailers(&ResponseHeaders { incomplete: true, ..ResponseHeaders::default() }, at(16 * MS));
    let exchange = emitted(&call);
    assert_eq!((exchange.status.as_str(), exchange.error, exchange.flags), ("", false, Flags::TRUNCATED));
    assert!(call.is_over());
    for (field, status) in [("", "2"), ("five", "2"), (" 5 ", "5"), ("-1", "2"), ("99999999999", "2")] {
        let mut call = asked();
        call.trailers(&trailers(field), at(16 * MS));
        assert_eq!(emitted(&call).status, status);
    }
}

#[test]
fn counts_go_where_prefixes_may_be_missing() {
    let mut call = asked();
    call.data(Flow::Request, &message(100)[..20], at(11 * MS));
    assert_eq!(call.passable(Flow::Request), 85);
    call.missing(Flow::Request, 85, 12 * MS);
    assert_eq!(call.passable(Flow::Request), 0);
    call.trailers(&trailers("0"), at(31 * MS));
    let exchange = emitted(&call);
    assert_eq!((exchange.int("rpc.request.message_count"), exchange.flags), (Some(1), Flags::default()));
    call.missing(Flow::Request, 1, 12 * MS);
    assert_eq!(call.passable(Flow::Request), u64::MAX);
    let exchange = emitted(&call);
    assert_eq!((exchange.int("rpc.request.message_count"), exchange.flags), (None, Flags::TRUNCATED));
    assert_eq!((exchange.text("rpc.grpc.kind"), exchange.int("rpc.response.message_count")), (None, Some(0)));
    let mut call = asked();
    call.data(Flow::Response, b"HTTP/1.1 no message", at(11 * MS));
    assert_eq!(emitted(&call).int("rpc.response.message_count"), None);
}

#[test]
fn marks_compressed_messages() {
    let mut call = asked();
    call.data(Flow::Request, &[1, 0, 0, 0, 1, 7], at(11 * MS));
    call.data(Flow::Response, &message(3), at(11 * MS));
    let exchange = emitted(&call);
    assert_eq!(exchange.attribute("rpc.request.compressed"), Some(&OwnedValue::Bool(true)));
    assert_eq!(exchange.attribute("rpc.response.compressed"), None);
}

#[test]
fn reads_all_sorts_of_paths_and_authorities() {
    for (path, operation, resource, service) in [
        ("/Echo/Say", "Say", "/Echo/Say", Some("Echo")),
        ("/a.b/c.D/Say?key=secret", "Say", "/a.b/c.D/Say", Some("a.b/c.D")),
        ("Say", "Say", "Say", None),
        ("/", "", "/", None),
    ] {
        let mut call = Call::new(false);
        call.request_headers(&RequestHeaders { path: Some(path.as_bytes()), ..RequestHeaders::default() }, at(1), true);
        let exchange = emitted(&call);
        assert_eq!((exchange.operation.as_str(), exchange.resource.as_str(), exchange.text("rpc.service")), (operation, resource, service));
    }
    for (authority, host, port) in [
        ("shop", Some("shop"), None),
        ("user:pw@shop:81", Some("shop"), Some(81)),
        ("[::1]:50051", Some("::1"), Some(50051)),
        ("[::1]", Some("::1"), None),
        ("unix:%2Ftmp", Some("unix"), None),
        ("", None, None),
    ] {
        let mut call = Call::new(false);
        call.request_headers(&RequestHeaders { authority: Some(authority.as_bytes()), ..request() }, at(1), true);
        let exchange = emitted(&call);
        assert_eq!((exchange.text("server.address"), exchange.int("server.port")), (host, port), "{authority}");
    }
    let mut call = Call::new(false);
    let long = [b"/s/".to_vec(), "ä".repeat(2000).into_bytes()].concat();
    call.request_headers(&RequestHeaders { path: Some(&long), ..RequestHeaders::default() }, at(1), true);
    assert_eq!(emitted(&call).flags, Flags::TRUNCATED);
    call.clear();
    call.request_headers(&RequestHeaders::default(), at(1), true);
    assert_eq!((emitted(&call).resource.as_str(), emitted(&call).flags), ("", Flags::TRUNCATED));
}

#[test]
fn a_cleared_call_is_as_new() {
    let mut call = asked();
    call.data(Flow::Response, b"nonsense", at(3));
    call.reset(Flow::Request, 8, 3);
    call.clear();
    call.request_headers(&RequestHeaders { path: Some(b"/a/B"), ..RequestHeaders::default() }, at(5), true);
    call.trailers(&trailers("0"), at(7));
    let mut fresh = Call::new(false);
    fresh.request_headers(&RequestHeaders { path: Some(b"/a/B"), ..RequestHeaders::default() }, at(5), true);
    fresh.trailers(&trailers("0"), at(7));
    assert_eq!(emitted(&call), emitted(&fresh));
}

proptest! {
    #[test]
    fn cuts_and_holes_inside_messages_change_no_count(
        lengths in prop::collection::vec(0_usize..300, 0..20),
        pieces in prop::collection::vec((1_usize..50, any::<bool>()), 1..200),
    ) {
        let bytes: Vec<u8> = lengths.iter().flat_map(|&length| message(length)).collect();
        let mut call = asked();
        let (mut rest, mut pieces) = (bytes.as_slice(), pieces.into_iter().cycle());
        while !rest.is_empty() {
            let (length, seen) = pieces.next().unwrap();
            let passable = call.passable(Flow::Request).min(length as u64) as usize;
            let length = if seen || passable == 0 { length.min(rest.len()) } else { passable };
            let (piece, after) = rest.split_at(length);
            if seen || passable == 0 {
                call.data(Flow::Request, piece, at(11 * MS));
            } else {
                call.missing(Flow::Request, length as u64, 11 * MS);
            }
            rest = after;
        }
        prop_assert_eq!(emitted(&call).int("rpc.request.message_count"), Some(lengths.len() as i64));
    }

    #[test]
    fn no_bytes_are_too_much(bytes in prop::collection::vec(any::<u8>(), 0..200), path in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut call = Call::new(true);
        let head = RequestHeaders { path: Some(&path), authority: Some(&bytes), timeout: Some(&bytes), ..request() };
        call.request_headers(&head, at(1), true);
        call.data(Flow::Request, &bytes, at(2));
        call.missing(Flow::Request, 7, 2);
        call.trailers(&ResponseHeaders { status: Some(&bytes), message: Some(&bytes), ..OK }, at(2));
        emitted(&call);
    }
}
