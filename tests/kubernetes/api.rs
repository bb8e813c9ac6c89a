//! The watch at scale, against a real API server: what it costs, how soon a change is a name, and what happens when the API server is
//! restarted, cut off, slow, or has forgotten where the watch stood. `REMORA_TEST_PODS` makes it smaller than 10,000.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kube::Client;
use serde_json::{Value, json};

use super::{
    bystander::{Bystander, KindLine},
    proxy::Proxy,
    server::{Server, ask, ask_all},
};

const NAMESPACES: usize = 20;
const PODS_PER_WORKLOAD: usize = 10;
const ENDPOINTS: usize = 5;
/// Changes are told within this time while the API server answers, as the rules of naming assume.
const DELIVERY: Duration = Duration::from_secs(1);
/// Resident memory: of a pod and its part of Services and endpoints; and of connections, TLS and what reading a page of a list leaves.
const PER_POD: u64 = 1024;
const ONCE: u64 = 8 << 20;
/// The machine may have other things to do than to schedule this, connections may break, the API server may be slow.
const PATIENCE: Duration = Duration::from_secs(5);

/// An address of a pod, and who has it in turn.
struct Place {
    address: String,
    workload: usize,
    pod: String,
    /// Who had it before, and until when: the API server's answer to the deletion.
    before: Option<(String, Instant)>,
    /// The status with the address is written.
    since: Option<Instant>,
    turn: usize,
}

type World = Arc<Vec<Mutex<Place>>>;

#[test]
fn ten_thousand_pods_are_named_rightly_whatever_happens_to_the_api_server() {
    let pods: usize = std::env::var("REMORA_TEST_PODS").map_or(10_000, |text| text.parse().unwrap());
    let server = Server::start("api");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    handle.block_on(async {
        let client = server.client().await;
        let began = Instant::now();
        let (world, services) = populate(&client, pods).await;
        println!("created: {pods} pods and {} services in {:.0?}", services.len(), began.elapsed());

        let proxy = Arc::new(Proxy::start(server.port).await);
        let mut bystander = Bystander::start(&server.kubeconfig_at(proxy.port));
        bystander.health();
        let before = bystander.usage();
        let began = Instant::now();
        bystander.watch();
        until(&mut bystander, "all kinds are synced", is_synced).await;
        let (took, after) = (began.elapsed(), bystander.usage());
        let received: u64 = bystander.health().iter().map(|kind| kind.bytes).sum();
        let grown = after.resident_bytes.saturating_sub(before.resident_bytes);
        let per_pod = grown / pods as u64;
        println!(
            "synced: in {took:.1?}, {} ms of CPU, {:.1} MB received ({:.1} MB of it pods); resident {:.1} MB, {per_pod} bytes more \
             for each pod",
            after.cpu_ms - before.cpu_ms,
            received as f64 / 1e6,
            bystander.health()[0].bytes as f64 / 1e6,
            after.resident_bytes as f64 / 1e6,
        );
        all_are_right(&mut bystander, &world);
        for (service, (address, workload)) in services.iter().enumerate().step_by(7) {
            let answer = bystander.who(address, 80);
            assert_eq!(answer.as_deref(), Some(format!("deployment/web-{workload}").as_str()), "service {service} at {address}");
        }
        assert!(bystander.health().iter().all(|kind| kind.malformed == 0));
        assert!(grown <= PER_POD * pods as u64 + ONCE, "{grown} bytes for {pods} pods");

        let bystander = &mut bystander;
        let usage = bystander.usage();
        let bytes = proxy.bytes.load(Ordering::Relaxed);
        let (lags, took) = churn(&client, &world, bystander, 50.0, Duration::from_secs(20)).await;
        let cpu_ms = bystander.usage().cpu_ms - usage.cpu_ms;
        println!(
            "churn: {lags}; CPU {:.1} % of one, {:.0} KB/s of watch traffic",
            cpu_ms as f64 / took.as_millis() as f64 * 100.0,
            (proxy.bytes.load(Ordering::Relaxed) - bytes) as f64 / took.as_secs_f64() / 1e3,
        );
        assert!(lags.at(99) <= DELIVERY, "{lags}");

        let lists = |bystander: &mut Bystander| bystander.health()[0].lists;
        let listed = lists(bystander);
        let cutting = {
            let proxy = Arc::clone(&proxy);
            tokio::spawn(async move {
                for _ in 0..5 {
                    tokio::time::sleep(Duration::from_millis(800)).await;
                    proxy.cut(false);
                }
            })
        };
        let (lags, _) = churn(&client, &world, bystander, 50.0, Duration::from_secs(5)).await;
        cutting.await.unwrap();
        println!("cut five times: {lags}; {} lists more", lists(bystander) - listed);
        assert_eq!(lists(bystander), listed, "a cut needs no list");

        proxy.delay_ms.store(300, Ordering::Relaxed);
        let (lags, _) = churn(&client, &world, bystander, 20.0, Duration::from_secs(5)).await;
        println!("an API server that takes 300 ms longer: {lags}");
        proxy.delay_ms.store(0, Ordering::Relaxed);

        proxy.cut(true);
        until(bystander, "it is stale", |kinds| kinds.iter().all(|kind| kind.state == "stale")).await;
        let stays = world[0].lock().unwrap().pod.clone();
        assert!(
            bystander.who(&world[0].lock().unwrap().address, 0).is_some_and(|answer| answer.starts_with(&stays)),
            "the last state stays"
        );
        replace(&client, &world, 0..200.min(pods / 2)).await;
        proxy.cut(false);
        let began = Instant::now();
        until(bystander, "it is synced again", is_synced).await;
        let took = began.elapsed();
        all_are_right(bystander, &world);
        println!("cut off while 200 pods were replaced: synced {took:.1?} after, {} lists more", lists(bystander) - listed);

        let listed = lists(bystander);
        proxy.cut(true);
        until(bystander, "it is stale", |kinds| kinds.iter().all(|kind| kind.state == "stale")).await;
        replace(&client, &world, 0..200.min(pods / 2)).await;
        server.stop("kube-apiserver");
        proxy.cut(false);
        server.resume("kube-apiserver");
        let began = Instant::now();
        until(bystander, "it is synced again", is_synced).await;
        let took = began.elapsed();
        all_are_right(bystander, &world);
        println!("restarted, and the watch's place forgotten: synced {took:.1?} after, {} lists more", lists(bystander) - listed);
        assert!(lists(bystander) > listed, "the new API server cannot know the old place");

        let client = server.client().await;
        let (lags, _) = churn(&client, &world, bystander, 50.0, Duration::from_secs(5)).await;
        println!("churn after all that: {lags}");
        all_are_right(bystander, &world);
        println!("at the end: resident {:.1} MB; {:#?}", bystander.usage().resident_bytes as f64 / 1e6, bystander.health());
    });
}

fn is_synced(kinds: &[KindLine]) -> bool {
    kinds.iter().all(|kind| kind.state == "synced")
}

async fn until(bystander: &mut Bystander, what: &str, condition: impl Fn(&[KindLine]) -> bool) {
    let began = Instant::now();
    while !condition(&bystander.health()) {
        assert!(began.elapsed() < Duration::from_secs(120), "never: {what}; {:#?}", bystander.health());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Of each address, within what a change takes to arrive.
fn all_are_right(bystander: &mut Bystander, world: &World) {
    let began = Instant::now();
    for place in world.iter() {
        let place = place.lock().unwrap();
        let expected = format!("{} deployment/web-{}", place.pod, place.workload);
        loop {
            let answer = bystander.who(&place.address, 8080);
            if answer.as_ref() == Some(&expected) {
                break;
            }
            if began.elapsed() > PATIENCE {
                panic!("{} is {answer:?}, not {expected}; {:#?}", place.address, bystander.health());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Nodes, workloads, pods of 8 KB with a status, Services and their endpoints. Each Service's address and workload.
async fn populate(client: &Client, pods: usize) -> (World, Vec<(String, usize)>) {
    let workloads = pods / PODS_PER_WORKLOAD;
    let named = |name: String| json!({"metadata": {"name": name}});
    let namespaces = (0..NAMESPACES).map(|number| ("/api/v1/namespaces".to_owned(), named(format!("shop-{number}"))));
    ask_all(client, "POST", namespaces.collect()).await;
    let nodes = (0..100).map(|number| ("/api/v1/nodes".to_owned(), named(format!("node-{number}"))));
    ask_all(client, "POST", nodes.collect()).await;
    let sets = (0..workloads).map(|workload| {
        let labels = json!({"app": format!("web-{workload}"), "pod-template-hash": "5d"});
        let set = json!({
            "metadata": {
                "name": format!("web-{workload}-5d"), "labels": labels,
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": format!("web-{workload}"), "uid": "x", "controller": true}],
            },
            "spec": {
                "replicas": 0, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "registry/web:1"}]}},
            },
        });
        (format!("/apis/apps/v1/namespaces/{}/replicasets", namespace(workload)), set)
    });
    let sets = ask_all(client, "POST", sets.collect()).await;
    let set_uids: Arc<Vec<String>> = Arc::new(sets.iter().map(|set| set["metadata"]["uid"].as_str().unwrap().to_owned()).collect());
    SETS.set(set_uids).unwrap();

    let place = |number: usize| Place {
        address: format!("10.10.{}.{}", number / 250, number % 250 + 1),
        workload: number / PODS_PER_WORKLOAD,
        pod: format!("web-{number}-0"),
        before: None,
        since: None,
        turn: 0,
    };
    let world: World = Arc::new((0..pods).map(|number| Mutex::new(place(number))).collect());
    let made = world.iter().map(|place| {
        let place = place.lock().unwrap();
        (format!("/api/v1/namespaces/{}/pods", namespace(place.workload)), pod(&place.pod, place.workload))
    });
    let made = ask_all(client, "POST", made.collect()).await;
    let statuses = world.iter().map(|place| {
        let place = place.lock().unwrap();
        (status_path(&place), status(&place.address))
    });
    let length = ask_all(client, "PATCH", statuses.collect()).await.iter().map(|pod| pod.to_string().len()).max();
    println!("a pod of {} bytes of JSON", length.unwrap());

    let count = pods / ENDPOINTS;
    let workload_of = |service: usize| service * ENDPOINTS / PODS_PER_WORKLOAD;
    let services = (0..count).map(|service| {
        let object = json!({"metadata": {"name": format!("web-{service}")}, "spec": {"ports": [{"port": 80, "targetPort": 8080}]}});
        (format!("/api/v1/namespaces/{}/services", namespace(workload_of(service))), object)
    });
    let services = ask_all(client, "POST", services.collect()).await;
    let slices = (0..count).map(|service| {
        let endpoint = |number: usize| {
            let place = world[number].lock().unwrap();
            let uid = &made[number]["metadata"]["uid"];
            json!({"addresses": [place.address], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": place.pod, "uid": uid}})
        };
        let endpoints: Vec<_> = (service * ENDPOINTS..(service + 1) * ENDPOINTS).map(endpoint).collect();
        let object = json!({
            "metadata": {"name": format!("web-{service}-x"), "labels": {"kubernetes.io/service-name": format!("web-{service}")}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        });
        (format!("/apis/discovery.k8s.io/v1beta1/namespaces/{}/endpointslices", namespace(workload_of(service))), object)
    });
    ask_all(client, "POST", slices.collect()).await;
    let address = |(number, service): (usize, &Value)| (service["spec"]["clusterIP"].as_str().unwrap().to_owned(), workload_of(number));
    (world, services.iter().enumerate().map(address).collect())
}

static SETS: std::sync::OnceLock<Arc<Vec<String>>> = std::sync::OnceLock::new();

fn namespace(workload: usize) -> String {
    format!("shop-{}", workload % NAMESPACES)
}

fn status_path(place: &Place) -> String {
    format!("/api/v1/namespaces/{}/pods/{}/status", namespace(place.workload), place.pod)
}

/// About as long as pods are that carry the usual sidecars, probes and volumes.
fn pod(name: &str, workload: usize) -> Value {
    let environment: Vec<_> = (0..24).map(|number| json!({"name": format!("SETTING_{number}"), "value": "v".repeat(60)})).collect();
    json!({
        "metadata": {
            "name": name,
            "labels": {
                "app": format!("web-{workload}"), "pod-template-hash": "5d", "app.kubernetes.io/name": "web",
                "app.kubernetes.io/instance": format!("web-{workload}"), "app.kubernetes.io/managed-by": "Helm",
                "app.kubernetes.io/version": "1.2.3", "app.kubernetes.io/component": "frontend",
            },
            "annotations": {"checksum/config": "c".repeat(64), "notes": "n".repeat(800)},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("web-{workload}-5d"), "uid": SETS.get().unwrap()[workload],
                "controller": true,
            }],
        },
        "spec": {
            "nodeName": format!("node-{}", workload % 100),
            "containers": [{"name": "main", "image": "registry/web:1", "env": environment}, {"name": "proxy", "image": "registry/proxy:2"}],
        },
    })
}

fn status(address: &str) -> Value {
    let now = k8s_openapi::jiff::Timestamp::from_second(k8s_openapi::jiff::Timestamp::now().as_second()).unwrap().to_string();
    let container = |name: &str, image: &str| {
        let id: String = (0..8).map(|_| format!("{:08x}", rand())).collect();
        json!({
            "name": name, "image": image, "imageID": format!("docker-pullable://{image}@sha256:{}", "0".repeat(64)), "ready": true,
            "restartCount": 0, "containerID": format!("containerd://{id}"), "state": {"running": {"startedAt": now}},
        })
    };
    json!({"status": {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "hostIP": "192.168.7.1", "startTime": now,
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
        "containerStatuses": [container("main", "registry/web:1"), container("proxy", "registry/proxy:2")],
    }})
}

/// Any number will do.
fn rand() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as u32
}

/// How long it took from the API server's answer to a change until the change was a name.
struct Lags {
    replaced: usize,
    took: Duration,
    sorted: Vec<Duration>,
    longest: Duration,
    questions: usize,
}

impl Lags {
    fn at(&self, percent: usize) -> Duration {
        self.sorted.get(self.sorted.len() * percent / 100).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Lags {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = self.replaced as f64 / self.took.as_secs_f64();
        write!(
            out,
            "{} pods replaced, {rate:.0} a second; a change was a name after {:.1?} (median), {:.1?} (99 %), {:.1?} (longest); {} questions, \
             none answered wrongly",
            self.replaced,
            self.at(50),
            self.at(99),
            self.longest,
            self.questions
        )
    }
}

/// What the changes tell the questions.
#[derive(Default)]
struct Changes {
    ended: AtomicBool,
    changed: Mutex<Vec<usize>>,
    replaced: AtomicUsize,
}

/// Deletes pods and gives their addresses to new ones, while every address that changed is asked for again and again. No pod may be
/// named for long after its end.
async fn churn(client: &Client, world: &World, bystander: &mut Bystander, rate: f64, time: Duration) -> (Lags, Duration) {
    let changes = Arc::new(Changes::default());
    let changing = {
        let (client, world, changes) = (client.clone(), Arc::clone(world), Arc::clone(&changes));
        tokio::spawn(async move {
            let began = Instant::now();
            let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
            let mut all = tokio::task::JoinSet::new();
            let mut next = 0;
            while began.elapsed() < time {
                ticks.tick().await;
                // Far apart, so that no address is replaced twice at once.
                next = (next + 7) % world.len();
                let number = next;
                let (client, world, changes) = (client.clone(), Arc::clone(&world), Arc::clone(&changes));
                all.spawn(async move {
                    replace_one(&client, &world, number, || changes.changed.lock().unwrap().push(number)).await;
                    changes.replaced.fetch_add(1, Ordering::Relaxed);
                });
            }
            all.join_all().await;
            changes.ended.store(true, Ordering::Relaxed);
            began.elapsed()
        })
    };
    let mut questions = || {
        let mut asked = 0;
        let mut lags = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        let mut ended_at = None;
        loop {
            open.append(&mut changes.changed.lock().unwrap());
            if changes.ended.load(Ordering::Relaxed) {
                let ended_at = ended_at.get_or_insert_with(Instant::now);
                assert!(ended_at.elapsed() < Duration::from_secs(30), "{} changes never became names", open.len());
                if open.is_empty() {
                    return (lags, asked);
                }
            }
            // The answers are not what costs are counted for.
            std::thread::sleep(Duration::from_millis(2));
            open.retain(|number| {
                let address = world[*number].lock().unwrap().address.clone();
                let asked_at = Instant::now();
                let answer = bystander.who(&address, 0);
                asked += 1;
                let place = world[*number].lock().unwrap();
                let name = answer.as_deref().and_then(|answer| answer.split(' ').next());
                match name {
                    Some(name) if name == place.pod => match place.since {
                        Some(since) => {
                            lags.push(Instant::now().saturating_duration_since(since));
                            false
                        }
                        // The name came before the API server's answer.
                        None => true,
                    },
                    None => true,
                    Some(name) => {
                        let (before, until) = place.before.as_ref().unwrap();
                        assert_eq!(name, before, "{address} never was that pod's");
                        let late = asked_at.saturating_duration_since(*until);
                        assert!(late <= PATIENCE, "{address} is still {name}, which was deleted {late:?} ago");
                        true
                    }
                }
            });
        }
    };
    // These block; the changes go on, since the runtime is another thread's.
    let (mut lags, asked) = questions();
    let took = changing.await.unwrap();
    lags.sort_unstable();
    let longest = lags.last().copied().unwrap_or_default();
    (Lags { replaced: changes.replaced.load(Ordering::Relaxed), took, sorted: lags, longest, questions: asked }, took)
}

async fn replace(client: &Client, world: &World, numbers: std::ops::Range<usize>) {
    for number in numbers {
        replace_one(client, world, number, || ()).await;
    }
}

async fn replace_one(client: &Client, world: &World, number: usize, deleted: impl FnOnce()) {
    let (path, old, turn, workload, address) = {
        let place = world[number].lock().unwrap();
        let path = format!("/api/v1/namespaces/{}/pods", namespace(place.workload));
        (path, place.pod.clone(), place.turn + 1, place.workload, place.address.clone())
    };
    let new = format!("web-{number}-{turn}");
    ask(client, "DELETE", &format!("{path}/{old}"), &json!({"gracePeriodSeconds": 0})).await;
    let status_path = {
        let mut place = world[number].lock().unwrap();
        (place.turn, place.pod, place.since) = (turn, new.clone(), None);
        place.before = Some((old, Instant::now()));
        status_path(&place)
    };
    deleted();
    ask(client, "POST", &path, &pod(&new, workload)).await;
    ask(client, "PATCH", &status_path, &status(&address)).await;
    world[number].lock().unwrap().since = Some(Instant::now());
}
