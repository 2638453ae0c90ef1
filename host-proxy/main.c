#include <stdlib.h>

#include "base/log.h"
#include "host-proxy/compositor.h"
#include "host-proxy/device_process.h"
#include "host-proxy/explain.h"
#include "host-proxy/options.h"
#include "host-proxy/server.h"
#include "host-proxy/session_process.h"
#include "program/protocols.h"
#include "wire/schema.h"

// The compositor is the service wayland. Who names only others need not have one.
static bool add_compositor(struct host_options *options)
{
	struct services *services = &options->program.services;
	struct transport compositor;
	char error[512];
	if (!compositor_locate(options->compositor, &compositor, error, sizeof(error))) {
		bool needed = options->explain_policy || options->compositor != NULL ||
			services->count == 0;
		log_write(needed ? LOG_ERROR : LOG_DEBUG, "%s", error);
		return !needed;
	}
	const char *wrong = services_add(services, SERVICE_WAYLAND, &compositor);
	if (wrong != NULL) {
		log_error("the compositor: %s", wrong);
	}
	return wrong == NULL;
}

static bool check(const struct host_options *options)
{
	char error[512];
	bool ok = host_options_check(options, error, sizeof(error));
	if (!ok) {
		log_error("%s", error);
	}
	return ok;
}

static int run(struct host_options *options, int argc, char *argv[])
{
	if (options->device_fd >= 0) {
		return device_process_run(options);
	}
	if (!protocols_load(&options->program) || !add_compositor(options) || !check(options)) {
		return EXIT_FAILURE;
	}
	if (options->explain_policy) {
		return explain_run(options, argc, argv);
	}
	return options->program.session_fd >= 0 ? host_session_run(options, argc, argv)
						: host_server_run(options, argc, argv);
}

int main(int argc, char *argv[])
{
	struct host_options options;
	int status = host_options_parse(&options, argc, argv);
	if (status != OPTIONS_STATUS_RUN) {
		return status;
	}
	log_init("fdferry-host", options.program.log_level);
	status = run(&options, argc, argv);
	wire_schema_finish();
	return status;
}
