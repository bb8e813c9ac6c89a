//! Work and memory by measure: a message costs as much as its bytes however it comes, a connection holds little between its messages, and
//! what nobody claims costs lengths only.
//!
//! The stream hands bytes over again as long as the parser says `NeedMore`: a message of n bytes that comes byte by byte is handed over n
//! times, n²/2 bytes in all. So what counts is not what is handed over but what is looked at: processor time, late in a message
//! against early. A parser that begins anew at each call takes thirty times as long there.

use remora::{
    connection::{Connection as Watched, stream::Segment},
    model::{Direction, Flow, Protocol, Protocols, Role, Wish},
    protocols::{At, DEFINITIONS, Opening, Parser, Sink, Step, Transport},
};

use crate::{
    CONNECTION_BYTES, Connection, Counting,
    conversations::CONVERSATIONS,
    memory::{Peak, live},
    meter,
    mutation::Random,
    transcript, understood,
};

/// A grown message ends here, before a parser has enough of it and well before the stream takes it away.
const LENGTH: usize = 24 << 10;
/// Bytes over which time is taken, at the begin of a message and at its end.
const WINDOW: usize = 1024;
const EARLY: usize = 256;
/// How much longer the last bytes may take than the first: the caches are colder. Beyond [`SLACK_NS`], which is the clock's own.
const TIMES: u64 = 8;
const SLACK_NS: u64 = 100_000;
/// Once is chance: others use this machine.
const TRIES: usize = 5;
/// Of each protocol.
const GROWN: u64 = 250;
/// `LENGTH` in digits.
const DIGITS: &[u8] = b"24576";
/// Between messages: parser, pairing, and the largest buffers that are kept.
const BETWEEN_BYTES: usize = 128 << 10;

/// The begin of a message that says it is long, and what its rest is made of.
fn grown(message: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = message[..random.below(message.len() + 1)].to_vec();
    let length = LENGTH as u32;
    let widths: [&[u8]; 7] = [
        &length.to_be_bytes(),
        &length.to_le_bytes(),
        &length.to_be_bytes()[1..],
        &length.to_le_bytes()[..3],
        &length.to_be_bytes()[2..],
        DIGITS,
        &[],
    ];
    // Lengths stand at the begin, mostly.
    let within = if random.one_in(3) { bytes.len() } else { bytes.len().min(6) };
    let at = random.below(within);
    let width = widths[random.below(widths.len())];
    for (place, byte) in bytes.iter_mut().skip(at).zip(width) {
        *place = *byte;
    }
    let filling: &[u8] = [&b"a"[..], b"\0", b"\xff", b"9", b" ", b"a: b\r\n", b"\n", b"'", b"\"x", b"(", message][random.below(11)];
    let missing = LENGTH - bytes.len().min(LENGTH);
    bytes.extend(filling.iter().cycle().take(missing));
    bytes
}

/// Nanoseconds of the first bytes and of the last, fed one by one; `None` when the parser did not wait for the message's end.
fn early_and_late(connection: &mut Connection, flow: Flow, message: &[u8], out: &mut Counting) -> Option<(u64, u64)> {
    let mut measure = |from: usize, to: usize| {
        let before = meter::work();
        for byte in &message[from..to] {
            let stream = &mut connection.streams[flow.index()];
            let segment = Segment { offset: stream.position(), size: 1, payload: std::slice::from_ref(byte), time_ns: 1 };
            stream.feed(flow, segment, connection.parser.as_mut(), out).ok()?;
        }
        Some(meter::work() - before)
    };
    measure(0, EARLY)?;
    let early = measure(EARLY, EARLY + WINDOW)?;
    measure(EARLY + WINDOW, message.len() - WINDOW)?;
    let late = measure(message.len() - WINDOW, message.len())?;
    (connection.streams[flow.index()].buffered() >= message.len() - WINDOW).then_some((early, late))
}

#[test]
fn a_long_message_that_comes_byte_by_byte_is_not_searched_from_its_begin_each_time() {
    let mut waiting = 0;
    for definition in DEFINITIONS.iter().filter(|definition| definition.transports.contains(&Transport::Stream)) {
        let own = understood(definition);
        let (mut waited, mut out) = (0, Counting::default());
        for input in 0..GROWN {
            let tries = (0..TRIES).map_while(|_| {
                let mut random = Random::new(input);
                let talk = own[random.below(own.len())];
                let place = random.below(talk.len());
                let peak = Peak::begin();
                let mut connection = Connection::new(definition, false);
                for (flow, message) in &talk[..place] {
                    let stream = &mut connection.streams[flow.index()];
                    let segment = Segment { offset: stream.position(), size: message.len() as u64, payload: message, time_ns: 1 };
                    stream.feed(*flow, segment, connection.parser.as_mut(), &mut out).ok()?;
                }
                let (flow, message) = talk[place];
                let (early, late) = early_and_late(&mut connection, flow, &grown(message, &mut random), &mut out)?;
                waited += 1;
                assert!(peak.bytes() < CONNECTION_BYTES, "{}, input {input}: {} bytes", definition.protocol, peak.bytes());
                (late > TIMES * early + SLACK_NS).then_some((early, late))
            });
            let slow: Vec<_> = tries.collect();
            assert!(slow.len() < TRIES, "{}, input {input}: {slow:?} ns early and late", definition.protocol);
        }
        waiting += usize::from(waited > 0);
    }
    // A parser that passes over what is long, or reads it as it comes, waits for nothing.
    assert!(waiting >= 2, "only {waiting} parsers waited for a message");
}

/// Counts how often a parser is called.
struct Counted {
    parser: Box<dyn Parser>,
    calls: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Parser for Counted {
    fn parse(&mut self, flow: Flow, bytes: &[u8], at: At, out: &mut dyn Sink) -> Step {
        self.calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.parser.parse(flow, bytes, at, out)
    }

    fn skipped(&mut self, flow: Flow, at_ns: u64, out: &mut dyn Sink) {
        self.parser.skipped(flow, at_ns, out);
    }

    fn gap(&mut self, flow: Flow, lost: u64, at_ns: u64, out: &mut dyn Sink) {
        self.parser.gap(flow, lost, at_ns, out);
    }

    fn close(&mut self, at_ns: u64, out: &mut dyn Sink) {
        self.parser.close(at_ns, out);
    }
}

#[test]
fn recorded_conversations_take_few_parser_calls_and_leave_little_behind() {
    let transcripts = transcript::all().expect("the transcripts");
    for definition in DEFINITIONS.iter().filter(|definition| definition.transports.contains(&Transport::Stream)) {
        for talk in transcripts.iter().filter(|talk| talk.kind == definition.protocol.name()) {
            for piece in [1, 2, 7, 64, 1 << 10, 16 << 10, 64 << 10] {
                let (mut out, before) = (Counting::default(), live());
                let calls = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
                let mut connection = Connection::new(definition, false);
                connection.parser =
                    Box::new(Counted { parser: (definition.parser)(Opening::default()), calls: std::sync::Arc::clone(&calls) });
                let (mut pieces, mut bytes, mut taken) = (0, 0, true);
                for (flow, part) in talk.calls.iter().flat_map(|(flow, call)| call.chunks(piece).map(move |part| (*flow, part))) {
                    let stream = &mut connection.streams[flow.index()];
                    let segment = Segment { offset: stream.position(), size: part.len() as u64, payload: part, time_ns: 1 };
                    taken &= stream.feed(flow, segment, connection.parser.as_mut(), &mut out).is_ok();
                    if !taken {
                        break;
                    }
                    (pieces, bytes) = (pieces + 1, bytes + part.len() as u64);
                }
                // No message of any protocol is shorter than four bytes on the average: `:1\r\n` of Redis, a frame of two of WebSocket.
                let calls = calls.load(std::sync::atomic::Ordering::Relaxed);
                assert!(calls <= 2 * pieces + bytes / 4, "{} {}: {calls} calls for {bytes} bytes in {pieces}", talk.kind, talk.name);
                let held = live().saturating_sub(before);
                assert!(held < BETWEEN_BYTES, "{} {}: {held} bytes are held after {bytes}", talk.kind, talk.name);
            }
        }
    }
}

/// As much as the limits of detection allow.
const UNCLAIMED_CALLS: usize = 16;
const UNCLAIMED_BYTES: usize = 16 << 10;

#[test]
fn a_stream_that_nobody_claims_costs_lengths_only_after_16_calls_or_16_kib() {
    let mut random = Random::new(16);
    for input in 0..20_000 {
        let role = [Role::Client, Role::Server, Role::Unknown][random.below(3)];
        let (adopted, largest, alphabet) = (random.one_in(2), 1 + random.below(4096), 1 + random.below(256));
        let mut connection = Watched::new(role, adopted, Protocols::default());
        let (mut calls, mut bytes, mut offsets, mut out) = (0, 0, [0; 2], Counting::default());
        let wish = loop {
            let direction = if random.one_in(2) { Direction::Sent } else { Direction::Received };
            let payload: Vec<u8> = (0..1 + random.below(largest)).map(|_| 0x80 | random.below(alphabet) as u8).collect();
            let offset = &mut offsets[direction as usize];
            let captured = if random.one_in(3) { random.below(payload.len()) } else { payload.len() };
            let segment = Segment { offset: *offset, size: payload.len() as u64, payload: &payload[..captured], time_ns: 1 };
            *offset += payload.len() as u64;
            (calls, bytes) = (calls + 1, bytes + payload.len());
            let outcome = connection.data(direction, segment, &mut out);
            if outcome.named {
                break outcome.wish;
            }
            assert!(calls < UNCLAIMED_CALLS && bytes < UNCLAIMED_BYTES, "input {input}: open after {calls} calls and {bytes} bytes");
        };
        assert_eq!((connection.protocol(), wish), (Some(Protocol::Unknown), Some(Wish::NOTHING)), "input {input}");
        let again = Segment { offset: 1 << 20, size: 1, payload: b"x", time_ns: 2 };
        assert_eq!(connection.data(Direction::Sent, again, &mut out).wish, None, "the kernel is told once");
        assert_eq!(out.exchanges, 0);
    }
}

#[test]
fn what_is_given_up_holds_nothing_any_more() {
    for conversation in CONVERSATIONS {
        let (before, mut out) = (live(), Counting::default());
        let mut connection = Watched::new(Role::Unknown, true, Protocols::default());
        // Nothing that could be its begin: every call without its first half.
        let mut offsets = [0; 2];
        for (flow, message) in conversation.iter().cycle().take(64) {
            let direction = if *flow == Flow::Request { Direction::Sent } else { Direction::Received };
            let offset = &mut offsets[direction as usize];
            let segment = Segment { offset: *offset, size: message.len() as u64, payload: &[], time_ns: 1 };
            *offset += message.len() as u64;
            connection.data(direction, segment, &mut out);
        }
        assert_eq!(connection.protocol(), Some(Protocol::Unknown));
        assert_eq!(live(), before, "a connection that is given up is a number and a state");
    }
}
