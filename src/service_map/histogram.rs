//! An exponential histogram of durations: OpenTelemetry's mapping at scale 3, which is Prometheus' native schema 3.
//!
//! Buckets are aligned to powers of 2^(1/8) of a *second*, although values are nanoseconds: so the same buckets leave as OTLP and as
//! Prometheus native histograms in seconds without being cut again. (OpenTelemetry metrics data model, "ExponentialHistogram".)

/// Buckets per power of two.
const PER_OCTAVE: usize = 8;
/// The smallest octave holds 1 ns = 2^-29.9 s.
const LOWEST_OCTAVE: i32 = -30;
/// The largest ends at 2^12 s = 4096 s, just above an hour; longer durations count in the last bucket.
const OCTAVES: usize = 42;
const SLOTS: usize = OCTAVES * PER_OCTAVE;

/// ⌊2^93 / 10^9⌋: turns nanoseconds into seconds of 93 binary places. Rounded down, so that exact powers of two of a second fall into
/// the bucket that ends with them, as both formats want.
const SECONDS_PER_NS: u64 = 9_903_520_314_283_042_199;
const BINARY_PLACES: i32 = 93;

/// ⌊2^63 · 2^(j/8)⌋ for j = 0 … 7, then a bound that nothing exceeds.
const THRESHOLDS: [u64; PER_OCTAVE + 1] = [
    1 << 63,
    0x8b95_c1e3_ea8b_d6e6,
    0x9837_f051_8db8_a96f,
    0xa5fe_d6a9_b151_38ea,
    0xb504_f333_f9de_6484,
    0xc567_2a11_5506_dadd,
    0xd744_fcca_d69d_6af4,
    0xeac0_c6e7_dd24_392e,
    u64::MAX,
];

/// Durations in nanoseconds, counted in buckets that grow by 2^(1/8) (9.05 %).
///
/// Memory grows by octaves to the range seen and is bounded: 64 bytes an octave, 2.7 KiB at most. Recording into a range
/// that was seen before does not allocate. 0 counts as 1 ns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// The slot of `counts[0]`; a multiple of [`PER_OCTAVE`].
    first: usize,
    counts: Vec<u64>,
    count: u64,
    sum_ns: u64,
    min_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { first: 0, counts: Vec::new(), count: 0, sum_ns: 0, min_ns: u64::MAX, max_ns: 0 }
    }
}

/// One bucket that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// OpenTelemetry's index: the bucket holds (2^(index/8), 2^((index+1)/8)] seconds. Prometheus' native index is one more.
    pub index: i32,
    pub count: u64,
}

impl Histogram {
    #[inline]
    pub fn record(&mut self, duration_ns: u64) {
        let slot = slot_of(duration_ns);
        match self.counts.get_mut(slot.wrapping_sub(self.first)) {
            Some(count) => *count += 1,
            None => *self.cell(slot) += 1,
        }
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(duration_ns);
        self.min_ns = self.min_ns.min(duration_ns);
        self.max_ns = self.max_ns.max(duration_ns);
    }

    pub fn merge(&mut self, other: &Histogram) {
        for (slot, &count) in (other.first..).zip(&other.counts) {
            if count > 0 {
                *self.cell(slot) += count;
            }
        }
        self.count += other.count;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// What was recorded after `earlier`, a former state of this histogram. Its minimum and maximum are those of the whole life.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut later = self.clone();
        for (slot, &count) in (earlier.first..).zip(&earlier.counts) {
            if let Some(cell) = later.counts.get_mut(slot.wrapping_sub(self.first)) {
                *cell = cell.saturating_sub(count);
            }
        }
        later.count = later.counts.iter().sum();
        later.sum_ns = self.sum_ns.saturating_sub(earlier.sum_ns);
        later
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// The largest value; `None` while empty.
    pub fn max_ns(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max_ns)
    }

    /// The value of rank ⌈q·count⌉ (at least the first), `q` from 0 to 1; `None` while empty.
    ///
    /// It is the geometric middle of the value's bucket, within the smallest and largest value seen: at most 2^(1/16) - 1 = 4.4 % off
    /// (and half a nanosecond by rounding) for values up to 4096 s.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let rank = ((q * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut passed = 0;
        for (slot, &count) in (self.first..).zip(&self.counts) {
            passed += count;
            if passed >= rank {
                let exponent = (index_of(slot) as f64 + 0.5) / PER_OCTAVE as f64;
                let middle_ns = (exponent.exp2() * 1e9).round() as u64;
                return Some(middle_ns.clamp(self.min_ns, self.max_ns));
            }
        }
        None
    }

    /// The buckets that are not empty, in ascending order.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> {
        (self.first..).zip(&self.counts).filter(|(_, count)| **count > 0).map(|(slot, &count)| Bucket { index: index_of(slot), count })
    }

    /// For each of the ascending `bounds` in seconds, how many values are not above it: classic `le` buckets without `+Inf`.
    ///
    /// A bound inside a bucket takes its share of that bucket on the logarithmic scale, so only values within 9 % of a bound can land on
    /// its wrong side. For the same bound the result never falls as values are recorded.
    pub fn cumulative(&self, bounds: &[f64]) -> Vec<u64> {
        let mut slots = (self.first..).zip(self.counts.iter().copied()).peekable();
        let mut below = 0;
        let mut result = Vec::with_capacity(bounds.len());
        for bound in bounds {
            let place = bound.log2() * PER_OCTAVE as f64 - f64::from(index_of(0));
            let whole = place.floor().max(0.0) as usize;
            while let Some((_, count)) = slots.next_if(|(slot, _)| *slot < whole) {
                below += count;
            }
            let share = match slots.peek() {
                Some((slot, count)) if *slot == whole => (place.fract().max(0.0) * *count as f64) as u64,
                _ => 0,
            };
            result.push(below + share);
        }
        result
    }

    /// The counter of `slot`, after growing by whole octaves to where it is.
    #[cold]
    #[inline(never)]
    fn cell(&mut self, slot: usize) -> &mut u64 {
        let slot = slot.min(SLOTS - 1);
        let octave = slot - slot % PER_OCTAVE;
        if self.counts.is_empty() {
            self.first = octave;
        }
        if octave < self.first {
            let missing = self.first - octave;
            self.counts.splice(0..0, std::iter::repeat_n(0, missing));
            self.first = octave;
        }
        let needed = octave + PER_OCTAVE - self.first;
        if self.counts.len() < needed {
            self.counts.resize(needed, 0);
        }
        &mut self.counts[slot - self.first]
    }
}

/// The OpenTelemetry index of a slot.
fn index_of(slot: usize) -> i32 {
    slot as i32 + LOWEST_OCTAVE * PER_OCTAVE as i32
}

#[inline]
fn slot_of(duration_ns: u64) -> usize {
    let seconds = u128::from(duration_ns.max(1)) * u128::from(SECONDS_PER_NS);
    let zeros = seconds.leading_zeros();
    let mantissa = ((seconds << zeros) >> 64) as u64;
    let octave = (127 - zeros as i32 - BINARY_PLACES - LOWEST_OCTAVE) as usize;
    // The logarithm is never more than one eighth above its linear chord, so one comparison corrects the guess.
    let guess = (mantissa >> 60) as usize & (PER_OCTAVE - 1);
    let within = guess + usize::from(mantissa > THRESHOLDS[guess + 1]);
    (octave * PER_OCTAVE + within).min(SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|&value| histogram.record(value));
        histogram
    }

    /// Durations as they occur: every order of magnitude from 1 ns to an hour is equally likely.
    fn duration_ns() -> impl Strategy<Value = u64> {
        (0.0..41.7f64).prop_map(|exponent| exponent.exp2() as u64)
    }

    #[test]
    fn powers_of_two_of_a_second_end_their_bucket() {
        for (duration_ns, octave) in [(1_000_000_000, 0), (500_000_000, -1), (4_000_000_000, 2), (1_953_125, -9)] {
            assert_eq!(index_of(slot_of(duration_ns)), octave * 8 - 1, "{duration_ns} ns");
            assert_eq!(index_of(slot_of(duration_ns + 1)), octave * 8, "{duration_ns} ns and one");
        }
    }

    #[test]
    fn extremes_fall_into_the_first_and_last_bucket() {
        assert_eq!(slot_of(0), slot_of(1));
        assert_eq!(slot_of(1), 0);
        assert_eq!(slot_of(u64::MAX), SLOTS - 1);
        assert!(slot_of(3_600_000_000_000) < SLOTS - 1);
        let histogram = of(&[0, 1, u64::MAX]);
        assert_eq!(histogram.counts.len(), SLOTS);
        assert_eq!(histogram.quantile(1.0), Some((12f64 - 0.5 / 8.0).exp2().mul_add(1e9, 0.5) as u64));
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(Histogram::default().cumulative(&[1.0, 2.0]), [0, 0]);
        assert_eq!(Histogram::default().max_ns(), None);
    }

    #[test]
    fn a_single_value_is_its_own_quantile() {
        assert_eq!(of(&[123_456]).quantile(0.99), Some(123_456));
    }

    #[test]
    fn what_came_since_is_the_difference() {
        let earlier = of(&[1_000, 2_000_000]);
        let mut later = earlier.clone();
        later.record(50);
        later.record(2_000_000);
        let since = later.since(&earlier);
        assert_eq!((since.count(), since.sum_ns()), (2, 2_000_050));
        assert_eq!(since.buckets().map(|bucket| bucket.count).collect::<Vec<_>>(), [1, 1]);
    }

    proptest! {
        #[test]
        fn the_index_is_that_of_the_definition(value in duration_ns()) {
            let exact = (value.max(1) as f64 / 1e9).log2() * 8.0;
            // Not decidable in floating point next to a bound.
            prop_assume!((exact - exact.round()).abs() > 1e-9);
            prop_assert_eq!(index_of(slot_of(value)), exact.ceil() as i32 - 1);
        }

        #[test]
        fn quantiles_are_within_the_documented_error(mut values in prop::collection::vec(duration_ns(), 1..300), q in 0.0..=1.0f64) {
            let found = of(&values).quantile(q).unwrap() as f64;
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1] as f64;
            prop_assert!((found - exact).abs() <= exact * 0.0443 + 0.5 + 1e-9, "{found} for {exact}");
        }

        #[test]
        fn merging_is_recording_everything_in_one(a in prop::collection::vec(duration_ns(), 0..50), b in prop::collection::vec(duration_ns(), 0..50)) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            let whole = of(&[a, b].concat());
            prop_assert_eq!(merged.buckets().collect::<Vec<_>>(), whole.buckets().collect::<Vec<_>>());
            prop_assert_eq!((merged.count, merged.sum_ns, merged.min_ns, merged.max_ns), (whole.count, whole.sum_ns, whole.min_ns, whole.max_ns));
        }

        #[test]
        fn classic_buckets_are_right_but_for_values_near_a_bound(values in prop::collection::vec(duration_ns(), 0..200)) {
            let bounds = [1e-6, 1e-4, 0.0025, 0.1, 1.0, 10.0, 60.0];
            let found = of(&values).cumulative(&bounds);
            for (bound, count) in bounds.iter().zip(found) {
                let within = |factor: f64| values.iter().filter(|&&value| value as f64 / 1e9 <= bound * factor).count() as u64;
                prop_assert!((within(1.0 / 1.0906)..=within(1.0906)).contains(&count), "{count} up to {bound}");
            }
        }

        #[test]
        fn classic_buckets_never_fall(values in prop::collection::vec(duration_ns(), 1..60)) {
            let bounds = [1e-7, 1e-5, 0.001, 0.03, 1.0, 20.0];
            let mut histogram = Histogram::default();
            let mut before = histogram.cumulative(&bounds);
            for value in values {
                histogram.record(value);
                let now = histogram.cumulative(&bounds);
                prop_assert!(before.iter().zip(&now).all(|(before, now)| before <= now) && now.is_sorted());
                before = now;
            }
        }
    }
}
