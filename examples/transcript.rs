//! Prints what was said on the connections of a recording, one call a line: the form of `tests/data/PROTOCOL/*.txt`.
//!
//! `cargo run --example transcript -- RECORDING PORT [NUMBER]`: the connections whose server has this port, as the client's socket saw
//! them; the server's where it alone was watched. With NUMBER only the so-manieth of them, from 0.

use std::{collections::BTreeMap, fmt::Write, fs::File, io::BufReader};

use anyhow::{Context, Result};
use remora::{
    event::{self, Body, Event},
    model::{Direction, Role},
    record::{Chunk, Reader},
};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: transcript RECORDING PORT [NUMBER]";
    let path = arguments.next().context(usage)?;
    let port: u16 = arguments.next().context(usage)?.parse().context("PORT")?;
    let wanted: Option<usize> = arguments.next().map(|number| number.parse().context("NUMBER")).transpose()?;
    let file = File::open(&path).with_context(|| format!("opening {path}"))?;
    // By the server's end and the client's: whose socket it is, and the text.
    let mut talks: BTreeMap<(u16, u64), (Role, u16, String)> = BTreeMap::new();
    let mut ids = BTreeMap::new();
    for chunk in Reader::new(BufReader::new(file))? {
        let Chunk::Events { bytes, .. } = chunk? else { continue };
        let mut rest = bytes.as_slice();
        while let Some(length) = event::record_len(rest) {
            let event = Event::decode(rest)?;
            rest = &rest[length..];
            let id = event.header.connection.0;
            match event.body {
                Body::Open { tuple, role, .. } if [tuple.local.port, tuple.remote.port].contains(&port) => {
                    let server = tuple.local.port == port;
                    let client_port = if server { tuple.remote.port } else { tuple.local.port };
                    let role = if role != Role::Unknown || server { role } else { Role::Client };
                    ids.insert(id, (client_port, id));
                    talks.insert((client_port, id), (role, client_port, String::new()));
                }
                Body::Data { direction, payload, .. } => {
                    let Some((role, _, text)) = ids.get(&id).and_then(|key| talks.get_mut(key)) else { continue };
                    let from_client = (direction == Direction::Sent) == (*role == Role::Client);
                    writeln!(text, "{} {}", if from_client { '>' } else { '<' }, escape(payload))?;
                }
                _ => {}
            }
        }
    }
    let both: Vec<u16> = talks.values().filter(|(role, ..)| *role == Role::Client).map(|(_, client, _)| *client).collect();
    let shown = talks.into_values().filter(|(role, client, _)| *role == Role::Client || !both.contains(client));
    for (number, (_, _, text)) in shown.enumerate() {
        if wanted.is_none_or(|wanted| wanted == number) {
            print!("{text}");
        }
    }
    Ok(())
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text
}
