#include "guest-proxy/options.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#define SERVICE_WAYLAND "wayland=unix:"

static const char *set_connect(void *data, const char *value)
{
	struct guest_options *options = data;
	options->connect_text = value;
	return transport_parse(value, &options->connect);
}

static const char *set_display(void *data, const char *value)
{
	struct guest_options *options = data;
	if (options->display != NULL) {
		return "--service wayland names the socket already";
	}
	if (value[0] == '\0') {
		return "the name is missing";
	}
	if (value[0] != '/' && strchr(value, '/') != NULL) {
		return "must be a name or an absolute path";
	}
	options->display = value;
	return NULL;
}

static const char *set_service(void *data, const char *value)
{
	struct guest_options *options = data;
	if (strncmp(value, "wayland=", strlen("wayland=")) != 0) {
		return "only the service wayland is known";
	}
	if (strncmp(value, SERVICE_WAYLAND "/", strlen(SERVICE_WAYLAND "/")) != 0) {
		return "must be wayland=unix:PATH with an absolute path";
	}
	if (options->display != NULL) {
		return "the socket of the service wayland is named already";
	}
	options->display = value + strlen(SERVICE_WAYLAND);
	return NULL;
}

static const struct option_spec specs[] = {
	{"connect", "ADDR", "where fdferry-host listens: unix:PATH or vsock:[CID:]PORT", false,
		set_connect},
	{"display", "NAME", "the display to be: a name or an absolute path", false, set_display},
	{"service", "NAME=unix:PATH", "where to listen for a service (only wayland)", true,
		set_service},
	PROGRAM_OPTIONS,
};

static const struct options_usage usage = {
	.program = "fdferry-guest",
	.synopsis = "--connect ADDR [OPTION]... [-- COMMAND ARGS...]",
	.takes_command = true,
	.specs = specs,
};

int guest_options_parse(struct guest_options *options, int argc, char *argv[])
{
	static_assert(offsetof(struct guest_options, program) == 0, "what the shared rows set");
	*options = (struct guest_options){0};
	program_options_init(&options->program);
	int status = options_parse(&usage, argc, argv, options, &options->command);
	if (status == OPTIONS_STATUS_RUN && options->connect_text == NULL) {
		status = options_wrong(&usage, "--connect is missing (see --help)");
	}
	return status;
}
