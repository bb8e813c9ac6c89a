//! The methods of AMQP 0-9-1 (its XML definition and RabbitMQ's additions): who sends them, what they are called, and how to read their
//! arguments. Tables, secrets and texts for people are passed over, never kept.

use crate::{model::Flow, protocols::reader::Reader};

/// Class and method number, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(pub u16, pub u16);

impl Id {
    pub const START_OK: Id = Id(10, 11);
    pub const TUNE: Id = Id(10, 30);
    pub const OPEN: Id = Id(10, 40);
    pub const CLOSE: Id = Id(10, 50);
    pub const CLOSE_OK: Id = Id(10, 51);
    pub const BLOCKED: Id = Id(10, 60);
    pub const UNBLOCKED: Id = Id(10, 61);
    pub const UPDATE_SECRET: Id = Id(10, 70);
    pub const CHANNEL_OPEN: Id = Id(20, 10);
    pub const CHANNEL_FLOW: Id = Id(20, 20);
    pub const CHANNEL_FLOW_OK: Id = Id(20, 21);
    pub const CHANNEL_CLOSE: Id = Id(20, 40);
    pub const CHANNEL_CLOSE_OK: Id = Id(20, 41);
    pub const EXCHANGE_BIND: Id = Id(40, 30);
    pub const EXCHANGE_UNBIND: Id = Id(40, 40);
    pub const EXCHANGE_UNBIND_OK: Id = Id(40, 51);
    pub const QUEUE_DECLARE: Id = Id(50, 10);
    pub const QUEUE_DECLARE_OK: Id = Id(50, 11);
    pub const QUEUE_BIND: Id = Id(50, 20);
    pub const QUEUE_UNBIND: Id = Id(50, 50);
    pub const CONSUME: Id = Id(60, 20);
    pub const CONSUME_OK: Id = Id(60, 21);
    pub const CANCEL: Id = Id(60, 30);
    pub const CANCEL_OK: Id = Id(60, 31);
    pub const PUBLISH: Id = Id(60, 40);
    pub const RETURN: Id = Id(60, 50);
    pub const DELIVER: Id = Id(60, 60);
    pub const GET: Id = Id(60, 70);
    pub const GET_OK: Id = Id(60, 71);
    pub const GET_EMPTY: Id = Id(60, 72);
    pub const ACK: Id = Id(60, 80);
    pub const REJECT: Id = Id(60, 90);
    pub const RECOVER_ASYNC: Id = Id(60, 100);
    pub const RECOVER_OK: Id = Id(60, 111);
    pub const NACK: Id = Id(60, 120);
    pub const CONFIRM_SELECT: Id = Id(85, 10);
}

/// The class of contents: its number stands in their headers.
pub const BASIC: u16 = 60;

/// Who sends a method, and whether it wants an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// The client asks, the server answers.
    Ask,
    /// The server answers.
    Answer,
    /// The client only tells.
    ClientTells,
    /// The server only tells, or asks something that is no exchange.
    ServerTells,
    /// Either side.
    Both,
}

/// What is known of a method before it is read.
#[derive(Debug, PartialEq, Eq)]
pub struct Spec {
    pub id: Id,
    pub name: &'static str,
    pub sort: Sort,
    /// One letter an argument: `o`ctet, `w`ord (2 bytes), `l`ong (4), `q`uad (8), short `s`tring, long `S`tring, `b`its, `T`able.
    format: &'static str,
    /// The bit that says that no answer is wanted.
    no_wait: u8,
}

macro_rules! methods {
    ($($class:literal $method:literal $name:literal $sort:ident $format:literal $no_wait:literal;)*) => {
        /// The method of this number; `None` where there is none.
        pub fn spec(id: Id) -> Option<&'static Spec> {
            Some(match (id.0, id.1) {
                $(($class, $method) => {
                    const { &Spec { id: Id($class, $method), name: $name, sort: Sort::$sort, format: $format, no_wait: $no_wait } }
                })*
                _ => return None,
            })
        }

        #[cfg(test)]
        pub const ALL: &[Id] = &[$(Id($class, $method)),*];
    };
}

methods! {
    10 10 "connection.start" ServerTells "ooTSS" 0;
    10 11 "connection.start-ok" ClientTells "TsSs" 0;
    10 20 "connection.secure" ServerTells "S" 0;
    10 21 "connection.secure-ok" ClientTells "S" 0;
    10 30 "connection.tune" ServerTells "wlw" 0;
    10 31 "connection.tune-ok" ClientTells "wlw" 0;
    10 40 "connection.open" Ask "ssb" 0;
    10 41 "connection.open-ok" Answer "s" 0;
    10 50 "connection.close" Both "wsww" 0;
    10 51 "connection.close-ok" Both "" 0;
    10 60 "connection.blocked" ServerTells "s" 0;
    10 61 "connection.unblocked" ServerTells "" 0;
    10 70 "connection.update-secret" Ask "Ss" 0;
    10 71 "connection.update-secret-ok" Answer "" 0;
    20 10 "channel.open" Ask "s" 0;
    20 11 "channel.open-ok" Answer "S" 0;
    20 20 "channel.flow" Both "b" 0;
    20 21 "channel.flow-ok" Both "b" 0;
    20 40 "channel.close" Both "wsww" 0;
    20 41 "channel.close-ok" Both "" 0;
    30 10 "access.request" Ask "sb" 0;
    30 11 "access.request-ok" Answer "w" 0;
    40 10 "exchange.declare" Ask "wssbT" 16;
    40 11 "exchange.declare-ok" Answer "" 0;
    40 20 "exchange.delete" Ask "wsb" 2;
    40 21 "exchange.delete-ok" Answer "" 0;
    40 30 "exchange.bind" Ask "wsssbT" 1;
    40 31 "exchange.bind-ok" Answer "" 0;
    40 40 "exchange.unbind" Ask "wsssbT" 1;
    40 51 "exchange.unbind-ok" Answer "" 0;
    50 10 "queue.declare" Ask "wsbT" 16;
    50 11 "queue.declare-ok" Answer "sll" 0;
    50 20 "queue.bind" Ask "wsssbT" 1;
    50 21 "queue.bind-ok" Answer "" 0;
    50 30 "queue.purge" Ask "wsb" 1;
    50 31 "queue.purge-ok" Answer "l" 0;
    50 40 "queue.delete" Ask "wsb" 4;
    50 41 "queue.delete-ok" Answer "l" 0;
    50 50 "queue.unbind" Ask "wsssT" 0;
    50 51 "queue.unbind-ok" Answer "" 0;
    60 10 "basic.qos" Ask "lwb" 0;
    60 11 "basic.qos-ok" Answer "" 0;
    60 20 "basic.consume" Ask "wssbT" 8;
    60 21 "basic.consume-ok" Answer "s" 0;
    60 30 "basic.cancel" Both "sb" 1;
    60 31 "basic.cancel-ok" Both "s" 0;
    60 40 "basic.publish" ClientTells "wssb" 0;
    60 50 "basic.return" ServerTells "wsss" 0;
    60 60 "basic.deliver" ServerTells "sqbss" 0;
    60 70 "basic.get" Ask "wsb" 0;
    60 71 "basic.get-ok" Answer "qbssl" 0;
    60 72 "basic.get-empty" Answer "s" 0;
    60 80 "basic.ack" Both "qb" 0;
    60 90 "basic.reject" ClientTells "qb" 0;
    60 100 "basic.recover-async" ClientTells "b" 0;
    60 110 "basic.recover" Ask "b" 0;
    60 111 "basic.recover-ok" Answer "" 0;
    60 120 "basic.nack" Both "qb" 0;
    85 10 "confirm.select" Ask "b" 1;
    85 11 "confirm.select-ok" Answer "" 0;
    90 10 "tx.select" Ask "" 0;
    90 11 "tx.select-ok" Answer "" 0;
    90 20 "tx.commit" Ask "" 0;
    90 21 "tx.commit-ok" Answer "" 0;
    90 30 "tx.rollback" Ask "" 0;
    90 31 "tx.rollback-ok" Answer "" 0;
}

impl Spec {
    /// Whether this side sends it, on such a channel: those of the connection go on channel 0, all others elsewhere (section 4.3).
    pub fn goes(&self, flow: Flow, channel: u16) -> bool {
        let sender = match self.sort {
            Sort::Ask | Sort::ClientTells => flow == Flow::Request,
            Sort::Answer | Sort::ServerTells => flow == Flow::Response,
            Sort::Both => true,
        };
        sender && (self.id.0 == 10) == (channel == 0)
    }

    /// Whether `answer` answers this.
    pub fn is_answered_by(&self, answer: Id) -> bool {
        answer.0 == self.id.0
            && match self.id {
                Id::GET => matches!(answer, Id::GET_OK | Id::GET_EMPTY),
                Id::EXCHANGE_UNBIND => answer == Id::EXCHANGE_UNBIND_OK,
                Id(_, method) => answer.1 == method + 1,
            }
    }

    /// Whether a content follows it: a header and a body, in frames of their own.
    pub fn has_content(&self) -> bool {
        matches!(self.id, Id::PUBLISH | Id::RETURN | Id::DELIVER | Id::GET_OK)
    }

    pub fn wants_no_answer(&self, arguments: &Arguments<'_>) -> bool {
        arguments.bits & self.no_wait != 0
    }
}

/// What was read of a method's arguments, each kind in the order of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arguments<'a> {
    pub texts: [&'a [u8]; 3],
    pub numbers: [u64; 3],
    pub bits: u8,
}

/// How far the arguments could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// They fill the frame exactly.
    Exact,
    /// They end before the frame does, or their end is not seen; what was read of them is right.
    Loose,
}

/// Reads a method's arguments from what is seen of its frame's payload behind the numbers; `whole`: all of it is seen.
/// `None`: they cannot be those of this method.
pub fn read<'a>(spec: &Spec, payload: &'a [u8], whole: bool) -> Option<(Arguments<'a>, Fit)> {
    let mut reader = Reader::new(payload);
    let mut arguments = Arguments::default();
    let (mut texts, mut numbers) = (arguments.texts.iter_mut(), arguments.numbers.iter_mut());
    for letter in spec.format.bytes() {
        let read = match letter {
            b'o' => reader.u8().map(|_| ()),
            b'b' => reader.u8().map(|bits| arguments.bits = bits),
            b'w' => reader.u16().map(|number| keep(&mut numbers, number.into())),
            b'l' => reader.u32().map(|number| keep(&mut numbers, number.into())),
            b'q' => reader.u64().map(|number| keep(&mut numbers, number)),
            b's' => reader.u8().and_then(|length| reader.take(length.into())).map(|text| keep(&mut texts, text)),
            _ => reader.u32().and_then(|length| reader.take(length as usize)).map(|_| ()),
        };
        if read.is_none() {
            // A table beyond what is kept of a frame; in front of it everything was read.
            return (!whole).then_some((arguments, Fit::Loose));
        }
    }
    let exact = whole && reader.rest().is_empty();
    Some((arguments, if exact { Fit::Exact } else { Fit::Loose }))
}

fn keep<'m, T: 'm>(places: &mut impl Iterator<Item = &'m mut T>, value: T) {
    if let Some(place) = places.next() {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_has_an_answer_and_every_answer_a_question() {
        let of = |sort: Sort| ALL.iter().filter_map(|id| spec(*id)).filter(move |spec| spec.sort == sort);
        for ask in of(Sort::Ask) {
            let answers: Vec<_> = of(Sort::Answer).filter(|answer| ask.is_answered_by(answer.id)).map(|answer| answer.name).collect();
            let expected = match ask.id {
                Id::GET => vec!["basic.get-ok".to_owned(), "basic.get-empty".to_owned()],
                _ => vec![format!("{}-ok", ask.name)],
            };
            assert_eq!(answers, expected, "{}", ask.name);
        }
        for answer in of(Sort::Answer) {
            assert_eq!(of(Sort::Ask).filter(|ask| ask.is_answered_by(answer.id)).count(), 1, "{}", answer.name);
        }
    }

    #[test]
    fn arguments_are_read_by_their_format() {
        let publish = spec(Id::PUBLISH).unwrap();
        let payload = b"\0\0\x04logs\x03a.b\x01";
        let (arguments, fit) = read(publish, payload, true).unwrap();
        assert_eq!((arguments.texts, arguments.bits, fit), ([&b"logs"[..], b"a.b", b""], 1, Fit::Exact));
        assert_eq!(read(publish, &payload[..7], true), None, "a text beyond the frame");
        assert_eq!(read(publish, &payload[..8], false).unwrap().1, Fit::Loose);
        assert_eq!(read(publish, b"\0\0\0\0\0\0", true).unwrap().1, Fit::Loose, "one byte too many");
        let close = spec(Id::CHANNEL_CLOSE).unwrap();
        assert_eq!(read(close, b"\x01\x94\x02no\0\x32\0\x0a", true).unwrap().0.numbers, [404, 50, 10]);
    }

    #[test]
    fn methods_go_one_way_and_on_their_channels() {
        let goes = |id, flow, channel| spec(id).unwrap().goes(flow, channel);
        assert!(goes(Id::PUBLISH, Flow::Request, 1) && !goes(Id::PUBLISH, Flow::Response, 1) && !goes(Id::PUBLISH, Flow::Request, 0));
        assert!(goes(Id::DELIVER, Flow::Response, 1) && !goes(Id::DELIVER, Flow::Request, 1));
        assert!(goes(Id::CLOSE, Flow::Request, 0) && goes(Id::CLOSE, Flow::Response, 0) && !goes(Id::CLOSE, Flow::Response, 1));
        assert!(goes(Id::ACK, Flow::Request, 7) && goes(Id::ACK, Flow::Response, 7));
    }
}
