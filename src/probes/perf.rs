//! Records out of perf buffers, for kernels without ring buffers. Those of all CPUs are put into the order of their times: each waits until
//! what was begun before it can be expected to be there. What is left of disorder the positions of the streams mend.

use std::{ops::Range, time::Duration};

use anyhow::Result;

use super::{
    clock::now_ns,
    perf_buffer::PerfBuffers,
    transport::{Sleep, record_of},
};
use crate::event;

/// Nobody wakes the reader for a first record: so long it may wait.
const IDLE: Duration = Duration::from_millis(40);
/// A record is there so long after its time at the latest, but for a virtual processor that is put aside for longer.
const SETTLING_NS: u64 = 50_000_000;

type OnRecord<'a> = Box<dyn FnMut(&[u8]) + 'a>;

/// The consuming end of all buffers.
pub struct PerfReader<'a> {
    buffers: &'a mut PerfBuffers,
    gathered: Gathered,
    on_record: OnRecord<'a>,
}

/// Records that were read and not yet handed on.
#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    /// The time of each, and its place in `bytes`.
    records: Vec<(u64, Range<usize>)>,
}

impl Gathered {
    fn push(&mut self, sample: &[u8]) {
        let record = record_of(sample);
        // What is no record waits for nothing: who gets it counts it.
        let time_ns = event::record_len(record).and(event::record_time_ns(record)).unwrap_or(0);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(record);
        self.records.push((time_ns, start..self.bytes.len()));
    }

    /// Hands on what is older than `horizon_ns`, in order.
    fn release(&mut self, horizon_ns: u64, on_record: &mut dyn FnMut(&[u8])) {
        self.records.sort_by_key(|(time_ns, _)| *time_ns);
        let due = self.records.partition_point(|(time_ns, _)| *time_ns < horizon_ns);
        for (_, place) in self.records.drain(..due) {
            on_record(&self.bytes[place]);
        }
        // What is held moves to the begin.
        let mut kept = Vec::with_capacity(self.records.iter().map(|(_, place)| place.len()).sum());
        for (_, place) in &mut self.records {
            let start = kept.len();
            kept.extend_from_slice(&self.bytes[place.clone()]);
            *place = start..kept.len();
        }
        self.bytes = kept;
    }
}

impl<'a> PerfReader<'a> {
    pub(super) fn new(buffers: &'a mut PerfBuffers, on_record: impl FnMut(&[u8]) + 'a) -> Self {
        Self { buffers, gathered: Gathered::default(), on_record: Box::new(on_record) }
    }

    /// Hands on what is old enough; as many as were read, and what is still held.
    pub(super) fn consume(&mut self) -> Result<usize> {
        let horizon_ns = now_ns().saturating_sub(SETTLING_NS);
        self.buffers.consume(&mut |sample| self.gathered.push(sample))?;
        let count = self.gathered.records.len();
        self.gathered.release(horizon_ns, &mut self.on_record);
        Ok(count)
    }

    pub(super) fn sleep(&mut self, sleep: Sleep) -> Result<()> {
        let (Sleep::Moment(time) | Sleep::UntilEvent(time)) = sleep;
        self.buffers.wait(time.min(IDLE), &mut |sample| self.gathered.push(sample))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skel::{bytes, types};

    fn sample(time_ns: u64) -> Vec<u8> {
        let header = types::event_header { length: 32, time_ns, ..Default::default() };
        [bytes(&header), &[0; 4]].concat()
    }

    #[test]
    fn what_is_no_record_is_handed_on_for_whoever_counts_it() {
        let mut gathered = Gathered::default();
        [b"short".as_slice(), &[0xff; 40]].iter().for_each(|sample| gathered.push(sample));
        let mut lengths = Vec::new();
        gathered.release(1, &mut |record| lengths.push(record.len()));
        assert_eq!(lengths, [5, 40]);
    }

    #[test]
    fn records_of_several_cpus_come_in_the_order_of_their_times_and_the_youngest_wait() {
        let mut gathered = Gathered::default();
        [5, 9, 2, 7].iter().for_each(|time_ns| gathered.push(&sample(*time_ns)));
        let mut times = Vec::new();
        let mut release = |gathered: &mut Gathered, horizon_ns| {
            gathered.release(horizon_ns, &mut |record| times.push((record.len(), event::record_time_ns(record).unwrap())));
        };
        release(&mut gathered, 8);
        gathered.push(&sample(8));
        release(&mut gathered, 8);
        release(&mut gathered, 100);
        assert_eq!(times, [(32, 2), (32, 5), (32, 7), (32, 8), (32, 9)]);
        assert!(gathered.bytes.is_empty() && gathered.records.is_empty());
    }
}
