//! What this kernel and this process's privileges offer, asked once and kept as plain data.
//! Decides nothing: `hooks` does.
#![allow(unsafe_code, reason = "libbpf's feature probes have no safe wrapper")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    ptr,
    sync::Arc,
};

use libbpf_rs::{
    btf::{
        Btf, ReferencesType,
        types::{Func, FuncProto, Struct, Typedef, Var},
    },
    libbpf_sys::{self, bpf_func_id, bpf_map_type, bpf_prog_type},
};
use nix::{errno::Errno, libc};
use serde::{Serialize, Serializer};

use crate::{
    btf::{self, BtfFile},
    config::BtfArchive,
};

use super::{
    privileges::{self, Grant},
    programs::{Hook, PROGRAMS},
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
pub struct Archived(Arc<BtfFile>);

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
    /// An event of perf was opened. `Some(false)`: refused although CAP_PERFMON is held, as Debian and Ubuntu do where
    /// `kernel.perf_event_paranoid` is above 2: theirs wants CAP_SYS_ADMIN.
    pub perf_events: Option<bool>,
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
        let (btf, btf_error, own) = find_btf(btf, archive, &architecture);
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
        let cgroup_hierarchy = cgroup_hierarchy(&fs::read_to_string("/proc/cgroups").unwrap_or_default());
        let function_names = PROGRAMS.iter().filter_map(|program| match program.hook {
            Hook::FunctionExit(name) => Some(name),
            _ => None,
        });
        let functions = function_names.filter(|name| own.as_ref().is_some_and(|own| own.type_by_name::<Func<'_>>(name).is_some()));
        let mut features = Self {
            functions: functions.map(str::to_owned).collect(),
            recv_nonblock: recv_nonblock(own.as_ref(), &kernel),
            root: nix::unistd::geteuid().is_root(),
            btf,
            btf_error,
            kprobes: kprobes(tracefs.as_deref()),
            tracefs,
            tracepoints,
            function_exits: None,
            ring_buffer: None,
            atomic_fetch: None,
            task_btf: None,
            task_pt_regs: None,
            preemptible_tracepoints: own.as_ref().is_some_and(preemptible_tracepoints),
            preemptible_functions: own.as_ref().is_some_and(preemptible_tracepoints) || preemptible_kernel(),
            lockdown: lockdown(fs::read_to_string("/sys/kernel/security/lockdown").ok().as_deref()),
            unprivileged_bpf_disabled: number("/proc/sys/kernel/unprivileged_bpf_disabled"),
            bpf_stats_enabled: number("/proc/sys/kernel/bpf_stats_enabled").map(|on| on != 0),
            jit: number("/proc/sys/net/core/bpf_jit_enable").map(|on| on != 0),
            cgroups: cgroups(&mountinfo),
            whole_cgroup_tree: whole_cgroup_tree(cgroup_hierarchy.controller),
            cgroup_hierarchy,
            host_pid_namespace,
            host_network_namespace: if host_pid_namespace == Some(true) { privileges::host_network_namespace(proc) } else { None },
            bpf_call: None,
            perf_events: None,
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
        self.bpf_call = Some(trivial_program());
        if self.bpf_call == Some(false) {
            // libbpf would take the refusal for the answer, below.
            libbpf_rs::set_print(previous);
            return;
        }
        self.function_exits = Some(own.is_some_and(function_exits));
        self.ring_buffer = has_map_type(libbpf_sys::BPF_MAP_TYPE_RINGBUF);
        self.atomic_fetch = atomic_fetch();
        self.task_btf = has_helper(libbpf_sys::BPF_PROG_TYPE_RAW_TRACEPOINT, libbpf_sys::BPF_FUNC_get_current_task_btf);
        self.task_pt_regs = has_helper(libbpf_sys::BPF_PROG_TYPE_RAW_TRACEPOINT, libbpf_sys::BPF_FUNC_task_pt_regs);
        self.perf_events = perf_events();
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

/// The source, what is wrong with it or with one that was preferred, and the running kernel's own types.
fn find_btf(file: Option<&Path>, archive: &BtfArchive, architecture: &str) -> (BtfSource, Option<String>, Option<Btf<'static>>) {
    const KERNEL: &str = "/sys/kernel/btf/vmlinux";
    let previous = libbpf_rs::set_print(None);
    let own = Btf::from_path(KERNEL);
    libbpf_rs::set_print(previous);
    let file = file.map(|path| (path, check_file(path, architecture).err()));
    let file_error = file.as_ref().and_then(|(_, error)| error.clone());
    let error = match (own, file) {
        (Ok(own), _) => return (BtfSource::Kernel, file_error, Some(own)),
        (Err(_), Some((path, None))) => return (BtfSource::File(path.to_path_buf()), None, None),
        (Err(error), _) => format!("reading the types of {KERNEL}: {error:#}"),
    };
    let found = btf::look_up(archive).map_err(|miss| miss.to_string());
    match found.and_then(|found| found.into_file().map_err(|error| format!("{error:#}"))) {
        Ok(found) => (BtfSource::Archive(Archived(Arc::new(found))), file_error, None),
        Err(miss) => {
            (BtfSource::None, Some([Some(error), file_error, Some(miss)].into_iter().flatten().collect::<Vec<_>>().join("; ")), None)
        }
    }
}

fn check_file(path: &Path, architecture: &str) -> Result<(), String> {
    let wrong = |error: &dyn std::fmt::Display| format!("reading the types of {}: {error}", path.display());
    let bytes = fs::read(path).map_err(|error| wrong(&error))?;
    btf::check(&bytes, Some(btf::architecture(architecture))).map(drop).map_err(|fault| wrong(&fault))
}

/// Told by what such kernels are made of: the SRCU domain of tracepoints, which older ones (before 6.13) had for something else and
/// without the counters that make it fast (6.15); and the count of a task's RCU readers, without which these, programs among them, are
/// not preempted anyway.
fn preemptible_tracepoints(own: &Btf<'_>) -> bool {
    own.type_by_name::<Var<'_>>("tracepoint_srcu_srcu_data").is_some()
        && own.type_by_name::<Struct<'_>>("srcu_ctr").is_some()
        && own
            .type_by_name::<Struct<'_>>("task_struct")
            .is_some_and(|task| task.iter().any(|member| member.name.is_some_and(|name| name == "rcu_read_lock_nesting")))
}

/// By `uname -v`, `#1 SMP PREEMPT_RT Debian …`; with PREEMPT_DYNAMIC by what was chosen at boot, which debugfs tells, or not.
fn preemptible_kernel() -> bool {
    let version = nix::sys::utsname::uname().map_or_else(|_| String::new(), |uname| uname.version().to_string_lossy().into_owned());
    let chosen = fs::read_to_string("/sys/kernel/debug/sched/preempt").unwrap_or_default();
    is_preemptible(&version, &chosen)
}

fn is_preemptible(version: &str, chosen: &str) -> bool {
    version.split(' ').any(|word| match word {
        "PREEMPT" | "PREEMPT_RT" => true,
        "PREEMPT_DYNAMIC" => chosen.contains("(full)") || chosen.contains("(lazy)"),
        _ => false,
    })
}

/// libbpf answers 1 yes, 0 no, negative: could not be asked.
fn answer(code: i32) -> Option<bool> {
    (code >= 0).then_some(code > 0)
}

fn has_map_type(kind: bpf_map_type) -> Option<bool> {
    // SAFETY: takes a number and a null for no options; makes a map of one entry and closes it again.
    answer(unsafe { libbpf_sys::libbpf_probe_bpf_map_type(kind, ptr::null()) })
}

fn has_helper(kind: bpf_prog_type, helper: bpf_func_id) -> Option<bool> {
    // SAFETY: as above, with a program that calls the helper.
    answer(unsafe { libbpf_sys::libbpf_probe_bpf_helper(kind, helper, ptr::null()) })
}

/// Loads a program of one such operation; libbpf has no question of its own for it.
fn atomic_fetch() -> Option<bool> {
    const INSTRUCTIONS: [[u8; 8]; 5] = [
        [0xb7, 0x01, 0, 0, 1, 0, 0, 0],       // r1 = 1
        [0x7b, 0x1a, 0xf8, 0xff, 0, 0, 0, 0], // *(u64 *)(r10 - 8) = r1
        [0xdb, 0x1a, 0xf8, 0xff, 1, 0, 0, 0], // r1 = atomic_fetch_add((u64 *)(r10 - 8), r1)
        [0xb7, 0x00, 0, 0, 0, 0, 0, 0],       // r0 = 0
        [0x95, 0x00, 0, 0, 0, 0, 0, 0],       // exit
    ];
    match load_filter(&INSTRUCTIONS) {
        Ok(()) => Some(true),
        // The verifier's word for an instruction that it does not know.
        Err(Errno::EINVAL) => Some(false),
        Err(_) => None,
    }
}

/// Attaches a program that does nothing to the end of tcp_sendmsg, and lets it go again: a kernel may take such programs and yet not
/// attach them (no trampolines, as on arm64 before 6.4; a security module).
fn function_exits(own: &Btf<'_>) -> bool {
    const INSTRUCTIONS: [[u8; 8]; 2] = [
        [0xb7, 0x00, 0, 0, 0, 0, 0, 0], // r0 = 0
        [0x95, 0x00, 0, 0, 0, 0, 0, 0], // exit
    ];
    let Some(function) = own.type_by_name::<Func<'_>>("tcp_sendmsg") else { return false };
    let options = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as libbpf_sys::size_t,
        expected_attach_type: libbpf_sys::BPF_TRACE_FEXIT,
        attach_btf_id: u32::from(function.type_id()),
        ..Default::default()
    };
    let Ok(program) = load(libbpf_sys::BPF_PROG_TYPE_TRACING, &INSTRUCTIONS, Some(&options)) else { return false };
    // SAFETY: a null for no name, which such programs have not, and an open descriptor.
    let link = unsafe { libbpf_sys::bpf_raw_tracepoint_open(ptr::null(), program.as_raw_fd()) };
    if link < 0 {
        return false;
    }
    // SAFETY: the descriptor was made above and nobody else has it.
    drop(unsafe { OwnedFd::from_raw_fd(link) });
    true
}

/// By the kernel's own types; where there are none by its version, which distributions may have changed more than they say.
fn recv_nonblock(own: Option<&Btf<'_>>, kernel: &str) -> bool {
    const WITH_NONBLOCK: usize = 6;
    let prototype = own.and_then(|own| FuncProto::try_from(own.type_by_name::<Func<'_>>("tcp_recvmsg")?.referenced_type()).ok());
    prototype.map_or_else(|| version(kernel) < (5, 19), |prototype| prototype.len() == WITH_NONBLOCK)
}

/// The first two numbers of a kernel's release; zeros where there are none.
pub fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether the call is let through at all: whatever stands before the verifier says EPERM.
fn trivial_program() -> bool {
    const INSTRUCTIONS: [[u8; 8]; 2] = [
        [0xb7, 0x00, 0, 0, 0, 0, 0, 0], // r0 = 0
        [0x95, 0x00, 0, 0, 0, 0, 0, 0], // exit
    ];
    load_filter(&INSTRUCTIONS) != Err(Errno::EPERM)
}

/// Loads a program of these instructions.
fn load(kind: bpf_prog_type, instructions: &'static [[u8; 8]], options: Option<&libbpf_sys::bpf_prog_load_opts>) -> Result<OwnedFd, Errno> {
    // SAFETY: the pointers are to as many whole instructions as are told and to texts that end with a NUL, all of them static, and to
    // options of the size that they name, or none; the call copies them.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            kind,
            ptr::null(),
            c"GPL".as_ptr(),
            instructions.as_ptr().cast(),
            instructions.len() as libbpf_sys::size_t,
            options.map_or(ptr::null_mut(), |options| ptr::from_ref(options).cast_mut()),
        )
    };
    if fd < 0 {
        return Err(Errno::from_raw(-fd));
    }
    // SAFETY: the descriptor was made above and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A socket filter, which asks for the least.
fn load_filter(instructions: &'static [[u8; 8]]) -> Result<(), Errno> {
    load(libbpf_sys::BPF_PROG_TYPE_SOCKET_FILTER, instructions, None).map(drop)
}

/// Opens an event that counts nothing, as one is opened for a tracepoint: of all tasks, on the first processor. Other refusals than
/// these two say nothing of privileges.
fn perf_events() -> Option<bool> {
    const ALL_TASKS: libc::pid_t = -1;
    const CPU: libc::c_int = 0;
    const NO_GROUP: libc::c_int = -1;
    let event = libbpf_sys::perf_event_attr {
        type_: libbpf_sys::PERF_TYPE_SOFTWARE,
        size: size_of::<libbpf_sys::perf_event_attr>() as u32,
        config: u64::from(libbpf_sys::PERF_COUNT_SW_DUMMY),
        ..Default::default()
    };
    let flags = libc::c_ulong::from(libbpf_sys::PERF_FLAG_FD_CLOEXEC);
    // SAFETY: the first argument is an event that tells its size, which the call copies; the others are numbers.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, ptr::from_ref(&event), ALL_TASKS, CPU, NO_GROUP, flags) };
    let opened = Errno::result(fd).map(|fd| {
        // SAFETY: the descriptor was made above and nobody else has it. Descriptors fit.
        drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    });
    match opened {
        Ok(()) => Some(true),
        Err(Errno::EACCES | Errno::EPERM) => Some(false),
        Err(_) => None,
    }
}

/// The perf PMU exists where kprobes are compiled in, whether or not tracefs can be read.
fn kprobes(tracefs: Option<&Path>) -> Option<bool> {
    if Path::new("/sys/bus/event_source/devices/kprobe").exists() || tracefs.is_some_and(|folder| folder.join("kprobe_events").exists()) {
        return Some(true);
    }
    (Path::new("/sys/bus/event_source/devices").exists() || tracefs.is_some()).then_some(false)
}

fn number(path: &str) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The word in brackets: `none [integrity] confidentiality`. Kernels without the module have no such file and no lockdown.
fn lockdown(text: Option<&str>) -> String {
    let Some(text) = text else { return "none".to_owned() };
    let chosen = text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    chosen.unwrap_or("unknown").to_owned()
}

/// From proc(5) mountinfo: the file system type is the first word after the separator ` - `.
fn cgroups(mountinfo: &str) -> Cgroups {
    let mut types = mountinfo.lines().filter_map(|line| line.split_once(" - ")?.1.split(' ').next());
    let (mut v1, mut v2) = (false, false);
    types.by_ref().for_each(|kind| {
        v1 |= kind == "cgroup";
        v2 |= kind == "cgroup2";
    });
    match (v1, v2) {
        (true, true) => Cgroups::Hybrid,
        (true, false) => Cgroups::V1,
        (false, true) => Cgroups::V2,
        (false, false) => Cgroups::None,
    }
}

/// Whether we can read the hierarchy from its root, which the kernel numbers 1: at a mount of our own, or through the first process of
/// our pid namespace. The mount table would not tell: it is written as seen from our own cgroup namespace, where our own control group
/// is `/`. `None` where the hierarchy is not mounted at all.
fn whole_cgroup_tree(controller: CgroupController) -> Option<bool> {
    const ROOT_INODE: u64 = 1;
    let mut known = None;
    for (process, prefix) in [("self", ""), ("1", "/proc/1/root")] {
        let mountinfo = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
        for mount_point in cgroup_mount_points(&mountinfo, controller) {
            match fs::metadata(format!("{prefix}{mount_point}")) {
                Ok(root) if root.ino() == ROOT_INODE => return Some(true),
                _ => known = Some(false),
            }
        }
    }
    known
}

/// From proc_pid_mountinfo(5): the fifth field is the mount point; type, source and options follow the separator.
fn cgroup_mount_points(mountinfo: &str, controller: CgroupController) -> impl Iterator<Item = &str> {
    mountinfo.lines().filter_map(move |line| {
        let (fields, file_system) = line.split_once(" - ")?;
        let mut words = file_system.split(' ');
        let (kind, options) = (words.next()?, words.nth(1)?);
        let is_it = match controller.version1_name() {
            Some(name) => kind == "cgroup" && options.split(',').any(|option| option == name),
            None => kind == "cgroup2",
        };
        if is_it { fields.split(' ').nth(4) } else { None }
    })
}

/// From cgroups(7)'s `/proc/cgroups`, whose second column is the number of the version 1 hierarchy that has the controller, 0 if none
/// has. Asked in the order in which the controllers were given to engines: all of these place containers with the first.
fn cgroup_hierarchy(table: &str) -> CgroupHierarchy {
    let number = |name: &str| {
        let columns = table.lines().map(|line| line.split_ascii_whitespace()).find_map(|mut columns| {
            let here = columns.next()? == name;
            here.then_some(columns)
        });
        columns.and_then(|mut columns| columns.next()?.parse().ok()).filter(|number| *number != 0)
    };
    [CgroupController::Pids, CgroupController::Memory, CgroupController::Devices]
        .into_iter()
        .find_map(|controller| Some(CgroupHierarchy { controller, number: number(controller.version1_name()?)? }))
        .unwrap_or_default()
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
    fn lockdown_is_the_word_in_brackets() {
        assert_eq!(lockdown(Some("none [integrity] confidentiality\n")), "integrity");
        assert_eq!(lockdown(Some("[none] integrity confidentiality\n")), "none");
        assert_eq!(lockdown(None), "none");
        assert_eq!(lockdown(Some("")), "unknown");
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
    fn a_kernel_that_is_preempted_says_so() {
        assert!(is_preemptible("#1 SMP PREEMPT_RT Debian 6.1.158-1 (2025-11-09)", ""));
        assert!(is_preemptible("#1 SMP PREEMPT Thu Jan 1 1970", ""));
        assert!(is_preemptible("#1 SMP PREEMPT_DYNAMIC Debian 7.3.4-1", "none voluntary full (lazy)\n"));
        assert!(!is_preemptible("#1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1", "none (voluntary) full\n"));
        assert!(!is_preemptible("#1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1", ""));
        assert!(!is_preemptible("#1 SMP Debian 5.10.223-1", ""));
    }

    #[test]
    fn cgroup_mounts_are_told_apart() {
        let v1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n";
        let v2 = "42 31 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroups(v1), Cgroups::V1);
        assert_eq!(cgroups(v2), Cgroups::V2);
        assert_eq!(cgroups(&format!("{v1}{v2}")), Cgroups::Hybrid);
        assert_eq!(cgroups("1 2 0:1 / / rw - ext4 /dev/cgroup rw\n"), Cgroups::None);
    }

    #[test]
    fn containers_are_told_apart_by_a_version_1_controller_where_one_is_in_use() {
        let table = |pids: u32, memory: u32, devices: u32| {
            format!(
                "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\nmemory\t{memory}\t59\t1\n\
                 devices\t{devices}\t1\t1\npids\t{pids}\t2\t1\n"
            )
        };
        let hierarchy = |controller, number| CgroupHierarchy { controller, number };
        assert_eq!(cgroup_hierarchy(&table(8, 4, 5)), hierarchy(CgroupController::Pids, 8));
        assert_eq!(cgroup_hierarchy(&table(0, 4, 5)), hierarchy(CgroupController::Memory, 4));
        assert_eq!(cgroup_hierarchy(&table(0, 0, 5)), hierarchy(CgroupController::Devices, 5));
        for table in [table(0, 0, 0), String::new(), "pids".to_owned(), "pids\tx".to_owned()] {
            assert_eq!(cgroup_hierarchy(&table), hierarchy(CgroupController::Unified, 0), "{table:?}");
        }
    }

    #[test]
    fn mounts_of_a_hierarchy_are_found_by_type_and_controller() {
        let table = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                     32 31 0:29 /docker/a /sys/fs/cgroup/cpu,pids ro,relatime shared:9 - cgroup cgroup rw,cpu,pids\n\
                     41 31 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let found = |controller| cgroup_mount_points(table, controller).collect::<Vec<_>>();
        assert_eq!(found(CgroupController::Unified), ["/sys/fs/cgroup/unified"]);
        assert_eq!(found(CgroupController::Pids), ["/sys/fs/cgroup/cpu,pids"]);
        assert_eq!(found(CgroupController::Memory), [""; 0]);
    }

    #[test]
    fn probing_without_any_privilege_or_file_still_answers() {
        let features = Features::probe(Some(Path::new("/nonexistent.btf")), &BtfArchive::None, &[]);
        assert!(features.kernel.starts_with(|first: char| first.is_ascii_digit()), "{features:?}");
        assert_eq!(features.tracepoints.len(), TRACEPOINTS.len());
        assert!(features.btf_error.as_ref().is_some_and(|error| error.contains("/nonexistent.btf")), "{features:?}");
    }
}
