#ifndef TESTS_SUPPORT_DMABUF_SCREEN_H
#define TESTS_SUPPORT_DMABUF_SCREEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wayland-server-core.h>

/**
 * The test compositor's linux-dmabuf, and wl_drm. It imports whatever it is given, and shows what is
 * attached to any surface: there, only dma-bufs may be attached then.
 */

struct compositor;

struct dmabuf_plane {
	int fd;
	uint32_t offset, stride;
	uint64_t modifier;
};

struct dmabuf_buffer {
	struct wl_list link;
	struct dmabuf_screen *screen;
	struct wl_resource *resource;
	size_t n_planes;
	struct dmabuf_plane planes[4];
	int32_t width, height;
	uint32_t format, flags;
};

// An entry of a format table.
struct dmabuf_pair {
	uint32_t format;
	uint32_t padding;
	uint64_t modifier;
};

struct dmabuf_tranche {
	uint64_t device;
	uint32_t flags;
	const uint16_t *indices; // of the pairs
	size_t n_indices;
};

struct dmabuf_screen {
	struct compositor *compositor;
	// What it offers: set these before a client binds. Borrowed.
	const struct dmabuf_pair *pairs;
	size_t n_pairs;
	const char *drm_device;
	const struct dmabuf_tranche *tranches; // the first one's device is the main one
	size_t n_tranches;
	bool refuses;                   // answers with "failed"
	bool hesitates;                 // answers create when dmabuf_screen_answer is called
	struct wl_resource *unanswered; // params; NULL if there are none
	struct wl_list buffers;         // dmabuf_buffer.link, newest first
	struct dmabuf_buffer *pending,
		*shown;              // of the surface that was attached to last; NULL: none
	size_t n_planes, n_requests; // that came: add; create or create_immed
	unsigned int commits;
	unsigned int authentications; // of wl_drm, which go unanswered
	uint32_t drm_capabilities;    // that it has
};

void dmabuf_screen_init(struct dmabuf_screen *screen, struct compositor *compositor, int version);

// Adds wl_drm to it, which offers the formats of the pairs. Its buffers are of 3 planes, whatever their format.
void dmabuf_screen_add_drm(struct dmabuf_screen *screen, const char *device, int version);

void dmabuf_screen_answer(struct dmabuf_screen *screen);

#endif
