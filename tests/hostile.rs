//! A million mutated inputs for everything that reads bytes from outside: no panic, no unbounded memory.
//! Seeds are fixed: a failure names the input, and running again finds it again.

#[path = "hostile/conversations.rs"]
mod conversations;
#[path = "hostile/mutation.rs"]
mod mutation;

use remora::{
    connection::stream::{Segment, Stream},
    model::{Exchange, Flow},
    protocols::{Capture, DEFINITIONS, Definition, Loss, MAX_BUFFERED, Opening, Parser, Sink},
};

use conversations::CONVERSATIONS;
use mutation::{Random, mutate};

/// For each parser and decoder.
const INPUTS: u64 = 1_000_000;

/// Texts of an exchange are cut by their parsers; nothing needs more than the stream keeps for one message.
const LONGEST_TEXT: usize = MAX_BUFFERED;

/// How far the resident memory may rise while a million inputs go by: a leak of 100 bytes an input would be 100 MB.
const MEMORY_SLACK: u64 = 48 << 20;

#[derive(Default)]
struct Counting {
    exchanges: u64,
    losses: u64,
    longest: usize,
}

impl Sink for Counting {
    fn exchange(&mut self, exchange: &Exchange<'_>) {
        self.exchanges += 1;
        for text in [exchange.operation, exchange.resource, exchange.status] {
            self.longest = self.longest.max(text.len());
        }
    }

    fn capture(&mut self, _: Capture) {}

    fn lost(&mut self, _: Loss) {
        self.losses += 1;
    }
}

/// A connection as a worker has it, without the worker.
struct Connection {
    parser: Box<dyn Parser>,
    streams: [Stream; 2],
    time_ns: u64,
}

impl Connection {
    fn new(definition: &Definition, adopted: bool) -> Self {
        Self { parser: (definition.parser)(Opening { adopted }), streams: Default::default(), time_ns: 1 }
    }

    /// Feeds one message in the pieces, and with the losses, that `random` chooses; false when the parser wants no more.
    fn feed(&mut self, flow: Flow, message: &[u8], random: &mut Random, out: &mut Counting) -> bool {
        let mut rest = message;
        while !rest.is_empty() {
            let whole = random.one_in(2);
            let (piece, behind) = rest.split_at(if whole { rest.len() } else { 1 + random.below(rest.len()) });
            rest = behind;
            self.time_ns += 1 + random.below(1000) as u64;
            let stream = &mut self.streams[flow.index()];
            let mut segment = Segment { offset: stream.position(), size: piece.len() as u64, payload: piece, time_ns: self.time_ns };
            match random.below(64) {
                0 => segment.offset += 1 + random.below(5000) as u64,
                1 => segment.offset = segment.offset.saturating_sub(random.below(100) as u64),
                2 => segment.payload = &piece[..random.below(piece.len() + 1)],
                3 => segment.size += 1 + random.below(1 << 20) as u64,
                4 => segment.offset = u64::MAX / 2,
                _ => {}
            }
            if stream.feed(flow, segment, self.parser.as_mut(), out).is_err() {
                return false;
            }
            assert!(stream.buffered() <= MAX_BUFFERED, "{} bytes are held for the parser", stream.buffered());
        }
        true
    }
}

#[test]
fn every_parser_has_a_conversation_that_it_understands() {
    assert!(!DEFINITIONS.is_empty());
    for definition in DEFINITIONS {
        let mut out = Counting::default();
        for conversation in CONVERSATIONS {
            let mut connection = Connection::new(definition, false);
            for (flow, message) in *conversation {
                let stream = &mut connection.streams[flow.index()];
                let segment = Segment { offset: stream.position(), size: message.len() as u64, payload: message, time_ns: 1 };
                if stream.feed(*flow, segment, connection.parser.as_mut(), &mut out).is_err() {
                    break;
                }
            }
        }
        assert!(out.exchanges > 0, "add a conversation of {} to tests/hostile/conversations.rs", definition.protocol);
    }
}

#[test]
fn parsers_survive_a_million_mutated_conversations_each() {
    for definition in DEFINITIONS {
        let mut out = Counting::default();
        let mut memory = Memory::new();
        for input in 0..INPUTS {
            let mut random = Random::new(input);
            let conversation = CONVERSATIONS[random.below(CONVERSATIONS.len())];
            let mut connection = Connection::new(definition, random.one_in(4));
            let mut message = Vec::new();
            for (flow, original) in conversation {
                message.clear();
                message.extend_from_slice(original);
                mutate(&mut message, &mut random);
                let flow = if random.one_in(50) { flow.opposite() } else { *flow };
                (definition.likeness)(flow, &message);
                if !connection.feed(flow, &message, &mut random, &mut out) {
                    break;
                }
            }
            connection.time_ns += 1;
            connection.parser.close(connection.time_ns, &mut out);
            memory.check(input, definition.protocol.name());
        }
        assert!(out.longest <= LONGEST_TEXT, "{}: a text of {} bytes", definition.protocol, out.longest);
        // Mutations that break everything at once would test nothing but the first byte.
        assert!(out.exchanges > INPUTS / 10, "{}: only {} exchanges", definition.protocol, out.exchanges);
        assert!(out.losses > 0, "{}: gaps are counted as losses", definition.protocol);
    }
}

#[test]
fn a_connection_that_lives_for_ever_stays_small() {
    for definition in DEFINITIONS {
        let mut random = Random::new(7);
        let mut out = Counting::default();
        let mut memory = Memory::new();
        let mut connection = Connection::new(definition, true);
        for input in 0..INPUTS {
            let conversation = CONVERSATIONS[random.below(CONVERSATIONS.len())];
            let (flow, original) = conversation[random.below(conversation.len())];
            let mut message = original.to_vec();
            if random.one_in(3) {
                mutate(&mut message, &mut random);
            }
            if !connection.feed(flow, &message, &mut random, &mut out) {
                connection = Connection::new(definition, true);
            }
            memory.check(input, definition.protocol.name());
        }
    }
}

/// Watches this process's resident memory. Tests of this file share the process: `make test` runs them one after the other.
struct Memory {
    before: Option<u64>,
}

impl Memory {
    /// The first inputs fill caches; what comes after must not grow.
    const WARM_UP: u64 = 1_000;
    const EVERY: u64 = 10_000;

    fn new() -> Self {
        Self { before: None }
    }

    fn check(&mut self, input: u64, what: &str) {
        if input % Self::EVERY == Self::WARM_UP {
            let now = resident();
            let before = *self.before.get_or_insert(now);
            assert!(now < before + MEMORY_SLACK, "{what}: after {input} inputs memory rose from {before} to {now} bytes");
        }
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("read /proc/self/statm");
    let pages: u64 = status.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("pages");
    pages * 4096
}
