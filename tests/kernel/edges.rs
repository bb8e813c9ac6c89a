//! The edges of a stream, where a position or a buffer is easily taken for another: resets, half-closed sockets, bytes thrown
//! away; and what a filter leaves out.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use nix::{
    libc::linger,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, setsockopt, sockopt},
};

use crate::support::{agent::Agent, machine};

const REQUEST: &[u8] = b"GET /edge/1 HTTP/1.1\r\nHost: edge\r\n\r\n";
const SECOND: &[u8] = b"GET /edge/2 HTTP/1.1\r\nHost: edge\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// An agent that watches one port only (what else the machine does must not count), and both ends of a connection to it.
fn watched(hooks: &str, extra: &[&str]) -> (Agent, TcpStream, TcpStream, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("an address");
    let port = address.port();
    let agent = Agent::start(&[&["--hooks", hooks, "--port", &port.to_string()], extra].concat());
    let client = TcpStream::connect(address).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    for end in [&client, &server] {
        end.set_read_timeout(Some(Duration::from_secs(10))).expect("set a time-out");
    }
    (agent, client, server, port)
}

fn ask(client: &mut TcpStream, server: &mut TcpStream, request: &[u8]) {
    client.write_all(request).expect("ask");
    let mut asked = vec![0; request.len()];
    server.read_exact(&mut asked).expect("be asked");
}

fn wait_for(stream: &TcpStream, what: PollFlags) {
    use std::os::fd::AsFd;
    let mut polled = [PollFd::new(stream.as_fd(), what)];
    assert_eq!(poll(&mut polled, PollTimeout::from(10_000u16)).expect("poll"), 1);
}

/// Every exchange of the client's and the server's side as (path, status, flags), in order.
fn seen(agent: Agent, port: u16) -> [Vec<(String, String, Vec<String>)>; 2] {
    let report = agent.finish();
    report.summary().assert_nothing_lost();
    ["client", "server"].map(|side| {
        let of_side = report.of(port, side);
        of_side.iter().map(|exchange| (exchange.resource.clone(), exchange.status.clone(), exchange.flags.clone())).collect()
    })
}

fn ok(path: &str) -> (String, String, Vec<String>) {
    (path.to_owned(), "200".to_owned(), Vec::new())
}

fn an_answer_read_after_a_reset_is_whole(hooks: &str) {
    let _machine = machine();
    let (agent, mut client, mut server, port) = watched(hooks, &[]);
    ask(&mut client, &mut server, REQUEST);
    server.write_all(ANSWER).expect("answer");
    wait_for(&client, PollFlags::POLLIN);
    // Closing without lingering resets the connection; the answer is there already.
    setsockopt(&server, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }).expect("set the time to linger");
    drop(server);
    wait_for(&client, PollFlags::POLLHUP);
    let mut answer = [0; ANSWER.len()];
    // In two calls, so that the second one's position is told by the first.
    client.read_exact(&mut answer[..10]).expect("read the begin");
    client.read_exact(&mut answer[10..]).expect("read the rest");
    assert_eq!(client.read(&mut [0; 8]).expect_err("a reset").kind(), std::io::ErrorKind::ConnectionReset);
    drop(client);
    let report = agent.finish();
    report.summary().assert_nothing_lost();
    let exchange = report.of(port, "client");
    assert_eq!(exchange.len(), 1);
    assert_eq!((exchange[0].status.as_str(), exchange[0].response_bytes), ("200", ANSWER.len() as u64), "{:?}", exchange[0]);
    assert_eq!(exchange[0].flags, [] as [&str; 0]);
    let closed = report.connections.iter().find(|connection| connection.server.port == port && connection.role == "client");
    let closed = closed.expect("the client's connection");
    assert_eq!(closed.bytes_received, ANSWER.len() as u64);
    assert_eq!(closed.error.as_deref(), Some("ECONNRESET"), "the program took the error from the socket before it closed");
}

#[test]
fn socket_hooks_see_an_answer_that_is_read_after_a_reset() {
    an_answer_read_after_a_reset_is_whole("socket");
}

#[test]
fn syscall_hooks_see_an_answer_that_is_read_after_a_reset() {
    an_answer_read_after_a_reset_is_whole("syscalls");
}

fn odd_receives_move_nothing_else(hooks: &str) {
    let _machine = machine();
    let (agent, mut client, mut server, port) = watched(hooks, &[]);
    // The server says that it will read no more, and reads what comes all the same.
    server.shutdown(Shutdown::Read).expect("shut down for reading");
    ask(&mut client, &mut server, REQUEST);
    server.write_all(ANSWER).expect("answer");
    let (head, body) = ANSWER.split_at(ANSWER.len() - 5);
    let mut read = vec![0; head.len()];
    client.read_exact(&mut read).expect("read the head");
    wait_for(&client, PollFlags::POLLIN);
    // The body is thrown away by the kernel; the buffer keeps what looks like another answer.
    let mut decoy = *b"HTTP/1.1 500 X\r\n\r\n";
    let thrown = recv(client.as_raw_fd(), &mut decoy[..body.len()], MsgFlags::MSG_TRUNC).expect("throw the body away");
    assert_eq!((thrown, &decoy[..4]), (body.len(), &b"HTTP"[..]));
    ask(&mut client, &mut server, SECOND);
    server.write_all(ANSWER).expect("answer again");
    client.read_exact(&mut [0; ANSWER.len()]).expect("read the second answer");
    drop((client, server));
    let [of_client, of_server] = seen(agent, port);
    assert_eq!(of_client, [ok("/edge/1"), ok("/edge/2")]);
    assert_eq!(of_server, [ok("/edge/1"), ok("/edge/2")]);
}

#[test]
fn socket_hooks_keep_their_place_through_odd_receives() {
    odd_receives_move_nothing_else("socket");
}

#[test]
fn syscall_hooks_keep_their_place_through_odd_receives() {
    odd_receives_move_nothing_else("syscalls");
}

fn only_wanted_processes(hooks: &str) {
    let _machine = machine();
    let (agent, mut client, mut server, port) = watched(hooks, &["--pid", "1"]);
    ask(&mut client, &mut server, REQUEST);
    server.write_all(ANSWER).expect("answer");
    client.read_exact(&mut [0; ANSWER.len()]).expect("read the answer");
    drop((client, server));
    let report = agent.finish();
    assert_eq!(report.of(port, "client").len() + report.of(port, "server").len(), 0, "this process was not asked for");
    assert!(report.connections.iter().all(|connection| connection.server.port != port));
}

#[test]
fn socket_hooks_leave_out_processes_that_were_not_asked_for() {
    only_wanted_processes("socket");
}

#[test]
fn syscall_hooks_leave_out_processes_that_were_not_asked_for() {
    only_wanted_processes("syscalls");
}
