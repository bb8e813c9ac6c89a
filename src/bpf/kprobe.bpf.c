/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Hook family `kprobe`: the same functions as `fentry`, without types from the
 * kernel. Arguments are kept at the begin of a function until its end.
 *
 * A function that sends ends in a kretprobe. One that receives does not: the
 * kernel keeps a return address for each call under way, of which it has few,
 * and threads that wait in a receive would use them up for everybody. Instead
 * the function is hooked that each of them calls when it has taken its bytes.
 *
 * User space says where each is attached: names differ between kernels.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "message.h"

enum function {
	FUNCTION_NONE = 0,
	FUNCTION_TCP_SEND,
	FUNCTION_TCP_SENDPAGE,
	FUNCTION_TCP_RECV,
	FUNCTION_TCP_SPLICE,
	FUNCTION_UDP_SEND,
	FUNCTION_UDPV6_SEND,
	FUNCTION_UDP_RECV,
};

/* The arguments of a function under way. */
struct under_way {
	__u64 sk;
	__u64 msg;
	__u64 size;
	__u32 flags;
	__u32 seen;	/* bytes of a receive that are reported already */
	__u32 function; /* enum function */
	__u32 _pad;
};

/*
 * Key: thread. Written at the begin of a function; deleted at its end if that
 * is hooked, else overwritten by the thread's next. LRU, since threads end.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct under_way);
} calls __weak SEC(".maps");

static __always_inline void begin(__u32 function, __u64 sk, __u64 msg, __u64 size, __u32 flags)
{
	struct under_way call = { .sk = sk, .msg = msg, .size = size, .flags = flags, .function = function };
	__u32 tid = bpf_get_current_pid_tgid();

	bpf_map_update_elem(&calls, &tid, &call, BPF_ANY);
}

/* The call that this thread has under way, if it is in that function. */
static __always_inline struct under_way *under_way(__u32 function)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct under_way *call = bpf_map_lookup_elem(&calls, &tid);

	return call && call->function == function ? call : NULL;
}

static __always_inline void end_tcp(void *ctx, __u32 function, int ret)
{
	struct under_way *call = under_way(function);

	if (!call)
		return;
	call->function = FUNCTION_NONE;
	on_tcp(ctx, (struct sock *)call->sk, (struct msghdr *)call->msg, ret, 0, true);
}

static __always_inline void end_udp(void *ctx, __u32 function, int ret)
{
	struct under_way *call = under_way(function);

	if (!call)
		return;
	call->function = FUNCTION_NONE;
	on_udp(ctx, (struct sock *)call->sk, (struct msghdr *)call->msg, call->size, ret, 0, true);
}

static __always_inline void begin_recvmsg(struct pt_regs *ctx, __u32 function)
{
	__u64 fourth = PT_REGS_PARM4(ctx);
	__u64 fifth = PT_REGS_PARM5(ctx);
	__u32 flags;

	/* clang would make one load at a variable place of the two, which the verifier refuses */
	asm volatile("" : "+r"(fourth), "+r"(fifth));
	flags = settings.recv_nonblock ? fifth : fourth;
	begin(function, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), flags);
}

SEC("kprobe")
int begin_tcp_sendmsg(struct pt_regs *ctx)
{
	begin(FUNCTION_TCP_SEND, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), 0);
	return 0;
}

SEC("kretprobe")
int end_tcp_sendmsg(struct pt_regs *ctx)
{
	end_tcp(ctx, FUNCTION_TCP_SEND, PT_REGS_RC(ctx));
	return 0;
}

/* Before 6.5 (dc97391e6610); since then pages go through tcp_sendmsg. */
SEC("kprobe")
int begin_tcp_sendpage(struct pt_regs *ctx)
{
	begin(FUNCTION_TCP_SENDPAGE, PT_REGS_PARM1(ctx), 0, 0, 0);
	return 0;
}

SEC("kretprobe")
int end_tcp_sendpage(struct pt_regs *ctx)
{
	end_tcp(ctx, FUNCTION_TCP_SENDPAGE, PT_REGS_RC(ctx));
	return 0;
}

SEC("kprobe")
int begin_tcp_recvmsg(struct pt_regs *ctx)
{
	begin_recvmsg(ctx, FUNCTION_TCP_RECV);
	return 0;
}

SEC("kprobe")
int begin_tcp_splice_read(struct pt_regs *ctx)
{
	struct socket *socket = (struct socket *)PT_REGS_PARM1(ctx);

	begin(FUNCTION_TCP_SPLICE, (__u64)LOAD(socket, sk), 0, 0, 0);
	return 0;
}

/*
 * tcp_cleanup_rbuf(sk, copied): a receive calls it with all that it has copied
 * so far, once or more; a splice with what it has just taken.
 */
SEC("kprobe")
int on_tcp_taken(struct pt_regs *ctx)
{
	__u64 sk = PT_REGS_PARM1(ctx);
	int copied = PT_REGS_PARM2(ctx);
	struct under_way *call;
	__u32 seen;

	if (copied <= 0)
		return 0;
	call = under_way(FUNCTION_TCP_RECV);
	if (call && call->sk == sk) {
		seen = call->seen;
		call->seen = copied;
		on_tcp(ctx, (struct sock *)sk, (struct msghdr *)call->msg, copied - seen, call->flags, false);
		return 0;
	}
	call = under_way(FUNCTION_TCP_SPLICE);
	if (call && call->sk == sk)
		on_tcp(ctx, (struct sock *)sk, NULL, copied, 0, false);
	return 0;
}

SEC("kprobe")
int begin_udp_sendmsg(struct pt_regs *ctx)
{
	if (!is_of_ipv6((struct sock *)PT_REGS_PARM1(ctx)))
		begin(FUNCTION_UDP_SEND, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), 0);
	return 0;
}

SEC("kretprobe")
int end_udp_sendmsg(struct pt_regs *ctx)
{
	end_udp(ctx, FUNCTION_UDP_SEND, PT_REGS_RC(ctx));
	return 0;
}

SEC("kprobe")
int begin_udpv6_sendmsg(struct pt_regs *ctx)
{
	begin(FUNCTION_UDPV6_SEND, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), 0);
	return 0;
}

SEC("kretprobe")
int end_udpv6_sendmsg(struct pt_regs *ctx)
{
	end_udp(ctx, FUNCTION_UDPV6_SEND, PT_REGS_RC(ctx));
	return 0;
}

SEC("kprobe")
int begin_udp_recvmsg(struct pt_regs *ctx)
{
	begin_recvmsg(ctx, FUNCTION_UDP_RECV);
	return 0;
}

SEC("kprobe")
int begin_udpv6_recvmsg(struct pt_regs *ctx)
{
	begin_recvmsg(ctx, FUNCTION_UDP_RECV);
	return 0;
}

/* skb_consume_udp(sk, skb, len): a receive is done with its datagram; `len` is negative where it only looked. */
SEC("kprobe")
int on_udp_taken(struct pt_regs *ctx)
{
	struct under_way *call = under_way(FUNCTION_UDP_RECV);
	__u64 sk = PT_REGS_PARM1(ctx);

	if (!call || call->sk != sk)
		return 0;
	call->function = FUNCTION_NONE;
	on_udp(ctx, (struct sock *)sk, (struct msghdr *)call->msg, call->size, PT_REGS_PARM3(ctx), call->flags, false);
	return 0;
}
