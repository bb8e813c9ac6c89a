//! What files tell of this host: the kernel's types, tracefs, `/proc`, control groups. Needs no privilege but to read them.

use std::{fs, os::unix::fs::MetadataExt, path::Path, str::FromStr, sync::Arc};

use libbpf_rs::btf::{
    Btf, ReferencesType,
    types::{Func, FuncProto, Struct, Var},
};

use super::features::{Archived, BtfSource, CgroupController, CgroupHierarchy, Cgroups, version};
use crate::{btf, config::BtfArchive};

/// The source, what is wrong with it or with one that was preferred, and the running kernel's own types.
pub(super) fn find_btf(file: Option<&Path>, archive: &BtfArchive, architecture: &str) -> (BtfSource, Option<String>, Option<Btf<'static>>) {
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
    let bytes = btf::read_plain(path).map_err(|error| wrong(&error.root_cause()))?;
    btf::check(&bytes, Some(btf::architecture(architecture))).map(drop).map_err(|fault| wrong(&fault))
}

/// Told by what such kernels are made of: the SRCU domain of tracepoints, which older ones (before 6.13) had for something else and
/// without the counters that make it fast (6.15); and the count of a task's RCU readers, without which these, programs among them, are
/// not preempted anyway.
pub(super) fn preemptible_tracepoints(own: &Btf<'_>) -> bool {
    own.type_by_name::<Var<'_>>("tracepoint_srcu_srcu_data").is_some()
        && own.type_by_name::<Struct<'_>>("srcu_ctr").is_some()
        && own
            .type_by_name::<Struct<'_>>("task_struct")
            .is_some_and(|task| task.iter().any(|member| member.name.is_some_and(|name| name == "rcu_read_lock_nesting")))
}

/// By `uname -v`, `#1 SMP PREEMPT_RT Debian …`. What a kernel with PREEMPT_DYNAMIC has chosen stands in debugfs; else it is what its
/// command line asks for, else what it was built for. Where nothing tells it can be anything.
pub(super) fn preemptible_kernel() -> bool {
    let Ok(name) = nix::sys::utsname::uname() else { return true };
    let release = name.release().to_string_lossy();
    let read = |path: &str| fs::read_to_string(path).ok();
    is_preemptible(&name.version().to_string_lossy(), || {
        read("/sys/kernel/debug/sched/preempt")
            .and_then(|text| chosen_mode(&text))
            .or_else(|| read("/proc/cmdline").and_then(|line| asked_mode(&line)))
            // The first is the host's own, of whoever is in a container.
            .or_else(|| read(&format!("/proc/1/root/boot/config-{release}")).and_then(|config| built_mode(&config)))
            .or_else(|| read(&format!("/boot/config-{release}")).and_then(|config| built_mode(&config)))
    })
}

fn is_preemptible(version: &str, mode: impl Fn() -> Option<String>) -> bool {
    version.split(' ').any(|word| match word {
        "PREEMPT" | "PREEMPT_RT" => true,
        "PREEMPT_DYNAMIC" => !matches!(mode().as_deref(), Some("none" | "voluntary")),
        _ => false,
    })
}

/// `none voluntary (full) lazy`, of debugfs.
fn chosen_mode(text: &str) -> Option<String> {
    let (_, chosen) = text.split_once('(')?;
    Some(chosen.split_once(')')?.0.to_owned())
}

/// `preempt=` of the command line; the last one counts.
fn asked_mode(line: &str) -> Option<String> {
    let mut asked = line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("preempt="));
    asked.next_back().map(str::to_owned)
}

/// Of a kernel's configuration.
fn built_mode(config: &str) -> Option<String> {
    let modes = [
        ("CONFIG_PREEMPT_NONE", "none"),
        ("CONFIG_PREEMPT_VOLUNTARY", "voluntary"),
        ("CONFIG_PREEMPT_LAZY", "lazy"),
        ("CONFIG_PREEMPT", "full"),
    ];
    let is_set = |option: &str| config.lines().any(|line| line.strip_prefix(option) == Some("=y"));
    modes.iter().find(|(option, _)| is_set(option)).map(|(_, mode)| (*mode).to_owned())
}

/// By the kernel's own types; where there are none by its version, which distributions may have changed more than they say.
pub(super) fn recv_nonblock(own: Option<&Btf<'_>>, kernel: &str) -> bool {
    const WITH_NONBLOCK: usize = 6;
    let prototype = own.and_then(|own| FuncProto::try_from(own.type_by_name::<Func<'_>>("tcp_recvmsg")?.referenced_type()).ok());
    prototype.map_or_else(|| version(kernel) < (5, 19), |prototype| prototype.len() == WITH_NONBLOCK)
}

/// The perf PMU exists where kprobes are compiled in, whether or not tracefs can be read.
pub(super) fn kprobes(tracefs: Option<&Path>) -> Option<bool> {
    if Path::new("/sys/bus/event_source/devices/kprobe").exists() || tracefs.is_some_and(|folder| folder.join("kprobe_events").exists()) {
        return Some(true);
    }
    (Path::new("/sys/bus/event_source/devices").exists() || tracefs.is_some()).then_some(false)
}

pub(super) fn number<N: FromStr>(path: &str) -> Option<N> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The word in brackets: `none [integrity] confidentiality`. Kernels without the module have no such file and no lockdown.
pub(super) fn lockdown(text: Option<&str>) -> String {
    let Some(text) = text else { return "none".to_owned() };
    let chosen = text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    chosen.unwrap_or("unknown").to_owned()
}

/// From proc(5) mountinfo: the file system type is the first word after the separator ` - `.
pub(super) fn cgroups(mountinfo: &str) -> Cgroups {
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
pub(super) fn whole_cgroup_tree(controller: CgroupController) -> Option<bool> {
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
pub(super) fn cgroup_hierarchy(table: &str) -> CgroupHierarchy {
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
mod tests {
    use super::*;

    #[test]
    fn lockdown_is_the_word_in_brackets() {
        assert_eq!(lockdown(Some("none [integrity] confidentiality\n")), "integrity");
        assert_eq!(lockdown(Some("[none] integrity confidentiality\n")), "none");
        assert_eq!(lockdown(None), "none");
        assert_eq!(lockdown(Some("")), "unknown");
    }

    #[test]
    fn a_kernel_that_is_preempted_says_so() {
        let chosen = |mode: &str| Some(mode.to_owned());
        assert!(is_preemptible("#1 SMP PREEMPT_RT Debian 6.1.158-1 (2025-11-09)", || None));
        assert!(is_preemptible("#1 SMP PREEMPT Thu Jan 1 1970", || None));
        assert!(!is_preemptible("#1 SMP Debian 5.10.223-1", || None));
        for (mode, expected) in
            [(chosen("none"), false), (chosen("voluntary"), false), (chosen("full"), true), (chosen("lazy"), true), (None, true)]
        {
            assert_eq!(is_preemptible("#1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1", || mode.clone()), expected, "{mode:?}");
        }
    }

    #[test]
    fn how_a_kernel_is_preempted_is_what_was_chosen_asked_for_or_built() {
        assert_eq!(chosen_mode("none voluntary full (lazy)\n").as_deref(), Some("lazy"));
        assert_eq!(chosen_mode(""), None);
        assert_eq!(asked_mode("quiet preempt=none preempt=full panic=1\n").as_deref(), Some("full"));
        assert_eq!(asked_mode("quiet"), None);
        let debian = "CONFIG_PREEMPT_BUILD=y\n# CONFIG_PREEMPT_NONE is not set\nCONFIG_PREEMPT_VOLUNTARY=y\n# CONFIG_PREEMPT is not set\n";
        assert_eq!(built_mode(debian).as_deref(), Some("voluntary"));
        assert_eq!(built_mode("CONFIG_PREEMPT_BUILD=y\nCONFIG_PREEMPT=y\nCONFIG_PREEMPT_COUNT=y\n").as_deref(), Some("full"));
        assert_eq!(built_mode("CONFIG_PREEMPT_DYNAMIC=y\n"), None);
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
}
