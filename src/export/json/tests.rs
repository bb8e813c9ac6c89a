use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;
use crate::{
    export::fixtures::{cluster, published},
    model::{Flags, Workload, WorkloadKind},
};

static CLIENT: LazyLock<Party> = LazyLock::new(|| Party {
    address: Some([10, 0, 200, 7].into()),
    port: Some(40_000),
    ..Party::new(Workload::new(WorkloadKind::Process, "curl"))
});

static SERVER: LazyLock<Party> = LazyLock::new(|| {
    let instance = Instance { container_id: Some("c0ffee".into()), ..Instance::default() };
    Party {
        address: Some(std::net::Ipv6Addr::LOCALHOST.into()),
        port: Some(80),
        instance: Some(Arc::new(instance)),
        ..Party::new(Workload::new(WorkloadKind::Container, "web"))
    }
});

fn request<'a>(attributes: &'a [(&'static str, Value<'a>)]) -> Exchange<'a> {
    Exchange {
        protocol: Protocol::Http,
        start_ns: 1_000,
        first_byte_ns: Some(1_200),
        end_ns: 1_900,
        operation: "GET",
        resource: "/a\"b\\c\n\u{1}é",
        status: "200",
        error: false,
        request_bytes: 80,
        response_bytes: 4_000_000_000_000,
        flags: Flags::ADOPTED | Flags::GAP,
        attributes,
    }
}

fn view<'a>(exchange: &'a Exchange<'a>) -> ExchangeView<'a> {
    ExchangeView {
        route: None,
        exchange,
        side: Side::Server,
        tls: None,
        client: (&*CLIENT).into(),
        server: (&*SERVER).into(),
        network: None,
        process: Some(ProcessView { pid: 42, comm: "nginx", container_id: Some("c0ffee") }),
        connection_id: ConnectionId(u64::MAX),
        peer_connection_id: Some(ConnectionId(9)),
        unix_offset_ns: 1_700_000_000_000_000_000,
    }
}

fn line(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn an_exchange_is_written_as_the_contract_says() {
    let attributes =
        [("url.path", Value::Text("/a")), ("http.response.status_code", Value::Int(-200)), ("network.reused", Value::Bool(true))];
    let expected = concat!(
        r#"{"type":"exchange","start_unix_nano":1700000000000001000,"duration_ns":900,"ttfb_ns":200,"protocol":"http","side":"server","#,
        r#""tls":null,"client":{"address":"10.0.200.7","port":40000,"name":"curl","kind":"process","container_id":null},"#,
        r#""server":{"address":"::1","port":80,"name":"web","kind":"container","container_id":"c0ffee"},"#,
        r#""process":{"pid":42,"comm":"nginx","container_id":"c0ffee"},"operation":"GET","resource":"/a\"b\\c\n\u0001é","status":"200","#,
        r#""error":false,"request_bytes":80,"response_bytes":4000000000000,"connection_id":18446744073709551615,"peer_connection_id":9,"#,
        r#""attributes":{"url.path":"/a","http.response.status_code":-200,"network.reused":true,"http.route":"/{id}"},"flags":["adopted","gap"]}"#,
        "\n"
    );
    let request = request(&attributes);
    assert_eq!(line(|out| exchange(out, &ExchangeView { route: Some("/{id}"), ..view(&request) })), expected);
}

#[test]
fn an_end_is_written_with_all_that_is_known_of_it() {
    let instance = Instance {
        pod: Some("cart-77-b".into()),
        node: Some("node-1".into()),
        container: Some("app".into()),
        container_id: Some("c0ffee".into()),
        image: Some("cart:1.2".into()),
        compose_project: Some("shop".into()),
        compose_service: Some("cart".into()),
        unit: Some("cart.service".into()),
        labels: [("tier".into(), "back".into()), ("odd \"key\"".into(), "a\\b".into())].into(),
    };
    let server = Party {
        workload: Workload { namespace: Some("shop".into()), ..Workload::new(WorkloadKind::StatefulSet, "cart") },
        address: Some([10, 244, 0, 7].into()),
        port: Some(8080),
        service: Some("cart-api".into()),
        release: Some("shop".into()),
        chart: Some("shop-1.2".into()),
        instance: Some(Arc::new(instance)),
    };
    // What the client connected to is the Service's address.
    let end = Endpoint { address: [10, 96, 0, 7].into(), port: 80 };
    let request = request(&[]);
    let view = ExchangeView { server: PartyView { party: &server, end: Some(end) }, ..view(&request) };
    let written: Json = serde_json::from_str(&line(|out| exchange(out, &view))).unwrap();
    let expected = serde_json::json!({
        "address": "10.96.0.7", "port": 80, "name": "cart", "kind": "statefulset", "container_id": "c0ffee", "namespace": "shop",
        "service": "cart-api", "release": "shop", "chart": "shop-1.2", "pod": "cart-77-b", "node": "node-1", "container": "app",
        "image": "cart:1.2", "compose_project": "shop", "compose_service": "cart", "unit": "cart.service",
        "labels": {"tier": "back", "odd \"key\"": "a\\b"},
    });
    assert_eq!(written["server"], expected);
    assert_eq!(written.get("network"), None, "what is shown is what the server has");
}

#[test]
fn ends_that_were_rewritten_are_told_as_the_server_has_them() {
    let (client, server) =
        (Endpoint { address: [10, 244, 1, 1].into(), port: 1_234 }, Endpoint { address: [10, 244, 0, 7].into(), port: 8080 });
    let network = Some(Translation { client, server });
    let expected =
        serde_json::json!({"client": {"address": "10.244.1.1", "port": 1234}, "server": {"address": "10.244.0.7", "port": 8080}});
    let request = request(&[]);
    let exchange_line = line(|out| exchange(out, &ExchangeView { network, ..view(&request) }));
    let connection_line = line(|out| connection(out, &ConnectionView { network, ..refused() }));
    for text in [exchange_line, connection_line] {
        let written: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(written["network"], expected, "{text}");
    }
}

#[test]
fn what_is_not_known_is_null_or_empty() {
    let unanswered = Exchange { first_byte_ns: None, flags: Flags::default(), ..request(&[]) };
    let view = ExchangeView { process: None, peer_connection_id: None, tls: Some("openssl"), ..view(&unanswered) };
    let written: Json = serde_json::from_str(&line(|out| exchange(out, &view))).unwrap();
    for name in ["ttfb_ns", "process", "peer_connection_id"] {
        assert_eq!(written[name], Json::Null, "{name}");
    }
    assert_eq!((&written["flags"], &written["attributes"]), (&serde_json::json!([]), &serde_json::json!({})));
    assert_eq!(written["tls"], "openssl");
}

fn refused() -> ConnectionView<'static> {
    ConnectionView {
        protocol: Protocol::Unknown,
        role: Role::Client,
        local: Endpoint { address: [10, 0, 0, 1].into(), port: 40_000 },
        remote: Endpoint { address: [10, 0, 0, 2].into(), port: 22 },
        client: (&*CLIENT).into(),
        server: (&*SERVER).into(),
        network: None,
        process: None,
        connection_id: ConnectionId(3),
        peer_connection_id: None,
        start_ns: 5,
        duration_ns: 70,
        bytes_sent: 0,
        bytes_received: 0,
        retransmits: 1,
        srtt_us: None,
        connect_ns: None,
        error: Some(crate::export::error_name(111)),
        reason: None,
        server_name: Some("shop.test"),
        alpn: None,
        adopted: false,
        unix_offset_ns: -10,
    }
}

#[test]
fn a_failed_connection_says_why() {
    let text = line(|out| connection(out, &refused()));
    assert!(text.starts_with(r#"{"type":"connection","start_unix_nano":0,"duration_ns":70,"#), "{text}");
    let written: Json = serde_json::from_str(&text).unwrap();
    assert_eq!((&written["error"], &written["role"], &written["srtt_us"]), (&"ECONNREFUSED".into(), &"client".into(), &Json::Null));
    assert_eq!((&written["server_name"], &written["alpn"]), (&"shop.test".into(), &Json::Null));
    assert_eq!(written["remote"], serde_json::json!({"address": "10.0.0.2", "port": 22}));
}

#[test]
fn the_summary_is_sorted_and_shows_every_loss() {
    let published = published(2);
    let text = line(|out| {
        let lost = &published.self_metrics.lost;
        summary(out, &SummaryView { snapshot: &published.snapshot, lost, elapsed_ns: 5 });
    });
    assert!(text.starts_with(r#"{"type":"summary","exchanges":36,"by_protocol":{"http":32,"postgresql":4},"edges":[{"client":"#), "{text}");
    assert!(text.ends_with("],\"lost\":{\"parse_gap\":2,\"ring_full\":0},\"elapsed_ns\":5}\n"), "{text}");
    let written: Json = serde_json::from_str(&text).unwrap();
    let clients: Vec<_> = written["edges"].as_array().unwrap().iter().map(|edge| edge["client"]["name"].as_str().unwrap()).collect();
    assert_eq!(clients, ["backup", "curl", "nginx"]);
    let edge = &written["edges"][1];
    assert_eq!(
        (&edge["requests"], &edge["errors"], &edge["retransmits"], &edge["bytes_sent"]),
        (&16.into(), &2.into(), &2.into(), &1600.into())
    );
    assert_eq!(edge["requests_seen_by"], serde_json::json!({"client": 16, "server": 16, "unknown": 0}));
}

#[test]
fn an_edge_line_has_the_members_of_the_contract() {
    let published = published(1);
    let text = line(|out| edge(out, &published.snapshot.edges[1]));
    assert!(
        text.starts_with(r#"{"type":"edge","client":{"address":null,"port":null,"name":"curl","kind":"process","container_id":null}"#),
        "{text}"
    );
    let written: Json = serde_json::from_str(&text).unwrap();
    for name in ["protocol", "requests", "errors", "p50_ns", "p95_ns", "p99_ns", "bytes_sent", "bytes_received", "retransmits"] {
        assert_ne!(written[name], Json::Null, "{name}");
    }
}

#[test]
fn the_ready_line_comes_with_host_and_hooks() {
    let text = line(|out| ready(out, &ReadyView { unix_nano: 12, host: "ship", hooks: "socket" }));
    assert_eq!(text, "{\"type\":\"ready\",\"unix_nano\":12,\"host\":\"ship\",\"hooks\":\"socket\"}\n");
}

#[test]
fn the_service_map_shows_resources_and_idle_services() {
    let text = line(|out| service_map(out, &published(1).snapshot, &Filter::default()));
    let written: Json = serde_json::from_str(&text).unwrap();
    let cart = &written["edges"][1]["resources"][0];
    assert_eq!((&cart["resource"], &cart["requests"], &cart["mean_ns"]), (&"/cart".into(), &7.into(), &4_000_000.into()));
    assert_eq!((&written["idle"][0]["server"]["name"], &written["idle"][0]["idle_ns"]), (&"php".into(), &60_000_000_000u64.into()));
}

proptest! {
    #[test]
    fn any_text_and_number_survives(resource in "\\PC*|[\u{0}-\u{ff}]*", value in any::<i64>(), start_ns in any::<u64>(), offset in any::<i64>()) {
        let attributes = [("value", Value::Int(value)), ("text", Value::Text(&resource))];
        let hostile = Exchange { resource: &resource, operation: &resource, start_ns, ..request(&attributes) };
        let text = line(|out| exchange(out, &ExchangeView { unix_offset_ns: offset, ..view(&hostile) }));
        prop_assert_eq!(text.find('\n'), Some(text.len() - 1));
        let written: Json = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(written["resource"].as_str(), Some(resource.as_str()));
        prop_assert_eq!(written["attributes"]["text"].as_str(), Some(resource.as_str()));
        prop_assert_eq!(written["attributes"]["value"].as_i64(), Some(value));
        prop_assert_eq!(written["start_unix_nano"].as_u64(), Some(start_ns.saturating_add_signed(offset)));
    }
}

#[test]
fn numbers_have_no_leading_zeros() {
    for value in [0, 9, 10, 99, 100, 101, 999, 1_000, 12_345, u64::MAX - 1, u64::MAX] {
        assert_eq!(line(|out| number(out, value)), value.to_string());
    }
}

/// What the page of the API shows as answers.
fn examples() -> [Json; 2] {
    let cluster = cluster(false);
    let chosen = Filter { namespace: Some("shop".to_owned()), workload: Some("web".to_owned()) };
    let mut map: Json = serde_json::from_str(&line(|out| service_map(out, &cluster.snapshot, &chosen))).unwrap();
    map["edges"].as_array_mut().unwrap().retain(|edge| edge["server"]["name"] == "cart");
    let mut status: Json = serde_json::from_str(&line(|out| status(out, &cluster))).unwrap();
    // The page need not change with every release.
    status["version"] = "0.1.0".into();
    [map, status]
}

/// One member of the object a line.
fn pretty(object: &Json) -> String {
    let members = object.as_object().unwrap().iter().map(|(name, value)| {
        let items = value.as_array().filter(|items| !items.is_empty());
        let items = items.map(|items| items.iter().map(|item| format!("    {item}")).collect::<Vec<_>>().join(",\n"));
        items.map_or_else(|| format!("  \"{name}\": {value}"), |items| format!("  \"{name}\": [\n{items}\n  ]"))
    });
    format!("{{\n{}\n}}\n", members.collect::<Vec<_>>().join(",\n"))
}

#[test]
fn the_page_of_the_api_shows_what_is_answered() {
    const FENCE: &str = "```json\n";
    let page = include_str!("../../../docs/http-api.md");
    let parts: Vec<_> = page.split(FENCE).collect();
    let [before, example, first, second] = &parts[..] else { panic!("{} examples", parts.len() - 1) };
    let shown = [*first, *second].map(|part| part.split_once("```\n").unwrap());
    let answers = examples().map(|answer| pretty(&answer));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let answered = answers.iter().zip(shown).map(|(answer, (_, rest))| format!("{FENCE}{answer}```\n{rest}"));
        let page = [before.to_string(), format!("{FENCE}{example}")].into_iter().chain(answered).collect::<String>();
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/http-api.md"), page).unwrap();
        return;
    }
    assert_eq!(shown.map(|(answer, _)| answer.to_owned()), answers);
    // Every member that is answered is explained.
    for name in examples().iter().flat_map(|answer| answer.as_object().unwrap().keys()) {
        assert!(page.contains(&format!("`{name}`")), "the page lacks {name}");
    }
}
