//! From published values to labelled measures.

use std::sync::Arc;

use super::{
    Labels, Measure, Page,
    families::{self as f, Family},
};
use crate::{
    export::{Published, SelfMetrics, Surroundings, WatchState, error_name},
    model::{Party, Protocol, Side, WorkloadKind},
    service_map::{Connections, Edge, Histogram, IdleService, Reach, Series, SideCounts, Snapshot, Traffic, traffic},
};

pub(super) fn fill(page: &mut Page<'_>, published: &Published) {
    let snapshot = &published.snapshot;
    for edge in &snapshot.edges {
        match edge.key.protocol {
            Protocol::Http | Protocol::Http2 => http(page, edge),
            Protocol::Grpc => rpc(page, edge),
            Protocol::Postgresql | Protocol::Mysql | Protocol::Redis => {
                client_operations(page, edge, &f::DB_CLIENT, Some(edge.key.protocol.name()))
            }
            Protocol::Amqp => client_operations(page, edge, &f::MESSAGING_CLIENT, Some("rabbitmq")),
            Protocol::Dns => client_operations(page, edge, &f::DNS_LOOKUP, None),
            Protocol::Websocket | Protocol::Tls | Protocol::Unknown => {}
        }
        service_graph(page, edge);
        tcp(page, edge);
        borders(page, edge);
        pods(page, edge);
    }
    services(page, snapshot);
    workloads(page, snapshot);
    for (protocol, count) in &snapshot.by_protocol {
        page.add(&f::SELF_EXCHANGES, vec![protocol.name().to_owned()], Measure::Counter(*count));
    }
    page.add(&f::SELF_FOLDED_EDGES, vec![], Measure::Counter(snapshot.folded_edges));
    page.add(&f::SELF_READY, vec![], Measure::Gauge(f64::from(u8::from(published.ready))));
    own(page, &published.self_metrics);
    surroundings(page, &published.surroundings);
}

fn http(page: &mut Page<'_>, edge: &Edge) {
    for (family, side) in [(&f::HTTP_SERVER, Side::Server), (&f::HTTP_CLIENT, Side::Client)] {
        for series in seen_by(edge, side).iter().flat_map(|counts| &counts.series) {
            let mut labels = peers(edge);
            let method = http_method(&series.operation).to_owned();
            labels.extend([method, series.route.to_string(), series.status.to_string(), error_type(series)]);
            labels.extend(ends(edge));
            page.add(family, labels, Measure::Histogram(series.durations.clone()));
        }
    }
}

fn rpc(page: &mut Page<'_>, edge: &Edge) {
    for (family, side) in [(&f::RPC_SERVER, Side::Server), (&f::RPC_CLIENT, Side::Client)] {
        for series in seen_by(edge, side).iter().flat_map(|counts| &counts.series) {
            let mut labels = peers(edge);
            labels.extend(["grpc".to_owned(), series.operation.to_string(), series.status.to_string(), error_type(series)]);
            labels.extend(ends(edge));
            page.add(family, labels, Measure::Histogram(series.durations.clone()));
        }
    }
}

/// Families that know no sides: `system` is what the client spoke to.
fn client_operations(page: &mut Page<'_>, edge: &Edge, family: &'static Family, system: Option<&str>) {
    for series in edge.seen_by(edge.side).iter().flat_map(|counts| &counts.series) {
        let mut labels = peers(edge);
        labels.extend(system.map(str::to_owned));
        labels.extend([series.operation.to_string(), error_type(series)]);
        labels.extend(ends(edge));
        page.add(family, labels, Measure::Histogram(series.durations.clone()));
    }
}

fn service_graph(page: &mut Page<'_>, edge: &Edge) {
    if edge.requests == 0 {
        return;
    }
    // The words that Tempo's service graphs use.
    let connection_type = match edge.key.protocol {
        Protocol::Postgresql | Protocol::Mysql | Protocol::Redis => "database",
        Protocol::Amqp => "messaging_system",
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Websocket | Protocol::Dns | Protocol::Tls | Protocol::Unknown => "",
    };
    let labels = || with_ends(vec![name(&edge.key.client), name(&edge.key.server), connection_type.to_owned()], edge);
    page.add(&f::GRAPH_REQUESTS, labels(), Measure::Counter(edge.requests));
    page.add(&f::GRAPH_FAILED, labels(), Measure::Counter(edge.errors));
    for (family, side) in [(&f::GRAPH_CLIENT, Side::Client), (&f::GRAPH_SERVER, Side::Server)] {
        if let Some(counts) = seen_by(edge, side) {
            page.add(family, labels(), Measure::Histogram(counts.durations()));
        }
    }
}

/// Of datagrams there is none of this.
fn tcp(page: &mut Page<'_>, edge: &Edge) {
    let mut counts = Side::ALL.into_iter().filter_map(|side| edge.seen_by(side));
    if counts.all(|counts| counts.connections == Connections::default()) {
        return;
    }
    let names = || vec![name(&edge.key.client), name(&edge.key.server)];
    let labels = || with_ends(names(), edge);
    for (family, count) in [
        (&f::TCP_OPENED, edge.connections_opened),
        (&f::TCP_CLOSED, edge.connections_closed),
        (&f::TCP_RETRANSMITS, edge.retransmits),
        (&f::TCP_SENT, edge.bytes_sent),
        (&f::TCP_RECEIVED, edge.bytes_received),
    ] {
        page.add(family, labels(), Measure::Counter(count));
    }
    let sides = || Side::ALL.into_iter().filter_map(|side| edge.seen_by(side));
    // The side that saw most failures, as for the edge itself.
    let failures = |counts: &&SideCounts| counts.connections.failed.iter().map(|(_, times)| times).sum::<u64>();
    for (error, times) in sides().max_by_key(failures).iter().flat_map(|counts| &counts.connections.failed) {
        let mut labels = names();
        labels.push(error_name(*error).to_owned());
        page.add(&f::TCP_FAILED, with_ends(labels, edge), Measure::Counter(*times));
    }
    let mut srtt = Histogram::default();
    sides().for_each(|counts| srtt.merge(&counts.connections.srtt));
    if srtt.count() > 0 {
        page.add(&f::TCP_SRTT, labels(), Measure::Histogram(srtt));
    }
}

/// What crosses the borders of namespaces and of the cluster.
fn borders(page: &mut Page<'_>, edge: &Edge) {
    let Traffic { requests, bytes_sent, bytes_received, .. } = Traffic::of(edge);
    let bytes = bytes_sent.saturating_add(bytes_received);
    let mut add = |labels: &dyn Fn() -> Labels, of_requests, of_bytes| {
        for (family, count) in [(of_requests, requests), (of_bytes, bytes)] {
            if count > 0 {
                page.add(family, labels(), Measure::Counter(count));
            }
        }
    };
    if let Some((client, server)) = traffic::namespaces_of(edge) {
        let labels = || vec![client.unwrap_or_default().to_owned(), server.unwrap_or_default().to_owned()];
        add(&labels, &f::NAMESPACE_REQUESTS, &f::NAMESPACE_BYTES);
    }
    if traffic::is_egress(edge) {
        let labels = || vec![name(&edge.key.client), namespace(&edge.key.client), name(&edge.key.server)];
        add(&labels, &f::EGRESS_REQUESTS, &f::EGRESS_BYTES);
    }
}

/// Only where edges tell pods apart: else they have none.
fn pods(page: &mut Page<'_>, edge: &Edge) {
    for party in [&edge.key.client, &edge.key.server] {
        let Some(instance) = party.instance.as_deref() else { continue };
        if let Some(pod) = &instance.pod {
            let labels = vec![pod.to_string(), namespace(party), text(&instance.node), name(party), kind(party)];
            page.add(&f::POD_INFO, labels, Measure::One);
        }
    }
}

fn services(page: &mut Page<'_>, snapshot: &Snapshot) {
    for IdleService { server, .. } in &snapshot.idle {
        let labels = vec![name(server), port(server), namespace(server), text(&server.service), kind(server)];
        page.add(&f::IDLE_SERVICE, labels, Measure::One);
    }
    for unserved in &snapshot.unserved {
        let client = Party::new(unserved.client.clone());
        let labels = vec![unserved.service.namespace.to_string(), unserved.service.name.to_string(), name(&client), namespace(&client)];
        page.add(&f::UNSERVED_CALLS, labels, Measure::Counter(unserved.calls));
    }
}

fn workloads(page: &mut Page<'_>, snapshot: &Snapshot) {
    for (workload, met) in snapshot.workloads.sorted() {
        if workload.namespace.is_some() || met.release.is_some() {
            let names = [workload.name.to_string(), text(&workload.namespace), workload.kind.name().to_owned()];
            let labels = names.into_iter().chain([text(&met.release), text(&met.chart)]).collect();
            page.add(&f::WORKLOAD_INFO, labels, Measure::One);
        }
    }
}

fn surroundings(page: &mut Page<'_>, around: &Surroundings) {
    for watch in around.kubernetes.iter().flat_map(|cluster| &cluster.kinds) {
        let kind = || vec![watch.kind.to_string()];
        page.add(&f::SELF_KUBERNETES_SYNCED, kind(), Measure::Gauge(f64::from(u8::from(watch.state == WatchState::Synced))));
        page.add(&f::SELF_KUBERNETES_OBJECTS, kind(), Measure::Gauge(watch.objects as f64));
        page.add(&f::SELF_KUBERNETES_EVENTS, kind(), Measure::Counter(watch.events));
        page.add(&f::SELF_KUBERNETES_RELISTS, kind(), Measure::Counter(watch.relists));
        page.add(&f::SELF_KUBERNETES_SILENCE, kind(), Measure::Gauge(watch.silence_ns as f64 / 1e9));
    }
    if let Some(conntrack) = &around.conntrack {
        let unknown = conntrack.asked.saturating_sub(conntrack.found + conntrack.failed);
        for (outcome, count) in [("found", conntrack.found), ("unknown", unknown), ("failed", conntrack.failed)] {
            page.add(&f::SELF_CONNTRACK, vec![outcome.to_owned()], Measure::Counter(count));
        }
    }
}

fn own(page: &mut Page<'_>, own: &SelfMetrics) {
    for (family, counts) in [(&f::SELF_EVENTS, &own.events), (&f::SELF_LOST, &own.lost)] {
        for (label, count) in counts {
            page.add(family, vec![label.to_string()], Measure::Counter(*count));
        }
    }
    for (queue, depth) in &own.queue_depths {
        page.add(&f::SELF_QUEUE, vec![queue.to_string()], Measure::Gauge(*depth as f64));
    }
    for map in &own.maps {
        page.add(&f::SELF_MAP_ENTRIES, vec![map.name.to_string()], Measure::Gauge(map.entries as f64));
        page.add(&f::SELF_MAP_CAPACITY, vec![map.name.to_string()], Measure::Gauge(map.capacity as f64));
    }
    for program in &own.programs {
        page.add(&f::SELF_BPF_TIME, vec![program.name.to_string()], Measure::Seconds(program.run_time_ns as f64 / 1e9));
        page.add(&f::SELF_BPF_RUNS, vec![program.name.to_string()], Measure::Counter(program.run_count));
    }
    page.add(&f::SELF_CPU, vec![], Measure::Seconds(own.cpu_seconds));
    page.add(&f::SELF_RESIDENT, vec![], Measure::Gauge(own.resident_bytes as f64));
}

/// What `side` saw; frames seen on the way stand for either.
fn seen_by(edge: &Edge, side: Side) -> Option<&SideCounts> {
    edge.seen_by(side).or_else(|| edge.seen_by(Side::Unknown))
}

/// client, server, server_address, server_port. The address of a labelled server is its workload's name, too.
fn peers(edge: &Edge) -> Labels {
    let server = name(&edge.key.server);
    vec![name(&edge.key.client), server.clone(), server, port(&edge.key.server)]
}

/// The values of [`f::ENDS`]. Never an address, and never a container: what is here must not grow with every pod, unless the edges do.
fn ends(edge: &Edge) -> [String; f::ENDS.len()] {
    let (client, server) = (&edge.key.client, &edge.key.server);
    let instance =
        |party: &Party| party.instance.as_deref().map(|instance| (text(&instance.pod), text(&instance.node))).unwrap_or_default();
    let [(client_pod, client_node), (server_pod, server_node)] = [client, server].map(instance);
    [
        namespace(client),
        namespace(server),
        kind(client),
        kind(server),
        text(&server.service),
        client_pod,
        server_pod,
        client_node,
        server_node,
    ]
}

fn with_ends(mut labels: Labels, edge: &Edge) -> Labels {
    labels.extend(ends(edge));
    labels
}

fn namespace(party: &Party) -> String {
    text(&party.workload.namespace)
}

fn kind(party: &Party) -> String {
    party.workload.kind.name().to_owned()
}

fn text(text: &Option<Arc<str>>) -> String {
    text.as_deref().unwrap_or_default().to_owned()
}

/// The name of a workload. Where only an address is known, its kind: addresses of pods come and go, and would be series without end.
fn name(party: &Party) -> String {
    if party.workload.kind != WorkloadKind::Address {
        return party.workload.name.to_string();
    }
    let kind = match party.address.map(Reach::of) {
        None => "unknown-address",
        Some(Reach::Loopback) => "loopback-address",
        Some(Reach::Private) => "private-address",
        Some(Reach::Public) => "public-address",
    };
    kind.to_owned()
}

fn port(party: &Party) -> String {
    party.port.map(|port| port.to_string()).unwrap_or_default()
}

/// OpenTelemetry, HTTP metrics: methods that are not known must be `_OTHER`.
fn http_method(method: &str) -> &str {
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => method,
        _ => "_OTHER",
    }
}

/// OpenTelemetry's `error.type`: empty without an error, the status where there is one, else `_OTHER`.
fn error_type(series: &Series) -> String {
    match (series.error, &*series.status) {
        (false, _) => String::new(),
        (true, "") => "_OTHER".to_owned(),
        (true, status) => status.to_owned(),
    }
}
