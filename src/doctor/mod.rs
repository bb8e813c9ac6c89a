//! `remora doctor`: the features of this host as sentences: what is there, what is chosen and why, what is missing, what that
//! costs and what to do. Asks [`Features`] and the cluster, and judges; how a trial load is made it is told by the caller.

mod host;
mod kubernetes;
mod locked_memory;
mod privileges;

use std::fmt;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    config::{Config, Hooks, Transport},
    probes::{
        features::Features,
        health::{Health, Trial},
        hooks::{HookFamily, choose_hooks, missing},
        load::Flavour,
        verdicts::Verified,
    },
    telemetry::{Exit, one_line},
};

/// How a finding stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Chosen,
    Ok,
    /// Costs the feature that `cost` names.
    Missing,
    /// Absent, as on most hosts; costs what `cost` names where it should be there.
    Absent,
    /// Could not be asked.
    Unknown,
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub topic: &'static str,
    pub name: String,
    pub state: State,
    /// What was found.
    pub found: String,
    /// What its absence costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<&'static str>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<&'static str>,
}

/// A program of a trial load and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Program {
    pub name: String,
    #[serde(flatten)]
    pub health: Health,
    /// What the verifier had to do for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
}

/// A family of hooks, and what came of trying it.
#[derive(Clone, Debug, Serialize)]
pub struct Family {
    pub name: HookFamily,
    /// It was loaded and attached for a trial.
    pub usable: bool,
    /// Why it is not usable; empty where it is.
    pub why: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flavour: Option<Flavour>,
    /// `ring` or `perf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<&'static str>,
    pub programs: Vec<Program>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub version: &'static str,
    pub can_capture: bool,
    pub hooks: Option<HookFamily>,
    /// Why these hooks, or why none.
    pub reason: String,
    /// Every family of hooks, those that are preferred first.
    pub families: Vec<Family>,
    pub findings: Vec<Finding>,
    /// Of the chosen family; empty where none was.
    pub programs: Vec<Program>,
    pub features: Features,
}

/// Asks the kernel and the cluster, and judges; the cluster for two seconds at most. `trial` loads and attaches the programs of a family
/// and lets them go again, with what became of each; it is called for every family that has what it needs.
pub fn examine(config: &Config, trial: impl FnMut(&Features, HookFamily) -> Result<Trial>) -> Report {
    let features = Features::probe(config.btf.as_deref(), &config.btf_archive, &config.docker_socket.sockets());
    let mut report = judge(features, config, trial);
    report.findings.extend(kubernetes::ask(config));
    report
}

fn judge(features: Features, config: &Config, mut trial: impl FnMut(&Features, HookFamily) -> Result<Trial>) -> Report {
    let (wanted, transport) = (config.hooks, config.transport);
    let all = HookFamily::ALL.into_iter().chain([HookFamily::Packet]);
    let families: Vec<_> = all.map(|family| try_family(&features, family, transport, &mut trial)).collect();
    let candidates = choose_hooks(&features, wanted, transport);
    let tried = |family: &HookFamily| families.iter().find(|tried| tried.name == *family);
    let chosen = candidates.iter().flatten().filter_map(tried).find(|family| family.usable);
    let reason = match (&candidates, chosen, wanted) {
        (Err(refusal), ..) => refusal.to_string(),
        (Ok(_), Some(family), Hooks::Auto) => format!("{} is the cheapest family that works here", family.name.name()),
        (Ok(_), Some(family), _) => format!("{} was asked for and works here", family.name.name()),
        (Ok(candidates), None, _) => {
            let failures = candidates.iter().filter_map(tried).map(|family| format!("{}: {}", family.name.name(), family.why.join(", ")));
            format!("no family passed its trial: {}", failures.collect::<Vec<_>>().join("; "))
        }
    };
    let (hooks, programs) = (chosen.map(|family| family.name), chosen.map(|family| family.programs.clone()).unwrap_or_default());
    let mut findings = Vec::new();
    hook_findings(&families, hooks, &features, transport, &mut findings);
    privileges::findings(&features, &mut findings);
    // A trial that passed has made them all, whatever was reckoned.
    if hooks.is_none() {
        locked_memory::findings(&features, config, &mut findings);
    }
    host::kernel(&features, &mut findings);
    host::surroundings(&features, &mut findings);
    Report { version: env!("CARGO_PKG_VERSION"), can_capture: hooks.is_some(), hooks, reason, families, findings, programs, features }
}

fn try_family(
    features: &Features,
    family: HookFamily,
    transport: Transport,
    trial: &mut impl FnMut(&Features, HookFamily) -> Result<Trial>,
) -> Family {
    let mut tried =
        Family { name: family, usable: false, why: missing(features, family, transport), flavour: None, transport: None, programs: vec![] };
    if !tried.why.is_empty() {
        return tried;
    }
    match trial(features, family) {
        Ok(Trial { flavour, transport, programs, verified }) => {
            let program = |(name, health)| Program { verified: verified.get(&name).copied(), name, health };
            let programs = programs.into_iter().map(program).collect();
            Family { usable: true, flavour, transport: Some(transport.name()), programs, ..tried }
        }
        Err(error) => {
            tried.why.push(format!("has all it needs, and yet its trial failed: {}", one_line(&error)));
            tried
        }
    }
}

impl Report {
    pub fn exit(&self) -> Exit {
        if self.can_capture { Exit::Done } else { Exit::Unobservable }
    }

    /// One object, with a line break at its end.
    ///
    /// # Errors
    /// A path of the features is not UTF-8.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).context("writing the report as JSON")? + "\n")
    }
}

fn hook_findings(families: &[Family], chosen: Option<HookFamily>, features: &Features, transport: Transport, findings: &mut Vec<Finding>) {
    for family in families {
        let lacking = missing(features, family.name, transport);
        let (state, found) = match family.transport.filter(|_| family.usable) {
            Some(transport) => {
                let state = if chosen == Some(family.name) { State::Chosen } else { State::Ok };
                let programs = family.flavour.map_or_else(String::new, |flavour| format!("{flavour} programs, "));
                (state, format!("works; {programs}records by {transport}"))
            }
            _ if family.why == lacking => (State::Missing, format!("lacks {}", lacking.join(", "))),
            _ => (State::Missing, family.why.join(", ")),
        };
        let cost = match family.name {
            HookFamily::Socket => "the cheapest way to see every send and receive (tracepoints of Linux 6.3)",
            HookFamily::Fentry => "seeing what io_uring, sendfile and threads of the kernel do, at little cost",
            HookFamily::Kprobe => "the same without BTF in the kernel, at more cost",
            HookFamily::Syscalls => "the way that works without socket tracepoints, trampolines and kprobes",
            HookFamily::Packet => "frames of network interfaces, which need no types of the kernel",
        };
        push(findings, "Hooks", family.name.name(), state, &found, Some((cost, "see what is missing below")));
    }
}

/// `otherwise` (cost, remedy) is told only where something is not there or unknown.
fn push(
    findings: &mut Vec<Finding>,
    topic: &'static str,
    name: &str,
    state: State,
    found: &str,
    otherwise: Option<(&'static str, &'static str)>,
) {
    let (cost, remedy) = match (state, otherwise) {
        (State::Missing | State::Absent, Some((cost, remedy))) => (Some(cost), Some(remedy)),
        (State::Unknown, Some((cost, _))) => (Some(cost), Some("run the doctor with the privileges of the agent")),
        _ => (None, None),
    };
    findings.push(Finding { topic, name: name.to_owned(), state, found: found.to_owned(), cost, remedy });
}

fn there(value: Option<bool>) -> State {
    match value {
        Some(true) => State::Ok,
        Some(false) => State::Missing,
        None => State::Unknown,
    }
}

fn known<'a>(value: Option<bool>, yes: &'a str, no: &'a str, unknown: &'a str) -> &'a str {
    match value {
        Some(true) => yes,
        Some(false) => no,
        None => unknown,
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Chosen => "chosen",
            State::Ok => "ok",
            State::Missing => "missing",
            State::Absent => "absent",
            State::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Remora {} on Linux {} ({})", self.version, self.features.kernel, self.features.architecture)?;
        let mut topic = "";
        for finding in &self.findings {
            if finding.topic != topic {
                topic = finding.topic;
                writeln!(f, "\n{topic}")?;
            }
            writeln!(f, "  {:<20} {:<8} {}", finding.name, finding.state, finding.found)?;
            if let Some(cost) = finding.cost {
                writeln!(f, "  {:<20} {:<8}   costs: {cost}", "", "")?;
            }
            if let Some(remedy) = finding.remedy {
                writeln!(f, "  {:<20} {:<8}   to do: {remedy}", "", "")?;
            }
        }
        if !self.programs.is_empty() {
            writeln!(f, "\nPrograms, loaded for a trial")?;
        }
        for program in &self.programs {
            writeln!(f, "  {:<29} {}", program.name, program.health)?;
        }
        let verdict = if self.can_capture { "Capture can work" } else { "Capture cannot work" };
        writeln!(f, "\n{verdict}: {}.", self.reason)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::probes::{
        self,
        features::{BtfSource, Cgroups, tests::complete},
    };

    fn attached(_: &Features, _: HookFamily) -> Result<Trial> {
        let programs = vec![("send".to_owned(), Health::Attached), ("exec".to_owned(), Health::Failed("EPERM".to_owned()))];
        Ok(Trial { flavour: Some(Flavour::Typed), transport: probes::transport::Transport::Ring, programs, verified: BTreeMap::new() })
    }

    /// Frames need neither types nor tracepoints: they are tried where nothing else is.
    fn not_tried(features: &Features, family: HookFamily) -> Result<Trial> {
        assert_eq!(family, HookFamily::Packet, "loaded where the features do not suffice");
        attached(features, family)
    }

    fn judge(features: Features, wanted: Hooks, trial: impl FnMut(&Features, HookFamily) -> Result<Trial>) -> Report {
        super::judge(features, &Config { hooks: wanted, ..Config::default() }, trial)
    }

    #[test]
    fn a_complete_host_has_nothing_to_do() {
        let report = judge(complete(), Hooks::Auto, attached);
        assert_eq!(report.exit(), Exit::Done);
        assert!(report.findings.iter().all(|finding| finding.cost.is_none() && finding.remedy.is_none()), "{report}");
        let text = report.to_string();
        assert!(text.ends_with("Capture can work: socket is the cheapest family that works here.\n"), "{text}");
    }

    #[test]
    fn what_is_missing_says_its_cost_and_its_remedy() {
        let mut features = complete();
        features.capabilities.clear();
        features.host_pid_namespace = Some(false);
        let report = judge(features, Hooks::Auto, not_tried);
        assert_eq!(report.exit(), Exit::Unobservable);
        let text = report.to_string();
        for part in [
            "costs: everything: nothing can be loaded",
            "to do: run as root",
            "--pid=host",
            "hostPID: true",
            "Capture cannot work: this host lacks CAP_BPF",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    /// The names of what is missing in a topic.
    fn missing_of(report: &Report, topic: &str) -> Vec<String> {
        let missing = |finding: &&Finding| finding.topic == topic && finding.state == State::Missing;
        report.findings.iter().filter(missing).map(|finding| finding.name.clone()).collect()
    }

    #[test]
    fn each_capability_is_missed_by_its_own_name() {
        for name in ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_NET_ADMIN"] {
            let mut features = complete();
            let stand_ins = ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"];
            features.capabilities.retain(|held| held != name && !stand_ins.contains(&held.as_str()));
            let loads = features.may_load();
            assert_eq!(loads, !["CAP_BPF", "CAP_PERFMON"].contains(&name));
            let report = judge(features, Hooks::Auto, attached);
            assert_eq!(missing_of(&report, "Privileges"), [name], "{report}");
            assert_eq!(report.can_capture, loads);
            assert!(loads || report.reason.contains(name), "{report}");
            assert!(report.to_string().contains(&format!("--cap-add={}", name.strip_prefix("CAP_").unwrap())), "{report}");
        }
    }

    #[test]
    fn sys_admin_stands_in_for_loading_and_for_nothing_else() {
        let mut features = complete();
        features.capabilities = vec!["CAP_SYS_ADMIN".to_owned()];
        let report = judge(features, Hooks::Auto, attached);
        assert_eq!(missing_of(&report, "Privileges"), ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_NET_ADMIN"], "{report}");
        assert!(report.can_capture && report.to_string().contains("held through CAP_SYS_ADMIN"), "{report}");
    }

    #[test]
    fn what_is_refused_in_spite_of_the_capability_has_a_name_of_its_own() {
        let mut features = complete();
        features.bpf_call = Some(false);
        let report = judge(features, Hooks::Auto, not_tried);
        assert_eq!(missing_of(&report, "Privileges"), ["bpf system call"], "{report}");
        assert!(report.reason.contains("seccomp"), "{report}");
        let mut features = complete();
        features.reads_processes = Some(false);
        let report = judge(features, Hooks::Auto, attached);
        assert_eq!(missing_of(&report, "Privileges"), ["process links"], "{report}");
        assert!(report.to_string().contains("apparmor=unconfined"), "{report}");
    }

    #[test]
    fn a_container_of_its_own_world_is_told_what_to_mount_and_to_share() {
        let mut features = complete();
        (features.host_network_namespace, features.whole_cgroup_tree, features.docker_socket) = (Some(false), Some(false), None);
        let report = judge(features.clone(), Hooks::Auto, attached);
        assert_eq!(missing_of(&report, "Privileges"), ["network namespace"], "{report}");
        assert_eq!(missing_of(&report, "Surroundings"), ["cgroups"], "{report}");
        let text = report.to_string();
        for part in ["--network=host", "hostNetwork: true", "-v /sys/fs/cgroup:/sys/fs/cgroup:ro", "absent   no socket", "docker.sock:ro"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        (features.host_pid_namespace, features.host_network_namespace) = (Some(false), None);
        let report = judge(features.clone(), Hooks::Auto, attached);
        assert_eq!(missing_of(&report, "Privileges"), ["pid namespace"], "{report}");
        (features.btf, features.tracefs) = (BtfSource::None, None);
        let report = judge(features, Hooks::Auto, not_tried);
        assert_eq!(missing_of(&report, "Surroundings"), ["tracefs", "cgroups"], "{report}");
        assert!(report.to_string().contains("-v /sys/kernel/btf:/sys/kernel/btf:ro"), "{report}");
    }

    #[test]
    fn a_failed_trial_overrules_the_features_and_says_what_failed() {
        let failed = || Err(anyhow::anyhow!("EPERM").context("loading the BPF programs"));
        let report = judge(complete(), Hooks::Socket, |_, _| failed());
        assert_eq!(report.exit(), Exit::Unobservable);
        let verdict = "Capture cannot work: no family passed its trial: \
                       socket: has all it needs, and yet its trial failed: loading the BPF programs: EPERM.\n";
        assert!(report.to_string().ends_with(verdict), "{report}");
        let report = judge(complete(), Hooks::Auto, |features, family| match family {
            HookFamily::Socket => failed(),
            _ => attached(features, family),
        });
        assert_eq!((report.exit(), report.hooks), (Exit::Done, Some(HookFamily::Fentry)), "{report}");
        assert!(report.to_string().contains("socket               missing  has all it needs, and yet its trial failed"), "{report}");
    }

    #[test]
    fn want_of_locked_memory_explains_a_failure_and_nothing_else() {
        let mut features = complete();
        features.capabilities.retain(|held| held != "CAP_SYS_RESOURCE");
        features.locked_memory.maps_count = true;
        (features.locked_memory.limit_bytes, features.locked_memory.hard_limit_bytes) = (Some(65_536), Some(65_536));
        let report = judge(features.clone(), Hooks::Auto, |_, _| Err(anyhow::anyhow!("EPERM")));
        assert_eq!(missing_of(&report, "Privileges"), ["locked memory"], "{report}");
        let report = judge(features, Hooks::Auto, attached);
        assert_eq!(missing_of(&report, "Privileges"), [""; 0], "{report}");
    }

    #[test]
    fn an_optional_program_that_fails_is_shown_and_stops_nothing() {
        let report = judge(complete(), Hooks::Auto, attached);
        assert_eq!(report.exit(), Exit::Done);
        assert!(report.to_string().contains("exec                          failed: EPERM"), "{report}");
    }

    #[test]
    fn a_host_without_tidings_of_control_groups_can_be_observed_and_costs_the_containers_that_are_gone() {
        let mut features = complete();
        features.cgroups = Cgroups::None;
        features.set_tracepoint("cgroup_mkdir", false);
        let report = judge(features, Hooks::Auto, attached);
        assert_eq!(report.exit(), Exit::Done);
        let text = report.to_string();
        for part in ["cgroups              missing  not mounted", "costs: containers that end before they are looked at"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn the_json_report_has_the_decision_and_the_states_as_words() {
        let json: serde_json::Value = serde_json::from_str(&judge(complete(), Hooks::Syscalls, attached).to_json().unwrap()).unwrap();
        assert_eq!((&json["hooks"], &json["can_capture"]), (&"syscalls".into(), &true.into()));
        let families: Vec<_> = json["families"].as_array().unwrap().iter().map(|family| family["name"].as_str().unwrap()).collect();
        assert_eq!(families, ["socket", "fentry", "syscalls", "kprobe", "packet"]);
        assert_eq!((&json["families"][2]["usable"], &json["families"][2]["flavour"]), (&true.into(), &"typed".into()));
        assert_eq!(json["findings"][0]["state"], "ok");
        assert_eq!(json["findings"][2]["state"], "chosen");
        assert_eq!(json["programs"][0], serde_json::json!({ "name": "send", "state": "attached" }));
        assert_eq!(json["programs"][1], serde_json::json!({ "name": "exec", "state": "failed", "why": "EPERM" }));
        assert_eq!(json["features"]["btf"]["from"], "kernel");
    }
}
