/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The core for UDP: a datagram that went through a socket becomes a record.
 * There is no opening and no end: a socket is met at its first datagram, and
 * forgotten by user space when it has been silent for long.
 */
#ifndef REMORA_UDP_H
#define REMORA_UDP_H

#include "data.h"

/* One call that moved a datagram, as both hook families see it. */
struct datagram_call {
	struct message_head message; /* where its bytes are, and the struct sockaddr of the other end; 0: none */
	__u64 sk;
	__u64 inode; /* number of the socket's inode */
	__u32 room;  /* bytes of a single buffer: a receive may report more than it stored (MSG_TRUNC) */
	__u32 size;  /* bytes of the datagram */
	__u8 sent;
	__u8 _pad[7];
};

struct far_end {
	__u8 address[ADDRESS_LEN];
	__u16 port; /* host byte order; 0: not known */
	__u16 _pad[3];
};

/* The message header of a datagram: where its bytes are, and its other end if the kernel has written it, or the program has. */
static __always_inline void read_datagram_header(struct datagram_call *call, __u64 header, bool named)
{
	/* if it fails all are 0 */
	bpf_probe_read_user(&call->message, sizeof(call->message), (void *)header);
	if (!named || !call->message.name_len)
		call->message.name = 0;
}

/* The name of the call, else the end that the socket is connected to. */
static __always_inline void read_far_end(struct far_end *end, struct sock *sk, __u64 name)
{
	struct sockaddr_in6 there;
	struct sockaddr_in *v4 = (struct sockaddr_in *)&there;

	__builtin_memset(end, 0, sizeof(*end));
	if (name && !bpf_probe_read_user(&there, sizeof(struct sockaddr_in), (void *)name)) {
		if (v4->sin_family == AF_INET) {
			map_v4(end->address, v4->sin_addr.s_addr);
			end->port = bpf_ntohs(v4->sin_port);
			return;
		}
		if (v4->sin_family == AF_INET6 && !bpf_probe_read_user(&there, sizeof(there), (void *)name)) {
			__builtin_memcpy(end->address, &there.sin6_addr, ADDRESS_LEN);
			end->port = bpf_ntohs(there.sin6_port);
			return;
		}
	}
	end->port = bpf_ntohs(LOAD(sk, __sk_common.skc_dport));
	if (!end->port)
		return;
	if (LOAD(sk, __sk_common.skc_family) == AF_INET6)
		BPF_CORE_READ_INTO(&end->address, sk, __sk_common.skc_v6_daddr.in6_u.u6_addr8);
	else
		map_v4(end->address, LOAD(sk, __sk_common.skc_daddr));
}

static __always_inline void announce_udp(struct udp_socket *socket, struct sock *sk, const struct far_end *end)
{
	struct udp_open_event *event = event_reserve(sizeof(*event), EVENT_UDP_OPEN);

	if (!event)
		return;
	event->header.connection_id = socket->id;
	event->header.pid = socket->pid;
	event->header.tid = bpf_get_current_pid_tgid();
	read_tuple(&event->tuple, sk);
	/* whoever names the other end in each call has no other */
	__builtin_memcpy(event->tuple.remote, end->address, ADDRESS_LEN);
	event->tuple.remote_port = end->port;
	event->cgroup_id = current_cgroup_id();
	event->start_ns = socket->last_ns;
	event->role = socket->role;
	__builtin_memset(event->_pad, 0, sizeof(event->_pad));
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	event_submit(event);
	socket->flags |= UDP_ANNOUNCED;
}

static __always_inline void report_udp_owner(struct udp_socket *socket, __u32 pid)
{
	struct owner_event *event;

	socket->pid = pid;
	event = event_reserve(sizeof(*event), EVENT_OWNER);
	if (!event)
		return;
	event->header.connection_id = socket->id;
	event->header.pid = pid;
	event->header.tid = bpf_get_current_pid_tgid();
	event->cgroup_id = current_cgroup_id();
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	event_submit(event);
}

/*
 * Who is connected, or has not chosen its port, asks. Of the others who speaks
 * first is the client, but that is a guess: the beginning may have been missed.
 */
static __always_inline bool is_surely_client(struct sock *sk)
{
	return LOAD(sk, __sk_common.skc_dport) ||
	       !(BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks) & SOCK_BINDPORT_LOCK);
}

/* A conversation begins: fills the state anew. */
static __always_inline void begin_udp(struct udp_socket *socket, struct sock *sk, const struct far_end *end, bool sent,
				      __u32 pid)
{
	__u16 local_port = LOAD(sk, __sk_common.skc_num);
	bool surely = is_surely_client(sk);
	bool client = surely || sent;
	__u16 server_port = client ? end->port : local_port;
	__u8 flags = 0;

	if (client ? surely && !settings.watch_client : !settings.watch_server)
		flags |= UDP_QUIET;
	if (settings.filter_ports && !bpf_map_lookup_elem(&ports, &local_port) &&
	    !bpf_map_lookup_elem(&ports, &end->port))
		flags |= UDP_IGNORED;
	if (settings.filter_cgroups)
		flags |= cgroup_ignored(current_cgroup_id()) ? UDP_IGNORED : UDP_FILTERED;
	if (local_port == EAGER_PORT || end->port == EAGER_PORT)
		flags |= UDP_EAGER;
	socket->numbers[0] = 0;
	socket->numbers[1] = 0;
	socket->pid = pid;
	socket->role = client ? ROLE_CLIENT : ROLE_SERVER;
	socket->flags = flags;
	/* a server socket does not know of one client only, so it is the server's port that both have */
	socket->id = mint_id(server_port);
}

/* Of its own, as `adopt`. */
static __noinline struct udp_socket *new_udp(struct sock *sk, const struct far_end *end,
					     const struct datagram_call *call, __u32 pid, __u64 now)
{
	struct udp_socket fresh = { .last_ns = now };
	__u64 key = call->inode;

	begin_udp(&fresh, sk, end, call->sent, pid);
	/* if it fails another thread has just done the same */
	if (bpf_map_update_elem(&udp_sockets, &key, &fresh, BPF_NOEXIST) == -12 /* ENOMEM */)
		count(STAT_CONNS_FULL);
	return bpf_map_lookup_elem(&udp_sockets, &key);
}

/* What user space has said of the socket since: that it wants its datagrams, or that nobody does, which is the last word. */
static __always_inline void hear_verdict(struct udp_socket *socket)
{
	__u64 number = socket->id >> 8;
	__u32 slot = number & (CONTROL_SLOTS - 1);
	struct capture_wish *control = bpf_map_lookup_elem(&wishes, &slot);

	if (!control)
		return;
	if (control_value(control->from_received, number, 0) == CONTROL_NEVER)
		socket->flags |= UDP_DISMISSED;
	else if (control_value(control->limit, number, 0))
		socket->flags |= UDP_CLAIMED;
}

/*
 * While nobody has claimed the socket, user space sees it as long as its
 * datagrams go to and fro: a flood is cut off long before user space can say
 * anything, and a server that answers is seen whole.
 */
static __always_inline bool leads_too_far(const struct udp_socket *socket)
{
	__s64 lead = socket->numbers[1] - socket->numbers[0];

	if (lead < 0)
		lead = -lead;
	return lead > (socket->flags & UDP_EAGER ? UNCLAIMED_LEAD_EAGER : UNCLAIMED_LEAD);
}

/* Writes a record with room for `max` bytes; `captured` of them are wanted. */
static __always_inline void put_datagram(struct scratch *scratch, struct udp_socket *socket,
					 const struct datagram_call *call, const struct far_end *end, __u64 number,
					 __u32 captured, __u32 max, bool hurry)
{
	struct datagram_event *event = bpf_ringbuf_reserve(&events, sizeof(*event) + max, 0);
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u8 flags = call->sent ? EVENT_SENT : 0;
	__u64 submit;

	if (!event) {
		count(STAT_RING_FULL);
		return;
	}
	captured = clamp_len(captured, max);
	if (!call->message.data.base) {
		flags |= EVENT_UNREAD;
	} else if (call->message.data.count) {
		int gathered = gather(scratch, call->message.data.base, call->message.data.count, captured);

		if (gathered < 0 || bpf_probe_read_kernel(event + 1, clamp_len(gathered, max), scratch->payload))
			flags |= EVENT_UNREAD;
		else
			captured = clamp_len(gathered, max);
	} else if (bpf_probe_read_user(event + 1, captured, (void *)call->message.data.base)) {
		flags |= EVENT_UNREAD;
	}
	if (flags & EVENT_UNREAD) {
		count(STAT_UNREAD);
		captured = 0;
	}
	event->header.length = sizeof(*event) + captured;
	event->header.kind = EVENT_DATAGRAM;
	event->header.flags = flags;
	event->header._pad = 0;
	event->header.time_ns = socket->last_ns;
	event->header.connection_id = socket->id;
	event->header.pid = pid_tgid >> 32;
	event->header.tid = pid_tgid;
	event->number = number;
	event->size = call->size;
	event->captured = captured;
	__builtin_memcpy(event->remote, end->address, ADDRESS_LEN);
	event->remote_port = end->port;
	__builtin_memset(event->_pad, 0, sizeof(event->_pad));
	count(STAT_DATA);
	submit = data_flags(scratch, event->header.length);
	if (hurry) {
		reader_wake = WAKE_NEVER;
		submit = BPF_RB_FORCE_WAKEUP;
	}
	bpf_ringbuf_submit(event, submit);
}

/* The core. A global function: the verifier walks it once. */
__weak __noinline int on_datagram(struct datagram_call *call)
{
	struct udp_socket *socket;
	struct scratch *scratch;
	struct far_end end;
	struct sock *sk;
	__u32 pid;
	__u64 now;
	__u32 captured;
	__u64 number;
	bool hurry;
	__u64 seen;
	__u32 cpu;
	__u64 key;

	if (!call)
		return 0;
	key = call->inode;
	socket = bpf_map_lookup_elem(&udp_sockets, &key);
	/* one test where there is no filter */
	if (socket && socket->flags & (UDP_DISMISSED | UDP_IGNORED | UDP_FILTERED)) {
		if (!(socket->flags & (UDP_DISMISSED | UDP_IGNORED)) && cgroup_ignored(current_cgroup_id()))
			socket->flags |= UDP_IGNORED;
		if (socket->flags & (UDP_DISMISSED | UDP_IGNORED)) {
			count(STAT_COUNTED);
			return 0;
		}
	}
	pid = bpf_get_current_pid_tgid() >> 32;
	if (!pid_wanted(pid))
		return 0;
	now = bpf_ktime_get_ns();
	sk = (struct sock *)call->sk;
	read_far_end(&end, sk, call->message.name);
	if (!socket) {
		socket = new_udp(sk, &end, call, pid, now);
		if (!socket || socket->flags & UDP_IGNORED)
			return 0;
	}
	seen = socket->last_ns;
	/* after a long silence user space may have forgotten it; of several threads one begins anew */
	if (now > seen + UDP_SILENCE_NS) {
		if (__sync_val_compare_and_swap(&socket->last_ns, seen, now) == seen)
			begin_udp(socket, sk, &end, call->sent, pid);
	} else {
		socket->last_ns = now;
	}
	if (!(socket->flags & UDP_ANNOUNCED))
		announce_udp(socket, sk, &end);
	else if (socket->pid != pid)
		report_udp_owner(socket, pid);
	number = __sync_fetch_and_add(&socket->numbers[call->sent & 1], 1);
	if (socket->flags & UDP_QUIET)
		return 0;
	hurry = false;
	hear_verdict(socket);
	if (socket->flags & UDP_DISMISSED || (!(socket->flags & UDP_CLAIMED) && leads_too_far(socket))) {
		count(STAT_COUNTED);
		return 0;
	}
	/* lively, and not judged yet */
	if (!(socket->flags & UDP_CLAIMED))
		hurry = socket->numbers[0] + socket->numbers[1] == UNCLAIMED_HURRY;
	cpu = bpf_get_smp_processor_id();
	scratch = bpf_map_lookup_elem(&scratches, &cpu);
	if (!scratch)
		return 0;
	captured = call->size < settings.capture_len ? call->size : settings.capture_len;
	if (call->message.data.count == 1) {
		struct iovec piece;

		if (bpf_probe_read_user(&piece, sizeof(piece), (void *)call->message.data.base))
			piece.iov_base = NULL;
		call->message.data.base = (__u64)piece.iov_base;
		call->message.data.count = 0;
		call->room = piece.iov_len > call->size ? call->size : piece.iov_len;
	}
	if (!call->message.data.count && captured > call->room)
		captured = call->room;
	if (captured <= DATAGRAM_SHORT)
		put_datagram(scratch, socket, call, &end, number, captured, DATAGRAM_SHORT, hurry);
	else if (captured <= SHORT_MAX)
		put_datagram(scratch, socket, call, &end, number, captured, SHORT_MAX, hurry);
	else
		put_datagram(scratch, socket, call, &end, number, captured, DATAGRAM_MAX, hurry);
	return 0;
}

#endif /* REMORA_UDP_H */
