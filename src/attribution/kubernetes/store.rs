//! What is known of the cluster, as the threads of the pipeline read it: maps of small immutable pieces.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;

use super::{
    health::{Counters, Health},
    shards::Shards,
    tenure::{self, Tenure},
};
use crate::{
    attribution::container::ContainerName,
    model::{Endpoint, Pod, Remote, Workload, WorkloadKind},
};

/// The API tells moments in whole seconds, and clocks of a cluster are trusted to a second: so far apart are a moment before which
/// something certainly was not and one at which it certainly was.
pub(super) const DOUBT_NS: u64 = 3_000_000_000;

/// The slim copy; one for all threads. There is one writer: whoever watches the API server.
#[derive(Debug, Default)]
pub struct Cluster {
    pub(super) pods: Shards<Arc<Member>>,
    /// The uid of a static pod, as its kubelet made it, and that of the pod that stands for it in the API.
    pub(super) aliases: Shards<u128>,
    pub(super) addresses: Shards<Arc<Address>>,
    /// By port and protocol: see [`port_key`].
    pub(super) node_ports: Shards<Arc<Front>>,
    /// By a number of the writer.
    pub(super) services: Shards<Arc<Service>>,
    pub(super) generation: AtomicU64,
    pub(super) counters: Counters,
    pub(super) health: ArcSwap<Health>,
}

/// A pod and what is needed to answer for it.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub pod: Arc<Pod>,
    pub containers: Box<[(ContainerId, Arc<ContainerName>)]>,
    /// All that its status names, those of the node among them.
    pub addresses: Box<[u128]>,
    pub alias: Option<Box<u128>>,
    /// Of the ReplicaSet or Job that keeps it, else 0.
    pub owner: u128,
    /// When it was first heard of, on the clock of the events.
    pub heard_ns: u64,
    pub is_gone: bool,
}

/// The first half of the 64 hexadecimal digits of a container's id, which are random: twice as many would not tell more apart.
pub(super) type ContainerId = [u8; 16];

/// All that an address is known for.
#[derive(Clone, Debug, Default)]
pub(super) struct Address {
    pub tenures: Box<[Tenure]>,
    pub backends: Box<[Backend]>,
    pub fronts: Box<[Arc<Front>]>,
    /// Nodes that say that it is theirs.
    pub nodes: Box<[NodeName]>,
}

#[derive(Clone, Debug)]
pub(super) struct NodeName {
    pub name: Arc<str>,
    /// As of a front.
    pub since_ns: u64,
}

/// A port at which an address is an endpoint of a Service.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    /// 0 for all ports.
    pub port: u16,
    pub transport: Transport,
    /// The pod that is meant, 0 for none.
    pub uid: u128,
    pub service: Arc<Service>,
}

/// A port at which a Service is called.
#[derive(Debug)]
pub(super) struct Front {
    pub port: u16,
    pub transport: Transport,
    /// The Service certainly did not exist before, on the clock of the events; [`DOUBT_NS`] later it certainly did.
    pub since_ns: u64,
    /// No two Services have the address at once: a ClusterIP.
    pub is_exclusive: bool,
    pub service: Arc<Service>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
    Sctp,
}

/// A Service of the cluster, in one place for all that lead to it.
#[derive(Debug)]
pub(super) struct Service {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub standing: ArcSwap<Standing>,
}

/// What changes about a Service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Standing {
    /// What its virtual addresses answer.
    pub remote: Arc<Remote>,
    pub is_headless: bool,
    /// The Service itself was seen, not only its endpoints; and it is none that only renames a host.
    pub is_known: bool,
    /// One of its endpoints is on this node.
    pub is_local: bool,
}

/// A Service, for those that look for idle ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceState {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub is_headless: bool,
    /// One of its ready endpoints is on this node.
    pub is_local: bool,
    /// It has no endpoint that is ready.
    pub is_unserved: bool,
}

impl Cluster {
    /// Changes whenever an answer may have changed.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The pod of this uid; also of the uid that the node's kubelet gave a static pod.
    pub fn pod(&self, uid: &str) -> Option<Arc<Pod>> {
        Some(Arc::clone(&self.member(uid)?.pod))
    }

    /// What the pod's specification calls the container of this id, and its image.
    pub fn container(&self, pod_uid: &str, id: &str) -> Option<Arc<ContainerName>> {
        let id = container_id(id)?;
        let member = self.member(pod_uid)?;
        let (_, name) = member.containers.iter().find(|(own, _)| *own == id)?;
        Some(Arc::clone(name))
    }

    /// Who had this address at that time, on the clock of the events. Port 0 asks for the address alone: no Service is named.
    pub fn remote(&self, end: Endpoint, is_udp: bool, time_ns: u64) -> Option<Arc<Remote>> {
        let address = self.addresses.get(address_key(end.address))?;
        let transport = if is_udp { Transport::Udp } else { Transport::Tcp };
        if end.port != 0
            && let Some(service) = self.called(&address, end.port, transport, time_ns)?
        {
            return Some(Arc::clone(&service.standing.load().remote));
        }
        if !address.tenures.is_empty() {
            let holder = tenure::holder(&address.tenures, time_ns)?;
            let service = the_service(&address.backends, end.port, transport, holder.uid);
            return Some(Arc::new(Remote {
                workload: holder.pod.workload.clone(),
                service: service.map(|service| Arc::clone(&service.name)),
                pod: Some(Arc::clone(&holder.pod)),
                is_virtual: false,
                is_unserved: false,
            }));
        }
        if let Some(service) = the_service(&address.backends, end.port, transport, 0) {
            let workload = service.workload();
            let service = Some(Arc::clone(&service.name));
            return Some(Arc::new(Remote { workload, service, pod: None, is_virtual: false, is_unserved: false }));
        }
        let [node] = &*address.nodes else { return None };
        if time_ns < node.since_ns {
            return None;
        }
        let workload = Workload::new(WorkloadKind::Node, Arc::clone(&node.name));
        Some(Arc::new(Remote { workload, service: None, pod: None, is_virtual: false, is_unserved: false }))
    }

    /// The Service whose own address and port this is. The outer `None`: it was one's or another's.
    fn called(&self, address: &Address, port: u16, transport: Transport, time_ns: u64) -> Option<Option<Arc<Service>>> {
        let fits = |front: &&Arc<Front>| front.port == port && front.transport == transport && front.since_ns <= time_ns;
        let mut fronts = address.fronts.iter().filter(fits);
        if let Some(first) = fronts.next() {
            let last = fronts.clone().fold(first, |last, front| if front.since_ns > last.since_ns { front } else { last });
            let was_before = |front: &Arc<Front>| front.is_exclusive && last.is_exclusive && front.since_ns + DOUBT_NS <= last.since_ns;
            let is_certain = fronts.next().is_none()
                || (time_ns >= last.since_ns + DOUBT_NS
                    && address.fronts.iter().filter(fits).all(|front| Arc::ptr_eq(&front.service, &last.service) || was_before(front)));
            return is_certain.then(|| Some(Arc::clone(&last.service)));
        }
        let node_port = if address.nodes.is_empty() { None } else { self.node_ports.get(port_key(port, transport)) };
        if let Some(front) = node_port.filter(|front| front.since_ns <= time_ns) {
            return Some(Some(Arc::clone(&front.service)));
        }
        // A port that the Service does not have: nobody answers, and yet it is clear who was meant.
        let own = |front: &&Arc<Front>| front.is_exclusive && front.since_ns <= time_ns;
        let mut owners = address.fronts.iter().filter(own).map(|front| &front.service);
        let Some(owner) = owners.next() else { return Some(None) };
        owners.all(|other| Arc::ptr_eq(owner, other)).then(|| Some(Arc::clone(owner)))
    }

    /// Every Service but those that only rename a host.
    pub fn services(&self) -> Vec<ServiceState> {
        let state = |service: Arc<Service>| {
            let standing = service.standing.load();
            standing.is_known.then(|| ServiceState {
                namespace: Arc::clone(&service.namespace),
                name: Arc::clone(&service.name),
                is_headless: standing.is_headless,
                is_local: standing.is_local,
                is_unserved: standing.remote.is_unserved,
            })
        };
        let mut services: Vec<_> = self.services.iter().filter_map(|(_, service)| state(service)).collect();
        services.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        services
    }

    fn member(&self, uid: &str) -> Option<Arc<Member>> {
        let uid = uid_key(uid)?;
        self.pods.get(uid).or_else(|| self.pods.get(self.aliases.get(uid)?))
    }
}

impl Service {
    /// As one calls it while nobody is known behind it.
    pub fn workload(&self) -> Workload {
        let workload = Workload::new(WorkloadKind::Service, Arc::clone(&self.name));
        Workload { namespace: Some(Arc::clone(&self.namespace)), ..workload }
    }
}

/// The one Service that the pod's (or, with 0, nobody's) address and port are an endpoint of. Of several the one that has an address,
/// if all others are headless: those give the same pods names of their own.
fn the_service(backends: &[Backend], port: u16, transport: Transport, uid: u128) -> Option<&Arc<Service>> {
    if port == 0 {
        return None;
    }
    let fits = |backend: &&Backend| backend.uid == uid && (backend.port == port || backend.port == 0) && backend.transport == transport;
    let mut services = backends.iter().filter(fits).map(|backend| &backend.service);
    let first = services.next()?;
    if services.all(|other| Arc::ptr_eq(first, other)) {
        return Some(first);
    }
    let has_address = |service: &&Arc<Service>| {
        let standing = service.standing.load();
        !(standing.is_known && standing.is_headless)
    };
    let mut with_address = backends.iter().filter(fits).map(|backend| &backend.service).filter(has_address);
    let first = with_address.next()?;
    with_address.all(|other| Arc::ptr_eq(first, other)).then_some(first)
}

impl Transport {
    /// As the API writes it; TCP where it says nothing.
    pub fn new(protocol: Option<&str>) -> Option<Self> {
        match protocol {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }
}

/// A uid as the API server (8-4-4-4-12 hexadecimal digits) or a kubelet (32 of them) writes it. 0 is nobody's.
pub(super) fn uid_key(uid: &str) -> Option<u128> {
    let mut key = 0;
    let mut digits = 0;
    for digit in uid.bytes().filter(|byte| *byte != b'-') {
        key = key << 4 | u128::from(char::from(digit).to_digit(16)?);
        digits += 1;
    }
    (digits == 32 && key != 0).then_some(key)
}

/// IPv4 as IPv6 writes it, so that both have one map.
pub(super) fn address_key(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

pub(super) fn port_key(port: u16, transport: Transport) -> u128 {
    u128::from(port) << 8 | transport as u128
}

/// `None` for what is no id of 64 hexadecimal digits.
pub(super) fn container_id(text: &str) -> Option<ContainerId> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut id = ContainerId::default();
    let bytes = text.as_bytes();
    if bytes.len() != 64 || !bytes.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (place, pair) in id.iter_mut().zip(bytes.chunks_exact(2)) {
        *place = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(id)
}
