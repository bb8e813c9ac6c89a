/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Records that travel from the kernel to user space, and the layout in which
 * recordings keep them. Every field is of fixed width and in host byte order;
 * addresses are in network byte order, IPv4 mapped into IPv6 (::ffff:a.b.c.d).
 *
 * A record begins with struct event_header. Three have a variable tail: behind
 * struct data_event and struct datagram_event follow `captured` bytes of
 * payload, behind struct cgroup_event a path up to the end of the record.
 */
#ifndef REMORA_EVENTS_H
#define REMORA_EVENTS_H

enum event_kind {
	EVENT_OPEN = 1,	     /* struct open_event */
	EVENT_OWNER = 2,     /* struct owner_event: another process uses the connection now */
	EVENT_CLOSE = 3,     /* struct close_event */
	EVENT_FAIL = 4,	     /* struct fail_event */
	EVENT_LISTEN = 5,    /* struct listen_event */
	EVENT_DATA = 6,	     /* struct data_event + payload */
	EVENT_EXEC = 7,	     /* struct exec_event */
	EVENT_EXIT = 8,	     /* struct exit_event */
	EVENT_FORK = 9,	     /* struct fork_event */
	EVENT_COUNTERS = 10, /* struct counters_event: written by user space from the connection map */
	EVENT_TICK = 11,     /* struct event_header alone: written by user space, time goes on */
	EVENT_SWEEP = 12,    /* struct sweep_event: written by user space after a look at all connections */
	EVENT_UDP_OPEN = 13, /* struct udp_open_event: a UDP socket is met, or met again after a long silence */
	EVENT_DATAGRAM = 14, /* struct datagram_event + payload */
	EVENT_GROUP = 15,    /* struct cgroup_event + path: a control group was made, renamed or removed */
	EVENT_FRAME = 16, /* struct frame_event + bytes: never leaves its source, which makes the other kinds of it */
};

enum conn_role {
	ROLE_UNKNOWN = 0,
	ROLE_CLIENT = 1,
	ROLE_SERVER = 2,
};

enum close_reason {
	CLOSE_UNKNOWN = 0,
	CLOSE_LOCAL = 1,   /* this side sent the first FIN */
	CLOSE_REMOTE = 2,  /* the peer sent the first FIN */
	CLOSE_RESET = 3,   /* a RST arrived */
	CLOSE_TIMEOUT = 4, /* retransmissions or keep-alives went unanswered */
	CLOSE_ABORT = 5,   /* this side gave up the connection with a RST */
};

/* event_header.flags */
enum event_flag {
	EVENT_SENT = 1,	    /* data, datagram: sent by the watched process; else received */
	EVENT_ADOPTED = 2,  /* open: the connection is older than the agent */
	EVENT_CLOSED = 4,   /* listen: the socket stopped listening */
	EVENT_UNREAD = 8,   /* data, datagram: the payload could not be read (lengths-only call or a fault) */
	EVENT_REMOVED = 16, /* cgroup: it was removed */
};

#define ADDRESS_LEN 16
#define COMM_LEN 16
#define PATH_LEN 128
/* As many as the kernel's tracepoints give (TRACE_CGROUP_PATH_LEN); a path that is longer comes cut. */
#define CGROUP_PATH_MAX 1024

struct event_header {
	__u32 length; /* of the whole record, this header and the captured payload included */
	__u8 kind;    /* enum event_kind */
	__u8 flags;   /* enum event_flag */
	__u16 _pad;
	__u64 time_ns; /* CLOCK_MONOTONIC */
	/*
	 * Unique for the agent's life; the low byte is a hash of the client's
	 * port, the same from both ends, so that the two sockets of a
	 * same-host connection meet in one worker (UDP: of the server's port).
	 * 0 where there is none.
	 */
	__u64 connection_id;
	__u32 pid; /* thread group */
	__u32 tid;
};

struct socket_tuple {
	__u8 local[ADDRESS_LEN];
	__u8 remote[ADDRESS_LEN];
	__u16 local_port;  /* host byte order */
	__u16 remote_port; /* host byte order */
	__u32 netns;	   /* inode number of the network namespace */
};

struct open_event {
	struct event_header header;
	struct socket_tuple tuple;
	__u64 cgroup_id;
	__u64 start_ns;	  /* established at; adopted: first seen at */
	__u64 connect_ns; /* SYN to ESTABLISHED on the client, else 0 */
	__u8 role;	  /* enum conn_role */
	__u8 _pad[7];
	__u8 comm[COMM_LEN];
};

struct owner_event {
	struct event_header header;
	__u64 cgroup_id;
	__u8 comm[COMM_LEN];
};

struct close_event {
	struct event_header header;
	__u64 start_ns;
	__u64 connect_ns;
	__u64 bytes_sent;
	__u64 bytes_received;
	__u64 calls_sent;
	__u64 calls_received;
	__u32 retransmits; /* segments */
	__u32 srtt_us;
	__u32 error; /* errno of the socket, 0 on a clean close */
	__u8 reason; /* enum close_reason */
	__u8 _pad[3];
};

struct fail_event {
	struct event_header header;
	struct socket_tuple tuple;
	__u64 cgroup_id;
	__u64 elapsed_ns; /* from SYN to failure */
	__u32 error;	  /* errno */
	__u32 _pad;
	__u8 comm[COMM_LEN];
};

struct listen_event {
	struct event_header header;
	struct socket_tuple tuple; /* remote is all zeros */
	__u64 cgroup_id;
	__u8 comm[COMM_LEN];
};

struct data_event {
	struct event_header header;
	__u64 offset;	/* bytes of this direction before this call */
	__u32 size;	/* bytes that the call moved */
	__u32 captured; /* bytes of them that follow */
};

/*
 * Ends that a UDP socket does not know are all zeros: the local address of one
 * that is bound to every address, the remote of one that is not connected and
 * has received first.
 */
struct udp_open_event {
	struct event_header header;
	struct socket_tuple tuple;
	__u64 cgroup_id;
	__u64 start_ns; /* time of the first datagram */
	__u8 role;	/* enum conn_role, a guess where the socket is neither connected nor has received first */
	__u8 _pad[7];
	__u8 comm[COMM_LEN];
};

struct datagram_event {
	struct event_header header;
	__u64 number;		  /* datagrams of this direction before this one, since the open event */
	__u32 size;		  /* bytes of the datagram */
	__u32 captured;		  /* bytes of it that follow */
	__u8 remote[ADDRESS_LEN]; /* its other end */
	__u16 remote_port;	  /* host byte order; 0: the other end is not known */
	__u8 _pad[6];
};

struct exec_event {
	struct event_header header;
	__u64 cgroup_id;
	__u8 comm[COMM_LEN];
	__u8 filename[PATH_LEN]; /* as given to execve, NUL-terminated, cut to fit */
	__u8 argv0[PATH_LEN];	 /* first word of the command line, NUL-terminated, cut to fit */
};

struct exit_event {
	struct event_header header;
};

struct fork_event {
	struct event_header header; /* pid: the parent */
	__u32 child;
	__u32 _pad;
};

/*
 * Of the hierarchy in which containers are told apart, see `settings`. The
 * path is that within the hierarchy, with a leading / and no NUL; none where it
 * did not fit. No other control group of this boot gets the same id.
 */
struct cgroup_event {
	struct event_header header; /* pid: who did it */
	__u64 cgroup_id;
};

struct counters_event {
	struct event_header header;
	__u64 bytes_sent;
	__u64 bytes_received;
	__u32 retransmits;
	__u32 srtt_us;
};

/* Connections that no event named since then are gone: their close event was lost. */
struct sweep_event {
	struct event_header header;
	__u64 since_ns;
};

/* With what a frame begins. */
enum frame_link {
	FRAME_ETHERNET = 0,
	FRAME_IP = 1, /* no link header: tunnels */
};

struct frame_event {
	struct event_header header; /* no connection, no process */
	__u32 interface;	    /* its index */
	__u32 size; /* bytes of the frame, but for a tag that was taken out; before segmentation up to 64 KiB and more */
	__u32 captured; /* bytes of it that follow */
	__u16 vlan_tci; /* of the tag that was taken out, with bit 12 set; 0: none */
	__u8 link;	/* enum frame_link */
	__u8 _pad[1];
};

#endif /* REMORA_EVENTS_H */
