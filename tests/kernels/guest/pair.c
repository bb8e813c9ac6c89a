/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An HTTP server and its client, static, for guests: each moves its bytes by
 * one means of the kernel's, so that what the agent says can be held against
 * what was done.
 *
 *   pair server  --address A --port P --means M [--connections C]
 *   pair client  --address A --port P --means M --count N [--connections C] [--size BYTES] [--path PATH]
 *   pair refused --address A --port P --count N
 *   pair stuck   --address A --port P --count N
 *
 * A server says "ready" when it listens, takes connections one after the
 * other, and ends after C of them, or with SIGTERM. A client makes N requests
 * on each of C connections (1), one after the other: GET, or with --size POST
 * with a body. The answer has a body of the same size. Its status is 200, or
 * NNN where the path is /status/NNN. Both sides know every byte that must
 * arrive. `refused` connects N times to a port where nobody listens. `stuck`
 * has N processes wait in the middle of a send, since nobody reads what they
 * send; it says "ready" when all of them wait, until SIGTERM.
 *
 * Exit status: 0 all was exact, 1 something was not, 2 wrong arguments, 3 this
 * kernel does not have the means.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 4096
#define BODY_MAX (1 << 20)
#define BUFFER_SIZE (HEAD_MAX + BODY_MAX)
/* Of an answer to a request without a body. */
#define BODY_DEFAULT 16
/* Less than a pipe holds, so that filling one never waits. */
#define PIPE_PART 32768
#define PIECES 4
/* Of a connection; under emulation, with every hook there is. */
#define CONNECTION_SECONDS 120

enum exit_status { EXACT = 0, WRONG = 1, USAGE = 2, LACKING = 3 };

struct options {
	const char *means;
	const char *path;
	struct sockaddr_storage address;
	socklen_t address_len;
	char name[INET6_ADDRSTRLEN + 16];
	unsigned long count;
	unsigned long connections;
	unsigned long size;
};

/* An io_uring of which one entry is in use at a time. */
struct ring {
	int fd;
	unsigned int *sq_tail;
	unsigned int *sq_mask;
	unsigned int *sq_array;
	struct io_uring_sqe *sqes;
	unsigned int *cq_head;
	unsigned int *cq_tail;
	unsigned int *cq_mask;
	struct io_uring_cqe *cqes;
};

/* One side of a connection. The buffers outlive it. */
struct link {
	int fd;
	const struct means *means;
	struct ring ring;
	int pipe[2];
	int file;
	char *out;
	char *in;
};

/*
 * How bytes get into a socket and out of it: as read and write do, less than
 * wished and the errno. Where the body has a way of its own, the head is sent
 * alone, and on arrival it is taken without a byte of the body.
 */
struct means {
	const char *name;
	ssize_t (*send)(struct link *link, char *from, size_t size);
	ssize_t (*receive)(struct link *link, char *to, size_t size);
	ssize_t (*send_body)(struct link *link, char *from, size_t size);
	ssize_t (*receive_body)(struct link *link, char *to, size_t size);
	/* Of io_uring; 0, which is a no-op, where it is not used. */
	__u8 send_op;
	__u8 receive_op;
	__u8 sqe_flags;
};

/* What has been exact so far. */
struct tally {
	unsigned long connections;
	unsigned long exchanges;
	unsigned long body_bytes;
};

static void complain(const char *format, ...)
{
	va_list arguments;

	fputs("pair: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
}

/* Nothing here waits for ever: an alarm that nobody called off ends the program. */
static void on_alarm(int signal)
{
	static const char message[] = "pair: a connection took too long\n";
	ssize_t ignored = write(STDERR_FILENO, message, sizeof(message) - 1);

	(void)ignored;
	(void)signal;
	_exit(WRONG);
}

/* ---- means ------------------------------------------------------------ */

static ssize_t call_send(struct link *link, char *from, size_t size)
{
	return write(link->fd, from, size);
}

/* A receive that finds nothing, then what passes functions of a receive and is none, then one that waits. */
static ssize_t call_receive(struct link *link, char *to, size_t size)
{
	ssize_t came = recv(link->fd, to, size, MSG_DONTWAIT);
	const int on = 1;

	if (came >= 0 || errno != EAGAIN)
		return came;
	setsockopt(link->fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
	return read(link->fd, to, size);
}

/* Cuts memory into pieces of unlike sizes: 1 byte, 16, half of the rest, the rest. */
static int cut(char *memory, size_t size, struct iovec pieces[PIECES])
{
	const size_t wished[PIECES] = { 1, 16, size / 2, size };
	int count = 0;

	while (size > 0 && count < PIECES) {
		size_t len = wished[count] < size ? wished[count] : size;

		if (count == PIECES - 1)
			len = size;
		pieces[count++] = (struct iovec){ .iov_base = memory, .iov_len = len };
		memory += len;
		size -= len;
	}
	return count;
}

static ssize_t vector_send(struct link *link, char *from, size_t size)
{
	struct iovec pieces[PIECES];

	return writev(link->fd, pieces, cut(from, size, pieces));
}

static ssize_t vector_receive(struct link *link, char *to, size_t size)
{
	struct iovec pieces[PIECES];

	return readv(link->fd, pieces, cut(to, size, pieces));
}

static ssize_t msg_send(struct link *link, char *from, size_t size)
{
	struct iovec pieces[PIECES];
	struct msghdr message = { .msg_iov = pieces, .msg_iovlen = cut(from, size, pieces) };

	return sendmsg(link->fd, &message, 0);
}

static ssize_t msg_receive(struct link *link, char *to, size_t size)
{
	struct iovec pieces[PIECES];
	struct msghdr message = { .msg_iov = pieces, .msg_iovlen = cut(to, size, pieces) };

	return recvmsg(link->fd, &message, 0);
}

static ssize_t file_send_body(struct link *link, char *from, size_t size)
{
	/* A place of its own for each byte: the socket may still hold the pages of an earlier part. */
	off_t offset = from - link->out;

	if (pwrite(link->file, from, size, offset) != (ssize_t)size)
		return -1;
	return sendfile(link->fd, link->file, &offset, size);
}

static ssize_t splice_send_body(struct link *link, char *from, size_t size)
{
	size_t part = size < PIPE_PART ? size : PIPE_PART;
	size_t sent = 0;

	if (write(link->pipe[1], from, part) != (ssize_t)part)
		return -1;
	while (sent < part) {
		ssize_t moved = splice(link->pipe[0], NULL, link->fd, NULL, part - sent, 0);

		if (moved <= 0)
			return -1;
		sent += moved;
	}
	return sent;
}

static ssize_t splice_receive_body(struct link *link, char *to, size_t size)
{
	ssize_t moved = splice(link->fd, NULL, link->pipe[1], NULL, size < PIPE_PART ? size : PIPE_PART, 0);

	if (moved <= 0)
		return moved;
	/* What is in a pipe comes out at once. */
	return read(link->pipe[0], to, moved) == moved ? moved : -1;
}

static void *map_ring(int fd, size_t size, off_t offset)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
}

static bool open_ring(struct ring *ring)
{
	struct io_uring_params params = { 0 };
	char *sq, *cq;

	ring->fd = syscall(__NR_io_uring_setup, 8, &params);
	if (ring->fd < 0)
		return false;
	sq = map_ring(ring->fd, params.sq_off.array + params.sq_entries * sizeof(__u32), IORING_OFF_SQ_RING);
	cq = map_ring(ring->fd, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe),
		      IORING_OFF_CQ_RING);
	ring->sqes = map_ring(ring->fd, params.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || ring->sqes == MAP_FAILED)
		return false;
	ring->sq_tail = (unsigned int *)(sq + params.sq_off.tail);
	ring->sq_mask = (unsigned int *)(sq + params.sq_off.ring_mask);
	ring->sq_array = (unsigned int *)(sq + params.sq_off.array);
	ring->cq_head = (unsigned int *)(cq + params.cq_off.head);
	ring->cq_tail = (unsigned int *)(cq + params.cq_off.tail);
	ring->cq_mask = (unsigned int *)(cq + params.cq_off.ring_mask);
	ring->cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
	return true;
}

/* Operations by number, since 5.6; what is older has none that sends. */
static bool ring_has(const struct ring *ring, __u8 op)
{
	struct {
		struct io_uring_probe head;
		struct io_uring_probe_op ops[256];
	} probe;

	memset(&probe, 0, sizeof(probe));
	if (syscall(__NR_io_uring_register, ring->fd, IORING_REGISTER_PROBE, &probe, 256) < 0)
		return false;
	return op <= probe.head.last_op && probe.ops[op].flags & IO_URING_OP_SUPPORTED;
}

/* Hands over one entry and waits until it is done; its result, as of a system call. */
static ssize_t ring_run(struct link *link, const struct io_uring_sqe *entry)
{
	struct ring *ring = &link->ring;
	unsigned int tail = *ring->sq_tail;
	unsigned int slot = tail & *ring->sq_mask;
	unsigned int head = *ring->cq_head;
	int result;

	ring->sqes[slot] = *entry;
	ring->sqes[slot].fd = link->fd;
	ring->sqes[slot].flags = link->means->sqe_flags;
	ring->sq_array[slot] = slot;
	__atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
	if (syscall(__NR_io_uring_enter, ring->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		return -1;
	while (__atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE) == head) {
		if (syscall(__NR_io_uring_enter, ring->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0 && errno != EINTR)
			return -1;
	}
	result = ring->cqes[head & *ring->cq_mask].res;
	__atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
	if (result < 0) {
		errno = -result;
		return -1;
	}
	return result;
}

static ssize_t uring_send(struct link *link, char *from, size_t size)
{
	struct io_uring_sqe entry = { .opcode = link->means->send_op, .addr = (unsigned long)from, .len = size };

	/* As a registered buffer: the first of two. */
	return ring_run(link, &entry);
}

static ssize_t uring_receive(struct link *link, char *to, size_t size)
{
	struct io_uring_sqe entry = { .opcode = link->means->receive_op, .addr = (unsigned long)to, .len = size };

	entry.buf_index = link->means->receive_op == IORING_OP_READ_FIXED ? 1 : 0;
	return ring_run(link, &entry);
}

static ssize_t uring_msg_send(struct link *link, char *from, size_t size)
{
	struct iovec pieces[PIECES];
	struct msghdr message = { .msg_iov = pieces, .msg_iovlen = cut(from, size, pieces) };
	struct io_uring_sqe entry = { .opcode = IORING_OP_SENDMSG, .addr = (unsigned long)&message, .len = 1 };

	return ring_run(link, &entry);
}

static ssize_t uring_msg_receive(struct link *link, char *to, size_t size)
{
	struct iovec pieces[PIECES];
	struct msghdr message = { .msg_iov = pieces, .msg_iovlen = cut(to, size, pieces) };
	struct io_uring_sqe entry = { .opcode = IORING_OP_RECVMSG, .addr = (unsigned long)&message, .len = 1 };

	return ring_run(link, &entry);
}

static const struct means all_means[] = {
	{ .name = "call", .send = call_send, .receive = call_receive },
	{ .name = "msg", .send = msg_send, .receive = msg_receive },
	{ .name = "vector", .send = vector_send, .receive = vector_receive },
	{ .name = "file", .send = call_send, .receive = call_receive, .send_body = file_send_body },
	{ .name = "splice",
	  .send = call_send,
	  .receive = call_receive,
	  .send_body = splice_send_body,
	  .receive_body = splice_receive_body },
	{ .name = "uring",
	  .send = uring_send,
	  .receive = uring_receive,
	  .send_op = IORING_OP_SEND,
	  .receive_op = IORING_OP_RECV },
	{ .name = "uring-msg",
	  .send = uring_msg_send,
	  .receive = uring_msg_receive,
	  .send_op = IORING_OP_SENDMSG,
	  .receive_op = IORING_OP_RECVMSG },
	{ .name = "uring-fixed",
	  .send = uring_send,
	  .receive = uring_receive,
	  .send_op = IORING_OP_WRITE_FIXED,
	  .receive_op = IORING_OP_READ_FIXED },
	/* A worker of the kernel's does the call, which may run on behalf of another task. */
	{ .name = "uring-thread",
	  .send = uring_send,
	  .receive = uring_receive,
	  .send_op = IORING_OP_SEND,
	  .receive_op = IORING_OP_RECV,
	  .sqe_flags = IOSQE_ASYNC },
};

static const struct means *means_of(const char *name)
{
	for (size_t i = 0; i < sizeof(all_means) / sizeof(all_means[0]); i++) {
		if (!strcmp(all_means[i].name, name))
			return &all_means[i];
	}
	return NULL;
}

/* What the means of a link need; all of it ends with the program. */
static enum exit_status open_means(struct link *link)
{
	struct iovec buffers[2];

	link->out = mmap(NULL, BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	link->in = mmap(NULL, BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (link->out == MAP_FAILED || link->in == MAP_FAILED) {
		complain("no memory for buffers");
		return WRONG;
	}
	if (link->means->send_body == file_send_body) {
		link->file = memfd_create("body", MFD_CLOEXEC);
		if (link->file < 0) {
			complain("memfd_create: %s", strerror(errno));
			return LACKING;
		}
	}
	if (link->means->send_body == splice_send_body && pipe2(link->pipe, O_CLOEXEC)) {
		complain("pipe: %s", strerror(errno));
		return WRONG;
	}
	if (!link->means->send_op)
		return EXACT;
	if (!open_ring(&link->ring)) {
		complain("this kernel has no io_uring: %s", strerror(errno));
		return LACKING;
	}
	if (!ring_has(&link->ring, link->means->send_op) || !ring_has(&link->ring, link->means->receive_op)) {
		complain("the io_uring of this kernel does not have %s", link->means->name);
		return LACKING;
	}
	buffers[0] = (struct iovec){ .iov_base = link->out, .iov_len = BUFFER_SIZE };
	buffers[1] = (struct iovec){ .iov_base = link->in, .iov_len = BUFFER_SIZE };
	if (link->means->send_op == IORING_OP_WRITE_FIXED &&
	    syscall(__NR_io_uring_register, link->ring.fd, IORING_REGISTER_BUFFERS, buffers, 2) < 0) {
		complain("registering buffers: %s", strerror(errno));
		return WRONG;
	}
	return EXACT;
}

/* ---- messages --------------------------------------------------------- */

/* One message: a head of HTTP, and the length of what follows. */
struct message {
	size_t head_len;
	size_t body_len;
	const char *body;
};

/* The byte at a place of the n-th body of a connection, each way another. */
static char expected_byte(size_t at, unsigned long n, bool is_answer)
{
	return 'a' + (at * 7 + at / 251 + n + (is_answer ? 11 : 0)) % 26;
}

static bool is_exact(const struct message *message, unsigned long n, bool is_answer)
{
	for (size_t i = 0; i < message->body_len; i++) {
		if (message->body[i] != expected_byte(i, n, is_answer)) {
			complain("byte %zu of body %lu is wrong", i, n);
			return false;
		}
	}
	return true;
}

static bool send_all(struct link *link, ssize_t (*send)(struct link *, char *, size_t), char *from, size_t size)
{
	while (size > 0) {
		ssize_t sent = send(link, from, size);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0) {
			complain("sending by %s: %s", link->means->name, strerror(errno));
			return false;
		}
		from += sent;
		size -= sent;
	}
	return true;
}

/* Sends the head that is in link->out, and the n-th body. */
static bool send_message(struct link *link, size_t head_len, size_t body_len, unsigned long n, bool is_answer)
{
	char *body = link->out + head_len;

	for (size_t i = 0; i < body_len; i++)
		body[i] = expected_byte(i, n, is_answer);
	if (!link->means->send_body)
		return send_all(link, link->means->send, link->out, head_len + body_len);
	return send_all(link, link->means->send, link->out, head_len) &&
	       send_all(link, link->means->send_body, body, body_len);
}

/* What a receive may take: no byte of the body where that has a way of its own. Negative: nothing came. */
static ssize_t next_part_of_head(struct link *link, size_t have)
{
	ssize_t seen;
	char *end;

	if (!link->means->receive_body)
		return BUFFER_SIZE - have;
	seen = recv(link->fd, link->in + have, HEAD_MAX - have, MSG_PEEK);
	if (seen <= 0)
		return -1;
	end = memmem(link->in, have + seen, "\r\n\r\n", 4);
	return end ? end + 4 - (link->in + have) : seen;
}

/*
 * Takes the next message into link->in. 1: there it is; 0: the other side has
 * closed before its first byte; -1: it is broken.
 */
static int receive_message(struct link *link, struct message *message)
{
	ssize_t (*receive_body)(struct link *, char *, size_t) = link->means->receive_body ?: link->means->receive;
	size_t have = 0;
	char *end = NULL, *field;

	while (!end) {
		ssize_t part = have < HEAD_MAX ? next_part_of_head(link, have) : 0;
		ssize_t came;

		if (have >= HEAD_MAX) {
			complain("a head of more than %d bytes", HEAD_MAX);
			return -1;
		}
		came = part < 0 ? 0 : link->means->receive(link, link->in + have, part);
		if (came < 0 && errno == EINTR)
			continue;
		if (came == 0 && have == 0)
			return 0;
		if (came <= 0) {
			complain("receiving by %s: %s", link->means->name, came ? strerror(errno) : "cut off");
			return -1;
		}
		have += came;
		end = memmem(link->in, have, "\r\n\r\n", 4);
	}
	*end = '\0';
	message->head_len = end + 4 - link->in;
	field = strstr(link->in, "\r\nContent-Length: ");
	message->body_len = field ? strtoul(field + 18, NULL, 10) : 0;
	message->body = link->in + message->head_len;
	if (message->head_len > HEAD_MAX || message->body_len > BODY_MAX) {
		complain("a message of %zu and %zu bytes", message->head_len, message->body_len);
		return -1;
	}
	while (have < message->head_len + message->body_len) {
		ssize_t came = receive_body(link, link->in + have, message->head_len + message->body_len - have);

		if (came < 0 && errno == EINTR)
			continue;
		if (came <= 0) {
			complain("receiving by %s: %s", link->means->name, came ? strerror(errno) : "cut off");
			return -1;
		}
		have += came;
	}
	if (have > message->head_len + message->body_len) {
		complain("%zu bytes too many", have - message->head_len - message->body_len);
		return -1;
	}
	return 1;
}

/* The status with which a path is answered. */
static unsigned int status_of(const char *path)
{
	unsigned int status;

	return sscanf(path, "/status/%3u", &status) == 1 && status >= 200 && status <= 599 ? status : 200;
}

/* ---- the two sides ---------------------------------------------------- */

/* Answers requests until the client closes. */
static bool serve(struct link *link, struct tally *tally)
{
	struct message message;
	int found;

	for (unsigned long n = 0; (found = receive_message(link, &message)) > 0; n++) {
		char method[8], path[1024];
		size_t body_len;
		int head_len;

		if (sscanf(link->in, "%7s %1023s HTTP/1.1", method, path) != 2 || !is_exact(&message, n, false))
			return false;
		body_len = message.body_len ?: BODY_DEFAULT;
		head_len = snprintf(
			link->out, HEAD_MAX,
			"HTTP/1.1 %u Status\r\nServer: pair\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n",
			status_of(path), body_len);
		if (!send_message(link, head_len, body_len, n, true))
			return false;
		tally->exchanges++;
		tally->body_bytes += message.body_len + body_len;
	}
	return found == 0;
}

/* Makes the requests of one connection. */
static bool ask(struct link *link, const struct options *options, struct tally *tally)
{
	const size_t answer_len = options->size ?: BODY_DEFAULT;

	for (unsigned long n = 0; n < options->count; n++) {
		struct message message;
		char length[64] = "";
		unsigned int status = 0;
		int head_len;

		if (options->size)
			snprintf(length, sizeof(length), "Content-Length: %lu\r\n", options->size);
		head_len = snprintf(link->out, HEAD_MAX, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: pair\r\n%s\r\n",
				    options->size ? "POST" : "GET", options->path, options->name, length);
		if (!send_message(link, head_len, options->size, n, false))
			return false;
		if (receive_message(link, &message) != 1) {
			complain("no answer to request %lu", n);
			return false;
		}
		if (sscanf(link->in, "HTTP/1.1 %3u", &status) != 1 || status != status_of(options->path)) {
			complain("status %u in answer to %s", status, options->path);
			return false;
		}
		if (message.body_len != answer_len) {
			complain("a body of %zu bytes, not %zu", message.body_len, answer_len);
			return false;
		}
		if (!is_exact(&message, n, true))
			return false;
		tally->exchanges++;
		tally->body_bytes += options->size + message.body_len;
	}
	return true;
}

/* Heads and bodies that leave one after the other must not wait for an acknowledgement. */
static void send_at_once(int fd)
{
	const int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static void report(const char *side, const struct options *options, const struct tally *tally)
{
	printf("pair: %s %s by %s: %lu exchanges on %lu connections, %lu bytes of bodies\n", side, options->name,
	       options->means, tally->exchanges, tally->connections, tally->body_bytes);
}

/* A socket that listens, or -1. */
static int listen_at(const struct options *options)
{
	const int on = 1;
	int fd = socket(options->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (options->address.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, (const struct sockaddr *)&options->address, options->address_len) || listen(fd, 128))
		return -1;
	return fd;
}

static volatile sig_atomic_t is_to_end;

static void on_end(int signal)
{
	(void)signal;
	is_to_end = 1;
}

static enum exit_status run_server(struct link *link, const struct options *options)
{
	struct pollfd listener = { .events = POLLIN };
	struct tally tally = { 0 };
	bool is_all_exact = true;
	sigset_t ends, before;

	/* They arrive while the server waits for a connection, and at no other time. */
	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	sigprocmask(SIG_BLOCK, &ends, &before);
	signal(SIGTERM, on_end);
	signal(SIGINT, on_end);
	listener.fd = listen_at(options);
	if (listener.fd < 0) {
		complain("listening at %s: %s", options->name, strerror(errno));
		return WRONG;
	}
	printf("pair: server %s by %s: ready\n", options->name, options->means);
	fflush(stdout);
	while (!is_to_end && (!options->connections || tally.connections < options->connections)) {
		if (ppoll(&listener, 1, NULL, &before) <= 0)
			continue;
		link->fd = accept4(listener.fd, NULL, NULL, SOCK_CLOEXEC);
		if (link->fd < 0)
			continue;
		send_at_once(link->fd);
		alarm(CONNECTION_SECONDS);
		is_all_exact = serve(link, &tally) && is_all_exact;
		alarm(0);
		close(link->fd);
		tally.connections++;
	}
	report("server", options, &tally);
	return is_all_exact ? EXACT : WRONG;
}

/* A socket that is connected, or -1 and errno. */
static int connect_to(const struct options *options)
{
	int fd = socket(options->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (const struct sockaddr *)&options->address, options->address_len)) {
		int reason = errno;

		close(fd);
		errno = reason;
		return -1;
	}
	return fd;
}

static enum exit_status run_client(struct link *link, const struct options *options)
{
	const unsigned long connections = options->connections ?: 1;
	struct tally tally = { 0 };
	bool is_all_exact = true;

	while (is_all_exact && tally.connections < connections) {
		alarm(CONNECTION_SECONDS);
		link->fd = connect_to(options);
		if (link->fd < 0) {
			complain("connecting to %s: %s", options->name, strerror(errno));
			return WRONG;
		}
		send_at_once(link->fd);
		is_all_exact = ask(link, options, &tally);
		close(link->fd);
		alarm(0);
		tally.connections++;
	}
	report("client", options, &tally);
	return is_all_exact ? EXACT : WRONG;
}

static enum exit_status run_refused(const struct options *options)
{
	alarm(CONNECTION_SECONDS);
	for (unsigned long n = 0; n < options->count; n++) {
		int fd = connect_to(options);

		if (fd >= 0 || errno != ECONNREFUSED) {
			complain("connecting to %s: %s", options->name, fd < 0 ? strerror(errno) : "somebody listens");
			return WRONG;
		}
	}
	printf("pair: refused %s: %lu connections\n", options->name, options->count);
	return EXACT;
}

/* Whether a process waits, by the state that the kernel tells behind its name. */
static bool is_waiting(pid_t process)
{
	char path[32], state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", process);
	file = fopen(path, "r");
	if (!file)
		return false;
	if (fscanf(file, "%*d %*s %c", &state) != 1)
		state = 0;
	fclose(file);
	return state == 'S';
}

/* A process that sends until nothing more fits, and waits there. */
static pid_t start_stuck(const struct options *options)
{
	static char bytes[BODY_MAX];
	pid_t parent = getpid();
	pid_t process = fork();
	int fd;

	if (process)
		return process;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fd = getppid() == parent ? connect_to(options) : -1;
	while (fd >= 0 && write(fd, bytes, sizeof(bytes)) > 0)
		;
	_exit(WRONG);
}

static enum exit_status run_stuck(const struct options *options)
{
	const struct timespec moment = { .tv_nsec = 10000000 };
	int listener = listen_at(options);

	if (listener < 0) {
		complain("listening at %s: %s", options->name, strerror(errno));
		return WRONG;
	}
	alarm(CONNECTION_SECONDS);
	for (unsigned long n = 0; n < options->count; n++) {
		pid_t process = start_stuck(options);
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		int came = 0, before = -1;

		/* left alone: all that is ever read of it is how much is there */
		while (process > 0 && fd >= 0 && (came == 0 || came != before || !is_waiting(process))) {
			nanosleep(&moment, NULL);
			before = came;
			if (ioctl(fd, FIONREAD, &came) || kill(process, 0))
				fd = -1;
		}
		if (process < 0 || fd < 0) {
			complain("a sender at %s: %s", options->name, strerror(errno));
			return WRONG;
		}
	}
	alarm(0);
	printf("pair: stuck %s: ready\n", options->name);
	fflush(stdout);
	for (;;)
		pause();
}

/* ---- arguments -------------------------------------------------------- */

static enum exit_status usage(void)
{
	fputs("usage: pair server  --address A --port P --means M [--connections C]\n"
	      "       pair client  --address A --port P --means M --count N [--connections C] [--size BYTES] [--path "
	      "PATH]\n"
	      "       pair refused --address A --port P --count N\n"
	      "       pair stuck   --address A --port P --count N\n"
	      "means:",
	      stderr);
	for (size_t i = 0; i < sizeof(all_means) / sizeof(all_means[0]); i++)
		fprintf(stderr, " %s", all_means[i].name);
	fputc('\n', stderr);
	return USAGE;
}

static bool parse_number(const char *text, unsigned long most, unsigned long *number)
{
	char *end;

	errno = 0;
	*number = strtoul(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end && !errno && *number <= most;
}

static bool parse_address(const char *address, unsigned long port, struct options *options)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&options->address;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&options->address;

	if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		options->address_len = sizeof(*v4);
		snprintf(options->name, sizeof(options->name), "%s:%lu", address, port);
		return true;
	}
	if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		options->address_len = sizeof(*v6);
		snprintf(options->name, sizeof(options->name), "[%s]:%lu", address, port);
		return true;
	}
	return false;
}

static bool parse_options(char **arguments, struct options *options)
{
	const char *address = "";
	unsigned long port = 0;

	for (; arguments[0]; arguments += 2) {
		const char *name = arguments[0], *value = arguments[1];
		bool is_good = true;

		if (!value)
			return false;
		if (!strcmp(name, "--address"))
			address = value;
		else if (!strcmp(name, "--port"))
			is_good = parse_number(value, 65535, &port);
		else if (!strcmp(name, "--means"))
			options->means = value;
		else if (!strcmp(name, "--path"))
			options->path = value;
		else if (!strcmp(name, "--count"))
			is_good = parse_number(value, 1000000, &options->count);
		else if (!strcmp(name, "--connections"))
			is_good = parse_number(value, 1000000, &options->connections);
		else if (!strcmp(name, "--size"))
			is_good = parse_number(value, BODY_MAX, &options->size);
		else
			is_good = false;
		if (!is_good)
			return false;
	}
	return port > 0 && options->path[0] == '/' && strlen(options->path) < 1024 &&
	       parse_address(address, port, options);
}

int main(int argc, char **argv)
{
	struct options options = { .means = "", .path = "/" };
	struct link link = { .fd = -1, .file = -1, .pipe = { -1, -1 } };
	enum exit_status status;

	if (argc < 2 || !parse_options(argv + 2, &options))
		return usage();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGALRM, on_alarm);
	if (!strcmp(argv[1], "refused"))
		return options.count ? run_refused(&options) : usage();
	if (!strcmp(argv[1], "stuck"))
		return options.count ? run_stuck(&options) : usage();
	link.means = means_of(options.means);
	if (!link.means)
		return usage();
	if (strcmp(argv[1], "server") && (strcmp(argv[1], "client") || !options.count))
		return usage();
	status = open_means(&link);
	if (status != EXACT)
		return status;
	return strcmp(argv[1], "server") ? run_client(&link, &options) : run_server(&link, &options);
}
