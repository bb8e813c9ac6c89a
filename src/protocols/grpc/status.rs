//! Status codes where no trailer tells them, and the timeout that a request carries.

/// What a call ended with ("Status codes and their use in gRPC").
pub const CANCELLED: u32 = 1;
pub const UNKNOWN: u32 = 2;
pub const DEADLINE_EXCEEDED: u32 = 4;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
pub const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

/// A grpc-status field. A value that is no number counts as unknown.
pub fn of_field(value: &[u8]) -> u32 {
    let digits = value.trim_ascii();
    if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
        return UNKNOWN;
    }
    digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'))
}

/// What a client makes of a response without grpc-status ("HTTP to gRPC Status Code Mapping").
pub fn of_http(status: u16) -> u32 {
    match status {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// What an RST_STREAM code means to the call ("gRPC over HTTP2", Errors; codes of RFC 9113 section 7).
pub fn of_reset(code: u32) -> u32 {
    match code {
        0..=4 | 6 | 9 | 10 => INTERNAL,
        7 => UNAVAILABLE,
        8 => CANCELLED,
        11 => RESOURCE_EXHAUSTED,
        12 => PERMISSION_DENIED,
        _ => UNKNOWN,
    }
}

/// A grpc-timeout field in nanoseconds: up to eight digits and a unit.
pub fn timeout_ns(value: &[u8]) -> Option<u64> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    let unit_ns: u64 = match unit {
        b'n' => 1,
        b'u' => 1_000,
        b'm' => 1_000_000,
        b'S' => 1_000_000_000,
        b'M' => 60_000_000_000,
        b'H' => 3_600_000_000_000,
        _ => return None,
    };
    Some(number.saturating_mul(unit_ns))
}

/// A cancellation this long after the call's begin was the deadline's doing. Clients send the time that is left rounded up (by a hundredth)
/// and a little before the bytes reach the socket; a busy server may read the request late, and the cancellation in time. So one in the
/// last eighth of the time counts.
pub fn is_deadline(elapsed_ns: u64, timeout_ns: u64) -> bool {
    const WAY_NS: u64 = 5_000_000;
    elapsed_ns.saturating_add(timeout_ns / 8).saturating_add(WAY_NS.min(timeout_ns / 8)) >= timeout_ns
}
