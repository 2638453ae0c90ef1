#include <stdlib.h>

#include "base/log.h"
#include "guest-proxy/options.h"
#include "guest-proxy/replay.h"
#include "guest-proxy/server.h"
#include "guest-proxy/session_process.h"
#include "program/protocols.h"
#include "wire/schema.h"

int main(int argc, char *argv[])
{
	struct guest_options options;
	int status = guest_options_parse(&options, argc, argv);
	if (status != OPTIONS_STATUS_RUN) {
		return status;
	}
	log_init("fdferry-guest", options.program.log_level);
	if (!protocols_load(&options.program)) {
		status = EXIT_FAILURE;
	} else if (options.program.session_fd >= 0) {
		status = guest_session_run(&options);
	} else if (options.replay.path != NULL) {
		status = replay_main(&options);
	} else {
		status = guest_server_run(&options, argv);
	}
	wire_schema_finish();
	return status;
}
