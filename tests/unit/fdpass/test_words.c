#include "fdpass/words.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mapping.h"
#include "channel/channel.h"
#include "tests/support/fd_count.h"

#define PAGE 4096u

// One side's memory.
struct side {
	struct words words;
	int fd;
	uint8_t *data; // as its users see it; NULL: of no bytes
};

static void side_init(struct side *side, uint64_t size, bool opener)
{
	side->fd = memfd_create("words", MFD_CLOEXEC);
	assert_int_equal(ftruncate(side->fd, (off_t)size), 0);
	assert_true(words_init(&side->words, size, opener));
	side->data = NULL;
	if (size > 0) {
		side->words.mapping = mapping_create(side->fd, size, true);
		assert_non_null(side->words.mapping);
		side->data = side->words.mapping->data;
	}
}

static void side_finish(struct side *side)
{
	words_finish(&side->words);
	close(side->fd);
}

// What waits to be handled by the other side, in its order.
struct frame {
	size_t len; // 0: says that a frame was handled
	uint8_t runs[WORDS_MAX];
};

#define FRAMES_MAX 64

struct way {
	struct side *from, *to;
	struct way *back;
	struct frame *frames;
	size_t first, n;
};

struct pair {
	struct side opener, other;
	struct way there, back;
};

static struct frame *append(struct way *way)
{
	assert_in_range(way->n, 0, FRAMES_MAX - 1);
	return &way->frames[way->n++];
}

static void push(struct way *way)
{
	uint64_t at = 0, end = way->from->words.size;
	while (at < end) {
		struct frame *frame = append(way);
		frame->len = words_encode(&way->from->words, &at, end, frame->runs);
		way->n -= frame->len == 0;
	}
}

// The oldest frame is handled. Its conflicts.
static uint64_t handle(struct way *way)
{
	struct frame *frame = &way->frames[way->first++];
	struct words *words = &way->to->words;
	uint64_t conflicts = 0;
	if (frame->len == 0) {
		assert_true(words_handled(words, 1));
	} else {
		assert_null(words_check(words, frame->runs, frame->len));
		conflicts = words_apply(words, words->size, frame->runs, frame->len);
		append(way->back)->len = 0;
	}
	if (way->first == way->n) {
		way->first = way->n = 0;
	}
	return conflicts;
}

static uint64_t settle(struct way *way)
{
	uint64_t conflicts = 0;
	push(way);
	while (way->n > 0) {
		conflicts += handle(way);
	}
	return conflicts;
}

static void pair_init(struct pair *pair, uint64_t size)
{
	side_init(&pair->opener, size, true);
	side_init(&pair->other, size, false);
	pair->there = (struct way){
		.from = &pair->opener,
		.to = &pair->other,
		.back = &pair->back,
		.frames = calloc(FRAMES_MAX, sizeof(struct frame)),
	};
	pair->back = (struct way){
		.from = &pair->other,
		.to = &pair->opener,
		.back = &pair->there,
		.frames = calloc(FRAMES_MAX, sizeof(struct frame)),
	};
}

static void pair_finish(struct pair *pair)
{
	side_finish(&pair->opener);
	side_finish(&pair->other);
	free(pair->there.frames);
	free(pair->back.frames);
}

static void expect_equal(struct pair *pair)
{
	assert_memory_equal(pair->opener.data, pair->other.data, pair->opener.words.size);
}

static void put64(struct side *side, size_t word, uint64_t value)
{
	memcpy(side->data + word * 8, &value, 8);
}

static uint64_t get64(const struct side *side, size_t word)
{
	uint64_t value;
	memcpy(&value, side->data + word * 8, 8);
	return value;
}

/* ---- what crosses ---- */

static void memory_of_any_size_crosses_both_ways(void **state)
{
	(void)state;
	static const size_t sizes[] = {0, 1, 7, 8, 9, 4095, 4096, 4097, 65536, 300001};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct pair pair;
		pair_init(&pair, sizes[i]);
		for (size_t at = 0; at < sizes[i]; at++) {
			pair.opener.data[at] = (uint8_t)(at * 7 + at / 256 + 1);
		}
		assert_int_equal(settle(&pair.there), 0);
		if (sizes[i] > 0) {
			expect_equal(&pair);
			pair.other.data[sizes[i] - 1] ^= 0xff;
			pair.other.data[sizes[i] / 2] ^= 0xff;
			assert_int_equal(settle(&pair.back), 0);
			expect_equal(&pair);
		}
		pair_finish(&pair);
	}
}

static void only_changed_words_are_sent(void **state)
{
	(void)state;
	struct pair pair;
	uint8_t runs[WORDS_MAX];
	uint64_t at = 0;
	pair_init(&pair, 4 * PAGE);
	assert_int_equal(words_encode(&pair.opener.words, &at, 4 * PAGE, runs), 0);
	assert_int_equal(at, 4 * PAGE);

	put64(&pair.opener, 3, 1);
	put64(&pair.opener, 4, 2);
	put64(&pair.opener, 1000, 3);
	at = 0;
	const size_t run = sizeof(struct channel_run);
	assert_int_equal(words_encode(&pair.opener.words, &at, 4 * PAGE, runs), 2 * run + 24);
	struct channel_run first, second;
	memcpy(&first, runs, run);
	memcpy(&second, runs + run + 16, run);
	assert_int_equal(channel_get64(first.offset), 24);
	assert_int_equal(first.length, 16);
	assert_int_equal(channel_get64(second.offset), 8000);
	assert_int_equal(second.length, 8);
	at = 0;
	assert_int_equal(words_encode(&pair.opener.words, &at, 4 * PAGE, runs), 0);
	pair_finish(&pair);
}

static void many_small_runs_fill_several_frames(void **state)
{
	(void)state;
	struct pair pair;
	pair_init(&pair, 64 * PAGE);
	for (size_t word = 0; word < 64 * PAGE / 8; word++) {
		put64(&pair.opener, word, word % 2 == 0 || word % 512 == 511 ? word + 1 : 0);
	}
	push(&pair.there);
	assert_true(pair.there.n > 5);
	assert_int_equal(settle(&pair.there), 0);
	expect_equal(&pair);
	pair_finish(&pair);
}

/* ---- changes that meet ---- */

static void neighbours_that_cross_are_both_kept(void **state)
{
	(void)state;
	struct pair pair;
	pair_init(&pair, PAGE);
	put64(&pair.opener, 7, 1);
	put64(&pair.other, 8, 2);
	push(&pair.there);
	push(&pair.back);
	assert_int_equal(settle(&pair.there) + settle(&pair.back), 0);
	expect_equal(&pair);
	assert_int_equal(get64(&pair.opener, 7), 1);
	assert_int_equal(get64(&pair.opener, 8), 2);
	pair_finish(&pair);
}

static void the_openers_value_stays_when_two_cross(void **state)
{
	(void)state;
	for (int back_first = 0; back_first < 2; back_first++) {
		struct pair pair;
		pair_init(&pair, PAGE);
		put64(&pair.opener, 5, 1);
		put64(&pair.other, 5, 2);
		push(&pair.there);
		push(&pair.back);
		uint64_t conflicts = back_first ? handle(&pair.back) : handle(&pair.there);
		conflicts += settle(&pair.there) + settle(&pair.back);
		assert_int_equal(conflicts, 2); // each side sees it
		expect_equal(&pair);
		assert_int_equal(get64(&pair.other, 5), 1);

		// and it is over: the next change from there is taken
		put64(&pair.other, 5, 3);
		assert_int_equal(settle(&pair.back), 0);
		assert_int_equal(get64(&pair.opener, 5), 3);
		pair_finish(&pair);
	}
}

static void what_a_crossing_cost_is_counted_once(void **state)
{
	(void)state;
	struct pair pair;
	pair_init(&pair, PAGE);
	put64(&pair.other, 5, 2);
	push(&pair.back);
	for (uint64_t value = 10; value < 13; value++) {
		put64(&pair.opener, 5, value);
		push(&pair.there);
	}
	assert_int_equal(settle(&pair.there), 1);
	assert_int_equal(settle(&pair.back), 1);
	expect_equal(&pair);
	assert_int_equal(get64(&pair.other, 5), 12);
	pair_finish(&pair);
}

static void the_openers_value_stays_when_it_was_not_sent_yet(void **state)
{
	(void)state;
	struct pair pair;
	pair_init(&pair, 13);
	memset(pair.opener.data, 'a', 13);
	memset(pair.other.data, 'b', 13);
	assert_int_equal(settle(&pair.back), 2); // of 8 bytes and of 5
	assert_int_equal(pair.opener.data[12], 'a');
	assert_int_equal(settle(&pair.there), 0);
	assert_int_equal(pair.other.data[0], 'a');
	assert_int_equal(pair.other.data[12], 'a');
	pair_finish(&pair);
}

static void a_change_that_is_overtaken_before_it_is_sent_is_lost(void **state)
{
	(void)state;
	struct pair pair;
	pair_init(&pair, PAGE);
	put64(&pair.opener, 5, 1);
	put64(&pair.other, 5, 2);
	assert_int_equal(settle(&pair.there), 1);
	assert_int_equal(settle(&pair.back), 0);
	expect_equal(&pair);
	assert_int_equal(get64(&pair.opener, 5), 1);
	pair_finish(&pair);
}

static void the_same_change_on_both_sides_is_no_conflict(void **state)
{
	(void)state;
	struct pair pair;
	pair_init(&pair, PAGE);
	put64(&pair.opener, 5, 9);
	put64(&pair.other, 5, 9);
	assert_int_equal(settle(&pair.there), 0);
	put64(&pair.opener, 6, 9);
	put64(&pair.other, 6, 9);
	push(&pair.there);
	push(&pair.back);
	assert_int_equal(settle(&pair.there) + settle(&pair.back), 0);
	expect_equal(&pair);
	pair_finish(&pair);
}

static void what_cannot_be_written_here_is_put_right_there(void **state)
{
	(void)state;
	struct pair pair;
	pair_init(&pair, PAGE);
	put64(&pair.opener, 5, 1);
	assert_int_equal(settle(&pair.there), 0);
	mapping_unref(pair.opener.words.mapping);
	pair.opener.words.mapping = mapping_create(pair.opener.fd, PAGE, false);
	pair.opener.data = pair.opener.words.mapping->data;
	put64(&pair.other, 5, 2);
	assert_int_equal(settle(&pair.back), 1);
	assert_int_equal(settle(&pair.there), 0);
	assert_int_equal(get64(&pair.other, 5), 1);
	pair_finish(&pair);
}

static void both_sides_are_equal_after_any_changes(void **state)
{
	(void)state;
	for (unsigned int seed = 0; seed < 100; seed++) {
		struct pair pair;
		pair_init(&pair, 1021);
		srand(seed);
		for (int step = 0; step < 300; step++) {
			struct side *side = rand() % 2 ? &pair.opener : &pair.other;
			switch (rand() % 6) {
			case 0:
				if (pair.there.n < FRAMES_MAX / 2) {
					push(&pair.there);
				}
				break;
			case 1:
				if (pair.back.n < FRAMES_MAX / 2) {
					push(&pair.back);
				}
				break;
			case 2:
				if (pair.there.n > 0) {
					handle(&pair.there);
				}
				break;
			case 3:
				if (pair.back.n > 0) {
					handle(&pair.back);
				}
				break;
			default:
				side->data[rand() % 1021] = (uint8_t)rand();
			}
		}
		// what is on its way arrives; then each says its last
		for (int turn = 0; turn < 3; turn++) {
			settle(&pair.there);
			settle(&pair.back);
		}
		expect_equal(&pair);
		pair_finish(&pair);
	}
}

// Each word has one writer, so nothing may be lost whatever crosses.
static void words_of_one_writer_are_never_lost(void **state)
{
	(void)state;
	for (unsigned int seed = 0; seed < 50; seed++) {
		struct pair pair;
		uint64_t expected[128] = {0}, conflicts = 0;
		pair_init(&pair, sizeof(expected));
		srand(seed);
		for (int step = 0; step < 300; step++) {
			size_t word = (size_t)rand() % 128;
			expected[word] = (uint64_t)rand() + 1;
			put64(word % 2 ? &pair.opener : &pair.other, word, expected[word]);
			if (rand() % 8 == 0 && pair.there.n < FRAMES_MAX / 2) {
				push(&pair.there);
			}
			if (rand() % 8 == 0 && pair.back.n < FRAMES_MAX / 2) {
				push(&pair.back);
			}
			if (rand() % 8 == 0 && pair.there.n > 0) {
				conflicts += handle(&pair.there);
			}
			if (rand() % 8 == 0 && pair.back.n > 0) {
				conflicts += handle(&pair.back);
			}
		}
		conflicts += settle(&pair.there) + settle(&pair.back);
		assert_int_equal(conflicts, 0);
		assert_memory_equal(pair.opener.data, expected, sizeof(expected));
		assert_memory_equal(pair.other.data, expected, sizeof(expected));
		pair_finish(&pair);
	}
}

/* ---- memory that goes away ---- */

static void what_was_truncated_is_not_looked_at(void **state)
{
	(void)state;
	struct pair pair;
	pair_init(&pair, 4 * PAGE);
	memset(pair.opener.data, 1, 4 * PAGE);
	assert_int_equal(settle(&pair.there), 0);
	put64(&pair.opener, 0, 7);
	assert_int_equal(ftruncate(pair.opener.fd, PAGE), 0);
	push(&pair.there); // finds out by SIGBUS
	assert_int_equal(pair.there.n, 1);
	assert_int_equal(settle(&pair.there), 0);
	assert_int_equal(get64(&pair.other, 0), 7);
	assert_int_equal(pair.other.data[2 * PAGE], 1);

	put64(&pair.other, 1, 8);
	pair.other.data[2 * PAGE] = 2;
	settle(&pair.back); // the same
	assert_int_equal(get64(&pair.opener, 1), 8);
	pair_finish(&pair);
}

static void a_part_of_a_word_is_left_alone(void **state)
{
	(void)state;
	struct pair pair;
	uint8_t runs[WORDS_MAX];
	uint64_t at = 0;
	pair_init(&pair, 100);
	memset(pair.opener.data, 1, 100);
	const size_t run = sizeof(struct channel_run);
	assert_int_equal(words_encode(&pair.opener.words, &at, 21, runs), run + 16);
	assert_int_equal(at, 21);
	pair_finish(&pair);
}

/* ---- hostile frames ---- */

static void hostile_runs_are_wrong(void **state)
{
	(void)state;
	static const struct {
		uint64_t offset;
		uint32_t length, sent;
		const char *wrong;
	} table[] = {
		{0, 8, 8, NULL},
		{96, 4, 4, NULL},
		{0, 100, 100, NULL},
		{0, 0, 0, "MEM_WORDS with a run of a wrong length"},
		{0, 16, 8, "MEM_WORDS with a run of a wrong length"},
		{0, UINT32_MAX, 8, "MEM_WORDS with a run of a wrong length"},
		{0, 8, 9, "MEM_WORDS with a run that is cut off"},
		{104, 8, 8, "MEM_WORDS past the end of its memory"},
		{96, 8, 8, "MEM_WORDS past the end of its memory"},
		{UINT64_MAX, 8, 8, "MEM_WORDS past the end of its memory"},
		{UINT64_MAX - 7, 8, 8, "MEM_WORDS past the end of its memory"},
		{1, 8, 8, "MEM_WORDS with a part of a word"},
		{0, 9, 9, "MEM_WORDS with a part of a word"},
		{97, 3, 3, "MEM_WORDS with a part of a word"},
	};
	struct words words;
	assert_true(words_init(&words, 100, true));
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct channel_run run = {.length = table[i].length};
		channel_put64(run.offset, table[i].offset);
		uint8_t *runs = calloc(1, sizeof(run) + table[i].sent);
		memcpy(runs, &run, sizeof(run));
		const char *wrong = words_check(&words, runs, sizeof(run) + table[i].sent);
		if (table[i].wrong == NULL) {
			assert_null(wrong);
		} else {
			assert_string_equal(wrong, table[i].wrong);
		}
		free(runs);
	}
	words_finish(&words);
}

static void no_more_is_handled_than_was_pushed(void **state)
{
	(void)state;
	struct pair pair;
	pair_init(&pair, PAGE);
	assert_false(words_handled(&pair.opener.words, 1));
	put64(&pair.opener, 0, 1);
	push(&pair.there);
	assert_false(words_handled(&pair.opener.words, 2));
	assert_false(words_handled(&pair.opener.words, UINT32_MAX));
	assert_true(words_handled(&pair.opener.words, 1));
	assert_false(words_handled(&pair.opener.words, 1));
	pair_finish(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(memory_of_any_size_crosses_both_ways),
		fd_count_test(only_changed_words_are_sent),
		fd_count_test(many_small_runs_fill_several_frames),
		fd_count_test(neighbours_that_cross_are_both_kept),
		fd_count_test(the_openers_value_stays_when_two_cross),
		fd_count_test(what_a_crossing_cost_is_counted_once),
		fd_count_test(the_openers_value_stays_when_it_was_not_sent_yet),
		fd_count_test(a_change_that_is_overtaken_before_it_is_sent_is_lost),
		fd_count_test(the_same_change_on_both_sides_is_no_conflict),
		fd_count_test(what_cannot_be_written_here_is_put_right_there),
		fd_count_test(both_sides_are_equal_after_any_changes),
		fd_count_test(words_of_one_writer_are_never_lost),
		fd_count_test(what_was_truncated_is_not_looked_at),
		fd_count_test(a_part_of_a_word_is_left_alone),
		fd_count_test(hostile_runs_are_wrong),
		fd_count_test(no_more_is_handled_than_was_pushed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
