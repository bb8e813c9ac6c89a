//! The maps that user space reads or writes while the programs run: connections, wishes, ignored control groups, tallies.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use libbpf_rs::{ErrorKind, Iter, Link, MapCore, MapFlags, MapHandle};
use nix::sys::mman::{self, ProtFlags, mmap};

use crate::{
    event::Totals,
    model::{ConnectionId, Wish},
    probes::elements,
    skel::{bytes, types},
};

/// The kernel's connections, for the counters of those that live long.
pub struct ConnectionTable {
    map: MapHandle,
    /// Instead of a batch, which leaves data programs out that perf runs: `walk_conns` in `life.bpf.c`.
    walk: Option<Link>,
    /// Else one element after the other (before Linux 5.6).
    reads_batches: bool,
}

/// One connection's counters as they stand.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionCounters {
    pub id: ConnectionId,
    pub pid: u32,
    pub totals: Totals,
}

impl ConnectionTable {
    pub(super) fn new(map: MapHandle, walk: Option<Link>, reads_batches: bool) -> Self {
        Self { map, walk, reads_batches }
    }

    /// How many connections the kernel can hold.
    pub fn capacity(&self) -> u32 {
        self.map.max_entries()
    }

    /// Calls `each` for every connection that is established. Costs about a microsecond an entry. Without batches one can be passed over,
    /// once in a great while: when another one of its bucket goes in the moment in which the kernel steps from it. So what one reading does
    /// not show need not have ended.
    ///
    /// # Errors
    /// Not all could be read.
    pub fn for_each(&self, mut each: impl FnMut(ConnectionCounters)) -> Result<()> {
        const BATCH: u32 = 1024;
        let mut hand_over = |value: &[u8]| {
            let mut conn = types::conn::default();
            if plain::Plain::copy_from_bytes(&mut conn, value).is_err() || conn.id == 0 {
                return;
            }
            let [received, sent] = conn.flows;
            each(ConnectionCounters {
                id: ConnectionId(conn.id),
                pid: conn.pid,
                totals: Totals {
                    bytes_sent: sent.position,
                    bytes_received: received.position,
                    retransmits: conn.retransmits,
                    srtt_us: conn.srtt_us,
                },
            });
        };
        match &self.walk {
            Some(walk) => {
                let mut walk = BufReader::with_capacity(1 << 16, Iter::new(walk).context("walking through the connection map")?);
                let mut value = [0; size_of::<types::conn>()];
                // The kernel writes whole values.
                while !walk.fill_buf().context("reading the connection map")?.is_empty() {
                    walk.read_exact(&mut value).context("reading the connection map")?;
                    hand_over(&value);
                }
            }
            None if self.reads_batches => elements::by_batches(&self.map, BATCH, hand_over).context("reading the connection map")?,
            None => elements::by_keys(&self.map, hand_over).context("reading the connection map")?,
        }
        Ok(())
    }
}

/// Where user space tells the kernel what of a connection it wants to see. See `struct capture_wish` in `maps.h`.
pub struct Wishes {
    slots: Slots,
}

/// How the slots are written. Each word of one is right by itself.
enum Slots {
    Call(MapHandle),
    /// The map's own memory: a call, while it lasts, leaves data programs out that perf runs, and may be preempted.
    Memory(&'static [[AtomicU64; 3]]),
}

const VALUE_BITS: u32 = 48;
const VALUE_MASK: u64 = (1 << VALUE_BITS) - 1;
const SLOTS_LOG2: u32 = 14;

impl Wishes {
    pub(super) fn new(map: MapHandle) -> Self {
        Self { slots: Slots::Call(map) }
    }

    /// For a map made with `BPF_F_MMAPABLE`.
    #[allow(unsafe_code, reason = "memory shared with the kernel")]
    pub(super) fn mapped(map: &MapHandle) -> Result<Self> {
        let count = 1 << SLOTS_LOG2;
        let length = NonZeroUsize::new(count * size_of::<types::capture_wish>()).context("a map without slots")?;
        // SAFETY: a mapping of its own, wherever there is room.
        let memory = unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, mman::MapFlags::MAP_SHARED, map, 0) };
        let memory = memory.context("mapping the wishes map")?;
        // SAFETY: as long as was mapped, which was for 'static (nobody takes it away: the agent loads once), and aligned to a page; a slot
        // is three words of 64 bits, and who else writes them here is nobody, in the kernel neither.
        let slots = unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), count) };
        Ok(Self { slots: Slots::Memory(slots) })
    }

    pub fn set(&self, id: ConnectionId, wish: Wish) -> Result<()> {
        let number = id.0 >> 8;
        let slot = (number & ((1 << SLOTS_LOG2) - 1)) as u32;
        let tag = (number >> SLOTS_LOG2) & 0xffff;
        let word = |value: u64| tag << VALUE_BITS | value.min(VALUE_MASK);
        let value = types::capture_wish {
            from_received: word(wish.from_received),
            from_sent: word(wish.from_sent),
            limit: word(u64::from(wish.limit)),
        };
        match &self.slots {
            Slots::Call(map) => map.update(&slot.to_ne_bytes(), bytes(&value), MapFlags::ANY).context("writing the wishes map"),
            Slots::Memory(slots) => {
                for (place, word) in slots[slot as usize].iter().zip([value.from_received, value.from_sent, value.limit]) {
                    place.store(word, Ordering::Relaxed);
                }
                Ok(())
            }
        }
    }
}

/// Control groups of which the kernel reports nothing: connections and UDP sockets of their processes are dropped from the moment at which
/// their process is known. For any thread.
#[derive(Clone)]
pub struct CgroupFilter {
    map: Arc<MapHandle>,
}

impl CgroupFilter {
    pub(super) fn new(map: MapHandle) -> Self {
        Self { map: Arc::new(map) }
    }

    /// Nothing more of this group. What is open is reported once more, at its close.
    ///
    /// # Errors
    /// There are as many already as the map holds, 16,384 (one, if the programs were loaded without the filter).
    pub fn ignore(&self, cgroup_id: u64) -> Result<()> {
        self.map.update(&cgroup_id.to_ne_bytes(), &[1], MapFlags::ANY).with_context(|| format!("leaving out the control group {cgroup_id}"))
    }

    /// Takes [`Self::ignore`] back, for what is opened from here on; also when the group is gone, to make room. One that was not ignored
    /// is no error.
    ///
    /// # Errors
    /// The kernel refuses the change.
    pub fn allow(&self, cgroup_id: u64) -> Result<()> {
        match self.map.delete(&cgroup_id.to_ne_bytes()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("taking the control group {cgroup_id} in again"))
            }
            _ => Ok(()),
        }
    }
}

/// What the programs counted, summed over CPUs.
pub struct Tallies {
    map: MapHandle,
}

/// See `enum tally` in `maps.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub ring_full: u64,
    pub connections_full: u64,
    pub unread: u64,
    pub data: u64,
    pub other: u64,
    pub counted: u64,
    /// Runs that the kernel left out; not in the map, see `RunTime::missed`.
    pub program_missed: u64,
}

impl Tallies {
    pub(super) fn new(map: MapHandle) -> Self {
        Self { map }
    }

    pub fn read(&self) -> Result<Tally> {
        Ok(Tally {
            ring_full: self.sum(types::tally::STAT_RING_FULL)?,
            connections_full: self.sum(types::tally::STAT_CONNS_FULL)?,
            unread: self.sum(types::tally::STAT_UNREAD)?,
            data: self.sum(types::tally::STAT_DATA)?,
            other: self.sum(types::tally::STAT_OTHER)?,
            counted: self.sum(types::tally::STAT_COUNTED)?,
            program_missed: 0,
        })
    }

    fn sum(&self, tally: types::tally) -> Result<u64> {
        let values = self.map.lookup_percpu(&tally.0.to_ne_bytes(), MapFlags::ANY).context("reading the stats map")?;
        let number = |value: Vec<u8>| value.first_chunk::<8>().copied().map_or(0, u64::from_ne_bytes);
        Ok(values.unwrap_or_default().into_iter().map(number).sum())
    }
}

/// Which counters changed since the last reading: only those are worth an event.
#[derive(Debug, Default)]
pub struct Changes {
    known: HashMap<ConnectionId, (Totals, u64)>,
    round: u64,
}

impl Changes {
    /// Reads the table and calls `each` for every connection whose counters moved, or with `all` for every one.
    /// Returns how many there are.
    ///
    /// # Errors
    /// Not all could be read: for those that were, `each` was called.
    pub fn read(&mut self, table: &ConnectionTable, all: bool, mut each: impl FnMut(ConnectionCounters)) -> Result<usize> {
        self.round += 1;
        let round = self.round;
        let mut count = 0;
        let complete = table.for_each(|counters| {
            count += 1;
            let known = self.known.entry(counters.id).or_default();
            if all || known.0 != counters.totals {
                known.0 = counters.totals;
                each(counters);
            }
            known.1 = round;
        });
        // What was not read may be there still, but what has gone must not gather, should no reading be complete.
        if complete.is_ok() || self.known.len() > table.capacity() as usize {
            self.known.retain(|_, known| known.1 == round);
        }
        complete.map(|()| count)
    }
}
