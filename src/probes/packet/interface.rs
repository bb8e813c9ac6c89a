//! The network interfaces that are watched: a packet socket on each, which never holds a frame, because its filter hands over what is
//! wanted and lets nothing pass. One that goes away is looked for until it is back.
#![allow(unsafe_code, reason = "packet sockets have options and addresses without a safe wrapper")]

use std::{
    ffi::CString,
    mem,
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use nix::{errno::Errno, libc, net::if_};

use super::Link;
use crate::probes::health::Health;

// include/uapi/linux/if_arp.h
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_PPP: u16 = 512;
const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_TUNNEL: u16 = 768;
const ARPHRD_TUNNEL6: u16 = 769;
const ARPHRD_LOOPBACK: u16 = 772;
const ARPHRD_SIT: u16 = 776;
const ARPHRD_NONE: u16 = 0xfffe;
// include/uapi/linux/if_packet.h
/// fa788d986a3a, Linux 4.20.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const PACKET_ADD_MEMBERSHIP: libc::c_int = 1;
const PACKET_MR_PROMISC: u16 = 1;
// include/uapi/linux/ethtool.h
const ETHTOOL_GDRVINFO: u32 = 3;
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// IFNAMSIZ without the NUL.
const NAME_MAX: usize = 15;

/// The interfaces and what became of each. Dropping it ends the capture.
pub struct Interfaces {
    watched: Vec<Watched>,
    ethernet: OwnedFd,
    ip: OwnedFd,
    health: Arc<ArcSwap<Vec<(String, Health)>>>,
}

struct Watched {
    name: String,
    /// Its index and our socket on it, while it is there.
    attached: Option<(u32, OwnedFd)>,
    health: Health,
}

impl Interfaces {
    pub(super) fn open(names: &[String], ethernet: OwnedFd, ip: OwnedFd, health: Arc<ArcSwap<Vec<(String, Health)>>>) -> Result<Self> {
        let mut interfaces = Self { watched: Vec::new(), ethernet, ip, health };
        for name in names {
            if interfaces.watched.iter().any(|watched| watched.name == *name) {
                continue;
            }
            let Some(index) = index_of(name) else {
                bail!("there is no network interface {name} here; there are {}", existing().join(", "));
            };
            let socket = interfaces.attach(name, index)?;
            interfaces.watched.push(Watched { name: name.clone(), attached: Some((index, socket)), health: Health::Attached });
        }
        interfaces.publish();
        Ok(interfaces)
    }

    /// Notices those that went away and those that came back. Costs a system call or two for each.
    pub fn look(&mut self) {
        let mut changed = false;
        for place in 0..self.watched.len() {
            let (name, known) = (self.watched[place].name.clone(), self.watched[place].attached.as_ref().map(|(index, _)| *index));
            let index = index_of(&name);
            if index == known {
                continue;
            }
            let (attached, health) = match index {
                None => {
                    tracing::warn!("the network interface {name} is gone; the others are watched on, and it is looked for");
                    (None, Health::Failed("the interface is gone".to_owned()))
                }
                Some(index) => match self.attach(&name, index) {
                    Ok(socket) => {
                        tracing::info!("the network interface {name} is back");
                        (Some((index, socket)), Health::Attached)
                    }
                    Err(error) => {
                        let health = Health::Failed(format!("{error:#}"));
                        if health != self.watched[place].health {
                            tracing::warn!("{error:#}");
                        }
                        (None, health)
                    }
                },
            };
            changed |= health != self.watched[place].health;
            (self.watched[place].attached, self.watched[place].health) = (attached, health);
        }
        if changed {
            self.publish();
        }
    }

    fn publish(&self) {
        let health = self.watched.iter().map(|watched| (format!("filter on {}", watched.name), watched.health.clone())).collect();
        self.health.store(Arc::new(health));
    }

    fn attach(&self, name: &str, index: u32) -> Result<OwnedFd> {
        let attempt = || format!("watching the network interface {name}");
        let socket = packet_socket().with_context(attempt)?;
        let link = match hardware_type(&socket, name).with_context(attempt)? {
            ARPHRD_ETHER | ARPHRD_LOOPBACK => Link::Ethernet,
            ARPHRD_PPP | ARPHRD_RAWIP | ARPHRD_TUNNEL | ARPHRD_TUNNEL6 | ARPHRD_SIT | ARPHRD_NONE => Link::Ip,
            other => bail!("the network interface {name} has frames of a kind that is not read (hardware type {other} of if_arp.h)"),
        };
        let program = if link == Link::Ethernet { &self.ethernet } else { &self.ip };
        option(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &program.as_raw_fd()).with_context(attempt)?;
        let flags = flags(&socket, name).with_context(attempt)?;
        if flags & libc::IFF_LOOPBACK != 0 {
            // Each frame leaves and arrives here: once is enough.
            option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1_i32).with_context(attempt)?;
        }
        if is_bridge(&socket, name) {
            // What a bridge passes on between its ports goes by its own interface, unless that wants to hear everything. It is made of
            // software: nothing outside notices. The kernel takes it back with the socket.
            let membership =
                libc::packet_mreq { mr_ifindex: index.cast_signed(), mr_type: PACKET_MR_PROMISC, mr_alen: 0, mr_address: [0; 8] };
            option(&socket, libc::SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership).with_context(attempt)?;
        }
        bind(&socket, index).with_context(attempt)?;
        if flags & libc::IFF_UP == 0 {
            tracing::warn!("the network interface {name} is down: nothing is seen there until it is up");
        }
        Ok(socket)
    }
}

/// The addresses under which a listener of `address` can be reached: itself, or all that this host's interfaces have now.
pub(super) fn addresses_of(address: IpAddr) -> Vec<IpAddr> {
    if !address.is_unspecified() {
        return vec![address];
    }
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .collect()
}

fn index_of(name: &str) -> Option<u32> {
    if_::if_nametoindex(name).ok().filter(|_| name.len() <= NAME_MAX)
}

fn existing() -> Vec<String> {
    let Ok(interfaces) = if_::if_nameindex() else { return Vec::new() };
    interfaces.iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect()
}

/// Bound to nothing: it sees no frame yet.
fn packet_socket() -> Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    match Errno::result(fd) {
        // SAFETY: the descriptor was made above and nobody else has it.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(error @ (Errno::EPERM | Errno::EACCES)) => Err(error).context("opening a packet socket (it needs CAP_NET_RAW)"),
        Err(error) => Err(error).context("opening a packet socket"),
    }
}

/// `value` is as the option has it in C.
fn option<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> Result<()> {
    // SAFETY: the pointer is to as many bytes as are told, of a value without padding (an int, or packet_mreq), and the call copies them.
    let code =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const *value).cast(), mem::size_of::<T>() as libc::socklen_t) };
    Errno::result(code).map(drop).with_context(|| format!("setting the option {name} of a packet socket"))
}

/// All frames of one interface, sent and received.
fn bind(socket: &OwnedFd, index: u32) -> Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer is to an address of the length that is told; the call copies it.
    let code =
        unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
    Errno::result(code).map(drop).context("binding a packet socket")
}

/// netdevice(7) with the name filled in.
fn request(name: &str) -> Result<libc::ifreq> {
    let name = CString::new(name).context("a name with a NUL")?;
    // SAFETY: integers, arrays and a union of them and a pointer that is not looked at: all zeros is a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes().iter().take(NAME_MAX)) {
        *to = *from as libc::c_char;
    }
    Ok(request)
}

/// ARPHRD_…, see if_arp.h.
fn hardware_type(socket: &OwnedFd, name: &str) -> Result<u16> {
    let mut request = request(name)?;
    // SAFETY: the request is of this call's type and lives through it; the kernel fills in the address.
    let code = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR as _, &raw mut request) };
    Errno::result(code).context("asking for its hardware type")?;
    // SAFETY: the call filled in this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}

fn flags(socket: &OwnedFd, name: &str) -> Result<libc::c_int> {
    let mut request = request(name)?;
    // SAFETY: as above; the kernel fills in the flags.
    let code = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) };
    Errno::result(code).context("asking for its flags")?;
    // SAFETY: the call filled in this member of the union.
    Ok(libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags }))
}

/// struct ethtool_drvinfo.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    _rest: [u8; 160],
}

/// As its driver says. Not told: it is none.
fn is_bridge(socket: &OwnedFd, name: &str) -> bool {
    let Ok(mut request) = request(name) else { return false };
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], _rest: [0; 160] };
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: the request points to a struct of the layout and the length of this command's, and both live through the call.
    let code = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    let told = info.driver.split(|byte| *byte == 0).next();
    code == 0 && told == Some(b"bridge")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_there_and_a_name_that_is_too_long_is_not() {
        assert_eq!(index_of("lo"), Some(1));
        assert!(existing().contains(&"lo".to_owned()));
        assert_eq!(index_of("a name that no interface can have"), None);
    }

    #[test]
    fn a_listener_on_every_address_has_those_of_the_interfaces() {
        let localhost = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(addresses_of(localhost), [localhost]);
        assert!(addresses_of([0, 0, 0, 0].into()).contains(&localhost));
    }
}
