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
	__u32 sequence; /* TCP: that of the stream's next byte when it began */
};

/*
 * Key: thread. Written at the begin of a function, overwritten by the thread's
 * next, deleted when the thread ends: what is in here may be over. Not an LRU,
 * which would let go of those first that wait the longest.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, __u32);
	__type(value, struct under_way);
} calls __weak SEC(".maps");

static __always_inline void begin(const struct under_way *call)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct under_way *last = bpf_map_lookup_elem(&calls, &tid);

	if (last)
		*last = *call;
	else if (bpf_map_update_elem(&calls, &tid, call, BPF_ANY))
		count(STAT_CONNS_FULL);
}

static __always_inline struct under_way *last_call(void)
{
	__u32 tid = bpf_get_current_pid_tgid();

	return bpf_map_lookup_elem(&calls, &tid);
}

SEC("kprobe")
int on_thread_exit(struct pt_regs *ctx)
{
	__u32 tid = bpf_get_current_pid_tgid();

	bpf_map_delete_elem(&calls, &tid);
	return 0;
}

/*
 * By how many bytes a stream has grown that nobody has reported. More than that
 * is none of a call: what a call that is over has left behind can say anything.
 * Under a record layer (kTLS) sequence numbers count ciphertext, and say nothing.
 */
static __always_inline __s64 growth(const struct under_way *call, bool sent)
{
	struct inet_connection_sock *icsk = (struct inet_connection_sock *)call->sk;
	struct sock *sk = (struct sock *)call->sk;
	__u64 key = call->sk;
	struct flow_state *flow;
	struct conn *conn;
	__s32 grown;

	conn = bpf_map_lookup_elem(&conns, &key);
	grown = sequence_of(sk, sent);
	if (conn && conn->id) {
		if (LOAD(icsk, icsk_ulp_ops))
			return call->size;
		flow = sent ? &conn->flows[1] : &conn->flows[0];
		grown -= flow->base + (__u32)flow->position;
	} else {
		grown -= call->sequence;
	}
	return grown;
}

static __always_inline void begin_tcp_send(__u64 sk, __u64 msg, __u64 size)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;
	struct under_way call = { .sk = sk, .msg = msg, .size = size, .function = FUNCTION_TCP_SEND };

	call.sequence = LOAD(tp, write_seq);
	begin(&call);
}

/* Arguments of a function that receives, see settings.recv_nonblock. */
static __always_inline struct under_way received(struct pt_regs *ctx, __u32 function)
{
	__u64 fourth = PT_REGS_PARM4(ctx);
	__u64 fifth = PT_REGS_PARM5(ctx);

	/* clang would make one load at a variable place of the two, which the verifier refuses */
	asm volatile("" : "+r"(fourth), "+r"(fifth));
	return (struct under_way){
		.sk = PT_REGS_PARM1(ctx),
		.msg = PT_REGS_PARM2(ctx),
		.size = PT_REGS_PARM3(ctx),
		.flags = settings.recv_nonblock ? fifth : fourth,
		.function = function,
	};
}

SEC("kprobe")
int begin_tcp_sendmsg(struct pt_regs *ctx)
{
	begin_tcp_send(PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx));
	return 0;
}

/* Before 6.5 (dc97391e6610); since then pages go through tcp_sendmsg. */
SEC("kprobe")
int begin_tcp_sendpage(struct pt_regs *ctx)
{
	begin_tcp_send(PT_REGS_PARM1(ctx), 0, PT_REGS_PARM4(ctx));
	return 0;
}

/* How many bytes of the call are in the stream and not reported; 0 where it is over. */
static __always_inline __u32 newly_sent(const struct under_way *call)
{
	struct msghdr *msg = (struct msghdr *)call->msg;
	struct sock *sk = (struct sock *)call->sk;
	__u64 left = call->size - call->seen;
	__u64 waiting;
	__s64 grown;
	__u8 state;

	if (msg) {
		waiting = LOAD(msg, msg_iter.count);
		if (waiting > left)
			return 0;
		left -= waiting;
	}
	/* in others there may be a FIN behind the bytes, and nothing can be sent any more */
	state = LOAD(sk, __sk_common.skc_state);
	if (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT && state != TCP_SYN_SENT && state != TCP_SYN_RECV)
		return 0;
	grown = growth(call, true);
	if (grown <= 0)
		return 0;
	return (__u64)grown < left ? grown : left;
}

/* release_sock(sk): the end of a send, and each time that it lets others at the socket while it waits for room. */
SEC("kprobe")
int on_tcp_given(struct pt_regs *ctx)
{
	struct under_way *call = last_call();
	__u64 sk = PT_REGS_PARM1(ctx);
	__u32 sent;

	if (!call || call->function != FUNCTION_TCP_SEND || call->sk != sk)
		return 0;
	sent = newly_sent(call);
	if (!sent)
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
	struct under_way call = received(ctx, FUNCTION_TCP_RECV);
	struct tcp_sock *tp = (struct tcp_sock *)call.sk;

	call.sequence = LOAD(tp, copied_seq);
	begin(&call);
	return 0;
}

SEC("kprobe")
int begin_tcp_splice_read(struct pt_regs *ctx)
{
	struct socket *socket = (struct socket *)PT_REGS_PARM1(ctx);
	struct tcp_sock *tp = (struct tcp_sock *)LOAD(socket, sk);
	struct under_way call = { .sk = (__u64)tp, .function = FUNCTION_TCP_SPLICE };

	call.sequence = LOAD(tp, copied_seq);
	begin(&call);
	return 0;
}

/*
 * tcp_cleanup_rbuf(sk, copied): a receive calls it with all that it has copied
 * so far, once or more; a splice with what it has just taken. Others do too.
 */
SEC("kprobe")
int on_tcp_taken(struct pt_regs *ctx)
{
	struct under_way *call = last_call();
	__u64 sk = PT_REGS_PARM1(ctx);
	int copied = PT_REGS_PARM2(ctx);
	struct msghdr *msg;
	__s64 taken;
	__s64 grown;

	if (copied <= 0 || !call || call->sk != sk)
		return 0;
	msg = (struct msghdr *)call->msg;
	taken = copied;
	if (call->function == FUNCTION_TCP_RECV) {
		/* the message of a call that is over says something else; with MSG_TRUNC it never says anything */
		if (!(call->flags & MSG_TRUNC) && LOAD(msg, msg_iter.count) + copied != call->size)
			return 0;
		taken -= call->seen;
	} else if (call->function != FUNCTION_TCP_SPLICE) {
		return 0;
	}
	grown = growth(call, false);
	if (taken > grown)
		taken = grown;
	if (taken <= 0)
		return 0;
	call->seen = copied;
	on_tcp(ctx, (struct sock *)sk, msg, taken, call->flags, false);
	return 0;
}

SEC("kprobe")
int begin_udp_sendmsg(struct pt_regs *ctx)
{
	struct under_way call = {
		.sk = PT_REGS_PARM1(ctx),
		.msg = PT_REGS_PARM2(ctx),
		.size = PT_REGS_PARM3(ctx),
		.function = FUNCTION_UDP_SEND,
	};

	begin(&call);
	return 0;
}

/* A send hands its datagram to IP, all of it. */
static __always_inline void give_udp(void *ctx, struct sk_buff *skb)
{
	struct under_way *call = last_call();
	struct msghdr *msg;
	struct sock *sk;

	if (!call || call->function != FUNCTION_UDP_SEND)
		return;
	sk = LOAD(skb, sk);
	msg = (struct msghdr *)call->msg;
	/* another's, or what an earlier call had begun: the bytes of this one are all copied */
	if (call->sk != (__u64)sk || LOAD(msg, msg_iter.count))
		return;
	call->function = FUNCTION_NONE;
	on_udp(ctx, sk, msg, call->size, call->size, 0, true);
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
	struct under_way call = received(ctx, FUNCTION_UDP_RECV);

	begin(&call);
	return 0;
}

/* skb_consume_udp(sk, skb, len): a receive is done with its datagram; `len` is negative where it only looked. */
SEC("kprobe")
int on_udp_taken(struct pt_regs *ctx)
{
	struct under_way *call = last_call();
	__u64 sk = PT_REGS_PARM1(ctx);

	if (!call || call->function != FUNCTION_UDP_RECV || call->sk != sk)
		return 0;
	call->function = FUNCTION_NONE;
	on_udp(ctx, (struct sock *)sk, (struct msghdr *)call->msg, call->size, PT_REGS_PARM3(ctx), call->flags, false);
	return 0;
}
