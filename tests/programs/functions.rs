//! The functions of an object and what each calls, down to the instruction. The instruction set: the kernel's
//! Documentation/bpf/standardization/instruction-set.rst.

use std::collections::{BTreeMap, BTreeSet};

use super::elf::{Elf, Relocation, Symbol};

pub const INSTRUCTION_LEN: usize = 8;
pub const CALL: u8 = 0x85;
/// Source register of a call of a helper of the kernel.
pub const HELPER: usize = 0;
/// Source register of a call of another function of the object.
const PSEUDO_CALL: usize = 1;
/// A constant of 64 bits, which takes the room of two instructions.
pub const LOAD_CONSTANT: u8 = 0x18;

#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    pub code: u8,
    /// Destination register.
    pub to: usize,
    /// Source register.
    pub from: usize,
    pub offset: i16,
    pub immediate: i32,
}

impl Instruction {
    pub fn read(bytes: &[u8]) -> Self {
        Self {
            code: bytes[0],
            to: usize::from(bytes[1] & 15),
            from: usize::from(bytes[1] >> 4),
            offset: i16::from_le_bytes([bytes[2], bytes[3]]),
            immediate: i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        }
    }

    /// The lower three bits.
    pub fn class(self) -> u8 {
        self.code & 7
    }

    pub fn write(self) -> Vec<u8> {
        let mut bytes = vec![self.code, (self.from << 4 | self.to) as u8];
        bytes.extend(self.offset.to_le_bytes());
        bytes.extend(self.immediate.to_le_bytes());
        bytes
    }
}

/// Each with the offset at which it stands.
pub fn instructions(body: &[u8]) -> impl Iterator<Item = (usize, Instruction)> {
    let mut second = false;
    body.chunks_exact(INSTRUCTION_LEN).enumerate().filter_map(move |(index, bytes)| {
        let instruction = Instruction::read(bytes);
        if second {
            second = false;
            return None;
        }
        second = instruction.code == LOAD_CONSTANT;
        Some((index * INSTRUCTION_LEN, instruction))
    })
}

/// Section and offset in it.
pub type Place = (usize, usize);

/// A function of the object: where it is, and what it calls.
pub struct Function<'a> {
    pub name: String,
    /// Called by the kernel, not by another function.
    pub program: bool,
    /// Known in its own source alone, so that the verifier walks it for each of its callers.
    pub local: bool,
    pub place: Place,
    pub body: &'a [u8],
    /// Other functions of the object, by the offset of the call in the body.
    pub calls: BTreeMap<usize, Place>,
}

enum Called {
    Function(Place),
    Section(usize),
}

pub fn functions<'a>(elf: &Elf<'a>) -> BTreeMap<Place, Function<'a>> {
    let symbols = elf.symbols();
    let mut called = BTreeMap::new();
    for Relocation { section, offset, kind, symbol } in elf.relocations(&symbols) {
        if kind == Relocation::R_BPF_64_32 {
            let target = match symbol.kind {
                Symbol::SECTION => Called::Section(symbol.section),
                _ => Called::Function((symbol.section, symbol.value)),
            };
            called.insert((section, offset), target);
        }
    }
    let of_text = elf.section_named(".text");
    symbols
        .iter()
        .filter(|symbol| symbol.kind == Symbol::FUNCTION)
        .map(|symbol| {
            let body = &elf.section(symbol.section)[symbol.value..symbol.value + symbol.size];
            let mut calls = BTreeMap::new();
            for (offset, instruction) in instructions(body) {
                if instruction.code != CALL || instruction.from != PSEUDO_CALL {
                    continue;
                }
                let at = symbol.value + offset;
                let words = instruction.immediate as isize + 1;
                let next = |base: usize| base.checked_add_signed(words * INSTRUCTION_LEN as isize).expect("a call");
                let target = match called.get(&(symbol.section, at)) {
                    // of the kernel's own
                    Some(Called::Function((Symbol::UNDEFINED, _))) => continue,
                    // to a section: the constant says where in it
                    Some(Called::Section(section)) => (*section, next(0)),
                    Some(Called::Function(place)) => *place,
                    None => (symbol.section, next(at)),
                };
                calls.insert(offset, target);
            }
            let function = Function {
                name: symbol.name.to_owned(),
                program: Some(symbol.section) != of_text,
                local: symbol.local,
                place: (symbol.section, symbol.value),
                body,
                calls,
            };
            (function.place, function)
        })
        .collect()
}

/// The places of a function and of all that it calls, directly or not.
pub fn with_all_called(functions: &BTreeMap<Place, Function<'_>>, function: &Function<'_>) -> BTreeSet<Place> {
    let mut found = BTreeSet::new();
    let mut open = vec![function.place];
    while let Some(place) = open.pop() {
        if found.insert(place) {
            open.extend(functions[&place].calls.values());
        }
    }
    found
}
