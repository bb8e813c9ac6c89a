//! Processes in control groups that look like containers are named by the container's id, on both sides.

use crate::support::{agent::Agent, cgroup::Cgroup, machine, nginx::Nginx, process::run, program};

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
