/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Hook family `fentry`: the ends of the functions of TCP and UDP that move
 * bytes. Arguments and result are at hand together; nothing else pays. Those
 * of the functions that this kernel does not have are not loaded.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "message.h"

/* Of a function that receives; its arguments differ, see settings.recv_nonblock. Each place is read where the verifier can tell it. */
#define RECV_FLAGS(ctx) \
	(settings.recv_nonblock ? ((volatile unsigned long long *)(ctx))[4] : ((volatile unsigned long long *)(ctx))[3])
#define RECV_RESULT(ctx) \
	(settings.recv_nonblock ? ((volatile unsigned long long *)(ctx))[6] : ((volatile unsigned long long *)(ctx))[5])

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
	on_tcp(ctx, (struct sock *)ctx[0], (struct msghdr *)ctx[1], RECV_RESULT(ctx), RECV_FLAGS(ctx), false);
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
	on_udp(ctx, (struct sock *)ctx[0], (struct msghdr *)ctx[1], ctx[2], RECV_RESULT(ctx), RECV_FLAGS(ctx), false);
	return 0;
}

SEC("fexit/udpv6_recvmsg")
int on_udpv6_recvmsg(unsigned long long *ctx)
{
	on_udp(ctx, (struct sock *)ctx[0], (struct msghdr *)ctx[1], ctx[2], RECV_RESULT(ctx), RECV_FLAGS(ctx), false);
	return 0;
}
