//! Connections that come and go by the thousand: each is counted, and nothing of them stays.

use std::{collections::BTreeMap, process::Command, time::Duration};

use crate::support::{agent::Agent, machine, nginx::Nginx, process::run, program, until};

const RATE: u64 = 2_000;
const CONNECTIONS: u64 = RATE * 10;

#[test]
fn two_thousand_connections_a_second_are_counted_and_leave_nothing_behind() {
    let _machine = machine();
    let nginx = Nginx::start();
    let churn = |connections: u64| {
        let mut load = Command::new(program("load"));
        load.args(["churn", "--rate", &RATE.to_string(), "--connections", &connections.to_string()]);
        // Several addresses: a client port is bound to one destination for a minute after its connection.
        for last in 1..=4 {
            load.args(["--address", &format!("127.0.0.{last}:{}", nginx.port)]);
        }
        run(&mut load).pid
    };
    let agent = Agent::start(&[]);
    // A first round fills what is kept for good: buffers, caches of names, histograms.
    let warm_up = churn(CONNECTIONS / 4);
    let entries = |agent: &Agent| map_entries(agent);
    let (entries_before, resident_before) = (entries(&agent), agent.resident());
    let pid = churn(CONNECTIONS);
    agent.wait_for("all connections to be closed", |report| {
        report.connections.iter().filter(|connection| connection.server.port == nginx.port && connection.role == "client").count() as u64
            >= CONNECTIONS + CONNECTIONS / 4
    });
    let slack = |before: u64| before + 64;
    until("the kernel's maps to be as full as before", Duration::from_secs(10), || {
        let now = entries(&agent);
        now.iter().all(|(map, count)| *count <= slack(entries_before.get(map).copied().unwrap_or(0))).then_some(())
    });
    let resident_after = agent.resident();
    let report = agent.finish();
    let log = nginx.stop();

    assert_eq!(log.len() as u64, CONNECTIONS + CONNECTIONS / 4);
    report.summary().assert_nothing_lost();
    for (role, comm) in [("client", "load"), ("server", "nginx")] {
        let closed = report.connections.iter().filter(|connection| connection.role == role && connection.server.port == log_port(&report));
        let closed: Vec<_> = closed.collect();
        assert_eq!(closed.len(), log.len(), "{role} sockets");
        for connection in closed {
            assert_eq!(connection.error, None, "{connection:?}");
            assert!(connection.bytes_sent > 0 && connection.bytes_received > 0, "{connection:?}");
            let process = connection.process.as_ref().expect("a process");
            assert_eq!(process.comm, comm, "{connection:?}");
            assert_eq!([pid, warm_up].contains(&process.pid), role == "client", "{connection:?}");
        }
        let exchanges = report.exchanges.iter().filter(|exchange| exchange.side == role && exchange.resource.starts_with("/churn/"));
        let exchanges: Vec<_> = exchanges.collect();
        assert_eq!(exchanges.len(), log.len(), "{role} side");
        assert!(exchanges.iter().all(|exchange| exchange.status == "200" && exchange.flags.is_empty()), "{role} side");
    }
    // What one connection leaves behind would show 20,000-fold: a kilobyte each would be 20 MB.
    let grown = resident_after.saturating_sub(resident_before);
    assert!(grown < 8 << 20, "the agent grew from {resident_before} by {grown} bytes");
}

fn log_port(report: &crate::support::exchange::Report) -> u16 {
    report.exchanges.iter().find(|exchange| exchange.resource.starts_with("/churn/")).expect("an exchange").server.port
}

/// Entries of every map that the agent reports.
fn map_entries(agent: &Agent) -> BTreeMap<String, u64> {
    let metrics = agent.metrics();
    let entries = metrics.with_prefix("remora_self_map_entries");
    assert!(!entries.is_empty(), "the agent tells how full its maps are");
    entries.into_iter().map(|(series, count)| (series.to_owned(), count as u64)).collect()
}
