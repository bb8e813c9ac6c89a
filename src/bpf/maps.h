/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every map, and what lives in it. Sizes are defaults; user space sets them before load. */
#ifndef REMORA_MAPS_H
#define REMORA_MAPS_H

#include "settings.h"
#include "events.h"

enum conn_flag {
	CONN_ANNOUNCED = 1, /* user space has its open event */
	CONN_ADOPTED = 2,   /* older than the agent */
	CONN_IGNORED = 4,   /* the agent's own, or filtered out for good */
	CONN_QUIET = 8,	    /* the side that is not watched: its life is reported, its data is not */
	CONN_FILTERED = 16, /* its control group may come to be ignored */
};

enum first_fin {
	FIN_NONE = 0,
	FIN_LOCAL = 1,
	FIN_REMOTE = 2,
};

struct flow_state {
	__u64 position; /* bytes that went through in this direction */
	__u64 calls;
	__u32 base; /* TCP sequence number of position 0 */
	__u32 _pad;
};

struct conn {
	__u64 id; /* 0 until both ports are known */
	struct socket_tuple tuple;
	__u64 cgroup_id;
	__u64 start_ns;		    /* SYN sent at; after ESTABLISHED: established at */
	__u64 connect_ns;	    /* clients only */
	struct flow_state flows[2]; /* [0] received, [1] sent */
	__u32 pid;		    /* 0: not known yet */
	__u32 tid;
	__u32 retransmits_base; /* segments retransmitted before adoption */
	__u32 retransmits; /* segments retransmitted since, and the smoothed round-trip time, as of the last data */
	__u32 srtt_us;
	__u8 role;	/* enum conn_role */
	__u8 flags;	/* enum conn_flag */
	__u8 first_fin; /* enum first_fin */
	__u8 error;	/* errno of the end, kept while unread data remains: the program may take it from the socket */
	__u8 _pad[4];
	__u8 comm[COMM_LEN];
};

/*
 * Key: address of struct sock. Written by the hooks (opened, adopted, data);
 * read by user space in batches for the counters of long-lived connections;
 * deleted when TCP is done with the socket. Not an LRU: its eviction would be
 * a loss that nobody counts, while a failed insert is (STAT_CONNS_FULL), and
 * nothing can leak, since every TCP socket passes tcp_destroy_sock.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, __u64);
	__type(value, struct conn);
} conns __weak SEC(".maps");

enum udp_flag {
	UDP_ANNOUNCED = 1,  /* user space has its open event */
	UDP_IGNORED = 2,    /* filtered out for good */
	UDP_QUIET = 4,	    /* the side that is not watched: it is announced, its datagrams are not */
	UDP_CLAIMED = 8,    /* user space wants its datagrams */
	UDP_DISMISSED = 16, /* nobody wants its datagrams */
	UDP_EAGER = 32,	    /* one of its ports is well known for what is wanted */
	UDP_FILTERED = 64,  /* its control group may come to be ignored */
};

struct udp_socket {
	__u64 id;
	__u64 last_ns;	  /* time of its last datagram */
	__u64 numbers[2]; /* datagrams since it was met: [0] received, [1] sent */
	__u32 pid;
	__u8 role;  /* enum conn_role */
	__u8 flags; /* enum udp_flag */
	__u8 _pad[2];
};

/*
 * Key: number of the socket's inode, which no other socket gets before 2^32
 * more were made (the address of struct sock is used again at once, and no
 * hook sees the end of a UDP socket). Written by the data hooks. Nobody
 * deletes: the socket not used for the longest time makes room. If that ever
 * hits a live one it is met anew and loses nothing but the answers under way.
 * BPF_MAP_TYPE_SK_STORAGE would go with the socket, but the pointer that the
 * family `syscalls` walks to is not one that the verifier lets it take.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct udp_socket);
} udp_sockets __weak SEC(".maps");

/*
 * Records of events.h. Written by all hooks, read by the drain thread. Where
 * the kernel has no ring buffer (before 5.8, 457f44363a88), or user space
 * wants it so, it is a perf buffer for each CPU: user space changes the type
 * before it loads.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} events __weak SEC(".maps");

/*
 * What user space wishes to have captured. The slot is that of the
 * connection's number (id >> 8); each word carries the rest of the number in
 * its upper 16 bits, so that a slot's earlier user is not mistaken for the
 * connection and each word is right by itself, whatever its neighbours are.
 * A word of another connection means the default. Written by user space only,
 * never deleted. A collision costs a capture that nobody needs.
 */
struct capture_wish {
	__u64 from_received; /* stream position from which on received bytes are of interest */
	__u64 from_sent;
	__u64 limit; /* bytes of each call; 0: settings.capture_len */
};

#define CONTROL_VALUE_BITS 48
#define CONTROL_VALUE_MASK ((1ULL << CONTROL_VALUE_BITS) - 1)
#define CONTROL_NEVER CONTROL_VALUE_MASK

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CONTROL_SLOTS);
	__type(key, __u32);
	__type(value, struct capture_wish);
} wishes __weak SEC(".maps");

/*
 * The numbers of the next connections, the upper 56 bits of an id. Whoever
 * takes one puts the one NUMBERS further back, so each is given out once,
 * without atomic operations that have a result (5.12). Filled by user space.
 */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, NUMBERS);
	__type(value, __u64);
} numbers __weak SEC(".maps");

/* The most that a record carries of one datagram. A power of two. */
#define DATAGRAM_MAX 4096

/* A data record as it is reserved in the ring for a short call. */
#define SHORT_MAX 512
struct short_event {
	struct data_event event;
	__u8 payload[SHORT_MAX];
};

/* Where in user memory the bytes of a call are. */
struct user_data {
	__u64 base; /* the buffer, or the first struct iovec; 0: not in user memory (sendfile, splice, a kernel thread) */
	__u16 pieces;	/* 0: base is the buffer; else the number of iovecs */
	__u8 in_kernel; /* the iovecs are in kernel memory */
	__u8 _pad;
	__u32 skip; /* bytes of the first piece that are not of this call */
};

/* A call of the watched process that moved bytes through a socket, now over. */
struct call {
	__u64 sk;
	struct user_data data;
	__u32 size;
	__u32 behind; /* TCP: bytes of later calls that are reported together with this one */
	__u32 room;   /* UDP: bytes of a single buffer: a receive may report more than it stored (MSG_TRUNC) */
	__u8 sent;
	__u8 name_in_kernel;
	__u8 _pad[2];
	__u64 name;  /* UDP: the struct sockaddr of the other end; 0: none */
	__u64 inode; /* UDP: number of the socket's inode */
};

/*
 * Key: CPU. A data record is put together here before it is copied to the
 * ring: ring records are reserved in constant sizes only. What is large is
 * here as well and not on the stack, of which a program and all that it calls
 * have 512 bytes together before the private stacks of 6.13; tests/programs.rs
 * adds them up. The data hooks run with preemption off
 * (settings.processor_holder) and none of them interrupts another; no other program may use this. Twice CAPTURE_MAX, because the
 * verifier bounds offset and length one by one.
 */
struct scratch {
	union {
		struct datagram_event datagram;
		struct {
			__u8 _ahead[sizeof(struct datagram_event) - sizeof(struct data_event)];
			struct data_event event;
		};
	};
	__u8 payload[2 * CAPTURE_MAX]; /* behind the record of either kind */
	struct conn adopted;	       /* a connection before it is in `conns` */
	struct udp_socket met;	       /* the same of a UDP socket */
	struct iovec batch
		[IOVEC_BATCH]; /* of a scattered or gathered call, as many as are read at a time; before that the address of its other end */
	struct call call; /* that is reported */
	__u32 wanted;	  /* so many of them */
	__u32 gathered;	  /* bytes of a scattered call copied so far */
	__u32 since_look; /* bytes written since the ring's fill was looked at */
	__u32 hurry;	  /* the reader is to be woken at once */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches __weak SEC(".maps");

/*
 * Key: thread. The message of a running sendmmsg or recvmmsg that comes next:
 * the socket tracepoints fire once a message and do not say which. Written
 * and deleted by the socket hooks; LRU, since a thread may die in between.
 */
struct mmsg_progress {
	__u64 vector;
	__u32 next;
	__u32 _pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct mmsg_progress);
} mmsg __weak SEC(".maps");

/* Filters. Written by user space before attach, read by the hooks. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u8);
} pids __weak SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u16);
	__type(value, __u8);
} ports __weak SEC(".maps");

/*
 * Control groups of which nothing is wanted. Key: id. Written and deleted by
 * user space at any time, read by the hooks where settings.filter_cgroups is
 * set; else it has room for one. Not an LRU: what was to be ignored must not
 * come back by itself, and a failed insert is seen by whoever makes it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u8);
} cgroups __weak SEC(".maps");

/* What was done and what was lost, by reason. Written by the hooks, read by user space. */
enum tally {
	STAT_RING_FULL = 0,  /* a record found no room in `events` */
	STAT_CONNS_FULL = 1, /* a connection found no room in `conns` */
	STAT_UNREAD = 2,     /* a payload could not be read from user memory */
	STAT_DATA = 3,	     /* data records written */
	STAT_OTHER = 4,	     /* other records written */
	STAT_COUNTED = 5,    /* calls counted without a record, as user space wished */
	STAT_MAX = 6,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STAT_MAX);
	__type(key, __u32);
	__type(value, __u64);
} stats __weak SEC(".maps");

#ifdef REMORA_PLAIN

/*
 * Key: how many records are being written on this CPU. A record of a perf
 * buffer is put together here before it is copied. A program that interrupts
 * another takes the next place.
 */
#define STAGES 4
#define STAGE_SIZE 1088
struct stage {
	__u8 record[STAGE_SIZE];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STAGES);
	__type(key, __u32);
	__type(value, struct stage);
} stages __weak SEC(".maps");

/* Key: 0. Records that are being written on this CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} staged __weak SEC(".maps");

#endif

static __always_inline void count(__u32 stat)
{
	__u64 *counter = bpf_map_lookup_elem(&stats, &stat);

	if (counter)
		*counter += 1;
}

#endif /* REMORA_MAPS_H */
