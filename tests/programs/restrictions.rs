//! What Linux 5.4 asks of the plain flavour, which is the oldest kernel that it is for: helpers, instructions, functions, maps.
//!
//! The rules are those of kernel/bpf/verifier.c, kernel/bpf/core.c and kernel/trace/bpf_trace.c of Linux 5.4. What only a load can tell,
//! such as how many instructions the verifier walks, is measured by `remora doctor` (docs/kernels.md).

use std::collections::{BTreeMap, BTreeSet};

use libbpf_rs::ObjectBuilder;
use remora::{
    probes::{
        hooks::HookFamily,
        programs::{Hook, PROGRAMS, Part},
    },
    skel::{PLAIN, TYPED},
};

use super::{
    elf::{Elf, Relocation, Symbol},
    flow::{helpers, reached},
    functions::{CALL, Function, INSTRUCTION_LEN, Instruction, Place, functions, instructions, with_all_called},
    types::{Question, questions},
};

/// Exists where the ring buffer does (457f44363a88, Linux 5.8).
const RING_TYPE: &str = "bpf_ringbuf";
/// Much younger: by it the programs tell kernels whose tracepoints may be preempted (`BY_PERF`).
const SRCU_TYPE: &str = "srcu_ctr";
/// The map that user space makes another one of where there is no ring buffer.
const RING_MAP: &str = "events";
/// `tracing_func_proto` and what raw tracepoints and kprobes have beside it. From 1: maps, reading memory, clock, printing, random
/// numbers, the CPU; 14 to 16 the running process; 22, 25, 27 perf; 35 to 37 the task; 42 the node; 45 strings; 67 stacks; 80 the control
/// group; 87 to 89 queues (02a8c817a31a, 5.2); 109 signals.
const HELPERS: [i32; 26] = [1, 2, 3, 4, 5, 6, 7, 8, 12, 14, 15, 16, 22, 25, 27, 35, 36, 37, 42, 45, 67, 80, 87, 88, 89, 109];
/// `bpf_probe_read_{user,kernel}{,_str}` (6ae08ae3dea2, 5.5): libbpf makes `bpf_probe_read{,_str}` of them where they are missing.
const REWRITTEN: [i32; 4] = [112, 113, 114, 115];
/// `bpf_get_current_task_btf`, `bpf_task_pt_regs`: the tracepoints of the family `socket` (6.3) are younger than both (5.11, 5.15).
const OF_SOCKET: &[i32] = &[158, 175];
/// `bpf_seq_write` (492e639f0c22, 5.8) of programs that walk maps: these are loaded from 7.0 on.
const OF_WALKS: &[i32] = &[127];
/// `BPF_COMPLEXITY_LIMIT_INSNS`, also the limit of what is loaded.
const INSTRUCTIONS_MAX: usize = 1_000_000;
/// `BPF_MAX_SUBPROGS`.
const FUNCTIONS_MAX: usize = 256;
/// `BPF_MAP_TYPE_DEVMAP_HASH`, the last of its kind.
const MAP_TYPE_MAX: u32 = 25;
const RING_MAP_TYPE: u32 = 27;
/// `BPF_MAP_TYPE_{PERCPU_HASH,PERCPU_ARRAY,LRU_PERCPU_HASH,PERCPU_CGROUP_STORAGE}`
const PER_CPU: [u32; 4] = [5, 6, 10, 21];
/// `PCPU_MIN_UNIT_SIZE`
const PER_CPU_VALUE_MAX: u32 = 32 << 10;
/// `KMALLOC_MAX_SIZE`, less what an element has beside its value.
const VALUE_MAX: u32 = (4 << 20) - 1024;
/// `MAX_BPF_STACK`: a key has to be in the frame.
const KEY_MAX: u32 = 512;
/// The flags up to `BPF_F_CLONE`, and `BPF_F_MMAPABLE`, which libbpf leaves out where it is missing.
const MAP_FLAGS: u32 = (1 << 11) - 1;

#[test]
fn the_plain_flavour_asks_nothing_that_linux_5_4_has_not() {
    let broken = broken(PLAIN);
    assert!(broken.is_empty(), "{} times against a rule of Linux 5.4:\n{}", broken.len(), told(&broken));
}

#[test]
fn the_typed_flavour_breaks_the_rules_that_it_is_made_to_break() {
    let broken: BTreeSet<_> = broken(TYPED).into_iter().map(|broken| broken.rule).collect();
    for rule in [Rule::Helper, Rule::Instruction, Rule::GlobalFunction, Rule::Extern, Rule::TypeNumber] {
        assert!(broken.contains(&rule), "{rule:?} is not found in the typed flavour, which has such");
    }
}

#[test]
fn where_there_is_a_ring_buffer_the_plain_flavour_uses_it() {
    let object = Object::read(PLAIN);
    let programs: Vec<_> = object.functions.values().filter(|function| function.program).collect();
    assert_eq!(programs.iter().map(|program| &*program.name).collect::<BTreeSet<_>>(), PROGRAMS.map(|program| program.name).into());
    let reserving = |ring: bool| {
        let reserves = |program: &&&Function<'_>| object.called(program, ring).iter().any(|(.., helper)| (130..=134).contains(helper));
        programs.iter().filter(reserves).count()
    };
    assert_eq!(reserving(false), 0);
    // all but those that note the begin of a call
    assert!(reserving(true) > programs.len() / 2, "{} of {} programs", reserving(true), programs.len());
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    /// A helper is called that 5.4 does not have for tracing programs.
    Helper,
    /// An instruction that is younger.
    Instruction,
    /// Before 5.6 (51c39bb1d5d1) there are none, before 5.12 they take no pointers.
    GlobalFunction,
    /// A function or variable of the kernel (5.11, e6ac2450d6de and 541c3bad8dc5), or the address of a function (5.13, 69c087ba6225).
    Extern,
    /// Minimised types have other numbers than the kernel's.
    TypeNumber,
    /// A program is too long or has too many functions.
    Size,
    Map,
}

/// Something in the object is against a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Broken {
    rule: Rule,
    place: String,
    why: String,
}

fn told(broken: &[Broken]) -> String {
    broken.iter().map(|Broken { rule, place, why }| format!("{rule:?}: {place}: {why}")).collect::<Vec<_>>().join("\n")
}

/// All that is against the rules, once for each place.
fn broken(bytes: &[u8]) -> Vec<Broken> {
    let object = Object::read(bytes);
    let mut broken = BTreeSet::new();
    let programs = object.functions.values().filter(|function| function.program);
    for program in programs {
        object.judge_program(program, &mut broken);
    }
    for function in object.functions.values() {
        object.judge_function(function, &mut broken);
    }
    for question in &object.questions {
        if question.kind == Question::TYPE_ID_TARGET {
            let why = format!("the number of the type {} in the kernel", question.of);
            broken.insert(Broken { rule: Rule::TypeNumber, place: object.place((question.section, question.offset)), why });
        }
    }
    let open = ObjectBuilder::default().open_memory(bytes).expect("an object");
    for map in open.maps() {
        let name = map.name().to_string_lossy().into_owned();
        let shape = Shape { kind: map.map_type() as u32, key: map.key_size(), value: map.value_size(), flags: map.map_flags() };
        if let Some(why) = map_rule(&name, shape) {
            broken.insert(Broken { rule: Rule::Map, place: name, why });
        }
    }
    broken.into_iter().collect()
}

struct Object<'a> {
    functions: BTreeMap<Place, Function<'a>>,
    questions: Vec<Question>,
    /// Of the addresses in instructions: the object's own maps and variables, or why one is not.
    addresses: BTreeMap<Place, Option<String>>,
}

impl<'a> Object<'a> {
    fn read(bytes: &'a [u8]) -> Self {
        let elf = Elf(bytes);
        let symbols = elf.symbols();
        let text = elf.section_named(".text").expect("functions");
        let addresses = elf.relocations(&symbols).into_iter().map(|relocation| {
            let Relocation { section, offset, kind, symbol } = relocation;
            ((section, offset), address_rule(kind, symbol, text))
        });
        Self { functions: functions(&elf), questions: questions(&elf), addresses: addresses.collect() }
    }

    /// A place in words.
    fn place(&self, (section, offset): Place) -> String {
        let function = self.functions.range(..=(section, offset)).next_back().map(|(_, function)| function);
        let Some(function) = function.filter(|function| function.place.0 == section) else { return format!("section {section}") };
        format!("{} at {:#x}", function.name, offset - function.place.1)
    }

    /// The constants of a function's instructions that are not what is written there.
    fn known(&self, function: &Function<'_>, ring: bool) -> BTreeMap<usize, Option<u64>> {
        let (section, begin) = function.place;
        let end = begin + function.body.len();
        let asked = self.questions.iter().filter(|question| question.section == section && (begin..end).contains(&question.offset));
        let answers = asked.map(|question| {
            let answer = match &*question.of {
                RING_TYPE => Some(ring.into()),
                SRCU_TYPE => Some(0),
                _ => None,
            };
            (question.offset - begin, answer.filter(|_| question.kind == Question::TYPE_EXISTS))
        });
        let addresses = self.addresses.range((section, begin)..(section, end)).map(|((_, offset), _)| (offset - begin, None));
        addresses.chain(answers).collect()
    }

    /// The helpers that a program and what it calls come to call: where, and which. `ring`: the kernel has a ring buffer.
    fn called(&self, program: &Function<'_>, ring: bool) -> Vec<(Place, i32)> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![program.place];
        while let Some(place) = open.pop() {
            if !seen.insert(place) {
                continue;
            }
            let function = &self.functions[&place];
            let reached = reached(function.body, &self.known(function, ring));
            found.extend(helpers(function.body, &reached).map(|(at, helper)| ((place.0, place.1 + at), helper)));
            open.extend(function.calls.iter().filter(|(at, _)| reached.contains(at)).map(|(_, place)| *place));
        }
        found
    }

    fn judge_program(&self, program: &Function<'_>, broken: &mut BTreeSet<Broken>) {
        let known = PROGRAMS.iter().find(|known| known.name == program.name);
        let younger = match known.map(|known| (known.part, known.hook)) {
            Some((Part::Data(HookFamily::Socket), _)) => OF_SOCKET,
            Some((_, Hook::Walk)) => OF_WALKS,
            _ => &[],
        };
        for (place, helper) in self.called(program, false) {
            if let Some(why) = helper_rule(helper, younger) {
                let place = format!("program {}, {}", program.name, self.place(place));
                broken.insert(Broken { rule: Rule::Helper, place, why });
            }
        }
        let all = with_all_called(&self.functions, program);
        let bytes: usize = all.iter().map(|place| self.functions[place].body.len()).sum();
        if let Some(why) = size_rule(bytes / INSTRUCTION_LEN, all.len()) {
            broken.insert(Broken { rule: Rule::Size, place: format!("program {}", program.name), why });
        }
    }

    fn judge_function(&self, function: &Function<'_>, broken: &mut BTreeSet<Broken>) {
        let (section, begin) = function.place;
        if !function.program && !function.local {
            let why = "a global function".to_owned();
            broken.insert(Broken { rule: Rule::GlobalFunction, place: function.name.clone(), why });
        }
        for (at, instruction) in instructions(function.body) {
            let place = || format!("{} at {at:#x}", function.name);
            if let Some(why) = instruction_rule(instruction) {
                broken.insert(Broken { rule: Rule::Instruction, place: place(), why: format!("{why}: {instruction:x?}") });
            }
            if let Some(Some(why)) = self.addresses.get(&(section, begin + at)) {
                broken.insert(Broken { rule: Rule::Extern, place: place(), why: why.clone() });
            }
        }
    }
}

/// `younger`: those that the program may call all the same.
fn helper_rule(helper: i32, younger: &[i32]) -> Option<String> {
    let there = HELPERS.contains(&helper) || REWRITTEN.contains(&helper) || younger.contains(&helper);
    (!there).then(|| format!("comes to call the helper {helper}, which is not there for it"))
}

/// `do_check` of Linux 5.4 knows these; programs of tracing have no packets to load from.
pub fn instruction_rule(instruction: Instruction) -> Option<&'static str> {
    let Instruction { code, from, offset, immediate, .. } = instruction;
    let (mode, operation) = (code & 0xe0, code & 0xf0);
    let known = match instruction.class() {
        // constants of 64 bits; their address forms up to BPF_PSEUDO_MAP_VALUE (5.2)
        0 => code == 0x18 && from <= 2,
        // plain loads and stores; since 6.6 loads extend signs
        1 | 2 => mode == 0x60,
        // XADD alone: the others, and those with a result, are of 5.12 (91c960b00566), acquiring and releasing ones of 6.15
        3 => mode == 0x60 || (mode == 0xc0 && matches!(code & 0x18, 0x00 | 0x18) && immediate == 0),
        // since 6.6 the offset makes signed divisions and moves of them, and the wide class has byte swaps
        4 => operation <= 0xd0 && offset == 0,
        7 => operation <= 0xc0 && offset == 0,
        5 => match operation {
            // helpers and functions; kfuncs are of 5.13 (e6ac2450d6de)
            0x80 => code == CALL && from <= 1,
            0x00 | 0x90 => code & 8 == 0,
            operation => operation <= 0xd0,
        },
        // compares alone (5.1); long jumps are of 6.6
        _ => (0x10..=0xd0).contains(&operation) && !matches!(operation, 0x80 | 0x90),
    };
    (!known).then_some("an instruction that is not there")
}

/// Of an address in an instruction or the target of a call.
fn address_rule(kind: u32, symbol: &Symbol<'_>, text: usize) -> Option<String> {
    if symbol.section == Symbol::UNDEFINED {
        return Some(format!("{} of the kernel", symbol.name));
    }
    (kind == Relocation::R_BPF_64_64 && symbol.section == text).then(|| format!("the address of the function {}", symbol.name))
}

fn size_rule(instructions: usize, functions: usize) -> Option<String> {
    let fits = instructions <= INSTRUCTIONS_MAX && functions <= FUNCTIONS_MAX;
    (!fits).then(|| format!("{instructions} instructions in {functions} functions; {INSTRUCTIONS_MAX} and {FUNCTIONS_MAX} may be"))
}

#[derive(Clone, Copy)]
struct Shape {
    kind: u32,
    key: u32,
    value: u32,
    flags: u32,
}

fn map_rule(name: &str, shape: Shape) -> Option<String> {
    let Shape { kind, key, value, flags } = shape;
    if kind > MAP_TYPE_MAX && (name, kind) != (RING_MAP, RING_MAP_TYPE) {
        return Some(format!("a map of type {kind}"));
    }
    let value_max = if PER_CPU.contains(&kind) { PER_CPU_VALUE_MAX } else { VALUE_MAX };
    if value > value_max || key > KEY_MAX {
        return Some(format!("a key of {key} bytes and a value of {value}; {KEY_MAX} and {value_max} may be"));
    }
    (flags & !MAP_FLAGS != 0).then(|| format!("flags {flags:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_there(code: u8, from: usize, offset: i16, immediate: i32) -> bool {
        instruction_rule(Instruction { code, to: 1, from, offset, immediate }).is_none()
    }

    #[test]
    fn helpers_that_are_younger_or_not_for_tracing_are_refused() {
        let there = |helper, younger| helper_rule(helper, younger).is_none();
        assert!(there(1, &[]) && there(25, OF_SOCKET) && there(113, &[]));
        // skb_load_bytes is old, but not for such programs; jiffies64, ktime_get_boot_ns, ringbuf_reserve, ringbuf_query, loop
        for helper in [26, 118, 125, 131, 134, 181] {
            assert!(!there(helper, &[]) && !there(helper, OF_SOCKET) && !there(helper, OF_WALKS), "{helper}");
        }
        for helper in OF_SOCKET {
            assert!(there(*helper, OF_SOCKET) && !there(*helper, OF_WALKS) && !there(*helper, &[]));
        }
    }

    #[test]
    fn atomic_operations_other_than_an_addition_are_refused() {
        for code in [0xc3, 0xdb] {
            assert!(is_there(code, 2, 8, 0), "{code:#x}");
            // add with fetch, or, and, xor, exchange, compare and exchange, load-acquire
            for operation in [0x01, 0x40, 0x50, 0xa0, 0xe1, 0xf1, 0x100] {
                assert!(!is_there(code, 2, 8, operation), "{code:#x} {operation:#x}");
            }
        }
        // of 8 bits
        assert!(!is_there(0xd3, 2, 8, 0));
    }

    #[test]
    fn calls_of_the_kernels_own_functions_are_refused() {
        assert!(is_there(CALL, 0, 0, 1) && is_there(CALL, 1, 0, 100));
        assert!(!is_there(CALL, 2, 0, 1000) && !is_there(0x8d, 0, 0, 0));
    }

    #[test]
    fn instructions_of_the_fourth_version_are_refused() {
        // what was: loads, stores, constants, moves, divisions, byte orders, jumps
        for code in [0x79, 0x61, 0x7b, 0x7a, 0x18, 0xb7, 0xbf, 0xb4, 0x3f, 0x9f, 0xd4, 0xdc, 0x05, 0x15, 0x1d, 0x16, 0xd6, 0x95] {
            assert!(is_there(code, 2, 0, 0), "{code:#x}");
        }
        // loads that extend signs, byte swap, long jump, may_goto
        for code in [0x81, 0x91, 0xd7, 0x06, 0xe5] {
            assert!(!is_there(code, 0, 0, 0), "{code:#x}");
        }
        // moves that extend signs, signed division and rest
        for (code, offset) in [(0xbf, 8), (0xbc, 16), (0x3f, 1), (0x97, 1)] {
            assert!(!is_there(code, 2, offset, 0), "{code:#x}");
        }
        // the address of a function
        assert!(!is_there(0x18, 4, 0, 0));
    }

    #[test]
    fn addresses_of_functions_and_of_the_kernel_are_refused() {
        const TEXT: usize = 7;
        let symbol = |section| Symbol { name: "it", kind: Symbol::FUNCTION, local: true, section, value: 0, size: 8 };
        assert_eq!(address_rule(Relocation::R_BPF_64_64, &symbol(3), TEXT), None);
        assert_eq!(address_rule(Relocation::R_BPF_64_32, &symbol(TEXT), TEXT), None);
        assert!(address_rule(Relocation::R_BPF_64_64, &symbol(TEXT), TEXT).is_some());
        assert!(address_rule(Relocation::R_BPF_64_32, &symbol(Symbol::UNDEFINED), TEXT).is_some());
    }

    #[test]
    fn programs_that_are_too_large_are_refused() {
        assert_eq!(size_rule(INSTRUCTIONS_MAX, FUNCTIONS_MAX), None);
        assert!(size_rule(INSTRUCTIONS_MAX + 1, 1).is_some() && size_rule(100, FUNCTIONS_MAX + 1).is_some());
    }

    #[test]
    fn maps_that_are_younger_or_too_large_are_refused() {
        let there = |name, kind, key, value, flags| map_rule(name, Shape { kind, key, value, flags }).is_none();
        assert!(there("conns", 1, 8, 168, 0) && there("events", RING_MAP_TYPE, 0, 0, 0) && there("stages", 6, 4, 32 << 10, 0));
        // another ring, task storage, an arena
        assert!(!there("records", RING_MAP_TYPE, 0, 0, 0) && !there("events", 29, 4, 8, 0) && !there("room", 33, 0, 0, 0));
        assert!(!there("stages", 6, 4, (32 << 10) + 1, 0) && !there("calls", 5, 4, 40 << 10, 0));
        assert!(there("scratches", 2, 4, 40 << 10, 0) && !there("scratches", 2, 4, 4 << 20, 0));
        assert!(!there("paths", 1, 513, 8, 0) && !there("conns", 1, 8, 8, 1 << 11));
    }
}
