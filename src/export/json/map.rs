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

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::{
        export::fixtures::{cluster, published},
        model::{Protocol, Side},
        service_map::{
            EdgeKey, Limits, ServiceMap,
            fixtures::{exchange, pod_party},
        },
    };

    fn map(snapshot: &Snapshot, namespace: &str, workload: &str) -> Json {
        let chosen = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let mut out = Vec::new();
        service_map(&mut out, snapshot, &Filter { namespace: chosen(namespace), workload: chosen(workload) });
        serde_json::from_slice(&out).unwrap()
    }

    fn names<'a>(list: &'a Json, of: impl Fn(&'a Json) -> &'a Json) -> Vec<&'a str> {
        list.as_array().unwrap().iter().map(|item| of(item).as_str().unwrap()).collect()
    }

    #[test]
    fn a_cluster_is_seen_from_near_and_from_afar() {
        let map = map(&cluster(false).snapshot, "", "");
        let cart = map["edges"].as_array().unwrap().iter().find(|edge| edge["server"]["name"] == "cart").unwrap();
        assert_eq!(
            (&cart["server"]["name"], &cart["server"]["namespace"], &cart["server"]["service"]),
            (&json!("cart"), &json!("shop"), &json!("cart-api"))
        );
        assert_eq!(
            (&cart["server"]["release"], &cart["server"]["chart"], cart["server"].get("pod")),
            (&json!("shop"), &json!("shop-1.2"), None)
        );
        let flow = |client: Json, server: Json, requests: u64, sent: u64, received: u64| {
            json!({
                "client_namespace": client, "server_namespace": server, "requests": requests, "errors": 0,
                "bytes_sent": sent, "bytes_received": received,
            })
        };
        let flows = [
            flow(json!("shop"), json!("data"), 1, 100, 1_000),
            flow(json!("shop"), json!("shop"), 1, 100, 1_000),
            flow(json!("shop"), Json::Null, 0, 50, 500),
        ];
        assert_eq!(map["namespaces"], json!(flows));
        let [egress] = &map["egress"].as_array().unwrap()[..] else { panic!("{map:#}") };
        assert_eq!(
            (&egress["client"]["name"], &egress["server"]["name"], &egress["bytes_received"]),
            (&json!("web"), &json!("api.pay.test"), &json!(500))
        );
        assert_eq!(egress["server"]["kind"], "domain");
        assert_eq!(map["left_out"], json!({}));
    }

    #[test]
    fn services_and_workloads_are_listed() {
        let map = map(&cluster(false).snapshot, "", "");
        let legacy = json!({
            "address": null, "port": null, "name": "legacy", "kind": "service", "container_id": null, "namespace": "shop",
            "service": "legacy",
        });
        assert_eq!(map["idle"], json!([{"server": legacy, "idle_ns": 400_000_000_000u64}]));
        let [gone] = &map["unserved"].as_array().unwrap()[..] else { panic!("{map:#}") };
        assert_eq!((&gone["namespace"], &gone["service"], &gone["client"]["name"]), (&json!("shop"), &json!("gone"), &json!("web")));
        assert_eq!((&gone["calls"], &gone["last_call_ns_ago"], &gone["still_unserved"]), (&json!(1), &json!(0), &json!(true)));
        let web = json!({
            "name": "web", "kind": "deployment", "namespace": "shop", "release": "shop", "chart": "shop-1.2", "replicas_seen": 2,
            "labels": {"app.kubernetes.io/part-of": "shop"},
        });
        assert_eq!(names(&map["workloads"], |workload| &workload["name"]), ["cart", "postgres", "web"]);
        assert_eq!(map["workloads"][2], web);
    }

    #[test]
    fn a_namespace_or_a_workload_is_all_that_has_it_at_one_end() {
        let cluster = cluster(false);
        let servers = |namespace, workload| -> Vec<String> {
            let map = map(&cluster.snapshot, namespace, workload);
            let mut servers: Vec<_> = names(&map["edges"], |edge| &edge["server"]["name"]).into_iter().map(str::to_owned).collect();
            servers.sort_unstable();
            servers
        };
        assert_eq!(servers("data", ""), ["postgres"]);
        assert_eq!(servers("", "cart"), ["cart", "postgres"]);
        assert_eq!(servers("shop", "postgres"), [""; 0], "no end is both");
        assert_eq!(servers("shop", "").len(), 4);
        let data = map(&cluster.snapshot, "data", "");
        assert_eq!(
            (names(&data["workloads"], |workload| &workload["name"]), data["namespaces"].as_array().map(Vec::len)),
            (vec!["postgres"], Some(1))
        );
        assert_eq!((&data["idle"], &data["unserved"], &data["egress"]), (&json!([]), &json!([]), &json!([])));
        let gone = map(&cluster.snapshot, "", "gone");
        assert_eq!(names(&gone["unserved"], |call| &call["service"]), ["gone"]);
        assert_eq!(gone["exchanges"], json!(2), "totals are of the whole");
    }

    #[test]
    fn pods_are_told_apart_where_edges_do() {
        let map = map(&cluster(true).snapshot, "", "cart");
        let cart = &map["edges"][1]["server"];
        assert_eq!((&cart["pod"], &cart["node"], &cart["labels"]["pod"]), (&json!("cart-77-b"), &json!("node-1"), &json!("cart-77-b")));
    }

    #[test]
    fn a_host_without_a_cluster_has_the_same_lists() {
        let map = map(&published(1).snapshot, "", "");
        assert_eq!((&map["namespaces"], &map["unserved"], &map["egress"]), (&json!([]), &json!([]), &json!([])));
        assert_eq!(names(&map["idle"], |service| &service["server"]["kind"]), ["process"]);
        assert_eq!(names(&map["workloads"], |workload| &workload["name"]), [""; 0]);
    }

    #[test]
    fn lists_are_bounded_and_say_so() {
        let mut service_map = ServiceMap::new(Limits::default());
        for n in 0..ENTRIES_MAX + 5 {
            let server = Party::new(Workload::of_domain(format!("name-{n}.test").into()));
            let edge = service_map.intern(&EdgeKey { client: pod_party("shop", "web"), server, protocol: Protocol::Tls });
            service_map.record(edge, Side::Client, &exchange(1));
            service_map.bytes(edge, Side::Client, n as u64, 0);
        }
        let map = map(&Snapshot::merge(0, [service_map.shard()], Vec::new()), "", "");
        assert_eq!((map["egress"].as_array().map(Vec::len), &map["left_out"]), (Some(ENTRIES_MAX), &json!({"egress": 5})));
        assert_eq!(map["egress"][0]["server"]["name"], format!("name-{}.test", ENTRIES_MAX + 4), "the busiest come first");
    }
}
