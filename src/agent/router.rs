//! Numbers event records and hands them, in batches, to the workers that own their connections. Never parses.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::{
    losses::{Losses, Reason},
    outlet::{Outlet, Patience},
    tape::Taped,
};
use crate::{
    event::{self, Event, Route},
    record::Fact,
};

/// A batch goes out when it has grown to this, at the latest when the source pauses.
pub(super) const BATCH_BYTES: usize = 256 * 1024;

/// What a worker gets.
pub enum Message {
    Events(Batch),
    /// A recording's answer to "who is this pid" (replay only).
    Fact(Arc<Fact>),
    /// Nothing follows.
    End,
}

/// Numbered records, one behind the other: see [`Batch::records`].
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Every record of a lower number was handed out to its worker.
    pub upto: u64,
}

const NUMBER_LEN: usize = size_of::<u64>();

impl Batch {
    fn push(&mut self, sequence: u64, record: &[u8]) {
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(record);
    }

    /// The records with their numbers.
    pub fn records(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (number, behind) = rest.split_first_chunk::<NUMBER_LEN>()?;
            let length = event::record_len(behind)?;
            let (record, behind) = behind.split_at_checked(length)?;
            rest = behind;
            Some((u64::from_ne_bytes(*number), record))
        })
    }
}

/// The one place where records get their numbers.
pub struct Router {
    workers: Vec<Outlet<Message>>,
    batches: Vec<Batch>,
    /// How many records each batch holds, for the count of a loss.
    counts: Vec<u64>,
    spent: Receiver<Batch>,
    sequence: u64,
    tape: Option<(Sender<Taped>, Vec<u8>)>,
    /// Workers must hear of every round, so that lines can be put in order.
    announce_rounds: bool,
    losses: Arc<Losses>,
    scratch: Vec<u8>,
}

impl Router {
    pub fn new(
        workers: Vec<Sender<Message>>,
        spent: Receiver<Batch>,
        tape: Option<Sender<Taped>>,
        patience: Patience,
        announce_rounds: bool,
        losses: Arc<Losses>,
    ) -> Self {
        let batches = workers.iter().map(|_| Batch::default()).collect();
        let counts = vec![0; workers.len()];
        let workers = workers.into_iter().map(|worker| Outlet::new(worker, patience)).collect();
        let tape = tape.map(|tape| (tape, Vec::new()));
        Self { workers, batches, counts, spent, sequence: 0, tape, announce_rounds, losses, scratch: Vec::new() }
    }

    /// Takes one record. What is no record is counted and left out.
    pub fn record(&mut self, record: &[u8]) {
        let Some(route) = event::route(record).filter(|_| event::record_len(record) == Some(record.len())) else {
            self.losses.add(Reason::Undecodable, 1);
            return;
        };
        let sequence = self.sequence;
        self.sequence += 1;
        if let Some((_, bytes)) = &mut self.tape {
            bytes.extend_from_slice(record);
        }
        match route {
            Route::Connection(connection) => self.push(connection.worker(self.batches.len()), sequence, record),
            Route::Everyone | Route::Overheard(_) => (0..self.batches.len()).for_each(|worker| self.push(worker, sequence, record)),
        }
        // Not before all workers have it: a batch tells up to where it is complete.
        if self.batches.iter().any(|batch| batch.bytes.len() >= BATCH_BYTES) {
            self.flush();
        }
    }

    /// The same for an event that user space makes.
    pub fn event(&mut self, event: &Event<'_>) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        event.encode(&mut scratch);
        self.record(&scratch);
        self.scratch = scratch;
    }

    /// The number of the next record.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    fn push(&mut self, worker: usize, sequence: u64, record: &[u8]) {
        self.batches[worker].push(sequence, record);
        self.counts[worker] += 1;
    }

    /// Sends what has gathered.
    pub fn flush(&mut self) {
        if let Some((tape, bytes)) = &mut self.tape
            && !bytes.is_empty()
        {
            let records = bytes.len();
            let first = self.sequence - count_records(bytes);
            let piece = Taped::Events { sequence: first, bytes: std::mem::replace(bytes, Vec::with_capacity(records)) };
            if let Err(TrySendError::Full(piece)) = tape.try_send(piece)
                && let Taped::Events { bytes, .. } = piece
            {
                self.losses.add(Reason::RecordingFull, count_records(&bytes));
            }
        }
        for worker in 0..self.workers.len() {
            if self.batches[worker].bytes.is_empty() && !self.announce_rounds {
                continue;
            }
            let mut batch = self.spent.try_recv().unwrap_or_default();
            batch.bytes.clear();
            std::mem::swap(&mut batch, &mut self.batches[worker]);
            batch.upto = self.sequence;
            let count = std::mem::take(&mut self.counts[worker]);
            self.send(worker, Message::Events(batch), count);
        }
    }

    /// Tells who a pid is from `record`, the next one, on: to whoever must see that, as the one who asked when it was recorded.
    pub fn fact(&mut self, fact: &Arc<Fact>, record: &[u8]) {
        self.flush();
        let owner = match event::route(record) {
            Some(Route::Connection(connection) | Route::Overheard(connection)) => Some(connection.worker(self.workers.len())),
            _ => None,
        };
        for worker in (0..self.workers.len()).filter(|worker| owner.is_none_or(|owner| owner == *worker)) {
            self.send(worker, Message::Fact(Arc::clone(fact)), 0);
        }
    }

    /// Sends the rest and says that nothing follows; waits for room, since the end must arrive.
    pub fn end(mut self) {
        self.workers.iter_mut().for_each(|worker| worker.patience = Patience::Wait);
        self.flush();
        for worker in 0..self.workers.len() {
            self.send(worker, Message::End, 0);
        }
    }

    fn send(&self, worker: usize, message: Message, records: u64) {
        if self.workers[worker].send(message).is_err() {
            self.losses.add(Reason::ChannelFull, records);
        }
    }
}

fn count_records(mut bytes: &[u8]) -> u64 {
    let mut count = 0;
    while let Some(length) = event::record_len(bytes) {
        count += 1;
        bytes = &bytes[length..];
    }
    count
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;
    use crate::{
        event::{Body, Header},
        model::{ConnectionId, Direction},
    };

    /// The numbers of the records that each of four workers got.
    fn routed(bodies: &[(u64, Body<'_>)]) -> Vec<Vec<u64>> {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..4).map(|_| bounded(8)).unzip();
        let (_, spent) = bounded(1);
        let mut router = Router::new(senders, spent, None, Patience::Wait, false, Arc::default());
        for (id, body) in bodies {
            let header = Header { time_ns: 1, connection: ConnectionId(*id), pid: 1, tid: 1 };
            router.event(&Event { header, body: *body });
        }
        router.end();
        let numbers = |message| match message {
            Message::Events(batch) => batch.records().map(|(number, _)| number).collect(),
            _ => Vec::new(),
        };
        receivers.into_iter().map(|receiver| receiver.into_iter().flat_map(numbers).collect()).collect()
    }

    #[test]
    fn datagrams_of_dns_reach_every_worker_under_one_number() {
        let datagram = Body::Datagram { direction: Direction::Sent, number: 0, size: 1, unread: false, remote: None, payload: b"a" };
        let data = Body::Data { direction: Direction::Sent, offset: 0, size: 1, unread: false, payload: b"a" };
        // Port 53, another port, a stream in the group of port 53, and what concerns everyone.
        let bodies = [(256 + 53, datagram), (256 + 54, datagram), (256 + 53, data), (0, Body::Tick)];
        assert_eq!(routed(&bodies), [vec![0, 3], vec![0, 2, 3], vec![0, 1, 3], vec![0, 3]]);
    }
}
