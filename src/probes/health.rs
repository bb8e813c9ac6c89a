//! What became of each program and attachment.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{load::Flavour, transport::Transport, verdicts::Verified};

/// How a family of hooks was loaded, and what became of its programs.
#[derive(Clone, Debug)]
pub struct Trial {
    /// `None`: its programs have one form only.
    pub flavour: Option<Flavour>,
    pub transport: Transport,
    pub programs: Vec<(String, Health)>,
    /// What they cost the verifier, by program.
    pub verified: BTreeMap<String, Verified>,
}

/// State of one program after the attempt to load and attach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "why", rename_all = "lowercase")]
pub enum Health {
    Attached,
    /// This kernel does not offer what the program needs; nothing is wrong.
    Unsupported,
    /// It should have worked. The text says what failed, in the words of the kernel.
    Failed(String),
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Health::Attached => f.pad("attached"),
            Health::Unsupported => f.pad("unsupported"),
            Health::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}
