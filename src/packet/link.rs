//! The link layer: finds the IP packet in a frame.

/// The first header of a frame; numbers as in <https://www.tcpdump.org/linktypes.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkType {
    /// BSD loopback: the address family as a u32 in the byte order of the capturing host.
    Null,
    Ethernet,
    /// No link header: IPv4 or IPv6 by the version nibble.
    Raw,
    /// OpenBSD loopback: the address family as a big-endian u32.
    Loop,
    /// Linux "cooked" capture, version 1.
    LinuxSll,
    /// Linux "cooked" capture, version 2.
    LinuxSll2,
    Ipv4,
    Ipv6,
}

impl LinkType {
    /// `None` for the many that carry no IP or that are not read. 12 and 14 are DLT_RAW in files of some BSDs.
    pub fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            0 => LinkType::Null,
            1 => LinkType::Ethernet,
            12 | 14 | 101 => LinkType::Raw,
            108 => LinkType::Loop,
            113 => LinkType::LinuxSll,
            228 => LinkType::Ipv4,
            229 => LinkType::Ipv6,
            276 => LinkType::LinuxSll2,
            _ => return None,
        })
    }
}

/// What a frame's link header leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// An IP packet begins so many bytes into the frame.
    Ip(usize),
    /// Something else: ARP, LLDP …
    Other,
    /// The frame ends within its link header.
    Cut,
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad (QinQ) and the number that QinQ had before it was standardised.
const ETHERTYPE_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const MAX_VLAN_TAGS: usize = 8;

/// Passes over the link header and VLAN tags of `frame`.
pub fn network(link: LinkType, frame: &[u8]) -> Network {
    match link {
        LinkType::Ethernet => ethertype(frame, 12, 14),
        LinkType::LinuxSll => ethertype(frame, 14, 16),
        LinkType::LinuxSll2 => ethertype(frame, 0, 20),
        // The family numbers of IPv6 differ between systems; the version nibble behind them does not.
        LinkType::Null | LinkType::Loop => by_version(frame, 4),
        LinkType::Raw | LinkType::Ipv4 | LinkType::Ipv6 => by_version(frame, 0),
    }
}

/// The EtherType is at `at`, what it names at `next`, unless VLAN tags are between: each is a tag control word and another EtherType.
fn ethertype(frame: &[u8], at: usize, mut next: usize) -> Network {
    let Some(mut found) = read_u16(frame, at) else { return Network::Cut };
    for _ in 0..MAX_VLAN_TAGS {
        if !ETHERTYPE_VLAN.contains(&found) {
            break;
        }
        let Some(inner) = read_u16(frame, next + 2) else { return Network::Cut };
        found = inner;
        next += 4;
    }
    match found {
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 if frame.len() <= next => Network::Cut,
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Network::Ip(next),
        _ => Network::Other,
    }
}

fn by_version(frame: &[u8], at: usize) -> Network {
    match frame.get(at).map(|byte| byte >> 4) {
        Some(4 | 6) => Network::Ip(at),
        Some(_) => Network::Other,
        None => Network::Cut,
    }
}

/// Network byte order.
pub fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// Network byte order.
pub fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}
