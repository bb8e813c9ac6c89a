//! The service map as one object: edges, and what can be read from them about namespaces, workloads, and what leaves the cluster.

use std::cmp::Reverse;

use super::{Edge, Snapshot, by_protocol, edge_members, list, party, present, resources, text::Object};
use crate::{
    model::{Party, Workload},
    service_map::{IdleService, Traffic, UnservedService, traffic},
};

/// Entries of each list but that of edges, which has its own bound; `left_out` tells of more.
const ENTRIES_MAX: usize = 1_000;

/// What of the map is wanted: all that has these at one of its ends, at the same end where both are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub namespace: Option<String>,
    pub workload: Option<String>,
}

impl Filter {
    fn takes(&self, workload: &Workload) -> bool {
        traffic::is_named(workload, self.namespace.as_deref(), self.workload.as_deref())
    }

    fn takes_edge(&self, edge: &Edge) -> bool {
        self.takes(&edge.key.client.workload) || self.takes(&edge.key.server.workload)
    }
}

/// Appends the service map as one object without a line's end: edges with their busiest resources, what is idle, called in vain, flows
/// between namespaces and leaves the cluster, and the workloads that were met.
pub fn service_map(out: &mut Vec<u8>, snapshot: &Snapshot, filter: &Filter) {
    let mut map = Object::new(out);
    map.number("exchanges", snapshot.exchanges);
    by_protocol(map.key("by_protocol"), snapshot);
    let edges: Vec<_> = snapshot.edges.iter().filter(|edge| filter.takes_edge(edge)).collect();
    list(map.key("edges"), &edges, |out, edge| {
        let mut object = Object::new(out);
        edge_members(&mut object, edge);
        resources(object.key("resources"), edge);
        object.end();
    });
    let mut left_out = Vec::new();
    idle(&mut map, snapshot, filter, &mut left_out);
    unserved(&mut map, snapshot, filter, &mut left_out);
    namespaces(&mut map, &edges, &mut left_out);
    egress(&mut map, &edges, &mut left_out);
    workloads(&mut map, snapshot, filter, &mut left_out);
    map.number("folded_edges", snapshot.folded_edges);
    let mut counts = Object::new(map.key("left_out"));
    left_out.iter().filter(|(_, count)| *count > 0).for_each(|(name, count)| counts.number(name, *count));
    counts.end();
    map.end();
}

/// How many entries of a list had no place in it.
type LeftOut = Vec<(&'static str, u64)>;

/// Writes the first entries as the member `name`, and notes how many there are beyond.
fn bounded<T>(map: &mut Object<'_>, name: &'static str, items: Vec<T>, left_out: &mut LeftOut, write: impl Fn(&mut Object<'_>, T)) {
    left_out.push((name, items.len().saturating_sub(ENTRIES_MAX) as u64));
    list(map.key(name), items.into_iter().take(ENTRIES_MAX), |out, item| {
        let mut object = Object::new(out);
        write(&mut object, item);
        object.end();
    });
}

fn idle(map: &mut Object<'_>, snapshot: &Snapshot, filter: &Filter, left_out: &mut LeftOut) {
    let idle: Vec<_> = snapshot.idle.iter().filter(|service| filter.takes(&service.server.workload)).collect();
    bounded(map, "idle", idle, left_out, |object, IdleService { server, idle_ns }| {
        party(object.key("server"), &server.into());
        object.number("idle_ns", *idle_ns);
    });
}

fn unserved(map: &mut Object<'_>, snapshot: &Snapshot, filter: &Filter, left_out: &mut LeftOut) {
    let takes = |unserved: &&UnservedService| {
        let UnservedService { service, client, .. } = unserved;
        let is_namespace = filter.namespace.as_deref().is_none_or(|namespace| namespace == &*service.namespace);
        let is_name = filter.workload.as_deref().is_none_or(|name| name == &*service.name);
        filter.takes(client) || (is_namespace && is_name)
    };
    let mut calls: Vec<_> = snapshot.unserved.iter().filter(takes).collect();
    calls.sort_by_key(|unserved| unserved.quiet_ns);
    bounded(map, "unserved", calls, left_out, |object, unserved| {
        object.string("namespace", &unserved.service.namespace);
        object.string("service", &unserved.service.name);
        party(object.key("client"), &(&Party::new(unserved.client.clone())).into());
        object.number("calls", unserved.calls);
        object.number("last_call_ns_ago", unserved.quiet_ns);
        match unserved.is_unserved {
            Some(is_unserved) => object.boolean("still_unserved", is_unserved),
            None => object.key("still_unserved").extend_from_slice(b"null"),
        }
    });
}

fn namespaces(map: &mut Object<'_>, edges: &[&Edge], left_out: &mut LeftOut) {
    let mut pairs: Vec<_> = traffic::between_namespaces(edges.iter().copied()).into_iter().collect();
    pairs.sort_by_key(|(pair, traffic)| (Reverse(traffic.bytes()), *pair));
    bounded(map, "namespaces", pairs, left_out, |object, ((client, server), traffic)| {
        object.optional_string("client_namespace", client);
        object.optional_string("server_namespace", server);
        traffic_members(object, &traffic);
    });
}

fn egress(map: &mut Object<'_>, edges: &[&Edge], left_out: &mut LeftOut) {
    let mut pairs: Vec<_> = traffic::egress(edges.iter().copied()).into_iter().collect();
    pairs.sort_by_key(|(pair, traffic)| (Reverse(traffic.bytes()), *pair));
    bounded(map, "egress", pairs, left_out, |object, ((client, server), traffic)| {
        party(object.key("client"), &(&Party::new(client.clone())).into());
        party(object.key("server"), &(&Party::new(server.clone())).into());
        traffic_members(object, &traffic);
    });
}

fn workloads(map: &mut Object<'_>, snapshot: &Snapshot, filter: &Filter, left_out: &mut LeftOut) {
    let mut met = snapshot.workloads.sorted();
    met.retain(|(workload, _)| filter.takes(workload));
    bounded(map, "workloads", met, left_out, |object, (workload, met)| {
        object.string("name", &workload.name);
        object.plain("kind", workload.kind.name());
        for (name, text) in [("namespace", &workload.namespace), ("release", &met.release), ("chart", &met.chart)] {
            present(object, name, text);
        }
        object.number("replicas_seen", met.replicas_seen() as u64);
        let mut labels = Object::new(object.key("labels"));
        met.labels.iter().for_each(|(key, value)| labels.label(key, value));
        labels.end();
    });
    if let Some((_, count)) = left_out.last_mut() {
        *count += snapshot.workloads.left_out();
    }
}

fn traffic_members(object: &mut Object<'_>, traffic: &Traffic) {
    object.number("requests", traffic.requests);
    object.number("errors", traffic.errors);
    object.number("bytes_sent", traffic.bytes_sent);
    object.number("bytes_received", traffic.bytes_received);
}
