//! The table of connections: frames in, events out.

use hashbrown::HashMap;

use super::{
    Limits, LinkType, Loss, Losses,
    connection::{Connection, Out, header},
    datagrams::{self, Conversations},
    fragments::Fragments,
    ip::{self, Segment, Transport},
    link::{self, Network},
};
use crate::{
    event::{Body, CloseReason, Event},
    model::Endpoint,
};

/// A full table gives up this part of itself at once, so that a flood of new connections does not search it for each.
const EVICTED_PART: usize = 16;
/// Looking at all connections is not worth it more often than this.
const SWEEP_NS: u64 = 100_000_000;

/// The two ends, the lesser first: the same for both directions. VLANs and interfaces are left out, because one connection is often seen
/// on several.
type Key = (Endpoint, Endpoint);

/// What is known of a frame beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    pub link: LinkType,
    /// Where it was seen: what comes by twice, at two interfaces, was sent once. Any number, the same for one interface.
    pub interface: u32,
    pub time_ns: u64,
    /// Bytes on the wire.
    pub original_len: u32,
}

/// Turns frames into events. Time comes with the frames.
///
/// The bytes of a hole are given up when the receiver acknowledged beyond it, when the [`Limits`] are reached, or when the connection
/// ends; they show as a jump of the offsets. Offsets count from the first byte of a direction, or, on an adopted connection, from the
/// first that was seen. A connection whose SYN was not seen is adopted at its first segment with bytes.
pub struct Reassembler {
    limits: Limits,
    /// Of which one end must have one; empty: all.
    ports: Box<[u16]>,
    connections: HashMap<Key, Connection>,
    conversations: Conversations,
    fragments: Fragments,
    losses: Losses,
    /// Last connection id without its low byte.
    counter: u64,
    /// The latest time seen; frames of several interfaces can come slightly out of order.
    now_ns: u64,
    next_sweep_ns: u64,
    /// Cost of all buffered segments.
    pending_bytes: usize,
    segments: u64,
    datagrams: u64,
    others: u64,
}

impl Reassembler {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ports: Box::default(),
            connections: HashMap::new(),
            conversations: Conversations::default(),
            fragments: Fragments::default(),
            losses: Losses::default(),
            counter: 0,
            now_ns: 0,
            next_sweep_ns: 0,
            pending_bytes: 0,
            segments: 0,
            datagrams: 0,
            others: 0,
        }
    }

    /// Only connections and datagrams with one of these ports at one end; empty: all. Others count among those that carry something else.
    pub fn only_ports(self, ports: &[u16]) -> Self {
        Self { ports: ports.into(), ..self }
    }

    /// Takes in a frame of which `captured` are the first bytes.
    pub fn frame(&mut self, head: FrameHead, captured: &[u8], out: &mut dyn FnMut(Event<'_>)) {
        let FrameHead { link, interface, time_ns, original_len } = head;
        self.pass_time(time_ns, out);
        let at = match link::network(link, captured) {
            Network::Ip(at) => at,
            Network::Other => return self.others += 1,
            Network::Cut => return self.lose_cut(captured, original_len),
        };
        let packet = captured.get(at..).unwrap_or_default();
        let original = original_len.max(captured.len() as u32) - at as u32;
        match ip::parse(packet, original) {
            Ok(transport) => self.transport(transport, interface, time_ns, out),
            Err(Loss::Cut) => self.lose_cut(captured, original_len),
            Err(loss) => self.losses.add(loss, 1),
        }
    }

    /// Counts a frame that cannot be read for a reason known before its first byte is looked at.
    pub fn lose(&mut self, loss: Loss) {
        self.losses.add(loss, 1);
    }

    /// Time goes on without a frame.
    pub fn tick(&mut self, now_ns: u64, out: &mut dyn FnMut(Event<'_>)) {
        self.pass_time(now_ns, out);
    }

    /// Reports the counters of connections that are open, of all or where they moved since this was last called.
    pub fn counters(&mut self, now_ns: u64, of_all: bool, out: &mut dyn FnMut(Event<'_>)) {
        let open = self.connections.values_mut();
        let mut news: Vec<_> = open.filter_map(|connection| Some((connection.id, connection.counters(of_all)?))).collect();
        news.sort_unstable_by_key(|(id, _)| *id);
        for (id, totals) in news {
            out(Event { header: header(id, now_ns), body: Body::Counters(totals) });
        }
    }

    /// The last frame was seen: delivers what is buffered. Connections stay open: nobody saw them end.
    pub fn finish(&mut self, out: &mut dyn FnMut(Event<'_>)) {
        let mut open: Vec<&mut Connection> = self.connections.values_mut().filter(|connection| connection.pending_bytes() > 0).collect();
        open.sort_unstable_by_key(|connection| connection.id);
        for connection in open {
            connection.flush(&mut self.losses, out);
        }
        self.pending_bytes = self.connections.values().map(Connection::pending_bytes).sum();
        let fragments = self.fragments.clear();
        self.losses.add(Loss::Fragment, fragments);
    }

    pub fn losses(&self) -> Losses {
        self.losses
    }

    /// TCP segments taken in so far.
    pub fn segments(&self) -> u64 {
        self.segments
    }

    /// UDP datagrams taken in so far.
    pub fn datagrams(&self) -> u64 {
        self.datagrams
    }

    /// Frames so far that carried something else than TCP or UDP.
    pub fn others(&self) -> u64 {
        self.others
    }

    /// Connections held now, ended ones that are still remembered included, and conversations of UDP.
    pub fn connections(&self) -> usize {
        self.connections.len() + self.conversations.len()
    }

    /// Cost in bytes of the out-of-order segments held now.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// A frame that ends early was cut by the capture, or else was sent so.
    fn lose_cut(&mut self, captured: &[u8], original_len: u32) {
        let loss = if captured.len() < original_len as usize { Loss::Cut } else { Loss::Malformed };
        self.losses.add(loss, 1);
    }

    fn is_wanted(&self, one: Endpoint, other: Endpoint) -> bool {
        self.ports.is_empty() || self.ports.contains(&one.port) || self.ports.contains(&other.port)
    }

    fn transport(&mut self, transport: Transport<'_>, interface: u32, time_ns: u64, out: &mut Out<'_>) {
        match transport {
            Transport::Other => self.others += 1,
            Transport::Tcp(packet) => match ip::segment(&packet, interface) {
                Ok(segment) if !self.is_wanted(segment.source, segment.destination) => self.others += 1,
                Ok(segment) => self.segment(&segment, time_ns, out),
                Err(loss) => self.losses.add(loss, 1),
            },
            Transport::Udp(packet) => match datagrams::datagram(&packet, interface) {
                Ok(datagram) if !self.is_wanted(datagram.source, datagram.destination) => self.others += 1,
                Ok(datagram) => {
                    self.datagrams += 1;
                    self.conversations.datagram(&datagram, time_ns, &mut self.counter, &self.limits, &mut self.losses, out);
                }
                Err(loss) => self.losses.add(loss, 1),
            },
            Transport::Fragment(key, fragment) => {
                let limits = &self.limits;
                let (datagram, lost) = self.fragments.insert(key, fragment, time_ns, limits.datagrams, limits.datagram_wait_ns);
                self.losses.add(Loss::Fragment, lost);
                if let Some(datagram) = datagram {
                    match ip::parse_datagram(key, datagram.next_header, &datagram.captured, datagram.length) {
                        // A datagram is put together once: this does not come here again.
                        Ok(transport) => self.transport(transport, interface, time_ns, out),
                        Err(loss) => self.losses.add(loss, 1),
                    }
                }
            }
        }
    }

    fn segment(&mut self, segment: &Segment<'_>, time_ns: u64, out: &mut Out<'_>) {
        self.segments += 1;
        let (source, destination) = (segment.source, segment.destination);
        let key = if source <= destination { (source, destination) } else { (destination, source) };
        if let Some(connection) = self.connections.get_mut(&key)
            && connection.is_superseded_by(segment)
        {
            self.pending_bytes -= connection.pending_bytes();
            connection.close(CloseReason::Unknown, time_ns, &mut self.losses, out);
            self.connections.remove(&key);
        }
        if !self.connections.contains_key(&key) {
            let Some(connection) = Connection::first_seen(segment, self.counter + 1, time_ns) else { return };
            self.counter += 1;
            if self.connections.len() >= self.limits.connections.max(1) {
                self.evict(time_ns, out);
            }
            self.connections.insert(key, connection);
        }
        let Some(connection) = self.connections.get_mut(&key) else { return };
        self.pending_bytes -= connection.pending_bytes();
        connection.segment(segment, time_ns, &self.limits, &mut self.losses, out);
        if self.pending_bytes + connection.pending_bytes() > self.limits.pending_bytes {
            connection.flush(&mut self.losses, out);
        }
        self.pending_bytes += connection.pending_bytes();
    }

    /// Closes what is silent for too long and gives up old holes, every quarter of the shortest wait.
    fn pass_time(&mut self, time_ns: u64, out: &mut Out<'_>) {
        self.now_ns = self.now_ns.max(time_ns);
        if self.now_ns <= self.next_sweep_ns {
            return;
        }
        let now_ns = self.now_ns;
        let limits = self.limits;
        let mut rest_ns = limits.lingering_ns.min(limits.hole_wait_ns).min(limits.idle_ns) / 4;
        if limits.acked_hole_wait_ns > 0 {
            rest_ns = rest_ns.min(limits.acked_hole_wait_ns.max(SWEEP_NS));
        }
        self.next_sweep_ns = now_ns.saturating_add(rest_ns);
        self.conversations.expire(now_ns);
        let mut due: Vec<(u64, Key, bool)> = Vec::new();
        for (&key, connection) in &self.connections {
            let silent_ns = now_ns.saturating_sub(connection.last_ns);
            let gone = silent_ns >= if connection.is_open() { limits.idle_ns } else { limits.lingering_ns };
            if gone || connection.is_waiting() {
                due.push((connection.id.0, key, gone));
            }
        }
        // The order of a hash table is not the same twice.
        due.sort_unstable();
        for (_, key, gone) in due {
            let Some(connection) = self.connections.get_mut(&key) else { continue };
            self.pending_bytes -= connection.pending_bytes();
            if gone {
                connection.close(CloseReason::Unknown, now_ns, &mut self.losses, out);
                self.connections.remove(&key);
            } else {
                connection.expire(now_ns, &limits, &mut self.losses, out);
                self.pending_bytes += connection.pending_bytes();
            }
        }
    }

    /// Makes room: ended connections first, then the longest silent.
    fn evict(&mut self, time_ns: u64, out: &mut Out<'_>) {
        let mut ranked: Vec<(bool, u64, u64, Key)> =
            self.connections.iter().map(|(&key, connection)| (!connection.is_ended(), connection.last_ns, connection.id.0, key)).collect();
        ranked.sort_unstable();
        ranked.truncate(ranked.len().div_ceil(EVICTED_PART));
        for (live, _, _, key) in ranked {
            if let Some(mut connection) = self.connections.remove(&key) {
                self.pending_bytes -= connection.pending_bytes();
                connection.close(CloseReason::Unknown, time_ns, &mut self.losses, out);
                self.losses.add(Loss::ConnectionTable, u64::from(live));
            }
        }
    }
}
