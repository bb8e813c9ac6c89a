//! Parses, starts logging, dispatches.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use remora::{
    agent,
    cli::{self, Command, ConfigAction, Parsed},
    doctor,
    telemetry::{self, Exit, Failure},
};

fn main() -> ExitCode {
    match run() {
        Ok(exit) => exit.into(),
        Err(error) => {
            // Nowhere is left to say that standard error is closed.
            drop(writeln!(io::stderr(), "remora: {}", telemetry::one_line(&error)));
            Failure::exit_of(&error).into()
        }
    }
}

fn run() -> Result<Exit> {
    let invocation = match cli::parse(std::env::args_os(), std::env::vars_os())? {
        Parsed::Text(text) => return print(&text.to_string()),
        Parsed::Invocation(invocation) => invocation,
    };
    let (settings, config) = (&invocation.settings, &invocation.settings.config);
    telemetry::init_logging(config.log.name().parse()?);
    match invocation.command {
        Command::Config { action: ConfigAction::Check } => print("ok\n"),
        Command::Config { action: ConfigAction::Print } => print(&settings.to_yaml()),
        Command::Doctor { json } => {
            let report = doctor::examine(config, |features, family| agent::trial(config, features, family));
            print(&if json { report.to_json()? } else { report.to_string() })?;
            Ok(report.exit())
        }
        Command::Run | Command::Agent => agent::run(config),
        Command::Record { file } => agent::record(config, &file),
        Command::Btf { action } => {
            let (text, sound) = action.run(&config.btf_archive)?;
            print(&text).map(|done| if sound { done } else { Exit::Failed })
        }
        Command::Replay { file } => agent::replay(config, &file),
    }
}

/// Data goes to standard output; a reader that went away (`| head`) is no error.
fn print(text: &str) -> Result<Exit> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("writing to standard output"),
        _ => Ok(Exit::Done),
    }
}
