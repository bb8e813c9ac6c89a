//! The field names that somebody reads, and the static table (RFC 7541 appendix A) as far as they occur in it.

/// A field's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Name {
    /// In a part of the dynamic table that was never seen.
    Unknown,
    /// Of no interest: its value is not even decoded.
    Other,
    Method,
    Path,
    Authority,
    Scheme,
    /// `:protocol` of an extended CONNECT (RFC 8441).
    Protocol,
    Status,
    Host,
    UserAgent,
    Traceparent,
    ContentType,
    ContentLength,
    GrpcTimeout,
    GrpcStatus,
    GrpcMessage,
}

impl Name {
    pub const COUNT: usize = Name::GrpcMessage as usize + 1;
    /// The longest of the names below.
    pub const LONGEST: usize = 14;

    pub fn of(name: &[u8]) -> Self {
        match name {
            b":method" => Name::Method,
            b":path" => Name::Path,
            b":authority" => Name::Authority,
            b":scheme" => Name::Scheme,
            b":protocol" => Name::Protocol,
            b":status" => Name::Status,
            b"host" => Name::Host,
            b"user-agent" => Name::UserAgent,
            b"traceparent" => Name::Traceparent,
            b"content-type" => Name::ContentType,
            b"content-length" => Name::ContentLength,
            b"grpc-timeout" => Name::GrpcTimeout,
            b"grpc-status" => Name::GrpcStatus,
            b"grpc-message" => Name::GrpcMessage,
            _ => Name::Other,
        }
    }

    /// Its value is read by somebody.
    pub fn is_read(self) -> bool {
        !matches!(self, Name::Unknown | Name::Other)
    }
}

/// Entries of the static table.
pub const STATIC_LENGTH: u32 = 61;

/// An entry of the static table; indices begin at 1.
pub fn static_entry(index: u32) -> (Name, &'static [u8]) {
    match index {
        1 => (Name::Authority, b""),
        2 => (Name::Method, b"GET"),
        3 => (Name::Method, b"POST"),
        4 => (Name::Path, b"/"),
        5 => (Name::Path, b"/index.html"),
        6 => (Name::Scheme, b"http"),
        7 => (Name::Scheme, b"https"),
        8 => (Name::Status, b"200"),
        9 => (Name::Status, b"204"),
        10 => (Name::Status, b"206"),
        11 => (Name::Status, b"304"),
        12 => (Name::Status, b"400"),
        13 => (Name::Status, b"404"),
        14 => (Name::Status, b"500"),
        28 => (Name::ContentLength, b""),
        31 => (Name::ContentType, b""),
        38 => (Name::Host, b""),
        58 => (Name::UserAgent, b""),
        _ => (Name::Other, b""),
    }
}
