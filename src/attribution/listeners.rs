//! Who listens where, and whose a socket is: seeded from /proc, kept by the kernel's events.
//! Knows nothing of processes but their pids. One owner; nothing here locks or waits.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use super::sockets::{Scan, scan};
use crate::model::Endpoint;

/// Holders of one listening endpoint that are remembered: a master and some of its workers.
pub(super) const HOLDERS_MAX: usize = 16;
/// Listening endpoints held at once.
const LISTENERS_MAX: usize = 65_536;
/// A scan looks at every descriptor of every process; not more often than this …
const SCAN_INTERVAL_NS: u64 = 2_000_000_000;
/// … and for no more than one part in so many of the time.
const SCAN_SHARE: u64 = 50;

/// A place where connections are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListeningSocket {
    /// Inode of the network namespace (`/proc/PID/ns/net`).
    pub netns: u32,
    /// The unspecified address listens on every address of the namespace; `::` on those of IPv4 too.
    pub local: Endpoint,
}

/// For the agent's own metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerCounts {
    pub listening: usize,
    pub scans: u64,
    /// What the last scan took.
    pub scan_ns: u64,
    /// Listeners left out because the table was full.
    pub refused: u64,
    /// Established sockets that the last scan left out for the same reason.
    pub refused_established: u64,
}

/// Listening TCP sockets and their processes, and the owners of connections that are older than the agent.
#[derive(Debug)]
pub struct Listeners {
    proc_root: PathBuf,
    listening: BTreeMap<ListeningSocket, Holders>,
    /// All processes among the holders, and perhaps some that were: most exits concern none of them.
    holding: HashSet<u32>,
    /// By namespace, local and remote end: from the last scan.
    established: HashMap<(u32, Endpoint, Endpoint), u32>,
    /// Something is listening whose process is no longer known.
    stale: bool,
    scanned_ns: Option<u64>,
    counts: ListenerCounts,
}

#[derive(Debug, Default)]
struct Holders {
    /// Ascending.
    pids: Vec<u32>,
    /// More than one with SO_REUSEPORT.
    sockets: u32,
}

impl Listeners {
    /// Empty; [`Self::rescan`] fills it. `proc_root` is `/proc`, or where a container has mounted its host's.
    pub fn new(proc_root: &Path) -> Self {
        Self {
            proc_root: proc_root.to_owned(),
            listening: BTreeMap::new(),
            holding: HashSet::new(),
            established: HashMap::new(),
            stale: false,
            scanned_ns: None,
            counts: ListenerCounts::default(),
        }
    }

    /// Reads the sockets of all processes now, whatever it costs (see [`scan`]), and believes what it finds: at start.
    pub fn rescan(&mut self, now_ns: u64) {
        self.scanned_ns = Some(now_ns);
        self.apply(scan(&self.proc_root));
    }

    /// Scans again if a listener has lost its process and the last scan is long enough ago. `now_ns` as in [`Self::owner_of`].
    pub fn refresh(&mut self, now_ns: u64) {
        if self.stale && self.may_scan(now_ns) {
            self.rescan(now_ns);
        }
    }

    /// Takes the result of a scan that was made elsewhere (see [`scan`]), in place of all that was known. Events that came
    /// since that scan began must be fed (again) afterwards: it may have missed what they tell.
    pub fn apply(&mut self, scan: Scan) {
        self.stale = false;
        self.listening.clear();
        self.holding.clear();
        for found in scan.listening {
            self.insert(found.socket, found.pids, found.sockets);
        }
        self.established = scan.established;
        self.counts.scans += 1;
        self.counts.scan_ns = scan.took_ns;
        self.counts.refused_established = scan.refused;
    }

    /// `pid` called listen(2).
    pub fn observe_listen(&mut self, pid: u32, local: Endpoint, netns: u32) {
        self.insert(ListeningSocket { netns, local }, vec![pid], 1);
    }

    /// A listening socket was closed by its last holder. `pid` is who did it, 0 if that is not known.
    pub fn observe_listen_closed(&mut self, pid: u32, local: Endpoint, netns: u32) {
        let socket = ListeningSocket { netns, local };
        let Some(holders) = self.listening.get_mut(&socket) else { return };
        holders.sockets = holders.sockets.saturating_sub(1);
        if holders.sockets == 0 {
            self.listening.remove(&socket);
            return;
        }
        // Others listen on (SO_REUSEPORT), or one socket was counted twice, by a scan and by its event: the next scan knows.
        holders.pids.retain(|&holder| holder != pid);
        self.stale = true;
    }

    /// A process ended. A socket that it held alone as far as is known may live on in a child: the next scan tells.
    pub fn observe_exit(&mut self, pid: u32) {
        if !self.holding.remove(&pid) {
            return;
        }
        for holders in self.listening.values_mut() {
            if let Ok(index) = holders.pids.binary_search(&pid) {
                holders.pids.remove(index);
                self.stale |= holders.pids.is_empty();
            }
        }
    }

    /// Who accepts connections to `address` and `port` in the namespace.
    ///
    /// An exact bind wins over a wildcard, and a wildcard of the address's own family over `::`, which serves IPv4 too (unless
    /// IPV6_V6ONLY, which /proc does not show; but then there is no such connection). Of several processes, workers of a
    /// server or holders of SO_REUSEPORT sockets, the one with the lowest pid: the first started, mostly the master.
    pub fn lookup(&self, address: IpAddr, port: u16, netns: u32) -> Option<u32> {
        let address = address.to_canonical();
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let own = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { any };
        [address, own, any].into_iter().find_map(|address| {
            let holders = self.listening.get(&ListeningSocket { netns, local: Endpoint { address, port } })?;
            holders.pids.first().copied()
        })
    }

    /// Everything that listens and its process (`None` while that is not known), in the order of namespace, address and port.
    pub fn iter(&self) -> impl Iterator<Item = (ListeningSocket, Option<u32>)> {
        self.listening.iter().map(|(socket, holders)| (*socket, holders.pids.first().copied()))
    }

    /// The process that holds the connection's socket with this local end; the lowest pid, if several share it.
    ///
    /// Meant for sockets that are older than the agent: by a scan of /proc, which takes milliseconds and is spaced. Between
    /// scans the last one answers; it is not trusted for longer, because ports are used again. `netns` 0 means any namespace.
    /// `now_ns` is any clock that goes forwards.
    pub fn owner_of(&mut self, local: Endpoint, remote: Endpoint, netns: u32, now_ns: u64) -> Option<u32> {
        if self.may_scan(now_ns) {
            self.rescan(now_ns);
        }
        if netns != 0 {
            return self.established.get(&(netns, local, remote)).copied();
        }
        let found = self.established.iter().filter(|((_, own, other), _)| (*own, *other) == (local, remote));
        found.map(|(_, pid)| *pid).min()
    }

    pub fn counts(&self) -> ListenerCounts {
        ListenerCounts { listening: self.listening.len(), ..self.counts }
    }

    fn may_scan(&self, now_ns: u64) -> bool {
        let interval_ns = SCAN_INTERVAL_NS.max(self.counts.scan_ns.saturating_mul(SCAN_SHARE));
        self.scanned_ns.is_none_or(|scanned_ns| now_ns.saturating_sub(scanned_ns) >= interval_ns)
    }

    fn insert(&mut self, socket: ListeningSocket, pids: Vec<u32>, sockets: u32) {
        if self.listening.len() >= LISTENERS_MAX && !self.listening.contains_key(&socket) {
            self.counts.refused += 1;
            return;
        }
        let holders = self.listening.entry(socket).or_default();
        holders.sockets += sockets;
        holders.pids.extend(pids.into_iter().filter(|&pid| pid != 0));
        holders.pids.sort_unstable();
        holders.pids.dedup();
        holders.pids.truncate(HOLDERS_MAX);
        self.holding.extend(&holders.pids);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: u32 = 4_026_531_840;
    const THERE: u32 = 4_026_532_999;

    fn at(text: &str) -> Endpoint {
        let address: std::net::SocketAddr = text.parse().unwrap();
        Endpoint { address: address.ip(), port: address.port() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn listeners() -> Listeners {
        Listeners::new(Path::new("/nowhere"))
    }

    #[test]
    fn an_exact_bind_wins_over_wildcards_and_wildcards_serve_the_rest() {
        let mut listeners = listeners();
        listeners.observe_listen(10, at("[::]:80"), HERE);
        assert_eq!(listeners.lookup(ip("10.0.0.1"), 80, HERE), Some(10), "dual stack");
        listeners.observe_listen(11, at("0.0.0.0:80"), HERE);
        listeners.observe_listen(12, at("127.0.0.1:80"), HERE);
        listeners.observe_listen(13, at("[::1]:80"), HERE);
        for (address, pid) in [("127.0.0.1", 12), ("::ffff:127.0.0.1", 12), ("10.0.0.1", 11), ("::1", 13), ("fe80::1", 10)] {
            assert_eq!(listeners.lookup(ip(address), 80, HERE), Some(pid), "{address}");
        }
        assert_eq!(listeners.lookup(ip("127.0.0.1"), 81, HERE), None);
        assert_eq!(listeners.lookup(ip("127.0.0.1"), 80, THERE), None, "namespaces are apart");
    }

    #[test]
    fn an_ipv4_wildcard_does_not_serve_ipv6() {
        let mut listeners = listeners();
        listeners.observe_listen(11, at("0.0.0.0:80"), HERE);
        assert_eq!(listeners.lookup(ip("::1"), 80, HERE), None);
    }

    #[test]
    fn of_several_processes_the_lowest_pid_answers() {
        let mut listeners = listeners();
        for pid in [30, 20, 25] {
            listeners.observe_listen(pid, at("0.0.0.0:80"), HERE);
        }
        assert_eq!(listeners.lookup(ip("1.2.3.4"), 80, HERE), Some(20));
        listeners.observe_listen_closed(20, at("0.0.0.0:80"), HERE);
        assert_eq!(listeners.lookup(ip("1.2.3.4"), 80, HERE), Some(25));
        listeners.observe_listen_closed(25, at("0.0.0.0:80"), HERE);
        listeners.observe_listen_closed(0, at("0.0.0.0:80"), HERE);
        assert_eq!(listeners.iter().count(), 0);
        listeners.observe_listen_closed(0, at("0.0.0.0:80"), HERE);
    }

    #[test]
    fn a_listener_outlives_its_process_until_a_scan_knows_better() {
        let empty = tempfile::tempdir().unwrap();
        let mut listeners = Listeners::new(empty.path());
        listeners.rescan(1);
        listeners.observe_listen(40, at("0.0.0.0:80"), HERE);
        listeners.observe_exit(40);
        assert_eq!(listeners.iter().collect::<Vec<_>>(), [(ListeningSocket { netns: HERE, local: at("0.0.0.0:80") }, None)]);
        assert_eq!(listeners.lookup(ip("1.2.3.4"), 80, HERE), None);
        listeners.refresh(2);
        assert_eq!((listeners.counts().scans, listeners.counts().listening), (1, 1), "scanned a nanosecond ago");
        listeners.refresh(1 + SCAN_INTERVAL_NS);
        assert_eq!((listeners.counts().scans, listeners.counts().listening), (2, 0));
        listeners.refresh(1 + 2 * SCAN_INTERVAL_NS);
        assert_eq!(listeners.counts().scans, 2, "nothing is stale");
    }

    #[test]
    fn an_unknown_owner_is_not_scanned_for_too_often() {
        let empty = tempfile::tempdir().unwrap();
        let mut listeners = Listeners::new(empty.path());
        for now_ns in [1, 2, 3, SCAN_INTERVAL_NS] {
            assert_eq!(listeners.owner_of(at("10.0.0.1:5"), at("10.0.0.2:80"), HERE, now_ns), None);
        }
        assert_eq!(listeners.counts().scans, 1);
        listeners.owner_of(at("10.0.0.1:5"), at("10.0.0.2:80"), HERE, 1 + SCAN_INTERVAL_NS);
        assert_eq!(listeners.counts().scans, 2);
        listeners.counts.scan_ns = SCAN_INTERVAL_NS;
        listeners.owner_of(at("10.0.0.1:5"), at("10.0.0.2:80"), HERE, 1 + 3 * SCAN_INTERVAL_NS);
        assert_eq!(listeners.counts().scans, 2, "a dear scan is made less often");
    }

    #[test]
    fn refuses_more_listeners_than_it_may_hold() {
        let mut listeners = listeners();
        for netns in 1..=u32::try_from(LISTENERS_MAX).unwrap() + 1 {
            listeners.observe_listen(1, at("0.0.0.0:80"), netns);
        }
        assert_eq!((listeners.counts().listening, listeners.counts().refused), (LISTENERS_MAX, 1));
    }
}
