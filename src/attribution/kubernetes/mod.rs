//! What a Kubernetes cluster says of pods, services and addresses: a slim copy of it, kept by a watch, read without locks.
//! Knows nothing of traffic; an API server that is gone only means that the copy grows old.

mod access;
mod answer;
mod connect;
mod health;
mod labels;
mod objects;
mod services;
mod shards;
mod store;
mod strings;
mod tenure;
mod watch;
mod writer;

use std::path::PathBuf;

pub use access::{Access, Answer, access};
pub use health::{Kind, KindHealth, State, Verb};
pub use store::{Cluster, ServiceState};
pub use watch::watch;

/// Where the cluster is found, and what of it is of interest.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Instead of the pod's service account, `KUBECONFIG` and `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// No cluster to ask is an error.
    pub is_required: bool,
    /// This node, as the cluster calls it.
    pub node_name: Option<String>,
    /// Selectors of pods, as kubectl writes them; empty for all.
    pub pod_labels: String,
    pub pod_fields: String,
    /// Labels and annotations that are kept: whole keys, or prefixes that end with `*`.
    pub labels: Vec<String>,
}
