//! Control groups that look like those of container engines, in every hierarchy of this machine, gone with the test.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

/// The same path in the unified tree and in the version 1 trees that container engines use.
pub struct Cgroup {
    directories: Vec<PathBuf>,
}

impl Cgroup {
    /// `path` is relative to the root of a hierarchy, such as `docker/0123…`.
    pub fn new(path: &str) -> Self {
        let roots = roots();
        assert!(!roots.is_empty(), "no cgroup hierarchy is mounted below /sys/fs/cgroup");
        Self::below(&roots, path)
    }

    /// In one tree only: what is started inside stays where it is in all others.
    pub fn in_one(root: &Path, path: &str) -> Self {
        Self::below(&[root.to_owned()], path)
    }

    fn below(roots: &[PathBuf], path: &str) -> Self {
        let make = |root: &PathBuf| {
            let directory = root.join(path);
            std::fs::create_dir_all(&directory).unwrap_or_else(|error| panic!("make {}: {error}", directory.display()));
            directory
        };
        Self { directories: roots.iter().map(make).collect() }
    }

    /// The kernel's number of the group, in the first of its trees.
    pub fn id(&self) -> u64 {
        std::fs::metadata(&self.directories[0]).expect("look at a control group").ino()
    }

    /// Starts a program inside: a shell moves itself there and becomes the program.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut script = String::new();
        for directory in &self.directories {
            script += &format!("echo $$ > {}/cgroup.procs && ", directory.display());
        }
        script += "exec \"$0\" \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(program);
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in &self.directories {
            // A process that just ended can hold the directory for a moment. Parents that others use stay, by EBUSY.
            for _ in 0..100 {
                if std::fs::remove_dir(directory).is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            if let Some(parent) = directory.parent() {
                std::fs::remove_dir(parent).ok();
            }
        }
    }
}

/// The trees that container engines use on this machine.
pub fn roots() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let of_this_machine = ["unified", "memory", "pids"].map(|name| top.join(name));
    let mut roots: Vec<PathBuf> = of_this_machine.into_iter().filter(|root| root.join("cgroup.procs").exists()).collect();
    // Version 2 alone: the top is the tree.
    if top.join("cgroup.controllers").exists() {
        roots.push(top.to_owned());
    }
    roots
}
