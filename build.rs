//! Compiles each `src/bpf/*.bpf.c`, links the objects into one and generates its skeleton into `OUT_DIR`.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result};
use libbpf_cargo::SkeletonBuilder;
use libbpf_rs::Linker;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=src/bpf");
    println!("cargo::rerun-if-changed=vmlinux");

    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let arch = env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH is not set")?;
    let vmlinux = format!("-Ivmlinux/{arch}");
    let clang_args = [&vmlinux, "-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-missing-declarations"];

    let mut sources = Vec::new();
    for entry in fs::read_dir("src/bpf").context("listing src/bpf")? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(b".bpf.c")) {
            sources.push(path);
        }
    }
    sources.sort(); // the object must not depend on the directory's order

    let linked = out.join("remora.bpf.o");
    let mut linker = Linker::new(&linked).with_context(|| format!("making {}", linked.display()))?;
    for source in &sources {
        let object = out.join(source.with_extension("o").file_name().context("a source without a name")?);
        SkeletonBuilder::new()
            .source(source)
            .obj(&object)
            .clang_args(clang_args)
            .build()
            .with_context(|| format!("compiling {}", source.display()))?;
        linker.add_file(&object).with_context(|| format!("linking {}", object.display()))?;
    }
    linker.link().with_context(|| format!("linking {}", linked.display()))?;
    SkeletonBuilder::new().obj(&linked).generate(out.join("remora.skel.rs")).context("generating the skeleton")
}
