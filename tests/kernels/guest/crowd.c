/*
 * More threads than processors that say short things to each other, a fixed number of HTTP exchanges. So a thread is often put aside in
 * the middle of a call, and the next of its processor makes the same call.
 *
 *   crowd CLIENTS EXCHANGES      so many of each client, ten over each connection, to as many servers behind 127.0.0.1:9090
 *
 * The path of a request names its client and its number: /client/number. Requests are gathered and scattered; of the answers every second
 * is longer than what a short record holds. It ends when all have their answers, with status 1 where something failed.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define EACH 10 /* exchanges over one connection */

static const char NAMED[] = " HTTP/1.1\r\nHost: crowd.test\r\n\r\n";
static struct sockaddr_in here = { .sin_family = AF_INET };
static int listener, exchanges;
static atomic_int connections; /* that are still to be accepted */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int at_once(int connection)
{
	int on = 1;

	if (connection < 0 || setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)))
		die("connection");
	return connection;
}

static void *client(void *argument)
{
	char path[64], answer[2048];
	int connection = -1;
	int number;

	for (number = 0; number < exchanges; number++) {
		struct iovec pieces[2] = { { path, 0 }, { (void *)NAMED, sizeof(NAMED) - 1 } };
		size_t length = snprintf(path, sizeof(path), "GET /%ld/%d", (long)argument, number);

		if (number % EACH == 0) {
			if (connection >= 0)
				close(connection);
			connection = at_once(socket(AF_INET, SOCK_STREAM, 0));
			if (connect(connection, (struct sockaddr *)&here, sizeof(here)))
				die("connect");
		}
		pieces[0].iov_len = length;
		if (writev(connection, pieces, 2) != (ssize_t)(length + sizeof(NAMED) - 1))
			die("writev");
		if (read(connection, answer, sizeof(answer)) <= 0)
			die("read");
	}
	close(connection);
	return NULL;
}

static void *server(void *argument)
{
	char first[8], rest[256], text[2048];
	struct iovec pieces[2] = { { first, sizeof(first) }, { rest, sizeof(rest) } };
	int number = 0;

	while (atomic_fetch_sub(&connections, 1) > 0) {
		int connection = at_once(accept(listener, NULL, NULL));

		while (readv(connection, pieces, 2) > 0) {
			int body = number++ % 2 ? 1000 : 10;
			int length = snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%0*d", body, body, number);

			if (write(connection, text, length) != length)
				die("write");
		}
		close(connection);
	}
	return argument;
}

int main(int count, char **arguments)
{
	socklen_t size = sizeof(here);
	pthread_t *threads;
	int clients, on = 1;
	long i;

	if (count != 3)
		return 2;
	clients = atoi(arguments[1]);
	exchanges = atoi(arguments[2]);
	connections = clients * ((exchanges + EACH - 1) / EACH);
	threads = calloc(2 * clients, sizeof(*threads));
	here.sin_port = htons(9090);
	here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (struct sockaddr *)&here, size) || listen(listener, 2 * clients))
		die("listen");
	for (i = 0; i < clients; i++) {
		if (pthread_create(&threads[2 * i], NULL, server, NULL) ||
		    pthread_create(&threads[2 * i + 1], NULL, client, (void *)i))
			die("pthread_create");
	}
	for (i = 0; i < 2 * clients; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
