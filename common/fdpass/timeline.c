#include "fdpass/timeline.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <wayland-util.h>
#include <xf86drm.h>

#include "base/log.h"
#include "fdpass/sync.h"

struct timeline {
	struct fdref ref;
	uint32_t handle; // of fdrefs.node
	int notice;      // an eventfd, which the kernel signals for points that were asked for
	struct event *event;
	// Points that were asked for by the opener and that have not signalled on the importer's side. Each
	// is charged like an fd: the kernel keeps something for it.
	struct wl_array watched; // uint64_t

	// The opener's.
	unsigned int users;
	bool waiting; // for awaited, which the notice is for
	uint64_t awaited;
};

/* ---- the kernel's ---- */

static bool has_signalled(int node, uint32_t handle, uint64_t point)
{
	struct drm_syncobj_timeline_wait wait = {
		.handles = (uintptr_t)&handle,
		.points = (uintptr_t)&point,
		.count_handles = 1,
	};
	return drmIoctl(node, DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT, &wait) == 0;
}

/* The last point that has signalled, as all before it have. 0: none. */
static uint64_t last_signalled(int node, uint32_t handle)
{
	uint64_t point = 0;
	struct drm_syncobj_timeline_array array = {
		.handles = (uintptr_t)&handle,
		.points = (uintptr_t)&point,
		.count_handles = 1,
	};
	return drmIoctl(node, DRM_IOCTL_SYNCOBJ_QUERY, &array) == 0 ? point : 0;
}

/* What has signalled is left alone: the kernel would have it be a later one. */
static int signal_point(int node, uint32_t handle, uint64_t point)
{
	struct drm_syncobj_timeline_array array = {
		.handles = (uintptr_t)&handle,
		.points = (uintptr_t)&point,
		.count_handles = 1,
	};
	return has_signalled(node, handle, point)
		? 0
		: drmIoctl(node, DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL, &array);
}

static int request_notice(int node, uint32_t handle, uint64_t point, int notice)
{
	struct timeline_eventfd request = {.handle = handle, .point = point, .fd = notice};
	return drmIoctl(node, TIMELINE_IOCTL_EVENTFD, &request);
}

static void destroy_handle(int node, uint32_t handle)
{
	struct drm_syncobj_destroy destroy = {.handle = handle};
	drmIoctl(node, DRM_IOCTL_SYNCOBJ_DESTROY, &destroy);
}

/* ---- nodes ---- */

static bool gives_notice(int node, uint32_t handle)
{
	eventfd_t count;
	int notice = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	bool gives = notice >= 0 && request_notice(node, handle, 1, notice) == 0 &&
		signal_point(node, handle, 1) == 0 && eventfd_read(notice, &count) == 0;
	if (notice >= 0) {
		close(notice);
	}
	return gives;
}

static bool is_able(int node)
{
	struct drm_get_cap cap = {.capability = DRM_CAP_SYNCOBJ_TIMELINE};
	struct drm_syncobj_create create = {0};
	if (drmIoctl(node, DRM_IOCTL_GET_CAP, &cap) < 0 || cap.value == 0 ||
		drmIoctl(node, DRM_IOCTL_SYNCOBJ_CREATE, &create) < 0) {
		return false;
	}
	bool able = gives_notice(node, create.handle);
	destroy_handle(node, create.handle);
	return able;
}

int timeline_open_node(void)
{
	return sync_open_node(is_able);
}

bool timeline_possible(const struct fdrefs *refs)
{
	return refs->timelines;
}

/* ---- both ---- */

static void destroy_timeline(struct fdref *ref)
{
	struct timeline *timeline = (struct timeline *)ref;
	if (timeline->event != NULL) {
		event_free(timeline->event);
	}
	if (timeline->notice >= 0) {
		close(timeline->notice);
	}
	if (timeline->handle != 0) {
		destroy_handle(ref->refs->node, timeline->handle);
	}
	budget_release(ref->refs->budget, BUDGET_FDS, timeline->watched.size / sizeof(uint64_t));
	wl_array_release(&timeline->watched);
	free(timeline);
}

/* Without a handle. NULL: out of memory, or of fds. */
static struct timeline *create_timeline(struct fdrefs *refs, event_callback_fn handle_notice)
{
	struct timeline *timeline = calloc(1, sizeof(*timeline));
	if (timeline == NULL) {
		return NULL;
	}
	timeline->ref.refs = refs;
	wl_array_init(&timeline->watched);
	timeline->notice = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (timeline->notice >= 0) {
		timeline->event = event_new(refs->base, timeline->notice, EV_READ | EV_PERSIST,
			handle_notice, timeline);
	}
	if (timeline->event == NULL || event_add(timeline->event, NULL) < 0) {
		destroy_timeline(&timeline->ref);
		return NULL;
	}
	return timeline;
}

static bool add_watched(struct timeline *timeline, uint64_t point)
{
	struct budget *budget = timeline->ref.refs->budget;
	if (!budget_charge(budget, BUDGET_FDS, 1)) {
		return false;
	}
	uint64_t *added = wl_array_add(&timeline->watched, sizeof(*added));
	if (added == NULL) {
		budget_release(budget, BUDGET_FDS, 1);
		return false;
	}
	*added = point;
	return true;
}

static void remove_watched(struct timeline *timeline, size_t index)
{
	uint64_t *points = timeline->watched.data;
	timeline->watched.size -= sizeof(*points);
	points[index] = points[timeline->watched.size / sizeof(*points)];
	budget_release(timeline->ref.refs->budget, BUDGET_FDS, 1);
}

/* False if it is not watched. A point that is watched twice is told of twice. */
static bool take_watched(struct timeline *timeline, uint64_t point)
{
	const uint64_t *points = timeline->watched.data;
	for (size_t i = 0; i < timeline->watched.size / sizeof(*points); i++) {
		if (points[i] == point) {
			remove_watched(timeline, i);
			return true;
		}
	}
	return false;
}

static void push_point(struct timeline *timeline, enum channel_type type, uint64_t point)
{
	struct channel_point payload;
	channel_put64(payload.point, point);
	channel_push(timeline->ref.refs->channel, type, timeline->ref.id, 0, &payload,
		sizeof(payload), NULL, 0);
}

static bool get_point(const struct channel_frame *frame, uint64_t *point)
{
	struct channel_point payload;
	if (frame->header.length != sizeof(payload)) {
		return false;
	}
	memcpy(&payload, frame->payload, sizeof(payload));
	*point = channel_get64(payload.point);
	return true;
}

static void signal_here(struct timeline *timeline, uint64_t point)
{
	if (signal_point(timeline->ref.refs->node, timeline->handle, point) < 0) {
		log_limited(LOG_ERROR, "a point of a timeline cannot be signalled: %m");
	}
}

bool timeline_has_signalled(const struct timeline *timeline, uint64_t point)
{
	return has_signalled(timeline->ref.refs->node, timeline->handle, point);
}

/* ---- the opener ---- */

static void handle_awaited(evutil_socket_t fd, short what, void *data)
{
	(void)what;
	struct timeline *timeline = data;
	struct fdrefs *refs = timeline->ref.refs;
	eventfd_t count;
	if (eventfd_read(fd, &count) == 0) {
		timeline->waiting = false;
		fdrefs_retry(refs);
		channel_flush(refs->channel);
	}
}

static const char *handle_exported(struct fdref *ref, const struct channel_frame *frame)
{
	struct timeline *timeline = (struct timeline *)ref;
	uint64_t point;
	if (frame->header.type != CHANNEL_TIMELINE_SIGNAL) {
		return "frame of the wrong type for a timeline";
	}
	if (!get_point(frame, &point) || !take_watched(timeline, point)) {
		return "TIMELINE_SIGNAL with a wrong length, or of a point that is not watched";
	}
	signal_here(timeline, point);
	return NULL;
}

static const struct fdref_interface exported = {
	.name = "timeline",
	.frame = handle_exported,
	.destroy = destroy_timeline,
};

struct timeline *timeline_export(struct fdrefs *refs, int fd, bool *invalid, const char **wrong)
{
	struct drm_syncobj_handle import = {.fd = fd};
	*invalid = drmIoctl(refs->node, DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, &import) < 0;
	close(fd);
	if (*invalid) {
		*wrong = "an fd that should be a DRM sync object is not one";
		return NULL;
	}
	struct timeline *timeline = create_timeline(refs, handle_awaited);
	if (timeline == NULL) {
		*wrong = "out of memory or fds";
		destroy_handle(refs->node, import.handle);
		return NULL;
	}
	timeline->handle = import.handle;
	timeline->users = 1;
	if (!fdrefs_open(refs, &timeline->ref, &exported, CHANNEL_KIND_TIMELINE, NULL, 0)) {
		*wrong = "too many fds are open in this session";
		destroy_timeline(&timeline->ref);
		return NULL;
	}
	refs->counts.timelines++;
	return timeline;
}

uint32_t timeline_id(const struct timeline *timeline)
{
	return timeline->ref.id;
}

struct timeline *timeline_use(struct timeline *timeline)
{
	if (timeline != NULL) {
		timeline->users++;
	}
	return timeline;
}

void timeline_release(struct timeline *timeline)
{
	if (timeline != NULL && --timeline->users == 0) {
		fdrefs_close(&timeline->ref);
	}
}

bool timeline_must_wait(struct timeline *timeline, uint64_t point)
{
	if (timeline_has_signalled(timeline, point)) {
		return false;
	}
	if (timeline->waiting && timeline->awaited == point) {
		return true;
	}
	const int node = timeline->ref.refs->node;
	timeline->awaited = point;
	timeline->waiting = request_notice(node, timeline->handle, point, timeline->notice) == 0;
	return timeline->waiting;
}

void timeline_tell(struct timeline *timeline, uint64_t point)
{
	push_point(timeline, CHANNEL_TIMELINE_SIGNAL, point);
}

bool timeline_watch(struct timeline *timeline, uint64_t point)
{
	if (!add_watched(timeline, point)) {
		return false;
	}
	push_point(timeline, CHANNEL_TIMELINE_WATCH, point);
	return true;
}

/* ---- the importer ---- */

/* An opener that has closed it still wants to know of what it has asked for. */
static void confirm_if_over(struct timeline *timeline)
{
	if (timeline->ref.closing && timeline->watched.size == 0) {
		fdrefs_confirm_closed(&timeline->ref);
	}
}

/* The kernel is asked once, however many points are watched: the guest chooses both them and when. */
static void handle_watched(evutil_socket_t fd, short what, void *data)
{
	(void)what;
	struct timeline *timeline = data;
	struct channel *channel = timeline->ref.refs->channel;
	const uint64_t *points = timeline->watched.data;
	eventfd_t count;
	if (eventfd_read(fd, &count) < 0) {
		return;
	}
	const uint64_t last = last_signalled(timeline->ref.refs->node, timeline->handle);
	for (size_t i = timeline->watched.size / sizeof(*points); i > 0; i--) {
		uint64_t point = points[i - 1];
		if (point <= last) {
			push_point(timeline, CHANNEL_TIMELINE_SIGNAL, point);
			remove_watched(timeline, i - 1); // the last takes its place
		}
	}
	confirm_if_over(timeline);
	channel_flush(channel);
}

static const char *watch(struct timeline *timeline, uint64_t point)
{
	if (!add_watched(timeline, point)) {
		return "TIMELINE_WATCH of more points than may be watched";
	}
	const int node = timeline->ref.refs->node;
	if (request_notice(node, timeline->handle, point, timeline->notice) < 0) {
		return "TIMELINE_WATCH of a point that the kernel does not watch";
	}
	return NULL;
}

static const char *handle_imported(struct fdref *ref, const struct channel_frame *frame)
{
	struct timeline *timeline = (struct timeline *)ref;
	uint64_t point;
	if (frame->header.type == CHANNEL_CLOSE) {
		confirm_if_over(timeline);
		return NULL;
	}
	if (ref->closing) {
		return "frame for a timeline after its CLOSE";
	}
	if (frame->header.type != CHANNEL_TIMELINE_SIGNAL &&
		frame->header.type != CHANNEL_TIMELINE_WATCH) {
		return "frame of the wrong type for a timeline";
	}
	if (!get_point(frame, &point)) {
		return "a point of a timeline with a wrong length";
	}
	if (frame->header.type == CHANNEL_TIMELINE_WATCH) {
		return watch(timeline, point);
	}
	signal_here(timeline, point);
	return NULL;
}

static int get_fd(struct fdref *ref)
{
	const struct timeline *timeline = (const struct timeline *)ref;
	struct drm_syncobj_handle export = {.handle = timeline->handle, .fd = -1};
	if (ref->closing) {
		return -EBADF;
	}
	// The kernel makes it CLOEXEC.
	return drmIoctl(ref->refs->node, DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, &export) < 0 ? -errno
										      : export.fd;
}

static const struct fdref_interface imported = {
	.name = "timeline",
	.frame = handle_imported,
	.get_fd = get_fd,
	.destroy = destroy_timeline,
};

const char *timeline_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref)
{
	struct drm_syncobj_create create = {0};
	if (frame->header.length != 0) {
		return "OPEN of a timeline with a wrong length";
	}
	struct timeline *timeline = create_timeline(refs, handle_watched);
	if (timeline == NULL) {
		return "out of memory or fds";
	}
	timeline->ref.interface = &imported;
	if (drmIoctl(refs->node, DRM_IOCTL_SYNCOBJ_CREATE, &create) < 0) {
		destroy_timeline(&timeline->ref);
		return "a timeline came, and there is no memory to make one";
	}
	timeline->handle = create.handle;
	refs->counts.timelines++;
	*ref = &timeline->ref;
	return NULL;
}
