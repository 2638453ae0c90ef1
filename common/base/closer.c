#include "base/closer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"

// Threads at a time. Each has a stack, which costs little until it is used.
#define THREADS_MAX 64

static atomic_uint threads;

static void *run(void *data)
{
	close((int)(intptr_t)data);
	threads--;
	return NULL;
}

// Without signals: those are for the loop's thread.
static int start(int fd)
{
	sigset_t all, before;
	pthread_t thread;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&thread, NULL, run, (void *)(intptr_t)fd);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error == 0) {
		pthread_detach(thread);
	}
	return error;
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
	int error = start(fd);
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
