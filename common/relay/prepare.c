#include "relay/session.h"

#include <event2/event.h>
#include <malloc.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fdpass/content.h"
#include "protocol/channel.h"
#include "relay/crossing.h"
#include "relay/handshake.h"
#include "relay/hooks.h"

static void ignore_end(void *data, const char *reason)
{
	(void)data;
	(void)reason;
}

/* Messages come to a session by its local socket if it exports them, else by the channel. */
static void feed(enum wire_direction exports, enum wire_direction direction, const int fds[2],
	const uint32_t *words, size_t size)
{
	struct channel_header header = {.type = CHANNEL_MESSAGES, .length = (uint32_t)size};
	if (direction != exports) {
		send(fds[1], &header, sizeof(header), MSG_NOSIGNAL);
	}
	send(fds[direction != exports], words, size, MSG_NOSIGNAL);
}

/*
 * A session with nobody at its ends, which a client enters and leaves: the memory and code that it
 * touches are there for the real one. A process is slowest when it does everything for the first
 * time.
 */
static void rehearse(
	enum wire_direction exports, struct event_base *base, int local[2], int channel[2])
{
	// wl_display.get_registry(2), sync(3); wl_registry.global(1, "wl_shm", 1), wl_callback.done
	static const uint32_t requests[] = {1, 12 << 16 | 1, 2, 1, 12 << 16, 3};
	static const uint32_t events[] = {
		2, 28 << 16, 1, 7, 0x735f6c77, 0x00006d68, 1, 3, 12 << 16, 0};
	const int outside[] = {local[1], channel[1]};
	struct budget budget = {
		.limits.most = {[BUDGET_FDS] = 16, [BUDGET_OBJECTS] = 16},
	};
	struct session_options options = {
		.base = base,
		.exports = exports,
		.local_fd = local[0],
		.channel_fd = channel[0],
		.budget = &budget,
		.ended = ignore_end,
	};
	struct session *session = session_create(&options);
	if (session != NULL) {
		feed(exports, WIRE_REQUEST, outside, requests, sizeof(requests));
		event_base_loop(base, EVLOOP_NONBLOCK);
		feed(exports, WIRE_EVENT, outside, events, sizeof(events));
		event_base_loop(base, EVLOOP_NONBLOCK);
	}
	session_destroy(session);
}

static void rehearse_with_sockets(enum wire_direction exports)
{
	int local[2], channel[2];
	struct event_base *base = event_base_new();
	if (base == NULL) {
		return;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, local) == 0) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) == 0) {
			rehearse(exports, base, local, channel);
			close(channel[1]);
		} else {
			close(local[0]);
		}
		close(local[1]);
	}
	event_base_free(base);
}

void session_prepare(enum wire_direction exports)
{
	// What most compositors offer and most clients use.
	static const char *const usual[] = {
		"wl_display",
		"wl_registry",
		"wl_callback",
		"wl_compositor",
		"wl_subcompositor",
		"wl_shm",
		"wl_seat",
		"wl_output",
		"wl_data_device_manager",
		"xdg_wm_base",
		"wp_viewporter",
		"wp_presentation",
		"zxdg_output_manager_v1",
		"zxdg_decoration_manager_v1",
		"wp_fractional_scale_manager_v1",
		"zwp_linux_dmabuf_v1",
		"zwp_primary_selection_device_manager_v1",
		"zwp_text_input_manager_v3",
		"xdg_activation_v1",
		"zwp_pointer_gestures_v1",
		"zwp_relative_pointer_manager_v1",
		"zwp_pointer_constraints_v1",
		"zwp_idle_inhibit_manager_v1",
		"zwp_tablet_manager_v2",
		"wp_cursor_shape_manager_v1",
	};
	uint8_t boot_id[16];
	struct content_hash hash;
	// What the rehearsal took from the kernel is kept for the session.
	mallopt(M_TRIM_THRESHOLD, 4 * 1024 * 1024);
	mallopt(M_MMAP_THRESHOLD, 1024 * 1024);
	handshake_boot_id(boot_id);
	content_hash_bytes(&hash, boot_id, sizeof(boot_id));
	hooks_init();
	for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++) {
		const struct wire_interface *interface = wire_schema_find(usual[i]);
		if (interface != NULL) {
			crossing_possible(interface);
		}
	}
	rehearse_with_sockets(exports);
}
