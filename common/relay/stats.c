#include "relay/stats.h"

#include <inttypes.h>
#include <stdlib.h>

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
	sum->fds_on_demand += part->fds_on_demand;
	sum->fds_home += part->fds_home;
	sum->dmabufs_shared += part->dmabufs_shared;
	sum->dmabufs_held += part->dmabufs_held;
	sum->fds_unsupported += part->fds_unsupported;
	sum->memory_bytes_sent += part->memory_bytes_sent;
	sum->memory_bytes_received += part->memory_bytes_received;
	sum->memory_bytes_twinned += part->memory_bytes_twinned;
	sum->memory_bytes_shared += part->memory_bytes_shared;
	sum->memory_bytes_saved += part->memory_bytes_saved;
	sum->memory_conflicts += part->memory_conflicts;
	sum->stream_bytes_sent += part->stream_bytes_sent;
	sum->stream_bytes_received += part->stream_bytes_received;
	sum->channel_bytes_sent += part->channel_bytes_sent;
	sum->channel_bytes_received += part->channel_bytes_received;
}

static void print_fds(FILE *out, const struct stats *stats)
{
	const struct {
		uint64_t number;
		const char *what;
	} counts[] = {
		{stats->fds[STATS_FD_POOL], "pools"},
		{stats->fds[STATS_FD_FILE], "files"},
		{stats->fds_cached, "of them cached"},
		{stats->fds_on_demand, "of them on demand"},
		{stats->fds[STATS_FD_PIPE], "pipes"},
		{stats->fds[STATS_FD_SOCKET], "sockets"},
		{stats->fds[STATS_FD_EVENT], "eventfds"},
		{stats->fds[STATS_FD_DEVICE], "devices"},
		{stats->fds[STATS_FD_SHARED], "of shared memory"},
		{stats->fds[STATS_FD_SYNC], "sync_files"},
		{stats->fds[STATS_FD_DMABUF], "dma-bufs"},
		{stats->dmabufs_shared, "of them not copied"},
		{stats->dmabufs_held, "of them held after their end"},
		{stats->fds[STATS_FD_TIMELINE], "timelines"},
		{stats->fds_home, "gone home"},
		{stats->fds_unsupported, "unsupported"},
	};
	const char *before = "  fds       ";
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		if (counts[i].number > 0) {
			fprintf(out, "%s%" PRIu64 " %s", before, counts[i].number, counts[i].what);
			before = ", ";
		}
	}
	fputs(*before == ' ' ? "  fds       none\n" : "\n", out);
}

static void print_memory(FILE *out, const struct stats *stats)
{
	fprintf(out,
		"  memory    %" PRIu64 " bytes sent, %" PRIu64 " received, %" PRIu64 " twinned",
		stats->memory_bytes_sent, stats->memory_bytes_received,
		stats->memory_bytes_twinned);
	if (stats->memory_bytes_shared > 0) {
		fprintf(out, ", %" PRIu64 " shared", stats->memory_bytes_shared);
	}
	if (stats->memory_bytes_saved > 0) {
		fprintf(out, ", %" PRIu64 " not copied", stats->memory_bytes_saved);
	}
	if (stats->memory_conflicts > 0) {
		fprintf(out, ", %" PRIu64 " words in conflict", stats->memory_conflicts);
	}
	fputc('\n', out);
}

static void print_all(FILE *out, const char *title, const struct stats *stats)
{
	fprintf(out,
		"%s\n"
		"  sessions  %" PRIu64 "\n"
		"  messages  %" PRIu64 " requests (%" PRIu64 " bytes), %" PRIu64 " events (%" PRIu64
		" bytes)\n",
		title, stats->sessions, stats->messages[WIRE_REQUEST],
		stats->message_bytes[WIRE_REQUEST], stats->messages[WIRE_EVENT],
		stats->message_bytes[WIRE_EVENT]);
	print_fds(out, stats);
	print_memory(out, stats);
	fprintf(out,
		"  streams   %" PRIu64 " bytes sent, %" PRIu64 " received\n"
		"  channel   %" PRIu64 " bytes sent, %" PRIu64 " received\n",
		stats->stream_bytes_sent, stats->stream_bytes_received, stats->channel_bytes_sent,
		stats->channel_bytes_received);
}

// One write, so that the lines of several processes do not mix.
void stats_print(FILE *out, const char *title, const struct stats *stats)
{
	char *text = NULL;
	size_t len = 0;
	FILE *memory = open_memstream(&text, &len);
	if (memory == NULL) {
		return;
	}
	print_all(memory, title, stats);
	if (fclose(memory) == 0) {
		fwrite(text, 1, len, out);
		fflush(out);
	}
	free(text);
}
