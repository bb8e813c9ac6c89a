//! From control groups to containers: which container a cgroup path belongs to, and which path a cgroup id has.
//! Knows nothing of processes or engines; the engine's name for a container comes from [`super::container`].

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use procfs::{FromBufRead, process::MountInfos};

use crate::model::Container;

/// Identical for every container id that the usual engines mint: SHA-256 in hexadecimal.
const FULL_ID_LEN: usize = 64;
/// Longest chain of directories walked; the kernel's own limit is `cgroup.max.depth`, which nobody sets this high.
const DEPTH_MAX: usize = 32;
/// Directories held at once. A node of 1,000 containers has some 5,000.
const PATHS_MAX: usize = 65_536;
/// A miss costs a walk of the whole tree (about 2 µs a directory); not more often than this.
const WALK_INTERVAL_NS: u64 = 500_000_000;

/// What a cgroup path tells of a container; borrowed from the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupContainer<'a> {
    pub id: &'a str,
    /// docker, containerd, cri-o, podman, lxc, systemd-nspawn, garden, ecs; `kubernetes` where only the pod's directory
    /// is known and `unknown` where nothing but the id is.
    pub runtime: &'static str,
}

impl CgroupContainer<'_> {
    /// The model's container, not yet named.
    pub fn to_container(self) -> Container {
        Container { id: self.id.to_owned(), runtime: self.runtime.to_owned(), ..Container::default() }
    }
}

/// The innermost container of a cgroup path, as `/proc/PID/cgroup` and the cgroup2 tree write it.
///
/// Innermost, because of engines inside containers (kind, Docker in Docker): what runs there belongs to the inner one.
pub fn container_of_path(path: &str) -> Option<CgroupContainer<'_>> {
    let mut rest = path;
    while let Some((parents, segment)) = rest.rsplit_once('/') {
        if let Some(container) = container_of_segment(segment, parents) {
            return Some(container);
        }
        rest = parents;
    }
    None
}

/// The container of the process whose `/proc/PID/cgroup` is `text` (cgroups(7): `hierarchy:controllers:path` a line).
///
/// On hosts with both versions a container may show in one hierarchy only, so every line is asked; the unified one first.
pub fn container_of_proc_file<'a>(text: &'a str) -> Option<CgroupContainer<'a>> {
    let path = |line: &'a str| line.splitn(3, ':').nth(2);
    let unified = text.lines().filter(|line| line.starts_with("0::"));
    let others = text.lines().filter(|line| !line.starts_with("0::"));
    unified.chain(others).filter_map(path).find_map(container_of_path)
}

fn container_of_segment<'a>(segment: &'a str, parents: &str) -> Option<CgroupContainer<'a>> {
    let unit = segment.strip_suffix(".scope").or_else(|| segment.strip_suffix(".service")).unwrap_or(segment);
    // containerd told to use the systemd driver, without systemd: `slice:cri-containerd:id`.
    if let Some((front, id)) = unit.rsplit_once(':')
        && is_full_id(id)
    {
        let prefix = front.rsplit_once(':').map_or(front, |(_, prefix)| prefix);
        return Some(CgroupContainer { id, runtime: runtime_of_prefix(prefix)? });
    }
    if is_full_id(unit) {
        return Some(CgroupContainer { id: unit, runtime: runtime_of_parents(parents) });
    }
    if let Some((prefix, id)) = unit.rsplit_once('-')
        && is_full_id(id)
    {
        return Some(CgroupContainer { id, runtime: runtime_of_prefix(prefix)? });
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
    let named = |id: &'a str, runtime| (!id.is_empty()).then_some(CgroupContainer { id, runtime });
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

/// What the walk did, for the agent's own metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupCounts {
    pub walks: u64,
    /// Asked for, and not found by the last walk.
    pub unknown: u64,
    /// Directories left out because the table was full.
    pub refused: u64,
}

/// Cgroup id → path, both ways, by walking the cgroup2 tree when an id is met that is not known.
///
/// The id is what `bpf_get_current_cgroup_id` returns: the inode number of the directory in the cgroup2 file system
/// (`kernfs_node.id`; since Linux 5.5 the two are the same on 64-bit machines).
#[derive(Debug)]
pub struct CgroupPaths {
    mount: Option<Mount>,
    paths: HashMap<u64, Arc<str>>,
    ids: HashMap<Arc<str>, u64>,
    walked_ns: Option<u64>,
    counts: CgroupCounts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// Where we can read it.
    directory: PathBuf,
    /// What of the hierarchy is mounted there; "" for all of it.
    root: String,
}

impl CgroupPaths {
    /// Finds the cgroup2 mount by the mount table of `proc_root`; with no such mount every lookup is a miss.
    pub fn find(proc_root: &Path) -> Self {
        let own = proc_root.join("self/mountinfo");
        // Another mount namespace's /proc: its mounts are reached through the root directory of its first process.
        let (table, prefix) = if proc_root == Path::new("/proc") {
            (own, PathBuf::from("/"))
        } else {
            (proc_root.join("1/mountinfo"), proc_root.join("1/root"))
        };
        let mount = fs::read(table).ok().and_then(|text| cgroup2_mount(&text, &prefix));
        Self::new(mount)
    }

    /// For a cgroup2 tree that is mounted at `directory`.
    pub fn at(directory: PathBuf) -> Self {
        Self::new(Some(Mount { directory, root: String::new() }))
    }

    fn new(mount: Option<Mount>) -> Self {
        Self { mount, paths: HashMap::new(), ids: HashMap::new(), walked_ns: None, counts: CgroupCounts::default() }
    }

    /// The path of a cgroup, with a leading `/` and none at the end; `/` is the root.
    ///
    /// `now_ns` is any clock that goes forwards; it spaces the walks.
    pub fn path(&mut self, id: u64, now_ns: u64) -> Option<Arc<str>> {
        if id == 0 {
            return None;
        }
        if !self.paths.contains_key(&id) && self.may_walk(now_ns) {
            self.walk();
        }
        let path = self.paths.get(&id).map(Arc::clone);
        self.counts.unknown += u64::from(path.is_none());
        path
    }

    /// The id of a cgroup path; walks like [`Self::path`].
    pub fn id(&mut self, path: &str, now_ns: u64) -> Option<u64> {
        if !self.ids.contains_key(path) && self.may_walk(now_ns) {
            self.walk();
        }
        self.ids.get(path).copied()
    }

    /// Where the tree is read from.
    pub fn directory(&self) -> Option<&Path> {
        self.mount.as_ref().map(|mount| mount.directory.as_path())
    }

    pub fn counts(&self) -> CgroupCounts {
        self.counts
    }

    fn may_walk(&mut self, now_ns: u64) -> bool {
        let due = self.walked_ns.is_none_or(|walked_ns| now_ns.saturating_sub(walked_ns) >= WALK_INTERVAL_NS);
        if due && self.mount.is_some() {
            self.walked_ns = Some(now_ns);
            return true;
        }
        false
    }

    fn walk(&mut self) {
        let Some(mount) = self.mount.clone() else { return };
        self.counts.walks += 1;
        // What has gone is kept while there is room: its last events may still be under way, and ids are not used twice.
        if self.paths.len() > PATHS_MAX / 2 {
            self.paths.clear();
            self.ids.clear();
        }
        let Ok(top) = fs::metadata(&mount.directory) else { return };
        self.insert(top.ino(), if mount.root.is_empty() { "/" } else { &mount.root });
        let mut waiting = vec![(mount.directory, mount.root, 0)];
        while let Some((directory, path, depth)) = waiting.pop() {
            // A directory removed since it was listed is no error: its container has gone.
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let child = format!("{path}/{}", entry.file_name().to_string_lossy());
                self.insert(entry.ino(), &child);
                if depth < DEPTH_MAX && self.paths.len() < PATHS_MAX {
                    waiting.push((entry.path(), child, depth + 1));
                }
            }
        }
    }

    fn insert(&mut self, id: u64, path: &str) {
        if self.paths.len() >= PATHS_MAX && !self.paths.contains_key(&id) {
            self.counts.refused += 1;
            return;
        }
        let path: Arc<str> = path.into();
        self.paths.insert(id, Arc::clone(&path));
        self.ids.insert(path, id);
    }
}

/// The cgroup2 file system in a mount table (proc_pid_mountinfo(5)); the one that shows most of the hierarchy.
fn cgroup2_mount(mountinfo: &[u8], prefix: &Path) -> Option<Mount> {
    let mounts = MountInfos::from_buf_read(mountinfo).ok()?;
    let found = mounts.iter().filter(|mount| mount.fs_type == "cgroup2").min_by_key(|mount| mount.root.len())?;
    let relative = found.mount_point.strip_prefix("/").unwrap_or(&found.mount_point);
    Some(Mount { directory: prefix.join(relative), root: found.root.trim_end_matches('/').to_owned() })
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
            ("/kubepods/burstable/pod8712f785-1a3e-41ec-a00b-e2dcc77431cb", "", ""),
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
            ("/process_api/cb0945c5940fb5d8c76b7d25a2ac6d8c", "", ""),
            ("/docker/not-an-id", "", ""),
            ("/docker/3F5C6A7D9BE14C0A8A52F0C5B5C0C7D4E9A1B2C3D4E5F60718293A4B5C6D7E8F", "", ""),
        ];
        for (path, id, runtime) in table {
            let path = path.replace("ID", ID).replace("OTHER", OTHER);
            let id = id.replace("ID", ID).replace("OTHER", OTHER);
            let expected = (!id.is_empty()).then_some(CgroupContainer { id: &id, runtime });
            assert_eq!(container_of_path(&path), expected, "{path}");
        }
    }

    #[test]
    fn asks_every_hierarchy_of_a_hybrid_host() {
        let hybrid =
            format!("12:pids:/docker/{ID}\n4:memory:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/system.slice/containerd.service\n");
        assert_eq!(container_of_proc_file(&hybrid), Some(CgroupContainer { id: ID, runtime: "docker" }));
        let unified = format!("0::/system.slice/docker-{ID}.scope\n");
        assert_eq!(container_of_proc_file(&unified), Some(CgroupContainer { id: ID, runtime: "docker" }));
        assert_eq!(container_of_proc_file("9:name=systemd:/\n4:memory:/process_api/cb09\n0::/\n"), None);
        assert_eq!(container_of_proc_file("garbage\n::\n\n7:x"), None);
    }

    #[test]
    fn finds_the_widest_cgroup2_mount() {
        let table = b"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
            40 31 0:30 /docker/abc /mnt/part rw,relatime - cgroup2 cgroup2 rw\n\
            41 31 0:30 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
        let mount = cgroup2_mount(table, Path::new("/host/proc/1/root")).unwrap();
        assert_eq!(mount, Mount { directory: "/host/proc/1/root/sys/fs/cgroup/unified".into(), root: String::new() });
        let part = cgroup2_mount(table.split_inclusive(|&byte| byte == b'\n').nth(2).unwrap(), Path::new("/")).unwrap();
        assert_eq!(part, Mount { directory: "/mnt/part".into(), root: "/docker/abc".into() });
        assert_eq!(cgroup2_mount(b"not a table", Path::new("/")), None);
    }

    #[test]
    fn walks_again_for_an_unknown_id_but_not_too_often() {
        let tree = tempfile::tempdir().unwrap();
        let docker = tree.path().join("docker");
        fs::create_dir_all(docker.join(ID)).unwrap();
        fs::write(docker.join("cgroup.procs"), "1\n").unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let mut paths = CgroupPaths::at(tree.path().to_owned());

        let path = format!("/docker/{ID}");
        assert_eq!(paths.path(inode(&docker.join(ID)), 1).as_deref(), Some(path.as_str()));
        assert_eq!(paths.id(&path, 1), Some(inode(&docker.join(ID))));
        assert_eq!(paths.path(inode(tree.path()), 1).as_deref(), Some("/"));
        assert_eq!(paths.path(inode(&docker.join("cgroup.procs")), 1), None, "files are no cgroups");
        assert_eq!(paths.counts().walks, 1);

        let later = docker.join(OTHER);
        fs::create_dir(&later).unwrap();
        assert_eq!(paths.path(inode(&later), 2), None, "walked a nanosecond ago");
        assert!(paths.path(inode(&later), 1 + WALK_INTERVAL_NS).is_some());
        assert_eq!(paths.counts(), CgroupCounts { walks: 2, unknown: 2, refused: 0 });
    }

    #[test]
    fn has_no_paths_without_a_mount() {
        let empty = tempfile::tempdir().unwrap();
        let mut paths = CgroupPaths::find(empty.path());
        assert_eq!(paths.directory(), None);
        assert_eq!(paths.path(1, 0), None);
        assert_eq!(paths.counts().walks, 0);
    }

    #[test]
    fn finds_the_cgroups_of_the_live_host() {
        let mut paths = CgroupPaths::find(Path::new("/proc"));
        let Some(directory) = paths.directory().map(Path::to_owned) else { return };
        let expected = fs::read_dir(&directory).unwrap().flatten().find(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        assert!(paths.path(fs::metadata(&directory).unwrap().ino(), 1).unwrap().starts_with('/'));
        if let Some(entry) = expected {
            let path = paths.path(fs::metadata(entry.path()).unwrap().ino(), 1).unwrap();
            assert!(path.ends_with(&*entry.file_name().to_string_lossy()), "{path}");
        }
    }
}
