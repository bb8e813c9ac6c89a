//! A worker: owns its connections from open to close, feeds their parsers, counts edges and writes lines.
//! One thread, no locks: what it knows leaves it as reports and rounds of lines.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use foldhash::fast::RandomState;

use super::{
    lines::Lines,
    losses::{Losses, Reason},
    names::{Hint, Names},
    router::{Batch, Message},
};
use crate::{
    config::Sides,
    connection::{Connection, stream::Segment},
    event::{Body, CloseReason, Event, Header, Text, Totals, Tuple, text_lossy},
    export::{
        error_name,
        json::{self, ConnectionView, ExchangeView, PartyView, ProcessView},
    },
    model::{ConnectionId, Direction, Endpoint, Exchange, Process, Protocol, Role, Side, Wish, Workload},
    protocols::{Capture, Loss, Sink},
    service_map::{Closing, EdgeId, EdgeKey, Limits, Listener, Party, ServiceMap, Shard},
};

/// What a worker is told at its start.
#[derive(Clone, Debug)]
pub struct Options {
    pub worker: usize,
    /// The events are of frames: seen from outside, by no process.
    pub frames: bool,
    /// Whose connections are shown.
    pub sides: Sides,
    /// Lines are wanted.
    pub lines: bool,
    /// From the clock of the events to nanoseconds since 1970.
    pub unix_offset_ns: i64,
    /// Connections known at once.
    pub connections: usize,
}

/// A worker's state, for the outside.
pub struct Report {
    pub worker: usize,
    pub shard: Shard,
    pub listeners: Vec<Listener>,
    /// Events by kind, [`EVENT_NAMES`].
    pub events: [u64; EVENT_NAMES.len()],
    /// Time of the last event.
    pub now_ns: u64,
    /// The worker has ended.
    pub last: bool,
}

pub const EVENT_NAMES: [&str; 12] =
    ["open", "owner", "close", "fail", "listen", "data", "exec", "exit", "fork", "counters", "tick", "sweep"];

type Table<K, V> = HashMap<K, V, RandomState>;

pub struct Worker {
    connections: Table<ConnectionId, Box<Entry>>,
    around: Around,
}

/// A connection and what is known around it.
struct Entry {
    talk: Connection,
    about: About,
}

/// Who speaks, and what was counted.
struct About {
    id: ConnectionId,
    tuple: Tuple,
    role: Role,
    adopted: bool,
    /// False for an attempt that failed.
    established: bool,
    start_ns: u64,
    connect_ns: u64,
    /// Time of the last event that named the connection.
    seen_ns: u64,
    process: Option<Arc<Process>>,
    edge: Option<Edge>,
    /// How often the peer was looked for.
    tries: u8,
    counted: Totals,
}

struct Edge {
    id: EdgeId,
    protocol: Protocol,
    client: Party,
    server: Party,
    peer: Option<ConnectionId>,
    /// Both ends are known as well as they will ever be.
    settled: bool,
}

/// The peer of a same-host connection may open a moment later: so often it is looked for again.
const PEER_TRIES: u8 = 16;

/// A client may be gone before the call that answered it is reported: so many closed sockets can still be found by their peers.
const ENDED_MAX: usize = 4096;

/// Everything but the connections: what an exchange needs while its connection is borrowed.
struct Around {
    options: Options,
    names: Names,
    peers: Table<Socket, Peer>,
    /// Closed sockets whose entry among the peers is kept a little longer.
    ended: VecDeque<(Socket, ConnectionId)>,
    map: ServiceMap,
    lines: Lines,
    losses: Arc<Losses>,
    events: [u64; EVENT_NAMES.len()],
    /// Listening services by namespace and port: since when, and when last used.
    listeners: Table<(u32, u16), Service>,
    sequence: u64,
    now_ns: u64,
}

struct Service {
    since_ns: u64,
    last_exchange_ns: Option<u64>,
}

/// Names a socket of this host by its ends. Loopback addresses mean something within their namespace only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Socket {
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

struct Peer {
    id: ConnectionId,
    process: Option<Arc<Process>>,
}

impl Worker {
    pub fn new(options: Options, names: Names, losses: Arc<Losses>) -> Self {
        let lines = Lines { worker: options.worker, ..Lines::default() };
        Self {
            connections: Table::default(),
            around: Around {
                options,
                names,
                peers: Table::default(),
                ended: VecDeque::new(),
                map: ServiceMap::new(Limits::default()),
                lines,
                losses,
                events: [0; EVENT_NAMES.len()],
                listeners: Table::default(),
                sequence: 0,
                now_ns: 0,
            },
        }
    }

    /// Handles one message; false at the end. `wish` reaches the kernel; `report` is called once a tick.
    pub fn handle(&mut self, message: &Message, wish: &mut dyn FnMut(ConnectionId, Wish), report: &mut dyn FnMut(Report)) -> bool {
        match message {
            Message::Events(batch) => self.batch(batch, wish, report),
            Message::Fact(fact) => {
                let process = Arc::new(fact.process.clone());
                self.around.names.learn(Arc::clone(&process));
                if fact.renamed {
                    self.refresh(&process);
                }
            }
            Message::End => return false,
        }
        true
    }

    /// The lines of the last round; to be cleared by whoever took them.
    pub fn lines(&mut self) -> &mut Lines {
        &mut self.around.lines
    }

    pub fn report(&mut self, last: bool) -> Report {
        let around = &mut self.around;
        Report {
            worker: around.options.worker,
            shard: around.map.shard(),
            listeners: around.services(),
            events: around.events,
            now_ns: around.now_ns,
            last,
        }
    }

    fn batch(&mut self, batch: &Batch, wish: &mut dyn FnMut(ConnectionId, Wish), report: &mut dyn FnMut(Report)) {
        for (sequence, record) in batch.records() {
            self.around.sequence = sequence;
            // Looked at where it is: moving it would cost more than decoding it.
            match &Event::decode(record) {
                Ok(event) => {
                    self.around.now_ns = self.around.now_ns.max(event.header.time_ns);
                    self.event(event, wish);
                    if matches!(event.body, Body::Tick) {
                        report(self.report(false));
                    }
                }
                Err(error) => {
                    tracing::debug!("event {sequence}: {error}");
                    self.around.losses.add(Reason::Undecodable, 1);
                }
            }
        }
        self.around.lines.upto = batch.upto;
    }

    fn event(&mut self, event: &Event<'_>, wish: &mut dyn FnMut(ConnectionId, Wish)) {
        let header = &event.header;
        let around = &mut self.around;
        around.events[kind(&event.body)] += 1;
        match event.body {
            Body::Data { direction, offset, size, payload, .. } => {
                let segment = Segment { offset, size: size.into(), payload, time_ns: header.time_ns };
                self.data(header, direction, segment, wish);
            }
            Body::Open { tuple, cgroup_id, start_ns, connect_ns, role, adopted, comm } => {
                let process = around.process(header, cgroup_id, &comm);
                self.open(header.connection, About::new(header.connection, tuple, role, adopted, start_ns, connect_ns, process));
            }
            Body::Owner { cgroup_id, comm } => {
                let process = around.process(header, cgroup_id, &comm);
                self.own(header.connection, process);
            }
            Body::Counters(totals) => {
                if let Some(entry) = self.connections.get_mut(&header.connection) {
                    entry.about.seen_ns = header.time_ns;
                    self.around.count(&mut entry.about, entry.talk.protocol(), &totals);
                }
            }
            Body::Close { totals, error, reason, .. } => self.close(header, &totals, error, reason),
            Body::Fail { tuple, cgroup_id, elapsed_ns, error, comm } => {
                let process = around.process(header, cgroup_id, &comm);
                let start_ns = header.time_ns.saturating_sub(elapsed_ns);
                let mut about = About::new(header.connection, tuple, Role::Client, false, start_ns, 0, process);
                around.fail(&mut about, header.time_ns, error);
            }
            Body::Listen { local, netns, closed, .. } => around.listen(header, local, netns, closed),
            Body::Exec { cgroup_id, comm, filename, argv0 } => {
                around.names.exec(header.pid, &comm.to_string_lossy(), &text_lossy(filename), &text_lossy(argv0), cgroup_id)
            }
            Body::Exit => around.names.exit(header.pid),
            Body::Fork { child } => around.names.fork(header.pid, child),
            Body::Tick => self.tick(),
            Body::Sweep { since_ns } => self.sweep(header, since_ns),
        }
    }

    /// Two threads that use a fresh connection at once can both announce it: the first one counts.
    fn open(&mut self, id: ConnectionId, about: About) {
        if self.connections.contains_key(&id) {
            return;
        }
        if self.connections.len() >= self.around.options.connections {
            self.around.losses.add(Reason::TableFull, 1);
            return;
        }
        let peer = Peer { id, process: about.process.clone() };
        self.around.peers.insert(Socket::of(&about.tuple), peer);
        let talk = Connection::new(about.role, about.adopted);
        self.connections.insert(id, Box::new(Entry { talk, about }));
    }

    /// Ends the connections whose close event was lost.
    fn sweep(&mut self, header: &Header, since_ns: u64) {
        let mut gone: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, entry)| entry.about.seen_ns < since_ns)
            .map(|(id, entry)| (*id, entry.about.counted))
            .collect();
        gone.sort_unstable_by_key(|(id, _)| *id);
        for (id, totals) in gone {
            let header = Header { connection: id, ..*header };
            self.close(&header, &totals, 0, CloseReason::Unknown);
        }
    }

    /// Another process uses the connection: an accepted socket was handed on, or its process is only now known.
    fn own(&mut self, id: ConnectionId, process: Option<Arc<Process>>) {
        let Some(entry) = self.connections.get_mut(&id) else { return };
        if let Some(peer) = self.around.peers.get_mut(&Socket::of(&entry.about.tuple)) {
            peer.process.clone_from(&process);
        }
        entry.about.process = process;
        entry.about.unsettle();
    }

    fn data(&mut self, header: &Header, direction: Direction, segment: Segment<'_>, wish: &mut dyn FnMut(ConnectionId, Wish)) {
        let Some(entry) = self.connections.get_mut(&header.connection) else {
            self.around.losses.add(Reason::ConnectionUnknown, 1);
            return;
        };
        let Entry { talk, about } = &mut **entry;
        about.seen_ns = header.time_ns;
        let outcome = talk.data(direction, segment, &mut Out { about, around: &mut self.around });
        if about.role == Role::Unknown {
            about.role = talk.role();
        }
        if let Some(wanted) = outcome.wish {
            wish(header.connection, wanted);
        }
    }

    fn close(&mut self, header: &Header, totals: &Totals, error: u32, reason: CloseReason) {
        let Some(mut entry) = self.connections.remove(&header.connection) else { return };
        let Entry { talk, about } = &mut *entry;
        let around = &mut self.around;
        // A capture file may lack what its counts have.
        let received = if around.options.frames { 0 } else { totals.bytes_received };
        talk.close(received, header.time_ns, &mut Out { about, around });
        let protocol = talk.protocol().unwrap_or(Protocol::Unknown);
        around.edge(about, protocol);
        around.closed(about, protocol, totals, header.time_ns, error, reason);
        let socket = Socket::of(&about.tuple);
        around.ended.push_back((socket, header.connection));
        if around.ended.len() > ENDED_MAX
            && let Some((socket, id)) = around.ended.pop_front()
            && around.peers.get(&socket).is_some_and(|peer| peer.id == id)
        {
            around.peers.remove(&socket);
        }
    }

    fn tick(&mut self) {
        if !self.around.names.renamed() {
            return;
        }
        let mut unnamed: Vec<u32> = self
            .connections
            .values()
            .filter_map(|entry| entry.about.process.as_ref())
            .filter(|process| process.container.as_ref().is_some_and(|container| container.name.is_none()))
            .map(|process| process.pid)
            .collect();
        unnamed.sort_unstable();
        unnamed.dedup();
        for pid in unnamed {
            let hint = Hint { pid, comm: "", cgroup_id: 0, now_ns: self.around.now_ns, sequence: self.around.sequence, again: true };
            if let Some(process) = self.around.names.process(hint) {
                self.refresh(&process);
            }
        }
    }

    /// A process is known better than before: its connections show it.
    fn refresh(&mut self, process: &Arc<Process>) {
        for entry in self.connections.values_mut() {
            let about = &mut entry.about;
            if about.process.as_ref().is_some_and(|old| old.pid == process.pid && old != process) {
                about.process = Some(Arc::clone(process));
                if let Some(peer) = self.around.peers.get_mut(&Socket::of(&about.tuple)) {
                    peer.process = Some(Arc::clone(process));
                }
            }
            about.unsettle();
        }
    }
}

impl About {
    fn new(
        id: ConnectionId,
        tuple: Tuple,
        role: Role,
        adopted: bool,
        start_ns: u64,
        connect_ns: u64,
        process: Option<Arc<Process>>,
    ) -> Self {
        let (edge, counted) = (None, Totals::default());
        Self { id, tuple, role, adopted, established: true, seen_ns: start_ns, start_ns, connect_ns, process, edge, tries: 0, counted }
    }

    fn unsettle(&mut self) {
        self.tries = 0;
        if let Some(edge) = &mut self.edge {
            edge.settled = false;
        }
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

    fn server_end(&self) -> Endpoint {
        if self.is_server() { self.tuple.local } else { self.tuple.remote }
    }
}

impl Around {
    fn process(&mut self, header: &Header, cgroup_id: u64, comm: &Text<16>) -> Option<Arc<Process>> {
        let comm = comm.to_string_lossy();
        self.names.process(Hint { pid: header.pid, comm: &comm, cgroup_id, now_ns: header.time_ns, sequence: self.sequence, again: false })
    }

    /// The edge of a connection: looked up at its first exchange, and again until both ends are known.
    fn edge(&mut self, about: &mut About, protocol: Protocol) -> EdgeId {
        if let Some(edge) = &about.edge
            && edge.settled
            && edge.protocol == protocol
        {
            return edge.id;
        }
        let own = self.party(about.process.as_deref(), about.tuple.local.address);
        let (mut peer, peer_process, found) = self.peer(about);
        let mut other = self.party(peer_process.as_deref(), about.tuple.remote.address);
        // A peer that has closed meanwhile keeps its name.
        if let Some(known) = about.edge.as_ref().filter(|known| peer.is_none() && known.peer.is_some()) {
            peer = known.peer;
            other = if about.is_server() { known.client.clone() } else { known.server.clone() };
        }
        let (mut client, mut server) = if about.is_server() { (other, own) } else { (own, other) };
        client.port = None;
        server.port = Some(about.server_end().port);
        about.tries = about.tries.saturating_add(1);
        let settled = found || about.tries >= PEER_TRIES;
        let key = EdgeKey { client, server, protocol };
        let id = self.map.intern(&key);
        let EdgeKey { client, server, .. } = key;
        let first = about.edge.replace(Edge { id, protocol, client, server, peer, settled }).is_none();
        if first && about.established {
            self.map.opened(id, about.side(self.options.frames));
        }
        id
    }

    fn party(&self, process: Option<&Process>, address: IpAddr) -> Party {
        let workload = process.map_or_else(|| Workload::of_address(address), Workload::of_process);
        let container_id = process.and_then(|process| process.container.as_ref()).map(|container| container.id.as_str().into());
        Party { workload, address: Some(address), port: None, container_id }
    }

    /// The socket at the other end, if it is on this host, and its process; and whether that is final.
    fn peer(&mut self, about: &About) -> (Option<ConnectionId>, Option<Arc<Process>>, bool) {
        if self.options.frames {
            return (None, None, true);
        }
        if let Some(peer) = self.peers.get(&Socket::of(&about.tuple).other_end()) {
            return (Some(peer.id), peer.process.clone(), peer.process.is_some());
        }
        let remote = about.tuple.remote;
        if about.is_server() || !(remote.address.is_loopback() || remote.address == about.tuple.local.address) {
            return (None, None, false);
        }
        let pid = self.names.listener(remote.address, remote.port, about.tuple.netns).unwrap_or(0);
        let hint = Hint { pid, comm: "", cgroup_id: 0, now_ns: self.now_ns, sequence: self.sequence, again: false };
        (None, self.names.process(hint), false)
    }

    /// Adds what a connection's counters grew by to its edge; without an edge it waits.
    fn count(&mut self, about: &mut About, protocol: Option<Protocol>, totals: &Totals) {
        let Some(protocol) = protocol else { return };
        let id = self.edge(about, protocol);
        let side = about.side(self.options.frames);
        let growth = about.growth(totals);
        self.map.bytes(id, side, growth.bytes_sent, growth.bytes_received);
        self.map.retransmits(id, side, growth.retransmits);
        self.map.srtt(id, side, totals.srtt_us);
    }

    fn closed(&mut self, about: &mut About, protocol: Protocol, totals: &Totals, now_ns: u64, error: u32, reason: CloseReason) {
        let growth = about.growth(totals);
        let closing = Closing {
            bytes_sent: growth.bytes_sent,
            bytes_received: growth.bytes_received,
            retransmits: growth.retransmits,
            srtt_us: totals.srtt_us,
        };
        let side = about.side(self.options.frames);
        if let Some(edge) = &about.edge {
            self.map.closed(edge.id, side, &closing);
        }
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

    fn fail(&mut self, about: &mut About, now_ns: u64, error: u32) {
        about.established = false;
        let id = self.edge(about, Protocol::Unknown);
        self.map.failed(id, about.side(self.options.frames), error);
        // Without an error of the network the program itself gave up.
        let error = if error == 0 { 125 } else { error };
        self.connection_line(about, Protocol::Unknown, &Totals::default(), now_ns, error, Some("failed"));
    }

    fn connection_line(&mut self, about: &About, protocol: Protocol, totals: &Totals, now_ns: u64, error: u32, reason: Option<&str>) {
        let shown = match self.options.sides {
            Sides::Both => true,
            Sides::Server => about.role != Role::Client,
            Sides::Client => about.role != Role::Server,
        };
        let Some(edge) = about.edge.as_ref().filter(|_| shown && self.options.lines) else { return };
        json::connection(
            &mut self.lines.text,
            &ConnectionView {
                protocol,
                role: about.role,
                local: about.tuple.local,
                remote: about.tuple.remote,
                client: view(&edge.client, about.client_end()),
                server: view(&edge.server, about.server_end()),
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
                unix_offset_ns: self.options.unix_offset_ns,
            },
        );
        self.lines.mark(self.sequence);
    }

    fn listen(&mut self, header: &Header, local: Endpoint, netns: u32, closed: bool) {
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
    fn services(&mut self) -> Vec<Listener> {
        let listening: Vec<_> = self.names.listening().collect();
        let (now_ns, sequence) = (self.now_ns, self.sequence);
        listening
            .into_iter()
            .filter_map(|(netns, local, pid)| {
                let service = self.listeners.get(&(netns, local.port))?;
                let (since_ns, last_exchange_ns) = (service.since_ns, service.last_exchange_ns);
                let process = self.names.process(Hint { pid: pid.unwrap_or(0), comm: "", cgroup_id: 0, now_ns, sequence, again: false });
                let server = Party { port: Some(local.port), ..self.party(process.as_deref(), local.address) };
                Some(Listener { server, since_ns, last_exchange_ns })
            })
            .collect()
    }
}

impl About {
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

/// Where a connection's exchanges go.
struct Out<'a> {
    about: &'a mut About,
    around: &'a mut Around,
}

impl Sink for Out<'_> {
    fn exchange(&mut self, exchange: &Exchange<'_>) {
        let Self { about, around } = self;
        let id = around.edge(about, exchange.protocol);
        let side = about.side(around.options.frames);
        let route = around.map.record(id, side, exchange);
        if about.is_server() {
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
                process: about.process.as_deref().map(process_view),
                connection_id: about.id,
                peer_connection_id: edge.peer,
                unix_offset_ns: around.options.unix_offset_ns,
            },
        );
        around.lines.mark(around.sequence);
    }

    /// Lines show them; the service map does not count them.
    fn wants_attributes(&self) -> bool {
        self.around.options.lines
    }

    /// The connection keeps this to itself.
    fn capture(&mut self, _: Capture) {}

    fn lost(&mut self, loss: Loss) {
        tracing::debug!("connection {} ({}), event {}: {loss:?}", self.about.id.0, self.about.server_end(), self.around.sequence);
        self.around.losses.parser(loss);
    }
}

fn view(party: &Party, end: Endpoint) -> PartyView<'_> {
    PartyView { address: Some(end.address), port: Some(end.port), ..PartyView::from(party) }
}

fn process_view(process: &Process) -> ProcessView<'_> {
    ProcessView { pid: process.pid, comm: &process.comm, container_id: process.container.as_ref().map(|container| container.id.as_str()) }
}

fn kind(body: &Body<'_>) -> usize {
    match body {
        Body::Open { .. } => 0,
        Body::Owner { .. } => 1,
        Body::Close { .. } => 2,
        Body::Fail { .. } => 3,
        Body::Listen { .. } => 4,
        Body::Data { .. } => 5,
        Body::Exec { .. } => 6,
        Body::Exit => 7,
        Body::Fork { .. } => 8,
        Body::Counters(_) => 9,
        Body::Tick => 10,
        Body::Sweep { .. } => 11,
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
