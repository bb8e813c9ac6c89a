//! The other end of a connection where it is no known process of this host: who the cluster, the connection tracking, DNS or the
//! client itself say it is.

use std::{net::IpAddr, sync::Arc};

use super::{about::About, parties::Around};
use crate::{
    config::Detail,
    model::{Endpoint, Instance, Party, Pod, Process, Remote, Role, Translation, Workload, WorkloadKind},
};

/// What a client's socket was connected to, as far as it is not the server's own address.
#[derive(Default)]
pub struct Dialled {
    /// The ends as the server has them, where they were rewritten on the way.
    pub translation: Option<Translation>,
    /// The Service whose address it is.
    pub service: Option<Arc<str>>,
    /// Who answers cannot be told by the address.
    is_virtual: bool,
    /// That Service had no ready endpoint.
    pub is_unserved: bool,
}

impl Around {
    /// Looks at where a client's connection leads, once it is open.
    pub fn dial(&mut self, about: &mut About) {
        let tuple = about.tuple;
        if self.options.frames || about.role == Role::Server || tuple.remote.port == 0 {
            return;
        }
        let remote = self.names.remote(tuple.remote, about.is_udp, self.now_ns, self.sequence);
        let (is_virtual, is_unserved, service) =
            remote.map_or((false, false, None), |remote| (remote.is_virtual, remote.is_unserved, remote.service.clone()));
        if !is_virtual && !self.names.may_rewrite(tuple.remote.address, self.now_ns) {
            about.dialled = None;
            return;
        }
        let translation = self.names.translate(about.id, about.is_udp, tuple.local, tuple.remote, self.sequence);
        if !is_virtual && translation.is_none() {
            return;
        }
        let service = service.filter(|_| is_virtual);
        about.dialled = Some(Box::new(Dialled { translation, service, is_virtual, is_unserved }));
    }

    /// Looks at where a server's connection comes from, if that is an address of this host under which others come here.
    fn trace(&mut self, about: &mut About) {
        let tuple = about.tuple;
        if self.options.frames || about.dialled.is_some() || !self.names.may_rewrite(tuple.remote.address, self.now_ns) {
            return;
        }
        let translation = self.names.origin(about.id, about.is_udp, tuple.local, tuple.remote, self.sequence);
        // Asked once, whatever the answer.
        about.dialled = Some(Box::new(Dialled { translation, ..Dialled::default() }));
    }

    /// The party of a process of this host.
    pub fn party(&self, process: &Process, address: IpAddr) -> Party {
        let pod = process.pod.as_deref();
        Party {
            address: Some(address),
            instance: Instance::of_process(process).map(Arc::new),
            ..pod.map_or_else(|| Party::new(Workload::of_process(process)), of_pod)
        }
    }

    /// The party at the other end of a connection, whose process is not known.
    pub fn stranger(&mut self, about: &mut About) -> Party {
        if about.role == Role::Server {
            self.trace(about);
        }
        let real = about.real_remote();
        // A client's port is its own affair.
        let asked = if about.role == Role::Server { Endpoint { port: 0, ..real } } else { real };
        let remote = self.names.remote(asked, about.is_udp, about.named_at_ns(self.now_ns), self.sequence);
        let named = remote.map(|remote| of_remote(&remote, real.address));
        let metadata = || is_instance_metadata(real.address).then(|| Party::new(Workload::of_domain(INSTANCE_METADATA.into())));
        let unnamed = || Party { address: Some(real.address), ..Party::new(Workload::of_address(real.address)) };
        named.or_else(metadata).unwrap_or_else(unnamed)
    }

    /// The party at the end that stands for ours where frames are seen from outside: as little is known of it as of the other.
    pub fn near(&mut self, about: &About) -> Party {
        let end = about.tuple.local;
        let asked = if about.role == Role::Server { end } else { Endpoint { port: 0, ..end } };
        let remote = self.names.remote(asked, about.is_udp, about.named_at_ns(self.now_ns), self.sequence);
        let unnamed = || Party { address: Some(end.address), ..Party::new(Workload::of_address(end.address)) };
        remote.map_or_else(unnamed, |remote| of_remote(&remote, end.address))
    }

    /// The Service that a connection's server was called by: the one that was dialled, or the one that the server is an endpoint of.
    pub fn service_of(&mut self, about: &About, peer: Option<Arc<str>>) -> Option<Arc<str>> {
        if let Some(dialled) = about.dialled.as_ref().filter(|dialled| dialled.is_virtual) {
            return dialled.service.clone();
        }
        peer.or_else(|| {
            let end = if about.role == Role::Server { about.tuple.local } else { about.real_remote() };
            if end.port == 0 {
                return None;
            }
            let remote = self.names.remote(end, about.is_udp, about.named_at_ns(self.now_ns), self.sequence)?;
            remote.service.clone().filter(|_| !remote.is_virtual)
        })
    }

    /// What of a party edges tell apart: pods come and go, their workload stays.
    pub fn for_edge(&self, party: &Party) -> Party {
        let is_lasting = party.workload.namespace.is_none();
        if is_lasting || self.options.detail == Detail::Pod {
            return party.clone();
        }
        Party { address: None, instance: None, ..party.clone() }
    }
}

impl About {
    /// The other end as it is behind a rewritten address.
    pub(super) fn real_remote(&self) -> Endpoint {
        let translation = self.dialled.as_ref().and_then(|dialled| dialled.translation);
        let behind = |translation: Translation| if self.role == Role::Server { translation.client } else { translation.server };
        translation.map_or(self.tuple.remote, behind)
    }

    /// Both ends as the server's socket has them, where a client's socket has others.
    pub(super) fn rewritten(&self) -> Option<Translation> {
        self.dialled.as_ref().and_then(|dialled| dialled.translation).filter(|_| self.role != Role::Server)
    }

    /// The port of the socket that answers: both ends of a connection know it, and no other.
    pub fn answering_port(&self) -> u16 {
        if self.role == Role::Server { self.tuple.local.port } else { self.real_remote().port }
    }

    /// The moment whose addresses count: that of the connection's begin, since an address that is given to another does not take its
    /// connections with it.
    fn named_at_ns(&self, now_ns: u64) -> u64 {
        if self.is_udp { now_ns } else { self.start_ns }
    }
}

fn of_pod(pod: &Pod) -> Party {
    Party { release: pod.release.clone(), chart: pod.chart.clone(), ..Party::new(pod.workload.clone()) }
}

fn of_remote(remote: &Remote, address: IpAddr) -> Party {
    match &remote.pod {
        Some(pod) => Party { address: Some(address), instance: Some(Arc::new(Instance::of_pod(pod))), ..of_pod(pod) },
        // A Service's address says no more than its name.
        None => Party {
            address: Some(address).filter(|_| remote.workload.kind != WorkloadKind::Service),
            ..Party::new(remote.workload.clone())
        },
    }
}

/// What an instance of a cloud asks about itself; the same address in all of them.
const INSTANCE_METADATA: &str = "instance-metadata";

/// 169.254.169.254; fd00:ec2::254 where the network is of IPv6.
fn is_instance_metadata(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets() == [169, 254, 169, 254],
        IpAddr::V6(address) => address.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254],
    }
}
