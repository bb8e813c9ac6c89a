//! The pipeline without kernel and file: events from memory go through the same router, channels and workers, or through one of them alone.
//! For measuring what each part costs.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::{
    losses::Losses,
    outlet::Patience,
    pipeline::{self, Plan, Source},
    replaying,
    router::{Batch, Message, Router},
    tape::Taped,
    worker::{Report, Worker},
};
use crate::{
    config::{Config, Output},
    event,
    model::Side,
    probes::table::Tally,
};

/// Event records, one behind the other, that are to be played several times.
#[derive(Clone)]
pub struct Memory {
    /// See [`crate::event::Event::encode`]. Ends the connections that it opens, so that it can be played again.
    pub records: Arc<[u8]>,
    pub rounds: u32,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Of both sides.
    pub exchanges: u64,
    /// By reason, zeros included.
    pub lost: BTreeMap<&'static str, u64>,
}

/// Plays the records through all threads, as a replay does. Lines, if the configuration wants them, go to standard output.
///
/// # Errors
/// When a thread cannot be started, or ends before its time.
pub fn pipeline(config: &Config, memory: Memory) -> Result<Outcome> {
    let losses = Arc::new(Losses::default());
    let workers = (0..config.workers).map(|place| (replaying(config, place, false, 0, &losses), None)).collect();
    let (control, _events) = pipeline::control();
    let lines = config.output == Output::Json;
    let plan = Plan { source: Source::Memory(memory), workers, lines, losses: Arc::clone(&losses), tape: None };
    let running = pipeline::start(plan, &control)?;
    let mut outcome = Outcome::default();
    for _ in 0..config.workers {
        let report = running.reports.iter().find(|report| report.last).context("a worker ended without a report")?;
        outcome.exchanges += exchanges(&report);
    }
    running.join(|| Taped::End { elapsed_ns: 0, lost: BTreeMap::new() })?;
    outcome.lost = losses.all(&Tally::default());
    Ok(outcome)
}

/// Hands everything to the router and ends it.
pub(super) fn feed(memory: &Memory, mut router: Router) {
    for _ in 0..memory.rounds {
        each(&memory.records).for_each(|record| router.record(record));
    }
    router.end();
}

fn each(mut records: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (record, behind) = records.split_at_checked(event::record_len(records)?)?;
        records = behind;
        Some(record)
    })
}

fn exchanges(report: &Report) -> u64 {
    let sides = report.shard.edges.iter().flat_map(|(_, sides)| Side::ALL.iter().filter_map(|side| sides[side.index()].as_ref()));
    sides.map(|counts| counts.requests()).sum()
}

/// A router whose batches nobody works on.
pub struct RouterAlone {
    router: Router,
    messages: Vec<Receiver<Message>>,
    spent: Sender<Batch>,
}

impl RouterAlone {
    pub fn new(workers: usize) -> Self {
        let (senders, messages) = (0..workers).map(|_| bounded(64)).unzip();
        let (spent, empty) = bounded(64);
        let router = Router::new(senders, empty, None, Patience::Wait, false, Arc::default());
        Self { router, messages, spent }
    }

    /// Routes the records once. Batches are taken as they come, so no queue is ever full.
    pub fn play(&mut self, records: &[u8]) {
        for record in each(records) {
            self.router.record(record);
            if self.messages.iter().any(|messages| !messages.is_empty()) {
                self.take();
            }
        }
        self.router.flush();
        self.take();
    }

    fn take(&mut self) {
        for message in self.messages.iter().flat_map(Receiver::try_iter) {
            if let Message::Events(batch) = message {
                let _ = self.spent.try_send(batch);
            }
        }
    }
}

/// A worker in the thread of its caller.
pub struct WorkerAlone {
    worker: Worker,
    batches: Vec<Message>,
    losses: Arc<Losses>,
}

impl WorkerAlone {
    /// `records` are routed here, so that [`Self::play`] does not have to.
    pub fn new(config: &Config, records: &[u8]) -> Self {
        let losses = Arc::new(Losses::default());
        let (sender, messages) = bounded(records.len() / super::router::BATCH_BYTES * 2 + 2);
        let mut router = Router::new(vec![sender], bounded(1).1, None, Patience::Wait, false, Arc::clone(&losses));
        each(records).for_each(|record| router.record(record));
        router.flush();
        drop(router);
        Self { worker: replaying(config, 0, false, 0, &losses), batches: messages.iter().collect(), losses }
    }

    /// Handles the records once; lines are made and thrown away.
    pub fn play(&mut self) {
        for batch in &self.batches {
            self.worker.handle(batch, &mut |_, _| {}, &mut drop);
            self.worker.lines().clear();
        }
    }

    /// All that was played so far.
    pub fn outcome(&mut self) -> Outcome {
        Outcome { exchanges: exchanges(&self.worker.report(true)), lost: self.losses.all(&Tally::default()) }
    }
}
