//! Every program of the BPF objects: what it is for, what it is attached to, and whether anything works without it.

use super::hooks::HookFamily;

/// A program as the objects have it, by its name.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    pub name: &'static str,
    pub part: Part,
    pub hook: Hook,
    /// Without it its part is worth nothing; else one thing is not seen.
    pub required: bool,
}

/// What a program contributes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Connections: open, fail, listen, close.
    Life,
    /// Processes come and go.
    Processes,
    /// Control groups come and go.
    Groups,
    /// What goes through sockets.
    Data(HookFamily),
    /// Nothing by itself: the reader starts it.
    Reading,
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Typed or raw, as the object has it.
    Tracepoint(&'static str),
    /// The end of a kernel function.
    FunctionExit(&'static str),
    /// The begin of each of these kernel functions that there is; not attached where there is none.
    Kprobe(&'static [&'static str]),
    /// A tracepoint by way of perf, beside the typed program there; see `enum processor_holder` in `settings.h`.
    PerfTracepoint(&'static str),
    /// An iterator over the connections, where a system call must not go through them.
    Walk,
}

const fn program(name: &'static str, part: Part, hook: Hook, required: bool) -> Program {
    Program { name, part, hook, required }
}

use Hook::{FunctionExit, Kprobe, PerfTracepoint, Tracepoint, Walk};
use Part::{Data, Groups, Life, Processes, Reading};

const SOCKET: Part = Data(HookFamily::Socket);
const FENTRY: Part = Data(HookFamily::Fentry);
const KPROBE: Part = Data(HookFamily::Kprobe);
const SYSCALLS: Part = Data(HookFamily::Syscalls);

/// In the order in which they are attached: life before data, so that a connection opened in between is not taken for an old one.
pub const PROGRAMS: [Program; 34] = [
    program("on_set_state_again", Life, PerfTracepoint("inet_sock_set_state"), true),
    program("walk_conns", Reading, Walk, true),
    program("on_set_state", Life, Tracepoint("inet_sock_set_state"), true),
    program("on_destroy", Life, Tracepoint("tcp_destroy_sock"), true),
    program("on_exec", Processes, Tracepoint("sched_process_exec"), false),
    program("on_exit", Processes, Tracepoint("sched_process_exit"), false),
    program("on_fork", Processes, Tracepoint("sched_process_fork"), false),
    program("on_cgroup_mkdir", Groups, Tracepoint("cgroup_mkdir"), false),
    program("on_cgroup_rename", Groups, Tracepoint("cgroup_rename"), false),
    program("on_cgroup_rmdir", Groups, Tracepoint("cgroup_rmdir"), false),
    program("on_taken", SOCKET, Tracepoint("tcp_rcv_space_adjust"), false),
    program("on_sock_send", SOCKET, Tracepoint("sock_send_length"), true),
    program("on_sock_recv", SOCKET, Tracepoint("sock_recv_length"), true),
    program("on_tcp_sendmsg", FENTRY, FunctionExit("tcp_sendmsg"), true),
    program("on_tcp_sendpage", FENTRY, FunctionExit("tcp_sendpage"), false),
    program("on_tcp_recvmsg", FENTRY, FunctionExit("tcp_recvmsg"), true),
    program("on_tcp_splice_read", FENTRY, FunctionExit("tcp_splice_read"), false),
    program("on_udp_sendmsg", FENTRY, FunctionExit("udp_sendmsg"), false),
    program("on_udpv6_sendmsg", FENTRY, FunctionExit("udpv6_sendmsg"), false),
    program("on_udp_recvmsg", FENTRY, FunctionExit("udp_recvmsg"), false),
    program("on_udpv6_recvmsg", FENTRY, FunctionExit("udpv6_recvmsg"), false),
    program("on_thread_exit", KPROBE, Kprobe(&["do_exit"]), true),
    program("on_tcp_given", KPROBE, Kprobe(&["release_sock"]), true),
    program("begin_tcp_sendmsg", KPROBE, Kprobe(&["tcp_sendmsg"]), true),
    program("begin_tcp_sendpage", KPROBE, Kprobe(&["tcp_sendpage"]), false),
    // From 6.0 on the second is a shell around the first; compilers may dissolve either in its callers.
    program("on_tcp_taken", KPROBE, Kprobe(&["__tcp_cleanup_rbuf", "tcp_cleanup_rbuf"]), true),
    program("begin_tcp_recvmsg", KPROBE, Kprobe(&["tcp_recvmsg"]), true),
    program("begin_tcp_splice_read", KPROBE, Kprobe(&["tcp_splice_read"]), false),
    program("on_udp_given", KPROBE, Kprobe(&["ip_send_skb"]), false),
    program("on_udpv6_given", KPROBE, Kprobe(&["ip6_send_skb"]), false),
    program("begin_udp_sendmsg", KPROBE, Kprobe(&["udp_sendmsg", "udpv6_sendmsg"]), false),
    program("on_udp_taken", KPROBE, Kprobe(&["skb_consume_udp"]), false),
    program("begin_udp_recvmsg", KPROBE, Kprobe(&["udp_recvmsg", "udpv6_recvmsg"]), false),
    program("on_sys_exit", SYSCALLS, Tracepoint("sys_exit"), true),
];

/// The programs that a family of hooks is made of, its own and those of all.
pub fn of_family(family: HookFamily) -> impl Iterator<Item = &'static Program> {
    PROGRAMS.iter().filter(move |program| !matches!(program.part, Data(other) if other != family))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use libbpf_rs::ObjectBuilder;

    use super::*;
    use crate::skel::{PLAIN, TYPED};

    #[test]
    fn the_table_names_every_program_of_both_objects() {
        let table: BTreeSet<_> = PROGRAMS.iter().map(|program| program.name.to_owned()).collect();
        assert_eq!(table.len(), PROGRAMS.len());
        for bytes in [TYPED, PLAIN] {
            let object = ObjectBuilder::default().open_memory(bytes).unwrap();
            let programs: BTreeSet<_> = object.progs().map(|program| program.name().to_string_lossy().into_owned()).collect();
            assert_eq!(programs, table);
        }
    }
}
