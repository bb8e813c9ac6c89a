//! An archive: a tar compressed by xz, in which equal files are hard links. Read as a stream, so that neither its size nor what it
//! unpacks to is ever in memory; written the same, byte for byte, from the same kernels.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Read, Write},
    num::NonZeroU64,
    rc::Rc,
};

use anyhow::{Context, Result, bail, ensure};
use lzma_rust2::{XzOptions, XzReader, XzWriter};
use tar::{EntryType, Header};

use super::{
    BTF_BYTES_MAX,
    kernel::{Kernel, Wrapping},
};

/// Entries of an archive, those that are no kernels included. All of BTFHub is some 5,000.
const ENTRIES_MAX: usize = 65_536;
/// What an archive may unpack to: all of BTFHub, minimised, is some 20 MiB.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;
/// Memory for unpacking. The presets 6 (ours) and 9 of xz take 9 and 65 MiB.
const XZ_KIB_MAX: u32 = 80 << 10;
pub const XZ_MAGIC: [u8; 6] = *b"\xfd7zXZ\0";
/// The preset of xz: its window of 8 MiB is as much as a reader needs to hold.
const XZ_PRESET: u32 = 6;
/// Blocks make a damaged archive readable up to the damage.
const XZ_BLOCK_BYTES: Option<NonZeroU64> = NonZeroU64::new(64 << 20);

/// What an archive holds under a name.
#[derive(Debug)]
pub enum Content {
    /// Not asked for.
    PassedOver,
    Bytes(Vec<u8>),
    /// The same as an earlier one.
    SameAs(Kernel),
    /// Why this one cannot be had; the others can.
    Unusable(String),
}

/// Visits the kernels of an archive in its order; the bytes of those that are `wanted` are read. Always to its end: only there do its
/// checksums say whether what was read is what was written.
///
/// # Errors
/// The archive is damaged, leads out of itself or is beyond a limit; or what `visit` says.
pub fn walk(archive: impl Read, wanted: impl Fn(&Kernel) -> bool, mut visit: impl FnMut(Kernel, Content) -> Result<()>) -> Result<()> {
    let mut archive = tar::Archive::new(unpacked(archive, UNPACKED_BYTES_MAX)?);
    // Raw: extended headers come as entries of their own, whose sizes nobody believes.
    for (number, entry) in archive.entries().context("reading the archive")?.raw(true).enumerate() {
        let mut entry = entry.with_context(|| format!("reading entry {} of the archive", number + 1))?;
        ensure!(number < ENTRIES_MAX, "the archive has more than {ENTRIES_MAX} entries");
        let path = text(&entry.path_bytes())?;
        ensure!(stays_inside(&path), "the archive has an entry that leads out of it: {path:?}");
        let kind = entry.header().entry_type();
        ensure!(!kind.is_gnu_longname() && !kind.is_gnu_longlink(), "the archive has a name of more than 255 bytes");
        let Some((kernel, Wrapping::Plain)) = Kernel::of_path(&path) else { continue };
        let content = match kind {
            EntryType::Regular | EntryType::Continuous if entry.size() > BTF_BYTES_MAX as u64 => {
                bail!("{kernel} in the archive has {} bytes; a BTF has at most {BTF_BYTES_MAX}", entry.size())
            }
            EntryType::Regular | EntryType::Continuous if !wanted(&kernel) => Content::PassedOver,
            EntryType::Regular | EntryType::Continuous => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).with_context(|| format!("unpacking {kernel}"))?;
                ensure!(bytes.len() as u64 == entry.size(), "the archive ends within {kernel}");
                Content::Bytes(bytes)
            }
            EntryType::Link => {
                let target = text(&entry.link_name_bytes().unwrap_or_default())?;
                match Kernel::of_path(&target) {
                    Some((target, Wrapping::Plain)) => Content::SameAs(target),
                    _ => Content::Unusable(format!("it is a link to {target:?}, which is no kernel of the archive")),
                }
            }
            EntryType::Symlink => Content::Unusable("it is a symbolic link; archives have hard links only".to_owned()),
            EntryType::Directory => continue,
            _ => Content::Unusable("it is no file".to_owned()),
        };
        visit(kernel, content)?;
    }
    read_on(archive.into_inner())
}

/// The bytes of one kernel. An archive is read once, or twice where they stand under another name.
///
/// # Errors
/// As [`walk`], or the kernel is there and cannot be had.
pub fn find<R: Read>(open: impl Fn() -> Result<R>, kernel: &Kernel) -> Result<Option<Vec<u8>>> {
    let take = |wanted: &Kernel| {
        let mut found = None;
        walk(
            open()?,
            |kernel| kernel == wanted,
            |kernel, content| {
                if &kernel == wanted {
                    found = Some(content);
                }
                Ok(())
            },
        )?;
        anyhow::Ok(found)
    };
    let (content, target) = match take(kernel)? {
        Some(Content::SameAs(target)) => (take(&target)?, Some(target)),
        content => (content, None),
    };
    match (content, target) {
        (Some(Content::Bytes(bytes)), _) => Ok(Some(bytes)),
        (Some(Content::Unusable(why)), _) => bail!("{kernel} in the archive: {why}"),
        (_, Some(target)) => bail!("{kernel} in the archive: it is a link to {target}, which is no file of the archive"),
        (_, None) => Ok(None),
    }
}

/// A tar with one file, in BTFHub's form: the BTF of `kernel`.
///
/// # Errors
/// It is damaged, or its file is not that of the kernel.
pub fn only_file(packed: impl Read, kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = tar::Archive::new(unpacked(packed, (2 * BTF_BYTES_MAX) as u64)?);
    for entry in archive.entries().context("reading the tar")?.raw(true) {
        let mut entry = entry.context("reading the tar")?;
        if !matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
            continue;
        }
        let path = text(&entry.path_bytes())?;
        let (name, _) = path.rsplit_once('/').map_or((path.as_str(), ""), |(folders, name)| (name, folders));
        ensure!(name == format!("{}.btf", kernel.release), "the tar holds {path:?}, not {}.btf", kernel.release);
        ensure!(entry.size() <= BTF_BYTES_MAX as u64, "{path} in the tar has {} bytes; a BTF has at most {BTF_BYTES_MAX}", entry.size());
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).with_context(|| format!("unpacking {path}"))?;
        ensure!(bytes.len() as u64 == entry.size(), "the tar ends within {path}");
        return read_on(archive.into_inner()).map(|()| bytes);
    }
    bail!("the tar holds no file")
}

/// Everything in a file compressed by xz.
///
/// # Errors
/// It is damaged, or unpacks to more than a BTF.
pub fn xz(packed: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    unpacked(packed, BTF_BYTES_MAX as u64)?.read_to_end(&mut bytes).context("unpacking")?;
    Ok(bytes)
}

/// Writes an archive. The result depends on the kernels and their bytes alone.
///
/// # Errors
/// Writing failed, or a name is too long for a tar.
pub fn write<W: Write>(kernels: &BTreeMap<Kernel, Rc<[u8]>>, into: W) -> Result<W> {
    let mut options = XzOptions::with_preset(XZ_PRESET);
    options.set_block_size(XZ_BLOCK_BYTES);
    let mut tar = tar::Builder::new(XzWriter::new(into, options).context("starting xz")?);
    let mut first = HashMap::<Rc<[u8]>, String>::new();
    for (kernel, bytes) in kernels {
        let path = format!("{kernel}{}", Wrapping::Plain.suffix());
        let mut header = Header::new_ustar();
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_path(&path).with_context(|| format!("the name {path} is too long for a tar"))?;
        let linked = first.get(bytes).is_some_and(|target| {
            header.set_entry_type(EntryType::Link);
            // A tar has 100 bytes for it; what does not fit is written once more.
            header.set_link_name(target).is_ok()
        });
        header.set_entry_type(if linked { EntryType::Link } else { EntryType::Regular });
        header.set_size(if linked { 0 } else { bytes.len() as u64 });
        header.set_cksum();
        tar.append(&header, if linked { &[] } else { &bytes[..] }).with_context(|| format!("writing {path}"))?;
        first.entry(Rc::clone(bytes)).or_insert(path);
    }
    tar.into_inner().and_then(XzWriter::finish).context("writing the end of the archive")
}

/// To the end, for the checksums.
fn read_on(mut packed: impl Read) -> Result<()> {
    io::copy(&mut packed, &mut io::sink()).context("reading the end of the archive").map(drop)
}

/// What xz holds, up to a limit.
fn unpacked(mut packed: impl Read, bytes_max: u64) -> Result<impl Read> {
    let mut magic = [0; XZ_MAGIC.len()];
    ensure!(packed.read_exact(&mut magic).is_ok() && magic == XZ_MAGIC, "it is not compressed by xz");
    let inner = XzReader::new_mem_limit(io::Cursor::new(magic).chain(packed), true, XZ_KIB_MAX);
    Ok(Limited { inner, left: bytes_max, max: bytes_max })
}

struct Limited<R> {
    inner: R,
    left: u64,
    max: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::other("it is truncated"),
            _ => error,
        })?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other(format!("it unpacks to more than {} MiB", self.max >> 20))),
        }
        Ok(read)
    }
}

fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).ok().context("the archive has a name that is no text")
}

fn stays_inside(path: &str) -> bool {
    !path.starts_with('/') && !path.split('/').any(|part| part == "..")
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
