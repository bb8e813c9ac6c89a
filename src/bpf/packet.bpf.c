/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Hook family `packet`: a socket filter that sees each frame of an interface,
 * hands what is wanted of it to user space by itself, and tells the kernel to
 * keep nothing.
 *
 * An object of its own: nothing here depends on the types of a kernel, so it
 * loads without any BTF but its own, from 5.4 on. Only helpers that socket
 * filters have there are used (bpf_perf_event_output: 7c4b90d79d0f, 5.4).
 *
 * Nothing is known of the frame but its bytes. What cannot be understood here
 * goes to user space, which counts it; so does each fragment of a datagram,
 * since all but the first lack the ports.
 */
#define BPF_NO_PRESERVE_ACCESS_INDEX
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "events.h"
#include "wake.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define ETHERNET_LEN 14
#define ETHERTYPE_AT 12
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_QINQ 0x88a8
#define ETHERTYPE_OLD_QINQ 0x9100
#define VLAN_LEN 4
/* Beside the tag that the kernel takes out. */
#define VLAN_TAGS_MAX 3

#define IPV4_FRAGMENT 0x3fff /* the offset, and the flag that more follow */
#define IPV6_LEN 40
#define NEXT_HOP_BY_HOP 0
#define NEXT_TCP 6
#define NEXT_UDP 17
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_AUTHENTICATION 51
#define NEXT_DESTINATION 60
#define EXTENSIONS_MAX 6

#define UDP_LEN 8
/* Of a frame whose headers could not be followed to their end. */
#define UNKNOWN_HEAD 256

/* A record is reserved in one of these sizes: acknowledgements and questions, short answers, full frames, frames before segmentation. */
#define RECORD_TINY 256
#define RECORD_SHORT 512
#define RECORD_FRAME 2048
#define RECORD_LONG 8192
#define RECORD_MAX 36864
#define CAPTURED_MAX (RECORD_MAX - sizeof(struct frame_event))

/* Knobs, written by user space before load and constant ever after. */
struct packet_settings {
	__u32 capture_len;     /* bytes captured behind the header of TCP or UDP */
	__u16 own_port;	       /* the agent's HTTP listener; 0: none */
	__u8 filter_ports;     /* only frames with a port in `ports` */
	__u8 filter_addresses; /* only frames with an address in `addresses` */
	__u64 wake_bytes;      /* waiting bytes in the ring that wake a sleeping reader */
};

const volatile struct packet_settings packet_settings = {
	.capture_len = 32768,
	.wake_bytes = 1 << 20,
};

/*
 * Records of frames. Written by the filter, read by the source of the family.
 * A perf event array, with an entry for each CPU, where the kernel has no ring
 * buffer (before 5.8).
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} frames SEC(".maps");

struct network_key {
	__u32 prefix_len; /* bits of the address that count */
	__u8 address[ADDRESS_LEN];
};

/* The networks that are wanted, IPv4 mapped into IPv6. Written by user space before attach. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct network_key);
	__type(value, __u8);
} addresses SEC(".maps");

/* The ports that are wanted. Written by user space before attach. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u16);
	__type(value, __u8);
} frame_ports SEC(".maps");

/* Where the agent's HTTP server can be reached: its frames are left out. Key: address, IPv4 mapped. Written by user space before attach. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(key_size, ADDRESS_LEN);
	__uint(value_size, 1);
} own_addresses SEC(".maps");

enum frame_tally {
	FRAME_WRITTEN = 0,  /* records written */
	FRAME_FULL = 1,	    /* frames that found no room */
	FRAME_UNREAD = 2,   /* frames whose bytes the kernel did not give */
	FRAME_OTHER = 3,    /* left out: neither TCP nor UDP */
	FRAME_UNWANTED = 4, /* left out: other addresses, other ports, the agent's own */
	FRAME_TALLY_MAX = 5,
};

/* What became of the frames. Written by the filter, read by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FRAME_TALLY_MAX);
	__type(key, __u32);
	__type(value, __u64);
} frame_stats SEC(".maps");

static __always_inline void count(__u32 stat)
{
	__u64 *counter = bpf_map_lookup_elem(&frame_stats, &stat);

	if (counter)
		*counter += 1;
}

enum verdict {
	LEFT_OUT = 0,
	WANTED = 1,
	UNKNOWN = 2, /* user space may understand it */
};

struct ends {
	struct network_key source;
	struct network_key destination;
};

static __always_inline void map_ipv4(struct network_key *key, __u32 address)
{
	__builtin_memset(key->address, 0, 10);
	key->address[10] = 0xff;
	key->address[11] = 0xff;
	__builtin_memcpy(&key->address[12], &address, 4);
}

static __always_inline int is_wanted_address(struct ends *ends)
{
	if (!packet_settings.filter_addresses)
		return 1;
	return bpf_map_lookup_elem(&addresses, &ends->source) || bpf_map_lookup_elem(&addresses, &ends->destination);
}

static __always_inline int is_wanted_port(__u16 source, __u16 destination)
{
	if (!packet_settings.filter_ports)
		return 1;
	return bpf_map_lookup_elem(&frame_ports, &source) || bpf_map_lookup_elem(&frame_ports, &destination);
}

static __always_inline int is_own(struct ends *ends, __u16 source, __u16 destination)
{
	__u16 own = packet_settings.own_port;

	if (!own)
		return 0;
	if (source == own && bpf_map_lookup_elem(&own_addresses, ends->source.address))
		return 1;
	return destination == own && bpf_map_lookup_elem(&own_addresses, ends->destination.address);
}

/* Offset of the IP header behind `at`, where an EtherType is; its version in `version`, 0 for another protocol. */
static __always_inline __u32 pass_ethernet(struct __sk_buff *skb, __u32 *version)
{
	__u32 at = ETHERTYPE_AT, i;
	__be16 type = 0;

	*version = 0;
#pragma unroll
	for (i = 0; i <= VLAN_TAGS_MAX; i++) {
		if (bpf_skb_load_bytes(skb, at, &type, sizeof(type)))
			return 0;
		if (type != bpf_htons(ETHERTYPE_VLAN) && type != bpf_htons(ETHERTYPE_QINQ) &&
		    type != bpf_htons(ETHERTYPE_OLD_QINQ))
			break;
		at += VLAN_LEN;
	}
	if (type == bpf_htons(ETHERTYPE_IPV4))
		*version = 4;
	else if (type == bpf_htons(ETHERTYPE_IPV6))
		*version = 6;
	return at + sizeof(type);
}

/* The first byte of the IP header tells. */
static __always_inline __u32 pass_nothing(struct __sk_buff *skb, __u32 *version)
{
	__u8 first = 0;

	*version = 0;
	if (!bpf_skb_load_bytes(skb, 0, &first, sizeof(first)) && (first >> 4 == 4 || first >> 4 == 6))
		*version = first >> 4;
	return 0;
}

struct ipv4 {
	__u8 version_len;
	__u8 _service;
	__be16 _length;
	__be16 _identification;
	__be16 fragment;
	__u8 _ttl;
	__u8 protocol;
	__be16 _checksum;
	__be32 source;
	__be32 destination;
};

/* On WANTED, `at` is behind the header; `next` what is there, -1 where that is not told here: in a fragment. */
static __always_inline enum verdict pass_ipv4(struct __sk_buff *skb, struct ends *ends, __u32 *at, __s32 *next)
{
	struct ipv4 header;

	if (bpf_skb_load_bytes(skb, *at, &header, sizeof(header)) || (header.version_len & 15) < 5)
		return UNKNOWN;
	if (header.protocol != NEXT_TCP && header.protocol != NEXT_UDP)
		return LEFT_OUT;
	map_ipv4(&ends->source, header.source);
	map_ipv4(&ends->destination, header.destination);
	*at += (header.version_len & 15) * 4;
	*next = header.fragment & bpf_htons(IPV4_FRAGMENT) ? -1 : header.protocol;
	return WANTED;
}

struct ipv6 {
	__u8 _version[4];
	__be16 _length;
	__u8 next;
	__u8 _hops;
	__u8 source[ADDRESS_LEN];
	__u8 destination[ADDRESS_LEN];
};

/* Likewise. */
static __always_inline enum verdict pass_ipv6(struct __sk_buff *skb, struct ends *ends, __u32 *at, __s32 *next)
{
	struct ipv6 header;
	__u32 i, found;

	if (bpf_skb_load_bytes(skb, *at, &header, sizeof(header)))
		return UNKNOWN;
	__builtin_memcpy(ends->source.address, header.source, ADDRESS_LEN);
	__builtin_memcpy(ends->destination.address, header.destination, ADDRESS_LEN);
	*at += IPV6_LEN;
	found = header.next;
#pragma unroll
	for (i = 0; i < EXTENSIONS_MAX; i++) {
		__u8 extension[2];

		if (found == NEXT_TCP || found == NEXT_UDP) {
			*next = found;
			return WANTED;
		}
		if (found == NEXT_FRAGMENT) {
			*next = -1;
			return WANTED;
		}
		if (found != NEXT_HOP_BY_HOP && found != NEXT_ROUTING && found != NEXT_DESTINATION &&
		    found != NEXT_AUTHENTICATION)
			return LEFT_OUT;
		if (bpf_skb_load_bytes(skb, *at, extension, sizeof(extension)))
			return UNKNOWN;
		*at += found == NEXT_AUTHENTICATION ? (extension[1] + 2) * 4 : (extension[1] + 1) * 8;
		found = extension[0];
	}
	/* User space goes further. */
	*next = -1;
	return WANTED;
}

/* How many bytes of the frame are wanted; 0: it is left out, which is counted. */
static __always_inline __u64 wanted(struct __sk_buff *skb, enum frame_link link)
{
	struct ends ends = { .source.prefix_len = ADDRESS_LEN * 8, .destination.prefix_len = ADDRESS_LEN * 8 };
	__u32 version, at = link == FRAME_ETHERNET ? pass_ethernet(skb, &version) : pass_nothing(skb, &version);
	__u64 captured, size = skb->len;
	enum verdict verdict;
	__s32 next = -1;

	if (version == 4)
		verdict = pass_ipv4(skb, &ends, &at, &next);
	else if (version == 6)
		verdict = pass_ipv6(skb, &ends, &at, &next);
	else
		verdict = LEFT_OUT;
	if (verdict == LEFT_OUT) {
		count(FRAME_OTHER);
		return 0;
	}
	if (verdict == WANTED && !is_wanted_address(&ends)) {
		count(FRAME_UNWANTED);
		return 0;
	}
	if (verdict == UNKNOWN) {
		at = UNKNOWN_HEAD;
	} else if (next < 0) {
		at = size;
	} else {
		/* Ports, and of TCP all up to the header's length. */
		struct {
			__be16 source;
			__be16 destination;
			__u8 numbers[8];
			__u8 words;
			__u8 flags;
		} transport = {};

		if (bpf_skb_load_bytes(skb, at, &transport, next == NEXT_TCP ? sizeof(transport) : UDP_LEN)) {
			at = UNKNOWN_HEAD;
		} else {
			__u16 source = bpf_ntohs(transport.source), destination = bpf_ntohs(transport.destination);

			if (!is_wanted_port(source, destination) || is_own(&ends, source, destination)) {
				count(FRAME_UNWANTED);
				return 0;
			}
			at += next == NEXT_TCP ? (transport.words >> 4) * 4 : UDP_LEN;
		}
	}
	captured = at + packet_settings.capture_len;
	if (captured > CAPTURED_MAX)
		captured = CAPTURED_MAX;
	return captured < size ? captured : size;
}

static __always_inline void describe(struct __sk_buff *skb, enum frame_link link, struct frame_event *event,
				     __u32 captured)
{
	event->header.length = sizeof(*event) + captured;
	event->header.kind = EVENT_FRAME;
	event->header.flags = 0;
	event->header._pad = 0;
	event->header.time_ns = bpf_ktime_get_ns();
	event->header.connection_id = 0;
	event->header.pid = 0;
	event->header.tid = 0;
	event->interface = skb->ifindex;
	event->size = skb->len;
	event->captured = captured;
	event->vlan_tci = skb->vlan_present ? skb->vlan_tci | 0x1000 : 0;
	event->link = link;
	event->_pad[0] = 0;
}

/*
 * A record of constant size, as the verifier wants it: true if the frame fits.
 * `last` is the place of its last byte that is wanted: of a length the older
 * verifiers (5.10) do not see that it is not 0.
 */
static __always_inline int ring_record(struct __sk_buff *skb, enum frame_link link, __u64 last, const __u64 record_size)
{
	struct frame_event *event;

	if (last >= record_size - sizeof(*event))
		return 0;
	event = bpf_ringbuf_reserve(&frames, record_size, 0);
	if (!event) {
		count(FRAME_FULL);
		return 1;
	}
	describe(skb, link, event, last + 1);
	if (bpf_skb_load_bytes(skb, 0, event + 1, last + 1)) {
		bpf_ringbuf_discard(event, BPF_RB_NO_WAKEUP);
		count(FRAME_UNREAD);
		return 1;
	}
	count(FRAME_WRITTEN);
	bpf_ringbuf_submit(event, wake_flags(&frames, packet_settings.wake_bytes));
	return 1;
}

static __always_inline int to_ring(struct __sk_buff *skb, enum frame_link link)
{
	__u64 captured = wanted(skb, link), last = captured - 1;

	if (captured == 0)
		return 0;
	/* Else the compiler leaves out a bound that it knows, and the verifier does not. */
	asm volatile("" : "+r"(last));
	if (ring_record(skb, link, last, RECORD_TINY) || ring_record(skb, link, last, RECORD_SHORT) ||
	    ring_record(skb, link, last, RECORD_FRAME) || ring_record(skb, link, last, RECORD_LONG))
		return 0;
	ring_record(skb, link, last, RECORD_MAX);
	return 0;
}

static __always_inline int to_perf(struct __sk_buff *skb, enum frame_link link)
{
	__u64 captured = wanted(skb, link);
	struct frame_event event;

	if (captured == 0)
		return 0;
	describe(skb, link, &event, captured);
	/* The helper puts the first bytes of the frame behind the record. */
	if (bpf_perf_event_output(skb, &frames, captured << 32 | BPF_F_CURRENT_CPU, &event, sizeof(event)))
		count(FRAME_FULL);
	else
		count(FRAME_WRITTEN);
	return 0;
}

SEC("socket")
int ethernet_to_ring(struct __sk_buff *skb)
{
	return to_ring(skb, FRAME_ETHERNET);
}

SEC("socket")
int ethernet_to_perf(struct __sk_buff *skb)
{
	return to_perf(skb, FRAME_ETHERNET);
}

SEC("socket")
int ip_to_ring(struct __sk_buff *skb)
{
	return to_ring(skb, FRAME_IP);
}

SEC("socket")
int ip_to_perf(struct __sk_buff *skb)
{
	return to_perf(skb, FRAME_IP);
}

/* So that the skeleton has these types: no map has them. */
union frame_types {
	struct frame_event event;
	enum event_kind kind;
	enum frame_link link;
	enum frame_tally tally;
};

union frame_types frame_types;
