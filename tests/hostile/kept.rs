//! The inputs that the fuzzer kept, played through its targets by an ordinary compiler; and the seeds that it begins with.

use std::{
    fs,
    path::{Path, PathBuf},
};

use remora::model::Flow;

use crate::{
    conversations::CONVERSATIONS,
    decoders, events,
    script::Script,
    targets::{self, Target},
    transcript::{self, Transcript},
};

/// Of each corpus: enough to keep what was found, little enough to be kept by git.
const FILES_MAX: usize = 300;
const BYTES_MAX: u64 = 1 << 20;
/// Longer conversations make slow seeds.
const SEED_CALLS: usize = 40;

fn fuzz(folder: &str, target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder).join(&target.name)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn every_kept_input_passes_through_its_target() {
    for target in targets::all() {
        let files = files(&fuzz("corpus", &target));
        assert!(!files.is_empty(), "{} has no corpus: run `make fuzz`", target.name);
        let size: u64 = files.iter().map(|file| file.metadata().expect("its size").len()).sum();
        assert!(files.len() <= FILES_MAX && size <= BYTES_MAX, "{}: {} files, {size} bytes", target.name, files.len());
        for file in files {
            let input = fs::read(&file).expect("read an input");
            let played = std::panic::catch_unwind(|| target.run(&input));
            assert!(played.is_ok(), "{}: {}", target.name, file.display());
        }
    }
}

/// A corpus may be there before its parser.
#[test]
fn every_corpus_has_the_name_of_a_target_or_a_protocol() {
    let names: Vec<_> = targets::all().into_iter().map(|target| target.name).collect();
    for folder in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")) {
        let name = folder.file_name().and_then(|name| name.to_str()).expect("a name");
        let protocol = name.strip_suffix("_datagrams").unwrap_or(name);
        let known = names.iter().any(|known| known == name) || transcript::protocol(protocol).is_some();
        assert!(known, "fuzz/corpus/{name} is of nobody");
    }
}

/// Conversations from their begin, and from their middle as one that is joined late.
fn scripts(calls: &[(Flow, Vec<u8>)]) -> Vec<Vec<u8>> {
    let begin = &calls[..calls.len().min(SEED_CALLS)];
    let middle = calls.len() / 2;
    let middle = &calls[middle..calls.len().min(middle + SEED_CALLS)];
    vec![Script::write(begin, 0), Script::write(begin, 0x32), Script::write(middle, 0x31)]
}

#[test]
#[ignore = "writes fuzz/seeds: `make fuzz` does it"]
fn write_the_seeds() {
    let talks = CONVERSATIONS.iter().map(|talk| talk.iter().map(|(flow, bytes)| (*flow, bytes.to_vec())).collect());
    let transcripts = transcript::all().expect("the transcripts");
    for target in targets::all() {
        let recorded = |transcript: &&Transcript| target.name == "detection" || target.name.starts_with(&transcript.kind);
        let seeds: Vec<Vec<u8>> = match target.name.as_str() {
            "events" => events::samples(),
            "recording" => vec![decoders::recording()],
            "capture" => decoders::captures(),
            _ => {
                let mut calls: Vec<Vec<(Flow, Vec<u8>)>> = talks.clone().collect();
                calls.extend(transcripts.iter().filter(recorded).map(|transcript| transcript.calls.clone()));
                calls.iter().flat_map(|calls| scripts(calls)).collect()
            }
        };
        let folder = fuzz("seeds", &target);
        fs::create_dir_all(&folder).expect("make a folder");
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("{number:04}")), seed).expect("write a seed");
        }
    }
}
