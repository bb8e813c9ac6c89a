//! The record of a frame.

use crate::{event, skel::packet::types};

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
