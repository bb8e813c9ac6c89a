//! What this kernel's verifier has to do for the programs stays far below the number at which it gives up.
//! Other kernels have a baseline beside that: tests/kernels/verifier.py.

use std::{fs, process::Command, time::Duration};

use crate::support::{
    agent::remora,
    machine,
    process::{run, run_within},
};

fn python(script: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg("-B").arg(format!("{}/tests/kernels/{script}", env!("CARGO_MANIFEST_DIR")));
    command
}

#[test]
fn no_program_of_either_flavour_comes_near_to_the_verifiers_limit() {
    let _turn = machine();
    let folder = tempfile::tempdir().expect("a folder");
    let mut check = python("verifier.py");
    check.arg("check");
    // the perf buffer goes with the plain flavour on every kernel
    for (transport, name) in [("auto", "host.doctor.json"), ("perf", "host.doctor.perf.json")] {
        let ended =
            run_within(remora().args(["doctor", "--json", "--kubernetes", "off", "--transport", transport]), Duration::from_secs(120));
        let path = folder.path().join(name);
        fs::write(&path, ended.stdout).expect("what the doctor says");
        check.arg(path);
    }
    println!("{}", run(&mut check).stdout);
}

#[test]
fn costs_that_grow_are_found() {
    run(&mut python("verifier_tests.py"));
}
