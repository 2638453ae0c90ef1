#include "fdpass/resolver.h"

#include <drm_fourcc.h>
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/log.h"
#include "base/scm.h"
#include "channel/channel.h"
#include "fdpass/kind.h"

#define ANSWER_MS    1000
#define REPLY_MAX    4096 // bytes
#define PACKET_DEPTH 8    // of objects within objects

/*
 * A resource that is not known may be on its way in the GPU's queue, which the message that names it
 * can overtake. So it is asked for again, for a while; but a guest that names some that never come does
 * not make the session wait for each.
 */
#define PATIENCE_MS 500
#define PAUSE_MS    50

struct handle_resolver {
	struct resolver base;
	int socket; // -1: the service is not asked any more
	int patience_ms;
};

enum answer {
	ANSWER_BUFFER,
	ANSWER_INVALID, // the service knows no such resource
	ANSWER_WRONG,
};

static void handle_destroy(struct resolver *resolver)
{
	struct handle_resolver *handle = (struct handle_resolver *)resolver;
	if (handle->socket >= 0) {
		close(handle->socket);
	}
	free(handle);
}

/* ---- what is said ---- */

/* -1, or the length of the request. */
static int print_request(uint32_t resource, char *text, size_t len)
{
	struct json_object *request = json_object_new_object();
	struct json_object *get = json_object_new_object();
	if (request == NULL || get == NULL ||
		json_object_object_add(request, "GetBuffer", get) < 0) {
		json_object_put(get);
		json_object_put(request);
		return -1;
	}
	const char *printed = NULL; // the request has get from here on
	if (json_object_object_add(get, "id", json_object_new_int64(resource)) == 0) {
		printed = json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN);
	}
	int n = printed != NULL ? snprintf(text, len, "%s", printed) : -1;
	json_object_put(request);
	return n;
}

struct json_object *resolver_parse(const char *text, size_t len)
{
	struct json_tokener *tokener = json_tokener_new_ex(PACKET_DEPTH);
	if (tokener == NULL) {
		return NULL;
	}
	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
	struct json_object *value = json_tokener_parse_ex(tokener, text, (int)len);
	if (json_tokener_get_error(tokener) != json_tokener_success ||
		json_tokener_get_parse_end(tokener) != len) {
		json_object_put(value);
		value = NULL;
	}
	json_tokener_free(tokener);
	return value;
}

static bool get_number(const struct json_object *object, const char *name, uint64_t *number)
{
	struct json_object *value;
	if (!json_object_object_get_ex(object, name, &value) ||
		!json_object_is_type(value, json_type_int) || json_object_get_int64(value) < 0) {
		return false;
	}
	*number = json_object_get_uint64(value);
	return true;
}

/* {"Resource":{"Buffer":{"handle":0,"modifier":0,...}}}: the fd that came is number 0 of one. */
static enum answer read_buffer(const struct json_object *reply, uint64_t *modifier)
{
	struct json_object *resource, *buffer;
	uint64_t handle;
	if (!json_object_object_get_ex(reply, "Resource", &resource) ||
		!json_object_object_get_ex(resource, "Buffer", &buffer) ||
		!get_number(buffer, "handle", &handle) || handle != 0 ||
		!get_number(buffer, "modifier", modifier)) {
		return ANSWER_WRONG;
	}
	return ANSWER_BUFFER;
}

static enum answer read_reply(const char *text, size_t len, uint64_t *modifier)
{
	struct json_object *reply = resolver_parse(text, len);
	enum answer answer = ANSWER_WRONG;
	if (json_object_is_type(reply, json_type_object)) {
		answer = read_buffer(reply, modifier);
	} else if (json_object_is_type(reply, json_type_string) &&
		strcmp(json_object_get_string(reply), "Invalid") == 0) {
		answer = ANSWER_INVALID;
	}
	json_object_put(reply);
	return answer;
}

/* ---- the service ---- */

static int left_ms(uint64_t deadline)
{
	uint64_t now = channel_clock();
	return now >= deadline ? 0 : (int)((deadline - now + 999999) / 1000000);
}

/* 0 when the socket is ready; -errno. */
static int wait_for(int socket, short events, uint64_t deadline)
{
	struct pollfd ready = {.fd = socket, .events = events};
	int n;
	do {
		n = poll(&ready, 1, left_ms(deadline));
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n == 0 ? -ETIMEDOUT : 0;
}

static int send_request(int socket, const char *text, size_t len, uint64_t deadline)
{
	struct fdlist none;
	struct iovec iov = {.iov_base = (void *)text, .iov_len = len};
	fdlist_init(&none);
	ssize_t n;
	int error = 0;
	do {
		n = scm_send(socket, &iov, 1, &none, 0);
		error = n == -EAGAIN ? wait_for(socket, POLLOUT, deadline) : 0;
	} while (n == -EAGAIN && error == 0);
	return error < 0 ? error : n < 0 ? (int)n : 0;
}

/* The length of what came, or -errno. */
static int receive_reply(int socket, char *text, size_t len, uint64_t deadline, struct fdlist *fds)
{
	ssize_t n;
	int error = 0;
	do {
		error = wait_for(socket, POLLIN, deadline);
		n = error == 0 ? scm_recv(socket, text, len, fds) : error;
	} while (n == -EAGAIN);
	if (n == 0) {
		return -ECONNRESET;
	}
	return (size_t)n == len ? -EMSGSIZE : (int)n; // what is longer has been cut
}

/* The answer; *fd is the caller's with ANSWER_BUFFER. Or -errno of what became of the service. */
static int ask_once(int socket, uint32_t resource, int *fd, uint64_t *modifier)
{
	char text[REPLY_MAX + 1];
	const uint64_t deadline = channel_clock() + ANSWER_MS * UINT64_C(1000000);
	int len = print_request(resource, text, sizeof(text));
	int error = len < 0 ? -ENOMEM : send_request(socket, text, (size_t)len, deadline);
	if (error < 0) {
		return error;
	}
	struct fdlist fds;
	fdlist_init(&fds);
	int answer = receive_reply(socket, text, sizeof(text), deadline, &fds);
	if (answer >= 0) {
		answer = read_reply(text, (size_t)answer, modifier);
		bool wrong = answer == ANSWER_WRONG || fds.count != (answer == ANSWER_BUFFER);
		answer = wrong ? -EPROTO : answer;
	}
	if (answer == ANSWER_BUFFER) {
		*fd = fdlist_take(&fds);
	}
	fdlist_finish(&fds);
	return answer;
}

/* Who has not answered in time may do so later: what comes then belongs to no question. */
static void give_up(struct handle_resolver *handle, int error)
{
	log_error("the resolver is not asked any more: %s", strerror(-error));
	close(handle->socket);
	handle->socket = -1;
}

static void pause_before_next(const struct handle_resolver *handle, uint64_t end)
{
	struct pollfd gone = {.fd = handle->socket};
	int left = left_ms(end);
	poll(&gone, 1, left < PAUSE_MS ? left : PAUSE_MS); // however long it was
}

static int ask(struct handle_resolver *handle, uint32_t resource, int *fd, uint64_t *modifier)
{
	const uint64_t end = channel_clock() + (uint64_t)handle->patience_ms * 1000000;
	int answer = ask_once(handle->socket, resource, fd, modifier);
	while (answer == ANSWER_INVALID && left_ms(end) > 0) {
		pause_before_next(handle, end);
		answer = ask_once(handle->socket, resource, fd, modifier);
	}
	if (answer < 0) {
		give_up(handle, answer);
		return answer;
	}
	handle->patience_ms = answer == ANSWER_BUFFER ? PATIENCE_MS : handle->patience_ms / 2;
	return answer == ANSWER_BUFFER ? 0 : -ENOENT;
}

/* ---- what it has given ---- */

/* NULL, or why the compositor cannot have it. */
static const char *check_buffer(int fd, uint64_t modifier, uint64_t size, uint64_t *there)
{
	if (fd_kind_of(fd) != FD_KIND_DMABUF) {
		return "it is no dma-buf";
	}
	if (modifier != DRM_FORMAT_MOD_LINEAR) {
		return "it is not linear";
	}
	off_t end = lseek(fd, 0, SEEK_END);
	*there = end < 0 ? 0 : (uint64_t)end;
	return *there < size ? "it is too small" : NULL;
}

static int handle_find(
	struct resolver *resolver, uint32_t resource, uint64_t size, struct resolver_buffer *buffer)
{
	struct handle_resolver *handle = (struct handle_resolver *)resolver;
	uint64_t modifier;
	if (handle->socket < 0) {
		return -ENOTCONN;
	}
	*buffer = (struct resolver_buffer){.fd = -1};
	int error = ask(handle, resource, &buffer->fd, &modifier);
	const char *wrong = error == -ENOENT ? "it is not known" : strerror(-error);
	if (error == 0) {
		wrong = check_buffer(buffer->fd, modifier, size, &buffer->size);
		error = wrong == NULL ? 0 : -EINVAL;
	}
	if (error < 0) {
		log_limited(LOG_ERROR,
			"no buffer of %" PRIu64 " bytes for the GPU's resource %u: %s", size,
			resource, wrong);
		if (buffer->fd >= 0) {
			close(buffer->fd);
		}
	}
	return error;
}

static const struct resolver_interface handle_interface = {
	.name = "handle",
	.find = handle_find,
	.destroy = handle_destroy,
};

struct resolver *resolver_create_handle(int socket)
{
	struct handle_resolver *handle = calloc(1, sizeof(*handle));
	if (handle == NULL) {
		close(socket);
		return NULL;
	}
	handle->base.interface = &handle_interface;
	handle->socket = socket;
	handle->patience_ms = PATIENCE_MS;
	return &handle->base;
}
