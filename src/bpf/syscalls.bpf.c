/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Hook family `syscalls`: one program at the exit of every system call, where
 * the arguments are still in the caller's registers and the result is known.
 * The socket is found from the descriptor: task -> files -> file -> socket.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "udp.h"

/* The address of a socket of IPv4 or IPv6 and its protocol. */
struct found {
	__u64 sk;
	__u64 inode; /* its number, UDP only */
	__u32 protocol;
};

/* The socket behind a descriptor; protocol 0 if it is anything else. */
static __always_inline struct found find_socket(__u32 fd)
{
	struct found found = {};
	struct task_struct *task = CURRENT_TASK();
	struct files_struct *files;
	struct file **descriptors;
	struct socket *socket;
	struct fdtable *fdt;
	struct inode *inode;
	struct file *file;

	if (SYSCALL_COMPAT(task))
		return found;
	files = LOAD(task, files);
	fdt = LOAD(files, fdt);
	if (fd >= LOAD(fdt, max_fds))
		return found;
	descriptors = LOAD(fdt, fd);
	if (bpf_probe_read_kernel(&file, sizeof(file), descriptors + fd) || !file)
		return found;
	inode = LOAD(file, f_inode);
	if ((LOAD(inode, i_mode) & S_IFMT) != S_IFSOCK)
		return found;
	socket = LOAD(file, private_data);
	/* by copy: a plain number, to be handed to a global function */
	if (bpf_probe_read_kernel(&found.sk, sizeof(found.sk), &socket->sk) || !found.sk)
		return found;
	found.protocol = inet_protocol((struct sock *)found.sk);
	if (found.protocol == IPPROTO_UDP)
		found.inode = LOAD(inode, i_ino);
	return found;
}

/* The core as a function: the verifier walks it once, not once per system call and message. */
GLOBAL_FUNCTION int on_call(__u64 ctx, struct scratch *scratch)
{
	if (scratch)
		on_data((void *)ctx, scratch);
	return 0;
}

static __always_inline __u32 message_len(__u64 header)
{
	__u32 size = 0;

	bpf_probe_read_user(&size, sizeof(size), (void *)(header + offsetof(struct mmsghdr, msg_len)));
	return size;
}

/* The messages of recvmmsg or sendmmsg that went through; each has its own length. */
GLOBAL_FUNCTION int on_mmsg(__u64 ctx, struct scratch *scratch, __u64 vector, __u32 messages)
{
	struct call *call;
	__u32 i;

	if (!scratch)
		return 0;
	call = &scratch->call;
	for (i = 0; i < MMSG_MAX && i < messages; i++)
		call->behind += message_len(vector + i * sizeof(struct mmsghdr));
#ifdef REMORA_PLAIN
	/* lengths only: the verifier would walk the core once more for each message */
	call->size = call->behind;
	call->behind = 0;
	on_call(ctx, scratch);
#else
	for (i = 0; i < MMSG_MAX && i < messages; i++) {
		__u64 header = vector + i * sizeof(struct mmsghdr);

		call->size = message_len(header);
		if (!call->size)
			continue;
		call->behind -= call->size;
		call->data = NO_USER_DATA;
		read_msghdr(&call->data, header);
		on_call(ctx, scratch);
	}
#endif
	return 0;
}

/* Of its own, so that these rare calls take no stack from the others. */
static __noinline __u64 find_tcp(__u32 fd)
{
	struct found found = find_socket(fd);

	return found.protocol == IPPROTO_TCP ? found.sk : 0;
}

/* Of splice one end is a pipe. */
static __always_inline __u64 find_spliced(struct pt_regs *regs, bool *sent)
{
	__u64 sk = find_tcp(SYSCALL_ARG1(regs));

	if (sk)
		return sk;
	*sent = true;
	return find_tcp(SYSCALL_ARG3(regs));
}

/* The datagrams of recvmmsg or sendmmsg that went through. */
GLOBAL_FUNCTION int on_datagrams(__u64 ctx, struct scratch *scratch, __u64 vector, __u32 messages)
{
	__u32 i;

	if (!scratch)
		return 0;
	for (i = 0; i < MMSG_DATAGRAMS_MAX && i < messages; i++) {
		__u64 header = vector + i * sizeof(struct mmsghdr);

		scratch->call.size = message_len(header);
		if (!scratch->call.size)
			continue;
		read_datagram_header(&scratch->call, header, true);
		on_datagram(ctx, scratch);
	}
	for (; i < messages && i < 1024 /* UIO_MAXIOV */; i++)
		count(STAT_UNREAD);
	return 0;
}

/* Of its own, so that it takes no stack from the others. */
static __noinline void on_udp(void *ctx, struct scratch *scratch, struct pt_regs *regs)
{
	struct call *call = &scratch->call;

	switch (SYSCALL_NR(regs)) {
	case NR_SENDMMSG:
	case NR_RECVMMSG:
		on_datagrams(HAND_OVER(ctx), scratch, SYSCALL_ARG2(regs), call->size);
		return;
	case NR_SENDMSG:
	case NR_RECVMSG:
		read_datagram_header(call, SYSCALL_ARG2(regs), true);
		break;
	case NR_SENDTO:
	case NR_RECVFROM:
		call->name = SYSCALL_ARG5(regs);
		/* fallthrough */
	case NR_READ:
	case NR_WRITE:
		call->data.base = SYSCALL_ARG2(regs);
		call->room = clamp_len(SYSCALL_ARG3(regs), call->size);
		break;
	default:
		set_vector(&call->data, SYSCALL_ARG2(regs), SYSCALL_ARG3(regs));
		break;
	}
	on_datagram(HAND_OVER(ctx), scratch);
}

static __always_inline void on_exit_of(void *ctx, struct pt_regs *regs, long ret)
{
	struct scratch *scratch;
	struct found found = {};
	bool sent = false;
	__u64 flags = 0;
	__u64 nr;

	nr = SYSCALL_NR(regs);
	switch (nr) {
	case NR_WRITE:
	case NR_SENDTO:
	case NR_WRITEV:
	case NR_SENDMSG:
	case NR_SENDMMSG:
	case NR_SENDFILE:
		sent = true;
		break;
	case NR_READ:
	case NR_READV:
	case NR_SPLICE:
		break;
	case NR_RECVFROM:
	case NR_RECVMMSG:
		flags = SYSCALL_ARG4(regs);
		break;
	case NR_RECVMSG:
		flags = SYSCALL_ARG3(regs);
		break;
	default:
		return;
	}
	if (!takes_bytes(flags))
		return;
	if (nr == NR_SPLICE) {
		found.sk = find_spliced(regs, &sent);
		found.protocol = found.sk ? IPPROTO_TCP : 0;
	} else {
		found = find_socket(SYSCALL_ARG1(regs));
	}
	if (found.protocol != IPPROTO_TCP && found.protocol != IPPROTO_UDP)
		return;
	scratch = begin_call(found.sk, ret, sent);
	if (!scratch)
		return;
	if (found.protocol == IPPROTO_UDP) {
		scratch->call.inode = found.inode;
		on_udp(ctx, scratch, regs);
		return;
	}
	switch (nr) {
	case NR_SENDMMSG:
	case NR_RECVMMSG:
		on_mmsg(HAND_OVER(ctx), scratch, SYSCALL_ARG2(regs), ret);
		return;
	case NR_SENDMSG:
	case NR_RECVMSG:
		read_msghdr(&scratch->call.data, SYSCALL_ARG2(regs));
		break;
	case NR_READV:
	case NR_WRITEV:
		set_vector(&scratch->call.data, SYSCALL_ARG2(regs), SYSCALL_ARG3(regs));
		break;
	case NR_SENDFILE:
	case NR_SPLICE:
		break;
	default:
		scratch->call.data.base = SYSCALL_ARG2(regs);
		break;
	}
	/* bytes are thrown away, the buffer is not touched */
	if (flags & MSG_TRUNC)
		scratch->call.data = NO_USER_DATA;
	on_call(HAND_OVER(ctx), scratch);
}

/* The registers of a task need types of the kernel, and so does what calls for them: kernels since 7.0 with types of their own. */
TRACEPOINT(sys_exit)
int on_sys_exit(void *ctx)
{
	long ret = TRACED_NUMBER(ctx, trace_event_raw_sys_exit, ret, 1);
	struct pt_regs *regs;

	if (ret <= 0)
		return 0;
	if (BY_PERF)
		regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	else
		regs = (struct pt_regs *)*(__u64 *)ctx;
	hold_processor();
	on_exit_of(ctx, regs, ret);
	release_processor();
	return 0;
}
