#define FUSE_USE_VERSION 35

#include "fdpass/fileserver.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "channel/channel.h"
#include "fdpass/fusemount.h"

#define OPEN_MS           1000
#define REQUESTS_PER_WAKE 32
#define MAX_BACKGROUND    256 // requests: a file whose reads wait must not stop the others
#define LONG_TIME         (365.0 * 24 * 3600) // seconds: nothing but the bytes ever changes

struct fileserver {
	struct event_base *base;
	struct fusemount mount;
	struct fuse_session *session; // NULL until a file is to be served
	struct fuse_buf buf;          // libfuse's
	struct event *readable;       // NULL until then
	bool failed;
	struct wl_list files; // served_file.link
	uint64_t last_number; // never used twice: the kernel remembers names and pages
};

/* ---- requests ---- */

static struct served_file *find(fuse_req_t req, uint64_t number)
{
	struct fileserver *server = fuse_req_userdata(req);
	struct served_file *file;
	wl_list_for_each (file, &server->files, link) {
		if (file->number == number) {
			return file;
		}
	}
	return NULL;
}

static void handle_init(void *data, struct fuse_conn_info *conn)
{
	(void)data;
	conn->max_write = CHANNEL_MAX_STREAM; // limits reads, too
	conn->max_background = MAX_BACKGROUND;
	conn->congestion_threshold = MAX_BACKGROUND;
	conn->want &= ~(unsigned int)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_SPLICE_READ |
		FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
}

static struct stat attributes_of(const struct served_file *file)
{
	return (struct stat){
		.st_ino = file->number,
		.st_mode = S_IFREG | 0444,
		.st_nlink = 1,
		.st_uid = geteuid(),
		.st_gid = getegid(),
		.st_size = (off_t)file->size,
		.st_blocks = (blkcnt_t)((file->size + 511) / 512),
		.st_blksize = CHANNEL_MAX_STREAM,
	};
}

static void handle_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct served_file *file = find(req, strtoull(name, NULL, 10));
	if (parent != FUSE_ROOT_ID || file == NULL) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	struct fuse_entry_param entry = {
		.ino = file->number,
		.attr = attributes_of(file),
		.attr_timeout = LONG_TIME,
		.entry_timeout = LONG_TIME,
	};
	fuse_reply_entry(req, &entry);
}

static void handle_getattr(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info)
{
	(void)info;
	struct served_file *file = find(req, number);
	struct stat st = {.st_ino = FUSE_ROOT_ID, .st_mode = S_IFDIR | 0555, .st_nlink = 2};
	if (file != NULL) {
		st = attributes_of(file);
	} else if (number != FUSE_ROOT_ID) {
		fuse_reply_err(req, ESTALE);
		return;
	}
	fuse_reply_attr(req, &st, LONG_TIME);
}

static void handle_open(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info)
{
	struct served_file *file = find(req, number);
	if (file == NULL || (info->flags & O_ACCMODE) != O_RDONLY) {
		fuse_reply_err(req, file == NULL ? ESTALE : EROFS);
		return;
	}
	info->keep_cache = 1;
	if (fuse_reply_open(req, info) == 0) { // else who asked is gone
		file->opens++;
	}
}

static void handle_release(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info)
{
	(void)info;
	struct served_file *file = find(req, number);
	fuse_reply_err(req, 0);
	if (file != NULL && --file->opens == 0) {
		file->interface->released(file);
	}
}

static void handle_read(
	fuse_req_t req, fuse_ino_t number, size_t size, off_t offset, struct fuse_file_info *info)
{
	(void)info;
	struct served_file *file = find(req, number);
	if (file == NULL || size == 0 || size > CHANNEL_MAX_STREAM) {
		fuse_reply_err(req, file == NULL ? ESTALE : EINVAL);
		return;
	}
	file->interface->read(file, req, (uint64_t)offset, (uint32_t)size);
}

static const struct fuse_lowlevel_ops operations = {
	.init = handle_init,
	.lookup = handle_lookup,
	.getattr = handle_getattr,
	.open = handle_open,
	.release = handle_release,
	.read = handle_read,
};

static void serve(struct fileserver *server)
{
	for (int i = 0; i < REQUESTS_PER_WAKE; i++) {
		if (fuse_session_receive_buf(server->session, &server->buf) <= 0) {
			break;
		}
		fuse_session_process_buf(server->session, &server->buf);
	}
	if (fuse_session_exited(server->session)) {
		event_del(server->readable); // somebody has aborted the connection
	}
}

static void handle_readable(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	serve(data);
}

/* ---- the file system ---- */

static void log_fuse(enum fuse_log_level level, const char *format, va_list args)
{
	char text[256];
	(void)level;
	vsnprintf(text, sizeof(text), format, args);
	text[strcspn(text, "\n")] = '\0';
	log_debug("libfuse: %s", text);
}

/* Takes dev. */
static struct fuse_session *create_session(struct fileserver *server, int dev)
{
	char name[] = "fdferry", path[32];
	char *argv[] = {name, NULL};
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	snprintf(path, sizeof(path), "/dev/fd/%d", dev); // which is mounted already
	fuse_set_log_func(log_fuse);
	struct fuse_session *session =
		fuse_session_new(&args, &operations, sizeof(operations), server);
	fuse_opt_free_args(&args);
	if (session == NULL) {
		close(dev);
		return NULL;
	}
	if (fuse_session_mount(session, path) < 0) {
		close(dev);
		fuse_session_destroy(session);
		return NULL;
	}
	return session;
}

struct fileserver *fileserver_create(struct event_base *base)
{
	if (access("/dev/fuse", R_OK | W_OK) < 0) {
		return NULL;
	}
	struct fileserver *server = calloc(1, sizeof(*server));
	if (server == NULL) {
		return NULL;
	}
	server->base = base;
	wl_list_init(&server->files);
	server->last_number = FUSE_ROOT_ID;
	if (fusemount_create(&server->mount) < 0) {
		free(server);
		return NULL;
	}
	return server;
}

/* Takes dev. */
static bool serve_device(struct fileserver *server, int dev)
{
	struct fuse_session *session = create_session(server, dev);
	if (session == NULL) {
		return false;
	}
	struct event *readable = event_new(server->base, fuse_session_fd(session),
		EV_READ | EV_PERSIST, handle_readable, server);
	if (readable == NULL || event_add(readable, NULL) < 0) {
		if (readable != NULL) {
			event_free(readable);
		}
		fuse_session_destroy(session);
		return false;
	}
	server->session = session;
	server->readable = readable;
	return true;
}

const char *fileserver_start(struct fileserver *server)
{
	if (server->session != NULL) {
		return NULL;
	}
	if (server->failed) {
		return "a file to be read on demand, for which FUSE cannot be mounted";
	}
	server->failed = true; // an answer that comes too late is no answer to the next question
	int dev = fusemount_start(&server->mount);
	if (dev < 0) {
		return dev == -ENOENT || dev == -ENODEV || dev == -ENXIO
			? "a file to be read on demand, for which there is no /dev/fuse"
			: "a file to be read on demand, for which FUSE cannot be mounted";
	}
	server->failed = !serve_device(server, dev);
	return server->failed ? "out of memory for a file to be read on demand" : NULL;
}

void fileserver_destroy(struct fileserver *server)
{
	if (server == NULL) {
		return;
	}
	assert(wl_list_empty(&server->files));
	if (server->session != NULL) {
		event_free(server->readable);
		// closes /dev/fuse: whoever reads gets ENOTCONN
		fuse_session_destroy(server->session);
	}
	fusemount_finish(&server->mount);
	free(server->buf.mem);
	free(server);
}

void fileserver_add(struct fileserver *server, struct served_file *file,
	const struct served_file_interface *interface, uint64_t size)
{
	*file = (struct served_file){
		.interface = interface,
		.server = server,
		.number = FD_SERVED_NUMBERS | ++server->last_number,
		.size = size,
	};
	wl_list_insert(&server->files, &file->link);
}

void fileserver_remove(struct served_file *file)
{
	wl_list_remove(&file->link);
}

/* ---- opening ---- */

/* Answers to calls that did not wait long enough are thrown away. */
static int take_answer(struct served_file *file)
{
	struct fusemount_answer answer = {0};
	int fd = fusemount_receive(&file->server->mount, &answer);
	if (fd < 0 && answer.number == 0) {
		return fd; // none yet, or the other process is gone
	}
	if (answer.number != file->number) {
		if (fd >= 0) {
			close(fd);
		}
		return -EAGAIN;
	}
	if (fd >= 0) {
		file->identity = answer.identity;
	}
	return fd;
}

/* The file is opened by the mount's process while its requests are answered here. */
static int wait_for_answer(struct served_file *file)
{
	struct fileserver *server = file->server;
	struct pollfd fds[] = {
		{.fd = server->mount.socket, .events = POLLIN},
		{.fd = fuse_session_fd(server->session), .events = POLLIN},
	};
	uint64_t now = channel_clock(), deadline = now + OPEN_MS * UINT64_C(1000000);
	while (now < deadline) {
		int left = (int)((deadline - now + 999999) / 1000000);
		int n = poll(fds, 2, left);
		if (n > 0 && fds[1].revents != 0) {
			serve(server);
		}
		int fd = n > 0 && fds[0].revents != 0 ? take_answer(file) : -EAGAIN;
		if (fd != -EAGAIN) {
			return fd;
		}
		if (fuse_session_exited(server->session)) {
			return -ENOTCONN;
		}
		now = channel_clock();
	}
	return -ETIMEDOUT;
}

int fileserver_open(struct served_file *file, uint64_t offset)
{
	int fd = fusemount_ask(&file->server->mount, file->number, offset);
	if (fd == 0) {
		file->opens++; // so that it is not released meanwhile
		fd = wait_for_answer(file);
		file->opens--;
	}
	return fd;
}

void fileserver_answer(struct fuse_req *req, const void *data, size_t len)
{
	fuse_reply_buf(req, data, len);
}

void fileserver_fail(struct fuse_req *req, int error)
{
	fuse_reply_err(req, error);
}
