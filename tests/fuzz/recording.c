#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "channel/recording.h"
#include "guest-proxy/mutation.h"
#include "guest-proxy/translation.h"
#include "tests/fuzz/fuzz.h"
#include "wire/schema.h"

/*
 * A file for --replay that somebody else has made: it is read, mutated, and walked through, with what
 * is recorded as the live run's frames, too. An input is the file.
 */

static void walk(struct translation *translation, const struct recorded_frame *frame)
{
	uint8_t *payload = malloc(frame->header.length + 1);
	fuzz_check(payload != NULL, "memory for a frame");
	struct channel_header header = frame->header;
	memcpy(payload, frame->payload, header.length);
	if (frame->direction == RECORD_TO_GUEST) {
		translation_hear(translation, TRANSLATION_RECORDED, &header, payload);
		translation_hear(translation, TRANSLATION_LIVE, &header, payload);
		fuzz_check(translation_caught_up(translation), "equal runs owe nothing");
	} else if (header.type == CHANNEL_MESSAGES) {
		translation_messages(translation, &header, payload);
	} else {
		translation_fdref(translation, &header);
	}
	free(payload);
}

static void walk_all(const struct recording *recording, bool lenient)
{
	struct translation translation;
	fuzz_check(translation_init(&translation, lenient), "memory for a translation");
	const struct recorded_frame *frame;
	wl_list_for_each (frame, &recording->frames, link) {
		walk(&translation, frame);
	}
	translation_finish(&translation);
}

void fuzz_one(struct fuzz_input *input)
{
	struct recording recording;
	size_t n_mutations;
	int fd = memfd_create("recording", MFD_CLOEXEC);
	fuzz_check(
		fd >= 0 && write(fd, input->data, input->size) == (ssize_t)input->size, "a file");
	fuzz_check(lseek(fd, 0, SEEK_SET) == 0, "its beginning");
	recording_init(&recording);
	if (recording_read(&recording, fd) == NULL) {
		walk_all(&recording, false);
		fuzz_check(mutation_apply(&recording, input->size, &n_mutations), "a mutation");
		walk_all(&recording, true);
	}
	recording_finish(&recording);
	close(fd);
	wire_schema_finish();
}
