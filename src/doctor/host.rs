//! What the kernel offers, and what of the host can be seen from here.

use super::{Finding, State, known, push, there};
use crate::probes::features::{BtfSource, Cgroups, Features};

pub(super) fn kernel(features: &Features, findings: &mut Vec<Finding>) {
    let (state, mut found) = match &features.btf {
        BtfSource::Kernel => (State::Ok, "/sys/kernel/btf/vmlinux".to_owned()),
        BtfSource::File(path) => (State::Ok, format!("{}; the kernel has none of its own", path.display())),
        BtfSource::Archive(archived) => (State::Ok, format!("{}; the kernel has none of its own", archived.origin())),
        BtfSource::None => (State::Missing, "none".to_owned()),
    };
    if let Some(error) = &features.btf_error {
        found = format!("{found} ({error})");
    }
    let remedy = "use a kernel with CONFIG_DEBUG_INFO_BTF=y (Debian 11 and later, Ubuntu 20.10 and later); in a container that hides it: \
                  docker run -v /sys/kernel/btf:/sys/kernel/btf:ro, Kubernetes: the same as a hostPath volume";
    push(findings, "Kernel", "types (BTF)", state, &found, Some(("everything but capture files and the packet hooks", remedy)));
    for (name, cost) in [
        ("sock_send_length", "the socket hooks (Linux 6.3)"),
        ("sock_recv_length", "the socket hooks (Linux 6.3)"),
        ("tcp_rcv_space_adjust", "the socket hooks (what is spliced out of a socket)"),
        ("sys_exit", "the syscalls hooks"),
        ("inet_sock_set_state", "everything: no connection would be seen to open, close or fail"),
        ("tcp_destroy_sock", "everything: the end of a socket would not be seen"),
        ("sched_process_exec", "the names of processes that live shortly"),
        ("sched_process_exit", "forgetting processes at once"),
        ("sched_process_fork", "the names of processes that only fork"),
    ] {
        let there = features.has_tracepoint(name);
        let (state, found) = if there { (State::Ok, "there") } else { (State::Missing, "not found in BTF or tracefs") };
        push(findings, "Kernel", name, state, found, Some((cost, "use a newer kernel, or mount tracefs where BTF is missing")));
    }
    let denied = "cannot be asked without privileges";
    for (name, value, cost) in [
        ("ring buffer", features.ring_buffer, "speed: a perf buffer for each CPU is used (Linux 5.8)"),
        ("task with types", features.task_btf, "speed: the plain programs are used (bpf_get_current_task_btf, Linux 5.11)"),
        ("atomic results", features.atomic_fetch, "speed: the plain programs are used (fetching atomics, Linux 5.12)"),
        ("function exits", features.function_exits, "the fentry hooks"),
        ("kprobes", features.kprobes, "the kprobe hooks"),
        ("bpf_task_pt_regs", features.task_pt_regs, "the socket hooks (Linux 5.15)"),
    ] {
        push(findings, "Kernel", name, there(value), known(value, "there", "not there", denied), Some((cost, "use a newer kernel")));
    }
    let found = known(features.jit, "on", "off", "cannot be read");
    let remedy = "sysctl net.core.bpf_jit_enable=1";
    push(findings, "Kernel", "JIT compiler", there(features.jit), found, Some(("speed: programs are interpreted", remedy)));
    let found = known(features.bpf_stats_enabled, "on", "off: they cost about 70 ns a call", "cannot be read");
    push(findings, "Kernel", "BPF statistics", State::Ok, found, None);
}

pub(super) fn surroundings(features: &Features, findings: &mut Vec<Finding>) {
    let (state, found) = match &features.tracefs {
        Some(path) => (State::Ok, path.display().to_string()),
        None if features.btf == BtfSource::Kernel && !features.preemptible_tracepoints => {
            (State::Ok, "not mounted or not readable; not needed, as the kernel has BTF".to_owned())
        }
        None => (State::Missing, "not mounted or not readable".to_owned()),
    };
    let remedy = "mount -t tracefs tracefs /sys/kernel/tracing; in a container: docker run \
                  -v /sys/kernel/tracing:/sys/kernel/tracing:ro, Kubernetes: the same as a hostPath volume";
    let cost = if features.preemptible_tracepoints {
        "calls, and what was said in them, wherever tasks compete for a processor (Linux 7.0; they are counted as program_missed)"
    } else {
        "finding tracepoints without BTF"
    };
    push(findings, "Surroundings", "tracefs", state, &found, Some((cost, remedy)));
    let (state, found) = match (features.cgroups, features.cgroup_hierarchy.controller.version1_name()) {
        (Cgroups::None, _) => (State::Missing, "not mounted".to_owned()),
        _ if features.whole_cgroup_tree != Some(true) => (State::Missing, "only a container's own part of the tree".to_owned()),
        (_, None) => (State::Ok, "version 2".to_owned()),
        (_, Some(controller)) => (State::Ok, format!("version 1; containers are told apart in the hierarchy of {controller}")),
    };
    let cost = "containers that are older than the agent and end before they are looked at";
    let remedy = "share the host's pid namespace, or mount its control groups; in a container: docker run \
                  -v /sys/fs/cgroup:/sys/fs/cgroup:ro, Kubernetes: the same as a hostPath volume";
    push(findings, "Surroundings", "cgroups", state, &found, Some((cost, remedy)));
    let (state, found) = if features.tells_cgroups() { (State::Ok, "there") } else { (State::Missing, "not there") };
    let cost = "containers that end before they are looked at";
    push(findings, "Surroundings", "cgroup tracepoints", state, found, Some((cost, "a kernel with control groups and its own BTF")));
    let (state, found) = match &features.docker_socket {
        Some(path) => (State::Ok, path.display().to_string()),
        None => (State::Absent, "no socket".to_owned()),
    };
    let remedy = "only where the engine is Docker or podman; in a container: docker run -v /var/run/docker.sock:/var/run/docker.sock:ro; \
                  where the socket is elsewhere: --docker-socket PATH";
    let cost = "names and images of containers of Docker and podman; ids remain";
    push(findings, "Surroundings", "Docker", state, &found, Some((cost, remedy)));
}
