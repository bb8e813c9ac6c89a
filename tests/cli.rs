//! The command line as a user meets it: precedence, messages and exit codes of the built program.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

/// A run of `remora` in a folder of its own, without any `REMORA_*` of the surroundings.
struct Remora {
    folder: tempfile::TempDir,
}

impl Remora {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join("r.yaml");
        fs::write(&path, text).unwrap();
        path
    }

    fn run(&self, words: &str, environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("REMORA_")) {
            command.env_remove(name);
        }
        command.current_dir(self.folder.path()).args(words.split_whitespace()).envs(environment.iter().copied()).output().unwrap()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The one line of an error, with its exit code checked and nothing on standard output.
fn complaint(output: &Output, code: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty(), "errors belong on stderr: {}", stdout(output));
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim_end().strip_prefix("remora: ").expect("errors begin with `remora: `").to_owned()
}

#[test]
fn a_flag_wins_over_environment_over_file_over_default_and_print_says_so() {
    let remora = Remora::new();
    remora.file("workers: 2\nhooks: socket\nidle_after: 90s\nport: [80, 443]\n");
    let environment = [("REMORA_CONFIG", "r.yaml"), ("REMORA_WORKERS", "3"), ("REMORA_HOOKS", "syscalls")];
    let output = remora.run("config print --workers 4", &environment);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = stdout(&output);
    for (value, origin) in [
        ("workers: 4", "flag --workers"),
        ("hooks: syscalls", "environment variable REMORA_HOOKS"),
        ("idle_after: 90s", "file r.yaml:3:13"),
        ("port: [80, 443]", "file r.yaml:4:7"),
        ("listen: 127.0.0.1:7117", "default"),
    ] {
        let line = printed.lines().find(|line| line.starts_with(value)).unwrap_or_else(|| panic!("no {value} in\n{printed}"));
        assert_eq!(line.split_once("  # ").unwrap().1, origin, "{line}");
    }
}

#[test]
fn what_print_writes_is_a_file_that_check_accepts_and_print_repeats() {
    let remora = Remora::new();
    let words = "config print --pid 7,8 --port 80 --port 81 --listen none --btf /a --ring-bytes 1048576 --duration 1500ms";
    let first = stdout(&remora.run(words, &[]));
    remora.file(&first);
    let check = remora.run("config check --config r.yaml", &[]);
    assert_eq!((check.status.code(), stdout(&check).as_str()), (Some(0), "ok\n"));
    let again = stdout(&remora.run("config print --config r.yaml", &[]));
    let values = |text: &str| text.lines().map(|line| line.split("  #").next().unwrap().trim().to_owned()).collect::<Vec<_>>();
    assert_eq!(values(&first), values(&again));
    assert!(values(&again).contains(&"ring_bytes: 1MiB".to_owned()), "{again}");
}

#[test]
fn unknown_keys_and_bad_values_name_the_key_the_place_and_what_is_allowed() {
    let remora = Remora::new();
    remora.file("hooks: auto\nworkerz: 2\n");
    let unknown = complaint(&remora.run("config check --config r.yaml", &[]), 2);
    assert!(unknown.starts_with("unknown key workerz (file r.yaml:2:1); allowed: hooks, pid, port"), "{unknown}");

    remora.file("hooks:   often\n");
    let file = complaint(&remora.run("run --config r.yaml", &[]), 2);
    assert_eq!(file, "\"often\" is not allowed for hooks (file r.yaml:1:10); allowed: auto, socket, fentry, kprobe, syscalls, packet");

    let environment = complaint(&remora.run("doctor", &[("REMORA_LISTEN", "localhost")]), 2);
    let expected = "\"localhost\" is not allowed for listen (environment variable REMORA_LISTEN); allowed: an address and a port";
    assert!(environment.starts_with(expected), "{environment}");

    let variable = complaint(&remora.run("doctor", &[("REMORA_LISTENS", "none")]), 2);
    assert!(variable.starts_with("unknown key REMORA_LISTENS (environment variable REMORA_LISTENS): "), "{variable}");
    assert!(variable.contains("unset it") && variable.contains("; allowed: REMORA_HOOKS"), "{variable}");

    let flag = complaint(&remora.run("agent --ring-bytes 3MiB", &[]), 2);
    assert!(flag.starts_with("\"3MiB\" is not allowed for ring_bytes (flag --ring-bytes); allowed: a power of two"), "{flag}");
}

#[test]
fn a_file_that_is_not_yaml_or_not_there_is_a_usage_error_with_its_name() {
    let remora = Remora::new();
    let absent = complaint(&remora.run("config check --config absent.yaml", &[]), 2);
    assert!(absent.contains("absent.yaml") && absent.contains("No such file"), "{absent}");
    remora.file("hooks: [auto\nworkers: 1\n");
    let broken = complaint(&remora.run("config check --config r.yaml", &[]), 2);
    assert!(broken.contains("(file r.yaml:"), "{broken}");
    remora.file("workers: 1\nworkers: 2\n");
    let twice = complaint(&remora.run("config check --config r.yaml", &[]), 2);
    assert!(twice.contains("workers") && twice.contains("(file r.yaml:2:1)"), "{twice}");
}

#[test]
fn wrong_usage_exits_2_with_one_line() {
    let remora = Remora::new();
    for words in ["", "fly", "run --nonsense", "record", "replay", "config", "run --workers", "doctor --json=3"] {
        let line = complaint(&remora.run(words, &[]), 2);
        assert!(line.ends_with("see remora --help"), "{words}: {line}");
    }
}

#[test]
fn help_and_version_go_to_standard_output_and_exit_0() {
    let remora = Remora::new();
    let help = remora.run("--help", &[]);
    assert_eq!(help.status.code(), Some(0));
    let help = stdout(&help);
    let parts = [
        "run ",
        "agent ",
        "doctor ",
        "record ",
        "replay ",
        "btf ",
        "config ",
        "What is watched:",
        "--sides <SIDES>",
        "What comes out:",
        "Examples:",
    ];
    let places = parts.map(|part| help.find(part).unwrap_or_else(|| panic!("no {part:?} in\n{help}")));
    assert!(places.is_sorted(), "the parts of the help are out of order: {places:?}");
    assert!(!help.contains('\u{1b}'), "no colour where there is no terminal");
    assert!(help.lines().all(|line| line.chars().count() <= 120), "{help}");
    let version = remora.run("--version", &[]);
    assert_eq!(stdout(&version), format!("remora {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn each_command_explains_itself() {
    let remora = Remora::new();
    for (command, parts) in [
        ("run", ["Needs root", "Keys in the table", "/api/v1/service-map"]),
        ("agent", ["no table", "--listen", "/metrics"]),
        ("doctor", ["--json", "for a trial", "Exit status: 0"]),
        ("record", ["remora replay", "--duration", "every captured byte"]),
        ("replay", ["tcpdump", "--output json", "no root"]),
        ("btf", ["list", "pack", "btfhub/minimise.sh"]),
        ("config", ["check", "print", "Usage: remora config"]),
    ] {
        let output = remora.run(&format!("{command} --help"), &[]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        let help = stdout(&output);
        let in_one_line = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in parts {
            assert!(in_one_line.contains(part), "{command}: no {part:?} in\n{help}");
        }
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{command}: {help}");
    }
}

#[test]
fn doctor_says_in_its_exit_code_what_it_says_in_its_report() {
    let remora = Remora::new();
    let output = remora.run("doctor --json", &[]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let can_capture = report["can_capture"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(if can_capture { 0 } else { 3 }), "{report}");
    let text = remora.run("doctor", &[]);
    assert_eq!(text.status.code(), output.status.code());
    let verdict = stdout(&text).lines().last().unwrap().to_owned();
    assert!(verdict.starts_with(if can_capture { "Capture can work: " } else { "Capture cannot work: " }), "{verdict}");
}

#[test]
fn hooks_that_this_kernel_cannot_take_are_refused_by_the_doctor_with_the_reason_of_the_run() {
    let remora = Remora::new();
    for family in ["fentry", "kprobe"] {
        let doctor = remora.run(&format!("doctor --hooks {family}"), &[]);
        if doctor.status.success() {
            continue;
        }
        assert_eq!(doctor.status.code(), Some(3));
        let verdict = stdout(&doctor).lines().last().unwrap_or_default().to_owned();
        let reason = verdict.strip_prefix("Capture cannot work: ").and_then(|verdict| verdict.strip_suffix('.'));
        let reason = reason.unwrap_or_else(|| panic!("no reason in {verdict}"));
        let run = remora.run(&format!("run --hooks {family} --listen none"), &[]);
        assert_eq!(run.status.code(), Some(3));
        assert!(stderr(&run).contains(reason), "{reason} is not in {}", stderr(&run));
    }
}
