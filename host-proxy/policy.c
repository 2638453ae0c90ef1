#include "host-proxy/policy.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "relay/denied.h"
#include "wire/schema.h"

#define NAME_MAX_LENGTH 128

// Families that are privileged as a whole, so that what is added to them later is, too.
static const char *const privileged_prefixes[] = {
	"cosmic_",
	"gamescope_",
	"hyprland_",
	"kde_output_",
	"org_kde_plasma_",
	"river_",
	"treeland_",
	"weston_",
	"zcosmic_",
	"zkde_",
	"zriver_",
	"zwlr_",
};

// Members of those families that only concern the client's own surfaces, or tell what wl_output
// tells.
static const char *const ordinary[] = {
	"hyprland_surface_manager_v1",
	"kde_output_order_v1",
	"weston_content_protection",
};

static const char *const privileged[] = {
	// sees other clients' pixels
	"ext_foreign_toplevel_image_capture_source_manager_v1",
	"ext_image_copy_capture_manager_v1",
	"ext_output_image_capture_source_manager_v1",
	"ivi_screenshot",
	"org_kde_kwin_remote_access_manager",
	"screenshooter",
	// sees the clipboard unasked
	"ext_data_control_manager_v1",
	// sees or makes input; that the user is away is seen of all input
	"ext_idle_notifier_v1",
	"org_kde_kwin_idle",
	"org_kde_kwin_fake_input",
	"org_kde_kwin_keystate",
	"wl_input_method",
	"wl_input_panel",
	"zwp_input_method_manager_v2",
	"zwp_input_method_v1",
	"zwp_input_panel_v1",
	"zwp_virtual_keyboard_manager_v1",
	"zwp_xwayland_keyboard_grab_manager_v1",
	"ext_transient_seat_manager_v1",
	"ivi_input",
	// sees or moves other clients' windows
	"ext_foreign_toplevel_list_v1",
	"ext_workspace_manager_v1",
	"ivi_controller",
	"ivi_wm",
	"zcr_remote_shell_v1",
	"zcr_remote_shell_v2",
	// has the desktop call names on the host's bus, or read files of the host
	"gtk_shell1",
	"org_kde_kwin_appmenu_manager",
	"org_kde_kwin_server_decoration_palette_manager",
	// is part of the desktop
	"desktop_shell",
	"ext_session_lock_manager_v1",
	"kde_lockscreen_overlay_v1",
	"kde_screen_edge_manager_v1",
	"screensaver",
	"wl_eglstream_controller",
	"xwayland_shell_v1",
	"zwp_fullscreen_shell_v1",
	// sets up outputs and devices
	"kde_external_brightness_v1",
	"org_kde_kwin_dpms_manager",
	"org_kde_kwin_outputdevice",
	"org_kde_kwin_outputmanagement",
	"wp_drm_lease_device_v1",
	// makes connections that are not the guest's
	"wp_security_context_manager_v1",
};

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static bool contains(const char *const *names, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++) {
		if (strcmp(names[i], name) == 0) {
			return true;
		}
	}
	return false;
}

bool policy_is_privileged(const char *interface)
{
	if (contains(ordinary, LENGTH(ordinary), interface)) {
		return false;
	}
	for (size_t i = 0; i < LENGTH(privileged_prefixes); i++) {
		const char *prefix = privileged_prefixes[i];
		if (strncmp(interface, prefix, strlen(prefix)) == 0) {
			return true;
		}
	}
	return contains(privileged, LENGTH(privileged), interface);
}

static const char *parse_version(const char *text, uint32_t *version)
{
	uint64_t value = 0;
	for (const char *c = text; *c != '\0'; c++) {
		if (*c < '0' || *c > '9' || value > UINT32_MAX) {
			return "the version is not a number";
		}
		value = value * 10 + (uint64_t)(*c - '0');
	}
	if (value == 0 || value >= UINT32_MAX) {
		return "the version is not a number from 1";
	}
	*version = (uint32_t)value;
	return NULL;
}

static size_t name_length(const char *text)
{
	size_t length = 0;
	while (isalnum((unsigned char)text[length]) || text[length] == '_') {
		length++;
	}
	return length;
}

static bool ends_name(char c, char end)
{
	return c == '\0' || c == end;
}

static const char *parse_rule(const char *text, struct policy_rule *rule)
{
	size_t length = name_length(text);
	if (length == 0 || length > NAME_MAX_LENGTH || !ends_name(text[length], ':')) {
		return "not the name of an interface";
	}
	*rule = (struct policy_rule){.interface = text, .length = length, .version = UINT32_MAX};
	return text[length] == ':' ? parse_version(text + length + 1, &rule->version) : NULL;
}

static const struct policy_rule *find_rule(
	const struct policy_rule *rules, size_t n, const char *interface, size_t length)
{
	for (size_t i = n; i > 0; i--) { // the last one given
		const struct policy_rule *rule = &rules[i - 1];
		if (rule->length == length && memcmp(rule->interface, interface, length) == 0) {
			return rule;
		}
	}
	return NULL;
}

static const char *add_rule(
	const struct policy *policy, struct policy_rule *rules, size_t *n, struct policy_rule *rule)
{
	rule->line = policy->line;
	if (rule->line != 0 && find_rule(rules, *n, rule->interface, rule->length) != NULL) {
		return "there is a rule about it already";
	}
	if (*n == POLICY_MAX_RULES) {
		return "too many rules";
	}
	rules[(*n)++] = *rule;
	return NULL;
}

const char *policy_allow(struct policy *policy, const char *text)
{
	struct policy_rule rule = {.interface = text, .length = 1, .version = UINT32_MAX};
	const char *wrong = strcmp(text, "*") == 0 ? NULL : parse_rule(text, &rule);
	return wrong != NULL ? wrong : add_rule(policy, policy->allowed, &policy->n_allowed, &rule);
}

const char *policy_deny(struct policy *policy, const char *text)
{
	struct policy_rule rule;
	const char *wrong = parse_rule(text, &rule);
	if (wrong == NULL && rule.version != UINT32_MAX) {
		wrong = "a version can only be allowed (allow G:V)";
	}
	return wrong != NULL ? wrong : add_rule(policy, policy->denied, &policy->n_denied, &rule);
}

static bool has_request(const struct policy *policy, const char *name)
{
	for (size_t i = 0; i < policy->n_requests; i++) {
		if (strcmp(policy->requests[i].name, name) == 0) {
			return true;
		}
	}
	return false;
}

static const char *add_request(struct policy *policy, const char *text, bool ignored)
{
	size_t length = name_length(text);
	if (length == 0 || length > NAME_MAX_LENGTH || text[length] != '.' ||
		name_length(text + length + 1) == 0 ||
		text[length + 1 + name_length(text + length + 1)] != '\0') {
		return "must be INTERFACE.REQUEST";
	}
	if (policy->line != 0 && has_request(policy, text)) {
		return "there is a rule about it already";
	}
	if (policy->n_requests == POLICY_MAX_REQUESTS) {
		return "too many rules";
	}
	policy->requests[policy->n_requests++] = (struct policy_request){
		.name = text,
		.length = length,
		.ignored = ignored,
		.line = policy->line,
	};
	return NULL;
}

const char *policy_deny_request(struct policy *policy, const char *request)
{
	return add_request(policy, request, false);
}

const char *policy_ignore_request(struct policy *policy, const char *request)
{
	return add_request(policy, request, true);
}

struct policy_verdict policy_judge(
	const struct policy *policy, const char *interface, uint32_t version)
{
	size_t length = strlen(interface);
	struct policy_verdict verdict = {.version = version, .reason = POLICY_DENIED};
	verdict.rule = find_rule(policy->denied, policy->n_denied, interface, length);
	if (verdict.rule != NULL) {
		verdict.version = 0;
		return verdict;
	}
	verdict.reason = POLICY_ALLOWED;
	verdict.rule = find_rule(policy->allowed, policy->n_allowed, interface, length);
	if (verdict.rule == NULL) {
		verdict.rule = find_rule(policy->allowed, policy->n_allowed, "*", 1);
	}
	if (verdict.rule != NULL) {
		verdict.version = version < verdict.rule->version ? version : verdict.rule->version;
		return verdict;
	}
	bool privileged = policy_is_privileged(interface);
	verdict.reason = privileged ? POLICY_PRIVILEGED : POLICY_ORDINARY;
	verdict.version = privileged ? 0 : version;
	return verdict;
}

uint32_t policy_offer(void *data, const char *interface, uint32_t version)
{
	return policy_judge(data, interface, version).version;
}

static const struct wire_op *find_op(const struct wire_interface *interface, const char *request)
{
	const struct wire_ops *ops = &interface->ops[WIRE_REQUEST];
	for (size_t i = 0; i < ops->count; i++) {
		if (strcmp(ops->ops[i].name, request) == 0) {
			return &ops->ops[i];
		}
	}
	return NULL;
}

static const char *resolve(const struct policy_request *request, struct denied_request *denied)
{
	char name[NAME_MAX_LENGTH + 1];
	memcpy(name, request->name, request->length);
	name[request->length] = '\0';
	const struct wire_interface *interface = wire_schema_find(name);
	if (interface == NULL) {
		return "no such interface is known";
	}
	const struct wire_op *op = find_op(interface, request->name + request->length + 1);
	if (op == NULL) {
		return "the interface has no such request";
	}
	if (request->ignored && (op->makes_object || op->is_destructor || op->n_fds > 0)) {
		return "makes or ends an object or passes an fd: it can only be denied";
	}
	*denied = (struct denied_request){.op = op, .ignored = request->ignored};
	return NULL;
}

static bool names_something(const struct policy_rule *rule)
{
	char name[NAME_MAX_LENGTH + 1];
	memcpy(name, rule->interface, rule->length);
	name[rule->length] = '\0';
	return strcmp(name, "*") == 0 || wire_schema_find(name) != NULL;
}

static void check_names(
	const char *key, const struct policy_rule *rules, size_t n, const char *path)
{
	for (size_t i = 0; i < n; i++) {
		const struct policy_rule *rule = &rules[i];
		if (names_something(rule)) {
			continue;
		}
		if (rule->line == 0) {
			log_warn("--%s %s: no such interface is known", key, rule->interface);
		} else {
			log_warn("%s:%u: %s = %s: no such interface is known", path, rule->line,
				key, rule->interface);
		}
	}
}

void policy_check_names(const struct policy *policy, const char *path)
{
	check_names("allow", policy->allowed, policy->n_allowed, path);
	check_names("deny", policy->denied, policy->n_denied, path);
}

static void describe(const struct policy_request *request, const char *path, const char *wrong,
	char *error, size_t error_len)
{
	const char *key = request->ignored ? "ignore-request" : "deny-request";
	if (request->line == 0) {
		snprintf(error, error_len, "--%s %s: %s", key, request->name, wrong);
	} else {
		snprintf(error, error_len, "%s:%u: %s = %s: %s", path, request->line, key,
			request->name, wrong);
	}
}

bool policy_resolve_requests(const struct policy *policy, const char *path,
	struct denied_request *denied, char *error, size_t error_len)
{
	for (size_t i = 0; i < policy->n_requests; i++) {
		const char *wrong = resolve(&policy->requests[i], &denied[i]);
		if (wrong != NULL) {
			describe(&policy->requests[i], path, wrong, error, error_len);
			return false;
		}
	}
	return true;
}
