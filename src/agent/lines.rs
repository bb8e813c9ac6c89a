//! Puts the JSON lines of all workers into the order of the events that caused them.
//!
//! Each worker sends its lines a round at a time, with the number of the event behind each. A line goes out once every
//! worker is past its number: so the order does not depend on how many workers there are, or how fast each is. What several workers say
//! to one event (a tick, a sweep) is ordered by connection.

use std::{collections::VecDeque, io::Write};

use anyhow::{Context, Result};

use crate::model::ConnectionId;

/// What one worker wrote in one round.
#[derive(Default)]
pub struct Lines {
    pub worker: usize,
    /// The worker is past all events of lower numbers.
    pub upto: u64,
    pub text: Vec<u8>,
    /// Ascending.
    pub index: Vec<Mark>,
}

/// The end of lines in [`Lines::text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Number of the event that caused them.
    pub sequence: u64,
    pub connection: ConnectionId,
    pub end: usize,
}

impl Lines {
    /// Notes that the lines up to the present end of `text` belong to the event of this number and to this connection.
    pub fn mark(&mut self, sequence: u64, connection: ConnectionId) {
        let end = self.text.len();
        match self.index.last_mut() {
            Some(last) if (last.sequence, last.connection) == (sequence, connection) => last.end = end,
            _ => self.index.push(Mark { sequence, connection, end }),
        }
    }

    /// Orders the lines of the last event, which begin with the mark `first`, by connection.
    pub fn sort_from(&mut self, first: usize) {
        let begin = first.checked_sub(1).map_or(0, |before| self.index[before].end);
        let mut pieces = Vec::new();
        let mut from = begin;
        for mark in &self.index[first..] {
            pieces.push((mark.connection, from..mark.end));
            from = mark.end;
        }
        if pieces.is_sorted_by_key(|(connection, _)| *connection) {
            return;
        }
        pieces.sort_by_key(|(connection, _)| *connection);
        let lines = self.text.split_off(begin);
        for (mark, (connection, piece)) in self.index[first..].iter_mut().zip(pieces) {
            self.text.extend_from_slice(&lines[piece.start - begin..piece.end - begin]);
            (mark.connection, mark.end) = (connection, self.text.len());
        }
    }

    pub fn clear(&mut self) {
        self.text.clear();
        self.index.clear();
    }
}

/// Holds lines back until their turn comes.
pub struct Sorter {
    queues: Vec<VecDeque<Lines>>,
    upto: Vec<u64>,
    /// How far the first of each queue was written: place in its index and text.
    written: Vec<(usize, usize)>,
}

impl Sorter {
    pub fn new(workers: usize) -> Self {
        Self { queues: (0..workers).map(|_| VecDeque::new()).collect(), upto: vec![0; workers], written: vec![(0, 0); workers] }
    }

    /// Takes a round and writes what is due; gives the round back where its buffers are free again.
    pub fn push(&mut self, lines: Lines, out: &mut impl Write) -> Result<Option<Lines>> {
        let worker = lines.worker;
        self.upto[worker] = self.upto[worker].max(lines.upto);
        if self.queues.len() == 1 {
            out.write_all(&lines.text).context("writing to standard output")?;
            return Ok(Some(lines));
        }
        let mut free = None;
        if lines.index.is_empty() {
            free = Some(lines);
        } else {
            self.queues[worker].push_back(lines);
        }
        let due = self.upto.iter().copied().min().unwrap_or(0);
        self.write(due, out)?;
        Ok(free)
    }

    /// Writes all that is left.
    pub fn finish(&mut self, out: &mut impl Write) -> Result<()> {
        self.write(u64::MAX, out)
    }

    fn write(&mut self, due: u64, out: &mut impl Write) -> Result<()> {
        loop {
            let next = (0..self.queues.len())
                .filter_map(|worker| {
                    let mark = *self.queues[worker].front()?.index.get(self.written[worker].0)?;
                    (mark.sequence < due).then_some((mark.sequence, mark.connection, worker))
                })
                .min();
            let Some((.., worker)) = next else { return Ok(()) };
            let (place, begin) = self.written[worker];
            let Some(lines) = self.queues[worker].front() else { return Ok(()) };
            let end = lines.index[place].end;
            out.write_all(&lines.text[begin..end]).context("writing to standard output")?;
            if place + 1 == lines.index.len() {
                self.queues[worker].pop_front();
                self.written[worker] = (0, 0);
            } else {
                self.written[worker] = (place + 1, end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(worker: usize, upto: u64, lines: &[(u64, &str)]) -> Lines {
        let mut round = Lines { worker, upto, ..Lines::default() };
        for (sequence, line) in lines {
            round.text.extend_from_slice(line.as_bytes());
            round.mark(*sequence, ConnectionId(0));
        }
        round
    }

    #[test]
    fn lines_come_out_in_the_order_of_their_events() {
        let mut sorter = Sorter::new(2);
        let mut out = Vec::new();
        sorter.push(round(1, 10, &[(2, "c"), (2, "d"), (7, "f")]), &mut out).unwrap();
        assert_eq!(out, b"", "worker 0 may still have something earlier");
        sorter.push(round(0, 5, &[(0, "a"), (1, "b"), (4, "e")]), &mut out).unwrap();
        assert_eq!(out, b"abcde");
        sorter.push(round(0, 9, &[]), &mut out).unwrap();
        assert_eq!(out, b"abcdef");
        sorter.push(round(1, 12, &[(11, "g")]), &mut out).unwrap();
        sorter.finish(&mut out).unwrap();
        assert_eq!(out, b"abcdefg");
    }

    #[test]
    fn what_several_workers_say_to_one_event_is_ordered_by_connection() {
        let of = |worker, lines: &[(u64, &str)]| {
            let mut round = round(worker, 9, &[(1, "begin ")]);
            let first = round.index.len();
            for (connection, line) in lines {
                round.text.extend_from_slice(line.as_bytes());
                round.mark(2, ConnectionId(*connection));
            }
            round.sort_from(first);
            round
        };
        let mut out = Vec::new();
        let mut one = Sorter::new(1);
        one.push(of(0, &[(7, "g"), (3, "c"), (3, "d"), (5, "e"), (4, "dd")]), &mut out).unwrap();
        assert_eq!(out, b"begin cdddeg");
        let mut out = Vec::new();
        let mut two = Sorter::new(2);
        two.push(of(0, &[(7, "g"), (3, "c")]), &mut out).unwrap();
        two.push(of(1, &[(5, "e"), (4, "d")]), &mut out).unwrap();
        two.finish(&mut out).unwrap();
        assert_eq!(out, b"begin begin cdeg");
    }
}
