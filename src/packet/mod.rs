//! Frames → TCP segments → reassembled streams, or UDP datagrams → [`Event`](crate::event::Event)s, for capture files and frames from a NIC.
//!
//! A connection is seen from outside, by both its ends at once: it is reported as one watched socket, the client's where the handshake told
//! who that is. Knows nothing of processes; checksums are not verified, because frames captured where they are sent do not have them yet.
#![deny(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used)]

mod capture;
mod connection;
mod datagrams;
mod fragments;
mod half;
mod ip;
mod link;
mod reassembler;
mod round_trip;

#[cfg(test)]
mod tests;

pub use capture::{CaptureSummary, Frame, read_capture, read_frames};
pub use link::LinkType;
pub use reassembler::{FrameHead, Reassembler};

/// Bounds of everything that is kept between frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in the table, ended ones that are still remembered included; the longest silent go first. The same for UDP.
    pub connections: usize,
    /// Out-of-order bytes kept per direction before the hole in front of them is given up.
    pub pending_bytes_per_direction: usize,
    /// The same, in segments.
    pub pending_segments_per_direction: usize,
    /// Out-of-order bytes kept over all connections.
    pub pending_bytes: usize,
    /// How long a hole is waited for, in capture time.
    pub hole_wait_ns: u64,
    /// The same where the receiver has what is missing: then only the capture can lack it. Capture files have frames in their order;
    /// of a running host two processors may tell of two frames the other way round.
    pub acked_hole_wait_ns: u64,
    /// Silence after which an open connection is closed.
    pub idle_ns: u64,
    /// Silence after which an unanswered SYN has failed, and after which an ended connection is forgotten.
    pub lingering_ns: u64,
    /// IP datagrams under reassembly.
    pub datagrams: usize,
    /// How long the fragments of a datagram are waited for; RFC 8200 section 4.5 says 60 s, Linux waits 30 s.
    pub datagram_wait_ns: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const SECOND_NS: u64 = 1_000_000_000;
        Self {
            connections: 65_536,
            pending_bytes_per_direction: 1 << 20,
            pending_segments_per_direction: 1024,
            pending_bytes: 64 << 20,
            hole_wait_ns: 10 * SECOND_NS,
            acked_hole_wait_ns: 0,
            idle_ns: 3600 * SECOND_NS,
            lingering_ns: 60 * SECOND_NS,
            datagrams: 256,
            datagram_wait_ns: 30 * SECOND_NS,
        }
    }
}

/// Why something of the frames did not reach the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Frames of a link type that is not read, or of an interface that the capture file does not describe.
    Link,
    /// Frames whose headers contradict themselves.
    Malformed,
    /// Frames cut by the capture's snapshot length before the end of the TCP or UDP header.
    Cut,
    /// IP fragments that never made a whole datagram (one missing, overlapping, too many at once).
    Fragment,
    /// Segments more than 1 GiB away from where their stream is: no window reaches so far (RFC 7323 section 2.3).
    OutOfWindow,
    /// Segments whose bytes came after the hole they belong into was given up, or after the connection was reset.
    Late,
    /// Segments from before the first byte of a connection whose begin was not captured.
    BeforeStart,
    /// Bytes of streams that were never captured: each is also a jump in the offsets of the events.
    HoleBytes,
    /// Bytes of captured segments and datagrams that lie beyond the capture's snapshot length.
    SnappedBytes,
    /// Connections given up for newer ones because the table was full.
    ConnectionTable,
    /// The same segment or datagram captured again at another interface.
    DuplicateFrame,
}

impl Loss {
    pub const ALL: [Loss; 11] = [
        Loss::Link,
        Loss::Malformed,
        Loss::Cut,
        Loss::Fragment,
        Loss::OutOfWindow,
        Loss::Late,
        Loss::BeforeStart,
        Loss::HoleBytes,
        Loss::SnappedBytes,
        Loss::ConnectionTable,
        Loss::DuplicateFrame,
    ];

    /// The name under which the loss is reported.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Link => "packet_link",
            Loss::Malformed => "packet_malformed",
            Loss::Cut => "packet_cut",
            Loss::Fragment => "packet_fragment",
            Loss::OutOfWindow => "packet_out_of_window",
            Loss::Late => "packet_late",
            Loss::BeforeStart => "packet_before_start",
            Loss::HoleBytes => "packet_hole_bytes",
            Loss::SnappedBytes => "packet_snapped_bytes",
            Loss::ConnectionTable => "packet_connection_table",
            Loss::DuplicateFrame => "packet_duplicate_frame",
        }
    }
}

/// A counter for each [`Loss`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses([u64; Loss::ALL.len()]);

impl Losses {
    pub fn get(&self, loss: Loss) -> u64 {
        self.0.get(loss as usize).copied().unwrap_or_default()
    }

    /// The losses that happened.
    pub fn iter(&self) -> impl Iterator<Item = (Loss, u64)> {
        Loss::ALL.into_iter().zip(self.0).filter(|&(_, count)| count > 0)
    }

    pub(crate) fn add(&mut self, loss: Loss, count: u64) {
        if let Some(counter) = self.0.get_mut(loss as usize) {
            *counter = counter.saturating_add(count);
        }
    }
}
