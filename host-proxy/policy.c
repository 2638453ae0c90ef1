#include "host-proxy/policy.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

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
	// sees or makes input
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

static const char *parse_rule(const char *text, struct policy_rule *rule)
{
	size_t length = 0;
	while (isalnum((unsigned char)text[length]) || text[length] == '_') {
		length++;
	}
	if (length == 0 || length > NAME_MAX_LENGTH ||
		(text[length] != '\0' && text[length] != ':')) {
		return "not the name of an interface";
	}
	*rule = (struct policy_rule){.interface = text, .length = length, .version = UINT32_MAX};
	return text[length] == ':' ? parse_version(text + length + 1, &rule->version) : NULL;
}

static const char *add_rule(struct policy_rule *rules, size_t *n, const struct policy_rule *rule)
{
	if (*n == POLICY_MAX_RULES) {
		return "too many rules";
	}
	rules[(*n)++] = *rule;
	return NULL;
}

const char *policy_allow(struct policy *policy, const char *text)
{
	if (strcmp(text, "*") == 0) {
		policy->allows_all = true;
		return NULL;
	}
	struct policy_rule rule;
	const char *wrong = parse_rule(text, &rule);
	return wrong != NULL ? wrong : add_rule(policy->allowed, &policy->n_allowed, &rule);
}

const char *policy_deny(struct policy *policy, const char *text)
{
	struct policy_rule rule;
	const char *wrong = parse_rule(text, &rule);
	if (wrong == NULL && rule.version != UINT32_MAX) {
		wrong = "a version can only be allowed (--allow G:V)";
	}
	return wrong != NULL ? wrong : add_rule(policy->denied, &policy->n_denied, &rule);
}

static const struct policy_rule *find_rule(
	const struct policy_rule *rules, size_t n, const char *interface)
{
	size_t length = strlen(interface);
	for (size_t i = n; i > 0; i--) { // the last one given
		const struct policy_rule *rule = &rules[i - 1];
		if (rule->length == length && memcmp(rule->interface, interface, length) == 0) {
			return rule;
		}
	}
	return NULL;
}

uint32_t policy_offer(void *data, const char *interface, uint32_t version)
{
	const struct policy *policy = data;
	if (find_rule(policy->denied, policy->n_denied, interface) != NULL) {
		return 0;
	}
	const struct policy_rule *allowed =
		find_rule(policy->allowed, policy->n_allowed, interface);
	if (allowed != NULL) {
		return version < allowed->version ? version : allowed->version;
	}
	return policy->allows_all || !policy_is_privileged(interface) ? version : 0;
}
