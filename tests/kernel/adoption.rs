//! The agent comes into the middle of things: what happens after its start is right, and nothing is made up about before.

use std::{
    collections::{BTreeMap, HashMap},
    process::{Command, Stdio},
    time::Duration,
};

use serde::Deserialize;

use crate::support::{
    agent::Agent,
    machine,
    nginx::Nginx,
    postgres::{DATABASE, Postgres},
    process::{Process, read_all},
    program, unix_ns, until,
};

#[derive(Debug, Deserialize)]
struct Numbered {
    path: String,
    start_unix_nano: u64,
    status: u16,
}

#[test]
fn started_among_200_busy_connections_it_sees_all_that_follows() {
    const CONNECTIONS: u64 = 200;
    let _machine = machine();
    let nginx = Nginx::start();
    let mut load = Command::new(program("load"));
    load.args(["numbered", "--address", &nginx.address().to_string(), "--connections", &CONNECTIONS.to_string()]);
    let mut load = Process::spawn(load.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let lines = read_all(load.stdout());
    until("200 connections", Duration::from_secs(10), || (established(load.pid()) == CONNECTIONS).then_some(()));

    let agent = Agent::start(&[]);
    let ready_unix_nano = unix_ns();
    // Each connection has spoken a good many times since.
    agent.wait_for("20,000 exchanges", |report| report.exchanges.len() >= 20_000);
    load.close_stdin();
    assert!(load.wait(Duration::from_secs(10)).success());
    let report = agent.finish();
    nginx.stop();

    report.summary().assert_nothing_lost();
    let lines = lines.join().expect("read the requests");
    let asked: Vec<Numbered> = lines.lines().map(|line| serde_json::from_str(line).expect("a request")).collect();
    let known: HashMap<&str, &Numbered> = asked.iter().map(|request| (request.path.as_str(), request)).collect();
    let after: Vec<_> = asked.iter().filter(|request| request.start_unix_nano > ready_unix_nano).collect();
    assert!(after.len() >= 5_000, "only {} requests after the start", after.len());
    for side in ["client", "server"] {
        let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
        for exchange in report.of(nginx_port(&report), side) {
            let request = known.get(exchange.resource.as_str()).unwrap_or_else(|| panic!("{side}: nobody asked for {exchange:?}"));
            assert_eq!(exchange.status, request.status.to_string(), "{side}: {exchange:?}");
            assert_eq!(exchange.comm(), if side == "client" { "load" } else { "nginx" }, "{side}: {exchange:?}");
            assert!(exchange.flags.iter().any(|flag| flag == "adopted"), "the connection is older than the agent: {exchange:?}");
            *seen.entry(&exchange.resource).or_insert(0) += 1;
        }
        let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "{side}: seen more than once: {twice:?}");
        let missed: Vec<_> = after.iter().filter(|request| !seen.contains_key(request.path.as_str())).collect();
        assert!(
            missed.is_empty(),
            "{side}: {} of {} requests after the start were missed: {:?}",
            missed.len(),
            after.len(),
            missed.first()
        );
    }
}

fn nginx_port(report: &crate::support::exchange::Report) -> u16 {
    report.exchanges.iter().find(|exchange| exchange.resource.starts_with("/numbered/")).expect("an exchange with nginx").server.port
}

/// Sockets of a process: what it has open beside the pipes.
fn established(pid: u32) -> u64 {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let is_socket = |path: &std::path::Path| std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
    descriptors.filter(|entry| entry.as_ref().is_ok_and(|entry| is_socket(&entry.path()))).count() as u64
}

#[test]
fn statements_prepared_before_the_start_are_named_as_such_and_counted() {
    const CLIENTS: usize = 20;
    const ROUNDS: i32 = 50;
    let _machine = machine();
    let postgres = Postgres::start();
    postgres.psql(
        DATABASE,
        "CREATE TABLE notes (id int PRIMARY KEY, text text); INSERT INTO notes SELECT n, 'note' FROM generate_series(1, 1000) n",
    );
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = postgres.connect(DATABASE).expect("connect to PostgreSQL");
            let select = client.prepare("SELECT text FROM notes WHERE id = $1").expect("prepare");
            let update = client.prepare("UPDATE notes SET text = $2 WHERE id = $1").expect("prepare");
            // Used once, so that the client has nothing more to learn about their types.
            client.query(&select, &[&1]).expect("select");
            client.execute(&update, &[&1, &"text"]).expect("update");
            (client, select, update)
        })
        .collect();

    let agent = Agent::start(&[]);
    postgres.forget_statistics();
    for (index, (client, select, update)) in clients.iter_mut().enumerate() {
        for round in 0..ROUNDS {
            let id = index as i32 * ROUNDS + round + 1;
            assert_eq!(client.query(&*select, &[&id]).expect("select").len(), 1);
            assert_eq!(client.execute(&*update, &[&id, &"new"]).expect("update"), 1);
            let missing: i32 = -id;
            assert_eq!(client.execute(&*update, &[&missing, &"new"]).expect("update"), 0);
        }
    }
    let calls: u64 = postgres.statistics().values().sum();
    let report = agent.finish();
    drop(clients);

    let expected = CLIENTS as u64 * ROUNDS as u64 * 3;
    assert_eq!(calls, expected, "PostgreSQL counts what we did");
    report.summary().assert_nothing_lost();
    for side in ["client", "server"] {
        let exchanges = report.of(postgres.port, side);
        let adopted: Vec<_> = exchanges.iter().filter(|exchange| exchange.flags.iter().any(|flag| flag == "adopted")).collect();
        assert_eq!(adopted.len() as u64, expected, "{side}");
        let mut names: Vec<&str> = adopted.iter().map(|exchange| exchange.resource.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        // Their text was never on the wire while we watched. Each connection has one name for the query and one for the update.
        assert!(!names.is_empty() && names.iter().all(|name| !name.is_empty()), "{side}: {names:?}");
        assert!(adopted.iter().all(|exchange| !exchange.error), "{side}");
    }
}
