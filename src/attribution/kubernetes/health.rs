//! How the watch fares, for the agent's own metrics, its API and `doctor`.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::store::Cluster;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pods,
    Services,
    EndpointSlices,
    Nodes,
    ReplicaSets,
    Jobs,
}

impl Kind {
    pub const ALL: [Self; 6] = [Self::Pods, Self::Services, Self::EndpointSlices, Self::Nodes, Self::ReplicaSets, Self::Jobs];

    /// As RBAC and kubectl write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Nodes => "nodes",
            Self::ReplicaSets => "replicasets",
            Self::Jobs => "jobs",
        }
    }

    /// The API group in which RBAC grants it.
    pub fn group(self) -> &'static str {
        match self {
            Self::Pods | Self::Services | Self::Nodes => "",
            Self::EndpointSlices => "discovery.k8s.io",
            Self::ReplicaSets => "apps",
            Self::Jobs => "batch",
        }
    }

    /// With the group, as kubectl takes it: `replicasets.apps`.
    pub fn full_name(self) -> String {
        match self.group() {
            "" => self.name().to_owned(),
            group => format!("{}.{group}", self.name()),
        }
    }

    /// Where the API server has it, in the order in which versions are tried.
    pub(super) fn paths(self) -> &'static [&'static str] {
        match self {
            Self::Pods => &["/api/v1/pods"],
            Self::Services => &["/api/v1/services"],
            Self::EndpointSlices => &["/apis/discovery.k8s.io/v1/endpointslices", "/apis/discovery.k8s.io/v1beta1/endpointslices"],
            Self::Nodes => &["/api/v1/nodes"],
            Self::ReplicaSets => &["/apis/apps/v1/replicasets"],
            Self::Jobs => &["/apis/batch/v1/jobs"],
        }
    }

    /// What the outputs have from it, and lack without it.
    pub fn use_of(self) -> &'static str {
        match self {
            Self::Pods => "names of pods, their containers and workloads",
            Self::Services => "names of Services",
            Self::EndpointSlices => "who is behind a Service, and whether anybody is",
            Self::Nodes => "names of nodes",
            Self::ReplicaSets => "names of Deployments, where pods lack the label pod-template-hash",
            Self::Jobs => "names of CronJobs, whose pods are named after the Job instead",
        }
    }
}

/// How a kind is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    List,
    Watch,
}

impl Verb {
    pub const ALL: [Self; 2] = [Self::List, Self::Watch];

    /// As RBAC writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Watch => "watch",
        }
    }
}

/// How far the copy of one kind can be trusted. Times in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nobody asks for it.
    #[default]
    Off,
    /// Never complete so far.
    Starting {
        why: Option<Arc<str>>,
    },
    Synced {
        since_s: u64,
    },
    /// The last known state is kept; the API server does not tell what changes.
    Stale {
        since_s: u64,
        why: Arc<str>,
    },
    /// The API server refuses to tell (RBAC).
    Forbidden {
        since_s: u64,
        why: Arc<str>,
    },
}

impl State {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Starting { .. } => "starting",
            Self::Synced { .. } => "synced",
            Self::Stale { .. } => "stale",
            Self::Forbidden { .. } => "forbidden",
        }
    }
}

/// What the watch says of itself: replaced as a whole when a state changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    pub server: Option<Arc<str>>,
    pub states: [State; Kind::ALL.len()],
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    kinds: [KindCounters; Kind::ALL.len()],
}

#[derive(Debug, Default)]
pub(super) struct KindCounters {
    pub objects: AtomicU64,
    pub events: AtomicU64,
    pub lists: AtomicU64,
    pub failures: AtomicU64,
    pub malformed: AtomicU64,
    pub bytes: AtomicU64,
}

impl Counters {
    pub fn of(&self, kind: Kind) -> &KindCounters {
        &self.kinds[kind as usize]
    }
}

/// One kind as of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindHealth {
    pub kind: Kind,
    pub state: State,
    /// Held now.
    pub objects: u64,
    /// Changes received, those of lists among them.
    pub events: u64,
    /// Complete lists received: the first, and those after the server forgot where the watch stood.
    pub lists: u64,
    /// Requests that failed, and watches that broke off.
    pub failures: u64,
    /// Objects that were not understood and left out.
    pub malformed: u64,
    /// Bodies of answers, after TLS.
    pub bytes: u64,
}

impl Cluster {
    /// The API server's address; `None` where no cluster is asked.
    pub fn server(&self) -> Option<Arc<str>> {
        self.health.load().server.clone()
    }

    /// How each kind fares.
    pub fn health(&self) -> Vec<KindHealth> {
        let health = self.health.load();
        let of = |kind: Kind| {
            let counters = self.counters.of(kind);
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            KindHealth {
                kind,
                state: health.states[kind as usize].clone(),
                objects: read(&counters.objects),
                events: read(&counters.events),
                lists: read(&counters.lists),
                failures: read(&counters.failures),
                malformed: read(&counters.malformed),
                bytes: read(&counters.bytes),
            }
        };
        Kind::ALL.map(of).to_vec()
    }

    /// Says what changed; the state before.
    pub(super) fn set_state(&self, kind: Kind, state: State) -> State {
        let mut before = State::Off;
        self.health.rcu(|health| {
            let mut health = Health::clone(health);
            before = std::mem::replace(&mut health.states[kind as usize], state.clone());
            health
        });
        before
    }

    pub(super) fn set_server(&self, server: &str) {
        self.health.rcu(|health| Health { server: Some(server.into()), ..Health::clone(health) });
    }
}
