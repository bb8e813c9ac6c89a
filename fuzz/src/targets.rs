//! What is done with an input, and what must not happen: a panic, work or memory without bound, a text without bound, time that runs back.
//! Knows nothing of libFuzzer: `tests/hostile` plays the kept inputs through the same targets.

use std::net::IpAddr;

use remora::{
    connection::{
        Connection,
        stream::{Segment, Stream},
    },
    event::{self, Event},
    model::{Direction, Exchange, Flow, Protocol, Protocols, Role, Wish},
    packet,
    protocols::{At, Capture, DEFINITIONS, Definition, Loss, MAX_BUFFERED, Opening, Sink, Step as Parsed, Transport},
    record::{self, Chunk, Reader},
};

use crate::{
    memory::{Peak, live},
    meter,
    script::{Script, Step},
};

/// What one connection may hold at any time, its parser and both its streams.
const CONNECTION_BYTES: usize = 8 << 20;
/// Texts of an exchange are cut by their parsers; nothing needs more than the stream keeps for one message.
const LONGEST_TEXT: usize = MAX_BUFFERED;
/// `CALLS_MAX` and `BYTES_MAX` of detection.
const UNNAMED_CALLS: usize = 16;
const UNNAMED_BYTES: u64 = 16 << 10;
/// `ALONE_CALLS_MAX` and `ALONE_BYTES_MAX`: while only one side has spoken.
const ALONE_CALLS: usize = 64;
const ALONE_BYTES: u64 = 1 << 20;

pub struct Target {
    /// Of its corpus, too: `fuzz/corpus/NAME`.
    pub name: String,
    run: Run,
}

enum Run {
    Parser(&'static Definition),
    Bytes(ReadsBytes),
}

type ReadsBytes = fn(&[u8]);

/// One for each protocol, two where it has a parser for streams and one for datagrams, and one for each other reader of bytes.
pub fn all() -> Vec<Target> {
    let parsers = DEFINITIONS.iter().map(|definition| {
        let others = if definition.transports.contains(&Transport::Stream) { "" } else { "_datagrams" };
        Target { name: format!("{}{others}", definition.protocol.name()), run: Run::Parser(definition) }
    });
    let others: [(&str, ReadsBytes); 4] = [("detection", detection), ("events", events), ("recording", recording), ("capture", capture)];
    parsers.chain(others.into_iter().map(|(name, run)| Target { name: name.to_owned(), run: Run::Bytes(run) })).collect()
}

impl Target {
    /// # Panics
    /// When something happened that must not.
    pub fn run(&self, input: &[u8]) {
        match self.run {
            Run::Parser(definition) => parser(definition, input),
            Run::Bytes(run) => run(input),
        }
    }
}

/// Holds what comes out to what can be said of any exchange.
struct Check {
    wants_attributes: bool,
    last_ns: u64,
    exchanges: u64,
}

impl Sink for Check {
    fn exchange(&mut self, exchange: &Exchange<'_>) {
        self.exchanges += 1;
        for text in [exchange.operation, exchange.resource, exchange.status] {
            assert!(text.len() <= LONGEST_TEXT, "a text of {} bytes", text.len());
        }
        assert!(exchange.start_ns <= self.last_ns && exchange.end_ns <= self.last_ns, "an exchange of the future: {exchange:?}");
    }

    fn wants_attributes(&self) -> bool {
        self.wants_attributes
    }

    fn capture(&mut self, _: Capture) {}

    fn lost(&mut self, _: Loss) {}

    fn server_name(&mut self, name: &str) {
        assert!(name.len() <= 255, "a name of {} bytes", name.len());
    }

    fn resolved(&mut self, name: &str, _: IpAddr, _: u32) {
        assert!(name.len() <= 1024, "a name of {} bytes", name.len());
    }
}

/// Work and memory since a moment.
struct Bounds {
    work: u64,
    peak: Peak,
    live: usize,
}

impl Bounds {
    fn begin() -> Self {
        Self { work: meter::work(), peak: Peak::begin(), live: live() }
    }

    /// `size`: bytes and calls of the input.
    fn hold(&self, size: usize, memory: usize) {
        let (work, most) = (meter::work() - self.work, meter::MOST_AT_ALL + meter::MOST_A_BYTE * size as u64);
        assert!(work <= most, "{work} steps for {size} bytes and calls: at most {most} were due");
        assert!(self.peak.bytes() <= memory, "{} bytes of memory, at most {memory}", self.peak.bytes());
    }

    /// Everything was given back.
    fn end(self) {
        assert!(live() <= self.live + 4096, "{} bytes are left", live() - self.live);
    }
}

fn parser(definition: &'static Definition, input: &[u8]) {
    let script = Script::read(input);
    let bounds = Bounds::begin();
    let options = script.options;
    let only_datagrams = !definition.transports.contains(&Transport::Stream);
    let datagrams = only_datagrams || options.datagrams() && definition.transports.contains(&Transport::Datagrams);
    let transport = if datagrams { Transport::Datagrams } else { Transport::Stream };
    let mut parser = (definition.parser)(Opening { adopted: options.adopted(), transport, raw: options.raw() });
    let mut out = Check { wants_attributes: options.wants_attributes(), last_ns: 1, exchanges: 0 };
    let mut streams = [Stream::default(), Stream::default()];
    for step in &script.steps {
        out.last_ns += 1_000;
        let now_ns = out.last_ns;
        let fed = match *step {
            Step::Call { flow, begin, end, .. } if datagrams => {
                let payload = &script.bytes[begin..end];
                (definition.likeness)(flow, payload);
                let at = At { first_ns: now_ns, last_ns: now_ns, call_start: true };
                if parser.parse(flow, payload, at, &mut out) == Parsed::NotMine { break } else { Ok(()) }
            }
            Step::Call { flow, begin, end, unseen, again } => {
                let payload = &script.bytes[begin..end];
                (definition.likeness)(flow, payload);
                let stream = &mut streams[flow.index()];
                let offset = stream.position().saturating_sub(again);
                let segment = Segment { offset, size: payload.len() as u64 + unseen, payload, time_ns: now_ns };
                stream.feed(flow, segment, parser.as_mut(), &mut out)
            }
            Step::Lost { flow, size } if !datagrams => {
                let stream = &mut streams[flow.index()];
                let segment = Segment { offset: stream.position(), size, payload: &[], time_ns: now_ns };
                stream.feed(flow, segment, parser.as_mut(), &mut out)
            }
            Step::Lost { .. } => Ok(()),
            Step::Second => {
                out.last_ns += 1_000_000_000;
                parser.tick(out.last_ns, &mut out);
                Ok(())
            }
        };
        if fed.is_err() {
            break;
        }
        let held = streams.iter().map(Stream::buffered).max().unwrap_or_default();
        assert!(held <= MAX_BUFFERED, "{held} bytes are held for the parser");
    }
    out.last_ns += 1_000;
    parser.close(out.last_ns, &mut out);
    bounds.hold(script.bytes.len() + script.steps.len(), CONNECTION_BYTES);
    drop((parser, streams));
    bounds.end();
}

/// A connection as a worker has it: named by what is said on it.
fn detection(input: &[u8]) {
    let script = Script::read(input);
    let bounds = Bounds::begin();
    let role = match script.options.role() {
        0 | 1 => Role::Client,
        2 => Role::Server,
        _ => Role::Unknown,
    };
    let mut connection = Connection::new(role, script.options.adopted(), Protocols::default());
    let mut out = Check { wants_attributes: script.options.wants_attributes(), last_ns: 1, exchanges: 0 };
    let (mut offsets, mut calls, mut bytes) = ([0_u64; 2], 0, 0);
    let mut alone = None;
    for step in &script.steps {
        out.last_ns += 1_000;
        let (flow, payload, size, again) = match *step {
            Step::Call { flow, begin, end, unseen, again } => (flow, &script.bytes[begin..end], (end - begin) as u64 + unseen, again),
            // Its event never arrived: nobody is told of it, the next one shows the hole.
            Step::Lost { flow, size } => {
                offsets[flow.index()] += size;
                continue;
            }
            Step::Second => {
                out.last_ns += 1_000_000_000;
                continue;
            }
        };
        let direction = if (flow == Flow::Request) != (role == Role::Server) { Direction::Sent } else { Direction::Received };
        let offset = offsets[flow.index()].saturating_sub(again);
        let before = connection.protocol();
        let outcome = connection.data(direction, Segment { offset, size, payload, time_ns: out.last_ns }, &mut out);
        offsets[flow.index()] = offsets[flow.index()].max(offset + size);
        // The other side has its first word: the limits begin anew, once.
        if alone == Some(flow.opposite()) {
            (alone, calls, bytes) = (None, 0, 0);
        } else if calls == 0 {
            alone = Some(flow);
        }
        (calls, bytes) = (calls + 1, bytes + size);
        let after = connection.protocol();
        assert_eq!(outcome.named, before != after, "a name is told when it is given or taken");
        if after.is_none() {
            let limits = if alone.is_some() { (ALONE_CALLS, ALONE_BYTES) } else { (UNNAMED_CALLS, UNNAMED_BYTES) };
            assert!(calls < limits.0 && bytes < limits.1, "unnamed after {calls} calls and {bytes} bytes");
        }
        if after == Some(Protocol::Unknown) && before != after {
            assert_eq!(outcome.wish, Some(Wish::NOTHING), "what nobody claims costs lengths only");
        }
    }
    out.last_ns += 1_000;
    connection.close(offsets[1], out.last_ns, &mut out);
    bounds.hold(script.bytes.len() + script.steps.len(), CONNECTION_BYTES);
    drop(connection);
    bounds.end();
}

fn events(input: &[u8]) {
    let bounds = Bounds::begin();
    let length = event::record_len(input);
    assert!(length.is_none_or(|length| (32..=input.len()).contains(&length)));
    let (route, decoded) = (event::route(input), Event::decode(input));
    bounds.hold(input.len(), 0);
    if let Ok(event) = decoded {
        assert!(route.is_some(), "what can be decoded can be routed");
        let mut again = Vec::new();
        event.encode(&mut again);
        assert_eq!(Event::decode(&again), Ok(event), "what was decoded can be written and read again");
    }
}

/// CRC-32 of IEEE 802.3, a bit at a time.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// Makes the checksums of a recording right: nobody finds one by chance, and what is behind them must stand by itself.
fn with_checksums(input: &[u8]) -> Vec<u8> {
    let mut recording = input.to_vec();
    let mut at = 12;
    while let Some(head) = recording.get(at..at + 24) {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let end = (at + 24).saturating_add(length);
        let checksum = crc32(&head[..16]);
        recording[at + 16..at + 20].copy_from_slice(&checksum.to_le_bytes());
        let Some(payload) = recording.get(at + 24..end) else { break };
        let checksum = crc32(payload);
        recording[at + 20..at + 24].copy_from_slice(&checksum.to_le_bytes());
        at = end;
    }
    recording
}

fn recording(input: &[u8]) {
    let bytes = with_checksums(input);
    let bounds = Bounds::begin();
    if let Ok(mut reader) = Reader::new(bytes.as_slice()) {
        for chunk in reader.by_ref() {
            if let Ok(Chunk::Events { bytes, .. }) = chunk {
                for record in record::records(&bytes) {
                    let record = record.expect("a sound chunk holds whole records");
                    let _ = (Event::decode(record), event::route(record));
                }
            }
        }
        assert!(reader.next().is_none(), "nothing comes after the end or an error");
    }
    // A chunk is read in pieces of 64 KiB, and a decoded map is larger than its bytes: serde believes an array's length up to 1 MiB at
    // each of the 32 levels that the reader goes down.
    bounds.hold(bytes.len(), (33 << 20) + 64 * bytes.len());
    bounds.end();
}

fn capture(input: &[u8]) {
    let bounds = Bounds::begin();
    let _ = packet::read_capture(input, &mut |event| {
        let mut record = Vec::new();
        event.encode(&mut record);
        assert_eq!(Event::decode(&record), Ok(event), "frames become events like any other");
    });
    // Blocks, tables and what waits for a hole to close.
    bounds.hold(input.len(), (4 << 20) + 64 * input.len());
    bounds.end();
}
