#include "guest-proxy/refusal.h"

#include <stdio.h>
#include <sys/socket.h>
#include <wayland-util.h>

#include "wire/message.h"

#define DISPLAY_ID           1 // wl_display
#define ERROR_IMPLEMENTATION 3 // wl_display.error

void refusal_send(int fd, const char *text)
{
	char line[512];
	struct wl_array message;
	wl_array_init(&message);
	snprintf(line, sizeof(line), "fdferry-guest: %s", text);
	if (wire_encode_error(&message, DISPLAY_ID, ERROR_IMPLEMENTATION, line)) {
		send(fd, message.data, message.size, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	wl_array_release(&message);
	shutdown(fd, SHUT_WR);
}
