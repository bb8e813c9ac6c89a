//! Locked memory: how much of it we may have, and whether what we make fits into it. Perf buffers always count; before Linux 5.11 all
//! maps and programs of BPF do. Attempts nothing: what is wanted is reckoned from the settings.

use nix::{
    sys::resource::{RLIM_INFINITY, Resource, getrlimit},
    unistd::{SysconfVar, sysconf},
};
use serde::Serialize;

use super::{
    features::{Features, version},
    privileges::Grant,
    readings,
    transport::Transport,
};

/// What this host allows us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LockedMemory {
    /// Maps and programs count, with those of all processes of the same user (before Linux 5.11).
    pub maps_count: bool,
    /// RLIMIT_MEMLOCK. `None`: there is no limit.
    pub limit_bytes: Option<u64>,
    /// To which anyone may raise it.
    pub hard_limit_bytes: Option<u64>,
    /// Perf buffers of one user that count for nothing (`kernel.perf_event_mlock_kb`), of all processors together.
    pub perf_bytes: u64,
}

/// More is wanted than may be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub wanted_bytes: u64,
    pub limit_bytes: u64,
}

impl LockedMemory {
    pub(super) fn read(kernel: &str) -> Self {
        let limit = |bytes| if bytes == RLIM_INFINITY { None } else { Some(bytes) };
        let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap_or((RLIM_INFINITY, RLIM_INFINITY));
        let perf_kib: u64 = readings::number("/proc/sys/kernel/perf_event_mlock_kb").unwrap_or(0);
        Self {
            maps_count: version(kernel) < (5, 11),
            limit_bytes: limit(soft),
            hard_limit_bytes: limit(hard),
            perf_bytes: (perf_kib << 10).saturating_mul(processors()),
        }
    }

    /// Where maps count libbpf takes the limit away before it makes the first one, or fails to without a word.
    fn limit_bytes(&self, features: &Features) -> Option<u64> {
        let lifted = self.maps_count && (self.hard_limit_bytes.is_none() || features.grant("CAP_SYS_RESOURCE") != Grant::Missing);
        if lifted { None } else { self.limit_bytes }
    }
}

/// Whether programs and maps are refused, with the same word as for want of privilege, once the limit is reached.
pub fn limits_bpf(features: &Features) -> bool {
    features.locked_memory.maps_count && features.locked_memory.limit_bytes(features).is_some()
}

/// Of maps and programs; roughly, as `max_connections` (`None`: the hooks `packet`, which have no connections) and `transport` make
/// them; and whatever is wanted, where not even a trivial program was let in. `None`: they fit, or do not count.
pub fn shortage_of_maps(features: &Features, transport: Transport, ring_bytes: u32, max_connections: Option<u32>) -> Option<Shortage> {
    /// 240 on Linux 6.18.
    const CONNECTION_BYTES: u64 = 256;
    /// Of the rest with all that is optional, programs included: UDP sockets 1.8 MiB, last calls of the hooks `kprobe` 3 MiB.
    const OTHER_BYTES: u64 = 6 << 20;
    const PACKET_BYTES: u64 = 1 << 20;
    let limit_bytes = features.locked_memory.limit_bytes(features).filter(|_| features.locked_memory.maps_count)?;
    let ring_bytes = if transport == Transport::Ring { u64::from(ring_bytes) } else { 0 };
    let wanted_bytes = ring_bytes + max_connections.map_or(PACKET_BYTES, |count| OTHER_BYTES + u64::from(count) * CONNECTION_BYTES);
    let is_used_up = features.bpf_call == Some(false);
    (is_used_up || wanted_bytes > limit_bytes).then_some(Shortage { wanted_bytes, limit_bytes })
}

/// Of perf buffers, as perf_mmap of the kernel's kernel/events/core.c counts them. `None`: they fit, or there are none.
pub fn shortage_of_buffers(features: &Features, transport: Transport) -> Option<Shortage> {
    let Transport::Perf { buffer_bytes } = transport else { return None };
    let memory = &features.locked_memory;
    let limit_bytes = memory.limit_bytes(features)?;
    // CAP_IPC_LOCK is asked for by name: CAP_SYS_ADMIN does not stand in for it.
    if features.grant("CAP_IPC_LOCK") != Grant::Missing || features.perf_event_paranoid.is_some_and(|level| level < 0) {
        return None;
    }
    let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as u64;
    // Maps that count have used up what would be free.
    let free_bytes = if memory.maps_count { 0 } else { memory.perf_bytes };
    let wanted_bytes = ((u64::from(buffer_bytes) + page_bytes) * processors()).saturating_sub(free_bytes);
    (wanted_bytes > limit_bytes).then_some(Shortage { wanted_bytes, limit_bytes })
}

/// That are there now: each has a buffer.
fn processors() -> u64 {
    sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().map_or(1, |count| count as u64)
}

#[cfg(test)]
mod tests {
    use super::{super::features::tests::complete, *};

    const RING_BYTES: u32 = 8 << 20;

    /// The maps count, and so much may be locked, but for who holds `capabilities`.
    fn old(limit_bytes: u64, capabilities: &[&str]) -> Features {
        let locked_memory = LockedMemory {
            maps_count: true,
            limit_bytes: Some(limit_bytes),
            hard_limit_bytes: Some(limit_bytes),
            ..complete().locked_memory
        };
        Features { capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(), locked_memory, ..complete() }
    }

    fn new(limit_bytes: u64, capabilities: &[&str]) -> Features {
        let mut features = old(limit_bytes, capabilities);
        features.locked_memory.maps_count = false;
        features
    }

    fn of_maps(features: &Features) -> Option<Shortage> {
        shortage_of_maps(features, Transport::Ring, RING_BYTES, Some(65_536))
    }

    #[test]
    fn maps_are_short_of_locked_memory_where_they_count_and_the_limit_stays() {
        let shortage = of_maps(&old(64 << 10, &[])).unwrap();
        assert_eq!((shortage.limit_bytes, shortage.wanted_bytes), (64 << 10, 30 << 20));
        assert_eq!(of_maps(&new(64 << 10, &[])), None, "they do not count");
        assert_eq!(of_maps(&old(64 << 10, &["CAP_SYS_RESOURCE"])), None, "libbpf lifts the limit");
        assert!(of_maps(&old(64 << 10, &["CAP_SYS_ADMIN", "CAP_IPC_LOCK"])).is_some(), "neither lifts a limit");
        let mut enough = old(64 << 20, &[]);
        assert_eq!(of_maps(&enough), None);
        enough.bpf_call = Some(false);
        assert!(of_maps(&enough).is_some(), "others may have used it up");
        enough.locked_memory.maps_count = false;
        assert_eq!(of_maps(&enough), None, "nobody can have");
        let mut liftable = old(64 << 10, &[]);
        liftable.locked_memory.hard_limit_bytes = None;
        assert_eq!(of_maps(&liftable), None, "anyone may lift it");
    }

    #[test]
    fn connections_and_a_ring_want_as_much_as_their_settings_say() {
        let features = old(20 << 20, &[]);
        assert!(shortage_of_maps(&features, Transport::Ring, RING_BYTES, Some(65_536)).is_some());
        assert_eq!(shortage_of_maps(&features, Transport::Ring, RING_BYTES, Some(16_384)), None);
        assert_eq!(shortage_of_maps(&features, Transport::Ring, RING_BYTES, None), None, "frames alone");
        assert!(shortage_of_maps(&features, Transport::Ring, 32 << 20, None).is_some());
        assert_eq!(shortage_of_maps(&features, Transport::Perf { buffer_bytes: 16 << 20 }, 32 << 20, None), None, "no ring");
    }

    #[test]
    fn perf_buffers_are_short_of_locked_memory_on_every_kernel() {
        let buffers = Transport::Perf { buffer_bytes: 4 << 20 };
        assert!(shortage_of_buffers(&new(64 << 10, &[]), buffers).is_some());
        assert_eq!(shortage_of_buffers(&new(64 << 10, &[]), Transport::Ring), None);
        assert_eq!(shortage_of_buffers(&new(64 << 10, &["CAP_IPC_LOCK"]), buffers), None);
        assert!(shortage_of_buffers(&new(64 << 10, &["CAP_SYS_RESOURCE", "CAP_SYS_ADMIN"]), buffers).is_some(), "nobody lifts the limit");
        assert_eq!(shortage_of_buffers(&old(64 << 10, &["CAP_SYS_RESOURCE"]), buffers), None, "libbpf has lifted it for the maps");
        let unafraid = Features { perf_event_paranoid: Some(-1), ..new(64 << 10, &[]) };
        assert_eq!(shortage_of_buffers(&unafraid, buffers), None);
    }

    #[test]
    fn small_perf_buffers_are_free_where_maps_do_not_use_that_up() {
        let small = Transport::Perf { buffer_bytes: 128 << 10 };
        let with_free = |mut features: Features| {
            features.locked_memory.perf_bytes = processors() * (516 << 10);
            features
        };
        assert_eq!(shortage_of_buffers(&with_free(new(0, &[])), small), None);
        assert!(shortage_of_buffers(&with_free(old(0, &[])), small).is_some());
    }
}
