/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Hook family `fentry`: the ends of the functions of TCP and UDP that move
 * bytes. Arguments and result are at hand together; nothing else pays. Those
 * of the functions that this kernel does not have are not loaded.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "message.h"

/* A word of what the program got. clang would make one load at a variable place of two loads, which the verifier refuses. */
static __always_inline __u64 argument(void *ctx, __u32 place)
{
	__u64 word;

	asm volatile("%0 = *(u64 *)(%1 + %2)" : "=r"(word) : "r"(ctx), "i"(place * sizeof(word)));
	return word;
}

/* Arguments of a function that receives, see settings.recv_nonblock. */
struct received {
	struct sock *sk;
	struct msghdr *msg;
	__u64 size;
	__u32 flags;
	int result;
};

static __always_inline struct received read_received(void *ctx)
{
	struct received received = {
		.sk = (struct sock *)argument(ctx, 0),
		.msg = (struct msghdr *)argument(ctx, 1),
		.size = argument(ctx, 2),
	};

	if (settings.recv_nonblock) {
		received.flags = argument(ctx, 4);
		received.result = argument(ctx, 6);
	} else {
		received.flags = argument(ctx, 3);
		received.result = argument(ctx, 5);
	}
	return received;
}

SEC("fexit/tcp_sendmsg")
int BPF_PROG(on_tcp_sendmsg, struct sock *sk, struct msghdr *msg, size_t size, int ret)
{
	on_tcp(ctx, sk, msg, ret, 0, true);
	return 0;
}

/* Before 6.5 (dc97391e6610); since then pages go through tcp_sendmsg. */
SEC("fexit/tcp_sendpage")
int BPF_PROG(on_tcp_sendpage, struct sock *sk, struct page *page, int offset, size_t size, int flags, int ret)
{
	on_tcp(ctx, sk, NULL, ret, 0, true);
	return 0;
}

SEC("fexit/tcp_recvmsg")
int on_tcp_recvmsg(unsigned long long *ctx)
{
	struct received received = read_received(ctx);

	on_tcp(ctx, received.sk, received.msg, received.result, received.flags, false);
	return 0;
}

SEC("fexit/tcp_splice_read")
int BPF_PROG(on_tcp_splice_read, struct socket *socket, loff_t *position, struct pipe_inode_info *pipe, size_t len,
	     unsigned int flags, ssize_t ret)
{
	on_tcp(ctx, LOAD(socket, sk), NULL, ret, 0, false);
	return 0;
}

SEC("fexit/udp_sendmsg")
int BPF_PROG(on_udp_sendmsg, struct sock *sk, struct msghdr *msg, size_t size, int ret)
{
	if (!is_of_ipv6(sk))
		on_udp(ctx, sk, msg, size, ret, 0, true);
	return 0;
}

SEC("fexit/udpv6_sendmsg")
int BPF_PROG(on_udpv6_sendmsg, struct sock *sk, struct msghdr *msg, size_t size, int ret)
{
	on_udp(ctx, sk, msg, size, ret, 0, true);
	return 0;
}

SEC("fexit/udp_recvmsg")
int on_udp_recvmsg(unsigned long long *ctx)
{
	struct received received = read_received(ctx);

	on_udp(ctx, received.sk, received.msg, received.size, received.result, received.flags, false);
	return 0;
}

SEC("fexit/udpv6_recvmsg")
int on_udpv6_recvmsg(unsigned long long *ctx)
{
	struct received received = read_received(ctx);

	on_udp(ctx, received.sk, received.msg, received.size, received.result, received.flags, false);
	return 0;
}
