//! The agent in a container, watching others: the image as it is shipped, on a real engine. `make test-containers`.
//! The tests take turns: each has the whole machine, because the agent sees all of it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod engine;
#[allow(dead_code, reason = "shared with other tests, each of which uses a part")]
#[path = "../support/mod.rs"]
mod support;

use std::process::Stdio;

use engine::{Grants, Shop, docker, done, exact, inspect, watch};
use serde_json::Value;
use support::{
    exchange::{Exchange, Report},
    machine,
    process::Ended,
};

const PORT: u16 = 7180;
const REQUESTS: u64 = 10_000;

fn container_name(id: &str) -> String {
    inspect(id, "{{.Name}}").trim_start_matches('/').to_owned()
}

/// Both ends of an exchange are containers of these names.
#[track_caller]
fn assert_ends(exchange: &Exchange, client: (&str, &str), server: (&str, &str)) {
    for (peer, (id, name)) in [(&exchange.client, client), (&exchange.server, server)] {
        assert_eq!(peer.kind.as_deref(), Some("container"), "{exchange:#?}");
        assert_eq!((peer.container_id.as_deref(), peer.name.as_deref()), (Some(id), Some(name)), "{exchange:#?}");
    }
}

fn of_path<'a>(report: &'a Report, side: &str, path: &str) -> Vec<&'a Exchange> {
    report.of(PORT, side).into_iter().filter(|exchange| exchange.resource == path).collect()
}

/// Ten thousand requests between containers of a bridge network, counted on both sides and at the server.
fn ten_thousand_requests(grants: &Grants, project: &str) {
    let _machine = machine();
    let shop = Shop::open(project);
    let agent = watch(grants, &format!("{project}-agent"), PORT);
    shop.complete("visitor");
    let (web, visitor) = (shop.container("web"), shop.container("visitor"));
    let (web_name, visitor_name) = (container_name(&web), container_name(&visitor));
    agent.settled_requests(|edge| edge.server().starts_with(&web_name));
    let report = agent.finish();

    assert_eq!(shop.log("web").matches("GET /shop 200").count() as u64, REQUESTS, "what nginx counted");
    report.summary().assert_nothing_lost();
    for (side, id) in [("client", &visitor), ("server", &web)] {
        let exchanges = of_path(&report, side, "/shop");
        assert_eq!(exchanges.len() as u64, REQUESTS, "{side} side");
        for exchange in exchanges {
            assert_eq!((exchange.container(), exchange.status.as_str()), (id.as_str(), "200"), "{side} side: {exchange:#?}");
            assert_ends(exchange, (&visitor, &visitor_name), (&web, &web_name));
        }
    }
    for exchange in report.of(PORT, "client").into_iter().chain(report.of(PORT, "server")) {
        for (peer, service) in [(&exchange.client, "visitor"), (&exchange.server, "web")] {
            assert_eq!(peer.image, Some(format!("remora-test-{service}:1")), "{exchange:#?}");
            let compose = (peer.compose_project.as_deref(), peer.compose_service.as_deref());
            assert_eq!(compose, (Some(project), Some(service)), "{exchange:#?}");
        }
    }
    let edges: Vec<_> = report.summary().edges.iter().filter(|edge| edge.client() == visitor_name).collect();
    assert_eq!(edges.iter().map(|edge| edge.requests).sum::<u64>(), REQUESTS, "{edges:#?}");
    assert!(edges.iter().all(|edge| edge.server().starts_with(&web_name) && edge.errors == 0), "{edges:#?}");
}

#[test]
fn a_privileged_container_sees_every_request_between_others() {
    ten_thousand_requests(&Grants::privileged(), "remora-privileged");
}

#[test]
fn a_container_with_the_exact_capabilities_sees_every_request_between_others() {
    ten_thousand_requests(&Grants::capabilities(exact()), "remora-exact");
}

#[test]
fn a_container_that_lives_for_one_request_is_named() {
    const RUNS: usize = 10;
    let _machine = machine();
    let shop = Shop::open("remora-short");
    let agent = watch(&Grants::capabilities(exact()), "remora-short-agent", PORT);
    let web = shop.container("web");
    let web_name = container_name(&web);
    let ids = tempfile::tempdir().unwrap();
    let mut lived = Vec::new();
    for run in 0..RUNS {
        let (name, file) = (format!("remora-short-lived-{run}"), ids.path().join(run.to_string()));
        let mut command = docker(&["run", "--rm", "--network", &shop.network(), "--name", &name, "--cidfile"]);
        command.arg(&file).args(["remora-test-visitor:1", "curl", "--silent", "--fail", &format!("http://web:{PORT}/once/{name}")]);
        assert_eq!(done(command), "constant");
        lived.push((name, std::fs::read_to_string(&file).unwrap()));
    }
    agent.wait_for("both sides of the last request", |report| {
        let last = format!("/once/{}", lived[RUNS - 1].0);
        of_path(report, "client", &last).len() + of_path(report, "server", &last).len() == 2
    });
    let report = agent.finish();
    report.summary().assert_nothing_lost();
    for (name, id) in &lived {
        for side in ["client", "server"] {
            let exchanges = of_path(&report, side, &format!("/once/{name}"));
            assert_eq!(exchanges.len(), 1, "{name}, {side} side");
            assert_ends(exchanges[0], (id, name), (&web, &web_name));
        }
    }
}

struct Diagnosis {
    report: Value,
    code: i32,
}

impl Diagnosis {
    fn missing(&self) -> Vec<&str> {
        let findings = self.report["findings"].as_array().unwrap();
        // What hooks and kernels lack follows from what is said under the other topics; perf hangs on a sysctl of the host's.
        let counts = |finding: &&Value| finding["topic"] != "Hooks" && finding["name"] != "perf events";
        let missing = findings.iter().filter(|finding| finding["state"] == "missing").filter(counts);
        missing.map(|finding| finding["name"].as_str().unwrap()).collect()
    }

    fn finding(&self, name: &str) -> &Value {
        let findings = self.report["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("no {name} in {:#}", self.report))
    }
}

#[track_caller]
fn doctor(grants: &Grants) -> Diagnosis {
    let ended: Ended = engine::run(grants, &["doctor", "--json"]);
    let report = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error} in {:?}, {:?}", ended.stdout, ended.stderr));
    Diagnosis { report, code: ended.code() }
}

#[test]
fn the_doctor_misses_nothing_with_either_list() {
    let _machine = machine();
    for grants in [Grants::privileged(), Grants::capabilities(exact())] {
        let diagnosis = doctor(&grants);
        assert_eq!(diagnosis.missing(), [""; 0], "{grants:?}: {:#}", diagnosis.report);
        assert_eq!((diagnosis.code, &diagnosis.finding("Docker")["state"]), (0, &"ok".into()), "{:#}", diagnosis.report);
    }
}

#[test]
fn the_doctor_names_each_capability_that_the_container_was_not_given() {
    let _machine = machine();
    for dropped in exact() {
        let rest: Vec<_> = exact().iter().copied().filter(|name| name != dropped).collect();
        let diagnosis = doctor(&Grants::capabilities(&rest));
        let expected = match *dropped {
            // It stood for two.
            "SYS_ADMIN" => vec!["CAP_BPF".to_owned(), "CAP_PERFMON".to_owned()],
            name => vec![format!("CAP_{name}")],
        };
        assert_eq!(diagnosis.missing(), expected, "without {dropped}: {:#}", diagnosis.report);
        let needed = ["SYS_ADMIN", "BPF", "PERFMON"].contains(dropped);
        assert_eq!(diagnosis.code, if needed { 3 } else { 0 }, "without {dropped}: {}", diagnosis.report["reason"]);
    }
}

#[test]
fn the_doctor_names_each_namespace_and_mount_that_the_container_was_not_given() {
    let _machine = machine();
    let all = Grants::capabilities(exact());
    let cases = [
        (Grants { pid: false, ..all.clone() }, vec!["pid namespace"], "hostPID: true"),
        (Grants { network: false, ..all.clone() }, vec!["network namespace"], "hostNetwork: true"),
        // Where the host's processes are seen, its control groups can be read through the first of them.
        (Grants { cgroups: false, pid: false, ..all.clone() }, vec!["cgroups", "pid namespace"], "-v /sys/fs/cgroup:/sys/fs/cgroup:ro"),
    ];
    for (grants, expected, remedy) in cases {
        let diagnosis = doctor(&grants);
        let mut missing = diagnosis.missing();
        missing.sort_unstable();
        assert_eq!(missing, expected, "{grants:?}: {:#}", diagnosis.report);
        let said = diagnosis.finding(expected[0])["remedy"].as_str().unwrap();
        assert!(said.contains(remedy) && said.contains("docker run") && said.contains("Kubernetes"), "{said}");
    }
    let diagnosis = doctor(&Grants { socket: false, ..all });
    assert_eq!(diagnosis.missing(), [""; 0], "{:#}", diagnosis.report);
    assert_eq!(diagnosis.finding("Docker")["state"], "absent", "a host without Docker lacks nothing");
}

#[test]
fn the_doctor_tells_a_seccomp_filter_from_a_missing_capability() {
    let _machine = machine();
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("without-bpf.json");
    let refused = serde_json::json!({ "names": ["bpf"], "action": "SCMP_ACT_ERRNO" });
    std::fs::write(&profile, serde_json::json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused] }).to_string()).unwrap();
    let mut grants = Grants::capabilities(exact());
    grants.privileges.retain(|word| !word.contains("seccomp"));
    grants.privileges.push(format!("--security-opt=seccomp={}", profile.display()));
    let diagnosis = doctor(&grants);
    assert_eq!(diagnosis.missing(), ["bpf system call"], "{:#}", diagnosis.report);
    assert_eq!(diagnosis.code, 3, "{}", diagnosis.report["reason"]);
}

#[test]
fn the_image_is_small_and_has_nothing_but_the_agent() {
    let size: u64 = inspect(engine::image(), "{{.Size}}").parse().unwrap();
    assert!(size <= 40 << 20, "{size} bytes");
    let container = done(docker(&["create", engine::image()]));
    let mut export = docker(&["export", &container]).stdout(Stdio::piped()).spawn().unwrap();
    let listed = std::process::Command::new("tar").args(["-t"]).stdin(export.stdout.take().unwrap()).output().unwrap();
    assert!(export.wait().unwrap().success());
    done(docker(&["rm", &container]));
    let listed = String::from_utf8(listed.stdout).unwrap();
    // What the engine puts into every container: devices, the files of names, mount points.
    let of_engine = ["dev/", "proc/", "sys/", ".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"];
    let ours = listed.lines().filter(|path| !path.ends_with('/') && !of_engine.iter().any(|prefix| path.starts_with(prefix)));
    assert_eq!(ours.collect::<Vec<_>>(), ["etc/ssl/certs/ca-certificates.crt", "remora"]);
}
