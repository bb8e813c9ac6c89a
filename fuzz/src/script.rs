//! Input bytes → a conversation with everything that can happen to one.
//!
//! The first byte is [`Options`]; then payload as it is, in which [`ESCAPE`] begins an instruction. There are no lengths in front of
//! anything: a byte put in or taken out changes one call, and leaves the rest as it was.

use remora::model::{Flow, Protocols};

/// Rare in every protocol, and never in UTF-8.
pub const ESCAPE: u8 = 0xf7;
/// A script that grows its input beyond this is cut.
const BYTES_MAX: usize = 96 << 10;
/// So many of its bytes can be calls of their own: enough for work that grows with the square of a message's length to show.
const BYTEWISE_MAX: usize = 8 << 10;

/// Which connection it is that is spoken on.
#[derive(Clone, Copy, Debug)]
pub struct Options(u8);

impl Options {
    pub fn adopted(self) -> bool {
        self.0 & 1 != 0
    }

    pub fn raw(self) -> Protocols {
        if self.0 & 2 != 0 { Protocols::ALL } else { Protocols::NONE }
    }

    pub fn wants_attributes(self) -> bool {
        self.0 & 4 == 0
    }

    /// Where a protocol has both: as datagrams.
    pub fn datagrams(self) -> bool {
        self.0 & 8 != 0
    }

    /// 0 to 3.
    pub fn role(self) -> u8 {
        self.0 >> 4 & 3
    }
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A call with the bytes `begin..end` of [`Script::bytes`]; `unseen` more were not captured, `again` were seen before.
    Call { flow: Flow, begin: usize, end: usize, unseen: u64, again: u64 },
    /// A call of which nothing is known.
    Lost { flow: Flow, size: u64 },
    /// A second passes.
    Second,
}

#[derive(Debug)]
pub struct Script {
    pub options: Options,
    pub bytes: Vec<u8>,
    pub steps: Vec<Step>,
}

impl Script {
    pub fn read(input: &[u8]) -> Self {
        let mut input = input.iter().copied();
        let options = Options(input.next().unwrap_or_default());
        let mut script = Writer { flow: Flow::Request, ..Writer::default() };
        while script.bytes.len() < BYTES_MAX {
            let Some(byte) = input.next() else { break };
            if byte != ESCAPE {
                script.bytes.push(byte);
                continue;
            }
            let Some(instruction) = input.next() else { break };
            let mut number = || usize::from(input.next().unwrap_or_default());
            match instruction {
                ESCAPE => script.bytes.push(ESCAPE),
                b'>' => script.turn(Flow::Request),
                b'<' => script.turn(Flow::Response),
                b'|' => script.turn(script.flow),
                b'@' => {
                    script.turn(script.flow);
                    script.bytewise = !script.bytewise;
                }
                b'.' => {
                    script.turn(script.flow);
                    script.steps.push(Step::Second);
                }
                b'!' => {
                    let size = 1 + number().pow(2) as u64;
                    script.turn(script.flow);
                    script.steps.push(Step::Lost { flow: script.flow, size });
                }
                b'+' => script.unseen = number().pow(3) as u64,
                b'-' => script.again = number() as u64,
                b'*' => {
                    let part = script.bytes[script.begin..].to_vec();
                    let times = number().min((BYTES_MAX - script.bytes.len()) / part.len().max(1));
                    (0..times).for_each(|_| script.bytes.extend_from_slice(&part));
                }
                b'~' => {
                    let (length, filling) = (64 * number(), number() as u8);
                    script.bytes.resize(script.bytes.len() + length.min(BYTES_MAX - script.bytes.len()), filling);
                }
                _ => {}
            }
        }
        script.turn(Flow::Request);
        Self { options, bytes: script.bytes, steps: script.steps }
    }

    /// The script of a recorded conversation.
    #[allow(dead_code, reason = "seeds are written elsewhere than they are read")]
    pub fn write(calls: &[(Flow, Vec<u8>)], options: u8) -> Vec<u8> {
        let mut script = vec![options];
        for (flow, bytes) in calls {
            script.extend_from_slice(if *flow == Flow::Request { &[ESCAPE, b'>'] } else { &[ESCAPE, b'<'] });
            for byte in bytes {
                script.push(*byte);
                if *byte == ESCAPE {
                    script.push(ESCAPE);
                }
            }
        }
        script
    }
}

struct Writer {
    bytes: Vec<u8>,
    steps: Vec<Step>,
    /// Of the call that is being written.
    flow: Flow,
    begin: usize,
    unseen: u64,
    again: u64,
    bytewise: bool,
    /// Bytes that were calls of their own.
    single: usize,
}

impl Default for Writer {
    fn default() -> Self {
        Self { bytes: Vec::new(), steps: Vec::new(), flow: Flow::Request, begin: 0, unseen: 0, again: 0, bytewise: false, single: 0 }
    }
}

impl Writer {
    /// Ends the call; the next one is of `flow`.
    fn turn(&mut self, flow: Flow) {
        let (begin, end) = (self.begin, self.bytes.len());
        let (unseen, again) = (std::mem::take(&mut self.unseen), std::mem::take(&mut self.again));
        if begin < end {
            let last = if self.bytewise { (end - 1).min(begin + BYTEWISE_MAX.saturating_sub(self.single)) } else { begin };
            self.single += last - begin;
            for at in begin..last {
                self.steps.push(Step::Call { flow: self.flow, begin: at, end: at + 1, unseen: 0, again: 0 });
            }
            self.steps.push(Step::Call { flow: self.flow, begin: last, end, unseen, again });
        } else if unseen > 0 {
            self.steps.push(Step::Lost { flow: self.flow, size: unseen });
        }
        self.begin = end;
        self.flow = flow;
    }
}
