//! The Huffman code of HPACK (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: the lengths of its words say all of it, and the tables are made from them at compile time.

/// Length in bits of each byte's word, and of the end-of-string symbol, which must not occur.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];

const END_OF_STRING: u16 = 256;
const LONGEST: usize = 30;
/// Words of up to so many bits, nearly all of what headers are made of, are found by one look.
const DIRECT_BITS: u32 = 10;

/// By the next [`DIRECT_BITS`] bits: the word's length in the high byte, its symbol in the low one; 0 where the word is longer.
static DIRECT: [u16; 1 << DIRECT_BITS] = direct();
/// By length: what is behind the last word of that length, all as 32 bits from the left; 0 where no word has that length.
static BEHIND: [u64; LONGEST + 1] = CANON.behind;
/// By length: add this to a word and it is the index of its symbol in [`SYMBOLS`].
static INDEX: [i64; LONGEST + 1] = CANON.index;
/// All symbols in the order of their words.
static SYMBOLS: [u16; 257] = CANON.symbols;

struct Canon {
    behind: [u64; LONGEST + 1],
    index: [i64; LONGEST + 1],
    symbols: [u16; 257],
    words: [u32; 257],
}

const CANON: Canon = canon();

#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler, which checks each index")]
const fn canon() -> Canon {
    let mut canon = Canon { behind: [0; LONGEST + 1], index: [0; LONGEST + 1], symbols: [0; 257], words: [0; 257] };
    let (mut length, mut word, mut count) = (1, 0_u32, 0);
    while length <= LONGEST {
        let mut symbol = 0;
        canon.index[length] = count as i64 - word as i64;
        let before = count;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                canon.symbols[count] = symbol as u16;
                canon.words[symbol] = word;
                count += 1;
                word += 1;
            }
            symbol += 1;
        }
        if count > before {
            canon.behind[length] = (word as u64) << (32 - length);
        }
        word <<= 1;
        length += 1;
    }
    canon
}

#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler, which checks each index")]
const fn direct() -> [u16; 1 << DIRECT_BITS] {
    let mut table = [0; 1 << DIRECT_BITS];
    let mut symbol = 0;
    while symbol < 256 {
        let length = LENGTHS[symbol] as u32;
        if length <= DIRECT_BITS {
            let first = (CANON.words[symbol] << (DIRECT_BITS - length)) as usize;
            let mut index = first;
            while index < first + (1 << (DIRECT_BITS - length)) {
                table[index] = (length as u16) << 8 | symbol as u16;
                index += 1;
            }
        }
        symbol += 1;
    }
    table
}

/// The bytes are not a string in this code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Appends the decoded string to `out`, no more than `limit` bytes; whether that was all of it.
pub fn decode(encoded: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<bool, Malformed> {
    let mut input = encoded.iter();
    // The next bits, from the left.
    let (mut bits, mut count) = (0_u64, 0_u32);
    let mut room = limit;
    loop {
        while count <= 56 {
            let Some(&byte) = input.next() else { break };
            bits |= u64::from(byte) << (56 - count);
            count += 8;
        }
        let direct = DIRECT.get((bits >> (64 - DIRECT_BITS)) as usize).copied().unwrap_or(0);
        let (symbol, length) = if direct != 0 { (direct & 0xff, u32::from(direct >> 8)) } else { long_word(bits)? };
        if length > count {
            break;
        }
        if symbol == END_OF_STRING {
            return Err(Malformed);
        }
        if room == 0 {
            return Ok(false);
        }
        room -= 1;
        out.push(symbol as u8);
        bits <<= length;
        count -= length;
    }
    // Padding: fewer than eight bits, all ones.
    let padding_valid = count < 8 && (count == 0 || bits >> (64 - count) == (1 << count) - 1);
    if padding_valid { Ok(true) } else { Err(Malformed) }
}

/// Symbol and length of a word longer than [`DIRECT_BITS`].
#[cold]
fn long_word(bits: u64) -> Result<(u16, u32), Malformed> {
    let next = bits >> 32;
    for length in DIRECT_BITS + 1..=LONGEST as u32 {
        let behind = BEHIND.get(length as usize).copied().unwrap_or(0);
        if next < behind {
            let word = (next >> (32 - length)) as i64;
            let index = INDEX.get(length as usize).map_or(-1, |index| word + index);
            let symbol = usize::try_from(index).ok().and_then(|index| SYMBOLS.get(index)).ok_or(Malformed)?;
            return Ok((*symbol, length));
        }
    }
    // The end of string's word is the last of all, and `behind` it is nothing.
    Err(Malformed)
}

/// The string in this code, padded.
#[cfg(test)]
pub fn encode(text: &[u8]) -> Vec<u8> {
    let (mut bits, mut count, mut out) = (0_u64, 0, Vec::new());
    for &byte in text {
        let length = LENGTHS[usize::from(byte)];
        bits = bits << length | u64::from(CANON.words[usize::from(byte)]);
        count += length;
        while count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    if count > 0 {
        out.push((bits << (8 - count)) as u8 | (0xff >> count));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(encoded: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::new();
        decode(encoded, usize::MAX, &mut out).map(|_| out)
    }

    #[test]
    fn decodes_the_examples_of_the_specification() {
        let example = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&example).unwrap(), b"www.example.com");
        assert_eq!(decoded(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(), b"no-cache");
        assert_eq!(decoded(&[0x64, 0x02]).unwrap(), b"302");
    }

    #[test]
    fn every_byte_survives_and_the_words_are_those_of_the_specification() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&encode(&all)).unwrap(), all);
        for (byte, word) in [(0_usize, 0x1ff8), (10, 0x3fff_fffc), (b'0'.into(), 0), (b'\\'.into(), 0x7fff0), (255, 0x3ff_ffee)] {
            assert_eq!(CANON.words[byte], word);
        }
        assert_eq!(CANON.words[256], 0x3fff_ffff);
        for byte in 0..=255 {
            assert_eq!(decoded(&encode(&[byte])).unwrap(), [byte]);
        }
    }

    #[test]
    fn refuses_wrong_padding_and_the_end_of_string() {
        assert_eq!(decoded(&[0x00]), Err(Malformed), "padding of zeros");
        assert_eq!(decoded(&[0xff]), Err(Malformed), "eight bits of padding");
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), Err(Malformed), "the end of string");
    }

    #[test]
    fn stops_at_the_limit_and_says_so() {
        let mut out = Vec::new();
        assert_eq!(decode(&encode(b"abcdef"), 3, &mut out), Ok(false));
        assert_eq!(out, b"abc");
        assert_eq!(decode(&encode(b"abc"), 3, &mut out), Ok(true));
    }
}
