//! One conversation for each rule, and properties over made-up ones.

use proptest::prelude::*;

use super::{ADOPT, Call, OPEN, conversation, golden, play};
use crate::{
    model::{Flags, Flow},
    protocols::{Capture, Likeness, Loss, postgresql::DEFINITION, testing::Conversation},
};

pub fn message(kind: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0"))
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{sql}\0\0\0"))
}

fn bind(portal: &str, statement: &str) -> Vec<u8> {
    message(b'B', format!("{portal}\0{statement}\0\0\0\0\0\0\0"))
}

pub fn execute(portal: &str) -> Vec<u8> {
    message(b'E', format!("{portal}\0\0\0\0\0"))
}

pub fn sync() -> Vec<u8> {
    message(b'S', "")
}

pub fn complete(tag: &str) -> Vec<u8> {
    message(b'C', format!("{tag}\0"))
}

pub fn error(code: &str) -> Vec<u8> {
    message(b'E', format!("SERROR\0VERROR\0C{code}\0Msaid hunter2\0\0"))
}

pub fn ready() -> Vec<u8> {
    message(b'Z', "I")
}

fn columns() -> Vec<u8> {
    message(b'T', b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0")
}

fn row(text: &str) -> Vec<u8> {
    let mut body = vec![0, 1];
    body.extend_from_slice(&(text.len() as u32).to_be_bytes());
    body.extend_from_slice(text.as_bytes());
    message(b'D', body)
}

fn selected(rows: usize) -> Vec<u8> {
    let mut bytes = columns();
    for number in 0..rows {
        bytes.extend(row(&number.to_string()));
    }
    bytes.extend(complete(&format!("SELECT {rows}")));
    bytes
}

pub fn startup() -> Vec<u8> {
    let body = b"user\0alice\0database\0shop\0application_name\0x\0\0";
    let mut bytes = (body.len() as u32 + 8).to_be_bytes().to_vec();
    bytes.extend_from_slice(&[0, 3, 0, 0]);
    bytes.extend_from_slice(body);
    bytes
}

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const CANCEL: [u8; 16] = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2];

pub fn welcome() -> Vec<u8> {
    [message(b'R', [0, 0, 0, 0]), message(b'S', "TimeZone\0UTC\0"), message(b'K', [0; 8]), ready()].concat()
}

/// A connection on which nothing was asked yet.
fn opened() -> Conversation {
    let mut talk = conversation(OPEN);
    talk.request(startup()).response(welcome());
    talk
}

fn told(talk: &mut Conversation) -> Vec<String> {
    assert!(!talk.refused());
    talk.close();
    talk.summaries()
}

#[test]
fn start_up_names_user_and_database_and_is_no_exchange() {
    let mut talk = opened();
    talk.request(query("SELECT 1")).response([selected(3), ready()].concat());
    assert_eq!(told(&mut talk), ["SELECT SELECT ? 00000"]);
    let exchange = &talk.seen.exchanges[0];
    assert_eq!((exchange.text("db.namespace"), exchange.text("db.user")), (Some("shop"), Some("alice")));
    assert_eq!(exchange.text("db.system.name"), Some("postgresql"));
    assert_eq!(exchange.int("db.response.returned_rows"), Some(3));
    assert_eq!((exchange.start_ns, exchange.first_byte_ns, exchange.end_ns), (3000, Some(4000), 4000));
    assert_eq!((exchange.request_bytes, exchange.response_bytes), (14, selected(3).len() as u64));
    assert_eq!(talk.seen.captures, [Capture::Full]);
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn refused_start_up_is_an_exchange_and_passwords_stay_inside() {
    let mut talk = conversation(OPEN);
    talk.request(startup()).response(message(b'R', [0, 0, 0, 3])).request(message(b'p', "hunter2\0")).response(error("28P01"));
    assert_eq!(told(&mut talk), ["STARTUP <start-up> 28P01"]);
    assert!(talk.seen.exchanges[0].error);
    assert!(!format!("{:?}", talk.seen).contains("hunter2"));
}

#[test]
fn refused_encryption_goes_on_in_the_clear_and_granted_encryption_is_passed_over() {
    let mut talk = conversation(OPEN);
    talk.request(SSL_REQUEST).response("N").request(startup()).response(welcome());
    talk.request(query("SELECT 1")).response([selected(1), ready()].concat());
    assert_eq!(told(&mut talk), ["SELECT SELECT ? 00000"]);

    for request_first in [true, false] {
        let mut talk = conversation(OPEN);
        if request_first {
            talk.request(SSL_REQUEST).response("S");
        } else {
            talk.response("S").request(SSL_REQUEST);
        }
        talk.request(b"\x16\x03\x01\x02\x00junk").response(b"\x16\x03\x03\x00junk").request(query("SELECT 1"));
        assert_eq!(told(&mut talk), Vec::<String>::new());
        assert_eq!(talk.seen.captures.last(), Some(&Capture::Lengths));
        assert_eq!((talk.skips_until(Flow::Request), talk.skips_until(Flow::Response)), (u64::MAX, u64::MAX));
    }
}

#[test]
fn cancel_request_is_an_exchange_without_answer() {
    let mut talk = conversation(OPEN);
    talk.request(CANCEL);
    assert_eq!(told(&mut talk), ["CANCEL  "]);
    assert_eq!((talk.seen.exchanges[0].request_bytes, talk.seen.exchanges[0].first_byte_ns), (16, None));
}

#[test]
fn each_statement_of_a_query_is_an_exchange_and_an_error_ends_them() {
    let mut talk = opened();
    talk.request(query("BEGIN; SELECT 'a;b'; UPDATE t SET a = 1; SELECT 2"));
    talk.response([complete("BEGIN"), selected(2), error("22012"), ready()].concat());
    assert_eq!(told(&mut talk), ["BEGIN BEGIN 00000", "SELECT SELECT ? 00000", "UPDATE UPDATE t SET a = ? 22012"]);
}

#[test]
fn notices_notifications_and_parameters_come_at_any_time() {
    let mut talk = opened();
    let notice = message(b'N', "SNOTICE\0VNOTICE\0C00000\0Mhello\0\0");
    let notify = message(b'A', b"\0\0\0\x01ch\0hunter2\0");
    let parameter = message(b'S', "TimeZone\0UTC\0");
    talk.response([notify.clone(), parameter.clone()].concat());
    talk.request(query("DO 'x'"));
    talk.response(&notice).response([notify.clone(), complete("DO"), parameter, notify, ready()].concat());
    talk.request(query("SELECT 1")).response([notice, selected(1), ready()].concat());
    assert_eq!(told(&mut talk), ["DO DO ? 00000", "SELECT SELECT ? 00000"]);
    assert_eq!(talk.seen.exchanges[0].first_byte_ns, Some(5000), "the notice is the answer's first byte");
}

#[test]
fn extended_queries_are_one_exchange_with_their_preparation() {
    let mut talk = opened();
    let request = [parse("", "SELECT $1"), bind("", ""), message(b'D', "P\0"), execute(""), sync()].concat();
    let wire = request.len() as u64 - 5;
    talk.request(&request);
    talk.response([message(b'1', ""), message(b'2', ""), selected(1), ready()].concat());
    assert_eq!(told(&mut talk), ["SELECT SELECT ? 00000"]);
    assert_eq!(talk.seen.exchanges[0].request_bytes, wire);
    assert_eq!(talk.seen.exchanges[0].response_bytes, 10 + selected(1).len() as u64);
}

#[test]
fn a_round_trip_that_only_prepares_is_a_prepare() {
    let mut talk = opened();
    talk.request([parse("s1", "INSERT INTO t VALUES ($1)"), message(b'D', "Ss1\0"), sync()].concat());
    talk.response([message(b'1', ""), message(b't', "\0\0"), message(b'n', ""), ready()].concat());
    for _ in 0..2 {
        talk.request([bind("", "s1"), execute(""), sync()].concat());
        talk.response([message(b'2', ""), complete("INSERT 0 1"), ready()].concat());
    }
    talk.request([message(b'C', "Ss1\0"), sync()].concat()).response([message(b'3', ""), ready()].concat());
    talk.request([bind("", "s1"), execute(""), sync()].concat()).response([error("26000"), ready()].concat());
    assert_eq!(
        told(&mut talk),
        [
            "PREPARE INSERT INTO t VALUES (?) 00000",
            "INSERT INSERT INTO t VALUES (?) 00000",
            "INSERT INSERT INTO t VALUES (?) 00000",
            "OTHER <statement s1, text unknown> 26000"
        ]
    );
    assert_eq!(talk.seen.exchanges[1].int("db.response.affected_rows"), Some(1));
}

#[test]
fn an_error_in_a_pipeline_silences_everything_up_to_the_sync() {
    let mut talk = opened();
    let one = |sql| [parse("", sql), bind("", ""), execute("")].concat();
    talk.request([one("SELECT 1"), one("SELECT a"), one("SELECT 3"), sync(), one("SELECT b"), sync()].concat());
    let done = [message(b'1', ""), message(b'2', ""), complete("SELECT 1")].concat();
    talk.response([done.clone(), error("42703"), ready(), done, ready()].concat());
    assert_eq!(told(&mut talk), ["SELECT SELECT ? 00000", "SELECT SELECT a 42703", "SELECT SELECT b 00000"]);
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn an_error_answered_before_the_rest_of_the_trip_was_sent_silences_it_too() {
    let mut talk = opened();
    talk.request([parse("", "SELECT a"), message(b'H', "")].concat()).response(error("42703"));
    talk.request([bind("", ""), execute(""), query("SELECT 5")].concat()).request(sync()).response(ready());
    talk.request(query("SELECT 1")).response([selected(1), ready()].concat());
    assert_eq!(told(&mut talk), ["SELECT SELECT a 42703", "SELECT SELECT ? 00000"]);
}

#[test]
fn rows_fetched_from_a_suspended_portal_are_fetches() {
    let mut talk = opened();
    talk.request([parse("", "SELECT a FROM t"), bind("p", ""), execute("p"), message(b'H', "")].concat());
    talk.response([message(b'1', ""), message(b'2', ""), row("1"), message(b's', "")].concat());
    talk.request([execute("p"), sync()].concat()).response([row("2"), complete("SELECT 1"), ready()].concat());
    assert_eq!(told(&mut talk), ["SELECT SELECT a FROM t 00000", "FETCH SELECT a FROM t 00000"]);
    assert_eq!(talk.seen.exchanges[0].int("db.response.returned_rows"), Some(1));
}

#[test]
fn copy_goes_both_ways_and_syncs_inside_of_it_are_read_over() {
    let mut talk = opened();
    let data = message(b'd', "hunter2\n");
    talk.request(query("COPY t FROM STDIN")).response(message(b'G', [0; 3]));
    talk.request(data.repeat(3)).request([data.clone(), message(b'c', "")].concat()).response([complete("COPY 4"), ready()].concat());
    talk.request(query("COPY t TO STDOUT"));
    talk.response([message(b'H', [0; 3]), data.repeat(2), message(b'c', ""), complete("COPY 2"), ready()].concat());
    talk.request([parse("", "COPY t FROM STDIN"), bind("", ""), execute(""), sync()].concat());
    talk.response([message(b'1', ""), message(b'2', ""), message(b'G', [0; 3])].concat());
    talk.request([data, message(b'c', ""), sync()].concat()).response([complete("COPY 1"), ready()].concat());
    talk.request(query("COPY t FROM STDIN")).response(message(b'G', [0; 3]));
    talk.request(message(b'f', "no\0")).response([error("57014"), ready()].concat());
    talk.request(query("SELECT 1")).response([selected(1), ready()].concat());
    assert_eq!(
        told(&mut talk),
        [
            "COPY COPY t FROM STDIN 00000",
            "COPY COPY t TO STDOUT 00000",
            "COPY COPY t FROM STDIN 00000",
            "COPY COPY t FROM STDIN 57014",
            "SELECT SELECT ? 00000"
        ]
    );
    assert_eq!(talk.seen.exchanges[0].int("db.response.affected_rows"), Some(4));
    assert_eq!(talk.seen.exchanges[1].int("db.response.returned_rows"), Some(2));
    assert_eq!(talk.seen.exchanges[0].request_bytes, 23 + 4 * 13 + 5);
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn replication_and_function_calls_are_recognised() {
    let mut talk = opened();
    talk.request(message(b'F', [0, 0, 0, 1, 0, 0, 0, 0, 0, 0])).response([message(b'V', [255; 4]), ready()].concat());
    talk.request(query("START_REPLICATION SLOT x LOGICAL 0/0")).response(message(b'W', [0; 3]));
    talk.response(message(b'd', "w").repeat(50)).request(message(b'd', "r"));
    assert_eq!(told(&mut talk), ["CALL <function call> 00000", "START_REPLICATION START_REPLICATION SLOT x LOGICAL ?/? 00000"]);
    assert_eq!(talk.seen.captures.last(), Some(&Capture::Lengths));
}

#[test]
fn an_answer_reported_before_its_request_still_finds_it() {
    let mut talk = opened();
    talk.response([selected(1), ready()].concat()).request(query("SELECT 1"));
    talk.response([complete("BEGIN"), ready()].concat()).request(query("BEGIN"));
    assert_eq!(told(&mut talk), ["SELECT SELECT ? 00000", "BEGIN BEGIN 00000"]);
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn statements_prepared_before_the_connection_was_watched_are_named_as_such() {
    let mut talk = conversation(ADOPT);
    talk.request([bind("", "s1"), execute(""), sync()].concat());
    talk.response([message(b'2', ""), complete("UPDATE 2"), ready()].concat());
    assert_eq!(told(&mut talk), ["UPDATE <statement s1, text unknown> 00000"]);
    assert!(talk.seen.exchanges[0].flags.contains(Flags::ADOPTED));
}

#[test]
fn unanswered_statements_are_told_at_the_close() {
    let mut talk = opened();
    talk.request(query("SELECT pg_sleep(100)")).response(columns());
    assert_eq!(told(&mut talk), ["SELECT SELECT pg_sleep(?) "]);
    assert!(talk.seen.exchanges[0].flags.contains(Flags::UNANSWERED));
}

#[test]
fn a_query_longer_than_the_capture_is_normalised_without_its_cut_literal() {
    let mut talk = opened();
    let sql = query(&format!("INSERT INTO t VALUES (1, 'hunter2{}')", "x".repeat(100_000)));
    talk.cut_call(Flow::Request, &sql[..40], sql.len() as u64).response([complete("INSERT 0 1"), ready()].concat());
    // As much as the stream holds, in many calls.
    for part in sql.chunks(8192) {
        talk.request(part);
    }
    talk.response([complete("INSERT 0 1"), ready()].concat());
    assert_eq!(told(&mut talk), ["INSERT INSERT INTO t VALUES (? 00000", "INSERT INSERT INTO t VALUES (? 00000"]);
    for exchange in &talk.seen.exchanges {
        assert!(exchange.flags.contains(Flags::TRUNCATED));
        assert_eq!(exchange.request_bytes, sql.len() as u64);
    }
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn the_end_of_a_large_result_is_found_behind_lost_bytes() {
    let mut talk = opened();
    let rows = row("some text").repeat(1000);
    talk.request(query("SELECT a FROM t")).response(columns());
    talk.cut_call(Flow::Response, &rows[..1000], rows.len() as u64);
    talk.lost_call(Flow::Response, 5000);
    talk.response([&rows[7..200], &complete("SELECT 2500")[..], &ready()[..]].concat());
    talk.request(query("SELECT 1")).response([selected(1), ready()].concat());
    assert_eq!(told(&mut talk), ["SELECT SELECT a FROM t 00000", "SELECT SELECT ? 00000"]);
    let large = &talk.seen.exchanges[0];
    assert!(large.flags.contains(Flags::GAP));
    assert_eq!(large.int("db.response.returned_rows"), Some(2500));
    assert_eq!(large.response_bytes, (columns().len() + rows.len() + 5000 + 193 + complete("SELECT 2500").len()) as u64);
}

#[test]
fn a_large_row_passes_by_without_being_captured() {
    let mut talk = opened();
    let large = row(&"x".repeat(1 << 20));
    talk.request(query("SELECT a FROM t"));
    talk.response(columns()).cut_call(Flow::Response, &large[..100], large.len() as u64);
    talk.response([complete("SELECT 1"), ready()].concat());
    assert_eq!(told(&mut talk), ["SELECT SELECT a FROM t 00000"]);
    assert_eq!(talk.seen.losses, []);
    assert_eq!(talk.seen.exchanges[0].response_bytes, (columns().len() + large.len() + complete("SELECT 1").len()) as u64);
}

#[test]
fn a_copy_of_which_bytes_are_missing_is_still_counted() {
    let mut talk = opened();
    let data = message(b'd', "12345\n").repeat(1000);
    talk.request(query("COPY t FROM STDIN")).response(message(b'G', [0; 3]));
    talk.cut_call(Flow::Request, &data[..500], data.len() as u64).lost_call(Flow::Request, 8000).request(&data[5..]);
    talk.response([complete("COPY 9000"), ready()].concat());
    talk.request(query("SELECT 1")).response([selected(1), ready()].concat());
    assert_eq!(told(&mut talk), ["COPY COPY t FROM STDIN 00000", "SELECT SELECT ? 00000"]);
    assert!(talk.seen.exchanges[0].flags.contains(Flags::GAP));
}

#[test]
fn a_missing_answer_is_counted_and_the_next_pair_is_right() {
    let mut talk = opened();
    let lost = [selected(1), ready()].concat();
    talk.request(query("SELECT a")).lost_call(Flow::Response, lost.len() as u64);
    talk.request(query("SELECT b")).response([selected(1), ready()].concat());
    talk.request(query("SELECT c")).response([selected(1), ready()].concat());
    let told = told(&mut talk);
    assert!(told.ends_with(&["SELECT SELECT c 00000".to_owned()]), "{told:?}");
    assert!(!told.iter().any(|line| line.contains("SELECT a")), "{told:?}");
    assert!(talk.seen.losses.contains(&Loss::ParseGap));
}

#[test]
fn begins_are_told_from_other_protocols() {
    let likeness = DEFINITION.likeness;
    for bytes in [&startup()[..], &SSL_REQUEST, &CANCEL] {
        assert_eq!(likeness(Flow::Request, bytes), Likeness::Certain);
        assert_eq!(likeness(Flow::Request, &bytes[..3]), Likeness::Undecided);
    }
    for bytes in [query("SELECT 1"), [bind("", "s1"), execute(""), sync()].concat(), parse("", "BEGIN")] {
        assert_eq!(likeness(Flow::Request, &bytes), Likeness::Likely);
    }
    for bytes in [[selected(2), ready()].concat(), [message(b'2', ""), complete("BEGIN"), ready()].concat(), welcome(), error("42P01")] {
        assert_eq!(likeness(Flow::Response, &bytes), Likeness::Likely);
    }
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"POST /x HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"SSH-2.0-x\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"PRI * HTTP/2.0",
        // Kafka: metadata, version 1; the rest of it, then its begin alone.
        b"\0\0\0\x22\0\x03\0\x01\0\0\0\x02\0\x07rdkafka\0\0\0\x01\0\x0bshop.orders",
        b"\0\0\0\x22\0\x03\0\x01\0\0",
    ] {
        assert_eq!(likeness(Flow::Request, bytes), Likeness::No, "{bytes:?}");
    }
    for bytes in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"\x16\x03\x03\x00\x7a", b"+PONG\r\n", b"SSH-2.0-x\r\n", b"Date: x\r\n", b"220 mail"] {
        assert_eq!(likeness(Flow::Response, bytes), Likeness::No, "{bytes:?}");
    }
}

/// A made-up round trip whose statement carries its number in both directions, so that a wrong pair shows.
fn round_trip(number: usize, shape: usize) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let sql = format!("SELECT c{number} FROM t");
    let tag = format!("SELECT {number}");
    let rows = row(&"r".repeat(number * 7 % 90)).repeat(1 + number % 3);
    match shape % 5 {
        0 => (vec![query(&sql)], vec![columns(), rows, complete(&tag), ready()]),
        1 => (
            vec![parse("", &sql), bind("", ""), message(b'D', "P\0"), execute(""), sync()],
            vec![message(b'1', ""), message(b'2', ""), columns(), rows, complete(&tag), ready()],
        ),
        2 => (vec![query(&sql)], vec![columns(), error(&format!("X{number:04}")), ready()]),
        3 => (vec![parse("", &sql), bind("", ""), execute(""), sync()], vec![message(b'1', ""), error(&format!("X{number:04}")), ready()]),
        _ => (vec![query(&sql)], vec![message(b'N', "SNOTICE\0C00000\0Mx\0\0"), columns(), rows, complete(&tag), ready()]),
    }
}

/// The number in the statement is the one in its answer.
fn assert_right_pairs(talk: &Conversation) -> Result<(), TestCaseError> {
    for exchange in &talk.seen.exchanges {
        if exchange.flags.contains(Flags::UNANSWERED) {
            continue;
        }
        if exchange.flags.contains(Flags::TRUNCATED)
            && (!exchange.resource.ends_with(" t") || exchange.int("db.response.returned_rows").is_none())
        {
            // One of the numbers was not captured.
            continue;
        }
        let asked: usize = exchange.resource.trim_start_matches("SELECT c").split(' ').next().unwrap().parse().unwrap();
        let answered = match exchange.status.strip_prefix('X') {
            Some(code) => code.parse().unwrap(),
            None => exchange.int("db.response.returned_rows").unwrap() as usize,
        };
        // Without its tag a result is counted by its rows.
        let counted = exchange.flags.contains(Flags::TRUNCATED) && answered == 1 + asked % 3;
        prop_assert!(asked == answered || counted, "{:?}", exchange);
    }
    Ok(())
}

/// Calls of a conversation: `depth` round trips are sent before the answers of these come.
fn calls(shapes: &[usize], depth: usize, pieces: usize) -> Vec<Call> {
    let mut calls = Vec::new();
    let trips: Vec<_> = shapes.iter().enumerate().map(|(number, shape)| round_trip(number + 1, *shape)).collect();
    for group in trips.chunks(depth) {
        for (flow, side) in [(Flow::Request, 0), (Flow::Response, 1)] {
            for trip in group {
                let messages = if side == 0 { &trip.0 } else { &trip.1 };
                calls.extend(messages.chunks(pieces).map(|some| (flow, some.concat())));
            }
        }
    }
    calls
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn cuts_anywhere_give_the_same_exchanges(
        shapes in proptest::collection::vec(0usize..5, 1..8), depth in 1usize..4, cuts in proptest::collection::vec(1usize..60, 1..20),
    ) {
        let calls = calls(&shapes, depth, 9);
        let mut whole = opened();
        let mut cut = opened();
        let mut sizes = cuts.iter().cycle();
        for (flow, bytes) in &calls {
            whole.call(*flow, bytes);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(*sizes.next().unwrap().min(&rest.len()));
                cut.call(*flow, piece);
                rest = behind;
            }
        }
        whole.close();
        cut.close();
        prop_assert_eq!(whole.seen.exchanges.len(), shapes.len());
        prop_assert_eq!(cut.seen.losses, []);
        assert_right_pairs(&whole)?;
        for (a, b) in whole.seen.exchanges.iter_mut().zip(&mut cut.seen.exchanges) {
            for exchange in [&mut *a, &mut *b] {
                (exchange.start_ns, exchange.first_byte_ns, exchange.end_ns) = (0, None, 0);
            }
        }
        prop_assert_eq!(whole.seen.exchanges, cut.seen.exchanges);
    }

    #[test]
    fn a_missing_call_never_makes_a_wrong_pair(
        shapes in proptest::collection::vec(0usize..5, 2..12), depth in 1usize..4, pieces in 1usize..4, missing: prop::sample::Index,
        kept in 0usize..40, adopted: bool,
    ) {
        let calls = calls(&shapes, depth, pieces);
        let missing = missing.index(calls.len());
        let mut talk = if adopted { conversation(ADOPT) } else { opened() };
        for (index, (flow, bytes)) in calls.iter().enumerate() {
            if index == missing {
                talk.cut_call(*flow, &bytes[..kept.min(bytes.len())], bytes.len() as u64);
            } else {
                talk.call(*flow, bytes);
            }
        }
        talk.close();
        assert_right_pairs(&talk)?;
        if depth == 1 && !adopted {
            prop_assert!(talk.seen.exchanges.len() + 2 >= shapes.len(), "{:?}", talk.summaries());
            let accounted = talk.seen.exchanges.len() + talk.seen.losses.len();
            prop_assert!(accounted >= shapes.len(), "{:?} {:?}", talk.summaries(), talk.seen.losses);
        }
    }

    #[test]
    fn answers_reported_first_give_the_same_pairs(shapes in proptest::collection::vec(0usize..5, 1..12)) {
        let mut talk = opened();
        for (number, shape) in shapes.iter().enumerate() {
            let (request, response) = round_trip(number + 1, *shape);
            talk.response(response.concat()).request(request.concat());
        }
        talk.close();
        prop_assert_eq!(talk.seen.exchanges.len(), shapes.len());
        assert_right_pairs(&talk)?;
    }

    #[test]
    fn random_bytes_do_not_look_like_postgresql(bytes in proptest::collection::vec(any::<u8>(), 24..200)) {
        prop_assert!((DEFINITION.likeness)(Flow::Request, &bytes) < Likeness::Likely);
        prop_assert!((DEFINITION.likeness)(Flow::Response, &bytes) < Likeness::Likely);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn mutated_conversations_do_not_panic(
        name in 0usize..golden::NAMES.len(), adopted: bool,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..6),
        lost in any::<Option<prop::sample::Index>>(),
    ) {
        thread_local! {
            static RECORDED: Vec<Vec<Call>> = golden::NAMES.iter().map(|name| golden::calls(name).into_iter().take(40).collect()).collect();
        }
        let mut calls = RECORDED.with(|recorded| recorded[name].clone());
        for (call, byte, value) in changes {
            let call = call.index(calls.len());
            let bytes = &mut calls[call].1;
            let byte = byte.index(bytes.len());
            bytes[byte] = value;
        }
        let lost = lost.map(|lost| lost.index(calls.len()));
        let mut talk = conversation(if adopted { ADOPT } else { OPEN });
        for (index, (flow, bytes)) in calls.iter().enumerate() {
            if Some(index) == lost {
                talk.lost_call(*flow, bytes.len() as u64);
            } else {
                talk.call(*flow, bytes);
            }
            prop_assert!(talk.buffered(*flow) <= crate::protocols::MAX_BUFFERED);
        }
        talk.close();
    }
}

#[test]
fn hidden_pipelines_are_not_paired_by_habit() {
    // Adopted while two round trips are under way of which one was not seen: the client shows soon that it does not wait.
    let (trips, mut calls): (Vec<_>, Vec<Call>) = ((1..=6).map(|number| round_trip(number, 0)).collect(), Vec::new());
    for pair in trips.windows(2).take(2) {
        calls.extend([(Flow::Request, pair[0].0.concat()), (Flow::Request, pair[1].0.concat())]);
        calls.extend([(Flow::Response, pair[0].1.concat()), (Flow::Response, pair[1].1.concat())]);
    }
    let seen = play(ADOPT, &calls);
    for exchange in seen.exchanges {
        let number = exchange.int("db.response.returned_rows").unwrap();
        assert!(exchange.resource.contains(&format!("c{number} ")), "{exchange:?}");
    }
}
