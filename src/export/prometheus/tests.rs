use std::{net::Ipv4Addr, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    export::{
        fixtures::{cluster, lasting, pod, published},
        json,
    },
    model::{Exchange, Party, Protocol, Side, Workload},
    service_map::{
        EdgeKey, Limits, ServiceMap, Snapshot,
        fixtures::{exchange, key},
    },
};

/// The value of the sample whose name and labels are exactly these.
fn value(text: &str, sample: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {sample} in\n{text}")).parse().unwrap()
}

fn many_edges(count: u64) -> Published {
    let mut map = ServiceMap::new(Limits::default());
    for n in 0..count {
        // Later clients sort before earlier ones: they must not take their places.
        let edge = map.intern(&key(&format!("client-{:04}", 9_999 - n), "nginx"));
        map.record(edge, Side::Client, &exchange(1_000));
    }
    Published { snapshot: Arc::new(Snapshot::merge(0, [map.shard()], Vec::new())), ..Published::default() }
}

#[test]
fn requests_are_counted_under_the_names_of_the_contract() {
    let text = Metrics::default().encode(&published(3)).unwrap();
    let http = r#"{client="curl",server="nginx",server_address="nginx",server_port="80",http_request_method="GET",http_route="/slow",http_response_status_code="503",error_type="503",client_kind="process",server_kind="process"}"#;
    assert_eq!(value(&text, &format!("http_server_request_duration_seconds_count{http}")), 3.0);
    assert_eq!(value(&text, &format!("http_client_request_duration_seconds_sum{http}")), 2.7);
    let db = r#"client="nginx",server="postgres",server_address="postgres",server_port="5432",db_system_name="postgresql",db_operation_name="SELECT",error_type="42P01",client_kind="process",server_kind="process""#;
    assert_eq!(value(&text, &format!("db_client_operation_duration_seconds_count{{{db}}}")), 3.0);
    assert_eq!(value(&text, &format!("db_client_operation_duration_seconds_bucket{{le=\"0.00025\",{db}}}")), 0.0);
    assert_eq!(value(&text, &format!("db_client_operation_duration_seconds_bucket{{le=\"0.0005\",{db}}}")), 3.0);

    let graph = r#"{client="curl",server="nginx",connection_type="",client_kind="process",server_kind="process"}"#;
    assert_eq!(value(&text, &format!("traces_service_graph_request_total{graph}")), 24.0);
    assert_eq!(value(&text, &format!("traces_service_graph_request_failed_total{graph}")), 3.0);
    assert_eq!(value(&text, &format!("traces_service_graph_request_server_seconds_count{graph}")), 24.0);
    assert!(text.contains(r#"traces_service_graph_request_total{client="nginx",server="postgres",connection_type="database","#), "{text}");

    let failed = r#"remora_tcp_connections_failed_total{client="backup",server="private-address",error="ECONNREFUSED",client_kind="process",server_kind="address"}"#;
    assert_eq!(value(&text, failed), 3.0);
    assert_eq!(
        value(&text, r#"remora_tcp_sent_bytes_total{client="curl",server="nginx",client_kind="process",server_kind="process"}"#),
        2_400.0
    );
    assert_eq!(value(&text, r#"remora_self_lost_total{reason="ring_full"}"#), 0.0);
    assert_eq!(value(&text, r#"remora_self_bpf_run_time_seconds_total{program="on_send"}"#), 0.0004);
    assert_eq!(value(&text, r#"remora_idle_service{server="php",server_port="9000",kind="process"}"#), 1.0);
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn no_label_holds_an_address_or_a_value_of_a_path() {
    let mut map = ServiceMap::new(Limits::default());
    let edge = map.intern(&key("curl", "nginx"));
    map.record(edge, Side::Server, &Exchange { resource: "/cart/4711/items", ..exchange(1_000) });
    let snapshot = Arc::new(Snapshot::merge(0, [map.shard()], Vec::new()));
    let text =
        Metrics::default().encode(&Published { snapshot, ..published(1) }).unwrap() + &Metrics::default().encode(&published(1)).unwrap();
    assert!(text.contains(r#"http_route="/cart/{id}/items""#), "{text}");
    for secret in ["10.1.2.3", "4711", "SELECT ?"] {
        assert!(!text.contains(secret), "{secret} in\n{text}");
    }
}

#[test]
fn buckets_end_with_all_values() {
    let text = Metrics::default().encode(&published(2)).unwrap();
    let graph = r#"client="curl",server="nginx",connection_type="",client_kind="process",server_kind="process""#;
    let bucket = |le: &str| value(&text, &format!("traces_service_graph_request_client_seconds_bucket{{le=\"{le}\",{graph}}}"));
    assert_eq!((bucket("0.0005"), bucket("0.01"), bucket("1.0"), bucket("+Inf")), (0.0, 14.0, 16.0, 16.0));
}

#[test]
fn series_beyond_the_limit_share_one_and_never_take_anothers_place() {
    let metrics = Metrics::new(3);
    let kinds = r#"client_kind="process",server_kind="process""#;
    let sample =
        |client: &str| format!("traces_service_graph_request_total{{client=\"{client}\",server=\"nginx\",connection_type=\"\",{kinds}}}");
    let overflow = r#"traces_service_graph_request_total{client="other",server="other",connection_type="other"}"#;
    let folded = r#"remora_self_folded_series_total{family="traces_service_graph_request"}"#;

    let first = metrics.encode(&many_edges(3)).unwrap();
    assert!(!first.contains(overflow) && !first.contains(folded));
    let second = metrics.encode(&many_edges(10)).unwrap();
    for n in [9_999, 9_998, 9_997] {
        assert_eq!(value(&second, &sample(&format!("client-{n}"))), 1.0);
    }
    assert_eq!((value(&second, overflow), value(&second, folded)), (7.0, 7.0));
    assert!(!second.contains("client-9990"));
}

#[test]
fn the_folded_count_is_never_folded_itself() {
    let text = Metrics::new(1).encode(&many_edges(5)).unwrap();
    let folded: Vec<_> = text.lines().filter(|line| line.starts_with("remora_self_folded_series_total")).collect();
    assert!(folded.len() > 3 && !folded.iter().any(|line| line.contains("\"other\"")), "{folded:?}");
}

#[test]
fn hostile_names_are_escaped() {
    let mut map = ServiceMap::new(Limits::default());
    let edge = map.intern(&key("a\"b\\c\nd", "nginx"));
    map.record(edge, Side::Client, &exchange(1_000));
    let snapshot = Arc::new(Snapshot::merge(0, [map.shard()], Vec::new()));
    let text = Metrics::default().encode(&Published { snapshot, ..Published::default() }).unwrap();
    assert!(text.contains(r#"traces_service_graph_request_total{client="a\"b\\c\nd",server="nginx",connection_type="","#), "{text}");
}

#[test]
fn the_page_of_metrics_lists_every_family_and_no_other() {
    let page = include_str!("../../../docs/metrics.md");
    let mut documented: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, rest)| (name.to_owned(), rest.trim_start_matches(" |").trim().split(" | ").next().unwrap_or_default().to_owned()))
        // The other tables of the page.
        .filter(|(_, kind)| ["counter", "gauge", "histogram", "info"].contains(&kind.as_str()))
        .collect();
    let mut exported: Vec<_> = ALL.iter().map(|family| (family.full_name(), format!("{:?}", family.kind).to_lowercase())).collect();
    documented.sort();
    exported.sort();
    assert_eq!(documented, exported);
    for family in ALL {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{}`", family.full_name()))).unwrap();
        assert!(row.contains(family.help), "{row}\nlacks: {}", family.help);
        let has_ends = family.optional == families::ENDS;
        assert_eq!(row.contains("[ends](#both-ends)"), has_ends, "{row}");
        let optional = if has_ends { &[] } else { family.optional };
        for label in family.labels.iter().chain(optional) {
            assert!(row.contains(&format!("`{label}`")), "{row}\nlacks: {label}");
        }
    }
    for label in families::ENDS {
        assert!(page.contains(&format!("\n| `{label}` |")), "the page lacks {label}");
    }
}

/// Not a check by itself: leaves a page for a parser of another make (`OPENMETRICS_PAGE=/tmp/page cargo test writes_a_page`).
#[test]
fn writes_a_page_for_a_parser_of_another_make() {
    let Some(path) = std::env::var_os("OPENMETRICS_PAGE") else { return };
    let mut line = Vec::new();
    json::edge(&mut line, &published(1).snapshot.edges[0]);
    std::fs::write(&path, Metrics::new(2).encode(&published(5)).unwrap()).unwrap();
    let path = std::path::Path::new(&path).with_extension("cluster");
    std::fs::write(path, Metrics::default().encode(&cluster(true)).unwrap()).unwrap();
}

/// The samples of a family, whatever their labels.
fn samples<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))).collect()
}

#[test]
fn edges_of_a_cluster_have_namespaces_kinds_and_services() {
    let text = Metrics::default().encode(&cluster(false)).unwrap();
    let graph = samples(&text, "traces_service_graph_request_total");
    let cart = r#"traces_service_graph_request_total{client="web",server="cart",connection_type="",client_namespace="shop",server_namespace="shop",client_kind="deployment",server_kind="deployment",server_service="cart-api"} 1"#;
    assert!(graph.contains(&cart), "{graph:#?}");
    let sent = r#"remora_tcp_sent_bytes_total{client="web",server="api.pay.test",client_namespace="shop",client_kind="deployment",server_kind="domain"}"#;
    assert_eq!(value(&text, sent), 50.0);
    let info = r#"remora_workload_info{workload="web",namespace="shop",kind="deployment",release="shop",chart="shop-1.2"}"#;
    assert_eq!(value(&text, info), 1.0);
    assert!(!text.contains("_pod=") && !text.contains("_node=") && !text.contains("remora_pod_info"), "{text}");
}

#[test]
fn pods_and_nodes_are_labels_only_where_edges_tell_pods_apart() {
    let text = Metrics::default().encode(&cluster(true)).unwrap();
    let graph = samples(&text, "traces_service_graph_request_total");
    let ends = r#"client_pod="web-5f-a",server_pod="cart-77-b",client_node="node-1",server_node="node-1"} 1"#;
    assert!(graph.iter().any(|line| line.ends_with(ends)), "{graph:#?}");
    let pods = samples(&text, "remora_pod_info");
    assert_eq!(pods.len(), 3, "{pods:#?}");
    assert!(pods.contains(&r#"remora_pod_info{pod="postgres-0",namespace="data",node="node-1",workload="postgres",kind="deployment"} 1"#));
}

#[test]
fn what_crosses_borders_is_counted() {
    let text = Metrics::default().encode(&cluster(false)).unwrap();
    for (sample, expected) in [
        (r#"remora_namespace_requests_total{client_namespace="shop",server_namespace="data"}"#, 1.0),
        (r#"remora_namespace_bytes_total{client_namespace="shop",server_namespace="data"}"#, 1_100.0),
        (r#"remora_namespace_bytes_total{client_namespace="shop",server_namespace=""}"#, 550.0),
        (r#"remora_egress_bytes_total{client="web",client_namespace="shop",server="api.pay.test"}"#, 550.0),
    ] {
        assert_eq!(value(&text, sample), expected, "{sample}");
    }
    assert!(samples(&text, "remora_egress_requests_total").is_empty(), "nothing is understood of TLS");
}

#[test]
fn services_that_nobody_uses_or_nobody_serves_are_shown() {
    let text = Metrics::default().encode(&cluster(false)).unwrap();
    let idle = samples(&text, "remora_idle_service");
    assert_eq!(idle, [r#"remora_idle_service{server="legacy",server_port="",namespace="shop",service="legacy",kind="service"} 1"#]);
    let calls = samples(&text, "remora_service_unserved_calls_total");
    assert_eq!(calls, [r#"remora_service_unserved_calls_total{namespace="shop",service="gone",client="web",client_namespace="shop"} 1"#]);
}

#[test]
fn what_names_come_from_is_watched() {
    let text = Metrics::default().encode(&cluster(false)).unwrap();
    for (sample, expected) in [
        (r#"remora_self_kubernetes_synced{kind="pods"}"#, 0.0),
        (r#"remora_self_kubernetes_synced{kind="services"}"#, 1.0),
        (r#"remora_self_kubernetes_objects{kind="pods"}"#, 40.0),
        (r#"remora_self_kubernetes_watch_events_total{kind="pods"}"#, 7.0),
        (r#"remora_self_kubernetes_relists_total{kind="pods"}"#, 2.0),
        (r#"remora_self_kubernetes_silence_seconds{kind="pods"}"#, 180.0),
        (r#"remora_self_conntrack_lookups_total{outcome="found"}"#, 7.0),
        (r#"remora_self_conntrack_lookups_total{outcome="unknown"}"#, 2.0),
        (r#"remora_self_conntrack_lookups_total{outcome="failed"}"#, 1.0),
    ] {
        assert_eq!(value(&text, sample), expected, "{sample}");
    }
    let plain = Metrics::default().encode(&published(1)).unwrap();
    assert!(!plain.contains("kubernetes") && !plain.contains("conntrack"), "a plain host lacks nothing");
}

/// Every pod of a round talks to one of each other workload, and each to a pod whose workload is not known yet.
fn churn(map: &mut ServiceMap, round: usize, per_pod: bool) {
    let workloads = ["web", "cart", "pay", "mail", "stock"];
    let replica = |workload: usize| {
        let name = workloads[workload % workloads.len()];
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 0).to_bits() + (round * workloads.len() + workload) as u32);
        Party { address: Some(address.into()), ..pod("shop", name, &format!("{name}-{round}")) }
    };
    for (n, other) in [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)] {
        let (client, server) = (replica(n), replica(other));
        let address = server.address.unwrap();
        let unknown = Party { address: Some(address), ..Party::new(Workload::of_address(address)) };
        for party in [&client, &server] {
            map.meet(party, round as u64);
        }
        let seen = |party: &Party| if per_pod { party.clone() } else { lasting(party) };
        let mut servers = vec![Party { port: Some(80), service: Some("front".into()), ..seen(&server) }];
        // Rarely: an address that the cluster has not told of is an edge of its own.
        servers.extend(round.is_multiple_of(100).then_some(unknown));
        for server in servers {
            let edge = map.intern(&EdgeKey { client: seen(&client), server, protocol: Protocol::Http });
            map.opened(edge, Side::Client);
            map.record(edge, Side::Client, &exchange(1_000));
            map.bytes(edge, Side::Client, 10, 10);
        }
    }
}

/// Names and labels of all samples, without their values.
fn series(text: &str) -> Vec<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series.to_owned()).collect()
}

#[test]
fn ten_thousand_pods_of_five_workloads_leave_the_series_as_they_were() {
    let metrics = Metrics::default();
    let mut map = ServiceMap::new(Limits::default());
    let publish = |map: &ServiceMap| {
        let snapshot = Arc::new(Snapshot::merge(0, [map.shard()], Vec::new()));
        metrics.encode(&Published { snapshot, ..Published::default() }).unwrap()
    };
    churn(&mut map, 0, false);
    let first = series(&publish(&map));
    (1..2_000).for_each(|round| churn(&mut map, round, false));
    let text = publish(&map);
    assert_eq!(series(&text), first);
    assert!(!text.contains("10.244.") && !text.contains("web-"), "{text}");
    let requests = samples(&text, "remora_namespace_requests_total");
    assert!(
        requests.contains(&r#"remora_namespace_requests_total{client_namespace="shop",server_namespace="shop"} 10000"#),
        "{requests:?}"
    );
}

#[test]
fn pods_that_are_told_apart_are_folded_beyond_the_limit() {
    let metrics = Metrics::new(50);
    let mut map = ServiceMap::new(Limits::default());
    (0..500).for_each(|round| churn(&mut map, round, true));
    let snapshot = Arc::new(Snapshot::merge(0, [map.shard()], Vec::new()));
    let text = metrics.encode(&Published { snapshot, ..Published::default() }).unwrap();
    let graph = samples(&text, "traces_service_graph_request_total");
    let overflow = r#"traces_service_graph_request_total{client="other",server="other",connection_type="other"} "#;
    let folded = graph.iter().find_map(|line| line.strip_prefix(overflow)).unwrap();
    assert_eq!((graph.len(), folded.parse().unwrap_or(0) > 2_400), (51, true), "{folded}");
    assert!(!text.contains("10.244."), "addresses are no labels, told apart or not");
}

prop_compose! {
    /// Any end of an edge: a workload of five, one of its pods, an address or a name.
    fn any_party()(workload in 0..5usize, replica in any::<u32>(), kind in 0..4u8, service in any::<bool>()) -> Party {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() | (replica & 0x00ff_ffff)).into();
        match kind {
            0 => Party { address: Some(address), ..Party::new(Workload::of_address(address)) },
            1 => Party::new(Workload::of_domain(format!("name-{workload}.test").into())),
            _ => Party {
                address: Some(address),
                service: service.then(|| "front".into()),
                ..pod("shop", &format!("workload-{workload}"), &format!("workload-{workload}-{replica}"))
            },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn label_sets_are_bounded_by_workloads_whatever_the_pods(pairs in proptest::collection::vec((any_party(), any_party()), 1..300)) {
        let mut map = ServiceMap::new(Limits::default());
        for (client, server) in &pairs {
            map.meet(client, 0);
            let seen = |party: &Party| if party.workload.namespace.is_some() { lasting(party) } else { party.clone() };
            let edge = map.intern(&EdgeKey { client: seen(client), server: seen(server), protocol: Protocol::Http });
            map.record(edge, Side::Client, &exchange(1_000));
            map.bytes(edge, Side::Client, 1, 1);
        }
        let snapshot = Arc::new(Snapshot::merge(0, [map.shard()], Vec::new()));
        let text = Metrics::default().encode(&Published { snapshot, ..Published::default() }).unwrap();
        // Names of clients: five workloads, five domains and the kind of address. Servers have a Service besides, or none.
        let (clients, servers) = (5 + 5 + 1, 5 * 2 + 5 + 1);
        prop_assert!(samples(&text, "traces_service_graph_request_total").len() <= clients * servers);
        prop_assert!(samples(&text, "remora_tcp_sent_bytes_total").len() <= clients * servers);
        prop_assert!(samples(&text, "remora_workload_info").len() <= 5);
        // A bucket ends at 10.0, too.
        let words = ["client=\"10.", "server=\"10.", "_address=\"10.", "_pod="];
        prop_assert!(!words.iter().any(|word| text.contains(word)));
        let all = series(&text);
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        prop_assert_eq!(all.len(), different.len(), "a series is there once");
    }
}
