//! A map that one thread changes and all others read without waiting: many small sorted slices, each replaced as a whole.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

/// 150,000 entries leave about 150 in each: what a change copies.
const SHARDS: usize = 1024;

type Shard<V> = Box<[(u128, V)]>;

/// Exact in memory: no spare room, no tables.
#[derive(Debug)]
pub struct Shards<V> {
    shards: Box<[ArcSwapOption<Shard<V>>]>,
}

impl<V> Default for Shards<V> {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| ArcSwapOption::empty()).collect() }
    }
}

impl<V: Clone> Shards<V> {
    pub fn get(&self, key: u128) -> Option<V> {
        let shard = self.shards[place(key)].load();
        let shard = shard.as_ref()?;
        let at = shard.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(shard[at].1.clone())
    }

    /// There is one writer. Says what stood there before.
    pub fn insert(&self, key: u128, value: V) -> Option<V> {
        let shard = self.shards[place(key)].load_full();
        let old = shard.as_deref().map_or(&[][..], |shard| shard);
        let (at, before) = match old.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) => (at, Some(old[at].1.clone())),
            Err(at) => (at, None),
        };
        let rest = &old[at + usize::from(before.is_some())..];
        let new = old[..at].iter().cloned().chain([(key, value)]).chain(rest.iter().cloned());
        self.put(key, new.collect());
        before
    }

    pub fn remove(&self, key: u128) -> Option<V> {
        let shard = self.shards[place(key)].load_full()?;
        let at = shard.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        let new = shard[..at].iter().chain(&shard[at + 1..]).cloned();
        self.put(key, new.collect());
        Some(shard[at].1.clone())
    }

    /// Shard by shard; what changes meanwhile may be missed or seen.
    pub fn iter(&self) -> impl Iterator<Item = (u128, V)> {
        self.shards.iter().filter_map(ArcSwapOption::load_full).flat_map(|shard| shard.to_vec())
    }

    fn put(&self, key: u128, shard: Shard<V>) {
        self.shards[place(key)].store((!shard.is_empty()).then(|| Arc::new(shard)));
    }
}

/// Uids are random, addresses are not.
fn place(key: u128) -> usize {
    let folded = (key as u64) ^ ((key >> 64) as u64);
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_and_forgets_what_was_taken() {
        let shards = Shards::<u64>::default();
        for key in 0..5_000_u64 {
            assert_eq!(shards.insert(u128::from(key) << 32, key), None);
        }
        for key in (0..5_000_u64).step_by(2) {
            assert_eq!(shards.remove(u128::from(key) << 32), Some(key));
            assert_eq!(shards.remove(u128::from(key) << 32), None);
        }
        assert_eq!(shards.insert(1 << 32, 7), Some(1));
        assert_eq!(shards.get(1 << 32), Some(7));
        assert_eq!(shards.get(2 << 32), None);
        assert_eq!(shards.get(4_999 << 32), Some(4_999));
        assert_eq!(shards.iter().count(), 2_500);
    }

    #[test]
    fn every_key_has_a_place() {
        assert!(place(u128::MAX) < SHARDS && place(0) < SHARDS && place(1) < SHARDS);
    }
}
