// The least that a proxy can do: bytes and fds from one UNIX socket to another, for many clients.
// Two of them in a row are the floor that a pair of proxies is compared with.

#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "tests/bench/listen.h"
#include "tests/bench/passing.h"

#define CHUNK_SIZE 65536
#define EVENTS_MAX 64

// One socket of a pair, with what it received and its peer could not take yet.
struct end {
	struct end *peer;
	int fd;
	uint32_t interest;
	bool eof;

	size_t start, length;     // within bytes
	struct passed_fds passed; // with the byte at start
	char bytes[CHUNK_SIZE];
};

struct pair {
	struct end ends[2];
	struct pair *next_dead;
	bool dead;
};

static int epoll_fd = -1;
static struct pair *dead_pairs; // freed when no event of this round can name them any more

static ssize_t receive(struct end *end)
{
	ssize_t length =
		passing_recv(end->fd, end->bytes, sizeof(end->bytes), &end->passed, MSG_DONTWAIT);
	if (length > 0) {
		end->start = 0;
		end->length = (size_t)length;
	}
	return length;
}

// Sends what from received as far as to takes it. Returns false when to is broken.
static bool forward(struct end *from, struct end *to)
{
	while (from->length > 0) {
		ssize_t length = passing_send(to->fd, from->bytes + from->start, from->length,
			&from->passed, MSG_DONTWAIT);
		if (length < 0) {
			return errno == EAGAIN;
		}
		passed_fds_close(&from->passed);
		from->start += (size_t)length;
		from->length -= (size_t)length;
	}
	return true;
}

static void update_interest(struct end *end)
{
	uint32_t interest = (end->length == 0 && !end->eof ? EPOLLIN : 0u) |
		(end->peer->length > 0 ? EPOLLOUT : 0u);
	if (interest == end->interest) {
		return;
	}
	struct epoll_event event = {.events = interest, .data.ptr = end};
	epoll_ctl(epoll_fd, EPOLL_CTL_MOD, end->fd, &event);
	end->interest = interest;
}

static void pair_kill(struct pair *pair)
{
	if (pair->dead) {
		return;
	}
	for (int i = 0; i < 2; i++) {
		close(pair->ends[i].fd);
		passed_fds_close(&pair->ends[i].passed);
	}
	pair->dead = true;
	pair->next_dead = dead_pairs;
	dead_pairs = pair;
}

static void free_dead_pairs(void)
{
	while (dead_pairs != NULL) {
		struct pair *pair = dead_pairs;
		dead_pairs = pair->next_dead;
		free(pair);
	}
}

static struct pair *pair_of(struct end *end)
{
	// the first of the two is where the pair is
	return (struct pair *)(end < end->peer ? end : end->peer);
}

static void handle_end(struct end *end, uint32_t events)
{
	bool alive = (events & EPOLLERR) == 0;
	if (alive && (events & EPOLLOUT)) {
		alive = forward(end->peer, end);
	}
	if (alive && (events & (EPOLLIN | EPOLLHUP)) && end->length == 0) {
		ssize_t length = receive(end);
		end->eof = length == 0;
		alive = length > 0 ? forward(end, end->peer) : length == 0 || errno == EAGAIN;
	}
	// Wayland knows no half-closed connection: after the last byte of one side, both are over.
	if (!alive || (end->eof && end->length == 0) ||
		(end->peer->eof && end->peer->length == 0)) {
		pair_kill(pair_of(end));
		return;
	}
	update_interest(end);
	update_interest(end->peer);
}

static int connect_upstream(const struct sockaddr_un *upstream)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)upstream, sizeof(*upstream)) < 0) {
		warn("%s", upstream->sun_path);
		close(fd);
		return -1;
	}
	return fd;
}

static void pair_create(int client, int upstream)
{
	struct pair *pair = malloc(sizeof(*pair)); // calloc would touch both buffers
	if (pair == NULL) {
		err(1, "client");
	}
	pair->dead = false;
	int fds[2] = {client, upstream};
	for (int i = 0; i < 2; i++) {
		struct end *end = &pair->ends[i];
		end->peer = &pair->ends[1 - i];
		end->fd = fds[i];
		end->interest = EPOLLIN;
		end->eof = false;
		end->length = end->passed.count = 0;
		struct epoll_event event = {.events = end->interest, .data.ptr = end};
		if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, end->fd, &event) < 0) {
			err(1, "epoll_ctl");
		}
	}
}

static void accept_client(int listener, const struct sockaddr_un *upstream)
{
	int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (client < 0) {
		return;
	}
	int fd = connect_upstream(upstream);
	if (fd < 0) {
		close(client);
		return;
	}
	pair_create(client, fd);
}

int main(int argc, char *argv[])
{
	if (argc != 3 || argv[1][0] == '-') {
		fprintf(stderr, "usage: bench-relay DISPLAY UPSTREAM\n");
		return 2;
	}
	struct sockaddr_un upstream = listen_address(argv[2]);
	int listener = listen_on(argv[1]);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = {.events = EPOLLIN};
	if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event) < 0) {
		err(1, "epoll");
	}
	puts("READY");
	fflush(stdout);
	while (true) {
		struct epoll_event events[EVENTS_MAX];
		int count = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
		for (int i = 0; i < count; i++) {
			struct end *end = events[i].data.ptr;
			if (end == NULL) {
				accept_client(listener, &upstream);
			} else if (!pair_of(end)->dead) {
				handle_end(end, events[i].events);
			}
		}
		free_dead_pairs();
	}
}
