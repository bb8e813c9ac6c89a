//! A small engine on a unix socket stands for dockerd.

use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
};

use super::*;

const QUICK: Pace = Pace {
    absent: Duration::from_millis(5),
    first_retry: Duration::from_millis(2),
    longest_retry: Duration::from_millis(20),
    between_lists: Duration::from_millis(1),
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
        let sockets = [directory.path().join("absent.sock"), socket];
        tokio::select! {
            () = engine(listener, replies, seen) => {}
            () = watch_at(QUICK, &sockets, &names, std::future::pending()) => {}
            () = test(&mut bed) => {}
        }
    });
}

fn ok(body: impl Into<String>) -> Reply {
    Reply::Answer("200 OK", body.into())
}

fn event(action: &str, id: &str, name: &str) -> String {
    let actor = format!(r#"{{"ID":"{id}","Attributes":{{"image":"nginx:1","name":"{name}"}}}}"#);
    format!(r#"{{"status":"{action}","id":"{id}","Type":"container","Action":"{action}","Actor":{actor},"time":1}}"#) + "\n"
}

const WEB: &str = r#"[{"Id":"aa","Names":["/web/linked","/web"],"Image":"nginx:1.25","State":"running","Labels":{}},
    {"Id":"bb","Names":null,"Image":null}]"#;

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
        assert_eq!(*bed.names.get("aa").unwrap(), ContainerName { name: "web".into(), image: Some("nginx:1.25".into()), compose: None });
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
        let watcher = tokio::spawn(async move { watch_at(QUICK, &[path], &names, async { _ = stopped.await }).await });
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

/// The list at the begin was made before the container, and its event has not come.
#[test]
fn a_container_that_is_met_before_its_event_is_looked_for_at_once() {
    let second = r#"[{"Id":"ee","Names":["/new"],"Image":"x"}]"#;
    with_engine(vec![ok(WEB), Reply::Stream(vec![]), ok(second)], async |bed| {
        bed.until("a list", |names| names.counts().lists == 1).await;
        let generation = bed.names.generation();
        assert_eq!(bed.name("ee"), None);
        bed.until("another list", |names| names.known("ee").is_some()).await;
        assert_ne!(bed.names.generation(), generation);
        bed.until("the list's end", |names| names.counts().lists == 2).await;
        // Nobody has it: it is looked for once, and not while it is looked for.
        let nobody = || bed.names.missing.lock().unwrap().absent.contains("another engine's");
        assert_eq!((bed.name("another engine's"), bed.name("another engine's"), nobody()), (None, None, false));
        assert_eq!(bed.names.missing.lock().unwrap().wanted.len(), 1);
    });
}

#[test]
fn what_no_list_has_is_not_looked_for_again() {
    let replies = vec![ok(WEB), Reply::Stream(vec![]), ok(WEB), Reply::Silence];
    with_engine(replies, async |bed| {
        bed.until("a list", |names| names.counts().lists == 1).await;
        let generation = bed.names.generation();
        assert_eq!(bed.name("other"), None);
        bed.until("another list", |names| names.counts().lists == 2).await;
        assert!(!bed.names.want("other"));
        assert_eq!(bed.names.generation(), generation, "nothing is known better");
        for number in 0..WANTED_MAX + 9 {
            bed.names.want(&number.to_string());
        }
        assert_eq!(bed.names.take_wanted().len(), WANTED_MAX);
        for round in 0..ABSENT_MAX {
            bed.names.leave_out(HashSet::from([round.to_string()]));
        }
        assert!(bed.names.missing.lock().unwrap().absent.len() <= ABSENT_MAX);
    });
}

#[test]
fn an_image_that_stands_there_by_its_id_is_called_by_its_name() {
    let list = r#"[{"Id":"aa","Names":["/web"],"Image":"sha256:0123456789ab"},{"Id":"bb","Names":["/old"],"Image":"sha256:99"}]"#;
    let images = r#"[{"Id":"sha256:0123456789abcdef","RepoTags":["shop/web:7"]}]"#;
    let event = event("create", "cc", "late").replace("nginx:1", "sha256:01234567");
    let replies =
        vec![ok(list), ok(images), Reply::Stream(vec![event]), ok(list.replace("sha256:99", "x")), Reply::Answer("500 No", "".into())];
    with_engine(replies, async |bed| {
        bed.until("a list", |names| names.counts().lists == 1).await;
        let image = |id: &str| bed.names.known(id).and_then(|known| known.image.clone());
        assert_eq!((image("aa").as_deref(), image("bb").as_deref()), (Some("shop/web:7"), Some("sha256:99")));
        // The event's image sends the watcher back to the list; without an answer about images ids remain.
        bed.until("another list", |names| names.counts().lists == 2).await;
        assert_eq!((image("aa").as_deref(), image("bb").as_deref()), (Some("sha256:0123456789ab"), Some("x")));
    });
}

#[test]
fn events_tell_of_compose_and_keep_it_through_a_rename() {
    let names = ContainerNames::default();
    let labels = r#""com.docker.compose.project":"shop","com.docker.compose.service":"web","name""#;
    names.apply(event("create", "aa", "shop-web-1").replace(r#""name""#, labels).as_bytes());
    let compose = Some(Compose { project: "shop".into(), service: "web".into() });
    assert_eq!(names.get("aa").unwrap().compose, compose);
    names.apply(event("rename", "aa", "front").as_bytes());
    assert_eq!((names.get("aa").unwrap().name.as_str(), names.get("aa").unwrap().compose.clone()), ("front", compose));
}
