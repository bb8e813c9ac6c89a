//! The examples of RFC 7541 appendix C, and what one who joins late makes of them.

use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Seen(Vec<(Name, String)>);

impl Fields for Seen {
    fn field(&mut self, name: Name, value: &[u8], _: bool) {
        self.0.push((name, String::from_utf8_lossy(value).into_owned()));
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn decode(decoder: &mut Decoder, hex: &str) -> Vec<(Name, String)> {
    let mut seen = Seen::default();
    decoder.decode(&bytes(hex), &mut seen).unwrap();
    seen.0
}

fn owned(fields: &[(Name, &str)]) -> Vec<(Name, String)> {
    fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

/// Appendix C.3, and the same with Huffman codes, C.4.
const REQUESTS: [[&str; 3]; 2] = [
    [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ],
    [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ],
];

/// Appendix C.5, and the same with Huffman codes, C.6; the table is of 256 bytes.
const RESPONSES: [[&str; 3]; 2] = [
    [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 \
         7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a \
         4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
    ],
    [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae \
         82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 \
         d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ],
];

#[test]
fn decodes_the_requests_of_the_specification() {
    for blocks in REQUESTS {
        let mut decoder = Decoder::new(true);
        let first = [(Name::Method, "GET"), (Name::Scheme, "http"), (Name::Path, "/"), (Name::Authority, "www.example.com")];
        assert_eq!(decode(&mut decoder, blocks[0]), owned(&first));
        assert_eq!(decode(&mut decoder, blocks[1]), owned(&[&first[..], &[(Name::Other, "")]].concat()));
        let third = [
            (Name::Method, "GET"),
            (Name::Scheme, "https"),
            (Name::Path, "/index.html"),
            (Name::Authority, "www.example.com"),
            (Name::Other, ""),
        ];
        assert_eq!(decode(&mut decoder, blocks[2]), owned(&third));
        assert_eq!(decoder.table.len(), 3);
    }
}

#[test]
fn decodes_the_responses_of_the_specification() {
    for blocks in RESPONSES {
        let mut decoder = Decoder::new(true);
        decoder.table.resize(256);
        let seen = |status: &str, others: usize| {
            let mut fields = owned(&[(Name::Status, status)]);
            fields.extend(owned(&vec![(Name::Other, ""); others]));
            fields
        };
        assert_eq!(decode(&mut decoder, blocks[0]), seen("302", 3));
        assert_eq!(decode(&mut decoder, blocks[1]), seen("307", 3));
        assert_eq!(decode(&mut decoder, blocks[2]), seen("200", 5));
    }
}

#[test]
fn decodes_the_four_ways_to_write_a_field() {
    let mut decoder = Decoder::new(true);
    assert_eq!(decode(&mut decoder, "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572"), owned(&[(Name::Other, "")]));
    assert_eq!(decoder.table.len(), 1);
    assert_eq!(decode(&mut decoder, "040c 2f73 616d 706c 652f 7061 7468"), owned(&[(Name::Path, "/sample/path")]));
    assert_eq!(decode(&mut decoder, "1008 7061 7373 776f 7264 0673 6563 7265 74"), owned(&[(Name::Other, "")]));
    assert_eq!(decode(&mut decoder, "82"), owned(&[(Name::Method, "GET")]));
    assert_eq!(decoder.table.len(), 1);
}

#[test]
fn a_late_joiner_says_nothing_of_older_entries_and_is_right_about_newer_ones() {
    for blocks in REQUESTS {
        let mut decoder = Decoder::new(false);
        let second = decode(&mut decoder, blocks[1]);
        assert_eq!(second[3], (Name::Unknown, String::new()));
        let third = decode(&mut decoder, blocks[2]);
        assert_eq!(third[3], (Name::Unknown, String::new()));
        // Inserted by the third block, and the one before it.
        assert_eq!(decode(&mut decoder, "be bf c0"), owned(&[(Name::Other, ""), (Name::Other, ""), (Name::Unknown, "")]));
    }
    let mut decoder = Decoder::new(false);
    decode(&mut decoder, "4403 2f61 62 4402 2f63");
    assert_eq!(decode(&mut decoder, "be bf"), owned(&[(Name::Path, "/c"), (Name::Path, "/ab")]));
    // A name from an unknown entry, inserted, stays unknown and keeps its place.
    assert_eq!(decode(&mut decoder, "7f01 0178 bf be")[..2], owned(&[(Name::Unknown, ""), (Name::Path, "/c")]));
}

#[test]
fn forgets_all_entries_when_a_block_was_missed() {
    let mut decoder = Decoder::new(true);
    decode(&mut decoder, "4403 2f61 62");
    decoder.forget();
    assert_eq!(decode(&mut decoder, "be"), owned(&[(Name::Unknown, "")]));
    // An encoder that empties its table makes it known again.
    decode(&mut decoder, "20 3fe1 1f 4402 2f63");
    assert_eq!(decode(&mut decoder, "be"), owned(&[(Name::Path, "/c")]));
    assert_eq!(decoder.decode(&bytes("bf"), &mut Seen::default()), Err(Malformed));
}

#[test]
fn refuses_what_no_encoder_writes() {
    for hex in ["80", "be", "ff ff ff ff ff ff 0f", "41", "40 05 61", "00 01 61 ff ff ff ff 7f", "7f ff ff ff ff ff ff"] {
        let mut decoder = Decoder::new(true);
        assert_eq!(decoder.decode(&bytes(hex), &mut Seen::default()), Err(Malformed), "{hex}");
    }
}

#[test]
fn keeps_the_begin_of_a_huge_value() {
    let mut block = vec![0x44, 0x7f, 0x81, 0x7f];
    block.extend(vec![b'x'; 127 + 127 * 128 + 1]);
    let mut decoder = Decoder::new(true);
    let mut seen = Seen::default();
    decoder.decode(&block, &mut seen).unwrap();
    assert_eq!(seen.0[0].1.len(), MAX_VALUE);
}

#[test]
fn the_memory_of_a_table_stays_bounded() {
    let mut decoder = Decoder::new(true);
    decoder.allow(u32::MAX);
    for number in 0..20_000_u32 {
        let mut block = vec![0x44, 0x7f, 0x81, 0x02];
        block.extend(vec![b'a' + (number % 26) as u8; 127 + 1 + 256]);
        decoder.decode(&block, &mut Seen::default()).unwrap();
        let newest = decode(&mut decoder, "be");
        assert!(newest[0].1.bytes().all(|byte| byte == b'a' + (number % 26) as u8) && newest[0].1.len() == 384);
    }
    assert!(decoder.table.memory() <= 256 * 1024, "{}", decoder.table.memory());
}

/// An encoder by the letter of the specification, which chooses as it is told.
struct Encoder {
    /// The newest first.
    entries: Vec<(&'static str, String)>,
    limit: usize,
}

/// A field, and how to write it: by an index if there is one, as a literal that is inserted, or as one that is not.
type Choice = (usize, u8, u8);

const NAMES: [(&str, Name); 7] = [
    (":path", Name::Path),
    ("user-agent", Name::UserAgent),
    ("grpc-status", Name::GrpcStatus),
    ("x-other", Name::Other),
    ("cookie", Name::Other),
    ("content-type", Name::ContentType),
    (":status", Name::Status),
];

impl Encoder {
    fn evict(&mut self) {
        let size = |entries: &[(&str, String)]| entries.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>();
        while size(&self.entries) > self.limit {
            self.entries.pop();
        }
    }

    fn integer(out: &mut Vec<u8>, first: u8, bits: u32, mut value: usize) {
        let mask = (1 << bits) - 1;
        if value < mask {
            return out.push(first | value as u8);
        }
        out.push(first | mask as u8);
        value -= mask;
        while value >= 128 {
            out.push(value as u8 | 0x80);
            value /= 128;
        }
        out.push(value as u8);
    }

    fn block(&mut self, resize: Option<usize>, choices: &[Choice]) -> (Vec<u8>, Vec<(Name, String)>) {
        let (mut out, mut fields) = (Vec::new(), Vec::new());
        if let Some(limit) = resize {
            self.limit = limit;
            Self::integer(&mut out, 0x20, 5, limit);
            self.evict();
        }
        for (number, value, how) in choices {
            let (text, name) = NAMES[number % NAMES.len()];
            let value = "v".repeat(usize::from(*value) % 90) + &value.to_string();
            let by_name = self.entries.iter().position(|entry| entry.0 == text).map(|age| age + 62);
            match self.entries.iter().position(|entry| entry.0 == text && entry.1 == value) {
                Some(age) if how % 4 != 0 => Self::integer(&mut out, 0x80, 7, age + 62),
                _ => {
                    let kept = how % 3 != 0;
                    let (first, bits) = if kept { (0x40, 6) } else { (0x10, 4) };
                    match by_name.filter(|_| how % 5 != 0) {
                        Some(index) => Self::integer(&mut out, first, bits, index),
                        None => {
                            out.push(first);
                            Self::integer(&mut out, 0, 7, text.len());
                            out.extend(text.bytes());
                        }
                    }
                    if how % 2 == 0 {
                        Self::integer(&mut out, 0, 7, value.len());
                        out.extend(value.bytes());
                    } else {
                        let encoded = huffman::encode(value.as_bytes());
                        Self::integer(&mut out, 0x80, 7, encoded.len());
                        out.extend(encoded);
                    }
                    if kept {
                        self.entries.insert(0, (text, value.clone()));
                        self.evict();
                    }
                }
            }
            fields.push((name, if name == Name::Other { String::new() } else { value }));
        }
        (out, fields)
    }
}

proptest! {
    #[test]
    fn decodes_what_any_encoder_writes_and_late_or_torn_says_nothing_wrong(
        blocks in prop::collection::vec(
            (prop::option::weighted(0.1, 0_usize..600), prop::collection::vec(any::<(usize, u8, u8)>(), 1..8)), 1..40),
        joined in 0_usize..20,
        missing in 0_usize..40,
    ) {
        let mut encoder = Encoder { entries: Vec::new(), limit: 4096 };
        let (mut whole, mut late, mut torn) = (Decoder::new(true), Decoder::new(false), Decoder::new(true));
        for (number, (resize, choices)) in blocks.into_iter().enumerate() {
            let (block, fields) = encoder.block(resize, &choices);
            let mut seen = Seen::default();
            prop_assert_eq!(whole.decode(&block, &mut seen), Ok(()));
            prop_assert_eq!(&seen.0, &fields);
            if number == missing {
                torn.forget();
            }
            for (decoder, sees) in [(&mut late, number >= joined), (&mut torn, number != missing)] {
                if sees {
                    let mut seen = Seen::default();
                    prop_assert_eq!(decoder.decode(&block, &mut seen), Ok(()));
                    for (field, truth) in seen.0.iter().zip(&fields) {
                        prop_assert!(field.0 == Name::Unknown || field == truth, "{:?} is {:?}", field, truth);
                    }
                }
            }
        }
    }

    #[test]
    fn no_bytes_are_too_much(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..10), complete in any::<bool>()) {
        let mut decoder = Decoder::new(complete);
        for block in blocks {
            let _ = judge(&block);
            if decoder.decode(&block, &mut Seen::default()).is_err() {
                decoder.forget();
            }
        }
    }
}
