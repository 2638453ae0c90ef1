#include "fdpass/timeline.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "ends.h"
#include "tests/support/fd_count.h"
#include "tests/support/syncobjs.h"

#define FDREF 1 // of the guest's first
#define MANY  300

struct stage {
	struct ends ends;
	int node;          // of the guest, of its client, and of all others
	uint32_t original; // the client's
	uint32_t mirror;   // the compositor's, once it was given one
	struct timeline *timeline;
	unsigned int retried;
};

static void handle_retried(void *data)
{
	(*(unsigned int *)data)++;
}

static void begin(struct stage *stage)
{
	bool invalid;
	const char *wrong;
	*stage = (struct stage){.node = syncobjs_open_node()};
	ends_init_wayland(&stage->ends);
	struct fdrefs *guest = &stage->ends.guest.refs, *host = &stage->ends.host.refs;
	guest->dmabufs = host->dmabufs = guest->timelines = host->timelines = true;
	guest->node = host->node = stage->node;
	guest->retried = handle_retried;
	guest->data = &stage->retried;
	stage->original = syncobj_create(stage->node);
	int fd = syncobj_export(stage->node, stage->original);
	stage->timeline = timeline_export(guest, fd, &invalid, &wrong);
	assert_non_null(stage->timeline);
	assert_int_equal(timeline_id(stage->timeline), FDREF);
	ends_run(&stage->ends);
	assert_null(stage->ends.host.wrong);
	fd = end_take(&stage->ends.host);
	stage->mirror = syncobj_import(stage->node, fd);
	close(fd);
	assert_int_not_equal(stage->mirror, 0);
}

static void end(struct stage *stage)
{
	ends_finish(&stage->ends);
	syncobj_destroy(stage->node, stage->original);
	syncobj_destroy(stage->node, stage->mirror);
	assert_int_equal(syncobjs_left(), 0);
	close(stage->node);
}

static bool is_signalled_there(const struct stage *stage, uint64_t point)
{
	return syncobj_has_signalled(stage->node, stage->mirror, point);
}

static bool is_signalled_here(const struct stage *stage, uint64_t point)
{
	return syncobj_has_signalled(stage->node, stage->original, point);
}

static void a_point_that_is_told_of_signals_there(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	syncobj_signal(stage.node, stage.original, 3);
	assert_true(timeline_has_signalled(stage.timeline, 3));
	timeline_tell(stage.timeline, 2);
	timeline_tell(stage.timeline, 2);
	ends_run(&stage.ends);
	assert_true(is_signalled_there(&stage, 2));
	assert_false(is_signalled_there(&stage, 3));
	timeline_tell(stage.timeline, 3);
	timeline_tell(stage.timeline, 1); // which has signalled
	ends_run(&stage.ends);
	assert_true(is_signalled_there(&stage, 3));
	assert_null(stage.ends.host.wrong);
	end(&stage);
}

static void points_have_64_bits(void **state)
{
	struct stage stage;
	const uint64_t point = UINT64_C(0x123456789abcdef0);
	(void)state;
	begin(&stage);
	syncobj_signal(stage.node, stage.original, point - 1);
	assert_false(timeline_has_signalled(stage.timeline, point));
	timeline_tell(stage.timeline, point - 1);
	ends_run(&stage.ends);
	assert_true(is_signalled_there(&stage, point - 1));
	assert_false(is_signalled_there(&stage, point));
	end(&stage);
}

static void a_point_that_is_watched_signals_here(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	assert_true(timeline_watch(stage.timeline, 5));
	assert_true(timeline_watch(stage.timeline, 6));
	assert_true(timeline_watch(stage.timeline, 9));
	ends_run(&stage.ends);
	syncobj_signal(stage.node, stage.mirror, 4);
	ends_run(&stage.ends);
	assert_false(is_signalled_here(&stage, 1));
	syncobj_signal(stage.node, stage.mirror, 7);
	ends_run(&stage.ends);
	assert_true(is_signalled_here(&stage, 6));
	assert_false(is_signalled_here(&stage, 7)); // nobody has asked for it
	syncobj_signal(stage.node, stage.mirror, 10);
	assert_true(timeline_watch(stage.timeline, 10));
	ends_run(&stage.ends);
	assert_true(is_signalled_here(&stage, 10)); // which had signalled before
	assert_null(stage.ends.guest.wrong);
	end(&stage);
}

static void many_that_are_watched_are_one_question(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	for (uint64_t point = 1; point <= MANY; point++) {
		assert_true(timeline_watch(stage.timeline, point));
	}
	ends_run(&stage.ends);
	unsigned int before = syncobjs_asked();
	syncobj_signal(stage.node, stage.mirror, 1);
	ends_run(&stage.ends);
	assert_in_range(syncobjs_asked() - before, 1, 3); // here, and there before it signals
	assert_true(is_signalled_here(&stage, 1));
	syncobj_signal(stage.node, stage.mirror, MANY - 1);
	ends_run(&stage.ends);
	assert_true(is_signalled_here(&stage, MANY - 1));
	assert_false(is_signalled_here(&stage, MANY));
	end(&stage);
}

static void one_that_is_watched_twice_is_told_of_twice(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	for (uint64_t i = 0; i < 9; i++) {
		assert_true(timeline_watch(stage.timeline, i % 3 + 1));
	}
	ends_run(&stage.ends);
	syncobj_signal(stage.node, stage.mirror, 2);
	ends_run(&stage.ends);
	assert_int_equal(stage.ends.guest.frames[CHANNEL_TIMELINE_SIGNAL], 6);
	syncobj_signal(stage.node, stage.mirror, 3);
	ends_run(&stage.ends);
	assert_int_equal(stage.ends.guest.frames[CHANNEL_TIMELINE_SIGNAL], 9);
	assert_null(stage.ends.guest.wrong);
	end(&stage);
}

static void what_was_watched_still_is_after_the_close(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	assert_true(timeline_watch(stage.timeline, 1));
	assert_ptr_equal(timeline_use(stage.timeline), stage.timeline);
	timeline_release(stage.timeline);
	ends_run(&stage.ends);
	assert_int_equal(stage.ends.host.frames[CHANNEL_CLOSE], 0);
	timeline_release(stage.timeline);
	ends_run(&stage.ends);
	assert_int_equal(stage.ends.host.frames[CHANNEL_CLOSE], 1);
	assert_int_equal(stage.ends.guest.frames[CHANNEL_CLOSED], 0);
	syncobj_signal(stage.node, stage.mirror, 1);
	ends_run(&stage.ends);
	assert_true(is_signalled_here(&stage, 1));
	assert_int_equal(stage.ends.guest.frames[CHANNEL_CLOSED], 1);
	assert_int_equal(stage.ends.guest.refs.ours.used, 0);
	assert_int_equal(stage.ends.host.refs.theirs.used, 0);
	end(&stage);
}

static void one_that_is_not_watched_closes_at_once(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	timeline_release(stage.timeline);
	ends_run(&stage.ends);
	assert_int_equal(stage.ends.guest.refs.ours.used, 0);
	assert_int_equal(stage.ends.host.refs.theirs.used, 0);
	end(&stage);
}

static void a_point_is_waited_for(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	assert_true(timeline_must_wait(stage.timeline, 2));
	assert_true(timeline_must_wait(stage.timeline, 2));
	ends_run(&stage.ends);
	assert_int_equal(stage.retried, 0);
	syncobj_signal(stage.node, stage.original, 1);
	ends_run(&stage.ends);
	assert_int_equal(stage.retried, 0);
	syncobj_signal(stage.node, stage.original, 2);
	ends_run(&stage.ends);
	assert_int_equal(stage.retried, 1);
	assert_false(timeline_must_wait(stage.timeline, 2));
	assert_true(timeline_must_wait(stage.timeline, 3));
	syncobj_signal(stage.node, stage.original, 3);
	ends_run(&stage.ends);
	assert_int_equal(stage.retried, 2);
	end(&stage);
}

static void who_leaves_waits_no_more(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	assert_true(timeline_must_wait(stage.timeline, 2));
	assert_true(timeline_watch(stage.timeline, 3));
	ends_run(&stage.ends);
	end(&stage); // fds and handles tell
}

static void too_many_are_not_watched(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	stage.ends.guest.budget.limits.most[BUDGET_FDS] = MANY + 1; // with the timeline itself
	for (uint64_t i = 1; i <= MANY; i++) {
		assert_true(timeline_watch(stage.timeline, i));
	}
	assert_false(timeline_watch(stage.timeline, 1));
	ends_run(&stage.ends);
	assert_null(stage.ends.host.wrong);
	syncobj_signal(stage.node, stage.mirror, MANY);
	ends_run(&stage.ends);
	assert_true(is_signalled_here(&stage, MANY));
	assert_true(timeline_watch(stage.timeline, 1));
	end(&stage);
}

static void what_is_no_sync_object_is_refused(void **state)
{
	struct stage stage;
	bool invalid;
	const char *wrong = NULL;
	(void)state;
	begin(&stage);
	int fd = eventfd(0, EFD_CLOEXEC);
	assert_null(timeline_export(&stage.ends.guest.refs, fd, &invalid, &wrong));
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_true(invalid);
	assert_non_null(wrong);
	end(&stage);
}

static void who_has_no_fds_left_opens_none(void **state)
{
	struct stage stage;
	bool invalid;
	const char *wrong = NULL;
	(void)state;
	begin(&stage);
	stage.ends.guest.budget.limits.most[BUDGET_FDS] = 1;
	int fd = syncobj_export(stage.node, stage.original);
	assert_null(timeline_export(&stage.ends.guest.refs, fd, &invalid, &wrong));
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_false(invalid);
	assert_non_null(wrong);
	end(&stage);
}

static const char *frame(struct end *end, uint16_t type, size_t len)
{
	const uint32_t payload[4] = {1};
	uint32_t arg = type == CHANNEL_OPEN ? CHANNEL_KIND_TIMELINE : 0;
	return end_frame(end, type, type == CHANNEL_OPEN ? FDREF + 1 : FDREF, arg, payload, len);
}

static void a_host_checks_what_a_guest_sends(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	struct end *host = &stage.ends.host;
	assert_non_null(frame(host, CHANNEL_OPEN, 4));
	assert_non_null(frame(host, CHANNEL_TIMELINE_SIGNAL, 0));
	assert_non_null(frame(host, CHANNEL_TIMELINE_SIGNAL, 7));
	assert_non_null(frame(host, CHANNEL_TIMELINE_WATCH, 16));
	assert_non_null(frame(host, CHANNEL_MEM_RESIZE, 8));
	assert_non_null(frame(host, CHANNEL_CLOSED, 0));
	host->budget.limits.most[BUDGET_FDS] = MANY + 1;
	for (size_t i = 0; i < MANY; i++) {
		assert_null(frame(host, CHANNEL_TIMELINE_WATCH, 8));
	}
	assert_non_null(frame(host, CHANNEL_TIMELINE_WATCH, 8));
	assert_null(frame(host, CHANNEL_CLOSE, 0));
	assert_non_null(frame(host, CHANNEL_CLOSE, 0));
	assert_non_null(frame(host, CHANNEL_TIMELINE_SIGNAL, 8));
	assert_non_null(frame(host, CHANNEL_TIMELINE_WATCH, 8));
	assert_int_equal(end_take(host), -EBADF);
	host->refs.timelines = false;
	assert_non_null(frame(host, CHANNEL_OPEN, 0));
	end(&stage);
}

static void a_guest_is_told_only_of_what_it_has_asked_for(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	struct end *guest = &stage.ends.guest;
	assert_non_null(frame(guest, CHANNEL_TIMELINE_SIGNAL, 8));
	assert_non_null(frame(guest, CHANNEL_TIMELINE_WATCH, 8));
	assert_true(timeline_watch(stage.timeline, 1));
	assert_non_null(frame(guest, CHANNEL_TIMELINE_SIGNAL, 4));
	assert_null(frame(guest, CHANNEL_TIMELINE_SIGNAL, 8));
	assert_true(is_signalled_here(&stage, 1));
	assert_non_null(frame(guest, CHANNEL_TIMELINE_SIGNAL, 8));
	end(&stage);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_point_that_is_told_of_signals_there),
		fd_count_test(points_have_64_bits),
		fd_count_test(a_point_that_is_watched_signals_here),
		fd_count_test(many_that_are_watched_are_one_question),
		fd_count_test(one_that_is_watched_twice_is_told_of_twice),
		fd_count_test(what_was_watched_still_is_after_the_close),
		fd_count_test(one_that_is_not_watched_closes_at_once),
		fd_count_test(a_point_is_waited_for),
		fd_count_test(who_leaves_waits_no_more),
		fd_count_test(too_many_are_not_watched),
		fd_count_test(what_is_no_sync_object_is_refused),
		fd_count_test(who_has_no_fds_left_opens_none),
		fd_count_test(a_host_checks_what_a_guest_sends),
		fd_count_test(a_guest_is_told_only_of_what_it_has_asked_for),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
