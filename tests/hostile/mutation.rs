//! Small damages to bytes, and the random numbers that choose them.

use crate::conversations::CONVERSATIONS;

/// xorshift64*: the same sequence everywhere for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike.
        Self((seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next() >> 11) as usize % bound }
    }

    pub fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

/// Numbers at which lengths break.
const LENGTHS: [u32; 12] = [0, 1, 3, 4, 5, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_fffb, 0xffff_ffff];
const DIGITS: [&[u8]; 8] =
    [b"0", b"-1", b"00000000000000001", b"99999999999999999999", b"18446744073709551615", b"ffffffffffffffff", b"+5", b""];

/// None to four damages; a quarter of the inputs stay whole, so that what follows a whole message is reached as well.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.below(5) {
        damage(bytes, random);
    }
}

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let position = random.below(bytes.len());
    match random.below(11) {
        0 if !bytes.is_empty() => bytes[position] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[position] = random.next() as u8,
        2 => bytes.insert(position, random.next() as u8),
        3 if !bytes.is_empty() => {
            let end = (position + 1 + random.below(16)).min(bytes.len());
            bytes.drain(position..end);
        }
        4 => bytes.truncate(position),
        5 if bytes.len() >= 4 => {
            let at = position.min(bytes.len() - 4);
            bytes[at..at + 4].copy_from_slice(&LENGTHS[random.below(LENGTHS.len())].to_be_bytes());
        }
        6 => {
            // A number written in digits becomes another.
            if let Some(from) = bytes.iter().skip(position).position(u8::is_ascii_digit).map(|found| found + position) {
                let length = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                bytes.splice(from..from + length, DIGITS[random.below(DIGITS.len())].iter().copied());
            }
        }
        7 => {
            // Something from elsewhere in the middle.
            let conversation = CONVERSATIONS[random.below(CONVERSATIONS.len())];
            let (_, other) = conversation[random.below(conversation.len())];
            let from = random.below(other.len());
            let to = from + random.below(other.len() - from + 1);
            bytes.splice(position..position, other[from..to].iter().copied());
        }
        8 => {
            // The same again, up to many times.
            let end = (position + 1 + random.below(64)).min(bytes.len());
            let part = bytes[position..end].to_vec();
            let times = if random.one_in(200) { 2000 } else { 1 + random.below(4) };
            for _ in 0..times {
                bytes.extend_from_slice(&part);
            }
        }
        9 => bytes.extend((0..random.below(300)).map(|_| random.next() as u8)),
        10 if !bytes.is_empty() => {
            let other = random.below(bytes.len());
            bytes.swap(position, other);
        }
        _ => {}
    }
}
