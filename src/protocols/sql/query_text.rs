//! The SQL of one message as exchanges show it: normalised, and as it was sent where the user wants that.

use super::{Dialect, Normalised, Text};

/// Longest text kept as it was sent, in bytes.
const RAW_LIMIT: usize = 4096;

/// The normalised statements of one message, and their text as it was sent where the user wants it.
#[derive(Clone, Debug, Default)]
pub struct QueryText {
    text: Text,
    raw: String,
}

impl QueryText {
    /// A text that stands for one that is not known.
    pub fn placeholder(text: String) -> Self {
        Self { text: Text::placeholder(text), raw: String::new() }
    }

    /// How many statements the text holds; empty ones do not count.
    pub fn count(&self) -> usize {
        self.text.count()
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        self.text.size() + self.raw.len()
    }

    pub fn get(&self, index: usize) -> Option<Normalised<'_>> {
        self.text.get(index)
    }

    /// One of its statements as it was sent; empty where the user did not ask for it or it holds a credential.
    pub fn raw(&self, index: usize) -> &str {
        self.text.source(index).and_then(|range| self.raw.get(range)).map_or("", str::trim)
    }

    /// Replaces the content; `cut` says that the text goes on behind `sql`, `raw` that the user wants it as it was sent.
    pub fn set(&mut self, sql: &[u8], cut: bool, dialect: Dialect, raw: bool) {
        self.text.set(sql, cut, dialect);
        self.raw.clear();
        // What is too long or not UTF-8 is left to the normalised form.
        if raw && sql.len() <= RAW_LIMIT && !holds_credential(sql, cut) {
            self.raw.push_str(std::str::from_utf8(sql).unwrap_or_default());
        }
    }
}

/// IDENTIFIED BY, PASSWORD, MASTER_PASSWORD, `passwd=`, `crypt(…)`, a URL with user information and the like. The word comes before the
/// credential, so a cut text that shows the one shows the other; of a URL that is cut nobody knows.
fn holds_credential(sql: &[u8], cut: bool) -> bool {
    let find = |word: &[u8]| sql.windows(word.len()).position(|window| window.eq_ignore_ascii_case(word));
    let words: [&[u8]; 5] = [b"IDENTIFIED", b"PASSW", b"CREDENTIAL", b"SECRET", b"CRYPT"];
    words.into_iter().any(|word| find(word).is_some())
        || find(b"://").is_some_and(|begin| cut || sql.get(begin..).is_some_and(|url| url.contains(&b'@')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSTGRESQL: Dialect = Dialect::Postgresql { escapes: false };

    fn raw(sql: &str, cut: bool) -> String {
        let mut text = QueryText::default();
        text.set(sql.as_bytes(), cut, POSTGRESQL, true);
        text.raw(0).to_owned()
    }

    #[test]
    fn each_statement_is_shown_as_it_was_sent_only_when_wanted() {
        let mut text = QueryText::default();
        text.set(b" SELECT 'a;b' ; SELECT 7", false, POSTGRESQL, true);
        assert_eq!((text.raw(0), text.raw(1), text.raw(2)), ("SELECT 'a;b'", "SELECT 7", ""));
        assert_eq!(text.get(0).unwrap().text, "SELECT ?");
        text.set(b"SELECT 'a'", false, POSTGRESQL, false);
        assert_eq!(text.raw(0), "");
        assert_eq!(text.raw.len(), 0);
    }

    #[test]
    fn what_holds_a_credential_is_not_shown() {
        for sql in [
            "ALTER ROLE a PASSWORD 'hunter2'",
            "create user a identified by 'hunter2'",
            "SELECT dblink_connect('host=h passwd=hunter2')",
            "SELECT dblink_connect('postgresql://me:hunter2@h/db')",
            "CREATE SECRET s (KEY 'hunter2')",
            "SELECT crypt('hunter2', gen_salt('bf'))",
            "SELECT 1; SET password = 'hunter2'",
        ] {
            assert_eq!(raw(sql, false), "", "{sql}");
        }
        assert_eq!(raw("SELECT dblink_connect('postgresql://me:hunt", true), "");
        assert_eq!(raw("SELECT 'http://shop/a'", false), "SELECT 'http://shop/a'");
        assert_eq!(raw(&format!("SELECT '{}'", "x".repeat(RAW_LIMIT)), false), "");
    }
}
