#ifndef HOST_PROXY_POLICY_H
#define HOST_PROXY_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * Which globals of the compositor a guest may see. Privileged ones, by which a client learns or
 * changes what is not its own, are denied unless allowed; all others are offered unless denied.
 * What cannot cross is hidden by the relay, whatever is said here.
 */

#define POLICY_MAX_RULES 128

struct policy_rule {
	const char *interface; // borrowed, not NUL-terminated
	size_t length;
	uint32_t version; // at most; UINT32_MAX: any
};

// A plain value; zeros are the default policy.
struct policy {
	bool allows_all;
	size_t n_allowed;
	size_t n_denied;
	struct policy_rule allowed[POLICY_MAX_RULES];
	struct policy_rule denied[POLICY_MAX_RULES];
};

// rule is "G", "G:V" or "*"; borrowed. NULL, or what is wrong with it.
const char *policy_allow(struct policy *policy, const char *rule);
const char *policy_deny(struct policy *policy, const char *rule); // "G"; wins over allow

bool policy_is_privileged(const char *interface);

// For session_options: the version to offer, at most version; 0 hides the global.
uint32_t policy_offer(void *policy, const char *interface, uint32_t version);

#endif
