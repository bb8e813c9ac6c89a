//! One flow of bytes with positions: joins calls for the parser, passes over bodies, and turns missing bytes into gaps.

use crate::{
    model::Flow,
    protocols::{At, MAX_BUFFERED, Parser, Sink, Step},
};

/// The parser refused the bytes: the connection is not of its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMine;

/// A call's bytes of one flow.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Position of the first byte in its flow.
    pub offset: u64,
    /// True length; at least `payload.len()`.
    pub size: u64,
    /// The captured prefix.
    pub payload: &'a [u8],
    pub time_ns: u64,
}

/// The state of one flow between calls.
#[derive(Debug, Default)]
pub struct Stream {
    /// Position behind the last byte accounted for.
    position: u64,
    /// Bytes the parser wants to see again; they end at `position`.
    buffer: Vec<u8>,
    /// When the first byte of `buffer` came, and whether a call began with it.
    buffer_ns: u64,
    buffer_call_start: bool,
    /// Bytes still to pass over.
    skip: u64,
}

impl Stream {
    /// A flow whose first byte of interest has this position.
    pub fn starting_at(position: u64) -> Self {
        Self { position, ..Self::default() }
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes held for the parser: never more than [`MAX_BUFFERED`] between calls.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The position up to which nothing needs to be captured.
    pub fn skips_until(&self) -> u64 {
        self.position.saturating_add(self.skip)
    }

    /// Hands a call's bytes to the parser.
    ///
    /// Bytes before the current position were accounted for already (two threads on one socket can report their calls in the wrong order)
    /// and are left out.
    pub fn feed(&mut self, flow: Flow, segment: Segment<'_>, parser: &mut dyn Parser, out: &mut dyn Sink) -> Result<(), NotMine> {
        let Segment { mut offset, mut size, mut payload, time_ns } = segment;
        let mut call_start = true;
        if offset < self.position {
            let known = (self.position - offset).min(size);
            offset += known;
            size -= known;
            payload = payload.get(known as usize..).unwrap_or_default();
            call_start = false;
            if size == 0 {
                return Ok(());
            }
        }
        if offset > self.position {
            self.miss(flow, offset - self.position, time_ns, parser, out);
        }
        let uncaptured = size.saturating_sub(payload.len() as u64);
        self.position = offset.saturating_add(payload.len() as u64);
        self.consume(flow, payload, call_start, time_ns, parser, out)?;
        if uncaptured > 0 {
            self.miss(flow, uncaptured, time_ns, parser, out);
        }
        Ok(())
    }

    /// `missing` bytes at the current position were never captured.
    fn miss(&mut self, flow: Flow, missing: u64, time_ns: u64, parser: &mut dyn Parser, out: &mut dyn Sink) {
        self.position = self.position.saturating_add(missing);
        let mut lost = missing;
        if self.skip > 0 {
            let passed = self.skip.min(missing);
            self.pass_over(flow, passed, time_ns, parser, out);
            lost -= passed;
        }
        if lost > 0 {
            lost = lost.saturating_add(self.buffer.len() as u64);
            self.buffer.clear();
            parser.gap(flow, lost, time_ns, out);
        }
    }

    fn pass_over(&mut self, flow: Flow, bytes: u64, time_ns: u64, parser: &mut dyn Parser, out: &mut dyn Sink) {
        if self.skip != u64::MAX {
            self.skip -= bytes;
            if self.skip == 0 {
                parser.skipped(flow, time_ns, out);
            }
        }
    }

    fn consume(
        &mut self,
        flow: Flow,
        mut bytes: &[u8],
        mut call_start: bool,
        now: u64,
        parser: &mut dyn Parser,
        out: &mut dyn Sink,
    ) -> Result<(), NotMine> {
        if self.skip > 0 {
            let passed = self.skip.min(bytes.len() as u64);
            bytes = &bytes[passed as usize..];
            call_start &= passed == 0;
            self.pass_over(flow, passed, now, parser, out);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if self.buffer.is_empty() {
            let rest =
                self.parse(flow, bytes, Begin { ns: now, call_start, old: 0, old_call_start: false, old_ns: 0 }, now, parser, out)?;
            if rest.length > 0 {
                self.buffer.extend_from_slice(&bytes[bytes.len() - rest.length..]);
                self.hold(flow, rest, now, parser, out);
            }
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let begin = Begin { ns: now, call_start, old: buffer.len(), old_call_start: self.buffer_call_start, old_ns: self.buffer_ns };
        buffer.extend_from_slice(bytes);
        let rest = self.parse(flow, &buffer, begin, now, parser, out);
        if let Ok(rest) = rest {
            buffer.drain(..buffer.len() - rest.length);
            self.buffer = buffer;
            if rest.length > 0 {
                self.hold(flow, rest, now, parser, out);
            } else if self.buffer.capacity() > KEPT_CAPACITY {
                self.buffer = Vec::new();
            }
        }
        rest.map(drop)
    }

    fn hold(&mut self, flow: Flow, rest: Rest, now: u64, parser: &mut dyn Parser, out: &mut dyn Sink) {
        self.buffer_ns = rest.first_ns;
        self.buffer_call_start = rest.call_start;
        if self.buffer.len() > MAX_BUFFERED {
            let lost = self.buffer.len() as u64;
            self.buffer = Vec::new();
            parser.gap(flow, lost, now, out);
        }
    }

    /// Calls the parser until it wants more than there is.
    fn parse(
        &mut self,
        flow: Flow,
        bytes: &[u8],
        begin: Begin,
        now: u64,
        parser: &mut dyn Parser,
        out: &mut dyn Sink,
    ) -> Result<Rest, NotMine> {
        let mut done = 0;
        loop {
            let rest = &bytes[done..];
            let (first_ns, call_start) = begin.of(done);
            if rest.is_empty() {
                return Ok(Rest { length: 0, first_ns, call_start });
            }
            match parser.parse(flow, rest, At { first_ns, last_ns: now, call_start }, out) {
                // A parser that consumes nothing would be called for ever: one byte is the least.
                Step::Consumed(count) => done += count.clamp(1, rest.len()),
                Step::Skip { head, body } => {
                    done += head.min(rest.len());
                    self.skip = body;
                    let passed = body.min((bytes.len() - done) as u64);
                    done += passed as usize;
                    if body == 0 {
                        parser.skipped(flow, now, out);
                        // As above: a skip of nothing must not be taken for progress.
                        if head == 0 {
                            return Ok(Rest { length: bytes.len() - done, first_ns, call_start });
                        }
                    } else if passed > 0 {
                        self.pass_over(flow, passed, now, parser, out);
                    }
                }
                Step::NeedMore => return Ok(Rest { length: rest.len(), first_ns, call_start }),
                Step::NotMine => return Err(NotMine),
            }
        }
    }
}

/// Above this a drained buffer is given back: ten thousand idle connections must not keep their largest message each.
const KEPT_CAPACITY: usize = 4096;

/// Where the bytes handed over came from: the first `old` of them from earlier calls, the others from this one.
#[derive(Clone, Copy)]
struct Begin {
    ns: u64,
    call_start: bool,
    old: usize,
    old_ns: u64,
    old_call_start: bool,
}

impl Begin {
    /// Time and call begin of the byte at `index`.
    fn of(self, index: usize) -> (u64, bool) {
        if index < self.old { (self.old_ns, self.old_call_start && index == 0) } else { (self.ns, self.call_start && index == self.old) }
    }
}

/// What the parser left.
#[derive(Clone, Copy)]
struct Rest {
    length: usize,
    first_ns: u64,
    call_start: bool,
}
