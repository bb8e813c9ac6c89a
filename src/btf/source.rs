//! Where BTF is kept: a directory (one of BTFHub's form, or of archives, or of both), one archive, or the archive inside the program.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File, OpenOptions},
    io::{BufReader, ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{errno::Errno, fcntl::OFlag};

use super::{
    BTF_BYTES_MAX, Found,
    archive::{self, Content},
    kernel::{Kernel, Wrapping},
    types,
};

/// What was there when the program was built: an archive, or nothing. build.rs puts it there.
static EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/btf.tar.xz"));

/// Files and folders that are looked at in one directory.
const ENTRIES_MAX: usize = 65_536;
/// What the archives of a directory end in.
const ARCHIVE_SUFFIX: &str = ".tar.xz";

/// A place where BTF is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its files are laid out as [`Kernel`] names them; archives are directly in it.
    Directory(PathBuf),
    Archive(PathBuf),
    Embedded,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Directory(path) | Source::Archive(path) => write!(f, "{}", path.display()),
            Source::Embedded => f.write_str("the archive inside the program"),
        }
    }
}

/// One kernel of a source.
#[derive(Debug)]
pub struct Entry {
    pub kernel: Kernel,
    /// The file or archive that it stands in.
    pub place: Source,
    pub content: Content,
}

impl Source {
    /// # Errors
    /// There is nothing at that path.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).with_context(|| format!("looking for BTF in {}", path.display()))?;
        let path = path.to_owned();
        Ok(if metadata.is_dir() { Source::Directory(path) } else { Source::Archive(path) })
    }

    /// The archive inside the program, where one was put there when it was built.
    pub fn embedded() -> Option<Self> {
        (!EMBEDDED.is_empty()).then_some(Source::Embedded)
    }

    /// The BTF of a kernel, checked; `None` where it is not there.
    ///
    /// # Errors
    /// It is there and cannot be used, or an archive is damaged.
    pub fn find(&self, kernel: &Kernel) -> Result<Option<Found>> {
        let (bytes, place) = match self {
            Source::Directory(directory) => match find_file(directory, kernel)? {
                Some((bytes, path)) => (Some(bytes), path.display().to_string()),
                None => {
                    for archive in archives(directory)? {
                        if let Some(found) = Source::Archive(archive).find(kernel)? {
                            return Ok(Some(found));
                        }
                    }
                    return Ok(None);
                }
            },
            Source::Archive(path) => {
                let found = archive::find(|| open(path), kernel).with_context(|| format!("reading {}", path.display()))?;
                (found, format!("{kernel} in {self}"))
            }
            Source::Embedded => {
                (archive::find(|| Ok(EMBEDDED), kernel).context("reading the archive inside the program")?, format!("{kernel} in {self}"))
            }
        };
        let Some(bytes) = bytes else { return Ok(None) };
        types::check(&bytes, Some(&kernel.architecture)).with_context(|| place.clone())?;
        Ok(Some(Found { kernel: kernel.clone(), origin: place, bytes }))
    }

    /// All kernels, each once, in order.
    ///
    /// # Errors
    /// As [`Source::each`].
    pub fn kernels(&self) -> Result<BTreeSet<Kernel>> {
        let mut kernels = BTreeSet::new();
        self.each(false, &mut |entry| {
            kernels.insert(entry.kernel);
            Ok(())
        })?;
        Ok(kernels)
    }

    /// Visits every kernel; with `read`, what stands there is unpacked, too.
    ///
    /// # Errors
    /// A directory cannot be read, an archive is damaged, a limit is reached; or what `visit` says.
    pub fn each(&self, read: bool, visit: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        let mut in_archive = |kernel, content| visit(Entry { kernel, place: self.clone(), content });
        match self {
            Source::Directory(directory) => {
                for (path, kernel, wrapping) in files(directory)? {
                    let content = match read.then(|| read_file(&path, &kernel, wrapping)) {
                        None => Content::PassedOver,
                        Some(Ok(bytes)) => Content::Bytes(bytes),
                        Some(Err(error)) => Content::Unusable(format!("{error:#}")),
                    };
                    visit(Entry { kernel, place: Source::Archive(path), content })?;
                }
                archives(directory)?.into_iter().try_for_each(|path| Source::Archive(path).each(read, visit))
            }
            Source::Archive(path) => {
                archive::walk(open(path)?, |_| read, in_archive).with_context(|| format!("reading {}", path.display()))
            }
            Source::Embedded => archive::walk(EMBEDDED, |_| read, &mut in_archive).context("reading the archive inside the program"),
        }
    }
}

/// The bytes of one file.
///
/// # Errors
/// It cannot be read, is damaged, or holds something else.
pub fn read_file(path: &Path, kernel: &Kernel, wrapping: Wrapping) -> Result<Vec<u8>> {
    let bytes = match wrapping {
        Wrapping::Plain => read_plain(path)?,
        Wrapping::Xz => archive::xz(open(path)?).with_context(|| format!("reading {}", path.display()))?,
        Wrapping::TarXz => archive::only_file(open(path)?, kernel).with_context(|| format!("reading {}", path.display()))?,
    };
    Ok(bytes)
}

/// The bytes of a file as they are, no more of them than tell that it is too large.
///
/// # Errors
/// It cannot be read.
pub fn read_plain(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open(path)?;
    file.take(BTF_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).with_context(|| format!("reading {}", path.display()))?;
    Ok(bytes)
}

/// Without waiting: the open of a FIFO would wait for somebody who writes.
///
/// # Errors
/// It cannot be opened, or is a FIFO, a device or a socket.
pub(super) fn open(path: &Path) -> Result<BufReader<File>> {
    let file = match OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path) {
        // A socket, or a device that is not there.
        Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => bail!("{} is no regular file", path.display()),
        opened => opened.with_context(|| format!("opening {}", path.display()))?,
    };
    let metadata = file.metadata().with_context(|| format!("looking at {}", path.display()))?;
    // What reading a directory says is clear enough.
    ensure!(metadata.is_file() || metadata.is_dir(), "{} is no regular file", path.display());
    Ok(BufReader::new(file))
}

fn find_file(directory: &Path, kernel: &Kernel) -> Result<Option<(Vec<u8>, PathBuf)>> {
    for wrapping in Wrapping::ALL {
        let path = directory.join(format!("{kernel}{}", wrapping.suffix()));
        match fs::metadata(&path) {
            Ok(_) => return Ok(Some((read_file(&path, kernel, wrapping)?, path))),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error).with_context(|| format!("looking for {}", path.display())),
        }
    }
    Ok(None)
}

/// The archives directly in a directory, sorted.
fn archives(directory: &Path) -> Result<Vec<PathBuf>> {
    let names = names(directory)?.into_iter().filter(|name| name.ends_with(ARCHIVE_SUFFIX) && Wrapping::of(name).is_none());
    Ok(names.map(|name| directory.join(name)).filter(|path| path.is_file()).collect())
}

/// The files of the layout, sorted: four levels, of which others may stand beside (BTFHub has a README and a `.git`).
fn files(directory: &Path) -> Result<Vec<(PathBuf, Kernel, Wrapping)>> {
    let mut folders = vec![String::new()];
    let mut looked_at = 0;
    for _ in 0..3 {
        let mut below = Vec::new();
        for folder in folders {
            let names = names(&directory.join(&folder))?;
            looked_at += names.len();
            ensure!(looked_at <= ENTRIES_MAX, "{} holds more than {ENTRIES_MAX} files", directory.display());
            let paths = names.into_iter().map(|name| format!("{folder}{name}"));
            below.extend(paths.filter(|path| directory.join(path).is_dir()).map(|path| path + "/"));
        }
        folders = below;
    }
    let mut found = Vec::new();
    for folder in folders {
        let names = names(&directory.join(&folder))?;
        looked_at += names.len();
        ensure!(looked_at <= ENTRIES_MAX, "{} holds more than {ENTRIES_MAX} files", directory.display());
        found.extend(names.into_iter().filter_map(|name| {
            let (kernel, wrapping) = Kernel::of_path(&format!("{folder}{name}"))?;
            Some((directory.join(&folder).join(name), kernel, wrapping))
        }));
    }
    Ok(found)
}

/// Names in a folder, sorted, without hidden ones. What is not text cannot be a name of a kernel.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries.take(ENTRIES_MAX + 1) {
        let name = entry.with_context(|| format!("listing {}", folder.display()))?.file_name();
        names.extend(name.into_string().ok().filter(|name| !name.starts_with('.')));
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
