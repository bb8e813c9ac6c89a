//! Bytes → [`Event`], by copy, and back. The layouts are those of `src/bpf/events.h`.
//!
//! Knows nothing of who made the bytes: the kernel, a recording, or the packet room.

use std::{
    mem::offset_of,
    net::{IpAddr, Ipv6Addr},
};

use plain::Plain;

use crate::{
    model::{ConnectionId, Direction, Endpoint, Role},
    skel::types,
};

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
    Open {
        tuple: Tuple,
        cgroup_id: u64,
        start_ns: u64,
        connect_ns: u64,
        role: Role,
        adopted: bool,
        comm: Text<16>,
    },
    Owner {
        cgroup_id: u64,
        comm: Text<16>,
    },
    Close {
        start_ns: u64,
        connect_ns: u64,
        totals: Totals,
        calls_sent: u64,
        calls_received: u64,
        error: u32,
        reason: CloseReason,
    },
    Fail {
        tuple: Tuple,
        cgroup_id: u64,
        elapsed_ns: u64,
        error: u32,
        comm: Text<16>,
    },
    Listen {
        local: Endpoint,
        netns: u32,
        cgroup_id: u64,
        comm: Text<16>,
        closed: bool,
    },
    Data {
        direction: Direction,
        offset: u64,
        size: u32,
        unread: bool,
        payload: &'a [u8],
    },
    /// A UDP socket is met, or met again after a long silence.
    UdpOpen {
        /// An unspecified address, a port 0: an end that the socket does not know.
        tuple: Tuple,
        cgroup_id: u64,
        start_ns: u64,
        role: Role,
        comm: Text<16>,
    },
    Datagram {
        direction: Direction,
        /// Datagrams of this direction before this one.
        number: u64,
        size: u32,
        unread: bool,
        /// The other end, where it is known.
        remote: Option<Endpoint>,
        payload: &'a [u8],
    },
    /// Both texts are borrowed, NUL-padded, at most 128 bytes: an event is passed on by value, and most are small.
    Exec {
        cgroup_id: u64,
        comm: Text<16>,
        filename: &'a [u8],
        argv0: &'a [u8],
    },
    Exit,
    Fork {
        child: u32,
    },
    /// A control group was made, got another name, or was removed.
    Cgroup {
        id: u64,
        /// From the root of its hierarchy, with a leading `/`; empty where it is not known.
        path: &'a [u8],
        removed: bool,
    },
    Counters(Totals),
    Tick,
    /// Connections that no event named since `since_ns` are gone.
    Sweep {
        since_ns: u64,
    },
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
        Self(padded(&text.as_bytes()[..text.len().min(N.saturating_sub(1))]))
    }

    pub fn to_string_lossy(&self) -> String {
        text_lossy(&self.0)
    }

    pub fn is_empty(&self) -> bool {
        self.0[0] == 0
    }
}

/// A NUL-padded string of the kernel up to its end.
pub fn text_lossy(padded: &[u8]) -> String {
    let text = padded.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

impl<const N: usize> std::fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_string_lossy().fmt(f)
    }
}

/// Why bytes are not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its kind's layout, or than the length it gives for itself or its payload.
    #[error("event of {0} bytes is cut short")]
    Short(usize),
    #[error("event kind {0} is not known")]
    Kind(u8),
}

const OPEN: u8 = types::event_kind::EVENT_OPEN.0 as u8;
const OWNER: u8 = types::event_kind::EVENT_OWNER.0 as u8;
const CLOSE: u8 = types::event_kind::EVENT_CLOSE.0 as u8;
const FAIL: u8 = types::event_kind::EVENT_FAIL.0 as u8;
const LISTEN: u8 = types::event_kind::EVENT_LISTEN.0 as u8;
const DATA: u8 = types::event_kind::EVENT_DATA.0 as u8;
const EXEC: u8 = types::event_kind::EVENT_EXEC.0 as u8;
const EXIT: u8 = types::event_kind::EVENT_EXIT.0 as u8;
const FORK: u8 = types::event_kind::EVENT_FORK.0 as u8;
const COUNTERS: u8 = types::event_kind::EVENT_COUNTERS.0 as u8;
const TICK: u8 = types::event_kind::EVENT_TICK.0 as u8;
const SWEEP: u8 = types::event_kind::EVENT_SWEEP.0 as u8;
const UDP_OPEN: u8 = types::event_kind::EVENT_UDP_OPEN.0 as u8;
const DATAGRAM: u8 = types::event_kind::EVENT_DATAGRAM.0 as u8;
const CGROUP: u8 = types::event_kind::EVENT_GROUP.0 as u8;

const SENT: u8 = types::event_flag::EVENT_SENT.0 as u8;
const ADOPTED: u8 = types::event_flag::EVENT_ADOPTED.0 as u8;
const CLOSED: u8 = types::event_flag::EVENT_CLOSED.0 as u8;
const UNREAD: u8 = types::event_flag::EVENT_UNREAD.0 as u8;
const REMOVED: u8 = types::event_flag::EVENT_REMOVED.0 as u8;

/// The length that a record gives for itself: how far to the next one. `None` if there is no whole record at the front.
pub fn record_len(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_ne_bytes(bytes.first_chunk::<4>().copied()?) as usize;
    (length >= size_of::<types::event_header>() && length <= bytes.len()).then_some(length)
}

/// The time that a record gives for itself.
pub fn record_time_ns(bytes: &[u8]) -> Option<u64> {
    const AT: usize = std::mem::offset_of!(types::event_header, time_ns);
    bytes.get(AT..)?.first_chunk().copied().map(u64::from_ne_bytes)
}

/// The UDP sockets whose server's port is 53: [`ConnectionId::group`] is a hash of that port.
const DNS_GROUP: u8 = 53;

/// What routing needs of a record, without decoding it: its connection and whether it concerns every worker.
pub fn route(bytes: &[u8]) -> Option<Route> {
    let header: types::event_header = copy(bytes).ok()?;
    Some(match header.kind {
        UDP_OPEN | DATAGRAM if ConnectionId(header.connection_id).group() == DNS_GROUP => {
            Route::Overheard(ConnectionId(header.connection_id))
        }
        OPEN | OWNER | CLOSE | FAIL | DATA | COUNTERS | UDP_OPEN | DATAGRAM => Route::Connection(ConnectionId(header.connection_id)),
        _ => Route::Everyone,
    })
}

/// Who must see an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Connection(ConnectionId),
    /// The same, but the other workers listen: what it says names ends of theirs.
    Overheard(ConnectionId),
    Everyone,
}

fn copy<T: Plain + Default>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut value = T::default();
    value.copy_from_bytes(bytes).map_err(|_| DecodeError::Short(bytes.len()))?;
    Ok(value)
}

impl<'a> Event<'a> {
    /// Reads one record; bytes behind its own length are left alone.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let raw: types::event_header = copy(bytes)?;
        let header = Header { time_ns: raw.time_ns, connection: ConnectionId(raw.connection_id), pid: raw.pid, tid: raw.tid };
        let has = |flag: u8| raw.flags & flag != 0;
        let body = match raw.kind {
            DATA => {
                let data: types::data_event = copy(bytes)?;
                let payload = payload(bytes, size_of::<types::data_event>(), data.captured, data.size)?;
                let direction = if has(SENT) { Direction::Sent } else { Direction::Received };
                Body::Data { direction, offset: data.offset, size: data.size, unread: has(UNREAD), payload }
            }
            OPEN => {
                let open: types::open_event = copy(bytes)?;
                Body::Open {
                    tuple: tuple(&open.tuple),
                    cgroup_id: open.cgroup_id,
                    start_ns: open.start_ns,
                    connect_ns: open.connect_ns,
                    role: role(open.role),
                    adopted: has(ADOPTED),
                    comm: Text(open.comm),
                }
            }
            DATAGRAM => {
                let datagram: types::datagram_event = copy(bytes)?;
                Body::Datagram {
                    direction: if has(SENT) { Direction::Sent } else { Direction::Received },
                    number: datagram.number,
                    size: datagram.size,
                    unread: has(UNREAD),
                    remote: (datagram.remote_port != 0).then(|| endpoint(datagram.remote, datagram.remote_port)),
                    payload: payload(bytes, size_of::<types::datagram_event>(), datagram.captured, datagram.size)?,
                }
            }
            UDP_OPEN => {
                let open: types::udp_open_event = copy(bytes)?;
                Body::UdpOpen {
                    tuple: tuple(&open.tuple),
                    cgroup_id: open.cgroup_id,
                    start_ns: open.start_ns,
                    role: role(open.role),
                    comm: Text(open.comm),
                }
            }
            OWNER => {
                let owner: types::owner_event = copy(bytes)?;
                Body::Owner { cgroup_id: owner.cgroup_id, comm: Text(owner.comm) }
            }
            CLOSE => {
                let close: types::close_event = copy(bytes)?;
                Body::Close {
                    start_ns: close.start_ns,
                    connect_ns: close.connect_ns,
                    totals: Totals {
                        bytes_sent: close.bytes_sent,
                        bytes_received: close.bytes_received,
                        retransmits: close.retransmits,
                        srtt_us: close.srtt_us,
                    },
                    calls_sent: close.calls_sent,
                    calls_received: close.calls_received,
                    error: close.error,
                    reason: reason(close.reason),
                }
            }
            FAIL => {
                let fail: types::fail_event = copy(bytes)?;
                Body::Fail {
                    tuple: tuple(&fail.tuple),
                    cgroup_id: fail.cgroup_id,
                    elapsed_ns: fail.elapsed_ns,
                    error: fail.error,
                    comm: Text(fail.comm),
                }
            }
            LISTEN => {
                let listen: types::listen_event = copy(bytes)?;
                let tuple = tuple(&listen.tuple);
                Body::Listen {
                    local: tuple.local,
                    netns: tuple.netns,
                    cgroup_id: listen.cgroup_id,
                    comm: Text(listen.comm),
                    closed: has(CLOSED),
                }
            }
            EXEC => {
                let exec: types::exec_event = copy(bytes)?;
                let text = |begin: usize, length: usize| bytes.get(begin..begin + length).ok_or(DecodeError::Short(bytes.len()));
                Body::Exec {
                    cgroup_id: exec.cgroup_id,
                    comm: Text(exec.comm),
                    filename: text(offset_of!(types::exec_event, filename), exec.filename.len())?,
                    argv0: text(offset_of!(types::exec_event, argv0), exec.argv0.len())?,
                }
            }
            EXIT => Body::Exit,
            FORK => {
                let fork: types::fork_event = copy(bytes)?;
                Body::Fork { child: fork.child }
            }
            CGROUP => {
                let cgroup: types::cgroup_event = copy(bytes)?;
                let path = bytes.get(size_of::<types::cgroup_event>()..raw.length as usize).ok_or(DecodeError::Short(bytes.len()))?;
                Body::Cgroup { id: cgroup.cgroup_id, path, removed: has(REMOVED) }
            }
            COUNTERS => {
                let counters: types::counters_event = copy(bytes)?;
                Body::Counters(Totals {
                    bytes_sent: counters.bytes_sent,
                    bytes_received: counters.bytes_received,
                    retransmits: counters.retransmits,
                    srtt_us: counters.srtt_us,
                })
            }
            TICK => Body::Tick,
            SWEEP => {
                let sweep: types::sweep_event = copy(bytes)?;
                Body::Sweep { since_ns: sweep.since_ns }
            }
            kind => return Err(DecodeError::Kind(kind)),
        };
        Ok(Event { header, body })
    }

    /// Appends the record to `out`: what the kernel would have written.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let header = |kind: u8, flags: u8, length: usize| types::event_header {
            length: length as u32,
            kind,
            flags,
            time_ns: self.header.time_ns,
            connection_id: self.header.connection.0,
            pid: self.header.pid,
            tid: self.header.tid,
            ..types::event_header::default()
        };
        /// Fixed-size kinds: the header's length is that of the layout.
        macro_rules! put {
            ($kind:expr, $flags:expr, $layout:ident { $($field:ident: $value:expr),* $(,)? }) => {{
                let mut record = types::$layout::default();
                record.header = header($kind, $flags, size_of::<types::$layout>());
                $(record.$field = $value;)*
                out.extend_from_slice(plain_bytes(&record));
            }};
        }
        match self.body {
            Body::Data { direction, offset, size, unread, payload } => {
                let flags = if direction == Direction::Sent { SENT } else { 0 } | if unread { UNREAD } else { 0 };
                let length = size_of::<types::data_event>() + payload.len();
                let record = types::data_event { header: header(DATA, flags, length), offset, size, captured: payload.len() as u32 };
                out.extend_from_slice(plain_bytes(&record));
                out.extend_from_slice(payload);
            }
            Body::Open { tuple, cgroup_id, start_ns, connect_ns, role, adopted, comm } => {
                put!(
                    OPEN,
                    if adopted { ADOPTED } else { 0 },
                    open_event {
                        tuple: raw_tuple(&tuple),
                        cgroup_id: cgroup_id,
                        start_ns: start_ns,
                        connect_ns: connect_ns,
                        role: role as u8,
                        comm: comm.0,
                    }
                );
            }
            Body::Datagram { direction, number, size, unread, remote, payload } => {
                let flags = if direction == Direction::Sent { SENT } else { 0 } | if unread { UNREAD } else { 0 };
                let length = size_of::<types::datagram_event>() + payload.len();
                let record = types::datagram_event {
                    header: header(DATAGRAM, flags, length),
                    number,
                    size,
                    captured: payload.len() as u32,
                    remote: remote.map_or([0; 16], |remote| octets(remote.address)),
                    remote_port: remote.map_or(0, |remote| remote.port),
                    ..types::datagram_event::default()
                };
                out.extend_from_slice(plain_bytes(&record));
                out.extend_from_slice(payload);
            }
            Body::UdpOpen { tuple, cgroup_id, start_ns, role, comm } => {
                put!(
                    UDP_OPEN,
                    0,
                    udp_open_event { tuple: raw_tuple(&tuple), cgroup_id: cgroup_id, start_ns: start_ns, role: role as u8, comm: comm.0 }
                );
            }
            Body::Owner { cgroup_id, comm } => put!(OWNER, 0, owner_event { cgroup_id: cgroup_id, comm: comm.0 }),
            Body::Close { start_ns, connect_ns, totals, calls_sent, calls_received, error, reason } => {
                put!(
                    CLOSE,
                    0,
                    close_event {
                        start_ns: start_ns,
                        connect_ns: connect_ns,
                        bytes_sent: totals.bytes_sent,
                        bytes_received: totals.bytes_received,
                        calls_sent: calls_sent,
                        calls_received: calls_received,
                        retransmits: totals.retransmits,
                        srtt_us: totals.srtt_us,
                        error: error,
                        reason: reason as u8,
                    }
                );
            }
            Body::Fail { tuple, cgroup_id, elapsed_ns, error, comm } => {
                put!(
                    FAIL,
                    0,
                    fail_event { tuple: raw_tuple(&tuple), cgroup_id: cgroup_id, elapsed_ns: elapsed_ns, error: error, comm: comm.0 }
                );
            }
            Body::Listen { local, netns, cgroup_id, comm, closed } => {
                let remote = Endpoint { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), port: 0 };
                put!(
                    LISTEN,
                    if closed { CLOSED } else { 0 },
                    listen_event { tuple: raw_tuple(&Tuple { local, remote, netns }), cgroup_id: cgroup_id, comm: comm.0 }
                );
            }
            Body::Exec { cgroup_id, comm, filename, argv0 } => {
                let (filename, argv0) = (padded(filename), padded(argv0));
                put!(EXEC, 0, exec_event { cgroup_id: cgroup_id, comm: comm.0, filename: filename, argv0: argv0 });
            }
            Body::Exit => put!(EXIT, 0, exit_event {}),
            Body::Fork { child } => put!(FORK, 0, fork_event { child: child }),
            Body::Cgroup { id, path, removed } => {
                let length = size_of::<types::cgroup_event>() + path.len();
                let record = types::cgroup_event { header: header(CGROUP, if removed { REMOVED } else { 0 }, length), cgroup_id: id };
                out.extend_from_slice(plain_bytes(&record));
                out.extend_from_slice(path);
            }
            Body::Counters(totals) => {
                put!(
                    COUNTERS,
                    0,
                    counters_event {
                        bytes_sent: totals.bytes_sent,
                        bytes_received: totals.bytes_received,
                        retransmits: totals.retransmits,
                        srtt_us: totals.srtt_us,
                    }
                );
            }
            Body::Sweep { since_ns } => put!(SWEEP, 0, sweep_event { since_ns: since_ns }),
            Body::Tick => out.extend_from_slice(plain_bytes(&header(TICK, 0, size_of::<types::event_header>()))),
        }
    }
}

/// Filled up with NUL, or cut to fit.
fn padded<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let length = text.len().min(N);
    bytes[..length].copy_from_slice(&text[..length]);
    bytes
}

/// The bytes of a layout without implicit padding (`skel.rs` checks the sizes).
fn plain_bytes<T: Plain>(value: &T) -> &[u8] {
    crate::skel::bytes(value)
}

/// The captured bytes behind a record's fixed part.
fn payload(record: &[u8], begin: usize, captured: u32, size: u32) -> Result<&[u8], DecodeError> {
    let payload = record.get(begin..begin + captured as usize).ok_or(DecodeError::Short(record.len()))?;
    Ok(&payload[..payload.len().min(size as usize)])
}

fn endpoint(address: [u8; 16], port: u16) -> Endpoint {
    Endpoint { address: IpAddr::V6(Ipv6Addr::from(address)).to_canonical(), port }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn tuple(raw: &types::socket_tuple) -> Tuple {
    Tuple { local: endpoint(raw.local, raw.local_port), remote: endpoint(raw.remote, raw.remote_port), netns: raw.netns }
}

fn raw_tuple(tuple: &Tuple) -> types::socket_tuple {
    types::socket_tuple {
        local: octets(tuple.local.address),
        remote: octets(tuple.remote.address),
        local_port: tuple.local.port,
        remote_port: tuple.remote.port,
        netns: tuple.netns,
    }
}

fn role(raw: u8) -> Role {
    match u32::from(raw) {
        r if r == types::conn_role::ROLE_CLIENT.0 => Role::Client,
        r if r == types::conn_role::ROLE_SERVER.0 => Role::Server,
        _ => Role::Unknown,
    }
}

fn reason(raw: u8) -> CloseReason {
    const REASONS: [CloseReason; 6] =
        [CloseReason::Unknown, CloseReason::Local, CloseReason::Remote, CloseReason::Reset, CloseReason::Timeout, CloseReason::Abort];
    REASONS.get(usize::from(raw)).copied().unwrap_or(CloseReason::Unknown)
}
