//! What the verifier of every kernel asks of the programs, told from the object alone: no kernel, no root.

use std::collections::{BTreeMap, BTreeSet};

/// The objects that the agent loads, by the flavour of their programs, and one of these.
const OBJECTS: [(&str, &[u8], &str); 3] =
    [("typed", remora::skel::TYPED, "on_sys_exit"), ("plain", remora::skel::PLAIN, "on_sys_exit"), ("packet", PACKET, "ip_to_perf")];

/// That of the family `packet`.
static PACKET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/packet.bpf.o"));

/// `MAX_BPF_STACK`: the bytes of stack that a program and all that it calls may have, on kernels without private stacks (before 6.13).
const STACK_MAX: u32 = 512;
/// What we allow ourselves: compilers differ.
const STACK_ALLOWED: u32 = 448;
/// Kernels round each frame up to so much (`check_max_stack_depth`), newer ones to less.
const FRAME_UNIT: u32 = 32;
/// `MAX_CALL_FRAMES`.
const FRAMES_MAX: usize = 8;

#[test]
fn every_chain_of_calls_fits_the_stack_of_old_kernels() {
    let mut failures = Vec::new();
    for (flavour, object, known) in OBJECTS {
        let functions = functions(&Elf(object));
        let programs: Vec<_> = functions.values().filter(|function| function.program).collect();
        assert!(programs.iter().any(|program| program.name == known), "the {flavour} object has no programs");
        for program in &programs {
            let chain = deepest(&functions, program);
            let total: u32 = chain.iter().map(|function| function.frame()).sum();
            let told = chain.iter().map(|function| format!("{} {}", function.name, function.frame())).collect::<Vec<_>>().join(" + ");
            println!("{flavour}: {total:4} of {STACK_MAX}: {told}");
            if total > STACK_ALLOWED || chain.len() > FRAMES_MAX {
                failures.push(format!("{flavour}: {total} bytes in {} frames: {told}", chain.len()));
            }
        }
    }
    assert!(failures.is_empty(), "more than {STACK_ALLOWED} bytes of stack or {FRAMES_MAX} frames:\n{}", failures.join("\n"));
}

/// It must load on Linux 5.4, and on kernels of which no types are to be had.
#[test]
fn the_packet_filter_needs_no_types_and_no_helper_that_is_younger_than_it_says() {
    // Numbers of include/uapi/linux/bpf.h.
    const LOOKUP: i32 = 1;
    const KTIME: i32 = 5;
    const PERF_EVENT_OUTPUT: i32 = 25;
    const SKB_LOAD_BYTES: i32 = 26;
    const RINGBUF: [i32; 4] = [131, 132, 133, 134];
    let elf = Elf(PACKET);
    // struct btf_ext_header: the length of its relocations by types.
    let types = elf.section(elf.section_named(".BTF.ext").expect("types of the object itself"));
    assert_eq!(types[28..32], [0; 4], "the packet filter reads kernel types");
    let mut seen = 0;
    for symbol in elf.symbols().iter().filter(|symbol| symbol.name.ends_with("_to_ring") || symbol.name.ends_with("_to_perf")) {
        seen += 1;
        let body = &elf.section(symbol.section)[symbol.value..symbol.value + symbol.size];
        for instruction in body.chunks_exact(INSTRUCTION_LEN).filter(|instruction| instruction[0] == CALL) {
            assert_eq!(instruction[1] >> 4, 0, "{}: a call of another kind", symbol.name);
            let helper = i32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]]);
            let is_old = [LOOKUP, KTIME, PERF_EVENT_OUTPUT, SKB_LOAD_BYTES].contains(&helper);
            assert!(is_old || (symbol.name.ends_with("_to_ring") && RINGBUF.contains(&helper)), "{}: helper {helper}", symbol.name);
        }
        // BPF_MAXINSNS of unprivileged programs, and of all before 5.2.
        assert!(body.len() / INSTRUCTION_LEN < 4096, "{}: {} instructions", symbol.name, body.len() / INSTRUCTION_LEN);
    }
    assert_eq!(seen, 4);
}

#[test]
fn a_frame_is_as_deep_as_its_lowest_byte() {
    let instruction = |code: u8, registers: u8, offset: i16, immediate: i32| {
        let mut bytes = vec![code, registers];
        bytes.extend(offset.to_le_bytes());
        bytes.extend(immediate.to_le_bytes());
        bytes
    };
    // *(u64 *)(r10 - 24) = r1; r2 = r10; r2 += -40; exit
    let body =
        [instruction(0x7b, 0x1a, -24, 0), instruction(0xbf, 0xa2, 0, 0), instruction(0x07, 0x02, 0, -40), instruction(0x95, 0, 0, 0)];
    assert_eq!(depth(&body[0]), 24);
    assert_eq!(depth(&body.concat()), 40);
    // r2 is something else by then
    let other = [instruction(0xbf, 0xa2, 0, 0), instruction(0xb7, 0x02, 0, 0), instruction(0x07, 0x02, 0, -40)];
    assert_eq!(depth(&other.concat()), 0);
}

/// A function of the object: where it is, and what it needs and calls.
struct Function {
    name: String,
    /// Called by the kernel, not by another function.
    program: bool,
    depth: u32,
    calls: BTreeSet<Place>,
}

impl Function {
    /// Bytes of stack as the verifier counts them.
    fn frame(&self) -> u32 {
        self.depth.max(1).next_multiple_of(FRAME_UNIT)
    }
}

/// Section and offset in it.
type Place = (usize, usize);

/// The chain of calls from `function` on that takes most stack.
fn deepest<'a>(functions: &'a BTreeMap<Place, Function>, function: &'a Function) -> Vec<&'a Function> {
    let total = |chain: &Vec<&Function>| chain.iter().map(|function| function.frame()).sum::<u32>();
    let below = function.calls.iter().map(|place| deepest(functions, &functions[place])).max_by_key(total);
    [function].into_iter().chain(below.unwrap_or_default()).collect()
}

// The instruction set: Documentation/bpf/standardization/instruction-set.rst of the kernel.
const INSTRUCTION_LEN: usize = 8;
const FRAME_POINTER: usize = 10;
const LOAD: u8 = 0x01;
const STORE_CONSTANT: u8 = 0x02;
const STORE: u8 = 0x03;
const MOVE_REGISTER: u8 = 0xbf;
const ADD_CONSTANT: u8 = 0x07;
const CALL: u8 = 0x85;
/// Source register of a call of another function of the object.
const PSEUDO_CALL: usize = 1;
/// Type of its relocation.
const R_BPF_64_32: u32 = 10;

/// Bytes below the frame pointer that a function touches or takes the address of. The branches that a kernel leaves out count as well:
/// another kernel takes them.
fn depth(body: &[u8]) -> u32 {
    let mut lowest = 0;
    // What is known to be an address in the frame. Compilers take it right before its use, so the order of the text will do.
    let mut offsets = [None; 16];
    offsets[FRAME_POINTER] = Some(0);
    for instruction in body.chunks_exact(INSTRUCTION_LEN) {
        let code = instruction[0];
        let (to, from) = (usize::from(instruction[1] & 15), usize::from(instruction[1] >> 4));
        let offset = i32::from(i16::from_le_bytes([instruction[2], instruction[3]]));
        let immediate = i32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]]);
        let touched = match code & 7 {
            STORE | STORE_CONSTANT => offsets[to].map(|base: i32| base + offset),
            LOAD => {
                let touched = offsets[from].map(|base| base + offset);
                offsets[to] = None;
                touched
            }
            _ => {
                match code {
                    MOVE_REGISTER => offsets[to] = offsets[from],
                    ADD_CONSTANT => offsets[to] = offsets[to].map(|base| base + immediate),
                    // arithmetic, and loads of constants; jumps and calls are left
                    _ if matches!(code & 7, 0 | 4 | 7) => offsets[to] = None,
                    _ => {}
                }
                offsets[to].filter(|_| matches!(code, MOVE_REGISTER | ADD_CONSTANT))
            }
        };
        lowest = lowest.min(touched.unwrap_or(0));
    }
    lowest.unsigned_abs()
}

fn functions(elf: &Elf<'_>) -> BTreeMap<Place, Function> {
    const STT_FUNC: u8 = 2;
    const UNDEFINED: usize = 0;
    let symbols = elf.symbols();
    let called = elf.calls(&symbols);
    let of_text = elf.section_named(".text");
    symbols
        .iter()
        .filter(|symbol| symbol.kind == STT_FUNC)
        .map(|symbol| {
            let body = &elf.section(symbol.section)[symbol.value..symbol.value + symbol.size];
            let mut calls = BTreeSet::new();
            for (index, instruction) in body.chunks_exact(INSTRUCTION_LEN).enumerate() {
                if instruction[0] != CALL || usize::from(instruction[1] >> 4) != PSEUDO_CALL {
                    continue;
                }
                let at = symbol.value + index * INSTRUCTION_LEN;
                let immediate = i32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]]);
                let next = |base: usize| base.checked_add_signed((immediate as isize + 1) * INSTRUCTION_LEN as isize).expect("a call");
                calls.insert(match called.get(&(symbol.section, at)) {
                    // of the kernel's own
                    Some(Called::Function((UNDEFINED, _))) => continue,
                    // to a section: the constant says where in it
                    Some(Called::Section(section)) => (*section, next(0)),
                    Some(Called::Function(place)) => *place,
                    None => (symbol.section, next(at)),
                });
            }
            let function = Function { name: symbol.name.to_owned(), program: Some(symbol.section) != of_text, depth: depth(body), calls };
            ((symbol.section, symbol.value), function)
        })
        .collect()
}

struct Symbol<'a> {
    name: &'a str,
    kind: u8,
    section: usize,
    value: usize,
    size: usize,
}

enum Called {
    Function(Place),
    Section(usize),
}

/// A 64-bit little-endian object file; elf(5).
struct Elf<'a>(&'a [u8]);

impl<'a> Elf<'a> {
    fn number(&self, at: usize, len: usize) -> usize {
        self.0[at..at + len].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    fn sections(&self) -> usize {
        self.number(60, 2)
    }

    /// A field of a section's header.
    fn header(&self, section: usize, at: usize, len: usize) -> usize {
        self.number(self.number(40, 8) + section * self.number(58, 2) + at, len)
    }

    fn section(&self, section: usize) -> &'a [u8] {
        let offset = self.header(section, 24, 8);
        &self.0[offset..offset + self.header(section, 32, 8)]
    }

    fn text(&self, strings: usize, at: usize) -> &'a str {
        let bytes = &self.section(strings)[at..];
        let end = bytes.iter().position(|byte| *byte == 0).expect("a string's end");
        std::str::from_utf8(&bytes[..end]).expect("a name")
    }

    fn section_named(&self, name: &str) -> Option<usize> {
        (0..self.sections()).find(|section| self.text(self.number(62, 2), self.header(*section, 0, 4)) == name)
    }

    fn of_type(&self, kind: usize) -> impl Iterator<Item = usize> {
        (0..self.sections()).filter(move |section| self.header(*section, 4, 4) == kind)
    }

    fn symbols(&self) -> Vec<Symbol<'a>> {
        const SHT_SYMTAB: usize = 2;
        let table = self.of_type(SHT_SYMTAB).next().expect("a symbol table");
        let (offset, size) = (self.header(table, 24, 8), self.header(table, 32, 8));
        (offset..offset + size)
            .step_by(24)
            .map(|at| Symbol {
                name: self.text(self.header(table, 40, 4), self.number(at, 4)),
                kind: self.number(at + 4, 1) as u8 & 15,
                section: self.number(at + 6, 2),
                value: self.number(at + 8, 8),
                size: self.number(at + 16, 8),
            })
            .collect()
    }

    /// The calls that relocations name, by the place of the instruction.
    fn calls(&self, symbols: &[Symbol<'_>]) -> BTreeMap<Place, Called> {
        const SHT_REL: usize = 9;
        const STT_SECTION: u8 = 3;
        let mut calls = BTreeMap::new();
        for table in self.of_type(SHT_REL) {
            let (offset, size) = (self.header(table, 24, 8), self.header(table, 32, 8));
            let section = self.header(table, 44, 4);
            for at in (offset..offset + size).step_by(16) {
                if self.number(at + 8, 4) as u32 != R_BPF_64_32 {
                    continue;
                }
                let symbol = &symbols[self.number(at + 12, 4)];
                let called = match symbol.kind {
                    STT_SECTION => Called::Section(symbol.section),
                    _ => Called::Function((symbol.section, symbol.value)),
                };
                calls.insert((section, self.number(at, 8)), called);
            }
        }
        calls
    }
}
