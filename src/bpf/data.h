/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The core: bytes moved through a socket become a data record. Every hook
 * family ends here, after one call of the watched process is over.
 */
#ifndef REMORA_DATA_H
#define REMORA_DATA_H

#include "conn.h"

/* Where in user memory the bytes of a call are. */
struct user_data {
	__u64 base;  /* the buffer, or the first struct iovec */
	__u64 count; /* 0: base is the buffer; else the number of iovecs */
};

/* How struct user_msghdr begins in user memory. What follows in it is not wanted, and would cost stack. */
struct message_head {
	__u64 name;
	__u32 name_len;
	__u32 _pad;
	struct user_data data;
};

/* The bytes of this call are not in user memory (sendfile, splice, io_uring): lengths only. */
#define NO_USER_DATA ((struct user_data){ 0, 0 })

/* Not every receive takes bytes of the stream: looking ahead, the error queue, and urgent data, which has no place in it. */
static __always_inline bool takes_bytes(__u32 flags)
{
	return !(flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE));
}

/* clang folds two clamps of one value into one that the verifier does not follow; the empty asm keeps them apart. */
static __always_inline __u32 clamp_len(__u64 len, __u32 max)
{
	if (len > max)
		len = max;
	asm volatile("" : "+r"(len));
	if (len > max)
		len = max;
	return len;
}

static __always_inline void read_msghdr(struct user_data *data, __u64 header)
{
	/* if it fails both are 0 */
	bpf_probe_read_user(data, sizeof(*data), (void *)(header + offsetof(struct message_head, data)));
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

/*
 * Copies the bytes of IOVEC_ROUND pieces behind those copied before, up to
 * `limit` in all. Returns 0 or a negative error. A global function, so that
 * the verifier walks its loop once instead of once per caller; the running
 * total lives in memory, so that all paths through a round look alike to it
 * and it need not walk them all again in the next one.
 */
__weak __noinline int gather_round(struct scratch *scratch, __u64 base, __u64 pieces, __u32 limit)
{
	volatile __u32 *total;
	struct iovec *batch;
	__u32 i;

	if (!scratch)
		return -1;
	total = &scratch->event.captured;
	batch = scratch->batch;
	for (i = 0; i < IOVEC_ROUND; i++) {
		struct iovec *piece = &batch[i & (IOVEC_BATCH - 1)];
		__u32 copied = *total;
		__u32 len;

		if (i >= pieces || copied >= limit)
			break;
		if (piece == batch) {
			__u64 left = (pieces - i) * sizeof(*piece);

			if (bpf_probe_read_user(batch, clamp_len(left, sizeof(scratch->batch)),
						(void *)(base + i * sizeof(*piece))))
				return -1;
		}
		len = piece->iov_len > limit - copied ? limit - copied : piece->iov_len;
		len = clamp_len(len, CAPTURE_MAX);
		if (bpf_probe_read_user(scratch->payload + (copied & (CAPTURE_MAX - 1)), len, piece->iov_base))
			return -1;
		*total = copied + len;
	}
	return 0;
}

/*
 * Copies the first `limit` bytes of a scattered call. Returns how many there
 * are, or a negative error. A server of gRPC writes hundreds of pieces in one
 * call; what is not read of them loses the place in the stream.
 */
__weak __noinline int gather(struct scratch *scratch, __u64 base, __u64 pieces, __u32 limit)
{
	volatile __u32 *total;
	__u32 done;

	if (!scratch)
		return -1;
	total = &scratch->event.captured;
	*total = 0;
	for (done = 0; done < IOVEC_MAX; done += IOVEC_ROUND) {
		if (done >= pieces || *total >= limit)
			break;
		if (gather_round(scratch, base + done * sizeof(struct iovec), pieces - done, limit))
			return -1;
	}
	return *total;
}

/* As submit_flags, but looks at the ring only once in a while: its positions are shared with the reader and dear to read. */
static __always_inline __u64 data_flags(struct scratch *scratch, __u32 length)
{
	scratch->since_look += length;
	if (reader_wake == WAKE_ON_BYTES && scratch->since_look < settings.wake_bytes >> WAKE_LOOK_LOG2)
		return BPF_RB_NO_WAKEUP;
	scratch->since_look = 0;
	return submit_flags();
}

static __always_inline void fill_data(struct data_event *event, const struct conn *conn, __u64 offset, __u32 size,
				      __u32 captured, __u8 flags, __u64 pid_tgid)
{
	event->header.length = sizeof(*event) + captured;
	event->header.kind = EVENT_DATA;
	event->header.flags = flags;
	event->header._pad = 0;
	event->header.time_ns = bpf_ktime_get_ns();
	event->header.connection_id = conn->id;
	event->header.pid = pid_tgid >> 32;
	event->header.tid = pid_tgid;
	event->offset = offset;
	event->size = size;
	event->captured = captured;
}

/*
 * A short call from one buffer goes straight into the ring: one copy less. The
 * verifier wants a constant size there, so the record's own length says how
 * much of it is used. False: not such a call, or no room.
 */
static __always_inline bool emit_short(struct scratch *scratch, const struct conn *conn, __u64 offset, __u32 size,
				       bool sent, const struct user_data *data, __u32 limit, __u64 pid_tgid)
{
	__u32 captured = size < limit ? size : limit;
	struct short_event *record;

	if (captured > SHORT_MAX || !data->base || data->count)
		return false;
	record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
	if (!record)
		return false;
	if (bpf_probe_read_user(record->payload, clamp_len(captured, SHORT_MAX), (void *)data->base)) {
		/* emit_data tries again, and counts */
		bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
		return false;
	}
	fill_data(&record->event, conn, offset, size, captured, sent ? EVENT_SENT : 0, pid_tgid);
	bpf_ringbuf_submit(record, data_flags(scratch, sizeof(*record)));
	count(STAT_DATA);
	return true;
}

static __always_inline void emit_data(struct scratch *scratch, const struct conn *conn, __u64 offset, __u32 size,
				      bool sent, const struct user_data *data, __u32 limit, __u64 pid_tgid)
{
	__u32 captured = clamp_len(size < limit ? size : limit, CAPTURE_MAX);
	__u8 flags = sent ? EVENT_SENT : 0;
	struct data_event *event = &scratch->event;
	__u32 length;

	if (!data->base) {
		captured = 0;
		flags |= EVENT_UNREAD;
	} else if (data->count) {
		int gathered = gather(scratch, data->base, data->count, captured);

		if (gathered < 0) {
			count(STAT_UNREAD);
			flags |= EVENT_UNREAD;
			gathered = 0;
		}
		captured = clamp_len(gathered, CAPTURE_MAX);
	} else if (bpf_probe_read_user(scratch->payload, captured, (void *)data->base)) {
		count(STAT_UNREAD);
		flags |= EVENT_UNREAD;
		captured = 0;
	}
	length = sizeof(*event) + captured;
	fill_data(event, conn, offset, size, captured, flags, pid_tgid);
	if (bpf_ringbuf_output(&events, scratch, clamp_len(length, sizeof(*event) + CAPTURE_MAX),
			       data_flags(scratch, length)))
		count(STAT_RING_FULL);
	else
		count(STAT_DATA);
}

/*
 * A connection whose first byte was not seen: at its first data, in the
 * process's own context. The call that moved `size` bytes is over, so the
 * socket's counters stand behind it: it gets position 0. Rare, so a function of
 * its own, whose stack the way of all other calls does not carry along.
 */
static __noinline struct conn *adopt(struct sock *sk, __u32 size, bool sent)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct scratch *scratch = bpf_map_lookup_elem(&scratches, &cpu);
	__u64 key = (__u64)sk;
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
	if (sent)
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

/*
 * `size` bytes went through `sk`; the last of several such calls reported
 * together has `behind` 0, the others the bytes that follow them.
 */
static __always_inline void on_data(struct sock *sk, __u32 size, __u32 behind, bool sent, const struct user_data *data)
{
	__u64 key = (__u64)sk;
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 pid = pid_tgid >> 32;
	struct scratch *scratch;
	struct flow_state *flow;
	struct conn *conn;
	struct wish wish;
	bool known;
	__u32 cpu;
	__u64 end;

	conn = bpf_map_lookup_elem(&conns, &key);
	if (!conn) {
		if (!pid_wanted(pid) || LOAD(sk, __sk_common.skc_state) == TCP_CLOSE)
			return;
		conn = adopt(sk, size + behind, sent);
		if (!conn)
			return;
	}
	/* one test where there is no filter; user space may only now have learnt whose group it is */
	if (conn->flags & (CONN_IGNORED | CONN_FILTERED)) {
		if (conn->flags & CONN_IGNORED)
			return;
		if (cgroup_ignored(conn->cgroup_id)) {
			conn->flags |= CONN_IGNORED;
			return;
		}
	}
	/* TCP Fast Open: data before there is a connection */
	if (!conn->id) {
		count(STAT_UNREAD);
		return;
	}
	known = conn->flags & CONN_ANNOUNCED;
	/* a client's process is known, but not yet judged */
	if ((conn->pid != pid || !known) && !pid_wanted(pid))
		return;
	if (conn->pid != pid) {
		read_process(conn);
		if (cgroup_ignored(conn->cgroup_id)) {
			conn->flags |= CONN_IGNORED;
			return;
		}
		if (known)
			report_owner(conn);
	}
	if (!known)
		announce(conn);

	flow = sent ? &conn->flows[1] : &conn->flows[0];
	end = position_after(flow, sk, size + behind, sent) - behind;
	flow->position = end;
	flow->calls++;
	read_quality(conn, sk);
	if (conn->flags & CONN_QUIET)
		return;
	wish = read_wish(conn, sent);
	/* the call that reaches the position of interest is reported: it tells when the part before it was over */
	if (end < wish.from || wish.from == CONTROL_NEVER) {
		count(STAT_COUNTED);
		return;
	}
	cpu = bpf_get_smp_processor_id();
	scratch = bpf_map_lookup_elem(&scratches, &cpu);
	if (!scratch)
		return;
	if (!emit_short(scratch, conn, end - size, size, sent, data, wish.limit, pid_tgid))
		emit_data(scratch, conn, end - size, size, sent, data, wish.limit, pid_tgid);
}

#endif /* REMORA_DATA_H */
