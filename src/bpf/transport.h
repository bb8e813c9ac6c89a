/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How a record gets to user space: into the ring, without a wake-up but when the reader asked for one; or into a perf buffer. */
#ifndef REMORA_TRANSPORT_H
#define REMORA_TRANSPORT_H

#include "maps.h"
#include "wake.h"

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

static __always_inline __u64 submit_flags(void)
{
	return wake_flags(&events, settings.wake_bytes);
}

#ifdef REMORA_PLAIN

/* Told when the program is loaded: what the kernel has no place for is not even looked at by the verifier. */
#define HAS_RING (bpf_core_type_exists(struct bpf_ringbuf) && !settings.perf_buffer)

/*
 * A place of this CPU to write a record to; that of the program which this one
 * interrupted is another. Where tasks are preempted in programs the count can
 * come to be wrong; nothing nests as deep as STAGES, so then it begins anew.
 */
static __always_inline void *stage_record(void)
{
	__u32 key = 0;
	__u32 *depth = bpf_map_lookup_elem(&staged, &key);

	if (!depth)
		return NULL;
	key = *depth;
	if (key >= STAGES) {
		*depth = 0;
		return NULL;
	}
	*depth = key + 1;
	return bpf_map_lookup_elem(&stages, &key);
}

static __always_inline void unstage_record(void)
{
	__u32 key = 0;
	__u32 *depth = bpf_map_lookup_elem(&staged, &key);

	if (depth && *depth)
		*depth -= 1;
}

#else

#define HAS_RING true

#endif

/* A record of a constant size, to be handed to event_submit. */
static __always_inline void *event_reserve(__u32 size, __u8 kind)
{
	struct event_header *header;

#ifdef REMORA_PLAIN
	if (!HAS_RING)
		header = stage_record();
	else
#endif
		header = bpf_ringbuf_reserve(&events, size, 0);
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

/* `ctx` is the argument of the running program, which a perf buffer asks for. */
static __always_inline void event_submit(void *ctx, void *event)
{
#ifdef REMORA_PLAIN
	if (!HAS_RING) {
		__u32 length = clamp_len(((struct event_header *)event)->length, STAGE_SIZE);
		long failed = bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, event, length);

		unstage_record();
		count(failed ? STAT_RING_FULL : STAT_OTHER);
		return;
	}
#endif
	count(STAT_OTHER);
	bpf_ringbuf_submit(event, submit_flags());
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

/*
 * Copies a record of any length out of the scratch, which counts the bytes.
 * `hurry`: a reader that sleeps is woken; that of a perf buffer never sleeps long.
 */
static __always_inline bool event_output(void *ctx, struct scratch *scratch, void *event, __u32 length, bool hurry)
{
	__u64 flags;
	long failed;

#ifdef REMORA_PLAIN
	if (!HAS_RING) {
		failed = bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, event, length);
		count(failed ? STAT_RING_FULL : STAT_DATA);
		return !failed;
	}
#endif
	flags = data_flags(scratch, length);
	if (hurry) {
		reader_wake = WAKE_NEVER;
		flags = BPF_RB_FORCE_WAKEUP;
	}
	failed = bpf_ringbuf_output(&events, event, length, flags);
	count(failed ? STAT_RING_FULL : STAT_DATA);
	return !failed;
}

#endif /* REMORA_TRANSPORT_H */
