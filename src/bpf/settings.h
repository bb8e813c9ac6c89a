/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Knobs, written by user space before load and constant ever after. */
#ifndef REMORA_SETTINGS_H
#define REMORA_SETTINGS_H

/* Most bytes of one call that a record can carry. A power of two. */
#define CAPTURE_MAX 32768
/*
 * Most pieces of one scattered or gathered call that are read: as many as the
 * kernel takes (UIO_MAXIOV), or fewer in the plain flavour, whose functions the
 * verifier walks again for each caller and each turn of a caller's loop.
 */
#ifdef REMORA_PLAIN
#define IOVEC_MAX 32
#else
#define IOVEC_MAX 1024
#endif
/* Of these so many are read by one call of a function that the verifier walks by itself. */
#define IOVEC_ROUND 32
/* And of those so many are read at a time. A power of two. */
#define IOVEC_BATCH 8
/* A CPU looks at the ring's fill after 1/2^n of wake_bytes. */
#define WAKE_LOOK_LOG2 3
/* Numbers of connections under way to be given out: more than programs can run at once. */
#define NUMBERS 1024
/* Most messages of one recvmmsg or sendmmsg that are read, and of datagrams, of which each must be read: none tells what the others said. */
#ifdef REMORA_PLAIN
#define MMSG_MAX 16
#define MMSG_DATAGRAMS_MAX 8
#else
#define MMSG_MAX 16
#define MMSG_DATAGRAMS_MAX 64
#endif
/* Slots of the capture control table. A power of two. */
#define CONTROL_SLOTS_LOG2 14
#define CONTROL_SLOTS (1 << CONTROL_SLOTS_LOG2)

/*
 * A UDP socket that was silent for so long begins anew, with a new id. User
 * space forgets a socket somewhat later, so it never gets a datagram of one
 * that it has forgotten.
 */
#define UDP_SILENCE_NS 20000000000ULL
/*
 * Until a UDP socket is claimed its datagrams are reported only while it has
 * not sent so many more than it received, or the other way round.
 */
#define UNCLAIMED_LEAD 16
/* The same where a port says that a burst is worth its records: 53, DNS. What a socket says is judged by its bytes all the same. */
#define UNCLAIMED_LEAD_EAGER 1024
#define EAGER_PORT 53
/* At its so many-th datagram the reader is woken: the sooner a lively socket is judged, the less is missed or written in vain. */
#define UNCLAIMED_HURRY 8

/*
 * The hierarchy of control groups by which containers are told apart: that of
 * version 2, or, where engines still use version 1, that of a controller.
 */
enum cgroup_controller {
	CGROUP_UNIFIED = 0, /* version 2 */
	CGROUP_PIDS = 1,
	CGROUP_MEMORY = 2,
	CGROUP_DEVICES = 3,
};

/*
 * Who keeps the processor for a data program while it runs. Somebody must: a
 * program that another task of the same processor finds half done is left out
 * there, and two of them would write to one scratch.
 */
enum processor_holder {
	HELD_BY_TRACEPOINT = 0, /* before 7.0, and where the kernel cannot be preempted */
	HELD_BY_PERF = 1,	/* the same tracepoints by way of perf */
	HELD_BY_PROGRAM = 2,	/* nobody but ourselves, too late and not long enough: runs are left out */
};

struct settings {
	__u32 own_pid;		/* the agent: never watched */
	__u32 own_netns;	/* with own_port: the agent's HTTP listener */
	__u16 own_port;		/* host byte order; 0: none */
	__u8 watch_client;	/* report the data of sockets that connected */
	__u8 watch_server;	/* report the data of sockets that were accepted */
	__u8 filter_pids;	/* only thread groups in `pids` */
	__u8 filter_ports;	/* only connections with a port in `ports` */
	__u8 filter_cgroups;	/* nothing of the control groups in `cgroups` */
	__u8 cgroup_controller; /* enum cgroup_controller */
	__u32 capture_len;	/* bytes captured of each call until user space says otherwise, <= CAPTURE_MAX */
	__u32 cgroup_hierarchy; /* number of the controller's hierarchy; 0: version 2 */
	__u64 wake_bytes;	/* waiting bytes in the ring that wake a sleeping reader */
	__u8 perf_buffer;	/* `events` is a perf buffer although the kernel has ring buffers */
	__u8 recv_nonblock; /* functions that receive have an argument `nonblock` before `flags` (before 5.19, ec095263a965) */
	__u8 processor_holder; /* enum processor_holder */
	__u8 _pad[5];
};

const volatile struct settings settings __weak SEC(".rodata.settings") = {
	.watch_client = 1,
	.watch_server = 1,
	.capture_len = CAPTURE_MAX,
	.wake_bytes = 1 << 20,
};

/*
 * Set once, when all programs are attached. Until then none begins with
 * anything: of two programs that were attached one after the other the first
 * would meet a connection of which the second misses what comes next.
 */
volatile __u32 attached __weak SEC(".data.attached");

#endif /* REMORA_SETTINGS_H */
