#include "host-proxy/resolver_service.h"

#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wayland-util.h>

#include "base/acceptor.h"
#include "base/fdlist.h"
#include "base/log.h"
#include "base/scm.h"
#include "fdpass/resolver.h"
#include "host-proxy/admission.h"
#include "host-proxy/gpu_resources.h"

#define REQUEST_MAX 1024 // bytes
#define PLANES      4

struct client {
	struct wl_list link; // resolver_service.clients
	struct resolver_service *service;
	int fd;
	struct event *readable;
};

struct resolver_service {
	struct resolver_service_config config;
	struct acceptor *acceptor;
	struct wl_list clients; // client.link
	unsigned int n_clients;
};

/* ---- what is said ---- */

// {"GetBuffer":{"id":7}}
static bool read_request(const char *text, size_t len, uint32_t *id)
{
	struct json_object *request = len <= REQUEST_MAX ? resolver_parse(text, len) : NULL;
	struct json_object *get, *number;
	bool ok = json_object_object_get_ex(request, "GetBuffer", &get) &&
		json_object_object_get_ex(get, "id", &number) &&
		json_object_is_type(number, json_type_int) && json_object_get_int64(number) >= 0 &&
		json_object_get_int64(number) <= UINT32_MAX;
	if (ok) {
		*id = (uint32_t)json_object_get_int64(number);
	}
	json_object_put(request);
	return ok;
}

// Takes value, also on failure.
static bool add(struct json_object *object, const char *name, struct json_object *value)
{
	if (object != NULL && value != NULL && json_object_object_add(object, name, value) == 0) {
		return true;
	}
	json_object_put(value);
	return false;
}

static struct json_object *make_plane(uint32_t stride)
{
	struct json_object *plane = json_object_new_object();
	if (!add(plane, "offset", json_object_new_int64(0)) ||
		!add(plane, "stride", json_object_new_int64(stride))) {
		json_object_put(plane);
		return NULL;
	}
	return plane;
}

static struct json_object *make_planes(const struct gpu_buffer *buffer)
{
	struct json_object *planes = json_object_new_array();
	for (int i = 0; planes != NULL && i < PLANES; i++) {
		struct json_object *plane = make_plane(i == 0 ? buffer->stride : 0);
		if (plane == NULL || json_object_array_add(planes, plane) < 0) {
			json_object_put(plane);
			json_object_put(planes);
			return NULL;
		}
	}
	return planes;
}

// NULL: out of memory.
static struct json_object *make_reply(const struct gpu_buffer *buffer)
{
	struct json_object *body = json_object_new_object();
	struct json_object *resource = json_object_new_object();
	struct json_object *reply = json_object_new_object();
	bool ok = add(body, "handle", json_object_new_int64(0)) &&
		add(body, "planes", make_planes(buffer)) &&
		add(body, "modifier", json_object_new_int64(0)) &&
		add(body, "guest_cpu_mappable", json_object_new_boolean(true));
	ok = add(resource, "Buffer", body) && ok;
	ok = add(reply, "Resource", resource) && ok;
	if (!ok) {
		json_object_put(reply);
		return NULL;
	}
	return reply;
}

/* ---- who asks ---- */

static void destroy_client(struct client *client)
{
	if (client->readable != NULL) {
		event_free(client->readable);
	}
	close(client->fd);
	wl_list_remove(&client->link);
	client->service->n_clients--;
	free(client);
}

static bool send_text(const struct client *client, const char *text, const struct fdlist *fds)
{
	const struct iovec iov = {.iov_base = (void *)text, .iov_len = strlen(text)};
	return scm_send(client->fd, &iov, 1, fds, fds->count) > 0;
}

static bool send_buffer(const struct client *client, const struct gpu_buffer *buffer)
{
	struct json_object *reply = make_reply(buffer);
	if (reply == NULL) {
		return false;
	}
	int fd = buffer->fd;
	const struct fdlist fds = {.fds = &fd, .count = 1};
	const char *text = json_object_to_json_string_ext(reply, JSON_C_TO_STRING_PLAIN);
	bool sent = text != NULL && send_text(client, text, &fds);
	json_object_put(reply);
	return sent;
}

// False: it does not read what it asked for.
static bool answer(const struct client *client, const char *text, size_t len)
{
	const struct resolver_service_config *config = &client->service->config;
	const struct fdlist none = {0};
	struct gpu_buffer buffer;
	uint32_t id;
	if (!read_request(text, len, &id)) {
		log_limited(LOG_WARN, "resolver: a request that is not understood");
		return send_text(client, "\"Invalid\"", &none);
	}
	const char *wrong = config->get_buffer(config->data, id, &buffer);
	if (wrong != NULL) {
		log_limited(LOG_INFO, "resolver: resource %" PRIu32 ": %s", id, wrong);
		return send_text(client, "\"Invalid\"", &none);
	}
	return send_buffer(client, &buffer);
}

static void handle_readable(evutil_socket_t fd, short what, void *data)
{
	(void)what;
	struct client *client = data;
	char request[REQUEST_MAX + 1]; // one that fills it was too long
	struct fdlist fds;
	fdlist_init(&fds);
	ssize_t n = scm_recv_none(fd, request, sizeof(request), &fds); // closing them could wait
	fdlist_finish(&fds);
	if (n != -EAGAIN && (n <= 0 || !answer(client, request, (size_t)n))) {
		destroy_client(client);
	}
}

// Takes fd.
static void add_client(struct resolver_service *service, int fd)
{
	struct client *client = calloc(1, sizeof(*client));
	if (client == NULL) {
		log_limited(LOG_ERROR, "resolver: out of memory");
		close(fd);
		return;
	}
	client->service = service;
	client->fd = fd;
	wl_list_insert(&service->clients, &client->link);
	service->n_clients++;
	client->readable =
		event_new(service->config.base, fd, EV_READ | EV_PERSIST, handle_readable, client);
	if (client->readable == NULL || event_add(client->readable, NULL) < 0) {
		log_limited(LOG_ERROR, "resolver: out of memory");
		destroy_client(client);
	}
}

static void handle_connected(void *data, int fd)
{
	struct resolver_service *service = data;
	if (service->n_clients == RESOLVER_CLIENTS_MAX) {
		log_limited(LOG_WARN, "resolver: too many ask (%d)", RESOLVER_CLIENTS_MAX);
		close(fd);
	} else if (!admission_check_user(service->config.admission, fd)) {
		close(fd);
	} else {
		add_client(service, fd);
	}
}

struct resolver_service *resolver_service_create(const struct resolver_service_config *config)
{
	struct resolver_service *service = calloc(1, sizeof(*service));
	if (service == NULL) {
		close(config->listen_fd);
		return NULL;
	}
	service->config = *config;
	wl_list_init(&service->clients);
	service->acceptor =
		acceptor_create(config->base, config->listen_fd, handle_connected, service);
	if (service->acceptor == NULL) {
		int saved = errno;
		free(service);
		errno = saved;
		return NULL;
	}
	return service;
}

void resolver_service_destroy(struct resolver_service *service)
{
	if (service == NULL) {
		return;
	}
	acceptor_destroy(service->acceptor);
	struct client *client, *next;
	wl_list_for_each_safe (client, next, &service->clients, link) {
		destroy_client(client);
	}
	free(service);
}
