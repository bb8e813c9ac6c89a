//! `remora btf`: what is in archives, whether it is sound, and how one is made.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    io::{BufWriter, Read, Write},
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Subcommand, ValueHint};
use serde::Serialize;

use super::{
    BTF_BYTES_MAX, Kernel, Source,
    archive::{self, Content},
    kernel::{Wrapping, architecture},
    source::{Entry, open, read_file},
    sources, types,
};
use crate::{config::BtfArchive, skel};

/// What all BTFs of a new archive may take together. They are in memory while it is made; minimised, those of all of BTFHub take 20 MiB.
const PACKED_BYTES_MAX: usize = 512 << 20;
/// Problems that one message names.
const PROBLEMS_MAX: usize = 10;

/// What to do with archives of BTF.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Action {
    /// Name the kernels whose BTF is there
    List {
        /// Directories or archives; without any, those of --btf-archive
        #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
        paths: Vec<PathBuf>,
        /// A JSON array instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Make an archive of a directory (or a smaller one of an archive)
    Pack {
        /// A directory laid out as ID/VERSION_ID/ARCHITECTURE/RELEASE.btf, or an archive
        #[arg(value_name = "DIR", value_hint = ValueHint::AnyPath)]
        from: PathBuf,
        /// The archive to write; what stands in it is replaced
        #[arg(value_name = "ARCHIVE", value_hint = ValueHint::FilePath)]
        to: PathBuf,
        /// Take only kernels whose names begin so, as in ubuntu/20.04; repeatable
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
    },
    /// Check every BTF: whole, sound, of a kernel, of the architecture that its name says; one line for each problem
    Check {
        /// Directories, archives or single files; without any, those of --btf-archive
        #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
        paths: Vec<PathBuf>,
    },
    /// Write the programs' objects, for which BTF is minimised, to DIR/ARCHITECTURE
    Objects {
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        to: PathBuf,
    },
}

impl Action {
    /// Does it and gives what is to be said of it. False: problems were found, and are said.
    ///
    /// # Errors
    /// It could not be done.
    pub fn run(&self, setting: &BtfArchive) -> Result<(String, bool)> {
        let mut out = Vec::new();
        let sound = match self {
            Action::List { paths, json } => list(&opened(paths, setting)?, *json, &mut out).map(|()| true),
            Action::Pack { from, to, only } => pack(&Source::open(from)?, to, only, &mut out).map(|()| true),
            Action::Check { paths } => check(paths, setting, &mut out),
            Action::Objects { to } => write_objects(to, &mut out).map(|()| true),
        }?;
        Ok((String::from_utf8_lossy(&out).into_owned(), sound))
    }
}

fn opened(paths: &[PathBuf], setting: &BtfArchive) -> Result<Vec<Source>> {
    match (paths, setting) {
        ([], BtfArchive::At(path)) => Ok(vec![Source::open(path)?]),
        // Of the usual places some are mostly not there.
        ([], _) => Ok(sources(setting).into_iter().flatten().collect()),
        _ => paths.iter().map(|path| Source::open(path)).collect(),
    }
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    kernel: &'a Kernel,
    source: String,
}

fn list(sources: &[Source], json: bool, out: &mut Vec<u8>) -> Result<()> {
    let held = sources.iter().map(|source| Ok((source, source.kernels()?))).collect::<Result<Vec<_>>>()?;
    if json {
        let lines = held.iter().flat_map(|(source, kernels)| kernels.iter().map(|kernel| Line { kernel, source: source.to_string() }));
        serde_json::to_writer_pretty(&mut *out, &lines.collect::<Vec<_>>()).context("writing the list")?;
        return writeln!(out).context("writing the list");
    }
    let kernels = held.iter().flat_map(|(_, kernels)| kernels).collect::<BTreeSet<_>>();
    kernels.into_iter().try_for_each(|kernel| writeln!(out, "{kernel}")).context("writing the list")
}

fn pack(from: &Source, to: &Path, only: &[String], out: &mut Vec<u8>) -> Result<()> {
    let wanted = |kernel: &Kernel| {
        let name = kernel.to_string();
        only.is_empty() || only.iter().any(|prefix| name.starts_with(prefix))
    };
    let mut kernels = BTreeMap::<Kernel, Rc<[u8]>>::new();
    let mut different = HashSet::<Rc<[u8]>>::new();
    let (mut problems, mut bytes_in_all) = (Vec::new(), 0);
    from.each(true, &mut |entry| {
        let bytes = match content(&entry, &kernels) {
            Ok(bytes) => bytes,
            Err(why) => {
                if wanted(&entry.kernel) {
                    problems.push(format!("{}: {why}", entry.kernel));
                }
                return Ok(());
            }
        };
        let bytes = different.get(&bytes[..]).cloned().unwrap_or_else(|| {
            bytes_in_all += bytes.len();
            different.insert(Rc::clone(&bytes));
            bytes
        });
        ensure!(bytes_in_all <= PACKED_BYTES_MAX, "the BTFs have more than {} MiB: minimise them first", PACKED_BYTES_MAX >> 20);
        kernels.entry(entry.kernel).or_insert(bytes);
        Ok(())
    })?;
    // Those that are not wanted were kept for links to them.
    kernels.retain(|kernel, _| wanted(kernel));
    if !problems.is_empty() {
        let more = problems.len().saturating_sub(PROBLEMS_MAX);
        let more = if more == 0 { String::new() } else { format!("; and {more} more") };
        bail!("{} of {} cannot be packed: {}{more}", problems.len(), from, problems[..problems.len().min(PROBLEMS_MAX)].join("; "));
    }
    ensure!(!kernels.is_empty(), "no kernel in {from} to be packed{}", if only.is_empty() { "" } else { " of those names" });
    let length = replace(to, |file| archive::write(&kernels, file)).with_context(|| format!("writing {}", to.display()))?;
    let different = kernels.values().collect::<HashSet<_>>().len();
    writeln!(out, "{}: {} kernels, {different} different, {length} bytes", to.display(), kernels.len()).context("writing the result")
}

/// The checked bytes of an entry; those of a link from the ones before it.
fn content(entry: &Entry, before: &BTreeMap<Kernel, Rc<[u8]>>) -> Result<Rc<[u8]>, String> {
    let bytes: Rc<[u8]> = match &entry.content {
        Content::Bytes(bytes) => bytes.as_slice().into(),
        Content::SameAs(target) => {
            Rc::clone(before.get(target).ok_or_else(|| format!("it is a link to {target}, which is no file before it"))?)
        }
        Content::Unusable(why) => return Err(why.clone()),
        Content::PassedOver => return Err("it was not read".to_owned()),
    };
    types::check(&bytes, Some(&entry.kernel.architecture)).map_err(|fault| fault.to_string())?;
    Ok(bytes)
}

/// Writes beside a file and puts the result in its place, so that nobody reads half of it. Gives its length.
fn replace(to: &Path, write: impl FnOnce(BufWriter<File>) -> Result<BufWriter<File>>) -> Result<u64> {
    let mut beside = to.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = File::create(&beside).map_err(Into::into).and_then(|file| {
        let file = write(BufWriter::new(file))?.into_inner().map_err(|error| error.into_error())?;
        let length = file.metadata()?.len();
        fs::rename(&beside, to)?;
        anyhow::Ok(length)
    });
    if written.is_err() {
        // What failed is said; that the remains cannot be removed adds nothing.
        drop(fs::remove_file(&beside));
    }
    written
}

fn check(paths: &[PathBuf], setting: &BtfArchive, out: &mut Vec<u8>) -> Result<bool> {
    let mut tally = Tally::default();
    if paths.is_empty() {
        for source in opened(&[], setting)? {
            tally.source(&source, out)?;
        }
    }
    for path in paths {
        match Source::open(path) {
            Ok(Source::Archive(path)) if !is_archive(&path) => tally.file(&path, out)?,
            Ok(source) => tally.source(&source, out)?,
            Err(error) => tally.problem(&format!("{error:#}"), out)?,
        }
    }
    writeln!(out, "{} sound, {} with problems", tally.sound, tally.problems).context("writing the result")?;
    Ok(tally.problems == 0)
}

#[derive(Default)]
struct Tally {
    sound: usize,
    problems: usize,
}

impl Tally {
    fn problem(&mut self, what: &str, out: &mut Vec<u8>) -> Result<()> {
        self.problems += 1;
        writeln!(out, "{what}").context("writing a problem")
    }

    fn source(&mut self, source: &Source, out: &mut Vec<u8>) -> Result<()> {
        // What is sound, for the links to it; of what size it is does not matter.
        let (mut sound, mut problems) = (BTreeMap::new(), Vec::new());
        let nothing: Rc<[u8]> = Rc::new([]);
        let read = source.each(true, &mut |entry| {
            let result = match &entry.content {
                // Sound as its target is, where it is of the same architecture: equal files of two would be foreign to one.
                Content::SameAs(target) if target.architecture == entry.kernel.architecture && sound.contains_key(target) => Ok(()),
                _ => content(&entry, &sound).map(drop),
            };
            match result {
                Ok(()) => drop(sound.insert(entry.kernel, Rc::clone(&nothing))),
                Err(why) => problems.push(format!("{}: {}: {why}", entry.place, entry.kernel)),
            }
            Ok(())
        });
        self.sound += sound.len();
        for problem in problems {
            self.problem(&problem, out)?;
        }
        match read {
            Ok(()) => Ok(()),
            Err(error) => self.problem(&format!("{error:#}"), out),
        }
    }

    /// A single BTF, in any wrapping; its path says of which kernel it is, if it is long enough.
    fn file(&mut self, path: &Path, out: &mut Vec<u8>) -> Result<()> {
        let full = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let parts = full.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>();
        let name = parts.last().cloned().unwrap_or_default();
        let kernel = Kernel::of_path(&parts[parts.len().saturating_sub(4)..].join("/"));
        let named = kernel.as_ref().map(|(kernel, _)| kernel.architecture.as_str()).filter(|name| ["x86_64", "arm64"].contains(name));
        let (release, wrapping) = Wrapping::of(&name).unwrap_or((&name, Wrapping::Plain));
        let of = Kernel::new("file", "1", named.unwrap_or("any"), release);
        let checked = of.context("its name is no name of a kernel").and_then(|of| {
            let bytes = read_file(path, &of, wrapping)?;
            Ok(types::check(&bytes, named)?)
        });
        match checked {
            Ok(contents) => {
                self.sound += 1;
                let architecture = contents.architecture.unwrap_or("an architecture that it does not say");
                writeln!(out, "{}: {} types of a kernel for {architecture}", path.display(), contents.types).context("writing the result")
            }
            Err(error) => self.problem(&format!("{}: {error:#}", path.display()), out),
        }
    }
}

/// Whether a file is an archive rather than one BTF: compressed, and not named as one BTF is.
fn is_archive(path: &Path) -> bool {
    let mut magic = [0; archive::XZ_MAGIC.len()];
    let is_xz = open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok()) && magic == archive::XZ_MAGIC;
    is_xz && path.file_name().and_then(|name| name.to_str()).is_none_or(|name| Wrapping::of(name).is_none())
}

fn write_objects(to: &Path, out: &mut Vec<u8>) -> Result<()> {
    let folder = to.join(architecture(std::env::consts::ARCH));
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for (name, object) in skel::OBJECTS {
        let path = folder.join(format!("{name}.bpf.o"));
        fs::write(&path, object).with_context(|| format!("writing {}", path.display()))?;
        writeln!(out, "{}", path.display()).context("writing the list")?;
    }
    Ok(())
}

const _: () = assert!(BTF_BYTES_MAX < PACKED_BYTES_MAX);
