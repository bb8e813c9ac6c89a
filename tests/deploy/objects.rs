//! Kubernetes objects as plain values, and what differs between two sets of them.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::Value;

/// By kind and name.
pub type Objects = BTreeMap<(String, String), Value>;

/// The objects of a file with any number of documents; two of one kind and name are an error.
pub fn objects(text: &str) -> Objects {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut found = Objects::new();
    for object in documents.into_iter().filter(|document| !document.is_null()) {
        let kind = object["kind"].as_str().unwrap_or_else(|| panic!("no kind: {object}")).to_owned();
        let name = object["metadata"]["name"].as_str().unwrap_or_else(|| panic!("no name: {object}")).to_owned();
        assert!(found.insert((kind.clone(), name.clone()), object).is_none(), "{kind} {name} is there twice");
    }
    assert!(!found.is_empty(), "no objects in:\n{text}");
    found
}

/// Path, left and right of each place where two sets differ, a line each; empty if they are equal.
pub fn differences(left: &Objects, right: &Objects) -> String {
    let mut found = String::new();
    for key in left.keys().chain(right.keys().filter(|key| !left.contains_key(*key))) {
        compare(&format!("{}/{}", key.0, key.1), left.get(key), right.get(key), &mut found);
    }
    found
}

fn compare(path: &str, left: Option<&Value>, right: Option<&Value>, found: &mut String) {
    match (left, right) {
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            for key in left.keys().chain(right.keys().filter(|key| !left.contains_key(*key))) {
                compare(&format!("{path}.{key}"), left.get(key), right.get(key), found);
            }
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) => {
            for index in 0..left.len().max(right.len()) {
                compare(&format!("{path}[{index}]"), left.get(index), right.get(index), found);
            }
        }
        (left, right) if left == right => {}
        (left, right) => {
            let shown = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
            writeln!(found, "{path}: {} against {}", shown(left), shown(right)).unwrap();
        }
    }
}
