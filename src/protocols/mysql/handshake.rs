//! How a connection begins: MySQL source documentation, "Connection Phase"; MariaDB knowledge base, "1 - Connecting".

use super::packets::{LittleEndian, error};
use crate::protocols::reader::Reader;

/// MySQL's name for a server that is not MariaDB, and CLIENT_LONG_PASSWORD otherwise: without it a client may use MariaDB's extensions.
const MYSQL: u32 = 1;
const CONNECT_WITH_DB: u32 = 1 << 3;
const COMPRESS: u32 = 1 << 5;
const PROTOCOL_41: u32 = 1 << 9;
const SSL: u32 = 1 << 11;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;
const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
const DEPRECATE_EOF: u32 = 1 << 24;
const ZSTD: u32 = 1 << 26;
const QUERY_ATTRIBUTES: u32 = 1 << 27;

/// Errors with which a server turns a client away before it greets: too many connections, host blocked, host not allowed, out of resources,
/// user limits.
const TURNED_AWAY: [u16; 6] = [1040, 1041, 1129, 1130, 1135, 1203];

/// The server's first packet (Protocol::HandshakeV10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    pub capabilities: u32,
    pub status: u16,
    pub mariadb: bool,
}

/// A payload that is a greeting to its last byte.
pub fn greeting(body: &[u8]) -> Option<Greeting> {
    let mut reader = Reader::new(body);
    if reader.u8()? != 10 {
        return None;
    }
    let version = reader.text()?;
    let printable = version.iter().all(u8::is_ascii_graphic) && version.first().is_some_and(u8::is_ascii_digit);
    // The number of the connection and eight random bytes.
    reader.take(12)?;
    if !printable || version.len() > 128 || reader.u8()? != 0 {
        return None;
    }
    let low = reader.le16()?;
    let mut greeting = Greeting { capabilities: u32::from(low), status: 0, mariadb: holds(version, b"MariaDB") };
    if reader.rest().is_empty() {
        return Some(greeting);
    }
    reader.u8()?;
    greeting.status = reader.le16()?;
    greeting.capabilities |= u32::from(reader.le16()?) << 16;
    let scramble = usize::from(reader.u8()?);
    let reserved = reader.take(10)?;
    // MariaDB writes its own capabilities into the last four.
    let zeros = if greeting.capabilities & MYSQL == 0 { reserved.get(..6)? } else { reserved };
    if greeting.capabilities & PROTOCOL_41 == 0 || zeros.iter().any(|&byte| byte != 0) || !matches!(scramble, 0 | 8..=64) {
        return None;
    }
    if greeting.capabilities & SECURE_CONNECTION != 0 {
        reader.take(scramble.saturating_sub(8).max(13))?;
    }
    if greeting.capabilities & PLUGIN_AUTH != 0 {
        let plugin = reader.text().or_else(|| Some(std::mem::replace(&mut reader, Reader::new(&[])).rest()))?;
        if plugin.is_empty() || !plugin.iter().all(u8::is_ascii_graphic) {
            return None;
        }
    }
    reader.rest().is_empty().then_some(greeting)
}

/// A payload that turns the client away instead of greeting it.
pub fn turns_away(body: &[u8]) -> bool {
    let known = error(body).is_some_and(|error| TURNED_AWAY.contains(&error.code));
    let message = body.get(3..).unwrap_or_default();
    known && message.len() >= 8 && message.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The client's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login<'a> {
    /// SSLRequest: TLS begins with the next byte of the client.
    Encrypt,
    Answer {
        capabilities: u32,
        user: &'a [u8],
        database: &'a [u8],
    },
}

/// `strict`: nothing but what today's clients send.
pub fn login(body: &[u8], strict: bool) -> Option<Login<'_>> {
    let mut reader = Reader::new(body);
    let low = u32::from(reader.le16()?);
    if low & PROTOCOL_41 == 0 {
        return if strict { None } else { old_login(low, reader) };
    }
    let capabilities = low | u32::from(reader.le16()?) << 16;
    // The largest packet, the character set, and 23 reserved bytes of which MariaDB uses the last four.
    reader.take(5)?;
    let reserved = reader.take(23)?;
    let zeros = if capabilities & MYSQL == 0 { reserved.get(..19)? } else { reserved };
    if zeros.iter().any(|&byte| byte != 0) {
        return None;
    }
    if reader.rest().is_empty() {
        return (capabilities & SSL != 0).then_some(Login::Encrypt);
    }
    let user = reader.text()?;
    let proof = if capabilities & PLUGIN_AUTH_LENENC != 0 {
        reader.string()
    } else if capabilities & SECURE_CONNECTION != 0 {
        let length = reader.u8()?;
        reader.take(usize::from(length))
    } else {
        reader.text()
    };
    proof?;
    let database = if capabilities & CONNECT_WITH_DB != 0 { reader.text().unwrap_or_default() } else { &[] };
    Some(Login::Answer { capabilities, user, database })
}

/// Protocol::HandshakeResponse320.
fn old_login(capabilities: u32, mut reader: Reader<'_>) -> Option<Login<'_>> {
    reader.take(3)?;
    let user = reader.text()?;
    let database = match capabilities & CONNECT_WITH_DB {
        0 => None,
        _ => reader.text().and_then(|_| reader.text()),
    };
    Some(Login::Answer { capabilities, user, database: database.unwrap_or_default() })
}

/// User and database of a COM_CHANGE_USER, its command byte left out.
pub fn change_user(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader::new(body);
    let user = reader.text()?;
    let length = reader.u8()?;
    reader.take(usize::from(length))?;
    let database = reader.text()?;
    Some((user, database))
}

/// What both sides can do, and so will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    pub compressed: bool,
    pub deprecate_eof: bool,
    pub query_attributes: bool,
}

pub fn agreed(server: u32, client: u32) -> Agreed {
    let both = server & client;
    Agreed {
        compressed: both & (COMPRESS | ZSTD) != 0,
        deprecate_eof: both & DEPRECATE_EOF != 0,
        query_attributes: both & QUERY_ATTRIBUTES != 0,
    }
}

fn holds(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}
