#include <event2/event.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "examples/mojo/introduction.h"
#include "examples/mojo/node.h"
#include "examples/mojo/scenario.h"

/**
 * Two clients in two processes with a connection each, which do not know each other: the service
 * gives each an end of a new socket pair, or passes on the end that the first client has sent it.
 */

enum {
	READY = SCENARIO_KINDS, // the service has begun
	OPEN,                   // with an end: to the client, or from it to be passed on
};

struct introduce {
	struct run *run;
	// The client:
	struct introduction *introduction;
	pid_t second; // 0: not running
	int second_fd;
	struct event *second_ended;
	bool talked, second_gone;
	// The service:
	int to_pass_on; // -1: nothing
	bool introduced;
};

extern char **environ;

static void finish_if_over(struct introduce *introduce)
{
	if (introduce->talked && introduce->second_gone) {
		run_done(introduce->run, "%s", introduction_result(introduce->introduction));
	}
}

static void handle_talked(void *data, const char *wrong)
{
	struct introduce *introduce = data;
	if (wrong != NULL) {
		run_fail(introduce->run, "%s", wrong);
		return;
	}
	introduce->talked = true;
	finish_if_over(introduce);
}

static void handle_second_ended(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct introduce *introduce = data;
	int status = 0;
	waitpid(introduce->second, &status, 0);
	introduce->second = 0;
	introduce->second_gone = true;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		run_fail(introduce->run, "the second client ended with status %#x", status);
		return;
	}
	finish_if_over(introduce);
}

/* The client; takes fd. */
static void talk(struct introduce *introduce, int fd)
{
	struct run *run = introduce->run;
	if (fd < 0 || introduce->introduction != NULL) {
		run_fail(run, "no socket to talk on, or a second one");
		return;
	}
	introduce->introduction = introduction_create(
		run->base, fd, run_format(run), run->seed, true, handle_talked, introduce);
	if (introduce->introduction == NULL) {
		run_fail(run, "out of memory");
	}
}

static void start_second(struct introduce *introduce)
{
	struct run *run = introduce->run;
	char *const *argv = node_group_of(run->node)->second_client;
	int error = posix_spawn(&introduce->second, "/proc/self/exe", NULL, NULL, argv, environ);
	if (error != 0) {
		introduce->second = 0;
		run_fail(run, "the second client cannot be started: %d", error);
		return;
	}
	introduce->second_fd = pidfd_open(introduce->second, 0); // CLOEXEC
	introduce->second_ended =
		event_new(run->base, introduce->second_fd, EV_READ, handle_second_ended, introduce);
	if (introduce->second_fd < 0 || introduce->second_ended == NULL ||
		event_add(introduce->second_ended, NULL) < 0) {
		run_fail(run, "the second client cannot be watched");
	}
}

static void begin_client(struct introduce *introduce)
{
	struct run *run = introduce->run;
	int pair[2];
	if (run->from_client && run_pair(run, pair)) {
		run_send(run, OPEN, 0, pair[1]);
		talk(introduce, pair[0]);
	}
}

/* The service, when the second client is there and, perhaps, the first one's socket. */
static void introduce_them(struct introduce *introduce, struct node *second)
{
	struct run *run = introduce->run;
	int pair[2];
	if (run->from_client) {
		node_introduce(second, true, introduce->to_pass_on);
		introduce->to_pass_on = -1;
	} else if (run_pair(run, pair)) {
		run_send(run, OPEN, 0, pair[0]);
		node_introduce(second, false, pair[1]);
	}
	introduce->introduced = true;
}

/* The service is done when the second client has come and gone. */
static void handle_nodes_changed(struct run *run)
{
	struct introduce *introduce = run->state;
	if (introduce == NULL || run_is_client(run)) {
		return;
	}
	struct node *second = node_group_joined(node_group_of(run->node));
	if (introduce->introduced && second == NULL) {
		run_done(run, "introduced=2 second client=gone");
	} else if (!introduce->introduced && second != NULL &&
		(!run->from_client || introduce->to_pass_on >= 0)) {
		introduce_them(introduce, second);
	}
}

static void begin(struct run *run)
{
	struct introduce *introduce = calloc(1, sizeof(*introduce));
	run->state = introduce;
	if (introduce == NULL) {
		run_fail(run, "out of memory");
		return;
	}
	*introduce = (struct introduce){.run = run, .second_fd = -1, .to_pass_on = -1};
	if (run_is_client(run)) {
		begin_client(introduce);
	} else {
		run_send(run, READY, 0, -1);
	}
}

static void handle_open(struct run *run, struct mojo_message *message)
{
	struct introduce *introduce = run->state;
	int fd = fdlist_take(&message->handles);
	if (fd < 0) {
		run_fail(run, "a message that brings no socket");
	} else if (run_is_client(run)) {
		talk(introduce, fd);
	} else if (introduce->to_pass_on >= 0) {
		close(fd);
		run_fail(run, "a second socket to pass on");
	} else {
		introduce->to_pass_on = fd;
		handle_nodes_changed(run);
	}
}

static void message(struct run *run, struct mojo_message *message)
{
	struct introduce *introduce = run->state;
	if (introduce == NULL) {
		return;
	}
	if (message->kind == OPEN) {
		handle_open(run, message);
	} else if (message->kind == READY && run_is_client(run) &&
		introduce->second_ended == NULL) {
		start_second(introduce);
	} else {
		run_fail(run, "a message of an unknown kind");
	}
}

static void end_second(struct introduce *introduce)
{
	if (introduce->second_ended != NULL) {
		event_free(introduce->second_ended);
	}
	if (introduce->second_fd >= 0) {
		close(introduce->second_fd);
	}
	if (introduce->second > 0) {
		kill(introduce->second, SIGKILL);
		waitpid(introduce->second, NULL, 0);
	}
}

static void end(struct run *run)
{
	struct introduce *introduce = run->state;
	if (introduce == NULL) {
		return;
	}
	end_second(introduce);
	introduction_destroy(introduce->introduction);
	if (introduce->to_pass_on >= 0) {
		close(introduce->to_pass_on);
	}
	free(introduce);
}

const struct scenario introduce_scenario = {
	.name = "introduce",
	.text = "two clients in two processes, introduced to each other",
	.begin = begin,
	.message = message,
	.nodes_changed = handle_nodes_changed,
	.end = end,
};
