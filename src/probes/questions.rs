//! Questions put to the kernel: trial loads, and system calls whose refusal is an answer. Asks what it is told to; when, `features` knows.
#![allow(unsafe_code, reason = "libbpf's feature probes have no safe wrapper")]

use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use libbpf_rs::{
    btf::{Btf, types::Func},
    libbpf_sys::{self, bpf_func_id, bpf_map_type, bpf_prog_type},
};
use nix::{errno::Errno, libc};

/// libbpf answers 1 yes, 0 no, negative: could not be asked.
fn answer(code: i32) -> Option<bool> {
    (code >= 0).then_some(code > 0)
}

pub(super) fn has_map_type(kind: bpf_map_type) -> Option<bool> {
    // SAFETY: takes a number and a null for no options; makes a map of one entry and closes it again.
    answer(unsafe { libbpf_sys::libbpf_probe_bpf_map_type(kind, ptr::null()) })
}

pub(super) fn has_helper(kind: bpf_prog_type, helper: bpf_func_id) -> Option<bool> {
    // SAFETY: as above, with a program that calls the helper.
    answer(unsafe { libbpf_sys::libbpf_probe_bpf_helper(kind, helper, ptr::null()) })
}

/// Loads a program of one such operation; libbpf has no question of its own for it.
pub(super) fn atomic_fetch() -> Option<bool> {
    const INSTRUCTIONS: [[u8; 8]; 5] = [
        [0xb7, 0x01, 0, 0, 1, 0, 0, 0],       // r1 = 1
        [0x7b, 0x1a, 0xf8, 0xff, 0, 0, 0, 0], // *(u64 *)(r10 - 8) = r1
        [0xdb, 0x1a, 0xf8, 0xff, 1, 0, 0, 0], // r1 = atomic_fetch_add((u64 *)(r10 - 8), r1)
        [0xb7, 0x00, 0, 0, 0, 0, 0, 0],       // r0 = 0
        [0x95, 0x00, 0, 0, 0, 0, 0, 0],       // exit
    ];
    match load_filter(&INSTRUCTIONS) {
        Ok(()) => Some(true),
        // The verifier's word for an instruction that it does not know.
        Err(Errno::EINVAL) => Some(false),
        Err(_) => None,
    }
}

/// Attaches a program that does nothing to the end of tcp_sendmsg, and lets it go again: a kernel may take such programs and yet not
/// attach them (no trampolines, as on arm64 before 6.4; a security module).
pub(super) fn function_exits(own: &Btf<'_>) -> bool {
    const INSTRUCTIONS: [[u8; 8]; 2] = [
        [0xb7, 0x00, 0, 0, 0, 0, 0, 0], // r0 = 0
        [0x95, 0x00, 0, 0, 0, 0, 0, 0], // exit
    ];
    let Some(function) = own.type_by_name::<Func<'_>>("tcp_sendmsg") else { return false };
    let options = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as libbpf_sys::size_t,
        expected_attach_type: libbpf_sys::BPF_TRACE_FEXIT,
        attach_btf_id: u32::from(function.type_id()),
        ..Default::default()
    };
    let Ok(program) = load(libbpf_sys::BPF_PROG_TYPE_TRACING, &INSTRUCTIONS, Some(&options)) else { return false };
    // SAFETY: a null for no name, which such programs have not, and an open descriptor.
    let link = unsafe { libbpf_sys::bpf_raw_tracepoint_open(ptr::null(), program.as_raw_fd()) };
    if link < 0 {
        return false;
    }
    // SAFETY: the descriptor was made above and nobody else has it.
    drop(unsafe { OwnedFd::from_raw_fd(link) });
    true
}

/// Whether the call is let through at all: whatever stands before the verifier says EPERM.
pub(super) fn trivial_program() -> bool {
    const INSTRUCTIONS: [[u8; 8]; 2] = [
        [0xb7, 0x00, 0, 0, 0, 0, 0, 0], // r0 = 0
        [0x95, 0x00, 0, 0, 0, 0, 0, 0], // exit
    ];
    load_filter(&INSTRUCTIONS) != Err(Errno::EPERM)
}

/// Loads a program of these instructions.
fn load(kind: bpf_prog_type, instructions: &'static [[u8; 8]], options: Option<&libbpf_sys::bpf_prog_load_opts>) -> Result<OwnedFd, Errno> {
    // SAFETY: the pointers are to as many whole instructions as are told and to texts that end with a NUL, all of them static, and to
    // options of the size that they name, or none; the call copies them.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            kind,
            ptr::null(),
            c"GPL".as_ptr(),
            instructions.as_ptr().cast(),
            instructions.len() as libbpf_sys::size_t,
            options.map_or(ptr::null_mut(), |options| ptr::from_ref(options).cast_mut()),
        )
    };
    if fd < 0 {
        return Err(Errno::from_raw(-fd));
    }
    // SAFETY: the descriptor was made above and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A socket filter, which asks for the least.
fn load_filter(instructions: &'static [[u8; 8]]) -> Result<(), Errno> {
    load(libbpf_sys::BPF_PROG_TYPE_SOCKET_FILTER, instructions, None).map(drop)
}

/// Opens an event that counts nothing, as one is opened for a tracepoint: of all tasks, on the first processor. Other refusals than
/// these two say nothing of privileges.
pub(super) fn perf_events() -> Option<bool> {
    const ALL_TASKS: libc::pid_t = -1;
    const CPU: libc::c_int = 0;
    const NO_GROUP: libc::c_int = -1;
    let event = libbpf_sys::perf_event_attr {
        type_: libbpf_sys::PERF_TYPE_SOFTWARE,
        size: size_of::<libbpf_sys::perf_event_attr>() as u32,
        config: u64::from(libbpf_sys::PERF_COUNT_SW_DUMMY),
        ..Default::default()
    };
    let flags = libc::c_ulong::from(libbpf_sys::PERF_FLAG_FD_CLOEXEC);
    // SAFETY: the first argument is an event that tells its size, which the call copies; the others are numbers.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, ptr::from_ref(&event), ALL_TASKS, CPU, NO_GROUP, flags) };
    let opened = Errno::result(fd).map(|fd| {
        // SAFETY: the descriptor was made above and nobody else has it. Descriptors fit.
        drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    });
    match opened {
        Ok(()) => Some(true),
        Err(Errno::EACCES | Errno::EPERM) => Some(false),
        Err(_) => None,
    }
}
