//! What became of connections whose ends are rewritten on their way (NAT), asked of the kernel's connection tracking by netlink.
//! Knows nothing of services and containers.

use std::net::IpAddr;

use crate::model::{Endpoint, Translation};

/// A socket to the connection tracking of the host's network namespace.
#[derive(Debug)]
pub struct Conntrack {}

impl Conntrack {
    /// # Errors
    /// The kernel has no connection tracking, or the privileges (CAP_NET_ADMIN; CAP_SYS_ADMIN to enter the host's network namespace)
    /// do not suffice.
    pub fn open() -> anyhow::Result<Self> {
        anyhow::bail!("connection tracking is not asked")
    }

    /// Whether a connection to this address may end elsewhere on this host: the address is one of the host's own.
    pub fn may_rewrite(&mut self, _remote: IpAddr, _now_ns: u64) -> bool {
        false
    }

    /// The ends of a connection as its server has them; `None` where nothing was rewritten, or nothing is known.
    /// `local` and `remote` are those of the client's socket.
    pub fn translate(&mut self, _is_udp: bool, _local: Endpoint, _remote: Endpoint) -> Option<Translation> {
        None
    }

    /// The client's end of a connection as the client has it; `local` and `remote` are those of the server's socket.
    pub fn origin(&mut self, _is_udp: bool, _local: Endpoint, _remote: Endpoint) -> Option<Endpoint> {
        None
    }
}
