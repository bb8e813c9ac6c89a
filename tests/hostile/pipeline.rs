//! A million mutated event records through the program itself: router, workers, parsers, service map and lines.

use std::{fs::File, io::BufWriter, process::Command};

use nix::sys::resource::{UsageWho, getrusage};
use remora::{
    model::Flow,
    record::{Header, Writer},
};
use serde_json::Value;

use crate::{
    INPUTS,
    conversations::CONVERSATIONS,
    events,
    mutation::{Random, mutate},
};

/// Recordings of a size that a disk does not notice.
const FILES: u64 = 4;
/// Connections that nobody damages: what they say must come out whole, whatever happens beside them. Far from the ids of the others,
/// so that no damage turns one into the other.
const UNHARMED: u64 = 0x5a5a_5a5a_0000_0000;
/// Between two requests of the unharmed connection.
const EVERY: u64 = 100;
/// `EVENT_SWEEP` of `src/bpf/events.h`.
const SWEEP: u8 = 12;
/// The most that the program may ever hold. Its tables take some 60 MiB when they are full.
const RESIDENT_KIB: i64 = 256 << 10;

/// Damages anything but the length, without which a recording cannot be walked.
fn damage(record: &mut Vec<u8>, random: &mut Random) {
    mutate(record, random);
    if record.len() < 32 {
        record.resize(32, 0);
    }
    let length = record.len() as u32;
    record[..4].copy_from_slice(&length.to_ne_bytes());
    // A sweep says that connections are gone: whatever it says, it would be believed, also of the unharmed one.
    if record[4] == SWEEP {
        record[4] = u8::MAX;
    }
}

/// Writes a recording with its share of the inputs; the number of undamaged requests in it.
fn record(file: File, seed: u64) -> u64 {
    let mut writer = Writer::new(BufWriter::new(file), &Header::default()).expect("begin a recording");
    let mut random = Random::new(seed);
    let (mut sequence, mut inputs, mut requests, mut offsets) = (0, 0, 0, [0; 2]);
    let mut put = |records: &[Vec<u8>]| {
        writer.events(sequence, &records.concat()).expect("write events");
        sequence += records.len() as u64;
    };
    put(&[events::open(UNHARMED, 1)]);
    while inputs < INPUTS / FILES {
        let (connection, time_ns) = (random.next() % 5_000, 1_000 * inputs);
        let mut records = events::conversation(CONVERSATIONS[random.below(CONVERSATIONS.len())], connection, time_ns);
        let mut others = events::others(connection, time_ns);
        records.insert(1, others.swap_remove(random.below(others.len())));
        for record in &mut records {
            if random.one_in(2) {
                damage(record, &mut random);
            }
        }
        if inputs / EVERY != (inputs + records.len() as u64) / EVERY {
            for (flow, message) in
                [(Flow::Request, &b"GET /whole HTTP/1.1\r\n\r\n"[..]), (Flow::Response, b"HTTP/1.1 204 No Content\r\n\r\n")]
            {
                let offset: &mut u64 = &mut offsets[flow.index()];
                records.push(events::data(UNHARMED, time_ns, flow, *offset, message));
                *offset += message.len() as u64;
            }
            requests += 1;
        }
        inputs += records.len() as u64;
        put(&records);
    }
    writer.finish(0, &Default::default()).expect("end the recording");
    requests
}

#[test]
fn the_whole_pipeline_survives_a_million_mutated_events() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hostile.rrec");
    for seed in 0..FILES {
        let requests = record(File::create(&path).expect("make a file"), seed);
        let mut replay = Command::new(env!("CARGO_BIN_EXE_remora"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("REMORA_")) {
            replay.env_remove(name);
        }
        let output = replay.arg("replay").arg(&path).args(["--output", "json", "--workers", "2"]).output().expect("run remora");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !log.contains("panicked"), "seed {seed}: {:?} {log}", output.status);

        let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
        let (mut whole, mut exchanges, mut summary) = (0, 0, Value::Null);
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("seed {seed}: {error} in {line}"));
            match line["type"].as_str() {
                Some("exchange") => {
                    exchanges += 1;
                    if line["connection_id"].as_u64() == Some(UNHARMED) {
                        assert_eq!((&line["resource"], &line["status"]), (&"/whole".into(), &"204".into()), "seed {seed}");
                        whole += 1;
                    }
                }
                Some("summary") => summary = line,
                _ => {}
            }
        }
        assert_eq!(whole, requests, "seed {seed}: the unharmed connection");
        assert_eq!(summary["exchanges"], exchanges, "seed {seed}: every exchange is a line");
        assert!(exchanges > INPUTS / FILES / 50, "seed {seed}: only {exchanges} exchanges");
        assert!(summary["lost"]["undecodable"].as_u64() > Some(1000), "seed {seed}: {}", summary["lost"]);
    }
    let most = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the children's usage").max_rss();
    assert!(most < RESIDENT_KIB, "{most} KiB were resident");
}
