//! What this kernel and this process's privileges offer, asked once and kept as plain data.
//! Decides nothing: `hooks` does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use libbpf_rs::{
    btf::{
        Btf,
        types::{Func, Typedef},
    },
    libbpf_sys,
};
use serde::{Serialize, Serializer};

use crate::{btf::BtfFile, config::BtfArchive};

use super::{
    locked_memory::LockedMemory,
    privileges::{self, Grant},
    programs::{Hook, PROGRAMS},
    questions, readings,
};

/// Where the kernel's types come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "from", content = "path", rename_all = "lowercase")]
pub enum BtfSource {
    /// `/sys/kernel/btf/vmlinux`
    Kernel,
    /// The file of `--btf`; serves field offsets only.
    File(PathBuf),
    /// Out of an archive; the same.
    Archive(Archived),
    None,
}

/// BTF out of an archive, as a file for as long as this lives.
#[derive(Clone, Debug)]
pub struct Archived(pub(super) Arc<BtfFile>);

impl Archived {
    pub fn path(&self) -> PathBuf {
        self.0.path()
    }

    /// Where it was found, for a person.
    pub fn origin(&self) -> &str {
        &self.0.origin
    }
}

impl PartialEq for Archived {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Archived {}

impl Serialize for Archived {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.origin())
    }
}

/// How control groups are mounted below `/sys/fs/cgroup`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cgroups {
    V1,
    V2,
    /// v1 controllers beside a v2 tree.
    Hybrid,
    None,
}

/// The hierarchy of control groups in which every engine places its containers.
///
/// Where version 1 controllers are in use that is the tree of one of them: a leaf in the tree of version 2 is a courtesy there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CgroupHierarchy {
    pub controller: CgroupController,
    /// As the kernel numbers hierarchies; version 2 is 0.
    pub number: u32,
}

/// What a hierarchy is named by: `unified` is version 2, the others are controllers of version 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupController {
    #[default]
    Unified,
    Pids,
    Memory,
    Devices,
}

impl CgroupController {
    /// `None` for version 2.
    pub fn version1_name(self) -> Option<&'static str> {
        match self {
            CgroupController::Unified => None,
            CgroupController::Pids => Some("pids"),
            CgroupController::Memory => Some("memory"),
            CgroupController::Devices => Some("devices"),
        }
    }
}

/// What the kernel offers. `None` in an `Option<bool>`: cannot be known without more privileges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Features {
    /// As `uname -r` writes it.
    pub kernel: String,
    pub architecture: String,
    pub root: bool,
    /// The effective ones among those that matter here.
    pub capabilities: Vec<String>,
    pub btf: BtfSource,
    /// Why the file of `--btf` or the kernel's own BTF cannot be used.
    pub btf_error: Option<String>,
    /// The mount point, where tracefs is mounted and can be read.
    pub tracefs: Option<PathBuf>,
    /// Names of [`TRACEPOINTS`], and whether they are there; all of them where neither BTF nor tracefs can tell.
    pub tracepoints: BTreeMap<String, bool>,
    /// Those of the functions that programs of `fentry` are attached to, by the kernel's own BTF.
    pub functions: BTreeSet<String>,
    /// Functions that receive have an argument `nonblock` before `flags` (before 5.19, ec095263a965).
    pub recv_nonblock: bool,
    pub kprobes: Option<bool>,
    /// A trivial program was attached to the end of a kernel function.
    pub function_exits: Option<bool>,
    pub ring_buffer: Option<bool>,
    /// Atomic operations that give back the old value (5ffa25502b5a, Linux 5.12).
    pub atomic_fetch: Option<bool>,
    /// `bpf_get_current_task_btf` (Linux 5.11).
    pub task_btf: Option<bool>,
    /// `bpf_task_pt_regs` (Linux 5.15).
    pub task_pt_regs: Option<bool>,
    /// A task can be preempted while a tracepoint runs our program for it (Linux 7.0, a46023d5616e, where RCU readers are preemptible).
    pub preemptible_tracepoints: bool,
    /// The same at the end of functions, for which it is enough that the kernel is preempted (PREEMPT, PREEMPT_RT).
    pub preemptible_functions: bool,
    /// none, integrity, confidentiality, or unknown.
    pub lockdown: String,
    /// 0 allowed, 1 off until reboot, 2 off.
    pub unprivileged_bpf_disabled: Option<u32>,
    pub bpf_stats_enabled: Option<bool>,
    pub jit: Option<bool>,
    pub cgroups: Cgroups,
    /// The hierarchy's tree can be read from its root, so that every container is in it, not our own alone. `None`: it is not mounted.
    pub whole_cgroup_tree: Option<bool>,
    pub cgroup_hierarchy: CgroupHierarchy,
    /// Whether process ids mean the same to us and to the kernel's hooks.
    pub host_pid_namespace: Option<bool>,
    /// Whether our network namespace is that of the host's first process; unknown without the host's pid namespace.
    pub host_network_namespace: Option<bool>,
    /// A trivial program was loaded. `Some(false)`: refused although the capabilities are held, as a seccomp filter does.
    pub bpf_call: Option<bool>,
    /// An event of perf was opened. `Some(false)`: refused although CAP_PERFMON is held.
    pub perf_events: Option<bool>,
    pub perf_event_paranoid: Option<i32>,
    pub locked_memory: LockedMemory,
    /// What CAP_SYS_PTRACE grants works. `Some(false)`: refused although it is held, as AppArmor does. Unknown without it.
    pub reads_processes: Option<bool>,
    /// The socket of Docker or podman, where there is one.
    pub docker_socket: Option<PathBuf>,
}

/// Who keeps the processor for a data program while it runs. See `enum processor_holder` in `settings.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessorHolder {
    Tracepoint,
    Perf,
    Program,
}

/// The tracepoints that hooks may use, and their folder in tracefs.
pub const TRACEPOINTS: [(&str, &str); 12] = [
    ("sock", "sock_send_length"),
    ("sock", "sock_recv_length"),
    ("sock", "inet_sock_set_state"),
    ("tcp", "tcp_destroy_sock"),
    ("tcp", "tcp_rcv_space_adjust"),
    ("sched", "sched_process_exec"),
    ("sched", "sched_process_exit"),
    ("sched", "sched_process_fork"),
    ("cgroup", "cgroup_mkdir"),
    ("cgroup", "cgroup_rename"),
    ("cgroup", "cgroup_rmdir"),
    ("raw_syscalls", "sys_exit"),
];
/// Those that tell of control groups.
const CGROUP_TRACEPOINTS: [&str; 3] = ["cgroup_mkdir", "cgroup_rename", "cgroup_rmdir"];

/// PROC_PID_INIT_INO of the kernel's include/linux/proc_ns.h: the first pid namespace has this inode on every kernel since 3.8.
const HOST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

impl Features {
    /// Asks the kernel. Never fails: what cannot be asked is absent or unknown.
    ///
    /// `btf` is the file of `--btf`, `archive` where BTF is looked for if there is none, `engines` where the socket of a container engine is.
    pub fn probe(btf: Option<&Path>, archive: &BtfArchive, engines: &[PathBuf]) -> Self {
        let (kernel, architecture) = nix::sys::utsname::uname().map_or_else(
            |_| (String::new(), String::new()),
            |uname| (uname.release().to_string_lossy().into_owned(), uname.machine().to_string_lossy().into_owned()),
        );
        let proc = Path::new("/proc");
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let capabilities = privileges::effective_capabilities(&status);
        let tracefs = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
            .map(PathBuf::from)
            .into_iter()
            .find(|folder| fs::read_dir(folder.join("events")).is_ok());
        let (btf, btf_error, own) = readings::find_btf(btf, archive, &architecture);
        let tracepoints = TRACEPOINTS
            .iter()
            .map(|(group, name)| {
                let in_btf = own.as_ref().is_some_and(|own| own.type_by_name::<Typedef<'_>>(&format!("btf_trace_{name}")).is_some());
                let in_tracefs = tracefs.as_ref().is_some_and(|folder| folder.join("events").join(group).join(name).exists());
                ((*name).to_owned(), in_btf || in_tracefs || (own.is_none() && tracefs.is_none()))
            })
            .collect();
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let host_pid_namespace = fs::metadata("/proc/self/ns/pid").ok().map(|namespace| namespace.ino() == HOST_PID_NAMESPACE);
        let ptrace = privileges::grant(&capabilities, "CAP_SYS_PTRACE") != Grant::Missing;
        let cgroup_hierarchy = readings::cgroup_hierarchy(&fs::read_to_string("/proc/cgroups").unwrap_or_default());
        let function_names = PROGRAMS.iter().filter_map(|program| match program.hook {
            Hook::FunctionExit(name) => Some(name),
            _ => None,
        });
        let functions = function_names.filter(|name| own.as_ref().is_some_and(|own| own.type_by_name::<Func<'_>>(name).is_some()));
        let mut features = Self {
            functions: functions.map(str::to_owned).collect(),
            recv_nonblock: readings::recv_nonblock(own.as_ref(), &kernel),
            root: nix::unistd::geteuid().is_root(),
            btf,
            btf_error,
            kprobes: readings::kprobes(tracefs.as_deref()),
            tracefs,
            tracepoints,
            function_exits: None,
            ring_buffer: None,
            atomic_fetch: None,
            task_btf: None,
            task_pt_regs: None,
            preemptible_tracepoints: own.as_ref().is_some_and(readings::preemptible_tracepoints),
            preemptible_functions: own.as_ref().is_some_and(readings::preemptible_tracepoints) || readings::preemptible_kernel(),
            lockdown: readings::lockdown(fs::read_to_string("/sys/kernel/security/lockdown").ok().as_deref()),
            unprivileged_bpf_disabled: readings::number("/proc/sys/kernel/unprivileged_bpf_disabled"),
            bpf_stats_enabled: readings::number("/proc/sys/kernel/bpf_stats_enabled").map(|on: u32| on != 0),
            jit: readings::number("/proc/sys/net/core/bpf_jit_enable").map(|on: u32| on != 0),
            cgroups: readings::cgroups(&mountinfo),
            whole_cgroup_tree: readings::whole_cgroup_tree(cgroup_hierarchy.controller),
            cgroup_hierarchy,
            host_pid_namespace,
            host_network_namespace: if host_pid_namespace == Some(true) { privileges::host_network_namespace(proc) } else { None },
            bpf_call: None,
            perf_events: None,
            perf_event_paranoid: readings::number("/proc/sys/kernel/perf_event_paranoid"),
            locked_memory: LockedMemory::read(&kernel),
            reads_processes: if ptrace { privileges::reads_processes(proc) } else { None },
            docker_socket: engines.iter().find(|path| fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())).cloned(),
            kernel,
            architecture,
            capabilities,
        };
        // Without privileges libbpf takes the refusal of every load for an answer, and its answers would be wrong.
        if features.may_load() {
            features.ask_libbpf(own.as_ref());
        }
        features
    }

    fn ask_libbpf(&mut self, own: Option<&Btf<'_>>) {
        // libbpf explains each refusal of a probe; here a refusal is an answer.
        let previous = libbpf_rs::set_print(None);
        self.bpf_call = Some(questions::trivial_program());
        if self.bpf_call == Some(false) {
            // libbpf would take the refusal for the answer, below.
            libbpf_rs::set_print(previous);
            return;
        }
        self.function_exits = Some(own.is_some_and(questions::function_exits));
        self.ring_buffer = questions::has_map_type(libbpf_sys::BPF_MAP_TYPE_RINGBUF);
        self.atomic_fetch = questions::atomic_fetch();
        self.task_btf = questions::has_helper(libbpf_sys::BPF_PROG_TYPE_RAW_TRACEPOINT, libbpf_sys::BPF_FUNC_get_current_task_btf);
        self.task_pt_regs = questions::has_helper(libbpf_sys::BPF_PROG_TYPE_RAW_TRACEPOINT, libbpf_sys::BPF_FUNC_task_pt_regs);
        self.perf_events = questions::perf_events();
        // A helper of the release in which BPF's memory became that of control groups (d05512618056, Linux 5.11); libbpf asks the same.
        if let Some(there) = questions::has_helper(libbpf_sys::BPF_PROG_TYPE_SOCKET_FILTER, libbpf_sys::BPF_FUNC_ktime_get_coarse_ns) {
            self.locked_memory.maps_count = !there;
        }
        libbpf_rs::set_print(previous);
    }

    /// How the capability is held; only of those that [`Self::capabilities`] may list.
    pub fn grant(&self, capability: &str) -> Grant {
        privileges::grant(&self.capabilities, capability)
    }

    /// Who keeps the processor for the data programs of tracepoints. Perf's numbers of tracepoints are found in tracefs, and perf may be
    /// refused: then some runs are left out, which is better than none.
    pub fn processor_holder(&self) -> ProcessorHolder {
        match (self.preemptible_tracepoints, &self.tracefs) {
            (false, _) => ProcessorHolder::Tracepoint,
            (true, Some(_)) if self.perf_events != Some(false) => ProcessorHolder::Perf,
            (true, _) => ProcessorHolder::Program,
        }
    }

    /// Debian's and Ubuntu's kernels open no events but for CAP_SYS_ADMIN where `kernel.perf_event_paranoid` is above 2; it is what they
    /// begin with. Others know no such level.
    pub fn perf_wants_sys_admin(&self) -> bool {
        self.perf_events == Some(false)
            && self.perf_event_paranoid.is_some_and(|level| level > 2)
            && self.grant("CAP_SYS_ADMIN") != Grant::Held
    }

    /// The group of a tracepoint of [`TRACEPOINTS`], its folder in tracefs.
    pub fn tracepoint_group(name: &str) -> Option<&'static str> {
        TRACEPOINTS.iter().find(|(_, known)| *known == name).map(|(group, _)| *group)
    }

    /// The kernel takes the typed flavour of the programs, which is the cheaper one.
    pub fn takes_typed_programs(&self) -> bool {
        self.btf == BtfSource::Kernel && [self.ring_buffer, self.atomic_fetch, self.task_btf].iter().all(|there| *there != Some(false))
    }

    /// Whether what a program is attached to is there, as far as can be known without the attempt.
    pub fn has_hook(&self, hook: Hook) -> bool {
        match hook {
            Hook::Tracepoint(name) => self.has_tracepoint(name),
            Hook::FunctionExit(name) => self.functions.contains(name),
            Hook::Kprobe(_) => self.kprobes != Some(false),
            Hook::PerfTracepoint(_) => self.processor_holder() == ProcessorHolder::Perf,
            // Iterators are typed; 5.9 has that of map elements (a5cbe05a6673).
            Hook::Walk => self.btf == BtfSource::Kernel && version(&self.kernel) >= (5, 9),
        }
    }

    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.tracepoints.get(name).copied().unwrap_or(false)
    }

    /// The kernel can tell when control groups are made and removed.
    pub fn tells_cgroups(&self) -> bool {
        CGROUP_TRACEPOINTS.iter().all(|name| self.has_tracepoint(name))
    }

    /// Privileges to load tracing programs. Container engines older than CAP_BPF (Linux 5.8) grant CAP_SYS_ADMIN alone.
    pub fn may_load(&self) -> bool {
        self.grant("CAP_BPF") != Grant::Missing && self.grant("CAP_PERFMON") != Grant::Missing
    }
}

/// The first two numbers of a kernel's release; zeros where there are none.
pub fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A host on which everything works.
    pub(crate) fn complete() -> Features {
        Features {
            kernel: "6.12.0".to_owned(),
            architecture: "x86_64".to_owned(),
            root: true,
            capabilities: privileges::CAPABILITIES.map(|(_, name)| name.to_owned()).to_vec(),
            btf: BtfSource::Kernel,
            btf_error: None,
            tracefs: Some(PathBuf::from("/sys/kernel/tracing")),
            tracepoints: TRACEPOINTS.iter().map(|(_, name)| ((*name).to_owned(), true)).collect(),
            kprobes: Some(true),
            functions: PROGRAMS
                .iter()
                .filter_map(|program| if let Hook::FunctionExit(name) = program.hook { Some(name.to_owned()) } else { None })
                .collect(),
            recv_nonblock: false,
            function_exits: Some(true),
            ring_buffer: Some(true),
            atomic_fetch: Some(true),
            task_btf: Some(true),
            task_pt_regs: Some(true),
            preemptible_tracepoints: false,
            preemptible_functions: false,
            lockdown: "none".to_owned(),
            unprivileged_bpf_disabled: Some(2),
            bpf_stats_enabled: Some(false),
            jit: Some(true),
            cgroups: Cgroups::V2,
            whole_cgroup_tree: Some(true),
            cgroup_hierarchy: CgroupHierarchy::default(),
            host_pid_namespace: Some(true),
            host_network_namespace: Some(true),
            bpf_call: Some(true),
            perf_events: Some(true),
            perf_event_paranoid: Some(2),
            locked_memory: LockedMemory { maps_count: false, limit_bytes: None, hard_limit_bytes: None, perf_bytes: 1032 << 10 },
            reads_processes: Some(true),
            docker_socket: Some(PathBuf::from("/var/run/docker.sock")),
        }
    }

    impl Features {
        pub(crate) fn set_tracepoint(&mut self, name: &str, there: bool) {
            assert!(self.tracepoints.insert(name.to_owned(), there).is_some(), "{name} is not a tracepoint we know");
        }
    }

    #[test]
    fn perf_holds_the_processor_where_it_must_and_may() {
        let holder = |preemptible, tracefs: bool, perf_events| {
            let tracefs = tracefs.then(|| PathBuf::from("/sys/kernel/tracing"));
            Features { preemptible_tracepoints: preemptible, tracefs, perf_events, ..complete() }.processor_holder()
        };
        assert_eq!(holder(true, true, Some(true)), ProcessorHolder::Perf);
        assert_eq!(holder(true, true, None), ProcessorHolder::Perf, "unknown is tried");
        assert_eq!(holder(true, true, Some(false)), ProcessorHolder::Program);
        assert_eq!(holder(true, false, Some(true)), ProcessorHolder::Program);
        assert_eq!(holder(false, true, Some(false)), ProcessorHolder::Tracepoint);
    }

    #[test]
    fn probing_without_any_privilege_or_file_still_answers() {
        let features = Features::probe(Some(Path::new("/nonexistent.btf")), &BtfArchive::None, &[]);
        assert!(features.kernel.starts_with(|first: char| first.is_ascii_digit()), "{features:?}");
        assert_eq!(features.tracepoints.len(), TRACEPOINTS.len());
        assert!(features.btf_error.as_ref().is_some_and(|error| error.contains("/nonexistent.btf")), "{features:?}");
    }
}
