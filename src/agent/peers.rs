//! Sockets of this host, to be found by the sockets at their other ends.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::{about::About, names::Hint, parties::Around};
use crate::{
    event::Tuple,
    model::{ConnectionId, Endpoint, Process},
};

/// A client may be gone before the call that answered it is reported: so many closed sockets can still be found by their peers.
pub const ENDED_MAX: usize = 4096;

/// So many addresses of this host are known as such.
const ADDRESSES_MAX: usize = 1024;

/// Names a socket of this host by its ends. Loopback addresses mean something within their namespace only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Socket {
    pub local: Endpoint,
    pub remote: Endpoint,
    pub netns: u32,
}

impl Socket {
    pub fn of(tuple: &Tuple) -> Self {
        let netns = if tuple.local.address.is_loopback() { tuple.netns } else { 0 };
        Self { local: tuple.local, remote: tuple.remote, netns }
    }

    pub fn other_end(self) -> Self {
        Self { local: self.remote, remote: self.local, netns: self.netns }
    }
}

/// Names a UDP socket of this host. An address of loopback, or none, means something within its namespace only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bound {
    pub local: Endpoint,
    pub netns: u32,
}

impl Bound {
    pub fn of(local: Endpoint, netns: u32) -> Self {
        let address = local.address;
        Self { local, netns: if address.is_loopback() || address.is_unspecified() { netns } else { 0 } }
    }
}

pub struct BoundPeer {
    pub peer: Peer,
    /// What it talked to when it was met.
    pub remote: Endpoint,
}

pub struct Peer {
    pub id: ConnectionId,
    pub process: Option<Arc<Process>>,
    /// Its own address, which need not be the one that the other end sees.
    pub address: IpAddr,
    /// The Service that a client called.
    pub service: Option<Arc<str>>,
}

/// What was found of the socket at the other end.
#[derive(Default)]
pub struct Found {
    pub peer: Option<ConnectionId>,
    pub process: Option<Arc<Process>>,
    /// Its own address, where it has one.
    pub address: Option<IpAddr>,
    /// The Service that it called.
    pub service: Option<Arc<str>>,
    /// No more will be known of it.
    pub settled: bool,
}

impl Found {
    pub fn of(peer: &Peer) -> Self {
        let Peer { id, process, address, service } = peer;
        let address = Some(*address).filter(|address| !address.is_unspecified());
        Self { peer: Some(*id), process: process.clone(), address, service: service.clone(), settled: process.is_some() }
    }
}

impl Around {
    /// A socket is there, to be found by its peer.
    pub fn opened(&mut self, about: &mut About) {
        self.resolve(about);
        self.dial(about);
        let service = about.dialled.as_ref().and_then(|dialled| dialled.service.clone());
        for socket in about.sockets() {
            let address = about.tuple.local.address;
            self.peers.insert(socket, Peer { id: about.id, process: about.process.clone(), address, service: service.clone() });
        }
    }

    /// The same for a UDP socket.
    pub fn bound(&mut self, about: &About) {
        let peer = Peer { id: about.id, process: about.process.clone(), address: about.tuple.local.address, service: None };
        self.bound.insert(Bound::of(about.tuple.local, about.tuple.netns), BoundPeer { peer, remote: about.tuple.remote });
        if self.addresses.len() < ADDRESSES_MAX {
            self.addresses.insert((about.id.group(), about.tuple.local.address), ());
        }
    }

    /// The socket at the end `remote` is of this host and was not met yet: its first call is not over.
    pub fn is_to_be_met(&self, id: ConnectionId, tuple: &Tuple, remote: Endpoint) -> bool {
        let known = || self.addresses.contains_key(&(id.group(), remote.address));
        let here = remote.address.is_loopback() || remote.address == tuple.local.address || known();
        here && !self.options.frames && remote.port != 0 && self.find_bound(tuple, remote).is_none()
    }

    /// A UDP socket is forgotten.
    pub fn unbound(&mut self, id: ConnectionId, tuple: &Tuple) {
        let place = Bound::of(tuple.local, tuple.netns);
        if self.bound.get(&place).is_some_and(|bound| bound.peer.id == id) {
            self.bound.remove(&place);
        }
    }

    /// The process of a socket, opened with this tuple, is known, or another one.
    pub fn named(&mut self, about: &About, tuple: &Tuple) {
        if about.is_udp {
            let bound = self.bound.get_mut(&Bound::of(tuple.local, tuple.netns)).filter(|bound| bound.peer.id == about.id);
            bound.into_iter().for_each(|bound| bound.peer.process.clone_from(&about.process));
            return;
        }
        for socket in about.sockets() {
            if let Some(peer) = self.peers.get_mut(&socket).filter(|peer| peer.id == about.id) {
                peer.process.clone_from(&about.process);
            }
        }
    }

    /// The UDP socket of this host that has the end `remote` of a socket of `tuple`. One that is bound to every address is found where the
    /// address is surely one of its host.
    pub fn find_bound(&self, tuple: &Tuple, remote: Endpoint) -> Option<&BoundPeer> {
        let any = |address| self.bound.get(&Bound::of(Endpoint { address, port: remote.port }, tuple.netns));
        let near = remote.address.is_loopback() || remote.address == tuple.local.address;
        let exact = self.bound.get(&Bound::of(remote, tuple.netns));
        exact.or_else(|| if near { any(Ipv4Addr::UNSPECIFIED.into()).or_else(|| any(Ipv6Addr::UNSPECIFIED.into())) } else { None })
    }

    /// The address that a UDP socket uses toward `remote`, as far as that can be told: one that is bound to every address has none itself.
    pub fn local_address(&self, bound: &Tuple, remote: Endpoint) -> IpAddr {
        let own = bound.local.address;
        if !own.is_unspecified() || remote.address.is_unspecified() {
            return own;
        }
        if remote.address.is_loopback() {
            return remote.address;
        }
        let known = self.find_bound(bound, remote).map(|found| found.remote);
        known.filter(|known| known.port == bound.local.port && !known.address.is_unspecified()).map_or(own, |known| known.address)
    }

    /// The socket at the other end, if it is on this host, and its process.
    pub fn peer(&mut self, about: &About) -> Found {
        if self.options.frames {
            return Found::default();
        }
        if about.is_udp {
            return self.find_bound(&about.tuple, about.real_remote()).map(|found| Found::of(&found.peer)).unwrap_or_default();
        }
        if let Some(peer) = about.sockets().find_map(|socket| self.peers.get(&socket.other_end())) {
            return Found::of(peer);
        }
        let remote = about.tuple.remote;
        if about.is_server() || !(remote.address.is_loopback() || remote.address == about.tuple.local.address) {
            return Found::default();
        }
        let pid = self.names.listener(remote.address, remote.port, about.tuple.netns).unwrap_or(0);
        let hint = Hint { pid, comm: "", cgroup_id: 0, now_ns: self.now_ns, sequence: self.sequence, again: false };
        Found { process: self.names.process(hint), ..Found::default() }
    }
}
