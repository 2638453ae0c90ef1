#include "guest-proxy/translation.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/channel.h"
#include "tests/support/fd_count.h"
#include "wire/message.h"
#include "wire/schema.h"

#define REGISTRY 2

// What one message is made of: its arguments are words, a string, words.
static void put(struct wl_array *out, uint32_t object, uint32_t opcode, const uint32_t *words,
	size_t n_words, const char *string, const uint32_t *more, size_t n_more)
{
	size_t start = out->size;
	assert_true(wire_encode_begin(out, object, opcode));
	for (size_t i = 0; i < n_words; i++) {
		assert_true(wire_encode_uint(out, words[i]));
	}
	assert_true(string == NULL || wire_encode_string(out, string));
	for (size_t i = 0; i < n_more; i++) {
		assert_true(wire_encode_uint(out, more[i]));
	}
	assert_true(wire_encode_end(out, start));
}

static void put_words(struct wl_array *out, uint32_t object, uint32_t opcode, uint32_t word)
{
	put(out, object, opcode, &word, 1, NULL, NULL, 0);
}

// Hears one MESSAGES frame, and empties out.
static void hear(struct translation *translation, enum translation_run run, struct wl_array *out)
{
	const struct channel_header header = {
		.length = (uint32_t)out->size,
		.type = CHANNEL_MESSAGES,
	};
	translation_hear(translation, run, &header, out->data);
	out->size = 0;
}

static enum translation_verdict say(struct translation *translation, struct wl_array *out)
{
	const struct channel_header header = {
		.length = (uint32_t)out->size,
		.type = CHANNEL_MESSAGES,
	};
	enum translation_verdict verdict = translation_messages(translation, &header, out->data);
	out->size = 0;
	return verdict;
}

static void hear_global(struct translation *translation, enum translation_run run, uint32_t name,
	const char *interface, uint32_t version)
{
	struct wl_array out;
	wl_array_init(&out);
	put(&out, REGISTRY, 0, &name, 1, interface, &version, 1);
	hear(translation, run, &out);
	wl_array_release(&out);
}

static enum translation_verdict bind(struct translation *translation, uint32_t name,
	const char *interface, uint32_t version, uint32_t id)
{
	struct wl_array out;
	const uint32_t more[] = {version, id};
	wl_array_init(&out);
	put(&out, REGISTRY, 0, &name, 1, interface, more, 2);
	enum translation_verdict verdict = say(translation, &out);
	wl_array_release(&out);
	return verdict;
}

static uint32_t said_word(const struct translation *translation, size_t i)
{
	uint32_t word;
	assert_true((i + 1) * sizeof(word) <= translation->messages.size);
	memcpy(&word, (const uint8_t *)translation->messages.data + i * sizeof(word), sizeof(word));
	return word;
}

static void ignore(void *data, const struct conversation_message *message)
{
	(void)data;
	(void)message;
}

static void set_up(struct translation *translation, bool lenient)
{
	struct wl_array out;
	wl_array_init(&out);
	assert_true(translation_init(translation, lenient));
	put_words(&out, 1, 1, REGISTRY);
	assert_int_equal(say(translation, &out), TRANSLATION_SEND);
	wl_array_release(&out);
}

static void tear_down(struct translation *translation)
{
	translation_finish(translation);
	wire_schema_finish();
}

static void a_global_is_bound_by_interface_and_rank(void **state)
{
	(void)state;
	struct translation translation;
	set_up(&translation, false);
	hear_global(&translation, TRANSLATION_RECORDED, 1, "wl_seat", 5);
	hear_global(&translation, TRANSLATION_RECORDED, 2, "wl_output", 4);
	hear_global(&translation, TRANSLATION_RECORDED, 3, "wl_output", 4);
	hear_global(&translation, TRANSLATION_LIVE, 11, "wl_output", 4);
	hear_global(&translation, TRANSLATION_LIVE, 12, "wl_shm", 1);
	hear_global(&translation, TRANSLATION_LIVE, 13, "wl_output", 4);
	hear_global(&translation, TRANSLATION_LIVE, 11, "wl_output", 4); // a second registry's
	assert_int_equal(bind(&translation, 3, "wl_output", 4, 3), TRANSLATION_SEND);
	assert_int_equal(said_word(&translation, 2), 13);
	assert_int_equal(bind(&translation, 2, "wl_output", 4, 4), TRANSLATION_SEND);
	assert_int_equal(said_word(&translation, 2), 11);
	tear_down(&translation);
}

static void a_global_that_is_missing_or_older_is_waited_for(void **state)
{
	(void)state;
	struct translation translation;
	set_up(&translation, false);
	hear_global(&translation, TRANSLATION_RECORDED, 1, "wl_seat", 5);
	assert_int_equal(bind(&translation, 1, "wl_seat", 5, 3), TRANSLATION_WAIT);
	assert_non_null(strstr(translation.missing, "wl_seat"));
	hear_global(&translation, TRANSLATION_LIVE, 7, "wl_seat", 4);
	assert_int_equal(bind(&translation, 1, "wl_seat", 5, 3), TRANSLATION_WAIT);
	assert_int_equal(bind(&translation, 1, "wl_seat", 4, 3), TRANSLATION_SEND);
	assert_int_equal(said_word(&translation, 2), 7);
	tear_down(&translation);
}

static void a_mutated_bind_is_sent_as_it_is(void **state)
{
	(void)state;
	struct translation translation;
	set_up(&translation, true);
	assert_int_equal(bind(&translation, 99, "wl_seat", 5, 3), TRANSLATION_SEND);
	assert_int_equal(said_word(&translation, 2), 99);
	tear_down(&translation);
}

static void answers_of_the_recording_are_waited_for(void **state)
{
	(void)state;
	struct translation translation;
	struct wl_array out;
	wl_array_init(&out);
	set_up(&translation, false);
	assert_true(translation_caught_up(&translation));
	put_words(&out, 1, 0, 3); // sync
	assert_int_equal(say(&translation, &out), TRANSLATION_SEND);
	put_words(&out, 3, 0, 5); // done
	put_words(&out, 1, 1, 3); // delete_id
	hear(&translation, TRANSLATION_RECORDED, &out);
	assert_false(translation_caught_up(&translation));
	put_words(&out, 3, 0, 6);
	hear(&translation, TRANSLATION_LIVE, &out);
	assert_false(translation_caught_up(&translation));
	put_words(&out, 1, 1, 3);
	hear(&translation, TRANSLATION_LIVE, &out);
	assert_true(translation_caught_up(&translation));
	wl_array_release(&out);
	tear_down(&translation);
}

static void a_delete_id_that_is_kept_back_is_asked_for(void **state)
{
	(void)state;
	struct translation translation;
	struct wl_array out;
	wl_array_init(&out);
	set_up(&translation, false);
	put_words(&out, 1, 0, 3); // sync
	assert_int_equal(say(&translation, &out), TRANSLATION_SEND);
	put_words(&out, 3, 0, 5); // done
	put_words(&out, 1, 1, 3); // delete_id
	hear(&translation, TRANSLATION_RECORDED, &out);
	translation_ask(&translation);
	assert_int_equal(translation.answers.size, 0); // it will come with the event
	put_words(&out, 3, 0, 6);
	hear(&translation, TRANSLATION_LIVE, &out);
	translation_ask(&translation);
	assert_int_equal(translation.answers.size, 12);
	const uint32_t *words = translation.answers.data;
	assert_int_equal(words[0], 1); // wl_display
	assert_int_equal(words[2], 4); // the next id that is free
	translation_ask(&translation);
	assert_int_equal(translation.answers.size, 12);
	put_words(&out, 1, 1, 3);
	put_words(&out, 4, 0, 6);
	hear(&translation, TRANSLATION_LIVE, &out);
	assert_false(translation_caught_up(&translation)); // its own id is still in use
	put_words(&out, 1, 1, 4);
	hear(&translation, TRANSLATION_LIVE, &out);
	assert_true(translation_caught_up(&translation));
	put_words(&out, 1, 0, 4); // now the client's
	assert_int_equal(say(&translation, &out), TRANSLATION_SEND);
	put_words(&out, 4, 0, 7);
	hear(&translation, TRANSLATION_RECORDED, &out);
	assert_false(translation_caught_up(&translation)); // that answer did not count for it
	wl_array_release(&out);
	tear_down(&translation);
}

static void nothing_is_owed_by_an_object_that_was_not_made(void **state)
{
	(void)state;
	struct translation translation;
	struct wl_array out;
	wl_array_init(&out);
	set_up(&translation, true);
	// The recording has a callback that this run never asked for.
	put_words(&out, 1, 0, 3);
	conversation_read(&translation.conversations[TRANSLATION_RECORDED], WIRE_REQUEST, out.data,
		out.size, ignore, NULL);
	out.size = 0;
	put_words(&out, 3, 0, 5);
	put_words(&out, 1, 1, 3);
	hear(&translation, TRANSLATION_RECORDED, &out);
	assert_true(translation_caught_up(&translation));
	wl_array_release(&out);
	tear_down(&translation);
}

static void what_is_given_up_is_not_waited_for_again(void **state)
{
	(void)state;
	struct translation translation;
	set_up(&translation, false);
	const struct channel_header closed = {.type = CHANNEL_CLOSED, .id = 1};
	translation_hear(&translation, TRANSLATION_RECORDED, &closed, NULL);
	assert_false(translation_caught_up(&translation));
	translation_give_up(&translation);
	assert_true(translation_caught_up(&translation));
	translation_hear(&translation, TRANSLATION_RECORDED, &closed, NULL);
	assert_false(translation_caught_up(&translation));
	translation_hear(&translation, TRANSLATION_LIVE, &closed, NULL);
	assert_true(translation_caught_up(&translation));
	tear_down(&translation);
}

// xdg_wm_base 3, wl_compositor 4, wl_surface 5, xdg_surface 6
static void make_xdg_surface(struct translation *translation, struct wl_array *out)
{
	for (int run = 0; run < TRANSLATION_RUNS; run++) {
		hear_global(translation, run, 1, "xdg_wm_base", 2);
		hear_global(translation, run, 2, "wl_compositor", 4);
	}
	assert_int_equal(bind(translation, 1, "xdg_wm_base", 2, 3), TRANSLATION_SEND);
	assert_int_equal(bind(translation, 2, "wl_compositor", 4, 4), TRANSLATION_SEND);
	const uint32_t get[] = {6, 5};
	put_words(out, 4, 0, 5);
	put(out, 3, 2, get, 2, NULL, NULL, 0);
	assert_int_equal(say(translation, out), TRANSLATION_SEND);
}

static void a_configure_is_acknowledged_with_its_new_serial(void **state)
{
	(void)state;
	struct translation translation;
	struct wl_array out;
	wl_array_init(&out);
	set_up(&translation, false);
	make_xdg_surface(&translation, &out);
	for (uint32_t i = 0; i < 3; i++) {
		put_words(&out, 6, 0, 100 + i);
		hear(&translation, TRANSLATION_RECORDED, &out);
		put_words(&out, 6, 0, 500 + i);
		hear(&translation, TRANSLATION_LIVE, &out);
	}
	put_words(&out, 6, 4, 101);
	assert_int_equal(say(&translation, &out), TRANSLATION_SEND);
	assert_int_equal(said_word(&translation, 2), 501);
	put_words(&out, 6, 4, 102);
	assert_int_equal(say(&translation, &out), TRANSLATION_SEND);
	assert_int_equal(said_word(&translation, 2), 502);
	wl_array_release(&out);
	tear_down(&translation);
}

static void without_a_configure_nothing_is_acknowledged(void **state)
{
	(void)state;
	struct translation translation;
	struct wl_array out;
	wl_array_init(&out);
	set_up(&translation, false);
	make_xdg_surface(&translation, &out);
	put_words(&out, 6, 0, 100);
	hear(&translation, TRANSLATION_RECORDED, &out);
	put_words(&out, 6, 4, 100);
	assert_int_equal(say(&translation, &out), TRANSLATION_SKIP);
	assert_int_equal(translation.left_out, 1);
	wl_array_release(&out);
	tear_down(&translation);
}

static void pings_are_answered_when_they_come(void **state)
{
	(void)state;
	struct translation translation;
	struct wl_array out;
	wl_array_init(&out);
	set_up(&translation, false);
	make_xdg_surface(&translation, &out);
	put_words(&out, 3, 3, 100); // the client's pong is not repeated
	assert_int_equal(say(&translation, &out), TRANSLATION_SKIP);
	assert_int_equal(translation.left_out, 0);
	put_words(&out, 3, 0, 77);
	hear(&translation, TRANSLATION_LIVE, &out);
	const uint32_t pong[] = {3, 12u << 16 | 3, 77};
	assert_int_equal(translation.answers.size, sizeof(pong));
	assert_memory_equal(translation.answers.data, pong, sizeof(pong));
	wl_array_release(&out);
	tear_down(&translation);
}

static void a_pipe_of_the_host_is_found_by_its_rank(void **state)
{
	(void)state;
	struct translation translation;
	set_up(&translation, false);
	const struct channel_header recorded[] = {
		{.type = CHANNEL_OPEN, .id = CHANNEL_ID_HOST | 1, .arg = CHANNEL_KIND_FILE},
		{.type = CHANNEL_OPEN, .id = CHANNEL_ID_HOST | 2, .arg = CHANNEL_KIND_PIPE},
	};
	const struct channel_header live = {
		.type = CHANNEL_OPEN,
		.id = CHANNEL_ID_HOST | 9,
		.arg = CHANNEL_KIND_PIPE,
	};
	translation_hear(&translation, TRANSLATION_RECORDED, &recorded[0], NULL);
	translation_hear(&translation, TRANSLATION_RECORDED, &recorded[1], NULL);
	translation_hear(&translation, TRANSLATION_LIVE, &live, NULL);
	struct channel_header data = {.type = CHANNEL_STREAM_DATA, .id = CHANNEL_ID_HOST | 2};
	assert_int_equal(translation_fdref(&translation, &data), TRANSLATION_SEND);
	assert_int_equal(data.id, CHANNEL_ID_HOST | 9);
	struct channel_header file = {.type = CHANNEL_STREAM_DATA, .id = CHANNEL_ID_HOST | 1};
	assert_int_equal(translation_fdref(&translation, &file), TRANSLATION_SKIP);
	struct channel_header own = {.type = CHANNEL_STREAM_DATA, .id = 3};
	assert_int_equal(translation_fdref(&translation, &own), TRANSLATION_SEND);
	assert_int_equal(own.id, 3);
	tear_down(&translation);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_global_is_bound_by_interface_and_rank),
		fd_count_test(a_global_that_is_missing_or_older_is_waited_for),
		fd_count_test(a_mutated_bind_is_sent_as_it_is),
		fd_count_test(answers_of_the_recording_are_waited_for),
		fd_count_test(a_delete_id_that_is_kept_back_is_asked_for),
		fd_count_test(nothing_is_owed_by_an_object_that_was_not_made),
		fd_count_test(what_is_given_up_is_not_waited_for_again),
		fd_count_test(a_configure_is_acknowledged_with_its_new_serial),
		fd_count_test(without_a_configure_nothing_is_acknowledged),
		fd_count_test(pings_are_answered_when_they_come),
		fd_count_test(a_pipe_of_the_host_is_found_by_its_rank),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
