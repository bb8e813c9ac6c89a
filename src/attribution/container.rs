//! Names and images of containers, from the Docker engine API over its unix socket (podman speaks it too).
//! Knows nothing of cgroups or processes; an engine that is absent, slow or broken only means that names are missing.

use std::{
    collections::HashMap,
    future::Future,
    hash::{BuildHasher, RandomState},
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use serde::Deserialize;
use tracing::{debug, warn};

use crate::model::Compose;

/// Where the Docker engine listens unless it is told otherwise.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// Where a system-wide podman service listens.
pub const PODMAN_SOCKET: &str = "/run/podman/podman.sock";

/// A list of 1,000 containers takes about 1.5 MB.
const LIST_BYTES_MAX: usize = 32 << 20;
/// An event carries the container's labels; Kubernetes' annotations among them may be long.
const EVENT_BYTES_MAX: usize = 1 << 20;
/// Names held at once; the engine's own limit is its memory.
const NAMES_MAX: usize = 65_536;

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
}

impl ContainerNames {
    /// The name of the container with this full id.
    pub fn get(&self, id: &str) -> Option<Arc<ContainerName>> {
        self.table.load().get(id).map(Arc::clone)
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
                let Some(name) = actor.attributes.name.map(|name| name.trim_start_matches('/').to_owned()) else { return };
                let known = self.get(&actor.id);
                let image = actor.attributes.image.or_else(|| known.as_ref().and_then(|known| known.image.clone()));
                let new = ContainerName { name, image, compose: None };
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
            "destroy" | "remove" if self.get(&actor.id).is_some() => {
                self.change(|table| {
                    table.remove(&actor.id);
                });
            }
            _ => {}
        }
    }
}

/// An element of `GET /containers/json` (Docker Engine API, ContainerList).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    image: Option<String>,
}

/// A line of `GET /events` (Docker Engine API, SystemEvents).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EngineEvent {
    #[serde(default)]
    action: String,
    actor: Actor,
}

#[derive(Deserialize)]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Attributes", default)]
    attributes: ActorAttributes,
}

#[derive(Default, Deserialize)]
struct ActorAttributes {
    name: Option<String>,
    image: Option<String>,
}

/// How patient the watcher is.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Between looks for a socket that is not there.
    absent: Duration,
    first_retry: Duration,
    longest_retry: Duration,
    /// For the whole answer to a list.
    list_timeout: Duration,
}

const PACE: Pace = Pace {
    absent: Duration::from_secs(30),
    first_retry: Duration::from_millis(500),
    longest_retry: Duration::from_secs(60),
    list_timeout: Duration::from_secs(10),
};

/// Keeps `names` as the engine behind `socket` tells, until `shutdown` is ready.
///
/// Lists all containers, then follows the engine's events; after any failure it begins again, with growing, jittered pauses.
/// Known names stay while the engine is away. Must run on a tokio runtime with I/O and time enabled.
pub async fn watch(socket: PathBuf, names: Arc<ContainerNames>, shutdown: impl Future<Output = ()>) {
    watch_at(PACE, &socket, &names, shutdown).await;
}

async fn watch_at(pace: Pace, socket: &Path, names: &ContainerNames, shutdown: impl Future<Output = ()>) {
    let mut shutdown = pin!(shutdown);
    tokio::select! {
        () = &mut shutdown => {}
        () = follow_for_ever(pace, socket, names) => {}
    }
}

async fn follow_for_ever(pace: Pace, socket: &Path, names: &ContainerNames) {
    let mut said_absent = false;
    let mut said_failed = false;
    let mut retry = pace.first_retry;
    loop {
        match tokio::net::UnixStream::connect(socket).await {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                if !said_absent {
                    debug!("no container engine at {}: containers keep their ids for names", socket.display());
                    said_absent = true;
                }
                tokio::time::sleep(jittered(pace.absent)).await;
                continue;
            }
            Err(error) => {
                if !said_failed {
                    warn!("cannot open the container engine's socket {}: {error}; containers keep their ids for names", socket.display());
                    said_failed = true;
                }
                tokio::time::sleep(jittered(pace.absent)).await;
                continue;
            }
        }
        let began = tokio::time::Instant::now();
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
    let table = tokio::time::timeout(pace.list_timeout, list(&client)).await.context("listing containers: no answer in time")??;
    names.replace(table);
    names.lists.fetch_add(1, Ordering::Relaxed);

    let since = since_s.to_string();
    let url =
        reqwest::Url::parse_with_params("http://localhost/events", [("since", since.as_str()), ("filters", r#"{"type":["container"]}"#)])
            .context("making the address of the engine's events")?;
    // No timeout from here on: podman answers with the first event only, and a quiet engine is no failure.
    let mut answer = client.get(url).send().await.context("asking for events")?;
    if !answer.status().is_success() {
        bail!("asking for events: the engine answered {}", answer.status());
    }
    let mut line = Vec::new();
    while let Some(chunk) = answer.chunk().await.context("reading events")? {
        for piece in chunk.split_inclusive(|&byte| byte == b'\n') {
            line.extend_from_slice(piece);
            if line.len() > EVENT_BYTES_MAX {
                bail!("reading events: one of more than {EVENT_BYTES_MAX} bytes");
            }
            if line.ends_with(b"\n") {
                if !line.trim_ascii().is_empty() {
                    names.apply(&line);
                }
                line.clear();
            }
        }
    }
    bail!("the engine ended its events")
}

async fn list(client: &reqwest::Client) -> anyhow::Result<NameTable> {
    let mut answer = client.get("http://localhost/containers/json?all=1").send().await.context("listing containers")?;
    if !answer.status().is_success() {
        bail!("listing containers: the engine answered {}", answer.status());
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.context("listing containers")? {
        if body.len() + chunk.len() > LIST_BYTES_MAX {
            bail!("listing containers: more than {LIST_BYTES_MAX} bytes");
        }
        body.extend_from_slice(&chunk);
    }
    let listed: Vec<Listed> = serde_json::from_slice(&body).context("listing containers: reading the answer")?;
    Ok(listed
        .into_iter()
        .take(NAMES_MAX)
        .filter_map(|container| Some((container.id, Arc::new(named(container.names?, container.image)?))))
        .collect())
}

/// A container's own name, rather than the names that legacy links give it (`/web/database`).
fn named(names: Vec<String>, image: Option<String>) -> Option<ContainerName> {
    let bare = |name: &String| name.trim_start_matches('/').to_owned();
    let own = names.iter().map(bare).find(|name| !name.is_empty() && !name.contains('/'))?;
    Some(ContainerName { name: own, image, compose: None })
}

/// Between half and all of `pause`, so that the agents of many hosts do not act at once.
fn jittered(pause: Duration) -> Duration {
    let part = RandomState::new().hash_one(0) % 1_000;
    pause / 2 + pause / 2 * u32::try_from(part).unwrap_or(0) / 1_000
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
