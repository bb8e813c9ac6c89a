//! Names the protocol of a connection from its first calls.
//!
//! A name needs an unmistakable opening in one flow or agreement of both, and where the role is unknown, an agreement that
//! does not hold with the ends reversed. Bytes are held until then, so that the parser misses nothing; a connection that no
//! protocol claims within [`CALLS_MAX`] calls or [`BYTES_MAX`] bytes stays unnamed, or somewhat later where only one side spoke.

use crate::{
    model::{Direction, Flow, Role},
    protocols::{DEFINITIONS, Definition, Likeness, Transport},
};

use super::stream::Segment;

/// After so many calls without a name the connection is given up.
pub const CALLS_MAX: u32 = 16;
/// After so many bytes without a name the connection is given up.
pub const BYTES_MAX: u64 = 16 * 1024;
/// The same where one side has said something likely since the connection opened and the other nothing at all: clients that load much data
/// write before they read. When the other side begins to speak, the usual limits begin anew.
pub const ALONE_CALLS_MAX: u32 = 64;
pub const ALONE_BYTES_MAX: u64 = 1 << 20;

/// What is known after a call.
pub enum Verdict {
    /// More is needed.
    Open,
    /// The protocol, and which flow the sent bytes are.
    Named { definition: &'static Definition, sent: Flow },
    /// No protocol claims it.
    Unclaimed,
}

/// Calls that were not handed to a parser yet.
#[derive(Default)]
pub struct Detector {
    /// The stream is joined at an unknown place: each call is a new chance to find a message's begin.
    mid_stream: bool,
    calls: u32,
    bytes: u64,
    /// By direction: something came.
    spoke: [bool; 2],
    /// The only side that spoke, where what it said is likely.
    alone: Option<Direction>,
    held: Vec<Held>,
    payload: Vec<u8>,
    candidates: [Candidate; 2],
}

/// A call whose payload waits in [`Detector::payload`].
struct Held {
    direction: Direction,
    offset: u64,
    size: u64,
    time_ns: u64,
    begin: usize,
    end: usize,
}

/// The bytes of one direction from a possible begin of a conversation on.
#[derive(Default)]
struct Candidate {
    bytes: Vec<u8>,
    begin: u64,
    end: u64,
}

impl Detector {
    pub fn new(mid_stream: bool) -> Self {
        Self { mid_stream, ..Self::default() }
    }

    /// Takes a call and judges. `role` may be unknown; then the protocol tells it.
    pub fn judge(&mut self, role: Role, direction: Direction, segment: Segment<'_>) -> Verdict {
        if self.alone.is_some_and(|speaker| speaker != direction) {
            self.alone = None;
            (self.calls, self.bytes) = (0, 0);
        }
        self.spoke[index(direction)] = true;
        self.calls += 1;
        self.bytes += segment.size;
        let judged = self.candidates[index(direction)].bytes.len() as u64;
        self.hold(direction, segment);
        if self.alone.is_some() && judged >= BYTES_MAX && !self.mid_stream {
            // Nothing new: only the other side can say more.
            return self.open();
        }
        let flows: &[Flow] = match role.flow(direction) {
            Some(Flow::Request) => &[Flow::Request],
            Some(Flow::Response) => &[Flow::Response],
            None => &[Flow::Request, Flow::Response],
        };
        let (mut hopeless, mut likely) = (true, false);
        for definition in DEFINITIONS.iter().filter(|definition| definition.transports.contains(&Transport::Stream)) {
            for &flow in flows {
                let likeness = self.likeness(definition, direction, flow);
                hopeless &= likeness == Likeness::No;
                let agreed = likeness == Likeness::Likely
                    && self.agrees(definition, direction, flow)
                    && (flows.len() == 1 || !self.agrees(definition, direction, flow.opposite()));
                if likeness == Likeness::Certain || agreed {
                    let sent = if direction == Direction::Sent { flow } else { flow.opposite() };
                    return Verdict::Named { definition, sent };
                }
                likely |= likeness == Likeness::Likely;
            }
        }
        if hopeless && !self.mid_stream {
            return Verdict::Unclaimed;
        }
        if hopeless {
            self.restart(direction);
        }
        let answered = self.spoke[index(opposite(direction))];
        self.alone = (likely && !answered && !self.mid_stream).then_some(direction);
        self.open()
    }

    /// No name yet: whether there may be one.
    fn open(&self) -> Verdict {
        let (calls, bytes) = if self.alone.is_some() { (ALONE_CALLS_MAX, ALONE_BYTES_MAX) } else { (CALLS_MAX, BYTES_MAX) };
        if self.calls >= calls || self.bytes >= bytes { Verdict::Unclaimed } else { Verdict::Open }
    }

    /// Where the parser's stream of a direction begins.
    pub fn begin(&self, direction: Direction) -> u64 {
        let candidate = &self.candidates[index(direction)];
        if candidate.bytes.is_empty() { candidate.end } else { candidate.begin }
    }

    /// The calls that the parser must see, in the order in which they came.
    pub fn held(&self) -> impl Iterator<Item = (Direction, Segment<'_>)> {
        self.held.iter().filter(|held| held.offset >= self.begin(held.direction)).map(|held| {
            let payload = self.payload.get(held.begin..held.end).unwrap_or_default();
            (held.direction, Segment { offset: held.offset, size: held.size, payload, time_ns: held.time_ns })
        })
    }

    fn hold(&mut self, direction: Direction, segment: Segment<'_>) {
        let begin = self.payload.len();
        self.payload.extend_from_slice(segment.payload);
        self.held.push(Held {
            direction,
            offset: segment.offset,
            size: segment.size,
            time_ns: segment.time_ns,
            begin,
            end: self.payload.len(),
        });
        let candidate = &mut self.candidates[index(direction)];
        if segment.offset > candidate.end {
            // The bytes before were not seen: what is held no longer joins.
            candidate.bytes.clear();
            self.mid_stream = true;
        }
        if candidate.bytes.is_empty() {
            candidate.begin = segment.offset;
        }
        if segment.offset >= candidate.end || candidate.bytes.is_empty() {
            if (candidate.bytes.len() as u64) < BYTES_MAX {
                candidate.bytes.extend_from_slice(segment.payload);
            }
            candidate.end = segment.offset.saturating_add(segment.size);
        }
        if (segment.payload.len() as u64) < segment.size {
            // Cut by the capture limit: nothing can be joined behind it, but what is there may be enough.
            candidate.end = candidate.end.max(segment.offset.saturating_add(segment.size));
        }
    }

    /// Gives up what is held of a direction: its next call is a new candidate.
    fn restart(&mut self, direction: Direction) {
        self.candidates[index(direction)].bytes.clear();
    }

    /// Both directions look like `definition` where the bytes of `direction` are `flow`. With an unknown role that says something only
    /// if it does not hold the other way round, too: what either side may send does not tell who is who.
    fn agrees(&self, definition: &Definition, direction: Direction, flow: Flow) -> bool {
        self.likeness(definition, direction, flow) >= Likeness::Likely
            && self.likeness(definition, opposite(direction), flow.opposite()) >= Likeness::Likely
    }

    fn likeness(&self, definition: &Definition, direction: Direction, flow: Flow) -> Likeness {
        let bytes = &self.candidates[index(direction)].bytes;
        if bytes.is_empty() { Likeness::Undecided } else { (definition.likeness)(flow, bytes) }
    }
}

fn index(direction: Direction) -> usize {
    direction as usize
}

pub fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Sent => Direction::Received,
        Direction::Received => Direction::Sent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connection::Connection,
        model::{Exchange, Protocol, Protocols},
        protocols::{Capture, Loss, Sink},
    };

    #[derive(Default)]
    struct Count(usize);

    impl Sink for Count {
        fn exchange(&mut self, _: &Exchange<'_>) {
            self.0 += 1;
        }

        fn capture(&mut self, _: Capture) {}

        fn lost(&mut self, _: Loss) {}
    }

    /// A watched socket to which calls are said one after the other.
    struct Talk {
        connection: Connection,
        offsets: [u64; 2],
        count: Count,
    }

    impl Talk {
        fn new(role: Role, adopted: bool) -> Self {
            Self { connection: Connection::new(role, adopted, Protocols::default()), offsets: [0; 2], count: Count::default() }
        }

        fn say(&mut self, direction: Direction, payload: &[u8]) -> Option<Protocol> {
            let offset = &mut self.offsets[index(direction)];
            let size = payload.len() as u64;
            self.connection.data(direction, Segment { offset: *offset, size, payload, time_ns: 1 }, &mut self.count);
            *offset += size;
            self.connection.protocol()
        }
    }

    /// basic.ack, which either side sends.
    const ACK: &[u8] = b"\x01\0\x01\0\0\0\x0d\0\x3c\0\x50\0\0\0\0\0\0\0\x01\0\xce";
    /// channel.open, which only the client sends.
    const OPEN: &[u8] = b"\x01\0\x02\0\0\0\x05\0\x14\0\x0a\0\xce";

    #[test]
    fn what_either_side_may_say_does_not_tell_who_is_who() {
        for (asks, answers) in [(Direction::Sent, Direction::Received), (Direction::Received, Direction::Sent)] {
            let mut talk = Talk::new(Role::Unknown, true);
            assert_eq!((talk.say(asks, ACK), talk.say(answers, ACK)), (None, None));
            assert_eq!(talk.say(asks, OPEN), Some(Protocol::Amqp), "only one side says this");
            assert_eq!(talk.connection.role().flow(asks), Some(Flow::Request));
        }
        let mut talk = Talk::new(Role::Client, true);
        assert_eq!((talk.say(Direction::Sent, ACK), talk.say(Direction::Received, ACK)), (None, Some(Protocol::Amqp)));
    }

    /// So many bytes and more of typed commands, and how many there are.
    fn typed(bytes: usize) -> (Vec<u8>, usize) {
        let line = b"SET key:1 value\r\n";
        (line.repeat(bytes.div_ceil(line.len())), bytes.div_ceil(line.len()))
    }

    #[test]
    fn a_client_that_writes_much_before_it_reads_has_all_of_it_understood() {
        let (commands, number) = typed(900_000);
        let mut talk = Talk::new(Role::Client, false);
        for call in commands.chunks(16 * 1024) {
            assert_eq!(talk.say(Direction::Sent, call), None);
        }
        assert_eq!(talk.say(Direction::Received, b"+O"), None, "its limits begin anew");
        assert_eq!(talk.say(Direction::Received, b"K\r\n"), Some(Protocol::Redis));
        talk.say(Direction::Received, &b"+OK\r\n".repeat(number - 1));
        assert_eq!(talk.count.0, number);
    }

    #[test]
    fn a_side_that_speaks_alone_is_given_up_in_the_end() {
        let given_up = |adopted, call: &[u8]| {
            let mut talk = Talk::new(Role::Client, adopted);
            (1_u64..).find(|_| talk.say(Direction::Sent, call) == Some(Protocol::Unknown))
        };
        assert_eq!(given_up(false, b"SET a 0\n"), Some(ALONE_CALLS_MAX.into()));
        assert_eq!(given_up(false, &typed(32 * 1024).0), Some(ALONE_BYTES_MAX.div_ceil(typed(32 * 1024).0.len() as u64)));
        assert_eq!(given_up(true, b"SET a 0\n"), Some(CALLS_MAX.into()), "what came before may have been answered");
        assert!(given_up(false, b"HELP\n") <= Some(CALLS_MAX.into()), "nobody's");
        let mut talk = Talk::new(Role::Client, false);
        assert!((0..40).all(|_| talk.say(Direction::Sent, b"SET a 0\n").is_none()));
        let answers = (1_u32..).find(|_| talk.say(Direction::Received, b"") == Some(Protocol::Unknown));
        assert_eq!(answers, Some(CALLS_MAX));
    }
}
