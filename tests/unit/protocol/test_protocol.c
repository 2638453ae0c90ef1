#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/wayland/fds.h"
#include "protocol/wayland/protocol.h"

static int compare_name(const void *name, const void *entry)
{
	return strcmp(name, ((const struct protocol_interface *)entry)->interface->name);
}

static const struct protocol_interface *find(const char *name)
{
	return bsearch(name, protocol_interfaces, protocol_interfaces_len,
		sizeof(protocol_interfaces[0]), compare_name);
}

static int find_message(const struct wl_message *messages, int count, const char *name)
{
	for (int i = 0; i < count; i++) {
		if (strcmp(messages[i].name, name) == 0) {
			return i;
		}
	}
	return -1;
}

static bool carries_fd(const struct wl_message *message)
{
	return strchr(message->signature, 'h') != NULL;
}

static int fd_entries(const char *interface, const char *message)
{
	int n = 0;
	for (size_t i = 0; i < protocol_fds_len; i++) {
		if (strcmp(protocol_fds[i].interface, interface) == 0 &&
			strcmp(protocol_fds[i].message, message) == 0) {
			n++;
		}
	}
	return n;
}

static bool request_ends_object(const char *interface, const char *request)
{
	const struct protocol_interface *entry = find(interface);
	assert_non_null(entry);
	int n = find_message(entry->interface->methods, entry->interface->method_count, request);
	assert_true(n >= 0);
	return (entry->request_destructors >> n & 1) != 0;
}

static bool event_ends_object(const char *interface, const char *event)
{
	const struct protocol_interface *entry = find(interface);
	assert_non_null(entry);
	int n = find_message(entry->interface->events, entry->interface->event_count, event);
	assert_true(n >= 0);
	return (entry->event_destructors >> n & 1) != 0;
}

static void interfaces_are_sorted_and_unique(void **state)
{
	(void)state;
	assert_true(protocol_interfaces_len > 0);
	for (size_t i = 1; i < protocol_interfaces_len; i++) {
		const char *previous = protocol_interfaces[i - 1].interface->name;
		const char *name = protocol_interfaces[i].interface->name;
		if (strcmp(previous, name) >= 0) {
			fail_msg("%s comes before %s", previous, name);
		}
	}
}

static void no_destructor_bit_lies_beyond_the_last_message(void **state)
{
	(void)state;
	for (size_t i = 0; i < protocol_interfaces_len; i++) {
		const struct protocol_interface *entry = &protocol_interfaces[i];
		int requests = entry->interface->method_count;
		int events = entry->interface->event_count;
		assert_in_range(requests, 0, 64);
		assert_in_range(events, 0, 64);
		assert_true(requests == 64 || entry->request_destructors >> requests == 0);
		assert_true(events == 64 || entry->event_destructors >> events == 0);
	}
}

static void destructors_of_the_core_protocol_are_known(void **state)
{
	(void)state;
	assert_true(request_ends_object("wl_surface", "destroy"));
	assert_true(request_ends_object("wl_buffer", "destroy"));
	assert_true(request_ends_object("wl_keyboard", "release"));
	assert_true(event_ends_object("wl_callback", "done"));

	assert_false(request_ends_object("wl_surface", "commit"));
	assert_false(event_ends_object("wl_buffer", "release"));
	assert_false(event_ends_object("wl_output", "done"));
}

static void destructors_of_extensions_are_known(void **state)
{
	(void)state;
	assert_true(event_ends_object("wp_presentation_feedback", "presented"));
	assert_true(event_ends_object("wp_presentation_feedback", "discarded"));
	assert_true(event_ends_object("zwp_linux_buffer_release_v1", "fenced_release"));
	assert_true(event_ends_object("wp_image_description_info_v1", "done"));
	assert_true(request_ends_object("zwlr_layer_surface_v1", "destroy"));
}

static void check_messages_with_fds(
	const struct wl_interface *interface, const struct wl_message *messages, int count)
{
	for (int i = 0; i < count; i++) {
		int entries = fd_entries(interface->name, messages[i].name);
		int expected = carries_fd(&messages[i]) ? 1 : 0;
		if (entries != expected) {
			fail_msg("%s.%s has %d fd kinds, not %d", interface->name, messages[i].name,
				entries, expected);
		}
	}
}

static void every_fd_argument_has_exactly_one_kind(void **state)
{
	(void)state;
	for (size_t i = 0; i < protocol_interfaces_len; i++) {
		const struct wl_interface *interface = protocol_interfaces[i].interface;
		check_messages_with_fds(interface, interface->methods, interface->method_count);
		check_messages_with_fds(interface, interface->events, interface->event_count);
	}
}

static void every_fd_kind_belongs_to_one_message_that_carries_an_fd(void **state)
{
	(void)state;
	for (size_t i = 0; i < protocol_fds_len; i++) {
		const struct protocol_fd *fd = &protocol_fds[i];
		const struct protocol_interface *entry = find(fd->interface);
		if (entry == NULL) {
			fail_msg("%s does not exist", fd->interface);
			return;
		}
		const struct wl_interface *interface = entry->interface;
		int request =
			find_message(interface->methods, interface->method_count, fd->message);
		int event = find_message(interface->events, interface->event_count, fd->message);
		if ((request >= 0) == (event >= 0)) {
			fail_msg("%s.%s is not one message", fd->interface, fd->message);
		}
		const struct wl_message *message =
			request >= 0 ? &interface->methods[request] : &interface->events[event];
		if (!carries_fd(message)) {
			fail_msg("%s.%s carries no fd", fd->interface, fd->message);
		}
	}
}

static void fd_kinds_are_found_by_name(void **state)
{
	(void)state;
	const struct protocol_fd *fd = protocol_fd_find("wl_shm", "create_pool");
	assert_non_null(fd);
	assert_int_equal(fd->kind, PROTOCOL_FD_POOL);
	fd = protocol_fd_find("zwp_linux_buffer_params_v1", "add");
	assert_non_null(fd);
	assert_int_equal(fd->kind, PROTOCOL_FD_PLANE);

	assert_null(protocol_fd_find("wl_shm", "format"));
	assert_null(protocol_fd_find("wl_keyboard", "create_pool"));
}

static void check_types(
	const struct wl_interface *interface, const struct wl_message *messages, int count)
{
	for (int i = 0; i < count; i++) {
		size_t arg = 0;
		for (const char *c = messages[i].signature; *c != '\0'; c++) {
			if (*c == '?' || (*c >= '0' && *c <= '9')) {
				continue;
			}
			const struct wl_interface *type = messages[i].types[arg++];
			if (type == NULL) {
				continue;
			}
			const struct protocol_interface *entry = find(type->name);
			if ((*c != 'o' && *c != 'n') || entry == NULL || entry->interface != type) {
				fail_msg("%s.%s: %s is not in the index", interface->name,
					messages[i].name, type->name);
			}
		}
	}
}

static void every_interface_that_an_argument_names_is_in_the_index(void **state)
{
	(void)state;
	for (size_t i = 0; i < protocol_interfaces_len; i++) {
		const struct wl_interface *interface = protocol_interfaces[i].interface;
		check_types(interface, interface->methods, interface->method_count);
		check_types(interface, interface->events, interface->event_count);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(interfaces_are_sorted_and_unique),
		cmocka_unit_test(no_destructor_bit_lies_beyond_the_last_message),
		cmocka_unit_test(destructors_of_the_core_protocol_are_known),
		cmocka_unit_test(destructors_of_extensions_are_known),
		cmocka_unit_test(every_fd_argument_has_exactly_one_kind),
		cmocka_unit_test(every_fd_kind_belongs_to_one_message_that_carries_an_fd),
		cmocka_unit_test(fd_kinds_are_found_by_name),
		cmocka_unit_test(every_interface_that_an_argument_names_is_in_the_index),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
