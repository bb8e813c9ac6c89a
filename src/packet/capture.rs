//! Capture files: pcap (draft-ietf-opsawg-pcap) in both byte orders with micro- and nanoseconds, and pcapng (draft-ietf-opsawg-pcapng).
//!
//! A file is read block by block and may be endless. A damaged one is delivered up to the damage.

use std::io::{BufReader, Read};

use anyhow::{Context, Result, bail, ensure};
use pcap_parser::{
    OptionCode, PcapNGOption, parse_enhancedpacketblock_be, parse_enhancedpacketblock_le, parse_interfacedescriptionblock_be,
    parse_interfacedescriptionblock_le, parse_pcap_header, parse_simplepacketblock_be, parse_simplepacketblock_le,
    traits::PcapNGPacketBlock,
};

use super::{FrameHead, Limits, LinkType, Loss, Losses, Reassembler};
use crate::event::Event;

/// Bound of a pcapng block and of a pcap record; capture programs write at most 256 KiB of a frame.
const MAX_BLOCK: u32 = 16 << 20;
const READ_AHEAD: usize = 256 * 1024;
const MAX_INTERFACES: usize = 65_536;
const SECOND_NS: u128 = 1_000_000_000;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
/// Obsolete since 2004, still in old files.
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;

/// A captured frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// `None`: of a kind that is not read.
    pub link: Option<LinkType>,
    /// Its number in the file; 0 where there is but one.
    pub interface: u32,
    /// Nanoseconds since 1970, by the capturing host's clock; a frame without time has that of the frame before.
    pub time_ns: u64,
    pub captured: &'a [u8],
    /// Length on the wire.
    pub original_len: u32,
}

/// What a capture file held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureSummary {
    pub frames: u64,
    /// TCP segments among them.
    pub segments: u64,
    /// UDP datagrams among them.
    pub datagrams: u64,
    /// Frames with something else.
    pub others: u64,
    /// Time of the first frame and of the last.
    pub first_ns: u64,
    pub last_ns: u64,
    pub losses: Losses,
}

/// Turns a capture file, pcap or pcapng by its first bytes, into events.
///
/// Errors name the offset of the damage; the events of all frames before it have been handed out then.
pub fn read_capture(reader: impl Read, out: &mut dyn FnMut(Event<'_>)) -> Result<CaptureSummary> {
    let mut reassembler = Reassembler::new(Limits::default());
    let mut summary = CaptureSummary::default();
    let result = read_frames(reader, &mut |frame| {
        if summary.frames == 0 {
            summary.first_ns = frame.time_ns;
        }
        summary.frames += 1;
        summary.last_ns = frame.time_ns;
        match frame.link {
            Some(link) => {
                let Frame { interface, time_ns, captured, original_len, .. } = frame;
                reassembler.frame(FrameHead { link, interface, time_ns, original_len }, captured, out);
            }
            None => reassembler.lose(Loss::Link),
        }
    });
    reassembler.finish(out);
    result?;
    summary.segments = reassembler.segments();
    summary.datagrams = reassembler.datagrams();
    summary.others = reassembler.others();
    summary.losses = reassembler.losses();
    Ok(summary)
}

/// Hands out the frames of a capture file in their order.
pub fn read_frames(reader: impl Read, each: &mut dyn FnMut(Frame<'_>)) -> Result<()> {
    let mut source = Source { reader: BufReader::with_capacity(READ_AHEAD, reader), offset: 0, buffer: Vec::new() };
    ensure!(source.fill(4)?, "not a capture file: it is empty");
    match source.buffer.first_chunk().map(|magic| u32::from_le_bytes(*magic)) {
        Some(SECTION_HEADER) => pcapng(source, each),
        _ => pcap(source, each),
    }
}

/// A reader that knows where it is.
struct Source<R> {
    reader: R,
    /// Of the first byte of `buffer`.
    offset: u64,
    buffer: Vec<u8>,
}

impl<R: Read> Source<R> {
    /// Reads until `buffer` holds `length` bytes. `false`: the file ended before the first of them. The buffer grows with what is there,
    /// not with what a damaged length promises.
    fn fill(&mut self, length: usize) -> Result<bool> {
        let missing = length.saturating_sub(self.buffer.len()) as u64;
        if missing > 0 {
            let at = self.offset + self.buffer.len() as u64;
            self.reader.by_ref().take(missing).read_to_end(&mut self.buffer).with_context(|| format!("read capture at byte {at}"))?;
        }
        if self.buffer.is_empty() && length > 0 {
            return Ok(false);
        }
        ensure!(
            self.buffer.len() >= length,
            "capture file is truncated: the block at byte {} ends after {} of {length} bytes",
            self.offset,
            self.buffer.len()
        );
        Ok(true)
    }

    /// The buffer is done with.
    fn next(&mut self) {
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if self == Order::Big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if self == Order::Big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }
}

fn pcap<R: Read>(mut source: Source<R>, each: &mut dyn FnMut(Frame<'_>)) -> Result<()> {
    let (order, fraction_ns, link) = {
        let known = matches!(
            source.buffer.first_chunk(),
            Some([0xd4, 0xc3, 0xb2, 0xa1] | [0xa1, 0xb2, 0xc3, 0xd4] | [0x4d, 0x3c, 0xb2, 0xa1] | [0xa1, 0xb2, 0x3c, 0x4d])
        );
        ensure!(known, "not a capture file: it begins with {:02x?}, neither pcap nor pcapng", source.buffer);
        source.fill(24)?;
        let Ok((_, header)) = parse_pcap_header(&source.buffer) else { bail!("capture file is damaged: pcap header at byte 0") };
        let order = if header.is_bigendian() { Order::Big } else { Order::Little };
        let fraction_ns = if header.is_nanosecond_precision() { 1 } else { 1000 };
        // The upper bits tell about frame check sequences.
        (order, fraction_ns, LinkType::from_number((header.network.0 & 0xffff) as u16))
    };
    source.next();
    while source.fill(16)? {
        let head = &source.buffer;
        let (Some(seconds), Some(fraction), Some(captured_len), Some(original_len)) =
            (order.u32(head, 0), order.u32(head, 4), order.u32(head, 8), order.u32(head, 12))
        else {
            break;
        };
        ensure!(
            captured_len <= MAX_BLOCK,
            "capture file is damaged: the record at byte {} claims {captured_len} captured bytes",
            source.offset
        );
        source.fill(16 + captured_len as usize)?;
        let time_ns = u64::from(seconds) * SECOND_NS as u64 + u64::from(fraction) * fraction_ns;
        each(Frame { link, interface: 0, time_ns, captured: source.buffer.get(16..).unwrap_or_default(), original_len });
        source.next();
    }
    Ok(())
}

/// An interface of a pcapng section.
struct Interface {
    link: Option<LinkType>,
    /// 0: frames are not cut.
    snap_len: u32,
    ticks_per_second: u128,
    offset_s: i64,
}

impl Interface {
    fn time_ns(&self, high: u32, low: u32) -> u64 {
        let ticks = (u128::from(high) << 32) | u128::from(low);
        let nanoseconds = (ticks / self.ticks_per_second) * SECOND_NS + (ticks % self.ticks_per_second) * SECOND_NS / self.ticks_per_second;
        let shifted = nanoseconds as i128 + i128::from(self.offset_s) * SECOND_NS as i128;
        u64::try_from(shifted.max(0)).unwrap_or(u64::MAX)
    }
}

fn pcapng<R: Read>(mut source: Source<R>, each: &mut dyn FnMut(Frame<'_>)) -> Result<()> {
    let mut order = Order::Little;
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut last_ns = 0;
    while source.fill(12)? {
        let at = source.offset;
        // The section header's type reads the same in both byte orders; its third word tells which one holds from there.
        let is_section = order.u32(&source.buffer, 0) == Some(SECTION_HEADER);
        if is_section {
            order = match (Order::Little.u32(&source.buffer, 8), Order::Big.u32(&source.buffer, 8)) {
                (Some(BYTE_ORDER_MAGIC), _) => Order::Little,
                (_, Some(BYTE_ORDER_MAGIC)) => Order::Big,
                _ => bail!("capture file is damaged: the section at byte {at} has no byte order"),
            };
            interfaces.clear();
        }
        let kind = order.u32(&source.buffer, 0).unwrap_or_default();
        let length = order.u32(&source.buffer, 4).unwrap_or_default();
        ensure!(
            (12..=MAX_BLOCK).contains(&length) && length.is_multiple_of(4),
            "capture file is damaged: the block at byte {at} claims {length} bytes"
        );
        source.fill(length as usize)?;
        let block = source.buffer.as_slice();
        let trailer = order.u32(block, length as usize - 4).unwrap_or_default();
        ensure!(
            trailer == length,
            "capture file is damaged: the block at byte {at} is {length} bytes long at its begin and {trailer} at its end"
        );
        let damaged = || format!("capture file is damaged: the block of type {kind} at byte {at}");
        match kind {
            SECTION_HEADER => {
                let major = order.u16(block, 12).with_context(damaged)?;
                ensure!(major == 1, "capture file is of pcapng version {major}, not 1 (section at byte {at})");
            }
            INTERFACE_DESCRIPTION => {
                ensure!(interfaces.len() < MAX_INTERFACES, "capture file is damaged: more than {MAX_INTERFACES} interfaces at byte {at}");
                interfaces.push(interface(order, block).with_context(damaged)?);
            }
            _ => {
                if let Some(frame) = packet(order, kind, block, &interfaces, last_ns).with_context(damaged)? {
                    last_ns = frame.time_ns;
                    each(frame);
                }
            }
        }
        source.next();
    }
    Ok(())
}

fn interface(order: Order, block: &[u8]) -> Option<Interface> {
    let (_, description) = match order {
        Order::Little => parse_interfacedescriptionblock_le(block),
        Order::Big => parse_interfacedescriptionblock_be(block),
    }
    .ok()?;
    let exponent = u32::from(description.if_tsresol & 0x7f);
    let base: u128 = if description.if_tsresol & 0x80 == 0 { 10 } else { 2 };
    // Finer than what a 64-bit count can tell apart is of no use; `time_ns` multiplies by 1e9 without overflow up to here.
    let ticks_per_second = base.checked_pow(exponent).filter(|&ticks| ticks <= u128::from(u64::MAX))?;
    let offset_s = option(&description.options, OptionCode::IfTsoffset)
        .and_then(|value| value.first_chunk())
        .map_or(0, |bytes| if order == Order::Big { i64::from_be_bytes(*bytes) } else { i64::from_le_bytes(*bytes) });
    let link = u16::try_from(description.linktype.0).ok().and_then(LinkType::from_number);
    Some(Interface { link, snap_len: description.snaplen, ticks_per_second, offset_s })
}

fn option<'o>(options: &'o [PcapNGOption<'_>], code: OptionCode) -> Option<&'o [u8]> {
    options.iter().find(|option| option.code == code).and_then(|option| option.as_bytes().ok())
}

/// The frame of a packet block; the inner `None`s are blocks of other kinds, the outer one is damage.
fn packet<'a>(order: Order, kind: u32, block: &'a [u8], interfaces: &[Interface], last_ns: u64) -> Option<Option<Frame<'a>>> {
    let make = |interface: usize, time: Option<(u32, u32)>, captured: &'a [u8], original_len: u32| {
        let (number, interface) = (interface as u32, interfaces.get(interface));
        let time_ns = match (interface, time) {
            (Some(interface), Some((high, low))) => interface.time_ns(high, low),
            _ => last_ns,
        };
        Some(Some(Frame { link: interface.and_then(|interface| interface.link), interface: number, time_ns, captured, original_len }))
    };
    match kind {
        ENHANCED_PACKET => {
            let (_, packet) = match order {
                Order::Little => parse_enhancedpacketblock_le(block),
                Order::Big => parse_enhancedpacketblock_be(block),
            }
            .ok()?;
            let captured = packet.data.get(..packet.caplen as usize)?;
            make(packet.if_id as usize, Some((packet.ts_high, packet.ts_low)), captured, packet.origlen)
        }
        SIMPLE_PACKET => {
            let (_, packet) = match order {
                Order::Little => parse_simplepacketblock_le(block),
                Order::Big => parse_simplepacketblock_be(block),
            }
            .ok()?;
            // Without a captured length of its own: the interface's snapshot length tells where the padding begins.
            let snap_len = interfaces.first().map_or(0, |interface| interface.snap_len);
            let captured_len = if snap_len == 0 { packet.orig_len() } else { packet.orig_len().min(snap_len) };
            make(0, None, packet.data.get(..captured_len as usize).unwrap_or(packet.data), packet.origlen)
        }
        PACKET => {
            let (captured_len, original_len) = (order.u32(block, 20)?, order.u32(block, 24)?);
            let captured = block.get(28..block.len().checked_sub(4)?)?.get(..captured_len as usize)?;
            make(usize::from(order.u16(block, 8)?), Some((order.u32(block, 12)?, order.u32(block, 16)?)), captured, original_len)
        }
        _ => Some(None),
    }
}
