use std::sync::Arc;

use super::*;
use crate::{
    export::{fixtures::published, json},
    model::{Exchange, Side},
    service_map::{
        Limits, ServiceMap, Snapshot,
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
    let http = r#"{client="curl",server="nginx",server_address="nginx",server_port="80",http_request_method="GET",http_route="/slow",http_response_status_code="503",error_type="503"}"#;
    assert_eq!(value(&text, &format!("http_server_request_duration_seconds_count{http}")), 3.0);
    assert_eq!(value(&text, &format!("http_client_request_duration_seconds_sum{http}")), 2.7);
    let db = r#"client="nginx",server="postgres",server_address="postgres",server_port="5432",db_system_name="postgresql",db_operation_name="SELECT",error_type="42P01""#;
    assert_eq!(value(&text, &format!("db_client_operation_duration_seconds_count{{{db}}}")), 3.0);
    assert_eq!(value(&text, &format!("db_client_operation_duration_seconds_bucket{{le=\"0.00025\",{db}}}")), 0.0);
    assert_eq!(value(&text, &format!("db_client_operation_duration_seconds_bucket{{le=\"0.0005\",{db}}}")), 3.0);

    let graph = r#"{client="curl",server="nginx",connection_type=""}"#;
    assert_eq!(value(&text, &format!("traces_service_graph_request_total{graph}")), 24.0);
    assert_eq!(value(&text, &format!("traces_service_graph_request_failed_total{graph}")), 3.0);
    assert_eq!(value(&text, &format!("traces_service_graph_request_server_seconds_count{graph}")), 24.0);
    assert!(text.contains(r#"traces_service_graph_request_total{client="nginx",server="postgres",connection_type="database"} 6"#));

    let failed = r#"remora_tcp_connections_failed_total{client="backup",server="private-address",error="ECONNREFUSED"}"#;
    assert_eq!(value(&text, failed), 3.0);
    assert_eq!(value(&text, r#"remora_tcp_sent_bytes_total{client="curl",server="nginx"}"#), 2_400.0);
    assert_eq!(value(&text, r#"remora_self_lost_total{reason="ring_full"}"#), 0.0);
    assert_eq!(value(&text, r#"remora_self_bpf_run_time_seconds_total{program="on_send"}"#), 0.0004);
    assert_eq!(value(&text, r#"remora_idle_service{server="php",server_port="9000"}"#), 1.0);
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
    let graph = r#"client="curl",server="nginx",connection_type="""#;
    let bucket = |le: &str| value(&text, &format!("traces_service_graph_request_client_seconds_bucket{{le=\"{le}\",{graph}}}"));
    assert_eq!((bucket("0.0005"), bucket("0.01"), bucket("1.0"), bucket("+Inf")), (0.0, 14.0, 16.0, 16.0));
}

#[test]
fn series_beyond_the_limit_share_one_and_never_take_anothers_place() {
    let metrics = Metrics::new(3);
    let sample = |client: &str| format!("traces_service_graph_request_total{{client=\"{client}\",server=\"nginx\",connection_type=\"\"}}");
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
    assert!(text.contains(r#"traces_service_graph_request_total{client="a\"b\\c\nd",server="nginx",connection_type=""} 1"#), "{text}");
}

#[test]
fn the_page_of_metrics_lists_every_family_and_no_other() {
    let page = include_str!("../../../docs/metrics.md");
    let mut documented: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, rest)| (name.to_owned(), rest.trim_start_matches(" |").trim().split(" | ").next().unwrap_or_default().to_owned()))
        .collect();
    let mut exported: Vec<_> = ALL.iter().map(|family| (family.full_name(), format!("{:?}", family.kind).to_lowercase())).collect();
    documented.sort();
    exported.sort();
    assert_eq!(documented, exported);
    for family in ALL {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{}`", family.full_name()))).unwrap();
        assert!(row.contains(family.help), "{row}\nlacks: {}", family.help);
        for label in family.labels {
            assert!(row.contains(&format!("`{label}`")), "{row}\nlacks: {label}");
        }
    }
}

/// Not a check by itself: leaves a page for a parser of another make (`OPENMETRICS_PAGE=/tmp/page cargo test writes_a_page`).
#[test]
fn writes_a_page_for_a_parser_of_another_make() {
    let Some(path) = std::env::var_os("OPENMETRICS_PAGE") else { return };
    let mut line = Vec::new();
    json::edge(&mut line, &published(1).snapshot.edges[0]);
    std::fs::write(path, Metrics::new(2).encode(&published(5)).unwrap()).unwrap();
}
