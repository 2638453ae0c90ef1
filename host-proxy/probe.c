#include "host-proxy/probe.h"

#include <drm_fourcc.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wayland-client-protocol.h>

#include "host-proxy/side_client.h"
#include "protocol/wayland/linux-dmabuf-client.h"
#include "protocol/wayland/wayland-drm-client.h"
#include "relay/format.h"

#define SECURITY_CONTEXTS "wp_security_context_manager_v1"
#define TIMEOUT_MS        1000

// wl_drm takes dma-bufs from that version on, where it says that it can.
#define PRIME_SINCE      2
#define CAPABILITY_PRIME 1

#define FEEDBACK_SINCE ZWP_LINUX_DMABUF_V1_GET_DEFAULT_FEEDBACK_SINCE_VERSION

struct asking {
	struct probe *probe;
	struct zwp_linux_dmabuf_v1 *dmabuf; // NULL: there is none
	struct wl_drm *drm;                 // NULL: there is none
	bool drm_prime, drm_format;         // that it takes dma-bufs; a known format
};

static void look_at(struct asking *asking, uint32_t format, uint64_t modifier)
{
	if ((modifier == DRM_FORMAT_MOD_LINEAR || modifier == DRM_FORMAT_MOD_INVALID) &&
		format_find(format) != NULL) {
		asking->probe->takes_dmabufs = true;
	}
}

/* ---- up to version 3 ---- */

static void handle_format(void *data, struct zwp_linux_dmabuf_v1 *dmabuf, uint32_t format)
{
	(void)data;
	(void)dmabuf;
	(void)format;
}

static void handle_modifier(void *data, struct zwp_linux_dmabuf_v1 *dmabuf, uint32_t format,
	uint32_t high, uint32_t low)
{
	(void)dmabuf;
	look_at(data, format, (uint64_t)high << 32 | low);
}

static const struct zwp_linux_dmabuf_v1_listener dmabuf_listener = {
	.format = handle_format,
	.modifier = handle_modifier,
};

/* ---- from version 4 on ---- */

// An entry of the table, as the protocol has it.
struct pair {
	uint32_t format;
	uint32_t padding;
	uint64_t modifier;
};

static void handle_format_table(
	void *data, struct zwp_linux_dmabuf_feedback_v1 *feedback, int32_t fd, uint32_t size)
{
	(void)feedback;
	struct asking *asking = data;
	const struct pair *pairs = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (pairs == MAP_FAILED) {
		return;
	}
	for (size_t i = 0; i < size / sizeof(*pairs); i++) {
		look_at(asking, pairs[i].format, pairs[i].modifier);
	}
	munmap((void *)pairs, size);
}

static void ignore_event(void *data, struct zwp_linux_dmabuf_feedback_v1 *feedback)
{
	(void)data;
	(void)feedback;
}

static void ignore_array(
	void *data, struct zwp_linux_dmabuf_feedback_v1 *feedback, struct wl_array *array)
{
	(void)data;
	(void)feedback;
	(void)array;
}

static void ignore_flags(void *data, struct zwp_linux_dmabuf_feedback_v1 *feedback, uint32_t flags)
{
	(void)data;
	(void)feedback;
	(void)flags;
}

static const struct zwp_linux_dmabuf_feedback_v1_listener feedback_listener = {
	.done = ignore_event,
	.format_table = handle_format_table,
	.main_device = ignore_array,
	.tranche_done = ignore_event,
	.tranche_target_device = ignore_array,
	.tranche_formats = ignore_array,
	.tranche_flags = ignore_flags,
};

static int ask_feedback(struct wl_display *display, struct asking *asking)
{
	struct zwp_linux_dmabuf_feedback_v1 *feedback =
		zwp_linux_dmabuf_v1_get_default_feedback(asking->dmabuf);
	if (feedback == NULL) {
		return -ENOMEM;
	}
	zwp_linux_dmabuf_feedback_v1_add_listener(feedback, &feedback_listener, asking);
	int error = side_client_roundtrip(display, TIMEOUT_MS);
	zwp_linux_dmabuf_feedback_v1_destroy(feedback);
	return error;
}

/* ---- wl_drm ---- */

static void handle_drm_device(void *data, struct wl_drm *drm, const char *name)
{
	(void)data;
	(void)drm;
	(void)name;
}

static void handle_drm_format(void *data, struct wl_drm *drm, uint32_t format)
{
	(void)drm;
	struct asking *asking = data;
	asking->drm_format = asking->drm_format || format_find(format) != NULL;
}

static void handle_drm_authenticated(void *data, struct wl_drm *drm)
{
	(void)data;
	(void)drm;
}

static void handle_drm_capabilities(void *data, struct wl_drm *drm, uint32_t value)
{
	(void)drm;
	((struct asking *)data)->drm_prime = (value & CAPABILITY_PRIME) != 0;
}

static const struct wl_drm_listener drm_listener = {
	.device = handle_drm_device,
	.format = handle_drm_format,
	.authenticated = handle_drm_authenticated,
	.capabilities = handle_drm_capabilities,
};

/* ---- the compositor ---- */

static void bind_drm(
	struct asking *asking, struct wl_registry *registry, uint32_t name, uint32_t version)
{
	if (asking->drm != NULL || version < PRIME_SINCE) {
		return;
	}
	asking->drm = wl_registry_bind(registry, name, &wl_drm_interface, PRIME_SINCE);
	if (asking->drm != NULL) {
		wl_drm_add_listener(asking->drm, &drm_listener, asking);
	}
}

static void handle_global(void *data, struct wl_registry *registry, uint32_t name,
	const char *interface, uint32_t version)
{
	struct asking *asking = data;
	if (strcmp(interface, SECURITY_CONTEXTS) == 0) {
		asking->probe->has_contexts = true;
	}
	if (strcmp(interface, wl_drm_interface.name) == 0) {
		bind_drm(asking, registry, name, version);
	}
	if (asking->dmabuf != NULL || version < ZWP_LINUX_DMABUF_V1_MODIFIER_SINCE_VERSION ||
		strcmp(interface, zwp_linux_dmabuf_v1_interface.name) != 0) {
		return;
	}
	version = version < FEEDBACK_SINCE ? version : FEEDBACK_SINCE;
	asking->dmabuf = wl_registry_bind(registry, name, &zwp_linux_dmabuf_v1_interface, version);
	if (asking->dmabuf != NULL) {
		zwp_linux_dmabuf_v1_add_listener(asking->dmabuf, &dmabuf_listener, asking);
	}
}

static int ask(struct wl_display *display, struct asking *asking)
{
	int error = side_client_list_globals(display, TIMEOUT_MS, handle_global, asking);
	if (error < 0 || (asking->dmabuf == NULL && asking->drm == NULL)) {
		return error;
	}
	bool feedback = asking->dmabuf != NULL &&
		zwp_linux_dmabuf_v1_get_version(asking->dmabuf) >= FEEDBACK_SINCE;
	error = feedback ? ask_feedback(display, asking)
			 : side_client_roundtrip(display, TIMEOUT_MS);
	if (asking->drm_prime && asking->drm_format) {
		asking->probe->takes_dmabufs = true;
	}
	return error;
}

int probe_compositor(int compositor_fd, struct probe *probe)
{
	struct asking asking = {.probe = probe};
	*probe = (struct probe){0};
	struct wl_display *display = side_client_create(compositor_fd);
	if (display == NULL) {
		return -errno;
	}
	int error = ask(display, &asking);
	if (asking.dmabuf != NULL) {
		zwp_linux_dmabuf_v1_destroy(asking.dmabuf);
	}
	if (asking.drm != NULL) {
		wl_drm_destroy(asking.drm);
	}
	wl_display_disconnect(display);
	return error;
}
