#include <string.h>

#include "base/log.h"
#include "fdpass/fdref.h"
#include "fdpass/region.h"
#include "relay/crossing.h"
#include "relay/dmabuf.h"
#include "relay/hooks.h"
#include "relay/synchronization.h"
#include "relay/syncobj.h"

#define MESSAGES_PER_REGISTRY 32 // of the rate; as many globals, or more, are told of
#define MESSAGES_PER_BIND     32 // of an old linux-dmabuf, some hundred pairs are

/* A global that the client has been told of. */
struct registry_global {
	uint32_t name;
	uint32_t version; // 0: what has the name now is hidden
	const struct wire_interface *interface;
};

/* Also one that is hidden. */
static struct registry_global *find(struct wayland *wayland, uint32_t name)
{
	struct registry_global *global;
	wl_array_for_each (global, &wayland->globals) {
		if (global->name == name) {
			return global;
		}
	}
	return NULL;
}

static bool is_offered(const struct registry_global *global)
{
	return global != NULL && global->version > 0;
}

/* What can cross in principle may need what this session has not. */
static uint32_t possible_version(const struct wayland *wayland, const char *name, uint32_t version)
{
	if (strcmp(name, DMABUF_GLOBAL) == 0) {
		return dmabuf_version(wayland, version);
	}
	if (strcmp(name, SYNCHRONIZATION_GLOBAL) == 0) {
		return synchronization_version(wayland, version);
	}
	if (strcmp(name, SYNCOBJ_GLOBAL) == 0) {
		return syncobj_version(wayland, version);
	}
	if (strcmp(name, SCANOUT_GLOBAL) == 0) {
		return scanout_possible(wayland) ? version : 0;
	}
	return strcmp(name, DRM_GLOBAL) == 0 ? drm_version(wayland, version) : version;
}

/* The version to tell the client, 0 for a global that stays hidden. */
static uint32_t offered_version(struct wayland *wayland, const char *name, uint32_t version)
{
	switch (crossing_of_global(name, &version)) {
	case CROSSING_UNKNOWN:
		log_info("hides %s: no protocol file describes it (--protocol)", name);
		return 0;
	case CROSSING_IMPOSSIBLE:
		log_debug("hides %s: its fds cannot cross", name);
		return 0;
	case CROSSING_POSSIBLE:
		version = possible_version(wayland, name, version);
		break;
	}
	if (version == 0) {
		log_debug("hides %s: this session cannot carry it", name);
		return 0;
	}
	if (wayland->options.offer_global == NULL) {
		return version;
	}
	uint32_t offered =
		wayland->options.offer_global(wayland->options.policy_data, name, version);
	if (offered == 0) {
		log_debug("hides %s: not allowed (--allow)", name);
	}
	return offered < version ? offered : version;
}

/* Nothing else that is so short makes a compositor say so much. */
static enum wayland_verdict charge_answers(struct wayland_call *call, uint64_t messages)
{
	return budget_messages(call->wayland->options.refs->budget, messages)
		? WAYLAND_FORWARD
		: wayland_fail(
			  call, WAYLAND_ERROR_NO_MEMORY, "more messages than the session may send");
}

/* wl_display.get_registry(id) */
enum wayland_verdict registry_import_create(struct wayland_call *call)
{
	return charge_answers(call, MESSAGES_PER_REGISTRY);
}

/* Compositors may give the name of a global that is gone to another one. NULL is fine. */
static void hide(struct registry_global *global)
{
	if (global != NULL) {
		global->version = 0;
	}
}

/* wl_registry.global(name, interface, version) */
enum wayland_verdict registry_global(struct wayland_call *call)
{
	struct wayland *wayland = call->wayland;
	struct wire_arg *args = call->message.args;
	uint32_t version = offered_version(wayland, args[1].string, args[2].value);
	struct registry_global *global = find(wayland, args[0].value);
	if (version == 0) {
		hide(global);
		return WAYLAND_DROP;
	}
	*args[2].word = version;
	if (global == NULL) {
		global = wl_array_add(&wayland->globals, sizeof(*global));
	}
	if (global == NULL) {
		return wayland_fail_no_memory(call);
	}
	global->name = args[0].value;
	global->version = version;
	global->interface = wire_schema_find(args[1].string);
	return WAYLAND_FORWARD;
}

/* The entry stays: a bind may cross with the removal, and the compositor knows what to do. */
enum wayland_verdict registry_global_remove(struct wayland_call *call)
{
	const struct registry_global *global = find(call->wayland, call->message.args[0].value);
	return is_offered(global) ? WAYLAND_FORWARD : WAYLAND_DROP;
}

/* wl_registry.bind(name, id of any interface) */
enum wayland_verdict registry_bind(struct wayland_call *call)
{
	const struct wire_arg *args = call->message.args;
	const struct registry_global *global = find(call->wayland, args[0].value);
	if (!is_offered(global)) {
		return wayland_fail(
			call, WAYLAND_ERROR_INVALID_OBJECT, "a global that was never offered");
	}
	if (strcmp(global->interface->name, args[1].string) != 0) {
		return wayland_fail(
			call, WAYLAND_ERROR_INVALID_OBJECT, "a global of another interface");
	}
	if (args[1].version == 0 || args[1].version > global->version) {
		return wayland_fail(
			call, WAYLAND_ERROR_INVALID_OBJECT, "a version that was never offered");
	}
	return WAYLAND_FORWARD;
}

enum wayland_verdict registry_import_bind(struct wayland_call *call)
{
	enum wayland_verdict verdict = registry_bind(call);
	return verdict == WAYLAND_FORWARD ? charge_answers(call, MESSAGES_PER_BIND) : verdict;
}

enum wayland_verdict display_delete_id(struct wayland_call *call)
{
	uint32_t id = call->message.args[0].value;
	if (objects_remove_former(&call->wayland->objects, id)) {
		// Of a pool that has been replaced, which the guest knows and its client does not (shm.c).
		return call->wayland->options.exports == WIRE_REQUEST ? WAYLAND_DROP
								      : WAYLAND_FORWARD;
	}
	objects_remove(&call->wayland->objects, id);
	region_let_go(call->wayland->options.refs->region, id);
	return WAYLAND_FORWARD;
}

enum wayland_verdict display_error(struct wayland_call *call)
{
	call->wayland->error_seen = true;
	log_limited(LOG_INFO, "the compositor says: object %u: %s", call->message.args[0].value,
		call->message.args[2].string);
	return WAYLAND_FORWARD;
}
