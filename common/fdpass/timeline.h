#ifndef FDPASS_TIMELINE_H
#define FDPASS_TIMELINE_H

#include <drm.h>
#include <stdbool.h>
#include <stdint.h>

#include "fdpass/fdref.h"

/**
 * Timelines: DRM sync objects with points that signal one after another. The guest opens an fdref for one of
 * its client's, and the host makes a mirror of it, each with a DRM device of its own (fdrefs.node). Points
 * are signalled on the other side's when they have signalled here: those that the guest tells of
 * (timeline_tell), and on the host those that the guest has asked for (timeline_watch). So whoever waits for
 * a point there waits for the work that is done here.
 */

// Linux 6.6: the eventfd is signalled once the point has.
struct timeline_eventfd {
	uint32_t handle;
	uint32_t flags;
	uint64_t point;
	int32_t fd;
	uint32_t padding;
};
#define TIMELINE_IOCTL_EVENTFD DRM_IOWR(0xCF, struct timeline_eventfd)

// A render node that can do all of this, whatever its driver: the caller's, CLOEXEC; -1: there is none. It is
// opened early, as it cannot be in a sandbox.
int timeline_open_node(void);

// Whether timelines can cross in this session. In the guest it is known once the host has answered.
bool timeline_possible(const struct fdrefs *refs);

struct timeline;

// Opens an fdref for fd, a sync object's, which is taken also on failure. The caller has one use of it.
// NULL with *wrong set on failure; *invalid tells that fd is no sync object.
struct timeline *timeline_export(struct fdrefs *refs, int fd, bool *invalid, const char **wrong);
uint32_t timeline_id(const struct timeline *timeline);    // its fdref
struct timeline *timeline_use(struct timeline *timeline); // one more use; NULL is fine
// One use less. The last one closes the fdref; points that are watched still are. NULL is fine.
void timeline_release(struct timeline *timeline);

// Whether a point has signalled, with an error or without.
bool timeline_has_signalled(const struct timeline *timeline, uint64_t point);
// Whether it has not; fdrefs_retry is called when to ask again. False also where that cannot be.
bool timeline_must_wait(struct timeline *timeline, uint64_t point);
// Tells the host that a point has signalled.
void timeline_tell(struct timeline *timeline, uint64_t point);
// Has the host tell when a point has signalled there, whereupon it does here. False: too many are watched.
bool timeline_watch(struct timeline *timeline, uint64_t point);

// For fdrefs_frame: OPEN of a timeline.
const char *timeline_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref);

#endif
