//! The words for DNS numbers: IANA's registry "Domain Name System (DNS) Parameters".

use std::fmt::Write;

use super::message;

pub const CLASS_NONE: u16 = 254;
pub const CLASS_ANY: u16 = 255;

/// A word for a number: from the registry, or with the number in it. `text` is where the latter is written.
fn word<'a>(known: Option<&'static str>, prefix: &str, code: u16, text: &'a mut String) -> &'a str {
    if let Some(known) = known {
        return known;
    }
    text.clear();
    // Writing into a string cannot fail.
    let _ = write!(text, "{prefix}{code}");
    text
}

/// "AAAA"; "TYPE65280" (RFC 3597 section 5) where the registry has no name.
pub fn kind(code: u16, text: &mut String) -> &str {
    word(known_kind(code), "TYPE", code, text)
}

/// "IN"; "CLASS32" (RFC 3597 section 5) where the registry has no name.
pub fn class(code: u16, text: &mut String) -> &str {
    let known = match code {
        1 => Some("IN"),
        3 => Some("CH"),
        4 => Some("HS"),
        CLASS_NONE => Some("NONE"),
        CLASS_ANY => Some("ANY"),
        _ => None,
    };
    word(known, "CLASS", code, text)
}

/// "NXDOMAIN"; "RCODE12" where the registry has no name.
pub fn rcode(code: u16, text: &mut String) -> &str {
    let known = match code {
        0 => Some("NOERROR"),
        1 => Some("FORMERR"),
        2 => Some("SERVFAIL"),
        3 => Some("NXDOMAIN"),
        4 => Some("NOTIMP"),
        5 => Some("REFUSED"),
        6 => Some("YXDOMAIN"),
        7 => Some("YXRRSET"),
        8 => Some("NXRRSET"),
        9 => Some("NOTAUTH"),
        10 => Some("NOTZONE"),
        11 => Some("DSOTYPENI"),
        16 => Some("BADVERS"),
        17 => Some("BADKEY"),
        18 => Some("BADTIME"),
        19 => Some("BADMODE"),
        20 => Some("BADNAME"),
        21 => Some("BADALG"),
        22 => Some("BADTRUNC"),
        23 => Some("BADCOOKIE"),
        _ => None,
    };
    word(known, "RCODE", code, text)
}

/// "NOTIFY"; "OPCODE7" where the registry has no name.
pub fn opcode(code: u8, text: &mut String) -> &str {
    let known = match code {
        message::QUERY => Some("QUERY"),
        1 => Some("IQUERY"),
        2 => Some("STATUS"),
        message::NOTIFY => Some("NOTIFY"),
        message::UPDATE => Some("UPDATE"),
        message::DSO => Some("DSO"),
        _ => None,
    };
    word(known, "OPCODE", code.into(), text)
}

/// The registry "Resource Record (RR) TYPEs".
pub fn known_kind(code: u16) -> Option<&'static str> {
    let index = KINDS.binary_search_by_key(&code, |(code, _)| *code).ok()?;
    KINDS.get(index).map(|(_, name)| *name)
}

#[rustfmt::skip]
const KINDS: &[(u16, &str)] = &[
    (1, "A"), (2, "NS"), (3, "MD"), (4, "MF"), (5, "CNAME"), (6, "SOA"), (7, "MB"), (8, "MG"), (9, "MR"), (10, "NULL"), (11, "WKS"),
    (12, "PTR"), (13, "HINFO"), (14, "MINFO"), (15, "MX"), (16, "TXT"), (17, "RP"), (18, "AFSDB"), (19, "X25"), (20, "ISDN"), (21, "RT"),
    (22, "NSAP"), (23, "NSAP-PTR"), (24, "SIG"), (25, "KEY"), (26, "PX"), (27, "GPOS"), (28, "AAAA"), (29, "LOC"), (30, "NXT"), (31, "EID"),
    (32, "NIMLOC"), (33, "SRV"), (34, "ATMA"), (35, "NAPTR"), (36, "KX"), (37, "CERT"), (38, "A6"), (39, "DNAME"), (40, "SINK"),
    (41, "OPT"), (42, "APL"), (43, "DS"), (44, "SSHFP"), (45, "IPSECKEY"), (46, "RRSIG"), (47, "NSEC"), (48, "DNSKEY"), (49, "DHCID"),
    (50, "NSEC3"), (51, "NSEC3PARAM"), (52, "TLSA"), (53, "SMIMEA"), (55, "HIP"), (56, "NINFO"), (57, "RKEY"), (58, "TALINK"), (59, "CDS"),
    (60, "CDNSKEY"), (61, "OPENPGPKEY"), (62, "CSYNC"), (63, "ZONEMD"), (64, "SVCB"), (65, "HTTPS"), (66, "DSYNC"), (67, "HHIT"),
    (68, "BRID"), (99, "SPF"), (100, "UINFO"), (101, "UID"), (102, "GID"), (103, "UNSPEC"), (104, "NID"), (105, "L32"), (106, "L64"),
    (107, "LP"), (108, "EUI48"), (109, "EUI64"), (128, "NXNAME"), (249, "TKEY"), (250, "TSIG"), (251, "IXFR"), (252, "AXFR"),
    (253, "MAILB"), (254, "MAILA"), (255, "ANY"), (256, "URI"), (257, "CAA"), (258, "AVC"), (259, "DOA"), (260, "AMTRELAY"),
    (261, "RESINFO"), (262, "WALLET"), (263, "CLA"), (264, "IPN"), (32768, "TA"), (32769, "DLV"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_sorted_and_named_as_the_registry_does() {
        assert!(KINDS.is_sorted_by(|left, right| left.0 < right.0));
        let mut text = String::new();
        for (code, name) in [(1, "A"), (28, "AAAA"), (33, "SRV"), (65, "HTTPS"), (255, "ANY"), (65_280, "TYPE65280"), (0, "TYPE0")] {
            assert_eq!(kind(code, &mut text), name);
        }
    }

    #[test]
    fn numbers_without_a_name_are_written_out() {
        let mut text = String::new();
        assert_eq!(rcode(23, &mut text), "BADCOOKIE");
        assert_eq!(rcode(12, &mut text), "RCODE12");
        assert_eq!(class(32, &mut text), "CLASS32");
        assert_eq!(opcode(5, &mut text), "UPDATE");
        assert_eq!(opcode(7, &mut text), "OPCODE7");
    }
}
