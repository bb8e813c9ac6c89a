/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The life of a connection: from a socket to struct conn, and its events but for data. */
#ifndef REMORA_CONN_H
#define REMORA_CONN_H

#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "cgroup.h"
#include "transport.h"

static __always_inline void map_v4(__u8 *to, __u32 address)
{
	__builtin_memset(to, 0, 10);
	to[10] = 0xff;
	to[11] = 0xff;
	__builtin_memcpy(to + 12, &address, 4);
}

/* IPPROTO_TCP, IPPROTO_UDP …; 0 for sockets that are not of IPv4 or IPv6. */
static __always_inline __u32 inet_protocol(struct sock *sk)
{
	__u16 family = LOAD(sk, __sk_common.skc_family);

	return family == AF_INET || family == AF_INET6 ? SOCK_PROTOCOL(sk) : 0;
}

static __always_inline bool is_tcp(struct sock *sk)
{
	return inet_protocol(sk) == IPPROTO_TCP;
}

static __always_inline void read_tuple(struct socket_tuple *tuple, struct sock *sk)
{
	if (LOAD(sk, __sk_common.skc_family) == AF_INET6 && bpf_core_field_exists(sk->__sk_common.skc_v6_daddr)) {
		BPF_CORE_READ_INTO(&tuple->local, sk, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr8);
		BPF_CORE_READ_INTO(&tuple->remote, sk, __sk_common.skc_v6_daddr.in6_u.u6_addr8);
	} else {
		map_v4(tuple->local, LOAD(sk, __sk_common.skc_rcv_saddr));
		map_v4(tuple->remote, LOAD(sk, __sk_common.skc_daddr));
	}
	tuple->local_port = LOAD(sk, __sk_common.skc_num);
	/* a failed connect has given its port back, but not yet forgotten it */
	if (!tuple->local_port)
		tuple->local_port = bpf_ntohs(LOAD((struct inet_sock *)sk, inet_sport));
	tuple->remote_port = bpf_ntohs(LOAD(sk, __sk_common.skc_dport));
	tuple->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
}

/*
 * The low byte is equal for both ends, so that they meet in one worker: a hash of the client's port, which they agree on even where
 * the server's address and port are rewritten on the way. 0 if there is no number, which more than NUMBERS minting at once would take.
 */
static __always_inline __u64 mint_id(__u16 port)
{
	__u64 number;
	__u64 next;

	if (bpf_map_pop_elem(&numbers, &number)) {
		count(STAT_CONNS_FULL);
		return 0;
	}
	next = number + NUMBERS;
	bpf_map_push_elem(&numbers, &next, BPF_ANY);
	port ^= port >> 8;
	return number << 8 | (port & 0xff);
}

static __always_inline void read_process(struct conn *conn)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();

	conn->pid = pid_tgid >> 32;
	conn->tid = pid_tgid;
	conn->cgroup_id = current_cgroup_id();
	bpf_get_current_comm(conn->comm, sizeof(conn->comm));
	if (settings.filter_cgroups)
		conn->flags |= CONN_FILTERED;
}

/*
 * A thread of the kernel, such as io_uring had for what it could not do at
 * once before 5.12 (3bfe6106693b): it has the memory of a process, not its name.
 */
static __always_inline bool works_for_another(void)
{
	return LOAD(CURRENT_TASK(), flags) & PF_KTHREAD;
}

/* Position 0 of each direction is the next byte that the program writes or reads. */
static __always_inline void read_bases(struct conn *conn, struct sock *sk)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;

	conn->flows[0].base = LOAD(tp, copied_seq);
	conn->flows[1].base = LOAD(tp, write_seq);
	conn->retransmits_base = LOAD(tp, total_retrans);
}

/* Reading stops after the last byte, whoever shut the socket down; only a FIN takes a sequence number of its own. */
static __always_inline bool fin_arrived(struct sock *sk)
{
	return LOAD(sk, __sk_common.skc_flags) & 1UL << SOCK_DONE;
}

static __always_inline void read_quality(struct conn *conn, struct sock *sk)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;

	conn->retransmits = LOAD(tp, total_retrans) - conn->retransmits_base;
	conn->srtt_us = LOAD(tp, srtt_us) >> 3;
}

static __always_inline bool pid_wanted(__u32 pid)
{
	if (pid == settings.own_pid)
		return false;
	return !settings.filter_pids || bpf_map_lookup_elem(&pids, &pid);
}

/*
 * Decided once the ports are known: what is not wanted is ignored for good.
 * The life of the side that is not watched is reported all the same: it costs
 * little, and names the peer of the side that is.
 */
static __always_inline bool conn_wanted(struct conn *conn)
{
	const struct socket_tuple *tuple = &conn->tuple;

	if (conn->role == ROLE_CLIENT ? !settings.watch_client : !settings.watch_server)
		conn->flags |= CONN_QUIET;
	if (conn->role == ROLE_SERVER && settings.own_port && tuple->local_port == settings.own_port &&
	    tuple->netns == settings.own_netns)
		return false;
	if (!settings.filter_ports)
		return true;
	return bpf_map_lookup_elem(&ports, &tuple->local_port) || bpf_map_lookup_elem(&ports, &tuple->remote_port);
}

/* The sequence number of the next byte that the program writes or reads. */
static __always_inline __u32 sequence_of(struct sock *sk, bool sent)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;
	__u32 sequence;

	if (sent)
		return LOAD(tp, write_seq);
	sequence = LOAD(tp, copied_seq);
	/* a FIN that was read counts one */
	if (fin_arrived(sk) && sequence == LOAD(tp, rcv_nxt))
		sequence--;
	return sequence;
}

/*
 * The stream position behind the call, from the socket's own sequence numbers
 * where they can be trusted: bytes that no hook saw (splice from a socket,
 * calls while the ring was full) then show up as missing instead of shifting
 * all that follows. Under a record layer (kTLS) the sequence numbers count
 * ciphertext, so there the calls are added up.
 */
static __always_inline __u64 position_after(struct flow_state *flow, struct sock *sk, __u32 size, bool sent)
{
	struct inet_connection_sock *icsk = (struct inet_connection_sock *)sk;
	__u64 expected = flow->position + size;
	__s32 unseen;

	unseen = sequence_of(sk, sent) - (flow->base + (__u32)expected);
	if (unseen == 0 || LOAD(icsk, icsk_ulp_ops))
		return expected;
	/* negative: another thread's later call was reported first */
	if (unseen < 0 && flow->position < (__u32)-unseen)
		return expected;
	return expected + unseen;
}

static __always_inline void announce(void *ctx, struct conn *conn)
{
	struct open_event *event = event_reserve(sizeof(*event), EVENT_OPEN);

	if (!event)
		return;
	event->header.flags = conn->flags & CONN_ADOPTED ? EVENT_ADOPTED : 0;
	event->header.connection_id = conn->id;
	event->header.pid = conn->pid;
	event->header.tid = conn->tid;
	event->tuple = conn->tuple;
	event->cgroup_id = conn->cgroup_id;
	event->start_ns = conn->start_ns;
	event->connect_ns = conn->connect_ns;
	event->role = conn->role;
	__builtin_memset(event->_pad, 0, sizeof(event->_pad));
	__builtin_memcpy(event->comm, conn->comm, sizeof(event->comm));
	event_submit(ctx, event);
	conn->flags |= CONN_ANNOUNCED;
}

static __always_inline void report_owner(void *ctx, const struct conn *conn)
{
	struct owner_event *event = event_reserve(sizeof(*event), EVENT_OWNER);

	if (!event)
		return;
	event->header.connection_id = conn->id;
	event->header.pid = conn->pid;
	event->header.tid = conn->tid;
	event->cgroup_id = conn->cgroup_id;
	__builtin_memcpy(event->comm, conn->comm, sizeof(event->comm));
	event_submit(ctx, event);
}

#endif /* REMORA_CONN_H */
