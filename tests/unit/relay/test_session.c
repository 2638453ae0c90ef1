#include "relay/session.h"

#include <event2/event.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/budget.h"
#include "base/fdlist.h"
#include "base/scm.h"
#include "fdpass/file.h"
#include "protocol/channel.h"
#include "tests/support/fd_count.h"

#define MIB (1024u * 1024)

// A guest's session of a service, and a bare channel.
struct service {
	struct event_base *base;
	struct session *session;
	struct budget budget;
	struct content_store contents;
	int local, channel;
	bool ended;
};

static void handle_ended(void *data, const char *reason)
{
	struct service *service = data;
	(void)reason;
	service->ended = true;
}

static void make_pair(int pair[2])
{
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
}

static void init(struct service *service, enum wire_direction exports, const char *name)
{
	int local[2], channel[2];
	make_pair(local);
	make_pair(channel);
	*service = (struct service){.local = local[0], .channel = channel[0]};
	content_store_init(&service->contents);
	service->base = event_base_new();
	assert_non_null(service->base);
	service->budget.limits = (struct budget_limits){
		.most =
			{
				[BUDGET_MEMORY] = 1024 * (uint64_t)MIB,
				[BUDGET_FDS] = 100,
				[BUDGET_OBJECTS] = 100,
				[BUDGET_PENDING] = 100,
				[BUDGET_STREAMS] = 100,
				[BUDGET_POOLS] = 100,
				[BUDGET_MAPPED] = 1024 * (uint64_t)MIB,
				[BUDGET_UNSENT] = 96 * MIB,
				[BUDGET_FLIGHT] = 100,
			},
	};
	const struct session_options options = {
		.base = service->base,
		.exports = exports,
		.local_fd = local[1],
		.channel_fd = channel[1],
		.service = name,
		.rules.shared = FDREF_SHARED_DIFF,
		.budget = &service->budget,
		.contents = &service->contents,
		.ended = handle_ended,
		.data = service,
	};
	service->session = session_create(&options);
	assert_non_null(service->session);
}

static void service_init(struct service *service)
{
	init(service, WIRE_REQUEST, "test");
}

static void service_finish(struct service *service)
{
	session_destroy(service->session);
	event_base_free(service->base);
	content_store_finish(&service->contents);
	close(service->local);
	close(service->channel);
}

static void run(struct service *service)
{
	for (int i = 0; i < 10; i++) {
		event_base_loop(service->base, EVLOOP_NONBLOCK);
	}
}

static void send_memory(struct service *service, size_t size)
{
	struct fdlist fds;
	struct iovec iov = {"x", 1};
	int fd = memfd_create("test", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	uint8_t *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(data, MAP_FAILED);
	memset(data, 1, size);
	munmap(data, size);
	fdlist_init(&fds);
	assert_true(fdlist_push(&fds, fd));
	assert_int_equal(scm_send(service->local, &iov, 1, &fds, 1), 1);
	fdlist_finish(&fds);
}

static void send_ping(struct service *service)
{
	const struct {
		struct channel_header header;
		struct channel_ping ping;
	} frame = {.header = {.type = CHANNEL_PING, .length = sizeof(frame.ping)}};
	assert_int_equal(send(service->channel, &frame, sizeof(frame), 0), sizeof(frame));
}

// Its words are copied into the channel's queue, and they are no answers.
static void a_large_memory_may_wait_for_the_other_side(void **state)
{
	(void)state;
	struct service service;
	service_init(&service);
	send_memory(&service, FILE_MAX + 64 * MIB);
	run(&service);
	assert_true(session_stats(service.session)->memory_bytes_sent > FILE_MAX + 64 * MIB);
	send_ping(&service);
	run(&service);
	assert_false(service.ended);
	service_finish(&service);
}

static void send_unknown(struct service *service, uint32_t id, uint16_t flags)
{
	const struct channel_header header = {
		.type = CHANNEL_REGION_ROWS + 1, .id = id, .flags = flags};
	assert_int_equal(send(service->channel, &header, sizeof(header), 0), sizeof(header));
}

static bool survives_unknown(uint32_t id, uint16_t flags)
{
	struct service service;
	service_init(&service);
	send_unknown(&service, id, flags);
	send_ping(&service);
	run(&service);
	shutdown(service.channel, SHUT_WR);
	uint8_t answer[4096];
	ssize_t n = recv(service.channel, answer, sizeof(answer), 0);
	struct channel_header header;
	bool pong = false;
	for (size_t at = 0; n > 0 && at + sizeof(header) <= (size_t)n;
		at += sizeof(header) + header.length) {
		memcpy(&header, answer + at, sizeof(header));
		pong |= header.type == CHANNEL_PONG;
	}
	service_finish(&service);
	return pong;
}

static void only_what_is_of_no_fdref_is_skipped(void **state)
{
	(void)state;
	assert_true(survives_unknown(0, CHANNEL_FLAG_SKIPPABLE));
	assert_false(survives_unknown(0, 0));
	assert_false(survives_unknown(1, CHANNEL_FLAG_SKIPPABLE)); // the root
	assert_false(survives_unknown(2, CHANNEL_FLAG_SKIPPABLE));
	assert_false(survives_unknown(CHANNEL_ID_HOST | 1, CHANNEL_FLAG_SKIPPABLE));
}

static void what_is_skipped_counts(void **state)
{
	(void)state;
	struct service service;
	service_init(&service);
	service.budget.limits.rate = 1;
	service.budget.limits.burst = 10;
	for (int i = 0; i < 20; i++) {
		send_unknown(&service, 0, CHANNEL_FLAG_SKIPPABLE);
	}
	run(&service);
	assert_non_null(budget_exceeded(&service.budget));
	service_finish(&service);
}

static void open_file(struct service *service, size_t size)
{
	struct {
		struct channel_header header;
		struct channel_open_memory open;
	} frame = {
		.header = {.type = CHANNEL_OPEN,
			.id = CHANNEL_ID_HOST | 1,
			.arg = CHANNEL_KIND_FILE,
			.length = sizeof(frame.open)},
		.open = {.exact = 1, .size = {(uint32_t)size}},
	};
	assert_int_equal(send(service->channel, &frame, sizeof(frame), 0), sizeof(frame));
}

static void answers_may_not_wait_for_the_other_side_instead_of_memory(void **state)
{
	(void)state;
	struct service service;
	service_init(&service);
	service.budget.limits.most[BUDGET_UNSENT] = MIB;
	open_file(&service, 512 * MIB); // of which nothing comes
	run(&service);
	assert_true(service.budget.used[BUDGET_MEMORY] >= 512 * MIB);
	for (int i = 0; i < 100000 && !service.ended; i++) {
		send_ping(&service);
		run(&service);
	}
	assert_string_equal(budget_exceeded(&service.budget),
		"over the session's budget of unsent bytes: 1048576 (--max-unsent)");
	service_finish(&service);
}

/* ---- a host's session of Wayland ---- */

static void send_frame(struct service *service, enum channel_type type, uint32_t id, uint32_t arg,
	const void *payload, size_t len)
{
	const struct channel_header header = {
		.type = type, .id = id, .arg = arg, .length = (uint32_t)len};
	assert_int_equal(send(service->channel, &header, sizeof(header), 0), sizeof(header));
	assert_int_equal(send(service->channel, payload, len, 0), len);
	run(service);
}

static void open_pool(struct service *service, uint32_t id, uint32_t size)
{
	const struct channel_open_memory open = {.access = CHANNEL_ACCESS_BOTH, .size = {size}};
	send_frame(service, CHANNEL_OPEN, id, CHANNEL_KIND_POOL, &open, sizeof(open));
}

// Up to a wl_shm that is object 3.
static void bind_shm(struct service *service)
{
	static const uint32_t get_registry[] = {1, 12 << 16 | 1, 2};
	static const uint32_t global[] = {2, 28 << 16, 1, 7, 0x735f6c77, 0x00006d68, 1};
	static const uint32_t bind[] = {2, 32 << 16, 1, 7, 0x735f6c77, 0x00006d68, 1, 3};
	send_frame(service, CHANNEL_MESSAGES, 0, 0, get_registry, sizeof(get_registry));
	assert_int_equal(send(service->local, global, sizeof(global), 0), sizeof(global));
	run(service);
	send_frame(service, CHANNEL_MESSAGES, 0, 0, bind, sizeof(bind));
}

static void a_pool_that_its_compositor_has_not_seen_stays_charged(void **state)
{
	(void)state;
	struct service service;
	init(&service, WIRE_EVENT, NULL);
	bind_shm(&service);
	open_pool(&service, 7, MIB);
	const uint32_t come_and_go[] = {7, 3, 16 << 16, 4, MIB, 4, 8 << 16 | 1}; // 7 is the fdref
	send_frame(&service, CHANNEL_MESSAGES, 0, 1, come_and_go, sizeof(come_and_go));
	send_frame(&service, CHANNEL_CLOSE, 7, 0, "", 0);
	open_pool(&service, 7, 4096); // the id is free again
	assert_false(service.ended);
	assert_int_equal(service.budget.used[BUDGET_MEMORY], MIB + 4096);
	assert_int_equal(service.budget.used[BUDGET_FDS], 2);

	uint8_t bytes[4096];
	struct fdlist fds;
	fdlist_init(&fds);
	while (scm_recv(service.local, bytes, sizeof(bytes), &fds) > 0) {
	}
	assert_int_equal(fds.count, 1);
	fdlist_finish(&fds);
	while (service.budget.used[BUDGET_MEMORY] > 4096) {
		event_base_loop(service.base, EVLOOP_ONCE);
	}
	assert_int_equal(service.budget.used[BUDGET_FDS], 1);
	service_finish(&service);
	assert_int_equal(service.budget.used[BUDGET_FDS], 0);
	assert_int_equal(service.budget.used[BUDGET_MEMORY], 0);
}

static void send_messages(
	struct service *service, uint32_t n_refs, const uint32_t *words, size_t n_words)
{
	send_frame(service, CHANNEL_MESSAGES, 0, n_refs, words, n_words * sizeof(*words));
}

// wl_shm_pools of fdref 7 with ids from 4, as many as it takes until the session is over.
static void create_pools(struct service *service, uint32_t n, uint32_t size)
{
	for (uint32_t i = 0; i < n && budget_exceeded(&service->budget) == NULL; i++) {
		const uint32_t create[] = {7, 3, 16 << 16, 4 + i, size};
		send_messages(service, 1, create, 5);
	}
}

static void one_memory_in_many_pools_is_charged_for_each(void **state)
{
	(void)state;
	struct service service;
	init(&service, WIRE_EVENT, NULL);
	service.budget.limits.most[BUDGET_POOLS] = 10;
	bind_shm(&service);
	open_pool(&service, 7, 4096);
	create_pools(&service, 10, 4096);
	assert_null(budget_exceeded(&service.budget));
	assert_int_equal(service.budget.used[BUDGET_POOLS], 10);
	assert_int_equal(service.budget.used[BUDGET_MAPPED], 10 * 4096);
	const uint32_t one_more[] = {7, 3, 16 << 16, 14, 4096};
	send_messages(&service, 1, one_more, 5);
	assert_string_equal(budget_exceeded(&service.budget),
		"over the session's budget of pools: 10 (--max-pools)");
	service_finish(&service);
	assert_int_equal(service.budget.used[BUDGET_POOLS], 0);
	assert_int_equal(service.budget.used[BUDGET_MAPPED], 0);
}

static void a_pool_is_charged_while_a_buffer_is_in_it(void **state)
{
	(void)state;
	struct service service;
	init(&service, WIRE_EVENT, NULL);
	bind_shm(&service);
	open_pool(&service, 7, 4096);
	create_pools(&service, 1, 4096);
	const uint32_t buffer_stays[] = {4, 32 << 16, 5, 0, 1, 1, 4, 0, 4, 8 << 16 | 1};
	send_messages(&service, 0, buffer_stays, 10);
	assert_int_equal(service.budget.used[BUDGET_POOLS], 1);
	const uint32_t destroy[] = {5, 8 << 16};
	send_messages(&service, 0, destroy, 2);
	assert_false(service.ended);
	assert_int_equal(service.budget.used[BUDGET_POOLS], 0);
	assert_int_equal(service.budget.used[BUDGET_MAPPED], 0);
	service_finish(&service);
}

static void a_pool_that_grows_is_charged_for_what_it_maps(void **state)
{
	(void)state;
	struct service service;
	init(&service, WIRE_EVENT, NULL);
	service.budget.limits.most[BUDGET_MAPPED] = 3 * MIB;
	bind_shm(&service);
	open_pool(&service, 7, 4096);
	create_pools(&service, 2, MIB);
	assert_int_equal(service.budget.used[BUDGET_MAPPED], 2 * MIB);
	const uint32_t grow[] = {4, 12 << 16 | 2, 2 * MIB};
	send_messages(&service, 0, grow, 3);
	assert_null(budget_exceeded(&service.budget));
	assert_int_equal(service.budget.used[BUDGET_MAPPED], 3 * MIB);
	const uint32_t grow_more[] = {5, 12 << 16 | 2, MIB + 1};
	send_messages(&service, 0, grow_more, 3);
	assert_string_equal(budget_exceeded(&service.budget),
		"over the session's budget of mapped bytes: 3145728 (--max-mapped)");
	service_finish(&service);
}

// Whether a file that is in the session's store already can be opened as such.
static bool knows_files(enum wire_direction exports, uint32_t id)
{
	struct service service;
	const struct channel_open_memory open = {
		.seals = CHANNEL_NO_SEALS, .cached = 1, .size = {4096}};
	struct content_hash hash;
	memcpy(hash.bytes, open.hash, sizeof(hash.bytes));
	init(&service, exports, NULL);
	int fd = memfd_create("test", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, 4096), 0);
	content_store_put(&service.contents, &hash, fd);
	send_frame(&service, CHANNEL_OPEN, id, CHANNEL_KIND_FILE, &open, sizeof(open));
	bool known = session_stats(service.session)->fds_cached == 1;
	service_finish(&service);
	return known;
}

static void a_host_keeps_no_files(void **state)
{
	(void)state;
	assert_true(knows_files(WIRE_REQUEST, CHANNEL_ID_HOST | 1));
	assert_false(knows_files(WIRE_EVENT, 1));
}

// Whether the session goes on after weston_debug_v1.subscribe, which wants a pipe, has named id 7.
static bool subscribes(enum channel_kind kind, const void *open, size_t len)
{
	static const char name[16] = "weston_debug_v1";
	static const uint32_t get_registry[] = {1, 12 << 16 | 1, 2};
	uint32_t global[9] = {2, 36 << 16, 1, sizeof(name), [8] = 1};
	uint32_t bind[10] = {2, 40 << 16, 1, sizeof(name), [8] = 1, [9] = 3};
	const uint32_t subscribe[] = {7, 3, 20 << 16 | 1, 2, 0x61, 4}; // "a"
	struct service service;
	memcpy(&global[4], name, sizeof(name));
	memcpy(&bind[4], name, sizeof(name));
	init(&service, WIRE_EVENT, NULL);
	send_frame(&service, CHANNEL_MESSAGES, 0, 0, get_registry, sizeof(get_registry));
	assert_int_equal(send(service.local, global, sizeof(global), 0), sizeof(global));
	run(&service);
	send_frame(&service, CHANNEL_MESSAGES, 0, 0, bind, sizeof(bind));
	send_frame(&service, CHANNEL_OPEN, 7, kind, open, len);
	assert_false(service.ended);
	const struct channel_header header = {
		.type = CHANNEL_MESSAGES, .arg = 1, .length = sizeof(subscribe)};
	assert_int_equal(send(service.channel, &header, sizeof(header), 0), sizeof(header));
	assert_int_equal(send(service.channel, subscribe, sizeof(subscribe), 0), sizeof(subscribe));
	run(&service);

	uint8_t bytes[4096];
	struct fdlist fds;
	fdlist_init(&fds);
	while (scm_recv(service.local, bytes, sizeof(bytes), &fds) > 0) {
	}
	bool arrived = fds.count == 1;
	fdlist_finish(&fds);
	service_finish(&service);
	return arrived;
}

static void an_fdref_of_another_kind_ends_the_session(void **state)
{
	(void)state;
	const struct channel_open_pipe pipe = {.access = CHANNEL_ACCESS_WRITE};
	const struct channel_open_memory pool = {.access = CHANNEL_ACCESS_BOTH, .size = {1}};
	const struct channel_open_memory file = {.access = CHANNEL_ACCESS_BOTH, .exact = 1};
	assert_true(subscribes(CHANNEL_KIND_PIPE, &pipe, sizeof(pipe)));
	assert_false(subscribes(CHANNEL_KIND_POOL, &pool, sizeof(pool)));
	assert_false(subscribes(CHANNEL_KIND_FILE, &file, sizeof(file)));
}

// How many bytes the compositor is sent when the guest binds global 1 as a wl_shm with that id.
static ssize_t bind_again(struct service *service, uint32_t id)
{
	const uint32_t bind[] = {2, 32 << 16, 1, 7, 0x735f6c77, 0x00006d68, 1, id};
	uint8_t bytes[4096];
	while (recv(service->local, bytes, sizeof(bytes), 0) > 0) {
	}
	send_frame(service, CHANNEL_MESSAGES, 0, 0, bind, sizeof(bind));
	return recv(service->local, bytes, sizeof(bytes), 0);
}

// There are compositors that give the names of globals that are gone to others.
static void a_hidden_global_is_not_bound_by_the_name_of_one_before_it(void **state)
{
	(void)state;
	static const uint32_t removed[] = {2, 12 << 16 | 1, 1};
	static const uint32_t hidden[] = {2, 28 << 16, 1, 7, 0x785f6c77, 0x00007878, 1}; // wl_xxx
	struct service service;
	init(&service, WIRE_EVENT, NULL);
	bind_shm(&service);
	assert_int_equal(bind_again(&service, 4), 32);
	assert_int_equal(send(service.local, removed, sizeof(removed), 0), sizeof(removed));
	assert_int_equal(send(service.local, hidden, sizeof(hidden), 0), sizeof(hidden));
	run(&service);
	assert_int_equal(bind_again(&service, 5), 0); // the session is over
	service_finish(&service);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(only_what_is_of_no_fdref_is_skipped),
		fd_count_test(what_is_skipped_counts),
		fd_count_test(a_large_memory_may_wait_for_the_other_side),
		fd_count_test(a_pool_that_its_compositor_has_not_seen_stays_charged),
		fd_count_test(one_memory_in_many_pools_is_charged_for_each),
		fd_count_test(a_pool_is_charged_while_a_buffer_is_in_it),
		fd_count_test(a_pool_that_grows_is_charged_for_what_it_maps),
		fd_count_test(an_fdref_of_another_kind_ends_the_session),
		fd_count_test(a_hidden_global_is_not_bound_by_the_name_of_one_before_it),
		fd_count_test(a_host_keeps_no_files),
		fd_count_test(answers_may_not_wait_for_the_other_side_instead_of_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
