#include "tests/bench/opaque/object.h"

#include <err.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "tests/bench/noise.h"

#define MEMORY_SIZE  4096
#define MEMORY_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

// Either end writes one word; the two differ.
static uint64_t word_of(uint64_t number, bool answer)
{
	return answer ? ~number : number;
}

static bool write_word(int fd, uint64_t word)
{
	return write(fd, &word, sizeof(word)) == sizeof(word);
}

static bool read_word(int fd, uint64_t expected)
{
	uint64_t word;
	size_t length = 0;
	while (length < sizeof(word)) {
		ssize_t got = read(fd, (char *)&word + length, sizeof(word) - length);
		if (got <= 0) {
			return false;
		}
		length += (size_t)got;
	}
	return word == expected;
}

static bool at_end(int fd)
{
	char byte;
	return read(fd, &byte, 1) == 0;
}

static int create_read_end(struct object *object)
{
	int fds[2];
	if (pipe2(fds, O_CLOEXEC) < 0 || !write_word(fds[1], word_of(object->number, false))) {
		err(1, "pipe");
	}
	close(fds[1]);
	return fds[0];
}

static bool use_read_end(int fd, uint64_t number)
{
	return read_word(fd, word_of(number, false)) && at_end(fd);
}

static int create_write_end(struct object *object)
{
	int fds[2];
	if (pipe2(fds, O_CLOEXEC) < 0) {
		err(1, "pipe");
	}
	object->fd = fds[0];
	return fds[1];
}

static bool use_write_end(int fd, uint64_t number)
{
	return write_word(fd, word_of(number, true));
}

static int create_socket(struct object *object)
{
	int fds[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 ||
		!write_word(fds[0], word_of(object->number, false))) {
		err(1, "socketpair");
	}
	object->fd = fds[0];
	return fds[1];
}

static bool use_socket(int fd, uint64_t number)
{
	return read_word(fd, word_of(number, false)) && write_word(fd, word_of(number, true));
}

static int create_memory(struct object *object)
{
	char bytes[MEMORY_SIZE];
	noise_fill(bytes, sizeof(bytes), object->number);
	int fd = memfd_create("bench-object", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || pwrite(fd, bytes, sizeof(bytes), 0) != sizeof(bytes) ||
		fcntl(fd, F_ADD_SEALS, MEMORY_SEALS) < 0) {
		err(1, "memfd");
	}
	return fd;
}

static bool use_memory(int fd, uint64_t number)
{
	char bytes[MEMORY_SIZE], expected[MEMORY_SIZE];
	struct stat stat;
	noise_fill(expected, sizeof(expected), number);
	return fstat(fd, &stat) == 0 && stat.st_size == MEMORY_SIZE &&
		fcntl(fd, F_GET_SEALS) == MEMORY_SEALS &&
		pread(fd, bytes, sizeof(bytes), 0) == sizeof(bytes) &&
		memcmp(bytes, expected, sizeof(bytes)) == 0;
}

static const struct {
	int (*create)(struct object *object);
	bool (*use)(int fd, uint64_t number);
} kinds[OBJECT_KINDS] = {
	[OBJECT_READ_END] = {create_read_end, use_read_end},
	[OBJECT_WRITE_END] = {create_write_end, use_write_end},
	[OBJECT_SOCKET] = {create_socket, use_socket},
	[OBJECT_MEMORY] = {create_memory, use_memory},
};

int object_create(struct object *object, uint64_t number)
{
	*object = (struct object){.number = number, .fd = -1};
	return kinds[number % OBJECT_KINDS].create(object);
}

bool object_use(int fd, uint64_t number)
{
	bool right = kinds[number % OBJECT_KINDS].use(fd, number);
	close(fd);
	return right;
}

bool object_finish(struct object *object)
{
	if (object->fd < 0) {
		return true;
	}
	bool right = read_word(object->fd, word_of(object->number, true)) && at_end(object->fd);
	close(object->fd);
	object->fd = -1;
	return right;
}
