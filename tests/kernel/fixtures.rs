//! The fixtures by themselves, without an agent: when one of these fails, no other failure means anything.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    http::load,
    support::{
        cgroup::Cgroup,
        machine,
        netns::Namespace,
        nginx::{Nginx, statuses},
        postgres::{Postgres, canonical},
        process::{Process, run},
        program,
    },
};

#[test]
fn the_load_generator_and_the_access_log_agree() {
    let _machine = machine();
    let nginx = Nginx::start();
    let load = load(&nginx, 20_000, 32, 0);
    let counted = statuses(&nginx.stop());
    assert_eq!(counted, BTreeMap::from([("200".into(), 19_700), ("404".into(), 200), ("503".into(), 100)]));
    let told: BTreeMap<String, u64> = serde_json::from_value(load.json()[0]["statuses"].clone()).expect("statuses");
    assert_eq!(told, counted);
}

#[test]
fn pg_stat_statements_counts_what_pgbench_does() {
    let _machine = machine();
    let postgres = Postgres::start();
    run(postgres.client("pgbench").args(["-i", "-q", "-s", "1"]));
    for mode in ["simple", "extended", "prepared"] {
        postgres.forget_statistics();
        run(postgres.client("pgbench").args(["-n", "-M", mode, "-c", "2", "-t", "50"]));
        let calls = postgres.statistics();
        let of = |word: &str| calls.iter().filter(|(statement, _)| statement.starts_with(word)).map(|(_, calls)| calls).sum::<u64>();
        assert_eq!([of("update"), of("insert"), of("selectabalance")], [300, 100, 100], "{mode}: {calls:#?}");
        // PostgreSQL 15 forgets the identity of a utility statement that is executed a second time from the cache of its plans.
        let utility = if mode == "prepared" { 2 } else { 100 };
        assert_eq!([of("begin"), of("end")], [utility; 2], "{mode}: {calls:#?}");
    }
}

#[test]
fn two_normalisers_agree_on_the_canonical_statement() {
    let of_server = "UPDATE t1\n   SET a = a + $1 WHERE b IN ($2, $3) AND c = 'it' GROUP BY 1";
    assert_eq!(canonical(of_server), canonical("UPDATE t1 SET a = a + -? where b IN (?) AND c=? GROUP BY ?;"));
}

#[test]
fn a_namespace_has_its_own_network() {
    let _machine = machine();
    let (left, right) = (Namespace::new("left"), Namespace::new("right"));
    Namespace::join((&left, "10.131.9.1/24"), (&right, "10.131.9.2/24"));
    let nginx = Nginx::start_with(&["10.131.9.2"], right.command("nginx"));
    let mut load = left.command(program("load"));
    let load = run(load.args(["http", "--requests", "10", "--address", &format!("10.131.9.2:{}", nginx.port)]));
    assert_eq!(load.json()[0]["requests"], 10);
    assert_eq!(nginx.stop().len(), 10);
}

#[test]
fn a_command_in_a_control_group_is_there_under_its_own_name() {
    let _machine = machine();
    let id = "0123456789abcdef".repeat(4);
    let cgroup = Cgroup::new(&format!("docker/{id}"));
    let process = Process::spawn(cgroup.command("cat").stdin(Stdio::piped()).stdout(Stdio::null()));
    let proc = format!("/proc/{}", process.pid());
    crate::support::until("the shell to become the program", Duration::from_secs(5), || {
        std::fs::read_to_string(format!("{proc}/comm")).ok().filter(|comm| comm == "cat\n")
    });
    let membership = std::fs::read_to_string(format!("{proc}/cgroup")).expect("the process's control groups");
    assert!(membership.lines().any(|line| line == format!("0::/docker/{id}")), "{membership}");
}

#[test]
fn the_programs_that_tests_start_are_there() {
    for name in ["nginx", "wrk", "openssl", "bpftool", "ip", "setpriv", "unshare", "psql", "pgbench"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).output().expect("run sh");
        assert!(found.status.success(), "{name} is missing: `make test` installs what the tests need");
    }
    run(Command::new("/usr/bin/python3").args(["-c", "import psycopg2"]));
}
