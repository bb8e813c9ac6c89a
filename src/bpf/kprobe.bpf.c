/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Hook family `kprobe`: the same functions as `fentry`, without types from the
 * kernel. Arguments are kept at the begin of a function, and used where it has
 * moved its bytes.
 *
 * That is not its end: for a kretprobe the kernel keeps a return address for
 * each call under way, of which it has few, and threads that wait in a call
 * would use them up for everybody. Instead the function is hooked that each of
 * them calls when it has taken bytes, or given them away.
 *
 * User space says where each is attached: names differ between kernels.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "message.h"

enum function {
	FUNCTION_NONE = 0,
	FUNCTION_TCP_SEND,
	FUNCTION_TCP_RECV,
	FUNCTION_TCP_SPLICE,
	FUNCTION_UDP_SEND,
	FUNCTION_UDP_RECV,
};

/* The arguments of a function under way. */
struct under_way {
	__u64 sk;
	__u64 msg;
	__u64 size;
	__u32 flags;
	__u32 seen;	/* bytes that are reported already */
	__u32 function; /* enum function */
	__u32 _pad;
};

/*
 * Key: thread. Written at the begin of a function and overwritten by the
 * thread's next, so what is in here may be over. LRU, since threads end.
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

/* Before 6.5 (dc97391e6610); since then pages go through tcp_sendmsg. */
SEC("kprobe")
int begin_tcp_sendpage(struct pt_regs *ctx)
{
	begin(FUNCTION_TCP_SEND, PT_REGS_PARM1(ctx), 0, PT_REGS_PARM4(ctx), 0);
	return 0;
}

/*
 * How many bytes of the call are in the stream that nobody has reported: no
 * more than it has handed over, and no more than the stream has grown. Each
 * alone can mislead: the first is that of a message which is gone, if the call
 * is over; the second counts what no hook saw.
 */
static __always_inline int newly_sent(const struct under_way *call)
{
	struct tcp_sock *tp = (struct tcp_sock *)call->sk;
	struct msghdr *msg = (struct msghdr *)call->msg;
	int handed_over = call->size - call->seen;
	__u64 key = call->sk;
	struct conn *conn;
	int grown;

	if (msg)
		handed_over -= LOAD(msg, msg_iter.count);
	conn = bpf_map_lookup_elem(&conns, &key);
	if (!conn || !conn->id)
		return handed_over;
	grown = LOAD(tp, write_seq) - (conn->flows[1].base + (__u32)conn->flows[1].position);
	return grown < handed_over ? grown : handed_over;
}

/* release_sock(sk): the end of a send, and each time that it lets others at the socket while it waits for room. */
SEC("kprobe")
int on_tcp_given(struct pt_regs *ctx)
{
	struct under_way *call = under_way(FUNCTION_TCP_SEND);
	__u64 sk = PT_REGS_PARM1(ctx);
	int sent;

	if (!call || call->sk != sk)
		return 0;
	sent = newly_sent(call);
	if (sent <= 0)
		return 0;
	call->seen += sent;
	if (call->seen == call->size)
		call->function = FUNCTION_NONE;
	on_tcp(ctx, (struct sock *)sk, (struct msghdr *)call->msg, sent, 0, true);
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
	begin(FUNCTION_UDP_SEND, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), 0);
	return 0;
}

SEC("kprobe")
int begin_udpv6_sendmsg(struct pt_regs *ctx)
{
	begin(FUNCTION_UDP_SEND, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), 0);
	return 0;
}

/* A send hands its datagram to IP, all of it. */
static __always_inline void give_udp(void *ctx, struct sk_buff *skb)
{
	struct under_way *call = under_way(FUNCTION_UDP_SEND);
	struct sock *sk;

	if (!call)
		return;
	sk = LOAD(skb, sk);
	if (call->sk != (__u64)sk)
		return;
	call->function = FUNCTION_NONE;
	on_udp(ctx, sk, (struct msghdr *)call->msg, call->size, call->size, 0, true);
}

/* ip_send_skb(net, skb) */
SEC("kprobe")
int on_udp_given(struct pt_regs *ctx)
{
	give_udp(ctx, (struct sk_buff *)PT_REGS_PARM2(ctx));
	return 0;
}

/* ip6_send_skb(skb) */
SEC("kprobe")
int on_udpv6_given(struct pt_regs *ctx)
{
	give_udp(ctx, (struct sk_buff *)PT_REGS_PARM1(ctx));
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
