//! From the data events of one connection to exchanges: naming the protocol, positions and gaps, feeding its parser.
//! Knows nothing of processes, names or outputs.

pub mod datagrams;
mod detect;
pub mod stream;

use std::net::IpAddr;

use crate::{
    model::{Direction, Endpoint, Exchange, Flow, Protocol, Protocols, Role, Wish},
    protocols::{Capture, Loss, Opening, Parser, Sink, Transport},
};
use detect::{Detector, Verdict};
use stream::{Segment, Stream};

/// A body shorter than this is captured although nobody reads it: changing the kernel's mind costs a system call.
const SKIP_WORTH_A_WISH: u64 = 64 * 1024;
/// The most that a record of the kernel carries of one call; see `CAPTURE_MAX` in `settings.h`.
const CAPTURE_FULL: u32 = 32 * 1024;

/// What one watched socket says, from its first to its last byte.
pub struct Connection {
    role: Role,
    adopted: bool,
    raw: Protocols,
    state: State,
    wish: Wish,
}

enum State {
    Detecting(Box<Detector>),
    Parsing(Box<Parsing>),
    /// Encrypted, or nobody's: no longer looked at.
    Opaque(Protocol),
}

struct Parsing {
    protocol: Protocol,
    /// The parser wants to hear of the passing of time.
    waits: bool,
    parser: Box<dyn Parser>,
    /// By direction: what the sent bytes are decides the flow.
    sent: Flow,
    streams: [Stream; 2],
}

/// What a call led to, besides the exchanges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What the kernel should capture from now on, where that changed.
    pub wish: Option<Wish>,
    /// The connection got its name with this call, or lost it.
    pub named: bool,
}

impl Connection {
    /// `adopted`: its first bytes were not seen. `raw`: the protocols whose values may be shown.
    pub fn new(role: Role, adopted: bool, raw: Protocols) -> Self {
        Self { role, adopted, raw, state: State::Detecting(Box::new(Detector::new(adopted))), wish: Wish::default() }
    }

    /// `None` until it is known; [`Protocol::Unknown`] when nobody claims it.
    pub fn protocol(&self) -> Option<Protocol> {
        match &self.state {
            State::Detecting(_) => None,
            State::Parsing(parsing) => Some(parsing.protocol),
            State::Opaque(protocol) => Some(*protocol),
        }
    }

    /// The role of the watched socket, once the kernel or the protocol told it.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Takes the bytes of one call.
    pub fn data(&mut self, direction: Direction, segment: Segment<'_>, out: &mut dyn Sink) -> Outcome {
        let mut tap = Tap { out, capture: None };
        let mut named = false;
        let mine = match &mut self.state {
            State::Opaque(_) => return Outcome::default(),
            State::Parsing(parsing) => parsing.feed(direction, segment, &mut tap),
            State::Detecting(detector) => match detector.judge(self.role, direction, segment) {
                Verdict::Open => return Outcome::default(),
                Verdict::Unclaimed => Err(stream::NotMine),
                Verdict::Named { definition, sent } => {
                    named = true;
                    let mid_stream = self.adopted || detector.begin(Direction::Sent) > 0 || detector.begin(Direction::Received) > 0;
                    let mut parsing = Parsing {
                        protocol: definition.protocol,
                        waits: definition.waits,
                        parser: (definition.parser)(Opening { adopted: mid_stream, transport: Transport::Stream, raw: self.raw }),
                        sent,
                        streams: [
                            Stream::starting_at(detector.begin(Direction::Sent)),
                            Stream::starting_at(detector.begin(Direction::Received)),
                        ],
                    };
                    if self.role == Role::Unknown {
                        self.role = if sent == Flow::Request { Role::Client } else { Role::Server };
                    }
                    let fed = detector.held().try_for_each(|(direction, segment)| parsing.feed(direction, segment, &mut tap));
                    self.state = State::Parsing(Box::new(parsing));
                    fed
                }
            },
        };
        if mine.is_err() {
            self.state = State::Opaque(Protocol::Unknown);
            return Outcome { wish: self.wants(Wish::NOTHING), named: true };
        }
        let wish = match tap.capture {
            Some(Capture::Lengths) => self.wants(Wish::NOTHING),
            Some(Capture::Full) => self.wants(Wish { limit: CAPTURE_FULL, ..self.wish }),
            None => self.skipping(direction),
        };
        Outcome { wish, named }
    }

    /// Whether [`Self::tick`] does anything.
    pub fn waits(&self) -> bool {
        matches!(&self.state, State::Parsing(parsing) if parsing.waits)
    }

    /// About a second has passed.
    pub fn tick(&mut self, now_ns: u64, out: &mut dyn Sink) {
        if let State::Parsing(parsing) = &mut self.state
            && parsing.waits
        {
            parsing.parser.tick(now_ns, out);
        }
    }

    /// The socket is closed: the parser ends what is under way. `received` is what went through in all: bytes that no hook saw
    /// (spliced out of the socket) are passed over or missed like any others.
    pub fn close(&mut self, received: u64, at_ns: u64, out: &mut dyn Sink) {
        if let State::Parsing(parsing) = &mut self.state {
            let offset = parsing.streams[Direction::Received as usize].position();
            if received > offset {
                let unseen = Segment { offset, size: received - offset, payload: &[], time_ns: at_ns };
                // Nothing is parsed, so nothing can be refused.
                let _ = parsing.feed(Direction::Received, unseen, out);
            }
            parsing.parser.close(at_ns, out);
        }
    }

    fn wants(&mut self, wish: Wish) -> Option<Wish> {
        (wish != self.wish).then(|| {
            self.wish = wish;
            wish
        })
    }

    /// A long body need not be captured.
    fn skipping(&mut self, direction: Direction) -> Option<Wish> {
        let State::Parsing(parsing) = &self.state else { return None };
        let stream = &parsing.streams[direction as usize];
        let until = stream.skips_until();
        if until - stream.position() < SKIP_WORTH_A_WISH {
            return None;
        }
        let mut wish = self.wish;
        match direction {
            Direction::Sent => wish.from_sent = wish.from_sent.max(until),
            Direction::Received => wish.from_received = wish.from_received.max(until),
        }
        self.wants(wish)
    }
}

impl Parsing {
    fn feed(&mut self, direction: Direction, segment: Segment<'_>, out: &mut dyn Sink) -> Result<(), stream::NotMine> {
        let flow = if direction == Direction::Sent { self.sent } else { self.sent.opposite() };
        self.streams[direction as usize].feed(flow, segment, &mut *self.parser, out)
    }
}

/// Passes exchanges on and keeps back what the parser asks of the kernel.
struct Tap<'a> {
    out: &'a mut dyn Sink,
    capture: Option<Capture>,
}

impl Sink for Tap<'_> {
    fn exchange(&mut self, exchange: &Exchange<'_>) {
        self.out.exchange(exchange);
    }

    fn exchange_with(&mut self, exchange: &Exchange<'_>, remote: Option<Endpoint>) {
        self.out.exchange_with(exchange, remote);
    }

    fn wants_attributes(&self) -> bool {
        self.out.wants_attributes()
    }

    fn capture(&mut self, wish: Capture) {
        self.capture = Some(wish);
    }

    fn lost(&mut self, loss: Loss) {
        self.out.lost(loss);
    }

    fn server_name(&mut self, name: &str) {
        self.out.server_name(name);
    }

    fn host(&mut self, name: &str) {
        self.out.host(name);
    }

    fn alpn(&mut self, protocols: &str) {
        self.out.alpn(protocols);
    }

    fn resolved(&mut self, name: &str, address: IpAddr, ttl_s: u32) {
        self.out.resolved(name, address, ttl_s);
    }
}
