//! The live source of frames: what the packet filter hands over goes through the reassembler, and its events to the router, with the same
//! ticks and counters as those of the other families.
//!
//! Frames must come in their order. One ring buffer keeps it: a frame is written before whoever answers it can see it. Buffers of each CPU
//! do not, so what they hold is put in order by time, and what is younger than the last look at all of them waits for the next.

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
    drain::{COUNTERS_NS, GATHER, IDLE, IDLE_ROUNDS, NAME_ALL, plain},
    losses::{Losses, Reason},
    router::Router,
};
use crate::{
    event::Body,
    packet::{FrameHead, Limits, LinkType, Loss, Reassembler},
    probes::{
        clock::now_ns,
        packet::{Frame, FrameMap, FrameReader, Interfaces, Link},
        transport::{self, Sleep},
    },
};

/// How often the interfaces are looked after.
const LOOK_NS: u64 = 1_000_000_000;
/// A record is there so long after its time at the latest.
const SETTLING_NS: u64 = 1_000_000;
/// A frame can be told by one processor so much after its acknowledgment was by another.
const OVERTAKEN_NS: u64 = 50_000_000;

/// What the source needs.
pub struct Frames {
    pub frames: FrameMap,
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
    let order = if live.frames.is_ordered() { None } else { Some(Order::default()) };
    let intake = Intake {
        reassembler: Reassembler::new(limits).only_ports(&live.ports),
        router,
        order,
        taken: 0,
        undecodable: 0,
        looks: 0,
        all_ns: 0,
    };
    let intake = RefCell::new(intake);
    let mut interfaces = Some(live.interfaces);
    let mut told = 0;
    {
        let mut reader = FrameReader::new(&mut live.frames, |record| intake.borrow_mut().record(record))?;
        let (mut next_tick, mut next_look, mut next_counters) = (0, now_ns() + LOOK_NS, now_ns() + COUNTERS_NS);
        let mut empty_rounds = 0;
        loop {
            let stopping = live.stop.load(Ordering::Acquire);
            if stopping {
                // Closing a packet socket waits for filters that run: after this nothing is written.
                interfaces = None;
            }
            let before = now_ns();
            let count = reader.consume()?;
            let mut intake = intake.borrow_mut();
            intake.release(if stopping { u64::MAX } else { before.saturating_sub(SETTLING_NS) });
            let now = now_ns();
            intake.tick(now);
            if now >= next_look
                && let Some(interfaces) = &mut interfaces
            {
                next_look = now + LOOK_NS;
                interfaces.look();
            }
            let is_last = stopping && count == 0;
            if is_last {
                intake.finish();
            }
            if now >= next_counters || is_last {
                next_counters = now + COUNTERS_NS;
                intake.counters(now);
            }
            if now >= next_tick || is_last {
                next_tick = now + live.tick.as_nanos() as u64;
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
            empty_rounds = if std::mem::take(&mut intake.taken) == 0 { empty_rounds + 1 } else { 0 };
            drop(intake);
            if !stopping && count < transport::ROUND {
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
    /// `None`: records come in order.
    order: Option<Order>,
    /// Records since this was last looked at.
    taken: u64,
    undecodable: u64,
    /// How often counters were told, and when those of all were told the last time.
    looks: u64,
    all_ns: u64,
}

impl Intake {
    fn record(&mut self, record: &[u8]) {
        self.taken += 1;
        let Some(frame) = Frame::decode(record) else {
            self.undecodable += 1;
            return;
        };
        match &mut self.order {
            Some(order) => order.hold(&frame),
            None => self.frame(head(&frame), frame.captured),
        }
    }

    fn frame(&mut self, head: FrameHead, captured: &[u8]) {
        let Self { reassembler, router, .. } = self;
        reassembler.frame(head, captured, &mut |event| router.event(&event));
    }

    /// Hands on what was held and is not younger than this.
    fn release(&mut self, until_ns: u64) {
        let Some(mut order) = self.order.take() else { return };
        order.release(until_ns, |head, captured| self.frame(head, captured));
        self.order = Some(order);
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

/// Frames of several CPUs, held until none that is older can come. As much as their buffers, at most twice.
#[derive(Default)]
struct Order {
    bytes: Vec<u8>,
    held: Vec<Held>,
}

#[derive(Clone, Copy)]
struct Held {
    head: FrameHead,
    /// Where its bytes are.
    start: usize,
    length: usize,
}

impl Order {
    fn hold(&mut self, frame: &Frame<'_>) {
        self.held.push(Held { head: head(frame), start: self.bytes.len(), length: frame.captured.len() });
        self.bytes.extend_from_slice(frame.captured);
    }

    fn release(&mut self, until_ns: u64, mut each: impl FnMut(FrameHead, &[u8])) {
        // Stable: of one CPU frames of the same nanosecond stay in their order.
        self.held.sort_by_key(|held| held.head.time_ns);
        let count = self.held.partition_point(|held| held.head.time_ns <= until_ns);
        for held in &self.held[..count] {
            each(held.head, &self.bytes[held.start..held.start + held.length]);
        }
        let mut bytes = Vec::new();
        for held in &mut self.held[count..] {
            let start = bytes.len();
            bytes.extend_from_slice(&self.bytes[held.start..held.start + held.length]);
            held.start = start;
        }
        self.held.drain(..count);
        if self.held.is_empty() {
            self.bytes.clear();
        } else {
            self.bytes = bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_two_processors_come_out_by_time_and_the_youngest_wait() {
        let mut order = Order::default();
        let hold = |order: &mut Order, time_ns: u64, captured: &[u8]| {
            order.hold(&Frame { time_ns, interface: 2, link: Link::Ip, captured, size: 9, vlan_tci: None });
        };
        for (time_ns, captured) in [(10, &b"one"[..]), (30, b"three"), (50, b"five"), (20, b"two"), (40, b"four")] {
            hold(&mut order, time_ns, captured);
        }
        let released = |order: &mut Order, until_ns| {
            let mut seen = Vec::new();
            order.release(until_ns, |head, captured| seen.push(format!("{} {}", head.time_ns, captured.escape_ascii())));
            seen
        };
        assert_eq!(released(&mut order, 35), ["10 one", "20 two", "30 three"]);
        hold(&mut order, 45, b"late");
        assert_eq!(released(&mut order, 45), ["40 four", "45 late"]);
        assert_eq!(released(&mut order, u64::MAX), ["50 five"]);
        assert!(order.bytes.is_empty() && released(&mut order, u64::MAX).is_empty());
    }
}
