//! The live source: empties the ring, adds ticks and the counters of long-lived connections, and routes it all.
//! Never parses, and waits for a worker only so long as the ring can be expected to hold what comes meanwhile.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;

use super::router::Router;
use crate::{
    attribution::Listeners,
    event::{Body, Event, Header, Text},
    model::ConnectionId,
    probes::{
        table::{Changes, ConnectionTable},
        transport::{self, Events, Reader, Sleep},
    },
};

/// While events come they gather for so long: few wake-ups, and still fresh enough to look at.
pub(super) const GATHER: Duration = Duration::from_millis(10);
/// Without events the kernel wakes us; this is for the ticks and for a request to stop.
pub(super) const IDLE: Duration = Duration::from_millis(250);
/// How often the counters of open connections are read.
pub(super) const COUNTERS_NS: u64 = 5_000_000_000;
/// Every so many looks all connections are named.
pub(super) const NAME_ALL: u64 = 6;
/// After so many empty rounds the source counts as idle.
pub(super) const IDLE_ROUNDS: u32 = 5;

/// What the live source needs.
pub struct Live {
    pub events: Events,
    pub table: ConnectionTable,
    pub tick: Duration,
    pub stop: Arc<AtomicBool>,
    /// Connections in the kernel's map when it was last read.
    pub connections: Arc<AtomicU64>,
    /// Sockets that were listening before the hooks were there.
    pub listeners: Listeners,
}

/// Runs until it is told to stop, then takes what is left and ends the workers.
pub fn run(mut live: Live, router: Router) -> Result<()> {
    let router = RefCell::new(router);
    let mut look = Look::default();
    let (mut next_tick, mut next_counters) = (now_ns(), now_ns());
    seed(&live.listeners, &mut router.borrow_mut());
    {
        let mut reader = Reader::new(&mut live.events, |record| router.borrow_mut().record(record))?;
        let mut empty_rounds = 0;
        loop {
            let stopping = live.stop.load(Ordering::Acquire);
            let count = reader.consume()?;
            let now = now_ns();
            if now >= next_counters || stopping {
                next_counters = now + COUNTERS_NS;
                let count = look.take(&live.table, now, &mut router.borrow_mut())?;
                live.connections.store(count as u64, Ordering::Relaxed);
            }
            if now >= next_tick || stopping {
                next_tick = now + live.tick.as_nanos() as u64;
                router.borrow_mut().event(&plain(now, Body::Tick));
            }
            router.borrow_mut().flush();
            if stopping && count == 0 {
                break;
            }
            empty_rounds = if count == 0 { empty_rounds + 1 } else { 0 };
            // With so much to read there is no time to gather.
            if !stopping && count < transport::ROUND {
                let idle = empty_rounds >= IDLE_ROUNDS;
                reader.sleep(if idle { Sleep::UntilEvent(IDLE.min(live.tick)) } else { Sleep::Moment(GATHER) })?;
            }
        }
    }
    router.into_inner().end();
    Ok(())
}

/// The regular look at the kernel's connections.
#[derive(Default)]
struct Look {
    changes: Changes,
    looks: u64,
    /// When all connections were named the last time.
    all_ns: u64,
}

impl Look {
    /// Counter records for connections whose counters moved. Now and then all are named: what was not named for two such rounds has
    /// ended without a word, because its close event was lost.
    fn take(&mut self, table: &ConnectionTable, now: u64, router: &mut Router) -> Result<usize> {
        self.looks += 1;
        let all = self.looks.is_multiple_of(NAME_ALL);
        let count = self.changes.read(table, all, |counters| {
            let header = Header { time_ns: now, connection: counters.id, pid: counters.pid, tid: 0 };
            router.event(&Event { header, body: Body::Counters(counters.totals) });
        })?;
        if all {
            let since_ns = std::mem::replace(&mut self.all_ns, now);
            router.event(&plain(now, Body::Sweep { since_ns }));
        }
        Ok(count)
    }
}

/// Listening sockets found at the start become events like those that come later: a replay needs them too.
fn seed(listeners: &Listeners, router: &mut Router) {
    for (socket, pid) in listeners.iter() {
        let header = Header { time_ns: now_ns(), connection: ConnectionId(0), pid: pid.unwrap_or(0), tid: 0 };
        let body = Body::Listen { local: socket.local, netns: socket.netns, cgroup_id: 0, comm: Text([0; 16]), closed: false };
        router.event(&Event { header, body });
    }
}

/// An event of no connection.
pub(super) fn plain(time_ns: u64, body: Body<'_>) -> Event<'_> {
    Event { header: Header { time_ns, connection: ConnectionId(0), pid: 0, tid: 0 }, body }
}

/// CLOCK_MONOTONIC, the clock of the kernel's events.
pub fn now_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// CLOCK_REALTIME, nanoseconds since 1970.
pub fn unix_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
