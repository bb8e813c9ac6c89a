//! A million mutated inputs for each decoder: of event records, recordings and capture files.

use std::{fs, path::Path};

use remora::{
    event::{self, Event},
    packet::{self, Loss},
    record::{self, Chunk, Header, Reader, Writer},
};

use crate::{
    INPUTS, events,
    memory::{Peak, live},
    mutation::{Random, mutate},
};

#[test]
fn the_event_decoder_survives_a_million_mutated_records_and_allocates_nothing() {
    let samples = events::samples();
    let (mut decoded, mut again) = (0_u64, Vec::new());
    let mut record = Vec::new();
    for input in 0..INPUTS {
        let mut random = Random::new(input);
        record.clear();
        record.extend_from_slice(&samples[random.below(samples.len())]);
        mutate(&mut record, &mut random);
        let peak = Peak::begin();
        let (length, route, event) = (event::record_len(&record), event::route(&record), Event::decode(&record));
        assert_eq!(peak.bytes(), 0, "input {input}: decoding is by copy");
        assert!(length.is_none_or(|length| (32..=record.len()).contains(&length)), "input {input}");
        if let Ok(event) = event {
            decoded += 1;
            assert!(route.is_some(), "input {input}: what can be decoded can be routed");
            again.clear();
            event.encode(&mut again);
            assert_eq!(Event::decode(&again), Ok(event), "input {input}: what was decoded can be written and read again");
        }
    }
    assert!(decoded > INPUTS / 4 && decoded < INPUTS, "{decoded} of {INPUTS} could be decoded");
}

/// A recording with every kind of chunk.
pub fn recording() -> Vec<u8> {
    let header = Header { hostname: "ship".into(), kernel_release: "6.12".into(), agent_version: "0".into(), ..Header::default() };
    let mut writer = Writer::new(Vec::new(), &header).expect("begin");
    let records = events::others(9, 1_000);
    writer.events(0, &records.concat()).expect("write events");
    writer.losses(&[("ring_full".to_owned(), 3)].into()).expect("write losses");
    writer.events(records.len() as u64, &events::samples()[8]).expect("write events");
    let mut recording = writer.finish(5, &[("ring_full".to_owned(), 3)].into()).expect("end");
    let process = serde_json::json!({ "pid": 42, "comm": "client", "executable": "/bin/client", "command": null,
        "container": { "id": "c0ffee", "runtime": "docker", "name": "shop", "image": null } });
    let fact = rmp_serde::to_vec_named(&serde_json::json!({ "sequence": 3, "process": process })).expect("encode a fact");
    let (_, before) = payloads(&recording)[1];
    recording.splice(before..before, chunk(&[&3_u32.to_le_bytes()[..], &[0; 12]].concat(), &fact));
    recording
}

/// A chunk with right checksums; of `head` its kind and sequence count.
fn chunk(head: &[u8], payload: &[u8]) -> Vec<u8> {
    let head = [&head[..4], &(payload.len() as u32).to_le_bytes(), &head[8..16]].concat();
    let checksums = [crc32(&head), crc32(payload)].map(u32::to_le_bytes).concat();
    [&head[..], &checksums, payload].concat()
}

/// Begin and end of the payload of each chunk (docs/recording-format.md).
fn payloads(recording: &[u8]) -> Vec<(usize, usize)> {
    let (mut found, mut at) = (Vec::new(), 12);
    while at < recording.len() {
        let length = u32::from_le_bytes(recording[at + 4..at + 8].try_into().expect("4 bytes")) as usize;
        found.push((at + 24, at + 24 + length));
        at += 24 + length;
    }
    found
}

/// CRC-32 of IEEE 802.3, a bit at a time.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// Damages the payload of one chunk and makes its header right again: what is behind the checksums must stand by itself.
fn mutate_behind_checksums(recording: &[u8], payloads: &[(usize, usize)], random: &mut Random) -> Vec<u8> {
    let (begin, end) = payloads[random.below(payloads.len())];
    let mut payload = recording[begin..end].to_vec();
    mutate(&mut payload, random);
    let mut head = recording[begin - 24..begin].to_vec();
    if random.one_in(8) {
        mutate(&mut head, random);
        head.resize(24, 0);
    }
    [&recording[..begin - 24], &chunk(&head, &payload), &recording[end..]].concat()
}

#[test]
fn the_record_reader_survives_a_million_mutated_recordings() {
    let recording = recording();
    let payloads = payloads(&recording);
    assert_eq!(payloads.len(), 6, "header, events, fact, losses, events, end");
    let whole: Vec<_> = Reader::new(recording.as_slice()).expect("a header").map(|chunk| chunk.expect("a sound chunk")).collect();
    assert!(matches!(&whole[..], [Chunk::Events { .. }, Chunk::Fact(_), Chunk::Losses { .. }, Chunk::Events { .. }, Chunk::End(_)]));
    let before = live();
    let (mut whole, mut damaged, mut chunks) = (0_u64, 0_u64, 0_u64);
    for input in 0..INPUTS {
        let mut random = Random::new(input);
        let bytes = if random.one_in(2) {
            mutate_behind_checksums(&recording, &payloads, &mut random)
        } else {
            let mut bytes = recording.clone();
            mutate(&mut bytes, &mut random);
            bytes
        };
        let peak = Peak::begin();
        let Ok(mut reader) = Reader::new(bytes.as_slice()) else {
            damaged += 1;
            continue;
        };
        let mut failed = false;
        for chunk in reader.by_ref() {
            chunks += 1;
            match chunk {
                Ok(Chunk::Events { bytes, .. }) => {
                    for record in record::records(&bytes) {
                        let record = record.expect("a sound chunk holds whole records");
                        let _ = (Event::decode(record), event::route(record));
                    }
                }
                Ok(_) => {}
                Err(_) => failed = true,
            }
        }
        assert!(reader.next().is_none(), "input {input}: nothing comes after the end or an error");
        if failed {
            damaged += 1
        } else {
            whole += 1
        }
        // A chunk is read in pieces of 64 KiB, and a decoded map is larger than its bytes.
        assert!(peak.bytes() < (256 << 10) + 64 * bytes.len(), "input {input}: {} bytes for {}", peak.bytes(), bytes.len());
    }
    assert!(live() < before + (64 << 10), "{} bytes are left of {INPUTS} recordings", live() - before);
    assert!(whole > INPUTS / 20 && damaged > INPUTS / 4, "{whole} whole, {damaged} damaged");
    assert!(chunks > INPUTS, "{chunks} chunks were reached");
}

/// The frames of a pcap file as pcapng: section header, interface description, an enhanced packet block for each.
fn pcapng(pcap: &[u8]) -> Vec<u8> {
    fn block(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
        let length = (12 + body.len().next_multiple_of(4)) as u32;
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(&length.to_le_bytes());
    }
    let word = |at: usize| u32::from_le_bytes(pcap[at..at + 4].try_into().expect("4 bytes"));
    let mut out = Vec::new();
    block(&mut out, 0x0a0d_0d0a, &[&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat());
    block(&mut out, 1, &[&pcap[20..22], &[0, 0], &0x4_0000_u32.to_le_bytes()[..]].concat());
    let mut at = 24;
    while at < pcap.len() {
        let (captured, original) = (word(at + 8), word(at + 12));
        let micros = u64::from(word(at)) * 1_000_000 + u64::from(word(at + 4));
        let time = [(micros >> 32) as u32, micros as u32].map(u32::to_le_bytes).concat();
        let frame = &pcap[at + 16..at + 16 + captured as usize];
        block(&mut out, 6, &[&[0; 4][..], &time, &captured.to_le_bytes(), &original.to_le_bytes(), frame].concat());
        at += 16 + captured as usize;
    }
    out
}

/// The captures of the tests, each in both formats; the long one is left to the packet room's own tests.
pub fn captures() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures");
    let mut paths: Vec<_> = fs::read_dir(folder).expect("tests/data/captures").map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "pcap"));
    paths.sort();
    let mut captures: Vec<_> = paths.iter().map(|path| fs::read(path).expect("read a capture")).collect();
    captures.retain(|capture| capture.len() < 2048);
    let micros: Vec<_> =
        captures.iter().filter(|capture| capture[..4] == 0xa1b2_c3d4_u32.to_le_bytes()).map(|capture| pcapng(capture)).collect();
    assert!(micros.len() >= 3, "captures with microseconds to make pcapng files of");
    captures.extend(micros);
    captures
}

#[test]
fn the_capture_reader_survives_a_million_mutated_files() {
    let captures = captures();
    for (place, capture) in captures.iter().enumerate() {
        let mut events = 0;
        packet::read_capture(capture.as_slice(), &mut |_| events += 1).unwrap_or_else(|error| panic!("capture {place}: {error:#}"));
        assert!(events > 0, "capture {place} gives events as long as it is whole");
    }
    let before = live();
    let (mut whole, mut events, mut losses) = (0_u64, 0_u64, 0_u64);
    let (mut bytes, mut record) = (Vec::new(), Vec::new());
    for input in 0..INPUTS {
        let mut random = Random::new(input);
        bytes.clear();
        bytes.extend_from_slice(&captures[random.below(captures.len())]);
        mutate(&mut bytes, &mut random);
        let peak = Peak::begin();
        let read = packet::read_capture(bytes.as_slice(), &mut |event| {
            events += 1;
            record.clear();
            event.encode(&mut record);
            assert_eq!(Event::decode(&record), Ok(event), "input {input}: frames become events like any other");
        });
        if let Ok(summary) = read {
            whole += 1;
            losses += u64::from(Loss::ALL.iter().any(|loss| summary.losses.get(*loss) > 0));
        }
        // Blocks, tables and what waits for a hole to close: all of it is small beside a file of one kilobyte.
        assert!(peak.bytes() < (4 << 20) + 64 * bytes.len(), "input {input}: {} bytes for {}", peak.bytes(), bytes.len());
    }
    drop((bytes, record));
    assert!(live() < before + (64 << 10), "{} bytes are left of {INPUTS} files", live() - before);
    assert!(whole > INPUTS / 8 && events > INPUTS && losses > INPUTS / 100, "{whole} whole, {events} events, {losses} with losses");
}
