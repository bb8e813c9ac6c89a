//! A constant rate well below what the machine can do, an idle host, many connections, and the start: what users feel.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    Mode,
    load::Constant,
    nginx::Nginx,
    support::{
        agent::{Agent, Report, Start},
        kernel,
        statistics::{Spread, quantile},
    },
};

const FAST: u32 = 10_000;
const SLOW: u32 = 1_000;

/// Latency of clients at 10,000 requests a second, with and without, in alternation.
pub fn latency(agent: &Path, modes: &[Mode], nginx: &Nginx, rounds: usize, duration: Duration) -> Result<()> {
    let load = Constant { address: nginx.address, requests_per_s: FAST, threads: 16, connections_per_thread: 1, duration };
    // Index 0 is without an agent.
    let mut figures: Vec<Vec<Figures>> = (0..=modes.len()).map(|_| Vec::new()).collect();
    for round in 0..rounds {
        eprint!("\rlatency: round {} of {rounds}", round + 1);
        for turn in 0..=modes.len() {
            let index = (turn + round) % (modes.len() + 1);
            let agent = index.checked_sub(1).map(|mode| modes[mode].start(agent)).transpose()?;
            let before = agent.as_ref().map(Agent::processor_time).transpose()?.unwrap_or_default();
            let latencies = load.run(|| ())?;
            let used = agent.as_ref().map(Agent::processor_time).transpose()?.unwrap_or_default().saturating_sub(before);
            let lost = agent.map(Agent::stop).transpose()?.map_or(0, |summary| summary.lost_in_all());
            figures[index].push(Figures::of(&latencies, used, duration, lost));
        }
    }
    eprintln!();
    println!("## {FAST} requests/s, constant, 16 connections, {rounds} rounds of {} s\n", duration.as_secs());
    println!("Latency in µs from the time a request was due. Median (least … greatest).\n");
    println!("| hooks | sides | p50 | p99 | p99.9 | agent CPU, % of one processor | lost in all |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    let names = [("no agent", "")].into_iter().chain(modes.iter().map(|mode| (mode.hooks.as_str(), mode.sides.as_str())));
    for ((hooks, sides), figures) in names.zip(&figures) {
        let spread = |figure: fn(&Figures) -> f64| Spread::of(figures.iter().map(figure));
        let lost: u64 = figures.iter().map(|figures| figures.lost).sum();
        println!(
            "| {hooks} | {sides} | {:.0} | {:.0} | {:.0} | {:.1} | {lost} |",
            spread(|f| f.p50_us),
            spread(|f| f.p99_us),
            spread(|f| f.p999_us),
            spread(|f| f.processor_percent)
        );
    }
    println!();
    Ok(())
}

struct Figures {
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    processor_percent: f64,
    lost: u64,
}

impl Figures {
    fn of(sorted_ns: &[u64], used: Duration, duration: Duration, lost: u64) -> Self {
        let us = |share| quantile(sorted_ns, share) as f64 / 1e3;
        Self { p50_us: us(0.5), p99_us: us(0.99), p999_us: us(0.999), processor_percent: percent(used, duration), lost }
    }
}

/// Processor and memory of the agent alone: idle, at 1,000 requests a second, with many open connections; and how fast it starts.
pub fn resources(agent: &Path, modes: &[Mode], nginx: &Nginx, connections: u32, duration: Duration) -> Result<()> {
    println!("## The agent by itself\n");
    println!(
        "| hooks | sides | ready after, ms | first exchange after, ms | idle CPU, % | idle RSS, MiB | CPU at {SLOW} req/s, % | RSS, MiB | \
         RSS with {connections} connections, MiB | lost | maps, MiB |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for mode in modes {
        eprint!("\ragent: {} {}   ", mode.hooks, mode.sides);
        let (ready_ms, first_ms) = first_exchange(agent, mode, nginx).context("timing the first exchange")?;
        let agent = mode.start(agent)?;
        // Once started up; then an idle host, but for this program's own sleep.
        thread::sleep(Duration::from_millis(500));
        let idle = share_of_processor(&agent, || {
            thread::sleep(duration);
            Ok(())
        })?;
        let idle_rss = mib(agent.resident_bytes()?);
        let few = Constant { address: nginx.address, requests_per_s: SLOW, threads: 4, connections_per_thread: 4, duration };
        let slow = share_of_processor(&agent, || few.run(|| ()).map(drop))?;
        let slow_rss = mib(agent.resident_bytes()?);
        let threads = 16;
        let many = Constant { requests_per_s: FAST / 2, threads, connections_per_thread: connections / threads, ..few };
        let mut peak = None;
        many.run(|| {
            // Sampled while the connections are open; they close with the end of the load.
            thread::sleep(duration * 3 / 4);
            peak = Some(agent.resident_bytes());
        })?;
        let many_rss = mib(peak.context("no sample under load")??);
        let maps = mib(kernel::map_bytes_of(agent.pid())?);
        let lost = agent.stop()?.lost_in_all();
        let Mode { hooks, sides } = mode;
        println!(
            "| {hooks} | {sides} | {ready_ms:.0} | {first_ms:.0} | {idle:.2} | {idle_rss:.1} | {slow:.2} | \
             {slow_rss:.1} | {many_rss:.1} | {lost} | {maps:.1} |"
        );
    }
    eprintln!();
    Ok(())
}

/// Milliseconds from the start of the process to its `ready` line and to the first exchange of a load that was there before.
fn first_exchange(agent: &Path, mode: &Mode, nginx: &Nginx) -> Result<(Spread, Spread)> {
    let mut ready_ms = Vec::new();
    let mut first_ms = Vec::new();
    for _ in 0..3 {
        let load = Constant {
            address: nginx.address,
            requests_per_s: SLOW,
            threads: 1,
            connections_per_thread: 1,
            duration: Duration::from_millis(1500),
        };
        let flags = ["--output", "json", "--hooks", &mode.hooks, "--sides", &mode.sides];
        thread::scope(|scope| -> Result<()> {
            let load = scope.spawn(move || load.run(|| ()));
            let agent = Agent::spawn(&Start { program: agent, flags: &flags, processor: None })?;
            let since_start = |at: Instant| at.duration_since(agent.started).as_secs_f64() * 1e3;
            let Report::Ready(ready) = agent.report()? else { bail!("the first line is not `ready`") };
            ready_ms.push(since_start(ready));
            let Report::FirstExchange(first) = agent.report()? else { bail!("no exchange after `ready`") };
            first_ms.push(since_start(first));
            agent.stop()?;
            load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
            Ok(())
        })?;
    }
    Ok((Spread::of(ready_ms), Spread::of(first_ms)))
}

/// Percent of one processor that the agent used during `what`.
fn share_of_processor(agent: &Agent, what: impl FnOnce() -> Result<()>) -> Result<f64> {
    let (begin, before) = (Instant::now(), agent.processor_time()?);
    what()?;
    Ok(percent(agent.processor_time()?.saturating_sub(before), begin.elapsed()))
}

fn percent(part: Duration, whole: Duration) -> f64 {
    100.0 * part.as_secs_f64() / whole.as_secs_f64()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
