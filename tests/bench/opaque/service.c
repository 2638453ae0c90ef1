// A service of a protocol that no proxy knows, see message.h.

#include <err.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "tests/bench/listen.h"
#include "tests/bench/opaque/message.h"
#include "tests/bench/opaque/object.h"
#include "tests/bench/opaque/stream.h"
#include "tests/bench/passing.h"

#define CLIENT_SECONDS 60 // as long as a client may take

static const struct passed_fds no_fds;

static void echo(int client, struct opaque_message *message, struct passed_fds *passed)
{
	opaque_send(client, message, &no_fds);
	if (passed->count > 0 &&
		write(passed->fds[0], &message->number, sizeof(message->number)) !=
			sizeof(message->number)) {
		err(1, "cannot write into what was passed");
	}
}

static void take(int client, struct opaque_message *message, struct passed_fds *passed)
{
	(void)passed;
	message->sum = stream_receive(client, message->size);
	opaque_send(client, message, &no_fds);
}

static void give(int client, struct opaque_message *message, struct passed_fds *passed)
{
	(void)passed;
	struct stream stream;
	stream_init(&stream);
	stream_send(&stream, client, message->size);
	stream_finish(&stream);
}

static void use_objects(int client, struct opaque_message *message, struct passed_fds *passed)
{
	message->n_right = 0;
	for (size_t i = 0; i < passed->count; i++) {
		message->n_right += object_use(passed->fds[i], message->number + i);
	}
	passed->count = 0;
	opaque_send(client, message, &no_fds);
}

static void (*const tasks[])(
	int client, struct opaque_message *message, struct passed_fds *passed) = {
	[OPAQUE_ECHO] = echo,
	[OPAQUE_TAKE] = take,
	[OPAQUE_GIVE] = give,
	[OPAQUE_OBJECTS] = use_objects,
};

static void serve(int client)
{
	struct opaque_message message;
	struct passed_fds passed;
	while (opaque_receive(client, &message, &passed)) {
		if (message.task == 0 || message.task >= sizeof(tasks) / sizeof(tasks[0])) {
			errx(1, "there is no task %u", message.task);
		}
		tasks[message.task](client, &message, &passed);
		passed_fds_close(&passed);
	}
}

static void accept_client(int listener)
{
	int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (client < 0) {
		return;
	}
	pid_t pid = fork();
	if (pid < 0) {
		err(1, "fork");
	}
	if (pid == 0) {
		alarm(CLIENT_SECONDS); // whatever hangs ends here
		serve(client);
		exit(0);
	}
	close(client);
}

int main(int argc, char *argv[])
{
	if (argc != 2 || argv[1][0] == '-') {
		fprintf(stderr, "usage: bench-service PATH|vsock:PORT\n");
		return 2;
	}
	int listener = listen_on(argv[1]);
	signal(SIGCHLD, SIG_IGN); // nobody waits for them
	signal(SIGPIPE, SIG_IGN);
	puts("READY");
	fflush(stdout);
	struct pollfd poll_fd = {.fd = listener, .events = POLLIN};
	while (poll(&poll_fd, 1, -1) >= 0 || errno == EINTR) {
		accept_client(listener);
	}
	err(1, "poll");
}
