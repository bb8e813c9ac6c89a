use proptest::prelude::*;

use super::{likeness, parser};
use crate::{
    model::{Flags, Flow, Protocol, Protocols},
    protocols::{Capture, Likeness, Loss, Opening, testing::Conversation},
};

const GET: &str = "GET /a?token=secret HTTP/1.1\r\nHost: shop:8080\r\nUser-Agent: curl/8\r\ntraceparent: 00-ab-cd-01\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

fn opened() -> Conversation {
    Conversation::opened(parser)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

fn answer(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn reports_what_a_request_and_its_response_say() {
    let mut talk = opened();
    talk.at(10_000).request(GET).at(50_000).response(OK);
    let exchange = &talk.seen.exchanges[0];
    assert_eq!(exchange.summary(), "GET /a 200");
    assert_eq!((exchange.start_ns, exchange.first_byte_ns, exchange.end_ns), (10_000, Some(50_000), 50_000));
    assert_eq!((exchange.request_bytes, exchange.response_bytes), (GET.len() as u64, OK.len() as u64));
    assert!(!exchange.error && exchange.flags == Flags::default());
    assert_eq!(exchange.text("http.request.method"), Some("GET"));
    assert_eq!(exchange.int("http.response.status_code"), Some(200));
    assert_eq!((exchange.text("server.address"), exchange.int("server.port")), (Some("shop"), Some(8080)));
    assert_eq!(talk.seen.hosts, ["shop"]);
    assert_eq!(exchange.text("user_agent.original"), Some("curl/8"));
    assert_eq!(exchange.text("traceparent"), Some("00-ab-cd-01"));
    assert_eq!(exchange.text("network.protocol.version"), Some("1.1"));
    assert_eq!(exchange.int("http.response.body.size"), Some(5));
    assert!(!format!("{exchange:?}").contains("secret"));
}

#[test]
fn counts_server_failures_as_errors_and_client_failures_not() {
    let mut talk = opened();
    talk.request(get("/a")).response(answer(404, "")).request(get("/b")).response(answer(503, "no"));
    assert_eq!(talk.seen.exchanges.iter().map(|exchange| exchange.error).collect::<Vec<_>>(), [false, true]);
    assert_eq!(talk.seen.exchanges[1].text("error.type"), Some("503"));
}

#[test]
fn pairs_fifty_pipelined_requests_of_one_write_in_order() {
    let expected: Vec<_> = (0..50).map(|n| format!("GET /{n} {}", 400 + n)).collect();
    let requests: String = (0..50).map(|n| get(&format!("/{n}"))).collect();
    let answers: Vec<_> = (0..50).map(|n| answer(400 + n, &"x".repeat(usize::from(n)))).collect();
    let mut talk = opened();
    talk.request(&requests).response(answers.concat());
    assert_eq!(talk.summaries(), expected);
    let mut talk = opened();
    talk.request(&requests);
    for answer in &answers {
        talk.response(answer);
    }
    assert_eq!(talk.summaries(), expected);
    assert!(talk.seen.losses.is_empty());
}

#[test]
fn reads_chunks_with_extensions_and_a_trailer_and_counts_their_framing() {
    let response =
        "HTTP/1.1 200 OK\r\ntransfer-ENCODING: gzip, Chunked\r\nContent-Length: 3\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\nDigest: x\r\n\r\n";
    let mut talk = opened();
    talk.request(get("/a")).response(format!("{response}{}", answer(201, ""))).request(get("/b")).response(answer(202, ""));
    assert_eq!(talk.summaries(), ["GET /a 200", "GET /b 201"]);
    assert_eq!(talk.seen.exchanges[0].response_bytes, response.len() as u64);
    assert_eq!(talk.seen.exchanges[0].int("http.response.body.size"), Some(5));
}

#[test]
fn knows_responses_without_a_body() {
    let mut talk = opened();
    talk.request("HEAD /h HTTP/1.1\r\n\r\n").response("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n");
    talk.request(get("/c")).response("HTTP/1.1 304 Not Modified\r\nContent-Length: 999\r\n\r\n");
    talk.request("DELETE /d HTTP/1.1\r\n\r\n").response("HTTP/1.1 204 No Content\r\n\r\n");
    talk.request(get("/e")).response(OK);
    assert_eq!(talk.summaries(), ["HEAD /h 200", "GET /c 304", "DELETE /d 204", "GET /e 200"]);
}

#[test]
fn counts_interim_responses_into_the_final_one() {
    let mut talk = opened();
    let head = "POST /p HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
    talk.request(head).response(interim).request("body").response(OK);
    assert_eq!(talk.summaries(), ["POST /p 200"]);
    assert_eq!(talk.seen.exchanges[0].request_bytes, head.len() as u64 + 4);
    assert_eq!(talk.seen.exchanges[0].response_bytes, (interim.len() + OK.len()) as u64);
}

#[test]
fn finds_the_next_request_when_an_expected_body_is_never_sent() {
    let mut talk = opened();
    talk.request("PUT /p HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 400\r\n\r\n").response(answer(417, ""));
    talk.request(get("/b")).response(OK);
    assert_eq!(talk.summaries(), ["PUT /p 417", "GET /b 200"]);
}

#[test]
fn waits_for_the_rest_of_a_request_that_was_answered_early() {
    let mut talk = opened();
    let head = "POST /big HTTP/1.1\r\nContent-Length: 10\r\n\r\n";
    talk.request(head).request("12345").response(answer(413, ""));
    assert!(talk.seen.exchanges.is_empty());
    let answered_ns = talk.now_ns();
    talk.request("67890").request(get("/b")).response(OK);
    assert_eq!(talk.summaries(), ["POST /big 413", "GET /b 200"]);
    assert_eq!(talk.seen.exchanges[0].request_bytes, head.len() as u64 + 10);
    assert_eq!(talk.seen.exchanges[0].end_ns, answered_ns);
}

#[test]
fn skips_bodies_larger_than_the_capture_and_finds_the_next_head() {
    let mut talk = opened();
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    talk.request(get("/big")).cut_call(Flow::Response, head, head.len() as u64 + 500_000);
    assert_eq!(talk.skips_until(Flow::Response), head.len() as u64 + 1_000_000);
    talk.lost_call(Flow::Response, 400_000).cut_call(Flow::Response, "x", 100_000).request(get("/b")).response(OK);
    assert_eq!(talk.summaries(), ["GET /big 200", "GET /b 200"]);
    assert_eq!(talk.seen.exchanges[0].response_bytes, head.len() as u64 + 1_000_000);
    assert!(talk.seen.losses.is_empty());
}

#[test]
fn ends_a_body_without_length_at_the_close() {
    let mut talk = opened();
    talk.request("GET /old HTTP/1.0\r\n\r\n").response("HTTP/1.0 200 OK\r\n\r\n").cut_call(Flow::Response, "abc", 1000);
    let last_ns = talk.now_ns();
    talk.at(last_ns + 1_000_000).close();
    let exchange = &talk.seen.exchanges[0];
    assert_eq!((exchange.summary(), exchange.response_bytes, exchange.end_ns), ("GET /old 200".into(), 1019, last_ns));
    assert_eq!(exchange.text("network.protocol.version"), Some("1.0"));
    assert_eq!(exchange.flags, Flags::default());
}

#[test]
fn leaves_upgraded_and_tunnelled_connections_alone() {
    for (request, response) in [
        ("GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n\x01\x02"),
        ("CONNECT db:443 HTTP/1.1\r\n\r\n", "HTTP/1.1 200 Connection established\r\n\r\n\x16\x03"),
    ] {
        let mut talk = opened();
        talk.request(request).response(response).request("\x00\x01 GET / HTTP/1.1\r\n\r\n").response(OK).close();
        assert_eq!(talk.seen.exchanges.len(), 1, "{request}");
        assert_eq!(talk.seen.captures, [Capture::Lengths]);
        assert_eq!((talk.skips_until(Flow::Request), talk.skips_until(Flow::Response)), (u64::MAX, u64::MAX));
        assert!(talk.seen.losses.is_empty() && !talk.refused());
    }
}

#[test]
fn hands_a_connection_that_agreed_on_http2_over_and_reports_its_request_once() {
    let asked = "GET /first?token=secret HTTP/1.1\r\nHost: [::1]:8080\r\nUser-Agent: curl/8\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                 Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    let agreed = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    // HEADERS that end their stream: :status 200 and 404; GET of /, by the static table.
    let (ok, missing) = (b"\0\0\x01\x01\x05\0\0\0\x01\x88", b"\0\0\x01\x01\x05\0\0\0\x03\x8d");
    let next = b"\0\0\x03\x01\x05\0\0\0\x03\x82\x84\x86";
    let mut talk = opened();
    talk.at(10_000).request(asked).response([agreed.as_bytes(), settings].concat());
    talk.request([&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], settings].concat()).response(ok);
    talk.request(next).response(missing).close();
    assert_eq!(talk.summaries(), ["GET /first 200", "GET / 404"]);
    let first = &talk.seen.exchanges[0];
    assert_eq!((first.start_ns, first.text("network.protocol.version")), (10_000, Some("2")));
    assert_eq!((first.text("server.address"), first.int("server.port")), (Some("::1"), Some(8080)));
    assert_eq!(first.text("user_agent.original"), Some("curl/8"));
    assert!(talk.seen.losses.is_empty() && !talk.refused());
}

#[test]
fn leaves_a_tunnel_alone_whose_request_was_reported_late() {
    let mut talk = opened();
    talk.response("HTTP/1.1 200 Connection established\r\n\r\n").request("CONNECT db:443 HTTP/1.1\r\n\r\n");
    assert_eq!(talk.summaries(), ["CONNECT db:443 200"]);
    talk.request("\x16\x03\x01").response("\x16\x03\x02").close();
    assert_eq!((talk.seen.exchanges.len(), talk.seen.captures.len(), talk.seen.losses.len()), (1, 1, 0));
}

#[test]
fn reads_all_forms_of_targets_without_query_and_password() {
    let cases = [
        ("GET http://user:pw@shop:81/x/y?q=http://z HTTP/1.1", "/x/y", Some("shop")),
        ("GET http://[::1]?q HTTP/1.1", "/", Some("::1")),
        ("OPTIONS * HTTP/1.1", "*", None),
        ("GET /cb?u=http://z/w HTTP/1.1", "/cb", None),
        ("GET ?u=http://z/w HTTP/1.1", "/", None),
        ("CONNECT db:5432 HTTP/1.1", "db:5432", Some("db")),
    ];
    for (line, path, host) in cases {
        let mut talk = opened();
        talk.request(format!("{line}\r\n\r\n")).response(answer(400, ""));
        assert_eq!((talk.seen.exchanges[0].resource.as_str(), talk.seen.exchanges[0].text("server.address")), (path, host), "{line}");
    }
}

#[test]
fn pairs_a_response_that_was_reported_before_its_request() {
    let mut talk = opened();
    talk.response(OK).request(get("/a")).request(get("/b")).response(answer(404, ""));
    talk.response("HTTP/1.1 200 OK\r\nContent-Length: 70\r\n\r\n").request("HEAD /h HTTP/1.1\r\n\r\n").request(get("/c")).response(OK);
    assert_eq!(talk.summaries(), ["GET /a 200", "GET /b 404", "HEAD /h 200", "GET /c 200"]);
    assert!(talk.seen.exchanges.iter().all(|exchange| exchange.start_ns <= exchange.end_ns));
}

#[test]
fn drops_the_answer_to_a_request_from_before_the_agent() {
    let mut talk = Conversation::adopted(parser, 5000);
    talk.response("the end of some body").response(answer(500, "old")).request(get("/a")).response(OK).request(get("/b")).response(OK);
    assert_eq!(talk.summaries(), ["GET /a 200", "GET /b 200"]);
    assert!(talk.seen.exchanges.iter().all(|exchange| exchange.flags == Flags::ADOPTED));
    assert!(talk.seen.losses.is_empty());
}

#[test]
fn takes_no_part_of_a_method_for_a_method() {
    let mut talk = Conversation::adopted(parser, 5000);
    talk.request(&get("/old")[1..]).response(OK).request(get("/a")).response(OK);
    assert_eq!(talk.summaries(), ["GET /a 200"]);
}

#[test]
fn tells_the_answer_to_an_unseen_head_request_from_one_with_a_body() {
    let mut talk = Conversation::adopted(parser, 5000);
    talk.response("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n").request(get("/a")).response("HT").response("TP/1.1 201 X\r\n");
    talk.response("Content-Length: 2\r\n\r\nxy").request(get("/b")).response(OK);
    assert_eq!(talk.summaries(), ["GET /a 201", "GET /b 200"]);
    let mut talk = Conversation::adopted(parser, 5000);
    talk.response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").response("HTTP!").request(get("/a")).response(answer(201, ""));
    talk.request(get("/b")).response(OK);
    assert_eq!(talk.summaries(), ["GET /a 201", "GET /b 200"]);
}

#[test]
fn reads_a_long_head_one_byte_at_a_time() {
    let head = format!("GET /a HTTP/1.1\r\nCookie: {}\r\n\r\n", "c".repeat(60_000));
    let mut talk = opened();
    for byte in head.as_bytes() {
        talk.request([*byte]);
    }
    talk.response(OK);
    assert_eq!(talk.summaries(), ["GET /a 200"]);
}

#[test]
fn does_not_pair_when_a_pipelined_request_was_missed() {
    let mut talk = opened();
    talk.lost_call(Flow::Request, 40).request(get("/b")).response(answer(200, "a")).response(answer(201, "b"));
    talk.close();
    assert_eq!(talk.summaries(), Vec::<String>::new());
    assert_eq!(talk.seen.losses[0], Loss::ParseGap);
}

#[test]
fn resumes_after_a_missed_request_once_the_order_has_proven_itself() {
    let mut talk = opened();
    talk.lost_call(Flow::Request, 40).response(answer(500, ""));
    for n in 0..5 {
        talk.request(get(&format!("/{n}"))).response(answer(200 + n, ""));
    }
    assert_eq!(talk.summaries(), ["GET /0 200", "GET /1 201", "GET /2 202", "GET /3 203", "GET /4 204"]);
}

#[test]
fn keeps_an_exchange_whose_chunked_body_has_a_hole_and_says_so() {
    let mut talk = opened();
    talk.request(get("/a")).response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").lost_call(Flow::Response, 100);
    talk.response("rest\r\n0\r\n\r\n").request(get("/b")).response(OK);
    assert_eq!(talk.summaries(), ["GET /a 200", "GET /b 200"]);
    assert!(talk.seen.exchanges[0].flags.contains(Flags::GAP));
    assert_eq!(talk.seen.exchanges[1].flags, Flags::default());
    assert_eq!(talk.seen.losses, [Loss::ParseGap]);
}

#[test]
fn reports_requests_that_the_close_left_unanswered() {
    let mut talk = opened();
    talk.request(get("/a")).close();
    let exchange = &talk.seen.exchanges[0];
    assert_eq!((exchange.summary(), exchange.error, exchange.first_byte_ns), ("GET /a ".into(), true, None));
    assert_eq!(exchange.flags, Flags::UNANSWERED);
}

#[test]
fn bounds_open_requests_and_stays_in_order() {
    let mut talk = opened();
    for n in 0..1030 {
        talk.request(get(&format!("/{n}")));
    }
    for n in 0..1030 {
        talk.response(answer(205 + n % 90, ""));
    }
    assert_eq!(talk.seen.losses, [Loss::PendingFull; 6]);
    let expected: Vec<_> = (6..1030).map(|n| format!("GET /{n} {}", 205 + n % 90)).collect();
    assert_eq!(talk.summaries(), expected);
}

#[test]
fn gives_up_a_head_that_is_too_large() {
    let mut talk = opened();
    talk.request("GET / HTTP/1.1\r\n");
    for _ in 0..100 {
        talk.request("Cookie: ".to_owned() + &"c".repeat(1000) + "\r\n");
        assert!(talk.buffered(Flow::Request) <= crate::protocols::MAX_BUFFERED);
    }
    talk.request("\r\n").response(answer(431, ""));
    assert_eq!(talk.summaries(), Vec::<String>::new());
    assert_eq!(talk.seen.losses, [Loss::ParseGap]);
}

#[test]
fn prefers_chunks_to_lengths_and_refuses_contradicting_lengths() {
    let mut talk = opened();
    talk.request("POST /a HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").response(OK);
    talk.request("POST /b HTTP/1.1\nContent-Length: 2, 2\nContent-Length: 2\n\nxy").response(OK);
    talk.request("POST /c HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nxyGET /evil HTTP/1.1\r\n\r\n")
        .response(answer(400, ""));
    assert_eq!(talk.summaries(), ["POST /a 200", "POST /b 200", "POST /c 400"]);
}

#[test]
fn tells_http_from_its_first_bytes() {
    let request = |bytes: &str| likeness(Flow::Request, bytes.as_bytes());
    assert_eq!(request("GET / HTTP/1.1\r\n"), Likeness::Certain);
    assert_eq!(request("PURGE /x HTTP/1.0\n"), Likeness::Certain);
    for prefix in ["G", "GET", "GET ", "GET /long", "GET / HT", "GET / HTTP/1.1", "\r\nPOST /"] {
        assert_eq!(request(prefix), Likeness::Undecided, "{prefix}");
    }
    for other in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "EHLO x\r\n", "get foo\r\n", "*1\r\n$4\r\nPING\r\n", "\x16\x03\x01", "SSH-2.0-x\r\n"]
    {
        assert_eq!(request(other), Likeness::No, "{other}");
    }
    assert_eq!(likeness(Flow::Response, b"HTTP/1.1 200 OK\r\n"), Likeness::Certain);
    assert_eq!(likeness(Flow::Response, b"HTTP/1.1 2"), Likeness::Undecided);
    assert_eq!(likeness(Flow::Response, b"HTTP/2 200"), Likeness::No);
    assert_eq!(likeness(Flow::Response, b"HTTP/1.1 2x0"), Likeness::No);
    assert_eq!(likeness(Flow::Response, b"HTTP/1.1 200 OK\r\nServer"), Likeness::Certain);
    let log = b"HTTP/1.1 200 612\n<16>1 2026-01-01T00:00:03Z web shop - - GET /b HTTP/1.1 200 300\n";
    assert_eq!(likeness(Flow::Response, log), Likeness::No, "a line of a log, cut there");
    assert_eq!(request("GET /a HTTP/1.1\n2026-01-01 00:00:00 GET /b HTTP/1.1\n"), Likeness::No);
}

#[test]
fn refuses_what_was_never_http() {
    let mut talk = opened();
    talk.request("\x16\x03\x01\x02");
    assert!(talk.refused());
}

/// A request and its response as bytes, one of several shapes; the path names it, so that a wrong pair shows.
fn exchange_bytes(number: usize, shape: u8) -> (String, String, String) {
    let status = 200 + number % 3;
    match shape {
        0 => (get(&format!("/{number}")), answer(status as u16, "hello"), format!("GET /{number} {status}")),
        1 => (
            format!("POST /{number} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
            format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n2\r\n\r\n\r\n0\r\nT: v\r\n\r\n"),
            format!("POST /{number} {status}"),
        ),
        2 => (
            format!("HEAD /{number} HTTP/1.1\r\nHost: h\r\n\r\n"),
            format!("HTTP/1.1 {status} X\r\nContent-Length: 50\r\n\r\n"),
            format!("HEAD /{number} {status}"),
        ),
        _ => (
            format!("PUT /{number} HTTP/1.1\r\nContent-Length: 6\r\n\r\nabcdef"),
            format!("HTTP/1.1 103 Hint\r\n\r\nHTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"),
            format!("PUT /{number} {status}"),
        ),
    }
}

/// The calls of a client that sends a window of requests and waits for all answers before the next window.
fn calls(shapes: &[u8], windows: &[usize]) -> (Vec<(Flow, String)>, Vec<String>) {
    let exchanges: Vec<_> = shapes.iter().enumerate().map(|(number, &shape)| exchange_bytes(number, shape)).collect();
    let mut calls = Vec::new();
    let mut rest = exchanges.as_slice();
    for &window in windows.iter().cycle() {
        let (batch, after) = rest.split_at(window.min(rest.len()));
        calls.extend(batch.iter().map(|(request, _, _)| (Flow::Request, request.clone())));
        calls.extend(batch.iter().map(|(_, response, _)| (Flow::Response, response.clone())));
        if after.is_empty() {
            break;
        }
        rest = after;
    }
    (calls, exchanges.into_iter().map(|(_, _, summary)| summary).collect())
}

proptest! {
    #[test]
    fn cutting_calls_changes_nothing(
        shapes in prop::collection::vec(0_u8..4, 1..12),
        windows in prop::collection::vec(1_usize..5, 1..6),
        cuts in prop::collection::vec(1_usize..40, 1..30),
    ) {
        let (calls, expected) = calls(&shapes, &windows);
        let mut talk = opened();
        let mut cuts = cuts.iter().cycle();
        for (flow, bytes) in &calls {
            let mut rest = bytes.as_bytes();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                talk.call(*flow, piece);
                rest = after;
            }
        }
        talk.close();
        prop_assert_eq!(talk.summaries(), expected);
        prop_assert!(talk.seen.losses.is_empty());
    }

    #[test]
    fn a_missing_call_never_makes_a_wrong_pair(
        shapes in prop::collection::vec(0_u8..4, 1..20),
        windows in prop::collection::vec(1_usize..5, 1..6),
        missing in any::<prop::sample::Index>(),
    ) {
        let (calls, expected) = calls(&shapes, &windows);
        let missing = missing.index(calls.len());
        let mut talk = opened();
        for (index, (flow, bytes)) in calls.iter().enumerate() {
            if index == missing {
                talk.lost_call(*flow, bytes.len() as u64);
            } else {
                talk.call(*flow, bytes);
            }
        }
        talk.close();
        for exchange in &talk.seen.exchanges {
            let unanswered = exchange.flags.contains(Flags::UNANSWERED);
            prop_assert!(unanswered || expected.contains(&exchange.summary()), "{} of {:?}", exchange.summary(), expected);
        }
        if windows.iter().all(|&window| window == 1) && missing < calls.len().saturating_sub(1) {
            let accounted = talk.seen.exchanges.len() + talk.seen.losses.len();
            prop_assert!(accounted >= expected.len(), "{} of {}", accounted, expected.len());
        }
    }
}

#[test]
fn survives_twenty_thousand_mutated_conversations() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let alphabet = b"\r\n :/?0159aAfF,;=HTTP/1.1\x00\xff";
    for round in 0..20_000_usize {
        let shapes: Vec<_> = (0..1 + random(4)).map(|_| random(4) as u8).collect();
        let mut talk = if round % 3 == 0 { Conversation::adopted(parser, 7) } else { opened() };
        for (flow, bytes) in calls(&shapes, &[1 + random(3)]).0 {
            let mut bytes = bytes.into_bytes();
            for _ in 0..random(4) {
                let at = random(bytes.len());
                match random(3) {
                    0 => bytes[at] = alphabet[random(alphabet.len())],
                    1 => bytes.insert(at, alphabet[random(alphabet.len())]),
                    _ => bytes.truncate(at + 1),
                }
            }
            let flow = if random(20) == 0 { flow.opposite() } else { flow };
            let size = bytes.len() + if random(10) == 0 { random(2000) } else { 0 };
            let cut = random(bytes.len() + 1);
            talk.call(flow, &bytes[..cut]).cut_call(flow, &bytes[cut..], (size - cut) as u64);
        }
        talk.close();
        assert!(talk.seen.exchanges.len() <= 100);
    }
}

#[test]
fn secrets_stay_inside_and_a_query_leaves_only_when_it_is_asked_for() {
    let head =
        "Authorization: Basic hunter2\r\nCookie: id=hunter2\r\nX-Api-Key: hunter2\r\nReferer: http://a/?hunter2\r\nContent-Length: 7\r\n";
    let answer = "HTTP/1.1 302 hunter2\r\nSet-Cookie: id=hunter2\r\nLocation: /?hunter2\r\nContent-Length: 7\r\n\r\nhunter2";
    for target in ["/a?token=hunter2#hunter2", "http://me:hunter2@shop/a?token=hunter2"] {
        for wanted in [Protocols::NONE, Protocols::from_iter([Protocol::Grpc]), Protocols::from_iter([Protocol::Http])] {
            let shown = wanted.contains(Protocol::Http);
            let mut talk = Conversation::new(parser(Opening { raw: wanted, ..Opening::default() }), 0);
            talk.request(format!("POST {target} HTTP/1.1\r\nHost: shop\r\n{head}\r\nhunter2")).response(answer).close();
            let told = format!("{:?}", talk.seen);
            assert_eq!(talk.summaries(), ["POST /a 302"]);
            assert_eq!(told.matches("hunter2").count(), usize::from(shown), "{told}");
            assert_eq!(talk.seen.exchanges[0].text("url.query"), shown.then_some("token=hunter2"));
        }
    }
}

#[test]
fn a_query_that_is_asked_for_is_bounded_like_the_path() {
    let wanted = Protocols::from_iter([Protocol::Http]);
    let mut talk = Conversation::new(parser(Opening { raw: wanted, ..Opening::default() }), 0);
    talk.request(get(&format!("/a?{}", "x".repeat(5000)))).response(OK);
    assert_eq!(talk.seen.exchanges[0].text("url.query").map(str::len), Some(1024));
}
