#ifndef EXAMPLES_MOJO_FORMAT_H
#define EXAMPLES_MOJO_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * The heads of a Mojo channel's messages, as Chromium has had them over the years. Little-endian.
 */
enum mojo_format {
	MOJO_LEGACY, // 8 bytes: size of all u32, handles u16, type u16 = 0
	MOJO_NORMAL, // 16 bytes: size of all u32, of the head u16, type u16, handles u16, 6 zeros
	MOJO_IPCZ,   // 8 or 16 bytes: size of the head u16, handles u16, size of all u32, time i64
};

#define MOJO_HEADER_MIN  8
#define MOJO_HEADER_MAX  16
#define MOJO_MESSAGE_MAX (256u * 1024 * 1024)

struct mojo_header {
	size_t size;    // of the head itself
	size_t payload; // bytes behind it
	size_t handles;
};

// "legacy", "normal" or "ipcz"; false for any other word.
bool mojo_format_parse(const char *word, enum mojo_format *format);
const char *mojo_format_name(enum mojo_format format);
// That of a first message with 9 to 65519 bytes of payload, by MOJO_HEADER_MIN bytes of its head.
enum mojo_format mojo_format_detect(const uint8_t *bytes);

// Writes header->size bytes, and sets that. payload and handles are the caller's.
void mojo_header_encode(enum mojo_format format, struct mojo_header *header, uint8_t *bytes);
// Whether the len bytes have a whole head. *wrong is set to a phrase if it is none.
bool mojo_header_decode(enum mojo_format format, const uint8_t *bytes, size_t len,
	struct mojo_header *header, const char **wrong);

#endif
