//! The host's own network namespace, where the agent runs in another one: what is opened there stays there.

use std::{collections::HashSet, fs::File, io, net::IpAddr, os::linux::fs::MetadataExt, path::Path};

use anyhow::Context;
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::socket::SockProtocol,
};

use super::netlink::{NLM_F_DUMP, Netlink, attribute};

const HOST_NAMESPACE: &str = "/proc/1/ns/net";
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Calls `open` in the network namespace of the host's first process; afterwards this thread is where it was.
///
/// Where that process cannot be seen our own namespace is taken for the host's, which it is for an agent on the host itself.
///
/// # Errors
/// That of `open`; CAP_SYS_ADMIN is missing to enter the namespace.
pub fn in_host_namespace<T>(open: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let inode = |path: &str| std::fs::metadata(path).map(|found| (found.st_dev(), found.st_ino()));
    match (inode(HOST_NAMESPACE), inode(OWN_NAMESPACE)) {
        (Ok(host), Ok(own)) if host != own => {}
        (Err(error), _) | (_, Err(error)) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!("comparing {HOST_NAMESPACE} with ours: {error}: taking ours for the host's (CAP_SYS_PTRACE would tell)");
            return open();
        }
        _ => return open(),
    }
    let host = File::open(HOST_NAMESPACE).with_context(|| format!("opening {HOST_NAMESPACE}"))?;
    let own = File::open(OWN_NAMESPACE).with_context(|| format!("opening {OWN_NAMESPACE}"))?;
    setns(&host, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("entering the host's network namespace, {HOST_NAMESPACE} (needs CAP_SYS_ADMIN)"))?;
    let opened = open();
    setns(&own, CloneFlags::CLONE_NEWNET).context("leaving the host's network namespace")?;
    opened
}

/// Whether the kernel has connection tracking loaded.
pub fn tracks_connections() -> bool {
    Path::new("/proc/sys/net/netfilter/nf_conntrack_count").exists() || Path::new("/proc/net/nf_conntrack").exists()
}

/// `RTM_GETADDR` and its answer, linux/rtnetlink.h.
const RTM_GETADDR: u16 = 22;
const RTM_NEWADDR: u16 = 20;
/// `struct ifaddrmsg`: family, prefix length, flags, scope, interface.
const IFADDRMSG_LEN: usize = 8;
/// The other end of a point-to-point link has it under `IFA_ADDRESS`; IPv6 has no `IFA_LOCAL`.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// kube-proxy's IPVS mode gives the host every Service's address.
const ADDRESSES_MAX: usize = 65_536;
const REFRESH_NS: u64 = 5_000_000_000;

/// The addresses of the host's interfaces, looked up anew every five seconds at most.
#[derive(Debug)]
pub struct HostAddresses {
    netlink: Netlink,
    known: HashSet<IpAddr>,
    read_ns: Option<u64>,
}

impl HostAddresses {
    /// Of the network namespace that the thread is in.
    pub fn open() -> anyhow::Result<Self> {
        Ok(Self { netlink: Netlink::open(SockProtocol::NetlinkRoute)?, known: HashSet::new(), read_ns: None })
    }

    pub fn contains(&mut self, address: IpAddr, now_ns: u64) -> bool {
        if self.read_ns.is_none_or(|read_ns| now_ns.saturating_sub(read_ns) >= REFRESH_NS) {
            self.read_ns = Some(now_ns);
            match self.read() {
                Ok(known) => self.known = known,
                Err(error) => tracing::debug!("listing the host's addresses: {error}"),
            }
        }
        self.known.contains(&address)
    }

    fn read(&mut self) -> Result<HashSet<IpAddr>, Errno> {
        let mut known = HashSet::new();
        let take = |kind, body: &[u8]| {
            if kind == RTM_NEWADDR && known.len() < ADDRESSES_MAX {
                known.extend(interface_address(body));
            }
        };
        self.netlink.ask(RTM_GETADDR, NLM_F_DUMP, &[0; IFADDRMSG_LEN], take)?;
        Ok(known)
    }
}

fn interface_address(body: &[u8]) -> Option<IpAddr> {
    let attributes = body.get(IFADDRMSG_LEN..)?;
    let octets = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from).ok();
    v4.or_else(|| <[u8; 16]>::try_from(octets).map(IpAddr::from).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_addresses_are_those_of_its_interfaces() {
        let mut addresses = HostAddresses::open().unwrap();
        assert!(addresses.contains([127, 0, 0, 1].into(), 0));
        assert!(!addresses.contains([192, 0, 2, 77].into(), 0));
        let mut listed: Vec<_> = nix::ifaddrs::getifaddrs()
            .unwrap()
            .filter_map(|interface| interface.address)
            .filter_map(|address| {
                let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
            })
            .collect();
        listed.sort_unstable();
        listed.dedup();
        let mut known: Vec<_> = addresses.known.iter().copied().collect();
        known.sort_unstable();
        assert_eq!(known, listed);
    }

    #[test]
    fn an_address_is_read_from_either_attribute() {
        let mut body = vec![0; IFADDRMSG_LEN];
        super::super::netlink::put(&mut body, IFA_ADDRESS, &[10, 0, 0, 2]);
        assert_eq!(interface_address(&body), Some([10, 0, 0, 2].into()));
        super::super::netlink::put(&mut body, IFA_LOCAL, &[10, 0, 0, 1]);
        assert_eq!(interface_address(&body), Some([10, 0, 0, 1].into()));
        assert_eq!(interface_address(&body[..4]), None);
        let mut odd = vec![0; IFADDRMSG_LEN];
        super::super::netlink::put(&mut odd, IFA_LOCAL, &[1, 2, 3]);
        assert_eq!(interface_address(&odd), None);
    }
}
