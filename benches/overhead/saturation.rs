//! As many requests as the machine can do, with and without the agent: the share of throughput kept, and where the rest went.

use std::path::Path;

use anyhow::{Context, Result};

use super::{
    Mode,
    load::{Saturated, saturate},
    nginx::Nginx,
    support::{
        agent::Summary,
        kernel::{self, ProgramRuns, Statistics},
        statistics::Spread,
    },
};

/// One run of wrk with an agent, and the run without of the same round.
struct Pair {
    without: Saturated,
    with: Saturated,
    agent_ns: f64,
    summary: Summary,
}

/// Each round: once without, once in every mode, in another order each time.
pub fn throughput(agent: &Path, modes: &[Mode], nginx: &Nginx, rounds: usize, duration_s: u64) -> Result<()> {
    saturate(nginx.address, 1).context("warming up")?;
    let mut pairs: Vec<Vec<Pair>> = modes.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        eprint!("\rsaturation: round {} of {rounds}", round + 1);
        let mut without = None;
        let mut with = Vec::new();
        for turn in 0..=modes.len() {
            match (turn + round) % (modes.len() + 1) {
                0 => without = Some(saturate(nginx.address, duration_s)?),
                index => with.push((index - 1, run_with(agent, &modes[index - 1], nginx, duration_s)?)),
            }
        }
        let without = without.context("a round without a run without the agent")?;
        for (index, (with, agent_ns, summary)) in with {
            pairs[index].push(Pair { without, with, agent_ns, summary });
        }
    }
    eprintln!();
    println!("## Saturation: wrk, 64 connections, {rounds} pairs of {duration_s} s, in alternation\n");
    println!("Median (least … greatest).\n");
    println!(
        "| hooks | sides | requests/s without | with | throughput kept | \
         agent CPU a request, µs | exchanges a request | events lost a request |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|");
    for (Mode { hooks, sides }, pairs) in modes.iter().zip(&pairs) {
        let spread = |figure: fn(&Pair) -> f64| Spread::of(pairs.iter().map(figure));
        println!(
            "| {hooks} | {sides} | {:.0} | {:.0} | {:.3} | {:.2} | {:.2} | {:.4} |",
            spread(|pair| pair.without.requests_per_s),
            spread(|pair| pair.with.requests_per_s),
            spread(|pair| pair.with.requests_per_s / pair.without.requests_per_s),
            spread(|pair| pair.agent_ns / pair.with.requests as f64 / 1e3),
            spread(|pair| pair.summary.exchanges as f64 / pair.with.requests as f64),
            spread(|pair| pair.summary.lost_in_all() as f64 / pair.with.requests as f64),
        );
    }
    println!();
    for (Mode { hooks, sides }, pairs) in modes.iter().zip(&pairs) {
        if let Some(last) = pairs.last().filter(|pair| pair.summary.lost_in_all() > 0) {
            println!("Lost with `--hooks {hooks} --sides {sides}`, last run: {:?}", last.summary.lost);
        }
    }
    println!();
    Ok(())
}

fn run_with(agent: &Path, mode: &Mode, nginx: &Nginx, duration_s: u64) -> Result<(Saturated, f64, Summary)> {
    let agent = mode.start(agent).with_context(|| format!("with {mode:?}"))?;
    let before = agent.processor_time()?;
    let saturated = saturate(nginx.address, duration_s)?;
    let used = agent.processor_time()?.saturating_sub(before);
    Ok((saturated, used.as_nanos() as f64, agent.stop()?))
}

/// Time in BPF programs by the kernel's statistics, in runs of their own because counting costs throughput.
pub fn kernel_time(agent: &Path, modes: &[Mode], nginx: &Nginx, duration_s: u64) -> Result<()> {
    let _statistics = Statistics::enable()?;
    let floor_ns = empty_program_ns(nginx, duration_s)?;
    println!("## BPF time by the kernel's statistics, under the same load\n");
    println!("| hooks | sides | program | runs a request | ns a run | ns a run, net | ns a request, net |");
    println!("|---|---|---|---:|---:|---:|---:|");
    for mode in modes {
        eprint!("\rkernel statistics: {} {}   ", mode.hooks, mode.sides);
        let agent = mode.start(agent)?;
        let before = kernel::programs_of(agent.pid())?;
        let saturated = saturate(nginx.address, duration_s)?;
        let runs = kernel::runs_between(&before, &kernel::programs_of(agent.pid())?);
        let names = kernel::program_names();
        agent.stop()?;
        print_programs(mode, saturated.requests as f64, floor_ns, runs.iter().map(|(id, runs)| (names.get(id), *runs)));
    }
    eprintln!();
    println!("\nNet: less {floor_ns:.0} ns a run, which is what the statistics show of an empty program under the same load.\n");
    Ok(())
}

fn print_programs<'a>(mode: &Mode, requests: f64, floor_ns: f64, programs: impl Iterator<Item = (Option<&'a String>, ProgramRuns)>) {
    let Mode { hooks, sides } = mode;
    let mut total_ns = 0.0;
    for (name, runs) in programs {
        let a_request = runs.count as f64 / requests;
        let net_ns = runs.mean_ns() - floor_ns;
        total_ns += net_ns * a_request;
        // Others run at opens and closes only.
        if a_request > 0.01 {
            let name = name.map_or("?", String::as_str);
            println!("| {hooks} | {sides} | {name} | {a_request:.2} | {:.0} | {net_ns:.0} | {:.0} |", runs.mean_ns(), net_ns * a_request);
        }
    }
    println!("| {hooks} | {sides} | all | | | | {total_ns:.0} |");
}

fn empty_program_ns(nginx: &Nginx, duration_s: u64) -> Result<f64> {
    let object = kernel::compile("hook_cost/programs.bpf.c")?;
    // On kernels without the sockets' tracepoints another empty program has to do.
    let attached = kernel::attach(&object, &["socket_send_empty"]).or_else(|_| kernel::attach(&object, &["raw_exit_empty"]))?;
    saturate(nginx.address, duration_s)?;
    let runs = kernel::programs_of(std::process::id())?;
    drop(attached);
    let all = runs
        .values()
        .fold(ProgramRuns::default(), |all, one| ProgramRuns { count: all.count + one.count, time_ns: all.time_ns + one.time_ns });
    Ok(all.mean_ns())
}
