//! What was counted of a connection, and the exchange that it becomes.

use smallvec::SmallVec;

use super::{
    Upgraded,
    frame::{Head, Kind},
};
use crate::{
    model::{Exchange, Flags, Flow, Protocol, Value},
    protocols::Sink,
};

/// What one side sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    text: u64,
    binary: u64,
    pings: u64,
    pongs: u64,
    /// Frames that continue a message.
    continuations: u64,
    frames: u64,
    /// Bytes of messages, as sent (compressed or not), without frame heads and control frames.
    payload: u64,
    /// On the wire.
    pub bytes: u64,
    /// The kind of the message under way, when its begin was seen.
    message: Option<Kind>,
    /// Frames were missed: what was counted is not all.
    pub missed: bool,
}

impl Counts {
    /// A frame is whole.
    pub fn frame(&mut self, head: &Head) {
        self.frames += 1;
        match head.kind {
            Kind::Continuation => self.continuations += 1,
            Kind::Text | Kind::Binary => self.message = Some(head.kind),
            Kind::Ping => self.pings += 1,
            Kind::Pong => self.pongs += 1,
            Kind::Close => {}
        }
        if matches!(head.kind, Kind::Continuation | Kind::Text | Kind::Binary) {
            self.payload = self.payload.saturating_add(head.payload);
            if head.fin {
                match self.message.take() {
                    Some(Kind::Text) => self.text += 1,
                    Some(_) => self.binary += 1,
                    None => {}
                }
            }
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The side that closed first, and its code; `None`: it gave none.
    Closed(Flow, Option<u16>),
    /// Without a close frame.
    Cut,
    /// A close frame may have been missed.
    Unknown,
}

impl End {
    /// As RFC 6455 section 7.4.1 numbers them, with those that no frame carries: no code, and no close frame.
    fn code(self) -> Option<u16> {
        match self {
            End::Closed(_, code) => Some(code.unwrap_or(1005)),
            End::Cut => Some(1006),
            End::Unknown => None,
        }
    }
}

/// The ends that nobody minds: done, going away (a page that is left, a server that restarts), and no code given.
const HARMLESS: [u16; 3] = [1000, 1001, 1005];

const NAMES: [[&str; 7]; 2] = [
    [
        "websocket.client.text_messages",
        "websocket.client.binary_messages",
        "websocket.client.pings",
        "websocket.client.pongs",
        "websocket.client.continuation_frames",
        "websocket.client.frames",
        "websocket.client.payload_bytes",
    ],
    [
        "websocket.server.text_messages",
        "websocket.server.binary_messages",
        "websocket.server.pings",
        "websocket.server.pongs",
        "websocket.server.continuation_frames",
        "websocket.server.frames",
        "websocket.server.payload_bytes",
    ],
];

/// An exchange as this protocol fills it in.
pub struct Record<'a> {
    pub upgraded: &'a Upgraded,
    pub client: &'a Counts,
    pub server: &'a Counts,
    pub first_byte_ns: Option<u64>,
    pub end_ns: u64,
    pub end: End,
    /// Both sides said that they close.
    pub agreed: bool,
}

impl Record<'_> {
    pub fn write(&self, out: &mut dyn Sink) {
        let code = self.end.code();
        let digits = code.map(|code| [1000, 100, 10, 1].map(|place| b'0' + (code / place % 10) as u8));
        let status = digits.as_ref().and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default();
        let error = code.is_some_and(|code| !HARMLESS.contains(&code));
        let mut flags = self.upgraded.flags;
        if self.client.missed || self.server.missed {
            flags.insert(Flags::GAP | Flags::TRUNCATED);
        }
        if !self.agreed {
            flags.insert(Flags::UNANSWERED);
        }
        let mut attributes: SmallVec<[(&'static str, Value<'_>); 24]> = SmallVec::new();
        if out.wants_attributes() {
            let texts = [
                ("url.path", self.upgraded.path.as_str()),
                ("server.address", self.upgraded.host.as_str()),
                ("user_agent.original", self.upgraded.user_agent.as_str()),
                ("traceparent", self.upgraded.traceparent.as_str()),
                ("error.type", if error { status } else { "" }),
            ];
            attributes.extend(texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name, Value::Text(text))));
            attributes.extend(self.upgraded.port.map(|port| ("server.port", Value::Int(i64::from(port)))));
            attributes.extend(code.map(|code| ("websocket.close_code", Value::Int(i64::from(code)))));
            if let End::Closed(by, _) = self.end {
                attributes.push(("websocket.closed_by", Value::Text(if by == Flow::Request { "client" } else { "server" })));
            }
            for (counts, names) in [self.client, self.server].into_iter().zip(NAMES) {
                // What is known to be too little is not shown.
                if counts.missed {
                    continue;
                }
                let numbers = [counts.text, counts.binary, counts.pings, counts.pongs, counts.continuations, counts.frames, counts.payload];
                let int = |number: u64| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
                attributes
                    .extend(names.into_iter().zip(numbers).filter(|(_, number)| *number > 0).map(|(name, number)| (name, int(number))));
            }
        }
        out.exchange(&Exchange {
            protocol: Protocol::Websocket,
            start_ns: self.upgraded.start_ns,
            first_byte_ns: self.first_byte_ns,
            end_ns: self.end_ns.max(self.upgraded.start_ns),
            operation: "websocket",
            resource: &self.upgraded.path,
            status,
            error,
            request_bytes: self.client.bytes,
            response_bytes: self.server.bytes,
            flags,
            attributes: &attributes,
        });
    }
}
