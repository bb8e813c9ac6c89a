//! Is this DNS? Header, whole question and every record must be possible, and the message must end where its last record does.

use super::{
    message::{self, Fault, HEADER, Head, NIMLOC, NOTIFY, OPT, QUERY, QUESTION, Question, Records, SRV, UPDATE},
    names,
};
use crate::{model::Flow, protocols::Likeness};

/// The shortest record: an owner of one byte, and no data.
const RECORD_MIN: usize = 11;
/// Records behind a query's question: OPT, TSIG, SIG(0).
const ADDITIONALS_MAX: u16 = 4;
/// Nothing is cut by the capture limit below this.
const CUT_MIN: usize = 512;
/// What a record can be judged by lies in the first so many of a message.
const RECORDS_JUDGED: usize = 64;

/// A datagram is a message. A stub's or resolver's plain query is taken for what it is at once: its answer may never come.
pub fn datagram(flow: Flow, bytes: &[u8]) -> Likeness {
    match judge(flow, bytes, bytes.len()) {
        Ok(true) => Likeness::Certain,
        Ok(false) => Likeness::Likely,
        // Cut by the capture limit: what is there is right.
        Err(Fault::Cut) if flow == Flow::Response && bytes.len() >= CUT_MIN && answered(bytes) => Likeness::Likely,
        Err(_) => Likeness::No,
    }
}

/// In a stream a message follows its length (RFC 7766 section 8).
pub fn stream(flow: Flow, bytes: &[u8]) -> Likeness {
    let Some((prefix, rest)) = bytes.split_first_chunk::<2>() else { return Likeness::Undecided };
    let length = usize::from(u16::from_be_bytes(*prefix));
    if length < HEADER {
        return Likeness::No;
    }
    let message = rest.get(..length).unwrap_or(rest);
    if Head::bits_of(message).is_some_and(|head| !possible_bits(flow, &head)) {
        return Likeness::No;
    }
    match judge(flow, message, length) {
        Ok(_) => Likeness::Likely,
        Err(Fault::Bad) => Likeness::No,
        // A long answer need not be waited for, a query is short.
        Err(Fault::Cut) if flow == Flow::Response && answered(message) => Likeness::Likely,
        Err(Fault::Cut) if message.len() < length => Likeness::Undecided,
        Err(Fault::Cut) => Likeness::No,
    }
}

/// The question of an answer is whole.
fn answered(message: &[u8]) -> bool {
    Question::read(message, QUESTION).is_ok()
}

/// `Ok`: a whole and possible message of `length` bytes; true when it is unmistakable. `Cut`: possible as far as it goes.
fn judge(flow: Flow, message: &[u8], length: usize) -> Result<bool, Fault> {
    let head = Head::read(message)?;
    if !possible(flow, &head) || HEADER + 5 * usize::from(head.questions) + RECORD_MIN * head.records() > length {
        return Err(Fault::Bad);
    }
    if head.questions == 0 {
        return if length == HEADER { Ok(false) } else { Err(Fault::Bad) };
    }
    let (question, behind) = Question::read(message, QUESTION)?;
    if !message::is_asked_class(question.class) || question.kind == 0 || !message::is_name(message, QUESTION) || netbios(message, &question)
    {
        return Err(Fault::Bad);
    }
    let mut records = Records::new(message, behind, head.records());
    let mut extended = false;
    for (index, record) in records.by_ref().enumerate() {
        extended |= record.kind == OPT;
        let possible = record.kind == OPT || (record.kind != 0 && message::is_asked_class(record.class));
        if index < RECORDS_JUDGED && !(possible && message::is_name(message, record.owner)) {
            return Err(Fault::Bad);
        }
    }
    match records.fault {
        Some(fault) => return Err(fault),
        None if records.position() != length => return Err(Fault::Bad),
        None => {}
    }
    // Multicast DNS (RFC 6762 section 18.1) asks with the number 0, LLMNR (RFC 4795 section 2.1.1) without the wish for recursion, and
    // neither with EDNS: both could be meant for anybody, and need an answer before they are believed.
    let plain_query = flow == Flow::Request && head.opcode() == QUERY && question.class == message::INTERNET;
    let known = names::known_kind(question.kind).is_some();
    Ok(plain_query && known && head.id != 0 && (head.recursion_desired() || extended))
}

fn possible_bits(flow: Flow, head: &Head) -> bool {
    head.is_response() == (flow == Flow::Response)
        && !head.reserved()
        && matches!(head.opcode(), QUERY | NOTIFY | UPDATE)
        && (head.is_response() || (head.rcode() == 0 && !head.truncated() && !head.recursion_available()))
}

fn possible(flow: Flow, head: &Head) -> bool {
    let update = head.opcode() == UPDATE;
    // A server may answer an update with the header alone (RFC 2136 section 3.8).
    let questions = head.questions == 1 || (head.questions == 0 && update && head.is_response());
    let notified = head.opcode() == NOTIFY && head.answers == 1;
    let asked = head.additionals <= ADDITIONALS_MAX && head.authorities <= 1 && (head.answers == 0 || notified);
    possible_bits(flow, head) && questions && (head.is_response() || update || asked)
}

/// NetBIOS names (RFC 1002 section 4.2): a first label of 32 letters A to P, and types that DNS uses for others.
fn netbios(message: &[u8], question: &Question) -> bool {
    let label = message.get(QUESTION + 1..QUESTION + 33).unwrap_or_default();
    matches!(question.kind, NIMLOC | SRV)
        && message.get(QUESTION) == Some(&32)
        && label.len() == 32
        && label.iter().all(|letter| (b'A'..=b'P').contains(letter))
}
