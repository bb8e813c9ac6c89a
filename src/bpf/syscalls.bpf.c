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
	struct task_struct *task = bpf_get_current_task_btf();
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

/* The core as a global function: the verifier walks it once, not once per system call and message. */
__weak __noinline int on_call(__u64 sk, __u32 size, __u32 behind, bool sent, struct user_data *data)
{
	if (data)
		on_data((struct sock *)sk, size, behind, sent, data);
	return 0;
}

/* The messages of recvmmsg or sendmmsg that went through; each has its own length. */
__weak __noinline int on_mmsg(__u64 sk, __u64 vector, __u32 messages, bool sent)
{
	__u32 behind = 0;
	__u32 size;
	__u32 i;

	for (i = 0; i < MMSG_MAX; i++) {
		if (i >= messages)
			break;
		if (!bpf_probe_read_user(&size, sizeof(size),
					 (void *)(vector + i * sizeof(struct mmsghdr) +
						  offsetof(struct mmsghdr, msg_len))))
			behind += size;
	}
	for (i = 0; i < MMSG_MAX; i++) {
		struct user_data data = NO_USER_DATA;
		__u64 header = vector + i * sizeof(struct mmsghdr);

		if (i >= messages)
			break;
		if (bpf_probe_read_user(&size, sizeof(size), (void *)(header + offsetof(struct mmsghdr, msg_len))) ||
		    !size)
			continue;
		behind -= size;
		read_msghdr(&data, header);
		on_call(sk, size, behind, sent, &data);
	}
	return 0;
}

/* Of its own, so that these rare calls take no stack from the others. */
static __noinline __u64 find_tcp(__u32 fd)
{
	struct found found = find_socket(fd);

	return found.protocol == IPPROTO_TCP ? found.sk : 0;
}

static __always_inline void on_lengths(__u32 fd, __u32 size, bool sent)
{
	struct user_data data = NO_USER_DATA;
	__u64 sk = find_tcp(fd);

	if (sk)
		on_call(sk, size, 0, sent, &data);
}

/* The datagrams of recvmmsg or sendmmsg that went through. */
__weak __noinline int on_datagrams(__u64 sk, __u64 inode, __u64 vector, __u32 messages, bool sent)
{
	__u32 i;

	for (i = 0; i < MMSG_DATAGRAMS_MAX && i < messages; i++) {
		struct datagram_call call = { .sk = sk, .inode = inode, .sent = sent };
		__u64 header = vector + i * sizeof(struct mmsghdr);

		if (bpf_probe_read_user(&call.size, sizeof(call.size),
					(void *)(header + offsetof(struct mmsghdr, msg_len))) ||
		    !call.size)
			continue;
		read_datagram_header(&call, header, true);
		on_datagram(&call);
	}
	for (; i < messages && i < 1024 /* UIO_MAXIOV */; i++)
		count(STAT_UNREAD);
	return 0;
}

/* Of its own, so that it takes no stack from the others. */
static __noinline void on_udp(__u64 sk, __u64 inode, struct pt_regs *regs, __u32 size, bool sent)
{
	struct datagram_call call = { .sk = sk, .inode = inode, .size = size, .sent = sent };

	switch (SYSCALL_NR(regs)) {
	case NR_SENDMSG:
	case NR_RECVMSG:
		read_datagram_header(&call, SYSCALL_ARG2(regs), true);
		break;
	case NR_SENDTO:
	case NR_RECVFROM:
		call.message.name = SYSCALL_ARG5(regs);
		/* fallthrough */
	case NR_READ:
	case NR_WRITE:
		call.message.data.base = SYSCALL_ARG2(regs);
		call.room = clamp_len(SYSCALL_ARG3(regs), size);
		break;
	default:
		call.message.data.base = SYSCALL_ARG2(regs);
		call.message.data.count = SYSCALL_ARG3(regs);
		break;
	}
	on_datagram(&call);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit, struct pt_regs *regs, long ret)
{
	struct user_data data = NO_USER_DATA;
	__u64 nr = SYSCALL_NR(regs);
	bool sent = false;
	__u64 flags = 0;
	struct found found;
	__u64 sk;

	if (ret <= 0)
		return 0;
	switch (nr) {
	case NR_WRITE:
	case NR_SENDTO:
	case NR_WRITEV:
	case NR_SENDMSG:
	case NR_SENDMMSG:
		sent = true;
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
	found = find_socket(SYSCALL_ARG1(regs));
	if (found.protocol != IPPROTO_TCP) {
		if (found.protocol != IPPROTO_UDP)
			return 0;
		if (nr == NR_SENDMMSG || nr == NR_RECVMMSG)
			on_datagrams(found.sk, found.inode, SYSCALL_ARG2(regs), ret, sent);
		else
			on_udp(found.sk, found.inode, regs, ret, sent);
		return 0;
	}
	sk = found.sk;
	switch (nr) {
	case NR_SENDMMSG:
	case NR_RECVMMSG:
		on_mmsg(sk, SYSCALL_ARG2(regs), ret, sent);
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
	on_call(sk, ret, 0, sent, &data);
	return 0;
}
