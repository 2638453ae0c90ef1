#ifndef EXAMPLES_MOJO_HANDLE_H
#define EXAMPLES_MOJO_HANDLE_H

#include <stdint.h>

struct event_base;

/**
 * Handles that tell where they belong: each brings the number of its message and its place in it.
 */
enum handle_kind {
	HANDLE_PIPE,   // a read end with the tag in it
	HANDLE_SOCKET, // a stream socket, likewise
	HANDLE_REGION, // read-only memory whose bytes follow from the tag
	HANDLE_DEVICE, // /dev/null, which has no tag
};
#define HANDLE_TAGGED 3 // kinds that have one, the first of all
#define HANDLE_KINDS  4

struct handle_tag {
	uint64_t seed;
	uint32_t message;
	uint32_t position;
};

enum handle_kind handle_kind_at(const struct handle_tag *tag, unsigned int kinds);

// A CLOEXEC fd, or -errno.
int handle_create(enum handle_kind kind, const struct handle_tag *tag);

/* Waits until the tag of a received handle has come, and compares it. */
struct handle_check;
// wrong: NULL if it is what was sent. May destroy the check.
typedef void (*handle_checked)(void *data, struct handle_check *check, const char *wrong);
// Takes fd, also on failure. NULL on ENOMEM.
struct handle_check *handle_check_create(
	struct event_base *base, int fd, enum handle_kind kind, const struct handle_tag *tag);
// Calls checked once, perhaps at once.
void handle_check_start(struct handle_check *check, handle_checked checked, void *data);
void handle_check_destroy(struct handle_check *check); // closes; also from inside checked

#endif
