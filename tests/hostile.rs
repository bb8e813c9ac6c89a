//! A million mutated inputs for everything that reads bytes from outside: no panic, no unbounded memory.
//! Seeds are fixed: a failure names the input, and running again finds it again.

#[path = "hostile/conversations.rs"]
mod conversations;
#[path = "hostile/decoders.rs"]
mod decoders;
#[path = "hostile/events.rs"]
mod events;
#[path = "hostile/kept.rs"]
mod kept;
#[path = "hostile/memory.rs"]
mod memory;
#[path = "hostile/meter.rs"]
mod meter;
#[path = "hostile/mutation.rs"]
mod mutation;
#[path = "hostile/pipeline.rs"]
mod pipeline;
#[path = "../fuzz/src/script.rs"]
mod script;
#[path = "../fuzz/src/targets.rs"]
mod targets;
#[path = "support/transcript.rs"]
mod transcript;
#[path = "hostile/work.rs"]
mod work;

use remora::{
    connection::stream::{Segment, Stream},
    model::{Exchange, Flow, Protocol},
    protocols::{Capture, DEFINITIONS, Definition, Likeness, Loss, MAX_BUFFERED, Opening, Parser, Sink},
};

use conversations::{CONVERSATIONS, Conversation};
use memory::{Peak, live};
use mutation::{Random, mutate};

/// For each parser and decoder.
const INPUTS: u64 = 1_000_000;

/// Texts of an exchange are cut by their parsers; nothing needs more than the stream keeps for one message.
const LONGEST_TEXT: usize = MAX_BUFFERED;

/// What one connection may hold at any time, its parser and both its streams: the bound of what waits for an answer, and then some.
const CONNECTION_BYTES: usize = 8 << 20;

/// What may be left when a million inputs are over: a leak of one byte an input would be more.
const LEFT_BYTES: usize = 64 << 10;

#[derive(Default)]
struct Counting {
    exchanges: u64,
    captures: u64,
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

    fn capture(&mut self, _: Capture) {
        self.captures += 1;
    }

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
        let transport = definition.transports[0];
        let parser = (definition.parser)(Opening { adopted, transport, ..Opening::default() });
        Self { parser, streams: Default::default(), time_ns: 1 }
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

/// The conversations that a parser understands as they are. One of ciphertext says only that it wants no more.
fn understood(definition: &Definition) -> Vec<Conversation> {
    let understands = |conversation: &Conversation| {
        let (mut out, mut connection) = (Counting::default(), Connection::new(definition, false));
        for (flow, message) in *conversation {
            let stream = &mut connection.streams[flow.index()];
            let segment = Segment { offset: stream.position(), size: message.len() as u64, payload: message, time_ns: 1 };
            if stream.feed(*flow, segment, connection.parser.as_mut(), &mut out).is_err() {
                return false;
            }
        }
        if definition.protocol == Protocol::Tls { out.captures > 0 } else { out.exchanges > 0 && out.losses == 0 }
    };
    CONVERSATIONS.iter().copied().filter(understands).collect()
}

#[test]
fn every_parser_has_conversations_that_it_understands() {
    assert!(!DEFINITIONS.is_empty());
    for definition in DEFINITIONS {
        let count = understood(definition).len();
        assert!(count > 0, "add a conversation of {} to tests/hostile/conversations.rs", definition.protocol);
        let opened = CONVERSATIONS.iter().filter(|conversation| {
            let (flow, message) = conversation[0];
            (definition.likeness)(flow, message) == Likeness::Certain
        });
        assert!(count >= opened.count(), "{}: a conversation that begins as its own is not understood", definition.protocol);
    }
}

#[test]
fn parsers_survive_a_million_mutated_conversations_each() {
    for definition in DEFINITIONS {
        let mut out = Counting::default();
        let own = understood(definition);
        let before = live();
        for input in 0..INPUTS {
            let peak = Peak::begin();
            let mut random = Random::new(input);
            let from: &[Conversation] = if random.one_in(4) { CONVERSATIONS } else { &own };
            let conversation = from[random.below(from.len())];
            let mut connection = Connection::new(definition, random.one_in(4));
            let mut message = Vec::new();
            for (flow, original) in conversation {
                message.clear();
                message.extend_from_slice(original);
                // Damage to everything at once would reach the first message only.
                if random.one_in(3) {
                    mutate(&mut message, &mut random);
                }
                let flow = if random.one_in(50) { flow.opposite() } else { *flow };
                (definition.likeness)(flow, &message);
                if !connection.feed(flow, &message, &mut random, &mut out) {
                    break;
                }
            }
            connection.time_ns += 1;
            connection.parser.close(connection.time_ns, &mut out);
            assert!(peak.bytes() < CONNECTION_BYTES, "{}, input {input}: {} bytes", definition.protocol, peak.bytes());
        }
        assert!(live() < before + LEFT_BYTES, "{}: {} bytes are left of {INPUTS} inputs", definition.protocol, live() - before);
        assert!(out.longest <= LONGEST_TEXT, "{}: a text of {} bytes", definition.protocol, out.longest);
        if definition.protocol == Protocol::Tls {
            assert!(out.captures > INPUTS / 2, "{}: only {} were taken for ciphertext", definition.protocol, out.captures);
            continue;
        }
        assert!(out.exchanges > INPUTS / 10, "{}: only {} exchanges", definition.protocol, out.exchanges);
        assert!(out.losses > 0, "{}: gaps are counted as losses", definition.protocol);
    }
}

#[test]
fn a_connection_that_lives_for_ever_stays_small() {
    for definition in DEFINITIONS {
        let mut random = Random::new(7);
        let mut out = Counting::default();
        let peak = Peak::begin();
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
            assert!(peak.bytes() < CONNECTION_BYTES, "{}, input {input}: {} bytes", definition.protocol, peak.bytes());
        }
    }
}
