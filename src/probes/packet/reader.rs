//! The reading end of the frames: one ring buffer, or a buffer for each CPU.

use std::time::Duration;

use anyhow::Result;

use crate::{
    event,
    probes::{
        perf_buffer::PerfBuffers,
        transport::{Events, RingReader, Sleep},
    },
    skel::packet::types,
};

/// Few records, which wake nobody, are looked for so often.
const UNWOKEN: Duration = Duration::from_millis(50);

/// With what a frame begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Ethernet,
    /// Nothing: an IP packet.
    Ip,
}

/// A frame, or its begin, as the kernel handed it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// Index of the interface.
    pub interface: u32,
    pub link: Link,
    pub captured: &'a [u8],
    /// Its length, a VLAN tag that the kernel took out not counted.
    pub size: u32,
    /// Of that tag: priority and VLAN, as on the wire. `None`: no tag was taken out.
    pub vlan_tci: Option<u16>,
}

impl<'a> Frame<'a> {
    /// `None`: this is no record of a frame.
    pub fn decode(record: &'a [u8]) -> Option<Self> {
        const TAGGED: u16 = 0x1000;
        let length = event::record_len(record)?;
        let mut event = types::frame_event::default();
        plain::Plain::copy_from_bytes(&mut event, record).ok()?;
        let captured = record.get(size_of::<types::frame_event>()..length)?;
        if u32::from(event.header.kind) != types::event_kind::EVENT_FRAME.0 || captured.len() != event.captured as usize {
            return None;
        }
        Some(Self {
            time_ns: event.header.time_ns,
            interface: event.interface,
            link: if u32::from(event.link) == types::frame_link::FRAME_IP.0 { Link::Ip } else { Link::Ethernet },
            captured,
            size: event.size,
            vlan_tci: (event.vlan_tci & TAGGED != 0).then_some(event.vlan_tci & !TAGGED),
        })
    }
}

/// Where the records are. Frames find room from its making on.
pub struct FrameMap(pub(super) Events);

impl FrameMap {
    /// Records come in the order in which they were made. Else in that of one CPU only, CPU by CPU.
    pub fn is_ordered(&self) -> bool {
        matches!(self.0, Events::Ring { .. })
    }
}

type OnRecord<'a> = Box<dyn FnMut(&[u8]) + 'a>;

/// Lives in the thread that made it.
pub enum FrameReader<'a> {
    Ring(RingReader<'a>),
    Perf(&'a mut PerfBuffers, OnRecord<'a>),
}

impl<'a> FrameReader<'a> {
    /// `on_record` gets each record once. It must not panic: it is called from C, where a panic ends the process.
    pub fn new(frames: &'a mut FrameMap, on_record: impl FnMut(&[u8]) + 'a) -> Result<Self> {
        // What is lost is counted where it is lost, by the filter.
        Ok(match &mut frames.0 {
            Events::Ring { map, wake } => Self::Ring(RingReader::new(map, wake, on_record)?),
            Events::Perf(buffers) => Self::Perf(buffers, Box::new(on_record)),
        })
    }

    /// Hands over what is there. Of a ring as many records as [`RingReader::consume`] takes, and their number; else all, and 0.
    pub fn consume(&mut self) -> Result<usize> {
        match self {
            Self::Ring(reader) => reader.consume(),
            Self::Perf(buffers, on_record) => buffers.consume(on_record).map(|()| 0),
        }
    }

    pub fn sleep(&mut self, sleep: Sleep) -> Result<()> {
        match (self, sleep) {
            (Self::Ring(reader), sleep) => reader.sleep(sleep),
            // It hands over what ended the wait.
            (Self::Perf(buffers, on_record), Sleep::Moment(time) | Sleep::UntilEvent(time)) => buffers.wait(time.min(UNWOKEN), on_record),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(captured: &[u8], change: impl FnOnce(&mut types::frame_event)) -> Vec<u8> {
        let mut event = types::frame_event { interface: 3, size: 1514, captured: captured.len() as u32, ..Default::default() };
        event.header.kind = types::event_kind::EVENT_FRAME.0 as u8;
        event.header.length = (size_of::<types::frame_event>() + captured.len()) as u32;
        event.header.time_ns = 7;
        change(&mut event);
        [crate::skel::bytes(&event), captured].concat()
    }

    #[test]
    fn a_record_is_a_frame_whatever_stands_behind_it() {
        let mut bytes = record(b"frame", |event| event.vlan_tci = 0x1000 | 100);
        bytes.extend([0; 4]);
        let frame = Frame { time_ns: 7, interface: 3, link: Link::Ethernet, captured: b"frame", size: 1514, vlan_tci: Some(100) };
        assert_eq!(Frame::decode(&bytes), Some(frame));
        assert_eq!(Frame::decode(&record(b"", |event| event.link = 1)).map(|frame| (frame.link, frame.vlan_tci)), Some((Link::Ip, None)));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let whole = record(b"frame", |_| {});
        for length in 0..whole.len() {
            assert_eq!(Frame::decode(&whole[..length]), None);
        }
        assert_eq!(Frame::decode(&record(b"frame", |event| event.header.kind = 6)), None);
        assert_eq!(Frame::decode(&record(b"frame", |event| event.captured = 4)), None);
        assert_eq!(Frame::decode(&record(b"frame", |event| event.header.length = 3)), None);
    }
}
