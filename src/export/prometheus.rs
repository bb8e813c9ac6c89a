//! OpenMetrics: the published values as metric families, named after OpenTelemetry's semantic conventions where these exist.
//! Labels name workloads, never addresses or paths. Knows nothing of HTTP.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::RandomState},
    fmt,
    hash::BuildHasher,
    sync::Mutex,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};

use super::Published;
use crate::service_map::{Histogram, edges::OTHER};

pub mod families;
mod sheet;

use families::{ALL, Family, Kind};

/// OpenMetrics 1.0.0, section "Content Type".
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Label sets a family may have before further ones are folded into one whose labels are all "other".
pub const DEFAULT_SERIES_LIMIT: usize = 2_000;

/// Upper bounds of the classic buckets: OpenTelemetry's advice for request durations, and finer ones below, where local traffic lives.
pub const BOUNDS_SECONDS: [f64; 19] =
    [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0];

/// Writes metrics, and remembers which series were let in: a series once shown keeps its place, so no counter ever falls
/// because of others.
#[derive(Debug)]
pub struct Metrics {
    limit: usize,
    admitted: Mutex<Admitted>,
}

/// Hashes of the label sets let in, by family name: the sets themselves would be megabytes.
#[derive(Debug, Default)]
struct Admitted {
    sets: HashMap<&'static str, HashSet<u64>>,
    hasher: RandomState,
}

/// Label values in the order of the family's label names, those of the optional ones last.
type Labels = Vec<String>;

impl Default for Metrics {
    fn default() -> Self {
        Self::new(DEFAULT_SERIES_LIMIT)
    }
}

impl Metrics {
    /// At most `limit` label sets per family, and one more for the rest.
    pub fn new(limit: usize) -> Self {
        Self { limit, admitted: Mutex::default() }
    }

    /// The whole exposition, `# EOF` included.
    ///
    /// # Errors
    /// None in practice: writing into a string does not fail.
    pub fn encode(&self, published: &Published) -> Result<String, fmt::Error> {
        // A poisoned lock guards a set that is whole after every insertion.
        let mut admitted = self.admitted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut page = Page { limit: self.limit, admitted: &mut admitted, values: BTreeMap::new(), folded: BTreeMap::new() };
        sheet::fill(&mut page, published);
        // As many as there are families, so never folded themselves.
        let folded = page.folded.iter().map(|(family, sets)| (vec![(*family).to_owned()], Measure::Counter(sets.len() as u64)));
        let folded: BTreeMap<_, _> = folded.collect();
        if !folded.is_empty() {
            page.values.insert(families::SELF_FOLDED_SERIES.name, folded);
        }
        let values = page.values;
        drop(admitted);

        let mut registry = Registry::default();
        registry.register_collector(Box::new(Sheet(values)));
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(out)
    }
}

/// A value under a label set; equal label sets are added up.
#[derive(Debug)]
enum Measure {
    Counter(u64),
    /// A counter in seconds.
    Seconds(f64),
    Gauge(f64),
    Histogram(Histogram),
    /// A gauge or an info: 1, however often it is said.
    One,
}

impl Measure {
    fn add(&mut self, other: Measure) {
        match (self, other) {
            (Measure::Counter(own), Measure::Counter(other)) => *own += other,
            (Measure::Seconds(own), Measure::Seconds(other)) | (Measure::Gauge(own), Measure::Gauge(other)) => *own += other,
            (Measure::Histogram(own), Measure::Histogram(other)) => own.merge(&other),
            (own, other) => *own = other,
        }
    }
}

type Values = BTreeMap<&'static str, BTreeMap<Labels, Measure>>;

/// The values of one scrape while they are collected.
struct Page<'a> {
    limit: usize,
    admitted: &'a mut Admitted,
    values: Values,
    /// The label sets that had to share the overflow series.
    folded: BTreeMap<&'static str, HashSet<u64>>,
}

impl Page<'_> {
    /// The labels must be those of the family; of the optional ones the last may be missing.
    fn add(&mut self, family: &'static Family, mut labels: Labels, measure: Measure) {
        let most = family.labels.len() + family.optional.len();
        debug_assert!((family.labels.len()..=most).contains(&labels.len()), "{}", family.name);
        labels.resize(most, String::new());
        let set = self.admitted.hasher.hash_one(&labels);
        let admitted = self.admitted.sets.entry(family.name).or_default();
        let own_place = admitted.contains(&set) || (admitted.len() < self.limit && admitted.insert(set));
        if !own_place {
            self.folded.entry(family.name).or_default().insert(set);
            labels = vec![OTHER.to_owned(); family.labels.len()];
            labels.resize(most, String::new());
        }
        match self.values.entry(family.name).or_default().entry(labels) {
            std::collections::btree_map::Entry::Occupied(mut known) => known.get_mut().add(measure),
            std::collections::btree_map::Entry::Vacant(place) => drop(place.insert(measure)),
        }
    }
}

/// The values of one scrape, written in the order of [`ALL`].
#[derive(Debug)]
struct Sheet(Values);

impl Collector for Sheet {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in ALL {
            let Some(values) = self.0.get(family.name) else { continue };
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
                Kind::Info => MetricType::Info,
            };
            let mut encoder = encoder.encode_descriptor(family.name, family.help, family.unit.as_ref(), kind)?;
            for (values, measure) in values {
                let names = family.labels.iter().map(|name| (*name, true)).chain(family.optional.iter().map(|name| (*name, false)));
                let shown = names.zip(values).filter(|((_, always), value)| *always || !value.is_empty());
                let labels: Vec<(&str, &str)> = shown.map(|((name, _), value)| (name, value.as_str())).collect();
                if family.kind == Kind::Info {
                    encoder.encode_info(&labels)?;
                    continue;
                }
                let mut encoder = encoder.encode_family(&labels)?;
                let no_exemplar = None::<&Exemplar<Vec<(&str, &str)>, f64>>;
                match measure {
                    Measure::Counter(count) => encoder.encode_counter(count, no_exemplar)?,
                    Measure::Seconds(seconds) => encoder.encode_counter(seconds, no_exemplar)?,
                    Measure::Gauge(value) => encoder.encode_gauge(value)?,
                    Measure::One => encoder.encode_gauge(&1i64)?,
                    Measure::Histogram(histogram) => {
                        let (sum_seconds, buckets) = classic(histogram);
                        encoder.encode_histogram::<Vec<(&str, &str)>>(sum_seconds, histogram.count(), &buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Sum and classic buckets; each bucket holds its own values only, the encoder adds them up.
fn classic(histogram: &Histogram) -> (f64, Vec<(f64, u64)>) {
    let mut before = 0;
    let mut buckets: Vec<_> = BOUNDS_SECONDS
        .iter()
        .zip(histogram.cumulative(&BOUNDS_SECONDS))
        .map(|(bound, cumulative)| (*bound, cumulative - std::mem::replace(&mut before, cumulative)))
        .collect();
    buckets.push((f64::INFINITY, histogram.count() - before));
    (histogram.sum_ns() as f64 / 1e9, buckets)
}

#[cfg(test)]
mod tests;
