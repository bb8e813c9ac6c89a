//! Edges and exchanges for tests of this room and of those that show it.

use super::EdgeKey;
use crate::model::{Exchange, Flags, Party, Protocol, Workload, WorkloadKind};

pub(crate) fn party(name: &str) -> Party {
    Party::new(Workload::new(WorkloadKind::Process, name))
}

/// A Deployment of the cluster.
pub(crate) fn pod_party(namespace: &str, name: &str) -> Party {
    Party::new(Workload { namespace: Some(namespace.into()), ..Workload::new(WorkloadKind::Deployment, name) })
}

pub(crate) fn key(client: &str, server: &str) -> EdgeKey {
    EdgeKey { client: party(client), server: Party { port: Some(80), ..party(server) }, protocol: Protocol::Http }
}

/// An answered GET of this duration.
pub(crate) fn exchange(duration_ns: u64) -> Exchange<'static> {
    Exchange {
        protocol: Protocol::Http,
        start_ns: 1_000_000,
        first_byte_ns: Some(1_000_000 + duration_ns / 2),
        end_ns: 1_000_000 + duration_ns,
        operation: "GET",
        resource: "/",
        status: "200",
        error: false,
        request_bytes: 100,
        response_bytes: 1_000,
        flags: Flags::default(),
        attributes: &[],
    }
}
