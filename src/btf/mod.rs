//! Types of kernels that carry none: BTF of many kernels in an archive, found by the name of the host's.
//!
//! [`look_up`] is what the loader asks where the running kernel has no BTF and no file was given: it takes the BTF of exactly this
//! kernel, checked, or says in one message where it was looked for, what is nearest and what can be done. Knows nothing of programs
//! and how they are loaded.

mod archive;
mod command;
mod host;
mod kernel;
mod miss;
mod source;
mod types;

use std::{
    fs::File,
    io::Write,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};

pub use command::Action;
pub use host::Host;
pub use kernel::{Kernel, architecture};
pub use miss::{Miss, Searched, without_btf};
pub use source::{Source, read_plain};
pub use types::{Contents, Fault, check};

use crate::config::BtfArchive;

/// The whole BTF of a kernel has 3 to 6 MB; twice the kernel's own limit for programs (BTF_MAX_SIZE, include/linux/btf.h, is 16 MB).
pub const BTF_BYTES_MAX: usize = 16 << 20;

/// The BTF of exactly the kernel that was asked for, whole and sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub kernel: Kernel,
    /// Where it was, for a person.
    pub origin: String,
    pub bytes: Vec<u8>,
}

impl Found {
    /// A file for libbpf, which wants a path; in memory, so it works where nothing can be written.
    ///
    /// # Errors
    /// The kernel gives no such file.
    pub fn into_file(self) -> Result<BtfFile> {
        let descriptor = memfd_create(c"btf", MFdFlags::MFD_CLOEXEC).context("making a file in memory for the kernel's types")?;
        let mut file = File::from(descriptor);
        file.write_all(&self.bytes).context("writing the kernel's types to memory")?;
        Ok(BtfFile { descriptor: file.into(), origin: self.origin })
    }
}

/// BTF as a file. Its path is good as long as this value lives.
#[derive(Debug)]
pub struct BtfFile {
    descriptor: OwnedFd,
    /// Where it was found, for a person.
    pub origin: String,
}

impl BtfFile {
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.descriptor.as_fd().as_raw_fd()))
    }
}

/// Where archives are, in the order in which they are asked.
pub fn sources(setting: &BtfArchive) -> Vec<Result<Source, Searched>> {
    let open = |path: PathBuf| Source::open(&path).map_err(|error| Searched::failed(&path, &error));
    let mut sources: Vec<_> = setting.paths().into_iter().map(open).collect();
    if *setting == BtfArchive::Auto {
        sources.push(Source::embedded().ok_or_else(Searched::not_embedded));
    }
    sources
}

/// The BTF of the kernel that runs here, out of the first archive that has it.
///
/// # Errors
/// [`Miss`]: none has it. Its text is whole and for a person.
pub fn look_up(setting: &BtfArchive) -> Result<Found, Box<Miss>> {
    look_up_for(Host::detect(), sources(setting))
}

fn look_up_for(host: Result<Host>, sources: Vec<Result<Source, Searched>>) -> Result<Found, Box<Miss>> {
    let names = host.as_ref().map(Host::names).unwrap_or_default();
    let (mut searched, mut kernels) = (Vec::new(), std::collections::BTreeSet::new());
    for source in sources {
        let source = match source {
            Ok(source) => source,
            Err(absent) => {
                searched.push(absent);
                continue;
            }
        };
        match names.iter().find_map(|name| source.find(name).transpose()) {
            Some(Ok(found)) => return Ok(found),
            Some(Err(error)) => searched.push(Searched::damaged(&source, &error)),
            None => match source.kernels() {
                Ok(held) => {
                    searched.push(Searched::without(&source, held.len()));
                    kernels.extend(held);
                }
                Err(error) => searched.push(Searched::damaged(&source, &error)),
            },
        }
    }
    Err(Box::new(Miss::new(host, searched, &kernels)))
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
