//! Which kernel runs here, by the name that an archive would give it. The distribution is that of the host: a container has an
//! os-release of its own, which says nothing of the kernel.

use std::{
    fs,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::kernel::{Kernel, ROLLING, architecture};

/// os-release(5) files are some 500 bytes.
const OS_RELEASE_BYTES_MAX: u64 = 64 << 10;
/// PROC_PID_INIT_INO and PROC_CGROUP_INIT_INO of the kernel's include/linux/proc_ns.h: the host's own.
const HOST_PID_NAMESPACE: u64 = 0xeffffffc;
const HOST_CGROUP_NAMESPACE: u64 = 0xeffffffb;
/// Engines name a container's control group by its id, of so many hexadecimal digits.
const CONTAINER_ID_DIGITS: usize = 64;
/// os-release(5): the first is read, where it is not there the second.
const PLACES: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

/// The host as archives name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Host {
    pub kernel: Kernel,
    /// The file that told the distribution, as seen from here.
    pub os_release: PathBuf,
}

impl Host {
    /// Asks `uname` and the host's os-release.
    ///
    /// # Errors
    /// No os-release of the host is in sight, or what it says is no name.
    pub fn detect() -> Result<Self> {
        let name = nix::sys::utsname::uname().context("asking for the kernel's name")?;
        let (release, machine) = (name.release().to_string_lossy().into_owned(), name.machine().to_string_lossy().into_owned());
        Self::from(Path::new("/"), Sights::ask(), &release, &machine)
    }

    fn from(root: &Path, sights: Sights, release: &str, machine: &str) -> Result<Self> {
        let (os_release, text) = os_release(root, sights)?;
        let (distribution, version) = distribution(&text);
        let version = version.unwrap_or(ROLLING.to_owned());
        let kernel = Kernel::new(&distribution, &version, architecture(machine), release)
            .with_context(|| format!("{}: no name of a distribution: ID={distribution:?}, VERSION_ID={version:?}", os_release.display()))?;
        Ok(Self { kernel, os_release })
    }

    /// The names to look for, in this order: as os-release has it, and with the major version alone, as BTFHub has it for some
    /// (`rhel/7`, `ol/8`, `amzn/2018`). The release of the kernel is the same in both, so neither is a guess.
    pub fn names(&self) -> Vec<Kernel> {
        let major = self.kernel.version.split_once('.').map(|(major, _)| Kernel { version: major.to_owned(), ..self.kernel.clone() });
        [self.kernel.clone()].into_iter().chain(major).collect()
    }
}

/// What can be seen of the host from here.
#[derive(Clone, Copy, Debug)]
struct Sights {
    /// Process 1 is the host's.
    first_process: bool,
    /// We are in a container, as far as it can be told.
    container: bool,
}

impl Sights {
    /// A file like `/.dockerenv` tells nothing: it is in every machine that was made from an image.
    fn ask() -> Self {
        let is = |name: &str, inode| fs::metadata(format!("/proc/self/ns/{name}")).is_ok_and(|namespace| namespace.ino() == inode);
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        Self {
            first_process: is("pid", HOST_PID_NAMESPACE),
            container: pod || names_container(&cgroups) || !is("cgroup", HOST_CGROUP_NAMESPACE),
        }
    }
}

/// Whether a path of proc_pid_cgroup(5) has the id of a container.
fn names_container(cgroups: &str) -> bool {
    cgroups.split(|c: char| !c.is_ascii_hexdigit()).any(|word| word.len() == CONTAINER_ID_DIGITS)
}

/// The os-release of the host: through its first process; or where it was mounted; or our own, where nothing says that we are in a
/// container.
fn os_release(root: &Path, sights: Sights) -> Result<(PathBuf, String)> {
    // Another pid namespace is a container's, or as good as one's.
    let own = sights.first_process && !sights.container;
    let mut tried = Vec::new();
    for (host, allowed) in [("proc/1/root", sights.first_process), ("host", true), ("", own)] {
        if !allowed {
            continue;
        }
        for place in PLACES {
            match read_below(&root.join(host), place) {
                Ok(text) => return Ok((root.join(host).join(place), text)),
                Err(error) => tried.push(format!("{} ({error})", root.join(host).join(place).display())),
            }
        }
    }
    bail!(
        "no os-release of the host in sight: tried {}{}; run with the host's pid namespace (docker run --pid host, Kubernetes hostPID: \
         true), or mount its /etc/os-release at /host/etc/os-release",
        tried.join(", "),
        if own { "" } else { "; the one of this container says nothing of the kernel" }
    )
}

/// Reads a file of another root. Its links are followed there: often it is one itself, on NixOS with a path from the root.
fn read_below(root: &Path, place: &str) -> std::io::Result<String> {
    let mut path = root.join(place);
    for _ in 0..8 {
        let Ok(target) = fs::read_link(&path) else { break };
        path = match target.strip_prefix("/") {
            Ok(absolute) => root.join(absolute),
            Err(_) => path.parent().unwrap_or(root).join(target),
        };
    }
    let mut text = String::new();
    fs::File::open(path)?.take(OS_RELEASE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// ID and VERSION_ID of os-release(5), which is written as a shell would read it. Without ID it is `linux`.
fn distribution(text: &str) -> (String, Option<String>) {
    let value = |key: &str| {
        let values = text.lines().filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        values.map(unquoted).rfind(|value| !value.is_empty())
    };
    (value("ID").unwrap_or("linux".to_owned()), value("VERSION_ID"))
}

fn unquoted(value: &str) -> String {
    let value = value.trim();
    let inner = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    inner.unwrap_or(value).replace('\\', "")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const UBUNTU: &str = "NAME=\"Ubuntu\"\nVERSION=\"20.04.6 LTS (Focal Fossa)\"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"20.04\"\n";
    const HOST: Sights = Sights { first_process: true, container: false };
    const POD: Sights = Sights { first_process: true, container: true };
    const CONTAINER: Sights = Sights { first_process: false, container: true };

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn name(files: &[(&str, &str)], sights: Sights) -> Result<String> {
        let root = root(files);
        Host::from(root.path(), sights, "5.4.0-42-generic", "x86_64").map(|host| host.kernel.to_string())
    }

    #[test]
    fn os_release_is_read_as_each_distribution_writes_it() {
        for (text, expected) in [
            (UBUNTU, ("ubuntu", Some("20.04"))),
            ("PRETTY_NAME=\"Debian GNU/Linux 11 (bullseye)\"\nVERSION_ID=\"11\"\nID=debian\n", ("debian", Some("11"))),
            ("NAME=\"CentOS Linux\"\nID=\"centos\"\nID_LIKE=\"rhel fedora\"\nVERSION_ID=\"7\"\n", ("centos", Some("7"))),
            ("ID=fedora\nVERSION_ID=31\nPLATFORM_ID=\"platform:f31\"\n", ("fedora", Some("31"))),
            ("ID=\"amzn\"\nVERSION_ID=\"2\"\n", ("amzn", Some("2"))),
            ("ID=\"ol\"\nVERSION_ID=\"7.9\"\n", ("ol", Some("7.9"))),
            ("ID=\"sles\"\nVERSION_ID=\"15.3\"\n", ("sles", Some("15.3"))),
            ("NAME='Arch Linux'\nID=arch\nBUILD_ID=rolling\n", ("arch", None)),
            ("# nothing\nVERSION_ID=\n", ("linux", None)),
        ] {
            let (id, version) = distribution(text);
            assert_eq!((id.as_str(), version.as_deref()), expected, "{text}");
        }
    }

    #[test]
    fn the_hosts_own_file_comes_before_a_mounted_one_and_that_before_ours() {
        let host = ("proc/1/root/usr/lib/os-release", UBUNTU);
        let mounted = ("host/etc/os-release", "ID=debian\nVERSION_ID=10\n");
        let ours = ("etc/os-release", "ID=alpine\nVERSION_ID=3.20\n");
        let files = [host, mounted, ours];
        assert_eq!(name(&files, POD).unwrap(), "ubuntu/20.04/x86_64/5.4.0-42-generic");
        assert_eq!(name(&files, CONTAINER).unwrap(), "debian/10/x86_64/5.4.0-42-generic");
        assert_eq!(name(&[ours], HOST).unwrap(), "alpine/3.20/x86_64/5.4.0-42-generic");
    }

    #[test]
    fn a_containers_own_file_is_never_taken_for_the_hosts() {
        for sights in [POD, CONTAINER, Sights { first_process: false, container: false }] {
            let error = name(&[("etc/os-release", "ID=alpine\nVERSION_ID=3.20\n")], sights).unwrap_err().to_string();
            assert!(error.contains("host/etc/os-release") && error.contains("hostPID"), "{error}");
        }
    }

    #[test]
    fn a_container_is_told_by_its_control_group() {
        let id = "0123456789abcdef".repeat(4);
        for path in
            ["docker/{id}", "kubepods/besteffort/pod7a/{id}", "system.slice/docker-{id}.scope", "machine.slice/libpod-{id}.scope/container"]
        {
            assert!(names_container(&format!("9:name=systemd:/\n4:memory:/{}\n", path.replace("{id}", &id))), "{path}");
        }
        for path in ["", "system.slice/remora.service", "user.slice/user-0.slice/session-3.scope", "a/a45333cdef36775064a717b4e1102a5f"] {
            assert!(!names_container(&format!("0::/{path}\n")), "{path}");
        }
    }

    #[test]
    fn links_of_the_host_are_followed_there_and_not_here() {
        let root = root(&[("proc/1/root/etc/static/os-release", "ID=nixos\nVERSION_ID=\"24.05\"\n"), ("etc/static/os-release", UBUNTU)]);
        symlink("/etc/static/os-release", root.path().join("proc/1/root/etc/os-release")).unwrap();
        let host = Host::from(root.path(), POD, "6.6.1", "aarch64").unwrap();
        assert_eq!(host.kernel.to_string(), "nixos/24.05/arm64/6.6.1");
        assert!(host.os_release.ends_with("proc/1/root/etc/os-release"), "{host:?}");
        fs::remove_file(root.path().join("proc/1/root/etc/os-release")).unwrap();
        symlink("os-release", root.path().join("proc/1/root/etc/os-release")).unwrap();
        assert!(Host::from(root.path(), POD, "6.6.1", "aarch64").is_err(), "a circle ends");
    }

    #[test]
    fn a_hostile_os_release_is_no_name() {
        let error = name(&[("etc/os-release", "ID=../../etc\nVERSION_ID=1\n")], HOST).unwrap_err().to_string();
        assert!(error.contains("no name of a distribution"), "{error}");
    }

    #[test]
    fn names_are_that_of_os_release_then_btfhubs_and_rolling_where_there_are_no_versions() {
        let names = |text: &str| {
            let root = root(&[("etc/os-release", text)]);
            let host = Host::from(root.path(), HOST, "5.4.17-2136", "x86_64").unwrap();
            host.names().iter().map(Kernel::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names("ID=ol\nVERSION_ID=7.9"), ["ol/7.9/x86_64/5.4.17-2136", "ol/7/x86_64/5.4.17-2136"]);
        assert_eq!(names("ID=debian\nVERSION_ID=11"), ["debian/11/x86_64/5.4.17-2136"]);
        assert_eq!(names("ID=arch"), ["arch/rolling/x86_64/5.4.17-2136"]);
    }

    #[test]
    fn this_host_has_a_name_or_says_why_not() {
        match Host::detect() {
            Ok(host) => assert!(!host.kernel.release.is_empty() && host.os_release.exists()),
            Err(error) => assert!(error.to_string().contains("os-release"), "{error}"),
        }
    }
}
