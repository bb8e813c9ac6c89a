//! Which process a pid stands for: asked of the host when live, told by the recording in a replay.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use crossbeam_channel::Sender;

use crate::{
    attribution::{ContainerNames, Listeners, Processes},
    model::{Endpoint, Process},
    record::Fact,
};

use super::tape::Taped;

/// A worker's knowledge of processes and listening sockets.
pub struct Names {
    source: Source,
    listeners: Listeners,
    /// Where each answer is kept for a replay.
    tape: Option<Sender<Taped>>,
    /// The last answer put on the tape, by pid.
    taped: HashMap<u32, Arc<Process>>,
    generation: u64,
}

/// Where answers come from.
pub enum Source {
    Host { processes: Box<Processes>, containers: Arc<ContainerNames> },
    Recording(HashMap<u32, Arc<Process>>),
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
        Self { source, listeners, tape, taped: HashMap::new(), generation: 0 }
    }

    /// The process, or `None` where there is none (pid 0).
    pub fn process(&mut self, hint: Hint<'_>) -> Option<Arc<Process>> {
        if hint.pid == 0 {
            return None;
        }
        let process = match &mut self.source {
            Source::Host { processes, .. } => processes.resolve(hint.pid, hint.comm, hint.cgroup_id, hint.now_ns),
            Source::Recording(facts) => facts.get(&hint.pid).map(Arc::clone).unwrap_or_else(|| {
                let comm = hint.comm.to_owned();
                Arc::new(Process { pid: hint.pid, comm, executable: None, command: None, container: None })
            }),
        };
        if let Some(tape) = &self.tape
            && self.taped.get(&hint.pid).is_none_or(|taped| *taped != process)
        {
            // A tape that does not follow is noticed where its events are dropped, and counted there.
            let fact = Fact { sequence: hint.sequence, process: Process::clone(&process), renamed: hint.again };
            let _ = tape.try_send(Taped::Fact(fact));
            self.taped.insert(hint.pid, Arc::clone(&process));
        }
        Some(process)
    }

    /// From now on the pid stands for this process (a replay's own source of names).
    pub fn learn(&mut self, process: Arc<Process>) {
        if let Source::Recording(facts) = &mut self.source {
            facts.insert(process.pid, process);
        }
    }

    pub fn exec(&mut self, pid: u32, comm: &str, filename: &str, argv0: &str, cgroup_id: u64) {
        if let Source::Host { processes, .. } = &mut self.source {
            processes.observe_exec(pid, comm, filename, argv0, cgroup_id);
        }
    }

    pub fn fork(&mut self, parent: u32, child: u32) {
        if let Source::Host { processes, .. } = &mut self.source {
            processes.observe_fork(parent, child);
        }
    }

    pub fn exit(&mut self, pid: u32) {
        if let Source::Host { processes, .. } = &mut self.source {
            processes.observe_exit(pid);
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

    /// Containers got names since this was last asked: answers given before may be poorer than they could be.
    pub fn renamed(&mut self) -> bool {
        let Source::Host { containers, .. } = &self.source else { return false };
        let generation = containers.generation();
        std::mem::replace(&mut self.generation, generation) != generation
    }
}
