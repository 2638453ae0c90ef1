#include "examples/mojo/introduction.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "examples/mojo/handle.h"
#include "examples/mojo/traffic.h"

struct introduction {
	struct traffic *traffic;
	introduction_done done;
	void *data;
	char result[128];
};

static const struct traffic_shape shape = {
	.messages = 64,
	.max = 100000,
	.max_handles = 4,
	.handle_kinds = HANDLE_TAGGED,
	.window = 64,
};

static void handle_done(void *data)
{
	struct introduction *introduction = data;
	introduction->done(introduction->data, NULL);
}

static void handle_failed(void *data, const char *wrong)
{
	struct introduction *introduction = data;
	introduction->done(introduction->data, wrong);
}

static const struct traffic_handler handler = {
	.done = handle_done,
	.failed = handle_failed,
};

struct introduction *introduction_create(struct event_base *base, int fd, enum mojo_format format,
	uint64_t seed, bool first, introduction_done done, void *data)
{
	struct introduction *introduction = calloc(1, sizeof(*introduction));
	struct traffic *traffic =
		traffic_create(base, fd, format, &shape, seed, first, &handler, introduction);
	if (introduction == NULL || traffic == NULL) {
		traffic_destroy(traffic);
		free(introduction);
		return NULL;
	}
	introduction->traffic = traffic;
	introduction->done = done;
	introduction->data = data;
	traffic_start(traffic);
	return introduction;
}

void introduction_destroy(struct introduction *introduction)
{
	if (introduction == NULL) {
		return;
	}
	traffic_destroy(introduction->traffic);
	free(introduction);
}

const char *introduction_result(struct introduction *introduction)
{
	const struct traffic_counts *counts = traffic_received(introduction->traffic);
	snprintf(introduction->result, sizeof(introduction->result),
		"messages=%u handles=%u bytes=%" PRIu64 " hash=%016" PRIx64, counts->messages,
		counts->handles, counts->bytes, counts->hash);
	return introduction->result;
}
