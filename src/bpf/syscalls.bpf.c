/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Hook family `syscalls`: one program at the exit of every system call, where
 * the arguments are still in the caller's registers and the result is known.
 * The socket is found from the descriptor: task -> files -> file -> socket.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "data.h"

/* The address of the TCP socket behind a descriptor; 0 if it is anything else. */
static __always_inline __u64 tcp_sock_of(__u32 fd)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct files_struct *files;
	struct file **descriptors;
	struct socket *socket;
	struct fdtable *fdt;
	struct inode *inode;
	struct file *file;
	__u64 sk;

	if (SYSCALL_COMPAT(task))
		return 0;
	files = LOAD(task, files);
	fdt = LOAD(files, fdt);
	if (fd >= LOAD(fdt, max_fds))
		return 0;
	descriptors = LOAD(fdt, fd);
	if (bpf_probe_read_kernel(&file, sizeof(file), descriptors + fd) || !file)
		return 0;
	inode = LOAD(file, f_inode);
	if ((LOAD(inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	socket = LOAD(file, private_data);
	/* by copy: a plain number, to be handed to a global function */
	if (bpf_probe_read_kernel(&sk, sizeof(sk), &socket->sk) || !sk)
		return 0;
	return is_tcp((struct sock *)sk) ? sk : 0;
}

/* What a system call did, as the core wants it. */
struct call {
	__u32 size;
	__u32 behind;
	bool sent;
};

/* The core as a global function: the verifier walks it once, not once per system call and message. */
__weak __noinline int on_call(__u64 sk, struct call *call, struct user_data *data)
{
	if (call && data)
		on_data((struct sock *)sk, call->size, call->behind, call->sent, data);
	return 0;
}

/* The messages of recvmmsg or sendmmsg that went through; each has its own length. */
static __always_inline void on_mmsg(__u64 sk, __u64 vector, __u32 messages, bool sent)
{
	struct call call = { 0, 0, sent };
	__u32 size;
	__u32 i;

	for (i = 0; i < MMSG_MAX; i++) {
		if (i >= messages)
			break;
		if (!bpf_probe_read_user(&size, sizeof(size),
					 (void *)(vector + i * sizeof(struct mmsghdr) +
						  offsetof(struct mmsghdr, msg_len))))
			call.behind += size;
	}
	for (i = 0; i < MMSG_MAX; i++) {
		struct user_data data = NO_USER_DATA;
		__u64 header = vector + i * sizeof(struct mmsghdr);

		if (i >= messages)
			break;
		if (bpf_probe_read_user(&size, sizeof(size), (void *)(header + offsetof(struct mmsghdr, msg_len))) ||
		    !size)
			continue;
		call.size = size;
		call.behind -= size;
		read_msghdr(&data, header);
		on_call(sk, &call, &data);
	}
}

static __always_inline void on_lengths(__u32 fd, __u32 size, bool sent)
{
	struct user_data data = NO_USER_DATA;
	struct call call = { size, 0, sent };
	__u64 sk = tcp_sock_of(fd);

	if (sk)
		on_call(sk, &call, &data);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit, struct pt_regs *regs, long ret)
{
	struct user_data data = NO_USER_DATA;
	__u64 nr = SYSCALL_NR(regs);
	struct call call = { ret, 0, false };
	__u64 flags = 0;
	__u64 sk;

	if (ret <= 0)
		return 0;
	switch (nr) {
	case NR_WRITE:
	case NR_SENDTO:
	case NR_WRITEV:
	case NR_SENDMSG:
	case NR_SENDMMSG:
		call.sent = true;
		break;
	case NR_READ:
	case NR_READV:
		break;
	case NR_RECVFROM:
	case NR_RECVMMSG:
		flags = SYSCALL_ARG4(regs);
		break;
	case NR_RECVMSG:
		flags = SYSCALL_ARG3(regs);
		break;
	case NR_SENDFILE:
		on_lengths(SYSCALL_ARG1(regs), ret, true);
		return 0;
	case NR_SPLICE:
		on_lengths(SYSCALL_ARG1(regs), ret, false);
		on_lengths(SYSCALL_ARG3(regs), ret, true);
		return 0;
	default:
		return 0;
	}
	if (!takes_bytes(flags))
		return 0;
	sk = tcp_sock_of(SYSCALL_ARG1(regs));
	if (!sk)
		return 0;
	switch (nr) {
	case NR_SENDMMSG:
	case NR_RECVMMSG:
		on_mmsg(sk, SYSCALL_ARG2(regs), ret, call.sent);
		return 0;
	case NR_SENDMSG:
	case NR_RECVMSG:
		read_msghdr(&data, SYSCALL_ARG2(regs));
		break;
	case NR_READV:
	case NR_WRITEV:
		data.count = SYSCALL_ARG3(regs);
		data.base = SYSCALL_ARG2(regs);
		break;
	default:
		data.base = SYSCALL_ARG2(regs);
		break;
	}
	/* bytes are thrown away, the buffer is not touched */
	if (flags & MSG_TRUNC)
		data = NO_USER_DATA;
	on_call(sk, &call, &data);
	return 0;
}
