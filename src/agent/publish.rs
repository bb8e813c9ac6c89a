//! Joins what the workers report with the kernel's own counters, and makes the result visible.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;

use super::{
    losses::Losses,
    programs::Programs,
    surroundings::{self, Sources},
    worker::{EVENT_NAMES, Report},
};
use crate::{
    attribution::conntrack::ConntrackCounts,
    config::Config,
    export::{MapFill, Name, ProgramCost, Published, SelfMetrics, Surroundings},
    model::Party,
    probes::{clock, table::Tally},
    service_map::{Listener, ServiceWatch, Snapshot, idle},
    telemetry::SelfUsage,
};

/// Holds the workers' latest reports and the loaded programs.
pub struct Publisher {
    published: Arc<ArcSwap<Published>>,
    host: String,
    hooks: &'static str,
    losses: Arc<Losses>,
    start_ns: u64,
    idle_after_ns: u64,
    reports: Vec<Option<Report>>,
    kernel: Option<Kernel>,
    /// `None` in a replay.
    sources: Option<Sources>,
    watch: ServiceWatch,
    /// The kernel's counts when the programs were taken away.
    tally: Tally,
    snapshot: Arc<Snapshot>,
}

struct Kernel {
    programs: Programs,
    connections: Arc<AtomicU64>,
    capacity: u32,
}

impl Publisher {
    pub fn new(
        published: Arc<ArcSwap<Published>>,
        config: &Config,
        host: String,
        hooks: &'static str,
        losses: Arc<Losses>,
        start_ns: u64,
    ) -> Self {
        Self {
            published,
            host,
            hooks,
            losses,
            start_ns,
            idle_after_ns: config.idle_after.as_nanos() as u64,
            reports: (0..config.workers).map(|_| None).collect(),
            kernel: None,
            sources: None,
            watch: ServiceWatch::default(),
            tally: Tally::default(),
            snapshot: Arc::default(),
        }
    }

    /// Takes the loaded programs in charge: their counters are published, and they go with [`Self::detach`]. `connections` is how many
    /// there are, `capacity` how many there can be.
    pub fn watch(&mut self, programs: Programs, connections: Arc<AtomicU64>, capacity: u32) {
        self.kernel = Some(Kernel { programs, connections, capacity });
    }

    /// Where names come from.
    pub fn ask(&mut self, sources: Sources) {
        self.sources = Some(sources);
    }

    /// Takes the programs away: from here on nothing is captured.
    pub fn detach(&mut self) {
        if let Some(kernel) = &mut self.kernel {
            kernel.programs.detach();
        }
    }

    pub fn take(&mut self, report: Report) {
        let worker = report.worker;
        if let Some(place) = self.reports.get_mut(worker)
            && !place.as_ref().is_some_and(|known| known.last)
        {
            *place = Some(report);
        }
    }

    /// Every worker has sent its last report.
    pub fn complete(&self) -> bool {
        self.reports.iter().all(|report| report.as_ref().is_some_and(|report| report.last))
    }

    /// Makes the present state visible.
    pub fn publish(&mut self, ready: bool) {
        let reports = || self.reports.iter().flatten();
        let now_ns = reports().map(|report| report.now_ns).max().unwrap_or(self.start_ns);
        let idle = idle(self.listeners(), now_ns, self.idle_after_ns);
        let mut snapshot = Snapshot::merge(now_ns, reports().map(|report| report.shard.clone()), idle);
        let services = self.sources.as_ref().map(Sources::services).unwrap_or_default();
        snapshot.idle.extend(self.watch.idle(&services, &snapshot.edges, now_ns, self.idle_after_ns));
        snapshot.idle.sort_unstable();
        snapshot.unserved = self.watch.unserved(&services, &snapshot.edges, now_ns);
        self.snapshot = Arc::new(snapshot);
        let self_metrics = self.self_metrics();
        self.published.store(Arc::new(Published {
            snapshot: Arc::clone(&self.snapshot),
            self_metrics,
            surroundings: self.surroundings(),
            ready,
            host: self.host.clone(),
            hooks: self.hooks.to_owned(),
            uptime_ns: clock::now_ns().saturating_sub(self.start_ns),
        }));
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    /// All losses by reason, zeros included.
    pub fn lost(&self) -> BTreeMap<&'static str, u64> {
        self.losses.all(&self.tally)
    }

    /// The workers know the same services; each knows when it last saw one used.
    fn listeners(&self) -> Vec<Listener> {
        let mut services: BTreeMap<Party, Listener> = BTreeMap::new();
        for listener in self.reports.iter().flatten().flat_map(|report| &report.listeners) {
            let known = services.entry(listener.server.clone()).or_insert_with(|| listener.clone());
            known.since_ns = known.since_ns.min(listener.since_ns);
            known.last_exchange_ns = known.last_exchange_ns.max(listener.last_exchange_ns);
        }
        services.into_values().collect()
    }

    fn surroundings(&self) -> Surroundings {
        let mut conntrack = ConntrackCounts::default();
        for report in self.reports.iter().flatten() {
            conntrack.asked += report.conntrack.asked;
            conntrack.found += report.conntrack.found;
            conntrack.failed += report.conntrack.failed;
        }
        let sources = self.sources.as_ref();
        Surroundings {
            kubernetes: sources.and_then(Sources::cluster),
            conntrack: sources.and_then(|sources| sources.conntrack(conntrack)),
            engine: sources.and_then(Sources::engine),
            programs: self
                .kernel
                .iter()
                .flat_map(|kernel| kernel.programs.health())
                .map(|program| surroundings::program(&program))
                .collect(),
        }
    }

    fn self_metrics(&mut self) -> SelfMetrics {
        let (mut maps, mut programs) = (Vec::new(), Vec::new());
        let mut missed = 0;
        if let Some(kernel) = &self.kernel {
            match kernel.programs.tally() {
                Ok(tally) => self.tally = tally,
                Err(error) => tracing::debug!("{error:#}"),
            }
            maps.push(MapFill {
                name: Name::Borrowed("conns"),
                entries: kernel.connections.load(Ordering::Relaxed),
                capacity: kernel.capacity.into(),
            });
            programs = kernel
                .programs
                .run_times()
                .into_iter()
                .map(|program| {
                    missed += program.missed;
                    ProgramCost { name: Name::Owned(program.name), run_time_ns: program.nanoseconds, run_count: program.runs }
                })
                .collect();
            self.tally.program_missed = missed;
        }
        // Every worker sees what concerns all of them: such events are counted once.
        let shared = [4, 6, 7, 8, 10, 11, 14];
        let events = EVENT_NAMES
            .into_iter()
            .enumerate()
            .map(|(kind, name)| {
                let counts = self.reports.iter().flatten().map(|report| report.events[kind]);
                (Name::Borrowed(name), if shared.contains(&kind) { counts.max().unwrap_or(0) } else { counts.sum() })
            })
            .collect();
        let usage = SelfUsage::read().unwrap_or_default();
        SelfMetrics {
            events,
            lost: self.lost().into_iter().map(|(reason, count)| (Name::Borrowed(reason), count)).collect(),
            queue_depths: self
                .reports
                .iter()
                .flatten()
                .map(|report| (Name::Owned(format!("worker-{}", report.worker)), report.queue_depth as u64))
                .collect(),
            maps,
            programs,
            resident_bytes: usage.resident_bytes,
            cpu_seconds: (usage.cpu_user + usage.cpu_system).as_secs_f64(),
        }
    }
}
