//! Connections that fail are told, on the right edge and with the right error.

use std::{net::TcpListener, os::fd::AsFd, process::Command, time::Duration};

use nix::sys::socket::{setsockopt, sockopt::Linger};

use crate::support::{
    agent::{Agent, Stopped},
    exchange::Connection,
    free_port, machine,
    netns::Namespace,
    process::run_within,
    program,
};

fn connect(mut command: Command, address: &str, count: u32) -> (u32, Vec<i64>) {
    command.args(["connect", "--address", address, "--count", &count.to_string()]);
    let ended = run_within(&mut command, Duration::from_secs(60));
    assert!(ended.status.success(), "{}", ended.stderr);
    (ended.pid, ended.json().iter().map(|line| line["errno"].as_i64().expect("an errno")).collect())
}

/// The lines of one process's attempts towards a port.
fn attempts(stopped: &Stopped, port: u16, pid: u32) -> Vec<&Connection> {
    let of_pid = |connection: &&Connection| connection.process.as_ref().is_some_and(|process| process.pid == pid);
    stopped.report.connections.iter().filter(|connection| connection.server.port == port).filter(of_pid).collect()
}

#[track_caller]
fn assert_failed(attempts: &[&Connection], count: usize, error: &str, server: &str) {
    assert_eq!(attempts.len(), count, "{attempts:#?}");
    for attempt in attempts {
        assert_eq!(attempt.error.as_deref(), Some(error), "{attempt:?}");
        assert_eq!((attempt.role.as_str(), attempt.server.address.as_str()), ("client", server), "{attempt:?}");
        assert_eq!(attempt.process.as_ref().map(|process| process.comm.as_str()), Some("load"), "{attempt:?}");
    }
}

#[test]
fn refused_connections_are_told() {
    let _machine = machine();
    let port = free_port();
    let agent = Agent::start(&[]);
    let (pid, errnos) = connect(Command::new(program("load")), &format!("127.0.0.1:{port}"), 25);
    assert_eq!(errnos, [i64::from(nix::libc::ECONNREFUSED); 25]);
    let (pid_v6, _) = connect(Command::new(program("load")), &format!("[::1]:{port}"), 5);
    let stopped = agent.stop();
    stopped.report.summary().assert_nothing_lost();
    assert_failed(&attempts(&stopped, port, pid), 25, "ECONNREFUSED", "127.0.0.1");
    assert_failed(&attempts(&stopped, port, pid_v6), 5, "ECONNREFUSED", "::1");
}

#[test]
fn reset_connections_are_told() {
    let _machine = machine();
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("an address").port();
    let agent = Agent::start(&[]);
    let server = std::thread::Builder::new().name("resetter".into());
    let server = server.spawn(move || {
        for _ in 0..25 {
            let (stream, _) = listener.accept().expect("accept");
            // Closing without lingering sends RST instead of FIN.
            setsockopt(&stream.as_fd(), Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).expect("SO_LINGER");
        }
    });
    let (pid, errnos) = connect(Command::new(program("load")), &format!("127.0.0.1:{port}"), 25);
    server.expect("start a thread").join().expect("the resetter");
    assert_eq!(errnos, [i64::from(nix::libc::ECONNRESET); 25]);
    let stopped = agent.stop();
    stopped.report.summary().assert_nothing_lost();
    assert_failed(&attempts(&stopped, port, pid), 25, "ECONNRESET", "127.0.0.1");
}

#[test]
fn connections_that_time_out_are_told() {
    let _machine = machine();
    let here = Namespace::new("here");
    let there = Namespace::new("there");
    Namespace::join((&here, "10.131.7.1/24"), (&there, "10.131.7.2/24"));
    // The other end has a link but not this address, and forwards nothing: what is sent there is never answered.
    here.ip(&["neighbor", "add", "10.131.7.9", "lladdr", "02:00:00:00:00:09", "dev", "veth0", "nud", "permanent"]);
    here.set("net.ipv4.tcp_syn_retries", "1");
    let agent = Agent::start(&[]);
    let (pid, errnos) = connect(here.command(program("load")), "10.131.7.9:7777", 1);
    assert_eq!(errnos, [i64::from(nix::libc::ETIMEDOUT)]);
    let stopped = agent.stop();
    stopped.report.summary().assert_nothing_lost();
    let attempts = attempts(&stopped, 7777, pid);
    assert_failed(&attempts, 1, "ETIMEDOUT", "10.131.7.9");
    assert!(attempts[0].duration_ns > 1_000_000_000, "one retry takes more than a second: {:?}", attempts[0]);
}
