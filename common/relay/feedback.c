#include <drm_fourcc.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/budget.h"
#include "fdpass/dmabuf.h"
#include "fdpass/fdref.h"
#include "fdpass/file.h"
#include "relay/dmabuf.h"
#include "relay/format.h"
#include "relay/hooks.h"

/*
 * What linux-dmabuf's clients are told that they may make. Both sides take away what they cannot
 * carry: the host what is not linear or of an unknown format, and its own devices' numbers; the
 * guest what its device would not make linear, and it puts its device's number in.
 *
 * From version 4 on this is told by feedback objects: a table of pairs, and tranches that name
 * entries of it. As all of them are for one device in the end, a pair is named only once, and a
 * tranche that has nothing left is not told.
 */

#define VERSION_MAX       5 // of which all is known
#define MODIFIERS_VERSION 3 // clients are told of modifiers
#define NO_DEVICE_VERSION 3 // and not yet of devices

// zwp_linux_dmabuf_feedback_v1
enum feedback_event {
	EVENT_TRANCHE_TARGET_DEVICE = 4,
	EVENT_TRANCHE_FORMATS = 5,
	EVENT_TRANCHE_FLAGS = 6,
};

// An entry of the table, as the protocol has it.
struct pair {
	uint32_t format;
	uint32_t padding;
	uint64_t modifier;
};

#define MAX_PAIRS 65536 // an index has 16 bits
#define NOT_TOLD  UINT16_MAX

// Of what is kept of a table: an index, and two more in lists that may be twice as large as they must.
#define BYTES_PER_PAIR (5 * sizeof(uint16_t))

struct feedback {
	struct object_state state;
	uint16_t *indices; // by the index that came: that which goes on, or NOT_TOLD
	size_t n_indices;
	struct wl_array tranche; // uint16_t: indices that go on with tranche_done
	struct wl_array told;    // uint16_t: in any tranche since the last done
	struct charge *charge;   // of these three; NULL: there is no table yet
};

static bool is_host(const struct wayland *wayland)
{
	return wayland->options.exports == WIRE_EVENT;
}

uint32_t dmabuf_version(const struct wayland *wayland, uint32_t version)
{
	uint32_t most = VERSION_MAX;
	if (!is_host(wayland) && wayland->options.device.number == 0) {
		// There are clients that abort where a device does not exist.
		most = NO_DEVICE_VERSION;
	}
	if (version < MODIFIERS_VERSION || !dmabuf_possible(wayland->options.refs)) {
		return 0;
	}
	return version < most ? version : most;
}

bool dmabuf_offers(const struct wayland *wayland, uint32_t format, uint64_t modifier)
{
	if (format_find(format) == NULL) {
		return false;
	}
	return modifier == DRM_FORMAT_MOD_LINEAR ||
		(modifier == DRM_FORMAT_MOD_INVALID &&
			(is_host(wayland) || wayland->options.device.implicit_linear));
}

/* ---- up to version 3 ---- */

/* zwp_linux_dmabuf_v1.format(format) */
enum wayland_verdict feedback_format(struct wayland_call *call)
{
	uint32_t format = call->message.args[0].value;
	return dmabuf_offers(call->wayland, format, DRM_FORMAT_MOD_INVALID) ? WAYLAND_FORWARD
									    : WAYLAND_DROP;
}

/* zwp_linux_dmabuf_v1.modifier(format, modifier_hi, modifier_lo) */
enum wayland_verdict feedback_modifier(struct wayland_call *call)
{
	const struct wire_arg *args = call->message.args;
	uint64_t modifier = (uint64_t)args[1].value << 32 | args[2].value;
	return dmabuf_offers(call->wayland, args[0].value, modifier) ? WAYLAND_FORWARD
								     : WAYLAND_DROP;
}

/* ---- the table ---- */

static void destroy_feedback(struct object_state *state)
{
	struct feedback *feedback = (struct feedback *)state;
	wl_array_release(&feedback->tranche);
	wl_array_release(&feedback->told);
	free(feedback->indices);
	charge_unref(feedback->charge);
	free(feedback);
}

/* zwp_linux_dmabuf_v1.get_default_feedback(id), get_surface_feedback(id, surface) */
enum wayland_verdict feedback_create(struct wayland_call *call)
{
	struct feedback *feedback = calloc(1, sizeof(*feedback));
	if (feedback == NULL) {
		return wayland_fail_no_memory(call);
	}
	feedback->state.destroy = destroy_feedback;
	wl_array_init(&feedback->tranche);
	wl_array_init(&feedback->told);
	wayland_new_object(call, 0)->state = &feedback->state;
	return WAYLAND_FORWARD;
}

/* How many there are in the file, at most as many as pairs has room for. */
static size_t read_pairs(int fd, struct pair *pairs, size_t max)
{
	size_t done = 0, size = max * sizeof(*pairs);
	while (done < size) {
		ssize_t n = pread(fd, (uint8_t *)pairs + done, size - done, (off_t)done);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n <= 0) {
			break;
		}
		done += (size_t)n;
	}
	return done / sizeof(*pairs);
}

/* Where it is among the n pairs; n if it is not. */
static size_t find_pair(const struct pair *pairs, size_t n, const struct pair *pair)
{
	size_t i = 0;
	while (i < n && (pairs[i].format != pair->format || pairs[i].modifier != pair->modifier)) {
		i++;
	}
	return i;
}

/*
 * Leaves only what goes on in pairs, and notes in indices what has become of each. On import the
 * table has gone through this already, and stays as it is: an entry is told or not.
 */
static size_t reduce(struct wayland_call *call, struct pair *pairs, size_t n, uint16_t *indices)
{
	size_t left = 0;
	for (size_t i = 0; i < n; i++) {
		if (!dmabuf_offers(call->wayland, pairs[i].format, pairs[i].modifier)) {
			indices[i] = NOT_TOLD;
			continue;
		}
		if (!is_host(call->wayland)) {
			indices[i] = (uint16_t)i;
			continue;
		}
		const struct pair pair = {.format = pairs[i].format, .modifier = pairs[i].modifier};
		size_t index = find_pair(pairs, left, &pair);
		if (index == left) {
			pairs[left++] = pair;
		}
		indices[i] = (uint16_t)index;
	}
	return left;
}

/* For n pairs: there are as many of these objects as the client likes. */
static bool charge_table(struct wayland_call *call, struct feedback *feedback, size_t n)
{
	struct budget *budget = call->wayland->options.refs->budget;
	if (feedback->charge == NULL) {
		feedback->charge = charge_create(budget, 0);
	}
	return feedback->charge != NULL && charge_grow(feedback->charge, n * BYTES_PER_PAIR);
}

/* Takes in the table of fd, which is borrowed. pairs has room for it, and is what is left then. */
static bool take_table(struct wayland_call *call, int fd, struct pair **pairs, size_t *n)
{
	struct feedback *feedback = (struct feedback *)call->object->state;
	size_t size = call->message.args[1].value / sizeof(**pairs);
	size = size < MAX_PAIRS ? size : MAX_PAIRS;
	if (!charge_table(call, feedback, size)) {
		return false;
	}
	uint16_t *indices = calloc(size + 1, sizeof(*indices));
	*pairs = calloc(size + 1, sizeof(**pairs));
	if (indices == NULL || *pairs == NULL) {
		free(indices);
		free(*pairs);
		return false;
	}
	size = read_pairs(fd, *pairs, size);
	*n = reduce(call, *pairs, size, indices);
	free(feedback->indices);
	feedback->indices = indices;
	feedback->n_indices = size;
	return true;
}

/* A file that nobody can change; -errno. */
static int make_table(const struct pair *pairs, size_t n)
{
	size_t size = n * sizeof(*pairs);
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
	int fd = memfd_create("fdferry-formats", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0) {
		return -errno;
	}
	ssize_t written = write(fd, pairs, size);
	if (written != (ssize_t)size || fcntl(fd, F_ADD_SEALS, seals) < 0) {
		int error = written < 0 ? -errno : -ENOSPC;
		close(fd);
		return error;
	}
	return fd;
}

/* zwp_linux_dmabuf_feedback_v1.format_table(fd, size) */
enum wayland_verdict feedback_export_format_table(struct wayland_call *call)
{
	struct pair *pairs = NULL;
	size_t n = 0;
	const char *wrong = "out of memory";
	int fd = wayland_take_fd(call);
	if (fd < 0) {
		return WAYLAND_FAIL;
	}
	// A client that has destroyed the object does not look at it.
	if (call->object->state != NULL && !take_table(call, fd, &pairs, &n)) {
		close(fd);
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, wrong);
	}
	close(fd);
	fd = make_table(pairs, n);
	free(pairs);
	uint32_t id = fd < 0 ? 0 : file_export(call->wayland->options.refs, fd, &wrong);
	if (id == 0) {
		return wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION, wrong);
	}
	call->refs[call->n_refs++] = id;
	*call->message.args[1].word = (uint32_t)(n * sizeof(*pairs));
	return WAYLAND_FORWARD;
}

enum wayland_verdict feedback_import_format_table(struct wayland_call *call)
{
	struct pair *pairs;
	size_t n;
	if (call->object->state == NULL) {
		return WAYLAND_FORWARD;
	}
	int fd = fdrefs_get_fd(call->wayland->options.refs, call->refs[0]);
	if (fd < 0) {
		return wayland_fail(
			call, WAYLAND_ERROR_IMPLEMENTATION, "its fd cannot be made here");
	}
	bool ok = take_table(call, fd, &pairs, &n);
	close(fd);
	if (!ok) {
		return wayland_fail_no_memory(call);
	}
	free(pairs);
	return WAYLAND_FORWARD;
}

/* ---- devices and tranches ---- */

/* The number that the other side is told: on the channel there are none. */
static bool encode_device(struct wayland_call *call, uint32_t event)
{
	struct wl_array *out = call->replacement;
	const uint64_t number = is_host(call->wayland) ? 0 : call->wayland->options.device.number;
	size_t start = out->size;
	return wire_encode_begin(out, call->message.header.object, event) &&
		wire_encode_array(out, &number, sizeof(number)) && wire_encode_end(out, start);
}

static enum wayland_verdict replace(struct wayland_call *call, bool encoded)
{
	return encoded ? WAYLAND_REPLACE : wayland_fail_no_memory(call);
}

/* zwp_linux_dmabuf_feedback_v1.main_device(device), and the like of captures */
enum wayland_verdict feedback_device(struct wayland_call *call)
{
	return replace(call, encode_device(call, call->message.header.opcode));
}

/* tranche_target_device(device), tranche_flags(flags): told with tranche_done, if at all */
enum wayland_verdict feedback_tranche_detail(struct wayland_call *call)
{
	(void)call;
	return WAYLAND_DROP;
}

static bool contains(const struct wl_array *indices, uint16_t index)
{
	const uint16_t *other;
	wl_array_for_each (other, indices) {
		if (*other == index) {
			return true;
		}
	}
	return false;
}

static bool append(struct wl_array *indices, uint16_t index)
{
	uint16_t *added = wl_array_add(indices, sizeof(*added));
	if (added == NULL) {
		return false;
	}
	*added = index;
	return true;
}

/* zwp_linux_dmabuf_feedback_v1.tranche_formats(indices) */
enum wayland_verdict feedback_tranche_formats(struct wayland_call *call)
{
	struct feedback *feedback = (struct feedback *)call->object->state;
	const struct wire_arg *arg = &call->message.args[0];
	const uint8_t *bytes = (const uint8_t *)(arg->word + 1);
	for (size_t at = 0; feedback != NULL && at + 2 <= arg->length; at += 2) {
		uint16_t index;
		memcpy(&index, bytes + at, sizeof(index));
		index = index < feedback->n_indices ? feedback->indices[index] : NOT_TOLD;
		if (index == NOT_TOLD || contains(&feedback->told, index)) {
			continue;
		}
		if (!append(&feedback->tranche, index) || !append(&feedback->told, index)) {
			return wayland_fail_no_memory(call);
		}
	}
	return WAYLAND_DROP;
}

/* Without the flag for scanning out: what is shown is a copy. */
static bool encode_tranche(struct wayland_call *call, const struct wl_array *indices)
{
	struct wl_array *out = call->replacement;
	uint32_t id = call->message.header.object;
	bool ok = encode_device(call, EVENT_TRANCHE_TARGET_DEVICE);
	size_t start = out->size;
	ok = ok && wire_encode_begin(out, id, EVENT_TRANCHE_FLAGS) && wire_encode_uint(out, 0) &&
		wire_encode_end(out, start);
	start = out->size;
	ok = ok && wire_encode_begin(out, id, EVENT_TRANCHE_FORMATS) &&
		wire_encode_array(out, indices->data, indices->size) && wire_encode_end(out, start);
	start = out->size;
	return ok && wire_encode_begin(out, id, call->message.header.opcode) &&
		wire_encode_end(out, start);
}

/* zwp_linux_dmabuf_feedback_v1.tranche_done() */
enum wayland_verdict feedback_tranche_done(struct wayland_call *call)
{
	struct feedback *feedback = (struct feedback *)call->object->state;
	if (feedback == NULL || feedback->tranche.size == 0) {
		return WAYLAND_DROP;
	}
	enum wayland_verdict verdict = replace(call, encode_tranche(call, &feedback->tranche));
	feedback->tranche.size = 0;
	return verdict;
}

/* zwp_linux_dmabuf_feedback_v1.done() */
enum wayland_verdict feedback_done(struct wayland_call *call)
{
	struct feedback *feedback = (struct feedback *)call->object->state;
	if (feedback != NULL) {
		feedback->tranche.size = feedback->told.size = 0;
	}
	return WAYLAND_FORWARD;
}
