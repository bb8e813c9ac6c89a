//! Records of several CPUs, put in the order of their times. Each CPU writes its own in order, but they are read one CPU after the other,
//! so each is held until none that is older can be expected, or too much is held. What a record says is not known here.

use std::ops::Range;

/// Records that were read and not yet handed on.
pub struct Order {
    bytes: Vec<u8>,
    held: Vec<Held>,
    /// Of the records that are held.
    held_bytes: usize,
    held_bytes_max: usize,
}

struct Held {
    time_ns: u64,
    /// Where it is in `bytes`.
    place: Range<usize>,
}

impl Order {
    /// When [`Self::release`] is through, so many bytes are held at most.
    pub fn new(held_bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), held: Vec::new(), held_bytes: 0, held_bytes_max }
    }

    pub fn hold(&mut self, time_ns: u64, record: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(record);
        self.held.push(Held { time_ns, place: start..self.bytes.len() });
        self.held_bytes += record.len();
    }

    /// Hands on, the oldest first, what is not younger than `until_ns`, and of what is younger as much as is too much to hold: that may
    /// come before one that is older.
    pub fn release(&mut self, until_ns: u64, mut each: impl FnMut(&[u8])) {
        // Stable: what one CPU wrote in the same nanosecond stays in its order. What is held is in order already, and so is what each CPU
        // wrote since, so this only merges.
        self.held.sort_by_key(|held| held.time_ns);
        let mut due = 0;
        for held in &self.held {
            if held.time_ns > until_ns && self.held_bytes <= self.held_bytes_max {
                break;
            }
            self.held_bytes -= held.place.len();
            due += 1;
        }
        for held in self.held.drain(..due) {
            each(&self.bytes[held.place]);
        }
        // What is held moves to the begin, when that is worth it: a round can be short, and bring little beside what is held.
        if self.held_bytes > self.bytes.len() / 2 {
            return;
        }
        let mut kept = Vec::with_capacity(self.held_bytes);
        for held in &mut self.held {
            let start = kept.len();
            kept.extend_from_slice(&self.bytes[held.place.clone()]);
            held.place = start..kept.len();
        }
        self.bytes = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(order: &mut Order, records: &[(u64, &str)]) {
        records.iter().for_each(|(time_ns, record)| order.hold(*time_ns, record.as_bytes()));
    }

    fn released(order: &mut Order, until_ns: u64) -> String {
        let mut seen = Vec::new();
        order.release(until_ns, |record| seen.push(record.escape_ascii().to_string()));
        seen.join(" ")
    }

    #[test]
    fn records_of_several_cpus_come_in_the_order_of_their_times_and_the_youngest_wait() {
        let mut order = Order::new(1000);
        hold(&mut order, &[(10, "one"), (30, "three"), (50, "five"), (20, "two"), (40, "four")]);
        assert_eq!(released(&mut order, 35), "one two three");
        hold(&mut order, &[(45, "late")]);
        assert_eq!(released(&mut order, 45), "four late");
        assert_eq!(released(&mut order, u64::MAX), "five");
        assert!(order.bytes.is_empty() && order.held.is_empty() && released(&mut order, u64::MAX).is_empty());
    }

    #[test]
    fn records_of_one_time_stay_in_their_order_while_they_wait() {
        let mut order = Order::new(1000);
        hold(&mut order, &[(7, "a"), (9, "x"), (7, "b")]);
        assert_eq!(released(&mut order, 6), "");
        hold(&mut order, &[(7, "c"), (u64::MAX, "end")]);
        assert_eq!((released(&mut order, 7), released(&mut order, u64::MAX)), ("a b c".into(), "x end".into()));
    }

    #[test]
    fn what_was_handed_on_takes_no_more_room_than_what_is_held() {
        let mut order = Order::new(1000);
        for time_ns in 0..100 {
            order.hold(time_ns, b"12345678");
            order.release(time_ns.saturating_sub(9), |_| {});
            assert!(order.bytes.len() <= 2 * order.held_bytes, "{} of {}", order.held_bytes, order.bytes.len());
        }
        assert_eq!(order.held_bytes, 9 * 8);
        hold(&mut order, &[(100, "last")]);
        assert!(released(&mut order, u64::MAX).ends_with("12345678 last") && order.bytes.is_empty());
    }

    #[test]
    fn what_is_too_much_to_hold_goes_out_early_and_the_oldest_first() {
        let mut order = Order::new(9);
        hold(&mut order, &[(40, "four"), (10, "one"), (30, "three"), (20, "two")]);
        assert_eq!(released(&mut order, 0), "one two");
        hold(&mut order, &[(25, "late")]);
        assert_eq!((released(&mut order, 0), order.held_bytes), ("late".into(), "threefour".len()));
        hold(&mut order, &[(50, "longer than that")]);
        assert_eq!((released(&mut order, 0), order.held_bytes, order.bytes.len()), ("three four longer than that".into(), 0, 0));
    }
}
