#include <err.h>
#include <event2/event.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/acceptor.h"
#include "base/log.h"
#include "base/rlimit.h"
#include "channel/transport.h"
#include "examples/mojo/node.h"

static const char usage[] =
	"mojo-service --listen unix:PATH [--accept N]\n"
	"\n"
	"  --listen unix:PATH  where clients connect\n"
	"  --accept N          end after so many connections (default: never)\n";

struct service {
	struct transport transport;
	long to_accept; // connections that may still come; -1: any number
	struct event_base *base;
	struct acceptor *acceptor;
	struct node_group group;
};

static void stop_if_over(struct service *service)
{
	if (service->to_accept == 0 && wl_list_empty(&service->group.nodes)) {
		event_base_loopbreak(service->base);
	}
}

static void handle_connected(void *data, int fd)
{
	struct service *service = data;
	if (service->to_accept == 0) {
		close(fd);
		return;
	}
	if (service->to_accept > 0) {
		service->to_accept--;
	}
	if (node_create_service(&service->group, fd) == NULL) {
		log_error("a connection cannot be served");
		service->group.failures++;
	}
}

static void handle_ended(void *data, struct node *node, const char *wrong)
{
	(void)wrong;
	node_destroy(node);
	stop_if_over(data);
}

static const struct node_handler handler = {
	.ended = handle_ended,
};

static void handle_signal(evutil_socket_t number, short what, void *data)
{
	(void)number;
	(void)what;
	event_base_loopbreak(data);
}

static void parse(struct service *service, int argc, char *argv[])
{
	static const struct option options[] = {
		{"listen", required_argument, NULL, 'l'},
		{"accept", required_argument, NULL, 'a'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const char *address = NULL;
	int option;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'l':
			address = optarg;
			break;
		case 'a':
			service->to_accept = strtol(optarg, NULL, 10);
			break;
		case 'h':
			fputs(usage, stdout);
			exit(EXIT_SUCCESS);
		default:
			exit(2);
		}
	}
	const char *wrong = address != NULL ? transport_parse(address, &service->transport)
					    : "--listen is missing";
	if (wrong != NULL) {
		errx(2, "%s", wrong);
	}
}

static void serve(struct service *service)
{
	int fd = transport_listen(&service->transport);
	if (fd < 0) {
		errx(EXIT_FAILURE, "cannot listen: %s", strerror(-fd));
	}
	service->acceptor = acceptor_create(service->base, fd, handle_connected, service);
	if (service->acceptor == NULL) {
		err(EXIT_FAILURE, "cannot listen");
	}
	event_base_dispatch(service->base);
	acceptor_destroy(service->acceptor);
	transport_unlink(&service->transport);
}

int main(int argc, char *argv[])
{
	struct service service = {.to_accept = -1};
	parse(&service, argc, argv);
	log_init("mojo-service", LOG_INFO);
	signal(SIGPIPE, SIG_IGN);
	rlimit_raise_files();
	service.base = event_base_new();
	if (service.base == NULL) {
		errx(EXIT_FAILURE, "there is no event base");
	}
	struct event *term = evsignal_new(service.base, SIGTERM, handle_signal, service.base);
	event_add(term, NULL);
	node_group_init(&service.group, service.base, &handler, &service);
	long before = node_open_fds();
	serve(&service);
	node_group_finish(&service.group);
	long after = node_open_fds();
	printf("fds at=service: before=%ld after=%ld\n", before, after);
	event_free(term);
	event_base_free(service.base);
	return service.group.failures == 0 && before == after ? EXIT_SUCCESS : EXIT_FAILURE;
}
