//! Records out of perf buffers, for kernels without ring buffers: those of all CPUs in the order of their times. What is left of disorder
//! the positions of the streams mend.

use std::time::Duration;

use anyhow::Result;

use super::{
    clock::now_ns,
    order::Order,
    perf_buffer::PerfBuffers,
    transport::{Round, Sleep, record_of},
};
use crate::event;

/// Nobody wakes the reader for a first record: so long it may wait.
const IDLE: Duration = Duration::from_millis(40);

/// More than a host writes while its records are held: 50 ms at 300 MB a second. By a clock that is behind the kernel's, as in a time
/// namespace, all would be held for ever.
const HELD_BYTES_MAX: usize = 16 << 20;

type OnRecord<'a> = Box<dyn FnMut(&[u8]) + 'a>;

/// The consuming end of all buffers.
pub struct PerfReader<'a> {
    buffers: &'a mut PerfBuffers,
    settling_ns: u64,
    intake: Intake,
    on_record: OnRecord<'a>,
}

/// What was read and not yet handed on.
struct Intake {
    order: Order,
    /// Records that were read since they were last counted.
    read: usize,
}

impl Intake {
    fn new() -> Self {
        Self { order: Order::new(HELD_BYTES_MAX), read: 0 }
    }

    fn take(&mut self, sample: &[u8]) {
        let record = record_of(sample);
        // What is no record waits for nothing: who gets it counts it.
        let time_ns = event::record_len(record).and(event::record_time_ns(record)).unwrap_or(0);
        self.order.hold(time_ns, record);
        self.read += 1;
    }
}

impl<'a> PerfReader<'a> {
    /// A record is there `settling` after its time at the latest.
    pub(super) fn new(buffers: &'a mut PerfBuffers, settling: Duration, on_record: impl FnMut(&[u8]) + 'a) -> Self {
        let settling_ns = u64::try_from(settling.as_nanos()).unwrap_or(u64::MAX);
        Self { buffers, settling_ns, intake: Intake::new(), on_record: Box::new(on_record) }
    }

    /// Reads all that is there and hands on what is old enough.
    pub(super) fn consume(&mut self) -> Result<Round> {
        let until_ns = self.read()?.saturating_sub(self.settling_ns);
        Ok(self.pass(until_ns, until_ns))
    }

    /// The same, but keeps nothing back.
    pub(super) fn rest(&mut self) -> Result<Round> {
        let until_ns = self.read()?;
        Ok(self.pass(u64::MAX, until_ns))
    }

    /// The time before the look: what is written behind it is younger.
    fn read(&mut self) -> Result<u64> {
        let before_ns = now_ns();
        self.buffers.consume(&mut |sample| self.intake.take(sample))?;
        Ok(before_ns)
    }

    fn pass(&mut self, held_from_ns: u64, until_ns: u64) -> Round {
        self.intake.order.release(held_from_ns, &mut self.on_record);
        Round { records: std::mem::take(&mut self.intake.read), until_ns: Some(until_ns) }
    }

    pub(super) fn sleep(&mut self, sleep: Sleep) -> Result<()> {
        let (Sleep::Moment(time) | Sleep::UntilEvent(time)) = sleep;
        // It hands over what ended the wait.
        self.buffers.wait(time.min(IDLE), &mut |sample| self.intake.take(sample))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skel::{bytes, types};

    #[test]
    fn a_sample_is_a_record_without_its_padding_and_what_is_none_is_handed_on_for_whoever_counts_it() {
        let mut intake = Intake::new();
        let header = types::event_header { length: 32, time_ns: 5, ..Default::default() };
        intake.take(&[bytes(&header), &[0; 4]].concat());
        [b"short".as_slice(), &[0xff; 40]].iter().for_each(|sample| intake.take(sample));
        let mut lengths = Vec::new();
        intake.order.release(4, |record| lengths.push(record.len()));
        assert_eq!((&lengths[..], intake.read), (&[5, 40][..], 3));
        intake.order.release(5, |record| lengths.push(record.len()));
        assert_eq!(lengths, [5, 40, 32]);
    }
}
