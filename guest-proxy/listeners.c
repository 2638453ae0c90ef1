#include "guest-proxy/listeners.h"

#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/notify.h"
#include "guest-proxy/options.h"

void listeners_init(struct listeners *listeners, const struct guest_options *options)
{
	*listeners = (struct listeners){.options = options};
	listener_init(&listeners->display);
}

void listeners_finish(struct listeners *listeners)
{
	const struct services *services = &listeners->options->program.services;
	for (size_t i = 0; i < listeners->count; i++) {
		close(listeners->list[i].fd);
	}
	for (size_t i = 0; i < services->count; i++) {
		if (listeners->bound[i]) {
			transport_unlink(&services->list[i].address);
		}
	}
	listener_finish(&listeners->display);
	listeners_init(listeners, listeners->options);
}

static void push(struct listeners *listeners, int fd, uint32_t service)
{
	listeners->list[listeners->count++] = (struct server_listener){
		.fd = fd,
		.service = service,
	};
}

static bool has_listener(const struct listeners *listeners, uint32_t service)
{
	for (size_t i = 0; i < listeners->count; i++) {
		if (listeners->list[i].service == service) {
			return true;
		}
	}
	return false;
}

// The number that a server_listener has for it, 0 for the display.
static uint32_t number_of(const struct services *services, const char *name)
{
	const struct service *service = services_find(services, name);
	return service != NULL ? (uint32_t)(service - services->list) + 1 : 0;
}

static bool adopt_display(struct listeners *listeners, int fd)
{
	char error[512];
	if (!listener_adopt(&listeners->display, fd, error, sizeof(error))) {
		log_error("%s", error);
		return false;
	}
	if (listeners->options->display != NULL) {
		log_error("the service manager names the display: there is no choosing one");
		return false;
	}
	push(listeners, listener_take_fd(&listeners->display), 0);
	return true;
}

// Takes its fd.
static bool adopt(struct listeners *listeners, const struct notify_listener *passed)
{
	uint32_t service = number_of(&listeners->options->program.services, passed->name);
	if (has_listener(listeners, service)) {
		log_error("the service manager has passed a second socket for %s: '%s'",
			service > 0 ? "a service" : "the display", passed->name);
		close(passed->fd);
		return false;
	}
	if (service == 0) {
		return adopt_display(listeners, passed->fd);
	}
	push(listeners, passed->fd, service);
	return true;
}

static bool adopt_all(struct listeners *listeners)
{
	struct notify_listener passed[SERVER_MAX_LISTENERS];
	int count = notify_take_listeners(passed, SERVER_MAX_LISTENERS);
	bool ok = count >= 0;
	for (int i = 0; i < count; i++) {
		if (ok) {
			ok = adopt(listeners, &passed[i]);
		} else {
			close(passed[i].fd);
		}
	}
	return ok;
}

static bool open_display(struct listeners *listeners)
{
	char error[512];
	if (!listener_open(
		    &listeners->display, listeners->options->display, error, sizeof(error))) {
		log_error("%s", error);
		return false;
	}
	push(listeners, listener_take_fd(&listeners->display), 0);
	return true;
}

static bool open_service(struct listeners *listeners, size_t index)
{
	const struct service *service = &listeners->options->program.services.list[index];
	int fd = transport_listen(&service->address);
	if (fd < 0) {
		log_error("cannot listen for the service %s at %s: %s", service->name,
			service->address.path, strerror(-fd));
		return false;
	}
	listeners->bound[index] = true;
	push(listeners, fd, (uint32_t)index + 1);
	return true;
}

bool listeners_open(struct listeners *listeners)
{
	const struct services *services = &listeners->options->program.services;
	if (!adopt_all(listeners)) {
		return false;
	}
	if (guest_options_serve_wayland(listeners->options) && !has_listener(listeners, 0) &&
		!open_display(listeners)) {
		return false;
	}
	for (size_t i = 0; i < services->count; i++) {
		if (!has_listener(listeners, (uint32_t)i + 1) && !open_service(listeners, i)) {
			return false;
		}
	}
	return true;
}
