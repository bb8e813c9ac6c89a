//! The agent's JSON lines, counted by who asked whom.

use std::collections::BTreeMap;

use serde_json::Value;

/// Exchanges by client, server, protocol and operation; each end as `namespace/name`.
pub type Counts = BTreeMap<[String; 4], u64>;

/// Exchange lines that began within a span of time.
pub struct Lines(Vec<Value>);

impl Lines {
    /// `log` is the agent's output; times are nanoseconds since 1970.
    pub fn of(log: &str, since_ns: u64, until_ns: u64) -> Self {
        let within = |line: &Value| line["start_unix_nano"].as_u64().is_some_and(|start_ns| (since_ns..until_ns).contains(&start_ns));
        let exchanges = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(|line| line["type"] == "exchange");
        Self(exchanges.filter(within).collect())
    }

    pub fn seen_by<'a>(&'a self, side: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |line| line["side"] == side)
    }

    pub fn all(&self) -> &[Value] {
        &self.0
    }

    /// What `side` saw, by workload.
    pub fn counts(&self, side: &str) -> Counts {
        let mut counts = Counts::new();
        for line in self.seen_by(side) {
            let key = [workload(&line["client"]), workload(&line["server"]), text(&line["protocol"]), text(&line["operation"])];
            *counts.entry(key).or_default() += 1;
        }
        counts
    }

    /// What `side` saw, by pair of pods and protocol.
    pub fn pods(&self, side: &str) -> BTreeMap<[String; 3], u64> {
        let mut counts = BTreeMap::new();
        for line in self.seen_by(side) {
            *counts.entry([text(&line["client"]["pod"]), text(&line["server"]["pod"]), text(&line["protocol"])]).or_default() += 1;
        }
        counts
    }
}

/// `namespace/name`, or the name alone.
pub fn workload(party: &Value) -> String {
    match party["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{}", text(&party["name"])),
        None => text(&party["name"]),
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
