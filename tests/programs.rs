//! What the verifier of every kernel asks of the programs, told from the object alone: no kernel, no root.

#[path = "programs/elf.rs"]
mod elf;
#[path = "programs/flow.rs"]
mod flow;
#[path = "programs/functions.rs"]
mod functions;
#[path = "programs/packet.rs"]
mod packet;
#[path = "programs/restrictions.rs"]
mod restrictions;
#[path = "programs/stack.rs"]
mod stack;
#[path = "programs/types.rs"]
mod types;

/// The objects that the agent loads, by the flavour of their programs, and one of these.
const OBJECTS: [(&str, &[u8], &str); 3] =
    [("typed", remora::skel::TYPED, "on_sys_exit"), ("plain", remora::skel::PLAIN, "on_sys_exit"), ("packet", PACKET, "ip_to_perf")];

/// That of the family `packet`.
static PACKET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/packet.bpf.o"));
