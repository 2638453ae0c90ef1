#include "examples/mojo/handle.h"

#include <errno.h>
#include <event2/buffer.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "examples/mojo/flow.h"
#include "examples/mojo/pattern.h"
#include "examples/mojo/region.h"

#define REGION_SIZE_MAX 8192

struct handle_check {
	struct event_base *base;
	int fd;
	enum handle_kind kind;
	struct handle_tag tag;
	struct flow_reader *reader;
	handle_checked checked;
	void *data;
};

static uint64_t tag_number(const struct handle_tag *tag)
{
	return pattern_number(tag->seed, (uint64_t)tag->message << 32 | tag->position);
}

enum handle_kind handle_kind_at(const struct handle_tag *tag, unsigned int kinds)
{
	return (enum handle_kind)(tag_number(tag) % kinds);
}

static size_t region_size(const struct handle_tag *tag)
{
	return pattern_between(tag_number(tag), 0, 1, REGION_SIZE_MAX);
}

/* Leaves the tag for the one who gets read_end, and the end after it. */
static int put_tag(int write_end, int read_end, const struct handle_tag *tag)
{
	ssize_t n = write(write_end, tag, sizeof(*tag)); // an empty pipe or socket takes it all
	int ret = n == sizeof(*tag) ? read_end : -EIO;
	close(write_end);
	if (ret < 0) {
		close(read_end);
	}
	return ret;
}

static int create_pipe(const struct handle_tag *tag)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0) {
		return -errno;
	}
	return put_tag(ends[1], ends[0], tag);
}

static int create_socket(const struct handle_tag *tag)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
		return -errno;
	}
	return put_tag(ends[1], ends[0], tag);
}

static int open_device(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int handle_create(enum handle_kind kind, const struct handle_tag *tag)
{
	switch (kind) {
	case HANDLE_PIPE:
		return create_pipe(tag);
	case HANDLE_SOCKET:
		return create_socket(tag);
	case HANDLE_REGION:
		return region_create(REGION_MEMFD, region_size(tag), tag_number(tag));
	case HANDLE_DEVICE:
		return open_device();
	}
	return -EINVAL;
}

struct handle_check *handle_check_create(
	struct event_base *base, int fd, enum handle_kind kind, const struct handle_tag *tag)
{
	struct handle_check *check = calloc(1, sizeof(*check));
	if (check == NULL) {
		close(fd);
		return NULL;
	}
	check->base = base;
	check->fd = fd;
	check->kind = kind;
	check->tag = *tag;
	return check;
}

void handle_check_destroy(struct handle_check *check)
{
	if (check == NULL) {
		return;
	}
	flow_reader_destroy(check->reader);
	close(check->fd);
	free(check);
}

static void finish(struct handle_check *check, const char *wrong)
{
	check->checked(check->data, check, wrong);
}

static void handle_read(void *data, struct evbuffer *bytes, int error)
{
	struct handle_check *check = data;
	struct handle_tag tag;
	if (error != 0 || evbuffer_get_length(bytes) != sizeof(tag)) {
		finish(check, "a handle with another number of bytes in it");
		return;
	}
	evbuffer_copyout(bytes, &tag, sizeof(tag));
	bool same = memcmp(&tag, &check->tag, sizeof(tag)) == 0;
	finish(check, same ? NULL : "a handle of another message or place");
}

static const char *check_device(int fd)
{
	struct stat st;
	bool is_null = fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3);
	return is_null ? NULL : "a handle that is not /dev/null";
}

static bool is_of_kind(int fd, enum handle_kind kind)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);
	if (fstat(fd, &st) < 0 || flags < 0) {
		return false;
	}
	return kind == HANDLE_PIPE ? S_ISFIFO(st.st_mode) && (flags & O_ACCMODE) == O_RDONLY
				   : S_ISSOCK(st.st_mode);
}

static void check_stream(struct handle_check *check)
{
	if (!is_of_kind(check->fd, check->kind)) {
		finish(check, "a handle of another kind");
		return;
	}
	check->reader = flow_reader_create(check->base, check->fd, SIZE_MAX, handle_read, check);
	if (check->reader == NULL) {
		finish(check, "out of memory");
	}
}

static void check_region(struct handle_check *check)
{
	uint64_t hash = 0;
	finish(check,
		region_check(check->fd, REGION_MEMFD, region_size(&check->tag),
			tag_number(&check->tag), &hash));
}

void handle_check_start(struct handle_check *check, handle_checked checked, void *data)
{
	check->checked = checked;
	check->data = data;
	switch (check->kind) {
	case HANDLE_PIPE:
	case HANDLE_SOCKET:
		check_stream(check);
		break;
	case HANDLE_REGION:
		check_region(check);
		break;
	case HANDLE_DEVICE:
		finish(check, check_device(check->fd));
		break;
	}
}
