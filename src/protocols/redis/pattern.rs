//! What may be shown of a key: the segment before its first colon, when that looks like the name of a kind of thing.

use super::wire::Word;

/// A longer first segment is not shown.
pub const PREFIX_MAX: usize = 20;

/// "user" of "user:1001"; empty where nothing may be shown.
pub type Prefix = Word<PREFIX_MAX>;

/// So many consonants in a row are no word.
const CONSONANTS_MAX: u32 = 4;

/// The prefix of a key of which `begin` are the first bytes, [`PREFIX_MAX`] and one where it has so many.
pub fn prefix(begin: &[u8]) -> Prefix {
    let mut consonants = 0;
    for (at, &byte) in begin.iter().enumerate() {
        match byte {
            b'a' | b'e' | b'i' | b'o' | b'u' | b'y' | b'_' => consonants = 0,
            b'b'..=b'z' if consonants < CONSONANTS_MAX => consonants += 1,
            b':' => return Word::of(begin.get(..at).unwrap_or_default()),
            _ => break,
        }
    }
    Prefix::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_word_before_a_colon_is_shown() {
        for (key, shown) in [
            ("user:1001", "user"),
            ("user_profile:alice:x", "user_profile"),
            ("cart:", "cart"),
            ("user", ""),
            (":user", ""),
            ("User:1", ""),
            ("user1:2", ""),
            ("alice@example.com:cart", ""),
            ("hunter2:x", ""),
            ("{user:1}:x", ""),
            ("qwrtzpsd:x", ""),
            ("twentycharacterslong:", "twentycharacterslong"),
            ("twentyonecharacterxxa:", ""),
        ] {
            let begin = &key.as_bytes()[..key.len().min(PREFIX_MAX + 1)];
            assert_eq!(prefix(begin).text(), shown, "{key}");
        }
    }
}
