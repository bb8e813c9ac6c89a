use proptest::prelude::*;

use super::{super::testing::*, *};

#[test]
fn minimised_btf_of_real_kernels_is_sound() {
    for bytes in [DEBIAN_11, DEBIAN_13] {
        let contents = check(bytes, Some("x86_64")).unwrap();
        assert_eq!(contents, Contents { types: 84, architecture: Some("x86_64") });
    }
}

#[test]
fn the_whole_btf_of_this_kernel_is_sound_where_there_is_one() {
    let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else { return };
    let contents = check(&bytes, Some(super::super::kernel::architecture(std::env::consts::ARCH))).unwrap();
    assert!(contents.types > 10_000 && contents.architecture.is_some(), "{contents:?}");
}

#[test]
fn btf_of_another_architecture_is_foreign() {
    let fault = check(DEBIAN_11, Some("arm64")).unwrap_err();
    assert_eq!(fault.to_string(), "of a kernel for x86_64, not for arm64");
    let fault = check(&arm64(), Some("x86_64")).unwrap_err();
    assert_eq!(fault.to_string(), "of a kernel for arm64, not for x86_64");
    let mut builder = Builder::new();
    builder.task().structure("pt_regs", &[("di", 1), ("orig_ax", 1), ("ds", 1)]);
    assert_eq!(check(&builder.build(), Some("x86_64")).unwrap_err().to_string(), "of a kernel for i386, not for x86_64");
    // Minimised for programs that read no registers, nothing tells.
    let task = Builder::new().task().build();
    assert_eq!(check(&task, Some("arm64")).unwrap().architecture, None);
}

#[test]
fn every_truncation_is_found() {
    for length in 0..DEBIAN_11.len() {
        let fault = check(&DEBIAN_11[..length], None).unwrap_err();
        let expected = matches!(fault, Fault::Truncated { .. }) || length < 2;
        assert!(expected, "{length}: {fault:?}");
    }
}

#[test]
fn other_kinds_of_files_are_named() {
    let mut swapped = DEBIAN_11.to_vec();
    swapped.swap(0, 1);
    let mut version = DEBIAN_11.to_vec();
    version[2] = 2;
    let mut large = DEBIAN_11.to_vec();
    large.resize(BTF_BYTES_MAX + 1, 0);
    for (bytes, expected) in [
        (&b""[..], "an empty file, not BTF"),
        (b"\x7fELF\x02", "an ELF file (take its types out by pahole"),
        (b"\xfd7zXZ\0", "a file compressed by xz, not BTF"),
        (b"\x1f\x8b\x08", "a file compressed by gzip, not BTF"),
        (b"hello", "a file of another kind, not BTF"),
        (b"\x9f\xeb", "truncated: the header ends at byte 24 of 2"),
        (&swapped, "of the other byte order"),
        (&version, "of BTF version 2"),
        (&large, "larger than the 16 MiB"),
    ] {
        let said = check(bytes, None).unwrap_err().to_string();
        assert!(said.starts_with(expected), "{said}");
    }
}

#[test]
fn btf_of_a_module_and_of_a_program_are_told_apart_from_a_kernels() {
    // The strings of a module go on where those of its kernel end, so they do not begin with the empty one.
    let mut module = Builder::new();
    module.task();
    let mut bytes = module.build();
    let strings = bytes.iter().rposition(|byte| *byte == b'i').unwrap() - "int\0task_struct\0p".len();
    assert_eq!(bytes[strings - 1], 0);
    bytes[strings - 1] = b'x';
    assert_eq!(check(&bytes, None), Err(Fault::Module));
    let mut program = Builder::new();
    program.structure("event", &[]);
    assert_eq!(check(&program.build(), None), Err(Fault::NotKernel));
    assert_eq!(check(&Builder::new().build(), None), Err(Fault::NotKernel));
}

#[test]
fn what_leads_out_of_the_file_is_found() {
    let why = |build: &dyn Fn(&mut Builder) -> &mut Builder| {
        let mut builder = Builder::new();
        builder.task();
        build(&mut builder);
        check(&builder.build(), None).unwrap_err().to_string()
    };
    let no_type = "corrupt: type 3: it refers to a type that is not there";
    let no_name = "corrupt: type 3: its name is outside of the strings";
    assert_eq!(why(&|builder| builder.raw(0, 2, 0, 4, &[])), no_type, "a pointer");
    assert_eq!(why(&|builder| builder.structure("a", &[("b", 9)])), no_type, "a member");
    assert_eq!(why(&|builder| builder.raw(0, 3, 0, 0, &[1, 9, 3])), no_type, "the index of an array");
    assert_eq!(why(&|builder| builder.raw(0, 13, 1, 1, &[0, 9])), no_type, "a parameter");
    assert_eq!(why(&|builder| builder.raw(0, 15, 1, 1, &[9, 0, 4])), no_type, "a variable in a section");
    assert_eq!(why(&|builder| builder.raw(999, 2, 0, 1, &[])), no_name, "a pointer");
    assert_eq!(why(&|builder| builder.raw(0, 6, 1, 4, &[999, 0])), no_name, "a value");
    assert_eq!(why(&|builder| builder.raw(0, 4, 2, 4, &[0, 1, 0])), "corrupt: type 3: its end is missing");
    assert_eq!(why(&|builder| builder.raw(0, 31, 0, 4, &[])), "corrupt: type 3: its kind is not known");
}

#[test]
fn types_that_contain_themselves_or_are_nested_without_end_are_found() {
    let why = |build: &dyn Fn(&mut Builder) -> &mut Builder| {
        let mut builder = Builder::new();
        builder.task();
        build(&mut builder);
        check(&builder.build(), None).map_err(|fault| fault.to_string())
    };
    let circle = |id: u32| Err(format!("corrupt: type {id}: it contains itself"));
    assert_eq!(why(&|builder| builder.raw(0, 8, 0, 3, &[])), circle(3), "a typedef");
    assert_eq!(why(&|builder| builder.raw(0, 10, 0, 4, &[]).raw(0, 9, 0, 3, &[])), circle(4), "const volatile");
    assert_eq!(why(&|builder| builder.raw(0, 3, 0, 0, &[3, 1, 2])), circle(3), "an array");
    assert_eq!(why(&|builder| builder.structure("a", &[("", 1), ("", 3)])), circle(3), "an unnamed member");
    // By pointer a struct may well lead to itself.
    assert!(why(&|builder| builder.structure("list", &[("next", 4)]).raw(0, 2, 0, 3, &[])).is_ok());

    let chain = |length: u32| {
        why(&|builder| {
            for next in 0..length {
                builder.raw(0, 10, 0, 2 + next, &[]);
            }
            builder
        })
    };
    assert!(chain(u32::from(NESTING_MAX) - 2).is_ok(), "the task in it has a depth of 2");
    assert!(chain(u32::from(NESTING_MAX)).unwrap_err().contains("nested too deep"));
    let backwards = why(&|builder| {
        for next in 0..1000 {
            builder.raw(0, 10, 0, 4 + next, &[]);
        }
        builder.raw(0, 10, 0, 1, &[])
    });
    assert!(backwards.unwrap_err().contains("nested too deep"));
}

#[test]
fn a_header_with_fields_of_a_later_version_is_read() {
    let mut bytes = DEBIAN_11.to_vec();
    bytes[4] = 32;
    bytes.splice(24..24, [0; 8]);
    assert!(check(&bytes, Some("x86_64")).is_ok());
    bytes[4] = 20;
    assert_eq!(check(&bytes, None), Err(Fault::Corrupt("the header is shorter than a header")));
}

/// Name, kind, number of entries, type and what trails, of types that may lead anywhere.
fn any_types() -> impl Strategy<Value = Vec<(u32, u32, u32, u32, Vec<u32>)>> {
    prop::collection::vec((0..12_u32, 0..20_u32, 0..4_u32, 0..12_u32, prop::collection::vec(0..12_u32, 0..12)), 0..12)
}

proptest! {
    #[test]
    fn no_mutation_panics(changes in prop::collection::vec((0..DEBIAN_13.len(), any::<u8>()), 1..8), cut in 0..DEBIAN_13.len() * 2) {
        let mut bytes = DEBIAN_13.to_vec();
        for (place, value) in changes {
            bytes[place] = value;
        }
        bytes.truncate(cut);
        drop(check(&bytes, Some("x86_64")));
    }

    #[test]
    fn no_words_in_the_place_of_types_panic(words in any_types()) {
        let mut builder = Builder::new();
        builder.task();
        for (name, kind, entries, of, trailing) in words {
            builder.raw(name, kind, entries, of, &trailing);
        }
        drop(check(&builder.build(), None));
    }
}
