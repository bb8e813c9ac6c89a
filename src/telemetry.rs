//! Our own logs, exit codes and resource use. Knows nothing of what is watched.

use std::{
    fmt,
    io::{self, IsTerminal},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::resource::{UsageWho, getrusage},
    unistd::{SysconfVar, sysconf},
};
use tracing_subscriber::filter::LevelFilter;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    /// This host cannot be observed: kernel, privileges or hooks are missing.
    Unobservable = 3,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that says how the process ends. Travels inside `anyhow::Error`; any other error ends as [`Exit::Failed`].
///
/// It adds nothing to what its cause says: it stands in the chain in the place of the cause.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    cause: anyhow::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}

impl Failure {
    pub fn new(exit: Exit, cause: impl Into<anyhow::Error>) -> Self {
        Self { exit, cause: cause.into() }
    }

    pub fn usage(cause: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Usage, cause)
    }

    pub fn unobservable(cause: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Unobservable, cause)
    }

    /// The exit of the first failure in the chain of an error.
    pub fn exit_of(error: &anyhow::Error) -> Exit {
        error.chain().find_map(|cause| cause.downcast_ref::<Failure>()).map_or(Exit::Failed, |failure| failure.exit)
    }
}

/// The one line that a user sees of an error: the chain of causes, without line breaks.
pub fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Logs to stderr from `level` on, coloured on a terminal only. A second call does nothing.
pub fn init_logging(level: LevelFilter) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(level >= LevelFilter::DEBUG)
        .finish();
    // Fails only where a logger is already set, as in tests.
    drop(tracing::subscriber::set_global_default(subscriber));
}

/// What the process itself has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SelfUsage {
    pub resident_bytes: u64,
    pub cpu_user: Duration,
    pub cpu_system: Duration,
}

impl SelfUsage {
    /// Asks the kernel now.
    ///
    /// # Errors
    /// `/proc/self/statm` is not readable or not in the form of proc(5).
    pub fn read() -> Result<Self> {
        let path = "/proc/self/statm";
        let statm = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).context("asking for the page size")?.unwrap_or(4096) as u64;
        let pages = resident_pages(&statm).with_context(|| format!("understanding {path}: {statm:?}"))?;
        let usage = getrusage(UsageWho::RUSAGE_SELF).context("asking for the resource usage")?;
        let duration = |time: nix::sys::time::TimeVal| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000);
        Ok(Self { resident_bytes: pages * page_bytes, cpu_user: duration(usage.user_time()), cpu_system: duration(usage.system_time()) })
    }
}

/// The second field of proc(5) statm.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_and_a_failure_stands_in_the_place_of_its_cause() {
        let inner = anyhow::anyhow!("no such file\nor folder").context("opening x");
        assert_eq!(one_line(&inner), "opening x: no such file or folder");
        let failure = anyhow::Error::from(Failure::usage(inner)).context("loading");
        assert_eq!(one_line(&failure), "loading: opening x: no such file or folder");
        assert_eq!(Failure::exit_of(&failure), Exit::Usage);
        assert_eq!(Failure::exit_of(&anyhow::anyhow!("x")), Exit::Failed);
    }

    #[test]
    fn own_use_of_memory_is_seen_to_grow() {
        let mut blocks = Vec::new();
        let mut grows = || {
            let before = SelfUsage::read().unwrap();
            // Kept, so that the next one is other memory; and the compiler must not find out that nobody needs it.
            blocks.push(std::hint::black_box(vec![1_u8; 32 << 20]));
            let after = SelfUsage::read().unwrap();
            assert!(after.cpu_user + after.cpu_system >= before.cpu_user + before.cpu_system);
            after.resident_bytes > before.resident_bytes + (16 << 20)
        };
        // Tests beside this one may give memory back at the same time.
        assert!((0..8).any(|_| grows()));
        assert_eq!(resident_pages("12 7 3 0 0 0 0"), Some(7));
        assert_eq!(resident_pages(""), None);
    }
}
