//! How the agent and what it leans on are doing, in numbers and in sentences: for whoever is woken by an alarm.
//! Readiness is another matter: an agent without its API server keeps working on what it last knew.

use std::{fmt, time::Duration};

use super::{Name, Published};

/// What names come from, as it is now. `None`: it is not used here, and nothing is missing.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub kubernetes: Option<ClusterHealth>,
    pub conntrack: Option<ConntrackHealth>,
    pub engine: Option<EngineHealth>,
    /// Every BPF program that was tried.
    pub programs: Vec<ProgramHealth>,
}

/// The agent's copy of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterHealth {
    /// The API server's address, as it is asked.
    pub server: String,
    pub kinds: Vec<KindHealth>,
}

/// The copy of one kind of object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindHealth {
    /// As the API names it: pods, services, endpointslices …
    pub kind: Name,
    pub state: WatchState,
    pub objects: u64,
    /// Changes that the API server told.
    pub events: u64,
    /// Whole lists, the first included.
    pub relists: u64,
    /// Since the API server last said anything, bookmarks included.
    pub silence_ns: u64,
    /// The last failure, in the API server's words.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchState {
    /// The first list is not complete.
    Starting,
    Synced,
    /// The API server is gone; what it last said is what is known.
    Stale,
    /// The agent may not read this kind.
    Refused,
    /// The API server does not have this kind.
    Absent,
}

impl WatchState {
    pub fn name(self) -> &'static str {
        match self {
            WatchState::Starting => "starting",
            WatchState::Synced => "synced",
            WatchState::Stale => "stale",
            WatchState::Refused => "refused",
            WatchState::Absent => "absent",
        }
    }
}

impl ClusterHealth {
    /// In a few words, what is wrong; `None` if nothing is. Of several things the worst.
    pub fn complaint(&self) -> Option<String> {
        let of = |state| self.kinds.iter().filter(move |kind| kind.state == state);
        if let Some(silence_ns) = of(WatchState::Stale).map(|kind| kind.silence_ns).max() {
            return Some(format!("stale {}", Span(silence_ns)));
        }
        for state in [WatchState::Refused, WatchState::Starting] {
            let kinds: Vec<_> = of(state).map(|kind| &*kind.kind).collect();
            if !kinds.is_empty() {
                return Some(format!("{} {}", state.name(), kinds.join(", ")));
            }
        }
        None
    }
}

/// Questions to the kernel's connection tracking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConntrackHealth {
    pub asked: u64,
    pub found: u64,
    /// The kernel did not answer, or not in a way that is understood.
    pub failed: u64,
    /// Why it cannot be asked at all.
    pub error: Option<String>,
}

/// The container engine that names containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineHealth {
    pub socket: String,
    /// Containers that have a name.
    pub containers: u64,
    pub lists: u64,
    pub events: u64,
    /// Events that were not understood, or found no room.
    pub ignored: u64,
    /// Connections that failed or ended.
    pub failures: u64,
}

/// What became of a BPF program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramHealth {
    pub name: String,
    /// attached, unsupported or failed.
    pub state: &'static str,
    pub why: Option<String>,
}

/// What does not work as it should, a sentence each; the most telling first. Empty if all is well.
pub fn degraded(published: &Published) -> Vec<String> {
    let mut sentences = Vec::new();
    if !published.ready {
        sentences.push("No hooks are attached: nothing is seen now.".to_owned());
    }
    let Surroundings { kubernetes, conntrack, engine, programs } = &published.surroundings;
    for program in programs.iter().filter(|program| program.state == "failed") {
        let ProgramHealth { name, why, .. } = program;
        sentences.push(format!("The program {name} could not be attached: {}.", why.as_deref().unwrap_or("no reason was given")));
    }
    for kind in kubernetes.iter().flat_map(|cluster| &cluster.kinds) {
        sentences.extend(kubernetes_sentence(kind));
    }
    if let Some(ConntrackHealth { error: Some(why), .. }) = conntrack {
        sentences
            .push(format!("Connection tracking cannot be asked ({why}): of a connection to a Service the pod that answers is not known."));
    } else if let Some(ConntrackHealth { asked, failed, .. }) = conntrack.as_ref().filter(|conntrack| conntrack.failed > 0) {
        sentences
            .push(format!("{failed} of {asked} questions to connection tracking failed: those connections name a Service, but no pod."));
    }
    if let Some(engine) = engine.as_ref().filter(|engine| engine.lists == 0) {
        let EngineHealth { socket, failures, .. } = engine;
        sentences.push(format!("The container engine at {socket} has not answered ({failures} failures): containers have ids for names."));
    }
    let own = &published.self_metrics;
    for (reason, count) in own.lost.iter().filter(|(_, count)| *count > 0) {
        sentences.push(format!("{count} lost since the start for {reason}; docs/architecture.md says what that means."));
    }
    for map in own.maps.iter().filter(|map| map.capacity > 0 && map.entries.saturating_mul(10) >= map.capacity.saturating_mul(9)) {
        sentences.push(format!("The kernel map {} is nearly full: {} of {} entries.", map.name, map.entries, map.capacity));
    }
    let folded = published.snapshot.folded_edges;
    if folded > 0 {
        sentences.push(format!("The service map is full: {folded} times an edge was counted under \"other\"."));
    }
    sentences
}

fn kubernetes_sentence(health: &KindHealth) -> Option<String> {
    let KindHealth { kind, state, objects, silence_ns, error, .. } = health;
    let why = error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default();
    let silence = Span(*silence_ns);
    match state {
        WatchState::Synced | WatchState::Absent => None,
        WatchState::Starting => Some(format!("The cluster's {kind} are not known yet{why}: what needs them has addresses for names.")),
        WatchState::Stale => {
            Some(format!("The API server has said nothing of {kind} for {silence}{why}: the {objects} that it last told are used."))
        }
        WatchState::Refused => Some(format!("The agent may not read {kind}{why}: grant list and watch to its service account.")),
    }
}

/// Nanoseconds as people say them: 45s, 3m, 2h, 5d.
pub(super) struct Span(pub u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = Duration::from_nanos(self.0).as_secs();
        match seconds {
            0..60 => write!(f, "{seconds}s"),
            60..3_600 => write!(f, "{}m", seconds / 60),
            3_600..86_400 => write!(f, "{}h", seconds / 3_600),
            _ => write!(f, "{}d", seconds / 86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{
        MapFill, SelfMetrics,
        fixtures::{kind_health, published},
    };

    #[test]
    fn all_is_well_without_a_sentence() {
        let well = Published { self_metrics: SelfMetrics::default(), ..published(1) };
        assert_eq!(degraded(&well), [""; 0]);
        let cluster = ClusterHealth { kinds: vec![kind_health("pods", WatchState::Synced)], ..ClusterHealth::default() };
        assert_eq!(cluster.complaint(), None);
        let surroundings = Surroundings { kubernetes: Some(cluster), ..Surroundings::default() };
        assert_eq!(degraded(&Published { surroundings, ..well }), [""; 0]);
    }

    #[test]
    fn each_thing_that_is_wrong_has_its_sentence() {
        let failed = KindHealth { error: Some("connection refused".to_owned()), ..kind_health("pods", WatchState::Stale) };
        let kinds = vec![failed, kind_health("nodes", WatchState::Refused), kind_health("jobs", WatchState::Starting)];
        let program = |name: &str, state, why: Option<&str>| ProgramHealth { name: name.to_owned(), state, why: why.map(str::to_owned) };
        let surroundings = Surroundings {
            kubernetes: Some(ClusterHealth { kinds, ..ClusterHealth::default() }),
            conntrack: Some(ConntrackHealth { asked: 10, found: 4, failed: 3, error: None }),
            engine: Some(EngineHealth { socket: "/run/docker.sock".to_owned(), failures: 2, ..EngineHealth::default() }),
            programs: vec![program("on_send", "failed", Some("permission denied")), program("on_old", "unsupported", None)],
        };
        let self_metrics = SelfMetrics {
            lost: vec![("ring_full".into(), 7), ("parse_gap".into(), 0)],
            maps: vec![MapFill { name: "conns".into(), entries: 95, capacity: 100 }],
            ..SelfMetrics::default()
        };
        let said = degraded(&Published { surroundings, self_metrics, ready: false, ..Published::default() });
        let expected = [
            "No hooks are attached",
            "The program on_send could not be attached: permission denied.",
            "The API server has said nothing of pods for 3m (connection refused): the 40 that it last told are used.",
            "The agent may not read nodes",
            "The cluster's jobs are not known yet",
            "3 of 10 questions to connection tracking failed",
            "The container engine at /run/docker.sock has not answered (2 failures)",
            "7 lost since the start for ring_full",
            "The kernel map conns is nearly full: 95 of 100 entries.",
        ];
        assert_eq!(said.len(), expected.len(), "{said:#?}");
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.starts_with(expected), "{said}\nnot: {expected}");
        }
    }

    #[test]
    fn a_complaint_is_of_the_worst() {
        let cluster = |states: &[(&'static str, WatchState)]| ClusterHealth {
            kinds: states.iter().map(|(kind, state)| kind_health(kind, *state)).collect(),
            ..ClusterHealth::default()
        };
        let (pods, nodes) = ("pods", "nodes");
        for (states, complaint) in [
            (vec![(pods, WatchState::Starting), (nodes, WatchState::Stale)], Some("stale 3m")),
            (vec![(pods, WatchState::Refused), (nodes, WatchState::Refused)], Some("refused pods, nodes")),
            (vec![(pods, WatchState::Synced), (nodes, WatchState::Starting)], Some("starting nodes")),
            (vec![(pods, WatchState::Synced), (nodes, WatchState::Absent)], None),
        ] {
            assert_eq!(cluster(&states).complaint().as_deref(), complaint);
        }
    }

    #[test]
    fn spans_are_said_in_their_largest_unit() {
        let said = [0, 59, 60, 3_599, 3_600, 90_000, 864_000].map(|seconds: u64| Span(seconds * 1_000_000_000).to_string());
        assert_eq!(said, ["0s", "59s", "1m", "59m", "1h", "1d", "10d"]);
    }
}
