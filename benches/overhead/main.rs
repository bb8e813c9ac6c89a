//! What the agent costs the host it watches: throughput, latency, processor, memory, and what it loses.
//!
//! `cargo bench --bench overhead -- [--quick] [--pairs N] [--hooks socket,syscalls] [--sides both,server] [--agent PATH]`
//! Root, nginx and wrk. Everything is on this machine, so clients, server and agent compete for the same processors: the least
//! favourable arrangement. Prints Markdown; progress goes to stderr.

#[path = "../support/mod.rs"]
mod support;

mod load;
mod nginx;
mod saturation;
mod steady;

use std::{path::Path, time::Duration};

use anyhow::Result;
use nginx::Nginx;
use support::{
    Arguments, Machine,
    agent::{Agent, Start},
    busy_share,
};

/// How the agent is started.
#[derive(Clone, Debug)]
struct Mode {
    hooks: String,
    sides: String,
}

impl Mode {
    fn start(&self, program: &Path) -> Result<Agent> {
        let flags = ["--output", "none", "--hooks", &self.hooks, "--sides", &self.sides];
        Agent::start(&Start { program, flags: &flags, processor: None })
    }
}

const MANY_CONNECTIONS: u32 = 10_000;

fn main() -> Result<()> {
    let Some(mut arguments) = Arguments::parse(std::env::args())? else {
        println!("overhead: needs root and a quiet machine; run it by `cargo bench --bench overhead`");
        return Ok(());
    };
    let quick = arguments.quick;
    let pairs: usize = arguments.take("--pairs").map_or(Ok(if quick { 2 } else { 7 }), |text| text.parse())?;
    let hooks = arguments.take("--hooks").unwrap_or_else(|| if quick { "socket" } else { "socket,syscalls" }.to_owned());
    let sides = arguments.take("--sides").unwrap_or_else(|| "both,server".to_owned());
    arguments.nothing_left()?;
    let modes: Vec<Mode> = hooks
        .split(',')
        .flat_map(|hooks| sides.split(',').map(|sides| Mode { hooks: hooks.to_owned(), sides: sides.to_owned() }))
        .collect();
    let agent = arguments.agent.as_path();

    let busy = busy_share(Duration::from_secs(1))?;
    println!("{Machine}; {:.0} % busy before the run. nginx answers a constant; everything on this machine.\n", busy * 100.0);
    let nginx = Nginx::start(MANY_CONNECTIONS as usize)?;

    saturation::throughput(agent, &modes, &nginx, pairs, if quick { 1 } else { 3 })?;
    saturation::kernel_time(agent, &modes, &nginx, if quick { 1 } else { 2 })?;
    // Sides differ in the number of events only, which the tables above show; here the default is enough.
    let first_sides = sides.split(',').next().unwrap_or_default();
    let modes: Vec<Mode> = modes.into_iter().filter(|mode| mode.sides == first_sides).collect();
    steady::latency(agent, &modes, &nginx, if quick { 1 } else { 5 }, Duration::from_secs(if quick { 1 } else { 3 }))?;
    steady::resources(agent, &modes, &nginx, MANY_CONNECTIONS, Duration::from_secs(if quick { 2 } else { 5 }))
}
