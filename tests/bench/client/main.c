#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "tests/bench/client/workloads.h"

static const struct {
	const char *name;
	workload *run;
	struct job job; // unless the command line says otherwise
	const char *what;
} workloads[] = {
	{"rtt", workload_rtt, {5000, 0.5, 0, 0, false}, "wl_display.sync round trips"},
	{"burst", workload_burst, {4000000, 0.5, 0, 0, false}, "a flood of 24-byte requests"},
	{"connect", workload_connect, {80, 3, 0, 0, false}, "connections, a pause before each"},
	{"connect-storm", workload_connect_storm, {200, 2, 0, 0, false},
		"connections, one right after another"},
	{"startup", workload_startup, {100, 2, 0, 0, false},
		"connections up to keymap and first frame"},
	{"damage", workload_damage, {510, 1, 3840, 2160, false},
		"frames with 64x64 of damage, one at a time"},
	{"paced", workload_paced, {600, 10, 1920, 1080, false},
		"frames with 64x64 of damage, 60 a second at most"},
	{"full", workload_full, {1000, 1, 1920, 1080, false}, "frames of fresh noise"},
	{"sparse", workload_sparse, {1000, 1, 1920, 1080, false},
		"full damage, 64x64 really changed"},
	{"static", workload_static, {1000, 1, 1920, 1080, false}, "full damage, nothing changed"},
	{"dmabuf", workload_dmabuf, {170, 20, 3840, 2160, false},
		"bare commits and dma-bufs with full damage, in turn"},
	{"clipboard", workload_clipboard, {64, 1, 0, 0, false},
		"pastes between two clients, of --count MiB"},
	{"opaque-rtt", workload_opaque_rtt, {5000, 0.5, 0, 0, false},
		"64-byte messages of an unknown protocol and back"},
	{"opaque-rtt-fd", workload_opaque_rtt_fd, {500, 0.5, 0, 0, false},
		"the same, an end of a pipe with each tenth"},
	{"opaque-stream-to-service", workload_opaque_stream_to_service, {1024, 0, 0, 0, false},
		"one stream of --count MiB"},
	{"opaque-stream-from-service", workload_opaque_stream_from_service, {1024, 0, 0, 0, false},
		"the other way"},
	{"opaque-fds", workload_opaque_fds, {10000, 0, 0, 0, false},
		"pipes, sockets and sealed memory"},
	{"memory", workload_memory, {0, 0, 1920, 1080, false}, "a window until stdin ends"},
};

#define WORKLOADS (sizeof(workloads) / sizeof(workloads[0]))

static void usage(void)
{
	fprintf(stderr,
		"usage: bench-client [--count N] [--seconds S] [--timeout S] [--announce] "
		"WORKLOAD [WIDTHxHEIGHT]\n");
	for (size_t i = 0; i < WORKLOADS; i++) {
		fprintf(stderr, "  %-26s %s\n", workloads[i].name, workloads[i].what);
	}
	exit(2);
}

static size_t find_workload(const char *name)
{
	for (size_t i = 0; i < WORKLOADS; i++) {
		if (name != NULL && strcmp(workloads[i].name, name) == 0) {
			return i;
		}
	}
	usage();
	return 0;
}

struct settings {
	struct job job; // zero where not set
	unsigned timeout;
};

static void parse_options(int argc, char *argv[], struct settings *settings)
{
	static const struct option options[] = {
		{"count", required_argument, NULL, 'n'},
		{"seconds", required_argument, NULL, 's'},
		{"timeout", required_argument, NULL, 't'},
		{"announce", no_argument, NULL, 'a'},
		{0},
	};
	int option;
	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (option) {
		case 'n':
			settings->job.count = strtoul(optarg, NULL, 10);
			break;
		case 's':
			settings->job.seconds = strtod(optarg, NULL);
			break;
		case 't':
			settings->timeout = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'a':
			settings->job.announce = true;
			break;
		default:
			usage();
		}
	}
}

static void parse_size(const char *text, struct job *job)
{
	if (text == NULL) {
		return;
	}
	if (sscanf(text, "%dx%d", &job->width, &job->height) != 2 || job->width <= 64 ||
		job->height <= 64 || job->width > 8192 || job->height > 8192) {
		usage();
	}
}

int main(int argc, char *argv[])
{
	struct settings settings = {.timeout = 60};
	parse_options(argc, argv, &settings);
	if (optind >= argc) {
		usage();
	}
	size_t chosen = find_workload(argv[optind]);
	struct job job = workloads[chosen].job;
	job.announce = settings.job.announce;
	job.count = settings.job.count > 0 ? settings.job.count : job.count;
	job.seconds = settings.job.seconds > 0 ? settings.job.seconds : job.seconds;
	parse_size(argv[optind + 1], &job);
	alarm(settings.timeout); // whatever hangs ends here
	workloads[chosen].run(&job);
	return 0;
}
