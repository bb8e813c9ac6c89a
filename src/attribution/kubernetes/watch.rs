//! Follows the kinds of the API, each by itself: a list, then what changes. Decides what to do when that fails.
//!
//! Not by the watcher of kube's runtime: one object that is not understood would cost it the whole list, it does not see a server that
//! passes over a request for a streaming list, and it has no count of bytes.

mod requests;

use std::{
    collections::HashSet,
    convert::Infallible,
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use kube::Client;
use serde::de::DeserializeOwned;
use tracing::{debug, info, warn};

use super::{
    Options,
    connect::{self, Found},
    health::{Kind, KindCounters, State, Verb},
    objects::{Meta, MetaObject, NodeObject, PodObject, ServiceObject, SliceObject},
    store::Cluster,
    writer::{Moment, Writer},
};
use crate::attribution::pauses::jittered;

/// A page of a list; 100 pods of 8 KB are 0.8 MB, and what is held at once stays resident.
const PAGE: u32 = 100;
/// Beyond this smaller pages are asked for.
const PAGE_BYTES_MAX: usize = 64 << 20;
/// After so many objects others get their turn.
const TURN: usize = 32;
/// The server ends a watch after this time; up to a fifth is added.
const WATCH_S: u32 = 240;
/// Within this time a watch that is taken up again says whether it can be.
const AT_ONCE: Duration = Duration::from_millis(500);
/// Marks the end of a streaming list.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// How patient the watch is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub first_retry: Duration,
    pub longest_retry: Duration,
    /// Between questions that RBAC forbids: so long at most, from the first retry on.
    pub forbidden: Duration,
    /// For the head of an answer, and each piece of a list.
    pub answer: Duration,
    /// Without any line of a watch: bookmarks come about once a minute.
    pub quiet: Duration,
    /// Without any line of a streaming list.
    pub streaming: Duration,
    /// Between looks for what may be forgotten.
    pub sweep: Duration,
}

const PACE: Pace = Pace {
    first_retry: Duration::from_millis(500),
    longest_retry: Duration::from_secs(30),
    forbidden: Duration::from_secs(60),
    answer: Duration::from_secs(60),
    quiet: Duration::from_secs(150),
    streaming: Duration::from_secs(10),
    sweep: Duration::from_secs(10),
};

/// Keeps `cluster` as the API server tells, until `shutdown` is ready. Must run on a tokio runtime with I/O and time enabled.
///
/// # Errors
/// A cluster is demanded or named, and cannot be asked. Failures after that only make the copy grow old.
pub async fn watch(options: Options, cluster: Arc<Cluster>, shutdown: impl Future<Output = ()>) -> Result<()> {
    let mut shutdown = pin!(shutdown);
    let found = tokio::select! {
        () = &mut shutdown => return Ok(()),
        found = connect::find(&options) => found?,
    };
    if let Some(found) = found {
        watch_at(PACE, found, &options, cluster, shutdown).await;
    }
    Ok(())
}

pub(super) async fn watch_at(pace: Pace, found: Found, options: &Options, cluster: Arc<Cluster>, shutdown: impl Future<Output = ()>) {
    cluster.set_server(&found.server);
    let writer = Mutex::new(Writer::new(Arc::clone(&cluster), options));
    let server = Server { pace, client: found.client, url: found.server, cluster, writer, has_said: AtomicBool::new(false) };
    let server = &server;
    let follower = |kind| Follower::new(server, kind, options);
    let followers = async {
        tokio::join!(
            follower(Kind::ReplicaSets).follow::<MetaObject>(),
            follower(Kind::Jobs).follow::<MetaObject>(),
            follower(Kind::Pods).follow::<PodObject>(),
            follower(Kind::Services).follow::<ServiceObject>(),
            follower(Kind::EndpointSlices).follow::<SliceObject>(),
            follower(Kind::Nodes).follow::<NodeObject>(),
        )
    };
    let sweeps = async {
        loop {
            tokio::time::sleep(pace.sweep).await;
            server.write(|writer, now| writer.settle(now));
        }
    };
    tokio::select! {
        () = shutdown => {}
        _ = followers => {}
        () = sweeps => {}
    }
}

/// What the followers share.
struct Server {
    pace: Pace,
    client: Client,
    url: String,
    cluster: Arc<Cluster>,
    writer: Mutex<Writer>,
    /// That the server does not answer was logged.
    has_said: AtomicBool,
}

impl Server {
    fn write<T>(&self, act: impl FnOnce(&mut Writer, Moment) -> T) -> T {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut writer, now())
    }
}

fn now() -> Moment {
    let mono = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let mono_ns = mono.map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64);
    Moment { mono_ns, unix_ns: unix().as_nanos() as u64 }
}

fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// An object that is followed.
trait Followed: DeserializeOwned {
    fn meta(&self) -> &Meta;
    /// `false`: it makes no sense.
    fn put(&self, kind: Kind, writer: &mut Writer, now: Moment) -> bool;
}

impl Followed for PodObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
    fn put(&self, _kind: Kind, writer: &mut Writer, now: Moment) -> bool {
        writer.put_pod(self, now)
    }
}

impl Followed for ServiceObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
    fn put(&self, _kind: Kind, writer: &mut Writer, now: Moment) -> bool {
        writer.put_service(self, now)
    }
}

impl Followed for SliceObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
    fn put(&self, _kind: Kind, writer: &mut Writer, _now: Moment) -> bool {
        writer.put_slice(self)
    }
}

impl Followed for NodeObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
    fn put(&self, _kind: Kind, writer: &mut Writer, now: Moment) -> bool {
        writer.put_node(self, now)
    }
}

impl Followed for MetaObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
    fn put(&self, kind: Kind, writer: &mut Writer, _now: Moment) -> bool {
        writer.put_owner(kind, self)
    }
}

/// Why a list or a watch came to its end.
enum Failure {
    /// The server does not remember the version: all must be listed anew.
    Expired,
    /// It has no streaming lists.
    NotStreaming,
    /// A page had too many bytes.
    Oversized,
    /// This version of the API is not served.
    NotServed,
    /// What is asked is not granted; in the API server's words.
    Forbidden(Verb, String),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Follows one kind.
struct Follower<'a> {
    server: &'a Server,
    kind: Kind,
    labels: Option<String>,
    fields: Option<String>,
    /// Where the watch stands; `None` before a list, and when it must be made anew.
    version: Option<String>,
    may_stream: bool,
    /// Of the kind's paths, the one of the version that is served.
    path: usize,
    page: u32,
}

impl<'a> Follower<'a> {
    fn new(server: &'a Server, kind: Kind, options: &Options) -> Self {
        let selector = |text: &String| Some(text.clone()).filter(|text| kind == Kind::Pods && !text.is_empty());
        let (labels, fields) = (selector(&options.pod_labels), selector(&options.pod_fields));
        server.cluster.set_state(kind, State::Starting { why: None });
        Self { server, kind, labels, fields, version: None, may_stream: true, path: 0, page: PAGE }
    }

    async fn follow<T: Followed>(mut self) -> Infallible {
        let pace = self.server.pace;
        let mut retry = pace.first_retry;
        let mut relist = pace.first_retry;
        let mut refused = pace.first_retry;
        // Versions in turn.
        let mut not_served = 0;
        loop {
            let began = tokio::time::Instant::now();
            let before = self.version.clone();
            let result = match self.version.clone() {
                Some(version) => self.watch::<T>(version).await,
                None if self.may_stream => self.stream::<T>().await,
                None => self.list::<T>().await,
            };
            let lasted = began.elapsed();
            let is_further = self.version.is_some() && self.version != before;
            if !matches!(result, Err(Failure::Forbidden(..))) {
                refused = pace.first_retry;
            }
            if !matches!(result, Err(Failure::NotServed)) {
                not_served = 0;
            }
            match result {
                // The orderly end of a watch; or a list after which the watch begins.
                Ok(was_watch) => {
                    if !was_watch || lasted > pace.first_retry {
                        retry = pace.first_retry;
                        continue;
                    }
                }
                Err(Failure::Expired) => {
                    self.expired();
                    tokio::time::sleep(jittered(relist)).await;
                    // Lists are dear: not one after another for a server that forgets at once.
                    relist =
                        if is_further || lasted >= pace.longest_retry { pace.first_retry } else { (relist * 2).min(pace.longest_retry) };
                    retry = pace.first_retry;
                    continue;
                }
                Err(Failure::NotStreaming) => {
                    self.may_stream = false;
                    continue;
                }
                Err(Failure::Oversized) => {
                    self.page = (self.page / 2).max(1);
                    continue;
                }
                Err(Failure::NotServed) => {
                    self.version = None;
                    self.path = (self.path + 1) % self.kind.paths().len();
                    not_served += 1;
                    if not_served < self.kind.paths().len() {
                        continue;
                    }
                    not_served = 0;
                    self.failed(Answered::NotServed(self.kind.full_name()).into());
                }
                Err(Failure::Forbidden(verb, why)) => {
                    self.forbidden(verb, &why);
                    tokio::time::sleep(jittered(refused)).await;
                    refused = (refused * 2).min(pace.forbidden);
                    continue;
                }
                Err(Failure::Other(error)) => {
                    // A watch that lasted, or told something, is soon worth another.
                    if is_further || lasted >= pace.longest_retry {
                        retry = pace.first_retry;
                    }
                    self.failed(error);
                }
            }
            tokio::time::sleep(jittered(retry)).await;
            retry = (retry * 2).min(pace.longest_retry);
        }
    }

    fn path(&self) -> &'static str {
        self.kind.paths()[self.path]
    }

    fn counters(&self) -> &'a KindCounters {
        self.server.cluster.counters.of(self.kind)
    }

    fn listed(&self, listed: &HashSet<u128>) {
        self.counters().lists.fetch_add(1, Ordering::Relaxed);
        self.server.write(|writer, now| {
            writer.retain(self.kind, listed, now);
            if self.kind == Kind::EndpointSlices {
                writer.know_all_slices();
            }
            writer.settle(now);
        });
        self.synced();
    }

    fn synced(&self) {
        let cluster = &self.server.cluster;
        let states = &cluster.health.load().states;
        if matches!(states[self.kind as usize], State::Synced { .. }) {
            return;
        }
        let before = cluster.set_state(self.kind, State::Synced { since_s: unix().as_secs() });
        if matches!(before, State::Forbidden { .. }) {
            info!("the API server tells of {} now", self.kind.full_name());
        }
        let is_stale = |state: &State| matches!(state, State::Stale { .. } | State::Starting { .. });
        if !cluster.health.load().states.iter().any(is_stale) && self.server.has_said.swap(false, Ordering::Relaxed) {
            info!("the API server at {} answers again", self.server.url);
        }
    }

    /// The server answers, but what is known is of before.
    fn expired(&mut self) {
        debug!("{}: the API server forgot where the watch stood; listing anew", self.kind.name());
        self.version = None;
        let cluster = &self.server.cluster;
        if matches!(cluster.health.load().states[self.kind as usize], State::Synced { .. }) {
            let why = "the API server forgot where the watch stood".into();
            cluster.set_state(self.kind, State::Stale { since_s: unix().as_secs(), why });
        }
    }

    fn failed(&self, error: anyhow::Error) {
        self.counters().failures.fetch_add(1, Ordering::Relaxed);
        let why: Arc<str> = format!("{error:#}").into();
        debug!("{}: {why}; trying again", self.kind.name());
        let since_s = unix().as_secs();
        let before = self.server.cluster.health.load().states[self.kind as usize].clone();
        let state = match before {
            State::Synced { .. } => State::Stale { since_s, why: Arc::clone(&why) },
            State::Stale { since_s, .. } => State::Stale { since_s, why: Arc::clone(&why) },
            State::Forbidden { since_s, .. } if self.counters().lists.load(Ordering::Relaxed) > 0 => {
                State::Stale { since_s, why: Arc::clone(&why) }
            }
            _ => State::Starting { why: Some(Arc::clone(&why)) },
        };
        self.server.cluster.set_state(self.kind, state);
        if !self.server.has_said.swap(true, Ordering::Relaxed) {
            let Self { server: Server { url, .. }, kind, .. } = self;
            if error.is::<Answered>() {
                warn!("the API server at {url} does not tell of {}: {why}; names go by what was last known", kind.name());
            } else {
                warn!("the API server at {url} does not answer ({}: {why}): names go by what was last known", kind.name());
            }
        }
    }

    fn forbidden(&self, verb: Verb, why: &str) {
        self.counters().failures.fetch_add(1, Ordering::Relaxed);
        let (verb, resource) = (verb.name(), self.kind.full_name());
        let why: Arc<str> = format!("it may not {verb} {resource}; the API server: {why}").into();
        let state = State::Forbidden { since_s: unix().as_secs(), why: Arc::clone(&why) };
        if matches!(self.server.cluster.health.load().states[self.kind as usize], State::Forbidden { .. }) {
            return;
        }
        self.server.cluster.set_state(self.kind, state);
        warn!(
            "the cluster role lacks {verb} on {resource}, which costs {}; once granted it is used, without a restart ({why})",
            self.kind.use_of()
        );
    }
}

/// The server answers, but not what was asked for.
#[derive(Debug, thiserror::Error)]
enum Answered {
    /// It does not take the request as it is.
    #[error("the API server refused the request: {0}")]
    Refused(String),
    #[error("the API server does not accept this account's token or certificate: {0}")]
    Unknown(String),
    #[error("the API server serves no {0} in a version that is understood")]
    NotServed(String),
    #[error("the API server answered {0}: {1}")]
    Status(u16, String),
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
