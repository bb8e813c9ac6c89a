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
                let new = ContainerName { name, image };
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
    Some(ContainerName { name: own, image })
}

/// Between half and all of `pause`, so that the agents of many hosts do not act at once.
fn jittered(pause: Duration) -> Duration {
    let part = RandomState::new().hash_one(0) % 1_000;
    pause / 2 + pause / 2 * u32::try_from(part).unwrap_or(0) / 1_000
}

#[cfg(test)]
mod tests {
    use tokio::{
        net::{UnixListener, UnixStream},
        sync::mpsc,
    };

    use super::*;

    const QUICK: Pace = Pace {
        absent: Duration::from_millis(5),
        first_retry: Duration::from_millis(2),
        longest_retry: Duration::from_millis(20),
        list_timeout: Duration::from_secs(1),
    };

    /// What the engine of a test does with one request.
    enum Reply {
        Answer(&'static str, String),
        /// Chunks of a body that does not end.
        Stream(Vec<String>),
        /// The same, then the connection is cut in the middle of the body.
        Cut(Vec<String>),
        Silence,
    }

    /// Answers requests in their order; tells of each when it arrives, and keeps unfinished connections open.
    async fn engine(listener: UnixListener, replies: Vec<Reply>, seen: mpsc::UnboundedSender<String>) {
        let mut replies = replies.into_iter();
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let Some(target) = request_target(&mut stream).await else { continue };
            seen.send(target).ok();
            match replies.next() {
                Some(Reply::Answer(status, body)) => {
                    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                    write(&mut stream, &(head + &body)).await;
                }
                Some(Reply::Stream(chunks)) => {
                    send_chunks(&mut stream, chunks).await;
                    open.push(stream);
                }
                Some(Reply::Cut(chunks)) => send_chunks(&mut stream, chunks).await,
                Some(Reply::Silence) | None => open.push(stream),
            }
        }
    }

    /// As far as the peer takes it.
    async fn write(stream: &mut UnixStream, text: &str) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() && stream.writable().await.is_ok() {
            match stream.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    async fn send_chunks(stream: &mut UnixStream, chunks: Vec<String>) {
        write(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        for chunk in chunks {
            write(stream, &format!("{:x}\r\n{chunk}\r\n", chunk.len())).await;
        }
    }

    /// `None` for a connection on which nothing is asked.
    async fn request_target(stream: &mut UnixStream) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            stream.readable().await.ok()?;
            let mut byte = [0];
            match stream.try_read(&mut byte) {
                Ok(0) => return None,
                Ok(_) => head.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
        String::from_utf8(head).ok()?.split(' ').nth(1).map(str::to_owned)
    }

    struct Bed {
        names: Arc<ContainerNames>,
        requests: mpsc::UnboundedReceiver<String>,
    }

    impl Bed {
        async fn until(&self, what: &str, condition: impl Fn(&ContainerNames) -> bool) {
            let waited = tokio::time::timeout(Duration::from_secs(10), async {
                while !condition(&self.names) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
            assert!(waited.await.is_ok(), "never: {what}; {:?}, {:?}", self.names.counts(), self.names.snapshot());
        }

        fn name(&self, id: &str) -> Option<String> {
            self.names.get(id).map(|known| known.name.clone())
        }
    }

    /// Runs `test` beside a watcher whose engine gives `replies`.
    fn with_engine(replies: Vec<Reply>, test: impl AsyncFnOnce(&mut Bed)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("engine.sock");
            let listener = UnixListener::bind(&socket).unwrap();
            let (seen, requests) = mpsc::unbounded_channel();
            let mut bed = Bed { names: Arc::default(), requests };
            let names = Arc::clone(&bed.names);
            tokio::select! {
                () = engine(listener, replies, seen) => {}
                () = watch_at(QUICK, &socket, &names, std::future::pending()) => {}
                () = test(&mut bed) => {}
            }
        });
    }

    fn ok(body: impl Into<String>) -> Reply {
        Reply::Answer("200 OK", body.into())
    }

    fn event(action: &str, id: &str, name: &str) -> String {
        format!(
            r#"{{"status":"{action}","id":"{id}","Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{"image":"nginx:1","name":"{name}"}}}},"time":1}}"#
        ) + "\n"
    }

    const WEB: &str = r#"[{"Id":"aa","Names":["/web/linked","/web"],"Image":"nginx:1.25","State":"running","Labels":{}},{"Id":"bb","Names":null,"Image":null}]"#;

    #[test]
    fn lists_and_then_follows_the_events() {
        let start = event("start", "cc", "db");
        let (before, after) = start.split_at(40);
        let chunks = vec![before.to_owned(), after.to_owned() + &event("exec_start: sh", "zz", "no"), event("rename", "aa", "front")];
        let more = vec![event("start", "dd", "gone"), event("destroy", "dd", "gone"), event("die", "cc", "db")];
        with_engine(vec![ok(WEB), Reply::Stream([chunks, more].concat())], async |bed| {
            bed.until("six events", |names| names.counts().events == 6).await;
            assert_eq!(bed.name("aa").as_deref(), Some("front"));
            assert_eq!(bed.names.get("aa").unwrap().image.as_deref(), Some("nginx:1"));
            assert_eq!(bed.name("cc").as_deref(), Some("db"), "a dead container keeps its name");
            assert_eq!(bed.name("dd"), None, "a removed one does not");
            assert_eq!(bed.name("zz"), None);
            assert_eq!(bed.names.counts(), ContainerCounts { known: 2, lists: 1, events: 6, ignored: 0, failures: 0 });
            assert_eq!(bed.requests.recv().await.as_deref(), Some("/containers/json?all=1"));
            let events = bed.requests.recv().await.unwrap();
            assert!(events.starts_with("/events?since=") && events.contains("filters=%7B%22type%22"), "{events}");
        });
    }

    #[test]
    fn takes_the_own_name_rather_than_a_links() {
        with_engine(vec![ok(WEB), Reply::Stream(vec![])], async |bed| {
            bed.until("a list", |names| names.counts().lists == 1).await;
            assert_eq!(*bed.names.get("aa").unwrap(), ContainerName { name: "web".into(), image: Some("nginx:1.25".into()) });
            assert_eq!(bed.name("bb"), None);
        });
    }

    #[test]
    fn malformed_events_are_counted_and_passed_over() {
        let stream = vec!["{\"Action\":\n".into(), "[]\n\n".into(), "\u{7f}\n".into(), event("start", "cc", "db")];
        with_engine(vec![ok("[]"), Reply::Stream(stream)], async |bed| {
            bed.until("the good event", |names| names.get("cc").is_some()).await;
            assert_eq!(bed.names.counts(), ContainerCounts { known: 1, lists: 1, events: 4, ignored: 3, failures: 0 });
        });
    }

    #[test]
    fn lists_again_after_a_cut_connection_and_keeps_names_meanwhile() {
        let second = r#"[{"Id":"ee","Names":["/new"],"Image":"x"}]"#;
        with_engine(vec![ok(WEB), Reply::Cut(vec![event("start", "cc", "db")]), ok(second), Reply::Stream(vec![])], async |bed| {
            bed.until("the event", |names| names.counts().events == 1).await;
            assert_eq!(bed.name("aa").as_deref(), Some("web"));
            bed.until("the second list", |names| names.counts().lists == 2).await;
            assert_eq!((bed.name("ee").as_deref(), bed.name("aa")), (Some("new"), None));
            assert_eq!(bed.names.counts().failures, 1);
        });
    }

    #[test]
    fn outlives_malformed_lists_refusals_and_silence() {
        let replies = vec![
            ok("[{\"Id\":"),
            ok("{\"message\":\"no list\"}"),
            Reply::Answer("500 Internal Server Error", "[]".into()),
            Reply::Silence,
            ok(WEB),
            Reply::Answer("404 Not Found", String::new()),
            ok(WEB),
            Reply::Stream(vec!["x".repeat(EVENT_BYTES_MAX + 1)]),
            ok(WEB),
            Reply::Stream(vec![event("start", "cc", "db")]),
        ];
        with_engine(replies, async |bed| {
            bed.until("an event after all", |names| names.get("cc").is_some()).await;
            assert_eq!(bed.names.counts(), ContainerCounts { known: 2, lists: 3, events: 1, ignored: 0, failures: 6 });
        });
    }

    #[test]
    fn finds_an_engine_that_starts_late_and_stops_when_told() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("engine.sock");
            let (seen, requests) = mpsc::unbounded_channel();
            let bed = Bed { names: Arc::default(), requests };
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let names = Arc::clone(&bed.names);
            let path = socket.clone();
            let watcher = tokio::spawn(async move { watch_at(QUICK, &path, &names, async { _ = stopped.await }).await });
            tokio::time::sleep(QUICK.absent * 3).await;
            assert_eq!(bed.names.counts(), ContainerCounts::default(), "an absent engine is no failure");

            let listener = UnixListener::bind(&socket).unwrap();
            let server = tokio::spawn(engine(listener, vec![ok(WEB), Reply::Stream(vec![])], seen));
            bed.until("the list", |names| names.counts().lists == 1).await;
            stop.send(()).unwrap();
            tokio::time::timeout(Duration::from_secs(10), watcher).await.expect("stops").unwrap();
            server.abort();
        });
    }

    #[test]
    fn a_generation_tells_of_each_change_and_only_of_changes() {
        let names = ContainerNames::default();
        names.apply(event("start", "aa", "web").as_bytes());
        let first = names.generation();
        names.apply(event("die", "aa", "web").as_bytes());
        names.apply(event("destroy", "other", "x").as_bytes());
        assert_eq!(names.generation(), first);
        names.apply(event("rename", "aa", "front").as_bytes());
        assert_ne!(names.generation(), first);
    }

    #[test]
    fn pauses_are_jittered_between_half_and_all() {
        for _ in 0..1_000 {
            let pause = jittered(Duration::from_secs(10));
            assert!((Duration::from_secs(5)..=Duration::from_secs(10)).contains(&pause), "{pause:?}");
        }
    }
}
