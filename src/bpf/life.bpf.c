/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP life: open, failure, listen, close. Shared by all hook families. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "conn.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline void on_connect(struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct conn *known = bpf_map_lookup_elem(&conns, &key);
	struct conn conn = {};

	if (!attached || (known && !known->id))
		return; /* too early; or on_set_state was not missed */
	conn.role = ROLE_CLIENT;
	conn.start_ns = bpf_ktime_get_ns();
	read_process(&conn);
	if (conn.pid == settings.own_pid || cgroup_ignored(conn.cgroup_id))
		conn.flags |= CONN_IGNORED;
	if (bpf_map_update_elem(&conns, &key, &conn, BPF_ANY))
		count(STAT_CONNS_FULL);
}

/* The three-way handshake is over on the client. Often in interrupt context: the current task is anyone. */
static __always_inline void on_connected(void *ctx, struct sock *sk)
{
	__u64 key = (__u64)sk;
	__u64 now = bpf_ktime_get_ns();
	struct conn *conn = bpf_map_lookup_elem(&conns, &key);

	if (!conn || conn->id || conn->flags & CONN_IGNORED)
		return;
	read_tuple(&conn->tuple, sk);
	read_bases(conn, sk);
	conn->id = mint_id(conn->tuple.local_port);
	conn->connect_ns = now - conn->start_ns;
	conn->start_ns = now;
	if (!conn_wanted(conn) || cgroup_ignored(conn->cgroup_id))
		conn->flags |= CONN_IGNORED;
	else if (pid_wanted(conn->pid))
		announce(ctx, conn);
}

static __always_inline bool same_tuple(const struct socket_tuple *one, const struct socket_tuple *other)
{
	const __u64 *a = (const __u64 *)one;
	const __u64 *b = (const __u64 *)other;

	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4];
}

/* The same on the server: the socket has no process yet, so its open event waits for its first data, or its end. */
static __always_inline void on_accepted(struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct conn *known = bpf_map_lookup_elem(&conns, &key);
	struct conn conn = {};

	if (!attached)
		return;
	read_tuple(&conn.tuple, sk);
	/* on_set_state was not missed; else it is a socket whose end was */
	if (known && same_tuple(&known->tuple, &conn.tuple))
		return;
	conn.role = ROLE_SERVER;
	conn.start_ns = bpf_ktime_get_ns();
	read_bases(&conn, sk);
	conn.id = mint_id(conn.tuple.remote_port);
	if (!conn_wanted(&conn))
		conn.flags |= CONN_IGNORED;
	if (bpf_map_update_elem(&conns, &key, &conn, BPF_ANY))
		count(STAT_CONNS_FULL);
}

static __always_inline void report_failure(void *ctx, struct conn *conn, struct sock *sk)
{
	struct fail_event *event;

	read_tuple(&conn->tuple, sk);
	if (conn->flags & CONN_IGNORED || !conn_wanted(conn) || !pid_wanted(conn->pid) ||
	    cgroup_ignored(conn->cgroup_id))
		return;
	event = event_reserve(sizeof(*event), EVENT_FAIL);
	if (!event)
		return;
	event->header.connection_id = mint_id(conn->tuple.local_port);
	event->header.pid = conn->pid;
	event->header.tid = conn->tid;
	event->tuple = conn->tuple;
	event->cgroup_id = conn->cgroup_id;
	event->elapsed_ns = bpf_ktime_get_ns() - conn->start_ns;
	event->error = LOAD(sk, sk_err);
	event->_pad = 0;
	__builtin_memcpy(event->comm, conn->comm, sizeof(event->comm));
	event_submit(ctx, event);
}

static __always_inline __u8 close_reason(const struct conn *conn, __u32 error)
{
	if (error == 110 /* ETIMEDOUT */)
		return CLOSE_TIMEOUT;
	if (error)
		return CLOSE_RESET;
	if (conn->first_fin == FIN_LOCAL)
		return CLOSE_LOCAL;
	if (conn->first_fin == FIN_REMOTE)
		return CLOSE_REMOTE;
	return CLOSE_ABORT;
}

static __always_inline void report_close(void *ctx, struct conn *conn, struct sock *sk)
{
	struct close_event *event;

	if (!(conn->flags & CONN_ANNOUNCED)) {
		if (conn->flags & CONN_IGNORED)
			return;
		/* accepted, or connected before a filter matched, and never spoken */
		if (settings.filter_pids)
			return;
		announce(ctx, conn);
	}
	read_quality(conn, sk);
	/* what was spliced out of the socket last has passed no hook */
	conn->flows[0].position = position_after(&conn->flows[0], sk, 0, false);
	event = event_reserve(sizeof(*event), EVENT_CLOSE);
	if (!event)
		return;
	event->header.connection_id = conn->id;
	event->header.pid = conn->pid;
	event->header.tid = conn->tid;
	event->start_ns = conn->start_ns;
	event->connect_ns = conn->connect_ns;
	event->bytes_received = conn->flows[0].position;
	event->calls_received = conn->flows[0].calls;
	event->bytes_sent = conn->flows[1].position;
	event->calls_sent = conn->flows[1].calls;
	event->retransmits = conn->retransmits;
	event->srtt_us = conn->srtt_us;
	event->error = conn->error ?: LOAD(sk, sk_err);
	event->reason = close_reason(conn, event->error);
	__builtin_memset(event->_pad, 0, sizeof(event->_pad));
	event_submit(ctx, event);
}

/* TCP is done with the connection. The program may still have data to read from the socket. */
static __always_inline void on_closed(void *ctx, struct sock *sk, int old_state)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;
	__u64 key = (__u64)sk;
	struct conn *conn = bpf_map_lookup_elem(&conns, &key);

	if (!conn)
		return;
	if (old_state == TCP_SYN_SENT) {
		report_failure(ctx, conn, sk);
		bpf_map_delete_elem(&conns, &key);
		return;
	}
	/* then on_destroy reports the end; a FIN that was not read counts one, one that was read leaves nothing */
	if (LOAD(sk, sk_socket) && LOAD(tp, rcv_nxt) - LOAD(tp, copied_seq) > fin_arrived(sk)) {
		conn->error = LOAD(sk, sk_err);
		return;
	}
	report_close(ctx, conn, sk);
	bpf_map_delete_elem(&conns, &key);
}

static __always_inline void report_listen(void *ctx, struct sock *sk, __u8 flags)
{
	struct listen_event *event;
	struct conn conn = {};

	read_process(&conn);
	if (conn.pid == settings.own_pid || cgroup_ignored(conn.cgroup_id))
		return;
	event = event_reserve(sizeof(*event), EVENT_LISTEN);
	if (!event)
		return;
	event->header.flags = flags;
	event->header.pid = conn.pid;
	event->header.tid = conn.tid;
	read_tuple(&event->tuple, sk);
	event->cgroup_id = conn.cgroup_id;
	__builtin_memcpy(event->comm, conn.comm, sizeof(event->comm));
	event_submit(ctx, event);
}

/* Done twice it is as good as done once, but for what is told of listeners. */
static __always_inline void on_state(void *ctx, struct sock *sk, int old_state, int new_state, bool again)
{
	__u64 key = (__u64)sk;
	struct conn *conn;

	if (!is_tcp(sk))
		return;
	switch (new_state) {
	case TCP_SYN_SENT:
		on_connect(sk);
		break;
	case TCP_ESTABLISHED:
		if (old_state == TCP_SYN_SENT)
			on_connected(ctx, sk);
		else
			on_accepted(sk);
		break;
	case TCP_FIN_WAIT1:
	case TCP_CLOSE_WAIT:
		conn = bpf_map_lookup_elem(&conns, &key);
		if (conn && !conn->first_fin)
			conn->first_fin = new_state == TCP_FIN_WAIT1 ? FIN_LOCAL : FIN_REMOTE;
		break;
	case TCP_LISTEN:
		if (!again)
			report_listen(ctx, sk, 0);
		break;
	case TCP_CLOSE:
		if (old_state != TCP_LISTEN)
			on_closed(ctx, sk, old_state);
		else if (!again)
			report_listen(ctx, sk, EVENT_CLOSED);
		break;
	}
}

TRACEPOINT(inet_sock_set_state)
int BPF_PROG(on_set_state, struct sock *sk, int old_state, int new_state)
{
	on_state(ctx, sk, old_state, new_state, false);
	return 0;
}

/*
 * Where a tracepoint does not hold the processor on_set_state is left out when
 * a task was preempted in it, this one when it interrupts a data program: perf
 * runs one at a time. Whichever comes finds what the other has done.
 */
SEC("tracepoint/sock/inet_sock_set_state")
int on_set_state_again(struct trace_event_raw_inet_sock_set_state *event)
{
	struct sock *sk = KERNEL_OBJECT(event->skaddr, struct sock);

	on_state(event, sk, event->oldstate, event->newstate, true);
	return 0;
}

/*
 * User space reads `conns` through this where perf runs the data programs and
 * the kernel is preempted (HELD_BY_PERF, kprobes): the system call that reads a batch keeps them all off its
 * processor while it goes through the table, its empty places included, and
 * may be preempted in there.
 */
SEC("iter/bpf_map_elem")
int walk_conns(struct bpf_iter__bpf_map_elem *ctx)
{
	struct conn *conn = ctx->value;

	if (conn)
		bpf_seq_write(ctx->meta->seq, conn, sizeof(*conn));
	return 0;
}

/* The socket's end, where every TCP socket passes: whatever is still in the table goes here. */
TRACEPOINT(tcp_destroy_sock)
int BPF_PROG(on_destroy, struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct conn *conn = bpf_map_lookup_elem(&conns, &key);

	if (!conn)
		return 0;
	if (conn->id)
		report_close(ctx, conn, sk);
	bpf_map_delete_elem(&conns, &key);
	return 0;
}
