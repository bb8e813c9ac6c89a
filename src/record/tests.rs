//! Round trips, cut recordings and damaged ones.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use serde_json::json;

use super::{Chunk, End, Ending, Fact, Header, Known, MAX_CHUNK, Reader, Writer, crc32::crc32, read_header, records};
use crate::model::{Container, Endpoint, Pod, Process, Remote, Translation, Workload, WorkloadKind};

fn header() -> Header {
    Header {
        hostname: "node-1".into(),
        kernel_release: "6.1.0-13-amd64".into(),
        agent_version: "0.1.0".into(),
        start_unix_ns: 1_700_000_000_000_000_000,
        monotonic_to_unix_ns: -5,
        settings: BTreeMap::from([("ports".into(), json!([80, 5432])), ("capture_bytes".into(), json!(4096))]),
    }
}

fn process() -> Process {
    let container = Container { id: "ab".repeat(32), runtime: "docker".into(), name: Some("web".into()), ..Container::default() };
    let executable = Some("/usr/sbin/nginx".into());
    Process { pid: 42, comm: "nginx".into(), executable, container: Some(container), ..Process::default() }
}

/// A record of `length` bytes filled with `fill`.
fn event(length: usize, fill: u8) -> Vec<u8> {
    let mut bytes = vec![fill; length];
    bytes[..4].copy_from_slice(&(length as u32).to_ne_bytes());
    bytes
}

fn losses() -> BTreeMap<String, u64> {
    BTreeMap::from([("ring_full".into(), 3)])
}

fn recording() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    writer.events(0, &[event(40, 1), event(64, 2)].concat()).unwrap();
    writer.fact(&Fact { sequence: 2, known: Known::Process(Arc::new(process())) }).unwrap();
    writer.events(2, &event(32, 3)).unwrap();
    writer.losses(&losses()).unwrap();
    writer.events(10, &event(100, 4)).unwrap();
    writer.finish(77, &losses()).unwrap()
}

fn chunks() -> Vec<Chunk> {
    vec![
        Chunk::Events { sequence: 0, bytes: [event(40, 1), event(64, 2)].concat() },
        Chunk::Fact(Fact { sequence: 2, known: Known::Process(Arc::new(process())) }),
        Chunk::Events { sequence: 2, bytes: event(32, 3) },
        Chunk::Losses { sequence: 3, losses: losses() },
        Chunk::Events { sequence: 10, bytes: event(100, 4) },
        Chunk::End(End { elapsed_ns: 77, events: 4, losses: losses() }),
    ]
}

fn read(bytes: &[u8]) -> anyhow::Result<(Vec<Chunk>, Ending)> {
    let mut reader = Reader::new(bytes)?;
    let chunks = reader.by_ref().collect::<anyhow::Result<Vec<_>>>()?;
    Ok((chunks, reader.ending()))
}

#[test]
fn gives_back_what_was_written() {
    let bytes = recording();
    assert_eq!(read(&bytes).unwrap(), (chunks(), Ending::Complete));
    assert_eq!(read_header(bytes.as_slice()).unwrap(), header());
    assert_eq!(records(&[event(40, 1), event(64, 2)].concat()).map(|record| record.unwrap().len()).collect::<Vec<_>>(), [40, 64]);
}

#[test]
fn a_recording_cut_anywhere_is_read_to_its_last_whole_chunk_and_says_so() {
    let bytes = recording();
    let all = chunks();
    let mut whole = 0;
    let header_end = header_chunk_end();
    for length in header_end..bytes.len() {
        let (chunks, ending) = read(&bytes[..length]).unwrap();
        assert_eq!(chunks, all[..chunks.len()]);
        assert!(chunks.len() >= whole && chunks.len() < all.len());
        whole = chunks.len();
        let Ending::Cut { offset, cut_bytes } = ending else { panic!("{ending:?} of a recording cut at {length}") };
        assert_eq!(offset + cut_bytes, length as u64);
    }
    assert_eq!(whole, all.len() - 1);
    for length in 0..header_end {
        assert!(read(&bytes[..length]).is_err(), "no whole header in {length} bytes");
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let bytes = recording();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(read(&damaged).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn names_the_place_of_the_damage_and_delivers_what_is_before() {
    let mut bytes = recording();
    let second = header_chunk_end();
    bytes[second + 30] ^= 1;
    let mut reader = Reader::new(bytes.as_slice()).unwrap();
    let error = reader.next().unwrap().unwrap_err().to_string();
    assert_eq!(error, format!("recording is damaged: wrong checksum of the chunk at byte {second}"));
    assert!(reader.next().is_none(), "nothing comes after an error");
}

/// A recording just begun.
fn begun() -> Vec<u8> {
    let mut bytes = Vec::new();
    Writer::new(&mut bytes, &header()).unwrap();
    bytes
}

fn header_chunk_end() -> usize {
    begun().len()
}

/// A recording whose last chunk is of the given fields, checksums right.
fn with_chunk(kind: u32, length: u32, sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = begun();
    let head = [&kind.to_le_bytes()[..], &length.to_le_bytes(), &sequence.to_le_bytes()].concat();
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(&crc32(&[&head]).to_le_bytes());
    bytes.extend_from_slice(&crc32(&[payload]).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn error_of(bytes: &[u8]) -> String {
    format!("{:#}", read(bytes).unwrap_err())
}

#[test]
fn refuses_impossible_chunks_whose_checksums_are_right() {
    let at = header_chunk_end();
    assert_eq!(
        error_of(&with_chunk(2, MAX_CHUNK + 1, 0, b"")),
        format!("recording is damaged: the chunk at byte {at} claims 16777217 bytes")
    );
    assert!(error_of(&with_chunk(3, (1 << 20) + 1, 0, b"")).contains("claims 1048577 bytes"));
    assert!(error_of(&with_chunk(2, 5, 0, b"\x05\0\0\0x")).contains("are not whole records"));
    assert!(error_of(&with_chunk(2, 32, u64::MAX, &event(32, 0))).contains("events from number 18446744073709551615"));
    assert!(error_of(&with_chunk(3, 1, 0, b"\xc0")).contains("content of the chunk"));
    let deep = [0x91; 1000];
    assert!(error_of(&with_chunk(4, 1000, 0, &deep)).contains("content of the chunk"));
    assert!(error_of(&[recording(), vec![0]].concat()).contains("bytes after its end"));
}

#[test]
fn passes_over_chunks_of_later_kinds() {
    let (chunks, ending) = read(&with_chunk(99, 3, 0, b"new")).unwrap();
    assert!(chunks.is_empty());
    assert!(matches!(ending, Ending::Cut { cut_bytes: 0, .. }));
}

#[test]
fn refuses_other_files_and_other_versions() {
    assert!(error_of(b"").contains("not a recording"));
    assert!(error_of(b"\xd4\xc3\xb2\xa1 a capture file").contains("not a recording"));
    let mut later = recording();
    later[8] = 2;
    assert_eq!(error_of(&later), "recording is of version 2; this program reads version 1");
}

#[test]
fn the_writer_refuses_what_a_reader_would() {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    assert!(writer.events(0, &event(40, 1)[..39]).is_err());
    assert!(writer.events(0, &[0; 32]).is_err());
    writer.events(5, &event(32, 1)).unwrap();
    assert!(writer.events(5, &event(32, 1)).is_err(), "number 5 is taken");
}

#[test]
fn splits_batches_that_are_too_long_for_a_chunk_between_records() {
    let record = event(5 << 20, 7);
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    writer.events(100, &record.repeat(4)).unwrap();
    let bytes = writer.finish(0, &BTreeMap::new()).unwrap();
    let (chunks, _) = read(&bytes).unwrap();
    let parts: Vec<(u64, usize)> = chunks
        .iter()
        .filter_map(|chunk| match chunk {
            Chunk::Events { sequence, bytes } => Some((*sequence, bytes.len() >> 20)),
            _ => None,
        })
        .collect();
    assert_eq!(parts, [(100, 15), (103, 5)]);
}

#[test]
fn survives_20_000_damaged_files() {
    let bytes = recording();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut whole = 0;
    for _ in 0..20_000 {
        let mut damaged = bytes.clone();
        for _ in 0..=roll(4) {
            let at = roll(damaged.len());
            match roll(5) {
                0 => damaged[at] ^= 1 << roll(8),
                1 => damaged[at] = [0, 1, 0x7f, 0x80, 0xff][roll(5)],
                2 => damaged.truncate(at.max(1)),
                3 => drop(damaged.splice(at..at, bytes[..roll(bytes.len())].iter().copied())),
                _ => drop(damaged.drain(at..damaged.len().min(at + roll(30)))),
            }
            if damaged.is_empty() {
                damaged.push(0);
            }
        }
        // Also with right checksums: what the content itself can do.
        if roll(2) == 0 {
            mend(&mut damaged);
        }
        let Ok(reader) = Reader::new(damaged.as_slice()) else { continue };
        let total: usize = reader
            .map_while(Result::ok)
            .map(|chunk| match chunk {
                Chunk::Events { bytes, .. } => bytes.len(),
                _ => 0,
            })
            .sum();
        assert!(total <= damaged.len());
        whole += 1;
    }
    assert!(whole > 1000, "only {whole} of the damaged files had a header left");
}

/// Makes the checksums of all chunks right.
fn mend(bytes: &mut [u8]) {
    let mut at = 12;
    while let Some(head) = bytes.get(at..at + 24) {
        let length = u32::from_le_bytes(head[4..8].try_into().unwrap()) as usize;
        let checksum = crc32(&[&head[..16]]);
        bytes[at + 16..at + 20].copy_from_slice(&checksum.to_le_bytes());
        let Some(payload) = bytes.get(at + 24..(at + 24).saturating_add(length)) else { return };
        let checksum = crc32(&[payload]);
        bytes[at + 20..at + 24].copy_from_slice(&checksum.to_le_bytes());
        at += 24 + length;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_batches_and_facts_come_back(
        batches in proptest::collection::vec((0_u64..5, proptest::collection::vec((32_usize..200, any::<u8>()), 1..5)), 0..10),
        comm in ".{0,20}",
        count in any::<u64>(),
    ) {
        let losses = BTreeMap::from([(comm.clone(), count)]);
        let fact = Arc::new(Process { comm: comm.clone(), ..process() });
        let mut writer = Writer::new(Vec::new(), &header()).unwrap();
        let mut expected = Vec::new();
        let (mut sequence, mut events) = (0, 0);
        for (jump, batch) in batches {
            sequence += jump;
            let bytes = batch.iter().flat_map(|&(length, fill)| event(length, fill)).collect::<Vec<u8>>();
            writer.events(sequence, &bytes).unwrap();
            expected.push(Chunk::Events { sequence, bytes });
            (sequence, events) = (sequence + batch.len() as u64, events + batch.len() as u64);
            writer.fact(&Fact { sequence, known: Known::Renamed(Arc::clone(&fact)) }).unwrap();
            expected.push(Chunk::Fact(Fact { sequence, known: Known::Renamed(Arc::clone(&fact)) }));
        }
        let bytes = writer.finish(count, &losses).unwrap();
        expected.push(Chunk::End(End { elapsed_ns: count, events, losses }));
        prop_assert_eq!(read(&bytes).unwrap(), (expected, Ending::Complete));
    }
}

/// What a newer version knows of a process, an older one did not write.
#[test]
fn facts_of_older_recordings_have_what_was_known_then() {
    let container = json!({ "id": "ab", "runtime": "docker", "name": null, "image": null });
    let old = json!({ "pid": 42, "comm": "nginx", "executable": null, "command": null, "container": container });
    let read: Process = rmp_serde::from_slice(&rmp_serde::to_vec_named(&old).unwrap()).unwrap();
    assert_eq!((read.unit, read.container.unwrap().pod_uid), (None, None));
}

#[test]
fn facts_of_every_kind_come_back_as_they_were() {
    let text = |text: &str| Arc::<str>::from(text);
    let workload = Workload { namespace: Some("shop".into()), ..Workload::new(WorkloadKind::Deployment, "cart") };
    let pod = Arc::new(Pod {
        name: "cart-1".into(),
        namespace: "shop".into(),
        node: None,
        workload: workload.clone(),
        release: Some("spring".into()),
        chart: None,
        labels: [(text("app"), text("cart")), (text("team"), text("front"))].into(),
    });
    let of_pod = Arc::new(Process { pod: Some(Arc::clone(&pod)), ..process() });
    let remote = Remote { workload, service: Some("cart".into()), pod: Some(pod), is_virtual: true, is_unserved: false };
    let end = |last: u8, port| Endpoint { address: [10, 0, 0, last].into(), port };
    let known = [
        Known::Process(Arc::clone(&of_pod)),
        Known::Renamed(of_pod),
        Known::Remote(end(1, 80), Some(Arc::new(remote))),
        Known::Remote(end(2, 0), None),
        Known::Translated(77, Translation { client: end(3, 40_000), server: end(4, 8080) }),
    ];
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    let facts = known.map(|known| Fact { sequence: 0, known });
    facts.iter().for_each(|fact| writer.fact(fact).unwrap());
    let (chunks, _) = read(&writer.finish(0, &losses()).unwrap()).unwrap();
    assert_eq!(chunks[..facts.len()], facts.map(Chunk::Fact));
}
