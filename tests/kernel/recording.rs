//! A live run that is recorded and its replays say the same, byte for byte.

use std::process::Command;

use tempfile::TempDir;

use crate::{
    http::load,
    support::{
        agent::{Agent, remora},
        exchange::Report,
        machine,
        nginx::Nginx,
        postgres::Postgres,
        process::run,
        program,
    },
};

/// The lines without the `ready` line, which carries the clock.
pub fn after_ready(output: &[u8]) -> Vec<&str> {
    let text = std::str::from_utf8(output).expect("UTF-8");
    let (ready, others): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with("{\"type\":\"ready\""));
    assert_eq!(ready.len(), 1, "one ready line");
    others
}

#[test]
fn a_recorded_run_and_its_replays_are_the_same_byte_for_byte() {
    let _machine = machine();
    let directory = TempDir::with_prefix("remora-recording-").expect("make a directory");
    let recording = directory.path().join("run.rrec");
    let file = recording.to_str().expect("a path of characters");
    let nginx = Nginx::start();
    let postgres = Postgres::start();
    run(postgres.client("pgbench").args(["-i", "-q", "-s", "1"]));
    let agent = Agent::start_as(&["record", file, "--output", "json"], &[]);
    load(&nginx, 5_000, 16, 0);
    run(postgres.client("pgbench").args(["-n", "-M", "extended", "-c", "2", "-t", "100"]));
    run(Command::new(program("load")).args(["connect", "--address", "127.0.0.1:1"]));
    let stopped = agent.stop();
    assert!(stopped.status.success(), "{}", stopped.stderr);
    let port = nginx.port;
    nginx.stop();

    let live = after_ready(&stopped.stdout);
    assert_eq!(stopped.report.of(port, "server").len(), 5_000);
    stopped.report.summary().assert_nothing_lost();
    let replays = [(); 2].map(|()| run(remora().args(["replay", file, "--output", "json"])).stdout);
    let [first, second] = replays.each_ref().map(|output| after_ready(output.as_bytes()));
    assert_same("two replays", &first, &second);
    assert_same("the live run and its replay", &live, &first);
    assert_eq!(Report::read(&replays[0]).of(port, "client").len(), 5_000);
}

/// Says where the first difference is instead of printing megabytes.
#[track_caller]
pub fn assert_same(what: &str, left: &[&str], right: &[&str]) {
    if let Some(position) = (0..left.len().max(right.len())).find(|position| left.get(*position) != right.get(*position)) {
        let (one, other) = (left.get(position), right.get(position));
        panic!("{what} differ at line {position} of {} and {}:\n{one:?}\n{other:?}", left.len(), right.len());
    }
}

#[test]
fn a_replay_needs_no_root() {
    let _machine = machine();
    let directory = TempDir::with_prefix("remora-recording-").expect("make a directory");
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("open the directory to all");
    let recording = directory.path().join("run.rrec");
    let file = recording.to_str().expect("a path of characters");
    let nginx = Nginx::start();
    let agent = Agent::start_as(&["record", file, "--output", "json"], &[]);
    load(&nginx, 100, 2, 0);
    agent.finish();
    nginx.stop();
    let copy = directory.path().join("remora");
    std::fs::copy(crate::support::agent::binary(), &copy).expect("copy the program to where everybody can read it");
    std::fs::set_permissions(&recording, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("open the recording to all");
    let mut replay = Command::new("setpriv");
    replay.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy).args(["replay", file, "--output", "json"]);
    let report = Report::read(&run(&mut replay).stdout);
    assert_eq!(report.exchanges.iter().filter(|exchange| exchange.side == "server").count(), 100);
}
