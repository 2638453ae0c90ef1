#include "fdpass/sync.h"

#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "ends.h"
#include "tests/support/fd_count.h"

// Something that is asked again once what it waits for has come.
struct asker {
	struct fdref ref;
	unsigned int asked;
};

static void handle_retry(struct fdref *ref)
{
	((struct asker *)ref)->asked++;
}

static void destroy_asker(struct fdref *ref)
{
	free(ref);
}

static const struct fdref_interface askers = {
	.name = "asker",
	.retry = handle_retry,
	.destroy = destroy_asker,
};

// The table's.
static struct asker *new_asker(struct end *end)
{
	struct asker *asker = calloc(1, sizeof(*asker));
	assert_true(fdrefs_open(&end->refs, &asker->ref, &askers, CHANNEL_KIND_POOL, NULL, 0));
	return asker;
}

static void what_is_waited_for_is_asked_for_again_once(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	struct asker *asker = new_asker(&ends.guest);
	int fd = eventfd(0, EFD_CLOEXEC), other = eventfd(0, EFD_CLOEXEC);
	assert_true(sync_wait_for(&ends.guest.refs, fd));
	assert_true(sync_wait_for(&ends.guest.refs, fd));
	assert_true(sync_wait_for(&ends.guest.refs, other));
	event_base_loop(ends.base, EVLOOP_NONBLOCK);
	assert_int_equal(asker->asked, 0);
	eventfd_write(fd, 1);
	event_base_loop(ends.base, EVLOOP_NONBLOCK);
	event_base_loop(ends.base, EVLOOP_NONBLOCK);
	assert_int_equal(asker->asked, 1);
	eventfd_write(other, 1);
	event_base_loop(ends.base, EVLOOP_NONBLOCK);
	assert_int_equal(asker->asked, 2);
	assert_null(ends.guest.refs.waits);
	close(fd);
	close(other);
	ends_finish(&ends);
}

static void room_to_write_is_waited_for_as_well(void **state)
{
	(void)state;
	struct ends ends;
	int fds[2];
	char byte = 0;
	ends_init(&ends);
	struct asker *asker = new_asker(&ends.guest);
	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	size_t written = 0;
	while (write(fds[1], &byte, 1) == 1) {
		written++;
	}
	assert_true(sync_wait_to_write(&ends.guest.refs, fds[1]));
	assert_true(sync_wait_to_write(&ends.guest.refs, fds[1]));
	event_base_loop(ends.base, EVLOOP_NONBLOCK);
	assert_int_equal(asker->asked, 0);
	while (written > 0 && read(fds[0], &byte, 1) == 1) {
		written--;
	}
	event_base_loop(ends.base, EVLOOP_NONBLOCK);
	assert_int_equal(asker->asked, 1);
	assert_null(ends.guest.refs.waits);
	close(fds[0]);
	close(fds[1]);
	ends_finish(&ends);
}

static void who_has_gone_is_not_waited_for(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	int fd = eventfd(0, EFD_CLOEXEC);
	assert_true(sync_wait_for(&ends.guest.refs, fd));
	close(fd);
	ends_finish(&ends); // the fd count tells
}

// Its number may be that of another one soon.
static void what_is_forgotten_is_not_waited_for(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	int fd = eventfd(0, EFD_CLOEXEC);
	assert_true(sync_wait_for(&ends.guest.refs, fd));
	sync_forget(&ends.guest.refs, fd);
	assert_null(ends.guest.refs.waits);
	sync_forget(&ends.guest.refs, fd);
	close(fd);
	ends_finish(&ends);
}

static void what_is_not_a_sync_file_is_refused(void **state)
{
	(void)state;
	struct ends ends;
	const char *wrong;
	ends_init(&ends);
	int fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(sync_export(&ends.guest.refs, fd, &wrong), 0);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_non_null(wrong);
	ends_finish(&ends);
}

static const char *import(struct end *end, size_t len)
{
	uint32_t payload = 0;
	return end_frame(end, CHANNEL_OPEN, CHANNEL_ID_HOST | 1, CHANNEL_KIND_SYNC, &payload, len);
}

static bool is_no_node(const char *wrong)
{
	return wrong != NULL && strstr(wrong, "no DRM render node") != NULL;
}

static void an_open_with_a_payload_is_refused(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	const char *wrong = import(&ends.guest, 4);
	assert_non_null(wrong);
	assert_false(is_no_node(wrong));
	assert_int_equal(ends.guest.refs.theirs.used, 0);
	ends_finish(&ends);
}

static void without_a_render_node_the_text_says_so(void **state)
{
	(void)state;
	struct ends ends;
	if (access("/dev/dri", F_OK) == 0) {
		print_message("there may be a DRM render node\n");
		skip();
	}
	ends_init(&ends);
	assert_true(is_no_node(import(&ends.guest, 0)));
	assert_int_equal(ends.guest.refs.theirs.used, 0);
	ends_finish(&ends);
}

// Made here, sent to the host, made there: there and back again is the only way to have one.
static void a_signalled_one_crosses(void **state)
{
	(void)state;
	struct ends ends;
	const char *wrong;
	ends_init(&ends);
	wrong = import(&ends.guest, 0);
	if (is_no_node(wrong)) {
		ends_finish(&ends);
		print_message("there is no DRM render node\n");
		skip();
	}
	assert_null(wrong);
	ends.guest.opened = CHANNEL_ID_HOST | 1;
	int fd = end_take(&ends.guest);
	assert_int_equal(fd_kind_of(fd), FD_KIND_SYNC_FILE);
	assert_false(sync_must_wait(&ends.guest.refs, fd));
	assert_int_not_equal(sync_export(&ends.guest.refs, fd, &wrong), 0);
	ends_run(&ends);
	assert_null(ends.host.wrong);
	fd = end_take(&ends.host);
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	assert_int_equal(poll(&poll_fd, 1, 0), 1);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	close(fd);
	ends_finish(&ends);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_is_waited_for_is_asked_for_again_once),
		fd_count_test(room_to_write_is_waited_for_as_well),
		fd_count_test(who_has_gone_is_not_waited_for),
		fd_count_test(what_is_forgotten_is_not_waited_for),
		fd_count_test(what_is_not_a_sync_file_is_refused),
		fd_count_test(an_open_with_a_payload_is_refused),
		fd_count_test(without_a_render_node_the_text_says_so),
		fd_count_test(a_signalled_one_crosses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
