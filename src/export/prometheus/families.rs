//! Every exported family: name, help, unit and labels in one place. `docs/metrics.md` lists the same ones; a test compares.

use prometheus_client::registry::Unit;

/// What a family's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// Always 1: what it says is in its labels.
    Info,
}

/// A metric family.
#[derive(Debug)]
pub struct Family {
    /// Without the unit and without `_total`: the encoder appends both.
    pub name: &'static str,
    pub help: &'static str,
    pub unit: Option<Unit>,
    pub kind: Kind,
    /// Labels that every series has, empty ones too.
    pub labels: &'static [&'static str],
    /// Labels that follow these and are left out where they have nothing to say: to Prometheus both are the same.
    pub optional: &'static [&'static str],
}

/// What is said of both ends of an edge besides their names, where it is known. Pods and nodes only where edges tell pods apart
/// (`--detail pod`).
pub const ENDS: &[&str] = &[
    "client_namespace",
    "server_namespace",
    "client_kind",
    "server_kind",
    "server_service",
    "client_pod",
    "server_pod",
    "client_node",
    "server_node",
];

impl Family {
    /// As a query must name it (histograms: without `_bucket`, `_sum`, `_count`).
    pub fn full_name(&self) -> String {
        let unit = self.unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{}{unit}{suffix}", self.name)
    }
}

macro_rules! families {
    ($($constant:ident: $kind:ident $name:literal, $unit:expr, [$($label:literal),*] $(+ $optional:expr)?, $help:literal;)*) => {
        $(pub(super) static $constant: Family = Family {
            name: $name,
            help: $help,
            unit: $unit,
            kind: Kind::$kind,
            labels: &[$($label),*],
            optional: { let optional: &[&str] = &[]; $(let optional = [optional, $optional][1];)? optional },
        };)*

        /// All of them, in the order of the page.
        pub static ALL: &[&Family] = &[$(&$constant),*];
    };
}

families! {
    HTTP_SERVER: Histogram "http_server_request_duration", Some(Unit::Seconds),
        ["client", "server", "server_address", "server_port", "http_request_method", "http_route", "http_response_status_code", "error_type"]
            + ENDS,
        "Duration of HTTP requests as the server's socket saw them.";
    HTTP_CLIENT: Histogram "http_client_request_duration", Some(Unit::Seconds),
        ["client", "server", "server_address", "server_port", "http_request_method", "http_route", "http_response_status_code", "error_type"]
            + ENDS,
        "Duration of HTTP requests as the client's socket saw them.";
    DB_CLIENT: Histogram "db_client_operation_duration", Some(Unit::Seconds),
        ["client", "server", "server_address", "server_port", "db_system_name", "db_operation_name", "error_type"] + ENDS,
        "Duration of database operations, from the first byte of the request to the last of the answer.";
    RPC_SERVER: Histogram "rpc_server_duration", Some(Unit::Seconds),
        ["client", "server", "server_address", "server_port", "rpc_system", "rpc_method", "rpc_grpc_status_code", "error_type"] + ENDS,
        "Duration of remote procedure calls as the server's socket saw them.";
    RPC_CLIENT: Histogram "rpc_client_duration", Some(Unit::Seconds),
        ["client", "server", "server_address", "server_port", "rpc_system", "rpc_method", "rpc_grpc_status_code", "error_type"] + ENDS,
        "Duration of remote procedure calls as the client's socket saw them.";
    MESSAGING_CLIENT: Histogram "messaging_client_operation_duration", Some(Unit::Seconds),
        ["client", "server", "server_address", "server_port", "messaging_system", "messaging_operation_name", "error_type"] + ENDS,
        "Duration of messaging operations: of a publish until it was confirmed, of a delivery until it was settled.";
    DNS_LOOKUP: Histogram "dns_lookup_duration", Some(Unit::Seconds),
        ["client", "server", "server_address", "server_port", "dns_question_type", "error_type"] + ENDS,
        "Duration of DNS lookups.";

    GRAPH_REQUESTS: Counter "traces_service_graph_request", None, ["client", "server", "connection_type"] + ENDS,
        "Requests between two workloads.";
    GRAPH_FAILED: Counter "traces_service_graph_request_failed", None, ["client", "server", "connection_type"] + ENDS,
        "Failed requests between two workloads.";
    GRAPH_CLIENT: Histogram "traces_service_graph_request_client", Some(Unit::Seconds), ["client", "server", "connection_type"] + ENDS,
        "Duration of requests between two workloads as the client saw them.";
    GRAPH_SERVER: Histogram "traces_service_graph_request_server", Some(Unit::Seconds), ["client", "server", "connection_type"] + ENDS,
        "Duration of requests between two workloads as the server saw them.";

    TCP_OPENED: Counter "remora_tcp_connections_opened", None, ["client", "server"] + ENDS,
        "TCP connections opened.";
    TCP_CLOSED: Counter "remora_tcp_connections_closed", None, ["client", "server"] + ENDS,
        "TCP connections closed.";
    TCP_FAILED: Counter "remora_tcp_connections_failed", None, ["client", "server", "error"] + ENDS,
        "TCP connections that could not be opened, by the kernel's error.";
    TCP_RETRANSMITS: Counter "remora_tcp_retransmits", None, ["client", "server"] + ENDS,
        "TCP segments sent again by the sockets watched.";
    TCP_SENT: Counter "remora_tcp_sent", Some(Unit::Bytes), ["client", "server"] + ENDS,
        "Bytes from client to server.";
    TCP_RECEIVED: Counter "remora_tcp_received", Some(Unit::Bytes), ["client", "server"] + ENDS,
        "Bytes from server to client.";
    TCP_SRTT: Histogram "remora_tcp_srtt", Some(Unit::Seconds), ["client", "server"] + ENDS,
        "Samples of the smoothed round-trip time of TCP connections.";

    NAMESPACE_REQUESTS: Counter "remora_namespace_requests", None, ["client_namespace", "server_namespace"],
        "Requests between namespaces of the cluster, or in and out of one.";
    NAMESPACE_BYTES: Counter "remora_namespace", Some(Unit::Bytes), ["client_namespace", "server_namespace"],
        "Bytes between namespaces of the cluster, both ways, or in and out of one.";
    EGRESS_REQUESTS: Counter "remora_egress_requests", None, ["client", "client_namespace", "server"],
        "Requests to servers outside the cluster, or outside a host that is in none.";
    EGRESS_BYTES: Counter "remora_egress", Some(Unit::Bytes), ["client", "client_namespace", "server"],
        "Bytes to and from servers outside the cluster, or outside a host that is in none.";

    IDLE_SERVICE: Gauge "remora_idle_service", None, ["server", "server_port"] + &["namespace", "service", "kind"],
        "1 for a service that had no exchange for the set time: a listening workload, or a Service with an endpoint on this node.";
    UNSERVED_CALLS: Counter "remora_service_unserved_calls", None, ["namespace", "service", "client", "client_namespace"],
        "Connections that failed and requests without an answer while the Service that was called had no ready endpoint.";
    WORKLOAD_INFO: Info "remora_workload", None, ["workload", "namespace", "kind", "release", "chart"],
        "A workload of the cluster that was seen, with its Helm release and chart.";
    POD_INFO: Info "remora_pod", None, ["pod", "namespace", "node", "workload", "kind"],
        "A pod that was seen; only where edges tell pods apart.";

    SELF_READY: Gauge "remora_self_ready", None, [],
        "1 while hooks are attached.";
    SELF_EXCHANGES: Counter "remora_self_exchanges", None, ["protocol"],
        "Exchanges understood, those of both ends of a connection included.";
    SELF_EVENTS: Counter "remora_self_events", None, ["kind"],
        "Events that reached user space.";
    SELF_LOST: Counter "remora_self_lost", None, ["reason"],
        "What was not seen or had to be given up, by reason.";
    SELF_QUEUE: Gauge "remora_self_queue_depth", None, ["queue"],
        "Entries waiting in a queue of the agent.";
    SELF_MAP_ENTRIES: Gauge "remora_self_map_entries", None, ["map"],
        "Entries in a kernel map of the agent.";
    SELF_MAP_CAPACITY: Gauge "remora_self_map_capacity", None, ["map"],
        "Entries that a kernel map of the agent can hold.";
    SELF_BPF_TIME: Counter "remora_self_bpf_run_time", Some(Unit::Seconds), ["program"],
        "CPU time spent in a BPF program of the agent, where the kernel keeps such statistics.";
    SELF_BPF_RUNS: Counter "remora_self_bpf_runs", None, ["program"],
        "Runs of a BPF program of the agent, where the kernel keeps such statistics.";
    SELF_CPU: Counter "remora_self_cpu", Some(Unit::Seconds), [],
        "CPU time of the agent's process, user and system.";
    SELF_RESIDENT: Gauge "remora_self_resident_memory", Some(Unit::Bytes), [],
        "Resident memory of the agent's process.";
    SELF_KUBERNETES_SYNCED: Gauge "remora_self_kubernetes_synced", None, ["kind"],
        "1 while the agent's copy of the cluster's objects of a kind is kept current.";
    SELF_KUBERNETES_OBJECTS: Gauge "remora_self_kubernetes_objects", None, ["kind"],
        "Objects of a kind in the agent's copy of the cluster.";
    SELF_KUBERNETES_EVENTS: Counter "remora_self_kubernetes_watch_events", None, ["kind"],
        "Changes that the API server told.";
    SELF_KUBERNETES_RELISTS: Counter "remora_self_kubernetes_relists", None, ["kind"],
        "How often a kind was listed as a whole, the first time included.";
    SELF_KUBERNETES_SILENCE: Gauge "remora_self_kubernetes_silence", Some(Unit::Seconds), ["kind"],
        "Time since the API server last said anything of a kind.";
    SELF_CONNTRACK: Counter "remora_self_conntrack_lookups", None, ["outcome"],
        "Connections looked up in the kernel's connection tracking: found, unknown or failed.";
    SELF_FOLDED_EDGES: Counter "remora_self_folded_edges", None, [],
        "Edges that were folded into the edge other because the map was full.";
    SELF_FOLDED_SERIES: Counter "remora_self_folded_series", None, ["family"],
        "Label sets of a family that were folded into the series other because the family was full.";
}
