//! The confusion matrix: what each connection of the corpus is, and what it was named. Markdown on standard output; fails when any name
//! is wrong.
//!
//! `cargo run --release --example confusion -- [--write FILE]`: FILE gets it between its two marks.

mod corpus;
mod matrix;
#[path = "../../tests/support/transcript.rs"]
mod transcript;

use std::fs;

use anyhow::{Context, Result, bail, ensure};

const BEGIN: &str = "<!-- made by `make confusion` -->";
const END: &str = "<!-- end -->";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let matrix = matrix::Matrix::of(&corpus::corpus()?);
    let tables = matrix.markdown();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => print!("{tables}"),
        ["--write", path] => {
            let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
            let (before, rest) = text.split_once(BEGIN).with_context(|| format!("{path} has no {BEGIN:?}"))?;
            let (_, after) = rest.split_once(END).with_context(|| format!("{path} has no {END:?}"))?;
            fs::write(path, format!("{before}{BEGIN}\n\n{tables}{END}{after}")).with_context(|| format!("writing {path}"))?;
        }
        _ => bail!("usage: confusion [--write FILE]"),
    }
    for (what, how) in &matrix.mistakes {
        eprintln!("{what}, {how}");
    }
    ensure!(matrix.wrong() == 0, "{} connections were named wrongly", matrix.wrong());
    Ok(())
}
