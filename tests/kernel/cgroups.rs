//! What the programs say of control groups and leave out because of them; loaded here without the agent, to choose the hierarchy.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use remora::{
    config::{BtfArchive, Hooks, Transport},
    event::{Body, Event},
    probes::{
        features::{CgroupController, CgroupHierarchy, Features},
        hooks::{HookFamily, Way, choose_hooks},
        load::{LoadOptions, Probes},
        transport::{Events, Reader},
    },
};

use crate::support::{
    cgroup::{Cgroup, roots},
    machine,
    process::{Process, run},
};

const CONTAINER: &str = "c11e4700feedface0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "5e7c0ffee0ddba11deadbeef00112233445566778899aabbccddeeff01234567";

fn family() -> HookFamily {
    let families =
        choose_hooks(&Features::probe(None, &BtfArchive::None, &[]), Hooks::Auto, Transport::Auto).expect("a host that can be observed");
    families[0]
}

fn load(family: HookFamily, cgroups: CgroupHierarchy, filter_cgroups: bool) -> (Probes, Events) {
    let options = LoadOptions {
        way: Way::new(&Features::probe(None, &BtfArchive::None, &[]), family, Transport::Auto, 8 << 20),
        own_port: None,
        watch_client: true,
        watch_server: true,
        pids: vec![],
        ports: vec![],
        cgroups,
        filter_cgroups,
        capture_len: 1024,
        ring_bytes: 8 << 20,
        max_connections: 4096,
        measure: false,
    };
    let mut probes = Probes::load(&options).expect("load the programs");
    let events = probes.events().expect("the ring");
    (probes, events)
}

/// Every record so far, in its order.
fn records(ring: &mut Events) -> Vec<Vec<u8>> {
    let records = RefCell::new(Vec::new());
    let mut reader = Reader::new(ring, |record| records.borrow_mut().push(record.to_vec())).expect("a reader");
    while reader.rest().expect("read the ring").records > 0 {}
    drop(reader);
    records.into_inner()
}

fn events(records: &[Vec<u8>]) -> impl Iterator<Item = Event<'_>> {
    records.iter().map(|record| Event::decode(record).expect("a whole record"))
}

/// Id, path, removed; of what this test did itself.
fn groups(records: &[Vec<u8>]) -> Vec<(u64, String, bool)> {
    events(records)
        .filter(|event| event.header.pid == std::process::id())
        .filter_map(|event| match event.body {
            Body::Cgroup { id, path, removed } => Some((id, String::from_utf8_lossy(path).into_owned(), removed)),
            _ => None,
        })
        .collect()
}

/// The hierarchies of this machine and where they are mounted.
fn hierarchies() -> Vec<(std::path::PathBuf, CgroupHierarchy)> {
    let table = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let number = |name: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'))?;
        line.split('\t').next()?.parse::<u32>().ok()
    };
    let of = |root: &Path| {
        let name = root.file_name()?.to_str()?;
        let controller = match name {
            "pids" => CgroupController::Pids,
            "memory" => CgroupController::Memory,
            "devices" => CgroupController::Devices,
            _ => return Some(CgroupHierarchy::default()),
        };
        Some(CgroupHierarchy { controller, number: number(name)? })
    };
    let devices = Path::new("/sys/fs/cgroup/devices").to_owned();
    let devices = Some(devices).filter(|root| root.join("cgroup.procs").exists());
    roots().into_iter().chain(devices).filter_map(|root| of(&root).map(|hierarchy| (root, hierarchy))).collect()
}

#[test]
fn ids_and_events_are_of_the_hierarchy_that_was_asked_for() {
    let _machine = machine();
    let hierarchies = hierarchies();
    assert!(!hierarchies.is_empty());
    for (root, hierarchy) in &hierarchies {
        let (_probes, mut ring) = load(family(), *hierarchy, false);
        let path = format!("docker/{CONTAINER}");
        let others: Vec<Cgroup> = hierarchies
            .iter()
            .filter(|(other, _)| other != root)
            .map(|(other, _)| Cgroup::in_one(other, &format!("docker/{OTHER}")))
            .collect();
        let group = Cgroup::in_one(root, &path);
        let id = group.id();
        let pid = run(&mut group.command("true")).pid;
        drop((group, others));
        let records = records(&mut ring);

        let path = format!("/{path}");
        let of_group: Vec<_> = groups(&records).into_iter().filter(|(_, path, _)| path.starts_with("/docker/")).collect();
        assert_eq!(of_group, [(id, path.clone(), false), (id, path, true)], "{hierarchy:?}");
        let executed: Vec<u64> = events(&records)
            .filter(|event| event.header.pid == pid)
            .filter_map(|event| match event.body {
                Body::Exec { cgroup_id, .. } => Some(cgroup_id),
                _ => None,
            })
            .collect();
        // The shell, outside, and what it became, inside.
        assert!(executed.len() == 2 && executed[0] != id && executed[1] == id, "{hierarchy:?}: {executed:?}, group {id}");
    }
}

#[test]
fn a_renamed_group_is_told_with_its_new_path() {
    let _machine = machine();
    let Some((root, hierarchy)) = hierarchies().into_iter().find(|(_, hierarchy)| hierarchy.number != 0) else {
        // Version 2 does not rename.
        return;
    };
    let (_probes, mut ring) = load(family(), hierarchy, false);
    let group = Cgroup::in_one(&root, "remora-before");
    let id = group.id();
    std::fs::rename(root.join("remora-before"), root.join("remora-after")).expect("rename a control group");
    drop(Cgroup::in_one(&root, "remora-after"));
    drop(group);
    let told = groups(&records(&mut ring));
    let path = |path: &str| path.to_owned();
    assert_eq!(told, [(id, path("/remora-before"), false), (id, path("/remora-after"), false), (id, path("/remora-after"), true)]);
}

#[test]
fn a_path_that_does_not_fit_is_told_as_none_rather_than_cut() {
    let _machine = machine();
    let (root, hierarchy) = hierarchies().remove(0);
    let (_probes, mut ring) = load(family(), hierarchy, false);
    let names: Vec<String> = (0..6).map(|depth| format!("remora-{depth}-{}", "x".repeat(200))).collect();
    let paths: Vec<String> = (1..=names.len()).map(|depth| names[..depth].join("/")).collect();
    for path in &paths {
        std::fs::create_dir(root.join(path)).expect("make a control group");
    }
    for path in paths.iter().rev() {
        std::fs::remove_dir(root.join(path)).expect("remove a control group");
    }
    let told = groups(&records(&mut ring));
    let expected: Vec<String> = paths.iter().map(|path| if path.len() < 1022 { format!("/{path}") } else { String::new() }).collect();
    let made: Vec<&str> = told.iter().filter(|(_, _, removed)| !removed).map(|(_, path, _)| path.as_str()).collect();
    assert_eq!(made, expected);
    assert!(expected.iter().any(String::is_empty) && told.len() == 2 * paths.len());
}

/// A shell that says a line into a connection whenever it is told to; the test itself answers nothing, and is not watched.
struct Talker {
    process: Process,
    input: std::process::ChildStdin,
    said: BufReader<std::process::ChildStdout>,
}

impl Talker {
    fn start(group: &Cgroup, transport: &str, port: u16) -> Self {
        let mut command: Command = group.command("bash");
        let script = format!("exec 3<>/dev/{transport}/127.0.0.1/{port}; while read -r line; do echo \"$line\" >&3; echo said; done");
        let mut process = Process::spawn(command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()));
        let input = process.stdin();
        let said = BufReader::new(process.stdout());
        Self { process, input, said }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("write to the shell");
        let mut answer = String::new();
        self.said.read_line(&mut answer).expect("read from the shell");
        assert_eq!(answer, "said\n");
    }

    fn end(mut self) -> u32 {
        drop(self.input);
        self.process.wait(Duration::from_secs(10));
        self.process.pid()
    }
}

fn chosen() -> CgroupHierarchy {
    Features::probe(None, &BtfArchive::None, &[]).cgroup_hierarchy
}

/// The payloads that were reported, of both transports.
fn said(records: &[Vec<u8>]) -> Vec<String> {
    events(records)
        .filter_map(|event| match event.body {
            Body::Data { payload, .. } | Body::Datagram { payload, .. } if payload.starts_with(b"from ") => {
                Some(String::from_utf8_lossy(payload).trim().to_owned())
            }
            _ => None,
        })
        .collect()
}

#[test]
fn nothing_is_reported_of_an_ignored_group_and_everything_of_others() {
    let _machine = machine();
    for family in [HookFamily::Socket, HookFamily::Syscalls] {
        let (probes, mut ring) = load(family, chosen(), true);
        let filter = probes.cgroup_filter().expect("the filter");
        let root = root_of_choice();
        let (ignored, other) = (Cgroup::in_one(&root, &format!("docker/{CONTAINER}")), Cgroup::in_one(&root, &format!("docker/{OTHER}")));
        filter.ignore(ignored.id()).expect("ignore a group");
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").expect("bind"), UdpSocket::bind("127.0.0.1:0").expect("bind"));
        let (tcp_port, udp_port) = (tcp.local_addr().expect("address").port(), udp.local_addr().expect("address").port());
        let mut pids = Vec::new();
        for (group, name) in [(&ignored, "ignored"), (&other, "other")] {
            for (transport, port) in [("tcp", tcp_port), ("udp", udp_port)] {
                let mut talker = Talker::start(group, transport, port);
                talker.say(&format!("from {name} by {transport}"));
                pids.push(talker.end());
            }
            // Refused: an attempt that fails.
            let refused = run(group.command("bash").args(["-c", "(exec 3<>/dev/tcp/127.0.0.1/1) 2> /dev/null; echo $$"]));
            pids.push(refused.pid);
        }
        let records = records(&mut ring);

        assert_eq!(said(&records), ["from other by tcp", "from other by udp"], "{family:?}");
        let of_cgroup = |wanted: u64| {
            let kinds = events(&records).filter_map(|event| match event.body {
                Body::Open { cgroup_id, .. } if cgroup_id == wanted => Some("open"),
                Body::UdpOpen { cgroup_id, .. } if cgroup_id == wanted => Some("udp_open"),
                Body::Fail { cgroup_id, .. } if cgroup_id == wanted => Some("fail"),
                Body::Owner { cgroup_id, .. } | Body::Listen { cgroup_id, .. } if cgroup_id == wanted => Some("more"),
                _ => None,
            });
            kinds.collect::<Vec<_>>()
        };
        assert_eq!(of_cgroup(ignored.id()), [""; 0], "{family:?}");
        assert_eq!(of_cgroup(other.id()), ["open", "udp_open", "fail"], "{family:?}");
        let of_ignored = events(&records).filter(|event| pids[..2].contains(&event.header.pid) && event.header.connection.0 != 0).count();
        assert_eq!(of_ignored, 0, "{family:?}: closes and counters, too");
        drop((tcp, udp));
    }
}

/// Where ids are taken from on this machine.
fn root_of_choice() -> std::path::PathBuf {
    let chosen = chosen();
    hierarchies().into_iter().find(|(_, hierarchy)| *hierarchy == chosen).expect("the hierarchy that is asked is mounted").0
}

#[test]
fn a_group_that_is_ignored_later_falls_silent_and_its_open_connections_still_end() {
    let _machine = machine();
    for family in [HookFamily::Socket, HookFamily::Syscalls] {
        let (probes, mut ring) = load(family, chosen(), true);
        let filter = probes.cgroup_filter().expect("the filter");
        let group = Cgroup::in_one(&root_of_choice(), &format!("docker/{CONTAINER}"));
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").expect("bind"), UdpSocket::bind("127.0.0.1:0").expect("bind"));
        let mut by_tcp = Talker::start(&group, "tcp", tcp.local_addr().expect("address").port());
        let mut by_udp = Talker::start(&group, "udp", udp.local_addr().expect("address").port());
        let server: TcpStream = tcp.accept().expect("accept").0;
        by_tcp.say("from tcp, first");
        by_udp.say("from udp, first");
        filter.clone().ignore(group.id()).expect("ignore a group");
        by_tcp.say("from tcp, second");
        by_udp.say("from udp, second");
        by_udp.end();
        by_tcp.end();
        drop(server);
        // No process has a part in this: it ends when the last packet of both sides was seen.
        let begin = Instant::now();
        let mut all = Vec::new();
        let ends = |all: &[Vec<u8>]| events(all).filter(|event| matches!(event.body, Body::Close { .. })).count();
        while ends(&all) == 0 && begin.elapsed() < Duration::from_secs(5) {
            all.extend(records(&mut ring));
        }
        assert_eq!(said(&all), ["from tcp, first", "from udp, first"], "{family:?}");
        let opened = events(&all).find(|event| matches!(event.body, Body::Open { cgroup_id, .. } if cgroup_id == group.id()));
        let opened = opened.expect("an open event").header.connection;
        let closed: Vec<_> =
            events(&all).filter(|event| matches!(event.body, Body::Close { .. })).map(|event| event.header.connection).collect();
        assert!(closed.contains(&opened), "{family:?}: {closed:?}");
    }
}

#[test]
fn an_allowed_group_is_seen_again() {
    let _machine = machine();
    let (probes, mut ring) = load(family(), chosen(), true);
    let filter = probes.cgroup_filter().expect("the filter");
    let group = Cgroup::in_one(&root_of_choice(), &format!("docker/{CONTAINER}"));
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = tcp.local_addr().expect("address").port();
    filter.allow(group.id()).expect("a group that is not ignored");
    for (name, ignored) in [("from a", false), ("from b", true), ("from c", false)] {
        if ignored { filter.ignore(group.id()) } else { filter.allow(group.id()) }.expect("change the filter");
        let mut talker = Talker::start(&group, "tcp", port);
        talker.say(name);
        talker.end();
    }
    assert_eq!(said(&records(&mut ring)), ["from a", "from c"]);
    for id in 0..16_384 {
        filter.ignore(1 << 40 | id).expect("room for all");
    }
    assert!(filter.ignore(1 << 50).is_err(), "a full filter says so");
}
