//! What the table says, as text and numbers: the difference of two published values.

use std::{cmp::Reverse, fmt::Write};

use crate::{
    export::Published,
    model::{Party, WorkloadKind},
    service_map::Edge,
};

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    Rate,
    /// Share of errors.
    Errors,
    P99,
}

/// One edge. Rate, errors and quantiles are of the time since the previous value if anything happened in it, else of the whole life.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub client: String,
    pub server: String,
    pub protocol: &'static str,
    pub requests_per_second: f64,
    /// From 0 to 1.
    pub error_share: f64,
    /// `None` without an answered request.
    pub p50_ns: Option<u64>,
    pub p95_ns: Option<u64>,
    pub p99_ns: Option<u64>,
    pub requests: u64,
    /// Both ways.
    pub bytes: u64,
    pub retransmits: u64,
}

/// One of the slowest resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slow {
    pub client: String,
    pub server: String,
    /// Operation and resource.
    pub what: String,
    pub requests: u64,
    pub errors: u64,
    pub mean_ns: u64,
    pub p95_ns: u64,
    pub max_ns: u64,
}

pub const HEADINGS: [&str; 11] = ["CLIENT", "SERVER", "PROTO", "REQ/S", "ERR %", "P50", "P95", "P99", "TOTAL", "BYTES", "RETRANS"];
/// A call to a Service without endpoints is worth a word in the headline for so long.
const RECENTLY_NS: u64 = 300_000_000_000;
pub const SLOW_HEADINGS: [&str; 7] = ["EDGE", "SLOWEST", "COUNT", "ERRORS", "MEAN", "P95", "MAX"];

/// All edges in the order of `sort`; equals in the order of their names.
pub fn rows(current: &Published, previous: Option<&Published>, sort: Sort) -> Vec<Row> {
    let seconds = match previous {
        Some(previous) => current.snapshot.taken_ns.saturating_sub(previous.snapshot.taken_ns),
        None => current.uptime_ns,
    } as f64
        / 1e9;
    let before = |edge: &Edge| {
        let edges = &previous?.snapshot.edges;
        let position = edges.binary_search_by(|known| known.key.cmp(&edge.key)).ok()?;
        // After a change of sides the two cannot be compared.
        edges.get(position).filter(|known| known.side == edge.side || known.requests == 0)
    };
    let mut rows: Vec<_> = current.snapshot.edges.iter().map(|edge| row(edge, before(edge), seconds)).collect();
    match sort {
        Sort::Rate => rows.sort_by(|a, b| b.requests_per_second.total_cmp(&a.requests_per_second).then(b.requests.cmp(&a.requests))),
        Sort::Errors => rows.sort_by(|a, b| b.error_share.total_cmp(&a.error_share)),
        Sort::P99 => rows.sort_by_key(|row| Reverse(row.p99_ns)),
    }
    rows
}

fn row(edge: &Edge, before: Option<&Edge>, seconds: f64) -> Row {
    let new_requests = edge.requests.saturating_sub(before.map_or(0, |before| before.requests));
    let (requests, errors, recent);
    match before {
        Some(before) if new_requests > 0 => {
            (requests, errors) = (new_requests, edge.errors.saturating_sub(before.errors));
            recent = edge.durations.since(&before.durations);
        }
        _ => {
            (requests, errors) = (edge.requests, edge.errors);
            recent = edge.durations.clone();
        }
    }
    let durations = if recent.count() > 0 { &recent } else { &edge.durations };
    Row {
        client: shown(&edge.key.client),
        server: shown(&edge.key.server),
        protocol: edge.key.protocol.name(),
        requests_per_second: if seconds > 0.0 { new_requests as f64 / seconds } else { 0.0 },
        error_share: if requests > 0 { errors as f64 / requests as f64 } else { 0.0 },
        p50_ns: durations.quantile(0.5),
        p95_ns: durations.quantile(0.95),
        p99_ns: durations.quantile(0.99),
        requests: edge.requests,
        bytes: edge.bytes_sent + edge.bytes_received,
        retransmits: edge.retransmits,
    }
}

/// The `count` resources of the highest p95, slowest first.
pub fn slowest(current: &Published, count: usize) -> Vec<Slow> {
    let mut all: Vec<_> = current
        .snapshot
        .edges
        .iter()
        .filter_map(|edge| Some((edge, edge.seen_by(edge.side)?)))
        .flat_map(|(edge, counts)| counts.resources.entries().iter().map(move |entry| (edge, entry)))
        .map(|(edge, entry)| (entry.quantile(0.95), entry.max_ns, edge, entry))
        .collect();
    all.sort_by_key(|(p95_ns, max_ns, edge, entry)| (Reverse(*p95_ns), Reverse(*max_ns), &edge.key, &entry.operation, &entry.resource));
    let slow = |(p95_ns, max_ns, edge, entry): (u64, u64, &Edge, &crate::service_map::Resource)| Slow {
        client: shown(&edge.key.client),
        server: shown(&edge.key.server),
        what: printable(&format!("{} {}", entry.operation, entry.resource)),
        requests: entry.seen(),
        errors: entry.errors,
        mean_ns: entry.mean_ns(),
        p95_ns,
        max_ns,
    };
    all.into_iter().take(count).map(slow).collect()
}

/// Host, hooks, events a second, losses and uptime, in one line.
pub fn headline(current: &Published, previous: Option<&Published>) -> String {
    let (events, nanoseconds) = match previous {
        Some(previous) => {
            (current.events().saturating_sub(previous.events()), current.snapshot.taken_ns.saturating_sub(previous.snapshot.taken_ns))
        }
        None => (current.events(), current.uptime_ns),
    };
    let rate = if nanoseconds > 0 { events as f64 * 1e9 / nanoseconds as f64 } else { 0.0 };
    let hooks = if current.ready { printable(&current.hooks) } else { "attaching".to_owned() };
    let uptime_s = current.uptime_ns / 1_000_000_000;
    let (hours, minutes, seconds) = (uptime_s / 3_600, uptime_s / 60 % 60, uptime_s % 60);
    let host = printable(&current.host);
    format!("remora  {host}  hooks {hooks}  {} events/s  lost {}  up {hours}:{minutes:02}:{seconds:02}", amount(rate), current.lost())
}

impl Row {
    /// The cells under [`HEADINGS`].
    pub fn cells(&self) -> [String; 11] {
        let duration = |quantile: Option<u64>| quantile.map_or_else(|| "-".to_owned(), duration);
        let errors = if self.requests == 0 { "-".to_owned() } else { format!("{:.1}", self.error_share * 100.0) };
        [
            self.client.clone(),
            self.server.clone(),
            self.protocol.to_owned(),
            amount(self.requests_per_second),
            errors,
            duration(self.p50_ns),
            duration(self.p95_ns),
            duration(self.p99_ns),
            self.requests.to_string(),
            bytes(self.bytes),
            self.retransmits.to_string(),
        ]
    }
}

impl Slow {
    /// Client and server, in so much room.
    pub fn edge(&self, width: usize) -> String {
        let room = width.saturating_sub(3);
        let client = fit(&self.client, (room / 2).max(room.saturating_sub(self.server.chars().count())));
        let server = fit(&self.server, room.saturating_sub(client.chars().count()));
        format!("{client} → {server}")
    }

    /// The cells under [`SLOW_HEADINGS`].
    pub fn cells(&self) -> [String; 7] {
        [
            self.edge(usize::MAX),
            self.what.clone(),
            self.requests.to_string(),
            self.errors.to_string(),
            duration(self.mean_ns),
            duration(self.p95_ns),
            duration(self.max_ns),
        ]
    }
}

/// The whole table as lines without escapes, as wide as it needs to be.
pub fn plain(current: &Published, previous: Option<&Published>, sort: Sort) -> String {
    let mut out = headline(current, previous);
    notices(current).iter().for_each(|notice| out.extend(["  ", notice]));
    out.push('\n');
    let cells: Vec<_> = rows(current, previous, sort).iter().map(Row::cells).collect();
    columns(&mut out, &HEADINGS, &cells, 3);
    let slow: Vec<_> = slowest(current, 5).iter().map(Slow::cells).collect();
    if !slow.is_empty() {
        out.push('\n');
        columns(&mut out, &SLOW_HEADINGS, &slow, 2);
    }
    out.push('\n');
    out
}

/// The first `words` columns to the left, the others, numbers, to the right.
fn columns<const N: usize>(out: &mut String, headings: &[&str; N], rows: &[[String; N]], words: usize) {
    let mut widths = headings.map(|heading| heading.len());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let headings = headings.map(str::to_owned);
    for row in std::iter::once(&headings).chain(rows) {
        let start = out.len();
        for (position, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Writing into a string cannot fail.
            let _ = if position < words { write!(out, "{cell:<width$}  ") } else { write!(out, "{cell:>width$}  ") };
        }
        out.truncate(start + out[start..].trim_end().len());
        out.push('\n');
    }
}

/// What deserves attention, in few words: idle services, calls to Services that nobody serves, an old copy of the cluster.
pub fn notices(current: &Published) -> Vec<String> {
    let snapshot = &current.snapshot;
    let unserved = snapshot.unserved.iter().filter(|unserved| unserved.quiet_ns < RECENTLY_NS).count();
    let counted = [("idle", snapshot.idle.len()), ("unserved", unserved)].into_iter().filter(|(_, count)| *count > 0);
    let complaint = current.surroundings.kubernetes.as_ref().and_then(|cluster| cluster.complaint());
    let complaint = complaint.map(|complaint| format!("kubernetes: {}", printable(&complaint)));
    counted.map(|(what, count)| format!("{what} {count}")).chain(complaint).collect()
}

/// Names come from the host's programs and from the cluster, so nothing in them may reach the terminal as a command. A workload with
/// its namespace, the pod where edges tell pods apart, a server's port, and the Service where it has another name than the workload.
fn shown(party: &Party) -> String {
    let workload = &party.workload;
    let mut text = printable(&workload.name);
    if let Some(namespace) = &workload.namespace {
        text = format!("{}/{text}", printable(namespace));
    }
    let is_address = workload.kind == WorkloadKind::Address;
    // An address of a Service of which no more is known.
    if let Some(service) = party.service.as_ref().filter(|_| is_address) {
        text = printable(service);
    }
    if let Some(pod) = party.instance.as_ref().and_then(|instance| instance.pod.as_ref()) {
        text = format!("{text}[{}]", printable(short_pod(pod, &workload.name)));
    }
    if let Some(port) = party.port {
        text = if is_address && text.contains(':') { format!("[{text}]:{port}") } else { format!("{text}:{port}") };
    }
    match party.service.as_ref().filter(|service| !is_address && **service != workload.name) {
        Some(service) => format!("{text} ({})", printable(service)),
        None => text,
    }
}

/// What a pod's name says beyond that of its workload: `7d9f8b-x2kzp` of cart's `cart-7d9f8b-x2kzp`.
fn short_pod<'a>(pod: &'a str, workload: &str) -> &'a str {
    pod.strip_prefix(workload).and_then(|rest| rest.strip_prefix('-')).filter(|rest| !rest.is_empty()).unwrap_or(pod)
}

/// As much of a name as there is room for: without the Service first, then the end of it. Names begin alike and end differently.
pub fn fit(name: &str, width: usize) -> String {
    let count = |text: &str| text.chars().count();
    if count(name) <= width {
        return name.to_owned();
    }
    let workload = name.strip_suffix(')').and_then(|name| name.rsplit_once(" (")).map_or(name, |(workload, _)| workload);
    if count(workload) <= width {
        return workload.to_owned();
    }
    let kept = workload.chars().skip(count(workload) - width.saturating_sub(1));
    if width == 0 { String::new() } else { std::iter::once('…').chain(kept).collect() }
}

fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '·' } else { character }).collect()
}

/// Three significant digits and a unit.
pub fn duration(nanoseconds: u64) -> String {
    let value = nanoseconds as f64;
    match nanoseconds {
        0..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => format!("{}µs", three(value / 1e3)),
        1_000_000..1_000_000_000 => format!("{}ms", three(value / 1e6)),
        _ => format!("{}s", three(value / 1e9)),
    }
}

fn three(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else if value < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// Powers of 1024.
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "K", "M", "G", "T"] {
        if value < 1_000.0 {
            return if unit == "B" { format!("{count}B") } else { format!("{}{unit}", three(value)) };
        }
        value /= 1_024.0;
    }
    format!("{value:.0}P")
}

fn amount(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}
