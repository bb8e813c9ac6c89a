//! The socket filters of the family `packet`, which must load on Linux 5.4, and on kernels of which no types are to be had.

use super::{
    PACKET,
    elf::Elf,
    functions::{CALL, HELPER, INSTRUCTION_LEN, functions, instructions},
    restrictions::instruction_rule,
    types::questions,
};

/// `BPF_MAXINSNS` of unprivileged programs, and of all before 5.2.
const INSTRUCTIONS_MAX: usize = 4096;

#[test]
fn the_packet_filter_needs_no_types_and_no_helper_that_is_younger_than_it_says() {
    // Numbers of include/uapi/linux/bpf.h.
    const LOOKUP: i32 = 1;
    const KTIME: i32 = 5;
    const PERF_EVENT_OUTPUT: i32 = 25;
    const SKB_LOAD_BYTES: i32 = 26;
    const RINGBUF: [i32; 4] = [131, 132, 133, 134];
    let elf = Elf(PACKET);
    assert_eq!(questions(&elf), [], "the packet filter reads kernel types");
    let mut seen = 0;
    for (_, filter) in functions(&elf) {
        seen += 1;
        let name = &filter.name;
        assert!(filter.program && (name.ends_with("_to_ring") || name.ends_with("_to_perf")), "{name} is another program");
        for (at, instruction) in instructions(filter.body) {
            assert_eq!(instruction_rule(instruction), None, "{name} at {at:#x}: {instruction:x?}");
            if instruction.code != CALL {
                continue;
            }
            assert_eq!(instruction.from, HELPER, "{name} at {at:#x}: a call of another kind");
            let helper = instruction.immediate;
            let is_old = [LOOKUP, KTIME, PERF_EVENT_OUTPUT, SKB_LOAD_BYTES].contains(&helper);
            assert!(is_old || (name.ends_with("_to_ring") && RINGBUF.contains(&helper)), "{name} at {at:#x}: helper {helper}");
        }
        assert!(filter.body.len() / INSTRUCTION_LEN < INSTRUCTIONS_MAX, "{name}: {} instructions", filter.body.len() / INSTRUCTION_LEN);
    }
    assert_eq!(seen, 4);
}
