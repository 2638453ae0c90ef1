#ifndef HOST_PROXY_POLICY_H
#define HOST_PROXY_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct denied_request;

/**
 * Which globals of the compositor a guest may see, and which requests of them it may make.
 * Privileged globals, by which a client learns or changes what is not its own, are denied unless
 * allowed; all others are offered unless denied. What cannot cross is hidden by the relay, whatever
 * is said here.
 */

#define POLICY_MAX_RULES    128
#define POLICY_MAX_REQUESTS 128

struct policy_rule {
	const char *interface; // the rule as it was given, borrowed; "*" is all
	size_t length;         // of the name in it
	uint32_t version;      // at most; UINT32_MAX: any
	unsigned int line;     // of the policy file; 0: an option of the command line
};

struct policy_request {
	const char *name; // "interface.request", borrowed
	size_t length;    // of the interface
	bool ignored;     // left out, instead of ending the session
	unsigned int line;
};

// A plain value; zeros are the default policy.
struct policy {
	unsigned int line; // that is being read, for the rules that are added; 0: the command line
	size_t n_allowed;
	size_t n_denied;
	size_t n_requests;
	struct policy_rule allowed[POLICY_MAX_RULES];
	struct policy_rule denied[POLICY_MAX_RULES];
	struct policy_request requests[POLICY_MAX_REQUESTS];
};

// rule is "G", "G:V" or "*"; borrowed. NULL, or what is wrong with it. Of two rules about the same
// global, the later one counts; in a file, there cannot be two.
const char *policy_allow(struct policy *policy, const char *rule);
const char *policy_deny(struct policy *policy, const char *rule); // "G"; wins over allow

// request is "interface.request"; borrowed. NULL, or what is wrong with it.
const char *policy_deny_request(struct policy *policy, const char *request);
const char *policy_ignore_request(struct policy *policy, const char *request);

bool policy_is_privileged(const char *interface);

enum policy_reason {
	POLICY_ORDINARY,
	POLICY_PRIVILEGED,
	POLICY_ALLOWED, // by rule
	POLICY_DENIED,  // by rule
};

struct policy_verdict {
	uint32_t version; // to offer; 0: hidden
	enum policy_reason reason;
	const struct policy_rule *rule;
};

// version is the highest that could be offered.
struct policy_verdict policy_judge(
	const struct policy *policy, const char *interface, uint32_t version);
// For session_options: the version of the verdict.
uint32_t policy_offer(void *policy, const char *interface, uint32_t version);

// Logs which rules are about an interface that nobody knows: a slip of the pen, which may be a
// dangerous one. path is that of the rules from a file.
void policy_check_names(const struct policy *policy, const char *path);

// Looks the requests up in the schema; denied has room for POLICY_MAX_REQUESTS. False: one is not
// known, or cannot be ignored because it makes or ends an object or passes fds; error, which names
// path where the rule is from a file, says so in one line.
bool policy_resolve_requests(const struct policy *policy, const char *path,
	struct denied_request *denied, char *error, size_t error_len);

#endif
