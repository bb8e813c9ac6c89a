//! Which hook family carries the data: a decision from features alone, without asking the kernel again.

use serde::Serialize;

use super::{
    features::{BtfSource, Features},
    privileges::Grant,
};
use crate::config::Hooks;

/// A hook family that this version can load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HookFamily {
    Socket,
    Syscalls,
}

impl HookFamily {
    /// In the order of preference: the cheaper first.
    pub const ALL: [HookFamily; 2] = [HookFamily::Socket, HookFamily::Syscalls];

    pub fn name(self) -> &'static str {
        match self {
            HookFamily::Socket => "socket",
            HookFamily::Syscalls => "syscalls",
        }
    }
}

/// Why no hook family was chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the hooks {0} are not available in this version; use auto, socket or syscalls")]
    NotBuilt(&'static str),
    #[error("the hooks {family} cannot work on this host: {}", .missing.join(", "))]
    Missing { family: &'static str, missing: Vec<String> },
    #[error("{}", .0.join("; "))]
    NoneWorks(Vec<String>),
}

/// The family that was asked for, or with `auto` the cheapest that has all it needs.
///
/// # Errors
/// [`Refusal`] names all that is missing, of every family that was considered.
pub fn choose_hooks(features: &Features, wanted: Hooks) -> Result<HookFamily, Refusal> {
    let family = match wanted {
        Hooks::Auto => return choose_any(features),
        Hooks::Socket => HookFamily::Socket,
        Hooks::Syscalls => HookFamily::Syscalls,
        Hooks::Fentry => return Err(Refusal::NotBuilt("fentry")),
        Hooks::Kprobe => return Err(Refusal::NotBuilt("kprobe")),
        Hooks::Packet => return Err(Refusal::NotBuilt("packet")),
    };
    let missing = missing(features, family);
    if missing.is_empty() { Ok(family) } else { Err(Refusal::Missing { family: family.name(), missing }) }
}

fn choose_any(features: &Features) -> Result<HookFamily, Refusal> {
    let lacking = HookFamily::ALL.map(|family| (family, missing(features, family)));
    if let Some((family, _)) = lacking.iter().find(|(_, missing)| missing.is_empty()) {
        return Ok(*family);
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
pub fn missing(features: &Features, family: HookFamily) -> Vec<String> {
    let mut missing = Vec::new();
    let mut need = |there: bool, what: &str| {
        if !there {
            missing.push(what.to_owned());
        }
    };
    for capability in ["CAP_BPF", "CAP_PERFMON"] {
        need(features.grant(capability) != Grant::Missing, &format!("{capability} (or CAP_SYS_ADMIN)"));
    }
    need(features.bpf_call != Some(false), "leave for the bpf system call, which a seccomp filter or a security module refuses");
    need(features.lockdown != "confidentiality", "a kernel that is not locked down for confidentiality");
    // Both families are typed tracepoints, whose arguments the verifier knows from the running kernel's own BTF; a file from
    // elsewhere only helps to find fields.
    need(features.btf == BtfSource::Kernel, "the running kernel's BTF (/sys/kernel/btf/vmlinux)");
    need(features.ring_buffer != Some(false), "the BPF ring buffer (Linux 5.8)");
    need(features.task_btf != Some(false), "the helper bpf_get_current_task_btf (Linux 5.11)");
    need(features.atomic_fetch != Some(false), "atomic operations with a result (Linux 5.12)");
    if family == HookFamily::Socket {
        need(features.task_pt_regs != Some(false), "the helper bpf_task_pt_regs (Linux 5.15)");
    }
    // tp_btf programs of a tracepoint that is not there keep the whole object from being loaded.
    const LIFE: [&str; 5] = ["inet_sock_set_state", "tcp_destroy_sock", "sched_process_exec", "sched_process_exit", "sched_process_fork"];
    let data: &[&str] = match family {
        HookFamily::Socket => &["sock_send_length", "sock_recv_length", "tcp_rcv_space_adjust"],
        HookFamily::Syscalls => &["sys_exit"],
    };
    if features.btf == BtfSource::Kernel {
        for name in data.iter().chain(&LIFE) {
            need(features.has_tracepoint(name), &format!("the tracepoint {name}"));
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::{super::features::tests::complete, *};

    #[test]
    fn auto_takes_socket_then_syscalls() {
        let mut features = complete();
        assert_eq!(choose_hooks(&features, Hooks::Auto), Ok(HookFamily::Socket));
        features.set_tracepoint("sock_send_length", false);
        assert_eq!(choose_hooks(&features, Hooks::Auto), Ok(HookFamily::Syscalls));
        assert_eq!(choose_hooks(&features, Hooks::Syscalls), Ok(HookFamily::Syscalls));
        let refusal = choose_hooks(&features, Hooks::Socket).unwrap_err();
        assert_eq!(refusal.to_string(), "the hooks socket cannot work on this host: the tracepoint sock_send_length");
    }

    #[test]
    fn families_that_are_not_built_are_refused_as_such_even_where_the_kernel_has_them() {
        for (wanted, name) in [(Hooks::Fentry, "fentry"), (Hooks::Kprobe, "kprobe"), (Hooks::Packet, "packet")] {
            let refusal = choose_hooks(&complete(), wanted).unwrap_err();
            assert_eq!(refusal, Refusal::NotBuilt(name));
            assert!(refusal.to_string().contains("not available in this version"));
        }
    }

    #[test]
    fn sys_admin_alone_is_enough_and_bpf_without_perfmon_is_not() {
        let mut features = complete();
        features.capabilities = vec!["CAP_SYS_ADMIN".to_owned()];
        assert!(choose_hooks(&features, Hooks::Auto).is_ok());
        features.capabilities = vec!["CAP_BPF".to_owned()];
        let refusal = choose_hooks(&features, Hooks::Auto).unwrap_err().to_string();
        assert_eq!(refusal, "this host lacks CAP_PERFMON (or CAP_SYS_ADMIN)");
    }

    #[test]
    fn a_file_with_types_does_not_replace_the_kernels_own() {
        let mut features = complete();
        features.btf = BtfSource::File("/x.btf".into());
        assert!(matches!(choose_hooks(&features, Hooks::Auto), Err(Refusal::NoneWorks(_))));
    }

    #[test]
    fn what_one_family_lacks_is_said_of_it_alone() {
        let mut features = complete();
        features.set_tracepoint("sock_send_length", false);
        features.set_tracepoint("tcp_destroy_sock", false);
        let refusal = choose_hooks(&features, Hooks::Auto).unwrap_err().to_string();
        assert!(
            refusal.starts_with("this host lacks the tracepoint tcp_destroy_sock; socket lacks the tracepoint sock_send_length"),
            "{refusal}"
        );
        assert!(!refusal.contains("syscalls lacks"), "{refusal}");
    }

    #[test]
    fn lockdown_and_an_old_kernel_are_said() {
        let mut features = complete();
        features.lockdown = "confidentiality".to_owned();
        features.ring_buffer = Some(false);
        features.atomic_fetch = Some(false);
        let refusal = choose_hooks(&features, Hooks::Syscalls).unwrap_err().to_string();
        assert!(refusal.contains("confidentiality") && refusal.contains("ring buffer") && refusal.contains("5.12"), "{refusal}");
    }
}
