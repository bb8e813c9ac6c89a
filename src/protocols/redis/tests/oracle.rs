//! Where replies end, beside what another decoder of the same bytes says.

use proptest::prelude::*;
use redis_protocol::{resp2, resp3};

use super::super::reply::{Cursor, Taken};
use crate::{model::Flow, protocols::testing::golden};

/// The lengths of the replies at the front, by our own count.
fn lengths(mut bytes: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while !bytes.is_empty() {
        let mut cursor = Cursor::default();
        cursor.begin(0);
        let mut at = 0;
        while cursor.is_under_way() {
            match cursor.take(&bytes[at..]) {
                Taken::Bytes(count) => at += count,
                other => panic!("{other:?} at {:?}", bytes[at..].escape_ascii().to_string()),
            }
        }
        lengths.push(at);
        bytes = &bytes[at..];
    }
    lengths
}

fn decoded_lengths(mut bytes: &[u8], third: bool) -> Vec<usize> {
    let mut lengths = Vec::new();
    while !bytes.is_empty() {
        let length = if third {
            resp3::decode::complete::decode(bytes).expect("RESP3").expect("a whole frame").1
        } else {
            resp2::decode::decode(bytes).expect("RESP2").expect("a whole frame").1
        };
        lengths.push(length);
        bytes = &bytes[length..];
    }
    lengths
}

#[test]
fn replies_of_recorded_conversations_end_where_another_decoder_ends_them() {
    for (name, third) in
        [("python", false), ("subscriber", false), ("typed", false), ("benchmark", false), ("cli_resp3", true), ("resp3", true)]
    {
        let calls = golden::calls("redis", name);
        let bytes: Vec<u8> = calls.into_iter().filter(|(flow, _)| *flow == Flow::Response).flat_map(|(_, bytes)| bytes).collect();
        let ours = lengths(&bytes);
        assert_eq!(ours, decoded_lengths(&bytes, third), "{name}");
        assert!(ours.len() > 6, "{name}");
    }
}

/// Any value of RESP3.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let text = "[a-z ]{0,20}";
    let blob = |kind: &'static str, prefix: &'static str| {
        proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(move |bytes| [format!("{kind}{}\r\n{prefix}", bytes.len() + prefix.len()).as_bytes(), &bytes, b"\r\n"].concat())
    };
    let leaf = prop_oneof![
        text.prop_map(|text| format!("+{text}\r\n").into_bytes()),
        text.prop_map(|text| format!("-ERR {text}\r\n").into_bytes()),
        any::<i64>().prop_map(|number| format!(":{number}\r\n").into_bytes()),
        (-1e6..1e6_f64).prop_map(|number| format!(",{number}\r\n").into_bytes()),
        any::<u64>().prop_map(|number| format!("({number}{number}\r\n").into_bytes()),
        prop::sample::select(vec!["#t\r\n", "#f\r\n", "_\r\n", ",inf\r\n", ",-inf\r\n"]).prop_map(|text| text.as_bytes().to_vec()),
        blob("$", ""),
        "[A-Z]{1,9} [a-z]{0,9}".prop_map(|text| format!("!{}\r\n{text}\r\n", text.len()).into_bytes()),
        "[a-z ]{0,20}".prop_map(|text| format!("={}\r\ntxt:{text}\r\n", text.len() + 4).into_bytes()),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        (prop::sample::select(vec!['*', '%']), proptest::collection::vec(inner, 0..6)).prop_map(|(kind, mut values)| {
            if kind == '%' {
                // Keys that differ: a map with one key twice has fewer pairs.
                values = values.into_iter().enumerate().map(|(at, value)| [format!(":{at}\r\n").into_bytes(), value].concat()).collect();
            }
            [format!("{kind}{}\r\n", values.len()).into_bytes(), values.concat()].concat()
        })
    })
}

proptest! {
    #[test]
    fn any_reply_ends_where_another_decoder_ends_it(values in proptest::collection::vec(value(), 1..8)) {
        let bytes = values.concat();
        let expected: Vec<usize> = values.iter().map(Vec::len).collect();
        prop_assert_eq!(lengths(&bytes), expected.clone());
        prop_assert_eq!(decoded_lengths(&bytes, true), expected);
    }
}
