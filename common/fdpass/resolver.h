#ifndef FDPASS_RESOLVER_H
#define FDPASS_RESOLVER_H

#include <stddef.h>
#include <stdint.h>

struct json_object;
struct mapping;

/**
 * Where the importer of a dma-buf gets one of its own from, which compositors can import: it is made, or
 * found. What the other side says of a buffer is all that it goes by, and none of it is trusted.
 */

struct resolver_buffer {
	int fd;                  // the dma-buf: CLOEXEC
	struct mapping *mapping; // of its bytes, writable; NULL: of one that was found
	uint64_t size;           // of the dma-buf: at least what was asked for, in whole pages
};

struct resolver {
	const struct resolver_interface *interface;
};

struct resolver_interface {
	const char *name; // "copy", "handle"
	// Makes a buffer for at least size bytes, which is not 0 and has been charged: all zeros. It is the
	// caller's: fd and one reference to mapping. 0 or -errno, which has been logged. NULL: never.
	int (*make)(struct resolver *resolver, uint64_t size, struct resolver_buffer *buffer);
	// Makes one of a part of memory, which cannot shrink: size bytes from offset on, in whole pages. Its
	// bytes are mapped elsewhere: buffer->mapping is NULL. 0 or -errno, of which nothing is logged. NULL: never.
	int (*wrap)(struct resolver *resolver, int memory, uint64_t offset, uint64_t size,
		struct resolver_buffer *buffer);
	// Finds the one that the guest's GPU knows by this number, in which the guest has size bytes. The
	// pages are the guest's. buffer->fd is the caller's. 0 or -errno, which has been logged. NULL: never.
	int (*find)(struct resolver *resolver, uint32_t resource, uint64_t size,
		struct resolver_buffer *buffer);
	void (*destroy)(struct resolver *resolver);
};

// Buffers that rows are copied into: pages of ours behind /dev/udmabuf, else of /dev/dma_heap/system.
// The devices are opened now, as they cannot be later in a sandbox. NULL with errno: there is neither.
struct resolver *resolver_create_copy(void);

// Buffers of the guest's virtio-gpu, which a service knows (protocol/resolver.md) that socket is connected to:
// SOCK_SEQPACKET, taken also on failure. It is waited for, for two seconds at most; one that does not
// answer, or in no way that makes sense, is not asked again, and nothing is found any more. NULL: ENOMEM.
struct resolver *resolver_create_handle(int socket);

// A packet of that protocol, which may be anything: the caller's (json_object_put). NULL: it is not one JSON
// value and nothing else.
struct json_object *resolver_parse(const char *text, size_t len);

void resolver_destroy(struct resolver *resolver); // NULL is fine

#endif
