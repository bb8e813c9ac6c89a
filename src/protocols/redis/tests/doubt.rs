//! Late joins, missing bytes and cuts: what is certain comes out, what is not is counted.

use proptest::prelude::*;

use super::{adopted, array, command, opened, string, told};
use crate::{
    model::{Flags, Flow},
    protocols::{
        Likeness, Loss,
        redis::DEFINITION,
        testing::{
            OwnedExchange,
            golden::Call,
            proof::{Mishap, assert_never_wrong},
        },
    },
};

#[test]
fn an_adopted_connection_is_believed_after_rounds_that_fit() {
    let mut talk = adopted();
    talk.response("llo\r\n").response("$5\r\nhello\r\n");
    for _ in 0..16 {
        talk.request(command("GET user:1")).response("$1\r\nx\r\n");
    }
    assert!(talk.seen.exchanges.is_empty(), "they are held back");
    talk.request(command("GET user:1"));
    assert_eq!(talk.seen.exchanges.len(), 16, "with the next request");
    talk.response("$1\r\nx\r\n");
    assert!(told(&mut talk).iter().all(|told| told == "GET user:? "));
    assert_eq!(talk.seen.exchanges.len(), 17);
    assert!(talk.seen.exchanges.iter().all(|exchange| exchange.flags == Flags::ADOPTED && exchange.text("db.namespace").is_none()));
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn an_adopted_connection_is_believed_after_a_pause() {
    let mut talk = adopted();
    talk.request(command("GET user:1")).response("$1\r\nx\r\n").at(50_000_000).request(command("INCR n:1")).response(":1\r\n");
    assert_eq!(told(&mut talk), ["GET user:? ", "INCR n:? "]);
    let mut talk = adopted();
    talk.request(command("GET user:1")).response("$1\r\nx\r\n").at(50_000_000).close();
    assert_eq!(talk.seen.exchanges.len(), 1);
}

#[test]
fn adopted_pipelines_are_believed_after_two_rounds() {
    let mut talk = adopted();
    talk.request(command("GET a").repeat(7)).response("$1\r\nx\r\n".repeat(16));
    for _ in 0..3 {
        talk.request(command("GET a").repeat(16)).response("$1\r\nx\r\n".repeat(16));
    }
    assert_eq!(told(&mut talk).len(), 48);
    assert_eq!(talk.seen.losses, [Loss::ParseGap].repeat(7), "those of the round that was joined in its middle");
}

#[test]
fn replies_that_cannot_answer_end_the_belief() {
    let mut talk = adopted();
    for _ in 0..4 {
        talk.request(command("GET a")).response(":1\r\n").request(command("INCR a")).response("$1\r\nx\r\n");
    }
    assert_eq!(told(&mut talk), [""; 0]);
    assert_eq!(talk.seen.losses.len(), 8);
}

#[test]
fn a_missing_request_leaves_what_was_open_before_it() {
    let mut talk = opened();
    talk.request([command("GET a"), command("INCR b")].concat()).lost_call(Flow::Request, 500).request(command("SET c 1"));
    talk.response("$1\r\nx\r\n:1\r\n+OK\r\n+OK\r\n");
    for _ in 0..17 {
        talk.request(command("LLEN l:1")).response(":1\r\n");
    }
    let told = told(&mut talk);
    assert_eq!(told[..2], ["GET ? ", "INCR ? "]);
    assert_eq!(told[2..], ["LLEN l:? "; 17]);
    assert_eq!(talk.seen.losses, [Loss::ParseGap; 2], "the gap, and the command behind it");
}

#[test]
fn a_missing_reply_gives_up_what_is_open() {
    let mut talk = opened();
    talk.request([command("GET a"), command("INCR b")].concat()).lost_call(Flow::Response, 7).response(":1\r\n");
    for _ in 0..17 {
        talk.request(command("LLEN l:1")).response(":1\r\n");
    }
    assert_eq!(told(&mut talk), ["LLEN l:? "; 17]);
    assert_eq!(talk.seen.losses, [Loss::ParseGap; 2]);
}

#[test]
fn a_reply_of_which_the_rest_is_missing_is_told_as_far_as_it_is_known() {
    let mut talk = opened();
    let reply = [b"*1000\r\n".to_vec(), string("element").repeat(1000)].concat();
    talk.request(command("LRANGE l:1 0 -1")).cut_call(Flow::Response, &reply[..500], 8000).response(&reply[8000..]);
    for _ in 0..17 {
        talk.request(command("LLEN l:1")).response(":1\r\n");
    }
    let told = told(&mut talk);
    assert_eq!((told[0].as_str(), told.len()), ("LRANGE l:? ? … ", 18));
    let first = &talk.seen.exchanges[0];
    assert!(first.flags.contains(Flags::GAP) && first.flags.contains(Flags::TRUNCATED) && !first.error);
    assert_eq!((first.response_bytes, first.end_ns), (reply.len() as u64, 3000));
}

#[test]
fn a_client_that_waits_keeps_being_understood_when_all_its_replies_are_cut() {
    let mut talk = opened();
    let reply = [b"*1000\r\n".to_vec(), string("element").repeat(1000)].concat();
    for _ in 0..10 {
        talk.request(command("LRANGE l:1 0 -1")).cut_call(Flow::Response, &reply[..500], 8000);
        talk.cut_call(Flow::Response, &reply[8000..8500], reply.len() as u64 - 8000);
    }
    talk.request(command("LLEN l:1")).response(":1\r\n").request(command("LLEN l:1")).response(":1\r\n");
    assert_eq!(told(&mut talk).len(), 12);
    let of_lists = &talk.seen.exchanges[..10];
    assert!(of_lists.iter().all(|one| one.flags.contains(Flags::GAP) && one.response_bytes == reply.len() as u64));
    assert!(talk.seen.exchanges[10..].iter().all(|one| one.flags == Flags::default()));
}

#[test]
fn a_command_of_which_the_end_is_missing_is_told() {
    let mut talk = opened();
    let set = command("MSET a:1 x a:2 y a:3 z");
    talk.cut_call(Flow::Request, &set[..40], set.len() as u64).response("+OK\r\n");
    assert_eq!(told(&mut talk), ["MSET a:? ? … OK"]);
    assert!(talk.seen.exchanges[0].flags.contains(Flags::TRUNCATED));
    assert_eq!(talk.seen.losses.len(), 1);
}

#[test]
fn a_subscriber_that_is_joined_late_is_named_by_its_messages() {
    let message = array('*', &["message", "a", "x"]);
    assert_eq!((DEFINITION.likeness)(Flow::Response, &message), Likeness::Certain);
    let mut talk = adopted();
    talk.response(message.repeat(5)).request(command("SUBSCRIBE b"));
    talk.response([message.clone(), array('*', &["subscribe", "b", ":2"])].concat()).response(&message).at(90_000_000);
    talk.request(command("PING")).response(array('*', &["pong", ""]));
    talk.at(180_000_000);
    assert_eq!(told(&mut talk), ["SUBSCRIBE ? ", "PING "]);
    assert_eq!(talk.seen.losses, []);
}

/// A command and its reply, both with the number, so that a wrong pair shows: in the name of the key, and in the length of the reply or the
/// word of the error.
fn round_trip(number: usize, shape: usize) -> (Vec<u8>, Vec<u8>) {
    let letter = |shift: usize| char::from(b'a' + (number / 26_usize.pow(shift as u32) % 26) as u8);
    let key = format!("{}o{}a:{}", letter(0), letter(1), "x".repeat(number % 7));
    let value = "v".repeat(number);
    match shape % 6 {
        0 => (command(&format!("GET {key}")), string(&value)),
        1 => (command(&format!("SET {key} {value}")), b"+OK\r\n".to_vec()),
        2 => (command(&format!("INCRBY {key} 5")), format!(":{}\r\n", 10_u64.pow((number % 15) as u32)).into_bytes()),
        3 => (command(&format!("LRANGE {key} 0 -1")), [format!("*{number}\r\n").into_bytes(), string("GET").repeat(number)].concat()),
        4 => (command(&format!("HGET {key} f")), format!("-E{} said\r\n", "X".repeat(1 + number % 20)).into_bytes()),
        _ => (command(&format!("HGETALL {key}")), [format!("%{number}\r\n").into_bytes(), b"+a\r\n*1\r\n:1\r\n".repeat(number)].concat()),
    }
}

/// How a client waits for its answers.
#[derive(Clone, Copy, Debug)]
enum Habit {
    /// So many commands with one call, then all their replies.
    Rounds(usize),
    /// So many are always open.
    Window(usize),
}

fn calls(shapes: &[usize], habit: Habit) -> Vec<Call> {
    let trips: Vec<_> = shapes.iter().enumerate().map(|(number, shape)| round_trip(number + 1, *shape)).collect();
    let mut calls = Vec::new();
    match habit {
        Habit::Rounds(size) => {
            for round in trips.chunks(size) {
                calls.push((Flow::Request, round.iter().flat_map(|trip| trip.0.clone()).collect()));
                calls.push((Flow::Response, round.iter().flat_map(|trip| trip.1.clone()).collect()));
            }
        }
        Habit::Window(size) => {
            for number in 0..trips.len() + size {
                if let Some(trip) = trips.get(number) {
                    calls.push((Flow::Request, trip.0.clone()));
                }
                if let Some(trip) = number.checked_sub(size).and_then(|number| trips.get(number)) {
                    calls.push((Flow::Response, trip.1.clone()));
                }
            }
        }
    }
    calls
}

fn habits() -> impl Strategy<Value = Habit> {
    prop_oneof![(1usize..6).prop_map(Habit::Rounds), (1usize..4).prop_map(Habit::Window)]
}

pub fn says(exchange: &OwnedExchange) -> String {
    let OwnedExchange { resource, status, error, request_bytes, response_bytes, .. } = exchange;
    format!("{resource} {status} {error} {request_bytes} {response_bytes}")
}

/// What was not seen may be missing; what is claimed must be so.
pub fn admits(exchange: &OwnedExchange, truth: &[OwnedExchange]) -> bool {
    truth.iter().any(|one| {
        let asked = one.operation == exchange.operation
            && (one.resource == exchange.resource || exchange.flags.contains(Flags::TRUNCATED))
            && one.request_bytes >= exchange.request_bytes;
        let unanswered = exchange.flags.contains(Flags::UNANSWERED) && exchange.status.is_empty();
        asked && (unanswered || (one.status == exchange.status && one.error == exchange.error))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 400 }))]

    #[test]
    fn cuts_anywhere_give_the_same_exchanges(
        shapes in proptest::collection::vec(0usize..6, 1..12), habit in habits(), mishap in Mishap::cuts(),
    ) {
        let calls = calls(&shapes, habit);
        let seen = mishap.play(DEFINITION.parser, &calls).expect("it is Redis");
        let whole = Mishap::default().play(DEFINITION.parser, &calls).expect("it is Redis");
        prop_assert_eq!(seen.losses, []);
        prop_assert_eq!(whole.exchanges.len(), shapes.len());
        prop_assert_eq!(whole.exchanges.iter().map(says).collect::<Vec<_>>(), seen.exchanges.iter().map(says).collect::<Vec<_>>());
    }

    #[test]
    fn no_mishap_makes_a_wrong_exchange(
        shapes in proptest::collection::vec(0usize..6, 1..40), habit in habits(), mishap in Mishap::any(),
    ) {
        assert_never_wrong(DEFINITION.parser, &calls(&shapes, habit), &mishap, says, admits);
    }

    #[test]
    fn replies_reported_first_give_the_same_pairs(shapes in proptest::collection::vec(0usize..6, 1..12)) {
        let mut talk = opened();
        for (number, shape) in shapes.iter().enumerate() {
            let (request, response) = round_trip(number + 1, *shape);
            talk.response(response).request(request);
        }
        let whole = Mishap::default().play(DEFINITION.parser, &calls(&shapes, Habit::Rounds(1))).expect("it is Redis");
        told(&mut talk);
        prop_assert_eq!(whole.exchanges.iter().map(says).collect::<Vec<_>>(), talk.seen.exchanges.iter().map(says).collect::<Vec<_>>());
    }

    #[test]
    fn random_bytes_do_not_look_like_redis(bytes in proptest::collection::vec(any::<u8>(), 24..200)) {
        prop_assert!((DEFINITION.likeness)(Flow::Request, &bytes) < Likeness::Likely);
        prop_assert!((DEFINITION.likeness)(Flow::Response, &bytes) < Likeness::Likely);
    }
}
