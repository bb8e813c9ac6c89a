//! Frames as clients and servers write them.

pub fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&channel.to_be_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes.push(0xce);
    bytes
}

pub fn method(channel: u16, class: u16, number: u16, arguments: &[u8]) -> Vec<u8> {
    frame(1, channel, &[&class.to_be_bytes()[..], &number.to_be_bytes(), arguments].concat())
}

fn text(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

pub const OPENING: &[u8] = b"AMQP\0\0\x09\x01";
pub const HEARTBEAT: &[u8] = b"\x08\0\0\0\0\0\0\xce";
const NO_TABLE: &[u8] = b"\0\0\0\0";

/// A header with a table of application headers, and a body in frames of so many bytes.
pub fn content(channel: u16, body: &[u8], piece: usize) -> Vec<u8> {
    let properties = b"\xb0\0\x0atext/plain\0\0\0\x19\x05tokenS\0\0\0\x0ehunter2-header\x02";
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(body.len() as u64).to_be_bytes());
    header.extend_from_slice(properties);
    let mut bytes = frame(2, channel, &header);
    body.chunks(piece.max(1)).for_each(|piece| bytes.extend(frame(3, channel, piece)));
    bytes
}

/// The client's side of the start, and the server's, call by call.
pub fn start() -> Vec<(crate::model::Flow, Vec<u8>)> {
    use crate::model::Flow::{Request, Response};
    vec![
        (Request, OPENING.to_vec()),
        (Response, method(0, 10, 10, b"\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05en_US")),
        (Request, method(0, 10, 11, b"\0\0\0\0\x05PLAIN\0\0\0\x12\0guest\0hunter2-pwd\x05en_US".as_slice())),
        (Response, method(0, 10, 30, b"\x07\xff\0\x02\0\0\0\x3c")),
        (Request, [method(0, 10, 31, b"\x07\xff\0\x02\0\0\0\x3c"), method(0, 10, 40, b"\x04shop\0\0")].concat()),
        (Response, method(0, 10, 41, b"\0")),
        (Request, open_channel(1)),
        (Response, method(1, 20, 11, b"\0\0\0\0")),
    ]
}

pub fn open_channel(channel: u16) -> Vec<u8> {
    method(channel, 20, 10, b"\0")
}

pub fn close(channel: u16, code: u16, class: u16, number: u16) -> Vec<u8> {
    let mut arguments = code.to_be_bytes().to_vec();
    arguments.extend(text("hunter2-reason"));
    arguments.extend_from_slice(&class.to_be_bytes());
    arguments.extend_from_slice(&number.to_be_bytes());
    if channel == 0 { method(0, 10, 50, &arguments) } else { method(channel, 20, 40, &arguments) }
}

pub fn ok(channel: u16, class: u16, number: u16) -> Vec<u8> {
    method(channel, class, number, b"")
}

pub fn declare_queue(channel: u16, name: &str) -> Vec<u8> {
    method(channel, 50, 10, &[&[0, 0], &text(name)[..], &[2], NO_TABLE].concat())
}

pub fn queue_declared(channel: u16, name: &str) -> Vec<u8> {
    method(channel, 50, 11, &[&text(name)[..], &[0; 8]].concat())
}

pub fn bind(channel: u16, class: u16, to: &str, from: &str, bits: u8) -> Vec<u8> {
    let number = if class == 50 { 20 } else { 30 };
    method(channel, class, number, &[&[0, 0], &text(to)[..], &text(from), &text("key"), &[bits], NO_TABLE].concat())
}

pub fn select(channel: u16) -> Vec<u8> {
    method(channel, 85, 10, b"\0")
}

pub fn publish(channel: u16, exchange: &str, key: &str, body: &[u8]) -> Vec<u8> {
    publish_with(channel, exchange, key, 0, body, 4096)
}

pub fn publish_with(channel: u16, exchange: &str, key: &str, bits: u8, body: &[u8], piece: usize) -> Vec<u8> {
    let begin = method(channel, 60, 40, &[&[0, 0], &text(exchange)[..], &text(key), &[bits]].concat());
    [begin, content(channel, body, piece)].concat()
}

/// "ack" and "nack" of either side.
pub fn settle(channel: u16, how: &str, tag: u64, multiple: bool) -> Vec<u8> {
    let number = match how {
        "ack" => 80,
        "reject" => 90,
        _ => 120,
    };
    method(channel, 60, number, &[&tag.to_be_bytes()[..], &[u8::from(multiple)]].concat())
}

pub fn returned(channel: u16, code: u16, exchange: &str, key: &str, body: &[u8]) -> Vec<u8> {
    let arguments = [&code.to_be_bytes()[..], &text("NO_ROUTE"), &text(exchange), &text(key)].concat();
    [method(channel, 60, 50, &arguments), content(channel, body, 4096)].concat()
}

pub fn consume(channel: u16, queue: &str, consumer: &str, no_ack: bool) -> Vec<u8> {
    method(channel, 60, 20, &[&[0, 0], &text(queue)[..], &text(consumer), &[u8::from(no_ack) << 1], NO_TABLE].concat())
}

pub fn consuming(channel: u16, consumer: &str) -> Vec<u8> {
    method(channel, 60, 21, &text(consumer))
}

pub fn cancel(channel: u16, consumer: &str, bits: u8) -> Vec<u8> {
    method(channel, 60, 30, &[&text(consumer)[..], &[bits]].concat())
}

pub fn deliver(channel: u16, consumer: &str, tag: u64, exchange: &str, key: &str, body: &[u8]) -> Vec<u8> {
    let arguments = [&text(consumer)[..], &tag.to_be_bytes(), &[0], &text(exchange), &text(key)].concat();
    [method(channel, 60, 60, &arguments), content(channel, body, 4096)].concat()
}

pub fn get(channel: u16, queue: &str, no_ack: bool) -> Vec<u8> {
    method(channel, 60, 70, &[&[0, 0], &text(queue)[..], &[u8::from(no_ack)]].concat())
}

pub fn got(channel: u16, tag: u64, exchange: &str, key: &str, body: &[u8]) -> Vec<u8> {
    let arguments = [&tag.to_be_bytes()[..], &[1], &text(exchange), &text(key), &[0; 4]].concat();
    [method(channel, 60, 71, &arguments), content(channel, body, 4096)].concat()
}

pub fn empty(channel: u16) -> Vec<u8> {
    method(channel, 60, 72, b"\0")
}
