//! Fixture trees stand for /proc, and the live one for itself.

use std::os::unix::fs::{MetadataExt, symlink};

use super::*;
use crate::attribution::container::ContainerName;

const ID: &str = "3f5c6a7d9be14c0a8a52f0c5b5c0c7d4e9a1b2c3d4e5f60718293a4b5c6d7e8f";

/// A /proc and a cgroup2 tree of a test.
struct Host {
    root: tempfile::TempDir,
    names: Arc<ContainerNames>,
    processes: Processes,
}

impl Host {
    fn new() -> Self {
        Self::with_capacity(100)
    }

    fn with_capacity(capacity: usize) -> Self {
        let root = tempfile::tempdir().unwrap();
        let cgroups = root.path().join("cgroup");
        fs::create_dir_all(cgroups.join(format!("docker/{ID}"))).unwrap();
        let names = Arc::<ContainerNames>::default();
        let processes = Processes::new(root.path(), CgroupPaths::at(cgroups), Arc::clone(&names), capacity);
        Self { root, names, processes }
    }

    fn start(&self, pid: u32, comm: &str, start_ticks: u64, cmdline: &str, cgroup: &str) {
        let directory = self.root.path().join(pid.to_string());
        fs::create_dir_all(&directory).unwrap();
        let stat = format!("{pid} ({comm}) S 1 {pid} {pid} 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 {start_ticks} 11 12 13\n");
        fs::write(directory.join("stat"), stat).unwrap();
        fs::write(directory.join("cmdline"), cmdline).unwrap();
        fs::write(directory.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
        symlink(format!("/usr/sbin/{comm}"), directory.join("exe")).ok();
    }

    fn end(&self, pid: u32) {
        fs::remove_dir_all(self.root.path().join(pid.to_string())).unwrap();
    }

    fn container_cgroup_id(&self) -> u64 {
        fs::metadata(self.root.path().join(format!("cgroup/docker/{ID}"))).unwrap().ino()
    }

    fn resolve(&mut self, pid: u32) -> Arc<Process> {
        self.processes.resolve(pid, "", 0, 0)
    }
}

#[test]
fn reads_a_living_process_once() {
    let mut host = Host::new();
    host.start(7, "nginx", 50, "nginx: worker process\0", &format!("/system.slice/docker-{ID}.scope"));
    let first = host.resolve(7);
    let container = Container { id: ID.into(), runtime: "docker".into(), ..Container::default() };
    let expected = Process {
        pid: 7,
        comm: "nginx".into(),
        executable: Some("/usr/sbin/nginx".into()),
        command: Some("nginx".into()),
        container: Some(container),
        ..Process::default()
    };
    assert_eq!(*first, expected);
    assert!(Arc::ptr_eq(&first, &host.resolve(7)));
    assert_eq!(host.processes.counts(), ProcessCounts { known: 1, from_proc: 1, ..ProcessCounts::default() });
}

#[test]
fn takes_the_name_in_front_of_rewritten_command_lines() {
    let table = [
        ("nginx: worker process", None, Some("nginx")),
        ("nginx: master process /usr/sbin/nginx -g daemon on;", None, Some("nginx")),
        ("postgres: app shop 127.0.0.1(4711) idle", None, Some("postgres")),
        ("/usr/lib/postgresql/15/bin/postgres\0-D\0/var/lib/x", None, Some("postgres")),
        ("redis-server *:6379", None, Some("redis-server")),
        ("/usr/bin/python3\0app.py\0--password=x", None, Some("python3")),
        ("-bash\0", None, Some("bash")),
        ("/opt/My App/server\0-v", Some("/opt/My App/server"), Some("server")),
        ("sshd: user [priv]", None, Some("sshd")),
        ("", None, None),
        ("\0\0", None, None),
        ("  \0x", None, None),
        (":", None, None),
    ];
    for (line, executable, expected) in table {
        assert_eq!(command_of(line.as_bytes(), executable).as_deref(), expected, "{line:?}");
    }
    assert_eq!(command_of(b"/bin/\xff\xfe\0", None).as_deref(), Some("\u{fffd}\u{fffd}"));
}

#[test]
fn reads_names_with_parentheses_and_deleted_executables() {
    let mut host = Host::new();
    host.start(8, "a) R (b", 77, "", "/");
    fs::remove_file(host.root.path().join("8/exe")).unwrap();
    symlink("/usr/bin/old (deleted)", host.root.path().join("8/exe")).unwrap();
    let (process, start_ticks) = read_process(host.root.path(), 8).unwrap();
    assert_eq!((process.comm.as_str(), start_ticks), ("a) R (b", 77));
    assert_eq!(process.executable.as_deref(), Some("/usr/bin/old"));
    assert_eq!((process.command.as_deref(), process.container.as_ref()), (None, None));
    fs::write(host.root.path().join("8/stat"), "8 (cut").unwrap();
    assert_eq!(host.resolve(8).comm, "");
}

#[test]
fn names_a_process_that_was_gone_before_the_lookup() {
    let mut host = Host::new();
    let cgroup_id = host.container_cgroup_id();
    host.processes.observe_fork(1, 30);
    host.processes.observe_exec(30, "curl", "/usr/bin/curl", "curl", cgroup_id);
    host.processes.observe_exit(30);
    let process = host.resolve(30);
    assert_eq!(
        (process.comm.as_str(), process.command.as_deref(), process.executable.as_deref()),
        ("curl", Some("curl"), Some("/usr/bin/curl"))
    );
    assert_eq!(process.container.as_ref().unwrap().id, ID);
    assert_eq!(host.processes.counts().from_events, 1);
    assert_eq!(host.processes.counts().exited, 1);
}

#[test]
fn a_zombie_is_named_by_what_it_executed() {
    let mut host = Host::new();
    host.processes.observe_exec(31, "curl", "./curl", "/usr/bin/curl", 0);
    host.start(31, "curl", 100, "", "/");
    let stat = host.root.path().join("31/stat");
    fs::write(&stat, fs::read_to_string(&stat).unwrap().replace(") S ", ") Z ")).unwrap();
    let process = host.resolve(31);
    assert_eq!((process.command.as_deref(), process.executable.as_deref()), (Some("curl"), None), "a relative path says nothing");
    host.processes.observe_exit(31);
    assert!(Arc::ptr_eq(&process, &host.resolve(31)));
}

#[test]
fn a_forked_child_that_is_gone_is_what_its_parent_was() {
    let mut host = Host::new();
    host.start(40, "postgres", 5, "/usr/bin/postgres\0-D\0x", "/system.slice/postgresql.service");
    host.processes.observe_fork(40, 41);
    host.processes.observe_fork(41, 42);
    host.processes.observe_exit(41);
    let child = host.processes.resolve(42, "postgres", 0, 0);
    assert_eq!((child.pid, child.command.as_deref()), (42, Some("postgres")));
    assert_eq!(host.processes.counts().from_events, 1);
    host.end(40);
    assert_eq!(host.processes.resolve(99, "ghost", 0, 0).comm, "ghost");
    assert_eq!(host.processes.counts().from_hint, 1);
}

#[test]
fn a_hinted_cgroup_names_the_container_of_the_unknown() {
    let mut host = Host::new();
    let cgroup_id = host.container_cgroup_id();
    let process = host.processes.resolve(50, "wget", cgroup_id, 0);
    assert_eq!(process.container.as_ref().unwrap().id, ID);
    assert_eq!(process.comm, "wget");
}

#[test]
fn an_exec_makes_another_process_of_a_pid() {
    let mut host = Host::new();
    host.start(60, "bash", 9, "bash\0", "/");
    assert_eq!(host.resolve(60).comm, "bash");
    host.end(60);
    host.start(60, "psql", 9, "psql\0", "/");
    host.processes.observe_exec(60, "psql", "/usr/bin/psql", "psql", 0);
    assert_eq!(host.resolve(60).comm, "psql");
}

#[test]
fn a_reused_pid_is_another_process_even_if_events_were_lost() {
    let mut host = Host::new();
    host.start(70, "old", 100, "old\0", "/");
    assert_eq!(host.resolve(70).comm, "old");
    // Heard of by fork.
    host.processes.observe_exit(70);
    host.end(70);
    assert_eq!(host.resolve(70).comm, "old", "late events of the old one");
    host.processes.observe_fork(1, 70);
    host.start(70, "new", 200, "new\0", "/");
    assert_eq!(host.resolve(70).comm, "new");
    // Only the exit was heard of: the start time tells.
    host.processes.observe_exit(70);
    host.end(70);
    host.start(70, "newer", 300, "newer\0", "/");
    assert_eq!(host.resolve(70).comm, "newer");
    // Nothing was heard of: the kernel's name for it makes us look.
    host.end(70);
    host.start(70, "newest", 400, "newest\0", "/");
    assert_eq!(host.processes.resolve(70, "newest", 0, 0).comm, "newest");
    assert_eq!(host.processes.counts().reused, 2);
}

#[test]
fn a_threads_own_name_changes_nothing() {
    let mut host = Host::new();
    host.start(80, "java", 100, "java\0-jar\0x", "/");
    let first = host.processes.resolve(80, "http-worker-1", 0, 0);
    assert_eq!(first.comm, "java");
    host.end(80);
    for hint in ["http-worker-1", "http-worker-2", "java", "http-worker-2"] {
        assert!(Arc::ptr_eq(&first, &host.processes.resolve(80, hint, 0, 0)), "{hint}");
    }
    assert_eq!(host.processes.counts().reused, 0);
}

#[test]
fn a_container_named_later_is_named_at_the_next_lookup() {
    let mut host = Host::new();
    host.start(90, "nginx", 1, "nginx\0", &format!("/docker/{ID}"));
    assert_eq!(host.resolve(90).container.as_ref().unwrap().name, None);
    for name in ["web", "front"] {
        let known = ContainerName { name: name.into(), image: Some("nginx:1".into()), compose: None };
        host.names.replace([(ID.to_owned(), Arc::new(known))].into());
        let container = host.resolve(90).container.clone().unwrap();
        assert_eq!((container.name.as_deref(), container.image.as_deref()), (Some(name), Some("nginx:1")));
    }
    assert_eq!(host.processes.counts().from_proc, 1);
}

#[test]
fn stays_within_its_bounds_whatever_is_forked() {
    let mut host = Host::with_capacity(10);
    for pid in 1..=1_000 {
        host.processes.observe_fork(pid, pid + 1);
        if pid % 2 == 0 {
            host.processes.observe_exit(pid);
        }
        assert!(host.processes.table.len() <= 10 && host.processes.order.len() <= 20 && host.processes.exited.len() <= 10);
    }
    let counts = host.processes.counts();
    assert_eq!(counts.known, 10);
    assert!(counts.evicted > 900, "{counts:?}");
}

#[test]
fn finds_itself_in_the_live_proc() {
    let own = std::process::id();
    let mut processes = Processes::new(Path::new("/proc"), CgroupPaths::find(Path::new("/proc"), None), Arc::default(), 10);
    let process = processes.resolve(own, "", 0, 0);
    let executable = std::env::current_exe().unwrap();
    assert_eq!(process.executable.as_deref(), executable.to_str());
    assert_eq!(process.command.as_deref(), executable.file_name().unwrap().to_str());
    assert!(!process.comm.is_empty());
    assert!(processes.cgroups().directory().is_none_or(Path::is_dir));
}

/// As the kernel tells a group: made, then removed, with no directory that a walk could find.
fn told(host: &mut Host, id: u64, path: &str) {
    host.processes.cgroups().learn(id, path);
    host.processes.cgroups().forget(id);
}

#[test]
fn a_process_and_a_container_that_are_both_gone_are_named_by_what_the_kernel_said() {
    let mut host = Host::new();
    told(&mut host, 4711, &format!("/kubepods/burstable/pod8712f785-1a3e-41ec-a00b-e2dcc77431cb/{ID}"));
    let process = host.processes.resolve(60, "probe", 4711, 0);
    let container = process.container.as_ref().unwrap();
    assert_eq!((container.id.as_str(), container.pod_uid.as_deref()), (ID, Some("8712f785-1a3e-41ec-a00b-e2dcc77431cb")));
}

#[test]
fn the_group_of_the_event_counts_and_not_where_proc_finds_the_pid_later() {
    let other = ID.replace('3', "4");
    let mut host = Host::new();
    told(&mut host, 4711, &format!("/docker/{ID}"));
    told(&mut host, 4712, &format!("/docker/{other}"));
    told(&mut host, 4713, "/system.slice/nginx.service");
    let id = |process: &Process| process.container.as_ref().map(|container| container.id.clone());
    host.start(7, "worker", 50, "worker", &format!("/docker/{other}"));
    assert_eq!(id(&host.processes.resolve(7, "worker", 4711, 0)).as_deref(), Some(ID));
    // It was moved: the next event says so, and one that says nothing changes nothing.
    assert_eq!(id(&host.processes.resolve(7, "worker", 4712, 0)), Some(other.clone()));
    assert_eq!(id(&host.processes.resolve(7, "worker", 0, 0)), Some(other));
    let outside = host.processes.resolve(7, "worker", 4713, 0);
    assert_eq!((id(&outside), outside.unit.as_deref()), (None, Some("nginx.service")));
    // An id that nobody knows says nothing.
    assert!(Arc::ptr_eq(&outside, &host.processes.resolve(7, "worker", 9999, 0)));
}

#[test]
fn a_unit_is_told_where_there_is_no_container_and_not_of_the_agents_own() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("self")).unwrap();
    fs::write(root.path().join("self/cgroup"), "0::/system.slice/runner.service\n").unwrap();
    let cgroups = CgroupPaths::at(root.path().join("cgroup"));
    let processes = Processes::new(root.path(), cgroups, Arc::default(), 100);
    let mut host = Host { root, names: Arc::default(), processes };
    let groups = [
        ("/system.slice/postgresql@15-main.service", Some("postgresql@15-main.service")),
        (&*format!("/system.slice/docker-{ID}.scope/system.slice/nginx.service"), None),
        ("/system.slice/runner.service", None),
        ("/user.slice/user-1000.slice/session-3.scope", None),
    ];
    for (number, (path, unit)) in (1..).zip(groups) {
        let (alive, gone) = (100 + number, 200 + number);
        host.start(alive, "program", 50, "program", path);
        assert_eq!(host.resolve(alive).unit.as_deref(), unit, "{path}");
        told(&mut host, u64::from(gone), path);
        assert_eq!(host.processes.resolve(gone, "program", gone.into(), 0).unit.as_deref(), unit, "{path}, gone");
        host.processes.observe_exec(gone + 100, "program", "/bin/program", "program", gone.into());
        assert_eq!(host.resolve(gone + 100).unit.as_deref(), unit, "{path}, executed and gone");
    }
}

/// Version 1: the tree of a controller has nothing to say of who is in its root.
#[test]
fn another_hierarchy_is_asked_of_who_is_in_the_root_of_this_one() {
    let mut host = Host::new();
    let root = fs::metadata(host.root.path().join("cgroup")).unwrap().ino();
    host.start(7, "worker", 50, "worker", &format!("/docker/{ID}"));
    assert_eq!(host.processes.resolve(7, "worker", root, 0).container.as_ref().map(|container| container.id.as_str()), Some(ID));
}
