#ifndef HOST_PROXY_SECURITY_CONTEXT_H
#define HOST_PROXY_SECURITY_CONTEXT_H

/**
 * Connections to a compositor that knows them for a sandbox's (wp_security_context_v1 of
 * wayland-protocols): it sees the engine "fdferry", the VM's name as the app id and an instance id,
 * and may offer such clients less.
 */

#define SECURITY_CONTEXT_ENGINE "fdferry"

struct security_context {
	const char *app_id; // NULL: it is not told
	const char *instance_id;
};

// A CLOEXEC, blocking socket that is connected within a new context. *close_fd is the caller's then;
// the compositor forgets the context when it is closed. compositor_fd, by which the context is made,
// is taken. -EOPNOTSUPP: the compositor has no contexts; -ETIMEDOUT: it does not answer; other
// -errno.
int security_context_connect(
	const struct security_context *context, int compositor_fd, int *close_fd);

#endif
