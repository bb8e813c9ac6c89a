//! Who had an address when. Pure: the times are given.
//!
//! What is known of a pod's hold on an address is never exact. `earliest` is a moment before which it certainly did not have it, `seen`
//! one at which it certainly did (a status with the address was read), `gone` one from which it certainly has it no more: its end was
//! told then, and may have been [`DELIVERY_NS`] before. For a moment asked for, every pod that may have had the address counts. One
//! alone is the answer; of several the one that began last is, if the moment is not before `seen` and all others certainly began
//! before it. In the last moments before `gone`, and in all other cases, there is no answer.

use std::sync::Arc;

use crate::model::Pod;

/// The API server tells what happens within this time, while it answers.
pub const DELIVERY_NS: u64 = 1_000_000_000;

/// A pod's hold on an address; times on the clock of the events.
#[derive(Clone, Debug)]
pub struct Tenure {
    pub pod: Arc<Pod>,
    pub uid: u128,
    pub earliest_ns: u64,
    /// It had begun by then, by the clock of its node; not after `seen_ns`.
    pub begun_ns: u64,
    pub seen_ns: u64,
    /// `u64::MAX` while it lasts.
    pub gone_ns: u64,
}

impl Tenure {
    fn may_hold(&self, time_ns: u64) -> bool {
        self.earliest_ns <= time_ns && time_ns <= self.gone_ns
    }
}

/// The pod that had the address at that time, as far as that is certain.
pub fn holder(tenures: &[Tenure], time_ns: u64) -> Option<&Tenure> {
    let mut may = tenures.iter().filter(|tenure| tenure.may_hold(time_ns));
    let first = may.next()?;
    let last = may.clone().fold(first, |last, tenure| if tenure.seen_ns > last.seen_ns { tenure } else { last });
    let is_alone = may.next().is_none();
    let others_began_before = || {
        let mut others = tenures.iter().filter(|tenure| tenure.may_hold(time_ns) && tenure.uid != last.uid);
        others.all(|tenure| tenure.begun_ns <= last.earliest_ns)
    };
    let held_it = is_alone || (time_ns >= last.seen_ns && others_began_before());
    let still_had_it = last.gone_ns == u64::MAX || time_ns + DELIVERY_NS <= last.gone_ns;
    (held_it && still_had_it).then_some(last)
}

/// The same without the tenures that ended before `horizon_ns`, and without the longest gone beyond `most`. What is forgotten must not
/// make others certain: nobody had the address before the end of what is forgotten, as far as these tell.
pub fn forget(tenures: &[Tenure], horizon_ns: u64, most: usize) -> Vec<Tenure> {
    let mut kept = tenures.to_vec();
    kept.sort_by_key(|tenure| std::cmp::Reverse(tenure.gone_ns));
    let lasting = kept.iter().filter(|tenure| tenure.gone_ns == u64::MAX).count();
    let recent = kept.iter().filter(|tenure| tenure.gone_ns >= horizon_ns).count();
    let forgotten = kept.split_off(recent.min(most).max(lasting));
    if let Some(end_ns) = forgotten.iter().map(|tenure| tenure.gone_ns).max() {
        for tenure in &mut kept {
            tenure.earliest_ns = tenure.earliest_ns.max(end_ns);
        }
    }
    kept
}
