//! The recorded conversations of `tests/data/*/*.txt`, whichever protocols there are: one call a line, `>` from the client, `<` from the
//! server, bytes other than printable ASCII, and the backslash, as `\xNN` or behind a backslash.
//!
//! A folder is named after what is spoken; in `others`, the first word of a file's name says that.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use remora::model::{Flow, Protocol};

#[derive(Clone, Debug)]
pub struct Transcript {
    /// What is spoken: "http", "ssh", …
    pub kind: String,
    /// Of the file, without its ending.
    #[allow(dead_code, reason = "not every program that reads transcripts names them")]
    pub name: String,
    pub calls: Vec<(Flow, Vec<u8>)>,
}

impl Transcript {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let word = |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).unwrap_or_default().to_owned();
        let (folder, name) = (word(path.parent().and_then(Path::file_name)), word(path.file_stem()));
        let kind = if folder == "others" { name.split('_').next().unwrap_or_default().to_owned() } else { folder };
        let calls = text.lines().map(call).collect::<Option<Vec<_>>>().with_context(|| format!("{} is no transcript", path.display()))?;
        Ok(Self { kind, name, calls })
    }
}

/// All of them, in the order of their paths.
pub fn all() -> Result<Vec<Transcript>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut paths: Vec<PathBuf> = Vec::new();
    for folder in entries(&root)?.into_iter().filter(|path| path.is_dir()) {
        paths.extend(entries(&folder)?.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "txt")));
    }
    ensure!(!paths.is_empty(), "no transcripts below {}", root.display());
    paths.iter().map(|path| Transcript::read(path)).collect()
}

/// The protocol that has this name in the JSON lines.
#[allow(dead_code, reason = "not every program that reads transcripts asks")]
pub fn protocol(kind: &str) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|protocol| protocol.name() == kind)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn call(line: &str) -> Option<(Flow, Vec<u8>)> {
    let (mark, text) = line.split_at_checked(2)?;
    let flow = match mark {
        "> " => Flow::Request,
        "< " => Flow::Response,
        _ => return None,
    };
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let (&escaped, behind) = rest.split_first()?;
        rest = behind;
        if escaped == b'x' {
            let (digits, behind) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = behind;
        } else {
            bytes.push(escaped);
        }
    }
    Some((flow, bytes))
}
