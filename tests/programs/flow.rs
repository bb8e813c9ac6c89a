//! Which instructions of a function a verifier walks that knows some constants: it leaves out the side of a branch that cannot be taken.
//!
//! It knows less than any verifier does: registers alone and not the stack, one state for all ways that lead to an instruction. So what is
//! not reached here is not reached by a kernel either.

use std::collections::{BTreeMap, BTreeSet};

use super::functions::{CALL, INSTRUCTION_LEN, Instruction, LOAD_CONSTANT};

const LOAD: u8 = 1;
const STORE: u8 = 3;
const ARITHMETIC_32: u8 = 4;
const JUMP: u8 = 5;
const JUMP_32: u8 = 6;
const ARITHMETIC: u8 = 7;
/// Operations, in the upper four bits of an instruction's code.
const MOVE: u8 = 0xb0;
const ALWAYS: u8 = 0x00;
const CALLED: u8 = 0x80;
const EXIT: u8 = 0x90;
/// The other operand is a register.
const BY_REGISTER: u8 = 8;
/// The registers that a call leaves with other values in them.
const CLOBBERED: usize = 6;

/// What is known of each register.
type Registers = [Option<u64>; 16];

/// The offsets of the instructions that are walked. `known`: constants that are written into an instruction before it is loaded, or `None`
/// for those that are not known, by offset.
pub fn reached(body: &[u8], known: &BTreeMap<usize, Option<u64>>) -> BTreeSet<usize> {
    let mut states: BTreeMap<usize, Registers> = BTreeMap::from([(0, [None; 16])]);
    let mut open = vec![0];
    while let Some(at) = open.pop() {
        let mut registers = states[&at];
        for next in step(body, at, known, &mut registers) {
            let before = states.get(&next).copied();
            let both = before.map_or(registers, |before| join(before, registers));
            if before != Some(both) {
                states.insert(next, both);
                open.push(next);
            }
        }
    }
    states.into_keys().collect()
}

fn join(mut one: Registers, other: Registers) -> Registers {
    for (one, other) in one.iter_mut().zip(other) {
        *one = one.filter(|value| Some(*value) == other);
    }
    one
}

/// Does one instruction; returns the offsets of those that may follow.
fn step(body: &[u8], at: usize, known: &BTreeMap<usize, Option<u64>>, registers: &mut Registers) -> Vec<usize> {
    let instruction = Instruction::read(&body[at..at + INSTRUCTION_LEN]);
    let Instruction { code, to, from, offset, immediate } = instruction;
    let next = at + INSTRUCTION_LEN;
    let target = || next.checked_add_signed(isize::from(offset) * INSTRUCTION_LEN as isize).expect("a jump in the function");
    let constant = |written: u64| known.get(&at).copied().unwrap_or(Some(written));
    match instruction.class() {
        LOAD => registers[to] = None,
        // a fetching operation gives back the old value
        STORE if code & 0xe0 == 0xc0 => (registers[from], registers[0]) = (None, None),
        ARITHMETIC | ARITHMETIC_32 => {
            let moved = if code & BY_REGISTER == 0 { constant(immediate as i64 as u64) } else { registers[from].filter(|_| offset == 0) };
            let moved = if instruction.class() == ARITHMETIC_32 { moved.map(|value| u64::from(value as u32)) } else { moved };
            registers[to] = moved.filter(|_| code & 0xf0 == MOVE);
        }
        JUMP | JUMP_32 => match code & 0xf0 {
            CALLED => registers[..CLOBBERED].fill(None),
            EXIT => return Vec::new(),
            ALWAYS => return vec![target()],
            _ => {
                return match taken(instruction, registers) {
                    Some(true) => vec![target()],
                    Some(false) => vec![next],
                    None => vec![target(), next],
                };
            }
        },
        _ if code == LOAD_CONSTANT => {
            let upper = Instruction::read(&body[next..next + INSTRUCTION_LEN]).immediate;
            // an address has a source register, or a relocation, which makes it unknown
            registers[to] = constant(u64::from(upper as u32) << 32 | u64::from(immediate as u32)).filter(|_| from == 0);
            return vec![next + INSTRUCTION_LEN];
        }
        _ => {}
    }
    vec![next]
}

/// Whether a branch that compares with a constant is taken, if that is known.
fn taken(instruction: Instruction, registers: &Registers) -> Option<bool> {
    if instruction.code & BY_REGISTER != 0 {
        return None;
    }
    let (value, other) = (registers[instruction.to]?, instruction.immediate as i64 as u64);
    let narrow = instruction.class() == JUMP_32;
    let (value, other) = if narrow { (u64::from(value as u32), u64::from(other as u32)) } else { (value, other) };
    match instruction.code & 0xf0 {
        0x10 => Some(value == other),
        0x20 => Some(value > other),
        0x30 => Some(value >= other),
        0x40 => Some(value & other != 0),
        0x50 => Some(value != other),
        0xa0 => Some(value < other),
        0xb0 => Some(value <= other),
        // signed
        _ => None,
    }
}

/// Those of helpers among the reached, with the helper's number.
pub fn helpers<'a>(body: &'a [u8], reached: &'a BTreeSet<usize>) -> impl Iterator<Item = (usize, i32)> + 'a {
    reached.iter().filter_map(move |at| {
        let instruction = Instruction::read(&body[*at..]);
        (instruction.code == CALL && instruction.from == super::functions::HELPER).then_some((*at, instruction.immediate))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUARDED: i32 = 131;
    const OTHER: i32 = 25;

    fn instruction(code: u8, to: usize, from: usize, offset: i16, immediate: i32) -> Vec<u8> {
        Instruction { code, to, from, offset, immediate }.write()
    }

    fn called(body: &[Vec<u8>], known: &[(usize, Option<u64>)]) -> Vec<i32> {
        let body = body.concat();
        let reached = reached(&body, &known.iter().copied().collect());
        helpers(&body, &reached).map(|(_, helper)| helper).collect()
    }

    /// `rX = there; if rX == 0 goto other; call GUARDED; exit; other: call OTHER; exit`
    fn guarded(jump: u8) -> Vec<Vec<u8>> {
        vec![
            instruction(0xb7, 6, 0, 0, 1),
            instruction(jump, 6, 0, 2, 0),
            instruction(CALL, 0, 0, 0, GUARDED),
            instruction(0x95, 0, 0, 0, 0),
            instruction(CALL, 0, 0, 0, OTHER),
            instruction(0x95, 0, 0, 0, 0),
        ]
    }

    #[test]
    fn a_branch_on_a_constant_is_walked_on_one_side() {
        for jump in [0x15, 0x16] {
            assert_eq!(called(&guarded(jump), &[(0, Some(0))]), [OTHER]);
            assert_eq!(called(&guarded(jump), &[(0, Some(1))]), [GUARDED]);
            assert_eq!(called(&guarded(jump), &[(0, None)]), [GUARDED, OTHER]);
            assert_eq!(called(&guarded(jump), &[]), [GUARDED]);
        }
        assert_eq!(called(&guarded(0x55), &[(0, Some(0))]), [GUARDED]);
        // by another register
        assert_eq!(called(&guarded(0x1d), &[(0, Some(0))]), [GUARDED, OTHER]);
    }

    #[test]
    fn a_constant_of_64_bits_and_one_that_was_moved_are_known() {
        let mut body = guarded(0x15);
        body[0] = [instruction(LOAD_CONSTANT, 6, 0, 0, 1), instruction(0, 0, 0, 0, 0)].concat();
        assert_eq!(called(&body, &[(0, Some(0))]), [OTHER]);
        // r7 = there; r6 = r7
        body[0] = [instruction(0xb7, 7, 0, 0, 1), instruction(0xbf, 6, 7, 0, 0)].concat();
        assert_eq!(called(&body, &[(0, Some(0))]), [OTHER]);
    }

    #[test]
    fn what_a_call_or_a_load_or_arithmetic_leaves_is_unknown() {
        for between in [instruction(0x79, 6, 1, 0, 0), instruction(0x07, 6, 0, 0, 1), instruction(0xdb, 1, 6, 0, 1)] {
            let mut body = guarded(0x15);
            body.insert(1, between);
            assert_eq!(called(&body, &[(0, Some(0))]), [GUARDED, OTHER]);
        }
        let mut body = guarded(0x15);
        body[0] = [instruction(0xb7, 1, 0, 0, 1), instruction(CALL, 0, 0, 0, 5), instruction(0xbf, 6, 1, 0, 0)].concat();
        assert_eq!(called(&body, &[(0, Some(0))]), [5, GUARDED, OTHER]);
    }

    #[test]
    fn a_register_with_two_values_is_unknown() {
        // if r1 == 0 goto +1; r6 = 1, after r6 = 0
        let mut body = guarded(0x15);
        body[0] = instruction(0xb7, 6, 0, 0, 0);
        body.insert(1, [instruction(0x15, 1, 0, 1, 0), instruction(0xb7, 6, 0, 0, 1)].concat());
        assert_eq!(called(&body, &[]), [GUARDED, OTHER]);
    }

    #[test]
    fn a_loop_ends() {
        // r6 = 0; r6 += 1; if r6 != 9 goto -2; exit
        let body =
            [instruction(0xb7, 6, 0, 0, 0), instruction(0x07, 6, 0, 0, 1), instruction(0x55, 6, 0, -2, 9), instruction(0x95, 0, 0, 0, 0)];
        assert_eq!(reached(&body.concat(), &BTreeMap::new()).len(), 4);
    }
}
