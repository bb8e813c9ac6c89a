//! One conversation for each rule.

use super::{array, command, of, opened, string, told};
use crate::{
    model::{Flags, Flow},
    protocols::{Capture, Likeness, Loss, redis::DEFINITION},
};

const NONE: [&str; 0] = [];

#[test]
fn a_command_and_its_reply_are_an_exchange() {
    let mut talk = opened();
    talk.request(command("SET user:1 value")).response("+OK\r\n").request(command("get user:1")).response(string("value"));
    assert_eq!(told(&mut talk), ["SET user:? ? OK", "GET user:? "]);
    assert_eq!((talk.seen.losses.len(), &*talk.seen.captures), (0, &[Capture::Full][..]));
    let exchange = &talk.seen.exchanges[0];
    assert_eq!((exchange.start_ns, exchange.first_byte_ns, exchange.end_ns), (1000, Some(2000), 2000));
    assert_eq!((exchange.request_bytes, exchange.response_bytes), (command("SET user:1 value").len() as u64, 5));
    assert_eq!((exchange.operation.as_str(), exchange.error), ("SET", false));
    for (name, value) in
        [("db.system.name", "redis"), ("db.operation.name", "SET"), ("db.query.text", "SET user:? ?"), ("db.namespace", "0")]
    {
        assert_eq!(exchange.text(name), Some(value), "{name}");
    }
    assert_eq!(exchange.text("error.type"), None);
}

#[test]
fn errors_have_their_first_word_as_status() {
    let mut talk = opened();
    for (line, reply) in [
        ("INCR text:1", "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("GET a", "-MOVED 3999 127.0.0.1:6381\r\n"),
        ("GET a", "-ASK 3999 127.0.0.1:6381\r\n"),
        ("GET a", "-NOAUTH Authentication required.\r\n"),
        ("SET a b", "-OOM command not allowed when used memory > 'maxmemory'.\r\n"),
        ("NOSUCH a", "-ERR unknown command\r\n"),
        ("GET a", "!21\r\nSYNTAX invalid syntax\r\n"),
    ] {
        talk.request(command(line)).response(reply);
    }
    assert_eq!(
        told(&mut talk),
        ["INCR text:? WRONGTYPE", "GET ERR", "GET ? MOVED", "GET ? ASK", "GET ? NOAUTH", "SET ? ? OOM", "OTHER ? ERR", "GET ? SYNTAX"]
    );
    assert!(talk.seen.exchanges.iter().all(|exchange| exchange.error && exchange.text("error.type") == Some(&exchange.status)));
}

#[test]
fn a_pipeline_is_answered_in_order() {
    let mut talk = opened();
    let lines: Vec<String> = (0..100).map(|number| format!("{} k:{number}", ["GET", "INCR", "LLEN"][number % 3])).collect();
    talk.request(lines.iter().flat_map(|line| command(line)).collect::<Vec<u8>>());
    talk.response(
        (0..100).map(|number| if number % 3 == 0 { "$1\r\nx\r\n".to_owned() } else { format!(":{number}\r\n") }).collect::<String>(),
    );
    let told = told(&mut talk);
    assert_eq!(told.len(), 100);
    assert_eq!(told[..4], ["GET k:? ", "INCR k:? ", "LLEN k:? ", "GET k:? "]);
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn a_conversation_in_single_bytes_is_the_same() {
    let bytes = [command("MSET a:1 x b:2 y"), command("CONFIG GET save"), command("LRANGE l:1 0 -1"), b"PING\r\n".to_vec()].concat();
    let replies = [b"+OK\r\n".to_vec(), array('*', &["save", ""]), b"*2\r\n*1\r\n:1\r\n*-1\r\n".to_vec(), b"+PONG\r\n".to_vec()].concat();
    let expected = ["MSET a:? ? … OK", "CONFIG GET ? ", "LRANGE l:? ? … ", "PING PONG"];
    let mut talk = opened();
    talk.request(&bytes).response(&replies);
    assert_eq!(told(&mut talk), expected);
    let mut talk = opened();
    for byte in bytes.chunks(1) {
        talk.request(byte);
    }
    for byte in replies.chunks(1) {
        talk.response(byte);
    }
    assert_eq!(told(&mut talk), expected);
}

#[test]
fn large_values_are_passed_over_in_both_flows() {
    const SIZE: usize = 20 << 20;
    let value = "v".repeat(SIZE);
    let (set, get) = (command(&format!("SET file:1 {value}")), string(&value));
    let mut talk = opened();
    talk.cut_call(Flow::Request, &set[..100], 1000);
    assert_eq!(talk.skips_until(Flow::Request), set.len() as u64);
    talk.cut_call(Flow::Request, "", set.len() as u64 - 1000);
    talk.response("+OK\r\n").request(command("GET file:1"));
    talk.cut_call(Flow::Response, &get[..32], 32 * 1024);
    assert_eq!(talk.skips_until(Flow::Response), 5 + get.len() as u64);
    talk.cut_call(Flow::Response, "", get.len() as u64 - 32 * 1024).request(command("PING")).response("+PONG\r\n");
    assert_eq!(told(&mut talk), ["SET file:? ? OK", "GET file:? ", "PING PONG"]);
    assert_eq!(talk.seen.losses, []);
    assert_eq!((of(&talk, "SET").request_bytes, of(&talk, "GET").response_bytes), (set.len() as u64, get.len() as u64));
}

#[test]
fn inline_commands_are_commands() {
    let mut talk = opened();
    talk.request("\r\nset user:1 \"a b\" EX 10\r\n").response("+OK\r\n").request("EXISTS user:1").request(" user:2\n").response(":2\r\n");
    talk.request("nosuch thing\r\n").response("-ERR unknown command\r\n");
    assert_eq!(told(&mut talk), ["SET user:? ? … OK", "EXISTS user:? … ", "OTHER ? ERR"]);
    assert_eq!(of(&talk, "SET").request_bytes, 26 - 2);
}

#[test]
fn every_queued_command_is_an_exchange_and_exec_is_one() {
    let mut talk = opened();
    let queued = ["MULTI", "SET user:1 a", "INCR user:1", "EXEC"].map(command).concat();
    talk.request(queued).response("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n-ERR value is not an integer or out of range\r\n");
    talk.request(["MULTI", "NOSUCH", "EXEC"].map(command).concat());
    talk.response("+OK\r\n-ERR unknown command\r\n-EXECABORT Transaction discarded because of previous errors.\r\n");
    talk.request(["WATCH user:1", "MULTI", "GET user:1", "EXEC"].map(command).concat()).response("+OK\r\n+OK\r\n+QUEUED\r\n*-1\r\n");
    talk.request(["MULTI", "GET user:1", "DISCARD"].map(command).concat()).response("+OK\r\n+QUEUED\r\n+OK\r\n");
    assert_eq!(
        told(&mut talk),
        [
            "MULTI OK",
            "SET user:? ? QUEUED",
            "INCR user:? QUEUED",
            "EXEC ",
            "MULTI OK",
            "OTHER ERR",
            "EXEC EXECABORT",
            "WATCH user:? OK",
            "MULTI OK",
            "GET user:? QUEUED",
            "EXEC ",
            "MULTI OK",
            "GET user:? QUEUED",
            "DISCARD OK"
        ]
    );
    assert_eq!(talk.seen.exchanges.iter().filter(|exchange| exchange.error).count(), 2);
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn the_selected_database_is_the_namespace() {
    let mut talk = opened();
    talk.request(command("SELECT 3")).response("+OK\r\n").request(command("GET a")).response("$-1\r\n");
    talk.request(command("SELECT 99")).response("-ERR DB index is out of range\r\n").request(command("STRLEN a")).response(":0\r\n");
    talk.request(["MULTI", "SELECT 5", "EXEC", "LLEN a"].map(command).concat()).response("+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n:0\r\n");
    talk.request(command("RESET")).response("+RESET\r\n").request(command("SCARD a")).response(":0\r\n");
    told(&mut talk);
    for (operation, namespace) in [("GET", "3"), ("STRLEN", "3"), ("LLEN", "5"), ("SCARD", "0")] {
        assert_eq!(of(&talk, operation).text("db.namespace"), Some(namespace), "{operation}");
    }
}

#[test]
fn subscriptions_have_a_reply_for_each_channel_and_messages_are_no_replies() {
    let mut talk = opened();
    talk.request(command("SUBSCRIBE a b")).response(array('*', &["subscribe", "a", ":1"])).response(array('*', &["subscribe", "b", ":2"]));
    talk.response(array('*', &["message", "a", "hello"]).repeat(3)).request(command("PSUBSCRIBE x*"));
    talk.response([array('*', &["message", "a", "hello"]), array('*', &["psubscribe", "x*", ":3"])].concat());
    talk.response(array('*', &["pmessage", "x*", "xy", "hello"])).request(command("PING")).response(array('*', &["pong", ""]));
    talk.request(command("UNSUBSCRIBE"));
    talk.response([array('*', &["unsubscribe", "a", ":2"]), array('*', &["unsubscribe", "b", ":1"])].concat());
    talk.request(command("PUNSUBSCRIBE")).response(array('*', &["punsubscribe", "x*", ":0"]));
    talk.request(command("LRANGE l:1 0 -1")).response(array('*', &["message", "a", "not one"]));
    talk.request(command("UNSUBSCRIBE")).response(b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n");
    assert_eq!(
        told(&mut talk),
        ["SUBSCRIBE ? … ", "PSUBSCRIBE ? ", "PING ", "UNSUBSCRIBE ", "PUNSUBSCRIBE ", "LRANGE l:? ? … ", "UNSUBSCRIBE "]
    );
    assert_eq!(talk.seen.losses, []);
    let both = array('*', &["subscribe", "a", ":1"]).len() * 2;
    assert_eq!((of(&talk, "SUBSCRIBE").response_bytes, of(&talk, "SUBSCRIBE").end_ns), (both as u64, 3000));
}

#[test]
fn pushes_of_resp3_come_at_any_time() {
    let mut talk = opened();
    talk.request(command("HELLO 3")).response("%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n");
    talk.request(command("CLIENT TRACKING on")).response("+OK\r\n").request(command("GET a")).response("_\r\n");
    talk.response(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n").request([command("SUBSCRIBE a"), command("GET b")].concat());
    talk.response([array('>', &["subscribe", "a", ":1"]), array('>', &["message", "a", "x"]), string("value")].concat());
    talk.request(command("LRANGE l:1 0 -1")).response([array('*', &["message", "a", "y"]), array('>', &["message", "a", "z"])].concat());
    talk.request(command("UNSUBSCRIBE")).response(array('>', &["unsubscribe", "a", ":0"]));
    talk.request(command("SISMEMBER s:1 a")).response("#t\r\n").request(command("ZSCORE z:1 a")).response(",1.5\r\n");
    talk.request(command("HGETALL h:1")).response("|1\r\n+ttl\r\n:1\r\n%1\r\n+a\r\n*?\r\n:1\r\n.\r\n");
    assert_eq!(
        told(&mut talk),
        [
            "HELLO ? ",
            "CLIENT TRACKING ? OK",
            "GET ? ",
            "SUBSCRIBE ? ",
            "GET ? ",
            "LRANGE l:? ? … ",
            "UNSUBSCRIBE ",
            "SISMEMBER s:? ? ",
            "ZSCORE z:? ? ",
            "HGETALL h:? "
        ]
    );
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn a_refused_subscription_has_one_reply() {
    let mut talk = opened();
    talk.request([command("SUBSCRIBE a b"), command("PING")].concat()).response("-NOAUTH Authentication required.\r\n+PONG\r\n");
    assert_eq!(told(&mut talk), ["SUBSCRIBE ? … NOAUTH", "PING PONG"]);
}

#[test]
fn lines_of_monitor_answer_nothing() {
    let mut talk = opened();
    let line = |text: &str| format!("+1339518083.107412 [0 127.0.0.1:60866] \"set\" \"a\" \"{text}\"\r\n");
    talk.request(command("MONITOR")).response("+OK\r\n").response(line("hunter2").repeat(3));
    talk.request(command("RESET")).response([line(&"hunter2".repeat(20_000)), "+RESET\r\n".to_owned()].concat());
    talk.request(command("PING")).response("+PONG\r\n");
    assert_eq!(told(&mut talk), ["MONITOR OK", "RESET RESET", "PING PONG"]);
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn silenced_commands_are_exchanges_without_an_answer() {
    let mut talk = opened();
    talk.request([command("CLIENT REPLY SKIP"), command("SET a 1"), command("SET b 2")].concat()).response("+OK\r\n");
    talk.request(["CLIENT REPLY OFF", "GET a", "CLIENT REPLY ON", "INCR a"].map(command).concat()).response("+OK\r\n:2\r\n");
    assert_eq!(told(&mut talk), ["CLIENT REPLY ? ", "SET ? ? ", "SET ? ? OK", "CLIENT REPLY ? ", "GET ? ", "CLIENT REPLY ? OK", "INCR ? "]);
    let unanswered = talk.seen.exchanges.iter().filter(|exchange| exchange.flags.contains(Flags::UNANSWERED) && !exchange.error);
    assert_eq!(unanswered.count(), 4);
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn replication_is_marked_and_left_alone() {
    let mut talk = opened();
    talk.request(command("PING")).response("+PONG\r\n").request(command("REPLCONF listening-port 6380")).response("+OK\r\n");
    talk.request(command("PSYNC ? -1"))
        .response("\n\n")
        .response("+FULLRESYNC 8de1787ba490483314a4d30f1c628bc5025eb761 0\r\n$5\r\nREDIS*1\r\n");
    talk.response(command("SET hunter2 x")).request(command("REPLCONF ACK 0"));
    assert_eq!(told(&mut talk), ["PING PONG", "REPLCONF ? … OK", "PSYNC ? … FULLRESYNC"]);
    assert_eq!(talk.seen.captures.last(), Some(&Capture::Lengths));

    let mut talk = opened();
    talk.request(command("SYNC")).response("\n$5\r\nREDIS").response(command("SET a x"));
    assert_eq!(told(&mut talk), ["SYNC "]);
    assert_eq!(talk.skips_until(Flow::Response), u64::MAX);
}

#[test]
fn a_reply_reported_before_its_command_finds_it() {
    let mut talk = opened();
    talk.response("+OK\r\n").request(command("SET a 1")).response(array('>', &["subscribe", "a", ":1"])).request(command("SUBSCRIBE a"));
    assert_eq!(told(&mut talk), ["SET ? ? OK", "SUBSCRIBE ? "]);
    let mut talk = opened();
    talk.response("+OK\r\n").at(5_000_000_000).request(command("SET a 1")).response("+OK\r\n");
    assert_eq!(told(&mut talk), NONE, "that reply was nobody's");
}

#[test]
fn commands_without_reply_are_told_at_the_close() {
    let mut talk = opened();
    talk.request(command("BLPOP queue:1 0"));
    assert_eq!(told(&mut talk), ["BLPOP queue:? ? "]);
    assert!(talk.seen.exchanges[0].flags.contains(Flags::UNANSWERED) && talk.seen.exchanges[0].first_byte_ns.is_none());
}

#[test]
fn more_open_commands_than_are_kept_give_up_the_oldest() {
    let mut talk = opened();
    let extra = 10;
    for _ in 0..(super::super::pairing::PENDING_MAX + extra) / 2 {
        talk.request([command("GET a"), command("INCR b")].concat());
    }
    assert_eq!(talk.seen.losses, [Loss::PendingFull].repeat(extra));
    for _ in 0..(super::super::pairing::PENDING_MAX + extra) / 2 {
        talk.response("$1\r\nx\r\n:1\r\n");
    }
    assert_eq!(talk.seen.exchanges.len(), super::super::pairing::PENDING_MAX);
    assert_eq!(talk.seen.losses.len(), extra, "all others found their replies");
}

#[test]
fn what_a_connection_keeps_is_bounded() {
    use crate::protocols::redis::{pairing::PENDING_MAX, reply::Reply, request::Request};
    // With 1 MiB of keys as they are and 1 MiB to point at them.
    assert!(size_of::<Request>() * PENDING_MAX + (size_of::<Request>() + size_of::<Reply>() + 16) * 8192 < 5 << 20);
}

#[test]
fn without_a_wish_for_attributes_there_are_none() {
    struct Plain(Vec<usize>);
    impl crate::protocols::Sink for Plain {
        fn exchange(&mut self, exchange: &crate::model::Exchange<'_>) {
            self.0.push(exchange.attributes.len());
        }
        fn wants_attributes(&self) -> bool {
            false
        }
        fn capture(&mut self, _: Capture) {}
        fn lost(&mut self, _: Loss) {}
    }
    let (mut parser, mut out) = ((DEFINITION.parser)(crate::protocols::Opening::default()), Plain(Vec::new()));
    let at = crate::protocols::At { first_ns: 1, last_ns: 1, call_start: true };
    parser.parse(Flow::Request, &command("GET a"), at, &mut out);
    parser.parse(Flow::Response, b"$-1\r\n", at, &mut out);
    assert_eq!(out.0, [0]);
}

#[test]
fn likeness_is_judged_from_what_is_there() {
    use Likeness::{Certain, Likely, No, Undecided};
    for (bytes, expected) in [
        (&b"*2\r\n$3\r\nGET\r\n"[..], Likely),
        (b"*2\r\n$3\r\nget\r\n$1", Likely),
        (b"*2\r\n$3\r\nGE", Undecided),
        (b"*", Undecided),
        (b"*1\r\n$3\r\nGET\r\n", Likely),
        (b"*2\r\n$3\r\nGOT\r\n", Likely),
        (b"*2\r\n$3\r\n4.5\r\n", No),
        (b"*2\r\n$3\r\nGETX\r", No),
        (&command("GET a").repeat(4), Certain),
        (&command("GET a").repeat(3), Likely),
        (&command(&format!("SET a {}", "x".repeat(5000)))[..4200], Certain),
        (b"set a b\r\nset b c\r\nget a\r\nget b\r\n", Likely),
        (b"get a\r\nget b\r\nget c\r\nget d\r\n", Likely),
        (b"set a 0 0 1\r\nb\r\nset a 0 0 1\r\nb\r\n", Likely),
        (b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n", Certain),
        (b"$3\r\nGET\r\n$1\r\na\r\n", Likely),
        (b"$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1", Likely),
        (b"$100\r\nabc", Likely),
        (b"$3\r\nGETX", No),
        (b"$3\r\nGET\r\n:1\r\n", No),
        (b"$-1\r\n", No),
        (b"$ ls -l\r\n", No),
        (b"get user:1\r\n", Likely),
        (b"PING\r\n", Undecided),
        (b"QUIT\r\n", Undecided),
        (b"GET / HTTP/1.1\r\n", No),
        (b"EHLO mail.test\r\n", No),
        (b"USER alice\r\n", No),
        (b"mg key v\r\n", No),
        (b"\x16\x03\x01", No),
        (b"SSH-2.0-x\r\n", No),
    ] {
        assert_eq!((DEFINITION.likeness)(Flow::Request, bytes), expected, "{}", bytes.escape_ascii());
    }
    for (bytes, expected) in [
        (&b"+OK\r\n"[..], Likely),
        (b"+PONG\r\n", Certain),
        (b"+OK POP3 server ready\r\n", No),
        (b"+O", Undecided),
        (b"-ERR unknown command\r\n", Likely),
        (b":12\r\n", Likely),
        (b"$-1\r\n", Likely),
        (b"$5\r\nhello", Likely),
        (b"*2\r\n$3\r\nabc\r\n", Likely),
        (b"*2\r\nabc", No),
        (b"*2\r\n", Undecided),
        (b"*0\r\n", Likely),
        (b"*2\r\n:1\r\n", Likely),
        (b"*2\r\n$3\r\nGE", Undecided),
        (b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", Undecided),
        (b"$3\r\nGET\r\n$1\r\na\r\n", Undecided),
        (b"%2\r\n+a", Likely),
        (b"_\r\n", Likely),
        (b"220 mail.test ESMTP\r\n", No),
        (b"VALUE a 0 5\r\n", No),
        (b"END\r\n", No),
        (b"HTTP/1.1 200 OK\r\n", No),
        (b"INFO {\"server_id\":\"x\"}\r\n", No),
        (b"*3\r\n$7\r\nmessage\r\n$1\r\na", Certain),
        (b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", Certain),
        (b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n$1\r\nb\r\n", Undecided),
        (b"*2\r\n$4\r\nsave\r\n$0\r\n\r\n", Likely),
    ] {
        assert_eq!((DEFINITION.likeness)(Flow::Response, bytes), expected, "{}", bytes.escape_ascii());
    }
}

#[test]
fn other_protocols_are_refused_soon() {
    let mut talk = opened();
    talk.request("*2\r\nabc");
    assert!(talk.refused());
    let mut talk = opened();
    talk.request(command("GET a")).response("<html>");
    assert!(!talk.refused(), "it spoke Redis");
    for _ in 0..10 {
        talk.request("*9\r\nhello");
    }
    assert!(talk.seen.exchanges.is_empty());
}
