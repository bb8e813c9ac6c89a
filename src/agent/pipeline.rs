//! Makes every thread and every channel of the agent:
//!
//! ```text
//!                       ┌─ messages ─► worker-0 ─┐ reports ─► the caller (publishes, ends)
//! source ── Router ─────┤              …         ├
//!   │                   └─ messages ─► worker-n ─┘ lines ───► output (puts lines in order, writes)
//!   └─ pieces ─► tape (writes the recording)       spent ◄─── workers give empty batches back
//! ```
//!
//! All channels are bounded. A full one makes its sender wait: for a moment with a live source, then it is a counted loss; for as long as
//! it takes where the source is a file or memory.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    sync::{Arc, atomic::AtomicBool},
    thread::{Builder, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::{
    drain::{self, Live},
    frames::{self, Frames},
    lines::{Lines, Sorter},
    losses::{Losses, Reason},
    outlet::{Outlet, Patience},
    rehearsal::{self, Memory},
    replay::{self, Input, Tail},
    router::{Batch, Message, Router},
    scope::Leave,
    services::{self, Services},
    tape::{self, Taped},
    worker::{Report, Worker},
};
use crate::{
    export::{Published, terminal},
    probes::table::{CgroupFilter, Wishes},
    record::Writer,
};

/// Batches that may wait for a worker. A batch is at most some 256 KiB.
const MESSAGES: usize = 64;
/// Rounds of lines that may wait for the output.
const ROUNDS: usize = 64;
/// Pieces that may wait for the recording's disk.
const PIECES: usize = 256;
/// Lines are flushed at least this often.
const FLUSH: Duration = Duration::from_millis(50);

/// Something that the caller of [`start`] must react to.
pub enum Control {
    /// SIGINT or SIGTERM.
    Signal,
    /// The user left the table.
    Left,
    /// The source ended by itself, or failed.
    SourceEnded(Result<Tail>),
    /// Nobody reads standard output any more.
    OutputClosed(anyhow::Error),
    RecordingFailed(anyhow::Error),
    TableFailed(anyhow::Error),
    ServicesFailed(anyhow::Error),
}

/// Where events come from.
pub enum Source {
    Live(Box<Live>),
    Frames(Box<Frames>),
    File(Input),
    Memory(Memory),
}

/// What is to be started.
pub struct Plan {
    pub source: Source,
    /// With the way to tell the kernel what a worker wants to see.
    pub workers: Vec<(Worker, Option<Wants>)>,
    /// JSON lines go to standard output.
    pub lines: bool,
    pub losses: Arc<Losses>,
    pub tape: Option<Tape>,
}

/// How a worker tells the kernel what it wants to see.
pub struct Wants {
    pub wishes: Wishes,
    pub cgroups: CgroupFilter,
}

/// A recording under way: its writer and both ends of the way there.
pub struct Tape {
    pub writer: Writer<BufWriter<File>>,
    pub sender: Sender<Taped>,
    pub receiver: Receiver<Taped>,
}

impl Tape {
    pub fn new(writer: Writer<BufWriter<File>>) -> Self {
        let (sender, receiver) = bounded(PIECES);
        Self { writer, sender, receiver }
    }
}

/// The running threads.
pub struct Pipeline {
    pub reports: Receiver<Report>,
    source: JoinHandle<()>,
    workers: Vec<JoinHandle<()>>,
    output: Option<JoinHandle<()>>,
    tape: Option<(Sender<Taped>, JoinHandle<()>)>,
}

/// The channel on which everything reports to the caller.
pub fn control() -> (Sender<Control>, Receiver<Control>) {
    bounded(16)
}

/// Starts source, workers, output and recording.
pub fn start(plan: Plan, control: &Sender<Control>) -> Result<Pipeline> {
    let count = plan.workers.len();
    let patience = if matches!(plan.source, Source::Live(_) | Source::Frames(_)) { Patience::Brief } else { Patience::Wait };
    let (spent, empty) = bounded::<Batch>(MESSAGES * 2);
    let (report, reports) = bounded(count * 4);
    let (round, rounds) = bounded::<Lines>(ROUNDS);
    let (used, unused) = bounded::<Lines>(ROUNDS);

    let tape = match plan.tape {
        None => None,
        Some(Tape { writer, sender, receiver }) => {
            let control = control.clone();
            let write = move || {
                if let Err(error) = tape::write(writer, &receiver) {
                    let _ = control.send(Control::RecordingFailed(error));
                }
            };
            Some((sender, spawn("tape", write)?))
        }
    };
    let mut messages = Vec::new();
    let mut workers = Vec::new();
    for (place, (worker, wants)) in plan.workers.into_iter().enumerate() {
        let (sender, receiver) = bounded(MESSAGES);
        messages.push(sender);
        let outlets = Outlets {
            wants,
            report: report.clone(),
            spent: spent.clone(),
            rounds: plan.lines.then(|| (Outlet::new(round.clone(), patience), unused.clone())),
            losses: Arc::clone(&plan.losses),
        };
        workers.push(spawn(&format!("worker-{place}"), move || outlets.work(worker, &receiver))?);
    }
    drop(round);
    let output = if plan.lines {
        let control = control.clone();
        Some(spawn("output", move || {
            if let Err(error) = write_lines(count, &rounds, &used) {
                let _ = control.send(Control::OutputClosed(error));
                // Workers that wait for room must not wait for ever.
                rounds.iter().for_each(drop);
            }
        })?)
    } else {
        None
    };
    let recording = tape.as_ref().map(|(sender, _)| sender.clone());
    let router = Router::new(messages, empty, recording, patience, plan.lines && count > 1, Arc::clone(&plan.losses));
    let control = control.clone();
    let losses = plan.losses;
    let source = match plan.source {
        Source::Live(live) => spawn("drain-0", move || {
            let _ = control.send(Control::SourceEnded(drain::run(*live, router).map(|()| Tail::default())));
        })?,
        Source::Frames(live) => spawn("drain-0", move || {
            let _ = control.send(Control::SourceEnded(frames::run(*live, router, &losses).map(|()| Tail::default())));
        })?,
        Source::File(input) => spawn("replay", move || {
            let _ = control.send(Control::SourceEnded(replay::run(input, router, &losses)));
        })?,
        Source::Memory(memory) => spawn("replay", move || {
            rehearsal::feed(&memory, router);
            let _ = control.send(Control::SourceEnded(Ok(Tail::default())));
        })?,
    };
    Ok(Pipeline { reports, source, workers, output, tape })
}

impl Pipeline {
    /// Ends the recording, if there is one, and waits for all threads: call it when every worker has sent its last report.
    ///
    /// # Errors
    /// A thread panicked: what is shown is not all there was.
    pub fn join(self, end: impl FnOnce() -> Taped) -> Result<()> {
        // A worker whose last report nobody waited for must not wait for room.
        drop(self.reports);
        let mut threads = vec![self.source];
        threads.extend(self.workers);
        threads.extend(self.output);
        if let Some((sender, thread)) = self.tape {
            // A recording that failed has told so already.
            let _ = sender.send(end());
            drop(sender);
            threads.push(thread);
        }
        let mut panicked = Ok(());
        for thread in threads {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                panicked = Err(anyhow!("thread {name} panicked: this is a fault of Remora"));
            }
        }
        panicked
    }
}

/// Starts the thread of the HTTP server, the container names and the signals; signals are caught when this returns.
pub fn serve(services: Services, control: Sender<Control>) -> Result<JoinHandle<()>> {
    let (catching, caught) = bounded(1);
    let thread = spawn("services", move || {
        if let Err(error) = services::run(services, &control, &catching) {
            let _ = control.send(Control::ServicesFailed(error));
        }
    })?;
    // An error means that the thread has failed, which it reports by itself.
    let _ = caught.recv();
    Ok(thread)
}

/// Starts the thread that shows the table, live on a terminal and as plain lines elsewhere.
pub fn show(published: Arc<ArcSwap<Published>>, live: bool, stop: Arc<AtomicBool>, control: Sender<Control>) -> Result<JoinHandle<()>> {
    const PLAIN_EVERY: Duration = Duration::from_secs(5);
    spawn("table", move || {
        let quit = || stop.load(std::sync::atomic::Ordering::Acquire);
        let source = || published.load_full();
        let result = if live {
            terminal::run(source, quit).map(|exit| {
                if exit == terminal::Exit::User {
                    let _ = control.send(Control::Left);
                }
            })
        } else {
            terminal::run_plain(source, quit, &mut io::stdout().lock(), PLAIN_EVERY)
        };
        if let Err(error) = result {
            let _ = control.send(Control::TableFailed(error));
        }
    })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(body).with_context(|| format!("starting thread {name}"))
}

/// The ways out of a worker.
struct Outlets {
    wants: Option<Wants>,
    report: Sender<Report>,
    spent: Sender<Batch>,
    rounds: Option<(Outlet<Lines>, Receiver<Lines>)>,
    losses: Arc<Losses>,
}

impl Outlets {
    fn work(self, mut worker: Worker, messages: &Receiver<Message>) {
        let mut wish = |id, wish| {
            if let Some(Err(error)) = self.wants.as_ref().map(|wants| wants.wishes.set(id, wish)) {
                tracing::debug!("{error:#}");
            }
        };
        // A report that finds no room is followed by a newer one.
        let mut report = |report| drop(self.report.try_send(Report { queue_depth: messages.len(), ..report }));
        for message in messages {
            if !worker.handle(&message, &mut wish, &mut report) {
                self.pass_lines(worker.lines());
                break;
            }
            if let Message::Events(batch) = message {
                let _ = self.spent.try_send(batch);
            }
            for change in worker.left_out() {
                self.leave(change);
            }
            self.pass_lines(worker.lines());
        }
        let _ = self.report.send(worker.report(true));
    }

    /// A group that the kernel has no room for is left out here, at more cost.
    fn leave(&self, change: Leave) {
        let Some(Wants { cgroups, .. }) = &self.wants else { return };
        let told = match change {
            Leave::Out(id) => cgroups.ignore(id),
            Leave::Forget(id) => cgroups.allow(id),
        };
        if let Err(error) = told {
            tracing::debug!("{error:#}");
        }
    }

    fn pass_lines(&self, lines: &mut Lines) {
        let Some((rounds, unused)) = &self.rounds else { return };
        let mut round = unused.try_recv().unwrap_or_default();
        round.clear();
        (round.worker, round.upto) = (lines.worker, lines.upto);
        std::mem::swap(&mut round, lines);
        lines.worker = round.worker;
        // Who waits for ever is refused only when nobody reads any more.
        if let Err(refused) = rounds.send(round)
            && rounds.patience == Patience::Brief
        {
            self.losses.add(Reason::OutputFull, refused.index.len() as u64);
        }
    }
}

fn write_lines(workers: usize, rounds: &Receiver<Lines>, used: &Sender<Lines>) -> Result<()> {
    let mut out = BufWriter::with_capacity(256 * 1024, io::stdout().lock());
    let mut sorter = Sorter::new(workers);
    let flush = |out: &mut BufWriter<io::StdoutLock<'_>>| out.flush().context("writing to standard output");
    loop {
        match rounds.recv_timeout(FLUSH) {
            Ok(lines) => {
                if let Some(lines) = sorter.push(lines, &mut out)? {
                    let _ = used.try_send(lines);
                }
                if rounds.is_empty() {
                    flush(&mut out)?;
                }
            }
            Err(RecvTimeoutError::Timeout) => flush(&mut out)?,
            Err(RecvTimeoutError::Disconnected) => {
                sorter.finish(&mut out)?;
                return flush(&mut out);
            }
        }
    }
}
