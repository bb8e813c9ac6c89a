//! What does not fit into the memory that may be locked, and who may lock more. Silent where all fits, or nothing counts. To be asked where nothing works.

use super::{Finding, State, push};
use crate::{
    config::{Config, Hooks},
    probes::{
        features::Features,
        locked_memory::{Shortage, shortage_of_buffers, shortage_of_maps},
        transport::Transport,
    },
};

pub(super) fn findings(features: &Features, config: &Config, findings: &mut Vec<Finding>) {
    let transport = Transport::choose(config.transport, features.ring_buffer != Some(false), config.ring_bytes);
    let max_connections = (config.hooks != Hooks::Packet).then_some(config.max_connections);
    if let Some(shortage) = shortage_of_maps(features, transport, config.ring_bytes, max_connections) {
        let found = found(
            shortage,
            "our maps",
            "those of others of the same user count, too; CAP_SYS_RESOURCE, which lifts the limit, is not held",
        );
        let cost = "everything: maps cannot be made (before Linux 5.11 they are locked memory)";
        let remedy = "docker run --ulimit memlock=-1; systemd: LimitMEMLOCK=infinity; a shell: ulimit -l unlimited; Kubernetes: \
                      capabilities.add: [SYS_RESOURCE], or LimitMEMLOCK=infinity of the engine";
        push(findings, "Privileges", "locked memory", State::Missing, &found, Some((cost, remedy)));
    }
    if let Some(shortage) = shortage_of_buffers(features, transport) {
        let found = found(shortage, "perf buffers", "CAP_IPC_LOCK, which needs no limit, is not held");
        let cost = "everything: records travel in perf buffers here, and these cannot be mapped";
        let remedy = "docker run --cap-add=IPC_LOCK or --ulimit memlock=-1; Kubernetes: capabilities.add: [IPC_LOCK]; systemd: \
                      LimitMEMLOCK=infinity; or smaller ones: --ring-bytes 1MiB";
        push(findings, "Privileges", "perf buffers", State::Missing, &found, Some((cost, remedy)));
    }
}

fn found(Shortage { wanted_bytes, limit_bytes }: Shortage, wanting: &str, lacking: &str) -> String {
    let kib = |bytes: u64| bytes.div_ceil(1024);
    format!("the limit is {} KiB, {wanting} want about {} KiB; {lacking}", kib(limit_bytes), kib(wanted_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        probes::{features::tests::complete, locked_memory::LockedMemory},
    };

    /// Of a host with a limit of 64 KiB.
    fn found_on(maps_count: bool, capabilities: &[&str], config: &Config) -> Vec<Finding> {
        let limit_bytes = Some(64 << 10);
        let locked_memory = LockedMemory { maps_count, limit_bytes, hard_limit_bytes: limit_bytes, ..complete().locked_memory };
        let capabilities = capabilities.iter().map(|name| (*name).to_owned()).collect();
        let mut found = Vec::new();
        findings(&Features { capabilities, locked_memory, ..complete() }, config, &mut found);
        found
    }

    fn names(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.name.as_str()).collect()
    }

    #[test]
    fn an_old_kernel_without_leave_for_more_says_who_wants_how_much_and_how_to_get_it() {
        let exact = ["CAP_BPF", "CAP_PERFMON"];
        let found = found_on(true, &exact, &Config::default());
        assert_eq!(names(&found), ["locked memory"]);
        assert!(found[0].found.starts_with("the limit is 64 KiB, our maps want about 30720 KiB; "), "{}", found[0].found);
        assert!(found[0].found.contains("CAP_SYS_RESOURCE"), "{}", found[0].found);
        assert!(found[0].remedy.is_some_and(|remedy| remedy.contains("--ulimit memlock=-1") && remedy.contains("LimitMEMLOCK=infinity")));
        let perf = Config { transport: config::Transport::Perf, ..Config::default() };
        assert_eq!(names(&found_on(true, &exact, &perf)), ["locked memory", "perf buffers"]);
        assert_eq!(names(&found_on(true, &["CAP_IPC_LOCK"], &perf)), ["locked memory"]);
        assert_eq!(names(&found_on(true, &["CAP_SYS_RESOURCE"], &perf)), [""; 0]);
    }

    #[test]
    fn where_nothing_is_locked_nothing_is_said() {
        let perf = Config { transport: config::Transport::Perf, ..Config::default() };
        assert_eq!(names(&found_on(false, &[], &Config::default())), [""; 0]);
        assert_eq!(names(&found_on(false, &["CAP_IPC_LOCK"], &perf)), [""; 0]);
        assert_eq!(names(&found_on(false, &["CAP_SYS_RESOURCE"], &perf)), ["perf buffers"]);
    }

    #[test]
    fn frames_alone_want_less() {
        let frames = Config { hooks: Hooks::Packet, ring_bytes: 64 << 10, ..Config::default() };
        assert_eq!(names(&found_on(true, &[], &frames)), ["locked memory"]);
        let limit_bytes = Some(2 << 20);
        let locked_memory = LockedMemory { maps_count: true, limit_bytes, hard_limit_bytes: limit_bytes, ..complete().locked_memory };
        let mut found = Vec::new();
        let mut features = Features { capabilities: vec![], locked_memory, ..complete() };
        findings(&features, &frames, &mut found);
        assert_eq!(names(&found), [""; 0]);
        features.ring_buffer = Some(false);
        findings(&features, &Config { hooks: Hooks::Auto, ..frames }, &mut found);
        assert_eq!(names(&found), ["locked memory"]);
    }
}
