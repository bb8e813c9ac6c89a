//! Reads the API server's answers piece by piece: bodies in chunks, watches in lines.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, bail};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;

use super::objects::Meta;

/// etcd takes 1.5 MB for an object, unless it is told otherwise.
const LINE_BYTES_MAX: usize = 8 << 20;

/// A body that is read within the patience for each piece of it.
pub struct Answer<'a> {
    pub body: Body,
    pub patience: Duration,
    /// What was read.
    pub bytes: &'a AtomicU64,
}

/// Nothing came within the patience.
#[derive(Debug, thiserror::Error)]
#[error("nothing came for {0:?}")]
pub struct Quiet(Duration);

impl Answer<'_> {
    /// `None` at the orderly end.
    async fn chunk(&mut self) -> anyhow::Result<Option<impl AsRef<[u8]> + use<>>> {
        loop {
            let frame = tokio::time::timeout(self.patience, self.body.frame()).await;
            let frame = frame.map_err(|_| Quiet(self.patience))?;
            let Some(frame) = frame else { return Ok(None) };
            if let Ok(data) = frame.context("the connection broke")?.into_data() {
                self.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                return Ok(Some(data));
            }
        }
    }

    /// The whole body; `None` where it is longer than that.
    pub async fn whole(&mut self, most: usize) -> anyhow::Result<Option<Vec<u8>>> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() + chunk.as_ref().len() > most {
                return Ok(None);
            }
            body.extend_from_slice(chunk.as_ref());
        }
        Ok(Some(body))
    }
}

/// The lines of a watch.
pub struct Lines<'a> {
    pub answer: Answer<'a>,
    read: Vec<u8>,
    /// Of what is read, given out already; and searched for an end of line.
    taken: usize,
    searched: usize,
    skips: bool,
}

/// What there was to read.
pub enum Line<'a> {
    Text(&'a [u8]),
    /// It was too long and is passed over.
    Oversized,
    End,
}

impl<'a> Lines<'a> {
    pub fn new(answer: Answer<'a>) -> Self {
        Self { answer, read: Vec::new(), taken: 0, searched: 0, skips: false }
    }

    /// Loses nothing when it is dropped before it is ready.
    pub async fn next(&mut self) -> anyhow::Result<Line<'_>> {
        loop {
            if let Some(length) = self.read[self.searched..].iter().position(|&byte| byte == b'\n') {
                let (from, to) = (self.taken, self.searched + length);
                (self.taken, self.searched) = (to + 1, to + 1);
                if std::mem::take(&mut self.skips) {
                    return Ok(Line::Oversized);
                }
                if !self.read[from..to].trim_ascii().is_empty() {
                    return Ok(Line::Text(&self.read[from..to]));
                }
                continue;
            }
            self.read.drain(..self.taken);
            self.taken = 0;
            if self.read.len() > LINE_BYTES_MAX {
                self.skips = true;
                self.read.clear();
            }
            if self.read.is_empty() {
                // After a long line or a burst.
                self.read.shrink_to(64 << 10);
            }
            self.searched = self.read.len();
            match self.answer.chunk().await? {
                Some(chunk) => self.read.extend_from_slice(chunk.as_ref()),
                None if self.read.is_empty() && !self.skips => return Ok(Line::End),
                None => bail!("the watch ended in the middle of a line"),
            }
        }
    }
}

/// A line of a watch (WatchEvent).
#[derive(Deserialize)]
pub struct Event<T> {
    #[serde(rename = "type")]
    pub kind: String,
    pub object: T,
}

/// What of an object that is not understood is still needed.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Bare {
    pub metadata: BareMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BareMeta {
    pub resource_version: String,
}

/// The object of a BOOKMARK.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Bookmark {
    pub metadata: Meta,
}

/// What the API server says of a failure (Status).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    pub code: u16,
    pub message: String,
    pub reason: String,
}

/// A page of a list.
#[derive(Deserialize)]
pub struct Page<T> {
    #[serde(default)]
    pub metadata: PageMeta,
    pub items: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PageMeta {
    pub resource_version: String,
    #[serde(rename = "continue")]
    pub rest: Option<String>,
}
