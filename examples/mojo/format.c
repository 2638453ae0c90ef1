#include "examples/mojo/format.h"

#include <assert.h>
#include <endian.h>
#include <string.h>
#include <time.h>

struct legacy_header {
	uint32_t num_bytes;
	uint16_t num_handles;
	uint16_t type;
};
static_assert(sizeof(struct legacy_header) == 8, "legacy header");

#define TYPE_LEGACY 0
#define TYPE_NORMAL 1

struct normal_header {
	uint32_t num_bytes;
	uint16_t num_header_bytes;
	uint16_t type;
	uint16_t num_handles;
	uint8_t zero[6];
};
static_assert(sizeof(struct normal_header) == 16, "normal header");

// Older senders stop before the time.
struct ipcz_header {
	uint16_t size;
	uint16_t num_handles;
	uint32_t num_bytes;
	int64_t created; // microseconds of CLOCK_MONOTONIC
};
static_assert(sizeof(struct ipcz_header) == 16, "ipcz header");

static const char *const names[] = {"legacy", "normal", "ipcz"};

bool mojo_format_parse(const char *word, enum mojo_format *format)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(word, names[i]) == 0) {
			*format = (enum mojo_format)i;
			return true;
		}
	}
	return false;
}

const char *mojo_format_name(enum mojo_format format)
{
	return names[format];
}

enum mojo_format mojo_format_detect(const uint8_t *bytes)
{
	struct ipcz_header ipcz;
	struct legacy_header legacy;
	memcpy(&ipcz, bytes, MOJO_HEADER_MIN);
	memcpy(&legacy, bytes, sizeof(legacy));
	if (le16toh(ipcz.size) == MOJO_HEADER_MIN || le16toh(ipcz.size) == MOJO_HEADER_MAX) {
		return MOJO_IPCZ;
	}
	return le16toh(legacy.type) == TYPE_LEGACY ? MOJO_LEGACY : MOJO_NORMAL;
}

static int64_t now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void encode_legacy(struct mojo_header *header, uint8_t *bytes)
{
	struct legacy_header legacy = {
		.num_bytes = htole32((uint32_t)(sizeof(legacy) + header->payload)),
		.num_handles = htole16((uint16_t)header->handles),
		.type = htole16(TYPE_LEGACY),
	};
	header->size = sizeof(legacy);
	memcpy(bytes, &legacy, sizeof(legacy));
}

static void encode_normal(struct mojo_header *header, uint8_t *bytes)
{
	struct normal_header normal = {
		.num_bytes = htole32((uint32_t)(sizeof(normal) + header->payload)),
		.num_header_bytes = htole16(sizeof(normal)),
		.type = htole16(TYPE_NORMAL),
		.num_handles = htole16((uint16_t)header->handles),
	};
	header->size = sizeof(normal);
	memcpy(bytes, &normal, sizeof(normal));
}

static void encode_ipcz(struct mojo_header *header, uint8_t *bytes)
{
	struct ipcz_header ipcz = {
		.size = htole16(sizeof(ipcz)),
		.num_handles = htole16((uint16_t)header->handles),
		.num_bytes = htole32((uint32_t)(sizeof(ipcz) + header->payload)),
		.created = (int64_t)htole64((uint64_t)now_us()),
	};
	header->size = sizeof(ipcz);
	memcpy(bytes, &ipcz, sizeof(ipcz));
}

void mojo_header_encode(enum mojo_format format, struct mojo_header *header, uint8_t *bytes)
{
	switch (format) {
	case MOJO_LEGACY:
		encode_legacy(header, bytes);
		break;
	case MOJO_NORMAL:
		encode_normal(header, bytes);
		break;
	case MOJO_IPCZ:
		encode_ipcz(header, bytes);
		break;
	}
}

static size_t decode_legacy(const uint8_t *bytes, struct mojo_header *header, const char **wrong)
{
	struct legacy_header legacy;
	memcpy(&legacy, bytes, sizeof(legacy));
	if (le16toh(legacy.type) != TYPE_LEGACY) {
		*wrong = "a message of another type than 0";
	}
	header->size = sizeof(legacy);
	header->handles = le16toh(legacy.num_handles);
	return le32toh(legacy.num_bytes);
}

static size_t decode_normal(const uint8_t *bytes, struct mojo_header *header, const char **wrong)
{
	struct normal_header normal;
	memcpy(&normal, bytes, sizeof(normal));
	if (le16toh(normal.num_header_bytes) != sizeof(normal) ||
		le16toh(normal.type) == TYPE_LEGACY) {
		*wrong = "a head of another size than 16 or of type 0";
	}
	header->size = sizeof(normal);
	header->handles = le16toh(normal.num_handles);
	return le32toh(normal.num_bytes);
}

static size_t decode_ipcz(const uint8_t *bytes, struct mojo_header *header, const char **wrong)
{
	struct ipcz_header ipcz;
	memcpy(&ipcz, bytes, MOJO_HEADER_MIN);
	header->size = le16toh(ipcz.size);
	if (header->size != MOJO_HEADER_MIN && header->size != MOJO_HEADER_MAX) {
		*wrong = "a head of another size than 8 or 16";
	}
	header->handles = le16toh(ipcz.num_handles);
	return le32toh(ipcz.num_bytes);
}

bool mojo_header_decode(enum mojo_format format, const uint8_t *bytes, size_t len,
	struct mojo_header *header, const char **wrong)
{
	if (len < (format == MOJO_NORMAL ? MOJO_HEADER_MAX : MOJO_HEADER_MIN)) {
		return false;
	}
	size_t total = 0;
	switch (format) {
	case MOJO_LEGACY:
		total = decode_legacy(bytes, header, wrong);
		break;
	case MOJO_NORMAL:
		total = decode_normal(bytes, header, wrong);
		break;
	case MOJO_IPCZ:
		total = decode_ipcz(bytes, header, wrong);
		break;
	}
	if (total < header->size || total > MOJO_MESSAGE_MAX) {
		*wrong = "a message that is shorter than its head or longer than 256 MiB";
		return true;
	}
	header->payload = total - header->size;
	return true;
}
