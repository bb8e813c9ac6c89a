//! The agent's own HTTP server: metrics, health and the service map, read from what was last published.
//! Knows nothing of workers: a slow reader holds one published value, no more.

use std::{future::Future, io, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::{DefaultBodyLimit, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use tokio::{net::TcpListener, sync::oneshot};

use super::{
    Published,
    json::{self, Filter},
    prometheus::{self, Metrics},
};

mod limit;

use limit::Limited;

/// What the handlers read.
#[derive(Clone, Debug)]
pub struct Shared {
    pub published: Arc<ArcSwap<Published>>,
    pub metrics: Arc<Metrics>,
}

/// No request needs a body; a handler would not get more than this. Heads are bounded by the HTTP library (431).
const MAX_BODY: usize = 4 * 1024;
/// Connections at once; a handful of scrapers and a few people looking.
const MAX_CONNECTIONS: usize = 64;
/// Longer than the pause between two scrapes on one connection.
const PATIENCE: Duration = Duration::from_secs(90);
const NOT_FOUND: &str = "not found; see /metrics, /healthz, /readyz, /api/v1/service-map, /api/v1/status";
/// How long requests under way may take once the server is told to stop.
const GRACE: Duration = Duration::from_millis(500);

/// Serves until `shutdown` is done, then lets requests under way finish for half a second.
///
/// # Errors
/// None today: a connection that fails is its own affair.
pub async fn serve(
    listener: TcpListener,
    published: Arc<ArcSwap<Published>>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let shared = Shared { published, metrics: Arc::default() };
    let (stopping, stopped) = oneshot::channel();
    let asked = async move {
        shutdown.await;
        // Nobody listens any more if the server has ended by itself.
        let _ = stopping.send(());
    };
    let listener = Limited::new(listener, MAX_CONNECTIONS, PATIENCE);
    let serving = axum::serve(listener, router(shared)).with_graceful_shutdown(asked).into_future();
    let overdue = async move {
        match stopped.await {
            Ok(()) => tokio::time::sleep(GRACE).await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        result = serving => result,
        () = overdue => Ok(()),
    }
}

/// The routes; anything else is a 404 in JSON, another method than GET or HEAD a 405 in JSON.
pub fn router(shared: Shared) -> Router {
    let refused = || failure(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here");
    let only = |route: MethodRouter<Shared>| route.fallback(move || std::future::ready(refused()));
    Router::new()
        .route("/metrics", only(get(metrics)))
        .route("/healthz", only(get(healthy)))
        .route("/readyz", only(get(ready)))
        .route("/api/v1/service-map", only(get(service_map)))
        .route("/api/v1/status", only(get(status)))
        .fallback(|| std::future::ready(failure(StatusCode::NOT_FOUND, NOT_FOUND)))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(shared)
}

async fn metrics(State(shared): State<Shared>) -> Response {
    match shared.metrics.encode(&shared.published.load_full()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::CONTENT_TYPE)], text).into_response(),
        Err(_) => failure(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written"),
    }
}

/// The process runs and answers.
async fn healthy() -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "ok\n").into_response()
}

/// Hooks are attached.
async fn ready(State(shared): State<Shared>) -> Response {
    let (status, text) =
        if shared.published.load().ready { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "attaching\n") };
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

async fn service_map(State(shared): State<Shared>, query: Result<Query<Vec<(String, String)>>, QueryRejection>) -> Response {
    let filter = query.map_err(|rejection| rejection.body_text()).and_then(|Query(parameters)| filter(parameters));
    let filter = match filter {
        Ok(filter) => filter,
        Err(error) => return failure(StatusCode::BAD_REQUEST, &error),
    };
    let mut body = Vec::new();
    json::service_map(&mut body, &shared.published.load().snapshot, &filter);
    body.push(b'\n');
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// What the parameters of a request choose; a sentence about the first that is not understood.
fn filter(parameters: Vec<(String, String)>) -> Result<Filter, String> {
    let mut filter = Filter::default();
    for (name, value) in parameters {
        let place = match name.as_str() {
            "namespace" => &mut filter.namespace,
            "workload" => &mut filter.workload,
            _ => return Err(format!("the parameter {name:?} is not known; namespace and workload are")),
        };
        if value.is_empty() {
            return Err(format!("the parameter {name} is empty; give a name, or leave the parameter out for all"));
        }
        if place.replace(value).is_some() {
            return Err(format!("the parameter {name} is given twice; one name can be asked for at a time"));
        }
    }
    Ok(filter)
}

/// How the agent is doing. Answers 200 whatever it says: that is what /readyz is for.
async fn status(State(shared): State<Shared>) -> Response {
    let mut body = Vec::new();
    json::status(&mut body, &shared.published.load());
    body.push(b'\n');
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn failure(status: StatusCode, error: &str) -> Response {
    (status, axum::Json(serde_json::json!({ "error": error }))).into_response()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::SocketAddr,
    };

    use tokio::task::JoinHandle;

    use super::*;
    use crate::export::fixtures::{cluster, published};

    struct Server {
        address: SocketAddr,
        published: Arc<ArcSwap<Published>>,
        stop: oneshot::Sender<()>,
        task: JoinHandle<io::Result<()>>,
    }

    impl Server {
        async fn start(first: Published) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let published = Arc::new(ArcSwap::from_pointee(first));
            let (stop, stopped) = oneshot::channel();
            let task = tokio::spawn(serve(listener, Arc::clone(&published), async move { drop(stopped.await) }));
            Self { address, published, stop, task }
        }

        async fn get(&self, path: &str) -> (u16, String, String) {
            let response = reqwest::get(format!("http://{}{path}", self.address)).await.unwrap();
            let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
            (response.status().as_u16(), kind, response.text().await.unwrap())
        }

        /// What comes back for these bytes until the server closes.
        async fn raw(&self, request: Vec<u8>) -> String {
            let address = self.address;
            let talk = move || {
                let mut stream = std::net::TcpStream::connect(address).unwrap();
                // The server may have answered and closed before all is written.
                let _ = stream.write_all(&request);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
                String::from_utf8_lossy(&answer).into_owned()
            };
            tokio::task::spawn_blocking(talk).await.unwrap()
        }

        async fn stop(self) {
            drop(self.stop);
            self.task.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn metrics_come_as_openmetrics() {
        let server = Server::start(published(2)).await;
        let (status, kind, text) = server.get("/metrics").await;
        assert_eq!((status, kind.as_str()), (200, prometheus::CONTENT_TYPE));
        assert!(text.contains("traces_service_graph_request_total{client=\"curl\",server=\"nginx\",connection_type=\"\","));
        assert!(text.ends_with("# EOF\n"));
        server.stop().await;
    }

    #[tokio::test]
    async fn not_ready_until_hooks_are_attached_but_healthy() {
        let server = Server::start(Published::default()).await;
        assert_eq!(server.get("/healthz").await.0, 200);
        assert_eq!(server.get("/readyz").await.0, 503);
        server.published.store(Arc::new(published(1)));
        assert_eq!(server.get("/readyz").await.0, 200);
        server.stop().await;
    }

    #[tokio::test]
    async fn the_service_map_is_what_was_last_published() {
        let server = Server::start(Published::default()).await;
        let empty: serde_json::Value = serde_json::from_str(&server.get("/api/v1/service-map").await.2).unwrap();
        assert_eq!((&empty["edges"], &empty["idle"]), (&serde_json::json!([]), &serde_json::json!([])));
        server.published.store(Arc::new(published(1)));
        let (status, kind, text) = server.get("/api/v1/service-map").await;
        let map: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, kind.as_str(), &map["edges"][1]["requests"]), (200, "application/json", &8.into()));
        server.stop().await;
    }

    #[tokio::test]
    async fn the_service_map_can_be_asked_for_a_part() {
        let server = Server::start(cluster(false)).await;
        let count = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["edges"].as_array().unwrap().len();
        for (query, edges) in [("?namespace=data", 1), ("?workload=cart&namespace=shop", 2), ("?workload=no%20such", 0), ("", 4)] {
            let (status, _, text) = server.get(&format!("/api/v1/service-map{query}")).await;
            assert_eq!((status, count(&text)), (200, edges), "{query}");
        }
        server.stop().await;
    }

    #[tokio::test]
    async fn parameters_that_are_not_understood_are_refused_with_a_sentence() {
        let server = Server::start(cluster(false)).await;
        for (query, sentence) in [
            ("?namspace=shop", "the parameter \"namspace\" is not known; namespace and workload are"),
            ("?namespace=", "the parameter namespace is empty"),
            ("?workload", "the parameter workload is empty"),
            ("?workload=a&workload=b", "the parameter workload is given twice"),
        ] {
            let (status, kind, text) = server.get(&format!("/api/v1/service-map{query}")).await;
            assert_eq!((status, kind.as_str()), (400, "application/json"), "{query}");
            let error: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!(error["error"].as_str().unwrap().starts_with(sentence), "{text}");
        }
        // Bytes that are no text are a name that nobody has.
        assert_eq!(server.get("/api/v1/service-map?workload=%ff%00").await.0, 200);
        server.stop().await;
    }

    #[tokio::test]
    async fn an_agent_whose_api_server_is_gone_is_ready_and_says_what_is_wrong() {
        let server = Server::start(cluster(false)).await;
        assert_eq!(server.get("/readyz").await.0, 200);
        let (status, kind, text) = server.get("/api/v1/status").await;
        let said: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, kind.as_str()), (200, "application/json"));
        assert!(said["degraded"][0].as_str().unwrap().starts_with("The API server has said nothing of pods for 3m"), "{text}");
        server.stop().await;
    }

    #[tokio::test]
    async fn what_is_not_there_is_refused_in_json() {
        let server = Server::start(published(1)).await;
        let (status, kind, text) = server.get("/nothing").await;
        assert_eq!((status, kind.as_str()), (404, "application/json"));
        assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["error"].as_str().unwrap().contains("/metrics"));
        let refused = reqwest::Client::new().post(format!("http://{}/metrics", server.address)).send().await.unwrap();
        assert_eq!(refused.status().as_u16(), 405);
        assert!(refused.json::<serde_json::Value>().await.unwrap()["error"].is_string());
        server.stop().await;
    }

    #[tokio::test]
    async fn hostile_requests_are_refused_and_the_next_is_answered() {
        let server = Server::start(published(1)).await;
        let answer = server.raw(b"\x16\x03\x01 not http at all\r\n\r\n".to_vec()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
        let mut long = b"GET /healthz HTTP/1.1\r\nHost: x\r\n".to_vec();
        for n in 0..1_000 {
            long.extend_from_slice(format!("X-{n}: {}\r\n", "v".repeat(1_000)).as_bytes());
        }
        long.extend_from_slice(b"\r\n");
        let answer = server.raw(long).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        let mut body = b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n".to_vec();
        body.extend_from_slice(&[b'x'; 100_000]);
        let answer = server.raw(body).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 405"), "{answer}");
        assert_eq!(server.get("/healthz").await.0, 200);
        server.stop().await;
    }

    #[tokio::test]
    async fn an_open_request_does_not_hold_up_the_end() {
        let server = Server::start(published(1)).await;
        let mut stuck = std::net::TcpStream::connect(server.address).unwrap();
        stuck.write_all(b"GET /metrics HTTP/1.1\r\nHo").unwrap();
        assert_eq!(server.get("/healthz").await.0, 200);
        tokio::time::timeout(Duration::from_secs(10), server.stop()).await.unwrap();
    }
}
