#include "fdpass/fdref.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "ends.h"
#include "fdpass/memory.h"
#include "tests/support/fd_count.h"

static const struct channel_open_memory pool = {
	.access = CHANNEL_ACCESS_BOTH, .seals = CHANNEL_NO_SEALS, .size = {100}};

static const char *open_pool(struct end *end, uint32_t id)
{
	return end_frame(end, CHANNEL_OPEN, id, CHANNEL_KIND_POOL, &pool, sizeof(pool));
}

static struct memory *export_pool(struct end *end)
{
	const char *wrong;
	struct memory *memory = memory_export(&end->refs, new_memfd(100), 100, &wrong);
	if (memory == NULL) {
		assert_non_null(wrong);
	}
	return memory;
}

static void ids_are_given_densely_and_bear_their_side(void **state)
{
	(void)state;
	struct ends ends;
	ends_init_wayland(&ends);
	for (uint32_t i = 1; i <= 40; i++) {
		assert_int_equal(export_pool(&ends.guest)->ref.id, i);
		assert_int_equal(export_pool(&ends.host)->ref.id, i | CHANNEL_ID_HOST);
	}
	ends_run(&ends);
	for (uint32_t i = 1; i <= 40; i++) {
		assert_non_null(fdrefs_get(&ends.guest.refs, i));
		assert_non_null(fdrefs_get(&ends.guest.refs, i | CHANNEL_ID_HOST));
		assert_non_null(fdrefs_get(&ends.host.refs, i));
		assert_non_null(fdrefs_get(&ends.host.refs, i | CHANNEL_ID_HOST));
	}
	assert_int_equal(ends.host.frames[CHANNEL_OPEN], 40);
	assert_null(ends.guest.wrong);
	assert_null(ends.host.wrong);
	ends_finish(&ends);
}

static void an_id_that_nobody_opened_is_nothing(void **state)
{
	(void)state;
	static const uint32_t ids[] = {0, 1, CHANNEL_MAX_ID, CHANNEL_MAX_ID + 1, 0x7fffffff,
		CHANNEL_ID_HOST, CHANNEL_ID_HOST | 1, 0xffffffff};
	struct ends ends;
	ends_init_wayland(&ends);
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		struct channel_mem_write write = {.stride = 1, .row_bytes = 1, .rows = 1};
		struct channel_rows rows;
		assert_null(fdrefs_get(&ends.host.refs, ids[i]));
		assert_string_equal(end_frame(&ends.host, CHANNEL_CLOSE, ids[i], 0, NULL, 0),
			"frame for an fdref that is not open");
		assert_non_null(end_frame(&ends.host, CHANNEL_CREDIT, ids[i], 1, NULL, 0));
		assert_string_equal(end_write(&ends.host, ids[i], &write, &rows),
			"MEM_WRITE to an fdref that is not open");
	}
	ends_finish(&ends);
}

static void an_id_is_used_again_only_after_closed(void **state)
{
	(void)state;
	struct ends ends;
	ends_init_wayland(&ends);
	struct memory *memory = export_pool(&ends.guest);
	export_pool(&ends.guest);
	ends_run(&ends);
	memory_release(memory); // CLOSE is queued
	assert_int_equal(export_pool(&ends.guest)->ref.id, 3);
	assert_non_null(fdrefs_get(&ends.guest.refs, 1));
	ends_run(&ends);
	assert_int_equal(ends.host.frames[CHANNEL_CLOSE], 1);
	assert_int_equal(ends.guest.frames[CHANNEL_CLOSED], 1);
	assert_null(fdrefs_get(&ends.guest.refs, 1));
	assert_null(fdrefs_get(&ends.host.refs, 1));
	assert_int_equal(export_pool(&ends.guest)->ref.id, 1);
	assert_int_equal(export_pool(&ends.guest)->ref.id, 4);
	ends_run(&ends);
	assert_null(ends.host.wrong);
	ends_finish(&ends);
}

static void an_fdref_is_found_by_what_it_is_now(void **state)
{
	(void)state;
	const struct fd_identity unknown = {0}, one = {.device = 1, .number = 7};
	const struct fd_identity beside = {.device = 1, .number = 7 + FDREFS_BUCKETS};
	struct ends ends;
	ends_init_wayland(&ends);
	struct fdrefs *refs = &ends.guest.refs;
	assert_null(fdrefs_find(refs, &one)); // nothing was open yet
	struct memory *ours = export_pool(&ends.guest), *other = export_pool(&ends.guest);
	assert_null(open_pool(&ends.guest, 9 | CHANNEL_ID_HOST));
	struct fdref *theirs = fdrefs_get(refs, 9 | CHANNEL_ID_HOST);
	assert_null(fdrefs_find(refs, &unknown));
	fdref_identify(&ours->ref, &one);
	fdref_identify(&other->ref, &beside);
	assert_ptr_equal(fdrefs_find(refs, &one), &ours->ref);
	assert_ptr_equal(fdrefs_find(refs, &beside), &other->ref);
	fdref_identify(theirs, &one);
	assert_ptr_equal(fdrefs_find(refs, &one), theirs); // it goes home
	fdref_identify(theirs, &unknown);
	assert_ptr_equal(fdrefs_find(refs, &one), &ours->ref);
	fdref_identify(&other->ref, &one);
	assert_ptr_equal(fdrefs_find(refs, &one), &ours->ref); // the older one
	memory_release(ours);
	ends_run(&ends);
	assert_ptr_equal(fdrefs_find(refs, &one), &other->ref);
	assert_null(fdrefs_find(refs, &beside));
	ends_finish(&ends);
}

static bool has_an_even_id(const struct fdref *ref, const void *data)
{
	(void)data;
	return ref->id % 2 == 0;
}

static void of_several_that_are_alike_one_suits(void **state)
{
	(void)state;
	const struct fd_identity one = {.device = 1, .number = 7};
	struct ends ends;
	ends_init_wayland(&ends);
	struct fdrefs *refs = &ends.guest.refs;
	assert_null(fdrefs_find_suitable(refs, &one, has_an_even_id, NULL));
	struct memory *first = export_pool(&ends.guest), *other = export_pool(&ends.guest);
	assert_int_equal(first->ref.id % 2, 1);
	fdref_identify(&first->ref, &one);
	assert_null(fdrefs_find_suitable(refs, &one, has_an_even_id, NULL));
	fdref_identify(&other->ref, &one);
	assert_ptr_equal(fdrefs_find_suitable(refs, &one, has_an_even_id, NULL), &other->ref);
	ends_finish(&ends);
}

static void closing_is_said_once(void **state)
{
	(void)state;
	struct ends ends;
	ends_init_wayland(&ends);
	struct memory *memory = export_pool(&ends.guest);
	fdrefs_close(&memory->ref);
	fdrefs_close(&memory->ref);
	ends_run(&ends);
	assert_int_equal(ends.host.frames[CHANNEL_CLOSE], 1);
	assert_int_equal(ends.guest.frames[CHANNEL_CLOSED], 1);
	assert_int_equal(ends.guest.refs.ours.used, 0);
	ends_finish(&ends);
}

static void open_with_an_id_that_is_not_the_senders_is_wrong(void **state)
{
	(void)state;
	static const uint32_t guests[] = {1, 5, CHANNEL_MAX_ID};
	static const uint32_t wrong[] = {0, CHANNEL_MAX_ID + 1, 0x7fffffff};
	struct ends ends;
	ends_init_wayland(&ends);
	for (size_t i = 0; i < 3; i++) {
		assert_null(open_pool(&ends.host, guests[i]));
		assert_null(open_pool(&ends.guest, guests[i] | CHANNEL_ID_HOST));
		assert_string_equal(open_pool(&ends.guest, guests[i]),
			"OPEN with an id that is not the sender's to give");
		assert_non_null(open_pool(&ends.host, guests[i] | CHANNEL_ID_HOST));
		assert_non_null(open_pool(&ends.host, wrong[i]));
		assert_non_null(open_pool(&ends.guest, wrong[i] | CHANNEL_ID_HOST));
	}
	ends_finish(&ends);
}

static void open_with_an_id_in_use_is_wrong_until_it_is_closed(void **state)
{
	(void)state;
	struct ends ends;
	ends_init_wayland(&ends);
	assert_null(open_pool(&ends.host, 7));
	assert_string_equal(open_pool(&ends.host, 7), "OPEN with an id that is in use");
	memory_use(memory_get(&ends.host.refs, 7));
	assert_null(end_frame(&ends.host, CHANNEL_CLOSE, 7, 0, NULL, 0));
	assert_string_equal(open_pool(&ends.host, 7), "OPEN with an id that is in use");
	memory_release(memory_get(&ends.host.refs, 7)); // CLOSED is sent
	assert_null(open_pool(&ends.host, 7));
	ends_finish(&ends);
}

static void open_of_an_unknown_kind_is_wrong(void **state)
{
	(void)state;
	static const uint32_t kinds[] = {0, CHANNEL_KIND_SYNC + 1, 0x7fffffff, 0xffffffff};
	struct ends ends;
	ends_init_wayland(&ends);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		assert_string_equal(
			end_frame(&ends.host, CHANNEL_OPEN, 1, kinds[i], &pool, sizeof(pool)),
			"OPEN of an unknown kind");
	}
	ends_finish(&ends);
}

static void each_service_has_its_kinds(void **state)
{
	(void)state;
	static const struct channel_open_socket open = {.type = SOCK_STREAM};
	struct ends ends;
	ends_init(&ends);
	assert_string_equal(open_pool(&ends.host, 1), "OPEN of an unknown kind");
	assert_null(
		end_frame(&ends.host, CHANNEL_OPEN, 1, CHANNEL_KIND_SOCKET, &open, sizeof(open)));
	ends_finish(&ends);
	ends_init_wayland(&ends);
	assert_null(open_pool(&ends.host, 1));
	assert_string_equal(
		end_frame(&ends.host, CHANNEL_OPEN, 2, CHANNEL_KIND_SOCKET, &open, sizeof(open)),
		"OPEN of an unknown kind");
	ends_finish(&ends);
}

static void open_with_a_wrong_length_is_wrong(void **state)
{
	(void)state;
	static const struct {
		enum channel_kind kind;
		size_t len;
	} kinds[] = {
		{CHANNEL_KIND_POOL, sizeof(struct channel_open_memory)},
		{CHANNEL_KIND_FILE, sizeof(struct channel_open_memory)},
		{CHANNEL_KIND_PIPE, sizeof(struct channel_open_pipe)},
	};
	static const uint8_t bytes[128];
	struct ends ends;
	ends_init_wayland(&ends);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		for (size_t len = 0; len < sizeof(bytes); len++) {
			if (len != kinds[i].len) {
				assert_non_null(end_frame(
					&ends.host, CHANNEL_OPEN, 1, kinds[i].kind, bytes, len));
			}
		}
		assert_null(end_frame(&ends.host, CHANNEL_OPEN, (uint32_t)i + 1, kinds[i].kind,
			bytes, kinds[i].len));
	}
	ends_finish(&ends);
}

static void close_and_closed_belong_to_one_side_each(void **state)
{
	(void)state;
	struct ends ends;
	ends_init_wayland(&ends);
	struct memory *memory = export_pool(&ends.guest);
	assert_null(open_pool(&ends.guest, CHANNEL_ID_HOST | 1));
	memory_use(memory_get(&ends.guest.refs, CHANNEL_ID_HOST | 1));
	// the importer cannot close, nor confirm what is not closing
	assert_non_null(end_frame(&ends.guest, CHANNEL_CLOSE, 1, 0, NULL, 0));
	assert_string_equal(end_frame(&ends.guest, CHANNEL_CLOSED, 1, 0, NULL, 0),
		"CLOSED for an fdref that is not closing");
	// the opener cannot confirm, nor close twice
	assert_non_null(end_frame(&ends.guest, CHANNEL_CLOSED, CHANNEL_ID_HOST | 1, 0, NULL, 0));
	assert_null(end_frame(&ends.guest, CHANNEL_CLOSE, CHANNEL_ID_HOST | 1, 0, NULL, 0));
	assert_non_null(end_frame(&ends.guest, CHANNEL_CLOSE, CHANNEL_ID_HOST | 1, 0, NULL, 0));
	assert_non_null(end_frame(&ends.guest, CHANNEL_CLOSED, CHANNEL_ID_HOST | 1, 0, NULL, 0));

	memory_release(memory);
	assert_null(end_frame(&ends.guest, CHANNEL_CLOSED, 1, 0, NULL, 0));
	assert_non_null(end_frame(&ends.guest, CHANNEL_CLOSED, 1, 0, NULL, 0));
	ends_finish(&ends);
}

static void the_limit_counts_both_sides(void **state)
{
	(void)state;
	struct ends ends;
	ends_init_wayland(&ends);
	ends.guest.budget.limits.most[BUDGET_FDS] = 4;
	assert_non_null(export_pool(&ends.guest));
	assert_non_null(export_pool(&ends.guest));
	assert_null(open_pool(&ends.guest, CHANNEL_ID_HOST | 1));
	assert_null(open_pool(&ends.guest, CHANNEL_ID_HOST | 2));
	uint64_t memory = ends.guest.budget.used[BUDGET_MEMORY];
	assert_string_equal(open_pool(&ends.guest, CHANNEL_ID_HOST | 3),
		"more fds than the session may have open");
	assert_int_equal(ends.guest.budget.used[BUDGET_MEMORY], memory);
	assert_null(export_pool(&ends.guest));
	// room is made by closing, not by asking to close
	assert_null(end_frame(&ends.guest, CHANNEL_CLOSE, CHANNEL_ID_HOST | 1, 0, NULL, 0));
	assert_non_null(export_pool(&ends.guest));
	assert_null(export_pool(&ends.guest));
	ends_finish(&ends);
}

static void every_kind_beyond_the_limit_leaves_nothing_behind(void **state)
{
	(void)state;
	static const struct channel_open_pipe pipe_open = {.access = CHANNEL_ACCESS_WRITE};
	struct ends ends;
	ends_init_wayland(&ends);
	ends.host.budget.limits.most[BUDGET_FDS] = 0;
	assert_non_null(open_pool(&ends.host, 1));
	assert_non_null(
		end_frame(&ends.host, CHANNEL_OPEN, 1, CHANNEL_KIND_FILE, &pool, sizeof(pool)));
	assert_non_null(end_frame(
		&ends.host, CHANNEL_OPEN, 1, CHANNEL_KIND_PIPE, &pipe_open, sizeof(pipe_open)));
	assert_int_equal(ends.host.budget.used[BUDGET_MEMORY], 0);
	assert_int_equal(ends.host.refs.streams, 0);
	ends_finish(&ends);
}

static void ids_run_out_before_they_collide(void **state)
{
	(void)state;
	struct fdref *refs = calloc(CHANNEL_MAX_ID + 1, sizeof(*refs));
	static const struct fdref_interface interface; // never called: the table is emptied first
	struct ends ends;
	ends_init_wayland(&ends);
	ends.guest.budget.limits.most[BUDGET_FDS] = UINT64_MAX;
	ends.guest.budget.limits.most[BUDGET_STREAMS] = UINT64_MAX;
	for (uint32_t i = 0; i < CHANNEL_MAX_ID; i++) {
		assert_true(fdrefs_open(
			&ends.guest.refs, &refs[i], &interface, CHANNEL_KIND_PIPE, NULL, 0));
		assert_int_equal(refs[i].id, i + 1);
	}
	assert_int_equal(ends.guest.budget.used[BUDGET_STREAMS], CHANNEL_MAX_ID);
	assert_false(fdrefs_open(
		&ends.guest.refs, &refs[CHANNEL_MAX_ID], &interface, CHANNEL_KIND_PIPE, NULL, 0));
	budget_release(&ends.guest.budget, BUDGET_FDS, CHANNEL_MAX_ID);
	budget_release(&ends.guest.budget, BUDGET_STREAMS, CHANNEL_MAX_ID);
	memset(ends.guest.refs.ours.refs, 0, ends.guest.refs.ours.size * sizeof(struct fdref *));
	ends_finish(&ends);
	free(refs);
}

static void streams_are_limited_among_the_fds(void **state)
{
	(void)state;
	static const struct channel_open_pipe open = {.access = CHANNEL_ACCESS_WRITE};
	struct ends ends;
	ends_init_wayland(&ends);
	struct budget *budget = &ends.host.budget;
	budget->limits.most[BUDGET_STREAMS] = 2;
	for (uint32_t id = 1; id <= 2; id++) {
		assert_null(end_frame(
			&ends.host, CHANNEL_OPEN, id, CHANNEL_KIND_PIPE, &open, sizeof(open)));
	}
	assert_null(budget_exceeded(budget));
	assert_non_null(
		end_frame(&ends.host, CHANNEL_OPEN, 3, CHANNEL_KIND_PIPE, &open, sizeof(open)));
	assert_string_equal(
		budget_exceeded(budget), "over the session's budget of streams: 2 (--max-streams)");
	assert_int_equal(budget->used[BUDGET_FDS], 2);
	assert_null(open_pool(&ends.host, 3));
	ends_finish(&ends);
}

static void memory_is_charged_up_to_the_limit_without_overflow(void **state)
{
	(void)state;
	struct budget budget = {.limits.most[BUDGET_MEMORY] = 100};
	struct fdrefs refs = {.budget = &budget};
	assert_true(fdrefs_charge(&refs, 60));
	assert_false(fdrefs_charge(&refs, 41));
	assert_false(fdrefs_charge(&refs, UINT64_MAX));
	assert_false(fdrefs_charge(&refs, UINT64_MAX - 59));
	assert_int_equal(budget.used[BUDGET_MEMORY], 60);
	assert_true(fdrefs_charge(&refs, 40));
	assert_true(fdrefs_charge(&refs, 0));
	assert_false(fdrefs_charge(&refs, 1));
	fdrefs_discharge(&refs, 100);
	assert_int_equal(budget.used[BUDGET_MEMORY], 0);
}

static void mem_write_to_what_is_not_a_memory_is_wrong(void **state)
{
	(void)state;
	static const struct channel_open_pipe pipe_open = {.access = CHANNEL_ACCESS_WRITE};
	struct channel_mem_write write = {.stride = 1, .row_bytes = 1, .rows = 1};
	struct channel_rows rows;
	struct ends ends;
	ends_init_wayland(&ends);
	assert_null(end_frame(
		&ends.host, CHANNEL_OPEN, 1, CHANNEL_KIND_PIPE, &pipe_open, sizeof(pipe_open)));
	assert_string_equal(end_write(&ends.host, 1, &write, &rows),
		"MEM_WRITE to an fdref that is not a memory");
	assert_null(memory_get(&ends.host.refs, 1));
	ends_finish(&ends);
}

static void what_is_left_in_the_table_ends_with_it(void **state)
{
	(void)state;
	static const struct channel_open_pipe pipe_open = {.access = CHANNEL_ACCESS_READ};
	struct ends ends;
	ends_init_wayland(&ends);
	for (int i = 0; i < 3; i++) {
		export_pool(&ends.host);
	}
	assert_null(open_pool(&ends.host, 1));
	assert_null(end_frame(&ends.host, CHANNEL_OPEN, 2, CHANNEL_KIND_FILE, &pool, sizeof(pool)));
	assert_null(end_frame(
		&ends.host, CHANNEL_OPEN, 3, CHANNEL_KIND_PIPE, &pipe_open, sizeof(pipe_open)));
	ends_run(&ends);
	ends_finish(&ends); // the fd count says the rest
	assert_int_equal(ends.host.streams_over, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(ids_are_given_densely_and_bear_their_side),
		fd_count_test(an_id_that_nobody_opened_is_nothing),
		fd_count_test(an_id_is_used_again_only_after_closed),
		fd_count_test(an_fdref_is_found_by_what_it_is_now),
		fd_count_test(of_several_that_are_alike_one_suits),
		fd_count_test(closing_is_said_once),
		fd_count_test(open_with_an_id_that_is_not_the_senders_is_wrong),
		fd_count_test(open_with_an_id_in_use_is_wrong_until_it_is_closed),
		fd_count_test(open_of_an_unknown_kind_is_wrong),
		fd_count_test(each_service_has_its_kinds),
		fd_count_test(open_with_a_wrong_length_is_wrong),
		fd_count_test(close_and_closed_belong_to_one_side_each),
		fd_count_test(the_limit_counts_both_sides),
		fd_count_test(every_kind_beyond_the_limit_leaves_nothing_behind),
		fd_count_test(ids_run_out_before_they_collide),
		fd_count_test(streams_are_limited_among_the_fds),
		fd_count_test(memory_is_charged_up_to_the_limit_without_overflow),
		fd_count_test(mem_write_to_what_is_not_a_memory_is_wrong),
		fd_count_test(what_is_left_in_the_table_ends_with_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
