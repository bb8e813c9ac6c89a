//! Which bytes make a word, and the words that matter.

pub fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

/// Bytes that go on in a word; a table, because most bytes of a statement are asked.
const IN_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    loop {
        let (slot, _) = table.split_at_mut(byte as usize + 1);
        if let Some(last) = slot.last_mut() {
            *last = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80;
        }
        if byte == 255 {
            break;
        }
        byte += 1;
    }
    table
};

pub fn continues_word(byte: u8) -> bool {
    IN_WORD.get(usize::from(byte)).copied().unwrap_or_default()
}

pub fn is_boolean(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"TRUE") || word.eq_ignore_ascii_case(b"FALSE")
}

/// A keyword behind which a value begins, so that `-` is its sign; behind a name it subtracts.
pub fn precedes_value(word: &[u8]) -> bool {
    const KEYWORDS: [&str; 29] = [
        "SELECT",
        "WHERE",
        "AND",
        "OR",
        "NOT",
        "IN",
        "LIMIT",
        "OFFSET",
        "BETWEEN",
        "THEN",
        "ELSE",
        "WHEN",
        "CASE",
        "RETURNING",
        "BY",
        "ON",
        "HAVING",
        "LIKE",
        "SET",
        "TO",
        "DEFAULT",
        "DISTINCT",
        "ALL",
        "FROM",
        "FOR",
        "USING",
        "FETCH",
        "MOVE",
        "VALUES",
    ];
    KEYWORDS.iter().any(|keyword| word.eq_ignore_ascii_case(keyword.as_bytes()))
}

/// The verb that a word in capitals is, for use as an operation; empty for others, so that there are never more than these.
pub fn operation(upper: &[u8]) -> &'static str {
    OPERATIONS.iter().find(|known| known.as_bytes() == upper).copied().unwrap_or("")
}

/// As [`operation`], of MySQL and MariaDB.
pub fn mysql_operation(upper: &[u8]) -> &'static str {
    MYSQL_OPERATIONS.iter().find(|known| known.as_bytes() == upper).copied().unwrap_or("")
}

/// First words of MySQL's and MariaDB's statements (MySQL reference manual, chapter "SQL Statements"; MariaDB knowledge base, "SQL
/// Statements"), the frequent ones first.
#[rustfmt::skip]
const MYSQL_OPERATIONS: &[&str] = &[
    "SELECT", "INSERT", "UPDATE", "DELETE", "SET", "COMMIT", "BEGIN", "ROLLBACK", "START", "REPLACE", "SHOW", "USE", "CALL", "WITH", "LOAD",
    "CREATE", "DROP", "ALTER", "TRUNCATE", "RENAME", "DESCRIBE", "DESC", "EXPLAIN", "ANALYZE", "EXECUTE", "PREPARE", "DEALLOCATE", "SAVEPOINT",
    "RELEASE", "LOCK", "UNLOCK", "FLUSH", "KILL", "GRANT", "REVOKE", "XA", "DO", "HANDLER", "VALUES", "TABLE", "OPTIMIZE", "REPAIR", "CHECK",
    "CHECKSUM", "RESET", "PURGE", "CHANGE", "STOP", "INSTALL", "UNINSTALL", "SIGNAL", "RESIGNAL", "GET", "DECLARE", "IF", "CASE", "LOOP", "WHILE",
    "REPEAT", "FOR", "HELP", "BINLOG", "CACHE", "SHUTDOWN", "RESTART", "CLONE", "IMPORT", "BACKUP",
];

/// First words of PostgreSQL's statements (manual, part VI), the frequent ones first.
const OPERATIONS: [&str; 57] = [
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "BEGIN",
    "COMMIT",
    "WITH",
    "END",
    "SET",
    "ROLLBACK",
    "COPY",
    "FETCH",
    "CREATE",
    "DROP",
    "ALTER",
    "SHOW",
    "EXECUTE",
    "PREPARE",
    "DEALLOCATE",
    "DISCARD",
    "DECLARE",
    "CLOSE",
    "START",
    "SAVEPOINT",
    "RELEASE",
    "ABORT",
    "TRUNCATE",
    "VACUUM",
    "ANALYZE",
    "ANALYSE",
    "EXPLAIN",
    "VALUES",
    "TABLE",
    "MERGE",
    "LOCK",
    "LISTEN",
    "NOTIFY",
    "UNLISTEN",
    "GRANT",
    "REVOKE",
    "CALL",
    "DO",
    "MOVE",
    "RESET",
    "REFRESH",
    "REINDEX",
    "CLUSTER",
    "CHECKPOINT",
    "COMMENT",
    "IMPORT",
    "LOAD",
    "REASSIGN",
    "SECURITY",
    "START_REPLICATION",
    "IDENTIFY_SYSTEM",
    "CREATE_REPLICATION_SLOT",
    "BASE_BACKUP",
];
