/**
 * Shows two pictures by MIT-SHM where the server attaches the memory, or else without it, as a client
 * that means well does, and prints a sum of the pixels that the server then has.
 *
 * xshm fd     MIT-SHM 1.2: the memory's fd goes to the server
 * xshm get    MIT-SHM 1.2: the server makes the memory and its fd comes
 * xshm sysv   a System V segment
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>
#include <xcb/shm.h>
#include <xcb/xcb.h>

#define SIDE 64
#define SIZE (SIDE * SIDE * 4)

struct memory {
	uint32_t *pixels;
	xcb_shm_seg_t segment;
};

static void fail(const char *what)
{
	fprintf(stderr, "xshm: %s\n", what);
	exit(1);
}

// True if the server has attached it; takes error.
static bool attached(xcb_connection_t *connection, xcb_generic_error_t *error)
{
	if (xcb_connection_has_error(connection)) {
		fail("the connection has ended");
	}
	if (error == NULL) {
		return true;
	}
	printf("refused, error %d\n", error->error_code);
	free(error);
	return false;
}

static bool attach_fd(xcb_connection_t *connection, struct memory *memory)
{
	int fd = memfd_create("xshm", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, SIZE) < 0) {
		fail("memfd");
	}
	memory->pixels = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory->pixels == MAP_FAILED) {
		fail("mmap");
	}
	// xcb takes the fd.
	return attached(connection,
		xcb_request_check(connection,
			xcb_shm_attach_fd_checked(connection, memory->segment, fd, false)));
}

static bool attach_theirs(xcb_connection_t *connection, struct memory *memory)
{
	xcb_generic_error_t *error = NULL;
	xcb_shm_create_segment_reply_t *reply = xcb_shm_create_segment_reply(connection,
		xcb_shm_create_segment(connection, memory->segment, SIZE, false), &error);
	if (reply == NULL) {
		return attached(connection, error);
	}
	int fd = xcb_shm_create_segment_reply_fds(connection, reply)[0];
	free(reply);
	memory->pixels = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (memory->pixels == MAP_FAILED) {
		printf("refused, it cannot be mapped\n");
		memory->pixels = NULL;
		xcb_shm_detach(connection, memory->segment);
		return false;
	}
	return true;
}

static bool attach_sysv(xcb_connection_t *connection, struct memory *memory)
{
	int id = shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600);
	if (id < 0) {
		fail("shmget");
	}
	memory->pixels = shmat(id, NULL, 0);
	if (memory->pixels == (void *)-1) {
		fail("shmat");
	}
	bool done = attached(connection,
		xcb_request_check(connection,
			xcb_shm_attach_checked(connection, memory->segment, (uint32_t)id, false)));
	shmctl(id, IPC_RMID, NULL);
	return done;
}

static const struct {
	const char *name;
	bool (*attach)(xcb_connection_t *connection, struct memory *memory);
} ways[] = {
	{"fd", attach_fd},
	{"get", attach_theirs},
	{"sysv", attach_sysv},
};

static void paint(uint32_t *pixels, uint32_t seed)
{
	for (uint32_t i = 0; i < SIDE * SIDE; i++) {
		pixels[i] = (i * 2654435761u + seed) & 0xffffff;
	}
}

static void print_sum(xcb_connection_t *connection, xcb_window_t window)
{
	xcb_get_image_reply_t *reply = xcb_get_image_reply(connection,
		xcb_get_image(connection, XCB_IMAGE_FORMAT_Z_PIXMAP, window, 0, 0, SIDE, SIDE, ~0u),
		NULL);
	if (reply == NULL || xcb_get_image_data_length(reply) != SIZE) {
		fail("GetImage");
	}
	const uint8_t *bytes = xcb_get_image_data(reply);
	uint32_t sum = 2166136261u; // FNV-1a, without the unused byte of each pixel
	for (int i = 0; i < SIZE; i++) {
		sum = i % 4 == 3 ? sum : (sum ^ bytes[i]) * 16777619u;
	}
	printf("picture %08x\n", sum);
	free(reply);
}

static xcb_window_t create_window(xcb_connection_t *connection, const xcb_screen_t *screen)
{
	xcb_window_t window = xcb_generate_id(connection);
	const uint32_t values[] = {screen->black_pixel, true};
	xcb_create_window(connection, XCB_COPY_FROM_PARENT, window, screen->root, 0, 0, SIDE, SIDE,
		0, XCB_WINDOW_CLASS_INPUT_OUTPUT, XCB_COPY_FROM_PARENT,
		XCB_CW_BACK_PIXEL | XCB_CW_OVERRIDE_REDIRECT, values);
	xcb_map_window(connection, window);
	return window;
}

static bool attach(xcb_connection_t *connection, const char *way, struct memory *memory)
{
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		if (strcmp(ways[i].name, way) == 0) {
			return ways[i].attach(connection, memory);
		}
	}
	fprintf(stderr, "xshm: there is no way %s\n", way);
	exit(2);
}

static void show(xcb_connection_t *connection, const xcb_screen_t *screen, const char *way)
{
	xcb_window_t window = create_window(connection, screen);
	xcb_gcontext_t context = xcb_generate_id(connection);
	xcb_create_gc(connection, context, window, 0, NULL);

	struct memory memory = {.segment = xcb_generate_id(connection)};
	bool shared = attach(connection, way, &memory);
	if (shared) {
		printf("attached\n");
	} else if (memory.pixels == NULL && (memory.pixels = malloc(SIZE)) == NULL) {
		fail("malloc");
	}
	for (uint32_t picture = 1; picture <= 2; picture++) {
		paint(memory.pixels, picture);
		if (shared) {
			xcb_shm_put_image(connection, window, context, SIDE, SIDE, 0, 0, SIDE, SIDE,
				0, 0, screen->root_depth, XCB_IMAGE_FORMAT_Z_PIXMAP, false,
				memory.segment, 0);
		} else {
			xcb_put_image(connection, XCB_IMAGE_FORMAT_Z_PIXMAP, window, context, SIDE,
				SIDE, 0, 0, 0, screen->root_depth, SIZE,
				(const uint8_t *)memory.pixels);
		}
		print_sum(connection, window);
	}
}

int main(int argc, char *argv[])
{
	xcb_connection_t *connection = xcb_connect(NULL, NULL);
	if (argc != 2 || xcb_connection_has_error(connection)) {
		fprintf(stderr, "usage: xshm fd|get|sysv, with DISPLAY\n");
		return 2;
	}
	// The server takes no other request of the extension before this one.
	free(xcb_shm_query_version_reply(connection, xcb_shm_query_version(connection), NULL));
	show(connection, xcb_setup_roots_iterator(xcb_get_setup(connection)).data, argv[1]);
	xcb_disconnect(connection);
	return 0;
}
