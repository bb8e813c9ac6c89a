//! What the agent leans on, in the words of its outputs: the cluster's watch, connection tracking, the engine, the programs.

use std::{path::PathBuf, sync::Arc};

use crate::{
    attribution::{
        Cluster, ContainerNames,
        conntrack::ConntrackCounts,
        kubernetes::{self, State},
    },
    export::{ClusterHealth, ConntrackHealth, EngineHealth, KindHealth, Name, ProgramHealth, WatchState},
    model::ServiceName,
    probes::{clock, health::Health},
    service_map::ServiceState,
};

/// Where names come from beside `/proc`.
pub struct Sources {
    /// Where engines may listen, and what they told.
    pub engines: Vec<PathBuf>,
    pub containers: Arc<ContainerNames>,
    pub cluster: Arc<Cluster>,
    /// Why connection tracking cannot be asked; `None` where it can.
    pub conntrack_error: Option<String>,
}

impl Sources {
    /// Every Service of the cluster, as it is now.
    pub fn services(&self) -> Vec<ServiceState> {
        let state = |service: kubernetes::ServiceState| ServiceState {
            name: ServiceName { namespace: service.namespace, name: service.name },
            is_here: service.is_local,
            is_unserved: service.is_unserved,
        };
        self.cluster.services().into_iter().map(state).collect()
    }

    /// `None` on a plain host: nothing is missing there.
    pub fn cluster(&self) -> Option<ClusterHealth> {
        let server = self.cluster.server()?;
        let now_s = clock::unix_ns() / 1_000_000_000;
        let kinds = self.cluster.health().into_iter().filter(|kind| kind.state != State::Off);
        Some(ClusterHealth { server: server.to_string(), kinds: kinds.map(|kind| kind_health(kind, now_s)).collect() })
    }

    /// `None` where no connection is tracked, or the kernel could not be asked and no cluster needs it.
    pub fn conntrack(&self, counts: ConntrackCounts) -> Option<ConntrackHealth> {
        if self.conntrack_error.is_some() && self.cluster.server().is_none() {
            return None;
        }
        let ConntrackCounts { asked, found, failed, .. } = counts;
        Some(ConntrackHealth { asked, found, failed, error: self.conntrack_error.clone() })
    }

    /// `None` on a host without an engine.
    pub fn engine(&self) -> Option<EngineHealth> {
        let counts = self.containers.counts();
        let socket = self.engines.iter().find(|socket| socket.exists());
        let socket = socket.or(self.engines.first().filter(|_| counts.lists > 0))?;
        Some(EngineHealth {
            socket: socket.display().to_string(),
            containers: counts.known as u64,
            lists: counts.lists,
            events: counts.events,
            ignored: counts.ignored,
            failures: counts.failures,
        })
    }
}

fn kind_health(kind: kubernetes::KindHealth, now_s: u64) -> KindHealth {
    let (state, since_s, error) = match kind.state {
        State::Off => (WatchState::Absent, None, None),
        State::Starting { why } => (WatchState::Starting, None, why),
        State::Synced { .. } => (WatchState::Synced, None, None),
        State::Stale { since_s, why } => (WatchState::Stale, Some(since_s), Some(why)),
        State::Forbidden { since_s, why } => (WatchState::Refused, Some(since_s), Some(why)),
    };
    KindHealth {
        kind: Name::Borrowed(kind.kind.name()),
        state,
        objects: kind.objects,
        events: kind.events,
        relists: kind.lists,
        silence_ns: since_s.map_or(0, |since_s| now_s.saturating_sub(since_s) * 1_000_000_000),
        error: error.map(|why| why.to_string()),
    }
}

/// A program and what became of it.
pub fn program((name, health): &(String, Health)) -> ProgramHealth {
    let (state, why) = match health {
        Health::Attached => ("attached", None),
        Health::Unsupported => ("unsupported", None),
        Health::Failed(why) => ("failed", Some(why.clone())),
    };
    ProgramHealth { name: name.clone(), state, why }
}
