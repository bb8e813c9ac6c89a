//! Reads recordings, whole or cut, and finds damage.

use std::{collections::BTreeMap, io::Read};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;

use super::{
    BYTE_ORDER, CHUNK_HEADER_LEN, Chunk, End, FILE_HEADER_LEN, Fact, Header, HeaderChunk, KIND_END, KIND_EVENTS, KIND_FACT, KIND_HEADER,
    KIND_LOSSES, MAGIC, MAX_CHUNK, MAX_MAP_CHUNK, VERSION, count_records, crc32::crc32,
};

/// Nothing in a recording is nested deeper; a hostile one would exhaust the stack.
const MAX_DEPTH: usize = 32;

/// How a recording ends, known once all chunks were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Not there yet.
    Unread,
    /// With an END chunk.
    Complete,
    /// Without: the agent was killed. `offset` is behind the last whole chunk, `cut_bytes` are what follows there of another.
    Cut { offset: u64, cut_bytes: u64 },
}

/// Yields the chunks of a recording. After an error nothing more comes; unknown kinds of chunks are passed over.
pub struct Reader<R> {
    input: R,
    header: Header,
    /// Of the next chunk.
    offset: u64,
    next_sequence: u64,
    events: u64,
    ending: Ending,
    failed: bool,
}

/// The header of a recording alone.
pub fn read_header(input: impl Read) -> Result<Header> {
    Reader::new(input).map(|reader| reader.header)
}

impl<R: Read> Reader<R> {
    pub fn new(input: R) -> Result<Self> {
        let header = Header::default();
        let mut reader =
            Self { input, header, offset: FILE_HEADER_LEN, next_sequence: 0, events: 0, ending: Ending::Unread, failed: false };
        let mut start = Vec::new();
        reader.input.by_ref().take(FILE_HEADER_LEN).read_to_end(&mut start).context("read recording")?;
        let version = start.strip_prefix(&MAGIC).context("not a recording: it does not begin with the mark of one")?;
        let version = version.first_chunk().map(|version| u32::from_le_bytes(*version)).context("recording ends in its header")?;
        ensure!(version == VERSION, "recording is of version {version}; this program reads version {VERSION}");
        let Some((KIND_HEADER, _, payload)) = reader.raw_chunk()? else { bail!("recording has no header at byte {FILE_HEADER_LEN}") };
        let chunk: HeaderChunk = decode(&payload, FILE_HEADER_LEN)?;
        ensure!(
            chunk.byte_order == BYTE_ORDER,
            "recording was made on a {:?}-endian host; replay it on one of the same kind",
            chunk.byte_order
        );
        reader.header = chunk.header;
        Ok(reader)
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn ending(&self) -> Ending {
        self.ending
    }

    fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        loop {
            let offset = self.offset;
            let Some((kind, sequence, payload)) = self.raw_chunk()? else { return Ok(None) };
            let chunk = match kind {
                KIND_EVENTS => {
                    let count = count_records(&payload)
                        .with_context(|| format!("recording is damaged: the events of the chunk at byte {offset} are not whole records"))?;
                    let end = sequence.checked_add(count).filter(|_| sequence >= self.next_sequence).with_context(|| {
                        format!("recording is damaged: events from number {sequence} at byte {offset}, after {}", self.next_sequence)
                    })?;
                    (self.next_sequence, self.events) = (end, self.events + count);
                    Chunk::Events { sequence, bytes: payload }
                }
                KIND_FACT => Chunk::Fact(decode::<Fact>(&payload, offset)?),
                KIND_LOSSES => Chunk::Losses { sequence, losses: decode::<BTreeMap<String, u64>>(&payload, offset)? },
                KIND_END => {
                    let end: End = decode(&payload, offset)?;
                    ensure!(
                        end.events == self.events,
                        "recording is damaged: it ends after {} events at byte {offset} and should hold {}",
                        self.events,
                        end.events
                    );
                    ensure!(self.bytes(1)?.is_empty(), "recording is damaged: bytes after its end at byte {}", self.offset);
                    self.ending = Ending::Complete;
                    Chunk::End(end)
                }
                KIND_HEADER => bail!("recording is damaged: a second header at byte {offset}"),
                _ => continue,
            };
            return Ok(Some(chunk));
        }
    }

    /// A chunk's kind, sequence and payload, checksums verified; `None` at the end of the file, in order or not.
    fn raw_chunk(&mut self) -> Result<Option<(u32, u64, Vec<u8>)>> {
        let offset = self.offset;
        let head = self.bytes(CHUNK_HEADER_LEN)?;
        let Some(&fields) = head.first_chunk::<CHUNK_HEADER_LEN>() else {
            self.ending = Ending::Cut { offset, cut_bytes: head.len() as u64 };
            return Ok(None);
        };
        let [k0, k1, k2, k3, l0, l1, l2, l3, s0, s1, s2, s3, s4, s5, s6, s7, h0, h1, h2, h3, p0, p1, p2, p3] = fields;
        let (kind, length) = (u32::from_le_bytes([k0, k1, k2, k3]), u32::from_le_bytes([l0, l1, l2, l3]));
        let sequence = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        ensure!(
            crc32(&[fields.get(..16).unwrap_or_default()]) == u32::from_le_bytes([h0, h1, h2, h3]),
            "recording is damaged: wrong checksum of the chunk header at byte {offset}"
        );
        let max = if matches!(kind, KIND_HEADER | KIND_FACT | KIND_LOSSES | KIND_END) { MAX_MAP_CHUNK } else { MAX_CHUNK };
        ensure!(length <= max, "recording is damaged: the chunk at byte {offset} claims {length} bytes");
        let payload = self.bytes(length as usize)?;
        if payload.len() < length as usize {
            self.ending = Ending::Cut { offset, cut_bytes: (head.len() + payload.len()) as u64 };
            return Ok(None);
        }
        ensure!(
            crc32(&[&payload]) == u32::from_le_bytes([p0, p1, p2, p3]),
            "recording is damaged: wrong checksum of the chunk at byte {offset}"
        );
        self.offset = offset + CHUNK_HEADER_LEN as u64 + u64::from(length);
        Ok(Some((kind, sequence, payload)))
    }

    /// Up to `length` bytes, fewer at the end of the file. Memory grows with what is there, not with what a length promises.
    fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length.min(64 * 1024));
        let offset = self.offset;
        self.input.by_ref().take(length as u64).read_to_end(&mut bytes).with_context(|| format!("read recording at byte {offset}"))?;
        Ok(bytes)
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.ending != Ending::Unread {
            return None;
        }
        let chunk = self.next_chunk();
        self.failed = chunk.is_err();
        chunk.transpose()
    }
}

fn decode<T: DeserializeOwned>(payload: &[u8], offset: u64) -> Result<T> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(payload);
    deserializer.set_max_depth(MAX_DEPTH);
    T::deserialize(&mut deserializer).with_context(|| format!("recording is damaged: content of the chunk at byte {offset}"))
}
