//! One look at the TCP sockets of all processes: /proc/PID/net/tcp and tcp6 of each network namespace, and who holds which inode.
//! Knows nothing of what changes afterwards.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::BufReader,
    net::SocketAddr,
    path::Path,
    time::Instant,
};

use procfs::{
    FromBufReadSI, LocalSystemInfo,
    net::{TcpNetEntries, TcpState},
};

use super::listeners::{HOLDERS_MAX, ListeningSocket};
use crate::model::Endpoint;

/// Established sockets held at once: some 16 MiB.
const ESTABLISHED_MAX: usize = 131_072;

/// What was found.
#[derive(Debug, Default)]
pub struct Scan {
    pub listening: Vec<Listening>,
    /// (network namespace, local end, remote end) → the lowest pid that holds the socket.
    pub established: HashMap<(u32, Endpoint, Endpoint), u32>,
    /// Established sockets left out for room.
    pub refused: u64,
    pub took_ns: u64,
}

/// A listening endpoint and those who hold its socket, or with SO_REUSEPORT sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    pub socket: ListeningSocket,
    /// Ascending; the lowest ones, if there are many. Empty if nobody's descriptors could be read.
    pub pids: Vec<u32>,
    pub sockets: u32,
}

/// An established socket as the kernel's table shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Established {
    pub local: Endpoint,
    pub remote: Endpoint,
    /// 0 for a socket that no descriptor refers to.
    pub inode: u64,
}

/// The established TCP sockets of the network namespace that `pid` is in; empty if the process is gone.
pub fn established(proc_root: &Path, pid: u32) -> Vec<Established> {
    let mut found = Vec::new();
    each_socket(proc_root, pid, |state, socket| {
        if state == TcpState::Established {
            found.push(socket);
        }
    });
    found
}

/// Reads all of it: every namespace's socket tables, then every descriptor of every process.
///
/// Costs some 10 µs a descriptor and, for each namespace, two walks of the kernel's hash of connections, which all namespaces
/// share: 3 ms each where it has 262,144 buckets, however few are used. Processes that end meanwhile and descriptors that
/// may not be read are passed over.
pub fn scan(proc_root: &Path) -> Scan {
    let began = Instant::now();
    let pids = pids(proc_root);
    let mut scan = Scan::default();
    let sockets = tables(proc_root, &pids, &mut scan.refused);
    let mut listening = BTreeMap::<ListeningSocket, Listening>::new();
    for socket in sockets.values() {
        if let Socket::Listening(socket) = *socket {
            let found = listening.entry(socket).or_insert(Listening { socket, pids: Vec::new(), sockets: 0 });
            found.sockets += 1;
        }
    }
    if !sockets.is_empty() {
        // Ascending, so that the lowest pids come first.
        for &pid in &pids {
            each_inode(proc_root, pid, |inode| match sockets.get(&inode) {
                Some(Socket::Listening(socket)) => {
                    if let Some(found) = listening.get_mut(socket)
                        && found.pids.last() != Some(&pid)
                        && found.pids.len() < HOLDERS_MAX
                    {
                        found.pids.push(pid);
                    }
                }
                Some(Socket::Established { netns, local, remote }) => {
                    scan.established.entry((*netns, *local, *remote)).or_insert(pid);
                }
                None => {}
            });
        }
    }
    scan.listening = listening.into_values().collect();
    scan.took_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    scan
}

enum Socket {
    Listening(ListeningSocket),
    Established { netns: u32, local: Endpoint, remote: Endpoint },
}

/// All sockets of interest by inode, each namespace read through the first process met in it.
fn tables(proc_root: &Path, pids: &[u32], refused: &mut u64) -> HashMap<u64, Socket> {
    let mut namespaces = BTreeMap::<u32, u32>::new();
    for &pid in pids {
        if let Some(netns) = netns_of(proc_root, pid) {
            namespaces.entry(netns).or_insert(pid);
        }
    }
    let mut sockets = HashMap::new();
    for (netns, pid) in namespaces {
        each_socket(proc_root, pid, |state, Established { local, remote, inode }| {
            let socket = match state {
                TcpState::Listen => Socket::Listening(ListeningSocket { netns, local }),
                TcpState::Established if sockets.len() < ESTABLISHED_MAX => Socket::Established { netns, local, remote },
                TcpState::Established => {
                    *refused += 1;
                    return;
                }
                _ => return,
            };
            if inode != 0 {
                sockets.insert(inode, socket);
            }
        });
    }
    sockets
}

/// The inode of the process's network namespace: what the kernel's events carry.
pub fn netns_of(proc_root: &Path, pid: u32) -> Option<u32> {
    let link = fs::read_link(proc_root.join(format!("{pid}/ns/net"))).ok()?;
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

fn each_socket(proc_root: &Path, pid: u32, mut each: impl FnMut(TcpState, Established)) {
    for table in ["tcp", "tcp6"] {
        let Ok(file) = File::open(proc_root.join(format!("{pid}/net/{table}"))) else { continue };
        let Ok(entries) = TcpNetEntries::from_buf_read(BufReader::with_capacity(64 * 1024, file), &LocalSystemInfo) else { continue };
        for entry in entries.0 {
            let (local, remote) = (endpoint(entry.local_address), endpoint(entry.remote_address));
            each(entry.state, Established { local, remote, inode: entry.inode });
        }
    }
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { address: address.ip().to_canonical(), port: address.port() }
}

/// The sockets among a process's descriptors.
fn each_inode(proc_root: &Path, pid: u32, mut each: impl FnMut(u64)) {
    let Ok(descriptors) = fs::read_dir(proc_root.join(format!("{pid}/fd"))) else { return };
    for descriptor in descriptors.flatten() {
        let Ok(target) = fs::read_link(descriptor.path()) else { continue };
        let inode = target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        if let Some(inode) = inode {
            each(inode);
        }
    }
}

/// All processes, ascending.
fn pids(proc_root: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(proc_root) else { return Vec::new() };
    let mut pids: Vec<u32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

#[cfg(test)]
#[path = "sockets_tests.rs"]
mod tests;
