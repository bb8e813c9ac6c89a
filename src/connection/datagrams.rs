//! From the datagrams of one UDP socket to exchanges: naming the protocol, feeding its parser, and noticing what was missed.
//!
//! A datagram is a message, so each is judged by itself. A socket that no protocol claims within [`CALLS_MAX`] datagrams or [`BYTES_MAX`]
//! bytes stays unnamed.

use crate::{
    model::{Direction, Endpoint, Flow, Protocol, Protocols, Role, Wish},
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
    raw: Protocols,
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
    /// `role` may be a guess: the protocol corrects it. `raw`: the protocols whose values may be shown.
    pub fn new(role: Role, raw: Protocols) -> Self {
        Self { role, raw, state: State::Detecting(Box::default()), counts: [Counts::default(); 2] }
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
                    let opening = Opening { adopted: false, transport: Transport::Datagrams, raw: self.raw };
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::{
        model::{Exchange, Flags},
        protocols::Loss,
    };

    /// A question for the address of `shop.test`, or its answer: NOERROR and nothing more.
    pub fn message(id: u8, answer: bool) -> Vec<u8> {
        let flags: [u8; 2] = if answer { [0x81, 0x80] } else { [1, 0] };
        [&[0, id][..], &flags, &[0, 1, 0, 0, 0, 0, 0, 0], b"\x04shop\x04test\0", &[0, 1, 0, 1]].concat()
    }

    fn server(last: u8) -> Endpoint {
        Endpoint { address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), port: 53 }
    }

    /// "10.0.0.1:53 NOERROR" of each exchange.
    #[derive(Default)]
    struct Seen {
        exchanges: Vec<String>,
        losses: Vec<Loss>,
    }

    impl Sink for Seen {
        fn exchange(&mut self, exchange: &Exchange<'_>) {
            self.exchange_with(exchange, None);
        }

        fn exchange_with(&mut self, exchange: &Exchange<'_>, remote: Option<Endpoint>) {
            let remote = remote.map_or_else(|| "nobody".to_owned(), |remote| remote.to_string());
            let status = if exchange.flags.contains(Flags::UNANSWERED) { "unanswered" } else { exchange.status };
            self.exchanges.push(format!("{remote} {status}"));
        }

        fn capture(&mut self, _: Capture) {}

        fn lost(&mut self, loss: Loss) {
            self.losses.push(loss);
        }
    }

    /// A socket, and the number of its next datagram of each direction.
    struct Talk {
        socket: Datagrams,
        numbers: [u64; 2],
        now_ns: u64,
        seen: Seen,
    }

    impl Talk {
        fn new(role: Role) -> Self {
            Self { socket: Datagrams::new(role, Protocols::NONE), numbers: [0; 2], now_ns: 1_000, seen: Seen::default() }
        }

        fn datagram(&mut self, direction: Direction, payload: &[u8], remote: Option<Endpoint>) -> Outcome {
            let number = self.numbers[direction as usize];
            self.numbered(direction, number, payload, remote)
        }

        fn numbered(&mut self, direction: Direction, number: u64, payload: &[u8], remote: Option<Endpoint>) -> Outcome {
            self.numbers[direction as usize] = number + 1;
            self.now_ns += 1_000;
            let datagram = Datagram { number, size: payload.len() as u64, payload, remote, time_ns: self.now_ns };
            self.socket.datagram(direction, datagram, &mut self.seen)
        }

        fn tick(&mut self) {
            self.now_ns += 1_000_000_000;
            self.socket.tick(self.now_ns, &mut self.seen);
        }
    }

    use Direction::{Received, Sent};

    #[test]
    fn a_question_alone_names_the_socket_and_its_silence_is_told() {
        let mut talk = Talk::new(Role::Client);
        let outcome = talk.datagram(Sent, &message(1, false), Some(server(1)));
        assert_eq!((outcome.named, outcome.wish), (true, Some(Wish { limit: CAPTURE, ..Wish::default() })));
        for _ in 0..7 {
            talk.tick();
        }
        assert_eq!(talk.seen.exchanges, ["10.0.0.1:53 unanswered"]);
    }

    #[test]
    fn answers_of_an_unknown_end_are_of_who_was_asked() {
        let mut talk = Talk::new(Role::Client);
        for id in 1..=3 {
            talk.datagram(Sent, &message(id, false), Some(server(id)));
        }
        for id in [3, 1, 2] {
            talk.datagram(Received, &message(id, true), None);
        }
        assert_eq!(talk.seen.exchanges, ["10.0.0.3:53 NOERROR", "10.0.0.1:53 NOERROR", "10.0.0.2:53 NOERROR"]);
    }

    #[test]
    fn a_socket_that_nobody_claims_is_dismissed_after_sixteen_datagrams() {
        let mut talk = Talk::new(Role::Client);
        for number in 1..CALLS_MAX {
            assert_eq!(talk.datagram(Sent, b"nothing to do with names", None), Outcome::default(), "{number}");
        }
        let dismissed = Outcome { wish: Some(Wish::NOTHING), named: true };
        assert_eq!(talk.datagram(Sent, b"nothing to do with names", None), dismissed);
        assert_eq!(talk.socket.protocol(), Some(Protocol::Unknown));
        // One that was on its way says it again: the kernel may not have heard it.
        assert_eq!(talk.datagram(Sent, &message(1, false), None), Outcome { named: false, ..dismissed });
    }

    #[test]
    fn a_socket_that_nobody_claims_is_dismissed_after_sixteen_kibibytes() {
        let mut talk = Talk::new(Role::Client);
        let datagram = Datagram { number: 0, size: 9000, payload: b"cut", remote: None, time_ns: 1 };
        assert_eq!(talk.socket.datagram(Sent, datagram, &mut talk.seen).wish, None);
        assert_eq!(talk.socket.datagram(Sent, Datagram { number: 1, ..datagram }, &mut talk.seen).wish, Some(Wish::NOTHING));
    }

    #[test]
    fn what_a_server_got_before_its_first_question_is_passed_over() {
        let mut talk = Talk::new(Role::Server);
        for _ in 0..10 {
            talk.datagram(Received, b"who is there?", None);
        }
        talk.datagram(Received, b"", None);
        talk.datagram(Received, &message(1, false), None);
        talk.datagram(Sent, &message(1, true), Some(server(9)));
        assert_eq!((talk.seen.exchanges.as_slice(), talk.seen.losses.len()), (&["10.0.0.9:53 NOERROR".to_owned()][..], 0));
    }

    #[test]
    fn the_protocol_corrects_the_role() {
        // Joined between a question and its answer: a server that sends first looks like a client.
        let mut talk = Talk::new(Role::Client);
        talk.datagram(Sent, &message(1, true), Some(server(9)));
        talk.datagram(Received, &message(2, false), Some(server(8)));
        talk.datagram(Sent, &message(2, true), Some(server(8)));
        assert_eq!((talk.socket.role(), talk.seen.exchanges.as_slice()), (Role::Server, &["10.0.0.8:53 NOERROR".to_owned()][..]));
    }

    #[test]
    fn a_server_that_gets_much_that_is_no_question_is_found_again() {
        let mut talk = Talk::new(Role::Server);
        for id in 1..=2 {
            talk.datagram(Received, &message(id, false), Some(server(9)));
            talk.datagram(Sent, &message(id, true), Some(server(9)));
            for _ in 0..12 {
                talk.datagram(Received, b"who is there?", Some(server(7)));
            }
        }
        assert_eq!(talk.seen.exchanges, ["10.0.0.9:53 NOERROR", "10.0.0.9:53 NOERROR"]);
    }

    #[test]
    fn a_missing_answer_that_was_not_seen_is_no_silence() {
        let mut talk = Talk::new(Role::Client);
        talk.datagram(Sent, &message(1, false), Some(server(1)));
        talk.datagram(Sent, &message(2, false), Some(server(1)));
        // The record of the answer to the first one found no room.
        talk.numbered(Received, 1, &message(2, true), Some(server(1)));
        for _ in 0..8 {
            talk.tick();
        }
        assert_eq!(talk.seen.exchanges, ["10.0.0.1:53 NOERROR"]);
        assert!(!talk.seen.losses.is_empty(), "it is counted");
    }

    #[test]
    fn datagrams_reported_in_another_order_are_not_missed() {
        let mut talk = Talk::new(Role::Client);
        talk.datagram(Sent, &message(1, false), Some(server(1)));
        talk.datagram(Sent, &message(2, false), Some(server(1)));
        talk.numbered(Received, 1, &message(2, true), Some(server(1)));
        talk.tick();
        talk.numbered(Received, 0, &message(1, true), Some(server(1)));
        talk.tick();
        talk.tick();
        assert_eq!((talk.seen.exchanges.len(), talk.seen.losses.as_slice()), (2, &[][..]));
    }

    #[test]
    fn impossible_numbers_do_no_harm() {
        let mut talk = Talk::new(Role::Unknown);
        for number in [u64::MAX, 0, u64::MAX - 1] {
            talk.numbers = [0; 2];
            let datagram = Datagram { number, size: u64::from(u32::MAX), payload: b"", remote: None, time_ns: u64::MAX };
            talk.socket.datagram(Received, datagram, &mut talk.seen);
            talk.socket.tick(u64::MAX, &mut talk.seen);
        }
    }
}
