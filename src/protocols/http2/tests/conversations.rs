//! What a client and a server can say to each other.

use super::*;
use crate::{
    model::{Flags, Flow, Protocol, Protocols},
    protocols::{
        Capture, Loss, Opening,
        http2::{UpgradedRequest, upgraded},
        testing::OwnedExchange,
    },
};

#[test]
fn reports_what_a_request_and_its_response_say() {
    let mut talk = opened();
    let request = frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        1,
        fields(&[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "shop:8080"),
            (":path", "/a?token=secret"),
            ("user-agent", "curl/8"),
            ("traceparent", "00-ab-cd-01"),
            ("cookie", "secret"),
        ]),
    );
    let head = frame(HEADERS, END_HEADERS, 1, fields(&[(":status", "200"), ("set-cookie", "secret")]));
    let body = frame(DATA, END_STREAM, 1, "hello");
    talk.at(10_000).request(&request).at(50_000).response(&head).at(60_000).response(&body);
    let exchange = &talk.seen.exchanges[0];
    assert_eq!(exchange.summary(), "GET /a 200");
    assert_eq!((exchange.start_ns, exchange.first_byte_ns, exchange.end_ns), (10_000, Some(50_000), 60_000));
    assert_eq!((exchange.request_bytes, exchange.response_bytes), (request.len() as u64, (head.len() + body.len()) as u64));
    assert!(!exchange.error && exchange.flags == Flags::default());
    assert_eq!(exchange.text("http.request.method"), Some("GET"));
    assert_eq!(exchange.text("url.path"), Some("/a"));
    assert_eq!(exchange.int("http.response.status_code"), Some(200));
    assert_eq!((exchange.text("server.address"), exchange.int("server.port")), (Some("shop"), Some(8080)));
    assert_eq!(talk.seen.hosts, ["shop"]);
    assert_eq!(exchange.text("user_agent.original"), Some("curl/8"));
    assert_eq!(exchange.text("traceparent"), Some("00-ab-cd-01"));
    assert_eq!(exchange.text("network.protocol.version"), Some("2"));
    assert_eq!(exchange.int("http.response.body.size"), Some(5));
    assert!(!format!("{exchange:?}").contains("secret"));
    assert_eq!(talk.seen.captures, [Capture::Full]);
}

#[test]
fn pairs_a_hundred_streams_answered_in_another_order() {
    let mut talk = opened();
    let requests: Vec<u8> = (0..100).flat_map(|n| get(1 + 2 * n, &format!("/{n}"))).collect();
    talk.request(&requests);
    let mut answers = Vec::new();
    for n in (0..100).rev() {
        answers.extend(frame(HEADERS, END_HEADERS, 1 + 2 * n, fields(&[(":status", &format!("{}", 400 + n))])));
    }
    for n in 0..100 {
        answers.extend(frame(DATA, 0, 1 + 2 * n, vec![b'x'; n as usize]));
    }
    for n in 0..100 {
        answers.extend(frame(DATA, END_STREAM, 1 + 2 * (n * 7 % 100), []));
    }
    talk.response(&answers);
    let mut summaries = talk.summaries();
    assert_eq!(summaries[1], "GET /7 407");
    summaries.sort_by_key(|summary| summary[5..summary.len() - 4].parse::<u32>().unwrap());
    assert_eq!(summaries, (0..100).map(|n| format!("GET /{n} {}", 400 + n)).collect::<Vec<_>>());
    assert_eq!(talk.seen.exchanges.iter().map(|one| one.int("http.response.body.size").unwrap_or(0)).sum::<i64>(), 99 * 50);
    assert!(talk.seen.losses.is_empty());
}

fn one(talk: &Conversation) -> &OwnedExchange {
    assert_eq!(talk.seen.exchanges.len(), 1, "{:#?}", talk.seen);
    &talk.seen.exchanges[0]
}

#[test]
fn joins_a_header_block_of_many_frames_with_padding_and_priority() {
    let block = request_fields("POST", "/upload");
    let (first, rest) = block.split_at(7);
    let (second, third) = rest.split_at(1);
    let padded = [&[3, 0, 0, 0, 0, 200], first, &[0, 0, 0]].concat();
    let mut talk = opened();
    talk.request(frame(HEADERS, PADDED | PRIORITY, 1, padded));
    talk.request([frame(CONTINUATION, 0, 1, second), frame(CONTINUATION, END_HEADERS, 1, third)].concat());
    let body = frame(DATA, PADDED | END_STREAM, 1, [&[4][..], b"hello", &[0; 4]].concat());
    talk.request(&body).response(answer(1, "201"));
    let exchange = one(&talk);
    assert_eq!(exchange.summary(), "POST /upload 201");
    assert_eq!(exchange.int("http.request.body.size"), Some(5));
    assert_eq!(exchange.request_bytes, (9 * 3 + 9 + block.len() + body.len()) as u64);
    assert!(talk.seen.losses.is_empty());
}

#[test]
fn counts_interim_responses_and_trailers_into_the_exchange() {
    let interim = frame(HEADERS, END_HEADERS, 1, fields(&[(":status", "103"), ("link", "x")]));
    let head = frame(HEADERS, END_HEADERS, 1, fields(&[(":status", "200")]));
    let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, fields(&[("digest", "x")]));
    let mut talk = opened();
    talk.request(get(1, "/a")).at(20_000).response(&interim).at(30_000).response(&head).at(40_000).response(&trailers);
    let exchange = one(&talk);
    assert_eq!((exchange.summary().as_str(), exchange.first_byte_ns, exchange.end_ns), ("GET /a 200", Some(30_000), 40_000));
    assert_eq!(exchange.response_bytes, (interim.len() + head.len() + trailers.len()) as u64);
    assert_eq!(exchange.flags, Flags::default());
}

#[test]
fn waits_for_the_end_of_a_request_that_was_answered_early_or_for_its_reset() {
    let mut talk = opened();
    for stream in [1, 3] {
        talk.request(frame(HEADERS, END_HEADERS, stream, request_fields("POST", "/big"))).response(answer(stream, "413"));
    }
    assert!(talk.seen.exchanges.is_empty());
    talk.request(frame(DATA, END_STREAM, 1, "rest")).response(frame(RST_STREAM, 0, 3, [0; 4]));
    assert_eq!(talk.summaries(), ["POST /big 413", "POST /big 413"]);
    assert!(talk.seen.exchanges.iter().all(|exchange| !exchange.error && exchange.flags == Flags::default()));
}

#[test]
fn a_reset_ends_the_exchange_with_what_is_known() {
    let mut talk = opened();
    talk.request([get(1, "/a"), get(3, "/b"), get(5, "/c")].concat());
    talk.response(frame(HEADERS, END_HEADERS, 1, fields(&[(":status", "200")]))).response(frame(DATA, 0, 1, "half"));
    talk.at(90_000).request(frame(RST_STREAM, 0, 1, CANCEL));
    talk.response(frame(RST_STREAM, 0, 3, [0, 0, 0, 7])).response(answer(5, "204"));
    // What the server had under way when the reset reached it.
    talk.response(frame(DATA, END_STREAM, 1, "rest")).close();
    assert_eq!(talk.summaries(), ["GET /a 200", "GET /b ", "GET /c 204"]);
    let [cancelled, refused, fine] = &talk.seen.exchanges[..] else { panic!("three") };
    assert_eq!((cancelled.error, cancelled.text("error.type"), cancelled.end_ns), (true, Some("CANCEL"), 90_000));
    assert_eq!((refused.error, refused.text("error.type"), refused.first_byte_ns), (true, Some("REFUSED_STREAM"), None));
    assert_eq!((cancelled.flags, refused.flags), (Flags::default(), Flags::UNANSWERED));
    assert!(!fine.error);
    assert!(talk.seen.losses.is_empty());
}

#[test]
fn go_away_ends_the_streams_that_the_server_will_not_look_at() {
    let go_away = |last: u32, code: u32| frame(GOAWAY, 0, 0, [&last.to_be_bytes()[..], &code.to_be_bytes(), b"why"].concat());
    let mut talk = opened();
    talk.request([get(1, "/a"), get(3, "/b")].concat()).response(go_away(0x7fff_ffff, 0)).response(go_away(1, 0));
    assert_eq!(talk.summaries(), ["GET /b "]);
    talk.request(get(5, "/late")).response(answer(1, "200")).close();
    assert_eq!(talk.summaries(), ["GET /b ", "GET /late ", "GET /a 200"]);
    assert_eq!(talk.seen.exchanges[0].text("error.type"), Some("GOAWAY"));
    assert!(talk.seen.exchanges[1].error && !talk.seen.exchanges[2].error);
    let mut talk = opened();
    talk.request(get(1, "/a")).response(go_away(1, 11)).close();
    assert_eq!((one(&talk).text("error.type"), one(&talk).flags), (Some("ENHANCE_YOUR_CALM"), Flags::UNANSWERED));
}

#[test]
fn streams_left_open_are_unanswered_and_cut_ones_truncated() {
    let mut talk = opened();
    talk.request([get(1, "/a"), get(3, "/b")].concat());
    talk.response(frame(HEADERS, END_HEADERS, 3, fields(&[(":status", "200")]))).at(99_000).close();
    assert_eq!(talk.summaries(), ["GET /a ", "GET /b 200"]);
    assert_eq!((talk.seen.exchanges[0].flags, talk.seen.exchanges[0].end_ns), (Flags::UNANSWERED, 99_000));
    assert!(talk.seen.exchanges[0].error && !talk.seen.exchanges[1].error);
    assert_eq!(talk.seen.exchanges[1].flags, Flags::TRUNCATED);
}

#[test]
fn a_pushed_response_is_an_exchange_of_its_own() {
    let mut talk = opened();
    talk.request(get(1, "/page"));
    let promise = frame(PUSH_PROMISE, END_HEADERS, 1, [&[0, 0, 0, 2][..], &request_fields("GET", "/style")].concat());
    talk.at(5_000).response(&promise).response(answer(1, "200")).response(frame(HEADERS, END_HEADERS, 2, fields(&[(":status", "200")])));
    talk.response(frame(DATA, END_STREAM, 2, "body"));
    assert_eq!(talk.summaries(), ["GET /page 200", "GET /style 200"]);
    let pushed = &talk.seen.exchanges[1];
    assert_eq!((pushed.start_ns, pushed.request_bytes), (5_000, promise.len() as u64));
}

#[test]
fn connect_ends_with_its_answer_and_what_follows_is_not_read() {
    let mut talk = opened();
    talk.request(frame(HEADERS, END_HEADERS, 1, fields(&[(":method", "CONNECT"), (":authority", "db:5432")])));
    talk.response(frame(HEADERS, END_HEADERS, 1, fields(&[(":status", "200")])));
    talk.request(frame(DATA, 0, 1, "anything")).response(frame(DATA, END_STREAM, 1, "anything")).close();
    assert_eq!(talk.summaries(), ["CONNECT db:5432 200"]);
    assert!(talk.seen.hosts.is_empty(), "a proxy is not who is asked for through it");
    assert_eq!(one(&talk).flags, Flags::default());
}

#[test]
fn bodies_are_passed_over_by_length() {
    let mut talk = opened();
    talk.request(get(1, "/big")).response(frame(HEADERS, END_HEADERS, 1, fields(&[(":status", "200")])));
    let data = frame(DATA, END_STREAM, 1, vec![b'x'; 100_000]);
    talk.cut_call(Flow::Response, &data[..500], data.len() as u64);
    talk.request(get(3, "/next")).response(answer(3, "200"));
    assert_eq!(talk.summaries(), ["GET /big 200", "GET /next 200"]);
    assert_eq!(talk.seen.exchanges[0].int("http.response.body.size"), Some(100_000));
    assert!(talk.seen.losses.is_empty());
}

#[test]
fn an_upgraded_connection_answers_the_request_of_http_1_as_stream_one() {
    let request = UpgradedRequest {
        method: b"GET",
        path: b"/a?token=secret",
        authority: Some(b"shop:80"),
        start_ns: 7,
        request_bytes: 150,
        ..UpgradedRequest::default()
    };
    let mut talk = Conversation::opened(|opening| {
        upgraded(
            opening,
            UpgradedRequest {
                method: b"GET",
                path: b"/a?token=secret",
                authority: Some(b"shop:80"),
                start_ns: 7,
                request_bytes: 150,
                ..UpgradedRequest::default()
            },
        )
    });
    assert_eq!(request.start_ns, 7);
    talk.response([settings(), answer(1, "200")].concat());
    talk.request([crate::protocols::http2::PREFACE.as_slice(), &settings(), &get(3, "/b")].concat()).response(answer(3, "404"));
    assert_eq!(talk.summaries(), ["GET /a 200", "GET /b 404"]);
    assert_eq!((talk.seen.exchanges[0].start_ns, talk.seen.exchanges[0].request_bytes), (7, 150));
    assert_eq!(talk.seen.exchanges[0].text("server.address"), Some("shop"));
    assert!(matches!(
        upgraded(Opening::default(), request).parse(
            Flow::Request,
            b"GET / HTTP/1.1",
            crate::protocols::At { first_ns: 1, last_ns: 1, call_start: true },
            &mut talk.seen
        ),
        crate::protocols::Step::NotMine
    ));
}

#[test]
fn frames_in_any_number_of_calls_give_the_same() {
    let requests = [super::super::PREFACE.as_slice(), &settings(), &get(1, "/a"), &get(3, "/b")].concat();
    let responses = [
        settings(),
        answer(3, "200"),
        frame(HEADERS, END_HEADERS, 1, fields(&[(":status", "404")])),
        frame(DATA, END_STREAM | PADDED, 1, b"\x02abc\0\0"),
    ]
    .concat();
    for size in 1..40 {
        let mut talk = Conversation::opened(parser);
        for piece in requests.chunks(size) {
            talk.request(piece);
        }
        for piece in responses.chunks(size) {
            talk.response(piece);
        }
        assert_eq!(talk.summaries(), ["GET /b 200", "GET /a 404"], "{size}");
        assert_eq!(talk.seen.exchanges[1].int("http.response.body.size"), Some(3));
        assert_eq!(talk.seen.losses, []);
    }
}

#[test]
fn a_response_reported_before_its_request_finds_it() {
    let mut talk = opened();
    talk.response(answer(1, "200")).request(get(1, "/a"));
    assert_eq!(talk.summaries(), ["GET /a 200"]);
    assert_eq!(one(&talk).start_ns, one(&talk).first_byte_ns.unwrap());
}

#[test]
fn a_late_joiner_knows_what_was_inserted_since_and_leaves_the_rest_empty() {
    let mut talk = Conversation::adopted(parser, 0);
    // 62: inserted before; 0xbe is its index.
    let old = |stream, tail: &[u8]| frame(HEADERS, END_STREAM | END_HEADERS, stream, [&[0x82, 0x86, 0xbe][..], tail].concat());
    talk.request(old(11, &kept(&[(":authority", "shop")]))).response(answer(11, "200"));
    talk.request(frame(HEADERS, END_STREAM | END_HEADERS, 13, [&[0x82, 0x86][..], &kept(&[(":path", "/new")]), &[0xbf]].concat()));
    talk.response(answer(13, "200"));
    talk.request(frame(HEADERS, END_STREAM | END_HEADERS, 15, [0x82, 0x86, 0xbe, 0xbf])).response(frame(HEADERS, 5, 15, [0xc0]));
    assert_eq!(talk.summaries(), ["GET  200", "GET /new 200", "GET /new "]);
    let flags = talk.seen.exchanges.iter().map(|one| one.flags).collect::<Vec<_>>();
    assert_eq!(flags, [Flags::ADOPTED | Flags::TRUNCATED, Flags::ADOPTED, Flags::ADOPTED | Flags::TRUNCATED]);
    assert_eq!(talk.seen.exchanges[1].text("server.address"), Some("shop"));
    assert!(!talk.seen.exchanges[2].error);
}

#[test]
fn a_late_joiner_leaves_out_answers_to_what_was_asked_before() {
    let mut talk = Conversation::adopted(parser, 0);
    talk.response([answer(9, "500"), frame(DATA, END_STREAM, 7, "x")].concat());
    talk.request(get(11, "/a")).response(answer(11, "200")).close();
    assert_eq!(talk.summaries(), ["GET /a 200"]);
    assert!(talk.seen.losses.is_empty());
}

#[test]
fn a_hole_makes_the_table_unknown_and_nothing_wrong_is_said() {
    let mut talk = opened();
    talk.request(frame(HEADERS, END_STREAM | END_HEADERS, 1, [&[0x82, 0x86][..], &kept(&[(":path", "/old")])].concat()));
    talk.response(answer(1, "200"));
    let lost = frame(HEADERS, END_STREAM | END_HEADERS, 3, [&[0x82, 0x86][..], &kept(&[(":path", "/lost")])].concat());
    talk.lost_call(Flow::Request, lost.len() as u64).response(answer(3, "200"));
    talk.request(frame(HEADERS, END_STREAM | END_HEADERS, 5, [0x82, 0x86, 0xbf])).response(answer(5, "200")).close();
    assert_eq!(talk.summaries(), ["GET /old 200", "GET  200"]);
    assert_eq!(talk.seen.exchanges[1].flags, Flags::TRUNCATED);
    assert_eq!(talk.seen.losses, [Loss::ParseGap]);
}

#[test]
fn a_header_block_cut_by_the_capture_limit_loses_its_fields_and_not_the_frames_behind_it() {
    let mut talk = opened();
    let cut = get(1, "/cut");
    talk.cut_call(Flow::Request, &cut[..20], cut.len() as u64);
    // Inside the next call, where nobody would look for a frame.
    talk.request(get(3, "/a")).response([answer(3, "200"), answer(1, "200")].concat());
    assert_eq!(talk.summaries(), ["GET /a 200", "  200"]);
    assert_eq!(talk.seen.exchanges[1].flags, Flags::TRUNCATED);
}

#[test]
fn the_oldest_of_too_many_streams_is_given_up_and_counted() {
    let mut talk = opened();
    for n in 0..1030_u32 {
        talk.request(get(1 + 2 * n, "/a"));
    }
    for n in 0..1030_u32 {
        talk.response(answer(1 + 2 * n, "200"));
    }
    assert_eq!(talk.seen.exchanges.len(), 1024);
    assert_eq!(talk.seen.losses, [Loss::PendingFull; 6]);
}

#[test]
fn what_is_not_http_2_is_refused() {
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
        let mut talk = Conversation::opened(parser);
        talk.request(bytes);
        assert!(talk.refused());
    }
    let mut talk = Conversation::opened(parser);
    talk.request([super::super::PREFACE.as_slice(), &get(1, "/")].concat());
    assert!(talk.refused(), "settings come first");
}

#[test]
fn frames_of_a_body_beyond_the_capture_are_passed_over_while_nothing_else_can_be_there() {
    for (announced, ends_apart) in [(true, false), (true, true), (false, false)] {
        let head = [fields(&[(":status", "200")]), kept(&[("content-type", "text/plain")]), fields(&[("content-length", "200000")])];
        let head = frame(HEADERS, END_HEADERS, 1, if announced { head.concat() } else { head[..2].concat() });
        let mut body = Vec::new();
        for _ in 0..12 {
            body.extend(frame(DATA, 0, 1, vec![b'x'; 16_384]));
        }
        body.extend(frame(DATA, if ends_apart { 0 } else { END_STREAM }, 1, vec![b'x'; 200_000 - 12 * 16_384]));
        if ends_apart {
            body.extend(frame(DATA, END_STREAM, 1, []));
        }
        let whole = [head, body].concat();
        let mut talk = opened();
        talk.request(get(1, "/large"));
        // Calls of which half is carried; frames begin anywhere in them.
        for call in whole.chunks(65_536) {
            talk.cut_call(Flow::Response, &call[..call.len().min(32_768)], call.len() as u64);
        }
        let last = frame(HEADERS, END_STREAM | END_HEADERS, 3, [&[0x88, 0xbe][..]].concat());
        talk.request(get(3, "/next")).response(&last).close();
        assert_eq!(talk.summaries(), ["GET /large 200", "GET /next 200"]);
        assert_eq!((talk.seen.losses.as_slice(), talk.seen.exchanges[1].flags), (&[][..], Flags::default()));
        let large = &talk.seen.exchanges[0];
        assert_eq!(large.response_bytes, whole.len() as u64);
        assert_eq!(large.int("http.response.body.size"), announced.then_some(200_000));
        assert_eq!(large.flags, if announced { Flags::default() } else { Flags::TRUNCATED });
    }
}

#[test]
fn a_hole_in_a_body_beside_other_streams_is_a_loss() {
    let mut talk = opened();
    talk.request([get(1, "/large"), get(3, "/other")].concat());
    talk.response(frame(HEADERS, END_HEADERS, 1, fields(&[(":status", "200")])));
    let body = [frame(DATA, 0, 1, vec![b'x'; 1000]), frame(DATA, 0, 1, vec![b'x'; 1000]), answer(3, "404")].concat();
    talk.cut_call(Flow::Response, &body[..500], body.len() as u64);
    talk.response(frame(DATA, END_STREAM, 1, "x")).close();
    assert_eq!(talk.summaries(), ["GET /large 200"]);
    assert_eq!(talk.seen.exchanges[0].flags, Flags::GAP | Flags::TRUNCATED);
    assert_eq!(talk.seen.losses, [Loss::ParseGap; 2]);
}

#[test]
fn a_call_of_grpc_is_counted_message_by_message_however_its_frames_are_cut() {
    let message = [&[0, 0, 0, 0, 100][..], &[b'm'; 100]].concat();
    let mut talk = opened();
    let asked = [request_fields("POST", "/shop.Cart/Get"), fields(&[("content-type", "application/grpc+proto")])].concat();
    talk.request(frame(HEADERS, END_HEADERS, 1, asked));
    let messages = message.repeat(3);
    talk.request(frame(DATA, 0, 1, &messages[..7])).request(frame(DATA, PADDED, 1, [&[2], &messages[7..250], &[0, 0]].concat()));
    talk.request([frame(DATA, 0, 1, &messages[250..]), frame(DATA, END_STREAM, 1, [])].concat());
    let head = frame(HEADERS, END_HEADERS, 1, fields(&[(":status", "200"), ("content-type", "application/grpc+proto")]));
    talk.response(&head);
    // A message of which the kernel carried no more than the begin.
    let large = frame(DATA, 0, 1, [&[0, 0, 0, 0x3a, 0x98][..], &[b'm'; 15_000]].concat());
    talk.cut_call(Flow::Response, &large[..100], large.len() as u64);
    let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, fields(&[("grpc-status", "5"), ("grpc-message", "secret")]));
    talk.response(&trailers);
    let call = one(&talk);
    assert_eq!((call.summary().as_str(), call.error, call.flags), ("Get /shop.Cart/Get 5", true, Flags::default()));
    assert_eq!((call.int("rpc.request.message_count"), call.int("rpc.response.message_count")), (Some(3), Some(1)));
    assert_eq!(call.response_bytes, (head.len() + large.len() + trailers.len()) as u64);
    assert!(!format!("{call:?}").contains("secret") && talk.seen.losses.is_empty());
}

#[test]
fn only_the_trailers_may_tell_a_late_joiner_that_a_stream_is_a_call_of_grpc() {
    let mut talk = Conversation::adopted(parser, 0);
    // The type of the content was inserted before.
    talk.request(frame(HEADERS, END_HEADERS, 9, [request_fields("POST", "/a.B/C"), vec![0xbe]].concat()));
    talk.response(frame(HEADERS, END_HEADERS, 9, [0x88, 0xbe]));
    talk.request(frame(DATA, END_STREAM, 9, b"\0\0\0\0\0")).response(frame(DATA, 0, 9, b"\0\0\0\0\0"));
    talk.response(frame(HEADERS, END_HEADERS | END_STREAM, 9, fields(&[("grpc-status", "7")])));
    let call = one(&talk);
    assert_eq!((call.summary().as_str(), call.text("rpc.system")), ("C /a.B/C 7", Some("grpc")));
    assert!(call.flags.contains(Flags::TRUNCATED), "its messages were not counted");
    // Neither head nor trailers can be read: whether 200 is its status cannot be known.
    let mut talk = Conversation::adopted(parser, 0);
    talk.request(frame(HEADERS, END_HEADERS | END_STREAM, 9, [request_fields("POST", "/a.B/C"), vec![0xbe]].concat()));
    talk.response(frame(HEADERS, END_HEADERS, 9, [0x88, 0xbe])).response(frame(HEADERS, END_HEADERS | END_STREAM, 9, [0xbf])).close();
    assert_eq!((talk.summaries().len(), talk.seen.losses.as_slice()), (0, &[Loss::ParseGap][..]));
}

#[test]
fn secrets_stay_inside_and_a_query_leaves_only_when_it_is_asked_for() {
    let secret = "hunter2";
    let request = [
        fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/a?token=hunter2#hunter2"), (":authority", "me:hunter2@shop")]),
        kept(&[("authorization", secret), ("cookie", secret), ("x-api-key", secret), ("referer", secret), ("content-type", secret)]),
    ]
    .concat();
    let answer = kept(&[(":status", "200"), ("set-cookie", secret), ("location", secret), ("www-authenticate", secret)]);
    for raw in [false, true] {
        let open: fn(Opening) -> Box<dyn crate::protocols::Parser> =
            if raw { |opening| parser(Opening { raw: Protocols::from_iter([Protocol::Http2]), ..opening }) } else { parser };
        let mut talk = Conversation::opened(open);
        talk.request([super::super::PREFACE.as_slice(), &settings()].concat()).response(settings());
        talk.request(frame(HEADERS, END_HEADERS, 1, &request)).request(frame(DATA, 0, 1, secret));
        talk.request(frame(HEADERS, END_HEADERS | END_STREAM, 1, fields(&[("x-trailer", secret)])));
        talk.response(frame(HEADERS, END_HEADERS, 1, &answer)).response(frame(DATA, END_STREAM, 1, secret));
        talk.request(frame(GOAWAY, 0, 0, [&[0; 8][..], secret.as_bytes()].concat())).close();
        let told = format!("{:?}", one(&talk));
        assert_eq!(told.matches(secret).count(), usize::from(raw), "{told}");
        assert_eq!(one(&talk).text("url.query"), raw.then_some("token=hunter2"));
        assert_eq!(one(&talk).text("server.address"), Some("shop"));
    }
}

#[test]
fn a_large_message_of_grpc_beyond_the_capture_is_still_one_message() {
    // Calls that begin with a frame, and calls that begin anywhere; frames of one length, and of changing lengths.
    for (call, lengths, counted) in
        [(4 * 16_393, [16_384; 2], true), (65_536, [16_384; 2], true), (16_393 + 16_293, [16_384, 16_284], false)]
    {
        let asked = [request_fields("POST", "/shop.Cart/Get"), fields(&[("content-type", "application/grpc")])].concat();
        let head = [fields(&[(":status", "200")]), kept(&[("content-type", "application/grpc")])].concat();
        let message = [&[0, 0, 2, 0x49, 0xf0][..], &[b'm'; 150_000]].concat();
        let (mut rest, mut body) = (message.as_slice(), Vec::new());
        for length in lengths.into_iter().cycle() {
            let (piece, behind) = rest.split_at(length.min(rest.len()));
            body.extend(frame(DATA, 0, 1, piece));
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        let mut talk = opened();
        talk.request([frame(HEADERS, END_HEADERS, 1, asked), frame(DATA, END_STREAM, 1, [0; 5])].concat());
        talk.response(frame(HEADERS, END_HEADERS, 1, &head));
        let (many, end) = body.split_at(4 * 32_686);
        for call in many.chunks(call) {
            talk.cut_call(Flow::Response, &call[..call.len().min(15_000)], call.len() as u64);
        }
        talk.response(end).response(frame(HEADERS, END_HEADERS | END_STREAM, 1, fields(&[("grpc-status", "0")])));
        talk.request(get(3, "/next")).response(frame(HEADERS, END_HEADERS | END_STREAM, 3, [0x88, 0xbe]));
        assert_eq!(talk.summaries(), ["Get /shop.Cart/Get 0", "GET /next 200"]);
        assert_eq!(talk.seen.losses, []);
        let large = &talk.seen.exchanges[0];
        assert_eq!(large.int("rpc.response.message_count"), counted.then_some(1), "{call}");
        assert_eq!(large.flags, if counted { Flags::default() } else { Flags::TRUNCATED | Flags::GAP });
    }
}
