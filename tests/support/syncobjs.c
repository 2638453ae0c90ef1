#include "tests/support/syncobjs.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xf86drm.h>
#include <cmocka.h>

#include "fdpass/timeline.h"

bool syncobjs_are_real(void)
{
	static enum { UNKNOWN, REAL, STAND_INS } answer;
	if (answer == UNKNOWN) {
		int node = timeline_open_node();
		answer = node >= 0 ? REAL : STAND_INS;
		if (node >= 0) {
			close(node);
		}
	}
	return answer == REAL;
}

int syncobjs_open_node(void)
{
	int node = syncobjs_are_real() ? timeline_open_node() : eventfd(0, EFD_CLOEXEC);
	assert_true(node >= 0);
	return node;
}

/* ---- those that live here ---- */

#define MAX_OBJECTS  256
#define MAX_HANDLES  256
#define MAX_REQUESTS 4096

static struct {
	int fd; // for its number; 0: unused
	uint64_t signalled;
} objects[MAX_OBJECTS];

// A handle is its place here, and keeps a copy of the object's fd.
static struct {
	size_t object;
	int fd;
} handles[MAX_HANDLES];

static struct {
	size_t object;
	uint64_t point;
	int fd; // of an eventfd; 0: unused
} requests[MAX_REQUESTS];

static unsigned int asked;

static bool is_same(int a, int b)
{
	struct stat first, second;
	return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_dev == second.st_dev &&
		first.st_ino == second.st_ino;
}

static int fail_with(int error)
{
	errno = error;
	return -1;
}

static uint32_t add_handle(size_t object, int fd)
{
	uint32_t handle = 1;
	while (handle < MAX_HANDLES && handles[handle].fd != 0) {
		handle++;
	}
	assert_true(handle < MAX_HANDLES);
	handles[handle].object = object;
	handles[handle].fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return handle;
}

static size_t object_of(uint32_t handle)
{
	assert_true(handle > 0 && handle < MAX_HANDLES && handles[handle].fd != 0);
	return handles[handle].object;
}

static int create(struct drm_syncobj_create *create)
{
	size_t object = 0;
	while (object < MAX_OBJECTS && objects[object].fd != 0) {
		object++;
	}
	assert_true(object < MAX_OBJECTS);
	objects[object].fd = memfd_create("stands-for-a-syncobj", MFD_CLOEXEC);
	objects[object].signalled = 0;
	create->handle = add_handle(object, objects[object].fd);
	return 0;
}

/* The object lives for as long as a handle does: longer than any test needs its fds. */
static int destroy(const struct drm_syncobj_destroy *destroy)
{
	size_t object = object_of(destroy->handle);
	close(handles[destroy->handle].fd);
	handles[destroy->handle].fd = 0;
	for (size_t i = 1; i < MAX_HANDLES; i++) {
		if (handles[i].fd != 0 && handles[i].object == object) {
			return 0;
		}
	}
	for (size_t i = 0; i < MAX_REQUESTS; i++) {
		if (requests[i].fd != 0 && requests[i].object == object) {
			close(requests[i].fd);
			requests[i].fd = 0;
		}
	}
	close(objects[object].fd);
	objects[object].fd = 0;
	return 0;
}

static int import(struct drm_syncobj_handle *import)
{
	for (size_t i = 0; i < MAX_OBJECTS; i++) {
		if (objects[i].fd != 0 && is_same(objects[i].fd, import->fd)) {
			import->handle = add_handle(i, import->fd);
			return 0;
		}
	}
	return fail_with(EINVAL);
}

static int export(struct drm_syncobj_handle *export)
{
	export->fd = fcntl(objects[object_of(export->handle)].fd, F_DUPFD_CLOEXEC, 0);
	return 0;
}

static int wait_for(const struct drm_syncobj_timeline_wait *wait)
{
	const uint32_t *handle = (const uint32_t *)(uintptr_t)wait->handles;
	const uint64_t *point = (const uint64_t *)(uintptr_t)wait->points;
	assert_true(wait->count_handles == 1 && wait->timeout_nsec == 0);
	return objects[object_of(*handle)].signalled >= *point ? 0 : fail_with(ETIME);
}

static int query(const struct drm_syncobj_timeline_array *array)
{
	const uint32_t *handle = (const uint32_t *)(uintptr_t)array->handles;
	uint64_t *point = (uint64_t *)(uintptr_t)array->points;
	assert_true(array->count_handles == 1 && array->flags == 0);
	*point = objects[object_of(*handle)].signalled;
	return 0;
}

static void give_notice(size_t object)
{
	for (size_t i = 0; i < MAX_REQUESTS; i++) {
		if (requests[i].fd != 0 && requests[i].object == object &&
			requests[i].point <= objects[object].signalled) {
			eventfd_write(requests[i].fd, 1);
			close(requests[i].fd);
			requests[i].fd = 0;
		}
	}
}

static int signal_point(const struct drm_syncobj_timeline_array *array)
{
	const uint32_t *handle = (const uint32_t *)(uintptr_t)array->handles;
	const uint64_t *point = (const uint64_t *)(uintptr_t)array->points;
	size_t object = object_of(*handle);
	assert_int_equal(array->count_handles, 1);
	assert_true(*point > objects[object].signalled); // else the kernel would get it wrong
	objects[object].signalled = *point;
	give_notice(object);
	return 0;
}

static int request(const struct timeline_eventfd *wanted)
{
	size_t i = 0;
	while (i < MAX_REQUESTS && requests[i].fd != 0) {
		i++;
	}
	assert_true(i < MAX_REQUESTS);
	requests[i].object = object_of(wanted->handle);
	requests[i].point = wanted->point;
	requests[i].fd = fcntl(wanted->fd, F_DUPFD_CLOEXEC, 0);
	give_notice(requests[i].object);
	return 0;
}

int __real_drmIoctl(int fd, unsigned long code, void *arg);
int __wrap_drmIoctl(int fd, unsigned long code, void *arg);

int __wrap_drmIoctl(int fd, unsigned long code, void *arg)
{
	static bool looking; // for a real one
	asked += code == DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT || code == DRM_IOCTL_SYNCOBJ_QUERY;
	if (looking) {
		return __real_drmIoctl(fd, code, arg);
	}
	looking = true;
	bool real = syncobjs_are_real();
	looking = false;
	if (real) {
		return __real_drmIoctl(fd, code, arg);
	}
	switch (code) {
	case DRM_IOCTL_SYNCOBJ_CREATE:
		return create(arg);
	case DRM_IOCTL_SYNCOBJ_DESTROY:
		return destroy(arg);
	case DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE:
		return import(arg);
	case DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD:
		return export(arg);
	case DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT:
		return wait_for(arg);
	case DRM_IOCTL_SYNCOBJ_QUERY:
		return query(arg);
	case DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL:
		return signal_point(arg);
	case TIMELINE_IOCTL_EVENTFD:
		return request(arg);
	default:
		return __real_drmIoctl(fd, code, arg);
	}
}

unsigned int syncobjs_asked(void)
{
	return asked;
}

unsigned int syncobjs_left(void)
{
	unsigned int n = 0;
	for (size_t i = 1; i < MAX_HANDLES; i++) {
		n += handles[i].fd != 0;
	}
	return n;
}

/* ---- for tests ---- */

uint32_t syncobj_create(int node)
{
	struct drm_syncobj_create create = {0};
	assert_int_equal(drmIoctl(node, DRM_IOCTL_SYNCOBJ_CREATE, &create), 0);
	return create.handle;
}

void syncobj_destroy(int node, uint32_t handle)
{
	struct drm_syncobj_destroy destroy = {.handle = handle};
	assert_int_equal(drmIoctl(node, DRM_IOCTL_SYNCOBJ_DESTROY, &destroy), 0);
}

int syncobj_export(int node, uint32_t handle)
{
	struct drm_syncobj_handle export = {.handle = handle, .fd = -1};
	assert_int_equal(drmIoctl(node, DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, &export), 0);
	assert_int_equal(fcntl(export.fd, F_GETFD), FD_CLOEXEC);
	return export.fd;
}

uint32_t syncobj_import(int node, int fd)
{
	struct drm_syncobj_handle import = {.fd = fd};
	return drmIoctl(node, DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, &import) == 0 ? import.handle : 0;
}

void syncobj_signal(int node, uint32_t handle, uint64_t point)
{
	struct drm_syncobj_timeline_array array = {
		.handles = (uintptr_t)&handle,
		.points = (uintptr_t)&point,
		.count_handles = 1,
	};
	assert_int_equal(drmIoctl(node, DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL, &array), 0);
}

bool syncobj_has_signalled(int node, uint32_t handle, uint64_t point)
{
	struct drm_syncobj_timeline_wait wait = {
		.handles = (uintptr_t)&handle,
		.points = (uintptr_t)&point,
		.count_handles = 1,
	};
	return drmIoctl(node, DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT, &wait) == 0;
}
