//! One connection: handshake, both directions, and its end.

use super::{
    Limits, Loss, Losses,
    half::{Arrival, Half, Piece},
    ip::Segment,
};
use crate::{
    event::{Body, CloseReason, Event, Header, Text, Totals, Tuple},
    model::{ConnectionId, Direction, Endpoint, Role},
};

/// errno of Linux, for the events that carry one.
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;
const ETIMEDOUT: u32 = 110;
const ECONNREFUSED: u32 = 111;
/// Of a connection without a measured round trip: what fills a hole after this was sent again.
const ROUND_TRIP_NS: u64 = 3_000_000;

/// Where events go.
pub type Out<'o> = dyn FnMut(Event<'_>) + 'o;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A SYN was seen; not reported yet.
    Handshake,
    Open,
    /// Remembered so that stray segments do not open it anew.
    Ended {
        by_reset: bool,
    },
}

pub struct Connection {
    pub id: ConnectionId,
    /// The client, or who sent first where that is not known.
    local: Endpoint,
    remote: Endpoint,
    role: Role,
    adopted: bool,
    state: State,
    /// Sequence number of the client's SYN and of the server's, where seen.
    local_isn: Option<u32>,
    remote_isn: Option<u32>,
    sent: Half,
    received: Half,
    begin_ns: u64,
    start_ns: u64,
    connect_ns: u64,
    pub last_ns: u64,
    first_fin: Option<Direction>,
    /// What was last told of the counters.
    told: Totals,
}

impl Connection {
    /// A connection of which `segment` is the first that was seen; `None` where that says too little: a RST, or an acknowledgment
    /// that may be the last of a connection that ended before.
    pub fn first_seen(segment: &Segment<'_>, counter: u64, time_ns: u64) -> Option<Self> {
        let flags = segment.flags;
        if flags.rst() || (!flags.syn() && segment.size == 0) {
            return None;
        }
        let from_server = flags.syn() && flags.ack();
        let (local, remote) = if from_server { (segment.destination, segment.source) } else { (segment.source, segment.destination) };
        let mut connection = Self {
            id: ConnectionId((counter << 8) | u64::from(ConnectionId::port_hash(local.port))),
            local,
            remote,
            role: if flags.syn() { Role::Client } else { Role::Unknown },
            adopted: !flags.syn(),
            state: State::Handshake,
            local_isn: None,
            remote_isn: None,
            sent: Half::default(),
            received: Half::default(),
            begin_ns: time_ns,
            start_ns: time_ns,
            connect_ns: 0,
            last_ns: time_ns,
            first_fin: None,
            told: Totals::default(),
        };
        if from_server {
            connection.local_isn = Some(segment.acknowledgment.wrapping_sub(1));
            connection.sent.start(segment.acknowledgment);
        }
        Some(connection)
    }

    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended { .. })
    }

    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Cost of what is buffered.
    pub fn pending_bytes(&self) -> usize {
        self.sent.pending_bytes() + self.received.pending_bytes()
    }

    /// `segment` begins another connection between the same ends.
    pub fn is_superseded_by(&self, segment: &Segment<'_>) -> bool {
        let from_local = segment.source == self.local;
        let flags = segment.flags;
        if flags.rst() {
            return false;
        }
        if flags.syn() && !flags.ack() {
            return match (from_local, self.role) {
                (true, Role::Client) => self.local_isn.is_some_and(|isn| isn != segment.sequence),
                // Both ends sending a SYN is a simultaneous open (RFC 9293 section 3.5), once.
                (false, Role::Client) => self.state != State::Handshake && self.remote_isn != Some(segment.sequence),
                _ => true,
            };
        }
        if flags.syn() {
            let known = if from_local { self.local_isn } else { self.remote_isn };
            return self.is_ended() && known != Some(segment.sequence);
        }
        let half = if from_local { &self.sent } else { &self.received };
        self.state == (State::Ended { by_reset: true }) && segment.size > 0 && half.is_new(segment.sequence)
    }

    /// Takes in a segment of this connection.
    pub fn segment(&mut self, segment: &Segment<'_>, time_ns: u64, limits: &Limits, losses: &mut Losses, out: &mut Out<'_>) {
        self.last_ns = self.last_ns.max(time_ns);
        let direction = if segment.source == self.local { Direction::Sent } else { Direction::Received };
        if self.is_ended() {
            let is_reset = self.state == State::Ended { by_reset: true };
            if is_reset && segment.size > 0 && !segment.flags.rst() && self.half(direction).is_new(segment.sequence) {
                losses.add(Loss::Late, 1);
            }
            return;
        }
        if self.state == State::Handshake {
            if segment.flags.rst() {
                let error = if direction == Direction::Received { ECONNREFUSED } else { ECONNABORTED };
                return self.fail(error, time_ns, out);
            }
            if !self.shake_hands(segment, direction, time_ns) {
                return;
            }
            self.open(time_ns, out);
        } else if segment.flags.syn() {
            self.half(direction).synchronise(segment.interface, time_ns);
        }
        let id = self.id;
        let sequence = segment.sequence.wrapping_add(u32::from(segment.flags.syn()));
        if segment.flags.ack() {
            let opposite = match direction {
                Direction::Sent => Direction::Received,
                Direction::Received => Direction::Sent,
            };
            let wait_ns = limits.acked_hole_wait_ns;
            self.half(opposite).acknowledge(segment.acknowledgment, time_ns, wait_ns, losses, &mut |piece| out(data(id, opposite, piece)));
        }
        if segment.size > 0 && !segment.flags.rst() {
            let &Segment { size, payload, identification, interface, .. } = segment;
            let round_trip_ns = self.least_round_trip_ns();
            let arrival = Arrival { sequence, size, payload, identification, interface, time_ns, round_trip_ns };
            self.half(direction).segment(arrival, limits, losses, &mut |piece| out(data(id, direction, piece)));
        }
        if segment.flags.fin() {
            self.half(direction).finish(sequence, segment.size, segment.interface, segment.identification);
            self.first_fin.get_or_insert(direction);
        }
        if segment.flags.rst() && self.half(direction).is_in_window(segment.sequence) {
            self.wait(time_ns, limits, losses, out);
            let reason = if direction == Direction::Sent { CloseReason::Abort } else { CloseReason::Reset };
            self.close(reason, time_ns, losses, out);
        } else {
            self.expire(time_ns, limits, losses, out);
        }
    }

    /// Gives up holes that were waited for too long, and ends if nothing else was missing.
    pub fn expire(&mut self, now_ns: u64, limits: &Limits, losses: &mut Losses, out: &mut Out<'_>) {
        self.wait(now_ns, limits, losses, out);
        if self.is_open() && self.sent.is_complete() && self.received.is_complete() {
            let reason = if self.first_fin == Some(Direction::Sent) { CloseReason::Local } else { CloseReason::Remote };
            self.close(reason, now_ns, losses, out);
        }
    }

    fn wait(&mut self, now_ns: u64, limits: &Limits, losses: &mut Losses, out: &mut Out<'_>) {
        if !self.is_open() {
            return;
        }
        let id = self.id;
        for direction in [Direction::Sent, Direction::Received] {
            self.half(direction).expire(now_ns, limits, losses, &mut |piece| out(data(id, direction, piece)));
        }
    }

    /// Time alone can bring something about.
    pub fn is_waiting(&self) -> bool {
        self.is_open() && (self.sent.is_waiting() || self.received.is_waiting())
    }

    /// The counters of an open connection, if they moved since this was last asked, or in any case.
    pub fn counters(&mut self, in_any_case: bool) -> Option<Totals> {
        let totals = self.totals();
        let is_news = in_any_case || totals != self.told;
        (self.is_open() && is_news).then(|| {
            self.told = totals;
            totals
        })
    }

    /// Delivers all that is buffered; before the connection is open, leaves it out.
    pub fn flush(&mut self, losses: &mut Losses, out: &mut Out<'_>) {
        if self.is_open() {
            let id = self.id;
            for direction in [Direction::Sent, Direction::Received] {
                self.half(direction).flush(losses, &mut |piece| out(data(id, direction, piece)));
            }
        } else {
            self.sent.discard();
        }
    }

    /// Reports the end, unless that was done; an open that was never answered has failed.
    pub fn close(&mut self, reason: CloseReason, time_ns: u64, losses: &mut Losses, out: &mut Out<'_>) {
        match self.state {
            State::Ended { .. } => {}
            State::Handshake => self.fail(ETIMEDOUT, time_ns, out),
            State::Open => {
                let id = self.id;
                for direction in [Direction::Sent, Direction::Received] {
                    self.half(direction).end(losses, &mut |piece| out(data(id, direction, piece)));
                }
                let by_reset = matches!(reason, CloseReason::Reset | CloseReason::Abort);
                self.state = State::Ended { by_reset };
                let body = Body::Close {
                    start_ns: self.start_ns,
                    connect_ns: self.connect_ns,
                    totals: self.totals(),
                    calls_sent: self.sent.calls,
                    calls_received: self.received.calls,
                    error: if reason == CloseReason::Reset { ECONNRESET } else { 0 },
                    reason,
                };
                out(Event { header: header(id, time_ns), body });
            }
        }
    }

    /// Learns from a segment seen before the connection was reported; tells whether it is established now.
    fn shake_hands(&mut self, segment: &Segment<'_>, direction: Direction, time_ns: u64) -> bool {
        let first_byte = segment.sequence.wrapping_add(1);
        match (direction, segment.flags.syn()) {
            (Direction::Sent, true) if self.local_isn == Some(segment.sequence) => {
                self.sent.synchronise(segment.interface, time_ns);
                return false;
            }
            (Direction::Sent, true) => {
                self.local_isn = Some(segment.sequence);
                self.sent.start(first_byte);
                self.sent.synchronise(segment.interface, time_ns);
                // TCP Fast Open (RFC 7413): held until the connection is reported. A server that leaves them gets the same bytes again.
                self.sent.hold_early(segment.size, segment.payload, time_ns);
                return false;
            }
            (Direction::Received, true) => {
                self.remote_isn = Some(segment.sequence);
                self.received.start(first_byte);
                self.received.synchronise(segment.interface, time_ns);
            }
            // The SYN-ACK was missed; this acknowledges it.
            (Direction::Sent, false) if !self.adopted && segment.flags.ack() => self.received.start(segment.acknowledgment),
            _ => {}
        }
        self.start_ns = time_ns;
        if segment.flags.syn() && self.local_isn.is_some() {
            self.connect_ns = time_ns.saturating_sub(self.begin_ns);
        }
        true
    }

    fn open(&mut self, time_ns: u64, out: &mut Out<'_>) {
        self.state = State::Open;
        let body = Body::Open {
            tuple: self.tuple(),
            cgroup_id: 0,
            start_ns: self.start_ns,
            connect_ns: self.connect_ns,
            role: self.role,
            adopted: self.adopted,
            comm: Text([0; 16]),
        };
        out(Event { header: header(self.id, time_ns), body });
    }

    fn fail(&mut self, error: u32, time_ns: u64, out: &mut Out<'_>) {
        self.sent.discard();
        self.state = State::Ended { by_reset: false };
        let elapsed_ns = time_ns.saturating_sub(self.begin_ns);
        let body = Body::Fail { tuple: self.tuple(), cgroup_id: 0, elapsed_ns, error, comm: Text([0; 16]) };
        out(Event { header: header(self.id, time_ns), body });
    }

    fn half(&mut self, direction: Direction) -> &mut Half {
        match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        }
    }

    fn tuple(&self) -> Tuple {
        Tuple { local: self.local, remote: self.remote, netns: 0 }
    }

    /// Both ways; a guess where nothing was measured yet.
    fn least_round_trip_ns(&self) -> u64 {
        let (there, back) = (self.sent.round_trip.least_ns(), self.received.round_trip.least_ns());
        there.or(back).map_or(ROUND_TRIP_NS, |_| there.unwrap_or(0) + back.unwrap_or(0))
    }

    /// Retransmissions of both ends, and the round trip from one to the other: there is no other socket to report the server's.
    fn totals(&self) -> Totals {
        let round_trip_ns = [&self.sent, &self.received].map(|half| half.round_trip.smoothed_ns().unwrap_or(0)).iter().sum::<u64>();
        Totals {
            bytes_sent: self.sent.position(),
            bytes_received: self.received.position(),
            retransmits: self.sent.retransmits.saturating_add(self.received.retransmits),
            srtt_us: u32::try_from(round_trip_ns / 1000).unwrap_or(u32::MAX),
        }
    }
}

pub fn header(connection: ConnectionId, time_ns: u64) -> Header {
    Header { time_ns, connection, pid: 0, tid: 0 }
}

fn data<'a>(id: ConnectionId, direction: Direction, piece: Piece<'a>) -> Event<'a> {
    let Piece { offset, size, payload, time_ns } = piece;
    Event { header: header(id, time_ns), body: Body::Data { direction, offset, size, unread: false, payload } }
}
