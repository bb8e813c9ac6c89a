//! What the normaliser makes of statements, and that nothing secret survives it.

use super::{Dialect, Text};

const POSTGRESQL: Dialect = Dialect::Postgresql { escapes: false };

fn all(sql: &str) -> Vec<(String, String)> {
    let mut text = Text::default();
    text.set(sql.as_bytes(), false, POSTGRESQL);
    (0..text.count()).filter_map(|index| text.get(index)).map(|part| (part.operation.to_owned(), part.text.to_owned())).collect()
}

fn one(sql: &str) -> String {
    let parts = all(sql);
    assert_eq!(parts.len(), 1, "{sql}: {parts:?}");
    parts[0].1.clone()
}

#[test]
fn normalises_statements() {
    for (sql, expected) in [
        ("SELECT 1", "SELECT ?"),
        ("select  a,\n\tb from t where c = 'x'", "select a, b from t where c = ?"),
        ("SELECT * FROM t WHERE id IN (1,2, 3)", "SELECT * FROM t WHERE id IN (?)"),
        ("SELECT * FROM t WHERE id IN ($1, $2)", "SELECT * FROM t WHERE id IN (?)"),
        ("SELECT * FROM t WHERE id IN (-1, 'a', 1e5)", "SELECT * FROM t WHERE id IN (?)"),
        ("INSERT INTO t (a, b) VALUES (1, 'x'), (2, NULL), (f(3), ')')", "INSERT INTO t (a, b) VALUES (?)"),
        ("INSERT INTO t VALUES (1, now()), (2, now()) RETURNING id", "INSERT INTO t VALUES (?, now()) RETURNING id"),
        ("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", "INSERT INTO t VALUES (?) ON CONFLICT DO NOTHING"),
        ("SELECT * FROM (VALUES (1), (2)) AS v (a), (SELECT 1) w", "SELECT * FROM (VALUES (?)) AS v (a), (SELECT ?) w"),
        ("SELECT -- note\n 1 /* a /* nested */ b */ + 2", "SELECT ? + ?"),
        ("SELECT E'it\\'s', U&'\\0041', B'101', X'1F', N'n', $$a$$, $t$ $$ $t$", "SELECT ?"),
        ("SELECT 'it''s' AS a", "SELECT ? AS a"),
        ("SELECT 'a'\n 'b'", "SELECT ?"),
        ("SELECT \"Col 1\", U&\"d\\0061\" FROM \"T\"\"x\"", "SELECT \"Col 1\", U&\"d\\0061\" FROM \"T\"\"x\""),
        ("SELECT 1.5e-10, .5, 0xFF, 1_000, 12abc", "SELECT ?"),
        ("SELECT a-1, b - 1, c + -1", "SELECT a-?, b - ?, c + ?"),
        ("UPDATE t SET a = a + -4182 WHERE b = 1;", "UPDATE t SET a = a + ? WHERE b = ?"),
        ("SELECT a::int, '5'::text, t1.c2 FROM t1", "SELECT a::int, ?::text, t1.c2 FROM t1"),
        ("SELECT ARRAY[1, 2, 3], a[1]", "SELECT ARRAY[?], a[?]"),
        ("SELECT a ? 'k', b->>'x' FROM t", "SELECT a ? ?, b->>? FROM t"),
        ("CREATE FUNCTION f() RETURNS int AS $body$ SELECT 'x'; $body$ LANGUAGE sql", "CREATE FUNCTION f() RETURNS int AS ? LANGUAGE sql"),
        ("SELECT naïve FROM größe", "SELECT naïve FROM größe"),
        ("SELECT ( a , b )", "SELECT (a, b)"),
    ] {
        assert_eq!(one(sql), expected, "{sql}");
    }
}

#[test]
fn names_the_operation() {
    for (sql, operation) in [
        ("select 1", "SELECT"),
        (" /* x */ Insert into t values (1)", "INSERT"),
        ("WITH x AS (SELECT 1) UPDATE t SET a = 1", "UPDATE"),
        ("WITH x AS (DELETE FROM t RETURNING a) SELECT * FROM x", "SELECT"),
        ("(SELECT 1) UNION (SELECT 2)", "SELECT"),
        ("start transaction", "START"),
        ("selec 1", ""),
    ] {
        assert_eq!(all(sql)[0].0, operation, "{sql}");
    }
}

#[test]
fn splits_statements_as_the_server_does() {
    let texts = |sql| all(sql).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
    assert_eq!(texts("BEGIN; SELECT ';' ;; -- no; \n /* ; */ COMMIT;"), ["BEGIN", "SELECT ?", "COMMIT"]);
    assert_eq!(texts(" ; -- nothing\n ;"), Vec::<String>::new());
    assert_eq!(
        texts("CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b); SELECT 1"),
        ["CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b)", "SELECT ?"]
    );
    assert_eq!(
        texts("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END; SELECT 3"),
        ["CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN ? END; SELECT ?; END", "SELECT ?"]
    );
}

const LITERALS: [&str; 16] = [
    "'hunter2'",
    "'a''hunter2'",
    "E'x\\'hunter2'",
    "e'\\\\' 'hunter2'",
    "U&'hunter2'",
    "B'hunter2'",
    "X'hunter2'",
    "N'hunter2'",
    "$$hunter2$$",
    "$q$ $$ hunter2 $q$",
    "-- hunter2\n",
    "/* /* */ hunter2 */",
    "12hunter2",
    "0xhunter2",
    "-1.5hunter2",
    "$1hunter2",
];

#[test]
fn no_secret_in_any_literal_survives_wherever_the_text_is_cut() {
    let mut text = Text::default();
    for literal in LITERALS {
        for sql in
            [format!("SELECT {literal}"), format!("INSERT INTO t VALUES (1, {literal}, 2), ({literal})"), format!("x={literal};{literal}")]
        {
            for cut in 0..=sql.len() {
                text.set(&sql.as_bytes()[..cut], true, POSTGRESQL);
                let shown: String = (0..text.count()).filter_map(|index| text.get(index)).map(|part| part.text).collect();
                // A part of the secret is as bad as the whole.
                assert!(!shown.contains("hu") && !shown.contains("ter2"), "{sql} cut at {cut}: {shown}");
            }
        }
    }
    text.set(b"SELECT 'a\\'hunter2'", false, Dialect::Postgresql { escapes: true });
    assert_eq!(text.get(0).map(|part| part.text.to_owned()).as_deref(), Some("SELECT ?"), "backslashes escape when the server says so");
}

#[test]
fn long_statements_are_cut_between_tokens_and_say_so() {
    let columns: Vec<String> = (0..5000).map(|number| format!("größe{number}")).collect();
    let mut text = Text::default();
    text.set(format!("SELECT {} FROM t; SELECT 1", columns.join(", ")).as_bytes(), false, POSTGRESQL);
    let long = text.get(0).unwrap();
    assert!(long.truncated && long.text.len() <= 4096 && long.text.len() > 4000, "{}", long.text.len());
    let short = text.get(1).unwrap();
    assert_eq!((short.text, short.truncated), ("SELECT ?", false));
}

#[test]
fn other_encodings_and_control_characters_do_no_harm() {
    let mut text = Text::default();
    text.set(b"SELECT gr\xf6\xdfe, '\xff\xfe' FROM t\x01\x02 WHERE a = 1", false, POSTGRESQL);
    assert_eq!(text.get(0).unwrap().text, "SELECT gr??e, ? FROM t WHERE a = ?");
}

const MYSQL: Dialect = Dialect::Mysql { escapes: Some(true) };

fn mysql(sql: &str) -> Vec<(String, String)> {
    let mut text = Text::default();
    text.set(sql.as_bytes(), false, MYSQL);
    (0..text.count()).filter_map(|index| text.get(index)).map(|part| (part.operation.to_owned(), part.text.to_owned())).collect()
}

#[test]
fn normalises_statements_of_mysql() {
    for (sql, operation, expected) in [
        ("SELECT `a b`, \"x\", 'y' FROM `t``u` WHERE c = \"it's\"", "SELECT", "SELECT `a b`, ? FROM `t``u` WHERE c = ?"),
        ("SELECT 'a\\'b', \"c\\\"d\", 1", "SELECT", "SELECT ?"),
        ("SELECT 1 # note\n+ 2 -- note\n- 3", "SELECT", "SELECT ? + ? - ?"),
        ("SELECT 5--3", "SELECT", "SELECT ?-?"),
        ("SELECT a FROM t WHERE id IN (?, ?, ?)", "SELECT", "SELECT a FROM t WHERE id IN (?)"),
        ("SELECT 0x1F, x'1f', X'1F', 0b01, b'1', N'n', _utf8mb4'u', _latin1\"l\"", "SELECT", "SELECT ?"),
        ("/*!40101 SET NAMES utf8 */", "SET", "SET NAMES utf8"),
        ("/* x /* y */ SELECT /*+ BKA(t) */ /*M!100100 DISTINCT */ a FROM t", "SELECT", "SELECT DISTINCT a FROM t"),
        (
            "INSERT INTO t (a) VALUES (1, 'x'), (2, \"y\") ON DUPLICATE KEY UPDATE a = 1",
            "INSERT",
            "INSERT INTO t (a) VALUES (?) ON DUPLICATE KEY UPDATE a = ?",
        ),
        ("REPLACE INTO t SET a = -1", "REPLACE", "REPLACE INTO t SET a = ?"),
        ("SET @a := 'x', @@session.b = 2", "SET", "SET @a := ?, @@session.b = ?"),
        ("CREATE USER 'me'@'host' IDENTIFIED BY 'hunter2'", "CREATE", "CREATE USER ?@? IDENTIFIED BY ?"),
        ("SELECT $a, a$b FROM t", "SELECT", "SELECT $a, a$b FROM t"),
        ("load data local infile '/tmp/x' into table t", "LOAD", "load data local infile ? into table t"),
        ("SELECT u&'x', e'y'", "SELECT", "SELECT u&?, e?"),
        ("selec 1", "", "selec ?"),
    ] {
        assert_eq!(mysql(sql), [(operation.to_owned(), expected.to_owned())], "{sql}");
    }
}

#[test]
fn splits_statements_as_mysql_does() {
    let texts = |sql| mysql(sql).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
    assert_eq!(texts("SELECT ';', \";\", `;`; # ;\nSELECT 2 -- ;\n;;"), ["SELECT ?, `;`", "SELECT ?"]);
    for program in [
        "CREATE PROCEDURE p() BEGIN SELECT 1; IF a THEN SELECT 2; END IF; END",
        "CREATE DEFINER=`a`@`b` TRIGGER t BEFORE INSERT ON x FOR EACH ROW IF NEW.a THEN SET b = 1; END IF",
        "CREATE PROCEDURE IF NOT EXISTS p() LOOP SELECT 1; END LOOP",
        "BEGIN NOT ATOMIC SELECT 1; SELECT 2; END",
        "IF 1 THEN SELECT 1; END IF",
    ] {
        assert_eq!(mysql(program).len(), 1, "{program}");
    }
    assert_eq!(texts("BEGIN; UPDATE t SET a = 1; COMMIT"), ["BEGIN", "UPDATE t SET a = ?", "COMMIT"]);
    assert_eq!(texts("CREATE PROCEDURE IF NOT EXISTS p() SELECT 1; SELECT 2").len(), 2);
    assert_eq!(texts("CREATE TABLE IF NOT EXISTS t (a int); ALTER TABLE t ADD b int").len(), 2);
    let sql = "SELECT 'a;' ; SELECT 2";
    let mut text = Text::default();
    text.set(sql.as_bytes(), false, MYSQL);
    assert_eq!([0, 1].map(|index| sql[text.source(index).unwrap()].trim()), ["SELECT 'a;'", "SELECT 2"]);
}

#[test]
fn no_secret_of_mysql_survives_wherever_the_text_is_cut() {
    let literals = [
        "'hunter2'",
        "\"hunter2\"",
        "'a''hunter2'",
        "\"a\"\"hunter2\"",
        "'x\\'hunter2'",
        "\"x\\\\\"\"hunter2\"",
        "x'hunter2'",
        "_utf8'hunter2'",
        "# hunter2\n",
        "-- hunter2\n",
        "/* hunter2 */",
        "/*!1 'hunter2' */",
        "0xhunter2",
        "-1.5hunter2",
    ];
    let mut text = Text::default();
    for escapes in [Some(true), None] {
        for literal in literals {
            for sql in [
                format!("SELECT {literal}"),
                format!("INSERT INTO t VALUES (1, {literal}, 2), ({literal})"),
                format!("x={literal};{literal}"),
            ] {
                for cut in 0..=sql.len() {
                    text.set(&sql.as_bytes()[..cut], true, Dialect::Mysql { escapes });
                    let shown: String = (0..text.count()).filter_map(|index| text.get(index)).map(|part| part.text).collect();
                    assert!(!shown.contains("hu") && !shown.contains("ter2"), "{sql} cut at {cut}: {shown}");
                }
            }
        }
    }
    // The same bytes under both meanings of the backslash, and under neither when it is not known.
    for (escapes, expected) in [(Some(true), "SELECT ?"), (Some(false), "SELECT ? hunter2 ?"), (None, "SELECT ?")] {
        text.set(b"SELECT 'a\\' hunter2 '", false, Dialect::Mysql { escapes });
        let part = text.get(0).unwrap();
        assert_eq!((part.text, part.truncated), (expected, escapes.is_none()), "{escapes:?}");
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_taken(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), cut: bool, escapes: bool, mysql: bool) {
        let mut text = Text::default();
        text.set(&bytes, cut, if mysql { Dialect::Mysql { escapes: Some(escapes) } } else { Dialect::Postgresql { escapes } });
        for index in 0..text.count() {
            proptest::prop_assert!(text.get(index).is_some());
        }
    }
}
