//! What is said on connections: every recorded conversation, and what no recording is needed for.

use anyhow::Result;
use remora::model::Flow::{self, Request, Response};

use crate::transcript;

/// One conversation.
#[derive(Clone, Debug)]
pub struct Talk {
    /// What is spoken; a protocol's name where it is one that may be named.
    pub kind: String,
    pub calls: Vec<(Flow, Vec<u8>)>,
}

/// xorshift64*: the same sequence everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

pub fn corpus() -> Result<Vec<Talk>> {
    let mut talks: Vec<Talk> = transcript::all()?.into_iter().map(|recorded| Talk { kind: recorded.kind, calls: recorded.calls }).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut put = |kind: &str, calls: Vec<(Flow, Vec<u8>)>| talks.push(Talk { kind: kind.to_owned(), calls });
    for number in 0..70 {
        let length = 1 + random.below(700);
        put("random", answered(20, &mut random, |random, _| random.bytes(length)));
        put("random", upload(20, |_| random.bytes(1 + number * 15)));
    }
    for length in [1, 2, 3, 4, 5, 8, 9, 16, 24, 100, 1000, 16_384] {
        put("zeros", answered(20, &mut random, |_, _| vec![0; length]));
        put("zeros", upload(20, |_| vec![0; length]));
        // Small numbers between zeros: what lengths, counts and enumerations are made of.
        put(
            "numbers",
            answered(20, &mut random, |random, _| {
                (0..length).map(|_| [0, 0, 0, random.next() as u8 % 8][random.below(4) as usize]).collect()
            }),
        );
        for byte in [1, 4, 10, 32, 48, 65, 127, 128, 255] {
            put("one byte", answered(18, &mut random, |_, _| vec![byte; length]));
        }
    }
    put("JSON lines", upload(40, |line| json_line(line).into_bytes()));
    put("JSON lines", answered(40, &mut random, |_, line| json_line(line).into_bytes()));
    put("log lines", upload(60, |line| log_line(line).into_bytes()));
    put("log lines", answered(40, &mut random, |_, line| log_line(line).into_bytes()));
    for line in WORDS {
        put("words", answered(18, &mut random, |_, _| format!("{line}\r\n").into_bytes()));
        put("words", answered(18, &mut random, |_, _| format!("{line}\n").into_bytes()));
        put("words", answered(18, &mut random, |_, _| line.as_bytes().to_vec()));
        put("words", upload(18, |number| format!("{line} {number}\n").into_bytes()));
    }
    for number in 0..42 {
        put("protobuf", answered(20, &mut random, |random, _| protobuf(random, 0)));
        // The same behind a length, as in many private protocols, in each usual width and order.
        put("framed protobuf", answered(20, &mut random, |random, _| framed(&protobuf(random, 0), number % 6)));
        put("framed text", answered(20, &mut random, |_, line| framed(WORDS[(line + number) % WORDS.len()].as_bytes(), number % 6)));
        put(
            "framed random",
            answered(20, &mut random, |random, _| {
                let length = 1 + random.below(200);
                framed(&random.bytes(length), number % 6)
            }),
        );
    }
    Ok(talks)
}

/// A conversation in turns.
fn answered(calls: usize, random: &mut Random, mut say: impl FnMut(&mut Random, usize) -> Vec<u8>) -> Vec<(Flow, Vec<u8>)> {
    (0..calls).map(|call| (if call % 2 == 0 { Request } else { Response }, say(random, call))).collect()
}

/// One side alone speaks.
fn upload(calls: usize, mut say: impl FnMut(usize) -> Vec<u8>) -> Vec<(Flow, Vec<u8>)> {
    (0..calls).map(|call| (Request, say(call))).collect()
}

fn json_line(line: usize) -> String {
    format!("{{\"id\":{line},\"method\":\"GET\",\"path\":\"/items/{line}\",\"status\":{},\"query\":\"SELECT 1\"}}\n", 200 + line % 3 * 100)
}

fn log_line(line: usize) -> String {
    match line % 4 {
        0 => format!("127.0.0.1 - - [01/Jan/2026:00:00:{:02} +0000] \"GET /items/{line} HTTP/1.1\" 200 612\n", line % 60),
        1 => format!("2026-01-01 00:00:{:02}.123 UTC [4711] ERROR:  duplicate key value violates unique constraint\n", line % 60),
        2 => format!("Jan  1 00:00:{:02} web shop[4711]: HTTP/1.1 200 OK\n", line % 60),
        _ => format!("GET /items/{line} took {line} ms\n"),
    }
}

/// Words that protocols begin with, said by something else.
const WORDS: &[&str] = &[
    "GET",
    "POST",
    "HTTP",
    "HTTP/1.1",
    "PRI",
    "PRI * HTTP",
    "SELECT",
    "SELECT 1",
    "PING",
    "PONG",
    "+OK",
    "-ERR",
    "OK",
    "ERROR",
    "QUIT",
    "HELP",
    "AMQP",
    "SET a",
    "INFO",
    "AUTH",
    "HELLO",
    "STARTTLS",
    "*",
    "$",
    ":1",
    "+",
    "-",
    "* OK",
    "$ ls -l",
    ":0",
    "220 ready",
    "200 OK",
    "hello",
    "1234567890",
    "a",
    "\u{e9}t\u{e9}",
    "Q",
    "X",
    "\u{16}\u{3}\u{1}",
    "{}",
    "[]",
    "null",
    "true",
    "#1",
    ",1.5",
    "_",
    "%",
    "~",
    "|",
    ">",
    "(1",
];

/// A message of the encoding that protocol buffers have: keys, varints, lengths, messages within messages.
fn protobuf(random: &mut Random, depth: u32) -> Vec<u8> {
    let mut message = Vec::new();
    for field in 1..2 + random.below(6) as u8 {
        match random.below(4) {
            0 => {
                message.push(field << 3);
                let mut value = random.next() >> random.below(64);
                while value >= 0x80 {
                    message.push(value as u8 | 0x80);
                    value >>= 7;
                }
                message.push(value as u8);
            }
            1 => {
                message.push(field << 3 | 5);
                message.extend_from_slice(&(random.next() as u32).to_le_bytes());
            }
            2 if depth < 3 => {
                let mut inner = protobuf(random, depth + 1);
                inner.truncate(127);
                message.extend([field << 3 | 2, inner.len() as u8]);
                message.extend(inner);
            }
            _ => {
                let text = WORDS[random.below(WORDS.len() as u64) as usize];
                message.extend([field << 3 | 2, text.len() as u8]);
                message.extend_from_slice(text.as_bytes());
            }
        }
    }
    message
}

/// A length in one of six forms, then the body.
fn framed(body: &[u8], form: usize) -> Vec<u8> {
    let length = body.len() as u32;
    let head = match form {
        0 => length.to_be_bytes().to_vec(),
        1 => length.to_le_bytes().to_vec(),
        2 => (length as u16).to_be_bytes().to_vec(),
        3 => (length as u16).to_le_bytes().to_vec(),
        4 => (length + 4).to_be_bytes().to_vec(),
        _ => vec![length as u8],
    };
    [&head, body].concat()
}
