//! Which of a cluster's workloads were met, with what the pods of each have in common. Edges name workloads only; here is how many pods
//! stand behind a name, and which release they are of.

use std::{collections::HashSet, hash::BuildHasher, sync::Arc};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::model::{Label, Party, Workload};

/// Workloads that are kept; others are counted.
const WORKLOADS_MAX: usize = 2_000;
/// Pods or containers that are told apart within a workload.
const REPLICAS_MAX: usize = 1_000;

/// What is known of a workload by those of its pods or containers that were met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// Of the one met last: during an upgrade two are true.
    pub release: Option<Arc<str>>,
    pub chart: Option<Arc<str>>,
    /// Labels that all of them have with the same value.
    pub labels: Box<[Label]>,
    last_ns: u64,
    /// Hashes of their names.
    replicas: HashSet<u64, FixedState>,
}

impl Met {
    /// Different pods or containers met so far; those that are gone included, up to a bound of 1,000.
    pub fn replicas_seen(&self) -> usize {
        self.replicas.len()
    }

    fn merge(&mut self, other: &Met) {
        // Which comes first does not matter: the later one wins, and of equals the greater.
        if (other.last_ns, &other.release, &other.chart) > (self.last_ns, &self.release, &self.chart) {
            (self.last_ns, self.release, self.chart) = (other.last_ns, other.release.clone(), other.chart.clone());
        }
        self.labels = common(&self.labels, &other.labels);
        for replica in &other.replicas {
            if self.replicas.len() < REPLICAS_MAX {
                self.replicas.insert(*replica);
            }
        }
    }
}

/// The workloads of one worker, or of all.
#[derive(Clone, Debug, Default)]
pub struct Workloads {
    met: HashMap<Workload, Arc<Met>>,
    /// How often a workload had no place.
    left_out: u64,
}

impl Workloads {
    /// A party was at an end of a connection. Those without a pod, a container or a release are no workloads of this kind.
    pub fn meet(&mut self, party: &Party, now_ns: u64) {
        let instance = party.instance.as_deref();
        let name = instance.and_then(|instance| instance.pod.as_ref().or(instance.container_id.as_ref()));
        if name.is_none() && party.release.is_none() {
            return;
        }
        let labels = instance.map_or::<&[Label], _>(&[], |instance| &instance.labels);
        let replica = name.map(|name| FixedState::default().hash_one(name));
        let Some(met) = self.met.get_mut(&party.workload) else {
            if self.met.len() >= WORKLOADS_MAX {
                self.left_out += 1;
                return;
            }
            let (release, chart) = (party.release.clone(), party.chart.clone());
            let met = Met { release, chart, labels: labels.into(), last_ns: now_ns, replicas: replica.into_iter().collect() };
            self.met.insert(party.workload.clone(), Arc::new(met));
            return;
        };
        let is_known = replica.is_none_or(|replica| met.replicas.contains(&replica) || met.replicas.len() >= REPLICAS_MAX);
        let is_same = (&met.release, &met.chart) == (&party.release, &party.chart) && common(&met.labels, labels) == met.labels;
        if is_known && is_same {
            return;
        }
        // Copied where the last report still holds it.
        let met = Arc::make_mut(met);
        (met.release, met.chart, met.last_ns) = (party.release.clone(), party.chart.clone(), now_ns);
        if instance.is_some() {
            met.labels = common(&met.labels, labels);
        }
        met.replicas.extend(replica.filter(|_| !is_known));
    }

    /// Adds what another worker met.
    pub fn merge(&mut self, other: Workloads) {
        self.left_out += other.left_out;
        for (workload, met) in other.met {
            match self.met.get_mut(&workload) {
                Some(known) => Arc::make_mut(known).merge(&met),
                None => drop(self.met.insert(workload, met)),
            }
        }
    }

    /// All of them, sorted by workload.
    pub fn sorted(&self) -> Vec<(&Workload, &Met)> {
        let mut all: Vec<_> = self.met.iter().map(|(workload, met)| (workload, &**met)).collect();
        all.sort_unstable_by_key(|(workload, _)| *workload);
        all
    }

    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

/// The labels of `known` that are among `others`, too.
fn common(known: &[Label], others: &[Label]) -> Box<[Label]> {
    known.iter().filter(|label| others.contains(label)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Instance,
        service_map::fixtures::{party, pod_party},
    };

    fn replica(workload: &str, pod: &str, chart: &str, labels: &[(&str, &str)]) -> Party {
        let labels = labels.iter().map(|(key, value)| (Arc::from(*key), Arc::from(*value))).collect();
        let instance = Instance { pod: Some(pod.into()), labels, ..Instance::default() };
        let release = (!chart.is_empty()).then(|| Arc::from("shop"));
        let chart = (!chart.is_empty()).then(|| Arc::from(chart));
        Party { release, chart, instance: Some(Arc::new(instance)), ..pod_party("shop", workload) }
    }

    #[test]
    fn replicas_are_counted_once_each_and_the_last_ones_chart_is_shown() {
        let mut workloads = Workloads::default();
        for (pod, chart, version) in
            [("cart-1", "shop-1.0", "1"), ("cart-2", "shop-1.0", "1"), ("cart-1", "shop-1.0", "1"), ("cart-3", "shop-1.1", "2")]
        {
            workloads.meet(&replica("cart", pod, chart, &[("part-of", "shop"), ("version", version)]), 5);
        }
        let all = workloads.sorted();
        let (workload, met) = all[0];
        assert_eq!((all.len(), &*workload.name, met.replicas_seen(), met.chart.as_deref()), (1, "cart", 3, Some("shop-1.1")));
        assert_eq!(*met.labels, [("part-of".into(), "shop".into())], "the versions differ");
    }

    #[test]
    fn what_has_no_pod_container_or_release_is_left_alone() {
        let mut workloads = Workloads::default();
        workloads.meet(&party("curl"), 1);
        workloads.meet(&pod_party("shop", "cart"), 1);
        assert!(workloads.sorted().is_empty());
    }

    #[test]
    fn workers_are_joined_in_any_order() {
        let worker = |meetings: &[(&str, &str, u64)]| {
            let mut workloads = Workloads::default();
            meetings.iter().for_each(|(pod, chart, at_ns)| workloads.meet(&replica("cart", pod, chart, &[("a", pod), ("b", "b")]), *at_ns));
            workloads
        };
        let workers = [worker(&[("1", "shop-1", 10), ("2", "shop-1", 20)]), worker(&[("2", "shop-2", 15)]), worker(&[("3", "shop-3", 30)])];
        let join = |order: [usize; 3]| {
            let mut all = Workloads::default();
            order.into_iter().for_each(|worker| all.merge(workers[worker].clone()));
            all.sorted().into_iter().map(|(workload, met)| (workload.clone(), met.clone())).collect::<Vec<_>>()
        };
        let joined = join([0, 1, 2]);
        assert_eq!((joined[0].1.replicas_seen(), joined[0].1.chart.as_deref(), joined[0].1.labels.len()), (3, Some("shop-3"), 1));
        for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            assert_eq!(join(order), joined);
        }
    }

    #[test]
    fn both_tables_are_bounded_and_what_has_no_place_is_counted() {
        let mut workloads = Workloads::default();
        for n in 0..3 * REPLICAS_MAX {
            workloads.meet(&replica("cart", &format!("cart-{n}"), "", &[]), 1);
        }
        assert_eq!(workloads.sorted()[0].1.replicas_seen(), REPLICAS_MAX);
        (1..WORKLOADS_MAX + 7).for_each(|n| workloads.meet(&replica(&format!("job-{n}"), "x", "", &[]), 1));
        assert_eq!((workloads.sorted().len(), workloads.left_out()), (WORKLOADS_MAX, 7));
    }
}
