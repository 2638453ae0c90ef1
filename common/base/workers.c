#include "base/workers.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <wayland-util.h>

#include "base/child.h"
#include "base/closer.h"
#include "base/log.h"
#include "base/scm.h"

#define SPARES           2
#define REFILL_AFTER_MS  10
#define EARLY_DEATHS_MAX 3    // spares in a row that did not even live for
#define EARLY_DEATH_MS   1000 // this long
#define RECORDS_PER_WAKE 16

static const char ready_record[] = "ready"; // of workers_ready

struct worker {
	struct wl_list link; // workers.list
	struct workers *workers;
	pid_t pid;
	int fd;
	struct event *readable;
	int64_t started_ms;
	bool ready;    // has said so
	bool busy;     // has a session
	bool rejected; // has sent what makes no sense
	struct workers_sender sender;
};

struct workers {
	struct event_base *base;
	const struct workers_handler *handler;
	void *data;
	char **argv;          // of a worker; the strings are borrowed
	struct wl_list list;  // worker.link, the newest first
	struct event *child;  // SIGCHLD
	struct event *refill; // starts spares, once the caller has returned to the loop
	struct event *grace;  // at the end
	unsigned int early_deaths;
	bool stopping;
};

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static size_t count(const struct workers *workers, bool busy)
{
	size_t n = 0;
	struct worker *worker;
	wl_list_for_each (worker, &workers->list, link) {
		n += worker->busy == busy ? 1 : 0;
	}
	return n;
}

// Nothing that it says is listened to any more.
static void reject(struct worker *worker)
{
	worker->rejected = true;
	event_del(worker->readable);
	kill(worker->pid, SIGKILL);
}

static bool handle_record(void *data, const void *record, size_t len, struct fdlist *fds)
{
	struct worker *worker = data;
	const struct workers *workers = worker->workers;
	if (len == sizeof(ready_record) && memcmp(record, ready_record, len) == 0) {
		worker->ready = true;
		return true;
	}
	return workers->handler->record(workers->data, &worker->sender, record, len, fds);
}

static void handle_readable(evutil_socket_t fd, short what, void *data)
{
	(void)what;
	struct worker *worker = data;
	switch (child_read_records(fd, RECORDS_PER_WAKE, handle_record, worker)) {
	case CHILD_GOES_ON:
		break;
	case CHILD_GONE:
		event_del(worker->readable); // SIGCHLD follows
		break;
	case CHILD_NONSENSE:
		reject(worker);
		break;
	}
}

static void worker_free(struct worker *worker)
{
	wl_list_remove(&worker->link);
	event_free(worker->readable);
	closer_close_socket(worker->fd);
	free(worker);
}

// NULL with errno, which has been logged.
static struct worker *worker_start(struct workers *workers)
{
	struct worker *worker = calloc(1, sizeof(*worker));
	if (worker == NULL) {
		return NULL;
	}
	worker->workers = workers;
	worker->fd = child_start(workers->argv, &worker->pid);
	if (worker->fd < 0) {
		errno = -worker->fd;
		goto err_worker;
	}
	worker->sender.pid = worker->pid;
	worker->started_ms = now_ms();
	worker->readable =
		event_new(workers->base, worker->fd, EV_READ | EV_PERSIST, handle_readable, worker);
	if (worker->readable == NULL || event_add(worker->readable, NULL) < 0) {
		errno = ENOMEM;
		goto err_child;
	}
	wl_list_insert(&workers->list, &worker->link);
	return worker;

err_child:;
	int saved = errno;
	if (worker->readable != NULL) {
		event_free(worker->readable);
	}
	close(worker->fd);
	kill(worker->pid, SIGKILL);
	waitpid(worker->pid, NULL, 0);
	errno = saved;
err_worker:
	free(worker);
	log_limited(LOG_ERROR, "cannot start a session process: %m");
	return NULL;
}

static void refill_later(struct workers *workers)
{
	if (!workers->stopping && workers->early_deaths < EARLY_DEATHS_MAX) {
		// Not at once: starting a process would take the time of the session that has just
		// begun. Connections that come meanwhile find the other spares, or start their own.
		const struct timeval later = {.tv_usec = REFILL_AFTER_MS * 1000};
		event_add(workers->refill, &later);
	}
}

static void handle_refill(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct workers *workers = data;
	while (!workers->stopping && count(workers, false) < SPARES) {
		if (worker_start(workers) == NULL) {
			return; // the next assign tries again
		}
	}
}

static void spare_died(struct workers *workers, const struct worker *worker)
{
	bool early = now_ms() - worker->started_ms < EARLY_DEATH_MS;
	workers->early_deaths = early ? workers->early_deaths + 1 : 0;
	if (workers->early_deaths == EARLY_DEATHS_MAX && !workers->stopping) {
		log_error("session processes end as soon as they start: none is kept ready");
	}
	refill_later(workers);
}

static void reap(struct worker *worker)
{
	int status;
	if (waitpid(worker->pid, &status, WNOHANG) != worker->pid) {
		return;
	}
	struct workers *workers = worker->workers;
	if (!worker->rejected) {
		child_read_last(worker->fd, handle_record, worker);
	}
	bool busy = worker->busy;
	const struct workers_sender sender = worker->sender;
	if (!busy) {
		spare_died(workers, worker);
	}
	worker_free(worker);
	if (busy) {
		workers->handler->gone(workers->data, &sender, status);
	}
}

static void handle_child(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct workers *workers = data;
	struct worker *worker, *next;
	wl_list_for_each_safe (worker, next, &workers->list, link) {
		reap(worker);
	}
}

static void signal_all(struct workers *workers, int signal)
{
	struct worker *worker;
	wl_list_for_each (worker, &workers->list, link) {
		kill(worker->pid, signal);
	}
}

static void handle_grace(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct workers *workers = data;
	size_t n = count(workers, true);
	if (n > 0) {
		log_warn("%zu session processes did not end in time and were killed", n);
	}
	signal_all(workers, SIGKILL);
}

static void workers_free(struct workers *workers)
{
	struct event *const events[] = {workers->child, workers->refill, workers->grace};
	for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
		if (events[i] != NULL) {
			event_free(events[i]);
		}
	}
	free(workers->argv);
	free(workers);
}

struct workers *workers_create(struct event_base *base, char *const argv[],
	const struct workers_handler *handler, void *data)
{
	struct workers *workers = calloc(1, sizeof(*workers));
	if (workers == NULL) {
		return NULL;
	}
	workers->base = base;
	workers->handler = handler;
	workers->data = data;
	wl_list_init(&workers->list);
	workers->argv = child_argv(argv, "--session-fd");
	workers->child = evsignal_new(base, SIGCHLD, handle_child, workers);
	workers->refill = evtimer_new(base, handle_refill, workers);
	workers->grace = evtimer_new(base, handle_grace, workers);
	if (workers->argv == NULL || workers->child == NULL || workers->refill == NULL ||
		workers->grace == NULL || event_add(workers->child, NULL) < 0) {
		workers_free(workers);
		errno = ENOMEM;
		return NULL;
	}
	if (worker_start(workers) == NULL) {
		int saved = errno;
		workers_free(workers);
		errno = saved;
		return NULL;
	}
	refill_later(workers);
	return workers;
}

void workers_destroy(struct workers *workers, int grace_ms)
{
	if (workers == NULL) {
		return;
	}
	workers->stopping = true;
	signal_all(workers, SIGTERM);
	struct timeval grace = {.tv_sec = grace_ms / 1000, .tv_usec = grace_ms % 1000 * 1000};
	if (event_add(workers->grace, &grace) < 0) {
		signal_all(workers, SIGKILL);
	}
	while (!wl_list_empty(&workers->list)) {
		event_base_loop(workers->base, EVLOOP_ONCE);
	}
	workers_free(workers);
}

// The newest that is ready: what it has touched is still in the caches. Else the oldest, which will be
// ready first. NULL: there is none.
static struct worker *find_spare(struct workers *workers)
{
	struct worker *worker, *spare = NULL;
	wl_list_for_each (worker, &workers->list, link) {
		if (!worker->busy && (spare == NULL || !spare->ready)) {
			spare = worker;
		}
	}
	return spare;
}

static int send_record(struct worker *worker, unsigned int number, const void *record, size_t len,
	const struct fdlist *fds)
{
	struct iovec iov = {.iov_base = (void *)record, .iov_len = len};
	ssize_t n = scm_send(worker->fd, &iov, 1, fds, fds->count);
	if (n < 0) {
		return (int)n;
	}
	worker->busy = true;
	worker->sender.number = number;
	return 0;
}

static int assign(struct workers *workers, unsigned int number, const void *record, size_t len,
	const struct fdlist *fds)
{
	struct worker *spare = find_spare(workers);
	if (spare != NULL && send_record(spare, number, record, len, fds) == 0) {
		return 0;
	}
	struct worker *worker = worker_start(workers);
	return worker == NULL ? -errno : send_record(worker, number, record, len, fds);
}

int workers_assign(struct workers *workers, unsigned int number, const void *record, size_t len,
	struct fdlist *fds)
{
	assert(len > 0 && len <= CHILD_RECORD_MAX && fds->count <= SCM_MAX);
	int error = assign(workers, number, record, len, fds);
	if (error == 0) {
		closer_close_sent(fds);
	}
	workers->early_deaths = 0;
	refill_later(workers);
	return error;
}

int workers_tell(
	struct workers *workers, unsigned int number, const void *record, size_t len, int fd)
{
	struct worker *worker;
	wl_list_for_each (worker, &workers->list, link) {
		if (worker->busy && worker->sender.number == number) {
			return workers_report(worker->fd, record, len, fd);
		}
	}
	return -ESRCH;
}

size_t workers_busy(const struct workers *workers)
{
	return count(workers, true);
}

void workers_signal(struct workers *workers, int signal)
{
	struct worker *worker;
	wl_list_for_each (worker, &workers->list, link) {
		if (worker->busy) {
			kill(worker->pid, signal);
		}
	}
}

ssize_t workers_receive(int session_fd, void *record, size_t len, struct fdlist *fds)
{
	for (;;) {
		ssize_t n = scm_recv(session_fd, record, len, fds);
		if (n != -EAGAIN) {
			return n == -ECONNRESET ? 0 : n;
		}
		struct pollfd poll_fd = {.fd = session_fd, .events = POLLIN};
		if (poll(&poll_fd, 1, -1) < 0 && errno != EINTR) {
			return -errno;
		}
	}
}

void workers_ready(int session_fd)
{
	workers_report(session_fd, ready_record, sizeof(ready_record), -1);
}

int workers_report(int session_fd, const void *record, size_t len, int fd)
{
	struct iovec iov = {.iov_base = (void *)record, .iov_len = len};
	const struct fdlist fds = {.fds = &fd, .count = fd >= 0 ? 1 : 0};
	ssize_t n = scm_send(session_fd, &iov, 1, &fds, fds.count);
	return n < 0 ? (int)n : 0;
}
