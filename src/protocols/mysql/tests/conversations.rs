//! One conversation for each rule.

use super::*;
use crate::{
    model::{Flags, Flow, Protocol, Protocols},
    protocols::{Capture, Loss},
};

#[test]
fn the_login_names_user_and_database_and_is_no_exchange() {
    let mut talk = opened();
    talk.request(query("SELECT 1, 'hunter2'")).response(rows(3, true));
    assert_eq!(told(&mut talk), ["SELECT SELECT ? 0"]);
    let exchange = &talk.seen.exchanges[0];
    assert_eq!((exchange.text("db.namespace"), exchange.text("db.user")), (Some("shop"), Some("alice")));
    assert_eq!((exchange.text("db.system.name"), exchange.text("db.query.text")), (Some("mysql"), Some("SELECT ?")));
    assert_eq!(exchange.int("db.response.returned_rows"), Some(3));
    assert_eq!((exchange.start_ns, exchange.first_byte_ns, exchange.end_ns), (4000, Some(5000), 5000));
    assert_eq!((exchange.request_bytes, exchange.response_bytes), (24, rows(3, true).len() as u64));
    assert_eq!((talk.seen.captures.as_slice(), talk.seen.losses.as_slice()), (&[Capture::Full][..], &[][..]));
}

#[test]
fn rows_end_with_an_eof_or_with_an_ok_in_its_place() {
    for old in [true, false] {
        for count in [0, 1, 300] {
            let mut talk = opened();
            talk.request(query("SELECT a FROM t")).response(rows(count, old));
            talk.request(query("UPDATE t SET a = 1")).response(ok(1, 7, AUTOCOMMIT));
            assert_eq!(told(&mut talk), ["SELECT SELECT a FROM t 0", "UPDATE UPDATE t SET a = ? 0"]);
            assert_eq!(talk.seen.exchanges[0].int("db.response.returned_rows"), Some(count as i64));
            assert_eq!(talk.seen.exchanges[1].int("db.response.affected_rows"), Some(7));
            assert_eq!(talk.seen.exchanges[1].int("db.response.returned_rows"), None);
        }
    }
}

#[test]
fn errors_have_their_number_and_their_sqlstate() {
    let mut talk = opened();
    talk.request(query("SELEC hunter2x")).response(error(1, 1064, "42000"));
    talk.request(query("SELECT a FROM t")).response([&rows(2, false)[..rows(2, false).len() - 11], &error(5, 1317, "70100")].concat());
    assert_eq!(talk.seen.exchanges.len(), 2);
    let [first, second] = &talk.seen.exchanges[..] else { panic!("two exchanges") };
    assert_eq!((first.status.as_str(), first.error, first.operation.as_str()), ("1064", true, "OTHER"));
    assert_eq!((first.text("db.response.status_code"), first.text("db.response.sqlstate")), (Some("1064"), Some("42000")));
    assert_eq!((second.status.as_str(), second.error), ("1317", true));
}

#[test]
fn a_refused_login_is_an_exchange_and_secrets_stay_inside() {
    let mut talk = conversation(OPEN);
    talk.response(greeting("5.5.5-10.11.6-MariaDB", PLAIN)).request(login(PLAIN));
    talk.response(packet(2, b"\xfemysql_clear_password\0")).request(packet(3, "hunter2\0")).response(error(4, 1045, "28000"));
    assert_eq!(told(&mut talk), ["STARTUP  1045"]);
    let exchange = &talk.seen.exchanges[0];
    assert_eq!((exchange.text("db.system.name"), exchange.text("db.user"), exchange.error), (Some("mariadb"), Some("alice"), true));
    assert_eq!((exchange.start_ns, exchange.first_byte_ns, exchange.end_ns), (2000, Some(3000), 5000));

    let mut talk = conversation(OPEN);
    talk.response(packet(0, b"\xff\x10\x04Too many connections"));
    assert_eq!(told(&mut talk), ["STARTUP  1040"]);
}

#[test]
fn proofs_of_any_length_lead_to_the_first_command() {
    // caching_sha2_password: a switch, more data, the server's key, the password under it.
    let mut talk = conversation(OPEN);
    talk.response(greeting("8.4.0", PLAIN)).request(login(PLAIN));
    talk.response(packet(2, b"\xfecaching_sha2_password\0saltsaltsaltsaltsalt\0")).request(packet(3, "hunter2hunter2hunter2hunter2ab"));
    talk.response(packet(4, [1, 4])).request(packet(5, [2])).response(packet(6, b"\x01-----BEGIN PUBLIC KEY-----"));
    talk.request(packet(7, "hunter2")).response(ok(8, 0, AUTOCOMMIT));
    talk.request(query("SELECT 1")).response(rows(1, false));
    assert_eq!(told(&mut talk), ["SELECT SELECT ? 0"]);
    // The fast way: one byte, and the consent in the same call.
    let mut talk = conversation(OPEN);
    talk.response(greeting("8.4.0", PLAIN)).request(login(PLAIN)).response([packet(2, [1, 3]), ok(3, 0, AUTOCOMMIT)].concat());
    talk.request(query("SELECT 1")).response(rows(1, false));
    assert_eq!(told(&mut talk), ["SELECT SELECT ? 0"]);
    // Clients of the nineties.
    let mut talk = conversation(OPEN);
    talk.response(greeting("5.1.73", PLAIN)).request(packet(1, b"\x0d\0\0\0\0alice\0hunter2!\0shop\0"));
    talk.response(packet(2, [0, 0, 0, 2, 0, 0, 0])).request(query("SELECT 1")).response(rows(1, true));
    assert_eq!(told(&mut talk), ["SELECT SELECT ? 0"]);
    assert_eq!(talk.seen.exchanges[0].text("db.namespace"), Some("shop"));
}

#[test]
fn encryption_and_compression_are_left_alone() {
    let mut talk = conversation(OPEN);
    talk.response(greeting("8.0.36", PLAIN | 1 << 11));
    talk.request([packet(1, [&(PLAIN | 1 << 11).to_le_bytes()[..], &[0; 28]].concat()), b"\x16\x03\x01\0\x05hello".to_vec()].concat());
    talk.response(b"\x16\x03\x03\0\x05hello").request(query("SELECT 1")).response(rows(1, true));
    assert_eq!(told(&mut talk), Vec::<String>::new());
    assert_eq!(talk.seen.captures, [Capture::Full, Capture::Lengths]);
    assert_eq!((talk.skips_until(Flow::Request), talk.skips_until(Flow::Response)), (u64::MAX, u64::MAX));
    for bit in [1 << 5, 1 << 26] {
        let mut talk = conversation(OPEN);
        talk.response(greeting("8.0.36", PLAIN | bit)).request(login(PLAIN | bit)).response(ok(2, 0, AUTOCOMMIT));
        talk.request([&[9, 0, 0, 0, 0, 0, 0][..], &query("SELECT 1")].concat())
            .response([&[11, 0, 0, 1, 0, 0, 0][..], &ok(1, 0, 2)].concat());
        assert_eq!(told(&mut talk), Vec::<String>::new());
        assert_eq!(talk.seen.captures, [Capture::Full, Capture::Lengths]);
        // Offered and not taken.
        let mut talk = conversation(OPEN);
        talk.response(greeting("8.0.36", PLAIN | bit)).request(login(PLAIN)).response(ok(2, 0, AUTOCOMMIT));
        talk.request(query("SELECT 1")).response(rows(1, true));
        assert_eq!(told(&mut talk), ["SELECT SELECT ? 0"]);
    }
}

#[test]
fn each_statement_of_a_text_is_an_exchange() {
    let mut talk = opened();
    talk.request(query("BEGIN; SELECT ';hunter2'; COMMIT"));
    let second = rows_from(2, 2, true, MORE);
    talk.response([ok(1, 0, MORE), second, ok(8, 0, AUTOCOMMIT)].concat());
    talk.request(query("SELECT 1; SELECT nothing; SELECT 3")).response([rows_from(1, 1, false, MORE), error(5, 1054, "42S22")].concat());
    assert_eq!(
        told(&mut talk),
        ["BEGIN BEGIN 0", "SELECT SELECT ? 0", "COMMIT COMMIT 0", "SELECT SELECT ? 0", "SELECT SELECT nothing 1054"]
    );
    let bytes: Vec<_> = talk.seen.exchanges.iter().map(|one| one.request_bytes).collect();
    assert_eq!(bytes, [37, 0, 0, 39, 0], "the bytes of a text are counted once");
}

#[test]
fn a_procedure_with_several_results_is_one_exchange() {
    let mut talk = opened();
    let results = || [rows_from(1, 2, true, MORE), rows_from(7, 3, true, MORE), ok(14, 1, AUTOCOMMIT)].concat();
    talk.request(query("CALL p(1)")).response(results());
    talk.request(query("CALL p(1); SELECT 2"))
        .response([rows_from(1, 1, true, MORE), ok(6, 0, MORE), rows_from(7, 1, true, AUTOCOMMIT)].concat());
    talk.request(prepare("CALL p(?, ?)")).response(prepared(1, 2, 0, true)).request(execute(1)).response(results());
    talk.request(query("BEGIN NOT ATOMIC SELECT 1; SELECT 2; END")).response(results());
    assert_eq!(
        told(&mut talk),
        [
            "CALL CALL p(?) 0",
            "CALL CALL p(?) 0",
            "SELECT SELECT ? 0",
            "PREPARE CALL p(?) 0",
            "CALL CALL p(?) 0",
            "BEGIN BEGIN NOT ATOMIC SELECT ?; SELECT ?; END 0"
        ]
    );
    assert_eq!(talk.seen.exchanges[0].int("db.response.returned_rows"), Some(5));
}

#[test]
fn prepared_statements_are_known_by_their_number() {
    for (old, capabilities) in [(true, PLAIN), (false, PLAIN | DEPRECATE_EOF)] {
        for (parameters, columns) in [(0, 0), (1, 0), (0, 2), (2, 3)] {
            let mut talk = conversation(OPEN);
            talk.response(greeting("8.0.36", capabilities)).request(login(capabilities)).response(ok(2, 0, AUTOCOMMIT));
            talk.request(prepare("SELECT a FROM t WHERE b = ?")).response(prepared(7, parameters, columns, old));
            talk.request(prepare("DELETE FROM t")).response(prepared(8, 0, 0, old));
            talk.request(execute(7)).response(rows(2, old)).request(execute(8)).response(ok(1, 3, AUTOCOMMIT));
            // Data of a parameter and the end of a statement are not answered.
            talk.request(command(0x18, b"\x07\0\0\0\0\0hunter2")).request(execute(7)).response(error(1, 1210, "HY000"));
            talk.request([command(0x19, [7, 0, 0, 0]), execute(7)].concat()).response(error(1, 1243, "HY000"));
            talk.request(command(0x1a, [8, 0, 0, 0])).response(ok(1, 0, AUTOCOMMIT)).request(command(1, ""));
            assert_eq!(
                told(&mut talk),
                [
                    "PREPARE SELECT a FROM t WHERE b = ? 0",
                    "PREPARE DELETE FROM t 0",
                    "SELECT SELECT a FROM t WHERE b = ? 0",
                    "DELETE DELETE FROM t 0",
                    "SELECT SELECT a FROM t WHERE b = ? 1210",
                    "EXECUTE <prepared statement, text unknown> 1243",
                    "STMT_RESET DELETE FROM t 0"
                ]
            );
            assert_eq!(talk.seen.exchanges[4].request_bytes, (execute(7).len() + 18) as u64);
            assert_eq!(talk.seen.losses, []);
        }
    }
}

#[test]
fn a_cursor_is_read_by_fetches() {
    for old in [true, false] {
        let cursor = AUTOCOMMIT | 0x40;
        let opens = match old {
            true => [packet(1, [1]), definition(2), eof(3, cursor)].concat(),
            false => [packet(1, [1]), definition(2), new_eof(3, cursor)].concat(),
        };
        let fetch = || command(0x1c, [1, 0, 0, 0, 2, 0, 0, 0]);
        let binary = |sequence| packet(sequence, [0, 0, 7, 0, 0, 0]);
        let last = |sequence, status| if old { eof(sequence, status) } else { new_eof(sequence, status) };
        let mut talk = opened();
        talk.request(prepare("SELECT a FROM t")).response(prepared(1, 0, 1, true)).request(execute(1)).response(opens);
        talk.request(fetch()).response([binary(1), binary(2), last(3, cursor)].concat());
        talk.request(fetch()).response([binary(1), last(2, AUTOCOMMIT | 0x80)].concat());
        talk.request(fetch()).response(error(1, 1421, "HY000"));
        assert_eq!(
            told(&mut talk),
            [
                "PREPARE SELECT a FROM t 0",
                "SELECT SELECT a FROM t 0",
                "FETCH SELECT a FROM t 0",
                "FETCH SELECT a FROM t 0",
                "FETCH SELECT a FROM t 1421"
            ]
        );
        let counts: Vec<_> = talk.seen.exchanges.iter().map(|one| one.int("db.response.returned_rows")).collect();
        assert_eq!(counts, [None, Some(0), Some(2), Some(1), None]);
    }
}

#[test]
fn a_file_of_the_client_belongs_to_its_statement() {
    let mut talk = opened();
    talk.request(query("LOAD DATA LOCAL INFILE '/tmp/hunter2' INTO TABLE t")).response(packet(1, b"\xfb/tmp/hunter2"));
    // More packets than there are numbers, one of them like a command.
    let mut sent = 0;
    for number in 0..=300_u32 {
        let data = packet((number + 2) as u8, if number == 254 { &b"\x0e"[..] } else { b"1\thunter2\n" });
        sent += data.len() as u64;
        talk.request(data);
    }
    talk.request(packet(47, "")).response(ok(48, 200, AUTOCOMMIT));
    assert_eq!(talk.seen.losses, []);
    talk.request(query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t"))
        .response(packet(1, b"\xfbx"))
        .request(packet(2, ""))
        .response(error(3, 2, "HY000"));
    talk.request(query("SELECT 1")).response(rows(1, true));
    assert_eq!(
        told(&mut talk),
        ["LOAD LOAD DATA LOCAL INFILE ? INTO TABLE t 0", "LOAD LOAD DATA LOCAL INFILE ? INTO TABLE t 2", "SELECT SELECT ? 0"]
    );
    let asked = query("LOAD DATA LOCAL INFILE '/tmp/hunter2' INTO TABLE t").len() as u64;
    assert_eq!(talk.seen.exchanges[0].request_bytes, asked + sent + 4);
    assert_eq!(talk.seen.exchanges[0].int("db.response.affected_rows"), Some(200));
}

#[test]
fn commands_without_sql_have_the_names_of_the_protocol() {
    let mut talk = opened();
    talk.request(command(0x0e, "")).response(ok(1, 0, AUTOCOMMIT));
    talk.request(command(2, "other")).response(ok(1, 0, AUTOCOMMIT));
    talk.request(command(2, "missing")).response(error(1, 1049, "42000"));
    talk.request(command(9, "")).response(packet(1, "Uptime: 7  Threads: 1"));
    talk.request(command(4, b"items\0%")).response([definition(1), definition(2), eof(3, AUTOCOMMIT)].concat());
    talk.request(command(0x1b, [0, 0])).response(eof(1, AUTOCOMMIT));
    talk.request(command(0x1f, "")).response(ok(1, 0, AUTOCOMMIT));
    talk.request(command(0x0d, "")).response(eof(1, AUTOCOMMIT));
    talk.request(command(0x0a, "")).response(rows(1, true));
    talk.request(command(0x0c, [7, 0, 0, 0])).response(error(1, 1094, "HY000"));
    talk.request(query("")).response(error(1, 1065, "42000"));
    talk.request(command(0x11, b"bob\0\x07hunter2third\0\x2d\0mysql_native_password\0")).response(packet(1, b"\xfemysql_clear_password\0"));
    talk.request(packet(2, "hunter2\0")).response(ok(3, 0, AUTOCOMMIT)).request(query("USE `fourth`")).response(ok(1, 0, AUTOCOMMIT));
    talk.request(command(0x0e, "")).response(ok(1, 0, AUTOCOMMIT));
    assert_eq!(
        told(&mut talk),
        [
            "PING  0",
            "INIT_DB other 0",
            "INIT_DB missing 1049",
            "STATISTICS  0",
            "FIELD_LIST items 0",
            "SET_OPTION  0",
            "RESET_CONNECTION  0",
            "DEBUG  0",
            "PROCESS_INFO  0",
            "PROCESS_KILL  1094",
            "EMPTY  1065",
            "CHANGE_USER  0",
            "USE USE `fourth` 0",
            "PING  0"
        ]
    );
    let databases: Vec<_> = talk.seen.exchanges.iter().filter_map(|one| one.text("db.namespace")).collect();
    assert_eq!((databases[0], databases[1], databases[2], databases[11], databases[13]), ("shop", "shop", "other", "other", "fourth"));
    assert_eq!((talk.seen.exchanges[11].text("db.user"), talk.seen.exchanges[13].text("db.user")), (Some("alice"), Some("bob")));
}

#[test]
fn attributes_before_a_text_are_passed_over() {
    let attributes = PLAIN | DEPRECATE_EOF | 1 << 27;
    let mut talk = conversation(OPEN);
    talk.response(greeting("8.4.0", attributes)).request(login(attributes)).response(ok(2, 0, AUTOCOMMIT));
    talk.request(command(3, b"\0\x01SELECT 1")).response(rows(1, false));
    // A text, a number, nothing; then the statement.
    let values = b"\x03\x01\x04\x01\xfe\0\x05trace\x08\0\x02id\x06\0\x04none\x07hunter2\x01\0\0\0\0\0\0\0SELECT 2, 'hunter2'";
    talk.request(command(3, values)).response(rows(1, false));
    talk.request(command(3, b"\x03\x01\x04\x01\xfe\0\x7ftrace hunter2")).response(error(1, 1835, "HY000"));
    assert_eq!(told(&mut talk), ["SELECT SELECT ? 0", "SELECT SELECT ? 0", "OTHER <statement beyond the captured text> 1835"]);
}

#[test]
fn metadata_that_are_left_out_are_not_waited_for() {
    // MySQL's byte before the count, MariaDB's behind it; with one column, with three and with three hundred.
    let binary = |sequence| packet(sequence, [0, 0, 7, 0, 0, 0]);
    for count in [&[0, 1][..], &[0, 3], &[1, 0], &[3, 0], &[0, 0xfc, 44, 1], &[0xfc, 44, 1, 0]] {
        for end in [&[eof(2, AUTOCOMMIT), binary(3), eof(4, AUTOCOMMIT)].concat(), &[binary(2), new_eof(3, AUTOCOMMIT)].concat()] {
            let mut talk = opened();
            talk.request(query("SELECT a FROM t"))
                .response([packet(1, count), end.clone()].concat())
                .request(command(0x0e, ""))
                .response(ok(1, 0, 2));
            assert_eq!(told(&mut talk), ["SELECT SELECT a FROM t 0", "PING  0"], "{count:?}");
            assert_eq!(talk.seen.exchanges[0].int("db.response.returned_rows"), Some(1));
        }
    }
    for count in [&[1, 1][..], &[1, 2], &[2, 1]] {
        let definitions = if count == [1, 1] { definition(2) } else { [definition(2), definition(3)].concat() };
        let after = if count == [1, 1] { 3 } else { 4 };
        let mut talk = opened();
        talk.request(query("SELECT a FROM t")).response([packet(1, count), definitions, new_eof(after, AUTOCOMMIT)].concat());
        assert_eq!(told(&mut talk), ["SELECT SELECT a FROM t 0"], "{count:?}");
    }
}

#[test]
fn progress_of_mariadb_is_not_an_error() {
    let mut talk = opened();
    let progress = |sequence| packet(sequence, b"\xff\xff\xff\x01\x01\x02\x10\x27\0\x05stage");
    talk.request(query("ALTER TABLE t ADD a int")).response([progress(1), progress(2)].concat()).response(ok(3, 0, AUTOCOMMIT));
    assert_eq!(told(&mut talk), ["ALTER ALTER TABLE t ADD a int 0"]);
    assert!(!talk.seen.exchanges[0].error);
}

#[test]
fn commands_sent_ahead_get_their_answers_in_order() {
    let mut talk = opened();
    // MariaDB's connectors prepare and execute in one round trip, by a number that stands for the last statement.
    talk.request(prepare("INSERT INTO t VALUES (?)")).request(execute(u32::MAX));
    talk.response(prepared(4, 1, 0, true)).response(ok(1, 1, AUTOCOMMIT));
    talk.request([query("SET a = 1"), query("SELECT 2"), command(0x0e, "")].concat());
    talk.response([ok(1, 0, AUTOCOMMIT), rows(1, true)].concat()).response(ok(1, 0, AUTOCOMMIT));
    talk.request([command(0xfa, b"\x04\0\0\0\x80\0\x0f\x05hunter2"), prepare("nonsense"), execute(u32::MAX)].concat());
    talk.response([ok(1, 9, AUTOCOMMIT), error(1, 1064, "42000"), error(1, 1243, "HY000")].concat());
    assert_eq!(
        told(&mut talk),
        [
            "PREPARE INSERT INTO t VALUES (?) 0",
            "INSERT INSERT INTO t VALUES (?) 0",
            "SET SET a = ? 0",
            "SELECT SELECT ? 0",
            "PING  0",
            "INSERT INSERT INTO t VALUES (?) 0",
            "PREPARE nonsense 1064",
            "EXECUTE nonsense 1243"
        ]
    );
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn an_answer_reported_before_its_command_waits_for_it() {
    let mut talk = opened();
    talk.response(ok(1, 3, AUTOCOMMIT)).request(query("UPDATE t SET a = 1"));
    talk.response(rows(2, true)).request(query("SELECT a FROM t")).request(query("SELECT b FROM t")).response(rows(1, true));
    assert_eq!(told(&mut talk), ["UPDATE UPDATE t SET a = ? 0", "SELECT SELECT a FROM t 0", "SELECT SELECT b FROM t 0"]);
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn messages_beyond_sixteen_mebibytes_go_on_in_further_packets() {
    let largest = vec![b'x'; 0xff_ff_ff];
    let mut text = b"INSERT INTO t VALUES ('".to_vec();
    text.resize(0xff_ff_fe, b'x');
    for rest in [&b"hunter2')"[..], b""] {
        let mut talk = opened();
        talk.request(command(3, &text)).request(packet(1, &largest)).request(packet(2, rest)).response(ok(3, 1, AUTOCOMMIT));
        // A row of three packets, the last of them empty.
        let (head, long) = ([packet(1, [1]), definition(2), eof(3, AUTOCOMMIT)].concat(), packet(4, &largest));
        talk.request(query("SELECT a FROM t")).response(head).response(long).response(packet(5, &largest)).response(packet(6, ""));
        talk.response([row(7, "x"), eof(8, AUTOCOMMIT)].concat()).request(command(0x0e, "")).response(ok(1, 0, AUTOCOMMIT));
        assert_eq!(told(&mut talk), ["INSERT INSERT INTO t VALUES (? 0", "SELECT SELECT a FROM t 0", "PING  0"]);
        assert_eq!(talk.seen.exchanges[0].request_bytes, (2 * 0x0100_0003 + 4 + rest.len()) as u64);
        assert_eq!(talk.seen.exchanges[1].int("db.response.returned_rows"), Some(2));
        assert_eq!(talk.seen.losses, []);
        assert!(talk.buffered(Flow::Request) == 0 && talk.buffered(Flow::Response) == 0);
    }
}

#[test]
fn a_stream_of_changes_is_told_as_it_begins_and_then_left_alone() {
    let mut talk = opened();
    talk.request(command(0x15, b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0")).response(ok(1, 0, AUTOCOMMIT));
    talk.request(command(0x12, b"\x04\0\0\0\0\0\x01\0\0\0binlog.000001"))
        .response(packet(1, b"\0event of hunter2"))
        .response(packet(2, b"\0event"));
    assert_eq!(told(&mut talk), ["REGISTER_SLAVE  0", "BINLOG_DUMP  0"]);
    assert_eq!(talk.seen.captures.last(), Some(&Capture::Lengths));
    let mut talk = opened();
    talk.request(command(0x12, b"\x04\0\0\0\0\0\x01\0\0\0binlog.000001")).response(error(1, 1236, "HY000"));
    talk.request(command(0x0e, "")).response(ok(1, 0, AUTOCOMMIT));
    assert_eq!(told(&mut talk), ["BINLOG_DUMP  1236", "PING  0"]);
}

#[test]
fn what_stays_without_answer_is_told_at_the_close() {
    let mut talk = opened();
    talk.request([query("SELECT 1"), query("SELECT 2")].concat()).response(packet(1, [1]));
    // Tired of waiting, the server says so unasked.
    assert_eq!(told(&mut talk), ["SELECT SELECT ? ", "SELECT SELECT ? "]);
    assert!(talk.seen.exchanges.iter().all(|one| one.flags.contains(Flags::UNANSWERED) && !one.error));
    let mut talk = opened();
    talk.request(query("SELECT 1")).response(rows(1, true)).response(error(0, 4031, "HY000"));
    assert_eq!(told(&mut talk), ["SELECT SELECT ? 0"]);
    assert_eq!(talk.seen.losses, []);
}

#[test]
fn backslashes_mean_what_the_server_says_they_mean() {
    let mut talk = opened();
    talk.request(query("SET sql_mode = 'NO_BACKSLASH_ESCAPES'")).response(ok(1, 0, AUTOCOMMIT | 0x200));
    talk.request(query("SELECT 'a\\', b, 'c'")).response(rows(1, true));
    talk.request(query("SET sql_mode = ''")).response(ok(1, 0, AUTOCOMMIT));
    talk.request(query("SELECT 'a\\', hunter2, 'c'")).response(error(1, 1064, "42000"));
    assert_eq!(told(&mut talk)[1..], ["SELECT SELECT ?, b, ? 0", "SET SET sql_mode = ? 0", "SELECT SELECT ?c? 1064"]);
}

#[test]
fn texts_come_as_they_are_where_the_user_wants_it_but_for_credentials() {
    let mut talk = Conversation::opened(|opening| (DEFINITION.parser)(Opening { raw: Protocols::from_iter([Protocol::Mysql]), ..opening }));
    talk.response(greeting("8.0.36", PLAIN)).request(login(PLAIN)).response(ok(2, 0, AUTOCOMMIT));
    talk.request(query("SELECT 'this'; SELECT 'that'")).response([rows_from(1, 1, true, MORE), rows_from(6, 1, true, AUTOCOMMIT)].concat());
    talk.request(query("CREATE USER x IDENTIFIED BY 'hunter2'")).response(ok(1, 0, AUTOCOMMIT));
    talk.request(query("SET PASSWORD = password('hunter2')")).response(ok(1, 0, AUTOCOMMIT));
    assert_eq!(told(&mut talk)[..2], ["SELECT SELECT ? 0", "SELECT SELECT ? 0"], "the shape stays without values");
    let texts: Vec<_> = talk.seen.exchanges.iter().filter_map(|one| one.text("db.query.text")).collect();
    assert_eq!(texts, ["SELECT 'this'", "SELECT 'that'", "CREATE USER x IDENTIFIED BY ?", "SET PASSWORD = password(?)"]);
}

#[test]
fn nothing_but_the_protocol_is_taken() {
    for bytes in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"\0\0\0\0\0\0\0\0", b"SSH-2.0-OpenSSH_9.2\r\n", &[0x4a, 0, 0, 0, 9, b'5', 0, 1, 2, 3]] {
        let mut talk = conversation(OPEN);
        talk.response(bytes).response([b'x'; 200]);
        assert!(talk.refused(), "{bytes:?}");
    }
    let mut talk = opened();
    for _ in 0..40 {
        talk.request([0xee; 40]);
    }
    assert_eq!(told(&mut talk), Vec::<String>::new());
    assert_eq!(talk.seen.losses, [Loss::ParseGap]);
}
