//! IPv4, IPv6 and its extension headers, down to TCP or UDP, and the header of a TCP segment.

use std::net::IpAddr;

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};

use super::{
    Loss,
    fragments::{DatagramKey, Fragment},
    link::{read_u16, read_u32},
};
use crate::model::Endpoint;

const TCP: u8 = 6;
const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;
/// No sender makes chains this long; a hostile one could.
const MAX_EXTENSION_HEADERS: usize = 16;
/// Segments above 64 KiB exist before segmentation offload cuts them (Linux "BIG TCP", at most 512 KiB).
const MAX_PAYLOAD: u32 = 1 << 20;

/// What an IP packet carries, as far as it matters here.
#[derive(Debug)]
pub enum Transport<'a> {
    Tcp(IpPayload<'a>),
    Udp(IpPayload<'a>),
    Fragment(DatagramKey, Fragment<'a>),
    /// Neither.
    Other,
}

/// The bytes behind the IP headers.
#[derive(Clone, Copy, Debug)]
pub struct IpPayload<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub captured: &'a [u8],
    /// True length; at least `captured.len()`.
    pub length: u32,
    /// IPv4 identification; 0 where there is none. A retransmission has another one, a second capture of the same packet has not.
    pub identification: u16,
}

/// Reads the IP headers of `packet`, which was `original` bytes long on the wire.
pub fn parse(packet: &[u8], original: u32) -> Result<Transport<'_>, Loss> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => ipv4(packet, original),
        Some(6) => ipv6(packet, original),
        Some(_) => Err(Loss::Malformed),
        None => Err(Loss::Cut),
    }
}

fn ipv4(packet: &[u8], original: u32) -> Result<Transport<'_>, Loss> {
    let header_len = packet.first().map_or(0, |byte| usize::from(byte & 0xf) * 4);
    if header_len < 20 {
        return Err(Loss::Malformed);
    }
    if packet.len() < header_len {
        return Err(Loss::Cut);
    }
    let header = Ipv4HeaderSlice::from_slice(packet).map_err(|_| Loss::Malformed)?;
    let protocol = header.protocol().0;
    if !matches!(protocol, TCP | UDP) {
        return Ok(Transport::Other);
    }
    // Segmentation offload leaves the length 0 where it does not fit in 16 bits.
    let total = match header.total_len() {
        0 => original,
        total => u32::from(total),
    };
    let length = payload_length(total, header_len)?;
    let captured = cut(packet.get(header_len..).unwrap_or_default(), length);
    let (source, destination) = (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()));
    let offset = u32::from(header.fragments_offset().value()) * 8;
    if offset > 0 || header.more_fragments() {
        let key = DatagramKey { source, destination, identification: u32::from(header.identification()), protocol };
        let fragment = Fragment { offset, more: header.more_fragments(), captured, length, next_header: protocol };
        return Ok(Transport::Fragment(key, fragment));
    }
    Ok(carried(protocol, IpPayload { source, destination, captured, length, identification: header.identification() }))
}

fn ipv6(packet: &[u8], original: u32) -> Result<Transport<'_>, Loss> {
    if packet.len() < 40 {
        return Err(Loss::Cut);
    }
    let header = Ipv6HeaderSlice::from_slice(packet).map_err(|_| Loss::Malformed)?;
    let (source, destination) = (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()));
    // 0 with a jumbo payload option (RFC 2675), or before segmentation offload: the frame's own length tells.
    let length = match header.payload_length() {
        0 => payload_length(original, 40)?,
        length => u32::from(length),
    };
    let captured = cut(packet.get(40..).unwrap_or_default(), length);
    match extensions(header.next_header().0, captured, length)? {
        Extensions::Whole { protocol, captured, length } => {
            let (source, destination) = (unmapped(source), unmapped(destination));
            Ok(carried(protocol, IpPayload { source, destination, captured, length, identification: 0 }))
        }
        Extensions::Fragment { identification, fragment } => {
            Ok(Transport::Fragment(DatagramKey { source, destination, identification, protocol: 0 }, fragment))
        }
        Extensions::Other => Ok(Transport::Other),
    }
}

/// Reads what a whole datagram, put together from fragments, carries; its first header is `next_header`.
pub fn parse_datagram(key: DatagramKey, next_header: u8, captured: &[u8], length: u32) -> Result<Transport<'_>, Loss> {
    match extensions(next_header, captured, length)? {
        Extensions::Whole { protocol, captured, length } => {
            let (source, destination) = (unmapped(key.source), unmapped(key.destination));
            Ok(carried(protocol, IpPayload { source, destination, captured, length, identification: 0 }))
        }
        // A fragment header inside a reassembled datagram: no sender does it.
        Extensions::Fragment { .. } => Err(Loss::Malformed),
        Extensions::Other => Ok(Transport::Other),
    }
}

fn carried(protocol: u8, payload: IpPayload<'_>) -> Transport<'_> {
    if protocol == UDP { Transport::Udp(payload) } else { Transport::Tcp(payload) }
}

enum Extensions<'a> {
    /// Of TCP or UDP.
    Whole {
        protocol: u8,
        captured: &'a [u8],
        length: u32,
    },
    Fragment {
        identification: u32,
        fragment: Fragment<'a>,
    },
    Other,
}

/// Walks the extension headers of RFC 8200 section 4.
fn extensions(mut next_header: u8, mut captured: &[u8], mut length: u32) -> Result<Extensions<'_>, Loss> {
    for _ in 0..MAX_EXTENSION_HEADERS {
        let header_len = match next_header {
            TCP | UDP => return Ok(Extensions::Whole { protocol: next_header, captured, length }),
            FRAGMENT => {
                let (Some(&next), Some(place), Some(identification)) = (captured.first(), read_u16(captured, 2), read_u32(captured, 4))
                else {
                    return Err(Loss::Cut);
                };
                let (offset, more) = (u32::from(place & !7), place & 1 != 0);
                (length, captured) = (payload_length(length, 8)?, captured.get(8..).unwrap_or_default());
                if offset == 0 && !more {
                    // An "atomic fragment" (RFC 6946): whole.
                    next_header = next;
                    continue;
                }
                return Ok(Extensions::Fragment {
                    identification,
                    fragment: Fragment { offset, more, captured, length, next_header: next },
                });
            }
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6 => {
                usize::from(captured.get(1).copied().ok_or(Loss::Cut)?) * 8 + 8
            }
            AUTHENTICATION => usize::from(captured.get(1).copied().ok_or(Loss::Cut)?) * 4 + 8,
            _ => return Ok(Extensions::Other),
        };
        next_header = captured.first().copied().ok_or(Loss::Cut)?;
        length = payload_length(length, header_len)?;
        captured = captured.get(header_len..).ok_or(Loss::Cut)?;
    }
    Err(Loss::Malformed)
}

fn payload_length(total: u32, header_len: usize) -> Result<u32, Loss> {
    total.checked_sub(header_len as u32).filter(|&length| length <= MAX_PAYLOAD).ok_or(Loss::Malformed)
}

/// Leaves out what follows the packet in its frame (Ethernet pads to 60 bytes).
fn cut(bytes: &[u8], length: u32) -> &[u8] {
    bytes.get(..length as usize).unwrap_or(bytes)
}

fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// A TCP segment (RFC 9293 section 3.1).
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub source: Endpoint,
    pub destination: Endpoint,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub flags: Flags,
    pub payload: &'a [u8],
    /// True length of the payload; at least `payload.len()`.
    pub size: u32,
    pub identification: u16,
    /// Where it was seen.
    pub interface: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct Flags(u8);

impl Flags {
    pub fn fin(self) -> bool {
        self.0 & 1 != 0
    }

    pub fn syn(self) -> bool {
        self.0 & 2 != 0
    }

    pub fn rst(self) -> bool {
        self.0 & 4 != 0
    }

    pub fn ack(self) -> bool {
        self.0 & 16 != 0
    }
}

/// Reads the fixed header; options are passed over, captured or not.
pub fn segment<'a>(packet: &IpPayload<'a>, interface: u32) -> Result<Segment<'a>, Loss> {
    let header: &[u8; 20] = packet.captured.first_chunk().ok_or(if packet.length < 20 { Loss::Malformed } else { Loss::Cut })?;
    let &[s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, data_offset, flags, ..] = header;
    let header_len = usize::from(data_offset >> 4) * 4;
    let size = packet.length.checked_sub(header_len as u32).ok_or(Loss::Malformed)?;
    if header_len < 20 {
        return Err(Loss::Malformed);
    }
    Ok(Segment {
        source: Endpoint { address: packet.source, port: u16::from_be_bytes([s0, s1]) },
        destination: Endpoint { address: packet.destination, port: u16::from_be_bytes([d0, d1]) },
        sequence: u32::from_be_bytes([q0, q1, q2, q3]),
        acknowledgment: u32::from_be_bytes([a0, a1, a2, a3]),
        flags: Flags(flags),
        payload: packet.captured.get(header_len..).unwrap_or_default(),
        size,
        identification: packet.identification,
        interface,
    })
}
