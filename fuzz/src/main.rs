//! libFuzzer's way into the targets: `REMORA_FUZZ_TARGET` names one of [`targets::all`].
#![no_main]

#[path = "../../tests/hostile/memory.rs"]
mod memory;
mod meter;
mod script;
mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<targets::Target> = OnceLock::new();

fuzz_target!(|input: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let wanted = std::env::var("REMORA_FUZZ_TARGET").unwrap_or_default();
        let names: Vec<String> = targets::all().into_iter().map(|target| target.name).collect();
        targets::all().into_iter().find(|target| target.name == wanted).unwrap_or_else(|| panic!("REMORA_FUZZ_TARGET is one of {names:?}"))
    });
    target.run(input);
});
