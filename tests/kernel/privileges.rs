//! What the doctor says where something of the machine is kept from it: the right name each time, and the agent's exit with it.

use std::{process::Command, time::Duration};

use serde_json::Value;

use crate::support::{agent::binary, cgroup::Cgroup, machine, process::run_within};

/// What the agent asks for, as in the container's list.
const EXACT: [&str; 5] = ["bpf", "perfmon", "sys_ptrace", "dac_read_search", "net_admin"];

struct Diagnosis {
    report: Value,
    code: i32,
}

impl Diagnosis {
    /// The names of the findings in this state, but for that of perf: it hangs on `kernel.perf_event_paranoid`, which is the host's.
    fn of(&self, topic: &str, state: &str) -> Vec<&str> {
        let findings = self.report["findings"].as_array().expect("findings");
        let of = |finding: &&Value| finding["topic"] == topic && finding["state"] == state && finding["name"] != "perf events";
        findings.iter().filter(of).map(|finding| finding["name"].as_str().expect("a name")).collect()
    }

    /// The one finding of that name.
    fn finding(&self, name: &str) -> &Value {
        let findings = self.report["findings"].as_array().expect("findings");
        findings.iter().find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("no {name} in {:#}", self.report))
    }

    fn reason(&self) -> &str {
        self.report["reason"].as_str().expect("a reason")
    }
}

/// `command` becomes the program that it is given as its last arguments, in surroundings of its own.
fn doctor(command: Command) -> Diagnosis {
    doctor_of(command, &[])
}

fn doctor_of(mut command: Command, settings: &[&str]) -> Diagnosis {
    let ended = run_within(command.arg(binary()).args(["doctor", "--json"]).args(settings), Duration::from_secs(60));
    let report = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error} in {:?}, {:?}", ended.stdout, ended.stderr));
    Diagnosis { report, code: ended.code() }
}

fn with_capabilities(names: &[&str]) -> Diagnosis {
    let mut command = Command::new("setpriv");
    command.arg(bounding_set(names));
    doctor(command)
}

fn bounding_set(names: &[&str]) -> String {
    names.iter().fold("--bounding-set=-all".to_owned(), |set, name| format!("{set},+{name}"))
}

fn in_namespaces(options: &[&str]) -> Diagnosis {
    let mut command = Command::new("unshare");
    command.args(options);
    doctor(command)
}

/// After `script` in a mount namespace of its own, from which no process of the host's can be seen.
fn with_mounts(mut unshare: Command, script: &str) -> Diagnosis {
    unshare.args(["--pid", "--fork", "--mount-proc", "--mount", "--cgroup", "sh", "-c", &format!("{script} && exec \"$0\" \"$@\"")]);
    doctor(unshare)
}

#[test]
fn the_exact_capabilities_are_enough() {
    let _machine = machine();
    let diagnosis = with_capabilities(&EXACT);
    assert_eq!(diagnosis.of("Privileges", "missing"), [""; 0], "{:#}", diagnosis.report);
    assert_eq!((diagnosis.code, &diagnosis.report["can_capture"]), (0, &true.into()), "{}", diagnosis.reason());
    let programs = diagnosis.report["programs"].as_array().expect("programs");
    assert!(!programs.is_empty() && programs.iter().all(|program| program["state"] == "attached"), "{programs:#?}");
}

#[test]
fn each_capability_that_is_missing_is_named_and_nothing_else_is() {
    let _machine = machine();
    for dropped in EXACT {
        let rest: Vec<_> = EXACT.into_iter().filter(|name| *name != dropped).collect();
        let diagnosis = with_capabilities(&rest);
        let name = format!("CAP_{}", dropped.to_uppercase());
        assert_eq!(diagnosis.of("Privileges", "missing"), [name.as_str()], "without {dropped}: {:#}", diagnosis.report);
        let remedy = diagnosis.finding(&name)["remedy"].as_str().expect("a remedy");
        assert!(remedy.contains("--cap-add=") && remedy.contains("Kubernetes"), "{remedy}");
        let needed = ["bpf", "perfmon"].contains(&dropped);
        assert_eq!(diagnosis.code, if needed { 3 } else { 0 }, "without {dropped}: {}", diagnosis.reason());
        assert_eq!(diagnosis.reason().contains(&name), needed, "without {dropped}: {}", diagnosis.reason());
    }
}

#[test]
fn sys_admin_alone_loads_and_names_no_executables() {
    let _machine = machine();
    let diagnosis = with_capabilities(&["sys_admin"]);
    assert_eq!(diagnosis.of("Privileges", "missing"), ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_NET_ADMIN"]);
    assert_eq!(diagnosis.code, 0, "{}", diagnosis.reason());
    assert_eq!(diagnosis.finding("CAP_BPF")["found"], "held through CAP_SYS_ADMIN");
}

#[test]
fn namespaces_that_are_not_the_hosts_are_named() {
    let _machine = machine();
    let pid = in_namespaces(&["--pid", "--fork", "--mount-proc"]);
    assert_eq!(pid.of("Privileges", "missing"), ["pid namespace"], "{:#}", pid.report);
    assert!(pid.finding("pid namespace")["remedy"].as_str().is_some_and(|remedy| remedy.contains("hostPID: true")));
    let net = in_namespaces(&["--net"]);
    assert_eq!(net.of("Privileges", "missing"), ["network namespace"], "{:#}", net.report);
}

#[test]
fn what_is_not_mounted_is_named() {
    let _machine = machine();
    let types = with_mounts(Command::new("unshare"), "mount -t tmpfs none /sys/kernel/btf");
    assert_eq!(types.of("Kernel", "missing").first(), Some(&"types (BTF)"), "{:#}", types.report);
    assert!(types.finding("types (BTF)")["remedy"].as_str().is_some_and(|remedy| remedy.contains("-v /sys/kernel/btf:")));
    assert_eq!(types.code, 3, "{}", types.reason());
    let none = with_mounts(Command::new("unshare"), "umount --recursive /sys/fs/cgroup");
    assert_eq!(none.of("Surroundings", "missing"), ["cgroups"], "{:#}", none.report);
    assert!(none.finding("cgroups")["remedy"].as_str().is_some_and(|remedy| remedy.contains("hostPath")));
    // As in a container with a cgroup namespace of its own: the mounts show its part alone.
    let group = Cgroup::new("docker/5e7c0ffee0ddba11deadbeef00112233445566778899aabbccddeeff01234567");
    let script = "types=$(sed -nE 's/.* - (cgroup2?) [^ ]+ (.*)/\\1 \\2/p' /proc/self/mountinfo); umount --recursive /sys/fs/cgroup && \
                  mount -t tmpfs none /sys/fs/cgroup && echo \"$types\" | while read -r type options; do \
                  mkdir -p /sys/fs/cgroup/$options && mount -t $type -o ${options#rw,} none /sys/fs/cgroup/$options; done";
    let own = with_mounts(group.command("unshare"), script);
    assert_eq!(own.of("Surroundings", "missing"), ["cgroups"], "{:#}", own.report);
    assert_eq!(own.finding("cgroups")["found"], "only a container's own part of the tree", "{:#}", own.report);
}

#[test]
fn perf_buffers_that_cannot_be_locked_are_named_and_smaller_ones_and_a_capability_are_enough() {
    let _machine = machine();
    let limited = |names: &[&str], settings: &[&str]| {
        let mut command = Command::new("prlimit");
        // CAP_SYS_ADMIN, so that `kernel.perf_event_paranoid` has no say.
        command.args(["--memlock=65536:65536", "setpriv", &bounding_set(&[&["sys_admin"], names].concat())]);
        doctor_of(command, &[&["--transport", "perf"], settings].concat())
    };
    let named = |diagnosis: &Diagnosis| diagnosis.of("Privileges", "missing").contains(&"perf buffers");
    let short = limited(&[], &["--ring-bytes", "64MiB"]);
    assert!(named(&short) && short.code == 3, "{:#}", short.report);
    assert!(short.finding("perf buffers")["remedy"].as_str().is_some_and(|remedy| remedy.contains("IPC_LOCK")), "{:#}", short.report);
    for enough in [limited(&["ipc_lock"], &["--ring-bytes", "64MiB"]), limited(&[], &["--ring-bytes", "64KiB"])] {
        assert!(!named(&enough) && enough.code == 0, "{:#}", enough.report);
    }
}
