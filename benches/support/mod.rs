//! What both benches of the whole host need: statistics, the kernel's own accounting of BPF programs, and the agent as a process.
//! Nothing here measures by itself.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub mod agent;
pub mod kernel;
pub mod statistics;

use std::{fmt, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail};

/// What every bench understands on its command line, after `cargo bench --bench NAME --`.
#[derive(Debug)]
pub struct Arguments {
    /// Fewer rounds and shorter runs: shows that everything works, not how fast it is.
    pub quick: bool,
    /// The agent to measure.
    pub agent: PathBuf,
    /// Everything else, for the bench itself: `--name value`.
    pub rest: Vec<(String, String)>,
}

impl Arguments {
    /// None when not started by `cargo bench`: `cargo test --all-targets` runs benches too, and these need root and a quiet machine.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut parsed = Self { quick: false, agent: PathBuf::from(env!("CARGO_BIN_EXE_remora")), rest: Vec::new() };
        let mut by_cargo_bench = false;
        let mut arguments = arguments.skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => by_cargo_bench = true,
                "--quick" => parsed.quick = true,
                "--agent" => parsed.agent = arguments.next().context("--agent needs a path")?.into(),
                name if name.starts_with("--") => {
                    let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
                    parsed.rest.push((name.to_owned(), value));
                }
                other => bail!("unknown argument {other:?}"),
            }
        }
        Ok(by_cargo_bench.then_some(parsed))
    }

    /// Takes the value of `name` out of the rest.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let at = self.rest.iter().position(|(found, _)| found == name)?;
        Some(self.rest.remove(at).1)
    }

    pub fn nothing_left(&self) -> Result<()> {
        match self.rest.first() {
            Some((name, _)) => bail!("unknown argument {name:?}"),
            None => Ok(()),
        }
    }
}

/// Where and when a table was made; the first line below its title.
pub struct Machine;

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
        // Not `available_parallelism`: a bench that keeps to one processor would say 1.
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default().matches("processor\t:").count();
        let memory_kib: u64 =
            field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next().and_then(|kib| kib.parse().ok())).unwrap_or(0);
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let version: String = release.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let date =
            Command::new("date").args(["-u", "+%Y-%m-%d"]).output().map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
        write!(
            formatter,
            "{cpu}, {processors} processors, {} GiB, Linux {version} {}, {}",
            (memory_kib + (1 << 19)) >> 20,
            std::env::consts::ARCH,
            date.unwrap_or_default()
        )
    }
}

/// The value of the first line `name : value` of a file of `/proc`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// The share of the last seconds in which others kept the processors busy, 0 to 1. A measurement on a busy machine says little.
pub fn busy_share(during: Duration) -> Result<f64> {
    let before = processor_ticks()?;
    std::thread::sleep(during);
    let after = processor_ticks()?;
    let total = after.total.saturating_sub(before.total).max(1);
    Ok(1.0 - after.idle.saturating_sub(before.idle) as f64 / total as f64)
}

struct Ticks {
    total: u64,
    idle: u64,
}

/// The first line of proc(5) stat: user nice system idle iowait irq softirq steal …
fn processor_ticks() -> Result<Ticks> {
    let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let line = text.lines().next().context("an empty /proc/stat")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    let [.., idle, waiting, _, _, _] = ticks[..] else { bail!("unexpected first line of /proc/stat: {line:?}") };
    Ok(Ticks { total: ticks.iter().sum(), idle: idle + waiting })
}
