//! One question at a time to the kernel over a netlink socket (linux/netlink.h, RFC 3549), and the attributes of its answers.
//! Knows nothing of what is asked. Every length is the kernel's word and is checked before it is used.

use std::{
    fmt,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::Context;
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

/// `struct nlmsghdr`: length, kind, flags, sequence number, port.
const HEADER_LEN: usize = 16;
/// `struct nlattr`: length, kind.
const ATTRIBUTE_HEADER_LEN: usize = 4;

pub const NLM_F_REQUEST: u16 = 0x1;
pub const NLM_F_DUMP: u16 = 0x300;
const NLM_F_MULTI: u16 = 0x2;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const NLA_F_NESTED: u16 = 1 << 15;
/// Without the flags "nested" and "in the network's byte order".
const NLA_TYPE_MASK: u16 = 0x3fff;

/// The kernel gives no more than this at once: `NLMSG_GOODSIZE`, or 32 KiB to who reads with so much room.
const ANSWER_BYTES_MAX: usize = 32 << 10;
/// Reads for one question: a dump of 100,000 addresses takes some 300.
const READS_MAX: usize = 512;
/// The kernel answers before `send` returns; whoever waits all the same waits no longer than this.
const PATIENCE_MS: i64 = 2;

/// A socket to one of the kernel's netlink services, in the network namespace that it was opened in.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Netlink {
    /// # Errors
    /// The kernel does not have the service.
    pub fn open(protocol: SockProtocol) -> anyhow::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .with_context(|| format!("opening a netlink socket ({protocol:?})"))?;
        // To the kernel: from then on nobody else is heard.
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).context("connecting a netlink socket to the kernel")?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(PATIENCE_MS)).context("setting a netlink socket's patience")?;
        Ok(Self { socket, sequence: 0, request: Vec::new(), answer: vec![0; ANSWER_BYTES_MAX] })
    }

    /// Asks, and gives every message of the answer to `take`: its kind and what is behind its header.
    ///
    /// # Errors
    /// The kernel's own refusal; EAGAIN if it is silent, EBADMSG for what is no netlink message, ENOBUFS if something of the answer is
    /// lost.
    pub fn ask(&mut self, kind: u16, flags: u16, body: &[u8], mut take: impl FnMut(u16, &[u8])) -> Result<(), Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        self.request.clear();
        let length = u32::try_from(HEADER_LEN + body.len()).map_err(|_| Errno::EMSGSIZE)?;
        self.request.extend_from_slice(&length.to_ne_bytes());
        self.request.extend_from_slice(&kind.to_ne_bytes());
        self.request.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        self.request.extend_from_slice(&self.sequence.to_ne_bytes());
        self.request.extend_from_slice(&0_u32.to_ne_bytes());
        self.request.extend_from_slice(body);
        let socket = self.socket.as_raw_fd();
        while let Err(error) = send(socket, &self.request, MsgFlags::empty()) {
            if error != Errno::EINTR {
                return Err(error);
            }
        }
        for _ in 0..READS_MAX {
            let length = match recv(socket, &mut self.answer, MsgFlags::MSG_TRUNC) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error),
            };
            let answer = self.answer.get(..length).ok_or(Errno::ENOBUFS)?;
            if let Some(outcome) = messages(answer, self.sequence, flags & NLM_F_DUMP != 0, &mut take) {
                return outcome;
            }
        }
        Err(Errno::EAGAIN)
    }
}

/// Without the buffers.
impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netlink").field("socket", &self.socket).field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// Goes through the messages of one read; `None` if more are to come, as only a dump has them: the connection tracking marks its single
/// answers as parts of one, too. Messages of another number are late answers to an older question.
fn messages(mut rest: &[u8], sequence: u32, is_dump: bool, take: &mut impl FnMut(u16, &[u8])) -> Option<Result<(), Errno>> {
    while !rest.is_empty() {
        let Some((length, kind, flags, number)) = header(rest) else { return Some(Err(Errno::EBADMSG)) };
        let Some(body) = rest.get(HEADER_LEN..length) else { return Some(Err(Errno::EBADMSG)) };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        if number != sequence {
            continue;
        }
        match kind {
            NLMSG_ERROR => {
                let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return Some(if code == 0 { Ok(()) } else { Err(Errno::from_raw(code.wrapping_neg())) });
            }
            NLMSG_DONE => return Some(Ok(())),
            _ => take(kind, body),
        }
        if !is_dump || flags & NLM_F_MULTI == 0 {
            return Some(Ok(()));
        }
    }
    None
}

/// Length, kind, flags and sequence number.
fn header(bytes: &[u8]) -> Option<(usize, u16, u16, u32)> {
    let header: &[u8; HEADER_LEN] = bytes.first_chunk()?;
    let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
    let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
    Some((length, u16::from_ne_bytes([k0, k1]), u16::from_ne_bytes([f0, f1]), u32::from_ne_bytes([s0, s1, s2, s3])))
}

/// The attributes in `bytes`, as (kind, value); they end where one does not fit.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *bytes.first_chunk::<ATTRIBUTE_HEADER_LEN>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(ATTRIBUTE_HEADER_LEN..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK, value))
    })
}

/// The value of the attribute of this kind.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Appends an attribute, filled up to a multiple of four bytes. A value is at most some 100 bytes.
pub fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let begin = out.len();
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    close(out, begin);
}

/// The same for one that has attributes for its value.
pub fn put_nested(out: &mut Vec<u8>, kind: u16, value: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
    value(out);
    close(out, begin);
}

fn close(out: &mut Vec<u8>, begin: usize) {
    let length = (out.len() - begin) as u16;
    out[begin..begin + 2].copy_from_slice(&length.to_ne_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    type Taken = Vec<(u16, Vec<u8>)>;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let length = (HEADER_LEN + body.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
        bytes.extend([sequence.to_ne_bytes(), [0; 4]].concat());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn heard(bytes: &[u8]) -> (Taken, Option<Result<(), Errno>>) {
        let mut taken = Vec::new();
        let outcome = messages(bytes, 7, true, &mut |kind, body: &[u8]| taken.push((kind, body.to_vec())));
        (taken, outcome)
    }

    #[test]
    fn an_answer_of_many_parts_ends_with_its_end() {
        let parts = [message(20, NLM_F_MULTI, 7, b"one"), message(20, NLM_F_MULTI, 7, b"two")].concat();
        assert_eq!(heard(&parts), (vec![(20, b"one".to_vec()), (20, b"two".to_vec())], None));
        assert_eq!(heard(&message(NLMSG_DONE, NLM_F_MULTI, 7, &[0; 4])), (vec![], Some(Ok(()))));
        assert_eq!(heard(&message(20, 0, 7, b"all")), (vec![(20, b"all".to_vec())], Some(Ok(()))));
    }

    #[test]
    fn a_look_up_has_one_answer_whatever_it_says_of_itself() {
        let mut count = 0;
        assert_eq!(messages(&message(256, NLM_F_MULTI, 7, b"all"), 7, false, &mut |_, _: &[u8]| count += 1), Some(Ok(())));
        assert_eq!(count, 1);
    }

    #[test]
    fn a_late_answer_to_another_question_is_passed_over() {
        assert_eq!(heard(&message(20, 0, 6, b"old")), (vec![], None));
        let refused = message(NLMSG_ERROR, 0, 7, &(-2_i32).to_ne_bytes());
        assert_eq!(heard(&[message(NLMSG_ERROR, 0, 6, &(-1_i32).to_ne_bytes()), refused].concat()), (vec![], Some(Err(Errno::ENOENT))));
    }

    #[test]
    fn what_does_not_fit_is_no_message() {
        let whole = message(20, 0, 7, b"four");
        for cut in 1..whole.len() {
            assert_eq!(heard(&whole[..cut]), (vec![], Some(Err(Errno::EBADMSG))), "{cut}");
        }
        // A length that would stand still.
        assert_eq!(heard(&[0; 32]), (vec![], Some(Err(Errno::EBADMSG))));
        assert_eq!(heard(&message(NLMSG_ERROR, 0, 7, &i32::MIN.to_ne_bytes())).1, Some(Err(Errno::UnknownErrno)));
    }

    #[test]
    fn attributes_are_read_as_they_were_put_and_end_where_one_does_not_fit() {
        let mut bytes = Vec::new();
        put(&mut bytes, 1, b"a");
        put_nested(&mut bytes, 2, |out| put(out, 3, b"inner"));
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(attributes(&bytes).map(|(kind, value)| (kind, value.len())).collect::<Vec<_>>(), [(1, 1), (2, 12)]);
        assert_eq!(attribute(attribute(&bytes, 2).unwrap(), 3), Some(b"inner".as_slice()));
        assert_eq!(attribute(&bytes, 3), None);
        for cut in 0..bytes.len() {
            assert!(attributes(&bytes[..cut]).count() <= 1, "{cut}");
        }
        assert_eq!(attributes(&[0; 8]).count(), 0, "a length that would stand still");
    }
}
