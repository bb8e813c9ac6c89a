//! One direction of a connection: sequence numbers → stream offsets, order, duplicates and holes.
//!
//! A hole is waited for until it is filled, or the receiver acknowledges bytes behind it (then only the capture lost it), or more is
//! buffered behind it than the limits allow, or it was waited for too long, or the connection ends. Where segments overlap, the bytes
//! that came first win.

use std::collections::BTreeMap;

use super::{Limits, Loss, Losses, round_trip::RoundTrip};

/// The largest window that TCP can open (RFC 7323 section 2.3): nothing valid is farther from the stream's position.
const MAX_WINDOW: u32 = 1 << 30;
/// What a buffered segment costs beside its bytes.
const PENDING_OVERHEAD: usize = 128;

/// Bytes of one segment that are next in the stream.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    pub offset: u64,
    /// True length; at least `payload.len()`.
    pub size: u32,
    pub payload: &'a [u8],
    /// When the segment was captured, but never before the bytes in front of it.
    pub time_ns: u64,
}

/// A segment's place and bytes; the place of the first byte is after a SYN.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    pub sequence: u32,
    pub size: u32,
    pub payload: &'a [u8],
    pub identification: u16,
    pub interface: u32,
    pub time_ns: u64,
    /// The shortest round trip of the connection that was seen, both ways: what fills a hole after that was sent again, what fills it
    /// sooner was overtaken.
    pub round_trip_ns: u64,
}

struct Pending {
    size: u32,
    payload: Vec<u8>,
    time_ns: u64,
}

pub type Deliver<'d> = dyn FnMut(Piece<'_>) + 'd;

#[derive(Default)]
pub struct Half {
    /// Sequence number of the byte at `position`; `None` until a byte or the handshake told.
    next: Option<u32>,
    /// Stream offset behind the last byte delivered or given up.
    position: u64,
    pending: BTreeMap<u64, Pending>,
    pending_bytes: usize,
    /// Since when the hole at `position` is waited for; of meaning while `pending` is not empty.
    waiting_since_ns: u64,
    /// Highest stream offset that the receiver acknowledged.
    acked: u64,
    /// Stream offset of the FIN.
    fin: Option<u64>,
    /// The hole given up last.
    given_up: std::ops::Range<u64>,
    /// When an acknowledgment of the FIN was seen first.
    fin_acked_ns: Option<u64>,
    last: (u32, u32, u16),
    /// Where the last new bytes were seen.
    interface: u32,
    delivered_ns: u64,
    /// Pieces delivered.
    pub calls: u64,
    pub retransmits: u32,
    pub round_trip: RoundTrip,
    /// Where the SYN was seen.
    syn: Option<u32>,
}

impl Half {
    /// The handshake tells that the first byte has this sequence number.
    pub fn start(&mut self, sequence: u32) {
        self.next.get_or_insert(sequence);
    }

    /// A SYN, the first or again. One that was overtaken comes after the bytes behind it.
    pub fn synchronise(&mut self, interface: u32, time_ns: u64) {
        match self.syn {
            Some(known) if known == interface => self.retransmitted(),
            Some(_) => {}
            None => {
                self.syn = Some(interface);
                if self.position == 0 {
                    self.round_trip.sent(0, time_ns);
                }
            }
        }
    }

    /// Keeps the bytes of a SYN, delivered with the first segment or acknowledgment that follows.
    pub fn hold_early(&mut self, size: u32, payload: &[u8], time_ns: u64) {
        self.hold(0, u64::from(size), payload, time_ns);
    }

    /// Forgets what is buffered.
    pub fn discard(&mut self) {
        self.pending.clear();
        self.pending_bytes = 0;
    }

    /// Stream offset behind the last byte accounted for: the direction's length as far as it is known.
    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// The FIN and all before it was accounted for.
    pub fn is_complete(&self) -> bool {
        self.fin.is_some_and(|fin| self.position >= fin)
    }

    /// Something is waited for: bytes in front of others, or in front of an acknowledged FIN.
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty() || (self.fin_acked_ns.is_some() && !self.is_complete())
    }

    /// Counts a segment that was sent again.
    pub fn retransmitted(&mut self) {
        self.retransmits = self.retransmits.saturating_add(1);
        self.round_trip.repeated();
    }

    /// Whether a segment without bytes at `sequence` (a RST) can belong to this stream.
    pub fn is_in_window(&self, sequence: u32) -> bool {
        self.next.is_none_or(|next| distance(next, sequence).unsigned_abs() <= u64::from(MAX_WINDOW))
    }

    /// Whether `sequence` is at or behind what is expected next: bytes there were not seen before.
    pub fn is_new(&self, sequence: u32) -> bool {
        self.next.is_none_or(|next| distance(next, sequence) >= 0)
    }

    /// A segment with bytes.
    pub fn segment(&mut self, arrival: Arrival<'_>, limits: &Limits, losses: &mut Losses, deliver: &mut Deliver<'_>) {
        let Arrival { sequence, size, payload, identification, interface, time_ns, round_trip_ns } = arrival;
        let copy = (identification != 0 && self.last == (sequence, size, identification)) || interface != self.interface;
        self.last = (sequence, size, identification);
        let relative = distance(*self.next.get_or_insert(sequence), sequence);
        if relative.unsigned_abs() > u64::from(MAX_WINDOW) {
            return losses.add(Loss::OutOfWindow, 1);
        }
        if relative == -1 && size == 1 {
            // A keep-alive probe with its byte of garbage (RFC 9293 section 3.8.4).
            return;
        }
        let Some(start) = self.position.checked_add_signed(relative) else {
            losses.add(Loss::BeforeStart, 1);
            let early = u32::try_from(relative.unsigned_abs() - self.position).unwrap_or(u32::MAX);
            if early < size {
                let rest = payload.get(early as usize..).unwrap_or_default();
                let sequence = sequence.wrapping_add(early);
                let arrival = Arrival { sequence, size: size - early, payload: rest, identification: 0, ..arrival };
                self.segment(arrival, limits, losses, deliver);
            }
            return;
        };
        let end = start + u64::from(size);
        if self.fin.is_some_and(|fin| end > fin) {
            return losses.add(Loss::OutOfWindow, 1);
        }
        // What the receiver has already was overtaken by its acknowledgment.
        let fills = self.pending.last_key_value().is_some_and(|(&offset, _)| start < offset) && end > self.acked;
        let is_late = fills && time_ns.saturating_sub(self.waiting_since_ns) >= round_trip_ns;
        let known = if start <= self.position && self.pending.is_empty() {
            let known = start < self.position;
            if end > self.position {
                let passed = (self.position - start) as usize;
                let rest = payload.get(passed..).unwrap_or_default();
                self.advance(size - passed as u32, rest, time_ns, losses, deliver);
            }
            known
        } else {
            let known = self.hold(start, end, payload, time_ns);
            self.drain(losses, deliver);
            known
        };
        match () {
            () if known && copy => losses.add(Loss::DuplicateFrame, 1),
            () if known && start < self.given_up.end && end > self.given_up.start => losses.add(Loss::Late, 1),
            () if known || is_late => self.retransmitted(),
            () => {
                self.interface = interface;
                self.round_trip.sent(end, time_ns);
            }
        }
        let over = |half: &Self| {
            half.pending.len() > limits.pending_segments_per_direction || half.pending_bytes > limits.pending_bytes_per_direction
        };
        while self.hole_is_acked(time_ns, limits.acked_hole_wait_ns) || over(self) {
            self.give_up_hole(time_ns, losses, deliver);
        }
    }

    /// The receiver says what it expects next.
    pub fn acknowledge(&mut self, acknowledgment: u32, now_ns: u64, wait_ns: u64, losses: &mut Losses, deliver: &mut Deliver<'_>) {
        let Some(next) = self.next else { return };
        let relative = distance(next, acknowledgment);
        if let Some(offset) = self.position.checked_add_signed(relative) {
            self.round_trip.acknowledged(offset, now_ns);
        }
        if (1..=i64::from(MAX_WINDOW)).contains(&relative) {
            self.acked = self.acked.max(self.position + relative.unsigned_abs());
        }
        self.settle(now_ns, wait_ns, losses, deliver);
    }

    /// Gives up what the receiver has, once it was waited for.
    fn settle(&mut self, now_ns: u64, wait_ns: u64, losses: &mut Losses, deliver: &mut Deliver<'_>) {
        while self.hole_is_acked(now_ns, wait_ns) {
            self.give_up_hole(now_ns, losses, deliver);
        }
        // An acknowledged FIN: the receiver has all, what is missing in front of it was lost by the capture.
        if let Some(fin) = self.fin.filter(|&fin| self.acked > fin)
            && now_ns.saturating_sub(*self.fin_acked_ns.get_or_insert(now_ns)) >= wait_ns
        {
            self.jump_to(fin, losses);
        }
    }

    /// A FIN; `sequence` is that of the segment's first byte and `size` the number of bytes before the FIN.
    pub fn finish(&mut self, sequence: u32, size: u32, interface: u32, identification: u16) {
        let relative = distance(*self.next.get_or_insert(sequence), sequence);
        if relative.unsigned_abs() > u64::from(MAX_WINDOW) {
            return;
        }
        if self.fin.is_some() {
            // With bytes it was counted as these.
            let copy = interface != self.interface || (identification != 0 && self.last == (sequence, size, identification));
            if size == 0 && !copy {
                self.retransmitted();
            }
            return;
        }
        if size == 0 {
            (self.interface, self.last) = (interface, (sequence, size, identification));
        }
        if let Some(fin) = self.position.checked_add_signed(relative + i64::from(size))
            && fin >= self.position
            && self.pending.last_key_value().is_none_or(|(&offset, pending)| offset + u64::from(pending.size) <= fin)
        {
            self.fin = Some(fin);
        }
    }

    /// Gives up a hole that was waited for too long.
    pub fn expire(&mut self, now_ns: u64, limits: &Limits, losses: &mut Losses, deliver: &mut Deliver<'_>) {
        self.settle(now_ns, limits.acked_hole_wait_ns, losses, deliver);
        while !self.pending.is_empty() && now_ns.saturating_sub(self.waiting_since_ns) >= limits.hole_wait_ns {
            self.give_up_hole(now_ns, losses, deliver);
        }
    }

    /// Delivers all that is buffered, holes given up.
    pub fn flush(&mut self, losses: &mut Losses, deliver: &mut Deliver<'_>) {
        while !self.pending.is_empty() {
            self.give_up_hole(self.waiting_since_ns, losses, deliver);
        }
    }

    /// Nothing more comes: what lies between the last byte and the FIN was missed.
    pub fn end(&mut self, losses: &mut Losses, deliver: &mut Deliver<'_>) {
        self.flush(losses, deliver);
        if let Some(fin) = self.fin {
            self.jump_to(fin, losses);
        }
    }

    fn hole_is_acked(&self, now_ns: u64, wait_ns: u64) -> bool {
        let is_acked = self.pending.first_key_value().is_some_and(|(&offset, _)| self.acked >= offset);
        is_acked && now_ns.saturating_sub(self.waiting_since_ns) >= wait_ns
    }

    /// Buffers the parts of a segment that are not there yet; tells whether some were.
    fn hold(&mut self, start: u64, end: u64, payload: &[u8], time_ns: u64) -> bool {
        let mut known = start < self.position;
        let mut at = start.max(self.position);
        if self.pending.is_empty() {
            self.waiting_since_ns = time_ns;
        }
        // The last segment that begins before this one may reach into it.
        if let Some((&offset, pending)) = self.pending.range(..=at).next_back() {
            let covered = offset + u64::from(pending.size);
            known |= covered > at;
            at = at.max(covered);
        }
        while at < end {
            let after = self.pending.range(at..end).next().map(|(&offset, pending)| (offset, offset + u64::from(pending.size)));
            let (free_end, next_at) = after.unwrap_or((end, end));
            known |= after.is_some();
            if free_end > at {
                let from = (at - start) as usize;
                let until = payload.len().min((free_end - start) as usize);
                let payload = payload.get(from..until).unwrap_or_default().to_vec();
                self.pending_bytes += payload.len() + PENDING_OVERHEAD;
                self.pending.insert(at, Pending { size: (free_end - at) as u32, payload, time_ns });
            }
            at = next_at;
        }
        known
    }

    /// Delivers what is buffered at the position.
    fn drain(&mut self, losses: &mut Losses, deliver: &mut Deliver<'_>) {
        while let Some(entry) = self.pending.first_entry()
            && *entry.key() <= self.position
        {
            let pending = entry.remove();
            self.pending_bytes -= pending.payload.len() + PENDING_OVERHEAD;
            self.advance(pending.size, &pending.payload, pending.time_ns, losses, deliver);
        }
    }

    fn give_up_hole(&mut self, now_ns: u64, losses: &mut Losses, deliver: &mut Deliver<'_>) {
        let Some((&offset, _)) = self.pending.first_key_value() else { return };
        self.jump_to(offset, losses);
        self.drain(losses, deliver);
        self.waiting_since_ns = now_ns;
    }

    fn jump_to(&mut self, offset: u64, losses: &mut Losses) {
        let missed = offset.saturating_sub(self.position);
        if missed > 0 {
            losses.add(Loss::HoleBytes, missed);
            self.given_up = self.position..offset;
            self.step(missed);
        }
    }

    fn advance(&mut self, size: u32, payload: &[u8], time_ns: u64, losses: &mut Losses, deliver: &mut Deliver<'_>) {
        losses.add(Loss::SnappedBytes, u64::from(size).saturating_sub(payload.len() as u64));
        self.delivered_ns = self.delivered_ns.max(time_ns);
        self.calls += 1;
        deliver(Piece { offset: self.position, size, payload, time_ns: self.delivered_ns });
        self.step(u64::from(size));
    }

    fn step(&mut self, bytes: u64) {
        self.position += bytes;
        // Sequence numbers are modulo 2^32.
        self.next = self.next.map(|next| next.wrapping_add(bytes as u32));
    }
}

/// From one sequence number to another, the short way round.
fn distance(from: u32, to: u32) -> i64 {
    i64::from(to.wrapping_sub(from).cast_signed())
}
