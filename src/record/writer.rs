//! Writes recordings.

use std::{collections::BTreeMap, io::Write};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{
    BYTE_ORDER, End, Fact, Header, HeaderChunk, KIND_END, KIND_EVENTS, KIND_FACT, KIND_HEADER, KIND_LOSSES, MAGIC, MAX_CHUNK,
    MAX_MAP_CHUNK, VERSION, count_records, crc32::crc32, records,
};

/// A recording under way. Each call writes whole chunks, so that what was written before a crash can be read.
pub struct Writer<W> {
    out: W,
    /// Number of the event after the last written.
    next_sequence: u64,
    events: u64,
}

impl<W: Write> Writer<W> {
    pub fn new(mut out: W, header: &Header) -> Result<Self> {
        out.write_all(&MAGIC).and_then(|()| out.write_all(&VERSION.to_le_bytes())).context("write recording header")?;
        let mut writer = Self { out, next_sequence: 0, events: 0 };
        writer.map(KIND_HEADER, 0, &HeaderChunk { byte_order: BYTE_ORDER.to_owned(), header: header.clone() })?;
        Ok(writer)
    }

    /// `bytes` are whole event records as the kernel laid them out, the first of them number `sequence`. Numbers never go back; a jump
    /// says that events are missing.
    pub fn events(&mut self, sequence: u64, bytes: &[u8]) -> Result<()> {
        let count = count_records(bytes).context("write events: the bytes are not whole event records")?;
        ensure!(sequence >= self.next_sequence, "write events: number {sequence} comes after {}", self.next_sequence);
        let (mut rest, mut first) = (bytes, sequence);
        while !rest.is_empty() {
            let (mut length, mut taken) = (0, 0);
            for record in records(rest).flatten() {
                if length + record.len() > MAX_CHUNK as usize {
                    break;
                }
                length += record.len();
                taken += 1;
            }
            ensure!(taken > 0, "write events: a record is longer than {MAX_CHUNK} bytes");
            let (chunk, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            self.chunk(KIND_EVENTS, first, chunk)?;
            (rest, first) = (behind, first + taken);
        }
        self.next_sequence = sequence + count;
        self.events += count;
        Ok(())
    }

    /// From event `fact.sequence` on, the process's pid stands for it.
    pub fn fact(&mut self, fact: &Fact) -> Result<()> {
        self.map(KIND_FACT, fact.sequence, fact)
    }

    /// All that was lost so far, by reason.
    pub fn losses(&mut self, losses: &BTreeMap<String, u64>) -> Result<()> {
        self.map(KIND_LOSSES, self.next_sequence, losses)
    }

    /// Ends the recording in order and hands the flushed `W` back.
    pub fn finish(mut self, elapsed_ns: u64, losses: &BTreeMap<String, u64>) -> Result<W> {
        self.map(KIND_END, self.next_sequence, &End { elapsed_ns, events: self.events, losses: losses.clone() })?;
        self.flush()?;
        Ok(self.out)
    }

    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().context("write recording")
    }

    fn map(&mut self, kind: u32, sequence: u64, value: &impl Serialize) -> Result<()> {
        let payload = rmp_serde::to_vec_named(value).context("encode recording chunk")?;
        ensure!(payload.len() <= MAX_MAP_CHUNK as usize, "write recording: {} bytes are too many for a chunk", payload.len());
        self.chunk(kind, sequence, &payload)
    }

    fn chunk(&mut self, kind: u32, sequence: u64, payload: &[u8]) -> Result<()> {
        let [k0, k1, k2, k3] = kind.to_le_bytes();
        let [l0, l1, l2, l3] = (payload.len() as u32).to_le_bytes();
        let head = [k0, k1, k2, k3, l0, l1, l2, l3];
        let sequence = sequence.to_le_bytes();
        let checksums = [crc32(&[&head, &sequence]).to_le_bytes(), crc32(&[payload]).to_le_bytes()];
        for part in [&head[..], &sequence, checksums.as_flattened(), payload] {
            self.out.write_all(part).context("write recording")?;
        }
        Ok(())
    }
}
