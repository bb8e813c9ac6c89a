//! The command line: from words to a command and the settings in force. Does nothing itself.

use std::{ffi::OsString, path::PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint, error::ErrorKind};

use crate::{
    btf,
    config::{self, Effective, FILE_VARIABLE, Origin, Output, Setting, Sources},
    telemetry::Failure,
};

const EXAMPLES: &str = "\
Every setting can be given as an option (--capture-bytes), as an environment variable
(REMORA_CAPTURE_BYTES) or as a key of the file (capture_bytes). The first of these wins;
what none of them says keeps its default.

Exit status: 0 done, 1 failed, 2 wrong usage or settings, 3 this host cannot be observed.

Examples:
  remora run                                    who talks to whom, in a live table
  remora run --port 80,5432 --output json       only these ports, as JSON lines
  remora run --hooks packet --interface cni0    frames of a bridge, without processes
  remora agent --listen 0.0.0.0:7117            metrics for a scraper, no table
  remora doctor                                 why does it not work here?
  remora record trace.rrec --duration 10s       keep ten seconds ...
  remora replay trace.rrec --output json        ... and look at them later, without root
  remora replay dump.pcap                       captures of tcpdump work, too
  remora config print > remora.yaml             a file to start from
";

const RUN: &str = "\
Needs root, or CAP_BPF and CAP_PERFMON; see remora doctor where it does not start.

Keys in the table: r, e, p sort by rate, errors, p99; arrows, PgUp, PgDn, Home, End scroll; q leaves.
Where standard output is no terminal, the table is printed as plain lines every five seconds.
HTTP at the address of --listen: /metrics /healthz /readyz /api/v1/service-map /api/v1/status
Ctrl-C or SIGTERM ends it within two seconds, with a summary of what was seen and lost.";

const AGENT: &str = "\
The same as remora run, but with no table: what is seen leaves by HTTP at the address of --listen
(/metrics /healthz /readyz /api/v1/service-map /api/v1/status), and as JSON lines with --output json.
For scrapers on other hosts: --listen 0.0.0.0:7117. There is no login: keep the port inside your network.";

const DOCTOR: &str = "\
Where the kernel seems to have what is needed, the programs are really loaded and attached for a trial,
and taken away again. Exit status: 0 capture can work, 3 it cannot.";

const RECORD: &str = "\
A recording holds every captured byte, secrets included, unlike all other outputs: it is a file for the
people who may see the traffic. With --duration 10s it ends by itself; remora replay reads it.";

const REPLAY: &str = "\
Recordings of remora record and captures of tcpdump and Wireshark. Needs no root and no kernel support.
--output json gives every exchange and connection; otherwise only a summary is printed.
A recording replayed with the same --sides gives the exchanges that were seen live.";

const BTF: &str = "\
An archive holds the types of many kernels, minimised for these programs; btfhub/minimise.sh makes one, docs/btf.md
says how. --btf-archive names it; the kernel that runs is found in it by os-release and uname -r.
Exit status of check: 0 all are sound, 1 some are not.";

/// Shows which programs of this host talk to which, how often, how fast and with what errors.
/// Remora watches from inside the kernel (eBPF) and understands the protocols spoken. The watched programs need no change and no restart.
#[derive(Debug, Parser)]
#[command(name = "remora", version, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true, max_term_width = 120)]
struct Line {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
struct Common {
    /// YAML file with settings [env: REMORA_CONFIG]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Log more; -vv for everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Log less; -qq for errors only
    #[arg(short, long, global = true, action = ArgAction::Count)]
    quiet: u8,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Watch this host: a live table here, metrics and the service map over HTTP
    #[command(after_help = RUN)]
    Run,
    /// Watch this host for others: exporters only, no table
    #[command(after_help = AGENT)]
    Agent,
    /// Say what this kernel offers, what is chosen and why, what is missing and what that costs
    #[command(after_help = DOCTOR)]
    Doctor {
        /// One JSON object instead of sentences
        #[arg(long)]
        json: bool,
    },
    /// Watch this host and keep what is captured in a recording
    #[command(after_help = RECORD)]
    Record {
        /// The recording to write; what stands in it is replaced
        #[arg(value_name = "F")]
        file: PathBuf,
    },
    /// Understand a recording, pcap or pcapng file as if it happened now; needs no root
    #[command(after_help = REPLAY)]
    Replay {
        /// The file to read; its kind is told by its first bytes
        #[arg(value_name = "F")]
        file: PathBuf,
    },
    /// Archives of kernel types (BTF), for kernels that carry none: list, pack, check
    #[command(after_help = BTF)]
    Btf {
        #[command(subcommand)]
        action: btf::Action,
    },
    /// Check or print the settings
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum ConfigAction {
    /// Say ok, or what is wrong
    Check,
    /// Print the settings in force as YAML, each with its origin
    Print,
}

/// A command line understood.
#[derive(Clone, Debug)]
pub struct Invocation {
    pub command: Command,
    pub settings: Effective,
}

/// What a command line comes to.
#[derive(Debug)]
pub enum Parsed {
    Invocation(Box<Invocation>),
    /// `--help` or `--version`: to be printed to standard output.
    Text(clap::builder::StyledStr),
}

/// Reads the command line, the environment and the file.
///
/// # Errors
/// [`Failure`] with [`Exit::Usage`](crate::telemetry::Exit::Usage) for anything that is not allowed, and for a file that cannot be read.
pub fn parse(words: impl IntoIterator<Item = OsString>, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Parsed> {
    let matches = match command().try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Parsed::Text(error.render()));
        }
        Err(error) => return Err(usage(&error)),
    };
    let line = Line::from_arg_matches(&matches).map_err(|error| usage(&error))?;
    let environment = environment.into_iter().map(|(name, value)| (lossy(name), lossy(value))).collect::<Vec<_>>();
    let path = line.common.config.or_else(|| {
        environment.iter().find(|(name, value)| name == FILE_VARIABLE && !value.is_empty()).map(|(_, value)| PathBuf::from(value))
    });
    let file = path.map(read_file).transpose().map_err(Failure::usage)?;
    let log_steps = i32::from(line.common.verbose) - i32::from(line.common.quiet);
    let sources = Sources { file, environment, flags: flags(&matches), log_steps };
    let mut settings = Effective::merge(&sources).map_err(|error: config::Error| Failure::usage(error))?;
    if line.command == Command::Agent && settings.origin("output") == &Origin::Default {
        settings.config.output = Output::None;
    }
    Ok(Parsed::Invocation(Box::new(Invocation { command: line.command, settings })))
}

/// The derived commands, and one option for each setting.
fn command() -> clap::Command {
    let mut command = Line::command();
    for (order, setting) in Setting::all().iter().enumerate() {
        let default = (setting.words)(&config::Config::default()).join(",");
        let default = if default.is_empty() { String::new() } else { format!(" [default: {default}]") };
        command = command.arg(
            Arg::new(setting.key)
                .long(setting.flag.as_str())
                .value_name(setting.placeholder)
                .help(format!("{} [{}]{default}", setting.help, setting.allowed))
                .help_heading(setting.heading)
                .display_order(order)
                .global(true)
                .action(if setting.many { ArgAction::Append } else { ArgAction::Set }),
        );
    }
    command
}

fn flags(matches: &ArgMatches) -> Vec<(&'static str, Vec<String>)> {
    let words = |setting: &Setting| Some(matches.get_many::<String>(setting.key)?.cloned().collect());
    Setting::all().iter().filter_map(|setting| Some((setting.key, words(setting)?))).collect()
}

fn read_file(path: PathBuf) -> Result<(PathBuf, String)> {
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading the settings of {}", path.display()))?;
    Ok((path, text))
}

fn lossy(text: OsString) -> String {
    text.to_string_lossy().into_owned()
}

/// clap's report without its prefix and its usage paragraph, on one line.
fn usage(error: &clap::Error) -> anyhow::Error {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Failure::usage(anyhow!("a command is missing: run, agent, doctor, record, replay, btf or config; see remora --help"))
            .into();
    }
    let text = error.render().to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or_default().split("\n\nFor more information").next().unwrap_or_default();
    let said = said.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ").replace(" tip: ", "; ");
    Failure::usage(anyhow!("{said}; see remora --help")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Parsed> {
        parse(line.split(' ').map(OsString::from), [])
    }

    fn invocation(line: &str) -> Invocation {
        match parsed(line).unwrap() {
            Parsed::Invocation(invocation) => *invocation,
            Parsed::Text(text) => panic!("{text}"),
        }
    }

    #[test]
    fn the_commands_and_options_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn options_are_taken_before_and_after_the_command_and_lists_add_up() {
        let before = invocation("remora --port 80 --workers 3 run");
        assert_eq!((before.command, before.settings.config.port, before.settings.config.workers), (Command::Run, vec![80], 3));
        let after = invocation("remora record x.rrec --port 80,81 --port 82 --duration 10s");
        assert_eq!(after.settings.config.port, [80, 81, 82]);
        assert_eq!(after.settings.config.duration, Some(std::time::Duration::from_secs(10)));
        let nested = invocation("remora config print --sides server");
        assert_eq!(nested.settings.config.sides, config::Sides::Server);
    }

    #[test]
    fn the_agent_prints_nothing_unless_told_to() {
        assert_eq!(invocation("remora run").settings.config.output, Output::Table);
        assert_eq!(invocation("remora agent").settings.config.output, Output::None);
        assert_eq!(invocation("remora agent --output json").settings.config.output, Output::Json);
        let variable = [(OsString::from("REMORA_OUTPUT"), OsString::from("table"))];
        let Parsed::Invocation(told) = parse(["remora", "agent"].map(OsString::from), variable).unwrap() else { panic!() };
        assert_eq!(told.settings.config.output, Output::Table);
    }

    #[test]
    fn every_setting_is_an_option_a_variable_and_a_key() {
        for setting in Setting::all() {
            let word = (setting.words)(&config::Config::default()).join(",");
            // Lists are empty by default: a choice's first word, or a number.
            let first = setting.allowed.split(',').next().filter(|first| !first.contains(' ')).unwrap_or("7");
            let word = if word.is_empty() { first.to_owned() } else { word };
            let word = if setting.key == "address" { "10.0.0.0/8".to_owned() } else { word };
            // These say nothing with other hooks.
            let is_of_frames = ["interface", "address"].contains(&setting.key);
            let rest = [("hooks", "packet"), ("interface", "lo")].into_iter().filter(|(key, _)| is_of_frames && *key != setting.key);
            let line =
                rest.clone().fold(format!("remora run --{} {word}", setting.flag), |line, (key, word)| format!("{line} --{key} {word}"));
            assert_eq!(invocation(&line).settings.origin(setting.key), &config::Origin::Flag(format!("--{}", setting.flag)));
            let rest = rest.map(|(key, word)| (format!("REMORA_{}", key.to_uppercase()), word.to_owned()));
            let variable = rest.chain([(setting.variable.clone(), word)]).map(|(name, word)| (OsString::from(name), OsString::from(word)));
            let Parsed::Invocation(found) = parse(["remora", "run"].map(OsString::from), variable).unwrap() else { panic!() };
            assert_eq!(found.settings.origin(setting.key), &config::Origin::Environment(setting.variable.clone()));
        }
    }

    #[test]
    fn a_missing_command_and_an_unknown_option_are_usage_errors_on_one_line() {
        for line in ["remora", "remora run --nonsense 3", "remora record", "remora fly", "remora run --workers"] {
            let error = parsed(line).unwrap_err();
            assert_eq!(Failure::exit_of(&error), crate::telemetry::Exit::Usage, "{line}");
            assert!(!error.to_string().contains('\n') && error.to_string().ends_with("see remora --help"), "{error}");
        }
    }
}
