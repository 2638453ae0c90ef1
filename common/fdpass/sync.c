#include "fdpass/sync.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <xf86drm.h>

#include "fdpass/kind.h"

// Minors of render nodes: 128 to 191.
#define FIRST_NODE 128
#define NODES      64

struct sync {
	struct fdref ref;
	int given; // of an import: for the local peer, until it is asked for
};

// A sync_file that somebody has asked to export; fdrefs.waits.
struct sync_wait {
	struct fdrefs *refs;
	int asked; // the asker's fd: what is asked for again is known by it
	int fd;    // our own of the same sync_file
	struct event *event;
	struct sync_wait *next;
};

static void destroy_sync(struct fdref *ref)
{
	struct sync *sync = (struct sync *)ref;
	if (sync->given >= 0) {
		close(sync->given);
	}
	free(sync);
}

/* ---- waiting ---- */

/* Out of the list. */
static void destroy_wait(struct sync_wait *wait)
{
	struct sync_wait **link = &wait->refs->waits;
	while (*link != NULL && *link != wait) {
		link = &(*link)->next;
	}
	if (*link == wait) {
		*link = wait->next;
	}
	if (wait->event != NULL) {
		event_free(wait->event);
	}
	if (wait->fd >= 0) {
		close(wait->fd);
	}
	free(wait);
}

void sync_finish(struct fdrefs *refs)
{
	while (refs->waits != NULL) {
		destroy_wait(refs->waits);
	}
}

static void handle_signalled(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct sync_wait *wait = data;
	struct fdrefs *refs = wait->refs;
	destroy_wait(wait);
	fdrefs_retry(refs);
	channel_flush(refs->channel);
}

static struct sync_wait *find_wait(const struct fdrefs *refs, int fd)
{
	struct sync_wait *wait = refs->waits;
	while (wait != NULL && wait->asked != fd) {
		wait = wait->next;
	}
	return wait;
}

void sync_forget(struct fdrefs *refs, int fd)
{
	struct sync_wait *wait = find_wait(refs, fd);
	if (wait != NULL) {
		destroy_wait(wait);
	}
}

static bool wait_for(struct fdrefs *refs, int fd, short what)
{
	if (find_wait(refs, fd) != NULL) {
		return true;
	}
	struct sync_wait *wait = calloc(1, sizeof(*wait));
	if (wait == NULL) {
		return false;
	}
	wait->refs = refs;
	wait->asked = fd;
	wait->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (wait->fd >= 0) {
		wait->event = event_new(refs->base, wait->fd, what, handle_signalled, wait);
	}
	if (wait->event == NULL || event_add(wait->event, NULL) < 0) {
		destroy_wait(wait);
		return false;
	}
	wait->next = refs->waits;
	refs->waits = wait;
	return true;
}

bool sync_wait_for(struct fdrefs *refs, int fd)
{
	return wait_for(refs, fd, EV_READ);
}

bool sync_wait_to_write(struct fdrefs *refs, int fd)
{
	return wait_for(refs, fd, EV_WRITE);
}

/* ---- export ---- */

static const struct fdref_interface exported = {
	.name = "sync_file",
	.frame = fdref_expect_close,
	.named = fdrefs_close,
	.destroy = destroy_sync,
};

bool sync_has_signalled(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	return poll(&poll_fd, 1, 0) == 1;
}

static uint32_t open_signalled(struct fdrefs *refs)
{
	struct sync *sync = calloc(1, sizeof(*sync));
	if (sync == NULL) {
		return 0;
	}
	sync->given = -1;
	if (!fdrefs_open(refs, &sync->ref, &exported, CHANNEL_KIND_SYNC, NULL, 0)) {
		free(sync);
		return 0;
	}
	refs->counts.syncs++;
	return sync->ref.id;
}

bool sync_must_wait(struct fdrefs *refs, int fd)
{
	return !sync_has_signalled(fd) && sync_wait_for(refs, fd);
}

uint32_t sync_export(struct fdrefs *refs, int fd, const char **wrong)
{
	uint32_t id = 0;
	*wrong = NULL;
	if (fd_kind_of(fd) != FD_KIND_SYNC_FILE) {
		*wrong = "an fd that should be a sync_file is not one";
	} else if (!sync_has_signalled(fd)) {
		*wrong = "out of memory or fds to wait for a sync_file";
	} else {
		id = open_signalled(refs);
		*wrong = id == 0 ? "too many fds are open in this session" : NULL;
	}
	close(fd);
	return id;
}

/* ---- import ---- */

int sync_open_node(bool (*suits)(int node))
{
	for (int i = 0; i < NODES; i++) {
		char path[32];
		snprintf(path, sizeof(path), "/dev/dri/renderD%d", FIRST_NODE + i);
		int node = open(path, O_RDWR | O_CLOEXEC);
		if (node >= 0 && suits(node)) {
			return node;
		}
		if (node >= 0) {
			close(node);
		}
	}
	return -1;
}

static bool has_objects(int node)
{
	uint64_t able = 0;
	return drmGetCap(node, DRM_CAP_SYNCOBJ, &able) == 0 && able != 0;
}

/* -1 where no render node here can make one. */
static int make_signalled(void)
{
	uint32_t handle;
	int fd = -1, node = sync_open_node(has_objects);
	if (node < 0) {
		return -1;
	}
	if (drmSyncobjCreate(node, DRM_SYNCOBJ_CREATE_SIGNALED, &handle) == 0) {
		drmSyncobjExportSyncFile(node, handle, &fd);
	}
	close(node);
	return fd;
}

static int get_fd(struct fdref *ref)
{
	struct sync *sync = (struct sync *)ref;
	int fd = sync->given;
	sync->given = -1;
	return fd < 0 ? -EBADF : fd;
}

static const struct fdref_interface imported = {
	.name = "sync_file",
	.frame = fdref_expect_close,
	.get_fd = get_fd,
	.destroy = destroy_sync,
};

const char *sync_import(struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref)
{
	if (frame->header.length != 0) {
		return "OPEN of a sync_file with a wrong length";
	}
	struct sync *sync = calloc(1, sizeof(*sync));
	if (sync == NULL) {
		return "out of memory";
	}
	sync->given = make_signalled();
	if (sync->given < 0) {
		free(sync);
		return "a sync_file came, and no DRM render node here can make one "
		       "(DRM_CAP_SYNCOBJ)";
	}
	sync->ref.interface = &imported;
	sync->ref.refs = refs;
	refs->counts.syncs++;
	*ref = &sync->ref;
	return NULL;
}
