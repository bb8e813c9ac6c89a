/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The adapter of the hook families `fentry` and `kprobe`: a function of TCP or
 * UDP is over that moved bytes through a struct msghdr. They see what system
 * calls do not show as well: io_uring, sendfile, splice, threads of the kernel.
 */
#ifndef REMORA_MESSAGE_H
#define REMORA_MESSAGE_H

#include "udp.h"

static __always_inline bool iter_is_buffer(struct iov_iter *iter)
{
	/* before 6.0 (fcb14cb1bdac) a single buffer was a vector of one */
	return bpf_core_enum_value_exists(enum iter_type, ITER_UBUF) &&
	       LOAD(iter, iter_type) == bpf_core_enum_value(enum iter_type, ITER_UBUF);
}

static __always_inline bool iter_is_vector(struct iov_iter *iter)
{
	__u32 kind;

	if (bpf_core_field_exists(struct iov_iter, iter_type))
		kind = LOAD(iter, iter_type);
	else
		kind = BPF_CORE_READ((struct iov_iter___type *)iter, type) & ~ITER_TYPE_FLAGS;
	return kind == bpf_core_enum_value(enum iter_type, ITER_IOVEC);
}

static __always_inline __u64 iter_vector(struct iov_iter *iter)
{
	if (bpf_core_field_exists(struct iov_iter___iov, iov))
		return (__u64)BPF_CORE_READ((struct iov_iter___iov *)iter, iov);
	/* by copy: a plain number, to be handed to a global function */
	return (__u64)BPF_CORE_READ(iter, __iov);
}

/*
 * The pieces of which the last `moved` bytes end `offset` bytes into the one at
 * `vector`: an iterator forgets what is behind it, but the kernel's array of
 * pieces is still there. Returns 0 or a negative error.
 */
GLOBAL_FUNCTION int rewind_vector(struct user_data *data, __u64 vector, __u64 offset, __u32 moved)
{
	__u64 behind = offset;
	struct iovec piece;
	__u32 back;

	if (!data)
		return -1;
	for (back = 0; back < IOVEC_MAX; back++) {
		if (behind >= moved)
			break;
		vector -= sizeof(piece);
		if (bpf_probe_read_kernel(&piece, sizeof(piece), (void *)vector))
			return -1;
		behind += piece.iov_len;
	}
	if (behind < moved)
		return -1;
	if (!back && bpf_probe_read_kernel(&piece, sizeof(piece), (void *)vector))
		return -1;
	if (back + !!offset <= 1) {
		data->base = (__u64)piece.iov_base + behind - moved;
		return 0;
	}
	data->base = vector;
	data->pieces = back + !!offset;
	data->in_kernel = true;
	data->skip = behind - moved;
	return 0;
}

/* Where the last `moved` bytes are that went through `msg`. */
static __always_inline void locate_message(struct user_data *data, struct msghdr *msg, __u32 moved)
{
	struct iov_iter *iter = (void *)msg + bpf_core_field_offset(struct msghdr, msg_iter);

	if (iter_is_buffer(iter))
		data->base = (__u64)LOAD(iter, ubuf) + LOAD(iter, iov_offset) - moved;
	else if (iter_is_vector(iter))
		rewind_vector(data, iter_vector(iter), LOAD(iter, iov_offset), moved);
}

/* `msg` is NULL where the bytes were no program's. */
static __always_inline void on_tcp(void *ctx, struct sock *sk, struct msghdr *msg, int moved, __u32 flags, bool sent)
{
	struct scratch *scratch;

	if (moved <= 0 || (!sent && !takes_bytes(flags)))
		return;
	scratch = begin_call((__u64)sk, moved, sent);
	if (!scratch)
		return;
	/* with MSG_TRUNC bytes are thrown away, the buffer is not touched */
	if (msg && (sent || !(flags & MSG_TRUNC)))
		locate_message(&scratch->call.data, msg, moved);
	on_data(ctx, scratch);
}

/* `room`: how many bytes could be moved. A receive may report more. */
static __always_inline void on_udp(void *ctx, struct sock *sk, struct msghdr *msg, __u64 room, int moved, __u32 flags,
				   bool sent)
{
	struct socket *socket = LOAD(sk, sk_socket);
	struct scratch *scratch;
	struct inode *inode;
	struct call *call;
	struct file *file;

	if (moved <= 0 || (!sent && !takes_bytes(flags)) || !socket)
		return;
	file = LOAD(socket, file);
	/* a socket of the kernel's own */
	if (!file)
		return;
	scratch = begin_call((__u64)sk, moved, sent);
	if (!scratch)
		return;
	call = &scratch->call;
	inode = LOAD(file, f_inode);
	call->inode = LOAD(inode, i_ino);
	call->name = (__u64)LOAD(msg, msg_name);
	call->name_in_kernel = true;
	call->room = clamp_len(room, moved);
	locate_message(&call->data, msg, call->room);
	on_datagram(HAND_OVER(ctx), scratch);
}

/* A socket of IPv6 that speaks IPv4 passes the functions of both. */
static __always_inline bool is_of_ipv6(struct sock *sk)
{
	return LOAD(sk, __sk_common.skc_family) == AF_INET6;
}

#endif /* REMORA_MESSAGE_H */
