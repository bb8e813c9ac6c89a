//! Stack: what a program and all that it calls need together.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    OBJECTS,
    elf::Elf,
    functions::{Function, Instruction, Place, functions, instructions},
};

/// `MAX_BPF_STACK`: the bytes of stack that a program and all that it calls may have, on kernels without private stacks (before 6.13).
const STACK_MAX: u32 = 512;
/// What we allow ourselves: compilers differ.
const STACK_ALLOWED: u32 = 448;
/// Kernels round each frame up to so much (`check_max_stack_depth`), newer ones to less.
const FRAME_UNIT: u32 = 32;
/// `MAX_CALL_FRAMES`.
const FRAMES_MAX: usize = 8;

const FRAME_POINTER: usize = 10;
const LOAD: u8 = 0x01;
const STORE_CONSTANT: u8 = 0x02;
const STORE: u8 = 0x03;
const MOVE_REGISTER: u8 = 0xbf;
const ADD_CONSTANT: u8 = 0x07;

#[test]
fn every_chain_of_calls_fits_the_stack_of_old_kernels() {
    let mut failures = Vec::new();
    for (flavour, object, known) in OBJECTS {
        let functions = functions(&Elf(object));
        let programs: Vec<_> = functions.values().filter(|function| function.program).collect();
        assert!(programs.iter().any(|program| program.name == known), "the {flavour} object has no programs");
        for program in &programs {
            let chain = deepest(&functions, program);
            let total: u32 = chain.iter().map(|function| frame(function)).sum();
            let told = chain.iter().map(|function| format!("{} {}", function.name, frame(function))).collect::<Vec<_>>().join(" + ");
            println!("{flavour}: {total:4} of {STACK_MAX}: {told}");
            if total > STACK_ALLOWED || chain.len() > FRAMES_MAX {
                failures.push(format!("{flavour}: {total} bytes in {} frames: {told}", chain.len()));
            }
        }
    }
    assert!(failures.is_empty(), "more than {STACK_ALLOWED} bytes of stack or {FRAMES_MAX} frames:\n{}", failures.join("\n"));
}

#[test]
fn a_frame_is_as_deep_as_its_lowest_byte() {
    let instruction = |code, to, from, offset, immediate| Instruction { code, to, from, offset, immediate }.write();
    // *(u64 *)(r10 - 24) = r1; r2 = r10; r2 += -40; exit
    let body =
        [instruction(0x7b, 10, 1, -24, 0), instruction(0xbf, 2, 10, 0, 0), instruction(0x07, 2, 0, 0, -40), instruction(0x95, 0, 0, 0, 0)];
    assert_eq!(depth(&body[0]), 24);
    assert_eq!(depth(&body.concat()), 40);
    // r2 is something else by then
    let other = [instruction(0xbf, 2, 10, 0, 0), instruction(0xb7, 2, 0, 0, 0), instruction(0x07, 2, 0, 0, -40)];
    assert_eq!(depth(&other.concat()), 0);
}

/// Bytes of stack as the verifier counts them.
fn frame(function: &Function<'_>) -> u32 {
    depth(function.body).max(1).next_multiple_of(FRAME_UNIT)
}

/// The chain of calls from `function` on that takes most stack.
fn deepest<'a>(functions: &'a BTreeMap<Place, Function<'a>>, function: &'a Function<'a>) -> Vec<&'a Function<'a>> {
    let total = |chain: &Vec<&Function<'_>>| chain.iter().map(|function| frame(function)).sum::<u32>();
    let called: BTreeSet<_> = function.calls.values().collect();
    let below = called.into_iter().map(|place| deepest(functions, &functions[place])).max_by_key(total);
    [function].into_iter().chain(below.unwrap_or_default()).collect()
}

/// Bytes below the frame pointer that a function touches or takes the address of. The branches that a kernel leaves out count as well:
/// another kernel takes them.
fn depth(body: &[u8]) -> u32 {
    let mut lowest = 0;
    // What is known to be an address in the frame. Compilers take it right before its use, so the order of the text will do.
    let mut offsets = [None; 16];
    offsets[FRAME_POINTER] = Some(0);
    for (_, Instruction { code, to, from, offset, immediate }) in instructions(body) {
        let offset = i32::from(offset);
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
