//! The files of `deploy/`: that the ways to write the same thing say the same, and that what reads them understands them.
//! Renders with make, kubectl and a chart renderer; no cluster, no engine, no root.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "deploy/chart.rs"]
mod chart;
#[path = "deploy/objects.rs"]
mod objects;

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{Namespace, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    serde::{Serialize, de::DeserializeOwned},
};
use remora::attribution::kubernetes::{Kind, Verb};
use serde_json::{Value, json};

use chart::Chart;
use objects::{Objects, differences, objects};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the agent is allowed to, and nothing else, in every way to run it.
const CAPABILITIES: [&str; 5] = ["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "NET_ADMIN"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text_of(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn file(path: &str) -> Objects {
    objects(&text_of(path))
}

/// Runs a program at the root of the tree and wants it to succeed.
fn output_of(program: &str, arguments: &[&str]) -> String {
    let output: Output = Command::new(program).args(arguments).current_dir(root()).output().unwrap_or_else(|error| {
        panic!("{program}: {error}; `make deps-test` installs what is needed");
    });
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The DaemonSet among some objects.
fn daemonset(objects: &Objects) -> &Value {
    &objects[&("DaemonSet".to_owned(), "remora".to_owned())]
}

fn container(objects: &Objects) -> &Value {
    &daemonset(objects)["spec"]["template"]["spec"]["containers"][0]
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array().unwrap_or_else(|| panic!("{list} is no list")).iter().map(|word| word.as_str().unwrap()).collect()
}

#[test]
fn the_one_file_is_what_make_manifests_writes() {
    let written = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("remora.yaml");
    output_of("make", &["-s", "manifests", &format!("MANIFEST={}", written.display())]);
    assert!(fs::read_to_string(&written).unwrap() == text_of("deploy/kubernetes/remora.yaml"), "run `make manifests`");
}

#[test]
fn kustomize_makes_the_same_objects_of_the_base() {
    let base = objects(&output_of("kubectl", &["kustomize", "deploy/kubernetes/base"]));
    assert_eq!(differences(&base, &file("deploy/kubernetes/remora.yaml")), "");
    assert_eq!(base.len(), 7);
}

#[test]
fn the_chart_renders_the_same_objects() {
    let plain = file("deploy/kubernetes/remora.yaml");
    assert_eq!(differences(&Chart::get().objects(""), &plain), "");
}

#[test]
fn the_chart_renders_the_same_pod_monitor_and_the_same_privileged_overlay() {
    let mut plain = file("deploy/kubernetes/remora.yaml");
    plain.extend(file("deploy/kubernetes/podmonitor.yaml"));
    assert_eq!(differences(&Chart::get().objects("podMonitor: {enabled: true}"), &plain), "");
    let overlay = objects(&output_of("kubectl", &["kustomize", "deploy/kubernetes/privileged"]));
    assert_eq!(differences(&Chart::get().objects("privileged: true\nsecurity: {appArmorProfile: unconfined}"), &overlay), "");
}

#[test]
fn the_chart_puts_its_values_where_they_belong() {
    let values = "
name: eyes
namespace: {create: false}
image: {repository: remora/agent, tag: 1.2.3, pullSecrets: [key]}
settings: {log: debug, max_connections: 1000000, port: '80,5432'}
address: '[::]'
port: 7118
tracefs: false
btf: {configMap: kernels.types}
security: {seccompProfile: RuntimeDefault, appArmorProfile: '', seLinuxType: ''}
nodeSelector: {pool: blue}
maxUnavailable: 3
podLabels: {team: net}
podAnnotations: {owner: net}
prometheusAnnotations: false
service: {enabled: false}
networkPolicy: {from: [{namespaceSelector: {}}]}
podMonitor: {enabled: true, interval: 1m, labels: {release: main}}
";
    let rendered = Chart::get().objects(values);
    let named = |kind: &str| &rendered[&(kind.to_owned(), "eyes".to_owned())];
    let kinds: Vec<&str> = rendered.keys().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["ClusterRole", "ClusterRoleBinding", "DaemonSet", "NetworkPolicy", "PodMonitor", "ServiceAccount"]);
    for (kind, _) in rendered.keys().filter(|(kind, _)| !kind.starts_with("ClusterRole")) {
        assert_eq!(named(kind)["metadata"]["namespace"], "elsewhere", "{kind}");
    }
    assert_eq!(named("ClusterRoleBinding")["subjects"], json!([{"kind": "ServiceAccount", "name": "eyes", "namespace": "elsewhere"}]));
    let template = &named("DaemonSet")["spec"]["template"];
    let pod = &template["spec"];
    assert_eq!(template["metadata"]["annotations"], json!({"owner": "net"}));
    assert_eq!(template["metadata"]["labels"]["team"], "net");
    assert_eq!(named("DaemonSet")["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 3);
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "key"}]));
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/os": "linux", "pool": "blue"}));
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "remora/agent:1.2.3");
    assert_eq!(container["volumeMounts"][1], json!({"name": "btf", "mountPath": "/etc/remora/btf", "readOnly": true}));
    assert_eq!(pod["volumes"][1], json!({"name": "btf", "configMap": {"name": "kernels.types"}}));
    assert_eq!([&container["volumeMounts"], &pod["volumes"]].map(|list| list.as_array().unwrap().len()), [2, 2], "no tracefs");
    assert_eq!(container["ports"][0]["containerPort"], 7118);
    assert_eq!(container["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(container["securityContext"].get("seLinuxOptions"), None);
    let variable = |name: &str| {
        let found = container["env"].as_array().unwrap().iter().find(|variable| variable["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}"))["value"].as_str().unwrap().to_owned()
    };
    assert_eq!(variable("REMORA_LISTEN"), "[::]:7118");
    assert_eq!(variable("REMORA_LOG"), "debug");
    assert_eq!(variable("REMORA_MAX_CONNECTIONS"), "1000000");
    assert_eq!(variable("REMORA_PORT"), "80,5432");
    assert_eq!(named("NetworkPolicy")["spec"]["ingress"][0]["from"], json!([{"namespaceSelector": {}}]));
    assert_eq!(named("PodMonitor")["metadata"]["labels"]["release"], "main");
}

#[test]
fn the_chart_refuses_values_that_it_does_not_know_or_that_cannot_be() {
    for (values, complaint) in [
        ("nmae: remora", "nmae is not allowed"),
        ("image: {tga: x}", "tga is not allowed"),
        ("image: {pullPolicy: Sometimes}", "pullPolicy"),
        ("image: {repository: 'Has Spaces'}", "repository"),
        ("port: '7117'", "port: Invalid type"),
        ("port: 70000", "port"),
        ("privileged: maybe", "privileged: Invalid type"),
        ("security: {seccompProfile: none}", "seccompProfile"),
        ("tracefs: maybe", "tracefs: Invalid type"),
        ("btf: {configmap: types}", "configmap is not allowed"),
        ("btf: {configMap: Kernel Types}", "configMap"),
        ("resources: {limits: {memory: lots}}", "memory"),
        ("resources: {limits: {mem: 1Gi}}", "mem is not allowed"),
        ("tolerations: [{operator: Any}]", "operator"),
        ("settings: {Log: debug}", "Log"),
        ("settings: {listen: none}", "listen"),
        ("settings: {pid: [1, 2]}", "pid: Invalid type"),
        ("podMonitor: {enabled: true, interval: soon}", "interval"),
        ("networkPolicy: {from: [{}]}", "from.0"),
        ("namespace: {name: Remora}", "namespace.name"),
        ("maxUnavailable: 0%", "maxUnavailable"),
    ] {
        let refusal = Chart::get().render(values, "elsewhere").expect_err(values);
        assert!(refusal.contains(complaint), "{values}: {refusal}");
    }
}

#[test]
fn the_chart_says_so_when_release_and_chart_would_both_make_the_namespace() {
    let refusal = Chart::get().render("", "remora").unwrap_err();
    assert!(refusal.contains("the chart makes the namespace remora itself: leave out --namespace"), "{refusal}");
    Chart::get().render("namespace: {create: false}", "remora").unwrap();
}

/// Reads an object as Kubernetes' own type and writes it again: a field that the type does not know gets lost.
fn knows<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object:#}"));
    serde_json::to_value(typed).unwrap()
}

#[test]
fn every_field_is_one_that_kubernetes_knows() {
    let overlay = objects(&output_of("kubectl", &["kustomize", "deploy/kubernetes/privileged"]));
    for object in file("deploy/kubernetes/remora.yaml").values().chain(overlay.values()) {
        let known = match object["kind"].as_str().unwrap() {
            "Namespace" => knows::<Namespace>(object),
            "ServiceAccount" => knows::<ServiceAccount>(object),
            "ClusterRole" => knows::<ClusterRole>(object),
            "ClusterRoleBinding" => knows::<ClusterRoleBinding>(object),
            "DaemonSet" => knows::<DaemonSet>(object),
            "Service" => knows::<Service>(object),
            "NetworkPolicy" => knows::<NetworkPolicy>(object),
            other => panic!("what is a {other}?"),
        };
        assert_eq!(known, *object, "a field that is not known is missing on the left");
    }
}

#[test]
fn the_agent_may_list_and_watch_what_its_watch_asks_for_and_nothing_else() {
    let objects = file("deploy/kubernetes/remora.yaml");
    let role = &objects[&("ClusterRole".to_owned(), "remora".to_owned())];
    assert_eq!(role.get("aggregationRule"), None);
    let mut granted = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        let keys: Vec<_> = rule.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["apiGroups", "resources", "verbs"], "{rule}");
        for (group, resource) in words(&rule["apiGroups"])
            .into_iter()
            .flat_map(|group| words(&rule["resources"]).into_iter().map(move |resource| (group, resource)))
        {
            for verb in words(&rule["verbs"]) {
                assert!(granted.insert((group, resource, verb)), "twice: {verb} {resource}");
            }
        }
    }
    let asked = Kind::ALL.iter().flat_map(|kind| Verb::ALL.map(|verb| (kind.group(), kind.name(), verb.name())));
    assert_eq!(granted, asked.collect());
}

#[test]
fn every_way_to_run_has_the_same_capabilities_and_no_other() {
    let expected = BTreeSet::from(CAPABILITIES);
    let manifests = file("deploy/kubernetes/remora.yaml");
    let capabilities = &container(&manifests)["securityContext"]["capabilities"];
    assert_eq!(words(&capabilities["drop"]), ["ALL"]);
    assert_eq!(BTreeSet::from_iter(words(&capabilities["add"])), expected);

    let compose = compose();
    assert_eq!(words(&compose["cap_drop"]), ["ALL"]);
    assert_eq!(BTreeSet::from_iter(words(&compose["cap_add"])), expected);

    let unit = text_of("deploy/systemd/remora.service");
    for key in ["CapabilityBoundingSet=", "AmbientCapabilities="] {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        assert_eq!(line.split(' ').map(|name| name.strip_prefix("CAP_").unwrap()).collect::<BTreeSet<_>>(), expected, "{key}");
    }

    let page = text_of("docs/deploying.md");
    let in_docs: BTreeSet<&str> =
        page.split("--cap-add ").skip(1).map(|rest| rest.split(|c: char| !c.is_ascii_uppercase() && c != '_').next().unwrap()).collect();
    assert_eq!(in_docs, expected, "the docker run lines of docs/deploying.md");
}

#[test]
fn every_way_to_run_sees_the_same_folders_of_the_host_and_cannot_write_them() {
    let expected = ["/sys/fs/cgroup", "/sys/kernel/tracing"];
    let manifests = file("deploy/kubernetes/remora.yaml");
    let pod = &daemonset(&manifests)["spec"]["template"]["spec"];
    let volumes = pod["volumes"].as_array().unwrap();
    assert_eq!(volumes.iter().map(|volume| volume["hostPath"]["path"].as_str().unwrap()).collect::<Vec<_>>(), expected);
    let mounts = container(&manifests)["volumeMounts"].as_array().unwrap();
    let mounted: Vec<Value> =
        volumes.iter().map(|volume| json!({"name": volume["name"], "mountPath": volume["hostPath"]["path"], "readOnly": true})).collect();
    assert_eq!(*mounts, mounted, "each where the host has it");
    // A type would have the kubelet refuse pods on nodes that lack the folder, and most do not need it.
    assert_eq!(volumes[1]["hostPath"].get("type"), None);

    let with_socket: Vec<String> = expected.iter().chain(&["/var/run/docker.sock"]).map(|folder| format!("{folder}:{folder}:ro")).collect();
    assert_eq!(words(&compose()["volumes"]), with_socket);

    let page = text_of("docs/deploying.md");
    let commands: Vec<&str> = page.split("\n```").filter(|block| block.trim_start().starts_with("docker run ")).collect();
    assert_eq!(commands.len(), 2);
    for command in commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        let given: Vec<&str> = words.windows(2).filter(|pair| pair[0] == "--volume").map(|pair| pair[1]).collect();
        assert_eq!(given, with_socket, "{command}");
    }
}

#[test]
fn the_unit_hides_nothing_below_sys() {
    let unit = text_of("deploy/systemd/remora.service");
    let settings: Vec<&str> = unit.lines().filter(|line| !line.starts_with('#')).collect();
    // Read-only is enough; ProtectKernelTunables= is that. These would take /sys/kernel/tracing or all of /sys away.
    for hides in ["InaccessiblePaths=", "TemporaryFileSystem=", "RootDirectory=", "RootImage=", "PrivateNetwork=", "MountAPIVFS="] {
        assert!(!settings.iter().any(|line| line.starts_with(hides)), "{hides}");
    }
    assert!(settings.contains(&"ProtectKernelTunables=yes"));
    let calls = settings.iter().find_map(|line| line.strip_prefix("SystemCallFilter=")).unwrap();
    assert!(["bpf", "perf_event_open"].iter().all(|call| calls.split(' ').any(|word| word == *call)), "{calls}");
}

fn compose() -> Value {
    let file: Value = serde_saphyr::from_str(&text_of("deploy/docker/compose.yaml")).unwrap();
    file["services"]["remora"].clone()
}

#[test]
fn every_image_and_chart_has_the_version_of_the_program() {
    let image = format!("remora:{VERSION}");
    assert_eq!(container(&file("deploy/kubernetes/remora.yaml"))["image"], image);
    assert_eq!(compose()["image"], format!("${{REMORA_IMAGE:-{image}}}"));
    let chart: Value = serde_saphyr::from_str(&text_of("deploy/helm/remora/Chart.yaml")).unwrap();
    assert_eq!((chart["version"].as_str(), chart["appVersion"].as_str()), (Some(VERSION), Some(VERSION)));
    for line in text_of("docs/deploying.md").lines().filter(|line| line.contains("remora:0") || line.contains("remora_0")) {
        assert!(line.contains(&image) || line.contains(&format!("remora_{VERSION}_")), "docs/deploying.md: {line}");
    }
}

/// Runs the built program's check of settings with the variables given.
fn config_check(variables: &[(String, String)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("REMORA_")) {
        command.env_remove(name);
    }
    command.args(["config", "check"]).args(arguments).envs(variables.iter().cloned()).output().unwrap()
}

#[test]
fn the_settings_of_compose_are_settings() {
    let environment = compose()["environment"].clone();
    let variables: Vec<(String, String)> =
        environment.as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
    assert!(!variables.is_empty());
    let output = config_check(&variables, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_settings_of_the_manifests_are_settings() {
    let objects = file("deploy/kubernetes/remora.yaml");
    let mut variables: Vec<(String, String)> = Vec::new();
    for variable in container(&objects)["env"].as_array().unwrap() {
        // As the kubelet does: fields of the pod, and earlier variables by $(NAME).
        let mut value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("status.hostIP") => "192.0.2.1".to_owned(),
            Some("spec.nodeName") => "node-1".to_owned(),
            Some(other) => panic!("what is {other}?"),
            None => variable["value"].as_str().unwrap().to_owned(),
        };
        for (name, earlier) in &variables {
            value = value.replace(&format!("$({name})"), earlier);
        }
        variables.push((variable["name"].as_str().unwrap().to_owned(), value));
    }
    assert!(variables.contains(&("REMORA_LISTEN".to_owned(), "192.0.2.1:7117".to_owned())), "{variables:?}");
    let output = config_check(&variables, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_packaged_settings_are_right_and_so_is_each_example_in_them() {
    let text = text_of("deploy/systemd/remora.yaml");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("remora.yaml");
    let examples: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#")).filter(|line| !line.starts_with(' ')).collect();
    assert!(examples.len() >= 5, "examples are written as `#key: value`");
    for contents in std::iter::once(text.clone()).chain(examples.iter().map(|example| format!("{text}\n{example}\n"))) {
        fs::write(&path, &contents).unwrap();
        let output = config_check(&[], &["--config", path.to_str().unwrap()]);
        assert!(output.status.success(), "{}\n{contents}", String::from_utf8_lossy(&output.stderr));
    }
}
