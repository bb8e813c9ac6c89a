//! What the path of a control group says: which container it is of, of which pod, or which unit of systemd.
//! Knows nothing of processes or engines; the engine's name for a container comes from [`super::container`], the path of an id from
//! [`super::cgroup_paths`].

use crate::model::Container;

/// Identical for every container id that the usual engines mint: SHA-256 in hexadecimal.
const FULL_ID_LEN: usize = 64;

/// What a cgroup path tells of a container; borrowed from the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupContainer<'a> {
    /// Where no more than the pod's directory is known, the name of that: `pod` and the uid.
    pub id: &'a str,
    /// docker, containerd, cri-o, podman, lxc, systemd-nspawn, garden, ecs; `kubernetes` where only the pod's directory
    /// is known and `unknown` where nothing but the id is.
    pub runtime: &'static str,
    /// The uid of the Kubernetes pod that it runs in, as the path has it: see [`Self::pod_uid`].
    pub pod: Option<&'a str>,
}

impl CgroupContainer<'_> {
    /// The uid as the API server writes it: `8712f785-1a3e-41ec-a00b-e2dcc77431cb`.
    ///
    /// That of a static pod has 32 digits and no dashes: it is the hash of its manifest, which its mirror in the API has as the
    /// annotation `kubernetes.io/config.hash`.
    pub fn pod_uid(&self) -> Option<String> {
        self.pod.map(|uid| uid.replace('_', "-"))
    }

    /// The model's container, not yet named.
    pub fn to_container(self) -> Container {
        Container { id: self.id.to_owned(), runtime: self.runtime.to_owned(), pod_uid: self.pod_uid(), ..Container::default() }
    }
}

/// The innermost container of a cgroup path, as `/proc/PID/cgroup` and the cgroup trees write it, and the innermost pod.
///
/// Innermost, because of engines inside containers (kind, Docker in Docker): what runs there belongs to the inner one. An engine inside
/// a pod has containers that the cluster does not know, but they are the pod's.
pub fn container_of_path(path: &str) -> Option<CgroupContainer<'_>> {
    let mut found = None;
    let mut rest = path;
    while let Some((parents, segment)) = rest.rsplit_once('/') {
        found = found.or_else(|| container_of_segment(segment, parents));
        if let Some((directory, uid)) = pod_of_segment(segment) {
            let container = found.unwrap_or(CgroupContainer { id: directory, runtime: "kubernetes", pod: None });
            return Some(CgroupContainer { pod: Some(uid), ..container });
        }
        rest = parents;
    }
    found
}

/// The systemd service that a cgroup path is of, by the name that systemctl(1) gives it: `nginx.service`.
///
/// None of scopes (sessions, and what a desktop starts), and none of `user@1000.service`, which is no service but a user's own systemd.
pub fn unit_of_path(path: &str) -> Option<&str> {
    for segment in path.rsplit('/') {
        if segment.ends_with(".scope") || segment.starts_with("user@") {
            return None;
        }
        if segment.ends_with(".service") {
            // systemd's escape for names that the cgroup file system has taken.
            return Some(segment.strip_prefix('_').unwrap_or(segment));
        }
    }
    None
}

/// The container of the process whose `/proc/PID/cgroup` is `text` (cgroups(7): `hierarchy:controllers:path` a line).
///
/// On hosts with both versions a container may show in one hierarchy only, so every line is asked; the unified one first.
pub fn container_of_proc_file(text: &str) -> Option<CgroupContainer<'_>> {
    paths_of_proc_file(text).find_map(container_of_path)
}

/// The unit of such a process; see [`unit_of_path`].
pub fn unit_of_proc_file(text: &str) -> Option<&str> {
    paths_of_proc_file(text).find_map(unit_of_path)
}

fn paths_of_proc_file(text: &str) -> impl Iterator<Item = &str> {
    let is_unified = |line: &&str| line.starts_with("0::");
    let others = text.lines().filter(move |line| !is_unified(line));
    text.lines().filter(is_unified).chain(others).filter_map(|line| line.splitn(3, ':').nth(2))
}

fn container_of_segment<'a>(segment: &'a str, parents: &str) -> Option<CgroupContainer<'a>> {
    let unit = segment.strip_suffix(".scope").or_else(|| segment.strip_suffix(".service")).unwrap_or(segment);
    // containerd told to use the systemd driver, without systemd: `slice:cri-containerd:id`.
    if let Some((front, id)) = unit.rsplit_once(':')
        && is_full_id(id)
    {
        let prefix = front.rsplit_once(':').map_or(front, |(_, prefix)| prefix);
        return Some(CgroupContainer { id, runtime: runtime_of_prefix(prefix)?, pod: None });
    }
    if is_full_id(unit) {
        return Some(CgroupContainer { id: unit, runtime: runtime_of_parents(parents), pod: None });
    }
    if let Some((prefix, id)) = unit.rsplit_once('-')
        && is_full_id(id)
    {
        return Some(CgroupContainer { id, runtime: runtime_of_prefix(prefix)?, pod: None });
    }
    container_without_full_id(segment, unit, parents)
}

/// The part before the id, as in `docker-<id>.scope`. `None` for the engines' own monitors, which live beside the container.
fn runtime_of_prefix(prefix: &str) -> Option<&'static str> {
    match prefix {
        "docker" => Some("docker"),
        "cri-containerd" | "containerd" | "nerdctl" => Some("containerd"),
        "crio" | "cri-o" => Some("cri-o"),
        "libpod" | "libpod-payload" => Some("podman"),
        _ if prefix.ends_with("conmon") => None,
        _ => Some("unknown"),
    }
}

/// The nearest directory above a bare id that says whose it is.
fn runtime_of_parents(parents: &str) -> &'static str {
    for parent in parents.rsplit('/') {
        let runtime = match parent {
            "docker" | "actions_job" | "buildx" => "docker",
            "k8s.io" | "default" | "moby" | "containerd" => "containerd",
            "libpod_parent" => "podman",
            "crio" => "cri-o",
            "lxc" => "lxc",
            "ecs" => "ecs",
            _ if parent.starts_with("kubepods") || parent.starts_with("kubelet-kubepods") => "kubernetes",
            _ => continue,
        };
        return runtime;
    }
    "unknown"
}

/// Engines that name their containers otherwise.
fn container_without_full_id<'a>(segment: &'a str, unit: &'a str, parents: &str) -> Option<CgroupContainer<'a>> {
    let parent = parents.rsplit('/').next().unwrap_or_default();
    let named = |id: &'a str, runtime| (!id.is_empty()).then_some(CgroupContainer { id, runtime, pod: None });
    if is_garden_id(segment) && parents.contains("garden") {
        return named(segment, "garden");
    }
    // Fargate: `/ecs/<task>/<task>-<number>`.
    if let Some((task, number)) = segment.split_once('-')
        && task.len() == 32
        && is_hex(task)
        && number.len() >= 8
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        return named(segment, "ecs");
    }
    if let Some(name) = segment.strip_prefix("lxc.payload.") {
        return named(name, "lxc");
    }
    // `lxc.monitor.<name>` is the host's side of the container.
    if parent == "lxc" && !segment.starts_with("lxc.") {
        return named(segment, "lxc");
    }
    if parent == "machine.slice" {
        if let Some(name) = unit.strip_prefix("systemd-nspawn@") {
            return named(name, "systemd-nspawn");
        }
        // Also libvirt's (`machine-qemu\x2d1\x2dname`), which are whole machines: their processes are the host's.
        if let Some(name) = unit.strip_prefix("machine-")
            && !name.starts_with("qemu")
        {
            return named(name, "systemd-nspawn");
        }
    }
    None
}

/// The directory of a pod, as the kubelet names it with either driver: `pod<uid>`, `kubepods-burstable-pod<uid>.slice` with `_` for `-`.
/// The part from `pod` on, and the uid.
fn pod_of_segment(segment: &str) -> Option<(&str, &str)> {
    // containerd told to use the systemd driver, without systemd: `slice:cri-containerd:id`.
    let name = segment.split(':').next()?;
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let (front, directory) = name.split_at(name.rfind("pod")?);
    let uid = directory.strip_prefix("pod")?;
    let is_ours = front.is_empty() || front.ends_with('-') && front.contains("kubepods");
    (is_ours && is_pod_uid(uid)).then_some((directory, uid))
}

/// A UUID, with `-` or `_`; or 32 digits, of a static pod.
fn is_pod_uid(text: &str) -> bool {
    let parts = || text.split(['-', '_']);
    parts().map(str::len).eq([8, 4, 4, 4, 12]) && parts().all(is_hex) || text.len() == 32 && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_full_id(text: &str) -> bool {
    text.len() == FULL_ID_LEN && is_hex(text)
}

/// Cloud Foundry's garden: `xxxxxxxx-xxxx-xxxx-xxxx-xxxx`, 28 characters.
fn is_garden_id(text: &str) -> bool {
    text.len() == 28 && text.split('-').map(str::len).eq([8, 4, 4, 4, 4]) && text.split('-').all(is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f5c6a7d9be14c0a8a52f0c5b5c0c7d4e9a1b2c3d4e5f60718293a4b5c6d7e8f";
    const OTHER: &str = "aa5c6a7d9be14c0a8a52f0c5b5c0c7d4e9a1b2c3d4e5f60718293a4b5c6d7e8f";

    /// `ID` and `OTHER` stand for the ids; an expected id of "" means no container.
    #[test]
    fn knows_the_paths_of_every_engine() {
        let table = [
            // docker: cgroupfs driver, systemd driver, a parent of its own, rootless
            ("/docker/ID", "ID", "docker"),
            ("/docker/ID/init.scope", "ID", "docker"),
            ("/system.slice/docker-ID.scope", "ID", "docker"),
            ("/system.slice/docker-ID.scope/system.slice/nginx.service", "ID", "docker"),
            ("/actions_job/ID", "ID", "docker"),
            ("/docker/buildx/ID", "ID", "docker"),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope", "ID", "docker"),
            ("/system.slice/docker.service", "", ""),
            ("/system.slice/docker.service/docker/ID", "ID", "docker"),
            // seen from inside another cgroup namespace
            ("/../ID", "ID", "unknown"),
            ("/../../docker/ID", "ID", "docker"),
            // containerd
            ("/default/ID", "ID", "containerd"),
            ("/k8s.io/ID", "ID", "containerd"),
            ("/system.slice/nerdctl-ID.scope", "ID", "containerd"),
            ("/system.slice/containerd.service", "", ""),
            ("/system.slice/containerd.service/kubepods-besteffort-pod12_34.slice:cri-containerd:ID", "ID", "containerd"),
            // kubelet: cgroupfs driver
            ("/kubepods/besteffort/pod8712f785-1a3e-41ec-a00b-e2dcc77431cb/ID", "ID", "kubernetes"),
            ("/kubepods/burstable/pod8712f785-1a3e-41ec-a00b-e2dcc77431cb/ID", "ID", "kubernetes"),
            ("/kubepods/pod8712f785-1a3e-41ec-a00b-e2dcc77431cb/ID", "ID", "kubernetes"),
            ("/kubepods/besteffort/podf0f1/crio-ID", "ID", "cri-o"),
            // kubelet: systemd driver
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod8712f785_1a3e_41ec_a00b_e2dcc77431cb.slice\
                 /cri-containerd-ID.scope",
                "ID",
                "containerd",
            ),
            ("/kubepods.slice/kubepods-pod8712f785_1a3e_41ec_a00b_e2dcc77431cb.slice/docker-ID.scope", "ID", "docker"),
            ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/crio-ID.scope", "ID", "cri-o"),
            ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/crio-ID.scope/container", "ID", "cri-o"),
            ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/crio-conmon-ID.scope", "", ""),
            ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/ID", "ID", "kubernetes"),
            // podman
            ("/machine.slice/libpod-ID.scope", "ID", "podman"),
            ("/machine.slice/libpod-ID.scope/container", "ID", "podman"),
            ("/machine.slice/libpod-ID.scope/libpod-payload-OTHER", "OTHER", "podman"),
            ("/machine.slice/libpod-conmon-ID.scope", "", ""),
            ("/libpod_parent/libpod-ID", "ID", "podman"),
            ("/libpod_parent/ID", "ID", "podman"),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope", "ID", "podman"),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/podman.service/libpod-ID.scope/container", "ID", "podman"),
            ("/machine.slice/machine-libpod_pod_OTHER.slice/libpod-ID.scope", "ID", "podman"),
            // nested: a kind node is a docker container, a monitor inside it belongs to the node
            ("/docker/OTHER/kubepods/burstable/pod1f/ID", "ID", "kubernetes"),
            (
                "/system.slice/docker-OTHER.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1.slice/cri-containerd-ID.scope",
                "ID",
                "containerd",
            ),
            ("/docker/OTHER/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1.slice/ID", "ID", "kubernetes"),
            ("/docker/OTHER/crio-conmon-ID.scope", "OTHER", "docker"),
            ("/docker/OTHER/docker/ID", "ID", "docker"),
            // others
            ("/garden/6f1c2b3a-0d9e-4f5a-7b8c-9d0e", "6f1c2b3a-0d9e-4f5a-7b8c-9d0e", "garden"),
            ("/system.slice/garden.service/garden/6f1c2b3a-0d9e-4f5a-7b8c-9d0e", "6f1c2b3a-0d9e-4f5a-7b8c-9d0e", "garden"),
            ("/ecs/fe7a2b3c4d5e6f708192a3b4c5d6e7f8/ID", "ID", "ecs"),
            (
                "/ecs/fe7a2b3c4d5e6f708192a3b4c5d6e7f8/fe7a2b3c4d5e6f708192a3b4c5d6e7f8-1234567890",
                "fe7a2b3c4d5e6f708192a3b4c5d6e7f8-1234567890",
                "ecs",
            ),
            ("/lxc/web/init.scope", "web", "lxc"),
            ("/lxc.payload.web/system.slice/nginx.service", "web", "lxc"),
            ("/lxc.monitor.web", "", ""),
            ("/machine.slice/systemd-nspawn@bookworm.service/payload", "bookworm", "systemd-nspawn"),
            ("/machine.slice/machine-bookworm.scope", "bookworm", "systemd-nspawn"),
            ("/machine.slice/machine-qemu\\x2d1\\x2dvm.scope", "", ""),
            // no containers
            ("/", "", ""),
            ("", "", ""),
            ("/init.scope", "", ""),
            ("/system.slice/nginx.service", "", ""),
            ("/user.slice/user-1000.slice/session-3.scope", "", ""),
            ("/runner/cb0945c5940fb5d8c76b7d25a2ac6d8c", "", ""),
            ("/docker/not-an-id", "", ""),
            ("/docker/3F5C6A7D9BE14C0A8A52F0C5B5C0C7D4E9A1B2C3D4E5F60718293A4B5C6D7E8F", "", ""),
        ];
        for (path, id, runtime) in table {
            let path = path.replace("ID", ID).replace("OTHER", OTHER);
            let id = id.replace("ID", ID).replace("OTHER", OTHER);
            let found = container_of_path(&path).map(|container| (container.id, container.runtime));
            assert_eq!(found, (!id.is_empty()).then_some((id.as_str(), runtime)), "{path}");
        }
    }

    #[test]
    fn asks_every_hierarchy_of_a_hybrid_host() {
        let hybrid =
            format!("12:pids:/docker/{ID}\n4:memory:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/system.slice/containerd.service\n");
        assert_eq!(container_of_proc_file(&hybrid), Some(CgroupContainer { id: ID, runtime: "docker", pod: None }));
        let unified = format!("0::/system.slice/docker-{ID}.scope\n");
        assert_eq!(container_of_proc_file(&unified), Some(CgroupContainer { id: ID, runtime: "docker", pod: None }));
        assert_eq!(container_of_proc_file("9:name=systemd:/\n4:memory:/runner/cb09\n0::/\n"), None);
        assert_eq!(container_of_proc_file("garbage\n::\n\n7:x"), None);
    }

    /// `UID` stands for a uid as the API writes it, `U_D` for the same in the name of a slice.
    #[test]
    fn knows_the_pod_of_a_container_and_of_a_process_beside_its_containers() {
        const UID: &str = "8712f785-1a3e-41ec-a00b-e2dcc77431cb";
        const STATIC: &str = "5b2c1f0e9d8a7b6c5d4e3f2a1b0c9d8e";
        let slice = UID.replace('-', "_");
        let table = [
            ("/kubepods/burstable/podUID/ID", ID, UID),
            ("/kubepods/podUID/ID", ID, UID),
            ("/kubepods/besteffort/podUID/crio-ID", ID, UID),
            ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_D.slice/cri-containerd-ID.scope", ID, UID),
            ("/kubepods.slice/kubepods-podU_D.slice/docker-ID.scope", ID, UID),
            ("/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU_D.slice/crio-ID.scope/container", ID, UID),
            ("/system.slice/containerd.service/kubepods-besteffort-podU_D.slice:cri-containerd:ID", ID, UID),
            ("/kubepods/burstable/podSTATIC/ID", ID, STATIC),
            ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podSTATIC.slice/crio-ID.scope", ID, STATIC),
            // a node that is a container, an engine that is in a pod, a control group namespace in between
            ("/docker/OTHER/kubepods/burstable/podUID/ID", ID, UID),
            ("/kubepods/podUID/OTHER/docker/ID", ID, UID),
            ("/../../podUID/ID", ID, UID),
            // no container of its own
            ("/kubepods/burstable/podUID", "podUID", UID),
            ("/kubepods/burstable/podUID/kata_overhead", "podUID", UID),
            ("/docker/OTHER/kubepods/burstable/podSTATIC", "podSTATIC", STATIC),
            ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_D.slice", "podU_D", UID),
            ("/kubepods.slice/kubepods-podU_D.slice/crio-conmon-ID.scope", "podU_D", UID),
            // no pods
            ("/machine.slice/machine-libpod_pod_OTHER.slice/libpod-ID.scope", ID, ""),
            ("/kubepods/besteffort/pod1f/ID", ID, ""),
            ("/kubepods/burstable/podUIDx/ID", ID, ""),
            ("/tripod8712f785-1a3e-41ec-a00b-e2dcc77431cb/ID", ID, ""),
            ("/system.slice/podUID.service", "", ""),
        ];
        let filled = |text: &str| {
            let text = text.replace("UID", UID).replace("U_D", &slice).replace("STATIC", STATIC);
            text.replace("ID", ID).replace("OTHER", OTHER)
        };
        for (path, id, uid) in table {
            let (path, id) = (filled(path), filled(id));
            let found = container_of_path(&path).map(CgroupContainer::to_container);
            let expected = (!id.is_empty()).then(|| (id, (!uid.is_empty()).then(|| uid.to_owned())));
            assert_eq!(found.clone().map(|container| (container.id, container.pod_uid)), expected, "{path}");
            let alone = found.is_some_and(|container| container.id.starts_with("pod") && container.runtime != "kubernetes");
            assert!(!alone, "{path}");
        }
    }

    #[test]
    fn a_unit_is_a_service_and_nothing_else_of_systemd() {
        let table = [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/system-postgresql.slice/postgresql@15-main.service", Some("postgresql@15-main.service")),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service", Some("foo.service")),
            ("/system.slice/system-serial\\x2dgetty.slice/serial-getty@ttyS0.service", Some("serial-getty@ttyS0.service")),
            ("/system.slice/gitlab.service/workers/7", Some("gitlab.service")),
            ("/system.slice/_cpu.service", Some("cpu.service")),
            ("/../../system.slice/nginx.service", Some("nginx.service")),
            ("/user.slice/user-1000.slice/user@1000.service", None),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope", None),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-browser-4711.scope", None),
            ("/user.slice/user-1000.slice/session-3.scope", None),
            ("/system.slice/ssh.service/session-3.scope", None),
            ("/init.scope", None),
            ("/system.slice", None),
            ("/", None),
            ("", None),
        ];
        for (path, expected) in table {
            assert_eq!(unit_of_path(path), expected, "{path}");
        }
        assert_eq!(unit_of_proc_file("8:pids:/\n1:name=systemd:/system.slice/a.service\n0::/\n"), Some("a.service"));
        assert_eq!(unit_of_proc_file("0::/system.slice/b.service\n1:name=systemd:/system.slice/a.service\n"), Some("b.service"));
        assert_eq!(unit_of_proc_file("garbage"), None);
    }
}
