//! Bytes → [`Event`], by copy, and back. The layouts are those of `src/bpf/events.h`.
//!
//! Knows nothing of who made the bytes: the kernel, a recording, or the packet room.

use crate::model::{ConnectionId, Direction, Endpoint, Role};

/// What every event carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// CLOCK_MONOTONIC of the capturing host, or the capture file's own clock.
    pub time_ns: u64,
    /// 0 for events that are not of a connection.
    pub connection: ConnectionId,
    /// Thread group; 0 where none is known.
    pub pid: u32,
    pub tid: u32,
}

/// Both ends of a socket and the namespace it lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub local: Endpoint,
    pub remote: Endpoint,
    /// Inode of the network namespace; 0 where there is none (frames).
    pub netns: u32,
}

/// Why a connection ended; `enum close_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CloseReason {
    Unknown,
    Local,
    Remote,
    Reset,
    Timeout,
    Abort,
}

/// See the struct of the same name in `events.h` for units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    Open { tuple: Tuple, cgroup_id: u64, start_ns: u64, connect_ns: u64, role: Role, adopted: bool, comm: Text<16> },
    Owner { cgroup_id: u64, comm: Text<16> },
    Close { start_ns: u64, connect_ns: u64, totals: Totals, calls_sent: u64, calls_received: u64, error: u32, reason: CloseReason },
    Fail { tuple: Tuple, cgroup_id: u64, elapsed_ns: u64, error: u32, comm: Text<16> },
    Listen { local: Endpoint, netns: u32, cgroup_id: u64, comm: Text<16>, closed: bool },
    Data { direction: Direction, offset: u64, size: u32, unread: bool, payload: &'a [u8] },
    Exec { cgroup_id: u64, comm: Text<16>, filename: Text<128>, argv0: Text<128> },
    Exit,
    Fork { child: u32 },
    Counters(Totals),
    Tick,
}

/// Counters of a connection since it was opened or adopted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub retransmits: u32,
    pub srtt_us: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    pub header: Header,
    pub body: Body<'a>,
}

/// A NUL-padded string of the kernel, as bytes: names need not be UTF-8.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize>(pub [u8; N]);

impl<const N: usize> Text<N> {
    /// Cut to fit.
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; N];
        let length = text.len().min(N.saturating_sub(1));
        bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        Self(bytes)
    }

    pub fn to_string_lossy(&self) -> String {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(N);
        String::from_utf8_lossy(&self.0[..end]).into_owned()
    }

    pub fn is_empty(&self) -> bool {
        self.0[0] == 0
    }
}

impl<const N: usize> std::fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_string_lossy().fmt(f)
    }
}
