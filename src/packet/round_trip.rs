//! From segments and their acknowledgments to round-trip times, as seen from where frames are captured: to the receiver and back. Both
//! directions of a connection together are the way from end to end.

/// Of one direction. Smoothed as in RFC 6298 section 2, one segment at a time; one that was sent twice tells nothing (Karn's algorithm).
/// An acknowledgment that waits for company (up to 40 ms) counts in full, as it does in the kernel's own figure.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundTrip {
    smoothed_ns: Option<u64>,
    least_ns: Option<u64>,
    /// Stream offset behind a segment, and when it passed.
    outstanding: Option<(u64, u64)>,
}

impl RoundTrip {
    /// `None` until something was acknowledged.
    pub fn smoothed_ns(&self) -> Option<u64> {
        self.smoothed_ns
    }

    /// The shortest so far.
    pub fn least_ns(&self) -> Option<u64> {
        self.least_ns
    }

    /// New bytes up to this offset went by.
    pub fn sent(&mut self, end: u64, time_ns: u64) {
        self.outstanding.get_or_insert((end, time_ns));
    }

    /// Something went by again.
    pub fn repeated(&mut self) {
        self.outstanding = None;
    }

    /// The receiver has everything before this offset.
    pub fn acknowledged(&mut self, offset: u64, time_ns: u64) {
        if let Some((_, sent_ns)) = self.outstanding.take_if(|(end, _)| offset >= *end) {
            let sample = time_ns.saturating_sub(sent_ns);
            self.smoothed_ns = Some(self.smoothed_ns.map_or(sample, |smoothed| smoothed - smoothed / 8 + sample / 8));
            self.least_ns = Some(self.least_ns.map_or(sample, |least| least.min(sample)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_segment_at_a_time_is_measured_and_smoothed() {
        let mut round_trip = RoundTrip::default();
        round_trip.sent(10, 1_000);
        round_trip.sent(20, 1_500);
        round_trip.acknowledged(9, 1_600);
        assert_eq!(round_trip.smoothed_ns(), None);
        round_trip.acknowledged(20, 1_800);
        assert_eq!(round_trip.smoothed_ns(), Some(800));
        round_trip.sent(30, 2_000);
        round_trip.acknowledged(30, 2_400);
        assert_eq!((round_trip.smoothed_ns(), round_trip.least_ns()), (Some(750), Some(400)));
    }

    #[test]
    fn what_was_sent_twice_tells_nothing() {
        let mut round_trip = RoundTrip::default();
        round_trip.sent(10, 1_000);
        round_trip.repeated();
        round_trip.acknowledged(10, 9_000);
        assert_eq!(round_trip.smoothed_ns(), None);
    }
}
