//! What the object says of itself to libbpf: its types by number, and the relocations that are resolved by the types of the running
//! kernel. The formats: the kernel's Documentation/bpf/btf.rst and Documentation/bpf/llvm_reloc.rst.

use std::collections::BTreeSet;

use super::{
    elf::{Elf, text},
    functions::functions,
};

/// A question of the types of the running kernel; libbpf writes the answer into the instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub section: usize,
    /// Of the instruction, in its section.
    pub offset: usize,
    /// `enum bpf_core_relo_kind` of the kernel's include/uapi/linux/bpf.h.
    pub kind: u32,
    /// The type that is asked about; empty where it has none.
    pub of: String,
}

impl Question {
    /// The last of the kinds that ask about a field.
    pub const FIELD_MAX: u32 = 5;
    /// The number of the type in the kernel's own types.
    pub const TYPE_ID_TARGET: u32 = 7;
    pub const TYPE_EXISTS: u32 = 8;
}

/// Of all programs of the object.
pub fn questions(elf: &Elf<'_>) -> Vec<Question> {
    let section = |name| elf.section(elf.section_named(name).unwrap_or_else(|| panic!("no section {name}")));
    let (types, more) = (section(".BTF"), section(".BTF.ext"));
    let (names, strings) = names(types);
    let begin = number(more, 4) + number(more, 24);
    let all = &more[begin..begin + number(more, 28)];
    let mut found = Vec::new();
    if all.is_empty() {
        return found;
    }
    let record_len = number(all, 0);
    let mut at = 4;
    while at < all.len() {
        let name = text(strings, number(all, at));
        let section = elf.section_named(name).expect("a section with relocations");
        let end = at + 8 + number(all, at + 4) * record_len;
        found.extend(all[at + 8..end].chunks_exact(record_len).map(|record| Question {
            section,
            offset: number(record, 0),
            of: names[number(record, 4)].to_owned(),
            kind: number(record, 12) as u32,
        }));
        at = end;
    }
    found
}

/// The name of each type, by its number, and the strings that all names are taken from.
fn names(types: &[u8]) -> (Vec<&str>, &[u8]) {
    let header_len = number(types, 4);
    let begin = header_len + number(types, 8);
    let all = &types[begin..begin + number(types, 12)];
    let begin = header_len + number(types, 16);
    let strings = &types[begin..begin + number(types, 20)];
    // number 0 is void
    let mut names = vec![""];
    let mut at = 0;
    while at < all.len() {
        names.push(text(strings, number(all, at)));
        let info = number(all, at + 4);
        let members = info & 0xffff;
        at += 12
            + match info >> 24 & 31 {
                // integers, variables, tags of declarations
                1 | 14 | 17 => 4,
                // arrays
                3 => 12,
                // structs, unions, sections of data, enums of 64 bits
                4 | 5 | 15 | 19 => 12 * members,
                // enums, parameters of functions
                6 | 13 => 8 * members,
                _ => 0,
            };
    }
    (names, strings)
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
}

/// `bpf_core_read` takes all of its argument for a way through the kernel, a field of our own on it, too: that is asked for when the
/// program is loaded, and is nowhere.
#[test]
fn only_types_of_the_kernel_are_asked_about() {
    let kernel: BTreeSet<&str> = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/vmlinux/x86_64/vmlinux.h"))
        .lines()
        .filter_map(|line| line.strip_prefix("struct ").or_else(|| line.strip_prefix("union "))?.strip_suffix(" {"))
        .collect();
    assert!(kernel.contains("task_struct"));
    for (flavour, bytes, _) in super::OBJECTS {
        let elf = Elf(bytes);
        let functions = functions(&elf);
        for question in questions(&elf).into_iter().filter(|question| question.kind <= Question::FIELD_MAX) {
            let (name, suffix) = question.of.split_once("___").map_or((&*question.of, None), |(name, suffix)| (name, Some(suffix)));
            let place =
                functions.range(..=(question.section, question.offset)).next_back().map_or("nowhere", |(_, function)| &*function.name);
            // What has a suffix is of another kernel than that of vmlinux.h.
            assert!(
                name.is_empty() || suffix.is_some() || kernel.contains(name),
                "{flavour}: {place} asks the kernel for a field of {name}"
            );
        }
    }
}

#[test]
fn types_of_every_kind_are_stepped_over() {
    let word = |number: u32| number.to_le_bytes().to_vec();
    let one = |name: u32, kind: u32, members: u32, rest: usize| [word(name), word(kind << 24 | members), word(4), vec![0; rest]].concat();
    let strings = b"\0int\0pair\0last\0";
    // int, pointer, array, struct of two, enum of one, function of two parameters, function, float, section of one, a named pointer
    let all = [
        one(1, 1, 0, 4),
        one(0, 2, 0, 0),
        one(0, 3, 0, 12),
        one(5, 4, 2, 24),
        one(0, 6, 1, 8),
        one(0, 13, 2, 16),
        one(0, 12, 0, 0),
        one(0, 16, 0, 0),
        one(0, 15, 1, 12),
        one(10, 8, 0, 0),
    ]
    .concat();
    let header = [vec![0x9f, 0xeb, 1, 0], word(24), word(0), word(all.len() as u32), word(all.len() as u32), word(strings.len() as u32)];
    let bytes = [header.concat(), all, strings.to_vec()].concat();
    let (names, _) = names(&bytes);
    assert_eq!(names, ["", "int", "", "", "pair", "", "", "", "", "", "last"]);
}
