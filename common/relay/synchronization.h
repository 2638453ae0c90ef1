#ifndef RELAY_SYNCHRONIZATION_H
#define RELAY_SYNCHRONIZATION_H

#include <stdint.h>

#include "relay/wayland.h"

struct buffer;
struct object_state;
struct wayland;

/**
 * zwp_linux_explicit_synchronization_v1: fences that a client wants to be waited for before its buffer
 * is read, and that a compositor gives it for when it may write there again. Each is waited for where it
 * is, and does not cross: to a compositor the buffer is ready when its commit comes, and a client is told
 * immediate_release.
 */

#define SYNCHRONIZATION_GLOBAL "zwp_linux_explicit_synchronization_v1"

// The version of the global to offer, at most version; 0: it stays hidden.
uint32_t synchronization_version(const struct wayland *wayland, uint32_t version);

struct synchronization;

// The surface's place for its synchronization, which keeps to it; surface.c.
struct synchronization **surface_synchronization(struct object_state *surface);

// A commit of the surface, which attaches a buffer or not; buffer is NULL also where nothing is known of
// it. WAYLAND_FORWARD: whatever it had to wait for has come. self may be NULL.
enum wayland_verdict synchronization_commit(struct synchronization *self, struct wayland_call *call,
	bool attaches, const struct buffer *buffer);
// The surface has gone. self may be NULL.
void synchronization_leave_surface(struct synchronization *self);

#endif
