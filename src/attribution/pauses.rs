//! Pauses before something is asked again, drawn by lot, so that the agents of many hosts do not act at once.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Between half and all of `pause`.
pub fn jittered(pause: Duration) -> Duration {
    pause / 2 + pause / 2 * chance(1_000) / 1_000
}

/// Any number below `below`.
pub fn chance(below: u32) -> u32 {
    (RandomState::new().hash_one(0) % u64::from(below.max(1))) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_jittered_between_half_and_all() {
        for _ in 0..1_000 {
            let pause = jittered(Duration::from_secs(10));
            assert!((Duration::from_secs(5)..=Duration::from_secs(10)).contains(&pause), "{pause:?}");
        }
    }
}
