//! HTTP/2 under servers and clients of different make: nginx, nghttpd and h2 for Python; h2load, curl and h2.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use crate::support::{
    agent::Agent,
    capture::{Capture, assert_same_exchanges},
    exchange::{Exchange, Report, count_by},
    http2::{LARGE, Nghttpd, Strange, Told, client, curl, h2load, peer, summaries},
    machine,
    nginx::{Nginx, statuses},
    process::Process,
};

const SIDES: [&str; 2] = ["client", "server"];

/// Both sides saw what the client tells, and each exchange within the time that it took there.
#[track_caller]
fn assert_equal(report: &Report, port: u16, told: &[Told]) {
    report.summary().assert_nothing_lost();
    let mut expected: Vec<_> = told.iter().map(Told::summary).collect();
    expected.sort();
    for side in SIDES {
        let exchanges = report.of(port, side);
        assert_eq!(summaries(&exchanges), expected, "{side} side");
        for exchange in exchanges {
            let within = |told: &&Told| {
                let begin = exchange.start_unix_nano + SLACK_NS >= told.begin;
                begin && exchange.start_unix_nano + exchange.duration_ns <= told.end + SLACK_NS
            };
            let of_same = |told: &&Told| told.path.split('?').next() == Some(&exchange.resource) && told.status == exchange.status;
            assert!(told.iter().filter(of_same).any(|told| within(&told)), "{side}: {exchange:?}");
            assert_eq!(exchange.protocol, "http2");
        }
    }
}

/// The agent's clock and the programs' are read one after the other.
const SLACK_NS: u64 = 2_000_000;

fn with<'a>(report: &'a Report, port: u16, side: &str, path: &str) -> Vec<&'a Exchange> {
    report.of(port, side).into_iter().filter(|exchange| exchange.resource == path).collect()
}

#[test]
fn twenty_thousand_requests_of_h2load_are_seen_once_from_each_side_as_nginx_logs_them() {
    let _machine = machine();
    let nginx = Nginx::start_http2();
    let port = nginx.port;
    let directory = tempfile::tempdir().expect("make a directory");
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let urls = ["/", "/a?token=secret", "/b/1", "/missing/x", "/b/2", "/busy", "/c", "/d", "/missing/y", "/e"].map(url);
    let agent = Agent::start(&[]);
    let printed = h2load(&urls, 20_000, 4, 100, directory.path());
    let report = agent.finish();
    let log = nginx.stop();

    assert!(printed.contains("20000 done") && printed.contains("0 errored"), "{printed}");
    assert_eq!(statuses(&log), BTreeMap::from([("200".into(), 14_000), ("404".into(), 4_000), ("503".into(), 2_000)]));
    let mut paths: BTreeMap<&str, u64> = BTreeMap::new();
    for line in &log {
        *paths.entry(line.path.split('?').next().unwrap_or_default()).or_insert(0) += 1;
    }
    report.summary().assert_nothing_lost();
    for side in SIDES {
        let exchanges = report.of(port, side);
        assert_eq!(count_by(&exchanges, |exchange| exchange.status.clone()), statuses(&log), "{side} side");
        assert_eq!(count_by(&exchanges, |exchange| exchange.resource.as_str()), paths, "{side} side");
        for exchange in exchanges {
            assert_eq!((exchange.protocol.as_str(), exchange.operation.as_str()), ("http2", "GET"), "{exchange:?}");
            assert_eq!((exchange.comm(), exchange.error), (if side == "client" { "h2load" } else { "nginx" }, exchange.status == "503"));
            assert_eq!(exchange.flags, [] as [&str; 0], "{exchange:?}");
            assert_eq!(exchange.attributes["server.address"], "127.0.0.1");
        }
    }
}

#[test]
fn a_hundred_interleaved_streams_are_told_apart_live_and_from_a_capture_file() {
    let _machine = machine();
    let nginx = Nginx::start_http2();
    let capture = Capture::start(nginx.port);
    let agent = Agent::start(&[]);
    let told = client(&["interleaved", &nginx.port.to_string(), "5"]);
    let report = agent.finish();
    let replayed = capture.replay();

    assert_eq!(told.len(), 500);
    assert_equal(&report, nginx.port, &told);
    let live = report.of(nginx.port, "server");
    assert_same_exchanges(&live, &replayed.of(nginx.port, "unknown"));
    assert_eq!(live.iter().filter(|exchange| exchange.error).count(), 50);
}

#[test]
fn curl_and_nghttpd_agree_with_what_is_seen() {
    let _machine = machine();
    let nghttpd = Nghttpd::start();
    let capture = Capture::start(nghttpd.port);
    let agent = Agent::start(&[]);
    let urls: Vec<_> = (0..30).map(|number| nghttpd.url(["/small", "/large?token=secret", "/none"][number % 3])).collect();
    let printed = curl(&urls);
    let report = agent.finish();
    let replayed = capture.replay();

    assert_eq!(printed.iter().filter(|line| *line == "2 200").count(), 20);
    report.summary().assert_nothing_lost();
    for side in SIDES {
        let exchanges = report.of(nghttpd.port, side);
        let counts = count_by(&exchanges, |exchange| format!("{} {} {}", exchange.operation, exchange.resource, exchange.status));
        let expected = [("GET /large 200", 10), ("GET /none 404", 10), ("GET /small 200", 10)];
        assert_eq!(counts, expected.map(|(summary, count)| (summary.to_owned(), count)).into(), "{side} side");
        for exchange in with(&report, nghttpd.port, side, "/large") {
            assert_eq!(exchange.attributes["http.response.body.size"], LARGE, "{exchange:?}");
            assert!(exchange.response_bytes > LARGE as u64);
        }
    }
    assert_same_exchanges(&report.of(nghttpd.port, "client"), &replayed.of(nghttpd.port, "unknown"));
}

#[test]
fn streams_that_the_client_resets_end_as_such() {
    let _machine = machine();
    let nghttpd = Nghttpd::start();
    let agent = Agent::start(&[]);
    let told = client(&["resets", &nghttpd.port.to_string(), "20"]);
    let report = agent.finish();

    assert_eq!(told.len(), 40);
    assert_equal(&report, nghttpd.port, &told);
    for side in SIDES {
        for exchange in with(&report, nghttpd.port, side, "/large") {
            assert_eq!((exchange.status.as_str(), exchange.error), ("200", true), "{exchange:?}");
            assert_eq!(exchange.attributes["error.type"], "CANCEL", "{exchange:?}");
        }
        assert!(with(&report, nghttpd.port, side, "/small").iter().all(|exchange| !exchange.error));
    }
}

#[test]
fn a_stream_that_waits_for_its_window_lasts_as_long() {
    let _machine = machine();
    let nghttpd = Nghttpd::start();
    let agent = Agent::start(&[]);
    let told = client(&["stalled", &nghttpd.port.to_string(), "300"]);
    let report = agent.finish();

    assert_equal(&report, nghttpd.port, &told);
    for side in SIDES {
        let [exchange] = report.of(nghttpd.port, side)[..] else { panic!("one exchange") };
        assert!(exchange.duration_ns > 300_000_000 && exchange.ttfb_ns.is_some_and(|ns| ns < 300_000_000), "{exchange:?}");
        assert_eq!(exchange.attributes["http.response.body.size"], LARGE);
    }
}

#[test]
fn interim_answers_pushes_trailers_resets_and_a_goodbye_by_the_server_are_told() {
    let _machine = machine();
    let strange = Strange::start();
    let capture = Capture::start(strange.port);
    let agent = Agent::start(&[]);
    let told = client(&["strange", &strange.port.to_string()]);
    let report = agent.finish();
    let replayed = capture.replay();

    assert_eq!(told.len(), 13);
    assert_equal(&report, strange.port, &told);
    for side in SIDES {
        let only = |path: &str| match with(&report, strange.port, side, path)[..] {
            [exchange] => exchange.clone(),
            ref many => panic!("{path}: {many:#?}"),
        };
        let failed = |path: &str| {
            let exchange = only(path);
            (exchange.error, exchange.attributes.get("error.type").and_then(|name| name.as_str()).map(str::to_owned))
        };
        assert_eq!(failed("/reset"), (true, Some("INTERNAL_ERROR".into())));
        assert_eq!(failed("/refuse"), (true, Some("REFUSED_STREAM".into())));
        assert_eq!(failed("/behind"), (true, Some("GOAWAY".into())));
        for path in ["/interim", "/trailers", "/style", "/push", "/b", "/c", "/go-away"] {
            assert_eq!(failed(path), (false, None), "{path}");
        }
        assert!(only("/slow").duration_ns >= 200_000_000 && only("/b").duration_ns < 200_000_000);
        assert_eq!((only("/upload").operation.as_str(), &only("/upload").attributes["http.request.body.size"]), ("POST", &1000.into()));
        assert_eq!(only("/a").attributes["http.response.body.size"], 400);
    }
    assert_same_exchanges(&report.of(strange.port, "server"), &replayed.of(strange.port, "unknown"));
}

#[test]
fn a_connection_joined_late_gives_what_can_be_known_and_nothing_wrong() {
    let _machine = machine();
    let nghttpd = Nghttpd::start();
    let port = nghttpd.port.to_string();
    let mut process = Process::spawn(peer(&["late", &port]).stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut lines = BufReader::new(process.stdout()).lines().map(|line| line.expect("read the client's words"));
    let before: Vec<_> = lines.by_ref().take_while(|line| !line.contains("paused")).collect();
    let agent = Agent::start(&[]);
    process.stdin().write_all(b"\n").expect("let the client go on");
    let after: Vec<_> = lines.map(|line| Told::read(&line)).collect();
    let report = agent.finish();

    assert_eq!((before.len(), after.len()), (20, 20));
    report.summary().assert_nothing_lost();
    for side in SIDES {
        let exchanges = report.of(nghttpd.port, side);
        assert_eq!(exchanges.len(), 20, "{side} side: {exchanges:#?}");
        for (exchange, told) in exchanges.iter().zip(&after) {
            assert_eq!((exchange.protocol.as_str(), exchange.operation.as_str()), ("http2", "GET"));
            assert!(exchange.flags.contains(&"adopted".to_owned()));
            let known = format!("{} {} {}", exchange.operation, exchange.resource, exchange.status);
            // `/old` was inserted into the client's table before: nobody can know it now.
            let empty = exchange.resource.is_empty() || exchange.status.is_empty();
            assert_eq!(exchange.flags.contains(&"truncated".to_owned()), empty || !exchange.attributes.contains_key("server.address"));
            assert!(known == told.summary() || (empty && (exchange.status.is_empty() || exchange.status == told.status)), "{exchange:?}");
            assert!(exchange.resource.is_empty() || exchange.resource == told.path, "{exchange:?} {told:?}");
        }
        assert!(exchanges.iter().filter(|exchange| exchange.resource.starts_with("/after/")).count() >= 9, "{side}");
    }
}
