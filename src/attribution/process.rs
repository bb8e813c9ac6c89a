//! From pids to processes: what /proc says of the living, and what the kernel's events said of those that were gone too soon.
//! Knows nothing of sockets. One owner; nothing here locks, waits or logs.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    cgroup::{container_of_path, container_of_proc_file, unit_of_path, unit_of_proc_file},
    cgroup_paths::CgroupPaths,
    container::ContainerNames,
    kubernetes::Cluster,
};
use crate::model::{Container, Process};

/// Processes remembered at once unless set otherwise: some 10 MiB when all were resolved.
pub const PROCESSES_MAX: usize = 16_384;
/// Of these, processes that have exited: the events of their connections may come later than their exit.
const EXITED_MAX: usize = 4_096;
/// Generations of forks without exec that are followed when a process and its parents were gone before they were met.
const ANCESTORS_MAX: usize = 8;
/// A thread may call itself anything; names of its process that were found to be so.
const ALIASES_MAX: usize = 16;
/// Enough for the first word of a command line.
const COMMAND_BYTES_MAX: usize = 4_096;

/// How processes were found, for the agent's own metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessCounts {
    /// Remembered now, the exited included.
    pub known: usize,
    pub exited: usize,
    pub from_proc: u64,
    /// Gone before the lookup, named by what the kernel said of them or of their parent.
    pub from_events: u64,
    /// Gone before the lookup and never heard of: named by the hint alone.
    pub from_hint: u64,
    /// Entries whose pid turned out to be another process's by now.
    pub reused: u64,
    /// Entries dropped for room.
    pub evicted: u64,
}

/// Pid → [`Process`], fed by the kernel's events and by /proc on demand.
///
/// Feed events in their order; a resolve may come late (the process is gone) or early (its exec event is still to come:
/// the answer is then replaced by the next resolve after the event).
#[derive(Debug)]
pub struct Processes {
    proc_root: PathBuf,
    cgroups: CgroupPaths,
    names: Arc<ContainerNames>,
    cluster: Arc<Cluster>,
    /// Of the agent itself: it says nothing of the others in it (a login, a runner of jobs).
    own_unit: Option<String>,
    table: HashMap<u32, Entry>,
    /// Oldest first, by the serial of the entry; serials that are no longer current are passed over.
    order: VecDeque<(u32, u64)>,
    exited: VecDeque<(u32, u64)>,
    capacity: usize,
    serial: u64,
    counts: ProcessCounts,
}

#[derive(Debug, Default)]
struct Entry {
    serial: u64,
    origin: Origin,
    exited: bool,
    /// Clock ticks since boot (field 22 of proc_pid_stat(5)); 0 when it was not read from /proc.
    start_ticks: u64,
    /// In which control group the kernel last saw it; 0 where it did not say.
    cgroup_id: u64,
    /// Names under which kernel events knew this process or its threads, checked against /proc.
    aliases: Vec<Box<str>>,
    resolved: Option<Arc<Process>>,
    names_generation: u64,
}

/// What the kernel's events said of a process.
#[derive(Clone, Debug, Default)]
enum Origin {
    #[default]
    Unseen,
    Forked {
        parent: u32,
    },
    Executed(Arc<Executed>),
}

#[derive(Debug)]
struct Executed {
    comm: String,
    filename: String,
    argv0: String,
    cgroup_id: u64,
}

/// What a control group says of the processes in it.
#[derive(Debug, Default)]
struct Place {
    container: Option<Container>,
    unit: Option<String>,
}

impl Processes {
    /// `proc_root` is `/proc`, or where a container has mounted its host's; `cgroups` is of the hierarchy in which ids are given.
    /// `capacity` bounds the entries ([`PROCESSES_MAX`]).
    pub fn new(proc_root: &Path, cgroups: CgroupPaths, names: Arc<ContainerNames>, capacity: usize) -> Self {
        let own = read_cgroup_file(&proc_root.join("self"));
        Self {
            own_unit: own.as_deref().and_then(unit_of_proc_file).map(str::to_owned),
            proc_root: proc_root.to_owned(),
            cgroups,
            names,
            cluster: Arc::default(),
            table: HashMap::new(),
            order: VecDeque::new(),
            exited: VecDeque::new(),
            capacity: capacity.max(1),
            serial: 0,
            counts: ProcessCounts::default(),
        }
    }

    /// Pods are named as `cluster` tells.
    pub fn in_cluster(self, cluster: Arc<Cluster>) -> Self {
        Self { cluster, ..self }
    }

    /// A process became another program. `filename` as given to execve(2), `argv0` its first argument (may be empty).
    pub fn observe_exec(&mut self, pid: u32, comm: &str, filename: &str, argv0: &str, cgroup_id: u64) {
        let executed = Executed { comm: comm.to_owned(), filename: filename.to_owned(), argv0: argv0.to_owned(), cgroup_id };
        self.insert(pid, Entry { origin: Origin::Executed(Arc::new(executed)), ..Entry::default() });
    }

    /// `child` is a new process: what was known under its pid is void, and until it calls execve(2) it is what its parent is.
    pub fn observe_fork(&mut self, parent: u32, child: u32) {
        self.insert(child, Entry { origin: Origin::Forked { parent }, ..Entry::default() });
    }

    /// The process (its last thread) ended. It stays known until enough others have ended after it.
    pub fn observe_exit(&mut self, pid: u32) {
        let Some(entry) = self.table.get_mut(&pid) else { return };
        if std::mem::replace(&mut entry.exited, true) {
            return;
        }
        self.exited.push_back((pid, entry.serial));
        while self.exited.len() > EXITED_MAX.min(self.capacity) {
            let Some((pid, serial)) = self.exited.pop_front() else { break };
            self.remove_if_current(pid, serial);
        }
    }

    /// The process of `pid` as far as it can be known; the answer is remembered and shared.
    ///
    /// `comm_hint` and `cgroup_id_hint` are what the kernel's event said (empty and 0 where it said nothing). `now_ns` is any
    /// clock that goes forwards; it spaces walks of the cgroup tree. A known process costs a hash lookup; a new one four
    /// small reads of /proc; one that calls itself otherwise than before, one.
    pub fn resolve(&mut self, pid: u32, comm_hint: &str, cgroup_id_hint: u64, now_ns: u64) -> Arc<Process> {
        if pid == 0 {
            return Arc::new(unnamed(pid, comm_hint));
        }
        if let Some(known) = self.known(pid, comm_hint, cgroup_id_hint) {
            return known;
        }
        let mut start_ticks = 0;
        let process = if let Some((found, ticks)) = read_process(&self.proc_root, pid) {
            self.counts.from_proc += 1;
            start_ticks = ticks;
            found
        } else if let Some(process) = self.reconstruct(pid, comm_hint, now_ns) {
            self.counts.from_events += 1;
            process
        } else {
            self.counts.from_hint += 1;
            unnamed(pid, comm_hint)
        };
        self.remember(pid, process, start_ticks, comm_hint, cgroup_id_hint, now_ns)
    }

    /// Of the entries as they are now.
    pub fn counts(&self) -> ProcessCounts {
        let exited = self.table.values().filter(|entry| entry.exited).count();
        ProcessCounts { known: self.table.len(), exited, ..self.counts }
    }

    pub fn cgroups(&mut self) -> &mut CgroupPaths {
        &mut self.cgroups
    }

    /// What was resolved before and is still true.
    fn known(&mut self, pid: u32, comm_hint: &str, cgroup_id_hint: u64) -> Option<Arc<Process>> {
        let entry = self.table.get_mut(&pid)?;
        let resolved = entry.resolved.as_ref()?;
        if entry.cgroup_id != cgroup_id_hint && self.cgroups.knows(cgroup_id_hint) {
            return None;
        }
        let expected = comm_hint.is_empty() || resolved.comm == comm_hint || entry.aliases.iter().any(|alias| **alias == *comm_hint);
        if entry.exited || !expected {
            // Another name is mostly a thread's; but the events that tell of a pid's next owner may have been lost.
            if read_stat(&self.proc_root, pid).is_some_and(|stat| stat.start_ticks != entry.start_ticks) {
                self.counts.reused += 1;
                self.table.remove(&pid);
                return None;
            }
            if !expected && entry.aliases.len() < ALIASES_MAX {
                entry.aliases.push(comm_hint.into());
            }
        }
        let generation = self.names.generation() + self.cluster.generation();
        if entry.names_generation != generation {
            entry.names_generation = generation;
            let named = named(Process::clone(resolved), &self.names, &self.cluster);
            if **resolved != named {
                entry.resolved = Some(Arc::new(named));
            }
        }
        entry.resolved.as_ref().map(Arc::clone)
    }

    fn remember(
        &mut self,
        pid: u32,
        mut process: Process,
        start_ticks: u64,
        comm_hint: &str,
        cgroup_id_hint: u64,
        now_ns: u64,
    ) -> Arc<Process> {
        if let Some(place) = self.place(cgroup_id_hint, now_ns) {
            // Version 1 leaves out of a tree what its controller is not asked for; then another tree may say more.
            let is_all = self.cgroups.is_unified();
            process.container = place.container.or(process.container.filter(|_| !is_all));
            process.unit = place.unit.or(process.unit.filter(|_| !is_all));
        }
        process.unit = process.unit.filter(|unit| process.container.is_none() && self.own_unit.as_ref() != Some(unit));
        let names_generation = self.names.generation() + self.cluster.generation();
        let process = named(process, &self.names, &self.cluster);
        let aliases = if comm_hint.is_empty() || process.comm == comm_hint { Vec::new() } else { vec![comm_hint.into()] };
        let process = Arc::new(process);
        if !self.table.contains_key(&pid) {
            self.insert(pid, Entry::default());
            if start_ticks == 0 {
                self.observe_exit(pid);
            }
        }
        if let Some(entry) = self.table.get_mut(&pid) {
            entry.start_ticks = start_ticks;
            entry.cgroup_id = cgroup_id_hint;
            entry.aliases = aliases;
            entry.names_generation = names_generation;
            entry.resolved = Some(Arc::clone(&process));
        }
        process
    }

    /// A process that /proc no longer has: what it executed, or what its nearest remembered ancestor was.
    fn reconstruct(&mut self, pid: u32, comm_hint: &str, now_ns: u64) -> Option<Process> {
        let mut ancestor = pid;
        for _ in 0..ANCESTORS_MAX {
            let origin = match self.table.get(&ancestor) {
                Some(Entry { resolved: Some(process), .. }) => return Some(Process { pid, ..Process::clone(process) }),
                Some(entry) => entry.origin.clone(),
                None => Origin::Unseen,
            };
            if let Origin::Executed(executed) = origin {
                let place = self.place(executed.cgroup_id, now_ns).unwrap_or_default();
                let comm = if ancestor == pid && !comm_hint.is_empty() { comm_hint } else { &executed.comm };
                return Some(Process {
                    pid,
                    comm: comm.to_owned(),
                    executable: executed.filename.starts_with('/').then(|| executed.filename.clone()),
                    command: command_of(executed.argv0.as_bytes(), None).or_else(|| command_of(executed.filename.as_bytes(), None)),
                    container: place.container,
                    unit: place.unit,
                    pod: None,
                });
            }
            if ancestor != pid
                && let Some((process, _)) = read_process(&self.proc_root, ancestor)
            {
                return Some(Process { pid, ..process });
            }
            let Origin::Forked { parent } = origin else { return None };
            ancestor = parent;
        }
        None
    }

    /// Where the kernel saw a process. The event is surer than /proc, whose answer is of a later moment, when the process may have been
    /// moved, or be another one with the same pid. `None` of a group that is not known, and of the root, in which is what was never placed.
    fn place(&mut self, cgroup_id: u64, now_ns: u64) -> Option<Place> {
        let path = self.cgroups.path(cgroup_id, now_ns).filter(|path| **path != *"/")?;
        let container = container_of_path(&path).map(|container| container.to_container());
        Some(Place { container, unit: unit_of_path(&path).map(str::to_owned) })
    }

    fn insert(&mut self, pid: u32, entry: Entry) {
        self.serial += 1;
        self.table.insert(pid, Entry { serial: self.serial, ..entry });
        self.order.push_back((pid, self.serial));
        while self.table.len() > self.capacity {
            let Some((pid, serial)) = self.order.pop_front() else { break };
            self.counts.evicted += u64::from(self.remove_if_current(pid, serial));
        }
        if self.order.len() > self.capacity * 2 {
            let table = &self.table;
            self.order.retain(|(pid, serial)| table.get(pid).is_some_and(|entry| entry.serial == *serial));
        }
    }

    fn remove_if_current(&mut self, pid: u32, serial: u64) -> bool {
        let current = self.table.get(&pid).is_some_and(|entry| entry.serial == serial);
        current && self.table.remove(&pid).is_some()
    }
}

fn unnamed(pid: u32, comm: &str) -> Process {
    Process { pid, comm: comm.to_owned(), ..Process::default() }
}

/// With the names of the cluster, else of the engine, where there are any.
fn named(mut process: Process, names: &ContainerNames, cluster: &Cluster) -> Process {
    let Some(container) = &mut process.container else { return process };
    let in_pod = container.pod_uid.as_deref().and_then(|uid| cluster.container(uid, &container.id));
    if let Some(known) = in_pod.or_else(|| names.get(&container.id)) {
        container.name = Some(known.name.clone());
        container.image.clone_from(&known.image);
        container.compose.clone_from(&known.compose);
    }
    // A pod that is gone from the cluster keeps its name here.
    let pod = container.pod_uid.as_deref().and_then(|uid| cluster.pod(uid));
    process.pod = pod.or(process.pod);
    process
}

/// What /proc says of a living process, and its start in clock ticks since boot. `None` if there is no such process;
/// what cannot be read (another user's executable) is left out.
///
/// The container is not yet named; the unit is that of the control group even if that is a container's.
pub fn read_process(proc_root: &Path, pid: u32) -> Option<(Process, u64)> {
    let stat = read_stat(proc_root, pid)?;
    let directory = proc_root.join(pid.to_string());
    let executable = fs::read_link(directory.join("exe")).ok().map(|path| {
        let path = path.to_string_lossy();
        path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned()
    });
    let command = read_start(&directory.join("cmdline"), COMMAND_BYTES_MAX).and_then(|line| command_of(&line, executable.as_deref()));
    let cgroup = read_cgroup_file(&directory);
    let container = cgroup.as_deref().and_then(container_of_proc_file).map(|container| container.to_container());
    let unit = cgroup.as_deref().and_then(unit_of_proc_file).map(str::to_owned);
    Some((Process { pid, comm: stat.comm, executable, command, container, unit, pod: None }, stat.start_ticks))
}

fn read_cgroup_file(process: &Path) -> Option<String> {
    Some(String::from_utf8_lossy(&read_start(&process.join("cgroup"), 64 * 1024)?).into_owned())
}

struct Stat {
    comm: String,
    start_ticks: u64,
}

/// `pid (comm) state ppid …` (proc_pid_stat(5)); comm may itself hold blanks and parentheses.
///
/// A zombie counts as gone: it has neither executable nor command line, and what the kernel's events said is better.
fn read_stat(proc_root: &Path, pid: u32) -> Option<Stat> {
    let text = read_start(&proc_root.join(format!("{pid}/stat")), 4_096)?;
    let text = String::from_utf8_lossy(&text);
    let (front, fields) = text.rsplit_once(')')?;
    let (_, comm) = front.split_once('(')?;
    let mut fields = fields.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    // Field 22; the state is field 3.
    let start_ticks = fields.nth(22 - 4)?.parse().ok()?;
    Some(Stat { comm: comm.to_owned(), start_ticks })
}

fn read_start(path: &Path, limit: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    File::open(path).ok()?.take(limit as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// What a program calls itself: the base name of the first word of its command line.
///
/// Servers that write their state over their arguments keep their name in front: `nginx: worker process` is `nginx`,
/// `postgres: app shop 127.0.0.1(4711) idle` is `postgres`, `redis-server *:6379` is `redis-server`. An interpreter is named, not
/// its program (`python3 app.py` is `python3`): arguments never leave the process. A login shell's `-bash` is `bash`.
/// `None` for kernel threads, which have no command line.
fn command_of(cmdline: &[u8], executable: Option<&str>) -> Option<String> {
    let first = cmdline.split(|&byte| byte == 0).next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    // A path with blanks in it is a word if it is what runs.
    let word = if executable == Some(&*first) { &*first } else { first.split_ascii_whitespace().next()? };
    let base = word.trim_end_matches('/').rsplit('/').next()?;
    let name = base.trim_end_matches(':').trim_start_matches('-');
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
