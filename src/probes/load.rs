//! Loads the BPF object with its settings and attaches the programs of one hook family, each with its own result.

use std::{
    fs,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail};
use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, OpenObject, ProgramMut,
    skel::{OpenSkel, SkelBuilder},
};

use super::{
    features::{CgroupController, CgroupHierarchy},
    health::Health,
    hooks::HookFamily,
};
use crate::skel::{OpenRemoraSkel, RemoraSkel, RemoraSkelBuilder, types};

/// Everything that the kernel side must know before it is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    pub family: HookFamily,
    /// Kernel types for field offsets, where the running kernel has none.
    pub btf: Option<PathBuf>,
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
    /// The kernel has the tracepoints that tell of control groups: [`super::features::Features::tells_cgroups`].
    pub cgroup_events: bool,
    /// Leave out what the [`super::table::CgroupFilter`] says.
    pub filter_cgroups: bool,
    /// Bytes of each call that are captured until a connection's wish says otherwise.
    pub capture_len: u32,
    pub ring_bytes: u32,
    pub max_connections: u32,
}

/// The loaded and attached programs. Dropping it detaches them: nothing is pinned, so nothing outlives the process either.
pub struct Probes {
    skel: RemoraSkel<'static>,
    links: Vec<Link>,
    health: Vec<(String, Health)>,
    reader_wake: &'static AtomicU32,
}

impl Probes {
    /// # Errors
    /// Names the step; the kernel's verifier log goes to the debug log. An optional program that fails is no error but a [`Health`].
    pub fn load(options: &LoadOptions) -> Result<Self> {
        libbpf_rs::set_print(Some((libbpf_rs::PrintLevel::Debug, |level, text| {
            // libbpf's own advice ("raise ulimit -l" on any EPERM) misleads: what the user sees is our error with its errno.
            let text = text.trim_end();
            match level {
                libbpf_rs::PrintLevel::Debug => tracing::trace!("{text}"),
                _ => tracing::debug!("{text}"),
            }
        })));
        // The skeleton borrows the object for as long as it lives: the agent loads once, and keeps it to its end.
        let storage: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut builder = RemoraSkelBuilder::default();
        if let Some(btf) = &options.btf {
            builder.obj_builder.btf_custom_path(btf).with_context(|| format!("reading kernel types from {}", btf.display()))?;
        }
        let mut open = builder.open(storage).context("opening the BPF object")?;
        configure(&mut open, options)?;
        let mut skel = open.load().context("loading the BPF programs")?;

        for pid in &options.pids {
            skel.maps.pids.update(&pid.to_ne_bytes(), &[1], MapFlags::ANY).context("filling the process filter")?;
        }
        for port in &options.ports {
            skel.maps.ports.update(&port.to_ne_bytes(), &[1], MapFlags::ANY).context("filling the port filter")?;
        }
        let bss = skel.maps.bss_data.take().context("the object has no variables")?;
        // SAFETY: the pointer is into the map's memory, which is mapped for 'static (the skeleton is never unmapped before the process
        // ends: `storage` is leaked and `bss` is the only reference to it); it is aligned, and the kernel writes it as a whole word.
        #[allow(unsafe_code, reason = "a word shared with the kernel")]
        let reader_wake = unsafe { AtomicU32::from_ptr(&raw mut bss.reader_wake) };
        let mut probes = Self { skel, links: Vec::new(), health: Vec::new(), reader_wake };
        probes.attach(options)?;
        Ok(probes)
    }

    fn attach(&mut self, options: &LoadOptions) -> Result<()> {
        let progs = &self.skel.progs;
        let data: &[&ProgramMut<'_>] = match options.family {
            HookFamily::Socket => &[&progs.on_taken, &progs.on_sock_send, &progs.on_sock_recv],
            HookFamily::Syscalls => &[&progs.on_sys_exit],
        };
        let needed = [&progs.on_set_state, &progs.on_destroy];
        let groups = [&progs.on_cgroup_mkdir, &progs.on_cgroup_rename, &progs.on_cgroup_rmdir];
        let optional = [&progs.on_exec, &progs.on_exit, &progs.on_fork].into_iter().chain(groups);
        // Life before data, so that a connection opened in between is not taken for an old one.
        for (program, required) in needed
            .into_iter()
            .map(|program| (program, true))
            .chain(optional.map(|program| (program, false)))
            .chain(data.iter().map(|program| (*program, true)))
        {
            let name = program.name().to_string_lossy().into_owned();
            if !program.autoload() {
                self.health.push((name, Health::Unsupported));
                continue;
            }
            match program.attach() {
                Ok(link) => {
                    self.links.push(link);
                    self.health.push((name, Health::Attached));
                }
                Err(error) if required => bail!("attaching {name}: {error}"),
                Err(error) => {
                    tracing::warn!("attaching {name}: {error}; processes are named by /proc alone");
                    self.health.push((name, Health::Failed(error.to_string())));
                }
            }
        }
        Ok(())
    }

    /// Detaches all programs; maps stay readable.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    /// What became of each program.
    pub fn health(&self) -> &[(String, Health)] {
        &self.health
    }

    /// The ring of records; for one reader.
    pub fn events(&self) -> Result<MapHandle> {
        MapHandle::try_from(&self.skel.maps.events).context("taking a handle of the events map")
    }

    /// The word by which the reader asks to be woken.
    pub fn reader_wake(&self) -> Wake {
        Wake(self.reader_wake)
    }

    pub fn table(&self) -> Result<super::table::ConnectionTable> {
        Ok(super::table::ConnectionTable::new(MapHandle::try_from(&self.skel.maps.conns).context("taking a handle of the connection map")?))
    }

    pub fn wishes(&self) -> Result<super::table::Wishes> {
        Ok(super::table::Wishes::new(MapHandle::try_from(&self.skel.maps.wishes).context("taking a handle of the wishes map")?))
    }

    /// The control groups that are ignored; has a say where [`LoadOptions::filter_cgroups`] was set.
    pub fn cgroup_filter(&self) -> Result<super::table::CgroupFilter> {
        let map = MapHandle::try_from(&self.skel.maps.cgroups).context("taking a handle of the control group filter")?;
        Ok(super::table::CgroupFilter::new(map))
    }

    pub fn tallies(&self) -> Result<super::table::Tallies> {
        Ok(super::table::Tallies::new(MapHandle::try_from(&self.skel.maps.stats).context("taking a handle of the stats map")?))
    }

    /// What the kernel says of each loaded program.
    pub fn run_times(&self) -> Vec<RunTime> {
        let progs = &self.skel.progs;
        [
            &progs.on_set_state,
            &progs.on_destroy,
            &progs.on_exec,
            &progs.on_exit,
            &progs.on_fork,
            &progs.on_cgroup_mkdir,
            &progs.on_cgroup_rename,
            &progs.on_cgroup_rmdir,
            &progs.on_taken,
            &progs.on_sock_send,
            &progs.on_sock_recv,
            &progs.on_sys_exit,
        ]
        .into_iter()
        .filter(|program| program.autoload())
        .filter_map(|program| {
            let fdinfo = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd())).ok()?;
            let number = |key: &str| fdinfo.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
            Some(RunTime {
                name: program.name().to_string_lossy().into_owned(),
                nanoseconds: number("run_time_ns:")?,
                runs: number("run_cnt:")?,
                // Since 5.12.
                missed: number("recursion_misses:").unwrap_or(0),
            })
        })
        .collect()
    }
}

/// What a program has cost and missed so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunTime {
    pub name: String,
    /// Zero, like `runs`, unless `kernel.bpf_stats_enabled` is set.
    pub nanoseconds: u64,
    pub runs: u64,
    /// Runs left out because an interrupt came while the same program ran on the same CPU.
    pub missed: u64,
}

/// See `enum wake` in `transport.h`.
#[derive(Clone, Copy, Debug)]
pub struct Wake(&'static AtomicU32);

impl Wake {
    pub fn never(self) {
        self.0.store(types::wake::WAKE_NEVER.0, Ordering::Relaxed);
    }

    /// Before a short sleep.
    pub fn on_bytes(self) {
        self.0.store(types::wake::WAKE_ON_BYTES.0, Ordering::SeqCst);
    }

    /// Before a sleep that ends when something happens.
    pub fn on_first(self) {
        self.0.store(types::wake::WAKE_ON_FIRST.0, Ordering::SeqCst);
    }
}

fn configure(open: &mut OpenRemoraSkel<'_>, options: &LoadOptions) -> Result<()> {
    let rodata = open.maps.rodata_data.as_mut().context("the object has no settings")?;
    let settings = &mut rodata.settings;
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

    open.maps.events.set_max_entries(options.ring_bytes).context("sizing the ring buffer")?;
    open.maps.conns.set_max_entries(options.max_connections).context("sizing the connection map")?;
    let cpus = libbpf_rs::num_possible_cpus().context("counting CPUs")?;
    open.maps.scratches.set_max_entries(cpus as u32).context("sizing the scratch map")?;
    open.maps.pids.set_max_entries(options.pids.len().max(1) as u32).context("sizing the process filter")?;
    open.maps.ports.set_max_entries(options.ports.len().max(1) as u32).context("sizing the port filter")?;

    if !options.filter_cgroups {
        open.maps.cgroups.set_max_entries(1).context("sizing the control group filter")?;
    }

    for program in [&mut open.progs.on_cgroup_mkdir, &mut open.progs.on_cgroup_rename, &mut open.progs.on_cgroup_rmdir] {
        program.set_autoload(options.cgroup_events);
    }
    let socket = options.family == HookFamily::Socket;
    open.progs.on_taken.set_autoload(socket);
    open.progs.on_sock_send.set_autoload(socket);
    open.progs.on_sock_recv.set_autoload(socket);
    open.progs.on_sys_exit.set_autoload(!socket);
    open.maps.mmsg.set_autocreate(socket).context("leaving out the message map")?;
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
