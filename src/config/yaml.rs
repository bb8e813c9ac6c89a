//! A YAML mapping of words and lists of words, each with its place. Knows nothing of which keys there are.

use std::fmt;

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

/// A place in a file, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub line: u64,
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// `key: word` or `key: [word, word]`.
#[derive(Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub key_at: Place,
    pub words: Vec<String>,
    pub words_at: Place,
}

/// What the parser says when the text is not such a mapping, and where.
#[derive(Debug, PartialEq)]
pub struct Malformed {
    pub place: Option<Place>,
    pub why: String,
}

/// The entries of a file in their order; an empty file has none.
pub fn read(text: &str) -> Result<Vec<Entry>, Malformed> {
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let malformed = |error: serde_saphyr::Error| {
        let place = error.location().map(|at| Place { line: at.line(), column: at.column() });
        let why = error.without_snippet().to_string();
        Malformed { place, why: why.split_whitespace().collect::<Vec<_>>().join(" ") }
    };
    Ok(serde_saphyr::from_str_with_options::<Option<Mapping>>(text, options).map_err(malformed)?.map_or_else(Vec::new, |mapping| mapping.0))
}

struct Mapping(Vec<Entry>);

impl<'de> Deserialize<'de> for Mapping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Mapping;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("lines of the form `key: value`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Mapping, A::Error> {
                let mut entries = Vec::new();
                while let Some((key, words)) = map.next_entry::<Spanned<String>, Spanned<Words>>()? {
                    let place = |at: serde_saphyr::Location| Place { line: at.line(), column: at.column() };
                    let (key_at, words_at) = (place(key.referenced), place(words.referenced));
                    entries.push(Entry { key: key.value, key_at, words: words.value.0, words_at });
                }
                Ok(Mapping(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Scalars as they would be written on a command line; null is `none`.
struct Words(Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalars;
        fn word<E>(word: impl ToString) -> Result<Words, E> {
            Ok(Words(vec![word.to_string()]))
        }
        impl<'de> Visitor<'de> for Scalars {
            type Value = Words;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list of values")
            }

            fn visit_str<E>(self, value: &str) -> Result<Words, E> {
                word(value)
            }

            fn visit_u64<E>(self, value: u64) -> Result<Words, E> {
                word(value)
            }

            fn visit_i64<E>(self, value: i64) -> Result<Words, E> {
                word(value)
            }

            fn visit_f64<E>(self, value: f64) -> Result<Words, E> {
                word(value)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Words, E> {
                word(value)
            }

            fn visit_unit<E>(self) -> Result<Words, E> {
                word("none")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Words, A::Error> {
                let mut words = Vec::new();
                while let Some(Words(each)) = seq.next_element()? {
                    words.extend(each);
                }
                Ok(Words(words))
            }
        }
        deserializer.deserialize_any(Scalars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_carry_their_words_and_places() {
        let entries = read("# c\nworkers: 8\nport: [80, \"443\"]\npid:\n  - 1\n  - 2\nduration: ~\nring_bytes: 8MiB\n").unwrap();
        let words = entries.iter().map(|entry| (entry.key.as_str(), entry.words.join(" "))).collect::<Vec<_>>();
        let expected = [("workers", "8"), ("port", "80 443"), ("pid", "1 2"), ("duration", "none"), ("ring_bytes", "8MiB")];
        assert_eq!(words, expected.map(|(key, words)| (key, words.to_owned())));
        assert_eq!(entries[0].key_at, Place { line: 2, column: 1 });
        assert_eq!(entries[0].words_at, Place { line: 2, column: 10 });
    }

    #[test]
    fn an_empty_file_has_no_entries() {
        assert_eq!(read(""), Ok(vec![]));
        assert_eq!(read("# nothing\n"), Ok(vec![]));
    }

    #[test]
    fn what_is_no_mapping_is_refused_with_its_place() {
        for (text, line) in [("workers: {a: 1}\n", 1), ("workers: 1\nworkers: 2\n", 2), ("a: 1\nb: [1\n", 2), ("- a\n", 1)] {
            let malformed = read(text).unwrap_err();
            assert!(malformed.place.is_some_and(|place| place.line >= line), "{text:?} {malformed:?}");
            assert!(!malformed.why.contains('\n'));
        }
    }
}
