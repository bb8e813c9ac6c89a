//! The agent's JSON lines as values, under the names of the contract.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value;

#[derive(Clone, Debug, Deserialize)]
pub struct Exchange {
    pub start_unix_nano: u64,
    pub duration_ns: u64,
    pub ttfb_ns: Option<u64>,
    pub protocol: String,
    pub side: String,
    pub client: Peer,
    pub server: Peer,
    pub process: Option<Process>,
    pub operation: String,
    pub resource: String,
    pub status: String,
    pub error: bool,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub connection_id: u64,
    pub peer_connection_id: Option<u64>,
    #[serde(default)]
    pub attributes: HashMap<String, Value>,
    #[serde(default)]
    pub flags: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Peer {
    pub address: String,
    pub port: u16,
    pub name: Option<String>,
    pub kind: Option<String>,
    pub container_id: Option<String>,
    pub image: Option<String>,
    pub compose_project: Option<String>,
    pub compose_service: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub comm: String,
    pub container_id: Option<String>,
}

impl Exchange {
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, |process| process.pid)
    }

    pub fn comm(&self) -> &str {
        self.process.as_ref().map_or("", |process| &process.comm)
    }

    pub fn container(&self) -> &str {
        self.process.as_ref().and_then(|process| process.container_id.as_deref()).unwrap_or("")
    }
}

/// A closed or failed connection.
#[derive(Clone, Debug, Deserialize)]
pub struct Connection {
    pub client: Peer,
    pub server: Peer,
    pub role: String,
    pub duration_ns: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub retransmits: u64,
    pub srtt_us: Option<u64>,
    pub connect_ns: Option<u64>,
    pub error: Option<String>,
    pub process: Option<Process>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Edge {
    client: Value,
    server: Value,
    pub protocol: String,
    pub requests: u64,
    pub errors: u64,
    pub p50_ns: Option<u64>,
    pub p95_ns: Option<u64>,
    pub p99_ns: Option<u64>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub retransmits: u64,
}

impl Edge {
    pub fn client(&self) -> &str {
        name_of(&self.client)
    }

    pub fn server(&self) -> &str {
        name_of(&self.server)
    }
}

/// An end of an edge is written as its name or as an object with a name.
fn name_of(end: &Value) -> &str {
    end.as_str().or_else(|| end["name"].as_str()).unwrap_or_else(|| panic!("an end of an edge without a name: {end}"))
}

#[derive(Clone, Debug, Deserialize)]
pub struct Summary {
    pub exchanges: u64,
    pub by_protocol: BTreeMap<String, u64>,
    pub edges: Vec<Edge>,
    pub lost: BTreeMap<String, u64>,
    pub elapsed_ns: u64,
}

impl Summary {
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        let lost: Vec<_> = self.lost.iter().filter(|(_, count)| **count > 0).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    }

    /// The one edge between these workloads.
    #[track_caller]
    pub fn edge(&self, client: &str, server: &str, protocol: &str) -> &Edge {
        let wanted = |edge: &&Edge| edge.client() == client && edge.server() == server && edge.protocol == protocol;
        let found: Vec<_> = self.edges.iter().filter(wanted).collect();
        assert_eq!(found.len(), 1, "one edge {client} → {server} ({protocol}) in {:#?}", self.edges);
        found[0]
    }
}

/// All that the agent wrote on stdout.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub exchanges: Vec<Exchange>,
    pub connections: Vec<Connection>,
    pub ready: Option<Value>,
    pub summary: Option<Summary>,
    /// Of other types.
    pub others: Vec<Value>,
    /// The last line that was taken in: the summary must be that.
    last: String,
}

impl Report {
    pub fn read(text: &str) -> Self {
        let mut report = Self::default();
        text.lines().for_each(|line| report.take(line));
        report
    }

    pub fn take(&mut self, line: &str) {
        fn parse<T: serde::de::DeserializeOwned>(line: &str) -> T {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in the line {line}"))
        }
        #[derive(Deserialize)]
        struct Typed<'a> {
            #[serde(rename = "type", borrow)]
            kind: std::borrow::Cow<'a, str>,
        }
        let typed: Typed<'_> = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in the line {line}"));
        match typed.kind.as_ref() {
            "exchange" => self.exchanges.push(parse(line)),
            "connection" => self.connections.push(parse(line)),
            "ready" => self.ready = Some(parse(line)),
            "summary" => self.summary = Some(parse(line)),
            _ => self.others.push(parse(line)),
        }
        self.last = typed.kind.into_owned();
    }

    /// The summary, which is the last line.
    #[track_caller]
    pub fn summary(&self) -> &Summary {
        assert_eq!(self.last, "summary", "the summary is the last line");
        self.summary.as_ref().expect("a summary")
    }

    /// Exchanges with a server on this port as one side saw them.
    pub fn of(&self, port: u16, side: &str) -> Vec<&Exchange> {
        self.exchanges.iter().filter(|exchange| exchange.server.port == port && exchange.side == side).collect()
    }
}

/// How often each value of a key occurs.
pub fn count_by<'a, K: Ord>(exchanges: &[&'a Exchange], key: impl Fn(&'a Exchange) -> K) -> BTreeMap<K, u64> {
    let mut counts = BTreeMap::new();
    for exchange in exchanges {
        *counts.entry(key(exchange)).or_insert(0) += 1;
    }
    counts
}
