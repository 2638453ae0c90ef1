#include "base/acceptor.h"

#include <errno.h>
#include <event2/event.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"

#define PAUSE_MS 100

struct acceptor {
	int fd;
	struct event *readable;
	struct event *resume;
	void (*connected)(void *data, int fd);
	void *data;
};

// What is wrong with one connection, or nothing at all, is no reason to pause (accept(2)).
static bool is_passing(int error)
{
	switch (error) {
	case EAGAIN:
	case EINTR:
	case ECONNABORTED:
	case EPROTO:
	case ENETDOWN:
	case EHOSTUNREACH:
	case ENETUNREACH:
		return true;
	default:
		return false;
	}
}

// One connection a time: level-triggered, and the handler may have destroyed the acceptor.
static void handle_readable(evutil_socket_t fd, short what, void *data)
{
	(void)what;
	struct acceptor *acceptor = data;
	int connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	if (connection >= 0) {
		acceptor->connected(acceptor->data, connection);
		return;
	}
	if (is_passing(errno)) {
		return;
	}
	log_limited(LOG_ERROR, "cannot accept a connection: %m");
	event_del(acceptor->readable);
	const struct timeval pause = {.tv_usec = PAUSE_MS * 1000};
	event_add(acceptor->resume, &pause);
}

static void handle_resume(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct acceptor *acceptor = data;
	event_add(acceptor->readable, NULL);
}

struct acceptor *acceptor_create(
	struct event_base *base, int fd, void (*connected)(void *data, int fd), void *data)
{
	struct acceptor *acceptor = calloc(1, sizeof(*acceptor));
	if (acceptor == NULL) {
		close(fd);
		errno = ENOMEM;
		return NULL;
	}
	acceptor->fd = fd;
	acceptor->connected = connected;
	acceptor->data = data;
	acceptor->readable = event_new(base, fd, EV_READ | EV_PERSIST, handle_readable, acceptor);
	acceptor->resume = evtimer_new(base, handle_resume, acceptor);
	if (acceptor->readable == NULL || acceptor->resume == NULL ||
		event_add(acceptor->readable, NULL) < 0) {
		acceptor_destroy(acceptor);
		errno = ENOMEM;
		return NULL;
	}
	return acceptor;
}

int acceptor_take_socket(struct acceptor *acceptor)
{
	if (acceptor->readable != NULL) {
		event_free(acceptor->readable);
	}
	if (acceptor->resume != NULL) {
		event_free(acceptor->resume);
	}
	int fd = acceptor->fd;
	free(acceptor);
	return fd;
}

void acceptor_destroy(struct acceptor *acceptor)
{
	if (acceptor != NULL) {
		close(acceptor_take_socket(acceptor));
	}
}
