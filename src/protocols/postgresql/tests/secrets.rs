//! A planted word in each place that can carry a value.

use super::conversations::{complete, error, execute, message, parse, query, ready, startup, sync, welcome};
use crate::{
    model::{Protocol, Protocols},
    protocols::{Opening, postgresql::DEFINITION, testing::Conversation},
};

const SECRET: &str = "hunter2";

fn opened(raw: Protocols) -> Conversation {
    let mut talk = Conversation::new((DEFINITION.parser)(Opening { raw, ..Opening::default() }), 0);
    talk.request(startup()).response(message(b'R', [0, 0, 0, 3])).request(message(b'p', "hunter2\0")).response(welcome());
    talk
}

/// A parameter in the place of `$1`.
fn bind(value: &str) -> Vec<u8> {
    let length = (value.len() as u32).to_be_bytes();
    message(b'B', [b"\0\0\0\0\0\x01", &length[..], value.as_bytes(), &[0, 0]].concat())
}

/// Everything but literals of statements: none of it ever comes out.
fn hide(talk: &mut Conversation) {
    talk.request([parse("", "SELECT $1"), bind(SECRET), execute(""), sync()].concat());
    let row = message(b'D', [&[0, 1, 0, 0, 0, 7][..], SECRET.as_bytes()].concat());
    talk.response([message(b'1', ""), message(b'2', ""), row, complete("SELECT 1"), ready()].concat());
    talk.request(query("COPY t FROM STDIN")).response(message(b'G', [0, 0, 1, 0, 0]));
    talk.request([message(b'd', "hunter2\n"), message(b'c', "")].concat()).response([complete("COPY 1"), ready()].concat());
    for sql in ["ALTER ROLE a PASSWORD 'hunter2'", "CREATE USER b ENCRYPTED PASSWORD 'hunter2'", "SELECT crypt('hunter2', gen_salt('bf'))"]
    {
        talk.request(query(sql)).response([error("42501"), ready()].concat());
    }
    talk.request([parse("", "SELECT dblink_connect('password=hunter2')"), sync()].concat()).response([message(b'1', ""), ready()].concat());
}

#[test]
fn no_secret_leaves_and_with_raw_only_what_is_no_credential() {
    let wanted = Protocols::from_iter([Protocol::Postgresql]);
    for raw in [Protocols::NONE, Protocols::from_iter([Protocol::Mysql]), wanted] {
        let mut talk = opened(raw);
        hide(&mut talk);
        assert_eq!(talk.seen.exchanges.len(), 6, "{:?}", talk.summaries());
        assert!(!format!("{:?}", talk.seen).contains(SECRET), "{:?}", talk.seen);
    }
}

#[test]
fn a_statement_as_it_was_sent_is_shown_only_when_it_is_asked_for() {
    let wanted = Protocols::from_iter([Protocol::Postgresql]);
    for raw in [Protocols::NONE, wanted] {
        let mut talk = opened(raw);
        let done = [complete("UPDATE 1"), complete("UPDATE 1"), ready()].concat();
        talk.request(query("UPDATE t SET a = 'hunter2'; UPDATE t SET a = 7")).response(done);
        talk.request([parse("", "UPDATE t SET a = 8"), bind(SECRET), execute(""), sync()].concat());
        talk.response([message(b'1', ""), message(b'2', ""), complete("UPDATE 1"), ready()].concat());
        let shown = |index: usize| talk.seen.exchanges[index].text("db.query.text");
        let expected = ["UPDATE t SET a = 'hunter2'", "UPDATE t SET a = 7", "UPDATE t SET a = 8"];
        for (index, sql) in expected.into_iter().enumerate() {
            assert_eq!(shown(index), (raw == wanted).then_some(sql));
            assert_eq!(talk.seen.exchanges[index].resource, "UPDATE t SET a = ?");
        }
        assert_eq!(format!("{:?}", talk.seen).matches(SECRET).count(), usize::from(raw == wanted));
    }
}
