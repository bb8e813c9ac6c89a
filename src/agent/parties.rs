//! Who speaks on a connection: both ends as processes or addresses, and the edge, the listeners and the lines that its exchanges go to.
//! Knows nothing of bytes and parsers.

use std::{collections::VecDeque, net::IpAddr, sync::Arc};

use super::{
    about::{About, Edge},
    lines::Lines,
    losses::Losses,
    names::{Hint, Names},
    peers::{Bound, BoundPeer, ENDED_MAX, Found, Peer, Socket},
    scope::{LeftOut, Verdict},
    worker::{Options, Table},
};
use crate::{
    attribution::{Domains, Resolved},
    config::Sides,
    event::{CloseReason, Header, Text, Totals},
    export::{
        error_name,
        json::{self, ConnectionView, ExchangeView, PartyView, ProcessView},
    },
    model::{ConnectionId, Endpoint, Exchange, Flags, Party, Process, Protocol, Role, Workload, WorkloadKind},
    protocols::{Capture, Loss, Sink},
    service_map::{Closing, EdgeId, EdgeKey, Limits, Listener, ServiceMap, services::is_probe},
};

/// The peer of a same-host connection may open a moment later: so often it is looked for again.
const PEER_TRIES: u8 = 16;

/// Everything but the connections: what an exchange needs while its connection is borrowed.
pub struct Around {
    pub options: Options,
    pub names: Names,
    pub(super) peers: Table<Socket, Peer>,
    /// The same for UDP, where a socket is found by its own end alone.
    pub(super) bound: Table<Bound, BoundPeer>,
    /// Addresses that UDP sockets of this host had, by the part of an id that chooses the worker: what is known does not depend on how many
    /// workers there are.
    pub(super) addresses: Table<(u8, IpAddr), ()>,
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
            None if self.options.frames => self.near(about),
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
    pub(super) fn resolve(&self, about: &mut About) {
        about.domain = self.resolved.name(about.tuple.netns, about.tuple.remote.address, self.now_ns).cloned();
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
