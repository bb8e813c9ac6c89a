//! Who stands at an end of a connection: processes, containers, pods, and the workloads that people know them by.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Endpoint;

/// A container as its engine and its cgroup describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct Container {
    /// The full id: 64 hexadecimal digits for the usual engines.
    pub id: String,
    /// docker, containerd, cri-o, podman … as far as the cgroup path tells.
    pub runtime: String,
    /// The engine's name, or that of the pod's specification.
    pub name: Option<String>,
    pub image: Option<String>,
    #[serde(default)]
    pub compose: Option<Compose>,
    /// Of the pod it runs in, as the API server writes it; known from the cgroup's path alone.
    #[serde(default)]
    pub pod_uid: Option<String>,
}

/// The project and service that Docker Compose made a container for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct Compose {
    pub project: String,
    pub service: String,
}

/// A process as it was when it was first needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct Process {
    pub pid: u32,
    pub comm: String,
    /// Path of the executable, where it could be read.
    pub executable: Option<String>,
    /// First word of the command line: what the process calls itself.
    pub command: Option<String>,
    pub container: Option<Container>,
    /// The systemd service of a process in no container, with its suffix: `nginx.service`.
    #[serde(default)]
    pub unit: Option<String>,
    /// What the API server says of the pod of the container.
    #[serde(default)]
    pub pod: Option<Arc<Pod>>,
}

/// A label or annotation of an object: key and value.
pub type Label = (Arc<str>, Arc<str>);

/// A pod, as far as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct Pod {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    /// `None` until it is scheduled.
    pub node: Option<Arc<str>>,
    /// The end of its chain of owners: the Deployment rather than its ReplicaSet. The pod itself where nobody owns it.
    pub workload: Workload,
    /// The Helm release that it belongs to, and the chart.
    pub release: Option<Arc<str>>,
    pub chart: Option<Arc<str>>,
    /// Labels and annotations that the settings let through, by key.
    #[serde(serialize_with = "write_labels", deserialize_with = "read_labels")]
    pub labels: Box<[Label]>,
}

/// As a map.
fn write_labels<S: Serializer>(labels: &[Label], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(labels.iter().map(|(key, value)| (key, value)))
}

/// By way of a tree, which reserves nothing for members that a damaged length promises.
fn read_labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<[Label]>, D::Error> {
    Ok(BTreeMap::deserialize(deserializer)?.into_iter().collect())
}

/// Names a Service of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
pub struct ServiceName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// What the cluster says of an address that is no process of this host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Remote {
    /// A pod's workload, a node; for the address of a Service the Service, or the workload that all of its endpoints belong to.
    pub workload: Workload,
    /// The Service that the address and port are of, or that they are the one endpoint of; of the workload's namespace.
    pub service: Option<Arc<str>>,
    pub pod: Option<Arc<Pod>>,
    /// The address is no host's or pod's: who answers is decided on the way.
    pub is_virtual: bool,
    /// Such a Service has no endpoint that is ready.
    pub is_unserved: bool,
}

/// A connection whose ends were rewritten on its way: both as the server's socket has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Translation {
    pub client: Endpoint,
    pub server: Endpoint,
}

/// What kind of thing a workload's name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    Deployment,
    StatefulSet,
    DaemonSet,
    ReplicaSet,
    CronJob,
    Job,
    /// Another owner of pods, of a kind that Kubernetes itself does not have.
    Controller,
    /// A pod that nobody owns: also those that the node's kubelet keeps by itself.
    Pod,
    /// A Service of Kubernetes, where it is not known which pod answers.
    Service,
    /// A node of the cluster: an address of it that is no pod's.
    Node,
    Container,
    /// A systemd service.
    Unit,
    Process,
    /// Its process is not known, but what its clients call it: a server name of TLS, the name that DNS resolved, a Host header.
    Domain,
    /// Beyond this host, or its process is not known: the name is the address.
    Address,
    /// Everything beyond a bound, folded together.
    Other,
}

impl WorkloadKind {
    pub fn name(self) -> &'static str {
        match self {
            WorkloadKind::Deployment => "deployment",
            WorkloadKind::StatefulSet => "statefulset",
            WorkloadKind::DaemonSet => "daemonset",
            WorkloadKind::ReplicaSet => "replicaset",
            WorkloadKind::CronJob => "cronjob",
            WorkloadKind::Job => "job",
            WorkloadKind::Controller => "controller",
            WorkloadKind::Pod => "pod",
            WorkloadKind::Service => "service",
            WorkloadKind::Node => "node",
            WorkloadKind::Container => "container",
            WorkloadKind::Unit => "unit",
            WorkloadKind::Process => "process",
            WorkloadKind::Domain => "domain",
            WorkloadKind::Address => "address",
            WorkloadKind::Other => "other",
        }
    }
}

/// Who stands at one end of an exchange: what edges are drawn between.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Workload {
    pub name: Arc<str>,
    pub kind: WorkloadKind,
    /// Of Kubernetes; `None` for all that is in no namespace.
    pub namespace: Option<Arc<str>>,
}

impl Workload {
    pub fn new(kind: WorkloadKind, name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), kind, namespace: None }
    }

    /// The pod's workload; else the container's name (or short id); else the systemd service; else comm.
    pub fn of_process(process: &Process) -> Self {
        if let Some(pod) = &process.pod {
            return pod.workload.clone();
        }
        if let Some(container) = &process.container {
            let name = container.name.as_deref().unwrap_or_else(|| container.id.get(..12).unwrap_or(&container.id));
            return Self::new(WorkloadKind::Container, name);
        }
        if let Some(unit) = &process.unit {
            return Self::new(WorkloadKind::Unit, unit.strip_suffix(".service").unwrap_or(unit));
        }
        Self::new(WorkloadKind::Process, process.comm.as_str())
    }

    pub fn of_domain(name: Arc<str>) -> Self {
        Self::new(WorkloadKind::Domain, name)
    }

    pub fn of_address(address: IpAddr) -> Self {
        Self::new(WorkloadKind::Address, address.to_string())
    }
}

/// One end of an edge, or of an exchange.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Party {
    pub workload: Workload,
    pub address: Option<IpAddr>,
    /// Servers only: a client's port changes with every connection.
    pub port: Option<u16>,
    /// Servers only: the Service of Kubernetes that was called, or that the pod is an endpoint of; of the workload's namespace.
    pub service: Option<Arc<str>>,
    /// The Helm release of the workload, and the chart.
    pub release: Option<Arc<str>>,
    pub chart: Option<Arc<str>>,
    /// Which of the workload's pods or containers it is; `None` where all of them are meant.
    pub instance: Option<Arc<Instance>>,
}

impl Party {
    /// Nothing is known but what it is.
    pub fn new(workload: Workload) -> Self {
        Self { workload, address: None, port: None, service: None, release: None, chart: None, instance: None }
    }
}

/// One of a workload's pods or containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instance {
    pub pod: Option<Arc<str>>,
    pub node: Option<Arc<str>>,
    /// The container's name.
    pub container: Option<Arc<str>>,
    pub container_id: Option<Arc<str>>,
    pub image: Option<Arc<str>>,
    pub compose_project: Option<Arc<str>>,
    pub compose_service: Option<Arc<str>>,
    /// The systemd service.
    pub unit: Option<Arc<str>>,
    pub labels: Box<[Label]>,
}

impl Instance {
    /// What a process is of its workload; `None` where it is no more than a process.
    pub fn of_process(process: &Process) -> Option<Self> {
        let container = process.container.as_ref();
        let pod = process.pod.as_deref();
        if container.is_none() && pod.is_none() && process.unit.is_none() {
            return None;
        }
        let text = |text: &String| Arc::from(text.as_str());
        let compose = container.and_then(|container| container.compose.as_ref());
        Some(Self {
            pod: pod.map(|pod| Arc::clone(&pod.name)),
            node: pod.and_then(|pod| pod.node.clone()),
            container: container.and_then(|container| container.name.as_ref()).map(text),
            container_id: container.map(|container| text(&container.id)),
            image: container.and_then(|container| container.image.as_ref()).map(text),
            compose_project: compose.map(|compose| text(&compose.project)),
            compose_service: compose.map(|compose| text(&compose.service)),
            unit: process.unit.as_ref().map(text),
            labels: pod.map(|pod| pod.labels.clone()).unwrap_or_default(),
        })
    }

    /// The same of a pod whose process is not known.
    pub fn of_pod(pod: &Pod) -> Self {
        Self { pod: Some(Arc::clone(&pod.name)), node: pod.node.clone(), labels: pod.labels.clone(), ..Self::default() }
    }
}
