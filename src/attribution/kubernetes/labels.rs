//! Which labels and annotations of a pod are shown, and what they say of Helm.

use super::{objects::Meta, strings::Strings};
use crate::model::Label;

/// A pod shows no more.
const SHOWN_MAX: usize = 32;

/// The allow-list: whole keys, or prefixes that end with `*`.
pub struct Labels {
    keys: Vec<String>,
    prefixes: Vec<String>,
}

impl Labels {
    pub fn new(allowed: &[String]) -> Self {
        let (prefixes, keys): (Vec<_>, Vec<_>) = allowed.iter().partition(|key| key.ends_with('*'));
        let prefixes = prefixes.into_iter().map(|prefix| prefix.trim_end_matches('*').to_owned()).collect();
        Self { keys: keys.into_iter().cloned().collect(), prefixes }
    }

    /// By key; a label hides an annotation of the same key.
    pub fn shown(&self, meta: &Meta, strings: &mut Strings) -> Box<[Label]> {
        let annotations = meta.annotations.iter().filter(|(key, _)| !meta.labels.contains_key(*key));
        let mut shown: Vec<_> = meta.labels.iter().chain(annotations).filter(|(key, _)| self.allows(key)).collect();
        shown.sort_unstable();
        shown.truncate(SHOWN_MAX);
        shown.into_iter().map(|(key, value)| (strings.text(key), strings.text(value))).collect()
    }

    fn allows(&self, key: &str) -> bool {
        self.keys.iter().any(|allowed| allowed == key) || self.prefixes.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    /// Helm annotates what it installs; pods carry only what the chart's templates give them: the labels that Helm recommends, or
    /// those of charts before Helm 3.
    pub fn release<'a>(&self, meta: &'a Meta) -> Option<&'a str> {
        let label = |key: &str| meta.labels.get(key).map(String::as_str).filter(|value| !value.is_empty());
        let annotated = meta.annotations.get("meta.helm.sh/release-name").map(String::as_str).filter(|value| !value.is_empty());
        let recommended = || label("app.kubernetes.io/instance").filter(|_| label("app.kubernetes.io/managed-by") == Some("Helm"));
        let old = || label("release").filter(|_| matches!(label("heritage"), Some("Helm" | "Tiller")));
        annotated.or_else(recommended).or_else(old)
    }

    /// `redis-17.3.2`.
    pub fn chart<'a>(&self, meta: &'a Meta) -> Option<&'a str> {
        let old =
            || meta.label_or_annotation("chart").filter(|_| meta.labels.contains_key("heritage") || meta.labels.contains_key("release"));
        meta.label_or_annotation("helm.sh/chart").or_else(old)
    }
}
