//! Random bytes on every system call beside a neighbour whose exact count must not be disturbed.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
};

use crate::{
    http::load,
    support::{
        agent::Agent,
        exchange::count_by,
        machine,
        nginx::Nginx,
        process::{Process, read_all},
        program,
    },
};

fn noise_disturbs_nobody_with(hooks: &str) {
    const REQUESTS: u64 = 10_000;
    let _machine = machine();
    let nginx = Nginx::start();
    let calls = program("calls");
    let agent = Agent::start(&["--hooks", hooks]);
    let noises: Vec<_> = (1..=2)
        .map(|seed| {
            let mut noise = Command::new(&calls);
            noise.args(["noise", "--connections", "500", "--seed", &seed.to_string()]);
            let mut noise = Process::spawn(noise.stdout(Stdio::piped()));
            let lines = read_all(noise.stdout());
            (noise, lines)
        })
        .collect();
    load(&nginx, REQUESTS, 16, 0);
    for (mut noise, lines) in noises {
        assert!(noise.wait(std::time::Duration::from_secs(60)).success());
        assert!(lines.join().expect("read the noise's lines").contains("\"connections\":500"));
    }
    let port = nginx.port;
    let report = agent.finish();
    nginx.stop();

    let expected = BTreeMap::from([("200", REQUESTS * 985 / 1000), ("404", REQUESTS / 100), ("503", REQUESTS / 200)]);
    for side in ["client", "server"] {
        let exchanges = report.of(port, side);
        assert_eq!(count_by(&exchanges, |exchange| exchange.status.as_str()), expected, "{side} side");
        assert!(exchanges.iter().all(|exchange| exchange.flags.is_empty()), "{side} side");
    }
    // Bytes that no parser understands may be counted as a parse gap; nothing may be lost on the way to the parsers.
    let lost = &report.summary().lost;
    let on_the_way: Vec<_> = lost.iter().filter(|(reason, count)| **count > 0 && !reason.contains("pars")).collect();
    assert!(on_the_way.is_empty(), "lost: {lost:?}");
}

#[test]
fn random_bytes_on_every_call_do_not_disturb_the_neighbours_of_socket_hooks() {
    noise_disturbs_nobody_with("socket");
}

#[test]
fn random_bytes_on_every_call_do_not_disturb_the_neighbours_of_syscall_hooks() {
    noise_disturbs_nobody_with("syscalls");
}
