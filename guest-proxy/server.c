#include "guest-proxy/server.h"

#include <event2/event.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/notify.h"
#include "guest-proxy/command.h"
#include "guest-proxy/listener.h"
#include "guest-proxy/options.h"
#include "guest-proxy/refusal.h"
#include "program/server.h"

static bool open_listener(struct listener *listener, const struct guest_options *options)
{
	char error[512];
	int fd = notify_take_listener();
	if (fd < 0) {
		return false;
	}
	bool ok = fd > 0 ? listener_adopt(listener, fd, error, sizeof(error))
			 : listener_open(listener, options->display, error, sizeof(error));
	if (!ok) {
		log_error("%s", error);
		return false;
	}
	if (fd > 0 && options->display != NULL) {
		log_error("the service manager names the display: there is no choosing one");
		return false;
	}
	return true;
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

static int serve(struct listener *listener, struct event_base *base,
	const struct guest_options *options, char *const argv[])
{
	const struct server_config config = {
		.program = "fdferry-guest",
		.options = &options->program,
		.argv = argv,
		.base = base,
		.listen_fd = listener_take_fd(listener),
		.keeps_contents = true,
		.waits_for_finish = options->command != NULL,
		.refuse = refusal_send,
	};
	struct server *server = server_create(&config);
	if (server == NULL) {
		return EXIT_FAILURE;
	}
	log_info("listening as %s for %s", listener->display, options->connect_text);
	int status = run_server(server, base, options, listener->display);
	server_destroy(server);
	return status;
}

int guest_server_run(const struct guest_options *options, char *const argv[])
{
	struct listener listener;
	int status = EXIT_FAILURE;
	listener_init(&listener);
	struct event_base *base = event_base_new();
	if (base == NULL) {
		log_error("cannot create an event loop");
	} else if (open_listener(&listener, options)) {
		status = serve(&listener, base, options, argv);
	}
	listener_finish(&listener);
	if (base != NULL) {
		event_base_free(base);
	}
	return status;
}
