//! Fixture trees stand for /proc, and the live one for itself.

use std::{
    io::{BufRead, BufReader as Reader, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use super::*;
use crate::attribution::listeners::Listeners;

const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

fn at(text: &str) -> Endpoint {
    endpoint(text.parse().unwrap())
}

/// A row as the kernel writes it: addresses in groups of four bytes, each in the host's order.
fn row(local: &str, remote: &str, state: &str, inode: u64) -> String {
    format!(
        "   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0000000000000000 100 0 0 10 0\n"
    )
}

struct Tree(tempfile::TempDir);

impl Tree {
    fn process(&self, pid: u32, netns: &str, inodes: &[u64]) {
        let directory = self.0.path().join(pid.to_string());
        for part in ["ns", "fd", "net"] {
            fs::create_dir_all(directory.join(part)).unwrap();
        }
        symlink(netns, directory.join("ns/net")).unwrap();
        symlink("/dev/null", directory.join("fd/0")).unwrap();
        symlink("pipe:[5]", directory.join("fd/1")).unwrap();
        for (index, inode) in inodes.iter().enumerate() {
            symlink(format!("socket:[{inode}]"), directory.join(format!("fd/{}", index + 3))).unwrap();
        }
    }

    fn table(&self, pid: u32, name: &str, rows: &[String]) {
        fs::write(self.0.path().join(format!("{pid}/net/{name}")), HEAD.to_owned() + &rows.concat()).unwrap();
    }
}

/// nginx (10, workers 11 and 12) and a client (20) in one namespace, a SO_REUSEPORT pair (30, 31) in another.
fn tree() -> Tree {
    let tree = Tree(tempfile::tempdir().unwrap());
    tree.process(10, "net:[100]", &[1_000]);
    tree.process(11, "net:[100]", &[1_000, 1_001]);
    tree.process(12, "net:[100]", &[1_000]);
    tree.process(20, "net:[100]", &[2_000]);
    tree.process(30, "net:[200]", &[3_000]);
    tree.process(31, "net:[200]", &[3_001]);
    fs::create_dir(tree.0.path().join("sys")).unwrap();
    tree.table(
        10,
        "tcp",
        &[
            row("00000000:0050", "00000000:0000", "0A", 1_000),
            row("0100007F:0050", "0100007F:C350", "01", 1_001),
            row("0100007F:C350", "0100007F:0050", "01", 2_000),
            row("0100007F:C351", "0100007F:0050", "06", 0),
        ],
    );
    tree.table(10, "tcp6", &[row("0000000000000000FFFF00000100007F:1F90", "00000000000000000000000000000000:0000", "0A", 9_999)]);
    let wildcard = "00000000000000000000000000000000";
    let rows = [3_000, 3_001].map(|inode| row(&format!("{wildcard}:0050"), &format!("{wildcard}:0000"), "0A", inode));
    tree.table(30, "tcp6", &rows);
    tree.table(30, "tcp", &["cut".to_owned()]);
    tree
}

#[test]
fn finds_listeners_and_their_holders_in_every_namespace() {
    let tree = tree();
    let found = scan(tree.0.path());
    let listening = |netns, local, pids: &[u32], sockets| Listening {
        socket: ListeningSocket { netns, local: at(local) },
        pids: pids.to_vec(),
        sockets,
    };
    let expected =
        [listening(100, "0.0.0.0:80", &[10, 11, 12], 1), listening(100, "127.0.0.1:8080", &[], 1), listening(200, "[::]:80", &[30, 31], 2)];
    assert_eq!(found.listening, expected);
    let established = [((100, at("127.0.0.1:80"), at("127.0.0.1:50000")), 11), ((100, at("127.0.0.1:50000"), at("127.0.0.1:80")), 20)];
    assert_eq!(found.established, HashMap::from(established));
}

#[test]
fn seeds_the_table_of_listeners_and_corrects_it() {
    let tree = tree();
    let mut listeners = Listeners::new(tree.0.path());
    listeners.rescan(0);
    let here = |listeners: &Listeners, netns| listeners.lookup("127.0.0.1".parse().unwrap(), 80, netns);
    assert_eq!((here(&listeners, 100), here(&listeners, 200)), (Some(10), Some(30)));
    assert_eq!(listeners.owner_of(at("127.0.0.1:50000"), at("127.0.0.1:80"), 100, 1), Some(20));
    assert_eq!(listeners.owner_of(at("127.0.0.1:80"), at("127.0.0.1:50000"), 0, 1), Some(11), "any namespace");
    assert_eq!(listeners.owner_of(at("127.0.0.1:80"), at("127.0.0.1:50000"), 200, 1), None);
    listeners.observe_exit(10);
    assert_eq!(here(&listeners, 100), Some(11), "a worker holds the socket on");
    listeners.observe_listen_closed(30, at("[::]:80"), 200);
    assert_eq!(here(&listeners, 200), Some(31));
    fs::remove_dir_all(tree.0.path().join("10/fd")).unwrap();
    listeners.refresh(u64::MAX);
    assert_eq!((here(&listeners, 100), listeners.counts().scans), (Some(11), 2));
}

#[test]
fn a_tree_with_nothing_in_it_has_no_sockets() {
    let empty = tempfile::tempdir().unwrap();
    let found = scan(empty.path());
    assert!(found.listening.is_empty() && found.established.is_empty());
    assert!(established(empty.path(), 1).is_empty());
    assert_eq!(netns_of(empty.path(), 1), None);
}

#[test]
fn finds_its_own_listening_socket_in_the_live_proc() {
    let proc_root = Path::new("/proc");
    let own = std::process::id();
    let netns = netns_of(proc_root, own).unwrap();
    for (bind, ask) in [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")] {
        let Ok(listener) = TcpListener::bind(bind) else { continue };
        let mut listeners = Listeners::new(proc_root);
        listeners.rescan(0);
        assert_eq!(listeners.lookup(ask.parse().unwrap(), listener.local_addr().unwrap().port(), netns), Some(own), "{bind}");
    }
}

#[test]
fn finds_the_owner_of_a_connection_that_it_did_not_see_begin() {
    let proc_root = Path::new("/proc");
    let own = std::process::id();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let mut stream = TcpStream::connect(server).unwrap();
    // A child takes the accepted socket over as its standard input, and we let go of it.
    let (accepted, client) = listener.accept().unwrap();
    let mut child = Command::new("cat").stdin(std::os::fd::OwnedFd::from(accepted)).stdout(Stdio::piped()).spawn().unwrap();
    stream.write_all(b"ready\n").unwrap();
    let mut line = String::new();
    Reader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "the child holds the socket");

    let netns = netns_of(proc_root, own).unwrap();
    let mut listeners = Listeners::new(proc_root);
    assert_eq!(listeners.owner_of(endpoint(server), endpoint(client), netns, 0), Some(child.id()));
    assert_eq!(listeners.owner_of(endpoint(client), endpoint(server), netns, 0), Some(own));
    assert!(established(proc_root, own).iter().any(|socket| (socket.local, socket.remote) == (endpoint(server), endpoint(client))));
    println!("scanned in {} µs", listeners.counts().scan_ns / 1_000);
    drop(stream);
    child.wait().unwrap();
}
