#ifndef TESTS_SUPPORT_SYNCOBJS_H
#define TESTS_SUPPORT_SYNCOBJS_H

#include <stdbool.h>
#include <stdint.h>

/**
 * DRM sync objects for tests: the kernel's where there is a render node that has timelines, and else some
 * that live in this process, whose ioctls a program that is linked with -Wl,--wrap=drmIoctl takes for the
 * kernel's. A node of theirs is any fd.
 */

bool syncobjs_are_real(void);
// A node, CLOEXEC: the caller's.
int syncobjs_open_node(void);

// A sync object of a node, without points: its handle.
uint32_t syncobj_create(int node);
void syncobj_destroy(int node, uint32_t handle);
// An fd for it, CLOEXEC: the caller's.
int syncobj_export(int node, uint32_t handle);
// The handle of an fd, which is borrowed; 0: it is no sync object.
uint32_t syncobj_import(int node, int fd);
void syncobj_signal(int node, uint32_t handle, uint64_t point);
bool syncobj_has_signalled(int node, uint32_t handle, uint64_t point);

// How often whether points have signalled was asked for.
unsigned int syncobjs_asked(void);
// Handles that have not been destroyed, of those that live here. 0 of the kernel's.
unsigned int syncobjs_left(void);

#endif
