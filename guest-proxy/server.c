#include "guest-proxy/server.h"

#include <event2/event.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/log.h"
#include "guest-proxy/command.h"
#include "guest-proxy/listeners.h"
#include "guest-proxy/options.h"
#include "guest-proxy/refusal.h"
#include "program/server.h"

// Of what a service says, only Wayland's errors are known; a client of another sees the end.
static void refuse(int fd, uint32_t service, const char *text)
{
	if (service == 0) {
		refusal_send(fd, text);
	}
}

static void handle_exited(void *data, int status)
{
	server_finish(data, status);
}

static int run_server(struct server *server, struct event_base *base,
	const struct guest_options *options, const char *display)
{
	server_announce(server);
	if (options->command == NULL) {
		return server_run(server);
	}
	struct command *command =
		command_create(base, options->command, display, handle_exited, server);
	if (command == NULL) {
		return COMMAND_CANNOT_RUN;
	}
	int status = server_run(server);
	command_destroy(command);
	return status;
}

static int serve(struct listeners *listeners, struct event_base *base,
	const struct guest_options *options, char *const argv[])
{
	const char *display = listeners->display.display;
	const struct server_config config = {
		.program = "fdferry-guest",
		.options = &options->program,
		.argv = argv,
		.base = base,
		.listeners = listeners->list,
		.n_listeners = listeners->count,
		.max_events = GUEST_MAX_FDS,
		.keeps_contents = true,
		.waits_for_finish = options->command != NULL,
		.refuse = refuse,
	};
	listeners->count = 0; // the server has them
	struct server *server = server_create(&config);
	if (server == NULL) {
		return EXIT_FAILURE;
	}
	log_info("listening%s%s for %s", display[0] != '\0' ? " as " : "", display,
		options->connect_text);
	int status = run_server(server, base, options, display);
	server_destroy(server);
	return status;
}

int guest_server_run(const struct guest_options *options, char *const argv[])
{
	struct listeners listeners;
	int status = EXIT_FAILURE;
	listeners_init(&listeners, options);
	struct event_base *base = event_base_new();
	if (base == NULL) {
		log_error("cannot create an event loop");
	} else if (listeners_open(&listeners)) {
		status = serve(&listeners, base, options, argv);
	}
	listeners_finish(&listeners);
	if (base != NULL) {
		event_base_free(base);
	}
	return status;
}
