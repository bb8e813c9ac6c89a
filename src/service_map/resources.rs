//! The resources an edge is asked for most (paths, statements …), in bounded memory.
//!
//! Space-saving (Metwally, Agrawal, El Abbadi, 2005): when the table is full the least asked resource makes room for a new one, which
//! inherits its count as a possible excess. Any resource asked more often than total/size is in the table.

/// Octaves of microseconds in a resource's coarse histogram: below 1 µs, then up to 2^22 µs = 4.2 s and above.
const OCTAVES: usize = 24;
/// Direct-mapped positions of recently seen hashes.
const CACHE: usize = 128;

/// What is known of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub operation: String,
    pub resource: String,
    /// At most `excess` too many.
    pub requests: u64,
    /// What was inherited from resources that were pushed out.
    pub excess: u64,
    pub errors: u64,
    pub total_ns: u64,
    pub max_ns: u64,
    octaves: [u32; OCTAVES],
}

impl Resource {
    /// Requests that were really seen since this resource came into the table.
    pub fn seen(&self) -> u64 {
        self.requests - self.excess
    }

    pub fn mean_ns(&self) -> u64 {
        self.total_ns / self.seen().max(1)
    }

    /// A coarse quantile: the upper bound of its octave, so at most twice the true value; never above the maximum.
    pub fn quantile(&self, q: f64) -> u64 {
        let count: u64 = self.octaves.iter().map(|&count| u64::from(count)).sum();
        let rank = ((q * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut passed = 0;
        for (octave, &count) in self.octaves.iter().enumerate() {
            passed += u64::from(count);
            if passed >= rank && octave < OCTAVES - 1 {
                return (1_000u64 << octave).min(self.max_ns);
            }
        }
        self.max_ns
    }

    fn record(&mut self, duration_ns: u64, error: bool) {
        self.requests += 1;
        self.errors += u64::from(error);
        self.total_ns = self.total_ns.saturating_add(duration_ns);
        self.max_ns = self.max_ns.max(duration_ns);
        let octave = (64 - (duration_ns / 1_000).leading_zeros() as usize).min(OCTAVES - 1);
        self.octaves[octave] = self.octaves[octave].saturating_add(1);
    }

    fn merge(&mut self, other: &Resource) {
        self.requests += other.requests;
        self.excess += other.excess;
        self.errors += other.errors;
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        for (own, other) in self.octaves.iter_mut().zip(other.octaves) {
            *own = own.saturating_add(other);
        }
    }
}

/// The table of one side of an edge.
///
/// Resources are told apart by a 64-bit hash that the caller makes of operation and resource, with one seed per table.
#[derive(Clone, Debug)]
pub struct Resources {
    entries: Vec<Resource>,
    hashes: Vec<u64>,
    cache: [u8; CACHE],
}

impl Default for Resources {
    fn default() -> Self {
        Self { entries: Vec::new(), hashes: Vec::new(), cache: [0; CACHE] }
    }
}

impl Resources {
    /// In no particular order.
    pub fn entries(&self) -> &[Resource] {
        &self.entries
    }

    /// `size` entries at most, which must not exceed 255.
    #[inline]
    pub(super) fn record(&mut self, size: usize, hash: u64, operation: &str, resource: &str, duration_ns: u64, error: bool) {
        let cached = usize::from(self.cache[hash as usize % CACHE]);
        let position = if self.hashes.get(cached) == Some(&hash) {
            cached
        } else {
            let position = self.find(size, hash, operation, resource);
            self.cache[hash as usize % CACHE] = position as u8;
            position
        };
        if let Some(entry) = self.entries.get_mut(position) {
            entry.record(duration_ns, error);
        }
    }

    /// Adds the entries of `other`, a table of another seed, and keeps the `size` that were asked most.
    pub(super) fn merge(&mut self, size: usize, other: &Resources) {
        for entry in &other.entries {
            match self.entries.iter_mut().find(|own| own.operation == entry.operation && own.resource == entry.resource) {
                Some(own) => own.merge(entry),
                None => self.entries.push(entry.clone()),
            }
        }
        self.entries.sort_by(|a, b| {
            b.requests.cmp(&a.requests).then_with(|| a.operation.cmp(&b.operation)).then_with(|| a.resource.cmp(&b.resource))
        });
        self.entries.truncate(size);
        self.hashes.clear();
    }

    #[inline(never)]
    fn find(&mut self, size: usize, hash: u64, operation: &str, resource: &str) -> usize {
        if let Some(position) = self.hashes.iter().position(|known| *known == hash) {
            return position;
        }
        if self.entries.len() < size {
            self.hashes.push(hash);
            self.entries.push(Resource {
                operation: operation.to_owned(),
                resource: resource.to_owned(),
                requests: 0,
                excess: 0,
                errors: 0,
                total_ns: 0,
                max_ns: 0,
                octaves: [0; OCTAVES],
            });
            return self.entries.len() - 1;
        }
        let least = self.entries.iter().enumerate().min_by_key(|(_, entry)| entry.requests).map(|(position, _)| position);
        let position = least.unwrap_or(0);
        if let (Some(entry), Some(known)) = (self.entries.get_mut(position), self.hashes.get_mut(position)) {
            *known = hash;
            // The strings keep their memory: a flood of different resources must not become a flood of allocations.
            entry.operation.clear();
            entry.operation.push_str(operation);
            entry.resource.clear();
            entry.resource.push_str(resource);
            entry.excess = entry.requests;
            (entry.errors, entry.total_ns, entry.max_ns, entry.octaves) = (0, 0, 0, [0; OCTAVES]);
        }
        position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(table: &mut Resources, resource: &str, duration_ns: u64) {
        let hash = resource.bytes().fold(7u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        table.record(4, hash, "GET", resource, duration_ns, duration_ns > 5_000_000);
    }

    #[test]
    fn the_busiest_resource_survives_a_flood_of_others() {
        let mut table = Resources::default();
        for n in 0..1_000 {
            record(&mut table, &format!("/item/{n}"), 1_000);
            record(&mut table, "/busy", 2_000);
        }
        assert_eq!(table.entries().len(), 4);
        let busy = table.entries().iter().find(|entry| entry.resource == "/busy").unwrap();
        assert_eq!((busy.seen(), busy.mean_ns()), (1_000, 2_000));
        assert_eq!(table.entries().iter().map(|entry| entry.requests).sum::<u64>(), 2_000);
    }

    #[test]
    fn quantiles_are_within_a_factor_of_two() {
        let mut table = Resources::default();
        for n in 1..=1_000u64 {
            record(&mut table, "/", n * 10_000);
        }
        let entry = &table.entries()[0];
        for (q, exact) in [(0.5, 5_000_000), (0.95, 9_500_000), (1.0, 10_000_000)] {
            let found = entry.quantile(q);
            assert!((exact..=2 * exact).contains(&found), "{found} for {exact}");
        }
        assert_eq!((entry.max_ns, entry.errors), (10_000_000, 500));
    }

    #[test]
    fn merged_tables_keep_the_most_asked() {
        let (mut a, mut b) = (Resources::default(), Resources::default());
        for resource in ["/1", "/1", "/2", "/3"] {
            record(&mut a, resource, 1_000);
        }
        for resource in ["/1", "/4", "/4", "/5", "/6"] {
            record(&mut b, resource, 1_000);
        }
        a.merge(3, &b);
        let kept: Vec<_> = a.entries().iter().map(|entry| (entry.resource.as_str(), entry.requests)).collect();
        assert_eq!(kept, [("/1", 3), ("/4", 2), ("/2", 1)]);
    }
}
