//! Loads a BPF object with its settings and attaches the programs of one hook family, each with its own result.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fmt, fs,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, MapType, Object, ObjectBuilder, OpenMapMut, OpenObject, ProgramMut, ProgramType, TracepointCategory,
};
use nix::errno::Errno;
use serde::Serialize;

use super::{
    features::{CgroupController, CgroupHierarchy, Features, ProcessorHolder},
    health::Health,
    hooks::{HookFamily, Way},
    programs::{self, Hook, Part, Program},
    transport::{Events, Transport, Wake},
    verdicts::{self, Verified},
};
use crate::skel::{PLAIN, TYPED, types};

/// A program takes a record's time before it reads the bytes and writes it. A virtual processor that is put aside for longer brings disorder,
/// which the positions of the streams mend.
const SETTLING: Duration = Duration::from_millis(50);

/// Everything that the kernel side must know before it is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    pub way: Way,
    /// Port of our own HTTP listener, never watched.
    pub own_port: Option<u16>,
    pub watch_client: bool,
    pub watch_server: bool,
    /// Watch only these thread groups; empty: all.
    pub pids: Vec<u32>,
    /// Watch only connections with one of these ports at either end; empty: all.
    pub ports: Vec<u16>,
    /// In which ids of control groups are given.
    pub cgroups: CgroupHierarchy,
    /// Leave out what the [`super::table::CgroupFilter`] says.
    pub filter_cgroups: bool,
    /// Bytes of each call that are captured until a connection's wish says otherwise.
    pub capture_len: u32,
    /// Of the ring, or of the perf buffers of all CPUs together; a power of two.
    pub ring_bytes: u32,
    pub max_connections: u32,
    /// Ask the verifier what each program costs it.
    pub measure: bool,
}

/// The two ways in which the programs are compiled; `compat.h` says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    Typed,
    Plain,
}

impl Flavour {
    fn object(self) -> &'static [u8] {
        match self {
            Flavour::Typed => TYPED,
            Flavour::Plain => PLAIN,
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flavour::Typed => "typed",
            Flavour::Plain => "plain",
        })
    }
}

/// The loaded and attached programs. Dropping it detaches them: nothing is pinned, so nothing outlives the process either.
pub struct Probes {
    links: Vec<Link>,
    object: Object,
    flavour: Flavour,
    health: Vec<(String, Health)>,
    transport: Transport,
    events: Option<Events>,
    hands_off: bool,
    reads_batches: bool,
    verified: BTreeMap<String, Verified>,
}

impl Probes {
    /// # Errors
    /// Names the step, and the program that the kernel refused; the verifier's words go to the debug log. An optional program that fails is
    /// no error but a [`Health`].
    pub fn load(options: &LoadOptions) -> Result<Self> {
        verdicts::listen();
        let mut refusal = anyhow!("no flavour of the programs is for this kernel");
        for flavour in &options.way.flavours {
            match Self::load_flavour(options, *flavour) {
                Ok(probes) => return Ok(probes),
                Err(error) => {
                    tracing::debug!("{flavour} programs: {error:#}");
                    refusal = error;
                }
            }
        }
        Err(refusal)
    }

    fn load_flavour(options: &LoadOptions, flavour: Flavour) -> Result<Self> {
        let Loaded { object, refused, verified } = load_object(options, flavour)?;
        for pid in &options.pids {
            find(&object, "pids")?.update(&pid.to_ne_bytes(), &[1], MapFlags::ANY).context("filling the process filter")?;
        }
        for port in &options.ports {
            find(&object, "ports")?.update(&port.to_ne_bytes(), &[1], MapFlags::ANY).context("filling the port filter")?;
        }
        let numbers = find(&object, "numbers")?;
        for number in 1..=u64::from(numbers.max_entries()) {
            numbers.update(&[], &number.to_ne_bytes(), MapFlags::ANY).context("filling the connection numbers")?;
        }
        // Before the first program runs: there must be something to write to.
        let map = handle(&object, "events")?;
        let events = match options.way.transport {
            Transport::Ring => Events::Ring { map, wake: Wake::map(&handle(&object, ".data.wake")?)? },
            Transport::Perf { buffer_bytes } => Transport::open_buffers(&map, buffer_bytes, SETTLING)?,
        };
        let transport = options.way.transport;
        let mut probes = Self {
            links: Vec::new(),
            object,
            flavour,
            health: Vec::new(),
            transport,
            events: Some(events),
            hands_off: options.way.hands_off,
            reads_batches: options.way.reads_batches,
            verified,
        };
        probes.attach(options, &refused)?;
        Ok(probes)
    }

    fn attach(&mut self, options: &LoadOptions, refused: &[Refused]) -> Result<()> {
        let loaded: HashMap<_, _> = self.object.progs_mut().map(|program| (program.name().to_owned(), program)).collect();
        for program in programs::of_family(options.way.family) {
            let name = program.name;
            let absent = options.way.absent.contains(&name);
            if absent && matches!(program.hook, Hook::PerfTracepoint(_) | Hook::Walk) {
                continue; // nothing is missing where it is not needed
            }
            let health = if absent {
                Health::Unsupported
            } else if let Some(refused) = refused.iter().find(|refused| refused.program == name) {
                Health::Failed(refused.why.clone())
            } else {
                let Some(loaded) = loaded.get(OsStr::new(name)) else { bail!("the object has no program {name}") };
                match attach(program, loaded, options.way.holder) {
                    Ok(links) => {
                        self.links.extend(links);
                        Health::Attached
                    }
                    Err(error) if program.required => bail!("attaching {name}: {error}"),
                    Err(error) if error.kind() == libbpf_rs::ErrorKind::NotFound => Health::Unsupported,
                    Err(error) => Health::Failed(error.to_string()),
                }
            };
            if let Health::Failed(why) = &health {
                let cost = match program.part {
                    Part::Life | Part::Data(_) | Part::Reading => "what it would see is missed",
                    Part::Processes => "processes are named by /proc alone",
                    Part::Groups => "containers that are gone when they are looked for have no name",
                };
                tracing::warn!("{name} cannot be used: {why}; {cost}");
            }
            self.health.push((name.to_owned(), health));
        }
        // Linking leaves a word for each source; the programs look at one of them.
        let begin = find(&self.object, ".data.attached")?;
        let words = 1_u32.to_ne_bytes().repeat(begin.value_size() as usize / size_of::<u32>());
        begin.update(&0_u32.to_ne_bytes(), &words, MapFlags::ANY).context("telling the programs to begin")
    }

    /// Detaches all programs; maps stay readable.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    /// What became of each program.
    pub fn health(&self) -> &[(String, Health)] {
        &self.health
    }

    /// What the verifier had to do, by program; where [`LoadOptions::measure`] was set.
    pub fn verified(&self) -> &BTreeMap<String, Verified> {
        &self.verified
    }

    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The records, for one reader; once.
    pub fn events(&mut self) -> Result<Events> {
        self.events.take().context("the records have a reader already")
    }

    pub fn table(&self) -> Result<super::table::ConnectionTable> {
        let map = handle(&self.object, "conns")?;
        let walk = self.object.progs_mut().find(|program| program.name() == "walk_conns" && program.autoload());
        let walk = walk.map(|program| program.attach_iter(map.as_fd())).transpose().context("attaching walk_conns")?;
        Ok(super::table::ConnectionTable::new(map, walk, self.reads_batches))
    }

    pub fn wishes(&self) -> Result<super::table::Wishes> {
        let map = handle(&self.object, "wishes")?;
        if self.hands_off { super::table::Wishes::mapped(&map) } else { Ok(super::table::Wishes::new(map)) }
    }

    /// The control groups that are ignored; has a say where [`LoadOptions::filter_cgroups`] was set.
    pub fn cgroup_filter(&self) -> Result<super::table::CgroupFilter> {
        Ok(super::table::CgroupFilter::new(handle(&self.object, "cgroups")?))
    }

    pub fn tallies(&self) -> Result<super::table::Tallies> {
        Ok(super::table::Tallies::new(handle(&self.object, "stats")?))
    }

    /// What the kernel says of each loaded program.
    pub fn run_times(&self) -> Vec<RunTime> {
        let loaded = self.object.progs_mut().filter(|program| program.autoload());
        let mut run_times: Vec<_> = loaded.filter_map(|program| RunTime::of(&program)).collect();
        // These two stand in for each other, so at most as many were missed as the luckier one missed.
        let place = |name: &str| run_times.iter().position(|run_time: &RunTime| run_time.name == name);
        if let (Some(first), Some(again)) = (place("on_set_state"), place("on_set_state_again")) {
            run_times[first].missed = run_times[first].missed.min(run_times[again].missed);
            run_times[again].missed = 0;
        }
        run_times
    }
}

/// What a program has cost and missed so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunTime {
    pub name: String,
    /// Zero, like `runs`, unless `kernel.bpf_stats_enabled` is set.
    pub nanoseconds: u64,
    pub runs: u64,
    /// Runs left out because an interrupt, or the next task after a preemption, came while the same program ran on the same CPU.
    pub missed: u64,
}

impl RunTime {
    /// `None`: the program is not loaded.
    pub(super) fn of(program: &ProgramMut<'_>) -> Option<Self> {
        let fdinfo = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd())).ok()?;
        let number = |key: &str| fdinfo.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
        Some(Self {
            name: program.name().to_string_lossy().into_owned(),
            // Since 5.1.
            nanoseconds: number("run_time_ns:").unwrap_or(0),
            runs: number("run_cnt:").unwrap_or(0),
            // Since 5.12.
            missed: number("recursion_misses:").unwrap_or(0),
        })
    }
}

/// A map of a loaded object.
fn find<'a>(object: &'a Object, name: &str) -> Result<libbpf_rs::Map<'a>> {
    object.maps().find(|map| map.name() == name).with_context(|| format!("the object has no map {name}"))
}

fn handle(object: &Object, name: &str) -> Result<MapHandle> {
    MapHandle::try_from(&find(object, name)?).with_context(|| format!("taking a handle of the map {name}"))
}

/// A program that the kernel did not load.
struct Refused {
    program: &'static str,
    why: String,
}

struct Loaded {
    object: Object,
    refused: Vec<Refused>,
    verified: BTreeMap<String, Verified>,
}

/// Loads, and again without each optional program that the kernel refuses.
fn load_object(options: &LoadOptions, flavour: Flavour) -> Result<Loaded> {
    let mut refused: Vec<Refused> = Vec::new();
    loop {
        let mut builder = ObjectBuilder::default();
        if let Some(btf) = options.way.btf.as_ref().filter(|_| flavour == Flavour::Plain) {
            builder.btf_custom_path(btf).with_context(|| format!("reading kernel types from {}", btf.display()))?;
        }
        let mut open = builder.open_memory(flavour.object()).context("opening the BPF object")?;
        configure(&mut open, options, &refused)?;
        verdicts::take();
        let error = match open.load() {
            Ok(object) => return Ok(Loaded { object, refused, verified: verdicts::take().verified }),
            Err(error) => error,
        };
        let Some((name, why)) = verdicts::take().refused else { return Err(error).context("loading the BPF programs") };
        match programs::of_family(options.way.family).find(|program| program.name == name) {
            Some(program) if !program.required && refused.iter().all(|refused| refused.program != name) => {
                refused.push(Refused { program: program.name, why });
            }
            _ => return Err(anyhow!("{error}").context(format!("loading the BPF program {name}"))),
        }
    }
}

/// Whether perf runs it instead of its tracepoint.
fn goes_by_perf(program: &Program, holder: ProcessorHolder) -> bool {
    holder == ProcessorHolder::Perf && matches!((program.part, program.hook), (Part::Data(_), Hook::Tracepoint(_)))
}

/// Empty where whoever reads starts it.
fn attach(program: &Program, loaded: &ProgramMut<'_>, holder: ProcessorHolder) -> libbpf_rs::Result<Vec<Link>> {
    let by_perf = |name: &str| {
        let group = Features::tracepoint_group(name).unwrap_or_default();
        loaded.attach_tracepoint(TracepointCategory::Custom(group.to_owned()), name)
    };
    let link = match program.hook {
        Hook::Tracepoint(name) if goes_by_perf(program, holder) => by_perf(name),
        Hook::PerfTracepoint(name) => by_perf(name),
        Hook::Walk => return Ok(Vec::new()),
        Hook::Tracepoint(_) | Hook::FunctionExit(_) => loaded.attach(),
        Hook::Kprobe(functions) => return attach_each(functions, loaded),
    };
    link.map(|link| vec![link])
}

/// # Errors
/// `NotFound` where there is none of the functions; any other one that the kernel gave for one of them.
fn attach_each(functions: &[&str], loaded: &ProgramMut<'_>) -> libbpf_rs::Result<Vec<Link>> {
    let mut links = Vec::new();
    for function in functions {
        match loaded.attach_kprobe(false, function) {
            Ok(link) => links.push(link),
            Err(error) if error.kind() == libbpf_rs::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if links.is_empty() { Err(libbpf_rs::Error::from_raw_os_error(Errno::ENOENT as i32)) } else { Ok(links) }
}

fn configure(open: &mut OpenObject, options: &LoadOptions, refused: &[Refused]) -> Result<()> {
    /// BPF_LOG_STATS of the kernel's include/linux/bpf_verifier.h; since 5.2.
    const LOG_STATS: u32 = 4;
    /// Of the kernel's include/uapi/linux/bpf.h.
    const BPF_F_MMAPABLE: u32 = 1 << 10;
    for mut program in open.progs_mut() {
        if options.measure {
            program.set_log_level(LOG_STATS);
        }
        let name = program.name().to_string_lossy().into_owned();
        let known = programs::of_family(options.way.family).find(|program| program.name == name);
        let refused = refused.iter().any(|refused| refused.program == name);
        program.set_autoload(known.is_some() && !options.way.absent.contains(&&*name) && !refused);
        if known.is_some_and(|known| goes_by_perf(known, options.way.holder)) {
            program.set_prog_type(ProgramType::Tracepoint);
        }
    }
    let cpus = libbpf_rs::num_possible_cpus().context("counting CPUs")? as u32;
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        match &*name {
            ".rodata.settings" => write_settings(&mut map, options)?,
            "events" if options.way.transport != Transport::Ring => {
                let flip = [map.set_type(MapType::PerfEventArray), map.set_key_size(4), map.set_value_size(4)];
                flip.into_iter().collect::<Result<(), _>>().context("making a perf buffer of the ring")?;
            }
            "wishes" if options.way.hands_off => {
                map.set_map_flags(BPF_F_MMAPABLE).context("making the wishes map one for direct writing")?;
            }
            "mmsg" => map.set_autocreate(options.way.family == HookFamily::Socket).context("leaving out the message map")?,
            "calls" => map.set_autocreate(options.way.family == HookFamily::Kprobe).context("leaving out the call map")?,
            _ => {}
        }
        let entries = match &*name {
            "events" if options.way.transport == Transport::Ring => options.ring_bytes,
            "events" | "scratches" => cpus,
            "conns" => options.max_connections,
            "pids" => options.pids.len().max(1) as u32,
            "ports" => options.ports.len().max(1) as u32,
            "cgroups" if !options.filter_cgroups => 1,
            _ => continue,
        };
        map.set_max_entries(entries).with_context(|| format!("sizing the map {name}"))?;
    }
    Ok(())
}

fn write_settings(map: &mut OpenMapMut<'_>, options: &LoadOptions) -> Result<()> {
    let bytes = map.initial_value_mut().context("the settings have no value")?;
    let settings: &mut types::settings = plain::from_mut_bytes(bytes).map_err(|_| anyhow!("the settings are of another size"))?;
    settings.own_pid = std::process::id();
    settings.own_netns = own_netns()?;
    settings.own_port = options.own_port.unwrap_or(0);
    settings.watch_client = options.watch_client.into();
    settings.watch_server = options.watch_server.into();
    settings.filter_pids = (!options.pids.is_empty()).into();
    settings.filter_ports = (!options.ports.is_empty()).into();
    settings.filter_cgroups = options.filter_cgroups.into();
    settings.cgroup_controller = controller(options.cgroups.controller).0 as u8;
    settings.cgroup_hierarchy = options.cgroups.number;
    settings.capture_len = options.capture_len;
    settings.wake_bytes = u64::from(options.ring_bytes / 8);
    settings.perf_buffer = (options.way.transport != Transport::Ring).into();
    settings.recv_nonblock = options.way.recv_nonblock.into();
    settings.processor_holder = match options.way.holder {
        ProcessorHolder::Tracepoint => types::processor_holder::HELD_BY_TRACEPOINT,
        ProcessorHolder::Perf => types::processor_holder::HELD_BY_PERF,
        ProcessorHolder::Program => types::processor_holder::HELD_BY_PROGRAM,
    }
    .0 as u8;
    Ok(())
}

fn controller(controller: CgroupController) -> types::cgroup_controller {
    match controller {
        CgroupController::Unified => types::cgroup_controller::CGROUP_UNIFIED,
        CgroupController::Pids => types::cgroup_controller::CGROUP_PIDS,
        CgroupController::Memory => types::cgroup_controller::CGROUP_MEMORY,
        CgroupController::Devices => types::cgroup_controller::CGROUP_DEVICES,
    }
}

/// Inode number of our own network namespace.
fn own_netns() -> Result<u32> {
    use std::os::unix::fs::MetadataExt;
    let inode = std::fs::metadata("/proc/self/ns/net").context("reading /proc/self/ns/net")?.ino();
    u32::try_from(inode).context("a network namespace number beyond 32 bits")
}
