#include "tests/fuzz/things.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/stand_ins.h"
#include "tests/support/syncobjs.h"

#define SIZE (4u * 4096)

void things_close(int *fd)
{
	if (*fd >= 0) {
		close(*fd);
		*fd = -1;
	}
}

bool things_ready(int fd, short what)
{
	struct pollfd poll_fd = {.fd = fd, .events = what};
	return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & what) != 0;
}

static int make_memory(unsigned int seals)
{
	int fd = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	fuzz_check(fd >= 0 && ftruncate(fd, SIZE) == 0, "a memfd can be made");
	fuzz_check(seals == 0 || fcntl(fd, F_ADD_SEALS, seals) == 0, "a memfd can be sealed");
	return fd;
}

/* Takes fd, for one that can only be read. */
static int reopen(int fd)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int reopened = open(path, O_RDONLY | O_CLOEXEC);
	close(fd);
	return reopened;
}

static void make_pair(struct things *things, enum thing first, int type)
{
	int pair[2];
	int status = type == 0 ? pipe2(pair, O_CLOEXEC | O_NONBLOCK)
			       : socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair);
	fuzz_check(status == 0, "a pair can be made");
	things_close(&things->made[first]);
	things_close(&things->made[first + 1]);
	things->made[first] = pair[0];
	things->made[first + 1] = pair[1];
}

/* The same one again where it was made before. */
static int make_timeline(struct things *things)
{
	if (things->timeline == 0) {
		things->timeline = syncobj_create(things->node);
	}
	return syncobj_export(things->node, things->timeline);
}

static void make(struct things *things, enum thing thing)
{
	int *fd = &things->made[thing];
	switch (thing) {
	case THING_MEMORY:
		*fd = make_memory(0);
		break;
	case THING_SEALED_MEMORY:
		*fd = make_memory(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
		break;
	case THING_FILE_TO_READ:
		*fd = reopen(make_memory(0));
		break;
	case THING_PIPE_READ:
	case THING_PIPE_WRITE:
		make_pair(things, THING_PIPE_READ, 0);
		break;
	case THING_STREAM_A:
	case THING_STREAM_B:
		make_pair(things, THING_STREAM_A, SOCK_STREAM);
		break;
	case THING_RECORDS_A:
	case THING_RECORDS_B:
		make_pair(things, THING_RECORDS_A, SOCK_SEQPACKET);
		break;
	case THING_EVENT:
	case THING_QUEUE:
		*fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		break;
	case THING_SEMAPHORE:
		*fd = eventfd(3, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
		break;
	case THING_NULL_DEVICE:
		*fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		break;
	case THING_DIRECTORY:
		*fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		break;
	case THING_FENCE:
		*fd = stand_in_fence();
		break;
	case THING_TIMELINE:
		*fd = make_timeline(things);
		break;
	case THING_BUFFER:
		*fd = stand_in_buffer(SIZE);
		break;
	case THING_BUFFER_TO_READ:
		*fd = reopen(stand_in_buffer(SIZE));
		break;
	case THINGS:
		break;
	}
	fuzz_check(*fd >= 0, "an fd can be made");
}

void things_init(struct things *things)
{
	*things = (struct things){.node = syncobjs_open_node()};
	memset(things->made, -1, sizeof(things->made));
	memset(things->held, -1, sizeof(things->held));
}

void things_finish(struct things *things)
{
	for (int i = 0; i < THINGS; i++) {
		things_close(&things->made[i]);
	}
	for (int i = 0; i < THINGS_HELD; i++) {
		things_close(&things->held[i]);
	}
	if (things->timeline != 0) {
		syncobj_destroy(things->node, things->timeline);
	}
	things_close(&things->node);
}

int *things_get(struct things *things, uint8_t number)
{
	if (number >= 0x80) {
		return &things->held[number % THINGS_HELD];
	}
	enum thing thing = number % THINGS;
	if (things->made[thing] < 0) {
		make(things, thing);
	}
	return &things->made[thing];
}

void things_take(struct things *things, struct fuzz_input *input, struct fdlist *fds)
{
	fdlist_init(fds);
	for (uint8_t n = fuzz_take8(input) % (THINGS_SENT + 1); n > 0; n--) {
		int fd = *things_get(things, fuzz_take8(input));
		if (fd >= 0) {
			fdlist_push(fds, fcntl(fd, F_DUPFD_CLOEXEC, 0));
		}
	}
}

void things_send(int end, const void *data, size_t len, struct fdlist *fds)
{
	const struct iovec iov = {.iov_base = (void *)data, .iov_len = len};
	if (end >= 0) {
		scm_send(end, &iov, 1, fds, fds->count);
	}
	fdlist_finish(fds);
}

void things_send_bytes(struct things *things, int end, struct fuzz_input *input)
{
	uint8_t bytes[UINT8_MAX];
	struct fdlist fds;
	things_take(things, input, &fds);
	size_t len = fuzz_take8(input);
	len = fuzz_take(input, bytes, len);
	things_send(end, bytes, len, &fds);
}

void things_hold(struct things *things, int fd)
{
	int *held = &things->held[things->next_held++ % THINGS_HELD];
	things_close(held);
	*held = fd;
}

bool things_have(const struct things *things, int fd)
{
	struct stat wanted, st;
	fuzz_check(fstat(fd, &wanted) == 0, "an fd is one");
	for (int i = 0; i < THINGS; i++) {
		if (things->made[i] >= 0 && fstat(things->made[i], &st) == 0 &&
			st.st_dev == wanted.st_dev && st.st_ino == wanted.st_ino) {
			return true;
		}
	}
	return false;
}
