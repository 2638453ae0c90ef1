#include "fdpass/content.h"

#include <assert.h>
#include <fcntl.h>
#include <sodium.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

static_assert(CONTENT_HASH_SIZE >= crypto_generichash_BYTES_MIN, "libsodium's shortest hash");

void content_store_init(struct content_store *store)
{
	*store = (struct content_store){0};
	for (size_t i = 0; i < CONTENT_STORE_MAX; i++) {
		store->entries[i].fd = -1;
	}
}

void content_store_finish(struct content_store *store)
{
	for (size_t i = 0; i < store->count; i++) {
		close(store->entries[i].fd);
	}
	content_store_init(store);
}

int content_store_get(const struct content_store *store, const struct content_hash *hash)
{
	for (size_t i = 0; i < store->count; i++) {
		if (content_hash_equal(&store->entries[i].hash, hash)) {
			return store->entries[i].fd;
		}
	}
	return -1;
}

// The entries are in the order they came.
void content_store_put(struct content_store *store, const struct content_hash *hash, int fd)
{
	if (content_store_get(store, hash) >= 0) {
		close(fd);
		return;
	}
	if (store->count == CONTENT_STORE_MAX) {
		close(store->entries[0].fd);
		store->count--;
		memmove(store->entries, store->entries + 1,
			store->count * sizeof(store->entries[0]));
	}
	store->entries[store->count++] = (struct content_entry){.hash = *hash, .fd = fd};
}

void content_hash_bytes(struct content_hash *hash, const void *data, size_t len)
{
	static bool initialised; // without it, libsodium uses its slowest code
	if (!initialised) {
		initialised = sodium_init() >= 0;
	}
	crypto_generichash(hash->bytes, sizeof(hash->bytes), data, len, NULL, 0);
}

bool content_hash_equal(const struct content_hash *a, const struct content_hash *b)
{
	return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

bool content_check(const struct content_hash *hash, int fd)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &st) < 0 || st.st_size <= 0 ||
		st.st_size > CONTENT_FILE_MAX) {
		return false;
	}
	size_t len = (size_t)st.st_size;
	void *data = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
	if (data == MAP_FAILED) {
		return false;
	}
	struct content_hash found;
	content_hash_bytes(&found, data, len);
	munmap(data, len);
	return content_hash_equal(&found, hash);
}
