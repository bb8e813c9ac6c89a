use proptest::prelude::*;

use super::{super::testing::*, *};

fn packed(of: &[(&str, &[u8])]) -> Vec<u8> {
    write(&kernels(of), Vec::new()).unwrap()
}

/// A tar of entries that ours would not write.
fn hostile(fill: impl FnOnce(&mut tar::Builder<XzWriter<Vec<u8>>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(XzWriter::new(Vec::new(), XzOptions::with_preset(0)).unwrap());
    fill(&mut builder);
    builder.into_inner().unwrap().finish().unwrap()
}

/// A header as bytes say, without the checks of a good writer.
fn header(path: &str, kind: EntryType, link: &str, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_cksum();
    header
}

fn visited(archive: &[u8]) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    walk(
        archive,
        |_| true,
        |kernel, content| {
            seen.push(match content {
                Content::Bytes(bytes) => format!("{kernel} {}", bytes.len()),
                Content::SameAs(target) => format!("{kernel} = {target}"),
                Content::Unusable(why) => format!("{kernel} unusable: {why}"),
                Content::PassedOver => format!("{kernel} passed over"),
            });
            Ok(())
        },
    )?;
    Ok(seen)
}

#[test]
fn what_was_packed_is_found_and_equal_files_are_links() {
    let archive = packed(&[
        ("debian/11/x86_64/5.10.0-1", DEBIAN_11),
        ("debian/11/x86_64/5.10.0-2", DEBIAN_11),
        ("debian/13/x86_64/6.12", DEBIAN_13),
        ("ubuntu/20.04/x86_64/5.4", DEBIAN_11),
    ]);
    let length = DEBIAN_11.len();
    assert_eq!(
        visited(&archive).unwrap(),
        [
            format!("debian/11/x86_64/5.10.0-1 {length}"),
            "debian/11/x86_64/5.10.0-2 = debian/11/x86_64/5.10.0-1".to_owned(),
            format!("debian/13/x86_64/6.12 {}", DEBIAN_13.len()),
            "ubuntu/20.04/x86_64/5.4 = debian/11/x86_64/5.10.0-1".to_owned(),
        ]
    );
    let found = |name: &str| find(|| Ok(&archive[..]), &kernel(name)).unwrap();
    assert_eq!(found("ubuntu/20.04/x86_64/5.4").as_deref(), Some(DEBIAN_11));
    assert_eq!(found("debian/13/x86_64/6.12").as_deref(), Some(DEBIAN_13));
    assert_eq!(found("debian/13/x86_64/6.13"), None);
}

#[test]
fn the_same_kernels_give_the_same_archive() {
    let of: [(&str, &[u8]); 2] = [("b/1/arm64/2", DEBIAN_13), ("a/1/x86_64/2", DEBIAN_11)];
    let reversed = [of[1], of[0]];
    assert_eq!(packed(&of), packed(&reversed));
}

#[test]
fn links_may_have_any_length_that_a_name_has() {
    let names = [1, 2].map(|number| format!("{}/{}/x86_64/{number}", "d".repeat(60), "v".repeat(60)));
    let archive = packed(&[(&names[0], DEBIAN_11), (&names[1], DEBIAN_11)]);
    assert_eq!(find(|| Ok(&archive[..]), &kernel(&names[1])).unwrap().as_deref(), Some(DEBIAN_11));
}

#[test]
fn an_archive_of_gnu_tar_is_read_whatever_stands_beside() {
    let archive = hostile(|tar| {
        let extended = b"30 mtime=1700000000.123456789\n";
        tar.append(&header("./", EntryType::Directory, "", 0), &[][..]).unwrap();
        tar.append(&header("./README.md", EntryType::Regular, "", 2), &b"hi"[..]).unwrap();
        tar.append(&header("./PaxHeaders/x.btf", EntryType::XHeader, "", extended.len() as u64), &extended[..]).unwrap();
        tar.append(&header("./a/1/x86_64/2.btf", EntryType::Regular, "", 3), &b"abc"[..]).unwrap();
        tar.append(&header("./a/1/x86_64/3.btf", EntryType::Link, "./a/1/x86_64/2.btf", 0), &[][..]).unwrap();
    });
    assert_eq!(visited(&archive).unwrap(), ["a/1/x86_64/2 3", "a/1/x86_64/3 = a/1/x86_64/2"]);
}

#[test]
fn names_that_lead_out_of_the_archive_end_the_reading() {
    for path in ["../a/1/x86_64/2.btf", "/a/1/x86_64/2.btf", "a/../../1/x86_64/2.btf"] {
        let archive = hostile(|tar| tar.append(&header(path, EntryType::Regular, "", 0), &[][..]).unwrap());
        let error = visited(&archive).unwrap_err().to_string();
        assert!(error.contains("leads out of it"), "{path}: {error}");
    }
}

#[test]
fn links_that_lead_elsewhere_are_unusable_and_the_others_can_be_had() {
    let archive = hostile(|tar| {
        tar.append(&header("a/1/x86_64/1.btf", EntryType::Link, "/etc/shadow", 0), &[][..]).unwrap();
        tar.append(&header("a/1/x86_64/2.btf", EntryType::Link, "a/1/x86_64/../../../../x.btf", 0), &[][..]).unwrap();
        tar.append(&header("a/1/x86_64/3.btf", EntryType::Symlink, "/etc/shadow", 0), &[][..]).unwrap();
        tar.append(&header("a/1/x86_64/4.btf", EntryType::Char, "", 0), &[][..]).unwrap();
        tar.append(&header("a/1/x86_64/5.btf", EntryType::Link, "a/1/x86_64/6.btf", 0), &[][..]).unwrap();
        tar.append(&header("a/1/x86_64/7.btf", EntryType::Link, "a/1/x86_64/7.btf", 0), &[][..]).unwrap();
        tar.append(&header("a/1/x86_64/8.btf", EntryType::Regular, "", 3), &b"abc"[..]).unwrap();
    });
    let found = |release: u32| find(|| Ok(&archive[..]), &kernel(&format!("a/1/x86_64/{release}")));
    for (release, why) in
        [(1, "no kernel"), (2, "no kernel"), (3, "symbolic link"), (4, "no file"), (5, "a/1/x86_64/6, which is no file"), (7, "no file")]
    {
        let error = found(release).unwrap_err().to_string();
        assert!(error.contains(why), "{release}: {error}");
    }
    assert_eq!(found(8).unwrap().as_deref(), Some(&b"abc"[..]));
}

#[test]
fn sizes_are_bounded_before_anything_is_unpacked() {
    let huge = hostile(|tar| {
        let header = header("a/1/x86_64/2.btf", EntryType::Regular, "", u64::from(u32::MAX));
        tar.get_mut().write_all(header.as_bytes()).unwrap();
    });
    assert!(visited(&huge).unwrap_err().to_string().contains("has 4294967295 bytes; a BTF has at most 16777216"));
    let long = hostile(|tar| {
        tar.get_mut().write_all(header("x", EntryType::GNULongName, "", 1 << 33).as_bytes()).unwrap();
    });
    assert!(visited(&long).unwrap_err().to_string().contains("a name of more than 255 bytes"));
    // What is passed over is unpacked all the same, and counts.
    let bomb = hostile(|tar| tar.append(&header("zeros", EntryType::Regular, "", 2 << 20), &vec![0; 2 << 20][..]).unwrap());
    assert!(bomb.len() < 5000, "{}", bomb.len());
    let mut unpacked = Vec::new();
    let error = super::unpacked(&bomb[..], 1 << 20).unwrap().read_to_end(&mut unpacked).unwrap_err().to_string();
    assert!(error.contains("unpacks to more than 1 MiB") && unpacked.len() <= 1 << 20, "{error}, {}", unpacked.len());
}

fn packed_by_xz(bytes: &[u8]) -> Vec<u8> {
    let mut xz = XzWriter::new(Vec::new(), XzOptions::with_preset(0)).unwrap();
    xz.write_all(bytes).unwrap();
    xz.finish().unwrap()
}

#[test]
fn btfhubs_form_is_read_and_must_hold_what_it_is_named() {
    let of = kernel("debian/11/x86_64/5.10.0-32-cloud-amd64");
    let tar = |name: &str| hostile(|tar| tar.append(&header(name, EntryType::Regular, "", DEBIAN_11.len() as u64), DEBIAN_11).unwrap());
    assert_eq!(only_file(&tar("5.10.0-32-cloud-amd64.btf")[..], &of).unwrap(), DEBIAN_11);
    assert_eq!(only_file(&tar("./5.10.0-32-cloud-amd64.btf")[..], &of).unwrap(), DEBIAN_11);
    let error = only_file(&tar("5.10.0-33-cloud-amd64.btf")[..], &of).unwrap_err().to_string();
    assert_eq!(error, "the tar holds \"5.10.0-33-cloud-amd64.btf\", not 5.10.0-32-cloud-amd64.btf");
    assert_eq!(only_file(&hostile(|_| {})[..], &of).unwrap_err().to_string(), "the tar holds no file");
}

#[test]
fn every_truncation_is_an_error() {
    let archive = packed(&[("debian/11/x86_64/5.10", DEBIAN_11)]);
    for length in (0..archive.len()).step_by(7).chain(archive.len() - 16..archive.len()) {
        assert!(visited(&archive[..length]).is_err(), "{length}");
    }
    assert!(visited(b"").is_err());
    assert!(visited(DEBIAN_11).is_err());
}

#[test]
fn a_changed_byte_of_an_archive_is_found_wherever_it_is() {
    let archive = packed(&[("debian/11/x86_64/5.10", DEBIAN_11), ("debian/13/x86_64/6.12", DEBIAN_13)]);
    for place in (0..archive.len()).step_by(11).chain(archive.len() - 16..archive.len()) {
        let mut changed = archive.clone();
        changed[place] ^= 0x10;
        assert!(visited(&changed).is_err(), "{place}");
        let found = find(|| Ok(&changed[..]), &kernel("debian/11/x86_64/5.10"));
        assert!(found.is_err(), "{place}: {found:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_mutation_of_an_archive_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut archive = packed(&[("a/1/x86_64/2", DEBIAN_11), ("a/1/x86_64/3", DEBIAN_11), ("a/1/x86_64/4", DEBIAN_13)]);
        for (place, value) in changes {
            let place = place.index(archive.len());
            archive[place] = value;
        }
        drop(visited(&archive));
    }

    /// Beneath the checksums of xz.
    #[test]
    fn no_mutation_of_a_tar_panics(changes in prop::collection::vec((0..2048_usize, any::<u8>()), 1..6), sum: bool) {
        let mut tar = Vec::new();
        xz_of(&packed(&[("a/1/x86_64/2", DEBIAN_11), ("a/1/x86_64/3", DEBIAN_11)])).read_to_end(&mut tar).unwrap();
        for (place, value) in changes {
            tar[place] = value;
        }
        if sum {
            let mut header = Header::new_ustar();
            header.as_mut_bytes().copy_from_slice(&tar[..512]);
            header.set_cksum();
            tar[..512].copy_from_slice(header.as_bytes());
        }
        drop(visited(&packed_by_xz(&tar)));
    }
}

fn xz_of(archive: &[u8]) -> impl Read {
    unpacked(archive, UNPACKED_BYTES_MAX).unwrap()
}
