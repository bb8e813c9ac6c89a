//! Holds the arrows between the rooms, and the few rules that the compiler cannot hold.
//! To change an arrow, change it here and in `docs/architecture.md` together.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each room and the rooms it may name. A room that is not listed is an error.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["agent", "cli", "doctor", "telemetry"]),
    ("cli", &["btf", "config", "telemetry"]),
    ("doctor", &["attribution", "btf", "probes", "config", "telemetry"]),
    (
        "agent",
        &[
            "probes",
            "btf",
            "packet",
            "event",
            "connection",
            "protocols",
            "attribution",
            "service_map",
            "export",
            "record",
            "telemetry",
            "config",
            "model",
        ],
    ),
    ("probes", &["btf", "skel", "config", "event", "model"]),
    ("packet", &["event", "model"]),
    ("event", &["skel", "model"]),
    ("record", &["model"]),
    ("connection", &["protocols", "event", "model"]),
    ("protocols", &["model"]),
    ("attribution", &["model"]),
    ("service_map", &["model"]),
    ("export", &["service_map", "model"]),
    ("btf", &["skel", "config"]),
    ("config", &[]),
    ("telemetry", &[]),
    ("model", &[]),
    ("skel", &[]),
];

/// Words of the code, and the places (a prefix of the path below src) where they may stand.
const CONFINED: &[(&str, &[&str])] = &[
    ("unsafe", &["skel.rs", "probes/"]),
    ("libbpf_rs", &["skel.rs", "probes/"]),
    ("libbpf_sys", &["skel.rs", "probes/"]),
    ("ratatui", &["export/"]),
    ("thread::Builder", &["agent/pipeline.rs"]),
    ("thread::spawn", &[]),
    ("thread::scope", &["agent/pipeline.rs"]),
    ("crossbeam_channel", &["agent/"]),
    ("kube::", &["attribution/kubernetes"]),
    ("k8s_openapi::", &["attribution/kubernetes"]),
    ("http_body_util::", &["attribution/kubernetes"]),
];

/// Rooms without clock, I/O or threads, and what would bring them in.
const PURE: &[&str] = &["connection", "event", "model", "packet", "protocols", "record", "service_map"];
const IMPURE: &[&str] = &["Instant::now", "SystemTime::now", "std::fs", "std::thread", "std::net::Tcp", "tokio", "println!", "tracing"];

#[test]
fn rooms_name_only_the_rooms_their_arrows_allow() {
    let mut wrong = BTreeSet::new();
    for (path, code) in sources() {
        let room = room_of(&path);
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            if room != "lib" {
                wrong.insert(format!("{path}: the room `{room}` is not in ARROWS"));
            }
            continue;
        };
        for named in rooms_named(&code) {
            if named != room && ARROWS.iter().any(|(name, _)| *name == named) && !allowed.contains(&named.as_str()) {
                wrong.insert(format!("{path}: {room} → {named}"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that the architecture does not have:\n{wrong:#?}");
}

#[test]
fn confined_words_stay_in_their_places() {
    let mut wrong = BTreeSet::new();
    for (path, code) in sources() {
        for (word, places) in CONFINED {
            if has_word(&code, word) && !places.iter().any(|place| path.starts_with(place)) {
                wrong.insert(format!("{path}: `{word}` belongs in {places:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pure_rooms_have_no_clock_no_io_and_no_threads() {
    let mut wrong = BTreeSet::new();
    for (path, code) in sources().into_iter().filter(|(path, _)| PURE.contains(&room_of(path).as_str())) {
        for word in IMPURE.iter().filter(|word| has_word(&code, word)) {
            wrong.insert(format!("{path}: `{word}`"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_a_drawer_for_everything() {
    for (path, _) in sources() {
        for drawer in ["common", "utils", "util", "helpers", "helper", "misc"] {
            assert!(!path.split(['/', '.']).any(|part| part == drawer), "src/{path}: name the subject");
        }
    }
}

#[test]
fn main_stays_thin() {
    let lines = fs::read_to_string(root().join("main.rs")).unwrap().lines().count();
    assert!(lines < 60, "main.rs has {lines} lines: it parses, starts logging and dispatches");
}

#[test]
fn the_scanner_sees_grouped_imports_and_paths_but_not_comments_or_tests() {
    let code = code_of(
        "use crate::{\n    event::{self, Event},\n    model,\n};\n// crate::agent\n\
         fn f() { crate::probes::load(); remora::cli::parse() }\n#[cfg(test)]\nmod tests { use crate::export; }",
    );
    assert_eq!(rooms_named(&code), ["cli", "event", "model", "probes"].map(String::from).into());
    assert!(has_word("a unsafe {", "unsafe") && !has_word("unsafe_code", "unsafe"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// (path below src, code without comments and tests) of every Rust file.
fn sources() -> Vec<(String, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                if is_test(&name) {
                    continue;
                }
                found.push((name, code_of(&fs::read_to_string(&path).unwrap())));
            }
        }
    }
    assert!(found.len() > 3, "the scan found nothing");
    found
}

/// Files that are compiled for tests alone: these may use what they like.
fn is_test(path: &str) -> bool {
    path.split(['/', '.']).any(|part| ["tests", "testing", "fixtures"].contains(&part) || part.ends_with("_tests"))
}

/// Tests come last in a file, so the code ends at `#[cfg(test)]` in the first column.
fn code_of(text: &str) -> String {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

fn room_of(path: &str) -> String {
    path.split(['/', '.']).next().unwrap().to_owned()
}

/// The rooms after `crate::` and `remora::`, also in `use crate::{a, b::{c}}`.
fn rooms_named(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for prefix in ["crate::", "remora::"] {
        for (at, _) in code.match_indices(prefix).filter(|(at, _)| !code[..*at].ends_with(is_word_char)) {
            let rest = &code[at + prefix.len()..];
            match rest.strip_prefix('{') {
                None => drop(rooms.insert(first_word(rest))),
                Some(group) => rooms.extend(members(group).into_iter().map(first_word).filter(|word| !word.is_empty())),
            }
        }
    }
    rooms
}

/// The comma-separated members of an import group, up to the brace that closes it; inner groups are kept whole.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                found.push(&group[start..at]);
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| is_word_char(*c)).collect()
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(is_word_char) && (!word.ends_with(is_word_char) || !code[at + word.len()..].starts_with(is_word_char))
    })
}
