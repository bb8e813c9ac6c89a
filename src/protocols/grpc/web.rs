//! gRPC-Web (`PROTOCOL-WEB.md`): the same messages in an HTTP/1 body, and the trailers behind them as a last frame with the flag 0x80.
//! As text the whole is base64, of which each piece that was written may be padded.

use super::{Call, Carried, RequestHeaders, ResponseHeaders};
use crate::{
    model::Flow,
    protocols::{At, Sink},
};

/// Bytes of a trailers frame that are looked at.
const MAX_TRAILERS: usize = 4096;

/// How a body of gRPC-Web is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Binary,
    /// Base64
    Text,
}

/// Whether a content type is gRPC-Web's: `application/grpc-web` or `application/grpc-web-text`, alone or with `+proto` and the like.
#[inline]
pub fn encoding(content_type: &[u8]) -> Option<Encoding> {
    const TYPE: &[u8] = b"application/grpc-web";
    let (begin, rest) = content_type.split_at_checked(TYPE.len())?;
    if !begin.eq_ignore_ascii_case(TYPE) {
        return None;
    }
    let text = rest.split_at_checked(5).filter(|(suffix, _)| suffix.eq_ignore_ascii_case(b"-text"));
    let (encoding, rest) = text.map_or((Encoding::Binary, rest), |(_, rest)| (Encoding::Text, rest));
    matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t')).then_some(encoding)
}

/// One call of gRPC-Web.
#[derive(Debug, Default)]
pub struct Web {
    call: Call,
    /// What base64 left of each flow; `None`: binary.
    decoders: [Option<Decoder>; 2],
    /// The response's body is of gRPC-Web.
    readable: bool,
    trailers: Vec<u8>,
    /// Bytes of the trailers frame that are still to come, once it has begun.
    trailers_rest: Option<u64>,
    trailers_hidden: bool,
}

impl Web {
    pub fn new(raw: bool) -> Self {
        Self { call: Call::new(raw), ..Self::default() }
    }

    /// As new, but for its memory.
    pub fn clear(&mut self) {
        self.call.clear();
        let mut trailers = std::mem::take(&mut self.trailers);
        trailers.clear();
        *self = Self { call: std::mem::take(&mut self.call), trailers, ..Self::default() };
    }

    pub fn request_headers(&mut self, encoding: Encoding, head: &RequestHeaders<'_>, at: At, attributes: bool) {
        *self.decoder(Flow::Request) = (encoding == Encoding::Text).then(Decoder::default);
        self.call.request_headers(head, at, attributes);
    }

    /// The response's head; whether its body is to be read with [`Web::data`].
    pub fn response_headers(&mut self, encoding: Option<Encoding>, head: &ResponseHeaders<'_>, at: At) -> bool {
        *self.decoder(Flow::Response) = (encoding == Some(Encoding::Text)).then(Decoder::default);
        self.readable = encoding.is_some();
        self.call.response_headers(head, at);
        self.readable
    }

    /// Content of either flow as it comes, without the framing of HTTP.
    pub fn data(&mut self, flow: Flow, bytes: &[u8], at: At) {
        let Some(mut decoder) = self.decoder(flow).take() else { return self.frames(flow, bytes, at) };
        let mut block = [0; 384];
        for piece in bytes.chunks(512 - 4) {
            let (whole, valid) = decoder.decode(piece, &mut block);
            self.frames(flow, block.get(..whole).unwrap_or_default(), at);
            if !valid {
                self.call.missing(flow, u64::MAX, at.last_ns);
            }
        }
        *self.decoder(flow) = Some(decoder);
    }

    /// So much content went by without being seen.
    pub fn missing(&mut self, flow: Flow, length: u64, at_ns: u64) {
        // How much a hole in base64 stands for is not known: pieces may be padded.
        let length = if self.decoder(flow).is_some() { u64::MAX } else { length };
        if flow == Flow::Response && self.trailers_rest.is_some() {
            self.trailers_hidden = true;
        } else {
            self.call.missing(flow, length, at_ns);
        }
    }

    /// So much content need not be seen; told as [`Web::missing`] it changes nothing.
    pub fn passable(&self, flow: Flow) -> u64 {
        let [request, response] = &self.decoders;
        let text = if flow == Flow::Request { request.is_some() } else { response.is_some() };
        if text || self.trailers_rest.is_some() { 0 } else { self.call.passable(flow) }
    }

    /// The response is whole, or nothing more of it will be seen (`cut`).
    pub fn response_end(&mut self, cut: bool, at: At) {
        let hidden = self.trailers_hidden || (self.readable && self.call.passable(Flow::Response) == u64::MAX);
        if cut || hidden {
            self.call.trailers(&ResponseHeaders { incomplete: true, ..ResponseHeaders::default() }, at);
        } else {
            self.call.response_end(at);
        }
    }

    /// The connection ended first.
    pub fn connection_end(&mut self, at_ns: u64) {
        self.call.connection_end(at_ns);
    }

    pub fn emit(&self, carried: &Carried, out: &mut dyn Sink) {
        self.call.emit(carried, out);
    }

    fn decoder(&mut self, flow: Flow) -> &mut Option<Decoder> {
        let [request, response] = &mut self.decoders;
        match flow {
            Flow::Request => request,
            Flow::Response => response,
        }
    }

    fn frames(&mut self, flow: Flow, bytes: &[u8], at: At) {
        let rest = if self.trailers_rest.is_some() && flow == Flow::Response { bytes } else { self.call.frames(flow, bytes, at) };
        if flow == Flow::Response {
            self.trailers(rest, at);
        }
    }

    /// Bytes from the begin of the trailers frame on, or behind what was seen of it.
    fn trailers(&mut self, bytes: &[u8], at: At) {
        if self.trailers_rest.is_none() {
            let Some((length, compressed)) = self.call.trailers_frame() else { return };
            self.trailers_rest = Some(length);
            self.trailers_hidden = compressed;
        }
        let Some(rest) = self.trailers_rest.filter(|_| !self.call.is_over()) else { return };
        let taken = bytes.get(..rest.min(bytes.len() as u64) as usize).unwrap_or(bytes);
        let room = MAX_TRAILERS.saturating_sub(self.trailers.len());
        self.trailers.extend_from_slice(taken.get(..room).unwrap_or(taken));
        let rest = rest.saturating_sub(taken.len() as u64);
        self.trailers_rest = Some(rest);
        if rest == 0 && !self.trailers_hidden {
            self.read_trailers(at);
        }
    }

    /// Lines of `name: value`.
    fn read_trailers(&mut self, at: At) {
        let mut head = ResponseHeaders { incomplete: self.trailers.len() >= MAX_TRAILERS, ..ResponseHeaders::default() };
        for line in self.trailers.split(|&byte| byte == b'\n') {
            let mut halves = line.splitn(2, |&byte| byte == b':');
            let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default().trim_ascii());
            if name.eq_ignore_ascii_case(b"grpc-status") {
                head.status = Some(value);
            } else if name.eq_ignore_ascii_case(b"grpc-message") {
                head.message = Some(value);
            }
        }
        self.call.trailers(&head, at);
    }
}

/// Base64 (RFC 4648 section 4) in pieces.
#[derive(Clone, Copy, Debug, Default)]
struct Decoder {
    bits: u32,
    /// Letters of the group under way; 4: its second padding is to come.
    letters: u8,
    invalid: bool,
}

impl Decoder {
    /// Decodes into `block`, which has room for three bytes of each four letters and three more: how much came out, and whether all of it
    /// was base64.
    fn decode(&mut self, text: &[u8], block: &mut [u8]) -> (usize, bool) {
        let mut length = 0;
        for &letter in text {
            let out: u8 = match (letter, self.letters) {
                _ if self.invalid => 0,
                (b'=', 2) => {
                    self.bits <<= 12;
                    self.letters = 4;
                    1
                }
                (b'=', 3) => {
                    self.bits <<= 6;
                    self.letters = 0;
                    2
                }
                (b'=', 4) => {
                    self.letters = 0;
                    0
                }
                (_, 0..=3) => match value(letter) {
                    Some(value) => {
                        self.bits = self.bits << 6 | u32::from(value);
                        self.letters = (self.letters + 1) % 4;
                        if self.letters == 0 { 3 } else { 0 }
                    }
                    None => self.refuse(),
                },
                _ => self.refuse(),
            };
            let [_, bytes @ ..] = self.bits.to_be_bytes();
            for byte in bytes.into_iter().take(usize::from(out)) {
                if let Some(place) = block.get_mut(length) {
                    *place = byte;
                    length += 1;
                }
            }
        }
        (length, !self.invalid)
    }

    fn refuse(&mut self) -> u8 {
        self.invalid = true;
        0
    }
}

fn value(letter: u8) -> Option<u8> {
    match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}
