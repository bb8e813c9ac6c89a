use ratatui::{Terminal, backend::TestBackend};

use super::{
    rows::{duration, fit},
    *,
};
use crate::{
    export::fixtures::{cluster, published},
    model::{Exchange, Party, Protocol, Side},
    service_map::{
        EdgeKey, Limits, ServiceMap, Snapshot,
        fixtures::{exchange, key, party},
    },
};

fn draw(width: u16, height: u16, current: &Published, previous: Option<&Published>, view: &View) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| render(frame, current, previous, view)).unwrap();
    let buffer = terminal.backend().buffer();
    (0..height).map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned()).collect()
}

fn many(count: usize) -> Published {
    let mut map = ServiceMap::new(Limits::default());
    for n in 0..count {
        let edge = map.intern(&key(&format!("client-{n:03}"), "nginx"));
        map.record(edge, Side::Client, &exchange(1_000));
    }
    Published { snapshot: Arc::new(Snapshot::merge(0, [map.shard()], Vec::new())), ..Published::default() }
}

fn press(code: KeyCode) -> KeyEvent {
    KeyEvent::new(code, KeyModifiers::NONE)
}

#[test]
fn the_screen_shows_edges_resources_and_the_agent() {
    let screen = draw(120, 24, &published(5), Some(&published(3)), &View::default());
    assert_eq!(screen[0], "remora  ship  hooks socket  101 events/s  lost 2  up 0:00:05  idle 1");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&screen[1]), ["CLIENT", "SERVER", "PROTO", "REQ/S▾", "ERR", "%", "P50", "P95", "P99", "TOTAL", "BYTES", "RETRANS"]);
    let first = words(&screen[2]);
    assert_eq!(first[..5], ["curl", "nginx:80", "http", "8.0", "12.5"]);
    assert_eq!(first[8..], ["40", "43.0K", "5"]);
    assert_eq!(words(&screen[3])[..5], ["nginx", "postgres:5432", "postgresql", "2.0", "50.0"]);
    assert_eq!(words(&screen[4])[..6], ["backup", "10.1.2.3:22", "unknown", "0.0", "-", "-"]);
    let slow = screen.iter().position(|line| line.starts_with("EDGE")).unwrap();
    assert_eq!(words(&screen[slow + 1]), ["curl", "→", "nginx:80", "GET", "/slow", "5", "5", "900ms", "900ms", "900ms"]);
    assert!(screen[23].contains("q quit"));
}

#[test]
fn keys_choose_what_comes_first() {
    let first = |sort| rows(&published(4), Some(&published(2)), sort).remove(0).client;
    assert_eq!((first(Sort::Rate), first(Sort::Errors), first(Sort::P99)), ("curl".into(), "nginx".into(), "curl".into()));
    let mut view = View::default();
    for (code, sort) in [('e', Sort::Errors), ('p', Sort::P99), ('r', Sort::Rate)] {
        assert_eq!(view.key(press(KeyCode::Char(code)), 5), None);
        assert_eq!(view.sort, sort);
    }
}

#[test]
fn arrows_scroll_within_the_rows() {
    let current = many(50);
    let mut view = View::default();
    view.key(press(KeyCode::Up), 50);
    assert_eq!(view.scroll, 0);
    (0..3).for_each(|_| assert_eq!(view.key(press(KeyCode::Down), 50), None));
    assert!(draw(100, 12, &current, None, &view)[2].starts_with("client-003"));
    (0..99).for_each(|_| assert_eq!(view.key(press(KeyCode::PageDown), 50), None));
    assert_eq!(view.scroll, 49);
    let screen = draw(100, 12, &current, None, &view);
    assert!(screen[10].starts_with("client-049"), "{screen:?}");
}

#[test]
fn q_escape_and_control_c_leave() {
    let mut view = View::default();
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    for key in [press(KeyCode::Char('q')), press(KeyCode::Esc), control_c] {
        assert_eq!(view.key(key, 0), Some(Exit::User));
    }
    assert_eq!(view.key(press(KeyCode::Char('c')), 0), None);
}

#[test]
fn any_size_can_be_drawn_on() {
    let current = published(2);
    for (width, height) in [(1, 1), (5, 2), (20, 5), (79, 13), (80, 14), (300, 100)] {
        draw(width, height, &current, None, &View { scroll: 1_000, ..View::default() });
    }
}

#[test]
fn recent_requests_decide_and_quiet_edges_keep_their_history() {
    let mut map = ServiceMap::new(Limits::default());
    let (busy, quiet) = (map.intern(&key("busy", "nginx")), map.intern(&key("quiet", "nginx")));
    for edge in [busy, quiet] {
        map.record(edge, Side::Client, &Exchange { error: true, status: "500", ..exchange(1_000_000_000) });
    }
    let publish = |map: &ServiceMap, taken_ns| Published {
        snapshot: Arc::new(Snapshot::merge(taken_ns, [map.shard()], Vec::new())),
        ..Published::default()
    };
    let before = publish(&map, 0);
    for _ in 0..10 {
        map.record(busy, Side::Client, &exchange(1_000));
    }
    let rows = rows(&publish(&map, 2_000_000_000), Some(&before), Sort::Rate);
    assert_eq!((rows[0].requests_per_second, rows[0].error_share), (5.0, 0.0));
    assert!(rows[0].p99_ns.unwrap() < 2_000, "{rows:?}");
    assert_eq!((rows[1].requests_per_second, rows[1].error_share, rows[1].p99_ns), (0.0, 1.0, Some(1_000_000_000)));
}

#[test]
fn plain_lines_hold_the_table_without_escapes() {
    let mut map = ServiceMap::new(Limits::default());
    let edge = map.intern(&key("evil\u{1b}[2J", "nginx"));
    map.record(edge, Side::Client, &Exchange { resource: "/\u{7}bell", ..exchange(1_500) });
    let snapshot = Arc::new(Snapshot::merge(0, [map.shard()], Vec::new()));
    let text = plain(&Published { snapshot, ..Published::default() }, None, Sort::Rate);
    assert!(!text.chars().any(|character| character.is_control() && character != '\n'), "{text:?}");
    let expected = "\
remora    hooks attaching  0.0 events/s  lost 0  up 0:00:00
CLIENT     SERVER    PROTO  REQ/S  ERR %     P50     P95     P99  TOTAL  BYTES  RETRANS
evil·[2J  nginx:80  http     0.0    0.0  1.50µs  1.50µs  1.50µs      1     0B        0

EDGE                  SLOWEST     COUNT  ERRORS    MEAN     P95     MAX
evil·[2J → nginx:80  GET /·bell      1       0  1.50µs  1.50µs  1.50µs

";
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), expected.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn the_plain_table_is_printed_once_more_at_the_end() {
    let mut out = Vec::new();
    run_plain(|| Arc::new(published(1)), || true, &mut out, Duration::from_secs(3_600)).unwrap();
    assert_eq!(String::from_utf8(out).unwrap().matches("CLIENT").count(), 1);
}

#[test]
fn the_window_compares_with_about_three_seconds_ago() {
    let mut window = Window::default();
    assert!(window.previous().is_none());
    let values: Vec<_> = (1..=9).map(|second| Arc::new(published(second))).collect();
    for value in &values {
        assert!(window.push(Arc::clone(value)));
        assert!(!window.push(Arc::clone(value)));
    }
    assert_eq!(window.newest().unwrap().uptime_ns, 9_000_000_000);
    assert_eq!(window.previous().unwrap().uptime_ns, 6_000_000_000);
}

#[test]
fn durations_have_three_digits_and_a_unit() {
    let shown = [0, 999, 1_000, 12_340, 999_999, 1_500_000, 2_000_000_000, 3_600_000_000_000].map(duration);
    assert_eq!(shown, ["0ns", "999ns", "1.00µs", "12.3µs", "1000µs", "1.50ms", "2.00s", "3600s"]);
}

#[test]
fn a_cluster_is_readable_on_eighty_columns() {
    let screen = draw(80, 24, &cluster(false), None, &View::default());
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(screen[1], "idle 1  unserved 1  kubernetes: stale 3m");
    assert_eq!(words(&screen[2]), ["CLIENT", "SERVER", "PROTO", "REQ/S▾", "ERR", "%", "P99"]);
    let cart = screen.iter().find(|line| line.starts_with("shop/web") && line.contains("shop/cart")).unwrap();
    assert_eq!(words(cart)[1..3], ["shop/cart:8080", "http"], "{cart}");
    let slow: Vec<_> = screen.iter().skip_while(|line| !line.starts_with("EDGE")).collect();
    assert_eq!(words(slow[0]), ["EDGE", "SLOWEST", "COUNT", "P95", "MAX"]);
    assert!(slow.iter().any(|line| line.starts_with("shop/web → shop/cart:8080 ")), "{slow:#?}");
    assert!(screen.iter().all(|line| line.chars().count() <= 80));
}

#[test]
fn a_wide_screen_has_every_column_and_the_services_too() {
    let screen = draw(140, 24, &cluster(false), None, &View::default());
    assert!(screen[0].ends_with("up 0:00:00  idle 1  unserved 1  kubernetes: stale 3m"), "{}", screen[0]);
    assert!(screen[1].contains("RETRANS") && screen[1].contains("P50"), "{}", screen[1]);
    assert!(screen.iter().any(|line| line.contains("shop/cart:8080 (cart-api)") && line.starts_with("shop/web")), "{screen:#?}");
    assert!(screen.iter().any(|line| line.contains("shop/gone:80 ")), "a Service is not named twice: {screen:#?}");
}

#[test]
fn pods_are_shown_where_edges_tell_them_apart() {
    assert!(!plain(&cluster(false), None, Sort::Rate).contains('['));
    let text = plain(&cluster(true), None, Sort::Rate);
    for name in ["shop/web[5f-a]", "shop/cart[77-b]:8080 (cart-api)", "data/postgres[0]:5432 (db)"] {
        assert!(text.contains(name), "{name} in\n{text}");
    }
}

#[test]
fn names_of_the_cluster_are_no_commands() {
    let mut map = ServiceMap::new(Limits::default());
    let mut evil = crate::export::fixtures::pod("a\u{1b}[2J", "b\u{7}", "b\u{7}-\u{9b}");
    evil.service = Some("c\u{0}".into());
    let server = Party { port: Some(1), ..evil.clone() };
    let edge = map.intern(&EdgeKey { client: evil, server, protocol: Protocol::Http });
    map.record(edge, Side::Client, &exchange(1));
    let snapshot = Arc::new(Snapshot::merge(0, [map.shard()], Vec::new()));
    let text = plain(&Published { snapshot, ..Published::default() }, None, Sort::Rate);
    assert!(!text.chars().any(|character| character.is_control() && character != '\n'), "{text:?}");
    assert!(text.contains("a·[2J/b·[·]:1 (c·)"), "{text}");
}

#[test]
fn a_name_without_room_loses_its_service_and_then_its_front() {
    let name = "shop/checkout:8080 (front)";
    for (width, shown) in
        [(30, name), (26, name), (25, "shop/checkout:8080"), (18, "shop/checkout:8080"), (12, "…eckout:8080"), (1, "…"), (0, "")]
    {
        assert_eq!(fit(name, width), shown, "{width}");
    }
    assert_eq!(fit("(sd-pam)", 20), "(sd-pam)");
}

#[test]
fn a_service_stands_for_an_address_of_which_no_more_is_known() {
    let mut map = ServiceMap::new(Limits::default());
    let address = [10, 96, 0, 7].into();
    let server = Party {
        address: Some(address),
        service: Some("cart".into()),
        port: Some(80),
        ..Party::new(crate::model::Workload::of_address(address))
    };
    let edge = map.intern(&EdgeKey { client: party("curl"), server, protocol: Protocol::Http });
    map.record(edge, Side::Client, &exchange(1));
    let snapshot = Arc::new(Snapshot::merge(0, [map.shard()], Vec::new()));
    let text = plain(&Published { snapshot, ..Published::default() }, None, Sort::Rate);
    assert!(text.contains("cart:80 ") && !text.contains("10.96"), "{text}");
}
