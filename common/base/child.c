#include "base/child.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/scm.h"

#define CHILD_FD 3

char **child_argv(char *const argv[], const char *option)
{
	static char number[] = {'0' + CHILD_FD, '\0'};
	size_t n = 0;
	while (argv[n] != NULL) {
		n++;
	}
	assert(n > 0);
	char **copy = calloc(n + 3, sizeof(*copy));
	if (copy == NULL) {
		return NULL;
	}
	copy[0] = argv[0];
	copy[1] = (char *)option;
	copy[2] = number;
	memcpy(copy + 3, argv + 1, (n - 1) * sizeof(*copy));
	return copy;
}

// The child's end of the pair becomes CHILD_FD; no other fd but the standard ones is left.
static int spawn(char *const argv[], int child_fd, pid_t *pid)
{
	posix_spawn_file_actions_t actions;
	int error = posix_spawn_file_actions_init(&actions);
	if (error != 0) {
		return -error;
	}
	posix_spawnattr_t attr;
	error = posix_spawnattr_init(&attr);
	if (error != 0) {
		goto err_actions;
	}
	sigset_t mask, defaults;
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGPIPE);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &mask);
	posix_spawnattr_setsigdefault(&attr, &defaults);
	error = posix_spawn_file_actions_adddup2(&actions, child_fd, CHILD_FD);
	if (error == 0) {
		error = posix_spawn_file_actions_addclosefrom_np(&actions, CHILD_FD + 1);
	}
	if (error == 0) {
		error = posix_spawn(pid, "/proc/self/exe", &actions, &attr, argv, environ);
	}
	posix_spawnattr_destroy(&attr);
err_actions:
	posix_spawn_file_actions_destroy(&actions);
	return -error;
}

int child_start(char *const argv[], pid_t *pid)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		return -errno;
	}
	int error = spawn(argv, pair[1], pid);
	close(pair[1]);
	if (error < 0) {
		close(pair[0]);
		return error;
	}
	return pair[0];
}

bool child_read_records(int fd, unsigned int max, child_record_func handle, void *data)
{
	for (unsigned int i = 0; i < max; i++) {
		_Alignas(max_align_t) unsigned char record[CHILD_RECORD_MAX];
		struct fdlist fds;
		fdlist_init(&fds);
		ssize_t n = scm_recv_one(fd, record, sizeof(record), &fds);
		if (n > 0) {
			handle(data, record, (size_t)n, &fds);
		}
		fdlist_finish(&fds);
		if (n <= 0) {
			return n == -EAGAIN;
		}
	}
	return true;
}
