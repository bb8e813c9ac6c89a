//! Which pods are watched, by their namespace. What is not is neither shown nor counted, and the kernel is told to leave it out.

use std::collections::HashSet;

use crate::{config::Config, model::Process};

/// Namespaces of Kubernetes that are watched; all, unless the settings say otherwise.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Empty for all.
    only: Box<[String]>,
    never: Box<[String]>,
}

/// What the scope says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Watched,
    /// It cannot be told yet, and is left out until then.
    Doubted,
    /// For good: a pod does not change its namespace.
    LeftOut,
}

impl Scope {
    pub fn new(config: &Config) -> Self {
        Self { only: config.namespace.clone().into(), never: config.exclude_namespace.clone().into() }
    }

    /// Everything is watched.
    pub fn is_whole(&self) -> bool {
        self.only.is_empty() && self.never.is_empty()
    }

    /// Of no pod, or of one that is not known yet: watched unless pods are chosen by name.
    pub fn judge(&self, process: Option<&Process>) -> Verdict {
        if self.is_whole() {
            return Verdict::Watched;
        }
        let pod = process.and_then(|process| process.pod.as_deref());
        self.judge_namespace(pod.map(|pod| &*pod.namespace))
    }

    /// The same of a pod of this namespace.
    pub fn judge_namespace(&self, namespace: Option<&str>) -> Verdict {
        let named = |names: &[String], namespace: &str| names.iter().any(|name| name == namespace);
        match namespace {
            Some(namespace) if named(&self.never, namespace) => Verdict::LeftOut,
            Some(namespace) if self.only.is_empty() || named(&self.only, namespace) => Verdict::Watched,
            Some(_) => Verdict::LeftOut,
            None if self.only.is_empty() => Verdict::Watched,
            None => Verdict::Doubted,
        }
    }
}

/// Control groups to be left out by the kernel, or to be forgotten, since they are gone; each is said once.
#[derive(Debug, Default)]
pub struct LeftOut {
    said: HashSet<u64>,
    news: Vec<Leave>,
}

/// What the kernel is told of a control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    Out(u64),
    Forget(u64),
}

/// As many as the kernel's map holds.
const LEFT_OUT_MAX: usize = 16_384;

impl LeftOut {
    pub fn add(&mut self, cgroup_id: u64) {
        if cgroup_id != 0 && self.said.len() < LEFT_OUT_MAX && self.said.insert(cgroup_id) {
            self.news.push(Leave::Out(cgroup_id));
        }
    }

    pub fn forget(&mut self, cgroup_id: u64) {
        if self.said.remove(&cgroup_id) {
            self.news.push(Leave::Forget(cgroup_id));
        }
    }

    /// What is to be said since this was last asked.
    pub fn take(&mut self) -> Vec<Leave> {
        std::mem::take(&mut self.news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_watched_as_the_settings_say() {
        let some = |only: &[&str], never: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            Scope::new(&Config { namespace: list(only), exclude_namespace: list(never), ..Config::default() })
        };
        let is_watched = |scope: &Scope, namespace| scope.judge_namespace(Some(namespace)) == Verdict::Watched;
        assert!(is_watched(&some(&[], &[]), "shop"));
        assert!(is_watched(&some(&["shop"], &[]), "shop") && !is_watched(&some(&["shop"], &[]), "bank"));
        assert!(!is_watched(&some(&[], &["shop"]), "shop") && is_watched(&some(&[], &["shop"]), "bank"));
        assert!(!is_watched(&some(&["shop"], &["shop"]), "shop"));
    }
}
