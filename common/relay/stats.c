#include "relay/stats.h"

#include <inttypes.h>

void stats_add(struct stats *sum, const struct stats *part)
{
	sum->sessions += part->sessions;
	for (int i = WIRE_REQUEST; i <= WIRE_EVENT; i++) {
		sum->messages[i] += part->messages[i];
		sum->message_bytes[i] += part->message_bytes[i];
	}
	for (int i = 0; i < STATS_FD_COUNT; i++) {
		sum->fds[i] += part->fds[i];
	}
	sum->fds_cached += part->fds_cached;
	sum->memory_bytes_sent += part->memory_bytes_sent;
	sum->memory_bytes_received += part->memory_bytes_received;
	sum->memory_bytes_twinned += part->memory_bytes_twinned;
	sum->stream_bytes_sent += part->stream_bytes_sent;
	sum->stream_bytes_received += part->stream_bytes_received;
	sum->channel_bytes_sent += part->channel_bytes_sent;
	sum->channel_bytes_received += part->channel_bytes_received;
}

// One call, so that the lines of several processes do not mix.
void stats_print(FILE *out, const char *title, const struct stats *stats)
{
	fprintf(out,
		"%s\n"
		"  sessions  %" PRIu64 "\n"
		"  messages  %" PRIu64 " requests (%" PRIu64 " bytes), %" PRIu64 " events (%" PRIu64
		" bytes)\n"
		"  fds       %" PRIu64 " pools, %" PRIu64 " files (%" PRIu64 " cached), %" PRIu64
		" pipes\n"
		"  memory    %" PRIu64 " bytes sent, %" PRIu64 " received, %" PRIu64 " twinned\n"
		"  streams   %" PRIu64 " bytes sent, %" PRIu64 " received\n"
		"  channel   %" PRIu64 " bytes sent, %" PRIu64 " received\n",
		title, stats->sessions, stats->messages[WIRE_REQUEST],
		stats->message_bytes[WIRE_REQUEST], stats->messages[WIRE_EVENT],
		stats->message_bytes[WIRE_EVENT], stats->fds[STATS_FD_POOL],
		stats->fds[STATS_FD_FILE], stats->fds_cached, stats->fds[STATS_FD_PIPE],
		stats->memory_bytes_sent, stats->memory_bytes_received, stats->memory_bytes_twinned,
		stats->stream_bytes_sent, stats->stream_bytes_received, stats->channel_bytes_sent,
		stats->channel_bytes_received);
}
