//! From the id of a control group to its path: what the kernel's events say, and a walk of the tree for those that are older.
//! Knows nothing of what a path means; that is [`super::cgroup`].

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use procfs::{FromBufRead, process::MountInfos};

/// Longest chain of directories walked; the kernel's own limit is `cgroup.max.depth`, which nobody sets this high.
const DEPTH_MAX: usize = 32;
/// Groups held at once, the removed ones included. A node of 1,000 containers has some 5,000.
const PATHS_MAX: usize = 65_536;
/// Of these, groups that were removed: events of their processes may still be under way.
const REMOVED_MAX: usize = 8_192;
/// Longer paths do not fit into an event either.
const PATH_BYTES_MAX: usize = 4_096;
/// A miss costs a walk of the whole tree (about 2 µs a directory); not more often than this.
const WALK_INTERVAL_NS: u64 = 500_000_000;
/// The kernel numbers the directories of a tree from here (fs/kernfs/dir.c, `idr_alloc_cyclic` from 1): who has this number is the root.
const ROOT_ID: u64 = 1;

/// What was learnt how, for the agent's own metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupCounts {
    pub walks: u64,
    /// Asked for, and not found by the last walk.
    pub unknown: u64,
    /// Left out because the table was full, or the path was none.
    pub refused: u64,
}

/// Cgroup id → path, both ways, of one hierarchy.
///
/// The id is the inode number of the group's directory (`kernfs_node.id`; since Linux 5.5 the two are the same on 64-bit machines), which
/// no other group of the hierarchy gets in the life of the kernel.
#[derive(Clone, Debug)]
pub struct CgroupPaths {
    mount: Option<Mount>,
    /// Of version 2: there is no other hierarchy in which a process could have another place.
    unified: bool,
    groups: HashMap<u64, Group>,
    ids: HashMap<Arc<str>, u64>,
    /// Oldest first.
    removed: VecDeque<u64>,
    walked_ns: Option<u64>,
    counts: CgroupCounts,
}

#[derive(Clone, Debug)]
struct Group {
    path: Arc<str>,
    removed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// Where we can read it.
    directory: PathBuf,
    /// What of the hierarchy is mounted there; "" for all of it.
    root: String,
}

impl CgroupPaths {
    /// The hierarchy of a version 1 controller, or with `None` that of version 2, where the mount tables of `proc_root` show it: our own, or
    /// that of the host's first process where ours shows a part (a container with a control group namespace of its own). With neither
    /// all that is known is what events say.
    pub fn find(proc_root: &Path, controller: Option<&str>) -> Self {
        let first = ("1/mountinfo", proc_root.join("1/root"));
        // Another pid namespace's /proc has no "self".
        let views = if proc_root == Path::new("/proc") { vec![("self/mountinfo", PathBuf::from("/")), first] } else { vec![first] };
        let mounts: Vec<_> = views
            .into_iter()
            .filter_map(|(table, prefix)| cgroup_mount(&fs::read(proc_root.join(table)).ok()?, &prefix, controller))
            .collect();
        let whole = mounts.iter().find(|mount| fs::metadata(&mount.directory).is_ok_and(|top| top.ino() == ROOT_ID));
        // What claims to be all and is not belongs to a namespace, which hides the names above.
        let part = || mounts.iter().find(|mount| !mount.root.is_empty() && !mount.root.starts_with("/.."));
        Self::new(whole.or_else(part).cloned(), controller.is_none())
    }

    /// For a cgroup2 tree that is mounted at `directory`.
    pub fn at(directory: PathBuf) -> Self {
        Self::new(Some(Mount { directory, root: String::new() }), true)
    }

    fn new(mount: Option<Mount>, unified: bool) -> Self {
        Self {
            mount,
            unified,
            groups: HashMap::new(),
            ids: HashMap::new(),
            removed: VecDeque::new(),
            walked_ns: None,
            counts: CgroupCounts::default(),
        }
    }

    /// The kernel says that the group was made, or has this path from now on.
    pub fn learn(&mut self, id: u64, path: &str) {
        if id == 0 || !path.starts_with('/') || path.len() > PATH_BYTES_MAX {
            self.counts.refused += 1;
            return;
        }
        if let Some(old) = self.groups.get(&id).map(|group| Arc::clone(&group.path)).filter(|old| **old != *path) {
            self.rename(&old, path);
        }
        self.insert(id, path);
    }

    /// The kernel says that the group was removed. Its path stays known until enough others were removed after it.
    pub fn forget(&mut self, id: u64) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if std::mem::replace(&mut group.removed, true) {
            return;
        }
        self.removed.push_back(id);
        while self.removed.len() > REMOVED_MAX {
            self.drop_oldest_removed();
        }
    }

    /// The path of a cgroup, with a leading `/` and none at the end; `/` is the root.
    ///
    /// `now_ns` is any clock that goes forwards; it spaces the walks.
    pub fn path(&mut self, id: u64, now_ns: u64) -> Option<Arc<str>> {
        if id == 0 {
            return None;
        }
        if !self.knows(id) && self.may_walk(now_ns) {
            self.walk(now_ns);
        }
        let path = self.groups.get(&id).map(|group| Arc::clone(&group.path));
        self.counts.unknown += u64::from(path.is_none());
        path
    }

    /// The id of a cgroup path; walks like [`Self::path`]. Of several that had the path one after the other, the last.
    pub fn id(&mut self, path: &str, now_ns: u64) -> Option<u64> {
        if !self.ids.contains_key(path) && self.may_walk(now_ns) {
            self.walk(now_ns);
        }
        self.ids.get(path).copied()
    }

    /// The path of the group is known without a look.
    pub fn knows(&self, id: u64) -> bool {
        self.groups.contains_key(&id)
    }

    /// The groups that were not removed, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Arc<str>)> {
        self.groups.iter().filter(|(_, group)| !group.removed).map(|(id, group)| (*id, &group.path))
    }

    /// There is no hierarchy but this one.
    pub fn is_unified(&self) -> bool {
        self.unified
    }

    /// Where the tree is read from.
    pub fn directory(&self) -> Option<&Path> {
        self.mount.as_ref().map(|mount| mount.directory.as_path())
    }

    pub fn counts(&self) -> CgroupCounts {
        self.counts
    }

    fn may_walk(&self, now_ns: u64) -> bool {
        self.walked_ns.is_none_or(|walked_ns| now_ns.saturating_sub(walked_ns) >= WALK_INTERVAL_NS)
    }

    /// Looks at the whole tree: for the groups that are older than the events, and those whose event was lost.
    pub fn walk(&mut self, now_ns: u64) {
        let Some(mount) = self.mount.clone() else { return };
        self.walked_ns = Some(now_ns);
        self.counts.walks += 1;
        let Ok(top) = fs::metadata(&mount.directory) else { return };
        let mut seen = HashSet::from([top.ino()]);
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
                seen.insert(entry.ino());
                self.insert(entry.ino(), &child);
                if depth < DEPTH_MAX && seen.len() < PATHS_MAX {
                    waiting.push((entry.path(), child, depth + 1));
                }
            }
        }
        // Removed without a word: the event was lost, or there are none on this host.
        let gone: Vec<u64> = self.iter().map(|(id, _)| id).filter(|id| !seen.contains(id)).collect();
        gone.into_iter().for_each(|id| self.forget(id));
    }

    /// What is below a renamed group has another path, too.
    fn rename(&mut self, old: &str, new: &str) {
        let below: Vec<(u64, String)> = self
            .groups
            .iter()
            .filter_map(|(id, group)| {
                let rest = group.path.strip_prefix(old).filter(|rest| rest.starts_with('/'))?;
                Some((*id, format!("{new}{rest}")))
            })
            .collect();
        for (id, path) in below {
            self.insert(id, &path);
        }
    }

    fn insert(&mut self, id: u64, path: &str) {
        if let Some(known) = self.groups.get(&id) {
            if *known.path == *path {
                return;
            }
            if self.ids.get(&known.path) == Some(&id) {
                self.ids.remove(&known.path);
            }
        } else if self.groups.len() >= PATHS_MAX && !self.drop_oldest_removed() {
            self.counts.refused += 1;
            return;
        }
        let path: Arc<str> = path.into();
        let removed = self.groups.get(&id).is_some_and(|known| known.removed);
        self.groups.insert(id, Group { path: Arc::clone(&path), removed });
        self.ids.insert(path, id);
    }

    fn drop_oldest_removed(&mut self) -> bool {
        let Some(id) = self.removed.pop_front() else { return false };
        if let Some(group) = self.groups.remove(&id)
            && self.ids.get(&group.path) == Some(&id)
        {
            self.ids.remove(&group.path);
        }
        true
    }
}

/// The file system of a hierarchy in a mount table (proc_pid_mountinfo(5)); the one that shows most of it.
fn cgroup_mount(mountinfo: &[u8], prefix: &Path, controller: Option<&str>) -> Option<Mount> {
    let mounts = MountInfos::from_buf_read(mountinfo).ok()?;
    let found = mounts
        .iter()
        .filter(|mount| match controller {
            Some(controller) => mount.fs_type == "cgroup" && mount.super_options.contains_key(controller),
            None => mount.fs_type == "cgroup2",
        })
        .min_by_key(|mount| mount.root.trim_end_matches('/').len())?;
    let relative = found.mount_point.strip_prefix("/").unwrap_or(&found.mount_point);
    Some(Mount { directory: prefix.join(relative), root: found.root.trim_end_matches('/').to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f5c6a7d9be14c0a8a52f0c5b5c0c7d4e9a1b2c3d4e5f60718293a4b5c6d7e8f";
    const OTHER: &str = "aa5c6a7d9be14c0a8a52f0c5b5c0c7d4e9a1b2c3d4e5f60718293a4b5c6d7e8f";

    fn inode(path: &Path) -> u64 {
        fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn finds_the_widest_mount_of_a_hierarchy() {
        let table = b"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
            33 31 0:31 /docker/abc /sys/fs/cgroup/pids ro,relatime - cgroup cgroup rw,pids\n\
            40 31 0:30 /docker/abc /mnt/part rw,relatime - cgroup2 cgroup2 rw\n\
            41 31 0:30 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
        let host = Path::new("/host/proc/1/root");
        let mount = cgroup_mount(table, host, None).unwrap();
        assert_eq!(mount, Mount { directory: "/host/proc/1/root/sys/fs/cgroup/unified".into(), root: String::new() });
        let part = cgroup_mount(table.split_inclusive(|&byte| byte == b'\n').nth(3).unwrap(), Path::new("/"), None).unwrap();
        assert_eq!(part, Mount { directory: "/mnt/part".into(), root: "/docker/abc".into() });
        let pids = cgroup_mount(table, Path::new("/"), Some("pids")).unwrap();
        assert_eq!(pids, Mount { directory: "/sys/fs/cgroup/pids".into(), root: "/docker/abc".into() });
        assert_eq!(cgroup_mount(table, Path::new("/"), Some("cpuacct")).unwrap().directory, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(cgroup_mount(table, Path::new("/"), Some("memory")), None);
        assert_eq!(cgroup_mount(b"not a table", Path::new("/"), None), None);
    }

    /// A directory that is not the root of a hierarchy stands for the mount of a container in a namespace of its own.
    #[test]
    fn a_mount_that_hides_the_names_above_is_not_read() {
        let host = tempfile::tempdir().unwrap();
        let tree = host.path().join("1/root/sys/fs/cgroup");
        fs::create_dir_all(tree.join("inner")).unwrap();
        for (root, expected) in [("/", None), ("/../x", None), ("/docker/abc", Some("/docker/abc/inner"))] {
            fs::write(host.path().join("1/mountinfo"), format!("41 31 0:30 {root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")).unwrap();
            let mut paths = CgroupPaths::find(host.path(), None);
            assert_eq!(paths.path(inode(&tree.join("inner")), 1).as_deref(), expected, "{root}");
        }
    }

    #[test]
    fn walks_again_for_an_unknown_id_but_not_too_often() {
        let tree = tempfile::tempdir().unwrap();
        let docker = tree.path().join("docker");
        fs::create_dir_all(docker.join(ID)).unwrap();
        fs::write(docker.join("cgroup.procs"), "1\n").unwrap();
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
    fn what_a_walk_no_longer_finds_is_kept_for_a_while_and_is_not_among_the_living() {
        let tree = tempfile::tempdir().unwrap();
        let group = tree.path().join("group");
        fs::create_dir(&group).unwrap();
        let id = inode(&group);
        let mut paths = CgroupPaths::at(tree.path().to_owned());
        assert!(paths.path(id, 1).is_some());
        fs::remove_dir(&group).unwrap();
        paths.walk(2);
        assert_eq!(paths.path(id, 3).as_deref(), Some("/group"));
        assert_eq!(paths.iter().map(|(id, _)| id).collect::<Vec<_>>(), [inode(tree.path())]);
    }

    #[test]
    fn events_make_a_walk_unnecessary() {
        let tree = tempfile::tempdir().unwrap();
        let mut paths = CgroupPaths::at(tree.path().to_owned());
        paths.learn(70, "/docker/a");
        assert_eq!(paths.path(70, 1).as_deref(), Some("/docker/a"));
        paths.forget(70);
        paths.forget(71);
        assert_eq!(paths.path(70, 1).as_deref(), Some("/docker/a"), "its events may still be under way");
        assert_eq!((paths.iter().count(), paths.counts().walks), (0, 0));
        // The same name again is another group.
        paths.learn(72, "/docker/a");
        assert_eq!((paths.id("/docker/a", 1), paths.path(70, 1).as_deref()), (Some(72), Some("/docker/a")));
    }

    #[test]
    fn a_renamed_group_takes_what_is_below_it_along() {
        let mut paths = CgroupPaths::new(None, false);
        for (id, path) in [(2, "/lxc/a"), (3, "/lxc/a/b"), (4, "/lxc/ab"), (2, "/lxc/c")] {
            paths.learn(id, path);
        }
        let mut known: Vec<_> = paths.iter().map(|(id, path)| (id, path.to_string())).collect();
        known.sort();
        assert_eq!(known, [(2, "/lxc/c".to_owned()), (3, "/lxc/c/b".to_owned()), (4, "/lxc/ab".to_owned())]);
        assert_eq!((paths.id("/lxc/a", 1), paths.id("/lxc/c/b", 1)), (None, Some(3)));
    }

    #[test]
    fn what_was_removed_longest_ago_makes_room() {
        let mut paths = CgroupPaths::new(None, true);
        let removed = REMOVED_MAX as u64;
        for id in 1..=removed + 1 {
            paths.learn(id, &format!("/{id}"));
            paths.forget(id);
        }
        assert_eq!((paths.path(1, 0), paths.id("/1", 0)), (None, None));
        assert!(paths.path(2, 0).is_some());
        for id in removed + 2..=PATHS_MAX as u64 + 2 {
            paths.learn(id, &format!("/{id}"));
        }
        assert_eq!((paths.groups.len(), paths.path(2, 0).is_some()), (PATHS_MAX, false), "a living group goes before a removed one");
        assert_eq!(paths.counts().refused, 0);
        paths.learn(9, "");
        paths.learn(9, "no/path");
        paths.learn(9, &"/x".repeat(PATH_BYTES_MAX));
        assert_eq!(paths.counts().refused, 3);
    }

    #[test]
    fn a_full_table_of_the_living_refuses_and_counts() {
        let mut paths = CgroupPaths::new(None, true);
        for id in 1..=PATHS_MAX as u64 + 3 {
            paths.learn(id, &format!("/{id}"));
        }
        assert_eq!((paths.groups.len(), paths.ids.len(), paths.counts().refused), (PATHS_MAX, PATHS_MAX, 3));
    }

    #[test]
    fn has_no_paths_without_a_mount() {
        let empty = tempfile::tempdir().unwrap();
        let mut paths = CgroupPaths::find(empty.path(), None);
        assert_eq!(paths.directory(), None);
        assert_eq!(paths.path(1, 0), None);
        assert_eq!(paths.counts().walks, 0);
    }

    #[test]
    fn finds_the_cgroups_of_the_live_host() {
        for controller in [None, Some("pids"), Some("memory")] {
            let mut paths = CgroupPaths::find(Path::new("/proc"), controller);
            let Some(directory) = paths.directory().map(Path::to_owned) else { continue };
            let expected = fs::read_dir(&directory).unwrap().flatten().find(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            assert!(paths.path(inode(&directory), 1).unwrap().starts_with('/'));
            if let Some(entry) = expected {
                let path = paths.path(inode(&entry.path()), 1).unwrap();
                assert!(path.ends_with(&*entry.file_name().to_string_lossy()), "{path}");
            }
        }
    }
}
