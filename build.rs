//! Compiles each `src/bpf/*.bpf.c` in two flavours (`src/bpf/compat.h` says why), links the objects of each into one, and generates the
//! skeleton of the typed one into `OUT_DIR`: maps, programs and types are the same in both. But `packet.bpf.c` needs no types of a kernel
//! and has an object and a skeleton of its own.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use libbpf_cargo::SkeletonBuilder;
use libbpf_rs::Linker;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=src/bpf");
    println!("cargo::rerun-if-changed=vmlinux");

    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let arch = env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH is not set")?;
    let vmlinux = format!("-Ivmlinux/{arch}");

    let mut sources = Vec::new();
    for entry in fs::read_dir("src/bpf").context("listing src/bpf")? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(b".bpf.c")) {
            sources.push(path);
        }
    }
    sources.sort(); // the object must not depend on the directory's order

    let packet = sources.iter().position(|path| path.ends_with("packet.bpf.c")).context("src/bpf/packet.bpf.c is missing")?;
    let packet = compile(&[sources.remove(packet)], &out, "packet", &[&vmlinux])?;
    SkeletonBuilder::new().obj(&packet).generate(out.join("packet.skel.rs")).context("generating the skeleton of the packet filter")?;
    let typed = compile(&sources, &out, "typed", &[&vmlinux])?;
    compile(&sources, &out, "plain", &[&vmlinux, "-DREMORA_PLAIN"])?;
    SkeletonBuilder::new().obj(&typed).generate(out.join("remora.skel.rs")).context("generating the skeleton")?;
    embed_btf(&out.join("btf.tar.xz"))
}

/// The linked object of one flavour.
fn compile(sources: &[PathBuf], out: &Path, flavour: &str, arguments: &[&str]) -> Result<PathBuf> {
    const ARGUMENTS: [&str; 6] = ["-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-missing-declarations"];
    let linked = out.join(format!("{flavour}.bpf.o"));
    let mut linker = Linker::new(&linked).with_context(|| format!("making {}", linked.display()))?;
    for source in sources {
        let name = source.with_extension(format!("{flavour}.o"));
        let object = out.join(name.file_name().context("a source without a name")?);
        SkeletonBuilder::new()
            .source(source)
            .obj(&object)
            .clang_args(ARGUMENTS.iter().chain(arguments))
            .build()
            .with_context(|| format!("compiling {}", source.display()))?;
        linker.add_file(&object).with_context(|| format!("linking {}", object.display()))?;
    }
    linker.link().with_context(|| format!("linking {}", linked.display()))?;
    Ok(linked)
}

/// The archive of BTF that goes into the program: the file that `REMORA_BTF_ARCHIVE` names, else none.
fn embed_btf(to: &Path) -> Result<()> {
    println!("cargo::rerun-if-env-changed=REMORA_BTF_ARCHIVE");
    let Some(from) = env::var_os("REMORA_BTF_ARCHIVE").filter(|path| !path.is_empty()) else {
        return fs::write(to, "").with_context(|| format!("writing {}", to.display()));
    };
    let from = Path::new(&from);
    println!("cargo::rerun-if-changed={}", from.display());
    let archive = fs::read(from).with_context(|| format!("reading REMORA_BTF_ARCHIVE={}", from.display()))?;
    ensure!(archive.starts_with(b"\xfd7zXZ\0"), "REMORA_BTF_ARCHIVE={} is no archive of `remora btf pack`", from.display());
    fs::write(to, archive).with_context(|| format!("writing {}", to.display()))
}
