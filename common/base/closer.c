#include "base/closer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/log.h"
#include "base/scm.h"

// Threads at a time. Each has a stack, which costs little until it is used.
#define THREADS_MAX 64

static atomic_uint threads;

// Without signals: those are for the loop's thread.
static int start(void *(*run)(void *data), void *data)
{
	sigset_t all, before;
	pthread_t thread;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&thread, NULL, run, data);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error == 0) {
		pthread_detach(thread);
	}
	return error;
}

static void *run_close(void *data)
{
	close((int)(intptr_t)data);
	threads--;
	return NULL;
}

/*
 * Whether nothing has the number fd. Asking for the file itself would hold it for a moment, and a close meanwhile
 * leave the last one, which waits, to who asks.
 */
static bool is_free(int fd, int probe)
{
	int lowest = fcntl(probe, F_DUPFD_CLOEXEC, fd);
	if (lowest < 0) {
		return errno != EMFILE;
	}
	close(lowest);
	return lowest == fd;
}

void closer_close(int fd)
{
	int probe = eventfd(0, EFD_CLOEXEC); // before fd's number is free
	threads++;
	int error = start(run_close, (void *)(intptr_t)fd);
	if (error != 0) {
		threads--;
		log_limited(
			LOG_WARN, "an fd stays open, no thread can close it: %s", strerror(error));
	}
	// The kernel takes it out of the table first. Who starts a process meanwhile would have it closed there,
	// too; without a number for the probe nobody starts one.
	while (error == 0 && probe >= 0 && !is_free(fd, probe)) {
		sched_yield();
	}
	if (probe >= 0) {
		close(probe);
	}
}

bool closer_is_full(void)
{
	return threads >= THREADS_MAX;
}

/* ---- sockets ---- */

struct farewell {
	int fd;
	bool copied;        // the thread has an fd of its own, and no other
	sem_t begun, ended; // so far; fd is closed elsewhere
};

static void wait_for(sem_t *semaphore)
{
	while (sem_wait(semaphore) < 0) { // EINTR
	}
}

/* What a thread's end closes does not linger: the last fd is to be closed by that. */
static void *run_farewell(void *data)
{
	struct farewell *farewell = data;
	unsigned int fd = (unsigned int)farewell->fd;
	farewell->copied = close_range(fd + 1, ~0u, CLOSE_RANGE_UNSHARE) == 0;
	if (farewell->copied && fd > 0) {
		close_range(0, fd - 1, 0);
	}
	sem_post(&farewell->begun);
	wait_for(&farewell->ended);
	sem_destroy(&farewell->begun);
	sem_destroy(&farewell->ended);
	free(farewell);
	return NULL;
}

/* False: there is none. */
static bool close_by_thread(int fd)
{
	struct farewell *farewell = calloc(1, sizeof(*farewell));
	if (farewell == NULL) {
		return false;
	}
	farewell->fd = fd;
	sem_init(&farewell->begun, 0, 0);
	sem_init(&farewell->ended, 0, 0);
	if (start(run_farewell, farewell) != 0) {
		free(farewell);
		return false;
	}
	wait_for(&farewell->begun);
	bool copied = farewell->copied;
	if (copied) {
		close(fd);
	}
	sem_post(&farewell->ended);
	return copied;
}

void closer_close_socket(int fd)
{
	if (!scm_is_unix(fd) || !scm_may_hold_fds(fd) || !close_by_thread(fd)) {
		close(fd);
	}
}

void closer_close_sent(struct fdlist *fds)
{
	int fd;
	while ((fd = fdlist_take(fds)) >= 0) {
		closer_close_socket(fd);
	}
}
