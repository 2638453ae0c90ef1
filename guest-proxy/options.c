#include "guest-proxy/options.h"

#include <assert.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define MIN_SPEED 0.001
#define MAX_SPEED 1000

static const char *set_connect(void *data, const char *value)
{
	struct guest_options *options = data;
	options->connect_text = value;
	if (strncmp(value, "unix:", 5) != 0 && strncmp(value, "vsock:", 6) != 0) {
		return "must be unix:PATH or vsock:[CID:]PORT";
	}
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

static const char *set_replay(void *data, const char *value)
{
	struct guest_options *options = data;
	options->replay.path = value;
	return *value != '\0' ? NULL : "the name is missing";
}

static const char *set_speed(void *data, const char *value)
{
	struct replay_options *replay = &((struct guest_options *)data)->replay;
	char *end;
	replay->speed_given = true;
	if (strcmp(value, "max") == 0) {
		replay->speed = 0;
		return NULL;
	}
	replay->speed = strtod(value, &end);
	bool number = *value >= '0' && *value <= '9' && *end == '\0';
	bool sane = replay->speed >= MIN_SPEED && replay->speed <= MAX_SPEED;
	return number && sane ? NULL : "must be max, or a number from 0.001 to 1000";
}

static const char *set_mutate(void *data, const char *value)
{
	struct replay_options *replay = &((struct guest_options *)data)->replay;
	unsigned long seed = 0;
	const char *wrong = options_number(value, 0, ULONG_MAX, &seed);
	replay->mutate = true;
	replay->seed = seed;
	return wrong;
}

static const char *set_hold(void *data, const char *value)
{
	(void)value;
	((struct guest_options *)data)->replay.hold = true;
	return NULL;
}

static const char *set_restart_command(void *data, const char *value)
{
	((struct guest_options *)data)->replay.restart_command = value;
	return NULL;
}

static const struct option_spec specs[] = {
	{"connect", "ADDR", "where fdferry-host listens: unix:PATH or vsock:[CID:]PORT", false,
		set_connect},
	{"display", "NAME", "the display to be: a name or an absolute path", false, set_display},
	{"service", "NAME=unix:PATH", "where to listen for a service; or seqpacket:PATH", true,
		set_service},
	{"replay", "FILE", "play the recording of a Wayland client to the host, then exit", false,
		set_replay},
	{"speed", "N|max", "of --replay: N times as fast (default 1)", false, set_speed},
	{"mutate", "SEED", "of --replay: change requests at random", false, set_mutate},
	{"hold", NULL, "of --replay: keep the session open at its end", false, set_hold},
	{"restart-command", "CMD", "of --replay: starts a compositor that went away, to minimise",
		false, set_restart_command},
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

static const char *check_replay(const struct guest_options *options)
{
	const struct replay_options *replay = &options->replay;
	bool only = replay->speed_given || replay->mutate || replay->hold ||
		replay->restart_command != NULL;
	if (replay->path == NULL) {
		return only ? "--speed, --mutate, --hold and --restart-command need --replay"
			    : NULL;
	}
	bool serves = options->command != NULL || options->display != NULL ||
		options->program.services.count > 0 || options->program.record != NULL;
	return serves ? "--replay serves nobody: no command, --display, --service or --record"
		      : NULL;
}

int guest_options_parse(struct guest_options *options, int argc, char *argv[])
{
	static_assert(offsetof(struct guest_options, program) == 0, "what the shared rows set");
	*options = (struct guest_options){0};
	options->replay.speed = 1;
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
	const char *wrong = status == OPTIONS_STATUS_RUN ? check_replay(options) : NULL;
	return wrong != NULL ? options_wrong(&usage, "%s", wrong) : status;
}

bool guest_options_serve_wayland(const struct guest_options *options)
{
	return options->display != NULL || options->command != NULL ||
		options->program.services.count == 0;
}
