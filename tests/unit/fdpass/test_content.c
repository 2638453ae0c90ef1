#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "fdpass/content.h"
#include "tests/support/fd_count.h"

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

static struct content_hash hash_of(const char *text)
{
	struct content_hash hash;
	content_hash_bytes(&hash, text, strlen(text));
	return hash;
}

static int file_of(const char *text, int seals)
{
	int fd = memfd_create("content", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

// libsodium may open something when it is first used.
static int group_setup(void **state)
{
	(void)state;
	hash_of("");
	return 0;
}

static void equal_bytes_have_equal_hashes(void **state)
{
	(void)state;
	struct content_hash a = hash_of("keymap"), b = hash_of("keymap"), c = hash_of("keymaq");
	assert_true(content_hash_equal(&a, &b));
	assert_false(content_hash_equal(&a, &c));
	// BLAKE2b-128 of nothing
	static const uint8_t nothing[CONTENT_HASH_SIZE] = {0xca, 0xe6, 0x69, 0x41, 0xd9, 0xef, 0xbd,
		0x40, 0x4e, 0x4d, 0x88, 0x75, 0x8e, 0xa6, 0x76, 0x70};
	struct content_hash empty = hash_of("");
	assert_memory_equal(empty.bytes, nothing, sizeof(nothing));
}

static void what_is_put_is_found(void **state)
{
	(void)state;
	struct content_store store;
	struct content_hash a = hash_of("a"), b = hash_of("b");
	content_store_init(&store);
	assert_int_equal(content_store_get(&store, &a), -1);
	int fd = file_of("a", SEALS);
	content_store_put(&store, &a, fd);
	assert_int_equal(content_store_get(&store, &a), fd);
	assert_int_equal(content_store_get(&store, &b), -1);
	content_store_finish(&store);
	assert_int_equal(store.count, 0);
}

static void what_is_there_already_is_closed(void **state)
{
	(void)state;
	struct content_store store;
	struct content_hash a = hash_of("a");
	content_store_init(&store);
	int fd = file_of("a", SEALS);
	content_store_put(&store, &a, fd);
	content_store_put(&store, &a, file_of("a", SEALS));
	assert_int_equal(store.count, 1);
	assert_int_equal(content_store_get(&store, &a), fd);
	content_store_finish(&store);
}

static void the_oldest_makes_room(void **state)
{
	(void)state;
	struct content_store store;
	char text[2] = "A";
	content_store_init(&store);
	for (int i = 0; i < CONTENT_STORE_MAX + 3; i++) {
		text[0] = (char)('A' + i);
		struct content_hash hash = hash_of(text);
		content_store_put(&store, &hash, file_of(text, SEALS));
	}
	assert_int_equal(store.count, CONTENT_STORE_MAX);
	for (int i = 0; i < CONTENT_STORE_MAX + 3; i++) {
		text[0] = (char)('A' + i);
		struct content_hash hash = hash_of(text);
		assert_int_equal(content_store_get(&store, &hash) >= 0, i >= 3);
	}
	content_store_finish(&store);
}

static void only_a_sealed_file_with_its_own_hash_is_believed(void **state)
{
	(void)state;
	struct content_hash right = hash_of("bytes"), wrong = hash_of("other");
	int sealed = file_of("bytes", SEALS), open = file_of("bytes", F_SEAL_SHRINK);
	int empty = file_of("", SEALS);
	struct content_hash nothing = hash_of("");
	assert_true(content_check(&right, sealed));
	assert_false(content_check(&wrong, sealed));
	assert_false(content_check(&right, open));
	assert_false(content_check(&nothing, empty));
	int pipe_fds[2];
	assert_int_equal(pipe(pipe_fds), 0);
	assert_false(content_check(&right, pipe_fds[0]));
	const int fds[] = {sealed, open, empty, pipe_fds[0], pipe_fds[1]};
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		close(fds[i]);
	}
}

static void a_file_that_is_too_large_is_not_believed(void **state)
{
	(void)state;
	int fd = memfd_create("large", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(fd, CONTENT_FILE_MAX + 1), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
	static char zeros[CONTENT_FILE_MAX + 1];
	struct content_hash hash;
	content_hash_bytes(&hash, zeros, sizeof(zeros));
	assert_false(content_check(&hash, fd));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(equal_bytes_have_equal_hashes),
		fd_count_test(what_is_put_is_found),
		fd_count_test(what_is_there_already_is_closed),
		fd_count_test(the_oldest_makes_room),
		fd_count_test(only_a_sealed_file_with_its_own_hash_is_believed),
		fd_count_test(a_file_that_is_too_large_is_not_believed),
	};
	return cmocka_run_group_tests(tests, group_setup, NULL);
}
