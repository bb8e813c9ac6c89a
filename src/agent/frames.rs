//! The live source of frames: what the packet filter hands over goes through the reassembler, and its events to the router, with the same
//! ticks and counters as those of the other families.
//!
//! Frames must come in their order. A ring buffer keeps it: a frame is written before whoever answers it can see it. What buffers of each
//! CPU hold their reader puts in order.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;

use super::{
    drain::{COUNTERS_NS, GATHER, IDLE, IDLE_ROUNDS, NAME_ALL, after, plain},
    losses::{Losses, Reason},
    router::Router,
};
use crate::{
    event::Body,
    packet::{FrameHead, Limits, LinkType, Loss, Reassembler},
    probes::{
        clock::now_ns,
        packet::{Frame, Interfaces, Link},
        transport::{Events, Reader, Round, Sleep},
    },
};

/// How often the interfaces are looked after.
const LOOK_NS: u64 = 1_000_000_000;
/// A frame can be told by one processor so much after its acknowledgment was by another.
const OVERTAKEN_NS: u64 = 50_000_000;

/// What the source needs.
pub struct Frames {
    pub frames: Events,
    pub interfaces: Interfaces,
    /// Only these; empty: all.
    pub ports: Vec<u16>,
    pub max_connections: u32,
    pub tick: Duration,
    pub stop: Arc<AtomicBool>,
    /// Connections in the reassembler.
    pub connections: Arc<AtomicU64>,
}

/// Runs until it is told to stop, then takes what is left and ends the workers.
pub fn run(mut live: Frames, router: Router, losses: &Losses) -> Result<()> {
    let limits = Limits { connections: live.max_connections as usize, acked_hole_wait_ns: OVERTAKEN_NS, ..Limits::default() };
    let intake = Intake { reassembler: Reassembler::new(limits).only_ports(&live.ports), router, undecodable: 0, looks: 0, all_ns: 0 };
    let intake = RefCell::new(intake);
    let mut interfaces = Some(live.interfaces);
    let mut told = 0;
    {
        let mut reader = Reader::new(&mut live.frames, |record| intake.borrow_mut().record(record))?;
        let (mut next_tick, mut next_look, mut next_counters) = (0, now_ns() + LOOK_NS, now_ns() + COUNTERS_NS);
        let mut empty_rounds = 0;
        loop {
            let stopping = live.stop.load(Ordering::Acquire);
            if stopping {
                // Closing a packet socket waits for filters that run: after this nothing is written.
                interfaces = None;
            }
            let Round { records, until_ns } = if stopping { reader.rest()? } else { reader.consume()? };
            let mut intake = intake.borrow_mut();
            // Not ahead of frames that are held back, or were not read yet: holes would be given up that these fill.
            if let Some(until_ns) = until_ns {
                intake.tick(until_ns);
            }
            let now = until_ns.unwrap_or_else(now_ns);
            if now >= next_look
                && let Some(interfaces) = &mut interfaces
            {
                next_look = now + LOOK_NS;
                interfaces.look();
            }
            let is_last = stopping && records == 0;
            if is_last {
                intake.finish();
            }
            if now >= next_counters || is_last {
                next_counters = now + COUNTERS_NS;
                intake.counters(now);
            }
            if now >= next_tick || is_last {
                next_tick = after(now, live.tick);
                live.connections.store(intake.reassembler.connections() as u64, Ordering::Relaxed);
                losses.add(Reason::Undecodable, std::mem::take(&mut intake.undecodable));
                let lost = intake.lost();
                losses.add(Reason::Capture, lost - told);
                told = lost;
                intake.router.event(&plain(now, Body::Tick));
            }
            intake.router.flush();
            if is_last {
                break;
            }
            empty_rounds = if records == 0 { empty_rounds + 1 } else { 0 };
            drop(intake);
            if !stopping && until_ns.is_some() {
                let idle = empty_rounds >= IDLE_ROUNDS;
                reader.sleep(if idle { Sleep::UntilEvent(IDLE.min(live.tick)) } else { Sleep::Moment(GATHER) })?;
            }
        }
    }
    let Intake { reassembler, router, .. } = intake.into_inner();
    for (loss, count) in reassembler.losses().iter() {
        tracing::info!("{}: {count}", loss.name());
    }
    router.end();
    Ok(())
}

/// From records to events.
struct Intake {
    reassembler: Reassembler,
    router: Router,
    undecodable: u64,
    /// How often counters were told, and when those of all were told the last time.
    looks: u64,
    all_ns: u64,
}

impl Intake {
    fn record(&mut self, record: &[u8]) {
        let Some(frame) = Frame::decode(record) else {
            self.undecodable += 1;
            return;
        };
        let Self { reassembler, router, .. } = self;
        reassembler.frame(head(&frame), frame.captured, &mut |event| router.event(&event));
    }

    fn tick(&mut self, now_ns: u64) {
        let Self { reassembler, router, .. } = self;
        reassembler.tick(now_ns, &mut |event| router.event(&event));
    }

    /// Now and then all open connections are named: what was not named for two such rounds has ended without a word, because its close
    /// event was lost on its way to the worker.
    fn counters(&mut self, now_ns: u64) {
        self.looks += 1;
        let of_all = self.looks.is_multiple_of(NAME_ALL);
        let Self { reassembler, router, .. } = self;
        reassembler.counters(now_ns, of_all, &mut |event| router.event(&event));
        if of_all {
            let since_ns = std::mem::replace(&mut self.all_ns, now_ns);
            self.router.event(&plain(now_ns, Body::Sweep { since_ns }));
        }
    }

    fn finish(&mut self) {
        let Self { reassembler, router, .. } = self;
        reassembler.finish(&mut |event| router.event(&event));
    }

    /// What did not reach the events, but for what was left out on purpose: bytes beyond the wanted length, and the second sight of a
    /// frame that passes two interfaces.
    fn lost(&self) -> u64 {
        let losses = self.reassembler.losses();
        let is_lost = |loss: &Loss| !matches!(loss, Loss::SnappedBytes | Loss::DuplicateFrame);
        losses.iter().filter(|(loss, _)| is_lost(loss)).map(|(_, count)| count).sum()
    }
}

fn head(frame: &Frame<'_>) -> FrameHead {
    let link = match frame.link {
        Link::Ethernet => LinkType::Ethernet,
        Link::Ip => LinkType::Raw,
    };
    FrameHead { link, interface: frame.interface, time_ns: frame.time_ns, original_len: frame.size }
}
