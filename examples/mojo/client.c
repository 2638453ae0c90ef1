#include <err.h>
#include <event2/event.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wayland-util.h>

#include "base/log.h"
#include "base/rlimit.h"
#include "channel/transport.h"
#include "examples/mojo/introduction.h"
#include "examples/mojo/node.h"
#include "examples/mojo/scenario.h"

#define CASE_SECONDS 120 // and the pause: a case that takes longer has failed

static const char usage[] =
	"mojo-client --connect unix:PATH [--header FORMAT] [--case NAME]... [--seed N]\n"
	"            [--pause-ms N]\n"
	"mojo-client --list\n"
	"\n"
	"  --connect unix:PATH  where the service listens\n"
	"  --header FORMAT      legacy, normal (default) or ipcz\n"
	"  --case NAME          only this case; repeatable (default: all)\n"
	"  --seed N             of all that is sent (default: 1)\n"
	"  --pause-ms N         how long a stopped process is stopped at least (default: 5000)\n"
	"  --list               say what cases there are\n";

struct client {
	struct transport transport;
	enum mojo_format format;
	uint64_t seed;
	uint32_t pause_ms;
	bool joins;            // is the second client of "introduce"
	struct wl_array cases; // const struct scenario *
	size_t next;           // two for each case: the client starts it, then the service

	struct event_base *base;
	struct event *watchdog;
	struct node_group group;
	struct node *node;
	struct introduction *introduction;
	bool introduced_by_client;
};

static void fail(struct client *client, const char *text)
{
	log_error("%s", text);
	client->group.failures++;
	event_base_loopbreak(client->base);
}

static void handle_watchdog(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	fail(data, "it takes too long");
}

static void run_next(struct client *client)
{
	const struct scenario **cases = client->cases.data;
	if (client->next == 2 * client->cases.size / sizeof(*cases)) {
		event_base_loopbreak(client->base);
		return;
	}
	const struct timeval limit = {.tv_sec = CASE_SECONDS + client->pause_ms / 1000};
	event_add(client->watchdog, &limit);
	const struct scenario *scenario = cases[client->next / 2];
	bool from_client = client->next % 2 == 0;
	client->next++;
	node_run(client->node, scenario, from_client,
		node_run_seed(client->seed, scenario, from_client), client->pause_ms);
}

static void handle_run_over(void *data, const struct run *run, const char *ours, const char *theirs)
{
	const char *name = run->scenario->name;
	const char *from = run->from_client ? "client" : "service";
	printf("%s from=%s at=client: %s\n", name, from, ours);
	printf("%s from=%s at=service: %s\n", name, from, theirs);
	printf("%s from=%s fds: client %+ld, service %+ld\n", name, from, run->fds_ours,
		run->fds_theirs);
	fflush(stdout);
	run_next(data);
}

static void handle_ended(void *data, struct node *node, const char *wrong)
{
	(void)wrong;
	struct client *client = data;
	node_destroy(node);
	client->node = NULL;
	fail(client, "the connection has ended");
}

/* Exits without closing anything: the service has to notice. */
static void handle_talked(void *data, const char *wrong)
{
	struct client *client = data;
	if (wrong != NULL) {
		log_error("%s", wrong);
	}
	printf("%s from=%s at=second client: %s\n", introduce_scenario.name,
		client->introduced_by_client ? "client" : "service",
		wrong != NULL ? wrong : introduction_result(client->introduction));
	fflush(stdout);
	_exit(wrong == NULL && client->group.failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
}

static void handle_introduced(void *data, bool from_client, int fd)
{
	struct client *client = data;
	if (!client->joins || client->introduction != NULL) {
		close(fd);
		fail(client, "an introduction that nobody asked for");
		return;
	}
	client->introduced_by_client = from_client;
	client->introduction = introduction_create(client->base, fd, client->format,
		node_run_seed(client->seed, &introduce_scenario, from_client), false, handle_talked,
		client);
	if (client->introduction == NULL) {
		fail(client, "out of memory");
	}
}

static const struct node_handler handler = {
	.run_over = handle_run_over,
	.introduced = handle_introduced,
	.ended = handle_ended,
};

static void add_case(struct client *client, const struct scenario *scenario)
{
	const struct scenario **slot = wl_array_add(&client->cases, sizeof(*slot));
	if (slot == NULL) {
		err(EXIT_FAILURE, "out of memory");
	}
	*slot = scenario;
}

static void add_all_cases(struct client *client)
{
	for (size_t i = 0; scenarios[i] != NULL; i++) {
		add_case(client, scenarios[i]);
	}
}

static void add_named_case(struct client *client, const char *name)
{
	const struct scenario *scenario = scenario_find(name);
	if (strcmp(name, "all") == 0) {
		add_all_cases(client);
	} else if (scenario != NULL) {
		add_case(client, scenario);
	} else {
		errx(2, "there is no case %s (see --list)", name);
	}
}

static void list_cases(void)
{
	for (size_t i = 0; scenarios[i] != NULL; i++) {
		printf("%-11s %s\n", scenarios[i]->name, scenarios[i]->text);
	}
	printf("%-11s %s\n", "all", "all of them, in this order");
}

static void parse_option(struct client *client, int option)
{
	const char *wrong = NULL;
	switch (option) {
	case 'c':
		wrong = transport_parse(optarg, &client->transport);
		break;
	case 'f':
		wrong = mojo_format_parse(optarg, &client->format) ? NULL : "no such format";
		break;
	case 'n':
		add_named_case(client, optarg);
		break;
	case 's':
		client->seed = strtoull(optarg, NULL, 0);
		break;
	case 'p':
		client->pause_ms = (uint32_t)strtoul(optarg, NULL, 10);
		break;
	case 'j':
		client->joins = true;
		break;
	case 'l':
		list_cases();
		exit(EXIT_SUCCESS);
	case 'h':
		fputs(usage, stdout);
		exit(EXIT_SUCCESS);
	default:
		exit(2);
	}
	if (wrong != NULL) {
		errx(2, "%s: %s", optarg, wrong);
	}
}

static void parse(struct client *client, int argc, char *argv[])
{
	static const struct option options[] = {
		{"connect", required_argument, NULL, 'c'},
		{"header", required_argument, NULL, 'f'},
		{"case", required_argument, NULL, 'n'},
		{"seed", required_argument, NULL, 's'},
		{"pause-ms", required_argument, NULL, 'p'},
		{"join", no_argument, NULL, 'j'}, // for ourselves
		{"list", no_argument, NULL, 'l'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int option;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		parse_option(client, option);
	}
	if (client->transport.path[0] == '\0') {
		errx(2, "--connect unix:PATH is missing");
	}
	if (client->cases.size == 0) {
		add_all_cases(client);
	}
}

static void talk(struct client *client)
{
	int fd = transport_connect(&client->transport);
	if (fd < 0) {
		errx(EXIT_FAILURE, "cannot connect: %s", strerror(-fd));
	}
	client->node = node_create_client(&client->group, fd, client->format);
	if (client->node == NULL) {
		err(EXIT_FAILURE, "there is no connection");
	}
	if (client->joins) {
		node_join(client->node);
	} else {
		run_next(client);
	}
	event_base_dispatch(client->base);
}

/* The command that starts the second client, in which it says that it joins. */
static char **second_command(int argc, char *argv[])
{
	char **command = calloc((size_t)argc + 2, sizeof(*command));
	if (command == NULL) {
		err(EXIT_FAILURE, "out of memory");
	}
	memcpy(command, argv, (size_t)argc * sizeof(*command));
	command[argc] = "--join";
	return command;
}

int main(int argc, char *argv[])
{
	struct client client = {.format = MOJO_NORMAL, .seed = 1, .pause_ms = 5000};
	wl_array_init(&client.cases);
	char **second = second_command(argc, argv); // before parsing, which moves words
	parse(&client, argc, argv);
	log_init(client.joins ? "mojo-client (second)" : "mojo-client", LOG_INFO);
	signal(SIGPIPE, SIG_IGN);
	rlimit_raise_files();
	client.base = event_base_new();
	client.watchdog = evtimer_new(client.base, handle_watchdog, &client);
	if (client.base == NULL || client.watchdog == NULL) {
		errx(EXIT_FAILURE, "there is no event base");
	}
	node_group_init(&client.group, client.base, &handler, &client);
	client.group.second_client = second;
	long before = node_open_fds();
	talk(&client);
	introduction_destroy(client.introduction);
	node_group_finish(&client.group);
	long after = node_open_fds();
	printf("fds at=client: before=%ld after=%ld\n", before, after);
	event_free(client.watchdog);
	event_base_free(client.base);
	wl_array_release(&client.cases);
	free(second);
	return client.group.failures == 0 && before == after ? EXIT_SUCCESS : EXIT_FAILURE;
}
