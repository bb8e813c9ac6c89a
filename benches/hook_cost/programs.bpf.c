/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a hook costs before an agent does anything with it. The same small steps hang on every family of hooks that can see a
 * send or a receive; main.rs loads one variant at a time and times calls with and without it.
 *
 *   empty    the hook alone
 *   filter   is this one of our system calls, and did it move bytes
 *   socket   … and on which TCP socket: what every agent must know before it can skip anything
 *   capture  … and its bytes in a ring buffer, with their position in the stream
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define AF_INET 2
#define AF_INET6 10
#define S_IFMT 00170000
#define S_IFSOCK 0140000
#define PAYLOAD_MAX 512

#if defined(__TARGET_ARCH_x86)
enum { NR_READ = 0, NR_WRITE = 1, NR_READV = 19, NR_WRITEV = 20, NR_SENDTO = 44, NR_RECVFROM = 45, NR_SENDMSG = 46, NR_RECVMSG = 47 };
#define SYSCALL_NUMBER(regs) BPF_CORE_READ(regs, orig_ax)
#elif defined(__TARGET_ARCH_arm64)
enum { NR_READ = 63, NR_WRITE = 64, NR_READV = 65, NR_WRITEV = 66, NR_SENDTO = 206, NR_RECVFROM = 207, NR_SENDMSG = 211, NR_RECVMSG = 212 };
#define SYSCALL_NUMBER(regs) BPF_CORE_READ(regs, syscallno)
#endif

struct record {
	__u64 time_ns;
	__u64 socket;
	__u64 offset; /* bytes of this direction before this call */
	__u32 length;
	__u32 captured;
	__u8 payload[PAYLOAD_MAX];
};

struct position {
	__u64 sent;
	__u64 received;
};

/* Records of `capture`. Read and thrown away by main.rs between two batches, so it never fills. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} records SEC(".maps");

/* Thread → descriptor, from the entry of a call to its exit. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u32);
} calls SEC(".maps");

/* Socket → positions, where the hook gives only an address. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct position);
} by_address SEC(".maps");

/* The same, where the hook gives a socket that the verifier trusts. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct position);
} by_socket SEC(".maps");

static __always_inline bool moves_bytes(long number)
{
	switch (number) {
	case NR_READ:
	case NR_WRITE:
	case NR_READV:
	case NR_WRITEV:
	case NR_SENDTO:
	case NR_RECVFROM:
	case NR_SENDMSG:
	case NR_RECVMSG:
		return true;
	default:
		return false;
	}
}

static __always_inline bool sends(long number)
{
	return number == NR_WRITE || number == NR_WRITEV || number == NR_SENDTO || number == NR_SENDMSG;
}

static __always_inline bool is_tcp(struct sock *sk)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	return (family == AF_INET || family == AF_INET6) && BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP;
}

/* Slot of a descriptor table → its TCP socket, or null. */
static __always_inline struct sock *tcp_socket_of_file(struct file **slot)
{
	struct file *file;
	struct socket *socket;
	struct sock *sk;

	if (bpf_probe_read_kernel(&file, sizeof(file), slot) || !file)
		return NULL;
	if ((BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return NULL;
	socket = BPF_CORE_READ(file, private_data);
	sk = BPF_CORE_READ(socket, sk);
	return sk && is_tcp(sk) ? sk : NULL;
}

/* Descriptor of the running task → its TCP socket, or null. */
static __always_inline struct sock *tcp_socket(__u32 descriptor)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);

	if (descriptor >= BPF_CORE_READ(table, max_fds))
		return NULL;
	return tcp_socket_of_file(BPF_CORE_READ(table, fd) + descriptor);
}

static __always_inline int remember_call(__u32 descriptor)
{
	__u64 thread = bpf_get_current_pid_tgid();

	bpf_map_update_elem(&calls, &thread, &descriptor, BPF_ANY);
	return 0;
}

/* Returns the socket of the remembered call, which is forgotten. */
static __always_inline struct sock *finish_call(long result)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u32 *found = bpf_map_lookup_elem(&calls, &thread);
	__u32 descriptor;

	if (!found)
		return NULL;
	descriptor = *found;
	bpf_map_delete_elem(&calls, &thread);
	return result > 0 ? tcp_socket(descriptor) : NULL;
}

static __always_inline void capture(__u64 socket, struct position *position, bool sent, __u32 length, const void *user)
{
	struct record *record;
	__u64 captured = length;

	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (!record)
		return;
	if (captured > PAYLOAD_MAX)
		captured = PAYLOAD_MAX;
	/* Clang proves the second test away, which the verifier needs: it loses the first one over a 64-bit result. */
	asm volatile("" : "+r"(captured));
	if (captured > PAYLOAD_MAX)
		captured = PAYLOAD_MAX;
	record->time_ns = bpf_ktime_get_ns();
	record->socket = socket;
	record->offset = sent ? position->sent : position->received;
	record->length = length;
	record->captured = captured;
	bpf_probe_read_user(record->payload, captured, user);
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	if (sent)
		position->sent += length;
	else
		position->received += length;
}

/* --- perf-style tracepoints, one pair for each system call --- */

SEC("tracepoint/syscalls/sys_enter_write")
int perf_enter_write_empty(void *ctx)
{
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_write")
int perf_exit_write_empty(void *ctx)
{
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_read")
int perf_enter_read_empty(void *ctx)
{
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_read")
int perf_exit_read_empty(void *ctx)
{
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_write")
int perf_enter_write_socket(struct trace_event_raw_sys_enter *ctx)
{
	return remember_call(ctx->args[0]);
}

SEC("tracepoint/syscalls/sys_exit_write")
int perf_exit_write_socket(struct trace_event_raw_sys_exit *ctx)
{
	return finish_call(ctx->ret) != NULL;
}

SEC("tracepoint/syscalls/sys_enter_read")
int perf_enter_read_socket(struct trace_event_raw_sys_enter *ctx)
{
	return remember_call(ctx->args[0]);
}

SEC("tracepoint/syscalls/sys_exit_read")
int perf_exit_read_socket(struct trace_event_raw_sys_exit *ctx)
{
	return finish_call(ctx->ret) != NULL;
}

/* --- raw tracepoints, every system call of the machine --- */

SEC("raw_tp/sys_enter")
int raw_enter_empty(void *ctx)
{
	return 0;
}

SEC("raw_tp/sys_exit")
int raw_exit_empty(void *ctx)
{
	return 0;
}

SEC("raw_tp/sys_enter")
int BPF_PROG(raw_enter_filter, struct pt_regs *regs, long number)
{
	return moves_bytes(number);
}

SEC("raw_tp/sys_exit")
int BPF_PROG(raw_exit_filter, struct pt_regs *regs, long result)
{
	return result > 0 && moves_bytes(SYSCALL_NUMBER(regs));
}

SEC("raw_tp/sys_enter")
int BPF_PROG(raw_enter_socket, struct pt_regs *regs, long number)
{
	return moves_bytes(number) ? remember_call(PT_REGS_PARM1_CORE_SYSCALL(regs)) : 0;
}

SEC("raw_tp/sys_exit")
int BPF_PROG(raw_exit_socket, struct pt_regs *regs, long result)
{
	return moves_bytes(SYSCALL_NUMBER(regs)) && finish_call(result);
}

SEC("raw_tp/sys_exit")
int BPF_PROG(raw_only_exit_socket, struct pt_regs *regs, long result)
{
	return result > 0 && moves_bytes(SYSCALL_NUMBER(regs)) && tcp_socket(PT_REGS_PARM1_CORE_SYSCALL(regs));
}

/* --- the same with typed arguments: plain loads instead of helper calls --- */

#if defined(__TARGET_ARCH_x86)
#define TYPED_NUMBER(regs) ((regs)->orig_ax)
#define TYPED_DESCRIPTOR(regs) ((regs)->di)
#define TYPED_BUFFER(regs) ((regs)->si)
#else
#define TYPED_NUMBER(regs) ((regs)->syscallno)
#define TYPED_DESCRIPTOR(regs) ((regs)->orig_x0)
#define TYPED_BUFFER(regs) ((regs)->regs[1])
#endif

SEC("tp_btf/sys_enter")
int typed_enter_empty(void *ctx)
{
	return 0;
}

SEC("tp_btf/sys_exit")
int typed_exit_empty(void *ctx)
{
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(typed_enter_filter, struct pt_regs *regs, long number)
{
	return moves_bytes(number);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(typed_exit_filter, struct pt_regs *regs, long result)
{
	return result > 0 && moves_bytes(TYPED_NUMBER(regs));
}

SEC("tp_btf/sys_enter")
int BPF_PROG(typed_enter_socket, struct pt_regs *regs, long number)
{
	return moves_bytes(number) ? remember_call(TYPED_DESCRIPTOR(regs)) : 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(typed_exit_socket, struct pt_regs *regs, long result)
{
	return moves_bytes(TYPED_NUMBER(regs)) && finish_call(result);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(typed_only_exit_socket, struct pt_regs *regs, long result)
{
	return result > 0 && moves_bytes(TYPED_NUMBER(regs)) && tcp_socket(TYPED_DESCRIPTOR(regs));
}

/* The first steps of the walk are typed as well: the verifier follows the task's pointers itself, as far as they are not tables. */
SEC("tp_btf/sys_exit")
int BPF_PROG(typed_only_exit_walk, struct pt_regs *regs, long result)
{
	struct fdtable *table;
	__u32 descriptor;

	if (result <= 0 || !moves_bytes(TYPED_NUMBER(regs)))
		return 0;
	descriptor = TYPED_DESCRIPTOR(regs);
	table = bpf_get_current_task_btf()->files->fdt;
	return descriptor < table->max_fds && tcp_socket_of_file(table->fd + descriptor);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(typed_only_exit_capture, struct pt_regs *regs, long result)
{
	long number = TYPED_NUMBER(regs);
	struct position *position, none = {};
	__u64 address;

	if (result <= 0 || !moves_bytes(number))
		return 0;
	address = (__u64)tcp_socket(TYPED_DESCRIPTOR(regs));
	if (!address)
		return 0;
	position = bpf_map_lookup_elem(&by_address, &address);
	if (!position) {
		bpf_map_update_elem(&by_address, &address, &none, BPF_NOEXIST);
		position = bpf_map_lookup_elem(&by_address, &address);
		if (!position)
			return 0;
	}
	capture(address, position, sends(number), result, (void *)TYPED_BUFFER(regs));
	return 0;
}

/* --- the socket's own tracepoints, Linux 6.3 and later --- */

SEC("tp_btf/sock_send_length")
int socket_send_empty(void *ctx)
{
	return 0;
}

SEC("tp_btf/sock_recv_length")
int socket_recv_empty(void *ctx)
{
	return 0;
}

static __always_inline bool typed_is_tcp(struct sock *sk)
{
	__u16 family = sk->__sk_common.skc_family;

	return (family == AF_INET || family == AF_INET6) && sk->sk_protocol == IPPROTO_TCP;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(socket_send_socket, struct sock *sk, int length, int flags)
{
	return length > 0 && typed_is_tcp(sk);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(socket_recv_socket, struct sock *sk, int length, int flags)
{
	return length > 0 && typed_is_tcp(sk);
}

static __always_inline int capture_of_socket(struct sock *sk, int length, bool sent)
{
	struct pt_regs *regs;
	struct position *position;

	if (length <= 0 || !typed_is_tcp(sk))
		return 0;
	position = bpf_sk_storage_get(&by_socket, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!position)
		return 0;
	regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	capture((__u64)sk, position, sent, length, (void *)TYPED_BUFFER(regs));
	return 0;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(socket_send_capture, struct sock *sk, int length, int flags)
{
	return capture_of_socket(sk, length, true);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(socket_recv_capture, struct sock *sk, int length, int flags)
{
	return capture_of_socket(sk, length, false);
}
