/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* When the reader of a ring is woken: as little as can be. */
#ifndef REMORA_WAKE_H
#define REMORA_WAKE_H

enum wake {
	WAKE_NEVER = 0,	   /* the reader is at work */
	WAKE_ON_BYTES = 1, /* it sleeps for a moment: wake it only if the ring fills up */
	WAKE_ON_FIRST = 2, /* it sleeps until something happens */
};

/* enum wake. Set by the reader before it sleeps, cleared by whoever wakes it. */
volatile __u32 reader_wake __weak SEC(".data.wake");

static __always_inline __u64 wake_flags(void *ring, __u64 wake_bytes)
{
	__u32 wake = reader_wake;

	if (wake == WAKE_NEVER)
		return BPF_RB_NO_WAKEUP;
	if (wake == WAKE_ON_BYTES && bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) < wake_bytes)
		return BPF_RB_NO_WAKEUP;
	reader_wake = WAKE_NEVER;
	return BPF_RB_FORCE_WAKEUP;
}

#endif /* REMORA_WAKE_H */
