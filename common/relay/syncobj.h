#ifndef RELAY_SYNCOBJ_H
#define RELAY_SYNCOBJ_H

#include <stdbool.h>
#include <stdint.h>

#include "relay/wayland.h"

struct object_state;
struct wayland;

/**
 * wp_linux_drm_syncobj_manager_v1: a commit names a point of a timeline that is waited for before its buffer
 * is read, and one that the compositor signals when it is done with it. Timelines cross (fdpass/timeline.h).
 * The guest waits for the former and tells the host of it before it forwards the commit; the host tells of
 * the latter. All requests are forwarded, and the compositor tells what is wrong with them, but for what is
 * no timeline.
 */

#define SYNCOBJ_GLOBAL "wp_linux_drm_syncobj_manager_v1"

// The version of the global to offer, at most version; 0: it stays hidden.
uint32_t syncobj_version(const struct wayland *wayland, uint32_t version);

struct syncobj_surface;

// The surface's place for its points; surface.c.
struct syncobj_surface **surface_syncobj(struct object_state *surface);

// A commit of the surface, which attaches a buffer or not. WAYLAND_FORWARD: whatever it had to wait for has
// come. self may be NULL.
enum wayland_verdict syncobj_commit(
	struct syncobj_surface *self, struct wayland_call *call, bool attaches);
// The surface has gone. self may be NULL.
void syncobj_leave_surface(struct syncobj_surface *self);

#endif
