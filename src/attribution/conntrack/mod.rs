//! What became of connections whose ends are rewritten on their way (NAT), asked of the kernel's connection tracking by netlink.
//! Knows nothing of services and containers.
//!
//! The messages are those of linux/netfilter/nfnetlink_conntrack.h: a look-up by exact ends, answered with both directions of the
//! connection. The kernel answers within the call that asks, from a hash table.

mod host;
mod netlink;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::{errno::Errno, sys::socket::SockProtocol};

use crate::model::{Endpoint, Translation};
use host::HostAddresses;
use netlink::{Netlink, attribute, put, put_nested};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`; answered with `IPCTNL_MSG_CT_NEW`.
const CT_GET: u16 = 1 << 8 | 1;
const CT_NEW: u16 = 1 << 8;
/// `struct nfgenmsg`: family, version, resource.
const NFGENMSG_LEN: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

/// After a failure nothing is asked for so long: a kernel that is silent must not hold a worker up at every connection.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether the kernel tracks connections by now.
const LOOK: Duration = Duration::from_secs(5);

/// The look-ups so far, for the agent's own metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConntrackCounts {
    pub asked: u64,
    /// The connection is tracked, rewritten or not.
    pub found: u64,
    /// No answer, or a refusal; "unknown" is none.
    pub failed: u64,
    /// What all of them took.
    pub took_ns: u64,
}

/// A socket to the connection tracking of the host's network namespace.
#[derive(Debug)]
pub struct Conntrack {
    netlink: Netlink,
    addresses: HostAddresses,
    body: Vec<u8>,
    counts: ConntrackCounts,
    /// Nothing is asked before.
    quiet_until: Option<Instant>,
    /// The kernel tracks connections: to ask one that does not would load the module.
    is_tracking: bool,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Direction {
    source: Endpoint,
    destination: Endpoint,
}

/// Both directions, each as its first packet has it when nothing has been rewritten yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tracked {
    original: Direction,
    reply: Direction,
}

impl Conntrack {
    /// Must be called on a thread that may enter another network namespace and come back: before threads are started.
    ///
    /// # Errors
    /// The kernel has no connection tracking, or the privileges (CAP_NET_ADMIN; CAP_SYS_ADMIN to enter the host's network namespace)
    /// do not suffice.
    pub fn open() -> anyhow::Result<Self> {
        let (netlink, addresses) = host::in_host_namespace(|| Ok((Netlink::open(SockProtocol::NetlinkNetFilter)?, HostAddresses::open()?)))
            .context("asking the connection tracking")?;
        let mut conntrack = Self {
            netlink,
            addresses,
            body: Vec::new(),
            counts: ConntrackCounts::default(),
            quiet_until: None,
            is_tracking: host::tracks_connections(),
        };
        // A connection that cannot be: what counts is whether the kernel lets us ask.
        let nowhere = Endpoint { address: Ipv4Addr::LOCALHOST.into(), port: 0 };
        if conntrack.is_tracking
            && let Err(error) = conntrack.look_up(CTA_TUPLE_ORIG, false, Direction { source: nowhere, destination: nowhere })
        {
            let hint = if error == Errno::EPERM { " (CAP_NET_ADMIN is missing)" } else { "" };
            return Err(error).with_context(|| format!("asking the connection tracking{hint}"));
        }
        Ok(conntrack)
    }

    /// Whether a connection to this address may end elsewhere on this host: the address is one of the host's own. Loopback is not: every
    /// network namespace has it, and what is tracked there does not tell which.
    pub fn may_rewrite(&mut self, remote: IpAddr, now_ns: u64) -> bool {
        !remote.is_loopback() && self.addresses.contains(remote, now_ns)
    }

    /// The ends of a connection as its server has them; `None` where nothing was rewritten, or nothing is known.
    /// `local` and `remote` are those of the client's socket.
    pub fn translate(&mut self, is_udp: bool, local: Endpoint, remote: Endpoint) -> Option<Translation> {
        let Tracked { original, reply } = self.tracked(CTA_TUPLE_ORIG, is_udp, Direction { source: local, destination: remote })?;
        // Another connection's answers may have these ends.
        let is_own = original == Direction { source: local, destination: remote };
        let translation = Translation { client: reply.destination, server: reply.source };
        (is_own && translation != Translation { client: local, server: remote }).then_some(translation)
    }

    /// The client's end of a connection as the client has it, `None` where that is `remote`, or nothing is known; `local` and `remote`
    /// are those of the server's socket.
    pub fn origin(&mut self, is_udp: bool, local: Endpoint, remote: Endpoint) -> Option<Endpoint> {
        let Tracked { original, reply } = self.tracked(CTA_TUPLE_REPLY, is_udp, Direction { source: local, destination: remote })?;
        let is_own = reply == Direction { source: local, destination: remote };
        Some(original.source).filter(|client| is_own && *client != remote)
    }

    pub fn counts(&self) -> ConntrackCounts {
        self.counts
    }

    fn tracked(&mut self, tuple: u16, is_udp: bool, direction: Direction) -> Option<Tracked> {
        let began = Instant::now();
        if self.quiet_until.is_some_and(|until| began < until) {
            return None;
        }
        self.quiet_until = None;
        if !self.is_tracking {
            self.is_tracking = host::tracks_connections();
            self.quiet_until = (!self.is_tracking).then(|| began + LOOK);
        }
        let named = |end: Endpoint| end.port != 0 && !end.address.is_unspecified();
        let Direction { source, destination } = direction;
        if !self.is_tracking || !named(source) || !named(destination) || source.address.is_ipv4() != destination.address.is_ipv4() {
            return None;
        }
        let outcome = self.look_up(tuple, is_udp, direction);
        self.counts.asked += 1;
        self.counts.took_ns += u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        match outcome {
            Ok(tracked) => {
                self.counts.found += u64::from(tracked.is_some());
                tracked
            }
            Err(error) => {
                tracing::debug!("asking the connection tracking for {source} to {destination}: {error}");
                self.counts.failed += 1;
                self.quiet_until = Some(began + PAUSE);
                None
            }
        }
    }

    /// Asks for the connection that has this direction; `tuple` says which one.
    fn look_up(&mut self, tuple: u16, is_udp: bool, direction: Direction) -> Result<Option<Tracked>, Errno> {
        self.body.clear();
        question(&mut self.body, tuple, is_udp, direction);
        let mut answer = None;
        let take = |kind, body: &[u8]| {
            if kind == CT_NEW {
                answer = tracked(body);
            }
        };
        match self.netlink.ask(CT_GET, 0, &self.body, take) {
            Ok(()) => Ok(answer),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn question(out: &mut Vec<u8>, tuple: u16, is_udp: bool, direction: Direction) {
    let Direction { source, destination } = direction;
    let family = if source.address.is_ipv4() { AF_INET } else { AF_INET6 };
    out.extend_from_slice(&[family, 0, 0, 0]);
    put_nested(out, tuple, |out| {
        put_nested(out, CTA_TUPLE_IP, |out| {
            for (end, [v4, v6]) in [(source, [CTA_IP_V4_SRC, CTA_IP_V6_SRC]), (destination, [CTA_IP_V4_DST, CTA_IP_V6_DST])] {
                match end.address {
                    IpAddr::V4(address) => put(out, v4, &address.octets()),
                    IpAddr::V6(address) => put(out, v6, &address.octets()),
                }
            }
        });
        put_nested(out, CTA_TUPLE_PROTO, |out| {
            put(out, CTA_PROTO_NUM, &[if is_udp { IPPROTO_UDP } else { IPPROTO_TCP }]);
            put(out, CTA_PROTO_SRC_PORT, &source.port.to_be_bytes());
            put(out, CTA_PROTO_DST_PORT, &destination.port.to_be_bytes());
        });
    });
}

fn tracked(body: &[u8]) -> Option<Tracked> {
    let attributes = body.get(NFGENMSG_LEN..)?;
    let direction = |kind| self::direction(attribute(attributes, kind)?);
    Some(Tracked { original: direction(CTA_TUPLE_ORIG)?, reply: direction(CTA_TUPLE_REPLY)? })
}

fn direction(tuple: &[u8]) -> Option<Direction> {
    let (addresses, ports) = (attribute(tuple, CTA_TUPLE_IP)?, attribute(tuple, CTA_TUPLE_PROTO)?);
    let address = |v4, v6| {
        let v4 = || attribute(addresses, v4).and_then(|octets| Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?))));
        let v6 = || attribute(addresses, v6).and_then(|octets| Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?))));
        v4().or_else(v6).map(|address| address.to_canonical())
    };
    let port = |kind| attribute(ports, kind).and_then(|octets| Some(u16::from_be_bytes(octets.try_into().ok()?)));
    Some(Direction {
        source: Endpoint { address: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?, port: port(CTA_PROTO_SRC_PORT)? },
        destination: Endpoint { address: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?, port: port(CTA_PROTO_DST_PORT)? },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> Endpoint {
        let address: std::net::SocketAddr = text.parse().unwrap();
        Endpoint { address: address.ip(), port: address.port() }
    }

    fn between(source: &str, destination: &str) -> Direction {
        Direction { source: end(source), destination: end(destination) }
    }

    #[test]
    fn a_look_up_has_the_bytes_that_the_kernel_reads() {
        let mut body = Vec::new();
        question(&mut body, CTA_TUPLE_ORIG, false, between("10.9.0.1:40000", "10.96.0.10:80"));
        #[rustfmt::skip]
        let expected = [
            2, 0, 0, 0,
            52, 0, 1, 0x80,
            20, 0, 1, 0x80,
            8, 0, 1, 0, 10, 9, 0, 1,
            8, 0, 2, 0, 10, 96, 0, 10,
            28, 0, 2, 0x80,
            5, 0, 1, 0, 6, 0, 0, 0,
            6, 0, 2, 0, 0x9c, 0x40, 0, 0,
            6, 0, 3, 0, 0, 80, 0, 0,
        ];
        assert_eq!(body, if cfg!(target_endian = "little") { expected.to_vec() } else { body.clone() });
    }

    #[test]
    fn both_directions_are_read_whatever_stands_between_them() {
        let original = between("[2001:db8::1]:40000", "[fd00:96::a]:53");
        let reply = between("[2001:db8::2]:5353", "[2001:db8::1]:40000");
        let mut body = Vec::new();
        question(&mut body, CTA_TUPLE_ORIG, true, original);
        // CTA_STATUS and one that nobody knows.
        put(&mut body, 3, &[0, 0, 1, 8]);
        put(&mut body, 200, b"new");
        let mut second = Vec::new();
        question(&mut second, CTA_TUPLE_REPLY, true, reply);
        body.extend_from_slice(&second[NFGENMSG_LEN..]);
        assert_eq!(tracked(&body), Some(Tracked { original, reply }));
        for cut in 0..body.len() {
            assert_eq!(tracked(&body[..cut]), None, "{cut}");
        }
    }
}
