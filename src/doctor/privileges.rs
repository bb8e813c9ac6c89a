//! What this process may do and from where it looks: capabilities by name, what refuses them all the same, namespaces.
//! Remedies are told in the words of Docker and of Kubernetes, because in a container that is where they are to be had.

use super::{Finding, State, known, push, there};
use crate::probes::{features::Features, locked_memory, privileges::Grant};

/// A capability, what its absence costs, and how to get it.
struct Capability {
    name: &'static str,
    cost: &'static str,
    remedy: &'static str,
}

/// All that the agent uses. The lists for containers and units are these.
const CAPABILITIES: [Capability; 5] = [
    Capability {
        name: "CAP_BPF",
        cost: "everything: nothing can be loaded",
        remedy: "run as root; docker run --cap-add=BPF (engines that do not know it: SYS_ADMIN); Kubernetes: capabilities.add: [BPF]",
    },
    Capability {
        name: "CAP_PERFMON",
        cost: "everything: programs that read the kernel's memory are refused",
        remedy: "run as root; docker run --cap-add=PERFMON (engines that do not know it: SYS_ADMIN); Kubernetes: capabilities.add: [PERFMON]",
    },
    Capability {
        name: "CAP_SYS_PTRACE",
        cost: "executables of processes, and who holds the sockets that are older than the agent",
        remedy: "run as root; docker run --cap-add=SYS_PTRACE; Kubernetes: capabilities.add: [SYS_PTRACE]",
    },
    Capability {
        name: "CAP_DAC_READ_SEARCH",
        cost: "which processes of other users hold the sockets that are older than the agent",
        remedy: "run as root; docker run --cap-add=DAC_READ_SEARCH; Kubernetes: capabilities.add: [DAC_READ_SEARCH]",
    },
    Capability {
        name: "CAP_NET_ADMIN",
        cost: "who really answers behind translated addresses (published ports, services of Kubernetes)",
        remedy: "run as root; docker run --cap-add=NET_ADMIN; Kubernetes: capabilities.add: [NET_ADMIN]",
    },
];

pub(super) fn findings(features: &Features, findings: &mut Vec<Finding>) {
    push(findings, "Privileges", "user", State::Ok, if features.root { "root" } else { "not root" }, None);
    for Capability { name, cost, remedy } in CAPABILITIES {
        let (state, found) = match features.grant(name) {
            Grant::Held => (State::Ok, "held".to_owned()),
            Grant::Through(other) => (State::Ok, format!("held through {other}")),
            Grant::Missing => (State::Missing, "not held".to_owned()),
        };
        push(findings, "Privileges", name, state, &found, Some((cost, remedy)));
    }
    refusals(features, findings);
    namespaces(features, findings);
    let locked = features.lockdown == "confidentiality";
    let state = if locked { State::Missing } else { State::Ok };
    let remedy = "boot with lockdown=integrity, or without Secure Boot";
    push(findings, "Privileges", "lockdown", state, &features.lockdown, Some(("reading kernel memory, so everything", remedy)));
}

/// What is refused to us although we hold the capability; without the capability there is nothing more to say.
fn refusals(features: &Features, findings: &mut Vec<Finding>) {
    if features.bpf_call.is_some() {
        let is_limited = locked_memory::limits_bpf(features);
        let refused = if is_limited {
            "refused in spite of the capabilities: a seccomp filter, a security module, or locked memory that others have used up"
        } else {
            "refused in spite of the capabilities: a seccomp filter or a security module"
        };
        let found = known(features.bpf_call, "let through", refused, "");
        let remedy = if is_limited {
            "what locked memory asks for, below; else docker run --security-opt seccomp=unconfined, or a newer engine, whose filter lets \
             CAP_BPF through; Kubernetes: seccompProfile: {type: Unconfined}"
        } else {
            "docker run --security-opt seccomp=unconfined, or a newer engine, whose filter lets CAP_BPF through; Kubernetes: \
             seccompProfile: {type: Unconfined}"
        };
        let otherwise = Some(("everything: nothing can be loaded", remedy));
        push(findings, "Privileges", "bpf system call", there(features.bpf_call), found, otherwise);
    }
    perf_events(features, findings);
    if features.reads_processes.is_some() {
        let found = known(
            features.reads_processes,
            "those of other programs can be read",
            "those of other programs are closed in spite of CAP_SYS_PTRACE: a security module such as AppArmor",
            "",
        );
        let remedy = "docker run --security-opt apparmor=unconfined; Kubernetes: appArmorProfile: {type: Unconfined}";
        let otherwise = Some(("the same as CAP_SYS_PTRACE", remedy));
        push(findings, "Privileges", "process links", there(features.reads_processes), found, otherwise);
    }
}

fn perf_events(features: &Features, findings: &mut Vec<Finding>) {
    if features.perf_events.is_none() {
        return;
    }
    let (refused, remedy) = if features.perf_wants_sys_admin() {
        let level = features.perf_event_paranoid.unwrap_or_default();
        (
            format!(
                "refused in spite of CAP_PERFMON: kernel.perf_event_paranoid is {level}, and above 2 the kernels of Debian and Ubuntu want CAP_SYS_ADMIN"
            ),
            "sysctl kernel.perf_event_paranoid=2, on the host; or docker run --cap-add=SYS_ADMIN; Kubernetes: capabilities.add: [SYS_ADMIN]",
        )
    } else {
        (
            "refused in spite of the capabilities: a seccomp filter or a security module".to_owned(),
            "docker run --security-opt seccomp=unconfined; Kubernetes: seccompProfile: {type: Unconfined}",
        )
    };
    let cost = if features.preemptible_tracepoints {
        "the kprobe hooks and perf buffers; calls, and what was said in them, wherever tasks compete for a processor (Linux 7.0; they are \
         counted as program_missed)"
    } else {
        "the kprobe hooks, and perf buffers (--transport perf, and before Linux 5.8 always)"
    };
    let found = known(features.perf_events, "can be opened", &refused, "");
    push(findings, "Privileges", "perf events", there(features.perf_events), found, Some((cost, remedy)));
}

fn namespaces(features: &Features, findings: &mut Vec<Finding>) {
    let host = features.host_pid_namespace;
    let found = known(host, "this is the host's", "this is a container's: process ids differ from the kernel's", "cannot be read");
    let otherwise = Some(("names of processes and containers", "docker run --pid=host; Kubernetes: hostPID: true"));
    push(findings, "Privileges", "pid namespace", there(host), found, otherwise);
    // Without the host's pid namespace there is nothing to compare with, and that is said above.
    if let Some(host) = features.host_network_namespace {
        let found = if host { "this is the host's" } else { "this is a container's: addresses are translated elsewhere" };
        let cost = "who really answers behind translated addresses (published ports, services of Kubernetes)";
        let otherwise = Some((cost, "docker run --network=host; Kubernetes: hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet"));
        push(findings, "Privileges", "network namespace", there(Some(host)), found, otherwise);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::features::tests::complete;

    fn about_perf(features: &Features) -> Option<Finding> {
        let mut all = Vec::new();
        findings(features, &mut all);
        all.into_iter().find(|finding| finding.name == "perf events")
    }

    #[test]
    fn perf_that_is_refused_says_by_whom_what_goes_without_it_and_what_to_do() {
        let mut features = complete();
        assert_eq!(about_perf(&features).map(|finding| finding.state), Some(State::Ok));
        features.perf_events = Some(false);
        features.perf_event_paranoid = Some(3);
        features.capabilities.retain(|held| held != "CAP_SYS_ADMIN");
        let finding = about_perf(&features).unwrap();
        assert_eq!(finding.state, State::Missing);
        assert!(finding.found.contains("kernel.perf_event_paranoid is 3"), "{}", finding.found);
        assert!(finding.cost.is_some_and(|cost| cost.contains("kprobe") && cost.contains("--transport perf")));
        let remedy = finding.remedy.unwrap();
        assert!(remedy.contains("sysctl kernel.perf_event_paranoid=2") && remedy.contains("SYS_ADMIN"), "{remedy}");
        features.perf_event_paranoid = Some(2);
        let finding = about_perf(&features).unwrap();
        assert!(finding.found.contains("seccomp") && finding.remedy.is_some_and(|remedy| remedy.contains("Unconfined")), "{finding:?}");
        features.perf_events = None;
        assert!(about_perf(&features).is_none(), "without the capability it is the capability that is missing");
    }

    #[test]
    fn on_a_kernel_that_preempts_tracepoints_a_refused_perf_costs_calls() {
        let features = Features { perf_events: Some(false), preemptible_tracepoints: true, ..complete() };
        let cost = about_perf(&features).and_then(|finding| finding.cost).unwrap();
        assert!(cost.contains("tasks compete for a processor") && cost.contains("kprobe"), "{cost}");
    }
}
