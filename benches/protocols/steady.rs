//! Finds in recorded conversations what can be said over and over: the part that a client repeats for as long as its connection lives.
//! No table says where that is: a part may be repeated when each time gives the same exchanges, and nothing is lost.

use std::{cmp::Reverse, collections::BTreeMap};

use remora::{
    connection::{Connection, stream::Segment},
    model::{Direction, Exchange, Flow, Protocols, Role},
    protocols::{Capture, Loss, Sink},
};

use crate::{recording::Call, transcript::Transcript};

/// Of each protocol.
const RECORDINGS: usize = 2;
/// So many begins and ends are tried.
const BEGINS: usize = 60;
const ENDS: usize = 8;
/// A part that is alike for so many turns is alike for good.
const LONG: usize = 100;
const HTTP2_HEAD: usize = 9;

/// A recording in two parts.
pub struct Steady<'a> {
    pub name: &'a str,
    pub start: &'a [Call],
    pub start_exchanges: usize,
    /// Empty where nothing can be repeated; then the start is the whole conversation.
    pub turn: &'a [Call],
    pub exchanges_a_turn: usize,
    streams: bool,
}

impl<'a> Steady<'a> {
    /// The recordings with the longest parts that repeat, at most [`RECORDINGS`]; those whose names begin with `bench` before all others.
    /// Where nothing repeats, the one with the most exchanges, whole. None without any exchange.
    pub fn of(transcripts: &[&'a Transcript]) -> Vec<Self> {
        let mut found: Vec<Self> = transcripts.iter().filter_map(|transcript| Self::within(transcript)).collect();
        found.sort_by_key(|steady| (!steady.name.starts_with("bench"), Reverse((steady.exchanges_a_turn, steady.start_exchanges))));
        let repeating = found.iter().filter(|steady| steady.exchanges_a_turn > 0).count();
        found.truncate(repeating.clamp(1, RECORDINGS));
        found
    }

    fn within(transcript: &'a Transcript) -> Option<Self> {
        let calls = transcript.calls.as_slice();
        let streams = ["http2", "grpc"].contains(&transcript.kind.as_str());
        let begins = (0..calls.len()).filter(|&at| calls[at].0 == Flow::Request && (at == 0 || calls[at - 1].0 == Flow::Response));
        let ends = (1..=calls.len())
            .rev()
            .filter(|&at| calls[at - 1].0 == Flow::Response && calls.get(at).is_none_or(|(flow, _)| *flow == Flow::Request));
        let ends: Vec<usize> = ends.take(ENDS).collect();
        let mut best: Option<Self> = None;
        for begin in begins.take(BEGINS) {
            for &end in ends.iter().filter(|&&end| end > begin) {
                let mut steady = Self {
                    name: &transcript.name,
                    start: &calls[..begin],
                    start_exchanges: 0,
                    turn: &calls[begin..end],
                    exchanges_a_turn: 0,
                    streams,
                };
                if let Some((first, every)) = steady.counts()
                    && best.as_ref().is_none_or(|best| best.exchanges_a_turn < every)
                {
                    (steady.start_exchanges, steady.exchanges_a_turn) = (first, every);
                    best = Some(steady);
                }
            }
        }
        best.or_else(|| {
            let whole: usize = exchanges(calls, true)?.values().sum();
            let (name, turn, exchanges_a_turn) = (transcript.name.as_str(), &calls[..0], 0);
            (whole > 0).then_some(Self { name, start: calls, start_exchanges: whole, turn, exchanges_a_turn, streams })
        })
    }

    /// Exchanges of the start and of each turn, if all turns are alike.
    fn counts(&self) -> Option<(usize, usize)> {
        let after = |turns: usize| {
            let mut calls = self.start.to_vec();
            for turn in 0..turns {
                calls.extend(self.try_turn(turn)?);
            }
            // What only the end of the connection ends is not of the steady state.
            exchanges(&calls, false).filter(|steady| exchanges(&calls, true).as_ref() == Some(steady))
        };
        let (start, once) = (after(0)?, after(1)?);
        let every = difference(&once, &start)?;
        let (twice, thrice) = (after(2)?, after(3)?);
        let alike = difference(&twice, &once)? == every && difference(&thrice, &twice)? == every;
        let (begun, count): (usize, usize) = (start.values().sum(), every.values().sum());
        if !alike || count == 0 {
            return None;
        }
        // What fills up (a table of header fields) shows only after a while.
        let lasting = after(LONG)?.values().sum::<usize>() == begun + LONG * count;
        lasting.then_some((begun, count))
    }

    /// What is said the so-manieth time.
    pub fn turn(&self, number: usize) -> Vec<Call> {
        self.try_turn(number).unwrap_or_default()
    }

    fn try_turn(&self, number: usize) -> Option<Vec<Call>> {
        if self.streams { renumbered(self.turn, number) } else { Some(self.turn.to_vec()) }
    }
}

/// What was done how often, with or without the end of the connection; `None` when something was lost or the protocol was not understood.
fn exchanges(calls: &[Call], ends: bool) -> Option<BTreeMap<String, usize>> {
    #[derive(Default)]
    struct Said {
        exchanges: BTreeMap<String, usize>,
        losses: usize,
    }
    impl Sink for Said {
        fn exchange(&mut self, exchange: &Exchange<'_>) {
            let said = format!("{} {} {} {:?}", exchange.operation, exchange.resource, exchange.status, exchange.flags);
            *self.exchanges.entry(said).or_default() += 1;
        }

        fn capture(&mut self, _: Capture) {}

        fn lost(&mut self, _: Loss) {
            self.losses += 1;
        }
    }
    let (mut said, mut connection, mut offsets) = (Said::default(), Connection::new(Role::Client, false, Protocols::default()), [0; 2]);
    for (flow, bytes) in calls {
        let offset = &mut offsets[flow.index()];
        let direction = if *flow == Flow::Request { Direction::Sent } else { Direction::Received };
        connection.data(direction, Segment { offset: *offset, size: bytes.len() as u64, payload: bytes, time_ns: 1 }, &mut said);
        *offset += bytes.len() as u64;
    }
    if ends {
        connection.close(offsets[1], 2, &mut said);
    }
    (said.losses == 0).then_some(said.exchanges)
}

fn difference(more: &BTreeMap<String, usize>, less: &BTreeMap<String, usize>) -> Option<BTreeMap<String, usize>> {
    let mut difference = more.clone();
    for (said, times) in less {
        let left = difference.get_mut(said)?;
        *left = left.checked_sub(*times)?;
    }
    difference.retain(|_, times| *times > 0);
    Some(difference)
}

/// HTTP/2 gives every request a new stream: the same frames with higher numbers. `None` when the calls do not begin and end with frames.
fn renumbered(calls: &[Call], times: usize) -> Option<Vec<Call>> {
    let mut calls = calls.to_vec();
    for flow in [Flow::Request, Flow::Response] {
        let mut bytes: Vec<u8> = calls.iter().filter(|call| call.0 == flow).flat_map(|call| call.1.iter().copied()).collect();
        let (mut at, mut most) = (0, 0);
        let mut heads = Vec::new();
        while at < bytes.len() {
            let head = bytes.get(at..at + HTTP2_HEAD)?;
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            most = most.max(stream);
            heads.push((at, stream));
            at += HTTP2_HEAD + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        }
        if at != bytes.len() {
            return None;
        }
        // Both flows know the same streams, so they are moved alike.
        let step = (most + 1) & !1;
        for (at, stream) in heads.into_iter().filter(|(_, stream)| *stream > 0) {
            bytes[at + 5..at + HTTP2_HEAD].copy_from_slice(&(stream + step * times as u32).to_be_bytes());
        }
        let mut rest = bytes.as_slice();
        for (_, call) in calls.iter_mut().filter(|call| call.0 == flow) {
            let (part, behind) = rest.split_at(call.len());
            call.copy_from_slice(part);
            rest = behind;
        }
    }
    Some(calls)
}
