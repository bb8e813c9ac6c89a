//! Who speaks on a connection: both ends as processes or addresses, and the edge, the listeners and the lines that its exchanges go to.
//! Knows nothing of bytes and parsers.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::{
    lines::Lines,
    losses::Losses,
    names::{Hint, Names},
    remotes::Dialled,
    scope::{LeftOut, Verdict},
    worker::{Options, Table},
};
use crate::{
    attribution::{Domains, Resolved},
    config::Sides,
    event::{CloseReason, Header, Text, Totals, Tuple},
    export::{
        error_name,
        json::{self, ConnectionView, ExchangeView, PartyView, ProcessView},
    },
    model::{ConnectionId, Endpoint, Exchange, Flags, Party, Process, Protocol, Role, Side, Translation, Workload, WorkloadKind},
    protocols::{Capture, Loss, Sink},
    service_map::{Closing, EdgeId, EdgeKey, Limits, Listener, ServiceMap, services::is_probe},
};

/// Who speaks, and what was counted.
pub struct About {
    pub id: ConnectionId,
    pub tuple: Tuple,
    pub role: Role,
    pub adopted: bool,
    /// A socket of UDP, whose tuple is that of the exchange at hand.
    pub is_udp: bool,
    /// False for an attempt that failed.
    pub established: bool,
    start_ns: u64,
    connect_ns: u64,
    /// Time of the last event that named the connection.
    pub seen_ns: u64,
    pub process: Option<Arc<Process>>,
    edge: Option<Edge>,
    /// Protocol of the last exchange: it need not be the connection's own (gRPC is spoken on HTTP/2).
    spoken: Option<Protocol>,
    /// How often the peer was looked for.
    tries: u8,
    pub counted: Totals,
    /// Where a client's connection leads; `None` where that is the remote address itself.
    pub(super) dialled: Option<Box<Dialled>>,
    /// What DNS called the remote address.
    domain: Option<Arc<str>>,
    /// What the client's hello of TLS named, or its first request of HTTP.
    hello: Option<Box<Hello>>,
}

#[derive(Default)]
struct Hello {
    server_name: Option<Arc<str>>,
    /// Of a client's connection only.
    host: Option<Arc<str>>,
    alpn: Option<Box<str>>,
}

struct Edge {
    id: EdgeId,
    protocol: Protocol,
    client: Party,
    server: Party,
    peer: Option<ConnectionId>,
    /// The client only asks whether the server is alive.
    is_probe: bool,
    /// Both ends are known as well as they will ever be.
    settled: bool,
}

/// The peer of a same-host connection may open a moment later: so often it is looked for again.
const PEER_TRIES: u8 = 16;

/// A client may be gone before the call that answered it is reported: so many closed sockets can still be found by their peers.
pub(super) const ENDED_MAX: usize = 4096;

/// So many addresses of this host are known as such.
const ADDRESSES_MAX: usize = 1024;

/// Everything but the connections: what an exchange needs while its connection is borrowed.
pub struct Around {
    pub options: Options,
    pub names: Names,
    pub(super) peers: Table<Socket, Peer>,
    /// The same for UDP, where a socket is found by its own end alone.
    bound: Table<Bound, BoundPeer>,
    /// Addresses that UDP sockets of this host had, by the part of an id that chooses the worker: what is known does not depend on how many
    /// workers there are.
    addresses: Table<(u8, IpAddr), ()>,
    /// Closed sockets whose entry among the peers is kept a little longer.
    ended: VecDeque<(Socket, ConnectionId)>,
    pub map: ServiceMap,
    pub lines: Lines,
    pub losses: Arc<Losses>,
    /// Listening services by namespace and port: since when, and when last used.
    pub(super) listeners: Table<(u32, u16), Service>,
    pub left_out: LeftOut,
    /// What DNS answered: over UDP to anybody, over TCP on the connections of this worker.
    pub(super) resolved: Resolved,
    domains: Domains,
    /// Number of the event at hand.
    pub sequence: u64,
    pub now_ns: u64,
}

pub(super) struct Service {
    since_ns: u64,
    last_exchange_ns: Option<u64>,
}

/// Names a socket of this host by its ends. Loopback addresses mean something within their namespace only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Socket {
    local: Endpoint,
    remote: Endpoint,
    netns: u32,
}

impl Socket {
    fn of(tuple: &Tuple) -> Self {
        let netns = if tuple.local.address.is_loopback() { tuple.netns } else { 0 };
        Self { local: tuple.local, remote: tuple.remote, netns }
    }

    fn other_end(self) -> Self {
        Self { local: self.remote, remote: self.local, netns: self.netns }
    }
}

/// Names a UDP socket of this host. An address of loopback, or none, means something within its namespace only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Bound {
    local: Endpoint,
    netns: u32,
}

impl Bound {
    fn of(local: Endpoint, netns: u32) -> Self {
        let address = local.address;
        Self { local, netns: if address.is_loopback() || address.is_unspecified() { netns } else { 0 } }
    }
}

struct BoundPeer {
    peer: Peer,
    /// What it talked to when it was met.
    remote: Endpoint,
}

pub(super) struct Peer {
    id: ConnectionId,
    process: Option<Arc<Process>>,
    /// Its own address, which need not be the one that the other end sees.
    address: IpAddr,
    /// The Service that a client called.
    service: Option<Arc<str>>,
}

/// What was found of the socket at the other end.
#[derive(Default)]
struct Found {
    peer: Option<ConnectionId>,
    process: Option<Arc<Process>>,
    /// Its own address, where it has one.
    address: Option<IpAddr>,
    /// The Service that it called.
    service: Option<Arc<str>>,
    /// No more will be known of it.
    settled: bool,
}

impl Found {
    fn of(peer: &Peer) -> Self {
        let Peer { id, process, address, service } = peer;
        let address = Some(*address).filter(|address| !address.is_unspecified());
        Self { peer: Some(*id), process: process.clone(), address, service: service.clone(), settled: process.is_some() }
    }
}

impl About {
    pub fn new(
        id: ConnectionId,
        tuple: Tuple,
        role: Role,
        adopted: bool,
        start_ns: u64,
        connect_ns: u64,
        process: Option<Arc<Process>>,
    ) -> Self {
        Self {
            id,
            tuple,
            role,
            adopted,
            is_udp: false,
            established: true,
            start_ns,
            connect_ns,
            seen_ns: start_ns,
            process,
            edge: None,
            spoken: None,
            tries: 0,
            counted: Totals::default(),
            dialled: None,
            domain: None,
            hello: None,
        }
    }

    /// An end is known better than before, or will be: both are looked for again.
    pub fn unsettle(&mut self) {
        self.tries = 0;
        if let Some(edge) = &mut self.edge {
            edge.settled = false;
        }
    }

    /// The next exchange is between these.
    pub fn turn_to(&mut self, tuple: Tuple) {
        if self.tuple != tuple {
            self.tuple = tuple;
            self.edge = None;
            self.dialled = None;
            self.tries = 0;
        }
    }

    /// When it was established; for one that was adopted, when it was met.
    pub(super) fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// What the client calls the server.
    fn domain(&self) -> Option<&Arc<str>> {
        let hello = self.hello.as_ref();
        let by_itself = || {
            let host = || hello.and_then(|hello| hello.host.as_ref());
            self.domain.as_ref().or_else(host).filter(|_| !self.is_server())
        };
        hello.and_then(|hello| hello.server_name.as_ref()).or_else(by_itself)
    }

    fn is_server(&self) -> bool {
        self.role == Role::Server
    }

    fn side(&self, frames: bool) -> Side {
        match self.role {
            _ if frames => Side::Unknown,
            Role::Client => Side::Client,
            Role::Server => Side::Server,
            Role::Unknown => Side::Unknown,
        }
    }

    fn client_end(&self) -> Endpoint {
        if self.is_server() { self.tuple.remote } else { self.tuple.local }
    }

    pub fn server_end(&self) -> Endpoint {
        if self.is_server() { self.tuple.local } else { self.tuple.remote }
    }

    /// Both ends as the server's socket has them, where this end of the connection has others.
    fn network(&self) -> Option<Translation> {
        let shown = Translation { client: self.client_end(), server: self.server_end() };
        self.rewritten().filter(|translation| *translation != shown)
    }

    /// A client's connection to a Service that had no ready endpoint when it was dialled.
    fn is_unserved(&self) -> bool {
        self.dialled.as_ref().is_some_and(|dialled| dialled.is_unserved)
    }

    /// What its socket can be found by: its own ends, and those that its peer has.
    fn sockets(&self) -> impl Iterator<Item = Socket> + use<> {
        let own = Socket::of(&self.tuple);
        let rewritten = self.rewritten().map(|Translation { client, server }| Socket { local: client, remote: server, netns: 0 });
        std::iter::once(own).chain(rewritten)
    }

    fn growth(&mut self, totals: &Totals) -> Totals {
        let before = std::mem::replace(&mut self.counted, *totals);
        Totals {
            bytes_sent: totals.bytes_sent.saturating_sub(before.bytes_sent),
            bytes_received: totals.bytes_received.saturating_sub(before.bytes_received),
            retransmits: totals.retransmits.saturating_sub(before.retransmits),
            srtt_us: totals.srtt_us,
        }
    }
}

impl Around {
    pub fn new(options: Options, names: Names, losses: Arc<Losses>) -> Self {
        let lines = Lines { worker: options.worker, ..Lines::default() };
        Self {
            options,
            names,
            peers: Table::default(),
            bound: Table::default(),
            addresses: Table::default(),
            ended: VecDeque::new(),
            map: ServiceMap::new(Limits::default()),
            lines,
            losses,
            listeners: Table::default(),
            left_out: LeftOut::default(),
            resolved: Resolved::default(),
            domains: Domains::default(),
            sequence: 0,
            now_ns: 0,
        }
    }

    pub fn process(&mut self, header: &Header, cgroup_id: u64, comm: &Text<16>) -> Option<Arc<Process>> {
        let comm = comm.to_string_lossy();
        let hint = Hint { pid: header.pid, comm: &comm, cgroup_id, now_ns: header.time_ns, sequence: self.sequence, again: false };
        let process = self.names.process(hint);
        if self.options.scope.judge(process.as_deref()) == Verdict::LeftOut {
            self.left_out.add(cgroup_id);
        }
        process
    }

    /// A control group was made or got another name; or it was removed.
    pub fn cgroup(&mut self, id: u64, path: &str, removed: bool) {
        self.names.cgroup(id, path, removed);
        if removed {
            self.left_out.forget(id);
        } else if !self.options.scope.is_whole()
            && let Some(namespace) = self.names.namespace_of_cgroup(path)
            && self.options.scope.judge_namespace(Some(&namespace)) == Verdict::LeftOut
        {
            self.left_out.add(id);
        }
    }

    /// Nothing of it is shown or counted; the connection is known to its peer all the same.
    pub fn hides(&self, about: &About) -> bool {
        self.options.scope.judge(about.process.as_deref()) != Verdict::Watched
    }

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
    fn find_bound(&self, tuple: &Tuple, remote: Endpoint) -> Option<&BoundPeer> {
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

    /// Whether the user wants to see what sockets of this role say.
    pub fn shows(&self, role: Role) -> bool {
        match self.options.sides {
            Sides::Both => true,
            Sides::Server => role != Role::Client,
            Sides::Client => role != Role::Server,
        }
    }

    /// The edge of a connection: looked up at its first exchange, and again until both ends are known.
    fn edge(&mut self, about: &mut About, protocol: Protocol) -> EdgeId {
        if let Some(edge) = &about.edge
            && edge.settled
            && edge.protocol == protocol
        {
            return edge.id;
        }
        if about.is_udp && about.dialled.is_none() {
            self.dial(about);
        }
        let own = match about.process.as_deref() {
            Some(process) => self.party(process, about.tuple.local.address),
            None => Party { address: Some(about.tuple.local.address), ..Party::new(Workload::of_address(about.tuple.local.address)) },
        };
        let Found { mut peer, process, address, service, settled: found } = self.peer(about);
        let mut other = match process.as_deref() {
            Some(process) => self.party(process, address.unwrap_or(about.real_remote().address)),
            None => self.stranger(about),
        };
        // A peer that has closed meanwhile keeps its name.
        if let Some(known) = about.edge.as_ref().filter(|known| peer.is_none() && known.peer.is_some()) {
            peer = known.peer;
            other = if about.is_server() { known.client.clone() } else { known.server.clone() };
        }
        let (mut client, mut server) = if about.is_server() { (other, own) } else { (own, other) };
        if about.is_udp {
            self.resolve(about);
        }
        if server.workload.kind == WorkloadKind::Address
            && let Some(domain) = about.domain().and_then(|domain| self.domains.admit(domain))
        {
            // One name has many addresses: they are one edge.
            server = Party { workload: Workload::of_domain(domain), address: None, ..server };
        }
        client.port = None;
        server.port = Some(about.answering_port());
        server.service = self.service_of(about, service);
        self.map.meet(&client, self.now_ns);
        self.map.meet(&server, self.now_ns);
        about.tries = about.tries.saturating_add(1);
        let settled = found || about.tries >= PEER_TRIES;
        let id = self.map.intern(&EdgeKey { client: self.for_edge(&client), server: self.for_edge(&server), protocol });
        let is_probe = is_probe(&client);
        let first = about.edge.replace(Edge { id, protocol, client, server, peer, is_probe, settled }).is_none();
        if first && about.established {
            self.map.opened(id, about.side(self.options.frames));
        }
        id
    }

    /// The name that DNS gave the remote address. It is asked for when a connection opens: a later one is another's.
    fn resolve(&self, about: &mut About) {
        about.domain = self.resolved.name(about.tuple.netns, about.tuple.remote.address, self.now_ns).cloned();
    }

    /// The socket at the other end, if it is on this host, and its process.
    fn peer(&mut self, about: &About) -> Found {
        if self.options.frames {
            return Found { settled: true, ..Found::default() };
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

    /// Adds what a connection's counters grew by to the edge of its exchanges, or to that of its own protocol; until there is either it waits.
    pub fn count(&mut self, about: &mut About, protocol: Option<Protocol>, totals: &Totals) {
        if self.hides(about) {
            return;
        }
        let Some(protocol) = about.spoken.or(protocol) else { return };
        let id = self.edge(about, protocol);
        let side = about.side(self.options.frames);
        let growth = about.growth(totals);
        self.map.bytes(id, side, growth.bytes_sent, growth.bytes_received);
        self.map.retransmits(id, side, growth.retransmits);
        self.map.srtt(id, side, totals.srtt_us);
    }

    /// The connection ended; `protocol` is its own.
    pub fn closed(&mut self, about: &mut About, protocol: Protocol, totals: &Totals, now_ns: u64, error: u32, reason: CloseReason) {
        if !self.hides(about) {
            self.count_end(about, protocol, totals, now_ns, error, reason);
        }
        self.ended.extend(about.sockets().map(|socket| (socket, about.id)));
        while self.ended.len() > ENDED_MAX
            && let Some((socket, id)) = self.ended.pop_front()
        {
            if self.peers.get(&socket).is_some_and(|peer| peer.id == id) {
                self.peers.remove(&socket);
            }
        }
    }

    fn count_end(&mut self, about: &mut About, protocol: Protocol, totals: &Totals, now_ns: u64, error: u32, reason: CloseReason) {
        let growth = about.growth(totals);
        let closing = Closing {
            bytes_sent: growth.bytes_sent,
            bytes_received: growth.bytes_received,
            retransmits: growth.retransmits,
            srtt_us: totals.srtt_us,
        };
        let id = self.edge(about, about.spoken.unwrap_or(protocol));
        self.map.closed(id, about.side(self.options.frames), &closing);
        let reason = match reason {
            CloseReason::Unknown => None,
            CloseReason::Local => Some("local"),
            CloseReason::Remote => Some("remote"),
            CloseReason::Reset => Some("reset"),
            CloseReason::Timeout => Some("timeout"),
            CloseReason::Abort => Some("abort"),
        };
        self.connection_line(about, protocol, totals, now_ns, error, reason);
    }

    pub fn fail(&mut self, about: &mut About, now_ns: u64, error: u32) {
        if self.hides(about) {
            return;
        }
        about.established = false;
        self.resolve(about);
        self.dial(about);
        let id = self.edge(about, Protocol::Unknown);
        let side = about.side(self.options.frames);
        self.map.failed(id, side, error);
        if about.is_unserved() {
            self.map.unserved(id, side);
        }
        // Without an error of the network the program itself gave up.
        let error = if error == 0 { 125 } else { error };
        self.connection_line(about, Protocol::Unknown, &Totals::default(), now_ns, error, Some("failed"));
    }

    fn connection_line(&mut self, about: &About, protocol: Protocol, totals: &Totals, now_ns: u64, error: u32, reason: Option<&str>) {
        let Some(edge) = about.edge.as_ref().filter(|_| self.shows(about.role) && self.options.lines) else { return };
        json::connection(
            &mut self.lines.text,
            &ConnectionView {
                protocol,
                role: about.role,
                local: about.tuple.local,
                remote: about.tuple.remote,
                client: view(&edge.client, about.client_end()),
                server: view(&edge.server, about.server_end()),
                network: about.network(),
                process: about.process.as_deref().map(process_view),
                connection_id: about.id,
                peer_connection_id: edge.peer,
                start_ns: about.start_ns,
                duration_ns: now_ns.saturating_sub(about.start_ns),
                bytes_sent: totals.bytes_sent,
                bytes_received: totals.bytes_received,
                retransmits: totals.retransmits,
                srtt_us: Some(totals.srtt_us).filter(|srtt_us| *srtt_us > 0),
                connect_ns: Some(about.connect_ns).filter(|connect_ns| *connect_ns > 0),
                error: (error != 0).then(|| error_name(error)),
                reason,
                adopted: about.adopted,
                server_name: about.hello.as_ref().and_then(|hello| hello.server_name.as_deref()),
                alpn: about.hello.as_ref().and_then(|hello| hello.alpn.as_deref()),
                unix_offset_ns: self.options.unix_offset_ns,
            },
        );
        self.lines.mark(self.sequence, about.id);
    }

    pub fn listen(&mut self, header: &Header, local: Endpoint, netns: u32, closed: bool) {
        self.names.listen(header.pid, local, netns, closed);
        let place = (netns, local.port);
        if !closed {
            self.listeners.entry(place).or_insert(Service { since_ns: header.time_ns, last_exchange_ns: None });
        } else if !self.names.listening().any(|(netns, local, _)| (netns, local.port) == place) {
            self.listeners.remove(&place);
        }
    }

    /// An exchange of a server of this host: its listening service is in use.
    fn used(&mut self, about: &About, at_ns: u64) {
        if let Some(service) = self.listeners.get_mut(&(about.tuple.netns, about.tuple.local.port)) {
            service.last_exchange_ns = service.last_exchange_ns.max(Some(at_ns));
        }
    }

    /// The listening services as they stand.
    pub fn services(&mut self) -> Vec<Listener> {
        let listening: Vec<_> = self.names.listening().collect();
        let (now_ns, sequence) = (self.now_ns, self.sequence);
        listening
            .into_iter()
            .filter_map(|(netns, local, pid)| {
                let service = self.listeners.get(&(netns, local.port))?;
                let (since_ns, last_exchange_ns) = (service.since_ns, service.last_exchange_ns);
                let process = self.names.process(Hint { pid: pid.unwrap_or(0), comm: "", cgroup_id: 0, now_ns, sequence, again: false });
                if self.options.scope.judge(process.as_deref()) != Verdict::Watched {
                    return None;
                }
                let server = match process.as_deref() {
                    Some(process) => self.for_edge(&self.party(process, local.address)),
                    None => Party { address: Some(local.address), ..Party::new(Workload::of_address(local.address)) },
                };
                let server = Party { port: Some(local.port), ..server };
                Some(Listener { server, since_ns, last_exchange_ns })
            })
            .collect()
    }
}

/// Where a connection's exchanges go.
pub struct Out<'a> {
    pub about: &'a mut About,
    pub around: &'a mut Around,
}

impl Sink for Out<'_> {
    fn exchange(&mut self, exchange: &Exchange<'_>) {
        let Self { about, around } = self;
        if around.hides(about) {
            return;
        }
        about.spoken = Some(exchange.protocol);
        let id = around.edge(about, exchange.protocol);
        let side = about.side(around.options.frames);
        let route = around.map.record(id, side, exchange);
        if about.is_unserved() && exchange.flags.contains(Flags::UNANSWERED) {
            around.map.unserved(id, side);
        }
        if about.is_server() && !about.edge.as_ref().is_some_and(|edge| edge.is_probe) {
            around.used(about, exchange.end_ns);
        }
        let Some(edge) = about.edge.as_ref().filter(|_| around.options.lines) else { return };
        json::exchange(
            &mut around.lines.text,
            &ExchangeView {
                exchange,
                route: route.map(|route| around.map.route_text(route)),
                side,
                tls: None,
                client: view(&edge.client, about.client_end()),
                server: view(&edge.server, about.server_end()),
                network: about.network(),
                process: about.process.as_deref().map(process_view),
                connection_id: about.id,
                peer_connection_id: edge.peer,
                unix_offset_ns: around.options.unix_offset_ns,
            },
        );
        around.lines.mark(around.sequence, about.id);
    }

    /// Lines show them; the service map does not count them.
    fn wants_attributes(&self) -> bool {
        self.around.options.lines
    }

    /// The connection keeps this to itself.
    fn capture(&mut self, _: Capture) {}

    fn server_name(&mut self, name: &str) {
        let Self { about, around } = self;
        let name = name.into();
        // Shared with all of its connections, where there is room for one more name.
        let name = around.domains.admit(&name).unwrap_or(name);
        about.hello.get_or_insert_default().server_name = Some(name);
        about.unsettle();
    }

    /// The least of names: anybody may send any. Once a connection, and before its first exchange.
    fn host(&mut self, name: &str) {
        let about = &mut *self.about;
        if !about.is_server() && about.domain().is_none() && !about.tuple.remote.address.is_loopback() {
            about.hello.get_or_insert_default().host = Some(name.into());
            about.unsettle();
        }
    }

    fn alpn(&mut self, protocols: &str) {
        self.about.hello.get_or_insert_default().alpn = Some(protocols.into());
    }

    fn resolved(&mut self, name: &str, address: IpAddr, ttl_s: u32) {
        if !self.about.is_server() {
            self.around.resolved.insert(self.about.tuple.netns, name, address, ttl_s, self.around.now_ns);
        }
    }

    fn lost(&mut self, loss: Loss) {
        tracing::debug!("connection {} ({}), event {}: {loss:?}", self.about.id.0, self.about.server_end(), self.around.sequence);
        self.around.losses.parser(loss);
    }
}

fn view(party: &Party, end: Endpoint) -> PartyView<'_> {
    PartyView { party, end: Some(end) }
}

fn process_view(process: &Process) -> ProcessView<'_> {
    ProcessView { pid: process.pid, comm: &process.comm, container_id: process.container.as_ref().map(|container| container.id.as_str()) }
}
