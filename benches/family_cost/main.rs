//! What each family of hooks adds to sends and receives, and to calls that are none of its business, by the clock and by the kernel's
//! own statistics; and whether `auto` takes the cheapest.
//!
//! `cargo bench --bench family_cost -- [--quick] [--rounds N] [--samples N] [--alone yes] [--unit WORD]`
//! Root. Prints Markdown for `docs/kernels.md`; progress goes to stderr. It needs nothing beside itself, so that it also runs in the
//! guests of `tests/kernels/cost.sh`. Fails where a family's programs run for calls that are none of its business, or do not run for
//! those that are; `--alone yes`: nothing else runs on this machine, so that not one run of them is anybody else's. `--unit`: what this
//! machine's clock counts, where that is not nanoseconds.

#[path = "../support/mod.rs"]
mod support;

mod calls;
mod watch;

use std::{
    io::{BufRead, BufReader, Lines, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use calls::{Kind, Times};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};
use remora::{
    config::{BtfArchive, Hooks, Transport},
    probes::{
        features::Features,
        hooks::{self, HookFamily, Way},
    },
};
use support::{
    Arguments, Machine,
    kernel::{ProgramRuns, Statistics},
    statistics::Spread,
};
use watch::{Empty, Watch};

/// What is done while calls are timed, in the order of the table's columns.
const DEEDS: [Deed; 6] = [
    Deed { calls: Kind::Other, counted_only: false },
    Deed { calls: Kind::Device, counted_only: false },
    Deed { calls: Kind::Unix, counted_only: false },
    Deed { calls: Kind::Udp, counted_only: false },
    Deed { calls: Kind::Tcp, counted_only: true },
    Deed { calls: Kind::Tcp, counted_only: false },
];
/// Places in it.
const NOT_OF_TCP: [usize; 4] = [0, 1, 2, 3];
const TCP_COUNTED: usize = 4;
const TCP_CAPTURED: usize = 5;

#[derive(Clone, Copy, Debug)]
struct Deed {
    calls: Kind,
    /// Nothing of the connection is wished for, as of those that no protocol claims.
    counted_only: bool,
}

/// Of one deed.
#[derive(Clone, Copy, Debug)]
struct Figures {
    times: Times,
    /// Of the data programs meanwhile; zero unless the kernel keeps statistics.
    runs: ProgramRuns,
}

/// One of each deed.
type Round = Vec<Figures>;

/// Nothing, or the programs of a family in one of their ways.
struct Variant {
    /// `None`: nothing is loaded.
    way: Option<Way>,
    /// The way in which the agent loads the family by itself.
    first: bool,
    /// typed or plain, as it was loaded.
    flavour: String,
    refused: Option<String>,
    /// Records that found no room, which makes calls cheaper, and those that did.
    lost: u64,
    kept: u64,
    rounds: Vec<Round>,
    /// Rounds of which the kernel keeps statistics: their times count for nothing.
    accounted: Vec<Round>,
}

impl Variant {
    fn new(way: Option<Way>, first: bool) -> Self {
        Self { way, first, flavour: String::new(), refused: None, lost: 0, kept: 0, rounds: vec![], accounted: vec![] }
    }

    fn name(&self) -> String {
        let Some(way) = &self.way else { return "nothing".to_owned() };
        format!("{}, {}, {}", way.family.name(), self.flavour, way.transport.name())
    }

    /// Runs of the data programs for one call of a deed, by round.
    fn runs_per_call(&self, deed: usize) -> impl Iterator<Item = f64> {
        self.accounted.iter().map(move |deeds| deeds[deed].runs.count as f64 / deeds[deed].times.calls as f64)
    }
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("calls") {
        return calls::serve(words.next().context("no processor is named")?.parse()?);
    }
    let Some(mut arguments) = Arguments::parse(std::env::args())? else {
        println!("family_cost: needs root and a quiet machine; run it by `cargo bench --bench family_cost`");
        return Ok(());
    };
    let mut number = |name: &str, quick: usize, otherwise: usize| {
        arguments.take(name).map_or(Ok(if arguments.quick { quick } else { otherwise }), |text| text.parse())
    };
    let (rounds, samples) = (number("--rounds", 2, 15)?, number("--samples", 50, 1_000)?);
    ensure!(rounds > 0 && samples > 0, "no rounds, no figures");
    let alone = arguments.take("--alone").is_some();
    let unit = arguments.take("--unit").unwrap_or_else(|| "nanoseconds".to_owned());
    arguments.nothing_left()?;

    let features = Features::probe(None, &BtfArchive::None, &[]);
    let families = hooks::choose_hooks(&features, Hooks::Auto, Transport::Auto)?;
    let mut bench = Bench::new(&features, samples)?;
    let mut variants = variants(&features, &families);
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        let len = variants.len();
        // Another order in each round, so that a drift of the machine falls on everyone.
        for turn in 0..len {
            let variant = &mut variants[(turn + round) % len];
            if variant.refused.is_none() {
                match bench.round(variant) {
                    Ok(deeds) => variant.rounds.push(deeds),
                    Err(error) => {
                        eprintln!("{}: {error:#}", variant.name());
                        variant.refused = Some(format!("{error:#}"));
                    }
                }
            }
        }
    }
    eprintln!("kernel statistics");
    let floor_ns = {
        let _statistics = Statistics::enable()?;
        for variant in variants.iter_mut().filter(|variant| variant.refused.is_none() && variant.way.is_some()) {
            for _ in 0..rounds.div_ceil(5) {
                let deeds = bench.round(variant)?;
                variant.accounted.push(deeds);
            }
        }
        bench.statistics_floor_ns()?
    };
    print_table(&variants, rounds, floor_ns, &unit);
    let reproaches = print_verdict(&variants, &families, alone);
    if let Some(refused) = variants.iter().find(|variant| variant.refused.is_some()) {
        bail!("{} does not work", refused.name());
    }
    ensure!(reproaches.is_empty(), "{}", reproaches.join("; "));
    Ok(())
}

fn variants(features: &Features, families: &[HookFamily]) -> Vec<Variant> {
    let mut variants = vec![Variant::new(None, false)];
    for family in families {
        let way = |transport| Way::new(features, *family, transport, watch::RING_BYTES);
        let first = way(Transport::Auto);
        let (perf, of_perf) = (way(Transport::Perf), first.transport.name() == "perf");
        variants.push(Variant::new(Some(first), true));
        if !of_perf {
            variants.push(Variant::new(Some(perf), false));
        }
    }
    variants
}

/// The process of the calls and what it is told.
struct Bench<'a> {
    features: &'a Features,
    samples: usize,
    caller: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// Where records are read: another processor than that of the calls, if there is one.
    reading_processor: usize,
}

impl<'a> Bench<'a> {
    fn new(features: &'a Features, samples: usize) -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("asking for the allowed processors")?;
        let mut allowed = (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor).unwrap_or(false));
        let calling = allowed.next().context("no processor is allowed")?;
        let mut caller = Command::new(std::env::current_exe().context("looking for this program")?)
            .args(["calls", &calling.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the process of the calls")?;
        let (commands, answers) = (caller.stdin.take().context("no input")?, caller.stdout.take().context("no output")?);
        let answers = BufReader::new(answers).lines();
        Ok(Self { features, samples, caller, commands, answers, reading_processor: allowed.next().unwrap_or(calling) })
    }

    /// Every deed once, with the programs of a variant.
    fn round(&mut self, variant: &mut Variant) -> Result<Round> {
        let watch = variant.way.as_ref().map(|way| Watch::start(self.features, way, self.reading_processor)).transpose()?;
        let mut round = Vec::new();
        for deed in DEEDS {
            round.push(self.deed(deed, watch.as_ref()).with_context(|| format!("{} calls", deed.calls))?);
        }
        if let Some(watch) = watch {
            variant.flavour = watch.probes.flavour().to_string();
            let tally = watch.probes.tallies()?.read()?;
            variant.lost += tally.ring_full;
            variant.kept += tally.data;
            watch.stop()?;
        }
        Ok(round)
    }

    fn deed(&mut self, deed: Deed, watch: Option<&Watch>) -> Result<Figures> {
        if let Some(watch) = watch {
            watch.forget();
        }
        self.open(deed.calls)?;
        if let Some(watch) = watch.filter(|_| deed.calls == Kind::Tcp) {
            watch.meet(self.caller.id(), deed.counted_only)?;
        }
        let before = watch.map(Watch::runs).unwrap_or_default();
        let times = self.go()?;
        let after = watch.map(Watch::runs).unwrap_or_default();
        Ok(Figures { times, runs: ProgramRuns { count: after.count - before.count, time_ns: after.time_ns - before.time_ns } })
    }

    fn open(&mut self, calls: Kind) -> Result<()> {
        writeln!(self.commands, "{calls} {}", self.samples).context("telling the process of the calls")?;
        let answer = self.answer()?;
        ensure!(answer == "open", "the process of the calls said {answer:?}");
        Ok(())
    }

    fn go(&mut self) -> Result<Times> {
        writeln!(self.commands, "go").context("telling the process of the calls")?;
        self.answer()?.parse()
    }

    fn answer(&mut self) -> Result<String> {
        self.answers.next().context("the process of the calls has ended")?.context("hearing the process of the calls")
    }

    /// What the kernel's statistics show of a program that does nothing: mostly the cost of reading the clock twice.
    fn statistics_floor_ns(&mut self) -> Result<f64> {
        let empty = Empty::attach()?;
        let mut figures = Vec::new();
        for _ in 0..3 {
            self.open(Kind::Other)?;
            let before = empty.runs()?;
            self.go()?;
            let after = empty.runs()?;
            figures.push(ProgramRuns { count: after.count - before.count, time_ns: after.time_ns - before.time_ns }.mean_ns());
        }
        Ok(Spread::of(figures).median)
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        drop(self.caller.kill());
        drop(self.caller.wait());
    }
}

/// What a variant adds to one call, within each round.
fn added(variant: &Variant, base: &Variant, deed: usize, of: fn(&Times) -> f64) -> Spread {
    Spread::of(variant.rounds.iter().zip(&base.rounds).map(|(with, without)| of(&with[deed].times) - of(&without[deed].times)))
}

fn print_table(variants: &[Variant], rounds: usize, floor_ns: f64, unit: &str) {
    let [base, variants @ ..] = variants else { return };
    println!("{Machine}. Median (least … greatest) of {rounds} rounds; {unit} added to one call.\n");
    println!(
        "| family, flavour, transport | `getppid` | device | Unix socket | UDP | TCP send, counted | TCP receive, counted | TCP send, captured | \
         TCP receive, captured | BPF time a captured TCP call, net | runs a TCP call | a captured TCP call, `syscalls` = 1 |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let means = NOT_OF_TCP.map(|deed| (deed, Times::mean as fn(&Times) -> f64));
    let of_tcp = [TCP_COUNTED, TCP_CAPTURED].map(|deed| [(deed, (|times| times.send) as fn(&Times) -> f64), (deed, |times| times.receive)]);
    let columns: Vec<_> = means.into_iter().chain(of_tcp.into_iter().flatten()).collect();
    print!("| the call itself |");
    for (deed, of) in &columns {
        print!(" {} |", Spread::of(base.rounds.iter().map(|round| of(&round[*deed].times))));
    }
    println!(" | | |");
    let whole = |variant: &Variant| added(variant, base, TCP_CAPTURED, Times::mean).median;
    let syscalls = variants.iter().find(|variant| variant.first && is_of(variant, HookFamily::Syscalls)).map(whole);
    for variant in variants {
        if let Some(refused) = &variant.refused {
            println!("| {} | does not work: {refused} | | | | | | | | | | |", variant.name());
            continue;
        }
        print!("| {} |", variant.name());
        for (deed, of) in &columns {
            print!(" {} |", added(variant, base, *deed, *of));
        }
        let net = variant.accounted.iter().map(|deeds| {
            let Figures { times, runs } = deeds[TCP_CAPTURED];
            (runs.time_ns as f64 - floor_ns * runs.count as f64) / times.calls as f64
        });
        let ratio = syscalls.map_or_else(|| "–".to_owned(), |syscalls| format!("{:.2}", whole(variant) / syscalls));
        println!(" {} | {:.2} | {ratio} |", Spread::of(net), Spread::of(variant.runs_per_call(TCP_CAPTURED)).median);
    }
    println!("\nNet: less {floor_ns:.0} {unit} a run, which is what the kernel's statistics show of an empty program.");
    for variant in variants.iter().filter(|variant| variant.lost > 0) {
        println!("{}: {} of {} records found no room.", variant.name(), variant.lost, variant.lost + variant.kept);
    }
}

fn is_of(variant: &Variant, family: HookFamily) -> bool {
    variant.way.as_ref().is_some_and(|way| way.family == family)
}

/// Says how often the programs ran for which calls, and what `auto` takes; what is wrong with it comes back. Nothing of it is about time.
fn print_verdict(variants: &[Variant], families: &[HookFamily], alone: bool) -> Vec<String> {
    let mut reproaches = Vec::new();
    println!("\nRuns of the data programs for one call, at least … at most:\n");
    println!("| family, flavour, transport | `getppid` | device | Unix socket | UDP | TCP, counted | TCP, captured |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for variant in variants.iter().filter(|variant| variant.refused.is_none()) {
        let Some(way) = &variant.way else { continue };
        print!("| {} |", variant.name());
        for (place, deed) in DEEDS.into_iter().enumerate() {
            let runs = Spread::of(variant.runs_per_call(place));
            print!(" {:.4} … {:.4} |", runs.min, runs.max);
            // Others on the machine have their own calls.
            let tolerated = if alone { 0.0 } else { 0.02 };
            if !concerns(way.family, deed.calls) && runs.min > tolerated {
                reproaches.push(format!("{}: {:.4} runs for each of the {} calls", variant.name(), runs.min, deed.calls));
            }
            if concerns(way.family, deed.calls) && runs.min < 1.0 {
                reproaches.push(format!("{}: only {:.4} runs for each of the {} calls", variant.name(), runs.min, deed.calls));
            }
        }
        println!();
    }
    let Some((base, variants)) = variants.split_first() else { return reproaches };
    for (deed, what) in [(TCP_CAPTURED, "captured"), (TCP_COUNTED, "counted")] {
        let firsts = variants.iter().filter(|variant| variant.first && variant.refused.is_none());
        let mut order: Vec<_> = firsts.map(|variant| (added(variant, base, deed, Times::mean).median, variant)).collect();
        order.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let (Some((cheapest, _)), Some(auto)) = (order.first(), families.first()) else { continue };
        let names = |variant: &Variant| variant.way.as_ref().map_or("nothing", |way| way.family.name());
        let of_auto = order.iter().find(|(_, variant)| is_of(variant, *auto)).map_or(f64::NAN, |(cost, _)| *cost);
        let order: Vec<_> = order.iter().map(|(cost, variant)| format!("{} {cost:.0}", names(variant))).collect();
        println!(
            "\nTCP calls, {what}: auto: {}; measured, the cheapest first: {}; auto's is {:.3} times the cheapest",
            auto.name(),
            order.join(", "),
            of_auto / cheapest
        );
    }
    reproaches
}

/// Whether calls pass the hooks of a family.
fn concerns(family: HookFamily, calls: Kind) -> bool {
    match family {
        HookFamily::Syscalls => true,
        HookFamily::Socket => matches!(calls, Kind::Unix | Kind::Udp | Kind::Tcp),
        HookFamily::Fentry | HookFamily::Kprobe => matches!(calls, Kind::Udp | Kind::Tcp),
        HookFamily::Packet => false,
    }
}
