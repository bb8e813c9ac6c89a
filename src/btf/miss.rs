//! What is said where no BTF is to be had: what was looked for and where, what is nearest, what works without, how to get it.

use std::{collections::BTreeSet, fmt, path::Path};

use anyhow::Result;

use super::{Host, Kernel, Source};

/// Names that are listed.
const NEAREST_MAX: usize = 4;
/// Distributions that are listed where nothing is near.
const DISTRIBUTIONS_MAX: usize = 8;

/// A place that was searched and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Searched {
    pub place: String,
    pub outcome: String,
}

impl Searched {
    pub(super) fn failed(path: &Path, error: &anyhow::Error) -> Self {
        let absent = error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        let outcome = if absent { "not there".to_owned() } else { error.root_cause().to_string() };
        Self { place: path.display().to_string(), outcome }
    }

    pub(super) fn damaged(source: &Source, error: &anyhow::Error) -> Self {
        Self { place: source.to_string(), outcome: format!("cannot be used: {error:#}") }
    }

    pub(super) fn without(source: &Source, kernels: usize) -> Self {
        let outcome = match kernels {
            0 => "no kernels in it".to_owned(),
            1 => "1 kernel in it, another one".to_owned(),
            _ => format!("{kernels} kernels in it, not this one"),
        };
        Self { place: source.to_string(), outcome }
    }

    pub(super) fn not_embedded() -> Self {
        Self { place: Source::Embedded.to_string(), outcome: "none was built in".to_owned() }
    }
}

/// No archive has the BTF of the running kernel. Displayed, it is the whole message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Miss {
    /// The name that was looked for, or why there is none.
    pub host: Result<Host, String>,
    pub searched: Vec<Searched>,
    /// The nearest names, the nearest first. They are named, never used.
    pub nearest: Vec<Kernel>,
    /// The distributions that there are where nothing is near.
    pub distributions: Vec<String>,
}

impl Miss {
    pub(super) fn new(host: Result<Host>, searched: Vec<Searched>, kernels: &BTreeSet<Kernel>) -> Self {
        let host = host.map_err(|error| format!("{error:#}"));
        let nearest = host.as_ref().map(|host| nearest(host, kernels)).unwrap_or_default();
        let distributions = kernels.iter().map(|kernel| format!("{} {}", kernel.distribution, kernel.version)).collect::<BTreeSet<_>>();
        let distributions = if nearest.is_empty() { distributions.into_iter().take(DISTRIBUTIONS_MAX).collect() } else { Vec::new() };
        Self { host, searched, nearest, distributions }
    }

    /// The first half of the message: what was looked for, where, and what is nearest.
    pub fn found_instead(&self) -> String {
        let mut text = match &self.host {
            Ok(host) => format!("no BTF for {} (distribution by {})", host.kernel, host.os_release.display()),
            Err(why) => format!("no BTF, as this kernel cannot be named: {why}"),
        };
        let searched = self.searched.iter().map(|it| format!("{} ({})", it.place, it.outcome)).collect::<Vec<_>>();
        text += &if searched.is_empty() { "; no archive was searched".to_owned() } else { format!("; searched: {}", searched.join(", ")) };
        if !self.nearest.is_empty() {
            let names = self.nearest.iter().map(Kernel::to_string).collect::<Vec<_>>();
            text += &format!("; nearest: {}; only the BTF of exactly this kernel is used", names.join(", "));
        } else if !self.distributions.is_empty() {
            text += &format!("; nothing near it: there are {}", self.distributions.join(", "));
        }
        text
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {}", self.found_instead(), without_btf())
    }
}

/// The second half of the message: what works without BTF, and how to get it.
pub fn without_btf() -> &'static str {
    "What works without BTF: --hooks packet --interface NAME (the frames of a network interface; processes are not known there) and \
     remora replay FILE (recordings and captures of tcpdump). How to get BTF: run a kernel built with CONFIG_DEBUG_INFO_BTF=y; or make it \
     from the vmlinux of the kernel's debug package with pahole --btf_encode_detached=FILE and give it as --btf FILE; or make an archive \
     of many kernels with btfhub/minimise.sh, from such files or from a checkout of BTFHub's archive, and give it as --btf-archive PATH. \
     docs/btf.md has each step"
}

/// Kernels of the same distribution and version around this one; then this release under other distributions; then the distribution's
/// other versions. All of this architecture.
fn nearest(host: &Host, kernels: &BTreeSet<Kernel>) -> Vec<Kernel> {
    let (wanted, names) = (&host.kernel, host.names());
    let same_architecture = || kernels.iter().filter(|kernel| kernel.architecture == wanted.architecture);
    let is_version =
        |kernel: &&Kernel| names.iter().any(|name| (&name.distribution, &name.version) == (&kernel.distribution, &kernel.version));
    let around = |mut found: Vec<&Kernel>, most: usize| -> Vec<Kernel> {
        found.sort_by_cached_key(|kernel| kernel.order());
        let order = wanted.order();
        let after = found.partition_point(|kernel| kernel.order() < order);
        // The one before, the one after, and so on outwards.
        let before = found[..after].iter().rev();
        let mut after = found[after..].iter();
        let mut nearest = Vec::new();
        for kernel in before {
            nearest.push(*kernel);
            nearest.extend(after.next());
        }
        nearest.extend(after);
        nearest.into_iter().take(most).cloned().collect()
    };
    let mut nearest = around(same_architecture().filter(is_version).collect(), NEAREST_MAX);
    let elsewhere = same_architecture().filter(|kernel| kernel.release == wanted.release && !is_version(kernel));
    nearest.extend(elsewhere.take(NEAREST_MAX - 1).cloned());
    if nearest.is_empty() {
        let others = same_architecture().filter(|kernel| kernel.distribution == wanted.distribution).collect();
        nearest = around(others, NEAREST_MAX / 2);
    }
    nearest
}
