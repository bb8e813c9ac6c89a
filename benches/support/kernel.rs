//! The kernel's own accounting of BPF programs and maps, by proc(5) fdinfo, and programs compiled and attached on the spot.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use libbpf_cargo::SkeletonBuilder;
use libbpf_rs::{Link, Object, ObjectBuilder, query::ProgInfoIter};

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";
const TRACING: &str = "/sys/kernel/tracing";

/// `kernel.bpf_stats_enabled` is on while this lives. Counting costs tens of nanoseconds a run by itself.
#[derive(Debug)]
pub struct Statistics {
    before: String,
}

impl Statistics {
    pub fn enable() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS).with_context(|| format!("reading {STATISTICS}"))?;
        fs::write(STATISTICS, "1").with_context(|| format!("writing {STATISTICS}: root is needed"))?;
        Ok(Self { before })
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        // Nothing to do about it at the end of a bench; the next one starts from what it finds.
        drop(fs::write(STATISTICS, self.before.trim()));
    }
}

/// How often a program ran and how long in all, since it was loaded, while statistics were on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramRuns {
    pub count: u64,
    pub time_ns: u64,
}

impl ProgramRuns {
    pub fn mean_ns(self) -> f64 {
        self.time_ns as f64 / self.count.max(1) as f64
    }
}

/// The programs that a process holds open, by their id.
pub fn programs_of(pid: u32) -> Result<BTreeMap<u32, ProgramRuns>> {
    let mut found = BTreeMap::new();
    for fields in descriptors_of(pid)? {
        // Links name a program too; only the program itself counts runs.
        if let (Some(id), Some(count), Some(time_ns)) = (fields.get("prog_id"), fields.get("run_cnt"), fields.get("run_time_ns")) {
            found.insert(*id as u32, ProgramRuns { count: *count, time_ns: *time_ns });
        }
    }
    Ok(found)
}

/// What happened between two answers of [`programs_of`].
pub fn runs_between(before: &BTreeMap<u32, ProgramRuns>, after: &BTreeMap<u32, ProgramRuns>) -> BTreeMap<u32, ProgramRuns> {
    let difference = |(id, now): (&u32, &ProgramRuns)| {
        let then = before.get(id).copied().unwrap_or_default();
        (*id, ProgramRuns { count: now.count - then.count, time_ns: now.time_ns - then.time_ns })
    };
    after.iter().map(difference).collect()
}

/// Names by id, of every program in the kernel. The kernel keeps 15 characters.
pub fn program_names() -> BTreeMap<u32, String> {
    ProgInfoIter::default().map(|info| (info.id, info.name.to_string_lossy().into_owned())).collect()
}

/// Bytes of kernel memory that the maps of a process keep (`memlock`), each map once.
pub fn map_bytes_of(pid: u32) -> Result<u64> {
    let maps: BTreeMap<u64, u64> =
        descriptors_of(pid)?.iter().filter_map(|fields| Some((*fields.get("map_id")?, *fields.get("memlock")?))).collect();
    Ok(maps.values().sum())
}

/// The numeric `name: value` lines of each of a process's /proc/PID/fdinfo files.
fn descriptors_of(pid: u32) -> Result<Vec<BTreeMap<String, u64>>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut all = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {folder}"))? {
        // A descriptor may be closed between listing and reading.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let number = |value: &str| value.trim().parse().ok();
        all.push(
            text.lines()
                .filter_map(|line| line.split_once(':'))
                .filter_map(|(key, value)| Some((key.to_owned(), number(value)?)))
                .collect(),
        );
    }
    Ok(all)
}

/// Compiles one `.bpf.c` below `benches/` with the project's `vmlinux.h`.
pub fn compile(source: &str) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let architecture = std::env::consts::ARCH;
    let object =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(Path::new(source).with_extension("o").file_name().context("a source without a name")?);
    let headers = root.join("vmlinux").join(architecture);
    let target = if architecture == "aarch64" { "arm64" } else { "x86" };
    // libbpf-cargo brings libbpf's headers, also where no libbpf-dev is installed.
    SkeletonBuilder::new()
        .source(root.join("benches").join(source))
        .obj(&object)
        .clang_args([
            format!("-I{}", headers.display()),
            format!("-D__TARGET_ARCH_{target}"),
            "-Wno-unused-command-line-argument".to_owned(),
        ])
        .build()
        .with_context(|| format!("compiling {source}"))?;
    Ok(object)
}

/// Programs that run from now until this is dropped.
#[derive(Debug)]
pub struct Attached {
    /// Dropped first: detaches.
    links: Vec<Link>,
    pub object: Object,
}

/// Loads only the named programs of an object and attaches them.
pub fn attach(object: &Path, programs: &[&str]) -> Result<Attached> {
    let mut open = ObjectBuilder::default().open_file(object).with_context(|| format!("opening {}", object.display()))?;
    for mut program in open.progs_mut() {
        let wanted = programs.iter().any(|name| program.name() == *name);
        program.set_autoload(wanted);
    }
    let loaded = open.load().with_context(|| format!("loading {programs:?}"))?;
    let mut links = Vec::new();
    for program in loaded.progs_mut().filter(|program| program.autoload()) {
        links.push(program.attach().with_context(|| format!("attaching {:?}", program.name()))?);
    }
    if links.len() != programs.len() {
        bail!("{} holds {} of {programs:?}", object.display(), links.len());
    }
    Ok(Attached { links, object: loaded })
}

/// Perf-style tracepoints are attached by an id that only tracefs tells; minimal systems do not mount it.
pub fn mount_tracefs() -> Result<()> {
    if Path::new(TRACING).join("events").exists() {
        return Ok(());
    }
    let status = Command::new("mount").args(["-t", "tracefs", "tracefs", TRACING]).status().context("running mount")?;
    if !status.success() {
        bail!("mounting tracefs on {TRACING}: {status}");
    }
    Ok(())
}
