#include "fdpass/resolver.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mapping.h"
#include "fdpass/kind.h"
#include "tests/support/fd_count.h"

#define PAGE 4096u

static bool have_devices(void)
{
	return access("/dev/udmabuf", R_OK | W_OK) == 0 ||
		access("/dev/dma_heap/system", R_OK | W_OK) == 0;
}

static struct resolver *create(void)
{
	struct resolver *resolver = resolver_create_copy();
	if (!have_devices()) {
		assert_null(resolver);
		print_message("neither /dev/udmabuf nor a dma-heap\n");
		skip();
	}
	assert_non_null(resolver);
	return resolver;
}

static void a_buffer_is_a_dmabuf_of_whole_pages(void **state)
{
	static const struct {
		uint64_t wanted, size;
	} sizes[] = {{1, PAGE}, {PAGE, PAGE}, {PAGE + 1, 2 * PAGE}, {1 << 20, 1 << 20}};
	struct resolver *resolver = create();
	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct resolver_buffer buffer;
		assert_int_equal(resolver->interface->make(resolver, sizes[i].wanted, &buffer), 0);
		assert_int_equal(fd_kind_of(buffer.fd), FD_KIND_DMABUF);
		assert_int_equal(fcntl(buffer.fd, F_GETFD), FD_CLOEXEC);
		assert_int_equal(fcntl(buffer.fd, F_GETFL) & O_ACCMODE, O_RDWR);
		assert_int_equal(buffer.size, sizes[i].size);
		assert_int_equal(buffer.mapping->size, sizes[i].size);
		assert_int_equal(lseek(buffer.fd, 0, SEEK_END), sizes[i].size);
		mapping_unref(buffer.mapping);
		close(buffer.fd);
	}
	resolver_destroy(resolver);
}

static void what_is_written_to_the_mapping_is_in_the_buffer(void **state)
{
	struct resolver_buffer buffer;
	struct resolver *resolver = create();
	(void)state;
	assert_int_equal(resolver->interface->make(resolver, 2 * PAGE, &buffer), 0);
	struct mapping *other = mapping_create(buffer.fd, 2 * PAGE, true);
	assert_non_null(other);
	for (size_t i = 0; i < 2 * PAGE; i++) {
		assert_int_equal(other->data[i], 0);
	}
	memset(buffer.mapping->data + PAGE - 4, 'a', 8);
	assert_memory_equal(other->data + PAGE - 4, "aaaaaaaa", 8);
	other->data[0] = 'b';
	assert_int_equal(buffer.mapping->data[0], 'b');
	mapping_unref(other);
	mapping_unref(buffer.mapping);
	close(buffer.fd);
	resolver_destroy(resolver);
}

static void expect_made_by(struct resolver *resolver, uint64_t size, const char *description)
{
	struct resolver_buffer buffer;
	char text[FD_DESCRIPTION_MAX];
	assert_int_equal(resolver->interface->make(resolver, size, &buffer), 0);
	assert_string_equal(fd_describe(buffer.fd, text), description);
	buffer.mapping->data[size - 1] = 'a';
	mapping_unref(buffer.mapping);
	close(buffer.fd);
}

// The module's parameter size_limit_mb, which is 64 unless somebody has changed it.
static uint64_t udmabuf_max(void)
{
	unsigned int mib = 0;
	FILE *file = fopen("/sys/module/udmabuf/parameters/size_limit_mb", "re");
	if (file != NULL) {
		assert_int_equal(fscanf(file, "%u", &mib), 1);
		fclose(file);
	}
	return (uint64_t)mib << 20;
}

static void what_is_too_large_for_udmabuf_comes_from_a_heap(void **state)
{
	struct resolver *resolver = create();
	uint64_t max = udmabuf_max();
	(void)state;
	if (max == 0 || access("/dev/dma_heap/system", R_OK | W_OK) < 0) {
		resolver_destroy(resolver);
		print_message("not both of udmabuf and a dma-heap\n");
		skip();
	}
	expect_made_by(resolver, PAGE, "dma-buf of udmabuf");
	expect_made_by(resolver, max + 1, "dma-buf of system");
	resolver_destroy(resolver);
}

static void without_fds_there_is_none_and_nothing_is_left(void **state)
{
	struct resolver_buffer buffer;
	struct rlimit old, none;
	struct resolver *resolver = create();
	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	size_t open = fd_count();
	for (rlim_t more = 0; more < 2; more++) { // for the pages, but not for the dma-buf
		none = (struct rlimit){.rlim_cur = open + more, .rlim_max = old.rlim_max};
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
		int error = resolver->interface->make(resolver, PAGE, &buffer);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
		if (error == 0) { // a heap needs one fd only
			mapping_unref(buffer.mapping);
			close(buffer.fd);
		}
		assert_true(error == 0 ? more == 1 : error == -EMFILE);
	}
	assert_int_equal(fd_count(), open);
	resolver_destroy(resolver);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_buffer_is_a_dmabuf_of_whole_pages),
		fd_count_test(what_is_written_to_the_mapping_is_in_the_buffer),
		fd_count_test(what_is_too_large_for_udmabuf_comes_from_a_heap),
		fd_count_test(without_fds_there_is_none_and_nothing_is_left),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
