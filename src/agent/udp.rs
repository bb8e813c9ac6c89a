//! The UDP sockets of a worker: met at their first datagram, forgotten after a long silence, each with many other ends.

use std::{net::IpAddr, net::Ipv4Addr, sync::Arc};

use super::{
    about::About,
    early::{Early, Held},
    losses::Reason,
    overheard::Answers,
    parties::{Around, Out},
    worker::Table,
};
use crate::{
    connection::datagrams::{Datagram, Datagrams},
    event::{Header, Tuple},
    model::{ConnectionId, Direction, Endpoint, Exchange, Process, Role, Wish},
    protocols::{Capture, Loss, Sink},
};

/// A socket that was silent for so long is forgotten. The kernel begins it anew somewhat earlier (`UDP_SILENCE_NS` in `settings.h`), so no
/// datagram comes of one that is forgotten.
pub(super) const FORGOTTEN_NS: u64 = 25_000_000_000;

/// An end that is not known.
const NOBODY: Endpoint = Endpoint { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0 };

/// See the header of this file.
#[derive(Default)]
pub struct Sockets {
    table: Table<ConnectionId, Box<Socket>>,
    /// In the order in which they were met: what is done to all of them is done in the same order in each run.
    met: Vec<ConnectionId>,
    early: Early,
}

struct Socket {
    talk: Datagrams,
    /// Its remote end is that of the last exchange.
    about: About,
    /// As the socket was met.
    bound: Tuple,
}

impl Sockets {
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Two threads that use a fresh socket at once can both announce it: the first one counts.
    pub fn open(&mut self, mut about: About, around: &mut Around) {
        let id = about.id;
        if self.table.contains_key(&id) {
            return;
        }
        about.is_udp = true;
        // Nobody opens or closes it: it is none of the connections that are counted.
        about.established = false;
        around.bound(&about);
        let talk = Datagrams::new(about.role, around.options.raw);
        let bound = about.tuple;
        self.table.insert(id, Box::new(Socket { talk, about, bound }));
        self.met.push(id);
        let table = &self.table;
        let is_met = |held: &Held| table.get(&held.id).is_none_or(|socket| !around.is_to_be_met(held.id, &socket.bound, held.remote));
        for held in self.early.take(is_met) {
            emit(&mut self.table, &held, around);
        }
    }

    /// Another process uses the socket; false when there is no such socket.
    pub fn own(&mut self, id: ConnectionId, process: &Option<Arc<Process>>, around: &mut Around) -> bool {
        let Some(socket) = self.table.get_mut(&id) else { return false };
        socket.about.process.clone_from(process);
        socket.about.unsettle();
        around.named(&socket.about, &socket.bound);
        true
    }

    pub fn datagram(
        &mut self,
        header: &Header,
        direction: Direction,
        datagram: Datagram<'_>,
        around: &mut Around,
        wish: &mut dyn FnMut(ConnectionId, Wish),
    ) {
        let Some(socket) = self.table.get_mut(&header.connection) else {
            around.losses.add(Reason::ConnectionUnknown, 1);
            return;
        };
        let Socket { talk, about, bound } = &mut **socket;
        about.seen_ns = header.time_ns;
        let mut answers = Answers::default();
        let out = &mut ToMany { about, around, bound, early: Some(&mut self.early), answers: &mut answers };
        let outcome = talk.datagram(direction, datagram, out);
        answers.learn(talk.role(), bound.netns, &mut around.resolved, around.now_ns);
        // The kernel guesses it, the protocol knows it; nothing came out while it was a guess.
        about.role = talk.role();
        if let Some(wanted) = outcome.wish {
            wish(header.connection, wanted);
        }
    }

    /// About a second has passed.
    pub fn tick(&mut self, now_ns: u64, around: &mut Around) {
        for held in self.early.take(|held| held.is_due(now_ns)) {
            emit(&mut self.table, &held, around);
        }
        let Self { table, met, .. } = self;
        met.retain(|id| {
            let Some(socket) = table.get_mut(id) else { return false };
            let Socket { talk, about, bound } = &mut **socket;
            let forgotten = now_ns.saturating_sub(about.seen_ns) >= FORGOTTEN_NS;
            let out = &mut ToMany { about, around, bound, early: None, answers: &mut Answers::default() };
            if forgotten {
                talk.close(now_ns, out);
                around.unbound(*id, bound);
                table.remove(id);
            } else {
                talk.tick(now_ns, out);
            }
            !forgotten
        });
    }

    /// No more will come: who waits goes out as well known as it is.
    pub fn end(&mut self, around: &mut Around) {
        for held in self.early.take(|_| true) {
            emit(&mut self.table, &held, around);
        }
    }

    /// All that is known of each, and as it was met.
    pub fn abouts(&mut self) -> impl Iterator<Item = (&mut About, &Tuple)> {
        self.table.values_mut().map(|socket| (&mut socket.about, &socket.bound))
    }
}

/// An exchange that has waited goes out, as well known as it is now.
fn emit(table: &mut Table<ConnectionId, Box<Socket>>, held: &Held, around: &mut Around) {
    if let Some(Socket { about, bound, .. }) = table.get_mut(&held.id).map(|socket| &mut **socket) {
        held.with(|exchange| record(exchange, held.remote, about, bound, around));
    }
}

fn record(exchange: &Exchange<'_>, remote: Endpoint, about: &mut About, bound: &Tuple, around: &mut Around) {
    let local = Endpoint { address: around.local_address(bound, remote), ..bound.local };
    about.turn_to(Tuple { local, remote, netns: bound.netns });
    Out { about, around }.exchange(exchange);
}

/// Where a socket's exchanges go: each has its own other end.
struct ToMany<'a> {
    about: &'a mut About,
    around: &'a mut Around,
    bound: &'a Tuple,
    /// Where one waits for its sender to be met.
    early: Option<&'a mut Early>,
    answers: &'a mut Answers,
}

impl Sink for ToMany<'_> {
    fn exchange(&mut self, exchange: &Exchange<'_>) {
        self.exchange_with(exchange, None);
    }

    fn exchange_with(&mut self, exchange: &Exchange<'_>, remote: Option<Endpoint>) {
        let Self { about, around, bound, early, .. } = self;
        if around.hides(about) || (!around.options.frames && !around.shows(about.role)) {
            return;
        }
        let remote = remote.unwrap_or(NOBODY);
        if about.role == Role::Server
            && around.is_to_be_met(about.id, bound, remote)
            && let Some(early) = early
            && early.hold(about.id, remote, exchange)
        {
            return;
        }
        record(exchange, remote, about, bound, around);
    }

    fn wants_attributes(&self) -> bool {
        self.around.options.lines
    }

    fn capture(&mut self, _: Capture) {}

    fn resolved(&mut self, name: &str, address: IpAddr, ttl_s: u32) {
        self.answers.push(name, address, ttl_s);
    }

    fn lost(&mut self, loss: Loss) {
        let Self { about, around, .. } = self;
        Out { about, around }.lost(loss);
    }
}
