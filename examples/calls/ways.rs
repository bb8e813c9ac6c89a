//! The ways to move bytes, in the order in which client and server go through them.

/// A system call that sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Send {
    Write,
    Writev,
    Sendto,
    Sendmsg,
    Sendmmsg,
    /// Bodies by sendfile(2), heads by write(2).
    Sendfile,
    /// Bodies by splice(2), heads by write(2).
    Splice,
}

/// A system call that receives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Receive {
    Read,
    Readv,
    Recvfrom,
    Recvmsg,
    Recvmmsg,
    /// Bodies by splice(2) into a pipe, heads by recvfrom(2) after a peek.
    Splice,
}

/// What is awkward about a way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Manner {
    Plain,
    /// Heads go out a few bytes a call.
    Split,
    /// 3 to 20 buffers a call.
    Iovecs,
    /// All requests in one call, all answers before the first is read.
    Pipelined,
    /// Large bodies through a tiny send buffer of a non-blocking socket.
    Partial,
    /// A few bytes a receiving call.
    Short,
    /// Each receiving call after one with MSG_PEEK.
    Peek,
    /// Non-blocking, tried again at once.
    Spin,
    /// Sends on a duplicate of the descriptor, the original of which is closed meanwhile.
    Dup,
    /// The server passes the descriptor to another process.
    Passed,
    /// One thread reads while another writes, on both sides.
    Threads,
    /// The server forks after accept.
    Forked,
}

#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub name: &'static str,
    pub send: Send,
    pub receive: Receive,
    pub manner: Manner,
    pub requests: u64,
}

const fn way(name: &'static str, send: Send, receive: Receive, manner: Manner, requests: u64) -> Way {
    Way { name, send, receive, manner, requests }
}

pub const WAYS: &[Way] = &[
    way("write-read", Send::Write, Receive::Read, Manner::Plain, 20),
    way("writev-readv", Send::Writev, Receive::Readv, Manner::Plain, 20),
    way("sendto-recvfrom", Send::Sendto, Receive::Recvfrom, Manner::Plain, 20),
    way("sendmsg-recvmsg", Send::Sendmsg, Receive::Recvmsg, Manner::Plain, 20),
    way("sendmmsg-recvmmsg", Send::Sendmmsg, Receive::Recvmmsg, Manner::Plain, 20),
    way("sendfile-read", Send::Sendfile, Receive::Read, Manner::Plain, 20),
    way("splice-recvfrom", Send::Splice, Receive::Recvfrom, Manner::Plain, 20),
    way("write-splice", Send::Write, Receive::Splice, Manner::Plain, 20),
    way("sendfile-splice", Send::Sendfile, Receive::Splice, Manner::Plain, 20),
    way("split-write", Send::Write, Receive::Read, Manner::Split, 10),
    way("split-sendto", Send::Sendto, Receive::Recvfrom, Manner::Split, 10),
    way("iovecs-writev", Send::Writev, Receive::Readv, Manner::Iovecs, 20),
    way("iovecs-sendmsg", Send::Sendmsg, Receive::Recvmsg, Manner::Iovecs, 20),
    way("iovecs-sendmmsg", Send::Sendmmsg, Receive::Recvmmsg, Manner::Iovecs, 20),
    way("pipelined-write", Send::Write, Receive::Read, Manner::Pipelined, 50),
    way("pipelined-writev", Send::Writev, Receive::Readv, Manner::Pipelined, 50),
    way("pipelined-sendmsg", Send::Sendmsg, Receive::Recvmsg, Manner::Pipelined, 50),
    way("partial-write", Send::Write, Receive::Read, Manner::Partial, 5),
    way("partial-writev", Send::Writev, Receive::Recvfrom, Manner::Partial, 5),
    way("partial-sendmsg", Send::Sendmsg, Receive::Recvmsg, Manner::Partial, 5),
    way("short-read", Send::Write, Receive::Read, Manner::Short, 10),
    way("short-recvmsg", Send::Sendto, Receive::Recvmsg, Manner::Short, 10),
    way("peek-recvfrom", Send::Sendto, Receive::Recvfrom, Manner::Peek, 20),
    way("peek-recvmsg", Send::Sendmsg, Receive::Recvmsg, Manner::Peek, 20),
    way("spin-read", Send::Write, Receive::Read, Manner::Spin, 10),
    way("spin-recvfrom", Send::Sendto, Receive::Recvfrom, Manner::Spin, 10),
    way("dup", Send::Write, Receive::Read, Manner::Dup, 20),
    way("passed", Send::Write, Receive::Read, Manner::Passed, 20),
    way("threads", Send::Write, Receive::Read, Manner::Threads, 50),
    way("threads-sendto", Send::Sendto, Receive::Recvfrom, Manner::Threads, 50),
    way("forked", Send::Write, Receive::Read, Manner::Forked, 20),
];

impl Way {
    pub fn path(&self, family: &str, number: u64) -> String {
        format!("/call/{}/{family}/{number}", self.name)
    }

    /// Bytes of a request's body: only where the way is about bodies.
    pub fn request_body(&self, number: u64) -> usize {
        match (self.send, self.receive, self.manner) {
            (Send::Sendfile | Send::Splice, ..) | (_, Receive::Splice, _) => 10_000 + 1_000 * number as usize,
            (.., Manner::Iovecs) => 37 * number as usize + 1,
            _ => 0,
        }
    }

    pub fn response_body(&self, number: u64) -> usize {
        match (self.send, self.receive, self.manner) {
            (.., Manner::Partial) => 300_000 + number as usize,
            (Send::Sendfile | Send::Splice, ..) | (_, Receive::Splice, _) => 50_000 + number as usize,
            _ => (number as usize * 311) % 1500,
        }
    }
}

/// What the server answers, known to both sides and to the test.
pub fn status_of(number: u64) -> u16 {
    match number {
        number if number % 7 == 3 => 404,
        number if number % 11 == 5 => 503,
        _ => 200,
    }
}

/// How long the server thinks before it answers.
pub fn delay_ms(way: &Way, number: u64) -> u64 {
    // Of 50 in a pipe each waits for those before it; a few are enough.
    match way.manner {
        Manner::Pipelined | Manner::Threads => 5 * u64::from(number % 16 == 7),
        _ => 10 * u64::from(number % 8 == 2),
    }
}

/// A body that looks like anything but a body to whoever loses its place.
pub fn body(length: usize) -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nGET /decoy HTTP/1.1\r\nHost: decoy\r\n\r\n".iter().copied().cycle().take(length).collect()
}
