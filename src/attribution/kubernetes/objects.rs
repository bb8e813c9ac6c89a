//! The objects of the API as far as they are used (Kubernetes API reference, v1.20 to v1.34). Everything else is passed over while
//! it is read.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// ObjectMeta.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub resource_version: String,
    pub creation_timestamp: Option<String>,
    pub deletion_timestamp: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub owner_references: Vec<Owner>,
}

impl Meta {
    pub fn label_or_annotation(&self, key: &str) -> Option<&str> {
        self.labels.get(key).or_else(|| self.annotations.get(key)).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The owner that keeps the object; also the CronJob of a Job that was started by hand (`kubectl create job --from=cronjob/…`), which
    /// older versions of kubectl do not mark as one.
    pub fn controller(&self) -> Option<&Owner> {
        let by_hand = || match &*self.owner_references {
            [owner] if owner.kind == "CronJob" => Some(owner),
            _ => None,
        };
        self.owner_references.iter().find(|owner| owner.controller).or_else(by_hand)
    }
}

/// OwnerReference.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    pub kind: String,
    pub name: String,
    pub uid: String,
    #[serde(deserialize_with = "nullable")]
    pub controller: bool,
}

/// An object of which the metadata is enough: PartialObjectMetadata.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MetaObject {
    pub metadata: Meta,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodObject {
    pub metadata: Meta,
    pub spec: PodSpec,
    pub status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    pub node_name: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub host_network: bool,
    #[serde(deserialize_with = "nullable")]
    pub containers: Vec<ContainerSpec>,
    #[serde(deserialize_with = "nullable")]
    pub init_containers: Vec<ContainerSpec>,
    #[serde(deserialize_with = "nullable")]
    pub ephemeral_containers: Vec<ContainerSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub image: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    pub phase: Option<String>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pub pod_ips: Vec<PodIp>,
    #[serde(rename = "hostIP")]
    pub host_ip: Option<String>,
    pub start_time: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "nullable")]
    pub init_container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "nullable")]
    pub ephemeral_container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodIp {
    pub ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub image: String,
    /// `containerd://` and 64 hexadecimal digits.
    #[serde(rename = "containerID")]
    pub container_id: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub state: ContainerState,
    #[serde(deserialize_with = "nullable")]
    pub last_state: ContainerState,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    pub running: Option<Run>,
    pub terminated: Option<Run>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Run {
    pub started_at: Option<String>,
    #[serde(rename = "containerID")]
    pub container_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceObject {
    pub metadata: Meta,
    pub spec: ServiceSpec,
    pub status: ServiceStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs", deserialize_with = "nullable")]
    pub external_ips: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ServicePort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    pub port: u16,
    pub node_port: Option<u16>,
    pub protocol: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    #[serde(deserialize_with = "nullable")]
    pub load_balancer: LoadBalancer,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    #[serde(deserialize_with = "nullable")]
    pub ingress: Vec<Ingress>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ingress {
    pub ip: Option<String>,
}

/// EndpointSlice of discovery.k8s.io, v1 and v1beta1.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SliceObject {
    pub metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Vec<EndpointObject>,
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<SlicePort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointObject {
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub conditions: Conditions,
    pub target_ref: Option<Target>,
    pub node_name: Option<String>,
    /// v1beta1 has the node here.
    #[serde(deserialize_with = "nullable")]
    pub topology: BTreeMap<String, String>,
}

impl EndpointObject {
    pub fn node(&self) -> Option<&str> {
        self.node_name.as_deref().or_else(|| self.topology.get("kubernetes.io/hostname").map(String::as_str))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// Not known counts as ready, as the API says.
    pub ready: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Target {
    pub kind: String,
    pub uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SlicePort {
    /// `None` for all ports.
    pub port: Option<u16>,
    pub protocol: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeObject {
    pub metadata: Meta,
    pub status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<NodeAddress>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    #[serde(rename = "type")]
    pub kind: String,
    pub address: String,
}

/// `null` is the same as absent: Go writes it for empty lists.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
