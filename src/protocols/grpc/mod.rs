//! gRPC: what a call is, whatever carries it. HTTP/2 and HTTP/1 (gRPC-Web) tell a [`Call`] what they read; it becomes an exchange.
//!
//! Sources: "gRPC over HTTP2" (`PROTOCOL-HTTP2.md`), "gRPC Web" (`PROTOCOL-WEB.md`), "HTTP to gRPC Status Code Mapping" and "Status codes
//! and their use in gRPC" of the gRPC project. Nothing here looks into messages: their prefixes are counted, their bytes passed over.
//! Every status other than 0 is an error: that is OpenTelemetry's rule for clients (for servers it names 2, 4, 12, 13, 14 and 15 only),
//! and which side was watched is not known here.
#![deny(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used))]

mod call;
mod messages;
mod status;
#[cfg(test)]
mod tests;
pub mod web;

pub use self::call::{Call, Carried, RequestHeaders, ResponseHeaders};

/// Whether a request or response with this content type is of gRPC over HTTP/2: `application/grpc`, alone or with `+proto`, `+json` and the
/// like, or with parameters. gRPC-Web is another type.
#[inline]
pub fn is_grpc(content_type: &[u8]) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    content_type
        .split_at_checked(TYPE.len())
        .is_some_and(|(begin, rest)| begin.eq_ignore_ascii_case(TYPE) && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t')))
}
