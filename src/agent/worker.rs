//! A worker: owns its connections from open to close, feeds their parsers, and hands what comes out to the parties.
//! One thread, no locks: what it knows leaves it as reports and rounds of lines.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;

use super::{
    about::About,
    lines::Lines,
    losses::{Losses, Reason},
    names::{Bettered, Hint, Names},
    overheard::Overheard,
    parties::{Around, Out},
    router::{Batch, Message},
    scope::{Leave, Scope},
    udp::Sockets,
};
use crate::{
    attribution::conntrack::ConntrackCounts,
    config::{Detail, Sides},
    connection::{Connection, datagrams::Datagram, stream::Segment},
    event::{Body, CloseReason, Event, Header, Totals, text_lossy},
    model::{ConnectionId, Direction, Endpoint, Process, Protocol, Protocols, Role, Wish},
    service_map::{Listener, Shard},
};

/// What a worker is told at its start.
#[derive(Clone, Debug)]
pub struct Options {
    pub worker: usize,
    /// How many there are.
    pub workers: usize,
    /// The events are of frames: seen from outside, by no process.
    pub frames: bool,
    /// Whose connections are shown.
    pub sides: Sides,
    /// Which pods are watched.
    pub scope: Scope,
    /// What edges tell apart.
    pub detail: Detail,
    /// Lines are wanted.
    pub lines: bool,
    /// Whose values may be shown.
    pub raw: Protocols,
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
    /// Batches that wait for the worker.
    pub queue_depth: usize,
    pub conntrack: ConntrackCounts,
    /// The worker has ended.
    pub last: bool,
}

pub const EVENT_NAMES: [&str; 15] = [
    "open", "owner", "close", "fail", "listen", "data", "exec", "exit", "fork", "counters", "tick", "sweep", "udp_open", "datagram",
    "cgroup",
];

/// Parsers hear of the passing of time at the first tick after so long.
const SECOND_NS: u64 = 900_000_000;

pub(super) type Table<K, V> = HashMap<K, V, RandomState>;

pub struct Worker {
    connections: Table<ConnectionId, Box<Entry>>,
    sockets: Sockets,
    overheard: Overheard,
    /// Connections whose parsers want to hear of the passing of time.
    waiting: Vec<ConnectionId>,
    /// When they last did.
    told_ns: u64,
    around: Around,
    events: [u64; EVENT_NAMES.len()],
}

/// A connection and what is known around it.
struct Entry {
    talk: Connection,
    about: About,
}

impl Worker {
    pub fn new(options: Options, names: Names, losses: Arc<Losses>) -> Self {
        Self {
            connections: Table::default(),
            sockets: Sockets::default(),
            overheard: Overheard::default(),
            waiting: Vec::new(),
            told_ns: 0,
            around: Around::new(options, names, losses),
            events: [0; EVENT_NAMES.len()],
        }
    }

    /// Handles one message; false at the end. `wish` reaches the kernel; `report` is called once a tick.
    pub fn handle(&mut self, message: &Message, wish: &mut dyn FnMut(ConnectionId, Wish), report: &mut dyn FnMut(Report)) -> bool {
        match message {
            Message::Events(batch) => self.batch(batch, wish, report),
            Message::Fact(fact) => match self.around.names.learn(&fact.known) {
                Bettered::Process(process) => self.refresh(&process),
                Bettered::End(end) => self.unsettle(|remote| remote.address == end.address),
                Bettered::Nobody => {}
            },
            Message::End => {
                self.end();
                return false;
            }
        }
        true
    }

    /// What is said now comes behind the last event, whichever that was for this worker.
    fn end(&mut self) {
        let first = self.around.lines.index.len();
        self.around.sequence = u64::MAX - 1;
        self.sockets.end(&mut self.around);
        self.around.lines.sort_from(first);
    }

    /// The lines of the last round; to be cleared by whoever took them.
    pub fn lines(&mut self) -> &mut Lines {
        &mut self.around.lines
    }

    /// What the kernel is to be told of control groups.
    pub fn left_out(&mut self) -> Vec<Leave> {
        self.around.left_out.take()
    }

    pub fn report(&mut self, last: bool) -> Report {
        let around = &mut self.around;
        Report {
            worker: around.options.worker,
            shard: around.map.shard(),
            listeners: around.services(),
            events: self.events,
            now_ns: around.now_ns,
            queue_depth: 0,
            conntrack: around.names.conntrack_counts(),
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
                    let first = self.around.lines.index.len();
                    self.event(event, wish);
                    if matches!(event.body, Body::Tick | Body::Sweep { .. }) {
                        self.around.lines.sort_from(first);
                    }
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
        if matches!(event.body, Body::UdpOpen { .. } | Body::Datagram { .. }) && !self.owns(header.connection) {
            return self.overhear(event);
        }
        let around = &mut self.around;
        self.events[kind(&event.body)] += 1;
        match event.body {
            Body::Data { direction, offset, size, payload, .. } => {
                let segment = Segment { offset, size: size.into(), payload, time_ns: header.time_ns };
                self.data(header, direction, segment, wish);
            }
            Body::Open { tuple, cgroup_id, start_ns, connect_ns, role, adopted, comm } => {
                let process = around.process(header, cgroup_id, &comm);
                self.open(header.connection, About::new(header.connection, tuple, role, adopted, start_ns, connect_ns, process));
            }
            Body::Datagram { direction, number, size, remote, payload, .. } => {
                let datagram = Datagram { number, size: size.into(), payload, remote, time_ns: header.time_ns };
                self.sockets.datagram(header, direction, datagram, &mut self.around, wish);
            }
            Body::UdpOpen { tuple, cgroup_id, start_ns, role, comm } => {
                let process = around.process(header, cgroup_id, &comm);
                let about = About::new(header.connection, tuple, role, false, start_ns, 0, process);
                if self.has_room() {
                    self.sockets.open(about, &mut self.around);
                }
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
            Body::Cgroup { id, path, removed } => around.cgroup(id, &String::from_utf8_lossy(path), removed),
            Body::Tick => self.tick(header.time_ns),
            Body::Sweep { since_ns } => self.sweep(header, since_ns),
        }
    }

    fn owns(&self, id: ConnectionId) -> bool {
        let Options { worker, workers, .. } = self.around.options;
        id.worker(workers) == worker
    }

    /// Another worker's socket of DNS.
    fn overhear(&mut self, event: &Event<'_>) {
        let Event { header, body } = event;
        let Self { overheard, around, .. } = self;
        match *body {
            Body::UdpOpen { tuple, role, .. } => overheard.open(header.connection, tuple.netns, role, header.time_ns, &around.options),
            Body::Datagram { direction, number, size, remote, payload, .. } => {
                let datagram = Datagram { number, size: size.into(), payload, remote, time_ns: header.time_ns };
                overheard.datagram(header, direction, datagram, &mut around.resolved, around.now_ns);
            }
            _ => {}
        }
    }

    /// Two threads that use a fresh connection at once can both announce it: the first one counts.
    fn open(&mut self, id: ConnectionId, mut about: About) {
        if self.connections.contains_key(&id) || !self.has_room() {
            return;
        }
        self.around.opened(&mut about);
        let talk = Connection::new(about.role, about.adopted, self.around.options.raw);
        self.connections.insert(id, Box::new(Entry { talk, about }));
    }

    /// Room for one more connection or socket; none is counted.
    fn has_room(&self) -> bool {
        let room = self.connections.len() + self.sockets.len() < self.around.options.connections;
        if !room {
            self.around.losses.add(Reason::TableFull, 1);
        }
        room
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
        if self.sockets.own(id, &process, &mut self.around) {
            return;
        }
        let Some(entry) = self.connections.get_mut(&id) else { return };
        entry.about.process = process;
        entry.about.unsettle();
        self.around.named(&entry.about, &entry.about.tuple);
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
        if outcome.named && talk.waits() {
            self.waiting.push(header.connection);
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
        around.closed(about, protocol, totals, header.time_ns, error, reason);
    }

    fn tick(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.told_ns) >= SECOND_NS {
            self.told_ns = now_ns;
            self.pass_time(now_ns);
        }
        if self.around.names.renamed() {
            self.rename();
        }
    }

    /// Tells those who wait for something that may never come.
    fn pass_time(&mut self, now_ns: u64) {
        let Self { connections, waiting, around, .. } = self;
        waiting.retain(|id| {
            let Some(entry) = connections.get_mut(id) else { return false };
            let Entry { talk, about } = &mut **entry;
            talk.tick(now_ns, &mut Out { about, around });
            talk.waits()
        });
        self.sockets.tick(now_ns, around);
        self.overheard.tick(now_ns);
    }

    /// Containers have names that they did not have before.
    fn rename(&mut self) {
        let mut unnamed: Vec<u32> = self
            .connections
            .values()
            .map(|entry| &entry.about)
            .chain(self.sockets.abouts().map(|(about, _)| &*about))
            .filter_map(|about| about.process.as_ref())
            .filter(|process| is_poorly_named(process))
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

    /// The other ends that `concerns` chooses are looked for again.
    fn unsettle(&mut self, concerns: impl Fn(Endpoint) -> bool) {
        let tcp = self.connections.values_mut().map(|entry| &mut entry.about);
        tcp.chain(self.sockets.abouts().map(|(about, _)| about)).filter(|about| concerns(about.tuple.remote)).for_each(About::unsettle);
    }

    /// A process is known better than before: its connections show it.
    fn refresh(&mut self, process: &Arc<Process>) {
        let tcp = self.connections.values_mut().map(|entry| {
            let tuple = entry.about.tuple;
            (&mut entry.about, tuple)
        });
        for (about, tuple) in tcp.chain(self.sockets.abouts().map(|(about, bound)| (about, *bound))) {
            if about.process.as_ref().is_some_and(|old| old.pid == process.pid && old != process) {
                about.process = Some(Arc::clone(process));
                self.around.named(about, &tuple);
            }
            about.unsettle();
        }
    }
}

/// Its container, or its pod, may get a name yet.
fn is_poorly_named(process: &Process) -> bool {
    process.container.as_ref().is_some_and(|container| container.name.is_none() || (container.pod_uid.is_some() && process.pod.is_none()))
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
        Body::UdpOpen { .. } => 12,
        Body::Datagram { .. } => 13,
        Body::Cgroup { .. } => 14,
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "domains_tests.rs"]
mod domains_tests;

#[cfg(test)]
#[path = "remotes_tests.rs"]
mod remotes_tests;

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod cluster_tests;
