//! How many exchanges a second go through the agent's threads, and what each part of the way costs, with events from memory.
//!
//! `cargo bench --bench pipeline -- [--quick] [--rounds N] [--part WORDS]`
//! Needs no privileges. Prints Markdown; progress goes to stderr. Fails when an exchange is missing.

#[path = "../support/mod.rs"]
mod support;

mod allocations;
mod calls;
mod recording;
#[path = "../../tests/support/transcript.rs"]
#[allow(dead_code, reason = "one recording of them is played here")]
mod transcript;

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use calls::Calls;
use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike,
    },
    unistd::{dup, dup2_stdout},
};
use recording::Recording;
use remora::{
    agent::rehearsal::{self, Memory, Outcome, RouterAlone, WorkerAlone},
    config::{Config, Output},
};
use support::{Arguments, Machine, statistics::Spread};

/// Exchanges that one run of all threads takes, and one of a part alone.
const WHOLE: u64 = 2_000_000;
const PART: u64 = 400_000;
/// Requests of a recording; each is seen from both sides. Larger than the processor's caches, as a recording is.
const REQUESTS: usize = 50_000;

fn main() -> Result<()> {
    let Some(mut arguments) = Arguments::parse(std::env::args())? else {
        println!("pipeline: run it by `cargo bench --bench pipeline`");
        return Ok(());
    };
    let rounds = arguments.take("--rounds").map(|text| text.parse().context("--rounds")).transpose()?;
    let wanted = arguments.take("--part").unwrap_or_default();
    arguments.nothing_left()?;
    let rounds: usize = rounds.unwrap_or(if arguments.quick { 1 } else { 9 });
    println!("## Pipeline\n\n{Machine}; medians of {rounds} rounds (least … greatest)\n");
    println!("| recording | part | thousand exchanges/s | ns an exchange | processor ns an exchange | allocations an exchange |");
    println!("|---|---|---|---|---|---|");
    for recording in [Recording::http(REQUESTS), Recording::postgresql(REQUESTS)?] {
        measure(&recording, rounds, &wanted)?;
    }
    println!("\nEvery exchange arrived and nothing was lost in any run.");
    Ok(())
}

/// One way of playing a recording.
struct Part<'a> {
    name: &'static str,
    exchanges: u64,
    play: Box<dyn FnMut() -> Result<()> + 'a>,
    runs: Vec<Run>,
}

struct Run {
    elapsed: Duration,
    processor: Duration,
    allocations: u64,
}

/// `wanted`: only parts whose name has these words.
fn measure(recording: &Recording, rounds: usize, wanted: &str) -> Result<()> {
    let records: Arc<[u8]> = recording.records.as_slice().into();
    let calls = Calls::of(&recording.records)?;
    let mut router = RouterAlone::new(1);
    let mut worker = WorkerAlone::new(&config(1, Output::None), &recording.records);
    let mut writer = WorkerAlone::new(&config(1, Output::Json), &recording.records);
    let plays = |exchanges: u64| exchanges.div_ceil(recording.exchanges) as u32;
    let (some, many) = (plays(PART), plays(WHOLE));
    let whole = |workers, output| {
        let records = Arc::clone(&records);
        move || all_there(&whole(workers, output, Memory { records: Arc::clone(&records), rounds: many })?, recording, many)
    };
    let mut parts = vec![
        part("stream and parser", some, recording, || {
            ensure!(calls.play(some, false) == recording.exchanges * u64::from(some), "the parser found another number of exchanges");
            Ok(())
        }),
        part("router", some, recording, || {
            (0..some).for_each(|_| router.play(&recording.records));
            Ok(())
        }),
        part("worker", some, recording, || alone(&mut worker, recording, some)),
        part("worker with JSON lines", some, recording, || alone(&mut writer, recording, some)),
        part("all, 1 worker", many, recording, whole(1, Output::None)),
        part("all, 2 workers", many, recording, whole(2, Output::None)),
        part("all, 1 worker, JSON lines", many, recording, whole(1, Output::Json)),
    ];
    parts.retain(|part| part.name.contains(wanted));
    // The first time is for what is made once.
    for part in &mut parts {
        (part.play)()?;
    }
    for round in 0..rounds {
        eprint!("\r{} {}/{rounds} ", recording.name, round + 1);
        for part in &mut parts {
            let before = (Instant::now(), processor_time()?, allocations::count());
            (part.play)()?;
            let allocations = allocations::count() - before.2;
            part.runs.push(Run { elapsed: before.0.elapsed(), processor: processor_time()? - before.1, allocations });
        }
    }
    eprintln!();
    for part in &parts {
        let of = |figure: fn(&Run) -> f64| Spread::of(part.runs.iter().map(|run| figure(run) / part.exchanges as f64));
        let rate = Spread::of(part.runs.iter().map(|run| part.exchanges as f64 / run.elapsed.as_secs_f64() / 1e3));
        let elapsed = of(|run| run.elapsed.as_nanos() as f64);
        let processor = of(|run| run.processor.as_nanos() as f64);
        let allocations = of(|run| run.allocations as f64).median;
        println!("| {} | {} | {rate:.0} | {elapsed:.0} | {processor:.0} | {allocations:.4} |", recording.name, part.name);
    }
    Ok(())
}

fn part<'a>(name: &'static str, plays: u32, recording: &Recording, play: impl FnMut() -> Result<()> + 'a) -> Part<'a> {
    Part { name, exchanges: recording.exchanges * u64::from(plays), play: Box::new(play), runs: Vec::new() }
}

fn config(workers: usize, output: Output) -> Config {
    Config { workers, output, ..Config::default() }
}

fn alone(worker: &mut WorkerAlone, recording: &Recording, plays: u32) -> Result<()> {
    let before = worker.outcome();
    (0..plays).for_each(|_| worker.play());
    let after = worker.outcome();
    all_there(&Outcome { exchanges: after.exchanges - before.exchanges, lost: after.lost }, recording, plays)
}

/// The whole pipeline; JSON lines go to /dev/null.
fn whole(workers: usize, output: Output, memory: Memory) -> Result<Outcome> {
    let stdout = dup(io::stdout()).context("keeping standard output")?;
    dup2_stdout(OwnedFd::from(File::create("/dev/null").context("opening /dev/null")?)).context("turning standard output away")?;
    let outcome = rehearsal::pipeline(&config(workers, output), memory);
    dup2_stdout(stdout).context("turning standard output back")?;
    outcome
}

fn all_there(outcome: &Outcome, recording: &Recording, plays: u32) -> Result<()> {
    let (due, lost) = (recording.exchanges * u64::from(plays), outcome.lost.values().sum::<u64>());
    ensure!(outcome.exchanges == due && lost == 0, "{}: {due} exchanges were due: {outcome:?}", recording.name);
    Ok(())
}

/// User and system time of all threads.
fn processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("asking for the processor time")?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(microseconds as u64))
}
