mod conversations;
mod doubt;
mod golden;
mod oracle;
mod secrets;

use super::DEFINITION;
use crate::{
    model::{Protocol, Protocols},
    protocols::{
        Opening,
        testing::{Conversation, OwnedExchange},
    },
};

/// A command as clients send it.
fn command(line: &str) -> Vec<u8> {
    let words: Vec<&str> = line.split(' ').collect();
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(&string(word));
    }
    bytes
}

fn string(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

/// An array of strings, as RESP2 sends it; a `:` begins a number.
fn array(kind: char, items: &[&str]) -> Vec<u8> {
    let mut bytes = format!("{kind}{}\r\n", items.len()).into_bytes();
    for item in items {
        match item.strip_prefix(':') {
            Some(_) => bytes.extend_from_slice(format!("{item}\r\n").as_bytes()),
            None => bytes.extend_from_slice(&string(item)),
        }
    }
    bytes
}

fn opened() -> Conversation {
    Conversation::opened(DEFINITION.parser)
}

fn adopted() -> Conversation {
    Conversation::adopted(DEFINITION.parser, 7)
}

/// With the keys as they are.
fn raw() -> Conversation {
    Conversation::opened(|opening| (DEFINITION.parser)(Opening { raw: Protocols::from_iter([Protocol::Redis]), ..opening }))
}

/// "GET user:? " of every exchange, after the close.
#[track_caller]
fn told(talk: &mut Conversation) -> Vec<String> {
    assert!(!talk.refused());
    talk.close();
    talk.seen.exchanges.iter().map(|exchange| format!("{} {}", exchange.resource, exchange.status)).collect()
}

fn of<'a>(talk: &'a Conversation, operation: &str) -> &'a OwnedExchange {
    talk.seen.exchanges.iter().find(|exchange| exchange.operation == operation).expect("an exchange of this operation")
}
