//! A client and a server that speak HTTP/1.1 over every system call that moves bytes of a socket, in every awkward manner, and write down what
//! they did with their own clocks: the kernel tests compare that with what the agent saw.
//!
//! Both go through the same list of ways ([`ways::WAYS`]), one connection after the other, so that each knows what the other does.

mod channel;
mod client;
mod noise;
mod server;
mod ways;

use std::{net::SocketAddr, time::Instant};

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
enum Command {
    /// Accepts one connection for every way, on one address; prints its port first.
    Server {
        #[arg(long)]
        address: SocketAddr,
    },
    /// Opens one connection for every way.
    Client {
        #[arg(long)]
        address: SocketAddr,
        /// Part of the paths: v4, v6, mapped.
        #[arg(long)]
        family: String,
    },
    /// Two sockets of this process that send each other random bytes by every system call.
    Noise {
        #[arg(long)]
        seed: u64,
        #[arg(long)]
        connections: u64,
    },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Server { address } => server::serve(address),
        Command::Client { address, family } => client::ask(address, &family),
        Command::Noise { seed, connections } => noise::make(seed, connections),
    }
}

/// Nanoseconds between two times of this program.
fn between(from: Instant, to: Instant) -> u64 {
    to.duration_since(from).as_nanos() as u64
}
