//! PostgreSQL under its own tools and drivers: statements are counted as the server counts them.

use std::{collections::BTreeMap, process::Command};

use crate::support::{
    agent::Agent,
    capture::{Capture, assert_same_exchanges},
    exchange::{Exchange, Report, count_by},
    machine,
    postgres::{DATABASE, Postgres, canonical},
    process::{run, run_within},
};

/// A statement's first word is its kind.
fn kinds(statements: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut kinds = BTreeMap::new();
    for (statement, calls) in statements {
        let kind =
            KINDS.iter().find(|kind| statement.starts_with(*kind)).unwrap_or_else(|| panic!("an unknown kind of statement: {statement}"));
        *kinds.entry(kind.to_uppercase()).or_insert(0) += calls;
    }
    kinds
}

/// [`canonical`] statements have no blanks: longer words first.
const KINDS: &[&str] = &[
    "select", "insert", "update", "delete", "begin", "commit", "rollback", "end", "copy", "vacuum", "truncate", "create", "alter", "drop",
    "start", "set",
];

/// The work's exchanges as one side saw them: without start-up and the round trips that only prepare.
fn executed<'a>(report: &'a Report, port: u16, side: &str) -> Vec<&'a Exchange> {
    let exchanges = report.of(port, side).into_iter();
    let of_work = |exchange: &&Exchange| exchange.attributes.get("db.namespace").and_then(|name| name.as_str()) == Some(DATABASE);
    exchanges.filter(of_work).filter(|exchange| !matches!(exchange.operation.as_str(), "PREPARE" | "CONNECT" | "STARTUP" | "")).collect()
}

/// What the agent counted equals what the server counted, statement by statement.
#[track_caller]
fn assert_equal_counts(report: &Report, port: u16, expected: &BTreeMap<String, u64>, what: &str) {
    report.summary().assert_nothing_lost();
    for side in ["client", "server"] {
        let exchanges = executed(report, port, side);
        let succeeded: Vec<_> = exchanges.into_iter().filter(|exchange| !exchange.error).collect();
        let seen = count_by(&succeeded, |exchange| canonical(&exchange.resource));
        let differing: Vec<_> = expected
            .keys()
            .chain(seen.keys())
            .map(|statement| (statement, expected.get(statement).unwrap_or(&0), seen.get(statement).unwrap_or(&0)))
            .filter(|(_, expected, seen)| expected != seen)
            .collect();
        assert!(differing.is_empty(), "{what}, {side} side: (statement, calls, seen) {differing:#?}");
        assert_eq!(count_by(&succeeded, |exchange| exchange.operation.clone()), kinds(expected), "{what}, {side} side");
    }
}

#[test]
fn pgbench_is_counted_as_pg_stat_statements_counts_it() {
    const CLIENTS: u64 = 4;
    const TRANSACTIONS: u64 = 300;
    let _machine = machine();
    let postgres = Postgres::start();
    run(postgres.client("pgbench").args(["-i", "-q", "-s", "1"]));
    for mode in ["simple", "extended", "prepared"] {
        let agent = Agent::start(&[]);
        postgres.forget_statistics();
        let (clients, transactions) = (CLIENTS.to_string(), TRANSACTIONS.to_string());
        run(postgres.client("pgbench").args(["-M", mode, "-c", &clients, "-j", "2", "-t", &transactions]));
        let mut expected = postgres.statistics();
        if mode == "prepared" {
            // PostgreSQL 15 forgets the identity of a utility statement that is executed a second time from the cache of its plans.
            expected.extend(["begin", "end"].map(|statement| (statement.to_owned(), CLIENTS * TRANSACTIONS)));
        }
        let report = agent.finish();
        let updates: u64 = expected.iter().filter(|(statement, _)| statement.starts_with("update")).map(|(_, calls)| calls).sum();
        assert_eq!(updates, 3 * CLIENTS * TRANSACTIONS, "PostgreSQL counts what pgbench did");
        assert_equal_counts(&report, postgres.port, &expected, mode);
        for exchange in executed(&report, postgres.port, "client") {
            assert_eq!(exchange.comm(), "pgbench", "{exchange:?}");
        }
        for exchange in executed(&report, postgres.port, "server") {
            assert_eq!(exchange.comm(), "postgres", "{exchange:?}");
            assert_eq!(exchange.client.name.as_deref(), Some("pgbench"), "{exchange:?}");
        }
    }
}

#[test]
fn errors_carry_their_sqlstate() {
    let _machine = machine();
    let postgres = Postgres::start();
    postgres.psql(DATABASE, "CREATE TABLE unique_ids (id int PRIMARY KEY); INSERT INTO unique_ids VALUES (1)");
    let wrong = [
        ("SELECT * FROM no_such_table", "42P01"),
        ("SELECT 1 / 0", "22012"),
        ("SELEKT 1", "42601"),
        ("INSERT INTO unique_ids VALUES (1)", "23505"),
    ];
    let agent = Agent::start(&[]);
    let mut psql = postgres.client("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=0"]);
    for (statement, _) in wrong {
        psql.args(["-c", statement]);
    }
    let ended = run_within(psql.args(["-c", "SELECT 42"]), std::time::Duration::from_secs(20));
    assert_eq!(ended.stderr.matches("ERROR").count(), wrong.len(), "{}", ended.stderr);
    let report = agent.finish();

    report.summary().assert_nothing_lost();
    for side in ["client", "server"] {
        let exchanges = executed(&report, postgres.port, side);
        let failed: Vec<_> = exchanges.iter().filter(|exchange| exchange.error).map(|exchange| exchange.status.as_str()).collect();
        assert_eq!(failed, wrong.map(|(_, state)| state), "{side}");
        assert_eq!(exchanges.len(), wrong.len() + 1, "{side}");
        for (exchange, (statement, _)) in exchanges.iter().zip(wrong) {
            let first_word = statement.split(' ').next();
            assert_eq!(exchange.resource.split(' ').next(), first_word, "{side}: {exchange:?}");
            assert!(!exchange.resource.contains("(1)"), "literals stay on the wire: {exchange:?}");
        }
    }
}

#[test]
fn a_copy_of_a_hundred_thousand_rows_is_one_exchange_each_way() {
    const ROWS: u64 = 100_000;
    let _machine = machine();
    let postgres = Postgres::start();
    postgres.psql(DATABASE, "CREATE TABLE rows (id int, text text)");
    let file = postgres.directory().join("rows.tsv");
    // Rows that look like messages to whoever loses the place.
    let rows: String = (0..ROWS).map(|row| format!("{row}\tSELECT {row} FROM decoy; ERROR 42P01 and so on\n")).collect();
    std::fs::write(&file, rows).expect("write the rows");
    let agent = Agent::start(&[]);
    postgres.forget_statistics();
    let copied = file.with_extension("copy");
    run(postgres.client("psql").args(["-X", "-c", &format!("\\copy rows FROM {}", file.display())]));
    run(postgres.client("psql").args(["-X", "-c", &format!("\\copy rows TO {}", copied.display())]));
    run(postgres.client("psql").args(["-X", "-c", "SELECT count(*) FROM rows"]));
    let expected = postgres.statistics();
    let report = agent.finish();

    let length = |path: &std::path::Path| std::fs::metadata(path).expect("a file").len();
    assert_eq!(length(&file), length(&copied));
    assert_equal_counts(&report, postgres.port, &expected, "COPY");
    for side in ["client", "server"] {
        let copies: Vec<_> = executed(&report, postgres.port, side).into_iter().filter(|exchange| exchange.operation == "COPY").collect();
        assert_eq!(copies.len(), 2, "{side}");
        assert!(copies[0].request_bytes > length(&file), "{side}: {:?}", copies[0]);
        assert!(copies[1].response_bytes > length(&file), "{side}: {:?}", copies[1]);
    }
}

const PYTHON: &str = r#"
import psycopg2
connection = psycopg2.connect("")
cursor = connection.cursor()
cursor.execute("CREATE TABLE python_rows (id int PRIMARY KEY, text text)")
connection.commit()
for number in range(200):
    cursor.execute("INSERT INTO python_rows VALUES (%s, %s)", (number, "text of row %d" % number))
connection.commit()
for number in range(100):
    cursor.execute("SELECT text FROM python_rows WHERE id = %s", (number,))
    assert cursor.fetchone()[0] == "text of row %d" % number
cursor.execute("DELETE FROM python_rows WHERE id IN (1, 2, 3)")
connection.rollback()
try:
    cursor.execute("INSERT INTO python_rows VALUES (1, 'again')")
    raise SystemExit("a duplicate key was taken")
except psycopg2.errors.UniqueViolation:
    connection.rollback()
connection.close()
"#;

#[test]
fn a_python_driver_is_counted() {
    let _machine = machine();
    let postgres = Postgres::start();
    let agent = Agent::start(&[]);
    postgres.forget_statistics();
    // Debian's interpreter: that is where Debian's driver is.
    let mut python = Command::new("/usr/bin/python3");
    postgres.environment(&mut python);
    run(python.args(["-c", PYTHON]));
    let expected = postgres.statistics();
    let report = agent.finish();

    assert_eq!(kinds(&expected)["INSERT"], 200);
    assert_equal_counts(&report, postgres.port, &expected, "psycopg2");
    for side in ["client", "server"] {
        let failed: Vec<_> = executed(&report, postgres.port, side).into_iter().filter(|exchange| exchange.error).collect();
        assert_eq!(failed.len(), 1, "{side}: {failed:?}");
        assert_eq!((failed[0].status.as_str(), failed[0].operation.as_str()), ("23505", "INSERT"), "{side}");
    }
}

#[test]
fn a_rust_driver_is_counted_and_its_process_named() {
    let _machine = machine();
    let postgres = Postgres::start();
    let agent = Agent::start(&[]);
    postgres.forget_statistics();
    let mut client = postgres.connect(DATABASE).expect("connect to PostgreSQL");
    client.batch_execute("CREATE TABLE rust_rows (id int PRIMARY KEY, text text); CREATE INDEX ON rust_rows (text)").expect("create");
    let insert = client.prepare("INSERT INTO rust_rows VALUES ($1, $2)").expect("prepare");
    for number in 0..100_i32 {
        client.execute(&insert, &[&number, &"text"]).expect("insert");
    }
    let mut transaction = client.transaction().expect("begin");
    for number in 0..50_i32 {
        // Prepared anew each time: Parse, Describe and Sync, then Bind, Execute and Sync.
        transaction.execute("UPDATE rust_rows SET text = $2 WHERE id = $1", &[&number, &"new"]).expect("update");
    }
    transaction.commit().expect("commit");
    for number in 0..30_i32 {
        assert_eq!(client.query("SELECT text FROM rust_rows WHERE id < $1", &[&number]).expect("select").len(), number as usize);
    }
    let error = client.query("SELECT 1 / $1::int", &[&0_i32]).expect_err("a division by zero");
    assert_eq!(error.code().map(|code| code.code()), Some("22012"));
    client.close().expect("close");
    let expected = postgres.statistics();
    let report = agent.finish();

    assert_equal_counts(&report, postgres.port, &expected, "rust-postgres");
    let executions = executed(&report, postgres.port, "client");
    assert!(executions.iter().all(|exchange| exchange.pid() == std::process::id()), "the driver runs in this process");
    let failed: Vec<_> = executions.iter().filter(|exchange| exchange.error).map(|exchange| exchange.status.as_str()).collect();
    assert_eq!(failed, ["22012"]);
}

#[test]
fn a_capture_file_of_the_same_traffic_gives_the_same_exchanges() {
    let _machine = machine();
    let postgres = Postgres::start();
    run(postgres.client("pgbench").args(["-i", "-q", "-s", "1"]));
    let capture = Capture::start(postgres.port);
    let agent = Agent::start(&[]);
    for mode in ["simple", "extended", "prepared"] {
        run(postgres.client("pgbench").args(["-n", "-M", mode, "-c", "2", "-t", "50"]));
    }
    let report = agent.finish();
    let replayed = capture.replay();
    let live = report.of(postgres.port, "client");
    assert!(live.len() > 3 * 2 * 50 * 7, "{} exchanges", live.len());
    assert_same_exchanges(&live, &replayed.of(postgres.port, "unknown"));
}
