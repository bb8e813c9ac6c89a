/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How a record gets to user space: into the ring, without a wake-up but when the reader asked for one. */
#ifndef REMORA_TRANSPORT_H
#define REMORA_TRANSPORT_H

#include "maps.h"

enum wake {
	WAKE_NEVER = 0,	   /* the reader is at work */
	WAKE_ON_BYTES = 1, /* it sleeps for a moment: wake it only if the ring fills up */
	WAKE_ON_FIRST = 2, /* it sleeps until something happens */
};

/* enum wake. Set by the reader before it sleeps, cleared by whoever wakes it. */
volatile __u32 reader_wake __weak;

static __always_inline __u64 submit_flags(void)
{
	__u32 wake = reader_wake;

	if (wake == WAKE_NEVER)
		return BPF_RB_NO_WAKEUP;
	if (wake == WAKE_ON_BYTES && bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < settings.wake_bytes)
		return BPF_RB_NO_WAKEUP;
	reader_wake = WAKE_NEVER;
	return BPF_RB_FORCE_WAKEUP;
}

static __always_inline void *event_reserve(__u32 size, __u8 kind)
{
	struct event_header *header = bpf_ringbuf_reserve(&events, size, 0);

	if (!header) {
		count(STAT_RING_FULL);
		return NULL;
	}
	header->length = size;
	header->kind = kind;
	header->flags = 0;
	header->_pad = 0;
	header->time_ns = bpf_ktime_get_ns();
	header->connection_id = 0;
	header->pid = 0;
	header->tid = 0;
	return header;
}

static __always_inline void event_submit(void *event)
{
	count(STAT_OTHER);
	bpf_ringbuf_submit(event, submit_flags());
}

#endif /* REMORA_TRANSPORT_H */
