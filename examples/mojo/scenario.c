#include "examples/mojo/scenario.h"

#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

const struct scenario *const scenarios[] = {
	&bootstrap_scenario,
	&nested_scenario,
	&round_trip_scenario,
	&introduce_scenario,
	&regions_scenario,
	&burst_scenario,
	&half_dead_scenario,
	&transfers_scenario,
	NULL,
};

const struct scenario *scenario_find(const char *name)
{
	for (size_t i = 0; scenarios[i] != NULL; i++) {
		if (strcmp(scenarios[i]->name, name) == 0) {
			return scenarios[i];
		}
	}
	return NULL;
}

bool run_pair(struct run *run, int pair[2])
{
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		run_fail(run, "there is no socket pair: %m");
		return false;
	}
	return true;
}

bool run_is_client(const struct run *run)
{
	return run->starts == run->from_client;
}
