#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "host-proxy/options.h"
#include "host-proxy/policy_file.h"
#include "tests/support/fd_count.h"
#include "wire/schema.h"

#define ARGUMENTS "fdferry-host", "--listen", "unix:/run/channel", "--policy", "work.policy"

struct reading {
	struct host_options options;
	char text[512];
	char error[512];
	bool ok;
};

static void apply_list(struct reading *reading, const char *text, const char *argv[])
{
	int argc = 0;
	while (argv[argc] != NULL) {
		argc++;
	}
	assert_true(strlen(text) < sizeof(reading->text));
	strcpy(reading->text, text);
	assert_int_equal(
		host_options_parse(&reading->options, argc, (char **)argv), OPTIONS_STATUS_RUN);
	reading->ok = host_options_apply(&reading->options, argc, (char **)argv, reading->text,
		reading->error, sizeof(reading->error));
}

// After the text, what the command line says.
#define apply(reading, text, ...) \
	apply_list((reading), (text), (const char *[]){ARGUMENTS, ##__VA_ARGS__, NULL})

static uint32_t offer(struct reading *reading, const char *interface, uint32_t version)
{
	return policy_offer(&reading->options.policy, interface, version);
}

static void every_key_is_understood(void **state)
{
	(void)state;
	struct reading reading;
	apply(&reading,
		"# a comment\n"
		"; another one\n"
		"\n"
		"[vm]\n"
		"vm-name = work\n"
		"app-id-prefix=work.\r\n"
		"  title-prefix\t=  \"[work] \"  \n"
		"require-security-context = yes\n"
		"[globals]\n"
		"allow = zwlr_layer_shell_v1:3\n"
		"allow = wl_seat:5\n"
		"deny = wp_presentation\n"
		"[requests]\n"
		"deny-request = xdg_toplevel.set_fullscreen\n"
		"ignore-request = xdg_toplevel.set_maximized\n"
		"[limits]\n"
		"max-memory = 64M\n"
		"max-objects = 100\n"
		"max-fds = 50\n"
		"max-sessions = 7"); // the last line needs no end
	assert_true(reading.ok);
	const struct host_options *options = &reading.options;
	assert_string_equal(options->vm_name, "work");
	assert_string_equal(options->app_id_prefix, "work.");
	assert_string_equal(options->title_prefix, "[work] ");
	assert_int_equal(options->security_context, SECURITY_CONTEXT_REQUIRE);
	assert_int_equal(offer(&reading, "zwlr_layer_shell_v1", 4), 3);
	assert_int_equal(offer(&reading, "wl_seat", 9), 5);
	assert_int_equal(offer(&reading, "wp_presentation", 1), 0);
	assert_int_equal(options->policy.n_requests, 2);
	assert_false(options->policy.requests[0].ignored);
	assert_true(options->policy.requests[1].ignored);
	assert_int_equal(options->policy.requests[1].line, 15);
	assert_int_equal(options->limits.most[BUDGET_MEMORY], 64 << 20);
	assert_int_equal(options->limits.most[BUDGET_OBJECTS], 100);
	assert_int_equal(options->limits.most[BUDGET_FDS], 50);
	assert_int_equal(options->program.max_sessions, 7);
	wire_schema_finish();
}

static void an_empty_file_is_the_default_policy(void **state)
{
	(void)state;
	struct reading reading;
	apply(&reading, "");
	assert_true(reading.ok);
	assert_int_equal(reading.options.limits.most[BUDGET_FDS], 4096);
	assert_int_equal(offer(&reading, "zwlr_layer_shell_v1", 4), 0);
	assert_int_equal(offer(&reading, "wl_shm", 1), 1);
	apply(&reading, "[vm]\nrequire-security-context = no\napp-id-prefix =\n");
	assert_true(reading.ok);
	assert_int_equal(reading.options.security_context, SECURITY_CONTEXT_AUTO);
	assert_string_equal(reading.options.app_id_prefix, "");
}

static void the_command_line_wins(void **state)
{
	(void)state;
	struct reading reading;
	apply(&reading,
		"[vm]\nvm-name = work\nrequire-security-context = yes\n"
		"[globals]\nallow = wl_seat:5\nallow = wl_output:2\ndeny = wl_shm\n"
		"[limits]\nmax-fds = 50\nmax-objects = 60\n",
		"--max-fds", "7", "--vm-name", "play", "--allow", "wl_seat:8", "--allow", "wl_shm",
		"--no-security-context");
	assert_true(reading.ok);
	assert_int_equal(reading.options.limits.most[BUDGET_FDS], 7);
	assert_int_equal(reading.options.limits.most[BUDGET_OBJECTS], 60);
	assert_string_equal(reading.options.vm_name, "play");
	assert_int_equal(reading.options.security_context, SECURITY_CONTEXT_NEVER);
	assert_int_equal(offer(&reading, "wl_seat", 9), 8);
	assert_int_equal(offer(&reading, "wl_output", 9), 2);
	assert_int_equal(offer(&reading, "wl_shm", 1), 0); // but what is denied is denied
}

static void a_key_that_is_gone_has_its_default_again(void **state)
{
	(void)state;
	struct reading first, second;
	apply(&first, "[limits]\nmax-fds = 50\n[globals]\ndeny = wl_shm\n");
	assert_true(first.ok);
	assert_int_equal(offer(&first, "wl_shm", 1), 0);
	static const char *argv[] = {ARGUMENTS, NULL};
	strcpy(second.text, "[limits]\nmax-objects = 9\n");
	assert_true(host_options_apply(
		&first.options, 5, (char **)argv, second.text, second.error, sizeof(second.error)));
	assert_int_equal(first.options.limits.most[BUDGET_FDS], 4096);
	assert_int_equal(first.options.limits.most[BUDGET_OBJECTS], 9);
	assert_int_equal(offer(&first, "wl_shm", 1), 1);
}

static void services_stay(void **state)
{
	(void)state;
	struct reading reading;
	static const char *argv[] = {ARGUMENTS, NULL};
	struct transport address = {.kind = TRANSPORT_UNIX, .path = "/run/wayland"};
	assert_int_equal(
		host_options_parse(&reading.options, 5, (char **)argv), OPTIONS_STATUS_RUN);
	assert_null(services_add(&reading.options.program.services, SERVICE_WAYLAND, &address));
	strcpy(reading.text, "[limits]\nmax-fds = 3\n");
	assert_true(host_options_apply(&reading.options, 5, (char **)argv, reading.text,
		reading.error, sizeof(reading.error)));
	assert_int_equal(reading.options.limits.most[BUDGET_FDS], 3);
	assert_non_null(services_find(&reading.options.program.services, SERVICE_WAYLAND));
}

static const struct {
	const char *text, *says;
} wrong[] = {
	{"[limit]\n", "work.policy:1: limit: unknown section"},
	{"\n[]\n", "work.policy:2: : unknown section"},
	{"[limits\n", "work.policy:1: a section's name ends with ]"},
	{"[", "work.policy:1: a section's name ends with ]"},
	{"[limits] max-fds = 3\n", "work.policy:1: a section's name ends with ]"},
	{"max-fds = 3\n", "work.policy:1: max-fds: must come after a [SECTION]"},
	{"[limits]\nmax-fd = 3\n", "work.policy:2: max-fd: unknown key in this section"},
	{"[limits]\n = 3\n", "work.policy:2: : unknown key in this section"},
	{"[limits]\nallow = wl_shm\n", "work.policy:2: allow: unknown key in this section"},
	{"[limits]\nlisten = unix:/x\n", "work.policy:2: listen: unknown key in this section"},
	{"[limits]\nhelp = yes\n", "work.policy:2: help: unknown key in this section"},
	{"[limits]\nmax-fds\n", "work.policy:2: must be [SECTION] or KEY = VALUE"},
	{"[limits]\nmax-fds: 3\n", "work.policy:2: must be [SECTION] or KEY = VALUE"},
	{"[limits]\nmax-fds =\n", "work.policy:2: max-fds = : not a number"},
	{"[limits]\nmax-fds = 3 # few\n", "work.policy:2: max-fds = 3 # few: not a number"},
	{"[limits]\nmax-fds = 0\n", "work.policy:2: max-fds = 0: too small"},
	{"[limits]\nmax-memory = 1T\n", "work.policy:2: max-memory = 1T: not a number"},
	{"[limits]\nmax-fds = 3\n# x\nmax-fds = 3\n", "work.policy:4: max-fds: given twice"},
	{"[limits]\nmax-fds = 3\n[limits]\nmax-fds = 4\n", "work.policy:4: max-fds: given twice"},
	{"[globals]\nallow = wl shm\n",
		"work.policy:2: allow = wl shm: not the name of an interface"},
	{"[globals]\nallow = wl_shm:x\n",
		"work.policy:2: allow = wl_shm:x: the version is not a number"},
	{"[globals]\nallow = wl_shm:0\n",
		"work.policy:2: allow = wl_shm:0: the version is not a number from 1"},
	{"[globals]\ndeny = wl_shm:1\n",
		"work.policy:2: deny = wl_shm:1: a version can only be allowed (allow G:V)"},
	{"[globals]\nallow = wl_shm\nallow = wl_shm:1\n",
		"work.policy:3: allow = wl_shm:1: there is a rule about it already"},
	{"[requests]\ndeny-request = xdg_toplevel\n",
		"work.policy:2: deny-request = xdg_toplevel: must be INTERFACE.REQUEST"},
	{"[requests]\ndeny-request = xdg_toplevel.none\n",
		"work.policy:2: deny-request = xdg_toplevel.none: the interface has no such "
		"request"},
	{"[requests]\nignore-request = wl_surface.frame\n",
		"work.policy:2: ignore-request = wl_surface.frame: makes or ends an object or "
		"passes an fd: it can only be denied"},
	{"[vm]\nvm-name =\n", "work.policy:2: vm-name = : must be 1 to 64 of A-Z a-z 0-9 . _ -"},
	{"[vm]\ntitle-prefix = \"[work] \n",
		"work.policy:2: title-prefix: the value has no quote at its end"},
	{"[vm]\nrequire-security-context = true\n",
		"work.policy:2: require-security-context = true: must be yes or no"},
	{"[vm]\nrequire-security-context = yes\nno-security-context = yes\n",
		"work.policy:3: no-security-context = yes: contradicts another line"},
	{"[vm]\nrequire-security-context\n", "work.policy:2: must be [SECTION] or KEY = VALUE"},
};

static void every_mistake_has_its_line_and_changes_nothing(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct reading reading;
		apply(&reading, wrong[i].text);
		assert_false(reading.ok);
		assert_string_equal(reading.error, wrong[i].says);
		assert_int_equal(reading.options.limits.most[BUDGET_FDS], 4096);
		assert_int_equal(reading.options.policy.n_allowed, 0);
		assert_int_equal(reading.options.policy.n_requests, 0);
		wire_schema_finish();
	}
}

static void more_rules_than_there_is_room_for_are_an_error(void **state)
{
	(void)state;
	struct host_options options;
	static const char *argv[] = {ARGUMENTS, "--deny", "wl_shm", NULL};
	char error[512];
	char *text = malloc(POLICY_FILE_MAX);
	assert_non_null(text);
	size_t len = (size_t)sprintf(text, "[globals]\n");
	for (int i = 0; i < POLICY_MAX_RULES; i++) {
		len += (size_t)sprintf(text + len, "deny = g%d\n", i);
	}
	assert_int_equal(host_options_parse(&options, 7, (char **)argv), OPTIONS_STATUS_RUN);
	assert_false(host_options_apply(&options, 7, (char **)argv, text, error, sizeof(error)));
	assert_string_equal(error, "work.policy: the command line does not go with it");
	free(text);
}

/* ---- files ---- */

static void expect_unreadable(const char *path, const char *says)
{
	char error[512];
	assert_null(policy_file_load(path, error, sizeof(error)));
	assert_string_equal(error, says);
}

// At a path that ends with the descriptor.
static int make_file(const void *data, size_t len, char path[32])
{
	int fd = memfd_create("policy", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	snprintf(path, 32, "/proc/self/fd/%d", fd);
	return fd;
}

static void a_file_is_read_whole(void **state)
{
	(void)state;
	char error[512], path[32];
	int fd = make_file("[vm]\n", 5, path);
	char *text = policy_file_load(path, error, sizeof(error));
	assert_string_equal(text, "[vm]\n");
	free(text);
	close(fd);
}

static void what_is_no_policy_is_not_read(void **state)
{
	(void)state;
	char path[32], says[64];
	char *large = malloc(POLICY_FILE_MAX + 1);
	assert_non_null(large);
	memset(large, '#', POLICY_FILE_MAX + 1);
	int fd = make_file(large, POLICY_FILE_MAX + 1, path);
	free(large);
	snprintf(says, sizeof(says), "%s: larger than 65536 bytes", path);
	expect_unreadable(path, says);
	close(fd);
	fd = make_file("a\0b", 3, path);
	snprintf(says, sizeof(says), "%s: not a text file", path);
	expect_unreadable(path, says);
	close(fd);
	expect_unreadable("/", "/: not a regular file");
	expect_unreadable("/dev/null", "/dev/null: not a regular file");
	expect_unreadable("/no/such", "/no/such: No such file or directory");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(every_key_is_understood),
		fd_count_test(an_empty_file_is_the_default_policy),
		fd_count_test(the_command_line_wins),
		fd_count_test(a_key_that_is_gone_has_its_default_again),
		fd_count_test(services_stay),
		fd_count_test(every_mistake_has_its_line_and_changes_nothing),
		fd_count_test(more_rules_than_there_is_room_for_are_an_error),
		fd_count_test(a_file_is_read_whole),
		fd_count_test(what_is_no_policy_is_not_read),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
