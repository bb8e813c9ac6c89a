//! The settings: what they are, where they come from, what is allowed. Plain data, a leaf.
//!
//! `settings!` below is the only list of them. A line of it is at once a field of [`Config`], a flag
//! (`--capture-bytes`), an environment variable (`REMORA_CAPTURE_BYTES`), a key of the YAML file (`capture_bytes`), the help
//! text and the check of the value.

mod agreement;
mod kind;
mod load;
mod table;
mod yaml;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub use kind::{BtfArchive, Detail, Engine, Hooks, Kubernetes, LogLevel, Network, Output, Raw, Sides, Transport};
use kind::{
    btf_archive, choice, duration, engine, interface, list, network, number, optional, path, power_of_two, size, socket_address, text,
};
pub use load::{Effective, Error, Origin, Sources};
pub use table::Setting;

/// Names the YAML file; the one variable that is not a setting of the file itself.
pub const FILE_VARIABLE: &str = "REMORA_CONFIG";

table::settings! {
    /// Everything that can be set, with its default.
    pub struct Config;

    "What is watched" {
        /// Kernel hooks that carry the data; auto takes the cheapest that this kernel offers; packet reads frames of --interface
        hooks: Hooks = Hooks::Auto, choice(), "FAMILY";
        /// Watch only these processes; repeatable
        pid: Vec<u32> = vec![], list(number(1..=u64::from(u32::MAX))), "PID";
        /// Watch only connections with one of these ports, local or remote; repeatable
        port: Vec<u16> = vec![], list(number(1..=65535)), "PORT";
        /// Network interface whose frames are read, with the hooks packet only; repeatable
        interface: Vec<String> = vec![], list(interface()), "NAME";
        /// Read only frames from or to these networks, with the hooks packet only; repeatable
        address: Vec<Network> = vec![], list(network()), "CIDR";
        /// Sockets that are watched: those that accepted connections (server), those that opened them (client), or both
        sides: Sides = Sides::Both, choice(), "SIDES";
        /// Stop after this time; none runs until a signal
        duration: Option<Duration> = None, optional("none", duration()), "TIME";
        /// Bytes kept of each call that sends or receives
        capture_bytes: u32 = 32 << 10, size(64..=32 << 10), "SIZE";
    }
    "Names" {
        /// Ask the API server of a Kubernetes cluster for names: auto asks where there is a service account or a kubeconfig
        kubernetes: Kubernetes = Kubernetes::Auto, choice(), "WHEN";
        /// File that says where the API server is; none takes the service account of the pod, else KUBECONFIG, else ~/.kube/config
        kubeconfig: Option<PathBuf> = None, optional("none", path()), "FILE";
        /// Name of this node in the cluster; none takes the host's name
        node_name: Option<String> = None, optional("none", text()), "NAME";
        /// Watch only pods of these namespaces; repeatable
        namespace: Vec<String> = vec![], list(text()), "NAMESPACE";
        /// Watch no pods of these namespaces; repeatable
        exclude_namespace: Vec<String> = vec![], list(text()), "NAMESPACE";
        /// Name only pods with these labels, as in kubectl get --selector
        pod_selector: Option<String> = None, optional("none", text()), "SELECTOR";
        /// Name only pods with these fields, as in kubectl get --field-selector
        pod_field_selector: Option<String> = None, optional("none", text()), "SELECTOR";
        /// Labels and annotations of pods that are shown: whole keys, or prefixes that end with *; repeatable
        show_label: Vec<String> = vec!["app.kubernetes.io/*".to_owned()], list(text()), "KEY";
        /// What edges and metrics tell apart: workloads, or each of their pods, which come and go
        detail: Detail = Detail::Workload, choice(), "DETAIL";
    }
    "What comes out" {
        /// What goes to standard output: the live table, JSON lines, or nothing; remora agent prints nothing unless told to
        output: Output = Output::Table, choice(), "FORM";
        /// Protocols whose values are shown as they are: query strings, literals, keys. Credentials never are; repeatable
        raw: Vec<Raw> = vec![], list(choice()), "PROTOCOL";
        /// Address of the HTTP server with /metrics, /healthz and the service map; none for no server
        listen: Option<SocketAddr> = Some(SocketAddr::from(([127, 0, 0, 1], 7117))), optional("none", socket_address()), "ADDR";
        /// Time between two snapshots of the service map
        snapshot_interval: Duration = Duration::from_secs(1), duration(), "TIME";
        /// A listening service without an exchange for this time is called idle
        idle_after: Duration = Duration::from_secs(300), duration(), "TIME";
        /// What is logged to standard error; -v and -q move it one step
        log: LogLevel = LogLevel::Info, choice(), "LEVEL";
    }
    "Resources and surroundings" {
        /// Threads that understand protocols; by default one for every two CPUs, at most 8
        workers: usize = default_workers(), number(1..=64), "N";
        /// What records travel in from the kernel: auto takes the ring buffer, where there is none (before Linux 5.8) the perf buffer
        transport: Transport = Transport::Auto, choice(), "KIND";
        /// Ring buffer between kernel and agent, or perf buffers of all CPUs together; a power of two
        ring_bytes: u32 = 8 << 20, power_of_two(size(64 << 10..=1 << 30)), "SIZE";
        /// Connections watched at once
        max_connections: u32 = 65536, number(16..=4 << 20), "N";
        /// File with the kernel's types (BTF), where the kernel has none of its own in /sys/kernel/btf/vmlinux
        btf: Option<PathBuf> = None, optional("none", path()), "FILE";
        /// Archive or directory with BTF of kernels that carry none: auto takes /usr/share/remora/btf, /etc/remora/btf, the one built in
        btf_archive: BtfArchive = BtfArchive::Auto, btf_archive(), "PATH";
        /// Socket of the engine that names containers: auto takes Docker's or podman's, whichever is there; none asks nobody
        docker_socket: Engine = Engine::Auto, engine(), "FILE";
    }
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cpus| (cpus.get() / 2).clamp(1, 8))
}
