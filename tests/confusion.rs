//! No connection is ever named wrongly, whatever is said on it and wherever it is joined; and the page about that is true.

#[path = "../examples/confusion/corpus.rs"]
mod corpus;
#[path = "../examples/confusion/matrix.rs"]
mod matrix;
#[path = "support/transcript.rs"]
mod transcript;

use std::{collections::BTreeSet, fs, path::Path, sync::OnceLock};

use matrix::Matrix;

fn matrix() -> &'static Matrix {
    static MATRIX: OnceLock<Matrix> = OnceLock::new();
    MATRIX.get_or_init(|| Matrix::of(&corpus::corpus().expect("the corpus")))
}

#[test]
fn no_connection_of_the_corpus_is_named_wrongly() {
    assert_eq!(matrix().wrong(), 0, "{:#?}", matrix().mistakes);
}

#[test]
fn a_recorded_conversation_has_its_name_when_it_is_joined_at_its_begin() {
    let mut protocols = 0;
    for (kind, row) in matrix().begin.iter().filter(|(kind, _)| matrix::is_looked_for(kind)) {
        protocols += 1;
        let named: u64 = row.names.values().sum();
        // Cut to their first bytes some stay without a name.
        assert!(named > 2 * row.unnamed, "{kind}: {named} connections named, {} not", row.unnamed);
    }
    assert!(protocols >= 2, "the corpus has recordings of protocols");
}

/// (first cell, last cell) of each row of the tables.
fn rows(markdown: &str) -> BTreeSet<(String, String)> {
    let rows = markdown.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = rows.map(|row| (row.split(" | ").next().unwrap_or_default(), row.rsplit(" | ").next().unwrap_or_default()));
    cells.filter(|(kind, _)| *kind != "what it is").map(|(kind, wrong)| (kind.to_owned(), wrong.to_owned())).collect()
}

#[test]
fn the_page_shows_every_kind_and_no_wrong_name() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocols/confusion.md");
    let page = fs::read_to_string(path).expect("docs/protocols/confusion.md");
    // The counts change with each recording that is added; what is claimed does not.
    assert_eq!(rows(&page), rows(&matrix().markdown()), "run `make confusion`");
    assert!(rows(&page).iter().all(|(_, wrong)| wrong == "0"), "a wrong name is in the page");
}
