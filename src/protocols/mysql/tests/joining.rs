//! Late begins and missing bytes: what is certain is told, what is not is counted, and nothing is made up.

use proptest::prelude::*;

use super::*;
use crate::{
    model::{Flags, Flow},
    protocols::{
        Loss,
        testing::{
            OwnedExchange,
            proof::{Mishap, assert_never_wrong},
        },
    },
};

fn told_late(talk: &mut Conversation) -> Vec<String> {
    assert!(talk.seen.exchanges.iter().all(|one| one.flags.contains(Flags::ADOPTED)));
    told(talk)
}

#[test]
fn a_late_begin_is_told_once_the_client_goes_on() {
    let mut talk = conversation(ADOPT);
    // The end of rows that were asked for earlier, then a client that waits for its answers.
    talk.response([row(77, "hunter2"), eof(78, AUTOCOMMIT)].concat());
    talk.request(query("SELECT a FROM t")).response(rows(2, true));
    assert_eq!(talk.seen.exchanges, [], "perhaps it was the answer to something older");
    talk.request(command(0x0e, "")).response(ok(1, 0, AUTOCOMMIT));
    assert_eq!(talk.summaries(), ["SELECT SELECT a FROM t 0"]);
    for _ in 0..10 {
        talk.request(query("SELECT a FROM t")).response(rows(1, false));
    }
    assert_eq!(talk.seen.exchanges.len(), 12, "a client that waited so often waits");
    assert_eq!(told_late(&mut talk).len(), 12);
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn a_late_begin_among_commands_sent_ahead_pairs_nothing_wrong() {
    // Joined behind the first of three: their answers are not those of what was seen.
    let mut talk = conversation(ADOPT);
    talk.request(query("SELECT b FROM t")).request(query("SELECT c FROM t"));
    talk.response(rows(1, true)).response(rows(2, true)).response(rows(3, true));
    talk.request(query("SELECT d FROM t")).response(rows(4, true)).request(query("SELECT e FROM t")).response(rows(5, true));
    assert_eq!(told_late(&mut talk), ["SELECT SELECT d FROM t 0", "SELECT SELECT e FROM t 0"]);
    assert_eq!(talk.seen.losses, [Loss::ParseGap; 2]);
    // Joined at the last of them.
    let mut talk = conversation(ADOPT);
    talk.request(query("SELECT c FROM t")).response(rows(1, true)).response(rows(2, true)).response(rows(3, true));
    talk.request(query("SELECT d FROM t")).response(rows(4, true));
    assert_eq!(told_late(&mut talk), ["SELECT SELECT d FROM t 0"]);
}

#[test]
fn statements_prepared_unseen_are_said_to_be_unknown() {
    let mut talk = conversation(ADOPT);
    talk.request(execute(9)).response(rows(1, true)).request(execute(9)).response(ok(1, 2, AUTOCOMMIT));
    talk.request(prepare("SELECT a FROM t")).response(prepared(10, 0, 1, true)).request(execute(10)).response(rows(1, true));
    assert_eq!(
        told_late(&mut talk),
        [
            "EXECUTE <prepared statement, text unknown> 0",
            "EXECUTE <prepared statement, text unknown> 0",
            "PREPARE SELECT a FROM t 0",
            "SELECT SELECT a FROM t 0"
        ]
    );
    let truncated: Vec<_> = talk.seen.exchanges.iter().map(|one| one.flags.contains(Flags::TRUNCATED)).collect();
    assert_eq!(truncated, [true, true, false, false]);
}

#[test]
fn a_begin_that_was_seen_after_all_is_a_begin() {
    let mut talk = conversation(ADOPT);
    let greeting = greeting("8.0.36", PLAIN);
    talk.response(&greeting[..4]).response(&greeting[4..]).request(login(PLAIN)).response(ok(2, 0, AUTOCOMMIT));
    talk.request(query("SELECT 1")).response(rows(1, true));
    assert_eq!(talk.summaries(), ["SELECT SELECT ? 0"]);
    assert_eq!(talk.seen.exchanges[0].text("db.user"), Some("alice"));
}

#[test]
fn the_end_of_rows_is_found_behind_missing_bytes() {
    for old in [true, false] {
        let mut talk = opened();
        let answer = rows(100, old);
        talk.request(query("SELECT a FROM t")).response(&answer[..200]).lost_call(Flow::Response, 300).response(&answer[500..]);
        talk.request(command(0x0e, "")).response(ok(1, 0, AUTOCOMMIT));
        assert_eq!(told(&mut talk), ["SELECT SELECT a FROM t 0", "PING  0"]);
        let torn = &talk.seen.exchanges[0];
        assert_eq!((torn.flags, torn.response_bytes, torn.end_ns), (Flags::GAP, answer.len() as u64, 7000));
        assert_eq!(torn.int("db.response.returned_rows"), None, "nobody counted them");
        assert_eq!(talk.seen.losses, []);
    }
}

#[test]
fn an_answer_whose_end_was_missed_is_over_when_the_client_goes_on() {
    let mut talk = opened();
    let answer = rows(100, true);
    talk.request(query("SELECT a FROM t")).cut_call(Flow::Response, &answer[..100], answer.len() as u64);
    talk.request(query("SELECT b FROM t")).response(rows(1, true)).request(query("SELECT c FROM t"));
    talk.cut_call(Flow::Response, &answer[..100], answer.len() as u64);
    assert_eq!(told(&mut talk), ["SELECT SELECT a FROM t ", "SELECT SELECT b FROM t 0", "SELECT SELECT c FROM t "]);
    for torn in [0, 2].map(|index| &talk.seen.exchanges[index]) {
        assert_eq!((torn.flags, torn.error), (Flags::GAP | Flags::TRUNCATED, false));
        assert_eq!(torn.response_bytes, answer.len() as u64);
    }
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn a_text_beyond_the_capture_is_cut_and_its_command_is_not_lost() {
    let long = format!("INSERT INTO t VALUES ({})", "'hunter2', ".repeat(5000));
    let packet = query(&long);
    let mut talk = opened();
    talk.cut_call(Flow::Request, &packet[..300], packet.len() as u64).response(ok(1, 1, AUTOCOMMIT));
    talk.request(&packet[..300]).lost_call(Flow::Request, 300).request(&packet[600..]).response(ok(1, 1, AUTOCOMMIT));
    talk.request(&packet).response(ok(1, 1, AUTOCOMMIT)).request(command(0x0e, "")).response(ok(1, 0, AUTOCOMMIT));
    assert_eq!(
        told(&mut talk),
        ["INSERT INSERT INTO t VALUES (? 0", "INSERT INSERT INTO t VALUES (? 0", "INSERT INSERT INTO t VALUES (? 0", "PING  0"]
    );
    for cut in &talk.seen.exchanges[..3] {
        assert_eq!((cut.flags, cut.request_bytes), (Flags::TRUNCATED, packet.len() as u64));
    }
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn a_missing_command_costs_that_command() {
    let mut talk = opened();
    talk.request(query("SELECT a FROM t")).response(rows(1, true));
    talk.lost_call(Flow::Request, query("SELECT b FROM t").len() as u64).response(rows(2, true));
    talk.request(query("SELECT c FROM t")).response(rows(3, true)).request(query("SELECT d FROM t")).response(rows(4, true));
    assert_eq!(told(&mut talk), ["SELECT SELECT a FROM t 0", "SELECT SELECT c FROM t 0", "SELECT SELECT d FROM t 0"]);
    assert_eq!(talk.seen.losses, [Loss::ParseGap]);
}

#[test]
fn bytes_of_a_file_may_be_missing() {
    let mut talk = opened();
    talk.request(query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t")).response(packet(1, b"\xfbx"));
    talk.request(packet(2, "1\n"))
        .lost_call(Flow::Request, 6)
        .request(packet(4, "3\n"))
        .request(packet(5, ""))
        .response(ok(6, 3, AUTOCOMMIT));
    talk.request(query("SELECT 1")).response(rows(1, true));
    assert_eq!(told(&mut talk), ["LOAD LOAD DATA LOCAL INFILE ? INTO TABLE t 0", "SELECT SELECT ? 0"]);
    assert_eq!((talk.seen.exchanges[0].flags, talk.seen.exchanges[0].request_bytes), (Flags::GAP, 44 + 6 + 6 + 6 + 4));
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn a_client_that_sends_ahead_is_not_paired_again_after_a_loss() {
    let mut talk = opened();
    for name in ["a", "b", "c"] {
        talk.request(query(&format!("SELECT {name} FROM t")));
    }
    talk.response(rows(1, true)).lost_call(Flow::Response, 90).response(rows(3, true));
    talk.request(query("SELECT d FROM t")).response(rows(4, true));
    assert_eq!(told(&mut talk), ["SELECT SELECT a FROM t 0"]);
    assert_eq!(talk.seen.losses, [Loss::ParseGap; 3]);
}

#[test]
fn what_is_kept_for_a_connection_is_bounded() {
    let mut talk = opened();
    for number in 0..20_000 {
        talk.request(query(&format!("SELECT a{number} FROM t")));
    }
    assert!(talk.seen.losses.len() > 16_000 && talk.seen.losses.contains(&Loss::PendingFull), "{}", talk.seen.losses.len());
    let mut talk = opened();
    for id in 0..5000_u32 {
        let [a, b, ..] = id.to_le_bytes();
        talk.request(prepare("SELECT a FROM t")).response(packet(1, [0, a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    }
    talk.request(execute(4999)).response(ok(1, 0, AUTOCOMMIT));
    assert_eq!(talk.summaries().last().map(String::as_str), Some("SELECT SELECT a FROM t 0"));
}

/// A client of MariaDB's that prepares and executes in one round trip, one that sends several commands with one call, a file, a procedure
/// with several results, rows beyond the numbers of packets, and a change of the user.
fn made_up() -> Vec<Call> {
    let mut calls = Vec::new();
    let mut say = |flow, bytes: Vec<u8>| calls.push((flow, bytes));
    let (ask, reply) = (Flow::Request, Flow::Response);
    say(reply, greeting("5.5.5-10.11.6-MariaDB", PLAIN));
    say(ask, login(PLAIN));
    say(reply, ok(2, 0, AUTOCOMMIT));
    say(ask, [prepare("INSERT INTO t VALUES (?)"), execute(u32::MAX)].concat());
    say(reply, [prepared(4, 1, 0, true), ok(1, 1, AUTOCOMMIT)].concat());
    say(ask, [query("UPDATE u SET a = 'hunter2'"), query("SELECT a FROM u"), command(0x0e, "")].concat());
    say(reply, [ok(1, 9, AUTOCOMMIT), rows(3, true), ok(1, 0, AUTOCOMMIT)].concat());
    say(ask, query("CALL p(1)"));
    say(reply, [rows_from(1, 2, true, MORE), rows_from(7, 3, true, MORE), ok(14, 1, AUTOCOMMIT)].concat());
    say(ask, query("SELECT b FROM u"));
    let many = rows(600, true);
    many.chunks(1000).for_each(|chunk| say(reply, chunk.to_vec()));
    say(ask, query("LOAD DATA LOCAL INFILE 'x' INTO TABLE v"));
    say(reply, packet(1, b"\xfbx"));
    for number in 2..7 {
        say(ask, packet(number, if number < 6 { "1\t\x02hunter2\n" } else { "" }));
    }
    say(reply, ok(7, 4, AUTOCOMMIT));
    say(ask, query("SELECT c FROM w; DELETE FROM w; SELECT d FROM missing"));
    say(reply, [rows_from(1, 1, true, MORE), ok(6, 2, MORE), error(7, 1146, "42S02")].concat());
    say(ask, command(0x11, b"bob\0\x07hunter2third\0\x2d\0mysql_native_password\0"));
    say(reply, packet(1, b"\xfemysql_clear_password\0"));
    say(ask, packet(2, "hunter2\0"));
    say(reply, ok(3, 0, AUTOCOMMIT));
    say(ask, [command(0x19, [4, 0, 0, 0]), query("SELECT e FROM x")].concat());
    say(reply, rows(1, true));
    say(ask, command(1, ""));
    calls
}

fn says(one: &OwnedExchange) -> String {
    let counts = ["db.response.returned_rows", "db.response.affected_rows"].map(|name| one.int(name));
    format!("{} {} {} {} {counts:?}", one.summary(), one.error, one.request_bytes, one.response_bytes)
}

/// What owns up to being torn still claims a command that was sent, and the status it had or none.
fn admits(one: &OwnedExchange, truth: &[OwnedExchange]) -> bool {
    truth.iter().any(|full| {
        let text = full.resource.starts_with(one.resource.trim_end_matches('?')) || one.resource.starts_with('<');
        text && (one.status == full.status || one.status.is_empty())
    })
}

proptest! {
    #[test]
    fn cuts_of_a_made_up_conversation_change_nothing(cuts in Mishap::cuts()) {
        let whole: Vec<String> = play(OPEN, &made_up()).exchanges.iter().map(says).collect();
        prop_assert_eq!(whole.len(), 13);
        let cut = cuts.play(DEFINITION.parser, &made_up()).expect("still taken for MySQL");
        prop_assert_eq!(cut.losses, []);
        prop_assert_eq!(cut.exchanges.iter().map(says).collect::<Vec<_>>(), whole);
    }

    #[test]
    fn no_mishap_of_a_made_up_conversation_makes_a_wrong_exchange(mishap in Mishap::any()) {
        assert_never_wrong(DEFINITION.parser, &made_up(), &mishap, says, admits);
    }

    #[test]
    fn any_bytes_are_taken(calls in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 1..80)), 1..40), adopted: bool) {
        let mut talk = if adopted { conversation(ADOPT) } else { opened() };
        for (request, bytes) in calls {
            talk.call(if request { Flow::Request } else { Flow::Response }, bytes);
        }
        talk.close();
        prop_assert!(talk.buffered(Flow::Request) <= crate::protocols::MAX_BUFFERED);
    }

    #[test]
    fn mutated_conversations_do_not_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut calls = made_up();
        for (place, byte) in changes {
            let call = place.index(calls.len());
            let bytes = &mut calls[call].1;
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        for begin in [0, 3, 7] {
            Mishap::default().play(DEFINITION.parser, &calls[begin..]);
        }
    }
}
