/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Hook family `socket`: the tracepoints sock_send_length and sock_recv_length
 * (6.3, 6e6eda44b939). They fire once a send or receive with the socket and
 * the result; where the bytes are in user memory is told by the registers of
 * the running system call. Other system calls pay nothing. The kernel
 * must have BTF of its own in either flavour, for the task's registers.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "udp.h"

/* Bytes that a gathered call was given. Global, so that the verifier walks the loop once. */
GLOBAL_FUNCTION __u64 total_len(__u64 base, __u64 pieces)
{
	__u64 total = 0;
	__u32 i;

	for (i = 0; i < IOVEC_MAX; i++) {
		struct iovec piece;

		if (i >= pieces || bpf_probe_read_user(&piece, sizeof(piece), (void *)(base + i * sizeof(piece))))
			break;
		total += piece.iov_len;
	}
	return total;
}

/*
 * The tracepoints fire once a message of sendmmsg or recvmmsg and do not say
 * which: the thread's own progress tells. The call's end can be told from what
 * is at hand, so the next call starts at 0 again.
 */
static __always_inline struct mmsg_progress read_progress(struct pt_regs *regs, __u32 tid)
{
	struct mmsg_progress now = { SYSCALL_ARG2(regs), 0, 0 };
	struct mmsg_progress *progress = bpf_map_lookup_elem(&mmsg, &tid);

	if (progress && progress->vector == now.vector)
		now.next = progress->next;
	return now;
}

static __always_inline void keep_progress(struct mmsg_progress *now, struct pt_regs *regs, __u32 tid, bool last)
{
	now->next++;
	if (last || now->next >= SYSCALL_ARG3(regs))
		bpf_map_delete_elem(&mmsg, &tid);
	else
		bpf_map_update_elem(&mmsg, &tid, now, BPF_ANY);
}

/* With a time-out recvmmsg may end after any message, without a sign. */
static __always_inline bool ends_without_a_sign(struct pt_regs *regs, bool sent)
{
	return !sent && SYSCALL_ARG5(regs);
}

static __always_inline void read_mmsg(struct user_data *data, struct pt_regs *regs, int size, bool sent)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct mmsg_progress now;
	bool last = size < 0;

	if (ends_without_a_sign(regs, sent))
		return;
	now = read_progress(regs, tid);
	if (!last) {
		read_msghdr(data, now.vector + now.next * sizeof(struct mmsghdr));
		/* a stream's sendmmsg ends with the first message that did not go out whole */
		last = sent && (__u64)size < total_len(data->base, data->pieces);
	}
	keep_progress(&now, regs, tid, last);
}

static __always_inline void locate(struct user_data *data, struct pt_regs *regs, int size, bool sent)
{
	__u64 nr = SYSCALL_NR(regs);

	if (nr == (sent ? NR_WRITE : NR_READ) || nr == (sent ? NR_SENDTO : NR_RECVFROM)) {
		data->base = SYSCALL_ARG2(regs);
	} else if (nr == (sent ? NR_WRITEV : NR_READV)) {
		set_vector(data, SYSCALL_ARG2(regs), SYSCALL_ARG3(regs));
	} else if (nr == (sent ? NR_SENDMSG : NR_RECVMSG)) {
		read_msghdr(data, SYSCALL_ARG2(regs));
	} else if (nr == (sent ? NR_SENDMMSG : NR_RECVMMSG)) {
		read_mmsg(data, regs, size, sent);
	}
}

/*
 * The other end of a received datagram is not known here unless the socket is
 * connected: its address reaches the program's memory after the tracepoint.
 */
static __always_inline void locate_datagram(struct call *call, struct pt_regs *regs, int size, bool sent)
{
	__u64 nr = SYSCALL_NR(regs);

	if (nr == (sent ? NR_WRITE : NR_READ) || nr == (sent ? NR_SENDTO : NR_RECVFROM)) {
		call->data.base = SYSCALL_ARG2(regs);
		call->room = clamp_len(SYSCALL_ARG3(regs), call->size);
		if (nr == NR_SENDTO)
			call->name = SYSCALL_ARG5(regs);
	} else if (nr == (sent ? NR_WRITEV : NR_READV)) {
		set_vector(&call->data, SYSCALL_ARG2(regs), SYSCALL_ARG3(regs));
	} else if (nr == (sent ? NR_SENDMSG : NR_RECVMSG)) {
		read_datagram_header(call, SYSCALL_ARG2(regs), sent);
	} else if (nr == (sent ? NR_SENDMMSG : NR_RECVMMSG)) {
		__u32 tid = bpf_get_current_pid_tgid();
		struct mmsg_progress now;

		if (ends_without_a_sign(regs, sent))
			return;
		now = read_progress(regs, tid);
		read_datagram_header(call, now.vector + now.next * sizeof(struct mmsghdr), sent);
		keep_progress(&now, regs, tid, size < 0);
	}
}

static __always_inline struct pt_regs *callers_registers(void)
{
	return (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
}

/* NULL for a socket of the kernel's own, with a file or without: the registers are of a call that has nothing to do with it. */
static __always_inline struct file *program_file(struct sock *sk)
{
	struct socket *socket = ARGUMENT(sk, sk_socket);

	if (!socket || SOCK_OF_KERNEL(sk))
		return NULL;
	return ARGUMENT(socket, file);
}

/* Of its own, so that it adds nothing to what TCP costs. */
static __noinline int on_udp(void *ctx, struct sock *sk, int size, int flags, bool sent)
{
	struct file *file = program_file(sk);
	struct scratch *scratch;
	struct inode *inode;

	if (!file)
		return 0;
	scratch = begin_call((__u64)sk, size, sent);
	if (!scratch)
		return 0;
	inode = ARGUMENT(file, f_inode);
	scratch->call.inode = ARGUMENT(inode, i_ino);
	locate_datagram(&scratch->call, callers_registers(), size, sent);
	if (size > 0 && (sent || takes_bytes(flags)))
		on_datagram(HAND_OVER(ctx), scratch);
	return 0;
}

static __always_inline void on_socket(void *ctx, struct sock *sk, int size, int flags, bool sent)
{
	__u32 protocol = inet_protocol(sk);
	struct scratch *scratch;

	if (protocol != IPPROTO_TCP) {
		if (protocol == IPPROTO_UDP)
			on_udp(ctx, sk, size, flags, sent);
		return;
	}
	if (!program_file(sk))
		return;
	scratch = begin_call((__u64)sk, size, sent);
	if (!scratch)
		return;
	locate(&scratch->call.data, callers_registers(), size, sent);
	if (size <= 0 || (!sent && !takes_bytes(flags)))
		return;
	/* bytes are thrown away, the buffer is not touched */
	if (!sent && flags & MSG_TRUNC)
		scratch->call.data = NO_USER_DATA;
	on_data(ctx, scratch);
}

/*
 * splice from a socket passes neither tracepoint, but the one that TCP fires
 * whenever a program took bytes out of the receive queue. Every receive fires
 * it, so all others must leave at once.
 */
static __always_inline void on_spliced(void *ctx, struct sock *sk)
{
	struct scratch *scratch;
	__u64 key = (__u64)sk;
	struct conn *conn = bpf_map_lookup_elem(&conns, &key);
	__s32 size;

	if (!conn)
		return;
	size = sequence_of(sk, false) - (conn->flows[0].base + (__u32)conn->flows[0].position);
	if (size <= 0)
		return;
	scratch = begin_call(key, size, false);
	if (scratch)
		on_data(ctx, scratch);
}

TRACEPOINT(tcp_rcv_space_adjust)
int on_taken(void *ctx)
{
	if (SYSCALL_NR(callers_registers()) != NR_SPLICE)
		return 0;
	hold_processor();
	on_spliced(ctx, TRACED_OBJECT(ctx, trace_event_raw_tcp_event_sk, skaddr, struct sock));
	release_processor();
	return 0;
}

static __always_inline void on_moved(void *ctx, bool sent)
{
	struct sock *sk = TRACED_OBJECT(ctx, trace_event_raw_sock_msg_length, sk, struct sock);
	int size = TRACED_NUMBER(ctx, trace_event_raw_sock_msg_length, ret, 1);
	int flags = TRACED_NUMBER(ctx, trace_event_raw_sock_msg_length, flags, 2);

	hold_processor();
	on_socket(ctx, sk, size, flags, sent);
	release_processor();
}

TRACEPOINT(sock_send_length)
int on_sock_send(void *ctx)
{
	on_moved(ctx, true);
	return 0;
}

TRACEPOINT(sock_recv_length)
int on_sock_recv(void *ctx)
{
	on_moved(ctx, false);
	return 0;
}
