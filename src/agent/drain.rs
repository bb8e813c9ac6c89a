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
        clock::now_ns,
        table::{Changes, ConnectionCounters, ConnectionTable},
        transport::{Events, Reader, Round, Sleep},
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
            let Round { records, until_ns } = if stopping { reader.rest()? } else { reader.consume()? };
            // What user space adds stands where its time is among the records: it must not be ahead of those that are held back.
            let now = until_ns.unwrap_or_else(now_ns);
            // Not in each round of a stop: a sweep would end connections whose close is among the records to come.
            let is_last = stopping && records == 0;
            if now >= next_counters || is_last {
                next_counters = now + COUNTERS_NS;
                let read = |changes: &mut Changes, all, each: Each<'_>| changes.read(&live.table, all, each);
                if let Some(count) = look.take(now, &mut router.borrow_mut(), read) {
                    live.connections.store(count as u64, Ordering::Relaxed);
                }
            }
            if now >= next_tick || is_last {
                next_tick = after(now, live.tick);
                router.borrow_mut().event(&plain(now, Body::Tick));
            }
            router.borrow_mut().flush();
            if is_last {
                break;
            }
            empty_rounds = if records == 0 { empty_rounds + 1 } else { 0 };
            // With so much to read there is no time to gather.
            if !stopping && until_ns.is_some() {
                let idle = empty_rounds >= IDLE_ROUNDS;
                reader.sleep(if idle { Sleep::UntilEvent(IDLE.min(live.tick)) } else { Sleep::Moment(GATHER) })?;
            }
        }
    }
    router.into_inner().end();
    Ok(())
}

/// What is done with each connection that a look shows.
type Each<'a> = &'a mut dyn FnMut(ConnectionCounters);

/// The regular look at the kernel's connections.
#[derive(Default)]
struct Look {
    changes: Changes,
    /// Those that saw everything.
    looks: u64,
    /// When all connections were named the last time.
    all_ns: u64,
    /// One has failed already.
    warned: bool,
}

impl Look {
    /// Counter records for connections whose counters moved. Now and then all are named: what was not named for two such rounds has
    /// ended without a word, because its close event was lost.
    ///
    /// Returns how many there are; `None` if not all could be read. Then none is taken for ended, and the next look names all instead.
    fn take(&mut self, now: u64, router: &mut Router, read: impl FnOnce(&mut Changes, bool, Each<'_>) -> Result<usize>) -> Option<usize> {
        let all = (self.looks + 1).is_multiple_of(NAME_ALL);
        let read = read(&mut self.changes, all, &mut |counters| {
            let header = Header { time_ns: now, connection: counters.id, pid: counters.pid, tid: 0 };
            router.event(&Event { header, body: Body::Counters(counters.totals) });
        });
        match read {
            Ok(count) => {
                self.looks += 1;
                if all {
                    let since_ns = std::mem::replace(&mut self.all_ns, now);
                    router.event(&plain(now, Body::Sweep { since_ns }));
                }
                Some(count)
            }
            Err(error) => {
                let seconds = COUNTERS_NS / 1_000_000_000;
                if std::mem::replace(&mut self.warned, true) {
                    tracing::debug!("the kernel's connections could not all be read: {error:#}");
                } else {
                    tracing::warn!("the kernel's connections could not all be read, to be tried again every {seconds} s: {error:#}");
                }
                None
            }
        }
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

/// A time that is set to any length may be beyond the end of the clock.
pub(super) fn after(now_ns: u64, time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).map_or(u64::MAX, |time_ns| now_ns.saturating_add(time_ns))
}

/// An event of no connection.
pub(super) fn plain(time_ns: u64, body: Body<'_>) -> Event<'_> {
    Event { header: Header { time_ns, connection: ConnectionId(0), pid: 0, tid: 0 }, body }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;
    use crossbeam_channel::bounded;

    use super::*;
    use crate::{
        agent::{outlet::Patience, router::Message},
        event::Totals,
    };

    /// Looks at the times 1, 2, 3, …, each complete or not. Returns when all were named, and what was swept: when, and since when.
    fn looks(complete: &[bool]) -> (Vec<u64>, Vec<(u64, u64)>) {
        let (sender, receiver) = bounded(4);
        let mut router = Router::new(vec![sender], bounded(1).1, None, Patience::Wait, false, Arc::default());
        let mut look = Look::default();
        for (complete, now) in complete.iter().zip(1..) {
            let counted = look.take(now, &mut router, |_, all, each| {
                if all {
                    each(ConnectionCounters { id: ConnectionId(1), pid: 1, totals: Totals::default() });
                }
                if *complete { Ok(2) } else { bail!("a bucket is held") }
            });
            assert_eq!(counted, complete.then_some(2));
        }
        router.end();
        let (mut named, mut swept) = (Vec::new(), Vec::new());
        for message in receiver {
            let Message::Events(batch) = message else { continue };
            for (_, record) in batch.records() {
                match Event::decode(record).unwrap() {
                    Event { header, body: Body::Counters(_) } => named.push(header.time_ns),
                    Event { header, body: Body::Sweep { since_ns } } => swept.push((header.time_ns, since_ns)),
                    Event { body, .. } => panic!("{body:?}"),
                }
            }
        }
        (named, swept)
    }

    #[test]
    fn a_look_that_did_not_see_all_sweeps_nothing_and_the_next_one_names_all_again() {
        assert_eq!(looks(&[true; 13]), (vec![6, 12], vec![(6, 0), (12, 6)]));
        let failing = |failed: &[usize]| (1..=13).map(|look| !failed.contains(&look)).collect::<Vec<_>>();
        assert_eq!(looks(&failing(&[6, 7])), (vec![6, 7, 8], vec![(8, 0)]));
        assert_eq!(looks(&failing(&[3])), (vec![7, 13], vec![(7, 0), (13, 7)]));
    }

    #[test]
    fn a_tick_can_be_as_far_away_as_the_settings_allow() {
        assert_eq!(after(7, Duration::from_millis(1)), 1_000_007);
        for milliseconds in [u64::MAX / 1_000_000, u64::MAX] {
            assert_eq!(after(1_000_000, Duration::from_millis(milliseconds)), u64::MAX);
        }
    }
}
