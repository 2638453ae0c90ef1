#ifndef FDPASS_CONTENT_H
#define FDPASS_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * Write-once files are named by what is in them, so that one that the other side has already need
 * not cross again: a hundred clients cost one keymap.
 */

#define CONTENT_HASH_SIZE 16

// BLAKE2b of the bytes (libsodium's crypto_generichash), 128 bits.
struct content_hash {
	uint8_t bytes[CONTENT_HASH_SIZE];
};

#define CONTENT_STORE_MAX 8          // files
#define CONTENT_FILE_MAX  (1u << 20) // bytes of one file worth keeping

// Sealed memfds by hash; the oldest makes room for the newest. A plain value, embedded.
struct content_store {
	size_t count;
	struct content_entry {
		struct content_hash hash;
		int fd;
	} entries[CONTENT_STORE_MAX];
};

void content_store_init(struct content_store *store);
void content_store_finish(struct content_store *store);
// Borrowed fd, or -1.
int content_store_get(const struct content_store *store, const struct content_hash *hash);
// Takes fd. Closes it if the hash is there already.
void content_store_put(struct content_store *store, const struct content_hash *hash, int fd);

void content_hash_bytes(struct content_hash *hash, const void *data, size_t len);
bool content_hash_equal(const struct content_hash *a, const struct content_hash *b);
// Whether fd is a memfd sealed against every change, of at most CONTENT_FILE_MAX bytes, that hash
// is the hash of. For who got both from a process that it does not trust.
bool content_check(const struct content_hash *hash, int fd);

#endif
