//! DNS over UDP that another worker owns: this one learns the names of addresses from it, and nothing else. So a server has the same name
//! in each worker, however many there are.

use std::net::IpAddr;

use super::{
    udp::FORGOTTEN_NS,
    worker::{Options, Table},
};
use crate::{
    attribution::Resolved,
    connection::datagrams::{Datagram, Datagrams},
    event::Header,
    model::{ConnectionId, Direction, Exchange, Role},
    protocols::{Capture, Loss, Sink},
};

/// Sockets listened to at once; who comes later is not heard. A resolver's client makes one for each look-up, and each lives for
/// [`FORGOTTEN_NS`].
const SOCKETS_MAX: usize = 16_384;

/// A name, its address, and how long it stands.
type Answer = (Box<str>, IpAddr, u32);

/// The sockets of others.
#[derive(Default)]
pub struct Overheard {
    table: Table<ConnectionId, Socket>,
}

struct Socket {
    talk: Datagrams,
    netns: u32,
    seen_ns: u64,
}

impl Overheard {
    pub fn open(&mut self, id: ConnectionId, netns: u32, role: Role, now_ns: u64, options: &Options) {
        if self.table.len() < SOCKETS_MAX {
            let talk = || Datagrams::new(role, options.raw);
            self.table.entry(id).or_insert_with(|| Socket { talk: talk(), netns, seen_ns: now_ns });
        }
    }

    pub fn datagram(&mut self, header: &Header, direction: Direction, datagram: Datagram<'_>, resolved: &mut Resolved, now_ns: u64) {
        let Some(socket) = self.table.get_mut(&header.connection) else { return };
        socket.seen_ns = header.time_ns;
        let mut answers = Answers::default();
        socket.talk.datagram(direction, datagram, &mut answers);
        answers.learn(socket.talk.role(), socket.netns, resolved, now_ns);
    }

    /// About a second has passed.
    pub fn tick(&mut self, now_ns: u64) {
        self.table.retain(|_, socket| now_ns.saturating_sub(socket.seen_ns) < FORGOTTEN_NS);
    }
}

/// What a socket's answers say, until it is known whose side it is on.
#[derive(Default)]
pub struct Answers(Vec<Answer>);

impl Answers {
    pub fn push(&mut self, name: &str, address: IpAddr, ttl_s: u32) {
        self.0.push((name.into(), address, ttl_s));
    }

    /// What a server tells others does not name what this host asks for.
    pub fn learn(self, role: Role, netns: u32, resolved: &mut Resolved, now_ns: u64) {
        for (name, address, ttl_s) in self.0.into_iter().filter(|_| role != Role::Server) {
            resolved.insert(netns, &name, address, ttl_s, now_ns);
        }
    }
}

impl Sink for Answers {
    fn exchange(&mut self, _: &Exchange<'_>) {}

    fn wants_attributes(&self) -> bool {
        false
    }

    fn capture(&mut self, _: Capture) {}

    fn lost(&mut self, _: Loss) {}

    fn resolved(&mut self, name: &str, address: IpAddr, ttl_s: u32) {
        self.push(name, address, ttl_s);
    }
}
