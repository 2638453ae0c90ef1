#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "examples/mojo/pattern.h"
#include "examples/mojo/region.h"
#include "examples/mojo/scenario.h"

/**
 * Read-only shared memory, in all sizes and flavours.
 */

enum {
	REGION = SCENARIO_KINDS, // number: from 0; with the region
};

static const size_t sizes[] = {
	1, 4, 4095, 4096, 4097, 65568, 131072, 262144, 270336, 8 * 1024 * 1024};
#define SIZES   (sizeof(sizes) / sizeof(sizes[0]))
#define REGIONS (SIZES * REGION_FLAVOURS)

struct regions {
	uint32_t checked;
	uint64_t bytes, hash;
};

static void begin(struct run *run)
{
	if (!run->starts) {
		run->state = calloc(1, sizeof(struct regions));
		return;
	}
	for (uint32_t i = 0; i < REGIONS && !run->over; i++) {
		int fd = region_create((enum region_flavour)(i / SIZES), sizes[i % SIZES],
			pattern_number(run->seed, i));
		if (fd < 0) {
			run_fail(run, "region %" PRIu32 " cannot be made: %d", i, -fd);
			return;
		}
		run_send(run, REGION, i, fd);
	}
	run_done(run, "sent=%zu", REGIONS);
}

static void check_region(struct run *run, struct regions *regions, struct mojo_message *message)
{
	uint32_t i = message->number;
	int fd = fdlist_take(&message->handles);
	if (message->kind != REGION || i != regions->checked || i >= REGIONS || fd < 0) {
		run_fail(run, "a message that brings no region");
		return;
	}
	const char *wrong = region_check(fd, (enum region_flavour)(i / SIZES), sizes[i % SIZES],
		pattern_number(run->seed, i), &regions->hash);
	close(fd);
	if (wrong != NULL) {
		run_fail(run, "%zu bytes, flavour %zu: %s", sizes[i % SIZES], i / SIZES, wrong);
		return;
	}
	regions->checked++;
	regions->bytes += sizes[i % SIZES];
}

static void message(struct run *run, struct mojo_message *message)
{
	struct regions *regions = run->state;
	if (regions == NULL) {
		run_fail(run, "out of memory, or a region that nobody wants");
		return;
	}
	check_region(run, regions, message);
	if (regions->checked == REGIONS) {
		run_done(run, "regions=%" PRIu32 " bytes=%" PRIu64 " hash=%016" PRIx64,
			regions->checked, regions->bytes, regions->hash);
	}
}

static void end(struct run *run)
{
	free(run->state);
}

const struct scenario regions_scenario = {
	.name = "regions",
	.text = "read-only shared memory, as sealed memfds and as unlinked files",
	.begin = begin,
	.message = message,
	.end = end,
};
