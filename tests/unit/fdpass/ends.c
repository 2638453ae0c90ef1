#include "ends.h"

#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "fdpass/region.h"

// Enough for what one thing causes at the other end, and back.
#define QUIET_PASSES 6

static const char *handle(struct end *end, const struct channel_frame *frame)
{
	if (frame->header.id == 0 && frame->header.type == CHANNEL_REGION_MAP) {
		return region_handle_arrived(&end->refs, frame);
	}
	if (frame->header.id == 0 && frame->header.type == CHANNEL_REGION_UNMAP) {
		return region_handle_unmap(&end->refs, frame);
	}
	return fdrefs_frame(&end->refs, frame);
}

static const char *handle_frame(void *data, const struct channel_frame *frame)
{
	struct end *end = data;
	assert_in_range(frame->header.type, 1, CHANNEL_REGION_ROWS);
	end->frames[frame->header.type]++;
	if (frame->header.type == CHANNEL_OPEN) {
		end->opened = frame->header.id;
	}
	if (frame->header.type == CHANNEL_STREAM_STOP) {
		end->stop_reason = frame->header.arg;
	}
	const char *wrong = handle(end, frame);
	if (wrong == NULL && frame->header.type == CHANNEL_OPEN && end->takes) {
		end->taken = end_take(end);
	}
	return wrong;
}

static const char *handle_place(
	void *data, uint32_t id, const struct channel_mem_write *write, struct channel_rows *rows)
{
	struct end *end = data;
	end->frames[CHANNEL_MEM_WRITE]++;
	return fdrefs_place(&end->refs, id, write, rows);
}

static void handle_written(void *data, uint32_t id)
{
	(void)data;
	(void)id;
}

static void handle_ended(void *data, int error, const char *reason)
{
	struct end *end = data;
	(void)error;
	end->ended = true;
	end->wrong = reason;
}

static void handle_drained(void *data)
{
	struct end *end = data;
	fdrefs_drained(&end->refs);
}

static void handle_settled(void *data)
{
	struct end *end = data;
	channel_flush(end->channel);
}

static const struct channel_handler handler = {
	.frame = handle_frame,
	.place = handle_place,
	.written = handle_written,
	.ended = handle_ended,
	.drained = handle_drained,
	.settled = handle_settled,
};

static void handle_stored(void *data, const struct content_hash *hash, int fd)
{
	struct end *end = data;
	assert_true(content_hash_equal(hash, hash));
	assert_true(fd >= 0);
	end->stored++;
}

static void handle_streams_over(void *data)
{
	struct end *end = data;
	end->streams_over++;
}

static void init_end(struct end *end, struct event_base *base, int fd, uint32_t own_bit)
{
	*end = (struct end){0};
	content_store_init(&end->contents);
	end->channel = channel_create(base, fd, &handler, end);
	assert_non_null(end->channel);
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		end->budget.limits.most[i] = 1u << 30;
	}
	end->budget.limits.most[BUDGET_FDS] = 1000;
	end->refs = (struct fdrefs){
		.channel = end->channel,
		.base = base,
		.own_bit = own_bit,
		.any_kind = true,
		.rules.shared = FDREF_SHARED_DIFF,
		.budget = &end->budget,
		.contents = &end->contents,
		.stored = handle_stored,
		.streams_over = handle_streams_over,
		.data = end,
	};
}

void ends_init(struct ends *ends)
{
	int sockets[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	// As a session process: a test can come before what it watches, and counts come last.
	ends->base = event_base_new();
	assert_non_null(ends->base);
	assert_int_equal(event_base_priority_init(ends->base, 3), 0);
	init_end(&ends->guest, ends->base, sockets[0], 0);
	init_end(&ends->host, ends->base, sockets[1], CHANNEL_ID_HOST);
}

void ends_init_wayland(struct ends *ends)
{
	ends_init(ends);
	ends->guest.refs.any_kind = ends->host.refs.any_kind = false;
}

void ends_share_region(struct ends *ends, uint64_t size)
{
	ends->host.refs.region = region_create(size);
	assert_non_null(ends->host.refs.region);
	ends->guest.refs.region =
		region_open(fcntl(ends->host.refs.region->fd, F_DUPFD_CLOEXEC, 0));
	assert_non_null(ends->guest.refs.region);
	ends->host.refs.region->names_rows = ends->guest.refs.region->names_rows = true;
}

void ends_divide_region(struct ends *ends)
{
	region_agree(ends->guest.refs.region);
	region_agree(ends->host.refs.region);
	assert_true(region_push_arrived(&ends->guest.refs));
	ends_run(ends);
	assert_true(ends->host.refs.region->arrived);
}

static void finish_end(struct end *end)
{
	fdrefs_finish(&end->refs);
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		assert_int_equal(end->budget.used[i], 0);
	}
	channel_destroy(end->channel);
	content_store_finish(&end->contents);
}

void ends_finish(struct ends *ends)
{
	finish_end(&ends->guest);
	finish_end(&ends->host);
	event_base_free(ends->base);
}

void ends_run(struct ends *ends)
{
	uint64_t last = UINT64_MAX;
	for (int quiet = 0; quiet < QUIET_PASSES; quiet++) {
		channel_flush(ends->guest.channel);
		channel_flush(ends->host.channel);
		event_base_loop(ends->base, EVLOOP_NONBLOCK);
		uint64_t moved = channel_bytes_received(ends->guest.channel) +
			channel_bytes_received(ends->host.channel);
		quiet = moved == last ? quiet : 0;
		last = moved;
	}
}

void end_reconnect(struct end *end, struct event_base *base, int fd)
{
	channel_destroy(end->channel);
	end->channel = channel_create(base, fd, &handler, end);
	assert_non_null(end->channel);
	end->refs.channel = end->channel;
}

const char *end_frame(
	struct end *end, uint16_t type, uint32_t id, uint32_t arg, const void *payload, size_t len)
{
	// of exactly this length, so that reading past it is seen
	uint8_t *copy = malloc(len > 0 ? len : 1);
	if (len > 0) {
		memcpy(copy, payload, len);
	}
	struct channel_frame frame = {
		.header = {.length = (uint32_t)len, .type = type, .id = id, .arg = arg},
		.payload = copy,
	};
	const char *wrong = handle(end, &frame);
	free(copy);
	return wrong;
}

const char *end_write(struct end *end, uint32_t id, const struct channel_mem_write *write,
	struct channel_rows *rows)
{
	*rows = (struct channel_rows){
		.stride = write->stride,
		.row_bytes = write->row_bytes,
		.rows = write->rows,
	};
	return fdrefs_place(&end->refs, id, write, rows);
}

int end_take(struct end *end)
{
	struct fdref *ref = fdrefs_get(&end->refs, end->opened);
	assert_non_null(ref);
	assert_non_null(ref->interface->get_fd);
	return ref->interface->get_fd(ref);
}

uint8_t pattern(size_t at)
{
	return (uint8_t)(at * 7 + at / 256 + 1);
}

int new_memfd(size_t size)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(fd >= 0);
	uint8_t *data = malloc(size + 1);
	for (size_t i = 0; i < size; i++) {
		data[i] = pattern(i);
	}
	assert_int_equal(pwrite(fd, data, size, 0), (ssize_t)size);
	free(data);
	return fd;
}
