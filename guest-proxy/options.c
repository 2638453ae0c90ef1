#include "guest-proxy/options.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

static const char *set_connect(void *data, const char *value)
{
	struct guest_options *options = data;
	options->connect_text = value;
	const char *wrong = transport_parse(value, &options->connect);
	if (wrong == NULL && options->connect.kind == TRANSPORT_VHOST_USER) {
		wrong = "vhost-user is for fdferry-host";
	}
	return wrong;
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
	const char *path;
	if (!service_parse_wayland(value, &path)) {
		return services_parse(&options->program.services, value);
	}
	if (path == NULL) {
		return "must be wayland=unix:PATH with an absolute path";
	}
	if (options->display != NULL) {
		return "the socket of the service wayland is named already";
	}
	options->display = path;
	return NULL;
}

static const struct option_spec specs[] = {
	{"connect", "ADDR", "where fdferry-host listens: unix:PATH or vsock:[CID:]PORT", false,
		set_connect},
	{"display", "NAME", "the display to be: a name or an absolute path", false, set_display},
	{"service", "NAME=unix:PATH", "where to listen for a service; or seqpacket:PATH", true,
		set_service},
	PROGRAM_OPTIONS,
};

static const struct options_usage usage = {
	.program = "fdferry-guest",
	.synopsis = "--connect ADDR [OPTION]... [-- COMMAND ARGS...]",
	.takes_command = true,
	.specs = specs,
};

static bool addresses_collide(const struct guest_options *options)
{
	const struct services *services = &options->program.services;
	bool collide = services_collide(services);
	for (size_t i = 0; options->display != NULL && i < services->count; i++) {
		collide |= strcmp(services->list[i].address.path, options->display) == 0;
	}
	return collide;
}

int guest_options_parse(struct guest_options *options, int argc, char *argv[])
{
	static_assert(offsetof(struct guest_options, program) == 0, "what the shared rows set");
	*options = (struct guest_options){0};
	program_options_init(&options->program);
	int status = options_parse(&usage, argc, argv, options, &options->command);
	if (status == OPTIONS_STATUS_RUN) {
		status = program_options_settle(&usage, &options->program);
	}
	if (status == OPTIONS_STATUS_RUN && options->connect_text == NULL) {
		status = options_wrong(&usage, "--connect is missing (see --help)");
	}
	if (status == OPTIONS_STATUS_RUN && addresses_collide(options)) {
		status = options_wrong(&usage, "two services have the same path");
	}
	return status;
}

bool guest_options_serve_wayland(const struct guest_options *options)
{
	return options->display != NULL || options->command != NULL ||
		options->program.services.count == 0;
}
