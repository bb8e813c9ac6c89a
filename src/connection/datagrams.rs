//! From the datagrams of one UDP socket to exchanges: naming the protocol, feeding its parser, and noticing what was missed.
//!
//! A datagram is a message, so each is judged by itself. A socket that no protocol claims within [`CALLS_MAX`] datagrams or [`BYTES_MAX`]
//! bytes stays unnamed.

use crate::{
    model::{Direction, Endpoint, Flow, Protocol, Role, Wish},
    protocols::{At, Capture, DEFINITIONS, Definition, Likeness, Opening, Parser, Sink, Step, Transport},
};

use super::{
    Outcome, Tap,
    detect::{BYTES_MAX, CALLS_MAX, opposite},
};

/// The most that a record of the kernel carries of one datagram; see `DATAGRAM_MAX` in `maps.h`.
const CAPTURE: u32 = 4096;

/// A datagram as it went through a socket.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Datagrams of its direction before it.
    pub number: u64,
    /// True length; at least `payload.len()`.
    pub size: u64,
    /// The captured prefix.
    pub payload: &'a [u8],
    /// The other end, where it is known.
    pub remote: Option<Endpoint>,
    pub time_ns: u64,
}

/// What one watched UDP socket says, from one long silence to the next.
pub struct Datagrams {
    role: Role,
    state: State,
    /// By direction.
    counts: [Counts; 2],
}

enum State {
    Detecting(Box<Detector>),
    Parsing(Parsing),
    /// Nobody's.
    Opaque,
}

struct Parsing {
    protocol: Protocol,
    parser: Box<dyn Parser>,
    /// What the sent datagrams are.
    sent: Flow,
}

impl Datagrams {
    /// `role` may be a guess: the protocol corrects it.
    pub fn new(role: Role) -> Self {
        Self { role, state: State::Detecting(Box::default()), counts: [Counts::default(); 2] }
    }

    /// `None` until it is known; [`Protocol::Unknown`] when nobody claims it.
    pub fn protocol(&self) -> Option<Protocol> {
        match &self.state {
            State::Detecting(_) => None,
            State::Parsing(parsing) => Some(parsing.protocol),
            State::Opaque => Some(Protocol::Unknown),
        }
    }

    pub fn role(&self) -> Role {
        self.role
    }

    /// Takes a datagram.
    pub fn datagram(&mut self, direction: Direction, datagram: Datagram<'_>, out: &mut dyn Sink) -> Outcome {
        self.counts[direction as usize].take(datagram.number);
        let mut tap = Tap { out, capture: None };
        let mut outcome = Outcome::default();
        match &mut self.state {
            // What was on its way when the kernel was told, or it was told in vain.
            State::Opaque => outcome.wish = Some(Wish::NOTHING),
            State::Parsing(parsing) => {
                if parsing.feed(direction, datagram, &mut tap) == Step::NotMine {
                    // One socket may get anything from anybody: it is looked at again from here on.
                    parsing.parser.close(datagram.time_ns, &mut tap);
                    self.state = State::Detecting(Box::default());
                    outcome.named = true;
                }
            }
            State::Detecting(detector) => match detector.judge(self.role, direction, datagram) {
                Verdict::Open => {}
                Verdict::Unclaimed => {
                    self.state = State::Opaque;
                    outcome = Outcome { wish: Some(Wish::NOTHING), named: true };
                }
                Verdict::Named { definition, sent } => {
                    let opening = Opening { adopted: false, transport: Transport::Datagrams, raw: false };
                    let mut parsing = Parsing { protocol: definition.protocol, parser: (definition.parser)(opening), sent };
                    for (direction, held) in detector.held() {
                        // A socket may have got anything before.
                        if (definition.likeness)(parsing.flow(direction), held.payload) >= Likeness::Likely {
                            parsing.feed(direction, held, &mut tap);
                        }
                    }
                    self.role = if sent == Flow::Request { Role::Client } else { Role::Server };
                    self.state = State::Parsing(parsing);
                    outcome = Outcome { wish: Some(Wish { limit: CAPTURE, ..Wish::default() }), named: true };
                }
            },
        }
        if tap.capture == Some(Capture::Lengths) {
            outcome.wish = Some(Wish::NOTHING);
        }
        outcome
    }

    /// About a second has passed.
    pub fn tick(&mut self, now_ns: u64, out: &mut dyn Sink) {
        let State::Parsing(parsing) = &mut self.state else { return };
        for direction in [Direction::Sent, Direction::Received] {
            let missed = self.counts[direction as usize].missed();
            if missed > 0 {
                parsing.parser.gap(parsing.flow(direction), missed, now_ns, out);
            }
        }
        parsing.parser.tick(now_ns, out);
    }

    /// The socket has been silent for long: the parser ends what is under way.
    pub fn close(&mut self, at_ns: u64, out: &mut dyn Sink) {
        self.tick(at_ns, out);
        if let State::Parsing(parsing) = &mut self.state {
            parsing.parser.close(at_ns, out);
        }
    }
}

impl Parsing {
    fn flow(&self, direction: Direction) -> Flow {
        if direction == Direction::Sent { self.sent } else { self.sent.opposite() }
    }

    fn feed(&mut self, direction: Direction, datagram: Datagram<'_>, out: &mut dyn Sink) -> Step {
        let Datagram { payload, remote, time_ns, .. } = datagram;
        if payload.is_empty() {
            return Step::Consumed(0);
        }
        let at = At { first_ns: time_ns, last_ns: time_ns, call_start: true };
        self.parser.datagram(self.flow(direction), payload, at, remote, out)
    }
}

/// The datagrams of a direction that were seen, against those that there were.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    seen: u64,
    /// Behind the highest number.
    end: u64,
    /// How many were missing at the last look.
    missing: u64,
    told: u64,
}

impl Counts {
    fn take(&mut self, number: u64) {
        self.seen += 1;
        self.end = self.end.max(number.saturating_add(1));
    }

    /// How many more are known to be missing. What two threads report in the wrong order is not: it is missing at one look only.
    fn missed(&mut self) -> u64 {
        let missing = self.end.saturating_sub(self.seen);
        let lasting = missing.min(std::mem::replace(&mut self.missing, missing));
        let more = lasting.saturating_sub(self.told);
        self.told += more;
        more
    }
}

enum Verdict {
    Open,
    Named { definition: &'static Definition, sent: Flow },
    Unclaimed,
}

/// Datagrams that were not handed to a parser yet.
#[derive(Default)]
struct Detector {
    calls: u32,
    bytes: u64,
    held: Vec<Held>,
    payload: Vec<u8>,
    /// The protocols that a datagram of this direction may be of, in this flow: bits by place in [`DEFINITIONS`].
    likely: [[u64; 2]; 2],
}

/// A datagram whose payload waits in [`Detector::payload`].
struct Held {
    direction: Direction,
    number: u64,
    size: u64,
    remote: Option<Endpoint>,
    time_ns: u64,
    begin: usize,
    end: usize,
}

impl Detector {
    fn judge(&mut self, role: Role, direction: Direction, datagram: Datagram<'_>) -> Verdict {
        self.calls += 1;
        self.bytes += datagram.size;
        self.hold(direction, datagram);
        let guess = role.flow(direction).unwrap_or(Flow::Request);
        let definitions = DEFINITIONS.iter().enumerate().filter(|(_, definition)| definition.transports.contains(&Transport::Datagrams));
        for (place, definition) in definitions {
            let bit = 1_u64.checked_shl(place as u32).unwrap_or(0);
            for flow in [guess, guess.opposite()] {
                let likeness = if datagram.payload.is_empty() { Likeness::No } else { (definition.likeness)(flow, datagram.payload) };
                if likeness >= Likeness::Likely {
                    self.likely[direction as usize][flow.index()] |= bit;
                }
                let agreed = likeness == Likeness::Likely && self.likely[opposite(direction) as usize][flow.opposite().index()] & bit != 0;
                if likeness == Likeness::Certain || agreed {
                    let sent = if direction == Direction::Sent { flow } else { flow.opposite() };
                    return Verdict::Named { definition, sent };
                }
            }
        }
        if self.calls >= CALLS_MAX || self.bytes >= BYTES_MAX { Verdict::Unclaimed } else { Verdict::Open }
    }

    fn hold(&mut self, direction: Direction, datagram: Datagram<'_>) {
        let Datagram { number, size, payload, remote, time_ns } = datagram;
        let begin = self.payload.len();
        self.payload.extend_from_slice(payload);
        self.held.push(Held { direction, number, size, remote, time_ns, begin, end: self.payload.len() });
    }

    fn held(&self) -> impl Iterator<Item = (Direction, Datagram<'_>)> {
        self.held.iter().map(|held| {
            let &Held { direction, number, size, remote, time_ns, begin, end } = held;
            (direction, Datagram { number, size, payload: self.payload.get(begin..end).unwrap_or_default(), remote, time_ns })
        })
    }
}
