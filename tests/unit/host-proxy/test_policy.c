#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "host-proxy/policy.h"
#include "relay/denied.h"
#include "tests/support/fd_count.h"
#include "wire/schema.h"

static void ordinary_globals_are_offered_as_they_are(void **state)
{
	(void)state;
	static const char *const names[] = {
		"wl_compositor",
		"wl_shm",
		"wl_seat",
		"wl_output",
		"wl_data_device_manager",
		"xdg_wm_base",
		"zwp_linux_dmabuf_v1",
		"wp_viewporter",
		"wp_presentation",
		"zxdg_decoration_manager_v1",
		"zxdg_output_manager_v1",
		"zwp_text_input_manager_v3",
		"zwp_primary_selection_device_manager_v1",
		"xdg_activation_v1",
		"zwp_keyboard_shortcuts_inhibit_manager_v1",
		"wp_linux_drm_syncobj_manager_v1",
		"gtk_primary_selection_device_manager",
		"org_kde_kwin_server_decoration_manager",
		"hyprland_surface_manager_v1",
		"weston_content_protection",
		"zxdg_exporter_v2",
	};
	struct policy policy = {0};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_int_equal(policy_offer(&policy, names[i], 6), 6);
	}
}

static void privileged_globals_are_hidden(void **state)
{
	(void)state;
	static const char *const names[] = {
		"zwlr_screencopy_manager_v1",
		"ext_image_copy_capture_manager_v1",
		"ext_output_image_capture_source_manager_v1",
		"ext_foreign_toplevel_image_capture_source_manager_v1",
		"weston_screenshooter",
		"weston_capture_v1",
		"weston_debug_v1",
		"zwlr_export_dmabuf_manager_v1",
		"zwlr_data_control_manager_v1",
		"ext_data_control_manager_v1",
		"zwp_virtual_keyboard_manager_v1",
		"zwlr_virtual_pointer_manager_v1",
		"zwlr_layer_shell_v1",
		"ext_session_lock_manager_v1",
		"zwlr_gamma_control_manager_v1",
		"zwlr_output_manager_v1",
		"zwlr_output_power_manager_v1",
		"zwp_input_method_manager_v2",
		"zwp_input_method_v1",
		"zwp_input_panel_v1",
		"wp_drm_lease_device_v1",
		"wp_security_context_manager_v1",
		"zwlr_foreign_toplevel_manager_v1",
		"ext_foreign_toplevel_list_v1",
		"ext_workspace_manager_v1",
		"ext_transient_seat_manager_v1",
		"zwlr_input_inhibit_manager_v1",
		"org_kde_plasma_window_management",
		"org_kde_kwin_fake_input",
		"org_kde_kwin_remote_access_manager",
		"zkde_screencast_unstable_v1",
		"kde_output_management_v2",
		"hyprland_toplevel_export_manager_v1",
		"hyprland_global_shortcuts_manager_v1",
		"cosmic_atspi_manager_v1",
		"river_xkb_config_v1",
		"gtk_shell1",
		"org_kde_kwin_appmenu_manager",
		"org_kde_kwin_server_decoration_palette_manager",
		"org_kde_kwin_idle",
		"ext_idle_notifier_v1",
		"zwlr_something_that_comes_later_v1",
	};
	struct policy policy = {0};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_true(policy_is_privileged(names[i]));
		assert_int_equal(policy_offer(&policy, names[i], 6), 0);
	}
}

static void a_privileged_global_can_be_allowed(void **state)
{
	(void)state;
	struct policy policy = {0};
	assert_null(policy_allow(&policy, "zwlr_layer_shell_v1"));
	assert_int_equal(policy_offer(&policy, "zwlr_layer_shell_v1", 4), 4);
	assert_int_equal(policy_offer(&policy, "zwlr_screencopy_manager_v1", 3), 0);
	assert_int_equal(policy_offer(&policy, "zwlr_layer_shell_v", 4), 0);
	assert_int_equal(policy_offer(&policy, "zwlr_layer_shell_v12", 4), 0);
}

static void a_version_is_a_cap(void **state)
{
	(void)state;
	struct policy policy = {0};
	assert_null(policy_allow(&policy, "wl_seat:5"));
	assert_int_equal(policy_offer(&policy, "wl_seat", 9), 5);
	assert_int_equal(policy_offer(&policy, "wl_seat", 3), 3);
	assert_null(policy_allow(&policy, "wl_seat:7")); // the last one counts
	assert_int_equal(policy_offer(&policy, "wl_seat", 9), 7);
}

static void deny_wins_over_allow(void **state)
{
	(void)state;
	struct policy policy = {0};
	assert_null(policy_deny(&policy, "wl_shm"));
	assert_null(policy_allow(&policy, "wl_shm"));
	assert_null(policy_allow(&policy, "*"));
	assert_int_equal(policy_offer(&policy, "wl_shm", 1), 0);
	assert_int_equal(policy_offer(&policy, "zwlr_screencopy_manager_v1", 3), 3);
}

static void a_cap_holds_although_all_are_allowed(void **state)
{
	(void)state;
	struct policy policy = {0};
	assert_null(policy_allow(&policy, "wl_seat:5"));
	assert_null(policy_allow(&policy, "*"));
	assert_int_equal(policy_offer(&policy, "wl_seat", 9), 5);
}

static void what_is_no_rule_is_refused(void **state)
{
	(void)state;
	static const char *const wrong[] = {
		"",
		":",
		":1",
		"wl_shm:",
		"wl_shm:0",
		"wl_shm:-1",
		"wl_shm:1x",
		"wl_shm:4294967295",
		"wl_shm:99999999999999999999",
		"wl shm",
		"wl_*",
		"**",
		"wl_shm:1:2",
	};
	struct policy policy = {0};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_non_null(policy_allow(&policy, wrong[i]));
	}
	assert_non_null(policy_deny(&policy, "*"));
	assert_non_null(policy_deny(&policy, "wl_shm:1"));
	assert_int_equal(policy.n_allowed, 0);
	assert_int_equal(policy.n_denied, 0);
}

static void too_many_rules_are_refused(void **state)
{
	(void)state;
	struct policy policy = {0};
	for (int i = 0; i < POLICY_MAX_RULES; i++) {
		assert_null(policy_deny(&policy, "wl_shm"));
	}
	assert_non_null(policy_deny(&policy, "wl_seat"));
}

static void a_verdict_says_why(void **state)
{
	(void)state;
	struct policy policy = {.line = 3};
	assert_null(policy_allow(&policy, "wl_seat:5"));
	policy.line = 4;
	assert_null(policy_deny(&policy, "wl_output"));
	struct policy_verdict verdict = policy_judge(&policy, "wl_seat", 9);
	assert_int_equal(verdict.version, 5);
	assert_int_equal(verdict.reason, POLICY_ALLOWED);
	assert_int_equal(verdict.rule->line, 3);
	verdict = policy_judge(&policy, "wl_output", 4);
	assert_int_equal(verdict.version, 0);
	assert_int_equal(verdict.reason, POLICY_DENIED);
	assert_int_equal(verdict.rule->line, 4);
	verdict = policy_judge(&policy, "wl_shm", 1);
	assert_int_equal(verdict.version, 1);
	assert_int_equal(verdict.reason, POLICY_ORDINARY);
	assert_null(verdict.rule);
	verdict = policy_judge(&policy, "zwlr_layer_shell_v1", 4);
	assert_int_equal(verdict.version, 0);
	assert_int_equal(verdict.reason, POLICY_PRIVILEGED);
	policy.line = 0;
	assert_null(policy_allow(&policy, "*"));
	verdict = policy_judge(&policy, "zwlr_layer_shell_v1", 4);
	assert_int_equal(verdict.version, 4);
	assert_int_equal(verdict.reason, POLICY_ALLOWED);
	assert_int_equal(verdict.rule->line, 0);
}

static void a_file_has_one_rule_for_each(void **state)
{
	(void)state;
	struct policy policy = {.line = 1};
	assert_null(policy_allow(&policy, "wl_seat:5"));
	assert_null(policy_allow(&policy, "*"));
	assert_null(policy_deny(&policy, "wl_seat"));
	assert_null(policy_deny_request(&policy, "xdg_toplevel.set_fullscreen"));
	policy.line = 2;
	assert_non_null(policy_allow(&policy, "wl_seat"));
	assert_non_null(policy_allow(&policy, "*"));
	assert_non_null(policy_deny(&policy, "wl_seat"));
	assert_non_null(policy_ignore_request(&policy, "xdg_toplevel.set_fullscreen"));
	policy.line = 0; // the command line comes after the file
	assert_null(policy_allow(&policy, "wl_seat:7"));
	assert_null(policy_ignore_request(&policy, "xdg_toplevel.set_fullscreen"));
}

static void requests_are_found_in_the_schema(void **state)
{
	(void)state;
	struct policy policy = {0};
	struct denied_request denied[POLICY_MAX_REQUESTS];
	char error[256];
	assert_null(policy_deny_request(&policy, "xdg_toplevel.set_fullscreen"));
	assert_null(policy_ignore_request(&policy, "xdg_toplevel.set_maximized"));
	assert_true(policy_resolve_requests(&policy, NULL, denied, error, sizeof(error)));
	assert_string_equal(denied[0].op->name, "set_fullscreen");
	assert_false(denied[0].ignored);
	assert_string_equal(denied[1].op->name, "set_maximized");
	assert_true(denied[1].ignored);
	wire_schema_finish();
}

static void expect_unresolved(const char *(*add)(struct policy *policy, const char *request),
	const char *name, unsigned int line, const char *says)
{
	struct policy policy = {.line = line};
	struct denied_request denied[POLICY_MAX_REQUESTS];
	char error[256];
	assert_null(add(&policy, name));
	assert_false(policy_resolve_requests(&policy, "p", denied, error, sizeof(error)));
	assert_string_equal(error, says);
	wire_schema_finish();
}

static void a_request_that_is_not_there_is_an_error(void **state)
{
	(void)state;
	expect_unresolved(policy_deny_request, "xdg_toplevel.set_fulscreen", 0,
		"--deny-request xdg_toplevel.set_fulscreen: the interface has no such request");
	expect_unresolved(policy_deny_request, "xdg_topevel.set_fullscreen", 7,
		"p:7: deny-request = xdg_topevel.set_fullscreen: no such interface is known");
	// an event
	expect_unresolved(policy_ignore_request, "xdg_toplevel.configure", 0,
		"--ignore-request xdg_toplevel.configure: the interface has no such request");
}

static void what_makes_ends_or_passes_cannot_be_ignored(void **state)
{
	(void)state;
	static const char wrong[] =
		"makes or ends an object or passes an fd: it can only be denied";
	static const char *const names[] = {
		"wl_compositor.create_surface",
		"wl_surface.destroy",
		"wl_data_offer.receive",
		"wl_registry.bind",
	};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char says[256];
		snprintf(says, sizeof(says), "--ignore-request %s: %s", names[i], wrong);
		expect_unresolved(policy_ignore_request, names[i], 0, says);
		struct policy policy = {0};
		struct denied_request denied[POLICY_MAX_REQUESTS];
		char error[256];
		assert_null(policy_deny_request(&policy, names[i]));
		assert_true(policy_resolve_requests(&policy, NULL, denied, error, sizeof(error)));
	}
	wire_schema_finish();
}

static void what_is_no_request_is_refused(void **state)
{
	(void)state;
	static const char *const wrong[] = {
		"",
		".",
		"xdg_toplevel",
		"xdg_toplevel.",
		".set_fullscreen",
		"xdg_toplevel.set_fullscreen.",
		"xdg_toplevel.set fullscreen",
		"xdg_toplevel:set_fullscreen",
		"xdg_toplevel.*",
		"*.set_fullscreen",
	};
	struct policy policy = {0};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_non_null(policy_deny_request(&policy, wrong[i]));
		assert_non_null(policy_ignore_request(&policy, wrong[i]));
	}
	assert_int_equal(policy.n_requests, 0);
	for (int i = 0; i < POLICY_MAX_REQUESTS; i++) {
		assert_null(policy_deny_request(&policy, "wl_surface.commit"));
	}
	assert_non_null(policy_deny_request(&policy, "wl_surface.commit"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(ordinary_globals_are_offered_as_they_are),
		fd_count_test(privileged_globals_are_hidden),
		fd_count_test(a_privileged_global_can_be_allowed),
		fd_count_test(a_version_is_a_cap),
		fd_count_test(deny_wins_over_allow),
		fd_count_test(a_cap_holds_although_all_are_allowed),
		fd_count_test(what_is_no_rule_is_refused),
		fd_count_test(too_many_rules_are_refused),
		fd_count_test(a_verdict_says_why),
		fd_count_test(a_file_has_one_rule_for_each),
		fd_count_test(requests_are_found_in_the_schema),
		fd_count_test(a_request_that_is_not_there_is_an_error),
		fd_count_test(what_makes_ends_or_passes_cannot_be_ignored),
		fd_count_test(what_is_no_request_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
