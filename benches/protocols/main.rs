//! What each protocol costs, on the recorded conversations of `tests/data`: streams and parsers alone, with and without attributes, and a
//! whole worker.
//!
//! `cargo bench --bench protocols -- [--quick] [--rounds N] [--protocol NAME]`
//! Needs no privileges. Prints Markdown; progress goes to stderr. Fails when an exchange is missing.

#[path = "../pipeline/allocations.rs"]
mod allocations;
#[path = "../pipeline/calls.rs"]
mod calls;
#[path = "../pipeline/recording.rs"]
mod recording;
mod steady;
#[path = "../support/mod.rs"]
mod support;
#[path = "../../tests/support/transcript.rs"]
#[allow(dead_code, reason = "single recordings are not asked for by their paths")]
mod transcript;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calls::Calls;
use recording::{Recording, Talk};
use remora::{
    agent::rehearsal::WorkerAlone,
    config::{Config, Output},
    protocols::DEFINITIONS,
};
use steady::Steady;
use support::{Arguments, Machine, statistics::Spread};
use transcript::Transcript;

/// Exchanges of a recording, those of both sides counted.
const EXCHANGES: usize = 100_000;
/// Exchanges that one run takes.
const RUN: u64 = 400_000;
/// Of `make`; it opens so many.
const CONNECTIONS: usize = 32;

struct Run {
    elapsed: Duration,
    allocations: u64,
}

fn main() -> Result<()> {
    let Some(mut arguments) = Arguments::parse(std::env::args())? else {
        println!("protocols: run it by `cargo bench --bench protocols`");
        return Ok(());
    };
    let rounds = arguments.take("--rounds").map(|text| text.parse().context("--rounds")).transpose()?;
    let wanted = arguments.take("--protocol");
    arguments.nothing_left()?;
    let rounds: usize = rounds.unwrap_or(if arguments.quick { 1 } else { 9 });
    let transcripts = transcript::all()?;
    println!("## Protocols\n\n{Machine}; one processor, medians of {rounds} rounds (least … greatest)\n");
    println!("| protocol | recording | part | thousand exchanges/s | ns an exchange | MB/s | allocations an exchange |");
    println!("|---|---|---|---|---|---|---|");
    let mut lines = 0;
    // What is spoken may be carried by another protocol, so the folders are asked, not the parsers.
    let mut kinds: Vec<&str> = transcripts.iter().map(|transcript| transcript.kind.as_str()).collect();
    kinds.dedup();
    for kind in kinds.into_iter().filter(|kind| wanted.as_deref().is_none_or(|wanted| wanted == *kind)) {
        let own: Vec<&Transcript> = transcripts.iter().filter(|transcript| transcript.kind == kind).collect();
        for steady in Steady::of(&own) {
            measure(kind, &steady, rounds, arguments.quick)?;
            lines += 1;
        }
    }
    ensure!(lines > 0, "no recording gives an exchange; there are {} parsers", DEFINITIONS.len());
    println!(
        "\nEvery exchange arrived in any run. A part that repeats is played over and over on {CONNECTIONS} connections, from both ends;"
    );
    println!("where nothing repeats, whole conversations are, each on a connection of its own.");
    Ok(())
}

fn measure(kind: &str, steady: &Steady<'_>, rounds: usize, quick: bool) -> Result<()> {
    let due = if quick { EXCHANGES / 20 } else { EXCHANGES } / 2 / CONNECTIONS;
    let turns = if steady.exchanges_a_turn > 0 { due.div_ceil(steady.exchanges_a_turn) } else { 0 };
    let turn = |number| steady.turn(number);
    let talk = Talk {
        start: steady.start,
        start_exchanges: steady.start_exchanges,
        turn: &turn,
        exchanges_a_turn: steady.exchanges_a_turn,
        turns,
    };
    let recording = Recording::make(kind.to_owned(), 9, &talk);
    let what = if turns > 0 {
        format!("{}, {} exchanges a turn", steady.name, steady.exchanges_a_turn)
    } else {
        format!("{}, whole", steady.name)
    };
    let calls = Calls::of(&recording.records)?;
    let mut worker = WorkerAlone::new(&Config { workers: 1, output: Output::None, ..Config::default() }, &recording.records);
    let run = if quick { RUN / 20 } else { RUN };
    let plays = run.div_ceil(recording.exchanges) as u32;
    let exchanges = (recording.exchanges * u64::from(plays)) as f64;
    let bytes = calls.bytes() as f64 * f64::from(plays);
    let mut parts: [(&str, &mut dyn FnMut() -> u64); 3] = [
        ("stream and parser", &mut || calls.play(plays, false)),
        ("the same with attributes", &mut || calls.play(plays, true)),
        ("worker", &mut || {
            let before = worker.outcome().exchanges;
            (0..plays).for_each(|_| worker.play());
            worker.outcome().exchanges - before
        }),
    ];
    for (part, play) in &mut parts {
        let mut runs = Vec::new();
        // The first time is for what is made once.
        for round in 0..=rounds {
            eprint!("\r{kind}, {part} {round}/{rounds}      ");
            let before = (Instant::now(), allocations::count());
            let arrived = play();
            let measured = Run { elapsed: before.0.elapsed(), allocations: allocations::count() - before.1 };
            let due = recording.exchanges * u64::from(plays);
            ensure!(arrived == due, "{kind}, {part}: {due} exchanges were due, {arrived} arrived");
            if round > 0 {
                runs.push(measured);
            }
        }
        let rate = Spread::of(runs.iter().map(|run| exchanges / run.elapsed.as_secs_f64() / 1e3));
        let elapsed = Spread::of(runs.iter().map(|run| run.elapsed.as_nanos() as f64 / exchanges));
        let volume = Spread::of(runs.iter().map(|run| bytes / run.elapsed.as_secs_f64() / 1e6)).median;
        let allocated = Spread::of(runs.iter().map(|run| run.allocations as f64 / exchanges)).median;
        println!("| {} | {what} | {part} | {rate:.0} | {elapsed:.0} | {volume:.0} | {allocated:.4} |", recording.name);
    }
    eprintln!();
    Ok(())
}
