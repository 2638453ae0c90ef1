#include "tests/bench/compositor/compositor.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "xdg-shell-server-protocol.h"

void shell_send_configure(struct surface *surface)
{
	if (surface->toplevel == NULL || surface->xdg_surface == NULL) {
		return;
	}
	struct wl_array states;
	wl_array_init(&states);
	xdg_toplevel_send_configure(
		surface->toplevel, surface->verified, surface->mismatched, &states);
	wl_array_release(&states);
	struct wl_client *client = wl_resource_get_client(surface->toplevel);
	uint32_t serial = wl_display_next_serial(wl_client_get_display(client));
	xdg_surface_send_configure(surface->xdg_surface, serial);
}

void shell_forget(struct surface *surface)
{
	if (surface->toplevel != NULL) {
		wl_resource_set_user_data(surface->toplevel, NULL);
	}
	if (surface->xdg_surface != NULL) {
		wl_resource_set_user_data(surface->xdg_surface, NULL);
	}
}

static void handle_set_title(struct wl_resource *resource, const union wl_argument *args)
{
	struct surface *surface = wl_resource_get_user_data(resource);
	const char *title = strstr(args[0].s, "sum "); // a proxy may put a prefix before it
	if (surface != NULL && title != NULL &&
		sscanf(title, "sum %16" SCNx64, &surface->sum) == 1) {
		surface->check = true;
	}
}

static const struct requests toplevel_requests = {
	.handlers =
		{
			[OPCODE(xdg_toplevel, destroy)] = request_destroy,
			[OPCODE(xdg_toplevel, set_title)] = handle_set_title,
		},
};

static void handle_toplevel_destroy(struct wl_resource *resource)
{
	struct surface *surface = wl_resource_get_user_data(resource);
	if (surface != NULL) {
		surface->toplevel = NULL;
	}
}

static void handle_get_toplevel(struct wl_resource *resource, const union wl_argument *args)
{
	struct surface *surface = wl_resource_get_user_data(resource);
	struct wl_resource *toplevel = request_resource_create(wl_resource_get_client(resource),
		&xdg_toplevel_interface, wl_resource_get_version(resource), args[0].n,
		&toplevel_requests, surface, handle_toplevel_destroy);
	if (surface != NULL && toplevel != NULL) {
		surface->toplevel = toplevel;
		shell_send_configure(surface);
	}
}

static const struct requests popup_requests = {
	.handlers = {[OPCODE(xdg_popup, destroy)] = request_destroy},
};

static void handle_get_popup(struct wl_resource *resource, const union wl_argument *args)
{
	request_resource_create(wl_resource_get_client(resource), &xdg_popup_interface,
		wl_resource_get_version(resource), args[0].n, &popup_requests, NULL, NULL);
}

static const struct requests xdg_surface_requests = {
	.handlers =
		{
			[OPCODE(xdg_surface, destroy)] = request_destroy,
			[OPCODE(xdg_surface, get_toplevel)] = handle_get_toplevel,
			[OPCODE(xdg_surface, get_popup)] = handle_get_popup,
		},
};

static void handle_xdg_surface_destroy(struct wl_resource *resource)
{
	struct surface *surface = wl_resource_get_user_data(resource);
	if (surface != NULL) {
		surface->xdg_surface = NULL;
	}
}

static void handle_get_xdg_surface(struct wl_resource *resource, const union wl_argument *args)
{
	struct surface *surface = wl_resource_get_user_data(request_object(&args[1]));
	struct wl_resource *xdg_surface = request_resource_create(wl_resource_get_client(resource),
		&xdg_surface_interface, wl_resource_get_version(resource), args[0].n,
		&xdg_surface_requests, surface, handle_xdg_surface_destroy);
	if (xdg_surface != NULL) {
		surface->xdg_surface = xdg_surface;
	}
}

static const struct requests positioner_requests = {
	.handlers = {[OPCODE(xdg_positioner, destroy)] = request_destroy},
};

static void handle_create_positioner(struct wl_resource *resource, const union wl_argument *args)
{
	request_resource_create(wl_resource_get_client(resource), &xdg_positioner_interface,
		wl_resource_get_version(resource), args[0].n, &positioner_requests, NULL, NULL);
}

static const struct requests wm_base_requests = {
	.handlers =
		{
			[OPCODE(xdg_wm_base, destroy)] = request_destroy,
			[OPCODE(xdg_wm_base, create_positioner)] = handle_create_positioner,
			[OPCODE(xdg_wm_base, get_xdg_surface)] = handle_get_xdg_surface,
		},
};

static void bind_wm_base(struct wl_client *client, void *data, uint32_t version, uint32_t id)
{
	request_resource_create(
		client, &xdg_wm_base_interface, (int)version, id, &wm_base_requests, data, NULL);
}

void shell_create_global(struct wl_display *display)
{
	wl_global_create(display, &xdg_wm_base_interface, 2, NULL, bind_wm_base);
}
