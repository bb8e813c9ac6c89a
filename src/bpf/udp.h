/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The core for UDP: a datagram that went through a socket becomes a record.
 * There is no opening and no end: a socket is met at its first datagram, and
 * forgotten by user space when it has been silent for long.
 */
#ifndef REMORA_UDP_H
#define REMORA_UDP_H

#include "data.h"

struct far_end {
	__u8 address[ADDRESS_LEN];
	__u16 port; /* host byte order; 0: not known */
	__u16 _pad[3];
};

/* The message header of a datagram: where its bytes are, and its other end if the kernel has written it, or the program has. */
static __always_inline void read_datagram_header(struct call *call, __u64 header, bool named)
{
	struct message_head head;

	/* if it fails all are 0 */
	bpf_probe_read_user(&head, sizeof(head), (void *)header);
	set_vector(&call->data, head.vector, head.pieces);
	call->name = named && head.name_len ? head.name : 0;
}

/* The name of the call, else the end that the socket is connected to. */
static __always_inline void read_far_end(struct far_end *end, struct sock *sk, struct scratch *scratch)
{
	struct sockaddr_in6 *there = (struct sockaddr_in6 *)scratch->batch;
	struct sockaddr_in *v4 = (struct sockaddr_in *)scratch->batch;
	const struct call *call = &scratch->call;

	__builtin_memset(end, 0, sizeof(*end));
	if (call->name && !read_vector(there, sizeof(struct sockaddr_in), call->name, call->name_in_kernel)) {
		if (v4->sin_family == AF_INET) {
			map_v4(end->address, v4->sin_addr.s_addr);
			end->port = bpf_ntohs(v4->sin_port);
			return;
		}
		if (v4->sin_family == AF_INET6 &&
		    !read_vector(there, sizeof(*there), call->name, call->name_in_kernel)) {
			__builtin_memcpy(end->address, &there->sin6_addr, ADDRESS_LEN);
			end->port = bpf_ntohs(there->sin6_port);
			return;
		}
	}
	end->port = bpf_ntohs(LOAD(sk, __sk_common.skc_dport));
	if (!end->port)
		return;
	if (LOAD(sk, __sk_common.skc_family) == AF_INET6 && bpf_core_field_exists(sk->__sk_common.skc_v6_daddr))
		BPF_CORE_READ_INTO(&end->address, sk, __sk_common.skc_v6_daddr.in6_u.u6_addr8);
	else
		map_v4(end->address, LOAD(sk, __sk_common.skc_daddr));
}

static __always_inline void announce_udp(void *ctx, struct udp_socket *socket, struct sock *sk,
					 const struct far_end *end)
{
	struct udp_open_event *event = event_reserve(sizeof(*event), EVENT_UDP_OPEN);

	if (!event)
		return;
	/* not later than its first datagram: records of perf buffers are put in order by time */
	event->header.time_ns = socket->last_ns;
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
	event_submit(ctx, event);
	socket->flags |= UDP_ANNOUNCED;
}

static __always_inline void report_udp_owner(void *ctx, struct udp_socket *socket, __u32 pid)
{
	struct owner_event *event;

	socket->pid = pid;
	event = event_reserve(sizeof(*event), EVENT_OWNER);
	if (!event)
		return;
	event->header.time_ns = socket->last_ns;
	event->header.connection_id = socket->id;
	event->header.pid = pid;
	event->header.tid = bpf_get_current_pid_tgid();
	event->cgroup_id = current_cgroup_id();
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	event_submit(ctx, event);
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
static __noinline struct udp_socket *new_udp(const struct call *call, const struct far_end *end, __u32 pid, __u64 now)
{
	struct scratch *scratch = find_scratch();
	__u64 key = call->inode;
	struct udp_socket *met;

	if (!scratch)
		return NULL;
	met = &scratch->met;
	*met = (struct udp_socket){ .last_ns = now };
	begin_udp(met, (struct sock *)call->sk, end, call->sent, pid);
	/* if it fails another thread has just done the same */
	if (bpf_map_update_elem(&udp_sockets, &key, met, BPF_NOEXIST) == -12 /* ENOMEM */)
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

/* Counts a datagram and describes its record. False if none is wanted. */
STEP bool note_datagram(void *ctx, struct scratch *scratch)
{
	const struct call *call = &scratch->call;
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct datagram_event *event;
	struct udp_socket *socket;
	__u32 pid = pid_tgid >> 32;
	struct far_end end;
	struct sock *sk;
	__u64 number;
	bool hurry;
	__u64 seen;
	__u64 key;
	__u64 now;

	key = call->inode;
	socket = bpf_map_lookup_elem(&udp_sockets, &key);
	/* one test where there is no filter */
	if (socket && socket->flags & (UDP_DISMISSED | UDP_IGNORED | UDP_FILTERED)) {
		if (!(socket->flags & (UDP_DISMISSED | UDP_IGNORED)) && cgroup_ignored(current_cgroup_id()))
			socket->flags |= UDP_IGNORED;
		if (socket->flags & (UDP_DISMISSED | UDP_IGNORED)) {
			count(STAT_COUNTED);
			return false;
		}
	}
	if (!pid_wanted(pid))
		return false;
	now = bpf_ktime_get_ns();
	sk = (struct sock *)call->sk;
	read_far_end(&end, sk, scratch);
	if (!socket) {
		socket = new_udp(call, &end, pid, now);
		if (!socket || socket->flags & UDP_IGNORED)
			return false;
	}
	seen = socket->last_ns;
	/* after a long silence user space may have forgotten it; of several threads one begins anew */
	if (now > seen + UDP_SILENCE_NS) {
		if (replace_word(&socket->last_ns, seen, now))
			begin_udp(socket, sk, &end, call->sent, pid);
	} else {
		socket->last_ns = now;
	}
	if (!(socket->flags & UDP_ANNOUNCED))
		announce_udp(ctx, socket, sk, &end);
	else if (socket->pid != pid)
		report_udp_owner(ctx, socket, pid);
	number = take_number(&socket->numbers[call->sent & 1]);
	if (socket->flags & UDP_QUIET)
		return false;
	hear_verdict(socket);
	if (socket->flags & UDP_DISMISSED || (!(socket->flags & UDP_CLAIMED) && leads_too_far(socket))) {
		count(STAT_COUNTED);
		return false;
	}
	/* lively, and not judged yet */
	hurry = !(socket->flags & UDP_CLAIMED) && socket->numbers[0] + socket->numbers[1] == UNCLAIMED_HURRY;
	event = &scratch->datagram;
	event->header.kind = EVENT_DATAGRAM;
	event->header.flags = call->sent ? EVENT_SENT : 0;
	event->header._pad = 0;
	event->header.time_ns = socket->last_ns;
	event->header.connection_id = socket->id;
	event->header.pid = pid;
	event->header.tid = pid_tgid;
	event->number = number;
	event->size = call->size;
	__builtin_memcpy(event->remote, end.address, ADDRESS_LEN);
	event->remote_port = end.port;
	__builtin_memset(event->_pad, 0, sizeof(event->_pad));
	scratch->wanted = call->size < settings.capture_len ? call->size : settings.capture_len;
	scratch->hurry = hurry;
	/* a receive may have had no room for all that it reports */
	if (!call->data.pieces && scratch->wanted > call->room)
		scratch->wanted = call->room;
	return true;
}

/* Writes the record that the scratch describes. */
STEP void emit_datagram(void *ctx, struct scratch *scratch)
{
	struct datagram_event *event = &scratch->datagram;
	__u32 captured;

	captured = copy_payload(scratch, DATAGRAM_MAX, &event->header.flags);
	if (!scratch->call.data.base)
		count(STAT_UNREAD);
	event->header.length = sizeof(*event) + captured;
	event->captured = captured;
	event_output(ctx, scratch, event, clamp_len(sizeof(*event) + captured, sizeof(*event) + DATAGRAM_MAX),
		     scratch->hurry);
}

/* The core: a call is over. */
GLOBAL_FUNCTION int on_datagram(__u64 ctx, struct scratch *scratch)
{
	if (scratch && note_datagram((void *)ctx, scratch))
		emit_datagram((void *)ctx, scratch);
	return 0;
}

#endif /* REMORA_UDP_H */
