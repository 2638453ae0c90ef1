#ifndef RELAY_PARAMS_H
#define RELAY_PARAMS_H

#include <stdbool.h>
#include <stdint.h>

/**
 * What a client says of a buffer in dma-bufs (zwp_linux_buffer_params_v1 of linux-dmabuf), and
 * whether that can be. Both sides check alike: the guest as its compositor would do it, the host
 * because a guest may say anything.
 */

#define PARAMS_MAX_PLANES 4 // of any format that there is

// zwp_linux_buffer_params_v1.error
enum params_error {
	PARAMS_ALREADY_USED = 0,
	PARAMS_PLANE_IDX = 1,
	PARAMS_PLANE_SET = 2,
	PARAMS_INCOMPLETE = 3,
	PARAMS_INVALID_FORMAT = 4,
	PARAMS_INVALID_DIMENSIONS = 5,
	PARAMS_OUT_OF_BOUNDS = 6,
	PARAMS_INVALID_WL_BUFFER = 7,
};

// zwp_linux_buffer_params_v1.flags
enum params_flags {
	PARAMS_Y_INVERT = 1,
	PARAMS_INTERLACED = 2,
	PARAMS_BOTTOM_FIRST = 4,
};

struct params_plane {
	bool set;
	bool usable;   // it is a dma-buf, and there is memory for its copy
	uint64_t size; // of the dma-buf, bytes
	uint32_t offset, stride;
	uint64_t modifier;
};

struct params {
	uint32_t version; // of its object
	bool implicit;    // what is told without a modifier is linear
	bool used;
	struct params_plane planes[PARAMS_MAX_PLANES];
};

// create and create_immed
struct params_picture {
	int32_t width, height;
	uint32_t format; // drm_fourcc.h
	uint32_t flags;  // enum params_flags
};

enum params_result {
	PARAMS_GOOD,
	// For "failed", or PARAMS_INVALID_WL_BUFFER where the client has its buffer already:
	// nothing that it could have known.
	PARAMS_UNSUITABLE,
	PARAMS_WRONG, // error is for the client
};

struct params_fault {
	enum params_error error;
	const char *text;
};

// May this plane be added? fault is filled in where it may not.
enum params_result params_check_add(
	const struct params *params, uint32_t index, struct params_fault *fault);
// May this picture be made of the planes? As above. All is known of the format then.
enum params_result params_check_picture(const struct params *params,
	const struct params_picture *picture, struct params_fault *fault);

#endif
