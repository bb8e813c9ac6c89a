//! What libbpf says while it loads: which program the kernel refused, and what the verifier had to do. Its return values tell neither.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

/// What the verifier had to do for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Instructions that it walked, over all ways through the program; it gives up at a million.
    pub instructions: u64,
    pub microseconds: u64,
}

/// Of one load.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// The program that was refused, and why, as the kernel writes it.
    pub refused: Option<(String, String)>,
    /// By program; of those whose log was asked for.
    pub verified: BTreeMap<String, Verified>,
}

static VERDICTS: Mutex<Verdicts> = Mutex::new(Verdicts { refused: None, verified: BTreeMap::new() });

/// Sends libbpf's words here and to our own log. Its advice ("raise ulimit -l" on any EPERM) misleads: what the user sees is our error
/// with its errno.
pub fn listen() {
    libbpf_rs::set_print(Some((libbpf_rs::PrintLevel::Debug, |level, text| {
        let text = text.trim_end();
        note(text, &mut VERDICTS.lock().unwrap_or_else(PoisonError::into_inner));
        match level {
            libbpf_rs::PrintLevel::Debug => tracing::trace!("{text}"),
            _ => tracing::debug!("{text}"),
        }
    })));
}

/// What was heard since the last time.
pub fn take() -> Verdicts {
    std::mem::take(&mut VERDICTS.lock().unwrap_or_else(PoisonError::into_inner))
}

fn note(text: &str, verdicts: &mut Verdicts) {
    let Some((name, rest)) = text.strip_prefix("libbpf: prog '").and_then(|rest| rest.split_once("': ")) else { return };
    if let Some(why) = rest.strip_prefix("failed to load: ") {
        verdicts.refused = Some((name.to_owned(), why.to_owned()));
    } else if rest.starts_with("-- BEGIN PROG LOAD LOG --") {
        // The kernel's print_verification_stats, kernel/bpf/verifier.c.
        let number = |after: &str| rest.rsplit_once(after)?.1.split(' ').next()?.parse().ok();
        if let (Some(instructions), Some(microseconds)) = (number("\nprocessed "), number("verification time ")) {
            verdicts.verified.insert(name.to_owned(), Verified { instructions, microseconds });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_and_costs_are_heard() {
        let mut verdicts = Verdicts::default();
        note("libbpf: prog 'on_exec': failed to load: -EINVAL", &mut verdicts);
        let log = "libbpf: prog 'on_exit': -- BEGIN PROG LOAD LOG --\nverification time 91 usec\nstack depth 0+0\n\
                   processed 118 insns (limit 1000000) max_states_per_insn 0 total_states 4 peak_states 4 mark_read 0\n\
                   -- END PROG LOAD LOG --";
        note(log, &mut verdicts);
        note("libbpf: map 'conns': created successfully, fd=5", &mut verdicts);
        assert_eq!(verdicts.refused, Some(("on_exec".to_owned(), "-EINVAL".to_owned())));
        assert_eq!(verdicts.verified, BTreeMap::from([("on_exit".to_owned(), Verified { instructions: 118, microseconds: 91 })]));
    }
}
