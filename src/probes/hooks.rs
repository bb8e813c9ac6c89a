//! Which hook family carries the data: a decision from features alone, without asking the kernel again.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    features::{BtfSource, Features, ProcessorHolder, version},
    load::Flavour,
    locked_memory,
    privileges::Grant,
    programs::{self, Hook, Program},
    transport::Transport,
};
use crate::config::{self, Hooks};

/// A hook family that carries the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HookFamily {
    Socket,
    Fentry,
    Kprobe,
    Syscalls,
    /// Frames of network interfaces, chosen by name alone: what it sees is something else.
    Packet,
}

impl HookFamily {
    /// Those that see sockets, in the order of preference: the cheaper first, as measured (docs/kernels.md).
    pub const ALL: [HookFamily; 4] = [HookFamily::Socket, HookFamily::Fentry, HookFamily::Syscalls, HookFamily::Kprobe];

    pub fn name(self) -> &'static str {
        match self {
            HookFamily::Socket => "socket",
            HookFamily::Fentry => "fentry",
            HookFamily::Kprobe => "kprobe",
            HookFamily::Syscalls => "syscalls",
            HookFamily::Packet => "packet",
        }
    }
}

/// Why no hook family was chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the hooks {family} cannot work on this host: {}", .missing.join(", "))]
    Missing { family: &'static str, missing: Vec<String> },
    #[error("{}", .0.join("; "))]
    NoneWorks(Vec<String>),
}

/// The family that was asked for, or with `auto` all that have what they need, the cheapest first: one that fails all the same is
/// followed by the next. Never empty.
///
/// # Errors
/// [`Refusal`] names all that is missing, of every family that was considered.
pub fn choose_hooks(features: &Features, wanted: Hooks, transport: config::Transport) -> Result<Vec<HookFamily>, Refusal> {
    let family = match wanted {
        Hooks::Auto => return choose_any(features, transport),
        Hooks::Socket => HookFamily::Socket,
        Hooks::Syscalls => HookFamily::Syscalls,
        Hooks::Fentry => HookFamily::Fentry,
        Hooks::Kprobe => HookFamily::Kprobe,
        Hooks::Packet => HookFamily::Packet,
    };
    let missing = missing(features, family, transport);
    if missing.is_empty() { Ok(vec![family]) } else { Err(Refusal::Missing { family: family.name(), missing }) }
}

fn choose_any(features: &Features, transport: config::Transport) -> Result<Vec<HookFamily>, Refusal> {
    let lacking = HookFamily::ALL.map(|family| (family, missing(features, family, transport)));
    let usable: Vec<_> = lacking.iter().filter(|(_, missing)| missing.is_empty()).map(|(family, _)| *family).collect();
    if !usable.is_empty() {
        return Ok(usable);
    }
    // What no family can do without is said once.
    let of_all = |what: &&String| lacking.iter().all(|(_, missing)| missing.contains(what));
    let shared: Vec<_> = lacking[0].1.iter().filter(of_all).cloned().collect();
    let mut reasons = if shared.is_empty() { vec![] } else { vec![format!("this host lacks {}", shared.join(", "))] };
    for (family, missing) in &lacking {
        let own: Vec<_> = missing.iter().filter(|what| !shared.contains(what)).cloned().collect();
        if !own.is_empty() {
            reasons.push(format!("{} lacks {}", family.name(), own.join(", ")));
        }
    }
    Err(Refusal::NoneWorks(reasons))
}

/// What `family` needs and this host does not offer, in words; empty when it can work.
pub fn missing(features: &Features, family: HookFamily, transport: config::Transport) -> Vec<String> {
    let mut missing = Vec::new();
    let mut need = |there: bool, what: &str| {
        if !there {
            missing.push(what.to_owned());
        }
    };
    let is_perf = !Transport::is_by_ring(transport, features.ring_buffer != Some(false));
    need(transport != config::Transport::Ring || features.ring_buffer != Some(false), "the BPF ring buffer (Linux 5.8)");
    if is_perf || family == HookFamily::Kprobe {
        // libbpf attaches kprobes by perf, whether the kernel has perf's own kind of them or makes them in tracefs.
        need(features.perf_events != Some(false), &format!("leave for perf_event_open, which {} refuses", perf_refuser(features)));
    }
    if family == HookFamily::Packet {
        // A socket filter reads no memory of the kernel: its types are not asked for.
        need(features.grant("CAP_BPF") != Grant::Missing, "CAP_BPF (or CAP_SYS_ADMIN)");
        need(features.grant("CAP_NET_RAW") != Grant::Missing, "CAP_NET_RAW");
        need(!is_perf || features.grant("CAP_PERFMON") != Grant::Missing, "CAP_PERFMON (or CAP_SYS_ADMIN), for perf buffers");
        need(features.bpf_call != Some(false), &format!("leave for the bpf system call, which {} refuses", bpf_refuser(features)));
        return missing;
    }
    for capability in ["CAP_BPF", "CAP_PERFMON"] {
        need(features.grant(capability) != Grant::Missing, &format!("{capability} (or CAP_SYS_ADMIN)"));
    }
    need(features.bpf_call != Some(false), &format!("leave for the bpf system call, which {} refuses", bpf_refuser(features)));
    need(features.lockdown != "confidentiality", "a kernel that is not locked down for confidentiality");
    need(version(&features.kernel) >= OLDEST, "Linux 5.4 or later");
    need(features.btf != BtfSource::None, "the kernel's types (BTF), its own, from a file or from an archive");
    // The verifier knows what arguments of functions and what a task's registers are from the running kernel's own types alone.
    let own_types = || matches!(features.btf, BtfSource::Kernel | BtfSource::None);
    // Plain programs cannot: two of them would write into one scratch.
    if holds_by_itself(features, family) {
        need(transport != config::Transport::Perf, "the ring: without tracefs and perf only typed programs can keep their processor here");
    }
    match family {
        HookFamily::Socket => {
            need(own_types(), "the running kernel's own BTF (/sys/kernel/btf/vmlinux)");
            need(features.task_pt_regs != Some(false), "the helper bpf_task_pt_regs (Linux 5.15)");
        }
        HookFamily::Fentry => {
            need(own_types(), "the running kernel's own BTF (/sys/kernel/btf/vmlinux)");
            need(features.function_exits != Some(false), "programs at the end of kernel functions (BPF trampolines)");
            need(
                !features.preemptible_functions,
                "a kernel that lets such programs end (this one is preempted in them, and leaves the next task's out)",
            );
        }
        HookFamily::Kprobe => need(features.kprobes != Some(false), "kprobes"),
        HookFamily::Syscalls | HookFamily::Packet => {}
    }
    if features.btf == BtfSource::None {
        return missing;
    }
    for program in programs::of_family(family).filter(|program| program.required) {
        match program.hook {
            Hook::Tracepoint(name) => need(features.has_tracepoint(name), &format!("the tracepoint {name}")),
            Hook::FunctionExit(name) => need(features.has_hook(program.hook), &format!("the function {name}")),
            Hook::Kprobe(_) | Hook::PerfTracepoint(_) | Hook::Walk => {}
        }
    }
    missing
}

fn bpf_refuser(features: &Features) -> &'static str {
    if locked_memory::limits_bpf(features) {
        "a seccomp filter, a security module or the limit of locked memory"
    } else {
        "a seccomp filter or a security module"
    }
}

fn perf_refuser(features: &Features) -> &'static str {
    if features.perf_wants_sys_admin() { "kernel.perf_event_paranoid above 2" } else { "a seccomp filter or a security module" }
}

/// The data programs are on tracepoints in which tasks are preempted, and keep the processor themselves.
fn holds_by_itself(features: &Features, family: HookFamily) -> bool {
    features.processor_holder() == ProcessorHolder::Program && matches!(family, HookFamily::Socket | HookFamily::Syscalls)
}

/// Global variables, bounded loops, and what else the verifier must know (docs/kernels.md).
const OLDEST: (u32, u32) = (5, 4);

/// How the programs of a family are loaded on this kernel.
#[derive(Clone, Debug)]
pub struct Way {
    pub family: HookFamily,
    /// That the kernel may take, the better first.
    pub flavours: Vec<Flavour>,
    pub transport: Transport,
    /// Programs whose hook this kernel does not have.
    pub absent: Vec<&'static str>,
    /// See [`Features::recv_nonblock`].
    pub recv_nonblock: bool,
    pub holder: ProcessorHolder,
    /// The reader makes no system call on maps that the programs use: perf leaves programs out on a processor on which a task was
    /// preempted in such a call.
    pub hands_off: bool,
    /// Many elements of a map can be read at once (Linux 5.6, 057996380a42).
    pub reads_batches: bool,
    /// Kernel types for field offsets, where the running kernel has none.
    pub btf: Option<PathBuf>,
}

impl Way {
    /// `ring_bytes`: of the ring, or of all perf buffers together.
    pub fn new(features: &Features, family: HookFamily, transport: config::Transport, ring_bytes: u32) -> Self {
        let transport = Transport::choose(transport, features.ring_buffer != Some(false), ring_bytes);
        let typed = transport == Transport::Ring && features.takes_typed_programs();
        let by_perf = features.processor_holder() == ProcessorHolder::Perf || family == HookFamily::Kprobe;
        let hands_off = by_perf && features.preemptible_functions && features.has_hook(Hook::Walk);
        let there = |program: &&Program| features.has_hook(program.hook) && (hands_off || program.hook != Hook::Walk);
        Self {
            family,
            flavours: match typed {
                true if holds_by_itself(features, family) => vec![Flavour::Typed],
                true => vec![Flavour::Typed, Flavour::Plain],
                false => vec![Flavour::Plain],
            },
            transport,
            absent: programs::of_family(family).filter(|program| !there(program)).map(|program| program.name).collect(),
            recv_nonblock: features.recv_nonblock,
            holder: features.processor_holder(),
            hands_off,
            reads_batches: version(&features.kernel) >= (5, 6),
            btf: match &features.btf {
                BtfSource::File(path) => Some(path.clone()),
                // `features` keeps the file alive.
                BtfSource::Archive(archived) => Some(archived.path()),
                BtfSource::Kernel | BtfSource::None => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::features::tests::complete, *};

    fn choose(features: &Features, wanted: Hooks) -> Result<Vec<HookFamily>, Refusal> {
        choose_hooks(features, wanted, config::Transport::Auto)
    }

    #[test]
    fn auto_takes_all_that_can_work_in_the_order_of_their_cost() {
        let mut features = complete();
        assert_eq!(choose(&features, Hooks::Auto).unwrap(), HookFamily::ALL);
        features.set_tracepoint("sock_send_length", false);
        assert_eq!(choose(&features, Hooks::Auto).unwrap(), [HookFamily::Fentry, HookFamily::Syscalls, HookFamily::Kprobe]);
        features.function_exits = Some(false);
        features.kprobes = Some(false);
        assert_eq!(choose(&features, Hooks::Auto).unwrap(), [HookFamily::Syscalls]);
        assert_eq!(choose(&features, Hooks::Syscalls).unwrap(), [HookFamily::Syscalls]);
        for (wanted, refusal) in [
            (Hooks::Socket, "the hooks socket cannot work on this host: the tracepoint sock_send_length"),
            (Hooks::Fentry, "the hooks fentry cannot work on this host: programs at the end of kernel functions (BPF trampolines)"),
            (Hooks::Kprobe, "the hooks kprobe cannot work on this host: kprobes"),
        ] {
            assert_eq!(choose(&features, wanted).unwrap_err().to_string(), refusal);
        }
    }

    #[test]
    fn sys_admin_alone_is_enough_and_bpf_without_perfmon_is_not() {
        let mut features = complete();
        features.capabilities = vec!["CAP_SYS_ADMIN".to_owned()];
        assert!(choose(&features, Hooks::Auto).is_ok());
        features.capabilities = vec!["CAP_BPF".to_owned()];
        let refusal = choose(&features, Hooks::Auto).unwrap_err().to_string();
        assert_eq!(refusal, "this host lacks CAP_PERFMON (or CAP_SYS_ADMIN)");
    }

    #[test]
    fn types_from_a_file_serve_the_families_that_need_no_typed_arguments() {
        let mut features = complete();
        features.btf = BtfSource::File("/x.btf".into());
        assert_eq!(choose(&features, Hooks::Auto).unwrap(), [HookFamily::Syscalls, HookFamily::Kprobe]);
        let way = Way::new(&features, HookFamily::Syscalls, config::Transport::Auto, 8 << 20);
        assert_eq!((way.flavours, way.btf), (vec![Flavour::Plain], Some("/x.btf".into())));
        features.btf = BtfSource::None;
        let refusal = choose(&features, Hooks::Auto).unwrap_err().to_string();
        assert_eq!(refusal, "this host lacks the kernel's types (BTF), its own, from a file or from an archive");
    }

    #[test]
    fn an_old_kernel_gets_the_plain_programs_and_the_perf_buffer() {
        let mut features = complete();
        let way = |features: &Features, transport| Way::new(features, HookFamily::Kprobe, transport, 8 << 20);
        assert_eq!(way(&features, config::Transport::Auto).flavours, [Flavour::Typed, Flavour::Plain]);
        assert_eq!(way(&features, config::Transport::Perf).flavours, [Flavour::Plain]);
        features.atomic_fetch = Some(false);
        assert_eq!(way(&features, config::Transport::Auto).flavours, [Flavour::Plain]);
        assert_eq!(way(&features, config::Transport::Auto).transport, Transport::Ring);
        features.ring_buffer = Some(false);
        assert!(matches!(way(&features, config::Transport::Auto).transport, Transport::Perf { buffer_bytes: 131_072.. }));
        let refusal = choose_hooks(&features, Hooks::Kprobe, config::Transport::Ring).unwrap_err().to_string();
        assert_eq!(refusal, "the hooks kprobe cannot work on this host: the BPF ring buffer (Linux 5.8)");
        features.kernel = "4.19.0-27-amd64".to_owned();
        assert!(choose(&features, Hooks::Auto).unwrap_err().to_string().contains("Linux 5.4 or later"));
    }

    #[test]
    fn who_cannot_keep_the_processor_is_not_loaded_where_tracepoints_are_preempted() {
        let mut features = complete();
        (features.preemptible_tracepoints, features.preemptible_functions, features.tracefs) = (true, true, None);
        let way = Way::new(&features, HookFamily::Socket, config::Transport::Auto, 8 << 20);
        assert_eq!((way.holder, way.flavours), (ProcessorHolder::Program, vec![Flavour::Typed]));
        let refusal = choose_hooks(&features, Hooks::Socket, config::Transport::Perf).unwrap_err().to_string();
        assert!(refusal.contains("the ring: without tracefs"), "{refusal}");
        assert_eq!(missing(&features, HookFamily::Kprobe, config::Transport::Perf), Vec::<String>::new());
    }

    #[test]
    fn what_one_family_lacks_is_said_of_it_alone() {
        let mut features = complete();
        features.set_tracepoint("sock_send_length", false);
        features.set_tracepoint("tcp_destroy_sock", false);
        let refusal = choose(&features, Hooks::Auto).unwrap_err().to_string();
        assert_eq!(refusal, "this host lacks the tracepoint tcp_destroy_sock; socket lacks the tracepoint sock_send_length");
    }

    #[test]
    fn frames_need_neither_types_nor_a_new_kernel_but_the_right_to_see_them() {
        let mut features = complete();
        (features.btf, features.task_btf) = (BtfSource::None, Some(false));
        features.lockdown = "confidentiality".to_owned();
        assert_eq!(choose(&features, Hooks::Packet).unwrap(), [HookFamily::Packet]);
        features.capabilities = vec!["CAP_BPF".to_owned()];
        let refusal = choose(&features, Hooks::Packet).unwrap_err().to_string();
        assert_eq!(refusal, "the hooks packet cannot work on this host: CAP_NET_RAW");
        features.ring_buffer = Some(false);
        let refusal = choose(&features, Hooks::Packet).unwrap_err().to_string();
        assert!(refusal.contains("for perf buffers"), "{refusal}");
    }

    #[test]
    fn where_perf_is_refused_kprobes_and_perf_buffers_are_and_the_rest_is_not() {
        let mut features = complete();
        features.perf_events = Some(false);
        features.perf_event_paranoid = Some(3);
        features.capabilities.retain(|held| held != "CAP_SYS_ADMIN");
        assert_eq!(choose(&features, Hooks::Auto).unwrap(), [HookFamily::Socket, HookFamily::Fentry, HookFamily::Syscalls]);
        assert_eq!(choose(&features, Hooks::Packet).unwrap(), [HookFamily::Packet]);
        let paranoid = "leave for perf_event_open, which kernel.perf_event_paranoid above 2 refuses";
        let refusal = choose(&features, Hooks::Kprobe).unwrap_err().to_string();
        assert_eq!(refusal, format!("the hooks kprobe cannot work on this host: {paranoid}"));
        for family in HookFamily::ALL.into_iter().chain([HookFamily::Packet]) {
            assert_eq!(missing(&features, family, config::Transport::Perf), [paranoid], "{family:?}");
        }
        features.ring_buffer = Some(false);
        assert_eq!(choose(&features, Hooks::Auto).unwrap_err().to_string(), format!("this host lacks {paranoid}"));
        assert_eq!(missing(&features, HookFamily::Packet, config::Transport::Ring), ["the BPF ring buffer (Linux 5.8)"]);
        features.capabilities.push("CAP_SYS_ADMIN".to_owned());
        let refusal = choose(&features, Hooks::Kprobe).unwrap_err().to_string();
        assert!(refusal.ends_with("leave for perf_event_open, which a seccomp filter or a security module refuses"), "{refusal}");
    }

    #[test]
    fn a_refused_bpf_call_is_laid_to_locked_memory_only_where_it_can_be() {
        let mut features = complete();
        features.bpf_call = Some(false);
        let said = |features: &Features| choose(features, Hooks::Syscalls).unwrap_err().to_string().contains("the limit of locked memory");
        assert!(!said(&features));
        features.locked_memory.maps_count = true;
        assert!(!said(&features), "there is no limit");
        (features.locked_memory.limit_bytes, features.locked_memory.hard_limit_bytes) = (Some(65_536), Some(65_536));
        assert!(!said(&features), "CAP_SYS_RESOURCE is held");
        features.capabilities.retain(|held| held != "CAP_SYS_RESOURCE");
        assert!(said(&features));
    }

    #[test]
    fn lockdown_is_said() {
        let mut features = complete();
        features.lockdown = "confidentiality".to_owned();
        assert!(choose(&features, Hooks::Syscalls).unwrap_err().to_string().contains("confidentiality"));
    }
}
