//! `remora btf` as a user meets it: making, listing and checking archives, and the script that makes one of BTFHub's.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use remora::{
    btf::{self, Host, Kernel},
    config::BtfArchive,
};

const DEBIAN_11: &[u8] = include_bytes!("data/btf/debian-11-5.10.0-32-cloud-amd64.btf");
const DEBIAN_13: &[u8] = include_bytes!("data/btf/debian-13-6.12.107-cloud-amd64.btf");

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn put(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>, words: &str) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("REMORA_")) {
            command.env_remove(name);
        }
        command.current_dir(self.folder.path()).args(words.split_whitespace());
        command
    }

    fn remora(&self, words: &str) -> Output {
        self.command(env!("CARGO_BIN_EXE_remora"), words).output().unwrap()
    }

    /// What a run that succeeds prints.
    fn says(&self, words: &str) -> String {
        let output = self.remora(words);
        assert_eq!(output.status.code(), Some(0), "{words}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The one line of an error.
    fn complains(&self, words: &str) -> String {
        let output = self.remora(words);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        text.trim_end().strip_prefix("remora: ").unwrap().to_owned()
    }
}

#[test]
fn what_is_packed_is_listed_and_sound_and_packing_again_gives_the_same_bytes() {
    let bench = Bench::new();
    bench.put("tree/debian/11/x86_64/5.10.0-31.btf", DEBIAN_11);
    bench.put("tree/debian/11/x86_64/5.10.0-32.btf", DEBIAN_11);
    bench.put("tree/debian/13/x86_64/6.12.107.btf", DEBIAN_13);
    let said = bench.says("btf pack tree a.tar.xz");
    let length = fs::metadata(bench.folder.path().join("a.tar.xz")).unwrap().len();
    assert_eq!(said, format!("a.tar.xz: 3 kernels, 2 different, {length} bytes\n"));
    assert_eq!(bench.says("btf list a.tar.xz"), "debian/11/x86_64/5.10.0-31\ndebian/11/x86_64/5.10.0-32\ndebian/13/x86_64/6.12.107\n");
    assert_eq!(bench.says("btf list --btf-archive a.tar.xz"), bench.says("btf list tree"));
    assert_eq!(bench.says("btf check a.tar.xz tree"), "6 sound, 0 with problems\n");
    let json: serde_json::Value = serde_json::from_str(&bench.says("btf list --json a.tar.xz")).unwrap();
    let first = serde_json::json!({
        "distribution": "debian", "version": "11", "architecture": "x86_64", "release": "5.10.0-31", "source": "a.tar.xz"
    });
    assert_eq!((json.as_array().unwrap().len(), &json[0]), (3, &first));

    bench.says("btf pack a.tar.xz b.tar.xz");
    let bytes = |name: &str| fs::read(bench.folder.path().join(name)).unwrap();
    assert_eq!(bytes("a.tar.xz"), bytes("b.tar.xz"));
    // For a ConfigMap: some kernels alone. One of them was a link to one that is left out.
    let said = bench.says("btf pack a.tar.xz c.tar.xz --only debian/11/x86_64/5.10.0-32 --only debian/13");
    assert!(said.starts_with("c.tar.xz: 2 kernels, 2 different, "), "{said}");
    assert_eq!(bench.says("btf check c.tar.xz"), "2 sound, 0 with problems\n");
}

#[test]
fn check_says_one_line_for_each_problem_and_exits_with_1() {
    let bench = Bench::new();
    bench.put("tree/debian/11/x86_64/1.btf", DEBIAN_11);
    bench.put("tree/debian/11/x86_64/2.btf", &DEBIAN_11[..2000]);
    bench.put("tree/debian/11/arm64/3.btf", DEBIAN_11);
    bench.put("tree/debian/11/x86_64/4.btf.tar.xz", b"hello");
    bench.put("broken.tar.xz", b"\xfd7zXZ\0hello");
    bench.put("vmlinux", b"\x7fELF");
    let output = bench.remora("btf check tree broken.tar.xz vmlinux absent");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let lines = said.lines().collect::<Vec<_>>();
    let expected = [
        ("tree/debian/11/arm64/3.btf: debian/11/arm64/3: ", "of a kernel for x86_64, not for arm64"),
        ("tree/debian/11/x86_64/2.btf: debian/11/x86_64/2: ", "truncated: the section of types"),
        ("tree/debian/11/x86_64/4.btf.tar.xz: debian/11/x86_64/4: ", "4.btf.tar.xz: it is not compressed by xz"),
        ("reading broken.tar.xz: ", "it is truncated"),
        ("vmlinux: ", "an ELF file (take its types out by pahole"),
        ("looking for BTF in absent: ", "No such file"),
        ("1 sound, 6 with problems", ""),
    ];
    assert_eq!(lines.len(), expected.len(), "{said}");
    for (line, (start, part)) in lines.iter().zip(expected) {
        assert!(line.starts_with(start) && line.contains(part), "{line}");
    }
    let single = bench.put("any/debian/11/x86_64/5.10.btf", DEBIAN_11);
    let said = bench.says(&format!("btf check {}", single.display()));
    assert!(said.ends_with(".btf: 84 types of a kernel for x86_64\n1 sound, 0 with problems\n"), "{said}");
}

#[test]
fn what_cannot_be_packed_is_named_and_nothing_is_written() {
    let bench = Bench::new();
    bench.put("tree/debian/11/x86_64/1.btf", DEBIAN_11);
    bench.put("tree/debian/11/arm64/2.btf", DEBIAN_11);
    bench.put("empty/README", b"");
    let said = bench.complains("btf pack tree a.tar.xz");
    assert_eq!(said, "1 of tree cannot be packed: debian/11/arm64/2: of a kernel for x86_64, not for arm64");
    assert_eq!(bench.complains("btf pack empty a.tar.xz"), "no kernel in empty to be packed");
    assert_eq!(bench.complains("btf pack tree a.tar.xz --only ubuntu"), "no kernel in tree to be packed of those names");
    assert!(bench.complains("btf list --btf-archive absent").starts_with("looking for BTF in absent: "));
    assert!(bench.complains("btf pack absent a.tar.xz").starts_with("looking for BTF in absent: "));
    assert!(bench.complains("btf pack tree no/such/a.tar.xz --only debian/11/x86_64").starts_with("writing no/such/a.tar.xz: "));
    let left = fs::read_dir(bench.folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(!left.into_iter().any(|name| name.starts_with("a.tar.xz")));
}

#[test]
fn the_objects_are_those_of_this_processor() {
    let bench = Bench::new();
    let said = bench.says("btf objects o");
    let folder = if cfg!(target_arch = "aarch64") { "o/arm64/" } else { "o/x86_64/" };
    assert!(!said.is_empty());
    for line in said.lines() {
        assert!(line.starts_with(folder) && line.ends_with(".bpf.o"), "{line}");
        assert!(fs::read(bench.folder.path().join(line)).unwrap().starts_with(b"\x7fELF"), "{line}");
    }
}

/// The script over a directory of BTFHub's form, made of this kernel's types. Left out where the kernel has none.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_script_minimises_goes_on_after_a_bad_entry_and_does_nothing_twice() {
    let Ok(types) = fs::read("/sys/kernel/btf/vmlinux") else { return };
    let bench = Bench::new();
    bench.put("5.4.0-42-generic.btf", &types);
    let packed = "-C . --create --xz --file hub.tar.xz 5.4.0-42-generic.btf";
    assert!(bench.command("tar", packed).env("XZ_OPT", "-0").status().unwrap().success());
    let tar = fs::read(bench.folder.path().join("hub.tar.xz")).unwrap();
    bench.put("hub/ubuntu/20.04/x86_64/5.4.0-42-generic.btf.tar.xz", &tar);
    bench.put("hub/ubuntu/20.04/x86_64/5.4.0-43-generic.btf.tar.xz", &tar[..tar.len() / 2]);
    bench.put("hub/ubuntu/20.04/arm64/5.4.0-42-generic.btf.tar.xz", &tar);
    bench.put("hub/debian/11/x86_64/5.10.0-8-amd64.btf", &types);
    bench.put("hub/debian/11/x86_64/5.10.0-9-amd64.btf", b"nothing");
    bench.put("hub/README.md", b"");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("btfhub/minimise.sh");
    let run = |words: &str| {
        let output = bench.command(&script, words).env("REMORA", env!("CARGO_BIN_EXE_remora")).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run("-j2 -o a.tar.xz hub");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("2 minimised, 0 as before, 3 left out"), "{said}");
    for name in
        ["ubuntu/20.04/x86_64/5.4.0-43-generic: ", "debian/11/x86_64/5.10.0-9-amd64: ", "ubuntu/20.04/arm64/5.4.0-42-generic: no objects"]
    {
        assert!(said.lines().any(|line| line.starts_with(&format!("minimise.sh: left out: {name}"))), "{name}: {said}");
    }
    assert_eq!(bench.says("btf list a.tar.xz"), "debian/11/x86_64/5.10.0-8-amd64\nubuntu/20.04/x86_64/5.4.0-42-generic\n");
    assert_eq!(bench.says("btf check a.tar.xz"), "2 sound, 0 with problems\n");
    assert!(fs::metadata(bench.folder.path().join("a.tar.xz")).unwrap().len() < 20_000, "it is minimised");

    let before = fs::read(bench.folder.path().join("a.tar.xz")).unwrap();
    let (code, said) = run("-j2 -o a.tar.xz --only ubuntu/20.04/x86_64/5.4.0-42 --only debian/11/x86_64/5.10.0-8 hub");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("0 minimised, 2 as before, 0 left out"), "{said}");
    assert_eq!(fs::read(bench.folder.path().join("a.tar.xz")).unwrap(), before);
}

/// A directory of BTFHub's form with raw BTF of this kernel under two names. `None` where the kernel has none.
#[cfg(target_arch = "x86_64")]
fn hub_of_two(bench: &Bench) -> Option<[&'static str; 2]> {
    let types = fs::read("/sys/kernel/btf/vmlinux").ok()?;
    let names = ["debian/11/x86_64/5.10.0-8-amd64", "ubuntu/20.04/x86_64/5.4.0-42-generic"];
    for name in names {
        bench.put(&format!("hub/{name}.btf"), &types);
    }
    Some(names)
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_script_that_is_cut_off_packs_nothing_and_goes_on_when_it_is_run_again() {
    use std::os::unix::fs::PermissionsExt;

    let bench = Bench::new();
    let Some(names) = hub_of_two(&bench) else { return };
    let path = |name: &str| bench.folder.path().join(name);
    // Kills who runs it: not the shell that waits for its output, but that one's.
    let tool = br#"#!/bin/sh
[ ! -e killer ] || { kill -9 "$(cut -d ' ' -f 4 "/proc/$PPID/stat")"; exit 1; }
PATH=$PATH:/usr/sbin exec bpftool "$@"
"#;
    let tool = bench.put("bpftool", tool);
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("btfhub/minimise.sh");
    let run = || {
        let mut command = bench.command(&script, "-j1 -o a.tar.xz hub");
        let output = command.env("REMORA", env!("CARGO_BIN_EXE_remora")).env("BPFTOOL", &tool).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run();
    assert_eq!(code, Some(0), "{said}");
    let archive = fs::read(path("a.tar.xz")).unwrap();

    // What was minimised of the first one before is no longer its BTF.
    fs::remove_file(path(&format!("hub/{}.btf", names[0]))).unwrap();
    bench.put(&format!("hub/{}.btf", names[0]), DEBIAN_11);
    bench.put("killer", b"");
    let (code, said) = run();
    assert_eq!(code, Some(3), "{said}");
    let expected = format!("cut off: nothing was said of 2 of 2 kernels, {} {} among them; a.tar.xz is as it was", names[0], names[1]);
    assert!(said.contains(&expected), "{said}");
    assert!(fs::read(path("a.tar.xz")).unwrap() == archive);

    fs::remove_file(path("killer")).unwrap();
    let (code, said) = run();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("1 minimised, 1 as before, 0 left out"), "{said}");
    assert!(fs::read(path("a.tar.xz")).unwrap() != archive);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_script_unpacks_no_more_than_a_bound() {
    let bench = Bench::new();
    if hub_of_two(&bench).is_none() {
        return;
    }
    let path = |name: &str| bench.folder.path().join(name);
    let run = |program: &str, words: &str| assert!(bench.command(program, words).status().unwrap().success(), "{program} {words}");
    // As many zeros as fit into no bound, packed by themselves, in a tar, and as a hole in a tar, which xz does not unpack.
    fs::File::create(path("hole.btf")).unwrap().set_len(96 << 20).unwrap();
    run("xz", "--keep -0 hole.btf");
    run("tar", "-cJf full.tar.xz hole.btf");
    run("tar", "--sparse -cJf sparse.tar.xz hole.btf");
    for (packed, name) in [("hole.btf.xz", "1.btf.xz"), ("full.tar.xz", "hole.btf.tar.xz"), ("sparse.tar.xz", "le.btf.tar.xz")] {
        bench.put(&format!("hub/debian/12/x86_64/{name}"), &fs::read(path(packed)).unwrap());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("btfhub/minimise.sh");
    // No file may grow beyond that: who tried would be killed.
    let mut command = bench.command("sh", "");
    command.args(["-c", "ulimit -f 80000; exec \"$0\" -j2 -o a.tar.xz hub"]).arg(&script).env("REMORA", env!("CARGO_BIN_EXE_remora"));
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("2 minimised, 0 as before, 3 left out"), "{said}");
    for name in ["1", "hole", "le"] {
        let line = said.lines().find(|line| line.starts_with(&format!("minimise.sh: left out: debian/12/x86_64/{name}: "))).expect(&said);
        assert!(line.contains("it unpacks to more than 32 MiB"), "{line}");
    }
}

#[test]
fn make_btf_takes_paths_with_spaces() {
    let said = Command::new("make")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["--dry-run", "btf", "BTFHUB=/a hub/of types", "BTF_ARCHIVE=/an archive", "BTF_ONLY=debian/10 ubuntu"])
        .output()
        .unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let line = said.lines().find_map(|line| line.strip_prefix("btfhub/minimise.sh ")).expect(&said);
    let words = Command::new("bash").args(["-c", &format!("printf '%s|' {line}")]).output().unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    assert_eq!(words, "-o|/an archive|--only|debian/10|--only|ubuntu|/a hub/of types|");
}

#[test]
fn the_kernel_that_runs_here_is_found_by_its_name_and_only_by_it() {
    let Ok(host) = Host::detect() else { return };
    let bench = Bench::new();
    let at = |release: &str| {
        let kernel = Kernel { release: release.to_owned(), ..host.kernel.clone() };
        format!("{kernel}.btf")
    };
    let types = if host.kernel.architecture == "x86_64" { DEBIAN_11.to_vec() } else { return };
    bench.put(&format!("tree/{}", at(&host.kernel.release)), &types);
    bench.put(&format!("near/{}", at("1.2.3-near")), &types);
    bench.says("btf pack tree tree.tar.xz");
    for place in ["tree", "tree.tar.xz"] {
        let found = btf::look_up(&BtfArchive::At(bench.folder.path().join(place))).unwrap();
        assert_eq!((&found.kernel, &found.bytes), (&host.kernel, &types));
        assert_eq!(fs::read(found.into_file().unwrap().path()).unwrap(), types);
    }
    let miss = btf::look_up(&BtfArchive::At(bench.folder.path().join("near"))).unwrap_err();
    assert_eq!(miss.nearest.iter().map(|kernel| kernel.release.as_str()).collect::<Vec<_>>(), ["1.2.3-near"]);
}
