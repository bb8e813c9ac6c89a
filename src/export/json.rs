//! JSON lines, written straight into a buffer: one object a line, `type` first, times and sizes as integers.
//! Knows nothing of where the buffer goes or when it is flushed.

use std::{io::Write, net::IpAddr, sync::Arc};

use crate::{
    model::{ConnectionId, Endpoint, Exchange, Instance, Label, Party, Protocol, Role, Side, Translation, Value},
    service_map::{Edge, Snapshot},
};

mod map;
mod status;
mod text;

pub use map::{Filter, service_map};
pub use status::status;
use text::{Object, number, string};

/// One end of an exchange or connection, as it is shown.
#[derive(Clone, Copy, Debug)]
pub struct PartyView<'a> {
    pub party: &'a Party,
    /// Where it was on the network, if that is not the party's own: a workload has many addresses.
    pub end: Option<Endpoint>,
}

impl<'a> From<&'a Party> for PartyView<'a> {
    fn from(party: &'a Party) -> Self {
        Self { party, end: None }
    }
}

/// The process whose socket was watched.
#[derive(Clone, Copy, Debug)]
pub struct ProcessView<'a> {
    pub pid: u32,
    pub comm: &'a str,
    pub container_id: Option<&'a str>,
}

#[derive(Clone, Copy, Debug)]
pub struct ExchangeView<'a> {
    pub exchange: &'a Exchange<'a>,
    /// The template of its path: the attribute `http.route`.
    pub route: Option<&'a str>,
    pub side: Side,
    /// The TLS library that was looked into.
    pub tls: Option<&'a str>,
    pub client: PartyView<'a>,
    pub server: PartyView<'a>,
    /// Both ends as the server's socket has them, where others are shown: what the lines of two hosts are joined by.
    pub network: Option<Translation>,
    pub process: Option<ProcessView<'a>>,
    pub connection_id: ConnectionId,
    /// The other socket of the same connection, where it is on this host too.
    pub peer_connection_id: Option<ConnectionId>,
    /// What must be added to the clock of the events to get nanoseconds since 1970.
    pub unix_offset_ns: i64,
}

/// A connection that ended or never came to be.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionView<'a> {
    pub protocol: Protocol,
    pub role: Role,
    pub local: Endpoint,
    pub remote: Endpoint,
    /// With an unknown role: the best guess.
    pub client: PartyView<'a>,
    pub server: PartyView<'a>,
    /// Both ends as the server's socket has them, where others are shown: what the lines of two hosts are joined by.
    pub network: Option<Translation>,
    pub process: Option<ProcessView<'a>>,
    pub connection_id: ConnectionId,
    pub peer_connection_id: Option<ConnectionId>,
    /// On the clock of the events.
    pub start_ns: u64,
    pub duration_ns: u64,
    /// By the watched socket.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub retransmits: u32,
    /// `None` where it was never measured.
    pub srtt_us: Option<u32>,
    /// From the connect call to the established connection; `None` for servers and adopted connections.
    pub connect_ns: Option<u64>,
    /// Why it could not be opened, or was torn down: the kernel's symbol, [`super::error_name`].
    pub error: Option<&'a str>,
    /// Who ended it: local, remote, reset, timeout …
    pub reason: Option<&'a str>,
    pub adopted: bool,
    /// What the client's hello of TLS named: the server, and the protocols on offer.
    pub server_name: Option<&'a str>,
    pub alpn: Option<&'a str>,
    pub unix_offset_ns: i64,
}

/// The last line: what was seen and what was lost.
#[derive(Clone, Copy, Debug)]
pub struct SummaryView<'a> {
    pub snapshot: &'a Snapshot,
    /// Every reason, zeros included; written sorted by reason.
    pub lost: &'a [(super::Name, u64)],
    pub elapsed_ns: u64,
}

/// The first line: from here on everything is seen.
#[derive(Clone, Copy, Debug)]
pub struct ReadyView<'a> {
    pub unix_nano: u64,
    pub host: &'a str,
    /// The hook family, or "replay".
    pub hooks: &'a str,
}

/// Appends an `exchange` line. Allocates nothing but the growth of `out`.
pub fn exchange(out: &mut Vec<u8>, view: &ExchangeView<'_>) {
    let exchange = view.exchange;
    let mut line = Object::line(out, "exchange");
    line.number("start_unix_nano", exchange.start_ns.saturating_add_signed(view.unix_offset_ns));
    line.number("duration_ns", exchange.end_ns.saturating_sub(exchange.start_ns));
    line.optional_number("ttfb_ns", exchange.first_byte_ns.map(|first_ns| first_ns.saturating_sub(exchange.start_ns)));
    line.plain("protocol", exchange.protocol.name());
    line.plain("side", view.side.name());
    line.optional_string("tls", view.tls);
    party(line.key("client"), &view.client);
    party(line.key("server"), &view.server);
    network(&mut line, view.network.as_ref());
    process(line.key("process"), view.process.as_ref());
    line.string("operation", exchange.operation);
    line.string("resource", exchange.resource);
    line.string("status", exchange.status);
    line.boolean("error", exchange.error);
    line.number("request_bytes", exchange.request_bytes);
    line.number("response_bytes", exchange.response_bytes);
    line.number("connection_id", view.connection_id.0);
    line.optional_number("peer_connection_id", view.peer_connection_id.map(|id| id.0));
    let mut attributes = Object::new(line.key("attributes"));
    for (name, value) in exchange.attributes {
        match value {
            Value::Text(text) => attributes.string(name, text),
            Value::Int(value) => attributes.signed(name, *value),
            Value::Bool(value) => attributes.boolean(name, *value),
        }
    }
    if let Some(route) = view.route {
        attributes.string("http.route", route);
    }
    attributes.end();
    let flags = line.key("flags");
    list(flags, exchange.flags.names(), string);
    line.end_line();
}

/// Appends a `connection` line.
pub fn connection(out: &mut Vec<u8>, view: &ConnectionView<'_>) {
    let mut line = Object::line(out, "connection");
    line.number("start_unix_nano", view.start_ns.saturating_add_signed(view.unix_offset_ns));
    line.number("duration_ns", view.duration_ns);
    line.plain("protocol", view.protocol.name());
    line.plain(
        "role",
        match view.role {
            Role::Unknown => "unknown",
            Role::Client => "client",
            Role::Server => "server",
        },
    );
    endpoint(line.key("local"), &view.local);
    endpoint(line.key("remote"), &view.remote);
    party(line.key("client"), &view.client);
    party(line.key("server"), &view.server);
    network(&mut line, view.network.as_ref());
    process(line.key("process"), view.process.as_ref());
    line.number("bytes_sent", view.bytes_sent);
    line.number("bytes_received", view.bytes_received);
    line.number("retransmits", view.retransmits.into());
    line.optional_number("srtt_us", view.srtt_us.map(u64::from));
    line.optional_number("connect_ns", view.connect_ns);
    line.optional_string("error", view.error);
    line.optional_string("reason", view.reason);
    line.boolean("adopted", view.adopted);
    line.optional_string("server_name", view.server_name);
    line.optional_string("alpn", view.alpn);
    line.number("connection_id", view.connection_id.0);
    line.optional_number("peer_connection_id", view.peer_connection_id.map(|id| id.0));
    line.end_line();
}

/// Appends an `edge` line.
pub fn edge(out: &mut Vec<u8>, edge: &Edge) {
    let mut line = Object::line(out, "edge");
    edge_members(&mut line, edge);
    line.end_line();
}

/// Appends the `summary` line.
pub fn summary(out: &mut Vec<u8>, view: &SummaryView<'_>) {
    let mut lost: Vec<_> = view.lost.iter().collect();
    lost.sort_unstable();
    let mut line = Object::line(out, "summary");
    line.number("exchanges", view.snapshot.exchanges);
    by_protocol(line.key("by_protocol"), view.snapshot);
    list(line.key("edges"), &view.snapshot.edges, |out, edge| {
        let mut object = Object::new(out);
        edge_members(&mut object, edge);
        object.end();
    });
    let mut reasons = Object::new(line.key("lost"));
    lost.into_iter().for_each(|(reason, count)| reasons.number(reason, *count));
    reasons.end();
    line.number("elapsed_ns", view.elapsed_ns);
    line.end_line();
}

/// Appends the `ready` line.
pub fn ready(out: &mut Vec<u8>, view: &ReadyView<'_>) {
    let mut line = Object::line(out, "ready");
    line.number("unix_nano", view.unix_nano);
    line.string("host", view.host);
    line.string("hooks", view.hooks);
    line.end_line();
}

fn edge_members(object: &mut Object<'_>, edge: &Edge) {
    party(object.key("client"), &(&edge.key.client).into());
    party(object.key("server"), &(&edge.key.server).into());
    object.plain("protocol", edge.key.protocol.name());
    object.number("requests", edge.requests);
    object.number("errors", edge.errors);
    object.number("p50_ns", edge.quantile_ns(0.5));
    object.number("p95_ns", edge.quantile_ns(0.95));
    object.number("p99_ns", edge.quantile_ns(0.99));
    object.number("bytes_sent", edge.bytes_sent);
    object.number("bytes_received", edge.bytes_received);
    object.number("retransmits", edge.retransmits);
    object.number("connections_opened", edge.connections_opened);
    object.number("connections_closed", edge.connections_closed);
    object.number("connections_failed", edge.connections_failed);
    let mut seen_by = Object::new(object.key("requests_seen_by"));
    for side in Side::ALL {
        seen_by.number(side.name(), edge.seen_by(side).map_or(0, |counts| counts.requests()));
    }
    seen_by.end();
}

fn resources(out: &mut Vec<u8>, edge: &Edge) {
    let mut busiest: Vec<_> = edge.seen_by(edge.side).map(|counts| counts.resources.entries().iter().collect()).unwrap_or_default();
    busiest.sort_by_key(|entry| (std::cmp::Reverse(entry.requests), &entry.operation, &entry.resource));
    list(out, busiest, |out, entry| {
        let mut object = Object::new(out);
        object.string("operation", &entry.operation);
        object.string("resource", &entry.resource);
        object.number("requests", entry.seen());
        object.number("errors", entry.errors);
        object.number("mean_ns", entry.mean_ns());
        object.number("max_ns", entry.max_ns);
        object.end();
    });
}

fn by_protocol(out: &mut Vec<u8>, snapshot: &Snapshot) {
    let mut object = Object::new(out);
    snapshot.by_protocol.iter().for_each(|(protocol, count)| object.number(protocol.name(), *count));
    object.end();
}

fn party(out: &mut Vec<u8>, view: &PartyView<'_>) {
    let PartyView { party, end } = view;
    let mut object = Object::new(out);
    address(object.key("address"), end.map_or(party.address, |end| Some(end.address)));
    object.optional_number("port", end.map_or(party.port, |end| Some(end.port)).map(u64::from));
    object.string("name", &party.workload.name);
    object.plain("kind", party.workload.kind.name());
    let instance = party.instance.as_deref();
    object.optional_string("container_id", instance.and_then(|instance| instance.container_id.as_deref()));
    // What most ends do not have is left out where it is not known.
    let known: [(&str, &Option<Arc<str>>); 4] =
        [("namespace", &party.workload.namespace), ("service", &party.service), ("release", &party.release), ("chart", &party.chart)];
    known.into_iter().for_each(|(name, text)| present(&mut object, name, text));
    if let Some(instance) = instance {
        instance_members(&mut object, instance);
    }
    object.end();
}

fn instance_members(object: &mut Object<'_>, instance: &Instance) {
    let known: [(&str, &Option<Arc<str>>); 7] = [
        ("pod", &instance.pod),
        ("node", &instance.node),
        ("container", &instance.container),
        ("image", &instance.image),
        ("compose_project", &instance.compose_project),
        ("compose_service", &instance.compose_service),
        ("unit", &instance.unit),
    ];
    known.into_iter().for_each(|(name, text)| present(object, name, text));
    if !instance.labels.is_empty() {
        let mut labels = Object::new(object.key("labels"));
        instance.labels.iter().for_each(|(key, value): &Label| labels.label(key, value));
        labels.end();
    }
}

fn present(object: &mut Object<'_>, name: &str, text: &Option<Arc<str>>) {
    if let Some(text) = text {
        object.string(name, text);
    }
}

fn process(out: &mut Vec<u8>, view: Option<&ProcessView<'_>>) {
    let Some(view) = view else {
        out.extend_from_slice(b"null");
        return;
    };
    let mut object = Object::new(out);
    object.number("pid", view.pid.into());
    object.string("comm", view.comm);
    object.optional_string("container_id", view.container_id);
    object.end();
}

fn network(object: &mut Object<'_>, network: Option<&Translation>) {
    let Some(Translation { client, server }) = network else { return };
    let mut ends = Object::new(object.key("network"));
    endpoint(ends.key("client"), client);
    endpoint(ends.key("server"), server);
    ends.end();
}

fn endpoint(out: &mut Vec<u8>, endpoint: &Endpoint) {
    let mut object = Object::new(out);
    address(object.key("address"), Some(endpoint.address));
    object.number("port", endpoint.port.into());
    object.end();
}

fn address(out: &mut Vec<u8>, address: Option<IpAddr>) {
    match address {
        None => out.extend_from_slice(b"null"),
        Some(IpAddr::V4(address)) => {
            // Formatting by hand: every exchange has two of these.
            for (position, octet) in address.octets().into_iter().enumerate() {
                out.push(if position == 0 { b'"' } else { b'.' });
                number(out, octet.into());
            }
            out.push(b'"');
        }
        // Writing into a Vec cannot fail.
        Some(IpAddr::V6(address)) => drop(write!(out, "\"{address}\"")),
    }
}

fn list<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Vec<u8>, T)) {
    out.push(b'[');
    for (position, item) in items.into_iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests;
