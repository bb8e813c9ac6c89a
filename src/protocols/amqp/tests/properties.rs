//! What holds for every conversation, however it is cut, joined late or torn.

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{super::DEFINITION, golden, play, speech::*};
use crate::{
    model::{
        Flags,
        Flow::{Request, Response},
    },
    protocols::{
        Likeness, MAX_BUFFERED,
        testing::{
            Conversation, OwnedExchange,
            golden::Call,
            proof::{Mishap, assert_never_wrong},
        },
    },
};

/// What one turn of a made-up conversation does.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// So many publishes in confirm mode, then their confirms: one by one, all at once, refused, or with the first come back.
    Confirmed {
        channel: u16,
        messages: u64,
        how: u8,
    },
    Unconfirmed {
        messages: u64,
    },
    Delivered {
        messages: u64,
        how: u8,
    },
    Got {
        found: bool,
    },
    Asked {
        channel: u16,
        how: u8,
    },
    Refused,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        4 => (1_u16..3, 1_u64..5, 0_u8..5).prop_map(|(channel, messages, how)| Turn::Confirmed { channel, messages, how }),
        2 => (1_u64..4).prop_map(|messages| Turn::Unconfirmed { messages }),
        3 => (1_u64..5, 0_u8..5).prop_map(|(messages, how)| Turn::Delivered { messages, how }),
        1 => any::<bool>().prop_map(|found| Turn::Got { found }),
        1 => (1_u16..6, 0_u8..4).prop_map(|(channel, how)| Turn::Asked { channel, how }),
        1 => Just(Turn::Refused),
    ];
    vec(turn, 1..14)
}

/// Bodies that look like frames to whoever loses the place, each of another size, so that a wrong pair shows.
fn body(number: u64) -> Vec<u8> {
    let decoy = [settle(1, "ack", number, true), b"\xce\x01\0\x01\0\0".to_vec(), vec![b'b'; number as usize % 97]].concat();
    decoy.into_iter().cycle().take(1 + number as usize).collect()
}

/// Channels 1 and 2 confirm, 3 does not, 4 consumes, 5 gets, 6 is closed by the server.
fn speak(turns: &[Turn]) -> Vec<Call> {
    let mut calls = start();
    for channel in 2..=6 {
        calls.extend([(Request, open_channel(channel)), (Response, method(channel, 20, 11, b"\0\0\0\0"))]);
    }
    for channel in 1..=2 {
        calls.extend([(Request, select(channel)), (Response, ok(channel, 85, 11))]);
    }
    calls.extend([(Request, consume(4, "work", "tag", false)), (Response, consuming(4, "tag"))]);
    let (mut published, mut delivered, mut got_tag, mut number) = ([0_u64; 3], 0_u64, 0_u64, 0_u64);
    for turn in turns {
        match *turn {
            Turn::Confirmed { channel, messages, how } => {
                let first = published[usize::from(channel)] + 1;
                let last = first + messages - 1;
                published[usize::from(channel)] = last;
                let mut sent = Vec::new();
                for tag in first..=last {
                    number += 1;
                    let (key, bits) = (format!("key.{channel}.{tag}"), u8::from(how == 4));
                    sent.push((Request, publish_with(channel, "logs", &key, bits, &body(number), 50)));
                }
                if how == 3 {
                    let all = sent.drain(..).flat_map(|(_, bytes)| bytes).collect();
                    sent.push((Request, all));
                }
                calls.extend(sent);
                match how {
                    0 => calls.push((Response, settle(channel, "ack", last, true))),
                    1 => calls.extend((first..=last).map(|tag| (Response, settle(channel, "ack", tag, false)))),
                    2 => calls.extend((first..=last).rev().map(|tag| (Response, settle(channel, "nack", tag, false)))),
                    3 => calls.push((Response, (first..=last).flat_map(|tag| settle(channel, "ack", tag, false)).collect())),
                    _ => {
                        let key = format!("key.{channel}.{first}");
                        calls.push((Response, returned(channel, 312, "logs", &key, &body(number - (messages - 1)))));
                        calls.push((Response, settle(channel, "ack", last, true)));
                    }
                }
            }
            Turn::Unconfirmed { messages } => {
                for _ in 0..messages {
                    number += 1;
                    calls.push((Request, publish_with(3, "plain", &format!("key.{number}"), 0, &body(number), 1000)));
                }
            }
            Turn::Delivered { messages, how } => {
                let first = delivered + 1;
                delivered += messages;
                for tag in first..=delivered {
                    number += 1;
                    calls.push((Response, deliver(4, "tag", tag, "logs", &format!("key.{tag}"), &body(number))));
                }
                match how {
                    0 => calls.push((Request, settle(4, "ack", delivered, true))),
                    1 => calls.extend((first..=delivered).map(|tag| (Request, settle(4, "ack", tag, false)))),
                    2 => calls.extend((first..=delivered).rev().map(|tag| (Request, settle(4, "reject", tag, false)))),
                    3 => calls.push((Request, settle(4, "nack", 0, true))),
                    _ => {}
                }
            }
            Turn::Got { found } => {
                calls.push((Request, get(5, "queue", false)));
                if found {
                    got_tag += 1;
                    number += 1;
                    calls.push((Response, got(5, got_tag, "logs", "key", &body(number))));
                    calls.push((Request, settle(5, "ack", got_tag, false)));
                } else {
                    calls.push((Response, empty(5)));
                }
            }
            Turn::Asked { channel, how } => {
                number += 1;
                let name = format!("queue.{number}");
                match how {
                    0 => calls.extend([(Request, declare_queue(channel, &name)), (Response, queue_declared(channel, &name))]),
                    1 => calls.extend([(Request, bind(channel, 50, &name, "logs", 0)), (Response, ok(channel, 50, 21))]),
                    2 => calls.push((Request, bind(channel, 40, &name, "logs", 1))),
                    _ => calls.extend([(Request, HEARTBEAT.to_vec()), (Response, HEARTBEAT.to_vec())]),
                }
            }
            Turn::Refused => {
                number += 1;
                calls.push((Request, declare_queue(6, &format!("queue.{number}"))));
                calls.extend([(Response, close(6, 406, 50, 10)), (Request, ok(6, 20, 41))]);
                calls.extend([(Request, open_channel(6)), (Response, method(6, 20, 11, b"\0\0\0\0"))]);
            }
        }
    }
    calls
}

/// What an exchange claims; the size of its body tells messages apart.
fn says(exchange: &OwnedExchange) -> String {
    let size = exchange.int("messaging.message.body.size");
    format!("{} {} {} {size:?} {}", exchange.operation, exchange.resource, exchange.status, exchange.error)
}

/// What an exchange that owns up to a loss may still not claim: a message that was not sent, or a status that was not its.
fn admits(exchange: &OwnedExchange, truth: &[OwnedExchange]) -> bool {
    let size = exchange.int("messaging.message.body.size");
    truth.iter().any(|one| {
        one.operation == exchange.operation
            && (exchange.resource.is_empty() || one.resource == exchange.resource)
            && (size.is_none() || one.int("messaging.message.body.size") == size)
            && (exchange.status.is_empty() || one.status == exchange.status)
    })
}

/// As [`says`], of what also a late watcher can know: which queue a consumer reads, which host was opened and what caused a close may not
/// have been seen.
fn says_late(exchange: &OwnedExchange) -> String {
    match (exchange.operation.as_str(), exchange.status.as_str()) {
        // Nothing that is true: it must be held to what it admits, and not stand for another exchange.
        _ if exchange.flags.contains(Flags::GAP) => "with a gap".to_owned(),
        (_, "312") => says(exchange),
        (_, code) if exchange.error && code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit()) => format!("closed {code}"),
        (operation @ ("connection.open" | "connection.close" | "basic.cancel"), status) => format!("{operation} {status}"),
        _ => says(exchange),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(200)))]

    #[test]
    fn cuts_anywhere_change_nothing(turns in turns(), mishap in Mishap::cuts()) {
        let calls = speak(&turns);
        let whole = play(false, &calls);
        prop_assert_eq!(&whole.losses, &[]);
        let cut = mishap.play(DEFINITION.parser, &calls).expect("cuts are no reason to refuse");
        prop_assert_eq!(&cut.losses, &[]);
        let said = |exchanges: &[OwnedExchange]| -> Vec<_> {
            exchanges.iter().map(|one| (says(one), one.request_bytes, one.response_bytes, one.flags)).collect()
        };
        prop_assert_eq!(said(&whole.exchanges), said(&cut.exchanges));
    }

    #[test]
    fn no_mishap_makes_a_wrong_exchange(turns in turns(), mishap in Mishap::any()) {
        assert_never_wrong(DEFINITION.parser, &speak(&turns), &mishap, says_late, admits);
    }

    #[test]
    fn no_mishap_makes_a_wrong_exchange_of_a_recorded_conversation(name in 0..golden::NAMES.len(), mishap in Mishap::any()) {
        thread_local! {
            static RECORDED: Vec<Vec<Call>> = golden::NAMES.iter().map(|name| golden::calls(name)).collect();
        }
        RECORDED.with(|recorded| {
            assert_never_wrong(DEFINITION.parser, &recorded[name], &mishap, says_late, admits);
        });
    }

    #[test]
    fn whoever_joins_late_misses_only_what_was_under_way(turns in turns(), joined: Index) {
        let calls = speak(&turns);
        let joined = joined.index(calls.len());
        let late = play(true, &calls[joined..]);
        // Confirms of which the numbers cannot be learnt any more are told without them, nothing is left out.
        let begun: Vec<_> = play(false, &calls).exchanges.into_iter().filter(|one| one.start_ns > joined as u64 * 1000).collect();
        prop_assert!(late.exchanges.len() + late.losses.len() >= begun.len(), "{} of {}", late.exchanges.len(), begun.len());
    }

    #[test]
    fn random_bytes_are_not_taken_for_amqp(bytes in vec(any::<u8>(), 0..300)) {
        for flow in [Request, Response] {
            prop_assert!((DEFINITION.likeness)(flow, &bytes) < Likeness::Likely);
        }
    }

    #[test]
    fn mutated_conversations_do_not_panic(
        name in 0..golden::NAMES.len(), adopted: bool, changes in vec((any::<Index>(), any::<Index>(), any::<u8>()), 1..6),
        lost in any::<Option<Index>>(),
    ) {
        let mut calls = golden::calls(golden::NAMES[name]);
        for (call, byte, value) in changes {
            let call = call.index(calls.len());
            let bytes = &mut calls[call].1;
            let byte = byte.index(bytes.len());
            bytes[byte] = value;
        }
        let lost = lost.map(|lost| lost.index(calls.len()));
        let mut talk = if adopted { Conversation::adopted(DEFINITION.parser, 0) } else { Conversation::opened(DEFINITION.parser) };
        for (index, (flow, bytes)) in calls.iter().enumerate() {
            if Some(index) == lost {
                talk.lost_call(*flow, bytes.len() as u64);
            } else {
                talk.call(*flow, bytes);
            }
            prop_assert!(talk.buffered(*flow) <= MAX_BUFFERED);
        }
        talk.close();
    }
}

#[test]
fn work_is_bounded_by_the_bytes_however_small_the_calls_are() {
    // Two thousand messages byte by byte: a parser that searched each from its begin again would need minutes.
    let mut talk = Conversation::opened(DEFINITION.parser);
    start().iter().for_each(|(flow, bytes)| {
        talk.call(*flow, bytes);
    });
    for _ in 0..2000 {
        for byte in publish(1, "logs", "key", &[b'x'; 400]) {
            talk.request([byte]);
        }
    }
    talk.close();
    assert_eq!(talk.seen.exchanges.len(), 2002);
    assert!(talk.seen.exchanges.iter().all(|one| one.flags == Flags::default()));
}
