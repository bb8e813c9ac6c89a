//! Services of a cluster and their use: which have been idle, and which are called although nobody serves them.
//! Knows of the cluster what it is told at each look.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{Edge, IdleService};
use crate::model::{Party, ServiceName, Workload, WorkloadKind};

/// A Service as the cluster has it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceState {
    pub name: ServiceName,
    /// One of its endpoints is on this node, so that its traffic would be seen.
    pub is_here: bool,
    /// None of its endpoints is ready.
    pub is_unserved: bool,
}

/// Calls by one workload to a Service while it had no ready endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnservedService {
    pub service: ServiceName,
    pub client: Workload,
    pub calls: u64,
    /// Since the last of them.
    pub quiet_ns: u64,
    /// Whether it still has none; `None` where the cluster does not say.
    pub is_unserved: Option<bool>,
}

/// Remembers when each Service was last used, and called in vain.
#[derive(Debug, Default)]
pub struct ServiceWatch {
    used: HashMap<ServiceName, Use>,
    called: BTreeMap<(ServiceName, Workload), Use>,
}

/// A count, and when it was last seen to grow.
#[derive(Clone, Copy, Debug)]
struct Use {
    count: u64,
    at_ns: u64,
}

impl Use {
    fn of(count: u64, at_ns: u64) -> Self {
        Self { count, at_ns }
    }

    fn observe(&mut self, count: u64, now_ns: u64) {
        if count > self.count {
            *self = Self { count, at_ns: now_ns };
        }
    }
}

impl ServiceWatch {
    /// Looks at the edges as they are now. The Services here without traffic for at least `after_ns` (since they were first told of, if
    /// there was none), sorted; what the node's own agent asks to see whether a pod is alive is no traffic.
    pub fn idle(&mut self, states: &[ServiceState], edges: &[Edge], now_ns: u64, after_ns: u64) -> Vec<IdleService> {
        let mut traffic: HashMap<(&str, &str), u64> = HashMap::new();
        for edge in edges.iter().filter(|edge| !is_probe(&edge.key.client)) {
            if let Some(name) = called_service(&edge.key.server) {
                let count = traffic.entry(name).or_default();
                *count = count.saturating_add(edge.requests).saturating_add(edge.bytes_sent).saturating_add(edge.bytes_received);
            }
        }
        let mut used = HashMap::with_capacity(self.used.len());
        let mut idle = Vec::new();
        for state in states.iter().filter(|state| state.is_here) {
            let count = traffic.get(&(&*state.name.namespace, &*state.name.name)).copied().unwrap_or(0);
            let mut known = self.used.get(&state.name).copied().unwrap_or_else(|| Use::of(count, now_ns));
            known.observe(count, now_ns);
            let idle_ns = now_ns.saturating_sub(known.at_ns);
            if idle_ns >= after_ns {
                idle.push(IdleService { server: party_of(&state.name), idle_ns });
            }
            used.insert(state.name.clone(), known);
        }
        self.used = used;
        idle.sort_unstable();
        idle
    }

    /// Who calls what nobody serves, sorted by Service and client; as many as there are such edges.
    pub fn unserved(&mut self, states: &[ServiceState], edges: &[Edge], now_ns: u64) -> Vec<UnservedService> {
        let mut calls: BTreeMap<(ServiceName, &Workload), u64> = BTreeMap::new();
        for edge in edges.iter().filter(|edge| edge.unserved_calls > 0) {
            if let Some((namespace, name)) = called_service(&edge.key.server) {
                let service = ServiceName { namespace: namespace.into(), name: name.into() };
                *calls.entry((service, &edge.key.client.workload)).or_default() += edge.unserved_calls;
            }
        }
        if calls.is_empty() {
            return Vec::new();
        }
        let states: HashMap<&ServiceName, bool> = states.iter().map(|state| (&state.name, state.is_unserved)).collect();
        let mut found = Vec::with_capacity(calls.len());
        for ((service, client), count) in calls {
            let known = self.called.entry((service.clone(), client.clone())).or_insert_with(|| Use::of(count, now_ns));
            known.observe(count, now_ns);
            let (calls, quiet_ns) = (known.count, now_ns.saturating_sub(known.at_ns));
            let is_unserved = states.get(&service).copied();
            found.push(UnservedService { service, client: client.clone(), calls, quiet_ns, is_unserved });
        }
        found
    }
}

/// Namespace and name of the Service that an edge's server was called by.
pub fn called_service(server: &Party) -> Option<(&str, &str)> {
    let namespace = server.workload.namespace.as_deref()?;
    let by_address = || (server.workload.kind == WorkloadKind::Service).then_some(&*server.workload.name);
    Some((namespace, server.service.as_deref().or_else(by_address)?))
}

fn party_of(service: &ServiceName) -> Party {
    let ServiceName { namespace, name } = service;
    let workload = Workload { namespace: Some(Arc::clone(namespace)), ..Workload::new(WorkloadKind::Service, Arc::clone(name)) };
    Party { service: Some(Arc::clone(name)), ..Party::new(workload) }
}

/// The client is the agent that Kubernetes has on each node, under one of the names that its distributions give it: it asks every pod
/// with a probe every few seconds, so by its requests nothing would ever be idle.
pub fn is_probe(client: &Party) -> bool {
    let workload = &client.workload;
    workload.namespace.is_none()
        && matches!(workload.kind, WorkloadKind::Process | WorkloadKind::Unit | WorkloadKind::Container)
        && matches!(&*workload.name, "kubelet" | "kubelite" | "k3s" | "k3s-server" | "k3s-agent" | "k0s")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Protocol, Side},
        service_map::{
            EdgeKey, Limits, ServiceMap, Snapshot,
            fixtures::{exchange, party, pod_party},
        },
    };

    fn state(name: &str, is_here: bool, is_unserved: bool) -> ServiceState {
        ServiceState { name: ServiceName { namespace: "shop".into(), name: name.into() }, is_here, is_unserved }
    }

    fn called(client: Party, service: &str) -> EdgeKey {
        EdgeKey { client, server: Party { service: Some(service.into()), ..pod_party("shop", "cart") }, protocol: Protocol::Http }
    }

    fn edges(map: &ServiceMap) -> Vec<Edge> {
        Snapshot::merge(0, [map.shard()], Vec::new()).edges
    }

    fn names(idle: &[IdleService]) -> Vec<(&str, u64)> {
        idle.iter().map(|service| (&*service.server.workload.name, service.idle_ns)).collect()
    }

    #[test]
    fn a_service_without_traffic_for_the_set_time_is_idle() {
        let mut map = ServiceMap::new(Limits::default());
        let mut watch = ServiceWatch::default();
        let states = [state("cart", true, false), state("old", true, false), state("elsewhere", false, false)];
        let edge = map.intern(&called(pod_party("shop", "web"), "cart"));
        assert_eq!(watch.idle(&states, &edges(&map), 100, 50), []);
        map.record(edge, Side::Client, &exchange(1));
        assert_eq!(names(&watch.idle(&states, &edges(&map), 149, 50)), []);
        assert_eq!(names(&watch.idle(&states, &edges(&map), 150, 50)), [("old", 50)]);
        assert_eq!(names(&watch.idle(&states, &edges(&map), 199, 50)), [("cart", 50), ("old", 99)]);
        // Bytes that nobody understands are traffic, too.
        map.bytes(edge, Side::Client, 1, 0);
        let idle = watch.idle(&states, &edges(&map), 200, 50);
        assert_eq!(names(&idle), [("old", 100)]);
        let server = &idle[0].server;
        assert_eq!((server.workload.namespace.as_deref(), server.service.as_deref()), (Some("shop"), Some("old")));
    }

    #[test]
    fn what_the_nodes_agent_asks_is_no_traffic() {
        let mut map = ServiceMap::new(Limits::default());
        let mut watch = ServiceWatch::default();
        let states = [state("cart", true, false)];
        let probe = map.intern(&called(party("kubelet"), "cart"));
        for now_ns in [0, 50, 99] {
            map.record(probe, Side::Client, &exchange(1));
            assert_eq!(names(&watch.idle(&states, &edges(&map), now_ns, 100)), []);
        }
        map.record(probe, Side::Client, &exchange(1));
        assert_eq!(names(&watch.idle(&states, &edges(&map), 100, 100)), [("cart", 100)]);
        assert!(!is_probe(&pod_party("shop", "kubelet")), "a pod of that name is somebody else");
    }

    #[test]
    fn a_service_that_left_begins_anew_when_it_comes_back() {
        let mut watch = ServiceWatch::default();
        let here = [state("cart", true, false)];
        watch.idle(&here, &[], 0, 10);
        assert_eq!(watch.idle(&[], &[], 20, 10), []);
        assert_eq!(watch.idle(&here, &[], 30, 10), []);
        assert_eq!(names(&watch.idle(&here, &[], 40, 10)), [("cart", 10)]);
    }

    #[test]
    fn calls_in_vain_are_listed_by_service_and_client() {
        let mut map = ServiceMap::new(Limits::default());
        let mut watch = ServiceWatch::default();
        let service = Party::new(Workload { namespace: Some("shop".into()), ..Workload::new(WorkloadKind::Service, "gone") });
        let by_address = EdgeKey { client: pod_party("shop", "web"), server: service, protocol: Protocol::Unknown };
        let gone = map.intern(&by_address);
        let served = map.intern(&called(pod_party("shop", "web"), "cart"));
        map.record(served, Side::Client, &exchange(1));
        (0..3).for_each(|_| map.unserved(gone, Side::Client));
        assert_eq!(watch.unserved(&[state("gone", false, true)], &edges(&map), 10).len(), 1);
        let found = watch.unserved(&[state("gone", false, false)], &edges(&map), 25);
        let [only] = &found[..] else { panic!("{found:?}") };
        assert_eq!((&*only.service.name, &*only.client.name, only.calls, only.quiet_ns), ("gone", "web", 3, 15));
        assert_eq!(only.is_unserved, Some(false));
        map.unserved(gone, Side::Client);
        let found = watch.unserved(&[], &edges(&map), 40);
        assert_eq!((found[0].calls, found[0].quiet_ns, found[0].is_unserved), (4, 0, None));
    }
}
