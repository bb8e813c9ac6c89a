//! Processes in control groups that look like containers are named by the container's id, on both sides.

use tempfile::TempDir;

use crate::{
    recording::{after_ready, assert_same},
    support::{
        agent::{Agent, remora},
        cgroup::{Cgroup, roots},
        exchange::Report,
        machine,
        nginx::Nginx,
        process::run,
        program,
    },
};

const SERVER: &str = "5e7c0ffee0ddba11deadbeef00112233445566778899aabbccddeeff01234567";
const CLIENT: &str = "c11e4700feedface0123456789abcdef0123456789abcdef0123456789abcdef";

/// `path` makes the control group's path of a container id.
fn containers_are_told(path: impl Fn(&str) -> String) {
    const REQUESTS: u64 = 500;
    let _machine = machine();
    let (of_server, of_client) = (Cgroup::new(&path(SERVER)), Cgroup::new(&path(CLIENT)));
    let nginx = Nginx::start_with(&["127.0.0.1"], of_server.command("nginx"));
    let agent = Agent::start(&[]);
    let mut load = of_client.command(program("load"));
    load.args(["http", "--address", &nginx.address().to_string(), "--connections", "4", "--requests", &REQUESTS.to_string()]);
    run(&mut load);
    let report = agent.finish();

    report.summary().assert_nothing_lost();
    for (side, container) in [("client", CLIENT), ("server", SERVER)] {
        let exchanges = report.of(nginx.port, side);
        assert_eq!(exchanges.len() as u64, REQUESTS, "{side} side");
        for exchange in exchanges {
            assert_eq!(exchange.container(), container, "{side} side: {exchange:?}");
            let kinds = (exchange.client.kind.as_deref(), exchange.server.kind.as_deref());
            assert_eq!(kinds, (Some("container"), Some("container")), "{exchange:?}");
        }
    }
    nginx.stop();
}

#[test]
fn containers_of_docker_are_told_by_their_id() {
    containers_are_told(|id| format!("docker/{id}"));
}

#[test]
fn containers_of_a_kubernetes_node_are_told_by_their_id() {
    containers_are_told(|id| format!("kubepods.slice/kubepods-besteffort.slice/cri-containerd-{id}.scope"));
}

/// One request of a process in the group; the process and the group are gone when this returns.
fn ask_once(group: Cgroup, nginx: &Nginx) {
    let mut load = group.command(program("load"));
    run(load.args(["http", "--address", &nginx.address().to_string(), "--connections", "1", "--requests", "1"]));
}

#[track_caller]
fn assert_asked_by(report: &Report, port: u16, container: &str) {
    let exchanges = report.of(port, "client");
    assert_eq!(exchanges.len(), 1, "{exchanges:?}");
    assert_eq!((exchanges[0].container(), exchanges[0].client.kind.as_deref()), (container, Some("container")), "{exchanges:?}");
}

#[test]
fn a_container_that_came_and_went_while_nobody_looked_has_its_name_also_in_the_replay() {
    let _machine = machine();
    let directory = TempDir::with_prefix("remora-containers-").expect("make a directory");
    let recording = directory.path().join("run.rrec");
    let file = recording.to_str().expect("a path of characters");
    let nginx = Nginx::start();
    let agent = Agent::start_as(&["record", file, "--output", "json"], &[]);
    agent.asleep(|| ask_once(Cgroup::new(&format!("docker/{CLIENT}")), &nginx));
    let stopped = agent.stop();
    assert!(stopped.status.success(), "{}", stopped.stderr);
    let port = nginx.port;
    nginx.stop();

    stopped.report.summary().assert_nothing_lost();
    assert_asked_by(&stopped.report, port, CLIENT);
    let replay = run(remora().args(["replay", file, "--output", "json"])).stdout;
    assert_same("the live run and its replay", &after_ready(&stopped.stdout), &after_ready(replay.as_bytes()));
    let events = std::fs::read(&recording).expect("read the recording");
    let path = format!("/docker/{CLIENT}");
    assert!(events.windows(path.len()).any(|window| window == path.as_bytes()), "the recording has the event of the group");
}

/// Version 1 hosts: nothing obliges an engine to make a group in the tree of version 2, too.
#[test]
fn a_container_that_is_placed_in_the_hierarchy_of_pids_alone_has_its_name() {
    let _machine = machine();
    // On a host of version 2 alone that is the only one.
    let roots = roots();
    let root = roots.iter().find(|root| root.ends_with("pids")).or(roots.first()).expect("a hierarchy");
    let nginx = Nginx::start();
    let agent = Agent::start(&[]);
    agent.asleep(|| ask_once(Cgroup::in_one(root, &format!("docker/{CLIENT}")), &nginx));
    let report = agent.finish();
    assert_asked_by(&report, nginx.port, CLIENT);
    nginx.stop();
}

#[test]
fn a_living_container_is_found_in_whichever_hierarchy_it_was_placed() {
    const REQUESTS: usize = 50;
    let _machine = machine();
    for root in roots() {
        let group = Cgroup::in_one(&root, &format!("docker/{SERVER}"));
        let nginx = Nginx::start_with(&["127.0.0.1"], group.command("nginx"));
        let agent = Agent::start(&[]);
        crate::http::load(&nginx, REQUESTS as u64, 1, 0);
        let report = agent.finish();
        let exchanges = report.of(nginx.port, "server");
        assert_eq!(exchanges.len(), REQUESTS, "{}", root.display());
        assert!(exchanges.iter().all(|exchange| exchange.container() == SERVER), "{}: {exchanges:?}", root.display());
        nginx.stop();
    }
}
