//! What is known of one flow's framing.

use super::packets::{self, HEADER, Head, LARGEST, MORE_RESULTS, Success};
use crate::protocols::{At, Step};

#[derive(Default)]
pub struct Lane {
    /// Where packets begin is not known.
    pub lost: bool,
    /// The last packet goes on in the next one.
    pub continues: bool,
    /// Bytes left of a packet whose middle was missed.
    pub pass: u64,
    /// Header of the packet that has begun and is not whole.
    pub under_way: Option<Head>,
    /// As much of it as was seen.
    partial: Vec<u8>,
}

impl Lane {
    /// Notes that more of the packet at the front is needed.
    pub fn wait(&mut self, head: Head, bytes: &[u8]) -> Step {
        self.under_way = Some(head);
        self.partial.extend_from_slice(bytes.get(self.partial.len()..).unwrap_or_default());
        Step::NeedMore
    }

    pub fn done(&mut self, head: Head) {
        self.continues = head.length == LARGEST;
        self.under_way = None;
        if self.partial.capacity() > 0 {
            self.partial = Vec::new();
        }
    }

    pub fn new(lost: bool) -> Self {
        Self { lost, ..Self::default() }
    }

    pub fn lose(&mut self) {
        *self = Self::new(true);
    }

    pub fn take_partial(&mut self) -> Option<(Head, Vec<u8>)> {
        let head = self.under_way.take()?;
        Some((head, std::mem::take(&mut self.partial)))
    }
}

/// Bytes of an answer whose command was not reported yet: two threads on one socket.
#[derive(Default)]
pub struct Early {
    bytes: Vec<u8>,
    at: Option<At>,
}

/// An answer that is longer than this was not overtaken by its command's report.
const EARLY_LIMIT: usize = 16 * 1024;

impl Early {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// `false`: there are too many.
    pub fn hold(&mut self, bytes: &[u8], at: At) -> bool {
        if self.bytes.len() + bytes.len() > EARLY_LIMIT {
            return false;
        }
        self.bytes.extend_from_slice(bytes);
        match &mut self.at {
            Some(known) => known.last_ns = at.last_ns,
            None => self.at = Some(at),
        }
        true
    }

    pub fn take(&mut self) -> (Vec<u8>, At) {
        let at = self.at.take().unwrap_or(At { first_ns: 0, last_ns: 0, call_start: true });
        (std::mem::take(&mut self.bytes), at)
    }

    pub fn clear(&mut self) {
        self.bytes = Vec::new();
        self.at = None;
    }
}

/// The end of rows at the end of bytes whose framing is lost: an EOF packet, or an OK packet in its place without anything behind the
/// warnings.
pub fn rows_end(bytes: &[u8]) -> Option<Success> {
    let success = [5, 7].into_iter().find_map(|length| {
        let packet = bytes.get(bytes.len().checked_sub(HEADER + length)?..)?;
        let (header, body) = packet.split_at_checked(HEADER)?;
        let plausible = packets::head(header)?.length == length && (length == 5 || matches!(body, [_, 0, 0, ..]));
        packets::eof(body).filter(|_| plausible)
    })?;
    (success.status & MORE_RESULTS == 0).then_some(success)
}
