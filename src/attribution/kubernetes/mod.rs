//! What a Kubernetes cluster says of pods, services and addresses: a slim copy of it, kept by a watch, read without locks.
//! Knows nothing of traffic; an API server that is gone only means that the copy grows old.

use std::{future::Future, path::PathBuf, sync::Arc};

use super::container::ContainerName;
use crate::model::{Endpoint, Pod, Remote};

/// Where the cluster is found, and what of it is of interest.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Instead of the pod's service account, `KUBECONFIG` and `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// Selectors of pods, as kubectl writes them; empty for all.
    pub pod_labels: String,
    pub pod_fields: String,
    /// Labels and annotations that are kept: whole keys, or prefixes that end with `*`.
    pub labels: Vec<String>,
}

/// The slim copy; one for all threads.
#[derive(Debug, Default)]
pub struct Cluster {}

impl Cluster {
    /// Changes whenever an answer may have changed.
    pub fn generation(&self) -> u64 {
        0
    }

    /// The pod of this uid; also of the uid that the node's kubelet gave a static pod.
    pub fn pod(&self, _uid: &str) -> Option<Arc<Pod>> {
        None
    }

    /// What the pod's specification calls the container of this id, and its image.
    pub fn container(&self, _pod_uid: &str, _id: &str) -> Option<Arc<ContainerName>> {
        None
    }

    /// Who had this address at that time, on the clock of the events. Port 0 asks for the address alone: no Service is named.
    pub fn remote(&self, _end: Endpoint, _is_udp: bool, _time_ns: u64) -> Option<Arc<Remote>> {
        None
    }
}

/// Keeps `cluster` as the API server tells, until `shutdown` is ready. Must run on a tokio runtime with I/O and time enabled.
pub async fn watch(_options: Options, _cluster: Arc<Cluster>, shutdown: impl Future<Output = ()>) {
    shutdown.await;
}
