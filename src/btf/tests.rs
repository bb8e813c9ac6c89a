use std::{fs, path::Path};

use super::{testing::*, *};

fn host(name: &str) -> Result<Host> {
    Ok(Host { kernel: kernel(name), os_release: PathBuf::from("/etc/os-release") })
}

/// A directory with these kernels, all of the same bytes.
fn directory(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let path = folder.path().join(format!("{name}.btf"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, if name.contains("arm64") { arm64() } else { DEBIAN_11.to_vec() }).unwrap();
    }
    folder
}

fn missed(wanted: &str, names: &[&str]) -> Miss {
    let folder = directory(names);
    *look_up_for(host(wanted), vec![Source::open(folder.path()).map_err(|_| unreachable!())]).unwrap_err()
}

#[test]
fn exactly_this_kernel_is_found_also_by_the_name_that_btfhub_has_for_it() {
    let folder = directory(&["ol/7/x86_64/5.4.17", "ubuntu/20.04/x86_64/5.4.0-42-generic"]);
    let empty = directory(&[]);
    let sources = || [&empty, &folder].map(|folder| Ok(Source::open(folder.path()).unwrap())).into();
    assert_eq!(look_up_for(host("ol/7.9/x86_64/5.4.17"), sources()).unwrap().kernel, kernel("ol/7/x86_64/5.4.17"));
    assert_eq!(look_up_for(host("ubuntu/20.04/x86_64/5.4.0-42-generic"), sources()).unwrap().bytes, DEBIAN_11);
    assert!(look_up_for(host("ubuntu/20.04/x86_64/5.4.0-4-generic"), sources()).is_err());
}

#[test]
fn a_near_miss_is_refused_with_the_nearest_names() {
    let miss = missed(
        "ubuntu/20.04/x86_64/5.4.0-42-generic",
        &[
            "ubuntu/20.04/x86_64/5.4.0-9-generic",
            "ubuntu/20.04/x86_64/5.4.0-40-generic",
            "ubuntu/20.04/x86_64/5.4.0-41-generic",
            "ubuntu/20.04/x86_64/5.4.0-45-generic",
            "ubuntu/20.04/x86_64/5.4.0-100-generic",
            "ubuntu/20.04/arm64/5.4.0-42-generic",
            "ubuntu/18.04/x86_64/5.4.0-42-generic",
            "ubuntu/18.04/x86_64/4.15.0-1-generic",
        ],
    );
    let nearest = miss.nearest.iter().map(Kernel::to_string).collect::<Vec<_>>();
    let expected =
        ["20.04/x86_64/5.4.0-41", "20.04/x86_64/5.4.0-45", "20.04/x86_64/5.4.0-40", "20.04/x86_64/5.4.0-100", "18.04/x86_64/5.4.0-42"];
    assert_eq!(nearest, expected.map(|name| format!("ubuntu/{name}-generic")));
}

#[test]
fn the_distributions_other_versions_come_next_and_then_what_there_is() {
    let nearest = |wanted: &str, names: &[&str]| missed(wanted, names).nearest.iter().map(Kernel::to_string).collect::<Vec<_>>();
    let others = ["debian/10/x86_64/4.19.0-18", "debian/11/x86_64/5.10.0-8", "fedora/31/x86_64/5.3.7"];
    assert_eq!(nearest("debian/12/x86_64/6.1.0-1", &others), ["debian/11/x86_64/5.10.0-8", "debian/10/x86_64/4.19.0-18"]);
    let miss = missed("arch/rolling/x86_64/5.4.2-arch1-1", &others);
    assert_eq!((miss.nearest.len(), miss.distributions.join(", ")), (0, "debian 10, debian 11, fedora 31".to_owned()));
}

#[test]
fn one_message_says_what_was_looked_for_where_what_works_and_how_to_get_it() {
    let damaged = directory(&[]);
    fs::write(damaged.path().join("a.tar.xz"), "no archive").unwrap();
    let near = directory(&["debian/11/x86_64/5.10.0-8"]);
    let absent = Path::new("/nonexistent/btf");
    let mut sources = vec![Source::open(absent).map_err(|error| Searched::failed(absent, &error)), Err(Searched::not_embedded())];
    sources.extend([&damaged, &near].map(|folder| Ok(Source::open(folder.path()).unwrap())));
    let miss = look_up_for(host("debian/11/x86_64/5.10.0-9"), sources).unwrap_err();
    let said = miss.to_string();
    for part in [
        "no BTF for debian/11/x86_64/5.10.0-9 (distribution by /etc/os-release); searched: /nonexistent/btf (not there), ",
        "the archive inside the program (none was built in), ",
        "a.tar.xz: it is not compressed by xz), ",
        "(1 kernel in it, another one); nearest: debian/11/x86_64/5.10.0-8; only the BTF of exactly this kernel is used. ",
        "--hooks packet --interface NAME",
        "remora replay FILE",
        "CONFIG_DEBUG_INFO_BTF=y",
        "pahole --btf_encode_detached",
        "btfhub/minimise.sh",
        "--btf-archive PATH",
        "docs/btf.md",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert!(!said.contains('\n'));
}

#[test]
fn without_a_name_nothing_is_looked_for_and_the_message_says_why() {
    let folder = directory(&["debian/11/x86_64/5.10.0-8"]);
    let miss = look_up_for(Err(anyhow::anyhow!("no os-release")), vec![Ok(Source::open(folder.path()).unwrap())]).unwrap_err();
    let said = miss.to_string();
    assert!(said.starts_with("no BTF, as this kernel cannot be named: no os-release; searched: "), "{said}");
}

#[test]
fn a_damaged_find_does_not_hide_a_sound_one_in_the_next_place() {
    let damaged = directory(&[]);
    fs::create_dir_all(damaged.path().join("debian/11/x86_64")).unwrap();
    fs::write(damaged.path().join("debian/11/x86_64/5.10.0-8.btf"), &DEBIAN_11[..100]).unwrap();
    let sound = directory(&["debian/11/x86_64/5.10.0-8"]);
    let sources = || [&damaged, &sound].map(|folder| Ok(Source::open(folder.path()).unwrap()));
    assert!(look_up_for(host("debian/11/x86_64/5.10.0-8"), sources().into()).is_ok());
    let alone = sources().into_iter().take(1).collect();
    let said = look_up_for(host("debian/11/x86_64/5.10.0-8"), alone).unwrap_err().to_string();
    assert!(said.contains("cannot be used: ") && said.contains("truncated"), "{said}");
}

#[test]
fn what_was_found_is_a_file_as_long_as_it_is_kept() {
    let found = Found { kernel: kernel("debian/11/x86_64/5.10"), origin: "here".to_owned(), bytes: DEBIAN_11.to_vec() };
    let file = found.into_file().unwrap();
    assert_eq!(fs::read(file.path()).unwrap(), DEBIAN_11);
    let path = file.path();
    drop(file);
    assert!(fs::read(path).map_or(true, |bytes| bytes != DEBIAN_11));
}

#[test]
fn auto_asks_the_package_then_the_administrator_then_the_program_and_none_asks_nobody() {
    let places = |setting| {
        let place = |source: Result<Source, Searched>| source.map_or_else(|absent| absent.place, |source| source.to_string());
        sources(&setting).into_iter().map(place).collect::<Vec<_>>()
    };
    assert_eq!(places(BtfArchive::Auto), ["/usr/share/remora/btf", "/etc/remora/btf", "the archive inside the program"]);
    assert_eq!(places(BtfArchive::None), [""; 0]);
    assert_eq!(places(BtfArchive::At("/x".into())), ["/x"]);
}
