//! Two network namespaces joined by a veth pair: both sides name the same two addresses.

use std::process::Command;

use crate::support::{agent::Agent, machine, netns::Namespace, nginx::Nginx, process::run, program};

#[test]
fn both_sides_of_a_veth_pair_carry_the_right_addresses() {
    const REQUESTS: u64 = 2_000;
    let _machine = machine();
    let (left, right) = (Namespace::new("left"), Namespace::new("right"));
    Namespace::join((&left, "10.131.8.1/24"), (&right, "10.131.8.2/24"));
    let nginx = Nginx::start_with(&["10.131.8.2"], right.command("nginx"));
    // The same address and port in another namespace is another server.
    let decoy = Namespace::new("decoy");
    decoy.ip(&["address", "add", "10.131.8.2/32", "dev", "lo"]);
    let agent = Agent::start(&[]);
    let mut load: Command = left.command(program("load"));
    load.args(["http", "--address", &format!("10.131.8.2:{}", nginx.port), "--connections", "8", "--requests", &REQUESTS.to_string()]);
    let load = run(&mut load);
    let report = agent.finish();

    report.summary().assert_nothing_lost();
    for (side, comm) in [("client", "load"), ("server", "nginx")] {
        let exchanges = report.of(nginx.port, side);
        assert_eq!(exchanges.len() as u64, REQUESTS, "{side} side");
        for exchange in exchanges {
            assert_eq!((exchange.client.address.as_str(), exchange.server.address.as_str()), ("10.131.8.1", "10.131.8.2"), "{exchange:?}");
            assert_eq!((exchange.client.name.as_deref(), exchange.server.name.as_deref()), (Some("load"), Some("nginx")), "{exchange:?}");
            assert_eq!((exchange.comm(), exchange.pid() == load.pid), (comm, side == "client"), "{exchange:?}");
        }
    }
    assert_eq!(report.summary().edge("load", "nginx", "http").requests, REQUESTS);
    nginx.stop();
}
