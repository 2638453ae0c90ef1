#include "relay/denied.h"

#include "relay/hooks.h"

static enum wayland_verdict deny(struct wayland_call *call)
{
	return wayland_fail(call, WAYLAND_ERROR_INVALID_METHOD, "denied by the host's policy");
}

static enum wayland_verdict ignore(struct wayland_call *call)
{
	(void)call;
	return WAYLAND_DROP;
}

wayland_hook_func denied_find(const struct wayland *wayland, const struct wire_op *op)
{
	for (size_t i = wayland->options.n_denied; i > 0; i--) {
		const struct denied_request *denied = &wayland->options.denied[i - 1];
		if (denied->op == op) {
			return denied->ignored ? ignore : deny;
		}
	}
	return NULL;
}
