/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Differences between kernels and between architectures: here and nowhere else. */
#ifndef REMORA_COMPAT_H
#define REMORA_COMPAT_H

#include <bpf/bpf_core_read.h>

#define AF_INET 2
#define AF_INET6 10
#define MSG_OOB 1
#define MSG_PEEK 2
#define MSG_TRUNC 0x20
#define MSG_ERRQUEUE 0x2000
#define SOCK_BINDPORT_LOCK 8
#define S_IFMT 0170000
#define S_IFSOCK 0140000

/*
 * Reads one field of a kernel object behind an untyped pointer. From 6.2 on
 * (a35b9af4ec2c "bpf: Add a kfunc to type cast from bpf uapi ctx to kernel
 * ctx" and its sibling bpf_rdonly_cast) the verifier lets such a pointer be
 * dereferenced in place, at the price of a load; before, it takes a helper
 * call. The branch that the kernel cannot run is removed at load.
 */
#define LOAD(ptr, field) \
	(bpf_ksym_exists(bpf_rdonly_cast) ? bpf_core_cast((ptr), typeof(*(ptr)))->field : BPF_CORE_READ((ptr), field))

/*
 * The place of a controller among those of a control group: it depends on how
 * the kernel was built. One that the kernel does not have must not be asked for.
 */
#define CONTROLLER_PLACE(name) bpf_core_enum_value(enum cgroup_subsys_id, name##_cgrp_id)

/*
 * The registers with which a task entered the running system call. The
 * syscall number and all arguments are still there when the call returns;
 * only the register of the result is overwritten, which on arm64 is that of
 * the first argument, kept in orig_x0.
 */
#if defined(__TARGET_ARCH_x86)

#define SYSCALL_NR(regs) ((regs)->orig_ax)
#define SYSCALL_ARG1(regs) ((regs)->di)
#define SYSCALL_ARG2(regs) ((regs)->si)
#define SYSCALL_ARG3(regs) ((regs)->dx)
#define SYSCALL_ARG4(regs) ((regs)->r10)
#define SYSCALL_ARG5(regs) ((regs)->r8)
/* A 32-bit call: its number and registers are those of another table (TS_COMPAT). */
#define SYSCALL_COMPAT(task) (LOAD(task, thread_info.status) & 2)

enum syscall_nr {
	NR_READ = 0,
	NR_WRITE = 1,
	NR_READV = 19,
	NR_WRITEV = 20,
	NR_SENDFILE = 40,
	NR_SENDTO = 44,
	NR_RECVFROM = 45,
	NR_SENDMSG = 46,
	NR_RECVMSG = 47,
	NR_SPLICE = 275,
	NR_RECVMMSG = 299,
	NR_SENDMMSG = 307,
};

#elif defined(__TARGET_ARCH_arm64)

#define SYSCALL_NR(regs) ((regs)->syscallno)
#define SYSCALL_ARG1(regs) ((regs)->orig_x0)
#define SYSCALL_ARG2(regs) ((regs)->regs[1])
#define SYSCALL_ARG3(regs) ((regs)->regs[2])
#define SYSCALL_ARG4(regs) ((regs)->regs[3])
#define SYSCALL_ARG5(regs) ((regs)->regs[4])
/* A 32-bit task: its numbers and registers are those of another table (TIF_32BIT). */
#define SYSCALL_COMPAT(task) (LOAD(task, thread_info.flags) & 1UL << 22)

enum syscall_nr {
	NR_READ = 63,
	NR_WRITE = 64,
	NR_READV = 65,
	NR_WRITEV = 66,
	NR_SENDFILE = 71,
	NR_SPLICE = 76,
	NR_SENDTO = 206,
	NR_RECVFROM = 207,
	NR_SENDMSG = 211,
	NR_RECVMSG = 212,
	NR_RECVMMSG = 243,
	NR_SENDMMSG = 269,
};

#else
#error "no register layout for this architecture"
#endif

#endif /* REMORA_COMPAT_H */
