//! What a client calls its server in HTTP: a Host header, or an authority (RFC 9110 section 7.2, RFC 3986 section 3.2).

use std::borrow::Cow;

use super::http1::head::host_and_port;

/// A longer text is no host's name (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 253;

/// The host of an authority in lower case, if it is a domain name: no address, and not "localhost", which is whoever it is said to.
pub fn domain(authority: &[u8]) -> Option<Cow<'_, str>> {
    let authority = authority.rsplit(|&byte| byte == b'@').next()?;
    let (host, _) = host_and_port(authority);
    let host = host.strip_suffix(b".").unwrap_or(host);
    let is_label = |label: &[u8]| !label.is_empty() && label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
    // The last label of an address is a number, whatever form it has.
    let last = host.rsplit(|&byte| byte == b'.').next()?;
    let is_number = last.iter().all(u8::is_ascii_digit) || last.starts_with(b"0x");
    if host.len() > NAME_MAX || is_number || !host.split(|&byte| byte == b'.').all(is_label) || host.eq_ignore_ascii_case(b"localhost") {
        return None;
    }
    let host = std::str::from_utf8(host).ok()?;
    Some(if host.bytes().any(|byte| byte.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_told_from_an_address() {
        for (authority, name) in [
            ("shop.test", "shop.test"),
            ("Shop.Test:8080", "shop.test"),
            ("backend", "backend"),
            ("user:secret@shop.test:80", "shop.test"),
            ("shop.test.", "shop.test"),
            ("_grpc.3com.example", "_grpc.3com.example"),
        ] {
            assert_eq!(domain(authority.as_bytes()).as_deref(), Some(name), "{authority}");
        }
        let long = "a.".repeat(127) + "ab";
        for authority in
            ["", ":80", "10.0.0.1", "10.0.0.1:80", "[::1]:80", "[fd00::1]", "167772161", "0x7f000001", "localhost:80", "a..b", "a b", &long]
        {
            assert_eq!(domain(authority.as_bytes()), None, "{authority}");
        }
        assert_eq!(domain("schön.test".as_bytes()), None);
    }
}
