//! What this process may do: the capabilities it holds, and whether what they grant works. Decides nothing: `hooks` and `doctor` do.

use std::{fs, io::ErrorKind, path::Path};

/// Bits of capabilities(7).
pub(super) const CAPABILITIES: [(u32, &str); 10] = [
    (1, "CAP_DAC_OVERRIDE"),
    (2, "CAP_DAC_READ_SEARCH"),
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (14, "CAP_IPC_LOCK"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (24, "CAP_SYS_RESOURCE"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

/// The kernel takes the second for the first. CAP_SYS_PTRACE has no such stand-in, CAP_NET_ADMIN neither.
const STAND_INS: [(&str, &str); 3] =
    [("CAP_BPF", "CAP_SYS_ADMIN"), ("CAP_PERFMON", "CAP_SYS_ADMIN"), ("CAP_DAC_READ_SEARCH", "CAP_DAC_OVERRIDE")];

/// How a capability is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    Held,
    /// By another one that includes it.
    Through(&'static str),
    Missing,
}

/// How `name` is held by one who has the capabilities `held`.
pub(super) fn grant(held: &[String], name: &str) -> Grant {
    let has = |wanted: &str| held.iter().any(|held| held == wanted);
    if has(name) {
        return Grant::Held;
    }
    let stand_in = STAND_INS.iter().find(|(of, stand_in)| *of == name && has(stand_in));
    stand_in.map_or(Grant::Missing, |(_, stand_in)| Grant::Through(stand_in))
}

/// The CapEff line of proc(5) status: a hexadecimal mask.
pub(super) fn effective_capabilities(status: &str) -> Vec<String> {
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok()).unwrap_or(0);
    CAPABILITIES.iter().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, name)| (*name).to_owned()).collect()
}

/// Whether the links of some other process can be read, which needs CAP_SYS_PTRACE and a security module that does not object.
/// `None` where there is no other process to try it on.
///
/// Our own kind can be read without any privilege and a host may protect its first process from everyone, so a refusal counts
/// only where nobody allows it.
pub(super) fn reads_processes(proc_root: &Path) -> Option<bool> {
    const TRIED_MAX: usize = 64;
    let own = std::process::id();
    let pids = fs::read_dir(proc_root).ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut refused = None;
    for pid in pids.filter(|pid| *pid != own).take(TRIED_MAX) {
        match fs::read_link(proc_root.join(format!("{pid}/ns/net"))) {
            Ok(_) => return Some(true),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => refused = Some(false),
            // It has ended since.
            Err(_) => {}
        }
    }
    refused
}

/// Whether we are in the network namespace of the first process of `proc_root`. Its files there are the namespace's own, so their
/// inodes tell, and unlike the link `ns/net` they need no privilege.
pub(super) fn host_network_namespace(proc_root: &Path) -> Option<bool> {
    use std::os::unix::fs::MetadataExt;
    let inode = |process: &str| fs::metadata(proc_root.join(process).join("net/dev")).ok().map(|file| file.ino());
    Some(inode("self")? == inode("1")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_capabilities_are_those_of_the_mask() {
        let status = "Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t000000c000200000\n";
        assert_eq!(effective_capabilities(status), ["CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        assert!(effective_capabilities("").is_empty());
    }

    #[test]
    fn a_capability_is_held_by_itself_or_through_its_stand_in() {
        let held = ["CAP_SYS_ADMIN".to_owned(), "CAP_NET_ADMIN".to_owned()];
        assert_eq!(grant(&held, "CAP_NET_ADMIN"), Grant::Held);
        assert_eq!(grant(&held, "CAP_BPF"), Grant::Through("CAP_SYS_ADMIN"));
        assert_eq!(grant(&held, "CAP_PERFMON"), Grant::Through("CAP_SYS_ADMIN"));
        // __ptrace_may_access asks for this one alone.
        assert_eq!(grant(&held, "CAP_SYS_PTRACE"), Grant::Missing);
        assert_eq!(grant(&held, "CAP_DAC_READ_SEARCH"), Grant::Missing);
        assert_eq!(grant(&["CAP_DAC_OVERRIDE".to_owned()], "CAP_DAC_READ_SEARCH"), Grant::Through("CAP_DAC_OVERRIDE"));
    }

    #[test]
    fn one_process_that_can_be_read_is_enough_and_none_to_try_is_no_answer() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(reads_processes(root.path()), None);
        fs::create_dir_all(root.path().join("7/ns")).unwrap();
        assert_eq!(reads_processes(root.path()), None, "it has ended");
        std::os::unix::fs::symlink("net:[4026531833]", root.path().join("7/ns/net")).unwrap();
        assert_eq!(reads_processes(root.path()), Some(true));
    }

    #[test]
    fn network_namespaces_are_told_apart_by_their_files() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(host_network_namespace(root.path()), None);
        for process in ["1", "self"] {
            fs::create_dir_all(root.path().join(process).join("net")).unwrap();
        }
        let of_first = root.path().join("1/net/dev");
        fs::write(&of_first, "").unwrap();
        let own = root.path().join("self/net/dev");
        fs::write(&own, "").unwrap();
        assert_eq!(host_network_namespace(root.path()), Some(false));
        fs::remove_file(&own).unwrap();
        fs::hard_link(&of_first, &own).unwrap();
        assert_eq!(host_network_namespace(root.path()), Some(true));
    }
}
