//! From the greeting to the server's consent.

use super::{
    Mysql, Taken,
    handshake::{self, Greeting},
    packets::{self, HEADER, Head, NO_BACKSLASH_ESCAPES, Success},
    record::{Finished, Identity, Outcome},
};
use crate::{
    model::Flags,
    protocols::{At, Sink},
};

/// Where the conversation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The server greets first.
    Greeting,
    /// The client's answer is to come.
    Answer,
    /// Proofs go to and fro.
    Proof,
    Commands,
    /// Encrypted, compressed or replicating: nothing that follows is of interest.
    Over,
}

/// Longest packet of this part that is waited for: certificates and tickets stay below.
const PACKET_READ: usize = 16 * 1024;

#[derive(Debug, Default)]
pub struct Login {
    greeting: Option<Greeting>,
    compressed: bool,
    start_ns: Option<u64>,
    first_ns: Option<u64>,
    request_bytes: u64,
    response_bytes: u64,
}

impl Login {
    pub fn greeted(&self) -> bool {
        self.greeting.is_some()
    }

    /// An adopted connection may have been seen from its first byte all the same.
    pub fn begins(&self, bytes: &[u8], at: At) -> bool {
        let Some(head) = packets::head(bytes) else { return false };
        let body = bytes.get(HEADER..).unwrap_or_default();
        at.call_start
            && head.sequence == 0
            && body.len() == head.length
            && (handshake::greeting(body).is_some() || handshake::turns_away(body))
    }
}

impl Mysql {
    /// A packet of the client before it was let in.
    pub fn login_packet(&mut self, head: Head, body: &[u8], start_ns: u64, out: &mut dyn Sink) -> Taken {
        if body.len() < head.length.min(PACKET_READ) {
            return Taken::NeedMore;
        }
        self.login.request_bytes += (HEADER + head.length) as u64;
        self.login.start_ns.get_or_insert(start_ns);
        if self.stage == Stage::Proof {
            // Passwords, tickets and the like.
            return Taken::Done;
        }
        match handshake::login(body, false) {
            Some(handshake::Login::Encrypt) => {
                self.finish(out);
                Taken::Over
            }
            Some(handshake::Login::Answer { capabilities, user, database }) => {
                let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
                self.session.connection.identity = Identity { user: text(user), database: text(database) };
                if let Some(greeting) = self.login.greeting {
                    let agreed = handshake::agreed(greeting.capabilities, capabilities);
                    self.login.compressed = agreed.compressed;
                    self.session.eofs = Some(!agreed.deprecate_eof);
                    self.attributes = Some(agreed.query_attributes);
                }
                self.stage = Stage::Proof;
                Taken::Done
            }
            None => Taken::Refused,
        }
    }

    /// A packet of the server before it lets the client in.
    pub fn greeting_packet(&mut self, head: Head, rest: &[u8], (first_ns, end_ns): (u64, u64), out: &mut dyn Sink) -> Taken {
        if self.stage == Stage::Greeting
            && (head.sequence > 0 || head.length > PACKET_READ || !matches!(rest.get(HEADER), None | Some(10 | 0xff)))
        {
            return Taken::Refused;
        }
        let Some(body) = rest.get(HEADER..HEADER + head.length.min(PACKET_READ)) else { return Taken::NeedMore };
        self.login.response_bytes += (HEADER + head.length) as u64;
        if let Some(error) = packets::error(body) {
            self.turned_away(Outcome::Failure(error), first_ns, end_ns, out);
            return Taken::Done;
        }
        if self.stage == Stage::Greeting {
            let Some(greeting) = handshake::greeting(body) else { return Taken::Refused };
            self.login = Login { greeting: Some(greeting), ..Login::default() };
            self.session.connection.mariadb = greeting.mariadb;
            self.session.statements.escapes = Some(greeting.status & NO_BACKSLASH_ESCAPES == 0);
            self.stage = Stage::Answer;
            return Taken::Done;
        }
        self.login.first_ns.get_or_insert(first_ns);
        // A request to go on has another first byte.
        if let (Some(0), Some(success)) = (body.first(), packets::ok(body)) {
            self.let_in(success);
            if self.login.compressed {
                self.finish(out);
                return Taken::Over;
            }
        }
        Taken::Done
    }

    fn let_in(&mut self, success: Success) {
        self.stage = super::Stage::Commands;
        self.client.lost = false;
        self.session.welcome();
        if success.status != 0 {
            self.session.statements.escapes = Some(success.status & NO_BACKSLASH_ESCAPES == 0);
        }
    }

    /// A connection that is refused is an exchange; one that is let in is none.
    fn turned_away(&mut self, outcome: Outcome, first_ns: u64, end_ns: u64, out: &mut dyn Sink) {
        // Greeted, a client answers: that was missed.
        let missed = self.stage != Stage::Greeting && self.login.start_ns.is_none();
        let finished = Finished {
            flags: if missed { Flags::GAP } else { Flags::default() },
            start_ns: self.login.start_ns.unwrap_or(first_ns),
            first_ns: Some(self.login.first_ns.unwrap_or(first_ns)),
            end_ns,
            operation: "STARTUP",
            unknown: "",
            outcome,
            request_bytes: self.login.request_bytes,
            response_bytes: self.login.response_bytes,
            ..Finished::default()
        };
        finished.write(&self.session.connection, out);
        self.login.start_ns = None;
        self.stage = Stage::Proof;
    }
}
