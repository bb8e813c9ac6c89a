//! The hook family `packet`: loads its object, which needs no types of the kernel, and counts what became of the frames.
//! Interfaces and records are in files of their own; what a frame says is not known here.

mod frame;
mod interface;

use std::{
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use libbpf_rs::{
    MapCore, MapFlags, MapHandle, MapType, OpenObject, ProgramMut,
    skel::{OpenSkel, SkelBuilder},
};

pub use self::{
    frame::{Frame, Link},
    interface::Interfaces,
};
use super::{
    health::Health,
    load::RunTime,
    table::Tally,
    transport::{Events, Transport, Wake},
    verdicts,
};
use crate::skel::{
    self,
    packet::{OpenPacketSkel, PacketSkel, PacketSkelBuilder, types},
};

/// The filter takes the time, copies the frame and writes the record in one go.
const SETTLING: Duration = Duration::from_millis(1);
/// Of 8 MiB; a map of an older kernel holds as many.
const FILTER_MAX: usize = 65_536;

/// Everything that the kernel side must know before it is loaded.
#[derive(Clone, Debug)]
pub struct PacketOptions {
    pub transport: Transport,
    /// Networks, with the bits of the address that count: only frames from or to one of them; empty: all.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Only frames with one of these ports; empty: all.
    pub ports: Vec<u16>,
    /// Where our own HTTP server listens: its frames are left out.
    pub own: Option<SocketAddr>,
    /// Bytes behind the header of TCP or UDP that are captured of each frame.
    pub capture_len: u32,
    /// For all CPUs together.
    pub ring_bytes: u32,
}

/// The loaded filters. Nothing is pinned: with the last descriptor they are gone.
pub struct PacketProbes {
    skel: PacketSkel<'static>,
    transport: Transport,
    health: Arc<ArcSwap<Vec<(String, Health)>>>,
}

impl PacketProbes {
    /// # Errors
    /// Names the step; the kernel's verifier log goes to the debug log.
    pub fn load(options: &PacketOptions) -> Result<Self> {
        verdicts::listen();
        // As for the other families: the agent loads once, and keeps the object to its end.
        let storage: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = PacketSkelBuilder::default().open(storage).context("opening the packet filter")?;
        configure(&mut open, options)?;
        let skel: PacketSkel<'static> = open.load().context("loading the packet filter")?;
        for (address, prefix_len) in &options.addresses {
            let key = types::network_key { prefix_len: prefix_bits(*address, *prefix_len), address: mapped(*address) };
            skel.maps.addresses.update(skel::bytes(&key), &[1], MapFlags::ANY).context("filling the address filter")?;
        }
        for port in &options.ports {
            skel.maps.frame_ports.update(&port.to_ne_bytes(), &[1], MapFlags::ANY).context("filling the port filter")?;
        }
        for address in options.own.iter().flat_map(|own| interface::addresses_of(own.ip())).take(OWN_ADDRESSES_MAX) {
            skel.maps.own_addresses.update(&mapped(address), &[1], MapFlags::ANY).context("noting our own addresses")?;
        }
        Ok(Self { skel, transport: options.transport, health: Arc::default() })
    }

    /// Opens a socket on each interface.
    ///
    /// # Errors
    /// One of them does not exist or cannot be read, or the privileges do not suffice.
    pub fn attach(&self, names: &[String]) -> Result<Interfaces> {
        Interfaces::open(names, self.program(Link::Ethernet)?, self.program(Link::Ip)?, Arc::clone(&self.health))
    }

    fn program(&self, link: Link) -> Result<OwnedFd> {
        self.chosen(link).as_fd().try_clone_to_owned().context("taking a handle of the packet filter")
    }

    fn chosen(&self, link: Link) -> &ProgramMut<'static> {
        let progs = &self.skel.progs;
        match (link, self.transport) {
            (Link::Ethernet, Transport::Ring) => &progs.ethernet_to_ring,
            (Link::Ethernet, Transport::Perf { .. }) => &progs.ethernet_to_perf,
            (Link::Ip, Transport::Ring) => &progs.ip_to_ring,
            (Link::Ip, Transport::Perf { .. }) => &progs.ip_to_perf,
        }
    }

    /// Where the records are; for one reader. Before [`Self::attach`]: what comes earlier may find no room.
    pub fn frames(&self) -> Result<Events> {
        let map = MapHandle::try_from(&self.skel.maps.frames).context("taking a handle of the frames map")?;
        Ok(match self.transport {
            Transport::Ring => {
                let word = MapHandle::try_from(&self.skel.maps.data_wake).context("taking a handle of the reader's word")?;
                Events::Ring { map, wake: Wake::map(&word)? }
            }
            Transport::Perf { buffer_bytes } => Transport::open_buffers(&map, buffer_bytes, SETTLING)?,
        })
    }

    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// What became of each interface.
    pub fn health(&self) -> Arc<Vec<(String, Health)>> {
        self.health.load_full()
    }

    pub fn tally(&self) -> Result<Tally> {
        let sum = |place: types::frame_tally| {
            let values =
                self.skel.maps.frame_stats.lookup_percpu(&place.0.to_ne_bytes(), MapFlags::ANY).context("reading the stats map")?;
            let number = |value: Vec<u8>| value.first_chunk::<8>().copied().map_or(0, u64::from_ne_bytes);
            Ok::<u64, anyhow::Error>(values.unwrap_or_default().into_iter().map(number).sum())
        };
        Ok(Tally {
            ring_full: sum(types::frame_tally::FRAME_FULL)?,
            unread: sum(types::frame_tally::FRAME_UNREAD)?,
            data: sum(types::frame_tally::FRAME_WRITTEN)?,
            other: sum(types::frame_tally::FRAME_OTHER)?,
            counted: sum(types::frame_tally::FRAME_UNWANTED)?,
            ..Tally::default()
        })
    }

    /// What the kernel says of the loaded programs.
    pub fn run_times(&self) -> Vec<RunTime> {
        [Link::Ethernet, Link::Ip].into_iter().filter_map(|link| RunTime::of(self.chosen(link))).collect()
    }
}

/// As many as `own_addresses` holds.
const OWN_ADDRESSES_MAX: usize = 1024;

fn configure(open: &mut OpenPacketSkel<'_>, options: &PacketOptions) -> Result<()> {
    let settings = &mut open.maps.rodata_data.as_mut().context("the packet filter has no settings")?.packet_settings;
    settings.capture_len = options.capture_len;
    settings.own_port = options.own.map_or(0, |own| own.port());
    settings.filter_ports = (!options.ports.is_empty()).into();
    settings.filter_addresses = (!options.addresses.is_empty()).into();
    settings.wake_bytes = u64::from(options.ring_bytes / 8);

    let (ports, addresses) = (options.ports.len(), options.addresses.len());
    if ports.max(addresses) > FILTER_MAX {
        return Err(anyhow!("{ports} ports and {addresses} addresses: at most {FILTER_MAX} of each can be chosen"));
    }
    open.maps.frame_ports.set_max_entries(ports.max(1) as u32).context("sizing the port filter")?;
    open.maps.addresses.set_max_entries(addresses.max(1) as u32).context("sizing the address filter")?;
    let is_ring = options.transport == Transport::Ring;
    let frames = &mut open.maps.frames;
    if is_ring {
        frames.set_max_entries(options.ring_bytes).context("sizing the ring buffer")?;
    } else {
        let cpus = libbpf_rs::num_possible_cpus().context("counting CPUs")?;
        frames.set_type(MapType::PerfEventArray).context("making the frames a perf buffer")?;
        frames.set_key_size(size_of::<u32>() as u32).context("making the frames a perf buffer")?;
        frames.set_value_size(size_of::<u32>() as u32).context("making the frames a perf buffer")?;
        frames.set_max_entries(cpus as u32).context("sizing the perf buffer")?;
    }
    open.progs.ethernet_to_ring.set_autoload(is_ring);
    open.progs.ip_to_ring.set_autoload(is_ring);
    open.progs.ethernet_to_perf.set_autoload(!is_ring);
    open.progs.ip_to_perf.set_autoload(!is_ring);
    Ok(())
}

/// As the filter compares addresses: 16 bytes, IPv4 mapped into IPv6.
fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn prefix_bits(address: IpAddr, prefix_len: u8) -> u32 {
    u32::from(prefix_len) + if address.is_ipv4() { 96 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_both_families_have_one_form() {
        let (ten, doc): (IpAddr, IpAddr) = ([10, 0, 0, 0].into(), "2001:db8::".parse().unwrap());
        assert_eq!((prefix_bits(ten, 8), &mapped(ten)[10..]), (104, &[0xff, 0xff, 10, 0, 0, 0][..]));
        assert_eq!((prefix_bits(doc, 32), &mapped(doc)[..4]), (32, &[0x20, 1, 0xd, 0xb8][..]));
    }
}
