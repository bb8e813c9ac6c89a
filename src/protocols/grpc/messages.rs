//! Messages of one flow of a call: a flag byte, four bytes of length, and the message ("Length-Prefixed-Message"). Only prefixes are read.

use crate::protocols::At;

const PREFIX: usize = 5;

/// Counts the messages of one flow, however the bytes are cut.
#[derive(Debug, Default)]
pub struct Messages {
    prefix: [u8; PREFIX],
    /// Bytes of `prefix` that have come.
    have: usize,
    /// Bytes of the message under way that are still to come.
    rest: u64,
    count: u64,
    first_whole_ns: Option<u64>,
    compressed: bool,
    /// Where messages begin is no longer known.
    lost: bool,
    /// A frame of trailers began (gRPC-Web): its length, and whether it is compressed. No message comes behind it.
    trailers: Option<(u64, bool)>,
}

impl Messages {
    /// Bytes as they come. The time of a message is that of its last byte.
    pub fn take(&mut self, bytes: &[u8], at: At) {
        self.take_frames(bytes, at);
        self.lost |= self.trailers.is_some();
    }

    /// As [`Messages::take`], up to a frame of trailers, behind whose prefix the bytes returned are.
    pub fn take_frames<'a>(&mut self, mut bytes: &'a [u8], at: At) -> &'a [u8] {
        while !self.lost && self.trailers.is_none() && !bytes.is_empty() {
            if self.rest > 0 {
                let passed = self.rest.min(bytes.len() as u64);
                bytes = bytes.get(passed as usize..).unwrap_or_default();
                self.pass(passed, at.last_ns);
                continue;
            }
            let missing = PREFIX.saturating_sub(self.have);
            let (part, after) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
            if let Some(room) = self.prefix.get_mut(self.have..).and_then(|room| room.get_mut(..part.len())) {
                room.copy_from_slice(part);
            }
            self.have += part.len();
            bytes = after;
            if self.have == PREFIX {
                self.begin(at.last_ns);
            }
        }
        bytes
    }

    fn begin(&mut self, at_ns: u64) {
        self.have = 0;
        let [flag, length @ ..] = self.prefix;
        let length = u64::from(u32::from_be_bytes(length));
        match flag {
            0 | 1 => self.compressed |= flag == 1,
            0x80 | 0x81 => {
                self.trailers = Some((length, flag == 0x81));
                return;
            }
            // Other bits are reserved: this is no message's begin.
            _ => {
                self.lost = true;
                return;
            }
        }
        self.rest = length;
        if self.rest == 0 {
            self.end(at_ns);
        }
    }

    fn end(&mut self, at_ns: u64) {
        self.count += 1;
        self.first_whole_ns.get_or_insert(at_ns);
    }

    fn pass(&mut self, bytes: u64, at_ns: u64) {
        self.rest -= bytes.min(self.rest);
        if self.rest == 0 {
            self.end(at_ns);
        }
    }

    /// So many bytes went by without being seen. When a prefix may be among them the count is given up.
    pub fn miss(&mut self, bytes: u64, at_ns: u64) {
        if bytes == 0 || self.lost {
        } else if bytes <= self.rest {
            self.pass(bytes, at_ns);
        } else {
            self.lost = true;
        }
    }

    /// So many bytes from here on are of no interest.
    pub fn passable(&self) -> u64 {
        if self.lost { u64::MAX } else { self.rest }
    }

    /// The frame of trailers that was met.
    pub fn trailers(&self) -> Option<(u64, bool)> {
        self.trailers
    }

    /// Whole messages; `None` when some may have been missed.
    pub fn count(&self) -> Option<u64> {
        (!self.lost).then_some(self.count)
    }

    /// When the first message was whole.
    pub fn first_whole_ns(&self) -> Option<u64> {
        self.first_whole_ns
    }

    /// At least one message was compressed.
    pub fn compressed(&self) -> bool {
        self.compressed
    }
}
