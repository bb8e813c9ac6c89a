//! What must never come out, in each place where a conversation can carry it.

use super::{array, command, opened, raw, string, told};

const SECRET: &str = "hunter2";

#[test]
fn secrets_stay_inside_wherever_they_are() {
    for keys_are_wanted in [false, true] {
        let mut talk = if keys_are_wanted { raw() } else { opened() };
        let plain = |line: &str| command(line);
        for line in [
            "AUTH hunter2",
            "AUTH alice hunter2",
            "AUTH hunter2:x y",
            "HELLO 3 AUTH alice hunter2 SETNAME hunter2",
            "ACL SETUSER alice on >hunter2 ~* +@all",
            "ACL hunter2 x",
            "ACL DELUSER hunter2",
            "CONFIG SET requirepass hunter2",
            "CONFIG SET masterauth hunter2",
            "CONFIG hunter2",
            "MIGRATE host 6379 k 0 5000 AUTH2 alice hunter2",
            "MIGRATE hunter2 6379 k 0 5000 COPY KEYS hunter2",
            "EVAL return'hunter2' 0 hunter2",
            "EVAL return'hunter2' 99999999999999999999 hunter2",
            "EVALSHA hunter2 0",
            "FCALL hunter2 0",
            "FUNCTION LOAD hunter2",
            "SCRIPT LOAD return'hunter2'",
            "SUBSCRIBE hunter2",
            "PUBLISH hunter2 hunter2",
            "SET k hunter2",
            "HSET h hunter2 hunter2",
            "SELECT hunter2",
            "CLIENT SETNAME hunter2",
            "CLIENT SETINFO lib-name hunter2",
            "hunter2 hunter2",
            "REPLCONF hunter2 hunter2",
            "SENTINEL SET m auth-pass hunter2",
            "OBJECT hunter2 hunter2",
            "XADD log * hunter2 hunter2",
            "JSON.SET doc $ hunter2",
            "FT.SEARCH hunter2 hunter2",
            "ECHO hunter2",
            "SORT k BY hunter2:* GET hunter2:*",
        ] {
            talk.request(plain(line)).response("-ERR hunter2 failed\r\n");
        }
        for reply in ["-hunter2\r\n", "-hunter2 x\r\n", "+hunter2\r\n", "+OK hunter2\r\n", "!7\r\nhunter2\r\n", "=11\r\ntxt:hunter2\r\n"] {
            talk.request(command("FCALL f 0")).response(reply);
        }
        talk.request("AUTH hunter2\r\n").response("-WRONGPASS hunter2\r\n").request("SET k \"hunter2\"\r\n").response("+OK\r\n");
        talk.request(command("SUBSCRIBE hunter2")).response(array('*', &["subscribe", SECRET, ":1"]));
        talk.response(array('*', &["message", SECRET, SECRET])).request(command("GET k")).response(string(SECRET));
        let told = told(&mut talk);
        assert!(told.len() > 40, "{told:?}");
        assert!(!format!("{:?}", talk.seen).contains(SECRET), "{:#?}", talk.seen.exchanges);
    }
}

#[test]
fn of_a_key_only_a_plain_first_segment_comes_out_unless_keys_are_wanted() {
    let keys = ["hunter2", "hunter2:1", "user:hunter2", "alice@example.com:1", "session:hunter2:x", "{hunter2}:user", "Hunter:two"];
    let mut talk = opened();
    let mut wanted = raw();
    for key in keys {
        for talk in [&mut talk, &mut wanted] {
            talk.request(command(&format!("GET {key}"))).response("$-1\r\n");
        }
    }
    assert_eq!(told(&mut talk), ["GET ? ", "GET ? ", "GET user:? ", "GET ? ", "GET session:? ", "GET ? ", "GET ? "]);
    assert_eq!(told(&mut wanted), keys.map(|key| format!("GET {key} ")));
    let mut talk = raw();
    let long = "k".repeat(5000);
    talk.request(command(&format!("MGET {long} {long} {long}")))
        .response("*0\r\n")
        .request(b"*2\r\n$3\r\nGET\r\n$2\r\n\xff\n\r\n")
        .response("_\r\n");
    let told = told(&mut talk);
    assert!(told[0].len() < 500, "{told:?}");
    assert_eq!(told[1], "GET \\xff\\n ");
}
