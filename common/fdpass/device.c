#include "fdpass/device.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fdpass/kind.h"

struct device {
	struct fdref ref;
	enum channel_device device; // of an import, as the next
	int flags;
};

int device_open(enum channel_device device, int flags)
{
	static const char *const paths[] = {
		[CHANNEL_DEVICE_NULL] = "/dev/null",
		[CHANNEL_DEVICE_ZERO] = "/dev/zero",
		[CHANNEL_DEVICE_FULL] = "/dev/full",
		[CHANNEL_DEVICE_RANDOM] = "/dev/random",
		[CHANNEL_DEVICE_URANDOM] = "/dev/urandom",
	};
	int fd = open(paths[device], flags | O_CLOEXEC | O_NOCTTY);
	return fd < 0 ? -errno : fd;
}

static void destroy_device(struct fdref *ref)
{
	free(ref);
}

/* ---- export ---- */

static const struct fdref_interface exported = {
	.name = "device",
	.frame = fdref_expect_close,
	.named = fdrefs_close,
	.destroy = destroy_device,
};

uint32_t device_export(struct fdrefs *refs, int fd, const char **wrong)
{
	struct fd_facts facts;
	*wrong = NULL;
	fd_facts_of(fd, &facts);
	close(fd);
	if (facts.device < 0) {
		*wrong = "a device is not the same everywhere";
		return 0;
	}
	struct device *device = calloc(1, sizeof(*device));
	if (device == NULL) {
		*wrong = "out of memory";
		return 0;
	}
	struct channel_open_device open = {
		.device = (uint32_t)facts.device,
		.access = (uint32_t)facts.access,
		.nonblocking = facts.nonblocking,
	};
	if (!fdrefs_open(refs, &device->ref, &exported, CHANNEL_KIND_DEVICE, &open, sizeof(open))) {
		free(device);
		*wrong = "too many fds are open in this session";
		return 0;
	}
	refs->counts.devices++;
	return device->ref.id;
}

/* ---- import ---- */

static int get_fd(struct fdref *ref)
{
	const struct device *device = (const struct device *)ref;
	return device_open(device->device, device->flags);
}

static const struct fdref_interface imported = {
	.name = "device",
	.frame = fdref_expect_close,
	.get_fd = get_fd,
	.destroy = destroy_device,
};

const char *device_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref)
{
	struct channel_open_device open;
	if (frame->header.length != sizeof(open)) {
		return "OPEN of a device with a wrong length";
	}
	memcpy(&open, frame->payload, sizeof(open));
	if (open.device > CHANNEL_DEVICE_URANDOM || open.access > CHANNEL_ACCESS_BOTH ||
		open.nonblocking > 1) {
		return "OPEN of an unknown device or with a wrong access mode";
	}
	struct device *device = calloc(1, sizeof(*device));
	if (device == NULL) {
		return "out of memory";
	}
	device->ref.interface = &imported;
	device->ref.refs = refs;
	device->device = open.device;
	device->flags = (int)open.access | (open.nonblocking ? O_NONBLOCK : 0);
	refs->counts.devices++;
	*ref = &device->ref;
	return NULL;
}
