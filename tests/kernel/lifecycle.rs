//! Start and end of the agent: alone, twice, killed, without privileges, without BTF, with a busy port or an unwritable file.

use std::{collections::BTreeSet, net::TcpListener, os::unix::fs::PermissionsExt, path::PathBuf, process::Command, time::Duration};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    http::load,
    support::{
        agent::{Agent, binary, remora},
        free_port, machine,
        nginx::Nginx,
        process::{Ended, run, run_within},
        until,
    },
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Ids of the BPF objects of a kind (`prog`, `link`, `map`).
fn loaded(kind: &str) -> BTreeSet<u64> {
    let ended = run(Command::new("bpftool").args(["--json", kind, "list"]));
    let listed: Value = serde_json::from_str(&ended.stdout).expect("JSON of bpftool");
    listed.as_array().expect("a list").iter().filter_map(|object| object["id"].as_u64()).collect()
}

/// Everything below the file system of BPF.
fn pinned() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::from("/sys/fs/bpf")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}

fn nothing_stays_after(end: impl FnOnce(Agent)) {
    let _machine = machine();
    let kinds = ["prog", "link", "map"];
    let pinned_before = pinned();
    let before = kinds.map(loaded);
    let agent = Agent::start(&[]);
    let of_agent: Vec<BTreeSet<u64>> =
        kinds.iter().zip(&before).map(|(kind, before)| loaded(kind).difference(before).copied().collect()).collect();
    assert!(!of_agent[0].is_empty(), "a running agent has programs in the kernel");
    assert!(!of_agent[2].is_empty(), "a running agent has maps in the kernel");
    end(agent);
    for (kind, ids) in kinds.iter().zip(&of_agent) {
        // The kernel frees them after a grace period.
        until(&format!("the agent's {kind}s to be gone"), PATIENCE, || loaded(kind).is_disjoint(ids).then_some(()));
    }
    assert_eq!(pinned(), pinned_before);
}

#[test]
fn a_killed_agent_leaves_nothing_in_the_kernel() {
    nothing_stays_after(Agent::kill);
}

#[test]
fn a_stopped_agent_leaves_nothing_in_the_kernel_and_stops_within_its_time() {
    nothing_stays_after(|agent| {
        let stopped = agent.stop();
        assert_eq!(stopped.status.code(), Some(0), "{}", stopped.stderr);
        stopped.report.summary();
        assert!(stopped.stop_took < Duration::from_secs(3), "draining is bounded to 2 s: {:?}", stopped.stop_took);
    });
}

#[test]
fn two_agents_at_once_both_see_everything() {
    let _machine = machine();
    let nginx = Nginx::start();
    let agents = [Agent::start(&["--hooks", "socket"]), Agent::start(&["--hooks", "syscalls"])];
    load(&nginx, 2_000, 8, 0);
    for agent in agents {
        let report = agent.finish();
        report.summary().assert_nothing_lost();
        for side in ["client", "server"] {
            assert_eq!(report.of(nginx.port, side).len(), 2_000, "{side} side");
        }
    }
    nginx.stop();
}

/// Their reader holds records back for a while, to put those of all processors in order.
#[test]
fn a_stop_takes_what_perf_buffers_hold() {
    let _machine = machine();
    let nginx = Nginx::start();
    let agent = Agent::start(&["--hooks", "syscalls", "--transport", "perf", "--port", &nginx.port.to_string()]);
    load(&nginx, 500, 8, 0);
    let report = agent.finish();
    report.summary().assert_nothing_lost();
    assert_eq!(["client", "server"].map(|side| report.of(nginx.port, side).len()), [500, 500]);
    nginx.stop();
}

#[test]
fn a_duration_ends_the_run_by_itself() {
    let _machine = machine();
    let listen = format!("127.0.0.1:{}", free_port());
    let ended = run_within(remora().args(["run", "--output", "json", "--listen", &listen, "--duration", "1s"]), PATIENCE);
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert!(ended.stdout.lines().last().is_some_and(|line| line.starts_with("{\"type\":\"summary\"")), "{}", ended.stdout);
}

/// One line on stderr that names the trouble, nothing on stdout, and this exit code.
#[track_caller]
fn assert_refused(ended: &Ended, code: i32, naming: &[&str]) {
    assert_eq!(ended.code(), code, "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "one line: {}", ended.stderr);
    assert_eq!(ended.stdout, "");
    let text = ended.stderr.to_lowercase();
    assert!(naming.iter().any(|word| text.contains(&word.to_lowercase())), "names one of {naming:?}: {}", ended.stderr);
}

/// The program where everybody may run it.
fn for_everybody() -> (TempDir, PathBuf) {
    let directory = TempDir::with_prefix("remora-program-").expect("make a directory");
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("open the directory to all");
    let copy = directory.path().join("remora");
    std::fs::copy(binary(), &copy).expect("copy the program");
    (directory, copy)
}

fn run_arguments(command: &mut Command) -> &mut Command {
    command.args(["run", "--output", "json", "--listen", &format!("127.0.0.1:{}", free_port())])
}

#[test]
fn without_privileges_it_says_so_and_exits_with_3() {
    let _machine = machine();
    let (_directory, copy) = for_everybody();
    let mut as_nobody = Command::new("setpriv");
    as_nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
    assert_refused(&run_within(run_arguments(&mut as_nobody), PATIENCE), 3, &["root", "CAP_BPF"]);
    let mut without_capabilities = Command::new("setpriv");
    without_capabilities.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(&copy);
    assert_refused(&run_within(run_arguments(&mut without_capabilities), PATIENCE), 3, &["root", "CAP_BPF"]);
}

#[test]
fn without_btf_it_says_so_and_exits_with_3() {
    let _machine = machine();
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\"";
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(binary());
    assert_refused(&run_within(run_arguments(&mut command), PATIENCE), 3, &["BTF"]);
}

#[test]
fn a_busy_port_is_named_and_the_exit_code_is_1() {
    let _machine = machine();
    let busy = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = busy.local_addr().expect("an address").to_string();
    let ended = run_within(remora().args(["run", "--output", "json", "--listen", &address]), PATIENCE);
    assert_refused(&ended, 1, &[&address]);
}

#[test]
fn an_unwritable_file_is_named_and_the_exit_code_is_1() {
    let _machine = machine();
    for file in ["/nonexistent/directory/run.rrec", "/proc/run.rrec", "/"] {
        let ended = run_within(remora().args(["record", file]), PATIENCE);
        assert_refused(&ended, 1, &[file]);
    }
}
