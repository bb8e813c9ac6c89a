/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Differences between kernels and between architectures: here and nowhere else.
 *
 * Every source is compiled twice. The flavour `typed` is for kernels with BTF
 * of their own from 5.12 on: typed tracepoints, kernel objects read by loads,
 * global functions that the verifier walks once. With REMORA_PLAIN it is for
 * all others from 5.4 on: raw tracepoints, reads by a helper, static
 * functions, and a perf buffer where there is no ring buffer. What can be told
 * when a program is loaded (CO-RE) is not told by a flavour.
 */
#ifndef REMORA_COMPAT_H
#define REMORA_COMPAT_H

#include <bpf/bpf_core_read.h>
#include "settings.h"

#define AF_INET 2
#define AF_INET6 10
#define MSG_OOB 1
#define MSG_PEEK 2
#define MSG_TRUNC 0x20
#define MSG_ERRQUEUE 0x2000
#define SOCK_BINDPORT_LOCK 8
#define PF_KTHREAD 0x00200000
#define S_IFMT 0170000
#define S_IFSOCK 0140000

#ifdef REMORA_PLAIN

#define TRACEPOINT(name) SEC("raw_tp/" #name)
#define LOAD(ptr, field) BPF_CORE_READ((ptr), field)
#define ARGUMENT(ptr, field) BPF_CORE_READ((ptr), field)
#define CURRENT_TASK() ((struct task_struct *)bpf_get_current_task())
/* Before 5.12 (e5069b9c23b3) a global function takes no pointers, and before 5.6 (51c39bb1d5d1) there are none. */
#define GLOBAL_FUNCTION static __noinline
/*
 * A step that leaves what the next one needs in the scratch. What the verifier
 * knew of its variables is gone at its end, so it walks the next step once, not
 * once for each way that led there.
 */
#define STEP static __noinline

#else

#define TRACEPOINT(name) SEC("tp_btf/" #name)
/*
 * Reads one field of a kernel object behind an untyped pointer. From 6.2 on
 * (a35b9af4ec2c "bpf: Add a kfunc to type cast from bpf uapi ctx to kernel
 * ctx" and its sibling bpf_rdonly_cast) the verifier lets such a pointer be
 * dereferenced in place, at the price of a load; before, it takes a helper
 * call. The branch that the kernel cannot run is removed at load.
 */
#define LOAD(ptr, field) \
	(bpf_ksym_exists(bpf_rdonly_cast) ? bpf_core_cast((ptr), typeof(*(ptr)))->field : BPF_CORE_READ((ptr), field))
/* The same of an argument of a typed program, whose type the verifier knows. */
#define ARGUMENT(ptr, field) ((ptr)->field)
#define CURRENT_TASK() bpf_get_current_task_btf()
/* Walked by the verifier once, not once per caller. */
#define GLOBAL_FUNCTION __weak __noinline
#define STEP static __always_inline

#endif

/*
 * From 7.0 on (a46023d5616e "tracing: Guard __DECLARE_TRACE() use of
 * __DO_TRACE_CALL() with SRCU-fast") a tracepoint lets the task be preempted
 * while it runs our program. Perf's way to the same tracepoints does not
 * (perf_trace_*), and hands over a struct instead of typed arguments. Kernels
 * without `srcu_ctr` (6.15) do not even look at that way. These two read the
 * first argument, a pointer to a kernel object, and another one.
 */
#define BY_PERF (bpf_core_type_exists(struct srcu_ctr) && settings.processor_holder == HELD_BY_PERF)
/* clang joins two loads into one from a computed place, which the verifier refuses of a context. */
#define KEEP_APART(value) asm volatile("" : "+r"(value))
#ifdef REMORA_PLAIN
#define KERNEL_OBJECT(ptr, type) ((type *)(ptr))
#else
#define KERNEL_OBJECT(ptr, type) bpf_core_cast((ptr), type)
#endif
#define TRACED_OBJECT(ctx, event_type, event_field, type)                                         \
	({                                                                                        \
		type *object_;                                                                    \
                                                                                                  \
		if (BY_PERF) {                                                                    \
			object_ = KERNEL_OBJECT(((struct event_type *)(ctx))->event_field, type); \
			KEEP_APART(object_);                                                      \
		} else {                                                                          \
			object_ = (type *)*(__u64 *)(ctx);                                        \
			KEEP_APART(object_);                                                      \
		}                                                                                 \
		object_;                                                                          \
	})
#define TRACED_NUMBER(ctx, event_type, event_field, place)                   \
	({                                                                   \
		typeof(((struct event_type *)0)->event_field) number_;       \
                                                                             \
		if (BY_PERF) {                                               \
			number_ = ((struct event_type *)(ctx))->event_field; \
			KEEP_APART(number_);                                 \
		} else {                                                     \
			number_ = ((__u64 *)(ctx))[place];                   \
			KEEP_APART(number_);                                 \
		}                                                            \
		number_;                                                     \
	})

/* Between these two no other task of this processor gets in. A call of them that the kernel lacks is removed at load. */
#ifdef REMORA_PLAIN
#define hold_processor()
#define release_processor()
#else
void bpf_preempt_disable(void) __ksym __weak; /* 6.10 */
void bpf_preempt_enable(void) __ksym __weak;

static __always_inline void hold_processor(void)
{
	if (settings.processor_holder == HELD_BY_PROGRAM)
		bpf_preempt_disable();
}

static __always_inline void release_processor(void)
{
	if (settings.processor_holder == HELD_BY_PROGRAM)
		bpf_preempt_enable();
}
#endif

/*
 * The place of a controller among those of a control group: it depends on how
 * the kernel was built. One that the kernel does not have is not asked for.
 */
#define CONTROLLER_PLACE(name)                                                \
	(bpf_core_enum_value_exists(enum cgroup_subsys_id, name##_cgrp_id)    \
		 ? bpf_core_enum_value(enum cgroup_subsys_id, name##_cgrp_id) \
		 : 0)

/* Before 5.5 (67c0496e87d1) the number of a node in kernfs was a union. */
union kernfs_node_id___old {
	__u64 id;
} __attribute__((preserve_access_index));

struct kernfs_node___old {
	union kernfs_node_id___old id;
} __attribute__((preserve_access_index));

#define NODE_NUMBER(node)                                                                                            \
	(bpf_core_type_exists(union kernfs_node_id___old) ? BPF_CORE_READ((struct kernfs_node___old *)(node), id.id) \
							  : LOAD((node), id))

/* Eight bits among others before 5.6 (bf9765145b85). */
#ifdef REMORA_PLAIN
#define SOCK_PROTOCOL(sk) BPF_CORE_READ_BITFIELD_PROBED((sk), sk_protocol)
#define SOCK_OF_KERNEL(sk) BPF_CORE_READ_BITFIELD_PROBED((sk), sk_kern_sock)
#else
#define SOCK_PROTOCOL(sk) LOAD((sk), sk_protocol)
#define SOCK_OF_KERNEL(sk) BPF_CORE_READ_BITFIELD((sk), sk_kern_sock)
#endif

/* Names that fields of struct iov_iter had: `type` before 5.14 (8cd54c1c8480), `iov` before 6.4 (de4f5fed3f23). */
struct iov_iter___type {
	unsigned int type;
} __attribute__((preserve_access_index));

struct iov_iter___iov {
	const struct iovec *iov;
} __attribute__((preserve_access_index));

/*
 * Atomic operations with a result are younger than the plain flavour (5.12,
 * 5ffa25502b5a). There two threads of one UDP socket may take one number, and
 * both may begin it anew, if they meet within some nanoseconds.
 */
#ifdef REMORA_PLAIN
static __always_inline __u64 take_number(__u64 *next)
{
	__u64 number = *(volatile __u64 *)next;

	__sync_fetch_and_add(next, 1);
	return number;
}

static __always_inline bool replace_word(__u64 *word, __u64 old, __u64 new)
{
	if (*(volatile __u64 *)word != old)
		return false;
	*(volatile __u64 *)word = new;
	return true;
}
#else
static __always_inline __u64 take_number(__u64 *next)
{
	return __sync_fetch_and_add(next, 1);
}

static __always_inline bool replace_word(__u64 *word, __u64 old, __u64 new)
{
	return __sync_val_compare_and_swap(word, old, new) == old;
}
#endif

/* The direction and a flag, beside the kind in `type`. */
#define ITER_TYPE_FLAGS 3

/*
 * The registers with which a task entered the running system call. The
 * syscall number and all arguments are still there when the call returns;
 * only the register of the result is overwritten, which on arm64 is that of
 * the first argument, kept in orig_x0.
 */
#if defined(__TARGET_ARCH_x86)

#define SYSCALL_NR(regs) ARGUMENT(regs, orig_ax)
#define SYSCALL_ARG1(regs) ARGUMENT(regs, di)
#define SYSCALL_ARG2(regs) ARGUMENT(regs, si)
#define SYSCALL_ARG3(regs) ARGUMENT(regs, dx)
#define SYSCALL_ARG4(regs) ARGUMENT(regs, r10)
#define SYSCALL_ARG5(regs) ARGUMENT(regs, r8)
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

#define SYSCALL_NR(regs) ARGUMENT(regs, syscallno)
#define SYSCALL_ARG1(regs) ARGUMENT(regs, orig_x0)
#define SYSCALL_ARG2(regs) ARGUMENT(regs, regs[1])
#define SYSCALL_ARG3(regs) ARGUMENT(regs, regs[2])
#define SYSCALL_ARG4(regs) ARGUMENT(regs, regs[3])
#define SYSCALL_ARG5(regs) ARGUMENT(regs, regs[4])
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
