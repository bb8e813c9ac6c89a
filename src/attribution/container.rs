//! Names and images of containers, from the Docker engine API over its unix socket (podman speaks it too).
//! Knows nothing of cgroups or processes; an engine that is absent, slow or broken only means that names are missing.

mod answers;

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use serde::de::DeserializeOwned;
use tokio::{sync::Notify, time::Instant};
use tracing::{debug, warn};

use super::pauses::jittered;
use crate::model::Compose;
use answers::{EngineEvent, Image, Listed, is_image_id};

/// A list of 1,000 containers takes about 1.5 MB.
const LIST_BYTES_MAX: usize = 32 << 20;
/// An event carries the container's labels; Kubernetes' annotations among them may be long.
const EVENT_BYTES_MAX: usize = 1 << 20;
/// Names held at once; the engine's own limit is its memory.
const NAMES_MAX: usize = 65_536;
/// Containers that were asked for and are to be looked for.
const WANTED_MAX: usize = 64;
/// Containers that no list had, and that are not looked for again: those of another engine.
const ABSENT_MAX: usize = 4096;

/// What the engine calls a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerName {
    /// Without the leading `/` of the API.
    pub name: String,
    /// As it was asked for: `nginx:1.25`, or an image id where it has no tag.
    pub image: Option<String>,
    pub compose: Option<Compose>,
}

/// Names by full container id, as known at one moment.
pub type NameTable = HashMap<String, Arc<ContainerName>>;

/// What happened between the agent and the engine, for the agent's own metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerCounts {
    pub known: usize,
    pub lists: u64,
    pub events: u64,
    /// Events that were not understood, or for which the table had no room.
    pub ignored: u64,
    /// Connections to the engine that failed or ended.
    pub failures: u64,
}

/// The names that [`watch`] keeps; readers never wait.
#[derive(Debug, Default)]
pub struct ContainerNames {
    table: ArcSwap<NameTable>,
    generation: AtomicU64,
    lists: AtomicU64,
    events: AtomicU64,
    ignored: AtomicU64,
    failures: AtomicU64,
    missing: Mutex<Missing>,
    /// A list would tell more than is known.
    is_short: Notify,
}

/// Containers that were asked for and have no name.
#[derive(Debug, Default)]
struct Missing {
    wanted: HashSet<String>,
    absent: HashSet<String>,
}

impl ContainerNames {
    /// The name of the container with this full id. One that is missing is looked for at once, if there is an engine: its name is there
    /// with the next [`Self::generation`].
    pub fn get(&self, id: &str) -> Option<Arc<ContainerName>> {
        let known = self.known(id);
        if known.is_none() && self.want(id) {
            self.is_short.notify_one();
        }
        known
    }

    fn known(&self, id: &str) -> Option<Arc<ContainerName>> {
        self.table.load().get(id).map(Arc::clone)
    }

    /// Whether it is worth looking for.
    fn want(&self, id: &str) -> bool {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = missing.wanted.len() < WANTED_MAX && !missing.absent.contains(id);
        is_new && missing.wanted.insert(id.to_owned())
    }

    /// What was wanted before a list.
    fn take_wanted(&self) -> HashSet<String> {
        std::mem::take(&mut self.missing.lock().unwrap_or_else(PoisonError::into_inner).wanted)
    }

    /// A list without those that were wanted before it: they are another engine's, or gone.
    fn leave_out(&self, wanted: HashSet<String>) {
        let table = self.table.load();
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if missing.absent.len() + wanted.len() > ABSENT_MAX {
            missing.absent.clear();
        }
        missing.absent.extend(wanted.into_iter().filter(|id| !table.contains_key(id)));
    }

    /// All names as of now.
    pub fn snapshot(&self) -> Arc<NameTable> {
        self.table.load_full()
    }

    /// Changes whenever a name may have changed: what was looked up under an older generation is worth another look.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn counts(&self) -> ContainerCounts {
        ContainerCounts {
            known: self.table.load().len(),
            lists: self.lists.load(Ordering::Relaxed),
            events: self.events.load(Ordering::Relaxed),
            ignored: self.ignored.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    /// Puts a new table in place. There is one writer: whoever watches the engine.
    pub fn replace(&self, table: NameTable) {
        if **self.table.load() == table {
            return;
        }
        self.table.store(Arc::new(table));
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn change(&self, change: impl FnOnce(&mut NameTable)) {
        let mut table = NameTable::clone(&self.table.load());
        change(&mut table);
        self.replace(table);
    }

    /// One event of the engine. A container that died keeps its name until it is removed: its connections outlive it here.
    fn apply(&self, line: &[u8]) {
        self.events.fetch_add(1, Ordering::Relaxed);
        let Ok(event) = serde_json::from_slice::<EngineEvent>(line) else {
            self.ignored.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let actor = event.actor;
        match event.action.as_str() {
            "create" | "start" | "restart" | "rename" | "die" => {
                let known = self.known(&actor.id);
                let Some(new) = actor.attributes.into_name(known.as_deref()) else { return };
                if new.image.as_deref().is_some_and(is_image_id) {
                    self.is_short.notify_one();
                }
                if known.as_deref() == Some(&new) {
                    return;
                }
                if known.is_none() && self.table.load().len() >= NAMES_MAX {
                    self.ignored.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                self.change(|table| {
                    table.insert(actor.id, Arc::new(new));
                });
            }
            // podman says `remove`.
            "destroy" | "remove" if self.known(&actor.id).is_some() => {
                self.change(|table| {
                    table.remove(&actor.id);
                });
            }
            _ => {}
        }
    }
}

/// How patient the watcher is.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Between looks for a socket that is not there.
    absent: Duration,
    first_retry: Duration,
    longest_retry: Duration,
    /// Between two lists of one engine.
    between_lists: Duration,
    /// For the whole answer to a list.
    list_timeout: Duration,
}

const PACE: Pace = Pace {
    absent: Duration::from_secs(5),
    first_retry: Duration::from_millis(500),
    longest_retry: Duration::from_secs(60),
    between_lists: Duration::from_secs(1),
    list_timeout: Duration::from_secs(10),
};

/// Keeps `names` as an engine tells, until `shutdown` is ready: the one behind the first of `sockets` that is there.
///
/// Lists all containers, then follows the engine's events; after any failure it begins again, with growing, jittered pauses.
/// Known names stay while the engine is away. Must run on a tokio runtime with I/O and time enabled.
pub async fn watch(sockets: Vec<PathBuf>, names: Arc<ContainerNames>, shutdown: impl Future<Output = ()>) {
    watch_at(PACE, &sockets, &names, shutdown).await;
}

async fn watch_at(pace: Pace, sockets: &[PathBuf], names: &ContainerNames, shutdown: impl Future<Output = ()>) {
    let mut shutdown = pin!(shutdown);
    tokio::select! {
        () = &mut shutdown => {}
        () = follow_for_ever(pace, sockets, names) => {}
    }
}

async fn follow_for_ever(pace: Pace, sockets: &[PathBuf], names: &ContainerNames) {
    let mut said_absent = false;
    let mut said_failed = false;
    let mut retry = pace.first_retry;
    loop {
        let Some(socket) = reachable(sockets, &mut said_failed).await else {
            if !said_absent {
                debug!("no container engine at {sockets:?}: containers keep their ids for names");
                said_absent = true;
            }
            tokio::time::sleep(jittered(pace.absent)).await;
            continue;
        };
        let began = Instant::now();
        let Err(error) = list_and_follow(pace, socket, names).await;
        names.failures.fetch_add(1, Ordering::Relaxed);
        // Not on the first good answer: an engine that lists and then breaks must not be asked at the quickest pace for ever.
        if began.elapsed() >= pace.longest_retry {
            retry = pace.first_retry;
            said_failed = false;
        }
        if !said_failed {
            debug!("container engine at {}: {error:#}; trying again", socket.display());
            said_failed = true;
        }
        said_absent = false;
        tokio::time::sleep(jittered(retry)).await;
        retry = (retry * 2).min(pace.longest_retry);
    }
}

/// The first socket that somebody listens on.
async fn reachable<'a>(sockets: &'a [PathBuf], said_failed: &mut bool) -> Option<&'a Path> {
    for socket in sockets {
        match tokio::net::UnixStream::connect(socket).await {
            Ok(_) => return Some(socket),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
            Err(error) if !*said_failed => {
                warn!("cannot open the container engine's socket {}: {error}; containers keep their ids for names", socket.display());
                *said_failed = true;
            }
            Err(_) => {}
        }
    }
    None
}

/// Returns only when something failed or the engine ended the stream.
async fn list_and_follow(pace: Pace, socket: &Path, names: &ContainerNames) -> anyhow::Result<std::convert::Infallible> {
    let client = reqwest::Client::builder()
        .unix_socket(socket)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(pace.list_timeout)
        .build()
        .context("making an HTTP client")?;
    // Events from before the list are told again, so that nothing between the two is missed; applying one twice changes nothing.
    let since_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().saturating_sub(1);
    list(pace, &client, names).await?;
    let mut listed = Instant::now();

    let since = since_s.to_string();
    let url =
        reqwest::Url::parse_with_params("http://localhost/events", [("since", since.as_str()), ("filters", r#"{"type":["container"]}"#)])
            .context("making the address of the engine's events")?;
    // No timeout from here on: podman answers with the first event only, and a quiet engine is no failure.
    let mut asked = pin!(client.get(url).send());
    let mut answer = None;
    let mut line = Vec::new();
    // When to list again.
    let mut due = None;
    loop {
        let chunk = async {
            let open = match &mut answer {
                Some(open) => open,
                None => answer.insert(asked.as_mut().await.context("asking for events")?),
            };
            if !open.status().is_success() {
                bail!("asking for events: the engine answered {}", open.status());
            }
            open.chunk().await.context("reading events")?.context("the engine ended its events")
        };
        tokio::select! {
            chunk = chunk => apply_lines(&chunk?, &mut line, names)?,
            () = names.is_short.notified(), if due.is_none() => due = Some(listed + pace.between_lists),
            () = tokio::time::sleep_until(due.unwrap_or(listed)), if due.is_some() => {
                list(pace, &client, names).await?;
                (listed, due) = (Instant::now(), None);
            }
        }
    }
}

/// Applies the events that are whole; `line` is the begin of the next one.
fn apply_lines(chunk: &[u8], line: &mut Vec<u8>, names: &ContainerNames) -> anyhow::Result<()> {
    for piece in chunk.split_inclusive(|&byte| byte == b'\n') {
        line.extend_from_slice(piece);
        if line.len() > EVENT_BYTES_MAX {
            bail!("reading events: one of more than {EVENT_BYTES_MAX} bytes");
        }
        if line.ends_with(b"\n") {
            if !line.trim_ascii().is_empty() {
                names.apply(line);
            }
            line.clear();
        }
    }
    Ok(())
}

/// Puts all containers that the engine has into the table.
async fn list(pace: Pace, client: &reqwest::Client, names: &ContainerNames) -> anyhow::Result<()> {
    let wanted = names.take_wanted();
    let table = async {
        let listed: Vec<Listed> = ask(client, "/containers/json?all=1").await.context("listing containers")?;
        let mut table: NameTable = HashMap::new();
        let mut unnamed = Vec::new();
        for container in listed.into_iter().take(NAMES_MAX) {
            let id = container.id.clone();
            let Some(name) = container.into_name() else { continue };
            if name.image.as_deref().is_some_and(is_image_id) {
                unnamed.push(id.clone());
            }
            table.insert(id, Arc::new(name));
        }
        if !unnamed.is_empty() {
            // Images without a name are no reason to have no names of containers.
            let images: Vec<Image> = ask(client, "/images/json").await.unwrap_or_default();
            for id in unnamed {
                let Some(name) = table.get_mut(&id).map(Arc::make_mut) else { continue };
                let known = name.image.as_ref().and_then(|image| images.iter().find_map(|known| known.name_of(image)));
                name.image = known.cloned().or(name.image.take());
            }
        }
        anyhow::Ok(table)
    };
    let table = tokio::time::timeout(pace.list_timeout, table).await.context("listing containers: no answer in time")??;
    names.replace(table);
    names.leave_out(wanted);
    names.lists.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

async fn ask<T: DeserializeOwned>(client: &reqwest::Client, target: &str) -> anyhow::Result<T> {
    let mut answer = client.get(format!("http://localhost{target}")).send().await?;
    if !answer.status().is_success() {
        bail!("the engine answered {}", answer.status());
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > LIST_BYTES_MAX {
            bail!("more than {LIST_BYTES_MAX} bytes");
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).context("reading the answer")
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
