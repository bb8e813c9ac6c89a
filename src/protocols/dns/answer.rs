//! What an answer says: its code, the addresses of the name that was asked for, and a short list of where its records lead.

use std::{fmt::Write, net::IpAddr};

use super::message::{self, A, AAAA, CNAME, Head, INTERNET, OPT, QUESTION, Question, Records};
use crate::protocols::Sink;

/// Answer records looked at for addresses and the list.
const RECORDS_MAX: usize = 64;
/// Aliases followed from the name that was asked for.
const ALIASES_MAX: usize = 8;
/// Entries of the list, and its bytes.
const LIST_MAX: usize = 16;
const LIST_BYTES: usize = 512;

/// The parts of an answer's message.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub message: &'a [u8],
    pub head: Head,
    /// Behind the questions.
    pub records: usize,
    /// With the upper bits that the OPT record has (RFC 6891 section 6.1.3).
    pub rcode: u16,
    /// Its records were not captured to the last.
    pub cut: bool,
}

impl<'a> Answer<'a> {
    /// `None` when its questions cannot be read.
    pub fn read(message: &'a [u8], head: Head, length: usize) -> Option<Self> {
        let mut records = QUESTION;
        for _ in 0..head.questions {
            records = Question::read(message, records).ok()?.1;
        }
        let (answers, others) = (usize::from(head.answers) + usize::from(head.authorities), head.records());
        let mut all = Records::new(message, records, others);
        let mut rcode = head.rcode();
        for (index, record) in all.by_ref().enumerate() {
            if record.kind == OPT && index >= answers {
                rcode = head.rcode() | (record.ttl >> 24 << 4) as u16;
            }
        }
        Some(Self { message, head, records, rcode, cut: all.fault.is_some() || message.len() < length })
    }

    pub fn answers(&self) -> Records<'a> {
        Records::new(self.message, self.records, self.head.answers.into())
    }

    /// Tells the addresses of the name that was asked for, aliases followed.
    pub fn resolve(&self, name: &str, question: Question, out: &mut dyn Sink) {
        if self.rcode != 0 || self.head.questions == 0 || question.class != INTERNET || !matches!(question.kind, A | AAAA | message::ANY) {
            return;
        }
        let same = |left, right| message::same_name(self.message, left, right) == Ok(true);
        let (mut owner, mut ttl) = (QUESTION, u32::MAX);
        for _ in 0..ALIASES_MAX {
            let alias = self.answers().take(RECORDS_MAX).find(|record| record.kind == CNAME && same(owner, record.owner));
            let Some(alias) = alias else { break };
            owner = alias.data;
            ttl = ttl.min(seconds(alias.ttl));
        }
        for record in self.answers().take(RECORDS_MAX) {
            if let Some(address) = record.address(self.message).filter(|_| record.class == INTERNET && same(owner, record.owner)) {
                out.resolved(name, address, ttl.min(seconds(record.ttl)));
            }
        }
    }

    /// Writes the addresses and names that the answer's records lead to. Texts, keys and all other data stay where they are.
    pub fn list(&self, text: &mut String) {
        text.clear();
        for record in self.answers().take(RECORDS_MAX).filter(|record| record.target().is_some() || is_address(record.kind)).take(LIST_MAX)
        {
            let length = text.len();
            if length > 0 {
                text.push(',');
            }
            // Writing into a string cannot fail.
            let written = match (record.address(self.message), record.target()) {
                (Some(IpAddr::V4(address)), _) => write!(text, "{address}").is_ok(),
                (Some(IpAddr::V6(address)), _) => write!(text, "{address}").is_ok(),
                (None, Some(target)) if target < record.end => message::write_name(self.message, target, text).is_ok(),
                _ => false,
            };
            if let Some(port) = record.port(self.message) {
                let _ = write!(text, ":{port}");
            }
            if !written || text.len() > LIST_BYTES {
                text.truncate(length);
                return;
            }
        }
    }
}

fn is_address(kind: u16) -> bool {
    matches!(kind, A | AAAA)
}

/// RFC 2181 section 8: a TTL with the highest bit set is none.
fn seconds(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}
