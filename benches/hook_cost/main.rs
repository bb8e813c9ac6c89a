//! What each family of hooks adds to a system call, by the clock and by the kernel's own statistics.
//!
//! `cargo bench --bench hook_cost -- [--quick] [--rounds N] [--agent PATH] [--agent-hooks socket,syscalls]`
//! Root, Linux with BTF. Prints a Markdown table for `docs/kernels.md`; progress goes to stderr.

#[path = "../support/mod.rs"]
mod support;

mod calls;

use std::{path::Path, thread};

use anyhow::{Context, Result};
use calls::{Calls, PerCall};
use libbpf_rs::{MapCore, RingBuffer, RingBufferBuilder};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use support::{
    Arguments, Machine,
    agent::{Agent, Start},
    kernel::{self, Attached, Statistics},
    statistics::Spread,
};

/// What is attached while calls are timed.
#[derive(Debug)]
struct Variant {
    hook: String,
    does: &'static str,
    how: How,
    /// Why it does not work on this kernel.
    refused: Option<String>,
    rounds: Vec<PerCall>,
    /// BPF time for one TCP call, by the kernel's statistics.
    accounted: Option<Accounted>,
}

#[derive(Debug)]
enum How {
    Nothing,
    Programs(&'static [&'static str]),
    Agent { hooks: String },
}

/// The kernel's statistics over calls on sockets alone.
#[derive(Clone, Copy, Debug)]
struct Accounted {
    runs_per_call: f64,
    ns_per_call: f64,
}

/// (hook, what it does, programs of `programs.bpf.c`)
const PROGRAMS: &[(&str, &str, &[&str])] = &[
    (
        "tracepoint sys_enter_*, sys_exit_*",
        "empty",
        &["perf_enter_write_empty", "perf_exit_write_empty", "perf_enter_read_empty", "perf_exit_read_empty"],
    ),
    (
        "tracepoint sys_enter_*, sys_exit_*",
        "socket",
        &["perf_enter_write_socket", "perf_exit_write_socket", "perf_enter_read_socket", "perf_exit_read_socket"],
    ),
    ("raw_tp sys_enter + sys_exit", "empty", &["raw_enter_empty", "raw_exit_empty"]),
    ("raw_tp sys_enter + sys_exit", "filter", &["raw_enter_filter", "raw_exit_filter"]),
    ("raw_tp sys_enter + sys_exit", "socket", &["raw_enter_socket", "raw_exit_socket"]),
    ("tp_btf sys_enter + sys_exit", "empty", &["typed_enter_empty", "typed_exit_empty"]),
    ("tp_btf sys_enter + sys_exit", "filter", &["typed_enter_filter", "typed_exit_filter"]),
    ("tp_btf sys_enter + sys_exit", "socket", &["typed_enter_socket", "typed_exit_socket"]),
    ("raw_tp sys_exit", "empty", &["raw_exit_empty"]),
    ("raw_tp sys_exit", "filter", &["raw_exit_filter"]),
    ("raw_tp sys_exit", "socket", &["raw_only_exit_socket"]),
    ("tp_btf sys_exit", "empty", &["typed_exit_empty"]),
    ("tp_btf sys_exit", "filter", &["typed_exit_filter"]),
    ("tp_btf sys_exit", "socket", &["typed_only_exit_socket"]),
    ("tp_btf sys_exit", "socket, typed walk", &["typed_only_exit_walk"]),
    ("tp_btf sys_exit", "capture", &["typed_only_exit_capture"]),
    ("tp_btf sock_send_length, sock_recv_length", "empty", &["socket_send_empty", "socket_recv_empty"]),
    ("tp_btf sock_send_length, sock_recv_length", "socket", &["socket_send_socket", "socket_recv_socket"]),
    ("tp_btf sock_send_length, sock_recv_length", "capture", &["socket_send_capture", "socket_recv_capture"]),
];

fn main() -> Result<()> {
    let Some(mut arguments) = Arguments::parse(std::env::args())? else {
        println!("hook_cost: needs root and a quiet machine; run it by `cargo bench --bench hook_cost`");
        return Ok(());
    };
    let rounds: usize = arguments.take("--rounds").map_or(Ok(if arguments.quick { 3 } else { 15 }), |text| text.parse())?;
    let agent_hooks = arguments.take("--agent-hooks").unwrap_or_default();
    arguments.nothing_left()?;
    kernel::mount_tracefs()?;

    let (ours, theirs) = processors()?;
    let mut here = CpuSet::new();
    here.set(ours)?;
    sched_setaffinity(Pid::from_raw(0), &here).context("staying on one processor")?;

    // A second thread, as servers have: with a descriptor table of its own alone, the kernel looks descriptors up 50 ns faster, and the
    // thread that reads an agent's output would make the agent look dearer by that.
    let (keep_alive, until_end) = crossbeam_channel::bounded::<()>(0);
    let second = thread::Builder::new().name("second".to_owned()).spawn(move || until_end.recv().is_err())?;

    let object = kernel::compile("hook_cost/programs.bpf.c")?;
    let calls = Calls::open(2_000, if arguments.quick { 5 } else { 15 })?;
    let bench = Bench { object: &object, agent: &arguments.agent, agent_processor: theirs, calls: &calls };
    let mut variants = variants(&agent_hooks);
    for round in 0..rounds {
        eprint!("\rround {} of {rounds}", round + 1);
        let len = variants.len();
        // Another order in each round, so that a drift of the machine falls on everyone.
        for turn in 0..len {
            let variant = &mut variants[(turn + round) % len];
            if variant.refused.is_none() {
                match bench.time(&variant.how) {
                    Ok(figures) => variant.rounds.push(figures),
                    Err(error) => variant.refused = Some(format!("{error:#}")),
                }
            }
        }
    }
    eprintln!("\rkernel statistics");
    {
        let _statistics = Statistics::enable()?;
        for variant in variants.iter_mut().filter(|variant| variant.refused.is_none()) {
            variant.accounted = bench.account(&variant.how).with_context(|| format!("accounting {} {}", variant.hook, variant.does))?;
        }
    }
    print_table(&variants, rounds);
    drop(keep_alive);
    second.join().map_err(|_| anyhow::anyhow!("the second thread panicked"))?;
    Ok(())
}

fn variants(agent_hooks: &str) -> Vec<Variant> {
    let new = |hook: &str, does, how| Variant { hook: hook.to_owned(), does, how, refused: None, rounds: Vec::new(), accounted: None };
    let mut variants = vec![new("nothing", "", How::Nothing)];
    variants.extend(PROGRAMS.iter().map(|(hook, does, programs)| new(hook, does, How::Programs(programs))));
    let hooks = agent_hooks.split(',').filter(|hooks| !hooks.is_empty());
    variants.extend(hooks.map(|hooks| new(&format!("remora --hooks {hooks}"), "all", How::Agent { hooks: hooks.to_owned() })));
    variants
}

/// The processor for the calls and the one for an agent, if there is another.
fn processors() -> Result<(usize, Option<usize>)> {
    let allowed = nix::sched::sched_getaffinity(Pid::from_raw(0)).context("asking for the allowed processors")?;
    let mut allowed = (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor).unwrap_or(false));
    let ours = allowed.next().context("no processor is allowed")?;
    Ok((ours, allowed.next()))
}

struct Bench<'a> {
    object: &'a Path,
    agent: &'a Path,
    agent_processor: Option<usize>,
    calls: &'a Calls,
}

impl Bench<'_> {
    fn time(&self, how: &How) -> Result<PerCall> {
        match how {
            How::Nothing => self.calls.time(|| ()),
            How::Programs(programs) => {
                let attached = kernel::attach(self.object, programs)?;
                let records = records(&attached)?;
                self.calls.time(|| drain(&records))
            }
            How::Agent { hooks } => {
                let agent = self.start_agent(hooks)?;
                let figures = self.calls.time(|| ())?;
                agent.stop()?;
                Ok(figures)
            }
        }
    }

    fn account(&self, how: &How) -> Result<Option<Accounted>> {
        let (calls, runs) = match how {
            How::Nothing => return Ok(None),
            How::Programs(programs) => {
                let attached = kernel::attach(self.object, programs)?;
                let records = records(&attached)?;
                self.count_runs(std::process::id(), || drain(&records))?
            }
            How::Agent { hooks } => {
                let agent = self.start_agent(hooks)?;
                let counted = self.count_runs(agent.pid(), || ())?;
                agent.stop()?;
                counted
            }
        };
        Ok(Some(Accounted { runs_per_call: runs.count as f64 / calls as f64, ns_per_call: runs.time_ns as f64 / calls as f64 }))
    }

    /// Sends and receives with the statistics on: the number of calls, and the runs of all programs of `owner` meanwhile.
    fn count_runs(&self, owner: u32, mut between: impl FnMut()) -> Result<(u64, kernel::ProgramRuns)> {
        self.calls.sockets_only(&mut between)?;
        let before = kernel::programs_of(owner)?;
        let calls = self.calls.sockets_only(between)?;
        let runs = kernel::runs_between(&before, &kernel::programs_of(owner)?);
        let sum = |all: kernel::ProgramRuns, one: &kernel::ProgramRuns| kernel::ProgramRuns {
            count: all.count + one.count,
            time_ns: all.time_ns + one.time_ns,
        };
        Ok((calls, runs.values().fold(kernel::ProgramRuns::default(), sum)))
    }

    fn start_agent(&self, hooks: &str) -> Result<Agent> {
        let flags = ["--output", "none", "--hooks", hooks];
        Agent::start(&Start { program: self.agent, flags: &flags, processor: self.agent_processor })
    }
}

/// The ring buffer of programs that capture; for the others it stays empty.
fn records(attached: &Attached) -> Result<RingBuffer<'_>> {
    let map = attached.object.maps().find(|map| map.name() == "records").context("no map `records`")?;
    let mut builder = RingBufferBuilder::new();
    builder.add(&map, |_| 0)?;
    Ok(builder.build()?)
}

fn drain(records: &RingBuffer<'_>) {
    // Cannot fail: the callback returns 0. A full ring would only make `capture` cheaper, and the table would show it.
    drop(records.consume());
}

fn print_table(variants: &[Variant], rounds: usize) {
    println!("{Machine}. Median (least … greatest) of {rounds} rounds; nanoseconds added to one call.\n");
    println!(
        "| hook | program | other call | write /dev/null | read /dev/zero | TCP write, read of 100 B | \
         BPF time a TCP call, net | runs a TCP call |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|");
    let Some(base) = variants.first() else { return };
    let floor_ns = statistics_floor_ns(variants);
    for variant in variants {
        let Variant { hook, does, .. } = variant;
        if let Some(refused) = &variant.refused {
            println!("| {hook} | {does} | not on this kernel: {refused} | | | | | |");
            continue;
        }
        let is_base = matches!(variant.how, How::Nothing);
        let added = |kind: fn(&PerCall) -> f64| {
            let bare = |figures: &PerCall| if is_base { 0.0 } else { kind(figures) };
            Spread::of(variant.rounds.iter().zip(&base.rounds).map(|(with, without)| kind(with) - bare(without)))
        };
        let columns = [added(|f| f.other), added(|f| f.write_file), added(|f| f.read_file), added(|f| f.socket)];
        print!("| {hook} | {does} |");
        for column in columns {
            print!(" {}{column} |", if is_base { "= " } else { "" });
        }
        match variant.accounted {
            Some(Accounted { runs_per_call, ns_per_call }) => {
                println!(" {:.0} | {runs_per_call:.2} |", ns_per_call - floor_ns * runs_per_call);
            }
            None => println!(" – | – |"),
        }
    }
    println!(
        "\n`= ` marks the calls themselves, with nothing attached. \
         Net: less {floor_ns:.0} ns a run, which is what the statistics show of an empty program."
    );
}

/// What the kernel's statistics report for a program that does nothing: mostly the cost of reading the clock twice.
fn statistics_floor_ns(variants: &[Variant]) -> f64 {
    let empty = variants.iter().filter(|variant| variant.does == "empty").filter_map(|variant| variant.accounted);
    Spread::of(empty.map(|accounted| accounted.ns_per_call / accounted.runs_per_call)).median
}
