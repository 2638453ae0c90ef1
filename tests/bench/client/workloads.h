#ifndef TESTS_BENCH_CLIENT_WORKLOADS_H
#define TESTS_BENCH_CLIENT_WORKLOADS_H

#include <stdbool.h>
#include <stddef.h>

// How much to do: count things, or as many as the seconds allow.
struct job {
	size_t count;
	double seconds;
	int width, height; // of windows
	bool announce;     // see struct stopwatch
};

// Each prints one line, a JSON object, and ends the program where something goes wrong.
typedef void workload(const struct job *job);

workload workload_rtt, workload_burst, workload_connect, workload_connect_storm,
	workload_startup;                                                  // messages.c
workload workload_damage, workload_full, workload_sparse, workload_static; // frames.c
workload workload_paced, workload_memory;
workload workload_dmabuf;    // dmabuf.c; $BENCH_DMABUFS has the fds of two buffers
workload workload_clipboard; // clipboard.c; count is the MiB of one paste
// opaque.c; count of a stream is its MiB. $BENCH_SERVICE is the path of the service.
workload workload_opaque_rtt, workload_opaque_rtt_fd, workload_opaque_stream_to_service,
	workload_opaque_stream_from_service, workload_opaque_fds;

#endif
