#ifndef FDPASS_DEVICE_H
#define FDPASS_DEVICE_H

#include "fdpass/fdref.h"

/**
 * Devices that are the same everywhere: /dev/null and its like. Nothing is carried; the importer
 * opens its own. There is nothing to keep, so the fdref is closed once it is named.
 */

// Opens a device for fd, which is taken also on failure. Gives the fdref's id, or 0 with *wrong set.
uint32_t device_export(struct fdrefs *refs, int fd, const char **wrong);
// For fdrefs_frame: OPEN of a device.
const char *device_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref);

// A description of its own: the caller's, CLOEXEC; -errno. flags: O_ACCMODE and O_NONBLOCK. The one
// place where a device is opened.
int device_open(enum channel_device device, int flags);

#endif
