//! Which process a pid stands for: asked of the host when live, told by the recording in a replay.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use crossbeam_channel::Sender;

use crate::{
    attribution::{Cluster, Conntrack, ContainerNames, Listeners, Processes, cgroup::container_of_path, conntrack::ConntrackCounts},
    model::{ConnectionId, Endpoint, Process, Remote, Translation},
    record::{Fact, Known},
};

use super::tape::Taped;

/// Answers that were put on the tape and are remembered; beyond that they are put there again.
const TAPED_MAX: usize = 65_536;

/// A worker's knowledge of processes, listening sockets and the ends that are no process of this host.
pub struct Names {
    source: Source,
    listeners: Listeners,
    /// Where each answer is kept for a replay.
    tape: Option<Sender<Taped>>,
    /// The last answers put on the tape, by pid and by end.
    taped: HashMap<u32, Arc<Process>>,
    taped_ends: HashMap<Endpoint, Option<Arc<Remote>>>,
    generation: u64,
}

/// Where answers come from.
pub enum Source {
    Host(Box<Host>),
    Recording(Box<Told>),
}

/// What can be asked of this host and its cluster.
pub struct Host {
    pub processes: Processes,
    pub containers: Arc<ContainerNames>,
    pub cluster: Arc<Cluster>,
    pub conntrack: Option<Conntrack>,
}

/// What a recording has told so far.
#[derive(Default)]
pub struct Told {
    processes: HashMap<u32, Arc<Process>>,
    ends: HashMap<Endpoint, Option<Arc<Remote>>>,
    translations: HashMap<u64, Translation>,
}

/// Whose answers a fact makes better.
pub enum Bettered {
    Nobody,
    Process(Arc<Process>),
    End(Endpoint),
}

/// What an event says about the process behind it.
#[derive(Clone, Copy, Debug)]
pub struct Hint<'a> {
    pub pid: u32,
    /// Name of the thread, empty where unknown.
    pub comm: &'a str,
    /// 0 where unknown.
    pub cgroup_id: u64,
    pub now_ns: u64,
    /// Number of the event.
    pub sequence: u64,
    /// A better name is asked for than was given before.
    pub again: bool,
}

impl Names {
    pub fn new(source: Source, listeners: Listeners, tape: Option<Sender<Taped>>) -> Self {
        Self { source, listeners, tape, taped: HashMap::new(), taped_ends: HashMap::new(), generation: 0 }
    }

    /// The process, or `None` where there is none (pid 0).
    pub fn process(&mut self, hint: Hint<'_>) -> Option<Arc<Process>> {
        if hint.pid == 0 {
            return None;
        }
        let process = match &mut self.source {
            Source::Host(host) => host.processes.resolve(hint.pid, hint.comm, hint.cgroup_id, hint.now_ns),
            Source::Recording(told) => told.processes.get(&hint.pid).map(Arc::clone).unwrap_or_else(|| {
                let comm = hint.comm.to_owned();
                Arc::new(Process { pid: hint.pid, comm, ..Process::default() })
            }),
        };
        if self.tape.is_some() && self.taped.get(&hint.pid).is_none_or(|taped| *taped != process) {
            let known = if hint.again { Known::Renamed } else { Known::Process };
            self.tape(hint.sequence, known(Arc::clone(&process)));
            self.taped.insert(hint.pid, Arc::clone(&process));
        }
        Some(process)
    }

    /// What the cluster says of an end that is no process of this host, as of `time_ns`; port 0 for a client's.
    pub fn remote(&mut self, end: Endpoint, is_udp: bool, time_ns: u64, sequence: u64) -> Option<Arc<Remote>> {
        let remote = match &self.source {
            Source::Host(host) => host.cluster.remote(end, is_udp, time_ns),
            Source::Recording(told) => told.ends.get(&end).cloned().flatten(),
        };
        if self.tape.is_some() && self.taped_ends.get(&end).is_none_or(|taped| *taped != remote) {
            // "Nothing is known" need not be told first.
            if remote.is_some() || self.taped_ends.contains_key(&end) {
                self.tape(sequence, Known::Remote(end, remote.clone()));
            }
            if self.taped_ends.len() >= TAPED_MAX {
                self.taped_ends.clear();
            }
            self.taped_ends.insert(end, remote.clone());
        }
        remote
    }

    /// Whether a connection to this address may end elsewhere, Services of the cluster aside.
    pub fn may_rewrite(&mut self, remote: IpAddr, now_ns: u64) -> bool {
        match &mut self.source {
            Source::Host(host) => host.conntrack.as_mut().is_some_and(|conntrack| conntrack.may_rewrite(remote, now_ns)),
            Source::Recording(told) => !told.translations.is_empty(),
        }
    }

    /// The ends of a connection as its server has them; `None` where nothing was rewritten, or nothing is known.
    pub fn translate(&mut self, id: ConnectionId, is_udp: bool, local: Endpoint, remote: Endpoint, sequence: u64) -> Option<Translation> {
        match &mut self.source {
            Source::Host(host) => {
                let translation = host.conntrack.as_mut()?.translate(is_udp, local, remote)?;
                self.tape(sequence, Known::Translated(id.0, translation));
                Some(translation)
            }
            Source::Recording(told) => told.translations.get(&id.0).copied(),
        }
    }

    /// The same for a server's socket: the client's end as the client has it.
    pub fn origin(&mut self, id: ConnectionId, is_udp: bool, local: Endpoint, remote: Endpoint, sequence: u64) -> Option<Translation> {
        match &mut self.source {
            Source::Host(host) => {
                let client = host.conntrack.as_mut()?.origin(is_udp, local, remote)?;
                let translation = Translation { client, server: local };
                self.tape(sequence, Known::Translated(id.0, translation));
                Some(translation)
            }
            Source::Recording(told) => told.translations.get(&id.0).copied(),
        }
    }

    /// What connection tracking was asked so far.
    pub fn conntrack_counts(&self) -> ConntrackCounts {
        match &self.source {
            Source::Host(host) => host.conntrack.as_ref().map(Conntrack::counts).unwrap_or_default(),
            Source::Recording(_) => ConntrackCounts::default(),
        }
    }

    /// A tape that does not follow is noticed where its events are dropped, and counted there.
    fn tape(&self, sequence: u64, known: Known) {
        if let Some(tape) = &self.tape {
            let _ = tape.try_send(Taped::Fact(Box::new(Fact { sequence, known })));
        }
    }

    /// From now on this holds (a replay's own source of names).
    pub fn learn(&mut self, known: &Known) -> Bettered {
        let Source::Recording(told) = &mut self.source else { return Bettered::Nobody };
        match known {
            Known::Process(process) => {
                told.processes.insert(process.pid, Arc::clone(process));
                Bettered::Nobody
            }
            Known::Renamed(process) => {
                told.processes.insert(process.pid, Arc::clone(process));
                Bettered::Process(Arc::clone(process))
            }
            Known::Remote(end, remote) => match told.ends.insert(*end, remote.clone()) {
                Some(_) => Bettered::End(*end),
                None => Bettered::Nobody,
            },
            Known::Translated(id, translation) => {
                told.translations.insert(*id, *translation);
                Bettered::Nobody
            }
        }
    }

    pub fn exec(&mut self, pid: u32, comm: &str, filename: &str, argv0: &str, cgroup_id: u64) {
        if let Source::Host(host) = &mut self.source {
            host.processes.observe_exec(pid, comm, filename, argv0, cgroup_id);
        }
    }

    pub fn fork(&mut self, parent: u32, child: u32) {
        if let Source::Host(host) = &mut self.source {
            host.processes.observe_fork(parent, child);
        }
    }

    /// The namespace of the pod that a control group of this path is of.
    pub fn namespace_of_cgroup(&self, path: &str) -> Option<Arc<str>> {
        let Source::Host(host) = &self.source else { return None };
        let container = container_of_path(path)?.to_container();
        Some(Arc::clone(&host.cluster.pod(container.pod_uid.as_deref()?)?.namespace))
    }

    /// A control group was made or got another name; or it was removed.
    pub fn cgroup(&mut self, id: u64, path: &str, removed: bool) {
        if let Source::Host(host) = &mut self.source {
            if removed {
                host.processes.cgroups().forget(id);
            } else {
                host.processes.cgroups().learn(id, path);
            }
        }
    }

    pub fn exit(&mut self, pid: u32) {
        if let Source::Host(host) = &mut self.source {
            host.processes.observe_exit(pid);
        }
        self.listeners.observe_exit(pid);
        self.taped.remove(&pid);
    }

    pub fn listen(&mut self, pid: u32, local: Endpoint, netns: u32, closed: bool) {
        if closed {
            self.listeners.observe_listen_closed(pid, local, netns);
        } else {
            self.listeners.observe_listen(pid, local, netns);
        }
    }

    /// The process that listens there.
    pub fn listener(&self, address: IpAddr, port: u16, netns: u32) -> Option<u32> {
        self.listeners.lookup(address, port, netns)
    }

    /// Every listening socket (namespace, endpoint) and its process.
    pub fn listening(&self) -> impl Iterator<Item = (u32, Endpoint, Option<u32>)> {
        self.listeners.iter().map(|(socket, pid)| (socket.netns, socket.local, pid))
    }

    /// Containers or addresses got names since this was last asked: answers given before may be poorer than they could be.
    pub fn renamed(&mut self) -> bool {
        let Source::Host(host) = &self.source else { return false };
        // Both only grow.
        let generation = host.containers.generation() + host.cluster.generation();
        std::mem::replace(&mut self.generation, generation) != generation
    }
}
