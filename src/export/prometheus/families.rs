//! Every exported family: name, help, unit and labels in one place. `docs/metrics.md` lists the same ones; a test compares.

use prometheus_client::registry::Unit;

/// What a family's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric family.
#[derive(Debug)]
pub struct Family {
    /// Without the unit and without `_total`: the encoder appends both.
    pub name: &'static str,
    pub help: &'static str,
    pub unit: Option<Unit>,
    pub kind: Kind,
    pub labels: &'static [&'static str],
}

impl Family {
    /// As a query must name it (histograms: without `_bucket`, `_sum`, `_count`).
    pub fn full_name(&self) -> String {
        let unit = self.unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{unit}{total}", self.name)
    }
}

macro_rules! families {
    ($($constant:ident: $kind:ident $name:literal, $unit:expr, [$($label:literal),*], $help:literal;)*) => {
        $(pub(super) static $constant: Family =
            Family { name: $name, help: $help, unit: $unit, kind: Kind::$kind, labels: &[$($label),*] };)*

        /// All of them, in the order of the page.
        pub static ALL: &[&Family] = &[$(&$constant),*];
    };
}

families! {
    HTTP_SERVER: Histogram "http_server_request_duration", Some(Unit::Seconds),
        ["client", "server", "server_address", "server_port", "http_request_method", "http_route", "http_response_status_code", "error_type"],
        "Duration of HTTP requests as the server's socket saw them.";
    HTTP_CLIENT: Histogram "http_client_request_duration", Some(Unit::Seconds),
        ["client", "server", "server_address", "server_port", "http_request_method", "http_route", "http_response_status_code", "error_type"],
        "Duration of HTTP requests as the client's socket saw them.";
    DB_CLIENT: Histogram "db_client_operation_duration", Some(Unit::Seconds),
        ["client", "server", "server_address", "server_port", "db_system_name", "db_operation_name", "error_type"],
        "Duration of database operations, from the first byte of the request to the last of the answer.";
    RPC_SERVER: Histogram "rpc_server_duration", Some(Unit::Seconds),
        ["client", "server", "server_address", "server_port", "rpc_system", "rpc_method", "rpc_grpc_status_code", "error_type"],
        "Duration of remote procedure calls as the server's socket saw them.";
    RPC_CLIENT: Histogram "rpc_client_duration", Some(Unit::Seconds),
        ["client", "server", "server_address", "server_port", "rpc_system", "rpc_method", "rpc_grpc_status_code", "error_type"],
        "Duration of remote procedure calls as the client's socket saw them.";
    MESSAGING_CLIENT: Histogram "messaging_client_operation_duration", Some(Unit::Seconds),
        ["client", "server", "server_address", "server_port", "messaging_system", "messaging_operation_name", "error_type"],
        "Duration of messaging operations: of a publish until it was confirmed, of a delivery until it was settled.";
    DNS_LOOKUP: Histogram "dns_lookup_duration", Some(Unit::Seconds),
        ["client", "server", "server_address", "server_port", "dns_question_type", "error_type"],
        "Duration of DNS lookups.";

    GRAPH_REQUESTS: Counter "traces_service_graph_request", None, ["client", "server", "connection_type"],
        "Requests between two workloads.";
    GRAPH_FAILED: Counter "traces_service_graph_request_failed", None, ["client", "server", "connection_type"],
        "Failed requests between two workloads.";
    GRAPH_CLIENT: Histogram "traces_service_graph_request_client", Some(Unit::Seconds), ["client", "server", "connection_type"],
        "Duration of requests between two workloads as the client saw them.";
    GRAPH_SERVER: Histogram "traces_service_graph_request_server", Some(Unit::Seconds), ["client", "server", "connection_type"],
        "Duration of requests between two workloads as the server saw them.";

    TCP_OPENED: Counter "remora_tcp_connections_opened", None, ["client", "server"],
        "TCP connections opened.";
    TCP_CLOSED: Counter "remora_tcp_connections_closed", None, ["client", "server"],
        "TCP connections closed.";
    TCP_FAILED: Counter "remora_tcp_connections_failed", None, ["client", "server", "error"],
        "TCP connections that could not be opened, by the kernel's error.";
    TCP_RETRANSMITS: Counter "remora_tcp_retransmits", None, ["client", "server"],
        "TCP segments sent again by the sockets watched.";
    TCP_SENT: Counter "remora_tcp_sent", Some(Unit::Bytes), ["client", "server"],
        "Bytes from client to server.";
    TCP_RECEIVED: Counter "remora_tcp_received", Some(Unit::Bytes), ["client", "server"],
        "Bytes from server to client.";
    TCP_SRTT: Histogram "remora_tcp_srtt", Some(Unit::Seconds), ["client", "server"],
        "Samples of the smoothed round-trip time of TCP connections.";

    IDLE_SERVICE: Gauge "remora_idle_service", None, ["server", "server_port"],
        "1 for a service that listens and had no exchange for the set time.";

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
    SELF_FOLDED_EDGES: Counter "remora_self_folded_edges", None, [],
        "Edges that were folded into the edge other because the map was full.";
    SELF_FOLDED_SERIES: Counter "remora_self_folded_series", None, ["family"],
        "Label sets of a family that were folded into the series other because the family was full.";
}
