//! One conversation for each rule.

use super::{super::DEFINITION, speech::*};
use crate::{
    model::{Flags, Flow::Request, Protocols},
    protocols::{
        Capture, Loss, Opening,
        testing::{Conversation, OwnedExchange, OwnedValue},
    },
};

/// The first so many calls of the start.
fn begin(talk: &mut Conversation, calls: usize) {
    for (flow, bytes) in start().into_iter().take(calls) {
        talk.call(flow, bytes);
    }
}

/// A connection whose channel 1 was just opened, at 8 µs; what came out so far is left out.
fn opened() -> Conversation {
    let mut talk = Conversation::opened(DEFINITION.parser);
    begin(&mut talk, 8);
    assert_eq!(talk.summaries(), ["connection.open shop ok", "channel.open  ok"]);
    talk.seen.exchanges.clear();
    talk
}

fn confirming() -> Conversation {
    let mut talk = opened();
    talk.request(select(1)).response(ok(1, 85, 11));
    talk.seen.exchanges.clear();
    talk
}

fn consumer(no_ack: bool) -> Conversation {
    let mut talk = opened();
    talk.request(consume(1, "work", "tag-1", no_ack)).response(consuming(1, "tag-1"));
    talk.seen.exchanges.clear();
    talk
}

/// What came out, as "operation resource status", up to the close of the connection.
fn told(talk: &mut Conversation) -> Vec<String> {
    assert!(!talk.refused());
    talk.close();
    let all = format!("{:?}", talk.seen);
    assert!(!all.contains("hunter2"), "a secret came out: {all}");
    talk.summaries()
}

fn last(talk: &Conversation) -> &OwnedExchange {
    talk.seen.exchanges.last().unwrap()
}

#[test]
fn the_start_gives_the_opening_of_the_virtual_host_and_no_credentials() {
    let mut talk = Conversation::opened(DEFINITION.parser);
    begin(&mut talk, 8);
    assert_eq!(told(&mut talk), ["connection.open shop ok", "channel.open  ok"]);
    let open = &talk.seen.exchanges[0];
    assert_eq!((open.start_ns, open.first_byte_ns, open.end_ns), (5000, Some(6000), 6000));
    assert_eq!((open.request_bytes, open.response_bytes), (19, 13));
    assert_eq!(open.text("messaging.system"), Some("rabbitmq"));
    assert_eq!(open.text("messaging.operation.name"), Some("connection.open"));
    assert_eq!((&talk.seen.captures[..], &talk.seen.losses[..]), (&[Capture::Full][..], &[][..]));
}

#[test]
fn a_refused_login_is_an_exchange_with_its_code_and_so_is_one_that_is_only_cut_off() {
    for (answer, expected) in [(Some(403), "connection.start-ok  403"), (None, "connection.start-ok  ")] {
        let mut talk = Conversation::opened(DEFINITION.parser);
        begin(&mut talk, 3);
        if let Some(code) = answer {
            talk.response(close(0, code, 0, 0));
        }
        assert_eq!(told(&mut talk), [expected]);
        assert!(last(&talk).error);
        assert_eq!(last(&talk).flags.contains(Flags::UNANSWERED), answer.is_none());
    }
}

#[test]
fn an_unknown_virtual_host_is_the_error_of_its_opening() {
    let mut talk = Conversation::opened(DEFINITION.parser);
    begin(&mut talk, 5);
    talk.response(close(0, 530, 10, 40)).request(ok(0, 10, 51));
    assert_eq!(told(&mut talk), ["connection.open shop 530"]);
}

#[test]
fn a_server_of_another_version_says_so() {
    let mut talk = Conversation::opened(DEFINITION.parser);
    talk.request(OPENING).response(b"AMQP\x03\x01\0\0");
    assert_eq!(told(&mut talk), ["connection.start  "]);
    assert!(last(&talk).error);
}

#[test]
fn synchronous_methods_are_paired_on_their_channel() {
    let mut talk = opened();
    talk.request([open_channel(2), declare_queue(1, "work")].concat());
    talk.response(queue_declared(1, "work")).response(method(2, 20, 11, b"\0\0\0\0"));
    talk.request(bind(1, 50, "work", "logs", 0)).request(bind(2, 40, "to", "from", 0));
    talk.response([ok(2, 40, 31), ok(1, 50, 21)].concat());
    talk.request(method(1, 60, 10, &[0; 7])).response(ok(1, 60, 11));
    talk.request(method(1, 90, 10, b"")).response(ok(1, 90, 11));
    talk.request(method(0, 10, 70, b"\0\0\0\x07hunter2\0")).response(ok(0, 10, 71));
    talk.request(close(2, 200, 0, 0)).response(ok(2, 20, 41));
    talk.request(close(0, 200, 0, 0)).response(ok(0, 10, 51));
    let expected = [
        "queue.declare work ok",
        "channel.open  ok",
        "exchange.bind from -> to ok",
        "queue.bind logs -> work ok",
        "basic.qos  ok",
        "tx.select  ok",
        "connection.update-secret shop ok",
        "channel.close  ok",
        "connection.close shop ok",
    ];
    assert_eq!(told(&mut talk), expected);
    assert!(talk.seen.exchanges.iter().all(|one| !one.error && one.flags == Flags::default()));
}

#[test]
fn a_method_that_wants_no_answer_ends_with_itself() {
    let mut talk = opened();
    talk.request(bind(1, 50, "work", "logs", 1)).request(declare_queue(1, "next")).response(queue_declared(1, "next"));
    assert_eq!(told(&mut talk), ["queue.bind logs -> work ", "queue.declare next ok"]);
}

#[test]
fn an_empty_queue_name_is_the_one_that_was_declared_last() {
    let mut talk = opened();
    talk.request(declare_queue(1, "")).response(queue_declared(1, "amq.gen-JzTY20BRgKO"));
    talk.request(get(1, "", true)).response(empty(1));
    talk.request(declare_queue(1, "mine")).response(queue_declared(1, "mine"));
    talk.request(bind(1, 50, "", "logs", 1));
    assert_eq!(
        told(&mut talk),
        ["queue.declare amq.gen-* ok", "basic.get amq.gen-* empty", "queue.declare mine ok", "queue.bind logs -> mine "]
    );
}

#[test]
fn a_close_by_the_server_is_the_error_of_the_method_that_caused_it() {
    for (ask, class, number, code, expected) in [
        (declare_queue(1, "missing"), 50, 10, 404, "queue.declare missing 404"),
        (declare_queue(1, "other"), 50, 10, 406, "queue.declare other 406"),
        (get(1, "missing", false), 60, 70, 404, "basic.get missing 404"),
        (consume(1, "secret", "tag", false), 60, 20, 403, "basic.consume secret 403"),
    ] {
        let mut talk = opened();
        talk.request(ask).response(close(1, code, class, number)).request(ok(1, 20, 41));
        assert_eq!(told(&mut talk), [expected]);
        assert!(last(&talk).error);
        assert_eq!(last(&talk).text("error.type"), Some(&expected[expected.len() - 3..]));
        assert_eq!((last(&talk).start_ns, last(&talk).end_ns), (9000, 10_000));
    }
}

#[test]
fn a_close_that_nothing_open_explains_is_an_exchange_of_its_own() {
    let mut talk = opened();
    talk.request([settle(1, "ack", 9, false), declare_queue(1, "late")].concat());
    talk.response(close(1, 406, 60, 80)).request(ok(1, 20, 41));
    talk.request(open_channel(1)).response(method(1, 20, 11, b"\0\0\0\0"));
    talk.response(close(0, 320, 0, 0)).request(ok(0, 10, 51));
    let expected = ["channel.close basic.ack 406", "queue.declare late ", "channel.open  ok", "connection.close  320"];
    assert_eq!(told(&mut talk), expected);
    assert!(talk.seen.exchanges[1].flags.contains(Flags::UNANSWERED));
}

#[test]
fn a_connection_error_goes_to_the_only_call_that_can_have_caused_it() {
    let mut talk = opened();
    talk.request(open_channel(2)).response(method(2, 20, 11, b"\0\0\0\0"));
    talk.request(bind(2, 40, "a", "b", 0)).response(close(0, 540, 40, 30));
    assert_eq!(told(&mut talk), ["channel.open  ok", "exchange.bind b -> a 540"]);
}

#[test]
fn a_publish_without_confirms_ends_with_its_last_byte() {
    let mut talk = opened();
    let message = publish_with(1, "logs", "app.error", 0, b"hunter2-body", 5);
    talk.request(&message[..30]).request(&message[30..]).request(publish(1, "", "work", b""));
    assert_eq!(told(&mut talk), ["basic.publish logs/app.error ", "basic.publish amq.default/work "]);
    let first = &talk.seen.exchanges[0];
    assert_eq!((first.start_ns, first.first_byte_ns, first.end_ns), (9000, None, 10_000));
    assert_eq!((first.request_bytes, first.response_bytes, first.error), (message.len() as u64, 0, false));
    assert_eq!(first.text("messaging.destination.name"), Some("logs:app.error"));
    assert_eq!(first.text("messaging.rabbitmq.destination.routing_key"), Some("app.error"));
    assert_eq!(first.text("messaging.operation.type"), Some("send"));
    assert_eq!(first.int("messaging.message.body.size"), Some(12));
    assert_eq!(first.attribute("messaging.rabbitmq.message.delivery_tag"), None);
}

#[test]
fn a_confirmed_publish_lasts_until_its_confirm() {
    let mut talk = confirming();
    for _ in 0..5 {
        talk.request(publish(1, "logs", "key", b"body"));
    }
    // The second alone, the first and third together, then the rest one by one.
    talk.response(settle(1, "ack", 2, false)).response(settle(1, "nack", 3, true)).response(settle(1, "ack", 5, false));
    talk.response(settle(1, "ack", 4, false));
    let expected =
        ["logs/key ack", "logs/key nack", "logs/key nack", "logs/key ack", "logs/key ack"].map(|end| format!("basic.publish {end}"));
    assert_eq!(told(&mut talk), expected);
    let tags: Vec<_> = talk.seen.exchanges.iter().map(|one| one.int("messaging.rabbitmq.message.delivery_tag").unwrap()).collect();
    assert_eq!(tags, [2, 1, 3, 5, 4]);
    let times: Vec<_> = talk.seen.exchanges.iter().map(|one| (one.start_ns / 1000, one.end_ns / 1000)).collect();
    assert_eq!(times, [(12, 16), (11, 17), (13, 17), (15, 18), (14, 19)]);
    let bytes: Vec<_> = talk.seen.exchanges.iter().map(|one| one.response_bytes).collect();
    assert_eq!(bytes, [21, 0, 21, 21, 21], "a confirm of several is counted once");
    assert_eq!(talk.seen.exchanges.iter().map(|one| one.error).collect::<Vec<_>>(), [false, true, true, false, false]);
}

#[test]
fn confirms_count_by_channel() {
    let mut talk = confirming();
    talk.request(open_channel(2)).response(method(2, 20, 11, b"\0\0\0\0")).request(select(2)).response(ok(2, 85, 11));
    talk.seen.exchanges.clear();
    let (first, second) = (publish_with(1, "one", "", 0, b"first body", 4), publish_with(2, "two", "", 0, b"second one", 4));
    // Frame by frame in turn.
    let mut mixed = Vec::new();
    let frames = |mut bytes: &[u8]| {
        let mut frames = Vec::new();
        while bytes.len() > 7 {
            let length = 8 + u32::from_be_bytes(bytes[3..7].try_into().unwrap()) as usize;
            frames.push(bytes[..length].to_vec());
            bytes = &bytes[length..];
        }
        frames
    };
    for (one, two) in frames(&first).into_iter().zip(frames(&second)) {
        mixed.extend([one, HEARTBEAT.to_vec(), two].concat());
    }
    talk.request(mixed).response([settle(2, "ack", 1, false), settle(1, "nack", 1, false)].concat());
    assert_eq!(told(&mut talk), ["basic.publish two ack", "basic.publish one nack"]);
    assert_eq!(talk.seen.exchanges[0].request_bytes, second.len() as u64);
}

#[test]
fn a_message_that_comes_back_is_an_error_with_its_code() {
    let mut talk = confirming();
    talk.request(publish(1, "logs", "gone", b"1234"));
    talk.request(publish_with(1, "logs", "gone", 1, b"1234", 99));
    let back = returned(1, 312, "logs", "gone", b"1234");
    talk.response([back.clone(), settle(1, "ack", 2, true)].concat());
    assert_eq!(told(&mut talk), ["basic.publish logs/gone ack", "basic.publish logs/gone 312"]);
    assert!(last(&talk).error);
    assert_eq!(last(&talk).response_bytes, back.len() as u64 + 21);

    let mut talk = opened();
    talk.request(publish_with(1, "logs", "gone", 1, b"1234", 99)).response(back);
    assert_eq!(told(&mut talk), ["basic.publish logs/gone ", "basic.return logs/gone 312"]);
    assert!(last(&talk).error);
}

#[test]
fn a_publish_that_closes_its_channel_is_its_error_where_it_is_the_only_one() {
    let mut talk = confirming();
    talk.request(publish(1, "nowhere", "k", b"x")).response(close(1, 404, 60, 40)).request(ok(1, 20, 41));
    assert_eq!(told(&mut talk), ["basic.publish nowhere/k 404"]);

    let mut talk = confirming();
    talk.request(publish(1, "nowhere", "k", b"x")).request(publish(1, "nowhere", "k", b"y"));
    talk.response(close(1, 404, 60, 40)).request(publish(1, "nowhere", "k", b"z")).request(ok(1, 20, 41));
    let unanswered = "basic.publish nowhere/k ";
    assert_eq!(told(&mut talk), ["channel.close basic.publish 404", unanswered, unanswered, unanswered]);
    assert!(talk.seen.exchanges[1..].iter().all(|one| one.error && one.flags == Flags::UNANSWERED));
}

#[test]
fn publishes_without_confirm_stay_unanswered_when_the_connection_ends() {
    let mut talk = confirming();
    talk.request(publish(1, "logs", "key", b"body")).response(HEARTBEAT);
    assert_eq!(told(&mut talk), ["basic.publish logs/key "]);
    assert!(last(&talk).error && last(&talk).flags == Flags::UNANSWERED);
    assert_eq!(last(&talk).end_ns, talk.now_ns());
}

#[test]
fn a_confirm_that_is_reported_before_its_publish_still_ends_it() {
    let mut talk = confirming();
    talk.response([settle(1, "ack", 1, false), settle(1, "nack", 3, true)].concat());
    for _ in 0..3 {
        talk.request(publish(1, "logs", "key", b"body"));
    }
    assert_eq!(told(&mut talk), ["ack", "nack", "nack"].map(|status| format!("basic.publish logs/key {status}")));
}

#[test]
fn a_return_that_is_reported_before_its_publish_is_whole_still_goes_to_it() {
    for cut in [0, 20, 95] {
        let mut talk = confirming();
        let message = publish_with(1, "logs", "gone", 1, b"1234", 99);
        talk.request(&message[..cut]).response([returned(1, 312, "logs", "gone", b"1234"), settle(1, "ack", 1, false)].concat());
        talk.request(&message[cut..]).request(publish_with(1, "logs", "gone", 1, b"1234", 99)).response(settle(1, "ack", 2, false));
        assert_eq!(told(&mut talk), ["basic.publish logs/gone 312", "basic.publish logs/gone ack"], "{cut}");
    }
}

#[test]
fn a_delivery_that_was_perhaps_settled_with_all_others_is_not_told() {
    let mut talk = consumer(false);
    let second = deliver(1, "tag-1", 2, "", "work", b"body");
    let (begin, end) = second.split_at(second.len() - 3);
    talk.response([&deliver(1, "tag-1", 1, "", "work", b"")[..], begin].concat()).request(settle(1, "nack", 0, true)).response(end);
    talk.request(settle(1, "ack", 2, true));
    assert_eq!(told(&mut talk), ["basic.deliver amq.default/work nack"]);
    assert_eq!(talk.seen.losses, [Loss::ParseGap]);
}

#[test]
fn an_answer_that_is_reported_before_its_question_still_answers_it() {
    let mut talk = opened();
    talk.response(queue_declared(1, "work")).request(declare_queue(1, "work"));
    assert_eq!(told(&mut talk), ["queue.declare work ok"]);
}

#[test]
fn a_delivery_lasts_until_the_consumer_settles_it() {
    let mut talk = consumer(false);
    let message = deliver(1, "tag-1", 1, "logs", "app.info", b"hunter2-body");
    talk.response(&message);
    for tag in 2..=5 {
        talk.response(deliver(1, "tag-1", tag, "", "work", b""));
    }
    talk.request(settle(1, "ack", 2, true)).request(settle(1, "reject", 4, false)).request(settle(1, "nack", 3, false));
    let expected = ["logs/app.info ack", "amq.default/work ack", "amq.default/work reject", "amq.default/work nack", "amq.default/work "];
    assert_eq!(told(&mut talk), expected.map(|end| format!("basic.deliver {end}")));
    let first = &talk.seen.exchanges[0];
    assert_eq!((first.start_ns, first.first_byte_ns, first.end_ns), (11_000, Some(16_000), 16_000));
    assert_eq!((first.request_bytes, first.response_bytes), (message.len() as u64, 0));
    assert_eq!(first.text("messaging.destination.name"), Some("logs:app.info:work"));
    assert_eq!(first.text("messaging.destination.subscription.name"), Some("work"));
    assert_eq!(first.text("messaging.operation.type"), Some("process"));
    assert_eq!(talk.seen.exchanges.iter().map(|one| one.error).collect::<Vec<_>>(), [false, false, true, true, false]);
    assert_eq!(last(&talk).flags, Flags::UNANSWERED, "it was in the consumer's hands when the connection ended");
}

#[test]
fn zero_settles_all_and_recovering_gives_all_back() {
    let mut talk = consumer(false);
    talk.response([1, 2].map(|tag| deliver(1, "tag-1", tag, "", "work", b"")).concat());
    talk.request(settle(1, "ack", 0, true));
    talk.response(deliver(1, "tag-1", 3, "", "work", b"")).request(method(1, 60, 110, b"\x01")).response(ok(1, 60, 111));
    let deliver = "basic.deliver amq.default/work";
    assert_eq!(
        told(&mut talk),
        [format!("{deliver} ack"), format!("{deliver} ack"), "basic.recover  ok".into(), format!("{deliver} recover")]
    );
}

#[test]
fn a_consumer_that_need_not_acknowledge_has_its_message_with_the_last_byte() {
    let mut talk = consumer(true);
    talk.response(deliver(1, "tag-1", 1, "", "work", b"body"));
    assert_eq!(told(&mut talk), ["basic.deliver amq.default/work "]);
    assert_eq!(last(&talk).flags, Flags::default());
    assert_eq!(last(&talk).first_byte_ns, None);
}

#[test]
fn an_acknowledgement_that_is_reported_first_settles_what_follows() {
    let mut talk = consumer(false);
    talk.request(settle(1, "ack", 1, false)).response(deliver(1, "tag-1", 1, "", "work", b"body"));
    assert_eq!(told(&mut talk), ["basic.deliver amq.default/work ack"]);
}

#[test]
fn a_consumer_named_by_the_server_is_known_by_its_name() {
    let mut talk = opened();
    talk.request(consume(1, "work", "", false)).response(consuming(1, "amq.ctag-x"));
    talk.response(deliver(1, "amq.ctag-x", 1, "", "other", b"")).request(settle(1, "ack", 1, false));
    assert_eq!(told(&mut talk), ["basic.consume work ok", "basic.deliver amq.default/other ack"]);
    assert_eq!(last(&talk).text("messaging.destination.subscription.name"), Some("work"));
}

#[test]
fn a_queue_that_is_gone_cancels_its_consumer() {
    let mut talk = consumer(false);
    talk.response(cancel(1, "tag-1", 1));
    assert_eq!(told(&mut talk), ["basic.cancel work cancel"]);
    assert!(last(&talk).error);
    let mut talk = consumer(false);
    talk.request(cancel(1, "tag-1", 0)).response(method(1, 60, 31, b"\x05tag-1"));
    assert_eq!(told(&mut talk), ["basic.cancel work ok"]);
}

#[test]
fn a_get_is_answered_by_a_message_or_by_none_and_the_settlement_is_another_exchange() {
    let mut talk = opened();
    talk.request(get(1, "work", false)).response(got(1, 1, "logs", "key", b"hunter2")).request(settle(1, "ack", 1, false));
    talk.request(get(1, "work", true)).response(got(1, 2, "logs", "key", b"")).request(get(1, "work", false)).response(empty(1));
    assert_eq!(told(&mut talk), ["basic.get work ok", "basic.get-ok logs/key ack", "basic.get work ok", "basic.get work empty"]);
    let first = &talk.seen.exchanges[0];
    assert_eq!(first.text("messaging.rabbitmq.destination.routing_key"), Some("key"));
    assert_eq!(first.attribute("messaging.rabbitmq.message.redelivered"), Some(&OwnedValue::Bool(true)));
    assert_eq!(first.int("messaging.message.body.size"), Some(7));
    assert!(talk.seen.exchanges.iter().all(|one| !one.error));
}

#[test]
fn a_blocked_connection_lasts_until_it_is_unblocked() {
    let mut talk = opened();
    talk.response(method(0, 10, 60, b"\x0ahunter2 low")).request(HEARTBEAT).response(method(0, 10, 61, b""));
    talk.response(method(0, 10, 60, b"\x0ahunter2 low"));
    assert_eq!(told(&mut talk), ["connection.blocked shop unblocked", "connection.blocked shop "]);
    assert_eq!((talk.seen.exchanges[0].start_ns, talk.seen.exchanges[0].end_ns), (9000, 11_000));
}

#[test]
fn large_bodies_are_passed_over_without_being_captured() {
    let mut talk = confirming();
    let message = publish_with(1, "logs", "big", 0, &vec![b'x'; 300_000], 131_064);
    // A call a frame, as clients write them; of each the hook carries less than the body.
    let second = message.len() - 2 * 8 - (300_000 - 131_064);
    let third = second + 131_072;
    for piece in [&message[..second], &message[second..third], &message[third..]] {
        talk.cut_call(Request, &piece[..1000], piece.len() as u64);
        assert_eq!(talk.buffered(Request), 0);
    }
    talk.response(settle(1, "ack", 1, false));
    assert_eq!(told(&mut talk).last().unwrap(), "basic.publish logs/big ack");
    assert_eq!(last(&talk).request_bytes, message.len() as u64);
    assert_eq!(last(&talk).int("messaging.message.body.size"), Some(300_000));
}

#[test]
fn a_late_watcher_learns_the_number_of_confirms_from_a_publisher_that_waits() {
    let mut talk = Conversation::adopted(DEFINITION.parser, 1000);
    talk.response(settle(1, "ack", 500, false));
    for tag in 501..510 {
        let how = if tag == 507 { "nack" } else { "ack" };
        talk.request(publish(1, "logs", &format!("key.{tag}"), b"x")).response(settle(1, how, tag, false));
    }
    let expected = (501..510).map(|tag| format!("basic.publish logs/key.{tag} {}", if tag == 507 { "nack" } else { "ack" }));
    assert_eq!(told(&mut talk), expected.collect::<Vec<_>>());
    for (exchange, tag) in talk.seen.exchanges.iter().zip(501..) {
        assert_eq!(exchange.int("messaging.rabbitmq.message.delivery_tag"), Some(tag));
        assert_eq!(exchange.end_ns - exchange.start_ns, 1000, "also those by which it learned");
        assert_eq!(exchange.flags, Flags::ADOPTED);
    }
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn a_late_watcher_does_not_number_a_publisher_that_was_ahead_wrongly() {
    // Ten are under way when it is joined; bursts of different size follow.
    let mut talk = Conversation::adopted(DEFINITION.parser, 0);
    let (mut sent, mut confirmed, mut right) = (110_u64, 100_u64, 0);
    for round in 0..200_u64 {
        for _ in 0..1 + round % 3 {
            sent += 1;
            talk.request(publish(1, "logs", &format!("key.{sent}"), b"x"));
        }
        // Every twentieth round it catches up.
        confirmed = if round % 20 == 19 { sent } else { (confirmed + 1 + round % 4).min(sent) };
        talk.response(settle(1, "ack", confirmed, true));
    }
    talk.close();
    for exchange in &talk.seen.exchanges {
        if let Some(tag) = exchange.int("messaging.rabbitmq.message.delivery_tag") {
            assert_eq!(exchange.text("messaging.rabbitmq.destination.routing_key"), Some(&*format!("key.{tag}")));
            right += 1;
        }
    }
    assert!(right > 100, "{right}");
}

#[test]
fn a_late_watcher_takes_publishes_that_nobody_confirms_for_unconfirmed_ones() {
    let mut talk = Conversation::adopted(DEFINITION.parser, 0);
    for second in 0..30 {
        talk.at(second * 1_000_000_000).request(publish(1, "logs", "key", b"x"));
    }
    assert_eq!(told(&mut talk), vec!["basic.publish logs/key "; 30]);
    let doubtful = talk.seen.exchanges.iter().filter(|one| one.flags.contains(Flags::GAP)).count();
    assert_eq!(doubtful, 12, "those of the first ten seconds");
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn a_late_watcher_settles_deliveries_by_their_tags_and_takes_silent_consumers_for_ones_that_need_not_speak() {
    let mut talk = Conversation::adopted(DEFINITION.parser, 0);
    talk.request(settle(1, "ack", 41, false)).response(deliver(1, "tag", 42, "", "work", b"x")).request(settle(1, "ack", 42, false));
    assert_eq!(told(&mut talk), ["basic.deliver amq.default/work ack"]);
    let mut talk = Conversation::adopted(DEFINITION.parser, 0);
    for tag in 1..=600 {
        talk.response(deliver(1, "tag", tag, "", "work", b"x"));
    }
    assert_eq!(told(&mut talk).len(), 600);
    assert!(talk.seen.exchanges[..513].iter().all(|one| one.flags.contains(Flags::GAP)));
    assert!(talk.seen.exchanges[513..].iter().all(|one| one.flags == Flags::ADOPTED));
}

#[test]
fn a_connection_joined_before_its_opening_is_known_from_its_begin() {
    let mut talk = Conversation::adopted(DEFINITION.parser, 0);
    begin(&mut talk, 8);
    talk.request(select(1)).response(ok(1, 85, 11)).request(publish(1, "logs", "key", b"x")).response(settle(1, "ack", 1, false));
    assert_eq!(told(&mut talk).last().unwrap(), "basic.publish logs/key ack");
}

#[test]
fn a_missing_publish_loses_what_was_open_and_nothing_is_paired_wrongly() {
    let mut talk = confirming();
    talk.request(publish(1, "logs", "one", b"x")).response(settle(1, "ack", 1, false));
    talk.lost_call(Request, publish(1, "logs", "two", b"x").len() as u64);
    talk.request(publish(1, "logs", "three", b"x")).response(settle(1, "ack", 2, false)).response(settle(1, "ack", 3, false));
    for tag in 4..8 {
        talk.request(publish(1, "logs", &format!("key.{tag}"), b"x")).response(settle(1, "ack", tag, false));
    }
    for tag in 8..14 {
        talk.request(publish(1, "logs", &format!("key.{tag}"), b"x")).response(settle(1, "ack", tag, false));
    }
    let mut expected = vec!["basic.publish logs/one ack".to_owned(), "basic.publish logs/three ack".to_owned()];
    expected.extend((4..14).map(|tag| format!("basic.publish logs/key.{tag} ack")));
    assert_eq!(told(&mut talk), expected);
    assert_eq!(talk.seen.losses, [Loss::ParseGap]);
}

#[test]
fn a_publish_that_is_broken_off_makes_the_numbers_unknown() {
    let mut talk = confirming();
    let message = publish(1, "logs", "broken", b"never sent");
    talk.request(&message[..60]).request(&message[60..message.len() - 18]).request(publish(1, "logs", "key.x", b"x"));
    talk.response(settle(1, "ack", 2, false));
    for tag in 3..13 {
        talk.request(publish(1, "logs", &format!("key.{tag}"), b"x")).response(settle(1, "ack", tag, false));
    }
    let mut expected = vec!["basic.publish logs/key.x ack".to_owned()];
    expected.extend((3..13).map(|tag| format!("basic.publish logs/key.{tag} ack")));
    assert_eq!(told(&mut talk), expected);
    assert_eq!(last(&talk).int("messaging.rabbitmq.message.delivery_tag"), Some(12));
    assert_eq!(talk.seen.losses, [Loss::ParseGap]);
}

#[test]
fn a_gap_in_a_body_is_none() {
    let mut talk = confirming();
    let message = publish_with(1, "logs", "key", 0, &[b'x'; 5000], 5000);
    talk.cut_call(Request, &message[..200], message.len() as u64).response(settle(1, "ack", 1, false));
    assert_eq!(told(&mut talk), ["basic.publish logs/key ack"]);
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn what_waits_is_bounded_and_the_oldest_is_given_up() {
    let mut talk = confirming();
    let many = 40_000;
    for _ in 0..many {
        talk.request(publish(1, "logs", "key", b""));
    }
    let lost = talk.seen.losses.iter().filter(|loss| **loss == Loss::PendingFull).count();
    assert!(lost > 0 && lost < many, "{lost}");
    talk.response(settle(1, "ack", many as u64, true));
    assert_eq!(told(&mut talk).len() + lost, many);
}

#[test]
fn bytes_that_are_no_frames_end_the_parsing() {
    let mut talk = Conversation::opened(DEFINITION.parser);
    talk.request(b"GET / HTTP/1.1\r\n\r\n");
    assert!(talk.refused());
    let mut talk = opened();
    for _ in 0..9 {
        talk.request(select(1)).request(b"garbage and more");
    }
    assert!(talk.refused());
}

#[test]
fn names_are_shown_whole_only_where_that_was_asked_for_and_secrets_never() {
    let mut talk = Conversation::opened(|_| (DEFINITION.parser)(Opening { raw: Protocols::ALL, ..Opening::default() }));
    begin(&mut talk, 8);
    talk.request(publish(1, "", "amq.gen-JzTY20BRgKO", b"hunter2"));
    assert_eq!(told(&mut talk).last().unwrap(), "basic.publish amq.default/amq.gen-JzTY20BRgKO ");
    let mut talk = opened();
    talk.request(publish(1, "", "amq.gen-JzTY20BRgKO", b"hunter2"));
    assert_eq!(told(&mut talk), ["basic.publish amq.default/amq.gen-* "]);
}

#[test]
fn channels_and_consumers_are_bounded_by_connection() {
    let mut talk = Conversation::opened(DEFINITION.parser);
    begin(&mut talk, 8);
    for channel in 2..=1500 {
        talk.request(open_channel(channel)).response(method(channel, 20, 11, b"\0\0\0\0"));
        talk.request(consume(channel, "work", "tag-1", false)).response(consuming(channel, "tag-1"));
    }
    let opened = talk.seen.exchanges.iter().filter(|one| one.operation == "channel.open").count();
    assert_eq!(opened, 1023, "one of 1,024 is the connection itself");
    assert!(talk.seen.losses.contains(&Loss::PendingFull));
    // What was closed makes room.
    talk.request(close(2, 200, 0, 0)).response(ok(2, 20, 41)).request(open_channel(1500)).response(method(1500, 20, 11, b"\0\0\0\0"));
    assert_eq!(last(&talk).summary(), "channel.open  ok");
}
