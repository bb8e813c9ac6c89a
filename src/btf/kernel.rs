//! The name of a kernel in an archive: `<os-release ID>/<VERSION_ID>/<architecture>/<uname -r>`, as BTFHub lays its files out.

use std::fmt;

use serde::Serialize;

/// In the place of VERSION_ID where os-release has none: distributions that have no versions (Arch, Debian sid, Void).
pub const ROLLING: &str = "rolling";

/// Longer than any word of a real name; `uname -r` has at most 64 bytes.
const WORD_BYTES_MAX: usize = 128;

/// One kernel build, and so one BTF.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Kernel {
    /// os-release ID: `ubuntu`, `debian`, `centos`, `rhel`, `fedora`, `amzn`, `ol`, `sles`.
    pub distribution: String,
    /// os-release VERSION_ID, or [`ROLLING`].
    pub version: String,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// `uname -r`.
    pub release: String,
}

/// How the BTF of a kernel stands in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapping {
    Plain,
    Xz,
    /// BTFHub's form: a tar of one file, `<uname -r>.btf`.
    TarXz,
}

impl Wrapping {
    pub const ALL: [Wrapping; 3] = [Wrapping::Plain, Wrapping::Xz, Wrapping::TarXz];

    pub fn suffix(self) -> &'static str {
        match self {
            Wrapping::Plain => ".btf",
            Wrapping::Xz => ".btf.xz",
            Wrapping::TarXz => ".btf.tar.xz",
        }
    }

    /// The name without the suffix, and which it was.
    pub fn of(file_name: &str) -> Option<(&str, Wrapping)> {
        Self::ALL.into_iter().find_map(|wrapping| Some((file_name.strip_suffix(wrapping.suffix())?, wrapping)))
    }
}

impl Kernel {
    /// `None` where a word is empty or could not be the name of a file: nothing that os-release or an archive says may lead elsewhere.
    pub fn new(distribution: &str, version: &str, architecture: &str, release: &str) -> Option<Self> {
        let words = [distribution, version, architecture, release];
        words.iter().all(|word| is_word(word)).then(|| {
            let [distribution, version, architecture, release] = words.map(str::to_owned);
            Self { distribution, version, architecture, release }
        })
    }

    /// From a path below the root of an archive or directory, with suffix: `ubuntu/20.04/x86_64/5.4.0-42-generic.btf`.
    pub fn of_path(path: &str) -> Option<(Self, Wrapping)> {
        let (name, wrapping) = Wrapping::of(path.strip_prefix("./").unwrap_or(path))?;
        Some((Self::of_name(name)?, wrapping))
    }

    /// From what [`Display`](fmt::Display) writes.
    pub fn of_name(name: &str) -> Option<Self> {
        let mut words = name.split('/');
        let (distribution, version, architecture, release) = (words.next()?, words.next()?, words.next()?, words.next()?);
        if words.next().is_some() { None } else { Self::new(distribution, version, architecture, release) }
    }

    /// The numbers and words of the release, so that 5.4.0-42 comes before 5.4.0-100.
    pub fn order(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut rest = self.release.as_str();
        while let Some(first) = rest.chars().next() {
            let is_digit = first.is_ascii_digit();
            let end = rest.find(|c: char| c.is_ascii_digit() != is_digit).unwrap_or(rest.len());
            let (part, after) = rest.split_at(end);
            parts.push(match part.parse() {
                Ok(number) => Part::Number(number),
                Err(_) => Part::Text(part.to_owned()),
            });
            rest = after;
        }
        parts
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Number(u64),
    Text(String),
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.distribution, self.version, self.architecture, self.release)
    }
}

/// The word of a machine as BTFHub writes it.
pub fn architecture(machine: &str) -> &str {
    if machine == "aarch64" { "arm64" } else { machine }
}

fn is_word(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b'\\';
    !word.is_empty() && word.len() <= WORD_BYTES_MAX && !word.starts_with('.') && word.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_each_distribution_are_read_and_written() {
        for path in [
            "ubuntu/20.04/x86_64/5.4.0-42-generic.btf",
            "./debian/10/arm64/4.19.0-18-cloud-arm64.btf.tar.xz",
            "centos/8/x86_64/4.18.0-193.el8.x86_64.btf.xz",
            "amzn/2018/x86_64/4.14.128-87.105.amzn1.x86_64.btf.tar.xz",
            "ol/7/arm64/4.14.35-1818.0.10.el7uek.aarch64.btf.tar.xz",
            "sles/15.3/x86_64/5.3.18-150300.59.43-default.btf",
            "fedora/31/x86_64/5.3.7-301.fc31.x86_64.btf",
            "arch/rolling/x86_64/5.4.2-arch1-1.btf",
        ] {
            let (kernel, wrapping) = Kernel::of_path(path).unwrap();
            assert_eq!(format!("{kernel}{}", wrapping.suffix()), path.trim_start_matches("./"));
            assert_eq!(Kernel::of_name(&kernel.to_string()), Some(kernel));
        }
    }

    #[test]
    fn nothing_that_could_lead_elsewhere_is_a_name() {
        let long = format!("a/b/c/{}.btf", "d".repeat(200));
        for path in
            ["", "a/b/c.btf", "a/b/c/d", "a/b/c/d/e.btf", "/a/b/c/d.btf", "../b/c/d.btf", "a/../c/d.btf", "a//c/d.btf", "a/b/c/.btf", &long]
        {
            assert_eq!(Kernel::of_path(path), None, "{path}");
        }
        assert_eq!(Kernel::new("a", "b c", "x86_64", "1"), None);
        assert_eq!(Kernel::new("a\\b", "1", "x86_64", "1\0"), None);
    }

    #[test]
    fn releases_are_ordered_by_their_numbers() {
        let kernel = |release: &str| Kernel::new("ubuntu", "20.04", "x86_64", release).unwrap();
        let releases = ["5.4.0-9-generic", "5.4.0-42-generic", "5.4.0-100-generic", "5.15.0-1-generic"].map(kernel);
        assert!(releases.is_sorted_by_key(Kernel::order));
    }
}
