/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The core: bytes moved through a socket become a data record. Every hook
 * family ends here, after one call of the watched process is over.
 */
#ifndef REMORA_DATA_H
#define REMORA_DATA_H

#include "conn.h"

/* How struct user_msghdr begins in user memory. What follows in it is not wanted, and would cost stack. */
struct message_head {
	__u64 name;
	__u32 name_len;
	__u32 _pad;
	__u64 vector;
	__u64 pieces;
};

/* Lengths only. */
#define NO_USER_DATA ((struct user_data){ 0 })

/* A global function takes no pointer to the argument of a program; only the plain flavour needs it in there. */
#ifdef REMORA_PLAIN
#define HAND_OVER(ctx) ((__u64)(ctx))
#else
#define HAND_OVER(ctx) 0
#endif

/* Not every receive takes bytes of the stream: looking ahead, the error queue, and urgent data, which has no place in it. */
static __always_inline bool takes_bytes(__u32 flags)
{
	return !(flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE));
}

static __always_inline void set_vector(struct user_data *data, __u64 vector, __u64 pieces)
{
	data->base = vector;
	data->pieces = pieces > IOVEC_MAX ? IOVEC_MAX : pieces;
}

static __always_inline void read_msghdr(struct user_data *data, __u64 header)
{
	__u64 vector[2] = {};

	/* if it fails both are 0 */
	bpf_probe_read_user(vector, sizeof(vector), (void *)(header + offsetof(struct message_head, vector)));
	set_vector(data, vector[0], vector[1]);
}

/* That of this CPU; NULL cannot happen. */
static __always_inline struct scratch *find_scratch(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&scratches, &cpu);
}

/* The scratch with a call to be filled in; NULL while programs are being attached. */
static __always_inline struct scratch *begin_call(__u64 sk, __u32 size, bool sent)
{
	struct scratch *scratch = find_scratch();

	if (!scratch || !attached)
		return NULL;
	scratch->call = (struct call){ .sk = sk, .size = size, .sent = sent };
	return scratch;
}

static __always_inline __u64 control_value(__u64 word, __u64 number, __u64 otherwise)
{
	__u16 tag = number >> CONTROL_SLOTS_LOG2;

	return word >> CONTROL_VALUE_BITS == tag ? word & CONTROL_VALUE_MASK : otherwise;
}

struct wish {
	__u64 from;
	__u32 limit;
};

static __always_inline struct wish read_wish(const struct conn *conn, bool sent)
{
	struct wish wish = { 0, settings.capture_len };
	__u64 number = conn->id >> 8;
	__u32 slot = number & (CONTROL_SLOTS - 1);
	struct capture_wish *control = bpf_map_lookup_elem(&wishes, &slot);
	__u64 limit;

	if (!control)
		return wish;
	wish.from = control_value(sent ? control->from_sent : control->from_received, number, 0);
	limit = control_value(control->limit, number, 0);
	if (limit)
		wish.limit = limit;
	return wish;
}

/* A length from 1 to `max`, a power of two, so that the verifier sees it without another way through the program. */
#define WITHIN(len, max) ((((len)-1) & ((max)-1)) + 1)

static __always_inline long read_vector(void *to, __u32 size, __u64 from, bool in_kernel)
{
	return in_kernel ? bpf_probe_read_kernel(to, size, (void *)from) : bpf_probe_read_user(to, size, (void *)from);
}

/*
 * Copies the bytes of IOVEC_ROUND pieces behind those copied before, up to
 * `limit` in all. Returns 0 or a negative error. A function of its own, so that
 * the verifier walks its loop once instead of once per caller; the running
 * total lives in memory, so that all paths through a round look alike to it
 * and it need not walk them all again in the next one.
 */
GLOBAL_FUNCTION int gather_round(struct scratch *scratch, __u64 base, __u64 pieces, __u32 limit)
{
	volatile __u32 *total;
	struct iovec *batch;
	__u32 i;

	if (!scratch)
		return -1;
	total = &scratch->gathered;
	batch = scratch->batch;
	for (i = 0; i < IOVEC_ROUND; i++) {
		struct iovec *piece = &batch[i & (IOVEC_BATCH - 1)];
		__u32 copied = *total;
		__u64 len;

		if (i >= pieces || copied >= limit)
			break;
		if (piece == batch) {
			len = (pieces - i) * sizeof(*piece);
			if (len > sizeof(scratch->batch))
				len = sizeof(scratch->batch);
			if (read_vector(batch, WITHIN(len, sizeof(scratch->batch)), base + i * sizeof(*piece),
					scratch->call.data.in_kernel))
				return -1;
		}
		len = piece->iov_len;
		if (len > limit - copied)
			len = limit - copied;
		if (!len)
			continue;
		if (bpf_probe_read_user(scratch->payload + (copied & (CAPTURE_MAX - 1)), WITHIN(len, CAPTURE_MAX),
					piece->iov_base))
			return -1;
		*total = copied + len;
	}
	return 0;
}

/* The first piece, of which a part belongs to an earlier call. Returns 0 or a negative error. */
STEP int gather_rest(struct scratch *scratch)
{
	const struct user_data *data = &scratch->call.data;
	__u32 limit = scratch->wanted;
	struct iovec piece;
	__u64 len;

	if (read_vector(&piece, sizeof(piece), data->base, data->in_kernel) || piece.iov_len < data->skip)
		return -1;
	len = piece.iov_len - data->skip;
	if (len > limit)
		len = limit;
	if (len && bpf_probe_read_user(scratch->payload, WITHIN(len, CAPTURE_MAX), piece.iov_base + data->skip))
		return -1;
	scratch->gathered = len;
	return 0;
}

/*
 * Copies the first `wanted` bytes of a scattered call. Returns how many there
 * are, or a negative error. A server of gRPC writes hundreds of pieces in one
 * call; what is not read of them loses the place in the stream.
 */
GLOBAL_FUNCTION int gather(struct scratch *scratch)
{
	volatile __u32 *total;
	__u32 pieces;
	__u32 limit;
	__u32 done;
	__u64 base;

	if (!scratch)
		return -1;
	total = &scratch->gathered;
	*total = 0;
	if (scratch->call.data.skip) {
		if (gather_rest(scratch))
			return -1;
		scratch->call.data.base += sizeof(struct iovec);
		scratch->call.data.pieces--;
	}
	base = scratch->call.data.base;
	pieces = scratch->call.data.pieces;
	limit = scratch->wanted;
	for (done = 0; done < IOVEC_MAX; done += IOVEC_ROUND) {
		if (done >= pieces || *total >= limit)
			break;
		if (gather_round(scratch, base + done * sizeof(struct iovec), pieces - done, limit))
			return -1;
	}
	return *total;
}

/*
 * Brings the bytes of a call into the scratch, at most `max`. Returns how many;
 * sets EVENT_UNREAD in `flags` if there are none to be had.
 */
static __always_inline __u32 copy_payload(struct scratch *scratch, __u32 max, __u8 *flags)
{
	int captured;

	if (!scratch->call.data.base) {
		*flags |= EVENT_UNREAD;
		return 0;
	}
	if (scratch->call.data.pieces) {
		captured = gather(scratch);
		if (captured >= 0)
			return clamp_len(captured, max);
	} else {
		captured = clamp_len(scratch->wanted, max);
		if (!bpf_probe_read_user(scratch->payload, captured, (void *)scratch->call.data.base))
			return captured;
	}
	count(STAT_UNREAD);
	*flags |= EVENT_UNREAD;
	return 0;
}

/*
 * A short call from one buffer goes straight into the ring: one copy less. The
 * verifier wants a constant size there, so the record's own length says how
 * much of it is used. False: not such a call, or no room.
 */
static __always_inline bool emit_short(struct scratch *scratch)
{
	__u32 captured = scratch->wanted;
	struct short_event *record;

	if (!HAS_RING || captured > SHORT_MAX || !scratch->call.data.base || scratch->call.data.pieces)
		return false;
	record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
	if (!record)
		return false;
	if (bpf_probe_read_user(record->payload, clamp_len(captured, SHORT_MAX), (void *)scratch->call.data.base)) {
		/* emit_data tries again, and counts */
		bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
		return false;
	}
	record->event = scratch->event;
	record->event.header.length = sizeof(record->event) + captured;
	record->event.captured = captured;
	bpf_ringbuf_submit(record, data_flags(scratch, sizeof(*record)));
	count(STAT_DATA);
	return true;
}

/* Writes the record that the scratch describes. */
STEP void emit_data(void *ctx, struct scratch *scratch)
{
	struct data_event *event = &scratch->event;
	__u32 captured;

	if (emit_short(scratch))
		return;
	captured = copy_payload(scratch, CAPTURE_MAX, &event->header.flags);
	event->header.length = sizeof(*event) + captured;
	event->captured = captured;
	event_output(ctx, scratch, event, clamp_len(sizeof(*event) + captured, sizeof(*event) + CAPTURE_MAX), false);
}

/*
 * A connection whose first byte was not seen: at its first data, in the
 * process's own context. The call that moved `size` bytes is over, so the
 * socket's counters stand behind it: it gets position 0. Rare, so a function of
 * its own, whose stack the way of all other calls does not carry along.
 */
static __noinline struct conn *adopt(const struct call *call)
{
	/* not that of the caller: what a global function was given is no value for a map before 6.2 or so */
	struct scratch *scratch = find_scratch();
	__u32 size = call->size + call->behind;
	struct sock *sk = (struct sock *)call->sk;
	__u64 key = call->sk;
	struct conn *adopted;
	struct conn *conn;
	long failed;

	if (!scratch)
		return NULL;
	conn = &scratch->adopted;
	__builtin_memset(conn, 0, sizeof(*conn));
	conn->flags = CONN_ADOPTED;
	conn->start_ns = bpf_ktime_get_ns();
	/* listen() sets the backlog and accepted sockets are clones of the listener; a connecting socket has none */
	conn->role = LOAD(sk, sk_max_ack_backlog) ? ROLE_SERVER : ROLE_CLIENT;
	read_tuple(&conn->tuple, sk);
	read_bases(conn, sk);
	if (call->sent)
		conn->flows[1].base -= size;
	else
		conn->flows[0].base -= size;
	conn->id = mint_id(conn->role == ROLE_SERVER ? conn->tuple.remote_port : conn->tuple.local_port);
	if (!conn_wanted(conn))
		conn->flags |= CONN_IGNORED;
	failed = bpf_map_update_elem(&conns, &key, conn, BPF_NOEXIST);
	/* if it failed another thread may just have adopted it */
	adopted = bpf_map_lookup_elem(&conns, &key);
	if (failed && !adopted)
		count(STAT_CONNS_FULL);
	return adopted;
}

/* Counts a call and describes its record. False if none is wanted. */
STEP bool note_call(void *ctx, struct scratch *scratch)
{
	const struct call *call = &scratch->call;
	__u64 key = call->sk;
	struct sock *sk = (struct sock *)call->sk;
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 pid = pid_tgid >> 32;
	struct flow_state *flow;
	struct conn *conn;
	struct wish wish;
	bool known;
	__u64 end;

	conn = bpf_map_lookup_elem(&conns, &key);
	if (!conn) {
		if (!pid_wanted(pid) || LOAD(sk, __sk_common.skc_state) == TCP_CLOSE)
			return false;
		conn = adopt(call);
		if (!conn)
			return false;
	}
	/* one test where there is no filter; user space may only now have learnt whose group it is */
	if (conn->flags & (CONN_IGNORED | CONN_FILTERED)) {
		if (conn->flags & CONN_IGNORED)
			return false;
		if (cgroup_ignored(conn->cgroup_id)) {
			conn->flags |= CONN_IGNORED;
			return false;
		}
	}
	if (!conn->id) {
		/* TCP Fast Open: data before there is a connection */
		if (LOAD(sk, __sk_common.skc_state) == TCP_SYN_SENT) {
			count(STAT_UNREAD);
			return false;
		}
		/* the kernel left on_set_state out when it was made */
		bpf_map_delete_elem(&conns, &key);
		conn = adopt(call);
		if (!conn || conn->flags & CONN_IGNORED)
			return false;
	}
	known = conn->flags & CONN_ANNOUNCED;
	/* a client's process is known, but not yet judged */
	if ((conn->pid != pid || !known) && !pid_wanted(pid))
		return false;
	if (conn->pid != pid && !(conn->pid && works_for_another())) {
		read_process(conn);
		if (cgroup_ignored(conn->cgroup_id)) {
			conn->flags |= CONN_IGNORED;
			return false;
		}
		if (known)
			report_owner(ctx, conn);
	}
	if (!known)
		announce(ctx, conn);

	flow = call->sent ? &conn->flows[1] : &conn->flows[0];
	end = position_after(flow, sk, call->size + call->behind, call->sent) - call->behind;
	flow->position = end;
	flow->calls++;
	read_quality(conn, sk);
	if (conn->flags & CONN_QUIET)
		return false;
	wish = read_wish(conn, call->sent);
	/* the call that reaches the position of interest is reported: it tells when the part before it was over */
	if (end < wish.from || wish.from == CONTROL_NEVER) {
		count(STAT_COUNTED);
		return false;
	}
	scratch->event.header.kind = EVENT_DATA;
	scratch->event.header.flags = call->sent ? EVENT_SENT : 0;
	scratch->event.header._pad = 0;
	scratch->event.header.time_ns = bpf_ktime_get_ns();
	scratch->event.header.connection_id = conn->id;
	scratch->event.header.pid = pid;
	scratch->event.header.tid = pid_tgid;
	scratch->event.offset = end - call->size;
	scratch->event.size = call->size;
	scratch->wanted = call->size < wish.limit ? call->size : wish.limit;
	return true;
}

/* The core: a call is over. */
static __always_inline void on_data(void *ctx, struct scratch *scratch)
{
	if (note_call(ctx, scratch))
		emit_data(ctx, scratch);
}

#endif /* REMORA_DATA_H */
