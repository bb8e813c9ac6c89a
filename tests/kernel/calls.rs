//! Every system call that moves bytes of a socket, in every awkward manner, on IPv4, IPv6 and IPv4 mapped into IPv6, with each family of hooks.

use std::{
    collections::{BTreeMap, HashMap},
    io::BufReader,
    process::{Command, Stdio},
    time::Duration,
};

use serde::Deserialize;

use crate::support::{
    agent::Agent,
    exchange::{Exchange, Report},
    machine,
    process::{Process, listening_port, read_all, run},
    program,
};

/// What the client wrote down about a request.
#[derive(Clone, Debug, Deserialize)]
struct Asked {
    path: String,
    way: String,
    method: String,
    status: u16,
    pid: u32,
    begin_unix_nano: u64,
    /// How long its first sending call took.
    send_ns: u64,
    /// From before its first sending call to after the call that received the last byte of the answer.
    within_ns: u64,
    /// How long the server slept before it answered.
    delay_ns: u64,
    request_body: u64,
    response_body: u64,
}

/// What the server wrote down about it.
#[derive(Clone, Debug, Deserialize)]
struct Answered {
    path: String,
    pid: u32,
    delay_ns: u64,
    /// From before the call that received the first byte of the request to after the last call that sent the answer.
    within_ns: u64,
}

struct Family {
    name: &'static str,
    listen: &'static str,
    connect: &'static str,
    /// As the agent writes it: mapped addresses are IPv4.
    address: &'static str,
}

const FAMILIES: [Family; 3] = [
    Family { name: "v4", listen: "127.0.0.1:0", connect: "127.0.0.1", address: "127.0.0.1" },
    Family { name: "v6", listen: "[::1]:0", connect: "[::1]", address: "::1" },
    Family { name: "mapped", listen: "[::]:0", connect: "[::ffff:127.0.0.1]", address: "127.0.0.1" },
];

/// A run of client and server with one family of addresses.
struct Conversation {
    port: u16,
    asked: Vec<Asked>,
    answered: HashMap<String, Answered>,
}

fn converse(family: &Family) -> Conversation {
    let calls = program("calls");
    let mut server = Command::new(&calls);
    let mut server = Process::spawn(server.args(["server", "--address", family.listen]).stdout(Stdio::piped()));
    let mut stdout = BufReader::new(server.stdout());
    let port = listening_port(&mut stdout);
    let rest = read_all(stdout);
    let client = run(Command::new(&calls).args(["client", "--address", &format!("{}:{port}", family.connect), "--family", family.name]));
    assert!(server.wait(Duration::from_secs(10)).success(), "the server failed");
    let lines = rest.join().expect("read the server's lines");
    let answered = lines.lines().map(|line| serde_json::from_str::<Answered>(line).expect("a line of the server"));
    Conversation {
        port,
        asked: client.json().into_iter().map(|line| serde_json::from_value(line).expect("a line of the client")).collect(),
        answered: answered.map(|line| (line.path.clone(), line)).collect(),
    }
}

/// The agent maps the kernel's clock to the wall clock once; the programs read the wall clock itself.
const CLOCK_TOLERANCE_NS: u64 = 50_000_000;

fn every_call_is_seen_with(hooks: &str) {
    let _machine = machine();
    program("calls");
    let agent = Agent::start(&["--hooks", hooks]);
    let conversations: Vec<_> = FAMILIES.iter().map(converse).collect();
    let report = agent.finish();

    report.summary().assert_nothing_lost();
    let mut wrong = Vec::new();
    for (family, conversation) in FAMILIES.iter().zip(&conversations) {
        for side in ["client", "server"] {
            check_order(family, conversation, &report, side, &mut wrong);
            check_each(family, conversation, &report, side, &mut wrong);
        }
    }
    let shown = wrong.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} things are wrong with --hooks {hooks}:\n{shown}", wrong.len());
}

/// On every connection the exchanges are those that were asked for, in that order.
fn check_order(family: &Family, conversation: &Conversation, report: &Report, side: &str, wrong: &mut Vec<String>) {
    let mut expected: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for asked in &conversation.asked {
        expected.entry(&asked.way).or_default().push(&asked.path);
    }
    let mut connections: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for exchange in report.of(conversation.port, side) {
        connections.entry(exchange.connection_id).or_default().push(&exchange.resource);
    }
    let found: Vec<_> = connections.into_values().collect();
    for (way, paths) in &expected {
        if !found.contains(paths) {
            let of_way = |path: &&&str| path.split('/').nth(2) == Some(way);
            let seen: Vec<_> = found.iter().flatten().filter(of_way).map(|path| path.rsplit('/').next().unwrap_or("")).collect();
            let missing = paths.iter().filter(|path| !found.iter().flatten().any(|seen| seen == *path)).count();
            wrong.push(format!("{way} {} {side}: {} requests, {missing} missing, seen in the order {seen:?}", family.name, paths.len()));
        }
    }
    let (found, expected) = (found.len(), expected.len());
    if found != expected {
        wrong.push(format!("{} {side}: exchanges on {found} connections, not {expected}", family.name));
    }
}

fn check_each(family: &Family, conversation: &Conversation, report: &Report, side: &str, wrong: &mut Vec<String>) {
    let by_path: HashMap<&str, &Asked> = conversation.asked.iter().map(|asked| (asked.path.as_str(), asked)).collect();
    for exchange in report.of(conversation.port, side) {
        let mut complain = |what: String| wrong.push(format!("{} {side}: {what}: {exchange:?}", exchange.resource));
        let Some(asked) = by_path.get(exchange.resource.as_str()) else {
            complain("nobody asked for that".into());
            continue;
        };
        let answered = &conversation.answered[&asked.path];
        if exchange.status != asked.status.to_string() || exchange.operation != asked.method {
            complain(format!("{} answered {}", asked.method, asked.status));
        }
        if (exchange.client.address.as_str(), exchange.server.address.as_str()) != (family.address, family.address) {
            complain(format!("both addresses are {}", family.address));
        }
        let pid = if side == "client" { asked.pid } else { answered.pid };
        if (exchange.pid(), exchange.comm()) != (pid, "calls") {
            complain(format!("the process is {pid} (calls)"));
        }
        if !exchange.flags.is_empty() {
            complain("no flags are due".into());
        }
        if exchange.request_bytes <= asked.request_body || exchange.response_bytes <= asked.response_body {
            complain(format!("bodies of {} and {} bytes, and heads", asked.request_body, asked.response_body));
        }
        check_times(exchange, asked, answered, side, &mut complain);
    }
}

/// The bounds hold on however busy a machine.
fn check_times(exchange: &Exchange, asked: &Asked, answered: &Answered, side: &str, complain: &mut impl FnMut(String)) {
    let (least, most) = if side == "client" {
        // The kernel reports a send when it is over; the server may have begun its delay since the call began.
        (asked.delay_ns.saturating_sub(asked.send_ns), asked.within_ns)
    } else {
        (answered.delay_ns, answered.within_ns)
    };
    if exchange.duration_ns < least || exchange.duration_ns > most {
        complain(format!("the duration is between {least} and {most} ns"));
    }
    if exchange.ttfb_ns.is_none_or(|ttfb| ttfb < least || ttfb > exchange.duration_ns) {
        complain(format!("the first byte comes between {least} ns and the last"));
    }
    let begin = asked.begin_unix_nano.saturating_sub(CLOCK_TOLERANCE_NS);
    let end = asked.begin_unix_nano + asked.within_ns + CLOCK_TOLERANCE_NS;
    if !(begin..=end).contains(&exchange.start_unix_nano) {
        complain(format!("it starts between {begin} and {end}"));
    }
}

#[test]
fn socket_hooks_see_every_call_in_every_manner() {
    every_call_is_seen_with("socket");
}

#[test]
fn syscall_hooks_see_every_call_in_every_manner() {
    every_call_is_seen_with("syscalls");
}
