//! UDP (RFC 768): datagrams between the same two ends are one conversation until they have been silent for long.

use hashbrown::HashMap;

use super::{
    Limits, Loss, Losses,
    connection::{Out, header},
    ip::IpPayload,
};
use crate::{
    event::{Body, Event, Text, Tuple},
    model::{ConnectionId, Direction, Endpoint, Role},
};

const HEADER: u32 = 8;
/// The kernel's programs begin a socket anew after as long a silence (`UDP_SILENCE_NS` in `settings.h`).
const SILENCE_NS: u64 = 20_000_000_000;
/// A full table gives up this part of itself at once.
const EVICTED_PART: usize = 16;

/// A datagram between two ends.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    pub source: Endpoint,
    pub destination: Endpoint,
    payload: &'a [u8],
    /// True length of the payload; at least `payload.len()`.
    size: u32,
    identification: u16,
    interface: u32,
}

/// Reads the header.
pub fn datagram<'a>(packet: &IpPayload<'a>, interface: u32) -> Result<Datagram<'a>, Loss> {
    let header: &[u8; 8] = packet.captured.first_chunk().ok_or(if packet.length < HEADER { Loss::Malformed } else { Loss::Cut })?;
    let &[s0, s1, d0, d1, l0, l1, _, _] = header;
    // 0 in a jumbogram (RFC 2675 section 4), and before segmentation offload cuts a long one.
    let length = match u32::from(u16::from_be_bytes([l0, l1])) {
        0 => packet.length,
        length => length,
    };
    if length < HEADER || length > packet.length {
        return Err(Loss::Malformed);
    }
    let size = length - HEADER;
    let payload = packet.captured.get(HEADER as usize..).unwrap_or_default();
    Ok(Datagram {
        source: Endpoint { address: packet.source, port: u16::from_be_bytes([s0, s1]) },
        destination: Endpoint { address: packet.destination, port: u16::from_be_bytes([d0, d1]) },
        payload: payload.get(..size as usize).unwrap_or(payload),
        size,
        identification: packet.identification,
        interface,
    })
}

/// What a datagram is told by when it comes by again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    identification: u16,
    size: u32,
    interface: u32,
    /// Of the first bytes.
    digest: u64,
}

impl Mark {
    fn of(datagram: &Datagram<'_>) -> Self {
        /// Messages carry their number at their begin.
        const DIGESTED: usize = 64;
        let bytes = datagram.payload.get(..DIGESTED).unwrap_or(datagram.payload);
        // FNV-1a: short, and the same on every run.
        let digest = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        Self { identification: datagram.identification, size: datagram.size, interface: datagram.interface, digest }
    }

    /// Each datagram has an identification of its own, unless the sender forbids fragments and leaves it 0 (RFC 6864), or there is none
    /// (IPv6). Two interfaces show the same one right after another.
    fn is_again(self, last: Self) -> bool {
        let is_same = (self.identification, self.size) == (last.identification, last.size);
        is_same && (self.identification != 0 || (self.interface != last.interface && self.digest == last.digest))
    }
}

/// Who sent first, and what was seen since.
struct Conversation {
    id: ConnectionId,
    local: Endpoint,
    last_ns: u64,
    /// By direction: datagrams so far, and the last one.
    numbers: [u64; 2],
    last: [Mark; 2],
}

/// The conversations under way.
#[derive(Default)]
pub struct Conversations {
    /// By both ends, the lesser first.
    table: HashMap<(Endpoint, Endpoint), Conversation>,
}

impl Conversations {
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Reports a datagram; `counter` is the last number that was given to a connection.
    pub fn datagram(
        &mut self,
        datagram: &Datagram<'_>,
        time_ns: u64,
        counter: &mut u64,
        limits: &Limits,
        losses: &mut Losses,
        out: &mut Out<'_>,
    ) {
        let &Datagram { source, destination, payload, size, .. } = datagram;
        let key = if source <= destination { (source, destination) } else { (destination, source) };
        if self.table.get(&key).is_some_and(|known| time_ns.saturating_sub(known.last_ns) > SILENCE_NS) {
            self.table.remove(&key);
        }
        if !self.table.contains_key(&key) {
            if self.table.len() >= limits.connections.max(1) {
                self.evict(losses);
            }
            *counter += 1;
            let id = ConnectionId((*counter << 8) | u64::from(ConnectionId::port_hash(source.port.min(destination.port))));
            let conversation = Conversation { id, local: source, last_ns: time_ns, numbers: [0; 2], last: [Mark::default(); 2] };
            self.table.insert(key, conversation);
            let tuple = Tuple { local: source, remote: destination, netns: 0 };
            // Who speaks first asks; if its begin was missed, what is said tells.
            let body = Body::UdpOpen { tuple, cgroup_id: 0, start_ns: time_ns, role: Role::Client, comm: Text([0; 16]) };
            out(Event { header: header(id, time_ns), body });
        }
        let Some(conversation) = self.table.get_mut(&key) else { return };
        conversation.last_ns = conversation.last_ns.max(time_ns);
        let (direction, remote) = if source == conversation.local { (Direction::Sent, destination) } else { (Direction::Received, source) };
        let place = direction as usize;
        let (Some(number), Some(last)) = (conversation.numbers.get_mut(place), conversation.last.get_mut(place)) else { return };
        let mark = Mark::of(datagram);
        if *number > 0 && mark.is_again(*last) {
            losses.add(Loss::DuplicateFrame, 1);
            return;
        }
        *last = mark;
        losses.add(Loss::SnappedBytes, u64::from(size).saturating_sub(payload.len() as u64));
        // Port 0 is nobody's: a record says by it that the other end is not known.
        let remote = Some(remote).filter(|remote| remote.port != 0);
        let body = Body::Datagram { direction, number: *number, size, unread: false, remote, payload };
        *number += 1;
        out(Event { header: header(conversation.id, time_ns), body });
    }

    /// Forgets those that have been silent for long.
    pub fn expire(&mut self, now_ns: u64) {
        self.table.retain(|_, conversation| now_ns.saturating_sub(conversation.last_ns) <= SILENCE_NS);
    }

    /// Makes room: the longest silent go.
    fn evict(&mut self, losses: &mut Losses) {
        let mut ranked: Vec<_> = self.table.iter().map(|(key, conversation)| (conversation.last_ns, conversation.id, *key)).collect();
        ranked.sort_unstable();
        ranked.truncate(ranked.len().div_ceil(EVICTED_PART));
        losses.add(Loss::ConnectionTable, ranked.len() as u64);
        for (.., key) in ranked {
            self.table.remove(&key);
        }
    }
}
