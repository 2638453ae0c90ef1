#include <stdlib.h>

#include "base/log.h"
#include "host-proxy/compositor.h"
#include "host-proxy/options.h"
#include "host-proxy/server.h"
#include "host-proxy/session_process.h"
#include "program/protocols.h"
#include "wire/schema.h"

static int run(struct host_options *options, char *const argv[])
{
	struct transport compositor;
	char error[512];
	if (!protocols_load(&options->program)) {
		return EXIT_FAILURE;
	}
	if (!compositor_locate(options->compositor, &compositor, error, sizeof(error))) {
		log_error("%s", error);
		return EXIT_FAILURE;
	}
	return options->program.session_fd >= 0 ? host_session_run(options, &compositor)
						: host_server_run(options, &compositor, argv);
}

int main(int argc, char *argv[])
{
	struct host_options options;
	int status = host_options_parse(&options, argc, argv);
	if (status != OPTIONS_STATUS_RUN) {
		return status;
	}
	log_init("fdferry-host", options.program.log_level);
	status = run(&options, argv);
	wire_schema_finish();
	return status;
}
