//! Turns objects of the API into what is known: the one writer of a [`Cluster`]. Knows no network and no clock.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
};

use super::{
    Options,
    health::Kind,
    labels::Labels,
    objects::{ContainerStatus, MetaObject, NodeObject, Owner, PodObject, Run},
    store::{Address, Cluster, ContainerId, DOUBT_NS, Member, NodeName, address_key, container_id, uid_key},
    strings::Strings,
    tenure::{self, Tenure},
};
use crate::{
    attribution::container::ContainerName,
    model::{Pod, Workload, WorkloadKind},
};

/// Who had an address is still known so long after they lost it; pods that are gone are as well.
const HISTORY_NS: u64 = 120_000_000_000;
/// Ends that are remembered at once.
const ENDS_MAX: usize = 16_384;
/// Ends that are remembered of one address.
const TENURES_MAX: usize = 8;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// That of the events: CLOCK_MONOTONIC.
    pub mono_ns: u64,
    /// Since 1970.
    pub unix_ns: u64,
}

impl Moment {
    /// A timestamp of the API (RFC 3339, whole seconds) on the clock of the events, and a second earlier: clocks differ. What was
    /// before the boot is 0.
    pub fn just_before(self, timestamp: &str) -> Option<u64> {
        let timestamp: k8s_openapi::jiff::Timestamp = timestamp.parse().ok()?;
        let age_ns = i128::from(self.unix_ns) - timestamp.as_nanosecond() + 1_000_000_000;
        Some(u64::try_from((i128::from(self.mono_ns) - age_ns).max(0)).unwrap_or(u64::MAX))
    }
}

/// The writer's own knowledge, beside the cluster that it writes.
pub struct Writer {
    pub(super) cluster: Arc<Cluster>,
    pub(super) strings: Strings,
    labels: Labels,
    pub(super) node_name: Option<String>,
    /// ReplicaSets and Jobs by uid, and what they belong to: themselves where nobody keeps them.
    owners: HashMap<u128, (Kind, Workload)>,
    /// Owners of pods that are not known yet, and those that came to be known.
    awaited: HashSet<u128>,
    arrived: HashSet<u128>,
    nodes: HashMap<u128, (NodeName, Vec<u128>)>,
    pub(super) services: super::services::Registry,
    ends: VecDeque<End>,
    pub(super) changed: bool,
}

/// What is to be forgotten in its time.
struct End {
    at_ns: u64,
    what: Ended,
}

enum Ended {
    Pod(u128),
    Tenure(u128),
}

impl Writer {
    pub fn new(cluster: Arc<Cluster>, options: &Options) -> Self {
        Self {
            cluster,
            strings: Strings::default(),
            labels: Labels::new(&options.labels),
            node_name: options.node_name.clone(),
            owners: HashMap::new(),
            awaited: HashSet::new(),
            arrived: HashSet::new(),
            nodes: HashMap::new(),
            services: super::services::Registry::default(),
            ends: VecDeque::new(),
            changed: false,
        }
    }

    /// A pod as it is now. `false`: it makes no sense.
    pub fn put_pod(&mut self, object: &PodObject, now: Moment) -> bool {
        let (meta, status) = (&object.metadata, &object.status);
        let Some(uid) = uid_key(&meta.uid) else { return false };
        let known = self.cluster.pods.get(uid);
        let owner = meta.controller().and_then(|owner| uid_key(&owner.uid)).unwrap_or_default();
        let workload = self.workload_of_pod(object, owner);
        let pod = Pod {
            name: match &known {
                Some(known) => Arc::clone(&known.pod.name),
                None => meta.name.as_str().into(),
            },
            namespace: self.strings.text(&meta.namespace),
            node: object.spec.node_name.as_deref().map(|node| self.strings.text(node)),
            workload,
            release: self.labels.release(meta).map(|release| self.strings.text(release)),
            chart: self.labels.chart(meta).map(|chart| self.strings.text(chart)),
            labels: self.labels.shown(meta, &mut self.strings),
        };
        let is_new = known.as_ref().is_none_or(|known| *known.pod != pod);
        let pod = match &known {
            Some(known) if !is_new => Arc::clone(&known.pod),
            _ => Arc::new(pod),
        };
        let own = status.pod_ips.iter().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
        let mut addresses: Vec<u128> = own.filter_map(|ip| ip.parse().ok()).map(address_key).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let alias = meta.annotations.get("kubernetes.io/config.hash").and_then(|hash| uid_key(hash)).filter(|hash| *hash != uid);
        let member = Arc::new(Member {
            pod: Arc::clone(&pod),
            containers: self.containers_of(object, known.as_deref()),
            addresses: addresses.into(),
            alias: alias.map(Box::new),
            owner,
            heard_ns: known.as_ref().map_or(now.mono_ns, |known| known.heard_ns),
            is_gone: false,
        });
        if let Some(alias) = alias {
            self.cluster.aliases.insert(alias, uid);
        }
        self.cluster.pods.insert(uid, Arc::clone(&member));
        let was_counted = known.as_ref().is_some_and(|known| !known.is_gone);
        self.count(Kind::Pods, 1 - i64::from(was_counted));
        self.keep_tenures(uid, object, &member, known.as_deref(), is_new, now);
        let is_renamed = known.as_ref().is_none_or(|known| known.pod.workload != pod.workload);
        if is_renamed {
            self.mark_services_of(uid, &member);
        }
        self.changed |= is_new || known.is_none_or(|known| known.containers != member.containers || known.addresses != member.addresses);
        true
    }

    /// Begins and ends the pod's hold on addresses.
    fn keep_tenures(&mut self, uid: u128, object: &PodObject, member: &Member, known: Option<&Member>, is_new: bool, now: Moment) {
        let holds = has_addresses(object);
        let (pod, addresses) = (&member.pod, &member.addresses);
        let before = known.map_or(&[][..], |known| &known.addresses);
        for address in before.iter().filter(|address| !addresses.contains(address)) {
            self.end_tenure(*address, uid, now);
        }
        for address in addresses {
            let record = self.cluster.addresses.get(*address);
            let own = |tenure: &&Tenure| tenure.uid == uid && tenure.gone_ns == u64::MAX;
            let current = record.as_ref().and_then(|record| record.tenures.iter().find(own).cloned());
            match current {
                Some(_) if !holds => self.end_tenure(*address, uid, now),
                Some(_) if is_new => self.change_tenures(*address, |tenures| {
                    for tenure in tenures.iter_mut().filter(|tenure| tenure.uid == uid) {
                        tenure.pod = Arc::clone(pod);
                    }
                }),
                None if holds => {
                    let moved = !before.is_empty();
                    let tenure = begin(uid, object, member, moved, now);
                    self.change_tenures(*address, |tenures| tenures.push(tenure));
                    self.changed = true;
                }
                _ => {}
            }
        }
    }

    /// The pod is no more.
    pub fn remove_pod(&mut self, uid: u128, now: Moment) {
        let Some(member) = self.cluster.pods.get(uid).filter(|member| !member.is_gone) else { return };
        for address in &member.addresses {
            self.end_tenure(*address, uid, now);
        }
        // Processes of it are still seen for a while, and asked for.
        self.cluster.pods.insert(uid, Arc::new(Member { is_gone: true, ..Member::clone(&member) }));
        self.ends.push_back(End { at_ns: now.mono_ns, what: Ended::Pod(uid) });
        self.mark_services_of(uid, &member);
        self.count(Kind::Pods, -1);
    }

    fn end_tenure(&mut self, address: u128, uid: u128, now: Moment) {
        let mut ended = false;
        self.change_tenures(address, |tenures| {
            for tenure in tenures.iter_mut().filter(|tenure| tenure.uid == uid && tenure.gone_ns == u64::MAX) {
                tenure.gone_ns = now.mono_ns;
                ended = true;
            }
        });
        if ended {
            self.ends.push_back(End { at_ns: now.mono_ns, what: Ended::Tenure(address) });
            self.changed = true;
        }
    }

    fn change_tenures(&mut self, address: u128, change: impl FnOnce(&mut Vec<Tenure>)) {
        self.change_address(address, |record| {
            let mut tenures = record.tenures.to_vec();
            change(&mut tenures);
            record.tenures = if tenures.len() > TENURES_MAX { tenure::forget(&tenures, 0, TENURES_MAX) } else { tenures }.into();
        });
    }

    /// An address that is known for nothing is not kept.
    pub(super) fn change_address(&mut self, address: u128, change: impl FnOnce(&mut Address)) {
        let mut record = self.cluster.addresses.get(address).as_deref().cloned().unwrap_or_default();
        change(&mut record);
        if record.is_empty() {
            self.cluster.addresses.remove(address);
        } else {
            self.cluster.addresses.insert(address, Arc::new(record));
        }
    }

    fn mark_services_of(&mut self, uid: u128, member: &Member) {
        for address in &member.addresses {
            let Some(record) = self.cluster.addresses.get(*address) else { continue };
            for backend in record.backends.iter().filter(|backend| backend.uid == uid) {
                self.services.mark(&backend.service);
            }
        }
    }

    fn workload_of_pod(&mut self, object: &PodObject, owner_uid: u128) -> Workload {
        let meta = &object.metadata;
        let namespace = self.strings.text(&meta.namespace);
        let owner = meta.controller().filter(|owner| owner.kind != "Node");
        let Some(owner) = owner else {
            let workload = Workload::new(WorkloadKind::Pod, meta.name.as_str());
            return Workload { namespace: Some(namespace), ..workload };
        };
        if matches!(owner.kind.as_str(), "ReplicaSet" | "Job") {
            if let Some((_, workload)) = self.owners.get(&owner_uid) {
                return workload.clone();
            }
            self.awaited.insert(owner_uid);
            // A Deployment names its ReplicaSets so, and labels their pods with the hash.
            let hash = meta.labels.get("pod-template-hash").map(String::as_str).unwrap_or_default();
            let deployment = owner.name.strip_suffix(hash).and_then(|name| name.strip_suffix('-'));
            if let Some(name) = deployment.filter(|name| owner.kind == "ReplicaSet" && !hash.is_empty() && !name.is_empty()) {
                let workload = Workload::new(WorkloadKind::Deployment, self.strings.text(name));
                return Workload { namespace: Some(namespace), ..workload };
            }
        }
        self.workload(owner, namespace)
    }

    fn workload(&mut self, owner: &Owner, namespace: Arc<str>) -> Workload {
        let kind = match owner.kind.as_str() {
            "Deployment" => WorkloadKind::Deployment,
            "StatefulSet" => WorkloadKind::StatefulSet,
            "DaemonSet" => WorkloadKind::DaemonSet,
            "ReplicaSet" => WorkloadKind::ReplicaSet,
            "CronJob" => WorkloadKind::CronJob,
            "Job" => WorkloadKind::Job,
            _ => WorkloadKind::Controller,
        };
        Workload { namespace: Some(namespace), ..Workload::new(kind, self.strings.text(&owner.name)) }
    }

    /// Names and images by id: of what runs, and of what ran before it.
    fn containers_of(&mut self, object: &PodObject, known: Option<&Member>) -> Box<[(ContainerId, Arc<ContainerName>)]> {
        let (spec, status) = (&object.spec, &object.status);
        let statuses =
            || status.init_container_statuses.iter().chain(&status.container_statuses).chain(&status.ephemeral_container_statuses);
        let mut containers = Vec::new();
        for one in statuses() {
            let mut specs = spec.containers.iter().chain(&spec.init_containers).chain(&spec.ephemeral_containers);
            let asked = specs.find(|spec| spec.name == one.name).map(|spec| spec.image.as_str()).filter(|image| !image.is_empty());
            let mut name = None;
            for id in ids(one) {
                let name = name.get_or_insert_with(|| self.strings.container(&one.name, asked.unwrap_or(&one.image)));
                containers.push((id, Arc::clone(name)));
            }
        }
        containers.sort_unstable_by_key(|(id, _)| *id);
        containers.dedup_by_key(|(id, _)| *id);
        match known {
            // The API forgets ids while a container is made anew; its processes may still be asked for.
            Some(known) if containers.is_empty() => known.containers.clone(),
            _ => containers.into(),
        }
    }

    /// A ReplicaSet or Job: only whom it belongs to counts.
    pub fn put_owner(&mut self, kind: Kind, object: &MetaObject) -> bool {
        let Some(uid) = uid_key(&object.metadata.uid) else { return false };
        let meta = &object.metadata;
        let namespace = self.strings.text(&meta.namespace);
        let workload = match meta.controller() {
            Some(owner) => self.workload(owner, namespace),
            None => {
                let own = if kind == Kind::Jobs { WorkloadKind::Job } else { WorkloadKind::ReplicaSet };
                Workload { namespace: Some(namespace), ..Workload::new(own, self.strings.text(&meta.name)) }
            }
        };
        let known = self.owners.insert(uid, (kind, workload.clone()));
        let is_changed = known.as_ref().is_some_and(|(_, known)| *known != workload);
        if self.awaited.remove(&uid) || is_changed {
            self.arrived.insert(uid);
        }
        self.count(kind, i64::from(known.is_none()));
        true
    }

    /// Pods keep the names that they have by it.
    pub fn remove_owner(&mut self, uid: u128) {
        if let Some((kind, _)) = self.owners.remove(&uid) {
            self.count(kind, -1);
        }
    }

    pub fn put_node(&mut self, object: &NodeObject, now: Moment) -> bool {
        let meta = &object.metadata;
        let Some(uid) = uid_key(&meta.uid) else { return false };
        let since_ns = meta.creation_timestamp.as_deref().and_then(|created| now.just_before(created)).unwrap_or_default();
        let node = NodeName { name: self.strings.text(&meta.name), since_ns };
        let counts = |kind: &str| matches!(kind, "InternalIP" | "ExternalIP");
        let addresses = object.status.addresses.iter().filter(|address| counts(&address.kind));
        let mut addresses: Vec<u128> = addresses.filter_map(|own| own.address.parse::<IpAddr>().ok()).map(address_key).collect();
        addresses.sort_unstable();
        addresses.dedup();
        if self.nodes.get(&uid).is_some_and(|(_, known)| *known == addresses) {
            return true;
        }
        self.remove_node(uid);
        for address in &addresses {
            let node = node.clone();
            self.change_address(*address, |record| record.nodes = record.nodes.iter().cloned().chain([node]).collect());
        }
        self.nodes.insert(uid, (node, addresses));
        self.count(Kind::Nodes, 1);
        self.changed = true;
        true
    }

    pub fn remove_node(&mut self, uid: u128) {
        let Some((node, addresses)) = self.nodes.remove(&uid) else { return };
        for address in addresses {
            let mut found = false;
            self.change_address(address, |record| {
                let mut is_another = |other: &&NodeName| {
                    let is_own = !found && Arc::ptr_eq(&other.name, &node.name);
                    found |= is_own;
                    !is_own
                };
                record.nodes = record.nodes.iter().filter(|other| is_another(other)).cloned().collect();
            });
        }
        self.count(Kind::Nodes, -1);
        self.changed = true;
    }

    /// After a list: what it did not have is no more.
    pub fn retain(&mut self, kind: Kind, listed: &HashSet<u128>, now: Moment) {
        for uid in self.uids(kind).into_iter().filter(|uid| !listed.contains(uid)) {
            self.remove(kind, uid, now);
        }
    }

    pub fn remove(&mut self, kind: Kind, uid: u128, now: Moment) {
        match kind {
            Kind::Pods => self.remove_pod(uid, now),
            Kind::Services => self.remove_service(uid),
            Kind::EndpointSlices => self.remove_slice(uid),
            Kind::Nodes => self.remove_node(uid),
            Kind::ReplicaSets | Kind::Jobs => self.remove_owner(uid),
        }
    }

    fn uids(&self, kind: Kind) -> Vec<u128> {
        match kind {
            Kind::Pods => self.cluster.pods.iter().filter(|(_, member)| !member.is_gone).map(|(uid, _)| uid).collect(),
            Kind::Services => self.services.service_uids(),
            Kind::EndpointSlices => self.services.slice_uids(),
            Kind::Nodes => self.nodes.keys().copied().collect(),
            Kind::ReplicaSets | Kind::Jobs => self.owners.iter().filter(|(_, (own, _))| *own == kind).map(|(uid, _)| *uid).collect(),
        }
    }

    /// Draws the conclusions of what was put and removed. To be called after each event, or a page of a list.
    pub fn settle(&mut self, now: Moment) {
        self.name_by_owners();
        self.settle_services();
        self.forget(now);
        self.strings.sweep();
        if std::mem::take(&mut self.changed) {
            self.cluster.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Pods whose owners came to be known after them.
    fn name_by_owners(&mut self) {
        if self.arrived.is_empty() {
            return;
        }
        let arrived = std::mem::take(&mut self.arrived);
        for (uid, member) in self.cluster.pods.iter().filter(|(_, member)| arrived.contains(&member.owner)).collect::<Vec<_>>() {
            let Some((_, workload)) = self.owners.get(&member.owner) else { continue };
            if member.pod.workload == *workload {
                continue;
            }
            let pod = Arc::new(Pod { workload: workload.clone(), ..Pod::clone(&member.pod) });
            let member = Arc::new(Member { pod: Arc::clone(&pod), ..Member::clone(&member) });
            for address in &member.addresses {
                self.change_tenures(*address, |tenures| {
                    for tenure in tenures.iter_mut().filter(|tenure| tenure.uid == uid) {
                        tenure.pod = Arc::clone(&pod);
                    }
                });
            }
            self.mark_services_of(uid, &member);
            self.cluster.pods.insert(uid, member);
            self.changed = true;
        }
    }

    /// Lets go of what is long gone.
    fn forget(&mut self, now: Moment) {
        let horizon_ns = now.mono_ns.saturating_sub(HISTORY_NS);
        while self.ends.front().is_some_and(|end| end.at_ns < horizon_ns || self.ends.len() > ENDS_MAX) {
            let Some(end) = self.ends.pop_front() else { break };
            match end.what {
                Ended::Pod(uid) => {
                    let Some(member) = self.cluster.pods.get(uid).filter(|member| member.is_gone) else { continue };
                    self.cluster.pods.remove(uid);
                    if let Some(alias) = member.alias.as_deref().filter(|alias| self.cluster.aliases.get(**alias) == Some(uid)) {
                        self.cluster.aliases.remove(*alias);
                    }
                }
                Ended::Tenure(address) => self.change_address(address, |record| {
                    record.tenures = tenure::forget(&record.tenures, end.at_ns + 1, TENURES_MAX).into();
                }),
            }
        }
    }

    pub(super) fn count(&self, kind: Kind, difference: i64) {
        let objects = &self.cluster.counters.of(kind).objects;
        match u64::try_from(difference) {
            Ok(more) => objects.fetch_add(more, Ordering::Relaxed),
            Err(_) => objects.fetch_sub(difference.unsigned_abs(), Ordering::Relaxed),
        };
    }
}

impl Address {
    fn is_empty(&self) -> bool {
        self.tenures.is_empty() && self.backends.is_empty() && self.fronts.is_empty() && self.nodes.is_empty()
    }
}

/// Whether the addresses of a pod's status are its own, and still so. Those of its node never are; those of a pod whose containers
/// have all ended for good are given to others before the pod is deleted.
fn has_addresses(object: &PodObject) -> bool {
    let status = &object.status;
    let is_host = object.spec.host_network || (status.pod_ip.is_some() && status.pod_ip == status.host_ip);
    let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let has_ended = |one: &ContainerStatus| one.state.terminated.is_some();
    let is_deleted = object.metadata.deletion_timestamp.is_some();
    let all_ended = !status.container_statuses.is_empty() && status.container_statuses.iter().all(has_ended);
    !(is_host || is_over || (is_deleted && all_ended))
}

fn begin(uid: u128, object: &PodObject, member: &Member, moved: bool, now: Moment) -> Tenure {
    let (meta, status) = (&object.metadata, &object.status);
    let told = status.start_time.as_deref().or(meta.creation_timestamp.as_deref()).and_then(|start| now.just_before(start));
    let earliest_ns = told.unwrap_or_default().min(member.heard_ns);
    let started = |one: &ContainerStatus| one.state.running.as_ref().or(one.state.terminated.as_ref())?.started_at.clone();
    let runs = status.init_container_statuses.iter().chain(&status.container_statuses).filter_map(started);
    let first = runs.filter_map(|started| now.just_before(&started)).min();
    // A pod that got another address ran before it had it.
    let begun_ns = first.filter(|_| !moved).map_or(now.mono_ns, |first| (first + DOUBT_NS).min(now.mono_ns));
    Tenure { pod: Arc::clone(&member.pod), uid, earliest_ns, begun_ns, seen_ns: now.mono_ns, gone_ns: u64::MAX }
}

fn ids(status: &ContainerStatus) -> impl Iterator<Item = ContainerId> {
    let ended = |run: &Option<Run>| run.as_ref().and_then(|run| run.container_id.clone());
    let texts = [status.container_id.clone(), ended(&status.state.terminated), ended(&status.last_state.terminated)];
    texts.into_iter().flatten().filter_map(|text| container_id(text.rsplit_once("://").map_or(text.as_str(), |(_, id)| id)))
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
