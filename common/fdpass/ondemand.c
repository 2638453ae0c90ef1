#include "fdpass/ondemand.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wayland-util.h>

#include "fdpass/fileserver.h"
#include "fdpass/kind.h"

/* ---- export ---- */

struct original {
	struct fdref ref;
	int fd;
	struct wl_list questions; // question.link, the oldest first
	size_t n_questions;
};

struct question {
	struct wl_list link;
	uint64_t offset;
	uint32_t length;
	uint32_t number;
};

static void drop_question(struct original *file, struct question *question)
{
	wl_list_remove(&question->link);
	free(question);
	file->n_questions--;
	file->ref.refs->questions--;
}

static void destroy_original(struct fdref *ref)
{
	struct original *file = (struct original *)ref;
	struct question *question, *next;
	wl_list_for_each_safe (question, next, &file->questions, link) {
		drop_question(file, question);
	}
	close(file->fd);
	free(file);
}

/* Bytes read, fewer at the end of the file; -errno. */
static ssize_t read_at(int fd, uint8_t *data, size_t len, uint64_t offset)
{
	size_t done = 0;
	while (done < len) {
		ssize_t n = pread(fd, data + done, len - done, (off_t)(offset + done));
		if (n < 0 && errno != EINTR) {
			return -errno;
		}
		if (n == 0) {
			break;
		}
		done += n > 0 ? (size_t)n : 0;
	}
	return (ssize_t)done;
}

static void answer(struct original *file, const struct question *question)
{
	uint8_t data[CHANNEL_MAX_STREAM];
	struct channel_mem_read_reply reply = {0};
	ssize_t n = read_at(file->fd, data, question->length, question->offset);
	channel_put64(reply.offset, question->offset);
	if (n < 0) {
		reply.error = (uint32_t)-n;
		n = 0;
	}
	channel_push(file->ref.refs->channel, CHANNEL_MEM_READ_REPLY, file->ref.id,
		question->number, &reply, sizeof(reply), data, (size_t)n);
	file->ref.refs->counts.memory_sent += (uint64_t)n;
}

static void answer_questions(struct original *file)
{
	while (!wl_list_empty(&file->questions) &&
		channel_queued(file->ref.refs->channel) < FDREFS_BUSY) {
		struct question *first = wl_container_of(file->questions.next, first, link);
		answer(file, first);
		drop_question(file, first);
		channel_flush(file->ref.refs->channel); // what is left then is told by drained
	}
}

static const char *handle_mem_read(struct original *file, const struct channel_frame *frame)
{
	struct channel_mem_read read;
	if (frame->header.length != sizeof(read)) {
		return "MEM_READ with a wrong length";
	}
	memcpy(&read, frame->payload, sizeof(read));
	uint64_t offset = channel_get64(read.offset);
	if (read.length == 0 || read.length > CHANNEL_MAX_STREAM ||
		offset > (uint64_t)INT64_MAX - read.length) {
		return "MEM_READ of nothing, of too much, or of what no file has";
	}
	if (file->n_questions == ONDEMAND_QUESTIONS) {
		return "MEM_READ while sixteen are not answered yet";
	}
	struct question *question = malloc(sizeof(*question));
	if (question == NULL) {
		return "out of memory";
	}
	*question = (struct question){
		.offset = offset, .length = read.length, .number = frame->header.arg};
	wl_list_insert(file->questions.prev, &question->link);
	file->n_questions++;
	file->ref.refs->questions++;
	answer_questions(file);
	return NULL;
}

static const char *handle_exported(struct fdref *ref, const struct channel_frame *frame)
{
	if (frame->header.type != CHANNEL_MEM_READ) {
		return "frame of the wrong type for a file that is read on demand";
	}
	return handle_mem_read((struct original *)ref, frame);
}

static void handle_drained(struct fdref *ref)
{
	answer_questions((struct original *)ref);
}

/* It comes home. */
static int get_original(struct fdref *ref)
{
	ref->refs->counts.homecomings++;
	int fd = fcntl(((struct original *)ref)->fd, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

static const struct fdref_interface exported = {
	.name = "file on demand",
	.frame = handle_exported,
	.get_fd = get_original,
	.named = fdrefs_close, // questions are answered until CLOSED
	.drained = handle_drained,
	.destroy = destroy_original,
};

uint32_t ondemand_export(struct fdrefs *refs, int fd, const char **wrong)
{
	struct original *file = NULL;
	struct stat st;
	uint32_t id = 0;

	*wrong = NULL;
	if (fd_kind_of(fd) != FD_KIND_FILE || fstat(fd, &st) < 0 || st.st_size < 0) {
		*wrong = "an fd that should be a file is not one";
		goto out;
	}
	if ((fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY) {
		*wrong = "a file that can be written to and is too large to copy";
		goto out;
	}
	file = calloc(1, sizeof(*file));
	if (file == NULL) {
		*wrong = "out of memory";
		goto out;
	}
	off_t offset = lseek(fd, 0, SEEK_CUR); // moves nothing
	struct channel_open_memory open = {
		.seals = fd_seals(fd), .cached = CHANNEL_CACHED_ON_DEMAND};
	channel_put64(open.size, (uint64_t)st.st_size);
	channel_put64(open.offset, offset < 0 ? 0 : (uint64_t)offset);
	if (!fdrefs_open(refs, &file->ref, &exported, CHANNEL_KIND_FILE, &open, sizeof(open))) {
		*wrong = "too many fds are open in this session";
		goto out;
	}
	id = file->ref.id;
	file->fd = fd;
	wl_list_init(&file->questions);
	refs->counts.files++;
	refs->counts.files_on_demand++;
	return id;
out:
	free(file);
	close(fd);
	return id;
}

/* ---- import ---- */

struct stand_in {
	struct fdref ref;
	struct served_file served;
	uint64_t offset;
	unsigned int going_home; // in messages that are not pushed yet
	// read.link: those that were asked, then those that wait until fewer are. The oldest first.
	struct wl_list reads;
	size_t asked;
	uint32_t last_number;
	struct event *expire; // the oldest read that somebody waits for
};

struct read {
	struct wl_list link;
	struct fuse_req *req; // NULL: nobody waits any more
	uint64_t offset;
	uint32_t size;
	uint32_t number;   // 0: not asked yet
	uint64_t deadline; // channel_clock()
};

static struct stand_in *stand_in_of(struct served_file *served)
{
	struct stand_in *file;
	return wl_container_of(served, file, served);
}

static void drop_read(struct stand_in *file, struct read *read)
{
	wl_list_remove(&read->link);
	file->asked -= read->number != 0 ? 1 : 0;
	free(read);
}

static void fail_read(struct read *read)
{
	if (read->req != NULL) {
		fileserver_fail(read->req, EIO);
		read->req = NULL;
	}
}

static void destroy_stand_in(struct fdref *ref)
{
	struct stand_in *file = (struct stand_in *)ref;
	struct read *read, *next;
	wl_list_for_each_safe (read, next, &file->reads, link) {
		fail_read(read);
		drop_read(file, read);
	}
	fileserver_remove(&file->served);
	event_free(file->expire);
	free(file);
}

/* An answer that is still to come needs the id, and so does a message that will name it. */
static void confirm_if_unused(struct stand_in *file)
{
	if (file->ref.closing && file->served.opens == 0 && file->going_home == 0 &&
		wl_list_empty(&file->reads)) {
		fdrefs_confirm_closed(&file->ref);
	}
}

static void ask(struct stand_in *file, struct read *read)
{
	struct channel_mem_read question = {.length = read->size};
	channel_put64(question.offset, read->offset);
	file->last_number += file->last_number == UINT32_MAX ? 2 : 1;
	read->number = file->last_number;
	file->asked++;
	channel_push(file->ref.refs->channel, CHANNEL_MEM_READ, file->ref.id, read->number,
		&question, sizeof(question), NULL, 0);
}

static void ask_more(struct stand_in *file)
{
	struct read *read;
	wl_list_for_each (read, &file->reads, link) {
		if (file->asked == ONDEMAND_QUESTIONS) {
			break;
		}
		if (read->number == 0) {
			ask(file, read);
		}
	}
}

static void expire_at(struct stand_in *file, uint64_t deadline)
{
	uint64_t now = channel_clock();
	uint64_t left = deadline > now ? (deadline - now) / 1000 : 0;
	struct timeval timeout = {
		.tv_sec = (time_t)(left / 1000000),
		.tv_usec = (suseconds_t)(left % 1000000),
	};
	event_add(file->expire, &timeout);
}

static void handle_expire(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct stand_in *file = data;
	struct read *read, *next;
	uint64_t now = channel_clock();
	wl_list_for_each_safe (read, next, &file->reads, link) {
		if (read->deadline > now) {
			expire_at(file, read->deadline);
			break;
		}
		fail_read(read);
		if (read->number == 0) {
			drop_read(file, read);
		}
	}
}

static void handle_read(
	struct served_file *served, struct fuse_req *req, uint64_t offset, uint32_t size)
{
	struct stand_in *file = stand_in_of(served);
	struct fdrefs *refs = file->ref.refs;
	struct read *read = calloc(1, sizeof(*read));
	if (read == NULL) {
		fileserver_fail(req, ENOMEM);
		return;
	}
	uint64_t wait = refs->rules.read_ms > 0 ? refs->rules.read_ms : ONDEMAND_READ_MS;
	read->req = req;
	read->offset = offset;
	read->size = size;
	read->deadline = channel_clock() + wait * 1000000;
	wl_list_insert(file->reads.prev, &read->link);
	if (!event_pending(file->expire, EV_TIMEOUT, NULL)) {
		expire_at(file, read->deadline);
	}
	ask_more(file);
	channel_flush(refs->channel);
}

static void handle_released(struct served_file *served)
{
	struct stand_in *file = stand_in_of(served);
	struct channel *channel = file->ref.refs->channel;
	confirm_if_unused(file);
	channel_flush(channel);
}

static const struct served_file_interface served_interface = {
	.read = handle_read,
	.released = handle_released,
};

/* The answers come in the order of the questions. */
static const char *check_reply(const struct stand_in *file, const struct read *first,
	const struct channel_frame *frame, const struct channel_mem_read_reply *reply)
{
	size_t len = frame->header.length - sizeof(*reply);
	if (file->asked == 0 || first->number != frame->header.arg ||
		first->offset != channel_get64(reply->offset)) {
		return "MEM_READ_REPLY to what was not asked, or out of order";
	}
	// The kernel takes errors up to 511.
	if (len > first->size || reply->error >= 512 || (reply->error != 0 && len > 0)) {
		return "MEM_READ_REPLY with more bytes than were asked for, or a wrong error";
	}
	return NULL;
}

static const char *handle_reply(struct stand_in *file, const struct channel_frame *frame)
{
	struct channel_mem_read_reply reply;
	if (frame->header.length < sizeof(reply)) {
		return "MEM_READ_REPLY that is too short";
	}
	memcpy(&reply, frame->payload, sizeof(reply));
	struct read *first = wl_container_of(file->reads.next, first, link);
	const char *wrong = check_reply(file, first, frame, &reply);
	if (wrong != NULL) {
		return wrong;
	}
	size_t len = frame->header.length - sizeof(reply);
	file->ref.refs->counts.memory_received += len;
	if (first->req != NULL && reply.error != 0) {
		fileserver_fail(first->req, (int)reply.error);
	} else if (first->req != NULL) {
		fileserver_answer(first->req, frame->payload + sizeof(reply), len);
	}
	drop_read(file, first);
	ask_more(file);
	confirm_if_unused(file);
	return NULL;
}

static const char *handle_imported(struct fdref *ref, const struct channel_frame *frame)
{
	struct stand_in *file = (struct stand_in *)ref;
	switch (frame->header.type) {
	case CHANNEL_MEM_READ_REPLY:
		return handle_reply(file, frame);
	case CHANNEL_CLOSE:
		confirm_if_unused(file);
		return NULL;
	default:
		return "frame of the wrong type for a file that is read on demand";
	}
}

static int get_fd(struct fdref *ref)
{
	struct stand_in *file = (struct stand_in *)ref;
	int fd = fileserver_open(&file->served, file->offset);
	fdref_identify(ref, &file->served.identity);
	return fd;
}

/* The opener keeps the original until it hears CLOSED. */
static enum fdref_again again(struct fdref *ref, int fd)
{
	(void)fd;
	((struct stand_in *)ref)->going_home++;
	return FDREF_AGAIN_NAME;
}

static void handle_named_home(struct fdref *ref)
{
	struct stand_in *file = (struct stand_in *)ref;
	file->going_home--;
	confirm_if_unused(file);
}

static const struct fdref_interface imported = {
	.name = "file on demand",
	.frame = handle_imported,
	.get_fd = get_fd,
	.again = again,
	.named = handle_named_home,
	.destroy = destroy_stand_in,
};

void ondemand_prepare(struct fdrefs *refs)
{
	if (refs->fileserver == NULL) {
		refs->fileserver = fileserver_create(refs->base);
	}
}

const char *ondemand_import(
	struct fdrefs *refs, const struct channel_open_memory *open, struct fdref **ref)
{
	if (refs->fileserver == NULL) {
		return "a file to be read on demand, for which there is no /dev/fuse";
	}
	const char *wrong = fileserver_start(refs->fileserver);
	if (wrong != NULL) {
		return wrong;
	}
	struct stand_in *file = calloc(1, sizeof(*file));
	if (file == NULL) {
		return "out of memory";
	}
	file->expire = evtimer_new(refs->base, handle_expire, file);
	if (file->expire == NULL) {
		free(file);
		return "out of memory";
	}
	file->ref.interface = &imported;
	file->offset = channel_get64(open->offset);
	wl_list_init(&file->reads);
	fileserver_add(
		refs->fileserver, &file->served, &served_interface, channel_get64(open->size));
	refs->counts.files++;
	refs->counts.files_on_demand++;
	*ref = &file->ref;
	return NULL;
}
