//! Edges seen from further away: what flows between namespaces, and what leaves the cluster.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::Edge;
use crate::model::{Party, Workload, WorkloadKind};

/// Requests and bytes of some edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub requests: u64,
    pub errors: u64,
    /// From client to server.
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

impl Traffic {
    pub fn of(edge: &Edge) -> Self {
        Self { requests: edge.requests, errors: edge.errors, bytes_sent: edge.bytes_sent, bytes_received: edge.bytes_received }
    }

    /// Both ways.
    pub fn bytes(&self) -> u64 {
        self.bytes_sent.saturating_add(self.bytes_received)
    }

    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.bytes_sent = self.bytes_sent.saturating_add(other.bytes_sent);
        self.bytes_received = self.bytes_received.saturating_add(other.bytes_received);
    }
}

/// The namespaces of an edge's client and server; `None` is what is in none. An edge of which neither end is in one has no such pair.
pub fn namespaces_of(edge: &Edge) -> Option<NamespacePair<'_>> {
    let pair = (edge.key.client.workload.namespace.as_deref(), edge.key.server.workload.namespace.as_deref());
    (pair != (None, None)).then_some(pair)
}

/// Client's and server's namespace.
pub type NamespacePair<'a> = (Option<&'a str>, Option<&'a str>);

/// Traffic between namespaces, by client's and server's.
pub fn between_namespaces<'a>(edges: impl IntoIterator<Item = &'a Edge>) -> BTreeMap<NamespacePair<'a>, Traffic> {
    let mut pairs: BTreeMap<_, Traffic> = BTreeMap::new();
    for (edge, pair) in edges.into_iter().filter_map(|edge| Some((edge, namespaces_of(edge)?))) {
        pairs.entry(pair).or_default().add(Traffic::of(edge));
    }
    pairs
}

/// The edge leaves the cluster, or the host where that is in none: its client is a pod or a program of this host, and its server a name
/// or a public address that is nobody's here. Private addresses are not counted: a network of one's own begins with them.
pub fn is_egress(edge: &Edge) -> bool {
    is_inside(&edge.key.client.workload) && is_outside(&edge.key.server)
}

/// Traffic out of the cluster by client and server, whatever the port and protocol.
pub fn egress<'a>(edges: impl IntoIterator<Item = &'a Edge>) -> BTreeMap<(&'a Workload, &'a Workload), Traffic> {
    let mut pairs: BTreeMap<_, Traffic> = BTreeMap::new();
    for edge in edges.into_iter().filter(|edge| is_egress(edge)) {
        pairs.entry((&edge.key.client.workload, &edge.key.server.workload)).or_default().add(Traffic::of(edge));
    }
    pairs
}

fn is_inside(client: &Workload) -> bool {
    !matches!(client.kind, WorkloadKind::Domain | WorkloadKind::Address | WorkloadKind::Node | WorkloadKind::Other)
}

fn is_outside(server: &Party) -> bool {
    match server.workload.kind {
        WorkloadKind::Domain => true,
        WorkloadKind::Address => server.address.is_some_and(|address| Reach::of(address) == Reach::Public),
        _ => false,
    }
}

/// How far an address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Loopback,
    Private,
    Public,
}

impl Reach {
    pub fn of(address: IpAddr) -> Self {
        let (loopback, private) = match address {
            IpAddr::V4(v4) => (v4.is_loopback(), v4.is_private() || v4.is_link_local() || is_shared(v4)),
            IpAddr::V6(v6) => (v6.is_loopback(), v6.is_unique_local() || v6.is_unicast_link_local()),
        };
        match (loopback, private) {
            (true, _) => Reach::Loopback,
            (_, true) => Reach::Private,
            _ if address.is_unspecified() || address.is_multicast() => Reach::Private,
            _ => Reach::Public,
        }
    }
}

/// RFC 6598: the address space behind a carrier's NAT, which clusters use for pods, too.
fn is_shared(address: std::net::Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 100 && second & 0xc0 == 64
}

/// Names a namespace's workload: what [`Workload`] is without its kind.
pub fn is_named(workload: &Workload, namespace: Option<&str>, name: Option<&str>) -> bool {
    let same = |wanted: Option<&str>, own: Option<&Arc<str>>| wanted.is_none_or(|wanted| own.is_some_and(|own| **own == *wanted));
    same(namespace, workload.namespace.as_ref()) && same(name, Some(&workload.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Exchange, Protocol, Side},
        service_map::{
            EdgeKey, Limits, ServiceMap, Snapshot,
            fixtures::{exchange, party, pod_party},
        },
    };

    fn edges(pairs: &[(Party, Party)]) -> Vec<Edge> {
        let mut map = ServiceMap::new(Limits::default());
        for (client, server) in pairs {
            let edge = map.intern(&EdgeKey { client: client.clone(), server: server.clone(), protocol: Protocol::Http });
            map.record(edge, Side::Client, &exchange(1_000));
            map.record(edge, Side::Client, &Exchange { error: true, ..exchange(1_000) });
            map.bytes(edge, Side::Client, 10, 100);
        }
        Snapshot::merge(0, [map.shard()], Vec::new()).edges
    }

    fn address(address: [u8; 4]) -> Party {
        Party { address: Some(address.into()), ..Party::new(Workload::of_address(address.into())) }
    }

    fn domain(name: &str) -> Party {
        Party::new(Workload::of_domain(name.into()))
    }

    #[test]
    fn edges_between_the_same_namespaces_are_one_pair() {
        let edges = edges(&[
            (pod_party("shop", "web"), pod_party("shop", "cart")),
            (pod_party("shop", "web"), pod_party("data", "postgres")),
            (pod_party("shop", "cart"), pod_party("data", "postgres")),
            (address([10, 0, 0, 9]), pod_party("shop", "web")),
            (party("curl"), party("nginx")),
        ]);
        let pairs: Vec<_> =
            between_namespaces(&edges).into_iter().map(|(pair, traffic)| (pair, traffic.requests, traffic.bytes())).collect();
        let (shop, data) = (Some("shop"), Some("data"));
        assert_eq!(pairs, [((None, shop), 2, 110), ((shop, data), 4, 220), ((shop, shop), 2, 110)]);
    }

    #[test]
    fn what_leaves_goes_to_a_name_or_a_public_address() {
        let web = || pod_party("shop", "web");
        let leaving = [domain("api.pay.test"), address([93, 184, 216, 34])];
        let staying =
            [address([10, 0, 0, 1]), address([100, 64, 1, 1]), address([127, 0, 0, 1]), pod_party("data", "postgres"), party("nginx")];
        let servers = leaving.iter().chain(&staying);
        let mut pairs: Vec<_> = servers.map(|server| (web(), server.clone())).collect();
        // Who comes from outside does not leave, even to a name.
        pairs.extend([(address([93, 184, 216, 34]), domain("api.pay.test")), (party("curl"), domain("api.pay.test"))]);
        let edges = edges(&pairs);
        let found: Vec<_> =
            egress(&edges).into_iter().map(|((client, server), traffic)| (&*client.name, &*server.name, traffic.errors)).collect();
        let expected = [("web", "api.pay.test", 1), ("web", "93.184.216.34", 1), ("curl", "api.pay.test", 1)];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        assert!(expected.iter().all(|pair| found.contains(pair)), "{found:?}");
    }

    #[test]
    fn a_workload_is_chosen_by_namespace_and_name() {
        let web = pod_party("shop", "web").workload;
        for (namespace, name, is_chosen) in [
            (None, None, true),
            (Some("shop"), None, true),
            (Some("data"), None, false),
            (None, Some("web"), true),
            (Some("shop"), Some("cart"), false),
        ] {
            assert_eq!(is_named(&web, namespace, name), is_chosen, "{namespace:?} {name:?}");
        }
        assert!(!is_named(&party("web").workload, Some("shop"), Some("web")));
    }
}
