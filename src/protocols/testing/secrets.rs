//! The word that recordings carry wherever a program can put a value: it must not come out of any of them.

use std::{fs, path::PathBuf};

use super::{Conversation, golden};
use crate::protocols::{DEFINITIONS, Opening, Transport};

const SECRET: &str = "hunter2";

#[test]
fn the_planted_word_comes_out_of_no_recorded_conversation() {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut carried = 0;
    for directory in fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if path.extension().is_none_or(|extension| extension != "txt") {
                continue;
            }
            let calls = golden::parse_calls(&fs::read_to_string(&path).unwrap());
            let holds = |bytes: &[u8]| bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
            carried += usize::from(calls.iter().any(|(_, bytes)| holds(bytes)));
            // Also by a parser whose protocol it is not: a connection can be given a wrong name.
            for definition in DEFINITIONS.iter().filter(|definition| definition.transports.contains(&Transport::Stream)) {
                for adopted in [false, true] {
                    let mut talk = Conversation::new((definition.parser)(Opening { adopted, ..Opening::default() }), 0);
                    for (flow, bytes) in &calls {
                        if !talk.refused() {
                            talk.call(*flow, bytes);
                        }
                    }
                    talk.close();
                    let told = format!("{:?}", talk.seen);
                    assert!(!told.contains(SECRET), "{} read as {}: {told}", path.display(), definition.protocol);
                }
            }
        }
    }
    assert!(carried > 20, "the recordings carry the word: {carried}");
}
