#ifndef RELAY_STATS_H
#define RELAY_STATS_H

#include <stdint.h>
#include <stdio.h>

#include "wire/schema.h"

// What an fd was carried as.
enum stats_fd {
	STATS_FD_POOL,
	STATS_FD_FILE,
	STATS_FD_PIPE,
	STATS_FD_SOCKET, // but the session's own
	STATS_FD_EVENT,
	STATS_FD_DEVICE,
	STATS_FD_SHARED,
	STATS_FD_SYNC,
	STATS_FD_DMABUF,
	STATS_FD_TIMELINE,
	STATS_FD_COUNT,
};

// A plain value: counters of one session, or the sum of several.
struct stats {
	uint64_t sessions;
	uint64_t messages[2]; // by enum wire_direction
	uint64_t message_bytes[2];
	uint64_t fds[STATS_FD_COUNT];
	uint64_t fds_cached;        // files that did not cross because the other side had them
	uint64_t fds_on_demand;     // files of which only what is read crosses
	uint64_t fds_home;          // that went back to where they had come from
	uint64_t fds_unsupported;   // left out or replaced
	uint64_t dmabufs_shared;    // that both sides have the pages of: no copy was made
	uint64_t dmabufs_held;      // that the local peer still had in use long after their end
	uint64_t memory_bytes_sent; // contents of pools, dma-bufs and files
	uint64_t memory_bytes_received;
	uint64_t memory_bytes_twinned; // copied on the far side instead of sent
	uint64_t memory_bytes_shared;  // copied to or from the region instead of sent
	uint64_t memory_bytes_saved;   // neither, as both sides have the same pages
	uint64_t memory_conflicts;     // words of shared memory that both sides had changed
	uint64_t stream_bytes_sent;
	uint64_t stream_bytes_received;
	uint64_t channel_bytes_sent;
	uint64_t channel_bytes_received;
};

void stats_add(struct stats *sum, const struct stats *part);
// A few lines for people: messages, fds by kind, bytes. Kinds of which there were none are left out.
void stats_print(FILE *out, const char *title, const struct stats *stats);

#endif
