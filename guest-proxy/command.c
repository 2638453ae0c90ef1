#include "guest-proxy/command.h"

#include <event2/event.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/rlimit.h"

struct command {
	pid_t pid; // 0: it is gone
	struct event *child;
	void (*exited)(void *data, int status);
	void *data;
};

static void handle_child(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct command *command = data;
	int status;
	if (command->pid == 0 || waitpid(command->pid, &status, WNOHANG) != command->pid) {
		return;
	}
	command->pid = 0;
	command->exited(
		command->data, WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

// It gets the signals and limits that we were started with.
static int spawn(char *const argv[], pid_t *pid)
{
	posix_spawnattr_t attr;
	int error = posix_spawnattr_init(&attr);
	if (error != 0) {
		return error;
	}
	sigset_t mask, defaults;
	sigemptyset(&mask);
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGPIPE);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &mask);
	posix_spawnattr_setsigdefault(&attr, &defaults);
	rlimit_restore_files();
	error = posix_spawnp(pid, argv[0], NULL, &attr, argv, environ);
	rlimit_raise_files();
	posix_spawnattr_destroy(&attr);
	return error;
}

struct command *command_create(struct event_base *base, char *const argv[], const char *display,
	void (*exited)(void *data, int status), void *data)
{
	struct command *command = calloc(1, sizeof(*command));
	if (command == NULL) {
		log_errno("cannot run %s", argv[0]);
		return NULL;
	}
	command->exited = exited;
	command->data = data;
	command->child = evsignal_new(base, SIGCHLD, handle_child, command);
	if (command->child == NULL || event_add(command->child, NULL) < 0) {
		log_error("cannot run %s: no event for its end", argv[0]);
		command_destroy(command);
		return NULL;
	}
	setenv("WAYLAND_DISPLAY", display, true);
	unsetenv("WAYLAND_SOCKET");
	int error = spawn(argv, &command->pid);
	if (error != 0) {
		command->pid = 0;
		log_error("cannot run %s: %s", argv[0], strerror(error));
		command_destroy(command);
		return NULL;
	}
	return command;
}

void command_destroy(struct command *command)
{
	if (command == NULL) {
		return;
	}
	if (command->pid != 0) {
		kill(command->pid, SIGTERM);
	}
	if (command->child != NULL) {
		event_free(command->child);
	}
	free(command);
}
