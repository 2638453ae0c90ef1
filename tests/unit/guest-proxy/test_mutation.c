#include "guest-proxy/mutation.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "channel/recording.h"
#include "tests/support/fd_count.h"
#include "wire/schema.h"

#define SURFACES 200

static void add_frame(struct recording *recording, uint16_t type, uint32_t n_ids,
	const uint32_t *words, size_t n_words)
{
	const struct channel_header header = {
		.length = (uint32_t)(n_words * sizeof(*words)),
		.type = type,
		.arg = n_ids,
	};
	struct recorded_frame *frame = recorded_frame_create(7, RECORD_TO_HOST, &header);
	assert_non_null(frame);
	memcpy(frame->payload, words, header.length);
	wl_list_insert(recording->frames.prev, &frame->link);
}

// get_registry, bind of a wl_compositor, and many surfaces that are damaged.
static void fill(struct recording *recording)
{
	recording_init(recording);
	uint32_t start[13] = {1, 12u << 16 | 1, 2, 2, 40u << 16, 1, 14, 0, 0, 0, 0, 4, 3};
	memcpy(&start[7], "wl_compositor", 14);
	add_frame(recording, CHANNEL_MESSAGES, 0, start, 13);
	for (uint32_t i = 0; i < SURFACES; i++) {
		const uint32_t both[] = {
			3, 12u << 16, 4 + i,                // create_surface
			4 + i, 24u << 16 | 2, 0, 0, 64, 64, // damage
		};
		add_frame(recording, CHANNEL_MESSAGES, 0, both, 9);
	}
}

static size_t total(const struct recording *recording)
{
	size_t len = 0;
	const struct recorded_frame *frame;
	wl_list_for_each (frame, &recording->frames, link) {
		len += frame->header.length;
	}
	return len;
}

static bool equal(const struct recording *one, const struct recording *other)
{
	const struct recorded_frame *a, *b;
	if (wl_list_length(&one->frames) != wl_list_length(&other->frames)) {
		return false;
	}
	b = wl_container_of(other->frames.next, b, link);
	wl_list_for_each (a, &one->frames, link) {
		if (a->header.length != b->header.length ||
			memcmp(a->payload, b->payload, a->header.length) != 0) {
			return false;
		}
		b = wl_container_of(b->link.next, b, link);
	}
	return true;
}

static void splitting_changes_no_byte(void **state)
{
	(void)state;
	struct recording recording;
	fill(&recording);
	size_t before = total(&recording);
	assert_true(mutation_split(&recording));
	assert_int_equal(total(&recording), before);
	assert_int_equal(wl_list_length(&recording.frames), 2 + 2 * SURFACES);
	const struct recorded_frame *frame;
	wl_list_for_each (frame, &recording.frames, link) {
		assert_int_equal(frame->clock, 7);
		uint32_t words[2];
		memcpy(words, frame->payload, sizeof(words));
		assert_int_equal(words[1] >> 16, frame->header.length);
	}
	recording_finish(&recording);
	wire_schema_finish();
}

static void ids_stay_with_the_message_that_takes_them(void **state)
{
	(void)state;
	struct recording recording;
	recording_init(&recording);
	uint32_t start[11] = {1, 12u << 16 | 1, 2, 2, 32u << 16, 1, 7, 0, 0, 1, 3};
	memcpy(&start[7], "wl_shm", 7);
	add_frame(&recording, CHANNEL_MESSAGES, 0, start, 11);
	const uint32_t pools[] = {
		11, 12,              // fdrefs
		1, 12u << 16, 4,     // sync
		3, 16u << 16, 5, 64, // create_pool
		3, 16u << 16, 6, 64, //
	};
	add_frame(&recording, CHANNEL_MESSAGES, 2, pools, 13);
	assert_true(mutation_split(&recording));
	assert_int_equal(wl_list_length(&recording.frames), 5);
	const struct recorded_frame *frame;
	uint32_t n = 0;
	wl_list_for_each (frame, &recording.frames, link) {
		uint32_t first;
		memcpy(&first, frame->payload, sizeof(first));
		assert_int_equal(frame->header.arg, n < 3 ? 0 : 1);
		if (n >= 3) {
			assert_int_equal(first, 11 + n - 3);
		}
		n++;
	}
	recording_finish(&recording);
	wire_schema_finish();
}

static void a_seed_always_gives_the_same(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 50; seed++) {
		struct recording one, other, third;
		size_t n_one, n_other, n_third;
		fill(&one);
		fill(&other);
		fill(&third);
		assert_true(mutation_apply(&one, seed, &n_one));
		assert_true(mutation_apply(&other, seed, &n_other));
		assert_true(mutation_apply(&third, seed + 1000, &n_third));
		assert_int_equal(n_one, n_other);
		assert_true(equal(&one, &other));
		assert_false(equal(&one, &third));
		assert_int_equal(one.flags, RECORD_MUTATED);
		recording_finish(&one);
		recording_finish(&other);
		recording_finish(&third);
	}
	wire_schema_finish();
}

static void what_is_changed_is_counted(void **state)
{
	(void)state;
	struct recording plain, changed;
	size_t n, sum = 0;
	fill(&plain);
	assert_true(mutation_split(&plain));
	for (uint64_t seed = 0; seed < 100; seed++) {
		fill(&changed);
		assert_true(mutation_apply(&changed, seed, &n));
		if (n == 0) {
			assert_true(equal(&plain, &changed));
		}
		sum += n;
		recording_finish(&changed);
	}
	assert_true(sum > 100 && sum < 100 * SURFACES);
	recording_finish(&plain);
	wire_schema_finish();
}

static void frames_that_are_no_messages_stay(void **state)
{
	(void)state;
	struct recording recording;
	size_t n;
	const uint32_t words[] = {1, 2, 3, 4};
	recording_init(&recording);
	for (uint16_t type = CHANNEL_CREDIT; type <= CHANNEL_STREAM_DATA; type++) {
		add_frame(&recording, type, 0, words, 4);
	}
	add_frame(&recording, CHANNEL_MESSAGES, 254, words, 4); // more ids than can be
	int frames = wl_list_length(&recording.frames);
	assert_true(mutation_apply(&recording, 1, &n));
	assert_int_equal(n, 0);
	assert_int_equal(wl_list_length(&recording.frames), frames);
	recording_finish(&recording);
	wire_schema_finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(splitting_changes_no_byte),
		fd_count_test(ids_stay_with_the_message_that_takes_them),
		fd_count_test(a_seed_always_gives_the_same),
		fd_count_test(what_is_changed_is_counted),
		fd_count_test(frames_that_are_no_messages_stay),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
