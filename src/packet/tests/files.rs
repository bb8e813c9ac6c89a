//! Capture files: real ones with their expected events, both formats in all their forms, and damage.
//!
//! The captures under `tests/data/captures` were made by tcpdump of curl asking nginx; `UPDATE_GOLDEN=1` rewrites the expected events.

use std::{fmt::Write, path::PathBuf};

use super::{ACK, Dice, SECOND, SYN, ethernet, line};
use crate::packet::{CaptureSummary, Frame, LinkType, Loss, read_capture, read_frames};

fn captures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures")
}

/// The events, and what `read_capture` returned.
fn events(bytes: &[u8]) -> (Vec<String>, Result<CaptureSummary, String>) {
    let mut lines = Vec::new();
    let result = read_capture(bytes, &mut |event| lines.push(line(&event)));
    (lines, result.map_err(|error| format!("{error:#}")))
}

#[test]
fn real_captures_become_the_events_that_are_written_beside_them() {
    let mut read = 0;
    for entry in std::fs::read_dir(captures()).unwrap() {
        let path = entry.unwrap().path();
        if !path.extension().is_some_and(|extension| extension == "pcap" || extension == "pcapng") {
            continue;
        }
        let mut text = String::new();
        let mut begin_ns = None;
        let summary = read_capture(std::fs::File::open(&path).unwrap(), &mut |event| {
            let begin_ns = *begin_ns.get_or_insert(event.header.time_ns);
            writeln!(text, "{:>9} {}", event.header.time_ns - begin_ns, line(&event)).unwrap();
        })
        .unwrap();
        writeln!(text, "{} frames, {} segments, {} others", summary.frames, summary.segments, summary.others).unwrap();
        for (loss, count) in summary.losses.iter() {
            writeln!(text, "lost {} {count}", loss.name()).unwrap();
        }
        let golden = path.with_extension("events");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&golden).unwrap(), "{}", path.display());
        read += 1;
    }
    assert!(read >= 6);
}

/// Two frames of one conversation.
fn frames() -> [Vec<u8>; 2] {
    [ethernet(true, 4000, SYN, 100, 0, b""), ethernet(false, 4000, SYN | ACK, 500, 101, b"hi")]
}

fn expected() -> [&'static str; 2] {
    ["1 open client 10.0.0.1:4000 > 10.0.0.2:80 connect=500000000", "1 received 0+2 hi"]
}

struct File {
    big: bool,
    bytes: Vec<u8>,
}

impl File {
    fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&if self.big { value.to_be_bytes() } else { value.to_le_bytes() });
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&if self.big { value.to_be_bytes() } else { value.to_le_bytes() });
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&if self.big { value.to_be_bytes() } else { value.to_le_bytes() });
    }

    fn block(&mut self, kind: u32, body: impl FnOnce(&mut File)) {
        let mut content = File { big: self.big, bytes: Vec::new() };
        body(&mut content);
        content.bytes.resize(content.bytes.len().next_multiple_of(4), 0);
        let length = content.bytes.len() as u32 + 12;
        self.u32(kind);
        self.u32(length);
        self.bytes.append(&mut content.bytes);
        self.u32(length);
    }

    fn section(&mut self) {
        self.block(0x0a0d_0d0a, |file| {
            file.u32(0x1a2b_3c4d);
            file.u16(1);
            file.u16(0);
            file.u64(u64::MAX);
        });
    }

    /// Options: time resolution and offset in seconds.
    fn interface(&mut self, link: u16, snap_len: u32, resolution: Option<u8>, offset_s: i64) {
        self.block(1, |file| {
            file.u16(link);
            file.u16(0);
            file.u32(snap_len);
            if let Some(resolution) = resolution {
                file.u16(9);
                file.u16(1);
                file.bytes.extend_from_slice(&[resolution, 0, 0, 0]);
            }
            file.u16(14);
            file.u16(8);
            file.u64(offset_s as u64);
            file.u32(0);
        });
    }

    fn enhanced(&mut self, interface: u32, ticks: u64, frame: &[u8]) {
        self.block(6, |file| {
            file.u32(interface);
            file.u32((ticks >> 32) as u32);
            file.u32(ticks as u32);
            file.u32(frame.len() as u32);
            file.u32(frame.len() as u32);
            file.bytes.extend_from_slice(frame);
        });
    }
}

fn pcap_file(big: bool, magic: u32, tick: u32) -> Vec<u8> {
    let mut file = File { big, bytes: Vec::new() };
    file.u32(magic);
    file.u16(2);
    file.u16(4);
    for value in [0, 0, 65_535, 1] {
        file.u32(value);
    }
    for (n, frame) in frames().iter().enumerate() {
        file.u32(1000);
        file.u32(n as u32 * tick);
        file.u32(frame.len() as u32);
        file.u32(frame.len() as u32);
        file.bytes.extend_from_slice(frame);
    }
    file.bytes
}

#[test]
fn reads_pcap_in_both_byte_orders_and_both_resolutions() {
    for big in [false, true] {
        for (magic, tick) in [(0xa1b2_c3d4, 500_000), (0xa1b2_3c4d, 500_000_000)] {
            let (lines, summary) = events(&pcap_file(big, magic, tick));
            assert_eq!(lines, expected(), "big={big} magic={magic:x}");
            let summary = summary.unwrap();
            assert_eq!((summary.frames, summary.first_ns, summary.last_ns), (2, 1000 * SECOND, 1000 * SECOND + SECOND / 2));
        }
    }
}

/// Two sections, three interfaces, all kinds of packet blocks and one of no interest.
fn pcapng_file(big: bool) -> Vec<u8> {
    let mut file = File { big, bytes: Vec::new() };
    let [first, second] = frames();
    file.section();
    file.interface(1, 0, None, 0);
    file.interface(101, 0, Some(9), 1000);
    file.interface(147, 0, Some(0x80 | 1), 0);
    file.block(0x0bad, |file| file.u32(7));
    file.enhanced(0, 1_000_000_000, &first);
    file.enhanced(1, 500_000_000, &second[14..]);
    file.enhanced(2, 2001, b"of a link type that is not read");
    file.enhanced(9, 0, b"of no interface");
    file.section();
    file.interface(1, 60, Some(0x80 | 1), 0);
    let third = ethernet(true, 4000, ACK, 101, 503, b"simple");
    file.block(3, |file| {
        file.u32(third.len() as u32);
        file.bytes.extend_from_slice(&third);
    });
    let fourth = ethernet(true, 4000, ACK, 107, 503, b"old");
    file.block(2, |file| {
        file.u16(0);
        file.u16(0);
        file.u32(0);
        file.u32(2003);
        file.u32(fourth.len() as u32);
        file.u32(fourth.len() as u32);
        file.bytes.extend_from_slice(&fourth);
    });
    file.bytes
}

#[test]
fn reads_pcapng_with_its_sections_interfaces_and_packet_blocks() {
    for big in [false, true] {
        let (lines, summary) = events(&pcapng_file(big));
        assert_eq!(lines, [&expected()[..], &["1 sent 0+6 simple", "1 sent 6+3 old"]].concat(), "big={big}");
        let summary = summary.unwrap();
        assert_eq!((summary.frames, summary.last_ns), (6, 1001 * SECOND + SECOND / 2));
        assert_eq!(summary.losses.get(Loss::Link), 2);
    }
}

#[test]
fn sections_of_one_file_may_differ_in_byte_order() {
    let both = [pcapng_file(false), pcapng_file(true)].concat();
    let mut count = 0;
    read_frames(both.as_slice(), &mut |_| count += 1).unwrap();
    assert_eq!(count, 12);
}

#[test]
fn a_simple_packet_is_cut_at_the_snapshot_length_of_its_interface() {
    let mut file = File { big: false, bytes: Vec::new() };
    file.section();
    file.interface(1, 61, None, 0);
    file.block(3, |file| {
        file.u32(1000);
        file.bytes.extend_from_slice(&[7; 61]);
    });
    let mut lengths = Vec::new();
    read_frames(file.bytes.as_slice(), &mut |Frame { captured, original_len, link, .. }| {
        lengths.push((captured.len(), original_len, link));
    })
    .unwrap();
    assert_eq!(lengths, [(61, 1000, Some(LinkType::Ethernet))]);
}

#[test]
fn a_truncated_file_is_delivered_up_to_its_end_and_the_error_names_the_place() {
    for (bytes, what) in [(pcap_file(false, 0xa1b2_c3d4, 500_000), "pcap"), (pcapng_file(false), "pcapng")] {
        let mut boundaries = 0;
        let mut most = 0;
        for length in 1..bytes.len() {
            let (lines, result) = events(&bytes[..length]);
            assert!(lines.len() >= most, "{what} of {length} bytes");
            most = lines.len();
            match result {
                Ok(_) => boundaries += 1,
                Err(error) => assert!(error.contains("at byte") || error.contains("begins with"), "{error}"),
            }
        }
        assert_eq!(boundaries, if what == "pcap" { 2 } else { 12 }, "{what}: whole blocks are no error");
    }
    let bytes = pcap_file(false, 0xa1b2_c3d4, 500_000);
    let (lines, result) = events(&bytes[..bytes.len() - 1]);
    assert!(lines.is_empty(), "the SYN alone is no connection");
    assert_eq!(result.unwrap_err(), "capture file is truncated: the block at byte 94 ends after 71 of 72 bytes");
}

#[test]
fn damage_is_named_with_its_place() {
    let error = |bytes: &[u8]| events(bytes).1.unwrap_err();
    assert_eq!(error(b""), "not a capture file: it is empty");
    assert!(error(b"GET / HTTP/1.1").contains("not a capture file"));
    let mut bytes = pcap_file(false, 0xa1b2_c3d4, 1);
    bytes[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(error(&bytes), "capture file is damaged: the record at byte 24 claims 4294967295 captured bytes");
    let mut bytes = pcapng_file(false);
    bytes[32] = 13;
    assert_eq!(error(&bytes), "capture file is damaged: the block at byte 28 claims 13 bytes");
    let mut bytes = pcapng_file(false);
    bytes[24] = 32;
    assert!(error(&bytes).contains("block at byte 0 is 28 bytes long at its begin and 32 at its end"));
    let mut file = File { big: false, bytes: Vec::new() };
    file.section();
    file.interface(1, 0, Some(99), 0);
    assert_eq!(error(&file.bytes), "capture file is damaged: the block of type 1 at byte 28");
}

#[test]
fn survives_20_000_damaged_files() {
    let mut seeds: Vec<Vec<u8>> = std::fs::read_dir(captures())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "pcap"))
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    seeds.sort();
    seeds.extend([pcapng_file(false), pcapng_file(true), pcap_file(true, 0xa1b2_3c4d, 1)]);
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let (mut errors, mut delivered) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = seeds[dice.roll(seeds.len())].clone();
        for _ in 0..=dice.roll(8) {
            // Mostly in the headers: payload says nothing here.
            let at = if dice.roll(2) == 0 { dice.roll(bytes.len()) } else { dice.roll(bytes.len().min(400)) };
            match dice.roll(6) {
                0 => bytes[at] ^= 1 << dice.roll(8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.roll(5)],
                2 => bytes.truncate(at.max(4)),
                3 => {
                    let copy: Vec<u8> = bytes[at..bytes.len().min(at + dice.roll(200))].to_vec();
                    let to = dice.roll(bytes.len());
                    drop(bytes.splice(to..to, copy));
                }
                4 => bytes[at] = dice.roll(256) as u8,
                _ => drop(bytes.drain(at..bytes.len().min(at + dice.roll(8)))),
            }
            if bytes.len() < 4 {
                bytes.resize(4, 0);
            }
        }
        let mut payload_bytes = 0;
        let result = read_capture(bytes.as_slice(), &mut |event| {
            if let crate::event::Body::Data { payload, size, .. } = event.body {
                assert!(payload.len() <= size as usize);
                payload_bytes += payload.len();
            }
        });
        assert!(payload_bytes <= bytes.len(), "bytes come from the file, each once");
        errors += usize::from(result.is_err());
        delivered += usize::from(payload_bytes > 0);
    }
    assert!(errors > 1000 && delivered > 1000, "{errors} errors, {delivered} with bytes: the damage is too little or too much");
}
