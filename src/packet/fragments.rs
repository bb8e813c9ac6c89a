//! IP fragments → datagrams, for IPv4 (RFC 791 section 3.2) and IPv6 (RFC 8200 section 4.5).
//!
//! Overlapping fragments discard their datagram, as Linux does for both versions; an exact copy of a fragment is passed over.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use hashbrown::HashMap;

/// Longest datagram that fragments can make.
const MAX_DATAGRAM: u32 = 65_535;
/// 64 KiB in pieces of the smallest IPv4 MTU in use (576) are 119.
const MAX_PIECES: usize = 128;

/// What the fragments of a datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub identification: u32,
    /// IPv4 only: TCP or UDP.
    pub protocol: u8,
}

#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    /// Place of the first byte in the datagram.
    pub offset: u32,
    pub more: bool,
    pub captured: &'a [u8],
    /// True length; at least `captured.len()`.
    pub length: u32,
    /// Of the first fragment: what the datagram begins with.
    pub next_header: u8,
}

/// A datagram that is whole on the wire.
#[derive(Debug, PartialEq, Eq)]
pub struct Datagram {
    pub next_header: u8,
    /// The bytes up to the first that was not captured.
    pub captured: Vec<u8>,
    pub length: u32,
}

struct Piece {
    captured: Vec<u8>,
    length: u32,
}

struct Partial {
    started_ns: u64,
    pieces: BTreeMap<u32, Piece>,
    /// True bytes in `pieces`.
    present: u32,
    /// Known once the last fragment came.
    total: Option<u32>,
    next_header: u8,
}

/// Datagrams under reassembly.
#[derive(Default)]
pub struct Fragments {
    partial: HashMap<DatagramKey, Partial>,
    /// Keys in the order in which their first fragment came; keys of finished datagrams are left out when met.
    order: VecDeque<(u64, DatagramKey)>,
}

impl Fragments {
    /// Takes a fragment in. The second value counts the fragments that were given up.
    pub fn insert(&mut self, key: DatagramKey, fragment: Fragment<'_>, time_ns: u64, max: usize, wait_ns: u64) -> (Option<Datagram>, u64) {
        let mut lost = self.expire(time_ns, wait_ns);
        let end = fragment.offset.saturating_add(fragment.length);
        // All but the last are of a multiple of 8 bytes, or the next could not say where it begins.
        if fragment.length == 0 || end > MAX_DATAGRAM || (fragment.more && !fragment.length.is_multiple_of(8)) {
            return (None, lost + 1 + self.forget(&key));
        }
        if !self.partial.contains_key(&key) {
            while self.partial.len() >= max.max(1) {
                let Some((started_ns, oldest)) = self.order.pop_front() else { break };
                lost += self.forget_started(&oldest, started_ns);
            }
            self.order.push_back((time_ns, key));
        }
        let partial = self.partial.entry(key).or_insert_with(|| Partial {
            started_ns: time_ns,
            pieces: BTreeMap::new(),
            present: 0,
            total: None,
            next_header: fragment.next_header,
        });
        if partial.pieces.get(&fragment.offset).is_some_and(|piece| piece.length == fragment.length) {
            return (None, lost);
        }
        if !partial.accepts(&fragment, end) {
            return (None, lost + 1 + self.forget(&key));
        }
        if fragment.offset == 0 {
            partial.next_header = fragment.next_header;
        }
        if !fragment.more {
            partial.total = Some(end);
        }
        partial.present += fragment.length;
        partial.pieces.insert(fragment.offset, Piece { captured: fragment.captured.to_vec(), length: fragment.length });
        if partial.total != Some(partial.present) {
            return (None, lost);
        }
        (self.partial.remove(&key).map(Partial::join), lost)
    }

    /// Gives up everything; counts its fragments.
    pub fn clear(&mut self) -> u64 {
        self.order.clear();
        self.partial.drain().map(|(_, partial)| partial.pieces.len() as u64).sum()
    }

    fn expire(&mut self, time_ns: u64, wait_ns: u64) -> u64 {
        let mut lost = 0;
        while let Some(&(started_ns, key)) = self.order.front() {
            let live = self.partial.get(&key).is_some_and(|partial| partial.started_ns == started_ns);
            if live && time_ns.saturating_sub(started_ns) < wait_ns {
                break;
            }
            self.order.pop_front();
            lost += self.forget_started(&key, started_ns);
        }
        // Finished datagrams leave their keys behind a live one: hold the list to a multiple of what lives.
        if self.order.len() > 2 * self.partial.len() + 64 {
            let partial = &self.partial;
            self.order.retain(|(started_ns, key)| partial.get(key).is_some_and(|partial| partial.started_ns == *started_ns));
        }
        lost
    }

    fn forget(&mut self, key: &DatagramKey) -> u64 {
        self.partial.remove(key).map_or(0, |partial| partial.pieces.len() as u64)
    }

    fn forget_started(&mut self, key: &DatagramKey, started_ns: u64) -> u64 {
        if self.partial.get(key).is_some_and(|partial| partial.started_ns == started_ns) { self.forget(key) } else { 0 }
    }
}

impl Partial {
    fn accepts(&self, fragment: &Fragment<'_>, end: u32) -> bool {
        let free = self.pieces.range(..end).next_back().is_none_or(|(&offset, piece)| offset + piece.length <= fragment.offset);
        let fits = match self.total {
            Some(total) => fragment.more && end <= total,
            None => fragment.more || self.pieces.last_key_value().is_none_or(|(&offset, piece)| offset + piece.length <= end),
        };
        free && fits && self.pieces.len() < MAX_PIECES
    }

    fn join(self) -> Datagram {
        let mut captured = Vec::with_capacity(self.present as usize);
        for piece in self.pieces.values() {
            captured.extend_from_slice(&piece.captured);
            if piece.captured.len() < piece.length as usize {
                break;
            }
        }
        Datagram { next_header: self.next_header, captured, length: self.present }
    }
}
