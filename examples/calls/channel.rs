//! A connected socket that sends and receives by the system calls of its way.

use std::{
    io::{IoSlice, IoSliceMut, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        sendfile::sendfile,
        socket::{self, ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, setsockopt, sockopt},
        uio::{readv, writev},
    },
    unistd,
};

use crate::ways::{Manner, Receive, Send, Way};

/// The most that is asked of one receiving call.
const CHUNK: usize = 16 << 10;

pub struct Channel {
    /// Taken away after the dup of [`Manner::Dup`].
    receiving: OwnedFd,
    sending: OwnedFd,
    way: Way,
    /// Received and not yet taken.
    buffer: Vec<u8>,
    /// Before the call that received the first byte of `buffer`.
    since: Instant,
    sent_calls: usize,
}

/// A message's head and when it came.
pub struct Head {
    pub text: String,
    /// Before the call that received its first byte.
    pub since: Instant,
}

impl Head {
    pub fn body_length(&self) -> Result<usize> {
        let line = self.text.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        line.map_or(Ok(0), |length| length.trim().parse().context("parse Content-Length"))
    }

    /// A word of the first line.
    pub fn word(&self, index: usize) -> Result<&str> {
        self.text.split([' ', '\r']).nth(index).with_context(|| format!("word {index} of {:?}", self.text))
    }
}

impl Channel {
    pub fn new(socket: OwnedFd, way: Way) -> Result<Self> {
        if way.manner == Manner::Partial {
            setsockopt(&socket, sockopt::SndBuf, &4096)?;
        } else {
            // Small writes are to leave as they are made.
            setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
        }
        if matches!(way.manner, Manner::Partial | Manner::Spin) {
            fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let sending = unistd::dup(&socket)?;
        let receiving = if way.manner == Manner::Dup {
            let other = unistd::dup(&socket)?;
            drop(socket);
            other
        } else {
            socket
        };
        Ok(Self { receiving, sending, way, buffer: Vec::new(), since: Instant::now(), sent_calls: 0 })
    }

    /// The two directions apart, for two threads.
    pub fn split(self) -> Result<(Self, Self)> {
        let other = Self {
            receiving: unistd::dup(&self.receiving)?,
            sending: unistd::dup(&self.sending)?,
            way: self.way,
            buffer: Vec::new(),
            since: self.since,
            sent_calls: 0,
        };
        Ok((self, other))
    }

    /// Sends a head and its body; returns the time after the first call.
    pub fn send(&mut self, head: &str, body: &[u8]) -> Result<Instant> {
        if matches!(self.way.send, Send::Sendfile | Send::Splice) {
            let first = self.send_bytes(head.as_bytes())?;
            self.send_file(body)?;
            return Ok(first);
        }
        if self.way.manner == Manner::Split {
            let mut first = None;
            let mut rest = head.as_bytes();
            for count in (1..8).cycle() {
                let (piece, behind) = rest.split_at(rest.len().min(count));
                let sent = self.send_bytes(piece)?;
                first.get_or_insert(sent);
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            if !body.is_empty() {
                self.send_bytes(body)?;
            }
            return Ok(first.unwrap_or_else(Instant::now));
        }
        self.send_bytes(&[head.as_bytes(), body].concat())
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<Instant> {
        let mut sent = 0;
        let mut first = None;
        while sent < bytes.len() {
            match self.send_once(&bytes[sent..]) {
                Ok(count) => {
                    sent += count;
                    first.get_or_insert_with(Instant::now);
                }
                Err(Errno::EAGAIN) => self.wait(&self.sending, PollFlags::POLLOUT)?,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).with_context(|| format!("{:?}", self.way.send)),
            }
        }
        Ok(first.unwrap_or_else(Instant::now))
    }

    /// One call; the count is what the kernel took.
    fn send_once(&mut self, bytes: &[u8]) -> nix::Result<usize> {
        self.sent_calls += 1;
        let fd = self.sending.as_raw_fd();
        let pieces = pieces(bytes.len(), self.buffers(self.sent_calls));
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(pieces.len());
        let mut rest = bytes;
        for length in pieces {
            let (piece, behind) = rest.split_at(length);
            slices.push(IoSlice::new(piece));
            rest = behind;
        }
        match self.way.send {
            Send::Write | Send::Sendfile | Send::Splice => unistd::write(&self.sending, bytes),
            Send::Writev => writev(&self.sending, &slices),
            Send::Sendto => socket::send(fd, bytes, MsgFlags::MSG_NOSIGNAL),
            Send::Sendmsg => socket::sendmsg::<SockaddrStorage>(fd, &slices, &[], MsgFlags::MSG_NOSIGNAL, None),
            Send::Sendmmsg => send_messages(fd, &slices),
        }
    }

    /// How many buffers a call has.
    fn buffers(&self, call: usize) -> usize {
        if self.way.manner == Manner::Iovecs { 3 + call % 18 } else { 2 }
    }

    /// A body from a file that has no name.
    fn send_file(&mut self, body: &[u8]) -> Result<()> {
        let mut file = tempfile::tempfile().context("make a file without a name")?;
        file.write_all(body)?;
        let mut offset = 0;
        if self.way.send == Send::Sendfile {
            while (offset as usize) < body.len() {
                let left = body.len() - offset as usize;
                if sendfile(&self.sending, &file, Some(&mut offset), left).context("sendfile")? == 0 {
                    bail!("sendfile sent nothing");
                }
            }
            return Ok(());
        }
        let (out, into) = unistd::pipe()?;
        while (offset as usize) < body.len() {
            let mut left = splice(&file, Some(&mut offset), &into, None, CHUNK, SpliceFFlags::empty()).context("splice into a pipe")?;
            while left > 0 {
                left -= splice(&out, None, &self.sending, None, left, SpliceFFlags::empty()).context("splice into a socket")?;
            }
        }
        Ok(())
    }

    /// A head up to and with its empty line; `None` at the end of the stream.
    pub fn head(&mut self) -> Result<Option<Head>> {
        if self.way.receive == Receive::Splice {
            return self.head_alone();
        }
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let text = String::from_utf8(self.buffer.drain(..end + 4).collect())?;
                return Ok(Some(Head { text, since: self.since }));
            }
            if self.receive()? == 0 {
                if !self.buffer.is_empty() {
                    bail!("the stream ended within a head: {:?}", String::from_utf8_lossy(&self.buffer));
                }
                return Ok(None);
            }
        }
    }

    /// Takes exactly a head from the socket, so that the body is left for splice(2).
    fn head_alone(&mut self) -> Result<Option<Head>> {
        let since = Instant::now();
        let fd = self.receiving.as_raw_fd();
        let mut chunk = [0; 4096];
        loop {
            let seen = socket::recv(fd, &mut chunk, MsgFlags::MSG_PEEK)?;
            if seen == 0 {
                return Ok(None);
            }
            if let Some(end) = chunk[..seen].windows(4).position(|window| window == b"\r\n\r\n") {
                let count = socket::recv(fd, &mut chunk[..end + 4], MsgFlags::empty())?;
                if count != end + 4 {
                    bail!("a peek showed {} bytes of which only {count} came", end + 4);
                }
                return Ok(Some(Head { text: String::from_utf8(chunk[..count].to_vec())?, since }));
            }
        }
    }

    /// Reads a body to its end.
    pub fn skip_body(&mut self, length: usize) -> Result<()> {
        if self.way.receive == Receive::Splice {
            let (out, into) = unistd::pipe()?;
            let nowhere = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
            let mut left = length;
            while left > 0 {
                let mut moved = splice(&self.receiving, None, &into, None, left, SpliceFFlags::empty()).context("splice from a socket")?;
                if moved == 0 {
                    bail!("the stream ended {left} bytes before a body's end");
                }
                left -= moved;
                while moved > 0 {
                    moved -= splice(&out, None, &nowhere, None, moved, SpliceFFlags::empty()).context("splice to /dev/null")?;
                }
            }
            return Ok(());
        }
        while self.buffer.len() < length {
            if self.receive()? == 0 {
                bail!("the stream ended {} bytes before a body's end", length - self.buffer.len());
            }
        }
        self.buffer.drain(..length);
        Ok(())
    }

    /// Adds what one successful call brings to the buffer; 0 at the end of the stream.
    fn receive(&mut self) -> Result<usize> {
        let since = Instant::now();
        let mut chunk = [0; CHUNK];
        let wanted = if self.way.manner == Manner::Short { 1 + self.buffer.len() % 13 } else { CHUNK };
        let count = loop {
            if self.way.manner == Manner::Peek {
                let mut peeked = [0; 100];
                socket::recv(self.receiving.as_raw_fd(), &mut peeked, MsgFlags::MSG_PEEK)?;
            }
            match self.receive_once(&mut chunk[..wanted]) {
                Ok(count) => break count,
                Err(Errno::EAGAIN) => self.wait(&self.receiving, PollFlags::POLLIN)?,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).with_context(|| format!("{:?}", self.way.receive)),
            }
        };
        // What is left over of an earlier call came earlier: `since` may be too early, never too late.
        if self.buffer.is_empty() {
            self.since = since;
        }
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count)
    }

    pub fn receive_once(&self, chunk: &mut [u8]) -> nix::Result<usize> {
        let fd = self.receiving.as_raw_fd();
        match self.way.receive {
            Receive::Read | Receive::Splice => unistd::read(&self.receiving, chunk),
            Receive::Recvfrom => socket::recv(fd, chunk, MsgFlags::empty()),
            Receive::Readv => readv(&self.receiving, &mut slices(chunk, self.buffers(chunk.len() / 7))),
            Receive::Recvmsg => {
                let mut slices = slices(chunk, self.buffers(5));
                Ok(socket::recvmsg::<SockaddrStorage>(fd, &mut slices, None, MsgFlags::empty())?.bytes)
            }
            Receive::Recvmmsg => receive_messages(fd, chunk),
        }
    }

    /// Blocking manners never come here; [`Manner::Spin`] tries again at once.
    fn wait(&self, fd: &OwnedFd, events: PollFlags) -> Result<()> {
        if self.way.manner != Manner::Spin {
            poll(&mut [PollFd::new(fd.as_fd(), events)], PollTimeout::NONE)?;
        }
        Ok(())
    }
}

/// Cuts a length into at most `count` parts of uneven size.
fn pieces(length: usize, count: usize) -> Vec<usize> {
    let mut parts = Vec::with_capacity(count);
    let mut left = length;
    for index in 0..count {
        let part = if index + 1 == count { left } else { left.min(1 + (index * 7) % 23) };
        if part == 0 {
            break;
        }
        parts.push(part);
        left -= part;
    }
    parts
}

fn slices(mut chunk: &mut [u8], count: usize) -> Vec<IoSliceMut<'_>> {
    let mut slices = Vec::new();
    for length in pieces(chunk.len(), count) {
        let (piece, rest) = chunk.split_at_mut(length);
        slices.push(IoSliceMut::new(piece));
        chunk = rest;
    }
    slices
}

/// As many messages as there are pairs of buffers, in one call.
fn send_messages(fd: RawFd, slices: &[IoSlice<'_>]) -> nix::Result<usize> {
    let groups: Vec<&[IoSlice<'_>]> = slices.chunks(2).collect();
    let mut headers: MultiHeaders<SockaddrStorage> = MultiHeaders::preallocate(groups.len(), None);
    let nowhere = vec![None; groups.len()];
    let no_control: [ControlMessage<'_>; 0] = [];
    let results = socket::sendmmsg(fd, &mut headers, &groups, nowhere, no_control, MsgFlags::MSG_NOSIGNAL)?;
    Ok(results.map(|result| result.bytes).sum())
}

/// Two messages at most, of which the first may block.
fn receive_messages(fd: RawFd, chunk: &mut [u8]) -> nix::Result<usize> {
    let (first, second) = chunk.split_at_mut(chunk.len() / 2);
    let first_length = first.len();
    let mut headers: MultiHeaders<SockaddrStorage> = MultiHeaders::preallocate(2, None);
    let mut groups = [slices(first, 3), slices(second, 4)];
    let flags = MsgFlags::MSG_WAITFORONE;
    let counts: Vec<usize> = socket::recvmmsg(fd, &mut headers, groups.iter_mut(), flags, None)?.map(|message| message.bytes).collect();
    let (one, two) = (counts.first().copied().unwrap_or(0), counts.get(1).copied().unwrap_or(0));
    chunk.copy_within(first_length..first_length + two, one);
    Ok(one + two)
}
