//! Redis under its own tools and a Python library: commands are counted as the server counts them.

use std::{
    collections::BTreeMap,
    io::Write,
    process::Stdio,
    time::{Duration, Instant},
};

use crate::support::{
    agent::Agent,
    capture::{Capture, assert_same_exchanges},
    exchange::{Exchange, Report, count_by},
    machine,
    process::{Process, read_all, run, run_within},
    redis::{Calls, Redis},
};

const SIDES: [&str; 2] = ["client", "server"];

/// An agent for this server's connections alone, with room for clients that do not wait for a slow one.
fn watch(redis: &Redis) -> Agent {
    Agent::start(&["--port", &redis.port.to_string(), "--ring-bytes", "64MiB"])
}

/// What one side saw, but for the connection that is older than the agent.
fn seen<'a>(report: &'a Report, redis: &Redis, side: &str) -> Vec<&'a Exchange> {
    let exchanges: Vec<_> = report.of(redis.port, side).into_iter().filter(|one| !one.flags.iter().any(|flag| flag == "adopted")).collect();
    assert!(exchanges.iter().all(|exchange| exchange.protocol == "redis"), "{side}");
    exchanges
}

/// What the agent counted equals what the server counted, command by command. Commands that it does not
/// know are not counted by it, nor is DECRBY, which the tests queue and never execute.
#[track_caller]
fn assert_equal_counts(report: &Report, redis: &mut Redis, what: &str) -> BTreeMap<String, Calls> {
    report.summary().assert_nothing_lost();
    let expected = redis.statistics();
    for side in SIDES {
        let mut counted: BTreeMap<String, Calls> = BTreeMap::new();
        for exchange in seen(report, redis, side).into_iter().filter(|exchange| !matches!(&*exchange.operation, "OTHER" | "DECRBY")) {
            let calls = counted.entry(exchange.operation.clone()).or_default();
            calls.all += 1;
            calls.failed += u64::from(exchange.error);
        }
        assert_eq!(counted, expected, "{what}, {side} side");
    }
    expected
}

#[test]
fn redis_benchmark_is_counted_as_the_server_counts() {
    const REQUESTS: u64 = 1_000;
    let _machine = machine();
    let mut redis = Redis::start(&[]);
    assert_eq!(redis.ask("HSET hash:small a 1 b 2"), ":2");
    redis.forget_statistics();
    let capture = Capture::start(redis.port);
    let agent = watch(&redis);
    let requests = REQUESTS.to_string();
    let arguments = ["-q", "-c", "4", "-n", &requests, "-r", "1000"];
    run(redis.client("redis-benchmark").args(arguments).args(["-P", "16", "-t", "set,get,incr,lpush,lpop,sadd,hset,zadd,mset"]));
    run(redis.client("redis-benchmark").args(arguments).args(["-t", "set,get"]));
    run(redis.client("redis-benchmark").args(arguments).args(["-3", "-P", "7", "hgetall", "hash:small"]));
    let report = agent.finish();

    let counted = assert_equal_counts(&report, &mut redis, "redis-benchmark");
    assert!(counted["SET"].all >= 2 * REQUESTS && counted["GET"].all >= 2 * REQUESTS, "{counted:?}");
    assert!(counted["HGETALL"].all >= REQUESTS && counted["HELLO"].all > 0, "{counted:?}");
    for exchange in seen(&report, &redis, "client") {
        assert_eq!(exchange.comm(), "redis-benchmark", "{exchange:?}");
    }
    for (operation, resource) in [("SET", "SET key:? ?"), ("GET", "GET key:?"), ("MSET", "MSET key:? ? …"), ("HELLO", "HELLO ?")] {
        let all = seen(&report, &redis, "server");
        let of: Vec<_> = all.into_iter().filter(|exchange| exchange.operation == operation).collect();
        assert!(!of.is_empty() && of.iter().all(|exchange| exchange.resource == resource), "{operation}: {:?}", of.first());
    }
    assert_same_exchanges(&seen(&report, &redis, "client"), &seen(&capture.replay(), &redis, "unknown"));
}

#[test]
fn redis_cli_is_counted_with_its_errors() {
    const PIPED: usize = 20_000;
    let _machine = machine();
    let mut redis = Redis::start(&[]);
    redis.forget_statistics();
    let capture = Capture::start(redis.port);
    let agent = watch(&redis);
    // (words, resource, status, whether it is an error)
    let said: &[(&[&str], &str, &str, bool)] = &[
        (&["SET", "text:1", "hunter2"], "SET text:? ?", "OK", false),
        (&["INCR", "text:1"], "INCR text:?", "ERR", true),
        (&["LPUSH", "text:1", "x"], "LPUSH text:? ?", "WRONGTYPE", true),
        (&["get"], "GET", "ERR", true),
        (&["NOSUCH", "hunter2"], "OTHER ?", "ERR", true),
        (&["EVALSHA", "ffffffffffffffffffffffffffffffffffffffff", "1", "text:1"], "EVALSHA script 1 text:?", "NOSCRIPT", true),
        (&["EVAL", "return {KEYS[1], 'hunter2'}", "2", "text:1", "text:2", "x"], "EVAL script 2 text:? ? …", "", false),
        (&["CONFIG", "SET", "timeout", "0"], "CONFIG SET ? …", "OK", false),
        (&["CLIENT", "SETNAME", "hunter2"], "CLIENT SETNAME ?", "OK", false),
        (&["OBJECT", "ENCODING", "text:1"], "OBJECT ENCODING text:?", "", false),
        (&["AUTH", "alice", "hunter2"], "AUTH ? …", "WRONGPASS", true),
        (&["XGROUP", "CREATE", "log:1", "group", "$"], "XGROUP CREATE log:? ? …", "ERR", true),
    ];
    for flag in ["-2", "-3"] {
        for (words, ..) in said {
            run_within(redis.client("redis-cli").arg(flag).args(*words), Duration::from_secs(10));
        }
    }
    let file = tempfile::NamedTempFile::with_prefix("remora-redis-").expect("make a file");
    let lines: String = (0..PIPED).map(|number| format!("SET piped:{number} value-{number}\r\n")).collect();
    std::fs::write(file.path(), lines).expect("write commands");
    let input = std::fs::File::open(file.path()).expect("open the commands");
    let piped = run(redis.client("redis-cli").arg("--pipe").stdin(input));
    assert!(piped.stdout.contains(&format!("replies: {PIPED}")), "{}", piped.stdout);
    let report = agent.finish();

    assert_equal_counts(&report, &mut redis, "redis-cli");
    for side in SIDES {
        let exchanges = seen(&report, &redis, side);
        for (_, resource, status, error) in said {
            let times = exchanges.iter().filter(|one| (&*one.resource, &*one.status, one.error) == (resource, status, *error)).count();
            assert_eq!(times, 2, "{side}: {resource} {status}");
        }
        assert_eq!(count_by(&exchanges, |exchange| exchange.resource.clone())["SET piped:? ?"], PIPED as u64, "{side}");
        let text = format!("{exchanges:?}");
        assert!(!text.contains("hunter2"), "{side}: a secret came out");
    }
    assert_same_exchanges(&seen(&report, &redis, "client"), &seen(&capture.replay(), &redis, "unknown"));
}

const PYTHON: &str = r#"
import os, threading, time, redis
connect = lambda **more: redis.Redis(port=int(os.environ["PORT"]), **more)
one = connect(db=2)
for number in range(50):
    pipeline = one.pipeline(transaction=False)
    for item in range(20):
        pipeline.hset("cart:%d" % item, "field", "hunter2")
        pipeline.hget("cart:%d" % item, "field")
    assert len(pipeline.execute()) == 40
for number in range(30):
    with one.pipeline(transaction=True) as pipeline:
        pipeline.incr("counter:1")
        pipeline.set("text:1", "hunter2")
        pipeline.execute()
with one.pipeline(transaction=True) as pipeline:
    pipeline.execute_command("NOSUCH", "hunter2")
    pipeline.decr("counter:1")
    try:
        pipeline.execute()
        raise SystemExit("a broken transaction was executed")
    except redis.ResponseError:
        pass
try:
    one.incr("cart:1")
    raise SystemExit("a hash was counted")
except redis.ResponseError as error:
    assert "WRONGTYPE" in str(error)
script = one.register_script("return tonumber(ARGV[1]) + #KEYS")
assert script(keys=["counter:1"], args=[41]) == 42
two = connect()
subscriber = two.pubsub()
subscriber.subscribe("news", "hunter2")
subscriber.psubscribe("x*")
for _ in range(3):
    assert subscriber.get_message(timeout=5)["type"].endswith("subscribe")
for number in range(100):
    assert one.publish("news", "hunter2 %d" % number) == 1
for number in range(100):
    assert subscriber.get_message(timeout=5)["type"] == "message"
subscriber.unsubscribe()
subscriber.punsubscribe()
for _ in range(3):
    assert subscriber.get_message(timeout=5)["type"].endswith("unsubscribe")
subscriber.close()
before = time.monotonic_ns()
assert one.blpop("queue:1", timeout=0.3) is None
waited = time.monotonic_ns() - before
print(waited)
"#;

const LARGE: &str = r#"
import os, redis
connection = redis.Redis(port=int(os.environ["PORT"]))
large = b"*1\r\n$4\r\nPING\r\n+OK\r\nx" * (1 << 20)
for number in range(3):
    assert connection.set("file:%d" % number, large) and connection.get("file:%d" % number) == large
    assert connection.incr("counter:1") == number + 1
"#;

#[test]
fn values_of_twenty_mebibytes_are_passed_over() {
    const SIZE: u64 = 20 << 20;
    let _machine = machine();
    let mut redis = Redis::start(&[]);
    redis.forget_statistics();
    let agent = watch(&redis);
    run(&mut redis.python(LARGE));
    let report = agent.finish();
    assert_equal_counts(&report, &mut redis, "large values");
    for side in SIDES {
        let exchanges = seen(&report, &redis, side);
        let told: Vec<_> =
            exchanges.iter().map(|one| (one.resource.as_str(), one.request_bytes > SIZE, one.response_bytes > SIZE)).collect();
        let round = [("SET file:? ?", true, false), ("GET file:?", false, true), ("INCRBY counter:? ?", false, false)];
        assert_eq!(told, round.repeat(3), "{side}");
        assert!(exchanges.iter().all(|exchange| exchange.flags.is_empty()), "{side}");
    }
}

#[test]
fn a_python_library_is_counted_with_transactions_and_subscriptions() {
    let _machine = machine();
    let mut redis = Redis::start(&[]);
    redis.forget_statistics();
    let capture = Capture::start(redis.port);
    let agent = watch(&redis);
    let waited: u64 = run(&mut redis.python(PYTHON)).stdout.trim().parse().expect("nanoseconds");
    let report = agent.finish();

    let counted = assert_equal_counts(&report, &mut redis, "redis-py");
    assert_eq!((counted["HSET"].all, counted["PUBLISH"].all, counted["INCRBY"].failed), (1000, 100, 1));
    for side in SIDES {
        let exchanges = seen(&report, &redis, side);
        let of = |operation: &str| -> Vec<&Exchange> { exchanges.iter().filter(|one| one.operation == operation).copied().collect() };
        let statuses = |operation: &str| count_by(&of(operation), |exchange| exchange.status.clone());
        assert_eq!(statuses("EXEC"), [(String::new(), 30), ("EXECABORT".to_owned(), 1)].into(), "{side}");
        assert_eq!(statuses("INCRBY"), [("QUEUED".to_owned(), 30), ("WRONGTYPE".to_owned(), 1)].into(), "{side}");
        assert_eq!(of("OTHER").len(), 1, "{side}");
        assert_eq!(of("SUBSCRIBE")[0].resource, "SUBSCRIBE ? …", "{side}");
        assert!(of("HSET").iter().all(|exchange| exchange.attributes["db.namespace"] == "2"), "{side}");
        let blocked = of("BLPOP")[0];
        assert!(blocked.duration_ns >= 300_000_000 && blocked.duration_ns <= waited, "{side}: {blocked:?}, the client {waited}");
        assert!(exchanges.iter().all(|exchange| exchange.flags.is_empty()), "{side}");
        assert!(!format!("{exchanges:?}").contains("hunter2"), "{side}: a secret came out");
    }
    assert_same_exchanges(&seen(&report, &redis, "client"), &seen(&capture.replay(), &redis, "unknown"));
}

#[test]
fn a_server_with_a_password_answers_noauth() {
    let _machine = machine();
    let mut redis = Redis::start(&["--requirepass", "hunter2"]);
    assert_eq!(redis.ask("AUTH hunter2"), "+OK");
    redis.forget_statistics();
    let agent = watch(&redis);
    run_within(redis.client("redis-cli").args(["GET", "a"]), Duration::from_secs(10));
    run(redis.client("redis-cli").args(["-a", "hunter2", "--no-auth-warning", "SET", "a", "1"]));
    run(redis.client("redis-cli").args(["-3", "-a", "hunter2", "--no-auth-warning", "GET", "a"]));
    let report = agent.finish();
    assert_equal_counts(&report, &mut redis, "with a password");
    for side in SIDES {
        let exchanges = seen(&report, &redis, side);
        let told: Vec<String> = exchanges.iter().map(|one| format!("{} {}", one.resource, one.status)).collect();
        assert_eq!(told, ["GET ? NOAUTH", "AUTH ? OK", "SET ? ? OK", "AUTH ? OK", "HELLO ? ", "GET ? "], "{side}");
        assert!(!format!("{exchanges:?}").contains("hunter2"), "{side}");
    }
}

/// Opens its connections, says so, waits for a word, and goes on.
const PIPELINES: &str = r#"
import os, sys, redis
connections = [redis.Redis(port=int(os.environ["PORT"])) for _ in range(8)]
def work(rounds):
    for number in range(rounds):
        for index, connection in enumerate(connections):
            pipeline = connection.pipeline(transaction=False)
            for item in range(8):
                pipeline.set("late:%d" % item, number)
                pipeline.incr("late:%d" % item)
            assert len(pipeline.execute()) == 16
work(3)
print("open", flush=True)
sys.stdin.readline()
work(50)
"#;

#[test]
fn connections_that_pipeline_since_before_the_start_are_counted_from_then_on() {
    let _machine = machine();
    let redis = Redis::start(&[]);
    let mut python = Process::spawn(redis.python(PIPELINES).stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut stdout = std::io::BufReader::new(python.stdout());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut line).expect("a line");
    assert_eq!(line.trim(), "open");
    let agent = watch(&redis);
    let begin = Instant::now();
    let mut stdin = python.stdin();
    stdin.write_all(b"go\n").expect("a word to the client");
    let rest = read_all(stdout);
    assert!(python.wait(Duration::from_secs(20)).success());
    let elapsed_ns = begin.elapsed().as_nanos() as u64;
    rest.join().expect("its output");
    let report = agent.finish();

    report.summary().assert_nothing_lost();
    for side in SIDES {
        let exchanges = report.of(redis.port, side);
        assert!(exchanges.iter().all(|one| one.flags == ["adopted"] && !one.error && one.duration_ns < elapsed_ns), "{side}");
        let counts = count_by(&exchanges, |exchange| format!("{} {}", exchange.resource, exchange.status));
        assert_eq!(counts, [("INCRBY late:? ? ".to_owned(), 3200), ("SET late:? ? OK".to_owned(), 3200)].into(), "{side}");
    }
}
