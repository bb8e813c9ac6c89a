//! Services and their endpoints: the writer's side. An EndpointSlice may come before its Service, and both before their pods.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use arc_swap::ArcSwap;

use super::{
    health::Kind,
    objects::{ServiceObject, SliceObject},
    store::{Backend, Front, Service, Standing, Transport, address_key, port_key, uid_key},
    writer::{Moment, Writer},
};
use crate::model::{Remote, Workload, WorkloadKind};

/// A slice of the API has at most 1,000 endpoints, and 100 ports.
const ENDPOINTS_MAX: usize = 1_000;
const PORTS_MAX: usize = 100;

/// All Services, those of which only endpoints were seen among them.
#[derive(Default)]
pub struct Registry {
    entries: HashMap<(Arc<str>, Arc<str>), Entry>,
    /// By the uid of the Service, and of the slice.
    by_uid: HashMap<u128, Arc<Service>>,
    slices: HashMap<u128, Slice>,
    /// To be looked at again.
    marked: HashSet<(Arc<str>, Arc<str>)>,
    /// The last number given to a Service.
    number: u128,
    /// All slices were listed once: a Service without has no endpoints.
    knows_all_slices: bool,
}

struct Entry {
    number: u128,
    service: Arc<Service>,
    /// 0 while the Service itself is not known.
    uid: u128,
    is_headless: bool,
    is_alias: bool,
    fronts: Vec<(u128, Arc<Front>)>,
    node_ports: Vec<(u128, Arc<Front>)>,
    slices: Vec<u128>,
}

struct Slice {
    service: Arc<Service>,
    endpoints: Box<[Known]>,
    ports: Box<[(u16, Transport)]>,
}

#[derive(Clone, Copy, PartialEq)]
struct Known {
    address: u128,
    uid: u128,
    is_ready: bool,
    is_local: bool,
}

impl Registry {
    pub fn mark(&mut self, service: &Service) {
        self.marked.insert(key(service));
    }

    pub fn service_uids(&self) -> Vec<u128> {
        self.by_uid.keys().copied().collect()
    }

    pub fn slice_uids(&self) -> Vec<u128> {
        self.slices.keys().copied().collect()
    }
}

fn key(service: &Service) -> (Arc<str>, Arc<str>) {
    (Arc::clone(&service.namespace), Arc::clone(&service.name))
}

impl Writer {
    /// The Service of this name, made if there is none yet.
    fn service(&mut self, namespace: &str, name: &str) -> Arc<Service> {
        let (namespace, name) = (self.strings.text(namespace), self.strings.text(name));
        let key = (Arc::clone(&namespace), Arc::clone(&name));
        if let Some(entry) = self.services.entries.get(&key) {
            return Arc::clone(&entry.service);
        }
        let standing = ArcSwap::from_pointee(Standing::unknown(&namespace, &name));
        let service = Arc::new(Service { namespace, name, standing });
        self.services.number += 1;
        let number = self.services.number;
        let entry = Entry {
            number,
            service: Arc::clone(&service),
            uid: 0,
            is_headless: false,
            is_alias: false,
            fronts: Vec::new(),
            node_ports: Vec::new(),
            slices: Vec::new(),
        };
        self.services.entries.insert(key, entry);
        self.cluster.services.insert(number, Arc::clone(&service));
        service
    }

    /// A Service as it is now. `false`: it makes no sense.
    pub fn put_service(&mut self, object: &ServiceObject, now: Moment) -> bool {
        let (meta, spec) = (&object.metadata, &object.spec);
        let Some(uid) = uid_key(&meta.uid).filter(|_| !meta.name.is_empty()) else { return false };
        let service = self.service(&meta.namespace, &meta.name);
        // The watch may tell of a Service of the same name before it tells that the old one is gone.
        let old = self.services.entries.get(&key(&service)).map_or(0, |entry| entry.uid);
        if old != 0 && old != uid {
            self.remove_service(old);
            return self.put_service(object, now);
        }
        let is_alias = spec.kind.as_deref() == Some("ExternalName");
        let since_ns = meta.creation_timestamp.as_deref().and_then(|created| now.just_before(created)).unwrap_or_default();
        let own: Vec<u128> = addresses(spec.cluster_ips.iter().chain(&spec.cluster_ip)).collect();
        let balanced = object.status.load_balancer.ingress.iter().filter_map(|ingress| ingress.ip.as_ref());
        let shared: Vec<u128> = addresses(spec.external_ips.iter().chain(balanced)).filter(|address| !own.contains(address)).collect();
        let is_headless = !is_alias && own.is_empty();
        let (mut fronts, mut node_ports) = (Vec::new(), Vec::new());
        let front =
            |port, transport, is_exclusive| Arc::new(Front { port, transport, since_ns, is_exclusive, service: Arc::clone(&service) });
        for port in spec.ports.iter().take(PORTS_MAX).filter(|_| !is_alias) {
            let Some(transport) = Transport::new(port.protocol.as_deref()) else { continue };
            fronts.extend(own.iter().map(|address| (*address, front(port.port, transport, true))));
            fronts.extend(shared.iter().map(|address| (*address, front(port.port, transport, false))));
            if let Some(node_port) = port.node_port.filter(|port| *port != 0) {
                node_ports.push((port_key(node_port, transport), front(node_port, transport, true)));
            }
        }
        self.replace_fronts(&service, fronts, node_ports);
        if let Some(entry) = self.services.entries.get_mut(&key(&service)) {
            (entry.uid, entry.is_headless, entry.is_alias) = (uid, is_headless, is_alias);
        }
        let is_new = self.services.by_uid.insert(uid, Arc::clone(&service)).is_none();
        self.count(Kind::Services, i64::from(is_new));
        self.services.mark(&service);
        true
    }

    fn replace_fronts(&mut self, service: &Arc<Service>, fronts: Vec<(u128, Arc<Front>)>, node_ports: Vec<(u128, Arc<Front>)>) {
        let Some(entry) = self.services.entries.get_mut(&key(service)) else { return };
        if same(&entry.fronts, &fronts) && same(&entry.node_ports, &node_ports) {
            return;
        }
        let old = std::mem::replace(&mut entry.fronts, fronts.clone());
        let old_ports = std::mem::replace(&mut entry.node_ports, node_ports.clone());
        let touched: HashSet<u128> = old.iter().chain(&fronts).map(|(address, _)| *address).collect();
        for address in touched {
            self.change_address(address, |record| {
                let others = record.fronts.iter().filter(|front| !Arc::ptr_eq(&front.service, service)).cloned();
                let own = fronts.iter().filter(|(own, _)| *own == address).map(|(_, front)| Arc::clone(front));
                record.fronts = others.chain(own).collect();
            });
        }
        for (key, _) in old_ports {
            if self.cluster.node_ports.get(key).is_some_and(|front| Arc::ptr_eq(&front.service, service)) {
                self.cluster.node_ports.remove(key);
            }
        }
        for (key, front) in node_ports {
            self.cluster.node_ports.insert(key, front);
        }
        self.changed = true;
    }

    pub fn remove_service(&mut self, uid: u128) {
        let Some(service) = self.services.by_uid.remove(&uid) else { return };
        self.replace_fronts(&service, Vec::new(), Vec::new());
        if let Some(entry) = self.services.entries.get_mut(&key(&service)) {
            entry.uid = 0;
        }
        self.count(Kind::Services, -1);
        self.services.mark(&service);
    }

    /// Endpoints of a Service as they are now. `false`: they make no sense.
    pub fn put_slice(&mut self, object: &SliceObject) -> bool {
        let meta = &object.metadata;
        let Some(uid) = uid_key(&meta.uid) else { return false };
        // A slice without is somebody's own, and no Service's.
        let Some(name) = meta.labels.get("kubernetes.io/service-name").filter(|name| !name.is_empty()) else {
            self.remove_slice(uid);
            return true;
        };
        let service = self.service(&meta.namespace, name);
        let ports = object.ports.iter().take(PORTS_MAX);
        let ports: Box<[_]> = ports.filter_map(|port| Some((port.port.unwrap_or(0), Transport::new(port.protocol.as_deref())?))).collect();
        let mut endpoints = Vec::with_capacity(object.endpoints.len());
        for endpoint in object.endpoints.iter().take(ENDPOINTS_MAX) {
            let pod = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod");
            let known = Known {
                address: 0,
                uid: pod.and_then(|pod| uid_key(&pod.uid)).unwrap_or_default(),
                is_ready: endpoint.conditions.ready != Some(false),
                is_local: self.node_name.is_some() && endpoint.node() == self.node_name.as_deref(),
            };
            endpoints.extend(addresses(&endpoint.addresses).map(|address| Known { address, ..known }));
        }
        let slice = Slice { service: Arc::clone(&service), endpoints: endpoints.into(), ports };
        self.replace_slice(uid, Some(slice));
        true
    }

    pub fn remove_slice(&mut self, uid: u128) {
        self.replace_slice(uid, None);
    }

    fn replace_slice(&mut self, uid: u128, new: Option<Slice>) {
        let old = self.services.slices.remove(&uid);
        let mut touched = HashSet::new();
        let is_same = |old: &Slice, new: &Slice| Arc::ptr_eq(&old.service, &new.service) && old.ports == new.ports;
        match (&old, &new) {
            // Most changes are of one endpoint among many.
            (Some(old), Some(new)) if is_same(old, new) => {
                let places = |slice: &Slice| slice.endpoints.iter().map(|known| (known.address, known.uid)).collect::<HashSet<_>>();
                touched.extend(places(old).symmetric_difference(&places(new)).map(|(address, _)| *address));
            }
            _ => touched.extend(old.iter().chain(&new).flat_map(|slice| slice.endpoints.iter().map(|known| known.address))),
        }
        let is_counted = old.is_some();
        let moved = old.as_ref().filter(|old| new.as_ref().is_none_or(|new| !Arc::ptr_eq(&old.service, &new.service)));
        if let Some(entry) = moved.and_then(|old| self.services.entries.get_mut(&key(&old.service))) {
            entry.slices.retain(|slice| *slice != uid);
        }
        let mut services: Vec<Arc<Service>> = old.iter().map(|slice| Arc::clone(&slice.service)).collect();
        self.count(Kind::EndpointSlices, i64::from(new.is_some()) - i64::from(is_counted));
        if let Some(new) = new {
            services.push(Arc::clone(&new.service));
            if let Some(entry) = self.services.entries.get_mut(&key(&new.service)).filter(|entry| !entry.slices.contains(&uid)) {
                entry.slices.push(uid);
            }
            self.services.slices.insert(uid, new);
        }
        services.dedup_by(|a, b| Arc::ptr_eq(a, b));
        for service in services {
            for address in &touched {
                let backends = self.backends(&service, *address);
                self.change_address(*address, |record| {
                    let others = record.backends.iter().filter(|backend| !Arc::ptr_eq(&backend.service, &service)).cloned();
                    record.backends = others.chain(backends).collect();
                });
            }
            self.services.mark(&service);
        }
        self.changed |= !touched.is_empty();
    }

    /// All ports at which an address is an endpoint of the Service.
    fn backends(&self, service: &Arc<Service>, address: u128) -> Vec<Backend> {
        let mut backends: Vec<Backend> = Vec::new();
        for slice in self.services.slices_of(service) {
            for known in slice.endpoints.iter().filter(|known| known.address == address) {
                for (port, transport) in slice.ports.iter().copied() {
                    let same = |own: &Backend| own.port == port && own.transport == transport && own.uid == known.uid;
                    if !backends.iter().any(same) {
                        backends.push(Backend { port, transport, uid: known.uid, service: Arc::clone(service) });
                    }
                }
            }
        }
        backends
    }

    /// All slices were listed.
    pub fn know_all_slices(&mut self) {
        if !std::mem::replace(&mut self.services.knows_all_slices, true) {
            self.services.marked.extend(self.services.entries.keys().cloned());
        }
    }

    /// Who stands behind the Services of which something changed.
    pub(super) fn settle_services(&mut self) {
        for name in std::mem::take(&mut self.services.marked) {
            let Some(entry) = self.services.entries.get(&name) else { continue };
            if entry.uid == 0 && entry.slices.is_empty() {
                self.cluster.services.remove(entry.number);
                self.services.entries.remove(&name);
                self.changed = true;
                continue;
            }
            let standing = self.standing(entry);
            if *entry.service.standing.load_full() != standing {
                entry.service.standing.store(Arc::new(standing));
                self.changed = true;
            }
        }
    }

    fn standing(&self, entry: &Entry) -> Standing {
        let ready = || self.services.slices_of(&entry.service).flat_map(|slice| slice.endpoints.iter()).filter(|known| known.is_ready);
        let mut workload = None;
        for known in ready() {
            let pod = self.cluster.pods.get(known.uid).map(|member| member.pod.workload.clone());
            match (pod, &workload) {
                (Some(own), None) => workload = Some(own),
                (Some(own), Some(all)) if own == *all => {}
                _ => {
                    workload = None;
                    break;
                }
            }
        }
        let remote = Remote {
            workload: workload.unwrap_or_else(|| entry.service.workload()),
            service: Some(Arc::clone(&entry.service.name)),
            pod: None,
            is_virtual: true,
            is_unserved: self.services.knows_all_slices && ready().next().is_none(),
        };
        let is_known = entry.uid != 0 && !entry.is_alias;
        let is_local = ready().any(|known| known.is_local);
        Standing { remote: Arc::new(remote), is_headless: entry.is_headless, is_known, is_local }
    }
}

impl Registry {
    fn slices_of(&self, service: &Service) -> impl Iterator<Item = &Slice> {
        let slices = self.entries.get(&key(service)).map_or(&[][..], |entry| &entry.slices);
        slices.iter().filter_map(|uid| self.slices.get(uid))
    }
}

impl Standing {
    fn unknown(namespace: &Arc<str>, name: &Arc<str>) -> Self {
        let workload = Workload::new(WorkloadKind::Service, Arc::clone(name));
        let workload = Workload { namespace: Some(Arc::clone(namespace)), ..workload };
        let remote = Remote { workload, service: Some(Arc::clone(name)), pod: None, is_virtual: true, is_unserved: false };
        Self { remote: Arc::new(remote), is_headless: false, is_known: false, is_local: false }
    }
}

fn same(a: &[(u128, Arc<Front>)], b: &[(u128, Arc<Front>)]) -> bool {
    let parts = |(place, front): &(u128, Arc<Front>)| (*place, front.port, front.transport, front.is_exclusive);
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| parts(a) == parts(b))
}

/// `None` and an empty text, which the API writes for no address, are none.
fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> impl Iterator<Item = u128> {
    let mut found: Vec<u128> = texts.into_iter().filter_map(|text| text.parse::<IpAddr>().ok()).map(address_key).collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter()
}
