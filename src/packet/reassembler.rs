//! The table of connections: frames in, events out.

use hashbrown::HashMap;

use super::{
    Limits, LinkType, Loss, Losses,
    connection::{Connection, Out},
    datagrams::{self, Conversations},
    fragments::Fragments,
    ip::{self, Segment, Transport},
    link::{self, Network},
};
use crate::{
    event::{CloseReason, Event},
    model::Endpoint,
};

/// A full table gives up this part of itself at once, so that a flood of new connections does not search it for each.
const EVICTED_PART: usize = 16;

/// The two ends, the lesser first: the same for both directions. VLANs and interfaces are left out, because one connection is often seen
/// on several.
type Key = (Endpoint, Endpoint);

/// Turns frames into events. Time comes with the frames.
///
/// The bytes of a hole are given up when the receiver acknowledged beyond it, when the [`Limits`] are reached, or when the connection
/// ends; they show as a jump of the offsets. Offsets count from the first byte of a direction, or, on an adopted connection, from the
/// first that was seen. A connection whose SYN was not seen is adopted at its first segment with bytes.
pub struct Reassembler {
    limits: Limits,
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

    /// Takes in a frame that was `original_len` bytes long on the wire, of which `captured` are known.
    pub fn frame(&mut self, link: LinkType, time_ns: u64, captured: &[u8], original_len: u32, out: &mut dyn FnMut(Event<'_>)) {
        self.pass_time(time_ns, out);
        let at = match link::network(link, captured) {
            Network::Ip(at) => at,
            Network::Other => return self.others += 1,
            Network::Cut => return self.lose_cut(captured, original_len),
        };
        let packet = captured.get(at..).unwrap_or_default();
        let original = original_len.max(captured.len() as u32) - at as u32;
        match ip::parse(packet, original) {
            Ok(transport) => self.transport(transport, time_ns, out),
            Err(Loss::Cut) => self.lose_cut(captured, original_len),
            Err(loss) => self.losses.add(loss, 1),
        }
    }

    /// Counts a frame that cannot be read for a reason known before its first byte is looked at.
    pub fn lose(&mut self, loss: Loss) {
        self.losses.add(loss, 1);
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

    fn transport(&mut self, transport: Transport<'_>, time_ns: u64, out: &mut Out<'_>) {
        match transport {
            Transport::Other => self.others += 1,
            Transport::Tcp(packet) => match ip::segment(&packet) {
                Ok(segment) => self.segment(&segment, time_ns, out),
                Err(loss) => self.losses.add(loss, 1),
            },
            Transport::Udp(packet) => match datagrams::datagram(&packet) {
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
                        Ok(transport) => self.transport(transport, time_ns, out),
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
        self.next_sweep_ns = now_ns.saturating_add(limits.lingering_ns.min(limits.hole_wait_ns).min(limits.idle_ns) / 4);
        self.conversations.expire(now_ns);
        let mut due: Vec<(u64, Key, bool)> = Vec::new();
        for (&key, connection) in &self.connections {
            let silent_ns = now_ns.saturating_sub(connection.last_ns);
            let gone = silent_ns >= if connection.is_open() { limits.idle_ns } else { limits.lingering_ns };
            if gone || connection.pending_bytes() > 0 {
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
                connection.expire(now_ns, limits.hole_wait_ns, &mut self.losses, out);
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
