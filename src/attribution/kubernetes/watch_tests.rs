//! A small API server on loopback: each kind gets the answers that the test prepared, in their order; else it has no objects, streams
//! no lists, and its watches are quiet.

use std::{
    collections::{HashMap, VecDeque},
    io,
};

use axum::{
    Router,
    body::{Body as AnswerBody, Bytes},
    extract::State as Shared,
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use kube::Config;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::attribution::kubernetes::KindHealth;

const QUICK: Pace = Pace {
    first_retry: Duration::from_millis(2),
    longest_retry: Duration::from_millis(20),
    forbidden: Duration::from_millis(20),
    answer: Duration::from_secs(2),
    quiet: Duration::from_secs(5),
    streaming: Duration::from_millis(300),
    sweep: Duration::from_millis(50),
};

type Chunk = Result<Bytes, io::Error>;

enum Reply {
    Status(u16, &'static str),
    /// Items, version, and what continues it.
    Page(Vec<Value>, &'static str, Option<&'static str>),
    /// Lines of a watch that stays open.
    Open(Vec<Value>),
    /// Lines of a watch that ends in order.
    Ended(Vec<Value>),
    Silence,
}

#[derive(Default)]
struct Script {
    replies: HashMap<(&'static str, &'static str), VecDeque<Reply>>,
    open: HashMap<&'static str, mpsc::UnboundedSender<Chunk>>,
    /// Kind, way of asking, query.
    asked: Vec<(&'static str, &'static str, String)>,
}

#[derive(Clone, Default)]
struct Bed {
    script: Arc<Mutex<Script>>,
    cluster: Arc<Cluster>,
}

async fn answer(Shared(bed): Shared<Bed>, uri: Uri) -> Response {
    let path = uri.path();
    let kind = if path.contains("/v1beta1/") { "beta" } else { Kind::ALL.iter().find(|kind| path.ends_with(kind.name())).unwrap().name() };
    let query = uri.query().unwrap_or_default().to_owned();
    let way = match (query.contains("sendInitialEvents"), query.contains("watch=true")) {
        (true, _) => "stream",
        (_, true) => "watch",
        _ => "list",
    };
    let reply = {
        let mut script = bed.script.lock().unwrap();
        script.asked.push((kind, way, query));
        script.replies.get_mut(&(kind, way)).and_then(VecDeque::pop_front)
    };
    let reply = reply.unwrap_or(match (kind, way) {
        ("beta", _) => Reply::Status(404, "no such version"),
        (_, "stream") => Reply::Status(422, "sendInitialEvents is forbidden for watch"),
        (_, "list") => Reply::Page(vec![], "1", None),
        _ => Reply::Open(vec![]),
    });
    let lines = |lines: Vec<Value>| lines.into_iter().map(|line| Ok(Bytes::from(format!("{line}\n"))));
    match reply {
        Reply::Status(code, message) => {
            let body = json!({"kind": "Status", "code": code, "message": message}).to_string();
            (StatusCode::from_u16(code).unwrap(), body).into_response()
        }
        Reply::Page(items, version, rest) => {
            json!({"metadata": {"resourceVersion": version, "continue": rest}, "items": items}).to_string().into_response()
        }
        Reply::Open(first) => {
            let (sender, mut receiver) = mpsc::unbounded_channel();
            lines(first).for_each(|line| sender.send(line).unwrap());
            bed.script.lock().unwrap().open.insert(kind, sender);
            AnswerBody::from_stream(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context))).into_response()
        }
        Reply::Ended(all) => AnswerBody::from_stream(futures_util::stream::iter(lines(all))).into_response(),
        Reply::Silence => std::future::pending().await,
    }
}

impl Bed {
    fn reply(&self, kind: &'static str, way: &'static str, reply: Reply) {
        self.script.lock().unwrap().replies.entry((kind, way)).or_default().push_back(reply);
    }

    /// Another line of the watch that is open.
    fn tell(&self, kind: &'static str, line: Value) {
        self.script.lock().unwrap().open[kind].send(Ok(format!("{line}\n").into())).unwrap();
    }

    /// The connection of the open watch breaks.
    fn cut(&self, kind: &'static str) {
        self.script.lock().unwrap().open[kind].send(Err(io::Error::other("cut"))).unwrap();
    }

    /// What was asked in this way, in order.
    fn asked(&self, kind: &str, way: &str) -> Vec<String> {
        let script = self.script.lock().unwrap();
        script.asked.iter().filter(|(own, asked, _)| *own == kind && *asked == way).map(|(_, _, query)| query.clone()).collect()
    }

    fn health(&self, kind: Kind) -> KindHealth {
        self.cluster.health()[kind as usize].clone()
    }

    fn is_synced(&self, kind: Kind) -> bool {
        matches!(self.health(kind).state, State::Synced { .. })
    }

    fn knows(&self, number: u64) -> bool {
        self.cluster.remote(crate::model::Endpoint { address: address(number).parse().unwrap(), port: 0 }, false, now().mono_ns).is_some()
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        assert!(waited.await.is_ok(), "never: {what}; {:#?}", self.cluster.health());
    }
}

/// Runs `test` beside a watch of the API server that `prepare` told what to answer.
fn with_server(prepare: impl FnOnce(&Bed), options: Options, test: impl AsyncFnOnce(&Bed)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bed = Bed::default();
        prepare(&bed);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let found = connect::of_config(Config::new(url.parse().unwrap())).unwrap();
        let serve = axum::serve(listener, Router::new().fallback(answer).with_state(bed.clone()));
        tokio::select! {
            _ = async { serve.await } => {}
            () = watch_at(QUICK, found, &options, Arc::clone(&bed.cluster), std::future::pending()) => {}
            () = test(&bed) => {}
        }
    });
}

fn address(number: u64) -> String {
    format!("10.0.{}.{}", number / 250, number % 250 + 1)
}

fn uid(number: u64) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}

fn pod(number: u64, version: u64) -> Value {
    json!({
        "metadata": {"name": format!("pod-{number}"), "namespace": "shop", "uid": uid(number), "resourceVersion": version.to_string()},
        "spec": {"nodeName": "node1", "containers": [{"name": "main", "image": "web:1"}]},
        "status": {"phase": "Running", "podIP": address(number), "hostIP": "192.168.0.1"},
    })
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

fn bookmark(version: u64, ends_list: bool) -> Value {
    let annotations = if ends_list { json!({INITIAL_END: "true"}) } else { json!({}) };
    event("BOOKMARK", json!({"metadata": {"resourceVersion": version.to_string(), "annotations": annotations}}))
}

#[test]
fn lists_in_pages_and_follows_from_there() {
    let prepare = |bed: &Bed| {
        bed.reply("pods", "list", Reply::Page(vec![pod(1, 1), pod(2, 2)], "7", Some("rest")));
        bed.reply("pods", "list", Reply::Page(vec![pod(3, 3)], "7", None));
    };
    let options = Options { pod_labels: "app=web,tier!=x".into(), pod_fields: "spec.nodeName=node1".into(), ..Options::default() };
    with_server(prepare, options, async |bed| {
        bed.until("all kinds are listed", |bed| Kind::ALL.iter().all(|kind| bed.is_synced(*kind))).await;
        assert!(bed.knows(1) && bed.knows(2) && bed.knows(3));
        bed.until("the watch is open", |bed| !bed.asked("pods", "watch").is_empty()).await;
        let lists = bed.asked("pods", "list");
        assert!(lists[0].contains("limit=100") && lists[1].contains("continue=rest"), "{lists:?}");
        let watch = &bed.asked("pods", "watch")[0];
        for part in
            ["resourceVersion=7", "labelSelector=app%3Dweb%2Ctier%21%3Dx", "fieldSelector=spec.nodeName%3Dnode1", "allowWatchBookmarks"]
        {
            assert!(watch.contains(part), "{part} in {watch}");
        }
        assert!(!bed.asked("nodes", "list")[0].contains("Selector"));
        bed.tell("pods", event("ADDED", pod(4, 8)));
        bed.tell("pods", event("DELETED", pod(1, 9)));
        bed.until("the changes are known", |bed| bed.knows(4) && !bed.knows(1)).await;
        let health = bed.health(Kind::Pods);
        assert_eq!((health.objects, health.events, health.lists, health.malformed, health.failures), (3, 5, 1, 0, 0));
        assert!(health.bytes > 500, "{health:?}");
        assert!(bed.cluster.server().unwrap().starts_with("http://127.0.0.1:"));
    });
}

#[test]
fn a_streaming_list_is_a_list_and_a_watch_in_one() {
    let prepare = |bed: &Bed| {
        bed.reply("pods", "stream", Reply::Open(vec![event("ADDED", pod(1, 5)), event("ADDED", pod(2, 3)), bookmark(6, true)]));
    };
    with_server(prepare, Options::default(), async |bed| {
        bed.until("the pods are known", |bed| bed.is_synced(Kind::Pods) && bed.knows(1) && bed.knows(2)).await;
        bed.tell("pods", event("DELETED", pod(2, 7)));
        bed.until("the change is known", |bed| !bed.knows(2)).await;
        assert!(bed.asked("pods", "list").is_empty() && bed.asked("pods", "watch").is_empty());
        assert_eq!(bed.health(Kind::Pods).lists, 1);
    });
}

#[test]
fn a_server_that_passes_over_the_request_for_a_streaming_list_is_asked_for_pages() {
    for old in [Reply::Open(vec![event("ADDED", pod(1, 5)), bookmark(6, false)]), Reply::Open(vec![event("ADDED", pod(1, 5))])] {
        let prepare = |bed: &Bed| {
            bed.reply("pods", "stream", old);
            bed.reply("pods", "list", Reply::Page(vec![pod(2, 5)], "7", None));
        };
        with_server(prepare, Options::default(), async |bed| {
            bed.until("the pods are listed", |bed| bed.is_synced(Kind::Pods)).await;
            assert!(bed.knows(2) && !bed.knows(1), "what the list did not have is gone");
            assert_eq!(bed.health(Kind::Pods).failures, 0);
        });
    }
}

#[test]
fn a_version_that_is_forgotten_is_listed_anew_and_what_vanished_meanwhile_is_removed() {
    let expired = event(
        "ERROR",
        json!({"kind": "Status", "status": "Failure", "metadata": {}, "code": 410, "reason": "Expired", "message": "too old resource version"}),
    );
    for gone in [Reply::Ended(vec![expired]), Reply::Status(410, "too old resource version")] {
        let prepare = |bed: &Bed| {
            bed.reply("pods", "list", Reply::Page(vec![pod(1, 1), pod(2, 2)], "7", None));
            bed.reply("pods", "watch", gone);
            bed.reply("pods", "list", Reply::Page(vec![pod(2, 2), pod(3, 8)], "9", None));
        };
        with_server(prepare, Options::default(), async |bed| {
            bed.until("the second list is known", |bed| bed.knows(3)).await;
            bed.until("the rest is gone", |bed| !bed.knows(1)).await;
            assert!(bed.knows(2));
            bed.until("the watch goes on", |bed| bed.asked("pods", "watch").len() == 2).await;
            assert!(bed.asked("pods", "watch")[1].contains("resourceVersion=9"));
            assert_eq!(bed.health(Kind::Pods).lists, 2);
        });
    }
}

#[test]
fn a_watch_that_is_cut_goes_on_where_it_stood() {
    let prepare = |bed: &Bed| {
        // What is not understood shows that the bookmark before it was read.
        let last = event("CHANGED", json!({}));
        bed.reply("pods", "watch", Reply::Open(vec![event("ADDED", pod(1, 12)), bookmark(20, false), last]));
        bed.reply("pods", "watch", Reply::Ended(vec![bookmark(30, false)]));
        bed.reply("pods", "watch", Reply::Open(vec![event("ADDED", pod(1, 12)), event("ADDED", pod(1, 12)), event("ADDED", pod(2, 31))]));
    };
    with_server(prepare, Options::default(), async |bed| {
        bed.until("the bookmark is read", |bed| bed.health(Kind::Pods).malformed == 1).await;
        bed.cut("pods");
        bed.until("both pods are known", |bed| bed.knows(1) && bed.knows(2)).await;
        let watches = bed.asked("pods", "watch");
        assert!(watches[0].ends_with("resourceVersion=1") && watches[1].ends_with("resourceVersion=20"), "{watches:?}");
        assert!(watches[2].ends_with("resourceVersion=30"), "{watches:?}");
        bed.until("all is well again", |bed| bed.is_synced(Kind::Pods)).await;
        let health = bed.health(Kind::Pods);
        assert_eq!((health.objects, health.lists, health.failures), (2, 1, 1));
    });
}

#[test]
fn a_server_that_is_gone_leaves_the_last_state_and_the_reason() {
    let prepare = |bed: &Bed| {
        bed.reply("pods", "list", Reply::Page(vec![pod(1, 1)], "7", None));
        for _ in 0..3 {
            bed.reply("pods", "watch", Reply::Status(500, "etcd is away"));
        }
        bed.reply("pods", "watch", Reply::Silence);
    };
    with_server(prepare, Options::default(), async |bed| {
        let is_stale = |bed: &Bed, part: &str| matches!(bed.health(Kind::Pods).state, State::Stale { why, .. } if why.contains(part));
        bed.until("it is stale", |bed| is_stale(bed, "etcd is away")).await;
        assert!(bed.knows(1));
        bed.until("a silent server is noticed", |bed| bed.health(Kind::Pods).failures == 4).await;
        bed.until("it is synced again", |bed| bed.is_synced(Kind::Pods)).await;
        assert!(bed.knows(1));
        assert_eq!(bed.health(Kind::Pods).lists, 1, "the watch goes on");
        assert!(bed.is_synced(Kind::Nodes));
    });
}

#[test]
fn what_is_not_understood_is_counted_and_left_out() {
    let mut bad = pod(9, 2);
    bad["status"]["podIPs"] = json!("none");
    let mut nameless = pod(8, 2);
    nameless["metadata"]["uid"] = json!("");
    let prepare = |bed: &Bed| {
        bed.reply("pods", "list", Reply::Page(vec![pod(1, 1), bad.clone(), nameless], "7", None));
        bed.reply("pods", "watch", Reply::Open(vec![event("ADDED", bad.clone()), event("ADDED", pod(2, 8)), event("CHANGED", pod(3, 9))]));
    };
    with_server(prepare, Options::default(), async |bed| {
        bed.until("the others are known", |bed| bed.knows(1) && bed.knows(2) && bed.health(Kind::Pods).malformed == 4).await;
        assert!(!bed.knows(3));
        assert_eq!(bed.health(Kind::Pods).failures, 0);
    });
}

#[test]
fn a_kind_that_is_forbidden_is_reported_and_the_others_go_on() {
    let prepare = |bed: &Bed| {
        bed.reply("pods", "list", Reply::Page(vec![pod(1, 1)], "7", None));
        for way in ["stream", "stream"] {
            bed.reply("replicasets", way, Reply::Status(403, "replicasets.apps is forbidden"));
        }
    };
    with_server(prepare, Options::default(), async |bed| {
        let is_forbidden = |bed: &Bed| match bed.health(Kind::ReplicaSets).state {
            State::Forbidden { why, .. } => {
                why.starts_with("it may not watch replicasets.apps") && why.ends_with("replicasets.apps is forbidden")
            }
            _ => false,
        };
        bed.until("it is forbidden", is_forbidden).await;
        bed.until("pods are known", |bed| bed.is_synced(Kind::Pods) && bed.knows(1)).await;
        bed.until("it is allowed", |bed| bed.is_synced(Kind::ReplicaSets)).await;
        assert_eq!(bed.health(Kind::ReplicaSets).failures, 2);
    });
}

#[test]
fn endpoint_slices_are_found_in_the_version_that_is_served() {
    let slice = json!({
        "metadata": {"name": "web-x", "namespace": "shop", "uid": uid(60), "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.0.0.1"], "topology": {"kubernetes.io/hostname": "node1"}, "targetRef": {"kind": "Pod", "uid": uid(0)}}],
        "ports": [{"port": 80, "protocol": "TCP"}],
    });
    let service = json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": uid(50)}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    });
    let prepare = |bed: &Bed| {
        bed.reply("endpointslices", "stream", Reply::Status(404, "the server could not find the requested resource"));
        bed.reply("beta", "stream", Reply::Status(422, "no"));
        bed.reply("beta", "list", Reply::Page(vec![slice], "7", None));
        bed.reply("beta", "watch", Reply::Open(vec![]));
        bed.reply("services", "list", Reply::Page(vec![service], "7", None));
        bed.reply("pods", "list", Reply::Page(vec![pod(0, 1)], "7", None));
    };
    with_server(prepare, Options { node_name: Some("node1".into()), ..Options::default() }, async |bed| {
        bed.until("the slices are listed", |bed| bed.is_synced(Kind::EndpointSlices) && bed.is_synced(Kind::Services)).await;
        bed.until("the pod is known", |bed| bed.knows(0)).await;
        let services = bed.cluster.services();
        assert!(services[0].is_local && !services[0].is_unserved, "{services:?}");
        let end = crate::model::Endpoint { address: "10.0.0.1".parse().unwrap(), port: 80 };
        assert_eq!(bed.cluster.remote(end, false, now().mono_ns).unwrap().service.as_deref(), Some("web"));
        assert_eq!(bed.health(Kind::EndpointSlices).failures, 0, "the other version is no failure");
    });
}

#[test]
fn a_kind_that_is_served_in_no_version_is_said_to_be_so_and_is_asked_for_again() {
    let prepare = |bed: &Bed| {
        for version in ["endpointslices", "beta"] {
            bed.reply(version, "stream", Reply::Status(404, "the server could not find the requested resource"));
        }
    };
    with_server(prepare, Options::default(), async |bed| {
        let says_so = |bed: &Bed| match bed.health(Kind::EndpointSlices).state {
            State::Starting { why: Some(why) } => {
                &*why == "the API server serves no endpointslices.discovery.k8s.io in a version that is understood"
            }
            _ => false,
        };
        bed.until("the reason is told", says_so).await;
        bed.until("it is served", |bed| bed.is_synced(Kind::EndpointSlices)).await;
        assert_eq!(bed.health(Kind::EndpointSlices).failures, 1);
    });
}

#[test]
fn what_is_forbidden_after_it_was_known_stays_and_is_said_to_be_old_when_the_server_is_gone() {
    let prepare = |bed: &Bed| {
        bed.reply("pods", "list", Reply::Page(vec![pod(1, 1)], "7", None));
        bed.reply("pods", "watch", Reply::Status(403, "no"));
        bed.reply("pods", "watch", Reply::Status(401, "Unauthorized"));
        bed.reply("pods", "watch", Reply::Silence);
    };
    with_server(prepare, Options::default(), async |bed| {
        let is_stale = |bed: &Bed| matches!(bed.health(Kind::Pods).state, State::Stale { why, .. } if why.contains("token or certificate"));
        bed.until("the account is not known any more", is_stale).await;
        assert!(bed.knows(1));
    });
}

#[test]
fn a_list_of_many_pods_lets_others_have_their_turn() {
    let prepare = |bed: &Bed| {
        let mut object = pod(1, 1);
        object["metadata"]["annotations"] = json!({"long": "x".repeat(6_000)});
        let page = |from: u64| {
            let number = |mut object: Value, number: u64| {
                object["metadata"]["uid"] = json!(uid(number));
                object["status"]["podIP"] = json!(address(number));
                object
            };
            (from..from + 250).map(|own| number(object.clone(), own)).collect::<Vec<_>>()
        };
        for start in 0..8 {
            bed.reply("pods", "list", Reply::Page(page(start * 250), "7", (start < 7).then_some("rest")));
        }
    };
    with_server(prepare, Options::default(), async |bed| {
        let mut longest = Duration::ZERO;
        let mut last = tokio::time::Instant::now();
        while !bed.is_synced(Kind::Pods) {
            tokio::task::yield_now().await;
            longest = longest.max(last.elapsed());
            last = tokio::time::Instant::now();
        }
        assert_eq!(bed.health(Kind::Pods).objects, 2_000);
        // One page is made and read by this thread, too, in a debug build on a busy machine.
        assert!(longest < Duration::from_secs(1), "{longest:?}");
    });
}
