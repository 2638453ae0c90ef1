#ifndef RELAY_HOOKS_H
#define RELAY_HOOKS_H

#include "relay/wayland.h"

/**
 * The messages that are more than forwarded, by room: registry.c (globals), shm.c (pools and buffers),
 * feedback.c and dmabuf.c (linux-dmabuf), drm.c (wl_drm), synchronization.c and syncobj.c (fences and
 * timelines), surface.c (damage), rectangles.c (what a compositor adds up), offers.c (types of what can be
 * pasted), told.c (what others hear of), popups.c, listed.c (of which a compositor has few), capture.c (buffers that the compositor writes), scanout.c (its own, given away), times.c (clocks), labels.c (titles, app ids and
 * names of icons). hooks.c holds the table. denied.c has what may be any request.
 */

// Ties the table to the schema. Call it once, before the first look-up.
void hooks_init(void);
// All of it; grouped by interface.
const struct wayland_hook *hooks_table(size_t *len);

enum wayland_verdict registry_import_create(struct wayland_call *call);
enum wayland_verdict registry_global(struct wayland_call *call);
enum wayland_verdict registry_global_remove(struct wayland_call *call);
enum wayland_verdict registry_bind(struct wayland_call *call);
enum wayland_verdict registry_import_bind(struct wayland_call *call);
enum wayland_verdict display_delete_id(struct wayland_call *call);
enum wayland_verdict display_error(struct wayland_call *call);

enum wayland_verdict shm_export_create_pool(struct wayland_call *call);
enum wayland_verdict shm_import_create_pool(struct wayland_call *call);
enum wayland_verdict shm_export_create_buffer(struct wayland_call *call);
enum wayland_verdict shm_import_create_buffer(struct wayland_call *call);
enum wayland_verdict shm_export_resize(struct wayland_call *call);
enum wayland_verdict shm_import_resize(struct wayland_call *call);
// Any other request that names a wl_buffer: all of it must be on the host first.
enum wayland_verdict shm_export_buffer_args(struct wayland_call *call);

enum wayland_verdict feedback_format(struct wayland_call *call);
enum wayland_verdict feedback_modifier(struct wayland_call *call);
enum wayland_verdict feedback_create(struct wayland_call *call);
enum wayland_verdict feedback_export_format_table(struct wayland_call *call);
enum wayland_verdict feedback_import_format_table(struct wayland_call *call);
enum wayland_verdict feedback_device(struct wayland_call *call);
enum wayland_verdict feedback_tranche_detail(struct wayland_call *call);
enum wayland_verdict feedback_tranche_formats(struct wayland_call *call);
enum wayland_verdict feedback_tranche_done(struct wayland_call *call);
enum wayland_verdict feedback_done(struct wayland_call *call);

// Takes the fd of a request that is exported, and names its fdref in the call: FORWARD, with one use of
// *memory for the caller, NULL with *wrong set where the fd cannot cross; else WAIT or FAIL.
enum wayland_verdict dmabuf_export_fd(
	struct wayland_call *call, struct memory **memory, const char **wrong);
enum wayland_verdict dmabuf_create_params(struct wayland_call *call);
enum wayland_verdict dmabuf_export_add(struct wayland_call *call);
enum wayland_verdict dmabuf_import_add(struct wayland_call *call);
enum wayland_verdict dmabuf_create(struct wayland_call *call);
enum wayland_verdict dmabuf_create_immed(struct wayland_call *call);
enum wayland_verdict dmabuf_created(struct wayland_call *call);
enum wayland_verdict dmabuf_failed(struct wayland_call *call);
// What the compositor's GPU still reads is not released yet, where the guest would write to it.
enum wayland_verdict dmabuf_export_release(struct wayland_call *call);

enum wayland_verdict synchronization_create(struct wayland_call *call);
enum wayland_verdict synchronization_export_fence(struct wayland_call *call);
enum wayland_verdict synchronization_export_release(struct wayland_call *call);

enum wayland_verdict syncobj_get_surface(struct wayland_call *call);
enum wayland_verdict syncobj_import_timeline(struct wayland_call *call);
enum wayland_verdict syncobj_set_acquire_point(struct wayland_call *call);
enum wayland_verdict syncobj_set_release_point(struct wayland_call *call);

enum wayland_verdict drm_device(struct wayland_call *call);
enum wayland_verdict drm_format(struct wayland_call *call);
enum wayland_verdict drm_capabilities(struct wayland_call *call);
enum wayland_verdict drm_authenticate(struct wayland_call *call);
enum wayland_verdict drm_create_named_buffer(struct wayland_call *call);
enum wayland_verdict drm_export_create_prime_buffer(struct wayland_call *call);
enum wayland_verdict drm_import_create_prime_buffer(struct wayland_call *call);

enum wayland_verdict surface_create(struct wayland_call *call);
enum wayland_verdict surface_attach(struct wayland_call *call);
enum wayland_verdict surface_damage(struct wayland_call *call);
enum wayland_verdict surface_damage_buffer(struct wayland_call *call);
enum wayland_verdict surface_set_scale(struct wayland_call *call);
enum wayland_verdict surface_set_transform(struct wayland_call *call);
enum wayland_verdict surface_offset(struct wayland_call *call);
enum wayland_verdict surface_commit(struct wayland_call *call);
enum wayland_verdict surface_get_viewport(struct wayland_call *call);
enum wayland_verdict viewport_set_source(struct wayland_call *call);
enum wayland_verdict viewport_set_destination(struct wayland_call *call);

enum wayland_verdict rectangles_import_add(struct wayland_call *call);
enum wayland_verdict rectangles_import_subtract(struct wayland_call *call);
// Any other request that names a wl_region.
enum wayland_verdict rectangles_import_region_args(struct wayland_call *call);
enum wayland_verdict rectangles_import_opaque(struct wayland_call *call);
enum wayland_verdict rectangles_import_input(struct wayland_call *call);
enum wayland_verdict rectangles_import_damage(struct wayland_call *call);
enum wayland_verdict rectangles_import_attach(struct wayland_call *call);
enum wayland_verdict rectangles_import_commit(struct wayland_call *call);
enum wayland_verdict rectangles_import_subsurface(struct wayland_call *call);
enum wayland_verdict rectangles_import_place(struct wayland_call *call);
enum wayland_verdict rectangles_import_desync(struct wayland_call *call);

enum wayland_verdict offers_import_offer(struct wayland_call *call);
// Of the messages that a source's types were told by; NULL is fine.
uint32_t offers_bytes(const struct object_state *source);
enum wayland_verdict popups_import_create(struct wayland_call *call);
enum wayland_verdict listed_import_create(struct wayland_call *call);

enum wayland_verdict capture_attach(struct wayland_call *call);
enum wayland_verdict capture_export_begin(struct wayland_call *call);
enum wayland_verdict capture_copy(struct wayland_call *call);
enum wayland_verdict capture_export_ready(struct wayland_call *call);
enum wayland_verdict capture_linux_dmabuf(struct wayland_call *call);
enum wayland_verdict capture_dmabuf_device(struct wayland_call *call);
enum wayland_verdict capture_dmabuf_format(struct wayland_call *call);

enum wayland_verdict scanout_create(struct wayland_call *call);
enum wayland_verdict scanout_export_frame(struct wayland_call *call);
enum wayland_verdict scanout_export_object(struct wayland_call *call);
enum wayland_verdict scanout_import_object(struct wayland_call *call);
enum wayland_verdict scanout_export_ready(struct wayland_call *call);
enum wayland_verdict scanout_import_ready(struct wayland_call *call);

enum wayland_verdict times_export_clock_id(struct wayland_call *call);
enum wayland_verdict times_export(struct wayland_call *call);
enum wayland_verdict times_import(struct wayland_call *call);
enum wayland_verdict capture_export_ready_time(struct wayland_call *call);

enum wayland_verdict labels_import_title(struct wayland_call *call);
enum wayland_verdict labels_import_app_id(struct wayland_call *call);
enum wayland_verdict labels_import_icon(struct wayland_call *call);
enum wayland_verdict labels_import_window(struct wayland_call *call);

enum wayland_verdict told_import_window(struct wayland_call *call);
enum wayland_verdict told_import_title(struct wayland_call *call);
enum wayland_verdict told_import_app_id(struct wayland_call *call);
enum wayland_verdict told_import_parent(struct wayland_call *call);
enum wayland_verdict told_import_maximized(struct wayland_call *call);
enum wayland_verdict told_import_fullscreen(struct wayland_call *call);
enum wayland_verdict told_import_minimized(struct wayland_call *call);
enum wayland_verdict told_import_selection(struct wayland_call *call);
enum wayland_verdict told_import_accept(struct wayland_call *call);
enum wayland_verdict told_import_actions(struct wayland_call *call);
enum wayland_verdict told_import_finish(struct wayland_call *call);
enum wayland_verdict told_import_receive(struct wayland_call *call);
// Nothing of what waits is sent any more.
void told_stop(struct wayland *wayland);

// The hook of a request that is imported and that a rule is about; NULL if none is.
wayland_hook_func denied_find(const struct wayland *wayland, const struct wire_op *op);

#endif
